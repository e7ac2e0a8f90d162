"""The bootstrap over subjects (Efron and Tibshirani 1993, chapter 13).

All rows of a subject, such as its scans, move together, since they are alike. An interval says how
much a figure depends on which subjects were measured, not on which the model was trained on.
"""

import numpy as np


def group_numbers(subjects, count, unit="scan"):
    """Numbers the subjects of rows.

    Args:
        subjects: `(count,)`, the subject of each row; None where each row is its own.
        count: int, number of rows.
        unit: what a row is, for the message. Default "scan".

    Returns:
        int `(count,)`, from 0, in the sorted order of the subjects.

    Raises:
        ValueError: there are not `count` subjects.
    """
    if subjects is None:
        return np.arange(count)
    subjects = np.asarray(subjects).ravel()
    if len(subjects) != count:
        raise ValueError(
            f"one subject per {unit} is needed. Received: {len(subjects)} for {count} {unit}s"
        )
    return np.unique(subjects, return_inverse=True)[1]


def resample_weights(groups, draws, rng, classes=None):
    """How often each row counts in each resample of the subjects.

    Args:
        groups: int `(n,)`, the subject of each row as `group_numbers` gives it.
        draws: int, number of resamples.
        rng: `numpy.random.Generator`.
        classes: int `(n,)`, class numbers from 0. Each class keeps its number of subjects; a
            subject of several classes goes with its most frequent one. Default: one class.

    Returns:
        float64 `(draws, n)`, whole numbers ≥ 0.
    """
    classes = np.zeros(len(groups), int) if classes is None else classes
    subjects = groups.max() + 1
    counts = np.zeros((subjects, classes.max() + 1))
    np.add.at(counts, (groups, classes), 1)
    stratum = counts.argmax(axis=1)
    weights = np.zeros((draws, subjects))
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        shares = np.full(len(members), 1 / len(members))
        weights[:, members] = rng.multinomial(len(members), shares, draws)
    return weights[:, groups]


def interval(values, level):
    """Percentile interval of the resamples that have a value.

    Args:
        values: float `(draws,)`, a measure of each resample; NaN and infinity are left out.
        level: share of the resamples inside the interval, in (0, 1).

    Returns:
        (low, high), floats; NaN where no resample has a value.

    Raises:
        ValueError: `level` is out of its range.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1). Received: level={level}")
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio(top, bottom):
    """top / bottom in float64, broadcast; NaN where the bottom is 0."""
    top, bottom = np.asarray(top, "float64"), np.asarray(bottom, "float64")
    out = np.full(np.broadcast(top, bottom).shape, np.nan)
    return np.divide(top, bottom, out=out, where=bottom != 0)[()]
