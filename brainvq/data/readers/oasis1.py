"""OASIS-1, the cross-sectional set of 416 people (Marcus et al. 2007, J Cogn Neurosci 19:1498)."""

import math
import re

import pandas as pd

from brainvq.data.cohort import Cohort, normal_sex
from brainvq.data.readers.folders import column, entries, existing_folder, number, read_people
from brainvq.errors import UserError

_SESSION = re.compile(r"(OAS[12]_\d+)_MR(\d+)")

# Image kinds → where they lie in a session folder and how they are oriented. Analyze 7.5 headers
# cannot say the orientation. n3, n4, … is the number of averaged acquisitions.
IMAGES = {
    "masked": ("PROCESSED/MPRAGE/T88_111/{visit}_mpr_n*_anon_111_t88_masked_gfc.hdr", "LAS"),
    "unmasked": ("PROCESSED/MPRAGE/T88_111/{visit}_mpr_n*_anon_111_t88_gfc.hdr", "LAS"),
    "segmentation": ("FSL_SEG/{visit}_mpr_n*_anon_111_t88_masked_gfc_fseg.hdr", "LAS"),
}

# All scans were made on one 1.5 T scanner with one sequence (Marcus et al. 2007, table 1); the
# times are in seconds.
ACQUISITION = {"tr": 0.0097, "te": 0.004, "field_strength": 1.5}

# Younger people were not rated for dementia: there a blank rating means healthy.
YOUNG = 60


def read_oasis1(root, image="masked"):
    """Reads OASIS-1 as its discs unpack.

    Expected: `[disc1/]OAS1_0001_MR1/PROCESSED/MPRAGE/T88_111/…_t88_masked_gfc.{hdr,img}`, up to two
    folders below `root`. People come from a table beside the discs whose name holds
    "cross-sectional" (`.csv`, `.xlsx`), or else from the text file of each session. `_MR2` folders
    are repeat visits: sessions of the same subject.

    Args:
        root: folder with the discs, or a single disc.
        image: "masked" (brain only, atlas space, 1 mm), "unmasked" (the same with skull) or
            "segmentation" (labels 1/2/3 = CSF/grey/white).

    Returns:
        `Cohort` "oasis1". `group` is "healthy" (CDR 0, or blank below 60 years), "dementia"
        (CDR > 0) or "unknown". Beyond the columns that every cohort has: `cdr`, `mmse`,
        `segmentation` (path of the tissue labels, "" if absent), `field_strength` (tesla).

    Raises:
        UserError: if the layout is another, or a visit is there twice.
    """
    root = existing_folder(root)
    if image not in IMAGES:
        raise UserError(f"OASIS-1 image: found {image!r}, expected one of {', '.join(IMAGES)}")
    table_of_people = find_people(root, "cross-sectional", "ID")
    rows, missing = [], []
    for folder in session_folders(root, "OAS1"):
        path = _find(folder, image)
        if path is None:
            missing.append(folder.name)
            continue
        visit = _SESSION.fullmatch(folder.name)
        person = table_of_people.get(folder.name) or _session_text(folder)
        label = _find(folder, "segmentation")
        rows.append(
            {
                "scan_id": folder.name,
                "subject": visit[1],
                "session": f"MR{visit[2]}",
                "modality": "T1w",
                "paths": (f"axcodes={IMAGES[image][1]}:{path}",),
                **describe_person(person),
                **ACQUISITION,
                "segmentation": "" if label is None else str(label),
            }
        )
    if not rows:
        pattern = IMAGES[image][0].format(visit="OAS1_0001_MR1")
        raise UserError(
            f"{root}: no OASIS-1 image ({image}) found; expected "
            f"[disc1/]OAS1_0001_MR1/{pattern}, found {entries(root)}"
        )
    return Cohort("oasis1", pd.DataFrame(rows), note=note_missing(missing))


def session_folders(root, prefix):
    """Returns the folders of visits (`OAS1_0001_MR1`) in `root` or up to two folders below."""
    return sorted(
        path
        for depth in ("", "*/", "*/*/")
        for path in root.glob(f"{depth}{prefix}_*_MR*")
        if path.is_dir() and _SESSION.fullmatch(path.name)
    )


def find_people(root, name, *keys):
    """Reads the tables beside the images whose file name holds `name`.

    Returns:
        dict: id of the visit → its row, column names in lower case.
    """
    people = {}
    for path in sorted(root.glob("*")):
        wanted = path.suffix.lower() in (".csv", ".xlsx", ".xls") and path.is_file()
        if not wanted or name not in path.name.lower().replace("_", "-"):
            continue
        table = read_people(path)
        key = column(table, *keys)
        if key is None:
            raise UserError(
                f"{path}: no column {' or '.join(keys)}, found {', '.join(table.columns[:6])}"
            )
        for _, row in table.iterrows():
            people[row[key]] = {label.lower(): value for label, value in row.items()}
    return people


def describe_person(person):
    """Returns the columns group, age, sex, cdr and mmse for a row of the demographic tables."""
    age, cdr = number(person.get("age", "")), number(person.get("cdr", ""))
    if cdr > 0:
        group = "dementia"
    elif cdr == 0 or age < YOUNG:
        group = "healthy"
    else:
        group = "unknown"
    return {
        "group": group,
        "age": age,
        "sex": normal_sex(person.get("m/f", "")),
        "cdr": cdr,
        "mmse": number(person.get("mmse", "")),
    }


def note_missing(sessions):
    """Returns the note of a cohort in which some session folders lack the image."""
    if not sessions:
        return ""
    return f"{len(sessions)} session folders without the image were left out, e.g. {sessions[0]}"


def _find(folder, image):
    images = sorted(folder.glob(IMAGES[image][0].format(visit=folder.name)))
    # Case of several averages: the one of most acquisitions has the least noise.
    return max(images, key=lambda path: _acquisitions(path.name)) if images else None


def _acquisitions(name):
    match = re.search(r"_mpr_n(\d+)_", name)
    return int(match[1]) if match else -math.inf


def _session_text(folder):
    """Reads `OAS1_0001_MR1.txt`: lines such as "AGE:          74"."""
    path = folder / f"{folder.name}.txt"
    if not path.is_file():
        return {}
    person = {}
    for line in path.read_text(encoding="latin-1").splitlines():
        key, colon, value = line.partition(":")
        # The lines of people come first; later blocks describe the acquisitions.
        if colon and key.strip():
            person.setdefault(key.strip().lower(), value.strip())
    return person
