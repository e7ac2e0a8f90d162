"""The audit raises an alarm for what was planted, and none where nothing is."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from sklearn.metrics import roc_auc_score

from brainvq.data.simulation import simulated_cohort
from brainvq.errors import UserError
from brainvq.evaluation import audit as module
from brainvq.evaluation.audit import bias_audit, predict_classes
from brainvq.evaluation.latents import discriminate
from brainvq.evaluation.metadata import (
    MetadataDesign,
    metadata_histograms,
    metadata_tables,
    remove_metadata,
)

COLUMNS = ["tr", "te", "pixel_bandwidth", "site", "manufacturer"]
SITES = {"A": (9.0, 0.09), "B": (5.0, 0.4), "C": (11.0, 0.14)}


def cohort(n=60, seed=0, follow=0.0, repeats=1):
    """Metadata of two classes; in the share `follow` of the subjects the class sets the site."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    site = np.where(
        rng.random(n) < follow, np.array(["A", "C"])[labels], rng.choice(list(SITES), n)
    )
    tr, te = np.array([SITES[name] for name in site]).T
    table = pd.DataFrame({"site": site, "tr": tr, "te": te, "weight": rng.normal(70, 9, n)})
    labels = np.array(["healthy", "MS"])[labels]
    rows = np.repeat(np.arange(n), repeats)
    subjects = np.array([f"sub-{i:03d}" for i in rows])
    return table.iloc[rows].reset_index(drop=True), labels[rows], subjects


def names(result):
    return {finding.name for finding in result.findings}


class TestAlarm:
    def test_a_planted_confound_is_found_and_named(self):
        table, labels, _ = cohort(follow=0.8)
        audit = bias_audit(table, labels)
        assert audit.alarm
        assert names(audit) == {"site differs", "tr differs", "te differs", "metadata tell class"}
        first = {finding.name: finding for finding in audit.findings}["te differs"]
        assert first.alarm
        assert first.measure == "V"
        assert first.effect > 0.4
        assert first.p < 0.05
        assert "te differs: median 0.14" in first.words
        assert "MS" in first.words
        row = audit.tests.set_index("test").loc["weight differs"]
        assert not row["found"]
        assert audit.subjects == 60

    def test_a_te_between_those_of_the_others_is_found(self):
        # Neither means nor ranks differ here: a test of location would see nothing.
        labels = np.repeat(["a", "b"], 30)
        te = np.r_[np.tile([0.1, 0.3], 15), np.full(30, 0.2)]
        audit = bias_audit({"te": te}, labels)
        assert names(audit) == {"te differs", "metadata tell class"}

    def test_metadata_missing_in_one_class_is_an_alarm(self):
        table, labels, _ = cohort()
        table["te"] = table["te"].where(labels == "MS")
        audit = bias_audit(table, labels)
        assert "te missing" in names(audit)
        words = next(f.words for f in audit.findings if f.name == "te missing")
        assert "te is unknown in 0 % of MS, 100 % of healthy" in words

    def test_what_no_column_tells_alone_is_told_by_all(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(300, 6))
        labels = (x.sum(axis=1) + rng.normal(size=300) > 0).astype(int)
        audit = bias_audit({f"c{i}": c for i, c in enumerate(x.T)}, labels)
        area = audit.tests.set_index("test").loc["metadata tell class"]
        assert area["found"]
        assert area["effect"] > 0.8

    def test_a_clean_cohort_is_quiet(self):
        # Holm's method promises at most 5 in 100; with these seeds there are fewer.
        alarms = sum(
            bias_audit(*cohort(40, seed)[:2], permutations=100, seed=seed).alarm
            for seed in range(100)
        )
        assert alarms <= 8

    def test_p_is_uniform_without_association(self):
        p = []
        for seed in range(150):
            rng = np.random.default_rng(seed)
            values, labels = rng.integers(0, 4, 30), rng.integers(0, 3, 30)
            p.append(module._association(values, labels, 59, rng)[1])
        for level in (0.1, 0.5):
            share = np.mean(np.array(p) <= level)
            assert share < level + 3 * np.sqrt(level * (1 - level) / len(p))

    def test_the_simulated_confound_and_its_absence(self):
        groups = {"healthy": 0.5, "MS": 0.5}
        confounded, clean = (
            simulated_cohort(48, "FLAIR", groups=groups, confound=confound, seed=3).table
            for confound in (True, False)
        )
        assert bias_audit(confounded[COLUMNS], confounded["group"]).alarm
        assert not bias_audit(clean[COLUMNS], clean["group"]).findings

    def test_scans_of_a_subject_count_once(self):
        # A subject of many scans must not look like many subjects.
        table, labels, subjects = cohort(16, 2, repeats=20)
        p = bias_audit(table, labels, subjects).tests.set_index("test")["p"]
        wrong = bias_audit(table, labels).tests.set_index("test")["p"]
        assert p["weight differs"] > 0.01
        assert wrong["weight differs"] < 0.01
        once = cohort(16, 2)
        pd.testing.assert_frame_equal(
            bias_audit(table, labels, subjects).tests, bias_audit(*once[:2]).tests
        )


class TestLatents:
    def latents(self, table, strength, seed=0):
        z = np.random.default_rng(seed).normal(size=(len(table), 8))
        z[:, 0] += strength * (table["site"] == "C")
        return z

    def test_latents_that_know_the_site_are_a_finding_without_alarm(self):
        table, labels, _ = cohort(90, 1)
        audit = bias_audit(table, labels, latents=self.latents(table, 4))
        assert {"latents tell site", "latents tell te"} <= names(audit)
        assert not audit.alarm
        assert set(audit.predictions["features"]) == {"metadata", "latents"}
        assert set(audit.predictions["target"]) == {"class", *table.columns}

    def test_latents_that_know_nothing_are_silent(self):
        table, labels, _ = cohort(90, 1)
        assert not bias_audit(table, labels, latents=self.latents(table, 0)).findings

    def test_what_metadata_explain_is_taken_out(self):
        table, labels, _ = cohort(400, follow=0.5)
        z = self.latents(table, 4)
        train, test = np.arange(400) < 240, np.arange(400) >= 240
        rest = remove_metadata(z[train], table[train], z[test], table[test])
        assert rest[0].shape == z[train].shape
        assert 0.1 < rest[2] < 0.5
        before, after = (
            discriminate(a, labels[train], b, labels[test], draws=200)
            .summary.set_index("measure")
            .loc["auroc"]
            for a, b in ((z[train], z[test]), rest[:2])
        )
        assert before["low"] > 0.65
        assert after["low"] < 0.55
        site = [
            predict_classes(x, table["site"][test], permutations=20).set_index("measure")["value"]
            for x in (z[test], rest[1])
        ]
        # The training scans know the mean of a site no better than they can.
        assert site[0]["auroc"] - 0.5 > 2 * (site[1]["auroc"] - 0.5)

    def test_a_disease_beside_the_scanner_stays(self):
        table, labels, _ = cohort(200)
        z = self.latents(table, 4)
        z[:, 3] += 3 * (labels == "MS")
        train, test = np.arange(200) < 120, np.arange(200) >= 120
        rest = remove_metadata(z[train], table[train], z[test], table[test])
        result = discriminate(rest[0], labels[train], rest[1], labels[test], draws=50)
        assert result.summary.set_index("measure")["value"]["auroc"] > 0.95

    def test_regression_is_fitted_on_training_scans_alone(self):
        table, _, _ = cohort(80)
        z = self.latents(table, 2)
        whole = remove_metadata(z[:60], table[:60], z[60:], table[60:])
        part = remove_metadata(z[:60], table[:60], z[60:65], table[60:65])
        np.testing.assert_allclose(part[0], whole[0])
        np.testing.assert_allclose(part[1], whole[1][:5])

    def test_all_of_it_is_taken_out_of_training_scans(self):
        table, _, _ = cohort(80)
        z = self.latents(table, 2)
        rest, _, _ = remove_metadata(z, table, z, table, penalty=0.0)
        design = MetadataDesign().fit(table).transform(table)
        np.testing.assert_allclose(rest.mean(axis=0), 0, atol=1e-10)
        np.testing.assert_allclose(design.T @ rest, 0, atol=1e-8)


class TestPredict:
    def test_separable_classes_and_noise(self):
        rng = np.random.default_rng(0)
        labels = np.repeat(["a", "b", "c"], 15)
        x = rng.normal(size=(45, 6))
        noise = predict_classes(x, labels, permutations=200).set_index("measure")
        assert (noise["p"] > 0.01).all()
        x[:, :3] += 8 * np.eye(3)[np.repeat(range(3), 15)]
        clear = predict_classes(x, labels, permutations=200).set_index("measure")
        assert (clear["value"] > 0.95).all()
        np.testing.assert_allclose(clear["p"], 1 / 201)
        assert clear["chance"].tolist() == [1 / 3, 0.5]
        assert (clear["permuted_95"] < clear["value"]).all()

    def test_equals_a_fit_of_each_fold(self):
        rng = np.random.default_rng(1)
        labels = rng.permutation(np.arange(40) % 3)
        x = rng.normal(size=(40, 5)) + labels[:, None] * [1, 0, 0, -1, 0]
        measured = predict_classes(x, labels, folds=4, permutations=1, seed=7)
        fold = module.subject_folds(np.arange(40), labels, 4, 7).fold
        scores, given = np.zeros((40, 3)), np.zeros(40, int)
        for number in range(4):
            train, test = fold != number, fold == number
            mean, spread = x[train].mean(axis=0), x[train].std(axis=0)
            a, b = (x[train] - mean) / spread, (x[test] - mean) / spread
            y = np.eye(3)[labels[train]]
            weights = np.linalg.solve(a.T @ a + 5 * np.eye(5), a.T @ y)
            centres = np.stack([(a @ weights)[labels[train] == c].mean(axis=0) for c in range(3)])
            scores[test] = b @ weights
            given[test] = ((scores[test][:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        recalls = [np.mean(given[labels == c] == c) for c in range(3)]
        areas = [roc_auc_score(labels == c, scores[:, c]) for c in range(3)]
        np.testing.assert_allclose(measured["value"], [np.mean(recalls), np.mean(areas)])

    def test_more_features_than_subjects(self):
        rng = np.random.default_rng(0)
        labels = np.arange(30) % 2
        x = rng.normal(size=(30, 400))
        x[:, :100] += labels[:, None]
        scores = predict_classes(x, labels, permutations=100)
        assert (scores["value"] > 0.9).all()

    def test_subjects_are_reduced_to_one_row(self):
        rng = np.random.default_rng(0)
        labels, x = np.arange(24) % 2, rng.normal(size=(24, 3))
        subjects = np.arange(24)
        once = predict_classes(x, labels, subjects, permutations=50)
        often = predict_classes(
            *(np.repeat(a, 5, axis=0) for a in (x, labels, subjects)), permutations=50
        )
        pd.testing.assert_frame_equal(once, often)
        assert (often["subjects"] == 24).all()

    def test_bad_input(self):
        x = np.zeros((6, 2))
        with pytest.raises(UserError, match="one subject"):
            predict_classes(x, list("aaaaab"))
        with pytest.raises(UserError, match="only the class"):
            predict_classes(x, list("aaaaaa"))
        with pytest.raises(ValueError, match="finite"):
            predict_classes(x * np.nan, list("aaabbb"))
        with pytest.raises(ValueError, match="permutations"):
            predict_classes(x, list("aaabbb"), permutations=0)
        # Nothing to learn from: chance, not a crash.
        scores = predict_classes(x, list("aaabbb"), permutations=20).set_index("measure")
        assert scores["value"]["auroc"] == 0.5
        assert scores["p"]["auroc"] == 1


class TestAssociation:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 4))
    def test_v_is_corrected_and_symmetric(self, seed, r, k):
        rng = np.random.default_rng(seed)
        values, labels = rng.integers(0, r, 50), rng.integers(0, k, 50)
        table = pd.crosstab(values, labels).to_numpy()
        v, p = module._association(values, labels, 20, rng)
        assert 0 <= v <= 1
        assert 0 < p <= 1
        if min(table.shape) > 1:
            r, k = table.shape
            square = chi2_contingency(table, correction=False).statistic / 50
            square = max(0, square - (r - 1) * (k - 1) / 49)
            least = min(r - (r - 1) ** 2 / 49, k - (k - 1) ** 2 / 49) - 1
            assert v == pytest.approx(np.sqrt(square / least))
            assert module._association(labels, values, 1, rng)[0] == pytest.approx(v)

    def test_one_and_none(self):
        labels = np.arange(40) % 2
        rng = np.random.default_rng(0)
        v, p = module._association(labels, labels, 100, rng)
        assert v == pytest.approx(1)
        assert p == 1 / 101
        assert module._association(np.zeros(40), labels, 100, rng) == (0, 1)

    def test_holm_by_hand(self):
        np.testing.assert_allclose(module._holm([0.01, 0.04, 0.03, 0.5]), [0.04, 0.09, 0.09, 0.5])
        np.testing.assert_allclose(module._holm([0.6, 0.7]), [1, 1])


class TestTables:
    TABLE = pd.DataFrame(
        {
            "te": [0.1, 0.3, np.nan, 0.1],
            "site": ["A", "", "B", "A"],
            "fat": [True, False, True, True],
        }
    )
    LABELS = ("MS", "MS", "healthy", "healthy")

    def test_numbers_and_shares_are_counted(self):
        numbers, shares = metadata_tables(self.TABLE, self.LABELS)
        row = numbers.set_index("class").loc["MS"]
        assert (row["column"], row["scans"], row["known"], row["different"]) == ("te", 2, 2, 2)
        assert row["mean"] == pytest.approx(0.2)
        assert (row["min"], row["max"]) == (0.1, 0.3)
        assert numbers.set_index("class")["known"]["healthy"] == 1
        by = shares.set_index(["column", "value", "class"])
        assert by.loc[("site", "unknown", "MS"), "share"] == 0.5
        assert by.loc[("site", "A", "healthy"), "scans"] == 1
        assert by.loc[("fat", "True", "healthy"), "share"] == 1
        totals = shares.groupby(["column", "class"])["share"].sum()
        np.testing.assert_allclose(totals, 1)

    def test_histograms_hold_every_known_scan(self):
        histograms = metadata_histograms(self.TABLE, self.LABELS, bins=4)
        assert histograms["te"].values is None
        assert histograms["te"].edges.shape == (5,)
        for histogram in histograms.values():
            for name in ("MS", "healthy"):
                assert histogram.counts[name].sum() + histogram.unknown[name] == 2
        assert histograms["site"].values == ("A", "B")
        assert histograms["site"].counts["MS"].tolist() == [1, 0]
        assert histograms["site"].unknown == {"MS": 1, "healthy": 0}

    def test_rare_categories_are_one(self):
        many = pd.DataFrame({"station": [f"s{i % 25}" for i in range(45)]})
        stations = metadata_histograms(many, ["a"] * 45)["station"]
        assert len(stations.values) == 21
        assert "other" in stations.values
        assert stations.counts["a"].sum() == 45
        design = MetadataDesign().fit(many)
        assert design.transform(many).shape == (45, 21)
        assert (design.transform(many).sum(axis=1) == 1).all()

    def test_the_design_knows_values_bins_and_gaps(self):
        design = MetadataDesign().fit(self.TABLE)
        x = design.transform(self.TABLE)
        # te: two values, unknown, and itself; site: A, B, unknown; fat: two.
        assert x.shape == (4, 9)
        new = pd.DataFrame({"te": [0.12], "site": ["Z"], "fat": [None]})
        assert design.transform(new)[0].sum() == pytest.approx(
            1 + (0.12 - 0.5 / 3) / np.std([0.1, 0.3, 0.1])
        )
        ages = pd.DataFrame({"age": np.linspace(20, 80, 50)})
        x = MetadataDesign().fit(ages).transform(ages)
        assert x.shape == (50, 6)
        np.testing.assert_array_equal(x[:, :5].sum(axis=0), 10)
        with pytest.raises(UserError, match="found no column 'te'; expected te, site, fat"):
            design.transform(ages)


class TestBadCohorts:
    def test_what_is_left_out_is_said(self):
        table, labels, _ = cohort(30)
        table = table.assign(modality="FLAIR", coil="", session=None)
        labels[0] = "lonely"
        audit = bias_audit(table, labels, permutations=20)
        assert audit.subjects == 29
        assert set(audit.notes) == {
            "classes of one subject: lonely",
            "modality: the same for all subjects",
            "coil: unknown for all subjects",
            "session: unknown for all subjects",
        }

    def test_a_subject_of_two_classes_counts_with_the_more_frequent(self):
        table, labels, subjects = cohort(20, repeats=3)
        labels[0] = "MS" if labels[0] == "healthy" else "healthy"
        audit = bias_audit(table, labels, subjects, permutations=20)
        assert audit.notes == ["1 scans of another class than most of their subject's"]
        assert audit.subjects == 20

    def test_nothing_that_varies(self):
        audit = bias_audit({"te": np.full(10, 0.1)}, np.arange(10) % 2, latents=np.zeros((10, 2)))
        assert audit.findings == []
        assert not audit.alarm
        assert len(audit.tests) == len(audit.predictions) == 0

    def test_a_site_of_one_subject(self):
        table, labels, _ = cohort(30)
        table.loc[0, "site"] = "D"
        audit = bias_audit(table, labels, latents=np.random.default_rng(0).normal(size=(30, 3)))
        assert "latents tell site" in set(audit.tests["test"])

    def test_errors(self):
        table, labels, _ = cohort(10)
        with pytest.raises(UserError, match="found no columns"):
            bias_audit(table[[]], labels)
        with pytest.raises(UserError, match="found 1 of two or more subjects"):
            bias_audit(table, ["a"] * 10)
        with pytest.raises(ValueError, match="one class per scan"):
            bias_audit(table, labels[:3])
        with pytest.raises(ValueError, match="one subject per scan"):
            bias_audit(table, labels, [1])
        with pytest.raises(ValueError, match="level"):
            bias_audit(table, labels, level=0)
        with pytest.raises(ValueError, match="features"):
            bias_audit(table, labels, latents=np.zeros((3, 2)))
