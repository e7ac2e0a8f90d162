"""The class of each subject, read from a table."""

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd

from brainvq.errors import UserError

logger = logging.getLogger("brainvq")

MOST_VALUES = 10  # a column of numbers with more values than this is no list of classes

_ID_COLUMNS = ("participant_id", "subject", "subject_id", "id")
_UNKNOWN = ("", "n/a", "na", "nan", "none", "null", "unknown", "?", ".")
_COMPARISONS = {
    ">=": np.greater_equal,
    "<=": np.less_equal,
    ">": np.greater,
    "<": np.less,
}
_OPPOSITE = {">=": "<", "<=": ">", ">": "<=", "<": ">="}


def read_labels(where, subjects):
    """Reads the class of each subject from a table.

    Args:
        where: `FILE:COLUMN`, such as `participants.tsv:group`; or, for a column of numbers,
            `FILE:COLUMN>NUMBER` (also >=, <, <=), which makes two classes. The file is tab- or
            comma-separated; subjects are in its column `participant_id`, `subject` or `id`, else
            in its first. A leading `sub-` does not matter.
        subjects: subjects to find, in the names that the result has.

    Returns:
        `pandas.Series` of class names (str), indexed by subject, of those that have one. The log
        says which have none.

    Raises:
        UserError: the file or column is missing, a subject has two classes, no subject is found,
            or a column of many numbers is no list of classes.
    """
    path, table, column, comparison, threshold = _label_table(where)
    values = _values_of(subjects, path, table, column)
    numbers = pd.to_numeric(pd.Series(values), errors="coerce")
    if comparison is None:
        distinct = set(values.values())
        if numbers.notna().all() and len(distinct) > MOST_VALUES:
            raise UserError(
                f"{path}: column {column} holds {len(distinct)} different numbers; expected "
                f"classes: cut it in two, as {path}:{column}>{numbers.median():g}"
            )
        return pd.Series(values, dtype=str)
    if numbers.isna().any():
        bad = values[numbers.index[numbers.isna()][0]]
        raise UserError(f"{path}: column {column} holds {bad!r}; expected numbers")
    yes, no = (f"{column}{sign}{threshold:g}" for sign in (comparison, _OPPOSITE[comparison]))
    return pd.Series(
        np.where(_COMPARISONS[comparison](numbers, threshold), yes, no), numbers.index, dtype=str
    )


def _values_of(subjects, path, table, column):
    """The value of each subject that has one, dict of str; the log says which have none."""
    key = next((name for name in _ID_COLUMNS if name in table), table.columns[0])
    in_table = {}
    for subject, value in zip(table[key], table[column], strict=True):
        value = value.strip()
        if value.lower() in _UNKNOWN:
            continue
        name = _plain(subject)
        if in_table.setdefault(name, value) != value:
            raise UserError(
                f"{path}: subject {subject} has {in_table[name]} and {value} in column {column}; "
                "expected one"
            )
    values = {str(s): in_table[_plain(s)] for s in subjects if _plain(s) in in_table}
    if not values:
        shown = ", ".join(map(str, list(subjects)[:3]))
        raise UserError(
            f"{path}: none of {len(subjects)} subjects ({shown}) has a value in column {column}; "
            f"subjects there are {', '.join(table[key][:3])}"
        )
    missing = [str(s) for s in subjects if str(s) not in values]
    if missing:
        logger.warning(
            "%s: %d of %d subjects have no %s and are left out: %s",
            path,
            len(missing),
            len(subjects),
            column,
            ", ".join(missing[:10]) + (" …" if len(missing) > 10 else ""),
        )
    return values


def _label_table(where):
    """`FILE:COLUMN[>NUMBER]` → (path, table of str, column, comparison or None, number)."""
    path, separator, column = str(where).rpartition(":")
    if not separator or not path or not column:
        raise UserError(f"labels: found {where!r}; expected FILE:COLUMN, as participants.tsv:group")
    path = Path(path)
    try:
        table = pd.read_csv(
            path,
            sep="\t" if path.suffix.lower() == ".tsv" else ",",
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a table of subjects") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table ({one_line(error)})") from None
    table.columns = [str(name).strip() for name in table.columns]
    if column in table:
        return path, table, column, None, None
    cut = re.fullmatch(r"(.+?)\s*(>=|<=|>|<)\s*(\S+)", column)
    if cut and cut[1] in table:
        try:
            return path, table, cut[1], cut[2], float(cut[3])
        except ValueError:
            raise UserError(f"labels: found {cut[3]!r} after {cut[2]}; expected a number") from None
    raise UserError(
        f"{path}: no column {cut[1] if cut else column!r}; found {', '.join(table.columns[:12])}"
    )


def _plain(subject):
    return str(subject).strip().removeprefix("sub-")


def one_line(error):
    """The message of an error without line breaks."""
    return " ".join(str(error).split())
