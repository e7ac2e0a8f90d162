"""Latents: classes and ages that are there are detected, others are not; ways between latents."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import f_classif

from brainvq.errors import UserError
from brainvq.evaluation.latents import (
    TRAVERSAL_VALUES,
    class_dimensions,
    discriminate,
    interpolate,
    predict_age,
    traverse,
)

CLASSES = ("MS", "healthy", "leuko")


def scans(n, dim=12, seed=0, apart=4.0, repeats=1):
    """Latents of three classes whose means are `apart` along the first three dimensions."""
    rng = np.random.default_rng(seed)
    which = rng.permutation(np.arange(n) % 3)
    person = rng.normal(size=(n, dim))
    person[np.arange(n), which] += apart
    which, subjects = np.repeat(which, repeats), np.repeat(np.arange(n), repeats)
    latents = person[subjects] + 0.1 * rng.normal(size=(n * repeats, dim)) * (repeats > 1)
    return latents, np.array(CLASSES)[which], subjects + 1000 * seed


class TestDiscriminate:
    def test_separable_classes_are_told_apart(self):
        train, labels, _ = scans(90, apart=12)
        test, truth, _ = scans(30, seed=1, apart=12)
        result = discriminate(train, labels, test, truth, draws=200)
        assert result.classes == CLASSES
        assert list(result.table["class"]) == list(CLASSES)
        assert list(result.table["TP"]) == [10, 10, 10]
        assert (result.table[["FP", "FN"]] == 0).all(axis=None)
        assert (result.table[["precision", "recall", "recall_high"]] == 1).all(axis=None)
        # All ten are right: no more than that is known.
        np.testing.assert_allclose(result.table["recall_low"], 0.025**0.1)
        assert (result.summary["value"] == 1).all()
        assert result.components.shape == (30, 2)
        assert result.train_components.shape == (90, 2)
        assert result.explained.sum() == pytest.approx(1)
        np.testing.assert_array_equal(np.array(CLASSES)[result.labels], truth)

    def test_classes_that_are_not_there_are_at_chance(self):
        train, labels, _ = scans(150, dim=300, apart=0)
        test, truth, _ = scans(90, dim=300, seed=1, apart=0)
        summary = discriminate(train, labels, test, truth).summary.set_index("measure")
        assert summary["low"]["balanced_accuracy"] < 1 / 3 < summary["high"]["balanced_accuracy"]
        assert summary["low"]["auroc"] < 0.5 < summary["high"]["auroc"]
        assert summary["chance"]["balanced_accuracy"] == pytest.approx(1 / 3)

    def test_probabilities_are_those_of_scikit_learn(self):
        (train, labels, _), (test, truth, _) = scans(60, apart=1), scans(24, seed=1, apart=1)
        result = discriminate(train, labels, test, truth, draws=20)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        expected = model.fit(train, labels).predict_proba(test)
        np.testing.assert_allclose(result.probabilities, expected, atol=1e-8)

    def test_axes_are_those_of_fisher(self):
        (train, labels, _), (test, truth, _) = scans(60, apart=1), scans(24, seed=1, apart=1)
        result = discriminate(train, labels, test, truth, draws=20)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(train, labels)
        means = model.means_ - train.mean(axis=0)
        values, vectors = eigh(means.T @ np.diag(model.priors_) @ means, model.covariance_)
        axes = vectors[:, ::-1][:, :2]
        expected = (test - train.mean(axis=0)) @ axes
        np.testing.assert_allclose(np.abs(result.components), np.abs(expected), atol=1e-8)
        np.testing.assert_allclose(result.explained, values[::-1][:2] / values[-2:].sum())

    def test_only_training_scans_are_fitted(self):
        (train, labels, _), (test, truth, _) = scans(60), scans(24, seed=1)
        whole = discriminate(train, labels, test, truth, draws=20)
        part = discriminate(train, labels, test[:5], truth[:5], draws=20)
        np.testing.assert_allclose(part.probabilities, whole.probabilities[:5])
        np.testing.assert_allclose(part.components, whole.components[:5])

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 1000), st.floats(0, 3))
    def test_counts_add_up(self, seed, apart):
        train, labels, _ = scans(45, seed=seed, apart=apart)
        test, truth, subjects = scans(12, seed=seed + 1, apart=apart, repeats=2)
        result = discriminate(train, labels, test, truth, subjects=subjects, draws=50)
        table = result.table
        assert (table[["TP", "FP", "FN", "TN"]].sum(axis=1) == 24).all()
        assert table["TP"].sum() + table["FN"].sum() == 24
        assert table["FP"].sum() == table["FN"].sum()
        known = table.dropna()
        for name in ("precision", "recall"):
            assert (known[f"{name}_low"] <= known[name] + 1e-12).all()
            assert (known[f"{name}_high"] >= known[name] - 1e-12).all()
        np.testing.assert_allclose(result.probabilities.sum(axis=1), 1)

    def test_scans_of_a_subject_move_together(self):
        train, labels, _ = scans(60, apart=1.5)
        test, truth, subjects = scans(30, seed=1, apart=1.5, repeats=4)
        width = {}
        for name, given_subjects in (("scans", None), ("subjects", subjects)):
            result = discriminate(train, labels, test, truth, subjects=given_subjects).summary
            row = result.set_index("measure").loc["accuracy"]
            width[name] = row["high"] - row["low"]
        # Four nearly equal scans of each say little more than one.
        assert width["subjects"] > 1.6 * width["scans"]

    def test_pooled_by_subject(self):
        train, labels, _ = scans(60)
        test, truth, subjects = scans(12, seed=1, repeats=3)
        result = discriminate(train, labels, test, truth, subjects=subjects, pool=True, draws=50)
        assert result.table["subjects"].sum() == 12
        assert result.probabilities.shape == (12, 3)
        assert result.components.shape == (36, 2)
        np.testing.assert_array_equal(np.array(CLASSES)[result.labels], truth[::3])
        truth[0] = "MS" if truth[1] != "MS" else "leuko"
        with pytest.raises(UserError, match="subject 1000: found the classes"):
            discriminate(train, labels, test, truth, subjects=subjects, pool=True)

    def test_a_class_without_test_scans(self):
        (train, labels, _), (test, truth, _) = scans(60), scans(30, seed=1)
        rest = truth != "leuko"
        result = discriminate(train, labels, test[rest], truth[rest], draws=50)
        row = result.table.set_index("class").loc["leuko"]
        assert row["scans"] == row["TP"] == 0
        assert np.isnan(row["recall"])
        assert np.isnan(row["recall_low"])
        assert np.isfinite(result.summary[["value", "low", "high"]]).all(axis=None)

    def test_order_of_classes_and_priors(self):
        (train, labels, _), (test, truth, _) = scans(60, apart=1), scans(30, seed=1, apart=1)
        rare = (labels != "leuko") | (np.arange(60) < 15)
        order = ("leuko", "healthy", "MS")
        plain, balanced = (
            discriminate(
                train[rare], labels[rare], test, truth, classes=order, balanced=balanced, draws=20
            )
            for balanced in (False, True)
        )
        assert tuple(plain.table["class"]) == order
        recall = [
            result.table.set_index("class").loc["leuko", "recall"] for result in (plain, balanced)
        ]
        assert recall[1] > recall[0]

    def test_dead_dimensions_do_no_harm(self):
        (train, labels, _), (test, truth, _) = scans(60), scans(30, seed=1)
        dead = np.zeros((60, 5)), np.zeros((30, 5))
        one = discriminate(train, labels, test, truth, draws=20)
        two = discriminate(
            np.hstack([train, dead[0]]), labels, np.hstack([test, dead[1]]), truth, draws=20
        )
        assert np.isfinite(two.probabilities).all()
        assert np.mean(one.probabilities.argmax(1) == two.probabilities.argmax(1)) > 0.9

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"train_labels": ["a"] * 60}, UserError, "found only a in training"),
            ({"test_labels": ["new"] * 30}, UserError, "found new, which is not among"),
            ({"classes": ("MS", "healthy")}, UserError, "found leuko"),
            ({"test": np.zeros((30, 3))}, ValueError, "one dim"),
            ({"test": np.full((30, 12), np.nan)}, ValueError, "finite"),
            ({"test_labels": ["MS"]}, ValueError, "one class per scan"),
            ({"subjects": [1]}, ValueError, "one subject per scan"),
            ({"level": 2}, ValueError, "level"),
        ],
    )
    def test_bad_input(self, change, error, message):
        (train, labels, _), (test, truth, _) = scans(60), scans(30, seed=1)
        arguments = {"train": train, "train_labels": labels, "test": test, "test_labels": truth}
        with pytest.raises(error, match=message):
            discriminate(**{**arguments, "draws": 20, **change})


class TestDimensions:
    def test_f_is_that_of_scikit_learn(self):
        latents, labels, _ = scans(60, apart=1)
        dimensions = class_dimensions(latents, labels).sort_values("dimension")
        f, p = f_classif(latents, labels)
        np.testing.assert_allclose(dimensions["f"], f)
        np.testing.assert_allclose(dimensions["p"], p)
        assert set(class_dimensions(latents, labels)["dimension"][:3]) == {0, 1, 2}
        assert (dimensions["q"] >= dimensions["p"]).all()
        for name in CLASSES:
            np.testing.assert_allclose(
                dimensions[f"mean_{name}"], latents[labels == name].mean(axis=0)
            )
        share = f * 2 / (f * 2 + 57)
        np.testing.assert_allclose(dimensions["eta2"], share)

    def test_scans_of_a_subject_count_once(self):
        latents, labels, subjects = scans(30, apart=0, repeats=1)
        once = class_dimensions(latents, labels, subjects)
        often = class_dimensions(*(np.repeat(x, 10, axis=0) for x in (latents, labels, subjects)))
        pd.testing.assert_frame_equal(once, often)
        # Counted as subjects of their own, they would make noise significant.
        wrong = class_dimensions(*(np.repeat(x, 10, axis=0) for x in (latents, labels)))
        assert wrong["p"].min() < 1e-3 < often["p"].min()

    def test_a_dead_dimension_comes_last(self):
        latents, labels, _ = scans(30)
        latents[:, 4] = 7.0
        last = class_dimensions(latents, labels).iloc[-1]
        assert (last["dimension"], last["f"], last["p"], last["eta2"]) == (4, 0, 1, 0)

    def test_bad_input(self):
        latents, labels, _ = scans(9)
        with pytest.raises(UserError, match="found 1 classes of 9 subjects"):
            class_dimensions(latents, ["a"] * 9)
        with pytest.raises(UserError, match="more subjects than classes"):
            class_dimensions(latents[:3], ["a", "b", "c"])


class TestAge:
    def ages(self, n=80, dim=10, noise=2.0, seed=0):
        rng = np.random.default_rng(seed)
        latents = rng.normal(size=(n, dim))
        return latents, 50 + 10 * latents[:, 0] + noise * rng.normal(size=n)

    def test_an_age_that_is_there_is_read(self):
        latents, ages = self.ages()
        ages[:5] = np.nan
        regression = predict_age(latents, ages, draws=300)
        table = regression.table.set_index("measure")
        assert 1.2 < table["value"]["mae"] < 2.5
        assert table["value"]["r2"] > 0.9
        assert (table["low"] < table["value"]).all()
        assert (table["high"] > table["value"]).all()
        assert table["mean_age"]["mae"] > 6
        assert table["mean_age"]["r2"] < 0.01
        assert table["scans"].tolist() == [75, 75]
        np.testing.assert_array_equal(regression.rows, np.arange(5, 80))
        assert np.abs(regression.ages - regression.predicted).mean() == pytest.approx(
            table["value"]["mae"]
        )

    def test_noise_predicts_no_better_than_the_mean(self):
        latents, ages = self.ages(dim=60)
        noise = np.random.default_rng(5).normal(size=latents.shape)
        table = predict_age(noise, ages, draws=100).table.set_index("measure")
        assert table["value"]["r2"] < 0.1
        assert table["value"]["mae"] > 0.9 * table["mean_age"]["mae"]

    def test_a_subject_never_trains_and_tests(self):
        # Each subject has one latent of its own that tells its age, and nothing else does.
        rng = np.random.default_rng(0)
        subjects = np.repeat(np.arange(20), 4)
        ages = rng.uniform(20, 80, 20)[subjects]
        latents = np.eye(20)[subjects] + 0.01 * rng.normal(size=(80, 20))
        apart, leaking = (
            predict_age(latents, ages, s, draws=20).table.set_index("measure")["value"]["r2"]
            for s in (subjects, None)
        )
        assert apart < 0.1
        assert leaking > 0.9

    def test_bad_input(self):
        latents, ages = self.ages(8)
        with pytest.raises(UserError, match="found 3 different ages of 3 subjects"):
            predict_age(latents[:3], ages[:3])
        with pytest.raises(UserError, match="found 0 different ages of 0 subjects"):
            predict_age(latents, np.full(8, np.nan))
        with pytest.raises(UserError, match="found 1 different ages"):
            predict_age(latents, np.full(8, 50.0))
        with pytest.raises(UserError, match="folds: found 1"):
            predict_age(latents, ages, folds=1)
        with pytest.raises(ValueError, match="one age per scan"):
            predict_age(latents, ages[:4])
        assert len(predict_age(latents[:4], ages[:4], draws=10).predicted) == 4


VECTORS = st.lists(st.floats(-5, 5), min_size=6, max_size=6)


class TestWays:
    @settings(max_examples=60, deadline=None)
    @given(VECTORS, VECTORS, st.integers(2, 9))
    def test_ends_are_the_given_latents(self, first, second, steps):
        first, second = np.array(first), np.array(second)
        straight = interpolate(first, second, steps)
        assert straight.shape == (steps, 6)
        np.testing.assert_allclose(straight[[0, -1]], [first, second], atol=1e-12)
        np.testing.assert_allclose(straight, interpolate(second, first, steps)[::-1], atol=1e-12)
        np.testing.assert_allclose(np.diff(straight, 2, axis=0), 0, atol=1e-12)
        cosine = first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-300)
        if min(np.linalg.norm(first), np.linalg.norm(second)) > 1e-3 and cosine > -0.99:
            path = interpolate(first, second, steps, spherical=True)
            np.testing.assert_allclose(path[[0, -1]], [first, second], atol=1e-9)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10_000), st.integers(2, 40), st.integers(3, 9))
    def test_the_great_circle_keeps_the_norm_and_the_pace(self, seed, dim, steps):
        rng = np.random.default_rng(seed)
        first, second = rng.normal(size=(2, dim))
        second *= np.linalg.norm(first) / np.linalg.norm(second)
        path = interpolate(first, second, steps, spherical=True)
        np.testing.assert_allclose(np.linalg.norm(path, axis=1), np.linalg.norm(first))
        pace = np.linalg.norm(np.diff(path, axis=0), axis=1)
        np.testing.assert_allclose(pace, pace[0], rtol=1e-6)

    def test_a_right_angle_by_hand(self):
        path = interpolate([2, 0], [0, 2], 3, spherical=True)
        np.testing.assert_allclose(path[1], [np.sqrt(2), np.sqrt(2)])
        same = interpolate([1, 1], [2, 2], 3, spherical=True)
        np.testing.assert_allclose(same[1], [1.5, 1.5])

    def test_no_great_circle(self):
        with pytest.raises(ValueError, match="opposite"):
            interpolate([1, 2], [-2, -4], spherical=True)
        with pytest.raises(ValueError, match="no direction"):
            interpolate([0, 0], [1, 2], spherical=True)
        with pytest.raises(ValueError, match="steps 2 or more"):
            interpolate([0, 0], [1, 2], 1)
        with pytest.raises(ValueError, match="must be"):
            interpolate([0, 0], [1, 2, 3])

    def test_traversals_change_one_dimension(self):
        base = np.arange(5.0)
        traversal = traverse(base, [3, 1], [-1, 0, 1])
        assert traversal.shape == (2, 3, 5)
        for k, dimension in enumerate((3, 1)):
            np.testing.assert_array_equal(traversal[k, :, dimension], [-1, 0, 1])
            others = np.delete(traversal[k], dimension, axis=1)
            np.testing.assert_array_equal(others, np.tile(np.delete(base, dimension), (3, 1)))
        np.testing.assert_array_equal(base, np.arange(5.0))
        assert traverse(base, 2).shape == (1, len(TRAVERSAL_VALUES), 5)
        for wrong in ([5], [-1], [0.5]):
            with pytest.raises(ValueError, match="dimensions whole numbers"):
                traverse(base, wrong)


@pytest.mark.parametrize("labels", ["abc", "aab"])
def test_classes_whose_scans_do_not_differ_are_one_line(labels):
    train = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    if labels == "abc":
        train = np.arange(6.0).reshape(3, 2)
    with pytest.raises(UserError, match="expected two or more different scans of a class"):
        discriminate(train, list(labels), train, list(labels))
