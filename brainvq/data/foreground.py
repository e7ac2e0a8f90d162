"""Which voxels of a scan belong to the head or brain, and what box they lie in."""

import numpy as np
from scipy import ndimage

from brainvq.data.errors import ScanError

# A brain-extracted scan has this share of voxels at exactly zero, or more.
_STRIPPED_ZEROS = 0.25


def foreground_mask(image):
    """Returns which voxels belong to the head or brain.

    Brain-extracted scans (a quarter or more of the voxels exactly 0, and the others not crowded
    just above 0 as the noise of air is) give the voxels above 0. Other scans are cut by Otsu's
    threshold on a thinned copy. Islands much smaller than the largest part are dropped.

    Args:
        image: (x, y, z) float.

    Returns:
        Bool array of the same shape, with at least one True.

    Raises:
        ScanError: no voxel stands out of the background.
    """
    threshold = _foreground_threshold(image)
    mask = image > threshold
    if not mask.any():
        raise ScanError("no foreground: all voxels have the same value or none is above 0")
    # Islands are found on blocks of 2×2×2 voxels: an eighth of the work, and it joins parts that
    # are one voxel apart.
    even = [n + n % 2 for n in mask.shape]
    padded = np.zeros(even, bool)
    padded[tuple(slice(n) for n in mask.shape)] = mask
    blocks = padded.reshape(even[0] // 2, 2, even[1] // 2, 2, even[2] // 2, 2).any(axis=(1, 3, 5))
    labels, n_parts = ndimage.label(blocks)
    if n_parts > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        large = (sizes >= 0.1 * sizes.max())[labels]
        for axis in range(3):
            large = np.repeat(large, 2, axis=axis)
        mask &= large[tuple(slice(n) for n in mask.shape)]
    return mask


def _foreground_threshold(image):
    thinned = image[tuple(slice(None, None, max(1, n // 64)) for n in image.shape)]
    positive = thinned[thinned > 0]
    if positive.size and np.mean(thinned == 0) >= _STRIPPED_ZEROS and thinned.min() >= 0:
        crowded = np.mean(positive < 0.1 * np.percentile(positive, 99))
        if crowded < 0.35:
            return 0.0
    low, high = float(thinned.min()), float(np.percentile(thinned, 99.9))
    if not high > low:
        # A few bright voxels only: the thinned copy may have missed them.
        return float(image.min())
    counts, edges = np.histogram(thinned, bins=256, range=(low, high))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    valid = (below > 0) & (above > 0)
    mean_below = sums / np.maximum(below, 1)
    mean_above = (sums[-1] - sums) / np.maximum(above, 1)
    between = np.where(valid, below * above * (mean_above - mean_below) ** 2.0, -1)
    # Otsu's optimum lies high where background fills most of the volume; half of the way back to
    # the dark class keeps dim tissue (CSF, the shaded side of a coil) inside the head.
    best = int(np.argmax(between))
    return float((edges[best + 1] + mean_below[best]) / 2)


def bounding_box(mask):
    """The lowest and the highest index of True along each axis of a mask: int array (2, axes)."""
    spans = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        spans.append(np.flatnonzero(mask.any(axis=others))[[0, -1]])
    return np.array(spans).T
