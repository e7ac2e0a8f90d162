"""What the readers share: looking at folders, and reading tables of people."""

import codecs
import csv
import io
import logging
import math
import os
import struct
import warnings
import zipfile
from pathlib import Path

import pandas as pd

from brainvq.errors import UserError

# Texts that tables of people use for "not known". "NA", "None" and "null" are names as well, of
# people and of classes, and stay; where a number is expected they are none.
BLANKS = ("", "n/a", "nan", "unknown", "?", ".")

logger = logging.getLogger("brainvq")

# Bytes of an unpacked Excel file; as objects of Python they become many times as many.
_MOST_BOOK = 1 << 26

# Columns that name people and visits: there every text is a name.
_NAMES = ("participant_id", "session_id", "subject", "session", "id")


def existing_folder(root):
    """Returns `root` as an absolute `pathlib.Path`; UserError if there is no such folder."""
    path = Path(root).expanduser()
    if not path.exists():
        raise UserError(f"{root}: no such folder; the folder of the data set is expected")
    if not path.is_dir():
        raise UserError(f"{root}: is a file; the folder of the data set is expected")
    return path.absolute()


def entries(root, most=6):
    """Returns what a folder holds, in one line, for error messages."""
    names = sorted(
        path.name + ("/" if path.is_dir() else "")
        for path in Path(root).iterdir()
        if not path.name.startswith(".")
    )
    if not names:
        return "an empty folder"
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def files_below(root, without=()):
    """Returns the files in a folder and deeper, links followed, each folder once.

    Hidden files and folders (`.git`, `._sub-01.nii` of macOS) are left out. A folder that links
    lead to several times, such as a loop, is searched at one place, not behind a link if it is
    there without one.

    Args:
        root: folder.
        without: names of folders that are left out, in any case.

    Returns:
        Sorted list of `pathlib.Path`; broken links are among them.
    """
    files, seen, folders, links = [], set(), [Path(root)], []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries_here = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:  # a folder that may not be read
            continue
        for entry in entries_here:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if not path.is_dir():
                files.append(path)
            elif entry.name.lower() not in without:
                (links if entry.is_symlink() else folders).append(path)
    return sorted(files)


def read_people(path, sheet=None):
    """Reads a table of people, all cells as text.

    Args:
        path: `.csv`, `.tsv`, `.xlsx` or `.xls` file.
        sheet: sheet of an Excel file; the first one where there is none of that name.

    Returns:
        `pandas.DataFrame` of str without blanks around; unknown values ("n/a", "") are "", except
        in columns of names such as participant_id. Text that is not UTF-8 is read as Windows-1252,
        and quotation marks of a .tsv are characters like any other.

    Raises:
        UserError: if the file cannot be read, or Excel files cannot be read on this machine.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        if suffix == ".xls":
            table = _read_xls(path, sheet)
        elif suffix == ".xlsx":
            table = _read_xlsx(path, sheet)
        else:
            # The format .tsv knows no quoting: a mark that nobody closes would swallow lines.
            tabs = {"sep": "\t", "quoting": csv.QUOTE_NONE} if suffix == ".tsv" else {}
            text = read_text(path)
            if not text.strip():
                logger.warning("%s: is empty; taken as a table without rows", path)
                return pd.DataFrame(dtype=str)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", pd.errors.ParserWarning)
                table = pd.read_csv(
                    io.StringIO(text),
                    dtype=str,
                    keep_default_na=False,
                    index_col=False,
                    **tabs,
                )
            if told:
                logger.warning("%s: rows with more cells than the first line: cut there", path)
            if tabs:
                table = table.map(_unquoted).rename(columns=_unquoted)
    except ImportError as error:
        raise UserError(
            f"{path}: reading it needs another package ({error}); or save it as .csv beside it"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # the parsers of four formats, given any bytes
        line = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as a table: {line}") from error
    table.columns = [str(name).strip() for name in table.columns]
    for name in table.columns:
        named = name.lower() in _NAMES
        table[name] = [_clean(value, () if named else BLANKS) for value in table[name]]
    return table


def _read_xlsx(path, sheet):
    with zipfile.ZipFile(path) as members:
        _check_book(sum(member.file_size for member in members.infolist()))
    # What it warns of is nothing that a table of people has a use for.
    with warnings.catch_warnings(action="ignore"), pd.ExcelFile(path) as book:
        name = sheet if sheet in book.sheet_names else 0
        return pd.read_excel(
            book, sheet_name=name, dtype=str, keep_default_na=False, na_values=[""]
        )


def read_text(path):
    """Returns the text of a file in UTF-8 or UTF-16, with or without a byte order mark; else as
    Windows-1252, in which spreadsheets of that system write.
    """
    content = Path(path).read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def column(table, *names):
    """Returns the first column of a table that has one of `names` in any case, or None."""
    lower = {name.lower(): name for name in reversed(table.columns)}
    return next((lower[name.lower()] for name in names if name.lower() in lower), None)


def number(value):
    """Returns the value as float; NaN if it is blank or no finite number.

    Ages such as "89+" count as the number, the lower bound.
    """
    try:
        result = float(str(value).strip().removesuffix("+"))
    except ValueError:
        return math.nan
    return result if math.isfinite(result) else math.nan


def _read_xls(path, sheet):
    """Reads a sheet of the old Excel format; whole numbers lose the ".0" that they have there.

    Not through pandas, which is about to drop this way of reading.
    """
    import xlrd  # such tables are rare

    try:
        # Files are often a little off the format; what that is does not interest anybody.
        with xlrd.open_workbook(path, logfile=io.StringIO()) as book:
            names = book.sheet_names()
            rows = book.sheet_by_name(sheet) if sheet in names else book.sheet_by_index(0)
            cells = [rows.row_values(row) for row in range(rows.nrows)]
    except (xlrd.XLRDError, xlrd.compdoc.CompDocError, struct.error, AssertionError) as error:
        raise ValueError(f"no Excel file of the format .xls ({error})") from error
    if not cells:
        raise ValueError("the sheet is empty")
    cells = [
        [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in row]
        for row in cells
    ]
    return pd.DataFrame(cells[1:], columns=cells[0])


def _check_book(size):
    """Refuses an Excel file that would fill the memory; one of 10 million cells has less."""
    if size > _MOST_BOOK:
        raise ValueError(f"{size:,} bytes unpacked; {_MOST_BOOK:,} at most are expected")


def _unquoted(text):
    """A cell without the quotation marks that enclose the whole of it."""
    whole = len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]
    return text[1:-1] if whole else text


def _clean(value, blanks):
    text = "" if value is None or value != value else str(value).strip()
    return "" if text.lower() in blanks else text
