"""A scan as the slices that a model takes, in any of the three planes, and the way back."""

import dataclasses

import numpy as np

from brainvq.data.scans import ScanError, load_scan, to_original_grid
from brainvq.data.steps import (
    PLANES,
    Canonical,
    CropOrPad,
    FitInside,
    Resample,
    ScaleIntensity,
    SelectSlices,
    ZScore,
    foreground_mask,
    steps_from_config,
)
from brainvq.errors import UserError

# Orientation in which `image[:, :, k].T` is a radiological picture of the plane: the patient's
# right (in sagittal ones: the face) at the left, the face (in the others: the vertex) above.
AXCODES = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"}


class Prepared:
    """What `PreparedScan` and `PreparedVolume` share: ways back to the scan.

    Subclasses are dataclasses with the fields named in `way_back`, which a file needs to hold for
    that, and with `image`, the scan.
    """

    way_back = ("affine", "size", "shape", "original_affine", "low", "high")

    def to_intensities(self, volume):
        """Values of the prepared scale as intensities of the scan, float32."""
        return volume * np.float32(self.high - self.low) + np.float32(self.low)

    def code_map(self, codes, stride):
        """The code of each voxel of the scan, as labels.

        Args:
            codes: int array, the codes of what was prepared: `(n, rows, cols)` of slices, or
                `(x, y, z)` of a volume.
            stride: pixels for each code, one number for each axis of an image.

        Returns:
            int16 array of the scan's shape (int32 for codes beyond it): 1 + the code of the cell
            that a voxel's centre lies in; 0 outside the foreground of the scan (see
            `foreground_mask`) and where nothing was prepared.
        """
        labels = np.asarray(codes).astype("int16" if np.max(codes) < 2**15 - 1 else "int32") + 1
        found = self._to_scan(_spread(labels, self.size, stride), order=0)
        return np.where(foreground_mask(self.image), found, 0).astype(labels.dtype)

    def place(self):
        """Everything but the images, for a JSON file."""
        return {name: getattr(self, name) for name in self.way_back}

    @classmethod
    def from_place(cls, place):
        """The counterpart of `place`.

        Raises:
            UserError: something is missing in it.
        """
        try:
            found = {name: place[name] for name in cls.way_back}
        except KeyError as error:
            raise UserError(f"codes .json: has no {error}; expected the file of `encode`") from None
        for name in ("affine", "original_affine"):
            found[name] = np.asarray(found[name], float)
        for name in ("size", "shape"):
            found[name] = tuple(found[name])
        return cls(None, **found)

    def _to_scan(self, array, order):
        raise NotImplementedError

    def _from_scan(self, array, shape):
        """The nearest voxels of an array on the scan's grid, `shape` of them on the prepared."""
        if tuple(array.shape) != tuple(self.shape):
            raise UserError(f"volume: found shape {array.shape}; expected the scan's {self.shape}")
        return to_original_grid(array, self.original_affine, shape, self.affine, order=0)


@dataclasses.dataclass
class PreparedScan(Prepared):
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

    way_back = (*Prepared.way_back, "plane")

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
        steps = _adapted(steps_from_config(steps), plane, matrix, spacing, selected)
        image, fields = read_and_prepare(paths, steps)
        slices = np.moveaxis(image, 2, 0).swapaxes(1, 2)[..., None].astype("float32")
        return cls(slices, size=slices.shape[1:3], plane=plane, **fields)

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

    def from_volume(self, volume):
        """The slices of another volume on the scan's grid, such as a mask: `(n, rows, cols)`.

        Args:
            volume: array of the scan's shape.

        Returns:
            Float32 array; of the nearest voxel where the grids differ.

        Raises:
            UserError: the volume has another shape.
        """
        rows, cols = self.size
        volume = np.asarray(volume, np.float32)
        stack = self._from_scan(volume, (cols, rows, len(self.slices)))
        return np.moveaxis(stack, 2, 0).swapaxes(1, 2)

    _to_scan = to_volume


def read_and_prepare(paths, steps):
    """Reads a scan, runs the steps, and keeps what the way back needs.

    Args:
        paths: path of the scan, or a tuple of paths as `load_scan` takes it.
        steps: iterable of steps.

    Returns:
        (image after the steps, dict of affine, shape, original_affine, low, high, image): those
        fields of a `Prepared`.

    Raises:
        UserError: the scan cannot be read or prepared.
    """
    paths = (paths,) if isinstance(paths, str) else tuple(paths)
    original, original_affine = load_scan(paths)
    image, affine = original, original_affine
    low, high = 0.0, 1.0
    try:
        for step in steps:
            if isinstance(step, ScaleIntensity | ZScore):
                span = high - low
                low, high = (low + span * float(limit) for limit in step.limits(image))
            image, affine = step(image, affine)
    except ScanError as error:
        raise ScanError(f"{paths[0]}: {error}") from None
    return image, {
        "affine": affine,
        "shape": original.shape,
        "original_affine": original_affine,
        "low": low,
        "high": high,
        "image": original,
    }


def _spread(codes, size, stride):
    """Every code of the last axes on the pixels it stands for: `size` of them, `stride` a code.

    Images that no stride divides were padded on both sides before they were encoded, the smaller
    half before the first pixel.
    """
    for axis, (pixels, step) in enumerate(zip(size, stride, strict=True), start=-len(size)):
        first = -pixels % step // 2
        codes = np.take(codes, (np.arange(pixels) + first) // step, axis=axis)
    return codes


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
