"""Registration to the ICBM152 template: an affine map found by mutual information.

Mutual information of Parzen-windowed histograms (Mattes et al. 2003, "PET-CT image registration in
the chest using free-form deformations") does not ask that a scan has the template's contrast, so
T1, FLAIR and T2 are treated alike. dipy computes it.
"""

import dataclasses
import functools
import itertools
import logging

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainvq.data.brain_mask import head_brain
from brainvq.data.errors import ScanError
from brainvq.data.foreground import bounding_box, foreground_mask
from brainvq.data.geometry import BlockMean, Canonical, Resample, SelectSlices
from brainvq.data.intensity import ClipIntensity, ScaleIntensity, ZScore
from brainvq.data.remarks import FIT, remark
from brainvq.data.skull import BRAIN_MM3, BY_TISSUE, brain_of_head
from brainvq.data.template import Template, load_template, resampled, template_grid
from brainvq.errors import UserError

# A brain-extracted scan has this share of its voxels at exactly 0, and a brain's volume beside it:
# heads in air that was set to 0 are larger.
_STRIPPED_ZEROS = 0.25
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
# Those of a second search, where the first did not end well, and how many of the best it follows.
_MORE_TURNS = ((-60, -40, -20, 0, 20, 40, 60), (-30, 0, 30), (-30, 0, 30))
_FOLLOWED = 3
# Millimetres upwards from the centre of a head at which it looks for the brain.
_HEIGHTS = (-30, 0, 30)
_FIT_MM = 4
_FIT_RIM = 2  # voxels of that


@dataclasses.dataclass(frozen=True)
class RegisterToTemplate:
    """Brings a scan onto a grid of 1 mm around the ICBM152 template, and takes the skull off.

    The map is found by mutual information (see `brainvq.data.registration`), whatever the contrast
    of the scan; its values are interpolated linearly, and negative ones, which interpolation left
    in the file, become 0. The affine that is returned leads to the scan's own world, as that of
    every step does, so that results can be put back onto the scan; where the voxels lie in MNI
    space `template_volumes` says. The affine of the file must be about right: a scan that is stored
    upside down is not turned.

    Args:
        shape: voxels from left to right, back to front and bottom to top. (182, 218, 182), the
            default, is the standard grid of MNI space; smaller ones are cut around the template's
            brain.
        axcodes: orientation of the result, see `Canonical`; default "LPS".
        transform: "affine" (default), "rigid", or "none" for scans that are in MNI space already.
        brain: "auto" (default) leaves brain-extracted scans, known by their exact zeros, as they
            are and cuts others to their brain: by a skull stripper on PATH, or else by tissue near
            the template's brain (see `brainvq.data.brain_mask`); "template" cuts all to the
            template's brain; "keep" cuts none.
        margin: mm by which that brain is grown before it cuts, unless a skull stripper found it;
            default 0.
        finest: voxel size at which the search ends, in mm, 1 to 4; default 3.
        min_fit: the smallest fit of a head, 0 to 1, see `registration_fit`. Scans below it are
            searched for again from other starts, and refused where that does not help. Default
            0.79: heads that were registered wrongly had .65 to .76, others .82 to .93.
        min_fit_stripped: the same of a brain-extracted scan. Default 0.7: where the rim of the
            brain is missing or the ventricles are wide, scans that lie right have .77 and more;
            turned by 20 degrees they have .59 to .68.
    """

    shape: tuple = (182, 218, 182)
    axcodes: str = "LPS"
    transform: str = "affine"
    brain: str = "auto"
    margin: float = 0.0
    finest: float = 3.0
    min_fit: float = 0.79
    min_fit_stripped: float = 0.7

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        Canonical(self.axcodes)
        if len(self.shape) != 3 or any(int(n) != n or n < 1 for n in self.shape):
            raise UserError(
                f"RegisterToTemplate: shape is {self.shape}; expected three whole numbers from 1"
            )
        choices = {"transform": ("affine", "rigid", "none"), "brain": ("auto", "template", "keep")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"RegisterToTemplate: {name} is {getattr(self, name)!r}; expected one of "
                    f"{', '.join(allowed)}"
                )
        for name, low, high in (("margin", 0, 20), ("finest", 1, 4)):
            if not low <= getattr(self, name) <= high:
                raise UserError(
                    f"RegisterToTemplate: {name} is {getattr(self, name)!r}; expected {low} to "
                    f"{high} mm"
                )
        for name in ("min_fit", "min_fit_stripped"):
            if not 0 <= getattr(self, name) <= 1:
                value = getattr(self, name)
                raise UserError(f"RegisterToTemplate: {name} is {value!r}; expected 0 to 1")

    def __call__(self, image, affine):
        """Returns the scan on the template's grid and the affine to the scan's own world.

        Raises:
            ScanError: the scan does not show most of a brain, is not like a magnitude image, or
                does not fit the template.
        """
        negative = np.count_nonzero(image < 0) / max(np.count_nonzero(image), 1)
        if negative > _NEGATIVE:
            raise ScanError(
                f"{100 * negative:.0f} % of the intensities are below 0; expected those of a "
                "magnitude image, from 0 on (was it z-scored?)"
            )
        image = np.maximum(image, 0)
        shape, grid = template_grid(self.shape, self.axcodes)
        stripped = is_stripped(image, affine)
        least = self.min_fit_stripped if stripped else self.min_fit
        to_scan, shown, alone, fit = self._placed(image, affine, stripped, least)
        if self.brain == "auto":
            image = shown
        result = resampled(image, affine, shape, to_scan @ grid)
        covered = float(np.mean(result[_brain(self.shape, self.axcodes, 0.0)] > 0))
        if covered < _COVERED:
            raise ScanError(
                f"covers {100 * covered:.0f} % of the template's brain; expected a whole brain, "
                f"more than {100 * _COVERED:.0f} %"
                + (" (is the scan in MNI space?)" if self.transform == "none" else "")
            )
        if self.transform != "none":
            if fit < least:
                raise ScanError(
                    f"registered with a fit of {fit:.2f} from any start; expected "
                    f"{least:g} or more (look at the scan: is it a whole brain, or a head "
                    "whose skull another program should take off?)"
                )
            remark(f"{FIT}{fit:.3f}")
        if self.brain == "template":
            result *= _brain(self.shape, self.axcodes, float(self.margin))
        elif self.brain == "auto" and not alone:
            result *= head_brain(image, affine, to_scan, shape, grid, float(self.margin))
            remark(BY_TISSUE)
        return result, to_scan @ grid

    def _placed(self, image, affine, stripped, least):
        """(map, the scan or its brain alone, whether that is a brain alone, fit of the map)."""
        ways = [image]
        if not stripped:
            mask = brain_of_head(image, affine)
            ways = [image] if mask is None else [np.where(mask, image, 0), image]
        found = []
        for shown in ways:
            alone = stripped or shown is not image
            if self.transform == "none":
                return np.eye(4), shown, alone, np.nan
            for more in (False, True):
                options = {"transform": self.transform, "finest": self.finest, "more": more}
                try:
                    place = register(shown, affine, stripped=alone, **options)
                except ScanError:
                    if more and not found and shown is ways[-1]:
                        raise
                    continue
                fit = registration_fit(shown, affine, place, stripped=alone)
                found.append((place, shown, alone, fit))
                if fit >= least:
                    return found[-1]
        return max(found, key=lambda one: one[3])


def registration_fit(image, affine, to_scan, *, stripped):
    """How well a registered scan shows the template's brain, whatever its contrast.

    Args:
        image: (x, y, z), 0 in the background or nearly so.
        affine: (4, 4), voxel index to mm.
        to_scan: (4, 4), mm of MNI space → mm of the scan's world, as `register` gives it.
        stripped: whether the scan shows the brain alone; others are cut to the template's.

    Returns:
        float from 0 to 1: the multiple correlation with the template's maps of grey matter, white
        matter and fluid in voxels of 4 mm, in the brain and 8 mm around it.
    """
    basis, area, brain, shape, grid = _fit_basis()
    halves = BlockMean(2)(resampled(image, affine, shape, to_scan @ grid), grid)[0]
    values = (halves if stripped else halves * brain)[area].astype(np.float64)
    values -= values.mean()
    total = values @ values
    fitted = basis.T @ values
    return float(np.sqrt(np.clip(fitted @ fitted / total, 0, 1))) if total > 0 else 0.0


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
    steps = tuple(steps)
    places = [i for i, step in enumerate(steps) if isinstance(step, RegisterToTemplate)]
    if len(places) != 1:
        names = ", ".join(type(step).__name__ for step in steps) or "none"
        raise UserError(f"steps: found {names}; expected one RegisterToTemplate among them")
    moving = []
    for step in steps[places[0] + 1 :]:
        if isinstance(step, ClipIntensity | ScaleIntensity | ZScore):
            continue
        if isinstance(step, SelectSlices) or getattr(step, "center", "") == "foreground":
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
        placed, affine = resampled(volume.astype(np.float32), own.affine, shape, grid), grid
        for step in moving:
            placed, affine = step(placed, affine)
        maps.append(np.ascontiguousarray(placed))
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
    return bool(zeros >= _STRIPPED_ZEROS and BRAIN_MM3[0] <= volume <= BRAIN_MM3[1])


def register(image, affine, *, stripped, transform="affine", finest=3.0, more=False):
    """Finds the map from the template to a scan.

    The search starts at the centres of mass and at the best of a few turns, goes on with a rigid
    map and then an affine one at 6 and 4 mm, and ends at `finest`.

    Args:
        image: (x, y, z), 0 in the background or nearly so.
        affine: (4, 4), voxel index to mm; oblique and flipped ones are fine.
        stripped: whether the scan shows the brain alone.
        transform: "affine" (default) or "rigid".
        finest: voxel size of the last level in mm.
        more: look from larger turns and other places, and follow the best few.

    Returns:
        float64 (4, 4): mm of MNI space → mm of the scan's world.

    Raises:
        ScanError: the scan has no contrast, or the map mirrors, halves or doubles the template.
    """
    from dipy.align.transforms import AffineTransform3D, RigidTransform3D

    logging.getLogger("dipy").setLevel(logging.WARNING)  # it logs every level
    search = _Search(image, affine, stripped)
    last = RigidTransform3D if transform == "rigid" else AffineTransform3D
    place = search.best_of_many() if more else search.best_turn()
    for kind, spacing, iterations in (
        (RigidTransform3D, 6.0, 40),
        (last, 6.0, 100),
        (last, 4.0, 100),
        *([(last, finest, 50)] if finest < 4 else []),
    ):
        place = search.optimized(place, kind, spacing, iterations)
    place = np.linalg.inv(search.to_scan) @ place @ search.to_own
    _check_map(place)
    return place


class _Search:
    """A scan and the template, each in the unit of the search around its own centre.

    A turn about a far origin would be a shift too, so both worlds are moved to their centres.

    Attributes:
        to_own: (4, 4), mm of MNI space to units around the template's brain.
        to_scan: (4, 4), mm of the scan's world to units around its brain or head.
        start: (4, 4), units of the template to those of the scan: the sizes of the brains.
    """

    def __init__(self, image, affine, stripped):
        self._moving, self._moving_affine = _searched(image, affine)
        own = load_template()
        center = _center(self._moving, self._moving_affine, stripped)
        self._stripped, self._levels = stripped, {}
        own_center = apply_affine(own.affine, ndimage.center_of_mass(own.mask))
        self.to_own = np.diag([1 / _UNIT] * 3 + [1]) @ from_matvec(np.eye(3), -own_center)
        self.to_scan = np.diag([1 / _UNIT] * 3 + [1]) @ from_matvec(np.eye(3), -center)
        self._rim = _RIM_MM[stripped]
        scale = 1.0
        if stripped:
            # Of the scan itself: resampling blurs the border outwards.
            volume = _brain_alone(image).sum() * abs(np.linalg.det(affine[:3, :3]))
            scale = float(np.clip((volume / own.mask.sum()) ** (1 / 3), 0.7, 1.3))
        self.start = np.diag([scale, scale, scale, 1.0])

    def best_turn(self):
        """`start` after the best of a few turns; of equal ones the smallest."""
        return self._starts(_TURNS, (0,))[0]

    def best_of_many(self):
        """The best of rigid maps that end from several starts far apart."""
        from dipy.align.transforms import RigidTransform3D

        heights = (0,) if self._stripped else _HEIGHTS
        starts = self._starts(_MORE_TURNS, heights)[:_FOLLOWED]
        ends = [self.optimized(start, RigidTransform3D, 8.0, 40) for start in starts]
        return min(ends, key=self._distance)

    def _starts(self, turns, heights):
        """`start` after each turn, from each height in mm; the best first."""
        distance, starts = self._distance, []
        for height in heights:
            raised = from_matvec(np.eye(3), [0, 0, height / _UNIT])
            for degrees in itertools.product(*turns):
                turned = raised @ from_matvec(_turn(np.radians(degrees))) @ self.start
                size = np.abs(degrees).sum() + abs(height)
                starts.append((distance(turned), size, turned))
        return [start for _, _, start in sorted(starts, key=lambda candidate: candidate[:2])]

    def _distance(self, place):
        """Minus the mutual information at a map, in voxels of 8 mm."""
        from dipy.align.imaffine import MutualInformationMetric
        from dipy.align.transforms import RigidTransform3D

        fixed, blurred, grids = self._level(8.0)
        metric = MutualInformationMetric(nbins=_BINS)
        metric.setup(RigidTransform3D(), fixed, blurred, starting_affine=place, **grids)
        return metric.distance(np.zeros(6))

    def optimized(self, place, kind, spacing, iterations):
        """The map of a kind of transform that is best near `place`, in voxels of `spacing` mm."""
        from dipy.align.imaffine import AffineRegistration, MutualInformationMetric

        fixed, blurred, grids = self._level(spacing)
        search = AffineRegistration(
            metric=MutualInformationMetric(nbins=_BINS),
            level_iters=[iterations],
            sigmas=[0],
            factors=[1],
            verbosity=0,
        )
        result = search.optimize(fixed, blurred, kind(), None, starting_affine=place, **grids)
        return result.affine

    def _level(self, spacing):
        if spacing not in self._levels:
            self._levels = {spacing: self._blurred(spacing)}
        return self._levels[spacing]

    def _blurred(self, spacing):
        fixed, fixed_affine, mask = _template_level(float(spacing), self._rim)
        # The scan gets the template's blur but keeps its fine voxels: interpolating between coarse
        # ones would blur it more, which mutual information rewards by a map that is too large.
        blurred = ndimage.gaussian_filter(
            self._moving, np.sqrt(max(spacing**2 - _SCAN_MM**2, 0) / (8 * np.log(2))) / _SCAN_MM
        )
        grids = {
            "static_grid2world": self.to_own @ fixed_affine,
            "moving_grid2world": self.to_scan @ self._moving_affine,
            "static_mask": mask,
        }
        return fixed, blurred, grids


@functools.lru_cache(maxsize=4)
def _brain(shape, axcodes, margin):
    """The template's brain, grown by `margin` mm, on a grid of MNI space; bool, shared."""
    own = load_template()
    mask = own.mask
    if margin > 0:
        mask = _template_distance() <= margin
    mask = resampled(mask.astype(np.float32), own.affine, *template_grid(shape, axcodes)) > 0.5
    mask.setflags(write=False)
    return mask


@functools.lru_cache(maxsize=1)
def _template_distance():
    """Distance of every voxel of the template from its brain, in mm; float32, shared."""
    return ndimage.distance_transform_edt(~load_template().mask).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _template_level(spacing, rim):
    """The template at a voxel size, cut to its brain and `rim` mm: (t1, affine, int32 mask)."""
    own = load_template()
    near = _template_distance() <= rim
    t1, affine = Resample(spacing)(own.t1, own.affine)
    mask = Resample(spacing)(near.astype(np.float32), own.affine)[0] > 0.5
    lows, highs = bounding_box(mask)
    box = tuple(slice(low, high + 1) for low, high in zip(lows, highs, strict=True))
    return t1[box], affine @ from_matvec(np.eye(3), lows), mask[box].astype(np.int32)


@functools.lru_cache(maxsize=1)
def _fit_basis():
    """Of `registration_fit`: basis `(n, 4)`, its voxels, the brain's, and the grid of 2 mm."""
    shape, affine = template_grid((160, 192, 160))
    half = from_matvec(np.eye(3) * 2, [0.5] * 3)
    shape, grid = tuple(n // 2 for n in shape), affine @ half
    own, maps = load_template(), []
    for volume in (own.gm, own.wm, own.csf, own.mask):
        placed = resampled(volume.astype(np.float32), own.affine, shape, grid)
        maps.append(BlockMean(_FIT_MM // 2)(placed, grid)[0])
    brain = maps.pop() > 0.5
    area = ndimage.binary_dilation(brain, iterations=_FIT_RIM)
    tissues = [tissue[area].astype(np.float64) for tissue in maps]
    basis = np.linalg.qr(np.stack([*tissues, np.ones_like(tissues[0])], axis=1))[0]
    return basis, area, brain, shape, grid


def _brain_alone(image):
    """Bool: what is not 0; where much of that lies apart or is dust, the foreground."""
    mask = image > 0
    brain = foreground_mask(image)
    return brain if brain.sum() < 0.98 * mask.sum() else mask


def _searched(image, affine):
    """The scan for the search: of `_SCAN_MM`, cut to the foreground, without its extremes."""
    small, affine = Resample(_SCAN_MM)(image, affine)
    mask = foreground_mask(small)
    lows, highs = bounding_box(mask)
    box = tuple(slice(low, high + 1) for low, high in zip(lows, highs, strict=True))
    # A few bright voxels (vessels, fat) would take most of the histogram's bins.
    small = np.clip(small[box], 0, np.percentile(small[mask], 99.5))
    # Zeros around, so that the edge of the brain is inside the volume.
    small = np.pad(small, 2)
    return small, affine @ from_matvec(np.eye(3), lows - 2)


def _center(image, affine, stripped):
    """Middle of the brain in mm; of a head that of its upper part, which leaves the neck out."""
    mask = _brain_alone(image) if stripped else foreground_mask(image)
    points = apply_affine(affine, np.argwhere(mask))
    if not stripped:
        points = points[points[:, 2] > points[:, 2].max() - _HEAD_MM]
    return points.mean(axis=0)


def _turn(angles):
    """Rotation matrix of turns about x, then y (from x to z), then z, in radians."""
    return Rotation.from_euler("xyz", np.asarray(angles) * (1, -1, 1)).as_matrix()


def _check_map(matrix):
    """ScanError where a map mirrors the template, or halves or doubles it in any direction."""
    scales = np.zeros(3)
    if np.isfinite(matrix).all():
        scales = np.linalg.svd(matrix[:3, :3], compute_uv=False)
        scales *= np.sign(np.linalg.det(matrix[:3, :3]))
    if min(scales) < 0.5 or max(scales) > 2:
        shown = ", ".join(f"{scale:.2g}" for scale in scales)
        raise ScanError(
            f"does not fit the template: scales {shown}; expected 0.5 to 2 (look at the scan: is "
            "it a whole brain, and is its orientation right?)"
        )
