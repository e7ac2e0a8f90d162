"""How scans and pictures become slices, and how high in the brain each of them lies."""

import numpy as np

from brainvq import data
from brainvq.tasks.scans import unit_scale


def slice_steps(options):
    """The preprocessing of slices, of a `brainvq.options.SliceData`: a list of steps."""
    if options.source == "png":
        return png_steps(options.size)
    return scan_steps(options) if options.has_scans else picture_steps(options.size)


def scan_steps(options):
    """The preprocessing of scans: axial slices of equal pixels."""
    pixels = []
    if options.spacing is not None:
        pixels = [data.Resample(spacing=(options.spacing, options.spacing, None))]
    return [
        # LPS, so that image[:, :, k].T is a radiological picture: anterior above, right at left.
        data.Canonical(axcodes="LPS"),
        *unit_scale(options),
        data.SelectSlices(
            plane="axial",
            spacing=options.slice_spacing,
            margin=options.slice_margin,
            count=options.slices,
        ),
        *pixels,
        data.CropOrPad(shape=(options.size, options.size, None), center="foreground"),
    ]


def png_steps(size):
    """The preprocessing of OASIS slices of 256 pixels: only their size and scale are left to do."""
    return [
        data.Resample(spacing=(256 / size, 256 / size, None)),
        data.CropOrPad(shape=(size, size, None), center="volume"),
        data.ScaleIntensity(method="max"),
    ]


def picture_steps(size):
    """The preprocessing of pictures of any size: scaled to fit, filled, brightest pixel 1."""
    return [
        data.FitInside(size=size),
        data.CropOrPad(shape=(size, size, None), center="volume"),
        data.ScaleIntensity(method="max"),
    ]


def pixel_size(store):
    """Height and width of a pixel of the store's slices in mm, those of its first scan."""
    columns = np.linalg.norm(store.scans["affine"].iloc[0][:3, :3], axis=0)
    return float(columns[1]), float(columns[0])


def levels(store, count):
    """How high in its brain each slice lies: 0 for the lowest `1 / count` of it, up to count - 1.

    Args:
        store: an `ArrayStore` of slices.
        count: int, number of levels.

    Returns:
        int array, one for each sample of the store.
    """
    return _level(heights(store), count)


def heights(store):
    """How high in its brain each slice of a store lies: floats from 0, the lowest, to 1."""
    index = store.table["index"]
    last = index.groupby(store.table["scan_id"]).transform("max").clip(lower=1)
    return (index / last).to_numpy()


def levels_of_slices(slices, count):
    """As `levels`, for all slices of one scan: the brain's own extent counts.

    Args:
        slices: float `(n, rows, cols, 1)`, lowest first.
        count: int, number of levels.

    Returns:
        int array `(n,)`.
    """
    return _level(heights_of_slices(slices), count)


def heights_of_slices(slices):
    """As `heights`, for all slices of one scan; black ones below it are below 0, above it above 1.

    Args:
        slices: float `(n, rows, cols, 1)`, lowest first.

    Returns:
        float array `(n,)`.
    """
    filled = np.flatnonzero((slices > 0).any(axis=(1, 2, 3)))
    first, last = (filled[0], filled[-1]) if len(filled) else (0, len(slices) - 1)
    return (np.arange(len(slices)) - first) / max(last - first, 1)


def _level(height, count):
    """The level of slices whose height is 0 at the bottom of the brain and 1 at its top."""
    return np.clip((height * count).astype(int), 0, count - 1)


def spread(count, most):
    """Numbers of at most `most` of `count` slices, evenly from the first to the last: int array."""
    return np.linspace(0, count - 1, min(most, count)).astype(int)
