"""Metadata of scans: as numbers for a linear model, taken out of latents, in tables and histograms.

Metadata are a `pandas.DataFrame` or dict of columns, a row per scan: numbers (NaN for unknown) and
categories (None, NaN or "" for unknown), such as `tr`, `te`, `pixel_bandwidth` or `site`.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from brainvq.errors import UserError
from brainvq.evaluation.classification import class_names

MOST_VALUES = 8  # numbers of no more different values are compared value by value
BINS = 5
MOST_CATEGORIES = 20  # the rest count as one
OTHER, UNKNOWN = "other", "unknown"


class Histogram(NamedTuple):
    """A column of metadata by class.

    Attributes:
        edges: float `(bins + 1,)` for numbers, None for categories.
        values: categories in falling frequency; None for numbers.
        counts: dict of class to int `(bins,)` or `(categories,)`, scans.
        unknown: dict of class to int, scans without a value.
    """

    edges: np.ndarray | None
    values: tuple | None
    counts: dict
    unknown: dict


class MetadataDesign:
    """Metadata as numbers for a linear model.

    A number becomes itself, standardised, and one indicator for each of its values, or for each of
    five quantile bins where it has more than eight: the effect of a TE need not lie between those
    of a shorter and a longer one. A category becomes indicators of its values, the rarest beyond 20
    as one. Unknown has an indicator of its own; a value that `fit` never saw has none.
    """

    def fit(self, metadata):
        """Takes values, bins, means and deviations from `metadata`, n rows.

        Returns:
            This object.
        """
        self._columns = {}
        for name, column in clean_table(metadata).items():
            cuts = _cuts(column)
            _, places = _placed(column, cuts)
            spread = (0.0, 1.0)
            if is_number(column) and column.notna().any():
                spread = float(column.mean()), float(column.std(ddof=0)) or 1.0
            levels = sorted(set(places.tolist()))
            self._columns[name] = (cuts, levels, spread)
        return self

    def transform(self, metadata):
        """The numbers of `metadata`, n rows of the columns of `fit`: float64 `(n, dim)`.

        Raises:
            UserError: a column is missing.
        """
        table, parts = clean_table(metadata), []
        missing = [name for name in self._columns if name not in table]
        if missing:
            raise UserError(
                f"metadata: found no column {missing[0]!r}; expected {', '.join(self._columns)}"
            )
        for name, (cuts, levels, (mean, deviation)) in self._columns.items():
            column, places = _placed(table[name], cuts)
            parts += [places == level for level in levels]
            if is_number(column):
                parts.append(((column - mean) / deviation).fillna(0.0).to_numpy())
        return np.stack(parts, axis=1).astype("float64")


def remove_metadata(train, train_metadata, test, test_metadata, *, penalty=1.0):
    """Residuals of latents after a regression on metadata, fitted on training scans alone.

    Ridge regression of each latent on `MetadataDesign`. Fitted on all scans, it would leak from
    test to training (Snoek, Miletić and Scholte 2019, "How to control for confounds in decoding
    analyses of neuroimaging data"). Everything that metadata could explain is removed: where the
    scanner is confounded with the disease, much of the disease as well. So where classes can still
    be told apart by the residuals, metadata are not the (linear) reason; where not, nothing is
    proved.

    Args:
        train: latents `(n, dim)` of training scans.
        train_metadata: their n rows.
        test: latents `(m, dim)` of test scans.
        test_metadata: their m rows.
        penalty: of the ridge regression, 0 or more. Default 1, as of one scan.

    Returns:
        The residuals of `train`, float64 `(n, dim)`, those of `test`, `(m, dim)`, and the share of
        the test scans' variance that metadata explain, over all latents together (1 − squares of
        the residuals / squares of the distance from the training mean), a float; below 0 where the
        regression does worse than the mean.

    Raises:
        ValueError: arrays do not agree or are not finite.
    """
    train_table, test_table = clean_table(train_metadata), clean_table(test_metadata)
    train, test = checked_features(train, len(train_table)), checked_features(test, len(test_table))
    design = MetadataDesign().fit(train_table)
    a, b = design.transform(train_table), design.transform(test_table)
    centre, mean = a.mean(axis=0), train.mean(axis=0)
    a, b = a - centre, b - centre
    # Columns such as scanner and site say the same twice: the penalty shares it out between them.
    gram = a.T @ a + penalty * np.eye(a.shape[1])
    weights = np.linalg.lstsq(gram, a.T @ (train - mean), rcond=None)[0]
    residuals = train - mean - a @ weights, test - mean - b @ weights
    squares = np.sum((test - mean) ** 2)
    explained = float(1 - np.sum(residuals[1] ** 2) / squares) if squares > 0 else np.nan
    return *residuals, explained


def metadata_tables(metadata, labels):
    """Numbers and categories of the acquisition in each class, counted by scan.

    Args:
        metadata: n rows.
        labels: `(n,)` classes.

    Returns:
        Two `pandas.DataFrame`. Of numbers, a row per column and class: `column`, `class`, `scans`,
        `known`, `mean`, `sd`, `median`, `min`, `max`, `different` (values). Of categories, a row
        per column, value and class: `column`, `value` ("unknown" for none), `class`, `scans`,
        `share` of the class.

    Raises:
        ValueError: labels and rows are not equally many.
    """
    table, labels = clean_table(metadata), class_names(labels, len(metadata))
    numbers, shares = [], []
    for name, column in table.items():
        for value in np.unique(labels):
            here = column[labels == value]
            if is_number(column):
                known = here.dropna()
                numbers.append(
                    {
                        "column": name,
                        "class": value,
                        "scans": len(here),
                        "known": len(known),
                        "mean": known.mean(),
                        "sd": known.std(ddof=1),
                        "median": known.median(),
                        "min": known.min(),
                        "max": known.max(),
                        "different": known.nunique(),
                    }
                )
        if not is_number(column):
            filled = column.fillna(UNKNOWN).astype(str)
            for category in filled.value_counts().index:
                for value in np.unique(labels):
                    here = filled[labels == value]
                    scans = int((here == category).sum())
                    shares.append((name, category, value, scans, scans / len(here)))
    measures = ["scans", "known", "mean", "sd", "median", "min", "max", "different"]
    return (
        pd.DataFrame(numbers, columns=["column", "class", *measures]),
        pd.DataFrame(shares, columns=["column", "value", "class", "scans", "share"]),
    )


def metadata_histograms(metadata, labels, *, bins=24):
    """Histograms of every column by class, counted by scan, with the same bins for all classes.

    Args:
        metadata: n rows.
        labels: `(n,)` classes.
        bins: int ≥ 1, of numbers. Default 24.

    Returns:
        dict of column to `Histogram`. The rarest categories beyond 20 count as "other".

    Raises:
        ValueError: labels and rows are not equally many.
    """
    table, labels = clean_table(metadata), class_names(labels, len(metadata))
    histograms = {}
    for name, column in table.items():
        parts = {str(value): column[labels == value] for value in np.unique(labels)}
        unknown = {value: int(part.isna().sum()) for value, part in parts.items()}
        if is_number(column):
            known = column.dropna().to_numpy("float64")
            edges = np.histogram_bin_edges(known, bins) if len(known) else np.array([0.0, 1.0])
            counts = {
                value: np.histogram(part.dropna().to_numpy("float64"), edges)[0]
                for value, part in parts.items()
            }
            histograms[name] = Histogram(edges, None, counts, unknown)
        else:
            merged = common_categories(column)
            values = tuple(merged.value_counts().index)
            counts = {
                value: merged[labels == value].value_counts().reindex(values, fill_value=0)
                for value in parts
            }
            counts = {value: part.to_numpy() for value, part in counts.items()}
            histograms[name] = Histogram(None, values, counts, unknown)
    return histograms


def bin_numbers(column):
    """Numbers of the categories or bins of a column, int `(n,)`."""
    return np.unique(_placed(column, _cuts(column))[1], return_inverse=True)[1]


def _cuts(column):
    """What sorts a column: inner edges of bins, or the values that count alone."""
    if not is_number(column):
        return tuple(common_categories(column).dropna().unique())
    known = np.sort(column.dropna().unique().astype("float64"))
    if len(known) <= MOST_VALUES:
        return (known[1:] + known[:-1]) / 2
    quantiles = np.linspace(0, 1, BINS + 1)[1:-1]
    return np.unique(column.dropna().quantile(quantiles).to_numpy("float64"))


def _placed(column, cuts):
    """A column and the name or number of the bin of each row, as text."""
    known = column.notna().to_numpy()
    places = np.full(len(column), UNKNOWN, object)
    if isinstance(cuts, tuple):
        names = column.astype(object).where(column.isin(cuts), OTHER)
        places[known] = [f"={name}" for name in names[known]]
    else:
        column = pd.to_numeric(column, errors="coerce")
        places[known] = [f"#{i}" for i in np.searchsorted(cuts, column[known].to_numpy("float64"))]
    return column, places.astype(str)


def common_categories(column):
    """A column of categories whose rarest beyond 20 are one."""
    often = column.value_counts().index[:MOST_CATEGORIES]
    return column.where(column.isna() | column.isin(often), OTHER)


def is_number(column):
    """Whether a column holds numbers; True and False are categories."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def clean_table(metadata):
    """The columns as floats or texts, NaN or None where unknown."""
    table = pd.DataFrame(metadata).reset_index(drop=True)
    if table.shape[1] == 0:
        raise UserError("metadata: found no columns; expected one or more, such as te or site")
    clean = {}
    for name, column in table.items():
        if is_number(column):
            values = column.astype("float64")
            clean[str(name)] = values.where(np.isfinite(values))
        else:
            unknown = column.isna() | (column.astype(str).str.strip() == "")
            clean[str(name)] = column.astype(str).where(~unknown, None)
    return pd.DataFrame(clean)


def checked_features(x, count):
    """Features as float64 `(count, dim)`; `ValueError` where they are not that, or not finite."""
    x = np.asarray(x, "float64")
    if x.ndim != 2 or len(x) != count or not np.isfinite(x).all():
        raise ValueError(f"features must be ({count}, dim) and finite. Received: shape {x.shape}")
    return x
