"""Files that a user names: the scans and tractograms behind them, their names, reading them."""

import collections
import itertools
import re
from pathlib import Path

from brainvq.data.readers.bids import is_simulated
from brainvq.data.tractograms import FORMATS
from brainvq.errors import UserError


def readable(paths, read, log, *, of=None, what="files", wanted=""):
    """Reads files one after another; bad ones are reported and counted.

    Args:
        paths: dict of path to the name that its results get.
        read: function of a path that returns its content, or raises `UserError`.
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
            content = read(path)
        except UserError as error:
            if len(paths) == 1:
                raise
            bad += 1
            log.warning("skipped: %s", error)
            continue
        yield path, name, content
    if bad == len(paths):
        first = next(iter(paths)) if of is None else of
        raise UserError(f"{first}: none of {len(paths)} {what} could be read{wanted}")
    if bad:
        log.warning("%d of %d %s were skipped", bad, len(paths), what)


def readable_scans(names, read, log):
    """`readable` over the scans that `names` are or hold, see `scan_paths`."""
    return readable(
        scan_paths(names), read, log, of=names[0], what="scans", wanted="; expected NIfTI scans"
    )


def scan_paths(names):
    """The NIfTI files that `names` are or hold, each with the name that its results get.

    Args:
        names: paths of files, or of folders that are searched to any depth, their `derivatives`
            left out.

    Returns:
        dict of `pathlib.Path` to str: the subject where there is one file of it, else as `named`.

    Raises:
        UserError: a folder holds no NIfTI file.
    """

    def is_scan(folder, path):
        return ".nii" in path.name and "derivatives" not in path.relative_to(folder).parts

    return named(_files(names, is_scan, ".nii or .nii.gz; expected scans"), subjects=True)


def tractogram_paths(names):
    """The files that `names` are, and the tractograms that folders among them hold at any depth.

    Args:
        names: paths of files or folders.

    Returns:
        List of `pathlib.Path`.

    Raises:
        UserError: a folder holds no tractogram.
    """

    def is_tractogram(folder, path):
        suffix = path.suffix.lower()
        return suffix in FORMATS and not path.name.startswith(".") and path.is_file()

    return _files(names, is_tractogram, f"{', '.join(FORMATS)}; expected tractograms")


def named(paths, subjects=False):
    """Names that the results of files get, no two the same.

    Args:
        paths: iterable of `pathlib.Path`; one that is there twice counts once.
        subjects: whether a file is called by its subject (see `subject_of`) where it is the only
            one of it, and by its name up to the first dot elsewhere.

    Returns:
        dict of path to str: the file's name without its ending; where several share that, with the
        folder's name before it, with the ending, and at last with a number.
    """
    paths = list(dict.fromkeys(paths))
    stems = [path.name.split(".")[0] if subjects else path.stem for path in paths]
    placed = [
        f"{path.absolute().parent.name}_{stem}" for path, stem in zip(paths, stems, strict=True)
    ]
    ended = [f"{name}_{path.suffix[1:]}" for path, name in zip(paths, placed, strict=True)]
    forms = [[subject_of(path) for path in paths]] if subjects else []
    forms += [stems, placed, ended]
    counts = [collections.Counter(form) for form in forms]
    names = {}
    taken = set()
    for number, path in enumerate(paths):
        choices = [form[number] for form in forms]
        alone = [name for name, count in zip(choices, counts, strict=True) if count[name] == 1]
        numbered = (f"{stems[number]}_{place}" for place in itertools.count(number + 1))
        names[path] = next(name for name in itertools.chain(alone, numbered) if name not in taken)
        taken.add(names[path])
    return names


def subject_of(path):
    """The subject that a file's name speaks of, as BIDS, IXI and OASIS write it.

    Args:
        path: `pathlib.Path`.

    Returns:
        str, e.g. "sub-01"; the whole name up to its first dot where it follows no pattern.
    """
    stem = path.name.split(".")[0]
    match = re.match(r"sub-[A-Za-z0-9]+|IXI\d+|OAS[12]_\d+", stem)
    return match[0] if match else stem


def comes_from_simulation(path):
    """Whether a file lies, at any depth, in a folder that brainvq wrote as simulated.

    Args:
        path: path of the file.

    Returns:
        bool; True too for what other programs derived from simulated data inside such a folder.
    """
    return any(map(is_simulated, Path(path).absolute().parents))


def _files(names, wanted, expected):
    """The files among `names`, and those in its folders that `wanted(folder, path)` takes."""
    paths = []
    for name in map(Path, names):
        files = [name]
        if name.is_dir():
            files = sorted(path for path in name.rglob("*") if wanted(name, path))
        if not files:
            raise UserError(f"{name}: holds no {expected}")
        paths += files
    return paths
