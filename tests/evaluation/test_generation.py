"""Generated volumes: measures against closed forms, loops, and generators whose fault is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter

from brainvq.errors import UserError
from brainvq.evaluation import feature_spaces
from brainvq.evaluation.bootstrap import resample_weights
from brainvq.evaluation.distances import (
    corrected_frechet,
    frechet_distance,
    frechet_from_moments,
    kernel_distance,
    resampled_kernel_distance,
)
from brainvq.evaluation.feature_spaces import PCASpace, WaveletSpace
from brainvq.evaluation.generation import (
    compare_sharpness,
    diversity,
    fidelity,
    inner_foreground,
    memorisation,
    nearest_training,
    sharpness,
)
from brainvq.evaluation.similarity import ms_ssim

GRID = (16, 18, 14)


def brains(n, seed=0, grid=GRID):
    """Balls of different size, brightness and texture on black, values in [0, 1]."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in grid), indexing="ij")
    volumes = np.zeros((n, *grid), "float32")
    for volume in volumes:
        radii = 0.85 + 0.1 * rng.random(len(grid))
        inside = sum((a / r) ** 2 for a, r in zip(axes, radii, strict=True)) < 1
        texture = gaussian_filter(rng.normal(size=grid), 1.0)
        values = 0.5 + 0.1 * rng.normal() + 0.25 * texture / texture.std()
        volume[inside] = np.clip(values, 0.15, 1)[inside]
    return volumes


class TestSharpness:
    def test_a_ramp_and_a_parabola_are_known_by_hand(self):
        i, j, k = np.indices((9, 8, 7)).astype("float64")
        ramp = 2 * i - 3 * j + 6 * k
        measures = sharpness(ramp[None])
        assert measures["gradient"][0] == pytest.approx(7.0)
        assert measures["laplacian"][0] == pytest.approx(0.0, abs=1e-18)
        bowl = sharpness((i**2 + 2 * j**2)[None])
        assert bowl["laplacian"][0] == pytest.approx(36.0)
        inner = np.sqrt((2 * i) ** 2 + (4 * j) ** 2)[1:-1, 1:-1, 1:-1]
        assert bowl["gradient"][0] == pytest.approx(inner.mean())

    def test_two_dimensions_and_a_channel(self):
        x = brains(2, grid=(20, 24))
        pd.testing.assert_frame_equal(sharpness(x, ndim=2), sharpness(x[..., None], ndim=2))

    def test_the_outline_does_not_count_as_foreground(self):
        # A flat ball: all of its gradient is at its outline.
        x = np.where(brains(1) > 0, 0.7, 0.0)
        measures = sharpness(x).iloc[0]
        assert measures["gradient"] > 0.01
        assert measures["gradient_foreground"] == pytest.approx(0, abs=1e-12)
        assert measures["laplacian_foreground"] == pytest.approx(0, abs=1e-12)
        empty = sharpness(np.zeros((1, *GRID))).iloc[0]
        assert empty["gradient"] == 0
        assert np.isnan(empty["gradient_foreground"])

    def test_the_inner_foreground_is_common_and_filled(self):
        x = brains(6)
        x[:, 8, 9, 7] = 0  # a dark ventricle
        mask = inner_foreground(x)
        assert mask[8, 9, 7]
        assert not mask[0].any()
        assert np.all((x > 0).all(axis=0) <= mask)

    @settings(max_examples=10, deadline=None)
    @given(st.floats(0.1, 10), st.integers(0, 100))
    def test_scales_with_intensity(self, factor, seed):
        x = brains(2, seed)
        one, other = sharpness(x), sharpness(factor * x, data_range=factor)
        for name in ("gradient", "gradient_foreground"):
            np.testing.assert_allclose(other[name], factor * one[name], rtol=1e-5)
        for name in ("laplacian", "laplacian_foreground"):
            np.testing.assert_allclose(other[name], factor**2 * one[name], rtol=1e-5)

    def test_blur_is_below_one_and_noise_above(self):
        real = brains(8)
        blurred = gaussian_filter(brains(8, 1), (0, 1, 1, 1))
        noisy = brains(8, 2) + 0.15 * np.random.default_rng(0).normal(size=real.shape)
        same, soft, rough = (
            compare_sharpness(x, real).set_index("measure") for x in (brains(8, 3), blurred, noisy)
        )
        inside = ["gradient_foreground", "laplacian_foreground"]
        assert (soft.loc[inside, "high"] < 1).all()
        assert (rough.loc[inside, "low"] > 1).all()
        assert (same["low"] - 0.1 < 1).all()
        assert (same["high"] > 1).all()
        assert list(soft["n_samples"]) == [8] * 4

    def test_without_foreground_there_is_no_ratio(self):
        table = compare_sharpness(brains(2), np.zeros((2, *GRID)), draws=10).set_index("measure")
        assert table["ratio"].isna().all()
        assert table["n_real"]["gradient_foreground"] == 0

    def test_bad_shapes(self):
        with pytest.raises(ValueError, match="3 axes of 3 or more"):
            sharpness(np.zeros((2, 8, 8, 2)))
        with pytest.raises(ValueError, match="inside"):
            sharpness(brains(1), inside=np.ones((3, 3, 3), bool))
        with pytest.raises(ValueError, match="one subject per volume"):
            compare_sharpness(brains(2), brains(2), subjects=["a"])


class TestDiversity:
    def test_equals_a_loop_over_all_pairs(self):
        x, y = brains(4), brains(5, 1)
        table = diversity(x, y, pairs=100, window=3).set_index("of")
        for name, volumes in (("samples", x), ("real", y)):
            pairs = [
                ms_ssim(volumes[i : i + 1], volumes[j : j + 1], ndim=3, window=3)[0]
                for i in range(len(volumes))
                for j in range(i)
            ]
            assert table["ms_ssim"][name] == pytest.approx(np.mean(pairs))
            assert table["pairs"][name] == len(pairs)
            assert table["volumes"][name] == len(volumes)
        difference = table["ms_ssim"]["samples"] - table["ms_ssim"]["real"]
        assert table["ms_ssim"]["samples minus real"] == pytest.approx(difference)
        assert (table["scales"] == 3).all()

    def test_the_same_volume_again_and_again(self):
        real, one = brains(10), brains(1, 5)
        same = np.repeat(one, 6, axis=0) + 0.005 * np.random.default_rng(0).normal(size=(6, *GRID))
        table = diversity(same, real, window=3).set_index("of")
        assert table["ms_ssim"]["samples"] > 0.98
        assert table["low"]["samples minus real"] > 0
        other = diversity(brains(10, 1), real, window=3).set_index("of").loc["samples minus real"]
        assert other["low"] < 0 < other["high"]

    def test_scans_of_a_subject_are_no_pair(self):
        once = brains(4)
        twice = np.repeat(once, 2, axis=0)
        subjects = np.repeat(list("abcd"), 2)
        plain, paired = (
            diversity(once, twice, subjects=s, pairs=100, window=3).set_index("of")
            for s in (None, subjects)
        )
        assert paired["pairs"]["real"] == 24
        assert paired["ms_ssim"]["real"] == pytest.approx(paired["ms_ssim"]["samples"])
        assert plain["ms_ssim"]["real"] > paired["ms_ssim"]["real"]
        with pytest.raises(UserError, match="found 2 real volumes of 1 subjects"):
            diversity(once, twice[:2], subjects=subjects[:2], window=3)
        with pytest.raises(UserError, match="found 1 samples"):
            diversity(once[:1], twice, window=3)

    def test_most_pairs(self):
        table = diversity(brains(6), brains(6, 1), pairs=7, window=3).set_index("of")
        assert table["pairs"]["samples"] == table["pairs"]["real"] == 7


class TestDistances:
    def test_frechet_of_two_gaussians_in_closed_form(self):
        # Where covariances commute: |m1 − m2|² + Σ (√a − √b)².
        a, b = np.array([4.0, 1.0, 9.0]), np.array([1.0, 1.0, 4.0])
        turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
        distance = frechet_from_moments(
            [1, 2, 3], turn @ np.diag(a) @ turn.T, [1, 0, 3], turn @ np.diag(b) @ turn.T
        )
        assert distance == pytest.approx(4 + 1 + 0 + 1)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 6))
    def test_frechet_is_that_of_the_matrix_square_root(self, seed, dim):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(40, dim)) @ rng.normal(size=(dim, dim)), rng.normal(size=(30, dim))
        c1, c2 = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
        mean = x.mean(axis=0) - y.mean(axis=0)
        root = np.real(sqrtm(c1 @ c2))
        expected = mean @ mean + np.trace(c1 + c2 - 2 * root)
        assert frechet_distance(x, y, shrink=False) == pytest.approx(expected, rel=1e-5, abs=1e-7)
        assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), rel=1e-5, abs=1e-7)
        assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)

    def test_frechet_with_fewer_rows_than_dimensions_is_shrunk(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(2, 20, 40))
        shrunk, plain = frechet_distance(x, y), frechet_distance(x, y, shrink=False)
        # Both are samples of one distribution, of distance 0.
        assert shrunk < 0.3 * plain
        assert frechet_distance(np.ones((5, 9)), np.ones((4, 9))) == 0

    def test_kernel_equals_a_double_loop(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(7, 3)), rng.normal(1, 2, size=(5, 3))

        def kernel(a, b):
            return (a @ b / 3 + 1) ** 3

        within_x = np.mean([kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
        within_y = np.mean([kernel(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
        between = np.mean([kernel(a, b) for a in x for b in y])
        assert kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * between)

    def test_kernel_has_mean_zero_for_one_distribution(self):
        rng = np.random.default_rng(0)
        distances = [kernel_distance(*rng.normal(size=(2, 6, 4))) for _ in range(2000)]
        assert abs(np.mean(distances)) < 3 * np.std(distances) / np.sqrt(len(distances))
        assert min(distances) < 0

    def test_a_resample_counts_no_volume_as_its_own_pair(self):
        rng = np.random.default_rng(1)
        x, y = rng.normal(size=(2, 12, 4))
        weights = [resample_weights(np.arange(12), 4000, rng) for _ in range(2)]
        drawn = resampled_kernel_distance(x, y, weights)
        spread = np.std(drawn)
        assert abs(drawn.mean() - kernel_distance(x, y)) < 0.1 * spread

    def test_nine_of_ten_intervals_hold_the_true_frechet_distance(self):
        dim, n, held = 6, 60, 0
        truth = frechet_from_moments(
            np.full(dim, 0.4), 0.5 * np.eye(dim), np.zeros(dim), np.eye(dim)
        )
        for seed in range(60):
            rng = np.random.default_rng(seed)
            x, y = np.sqrt(0.5) * rng.normal(size=(n, dim)) + 0.4, rng.normal(size=(n, dim))
            weights = [resample_weights(np.arange(n), 100, rng) for _ in range(2)]
            value = frechet_distance(x, y)
            low, high = np.quantile(corrected_frechet(x, y, weights)[2], [0.025, 0.975])
            held += 2 * value - high <= truth <= 2 * value - low
        assert held >= 54

    def test_bad_features(self):
        for x in (np.zeros((1, 3)), np.zeros((4, 2)), np.full((4, 3), np.nan)):
            with pytest.raises(ValueError, match="features must be"):
                frechet_distance(x, np.zeros((4, 3)))


class TestSpaces:
    def test_components_are_those_of_the_covariance(self):
        x = brains(12)
        space = PCASpace(5).fit(x)
        scores = space.transform(x)
        flat = x.reshape(12, -1).astype("float64")
        flat -= flat.mean(axis=0)
        u, s, _ = np.linalg.svd(flat, full_matrices=False)
        expected = u[:, :5] * s[:5]
        expected /= np.sqrt(expected.var(axis=0, ddof=1).mean())
        np.testing.assert_allclose(np.abs(scores), np.abs(expected), atol=1e-4)
        assert scores.var(axis=0, ddof=1).mean() == pytest.approx(1, rel=1e-4)
        assert space.explained == pytest.approx((s[:5] ** 2).sum() / (s**2).sum(), rel=1e-5)

    def test_no_more_components_than_volumes_have(self):
        x = brains(4)
        assert PCASpace(32).fit(x).transform(brains(2, 1)).shape == (2, 3)
        assert PCASpace(32, most=3).fit(x).transform(x[..., None]).shape == (4, 2)
        with pytest.raises(UserError, match="found 3 training volumes, all equal"):
            PCASpace().fit(np.repeat(x[:1], 3, axis=0))
        with pytest.raises(UserError, match="found 1 training volumes; expected"):
            PCASpace().fit(x[:1])

    @pytest.mark.parametrize(("ndim", "count"), [(2, 30), (3, 58)])
    def test_wavelets_keep_the_energy_and_have_fixed_numbers(self, ndim, count):
        x = brains(6, grid=GRID[:ndim])
        low, details = feature_spaces._haar(x[:, :14, :14].astype("float64"))
        assert len(details) == 2**ndim - 1
        energy = sum((part**2).sum() for part in (low, *details))
        assert energy == pytest.approx((x[:, :14, :14].astype("float64") ** 2).sum())
        flat = feature_spaces._haar(np.ones((1, *(5,) * ndim)))
        np.testing.assert_allclose(flat[0], 2 ** (ndim / 2))
        assert all(not detail.any() for detail in flat[1])
        space = WaveletSpace(ndim=ndim).fit(x)
        features = space.transform(x)
        assert features.shape == (6, count)
        np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-9)
        # Turned, but not stretched: distances are those of standardised features.
        raw = space._raw(x)
        spread = raw.std(axis=0)
        standard = raw / np.where(spread > 1e-6, spread, 1)
        np.testing.assert_allclose(
            np.linalg.norm(features[0] - features[1]), np.linalg.norm(standard[0] - standard[1])
        )

    def test_constant_volumes_have_finite_features(self):
        space = WaveletSpace().fit(brains(5))
        assert np.isfinite(space.transform(np.zeros((2, *GRID)))).all()


class TestFidelity:
    def test_faults_are_seen_where_they_should_be(self):
        train, real = brains(40), brains(30, 1)
        tables = {
            name: fidelity(x, real, train, draws=40).set_index(["space", "measure"])
            for name, x in {
                "good": brains(30, 2),
                "blurred": gaussian_filter(brains(30, 2), (0, 0.8, 0.8, 0.8)),
                "collapsed": train.mean(axis=0) + 0.02 * brains(30, 3),
            }.items()
        }
        good, blurred, collapsed = tables.values()
        for space in ("pca", "wavelet"):
            row = good.loc[(space, "frechet")]
            assert row["low"] <= row["corrected"] <= row["high"]
            assert row["corrected"] < row["value"]
            assert row["corrected"] < 2 * row["reference"] + 1
            assert row["value"] < 0.3 * row["mean_volume"]
            low, high = good.loc[(space, "kernel"), ["low", "high"]]
            assert low < 0 < high
        assert blurred["low"]["wavelet", "frechet"] > 10 * good["high"]["wavelet", "frechet"]
        assert collapsed["low"]["pca", "frechet"] > good["high"]["pca", "frechet"]
        assert good["dim"]["pca", "frechet"] == 10
        assert good["note"]["pca", "frechet"] == "first 10 of 32 dimensions: few volumes"
        assert good["note"]["pca", "kernel"] == ""
        assert (good["n_reference"] == 30).all()

    def test_two_volumes_of_each_are_enough(self):
        table = fidelity(brains(2), brains(2, 1), brains(3, 2), draws=20)
        assert (table["dim"][table["measure"] == "frechet"] == 1).all()
        assert np.isfinite(table[["value", "corrected", "reference", "mean_volume"]]).all(axis=None)
        with pytest.raises(UserError, match="found 1 real volumes"):
            fidelity(brains(2), brains(1), brains(3))

    def test_reads_memory_maps_in_parts(self, tmp_path):
        train = brains(20)
        np.save(tmp_path / "train.npy", train)
        mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
        args = brains(6, 1), brains(6, 2)
        pd.testing.assert_frame_equal(
            fidelity(*args, mapped, draws=10), fidelity(*args, train, draws=10)
        )


class TestMemory:
    @settings(max_examples=15, deadline=None)
    @given(st.integers(1, 7), st.integers(2, 9), st.integers(1, 6), st.integers(2, 12))
    def test_chunks_change_nothing(self, queries, references, chunk, neighbours):
        x, y = brains(queries, 1, (6, 5, 4)), brains(references, 2, (6, 5, 4))
        nearest = nearest_training(x, y, chunk=chunk, neighbours=neighbours)
        rmse = np.sqrt(((x[:, None].astype("float64") - y) ** 2).mean(axis=(2, 3, 4)))
        smallest = np.sort(rmse, axis=1)[:, :neighbours]
        np.testing.assert_array_equal(nearest["nearest"], rmse.argmin(axis=1))
        np.testing.assert_allclose(nearest["distance"], smallest[:, 0], rtol=1e-6)
        np.testing.assert_allclose(
            nearest["relative"], smallest[:, 0] / smallest.mean(axis=1), rtol=1e-6
        )

    def test_copies_are_told_from_blur(self):
        train, unseen = brains(24), nearest_training(brains(20, 1), brains(24))
        copies = train[:10] + 0.02 * np.random.default_rng(0).normal(size=(10, *GRID))
        blurred = gaussian_filter(brains(10, 2), (0, 1, 1, 1))
        copied, blur, new = (
            memorisation(nearest_training(x, train), unseen).set_index("measure")
            for x in (copies, blurred, brains(10, 3))
        )
        assert copied["share_nearer"]["relative"] == copied["share_nearer"]["distance"] == 1
        assert blur["share_nearer"]["distance"] > 0.5
        assert blur["share_nearer"]["relative"] < 0.5
        assert new["share_nearer"]["relative"] < 0.5
        assert copied["samples"]["relative"] < 0.5 < copied["unseen"]["relative"]

    def test_equal_volumes_are_at_no_distance(self):
        train = np.repeat(brains(1), 4, axis=0)
        nearest = nearest_training(train[:1], train)
        assert nearest["distance"][0] < 1e-6
        assert nearest["relative"][0] == 1
        assert len(nearest_training(train[:0], train)) == 0

    def test_bad_input(self):
        x = brains(3)
        with pytest.raises(ValueError, match="one grid"):
            nearest_training(x, x[:, :9])
        with pytest.raises(UserError, match="found 1; expected two"):
            nearest_training(x, x[:1])
        table = nearest_training(x, x)
        with pytest.raises(UserError, match="found 0 samples and 3 unseen"):
            memorisation(table[:0], table)
