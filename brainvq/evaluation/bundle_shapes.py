"""The shapes of streamlines, real and generated: length, curvature, straightness and spread."""

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp

from brainvq.evaluation.bootstrap import ratio
from brainvq.evaluation.bundles import BUAN_POINTS, check_bundle, check_counts, mdf, resample

SHAPES = {"length": "mm", "curvature": "1/mm", "straightness": "", "spread": "mm"}


def shape_statistics(streamlines, scale_mm=1.0):
    """Length, curvature, straightness and spread of the streamlines of a bundle.

    Args:
        streamlines: `(n, points, 3)`, three or more points.
        scale_mm: mm per unit of the coordinates. Default 1: they are in mm.

    Returns:
        `pandas.DataFrame`, a row per streamline: `length` (mm); `curvature` (1/mm: the mean over
        inner points of the turn there in radians over the mean length of the steps before and
        after; 1/r on a circle of radius r); `straightness` (distance of the ends / length, 1 for a
        line); `spread` (mm: mean MDF distance to the other streamlines, after resampling to 20
        points; NaN for a single one).

    Raises:
        ValueError: the streamlines are not shaped as described.
    """
    streamlines = check_bundle(streamlines, "streamlines") * float(scale_mm)
    steps = np.diff(streamlines, axis=1)
    sizes = np.linalg.norm(steps, axis=-1)
    length = sizes.sum(axis=1)
    before, after = steps[:, :-1], steps[:, 1:]
    turn = np.arctan2(
        np.linalg.norm(np.cross(before, after), axis=-1), np.sum(before * after, axis=-1)
    )
    way = 0.5 * (sizes[:, :-1] + sizes[:, 1:])
    ends = np.linalg.norm(streamlines[:, -1] - streamlines[:, 0], axis=-1)
    spread = np.full(len(streamlines), np.nan)
    if len(streamlines) > 1:
        coarse = resample(streamlines, BUAN_POINTS)
        spread = mdf(coarse, coarse).sum(axis=1) / (len(coarse) - 1)
    return pd.DataFrame(
        {
            "length": length,
            "curvature": _nan_mean(ratio(turn, way)),
            "straightness": ratio(ends, length),
            "spread": spread,
        }
    )


def shape_table(real, generated, real_counts=None, generated_counts=None, *, scale_mm=None):
    """Shapes of generated streamlines beside those of real ones.

    Args:
        real: `(samples, streamlines, points, 3)`.
        generated: of that shape, any number of samples.
        real_counts: int `(samples,)`, real streamlines of each sample. Default: all.
        generated_counts: the same of `generated`. Default: all.
        scale_mm: mm per unit of the coordinates. Default: not known, and all is in units.

    Returns:
        `pandas.DataFrame`, a row per measure of `shape_statistics`: `measure`, `unit`, `real` and
        `generated` (means over streamlines), `real_sd` and `generated_sd`, `difference` (generated
        − real, in pooled standard deviations: Cohen's d; 0.2 is small, 0.8 large), and `ks`
        (largest distance of the cumulative distributions, 0 alike to 1 apart: Kolmogorov-Smirnov).
        Spread is within a sample.
    """
    tables = [
        pd.concat(
            [
                shape_statistics(sample[:count], scale_mm or 1.0)
                for sample, count in zip(samples, check_counts(samples, counts), strict=True)
            ],
            ignore_index=True,
        )
        for samples, counts in ((real, real_counts), (generated, generated_counts))
    ]
    rows = []
    for name, unit in SHAPES.items():
        a, b = (table[name].dropna().to_numpy() for table in tables)
        row = {"measure": name, "unit": unit if scale_mm else unit.replace("mm", "unit")}
        for kind, values in (("real", a), ("generated", b)):
            row[kind] = values.mean() if len(values) else np.nan
            row[f"{kind}_sd"] = values.std(ddof=1) if len(values) > 1 else np.nan
        pooled = np.sqrt(0.5 * (row["real_sd"] ** 2 + row["generated_sd"] ** 2))
        apart = row["generated"] - row["real"]
        row["difference"] = apart / pooled if pooled > 0 else (0.0 if apart == 0 else np.nan)
        row["ks"] = ks_2samp(a, b).statistic if len(a) and len(b) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _nan_mean(values):
    """Mean of each row over what is not NaN; NaN for a row without any."""
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1))
