"""Measures of bundles against dipy, cases known by hand and invariants."""

import numpy as np
import pandas as pd
import pytest
from dipy.segment.bundles import bundle_shape_similarity
from dipy.tracking.streamline import set_number_of_points
from hypothesis import given, settings
from hypothesis import strategies as st

from brainvq.errors import UserError
from brainvq.evaluation import bundles
from brainvq.evaluation.bundle_classes import classify_bundles
from brainvq.evaluation.bundle_shapes import shape_statistics, shape_table
from brainvq.evaluation.bundles import (
    area_under,
    buan,
    buan_mm,
    bundle_distance,
    bundle_table,
    channel_spread,
    closest_point_distance,
    hausdorff,
    mdf,
    mean_over_bundles,
    mean_point_distance,
    mse,
    resample,
    robustness,
    sample_table,
)
from brainvq.evaluation.codes import code_histograms, depth_usage


def curves(n, points=32, seed=0, step=0.02):
    """Smooth random streamlines, float32 `(n, points, 3)`."""
    rng = np.random.default_rng(seed)
    turns = np.cumsum(rng.normal(0, 0.15, (n, points, 3)), axis=1) + rng.normal(size=(n, 1, 3))
    steps = step * turns / np.linalg.norm(turns, axis=-1, keepdims=True)
    start = rng.uniform(-0.3, 0.3, (n, 1, 3))
    return (start + np.cumsum(steps, axis=1)).astype("float32")


def lines(offsets, points=11):
    """Straight streamlines of length 1 along x, each moved along y by an offset."""
    streamlines = np.zeros((len(offsets), points, 3))
    streamlines[..., 0] = np.linspace(0, 1, points)
    streamlines[..., 1] = np.asarray(offsets)[:, None]
    return streamlines


def by_dipy(a, b, threshold, clust_thr=(0,)):
    a, b = (list(np.asarray(x, "float32")) for x in (a, b))
    rng = np.random.default_rng(0)
    return bundle_shape_similarity(a, b, rng, clust_thr=list(clust_thr), threshold=threshold)


class TestBuan:
    @pytest.mark.parametrize("noise", [0.0, 0.01, 0.03, 0.1])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_equals_dipy(self, noise, seed):
        rng = np.random.default_rng(seed)
        a = curves(40, seed=seed)
        b = (
            a[:30]
            + noise * rng.normal(size=(30, 1, 3))
            + 0.2 * noise * rng.normal(size=(30, 32, 3))
        )
        b = b.astype("float32")
        b[::3] = b[::3, ::-1]
        assert buan(a, b) == pytest.approx(by_dipy(a, b, 0.05), abs=1e-12)

    def test_equal_streamlines_count_once_as_in_dipy(self):
        a = curves(8)
        b = np.concatenate([a[:1].repeat(2, axis=0), a[4:6] + 0.5])
        assert buan(a, b) == pytest.approx(by_dipy(a, b, 0.05))
        assert buan(a, b) == 0.5 * (1 / 8 + 1 / 3)

    def test_equals_dipy_with_other_counts_of_points(self):
        a, b = curves(12, 64, step=0.01), curves(12, 25, step=0.01 * 63 / 24)
        assert buan(a, b, 0.1) == pytest.approx(by_dipy(a, b, 0.1))

    def test_by_hand(self):
        assert buan(lines([0.0, 1.0]), lines([0.04])) == 0.5 * (1 / 2 + 1)
        assert buan(lines([0.0]), lines([0.06])) == 0
        assert buan(lines([0.0]), lines([0.06]), threshold=0.07) == 1
        assert buan(lines([]), lines([0.0])) == 0

    def test_clusters_in_mm(self):
        a = 100 * curves(20)
        b = a + np.random.default_rng(0).normal(0, 3, (20, 1, 3))
        assert buan_mm(a, b) == pytest.approx(by_dipy(a, b, 6.0, (5, 3, 1.5)))
        assert buan_mm(a, a) == 1
        # Clusters of 5 cm hold all of it: one centre against one.
        assert buan(a, a, 6.0, (500.0,)) == 1

    def test_chunks_change_nothing(self, monkeypatch):
        a, b = curves(17), curves(23, seed=1)
        whole = buan(a, b, 0.2)
        monkeypatch.setattr(bundles, "CHUNK", 50)
        assert buan(a, b, 0.2) == whole

    def test_broken_streamlines_are_near_none(self):
        a = curves(4)
        b = a.copy()
        b[0, 3] = np.nan
        assert buan(a, b) == 0.75
        assert buan(a, np.full_like(a, np.nan)) == 0
        assert buan_mm(100 * a, 100 * np.full_like(a, np.nan)) == 0

    def test_refused(self):
        with pytest.raises(ValueError, match="Received: shape"):
            buan(np.zeros((3, 1, 3)), curves(2))

    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 10**6), st.floats(0, 0.2))
    def test_properties(self, seed, noise):
        rng = np.random.default_rng(seed)
        a = curves(9, seed=seed)
        b = a + noise * rng.normal(size=(9, 1, 3))
        similarity = buan(a, b)
        assert 0 <= similarity <= 1
        assert buan(a, a) == 1
        assert buan(b, a) == similarity
        assert buan(a[::-1], b[rng.permutation(9)]) == similarity
        flip = rng.random(9) < 0.5
        assert buan(np.where(flip[:, None, None], a[:, ::-1], a), b) == similarity
        assert buan(a, b, 0.1) >= similarity


class TestDistances:
    def test_resample_equals_dipy(self):
        a = curves(5, 40)
        expected = [set_number_of_points(x.astype("float64"), nb_points=20) for x in a]
        np.testing.assert_allclose(resample(a, 20), expected, atol=1e-7)
        np.testing.assert_allclose(resample(lines([0.0], 3), 5)[0, :, 0], [0, 0.25, 0.5, 0.75, 1])
        assert not resample(np.zeros((1, 4, 3)), 5).any()  # a point has no length

    def test_by_hand(self):
        a, b = lines([0.0, 0.0]), lines([0.3, 0.0])
        b[1] = b[1, ::-1]
        np.testing.assert_allclose(mse(a, b)[0], 0.03)
        np.testing.assert_allclose(mean_point_distance(a, b), [0.3, 60 / 110])
        np.testing.assert_allclose(closest_point_distance(a, b), [0.3, 0], atol=1e-12)
        np.testing.assert_allclose(hausdorff(a, b), [0.3, 0], atol=1e-12)
        np.testing.assert_allclose(mdf(a, b), [[0.3, 0], [0.3, 0]], atol=1e-12)

    def test_one_point_away(self):
        a = lines([0.0])
        b = a.copy()
        b[0, 5, 2] = 0.09  # nearer to its own place than to its neighbours'
        assert hausdorff(a, b)[0] == pytest.approx(0.09)
        assert closest_point_distance(a, b)[0] == pytest.approx(0.09 / 11)

    def test_stacks(self):
        a, b = curves(12).reshape(3, 4, 32, 3), curves(12, seed=1).reshape(3, 4, 32, 3)
        for measure in (mse, mean_point_distance, closest_point_distance, hausdorff):
            assert measure(a, b).shape == (3, 4)
            np.testing.assert_allclose(measure(a, b)[1], measure(a[1], b[1]))
            assert not measure(a, a).any()
            np.testing.assert_allclose(measure(a, b), measure(b, a))
        with pytest.raises(ValueError, match="alike"):
            mse(a, b[:2])

    def test_of_bundles(self):
        a = curves(6)
        assert bundle_distance(a, a[::-1, ::-1]) == 0
        assert bundle_distance(lines([0.0]), lines([0.3])) == pytest.approx(0.3)
        assert bundle_distance(lines([0.0, 0.3]), lines([0.3])) == pytest.approx(0.075)
        with pytest.raises(ValueError, match="empty"):
            bundle_distance(a, a[:0])


class TestTables:
    REAL = np.stack([lines([0.0, 0.2, 0.4, 0.0]), lines([0.0, 0.2, 0.4, 0.6])] * 2)
    NAMES = ("PYT_L", "MCP", "PYT_L", "MCP")

    def test_only_real_streamlines_count(self):
        generated = self.REAL.copy()
        generated[:, 3] += 7.0
        table = bundle_table(self.REAL, generated, self.NAMES, [3, 3, 3, 3], scale_mm=100)
        assert table["bundle"].tolist() == ["PYT_L", "MCP"]
        assert table["samples"].tolist() == [2, 2]
        assert table["streamlines"].tolist() == [6, 6]
        assert (table[["buan", "buan_mm"]] == 1).all(axis=None)
        assert (table[["mse", "distance", "closest_mm", "buan_sd"]] == 0).all(axis=None)
        assert bundle_table(self.REAL, generated, self.NAMES)["buan"].max() < 1

    def test_values(self):
        generated = self.REAL.copy()
        generated[0] += [0, 0, 0.03]
        generated[2, 0] += [0, 0, 0.1]
        samples = sample_table(self.REAL, generated, self.NAMES, scale_mm=100)
        np.testing.assert_allclose(samples["distance"], [0.03, 0, 0.025, 0], atol=1e-12)
        np.testing.assert_allclose(samples["distance_mm"], 100 * samples["distance"])
        table = bundle_table(self.REAL, generated, self.NAMES, scale_mm=100)
        np.testing.assert_allclose(table["distance"], [0.0275, 0], atol=1e-12)
        np.testing.assert_allclose(table["distance_sd"], [0.005 / np.sqrt(2), 0], atol=1e-12)
        assert mean_over_bundles(table)["distance"] == pytest.approx(0.01375)
        assert "buan_mm" not in bundle_table(self.REAL, generated, self.NAMES)
        assert np.isnan(bundle_table(self.REAL[:1], generated[:1], ["MCP"])["buan_sd"][0])

    def test_refused(self):
        for counts in ([0, 1, 1, 1], [5, 1, 1, 1], [1]):
            with pytest.raises(ValueError, match="counts must be"):
                bundle_table(self.REAL, self.REAL, self.NAMES, counts)
        with pytest.raises(ValueError, match="equally many"):
            bundle_table(self.REAL, self.REAL, self.NAMES[:2])


class TestRobustness:
    LATENTS = curves(6 * 8, 8).reshape(6, 8, 24)

    def decode(self, latents):
        return latents.reshape(len(latents), 8, 8, 3)

    def test_falls_from_one(self):
        real = self.decode(self.LATENTS)
        curve = robustness(self.decode, self.LATENTS, real, epsilons=(0, 0.1, 0.5, 2.0))
        assert curve["buan"][0] == 1
        assert curve["mse"][0] == 0
        assert (np.diff(curve["buan"]) <= 0).all()
        assert curve["buan"].iloc[-1] < 0.5
        # Noise of ε times the spread of each coordinate: its mean square is the error.
        expected = np.mean(channel_spread(self.LATENTS) ** 2)
        np.testing.assert_allclose(curve["mse"][1:], expected * np.array([0.01, 0.25, 4]), rtol=0.1)
        assert 0 < area_under(curve) < 1

    def test_the_scale_of_latents_is_no_matter(self):
        real = self.decode(self.LATENTS)
        a = robustness(self.decode, self.LATENTS, real, epsilons=(0, 0.5))
        b = robustness(
            lambda z: self.decode((z - 7) / 32), 32 * self.LATENTS + 7, real, epsilons=(0, 0.5)
        )
        np.testing.assert_allclose(a["mse"], b["mse"], rtol=1e-3, atol=1e-9)
        c = robustness(self.decode, self.LATENTS, real, epsilons=(0, 0.5), spread=1.0)
        assert c["mse"][1] == pytest.approx(0.25, rel=0.1)

    def test_repeats_and_counts(self):
        real = self.decode(self.LATENTS)
        options = {"counts": [3] * 6, "epsilons": (0, 0.2), "seed": 1}
        once = robustness(self.decode, self.LATENTS, real, **options)
        again = robustness(self.decode, self.LATENTS, real, **options)
        pd.testing.assert_frame_equal(once, again)
        thrice = robustness(self.decode, self.LATENTS, real, repeats=3, **options)
        assert thrice["buan"][0] == 1
        assert thrice["buan"][1] != once["buan"][1]

    def test_area(self):
        curve = pd.DataFrame({"epsilon": [0, 1, 3], "buan": [1.0, 0.5, 0.0]})
        assert area_under(curve) == pytest.approx((0.75 + 0.5) / 3)
        assert area_under(curve[:1]) == 1
        assert area_under(pd.DataFrame({"epsilon": [0, 2], "buan": [1, 1]})) == 1

    def test_refused(self):
        with pytest.raises(ValueError, match="must rise"):
            robustness(self.decode, self.LATENTS, self.decode(self.LATENTS), epsilons=(0.5, 0.1))


class TestShapes:
    def test_circle_and_line(self):
        angle = np.linspace(0, np.pi, 200)
        half = 30 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1)
        shapes = shape_statistics(half[None])
        assert shapes["length"][0] == pytest.approx(30 * np.pi, rel=1e-4)
        assert shapes["curvature"][0] == pytest.approx(1 / 30, rel=1e-4)
        assert shapes["straightness"][0] == pytest.approx(2 / np.pi, rel=1e-4)
        assert np.isnan(shapes["spread"][0])
        shapes = shape_statistics(lines([0.0, 0.1, 0.4]), scale_mm=100)
        np.testing.assert_allclose(shapes["length"], 100)
        np.testing.assert_allclose(shapes["curvature"], 0, atol=1e-12)
        np.testing.assert_allclose(shapes["straightness"], 1)
        np.testing.assert_allclose(shapes["spread"], [25, 20, 35])

    @settings(deadline=None, max_examples=10)
    @given(st.integers(0, 10**6))
    def test_rotation_and_flip_change_nothing(self, seed):
        a = curves(5, seed=seed)
        turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
        pd.testing.assert_frame_equal(
            shape_statistics(a), shape_statistics(a[:, ::-1] @ turn + 3), rtol=1e-4
        )

    def test_points_that_coincide(self):
        shapes = shape_statistics(np.zeros((2, 5, 3)))
        assert shapes["length"].eq(0).all()
        assert shapes[["curvature", "straightness"]].isna().all(axis=None)

    def test_table(self):
        real = curves(24).reshape(4, 6, 32, 3)
        same = shape_table(real, real, scale_mm=100).set_index("measure")
        assert same["difference"].eq(0).all()
        assert same["ks"].eq(0).all()
        longer = shape_table(real, 1.5 * real, [5] * 4, scale_mm=100).set_index("measure")
        assert longer.loc["length", "generated"] == pytest.approx(
            1.5 * longer.loc["length", "real"], rel=0.01
        )
        assert longer.loc["curvature", "difference"] < 0 < longer.loc["spread", "difference"]
        assert longer.loc["length", "ks"] == 1
        assert longer["unit"].to_dict()["curvature"] == "1/mm"


class TestCodes:
    def test_histograms(self):
        codes = np.array([[[0, 1], [1, 1]], [[2, 2], [2, 2]]])
        expected = np.array([[0.25, 0.75, 0], [0, 0, 1]])
        np.testing.assert_array_equal(code_histograms(codes, 3), expected)
        deep = code_histograms(codes, 3, depth=True)
        np.testing.assert_array_equal(deep[0], [0.5, 0.5, 0, 0, 1, 0])
        with pytest.raises(ValueError, match="must be in"):
            code_histograms(codes, 2)

    def test_usage_of_depths(self):
        codes = np.array([[0, 0], [1, 0], [2, 0], [3, 0]])
        usage = depth_usage(codes, 4)
        assert usage["depth"].tolist() == [1, 2]
        assert usage["used"].tolist() == [4, 1]
        assert usage["entropy_bits"].tolist() == [2, 0]


class TestClassification:
    LABELS = np.array(["PYT_L", "PYT_R", "MCP"] * 8)
    GROUPS = np.repeat(np.arange(8), 3)

    def test_told_apart_or_not(self):
        rng = np.random.default_rng(0)
        separable = rng.normal(size=(24, 4, 5)) + 8.0 * np.arange(24)[:, None, None] % 3
        separable[..., 0] += 9 * (self.LABELS == "MCP")[:, None]
        separable[..., 1] += 9 * (self.LABELS == "PYT_L")[:, None]
        table = classify_bundles(
            {"separable": separable, "noise": rng.normal(size=(24, 6)), "same": np.ones((24, 3))},
            self.LABELS,
            self.GROUPS,
        ).set_index("features")
        assert table.loc["separable", "accuracy"] == 1
        assert table.loc["noise", "accuracy"] < 0.7
        assert table.loc["chance", "balanced_accuracy"] == pytest.approx(1 / 3)
        assert table.loc["separable", "numbers"] == 20
        assert table["folds"].eq(5).all()
        assert table["groups"].eq(8).all()

    def test_a_subject_never_trains_and_tests(self):
        # Features that give the subject away, and labels that change with it: nothing to learn.
        groups = np.repeat(np.arange(6), 4)
        labels = np.array(["a", "b"])[(groups % 2)]
        features = {
            "subject": np.eye(6)[groups] + 0.01 * np.random.default_rng(0).normal(size=(24, 6))
        }
        alone = classify_bundles(features, labels, groups).set_index("features")
        leaking = classify_bundles(features, labels).set_index("features")
        assert leaking.loc["subject", "accuracy"] == 1
        assert alone.loc["subject", "accuracy"] < 0.7

    def test_refused(self):
        x = {"x": np.zeros((24, 2))}
        with pytest.raises(UserError, match="two or more bundles"):
            classify_bundles(x, ["MCP"] * 24)
        with pytest.raises(UserError, match="MCP is found in one group only"):
            classify_bundles(x, ["MCP"] + ["PYT_L"] * 23)
        with pytest.raises(ValueError, match="equally many"):
            classify_bundles(x, self.LABELS[:5])
