"""From a study to its cohort, and from the cohort to arrays: the door to `brainvq.data`.

python dataset.py [STUDY] [--data.source ... --data.root DIR]     prepare the arrays, and no more
"""

import sys
from pathlib import Path

import brainvq  # noqa: F401 (first: it keeps TensorFlow's start-up lines off the screen)

# isort: split
import numpy as np

import hyperparameters
from brainvq import data
from brainvq.errors import UserError
from brainvq.files import read_json, write_json

SPLITS = ("train", "validation", "test")
SOURCE_NAMES = {
    "bids": "a BIDS data set",
    "oasis1": "OASIS-1 (Marcus et al. 2007)",
    "oasis2": "OASIS-2 (Marcus et al. 2010)",
    "png": "OASIS slices as PNG",
}


def cohort(study):
    """The scans of a study, split by subject.

    Downloads the data set first where `study.data.download` asks for it.

    Args:
        study: a `hyperparameters.Study`.

    Returns:
        A `brainvq.data.Cohort` whose table has a column `split`.
    """
    options = study.data
    if options.download:
        if options.source not in ("oasis1", "oasis2"):
            raise UserError(
                f"--data.download: found --data.source {options.source}; expected oasis1 or oasis2"
            )
        data.fetch(
            options.source,
            options.root,
            parts=options.parts,
            accept_terms=options.accept_terms,
            base_url=options.mirror,
        )
    if options.source == "simulated":
        found = data.open_cohort(
            "simulated",
            n_subjects=options.subjects,
            spacing=options.simulated_spacing,
            modality=options.suffix,
            seed=study.seed,
        )
    elif options.source == "bids":
        found = data.open_cohort("bids", options.root, suffix=options.suffix)
    else:
        found = data.open_cohort(options.source, options.root)
    if options.source == "png" and options.assignments is None and "split" in found.table:
        return found  # the folders are a split already, and no subject is in two of them
    return found.split(options.fractions, seed=study.seed, assignments=options.assignments)


def keep_cohort(scans, run):
    """Writes the cohort and its split into the run's folder."""
    write_json(run.file("cohort.json"), {"name": scans.name, "note": scans.note})
    scans.to_csv(run.file("cohort.csv"))  # last: where it is, all is there


def cohort_of_run(study, run):
    """The cohort with the split that a run began with; drawn anew if a kill came before it."""
    if not run.has("cohort.csv"):
        keep_cohort(cohort(study), run)
    return data.Cohort.from_csv(
        run.file("cohort.csv"),
        simulated=study.data.source == "simulated",
        **read_json(run.file("cohort.json")),
    )


def facts(study, scans):
    """Name, licence and attribution of the data, for the model card."""
    if scans.simulated:
        return {
            "data_name": f"{len(scans.subjects)} brains simulated on the ICBM152 sym 09a template",
            "data_attribution": "template: Fonov et al. 2011, as shipped with nilearn",
        }
    described = Path(study.data.root) / "dataset_description.json"
    if study.data.source == "bids" and described.exists():
        found = read_json(described)
        return {
            "data_name": " ".join(
                str(found[key]) for key in ("Name", "DatasetDOI") if found.get(key)
            ),
            "data_licence": str(found.get("License", "")),
            "data_attribution": ", ".join(map(str, found.get("Authors", []))),
        }
    return {"data_name": SOURCE_NAMES[study.data.source]}


def steps(study):
    """The preprocessing of a study: a list of `brainvq.data.steps`."""
    options = study.data
    if options.source == "png":  # slices already: only their size and scale are left to do
        return [
            data.Resample(spacing=(256 / options.size, 256 / options.size, None)),
            data.CropOrPad(shape=(options.size, options.size, None), center="volume"),
            data.ScaleIntensity(method="max"),
        ]
    return [
        # LPS, so that image[:, :, k].T is a radiological picture: anterior above, right at left.
        data.Canonical(axcodes="LPS"),
        data.ClipIntensity(upper=options.clip_percentile, over="foreground"),
        data.ScaleIntensity(method="minmax"),
        data.SelectSlices(
            plane="axial", spacing=options.slice_spacing, margin=options.slice_margin
        ),
        data.Resample(spacing=(options.spacing, options.spacing, None)),
        data.CropOrPad(shape=(options.size, options.size, None), center="foreground"),
    ]


def arrays(study, scans):
    """The prepared slices of a cohort: a `brainvq.data.ArrayStore` (built once, then reused)."""
    return data.prepare(
        scans, steps(study), study.data.cache, layout="slices", workers=study.data.workers
    )


def split_rows(scans, store):
    """Sample numbers of each split, as a dict of arrays.

    Raises:
        UserError: a split has no readable scan.
    """
    rows = {}
    for split in SPLITS:
        subjects = scans.table.loc[scans.table["split"] == split, "subject"].unique()
        rows[split] = np.flatnonzero(store.table["subject"].isin(subjects))
        if len(rows[split]) == 0:
            raise UserError(
                f"cohort {scans.name}: no readable scan is left for the {split} split; expected at "
                "least one"
            )
    return rows


def levels(store, count):
    """How high in its brain each slice lies: 0 for the lowest `1 / count` of it, up to count - 1.

    Args:
        store: an `ArrayStore` of slices.
        count: int, number of levels.

    Returns:
        int array, one for each sample of the store.
    """
    index = store.table["index"]
    last = index.groupby(store.table["scan_id"]).transform("max").clip(lower=1)
    return np.minimum(index / last * count, count - 1).to_numpy().astype(int)


def main(arguments):
    """Prepares the arrays of a study and says what there is."""
    study = hyperparameters.parse(arguments, "python dataset.py", __doc__)
    scans = cohort(study)
    store = arrays(study, scans)
    print(scans.describe())
    print(f"{len(store)} slices of {store.sample_shape} in {store.path}")


if __name__ == "__main__":
    from brainvq.training.programs import run_program

    run_program(main, sys.argv[1:])
