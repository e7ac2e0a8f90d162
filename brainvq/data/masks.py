"""Brain masks that another program makes: found beside every scan of a cohort, or made here."""

import contextlib
import dataclasses
import glob
import hashlib
import json
import logging
import os
import shlex
import shutil
import string
import subprocess
from pathlib import Path

from brainvq.data.cohort import safe_id
from brainvq.data.jobs import disk_errors, remove_stale, run_jobs
from brainvq.data.scans import MASK, SIMULATED, ScanError, load_scan, scan_files
from brainvq.data.selection import entities_of, plain_label
from brainvq.errors import UserError
from brainvq.files import DISK_FULL, atomic_path
from brainvq.progress import say

logger = logging.getLogger("brainvq")

# Masks of BIDS derivatives, in another folder than the scans or in their own. Those of another
# space than the scanner's have an entity "space" in their names.
_BIDS = "{root}/derivatives/*/sub-{subject}{/ses}/anat/sub-{subject}{_ses}*_desc-brain_mask.nii*"
_BIDS_BESIDE = "sub-{subject}{_ses}*_desc-brain_mask.nii*"
_FIELDS = ("scan", "subject", "session", "root")
_TOOL_FIELDS = {"input", "mask"}


def with_masks(cohort, pattern):
    """The cohort with a brain mask beside every scan, which is then read without its skull.

    Args:
        cohort: `Cohort` of files.
        pattern: where the mask of a scan is: a path, relative to the folder of the scan, with
            `{scan}` for the scan's file name without suffix, `{subject}`, `{session}`, `{root}` for
            the nearest folder above that holds a `dataset_description.json`, and the wildcards of
            a shell, e.g. "{scan}_mask.nii.gz". "bids" looks for `*_desc-brain_mask.nii.gz` of the
            subject and session in `derivatives/*/` and beside the scan, in the scan's space only;
            of several the one whose other entities, such as the run, agree best with the scan's,
            and of several programs that of the first in the alphabet, with a word in the log.

    Returns:
        `Cohort` whose `paths` name the masks. A scan without a mask names the one that is missing,
        so that it is reported and left out when it is read.

    Raises:
        UserError: the pattern has another field, no scan has a mask, or a scan has several.
    """
    _check(pattern)
    present, paths, doubtful = 0, [], 0
    for row in cohort.table.to_dict("records"):
        wanted = _wanted(pattern, row)
        files = sorted(glob.glob(_wanted(pattern, row, glob.escape)))
        if pattern == "bids":
            beside = sorted(glob.glob(_wanted(pattern, row, glob.escape, _BIDS_BESIDE)))
            files = _nearest(row, beside + files)
            doubtful += len(files) > 1
            files = files[:1]
        if len(files) > 1:
            raise UserError(
                f"mask of scan {row['scan_id']}: {wanted} matches {len(files)} files "
                f"({', '.join(Path(file).name for file in files[:3])}); expected one"
            )
        present += len(files)
        paths.append((*row["paths"], MASK + (files[0] if files else wanted)))
    if doubtful:
        logger.warning(
            "masks 'bids': %d of %d scans have several that fit; the first is taken, e.g. %s",
            doubtful,
            len(paths),
            paths[0][-1].removeprefix(MASK),
        )
    if not present:
        raise UserError(
            f"masks {pattern!r}: none for any of {len(paths)} scans, e.g. no "
            f"{paths[0][-1].removeprefix(MASK)}; expected one for each scan"
        )
    return _with_paths(cohort, paths, f"brain masks {pattern}", len(paths) - present)


def with_mask_tool(cohort, command, folder, workers=None, progress=True):
    """The cohort with a brain mask for every scan that a command makes, such as a skull stripper.

    The command runs once for a scan: a mask is kept under a name that depends on the scan's id, its
    file (path, size and time of modification) and the command, so that a second call runs nothing,
    and a call after a kill goes on with the scans that are missing.

    Args:
        cohort: `Cohort` of files, one for each scan.
        command: program and arguments, as in a shell but without one, with `{input}` for the file
            of the scan and `{mask}` for the NIfTI file that it is to write (0 outside the brain),
            e.g. "mri_synthstrip -i {input} -m {mask}". A brace that is meant is doubled.
        folder: where the masks are kept.
        workers: commands at a time. Default: one per processor core.
        progress: whether to draw a progress bar.

    Returns:
        `Cohort` whose `paths` name the masks. Where the command fails, its last line is shown, and
        the scan names the mask that is missing, so that it is reported and left out when it is
        read; the next call tries it again.

    Raises:
        UserError: the command lacks a field or has another, its program is not there, a scan has
            several files or is simulated, no mask could be made, or the folder cannot be written.
    """
    words = _command(command)
    folder, table = Path(os.path.abspath(folder)), cohort.table
    inputs = [_single_file(row) for row in table.to_dict("records")]
    masks = [
        folder / _mask_name(scan, file, words)
        for scan, file in zip(table["scan_id"], inputs, strict=True)
    ]
    # A scan that is not there says so itself when it is read.
    jobs = [
        (scan, words, file, mask)
        for scan, file, mask in zip(table["scan_id"], inputs, masks, strict=True)
        if file.exists() and not mask.exists()
    ]
    problem = _make_masks(jobs, folder, workers, progress) or "the scans are not there"
    missing = sum(not mask.exists() for mask in masks)
    if missing == len(masks):
        raise UserError(
            f"mask tool {words[0]}: made no mask for any of {len(masks)} scans, e.g. {problem}; "
            "expected one for each scan"
        )
    paths = [(*own, MASK + str(mask)) for own, mask in zip(table["paths"], masks, strict=True)]
    return _with_paths(cohort, paths, f"brain masks by {Path(words[0]).name}", missing)


def _make_masks(jobs, folder, workers, progress):
    """Calls `_make_mask` for each of `jobs`; returns the last problem, None without one."""
    last = None
    with disk_errors(folder, "the brain masks"):
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        options = {"workers": workers, "title": "masking scans", "progress": progress}
        results = run_jobs(_make_mask, jobs, threads=True, **options)
        with contextlib.closing(results):
            for scan, problem in results:
                if problem is not None:
                    last = problem
                    say(f"no brain mask of {scan}: {problem}")
    return last


def _with_paths(cohort, paths, note, missing):
    """The cohort with other paths; `missing` of them have no mask."""
    table = cohort.table.assign(paths=paths)
    note += f", missing for {missing} scans" if missing else ""
    return dataclasses.replace(
        cohort, table=table, note="; ".join(text for text in (cohort.note, note) if text)
    )


def _command(command):
    """The words of a command, checked."""
    try:
        words = shlex.split(command)
        fields = {
            name
            for word in words
            for _, name, _, _ in string.Formatter().parse(word)
            if name is not None
        }
    except ValueError as error:
        raise UserError(
            f"mask tool {command!r}: {error}; expected a command with {{input}} and {{mask}}"
        ) from None
    if fields != _TOOL_FIELDS:
        names = ", ".join(f"{{{name}}}" for name in sorted(fields)) or "no field"
        raise UserError(
            f"mask tool {command!r}: found {names}; expected {{input}}, the scan, and {{mask}}, "
            "the file to write"
        )
    if shutil.which(words[0]) is None:
        raise UserError(
            f"mask tool {words[0]}: no such program; expected one on the search path, or its path"
        )
    return words


def _single_file(row):
    """The absolute path of a scan's only file; of a pair that of its first part."""
    paths = row["paths"]
    if paths[0].startswith(SIMULATED):
        raise UserError(
            f"mask tool: scan {row['scan_id']} is simulated and needs no mask; expected a cohort "
            "of files"
        )
    if len(paths) != 1:
        names = ", ".join(Path(path).name for path in paths[:3])
        raise UserError(
            f"mask tool: scan {row['scan_id']} has {len(paths)} files ({names}); expected one, "
            "because the tool takes one (--data.masks takes masks that are there)"
        )
    return Path(os.path.abspath(scan_files(paths[0])[0]))


def _mask_name(scan, file, words):
    content = [scan, str(file), words]
    with contextlib.suppress(OSError):
        status = file.stat()
        content += [status.st_size, status.st_mtime_ns]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    return f"{safe_id(scan)}-{digest}.nii.gz"


def _make_mask(scan, words, file, mask):
    """Runs the tool for a scan; returns (scan id, None or what went wrong)."""
    try:
        with atomic_path(mask) as temporary:
            command = [word.format(input=file, mask=temporary) for word in words]
            quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "check": False}
            done = subprocess.run(command, **quiet)
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            last_line = f" ({lines[-1].strip()})" if lines else ""
            if done.returncode:
                raise ScanError(f"{words[0]} ended with status {done.returncode}{last_line}")
            if not temporary.exists():
                raise ScanError(f"{words[0]} wrote no file{last_line}")
            load_scan(temporary)  # a mask that cannot be read is none
    except ScanError as error:
        return scan, str(error).replace(str(temporary), f"what {words[0]} wrote")
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        return scan, f"{words[0]}: {error.strerror}"
    return scan, None


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


def _wanted(pattern, row, escape=str, bids=_BIDS):
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
        pattern = bids.replace("{/ses}", "/ses-{session}" if session else "")
        pattern = pattern.replace("{_ses}", "_ses-{session}" if session else "")
    values = {name: escape(str(value)) for name, value in values.items()}
    return str(Path(escape(str(file.parent))) / pattern.format(**values))


def _nearest(row, files):
    """The BIDS masks that contradict no entity of a scan's name and share most of them."""
    own = entities_of(scan_files(row["paths"][0])[0].name)
    shared = {}
    for file in files:
        other = entities_of(Path(file).name)
        common = own.keys() & other.keys() - {"desc"}
        alike = all(plain_label(own[key]) == plain_label(other[key]) for key in common)
        if alike and own.get("space") == other.get("space"):
            shared.setdefault(len(common), []).append(file)
    return shared[max(shared)] if shared else []


def _root(file):
    """The nearest folder above a file that describes a data set, or else its own."""
    for folder in file.parents:
        if (folder / "dataset_description.json").exists():
            return folder
    return file.parent
