"""The lesion mask of each scan: of the same person in the same session."""

import re

import numpy as np

from brainvq import data
from brainvq.data.inputs import scan_paths
from brainvq.data.scans import is_empty
from brainvq.errors import UserError
from brainvq.tasks.names import inputs, subject_of

# What tells several scans of a session apart in the names of BIDS.
_TELLING = re.compile(r"(?<![A-Za-z0-9])(acq|ce|rec|run|echo)-([A-Za-z0-9]+)")


def masks_by_scan(options, log, **wanted):
    """The lesion mask of each scan that has one: dict of path to path.

    A mask that names a session is of that session alone; one that names none is of a subject with
    scans of one session.

    Args:
        options: `brainvq.options.verbs.Anomaly`.
        log: `logging.Logger`.
        **wanted: which scans of folders are taken, see `brainvq.data.inputs.scan_paths`.

    Raises:
        UserError: two masks go with a scan, or no mask with any.
    """
    if not options.masks:
        return {}
    chosen = wanted.get("entities") or wanted.get("preferred")
    scans = inputs(scan_paths(options.scans, **wanted))
    masks = inputs(scan_paths(options.masks, preferred=chosen))
    if len(scans) == len(masks) == 1:
        (scan,), (mask,) = scans.values(), masks.values()
        _check_pair(scan, mask)
        return {scan.path: mask.path}
    pairs, unsure = {}, []
    for path, scan in scans.items():
        alike = [mask for mask in masks.values() if _key(mask.subject) == _key(scan.subject)]
        visits = {other.session for other in scans.values() if other.subject == scan.subject}
        told = {mask.session for mask in alike}
        fits = [mask for mask in alike if mask.session == scan.session]
        if not fits and len(visits) == len(told) == 1 and "" in visits | told:
            fits = alike
        elif not fits and "" in visits | told:
            unsure.append(path)
        fits = [mask.path for mask in _nearest(fits, path)]
        if len(fits) > 1:
            session = f" {scan.session}" if scan.session else ""
            raise UserError(
                f"--masks: found {fits[0]} and {fits[1]}; expected one mask for {scan.subject}"
                f"{session}"
            )
        pairs |= {path: fits[0]} if fits else {}
    for path in unsure:
        log.warning("--masks: %s: no mask names its session; expected ses- in both names", path)
    if not pairs:
        raise UserError(
            f"--masks: none of {len(masks)} files ({next(iter(masks)).name}) is of the subject "
            f"and session of a scan ({next(iter(scans)).name}); expected names that begin alike, "
            "as sub-01_ses-1_"
        )
    return pairs


def _check_pair(scan, mask):
    """Refuses the one mask of the one scan where both say whose they are, and differ."""
    subjects = subject_of(scan.path), subject_of(mask.path)
    for one, other in (subjects, (scan.session, mask.session)):
        if one and other and _key(one) != _key(other):
            raise UserError(
                f"--masks: {mask.path} is of {other}; expected a mask of {one}, as {scan.path.name}"
            )


def _nearest(masks, path):
    """Of the masks of a session those that contradict the name of a scan least."""
    told = dict(_TELLING.findall(path.name))
    agree = []
    for mask in masks:
        own = dict(_TELLING.findall(mask.path.name))
        if all(own[key] == told[key] for key in own.keys() & told.keys()):
            agree.append((len(own.keys() & told.keys()), mask))
    most = max((count for count, _ in agree), default=0)
    return [mask for count, mask in agree if count == most]


def _key(subject):
    return subject.casefold()


def mask_on(scan, path):
    """A lesion mask on the grid of a scan, bool, which may be empty.

    Args:
        scan: `brainvq.data.PreparedScan`.
        path: path of the mask; it may lie in another orientation or grid.

    Raises:
        UserError: the mask cannot be read, or lies outside of the scan.
    """
    try:
        mask, affine = data.load_scan((str(path),))
    except UserError:
        if not is_empty(path):
            raise
        return np.zeros(scan.shape, bool)  # a brain without lesions
    moved = data.to_original_grid(mask, affine, scan.shape, scan.original_affine, order=0) > 0.5
    if (mask > 0.5).any() and not moved.any():
        raise UserError(f"--masks: {path} lies outside of its scan; expected one in its space")
    return moved
