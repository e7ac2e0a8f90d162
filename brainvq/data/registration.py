"""Registration to the ICBM152 template: an affine map found by mutual information.

The template is the skull-stripped T1 of ICBM152 2009a, symmetric, with its tissue maps (Fonov et
al. 2011, "Unbiased average age-appropriate atlases for pediatric studies"), shipped inside nilearn:
nothing is downloaded. Mutual information of Parzen-windowed histograms (Mattes et al. 2003,
"PET-CT image registration in the chest using free-form deformations") does not ask that a scan has
the template's contrast, so T1, FLAIR and T2 are treated alike. dipy computes it.
"""

import functools
import itertools
import logging
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainvq.data.scans import ScanError
from brainvq.data.steps import Resample, _bounding_box, apply_steps, foreground_mask
from brainvq.errors import UserError

# The grid of MNI space at 1 mm that FSL, SPM and others write begins at this place (RAS, mm) and
# has 182×218×182 voxels. Grids of other sizes lie around the middle of the template's brain, which
# spans -72 to 72, -107 to 73 and -72 to 82 mm, and reach no lower than the template does.
_GRID_START = np.array([-91.0, -126.0, -72.0])
_MIDDLE = np.array([-0.5, -17.5, 7.5])

# A brain-extracted scan has this share of its voxels at exactly 0, and a brain's volume beside it:
# heads in air that was set to 0 are larger.
_STRIPPED_ZEROS = 0.25
_BRAIN_MM3 = (0.3e6, 2.3e6)

_NEGATIVE = 0.05  # share of negative voxels that interpolation may leave
_COVERED = 0.5  # share of the template's brain that a scan must show

_UNIT = 50.0  # mm; lengths are counted in it, so that shifts weigh as much as turns
_BINS = 32
_SCAN_MM = 2.0  # voxels of the scan in the search
_HEAD_MM = 165.0  # below the vertex: what of a head counts for its centre
# Millimetres around the template's brain in which scan and template are compared: the edge of an
# extracted brain tells its size, while around the brain of a head there is a skull.
_RIM_MM = {True: 8, False: 4}
# Turns about the left-right, front-back and vertical axis from which the search may start, degrees.
_TURNS = ((-30, -15, 0, 15, 30), (-15, 0, 15), (-15, 0, 15))


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


@functools.lru_cache(maxsize=1)
def load_template():
    """The template on its own grid: 197×233×189 voxels of 1 mm, RAS.

    Returns:
        `Template`; its arrays are shared and cannot be written to.
    """
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
    for array in (*maps, mask):
        array.setflags(write=False)
    return Template(*maps, mask, np.asarray(t1.affine, np.float64))


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


def template_volumes(steps):
    """The template as the steps of a study leave it, voxel for voxel beside the scans.

    Args:
        steps: sequence of steps with one `RegisterToTemplate`. Those behind it that move voxels are
            followed; intensities stay those of the template.

    Returns:
        `Template` on the grid of the prepared scans. Its mask are the voxels that are brain by more
        than half; its affine leads to MNI space.

    Raises:
        UserError: there is no `RegisterToTemplate`, or a step behind it takes its place from the
            scan, so that scans are no longer aligned.
    """
    from brainvq.data import steps as kinds

    steps = tuple(steps)
    places = [i for i, step in enumerate(steps) if isinstance(step, kinds.RegisterToTemplate)]
    if len(places) != 1:
        names = ", ".join(type(step).__name__ for step in steps) or "none"
        raise UserError(f"steps: found {names}; expected one RegisterToTemplate among them")
    moving = []
    for step in steps[places[0] + 1 :]:
        if isinstance(step, kinds.ClipIntensity | kinds.ScaleIntensity | kinds.ZScore):
            continue
        if isinstance(step, kinds.SelectSlices) or getattr(step, "center", "") == "foreground":
            raise UserError(
                f"steps: found {step} behind RegisterToTemplate; expected none that looks for the "
                "foreground, since it would move each scan elsewhere"
            )
        moving.append(step)
    first = steps[places[0]]
    shape, grid = template_grid(first.shape, first.axcodes)
    own = load_template()
    maps = []
    for volume in (own.t1, own.gm, own.wm, own.csf, own.mask):
        placed = _resampled(volume.astype(np.float32), own.affine, shape, grid)
        placed, affine = apply_steps(moving, placed, grid)
        maps.append(placed)
    return Template(*maps[:4], maps[4] > 0.5, affine)


def is_stripped(image, affine):
    """Whether a scan is brain-extracted: exact zeros around something of a brain's volume.

    Args:
        image: (x, y, z).
        affine: (4, 4), voxel index to mm.

    Returns:
        bool.
    """
    zeros = np.mean(image == 0)
    volume = (1 - zeros) * image.size * abs(np.linalg.det(affine[:3, :3]))
    return bool(zeros >= _STRIPPED_ZEROS and _BRAIN_MM3[0] <= volume <= _BRAIN_MM3[1])


def register(image, affine, *, stripped, transform="affine", finest=3.0):
    """Finds the map from the template to a scan.

    The search starts at the centres of mass and at the best of a few turns, goes on with a rigid
    map and then an affine one at 6 and 4 mm, and ends at `finest`.

    Args:
        image: (x, y, z), 0 in the background or nearly so.
        affine: (4, 4), voxel index to mm; oblique and flipped ones are fine.
        stripped: whether the scan shows the brain alone.
        transform: "affine" (default) or "rigid".
        finest: voxel size of the last level in mm.

    Returns:
        float64 (4, 4): mm of MNI space → mm of the scan's world.

    Raises:
        ScanError: the scan has no contrast or the map is none that a head can have.
    """
    from dipy.align.imaffine import AffineRegistration, MutualInformationMetric
    from dipy.align.transforms import AffineTransform3D, RigidTransform3D

    logging.getLogger("dipy").setLevel(logging.WARNING)  # it tells of every level
    moving, moving_affine = _prepared(image, affine)
    own = load_template()
    # Both worlds are moved to their centres: a turn about a far origin would be a shift too.
    center = _center(moving, moving_affine, stripped)
    own_center = apply_affine(own.affine, ndimage.center_of_mass(own.mask))
    to_own = np.diag([1 / _UNIT] * 3 + [1]) @ from_matvec(np.eye(3), -own_center)
    to_scan = np.diag([1 / _UNIT] * 3 + [1]) @ from_matvec(np.eye(3), -center)
    scale = 1.0
    if stripped:
        # Of the scan itself: resampling blurs the border outwards.
        volume = np.count_nonzero(image) * abs(np.linalg.det(affine[:3, :3]))
        scale = float(np.clip((volume / own.mask.sum()) ** (1 / 3), 0.7, 1.3))
    found = np.diag([scale, scale, scale, 1.0])

    def level(spacing):
        fixed, fixed_affine, mask = _template_level(float(spacing), _RIM_MM[stripped])
        # The scan gets the template's blur but keeps its fine voxels: interpolating between coarse
        # ones would blur it more, which mutual information rewards by a map that is too large.
        blurred = ndimage.gaussian_filter(
            moving, np.sqrt(max(spacing**2 - _SCAN_MM**2, 0) / (8 * np.log(2))) / _SCAN_MM
        )
        grids = {
            "static_grid2world": to_own @ fixed_affine,
            "moving_grid2world": to_scan @ moving_affine,
            "static_mask": mask,
        }
        return fixed, blurred, grids

    def optimized(place, kind, spacing, iterations):
        fixed, blurred, grids = level(spacing)
        search = AffineRegistration(
            metric=MutualInformationMetric(nbins=_BINS),
            level_iters=[iterations],
            sigmas=[0],
            factors=[1],
            verbosity=0,
        )
        result = search.optimize(fixed, blurred, kind(), None, starting_affine=place, **grids)
        return result.affine

    fixed, blurred, grids = level(8.0)
    metric = MutualInformationMetric(nbins=_BINS)
    starts = []
    for degrees in itertools.product(*_TURNS):
        turned = from_matvec(_turn(np.radians(degrees))) @ found
        metric.setup(RigidTransform3D(), fixed, blurred, starting_affine=turned, **grids)
        starts.append((metric.distance(np.zeros(6)), np.abs(degrees).sum(), turned))
    found = min(starts, key=lambda start: start[:2])[2]
    found = optimized(found, RigidTransform3D, 6.0, 40)
    kind = RigidTransform3D if transform == "rigid" else AffineTransform3D
    found = optimized(found, kind, 6.0, 100)
    found = optimized(found, kind, 4.0, 100)
    if finest < 4:
        found = optimized(found, kind, finest, 50)
    found = np.linalg.inv(to_scan) @ found @ to_own
    _check_map(found)
    return found


def registered(step, image, affine):
    """What `RegisterToTemplate` does.

    Args:
        step: `RegisterToTemplate`.
        image: float32 (x, y, z).
        affine: (4, 4), voxel index to mm of the scan's world.

    Returns:
        (float32 image of `step.shape`, its voxel index to mm of the scan's world).

    Raises:
        ScanError: the scan does not show most of a brain, is not like a magnitude image, or does
            not fit the template.
    """
    negative = np.count_nonzero(image < 0) / max(np.count_nonzero(image), 1)
    if negative > _NEGATIVE:
        raise ScanError(
            f"{100 * negative:.0f} % of the intensities are below 0; expected those of a magnitude "
            "image, from 0 on (was it z-scored?)"
        )
    image = np.maximum(image, 0)
    stripped = is_stripped(image, affine)
    shape, grid = template_grid(step.shape, step.axcodes)
    found = np.eye(4)
    if step.transform != "none":
        found = register(
            image, affine, stripped=stripped, transform=step.transform, finest=step.finest
        )
    result = _resampled(image, affine, shape, found @ grid)
    covered = float(np.mean(result[_brain(step.shape, step.axcodes, 0.0)] > 0))
    if covered < _COVERED:
        raise ScanError(
            f"covers {100 * covered:.0f} % of the template's brain; expected a whole brain, more "
            f"than {100 * _COVERED:.0f} %"
            + (" (is the scan in MNI space?)" if step.transform == "none" else "")
        )
    if step.brain == "template" or (step.brain == "auto" and not stripped):
        result *= _brain(step.shape, step.axcodes, float(step.margin))
    return result, found @ grid


@functools.lru_cache(maxsize=4)
def _brain(shape, axcodes, margin):
    """The template's brain, grown by `margin` mm, on a grid of MNI space; bool, shared."""
    own = load_template()
    mask = own.mask
    if margin > 0:
        mask = ndimage.distance_transform_edt(~mask) <= margin
    mask = _resampled(mask.astype(np.float32), own.affine, *template_grid(shape, axcodes)) > 0.5
    mask.setflags(write=False)
    return mask


def _resampled(image, affine, shape, grid):
    """Linear interpolation at the voxels of another grid of the same world; 0 outside."""
    mapping = np.linalg.inv(affine) @ grid
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


@functools.lru_cache(maxsize=16)
def _template_level(spacing, rim):
    """The template at a voxel size, cut to its brain and `rim` mm: (t1, affine, int32 mask)."""
    own = load_template()
    near = ndimage.distance_transform_edt(~own.mask) <= rim
    t1, affine = Resample(spacing)(own.t1, own.affine)
    mask = Resample(spacing)(near.astype(np.float32), own.affine)[0] > 0.5
    lows, highs = _bounding_box(mask)
    box = tuple(slice(low, high + 1) for low, high in zip(lows, highs, strict=True))
    return t1[box], affine @ from_matvec(np.eye(3), lows), mask[box].astype(np.int32)


def _prepared(image, affine):
    """The scan for the search: of `_SCAN_MM`, cut to the foreground, without its extremes."""
    small, affine = Resample(_SCAN_MM)(image, affine)
    mask = foreground_mask(small)
    lows, highs = _bounding_box(mask)
    box = tuple(slice(low, high + 1) for low, high in zip(lows, highs, strict=True))
    # A few bright voxels (vessels, fat) would take most of the histogram's bins.
    small = np.clip(small[box], 0, np.percentile(small[mask], 99.5))
    # Zeros around, so that the edge of the brain is inside the volume.
    small = np.pad(small, 2)
    return small, affine @ from_matvec(np.eye(3), lows - 2)


def _center(image, affine, stripped):
    """Middle of the brain in mm; of a head that of its upper part, which leaves the neck out."""
    mask = image > 0 if stripped else foreground_mask(image)
    points = apply_affine(affine, np.argwhere(mask))
    if not stripped:
        points = points[points[:, 2] > points[:, 2].max() - _HEAD_MM]
    return points.mean(axis=0)


def _turn(angles):
    """Rotation matrix of turns about x, then y (from x to z), then z, in radians."""
    return Rotation.from_euler("xyz", np.asarray(angles) * (1, -1, 1)).as_matrix()


def _check_map(found):
    """A head is no mirror image of the template, nor half or twice as long in any direction."""
    scales = np.zeros(3)
    if np.isfinite(found).all():
        scales = np.linalg.svd(found[:3, :3], compute_uv=False)
        scales *= np.sign(np.linalg.det(found[:3, :3]))
    if min(scales) < 0.5 or max(scales) > 2:
        shown = ", ".join(f"{scale:.2g}" for scale in scales)
        raise ScanError(
            f"does not fit the template: scales {shown}; expected 0.5 to 2 (look at the scan: is "
            "it a whole brain, and is its orientation right?)"
        )
