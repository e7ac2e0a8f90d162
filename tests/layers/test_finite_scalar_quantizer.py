import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from brainvq.layers import FiniteScalarQuantizer
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, gradient

RNG = np.random.default_rng(0)
LEVELS = st.lists(st.integers(3, 9), min_size=1, max_size=4)


def bounded(z, levels):
    """f(z) of the class, channel by channel, in float64."""
    columns = []
    for channel, level in enumerate(levels):
        offset = 0.0 if level % 2 else 0.5
        half = (level - 1) / 2
        columns.append(half * np.tanh(z[..., channel] + np.arctanh(offset / half)) - offset)
    return np.stack(columns, axis=-1)


def test_keeps_the_shared_contract(tmp_path):
    x = RNG.normal(size=(2, 3, 2, 3)).astype("float32")
    options = {"output_key": "quantized", "own_dtype": "float32", "tmp_path": tmp_path}
    kwargs = {"levels": (4, 3, 5)}
    layer = run_layer_test(FiniteScalarQuantizer, kwargs, x, check_training=False, **options)
    assert layer.num_codes == 60
    assert layer.weights == []
    assert layer.loss_names == ()
    name = keras.saving.get_registered_name(FiniteScalarQuantizer)
    assert name == "brainvq>FiniteScalarQuantizer"
    assert FiniteScalarQuantizer().num_codes == 1000


@settings(max_examples=20, deadline=None)
@given(LEVELS, st.integers(0, 1000))
def test_values_and_codes_equal_numpy(levels, seed):
    z = (np.random.default_rng(seed).normal(size=(7, 2, len(levels))) * 2).astype("float32")
    layer = FiniteScalarQuantizer(levels)
    outputs = keras.tree.map_structure(array, layer(z))
    f = bounded(z, levels)
    # Rounding of float32 may tip what lies half-way between two levels.
    clear = np.abs(np.abs(f - np.floor(f)) - 0.5).min(axis=-1) > 1e-4
    widths = np.array(levels) // 2
    digits = np.round(f) + widths
    assert digits.min() >= 0
    assert (digits < levels).all()
    codes = np.ravel_multi_index(np.moveaxis(digits, -1, 0).astype(int), levels, order="F")
    np.testing.assert_array_equal(outputs["codes"][clear], codes[clear])
    assert outputs["codes"].dtype == np.int32
    expected = np.round(f) / widths
    np.testing.assert_allclose(outputs["quantized"][clear], expected[clear], atol=1e-5)
    np.testing.assert_allclose(outputs["continuous"], f / widths, atol=1e-5)
    looked_up = array(layer.codes_to_vectors(outputs["codes"]))
    np.testing.assert_allclose(looked_up, outputs["quantized"], atol=1e-5)
    assert outputs["losses"] == {}


@settings(max_examples=10, deadline=None)
@given(LEVELS)
def test_the_codebook_holds_every_combination_once_within_one(levels):
    layer = FiniteScalarQuantizer(levels)
    codebook = array(layer.codebook)
    assert codebook.shape == (np.prod(levels), len(levels)) == (layer.num_codes, len(levels))
    assert len(np.unique(codebook, axis=0)) == layer.num_codes
    assert np.abs(codebook).max() <= 1
    for channel, level in enumerate(levels):
        values = np.unique(codebook[:, channel])
        expected = (np.arange(level) - level // 2) / (level // 2)
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_zero_is_a_level_and_the_ends_are_reached():
    layer = FiniteScalarQuantizer((8, 5))
    ends = np.array([[0, 0], [-50, -50], [50, 50]], "float32")
    quantized = array(layer(ends)["quantized"])
    np.testing.assert_allclose(quantized, [[0, 0], [-1, -1], [3 / 4, 1]], atol=1e-6)


def test_the_gradient_passes_the_rounding_and_feels_the_bound():
    layer = FiniteScalarQuantizer((8, 5, 3))
    x = RNG.normal(size=(4, 2, 3)).astype("float32")
    pull = RNG.normal(size=x.shape).astype("float32")
    result = gradient(lambda z: ops.sum(ops.multiply(layer(z)["quantized"], pull)), x)
    steps = 1e-5 * np.ones(3)
    above, below = (bounded(x.astype("float64") + s * steps, (8, 5, 3)) for s in (1, -1))
    slopes = (above - below) / 2e-5 / np.array([4, 2, 1])
    np.testing.assert_allclose(result, pull * slopes, rtol=1e-3, atol=1e-5)


def test_wrong_arguments_are_named():
    for levels in ((), (5, 2), (4.5,)):
        with pytest.raises(ValueError, match="at least [13]. Received: levels="):
            FiniteScalarQuantizer(levels)
    with pytest.raises(ValueError, match="which make 10000000000"):
        FiniteScalarQuantizer((10,) * 10)
    with pytest.raises(ValueError, match="must have 2 channels"):
        FiniteScalarQuantizer((5, 5)).build((None, 3, 3))
