"""The ICBM152 template and the grids of MNI space around it.

The template is the skull-stripped T1 of ICBM152 2009a, symmetric, with its tissue maps (Fonov et
al. 2011, "Unbiased average age-appropriate atlases for pediatric studies"), shipped inside nilearn:
nothing is downloaded.
"""

import functools
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec
from scipy import ndimage

# The grid of MNI space at 1 mm that FSL, SPM and others write begins at this place (RAS, mm) and
# has 182×218×182 voxels. Grids of other sizes lie around the middle of the template's brain, which
# spans -72 to 72, -107 to 73 and -72 to 82 mm, and reach no lower than the template does.
_GRID_START = np.array([-91.0, -126.0, -72.0])
_MIDDLE = np.array([-0.5, -17.5, 7.5])


class Template(NamedTuple):
    """The template and its maps on one grid.

    Attributes:
        t1: float32 (x, y, z), 0 to 1, exactly 0 outside the brain.
        gm: float32, fraction of grey matter.
        wm: float32, fraction of white matter.
        csf: float32, fraction of fluid: what is left of the brain.
        mask: bool, the brain.
        affine: float64 (4, 4), voxel index to mm of MNI space, RAS+.
    """

    t1: np.ndarray
    gm: np.ndarray
    wm: np.ndarray
    csf: np.ndarray
    mask: np.ndarray
    affine: np.ndarray


def read_template():
    """The template on its own grid: 197×233×189 voxels of 1 mm, RAS; read anew by each call."""
    from nilearn import datasets  # slow to import

    t1 = datasets.load_mni152_template(resolution=1)
    gm, wm, mask = (
        np.asarray(load(resolution=1).dataobj)
        for load in (
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_brain_mask,
        )
    )
    mask = mask > 0
    csf = np.clip(1 - gm - wm, 0, 1) * mask
    maps = [np.asarray(m, np.float32) for m in (np.asarray(t1.dataobj), gm, wm, csf)]
    return Template(*maps, mask, np.asarray(t1.affine, np.float64))


@functools.lru_cache(maxsize=1)
def load_template():
    """The template of `read_template`, read once; its arrays are shared and cannot be written to.

    Returns:
        `Template`.
    """
    template = read_template()
    for array in template[:5]:
        array.setflags(write=False)
    return template


def template_grid(shape, axcodes="RAS"):
    """The affine of a grid of 1 mm in MNI space, as `RegisterToTemplate` makes it.

    Args:
        shape: voxels from left to right, back to front and bottom to top. (182, 218, 182) is the
            grid that most programs use; others lie around the template's brain.
        axcodes: where each axis points to, as in `Canonical`.

    Returns:
        (shape in the order of the axes, float64 (4, 4) voxel index to mm).
    """
    size = np.array(shape)
    start = np.maximum(np.floor(_MIDDLE - (size - 1) / 2), _GRID_START)
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
    )
    order = np.argsort(change[:, 0]).astype(int)
    affine = from_matvec(np.eye(3), start) @ nib.orientations.inv_ornt_aff(change, shape)
    return tuple(int(n) for n in size[order]), affine


def resampled(image, affine, shape, grid):
    """Linear interpolation at the voxels of another grid of the same world.

    Args:
        image: (x, y, z).
        affine: (4, 4), its voxel index to mm.
        shape: (3,) of the other grid.
        grid: (4, 4), voxel index of the other grid to mm.

    Returns:
        float32 array of `shape`, 0 outside of the image.
    """
    mapping = np.linalg.inv(affine) @ grid
    if np.array_equal(mapping[:3, :3], np.eye(3)) and not np.any(mapping[:3, 3] % 1):
        return _moved(image, mapping[:3, 3].astype(int), shape)
    return ndimage.affine_transform(
        image,
        mapping[:3, :3],
        mapping[:3, 3],
        output_shape=tuple(shape),
        output=np.float32,
        order=1,
        mode="constant",
        cval=0.0,
    )


def _moved(image, start, shape):
    """What interpolation gives where voxels lie on voxels: float32, from `start` on."""
    moved = np.zeros(shape, np.float32)
    low, high = np.maximum(start, 0), np.minimum(start + shape, image.shape)
    if np.all(low < high):
        inside = tuple(slice(*ends) for ends in zip(low - start, high - start, strict=True))
        moved[inside] = image[tuple(slice(*ends) for ends in zip(low, high, strict=True))]
    return moved
