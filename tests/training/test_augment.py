"""Augmentation of batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainvq.training.augment import Augment, BundleAugment


def batch(shape=(4, 12, 10, 1), seed=0):
    return np.random.default_rng(seed).random(shape, dtype="float32")


def rng(seed=0):
    return np.random.default_rng(seed)


def test_nothing_asked_for_changes_nothing():
    x = batch()
    np.testing.assert_array_equal(Augment()(x, rng()), x)


def test_same_generator_same_result_and_the_input_stays():
    x = batch()
    before = x.copy()
    change = Augment(shift=3, flip=0.5, gain=0.1, gamma=0.2)
    first = change(x, rng(1))
    np.testing.assert_array_equal(change(x, rng(1)), first)
    assert not np.array_equal(change(x, rng(2)), first)
    np.testing.assert_array_equal(x, before)
    assert first.dtype == np.float32
    assert first.shape == x.shape


def test_flip_mirrors_the_chosen_axis():
    x = batch()
    np.testing.assert_array_equal(Augment(flip=1.0)(x, rng()), x[:, :, ::-1])
    np.testing.assert_array_equal(Augment(flip=1.0, flip_axis=0)(x, rng()), x[:, ::-1])


@pytest.mark.parametrize("shape", [(50, 9, 9, 1), (50, 7, 8, 9, 2)])
def test_shift_moves_and_fills_with_black(shape):
    """One bright pixel in the middle is found again within reach, everywhere in reach."""
    x = np.zeros(shape, "float32")
    middle = tuple(n // 2 for n in shape[1:-1])
    x[(slice(None), *middle)] = 1
    moved = Augment(shift=2)(x, rng())
    places = np.argwhere(moved[..., 0] == 1)
    assert len(places) == len(x)
    offsets = places[:, 1:] - np.array(middle)
    for axis in range(len(middle)):
        assert set(offsets[:, axis]) == {-2, -1, 0, 1, 2}
    all_ones = Augment(shift=2)(np.ones(shape, "float32"), rng())
    assert set(np.unique(all_ones)) == {0.0, 1.0}


def test_gain_and_gamma_by_hand():
    x = np.full((200, 2, 2, 1), 0.5, "float32")
    gained = Augment(gain=0.1)(x, rng())
    assert np.ptp(gained[:, 0, 0, 0]) > 0.08
    assert gained.min() >= 0.45 - 1e-6
    assert gained.max() <= 0.55 + 1e-6
    np.testing.assert_array_equal(gained[:, 0, 0], gained[:, 1, 1])  # one factor per image
    bent = Augment(gamma=0.2)(x, rng())
    assert bent.min() >= 0.5 ** np.exp(0.2) - 1e-6
    assert bent.max() <= 0.5 ** np.exp(-0.2) + 1e-6
    assert np.ptp(bent) > 0.1


@given(
    seed=st.integers(0, 1000),
    shift=st.integers(0, 20),
    flip=st.floats(0, 1),
    gain=st.floats(0, 0.5),
    gamma=st.floats(0, 0.5),
)
def test_stays_in_range(seed, shift, flip, gain, gamma):
    x = batch((2, 6, 5, 1), seed)
    x[:, 0] = 0
    y = Augment(shift=shift, flip=flip, gain=gain, gamma=gamma)(x, rng(seed))
    assert y.shape == x.shape
    assert y.min() >= 0
    assert y.max() <= 1


@pytest.mark.parametrize(
    "arguments", [{"shift": -1}, {"shift": 0.5}, {"flip": 2}, {"gain": 1}, {"gamma": -0.1}]
)
def test_wrong_arguments(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"Received: {name}="):
        Augment(**arguments)


def curves(count=3, streamlines=6, points=8, seed=0):
    shape = (count, streamlines, points, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


def test_bundles_stay_as_they_are_if_nothing_is_asked_for():
    x = curves()
    np.testing.assert_array_equal(BundleAugment()(x, rng()), x)
    with pytest.raises(ValueError, match="at least 0"):
        BundleAugment(deform=-1)


@given(st.integers(0, 1000))
def test_permuting_keeps_every_streamline(seed):
    x = curves()
    moved = BundleAugment(permute=True)(x, rng(seed))
    for before, after in zip(x, moved, strict=True):
        order = [int(np.flatnonzero((before == line).all(axis=(1, 2)))[0]) for line in after]
        assert sorted(order) == list(range(6))


def test_a_bundle_is_deformed_as_a_whole_and_a_little():
    x = curves()
    x[:, 1] = x[:, 0]  # two streamlines in one place
    change = BundleAugment(deform=1.0)
    moved = change(x, rng(1))
    np.testing.assert_array_equal(change(x, rng(1)), moved)
    np.testing.assert_allclose(moved[:, 1], moved[:, 0], atol=1e-6)
    far = np.linalg.norm(moved - x, axis=-1)
    assert 0.01 < far.mean() < 0.3
    # The same point is moved otherwise in another group.
    twice = change(np.stack([x[0], x[0]]), rng(2))
    assert np.abs(twice[0] - twice[1]).max() > 0.01
    # Half the size, half the way, to the first order.
    half = np.linalg.norm(BundleAugment(deform=0.01)(x, rng(1)) - x, axis=-1)
    full = np.linalg.norm(BundleAugment(deform=0.02)(x, rng(1)) - x, axis=-1)
    np.testing.assert_allclose(full, 2 * half, rtol=0.05, atol=1e-4)
