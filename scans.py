"""Scans that a command line names: their files, their names, and reading them one after another."""

import re
from pathlib import Path

from brainvq import data
from brainvq.errors import UserError


def readable_scans(names, read, log):
    """`readable` over the scans that `names` are or hold, see `scan_paths`."""
    return readable(
        scan_paths(names), read, log, of=names[0], what="scans", wanted="; expected NIfTI scans"
    )


def readable(paths, read, log, *, of=None, what="files", wanted=""):
    """Reads files one after another; bad ones are reported and counted.

    Args:
        paths: dict of path to the name that its results get.
        read: function of a path that returns what it holds, or raises `UserError`.
        log: `logging.Logger`.
        of: what is named where none can be read; by default the first path.
        what: what the files are, in messages.
        wanted: end of the message where none can be read.

    Yields:
        (path, name, what `read` returned).

    Raises:
        UserError: none of the files, or not the only one, could be read.
    """
    bad = 0
    for path, name in paths.items():
        try:
            found = read(path)
        except UserError as error:
            if len(paths) == 1:
                raise
            bad += 1
            log.warning("skipped: %s", error)
            continue
        yield path, name, found
    if bad == len(paths):
        first = next(iter(paths)) if of is None else of
        raise UserError(f"{first}: none of {len(paths)} {what} could be read{wanted}")
    if bad:
        log.warning("%d of %d %s were skipped", bad, len(paths), what)


def scan_paths(names):
    """The NIfTI files that `names` are or hold, each with the name that its results get.

    Args:
        names: paths of files, or of folders that are searched to any depth, their `derivatives`
            left out.

    Returns:
        dict of `pathlib.Path` to str: the subject, as file names of BIDS, IXI and OASIS tell it;
        the file's name without endings where there are several of a subject; and where two files
        share that, the folder's name stands before it.
    """
    paths = []
    for name in map(Path, names):
        found = [name]
        if name.is_dir():
            found = sorted(
                path
                for path in name.rglob("*.nii*")
                if "derivatives" not in path.relative_to(name).parts
            )
        if not found:
            raise UserError(f"{name}: holds no .nii or .nii.gz; expected scans")
        paths += found
    subjects = [subject_of(path) for path in paths]
    stems = [path.name.split(".")[0] for path in paths]

    def name_of(path, subject, stem):
        if subjects.count(subject) == 1:
            return subject
        return stem if stems.count(stem) == 1 else f"{path.absolute().parent.name}_{stem}"

    return dict(zip(paths, map(name_of, paths, subjects, stems), strict=True))


def subject_of(path):
    """The subject that a file's name speaks of; the whole name where it follows no pattern."""
    stem = path.name.split(".")[0]
    found = re.match(r"sub-[A-Za-z0-9]+|IXI\d+|OAS[12]_\d+", stem)
    return found[0] if found else stem


def comes_from_simulation(path):
    """Whether a file lies in a folder that `dataset.py simulate` wrote."""
    for folder in path.absolute().parents:
        if (folder / "dataset_description.json").exists():
            return data.is_simulated(folder)
    return False
