"""Training on parts of images: less to compute, and no hours spent on black background."""

import dataclasses

import numpy as np

# Brighter pixels count as a place to look at.
FOREGROUND = 0.05


@dataclasses.dataclass(frozen=True)
class ForegroundWindows:
    """Cuts a square (or cube) out of each image, around a random bright pixel.

    A window that would stick out of its image is moved inside. A network of convolutions that is
    trained on windows takes whole images of any size.

    Args:
        size: int ≥ 1, side of the window in pixels, at most that of the images.
        augment: function `(batch, rng) -> batch` for the windows, or None.

    Raises:
        ValueError: if `size` is below 1.
    """

    size: int
    augment: object = None

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"`size` must be at least 1. Received: size={self.size}")

    def __call__(self, batch, rng):
        """Cuts a batch.

        Args:
            batch: float array `(batch, *spatial, channels)` in [0, 1].
            rng: `numpy.random.Generator`; the same state gives the same windows.

        Returns:
            Float32 array `(batch, size, ..., channels)`.

        Raises:
            ValueError: if the images are smaller than the window.
        """
        sizes = batch.shape[1:-1]
        if min(sizes) < self.size:
            raise ValueError(
                f"Windows of {self.size} pixels do not fit. Received: batch.shape={batch.shape}"
            )
        windows = np.empty((len(batch), *(self.size,) * len(sizes), batch.shape[-1]), "float32")
        # Drawn whatever the images, so that one image does not change the windows of the next.
        draws = rng.random(len(batch))
        for image, window, draw in zip(batch, windows, draws, strict=True):
            bright = np.flatnonzero(image.max(axis=-1) > FOREGROUND)
            place = bright[int(draw * len(bright))] if len(bright) else np.prod(sizes) // 2
            center = np.unravel_index(place, sizes)
            starts = [
                min(max(c - self.size // 2, 0), n - self.size)
                for c, n in zip(center, sizes, strict=True)
            ]
            window[:] = image[tuple(slice(start, start + self.size) for start in starts)]
        return windows if self.augment is None else self.augment(windows, rng)
