import keras
import numpy as np
import pytest

from brainvq.layers import GroupNorm
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, gradient

RNG = np.random.default_rng(0)


def normal(shape, mean=0.0):
    return (mean + RNG.normal(size=shape)).astype("float32")


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 6), (2, 3, 4, 6)])
def test_it_keeps_the_contract_of_a_layer(shape, tmp_path):
    options = {"groups": 3, "epsilon": 0.01}
    run_layer_test(GroupNorm, options, normal((3, *shape)), tmp_path=tmp_path)


@pytest.mark.parametrize(("groups", "mean"), [(1, 0.0), (2, 10.0), (6, -3.0)])
def test_it_is_the_formula_and_the_layer_of_keras(groups, mean):
    x = normal((3, 5, 4, 2, 6), mean)
    layer, peer = GroupNorm(groups), keras.layers.GroupNormalization(groups)
    gamma, beta = normal(6), normal(6)
    for one in (layer, peer):
        one.build(x.shape)
        one.set_weights([gamma, beta])
    grouped = x.astype("float64").reshape(3, 5, 4, 2, groups, -1)
    axes = (1, 2, 3, 5)
    expected = grouped - grouped.mean(axes, keepdims=True)
    expected /= np.sqrt(grouped.var(axes, keepdims=True) + 1e-3)
    expected = expected.reshape(x.shape) * gamma + beta
    np.testing.assert_allclose(array(layer(x)), expected, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(array(layer(x)), array(peer(x)), rtol=1e-3, atol=2e-4)
    weights = normal(x.shape)
    result, known = (
        gradient(lambda x, one=one: keras.ops.sum(keras.ops.multiply(one(x), weights)), x)
        for one in (layer, peer)
    )
    np.testing.assert_allclose(result, known, rtol=1e-2, atol=2e-4)


@pytest.mark.parametrize("mean", [0.0, 1e3, -3e4])
@pytest.mark.parametrize("shape", [(2, 64, 6), (2, 16, 16, 6)])
def test_a_mean_far_from_zero_costs_no_more_digits_than_in_keras(mean, shape):
    x = normal(shape, mean)
    x[..., 0] += np.float32(0.01 * mean)  # channels of one group that lie apart
    grouped = x.astype("float64").reshape(len(x), -1, 3, 2)
    expected = grouped - grouped.mean((1, 3), keepdims=True)
    expected /= np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-3)
    ours, theirs = (
        np.abs(array(layer(x)) - expected.reshape(shape)).max()
        for layer in (GroupNorm(3), keras.layers.GroupNormalization(3))
    )
    assert not ours > theirs + 2e-6  # what Keras computes on PyTorch is not even a number here
    assert ours < 1e-6 * max(abs(mean), 10)


def test_an_even_image_is_no_division_by_zero():
    layer = GroupNorm(2)
    np.testing.assert_allclose(array(layer(np.full((1, 5, 4), 7.3, "float32"))), 0, atol=2e-3)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="Received: groups=0"):
        GroupNorm(0)
    with pytest.raises(ValueError, match="must divide the channels. Received: groups=4"):
        GroupNorm(4).build((None, 8, 6))
