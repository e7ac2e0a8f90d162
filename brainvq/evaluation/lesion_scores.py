"""How well scores of anomaly find lesions, subject by subject and pooled over a cohort.

Lesions are rare: 1 % of the brain, often less. A score that is right on 99 % of all voxels may then
be worthless, so besides the area under the ROC curve there is average precision, whose value for
blind guessing is the share of lesion voxels (`prevalence`), and the Dice coefficient.
"""

import numpy as np
import pandas as pd

from brainvq.errors import UserError

MEASURES = ("auroc", "average_precision", "best_dice", "dice")
# Bins of the pooled histograms: floats from 2^-24 to 2^8, each power of two in 2^14 parts.
_LOWEST, _OCTAVES, _PARTS = -24, 32, 14
_BINS = 1 + _OCTAVES * 2**_PARTS
_CURVE_STEP = 1.02  # ratio of flagged voxels between two stored points of a subject's curve


class LesionScores:
    """How well scores find lesions, subject by subject and pooled, without keeping any voxel.

    What a subject gives is exact: its voxels are sorted once. Pooled over all subjects, voxels are
    counted in a fixed histogram of 524,289 bins for each method: zero, and every power of two from
    2^-24 to 2^8 cut into 2^14 parts, so that two scores share a bin only if they differ by less
    than one part in 16,384 (scores beyond the ends are moved to the ends). Voxels of one bin count
    as tied. `pooled` states how much the order within bins could change AUROC and average
    precision at most: 8 MB a method, whatever the size of the cohort.

    Voxels count where `foreground` or the lesion mask is True: a lesion that the brain area misses
    counts as missed. Subjects without lesion have no measure of their own, but their false alarms
    count in the pooled ones.

    Args:
        thresholds: dict of method to the one threshold at which `dice` is taken for all subjects,
            from other data (`anomaly.healthy_thresholds`). Without it, and for methods that it
            leaves out, the threshold of the best pooled Dice is used, which is optimistic; a
            subject's Dice there is read off its stored curve, exact to 2 %.
    """

    def __init__(self, thresholds=None):
        self.thresholds = dict(thresholds or {})
        self.methods = []
        self._subjects = []
        self._pooled = {}

    def add(self, subject, scores, mask, foreground, voxel_ml=np.nan):
        """Counts one subject.

        Args:
            subject: its name, new to this object.
            scores: dict of method to float array of any shape, 0 or more; the same methods each
                time.
            mask: bool of that shape, the lesions; all False for a healthy subject.
            foreground: bool of that shape, the brain.
            voxel_ml: volume of a voxel in mL, for the volumes of the table. Default: not known.

        Returns:
            This object.

        Raises:
            UserError: the subject was added already, a mask does not fit or a score is negative or
                not finite.
            ValueError: there are other methods than before.
        """
        if any(row["subject"] == subject for row in self._subjects):
            raise UserError(f"{subject}: added twice; expected each subject once")
        if self.methods and list(scores) != self.methods:
            raise ValueError(f"Expected the methods {self.methods}. Received: {list(scores)}")
        mask, foreground = np.asarray(mask).astype(bool), np.asarray(foreground).astype(bool)
        counted = mask | foreground
        if not counted.any():
            raise UserError(f"{subject}: the brain area is empty; expected some voxels")
        truth = mask[counted]
        checked = {}
        for name, score in scores.items():
            score = np.asarray(score)
            if score.shape != mask.shape or score.shape != foreground.shape:
                raise UserError(
                    f"{subject}: lesion mask of {mask.shape} and brain area of {foreground.shape}; "
                    f"expected those of the {name} score, {score.shape}"
                )
            values = score[counted].astype("float32")
            if not (np.isfinite(values).all() and values.min() >= 0):
                raise UserError(f"{subject}: {name} score is not finite or below 0; expected 0 up")
            checked[name] = values
        self.methods = list(scores)
        row = {
            "subject": subject,
            "voxels": int(counted.sum()),
            "lesion": int(truth.sum()),
            "voxel_ml": float(voxel_ml),
            "curves": {},
            "measures": {},
        }
        for name, values in checked.items():
            bins = _bin(values)
            pooled = self._pooled.setdefault(name, np.zeros((2, _BINS), "int64"))
            for label in (0, 1):
                pooled[label] += np.bincount(bins[truth == label], minlength=_BINS)
            value, positives, negatives = _grouped(values, truth)
            row["curves"][name] = self._curve(name, value, positives, negatives)
            row["measures"][name] = curve_measures(positives, negatives)
        self._subjects.append(row)
        return self

    def table(self):
        """The measures of each subject and method.

        Returns:
            `pandas.DataFrame`: `subject`, `method`, `auroc`, `average_precision`, `best_dice` (at
            the subject's own best threshold: an upper bound), `dice` (at the common threshold),
            `flagged_ml` (volume above the common threshold), `lesion_ml`, `prevalence` (the average
            precision of chance). Measures of subjects without lesion are NaN.
        """
        thresholds = self.common_thresholds()
        rows = []
        for row in self._subjects:
            for name in self.methods:
                positives, flagged = _read_off(row["curves"][name], thresholds[name])
                total = flagged + row["lesion"]
                rows.append(
                    {
                        "subject": row["subject"],
                        "method": name,
                        **row["measures"][name],
                        "dice": 2 * positives / total if row["lesion"] else np.nan,
                        "flagged_ml": flagged * row["voxel_ml"],
                        "lesion_ml": row["lesion"] * row["voxel_ml"],
                        "prevalence": row["lesion"] / row["voxels"],
                    }
                )
        columns = ["subject", "method", *MEASURES, "flagged_ml", "lesion_ml", "prevalence"]
        return pd.DataFrame(rows, columns=columns)

    def pooled(self):
        """The measures over the voxels of all subjects together.

        Returns:
            `pandas.DataFrame`, a row per method: `method`, `auroc`, `average_precision`,
            `best_dice`, `threshold` (of the best Dice), `prevalence`, and `auroc_within` and
            `average_precision_within`: the exact values differ by no more than this.
        """
        rows = []
        for name in self.methods:
            negatives, positives = self._pooled[name][:, ::-1]
            measures = curve_measures(positives, negatives)
            total = positives.sum()
            rows.append(
                {
                    "method": name,
                    **measures,
                    "threshold": self._best_threshold(name),
                    "prevalence": total / (total + negatives.sum()),
                    "auroc_within": _auroc_bound(positives, negatives),
                    "average_precision_within": _precision_bound(
                        positives, negatives, measures["average_precision"]
                    ),
                }
            )
        return pd.DataFrame(rows)

    def summary(self, bootstrap=2000, confidence=0.95, seed=0):
        """Mean and deviation over subjects with lesions, beside the pooled measures.

        Args:
            bootstrap: resamples of the subjects for the percentile interval of the mean; 0 gives
                none. Default 2000.
            confidence: coverage of that interval, in (0, 1). Default 0.95.
            seed: int. Default 0.

        Returns:
            `pandas.DataFrame`, a row per method: for each of `auroc`, `average_precision`,
            `best_dice` and `dice` the columns `<measure>` (mean), `<measure>_sd`, `<measure>_low`
            and `<measure>_high`; `n`, the subjects with lesions; and `pooled_<measure>` for the
            first three.
        """
        table, pooled = self.table(), self.pooled()
        rows = []
        for i, name in enumerate(self.methods):
            own = table[table["method"] == name].dropna(subset=["average_precision"])
            row = {"method": name, "n": len(own)}
            for measure in MEASURES:
                row |= _spread(own[measure].to_numpy(), measure, bootstrap, confidence, seed)
            for measure in MEASURES[:3]:
                row[f"pooled_{measure}"] = pooled[measure].iloc[i]
            rows.append(row)
        return pd.DataFrame(rows)

    def against(self, baseline="intensity", bootstrap=2000, confidence=0.95, seed=0):
        """Each method minus the baseline, subject by subject.

        Args:
            baseline: name of a method. Default "intensity".
            bootstrap: as in `summary`. Default 2000.
            confidence: as in `summary`. Default 0.95.
            seed: int. Default 0.

        Returns:
            `pandas.DataFrame`, a row per other method, columns as the means in `summary`, `n`, and
            `better`: the subjects whose average precision is above the baseline's.

        Raises:
            UserError: there is no such method.
        """
        if baseline not in self.methods:
            raise UserError(f"baseline: found {baseline!r}; expected one of {self.methods}")
        table = self.table().dropna(subset=["average_precision"]).set_index("subject")
        reference = table[table["method"] == baseline]
        rows = []
        for name in self.methods:
            if name == baseline:
                continue
            own = table[table["method"] == name]
            row = {"method": name, "n": len(own)}
            for measure in MEASURES:
                gain = (own[measure] - reference[measure]).to_numpy()
                row |= _spread(gain, measure, bootstrap, confidence, seed)
            row["better"] = int((own["average_precision"] > reference["average_precision"]).sum())
            rows.append(row)
        return pd.DataFrame(rows)

    def common_thresholds(self):
        """dict of method to the threshold at which `dice` is taken; see the class."""
        return {
            name: self.thresholds.get(name, self._best_threshold(name)) for name in self.methods
        }

    def curves(self, method, points=500):
        """The pooled curves of a method, ready to draw.

        Args:
            method: its name.
            points: most points of a curve, evenly spread over its length. Default 500.

        Returns:
            dict of float64 `(≤ points,)`, from the strictest threshold on: `threshold`,
            `false_positive_rate`, `recall`, `precision`.
        """
        negatives, positives = self._pooled[method][:, ::-1]
        filled = positives + negatives > 0
        tp, fp = np.cumsum(positives[filled]), np.cumsum(negatives[filled])
        recall, fpr = tp / max(tp[-1], 1), fp / max(fp[-1], 1)
        precision = tp / (tp + fp)
        # Points evenly along both axes: a lesion curve has its shape where few are flagged.
        length = np.cumsum(np.abs(np.diff(recall, prepend=0)) + np.abs(np.diff(fpr, prepend=0)))
        index = np.searchsorted(length, np.linspace(length[0], length[-1], points))
        index = np.unique(np.minimum(index, len(length) - 1))
        return {
            "threshold": _bin_values()[::-1][filled][index],
            "false_positive_rate": fpr[index],
            "recall": recall[index],
            "precision": precision[index],
        }

    def _best_threshold(self, name):
        negatives, positives = self._pooled[name][:, ::-1]
        tp, flagged = np.cumsum(positives), np.cumsum(positives + negatives)
        if tp[-1] == 0:
            return np.inf
        return float(_bin_values()[::-1][np.argmax(2 * tp / (flagged + tp[-1]))])

    def _curve(self, name, value, positives, negatives):
        """What is stored of a subject's curve: (threshold, true positives, flagged)."""
        tp, flagged = np.cumsum(positives), np.cumsum(positives + negatives)
        if name in self.thresholds:
            # The one point that will be asked for: the last group not below the threshold.
            count = np.searchsorted(-value, -self.thresholds[name], side="right")
            point = (tp[count - 1], flagged[count - 1]) if count else (0, 0)
            return np.array([[self.thresholds[name], *point]], "float64")
        steps = np.unique(np.rint(_CURVE_STEP ** np.arange(_log(flagged[-1]))).astype("int64"))
        index = np.unique(np.minimum(np.searchsorted(flagged, steps), len(flagged) - 1))
        return np.stack([value[index], tp[index], flagged[index]], axis=1).astype("float64")


def curve_measures(positives, negatives):
    """AUROC, average precision and best Dice from counts at each distinct score.

    The values are those of `sklearn.metrics.roc_auc_score` and `average_precision_score`: tied
    voxels are flagged together.

    Args:
        positives: int `(g,)`, lesion voxels at each score, from the highest score to the lowest.
        negatives: int `(g,)`, the other voxels.

    Returns:
        dict of `auroc`, `average_precision`, `best_dice`; NaN where there is no lesion voxel, and
        `auroc` also where there are only lesion voxels.
    """
    tp, fp = np.cumsum(positives, dtype="float64"), np.cumsum(negatives, dtype="float64")
    total, others = tp[-1], fp[-1]
    if total == 0:
        return {"auroc": np.nan, "average_precision": np.nan, "best_dice": np.nan}
    # A pair within a tie counts half: the trapezium under the ROC curve.
    area = np.sum(positives * (others - fp + negatives / 2))
    precision = tp / np.maximum(tp + fp, 1)
    return {
        "auroc": float(area / (total * others)) if others else np.nan,
        "average_precision": float(np.sum(positives * precision) / total),
        "best_dice": float((2 * tp / (tp + fp + total)).max()),
    }


def _bin(values):
    """Number of the bin of each score: 0 for zero, then as floats are ordered."""
    values = np.asarray(values, "float32")
    # The bits of a positive float, read as an integer, grow with it: sign, exponent, then the
    # mantissa's leading bits.
    bits = values.view("int32") >> (23 - _PARTS)
    first = (127 + _LOWEST) << _PARTS
    return np.where(values > 0, np.clip(bits - first, 0, _BINS - 2) + 1, 0)


def _bin_values():
    """Lowest score of each bin, float64 `(bins,)`."""
    inner = np.arange(_BINS - 1)
    values = np.ldexp(1 + (inner % 2**_PARTS) / 2**_PARTS, inner // 2**_PARTS + _LOWEST)
    return np.concatenate([[0.0], values])


def _grouped(values, truth):
    """Distinct scores from the highest on, with the lesion and other voxels that have them."""
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    tp = np.cumsum(truth)[last]
    return values[last], np.diff(tp, prepend=0), np.diff(last + 1 - tp, prepend=0)


def _read_off(curve, threshold):
    """(true positives, flagged) of a stored curve at a threshold, between its points if need be."""
    values, tp, flagged = curve.T
    if threshold > values[0]:
        return 0.0, 0.0
    return tuple(float(np.interp(-threshold, -values, counts)) for counts in (tp, flagged))


def _log(count):
    """How many steps of the stored curve reach `count` flagged voxels."""
    return int(np.ceil(np.log(max(count, 1)) / np.log(_CURVE_STEP))) + 2


def _auroc_bound(positives, negatives):
    """Half the share of pairs within one bin: the unknown order cannot change more.

    The last bin holds zeros alone, which are tied indeed.
    """
    pairs = float(positives.sum()) * float(negatives.sum())
    within = np.sum(positives[:-1] * negatives[:-1].astype("float64"))
    return float(within / 2 / pairs) if pairs else np.nan


def _precision_bound(positives, negatives, average):
    """Distance of average precision from its highest and lowest value for any order in bins."""
    total = positives.sum()
    if total == 0:
        return np.nan
    tp, fp = np.cumsum(positives), np.cumsum(negatives)
    # At a lesion voxel, precision is highest if all lesion voxels of its bin and no others come
    # before it, and lowest if all others and no lesion voxel do.
    first = tp - positives + 1
    high, low = tp / np.maximum(tp + fp - negatives, 1), first / (first + fp)
    high[-1] = low[-1] = tp[-1] / (tp[-1] + fp[-1])
    best, worst = (np.sum(positives * bound) / total for bound in (high, low))
    return float(max(best - average, average - worst, 0.0))


def _spread(values, measure, bootstrap, confidence, seed):
    """Mean, deviation and interval of a measure, as columns."""
    row = {measure: values.mean() if len(values) else np.nan}
    many = len(values) > 1 and np.isfinite(values).all()
    row[f"{measure}_sd"] = values.std(ddof=1) if many else np.nan
    low = high = np.nan
    if many and bootstrap:
        draws = np.random.default_rng(seed).integers(0, len(values), (bootstrap, len(values)))
        tail = (1 - confidence) / 2
        low, high = np.quantile(values[draws].mean(axis=1), [tail, 1 - tail])
    return row | {f"{measure}_low": low, f"{measure}_high": high}
