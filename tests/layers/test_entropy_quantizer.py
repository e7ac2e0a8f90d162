import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainvq.layers import BlockFold, EntropyQuantizer, TemplateVolume
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array

GRID = (3, 2, 2, 4)


def fitted(vectors, bits, coded=None):
    layer = EntropyQuantizer(vectors.shape[-1])
    layer.build((None, *vectors.shape[1:]))
    return layer, layer.fit(vectors, bits, coded)


def laplace(n, seed=0, grid=GRID):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.2, 3, grid)
    return rng.laplace(size=(n, *grid)).astype("float32") * scale.astype("float32")


def test_keeps_the_shared_contract(tmp_path):
    x = laplace(2)
    options = {"output_key": "quantized", "own_dtype": "float32", "tmp_path": tmp_path}
    kwargs = {"channels": 4, "levels": 31, "rounding": 0.5}
    layer = run_layer_test(EntropyQuantizer, kwargs, x, check_training=False, **options)
    assert (layer.num_codes, layer.depth, layer.codebook) == (31, 4, None)
    assert keras.saving.get_registered_name(EntropyQuantizer) == "brainvq>EntropyQuantizer"


def test_rounds_to_multiples_of_the_step_with_a_dead_zone_and_cuts_what_is_beyond():
    layer = EntropyQuantizer(6, levels=7, rounding=0.4)
    layer.build((None, 1, 6))
    layer.step.assign(2.0)
    z = np.array([[[0.0, 1.1, -1.3, 3.3, -4.1, 99.0]]], "float32")
    outputs = layer(z)
    np.testing.assert_array_equal(array(outputs["codes"]), [[[3, 3, 2, 5, 1, 6]]])
    # Scales of one step: the mean of a Laplace tail over an interval of one step.
    place = 1 - 1 / (np.e - 1)
    sizes = np.array([0, 0, -1, 2, -2, 3]) - 0.4 * np.array([0, 0, -1, 1, -1, 1])
    expected = 2 * (sizes + place * np.array([0, 0, -1, 1, -1, 1]))
    np.testing.assert_allclose(array(outputs["quantized"])[0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        array(layer.codes_to_vectors(outputs["codes"]))[0, 0], expected, rtol=1e-5
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.floats(40, 200))
def test_fit_meets_the_bits_and_they_are_those_of_an_ideal_coder(seed, bits):
    vectors = laplace(600, seed)
    layer, found = fitted(vectors, bits)
    assert found == pytest.approx(bits, rel=0.03)
    assert layer.sample_bits == pytest.approx(found, rel=1e-5)
    codes = array(layer(vectors)["codes"])
    assert layer.code_bits(codes).mean() == pytest.approx(found, rel=1e-6)
    # No less than the entropy of codes of which each place has its own frequencies; near to it.
    entropy = 0.0
    for place in codes.reshape(len(codes), -1).T:
        share = np.unique(place, return_counts=True)[1] / len(codes)
        entropy -= (share * np.log2(share)).sum()
    assert entropy - 1e-6 < found < 1.15 * entropy + 5


def test_cells_that_are_not_coded_are_zero_and_cost_nothing():
    vectors = laplace(20)
    coded = np.zeros(GRID[:-1], bool)
    coded[1] = True
    layer, _ = fitted(vectors, 50, coded)
    outputs = layer(vectors)
    assert (array(outputs["codes"])[:, ~coded] == layer.levels // 2).all()
    assert (array(outputs["quantized"])[:, ~coded] == 0).all()
    assert (layer.tables()[0][~coded] == 65536).all()
    few = array(layer.codes_to_vectors(outputs["codes"][..., :2]))
    np.testing.assert_array_equal(few[..., :2], array(outputs["quantized"])[..., :2])
    assert few.shape == vectors.shape
    assert not few[..., 2:].any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="odd"):
        EntropyQuantizer(4, levels=4)
    layer = EntropyQuantizer(4)
    with pytest.raises(ValueError, match="known grid and 4 channels"):
        layer.build((None, None, 2, 2, 4))
    layer.build((None, *GRID))
    with pytest.raises(ValueError, match="finite"):
        layer.fit(np.full((3, *GRID), np.nan), 100)


def test_folded_blocks_overlap_and_unfold():
    x = laplace(2, grid=(8, 12, 4, 2))
    fold, unfold = BlockFold(4), BlockFold(4, inverse=True)
    y = array(fold(x))
    np.testing.assert_allclose(array(unfold(y)), x, atol=1e-5)
    np.testing.assert_allclose(np.sum(y**2), np.sum(x**2), rtol=1e-4)
    # What one folded block holds reaches half a block into its neighbours, and falls smoothly.
    one = np.zeros((1, 12, 1), "float32")
    one[0, 4:8] = 1
    reach = np.abs(array(unfold(one)))[0, :, 0]
    np.testing.assert_array_equal(reach > 0, [0, 0, *[1] * 8, 0, 0])
    assert reach[2] < reach[3]
    with pytest.raises(ValueError, match="multiple of 4"):
        fold(x[:, :6])


def test_a_template_is_taken_off_and_put_back(tmp_path):
    x = laplace(2, grid=(4, 4, 4, 1))
    layer = run_layer_test(
        TemplateVolume, {"inverse": True}, x, check_training=False, tmp_path=tmp_path
    )
    away = TemplateVolume()
    away.build(x.shape)
    mean, deviation = laplace(1, 1, x.shape[1:])[0], np.full(x.shape[1:], 0.5)
    for each in (layer, away):
        each.set(mean, deviation)
    np.testing.assert_allclose(array(away(x)), 2 * (x - mean), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(array(layer(away(x))), x, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="above 0"):
        away.set(mean, 0 * deviation)
