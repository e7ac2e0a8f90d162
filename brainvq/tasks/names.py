"""Whose the files are that a user named, and what their results are called: never two alike."""

import collections
import dataclasses
import itertools
import os
import re
from pathlib import Path

import pandas as pd

from brainvq.data.derivatives import contrast_of, known_parts, name_parts
from brainvq.data.inputs import readable, scan_paths
from brainvq.errors import UserError
from brainvq.files import read_csv, read_json, write_json, write_tsv

# Which file each name in a folder of results stands for, so that a later call takes another name
# for another file.
LEDGER = "inputs.json"
# Bytes of a name.
LONGEST = 170
# Dots stand in names too, as in those of DICOM; only these are endings.
_ENDING = re.compile(
    r"\.(nii|mgh|mgz|mnc|img|hdr|npy|bvq|trk|tck|trx)(\.(gz|bz2|zst))?$"
    r"|(\.nii(\.gz)?)?\.(png|jpe?g|tiff?|bmp)$",
    re.I,
)
_SUBJECT = re.compile(r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+|^IXI\d+|^OAS[12]_\d+")
# Folders that may tell them: sub-01/ses-2/anat/.
_NEAR = 3
_SESSION = re.compile(r"(?<![A-Za-z0-9])ses-[A-Za-z0-9]+|(?<=\d_)MR\d+(?![A-Za-z0-9])")


@dataclasses.dataclass(frozen=True)
class Input:
    """A file that a user named.

    Attributes:
        path: `pathlib.Path`.
        name: str, what the names of its results begin with.
        subject: str, whose it is: as its name or a folder around it says; where neither does, the
            folder that tells files of one name apart, or the name itself.
        session: str such as "ses-2", "" where none is told.
    """

    path: Path
    name: str
    subject: str
    session: str


def inputs(paths, *, people=True, out=None, run=None):
    """Names for files, no two the same, on any file system.

    Args:
        paths: iterable of `pathlib.Path`; one that is there twice counts once.
        people: whether a file is called by subject and session where it is the only one of them.
        out: folder of the results; names that stand for other files there are not given again.
        run: str, the run whose results they are; what another run left in `out` may be replaced.

    Returns:
        dict of path to `Input`. Its name is the file's without the ending; where several share
        that, with the folder before it that tells them apart, with the ending, and at last with a
        number.
    """
    paths = list({os.path.abspath(path): Path(path) for path in paths}.values())
    ledger = _ledger(out, run)
    known = {file: name for name, file in ledger.items()}
    new = [path for path in paths if os.path.abspath(path) not in known]
    apart = _folders_apart([*paths, *map(Path, known)])
    named = {path: _identity(path, apart[os.path.abspath(path)], people) for path in paths}
    counts = collections.Counter(form for path in new for form in {*map(_key, named[path][2])})
    taken = _Taken(known)
    for path in new:
        forms = named[path][2]
        numbered = (f"{forms[-1]}_{number}" for number in itertools.count(2))
        alone = (form for form in forms if counts[_key(form)] == 1)
        name = next(form for form in itertools.chain(alone, numbered) if taken.free(form, path))
        taken.add(name, path)
        known[os.path.abspath(path)] = name
    return {
        path: Input(path, known[os.path.abspath(path)], subject, session)
        for path, (subject, session, _) in named.items()
    }


class _Taken:
    """Names that are given away: no other file gets one, nor one that is the same by BIDS."""

    def __init__(self, files):
        self.names, self.starts = set(), collections.defaultdict(set)
        for path, name in files.items():
            self.add(name, path)

    def add(self, name, path):
        """Gives a name to a file."""
        self.names.add(_key(name))
        start, contrast = bids_name(name, path)
        self.starts[_key(start)].add(contrast)

    def free(self, name, path):
        """Whether a file can have a name; of one start, contrasts tell names apart."""
        start, contrast = bids_name(name, path)
        others = self.starts.get(_key(start), set())
        return _key(name) not in self.names and (
            not others or bool(contrast and "" not in others and contrast not in others)
        )


def bids_name(name, path):
    """What the BIDS names of a file's images begin with, and their contrast.

    Args:
        name: str, what the names of its results begin with.
        path: `pathlib.Path` of the file.

    Returns:
        (str such as "sub-01_ses-2", contrast or "" where neither `name` nor the file tells one).
    """
    subject, session, stem = subject_of(path), session_of(path), stem_of(path)
    if name == "_".join(filter(None, (subject, session))) and stem.startswith(name):
        # Run, space and the like are no part of the name where a person has one file alone.
        name = stem if known_parts(stem) else name
    start, contrast = name_parts(name, subject, session)
    return start, contrast or contrast_of(stem)


def participant_of(name, path):
    """Whose a file is, as `participants.tsv` has it: the "sub-" of its `bids_name`."""
    return bids_name(name, path)[0].partition("_")[0]


def readable_scans(names, read, log, *, out=None, run=None, **wanted):
    """Reads the scans that `names` are or hold; bad ones are reported and counted.

    Args:
        names: paths of files or folders.
        read: function of a path that returns its content, or raises `UserError`.
        log: `logging.Logger`.
        out: as in `inputs`.
        run: as in `inputs`.
        **wanted: which files of folders are taken, see `brainvq.data.inputs.scan_paths`.

    Yields:
        (path, `Input`, what `read` returned).
    """
    given = inputs(scan_paths(names, **wanted), out=out, run=run)
    words = {"of": names[0], "what": "scans", "wanted": "; expected NIfTI scans"}
    return readable_inputs(given, read, log, out=out, run=run, **words)


def readable_inputs(given, read, log, *, out=None, run=None, **words):
    """`brainvq.data.inputs.readable` over `Input`s; `out` remembers the names of those it yields.

    Args:
        given: dict of path to `Input`.
        read: as in `readable_scans`.
        log: `logging.Logger`.
        out: as in `inputs`.
        run: as in `inputs`.
        **words: those of `readable`.
    """
    for path, one, content in readable(given, read, log, **words):
        if out is not None:
            files = {**_ledger(out, run), one.name: os.path.abspath(path)}
            write_json(Path(out) / LEDGER, {"run": run, "files": files})
        yield path, one, content


def write_rows(path, rows, column="name"):
    """Writes a table of inputs; rows that earlier calls wrote of other names stay.

    Args:
        path: the `.tsv` file, beside the ledger.
        rows: list of dict.
        column: the column of the names.
    """
    table = pd.DataFrame(rows)
    if path.exists():
        names = set(_ledger(path.parent, ...)) - set(table[column])
        try:
            earlier = read_csv(path, dtype=str)
            earlier = earlier[earlier[column].isin(names)]
        except (KeyError, ValueError):  # no table of ours
            earlier = table[:0]
        table = pd.concat([earlier, table]) if len(earlier) else table
    write_tsv(path, table)


def stem_of(path):
    """The name of a file without the ending of its format."""
    return _ENDING.sub("", Path(path).name)


def subject_of(path):
    """The subject that the name of a file, or else of a folder around it, speaks of; or None."""
    return _told(_SUBJECT, path)


def session_of(path):
    """The session that the name of a file, or else of a folder around it, speaks of; or ""."""
    return _told(_SESSION, path) or ""


def _told(pattern, path):
    path = Path(path)
    match = pattern.search(path.name)
    if match:
        return match[0]
    folders = path.absolute().parent.parts[: -_NEAR - 1 : -1]
    return next((part for part in folders if pattern.fullmatch(part)), None)


def _identity(path, folder, people):
    """Subject, session and possible names of a file, the best first."""
    stem, told, session = stem_of(path), subject_of(path), session_of(path)
    placed = f"{folder or path.absolute().parent.name}_{stem}"
    ending = re.sub(r"\W", "", path.name[len(stem) :])
    forms = [stem, placed, f"{placed}_{ending}"]
    if people and told:
        forms.insert(0, "_".join(filter(None, (told, session))))
    return told or folder or stem, session, list(map(_short, forms))


def _short(name):
    """A name that leaves room for what results add to it; disks take 255 bytes."""
    return name.encode()[:LONGEST].decode(errors="ignore")


def _folders_apart(paths):
    """For each absolute path what tells its folder from those of other files of its name, or ""."""
    groups = collections.defaultdict(list)
    for path in map(os.path.abspath, paths):
        groups[_key(stem_of(path))].append(path)
    apart = {}
    for group in groups.values():
        parents = {path: Path(path).parent.parts[::-1] for path in group}
        levels = [
            [parts[level] if level < len(parts) else "" for parts in set(parents.values())]
            for level in range(max(map(len, parents.values())))
        ]
        several = [number for number, level in enumerate(levels) if len({*map(_key, level)}) > 1]
        full = len(set(parents.values()))
        whole = [number for number in several if len({*map(_key, levels[number])}) == full]
        used = whole[:1] or several[::-1]
        for path, parts in parents.items():
            apart[path] = "_".join(parts[number] for number in used if number < len(parts))
    return apart


def _ledger(out, run):
    """dict of name to absolute path, of the results in a folder; `...` is any run."""
    if out is None or not (Path(out) / LEDGER).exists():
        return {}
    try:
        content = read_json(Path(out) / LEDGER)
        files = {str(name): str(file) for name, file in content["files"].items()}
    except (UserError, KeyError, TypeError, AttributeError):
        return {}
    return files if run is ... or content.get("run") == run else {}


def _key(name):
    """Names that are one on file systems which ignore case."""
    return name.casefold()
