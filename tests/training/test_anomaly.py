"""Evidence of anomalies: a tiny model trained on healthy pictures, and oracles for its parts."""

import math

import keras
import numpy as np
import pytest

from brainvq.errors import UserError
from brainvq.evaluation import anomaly as scores
from brainvq.layers import EMAVectorQuantizer
from brainvq.models import PixelCNN, VQVAETrainer, conv_decoder, conv_encoder
from brainvq.training.anomaly import AnomalyDetector

BITS = 1 / math.log(2)


class Still:
    """Stands for a model: a code is the mean of its cell, in steps of 1 / 8."""

    stride, num_codes = (4, 4), 9

    def encode(self, x, batch_size=32):
        n, rows, cols, _ = x.shape
        cells = x.reshape(n, rows // 4, 4, cols // 4, 4).mean(axis=(2, 4))
        return np.rint(8 * cells).astype("int32")

    def decode(self, codes, batch_size=32, size=None):
        return np.kron(codes, np.ones((1, 4, 4)))[..., None].astype("float32") / 8


@pytest.fixture(scope="module")
def prior():
    """A prior trained on grids whose rows all hold one code of 0 to 3, with a rare other one."""
    keras.utils.set_random_seed(0)
    model = PixelCNN((4, 4), 9, filters=16, num_blocks=2, first_kernel_size=3)
    rng = np.random.default_rng(0)
    codes = np.repeat(rng.integers(0, 4, (512, 4, 1)), 4, axis=2)
    rare = rng.random(codes.shape) < 0.01
    codes = np.where(rare, rng.integers(0, 9, codes.shape), codes)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(codes, epochs=10, batch_size=64, verbose=0)
    return model


@pytest.fixture
def detector(prior):
    return AnomalyDetector(Still(), prior, progress=False, sampling_batch=4)


def healthy(n, seed=1):
    return np.repeat(np.random.default_rng(seed).integers(0, 4, (n, 4, 1)), 4, axis=2)


def sick(n=6):
    codes = healthy(n)
    codes[1::2, 1, 2] = 8
    return codes


def test_surprise_is_minus_log2(detector, prior):
    codes = sick()
    surprise = detector.surprise(codes)
    np.testing.assert_allclose(surprise, -prior.code_log_prob(codes) * BITS, rtol=1e-5)
    assert (surprise[1::2, 1, 2] > 4).all()
    assert np.median(surprise[:, :, 1:]) < 0.5


def test_mirror_averages_both_readings(prior):
    images = Still().decode(sick())
    plain = AnomalyDetector(Still(), prior, progress=False)
    both = AnomalyDetector(Still(), prior, mirror=True, progress=False)
    flipped = plain.surprise_of(images[:, :, ::-1])[:, :, ::-1]
    expected = (plain.surprise_of(images) + flipped) / 2
    np.testing.assert_allclose(both.surprise_of(images), expected, rtol=1e-5)


def test_to_pixels_is_linear_between_the_centres(detector):
    column = np.arange(4.0)
    grid = np.broadcast_to(column[:, None] + 10 * column, (2, 4, 4))
    pixels = detector.to_pixels(grid, (16, 16))
    place = np.clip((np.arange(16) + 0.5) / 4 - 0.5, 0, 3)
    np.testing.assert_allclose(pixels[1], place[:, None] + 10 * place, atol=1e-5)
    # 14 pixels were padded to 16, one on each side.
    cut = detector.to_pixels(grid, (14, 16))
    np.testing.assert_allclose(cut, pixels[:, 1:-1], atol=1e-5)
    with pytest.raises(ValueError, match="Received: 4 cells"):
        detector.to_pixels(grid, (17, 16))


def test_calibration_is_the_quantile_of_healthy_codes(detector):
    images = Still().decode(healthy(40))
    threshold = detector.calibrate(images, quantile=0.9)
    bits = detector.surprise(healthy(40))
    assert threshold == detector.threshold_bits == pytest.approx(np.quantile(bits, 0.9))
    with pytest.raises(UserError, match="quantile"):
        detector.calibrate(images, quantile=1.0)


def test_restoring_replaces_what_is_improbable_and_nothing_else(detector):
    codes = sick()
    detector.threshold_bits = 4.0
    restored, replaced = detector.restore(codes)
    assert restored.shape == replaced.shape == (4, *codes.shape)
    np.testing.assert_array_equal(restored[:, ::2], np.broadcast_to(codes[::2], (4, 3, 4, 4)))
    assert not replaced[:, ::2].any()
    assert replaced[:, 1::2, 1, 2].all()
    assert (restored[~replaced] == np.broadcast_to(codes, restored.shape)[~replaced]).all()
    # The row says which code belongs there.
    right = restored[:, 1::2, 1, 2] == codes[1::2, 1, 0]
    assert right.mean() > 0.8
    again = AnomalyDetector(
        detector.model, detector.prior, progress=False, sampling_batch=4, threshold_bits=4.0
    ).restore(codes)
    np.testing.assert_array_equal(again[0], restored)


def test_many_passes_read_as_the_original_does_code_by_code(prior):
    """At temperature 0 the sequential algorithm of Marimont and Tarroni has one answer."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 9, (5, 4, 4))
    threshold = 3.0
    expected = codes.copy()
    drawn = np.zeros(codes.shape, bool)
    for i in range(4):
        for j in range(4):
            logits = keras.ops.convert_to_numpy(prior(expected))[:, i, j]
            log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
            bits = -log_p[np.arange(5), expected[:, i, j]] * BITS
            drawn[:, i, j] = bits > threshold
            expected[:, i, j] = np.where(bits > threshold, logits.argmax(-1), expected[:, i, j])
    detector = AnomalyDetector(
        Still(),
        prior,
        threshold_bits=threshold,
        draws=1,
        passes=17,
        temperature=0,
        progress=False,
    )
    restored, replaced = detector.restore(codes)
    np.testing.assert_array_equal(restored[0], expected)
    np.testing.assert_array_equal(replaced[0], drawn)


def test_evidence_weighs_the_draws_as_published(detector):
    codes = sick()
    detector.threshold_bits = 4.0
    images = Still().decode(codes) + np.float32(0.02)
    evidence = detector.evidence(images)
    x = images[..., 0]
    draws = np.stack([Still().decode(c)[..., 0] for c in detector.restore(codes)[0]])
    distance = np.abs(x - draws).mean(axis=(2, 3))
    weight = np.exp(15 * distance.mean(axis=0) / distance)
    weight = (weight / weight.sum(axis=0))[..., None, None]
    np.testing.assert_allclose(evidence["restored"], (weight * draws).sum(0), atol=1e-5)
    total = evidence["brighter"] + evidence["darker"]
    np.testing.assert_allclose(total, (weight * np.abs(x - draws)).sum(0), atol=1e-5)
    np.testing.assert_array_equal(evidence["codes"], codes)
    assert evidence["replaced"][1, 1, 2] == 1
    assert evidence["surprise"].shape == evidence["reconstruction"].shape == x.shape
    # The wrong cell is the one that stands out.
    cell = evidence["brighter"][1].reshape(4, 4, 4, 4).mean(axis=(1, 3))
    assert np.unravel_index(cell.argmax(), cell.shape) == (1, 2)


def test_without_a_prior_there_is_the_reconstruction_alone():
    detector = AnomalyDetector(Still())
    images = Still().decode(healthy(2))
    assert set(detector.evidence(images)) == {"codes", "reconstruction"}
    with pytest.raises(UserError, match="prior: none"):
        detector.restore(healthy(2))
    with pytest.raises(UserError, match="prior: none"):
        detector.calibrate(images)


def test_another_size_or_option_is_a_user_error(prior):
    detector = AnomalyDetector(Still(), prior)
    with pytest.raises(UserError, match="found 20 x 16 pixels; expected 16 x 16"):
        detector.evidence(np.zeros((1, 20, 16, 1), "float32"))
    for options in ({"draws": 0}, {"passes": 1.5}, {"sharpness": -1}, {"sampling_batch": 0}):
        with pytest.raises(UserError, match=next(iter(options))):
            AnomalyDetector(Still(), prior, **options)
    other = PixelCNN((4, 4), 5, filters=4, num_blocks=1, first_kernel_size=3)
    with pytest.raises(UserError, match="over 5 codes; expected 9"):
        AnomalyDetector(Still(), other)


def test_a_trained_model_with_levels_finds_a_spot():
    """The whole way: train on healthy slices, find a bright spot in another."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    labels = np.arange(128) % 2

    def slices(labels):
        x = np.zeros((len(labels), 16, 16, 1), "float32")
        x[:, 2:14, 2:14] = 0.3 + 0.3 * labels[:, None, None, None]
        return x + rng.normal(0, 0.02, x.shape).astype("float32") * (x > 0)

    x = slices(labels)
    model = VQVAETrainer(
        conv_encoder((16, 16, 1), filters=(8, 16), embedding_dim=4),
        EMAVectorQuantizer(8),
        conv_decoder((4, 4, 4), filters=(8, 16)),
    )
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(x, epochs=8, batch_size=32, verbose=0)
    prior = PixelCNN((4, 4), 8, filters=8, num_blocks=1, first_kernel_size=3, num_classes=2)
    prior.compile(keras.optimizers.Adam(0.02))
    prior.fit({"codes": model.encode(x), "labels": labels}, epochs=6, batch_size=32, verbose=0)
    detector = AnomalyDetector(model, prior, draws=2, progress=False)
    detector.calibrate(x, {"labels": labels}, 0.98)
    test_labels = np.array([0, 1, 0])
    test = slices(test_labels)
    mask = np.zeros(test.shape[:3], bool)
    mask[2, 6:10, 6:10] = True
    test[mask] = 1.0
    evidence = detector.evidence(test, {"labels": test_labels})
    area = scores.brain_area(test)
    maps = scores.score_maps(test, evidence, area, direction="bright", median=0, erode=0)
    table = scores.LesionScores().add("s", maps, mask, area).table().set_index("method")
    for name in ("pixel", "restoration", "combined"):
        assert table.loc[name, "average_precision"] > 3 * mask.sum() / area.sum(), name
