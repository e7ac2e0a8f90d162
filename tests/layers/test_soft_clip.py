import keras
import numpy as np
import pytest

from brainvq.layers import SoftClip
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, gradient


def test_it_keeps_the_contract_of_a_layer(tmp_path):
    x = np.random.default_rng(0).normal(0.5, 1, (3, 4, 2, 5, 1)).astype("float32")
    run_layer_test(SoftClip, {"sharpness": 7.0}, x, check_training=False, tmp_path=tmp_path)


def test_it_is_the_identity_inside_and_flat_outside():
    x = np.array([-1e4, -1, -0.3, 0, 0.2, 0.5, 0.8, 1, 1.3, 2, 1e4], "float32")
    corner = np.log(2) / 40
    expected = [0, 0, 0, corner, 0.2, 0.5, 0.8, 1 - corner, 1, 1, 1]
    np.testing.assert_allclose(array(SoftClip()(x)), expected, atol=1e-5)


@pytest.mark.parametrize("sharpness", [5.0, 40.0, 200.0])
def test_it_has_an_inverse_and_never_falls(sharpness):
    layer = SoftClip(sharpness)
    y = np.linspace(0.003, 0.997, 101)
    np.testing.assert_allclose(array(layer(layer.inverse(y).astype("float32"))), y, atol=1e-5)
    made = array(layer(np.linspace(-2, 3, 1001, dtype="float32")))
    assert made.min() >= 0
    assert made.max() <= 1
    assert (np.diff(made) >= -1e-6).all()


@pytest.mark.parametrize("sharpness", [5.0, 40.0])
def test_the_gradient_is_that_of_the_formula_far_outside_on_either_side(sharpness):
    x = np.array([-1.0, -0.6, -0.1, 0.0, 0.3, 0.5, 0.7, 1.0, 1.1, 1.6, 2.0])
    got = gradient(lambda x: keras.ops.sum(SoftClip(sharpness)(x)), x.astype("float32"))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    y = np.minimum(x, 1 - x)  # the same on both sides, without cancellation
    expected = sigmoid(sharpness * y) - sigmoid(sharpness * (y - 1))
    np.testing.assert_allclose(got, expected, rtol=2e-4)
    assert (np.asarray(got) > 0).all()


def test_a_sharpness_that_is_none_is_named():
    with pytest.raises(ValueError, match="Received: sharpness=0"):
        SoftClip(0)
