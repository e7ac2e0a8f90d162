"""Similarity against skimage, hand-made cases and invariants."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from brainvq.errors import UserError
from brainvq.evaluation import ssim_window
from brainvq.evaluation.similarity import (
    SimilarityAccumulator,
    compare,
    foreground,
    ms_ssim,
    ms_ssim_scales,
    mse,
    nearest_images,
    per_subject,
    psnr,
    ssim,
    ssim_map,
    ssim_parameters,
    summary,
    to_unit,
)


def pair(shape, seed=0, noise=0.05):
    """Smooth pictures with a black border, and noisy copies; values in [0, 1]."""
    rng = np.random.default_rng(seed)
    x = np.zeros(shape, "float32")
    inside = (slice(None), *(slice(s // 5, s - s // 5) for s in shape[1:]))
    x[inside] = 0.5 + 0.4 * np.sin(np.cumsum(rng.normal(0, 0.3, x[inside].shape), axis=-1))
    y = np.clip(x + noise * rng.normal(size=shape), 0, 1).astype("float32")
    return x, y


def by_skimage(x, y, **options):
    x, y = x.astype("float64"), y.astype("float64")
    return [structural_similarity(a, b, full=True, **options) for a, b in zip(x, y, strict=True)]


class TestSSIM:
    @pytest.mark.parametrize("window", [3, 5, 7, 9, 11])
    @pytest.mark.parametrize(("shape", "ndim"), [((3, 33, 40), 2), ((2, 17, 20, 14), 3)])
    def test_equals_skimage(self, shape, ndim, window):
        x, y = pair(shape)
        expected = by_skimage(x, y, data_range=1.0, win_size=window)
        # float64 on both sides: only the order of additions differs.
        np.testing.assert_allclose(
            ssim(x, y, ndim=ndim, window=window), [mean for mean, _ in expected], atol=1e-10
        )
        np.testing.assert_allclose(
            ssim_map(x, y, ndim=ndim, window=window), [full for _, full in expected], atol=1e-8
        )

    @pytest.mark.parametrize(("shape", "ndim"), [((3, 33, 40), 2), ((2, 17, 20, 14), 3)])
    def test_gaussian_equals_skimage(self, shape, ndim):
        x, y = pair(shape)
        expected = by_skimage(x, y, data_range=1.0, gaussian_weights=True)
        np.testing.assert_allclose(
            ssim(x, y, ndim=ndim, gaussian=True), [mean for mean, _ in expected], atol=1e-10
        )
        np.testing.assert_allclose(
            ssim_map(x, y, ndim=ndim, gaussian=True), [full for _, full in expected], atol=1e-8
        )

    def test_float32_skimage_agrees_within_its_own_rounding(self):
        x, y = pair((2, 64, 64))
        expected = [structural_similarity(a, b, data_range=1.0) for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(ssim(x, y), expected, atol=1e-5)

    def test_data_range(self):
        x, y = pair((2, 32, 32))
        expected = [mean for mean, _ in by_skimage(x, y, data_range=4.0)]
        np.testing.assert_allclose(ssim(x, y, data_range=4.0), expected, atol=1e-10)
        np.testing.assert_allclose(ssim(255 * x, 255 * y, data_range=255), ssim(x, y), atol=1e-5)

    @pytest.mark.parametrize(("shape", "ndim"), [((5, 30, 26), 2), ((2, 19, 12, 11), 3)])
    def test_chunks_do_not_show(self, monkeypatch, shape, ndim):
        x, y = pair(shape)
        mask = x > 0.2
        whole, masked = ssim(x, y, ndim=ndim), ssim(x, y, ndim=ndim, mask=mask)
        for chunk in (50, 900, 2000):  # slabs of a picture; one picture; several pictures
            monkeypatch.setattr(ssim_window, "CHUNK", chunk)
            np.testing.assert_allclose(ssim(x, y, ndim=ndim), whole, rtol=1e-12)
            np.testing.assert_allclose(ssim(x, y, ndim=ndim, mask=mask), masked, rtol=1e-12)

    def test_constant_pictures_by_hand(self):
        # No variance and no covariance: only the luminance term is left.
        x, y = np.full((1, 12, 12), 0.2), np.full((1, 12, 12), 0.6)
        expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
        np.testing.assert_allclose(ssim(x, y), [expected], rtol=1e-12)

    def test_mask_is_the_mean_of_the_map_inside_it(self):
        x, y = pair((2, 40, 40))
        mask = foreground(x)
        expected = [m[k].mean() for m, k in zip(ssim_map(x, y), mask, strict=True)]
        np.testing.assert_allclose(ssim(x, y, mask=mask), expected, atol=1e-10)
        np.testing.assert_allclose(ssim(x, y, mask=np.ones_like(mask)), ssim(x, y), atol=1e-12)

    def test_empty_mask_is_nan_and_nan_stays_in_its_image(self):
        x, y = pair((3, 32, 32))
        mask = np.ones(x.shape, bool)
        mask[1] = False
        assert np.isnan(ssim(x, y, mask=mask)).tolist() == [False, True, False]
        y[2, 16, 16] = np.nan
        assert np.isnan(ssim(x, y)).tolist() == [False, False, True]

    @settings(max_examples=25, deadline=None)
    @given(
        st.integers(0, 2**31),
        st.sampled_from([(2, 9, 14), (1, 8, 7, 10)]),
        st.floats(0.01, 0.5),
    )
    def test_invariants(self, seed, shape, noise):
        ndim = len(shape) - 1
        x, y = pair(shape, seed, noise)
        value = ssim(x, y, ndim=ndim)
        assert np.all(value <= 1)
        np.testing.assert_allclose(value, ssim(y, x, ndim=ndim), atol=1e-12)
        np.testing.assert_allclose(ssim(x, x, ndim=ndim), 1, atol=1e-12)
        turned = [np.moveaxis(z, -1, 1) for z in (x, y)]
        np.testing.assert_allclose(value, ssim(*turned, ndim=ndim), atol=1e-12)
        np.testing.assert_allclose(value, ssim(x[..., None], y[..., None], ndim=ndim))

    @pytest.mark.parametrize("window", [4, 1, 0, 7.5, -3, 33])
    def test_bad_window(self, window):
        x, y = pair((1, 32, 40))
        with pytest.raises(UserError, match="SSIM window"):
            ssim(x, y, window=window)

    @pytest.mark.parametrize("data_range", [0, -1, np.nan, np.inf])
    def test_bad_range(self, data_range):
        x, y = pair((1, 16, 16))
        with pytest.raises(UserError, match="data range"):
            ssim(x, y, data_range=data_range)
        with pytest.raises(UserError, match="data range"):
            psnr(x, y, data_range=data_range)

    @pytest.mark.parametrize(
        ("x", "y", "ndim"),
        [
            ((16, 16), (16, 16), 2),
            ((2, 16, 16, 3), (2, 16, 16, 3), 2),
            ((2, 16, 16), (2, 16, 17), 2),
            ((2, 16, 16), (2, 16, 16), 3),
            ((2, 16, 16), (2, 16, 16), 1),
        ],
    )
    def test_bad_shapes(self, x, y, ndim):
        with pytest.raises(ValueError, match="Received"):
            ssim(np.zeros(x), np.zeros(y), ndim=ndim)

    def test_bad_mask(self):
        x, y = pair((2, 16, 16))
        with pytest.raises(ValueError, match="mask must have the shape"):
            ssim(x, y, mask=np.ones((1, 16, 16), bool))

    def test_parameters(self):
        parameters = ssim_parameters(ndim=3, data_range=2)
        assert parameters["dimensions"] == "3D"
        assert parameters["window"] == "uniform"
        assert parameters["window_size"] == 7
        assert parameters["data_range"] == 2.0
        assert ssim_parameters(gaussian=True)["window_size"] == 11


class TestErrors:
    def test_mse_and_psnr_by_hand(self):
        x = np.zeros((2, 4, 4, 1))
        y = x.copy()
        y[0, 0, 0] = 0.4  # 0.16 / 16 = 0.01
        mask = np.zeros(x.shape, bool)
        mask[0, 0, :2] = True
        np.testing.assert_allclose(mse(x, y), [0.01, 0])
        np.testing.assert_allclose(psnr(x, y), [20, np.inf])
        np.testing.assert_allclose(psnr(x, y, data_range=10), [40, np.inf])
        np.testing.assert_allclose(mse(x, y, mask=mask), [0.08, np.nan])
        np.testing.assert_allclose(psnr(x, y, mask=mask), [-10 * np.log10(0.08), np.nan])

    def test_volumes_and_integer_images(self):
        x = np.zeros((1, 8, 8, 8), "uint8")
        y = np.full((1, 8, 8, 8), 255, "uint8")
        np.testing.assert_allclose(mse(x, y, ndim=3), 255.0**2)
        np.testing.assert_allclose(psnr(x, y, ndim=3, data_range=255), 0, atol=1e-12)


class TestForeground:
    def test_threshold_is_of_the_images_own_range(self):
        x = np.zeros((3, 4, 4))
        x[0, 0] = [0.5, 0.02, 0.03, 0]  # above 5 % of 0.5 = 0.025: two pixels
        x[1, 0, 0] = 0.009  # less than 1 % of the data range: empty
        assert foreground(x).sum(axis=(1, 2)).tolist() == [2, 0, 0]
        assert foreground(x, data_range=0.1)[1].sum() == 1

    def test_shift_of_intensity_changes_nothing(self):
        x, _ = pair((2, 12, 12, 12))
        shifted = foreground((x - 0.3).astype("float64"), ndim=3)
        np.testing.assert_array_equal(foreground(x, ndim=3), shifted)

    @pytest.mark.parametrize("fraction", [0, 1, -0.1])
    def test_bad_fraction(self, fraction):
        with pytest.raises(UserError, match="foreground fraction"):
            foreground(np.zeros((1, 4, 4)), fraction=fraction)


class TestPerSubject:
    def test_equals_the_measures_by_subject(self):
        x, y = pair((6, 32, 32))
        subjects = np.array(["b", "a", "b", "b", "a", "c"])
        table = per_subject(x, y, subjects)
        assert table["subject"].tolist() == ["b", "a", "c"]
        assert table["n_images"].tolist() == [3, 2, 1]
        mask = foreground(x)
        for row in table.itertuples():
            mine = subjects == row.subject
            assert row.ssim == pytest.approx(ssim(x, y)[mine].mean())
            assert row.ssim_foreground == pytest.approx(ssim(x, y, mask=mask)[mine].mean())
            pooled = mse(x[mine].reshape(1, -1, 32), y[mine].reshape(1, -1, 32))[0]
            assert row.mse == pytest.approx(pooled)
            assert row.psnr == pytest.approx(-10 * np.log10(pooled))
            inside = mask[mine]
            error = np.mean((x[mine].astype(float) - y[mine])[inside] ** 2)
            assert row.psnr_foreground == pytest.approx(-10 * np.log10(error))

    @pytest.mark.parametrize("ndim", [2, 3])
    def test_stream_equals_one_batch(self, ndim):
        x, y = pair((7, 14, 12) if ndim == 2 else (7, 10, 9, 8))
        subjects = list("aabbabc")
        stream = SimilarityAccumulator(ndim=ndim)
        for i in range(0, 7, 3):
            stream.add(x[i : i + 3], y[i : i + 3, ..., None], subjects[i : i + 3])
        pd.testing.assert_frame_equal(stream.table(), per_subject(x, y, subjects, ndim=ndim))

    def test_empty_slices_are_left_out_of_the_foreground_and_counted(self):
        x, y = pair((3, 32, 32))
        black = np.zeros((1, 32, 32), "float32")
        with_black = per_subject(
            np.concatenate([x, black]), np.concatenate([y, black]), ["a"] * 4
        ).iloc[0]
        without = per_subject(x, y, ["a"] * 3).iloc[0]
        assert (with_black.n_images, with_black.n_empty) == (4, 1)
        assert with_black.ssim_foreground == without.ssim_foreground
        assert with_black.psnr_foreground == pytest.approx(without.psnr_foreground)
        assert with_black.ssim == pytest.approx((3 * without.ssim + 1) / 4)
        assert np.isfinite(with_black.psnr)

    def test_only_empty_slices(self):
        black = np.zeros((2, 16, 16))
        row = per_subject(black, black, ["a", "a"]).iloc[0]
        assert row.n_empty == 2
        assert row.ssim == 1
        assert np.isnan(row.ssim_foreground)
        assert np.isnan(row.psnr_foreground)

    def test_nan_reconstruction_is_not_hidden(self):
        x, y = pair((2, 16, 16))
        y[0] = np.nan
        table = per_subject(x, y, ["a", "b"])
        assert table["ssim"].isna().tolist() == [True, False]
        assert table["ssim_foreground"].isna().tolist() == [True, False]
        assert table["psnr"].isna().tolist() == [True, False]

    def test_number_of_subjects(self):
        x, y = pair((2, 16, 16))
        with pytest.raises(ValueError, match="one subject per image"):
            per_subject(x, y, ["a"])

    def test_nothing_added(self):
        assert len(SimilarityAccumulator().table()) == 0

    def test_parameters_say_all(self):
        parameters = SimilarityAccumulator(ndim=3, window=5).parameters
        assert parameters["dimensions"] == "3D"
        assert parameters["window_size"] == 5
        assert "0.05" in parameters["foreground"]


class TestSummary:
    table = pd.DataFrame(
        {"subject": list("abc"), "ssim": [0.8, 0.9, 1.0], "psnr": [20, 30, np.nan]}
    )

    def test_by_hand(self):
        means = summary(self.table).set_index("measure")
        assert means.loc["ssim", "mean"] == pytest.approx(0.9)
        assert means.loc["ssim", "sd"] == pytest.approx(0.1)
        assert means.loc["psnr", ["mean", "n"]].tolist() == [25, 2]
        assert "ci_low" not in means

    def test_bootstrap(self):
        values = np.random.default_rng(0).normal(0.8, 0.1, 200)
        table = pd.DataFrame({"ssim": values})
        row = summary(table, bootstrap=2000).iloc[0]
        half = 1.96 * row.sd / np.sqrt(200)  # normal theory
        assert row.ci_low == pytest.approx(row["mean"] - half, abs=0.15 * half)
        assert row.ci_high == pytest.approx(row["mean"] + half, abs=0.15 * half)
        narrower = summary(table, bootstrap=2000, confidence=0.5).iloc[0]
        assert row.ci_low < narrower.ci_low < narrower.ci_high < row.ci_high

    def test_one_subject_and_infinite_values(self):
        means = summary(pd.DataFrame({"ssim": [1.0], "psnr": [np.inf]}), bootstrap=10)
        assert means["mean"].tolist() == [1.0, np.inf]
        assert means[["sd", "ci_low", "ci_high"]].isna().all(axis=None)

    def test_compare(self):
        comparison = compare({"one": self.table, "two": self.table.assign(ssim=0.5)})
        assert comparison["run"].tolist() == ["one", "two"]
        assert comparison["n_subjects"].tolist() == [3, 3]
        assert comparison["ssim"].tolist() == pytest.approx([0.9, 0.5])
        assert comparison["ssim_sd"].tolist() == pytest.approx([0.1, 0.0])


class TestToUnit:
    def test_measures_do_not_depend_on_the_scale(self):
        x, y = pair((2, 17, 20, 14))
        x = x - x.min(axis=(1, 2, 3), keepdims=True)
        x /= x.max(axis=(1, 2, 3), keepdims=True)
        scale = np.array([0.4, 7.0], "float32").reshape(2, 1, 1, 1)
        units = to_unit(*(scale * image - 1.5 for image in (x, y)))
        np.testing.assert_allclose(units[0], x, atol=1e-5)
        np.testing.assert_allclose(units[1], y, atol=1e-5)
        np.testing.assert_allclose(ssim(*units, ndim=3), ssim(x, y, ndim=3), atol=1e-4)
        np.testing.assert_array_equal(foreground(units[0], ndim=3), foreground(x, ndim=3))

    def test_by_hand(self):
        images = np.array([[-2.0, 0.0, 6.0], [5.0, 5.0, 5.0]])
        scaled, restored = to_unit(images, images + [[2.0, -4.0, 8.0], [0.25, 0.5, -1.0]])
        np.testing.assert_allclose(scaled, [[0, 0.25, 1], [0, 0, 0]])
        np.testing.assert_allclose(restored, [[0.25, 0, 1], [0.25, 0.5, 0]])
        assert scaled.dtype == restored.dtype == np.float32

    def test_shapes(self):
        with pytest.raises(ValueError, match=r"same shape. Received: \(1, 3\) and \(3,\)"):
            to_unit(np.zeros((1, 3)), np.zeros(3))


class TestNearest:
    def test_finds_the_copy_in_any_chunk(self):
        rng = np.random.default_rng(0)
        references = rng.random((30, 6, 5)).astype("float32")
        queries = references[[29, 0, 7]] + np.float32(0.01)
        for chunk in (4, 1000):
            index, distance = nearest_images(queries[..., None], references, chunk=chunk)
            assert index.tolist() == [29, 0, 7]
            np.testing.assert_allclose(distance, 0.01, rtol=1e-4)

    def test_equals_brute_force(self):
        rng = np.random.default_rng(1)
        queries, references = rng.random((5, 4, 4, 4)), rng.random((9, 4, 4, 4))
        all_pairs = ((queries[:, None] - references[None]) ** 2).mean(axis=(2, 3, 4)) ** 0.5
        index, distance = nearest_images(queries, references, ndim=3)
        assert index.tolist() == all_pairs.argmin(1).tolist()
        np.testing.assert_allclose(distance, all_pairs.min(1), rtol=1e-5)

    def test_bad_shapes(self):
        with pytest.raises(ValueError, match="size of the queries"):
            nearest_images(np.zeros((1, 4, 4)), np.zeros((1, 4, 5)))
        with pytest.raises(ValueError, match="size of the queries"):
            nearest_images(np.zeros((1, 4, 4)), np.zeros((0, 4, 4)))


def slow_ms_ssim(x, y, window, scales):
    """Equation 7 of Wang, Simoncelli and Bovik (2003) for one image, window by window."""
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333][:scales])
    c1, c2, total = 0.01**2, 0.03**2, 1.0
    for scale, weight in enumerate(weights / weights.sum()):
        scores = []
        for corner in np.ndindex(*(side - window + 1 for side in x.shape)):
            cut = tuple(slice(start, start + window) for start in corner)
            a, b = x[cut].ravel(), y[cut].ravel()
            covariance = np.cov(a, b)
            structure = (2 * covariance[0, 1] + c2) / (covariance[0, 0] + covariance[1, 1] + c2)
            light = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
            scores.append(structure * light if scale == scales - 1 else structure)
        total *= max(np.mean(scores), 0) ** weight
        for axis, side in enumerate(x.shape):
            x, y = (
                0.5 * (z.take(range(0, side - 1, 2), axis) + z.take(range(1, side, 2), axis))
                for z in (x, y)
            )
    return total


class TestMultiScale:
    @pytest.mark.parametrize(
        ("shape", "ndim", "window", "scales"),
        [((2, 14, 17, 12), 3, 3, 3), ((2, 31, 28), 2, 7, 3), ((2, 31, 28), 2, 5, 1)],
    )
    def test_equals_the_formula(self, shape, ndim, window, scales):
        x, y = pair(shape, noise=0.3)
        expected = [
            slow_ms_ssim(a.astype("float64"), b.astype("float64"), window, scales)
            for a, b in zip(x, y, strict=True)
        ]
        scores = ms_ssim(x, y, ndim=ndim, window=window, scales=scales)
        np.testing.assert_allclose(scores, expected, rtol=1e-5)  # scales are kept as float32
        assert np.all((scores > 0.05) & (scores < 0.99))

    def test_one_scale_is_ssim(self):
        x, y = pair((3, 33, 40))
        np.testing.assert_allclose(ms_ssim(x, y, scales=1), ssim(x, y), rtol=1e-12)

    def test_equal_images_and_opposite_ones(self):
        x, _ = pair((3, 40, 48))
        np.testing.assert_allclose(ms_ssim(x, x), 1.0, atol=1e-12)
        np.testing.assert_allclose(ms_ssim(x, x, gaussian=True), 1.0, atol=1e-12)
        noise = np.random.default_rng(0).random((1, 40, 48))
        assert ms_ssim(noise, 1 - noise) == 0
        assert np.isnan(ms_ssim(np.full((1, 40, 48), np.nan), noise)).all()

    def test_whole_numbers_do_not_overflow(self):
        x, y = (np.rint(255 * z).astype("uint8") for z in pair((2, 40, 48)))
        floats = ms_ssim(x.astype("float64"), y.astype("float64"), data_range=255)
        np.testing.assert_allclose(ms_ssim(x, y, data_range=255), floats, rtol=1e-6)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 1000), st.floats(0.01, 0.2), st.floats(1.5, 3.0))
    def test_symmetric_and_lower_with_more_noise(self, seed, noise, factor):
        x, y = pair((1, 30, 30), seed, noise)
        _, worse = pair((1, 30, 30), seed, noise * factor)
        assert ms_ssim(x, y) == pytest.approx(ms_ssim(y, x), rel=1e-12)
        assert ms_ssim(x, worse) < ms_ssim(x, y) <= 1

    def test_as_many_scales_as_fit(self):
        assert ms_ssim_scales((40, 48, 40)) == 3
        assert ms_ssim_scales((40, 48, 40), gaussian=True) == 2
        assert ms_ssim_scales((7, 99)) == 1
        assert ms_ssim_scales((256, 256)) == 5
        with pytest.raises(UserError, match="found 4 scales on images of 40x48, expected 1 to 3"):
            ms_ssim(*pair((1, 40, 48)), scales=4)
        with pytest.raises(UserError, match="window"):
            ms_ssim_scales((5, 9))
