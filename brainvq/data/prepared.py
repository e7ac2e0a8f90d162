"""A scan as the slices that a model takes, in any of the three planes, and the way back."""

import dataclasses

import numpy as np

from brainvq.data.scans import load_scan, to_original_grid
from brainvq.data.steps import (
    PLANES,
    Canonical,
    CropOrPad,
    FitInside,
    Resample,
    ScaleIntensity,
    SelectSlices,
    steps_from_config,
)
from brainvq.errors import UserError

# Orientation in which `image[:, :, k].T` is a radiological picture of the plane: the patient's
# right (in sagittal ones: the face) at the left, the face (in the others: the vertex) above.
AXCODES = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"}

# What a file needs to hold of a `PreparedScan` to bring slices back.
_PLACE = ("affine", "size", "shape", "original_affine", "low", "high", "plane")


@dataclasses.dataclass
class PreparedScan:
    """Slices of a scan, and what is needed to bring slices back onto the scan's own grid.

    Attributes:
        slices: float32 `(n, rows, cols, 1)` in [0, 1], or None when only the way back is known.
        affine: `(4, 4)`, (column, row, slice) index to mm.
        size: (rows, cols) of the slices.
        shape: shape of the scan.
        original_affine: affine of the scan.
        low: intensity of the scan that is 0 in the slices.
        high: intensity of the scan that is 1 in the slices.
        plane: axial, coronal or sagittal.
        image: the scan as it was read, or None when only the way back is known.
    """

    slices: np.ndarray | None
    affine: np.ndarray
    size: tuple
    shape: tuple
    original_affine: np.ndarray
    low: float
    high: float
    plane: str = "axial"
    image: np.ndarray | None = None

    @classmethod
    def read(cls, paths, steps, plane="axial", matrix="study", spacing=None, selected=False):
        """Reads a scan and applies the intensity and the geometry of a study to it.

        Args:
            paths: path of the scan, or a tuple of paths as `load_scan` takes it.
            steps: the steps of the study, as `steps_to_config` writes them.
            plane: the plane of the slices: "axial" (default), "coronal" or "sagittal".
            matrix: "study" (default): resampled, cut and filled as for training, so that slices
                have the training size; "native": every voxel of the scan, as it is; or a number:
                resampled to `spacing`, then cut or filled around the foreground to so many rows
                and columns.
            spacing: pixel size in mm for a number as `matrix`; None keeps the pixels.
            selected: take the slices that the study selects, rather than all of the scan.

        Returns:
            A `PreparedScan`.

        Raises:
            UserError: the scan cannot be read or prepared, or `plane` is not known.
        """
        if plane not in PLANES:
            raise UserError(f"plane: found {plane!r}; expected one of {', '.join(PLANES)}")
        original, original_affine = load_scan((paths,) if isinstance(paths, str) else tuple(paths))
        image, affine = original, original_affine
        low, high = float(image.min()), float(image.max())
        for step in _adapted(steps_from_config(steps), plane, matrix, spacing, selected):
            if isinstance(step, ScaleIntensity):
                low, high = map(float, step.limits(image))
            image, affine = step(image, affine)
        slices = np.moveaxis(image, 2, 0).swapaxes(1, 2)[..., None].astype("float32")
        return cls(
            *(slices, affine, slices.shape[1:3], original.shape, original_affine),
            *(low, high, plane, original),
        )

    def every(self, step):
        """Every `step`-th slice alone, as a `PreparedScan`: what is between is interpolated."""
        affine = np.array(self.affine)
        affine[:, 2] *= step
        return dataclasses.replace(self, slices=self.slices[::step], affine=affine)

    def to_volume(self, slices, order=1):
        """Brings slices `(n, rows, cols[, 1])` onto the scan's grid, values as they are.

        Exact where the slices are the scan's own voxels, by interpolation of degree `order`
        otherwise.
        """
        slices = slices[..., 0] if slices.ndim == 4 else slices
        stack = np.moveaxis(slices.swapaxes(1, 2), 0, 2)
        return to_original_grid(stack, self.affine, self.shape, self.original_affine, order=order)

    def to_intensities(self, volume):
        """Values from 0 to 1 as intensities of the scan, float32."""
        return volume * np.float32(self.high - self.low) + np.float32(self.low)

    def from_volume(self, volume):
        """The slices of another volume on the scan's grid, such as a mask: `(n, rows, cols)`.

        Args:
            volume: array of the scan's shape.

        Returns:
            Float32 array; of the nearest voxel where the grids differ.

        Raises:
            UserError: the volume has another shape.
        """
        if tuple(volume.shape) != tuple(self.shape):
            raise UserError(f"volume: found shape {volume.shape}; expected the scan's {self.shape}")
        rows, cols = self.size
        stack = to_original_grid(
            np.asarray(volume, np.float32),
            self.original_affine,
            (cols, rows, len(self.slices)),
            self.affine,
            order=0,
        )
        return np.moveaxis(stack, 2, 0).swapaxes(1, 2)

    def place(self):
        """Everything but the images, for a JSON file."""
        return {name: getattr(self, name) for name in _PLACE}

    @classmethod
    def from_place(cls, place):
        """The counterpart of `place`.

        Raises:
            UserError: something is missing in it.
        """
        try:
            found = {name: place[name] for name in _PLACE}
        except KeyError as error:
            raise UserError(f"codes .json: has no {error}; expected the file of `encode`") from None
        for name in ("affine", "original_affine"):
            found[name] = np.asarray(found[name], float)
        for name in ("size", "shape"):
            found[name] = tuple(found[name])
        return cls(slices=None, **found)


def _adapted(steps, plane, matrix, spacing, selected):
    """The steps of a study for one scan in a certain plane and matrix."""
    for step in steps:
        if isinstance(step, Canonical):
            yield Canonical(AXCODES[plane])
        elif isinstance(step, SelectSlices):
            if selected:
                yield dataclasses.replace(step, plane=plane)
            elif step.count is None and matrix == "study":
                # Every slice of the brain, no margin: a reconstruction should have no holes.
                yield SelectSlices(plane, spacing=step.spacing)
        elif isinstance(step, Resample | FitInside | CropOrPad):
            if matrix == "study":
                yield step
        else:
            yield step
    if isinstance(matrix, int):
        if spacing is not None:
            yield Resample((spacing, spacing, None))
        yield CropOrPad((matrix, matrix, None))
