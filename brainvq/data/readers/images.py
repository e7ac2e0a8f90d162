"""Any folder of pictures with one sub-folder per class."""

import re

import pandas as pd

from brainvq.data.cohort import Cohort, safe_id
from brainvq.data.readers.folders import entries, existing_folder
from brainvq.data.scans import PICTURES
from brainvq.errors import UserError


def read_images(root, subject_pattern=None):
    """Reads `root/<class>/<any name>.png` (or .jpg, .jpeg, .tif, .tiff, .bmp), a row per picture.

    Colour pictures become grey when they are loaded, and each is a volume of one slice.

    Args:
        root: folder with one sub-folder per class. Pictures in folders further down are left out.
        subject_pattern: regular expression with one group, searched in each file name: the group is
            the subject, so that several pictures of one subject stay in one split, e.g.
            `"^(patient[0-9]+)_"`. By default each picture is a subject of its own.

    Returns:
        `Cohort` "images": `group` is the name of the sub-folder, `modality` "image"; `variant`
        (same as `scan_id`) tells the pictures of a subject apart.

    Raises:
        UserError: if there are no sub-folders with pictures, or `subject_pattern` is no such
            expression or does not fit a file name.
    """
    root = existing_folder(root)
    pattern = None if subject_pattern is None else _compiled(subject_pattern)
    rows, used, other, deeper = [], set(), 0, 0
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.suffix.lower() not in PICTURES or not path.is_file():
                other += path.is_file()
                deeper += path.is_dir()
                continue
            scan = _unused(safe_id(f"{folder.name}_{path.stem}"), used)
            rows.append(
                {
                    "scan_id": scan,
                    "subject": scan if pattern is None else _subject(pattern, path),
                    "session": "",
                    "group": folder.name,
                    "modality": "image",
                    "paths": (str(path),),
                    "variant": scan,
                }
            )
    if not rows:
        raise UserError(
            f"{root}: no pictures in sub-folders; expected one sub-folder per class, such as "
            f"cats/1.jpg and dogs/1.jpg ({', '.join(PICTURES)}), found {entries(root)}"
        )
    loose = sum(path.suffix.lower() in PICTURES for path in root.iterdir() if path.is_file())
    notes = [
        f"{count} {what} left out"
        for count, what in (
            (loose, "pictures outside the sub-folders"),
            (other, "other files"),
            (deeper, "folders inside the sub-folders"),
        )
        if count
    ]
    return Cohort("images", pd.DataFrame(rows), note="; ".join(notes))


def _compiled(subject_pattern):
    try:
        pattern = re.compile(subject_pattern)
    except re.error as error:
        raise UserError(
            f"subject_pattern: {subject_pattern!r} is no regular expression ({error})"
        ) from None
    if pattern.groups != 1:
        raise UserError(
            f"subject_pattern: {subject_pattern!r} has {pattern.groups} groups; expected one, the "
            "subject, as in ^(patient[0-9]+)_"
        )
    return pattern


def _subject(pattern, path):
    match = pattern.search(path.name)
    if not match or not match[1]:
        raise UserError(
            f"{path}: subject_pattern {pattern.pattern!r} finds no subject in this file name; "
            "expected one that fits every picture"
        )
    return match[1]


def _unused(name, used):
    """Names that differ only in what a file name cannot hold, or in the suffix, get a number."""
    candidate, number = name, 1
    while candidate in used:
        number += 1
        candidate = f"{name}_{number}"
    used.add(candidate)
    return candidate
