"""Results as a BIDS data set of derivatives: names, sidecars, and what describes the folder."""

import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd

import brainvq
from brainvq.data.looks import look_of
from brainvq.data.readers.bids import SIMULATED_KEY
from brainvq.data.scans import save_nifti
from brainvq.data.selection import DESCRIPTION, is_ours
from brainvq.errors import UserError
from brainvq.files import read_json, write_json, write_text, write_tsv

BIDS = "1.10.0"
TEMPLATE_SPACE = "MNI152NLin2009aSym"
# Contrasts, the last words of names, that stay in names of results; entities likewise, in the order
# of BIDS.
_CONTRASTS = ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2")
_ENTITIES = ("sub", "ses", "acq", "ce", "rec", "run", "echo", "part", "space", "res", "desc")
_NAME = re.compile(r"(sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*)(?:_([A-Za-z0-9]+))?")
# Letters of a label, from its start and its end: disks take 255 bytes.
_START, _END = 60, 40
# Patterns of what lies beside images and is no part of BIDS.
_IGNORED = """\
# Pictures, arrays, tables of all files and reports: no part of BIDS.
*.png
*.npy
*.csv
*.html
*.keras
vectors
codebook
*.trk
*.tck
*.trx
*_series.*
/*.tsv
!/participants.tsv
!/*_dseg.tsv
/*.json
!/dataset_description.json
!/participants.json
"""
_README = """\
Results of brainvq, derivatives of BIDS. dataset_description.json says which model made them, the
JSON file beside an image what it is and from which scan.
"""


def label(text):
    """A text as a label of BIDS, letters and digits alone, at most a hundred.

    Args:
        text: str; accents are taken off, letters of other scripts become their numbers in Unicode.
    """
    plain = unicodedata.normalize("NFKD", str(text))
    letters = (c if c.isascii() else f"{ord(c):x}" for c in plain if c.isalnum())
    found = "".join(letters) or "x"
    return found if len(found) <= _START + _END else found[:_START] + found[-_END:]


def contrast_of(name):
    """The contrast that a file name without its ending ends with, such as "T1w"; "" without."""
    last = str(name).rpartition("_")[2]
    return last if last in _CONTRASTS else ""


def known_parts(name):
    """A name by BIDS as its entities and its contrast, ("sub-01_run-1", "T1w"); None for others.

    Args:
        name: str, without the ending. Other entities than results keep are none, and a last word
            is a contrast.
    """
    known = _NAME.fullmatch(name)
    if not known or known[2] not in (None, *_CONTRASTS):
        return None
    keys = [pair.partition("-")[0] for pair in known[1].split("_")]
    # Each once, and in the order of BIDS.
    return (known[1], known[2] or "") if keys == [key for key in _ENTITIES if key in keys] else None


def name_parts(name, subject=None, session=""):
    """What the names of a file's results begin with in BIDS, and the contrast that they end with.

    Args:
        name: str, what the names of its other results begin with.
        subject: str, whose the file is, with or without "sub-"; None where that is not known.
        session: str, with or without "ses-"; "" where there is none.

    Returns:
        (str such as "sub-01_ses-2_run-1", contrast or ""). A name by BIDS stays as it is; another
        is made a label: of the subject where it is not known, else behind it as "acq".
    """
    known = known_parts(name)
    if known:
        return known
    if subject is None:
        return f"sub-{label(name)}", contrast_of(name)
    whose = f"sub-{label(subject.removeprefix('sub-'))}"
    visit = f"_ses-{label(session.removeprefix('ses-'))}" if session else ""
    alone = name == "_".join(filter(None, (subject, session)))
    return whose + visit + ("" if alone else f"_acq-{label(name)}"), contrast_of(name)


def check_folder(folder, option="--out"):
    """Refuses a folder that holds a data set of another program, or of people.

    Args:
        folder: `pathlib.Path`, which need not exist.
        option: what names it, in the message.

    Raises:
        UserError: results would lie among other data.
    """
    path = Path(folder) / DESCRIPTION
    about = _read(path)
    if path.exists() and not is_ours(about):
        raise UserError(
            f"{option}: found {folder}, which holds the data set {about.get('Name', 'of others')}; "
            f"expected a new folder, or one of results such as {Path(folder) / 'derivatives'}"
            "/brainvq"
        )


class Derivatives:
    """A folder of results as a BIDS data set of derivatives.

    Args:
        folder: `pathlib.Path` of the folder.
        title: str, what the results are, for `dataset_description.json`.
        about: dict of what the sidecars of all images say, such as the model's name.
        contrast: contrast of images whose names tell none.
        simulated: whether all of them show simulated brains; who reads the folder is then told.
    """

    def __init__(self, folder, title, about=None, contrast="T1w", simulated=False):
        self.folder, self.title, self.about = Path(folder), title, about or {}
        self.simulated = simulated
        self.contrast = contrast if contrast in _CONTRASTS else "T1w"

    def file(self, start, desc, suffix="", mni=False):
        """Path of an image `sub-x[/ses-y]/anat/START_desc-DESC_SUFFIX.nii.gz`.

        Args:
            start: str such as "sub-01_ses-2", see `name_parts`; its own "desc" goes before `desc`.
            desc: str, what the image is, such as "recon".
            suffix: str such as "dseg"; "" for the contrast.
            mni: whether the image lies in the space of the template, not in that of the scan.
        """
        pairs = dict(pair.split("-", 1) for pair in start.split("_"))
        pairs |= {"desc": label(pairs.get("desc", "") + desc)}
        pairs |= {"space": TEMPLATE_SPACE} if mni else {}
        whole = [f"{key}-{pairs[key]}" for key in _ENTITIES if key in pairs]
        folders = [pair for pair in whole if pair.startswith(("sub-", "ses-"))]
        name = f"{'_'.join(whole)}_{suffix or self.contrast}.nii.gz"
        return self.folder.joinpath(*folders, "anat", name)

    def save(self, file, image, affine, note, *, sources=(), grid="scan", like=None, mni=False):
        """Writes an image as NIfTI, and its sidecar JSON.

        Args:
            file: `pathlib.Path` as `file` gives it.
            image: array, as `brainvq.data.save_nifti` takes it.
            affine: (4, 4), voxel index to mm.
            note: dict, what is said of this image, with "Description".
            sources: paths of the scans that it was made from.
            grid: whose grid it lies on, in words: that of the "scan" (default), or of the "study".
            like: as in `save_nifti`.
            mni: as in `save_nifti`.

        Returns:
            `pathlib.Path` of the image.
        """
        found = [_source(path, self.folder) for path in sources]
        self.describe(links={name: place for _, name, place in found if name})
        save_nifti(file, image, affine, like=like, mni=mni)
        sizes = " x ".join(f"{size:.4g}" for size in np.linalg.norm(affine[:3, :3], axis=0))
        content = {**note, "Resolution": f"{sizes} mm, the grid of the {grid}"}
        content |= {"Sources": [uri for uri, _, _ in found]} if found else {}
        if found and grid == "scan" and "_space-" in file.name:
            content["SpatialReference"] = found[0][0]
        write_json(sidecar_of(file), {**content, **self.about, **content})
        return file

    def describe(self, what="", links=None):
        """Writes `dataset_description.json` and `.bidsignore`; what earlier calls wrote stays.

        Args:
            what: str, what was done, such as "reconstruct".
            links: dict of name to place of the data sets that images were made from.
        """
        path = self.folder / DESCRIPTION
        about = _read(path) if path.exists() else {}
        before = about if is_ours(about) else {}
        made = {"Name": "brainvq", "Version": brainvq.__version__}
        made["Description"] = f"{what}: {self.title}" if what else self.title
        programs = [one for one in before.get("GeneratedBy", []) if one != made]
        # Without a verb the title alone stands there, until the call is through.
        programs = [one for one in programs if one.get("Description") != self.title]
        content = {
            "Name": before.get("Name", f"brainvq: {self.title}"),
            "BIDSVersion": BIDS,
            "DatasetType": "derivative",
            "GeneratedBy": [*programs, made],
        }
        links = {**before.get("DatasetLinks", {}), **(links or {})}
        content |= {"DatasetLinks": links} if links else {}
        content |= {SIMULATED_KEY: True} if self.simulated else {}
        if content != before:
            write_json(path, content)
        for name, text in ((".bidsignore", _IGNORED), ("README", _README)):
            if not (self.folder / name).exists():
                write_text(self.folder / name, text)


def write_people(folder, scans):
    """Writes `participants.tsv`: participant_id, age, sex, group and site, a row for each person.

    Args:
        folder: `pathlib.Path` of the data set.
        scans: list of dict with these; of several scans of a person the first counts.
    """
    about = {
        "age": {"Description": "age at the first scan", "Units": "year"},
        "sex": {"Description": "sex", "Levels": {"F": "female", "M": "male"}},
        "group": {"Description": "class of the person"},
        "site": {"Description": "where the person was scanned"},
    }
    table = pd.DataFrame(scans)[["participant_id", *about]].drop_duplicates("participant_id")
    write_tsv(folder / "participants.tsv", table.replace("", None))
    write_json(folder / "participants.json", about)


def sidecar_of(file):
    """The `.json` beside an image."""
    return file.with_name(re.sub(r"\.nii(\.gz)?$", ".json", file.name))


def skull_stripped(image, affine, otherwise=True):
    """Whether a scan shows a brain alone.

    Args:
        image: float (x, y, z); None where it is not known.
        affine: (4, 4), voxel index to mm.
        otherwise: bool, the answer where the image tells nothing.
    """
    look = None if image is None else look_of(image, affine)
    return otherwise if look is None else not look.head


def _source(path, folder):
    """How BIDS names a file, and name and place of its data set, seen from a folder of results.

    Outside of a data set that is the file's name alone; in the folder's own there is no name.
    """
    path = Path(path).absolute()
    for root in path.parents[:5]:
        if (root / DESCRIPTION).exists():
            place = os.path.relpath(root, folder)
            name = "" if place == "." else label(root.name)
            return f"bids:{name}:{path.relative_to(root).as_posix()}", name, place
    return path.name, "", ""


def _read(path):
    try:
        return read_json(path)
    except (UserError, OSError):
        return {}
