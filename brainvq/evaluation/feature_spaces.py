"""Spaces in which volumes become a few numbers, to compare distributions of volumes in."""

import numpy as np

from brainvq.errors import UserError
from brainvq.evaluation.images import chunks, grid_of, take
from brainvq.evaluation.similarity import foreground

_WAVELET_SCALES = 3
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LOG_FLOOR = 1e-4  # of the data range: a constant image keeps finite features


class PCASpace:
    """Scores of volumes on the principal components of training volumes.

    All components are divided by one number, so that training volumes have a variance of 1 for
    each component on average, and sizes of components keep their proportion. A generator that
    always gives the mean training volume is then about `components` away from training volumes by
    `frechet_distance`.

    Args:
        components: most components; fewer where there are fewer training volumes. Default 32.
        most: training volumes used at most, drawn at random, since they are in memory at once.
            Default 512.
        ndim: 2 or 3. Default 3.
        seed: int, of that draw. Default 0.

    Attributes:
        explained: float in [0, 1], share of the training variance that the components hold; set by
            `fit`.
    """

    def __init__(self, components=32, *, most=512, ndim=3, seed=0):
        self.components = components
        self.most = most
        self.ndim = ndim
        self.seed = seed

    def fit(self, train):
        """Finds the components of `train`, `(n, *grid)` or `(n, *grid, 1)`.

        Returns:
            This object.

        Raises:
            UserError: there are fewer than two volumes, or all are equal.
        """
        grid_of(train, self.ndim, 1)
        count = min(len(train), self.most)
        picked = np.random.default_rng(self.seed).choice(len(train), count, replace=False)
        x = take(train, np.sort(picked), self.ndim).reshape(count, -1).astype("float32")
        self._mean = x.mean(axis=0, dtype="float64").astype("float32")
        x = x - self._mean
        # Of few volumes with many voxels: the small matrix of their products has the same values.
        values, vectors = np.linalg.eigh((x @ x.T).astype("float64"))
        values, vectors = values[::-1], vectors[:, ::-1]
        rank = min(self.components, int(np.sum(values > 1e-6 * max(values[0], 0.0))))
        if count < 2 or rank == 0:
            raise UserError(
                f"principal components: found {count} training volumes"
                f"{', all equal' if count > 1 else ''}; expected two or more that differ"
            )
        self.explained = float(values[:rank].sum() / np.maximum(values, 0.0).sum())
        variance = values[:rank].sum() / (count - 1) / rank
        scale = np.sqrt(values[:rank] * variance)
        self._axes = (x.T @ (vectors[:, :rank] / scale).astype("float32")).T  # (rank, voxels)
        return self

    def transform(self, x):
        """Scores of volumes `(n, *grid)` or `(n, *grid, 1)`: float64 `(n, components)`."""
        scores = [
            (part.reshape(len(part), -1).astype("float32") - self._mean) @ self._axes.T
            for part in chunks(x, self.ndim)
        ]
        return np.concatenate(scores).astype("float64")


class WaveletSpace:
    """Fixed features of volumes: how bright, how contrasted, how rough at which scale and where.

    Distances of photographs are usually taken in the features of a network that was trained on
    photographs. No such network is in common use for volumes, and one with random weights would
    depend on the random numbers of a library. These features are fixed by a formula and need no
    download: the mean modulus of Haar wavelet coefficients, the first order of a scattering
    transform (Bruna and Mallat 2013, "Invariant scattering convolution networks"), which describes
    texture and is stable when a brain is bent a little. They see what principal components of few
    volumes do not: blur, noise, and patches that do not fit together.

    Of each volume: log of the mean modulus at 3 scales in each direction (high or low pass along
    each axis, 7 in 3D), and over all directions in each half along each axis (8 octants in 3D); the
    mean intensity in each octant; and the 5th, 25th, 50th, 75th and 95th percentile of the
    foreground's intensities. That is 58 numbers in 3D and 30 in 2D. They are standardised by
    training volumes and turned to the principal components of these, all of which are kept.

    Args:
        ndim: 2 or 3. Default 3.
        data_range: the distance between the lowest and highest possible intensity. Default 1.
    """

    def __init__(self, *, ndim=3, data_range=1.0):
        self.ndim = ndim
        self.data_range = data_range

    def fit(self, train):
        """Takes mean and standard deviation from `train`, `(n, *grid)` or `(n, *grid, 1)`.

        Returns:
            This object.
        """
        raw = self._raw(train)
        self._mean, spread = raw.mean(axis=0), raw.std(axis=0)
        # A feature that never changed in training has no scale of its own.
        scale = np.where(spread > 1e-6, spread, 1.0)
        standard = (raw - self._mean) / scale
        axes = np.linalg.eigh(standard.T @ standard)[1][:, ::-1]
        self._axes = axes / scale[:, None]
        return self

    def transform(self, x):
        """Features of volumes `(n, *grid)` or `(n, *grid, 1)`: float64 `(n, 58)`; 30 in 2D."""
        return (self._raw(x) - self._mean) @ self._axes

    def _raw(self, x):
        grid_of(x, self.ndim, 2)
        return np.concatenate([self._of(part) for part in chunks(x, self.ndim)])

    def _of(self, part):
        x = part.astype("float64") / self.data_range  # (n, *grid)
        axes = tuple(range(1, self.ndim + 1))
        mask = foreground(x, ndim=self.ndim)
        quantiles = [
            np.quantile(image[inside] if inside.any() else image, _QUANTILES)
            for image, inside in zip(x, mask, strict=True)
        ]
        bright = np.stack([x[half].mean(axis=axes) for half in _halves(x.shape)], axis=1)
        roughness = []
        for _ in range(_WAVELET_SCALES):
            x, details = _haar(x)
            moduli = [np.abs(detail) for detail in details]
            roughness += [modulus.mean(axis=axes) for modulus in moduli]
            total = sum(moduli)
            roughness += [total[half].mean(axis=axes) for half in _halves(total.shape)]
        rough = np.log(np.stack(roughness, axis=1) + _LOG_FLOOR)
        return np.concatenate([rough, bright, np.stack(quantiles)], axis=1)


def _halves(shape):
    """Slices of both halves along each axis after the first: 4 quadrants or 8 octants."""
    cuts = [(slice(None, size // 2), slice(size // 2, None)) for size in shape[1:]]
    for corner in np.ndindex(*(2,) * len(cuts)):
        yield (slice(None), *(cut[side] for cut, side in zip(cuts, corner, strict=True)))


def _haar(x):
    """One level of the orthonormal Haar transform: the low pass, and the details of each kind."""
    parts = [x]
    for axis in range(1, x.ndim):
        if x.shape[axis] % 2:
            # The last voxel once more: it has no details of its own.
            parts = [np.concatenate([p, p.take([-1], axis=axis)], axis=axis) for p in parts]
        split = []
        for part in parts:
            even, odd = (
                part.take(np.arange(start, part.shape[axis], 2), axis=axis) for start in (0, 1)
            )
            split += [(even + odd) * np.sqrt(0.5), (even - odd) * np.sqrt(0.5)]
        parts = split
    return parts[0], parts[1:]
