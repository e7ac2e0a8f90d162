"""Brain masks that another program made, found for every scan of a cohort."""

import dataclasses
import glob
import string
from pathlib import Path

from brainvq.data.scans import MASK, SIMULATED, scan_files
from brainvq.errors import UserError

# Masks of BIDS derivatives that lie on the scan's own grid or another one of the same world. Those
# of another space have an entity "space" in their names.
_BIDS = "{root}/derivatives/*/sub-{subject}{/ses}/anat/sub-{subject}{_ses}*_desc-brain_mask.nii*"
_FIELDS = ("scan", "subject", "session", "root")


def with_masks(cohort, pattern):
    """The cohort with a brain mask beside every scan, which is then read without its skull.

    Args:
        cohort: `Cohort` of files.
        pattern: where the mask of a scan is: a path, relative to the folder of the scan, with
            `{scan}` for the scan's file name without suffix, `{subject}`, `{session}`, `{root}` for
            the nearest folder above that holds a `dataset_description.json`, and the wildcards of
            a shell, e.g. "{scan}_mask.nii.gz". "bids" looks for `*_desc-brain_mask.nii.gz` of the
            subject and session in `derivatives/*/`, those with an entity "space" left out.

    Returns:
        `Cohort` whose `paths` name the masks. A scan without a mask names the one that is missing,
        so that it is reported and left out when it is read.

    Raises:
        UserError: the pattern has another field, no scan has a mask, or a scan has several.
    """
    _check(pattern)
    found, table = 0, cohort.table.copy()
    paths = []
    for row in table.to_dict("records"):
        wanted = _wanted(pattern, row)
        files = sorted(glob.glob(_wanted(pattern, row, glob.escape)))
        if pattern == "bids":
            files = [file for file in files if "_space-" not in Path(file).name]
        if len(files) > 1:
            raise UserError(
                f"mask of scan {row['scan_id']}: {wanted} matches {len(files)} files "
                f"({', '.join(Path(file).name for file in files[:3])}); expected one"
            )
        found += len(files)
        paths.append((*row["paths"], MASK + (files[0] if files else wanted)))
    if not found:
        raise UserError(
            f"masks {pattern!r}: none for any of {len(table)} scans, e.g. no "
            f"{paths[0][-1].removeprefix(MASK)}; expected one for each scan"
        )
    table["paths"] = paths
    missing = len(table) - found
    note = f"brain masks {pattern}" + (f", missing for {missing} scans" if missing else "")
    return dataclasses.replace(
        cohort, table=table, note="; ".join(text for text in (cohort.note, note) if text)
    )


def _check(pattern):
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None}
    except ValueError as error:
        raise UserError(
            f"masks {pattern!r}: {error}; expected a path with fields such as {{scan}}"
        ) from None
    wrong = sorted(fields - set(_FIELDS))
    if wrong or not pattern:
        raise UserError(
            f"masks {pattern!r}: field {wrong[0] if wrong else ''!r} is not known; expected a path "
            f"with {', '.join('{' + name + '}' for name in _FIELDS)}, or 'bids'"
        )


def _wanted(pattern, row, escape=str):
    """The path of the mask of a scan; `escape` is for what a shell would take for a wildcard."""
    first = row["paths"][0]
    if first.startswith(SIMULATED):
        raise UserError(
            f"masks {pattern!r}: scan {row['scan_id']} is simulated and needs none; expected a "
            "cohort of files"
        )
    file, session = scan_files(first)[0], row["session"]
    values = {
        "scan": file.name.removesuffix(".gz").rsplit(".", 1)[0],
        "subject": row["subject"],
        "session": session,
        "root": _root(file),
    }
    if pattern == "bids":
        pattern = _BIDS.replace("{/ses}", "/ses-{session}" if session else "")
        pattern = pattern.replace("{_ses}", "_ses-{session}" if session else "")
    values = {name: escape(str(value)) for name, value in values.items()}
    return str(Path(escape(str(file.parent))) / pattern.format(**values))


def _root(file):
    """The nearest folder above a file that describes a data set, or else its own."""
    for folder in file.parents:
        if (folder / "dataset_description.json").exists():
            return folder
    return file.parent
