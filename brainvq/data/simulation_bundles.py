"""Simulated white-matter bundles: smooth curves around a centre line per bundle, in MNI mm.

Each person bends the centre lines by an affine and a smooth deformation of their own, shared by all
bundles. A streamline keeps its place in the cross-section of its bundle, which widens where the
bundle fans out, wanders a little, and may end early. It is a stand-in to run software on, never
evidence about patients; whatever shows it calls it simulated.

A bundle is named by its parameters alone, as JSON in the cohort's `paths`, so it is the same
whether it is made alone or with others, in this process or in another.
"""

import contextlib
import functools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.interpolate import CubicSpline

from brainvq.data.cohort import Cohort
from brainvq.data.jobs import disk_errors, run_jobs
from brainvq.data.readers.bids import SIMULATED_KEY, is_simulated
from brainvq.data.readers.bundles import bundle_row
from brainvq.data.readers.folders import entries
from brainvq.data.scans import SIMULATED
from brainvq.data.simulation_parameters import read_parameters
from brainvq.data.tractograms import new_tractogram, save_tractogram
from brainvq.errors import UserError
from brainvq.files import is_temporary, read_json, write_json, write_text
from brainvq.names import BUNDLES

_NOTE = "simulated bundles in MNI space"
_README = """\
Simulated white-matter bundles, made by brainvq. They are for trying software and are evidence about
no patient. Coordinates are RAS+ mm in MNI space; directions and numbers of points vary.
"""
_DENSE = 128  # points along a curve before it is cut into the streamline's own


class _Course(NamedTuple):
    """Where a bundle of the right side runs.

    Attributes:
        points: (x, y, z) in MNI mm that the centre line passes.
        across: world axis that the first radius of the cross-section lies along.
        radii: two radii in mm (along `across` and perpendicular) at the start, middle and end.
    """

    points: tuple
    across: tuple
    radii: tuple


_RIGHT, _UP = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)

# Rough courses after the anatomy: cortico-spinal tracts through the cerebral peduncle and the
# internal capsule, the inferior fronto-occipital one with its dip below the insula, and so on.
_COURSES = {
    "PYT": _Course(
        (
            (6, -36, -56),
            (8, -27, -34),
            (15, -20, -11),
            (24, -17, 8),
            (27, -21, 30),
            (31, -26, 62),
        ),
        _RIGHT,
        ((6, 5), (8, 6), (26, 13)),
    ),
    "FPT": _Course(
        ((7, -32, -50), (10, -22, -27), (16, -13, -8), (20, 5, 8), (22, 28, 22), (24, 50, 28)),
        _RIGHT,
        ((6, 5), (8, 6), (32, 30)),
    ),
    "POPT": _Course(
        ((8, -34, -50), (12, -27, -28), (20, -23, -8), (28, -30, 10), (27, -46, 30), (24, -62, 50)),
        _RIGHT,
        ((6, 5), (8, 6), (24, 26)),
    ),
    "ILF": _Course(
        ((36, 6, -34), (43, -14, -26), (42, -38, -16), (34, -64, -8), (22, -90, 0)),
        _UP,
        ((18, 13), (9, 6), (20, 16)),
    ),
    "IFOF": _Course(
        (
            (26, 52, 4),
            (30, 30, -2),
            (33, 6, -11),
            (37, -20, -8),
            (37, -48, 2),
            (29, -72, 5),
            (18, -92, 4),
        ),
        _UP,
        ((26, 18), (7, 6), (24, 16)),
    ),
    "MCP": _Course(
        ((-30, -62, -42), (-27, -45, -38), (-17, -30, -34), (0, -22, -33))
        + ((17, -30, -34), (27, -45, -38), (30, -62, -42)),
        _UP,
        ((18, 15), (12, 7), (18, 15)),
    ),
    "CC_Fr_1": _Course(
        ((-20, 58, 8), (-17, 44, 14), (-10, 32, 14), (0, 27, 12))
        + ((10, 32, 14), (17, 44, 14), (20, 58, 8)),
        _UP,
        ((26, 10), (10, 6), (26, 10)),
    ),
}

_DEFAULTS = {"seed": 0, "number": 0, "bundle": "PYT_L", "low": 100, "high": 1500}


def simulated_bundles(n_subjects, seed=0, bundles=BUNDLES, low=100, high=1500):
    """Returns a cohort of simulated bundles without files: each is made when it is loaded.

    Args:
        n_subjects: number of subjects, one row for each of their bundles.
        seed: integer from 0; a bundle depends on it, its name and the subject's number only.
        bundles: names out of `BUNDLES`.
        low: the fewest streamlines of a bundle.
        high: the most; numbers are drawn evenly on a logarithmic scale.

    Returns:
        `Cohort` "simulated-bundles" with `simulated=True` and the columns of `read_tractoinferno`.

    Raises:
        UserError: an argument is out of its range.
    """
    if int(n_subjects) != n_subjects or n_subjects < 1:
        raise UserError(f"simulated bundles: n_subjects is {n_subjects}; expected 1 or more")
    rows = []
    for number in range(int(n_subjects)):
        for bundle in bundles:
            params = {"seed": seed, "number": number, "bundle": bundle, "low": low, "high": high}
            path = SIMULATED + json.dumps(_checked(params))
            rows.append(bundle_row(f"sim{number + 1:04d}", bundle, path))
    return Cohort("simulated-bundles", pd.DataFrame(rows), simulated=True, note=_NOTE)


def simulate_bundle(params):
    """Makes one bundle.

    Args:
        params: dict, or JSON text with or without "simulated:" in front: `seed`, `number` (of the
            subject), `bundle`, `low` and `high` (see `simulated_bundles`).

    Returns:
        `ArraySequence` of float32 `(points, 3)`, MNI mm: 40 to 200 points each, at uneven
        distances, in random direction.

    Raises:
        UserError: a parameter is unknown or out of its range.
    """
    params = _checked(params)
    person = np.random.default_rng([params["seed"], params["number"], 0])
    rng = np.random.default_rng(
        [params["seed"], params["number"], 1, BUNDLES.index(params["bundle"])]
    )
    count = round(np.exp(rng.uniform(np.log(params["low"]), np.log(params["high"]))))
    curves = _deformed(_curves(params["bundle"], count, rng), person)  # (count, _DENSE, 3)

    points = rng.integers(40, 201, count)
    backwards = rng.random(count) < 0.5
    # Tracking stops where it likes: some of either end is missing, mostly little.
    first, last = rng.beta(1, 3, count) * 0.25, 1 - rng.beta(1, 3, count) * 0.25
    streamlines = []
    for curve, n, turn, start, end in zip(curves, points, backwards, first, last, strict=True):
        steps = rng.uniform(0.8, 1.2, n - 1).cumsum()
        places = (start + (end - start) * np.append(0, steps / steps[-1])) * (_DENSE - 1)
        below = np.minimum(places.astype(int), _DENSE - 2)
        share = (places - below)[:, None]
        streamline = (1 - share) * curve[below] + share * curve[below + 1]
        streamlines.append(streamline[::-1] if turn else streamline)
    return new_tractogram(streamlines).streamlines


def write_simulated_bundles(
    out, subjects, seed=0, bundles=BUNDLES, low=100, high=1500, *, workers=None, progress=True
):
    """Writes simulated bundles as `.trk` files in the layout of TractoInferno.

    Made are `out/sub-sim0001/tractography/sub-sim0001__PYT_L.trk` and so on, in the space of the
    ICBM152 template at 1 mm, and `dataset_description.json`, which says that they are simulated.
    Bundles that are there already are left alone, so that a call after a kill goes on.

    Args:
        out: new or empty folder, or one that this function began.
        subjects: number of subjects.
        seed: see `simulated_bundles`.
        bundles: see `simulated_bundles`.
        low: see `simulated_bundles`.
        high: see `simulated_bundles`.
        workers: processes to use; see `brainvq.data.prepare`.
        progress: whether to draw a progress bar.

    Returns:
        `pathlib.Path` of the folder, as `open_cohort("tractoinferno", out)` takes it.

    Raises:
        UserError: an argument is out of its range, the folder holds other data or bundles with
            other parameters, or the disk is full.
    """
    out = Path(out)
    cohort = simulated_bundles(subjects, seed, bundles, low, high)
    description = {
        "Name": "Simulated white-matter bundles in MNI space",
        SIMULATED_KEY: True,
        "SimulationParameters": {"seed": seed, "low": low, "high": high},
    }
    with disk_errors(out, "the simulated bundles"):
        _check_folder(out, description)
        write_json(out / "dataset_description.json", description)
        write_text(out / "README", _README)
        jobs = []
        for row in cohort.table.itertuples():
            folder = out / f"sub-{row.subject}" / "tractography"
            path = folder / f"{row.scan_id}.trk"
            if not path.exists():
                jobs.append((row.paths[0], path))
        results = run_jobs(
            _write_bundle, jobs, workers=workers, title="simulating bundles", progress=progress
        )
        with contextlib.closing(results):
            for _ in results:
                pass
    return out


def _write_bundle(params, path):
    streamlines = simulate_bundle(params)
    save_tractogram(new_tractogram(streamlines), streamlines, path)


def _check_folder(out, description):
    if out.is_file():
        raise UserError(f"{out}: is a file; a folder for the simulated bundles is expected")
    if not out.is_dir() or all(map(is_temporary, out.iterdir())):
        return
    if not is_simulated(out):
        raise UserError(
            f"{out}: holds other data ({entries(out)}); expected a new or empty folder, or "
            "simulated bundles to go on with"
        )
    present = read_json(out / "dataset_description.json")
    if present != description:
        raise UserError(
            f"{out}: holds what was simulated with other parameters "
            f"({present.get('SimulationParameters')}); expected "
            f"{description['SimulationParameters']}, or a new folder"
        )


def _curves(bundle, count, rng):
    """Streamlines of a bundle before the person's deformation: float64 (count, _DENSE, 3)."""
    centre, first, second, radii = _centre_line(bundle)
    # Places in the unit disc, denser in its middle; they stay with a streamline all along.
    angle = rng.uniform(0, 2 * np.pi, count)
    distance = rng.beta(2, 1.6, count)
    places = distance * np.stack([np.cos(angle), np.sin(angle)])  # (2, count)
    # Slow wandering about that place, more where there is more room.
    t = np.linspace(0, 1, _DENSE)
    for k in (1, 2, 3):
        size = rng.normal(0, 0.16 / k, (2, count, 1))
        phase = rng.uniform(0, 2 * np.pi, (2, count, 1))
        wander = size * np.sin(np.pi * k * t + phase)
        places = wander + (places if k > 1 else places[..., None])  # (2, count, _DENSE)
    offsets = places * radii[:, None]
    return centre + offsets[0][..., None] * first + offsets[1][..., None] * second


@functools.cache
def _centre_line(bundle):
    """Centre line (_DENSE, 3), the two axes of its cross-section, and their radii (2, _DENSE)."""
    side = -1.0 if bundle.endswith("_L") else 1.0
    course = _COURSES[bundle.removesuffix("_L").removesuffix("_R")]
    knots = np.array(course.points, float) * (side, 1, 1)
    chord = np.linalg.norm(np.diff(knots, axis=0), axis=1).cumsum()
    spline = CubicSpline(np.append(0, chord / chord[-1]), knots)
    t = np.linspace(0, 1, _DENSE)
    tangent = spline(t, 1)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    across = np.array(course.across)
    first = across - (tangent * across).sum(axis=1, keepdims=True) * tangent
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(tangent, first)
    # From the middle to the ends the bundle widens slowly, then fast.
    start, middle, end = (np.array(pair, float)[:, None] for pair in course.radii)
    away = np.abs(2 * t - 1) ** 2
    radii = middle + away * (np.where(t < 0.5, start, end) - middle)
    return spline(t), first, second, radii


def _deformed(points, rng):
    """Bends points (..., 3) as one person's brain does: an affine, and slow waves."""
    scale = rng.normal(1, 0.04, 3)
    turn = np.eye(3) + rng.normal(0, 0.03, (3, 3))  # rotation and shear, both small
    shift = rng.normal(0, 2.5, 3)
    # Sums written out: products of matrices add up in an order that depends on the threads.
    moved = sum(points[..., axis, None] * turn[:, axis] * scale[axis] for axis in range(3)) + shift
    bend = np.zeros_like(moved)
    for _ in range(6):
        wave = rng.normal(0, 2 * np.pi / 110, 3)  # lengths of about 60 mm and more
        phase, size = rng.uniform(0, 2 * np.pi), rng.normal(0, 1.3, 3)
        angle = sum(moved[..., axis] * wave[axis] for axis in range(3)) + phase
        bend += np.sin(angle)[..., None] * size
    return moved + bend


def _checked(params):
    """Returns the parameters as a dict with every key, or raises UserError."""
    params = read_parameters(params, _DEFAULTS, "simulated bundle")
    if params["bundle"] not in BUNDLES:
        raise UserError(
            f"simulated bundle: bundle is {params['bundle']!r}; expected one of "
            f"{', '.join(BUNDLES)}"
        )
    for name, least in (("seed", 0), ("number", 0), ("low", 1), ("high", 1)):
        if not (isinstance(params[name], int) and params[name] >= least):
            raise UserError(
                f"simulated bundle: {name} is {params[name]!r}; expected a whole number from "
                f"{least}"
            )
    if params["low"] > params["high"]:
        raise UserError(
            f"simulated bundle: low is {params['low']}, above high, {params['high']}; expected at "
            "most that"
        )
    return params
