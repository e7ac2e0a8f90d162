"""Simulated brains on a real template: a cohort for trying everything without any data.

Each subject is the ICBM152 template (symmetric 09a, shipped inside nilearn, nothing is downloaded)
bent by a random diffeomorphism and affine, aged, given lesions where its group has them, and
"scanned": tissue contrast, texture, coil shading, blur and Rician noise, brain-extracted. It is a
stand-in to run software on, never evidence about patients; whatever shows it calls it simulated.

The deformation is the exponential of a stationary velocity field by scaling and squaring
(Arsigny et al. 2006, "A log-Euclidean framework for statistics on diffeomorphisms"), and the chain
from labels to image follows Billot et al. 2023, "SynthSeg".

A scan is named by its parameters alone, as JSON in the cohort's `paths`, so a subject is the same
whether it is made alone or with others, in this process or in another.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from brainvq.data.cohort import Cohort
from brainvq.data.lesion_shapes import lesion_shapes as lesion_shapes_of
from brainvq.data.scans import SIMULATED
from brainvq.data.simulation_anatomy import truncated
from brainvq.data.simulation_parameters import GROUPS, LABELS, SITES, checked
from brainvq.data.simulation_scan import SimulatedScan, simulate
from brainvq.errors import UserError

__all__ = ["GROUPS", "LABELS", "SITES", "SimulatedScan", "simulate", "simulated_cohort"]

# Age in years: mean, deviation, lowest, highest.
_AGES = {
    "healthy": (48, 18, 18, 90),
    "MS": (42, 11, 18, 70),
    "leuko1": (66, 9, 45, 90),
    "leuko2": (70, 9, 45, 90),
    "leuko3": (74, 8, 45, 90),
}
_FEMALE = {"MS": 0.7}  # share of women; one half elsewhere

# With the confound, this share of the patients was scanned at the last site (or with the longer
# echo), and the same share of the others was not.
_CONFOUND = 0.9
CONFOUNDS = ("site", "echo")
_LONG_ECHO = 1.25  # times the protocol's echo time


def simulated_cohort(
    n_subjects,
    modality="T1w",
    spacing=2.0,
    groups=None,
    confound=False,
    seed=0,
    scans=None,
    space="scanner",
    lesion_shapes=None,
):
    """Returns a cohort of simulated subjects; their scans are made when they are loaded.

    Ages are drawn per group (leukoencephalopathy is a disease of the old), women are more frequent
    in MS, and the site is drawn evenly from three scanners, whatever the group, unless `confound`.

    Args:
        n_subjects: number of subjects.
        modality: "T1w" (default) or "FLAIR".
        spacing: voxel size in mm, isotropic, 1 to 8 (default 2); 1, 2, 4 or 8 in MNI space.
        groups: group name (one of `GROUPS`) -> share of the subjects; shares are scaled to sum to 1
            and rounded to whole subjects. Default: all healthy.
        confound: if "site" (or True), nine in ten patients were scanned at one site and nine in ten
            healthy subjects at the other two, so that the scanner can pass for the disease. If
            "echo", nine in ten subjects with MS and one in ten of the others were scanned with an
            echo time a quarter longer, which changes the contrast too.
        seed: integer from 0; a subject depends on it and on its own number only (and on its group
            and site).
        scans: group name -> mean number of scans of a subject, from 1. The number of scans in a
            group is exact; its subjects have unequal numbers of them, each one scan at least, half
            a year to one and a half years apart and all at one site. Lesions grow from scan to
            scan. Default: one scan each, and no sessions.
        space: "scanner" (default): heads lie as they do in a scanner. "mni": as after an affine
            registration to the template, on a grid of 160×192×160 mm that is the same for all, the
            one of `RegisterToTemplate` with that shape.
        lesion_shapes: folder of lesion masks (NIfTI) whose connected pieces, as large as they are,
            turned by right angles and mirrored at random, are the lesions of the group MS; see
            `brainvq.data.lesion_shapes`. None (default): ellipsoids.

    Returns:
        `Cohort` with `simulated=True`, the usual columns, and manufacturer.

    Raises:
        UserError: an argument is out of its range.
    """
    groups = {"healthy": 1.0} if groups is None else dict(groups)
    scans = scans or {}
    confound = "site" if confound is True else confound
    checked({"seed": seed, "modality": modality, "spacing": spacing, "space": space})
    _check_cohort(n_subjects, groups, confound, scans)
    shapes = _shapes(lesion_shapes, groups)
    shares = np.array(list(groups.values()), float)
    names = np.repeat(list(groups), _whole_parts(shares, int(n_subjects)))
    np.random.default_rng([seed, 0]).shuffle(names)
    visits = _visits(names, scans, seed)
    rows = []
    for number, group in enumerate(map(str, names)):
        params = {"seed": int(seed), "number": number, "modality": modality}
        params |= {"spacing": float(spacing), "group": group}
        params |= shapes if group == "MS" else {}
        rows += _rows(params, space, visits[number], bool(scans), confound)
    note = "simulated brains on the ICBM152 template"
    if confound:
        what = "scanner" if confound == "site" else "echo time"
        note += f"; the {what} is confounded with the group on purpose"
    return Cohort("simulated", pd.DataFrame(rows), simulated=True, note=note)


def _shapes(folder, groups):
    """The parameters that say which lesion shapes patients have: dict, empty without a folder."""
    if folder is None:
        return {}
    if "MS" not in groups:
        raise UserError(
            f"lesion shapes of {folder}: groups are {', '.join(groups)}; expected MS among them, "
            "whose lesions they are"
        )
    folder = str(Path(folder).absolute())
    return {"shapes": folder, "shapes_digest": lesion_shapes_of(folder)[1]}


def _check_cohort(n_subjects, groups, confound, scans):
    """UserError where an argument of `simulated_cohort` is out of its range."""
    if int(n_subjects) != n_subjects or n_subjects < 1:
        raise UserError(f"simulated cohort: n_subjects is {n_subjects}; expected 1 or more")
    unknown = (set(groups) | set(scans)) - set(GROUPS)
    if unknown:
        raise UserError(
            f"simulated cohort: group {sorted(unknown)[0]!r} is not known; expected one of "
            f"{', '.join(GROUPS)}"
        )
    shares = np.array(list(groups.values()), float)
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise UserError(f"simulated cohort: shares {groups}; expected numbers from 0, not all 0")
    if not all(np.isfinite(mean) and 1 <= mean <= 50 for mean in scans.values()):
        raise UserError(f"simulated cohort: scans {scans}; expected means from 1 to 50")
    if confound and (confound not in CONFOUNDS or (confound == "echo" and "MS" not in groups)):
        raise UserError(
            f"simulated cohort: confound is {confound!r}; expected one of {', '.join(CONFOUNDS)} "
            "('echo' with a group MS), or False"
        )


def _rows(params, space, visits, with_sessions, confound):
    """The rows of a subject, one for each visit.

    Args:
        params: dict, the first parameters of its scans: seed, number, modality, spacing and group.
        space: "scanner" or "mni".
        visits: int, number of scans.
        with_sessions: whether the cohort has sessions.
        confound: "site", "echo" or False.
    """
    seed, number, modality, group = (params[k] for k in ("seed", "number", "modality", "group"))
    rng = np.random.default_rng([seed, number, 0])
    person = params | _draw_person(rng, group, confound == "site")
    if space != "scanner":
        person["space"] = space
    # One protocol for all visits of a subject.
    chance = np.random.default_rng([seed, number, 1]).random()
    long_echo = confound == "echo" and (chance < _CONFOUND) == (group == "MS")
    echo = _LONG_ECHO if long_echo else 1.0
    subject, age, scanner = f"sim{number + 1:04d}", person["age"], SITES[person["site"]]
    rows = []
    for visit in range(visits):
        scan = person | {"age": age}
        if visit:
            scan["visit"] = visit
        if long_echo:
            scan["echo"] = echo
        # The values on the console are set per protocol; operators change them a little.
        tr = scanner.tr[modality] * rng.choice([1.0, 1.0, 1.0, 1.05])
        te = scanner.te[modality] * rng.choice([1.0, 1.0, 1.0, 0.97]) * echo
        session = f"{visit + 1}" if with_sessions else ""
        name = f"{subject}_ses-{session}" if with_sessions else subject
        rows.append(
            {
                "scan_id": f"{name}_{modality}",
                "subject": subject,
                "session": session,
                "group": group,
                "age": age,
                "sex": person["sex"],
                "site": person["site"],
                "modality": modality,
                "paths": (SIMULATED + json.dumps(scan),),
                "tr": round(tr, 5),
                "te": round(te, 5),
                "pixel_bandwidth": scanner.pixel_bandwidth[modality],
                "manufacturer": scanner.manufacturer,
            }
        )
        age = round(min(age + rng.uniform(0.5, 1.5), 100.0), 1)
    return rows


def _visits(names, scans, seed):
    """Number of scans of each subject: exact in every group, some subjects having many."""
    counts = np.ones(len(names), int)
    for group, mean in scans.items():
        members = np.flatnonzero(names == group)
        more = round(float(mean) * len(members)) - len(members)
        if more > 0:
            weights = [np.random.default_rng([seed, n, 2]).exponential() for n in members]
            counts[members] += _whole_parts(np.array(weights), more)
    return counts


def _whole_parts(shares, total):
    """Splits `total` into whole numbers in proportion to `shares` (largest remainders)."""
    exact = shares / shares.sum() * total
    parts = np.floor(exact).astype(int)
    missing = total - parts.sum()
    parts[np.argsort(parts - exact, kind="stable")[:missing]] += 1
    return parts


def _draw_person(rng, group, confounded):
    """Age, sex and site of a subject; the site depends on the group where it is confounded."""
    sex = "F" if rng.random() < _FEMALE.get(group, 0.5) else "M"
    age = round(float(truncated(rng, *_AGES[group])), 1)
    sites = list(SITES)
    chance, which = rng.random(), rng.random()
    site = sites[int(which * len(sites))]
    if confounded:
        at_last = (chance < _CONFOUND) == (group != "healthy")
        site = sites[-1] if at_last else sites[int(which * (len(sites) - 1))]
    return {"age": age, "sex": sex, "site": site}
