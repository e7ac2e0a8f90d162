import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from scipy.integrate import quad
from scipy.stats import gumbel_r, norm

from brainvq.layers import GumbelQuantizer, quantizer
from brainvq.models import Autoencoder, VQVAETrainer, conv_decoder, conv_encoder
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, gradient, nearest

RNG = np.random.default_rng(0)
GRIDS = {"1d": (3,), "2d": (3, 2), "3d": (2, 1, 3)}


def make(grid=(3, 2), dim=4, **options):
    x = RNG.normal(size=(2, *grid, dim)).astype("float32")
    layer = GumbelQuantizer(6, **{"seed": 1, **options})
    layer.build(x.shape)
    return layer, x


def softmax_weights(z, codebook, temperature):
    """w without noise, by explicit differences in float64."""
    differences = z[..., None, :].astype("float64") - codebook.astype("float64")
    logits = -np.sum(differences**2, axis=-1) / temperature
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_keeps_the_shared_contract(tmp_path):
    kwargs = {"codebook_size": 6, "temperature": 3.0, "codebook_scale": 0.7, "seed": 3}
    x = RNG.normal(size=(2, 3, 2, 4)).astype("float32")
    options = {"output_key": "quantized", "own_dtype": "float32", "tmp_path": tmp_path}
    layer = run_layer_test(GumbelQuantizer, kwargs, x, **options)
    assert layer.loss_names == ()
    assert layer(x)["losses"] == {}
    assert layer.losses == []
    assert keras.saving.get_registered_name(GumbelQuantizer) == "brainvq>GumbelQuantizer"
    noisy = GumbelQuantizer(6, noise_at_inference=True)
    assert GumbelQuantizer.from_config(noisy.get_config()).noise_at_inference


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("temperature", [0.3, 10.0])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_values_equal_numpy(grid, temperature, offset):
    layer, x = make(grid, temperature=temperature)
    layer.embedding.assign(array(layer.embedding) + offset)
    x, codebook = x + np.float32(offset), array(layer.codebook)
    weights = softmax_weights(x, codebook, temperature)
    np.testing.assert_allclose(array(layer.weights_of(x)), weights, rtol=2e-3, atol=1e-6)
    outputs = layer(x)
    assert set(outputs) == {"quantized", "losses"}
    # A mean of codes of both signs may lie at nought: its error goes with the codes, not with it.
    scale = np.abs(codebook).max()
    mean = array(outputs["quantized"])
    np.testing.assert_allclose(mean, weights @ codebook, rtol=1e-4, atol=1e-6 * scale)
    np.testing.assert_array_equal(array(layer.nearest(x)), nearest(x, codebook))
    assert array(layer.nearest(x)).dtype == np.int32
    np.testing.assert_array_equal(weights.argmax(-1), nearest(x, codebook))


def test_a_low_temperature_without_noise_gives_the_nearest_code():
    layer, x = make(temperature=1e-4)
    codebook = array(layer.codebook)
    quantized = array(layer(x)["quantized"])
    np.testing.assert_allclose(quantized, codebook[nearest(x, codebook)], rtol=1e-4)


def test_the_noise_is_gumbel_noise_and_new_at_each_call():
    layer, _ = make(dim=2, temperature=1e-3)
    layer.embedding.assign(RNG.normal(size=(6, 2)))
    codebook = array(layer.codebook)
    z = np.array([0.2, -0.1], "float32")
    # At a low temperature one code stands out, and by the Gumbel-max trick its frequency is that of
    # the softmax at temperature 1.
    quantized = array(layer(np.tile(z, (20_000, 1)), training=True)["quantized"])
    shares = np.bincount(nearest(quantized, codebook), minlength=6) / 20_000
    # Standard errors of the frequencies are below 0.5 / sqrt(20,000) = 0.0035.
    np.testing.assert_allclose(shares, softmax_weights(z, codebook, 1.0), atol=0.015)
    layer, x = make()
    first, second = (array(layer(x, training=True)["quantized"]) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    still = array(layer(x, training=False)["quantized"])
    np.testing.assert_array_equal(still, array(layer(x)["quantized"]))
    layer, x = make(noise_at_inference=True)
    assert np.abs(array(layer(x)["quantized"]) - array(layer(x)["quantized"])).max() > 1e-3


def test_the_start_is_gaussian_of_the_variance_in_the_text():
    layer = GumbelQuantizer(seed=0)
    layer.build((None, 4, 4, 64))
    codebook = array(layer.codebook)
    assert codebook.shape == (512, 64)
    # 32768 draws: the standard error of the variance is 2 · sqrt(2 / 32768) = 0.016.
    np.testing.assert_allclose([codebook.mean(), codebook.var()], [0, 2], atol=0.06)


def test_the_gradient_to_input_and_codebook_is_that_of_the_mean():
    layer, x = make(temperature=2.0)
    codebook, pull = array(layer.codebook), RNG.normal(size=x.shape).astype("float32")

    def value(z, e):
        return np.sum(softmax_weights(z, e, 2.0) @ e * pull)

    def differences(function, at):
        slopes = np.zeros(at.shape)
        for place in np.ndindex(at.shape):
            shift = np.zeros(at.shape)
            shift[place] = 1e-5
            slopes[place] = (function(at + shift) - function(at - shift)) / 2e-5
        return slopes

    to_z = gradient(lambda z: ops.sum(ops.multiply(layer(z)["quantized"], pull)), x)
    expected = differences(lambda z: value(z, codebook.astype("float64")), x.astype("float64"))
    np.testing.assert_allclose(to_z, expected, rtol=1e-3, atol=1e-4)

    def of_codebook(e):
        with keras.StatelessScope(state_mapping=[(layer.embedding, e)]):
            return ops.sum(ops.multiply(layer(x)["quantized"], pull))

    expected = differences(lambda e: value(x, e), codebook.astype("float64"))
    np.testing.assert_allclose(gradient(of_codebook, codebook), expected, rtol=1e-3, atol=1e-4)


def test_no_bits_are_claimed_for_it():
    parts = conv_encoder((8, 8, 1), (3,), 2, 3), conv_decoder((4, 4, 3), (3,), 2)
    layer = GumbelQuantizer(6, seed=0)
    assert layer.num_codes is None
    with pytest.raises(ValueError, match="must have codes"):
        VQVAETrainer(parts[0], layer, parts[1])
    model = Autoencoder(parts[0], layer, parts[1])
    assert not model.decodes_codes
    with pytest.raises(NotImplementedError, match="has no codes"):
        layer.codes_to_vectors(np.zeros((1, 2), "int32"))
    model.compile("adam")
    x = RNG.random((2, 8, 8, 1), dtype="float32")
    history = model.fit(x, verbose=0).history
    assert set(history) == {"loss", "reconstruction_loss"}
    np.testing.assert_array_equal(model.reconstruct(x), model.decode(model.encode(x)))


def gaussian_from_gumbel(sigma, beta):
    """KL(N(0, σ²) ‖ Gumbel(0, β)) in nats, as the layer's docstring has it.

    −log of the Gumbel density is log β + x/β + exp(−x/β); under N(0, σ²) the second term has mean
    0 and the third exp(σ²/2β²). The entropy ½ log(2πeσ²) goes off.
    """
    return (
        np.exp(sigma**2 / (2 * beta**2)) + np.log(beta) - 0.5 * np.log(2 * np.pi * np.e * sigma**2)
    )


def gumbel_from_gaussian(sigma, beta):
    """KL(Gumbel(0, β) ‖ N(0, σ²)): minus the entropy log β + γ + 1, and E[x²] = β²(γ² + π²/6)."""
    square = beta**2 * (np.euler_gamma**2 + np.pi**2 / 6)
    entropy = np.log(beta) + np.euler_gamma + 1
    return square / (2 * sigma**2) + 0.5 * np.log(2 * np.pi * sigma**2) - entropy


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 4), st.floats(0.8, 12))
def test_the_divergences_of_gaussian_and_gumbel_equal_an_integral(sigma, beta):
    gauss, gumbel = norm(0, sigma), gumbel_r(0, beta)

    def integral(p, q, low, high):
        steps = np.linspace(low, high, 9)
        pieces = zip(steps[:-1], steps[1:], strict=True)
        integrand = lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x))  # noqa: E731
        return sum(quad(integrand, *piece)[0] for piece in pieces)

    # exp(−x/β) moves the mass of the integrand to x = −σ²/β.
    reach = 12 * sigma + sigma**2 / beta
    by_integral = integral(gauss, gumbel, -reach, reach)
    assert by_integral == pytest.approx(gaussian_from_gumbel(sigma, beta), rel=1e-5, abs=1e-6)
    by_integral = integral(gumbel, gauss, -5 * beta, 45 * beta)
    assert by_integral == pytest.approx(gumbel_from_gaussian(sigma, beta), rel=1e-5, abs=1e-6)


def test_the_divergence_at_the_papers_values():
    assert gaussian_from_gumbel(np.sqrt(2), 10) == pytest.approx(1.55, abs=0.005)
    assert gumbel_from_gaussian(np.sqrt(2), 10) == pytest.approx(46.8, abs=0.05)


def test_the_divergence_of_the_codes_from_uniform_depends_on_the_vector():
    layer, _ = make(dim=8, temperature=10.0)
    codebook = array(layer.codebook)

    def divergence(z):
        weights = array(layer.weights_of(z)).astype("float64")
        return np.log(6) + np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=-1)

    # The point as far from each of the six codes: all weights are alike.
    edges = (codebook[1:] - codebook[0]).astype("float64")
    squares = (codebook.astype("float64") ** 2).sum(axis=1)
    middle = np.linalg.lstsq(2 * edges, squares[1:] - squares[0], rcond=None)[0]
    longest = codebook[squares.argmax()]  # the nearest code to itself however far it is scaled
    z = np.stack([middle, longest, 1000.0 * longest]).astype("float32")
    even, near, far = divergence(z)
    assert even == pytest.approx(0, abs=1e-5)
    assert even + 0.01 < near < far
    assert far == pytest.approx(np.log(6), rel=1e-3)  # one code alone, as an argmin picks it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_size": 1}, "Received: codebook_size=1"),
        ({"temperature": 0}, "Received: temperature=0"),
        ({"codebook_scale": 0}, "Received: codebook_scale=0"),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GumbelQuantizer(**options)


class Lower(keras.callbacks.Callback):
    """Another temperature from the second epoch on."""

    def __init__(self, layer, temperature):
        super().__init__()
        self.layer, self.temperature = layer, temperature

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.layer.temperature = self.temperature


def test_a_temperature_that_is_lowered_counts_in_fit_and_inference(tmp_path):
    def make_model(temperature):
        layer = GumbelQuantizer(6, temperature=temperature, seed=1)
        inputs = keras.Input((3, 4))
        model = keras.Model(inputs, layer(inputs)["quantized"])
        model.compile(keras.optimizers.SGD(0.0), loss="mse")
        return layer, model

    x = 0.1 * RNG.normal(size=(8, 3, 4)).astype("float32")
    layer, model = make_model(50.0)
    other, expected = make_model(0.1)
    # Codes far from the inputs whose mean is 0: a soft mean of them is near 0, one of them is not.
    model.set_weights([4 * np.concatenate([np.eye(4)[:3], -np.eye(4)[:3]])])
    expected.set_weights(model.get_weights())
    before = model.predict(x, verbose=0)
    losses = model.fit(x, x, epochs=3, callbacks=[Lower(layer, 0.1)], verbose=0).history["loss"]
    assert layer.temperature == 0.1
    assert layer.get_config()["temperature"] == 0.1
    assert losses[1] > 5 * losses[0]
    np.testing.assert_allclose(model.predict(x, verbose=0), expected.predict(x, verbose=0))
    assert np.abs(model.predict(x, verbose=0) - before).max() > 0.1
    # No weight: files of weights hold what they held.
    assert len(model.weights) == 1
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").layers[-1].temperature == 0.1
    with pytest.raises(ValueError, match="Received: temperature=nan"):
        layer.temperature = float("nan")


def test_very_many_codes_in_parts_give_the_same(monkeypatch):
    layer, x = make((3, 2), temperature=2.0)
    pull = RNG.normal(size=x.shape).astype("float32")

    def results():
        def loss(z):
            return ops.sum(ops.multiply(layer(z, training=False)["quantized"], pull))

        return array(layer(x)["quantized"]), gradient(loss, x)

    whole = results()
    monkeypatch.setattr(quantizer, "MOST_CODES", 4)
    monkeypatch.setattr(quantizer, "PART", 2)  # three parts of four vectors
    for old, new in zip(whole, results(), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    # Every part has noise of its own, which a backward pass draws again.
    same = np.ones_like(x)
    drawn = array(layer(same, training=True)["quantized"]).reshape(-1, x.shape[-1])
    assert len(np.unique(drawn, axis=0)) == len(drawn)
