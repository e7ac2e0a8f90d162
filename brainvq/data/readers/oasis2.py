"""OASIS-2, 150 older people over years (Marcus et al. 2010, J Cogn Neurosci 22:2677)."""

import re

import pandas as pd

from brainvq.data.cohort import Cohort
from brainvq.data.readers.folders import entries, existing_folder
from brainvq.data.readers.oasis1 import (
    ACQUISITION,
    describe_person,
    find_people,
    note_missing,
    session_folders,
)
from brainvq.errors import UserError

_RAW = re.compile(r"mpr-(\d+)\.nifti\.hdr")


def read_oasis2(root, repeats="first", axcodes="ASL"):
    """Reads the raw heads of OASIS-2 as its two parts unpack.

    Expected: `[OAS2_RAW_PART1/]OAS2_0001_MR1/RAW/mpr-1.nifti.{hdr,img}`, up to two folders below
    `root`. Other files in `RAW` (a stray `3906-3.nift.img` is published) are left out. People come
    from a table beside the parts whose name holds "longitudinal" (`.csv`, `.xlsx`).

    Args:
        root: folder with the parts, or a single part.
        repeats: each visit has three or four acquisitions: "first" takes `mpr-1`, "average" takes
            their voxelwise mean (less noise; slightly blurred where the head moved between them).
        axcodes: orientation of files whose header holds none; the acquisition is sagittal, "ASL".

    Returns:
        `Cohort` "oasis2". `group` follows the CDR of the visit: "healthy" (0), "dementia" (> 0) or
        "unknown". Beyond the columns that every cohort has: `cdr`, `mmse`, `field_strength`
        (tesla), `course` ("Nondemented", "Demented", "Converted"; of the subject over all visits).

    Raises:
        UserError: if the layout is another, or a visit is there twice.
    """
    root = existing_folder(root)
    if repeats not in ("first", "average"):
        raise UserError(f"OASIS-2 repeats: found {repeats!r}, expected 'first' or 'average'")
    people = find_people(root, "longitudinal", "MRI ID", "MRI_ID")
    rows, missing = [], []
    for folder in session_folders(root, "OAS2"):
        matches = [(_RAW.fullmatch(path.name), path) for path in folder.glob("RAW/*.hdr")]
        numbered = sorted((int(match[1]), path) for match, path in matches if match)
        if not numbered:
            missing.append(folder.name)
            continue
        paths = [path for _, path in numbered]
        subject, _, session = folder.name.rpartition("_")
        person = people.get(folder.name, {})
        rows.append(
            {
                "scan_id": folder.name,
                "subject": subject,
                "session": session,
                "modality": "T1w",
                "paths": tuple(
                    f"axcodes={axcodes}:{path}"
                    for path in (paths[:1] if repeats == "first" else paths)
                ),
                **describe_person(person),
                **ACQUISITION,
                "course": person.get("group", ""),
            }
        )
    if not rows:
        raise UserError(
            f"{root}: no OASIS-2 image found; expected "
            f"[OAS2_RAW_PART1/]OAS2_0001_MR1/RAW/mpr-1.nifti.hdr, found {entries(root)}"
        )
    return Cohort("oasis2", pd.DataFrame(rows), note=note_missing(missing))
