import numpy as np

from brainvq.layers import AddVolume, RemoveVolume
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def test_they_keep_the_contract_of_a_layer(tmp_path):
    for kind in (RemoveVolume, AddVolume):
        run_layer_test(
            kind,
            {},
            normal(3, 4, 2, 5, 1),
            check_training=kind is AddVolume,
            tmp_path=tmp_path,
        )


def test_what_is_removed_is_fixed():
    layer, x = RemoveVolume(), normal(3, 4, 5, 2)
    np.testing.assert_array_equal(array(layer(x)), x)
    volume = normal(4, 5, 2)
    layer.set(volume, 0.5)
    np.testing.assert_allclose(array(layer(x)), (x - volume) / 0.5, rtol=1e-5)
    assert not layer.trainable_weights


def test_what_is_added_is_trained():
    layer, x = AddVolume(), normal(3, 4, 5, 2)
    np.testing.assert_array_equal(array(layer(x)), x)
    volume = normal(4, 5, 2)
    layer.volume.assign(volume)
    np.testing.assert_allclose(array(layer(x)), x + volume, rtol=1e-6)
    assert [weight.shape for weight in layer.trainable_weights] == [(4, 5, 2)]
