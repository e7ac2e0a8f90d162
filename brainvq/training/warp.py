"""Random warps of slices and of what is known of them, for priors of few people."""

import dataclasses
import functools

import numpy as np
from scipy import ndimage

from brainvq.training.stream import BatchStream, batch_of

# What a warp of size 1 is made of: standard deviations of the entries of an affine map, of a turn
# in radians, of a shift and of the nodes of an elastic grid in pixels of a slice of 128, and of the
# logarithm of a factor of brightness.
AFFINE, TURN, SHIFT, ELASTIC, GAIN = 0.04, 0.05, 1.5, 2.0, 0.03
NODES = 6
# Warps narrow towards the end of a training: real brains are what shall be drawn.
LEAST = 0.15


@dataclasses.dataclass(frozen=True)
class Warp:
    """Affine and elastic warps, mirrors and changes of brightness of slices, each in its own way.

    Args:
        size: float ≥ 0, size of it all. At 1 the affine map differs from the identity by entries of
            standard deviation 0.04 and a turn of 0.05 radians, the shift is 1.5 pixels and the
            elastic grid of 6 × 6 nodes moves by 2 pixels (of a slice of 128; of others in
            proportion), brightness changes by 3 %.
        flip: probability of a left-right mirror image.
    """

    size: float = 1.0
    flip: float = 0.5

    def __call__(self, slices, maps, rng, share=1.0):
        """Warps slices, and coarse maps of the same places alike.

        Args:
            slices: float `(n, rows, columns, 1)` in [0, 1].
            maps: float `(n, r, c, channels)`, whose cells divide the slices; or None.
            rng: `numpy.random.Generator`.
            share: in [0, 1], of the size.

        Returns:
            Float32 arrays of both shapes; slices stay in [0, 1].
        """
        slices = np.array(slices, "float32")
        maps = None if maps is None else np.array(maps, "float32")
        count, *shape = slices.shape[:3]
        fields = self._fields(rng, count, shape, self.size * share)
        gains = np.exp(rng.normal(0, GAIN * self.size * share, count)).astype("float32")
        flips = rng.random(count) < self.flip
        for batch in (slices,) if maps is None else (slices, maps):
            batch[flips] = batch[flips, :, ::-1]
            if self.size * share:
                for image, field in zip(batch, fields, strict=True):
                    image[:] = _moved(image, _averaged(field, batch.shape[1:3]))
            batch *= gains[:, None, None, None]
        return np.clip(slices, 0, 1, out=slices), maps

    def _fields(self, rng, count, shape, size):
        """How far each pixel reaches for its value: float32 `(count, 2, rows, columns)`."""
        matrix = rng.normal(0, AFFINE, (count, 2, 2))
        turn, shift = rng.normal(0, TURN, count), rng.normal(0, SHIFT, (count, 2))
        nodes = rng.normal(0, ELASTIC, (count, 2, NODES, NODES))
        matrix[:, 0, 1] -= turn
        matrix[:, 1, 0] += turn
        places = np.stack(np.meshgrid(*map(_centred, shape), indexing="ij")) * max(shape)
        field = np.einsum("nij,jrc->nirc", matrix, places)
        down, across = (_spline(length) for length in shape)
        elastic = np.einsum("ra,niab,cb->nirc", down, nodes, across, optimize=True)
        unit = max(shape) / 128
        return (size * (field + unit * (shift[..., None, None] + elastic))).astype("float32")


def _centred(length):
    """Places of pixels from the middle, the whole length being about 1."""
    return (np.arange(length) - (length - 1) / 2) / length


@functools.cache
def _spline(length):
    """Matrix `(length, NODES)` of cubic splines from nodes to pixels."""
    zoom = (length / NODES, 1)
    return ndimage.zoom(np.eye(NODES), zoom, order=3, grid_mode=True, mode="nearest")


def _averaged(field, shape):
    """A field `(2, rows, columns)` on cells, in units of cells."""
    rows, columns = shape
    high, wide = field.shape[1] // rows, field.shape[2] // columns
    means = field.reshape(2, rows, high, columns, wide).mean(axis=(2, 4))
    return means / np.array([high, wide], "float32")[:, None, None]


def _moved(image, field):
    """An image `(rows, columns, channels)` at places moved by a field; outside it is black."""
    places = np.stack(np.meshgrid(*map(np.arange, image.shape[:2]), indexing="ij")) + field
    # Cubic: linear interpolation would blur, and a prior would learn blurred brains.
    moved = [
        ndimage.map_coordinates(image[..., channel], places, order=3)
        for channel in range(image.shape[-1])
    ]
    return np.stack(moved, axis=-1)


class WarpedCodes(BatchStream):
    """Batches of codes of slices that are warped anew in every pass.

    Args:
        read: as that of `BatchStream`, of slices `(n, rows, columns, 1)`.
        indices: as that of `BatchStream`.
        batch_size: as that of `BatchStream`.
        encode: function of slices that returns their codes.
        warp: a `Warp`.
        conditions: as that of `BatchStream`; a `plan` is warped like its slice, all but its last
            channel, which holds a height.
        **options: those of `BatchStream`.

    Attributes:
        epochs: int, passes of the whole training, over which the warps narrow.
    """

    def __init__(self, read, indices, batch_size, *, encode, warp, **options):
        super().__init__(read, indices, batch_size, **options)
        self.encode, self.warp, self.epochs = encode, warp, 1

    def __getitem__(self, batch):
        rows = np.sort(self.rows(batch))
        given, rng = self.conditions_at(rows), np.random.default_rng((self.seed, self.epoch, batch))
        share = np.clip(1.25 * (1 - self.epoch / self.epochs), LEAST, 1)
        plan = given.get("plan")
        maps = None if plan is None else plan[..., :-1]
        slices, maps = self.warp(self.read(self.indices[rows]), maps, rng, share)
        if plan is not None:
            given["plan"] = np.concatenate([maps, plan[..., -1:]], axis=-1)
        return batch_of(self.encode(slices), given)
