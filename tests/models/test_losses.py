"""Losses against scikit-image, and as Keras objects."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from skimage.metrics import structural_similarity as skimage_ssim

from brainvq.models.losses import ReconstructionLoss, SSIMLoss, structural_similarity


def images(shape=(3, 20, 17, 1), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random(shape, dtype="float32")
    x[:, :8] = 0  # background
    y = np.clip(x + 0.2 * rng.normal(size=shape), 0, 1).astype("float32")
    return x, y


@pytest.mark.parametrize(("window", "data_range"), [(7, 1.0), (3, 1.0), (11, 255.0)])
def test_equals_scikit_image_2d(window, data_range):
    x, y = images()
    x, y = x * data_range, y * data_range
    expected = [
        skimage_ssim(a[..., 0], b[..., 0], win_size=window, data_range=data_range)
        for a, b in zip(x, y, strict=True)
    ]
    similarity = ops.convert_to_numpy(structural_similarity(x, y, window, data_range))
    assert similarity.dtype == np.float32
    np.testing.assert_allclose(similarity, expected, atol=2e-5)
    assert min(expected) < 0.95  # a comparison of equal images would show nothing


def test_equals_scikit_image_3d_and_channels():
    x, y = images((2, 12, 9, 10, 1))
    expected = [skimage_ssim(a[..., 0], b[..., 0], data_range=1) for a, b in zip(x, y, strict=True)]
    similarity = ops.convert_to_numpy(structural_similarity(x, y))
    np.testing.assert_allclose(similarity, expected, atol=2e-5)
    x, y = images((2, 12, 11, 3))
    expected = [
        skimage_ssim(a, b, data_range=1, channel_axis=-1) for a, b in zip(x, y, strict=True)
    ]
    similarity = ops.convert_to_numpy(structural_similarity(x, y))
    np.testing.assert_allclose(similarity, expected, atol=2e-5)


def test_equal_images_and_flat_images():
    x, _ = images()
    np.testing.assert_allclose(structural_similarity(x, x), 1.0, atol=1e-5)
    # Flat images of 0 and 0.01: variances vanish, and 2·0·0.01 + C1 over 0.01² + C1 is a half.
    black = np.zeros((1, 8, 8, 1), "float32")
    np.testing.assert_allclose(structural_similarity(black, black + 0.01), 0.5, atol=1e-4)


def test_weighted_sum_by_hand():
    x, y = images()
    similarity = ops.convert_to_numpy(structural_similarity(x, y))
    expected = (
        2.0 * np.square(x - y).mean((1, 2, 3))
        + 0.5 * np.abs(x - y).mean((1, 2, 3))
        + 3.0 * (1 - similarity)
    )
    loss = ReconstructionLoss(mse_weight=2.0, mae_weight=0.5, ssim_weight=3.0)
    np.testing.assert_allclose(ops.convert_to_numpy(loss(x, y)), expected.mean(), rtol=1e-5)
    each = ops.convert_to_numpy(loss.call(x, y))
    assert each.shape == (3, 1, 1)
    np.testing.assert_allclose(each[:, 0, 0], expected, rtol=1e-5)
    weights = np.array([1.0, 0.0, 2.0], "float32")
    weighted = loss(x, y, sample_weight=weights[:, None, None])
    np.testing.assert_allclose(
        ops.convert_to_numpy(weighted), (weights * expected).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(SSIMLoss()(x, y)), 1 - similarity.mean(), rtol=1e-4
    )
    plain = ops.convert_to_numpy(ReconstructionLoss()(x, y))
    np.testing.assert_allclose(plain, np.square(x - y).mean(), rtol=1e-5)


def test_above_the_knee_squared_errors_count_by_their_logarithm():
    x, y = images()
    squared = np.square(x - y).mean((1, 2, 3))
    loss = ReconstructionLoss(mse_weight=2.0, mse_knee=0.01)
    values = ops.convert_to_numpy(loss.call(x, y))[:, 0, 0]
    np.testing.assert_allclose(values, 2.0 * 0.01 * np.log1p(squared / 0.01), rtol=1e-5)
    wide = ops.convert_to_numpy(ReconstructionLoss(mse_knee=1e4).call(x, y))[:, 0, 0]
    np.testing.assert_allclose(wide, squared, rtol=1e-3)
    with pytest.raises(ValueError, match="`mse_knee` must be above 0"):
        ReconstructionLoss(mse_knee=0.0)


def test_computes_in_float32_whatever_the_policy():
    x, y = images()
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        loss = ReconstructionLoss(ssim_weight=1.0)(x, ops.cast(y, "bfloat16"))
    finally:
        keras.config.set_dtype_policy(old)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"


@pytest.mark.parametrize(
    "loss",
    [
        ReconstructionLoss(2.0, 0.5, 0.25, window=5, data_range=2.0, mse_knee=0.1, name="mine"),
        SSIMLoss(window=9, data_range=3.0),
    ],
)
def test_config_round_trip(loss):
    config = json.loads(json.dumps(keras.losses.serialize(loss)))
    again = keras.losses.deserialize(config)
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    x, y = images()
    assert float(again(x, y)) == float(loss(x, y))


def test_training_on_it_removes_an_offset():
    x, _ = images((4, 16, 16, 1))
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1, kernel_initializer="ones")(inputs))
    model.compile(keras.optimizers.Adam(0.02), loss=ReconstructionLoss(ssim_weight=1.0))
    first = model.evaluate(x + 0.2, x, verbose=0)
    model.fit(x + 0.2, x, epochs=40, batch_size=4, verbose=0)
    assert model.evaluate(x + 0.2, x, verbose=0) < 0.1 * first


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"mse_weight": -1}, "mse_weight=-1"),
        ({"mse_weight": 0}, "weights"),
        ({"window": 4}, "window=4"),
        ({"window": 1}, "window=1"),
        ({"data_range": 0}, "data_range=0"),
    ],
)
def test_wrong_arguments(arguments, named):
    with pytest.raises(ValueError, match=f"(?s){named.split('=')[0]}.*Received"):
        ReconstructionLoss(**arguments)


def test_image_smaller_than_the_window():
    x = np.zeros((1, 8, 6, 1), "float32")
    with pytest.raises(ValueError, match="at least 7 pixels"):
        SSIMLoss()(x, x)
