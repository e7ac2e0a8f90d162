"""IXI, 600 healthy people at three London hospitals (brain-development.org, CC BY-SA 3.0)."""

import math
import re
from pathlib import Path

import pandas as pd

from brainvq.data.archives import extract
from brainvq.data.cohort import Cohort, normal_sex
from brainvq.data.readers.folders import column, entries, existing_folder, number, read_people
from brainvq.errors import UserError

MODALITIES = {"T1": "T1w", "T2": "T2w", "PD": "PDw"}

_IMAGE = re.compile(r"(IXI(\d{3,}))-([A-Za-z]+)-(\d+)-([A-Za-z0-9]+(?:-\d+)?)\.nii(?:\.gz)?")
_TABLES = ("IXI.xls", "IXI.xlsx", "IXI.csv")
_OTHERS = (".tar", ".xls", ".xlsx", ".csv", ".txt")  # of the data set, but no images

# The scanners as the data set's site describes them; times (T1 only) in seconds, field in tesla.
# Of the third site it says no more.
SITES = {
    "Guys": {"manufacturer": "Philips", "field_strength": 1.5, "tr": 0.009813, "te": 0.004603},
    "HH": {"manufacturer": "Philips", "field_strength": 3.0, "tr": 0.0096, "te": 0.004603},
    "IOP": {"manufacturer": "GE", "field_strength": 1.5},
}

# Columns of the table that are kept as numbers: name → (name there, whether 0 means "not known").
_NUMBERS = {
    "height": ("HEIGHT", True),
    "weight": ("WEIGHT", True),
    "ethnic_id": ("ETHNIC_ID", False),
    "marital_id": ("MARITAL_ID", False),
    "occupation_id": ("OCCUPATION_ID", False),
    "qualification_id": ("QUALIFICATION_ID", False),
}
_SAME_AGE = 0.1  # years; rows about one person may differ by rounding


def read_ixi(root, modality="T1"):
    """Reads IXI as it is published: flat files `IXI002-Guys-0828-T1.nii.gz`.

    The images lie in `root` or in one of its folders, such as `IXI-T1`. Where there are none, but
    the archive `IXI-T1.tar` is there, it is unpacked beside itself, once. People come from
    `IXI.xls` (sheet "Table"; `.xlsx` and `.csv` serve as well) beside the images or the archive.
    That table has blank rows and lists some people more than once: what the rows of a person agree
    on is kept, what they contradict each other in is left blank and counted in the note.

    Args:
        root: folder with the images, their folder or the archive; or the archive itself.
        modality: "T1" (default), "T2" or "PD".

    Returns:
        `Cohort` "ixi": subject "IXI002", site "Guys", "HH" or "IOP", group "healthy" (all are),
        age NaN where the table does not say. Beyond the columns that every cohort has: `ixi_id` (2)
        and `scan_number` (828), `manufacturer`, `field_strength` (tesla), and where the table has
        them `height` (cm), `weight` (kg), `ethnic_id`, `marital_id`, `occupation_id` and
        `qualification_id` (the codes of the table; NaN if blank).

    Raises:
        UserError: if the layout is another, a subject has two images of the modality, or a table or
            archive cannot be read.
    """
    if modality not in MODALITIES:
        raise UserError(
            f"IXI modality: found {modality!r}, expected one of {', '.join(MODALITIES)}"
        )
    root, images = _unpacked(root, modality)
    scans, strays = _sorted_out(images, modality)
    if not scans:
        raise UserError(
            f"{root}: no IXI image found; expected [IXI-{modality}/]IXI002-Guys-0828-{modality}"
            f".nii.gz or IXI-{modality}.tar, found {entries(root)}"
        )
    # The images' own folder may be what the user names: then the table lies above it.
    places = (root, scans[0][0].parent, root.parent)
    tables = [place / name for place in places for name in _TABLES]
    table = next((path for path in tables if path.is_file()), None)
    people, conflicts = ({}, {}) if table is None else _people(table)
    rows = [_row(path, match, people) for path, match in scans]
    notes = []
    if strays:
        notes.append(f"{len(strays)} other files were left out, e.g. {strays[0]}")
    if table is None:
        notes.append("no IXI.xls beside the images: ages and sexes are not known")
    else:
        notes += _remarks(table, [row["ixi_id"] for row in rows], people, conflicts)
    return Cohort("ixi", pd.DataFrame(rows), note="; ".join(notes))


def _row(path, match, people):
    """The row of an image, by the match of its file name."""
    subject, identity, site, scan, modality = match.groups()
    scanner = SITES.get(site, {})
    if modality != "T1":
        scanner = {key: value for key, value in scanner.items() if key not in ("tr", "te")}
    return {
        "scan_id": path.name.removesuffix(".gz").removesuffix(".nii"),
        "subject": subject,
        "session": "",
        "group": "healthy",
        "site": site,
        "modality": MODALITIES[modality],
        "paths": (str(path),),
        "ixi_id": int(identity),
        "scan_number": int(scan),
        "manufacturer": scanner.get("manufacturer", ""),
        **scanner,
        **people.get(int(identity), {}),
    }


def _unpacked(root, modality):
    """Returns the user's folder and the one to look for images in, unpacked if need be."""
    path = Path(root).expanduser()
    if path.is_file() and path.suffix.lower() == ".tar":
        archive = path.absolute()
        root = archive.parent
    else:
        root = existing_folder(root)
        archive = root / f"IXI-{modality}.tar"
        if _sorted_out(root, modality)[0] or not archive.is_file():
            return root, root
    from brainvq.data.download import DATASETS  # it brings the web client

    known = DATASETS["ixi"]
    folder = archive.with_suffix("")
    return root, extract(archive, folder, keep=known.keep, keep_name=known.keep_name)


def _sorted_out(root, modality):
    """Returns the images of the modality, as (path, match), and the names of strays."""
    scans, strays = [], []
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        here, odd = [], []
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not path.is_file():
                continue
            match = _IMAGE.fullmatch(path.name)
            if match is None:
                odd += [path.name] if path.suffix.lower() not in _OTHERS else []
            elif match[5] == modality:
                here.append((path, match))
        scans += here
        strays += odd if here or folder == root else []  # other folders are none of our business
    return scans, strays


def _people(path):
    """Reads the table; returns IXI number → columns, and column → numbers with contradictions."""
    table = read_people(path, sheet="Table")
    key = column(table, "IXI_ID", "IXI ID")
    if key is None:
        raise UserError(f"{path}: no column IXI_ID, found {', '.join(table.columns[:6])}")
    sex = next((name for name in table.columns if name.lower().startswith("sex")), None)
    age = column(table, "AGE")
    listed = {}
    for _, row in table.iterrows():
        identity = number(row[key].upper().removeprefix("IXI"))
        if math.isnan(identity):
            continue  # a blank row
        person = listed.setdefault(int(identity), {})
        cells = {
            "sex": _sex(row[sex]) if sex else "",
            "age": _positive(row[age]) if age else math.nan,
        }
        for name, (label, zero_is_blank) in _NUMBERS.items():
            if (label := column(table, label)) is not None:
                cells[name] = _positive(row[label]) if zero_is_blank else number(row[label])
        for name, value in cells.items():
            known = person.setdefault(name, [])
            if value == value and value != "":
                known.append(value)
    people, conflicts = {}, {}
    for identity, person in listed.items():
        for name, values in person.items():
            blank = "" if name == "sex" else math.nan
            agree = len(set(values)) == 1 or (
                name == "age" and values and max(values) - min(values) <= _SAME_AGE
            )
            people.setdefault(identity, {})[name] = values[0] if agree else blank
            if values and not agree:
                conflicts.setdefault(name, set()).add(identity)
    return people, conflicts


def _remarks(table, read, people, conflicts):
    """What the note says about the table, for the people whose images were read."""
    remarks = []
    for name, identities in conflicts.items():
        if count := len(identities & set(read)):
            remarks.append(f"{name} of {count} people left blank: their rows contradict each other")
    if without := len(set(read) - set(people)):
        remarks.append(f"{without} people are not in {table.name}")
    if unseen := len(set(people) - set(read)):
        remarks.append(f"{unseen} people of {table.name} have no such image here")
    return remarks


def _sex(value):
    return {"1": "M", "1.0": "M", "2": "F", "2.0": "F"}.get(value, normal_sex(value))


def _positive(value):
    """The number; NaN where it is 0 or less, which the table uses for "not known"."""
    value = number(value)
    return value if value > 0 else math.nan
