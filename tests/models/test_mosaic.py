"""Mosaics of training volumes: patches against brute force, draws that can only be one volume."""

import keras
import numpy as np
import pytest

from brainvq.models import MosaicPrior, mosaic
from brainvq.models.mosaic import Pass, _distances, _doubled, _halved, _Library, _Mosaic, _window
from tests.models.test_transform_networks import SHAPE, fitted, volumes

LEVEL = Pass(4, 2, 0.8, 2.0)


def library(people=3, mirrored=True, seed=0):
    rng = np.random.default_rng(seed)
    return _Library(rng.random((people, 16, 20, 12)).astype("float16"), mirrored)


def test_distances_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    patches, mean = rng.random((7, 27)), rng.random((3, 3, 3))
    wanted, window = rng.random((2, 3, 3, 3)), _window((3, 3, 3)).ravel()
    found = _distances(patches, mean, wanted, Pass(3, 1, 0.7, 1.0))
    r, q = patches - mean.ravel(), wanted.reshape(2, 27) - mean.ravel()
    expected = [[(window * (0.7 * a**2 - 2 * a * b)).sum() for b in q] for a in r]
    # Equal up to a constant for each that is wanted, so that the same patches are nearest.
    np.testing.assert_allclose(np.diff(found, axis=0), np.diff(expected, axis=0), atol=1e-9)


def test_the_most_alike_patch_is_that_of_a_search_over_all_volumes_and_places():
    one = library()
    wanted = np.random.default_rng(1).random((2, 8, 10, 6)).astype("float32")
    place, box = (2, 3, 1), (slice(2, 6), slice(3, 7), slice(1, 5))
    window, mean = _window((4, 4, 4)), one.half_mean[box]
    for target, found in zip(wanted, one.alike(wanted, place, LEVEL), strict=True):
        best = np.inf
        for volume in one.half:
            for move in np.ndindex(3, 3, 3):
                a, b, c = (start + m - 1 for start, m in zip(place, move, strict=True))
                patch = volume[a : a + 4, b : b + 4, c : c + 4]
                if patch.shape != (4, 4, 4):
                    continue
                r, q = patch - mean, target[box] - mean
                distance = (window * (LEVEL.shrink * r**2 - 2 * r * q)).sum()
                if distance < best:
                    best, expected = distance, patch
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("volume", [1, 4])
def test_a_whole_patch_is_that_of_its_volume_or_of_its_mirror_image(volume):
    one = library()
    found = one._whole(volume, [1, 2, 3], (6, 6, 6))
    whole = one.volumes[volume % 3]
    whole = whole[::-1] if volume >= 3 else whole
    np.testing.assert_array_equal(found, whole[2:8, 4:10, 6:12].astype("float32"))
    np.testing.assert_allclose(_halved(found), one.half[volume][1:4, 2:5, 3:6], atol=1e-6)


def test_coarse_volumes_have_the_mean_and_the_variance_of_the_training_volumes():
    one = library(people=6, mirrored=False)
    drawn = one.coarse(4000, 1.0, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(0), one.half_mean, atol=0.02)
    np.testing.assert_allclose(drawn.var(0), one.half.var(0, ddof=1), atol=0.01)
    still = one.coarse(2, 0.0, np.random.default_rng(0))
    np.testing.assert_allclose(still, np.stack([one.half_mean] * 2), atol=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
def test_coarse_volumes_of_a_given_age_are_those_that_age_makes(mirrored):
    rng = np.random.default_rng(0)
    ages, noise = rng.uniform(20, 60, 40), rng.normal(0, 0.05, (40, 1, 1, 1))
    ramp = np.linspace(0, 1, 8 * 8 * 8).reshape(1, 8, 8, 8)
    ramp = (ramp + ramp[:, ::-1]) / 2  # alike left and right
    people = 1 + 0.01 * ages[:, None, None, None] * ramp + noise
    one = _Library(people.astype("float16"), mirrored)
    given = (ages - ages.mean())[:, None], np.array([90 - ages.mean()])
    drawn = one.coarse(3000, 1.0, rng, *given)
    slope = np.polyfit(ages, noise.ravel(), 1)
    expected = _halved(1 + 0.9 * ramp[0]) + np.polyval(slope, 90)
    np.testing.assert_allclose(drawn.mean(0), expected, atol=0.01)
    # What age does not explain varies as before.
    left = np.std(noise.ravel() - np.polyval(slope, ages))
    np.testing.assert_allclose(drawn.std(0), left, rtol=0.1)


def test_doubling_keeps_means_and_straight_lines():
    line = np.arange(6, dtype="float32")[None, :, None, None] * np.ones((1, 6, 4, 2), "float32")
    found = _doubled(line)
    assert found.shape == (1, 12, 8, 4)
    np.testing.assert_allclose(found[0, 1:-1, 0, 0], np.arange(10) / 2 + 0.25)
    np.testing.assert_allclose(_halved(found[0])[1:-1], line[0, 1:-1])


def test_patches_of_one_volume_make_that_volume():
    volume = np.random.default_rng(0).random((1, 9, 8, 8)).astype("float32")
    made = _Mosaic(volume.shape, LEVEL)
    for a in (0, 2, 4, 5):
        for b in (0, 2, 4):
            for c in (0, 2, 4):
                made.add((a, b, c), volume[:, a : a + 4, b : b + 4, c : c + 4])
    np.testing.assert_allclose(made.mean(), volume, rtol=1e-5)


def test_of_alike_people_all_draws_are_that_brain_and_others_differ(tmp_path):
    brains = volumes(4)
    model = fitted(brains, bits=2000)
    vectors = model.continuous(brains)
    alike = MosaicPrior(2, vectors.shape[1:], mirrored=False)
    alike.set_vectors(np.repeat(vectors[:1], 2, axis=0))
    seen = []
    codes = alike.sample(2, model, seed=0, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(codes[0], codes[1])
    restored = alike._decoded(model)[0].astype("float32")
    drawn = model.decode(codes[:1])[0, ..., 0]
    # Where the halved volume shows less contrast than the whole one, a moved patch may win.
    assert np.corrcoef(drawn.ravel(), restored.ravel())[0, 1] > 0.97
    assert seen[-1][0] == seen[-1][1] == len(seen)

    prior = MosaicPrior(4, vectors.shape[1:], traits=("age",))
    prior.set_vectors(vectors, {"age": [20, 40, np.nan, 30]})
    assert sorted(prior.known("age")) == [20, 30, 40]
    assert not len(prior.known("sex"))
    drawn = prior.sample(8, model, seed=3)
    assert drawn.shape == (8, *vectors.shape[1:])
    assert drawn.dtype == np.int32
    assert len(np.unique(drawn.reshape(8, -1), axis=0)) > 1
    prior.save(tmp_path / "prior.keras")
    again = keras.saving.load_model(tmp_path / "prior.keras")
    np.testing.assert_array_equal(again.sample(8, model, seed=3), drawn)
    old = again.sample(8, model, seed=3, traits={"age": 200})
    assert (old != drawn).any()
    with pytest.raises(ValueError, match="known to differ"):
        again.sample(1, model, traits={"sex": 1.0})


def test_wrong_arguments_are_refused():
    prior, model = MosaicPrior(2, (2, 2, 2, 4)), None
    with pytest.raises(ValueError, match="`vectors` must have the shape"):
        prior.set_vectors(np.zeros((3, 2, 2, 2, 4)))
    with pytest.raises(ValueError, match="people"):
        MosaicPrior(0, (2, 2, 2, 4))
    with pytest.raises(ValueError, match="temperature"):
        prior.sample(1, model, temperature=-1)
    assert all(side % 2 == 0 for side in SHAPE[:3])
    assert mosaic.FINE.patch % 2 == 0
