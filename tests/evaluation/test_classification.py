"""Folds never split a subject; measures are those of scikit-learn; intervals cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from brainvq.errors import UserError
from brainvq.evaluation import (
    bootstrap_interval,
    chance_level,
    class_table,
    classification_measures,
    compare_methods,
    confusion_matrix,
    paired_differences,
    pool_by_subject,
    subject_folds,
)


def draw(n=40, classes=2, seed=0, signal=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    logits = rng.normal(size=(n, classes)) + signal * np.eye(classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


class TestFolds:
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.integers(2, 9), min_size=2, max_size=4),
        st.integers(2, 6),
        st.integers(0, 1000),
        st.randoms(use_true_random=False),
    )
    def test_every_subject_is_tested_exactly_once_and_classes_are_shared_out(
        self, sizes, folds, seed, random
    ):
        samples = [
            (f"s{value}-{number}", value)
            for value, size in enumerate(sizes)
            for number in range(size)
            for _ in range(random.randint(1, 4))
        ]
        random.shuffle(samples)
        subjects, labels = map(np.array, zip(*samples, strict=True))
        dealt = subject_folds(subjects, labels, folds, seed)
        assert dealt.count == min(folds, *sizes)
        assert bool(dealt.note) == (dealt.count < folds)
        per_fold = [set(subjects[dealt.fold == fold]) for fold in range(dealt.count)]
        assert sum(map(len, per_fold)) == len(set.union(*per_fold)) == sum(sizes)
        counts = np.array(list(map(len, per_fold)))
        assert counts.max() - counts.min() <= 1
        for value in range(len(sizes)):
            held = [sum(name.startswith(f"s{value}-") for name in fold) for fold in per_fold]
            assert max(held) - min(held) <= 1
            assert 1 <= min(held) <= max(held) < sizes[value]
        order = np.array(random.sample(range(len(samples)), len(samples)))
        again = subject_folds(subjects[order], labels[order], folds, seed)
        np.testing.assert_array_equal(again.fold, dealt.fold[order])

    def test_the_seed_matters(self):
        subjects, labels = np.arange(40), np.arange(40) % 2
        first, second = (subject_folds(subjects, labels, 5, seed).fold for seed in (0, 1))
        assert np.any(first != second)

    def test_the_note_names_the_class(self):
        dealt = subject_folds(range(7), ["a"] * 4 + ["b"] * 3, 5)
        assert dealt.note == "3 folds in place of 5, because class b has 3 subjects"

    @pytest.mark.parametrize(
        ("subjects", "labels", "folds", "message"),
        [
            ("abc", "xxx", 2, "only the class x"),
            ("", "", 2, "no subjects"),
            ("abc", "xxy", 2, "class y has one subject"),
            ("aabc", "xyxy", 2, "subject a is in the classes x, y"),
            ("abcd", "xyxy", 1, "folds: found 1"),
        ],
    )
    def test_bad_cohorts(self, subjects, labels, folds, message):
        with pytest.raises(UserError, match=message):
            subject_folds(list(subjects), list(labels), folds)


def test_pooling_is_the_mean_of_each_subject():
    pooled = pool_by_subject([[0.2, 0.8], [1.0, 0.0], [0.4, 0.6]], ["b", "a", "b"])
    assert list(pooled.index) == ["a", "b"]
    np.testing.assert_allclose(pooled.to_numpy(), [[1.0, 0.0], [0.3, 0.7]])


@pytest.mark.parametrize("classes", [2, 3])
def test_measures_are_those_of_scikit_learn(classes):
    labels, p = draw(classes=classes)
    p = np.round(p, 1) + 0.01  # ties
    p /= p.sum(axis=1, keepdims=True)
    measures = classification_measures(labels, p)
    guess = p.argmax(axis=1)
    area = (
        metrics.roc_auc_score(labels, p[:, 1])
        if classes == 2
        else metrics.roc_auc_score(labels, p, multi_class="ovr", average="macro")
    )
    expected = {
        "accuracy": metrics.accuracy_score(labels, guess),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, guess),
        "auroc": area,
        "log_loss": metrics.log_loss(labels, p),
    }
    assert measures == pytest.approx(expected)
    np.testing.assert_array_equal(
        confusion_matrix(labels, p), metrics.confusion_matrix(labels, guess)
    )
    table = class_table(labels, p, range(classes))
    precision, recall, _, support = metrics.precision_recall_fscore_support(labels, guess)
    np.testing.assert_allclose(table["precision"], precision)
    np.testing.assert_allclose(table["recall"], recall)
    np.testing.assert_array_equal(table["subjects"], support)
    assert (table[["TP", "FP", "FN", "TN"]].sum(axis=1) == len(labels)).all()


def test_repeats_are_averaged():
    labels, p = draw()
    other = draw(seed=1)[1]
    one, two = classification_measures(labels, p), classification_measures(labels, other)
    both = classification_measures(labels, np.stack([p, other]))
    assert both == pytest.approx({name: (one[name] + two[name]) / 2 for name in one})


def test_perfect_and_constant_scores():
    labels = np.array([0, 0, 1, 1])
    perfect = classification_measures(labels, np.eye(2)[labels])
    assert perfect == pytest.approx(
        {"accuracy": 1, "balanced_accuracy": 1, "auroc": 1, "log_loss": 0}
    )
    assert classification_measures(labels, np.full((4, 2), 0.5))["auroc"] == 0.5
    assert bootstrap_interval(labels, np.eye(2)[labels]) == (1.0, 1.0)
    wrong = classification_measures(labels, np.eye(2)[1 - labels])
    assert np.isfinite(wrong["log_loss"])


def test_a_class_never_given_has_no_precision():
    labels = np.array([0, 1, 1])
    table = class_table(labels, np.tile([0.9, 0.1], (3, 1)), ["a", "b"])
    assert np.isnan(table["precision"][1])
    assert list(table["recall"]) == [1, 0]


def test_chance_level_is_that_of_the_baseline():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    chance = chance_level(labels)
    shares = np.tile([0.6, 0.3, 0.1], (10, 1))
    assert chance == pytest.approx(classification_measures(labels, shares))


class TestIntervals:
    def test_an_accuracy_has_the_interval_of_the_binomial(self):
        labels = np.zeros(100, int)
        labels[50:] = 1
        right = np.tile(np.arange(50) < 35, 2)
        p = np.eye(2)[np.where(right, labels, 1 - labels)]
        low, high = bootstrap_interval(labels, p, "accuracy", draws=4000)
        width = 1.96 * np.sqrt(0.7 * 0.3 / 100)
        assert low == pytest.approx(0.7 - width, abs=0.02)
        assert high == pytest.approx(0.7 + width, abs=0.02)

    def test_nineteen_of_twenty_intervals_hold_the_true_area(self):
        # Two classes of unit variance, their means one apart: the area is Φ(1 / √2).
        truth, held = 0.7602, 0
        for seed in range(100):
            rng = np.random.default_rng(seed)
            labels = np.arange(80) % 2
            score = 1 / (1 + np.exp(-(rng.normal(size=80) + labels)))
            low, high = bootstrap_interval(
                labels, np.stack([1 - score, score], axis=1), draws=400, seed=seed
            )
            held += low <= truth <= high
        assert 88 <= held <= 100

    def test_a_wider_level_holds_a_narrower_one(self):
        labels, p = draw()
        narrow, wide = (bootstrap_interval(labels, p, level=level) for level in (0.5, 0.95))
        assert wide[0] < narrow[0] < narrow[1] < wide[1]

    def test_paired_differences_are_tighter_than_the_methods_apart(self):
        labels, p = draw(signal=1.0)
        close = p**1.1 / (p**1.1).sum(axis=1, keepdims=True)
        low, high = bootstrap_interval(labels, p, "log_loss", other=close)
        alone = bootstrap_interval(labels, p, "log_loss")
        assert high - low < 0.5 * (alone[1] - alone[0])
        assert bootstrap_interval(labels, p, other=p) == (0.0, 0.0)
        table = paired_differences(labels, {"a": p, "b": close}, "a")
        row = table[table["measure"] == "log_loss"].iloc[0]
        assert (row["low"], row["high"]) == pytest.approx((-high, -low))
        expected = (
            classification_measures(labels, close)["log_loss"]
            - classification_measures(labels, p)["log_loss"]
        )
        assert row["difference"] == pytest.approx(expected)

    def test_table_of_methods(self):
        labels, p = draw()
        table = compare_methods(labels, {"a": p, "b": np.stack([p, p])}, draws=200)
        first, second = (table[table["method"] == name].iloc[:, 1:] for name in "ab")
        np.testing.assert_allclose(first.iloc[:, 1:], second.iloc[:, 1:].to_numpy())
        assert (table["low"] <= table["value"]).all()
        assert (table["value"] <= table["high"]).all()
        area = table[table["measure"] == "auroc"].iloc[0]
        assert (area["low"], area["high"]) == bootstrap_interval(labels, p, draws=200)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y, p: bootstrap_interval(y, p, "f1"), "measure=f1"),
        (lambda y, p: bootstrap_interval(y, p, level=1.0), "level=1.0"),
        (lambda y, p: bootstrap_interval(y, p, draws=0), "draws=0"),
        (lambda y, p: classification_measures(y[1:], p), r"\(40, 2\) and \(39,\)"),
        (lambda y, p: classification_measures(y + 1, p), "labels="),
        (lambda y, p: classification_measures(y * 0.5, p), "labels="),
        (lambda y, p: paired_differences(y, {"a": p}, "b"), "reference=b"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(*draw())
