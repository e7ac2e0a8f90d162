"""Preprocessing steps that move voxels: orientation, resampling, cutting, slices, blocks."""

import dataclasses
import functools

import nibabel as nib
import numpy as np
from scipy import ndimage, sparse

from brainvq.data.errors import ScanError
from brainvq.data.foreground import bounding_box, foreground_mask
from brainvq.data.headers import MOST_VOXELS
from brainvq.errors import UserError

# World axis that a plane is perpendicular to: right, anterior, superior.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}

# Numbers of the matrix that resamples an axis, 10,000 voxels each way.
_MOST_WEIGHTS = 10**8


@dataclasses.dataclass(frozen=True)
class Canonical:
    """Flips and permutes the axes into a standard orientation; no interpolation.

    The standard orientation of an oblique scan is the nearest one: its axes stay oblique.

    Args:
        axcodes: where each axis points to, three letters of L/R, P/A, I/S. "RAS" (default) is that
            of nilearn and MNI. With "LPS", `image[:, :, k].T` is a picture in radiological
            convention: row 0 is anterior, column 0 is the patient's right.
    """

    axcodes: str = "RAS"

    def __post_init__(self):
        pairs = ["LR", "PA", "IS"]
        axes = [next((i for i, p in enumerate(pairs) if c in p), None) for c in self.axcodes]
        if len(axes) != 3 or sorted(axes, key=str) != [0, 1, 2]:
            raise UserError(
                f"Canonical: axcodes is {self.axcodes!r}; expected three letters, one each of "
                "L/R, P/A and I/S, such as 'RAS'"
            )

    def __call__(self, image, affine):
        """Returns the image with its axes flipped and permuted, and its new affine."""
        orientation = nib.orientations.io_orientation(affine)
        if np.isnan(orientation).any():
            raise ScanError("the affine has an axis of length zero; expected three directions")
        change = nib.orientations.ornt_transform(
            orientation, nib.orientations.axcodes2ornt(tuple(self.axcodes))
        )
        moved = nib.orientations.apply_orientation(image, change)
        return moved, affine @ nib.orientations.inv_ornt_aff(change, image.shape)


@dataclasses.dataclass(frozen=True)
class Resample:
    """Interpolates to another voxel size on a grid along the image's own axes, same centre.

    When an axis gets coarser the image is first blurred by the Gaussian whose width makes up the
    difference between the two voxels' point-spread functions (Cardoso et al. 2015, "Scale factor
    point spread function matching", FWHM² = new² − old²), so that fine detail does not fold into
    false patterns. Interpolation and blur are one sparse matrix per axis: exact and fast.

    Args:
        spacing: voxel size in mm, one number or three; None leaves that axis as it is.
        order: 0 nearest (labels), 1 linear (default), 3 cubic spline (may overshoot).
        antialias: blur before getting coarser (default True). Never done for order 0.
    """

    spacing: float | tuple = 1.0
    order: int = 1
    antialias: bool = True

    def __post_init__(self):
        if not np.isscalar(self.spacing):
            object.__setattr__(self, "spacing", tuple(self.spacing))
        values = np.atleast_1d(np.asarray(self.spacing, dtype=object))
        given = np.array([value for value in values if value is not None], dtype=float)
        if len(values) not in (1, 3) or not np.all(np.isfinite(given) & (given > 0)):
            raise UserError(
                f"Resample: spacing is {self.spacing!r}; expected one or three lengths in mm above "
                "0, None to leave an axis"
            )
        if self.order not in (0, 1, 3):
            raise UserError(f"Resample: order is {self.order!r}; expected 0, 1 or 3")

    def __call__(self, image, affine):
        """Returns the image on the new grid and the grid's affine."""
        old = _voxel_sizes(affine)
        new = np.broadcast_to(np.asarray(self.spacing, dtype=object), (3,))
        new = np.array([o if n is None else n for o, n in zip(old, new, strict=True)], dtype=float)
        grid = np.eye(4)  # new index -> old index
        for axis in range(3):
            ratio = new[axis] / old[axis]
            if abs(ratio - 1) < 1e-4:
                continue
            n_old = image.shape[axis]
            n_new = max(1, round(n_old / ratio))
            start = (n_old - 1) / 2 - ratio * (n_new - 1) / 2
            antialias = self.antialias and self.order > 0
            voxels = image.size // n_old * n_new
            if voxels > MOST_VOXELS or n_old * max(n_old, n_new) > _MOST_WEIGHTS:
                raise ScanError(
                    f"Resample: an image of {'×'.join(map(str, image.shape))} voxels of "
                    f"{'×'.join(f'{size:.3g}' for size in old)} mm would become {n_new:,} voxels "
                    f"along axis {axis}, {voxels:,} in all; expected {MOST_VOXELS:,} at most"
                )
            matrix = _axis_matrix(n_old, n_new, ratio, start, self.order, antialias)
            image = _along(matrix, image, axis)
            grid[axis, axis], grid[axis, 3] = ratio, start
        return image, affine @ grid


@dataclasses.dataclass(frozen=True)
class FitInside:
    """Resamples by one factor so that the longest axis has a certain number of voxels.

    For pictures that have no size in mm. Follow it with `CropOrPad` for one shape.

    Args:
        size: voxels along the longest of `axes`.
        axes: the axes that are resampled; default the first two, those of a slice.
    """

    size: int = 256
    axes: tuple = (0, 1)

    def __post_init__(self):
        object.__setattr__(self, "axes", tuple(self.axes))
        if int(self.size) != self.size or self.size < 1:
            raise UserError(f"FitInside: size is {self.size!r}; expected a whole number from 1")
        if not 0 < len(set(self.axes)) == len(self.axes) or not set(self.axes) <= {0, 1, 2}:
            raise UserError(f"FitInside: axes is {self.axes}; expected different ones of 0, 1, 2")

    def __call__(self, image, affine):
        """Returns the resampled image and its affine."""
        factor = max(image.shape[axis] for axis in self.axes) / self.size
        voxel = _voxel_sizes(affine)
        spacing = [voxel[axis] * factor if axis in self.axes else None for axis in range(3)]
        return Resample(spacing)(image, affine)


@dataclasses.dataclass(frozen=True)
class CropOrPad:
    """Cuts or fills each axis to a fixed number of voxels; no interpolation.

    Args:
        shape: voxels along each of `axes`; None leaves that axis as it is.
        center: "foreground" (default) keeps the middle of the foreground's bounding box in the
            middle; "volume" keeps the middle of the volume there.
        axes: the image axes that `shape` speaks of; default all three.
        fill: value of the voxels that are added; default 0.
    """

    shape: tuple = (None, None, None)
    center: str = "foreground"
    axes: tuple = (0, 1, 2)
    fill: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "axes", tuple(self.axes))
        if self.center not in ("foreground", "volume"):
            raise UserError(
                f"CropOrPad: center is {self.center!r}; expected 'foreground' or 'volume'"
            )
        if len(set(self.axes)) != len(self.axes) or not set(self.axes) <= {0, 1, 2}:
            raise UserError(f"CropOrPad: axes is {self.axes}; expected different ones of 0, 1, 2")
        if len(self.shape) != len(self.axes):
            raise UserError(
                f"CropOrPad: shape {self.shape} has {len(self.shape)} entries; expected one for "
                f"each of axes {self.axes}"
            )
        if any(n is not None and (int(n) != n or n < 1) for n in self.shape):
            raise UserError(f"CropOrPad: shape is {self.shape}; expected whole numbers from 1")

    def __call__(self, image, affine):
        """Returns the image of the wanted shape and its affine."""
        wanted = {a: int(n) for a, n in zip(self.axes, self.shape, strict=True) if n is not None}
        if self.center == "foreground" and wanted:
            lows, highs = bounding_box(foreground_mask(image))
        else:
            lows, highs = np.zeros(3, int), np.array(image.shape) - 1
        shift = np.eye(4)
        for axis, n in wanted.items():
            start = int(np.floor((lows[axis] + highs[axis] - n + 2) / 2))
            stop = start + n
            size = image.shape[axis]
            keep = [slice(None)] * 3
            keep[axis] = slice(max(start, 0), min(max(stop, 0), size))
            image = image[tuple(keep)]
            before, after = max(-start, 0), max(stop - size, 0)
            if before or after:
                widths = [(0, 0)] * 3
                widths[axis] = (before, after)
                image = np.pad(image, widths, constant_values=self.fill)
            shift[axis, 3] = start
        return image, affine @ shift


@dataclasses.dataclass(frozen=True)
class SelectSlices:
    """Takes parallel slices at even physical distances inside the extent of the foreground.

    The planes are those of the image axis nearest to the anatomical one, so put `Canonical` first.
    A slice between two planes of voxels is interpolated linearly. Slices come in the order of the
    image axis.

    Args:
        plane: "axial" (default), "coronal" or "sagittal".
        spacing: distance between slices in mm (default 2). They start at the bottom margin.
        margin: (bottom, top) in mm that are left out at the two ends of the foreground's extent,
            bottom being its inferior (axial), posterior (coronal) or left (sagittal) end.
            Default (0, 0).
        count: number of slices at even distances over the whole of what the margins leave, in place
            of `spacing`; None (default) goes by `spacing`.

    Returns:
        Stack (x, y, n slices), and the affine that takes (column, row, slice) indices to mm.
    """

    plane: str = "axial"
    spacing: float = 2.0
    margin: tuple = (0.0, 0.0)
    count: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "margin", tuple(self.margin))
        if self.plane not in PLANES:
            raise UserError(
                f"SelectSlices: plane is {self.plane!r}; expected one of {', '.join(PLANES)}"
            )
        if not (np.isfinite(self.spacing) and self.spacing > 0):
            raise UserError(
                f"SelectSlices: spacing is {self.spacing!r}; expected a length in mm above 0"
            )
        if len(self.margin) != 2 or not all(np.isfinite(m) and m >= 0 for m in self.margin):
            raise UserError(
                f"SelectSlices: margin is {self.margin!r}; expected (bottom, top) in mm from 0"
            )
        if self.count is not None and (int(self.count) != self.count or self.count < 1):
            raise UserError(
                f"SelectSlices: count is {self.count!r}; expected a whole number from 1"
            )

    def __call__(self, image, affine):
        """Returns the stack of slices and its affine."""
        orientation = nib.orientations.io_orientation(affine)
        axis = int(np.flatnonzero(orientation[:, 0] == PLANES[self.plane])[0])
        image = np.moveaxis(image, axis, 2)
        columns = [a for a in range(3) if a != axis] + [axis, 3]
        affine = affine[:, columns]
        flipped = orientation[axis, 1] < 0

        voxel = _voxel_sizes(affine)[2]
        lows, highs = bounding_box(foreground_mask(image))
        margins = self.margin[::-1] if flipped else self.margin
        first = lows[2] + margins[0] / voxel
        last = highs[2] - margins[1] / voxel
        if last < first - 1e-6:
            extent = (highs[2] - lows[2]) * voxel
            raise ScanError(
                f"foreground of {extent:.1f} mm along the {self.plane} axis; expected more than "
                f"the margins of {self.margin[0]:g} + {self.margin[1]:g} mm that are left out"
            )
        if self.count is None:
            n = int(np.floor((last - first) * voxel / self.spacing + 1e-6)) + 1
            step = self.spacing / voxel
            if flipped:  # even then the slices start at the anatomical bottom
                first = last - (n - 1) * step
        else:
            n = int(self.count)
            step = (last - first) / (n - 1) if n > 1 else self.spacing / voxel
            step = step if step > 0 else self.spacing / voxel
            first = first if n > 1 else (first + last) / 2
        positions = np.clip(first + step * np.arange(n), 0, image.shape[2] - 1)
        below = np.minimum(np.floor(positions).astype(int), image.shape[2] - 1)
        above = np.minimum(below + 1, image.shape[2] - 1)
        weight = (positions - below).astype(np.float32)
        stack = image[:, :, below] * (1 - weight) + image[:, :, above] * weight  # (x, y, n)
        grid = np.eye(4)
        grid[2, 2], grid[2, 3] = step, first
        return stack, affine @ grid


@dataclasses.dataclass(frozen=True)
class BlockMean:
    """Averages blocks of voxels into one: coarser voxels that share nothing with their neighbours.

    Voxels at the upper ends that fill no block are left out, so cut to a multiple first.

    Args:
        size: voxels along the side of a block; default 4.
    """

    size: int = 4

    def __post_init__(self):
        if int(self.size) != self.size or self.size < 1:
            raise UserError(f"BlockMean: size is {self.size!r}; expected a whole number from 1")

    def __call__(self, image, affine):
        """Returns the image of blocks and its affine."""
        size = int(self.size)
        counts = [n // size for n in image.shape]
        if 0 in counts:
            raise ScanError(f"image of shape {image.shape}; expected {size} voxels or more an axis")
        image = image[tuple(slice(n * size) for n in counts)]
        x, y, z = counts
        blocks = image.reshape(x, size, y, size, z, size).mean(axis=(1, 3, 5), dtype=np.float32)
        grid = np.diag([size, size, size, 1.0])
        grid[:3, 3] = (size - 1) / 2  # the middle of a block
        return blocks, affine @ grid


def _voxel_sizes(affine):
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if not np.all(sizes > 0):
        raise ScanError(f"voxel size {tuple(float(s) for s in sizes)} mm; expected all above 0")
    return sizes


@functools.lru_cache(maxsize=32)
def _axis_matrix(n_old, n_new, ratio, start, order, antialias):
    """Sparse matrix (n_new, n_old) float32 that blurs and interpolates along one axis.

    Sparse, since a row has few weights; and unlike a product of dense matrices, whose sums depend
    on the number of threads, it gives the same bits in every process.
    """
    matrix = np.eye(n_old)
    if antialias and ratio > 1:
        sigma = np.sqrt(ratio**2 - 1) / np.sqrt(8 * np.log(2))
        matrix = ndimage.gaussian_filter1d(matrix, sigma, axis=0, mode="nearest")
    positions = np.clip(start + ratio * np.arange(n_new), 0, n_old - 1)
    if order == 3:
        columns = ndimage.spline_filter1d(matrix, order, axis=0, mode="mirror").T
        interpolated = [
            ndimage.map_coordinates(column, [positions], order=3, mode="mirror", prefilter=False)
            for column in columns
        ]
        matrix = np.stack(interpolated, axis=1)
    else:
        if order == 0:
            positions = np.floor(positions + 0.5)
        below = np.minimum(positions.astype(int), n_old - 1)
        above = np.minimum(below + 1, n_old - 1)
        weight = (positions - below)[:, None]
        matrix = matrix[below] * (1 - weight) + matrix[above] * weight
    matrix[np.abs(matrix) < 1e-8] = 0
    return sparse.csr_array(matrix.astype(np.float32))


def _along(matrix, image, axis):
    """Multiplies `matrix` (new, old) into one axis of the image."""
    moved = np.moveaxis(image, axis, 0)
    result = matrix @ np.ascontiguousarray(moved).reshape(moved.shape[0], -1)
    return np.moveaxis(result.reshape(-1, *moved.shape[1:]), 0, axis)
