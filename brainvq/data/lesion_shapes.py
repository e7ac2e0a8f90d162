"""Lesions of real shape: the connected pieces of lesion masks, for simulated patients."""

import functools
import hashlib

import numpy as np
from scipy import ndimage

from brainvq.data.inputs import scan_paths
from brainvq.data.scans import is_empty, load_scan
from brainvq.errors import UserError

# mm³. Less is a voxel or two, which has no shape.
SMALLEST = 15.0


@functools.lru_cache(maxsize=4)
def lesion_shapes(folder):
    """The connected pieces of all masks in a folder, as large as they are.

    Pieces hang together by faces, edges or corners. Those under 15 mm³ are left out.

    Args:
        folder: path of a folder of masks (NIfTI, any grid; lesion is 1, or the one value that is
            not 0, or a share of 0.5 or more), or of one mask. It is read once in a process.

    Returns:
        (shapes, digest): tuple of float32 `(x, y, z)`, voxels of 1 mm, 0 to 1 with 0.5 at the
        surface, from small to large; and a str of 16 characters that names them.

    Raises:
        UserError: there is no mask, one cannot be read or is no mask, or no piece is large enough.
    """
    shapes, paths = [], scan_paths([folder])
    for path in paths:
        if not is_empty(path):  # people without lesions have empty masks
            shapes += _pieces(path)
    if not shapes:
        raise UserError(
            f"{folder}: no lesion of {SMALLEST:g} mm³ or more in {len(paths)} masks; expected some"
        )
    shapes.sort(key=volume)
    digest = hashlib.sha256()
    for shape in shapes:
        digest.update(repr(shape.shape).encode() + shape.tobytes())
    return tuple(shapes), digest.hexdigest()[:16]


def volume(shape):
    """Volume of a shape in mm³."""
    return float(np.count_nonzero(shape > 0.5))


def turned(shape, rng):
    """A shape turned by right angles and mirrored, each of the 48 ways as likely."""
    shape = shape.transpose(rng.permutation(3))
    return shape[tuple(slice(None, None, step) for step in rng.choice([-1, 1], 3))]


def _pieces(path):
    mask, affine = load_scan(path)
    values = np.unique(mask)
    if values[0] != 0 or (len(values) > 2 and values[-1] > 1):
        raise UserError(
            f"{path}: holds {len(values)} values from {values[0]:g} to {values[-1]:g}; expected a "
            "mask of 0 and 1"
        )
    mask = mask > 0 if len(values) == 2 else mask >= 0.5
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    numbered, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    shapes = []
    for number, box in enumerate(ndimage.find_objects(numbered), 1):
        piece = numbered[box] == number
        if piece.sum() * np.prod(voxel) >= SMALLEST:
            shape = _in_millimetres(piece, voxel)
            shapes += [shape] if volume(shape) else []
    return shapes


def _in_millimetres(piece, voxel):
    """A piece in voxels of 1 mm: nearest ones, so that it keeps its volume, and a soft surface."""
    at = [
        np.minimum((np.arange(max(1, round(n * side))) + 0.5) / side, n - 0.5).astype(int)
        for n, side in zip(piece.shape, voxel, strict=True)
    ]
    soft = np.pad(piece[np.ix_(*at)], 2).astype("float32")
    return ndimage.gaussian_filter(soft, 0.5, truncate=4)
