"""Windows around the brain."""

import numpy as np
import pytest

from brainvq.training.augment import Augment
from brainvq.training.windows import ForegroundWindows


def images():
    x = np.zeros((40, 20, 24, 1), "float32")
    x[:, 3:8, 15:19] = np.arange(1, 41)[:, None, None, None] / 40
    return x


def test_windows_are_parts_of_their_images_around_bright_pixels():
    x = images()
    windows = ForegroundWindows(6)(x, np.random.default_rng(0))
    assert windows.shape == (40, 6, 6, 1)
    assert windows.dtype == np.float32
    bright = x[:, 3, 15, 0] > 0.05
    for image, window in zip(x[bright], windows[bright], strict=True):
        assert set(np.unique(window)) <= {0.0, float(image.max())}
        assert window.max() == image.max()  # its middle is bright
    assert len({window.tobytes() for window in windows[bright] > 0}) > 5  # places differ


def test_the_same_seed_gives_the_same_windows_and_no_brightness_the_middle():
    x = images()
    make = ForegroundWindows(8)
    np.testing.assert_array_equal(
        make(x, np.random.default_rng(4)), make(x, np.random.default_rng(4))
    )
    dark = np.zeros((1, 9, 9, 1), "float32")
    dark[0, 4, 4] = 0.01
    assert ForegroundWindows(3)(dark, np.random.default_rng(0))[0, 1, 1, 0] == np.float32(0.01)


def test_volumes_and_whole_images():
    x = np.random.default_rng(0).random((2, 5, 6, 7, 1)).astype("float32")
    assert ForegroundWindows(4)(x, np.random.default_rng(0)).shape == (2, 4, 4, 4, 1)
    whole = np.random.default_rng(0).random((3, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(ForegroundWindows(8)(whole, np.random.default_rng(1)), whole)


def test_windows_are_augmented():
    x = np.full((30, 8, 8, 1), 0.5, "float32")
    windows = ForegroundWindows(4, Augment(gain=0.2))(x, np.random.default_rng(0))
    assert windows.std() > 0.02


@pytest.mark.parametrize("size", [0, -4])
def test_sizes_out_of_range(size):
    with pytest.raises(ValueError, match="Received: size="):
        ForegroundWindows(size)


def test_images_that_are_too_small():
    with pytest.raises(ValueError, match=r"Windows of 9 pixels do not fit. Received: batch.shape"):
        ForegroundWindows(9)(np.zeros((1, 8, 12, 1), "float32"), np.random.default_rng(0))
