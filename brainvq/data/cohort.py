"""The cohort: a table with one row per scan, checked, and split by subject."""

import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from brainvq.data.scans import MASK
from brainvq.errors import UserError
from brainvq.files import write_csv

SPLITS = ("train", "validation", "test")

# Every cohort has these columns, in this order; a reader may add its own after them.
COLUMNS = (
    "scan_id",
    "subject",
    "session",
    "group",
    "age",
    "sex",
    "site",
    "modality",
    "paths",
    "tr",
    "te",
    "pixel_bandwidth",
)
_NUMBERS = ("age", "tr", "te", "pixel_bandwidth")
_ABSENT = ("na", "n/a", "nan", "none", "null", "")
_TEXTS = tuple(name for name in COLUMNS if name not in (*_NUMBERS, "paths"))

# Columns that tell one scan of a visit from another, where a reader has them.
_REPEATS = ("run", "variant", "modality")

_FILE_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, eq=False)  # tables have no single answer to ==
class Cohort:
    """A set of scans as a plain table, one row per scan.

    Args:
        name: short name for logs, titles and cards.
        table: `pandas.DataFrame` or rows that make one. Needs `scan_id`, `subject` and `paths`;
            the other columns of `COLUMNS` are filled in where they are missing. `scan_id` is unique
            and usable as a file name. `paths` is a tuple of str as `brainvq.data.load_scan` takes
            it. `age` is in years, `tr` and `te` in seconds, `pixel_bandwidth` in Hz per pixel, NaN
            where unknown. `sex` is "M", "F" or "". An optional column `split` holds
            "train", "validation" or "test".
        simulated: True if the scans are made by a computer; logs, titles and cards then say so.
        note: one line on what was left out or assumed when the cohort was read.

    Raises:
        UserError: on missing columns, no rows, repeated or unsafe scan ids, two rows for the same
            subject and session (and run, variant, modality), or a subject in two splits.
    """

    name: str
    table: pd.DataFrame = field(repr=False)
    simulated: bool = False
    note: str = ""

    def __post_init__(self):
        object.__setattr__(self, "table", _checked(self.name, self.table))

    def __len__(self):
        return len(self.table)

    @property
    def subjects(self):
        """Sorted list of the subjects, each once."""
        return sorted(self.table["subject"].unique())

    def select(self, **conditions):
        """Returns the cohort of the rows that meet every condition.

        Args:
            **conditions: column name → a value, a list, tuple or set of values, or a function from
                a value to bool, e.g. `select(group="healthy", age=lambda years: years > 60)`.

        Raises:
            UserError: if there is no such column or no row is left.
        """
        keep = np.ones(len(self.table), bool)
        for column, wanted in conditions.items():
            if column not in self.table:
                raise UserError(
                    f"cohort {self.name}: no column {column!r}; columns are "
                    f"{', '.join(self.table.columns)}"
                )
            values = self.table[column]
            if callable(wanted):
                keep &= np.array([bool(wanted(value)) for value in values])
            elif isinstance(wanted, list | tuple | set | frozenset):
                keep &= values.isin(list(wanted)).to_numpy()
            else:
                keep &= (values == wanted).to_numpy(bool)
        if not keep.any():
            shown = ", ".join(f"{name}={wanted!r}" for name, wanted in conditions.items())
            raise UserError(f"cohort {self.name}: none of its {len(self)} scans has {shown}")
        return replace(self, table=self.table[keep])

    def split(self, fractions=(0.8, 0.1, 0.1), seed=0, stratify="group", assignments=None):
        """Returns the cohort with a column `split`, decided per subject.

        All scans of a subject go to the same split. The result depends on the set of subjects,
        their groups and the seed, not on the order of the rows.

        Args:
            fractions: shares of the subjects in train, validation and test, summing to 1. A share
                of 0 leaves that split empty; any other share gets one subject at least.
            seed: int; which subjects go where.
            stratify: column whose values have the same proportions in every split, or None. A
                subject whose scans differ in it counts with the commonest value (the first in the
                alphabet among equals).
            assignments: instead of drawing: a mapping subject → split, or the path of a `.csv` file
                with the columns `subject` and `split` or of a `.json` file with such a mapping.
                `fractions`, `seed` and `stratify` are then not used. Subjects that the cohort does
                not have are allowed.

        Raises:
            UserError: on fractions that are no shares, fewer subjects than splits, an unknown
                column, or assignments that leave a subject out.
        """
        if assignments is not None:
            placed = _read_assignments(assignments)
            missing = [subject for subject in self.subjects if subject not in placed]
            if missing:
                raise UserError(
                    f"split assignments {_origin(assignments)}: no split for {_some(missing)} of "
                    f"cohort {self.name}; every subject needs one"
                )
        else:
            placed = self._draw(fractions, seed, stratify)
        table = self.table.assign(split=[placed[subject] for subject in self.table["subject"]])
        return replace(self, table=table)

    def joined(self, other, name=None):
        """Returns one cohort of the scans of two, such as a real one and a simulated one.

        Args:
            other: `Cohort`; it has no subject and no scan id in common with this one.
            name: name of the result; both names with "+" between them if None.

        Returns:
            `Cohort` with the columns of both, "" or NaN where one has none. It counts as simulated
            only if both are; the note says how many scans of which kind it holds. A column `split`
            stays if both have it.

        Raises:
            UserError: if a subject or a scan id is in both.
        """
        name = name or f"{self.name}+{other.name}"
        for column, what in (("subject", "subjects"), ("scan_id", "scan ids")):
            shared = sorted(set(self.table[column]) & set(other.table[column]))
            if shared:
                raise UserError(
                    f"cohorts {self.name} and {other.name}: {what} {_some(shared)} in both; "
                    "expected different ones, since one name is one person"
                )
        tables = [self.table, other.table]
        if not all("split" in table for table in tables):
            tables = [table.drop(columns="split", errors="ignore") for table in tables]
        texts = {
            column: ""
            for table in tables
            for column in table
            if not pd.api.types.is_numeric_dtype(table[column])
        }
        columns = dict.fromkeys(column for table in tables for column in table)
        rows = [
            {column: row.get(column, texts.get(column, math.nan)) for column in columns}
            for table in tables
            for row in table.to_dict("records")
        ]
        notes = [
            f"{len(cohort)} {'simulated' if cohort.simulated else 'real'} scans of {cohort.name}"
            + (f" ({cohort.note})" if cohort.note else "")
            for cohort in (self, other)
        ]
        simulated = self.simulated and other.simulated
        return Cohort(name, pd.DataFrame(rows), simulated=simulated, note="; ".join(notes))

    def _draw(self, fractions, seed, stratify):
        counts = _split_sizes(fractions, len(self.subjects), self.name)
        strata = {}
        if stratify is None:
            strata[""] = self.subjects
        elif stratify not in self.table:
            raise UserError(
                f"cohort {self.name}: cannot stratify by {stratify!r}; columns are "
                f"{', '.join(self.table.columns)}"
            )
        else:
            for subject, values in self.table.groupby("subject")[stratify]:
                common = sorted(values.astype(str).mode())[0]
                strata.setdefault(common, []).append(subject)
        generator = np.random.default_rng(seed)
        ranked = []
        for stratum in sorted(strata):
            subjects = generator.permutation(np.array(sorted(strata[stratum]), dtype=object))
            # Systematic sampling: the subjects of a stratum stand at even distances on [0, 1), from
            # a random start. Cutting the merged line then gives every stratum its share to about
            # one subject, while the sizes of the splits are exact.
            places = (np.arange(len(subjects)) + generator.random()) / len(subjects)
            ranked += zip(places, [stratum] * len(subjects), subjects, strict=True)
        ordered = [subject for _, _, subject in sorted(ranked)]
        placed, start = {}, 0
        for split, count in zip(SPLITS, counts, strict=True):
            placed |= dict.fromkeys(ordered[start : start + count], split)
            start += count
        return placed

    def describe(self):
        """Returns a few lines of text: scans, subjects, ages and sexes, in all and per group.

        A cohort with splits gets a line per split and group.
        """
        table, by = self.table, ["group"]
        if "split" in table:
            table = table.assign(split=pd.Categorical(table["split"], SPLITS))
            by = ["split", "group"]
        rows = [("all", table)]
        for key, part in table.groupby(by, observed=True):
            rows.append((" / ".join(value or "(no group)" for value in key), part))
        lines = []
        for label, part in rows:
            first = part.drop_duplicates("subject")
            ages = part["age"].dropna()
            age = f"{ages.min():.0f}-{ages.max():.0f}, mean {ages.mean():.1f}" if len(ages) else "?"
            sexes = first["sex"].value_counts()
            lines.append(
                (
                    label,
                    str(len(part)),
                    str(len(first)),
                    age,
                    f"{sexes.get('F', 0)} F, {sexes.get('M', 0)} M, {sexes.get('', 0)} ?",
                )
            )
        header = ("", "scans", "subjects", "age (years)", "sex")
        widths = [max(len(row[i]) for row in [header, *lines]) for i in range(len(header))]
        kind = " (simulated)" if self.simulated else ""
        text = [f"cohort {self.name}{kind}"]
        for row in [header, *lines]:
            cells = zip(row, widths, strict=True)
            text.append("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
        if self.note:
            text.append(f"note: {self.note}")
        return "\n".join(text)

    def to_csv(self, path):
        """Writes the table to `path`, atomically; `paths` is written as a JSON list."""
        table = self.table.copy()
        table["paths"] = [json.dumps(list(paths)) for paths in table["paths"]]
        write_csv(path, table)

    @classmethod
    def from_csv(cls, path, name=None, simulated=False, note=""):
        """Reads a cohort that `to_csv` wrote, or a table made by hand.

        Args:
            path: `.csv` file. A cell of `paths` is a JSON list or a single path; relative paths are
                relative to the folder of the file.
            name: name of the cohort; the name of the file without suffix if None.
            simulated: see `Cohort`.
            note: see `Cohort`.

        Raises:
            UserError: if the file cannot be read or the table is no cohort.
        """
        path = Path(path)
        try:
            # Run and variant are labels too: "01" must not become the number 1.
            texts = dict.fromkeys((*_TEXTS, "run", "variant"), str)
            # Somebody may be called NA: only an empty cell is a missing one, except of numbers.
            options = {"dtype": texts, "keep_default_na": False, "na_values": [""]}
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                table = pd.read_csv(path, index_col=False, encoding="utf-8-sig", **options)
            for column in table.columns.intersection(_NUMBERS):
                absent = table[column].astype(str).str.strip().str.lower().isin(_ABSENT)
                table[column] = table[column].mask(absent)
        except (OSError, ValueError, pd.errors.ParserWarning) as error:
            line = " ".join(str(error).split())
            raise UserError(f"{path}: cannot be read as a cohort table: {line}") from error
        if "paths" in table:
            table["paths"] = [_parse_paths(cell, path) for cell in table["paths"]]
        return cls(name or path.stem, table, simulated=simulated, note=note)


def safe_id(text):
    """Returns `text` with every character that is unsafe in a file name replaced by "-"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(text)).lstrip("._-") or "scan"


def normal_sex(value):
    """Returns "M", "F" or "" (unknown) for the ways in which tables write a sex."""
    first = str(value).strip().upper()[:1]
    return first if first in ("M", "F") else ""


def _checked(name, table):
    """The table with every column of `COLUMNS`, of the right types, or UserError."""
    table = pd.DataFrame(table).reset_index(drop=True)
    for column in ("scan_id", "subject", "paths"):
        if column not in table:
            raise UserError(f"cohort {name}: no column {column!r}; it is required")
    if table.empty:
        raise UserError(f"cohort {name}: no scans")
    for column in _TEXTS:
        values = table[column] if column in table else pd.Series("", index=table.index)
        table[column] = ["" if _missing(value) else str(value) for value in values]
    for column in _NUMBERS:
        values = table[column] if column in table else pd.Series(np.nan, index=table.index)
        try:
            table[column] = pd.to_numeric(values).astype(float)
        except (ValueError, TypeError) as error:
            raise UserError(f"cohort {name}: column {column!r} must be numbers: {error}") from None
    table["paths"] = [
        (paths,) if isinstance(paths, str) else tuple(str(path) for path in paths)
        for paths in table["paths"]
    ]
    table = table[[*COLUMNS, *(column for column in table if column not in COLUMNS)]]
    _check_rows(name, table)
    if "split" in table:
        _check_splits(name, table)
    return table


def _check_rows(name, table):
    """UserError where scans or visits cannot be told apart, or a cell says nothing usable."""
    for column in ("scan_id", "subject"):
        if (table[column] == "").any():
            raise UserError(f"cohort {name}: column {column!r} is blank in some rows")
    unsafe = [scan for scan in table["scan_id"] if not _FILE_SAFE.fullmatch(scan)]
    if unsafe:
        raise UserError(
            f"cohort {name}: scan_id must be usable as a file name (letters, digits, '.', '_', "
            f"'-'), found {_some(unsafe)}"
        )
    without = table["scan_id"][[not paths for paths in table["paths"]]]
    if len(without):
        raise UserError(f"cohort {name}: no path for {_some(without)}")
    key = ["subject", "session", *(column for column in _REPEATS if column in table)]
    twice = table[table.duplicated(key, keep=False)]
    if len(twice):
        subject, session = twice.iloc[0][["subject", "session"]]
        same = twice[(twice["subject"] == subject) & (twice["session"] == session)]
        visit = f"subject {subject}" + (f", session {session}" if session else "")
        raise UserError(
            f"cohort {name}: {visit} is there {len(same)} times "
            f"({_some([paths[0] for paths in same['paths']])}); one scan per visit is expected"
        )
    repeated = table["scan_id"][table["scan_id"].duplicated()].unique()
    if len(repeated):
        raise UserError(f"cohort {name}: scan_id must be unique, repeated: {_some(repeated)}")
    wrong = sorted(set(table["sex"]) - {"M", "F", ""})
    if wrong:
        raise UserError(f"cohort {name}: sex must be 'M', 'F' or '', found {_some(wrong)}")


def _check_splits(name, table):
    wrong = sorted({str(split) for split in table["split"]} - set(SPLITS))
    if wrong:
        raise UserError(f"cohort {name}: split must be one of {SPLITS}, found {_some(wrong)}")
    splits = table.groupby("subject")["split"].nunique()
    leaking = splits.index[splits > 1]
    if len(leaking):
        raise UserError(
            f"cohort {name}: {_some(leaking)} in more than one split; "
            "all scans of a subject belong to one"
        )


def _split_sizes(fractions, subjects, name):
    """Subjects per split, by largest remainders; at least 1 where the share is above 0."""
    shares = [float(share) for share in fractions]
    proper = len(shares) == len(SPLITS) and all(math.isfinite(s) and s >= 0 for s in shares)
    if not proper or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            f"split fractions: found {tuple(fractions)}, expected three shares "
            "(train, validation, test) that sum to 1"
        )
    wanted = sum(share > 0 for share in shares)
    if subjects < wanted:
        raise UserError(
            f"cohort {name}: {subjects} subject(s) cannot fill {wanted} splits; each split needs "
            "one subject or more (a share of 0 switches a split off)"
        )
    exact = [share * subjects for share in shares]
    counts = [math.floor(value + 1e-9) for value in exact]
    by_remainder = sorted(range(3), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: subjects - sum(counts)]:
        counts[i] += 1
    for i in range(3):
        if shares[i] > 0 and counts[i] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return counts


def _read_assignments(assignments):
    if isinstance(assignments, Mapping):
        placed = {str(subject): split for subject, split in assignments.items()}
    else:
        path = Path(assignments)
        try:
            if path.suffix.lower() == ".json":
                placed = json.loads(path.read_text(encoding="utf-8-sig"))
                if not isinstance(placed, dict):
                    raise ValueError(f"found a {type(placed).__name__}")
            else:
                table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
                repeated = table["subject"][table["subject"].duplicated()].unique()
                if len(repeated):
                    raise ValueError(f"{_some(repeated)} more than once")
                placed = dict(zip(table["subject"], table["split"], strict=True))
        except KeyError as error:
            raise UserError(
                f"{path}: no column {error}, expected columns 'subject' and 'split'"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: cannot be read as split assignments ({error}); expected a .csv with the "
                "columns 'subject' and 'split' or a .json mapping subject to split"
            ) from None
    wrong = sorted({str(split) for split in placed.values()} - set(SPLITS))
    if wrong:
        raise UserError(
            f"split assignments {_origin(assignments)}: found {_some(wrong)}, expected one of "
            f"{', '.join(SPLITS)}"
        )
    return placed


def _origin(assignments):
    return "" if isinstance(assignments, Mapping) else str(assignments)


def _parse_paths(cell, csv):
    if _missing(cell):
        return ()
    text = str(cell)
    try:
        paths = json.loads(text) if text.startswith("[") else [text]
    except ValueError as error:
        raise UserError(f"{csv}: paths {text!r} is neither a path nor a JSON list") from error
    # A scheme such as "simulated:" comes before a colon; those paths are not files of this folder.
    return tuple(_beside(csv, path) for path in paths)


def _beside(csv, path):
    if path.startswith(MASK):
        return MASK + _beside(csv, path.removeprefix(MASK))
    return path if Path(path).is_absolute() or ":" in path else str(csv.parent / path)


def _missing(value):
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _some(values, most=5):
    values = [str(value) for value in values]
    rest = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(values[:most]) + rest
