"""What the header of a scan says of its place in the world, in millimetres."""

import contextlib
import logging
import warnings

import nibabel as nib
import numpy as np
from nibabel import imageglobals
from nibabel.affines import voxel_sizes

from brainvq.data.errors import ScanError
from brainvq.errors import UserError

logger = logging.getLogger("brainvq")

# The convention of the Analyze format, whose header holds no orientation: x grows to the patient's
# left. The atlas-registered images of OASIS-1 follow it.
ANALYZE_AXCODES = "LAS"

# Units of length that a NIfTI header may name, in mm. Others, and none, are taken as mm.
_UNITS = {1: ("m", 1000.0), 3: ("µm", 1e-3)}

# Voxels of an image that memory is taken for, 800 along each axis; a header may claim any number.
MOST_VOXELS = 2**29

# Longest side of a field of view that a brain may lie in, of a mouse or of a whole body, in mm. The
# lower bound counts where a header names a unit; of others little is known.
_VIEW_MM = (1.0, 4000.0)
_LEAST_VIEW_MM = 1e-3


@contextlib.contextmanager
def quiet():
    """Keeps nibabel and NumPy from telling of damaged headers: what is read is looked at later."""
    before = imageglobals.logger.disabled
    imageglobals.logger.disabled = True
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        imageglobals.logger.disabled = before


def millimetres(header):
    """How many mm the unit of length of a header has.

    Args:
        header: header of nibabel, of any format.

    Returns:
        float; 1 for formats without units.
    """
    return _unit(header)[1]


def world_of(file, loaded, shape, axcodes):
    """The affine of a scan, voxel indices to mm; a word where the header contradicts itself.

    Args:
        file: path, for messages.
        loaded: image of nibabel.
        shape: (3,) voxels.
        axcodes: orientation used where the header holds none, None for that of nibabel.

    Returns:
        float64 (4, 4).

    Raises:
        ScanError: a voxel size of 0, an affine that is singular or not finite, or a field of view
            that no head has.
    """
    _check_voxel_size(file, loaded)
    header = loaded.header
    name, scale = _unit(header)
    oriented = True
    affine = np.asarray(loaded.affine, np.float64)
    if isinstance(header, nib.Nifti1Header):
        affine, oriented = _nifti_affine(file, header, affine)
    elif isinstance(header, nib.AnalyzeHeader):
        oriented, axcodes = False, axcodes or ANALYZE_AXCODES
    if not oriented and axcodes is not None:
        sizes = np.abs(np.asarray(header.get_zooms()[:3], np.float64))
        affine = oriented_affine(shape, sizes, axcodes)
    affine = np.diag([scale, scale, scale, 1.0]) @ affine if scale != 1 else affine
    if _singular(affine):
        raise ScanError(f"{file}: affine singular or not finite; an invertible one is expected")
    least = _VIEW_MM[0] if scale != 1 else _LEAST_VIEW_MM
    _check_view(file, name, voxel_sizes(affine) * shape, least)
    if scale != 1:
        logger.warning("%s: the header counts in %s; taken as that, in mm from here on", file, name)
    return affine


def oriented_affine(shape, voxel_size, axcodes):
    """Returns the affine of a grid from its orientation alone, origin at the centre of the volume.

    Args:
        shape: (3,) voxels.
        voxel_size: (3,) mm, in the order of the array axes.
        axcodes: direction in which each array axis grows, e.g. "LAS".

    Raises:
        UserError: if `axcodes` is no orientation.
    """
    codes = tuple(str(axcodes).upper())
    if len(codes) != 3 or sorted("RAS"["RLAPSI".find(c) // 2] for c in codes) != ["A", "R", "S"]:
        raise UserError(
            f"axcodes: found {axcodes!r}, expected three letters, one each of R/L, A/P and S/I"
        )
    affine = np.zeros((4, 4))
    for axis, (code, size) in enumerate(zip(codes, voxel_size, strict=True)):
        position = "RLAPSI".index(code)
        affine[position // 2, axis] = size if position % 2 == 0 else -size
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape, float) - 1) / 2)
    affine[3, 3] = 1
    return affine


def _unit(header):
    if not isinstance(header, nib.Nifti1Header):
        return "mm", 1.0
    return _UNITS.get(int(header["xyzt_units"]) & 7, ("mm", 1.0))


def _nifti_affine(file, header, affine):
    """The affine by sform or qform, whichever is valid, and whether the header holds one."""
    sform, qform = _form(header.get_sform), _form(header.get_qform)
    if sform is None and int(header["sform_code"]) > 0 and qform is not None:
        logger.warning("%s: the sform is singular; the qform is used", file)
        return qform, True
    if sform is not None and qform is not None:
        sizes = voxel_sizes(sform) / voxel_sizes(qform)
        mirrored = np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0
        if mirrored:
            problem = "left and right (they mirror each other)"
        elif np.abs(np.log(sizes)).max() > np.log(1.1):
            shown = " and ".join(
                "×".join(f"{size:.3g}" for size in voxel_sizes(form)) for form in (sform, qform)
            )
            problem = f"the voxel size ({shown} mm)"
        elif nib.aff2axcodes(sform) != nib.aff2axcodes(qform):
            codes = " and ".join("".join(nib.aff2axcodes(form)) for form in (sform, qform))
            problem = f"the orientation ({codes})"
        else:
            problem = None
        if problem:
            logger.warning(
                "%s: sform and qform disagree on %s; the sform is used, check the scan",
                file,
                problem,
            )
    return affine, int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0


def _form(read):
    """The matrix of a sform or qform; None where its code is 0 or it cannot be inverted."""
    try:
        with np.errstate(all="ignore"):
            matrix, code = read(coded=True)
    except (ValueError, np.linalg.LinAlgError, nib.spatialimages.HeaderDataError):
        return None
    return None if not code or matrix is None or _singular(matrix) else matrix


def _singular(affine):
    if not np.isfinite(affine).all():
        return True
    return abs(np.linalg.det(affine[:3, :3])) <= 1e-9 * voxel_sizes(affine).max() ** 3


def _check_view(file, name, sides, low):
    high = _VIEW_MM[1]
    if not low <= max(sides) <= high:
        shown = "×".join(f"{side:.3g}" for side in sides)
        raise ScanError(
            f"{file}: a field of view of {shown} mm by its header, which counts in {name}; "
            f"expected a longest side of {low:g} to {high:g} mm"
        )


def _check_voxel_size(file, loaded):
    """Looks at the header as stored: nibabel silently replaces a voxel size of zero by 1."""
    header = loaded.header
    if isinstance(header, nib.AnalyzeHeader):
        holder = loaded.file_map.get("header", loaded.file_map["image"])
        with quiet(), holder.get_prepare_fileobj("rb") as stream:
            raw = type(header).from_fileobj(stream, check=False)
        sizes = np.asarray(raw["pixdim"][1:4], np.float64)
    else:
        sizes = np.asarray(header.get_zooms()[:3], np.float64)
    if not np.isfinite(sizes).all() or (sizes == 0).any():
        shown = "×".join(f"{size:g}" for size in sizes)
        raise ScanError(f"{file}: voxel size {shown} mm; sizes above 0 are expected")
