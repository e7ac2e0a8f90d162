"""Warps of slices and of coarse maps of them, and batches of codes of warped slices."""

import numpy as np
import pytest

from brainvq.training.warp import Warp, WarpedCodes

RNG = np.random.default_rng(0)


def discs(count, size=64):
    """Smooth discs, each with a bright place on its left: `(count, size, size, 1)`."""
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    disc = 0.5 / (1 + np.exp((np.hypot(rows, columns) - 0.35 * size) / 2))
    left = 0.4 * np.exp(-(rows**2 + (columns + 0.15 * size) ** 2) / (0.004 * size**2))
    return np.repeat((disc + left)[None, ..., None], count, axis=0).astype("float32")


def coarse(slices, size):
    step = slices.shape[1] // size
    return slices.reshape(len(slices), size, step, size, step).mean(axis=(2, 4))[..., None]


def test_a_map_is_warped_as_its_slice():
    slices = discs(6)
    maps = coarse(slices, 16)
    moved, warped = Warp(1.0)(slices, maps, np.random.default_rng(0))
    assert moved.dtype == warped.dtype == "float32"
    assert moved.min() >= 0
    assert moved.max() <= 1
    np.testing.assert_allclose(warped, coarse(moved, 16), atol=0.03)
    assert np.abs(warped - maps).max(axis=(1, 2, 3)).min() > 0.05  # all of them are changed
    assert np.abs(moved[0] - moved[1]).max() > 0.05  # each in its own way
    np.testing.assert_array_equal(slices, discs(6))


def test_a_warp_of_no_size_mirrors_alone():
    slices = discs(40)
    moved, warped = Warp(0.0)(slices, None, np.random.default_rng(0))
    assert warped is None
    mirrored = np.array([np.array_equal(image, slices[0, :, ::-1]) for image in moved])
    same = np.array([np.array_equal(image, slices[0]) for image in moved])
    assert (mirrored ^ same).all()
    assert 8 < mirrored.sum() < 32
    np.testing.assert_array_equal(Warp(1.0, flip=0)(slices, None, RNG, share=0)[0], slices)


def test_size_is_in_proportion_to_the_slice():
    small, large = Warp(1.0, flip=0), Warp(1.0, flip=0)
    fields = [
        warp._fields(np.random.default_rng(3), 50, (size, size), 1.0)
        for warp, size in ((small, 64), (large, 128))
    ]
    np.testing.assert_allclose(fields[1].std() / fields[0].std(), 2, rtol=0.05)
    assert 2 < fields[1].std() < 6  # pixels of a slice of 128


def test_batches_hold_codes_of_warped_slices_and_depend_on_seed_epoch_and_batch_alone():
    slices = discs(10)
    plan = np.concatenate([coarse(slices, 16)] * 3 + [np.full((10, 16, 16, 1), 0.3)], axis=-1)
    seen = []

    def encode(images):
        seen.append(images)
        return (images[:, ::8, ::8, 0] * 10).astype("int32")

    def stream(**options):
        made = WarpedCodes(
            slices, np.arange(10), 4, encode=encode, warp=Warp(1.0), shuffle=True, **options
        )
        made.epochs = 4
        return made

    first = stream(conditions={"plan": plan.astype("float16"), "labels": np.arange(10)})
    (batch,) = first[1]
    assert batch["codes"].shape == (4, 8, 8)
    assert batch["plan"].shape == (4, 16, 16, 4)
    np.testing.assert_allclose(batch["plan"][..., 0], coarse(seen[0], 16)[..., 0], atol=0.03)
    np.testing.assert_allclose(batch["plan"][..., 3], 0.3, atol=1e-3)  # a height stays
    np.testing.assert_array_equal(batch["labels"], np.sort(first.rows(1)))
    again = stream(conditions={"plan": plan.astype("float16"), "labels": np.arange(10)})
    again.epoch = 3
    late = again[1][0]
    again.epoch = 0
    np.testing.assert_array_equal(again[1][0]["codes"], batch["codes"])
    assert late["codes"].shape == batch["codes"].shape
    (alone,) = stream()[0]
    assert alone.shape == (4, 8, 8)


def test_warps_narrow_towards_the_end():
    slices, moved = discs(8), {}
    stream = WarpedCodes(
        slices, np.arange(8), 8, encode=lambda images: images[..., 0], warp=Warp(1.0, flip=0)
    )
    stream.epochs = 40
    for stream.epoch in (0, 20, 39):
        moved[stream.epoch] = np.abs(stream[0][0] - slices[..., 0]).mean()
    assert moved[39] < 0.5 * moved[20] < 0.5 * moved[0] * 1.2
    assert moved[39] > 0


@pytest.mark.parametrize("size", [40, 100])
def test_slices_of_any_size_that_cells_divide(size):
    slices = discs(2, size)
    moved, maps = Warp(1.0)(slices, coarse(slices, size // 4), np.random.default_rng(1))
    assert moved.shape == slices.shape
    assert maps.shape == (2, size // 4, size // 4, 1)
