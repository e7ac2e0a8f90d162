"""A scan as the volume that a model takes, and the way back."""

import dataclasses

import numpy as np

from brainvq.data.prepared import Prepared, read_and_prepare
from brainvq.data.scans import to_original_grid
from brainvq.data.steps import SelectSlices, steps_from_config
from brainvq.errors import UserError


@dataclasses.dataclass
class PreparedVolume(Prepared):
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

    way_back = (*Prepared.way_back, "lowest", "highest")

    @classmethod
    def read(cls, paths, steps):
        """Reads a scan and applies the steps of a study of volumes to it.

        Args:
            paths: path of the scan, or a tuple of paths as `load_scan` takes it.
            steps: the steps of the study, as `steps_to_config` writes them.

        Returns:
            A `PreparedVolume`.

        Raises:
            UserError: the scan cannot be read or prepared, or the steps make slices of it.
        """
        steps = steps_from_config(steps)
        if any(isinstance(step, SelectSlices) for step in steps):
            raise UserError("steps: found SelectSlices; expected those of a study of volumes")
        image, fields = read_and_prepare(paths, steps)
        volume = np.ascontiguousarray(image, "float32")[..., None]
        limits = {"lowest": float(volume.min()), "highest": float(volume.max())}
        return cls(volume, size=volume.shape[:3], **limits, **fields)

    def clip(self, volume):
        """Values below and above those of the volume itself, cut off; any shape."""
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
        found = to_original_grid(volume, *grids, order=order)
        if fill is None:
            fill = self.lowest if np.issubdtype(volume.dtype, np.floating) else 0
        if fill != 0:  # beyond the volume `to_original_grid` gives 0
            reached = to_original_grid(np.ones(volume.shape, "uint8"), *grids, order=0)
            found[reached == 0] = fill
        return found

    def from_scan(self, array):
        """Another array on the scan's grid, such as a label map, on the grid of the volume.

        Args:
            array: of the scan's shape, any dtype.

        Returns:
            Array of `size`, of the same dtype: the nearest voxels, 0 beyond the scan.

        Raises:
            UserError: the array has another shape.
        """
        return self._from_scan(np.asarray(array), self.size)

    def _to_scan(self, array, order):
        return self.to_scan(array, order=order, fill=0)


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
