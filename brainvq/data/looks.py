"""What a scan looks like: a head or a brain, cut or whole, and in which contrast.

Wrong input is told from the image alone, and said in a word each; the scan is used all the same.
"""

import dataclasses

import nibabel as nib
import numpy as np
from scipy import ndimage, stats

from brainvq.data.errors import ScanError
from brainvq.data.foreground import foreground_mask
from brainvq.data.inputs import comes_from_simulation
from brainvq.data.remarks import remark
from brainvq.data.scans import MASK, PICTURES, SIMULATED
from brainvq.data.skull import BRAIN_MM3

# Of a brain that is whole, at most this share of its largest section lies on a face of the image;
# of voxels thicker than 1 mm more for each mm, since the first of them holds more of the brain. In
# 22 brains cut to their bounding box it was .10 at 2 mm, .18 at 4 mm, .26 at 6 mm.
_CUT, _CUT_PER_MM = 0.1, 0.04
# Depth (see `Look`) that parts T1w (.17 to .28 in 39 real brains) from FLAIR (.01 to .16 in 17),
# and how far beyond a run's own scans another one must lie.
_BETWEEN, _BEYOND = 0.165, 0.03
# Voxels that are looked at: of so many mm, and so many along an axis.
_FINE_MM, _SIDE, _COARSE_MM = 1.5, 192, 4.0
_FACES = (("left", "right"), ("back", "front"), ("lower", "upper"))
RUN = "the run's training scans"
# Scans that a cohort needs before one of them is odd.
_LEAST = 5

HEAD = (
    "looks like a head with its skull: more than 2.3 litres stand out of the background; expected "
    "a brain alone (take the skull off first: --data.masks or --data.mask-tool in training, "
    "mri_synthstrip, hd-bet or bet elsewhere)"
)
CONTRAST = (
    "looks like another contrast than {of}: bright tissue lies {where}; expected the same contrast "
    "(use scans of it, or a run that was trained on this one)"
)
_LESS, _MORE = "less deep, as in FLAIR beside T1w", "deeper, as in T1w beside FLAIR"


@dataclasses.dataclass(frozen=True)
class Look:
    """What a scan looks like.

    Attributes:
        litres: volume of the foreground.
        cut: dict of face ("left", "right", "back", "front", "lower", "upper") to the share of the
            largest section along that axis that lies on the face, where that is more than a whole
            brain has; empty of heads.
        depth: how much deeper (in ranks, 0 to 1) the brightest fifth of a brain lies than tissue
            of middling intensity: large where white matter is bright, near 0 in FLAIR; None of
            heads.
    """

    litres: float
    cut: dict
    depth: float | None

    @property
    def head(self):
        """Whether more than a brain is shown."""
        return self.litres * 1e6 > BRAIN_MM3[1]


def look_of(volume, affine):
    """Looks at a scan; takes less than a second, whatever the number of voxels.

    Args:
        volume: float (x, y, z).
        affine: (4, 4), voxel index to mm.

    Returns:
        A `Look`; None where nothing of a brain's size, or more, is shown.
    """
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    every = [
        max(1, round(_FINE_MM / size), -(-count // _SIDE))
        for size, count in zip(voxel, volume.shape, strict=True)
    ]
    # What is left over at the end lies on both sides, so that both faces are alike.
    starts = [(count - 1) % step // 2 for count, step in zip(volume.shape, every, strict=True)]
    image = volume[tuple(slice(a, None, step) for a, step in zip(starts, every, strict=True))]
    image, voxel = np.ascontiguousarray(image, np.float32), voxel * every
    try:
        mask = foreground_mask(image)
    except ScanError:
        return None
    litres = float(mask.sum() * np.prod(every) * abs(np.linalg.det(affine[:3, :3])) / 1e6)
    if litres * 1e6 < BRAIN_MM3[0]:
        return None
    if litres * 1e6 > BRAIN_MM3[1]:
        return Look(litres, {}, None)
    return Look(litres, _cut(mask, affine, voxel), _depth(image, mask, voxel))


def _cut(mask, affine, voxel):
    """The faces that cut a brain, see `Look`."""
    found = {}
    for axis, (world, way) in enumerate(nib.orientations.io_orientation(affine)):
        profile = mask.sum(axis=tuple({0, 1, 2} - {axis}))
        for end, side in ((0, way < 0), (-1, way > 0)):
            share = float(profile[end] / profile.max())
            if share > _CUT + _CUT_PER_MM * max(voxel[axis] - 1, 0):
                found[_FACES[int(world)][int(side)]] = round(share, 3)
    return found


def _depth(image, mask, voxel):
    """How deep what is bright lies, see `Look`; None where that cannot be told."""
    every = [max(1, round(_COARSE_MM / size)) for size in voxel]
    thin = tuple(slice(None, None, step) for step in every)
    smooth = ndimage.gaussian_filter(image, 1 / voxel)[thin]
    brain = ndimage.binary_fill_holes(mask[thin])
    away = ndimage.distance_transform_edt(np.pad(brain, 1), sampling=voxel * every)
    bright = stats.rankdata(smooth[brain]) / brain.sum()
    deep = stats.rankdata(away[1:-1, 1:-1, 1:-1][brain]) / brain.sum()
    top, middle = (bright > 0.8) & (bright < 0.99), (bright > 0.4) & (bright < 0.65)
    if not (top.any() and middle.any()):
        return None
    return round(float(deep[top].mean() - deep[middle].mean()), 4)


def look_at(paths, image, affine, steps, usual=None):
    """Looks at a scan that was read, and remarks on what is wrong with it.

    Args:
        paths: tuple of str, as `load_scan` takes it; simulated brains and pictures are not looked
            at.
        image: (x, y, z).
        affine: (4, 4), voxel index to mm.
        steps: tuple of the steps it will go through; a head is right where one takes the skull off.
        usual: dict, the looks of a run's training scans (`usual_looks`); None or empty where they
            are not known.

    Returns:
        `Look` or None.
    """
    if any(path.startswith(SIMULATED) or path.lower().endswith(PICTURES) for path in paths):
        return None
    look, usual = look_of(image, affine), usual or {}
    if look is None:
        return None
    # Only RegisterToTemplate has a setting on the brain.
    strips = any(getattr(step, "brain", "keep") != "keep" for step in steps)
    if look.head and not strips and usual.get("heads", 0) <= 0.5:
        remark(HEAD)
    if look.cut:
        remark(
            f"the field of view cuts the brain ({', '.join(sorted(look.cut))} face of the image); "
            "expected a whole brain with background around it (use a scan of the whole brain)"
        )
    if not any(comes_from_simulation(path.removeprefix(MASK)) for path in paths):
        for text in contrast_words({0: look}, usual, RUN).get(0, ()):
            remark(text)
    return look


def usual_looks(looks):
    """What most scans of a cohort look like.

    A tenth of them that looks like another contrast does not count.

    Args:
        looks: list of `Look`.

    Returns:
        Dict of "scans": int, "heads": share of heads and, where there are brains, "depth": [the
        lowest, the highest]; empty without looks.
    """
    if not looks:
        return {}
    found = {"scans": len(looks), "heads": sum(look.head for look in looks) / len(looks)}
    depths = np.array([look.depth for look in looks if look.depth is not None])
    if depths.size:
        high = depths > _BETWEEN
        most = high if 2 * high.sum() >= high.size else ~high
        few = (~most).sum() <= max(1, depths.size // 10) and depths.size >= _LEAST
        kept = depths[most] if few else depths
        found["depth"] = [float(kept.min()), float(kept.max())]
    return found


def contrast_words(looks, usual, of):
    """The words on scans of another contrast than others.

    Args:
        looks: dict of scan to `Look`.
        usual: dict of `usual_looks`; None or empty where that is not known.
        of: str, what the others are called.

    Returns:
        Dict of scan to list of one str, of the odd ones alone.
    """
    if not (usual or {}).get("depth"):
        return {}
    low, high = usual["depth"]
    bright = (low + high) / 2 > _BETWEEN
    limit = min(low - _BEYOND, _BETWEEN) if bright else max(high + _BEYOND, _BETWEEN)
    text = CONTRAST.format(of=of, where=_LESS if bright else _MORE)
    return {
        scan: [text]
        for scan, look in looks.items()
        if look.depth is not None and (look.depth < limit if bright else look.depth > limit)
    }
