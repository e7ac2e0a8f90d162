import keras
import numpy as np
import pytest
from keras import ops

from brainvq.layers import VectorQuantizer
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, gradient, nearest, unit

RNG = np.random.default_rng(0)
GRIDS = {"1d": (3,), "2d": (3, 2), "3d": (2, 1, 3)}


def make(grid=(3, 2), dim=4, **options):
    x = RNG.normal(size=(2, *grid, dim)).astype("float32")
    layer = VectorQuantizer(6, initializer=keras.initializers.RandomNormal(seed=1), **options)
    layer.build(x.shape)
    layer.embedding.assign(RNG.normal(size=(6, dim)))
    return layer, x


def test_keeps_the_shared_contract(tmp_path):
    kwargs = {"num_codes": 6, "beta": 0.5, "distance": "cosine", "gradient": "rotation"}
    kwargs["initializer"] = "glorot_uniform"
    x = RNG.normal(size=(2, 3, 2, 4)).astype("float32")
    run_layer_test(
        VectorQuantizer, kwargs, x, output_key="quantized", own_dtype="float32", tmp_path=tmp_path
    )


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("method", ["straight_through", "rotation"])
def test_codes_values_and_losses_equal_numpy(grid, distance, method):
    layer, x = make(grid, distance=distance, gradient=method, beta=0.3)
    outputs = keras.tree.map_structure(array, layer(x))
    codebook = array(layer.embedding)
    z = x
    if distance == "cosine":
        codebook, z = unit(codebook), unit(x)
    codes = nearest(z, codebook)
    np.testing.assert_array_equal(outputs["codes"], codes)
    np.testing.assert_allclose(outputs["quantized"], codebook[codes], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array(layer.codebook), codebook, rtol=1e-5)
    error = np.mean((z - codebook[codes]) ** 2)
    np.testing.assert_allclose(outputs["losses"]["codebook_loss"], error, rtol=1e-5)
    np.testing.assert_allclose(outputs["losses"]["commitment_loss"], 0.3 * error, rtol=1e-5)
    np.testing.assert_allclose(array(layer.losses[0]), 1.3 * error, rtol=1e-5)
    looked_up = array(layer.codes_to_vectors(codes))
    np.testing.assert_allclose(looked_up, codebook[codes], rtol=1e-5)


def test_cosine_codes_do_not_depend_on_length():
    layer, x = make(distance="cosine")
    np.testing.assert_array_equal(array(layer(x)["codes"]), array(layer(7.5 * x)["codes"]))


def test_the_loss_terms_move_what_they_should():
    layer, x = make(beta=0.5)
    codebook = array(layer.embedding)
    error = x - codebook[nearest(x, codebook)]
    # The codebook loss stops at z, so that z feels β · commitment alone: 2 β (z − e) / elements.
    result = gradient(lambda t: ops.sum(sum(layer(t)["losses"].values())), x)
    np.testing.assert_allclose(result, 2 * 0.5 * error / error.size, rtol=1e-4, atol=1e-7)
    # And one step of descent with rate 1 moves the codes by the codebook loss alone.
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs)["quantized"])
    model.compile(keras.optimizers.SGD(1.0), loss=None)
    model.fit(x, batch_size=len(x), verbose=0)
    expected = codebook.copy()
    np.add.at(expected, nearest(x, codebook), 2 * error / error.size)
    np.testing.assert_allclose(array(layer.embedding), expected, rtol=1e-4)


def test_quantized_passes_the_gradient_to_its_input():
    layer, x = make()
    weights = RNG.normal(size=x.shape).astype("float32")
    result = gradient(lambda t: ops.sum(ops.multiply(layer(t)["quantized"], weights)), x)
    np.testing.assert_allclose(result, weights, rtol=1e-5)


def test_a_functional_model_trains_with_plain_fit():
    inputs = keras.Input((8, 8, 1))
    z = keras.layers.Conv2D(3, 4, strides=4)(inputs)
    z = VectorQuantizer(4, initializer=keras.initializers.RandomNormal(stddev=0.5, seed=0))(z)
    model = keras.Model(inputs, keras.layers.Conv2DTranspose(1, 4, strides=4)(z["quantized"]))
    model.compile(keras.optimizers.Adam(0.02), loss="mse")
    x = np.tile(np.linspace(0, 1, 4, dtype="float32")[:, None, None, None], (1, 8, 8, 1))
    old = [array(w) for w in model.weights]
    losses = model.fit(x, x, epochs=40, batch_size=4, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    for before, weight in zip(old, model.weights, strict=True):
        assert not np.array_equal(before, array(weight)), weight.path


def test_a_codebook_of_another_shape_is_refused():
    layer, _ = make()
    with pytest.raises(ValueError, match=r"\(6, 4\).*Received: vectors.shape=\(6, 5\)"):
        layer.set_codebook(np.zeros((6, 5)))
    with pytest.raises(ValueError, match="not built"):
        VectorQuantizer(6).set_codebook(np.zeros((6, 5)))


def test_every_option_keeps_the_shared_contract(tmp_path):
    kwargs = {"num_codes": 6, "initialization": "data", "revival_threshold": 0.1}
    kwargs |= {"entropy_weight": 0.2, "orthogonality_weight": 0.3, "stochastic": True}
    kwargs |= {"temperature": 0.5, "seed": 3}
    x = RNG.normal(size=(2, 3, 2, 4)).astype("float32")
    layer = run_layer_test(
        VectorQuantizer, kwargs, x, output_key="quantized", own_dtype="float32", tmp_path=tmp_path
    )
    assert layer.loss_names[2:] == ("entropy_loss", "orthogonality_loss")
    assert VectorQuantizer(6).loss_names == ("codebook_loss", "commitment_loss")


def test_a_plain_layer_holds_the_codebook_alone():
    layer, _ = make()
    assert len(layer.weights) == 1
    assert layer.seed_generator is None


def test_entropy_and_orthogonality_equal_numpy():
    options = {"entropy_weight": 0.7, "orthogonality_weight": 0.3, "temperature": 2.0}
    layer, x = make(**options)
    losses = layer(x)["losses"]
    codebook = array(layer.embedding).astype("float64")
    p = np.exp(-np.square(x[..., None, :] - codebook).sum(-1) / 2.0).reshape(-1, 6)
    p /= p.sum(axis=-1, keepdims=True)
    mean = p.mean(axis=0)
    expected = -(p * np.log(p)).sum(-1).mean() + (mean * np.log(mean)).sum()
    np.testing.assert_allclose(array(losses["entropy_loss"]), 0.7 * expected, rtol=1e-4)
    cosines = unit(codebook) @ unit(codebook).T
    expected = np.square(cosines - np.eye(6)).sum() / 36
    np.testing.assert_allclose(array(losses["orthogonality_loss"]), 0.3 * expected, rtol=1e-4)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("start", ["data", "kmeans"])
def test_the_first_training_batch_sets_the_codebook_and_no_other(start, distance):
    places = unit(np.random.default_rng(3).normal(size=(6, 4))).astype("float32")
    x = np.repeat(places, 20, axis=0)
    layer = VectorQuantizer(6, initialization=start, distance=distance, seed=0)
    before = array(layer(x)["quantized"])
    assert np.abs(before - x).max() > 0.1  # inference starts nothing
    np.testing.assert_allclose(array(layer(x, training=True)["quantized"]), x, atol=1e-5)
    np.testing.assert_allclose(array(layer(x)["quantized"]), x, atol=1e-5)
    started = array(layer.codebook)
    layer(x[:40] + 5, training=True)
    np.testing.assert_array_equal(array(layer.codebook), started)


def test_codes_out_of_use_are_revived_and_learn_in_fit():
    x = np.random.default_rng(4).normal(size=(256, 2)).astype("float32")
    inputs = keras.Input((2,))

    def codes_used(**options):
        start = keras.initializers.RandomNormal(3.0, 0.01, seed=0)  # far away, all alike
        layer = VectorQuantizer(16, initializer=start, seed=1, **options)
        model = keras.Model(inputs, layer(inputs)["quantized"])
        model.compile(keras.optimizers.SGD(0.5), loss=None)
        model.fit(x, epochs=6, batch_size=8, verbose=0)
        return len(np.unique(array(layer(x)["codes"]))), layer

    assert codes_used()[0] < 8
    used, layer = codes_used(revival_threshold=0.5)
    assert used >= 15
    # The optimiser moves what a start has set.
    moved = array(layer.embedding) - array(layer.initializer((16, 2)))
    assert np.abs(moved).max() > 0


def test_drawn_codes_have_the_frequencies_of_the_softmax():
    layer, _ = make(dim=2, stochastic=True, temperature=1.5, seed=5)
    z = np.array([0.2, -0.1], "float32")
    codebook = array(layer.embedding)
    p = np.exp(-np.square(z - codebook).sum(-1) / 1.5)
    codes = array(layer(np.tile(z, (20_000, 1)), training=True)["codes"])
    # Standard errors of the frequencies are below 0.5 / sqrt(20,000) = 0.0035.
    np.testing.assert_allclose(np.bincount(codes, minlength=6) / 20_000, p / p.sum(), atol=0.015)
    still = array(layer(np.tile(z, (5, 1)))["codes"])
    np.testing.assert_array_equal(still, np.tile(nearest(z, codebook), 5))


def test_beta_and_temperature_that_a_callback_sets_count_in_the_next_step():
    layer, x = make(beta=0.5, entropy_weight=1.0)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs)["quantized"])
    model.compile(keras.optimizers.SGD(0.0), loss=None)

    def anneal(epoch, logs):
        layer.beta, layer.temperature = 0.5 * epoch, 1.0 + epoch

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=anneal)
    history = model.fit(x, epochs=3, batch_size=2, verbose=0, callbacks=[callback]).history["loss"]
    terms = []
    for epoch in range(3):
        anneal(epoch, None)
        terms.append(sum(float(array(value)) for value in layer(x)["losses"].values()))
    np.testing.assert_allclose(history, terms, rtol=1e-5)
    assert len(set(np.round(terms, 6))) == 3
    assert (layer.beta, layer.temperature) == (1.0, 3.0)
    assert layer.get_config()["beta"] == 1.0
    for name, value in (("beta", -1), ("temperature", 0), ("beta", np.nan)):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            setattr(layer, name, value)
