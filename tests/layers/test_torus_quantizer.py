import keras
import numpy as np
import pytest

from brainvq.evaluation.som import neighbour_correlation, topology_measures
from brainvq.layers import TorusQuantizer
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, nearest

RNG = np.random.default_rng(0)


def make(som_shape=(3, 4), dim=6, n=2, **options):
    x = RNG.normal(size=(n, 3, 2, dim)).astype("float32")
    layer = TorusQuantizer(som_shape, **options)
    layer.build(x.shape)
    return layer, x


def places_of(layer, x):
    """c(z) from the dense layer's weights alone."""
    kernel, bias = (array(w) for w in layer.coordinates.weights)
    pairs = (x.reshape(-1, x.shape[-1]) @ kernel + bias).reshape(-1, 2, 2)
    return (pairs / np.linalg.norm(pairs, axis=-1, keepdims=True)).reshape(-1, 4)


def grid_of(height, width):
    """c of every node, row by row."""
    nodes = [
        (np.cos(a), np.sin(a), np.cos(b), np.sin(b))
        for a in 2 * np.pi * np.arange(height) / height
        for b in 2 * np.pi * np.arange(width) / width
    ]
    return np.array(nodes)


def test_keeps_the_shared_contract(tmp_path):
    kwargs = {"som_shape": (2, 3), "size": 2.0, "radius": 0.7, "decay": 0.5, "seed": 3}
    kwargs |= {"beta": 0.5, "gamma": 0.3, "gradient": "rotation"}
    x = RNG.normal(size=(2, 3, 2, 5)).astype("float32")
    layer = run_layer_test(
        TorusQuantizer, kwargs, x, output_key="quantized", own_dtype="float32", tmp_path=tmp_path
    )
    assert layer.num_codes == 6
    assert layer.som_grid.topology == "toroid"
    assert keras.saving.get_registered_name(TorusQuantizer) == "brainvq>TorusQuantizer"


def test_values_and_losses_equal_numpy():
    layer, x = make(size=2.0, beta=0.5, gamma=0.3)
    directions = layer._directions
    np.testing.assert_allclose(directions @ directions.T, 4.0 * np.eye(4), atol=1e-5)
    codebook = grid_of(3, 4) @ directions
    np.testing.assert_allclose(array(layer.codebook), codebook, atol=1e-5)
    places = places_of(layer, x)
    v = x + (places @ directions).reshape(x.shape)
    outputs = keras.tree.map_structure(array, layer(x))
    np.testing.assert_allclose(outputs["continuous"], v, atol=1e-5)
    codes = nearest(v, codebook)
    np.testing.assert_array_equal(outputs["codes"], codes)
    np.testing.assert_allclose(outputs["quantized"], codebook[codes], atol=1e-5)
    expected = 0.5 * np.mean((v - codebook[codes]) ** 2)
    np.testing.assert_allclose(outputs["losses"]["commitment_loss"], expected, rtol=1e-4)
    soft = np.exp(16.0 * places @ grid_of(3, 4).T)
    share = (soft / soft.sum(1, keepdims=True)).mean(0)
    expected = 0.3 * np.sum(share * np.log(share * 12))
    np.testing.assert_allclose(outputs["losses"]["usage_loss"], expected, rtol=1e-3)


def test_nodes_follow_the_vectors_around_them():
    layer, x = make(radius=0.8, decay=0.6)
    before = array(layer.codebook)
    sums, counts = np.zeros((12, 6)), np.zeros(12)
    apart = layer.som_grid.distances("euclidean")
    near = np.exp(-0.5 * (apart / 0.8) ** 2)
    for _ in range(3):
        codes = array(layer(x, training=True)["codes"]).ravel()
        vectors = x.reshape(-1, 6)
        sums = 0.6 * sums + 0.4 * np.array([vectors[codes == k].sum(0) for k in range(12)])
        counts = 0.6 * counts + 0.4 * np.bincount(codes, minlength=12)
        means = (near @ sums) / (near @ counts + 1e-3)[:, None]
        np.testing.assert_allclose(array(layer.codebook), before + means, atol=1e-4)
    layer.trainable = False
    held = array(layer.codebook)
    layer(x, training=True)
    np.testing.assert_array_equal(array(layer.codebook), held)


def test_coordinates_start_at_the_principal_components():
    layer, _ = make(dim=6)
    scales = np.array([9, 7, 5, 3, 1, 0.5])
    vectors = RNG.normal(size=(4000, 6)) * scales + 5.0
    layer.set_coordinates(vectors)
    kernel, bias = (array(w) for w in layer.coordinates.weights)
    scores = vectors @ kernel + bias
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(scores.T), np.eye(4), atol=1e-3)
    assert (np.abs(kernel).argmax(0) == [0, 1, 2, 3]).all()
    # Angles of independent components are even: no place is left out.
    places = array(layer.places(vectors[None].astype("float32")))
    shares = np.bincount(nearest(places, grid_of(3, 4)), minlength=12) / 4000
    assert shares.min() > 0.5 / 12
    assert shares.max() < 2 / 12


def test_the_map_is_in_order_and_every_node_comes_into_use():
    layer, _ = make((8, 8), dim=8, n=1, size=6.0, gamma=1.0)
    # Vectors of five dimensions, on a curved sheet: no map of two follows them all.
    hidden = RNG.normal(size=(400, 5))
    x = np.maximum(hidden @ RNG.normal(size=(5, 8)), 0).astype("float32").reshape(1, 400, 1, 8)
    layer.set_coordinates(x.reshape(-1, 8))
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs)["continuous"])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, x, epochs=30, verbose=0)
    v = array(layer(x)["continuous"]).reshape(-1, 8)
    measured = topology_measures(v, array(layer.codebook), layer.som_grid.neighbours)
    assert measured["topographic_error"] < 0.1
    assert measured["nodes_used"] > 0.9 * 64
    order = neighbour_correlation(array(layer.codebook), layer.som_grid.neighbours)
    assert order["mean"] > order["all_pairs"] + 0.5


def test_wrong_arguments_are_named():
    for options in ({"size": 0}, {"radius": -1}, {"decay": 1.0}, {"gamma": -1}):
        (name,) = options
        with pytest.raises(ValueError, match=f"Received: {name}="):
            TorusQuantizer(**options)
    with pytest.raises(ValueError, match="at least 4 numbers"):
        TorusQuantizer().build((None, 3, 3))
    layer, x = make()
    with pytest.raises(ValueError, match="set_coordinates"):
        layer.set_codebook(np.zeros((12, 6)))
    with pytest.raises(ValueError, match="Received: "):
        layer.set_coordinates(np.zeros((9, 5)))
