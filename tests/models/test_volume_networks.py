import keras
import numpy as np
import pytest
from keras import layers, ops

from brainvq.layers import SOMQuantizer
from brainvq.models import Autoencoder, strided_decoder, strided_encoder

TINY = {"filters": (2, 3), "groups": 1}


class Joined(keras.Model):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def call(self, x, training=None):
        return self.decoder(self.encoder(x, training=training), training=training)


def images_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def trained(model, x, steps=3, **kwargs):
    """Trains on one batch; returns the losses."""
    model.compile(keras.optimizers.Adam(0.01), loss="mse", **kwargs)
    return [float(model.train_on_batch(x, x)) for _ in range(steps)]


def joined(shape, **options):
    """An encoder and its decoder as one model, with the same start at every call."""
    keras.utils.set_random_seed(1)
    encoder = strided_encoder(shape, **TINY, **options)
    z = encoder.output_shape
    decoder = strided_decoder((z[0] if isinstance(z, list) else z)[1:], **TINY, **options)
    return Joined(encoder, decoder)


def test_the_defaults_are_the_network_of_the_study():
    encoder = strided_encoder((144, 176, 144, 1))
    decoder = strided_decoder((9, 11, 9, 32))
    assert encoder.output_shape == (None, 9, 11, 9, 32)
    assert decoder.output_shape == (None, 144, 176, 144, 1)
    # 27 weights for each pair of channels; four numbers of a normalisation for each channel.
    kernels = 27 * (1 * 4 + 4 * 8 + 8 * 16 + 16 * 32)
    assert encoder.count_params() == kernels + 4 * (4 + 8 + 16 + 32)
    assert decoder.count_params() == kernels + 4 * (16 + 8 + 4) + 1
    kinds = [type(layer).__name__ for layer in encoder.layers[1:]]
    assert kinds == ["Conv3D", "BatchNormalization", "Activation"] * 4
    kinds = [type(layer).__name__ for layer in decoder.layers[1:]]
    assert kinds == ["Conv3DTranspose", "BatchNormalization", "Activation"] * 3 + [
        "Conv3DTranspose"
    ]
    assert all(layer.activation.__name__ == "relu" for layer in encoder.layers[3::3])


@pytest.mark.parametrize(
    ("shape", "known", "norm"),
    [
        ((8,), True, "none"),
        ((8,), False, "batch"),
        ((8, 4), True, "group"),
        ((8, 4), False, "none"),
        ((4, 8, 4), True, "batch"),
        ((4, 8, 4), False, "group"),
    ],
)
def test_every_rank_comes_back_to_its_size(shape, known, norm):
    sizes = shape if known else (None,) * len(shape)
    grid = tuple(n and n // 4 for n in sizes)
    encoder = strided_encoder((*sizes, 2), (2, 4), norm, groups=2)
    decoder = strided_decoder((*grid, 4), (2, 4), norm, groups=2, channels=2)
    assert encoder.output_shape == (None, *grid, 4)
    z = encoder(images_of((1, *shape, 2)))
    assert decoder(z).shape == (1, *shape, 2)


def test_only_a_network_without_normalisation_has_biases():
    for norm, biases in [("batch", 0), ("group", 0), ("none", 2)]:
        encoder = strided_encoder((8, 8, 1), **TINY, norm=norm)
        assert sum(w.name == "bias" for w in encoder.weights) == biases
        decoder = strided_decoder((2, 2, 3), **TINY, norm=norm)
        assert sum(w.name == "bias" for w in decoder.weights) == max(biases, 1)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_skips_are_the_activations_from_fine_to_coarse_and_reach_the_decoder(checkpoint):
    filters = (2, 3, 4)
    encoder = strided_encoder((16, 8, 1), filters, skips=True, checkpoint=checkpoint)
    decoder = strided_decoder((2, 1, 4), filters, skips=True, checkpoint=checkpoint)
    shapes = [(None, 2, 1, 4), (None, 8, 4, 2), (None, 4, 2, 3)]
    assert encoder.output_shape == shapes
    assert decoder.input_shape == shapes
    x = images_of((1, 16, 8, 1))
    for training in (False, True):
        z, *skips = encoder(x, training=training)
        assert [tuple(skip.shape[1:]) for skip in skips] == [(8, 4, 2), (4, 2, 3)]
        whole = ops.convert_to_numpy(decoder([z, *skips], training=training))
        for index, skip in enumerate(skips):
            others = [*skips[:index], ops.zeros_like(skip), *skips[index + 1 :]]
            without = ops.convert_to_numpy(decoder([z, *others], training=training))
            assert np.abs(whole - without).max() > 1e-3


def test_skips_may_have_any_size():
    encoder = strided_encoder((None, None, 1), **TINY, skips=True)
    decoder = strided_decoder((None, None, 3), **TINY, skips=True)
    assert decoder(encoder(images_of((1, 12, 8, 1)))).shape == (1, 12, 8, 1)


@pytest.mark.parametrize(
    ("norm", "skips"),
    [
        pytest.param("batch", False, marks=pytest.mark.thorough),
        ("batch", True),
        ("group", True),
        pytest.param("none", False, marks=pytest.mark.thorough),
    ],
)
def test_checkpointing_changes_no_gradient_and_no_statistic(norm, skips):
    x = images_of((3, 8, 8, 1))
    plain = joined((8, 8, 1), norm=norm, skips=skips)
    checkpointed = joined((8, 8, 1), norm=norm, skips=skips, checkpoint=True)
    # Plain descent: one step moves each weight by its gradient.
    for model in (plain, checkpointed):
        model.compile(keras.optimizers.SGD(1.0), loss="mse")
    start = [ops.convert_to_numpy(w) for w in plain.encoder.weights + plain.decoder.weights]
    losses = [float(model.train_on_batch(x, x)) for model in (plain, checkpointed)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    moved = 0
    for before, expected, weight in zip(start, plain.weights, checkpointed.weights, strict=True):
        expected = ops.convert_to_numpy(expected)
        np.testing.assert_allclose(expected, weight, rtol=1e-5, atol=1e-6, err_msg=weight.path)
        moved += not np.allclose(before, expected)
    assert moved == len(start)
    np.testing.assert_allclose(*[model.predict(x, verbose=0) for model in (plain, checkpointed)])


def test_moving_statistics_are_updated_once_a_step():
    x = images_of((4, 8, 1))
    for checkpoint in (False, True):
        encoder = strided_encoder((8, 1), filters=(3,), checkpoint=checkpoint)
        decoder = strided_decoder((4, 3), filters=(3,), checkpoint=checkpoint)
        convolution, norm = encoder.layers[1], encoder.layers[2]
        mean = np.mean(ops.convert_to_numpy(convolution(x)), axis=(0, 1))
        trained(Joined(encoder, decoder), x, steps=1)
        np.testing.assert_allclose(norm.moving_mean, (1 - norm.momentum) * mean, rtol=1e-5)


def test_frozen_stages_stay_as_they_are():
    x = images_of((3, 8, 8, 1))
    model = joined((8, 8, 1), checkpoint=True)
    model.encoder.trainable = False
    before = model.encoder.get_weights()
    trained(model, x)
    for old, new in zip(before, model.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_checkpointing_trains_eagerly_and_compiled():
    x = images_of((3, 8, 1))
    compiled = trained(joined((8, 1), checkpoint=True), x)
    eager = trained(joined((8, 1), checkpoint=True), x, run_eagerly=True)
    np.testing.assert_allclose(compiled, eager, rtol=1e-4)
    assert compiled[-1] < compiled[0]


@pytest.mark.parametrize(
    ("checkpoint", "skips"),
    [
        (False, True),
        (True, True),
        pytest.param(True, False, marks=pytest.mark.thorough),
    ],
)
def test_the_networks_come_back_from_file(tmp_path, checkpoint, skips):
    options = {**TINY, "norm": "batch", "skips": skips, "checkpoint": checkpoint}
    x = images_of((2, 8, 8, 1))
    encoder = strided_encoder((8, 8, 1), **options)
    decoder = strided_decoder((2, 2, 3), **options)
    trained(Joined(encoder, decoder), x, steps=1)
    restored = []
    for network in (encoder, decoder):
        network.save(tmp_path / "network.keras")
        restored.append(keras.saving.load_model(tmp_path / "network.keras"))
        assert type(restored[-1]) is type(network)
        assert restored[-1].to_json() == network.to_json()
    expected = ops.convert_to_numpy(decoder(encoder(x)))
    again = ops.convert_to_numpy(restored[1](restored[0](x)))
    np.testing.assert_array_equal(again, expected)


def test_weights_on_file_fit_with_and_without_checkpointing(tmp_path):
    path = tmp_path / "encoder.weights.h5"
    plain = strided_encoder((8, 8, 1), **TINY)
    plain.save_weights(path)
    other = strided_encoder((8, 8, 1), **TINY, checkpoint=True)
    other.load_weights(path)
    for expected, weight in zip(plain.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, weight)


@pytest.mark.parametrize(
    ("norm", "checkpoint"),
    [
        pytest.param("batch", False, marks=pytest.mark.thorough),
        ("batch", True),
        ("group", False),
    ],
)
def test_mixed_precision_keeps_output_and_statistics_in_float32(norm, checkpoint):
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        # Far from zero: in bfloat16 the mean over this many numbers is off by per cents.
        x = images_of((4, 32, 32, 1)) + 10
        encoder = strided_encoder((32, 32, 1), **TINY, norm=norm, checkpoint=checkpoint)
        decoder = strided_decoder((8, 8, 3), **TINY, norm=norm, checkpoint=checkpoint)
        assert encoder.output.dtype == "bfloat16"
        assert decoder.output.dtype == "float32"
        model = Joined(encoder, decoder)
        convolution, normalisation = encoder.layers[1], encoder.layers[2]
        z = ops.convert_to_numpy(ops.cast(convolution(x), "float32"))
        losses = trained(model, x, steps=1)
        assert np.isfinite(losses).all()
        assert all(np.isfinite(ops.convert_to_numpy(w)).all() for w in model.weights)
        assert all(w.dtype == "float32" for w in model.weights)
        assert model.predict(x, verbose=0).dtype == "float32"
    finally:
        keras.config.set_dtype_policy(old)
    if norm == "batch":
        mean = (1 - normalisation.momentum) * z.mean(axis=(0, 1, 2))
        np.testing.assert_allclose(normalisation.moving_mean, mean, rtol=1e-3)


def test_a_som_trains_between_checkpointed_networks_with_both_reconstructions(tmp_path):
    keras.utils.set_random_seed(0)
    model = Autoencoder(
        strided_encoder((8, 8, 8, 1), **TINY, checkpoint=True),
        SOMQuantizer((2, 2)),
        strided_decoder((2, 2, 2, 3), **TINY, checkpoint=True),
        continuous_weight=0.8,
    )
    model.compile(keras.optimizers.Adam(0.005))
    x = images_of((2, 8, 8, 8, 1))
    history = model.fit(x, epochs=3, batch_size=2, verbose=0).history["loss"]
    assert history[-1] < history[0]
    for network in (model.encoder, model.decoder):
        assert np.abs(network.layers[2].moving_mean).min() > 0
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(restored.reconstruct(x), model.reconstruct(x))


def test_the_activation_follows_the_normalisation():
    encoder = strided_encoder((8, 1), **TINY, activation="softplus")
    kinds = [type(layer) for layer in encoder.layers[1:4]]
    assert kinds == [layers.Conv1D, layers.BatchNormalization, layers.Activation]
    assert encoder.layers[3].activation is keras.activations.softplus


def test_arguments_that_fit_no_network_are_named():
    with pytest.raises(ValueError, match=r"multiples of 16.*Received: input_shape=\(137, 176, 137"):
        strided_encoder((137, 176, 137, 1))
    with pytest.raises(ValueError, match="one to three spatial sizes"):
        strided_encoder((8, 8, 8, 8, 1))
    for network in (strided_encoder, strided_decoder):
        with pytest.raises(ValueError, match="`norm` must be .* Received: norm=layer"):
            network((16, 1), norm="layer")
        with pytest.raises(ValueError, match=r"`groups` must divide.*groups=3, filters=\(4, 6\)"):
            network((16, 1), (4, 6), norm="group", groups=3)
        with pytest.raises(ValueError, match="one entry per stage"):
            network((16, 1), ())
