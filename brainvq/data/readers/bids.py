"""Any BIDS data set (Gorgolewski et al. 2016), read by its file names."""

import json
import logging
import re
from collections.abc import Mapping

import pandas as pd

from brainvq.data.cohort import Cohort, normal_sex, safe_id
from brainvq.data.readers.folders import (
    column,
    entries,
    existing_folder,
    number,
    read_people,
    read_text,
)
from brainvq.data.selection import (
    Ignored,
    entities_from,
    entities_of,
    has_entities,
    in_one_space,
    plain_label,
)
from brainvq.errors import UserError

logger = logging.getLogger("brainvq")

_EXTENSIONS = (".nii.gz", ".nii")

# In dataset_description.json: the images were made by brainvq.
SIMULATED_KEY = "BrainvqSimulated"

# Fields of the sidecar JSON that become columns. Times are in seconds, the bandwidth in Hz per
# pixel (BIDS specification, "MRI").
_SIDECAR = {"tr": "RepetitionTime", "te": "EchoTime", "pixel_bandwidth": "PixelBandwidth"}


def read_bids(root, suffix="T1w", group_column="group", entities=None):
    """Reads the images of one suffix from a BIDS data set.

    Images are looked for in `sub-*/*/` and `sub-*/ses-*/*/`, so `derivatives` and `sourcedata` are
    left out (to read a derivative, give its own folder as `root`), and so is what `.bidsignore`
    names. Of images of one person and visit in several spaces, as fMRIPrep writes them, those of
    one are taken: the scanner's where there is one, see `in_one_space`. People come from
    `participants.tsv` and `sub-*/sub-*_sessions.tsv` where they exist; TR, TE, bandwidth and
    manufacturer from the sidecar JSON files with inheritance: files nearer to the image win.

    Args:
        root: folder of the data set.
        suffix: last part of the file names, e.g. "T1w" or "FLAIR".
        group_column: column of the participants or sessions files that holds the class, in any
            case.
        entities: None for all images, or the file name entities to keep, as a mapping or as text
            ("acq=mprage,run=1" or "acq-mprage_run-1"); numbers compare as numbers, and a label ""
            stands for no such entity.

    Returns:
        `Cohort` named after the folder, simulated if its `dataset_description.json` says so (see
        `brainvq.data.write_simulated_bids`). Beyond the columns that every cohort has: `run`,
        `variant` (all other entities of the file name), `manufacturer`, `field_strength` (tesla).

    Raises:
        UserError: if the layout is another, two files claim the same visit and run, a table cannot
            be read, or there is no `group_column` other than "group". A sidecar that cannot be read
            is left out, with a word in the log.
    """
    root = existing_folder(root)
    entities = entities_from(entities) if isinstance(entities, str) else entities or {}
    if not isinstance(entities, Mapping):
        raise UserError(f"entities: found {entities!r}; expected them as in acq=mprage,run=1")
    (people, notes), sidecars = _participants(root), {}
    paths, remarks = _chosen(root, suffix, entities)
    notes += remarks
    rows = []
    for path in paths:
        parts = entities_of(path.name)
        visit = (parts["sub"], parts.get("ses", ""))
        person = _person(people, *visit) | _visit(root, *visit)
        meta = _inherited(root, path, suffix, sidecars)
        rows.append(_row(path, parts, suffix, person, meta, group_column))
    _check_group(root, people, rows, group_column)
    notes += _remarks(people, {row["subject"] for row in rows}, suffix)
    simulated = is_simulated(root)
    if simulated:
        notes.insert(0, "simulated brains on the ICBM152 template")
    for row in rows:
        row["group"] = row["group"] or ""
    table = pd.DataFrame(rows)
    return Cohort(root.name, table, simulated=simulated, note="; ".join(notes))


def _chosen(root, suffix, entities):
    """The images that are read, and notes on those that are left out."""
    every, ignored = _images(root, suffix), Ignored(root)
    present = [path for path in every if not ignored(path)]
    wanted = [path for path in present if has_entities(path, entities)]
    if not wanted:
        asked = ",".join(f"{key}={label}" for key, label in entities.items())
        problem = f"no *_{suffix}.nii[.gz]{' with ' + asked if asked else ''} found"
        if present:
            known = [entities_of(path.name) for path in present]
            values = {key: sorted({parts.get(key, "none") for parts in known}) for key in entities}
            found = "; ".join(f"{key}: {', '.join(labels[:6])}" for key, labels in values.items())
            raise UserError(f"{root}: {problem}; expected some of those there ({found})")
        raise UserError(
            f"{root}: {problem}; expected the BIDS layout "
            f"sub-01/[ses-1/]anat/sub-01_[ses-1_]{suffix}.nii.gz, found {entries(root)}"
        )
    kept = in_one_space(wanted)
    counts = {
        "images left out by .bidsignore": len(every) - len(present),
        "images left out, of which there is one in another space": len(wanted) - len(kept),
    }
    return kept, [f"{count} {what}" for what, count in counts.items() if count]


def _check_group(root, people, rows, group_column):
    """Refuses a column that was asked for and that nobody has."""
    if group_column.lower() == "group" or any(row["group"] is not None for row in rows):
        return
    columns = dict.fromkeys(name for person in people.values() for name in person)
    raise UserError(
        f"{root / 'participants.tsv'}: no column {group_column!r}; expected one of "
        f"{', '.join(columns) or 'none, because there are no participants'}"
    )


def _row(path, parts, suffix, person, meta, group_column):
    """The row of an image: by its entities, its person or visit, and its merged sidecars."""
    variant = "_".join(
        f"{key}-{value}" for key, value in parts.items() if key not in ("sub", "ses", "run")
    )
    return {
        "scan_id": safe_id(re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)),
        "subject": parts["sub"],
        "session": parts.get("ses", ""),
        "group": person.get(group_column.lower()),
        "age": number(person.get("age", "")),
        "sex": normal_sex(person.get("sex") or person.get("gender", "")),
        "site": person.get("site") or str(meta.get("InstitutionName", "")),
        "modality": suffix,
        "paths": (str(path),),
        **{name: number(meta.get(key, "")) for name, key in _SIDECAR.items()},
        "run": parts.get("run", ""),
        "variant": variant,
        "manufacturer": str(meta.get("Manufacturer", "")),
        "field_strength": number(meta.get("MagneticFieldStrength", "")),
    }


def _remarks(people, subjects, suffix):
    """What the note says of the participants and the subjects that have images."""
    remarks = []
    listed = {subject for subject, _ in people}
    without_row, without_scan = subjects - listed, listed - subjects
    if people and without_row:
        remarks.append(f"{len(without_row)} subjects are not in participants.tsv")
    if without_scan:
        remarks.append(f"{len(without_scan)} participants have no {suffix} image here")
    return remarks


def is_simulated(root):
    """Whether the `dataset_description.json` of a BIDS data set says that brainvq simulated it."""
    path = root / "dataset_description.json"
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return False  # of other data sets nothing in that file is needed
    return isinstance(content, dict) and content.get(SIMULATED_KEY) is True


def _images(root, suffix):
    endings = tuple(f"_{suffix}{extension}".lower() for extension in _EXTENSIONS)
    return sorted(
        path
        for pattern in ("sub-*/*/sub-*", "sub-*/ses-*/*/sub-*")
        for path in root.glob(pattern)
        if path.name.lower().endswith(endings)
    )


def _participants(root):
    """(subject without "sub-", session or "") → row, column names in lower case; and notes.

    A table with a row for each visit may name its session. What rows of the same person and
    session say differently is left blank.
    """
    path = root / "participants.tsv"
    if not path.exists():
        return {}, []
    table = read_people(path)
    if table.columns.empty:  # an empty file
        return {}, []
    key = column(table, "participant_id")
    if key is None:
        raise UserError(
            f"{path}: no column 'participant_id', found {', '.join(table.columns[:6])} "
            "(columns are separated by tabs)"
        )
    visit = column(table, "session_id", "session", "ses")
    people, conflicts = {}, {}
    for cells in table.to_dict("records"):
        row = {name.lower(): value for name, value in cells.items()}
        subject = cells[key].removeprefix("sub-")
        session = plain_label(cells[visit].removeprefix("ses-")) if visit else ""
        for person in {(subject, session), (subject, "")}:
            known = people.setdefault(person, dict(row))
            for name, value in row.items():
                if known[name] != value:
                    known[name] = ""
                    if person == (subject, session) and name != (visit or "").lower():
                        conflicts.setdefault(name, set()).add(subject)
    return people, [
        f"{name} of {len(subjects)} participants left blank: rows of participants.tsv contradict "
        f"each other, e.g. sub-{min(subjects)}"
        for name, subjects in conflicts.items()
    ]


def _person(people, subject, session):
    """The row of a visit, or else of its subject; {} without one."""
    return people.get((subject, plain_label(session)), people.get((subject, ""), {}))


def _visit(root, subject, session):
    """What `sub-*_sessions.tsv` says about a visit; it wins over participants.tsv."""
    path = root / f"sub-{subject}" / f"sub-{subject}_sessions.tsv"
    if not session or not path.exists():
        return {}
    table = read_people(path)
    key = column(table, "session_id")
    if key is None:
        return {}
    rows = table[[value.removeprefix("ses-") == session for value in table[key]]]
    if rows.empty:
        return {}
    return {name.lower(): value for name, value in rows.iloc[0].items() if value}


def _inherited(root, image, suffix, cache):
    """Merges the sidecars that apply to an image, from the root down to its own folder.

    A sidecar applies if it has the suffix and no entity that the image lacks. Within a folder the
    one with more entities is the more specific.
    """
    parts = entities_of(image.name)
    folders = [root]
    for name in image.parent.relative_to(root).parts:
        folders.append(folders[-1] / name)
    merged = {}
    for folder in folders:
        if folder not in cache:
            cache[folder] = [
                (entities_of(path.name), _read_sidecar(path))
                for path in sorted(folder.glob(f"*{suffix}.json"))
                if path.name == f"{suffix}.json" or path.name.endswith(f"_{suffix}.json")
            ]
        for own, content in sorted(cache[folder], key=lambda item: len(item[0])):
            if own.items() <= parts.items():
                merged |= content
    return merged


def _read_sidecar(path):
    """The content of a sidecar; {} with a word where there is none, since images do without."""
    try:
        content = json.loads(read_text(path))
        problem = None if isinstance(content, dict) else f"holds a {type(content).__name__}"
    except (OSError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
    if problem is None:
        return content
    logger.warning("%s: is left out: %s; expected a JSON object", path, problem)
    return {}
