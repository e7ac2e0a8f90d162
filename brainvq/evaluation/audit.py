"""The bias audit: can the scanner pass for the disease?

If patients and healthy people were scanned with other settings, a classifier may read the settings,
not the disease, and its figures mean nothing. The audit compares acquisition metadata between
classes, tries to tell the class from metadata alone, and the metadata from latents, and says in
words what it found.

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
from brainvq.evaluation.classification import subject_folds

MOST_VALUES = 8  # numbers of no more different values are compared value by value
BINS = 5
MOST_CATEGORIES = 20  # the rest count as one
OTHER, UNKNOWN = "other", "unknown"
LEAST_V = 0.1  # Cramér's V and
LEAST_AUROC = 0.55  # area of a small effect (Cohen 1988): d = 0.2 is 0.556
_BLOCK = 100  # permutations worked on at once


class Histogram(NamedTuple):
    """A column of metadata by class.

    Attributes:
        edges: float `(bins + 1,)` for numbers, None for categories.
        values: categories in falling frequency; None for numbers.
        counts: dict of class to int `(bins,)` or `(categories,)`, scans.
        unknown: dict of class to int, scans without a value.
    """

    edges: np.ndarray | None
    values: tuple | None
    counts: dict
    unknown: dict


class Finding(NamedTuple):
    """One thing that the audit found.

    Attributes:
        name: short and fixed for what was tested, such as "te differs".
        words: a sentence for a report.
        effect: size of the effect.
        measure: what `effect` is: "V" (Cramér's V, 0 to 1) or "AUROC" (0.5 to 1).
        p: corrected for the number of tests.
        alarm: True where the class is bound up with metadata. That latents tell the scanner is a
            finding without alarm: harmless where scanner and class have nothing to do with one
            another.
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
        notes: list of str: what was left out.
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
    in one class? Of all columns together: do they tell the class (`predict_classes`)? With latents:
    do they tell each column? A test makes a finding where its corrected p is below `level` and its
    effect is not tiny (V ≥ 0.1, AUROC ≥ 0.55): in thousands of subjects, any difference is
    significant.

    Args:
        metadata: `pandas.DataFrame` or dict of columns, a row per scan: numbers (NaN for unknown)
            and categories (None, NaN or "" for unknown), such as `tr`, `te`, `pixel_bandwidth`,
            `site`, `manufacturer`. Age and sex may be among them: what differs in them may pass
            for the disease as well.
        labels: n classes.
        subjects: the subject of each scan. Default: each is its own.
        latents: `(n, dim)`, or None.
        folds: of the cross-validation, int ≥ 2; fewer where a class has fewer subjects.
        permutations: int. More are made where the number of tests asks for a smaller p.
        level: p below which a finding is reported, in (0, 1). Default 0.05.
        seed: int.

    Returns:
        `Audit`.

    Raises:
        UserError: there is no column, or there are fewer than two classes of two or more subjects.
        ValueError: arguments do not agree or are out of their range.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1). Received: level={level}")
    table = _table(metadata)
    x = None if latents is None else _numbers(latents, len(table))
    table, x, labels, notes = _per_subject(table, x, labels, subjects)
    varied = [name for name in table if table[name].nunique(dropna=False) > 1]
    for name in table.columns.difference(varied, sort=False):
        same = "unknown" if table[name].isna().all() else "the same"
        notes.append(f"{name}: {same} for all subjects")
    gaps = [name for name in varied if table[name].isna().any()]
    known = [name for name in varied if table[name].nunique() > 1]
    told = known if x is not None else []
    count = max(len(known) + len(gaps) + bool(varied), len(told))
    # Holm's smallest threshold is level / tests: let the smallest p be half of that.
    permutations = max(int(permutations), int(np.ceil(2 * count / level)))
    classes, y = np.unique(labels, return_inverse=True)
    rng = np.random.default_rng(seed)
    tests, rows = [], []
    for name in known:
        values = _binned(table[name])
        here = table[name].notna().to_numpy()
        v, p = _association(values[here], y[here], permutations, rng)
        words = _difference(table[name][here], labels[here])
        tests.append((f"{name} differs", name, v, "V", p, f"{name} differs: {words}", True))
    for name in gaps:
        missing = table[name].isna().to_numpy()
        v, p = _association(missing.astype(int), y, permutations, rng)
        words = "unknown in " + _shares({c: np.mean(missing[labels == c]) for c in classes})
        tests.append((f"{name} missing", name, v, "V", p, f"{name} is {words}", True))
    options = {"folds": folds, "permutations": permutations, "seed": seed}
    if varied:
        found = predict_classes(MetadataDesign().fit(table).transform(table), y, **options)
        rows.append(found.assign(features="metadata", target="class"))
        area, p = _area(found)
        words = f"metadata alone tell the class of an unseen subject, {_scores(found)}"
        tests.append(("metadata tell class", "", area, "AUROC", p, words, True))
    for name in told:
        values = _binned(table[name])
        here = table[name].notna().to_numpy() & _repeated(values)
        if len(np.unique(values[here])) < 2:
            notes.append(f"{name}: too few subjects of each value to tell it from latents")
            continue
        found = predict_classes(x[here], values[here], **options)
        rows.append(found.assign(features="latents", target=name))
        area, p = _area(found)
        words = f"latents tell {name} of an unseen subject, {_scores(found)}"
        tests.append((f"latents tell {name}", name, area, "AUROC", p, words, False))
    return _concluded(tests, rows, level, len(table), notes)


def predict_classes(features, labels, subjects=None, *, folds=5, permutations=1000, seed=0):
    """How well a linear model tells classes from features, against chance, cross-validated.

    Ridge regression on the indicators of the classes, then the nearest class mean: a penalised
    discriminant analysis (Hastie, Buja and Tibshirani 1995) in which all classes weigh alike.
    Features are standardised by the training folds; the penalty is their number, as for a model
    that explains half of the variance. It is not tuned, so that a thousand permutations cost little
    more than one fit. The permutations exchange classes within the test folds (Ojala and Garriga
    2010, test 1), which leaves the size of every class in every fold as it is.

    Args:
        features: `(n, dim)`; NaN is not allowed.
        labels: n classes.
        subjects: the subject of each row; where some have several, they are reduced to one row, as
            the module says. Default: each is its own.
        folds: int ≥ 2; fewer where a class has fewer subjects.
        permutations: int ≥ 1.
        seed: int.

    Returns:
        `pandas.DataFrame`, a row for `balanced_accuracy` (mean over classes of the share found) and
        `auroc` (each class against the rest, mean over classes): `measure`, `value`, `chance`,
        `permuted_95` (95th percentile of the permutations), `p` (one-sided), `subjects`, `folds`.

    Raises:
        UserError: there is one class only, or a class of one subject.
        ValueError: arrays do not agree or are not finite.
    """
    x = _numbers(features, len(np.asarray(labels).ravel()))
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
        given = np.tile(y, (number, 1))
        for row in range(start == -1, number):  # the first of all is as it is
            for model in models:
                given[row, model.test] = rng.permutation(y[model.test])
        values.append(_scored(models, given, len(names)))
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


class MetadataDesign:
    """Metadata as numbers for a linear model.

    A number becomes itself, standardised, and one indicator for each of its values, or for each of
    five quantile bins where it has more than eight: a TE between two others need not act like
    something between them. A category becomes indicators of its values, the rarest beyond 20 as
    one. Unknown has an indicator of its own; a value that `fit` never saw has none.
    """

    def fit(self, metadata):
        """Finds values, bins, means and deviations of `metadata`, see `bias_audit`.

        Returns:
            This object.
        """
        self._columns = {}
        for name, column in _table(metadata).items():
            cuts = _cuts(column)
            _, places = _placed(column, cuts)
            spread = (0.0, 1.0)
            if _is_number(column) and column.notna().any():
                spread = float(column.mean()), float(column.std(ddof=0)) or 1.0
            levels = sorted(set(places.tolist()))
            self._columns[name] = (cuts, levels, spread)
        return self

    def transform(self, metadata):
        """The numbers: float64 `(n, dim)`.

        Raises:
            UserError: a column is missing.
        """
        table, parts = _table(metadata), []
        missing = [name for name in self._columns if name not in table]
        if missing:
            raise UserError(
                f"metadata: found no column {missing[0]!r}; expected {', '.join(self._columns)}"
            )
        for name, (cuts, levels, (mean, deviation)) in self._columns.items():
            column, places = _placed(table[name], cuts)
            parts += [places == level for level in levels]
            if _is_number(column):
                parts.append(((column - mean) / deviation).fillna(0.0).to_numpy())
        return np.stack(parts, axis=1).astype("float64")


def remove_metadata(train, train_metadata, test, test_metadata, *, penalty=1.0):
    """Latents without what metadata explain of them, fitted on training scans alone.

    Ridge regression of each latent on `MetadataDesign`; what is left is returned. Fitting it on all
    scans would let the test in (Snoek, Miletić and Scholte 2019, "How to control for confounds in
    decoding analyses of neuroimaging data"). Everything goes that metadata could explain: where the
    scanner is bound up with the disease, much of the disease as well. So if classes are still told
    apart by what is left, that is not the (linear) doing of metadata; if not, nothing is proved.

    Args:
        train: latents `(n, dim)` of training scans.
        train_metadata: their n rows, see `bias_audit`.
        test: latents `(m, dim)` of test scans.
        test_metadata: their m rows.
        penalty: of the ridge regression, 0 or more. Default 1, as of one scan.

    Returns:
        The rest of `train`, the rest of `test`, and the share of the test scans' variance that
        metadata explain, over all latents together (1 − squares of the rest / squares of the
        distance from the training mean); below 0 where the regression did not carry over.

    Raises:
        ValueError: arrays do not agree or are not finite.
    """
    train_table, test_table = _table(train_metadata), _table(test_metadata)
    train, test = _numbers(train, len(train_table)), _numbers(test, len(test_table))
    design = MetadataDesign().fit(train_table)
    a, b = design.transform(train_table), design.transform(test_table)
    centre, mean = a.mean(axis=0), train.mean(axis=0)
    a, b = a - centre, b - centre
    # Columns such as scanner and site say the same twice: the penalty shares it out between them.
    gram = a.T @ a + penalty * np.eye(a.shape[1])
    weights = np.linalg.lstsq(gram, a.T @ (train - mean), rcond=None)[0]
    left = train - mean - a @ weights, test - mean - b @ weights
    squares = np.sum((test - mean) ** 2)
    explained = float(1 - np.sum(left[1] ** 2) / squares) if squares > 0 else np.nan
    return *left, explained


def metadata_tables(metadata, labels):
    """Numbers and categories of the acquisition in each class, counted by scan.

    Args:
        metadata: a row per scan, see `bias_audit`.
        labels: n classes.

    Returns:
        Two `pandas.DataFrame`. Of numbers, a row per column and class: `column`, `class`, `scans`,
        `known`, `mean`, `sd`, `median`, `min`, `max`, `different` (values). Of categories, a row
        per column, value and class: `column`, `value` ("unknown" for none), `class`, `scans`,
        `share` of the class.

    Raises:
        ValueError: labels and rows are not equally many.
    """
    table, labels = _table(metadata), _labels(labels, len(metadata))
    numbers, shares = [], []
    for name, column in table.items():
        for value in np.unique(labels):
            here = column[labels == value]
            if _is_number(column):
                known = here.dropna()
                numbers.append(
                    {
                        "column": name,
                        "class": value,
                        "scans": len(here),
                        "known": len(known),
                        "mean": known.mean(),
                        "sd": known.std(ddof=1),
                        "median": known.median(),
                        "min": known.min(),
                        "max": known.max(),
                        "different": known.nunique(),
                    }
                )
        if not _is_number(column):
            filled = column.fillna(UNKNOWN).astype(str)
            for category in filled.value_counts().index:
                for value in np.unique(labels):
                    here = filled[labels == value]
                    scans = int((here == category).sum())
                    shares.append((name, category, value, scans, scans / len(here)))
    measures = ["scans", "known", "mean", "sd", "median", "min", "max", "different"]
    return (
        pd.DataFrame(numbers, columns=["column", "class", *measures]),
        pd.DataFrame(shares, columns=["column", "value", "class", "scans", "share"]),
    )


def metadata_histograms(metadata, labels, *, bins=24):
    """Histograms of every column by class, counted by scan, with the same bins for all classes.

    Args:
        metadata: a row per scan, see `bias_audit`.
        labels: n classes.
        bins: int ≥ 1, of numbers.

    Returns:
        dict of column to `Histogram`. The rarest categories beyond 20 count as "other".

    Raises:
        ValueError: labels and rows are not equally many.
    """
    table, labels = _table(metadata), _labels(labels, len(metadata))
    found = {}
    for name, column in table.items():
        parts = {str(value): column[labels == value] for value in np.unique(labels)}
        unknown = {value: int(part.isna().sum()) for value, part in parts.items()}
        if _is_number(column):
            known = column.dropna().to_numpy("float64")
            edges = np.histogram_bin_edges(known, bins) if len(known) else np.array([0.0, 1.0])
            counts = {
                value: np.histogram(part.dropna().to_numpy("float64"), edges)[0]
                for value, part in parts.items()
            }
            found[name] = Histogram(edges, None, counts, unknown)
        else:
            merged = _merged(column)
            values = tuple(merged.value_counts().index)
            counts = {
                value: merged[labels == value].value_counts().reindex(values, fill_value=0)
                for value in parts
            }
            counts = {value: part.to_numpy() for value, part in counts.items()}
            found[name] = Histogram(None, values, counts, unknown)
    return found


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
        kept = s > 1e-9 * max(s.max(initial=0.0), 1e-300)
        self.inner = u[:, kept] * s[kept]  # (n_train, rank)
        self.outer = test @ v[kept].T  # (n_test, rank)
        self.shrunk = 1 / (s[kept] ** 2 + max(used.sum(), 1))

    def predict(self, given, count):
        """Scores of the test rows, and the class found.

        Args:
            given: class numbers `(b, n)`, b sets of labels.
            count: number of classes.

        Returns:
            float `(n_test, b, count)`, and int `(n_test, b)`.
        """
        targets = (given[:, self.train, None] == np.arange(count)).astype("float64")  # (b, n, k)
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


def _scored(models, given, count):
    """Balanced accuracy and area under the curve of each set of labels: `(2, b)`."""
    b, n = given.shape
    scores, found = np.zeros((n, b, count)), np.zeros((n, b), int)
    for model in models:
        scores[model.test], found[model.test] = model.predict(given, count)
    truth = given.T
    recalls, areas = [], []
    for value in range(count):
        of_class = truth == value
        size = of_class.sum(axis=0)
        recalls.append((of_class & (found == value)).sum(axis=0) / size)
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


def _concluded(tests, rows, level, subjects, notes):
    columns = ["test", "column", "effect", "measure", "p", "words", "alarm"]
    table = pd.DataFrame(tests, columns=columns)
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
    predictions = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=names)
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


def _area(found):
    row = found.set_index("measure").loc["auroc"]
    return float(row["value"]), float(row["p"])


def _scores(found):
    value = found.set_index("measure").loc["balanced_accuracy"]
    return f"balanced accuracy {value['value']:.2f} where chance is {value['chance']:.2f}"


def _difference(column, labels):
    """How a column differs, in words."""
    classes = np.unique(labels)
    if _is_number(column):
        spans = {c: column[labels == c].quantile([0.25, 0.5, 0.75]).tolist() for c in classes}
        return ", ".join(
            f"median {mid:.3g} (middle half {low:.3g} to {high:.3g}) in {c}"
            for c, (low, mid, high) in spans.items()
        )
    shares = pd.crosstab(_merged(column), labels, normalize="columns")
    widest = (shares.max(axis=1) - shares.min(axis=1)).idxmax()
    return f"{widest} for " + _shares(shares.loc[widest])


def _shares(shares):
    return ", ".join(f"{100 * share:.0f} % of {name}" for name, share in shares.items())


def _per_subject(table, x, labels, subjects):
    """One row per subject; classes of a single subject are left out."""
    labels = _labels(labels, len(table))
    notes = []
    if subjects is not None:
        subjects = np.asarray(subjects).ravel().astype(str)
        if len(subjects) != len(table):
            raise ValueError(
                f"one subject per scan is needed. Received: {len(subjects)} for {len(table)} scans"
            )
        names, groups = np.unique(subjects, return_inverse=True)
        classes, y = np.unique(labels, return_inverse=True)
        counts = np.zeros((len(names), len(classes)), int)
        np.add.at(counts, (groups, y), 1)
        main = counts.argmax(axis=1)
        kept = y == main[groups]
        if not kept.all():
            notes.append(f"{(~kept).sum()} scans of another class than most of their subject's")
        table, groups = table[kept], groups[kept]
        table = pd.DataFrame(
            {name: table[name].groupby(groups).agg(_middle) for name in table},
            index=range(len(names)),
        )
        if x is not None:
            sums = np.zeros((len(names), x.shape[1]))
            np.add.at(sums, groups, x[kept])
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
        return np.nan if _is_number(column) else None
    if _is_number(column):
        return known.quantile(0.5, interpolation="lower")  # one that occurs
    return known.mode().iloc[0]


def _repeated(values):
    """Where a value occurs twice or more."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[which] > 1


def _binned(column):
    """Numbers of the categories or bins of a column, int `(n,)`."""
    return np.unique(_placed(column, _cuts(column))[1], return_inverse=True)[1]


def _cuts(column):
    """What sorts a column: inner edges of bins, or the values that count alone."""
    if not _is_number(column):
        return tuple(_merged(column).dropna().unique())
    known = np.sort(column.dropna().unique().astype("float64"))
    if len(known) <= MOST_VALUES:
        return (known[1:] + known[:-1]) / 2
    quantiles = np.linspace(0, 1, BINS + 1)[1:-1]
    return np.unique(column.dropna().quantile(quantiles).to_numpy("float64"))


def _placed(column, cuts):
    """A column and the name or number of the bin of each row, as text."""
    known = column.notna().to_numpy()
    places = np.full(len(column), UNKNOWN, object)
    if isinstance(cuts, tuple):
        names = column.astype(object).where(column.isin(cuts), OTHER)
        places[known] = [f"={name}" for name in names[known]]
    else:
        column = pd.to_numeric(column, errors="coerce")
        places[known] = [f"#{i}" for i in np.searchsorted(cuts, column[known].to_numpy("float64"))]
    return column, places.astype(str)


def _merged(column):
    """A column of categories whose rarest beyond 20 are one."""
    often = column.value_counts().index[:MOST_CATEGORIES]
    return column.where(column.isna() | column.isin(often), OTHER)


def _is_number(column):
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _table(metadata):
    """The columns as floats or texts, NaN or None where unknown."""
    table = pd.DataFrame(metadata).reset_index(drop=True)
    if table.shape[1] == 0:
        raise UserError("metadata: found no columns; expected one or more, such as te or site")
    clean = {}
    for name, column in table.items():
        if _is_number(column):
            values = column.astype("float64")
            clean[str(name)] = values.where(np.isfinite(values))
        else:
            unknown = column.isna() | (column.astype(str).str.strip() == "")
            clean[str(name)] = column.astype(str).where(~unknown, None)
    return pd.DataFrame(clean)


def _labels(labels, count):
    labels = np.asarray(labels).ravel().astype(str)
    if len(labels) != count:
        raise ValueError(f"one class per scan is needed. Received: {len(labels)} for {count} scans")
    return labels


def _numbers(x, count):
    x = np.asarray(x, "float64")
    if x.ndim != 2 or len(x) != count or not np.isfinite(x).all():
        raise ValueError(f"features must be ({count}, dim) and finite. Received: shape {x.shape}")
    return x
