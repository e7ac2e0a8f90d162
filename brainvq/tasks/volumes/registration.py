"""Volumes that lie on a grid around the template: their steps, that grid, and how well they fit.

Studies of volumes may have them, those of vectors do.
"""

import numpy as np
import pandas as pd

from brainvq import data
from brainvq.data.template import template_grid
from brainvq.evaluation import RegistrationQuality
from brainvq.files import read_json, write_csv, write_json
from brainvq.reports.registration import registration_planes
from brainvq.tasks.scans import unit_scale

# Volumes that are scored at a time, outliers that are shown, and those that are named.
SCORED, SHOWN, NAMED = 32, 3, 5


def registered_steps(options):
    """The preprocessing of registered volumes, of a `brainvq.options.VolumeData`: list of steps."""
    floor = options.min_fit
    floors = {} if floor is None else {"min_fit": floor, "min_fit_stripped": floor}
    placed = [
        data.RegisterToTemplate(
            shape=options.shape,
            transform="none" if options.registration == "mni" else options.registration,
            brain=options.skull,
            **floors,
        ),
        data.BlockMean(size=options.block),
    ]
    if options.source == "simulated" and options.simulated_space == "mni":
        placed = [data.Canonical(axcodes="LPS")]  # made on that grid
    return [*placed, *unit_scale(options)]


def template(study):
    """The template on the grid of a study of registered volumes: `brainvq.data.Template`."""
    options = study.data
    steps = [data.RegisterToTemplate(shape=options.shape), data.BlockMean(size=options.block)]
    return data.template_volumes(steps)


def grid_affine(options):
    """Voxel index to mm of volumes of a study that belong to no scan, such as drawn ones.

    Args:
        options: a `brainvq.options.VolumeData`.

    Returns:
        `(4, 4)`. It leads to MNI space where the study's volumes lie on a grid around the template;
        elsewhere the axes are those of the study, LPS, and the origin is in the middle.
    """
    if options.registration == "no":
        return data.oriented_affine(options.sample_shape[:3], [options.spacing] * 3, "LPS")
    shape, affine = template_grid(options.shape, "LPS")
    return data.BlockMean(options.block)(np.zeros(shape, "uint8"), affine)[1]


def registration_quality(study, scans, store):
    """How well the registered scans lie on the template, scored once for each store.

    Beside the store, in a folder of its name and "-registration", are `registration.csv` (a row per
    scan, see `brainvq.evaluation.RegistrationQuality.table`), `registration.png` (template, mean
    image and outliers) and `registration.json`, which is written last.

    Args:
        study: a `brainvq.options.Study` whose `data.registration` is not "no".
        scans: its `Cohort`.
        store: `ArrayStore` of its volumes.

    Returns:
        dict of table (`pandas.DataFrame`), sharpness (of the mean image, 0 to 1), outliers (list of
        scan_id, the worst first), csv and picture (paths).
    """
    folder = store.path.with_name(store.path.name + "-registration")
    csv, picture, about = (folder / f"registration.{ending}" for ending in ("csv", "png", "json"))
    names = list(store.table["scan_id"])
    whole = all(file.exists() for file in (csv, picture, about))
    known = read_json(about) if whole else {}
    # The key of the store stands for all scans; those that could be prepared may become more.
    if known.get("scans") != names:
        known = _score(study, scans, store, csv, picture)
        write_json(about, known | {"scans": names})
    return {
        # A name such as "01" must not become a number.
        "table": pd.read_csv(csv, dtype={"scan_id": str}, keep_default_na=False),
        "sharpness": known["sharpness"],
        "outliers": known["outliers"],
        "csv": csv,
        "picture": picture,
    }


def _score(study, scans, store, csv, picture):
    """Writes the table and the picture; returns a dict of sharpness and outliers."""
    where = template(study)
    quality = RegistrationQuality(where.t1, [where.gm, where.wm, where.csf], where.mask)
    for first in range(0, len(store), SCORED):
        quality.update(store.read(slice(first, first + SCORED)))
    table = quality.table(store.table["scan_id"])
    write_csv(csv, table)
    poor = table[table["outlier"]].sort_values("z", kind="stable")
    registration_planes(
        where.t1,
        quality.mean,
        where.mask,
        where.affine,
        picture,
        count=len(table),
        outliers={
            row.scan_id: store.read([row.Index])[0, ..., 0] for row in poor.head(SHOWN).itertuples()
        },
        simulated=scans.simulated,
    )
    return {"sharpness": quality.sharpness, "outliers": list(poor["scan_id"])}


def describe_registration(quality, most=NAMED):
    """What `registration_quality` gives, in lines of text; at most `most` outliers by name."""
    table, outliers = quality["table"], quality["outliers"]
    named = ", ".join(outliers[:most]) or "none"
    more = f" and {len(outliers) - most} more" if len(outliers) > most else ""
    return (
        f"registration of {len(table)} scans: median fit {table['fit'].median():.3f} (lowest "
        f"{table['fit'].min():.3f}), sharpness of the mean image {quality['sharpness']:.3f}\n"
        f"outliers: {named}{more}\n"
        f"scores in {quality['csv']}, mean image in {quality['picture']}"
    )
