"""Scores and measures of anomalies against scikit-learn, brute force and cases known by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from brainvq.errors import UserError
from brainvq.evaluation import anomaly, lesion_scores


def brute_dice(truth, score):
    flagged = score[None] >= np.unique(score)[:, None]
    both = (flagged & truth).sum(axis=1)
    return (2 * both / (flagged.sum(axis=1) + truth.sum())).max()


def case(seed, n=600, levels=None, share=0.1):
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < share
    truth[0], truth[1] = True, False
    score = rng.gamma(2, 1, n).astype("float32") + truth
    if levels:
        score = np.floor(score * levels) / np.float32(levels)
    return truth, score.astype("float32")


def counted(cases, **options):
    lesions = lesion_scores.LesionScores(**options)
    for i, (truth, score) in enumerate(cases):
        lesions.add(f"s{i}", {"m": score}, truth, np.ones_like(truth), voxel_ml=0.01)
    return lesions


class TestMeasures:
    @settings(max_examples=40, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        levels=st.sampled_from([None, 1, 2, 8]),
        share=st.floats(0.01, 0.9),
    )
    def test_a_subject_equals_scikit_learn(self, seed, levels, share):
        truth, score = case(seed, 300, levels, share)
        row = counted([(truth, score)]).table().iloc[0]
        assert row["auroc"] == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
        assert row["average_precision"] == pytest.approx(
            average_precision_score(truth, score), abs=1e-12
        )
        assert row["best_dice"] == pytest.approx(brute_dice(truth, score), abs=1e-12)
        assert row["prevalence"] == truth.mean()
        assert row["lesion_ml"] == pytest.approx(truth.sum() / 100)

    def test_by_hand(self):
        # Scores 4 3 2 1, lesions at 4 and 2.
        measures = lesion_scores.curve_measures(np.array([1, 0, 1, 0]), np.array([0, 1, 0, 1]))
        assert measures["auroc"] == pytest.approx(3 / 4)
        assert measures["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
        assert measures["best_dice"] == pytest.approx(4 / 5)

    def test_no_lesion_and_only_lesion(self):
        assert all(
            np.isnan(v) for v in lesion_scores.curve_measures(np.zeros(2), np.ones(2)).values()
        )
        measures = lesion_scores.curve_measures(np.ones(2), np.zeros(2))
        assert np.isnan(measures["auroc"])
        assert measures["average_precision"] == measures["best_dice"] == 1


class TestPooled:
    @pytest.mark.parametrize("levels", [None, 4])
    @pytest.mark.parametrize("scale", [1e-4, 1, 30])
    def test_the_histogram_is_within_its_own_bound(self, levels, scale):
        cases = [case(seed, 3000, levels) for seed in range(3)]
        cases = [(truth, score * np.float32(scale)) for truth, score in cases]
        row = counted(cases).pooled().iloc[0]
        truth, score = map(np.concatenate, zip(*cases, strict=True))
        if levels is None:  # true ties cannot be told from two scores of one bin
            assert row["auroc_within"] < 1e-3
            assert row["average_precision_within"] < 5e-3
        for name, oracle in (
            ("auroc", roc_auc_score),
            ("average_precision", average_precision_score),
        ):
            assert abs(row[name] - oracle(truth, score)) <= row[f"{name}_within"] + 1e-12
        assert row["best_dice"] == pytest.approx(brute_dice(truth, score), abs=2e-3)
        assert row["prevalence"] == truth.mean()

    def test_healthy_subjects_count_in_pooled_only(self):
        truth, score = case(0)
        healthy = np.zeros_like(truth)
        alone, both = counted([(truth, score)]), counted([(truth, score), (healthy, score)])
        assert np.isnan(both.table()["average_precision"].iloc[1])
        assert both.summary()["n"].iloc[0] == 1
        assert both.summary()["average_precision"].iloc[0] == pytest.approx(
            alone.table()["average_precision"].iloc[0]
        )
        pooled = both.pooled()["average_precision"].iloc[0]
        assert pooled < alone.pooled()["average_precision"].iloc[0]

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.floats(0, 200, width=32), min_size=2, max_size=50))
    def test_bins_keep_the_order_and_the_stated_width(self, values):
        values = np.sort(np.array(values, "float32"))
        bins = lesion_scores._bin(values)
        assert (np.diff(bins) >= 0).all()
        lower = lesion_scores._bin_values()[bins]
        inside = values >= 2.0**-24
        assert (lower[inside] <= values[inside]).all()
        assert (values[inside] < lower[inside] * (1 + 2.0**-13)).all()
        assert (bins[values == 0] == 0).all()

    def test_out_of_range_scores_go_to_the_ends(self):
        bins = lesion_scores._bin(np.array([0, 1e-30, 2.0**-24, 1e30], "float32"))
        assert bins.tolist() == [0, 1, 1, lesion_scores._BINS - 1]


class TestCommonThreshold:
    def test_given_thresholds_are_exact(self):
        cases = [case(seed) for seed in range(2)]
        table = counted(cases, thresholds={"m": 2.5}).table()
        for (truth, score), row in zip(cases, table.itertuples(), strict=True):
            flagged = score >= 2.5
            expected = 2 * (flagged & truth).sum() / (flagged.sum() + truth.sum())
            assert row.dice == pytest.approx(expected)
            assert row.flagged_ml == pytest.approx(flagged.sum() / 100)
        assert (counted(cases, thresholds={"m": 99.0}).table()["dice"] == 0).all()

    def test_the_best_pooled_threshold_is_used_otherwise(self):
        cases = [case(seed, 20_000) for seed in range(2)]
        lesions = counted(cases)
        threshold = lesions.common_thresholds()["m"]
        truth, score = map(np.concatenate, zip(*cases, strict=True))
        flagged = score >= threshold
        dice = 2 * (flagged & truth).sum() / (flagged.sum() + truth.sum())
        assert dice == pytest.approx(brute_dice(truth[:400], score[:400]), abs=0.2)
        assert dice == pytest.approx(lesions.pooled()["best_dice"].iloc[0], abs=1e-3)
        for (truth, score), row in zip(cases, lesions.table().itertuples(), strict=True):
            flagged = score >= threshold
            expected = 2 * (flagged & truth).sum() / (flagged.sum() + truth.sum())
            assert row.dice == pytest.approx(expected, rel=0.02)
            assert row.dice <= row.best_dice + 1e-9

    def test_healthy_thresholds(self):
        score = np.arange(101.0).reshape(1, 1, 101)
        thresholds = anomaly.healthy_thresholds({"m": score}, np.ones(score.shape, bool), 0.9)
        assert thresholds == {"m": pytest.approx(90)}
        with pytest.raises(UserError, match="specificity"):
            anomaly.healthy_thresholds({"m": score}, np.ones(score.shape, bool), 1)


class TestTables:
    def test_summary_and_difference_to_the_baseline(self):
        lesions = lesion_scores.LesionScores()
        for seed in range(5):
            truth, score = case(seed)
            guess = np.random.default_rng(seed + 50).random(len(truth))
            lesions.add(f"s{seed}", {"intensity": guess, "m": score}, truth, np.ones_like(truth))
        table, summary = lesions.table(), lesions.summary(bootstrap=500)
        own = table[table["method"] == "m"]["average_precision"]
        row = summary.set_index("method").loc["m"]
        assert row["average_precision"] == pytest.approx(own.mean())
        assert row["average_precision_sd"] == pytest.approx(own.std())
        assert row["average_precision_low"] < own.mean() < row["average_precision_high"]
        gain = lesions.against("intensity", bootstrap=500).iloc[0]
        base = table[table["method"] == "intensity"]["average_precision"]
        assert gain["average_precision"] == pytest.approx(own.mean() - base.mean())
        assert gain["better"] == (own.to_numpy() > base.to_numpy()).sum() >= 4
        with pytest.raises(UserError, match="baseline"):
            lesions.against("pixel")

    def test_curves_end_where_they_must(self):
        truth, score = case(1, 5000)
        curve = counted([(truth, score)]).curves("m", points=100)
        assert len(curve["recall"]) <= 100
        assert curve["recall"][-1] == curve["false_positive_rate"][-1] == 1
        assert curve["precision"][-1] == pytest.approx(truth.mean())
        for name in ("recall", "false_positive_rate"):
            assert (np.diff(curve[name]) >= 0).all()
        area = np.trapezoid(
            np.append(0, curve["recall"]), np.append(0, curve["false_positive_rate"])
        )
        assert area == pytest.approx(roc_auc_score(truth, score), abs=0.01)

    def test_what_does_not_fit_is_refused(self):
        truth, score = case(0)
        area = np.ones_like(truth)
        lesions = counted([(truth, score)])
        with pytest.raises(UserError, match="added twice"):
            lesions.add("s0", {"m": score}, truth, area)
        with pytest.raises(UserError, match="lesion mask of"):
            lesions.add("s1", {"m": score}, truth[1:], area[1:])
        with pytest.raises(UserError, match="not finite or below 0"):
            lesions.add("s1", {"m": score - 100}, truth, area)
        with pytest.raises(UserError, match="empty"):
            lesions.add("s1", {"m": score}, ~area, ~area)
        with pytest.raises(ValueError, match="Received"):
            lesions.add("s1", {"other": score}, truth, area)
        assert len(lesions.table()) == 1

    def test_lesions_outside_the_brain_area_count_as_missed(self):
        truth = np.array([True, True, False, False])
        area = np.array([True, False, True, False])
        lesions = lesion_scores.LesionScores().add(
            "s", {"m": np.array([3.0, 0, 1, 9])}, truth, area
        )
        row = lesions.table().iloc[0]
        assert row["prevalence"] == pytest.approx(2 / 3)
        assert row["auroc"] == pytest.approx(0.5)


class TestScores:
    def test_direction_and_smoothing_of_the_pixel_error(self):
        x, restored = np.zeros((1, 9, 9, 1)), np.zeros((1, 9, 9, 1))
        x[0, 2, 2], restored[0, 6, 6] = 1, 1
        both = anomaly.pixel_error(x, restored)
        assert both.dtype == np.float32
        assert both[0, 2, 2] == both[0, 6, 6] == 1
        assert both.sum() == 2
        assert np.argwhere(anomaly.pixel_error(x, restored, "bright")).tolist() == [[0, 2, 2]]
        assert np.argwhere(anomaly.pixel_error(x, restored, "dark")).tolist() == [[0, 6, 6]]
        smooth = anomaly.pixel_error(x, x * 0, "bright", smooth=1)
        assert smooth.sum() == pytest.approx(1, abs=0.01)
        assert 0 < smooth[0, 2, 3] < smooth[0, 2, 2] < 1
        with pytest.raises(UserError, match="direction"):
            anomaly.pixel_error(x, restored, "left")
        with pytest.raises(UserError, match="smooth"):
            anomaly.pixel_error(x, restored, smooth=-1)
        with pytest.raises(ValueError, match="Received"):
            anomaly.pixel_error(x, restored[:, :3])

    def test_ssim_error_is_zero_where_nothing_differs(self):
        x = np.random.default_rng(0).random((1, 24, 24))
        changed = x.copy()
        changed[0, 18:, 18:] = 1 - changed[0, 18:, 18:]
        errors = anomaly.ssim_error(x, changed)
        assert np.abs(errors[0, :12, :12]).max() < 1e-6
        assert errors[0, 20:, 20:].min() > 0.5

    def test_ranks_are_those_of_scipy(self):
        x = np.round(np.random.default_rng(0).random((3, 8, 8)), 2)
        area = np.random.default_rng(1).random(x.shape) < 0.7
        expected = rankdata(x[area]) / area.sum()
        bright = anomaly.intensity_score(x, area, "bright")
        np.testing.assert_allclose(bright[area], expected, atol=1e-6)
        assert not bright[~area].any()
        dark = anomaly.intensity_score(x, area, "dark")
        np.testing.assert_allclose(dark[area], 1 - expected, atol=1e-6)
        both = anomaly.intensity_score(x, area, "both")
        np.testing.assert_allclose(both[area], np.abs(2 * expected - 1), atol=1e-6)
        mean = anomaly.combine({"a": x, "b": 7 * x**3}, area)
        np.testing.assert_allclose(mean, bright, atol=1e-6)
        with pytest.raises(ValueError, match="none"):
            anomaly.combine({}, area)

    def test_post_processing(self):
        score = np.zeros((7, 20, 20), "float32")
        score[3, 4, 4] = 1  # a single voxel
        score[1:6, 8:14, 8:14] = 2  # a lesion
        area = np.ones(score.shape, bool)
        cleaned = anomaly.post_process(score, area, median=3)
        assert cleaned[3, 4, 4] == 0
        assert (cleaned[2:5, 9:13, 9:13] == 2).all()
        eroded = anomaly.post_process(score + 1, area, erode=2)
        assert not eroded[:, :2].any()
        assert eroded[:, 2:-2, 2:-2].min() == 1
        outside = anomaly.post_process(score, score < 2)
        assert outside.max() == 1
        for bad in (2, -1, 1.5):
            with pytest.raises(UserError, match="median"):
                anomaly.post_process(score, area, median=bad)
        with pytest.raises(UserError, match="erode"):
            anomaly.post_process(score, area, erode=-1)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 1000), st.sampled_from([3, 5, 7]))
    def test_the_median_along_an_axis_is_the_median(self, seed, side):
        score = np.random.default_rng(seed).random((2, 9, 3)).astype("float32")
        padded = np.pad(score, ((0, 0), (side // 2, side // 2), (0, 0)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, side, axis=1)
        np.testing.assert_array_equal(
            anomaly._median_along(score, side, 1), np.median(windows, axis=-1)
        )

    def test_brain_and_fluid(self):
        x = np.zeros((2, 20, 20))
        x[:, 3:17, 3:17] = 0.5
        x[:, 5:9, 5:15] = 1.0
        x[:, 12:14, 8:12] = 0.01  # fluid, as dark as the background
        area = anomaly.brain_area(x)
        assert area.sum() == 2 * 14 * 14
        assert anomaly.fluid_area(x, area).sum() == 2 * 2 * 4
        assert not anomaly.fluid_area(np.ones_like(x), area).any()
        with pytest.raises(UserError, match="fraction"):
            anomaly.brain_area(x, 1)


class TestDepth:
    @staticmethod
    def ball(spacing):
        """A ball of 40 mm, its depth by hand, and a bright place inside and one at the rim."""
        sizes = [int(96 / mm) for mm in spacing]
        steps = [(np.arange(n) - n / 2) * mm for n, mm in zip(sizes, spacing, strict=True)]
        radius = np.sqrt(sum(x**2 for x in np.meshgrid(*steps, indexing="ij")))
        brain = radius < 40
        image = np.random.default_rng(0).normal(0.5, 0.05, brain.shape) * brain
        inside, rim = (
            np.isclose(np.sqrt((steps[0][:, None, None] - at) ** 2
                + steps[1][:, None] ** 2 + steps[2] ** 2), 0, atol=4) & brain
            for at in (0, 36)
        )  # fmt: skip
        image[inside | rim] += 0.2
        return image, brain, inside, rim

    @pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (6.0, 1.5, 1.5)])
    def test_what_is_bright_inside_is_above_what_is_at_the_rim(self, spacing):
        image, brain, inside, rim = self.ball(spacing)
        score = anomaly.depth_score(image[..., None], brain, spacing)
        assert score.dtype == np.float32
        assert not score[~brain].any()
        assert score[inside].mean() > max(3, 1.25 * score[rim].mean())
        dark = anomaly.depth_score(1 - image, brain, spacing, "dark")
        np.testing.assert_allclose(dark, score, atol=1e-4)
        # Neither gain nor offset of the scanner matters.
        np.testing.assert_allclose(
            anomaly.depth_score(70 * image + 9, brain, spacing), score, atol=1e-3
        )

    def test_by_hand(self):
        image, brain, *_ = self.ball((2.0, 2.0, 2.0))
        found = anomaly.depth_score(
            image, brain, (2.0, 2.0, 2.0), "both", depth_smooth=0, depth_weight=2, depth_reach=5
        )
        values = image[brain]
        spread = 1.4826 * np.median(np.abs(values - np.median(values)))
        place = (24, 24, 30)  # 12 mm from the middle: the nearest voxel outside is 28 mm away
        z = np.abs(image[place] - 0.5) / spread
        assert found[place] == pytest.approx(max(z - 2 * np.exp(-28 / 5), 0), abs=0.35)
        assert not anomaly.depth_score(image, np.zeros_like(brain), (2, 2, 2)).any()
        assert not anomaly.depth_score(brain * 0.5, brain, (2, 2, 2)).any()

    @pytest.mark.parametrize(
        "wrong",
        [{"depth_smooth": -1}, {"depth_weight": np.nan}, {"depth_reach": 0}, {"direction": "up"}],
    )
    def test_what_is_wrong_is_named(self, wrong):
        with pytest.raises(UserError, match="depth|direction"):
            anomaly.depth_score(np.ones((2, 4, 4)), np.ones((2, 4, 4), bool), (1, 1, 1), **wrong)


class TestMaps:
    @pytest.fixture
    def scan(self):
        rng = np.random.default_rng(0)
        x = np.zeros((3, 32, 32), "float32")
        x[:, 4:28, 4:28] = 0.6
        x[:, 4:8, 4:28] = 0.1
        restored = x.copy()
        x[1, 16:20, 16:20] = 0.4
        x += rng.normal(0, 0.01, x.shape).astype("float32") * (x > 0)
        evidence = {
            "reconstruction": restored,
            "surprise": 5 * np.abs(x - restored),
            "darker": np.maximum(restored - x, 0),
            "brighter": np.maximum(x - restored, 0),
        }
        return x, evidence, anomaly.brain_area(x)

    def test_all_maps_with_a_prior(self, scan):
        x, evidence, area = scan
        scores = anomaly.score_maps(x[..., None], evidence, area, direction="dark", median=0)
        assert list(scores) == [
            "intensity", "pixel", "ssim", "surprise", "restoration", "combined",
        ]  # fmt: skip
        for name, score in scores.items():
            assert score.dtype == np.float32
            assert score.shape == x.shape
            assert not score[~area].any()
            assert not score[:, 4:8].any(), "fluid"
            lesion, rest = score[1, 16:20, 16:20], score[0, 10:25, 10:25]
            assert lesion.mean() > rest.mean(), name
        with_fluid = anomaly.score_maps(
            x, evidence, area, direction="dark", median=0, erode=0, without_fluid=False
        )
        assert with_fluid["intensity"][:, 4:8, 4:28].min() > 0.5
        bright = anomaly.score_maps(x, evidence, area, direction="bright", median=0)
        assert bright["restoration"][1, 16:20, 16:20].max() < 0.02

    def test_depth_needs_to_know_mm(self, scan):
        x, evidence, area = scan
        scores = anomaly.score_maps(x, evidence, area, spacing=(3, 1, 1), direction="dark")
        wanted = anomaly.depth_score(x, area, (3, 1, 1), "dark")
        np.testing.assert_array_equal(
            scores["depth"], np.where(anomaly.fluid_area(x, area), 0, wanted)
        )

    def test_without_a_prior(self, scan):
        x, evidence, area = scan
        scores = anomaly.score_maps(x, {"reconstruction": evidence["reconstruction"]}, area)
        assert list(scores) == ["intensity", "pixel", "ssim"]
        with pytest.raises(UserError, match="combined"):
            anomaly.score_maps(x, evidence, area, combined=("pixels",))
