"""What the samples of a store are: slices of scans, whole scans, or groups of streamlines."""

import nibabel as nib
import numpy as np

from brainvq.data.looks import look_at
from brainvq.data.scans import load_scan
from brainvq.data.steps import STEPS, apply_steps
from brainvq.data.streamlines import GroupStreamlines


class Volumes:
    """Each sample is a whole image, shape (x, y, z, 1).

    Attributes:
        steps: name → class of the steps that there may be.
    """

    steps = STEPS

    def takes(self, steps):
        """Whether these steps, a tuple, give samples of this layout."""
        return not any(isinstance(step, GroupStreamlines) for step in steps)

    def samples(self, paths, steps):
        """The samples of a scan.

        Args:
            paths: paths of the scan, as the cohort has them.
            steps: tuple of steps.

        Returns:
            samples: float32 (n, *sample_shape).
            shape: of the processed volume, (x, y, z); of bundles (streamlines, points, 3).
            affine: 4×4, index of that to mm; the identity for bundles.
            look: `brainvq.data.looks.Look` of the scan, or None.
        """
        scan = load_scan(paths)
        look = look_at(paths, *scan, steps)
        image, affine = apply_steps(steps, *scan)
        return self.cut(image), image.shape, affine, look

    def cut(self, image):
        """An image (x, y, z) as samples."""
        return image[None, ..., None]

    def columns(self, scans, rows, index, sample_shape):
        """What the table of a store says of each of its n samples beyond their scan.

        Args:
            scans: table of the scans, with shape and affine.
            rows: int (n,), row of the scan of each sample.
            index: int (n,), number of the sample within its scan.
            sample_shape: shape of a sample.

        Returns:
            Dict of column to array (n,).
        """
        return {"position_mm": np.full(len(rows), np.nan)}


class Slices(Volumes):
    """Each sample is `image[:, :, k].T`, shape (rows, columns, 1)."""

    def cut(self, image):
        """An image (x, y, z) as samples."""
        return image.transpose(2, 1, 0)[..., None]

    def columns(self, scans, rows, index, sample_shape):
        """Where the centre of each slice lies along the world axis nearest to the slice axis."""
        offset, step = np.empty(len(scans)), np.empty(len(scans))
        for i, (affine, shape) in enumerate(zip(scans["affine"], scans["shape"], strict=True)):
            axis = int(nib.orientations.io_orientation(affine)[2, 0])
            middle = [(shape[0] - 1) / 2, (shape[1] - 1) / 2]
            offset[i] = affine[axis, :2] @ middle + affine[axis, 3]
            step[i] = affine[axis, 2]
        return {"position_mm": offset[rows] + step[rows] * index}


class Bundles(Volumes):
    """Each sample is a group of streamlines, shape (streamlines, points, 3)."""

    steps = {GroupStreamlines.__name__: GroupStreamlines}

    def takes(self, steps):
        """Whether these steps are one `GroupStreamlines`."""
        return [isinstance(step, GroupStreamlines) for step in steps] == [True]

    def samples(self, paths, steps):
        """The groups of a bundle; see `Volumes.samples`."""
        (step,) = steps
        groups, count = step(paths)
        return groups, (count, *groups.shape[2:]), np.eye(4), None

    def columns(self, scans, rows, index, sample_shape):
        """The number of real streamlines of each group, `count`: all are full but the last."""
        streamlines = np.array([shape[0] for shape in scans["shape"]])[rows]
        count = np.minimum(streamlines - index * sample_shape[0], sample_shape[0])
        return super().columns(scans, rows, index, sample_shape) | {"count": count}


LAYOUTS = {"slices": Slices(), "volumes": Volumes(), "bundles": Bundles()}
