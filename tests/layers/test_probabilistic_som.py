import keras
import numpy as np
import pytest
from keras import ops

from brainvq.layers import ProbabilisticSOM, quantizer
from brainvq.layers.probabilistic_som import log_targets
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, gradient, nearest, tensors

RNG = np.random.default_rng(0)
GRIDS = {"1d": (3,), "2d": (3, 2), "3d": (2, 1, 3)}


def make(grid=(3, 2), dim=4, som_shape=(2, 3), **options):
    x = RNG.normal(size=(2, *grid, dim)).astype("float32")
    layer = ProbabilisticSOM(som_shape, **options)
    layer.build(x.shape)
    layer.embedding.assign(RNG.normal(size=(som_shape[0] * som_shape[1], dim)))
    return layer, x


def equation_4(z, codebook, alpha):
    """s and t `(n, nodes)` as study 3 writes them, in float64."""
    z, codebook = z.reshape(-1, z.shape[-1]).astype("float64"), codebook.astype("float64")
    squares = np.sum((z[:, None] - codebook[None]) ** 2, axis=-1)
    s = (1 + squares / alpha) ** (-(alpha + 1) / 2)
    s /= s.sum(axis=1, keepdims=True)
    t = s**2 / s.sum(axis=0)
    return s, t / t.sum(axis=1, keepdims=True)


def neighbours(som_shape, topology):
    """Lists of neighbours from rows and columns alone."""
    height, width = som_shape
    neighbours = []
    for row in range(height):
        for column in range(width):
            beside = set()
            for r, c in (
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                if topology == "toroid":
                    beside.add((r % height, c % width))
                elif 0 <= r < height and 0 <= c < width:
                    beside.add((r, c))
            neighbours.append([r * width + c for r, c in beside - {(row, column)}])
    return neighbours


def test_keeps_the_shared_contract(tmp_path):
    kwargs = {"som_shape": (2, 3), "topology": "rectangular", "alpha": 4.0, "gamma": 0.5}
    kwargs |= {"beta": 0.3, "include_node": True, "quantize": True}
    kwargs |= {"initializer": "glorot_uniform", "gradient": "rotation"}
    x = RNG.normal(size=(2, 3, 2, 4)).astype("float32")
    options = {"output_key": "quantized", "own_dtype": "float32", "tmp_path": tmp_path}
    run_layer_test(ProbabilisticSOM, kwargs, x, **options)
    run_layer_test(ProbabilisticSOM, {"som_shape": (2, 3)}, x, **options)
    assert keras.saving.get_registered_name(ProbabilisticSOM) == "brainvq>ProbabilisticSOM"


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("som_shape", [(2, 3), (4, 3), (1, 5)])
@pytest.mark.parametrize("topology", ["rectangular", "toroid"])
@pytest.mark.parametrize("include_node", [False, True])
def test_values_and_losses_equal_numpy(grid, som_shape, topology, include_node):
    layer, x = make(
        grid,
        som_shape=som_shape,
        topology=topology,
        alpha=7.0,
        gamma=3.0,
        beta=0.4,
        include_node=include_node,
    )
    outputs = keras.tree.map_structure(array, layer(x))
    codebook = array(layer.embedding)
    s, t = equation_4(x, codebook, 7.0)
    log_s = layer.log_assignments(*tensors(x.reshape(-1, 4)))
    np.testing.assert_allclose(np.exp(array(log_s)), s, rtol=1e-4)
    np.testing.assert_allclose(np.exp(array(log_targets(log_s))), t, rtol=2e-4)
    np.testing.assert_array_equal(outputs["quantized"], x)
    np.testing.assert_array_equal(outputs["codes"], nearest(x, codebook))
    np.testing.assert_array_equal(outputs["codes"].ravel(), s.argmax(axis=1))
    assert "continuous" not in outputs
    # Equation (5), term by term.
    n, clustering, neighbourhood = len(s), 0.0, 0.0
    beside = neighbours(som_shape, topology)
    for i in range(n):
        for j, around in enumerate(beside):
            clustering += t[i, j] * np.log(t[i, j] / s[i, j])
            for e in [*around, j] if include_node else around:
                neighbourhood -= s[i, j] * np.log(s[i, e])
    losses = outputs["losses"]
    np.testing.assert_allclose(losses["clustering_loss"], 3.0 / n * clustering, rtol=2e-4)
    np.testing.assert_allclose(losses["neighbourhood_loss"], 0.4 / n * neighbourhood, rtol=1e-4)
    np.testing.assert_allclose(array(layer.losses[0]), sum(losses.values()), rtol=1e-5)


def test_the_study_of_256_nodes_far_from_zero():
    # The expansion of the distance must not lose its digits where vectors are long.
    layer, x = make(dim=32, som_shape=(16, 16))
    layer.embedding.assign(array(layer.embedding) + 100.0)
    s, t = equation_4(x + 100.0, array(layer.embedding), 10.0)
    log_s = layer.log_assignments(*tensors(x.reshape(-1, 32) + 100.0))
    np.testing.assert_allclose(np.exp(array(log_s)), s, rtol=2e-3)
    np.testing.assert_allclose(np.exp(array(log_targets(log_s))), t, rtol=5e-3)


@pytest.mark.parametrize("term", ["clustering_loss", "neighbourhood_loss"])
def test_targets_and_weights_are_constants_of_the_gradient(term):
    layer, x = make(alpha=5.0, gamma=1.0, beta=1.0)
    codebook = array(layer.embedding)
    s, t = equation_4(x, codebook, 5.0)
    beside = neighbours((2, 3), "toroid")

    def loss(z):
        """The term with t, and the s that is stopped, as they were before z moved."""
        moved = np.log(equation_4(z, codebook, 5.0)[0])
        if term == "clustering_loss":
            return np.sum(t * (np.log(t) - moved)) / len(s)
        return -np.sum(
            [s[:, j] @ moved[:, around].sum(1) for j, around in enumerate(beside)]
        ) / len(s)

    result = gradient(lambda z: ops.sum(layer(z)["losses"][term]), x)
    z, step = x.astype("float64"), 1e-6
    expected = np.zeros_like(z)
    for place in np.ndindex(z.shape):
        shift = np.zeros_like(z)
        shift[place] = step
        expected[place] = (loss(z + shift) - loss(z - shift)) / (2 * step)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-5)


def test_quantize_reads_the_nearest_node():
    layer, x = make(quantize=True)
    outputs = keras.tree.map_structure(array, layer(x))
    codebook = array(layer.embedding)
    np.testing.assert_allclose(outputs["quantized"], codebook[nearest(x, codebook)], rtol=1e-5)
    np.testing.assert_array_equal(outputs["continuous"], x)
    weights = RNG.normal(size=x.shape).astype("float32")
    result = gradient(lambda z: ops.sum(ops.multiply(layer(z)["quantized"], weights)), x)
    np.testing.assert_allclose(result, weights, rtol=1e-5)


@pytest.mark.parametrize("factor", ["gamma", "beta"])
def test_gamma_sharpens_assignments_and_beta_brings_neighbours_together(factor):
    x = RNG.normal(size=(400, 3)).astype("float32")
    inputs = keras.Input((3,))
    layer = ProbabilisticSOM((3, 4), **{"gamma": 0.0, "beta": 0.0, factor: 1.0})
    model = keras.Model(inputs, layer(inputs)["quantized"])
    layer.set_codebook(x[:12])

    def measure():
        if factor == "gamma":
            return np.exp(array(layer.log_assignments(*tensors(x)))).max(axis=1).mean()
        apart = np.linalg.norm(array(layer.codebook)[:, None] - array(layer.codebook), axis=-1)
        return -apart[layer.som_grid.adjacency > 0].mean() / apart.mean()

    before = measure()
    model.compile(keras.optimizers.Adam(0.02), loss=None)
    model.fit(x, batch_size=100, epochs=15, verbose=0)
    assert measure() > before + 0.05


def test_nodes_in_one_place_stay_there_wherever_the_vectors_are():
    # Only differences of distances count, so that nothing draws such a toroid to its vectors.
    layer, x = make(som_shape=(3, 4), beta=0.5)
    layer.embedding.assign(np.ones((12, 4)))
    losses = {name: array(value) for name, value in layer(x)["losses"].items()}
    assert losses["clustering_loss"] == pytest.approx(0, abs=1e-6)
    assert losses["neighbourhood_loss"] == pytest.approx(0.5 * 4 * np.log(12), rel=1e-5)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs)["quantized"])
    model.compile(keras.optimizers.SGD(1.0), loss=None)
    model.fit(x, batch_size=len(x), verbose=0)
    np.testing.assert_allclose(array(layer.codebook), 1.0, atol=1e-5)


def test_vectors_on_their_nodes_and_far_away_stay_finite():
    layer, x = make()
    for z in (array(layer.embedding), np.full((6, 4), 1e4, "float32")):
        outputs = keras.tree.map_structure(array, layer(z))
        assert all(np.isfinite(value) for value in outputs["losses"].values())
        total = gradient(lambda t: ops.sum(sum(layer(t)["losses"].values())), z)
        assert np.isfinite(total).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "Received: alpha=0"),
        ({"gamma": -1}, "Received: gamma=-1"),
        ({"beta": -1}, "Received: beta=-1"),
        ({"topology": "ring"}, "Received: topology=ring"),
        ({"som_shape": 256}, "Received: som_shape=256"),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ProbabilisticSOM(**options)


@pytest.mark.parametrize("topology", ["toroid", "rectangular"])
def test_very_many_nodes_in_parts_give_the_same(monkeypatch, topology):
    options = {"topology": topology, "include_node": topology == "toroid", "quantize": True}
    layer, x = make((3, 2), beta=0.7, **options)
    mask = RNG.random((2, 3, 2)) < 0.7

    def results():
        outputs = layer(x, training=True, mask=mask)
        to_z = gradient(lambda z: sum(layer(z, mask=mask)["losses"].values()), x)

        def of_codebook(codebook):
            monkeypatch.setattr(layer, "_learning_codebook", lambda vectors: codebook)
            return sum(layer(x, mask=mask)["losses"].values())

        to_codebook = gradient(of_codebook, array(layer.codebook))
        monkeypatch.delattr(layer, "_learning_codebook")
        return keras.tree.map_structure(array, outputs), to_z, to_codebook

    whole = results()
    monkeypatch.setattr(quantizer, "MOST_CODES", 4)
    monkeypatch.setattr(quantizer, "PART", 2)  # three parts of four vectors
    for old, new in zip(*map(keras.tree.flatten, (whole, results())), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
