import keras
import numpy as np
import pytest

from brainvq.layers import (
    Bottleneck,
    BottleneckChain,
    EMAVectorQuantizer,
    GaussianSampling,
    Identity,
    LatentNoise,
    VectorQuantizer,
)
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array

X = np.random.default_rng(0).normal(size=(2, 3, 2, 4)).astype("float32")
OPTIONS = {"output_key": "quantized", "own_dtype": "float32"}


def test_identity_keeps_the_shared_contract(tmp_path):
    layer = run_layer_test(Identity, {}, X, check_training=False, tmp_path=tmp_path, **OPTIONS)
    outputs = layer(X)
    np.testing.assert_array_equal(array(outputs["quantized"]), X)
    assert outputs["losses"] == {}
    assert "codes" not in outputs
    assert layer.num_codes is None
    assert layer.codebook is None
    assert layer.losses == []
    with pytest.raises(NotImplementedError, match="has no codes"):
        layer.codes_to_vectors(np.zeros((1, 2), "int32"))


def test_latent_noise_keeps_the_shared_contract(tmp_path):
    config = {"size": 0.5, "seed": 3}
    layer = run_layer_test(
        LatentNoise, config, X, check_training=False, tmp_path=tmp_path, **OPTIONS
    )
    np.testing.assert_array_equal(array(layer(X)["quantized"]), X)
    assert layer(X)["losses"] == {}
    with pytest.raises(ValueError, match="`size` must be at least 0"):
        LatentNoise(-0.1)


def test_latent_noise_is_a_share_of_each_channels_spread_on_half_of_the_samples():
    rng = np.random.default_rng(1)
    spread = np.array([0.1, 1.0, 20.0], "float32")
    x = (5.0 + spread * rng.normal(size=(600, 8, 3))).astype("float32")
    noise = array(LatentNoise(0.6, seed=0)(x, training=True)["quantized"]) - x
    size = (noise / spread).std(axis=1)  # (samples, channels)
    still = size.max(axis=1) < 1e-5
    assert 0.4 < still.mean() < 0.6
    # Uniform in [0, 0.6]: of a mean square of 0.12, alike in every channel.
    np.testing.assert_allclose(np.square(noise[~still] / spread).mean(axis=(0, 1)), 0.12, rtol=0.15)
    assert np.abs(noise[~still].mean(axis=(0, 1)) / spread).max() < 0.03


def test_an_encoder_cannot_escape_latent_noise_by_larger_vectors():
    layer, again = LatentNoise(0.5, seed=2), LatentNoise(0.5, seed=2)
    noise = array(layer(X, training=True)["quantized"]) - X
    larger = array(again(10 * X, training=True)["quantized"]) - 10 * X
    np.testing.assert_allclose(larger, 10 * noise, rtol=1e-4, atol=1e-4)


def test_gaussian_sampling_keeps_the_shared_contract(tmp_path):
    run_layer_test(GaussianSampling, {"kl_weight": 0.5, "seed": 3}, X, tmp_path=tmp_path, **OPTIONS)


def test_gaussian_sampling_has_the_closed_form_divergence():
    layer = GaussianSampling(kl_weight=0.25)
    outputs = layer(X)
    kernel, bias = (array(w) for w in layer.statistics.weights)
    mean, log_variance = np.split(X @ kernel + bias, 2, axis=-1)
    expected = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    expected = 0.25 * expected.sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(array(outputs["losses"]["kl_loss"]), expected, rtol=1e-5)
    np.testing.assert_allclose(array(layer.losses[0]), expected, rtol=1e-5)
    np.testing.assert_allclose(array(outputs["quantized"]), mean, rtol=1e-5, atol=1e-6)


def test_gaussian_sampling_draws_new_noise_of_the_right_size_at_each_call():
    layer = GaussianSampling(seed=1)
    x = np.zeros((2000, 3), "float32")
    layer.build(x.shape)
    layer.statistics.bias.assign([1.0, 2.0, 3.0, 0.0, 2 * np.log(2.0), 2 * np.log(3.0)])
    first = array(layer(x, training=True)["quantized"])
    second = array(layer(x, training=True)["quantized"])
    assert np.abs(first - second).max() > 0.1
    # Standard errors over 2000 draws are std/45 for the mean and std/63 for the deviation.
    np.testing.assert_allclose(first.mean(axis=0), [1, 2, 3], atol=0.35)
    np.testing.assert_allclose(first.std(axis=0), [1, 2, 3], rtol=0.1)
    still = array(layer(x, training=False)["quantized"])
    np.testing.assert_allclose(still, np.broadcast_to([1, 2, 3], still.shape), rtol=1e-6)


def test_a_chain_merges_losses_and_has_the_codes_of_its_last(tmp_path):
    parts = [GaussianSampling(kl_weight=0.1, seed=0), VectorQuantizer(5)]
    chain = run_layer_test(BottleneckChain, {"bottlenecks": parts}, X, tmp_path=tmp_path, **OPTIONS)
    outputs = chain(X)
    assert chain.loss_names == ("kl_loss", "codebook_loss", "commitment_loss")
    assert set(outputs["losses"]) == set(chain.loss_names)
    assert tuple(outputs["codes"].shape) == (2, 3, 2)
    assert chain.num_codes == 5
    assert tuple(chain.codebook.shape) == (5, 4)
    # Each member adds its own losses once; the chain adds none of them again.
    total = sum(array(value) for value in outputs["losses"].values())
    np.testing.assert_allclose(sum(array(value) for value in chain.losses), total, rtol=1e-6)
    looked_up = array(chain.codes_to_vectors(outputs["codes"]))
    np.testing.assert_allclose(looked_up, array(outputs["quantized"]), rtol=1e-5, atol=1e-6)


def test_a_chain_numbers_loss_names_that_repeat():
    chain = BottleneckChain([GaussianSampling(), GaussianSampling()])
    assert chain.loss_names == ("kl_loss", "kl_loss_2")
    assert set(chain(X)["losses"]) == {"kl_loss", "kl_loss_2"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianSampling(kl_weight=-1), "Received: kl_weight=-1"),
        (lambda: BottleneckChain([]), "one or more"),
        (lambda: BottleneckChain([keras.layers.ReLU()]), "one or more"),
        (lambda: BottleneckChain([VectorQuantizer(4), Identity()]), "Only the last"),
        (lambda: VectorQuantizer(1), "Received: num_codes=1"),
        (lambda: VectorQuantizer(4, beta=-0.1), "Received: beta=-0.1"),
        (lambda: VectorQuantizer(4, distance="l1"), "Received: distance=l1"),
        (lambda: VectorQuantizer(4, gradient="none"), "Received: gradient=none"),
        (lambda: EMAVectorQuantizer(4, decay=1.0), "Received: decay=1.0"),
        (lambda: EMAVectorQuantizer(4, epsilon=0), "Received: epsilon=0"),
        (lambda: EMAVectorQuantizer(4, initialization="zero"), "Received: initialization=zero"),
        (lambda: EMAVectorQuantizer(4, revival_threshold=2), "Received: revival_threshold=2"),
    ],
)
def test_arguments_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_bottleneck_is_registered_under_the_package():
    for cls in (Bottleneck, BottleneckChain, Identity, GaussianSampling, VectorQuantizer):
        name = keras.saving.get_registered_name(cls)
        assert name == f"brainvq>{cls.__name__}"
        assert keras.saving.get_registered_object(name) is cls
