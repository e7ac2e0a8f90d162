"""Files that a user names: the scans and tractograms behind them, and reading them."""

import functools
import logging
import re
from pathlib import Path

from brainvq.data.readers.bids import is_simulated
from brainvq.data.readers.folders import files_below
from brainvq.data.scans import PICTURES
from brainvq.data.selection import Ignored, entities_from, has_entities, in_one_space
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


def scan_paths(names, contrast=None, entities=None, preferred=None):
    """The scans that `names` are or hold.

    In a folder, NIfTI, MGH and Analyze files are searched to any depth behind links too, endings in
    any case; where there are none, pictures. Left out, with a word on how many, are `derivatives`,
    `sourcedata`, hidden files and what `.bidsignore` names; where others remain, files whose last
    word says that they are no anatomical image (`_bold`, `_mask`); where there are images of the
    wanted contrast, those of another one; and where one is there in several spaces, all but one, as
    `brainvq.data.selection.in_one_space` does it.

    Args:
        names: paths of files, which are taken whatever they are called, or of folders.
        contrast: the contrast wanted, as BIDS writes it; None takes all.
        entities: text on the entities wanted, such as "space=MNI152NLin2009cAsym,run=1"; None takes
            all.
        preferred: the same; where a folder has none of these, all are taken.

    Returns:
        List of `pathlib.Path`.

    Raises:
        UserError: a folder holds no such file.
    """

    def scans(folder):
        below = files_below(folder, ("derivatives", "sourcedata"))
        files = [path for path in below if path.name.lower().endswith(_SCANS)]
        files = files or [path for path in below if path.name.lower().endswith(PICTURES)]
        whole = _there(folder, files)
        images = [path for path in whole if not _NO_IMAGES.fullmatch(_contrast(path))] or whole
        _tell(folder, whole, images, "masks, segmentations, series or maps")
        chosen = _of_contrast(folder, images, contrast)
        chosen = _with_entities(folder, chosen, entities, preferred)
        kept = in_one_space(chosen)
        _tell(folder, chosen, kept, "images, of which there is one in another space,")
        return kept

    paths = _files(names, scans, ".nii or .nii.gz; expected scans")
    pairs = {path.with_suffix("") for path in paths if path.suffix.lower() == ".img"}
    return [
        path for path in paths if path.suffix.lower() != ".hdr" or path.with_suffix("") not in pairs
    ]


def tractogram_paths(names, entities=None, preferred=None):
    """The files that `names` are, and the tractograms that folders among them hold at any depth.

    Args:
        names: paths of files or folders; links are followed.
        entities: as in `scan_paths`.
        preferred: as in `scan_paths`.

    Returns:
        List of `pathlib.Path`.

    Raises:
        UserError: a folder holds no tractogram.
    """

    def tractograms(folder):
        below = files_below(folder, ("sourcedata",))
        whole = _there(folder, [path for path in below if path.suffix.lower() in FORMATS])
        return _with_entities(folder, whole, entities, preferred)

    return _files(names, tractograms, f"{', '.join(FORMATS)}; expected tractograms")


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


def _there(folder, files):
    """The files that are there and that the data set does not ask to leave out."""
    whole = [path for path in files if path.is_file()]
    _tell(folder, files, whole, "links that lead nowhere")
    ignored = Ignored(folder)
    kept = [path for path in whole if not ignored(path)]
    _tell(folder, whole, kept, "files that .bidsignore names")
    return kept


def _of_contrast(folder, images, contrast):
    """Those of a contrast and those that name none; all where none is of it."""
    wanted = [path for path in images if _contrast(path) == str(contrast).lower()]
    if not wanted:
        return images
    chosen = [
        path for path in images if path in wanted or not _CONTRASTS.fullmatch(_contrast(path))
    ]
    _tell(folder, images, chosen, f"images of another contrast than {contrast}")
    return chosen


def _with_entities(folder, paths, entities, preferred):
    """Those of the entities wanted, or else of those preferred where there are some."""
    text = entities if entities is not None else preferred
    if text is None or not paths:
        return paths
    wanted = entities_from(text, "--entities")
    chosen = [path for path in paths if has_entities(path, wanted)]
    if not chosen and entities is None:
        return paths
    if not chosen:
        raise UserError(
            f"--entities: found {entities}, but no file of {folder} has them; expected those of "
            f"one there, such as {paths[0].name}"
        )
    _tell(folder, paths, chosen, f"files without {text}")
    return chosen


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
