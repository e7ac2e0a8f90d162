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
