"""The residual encoder and decoder, and the layers that move space into channels."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from brainvq.layers import DepthToSpace, SpaceToDepth
from brainvq.models.residual_networks import residual_decoder, residual_encoder

SMALL = {"filters": (4, 6), "blocks": (1, 2), "patch": 2}


def test_space_to_depth_by_hand():
    x = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    folded = ops.convert_to_numpy(SpaceToDepth(2)(x))
    assert folded.shape == (1, 2, 2, 4)
    np.testing.assert_array_equal(folded[0, 0, 0], [0, 1, 4, 5])
    np.testing.assert_array_equal(folded[0, 1, 0], [8, 9, 12, 13])


@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 6, 9, 2), (1, 3, 6, 9, 2)])
def test_depth_to_space_is_the_inverse(shape):
    x = np.random.default_rng(0).random(shape, dtype="float32")
    folded = SpaceToDepth(3)(x)
    rank = len(shape) - 2
    assert folded.shape == (shape[0], *(n // 3 for n in shape[1:-1]), shape[-1] * 3**rank)
    assert tuple(folded.shape) == SpaceToDepth(3).compute_output_shape(shape)
    again = DepthToSpace(3)(folded)
    np.testing.assert_array_equal(ops.convert_to_numpy(again), x)
    assert tuple(again.shape) == DepthToSpace(3).compute_output_shape(tuple(folded.shape))


@pytest.mark.parametrize("layer", [SpaceToDepth, DepthToSpace])
def test_rearranging_layers_as_keras_objects(layer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer(4, name="mine"))))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is layer
    assert (again.block_size, again.name) == (4, "mine")
    symbolic = layer(2)(keras.KerasTensor((None, None, None, 8)))
    assert tuple(symbolic.shape) == (None, None, None, 32 if layer is SpaceToDepth else 2)
    with pytest.raises(ValueError, match="Received: block_size=0"):
        layer(0)


def test_rearranging_layers_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="multiples of block_size=2"):
        SpaceToDepth(2)(np.zeros((1, 5, 4, 1), "float32"))
    with pytest.raises(ValueError, match="multiple of 4"):
        DepthToSpace(2)(np.zeros((1, 5, 4, 6), "float32"))


def test_default_shapes_of_the_study():
    encoder = residual_encoder((128, 128, 1), filters=(4, 4), blocks=(0, 0))
    decoder = residual_decoder((16, 16, 16), filters=(4, 4), blocks=(0, 0), refine_filters=1)
    assert encoder.output_shape == (None, 16, 16, 16)
    assert decoder.output_shape == (None, 128, 128, 1)


@pytest.mark.parametrize(("size", "groups"), [((8,), 0), ((8, 12), 2), ((4, 8, 4), 0)])
def test_any_number_of_dimensions(size, groups):
    encoder = residual_encoder((*size, 2), embedding_dim=3, groups=groups, **SMALL)
    decoder = residual_decoder(
        tuple(encoder.output_shape[1:]), refine_filters=2, channels=2, groups=groups, **SMALL
    )
    x = np.random.default_rng(0).random((2, *size, 2), dtype="float32")
    z = encoder(x)
    assert tuple(z.shape) == (2, *(n // 4 for n in size), 3)
    y = ops.convert_to_numpy(decoder(z))
    assert y.shape == x.shape
    assert y.min() >= 0  # ReLU at the end
    assert np.isfinite(y).all()


def test_any_size_and_no_dependence_on_what_is_far_away():
    encoder = residual_encoder((None, None, 1), embedding_dim=3, **SMALL)
    decoder = residual_decoder((None, None, 3), refine_filters=2, **SMALL)
    rng = np.random.default_rng(0)
    x = rng.random((1, 64, 4, 1), dtype="float32")
    longer = np.concatenate([x, rng.random((1, 64, 4, 1), dtype="float32")], axis=1)
    y, z = decoder(encoder(x)), decoder(encoder(longer))
    assert tuple(z.shape) == (1, 128, 4, 1)
    y, z = ops.convert_to_numpy(y), ops.convert_to_numpy(z)
    np.testing.assert_allclose(z[:, :16], y[:, :16], atol=1e-5)


def test_saved_and_loaded(tmp_path):
    inputs = keras.Input((8, 8, 1))
    encoder = residual_encoder((8, 8, 1), embedding_dim=3, groups=2, **SMALL)
    decoder = residual_decoder((2, 2, 3), refine_filters=2, groups=2, **SMALL)
    model = keras.Model(inputs, decoder(encoder(inputs)))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).random((2, 8, 8, 1), dtype="float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(again(x)), ops.convert_to_numpy(model(x)), atol=1e-6
    )


def test_learns_what_it_sees():
    keras.utils.set_random_seed(0)
    encoder = residual_encoder((8, 8, 1), embedding_dim=8, **SMALL)
    decoder = residual_decoder((2, 2, 8), refine_filters=4, **SMALL)
    model = keras.Sequential([encoder, decoder])
    model.compile(keras.optimizers.Adam(0.02), loss="mse")
    model.optimizer.build(model.trainable_variables)  # or TensorFlow traces the step twice
    x = np.random.default_rng(0).random((4, 8, 8, 1), dtype="float32")
    losses = model.fit(x, x, epochs=90, batch_size=4, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * float(x.var())


def test_output_is_float32_under_mixed_precision():
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = residual_encoder((8, 8, 1), embedding_dim=3, **SMALL)
        decoder = residual_decoder((2, 2, 3), refine_filters=2, **SMALL)
        y = decoder(encoder(np.zeros((1, 8, 8, 1), "float32")))
    finally:
        keras.config.set_dtype_policy(old)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((10, 8, 1), SMALL, "multiples of 4"),
        ((8, 8, 8, 8, 1), SMALL, "one to three spatial sizes"),
        ((8, 8, 1), {"filters": (4, 6), "blocks": (1,)}, "one entry per level"),
    ],
)
def test_wrong_arguments(shape, arguments, message):
    with pytest.raises(ValueError, match=f"{message}.*Received"):
        residual_encoder(shape, **arguments)
