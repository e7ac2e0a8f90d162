"""A scan as the slices or the volume that a model takes, and the way back to the scan's grid."""

import dataclasses
import logging
import math

import numpy as np

from brainvq.data.errors import ScanError
from brainvq.data.foreground import foreground_mask
from brainvq.data.geometry import (
    PLANES,
    Canonical,
    CropOrPad,
    FitInside,
    Resample,
    SelectSlices,
)
from brainvq.data.headers import MOST_VOXELS
from brainvq.data.intensity import ScaleIntensity, ZScore
from brainvq.data.looks import look_at
from brainvq.data.remarks import collected, remark
from brainvq.data.scans import load_scan, to_original_grid
from brainvq.data.steps import steps_from_config
from brainvq.errors import UserError

logger = logging.getLogger("brainvq")

# Orientation in which `image[:, :, k].T` is a radiological picture of the plane: the patient's
# right (in sagittal ones: the face) at the left, the face (in the others: the vertex) above.
AXCODES = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"}


class PreparedImage:
    """What `PreparedScan` and `PreparedVolume` share: ways back to the scan.

    Subclasses are dataclasses whose first field is what the model takes. They have the fields named
    in `way_back`, which a file needs to hold for that, and `image`, the scan.
    """

    way_back = ("affine", "size", "shape", "original_affine", "low", "high")

    def to_intensities(self, volume):
        """Values of the prepared scale as intensities of the scan.

        Args:
            volume: float array of any shape.

        Returns:
            Float32 array of the same shape.
        """
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
        labels = self.to_scan(_labels_of_pixels(labels, self.size, stride), order=0)
        return np.where(foreground_mask(self.image), labels, 0).astype(labels.dtype)

    def place(self):
        """Everything but the images, for a JSON file."""
        return {name: getattr(self, name) for name in self.way_back}

    @classmethod
    def from_place(cls, place):
        """The counterpart of `place`, without the images.

        Args:
            place: dict as `place` returns it.

        Raises:
            UserError: something is missing in it.
        """
        try:
            fields = {name: place[name] for name in cls.way_back}
        except KeyError as error:
            raise UserError(f"codes .json: has no {error}; expected the file of `encode`") from None
        try:
            for name in ("affine", "original_affine"):
                fields[name] = np.asarray(fields[name], float).reshape(4, 4)
                np.linalg.inv(fields[name])
            for name in ("size", "shape"):
                fields[name] = tuple(int(size) for size in fields[name])
                if not 0 < math.prod(fields[name]) <= MOST_VOXELS or min(fields[name]) < 1:
                    raise ValueError(f"{name}: found {fields[name]}")
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"codes .json: {' '.join(str(error).split())}; expected the file of `encode`"
            ) from None
        return cls(None, **fields)

    def to_scan(self, array, order=1):
        """Brings an array on the prepared grid onto the scan's, by splines of degree `order`."""
        raise NotImplementedError


@dataclasses.dataclass
class PreparedScan(PreparedImage):
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

    way_back = (*PreparedImage.way_back, "plane")

    @classmethod
    def read(
        cls, paths, steps, plane="axial", matrix="study", spacing=None, selected=False, usual=None
    ):
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
            usual: see `read_and_prepare`.

        Returns:
            A `PreparedScan`.

        Raises:
            UserError: the scan cannot be read or prepared, or `plane` is not known.
        """
        if plane not in PLANES:
            raise UserError(f"plane: found {plane!r}; expected one of {', '.join(PLANES)}")
        steps = _adapted(steps_from_config(steps), plane, matrix, spacing, selected)
        image, fields = read_and_prepare(paths, steps, usual)
        slices = np.moveaxis(image, 2, 0).swapaxes(1, 2)[..., None].astype("float32")
        return cls(slices, size=slices.shape[1:3], plane=plane, **fields)

    def every(self, step):
        """Every `step`-th slice alone; on the way back those between are interpolated.

        Args:
            step: int from 1.

        Returns:
            `PreparedScan` of `(ceil(n / step), rows, cols, 1)`.
        """
        affine = np.array(self.affine)
        affine[:, 2] *= step
        return dataclasses.replace(self, slices=self.slices[::step], affine=affine)

    def to_scan(self, slices, order=1):
        """Brings slices onto the scan's grid, values as they are.

        Exact where the slices are the scan's own voxels, by interpolation of degree `order`
        otherwise.

        Args:
            slices: `(n, rows, cols[, 1])`.
            order: 0 nearest, for labels (keeps the dtype); 1 linear (default); 3 cubic.

        Returns:
            Array of the scan's shape, 0 where there is no slice; float32 or, for `order` 0, of the
            dtype of `slices`.
        """
        slices = slices[..., 0] if slices.ndim == 4 else slices
        stack = np.moveaxis(slices.swapaxes(1, 2), 0, 2)
        return to_original_grid(stack, self.affine, self.shape, self.original_affine, order=order)

    to_volume = to_scan

    def from_volume(self, volume):
        """The slices of another volume on the scan's grid, such as a mask: `(n, rows, cols)`.

        Args:
            volume: array of the scan's shape.

        Returns:
            Float32 array; of the nearest voxel where the grids differ.

        Raises:
            UserError: the volume has another shape.
        """
        volume = np.asarray(volume, np.float32)
        if volume.shape != tuple(self.shape):
            raise UserError(f"volume: found shape {volume.shape}; expected the scan's {self.shape}")
        rows, cols = self.size
        shape = (cols, rows, len(self.slices))
        stack = to_original_grid(volume, self.original_affine, shape, self.affine, order=0)
        return np.moveaxis(stack, 2, 0).swapaxes(1, 2)


@dataclasses.dataclass
class PreparedVolume(PreparedImage):
    """A scan in the voxels of a study, and what is needed to bring volumes back onto its own grid.

    Attributes:
        volume: float32 `(x, y, z, 1)`, what the model was trained on (z-scored or in [0, 1]), or
            None when only the way back is known.
        affine: `(4, 4)`, index of a voxel of `volume` to mm.
        size: (x, y, z) voxels of `volume`.
        shape: shape of the scan.
        original_affine: affine of the scan.
        low: intensity of the scan that is 0 in the volume (of z-scored ones: their mean).
        high: intensity of the scan that is 1 in the volume (a standard deviation above the mean).
        lowest: smallest value of the volume, that of its background.
        highest: largest value of the volume.
        image: the scan as it was read, or None when only the way back is known.
    """

    volume: np.ndarray | None
    affine: np.ndarray
    size: tuple
    shape: tuple
    original_affine: np.ndarray
    low: float
    high: float
    lowest: float
    highest: float
    image: np.ndarray | None = None

    way_back = (*PreparedImage.way_back, "lowest", "highest")

    @classmethod
    def read(cls, paths, steps, usual=None):
        """Reads a scan and applies the steps of a study of volumes to it.

        Args:
            paths: path of the scan, or a tuple of paths as `load_scan` takes it.
            steps: the steps of the study, as `steps_to_config` writes them.
            usual: see `read_and_prepare`.

        Returns:
            A `PreparedVolume`.

        Raises:
            UserError: the scan cannot be read or prepared, or the steps make slices of it.
        """
        steps = steps_from_config(steps)
        if any(isinstance(step, SelectSlices) for step in steps):
            raise UserError("steps: found SelectSlices; expected those of a study of volumes")
        image, fields = read_and_prepare(paths, steps, usual)
        volume = np.ascontiguousarray(image, "float32")[..., None]
        limits = {"lowest": float(volume.min()), "highest": float(volume.max())}
        return cls(volume, size=volume.shape[:3], **limits, **fields)

    def clip(self, volume):
        """Cuts values, an array of any shape, off at `lowest` and `highest`."""
        return np.clip(volume, np.float32(self.lowest), np.float32(self.highest))

    def to_scan(self, volume, order=1, fill=None):
        """Brings a volume onto the scan's grid, values as they are.

        Exact where the voxels are the scan's own, by interpolation of degree `order` otherwise.

        Args:
            volume: `(x, y, z[, 1])` of `size`.
            order: 0 nearest, for labels (keeps the dtype); 1 linear (default); 3 cubic.
            fill: value of the scan's voxels that the volume does not reach; default `lowest`, the
                background, which is not 0 in z-scored volumes, and 0 for whole numbers.

        Returns:
            Array of the scan's shape, float32 or, for `order` 0, of the volume's dtype.

        Raises:
            ValueError: the volume has another size.
        """
        volume = np.asarray(volume)
        volume = volume[..., 0] if volume.ndim == 4 else volume
        if volume.shape != tuple(self.size):
            raise ValueError(
                f"`volume` must have the size {tuple(self.size)}. Received: {volume.shape}"
            )
        grids = (self.affine, self.shape, self.original_affine)
        placed = to_original_grid(volume, *grids, order=order)
        if fill is None:
            fill = self.lowest if np.issubdtype(volume.dtype, np.floating) else 0
        if fill != 0:  # beyond the volume `to_original_grid` gives 0
            reached = to_original_grid(np.ones(volume.shape, "uint8"), *grids, order=0)
            placed[reached == 0] = fill
        return placed


def read_and_prepare(paths, steps, usual=None):
    """Reads a scan, runs the steps, and keeps what the way back needs.

    What is wrong with the scan as a whole (see `brainvq.data.looks`) is said in the log.

    Args:
        paths: path of the scan, or a tuple of paths as `load_scan` takes it.
        steps: iterable of steps.
        usual: dict, what the training scans of the model look like, as `Trained.usual` has it; None
            (default) where that is not known.

    Returns:
        (image after the steps, dict of affine, shape, original_affine, low, high, image): those
        fields of a `PreparedImage`.

    Raises:
        UserError: the scan cannot be read or prepared.
    """
    paths, steps = (paths,) if isinstance(paths, str) else tuple(paths), tuple(steps)
    original, original_affine = load_scan(paths)
    with collected() as wrong:
        look_at(paths, original, original_affine, steps, usual)
    for text in wrong:
        remark(f"{paths[0]}: {text}")
    image, affine = original, original_affine
    low, high = 0.0, 1.0
    try:
        with collected() as remarks:
            for step in steps:
                if isinstance(step, ScaleIntensity | ZScore):
                    span = high - low
                    low, high = (low + span * float(limit) for limit in step.limits(image))
                image, affine = step(image, affine)
    except ScanError as error:
        raise ScanError(f"{paths[0]}: {error}") from None
    for text in remarks:
        logger.info("%s: %s", paths[0], text)
    return image, {
        "affine": affine,
        "shape": original.shape,
        "original_affine": original_affine,
        "low": low,
        "high": high,
        "image": original,
    }


def above_background(volume):
    """A volume in any units, such as z-scores, as intensities that viewers show well.

    Args:
        volume: float `(x, y, z)` whose outermost voxels are background, most of them.

    Returns:
        Float32 array: how far each voxel is above the background, which is the median of the six
        faces; 0 for what is darker. Units and differences stay as they are.
    """
    faces = [np.take(volume, [0, -1], axis=axis).ravel() for axis in range(3)]
    background = np.median(np.concatenate(faces)).astype("float32")
    return np.maximum(volume - background, 0).astype("float32")


def _labels_of_pixels(codes, size, stride):
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
