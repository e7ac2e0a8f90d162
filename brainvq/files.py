"""Writing files so that a kill at any moment leaves the old content or the new, never a mixture."""

import contextlib
import errno
import json
import os
import re
import uuid
import zipfile
from pathlib import Path

import numpy as np

from brainvq.errors import UserError

# No room on the disk, in a quota, or for a file of this size.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEMPORARY = re.compile(r"\..*-[0-9a-f]{8}(\..*)?")


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path`; on success it takes the place of `path`.

    The temporary name keeps the suffixes of `path`, because writers such as `keras.Model.save` and
    `numpy.save` choose a format by them. If the body raises, the temporary file is removed and
    `path` is as it was.

    Args:
        path: the file to write. Missing parent folders are made.

    Yields:
        `pathlib.Path` of the temporary file.

    Raises:
        OSError: the disk is full; with the number of that error and the name of `path`, whichever
            library writes the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stem, dot, suffixes = path.name.partition(".")
    temporary = path.with_name(f".{stem}-{uuid.uuid4().hex[:8]}{dot}{suffixes}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        number = _disk_full(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _disk_full(error):
    """The number of an error of a full disk; None for another error."""
    if error.errno in DISK_FULL:
        return error.errno
    # HDF5 says the number in its text alone, NumPy how many items it could write.
    found = re.search(r"errno = (\d+)", str(error))
    if found and int(found[1]) in DISK_FULL:
        return int(found[1])
    return errno.ENOSPC if re.search(r"\d+ requested and \d+ written", str(error)) else None


def is_temporary(path):
    """Whether a path has the name of a temporary file of `atomic_path`."""
    return _TEMPORARY.fullmatch(Path(path).name) is not None


def write_text(path, text):
    """Writes `text` (str) to `path` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path, content):
    """Writes bytes, atomically; folders are made."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path, content):
    """Writes `content` to `path` as indented JSON, atomically; NumPy values are allowed."""
    write_text(path, json.dumps(content, indent=2, default=_plain, allow_nan=True) + "\n")


def read_json(path):
    """The names and values (dict) of a JSON file; `UserError` where there are none."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected JSON") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); expected a file of brainvq") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{path}: holds a {kind}; expected names and values, a file of brainvq")
    return content


def read_settings(path):
    """Reads a file of settings, JSON or, with the ending `.yaml` or `.yml`, YAML: dict.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    path = Path(path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        content = read_json(path)
    else:
        import yaml

        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: unreadable ({reason}); expected settings as YAML") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__}; expected names and values")
    return content


def write_csv(path, table):
    """Writes a `pandas.DataFrame` to `path` without its index, atomically."""
    write_text(path, table.to_csv(index=False))


def write_tsv(path, table):
    """Writes a `pandas.DataFrame` as BIDS has tables, atomically: tabs, and n/a where none is.

    A column `participant_id` comes first.
    """
    first = [name for name in ("participant_id", "session_id") if name in table]
    table = table[[*first, *(name for name in table if name not in first)]]
    write_text(path, table.to_csv(index=False, sep="\t", na_rep="n/a"))


def read_csv(path, *texts, dtype=None):
    """Reads a table that `write_csv` or `write_tsv` wrote.

    Of the first only empty cells are missing, so that NA stays a name; of the second those of n/a.

    Args:
        path: `.csv` or `.tsv` file.
        *texts: columns that are text, whatever they look like.
        dtype: number type of all columns; by default each has its own.
    """
    import pandas as pd  # whoever has a table has loaded it

    tabs = Path(path).suffix == ".tsv"
    types = dict.fromkeys(texts, str) if dtype is None else dtype
    missing = ["n/a"] if tabs else [""]
    return pd.read_csv(
        path, sep="\t" if tabs else ",", dtype=types, keep_default_na=False, na_values=missing
    )


def write_array(path, array):
    """`numpy.save`, atomically."""
    with atomic_path(path) as temporary:
        np.save(temporary, array)


@contextlib.contextmanager
def growing_array(path, dtype, count):
    """Writes an array to a `.npy` file part by part, so that it never is in memory as a whole.

    The file takes the place of `path` when the body is done.

    Args:
        path: the file.
        dtype: number type on disk, such as "<i2".
        count: int, rows of the whole array.

    Yields:
        Function that takes the next rows, an array `(n, ...)`.
    """
    # Not a memory map: on a full disk that ends the process, without a word.
    with atomic_path(path) as temporary, open(temporary, "wb") as file:

        def write(rows):
            if not file.tell():
                header = {"descr": np.dtype(dtype).str, "fortran_order": False}
                header["shape"] = (count, *rows.shape[1:])
                np.lib.format.write_array_header_1_0(file, header)
            file.write(rows.astype(dtype).tobytes())

        yield write


def read_array(path, *, expected):
    """Reads the array of a `.npy` file that a user named.

    Args:
        path: path of the file.
        expected: what the array should be, for messages, e.g. "codes".

    Returns:
        `numpy.ndarray` of any shape and any number type; never of objects.

    Raises:
        UserError: the file is missing or damaged, or holds objects or several arrays (`.npz`).
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"PK"
        if packed and not zipfile.is_zipfile(path):
            raise ValueError("a damaged archive")
        if packed:
            raise UserError(f"{path}: found several arrays; expected {expected} (.npy)")
        # Mapped first: a header that claims more than the file holds takes no memory.
        with np.errstate(all="ignore"):
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (MemoryError, UserError):
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {expected} (.npy)") from None
    except Exception as error:  # the parsers of three formats, given any bytes
        line = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read ({line}); expected {expected} (.npy)") from None


def records(table):
    """A `pandas.DataFrame` as a list of dicts that JSON takes; what is no number is None."""
    return [{key: finite(value) for key, value in row.items()} for row in table.to_dict("records")]


def finite(value):
    """A number of NumPy as Python's, None where it is not finite; anything else as it is."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
