"""The bias audit: can the scanner pass for the disease?

If patients and healthy people were scanned with other settings, a classifier may read the settings,
not the disease, and its figures mean nothing. The audit compares acquisition metadata between
classes, predicts the class from metadata alone and the metadata from latents, and puts its findings
into words.

The unit is the subject. Where a subject has several scans, those of its most frequent class count,
with their middle number or most frequent category, and their mean latents. Every p is from
permutations of the subjects (Good 2005), at least 1 / (permutations + 1), and corrected by Holm's
method (1979) for all tests of metadata against classes, and for all tests of latents against
metadata: in a cohort without any bias, an audit raises an alarm in at most one of twenty cases at
the default level. Silence is no proof: a small cohort hides much.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from brainvq.errors import UserError
from brainvq.evaluation.bootstrap import group_numbers
from brainvq.evaluation.classification import class_names, subject_folds
from brainvq.evaluation.metadata import (
    MetadataDesign,
    bin_numbers,
    checked_features,
    clean_table,
    common_categories,
    is_number,
)

LEAST_V = 0.1  # Cramér's V and
LEAST_AUROC = 0.55  # area of a small effect (Cohen 1988): d = 0.2 is 0.556
_BLOCK = 100  # permutations worked on at once


class Finding(NamedTuple):
    """One finding of the audit.

    Attributes:
        name: the test, short and fixed, such as "te differs".
        words: a sentence for a report.
        effect: size of the effect.
        measure: what `effect` is: "V" (Cramér's V, 0 to 1) or "AUROC" (0.5 to 1).
        p: corrected for the number of tests.
        alarm: True where the class is confounded with metadata. That the scanner can be predicted
            from latents is a finding without alarm: harmless where scanner and class are
            independent.
    """

    name: str
    words: str
    effect: float
    measure: str
    p: float
    alarm: bool


class Audit(NamedTuple):
    """What `bias_audit` returns.

    Attributes:
        findings: list of `Finding`, alarms first, then by falling effect; empty where none holds.
        alarm: True where one of them is an alarm.
        tests: `pandas.DataFrame`, a row per test: `test` (name of the finding it would be),
            `column`, `effect`, `measure`, `p` (of the test alone), `p_corrected`, `found`.
        predictions: `pandas.DataFrame`, rows as `predict_classes` gives them, with `features`
            ("metadata" or "latents") and `target` (the class or a column) before.
        subjects: int, how many were compared.
        notes: list of str, what was left out.
    """

    findings: list
    alarm: bool
    tests: pd.DataFrame
    predictions: pd.DataFrame
    subjects: int
    notes: list


def bias_audit(
    metadata,
    labels,
    subjects=None,
    *,
    latents=None,
    folds=5,
    permutations=1000,
    level=0.05,
    seed=0,
):
    """Compares acquisition metadata between classes and says what could pass for the disease.

    For every column: does it differ between classes (a χ² permutation test over its values or five
    quantile bins; Cramér's V, corrected for bias after Bergsma 2013), and is it unknown more often
    in one class? Of all columns together: do they predict the class (`predict_classes`)? With
    latents: do they predict each column? A test makes a finding where its corrected p is below
    `level` and its effect is not tiny (V ≥ 0.1, AUROC ≥ 0.55): in thousands of subjects, any
    difference is significant.

    Args:
        metadata: n rows, see `metadata`. Age and sex may be among the columns: a difference in them
            may pass for the disease as well.
        labels: `(n,)` classes.
        subjects: `(n,)`, the subject of each scan. Default: each is its own.
        latents: `(n, dim)`. Default: none, and only metadata are tested.
        folds: of the cross-validation, int ≥ 2; fewer where a class has fewer subjects. Default 5.
        permutations: int, more where the number of tests asks for a smaller p. Default 1000.
        level: p below which a finding is reported, in (0, 1). Default 0.05.
        seed: int. Default 0.

    Returns:
        `Audit`.

    Raises:
        UserError: there is no column, or there are fewer than two classes of two or more subjects.
        ValueError: arguments do not agree or are out of their range.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1). Received: level={level}")
    table = clean_table(metadata)
    x = None if latents is None else checked_features(latents, len(table))
    table, x, labels, notes = _per_subject(table, x, labels, subjects)
    varied, known, gaps = _columns_to_test(table, notes)
    predictable = known if x is not None else []
    count = max(len(known) + len(gaps) + bool(varied), len(predictable))
    # Holm's smallest threshold is level / tests: let the smallest p be half of that.
    permutations = max(int(permutations), int(np.ceil(2 * count / level)))
    tests = _column_tests(table, labels, known, gaps, permutations, np.random.default_rng(seed))
    options = {"folds": folds, "permutations": permutations, "seed": seed}
    predictions = []
    if varied:
        y = np.unique(labels, return_inverse=True)[1]
        scores = predict_classes(MetadataDesign().fit(table).transform(table), y, **options)
        predictions.append(scores.assign(features="metadata", target="class"))
        words = f"metadata alone tell the class of an unseen subject, {_accuracy_words(scores)}"
        tests.append(_Test("metadata tell class", "", *_area(scores), words))
    for name in predictable:
        _test_latents(name, table[name], x, options, tests, predictions, notes)
    return _concluded(tests, predictions, level, len(table), notes)


class _Test(NamedTuple):
    """A test of the audit, with the words of the finding it would be."""

    test: str
    column: str
    effect: float
    measure: str
    p: float
    words: str
    alarm: bool = True


def _columns_to_test(table, notes):
    """Names of the columns that vary at all, vary where known, and have gaps; the rest is noted."""
    varied = [name for name in table if table[name].nunique(dropna=False) > 1]
    for name in table.columns.difference(varied, sort=False):
        same = "unknown" if table[name].isna().all() else "the same"
        notes.append(f"{name}: {same} for all subjects")
    gaps = [name for name in varied if table[name].isna().any()]
    known = [name for name in varied if table[name].nunique() > 1]
    return varied, known, gaps


def _column_tests(table, labels, known, gaps, permutations, rng):
    """Whether columns differ between classes, then whether their gaps do: list of `_Test`."""
    classes, y = np.unique(labels, return_inverse=True)
    tests = []
    for name in known:
        values = bin_numbers(table[name])
        here = table[name].notna().to_numpy()
        v, p = _association(values[here], y[here], permutations, rng)
        words = f"{name} differs: {_difference(table[name][here], labels[here])}"
        tests.append(_Test(f"{name} differs", name, v, "V", p, words))
    for name in gaps:
        missing = table[name].isna().to_numpy()
        v, p = _association(missing.astype(int), y, permutations, rng)
        shares = _shares({c: np.mean(missing[labels == c]) for c in classes})
        words = f"{name} is unknown in {shares}"
        tests.append(_Test(f"{name} missing", name, v, "V", p, words))
    return tests


def predict_classes(features, labels, subjects=None, *, folds=5, permutations=1000, seed=0):
    """How well a linear model predicts classes from features, against chance, cross-validated.

    Ridge regression on the indicators of the classes, then the nearest class mean: a penalised
    discriminant analysis (Hastie, Buja and Tibshirani 1995) in which all classes weigh alike.
    Features are standardised by the training folds; the penalty is their number, as for a model
    that explains half of the variance. It is not tuned, so that a thousand permutations cost little
    more than one fit. The permutations exchange classes within the test folds (Ojala and Garriga
    2010, test 1), which leaves the size of every class in every fold as it is.

    Args:
        features: `(n, dim)`; NaN is not allowed.
        labels: `(n,)` classes.
        subjects: `(n,)`, the subject of each row; where some have several, they are reduced to one
            row, as the module says. Default: each is its own.
        folds: int ≥ 2; fewer where a class has fewer subjects. Default 5.
        permutations: int ≥ 1. Default 1000.
        seed: int. Default 0.

    Returns:
        `pandas.DataFrame`, a row for `balanced_accuracy` (mean over classes of the recall) and
        `auroc` (each class against the rest, mean over classes): `measure`, `value`, `chance`,
        `permuted_95` (95th percentile of the permutations), `p` (one-sided), `subjects`, `folds`.

    Raises:
        UserError: there is one class only, or a class of one subject.
        ValueError: arrays do not agree or are not finite.
    """
    x = checked_features(features, len(np.asarray(labels).ravel()))
    if subjects is not None:
        _, x, labels, _ = _per_subject(pd.DataFrame(index=range(len(x))), x, labels, subjects)
    names, y = np.unique(np.asarray(labels).ravel(), return_inverse=True)
    if permutations < 1:
        raise ValueError(f"`permutations` must be 1 or more. Received: {permutations}")
    dealt = subject_folds(np.arange(len(y)), y, folds, seed)
    rng = np.random.default_rng(seed)
    models = [_Fold(x, dealt.fold == fold) for fold in range(dealt.count)]
    values = []
    for start in range(-1, permutations, _BLOCK):
        number = min(_BLOCK, permutations - start)
        permuted = np.tile(y, (number, 1))
        for row in range(start == -1, number):  # the first of all is as it is
            for model in models:
                permuted[row, model.test] = rng.permutation(y[model.test])
        values.append(_scored(models, permuted, len(names)))
    values = np.concatenate(values, axis=1)  # (2, 1 + permutations)
    observed, permuted = values[:, :1], values[:, 1:]
    # Equal scores differ in their last digits when sums are taken in another order.
    p = (1 + (permuted >= observed - 1e-9).sum(axis=1)) / (1 + permutations)
    return pd.DataFrame(
        {
            "measure": ["balanced_accuracy", "auroc"],
            "value": observed[:, 0],
            "chance": [1 / len(names), 0.5],
            "permuted_95": np.quantile(permuted, 0.95, axis=1),
            "p": p,
            "subjects": len(y),
            "folds": dealt.count,
        }
    )


def _test_latents(name, column, x, options, tests, predictions, notes):
    """Adds the test whether latents predict a column, or a note why there is none."""
    values = bin_numbers(column)
    here = column.notna().to_numpy() & _repeated(values)
    if len(np.unique(values[here])) < 2:
        notes.append(f"{name}: too few subjects of each value to tell it from latents")
        return
    scores = predict_classes(x[here], values[here], **options)
    predictions.append(scores.assign(features="latents", target=name))
    words = f"latents tell {name} of an unseen subject, {_accuracy_words(scores)}"
    tests.append(_Test(f"latents tell {name}", name, *_area(scores), words, alarm=False))


class _Fold:
    """One fold of a ridge regression whose targets come later, many at once."""

    def __init__(self, x, test):
        self.test, self.train = np.flatnonzero(test), np.flatnonzero(~test)
        mean, spread = x[self.train].mean(axis=0), x[self.train].std(axis=0)
        # What is constant in training is left out.
        used = spread > 1e-9 * np.maximum(np.abs(mean), 1.0)
        train, test = (
            (x[rows][:, used] - mean[used]) / spread[used] for rows in (self.train, self.test)
        )
        # In the basis of the singular vectors, the inverse is a division.
        u, s, v = np.linalg.svd(train, full_matrices=False)
        full = s > 1e-9 * max(s.max(initial=0.0), 1e-300)
        self.inner = u[:, full] * s[full]  # (n_train, rank)
        self.outer = test @ v[full].T  # (n_test, rank)
        self.shrunk = 1 / (s[full] ** 2 + max(used.sum(), 1))

    def predict(self, labels, count):
        """Scores of the test rows, and the predicted class.

        Args:
            labels: class numbers `(b, n)`, b sets of labels.
            count: number of classes.

        Returns:
            float `(n_test, b, count)`, and int `(n_test, b)`.
        """
        targets = (labels[:, self.train, None] == np.arange(count)).astype("float64")  # (b, n, k)
        sums = np.einsum("nr,bnk->brk", self.inner, targets, optimize=True)
        weights = self.shrunk[:, None] * sums  # (b, rank, k)
        scores = np.einsum("nr,brk->nbk", self.outer, weights, optimize=True)
        # Mean score of each true class c: (b, c, k).
        centres = np.einsum("brc,brk->bck", sums, weights, optimize=True)
        centres /= np.maximum(targets.sum(axis=1), 1)[:, :, None]
        # |s − m|² without |s|².
        distance = (centres**2).sum(axis=2) - 2 * np.einsum(
            "nbk,bck->nbc", scores, centres, optimize=True
        )
        return scores, distance.argmin(axis=2)


def _scored(models, labels, count):
    """Balanced accuracy and area under the curve of each set of labels: `(2, b)`."""
    b, n = labels.shape
    scores, predicted = np.zeros((n, b, count)), np.zeros((n, b), int)
    for model in models:
        scores[model.test], predicted[model.test] = model.predict(labels, count)
    truth = labels.T
    recalls, areas = [], []
    for value in range(count):
        of_class = truth == value
        size = of_class.sum(axis=0)
        recalls.append((of_class & (predicted == value)).sum(axis=0) / size)
        # Sums of other orders differ in their last digits: ties must stay ties.
        ranks = rankdata(np.round(scores[:, :, value], 9), axis=0)
        won = (ranks * of_class).sum(axis=0) - size * (size + 1) / 2
        areas.append(won / (size * (n - size)))
    return np.array([np.mean(recalls, axis=0), np.mean(areas, axis=0)])


def _association(values, labels, permutations, rng):
    """Cramér's V, corrected for bias (Bergsma 2013), and p of χ² by permutation."""
    rows, values = np.unique(values, return_inverse=True)
    columns, labels = np.unique(labels, return_inverse=True)
    n, r, k = len(values), len(rows), len(columns)
    if min(r, k) < 2:
        return 0.0, 1.0
    one_hot = (values[:, None] == np.arange(r)).astype("float64")
    expected = np.outer(one_hot.sum(axis=0), np.bincount(labels)) / n

    def chi_squared(labels):  # (b, n) -> (b,)
        targets = (labels[:, :, None] == np.arange(k)).astype("float64")
        counts = np.einsum("nr,bnk->brk", one_hot, targets, optimize=True)
        return ((counts - expected) ** 2 / expected).sum(axis=(1, 2))

    observed = float(chi_squared(labels[None])[0])
    reached = 0
    for start in range(0, permutations, _BLOCK):
        drawn = np.tile(labels, (min(_BLOCK, permutations - start), 1))
        reached += int((chi_squared(rng.permuted(drawn, axis=1)) >= observed - 1e-9).sum())
    square = max(0.0, observed / n - (r - 1) * (k - 1) / (n - 1))
    least = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    v = min(np.sqrt(square / least), 1.0) if least > 0 else 0.0
    return float(v), (1 + reached) / (1 + permutations)


def _concluded(tests, predictions, level, subjects, notes):
    """The `Audit` of tests and tables of `predict_classes`."""
    table = pd.DataFrame(tests, columns=_Test._fields)
    family = table["alarm"].astype(bool)
    table["p_corrected"] = table["p"].astype("float64").groupby(family).transform(_holm)
    number = family.map(family.value_counts())
    least = table["measure"].map({"V": LEAST_V, "AUROC": LEAST_AUROC})
    table["found"] = (table["p_corrected"] < level) & (table["effect"] >= least)
    findings = [
        Finding(
            row.test,
            f"{row.words} ({_NAMES[row.measure]} {row.effect:.2f}, {_p_words(row.p_corrected)} "
            f"after correction for the number of tests, {number[row.Index]})",
            row.effect,
            row.measure,
            row.p_corrected,
            bool(row.alarm),
        )
        for row in table[table["found"]].itertuples()
    ]
    # An area of 0.5 is no effect, as a V of 0 is.
    findings.sort(
        key=lambda f: (not f.alarm, -(f.effect if f.measure == "V" else 2 * f.effect - 1))
    )
    names = ["features", "target", "measure", "value", "chance", "permuted_95", "p"]
    predictions = (
        pd.concat(predictions, ignore_index=True) if predictions else pd.DataFrame(columns=names)
    )
    return Audit(
        findings,
        any(finding.alarm for finding in findings),
        table[["test", "column", "effect", "measure", "p", "p_corrected", "found"]],
        predictions[[*names, *(c for c in predictions if c not in names)]],
        subjects,
        notes,
    )


_NAMES = {"V": "Cramér's V", "AUROC": "AUROC"}


def _holm(p):
    """p corrected for their number (Holm 1979)."""
    p = np.asarray(p)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _p_words(p):
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def _area(scores):
    """Effect, measure and p of a `_Test`, of a table of `predict_classes`."""
    row = scores.set_index("measure").loc["auroc"]
    return float(row["value"]), "AUROC", float(row["p"])


def _accuracy_words(scores):
    row = scores.set_index("measure").loc["balanced_accuracy"]
    return f"balanced accuracy {row['value']:.2f} where chance is {row['chance']:.2f}"


def _difference(column, labels):
    """How a column differs, in words."""
    classes = np.unique(labels)
    if is_number(column):
        spans = {c: column[labels == c].quantile([0.25, 0.5, 0.75]).tolist() for c in classes}
        return ", ".join(
            f"median {mid:.3g} (middle half {low:.3g} to {high:.3g}) in {c}"
            for c, (low, mid, high) in spans.items()
        )
    shares = pd.crosstab(common_categories(column), labels, normalize="columns")
    widest = (shares.max(axis=1) - shares.min(axis=1)).idxmax()
    return f"{widest} for " + _shares(shares.loc[widest])


def _shares(shares):
    return ", ".join(f"{100 * share:.0f} % of {name}" for name, share in shares.items())


def _per_subject(table, x, labels, subjects):
    """One row per subject; classes of a single subject are left out."""
    labels = class_names(labels, len(table))
    notes = []
    if subjects is not None:
        groups = group_numbers(np.asarray(subjects).astype(str), len(table))
        number = groups.max() + 1
        classes, y = np.unique(labels, return_inverse=True)
        counts = np.zeros((number, len(classes)), int)
        np.add.at(counts, (groups, y), 1)
        main = counts.argmax(axis=1)
        usual = y == main[groups]
        if not usual.all():
            notes.append(f"{(~usual).sum()} scans of another class than most of their subject's")
        table, groups = table[usual], groups[usual]
        table = pd.DataFrame(
            {name: table[name].groupby(groups).agg(_middle) for name in table},
            index=range(number),
        )
        if x is not None:
            sums = np.zeros((number, x.shape[1]))
            np.add.at(sums, groups, x[usual])
            x = sums / np.bincount(groups)[:, None]
        labels = classes[main]
    enough = _repeated(labels)
    if not enough.all():
        lone = np.unique(labels[~enough]).tolist()
        notes.append(f"classes of one subject: {', '.join(lone)}")
    table, labels = table[enough].reset_index(drop=True), labels[enough]
    x = None if x is None else x[enough]
    if len(np.unique(labels)) < 2:
        raise UserError(
            f"classes: found {len(np.unique(labels))} of two or more subjects; expected two or more"
        )
    return table, x, labels, notes


def _middle(column):
    """The middle number or the most frequent category of a subject's scans."""
    known = column.dropna()
    if known.empty:
        return np.nan if is_number(column) else None
    if is_number(column):
        return known.quantile(0.5, interpolation="lower")  # one that occurs
    return known.mode().iloc[0]


def _repeated(values):
    """Where a value occurs twice or more."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[which] > 1
