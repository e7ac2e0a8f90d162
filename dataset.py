"""From a study to its cohort, and from the cohort to arrays: the door to `brainvq.data`.

python dataset.py [prepare] [STUDY] [--data.source ... --data.root DIR]
                                                                  prepare the arrays, and no more;
                                                                  with a score and a picture of the
                                                                  registration, where there is one
python dataset.py simulate --out DIR [--groups healthy MS]        simulated scans with their lesion
                                                                  masks, as a BIDS folder
"""

import sys
from pathlib import Path

import brainvq  # noqa: F401 (first: it keeps TensorFlow's start-up lines off the screen)

# isort: split
import numpy as np
import pandas as pd

import hyperparameters
from brainvq import data
from brainvq.data.registration import template_grid
from brainvq.errors import UserError
from brainvq.files import read_json, write_csv, write_json

SPLITS = ("train", "validation", "test")
SOURCE_NAMES = {
    "tractoinferno": "TractoInferno (Poulin et al. 2022, OpenNeuro ds003900, CC0)",
    "tracts": "a folder of tractograms",
    "groups": "groups of streamlines",
    "bids": "a BIDS data set",
    "oasis1": "OASIS-1 (Marcus et al. 2007)",
    "oasis2": "OASIS-2 (Marcus et al. 2010)",
    "ixi": "IXI (brain-development.org, CC BY-SA 3.0)",
    "png": "OASIS slices as PNG",
    "images": "a folder of pictures",
}
DOWNLOADS = ("oasis1", "oasis2", "ixi", "tractoinferno")
# People of TractoInferno that are downloaded where none are named.
FIRST_PEOPLE = 5
# In-plane extent of the matrices that `data.transfer` names, in mm: that of many head protocols.
FIELD_OF_VIEW = 250.0


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
        if options.source not in DOWNLOADS:
            raise UserError(
                f"--data.download: found --data.source {options.source}; expected one of "
                f"{', '.join(DOWNLOADS)}"
            )
        download(options)
    if hyperparameters.layout(options) == "bundles":
        return bundle_cohort(study)
    if options.source == "simulated":
        found = simulated(study, options.subjects, study.seed)
    elif options.source == "bids":
        found = data.open_cohort("bids", options.root, suffix=options.suffix)
    else:
        found = data.open_cohort(options.source, options.root)
    if options.masks is not None:
        found = data.with_masks(found, options.masks)
    if options.mask_tool is not None:
        folder = Path(options.cache) / "masks"
        found = data.with_mask_tool(found, options.mask_tool, folder, workers=options.workers)
    if options.source != "png" or options.assignments or "split" not in found.table:
        found = found.split(options.fractions, seed=study.seed, assignments=options.assignments)
    # else: the folders are a split already, and no subject is in two of them.
    if options.add_simulated and options.source != "simulated":
        # Other subjects than those of the embedded cohort, which a run may be tried on later.
        added = simulated(study, options.add_simulated, study.seed + 1000)
        added.table["split"] = "train"
        found = found.joined(added, found.name)
    return found


def download(options):
    """Downloads what a `hyperparameters.Data` asks for."""
    terms = {"accept_terms": options.accept_terms, "base_url": options.mirror}
    if options.source == "tractoinferno":
        people = list(options.people) or FIRST_PEOPLE
        data.download_tractoinferno(options.root, people, options.bundles, **terms)
    else:
        parts = None if options.source == "ixi" else options.parts
        data.fetch(options.source, options.root, parts=parts, **terms)


def bundle_cohort(study):
    """The bundles of a study, a row each; split by person where there is more than one."""
    options = study.data
    if options.source == "simulated":
        found = data.open_cohort(
            "simulated-bundles",
            n_subjects=options.subjects,
            seed=study.seed,
            bundles=options.bundles,
        )
    else:
        found = data.open_cohort(options.source, options.root, bundles=options.bundles)
    if len(found.subjects) == 1:
        if options.assignments is not None:
            raise UserError(
                f"--data.assignments: found {options.assignments}; expected none, because the "
                "streamlines of a single person are split by groups"
            )
        return found  # its groups are split, once they are made
    return found.split(
        options.fractions, seed=study.seed, assignments=options.assignments, stratify=None
    )


def simulated(study, subjects, seed):
    """The embedded cohort in the modality and at the voxel size of a study."""
    options = study.data
    shares = options.shares or (1.0,) * len(options.groups)
    visits = dict(zip(options.groups, options.visits, strict=False))
    return data.open_cohort(
        "simulated",
        n_subjects=subjects,
        spacing=options.simulated_spacing,
        modality=options.suffix,
        groups=dict(zip(options.groups, shares, strict=True)),
        scans=visits or None,
        confound=options.confound if options.confound != "no" else False,
        space=options.simulated_space,
        seed=seed,
    )


def keep_cohort(scans, run):
    """Writes the cohort and its split into the run's folder."""
    about = {"name": scans.name, "note": scans.note, "simulated": scans.simulated}
    write_json(run.file("cohort.json"), about)
    scans.to_csv(run.file("cohort.csv"))  # last: where it is, all is there


def cohort_of_run(study, run):
    """The cohort with the split that a run began with; drawn anew if a kill came before it."""
    if not run.has("cohort.csv"):
        keep_cohort(cohort(study), run)
    return data.Cohort.from_csv(run.file("cohort.csv"), **read_json(run.file("cohort.json")))


def facts(study, scans):
    """Name, licence and attribution of the data, for the model card."""
    if scans.simulated and hyperparameters.layout(study.data) == "bundles":
        return {"data_name": f"bundles of {len(scans.subjects)} people, simulated as curves"}
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
    if hyperparameters.layout(options) == "bundles":
        return [
            data.GroupStreamlines(
                options.points, options.streamlines, True, options.per_bundle, study.seed
            )
        ]
    if options.source == "png":  # slices already: only their size and scale are left to do
        return [
            data.Resample(spacing=(256 / options.size, 256 / options.size, None)),
            data.CropOrPad(shape=(options.size, options.size, None), center="volume"),
            data.ScaleIntensity(method="max"),
        ]
    if options.source == "images":
        return picture_steps(options.size)
    if options.registration != "no":
        return registered_steps(options)
    if options.shape is not None:
        return volume_steps(options)
    if options.scale == "max":
        scale = [data.ScaleIntensity(method="max")]
    else:
        scale = [
            data.ClipIntensity(upper=options.clip_percentile, over="foreground"),
            data.ScaleIntensity(method="minmax"),
        ]
    pixels = []
    if options.spacing is not None:
        pixels = [data.Resample(spacing=(options.spacing, options.spacing, None))]
    return [
        # LPS, so that image[:, :, k].T is a radiological picture: anterior above, right at left.
        data.Canonical(axcodes="LPS"),
        *scale,
        data.SelectSlices(
            plane="axial",
            spacing=options.slice_spacing,
            margin=options.slice_margin,
            count=options.slices,
        ),
        *pixels,
        data.CropOrPad(shape=(options.size, options.size, None), center="foreground"),
    ]


def volume_steps(options):
    """The preprocessing of a study of volumes, of a `hyperparameters.Data`."""
    scale = {
        "zscore": data.ZScore(over="all"),
        "max": data.ScaleIntensity(method="max"),
        "percentile": data.ScaleIntensity(method="minmax"),
    }[options.scale]
    clip = [data.ClipIntensity(upper=options.clip_percentile, over="foreground")]
    return [
        data.Canonical(axcodes="LPS"),
        *([] if options.scale == "max" else clip),
        data.Resample(spacing=(options.spacing,) * 3),
        # Cut before the scale: a deviation should be of what the network sees.
        data.CropOrPad(shape=options.shape, center="foreground"),
        scale,
    ]


def registered_steps(options):
    """The preprocessing of a study of registered volumes, of a `hyperparameters.Data`."""
    placed = [
        data.RegisterToTemplate(
            shape=options.shape,
            transform="none" if options.registration == "mni" else options.registration,
            brain=options.skull,
        ),
        data.BlockMean(size=options.block),
    ]
    if options.source == "simulated" and options.simulated_space == "mni":
        placed = [data.Canonical(axcodes="LPS")]  # made on that grid
    if options.scale == "max":
        return [*placed, data.ScaleIntensity(method="max")]
    return [
        *placed,
        data.ClipIntensity(upper=options.clip_percentile, over="foreground"),
        data.ScaleIntensity(method="minmax"),
    ]


def template(study):
    """The template on the grid of a study of registered volumes: `brainvq.data.Template`."""
    options = study.data
    steps = [data.RegisterToTemplate(shape=options.shape), data.BlockMean(size=options.block)]
    return data.template_volumes(steps)


def grid_affine(options):
    """Voxel index to mm of volumes of a study that belong to no scan, such as drawn ones.

    Args:
        options: mapping, the options of a `hyperparameters.Data` as `study.json` holds them.

    Returns:
        `(4, 4)`. It leads to MNI space where the study's volumes lie on a grid around the template;
        elsewhere the axes are those of the study, LPS, and the origin is in the middle.
    """
    block = options.get("block", 1)
    if options.get("registration", "no") == "no":
        shape = [size // block for size in options["shape"]]
        return data.oriented_affine(shape, [options["spacing"]] * 3, "LPS")
    shape, affine = template_grid(options["shape"], "LPS")
    return data.BlockMean(block)(np.zeros(shape, "uint8"), affine)[1]


def picture_steps(size):
    """The preprocessing of pictures of any size: scaled to fit, filled, brightest pixel 1."""
    return [
        data.FitInside(size=size),
        data.CropOrPad(shape=(size, size, None), center="volume"),
        data.ScaleIntensity(method="max"),
    ]


def arrays(study, scans):
    """The prepared samples: a `brainvq.data.ArrayStore` (built once, then reused)."""
    layout = hyperparameters.layout(study.data)
    return data.prepare(
        scans,
        steps(study),
        study.data.cache,
        layout=layout,
        # Halves would round coordinates of 100 mm to 0.06 mm.
        dtype="float32" if layout == "bundles" else "float16",
        workers=study.data.workers,
    )


def registration_quality(study, scans, store):
    """How well the registered scans lie on the template, scored once for each store.

    Beside the store, in a folder of its name and "-registration", are `registration.csv` (a row per
    scan, see `brainvq.evaluation.RegistrationQuality.table`), `registration.png` (template, mean
    image and outliers) and `registration.json`, which is written last.

    Args:
        study: a `hyperparameters.Study` whose `data.registration` is not "no".
        scans: its `Cohort`.
        store: `ArrayStore` of its volumes.

    Returns:
        dict of table (`pandas.DataFrame`), sharpness (of the mean image, 0 to 1), outliers (list of
        scan_id, the worst first), csv and picture (paths).
    """
    folder = store.path.with_name(store.path.name + "-registration")
    csv, picture, about = (folder / f"registration.{kind}" for kind in ("csv", "png", "json"))
    names = list(store.table["scan_id"])
    whole = all(file.exists() for file in (csv, picture, about))
    known = read_json(about) if whole else {}
    # The key of the store stands for all scans; those that could be prepared may become more.
    if known.get("scans") != names:
        known = _score_registration(study, scans, store, csv, picture)
        write_json(about, known | {"scans": names})
    return {
        # A name such as "01" must not become a number.
        "table": pd.read_csv(csv, dtype={"scan_id": str}, keep_default_na=False),
        "sharpness": known["sharpness"],
        "outliers": known["outliers"],
        "csv": csv,
        "picture": picture,
    }


def _score_registration(study, scans, store, csv, picture):
    """Writes the table and the picture; returns a dict of sharpness and outliers."""
    # Here, because the figure needs matplotlib, which a program that only prepares does not.
    from brainvq.evaluation import RegistrationQuality
    from brainvq.reports.registration import registration_planes

    where = template(study)
    quality = RegistrationQuality(where.t1, [where.gm, where.wm, where.csf], where.mask)
    for first in range(0, len(store), 32):
        quality.update(store.read(slice(first, first + 32)))
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
            row.scan_id: store.read([row.Index])[0, ..., 0] for row in poor.head(3).itertuples()
        },
        simulated=scans.simulated,
    )
    return {"sharpness": quality.sharpness, "outliers": list(poor["scan_id"])}


def describe_registration(found, most=5):
    """What `registration_quality` found, in lines of text; at most `most` outliers by name."""
    table, outliers = found["table"], found["outliers"]
    named = ", ".join(outliers[:most]) or "none"
    more = f" and {len(outliers) - most} more" if len(outliers) > most else ""
    return (
        f"registration of {len(table)} scans: median fit {table['fit'].median():.3f} (lowest "
        f"{table['fit'].min():.3f}), sharpness of the mean image {found['sharpness']:.3f}\n"
        f"outliers: {named}{more}\n"
        f"scores in {found['csv']}, mean image in {found['picture']}"
    )


class UnitStore:
    """A store of bundles whose samples are read in [-1, 1].

    Args:
        store: `ArrayStore` of layout "bundles".
        scale: `brainvq.data.BundleScale`.

    Attributes are those of the store.
    """

    def __init__(self, store, scale):
        self.store, self.scale = store, scale

    def read(self, rows):
        """Samples `(len(rows), streamlines, points, 3)`, float32."""
        return self.scale.to_unit(self.store.read(rows))

    def __getattr__(self, name):
        return getattr(self.store, name)

    def __len__(self):
        return len(self.store)


def in_units(store, rows, run):
    """A store of bundles in the scale of a run, which is that of its training samples.

    Args:
        store: `ArrayStore` of layout "bundles".
        rows: dict of split to sample numbers.
        run: `RunFolder`; keeps the scale in `scale.json`.

    Returns:
        A `UnitStore`.
    """
    if not run.has("scale.json"):
        write_json(run.file("scale.json"), data.scale_of(store, rows["train"]).to_config())
    return UnitStore(store, data.BundleScale.from_config(read_json(run.file("scale.json"))))


def split_rows(scans, store, study):
    """Sample numbers of each split, as a dict of arrays.

    Of bundles, those of training hold equally many of each; the others are all there are.

    Raises:
        UserError: a split has no readable scan.
    """
    if "split" not in scans.table:
        rows = data.split_groups(store.table, study.data.fractions, study.seed)
        for split, found in rows.items():
            if len(found) == 0:
                raise UserError(
                    f"cohort {scans.name}: no group of streamlines is left for the {split} split; "
                    "expected three groups or more of a bundle"
                )
        return rows | {"train": balanced(study, store, rows["train"])}
    rows = {}
    for split in SPLITS:
        subjects = scans.table.loc[scans.table["split"] == split, "subject"].unique()
        rows[split] = np.flatnonzero(store.table["subject"].isin(subjects))
        if len(rows[split]) == 0:
            raise UserError(
                f"cohort {scans.name}: no readable scan is left for the {split} split; expected at "
                "least one"
            )
    if store.layout == "bundles":
        rows["train"] = balanced(study, store, rows["train"])
    return rows


def balanced(study, store, rows):
    """Equally many samples of each bundle, the rarer ones more than once (Lizarraga et al. 2023).

    The source leaves out what the rarest bundle does not have; this keeps every streamline.
    """
    return data.balanced_rows(store.table, rows, study.seed, repeat=True)


def spread(rows, count):
    """At most `count` of `rows`, evenly spread."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]


def prepared(study, row, **options):
    """A scan of the cohort as slices of another plane or matrix.

    Args:
        study: a `hyperparameters.Study`.
        row: a row of the cohort's table.
        **options: those of `PreparedScan.read`.

    Returns:
        A `brainvq.data.PreparedScan`.
    """
    return data.PreparedScan.read(row.paths, data.steps_to_config(steps(study)), **options)


def sample_shape(study):
    """Shape of a sample: of a slice `(rows, columns, 1)`, a volume, or a group of streamlines."""
    if hyperparameters.layout(study.data) == "bundles":
        return (study.data.streamlines, study.data.points, 3)
    if study.data.shape is not None:
        return (*hyperparameters.sample_grid(study.data), 1)
    return (study.data.size, study.data.size, 1)


def pixel_size(store):
    """Height and width of a pixel of the store's slices in mm, those of its first scan."""
    columns = np.linalg.norm(store.scans["affine"].iloc[0][:3, :3], axis=0)
    return float(columns[1]), float(columns[0])


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
    return _level((index / last).to_numpy(), count)


def simulate(arguments):
    """Writes simulated subjects as a BIDS folder: scans, sidecars, lesion and tissue masks."""
    options = hyperparameters.parse_fields(
        hyperparameters.Simulation(),
        arguments,
        "python dataset.py simulate",
        hyperparameters.Simulation.__doc__,
    )
    scans = data.open_cohort(
        "simulated",
        n_subjects=options.subjects,
        modality=options.suffix,
        spacing=options.spacing,
        groups={group: 1.0 for group in options.groups},
        confound=options.confound,
        seed=options.seed,
    )
    data.write_simulated_bids(scans, options.out, workers=options.workers)
    print(scans.describe())
    print(f"simulated scans in {options.out}, lesion masks in {options.out}/derivatives/lesions")


def levels_of_slices(slices, count):
    """As `levels`, for all slices of one scan: the brain's own extent counts.

    Args:
        slices: float `(n, rows, cols, 1)`, lowest first.
        count: int, number of levels.

    Returns:
        int array `(n,)`.
    """
    filled = np.flatnonzero((slices > 0).any(axis=(1, 2, 3)))
    first, last = (filled[0], filled[-1]) if len(filled) else (0, len(slices) - 1)
    return _level((np.arange(len(slices)) - first) / max(last - first, 1), count)


def _level(height, count):
    """The level of slices whose height is 0 at the bottom of the brain and 1 at its top."""
    return np.clip((height * count).astype(int), 0, count - 1)


def main(arguments):
    """Prepares the arrays of a study and says what there is."""
    if arguments[:1] == ["simulate"]:
        return simulate(arguments[1:])
    if arguments[:1] == ["prepare"]:
        arguments = arguments[1:]
    study = hyperparameters.parse(arguments, "python dataset.py", __doc__)
    scans = cohort(study)
    store = arrays(study, scans)
    print(scans.describe())
    print(f"{len(store)} {store.layout} of {store.sample_shape} in {store.path}")
    if study.data.registration != "no":
        print(describe_registration(registration_quality(study, scans, store)))


if __name__ == "__main__":
    from brainvq.training.programs import run_program

    run_program(main, sys.argv[1:])
