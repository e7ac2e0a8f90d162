"""What latent vectors say of the class and age of a scan; interpolations and traversals.

Latents are `(n, dim)`, one vector for a scan, such as the means that an encoder gives. Scans of one
subject are alike, so nothing is fitted and tested on the same subject, and intervals come from a
bootstrap over subjects, drawn within each class, see `bootstrap`.
"""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.linalg import solve_triangular
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainvq.errors import UserError
from brainvq.evaluation.bootstrap import group_numbers, interval, ratio, resample_weights
from brainvq.evaluation.classification import (
    chance_level,
    class_measures,
    class_names,
    class_table,
    pool_by_subject,
)

COMPONENTS = 3  # shown in a figure
RIDGE_PENALTIES = tuple(10.0 ** np.arange(-1, 6))
# The prior's latents beyond this many standard deviations are rarer than 3 in 1000.
TRAVERSAL_VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
_SAME_DIRECTION = 1e-6  # radians; sin of less divides what rounding left


class Discrimination(NamedTuple):
    """What `discriminate` returns.

    Attributes:
        table: `pandas.DataFrame`, a row per class: `class`, `scans` (or `subjects`, if pooled),
            `TP`, `FP`, `FN`, `TN`, `precision`, `recall`, and the ends of their intervals,
            `precision_low`, `precision_high`, `recall_low`, `recall_high`. NaN where no scan was
            assigned to the class or it has no test scan. The interval of a share of 0 or 1 is the
            exact one for as many subjects.
        summary: `pandas.DataFrame`, a row for `accuracy`, `balanced_accuracy` and `auroc` (each
            class against the rest), means over the classes that have test scans: `measure`,
            `value`, `low`, `high`, `chance` (`chance_level` of the tested).
        classes: names in the order of the table.
        labels: int `(m,)`, the true class number of each tested scan (or subject).
        probabilities: float `(m, classes)`, each row summing to 1.
        components: float `(n_test, c)`, each test scan on the first discriminant axes, c = 3 or
            fewer (one less than classes). The variance within a class is about 1 along each.
        train_components: float `(n_train, c)`, likewise.
        explained: float `(c,)`, share of the variance between classes along each axis.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    classes: tuple
    labels: np.ndarray
    probabilities: np.ndarray
    components: np.ndarray
    train_components: np.ndarray
    explained: np.ndarray


class AgeRegression(NamedTuple):
    """What `predict_age` returns.

    Attributes:
        table: `pandas.DataFrame`, a row for `mae` (mean absolute error, years) and `r2`: `measure`,
            `value`, `low`, `high`, `mean_age` (the same measure when the mean age of the training
            folds is predicted), `scans`, `subjects`.
        ages: float `(m,)`, known ages in years.
        predicted: float `(m,)`, by a model that never saw the subject.
        rows: int `(m,)`, the scans with a known age.
    """

    table: pd.DataFrame
    ages: np.ndarray
    predicted: np.ndarray
    rows: np.ndarray


def discriminate(
    train,
    train_labels,
    test,
    test_labels,
    *,
    classes=None,
    subjects=None,
    pool=False,
    balanced=False,
    draws=2000,
    level=0.95,
    seed=0,
):
    """Linear discriminant analysis of latents: fitted on training scans, applied to test scans.

    The covariance within classes is shrunk by the amount of Ledoit and Wolf (2004), so that more
    dimensions than scans do no harm. Latents are standardised by the training scans first.

    Args:
        train: latents `(n, dim)` of training scans.
        train_labels: `(n,)` classes.
        test: latents `(m, dim)` of test scans, of other subjects.
        test_labels: `(m,)` classes, all of which are among the training classes.
        classes: names in the order of the tables. Default: those of the training scans, sorted.
        subjects: `(m,)`, the subject of each test scan. Default: each is its own.
        pool: True averages the probabilities of a subject's scans and counts subjects; a subject
            must then have one class. Default False: every scan counts.
        balanced: True gives all classes the same prior. Default False: as in the training scans.
        draws: resamples of the bootstrap. Default 2000.
        level: share of the resamples inside the interval, in (0, 1). Default 0.95.
        seed: int. Default 0.

    Returns:
        `Discrimination`.

    Raises:
        UserError: fewer than two classes in training, none of which has two scans that differ, a
            test class that training lacks, or with `pool` a subject of two classes.
        ValueError: arrays do not agree or are not finite.
    """
    train, test = _latents(train, "train"), _latents(test, "test")
    train_labels = class_names(train_labels, len(train))
    test_labels = class_names(test_labels, len(test))
    if train.shape[1] != test.shape[1] or len(test) == 0:
        raise ValueError(
            f"train and test must be of one dim, not empty. Received: {train.shape}, {test.shape}"
        )
    classes, y_train, y_test = _class_numbers(train_labels, test_labels, classes)
    groups = group_numbers(subjects, len(test))
    p, *components, explained = _fitted(train, y_train, test, balanced)
    if pool:
        _one_class_each(groups, np.array(classes)[y_test], subjects)
        first = np.unique(groups, return_index=True)[1]
        p, y_test, groups = pool_by_subject(p, groups).to_numpy(), y_test[first], groups[first]
    weights = resample_weights(groups, draws, np.random.default_rng(seed), classes=y_test)
    counted = "subjects" if pool else "scans"
    table = _class_table(y_test, p, classes, groups, weights, level, counted)
    summary = _summary(y_test, p, weights, level)
    return Discrimination(table, summary, classes, y_test, p, *components, explained)


def class_dimensions(latents, labels, subjects=None):
    """The latent dimensions that differ most between classes, for traversals.

    One-way analysis of variance of each dimension. The scans of a subject in a class are averaged
    first, or a subject of many scans would count as many subjects. Which dimensions stand at the
    top is a choice made on these scans: judge classes by `discriminate`, on others.

    Args:
        latents: `(n, dim)`.
        labels: `(n,)` classes.
        subjects: `(n,)`, the subject of each scan. Default: each is its own.

    Returns:
        `pandas.DataFrame`, a row per dimension, the largest F first: `dimension` (from 0), `f`,
        `p`, `q` (p corrected for the number of dimensions by Benjamini and Hochberg 1995), `eta2`
        (share of the variance that lies between classes) and `mean_<class>` for each class. A
        dimension without variance has F 0 and p 1.

    Raises:
        UserError: there are fewer than two classes, or as many classes as subjects.
        ValueError: arrays do not agree or are not finite.
    """
    latents = _latents(latents, "latents")
    labels = class_names(labels, len(latents))
    groups = group_numbers(subjects, len(latents))
    means = pd.DataFrame(latents).groupby([labels, groups]).mean()
    labels, x = means.index.get_level_values(0).to_numpy(), means.to_numpy()
    classes = sorted(set(labels.tolist()))
    if len(classes) < 2 or len(x) <= len(classes):
        raise UserError(
            f"classes: found {len(classes)} classes of {len(x)} subjects in all; expected two or "
            "more classes and more subjects than classes"
        )
    centres = np.stack([x[labels == name].mean(axis=0) for name in classes])
    sizes = np.array([np.sum(labels == name) for name in classes])
    between = sizes @ (centres - x.mean(axis=0)) ** 2
    within = sum(
        ((x[labels == name] - centre) ** 2).sum(axis=0)
        for name, centre in zip(classes, centres, strict=True)
    )
    total = between + within
    alive = total > 1e-12 * max(float(total.max()), 1e-300)
    freedom = len(classes) - 1, len(x) - len(classes)
    with np.errstate(divide="ignore", invalid="ignore"):
        f = np.where(alive, between / freedom[0] / (within / freedom[1]), 0.0)
        eta2 = np.where(alive, between / total, 0.0)
    p = stats.f.sf(f, *freedom)
    table = pd.DataFrame(
        {
            "dimension": np.arange(x.shape[1]),
            "f": f,
            "p": p,
            "q": stats.false_discovery_control(p),
            "eta2": eta2,
            **{f"mean_{name}": centre for name, centre in zip(classes, centres, strict=True)},
        }
    )
    return table.sort_values("f", ascending=False, kind="stable", ignore_index=True)


def predict_age(latents, ages, subjects=None, *, folds=5, draws=2000, level=0.95, seed=0):
    """How well age can be read from latents: ridge regression, cross-validated by subject.

    The penalty is chosen within the training folds, by subject as well.

    Args:
        latents: `(n, dim)`.
        ages: `(n,)`, in years; scans without one (NaN) are left out.
        subjects: `(n,)`, the subject of each scan. Default: each is its own.
        folds: int ≥ 2; fewer where there are fewer subjects. Default 5.
        draws: resamples of the bootstrap over subjects. Default 2000.
        level: share of the resamples inside the interval, in (0, 1). Default 0.95.
        seed: int. Default 0.

    Returns:
        `AgeRegression`. R² is against the mean age of the tested scans, so that predicting the mean
        of other folds gives a little less than 0. Regression draws ages towards the mean: the worse
        the fit, the younger the old and the older the young are predicted.

    Raises:
        UserError: ages of fewer than four subjects are known, all are equal, or `folds` is below 2.
        ValueError: arrays do not agree or are not finite.
    """
    latents = _latents(latents, "latents")
    ages = np.asarray(ages, "float64").ravel()
    if len(ages) != len(latents):
        raise ValueError(f"one age per scan is needed. Received: {len(ages)} for {len(latents)}")
    rows = np.flatnonzero(np.isfinite(ages))
    x, y = latents[rows], ages[rows]
    groups = np.unique(group_numbers(subjects, len(latents))[rows], return_inverse=True)[1]
    number = groups.max() + 1 if len(rows) else 0
    # Four: two folds, of which each is split in two again for the penalty.
    if number < 4 or np.ptp(y) == 0:
        raise UserError(
            f"age: found {len(set(y.tolist()))} different ages of {number} subjects; expected "
            "different ages of four or more"
        )
    if folds < 2:
        raise UserError(f"folds: found {folds}; expected 2 or more")
    predicted, mean_age = _cross_validated(x, y, groups, min(folds, number), seed)
    weights = resample_weights(groups, draws, np.random.default_rng(seed))
    table = _age_table(y, predicted, mean_age, weights, level).assign(subjects=number)
    return AgeRegression(table, y, predicted, rows)


def _cross_validated(x, y, groups, folds, seed):
    """Predictions of each fold, and the mean of its training folds: float64 `(n,)` each."""
    predicted, mean = np.empty_like(y), np.empty_like(y)
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(x, y, groups):
        inner = GroupKFold(min(folds, len(np.unique(groups[train]))))
        search = GridSearchCV(
            make_pipeline(StandardScaler(), Ridge()),
            {"ridge__alpha": RIDGE_PENALTIES},
            scoring="neg_mean_squared_error",
            cv=inner,
        )
        predicted[test] = search.fit(x[train], y[train], groups=groups[train]).predict(x[test])
        mean[test] = y[train].mean()
    return predicted, mean


def _age_table(ages, predicted, mean_age, weights, level):
    """The table of `AgeRegression`, without the number of subjects."""
    error, square = np.abs(ages - predicted), (ages - predicted) ** 2
    total = weights.sum(axis=1)
    centre = weights @ ages / total
    variance = weights @ ages**2 / total - centre**2
    varied = variance > 1e-9  # a resample of one age alone has no R²
    resampled = {
        "mae": weights @ error / total,
        "r2": 1 - (weights @ square / total)[varied] / variance[varied],
    }
    values = {
        "mae": (error.mean(), np.abs(ages - mean_age).mean()),
        "r2": (r2_score(ages, predicted), r2_score(ages, mean_age)),
    }
    return pd.DataFrame(
        [
            (name, *map(float, (value, *interval(resampled[name], level), plain)), len(ages))
            for name, (value, plain) in values.items()
        ],
        columns=["measure", "value", "low", "high", "mean_age", "scans"],
    )


def interpolate(first, second, steps=7, *, spherical=False):
    """Latents between two, evenly spaced.

    Args:
        first: `(dim,)`.
        second: `(dim,)`.
        steps: int ≥ 2, both ends included. Default 7.
        spherical: True goes along a great circle (Shoemake 1985; White 2016, "Sampling generative
            networks", section 2.1). Gaussian latents of many dimensions all lie near a sphere, and
            the straight line leads through its middle, where there are none. Default False.

    Returns:
        float64 `(steps, dim)`.

    Raises:
        ValueError: the vectors are not of one shape, `steps` is below 2, or no single great circle
            joins them, since one is 0 or they are opposite.
    """
    first, second = np.asarray(first, "float64"), np.asarray(second, "float64")
    if first.ndim != 1 or first.shape != second.shape or steps < 2:
        raise ValueError(
            "first and second must be (dim,) and steps 2 or more. "
            f"Received: {first.shape}, {second.shape}, steps={steps}"
        )
    t = np.linspace(0.0, 1.0, steps)[:, None]
    if not spherical:
        return (1 - t) * first + t * second
    norms = np.linalg.norm(first), np.linalg.norm(second)
    if min(norms) == 0:
        raise ValueError("a vector of zeros has no direction. Received: norm 0")
    a, b = first / norms[0], second / norms[1]
    # From half chords: the arc cosine of a product near 1 or −1 loses half of the digits.
    angle = 2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))
    if np.pi - angle < _SAME_DIRECTION:
        raise ValueError("opposite vectors have no one great circle. Received: first = −c · second")
    if angle < _SAME_DIRECTION:
        return (1 - t) * first + t * second
    return (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle)


def traverse(base, dimensions, values=TRAVERSAL_VALUES):
    """Latents in which one dimension at a time takes other values.

    Args:
        base: `(dim,)`, such as zeros (the mean of the prior) or the latent of a scan.
        dimensions: `(k,)` ints from 0 to dim − 1.
        values: `(s,)`, what a dimension takes, in units of the latents. Default −3 to 3 in steps
            of 1.

    Returns:
        float64 `(k, s, dim)`.

    Raises:
        ValueError: `base` is no vector, or a dimension is not there.
    """
    base = np.asarray(base, "float64")
    dimensions, values = np.asarray(dimensions).ravel(), np.asarray(values, "float64").ravel()
    if (
        base.ndim != 1
        or dimensions.dtype.kind not in "iu"
        or np.any((dimensions < 0) | (dimensions >= base.size))
    ):
        raise ValueError(
            "base must be (dim,) and dimensions whole numbers from 0 to dim - 1. "
            f"Received: {base.shape} and {dimensions}"
        )
    latents = np.tile(base, (len(dimensions), len(values), 1))
    latents[np.arange(len(dimensions)), :, dimensions] = values
    return latents


def _class_numbers(train_labels, test_labels, classes):
    """Names of the classes, and the class numbers of training and test scans."""
    known = set(train_labels.tolist())
    classes = tuple(sorted(known)) if classes is None else tuple(map(str, classes))
    if len(known) < 2:
        raise UserError(f"classes: found only {', '.join(known)} in training; expected 2 or more")
    unknown = sorted((known | set(test_labels.tolist())) - (known & set(classes)))
    if unknown:
        raise UserError(
            f"classes: found {', '.join(unknown)}, which {'is' if len(unknown) == 1 else 'are'} "
            "not among the classes of the training scans and those asked for; expected "
            f"{', '.join(c for c in classes if c in known)}"
        )
    classes = tuple(name for name in classes if name in known)
    numbers = {name: i for i, name in enumerate(classes)}
    return classes, *(np.array([numbers[v] for v in x]) for x in (train_labels, test_labels))


def _fitted(train, y_train, test, balanced):
    """Probabilities of test scans, places of test and training scans, shares explained."""
    scale = StandardScaler().fit(train)
    count = y_train.max() + 1
    priors = np.full(count, 1 / count) if balanced else None
    few = UserError(
        f"classes: found {len(train)} training scans that do not differ within their {count} "
        "classes; expected two or more different scans of a class"
    )
    if np.bincount(y_train).max() < 2:
        raise few
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors)
    z_train, z_test = scale.transform(train), scale.transform(test)
    with warnings.catch_warnings():
        # Of classes with a single scan, whose part of the covariance is nothing.
        warnings.filterwarnings("ignore", "Only one sample available")
        model.fit(z_train, y_train)
    try:
        axes, explained = _axes(model)
    except np.linalg.LinAlgError:
        raise few from None
    places = [(z - model.priors_ @ model.means_) @ axes for z in (z_test, z_train)]
    return model.predict_proba(z_test), *places, explained


def _axes(model):
    """The first discriminant axes `(dim, c)` of a fitted model, and what each explains.

    Fisher's: the eigenvectors of the covariance between the class means, relative to the shrunk
    covariance within classes. The "eigen" solver of scikit-learn (1.9) takes for the former the
    difference of two covariances that were shrunk apart, whose first axes need not part classes.
    """
    count = min(COMPONENTS, len(model.classes_) - 1)
    between = np.sqrt(model.priors_)[:, None] * (model.means_ - model.priors_ @ model.means_)
    root = np.linalg.cholesky(model.covariance_)
    white = solve_triangular(root, between.T, lower=True)  # (dim, classes)
    vectors, values, _ = np.linalg.svd(white, full_matrices=False)
    axes = solve_triangular(root.T, vectors[:, :count])
    # An axis has no sign of its own: the class that lies farthest out is put on the positive side.
    far = between @ axes / np.sqrt(model.priors_)[:, None]
    far = far[np.abs(far).argmax(axis=0), np.arange(axes.shape[1])]
    share = values**2 / max(np.sum(values**2), 1e-300)
    return axes * np.where(far < 0, -1.0, 1.0), share[:count]


def _class_table(labels, p, classes, groups, weights, level, counted):
    table = class_table(labels, p, classes).rename(columns={"subjects": counted})
    assigned = p.argmax(axis=1)
    for measure, of in (("precision", assigned), ("recall", labels)):
        ends = []
        for value in range(len(classes)):
            hit, among = (assigned == value) & (labels == value), of == value
            if among.any() and (hit.sum() == 0 or hit.sum() == among.sum()):
                ends.append(_exact(hit.any(), len(np.unique(groups[among])), level))
            else:
                ends.append(interval(ratio(weights @ hit, weights @ among), level))
        table[f"{measure}_low"], table[f"{measure}_high"] = map(list, zip(*ends, strict=True))
    return table


def _exact(all_hit, subjects, level):
    """Interval of a share of 0 or 1 (Clopper and Pearson 1934): no resample differs from it."""
    bound = ((1 - level) / 2) ** (1 / subjects)
    return (bound, 1.0) if all_hit else (0.0, 1 - bound)


def _summary(labels, p, weights, level):
    """Measures over the classes that have test scans, with the intervals of the resamples."""
    present = np.unique(labels)
    right = p.argmax(axis=1) == labels

    def measures(weights):
        recalls = [
            ratio(weights @ (right & (labels == value)), weights @ (labels == value))
            for value in present
        ]
        areas = [
            class_measures(
                (labels == value).astype(int), np.stack([1 - q, q], axis=1)[None], weights
            )["auroc"]
            for value, q in ((value, p[:, value]) for value in present)
        ]
        return {
            "accuracy": weights @ right / weights.sum(axis=1),
            "balanced_accuracy": np.mean(recalls, axis=0),
            # With two classes, the area of one against the other is that of the other.
            "auroc": np.mean(areas, axis=0),
        }

    values, resampled = measures(np.ones((1, len(labels)))), measures(weights)
    chance = chance_level(labels)
    rows = [
        (name, float(value[0]), *interval(resampled[name], level), chance[name])
        for name, value in values.items()
    ]
    return pd.DataFrame(rows, columns=["measure", "value", "low", "high", "chance"])


def _one_class_each(groups, labels, subjects):
    pairs = sorted(set(zip(groups.tolist(), labels.tolist(), strict=True)))
    for (group, label), (other, second) in zip(pairs, pairs[1:], strict=False):
        if group == other:
            name = np.asarray(subjects).ravel()[np.flatnonzero(groups == group)[0]]
            raise UserError(f"subject {name}: found the classes {label} and {second}; expected one")


def _latents(x, name):
    x = np.asarray(x, "float64")
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ValueError(f"{name} must be (n, dim) and finite. Received: shape {x.shape}")
    return x
