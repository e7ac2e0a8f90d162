import keras
import numpy as np

from brainvq.layers import SimVQ
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, nearest

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 2, 4)).astype("float32")


def test_keeps_the_shared_contract(tmp_path):
    config = {"num_codes": 6, "beta": 0.5, "distance": "cosine", "gradient": "rotation"}
    config |= {"entropy_weight": 0.1, "stochastic": True, "temperature": 0.5, "seed": 3}
    run_layer_test(SimVQ, config, X, output_key="quantized", own_dtype="float32", tmp_path=tmp_path)
    assert keras.saving.get_registered_name(SimVQ) == "brainvq>SimVQ"


def test_the_codes_are_rows_of_the_product_and_one_step_moves_all_of_them():
    layer = SimVQ(6, beta=0.5, seed=1)
    inputs = keras.Input(X.shape[1:])
    model = keras.Model(inputs, layer(inputs)["quantized"])
    fixed, kernel = array(layer.embedding), array(layer.kernel)
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(array(layer.codebook), fixed @ kernel, atol=1e-6)
    outputs = keras.tree.map_structure(array, layer(X))
    codes = nearest(X, fixed @ kernel)
    np.testing.assert_array_equal(outputs["codes"], codes)
    error = X - (fixed @ kernel)[codes]
    np.testing.assert_allclose(outputs["losses"]["codebook_loss"], np.mean(error**2), rtol=1e-5)
    # d mean (z − c W)² / dW = −2 Σ cᵀ (z − c W) / elements, by plain descent of rate 1.
    expected = kernel + 2 * fixed[codes].reshape(-1, 4).T @ error.reshape(-1, 4) / error.size
    model.compile(keras.optimizers.SGD(1.0), loss=None)
    layer.trainable = False  # and again: what is fixed must stay so
    layer.trainable = True
    model.fit(X, batch_size=len(X), verbose=0)
    np.testing.assert_allclose(array(layer.kernel), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(array(layer.embedding), fixed)
    assert (np.abs(array(layer.codebook) - fixed @ kernel).max(axis=1) > 1e-5).all()


def test_a_codebook_can_be_set():
    layer, places = SimVQ(6), RNG.normal(size=(6, 4)).astype("float32")
    layer.build(X.shape)
    layer.set_codebook(places)
    np.testing.assert_allclose(array(layer.codebook), places, atol=1e-6)
