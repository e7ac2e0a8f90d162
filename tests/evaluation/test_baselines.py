import numpy as np
import pytest

from brainvq.errors import UserError
from brainvq.evaluation.baselines import PatchKMeans

RNG = np.random.default_rng(0)


def tiles(count=6):
    """Images put together from four kinds of 4x4 tile, and which tile stands where."""
    kinds = RNG.random((4, 4, 4)).astype("float32")
    places = RNG.integers(0, 4, (count, 3, 5))
    return kinds[places].transpose(0, 1, 3, 2, 4).reshape(count, 12, 20, 1), places


def test_images_of_four_tiles_need_four_codes():
    images, places = tiles()
    baseline = PatchKMeans(4, 4).fit(images)
    np.testing.assert_allclose(baseline.reconstruct(images), images, atol=1e-5)
    codes = baseline.encode(images)
    assert codes.shape == (6, 3, 5)
    # The same partition of the places, whatever the numbers of the codes.
    pairs = set(zip(codes.ravel().tolist(), places.ravel().tolist(), strict=True))
    assert len(pairs) == 4


def test_nearest_centre_by_hand():
    images = RNG.random((3, 8, 8, 1)).astype("float32")
    baseline = PatchKMeans(4, 3).fit(images)
    patch = images[1, 4:8, 0:4, 0].ravel()
    distances = ((baseline.centres_[0] - patch) ** 2).sum(axis=1)
    assert baseline.encode(images)[1, 1, 0] == distances.argmin()
    np.testing.assert_allclose(
        baseline.decode(baseline.encode(images))[1, 4:8, 0:4, 0].ravel(),
        baseline.centres_[0][distances.argmin()],
    )


def test_more_codes_are_closer():
    images = RNG.random((8, 16, 16, 1)).astype("float32")
    errors = [
        np.mean((PatchKMeans(4, k).fit(images).reconstruct(images) - images) ** 2)
        for k in (2, 16, 64)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.7 * errors[0]


def test_volumes_are_cut_into_cubes():
    kinds = RNG.random((3, 4, 4, 4)).astype("float32")
    places = RNG.integers(0, 3, (4, 2, 3, 2))
    volumes = np.zeros((4, 8, 12, 8, 1), "float32")
    for n, i, j, k in np.ndindex(places.shape):
        cube = (n, slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4), slice(4 * k, 4 * k + 4), 0)
        volumes[cube] = kinds[places[n, i, j, k]]
    baseline = PatchKMeans(4, 3).fit(volumes)
    np.testing.assert_allclose(baseline.reconstruct(volumes), volumes, atol=1e-5)
    codes = baseline.encode(volumes)
    assert codes.shape == places.shape
    assert len(set(zip(codes.ravel().tolist(), places.ravel().tolist(), strict=True))) == 3
    odd = volumes[:, :7, :, 1:]
    assert baseline.reconstruct(odd).shape == odd.shape
    with pytest.raises(UserError, match="7 x 12 x 7; expected multiples of the patch, 4"):
        PatchKMeans(4, 3).fit(odd)


def test_few_distinct_patches_and_sampling():
    images = np.zeros((2, 8, 8, 1), "float32")
    baseline = PatchKMeans(4, 16).fit(images)
    assert len(baseline.centres_[0]) == 1
    many = RNG.random((50, 8, 8, 1)).astype("float32")
    PatchKMeans(4, 2, most_patches=20).fit(many)


def test_size_that_is_no_multiple():
    with pytest.raises(UserError, match="10 x 12; expected multiples of the patch, 4"):
        PatchKMeans(4, 2).fit(np.zeros((1, 10, 12, 1)))


def test_stages_code_what_is_left():
    images = np.random.default_rng(3).random((6, 8, 8, 1)).astype("float32")
    one = PatchKMeans(4, 4).fit(images)
    two = PatchKMeans(4, 4, stages=2).fit(images)
    codes = two.encode(images)
    assert codes.shape == (6, 2, 2, 2)
    np.testing.assert_array_equal(codes[..., 0], one.encode(images))
    by_hand = two.centres_[0][codes[..., 0]] + two.centres_[1][codes[..., 1]]  # (6, 2, 2, 16)
    by_hand = by_hand.reshape(6, 2, 2, 4, 4).transpose(0, 1, 3, 2, 4).reshape(6, 8, 8, 1)
    np.testing.assert_allclose(two.decode(codes), by_hand, rtol=1e-6)
    errors = [np.square(codec.reconstruct(images) - images).mean() for codec in (one, two)]
    assert errors[1] < errors[0]
