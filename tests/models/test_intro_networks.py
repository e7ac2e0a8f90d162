import keras
import numpy as np
import pytest
from keras import ops

from brainvq.models import intro_decoder, intro_encoder, set_components, set_mean

TINY = {"latent_size": 3, "filters": (2, 4), "dense_units": (5,), "groups": 2}


def volumes_of(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype="float32")


def kinds(network):
    return [type(layer).__name__ for layer in network.layers[1:]]


def test_the_defaults_are_the_network_of_the_study():
    encoder = intro_encoder((40, 48, 40, 1))
    decoder = intro_decoder((40, 48, 40, 1))
    assert encoder.output_shape == [(None, 256), (None, 256)]
    assert decoder.input_shape == (None, 256)
    assert decoder.output_shape == (None, 40, 48, 40, 1)
    flatten = next(layer for layer in encoder.layers if isinstance(layer, keras.layers.Flatten))
    assert flatten.input.shape == (None, 5, 6, 5, 64)
    assert kinds(encoder) == (
        ["RemoveVolume"]
        + ["Conv3D", "GroupNorm", "Activation", "AveragePooling3D"] * 3
        + ["Flatten", "Dense", "LayerNormalization", "Activation", "Dropout", "Dense", "Dense"]
    )
    assert kinds(decoder) == (
        ["Dense", "Activation", "Dense", "Reshape", "Activation", "UpSampling3D", "Conv3D"]
        + ["GroupNorm", "Activation", "UpSampling3D", "Conv3D"] * 2
        + ["AddVolume", "SoftClip"]
    )
    # 27 weights for each pair of channels; two numbers of a normalisation for each channel.
    kernels = 27 * (1 * 16 + 16 * 32 + 32 * 64)
    grid = 5 * 6 * 5 * 64
    dense = grid * 512 + 2 * 512
    volume = 40 * 48 * 40
    assert (
        encoder.count_params() == volume + 1 + kernels + 2 * (16 + 32 + 64) + dense + 2 * 513 * 256
    )
    assert decoder.count_params() == (257 * 512 + 513 * grid + kernels + 2 * (32 + 16) + 1 + volume)


def test_patches_leave_the_finest_grid_out():
    options = {"patch": 2, "filters": (4, 8, 16)}
    encoder = intro_encoder((40, 48, 40, 1), **options)
    decoder = intro_decoder((40, 48, 40, 1), **options)
    convolutions = [layer for layer in encoder.layers if isinstance(layer, keras.layers.Conv3D)]
    assert [layer.input.shape[1:] for layer in convolutions] == [
        (20, 24, 20, 8),
        (10, 12, 10, 4),
        (5, 6, 5, 8),
    ]
    flatten = next(layer for layer in encoder.layers if isinstance(layer, keras.layers.Flatten))
    assert flatten.input.shape == (None, 5, 6, 5, 16)
    convolutions = [layer for layer in decoder.layers if isinstance(layer, keras.layers.Conv3D)]
    assert [layer.output.shape[1:] for layer in convolutions] == [
        (10, 12, 10, 8),
        (20, 24, 20, 4),
        (20, 24, 20, 8),
    ]
    assert decoder.output_shape == (None, 40, 48, 40, 1)


@pytest.mark.parametrize("patch", [1, 2])
def test_networks_start_at_the_mean_volume(patch):
    encoder = intro_encoder((8, 8, 8, 1), **TINY, patch=patch)
    decoder = intro_decoder((8, 8, 8, 1), **TINY, patch=patch)
    mean = 0.1 + 0.8 * volumes_of((8, 8, 8, 1))
    set_mean(encoder, decoder, mean, 0.25)
    taken = encoder.get_layer("remove_mean")
    np.testing.assert_allclose(taken(mean[None] + 0.5), np.full((1, 8, 8, 8, 1), 2.0), rtol=1e-5)
    for weight in decoder.layers[-4 if patch == 2 else -3].weights:
        weight.assign(0 * weight)
    drawn = ops.convert_to_numpy(decoder(volumes_of((3, 3))))
    np.testing.assert_allclose(drawn, np.repeat(mean[None], 3, axis=0), atol=1e-5)
    assert not any("remove_mean" in weight.path for weight in encoder.trainable_weights)
    assert any("add_mean" in weight.path for weight in decoder.trainable_weights)


def test_edges_of_the_range_have_a_finite_inverse():
    encoder, decoder = intro_encoder((8, 8, 1), **TINY), intro_decoder((8, 8, 1), **TINY)
    set_mean(encoder, decoder, np.tile([[0.0], [1.0]], (8, 4)).reshape(8, 8, 1), 0.5)
    assert np.isfinite(ops.convert_to_numpy(decoder.get_layer("add_mean").volume)).all()


def test_a_mean_volume_that_does_not_fit_is_named():
    encoder, decoder = intro_encoder((8, 8, 1), **TINY), intro_decoder((8, 8, 1), **TINY)
    with pytest.raises(ValueError, match=r"volume of shape \(8, 8\)"):
        set_mean(encoder, decoder, np.zeros((8, 8)), 1.0)
    with pytest.raises(ValueError, match="deviation=0"):
        set_mean(encoder, decoder, np.zeros((8, 8, 1)), 0)


def principal(count=3, size=8):
    """Volumes along `count` orthogonal axes about a mean, the mean, and the components."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(size**3, count)))[0].T
    components = (axes * np.array([0.8, 0.5, 0.3])[:count, None]).reshape(count, *[size] * 3, 1)
    scores = rng.normal(size=(6, count))
    mean = 0.4 + 0.2 * volumes_of((size, size, size, 1))
    return mean + np.tensordot(scores, components, 1), mean, components, scores


@pytest.mark.parametrize("patch", [1, 2])
def test_a_linear_path_starts_as_principal_component_analysis(patch):
    x, mean, components, scores = principal()
    encoder = intro_encoder((8, 8, 8, 1), **TINY, patch=patch, linear=True)
    decoder = intro_decoder((8, 8, 8, 1), **TINY, patch=patch, linear=True)
    set_mean(encoder, decoder, mean, 0.05)
    set_components(encoder, decoder, components)
    mean = ops.convert_to_numpy(encoder(x)[0])
    np.testing.assert_allclose(mean, scores, atol=0.3)  # with what convolutions add at the start
    last = next(w for w in decoder.weights[::-1] if len(w.shape) == 5)
    last.assign(0 * last)
    np.testing.assert_allclose(ops.convert_to_numpy(decoder(scores)), x, atol=2e-3)
    for part in (encoder, decoder):
        assert not any("components" in weight.path for weight in part.trainable_weights)
        assert any("turn" in weight.path for weight in part.trainable_weights)


def test_fewer_components_than_numbers_leave_the_rest_without_a_path():
    _, mean, components, _ = principal(2)
    encoder = intro_encoder((8, 8, 8, 1), **TINY, linear=True)
    decoder = intro_decoder((8, 8, 8, 1), **TINY, linear=True)
    set_mean(encoder, decoder, mean, 0.05)
    set_components(encoder, decoder, components)
    kernel = ops.convert_to_numpy(encoder.get_layer("components").kernel)
    assert np.isfinite(kernel).all()
    assert (np.abs(kernel).max(axis=0) > 0).tolist() == [True, True, False]


def test_components_that_do_not_fit_are_named():
    parts = intro_encoder((8, 8, 1), **TINY), intro_decoder((8, 8, 1), **TINY)
    with pytest.raises(ValueError, match=r"at most 3, 8, 8, 1.*shape \(4, 8, 8, 1\)"):
        set_components(*parts, np.ones((4, 8, 8, 1)))
    with pytest.raises(ValueError, match="linear=True"):
        set_components(*parts, np.ones((2, 8, 8, 1)))


def test_the_source_normalises_over_batches():
    encoder = intro_encoder((8, 8, 8, 1), **TINY, norm="batch")
    names = kinds(encoder)
    assert names.count("BatchNormalization") == 3
    assert not {"GroupNorm", "LayerNormalization"} & set(names)


@pytest.mark.parametrize(
    ("shape", "norm", "dense_units"),
    [((8,), "none", ()), ((8, 4), "batch", (5, 6)), ((4, 8, 12), "group", (5,))],
)
def test_every_rank_comes_back_to_its_size(shape, norm, dense_units):
    options = {**TINY, "norm": norm, "dense_units": dense_units}
    encoder = intro_encoder((*shape, 2), **options)
    decoder = intro_decoder((*shape, 2), **options)
    x = volumes_of((3, *shape, 2))
    mean, log_variance = encoder(x)
    assert mean.shape == log_variance.shape == (3, 3)
    y = ops.convert_to_numpy(decoder(mean))
    assert y.shape == x.shape
    assert y.dtype == "float32"
    units = [layer.units for layer in encoder.layers if isinstance(layer, keras.layers.Dense)]
    assert units == [*dense_units, 3, 3]
    units = [layer.units for layer in decoder.layers if isinstance(layer, keras.layers.Dense)]
    assert units[:-1] == list(dense_units[::-1])


def test_volumes_stay_in_the_range_of_the_data():
    decoder = intro_decoder((8, 8, 8, 1), **TINY)
    y = ops.convert_to_numpy(decoder(1e4 * volumes_of((4, 3)) - 5e3))
    assert y.min() >= 0
    assert y.max() <= 1
    assert np.isfinite(y).all()


@pytest.mark.parametrize(
    ("norm", "encoding", "decoding"), [("batch", 0, 0), ("group", 0, 2), ("none", 3, 3)]
)
def test_biases_are_where_no_normalisation_takes_them_away(norm, encoding, decoding):
    encoder = intro_encoder((8, 8, 1), **TINY, norm=norm)
    assert sum(w.name == "bias" for w in encoder.weights) == encoding + 2
    decoder = intro_decoder((8, 8, 1), **TINY, norm=norm)
    assert sum(w.name == "bias" for w in decoder.weights) == decoding + 1


@pytest.mark.parametrize("norm", ["group", "none"])
def test_how_long_a_vector_is_can_be_seen_in_what_is_decoded(norm):
    keras.utils.set_random_seed(0)
    decoder = intro_decoder((8, 8, 8, 1), **TINY, norm=norm)
    for weight in decoder.trainable_weights:
        weight.assign(np.random.default_rng(0).normal(0, 0.3, weight.shape))
    z = np.random.default_rng(1).normal(size=(1, 3)).astype("float32")
    zero, once, twice = (ops.convert_to_numpy(decoder(k * z)) for k in (0, 1, 2))
    assert np.abs(twice - once).max() > 0.02
    # No jump at the mean either, which a vector without a direction would make.
    near = ops.convert_to_numpy(decoder(1e-4 * z))
    np.testing.assert_allclose(near, zero, atol=1e-3)


def test_group_normalisation_is_the_same_in_training_and_whatever_is_in_the_batch():
    options = {**TINY, "dropout": 0.0}
    x = volumes_of((4, 8, 8, 1))
    encoder = intro_encoder((8, 8, 1), **options)
    whole = ops.convert_to_numpy(encoder(x, training=True)[0])
    still, alone = (
        ops.convert_to_numpy(encoder(part, training=training)[0])
        for part, training in ((x, False), (x[:1], True))
    )
    np.testing.assert_allclose(whole, still, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole[:1], alone, rtol=1e-4, atol=1e-5)


def test_dropout_is_for_training_alone():
    encoder, x = intro_encoder((8, 8, 1), **TINY, dropout=0.5), volumes_of((4, 8, 8, 1))
    first, second = (encoder(x, training=True)[0] for _ in range(2))
    assert np.abs(ops.convert_to_numpy(first - second)).max() > 1e-4
    first, second = (encoder(x, training=False)[0] for _ in range(2))
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (first, second)))


@pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="PyTorch averages no volumes of bfloat16 on a processor",
)
def test_mixed_precision_ends_in_float32():
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = intro_encoder((8, 8, 8, 1), **TINY)
        decoder = intro_decoder((8, 8, 8, 1), **TINY)
    finally:
        keras.config.set_dtype_policy(old)
    assert encoder.layers[1].compute_dtype == "bfloat16"
    mean, log_variance = encoder(volumes_of((2, 8, 8, 8, 1)))
    for output in (mean, log_variance, decoder(mean)):
        assert keras.backend.standardize_dtype(output.dtype) == "float32"


def test_the_networks_come_back_from_file(tmp_path):
    x = volumes_of((2, 8, 8, 8, 1))
    encoder = intro_encoder((8, 8, 8, 1), **TINY, norm="batch")
    decoder = intro_decoder((8, 8, 8, 1), **TINY, norm="batch")
    restored = []
    for network in (encoder, decoder):
        network.save(tmp_path / "network.keras")
        restored.append(keras.saving.load_model(tmp_path / "network.keras"))
    expected = ops.convert_to_numpy(decoder(encoder(x)[0]))
    again = ops.convert_to_numpy(restored[1](restored[0](x)[0]))
    np.testing.assert_array_equal(again, expected)


def test_arguments_that_fit_no_network_are_named():
    for network in (intro_encoder, intro_decoder):
        with pytest.raises(ValueError, match=r"multiples of 8.*Received: shape=\(40, 50, 40, 1\)"):
            network((40, 50, 40, 1))
        with pytest.raises(ValueError, match="known multiples of 8"):
            network((None, 8, 8, 1))
        with pytest.raises(ValueError, match="one to three spatial sizes"):
            network((8, 8, 8, 8, 1))
        with pytest.raises(ValueError, match="`norm` must be .* Received: norm=layer"):
            network((8, 8, 8, 1), norm="layer")
        with pytest.raises(ValueError, match="`groups` must divide"):
            network((8, 8, 8, 1), groups=5)
        with pytest.raises(ValueError, match="one entry per stage"):
            network((8, 8, 8, 1), filters=())
        with pytest.raises(ValueError, match="Received: patch=3"):
            network((8, 8, 8, 1), patch=3)
        with pytest.raises(ValueError, match="Received: latent_size=0"):
            network((8, 8, 8, 1), latent_size=0)
