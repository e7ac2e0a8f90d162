"""Files that a user names: the scans and tractograms behind them, their names, reading them."""

import collections
import functools
import itertools
import logging
import re
from pathlib import Path

from brainvq.data.readers.bids import is_simulated
from brainvq.data.readers.folders import files_below
from brainvq.data.tractograms import FORMATS
from brainvq.errors import UserError

logger = logging.getLogger("brainvq")

_SCANS = (".nii", ".nii.gz", ".mgz", ".mgh", ".img", ".hdr")

# Last words of file names, as BIDS and IXI have them: contrasts of the anatomy, and what is no
# image of it.
_CONTRASTS = re.compile(
    "t[12]w|pdw|t2star(w|map)?|t2s|flair|inplanet[12]|pdt2|unit1|mra|angio|sw[ai]n?|dti|dir|"
    "t1(c|ce|gd)"
)
_NO_IMAGES = re.compile(
    "bold|cbv|sbref|dwi|epi|fieldmap|phasediff|phase[12]?|magnitude[12]?|asl|m0scan|"
    "(deface)?mask|(d|prob|a)?seg|gt|lesions?|roi|labels?|warp|xfm|[rt][12]map"
)


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


def scan_paths(names, contrast=None):
    """The scans that `names` are or hold, each with the name that its results get.

    In a folder, NIfTI, MGH and Analyze files are searched to any depth behind links too, endings in
    any case. Left out, with a word on how many, are `derivatives`, `sourcedata` and hidden files;
    where others remain, files whose last word says that they are no anatomical image (`_bold`,
    `_mask`); and where there are images of the wanted contrast, those of another one.

    Args:
        names: paths of files, which are taken whatever they are called, or of folders.
        contrast: the contrast wanted, as BIDS writes it; None takes all.

    Returns:
        dict of `pathlib.Path` to str: the subject where there is one file of it, else as `named`.

    Raises:
        UserError: a folder holds no such file.
    """

    def scans(folder):
        below = files_below(folder, ("derivatives", "sourcedata"))
        files = [path for path in below if path.name.lower().endswith(_SCANS)]
        whole = [path for path in files if path.exists()]
        _tell(folder, files, whole, "links that lead nowhere")
        images = [path for path in whole if not _NO_IMAGES.fullmatch(_contrast(path))] or whole
        _tell(folder, whole, images, "masks, segmentations, series or maps")
        wanted = [path for path in images if _contrast(path) == str(contrast).lower()]
        if not wanted:
            return images
        chosen = [
            path for path in images if path in wanted or not _CONTRASTS.fullmatch(_contrast(path))
        ]
        _tell(folder, images, chosen, f"images of another contrast than {contrast}")
        return chosen

    paths = _files(names, scans, ".nii or .nii.gz; expected scans")
    pairs = {path.with_suffix("") for path in paths if path.suffix.lower() == ".img"}
    paths = [
        path for path in paths if path.suffix.lower() != ".hdr" or path.with_suffix("") not in pairs
    ]
    return named(paths, subjects=True)


def tractogram_paths(names):
    """The files that `names` are, and the tractograms that folders among them hold at any depth.

    Args:
        names: paths of files or folders; links are followed.

    Returns:
        List of `pathlib.Path`.

    Raises:
        UserError: a folder holds no tractogram.
    """

    def tractograms(folder):
        below = files_below(folder, ("sourcedata",))
        files = [path for path in below if path.suffix.lower() in FORMATS]
        whole = [path for path in files if path.is_file()]
        _tell(folder, files, whole, "links that lead nowhere")
        return whole

    return _files(names, tractograms, f"{', '.join(FORMATS)}; expected tractograms")


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


def _files(names, search, expected):
    """The files among `names`, and those that `search` finds in its folders."""
    paths = []
    for name in map(Path, names):
        files = search(name) if name.is_dir() else [name]
        if not files:
            raise UserError(f"{name}: holds no {expected}")
        paths += files
    return paths


def _contrast(path):
    """The last word of a file's name in small letters; "t1", as IXI writes it, is "t1w"."""
    word = re.split(r"[_-]", path.name.split(".")[0])[-1].lower()
    return {"t1": "t1w", "t2": "t2w", "pd": "pdw"}.get(word, word)


def _tell(folder, before, after, what):
    """A word on files that are left out."""
    if len(after) < len(before):
        first = next(path for path in before if path not in after)
        _tell_once(f"{folder}: {len(before) - len(after)} {what} left out, e.g. {first.name}")


@functools.cache  # several parts of a command look for the same files
def _tell_once(message):
    logger.warning(message)
