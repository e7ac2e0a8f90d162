"""What a seed changes: measures of several runs that differ in their seed alone."""

import numpy as np
import pandas as pd
from scipy import stats


def seed_table(runs, level=0.95):
    """Means over seeds, and differences from the first variant on the same seeds.

    Args:
        runs: list of (variant, seed, measures), measures a nested dict as in `metrics.json`; groups
            with `mean` and `sd` over subjects count by their mean.
        level: coverage of the intervals, Student's t over seeds.

    Returns:
        `pandas.DataFrame` with a row for each measure and variant: measure, variant, seeds, mean,
        sd, and low and high of the mean; of variants after the first also difference, of the first
        on the same seeds, with difference_low and difference_high. NaN where there is one seed.
    """
    long = pd.DataFrame(
        [
            {"variant": variant, "seed": seed, "measure": name, "value": value}
            for variant, seed, measures in runs
            for name, value in _flat(measures)
        ]
    )
    wide = long.pivot_table(index=["measure", "seed"], columns="variant", values="value")
    first = runs[0][0]
    rows = []
    for measure in long["measure"].unique():
        values = wide.loc[measure]
        for variant in dict.fromkeys(variant for variant, *_ in runs):
            if variant not in values or not values[variant].notna().any():
                continue
            row = {"measure": measure, "variant": variant}
            row |= _interval(values[variant], level)
            if variant != first and first in values:
                part = _interval(values[variant] - values[first], level)
                row |= {"difference": part["mean"]}
                row |= {f"difference_{end}": part[end] for end in ("low", "high")}
            rows.append(row)
    return pd.DataFrame(rows)


def _interval(values, level):
    values = values.dropna().to_numpy()
    count = len(values)
    mean = values.mean() if count else np.nan
    sd = values.std(ddof=1) if count > 1 else np.nan
    half = stats.t.ppf((1 + level) / 2, count - 1) * sd / np.sqrt(count) if count > 1 else np.nan
    return {"seeds": count, "mean": mean, "sd": sd, "low": mean - half, "high": mean + half}


def _flat(measures, prefix=""):
    """Yields (name, number) of nested measures; lists, texts and truths are left out."""
    for key, value in measures.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, dict):
            if {"mean", "sd"} <= set(value):
                value = value["mean"]
            else:
                yield from _flat(value, name)
                continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
