"""Random changes of a batch of images while training."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Augment:
    """Shifts, mirrors and changes the intensity of images, each image in its own way.

    Works on 2D and 3D images `(batch, *spatial, channels)` in [0, 1] on a black background. With
    all arguments 0 the images stay as they are. The order is mirror, shift, gamma, gain.

    Args:
        shift: int ≥ 0, largest shift along each spatial axis, in pixels. What leaves the image on
            one side is lost; black comes in on the other.
        flip: probability of mirroring along `flip_axis`.
        flip_axis: spatial axis of the mirror, counted from 0. In slices stored as (rows, columns)
            axis 1 is left-right.
        gain: intensities are multiplied by a factor in [1 − gain, 1 + gain] and clipped to [0, 1].
        gamma: intensities are raised to a power in [exp(−gamma), exp(gamma)].

    Raises:
        ValueError: if an argument is out of its range.
    """

    shift: int = 0
    flip: float = 0.0
    flip_axis: int = 1
    gain: float = 0.0
    gamma: float = 0.0

    def __post_init__(self):
        if self.shift < 0 or int(self.shift) != self.shift:
            raise ValueError(f"`shift` must be an integer ≥ 0. Received: shift={self.shift}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"`flip` is a probability. Received: flip={self.flip}")
        if not 0 <= self.gain < 1:
            raise ValueError(f"`gain` must be in [0, 1). Received: gain={self.gain}")
        if self.gamma < 0:
            raise ValueError(f"`gamma` must be at least 0. Received: gamma={self.gamma}")

    def __call__(self, batch, rng):
        """Changes a batch.

        Args:
            batch: float array `(batch, *spatial, channels)`, left as it is.
            rng: `numpy.random.Generator`; the same state gives the same result.

        Returns:
            Float32 array of the same shape.
        """
        batch = np.asarray(batch, dtype="float32")
        count, rank = len(batch), batch.ndim - 2
        # Drawn whatever the settings, so that turning one off leaves the others as they were.
        shifts = rng.integers(-self.shift, self.shift, size=(count, rank), endpoint=True)
        flips = rng.random(count) < self.flip
        ones = (count,) + (1,) * (rank + 1)
        power = np.exp(rng.uniform(-self.gamma, self.gamma, ones)).astype("float32")
        factor = rng.uniform(1 - self.gain, 1 + self.gain, ones).astype("float32")
        moved = np.zeros_like(batch)
        for image, target, mirrored, shift in zip(batch, moved, flips, shifts, strict=True):
            turned = np.flip(image, self.flip_axis) if mirrored else image
            sizes = image.shape[:-1]
            pairs = [(min(max(s, -n), n), n) for s, n in zip(shift, sizes, strict=True)]
            to = tuple(slice(max(s, 0), n + min(s, 0)) for s, n in pairs)
            of = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in pairs)
            target[to] = turned[of]
        if self.gamma:
            np.power(np.maximum(moved, 0, out=moved), power, out=moved)
        if self.gain:
            np.clip(np.multiply(moved, factor, out=moved), 0, 1, out=moved)
        return moved


@dataclasses.dataclass(frozen=True)
class BundleAugment:
    """Deforms groups of streamlines, each group as a whole and in its own way.

    An affine map about the group's centre, a shift and three smooth bends, sines of random
    direction and wave length: people's brains differ in about this manner. The direction of the
    streamlines stays.

    Args:
        deform: float ≥ 0, size of it all. At 1 the matrix differs from the identity by entries of
            standard deviation 0.04, the shift by 0.02 and each bend by 0.015, in units of the
            coordinates' range from 0 to 1.
        permute: whether to shuffle the streamlines of a group, whose order in a file means nothing.

    Raises:
        ValueError: if `deform` is negative.
    """

    deform: float = 0.0
    permute: bool = False

    def __post_init__(self):
        if self.deform < 0:
            raise ValueError(f"`deform` must be at least 0. Received: deform={self.deform}")

    def __call__(self, batch, rng):
        """Changes a batch.

        Args:
            batch: float array `(batch, streamlines, points, 3)` in [-1, 1], left as it is.
            rng: `numpy.random.Generator`; the same state gives the same result.

        Returns:
            Float32 array of the same shape.
        """
        batch = np.asarray(batch, dtype="float32")
        count, size = len(batch), self.deform
        if self.permute:
            orders = rng.permuted(np.tile(np.arange(batch.shape[1]), (count, 1)), axis=1)
            batch = np.take_along_axis(batch, orders[..., None, None], axis=1)
        if not size:
            return batch.copy()
        centre = batch.mean(axis=(1, 2), keepdims=True)
        matrix = np.eye(3) + size * rng.normal(0, 0.04, (count, 3, 3))
        shift = size * rng.normal(0, 0.02, (count, 1, 1, 3))
        moved = np.einsum("bspi,bij->bspj", batch - centre, matrix) + centre + shift
        for _ in range(3):
            wave = rng.normal(0, 3.0, (count, 3))
            phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
            bend = size * rng.normal(0, 0.015, (count, 1, 1, 3))
            moved += bend * np.sin(np.einsum("bspi,bi->bsp", moved, wave) + phase)[..., None]
        return moved.astype("float32")
