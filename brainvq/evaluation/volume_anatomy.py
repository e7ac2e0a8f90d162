"""Whether drawn volumes pass for brains: their slices in three planes, and volumes of tissue."""

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from brainvq.evaluation.anatomy import BRIGHT, MEASURES, compare_anatomy
from brainvq.evaluation.generation import diversity
from brainvq.evaluation.similarity import halved

# Axis that each plane cuts; axes run from right to left, front to back and bottom to top.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
SLICES = 24
TISSUES = ("brain", "fluid", "grey", "white", "ventricles")
# Fluid is of the ventricles at this share of the greatest depth below the brain's surface.
DEEP = 0.35
# Standard deviations that hold 98 % of normal values.
USUAL = 2.33
PAIRS = 40  # of volumes, at half the resolution


def slices_of(volumes, plane, count=SLICES):
    """Even slices of the brain in each volume.

    Args:
        volumes: `(n, x, y, z)` in [0, 1], axes from right to left, front to back, bottom to top.
        plane: "sagittal", "coronal" or "axial".
        count: int, slices of each volume. Default 24.

    Returns:
        (images, heights, numbers): float32 `(n * count, rows, columns)`, float `(n * count,)` from
        0, the first slice that shows brain, to 1, the last; and int, of which volume each is.
    """
    axis, images, heights = PLANES[plane], [], np.linspace(0, 1, count)
    for volume in volumes:
        cut = np.moveaxis(np.asarray(volume, "float32"), axis, 0)
        shown = np.flatnonzero((cut > BRIGHT).any(axis=(1, 2)))
        first, last = (shown[0], shown[-1]) if len(shown) else (0, len(cut) - 1)
        rows = np.rint(first + heights * (last - first)).astype(int)
        # The last axis of the two becomes the rows: left and right lie along columns.
        images.append(cut[rows].transpose(0, 2, 1))
    n = len(images)
    return np.concatenate(images), np.tile(heights, n), np.repeat(np.arange(n), count)


def tissue_shares(volumes, thresholds=None):
    """Volumes of tissues by intensity alone: a measure for comparisons, no segmentation.

    Args:
        volumes: `(n, x, y, z)` in [0, 1].
        thresholds: two, between fluid and grey, grey and white. Default: those of Otsu (1979) over
            all of the volumes.

    Returns:
        (shares, thresholds): float `(n, 5)`, of `TISSUES`: the brain as a share of the volume, the
        others as shares of the brain.
    """
    volumes = [np.asarray(volume, "float32") for volume in volumes]
    masks = [ndimage.binary_fill_holes(volume > BRIGHT) for volume in volumes]
    if thresholds is None:
        voxels = np.concatenate([v[m][::7] for v, m in zip(volumes, masks, strict=True)])
        thresholds = threshold_multiotsu(voxels, 3)
    rows = []
    for volume, mask in zip(volumes, masks, strict=True):
        brain, depth = mask.sum(), ndimage.distance_transform_edt(mask)
        fluid = mask & (volume < thresholds[0])
        white = mask & (volume > thresholds[1])
        deep = fluid & (depth > DEEP * depth.max())
        parts = [fluid.sum(), brain - fluid.sum() - white.sum(), white.sum(), deep.sum()]
        rows.append([brain / volume.size, *(part / max(brain, 1) for part in parts)])
    return np.array(rows), thresholds


def neighbour_slices(volumes, plane):
    """How alike each slice of a volume and the next one are.

    Args:
        volumes: `(n, x, y, z)` in [0, 1], axes from right to left, front to back, bottom to top.
        plane: "sagittal", "coronal" or "axial".

    Returns:
        Mean of Pearson's r over volumes and pairs of slices that both show brain; NaN without.
    """
    found = []
    for volume in volumes:
        cut = np.moveaxis(np.asarray(volume, "float32"), PLANES[plane], 0)
        cut = cut[(cut > BRIGHT).any(axis=(1, 2))].reshape(-1, cut[0].size)
        cut = cut - cut.mean(axis=1, keepdims=True)
        unit = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-9)
        found.append((unit[1:] * unit[:-1]).sum(axis=1))
    found = np.concatenate(found)
    return float(found.mean()) if len(found) else np.nan


def pair_similarity(draws, real, people, seed=0):
    """How alike two volumes are, at half the resolution; see `diversity`.

    Returns:
        (of draws, of real volumes of different people): the mean MS-SSIM over up to 40 pairs, NaN
        where there are no two.
    """
    if len(draws) < 2 or len(np.unique(people)) < 2:
        return np.nan, np.nan
    halves = (halved(np.asarray(volumes)) for volumes in (draws, real))
    found = diversity(*halves, subjects=people, pairs=PAIRS, draws=1, seed=seed)
    return tuple(found.set_index("of")["ms_ssim"][["samples", "real"]].tolist())


def compare_volume_anatomy(draws, real, *, people, train=None, count=SLICES, seed=0):
    """Takes the measures of `compare_anatomy` in three planes, and compares volumes of tissue.

    Args:
        draws: `(n, x, y, z)` in [0, 1], axes from right to left, front to back, bottom to top.
        real: `(m, x, y, z)`, best the reconstructions of unseen people.
        people: `(m,)`, whose each is.
        train: `(t, x, y, z)`, training volumes. Default: copies are not looked for.
        count: int, slices of each volume in each plane. Default 24.
        seed: int. Default 0.

    Returns:
        Dict of `planes`, plane to what `compare_anatomy` gives; `tissue`, tissue to `draws` and
        `real`, means, and `in_range`, the share of draws within 2.33 standard deviations of the
        real mean; `whole`, dict of `pairs` (MS-SSIM of two volumes, see `pair_similarity`) and of
        each plane (see `neighbour_slices`) to `draws` and `real`; and `drawn`, `people`, numbers.
    """
    planes = {}
    for plane in PLANES:
        images, heights, numbers = slices_of(draws, plane, count)
        known, real_heights, of = slices_of(real, plane, count)
        training = None if train is None else slices_of(train, plane, count)[0]
        planes[plane] = compare_anatomy(
            images,
            known,
            heights=real_heights,
            people=np.asarray(people).astype(str)[of],
            draw_heights=heights,
            draw_groups=numbers,
            train=training,
            seed=seed,
        )
    usual, thresholds = tissue_shares(real)
    shares, _ = tissue_shares(draws, thresholds)
    mean, spread = usual.mean(axis=0), usual.std(axis=0, ddof=1 if len(usual) > 1 else 0)
    inside = np.abs(shares - mean) <= USUAL * spread
    tissue = {
        name: {
            "draws": float(shares[:, number].mean()),
            "real": float(mean[number]),
            "in_range": float(inside[:, number].mean()),
        }
        for number, name in enumerate(TISSUES)
    }
    alike, expected = pair_similarity(draws, real, people, seed)
    whole = {"pairs": {"draws": alike, "real": expected}}
    for plane in PLANES:
        alike, expected = (neighbour_slices(volumes, plane) for volumes in (draws, real))
        whole[plane] = {"draws": alike, "real": expected}
    counts = {"drawn": len(draws), "people": len(np.unique(people))}
    return {"planes": planes, "tissue": tissue, "whole": whole, **counts}


def volume_anatomy_table(found):
    """What `compare_volume_anatomy` gave of slices as a table: a column for draws in each plane.

    Left against right is left out where a plane does not show both.

    Args:
        found: dict.

    Returns:
        `pandas.DataFrame` with the columns `measure` and, for each plane, draws and the control.
    """
    rows = []
    for key, words in MEASURES.items():
        row = {"measure": words}
        for plane, measured in found["planes"].items():
            one_sided = plane == "sagittal" and key.startswith("mirror")
            for side, title in (("draws", plane), ("control", f"{plane}: real")):
                row[title] = np.nan if one_sided else measured.get(side, {}).get(key, np.nan)
        rows.append(row)
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def whole_table(found):
    """How alike draws, and neighbouring slices, are as a table: `measure`, `draws`, `real`."""
    words = {"pairs": "MS-SSIM of two volumes: the lower, the more varied"}
    words |= {plane: f"correlation of neighbouring slices, {plane}" for plane in PLANES}
    rows = [{"measure": words[name], **values} for name, values in found["whole"].items()]
    return pd.DataFrame(rows)


def tissue_table(found):
    """Volumes of tissue as a table: columns `tissue`, `draws`, `real`, `draws in range`."""
    table = pd.DataFrame(found["tissue"]).T.rename(columns={"in_range": "draws in range"})
    return table.rename_axis("tissue").reset_index()
