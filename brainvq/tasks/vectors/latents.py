"""What the latents of a run tell: class and age of unseen scans, and of the acquisition."""

import logging

import numpy as np
import pandas as pd

from brainvq import evaluation
from brainvq.errors import UserError
from brainvq.files import records, write_array, write_csv
from brainvq.studies.introvae3d import PUBLISHED

logger = logging.getLogger("brainvq")

# What the acquisition of a scan was, where the cohort knows it. Age and sex differ between diseases
# and are told apart from it.
ACQUISITION = ("tr", "te", "pixel_bandwidth", "manufacturer", "site", "field_strength")
# Classes in the order of tables and figures; others come behind them.
CLASSES = tuple(PUBLISHED)
# Dimensions that differ most between classes: so many are listed, and traversed in a figure.
TRAVERSED = 3


def scan_table(run):
    """What the cohort knows of each scan of a run's store, in the order of the store."""
    table = run.scans.table.drop(columns="paths").set_index("scan_id")
    return table.loc[run.store.table["scan_id"]].reset_index()


def classes(table):
    """The class of each scan of a table; "" where it is not known."""
    return table["group"].fillna("").astype(str).to_numpy()


def acquisition(table):
    """The columns on how a scan was made that the cohort knows; None where it knows none."""
    names = [name for name in ACQUISITION if name in table and table[name].notna().any()]
    names = [name for name in names if (table[name].astype(str) != "").any()]
    return table[names].reset_index(drop=True) if names else None


def encodings(run, encode):
    """Latents of every split, in `latents/<split>.npy`.

    Args:
        run: a `LoadedRun`.
        encode: function of volumes `(n, x, y, z, 1)` to vectors `(n, size)`.

    Returns:
        Dict of split to float32 array `(n, size)`.
    """
    z = {split: encode_rows(run, encode, rows) for split, rows in run.rows.items()}
    for split, latents in z.items():
        write_array(run.file("latents", f"{split}.npy"), latents)
    return z


def encode_rows(run, encode, rows):
    """The vectors `(n, size)` of the volumes in `rows`, which are read in batches."""
    size = run.task.batch_size
    parts = [
        encode(run.store.read(rows[start : start + size])) for start in range(0, len(rows), size)
    ]
    return np.concatenate(parts)


def latent_measures(run, about, z, baseline):
    """What latents tell of class and age; writes tables into `latents/`.

    Args:
        run: a `LoadedRun`.
        about: table of all scans, as of `scan_table`.
        z: dict of split to latents `(n, size)`.
        baseline: `PrincipalComponents` of the training volumes.

    Returns:
        Dict, `latents` of `metrics.json`.
    """
    parts = {split: about.iloc[rows] for split, rows in run.rows.items()}
    table = pd.concat([part.assign(split=split) for split, part in parts.items()])
    write_csv(run.file("latents", "scans.csv"), table)
    measures = {"active": int(np.sum(z["train"].std(axis=0) > 0.1))}
    if len(set(classes(parts["train"])) - {""}) >= 2:
        measures |= _measured("classes", _class_measures, run, parts, z, baseline) or {}
    return measures | _age_measures(run, parts, z)


def _measured(name, measure, *arguments):
    """What a function measures; None, with a word, where there are too few people for it."""
    try:
        return measure(*arguments)
    except UserError as error:
        logger.warning("%s left out of the report: %s", name, error)
        return None


def _class_measures(run, parts, z, baseline):
    dimensions = evaluation.class_dimensions(*_of_known_class(z["train"], parts["train"]))
    write_csv(run.file("latents", "dimensions.csv"), dimensions)
    measures = {"dimensions": records(dimensions.head(TRAVERSED))}
    scores = [encode_rows(run, baseline.encode, run.rows[split]) for split in ("train", "test")]
    for name, pair in {
        "classes": (z["train"], z["test"]),
        "classes_of_components": scores,
    }.items():
        measures[name] = discriminated(run, name, *pair, parts)
    metadata = [acquisition(parts[split]) for split in ("train", "test")]
    if metadata[0] is None:
        return measures
    *rest, explained = evaluation.remove_metadata(z["train"], metadata[0], z["test"], metadata[1])
    name = "classes_without_metadata"
    measures[name] = discriminated(run, name, *rest, parts)
    return measures | {"explained_by_metadata": explained}


def _age_measures(run, parts, z):
    unseen = pd.concat([parts["validation"], parts["test"]])
    try:
        regression = evaluation.predict_age(
            np.concatenate([z["validation"], z["test"]]),
            unseen["age"],
            unseen["subject"],
            seed=run.study.seed,
        )
    except UserError:
        return {}  # ages that are not known, or too few
    table = pd.DataFrame({"age": regression.ages, "predicted": regression.predicted})
    write_csv(run.file("latents", "age.csv"), table)
    return {"age": records(regression.table)}


def _of_known_class(z, table):
    """Latents, classes and subjects of the scans whose class is known."""
    labels = classes(table)
    known = labels != ""
    return z[known], labels[known], np.asarray(table["subject"])[known]


def discriminated(run, name, train, test, parts):
    """Linear discriminants fitted on training scans and applied to test scans.

    Written are `latents/<name>.npy`, the test scans on the discriminants, and `latents/<name>.csv`,
    their class and the one that they are given.

    Args:
        run: a `LoadedRun`.
        name: of the files.
        train: vectors of the training scans, `(n, size)`.
        test: vectors of the test scans, `(m, size)`.
        parts: dict of split to the table of its scans.

    Returns:
        Dict of table, summary and explained (share of the variance between classes).
    """
    train, train_labels, _ = _of_known_class(train, parts["train"])
    test, test_labels, subjects = _of_known_class(test, parts["test"])
    trained = np.isin(test_labels, train_labels)
    if not trained.any():
        raise UserError(
            f"classes: found none of {', '.join(sorted(set(train_labels)))} among the test scans; "
            "expected scans of a class of the training scans"
        )
    order = sorted(set(train_labels), key=lambda c: (CLASSES.index(c) if c in CLASSES else 99, c))
    result = evaluation.discriminate(
        train,
        train_labels,
        test[trained],
        test_labels[trained],
        classes=order,
        subjects=subjects[trained],
    )
    write_array(run.file("latents", f"{name}.npy"), result.components)
    given = np.asarray(result.classes)[result.probabilities.argmax(axis=1)]
    table = {"subject": subjects[trained], "class": test_labels[trained], "given": given}
    write_csv(run.file("latents", f"{name}.csv"), pd.DataFrame(table))
    return {
        "table": records(result.table),
        "summary": records(result.summary),
        "explained": result.explained.tolist(),
    }


def audited(run, about, z):
    """Whether the acquisition could pass for the disease, over all scans.

    Written is `audit.csv`, a row per test.

    Args:
        run: a `LoadedRun`.
        about: table of all scans, as of `scan_table`.
        z: dict of split to latents `(n, size)`.

    Returns:
        Dict, `audit` of `metrics.json`; None where acquisition or classes are not known, or people
        are too few.
    """
    metadata, labels = acquisition(about), classes(about)
    chosen = labels != ""
    if metadata is None or len(set(labels[chosen])) < 2:
        return None
    latents = np.zeros((len(about), z["test"].shape[1]))
    used = np.zeros(len(about), bool)
    for split, rows in run.rows.items():
        latents[rows], used[rows] = z[split], True
    chosen &= used
    audit = _measured(
        "audit",
        lambda: evaluation.bias_audit(
            metadata[chosen],
            labels[chosen],
            about["subject"][chosen],
            latents=latents[chosen],
            seed=run.study.seed,
        ),
    )
    if audit is None:
        return None
    write_csv(run.file("audit.csv"), audit.tests)
    return {
        "alarm": bool(audit.alarm),
        "findings": [finding._asdict() for finding in audit.findings],
        "tests": records(audit.tests),
        "predictions": records(audit.predictions),
        "subjects": audit.subjects,
        "notes": list(audit.notes),
        "people": records(people(about[chosen], labels[chosen])),
    }


def people(about, labels):
    """Age and share of women of each class, counted by subject.

    Args:
        about: table of scans with subject, age and sex.
        labels: class of each scan.

    Returns:
        `pandas.DataFrame` with the columns class, subjects, age (years), sd and women (0 to 1).
    """
    first = about.assign(group=labels).drop_duplicates("subject")
    rows = []
    for name, part in first.groupby("group"):
        age = part["age"].dropna()
        known_sex = part["sex"][part["sex"].isin(["F", "M"])]
        rows.append(
            {
                "class": name,
                "subjects": len(part),
                "age": age.mean(),
                "sd": age.std(ddof=1),
                "women": (known_sex == "F").mean() if len(known_sex) else np.nan,
            }
        )
    return pd.DataFrame(rows)
