import keras
import numpy as np
import pytest
from keras import ops

from brainvq.layers import BottleneckChain, GaussianSampling, SOMQuantizer
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, gradient, nearest

RNG = np.random.default_rng(0)
GRIDS = {"1d": (3,), "2d": (3, 2), "3d": (2, 1, 3)}
MAPS = [((2, 3), "rectangular"), ((2, 3), "toroid"), ((4, 3), "toroid"), ((1, 5), "rectangular")]


def make(grid=(3, 2), dim=4, som_shape=(2, 3), **options):
    x = RNG.normal(size=(2, *grid, dim)).astype("float32")
    layer = SOMQuantizer(som_shape, **options)
    layer.build(x.shape)
    layer.embedding.assign(RNG.normal(size=(som_shape[0] * som_shape[1], dim)))
    return layer, x


def around(node, som_shape, topology):
    """The node and its neighbours, from rows and columns alone."""
    height, width = som_shape
    row, column = divmod(int(node), width)
    cells = {(row, column)}
    for other in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
        if topology == "toroid":
            cells.add((other[0] % height, other[1] % width))
        elif 0 <= other[0] < height and 0 <= other[1] < width:
            cells.add(other)
    return [r * width + c for r, c in sorted(cells)]


def test_keeps_the_shared_contract(tmp_path):
    kwargs = {"som_shape": (2, 3), "topology": "toroid", "alpha": 2.0, "beta": 0.5}
    kwargs |= {"initializer": "glorot_uniform", "gradient": "rotation"}
    x = RNG.normal(size=(2, 3, 2, 4)).astype("float32")
    layer = run_layer_test(
        SOMQuantizer, kwargs, x, output_key="quantized", own_dtype="float32", tmp_path=tmp_path
    )
    assert layer.num_codes == 6
    assert tuple(layer.codebook.shape) == (6, 4)
    assert keras.saving.get_registered_name(SOMQuantizer) == "brainvq>SOMQuantizer"


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(("som_shape", "topology"), MAPS)
def test_values_and_losses_equal_numpy(grid, som_shape, topology):
    layer, x = make(grid, som_shape=som_shape, topology=topology, alpha=3.0, beta=0.7)
    outputs = keras.tree.map_structure(array, layer(x))
    codebook = array(layer.embedding)
    codes = nearest(x, codebook)
    np.testing.assert_array_equal(outputs["codes"], codes)
    np.testing.assert_allclose(outputs["quantized"], codebook[codes], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs["continuous"], x)
    # Equation (3), position by position.
    commitment = neighbourhood = 0.0
    for z, code in zip(x.reshape(-1, 4), codes.ravel(), strict=True):
        commitment += np.sum((z - codebook[code]) ** 2)
        for node in around(code, som_shape, topology):
            neighbourhood += np.sum((codebook[node] - z) ** 2)
    losses = outputs["losses"]
    np.testing.assert_allclose(losses["commitment_loss"], 3 * commitment / x.size, rtol=1e-5)
    np.testing.assert_allclose(losses["neighbourhood_loss"], 0.7 * neighbourhood / x.size, 1e-5)
    np.testing.assert_allclose(array(layer.losses[0]), sum(losses.values()), rtol=1e-6)
    looked_up = array(layer.codes_to_vectors(outputs["codes"]))
    np.testing.assert_allclose(looked_up, codebook[codes], rtol=1e-6)


def test_losses_keep_their_digits_far_from_zero():
    layer, x = make(dim=32, som_shape=(16, 16), topology="toroid")
    layer.embedding.assign(array(layer.embedding) + 100.0)
    outputs = keras.tree.map_structure(array, layer(x + 100.0))
    codebook = array(layer.embedding).astype("float64")
    neighbourhood = sum(
        np.sum((codebook[node] - z) ** 2)
        for z, code in zip((x + 100.0).reshape(-1, 32), outputs["codes"].ravel(), strict=True)
        for node in around(code, (16, 16), "toroid")
    )
    expected = neighbourhood / x.size
    np.testing.assert_allclose(outputs["losses"]["neighbourhood_loss"], expected, rtol=1e-4)


@pytest.mark.parametrize("topology", ["rectangular", "toroid"])
def test_the_loss_terms_move_what_they_should(topology):
    layer, x = make(som_shape=(3, 4), topology=topology, alpha=2.0, beta=0.5)
    codebook = array(layer.embedding)
    codes = nearest(x, codebook)
    error = x - codebook[codes]
    # The neighbourhood term stops at z, so that z feels the commitment alone.
    result = gradient(lambda t: ops.sum(sum(layer(t)["losses"].values())), x)
    np.testing.assert_allclose(result, 2 * 2.0 * error / error.size, rtol=1e-4, atol=1e-7)
    # One step of descent with rate 1: the node by both terms, its neighbours by the second.
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs)["quantized"])
    model.compile(keras.optimizers.SGD(1.0), loss=None)
    model.fit(x, batch_size=len(x), verbose=0)
    expected = codebook.copy()
    for z, code in zip(x.reshape(-1, 4), codes.ravel(), strict=True):
        expected[code] += 2 * 2.0 * (z - codebook[code]) / x.size
        for node in around(code, (3, 4), topology):
            expected[node] += 2 * 0.5 * (z - codebook[node]) / x.size
    np.testing.assert_allclose(array(layer.embedding), expected, rtol=1e-4, atol=1e-6)


def test_both_outputs_pass_the_gradient_to_the_input_and_not_to_the_codebook():
    layer, x = make()
    weights = RNG.normal(size=x.shape).astype("float32")
    for name in ("quantized", "continuous"):
        result = gradient(lambda t, name=name: ops.sum(ops.multiply(layer(t)[name], weights)), x)
        np.testing.assert_allclose(result, weights, rtol=1e-5)
    inputs = keras.Input(x.shape[1:])
    still = SOMQuantizer((2, 3), alpha=0.0, beta=0.0)
    model = keras.Model(inputs, still(inputs)["quantized"])
    model.compile(keras.optimizers.SGD(1.0), loss="mse")
    before = array(still.embedding)
    model.fit(x, x, verbose=0)
    np.testing.assert_array_equal(array(still.embedding), before)


def test_a_ring_unfolds_along_a_circle():
    # A map of 1 × 12 nodes that is closed, on points of a circle: neighbours end up side by side.
    angles = RNG.uniform(0, 2 * np.pi, 600)
    x = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype("float32")
    inputs = keras.Input((2,))
    start = keras.initializers.RandomUniform(-0.05, 0.05, seed=1)
    layer = SOMQuantizer((1, 12), topology="toroid", initializer=start)
    model = keras.Model(inputs, layer(inputs)["quantized"])
    model.compile(keras.optimizers.Adam(0.02), loss=None)
    model.fit(x, batch_size=100, epochs=25, verbose=0)
    codebook = array(layer.codebook)
    apart = np.linalg.norm(codebook[:, None] - codebook[None], axis=-1)
    beside = layer.som_grid.adjacency > 0
    assert apart[beside].mean() < 0.6 * apart[~beside & ~np.eye(12, dtype=bool)].mean()
    codes = array(layer(x)["codes"])
    assert len(np.unique(codes)) >= 8


def test_in_a_chain_the_continuous_vectors_are_those_of_the_member_before():
    chain = BottleneckChain([GaussianSampling(0.1, seed=0), SOMQuantizer((2, 3))])
    x = RNG.normal(size=(2, 3, 2, 4)).astype("float32")
    outputs = chain(x)
    assert chain.loss_names == ("kl_loss", "commitment_loss", "neighbourhood_loss")
    mean = array(chain.bottlenecks[0](x)["quantized"])
    np.testing.assert_allclose(array(outputs["continuous"]), mean, rtol=1e-6)
    total = sum(array(value) for value in outputs["losses"].values())
    np.testing.assert_allclose(sum(array(value) for value in chain.losses), total, rtol=1e-6)


def test_a_codebook_can_be_set():
    layer, _ = make(som_shape=(2, 3))
    centroids = RNG.normal(size=(6, 4)).astype("float32")
    layer.set_codebook(centroids, counts=np.ones(6))
    np.testing.assert_array_equal(array(layer.codebook), centroids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"som_shape": 16}, "Received: som_shape=16"),
        ({"som_shape": (4, 4, 4)}, "Received: som_shape="),
        ({"som_shape": (0, 4)}, "Received: height=0"),
        ({"som_shape": (1, 1)}, "Received: num_codes=1"),
        ({"topology": "ring"}, "Received: topology=ring"),
        ({"alpha": -1}, "Received: alpha=-1"),
        ({"beta": -1}, "Received: beta=-1"),
        ({"gradient": "none"}, "Received: gradient=none"),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SOMQuantizer(**options)
