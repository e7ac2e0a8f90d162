"""Folds and measures for classifiers of subjects: everything is counted per subject, not per slice.

Class numbers run from 0 in the order of `classes`; probabilities are `(n_subjects, n_classes)`, or
`(n_repeats, n_subjects, n_classes)` where cross-validation was repeated with other folds. Measures
of repeats are averaged. With two classes the second one is the positive class.

Intervals are percentile intervals of a bootstrap over subjects, drawn within each class, see
`bootstrap`. All slices and repeats of a subject move together.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn import metrics

from brainvq.errors import UserError
from brainvq.evaluation.bootstrap import interval, resample_weights

MEASURES = ("accuracy", "balanced_accuracy", "auroc", "log_loss")
LOWER_IS_BETTER = ("log_loss",)
MIN_PROBABILITY = 1e-7


class Folds(NamedTuple):
    """What `subject_folds` returns.

    Attributes:
        fold: int array `(n_samples,)`, the fold in which each sample is tested.
        count: number of folds.
        note: a line to show where there are fewer folds than asked for, else "".
    """

    fold: np.ndarray
    count: int
    note: str


def subject_folds(subjects, labels, folds=5, seed=0):
    """Deals subjects into folds of equal size, each with its share of every class.

    The result depends on the set of subjects and the seed, not on the order of the samples.

    Args:
        subjects: `(n_samples,)`, the subject of each sample.
        labels: `(n_samples,)`, the class of each sample, the same for all samples of a subject.
        folds: int ≥ 2. Default 5.
        seed: int ≥ 0. Default 0.

    Returns:
        `Folds`. There are no more folds than subjects in the smallest class, so that every fold
        tests every class.

    Raises:
        UserError: there is one class only, a class has a single subject, a subject has two
            classes, or `folds` is below 2.
    """
    subjects, labels = np.asarray(subjects), np.asarray(labels)
    if folds < 2:
        raise UserError(f"folds: found {folds}; expected 2 or more")
    names, first, which = np.unique(subjects, return_index=True, return_inverse=True)
    of_subject = labels[first]
    if np.any(of_subject[which] != labels):
        name = names[which[np.flatnonzero(of_subject[which] != labels)[0]]]
        several = ", ".join(map(str, np.unique(labels[subjects == name])))
        raise UserError(f"labels: subject {name} is in the classes {several}; expected one")
    classes, counts = np.unique(of_subject, return_counts=True)
    if len(classes) < 2:
        present = f"only the class {classes[0]}" if len(classes) else "no subjects"
        raise UserError(f"labels: found {present}; expected subjects of two or more classes")
    if counts.min() < 2:
        raise UserError(
            f"labels: class {classes[counts.argmin()]} has one subject; expected two or more in "
            "each class"
        )
    used, note = min(folds, int(counts.min())), ""
    if used < folds:
        note = (
            f"{used} folds in place of {folds}, because class {classes[counts.argmin()]} has "
            f"{counts.min()} subjects"
        )
    rng = np.random.default_rng(seed)
    fold = np.empty(len(names), int)
    dealt = 0
    for value in classes:
        members = rng.permutation(np.flatnonzero(of_subject == value))
        # Each class goes on where the one before ended, or the first fold would get all the rests.
        fold[members] = (dealt + np.arange(len(members))) % used
        dealt += len(members)
    return Folds(fold[which], used, note)


def pool_by_subject(probabilities, subjects):
    """Mean class probabilities over the samples of each subject.

    Args:
        probabilities: float `(n_samples, n_classes)`.
        subjects: `(n_samples,)`, the subject of each sample.

    Returns:
        `pandas.DataFrame`, a row per subject in sorted order (the index), a column per class.
    """
    table = pd.DataFrame(np.asarray(probabilities, "float64"))
    return table.groupby(np.asarray(subjects), sort=True).mean().rename_axis("subject")


def classification_measures(labels, probabilities):
    """Accuracy, balanced accuracy, AUROC and log loss of subjects.

    `accuracy` is the share of subjects whose most probable class is right; `balanced_accuracy` the
    mean recall of the classes. `auroc` is the probability that a subject of a class has a higher
    probability of it than a subject of another, ties counting half: with two classes that of the
    second, with more the mean over classes of one against the rest. `log_loss` is the mean of
    −log p of the right class, in nats.

    Args:
        labels: class numbers `(n_subjects,)`.
        probabilities: `([n_repeats,] n_subjects, n_classes)`.

    Returns:
        dict of measure to float, NaN where a class that is needed has no subject.
    """
    labels, repeats = _checked(labels, probabilities)
    values = class_measures(labels, repeats, np.ones((1, len(labels))))
    return {name: float(values[name][0]) for name in MEASURES}


def bootstrap_interval(
    labels, probabilities, measure="auroc", *, other=None, level=0.95, draws=2000, seed=0
):
    """Percentile interval of a measure, or of a difference of two methods on the same subjects.

    Args:
        labels: class numbers `(n_subjects,)`.
        probabilities: `([n_repeats,] n_subjects, n_classes)`.
        measure: one of `MEASURES`. Default "auroc".
        other: probabilities of another method for the same subjects, shaped likewise. With them the
            interval is of the measure of `probabilities` minus that of `other`, in the same
            resamples. Default: none.
        level: share of the resamples inside, in (0, 1). Default 0.95.
        draws: int ≥ 1, number of resamples. Default 2000.
        seed: int. Default 0.

    Returns:
        (low, high), floats.

    Raises:
        ValueError: an argument is out of its range, or shapes do not agree.
    """
    if measure not in MEASURES:
        raise ValueError(f"`measure` must be one of {MEASURES}. Received: measure={measure}")
    drawn = _bootstrap(labels, probabilities, draws, seed)[measure]
    if other is not None:
        drawn = drawn - _bootstrap(labels, other, draws, seed)[measure]
    return interval(drawn, level)


def compare_methods(labels, probabilities, *, level=0.95, draws=2000, seed=0):
    """Every measure of every method with its interval.

    Args:
        labels: class numbers `(n_subjects,)`.
        probabilities: dict of method to `([n_repeats,] n_subjects, n_classes)`.
        level: share of the resamples inside an interval, in (0, 1). Default 0.95.
        draws: int ≥ 1, number of resamples. Default 2000.
        seed: int. Default 0.

    Returns:
        `pandas.DataFrame` with `method`, `measure`, `value`, `low`, `high` and `chance`, what the
        measure is without looking at the subjects (`chance_level`).
    """
    rows, chance = [], chance_level(labels)
    for method, p in probabilities.items():
        values = classification_measures(labels, p)
        drawn = _bootstrap(labels, p, draws, seed)
        for measure in MEASURES:
            low, high = interval(drawn[measure], level)
            rows.append((method, measure, values[measure], low, high, chance[measure]))
    return pd.DataFrame(rows, columns=["method", "measure", "value", "low", "high", "chance"])


def paired_differences(labels, probabilities, reference, *, level=0.95, draws=2000, seed=0):
    """Every method against one of them, on the same subjects.

    Args:
        labels: class numbers `(n_subjects,)`.
        probabilities: dict of method to `([n_repeats,] n_subjects, n_classes)`.
        reference: the method that is subtracted.
        level: share of the resamples inside an interval, in (0, 1). Default 0.95.
        draws: int ≥ 1, number of resamples. Default 2000.
        seed: int. Default 0.

    Returns:
        `pandas.DataFrame` with `method`, `minus` (the reference), `measure`, `difference`, `low`
        and `high`. A difference whose interval leaves out 0 is one that these subjects show.

    Raises:
        ValueError: `reference` is none of the methods.
    """
    if reference not in probabilities:
        raise ValueError(
            f"`reference` must be one of {tuple(probabilities)}. Received: reference={reference}"
        )
    base = classification_measures(labels, probabilities[reference])
    drawn_base = _bootstrap(labels, probabilities[reference], draws, seed)
    rows = []
    for method, p in probabilities.items():
        if method == reference:
            continue
        values = classification_measures(labels, p)
        drawn = _bootstrap(labels, p, draws, seed)
        for measure in MEASURES:
            low, high = interval(drawn[measure] - drawn_base[measure], level)
            rows.append((method, reference, measure, values[measure] - base[measure], low, high))
    columns = ["method", "minus", "measure", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def chance_level(labels):
    """What each measure is when nothing is known of a subject.

    Args:
        labels: class numbers `(n_subjects,)`.

    Returns:
        dict of measure to float: `accuracy` of always saying the largest class (the majority-class
        baseline), `balanced_accuracy` 1 / classes, `auroc` 0.5, and `log_loss` of the shares of
        the classes, their entropy in nats.
    """
    shares = np.unique(np.asarray(labels), return_counts=True)[1] / len(labels)
    return {
        "accuracy": float(shares.max()),
        "balanced_accuracy": 1 / len(shares),
        "auroc": 0.5,
        "log_loss": float(-np.sum(shares * np.log(shares))),
    }


def confusion_matrix(labels, probabilities):
    """How many subjects of each class were assigned to which class, by their mean over repeats.

    Args:
        labels: class numbers `(n_subjects,)`.
        probabilities: `([n_repeats,] n_subjects, n_classes)`.

    Returns:
        int64 `(n_classes, n_classes)`, a row per true class, a column per assigned class.
    """
    labels, repeats = _checked(labels, probabilities)
    assigned = repeats.mean(axis=0).argmax(axis=1)
    return metrics.confusion_matrix(labels, assigned, labels=np.arange(repeats.shape[2]))


def class_table(labels, probabilities, classes):
    """True and false positives and negatives, precision and recall of each class.

    Args:
        labels: class numbers `(n_subjects,)`.
        probabilities: `([n_repeats,] n_subjects, n_classes)`.
        classes: names of the classes, `(n_classes,)`.

    Returns:
        `pandas.DataFrame`, a row per class: `class`, `subjects`, `TP`, `FP`, `FN`, `TN`,
        `precision` (NaN for a class that no subject was assigned to) and `recall`.
    """
    matrix = confusion_matrix(labels, probabilities)
    hits, assigned, true = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    with np.errstate(invalid="ignore"):
        precision, recall = hits / assigned, hits / true
    return pd.DataFrame(
        {
            "class": list(classes),
            "subjects": true,
            "TP": hits,
            "FP": assigned - hits,
            "FN": true - hits,
            "TN": matrix.sum() - assigned - true + hits,
            "precision": precision,
            "recall": recall,
        }
    )


def class_names(labels, count):
    """Classes as text, `(count,)`; `ValueError` where there are not `count`."""
    labels = np.asarray(labels).ravel().astype(str)
    if len(labels) != count:
        raise ValueError(f"one class per scan is needed. Received: {len(labels)} for {count} scans")
    return labels


def _checked(labels, probabilities):
    """Class numbers, and probabilities as `(n_repeats, n_subjects, n_classes)`."""
    labels = np.asarray(labels)
    repeats = np.asarray(probabilities, "float64")
    repeats = repeats[None] if repeats.ndim == 2 else repeats
    if repeats.ndim != 3 or repeats.shape[1] != len(labels) or repeats.shape[2] < 2:
        raise ValueError(
            "`probabilities` must be ([n_repeats,] n_subjects, n_classes) with the subjects of "
            f"`labels`. Received: {np.shape(probabilities)} and {labels.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= repeats.shape[2]:
        raise ValueError(
            f"`labels` must be class numbers from 0 to {repeats.shape[2] - 1}. "
            f"Received: labels={labels}"
        )
    return labels.astype("int64"), repeats


def class_measures(labels, repeats, weights):
    """Each measure of `classification_measures` in each resample of the subjects.

    Args:
        labels: class numbers `(n_subjects,)`.
        repeats: float `(n_repeats, n_subjects, n_classes)`.
        weights: float `(n_resamples, n_subjects)`, how often each subject counts.

    Returns:
        dict of measure to float64 `(n_resamples,)`.
    """
    count = repeats.shape[2]
    sums = {name: np.zeros(len(weights)) for name in MEASURES}
    total = weights.sum(axis=1)
    of_class = [labels == value for value in range(count)]
    sizes = np.stack([weights[:, rows].sum(axis=1) for rows in of_class])  # (classes, resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        for p in repeats:
            right = (p.argmax(axis=1) == labels).astype(float)
            surprise = -np.log(np.clip(p[np.arange(len(labels)), labels], MIN_PROBABILITY, 1))
            sums["accuracy"] += weights @ right / total
            sums["log_loss"] += weights @ surprise / total
            recalls = [weights[:, r] @ right[r] / n for r, n in zip(of_class, sizes, strict=True)]
            sums["balanced_accuracy"] += np.mean(recalls, axis=0)
            areas = []
            for value in [1] if count == 2 else range(count):
                rows, scores = of_class[value], p[:, value]
                gap = scores[rows][:, None] - scores[~rows]
                wins = (gap > 0) + 0.5 * (gap == 0)  # (positives, negatives)
                won = np.sum(weights[:, rows] @ wins * weights[:, ~rows], axis=1)
                areas.append(won / (sizes[value] * (total - sizes[value])))
            sums["auroc"] += np.mean(areas, axis=0)
    return {name: values / len(repeats) for name, values in sums.items()}


def _bootstrap(labels, probabilities, draws, seed):
    """Measures of `draws` resamples of the subjects, each class as large as it is."""
    labels, repeats = _checked(labels, probabilities)
    if draws < 1:
        raise ValueError(f"`draws` must be at least 1. Received: draws={draws}")
    subjects, rng = np.arange(len(labels)), np.random.default_rng(seed)
    weights = resample_weights(subjects, draws, rng, classes=labels)
    # The order in memory decides how sums of products round.
    return class_measures(labels, repeats, np.ascontiguousarray(weights))
