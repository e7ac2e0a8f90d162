"""OASIS as folders of PNG slices, a copy that many courses use."""

import re

import pandas as pd

from brainvq.data.cohort import Cohort
from brainvq.data.readers.folders import entries, existing_folder
from brainvq.errors import UserError

FOLDERS = {
    "keras_png_slices_train": "train",
    "keras_png_slices_validate": "validation",
    "keras_png_slices_test": "test",
}
_SLICE = re.compile(r"case_(\d+)_slice_(\d+)(?:\.nii)?\.png", re.IGNORECASE)


def read_png_slices(root, split="auto"):
    """Reads `keras_png_slices_{train,validate,test}/case_441_slice_0.nii.png`.

    The subject is the number after `case_`; all its slices, in order, are one scan. A case that
    lies in two folders is two scans of one subject.

    Args:
        root: folder that holds one or more of the three folders.
        split: "auto" keeps the split of the folders (column `split`) unless a subject lies in two
            of them; "folders" insists on it; "none" leaves the split to `Cohort.split`.

    Returns:
        `Cohort` "png". Beyond the columns that every cohort has: `folder`, `slices` (count) and,
        where it is kept, `split`. Nothing is known about the people.

    Raises:
        UserError: if the layout is another, a slice is there twice, or `split="folders"` and a
            subject lies in two folders.
    """
    root = existing_folder(root)
    if split not in ("auto", "folders", "none"):
        raise UserError(f"PNG split: found {split!r}, expected 'auto', 'folders' or 'none'")
    rows, other = _cases(root)
    if not rows:
        raise UserError(
            f"{root}: no slices found; expected keras_png_slices_train/case_441_slice_0.nii.png "
            f"(and …_validate, …_test), found {entries(root)}"
        )
    table = pd.DataFrame(rows)
    notes = [f"{other} other files were left out"] if other else []
    leaking = sorted(table["subject"][table["subject"].duplicated()].unique())
    if leaking:
        twice = table["subject"].isin(leaking)
        names = [FOLDERS[folder] for folder in table["folder"]]
        table["session"] = table["session"].mask(twice, pd.Series(names))
        table["scan_id"] = table["scan_id"].mask(twice, table["scan_id"] + "_" + pd.Series(names))
        message = f"{len(leaking)} subjects lie in more than one folder, e.g. {leaking[0]}"
        if split == "folders":
            raise UserError(
                f"{root}: {message}; this split leaks between training and test, choose another"
            )
        notes.append(f"{message}: the split of the folders leaks and is not used")
    elif split != "none":
        table["split"] = [FOLDERS[folder] for folder in table["folder"]]
    return Cohort("png", table, note="; ".join(notes))


def _cases(root):
    """A row for each case of each folder, and the number of files that are no slices."""
    rows, other = [], 0
    for folder in FOLDERS:
        cases = {}
        for path in sorted((root / folder).glob("*")):
            match = _SLICE.fullmatch(path.name)
            if match is None:
                other += not path.name.startswith(".")
                continue
            slices = cases.setdefault(int(match[1]), {})
            if int(match[2]) in slices:
                raise UserError(
                    f"{path}: slice {match[2]} of case {match[1]} is also in "
                    f"{slices[int(match[2])].name}; one file per slice is expected"
                )
            slices[int(match[2])] = path
        for case, slices in sorted(cases.items()):
            rows.append(
                {
                    "scan_id": f"case_{case:03d}",
                    "subject": f"case_{case:03d}",
                    "session": "",
                    "modality": "T1w",
                    "paths": tuple(str(slices[index]) for index in sorted(slices)),
                    "folder": folder,
                    "slices": len(slices),
                }
            )
    return rows, other
