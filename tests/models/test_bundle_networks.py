import keras
import numpy as np
import pytest
import scipy.fft
from keras import ops

from brainvq.layers import EMAVectorQuantizer, Identity
from brainvq.models import (
    Autoencoder,
    VQVAETrainer,
    bundle_decoder,
    bundle_encoder,
    pass_through,
    streamline_decoder,
    streamline_encoder,
)
from brainvq.models.bundle_networks import CosineBasis, SetBlock
from tests.layers.layer_test import run_layer_test

SMALL = {"filters": (4, 6), "hidden": 3, "blocks": 1}


def bundles(count=2, streamlines=8, points=8, seed=0):
    shape = (count, streamlines, points, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


def test_the_defaults_are_the_network_of_the_study():
    encoder, decoder = bundle_encoder(), bundle_decoder()
    assert encoder.output_shape == (None, 16, 16, 64)
    assert decoder.output_shape == (None, 64, 64, 3)
    # Strided kernels and 3x3 with biases, two blocks of 3x3 and 1x1 without, 1x1 at the end.
    stem = (16 * 3 * 64 + 64) + (16 * 64 * 128 + 128) + (9 * 128 * 128 + 128)
    stack = 2 * (9 * 128 * 32 + 32 * 128)
    assert encoder.count_params() == stem + stack + (128 * 64 + 64)
    back = (9 * 64 * 128 + 128) + (16 * 128 * 64 + 64) + (16 * 64 * 3 + 3)
    assert decoder.count_params() == back + stack


@pytest.mark.parametrize("shape", [(6, 8, 3), (8, 6, 3), (8, 8)])
def test_sizes_that_do_not_halve_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 4"):
        bundle_encoder(shape)


def test_a_bundle_goes_through_the_image_network():
    model = Autoencoder(
        bundle_encoder((8, 8, 3), embedding_dim=5, **SMALL),
        Identity(),
        bundle_decoder((2, 2, 5), **SMALL),
    )
    x = bundles()
    model.compile("adam")
    model.fit(x, epochs=1, verbose=0)
    assert model.encode(x).shape == (2, 2, 2, 5)
    assert model.reconstruct(x).shape == x.shape


def test_a_network_that_hands_its_input_on():
    encoder = bundle_encoder((8, 8, 3))
    decoder = bundle_decoder((2, 2, 64))
    pass_through(encoder, decoder, noise=0.0)
    x = bundles()
    z = ops.convert_to_numpy(encoder(x))
    np.testing.assert_allclose(ops.convert_to_numpy(decoder(z)), x, atol=1e-6)
    # Each cell holds the 48 numbers of its 4 streamlines by 4 points, in some order.
    cell = np.sort(x[0, :4, 4:].ravel())
    np.testing.assert_allclose(
        np.sort(z[0, 0, 1])[np.abs(np.sort(z[0, 0, 1])) > 0], cell, atol=1e-6
    )
    keras.utils.set_random_seed(1)
    noisy = bundle_encoder((8, 8, 3)), bundle_decoder((2, 2, 64))
    before = np.square(ops.convert_to_numpy(noisy[1](noisy[0](x))) - x).mean()
    pass_through(*noisy)
    after = np.square(ops.convert_to_numpy(noisy[1](noisy[0](x))) - x).mean()
    assert after < before


def test_what_does_not_fit_is_left_out():
    encoder, decoder = bundle_encoder((8, 8, 3), **SMALL), bundle_decoder((2, 2, 64), **SMALL)
    pass_through(encoder, decoder)
    assert np.isfinite(ops.convert_to_numpy(encoder(bundles()))).all()


def test_the_set_block_is_a_layer(tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 4, 6)).astype("float32")
    run_layer_test(SetBlock, {"expansion": 3, "activation": "relu"}, x, tmp_path=tmp_path)


def test_a_frozen_encoder_is_loaded_frozen(tmp_path):
    encoder = streamline_encoder((8, 8, 3), width=12, blocks=1, modes=2)
    encoder.trainable = False
    encoder.save(tmp_path / "encoder.keras")
    assert keras.saving.load_model(tmp_path / "encoder.keras").trainable_variables == []


def trained_block(channels=6):
    block = SetBlock()
    block.build((1, 4, channels))
    rng = np.random.default_rng(3)
    block.set_weights([rng.normal(size=w.shape).astype("float32") for w in block.get_weights()])
    return block


def test_a_set_block_equals_its_formula():
    block = trained_block()
    x = np.random.default_rng(4).normal(size=(2, 4, 6)).astype("float32")

    def silu(value):
        return value / (1 + np.exp(-value))

    def dense(layer, value):
        kernel, bias = map(ops.convert_to_numpy, layer.weights)
        return value @ kernel + bias

    scale, shift = map(ops.convert_to_numpy, block.norm.weights)
    mean, deviation = x.mean(-1, keepdims=True), np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    hidden = silu(dense(block.widen, (x - mean) / deviation * scale + shift))
    expected = x + dense(block.narrow, hidden)
    added = silu(dense(block.read, expected.mean(1, keepdims=True)))
    expected = expected + dense(block.tell, added)
    np.testing.assert_allclose(ops.convert_to_numpy(block(x)), expected, rtol=2e-4, atol=2e-4)


def test_the_untrained_network_is_the_cosine_transform():
    x = bundles()
    encoder = streamline_encoder((8, 8, 3), modes=8, width=12, blocks=1)
    z = ops.convert_to_numpy(encoder(x))
    expected = scipy.fft.dct(x, axis=2, norm="ortho").reshape(2, 8, 1, 24)
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    decoder = streamline_decoder((8, 1, 24), points=8, width=12, blocks=1)
    np.testing.assert_allclose(ops.convert_to_numpy(decoder(z)), x, rtol=1e-4, atol=1e-5)
    few = streamline_encoder((8, 8, 3), modes=3, width=12, blocks=1)
    np.testing.assert_allclose(ops.convert_to_numpy(few(x)), z[..., :9], rtol=1e-4, atol=1e-5)


def test_more_modes_than_points_are_refused():
    with pytest.raises(ValueError, match="at most 8"):
        streamline_encoder((8, 8, 3), modes=9)
    with pytest.raises(ValueError, match=r"CosineBasis makes \(24, 6\)"):
        CosineBasis(8, 2)((24, 5))


def test_permuting_streamlines_permutes_their_vectors_and_curves():
    keras.utils.set_random_seed(0)
    encoder = streamline_encoder((8, 8, 3), width=12, blocks=2, modes=2)
    decoder = streamline_decoder((8, 1, 6), points=8, width=12, blocks=2)
    rng = np.random.default_rng(1)
    for model in (encoder, decoder):  # no branch at zero, or the group would be told nothing
        model.set_weights([rng.normal(size=w.shape) * 0.3 for w in model.get_weights()])
    x, order = bundles(), rng.permutation(8)
    z = ops.convert_to_numpy(encoder(x))
    assert z.shape == (2, 8, 1, 6)
    permuted = ops.convert_to_numpy(encoder(x[:, order]))
    np.testing.assert_allclose(permuted, z[:, order], rtol=1e-4, atol=1e-4)
    curves = ops.convert_to_numpy(decoder(z))
    assert curves.shape == x.shape
    permuted = ops.convert_to_numpy(decoder(z[:, order]))
    np.testing.assert_allclose(permuted, curves[:, order], rtol=1e-4, atol=1e-4)
    # And each vector depends on the whole group.
    other = np.concatenate([x[:, :4], x[:, :1], x[:, 5:]], axis=1)
    assert np.abs(ops.convert_to_numpy(encoder(other))[:, 0] - z[:, 0]).max() > 1e-3


@pytest.mark.thorough
def test_groups_of_any_size():
    model = VQVAETrainer(
        streamline_encoder((None, 8, 3), width=12, blocks=1, modes=2),
        EMAVectorQuantizer(8),
        streamline_decoder((None, 1, 6), points=8, width=12, blocks=1),
    )
    model.compile("adam")
    model.fit(bundles(4), epochs=1, verbose=0)
    for streamlines in (8, 3):
        x = bundles(2, streamlines)
        codes = model.encode(x)
        assert codes.shape == (2, streamlines, 1)
        assert model.decode(codes).shape == x.shape


def test_the_networks_learn_bundles(tmp_path):
    keras.utils.set_random_seed(0)
    start = np.random.default_rng(0).normal(size=(16, 8, 1, 3)) * 0.3
    step = np.random.default_rng(1).normal(size=(16, 1, 1, 3)) * 0.1
    x = (start + step * np.arange(8)[:, None]).astype("float32")
    model = Autoencoder(
        streamline_encoder((8, 8, 3), width=24, blocks=1, modes=2),
        Identity(),
        streamline_decoder((8, 1, 6), points=8, width=24, blocks=1),
    )
    model.compile(keras.optimizers.Adam(5e-3))
    history = model.fit(x, epochs=60, batch_size=8, verbose=0)
    assert history.history["loss"][-1] < 0.1 * x.var()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.reconstruct(x), model.reconstruct(x), rtol=1e-5, atol=1e-5)
