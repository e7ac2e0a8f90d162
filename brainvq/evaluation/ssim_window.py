"""The window of SSIM, and the mean of SSIM over images and masks, in float64 chunk by chunk."""

import numpy as np

from brainvq.errors import UserError
from brainvq.evaluation.bootstrap import ratio
from brainvq.evaluation.images import check_data_range

K1, K2 = 0.01, 0.03
GAUSSIAN_SIGMA = 1.5  # pixels; Wang et al. (2004)
GAUSSIAN_RADIUS = 5  # pixels; skimage cuts the Gaussian at 3.5 sigma
CHUNK = 65_536  # pixels worked on at once: a dozen float64 arrays of that size stay in the cache


class SSIMWindow:
    """The SSIM window on one image size, applied in float64.

    Variances are differences of two nearly equal means; in float32 they err by about 1e-7, which
    against C2 = 9e-4 is up to 1e-4 at a pixel of a bright flat region. float64 costs less than
    twice the time.
    """

    def __init__(self, grid, window, gaussian, data_range):
        check_data_range(data_range)
        if gaussian:
            self.radius = GAUSSIAN_RADIUS
            offsets = np.arange(-self.radius, self.radius + 1)
            weights = np.exp(-0.5 * (offsets / GAUSSIAN_SIGMA) ** 2)
            self.weights = weights / weights.sum()
        else:
            if int(window) != window or window % 2 == 0 or window < 3:
                raise UserError(f"SSIM window: found {window}, expected an odd number from 3 up")
            self.radius = int(window) // 2
            self.weights = None
        self.size = 2 * self.radius + 1
        if min(grid) < self.size:
            raise UserError(
                f"SSIM window: found {self.size} on images of {'x'.join(map(str, grid))}, "
                "expected at most the shortest side"
            )
        samples = self.size ** len(grid)
        self.covariance = samples / (samples - 1)
        self.c1 = (K1 * data_range) ** 2
        self.c2 = (K2 * data_range) ** 2
        self.inner = (slice(self.radius, -self.radius),) * len(grid)

    def map(self, x, y):
        """SSIM where the window fits: float64 `(m, *grid)` → `(m, *(grid - size + 1))`."""
        mean_x, mean_y = self._mean(x), self._mean(y)
        product = mean_x * mean_y
        squares = mean_x * mean_x + mean_y * mean_y
        # Only the sum of the two variances enters, so four filtered images do, not five.
        covariance = self._mean(x * y) - product
        variances = self._mean(x * x + y * y) - squares
        top = (2 * product + self.c1) * (2 * self.covariance * covariance + self.c2)
        return top / ((squares + self.c1) * (self.covariance * variances + self.c2))

    def structure(self, x, y):
        """The contrast and structure terms of SSIM alone, shaped as in `map`."""
        mean_x, mean_y = self._mean(x), self._mean(y)
        covariance = self._mean(x * y) - mean_x * mean_y
        variances = self._mean(x * x + y * y) - mean_x * mean_x - mean_y * mean_y
        top = 2 * self.covariance * covariance + self.c2
        return top / (self.covariance * variances + self.c2)

    def _mean(self, image):
        for axis in range(image.ndim - 1, 0, -1):
            image = self._along(image, axis)
        if self.weights is None:
            image *= 1.0 / self.size ** (image.ndim - 1)
        return image

    def _along(self, image, axis):
        length = image.shape[axis] - self.size + 1

        def shifted(array, offset, count):
            index = [slice(None)] * array.ndim
            index[axis] = slice(offset, offset + count)
            return array[tuple(index)]

        if self.weights is not None:
            total = self.weights[self.radius] * shifted(image, self.radius, length)
            for i in range(self.radius):
                pair = shifted(image, i, length) + shifted(image, self.size - 1 - i, length)
                total += self.weights[i] * pair
            return total
        # Sums of 1, 2, 4, … neighbours, each from the one before; the binary digits of the
        # window's side say which to add. No running sum, so a NaN stays where it is.
        total, done, block, power = None, 0, image, 1
        while power <= self.size:
            if self.size & power:
                part = shifted(block, done, length)
                total = part.copy() if total is None else np.add(total, part, out=total)
                done += power
            if 2 * power <= self.size:
                count = block.shape[axis] - power
                block = shifted(block, 0, count) + shifted(block, power, count)
            power *= 2
        return total


def mean_ssim(x, y, mask, window, structure=False):
    """Means of the SSIM map over whole images and over masks, chunk by chunk.

    Args:
        x: `(n, *grid)`.
        y: `(n, *grid)`.
        mask: bool `(n, *grid)` or None.
        window: `SSIMWindow`.
        structure: True for the contrast and structure terms alone. Default False.

    Returns:
        Two float64 arrays `(n,)`; the second is None without a mask.
    """
    n, grid = len(x), x.shape[1:]
    rows = grid[0] - 2 * window.radius
    whole = np.zeros(n)
    masked, counts = np.zeros(n), np.zeros(n)
    score = window.structure if structure else window.map
    axes = tuple(range(1, len(grid) + 1))
    if mask is not None:
        mask = mask[(slice(None), *window.inner)]
    # Several small images at once, or a big volume in slabs that overlap by the window.
    images = max(1, CHUNK // int(np.prod(grid)))
    slab = rows if images > 1 else max(4, CHUNK // int(np.prod(grid[1:])))
    for start in range(0, n, images):
        batch = slice(start, start + images)
        for row in range(0, rows, slab):
            part = slice(row, min(row + slab, rows) + 2 * window.radius)
            scores = score(x[batch, part].astype("float64"), y[batch, part].astype("float64"))
            whole[batch] += scores.sum(axis=axes)
            if mask is not None:
                inside = mask[batch, row : row + slab]
                masked[batch] += np.where(inside, scores, 0.0).sum(axis=axes)
                counts[batch] += inside.sum(axis=axes)
    whole /= np.prod([side - 2 * window.radius for side in grid])
    return whole, None if mask is None else ratio(masked, counts)
