"""Which voxels of a scan belong to the head or brain, and what box they lie in."""

import numpy as np
from scipy import ndimage

from brainvq.data.errors import ScanError

# A brain-extracted scan has this share of voxels at the value of its background, or more; of what
# stands out of that, less than the other share lies just above, where the noise of air is.
_CONSTANT, _CROWDED = 0.25, 0.35

# Shares of the range of intensities: what counts as one value, and what is far from another. This
# share of the voxels is few. Of a z-scored brain more than the last share is far below background.
_NARROW, _FAR, _FEW, _SIGNED = 1e-3, 0.1, 0.01, 0.03


def foreground_mask(image):
    """Returns which voxels belong to the head or brain.

    Brain-extracted scans (a quarter or more of the voxels at one value, and the others not crowded
    just above it as the noise of air is) give the voxels above that value, which need not be 0;
    of z-scored brains, whose background lies amid their values, those on both sides of it. Other
    scans are cut by Otsu's threshold on a thinned copy. Islands much smaller than the largest part
    are dropped.

    Args:
        image: (x, y, z) float.

    Returns:
        Bool array of the same shape, with at least one True.

    Raises:
        ScanError: no voxel stands out of the background.
    """
    mask = _standing_out(image)
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


def darkest(image):
    """Returns the intensity that is black: the smallest, without the outliers below background.

    A few voxels below the background, as bias correction, splines and dead voxels leave them, do
    not count. Tissue that is darker than the background, as in z-scored brains, does.

    Args:
        image: (x, y, z) float.

    Returns:
        float32, the smallest value of the image or one above it.
    """
    smallest, thinned = image.min(), _thinned(image)
    low, high = _range(image)
    if smallest >= max(low, 0) or not high > low:
        return smallest
    dark = thinned[thinned <= _otsu(thinned, low, high)[0]]
    level = np.median(dark)
    # Three standard deviations of the background, by its median absolute deviation.
    bound = level - 3 * 1.4826 * np.median(np.abs(dark - level))
    if np.mean(image < bound - _FAR * (high - low)) > _FEW:
        bound = low
    return max(smallest, np.float32(bound))


def _standing_out(image):
    """Bool array: the voxels of brain or head, islands of noise included."""
    thinned = _thinned(image)
    positive = thinned[thinned > 0]
    if positive.size and np.mean(thinned == 0) >= _CONSTANT and thinned.min() >= 0:
        crowded = np.mean(positive < 0.1 * np.percentile(positive, 99))
        if crowded < _CROWDED:
            return image > 0
    low, high = _range(thinned)
    if not high > low:
        # A few bright voxels only: the thinned copy may have missed them.
        return image > image.min()
    if low < 0 or thinned.min() < low or not (thinned == 0).any():
        mask = _beyond_constant(image, thinned, low, high)
        if mask is not None:
            return mask
    best, middle = _otsu(thinned, low, high)
    # Otsu's optimum lies high where background fills most of the volume; half of the way back to
    # the dark class keeps dim tissue (CSF, the shaded side of a coil) inside the head.
    return image > float((best + middle) / 2)


def _beyond_constant(image, thinned, low, high):
    """The voxels that differ from a background of one value; None without such a background."""
    span = high - low
    counts, edges = np.histogram(thinned, bins=1000, range=(low, high))
    fullest = int(np.argmax(counts))
    inside = (thinned >= edges[fullest]) & (thinned <= edges[fullest + 1])
    level = np.median(thinned[inside])
    below = level - thinned
    apart = np.count_nonzero(np.abs(below) > _NARROW * span)
    if apart > (1 - _CONSTANT) * below.size:
        return None
    signed = np.count_nonzero(below > _FAR * span) > _SIGNED * apart
    if signed:
        return np.abs(image - level) > _NARROW * span
    tolerance = _NARROW * span
    ripples = below[below > tolerance]
    if ripples.size > _FEW * below.size:
        # Splines overshoot: what they leave above the background is as high as what is below.
        tolerance = min(np.percentile(ripples, 90), 0.05 * span)
    above = -below[-below > tolerance]
    if not above.size or np.mean(above < 0.1 * np.percentile(above, 99)) >= _CROWDED:
        return None
    return image - level > tolerance


def _otsu(thinned, low, high):
    """Otsu's threshold, and the mean of the values below it."""
    from skimage.filters import threshold_otsu  # not needed for brains

    counts, edges = np.histogram(thinned, bins=256, range=(low, high))
    filled = np.flatnonzero(counts)  # scikit-image divides by the counts at both ends
    counts, edges = counts[filled[0] : filled[-1] + 1], edges[filled[0] : filled[-1] + 2]
    middles = (edges[:-1] + edges[1:]) / 2
    best = 0
    if len(counts) > 1:
        best = int(np.searchsorted(middles, threshold_otsu(hist=(counts, middles))))
    below = slice(0, best + 1)
    return edges[best + 1], np.average(middles[below], weights=counts[below])


def _thinned(image):
    return image[tuple(slice(None, None, max(1, n // 64)) for n in image.shape)]


def _range(image):
    """The smallest value, or the 0.1th percentile where that is far below it, and the 99.9th."""
    smallest = float(image.min())
    low, high = (float(value) for value in np.percentile(image, [0.1, 99.9]))
    return (low if smallest < low - _FAR * (high - low) else smallest), high


def bounding_box(mask):
    """The lowest and the highest index of True along each axis of a mask: int array (2, axes)."""
    spans = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        spans.append(np.flatnonzero(mask.any(axis=others))[[0, -1]])
    return np.array(spans).T
