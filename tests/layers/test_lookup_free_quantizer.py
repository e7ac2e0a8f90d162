import itertools

import keras
import numpy as np
import pytest
from keras import ops

from brainvq.layers import LookupFreeQuantizer
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, gradient, unit

RNG = np.random.default_rng(0)


def test_keeps_the_shared_contract(tmp_path):
    config = {"bits": 4, "spherical": True, "beta": 0.5, "entropy_weight": 0.2}
    config |= {"temperature": 0.7, "joint_bits": 3}
    x = RNG.normal(size=(2, 3, 2, 4)).astype("float32")
    options = {"output_key": "quantized", "own_dtype": "float32", "tmp_path": tmp_path}
    layer = run_layer_test(LookupFreeQuantizer, config, x, check_training=False, **options)
    assert layer.num_codes == 16
    assert layer.weights == []
    assert keras.saving.get_registered_name(LookupFreeQuantizer) == "brainvq>LookupFreeQuantizer"


@pytest.mark.parametrize("spherical", [False, True])
def test_codes_vectors_and_losses_equal_numpy(spherical):
    bits, temperature = 4, 0.6
    z = RNG.normal(size=(5, 3, bits)).astype("float32")
    layer = LookupFreeQuantizer(
        bits, spherical, beta=0.3, entropy_weight=2.0, temperature=temperature, joint_bits=bits
    )
    outputs = keras.tree.map_structure(array, layer(z))
    size = bits**-0.5 if spherical else 1.0
    read = unit(z) if spherical else z
    # All codes, the first channel counting least: by a softmax over every one of them.
    codebook = size * np.array([digits[::-1] for digits in itertools.product([-1, 1], repeat=bits)])
    np.testing.assert_allclose(array(layer.codebook), codebook, rtol=1e-6)
    apart = np.square(read[..., None, :] - codebook).sum(-1)
    np.testing.assert_array_equal(outputs["codes"], apart.argmin(-1))
    quantized = codebook[outputs["codes"]]
    np.testing.assert_allclose(outputs["quantized"], quantized, rtol=1e-5)
    np.testing.assert_allclose(outputs["continuous"], read, rtol=1e-5)
    error = np.square(read - quantized).mean()
    np.testing.assert_allclose(outputs["losses"]["commitment_loss"], 0.3 * error, rtol=1e-5)
    p = np.exp(-apart / temperature).reshape(-1, 2**bits)
    p /= p.sum(axis=-1, keepdims=True)
    mean = p.mean(axis=0)
    expected = -(p * np.log(p)).sum(-1).mean() + (mean * np.log(mean)).sum()
    np.testing.assert_allclose(outputs["losses"]["entropy_loss"], 2 * expected, rtol=1e-4)
    # Bits counted apart: an entropy of the mean that is at least as high.
    apart = LookupFreeQuantizer(bits, spherical, temperature=temperature, joint_bits=1)
    bound = array(apart(z)["losses"]["entropy_loss"]) / 0.1
    marginal = (codebook[None] > 0).astype(float)
    marginal = (p[..., None] * marginal).sum(axis=1).mean(axis=0)
    by_bits = -(marginal * np.log(marginal) + (1 - marginal) * np.log(1 - marginal)).sum()
    np.testing.assert_allclose(bound, -(p * np.log(p)).sum(-1).mean() - by_bits, rtol=1e-4)
    assert bound <= expected


def test_the_gradient_passes_the_sign():
    layer = LookupFreeQuantizer(3)
    x, pull = RNG.normal(size=(2, 4, 2, 3)).astype("float32")
    result = gradient(lambda z: ops.sum(ops.multiply(layer(z)["quantized"], pull)), x)
    np.testing.assert_allclose(result, pull, rtol=1e-6)


def test_descent_on_the_entropy_loss_brings_all_codes_into_use():
    x = (RNG.normal(size=(64, 3)) * 0.3 + 0.6).astype("float32")  # nearly all in one corner
    inputs = keras.Input((3,))
    dense = keras.layers.Dense(3, kernel_initializer="identity")
    layer = LookupFreeQuantizer(3, beta=0.0, entropy_weight=1.0)
    model = keras.Model(inputs, layer(dense(inputs))["codes"])
    model.compile(keras.optimizers.Adam(0.1), loss=None)
    assert len(np.unique(array(model(x)))) < 8
    model.fit(x, epochs=15, batch_size=64, verbose=0)
    assert len(np.unique(array(model(x)))) == 8


def test_wrong_arguments_are_named():
    for bits in (0, 31, 2.5, "4"):
        with pytest.raises(ValueError, match="`bits` must be .*Received: bits="):
            LookupFreeQuantizer(bits)
    with pytest.raises(ValueError, match="`joint_bits` must be at most 12"):
        LookupFreeQuantizer(4, joint_bits=13)
    with pytest.raises(ValueError, match="must have 4 channels, one per bit; a ProjectedQuantizer"):
        LookupFreeQuantizer(4).build((None, 3, 5))
    with pytest.raises(ValueError, match="`temperature` must be above 0"):
        LookupFreeQuantizer(4).temperature = 0
