"""Scores of how unusual each pixel is, and how well such scores find lesions.

Scans come as stacks of slices, `(n, rows, cols)` or `(n, rows, cols, 1)`, one stack for one
subject; scores have the shape `(n, rows, cols)` and are higher where something is unusual. Lesions
are rare: 1 % of the brain, often less. A score that is right on 99 % of all voxels may then be
worthless, so besides the area under the ROC curve there is average precision, whose value for blind
guessing is the share of lesion voxels (`prevalence`), and the Dice coefficient.

Every score stands beside a baseline that knows nothing of healthy brains: the intensity itself.
On FLAIR, where lesions shine, it beat most published networks (Meissen, Kaissis and Rueckert 2021,
"Challenging current semi-supervised anomaly segmentation methods for brain MRI").
"""

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from brainvq.errors import UserError
from brainvq.evaluation.similarity import ssim_map

DIRECTIONS = ("both", "bright", "dark")
# What `combine` takes by default, where present: evidence of the network, no plain intensity.
COMBINED = ("pixel", "surprise", "restoration")
# Bins of the pooled histograms: floats from 2^-24 to 2^8, each power of two in 2^14 parts.
_LOWEST, _OCTAVES, _PARTS = -24, 32, 14
_CURVE_STEP = 1.02  # ratio of flagged voxels between two stored points of a subject's curve
MEASURES = ("auroc", "average_precision", "best_dice", "dice")


def brain_area(x, fraction=0.05):
    """The area in which scores count: what is not background, holes filled slice by slice.

    Args:
        x: one subject's stack, `(n, rows, cols[, 1])`.
        fraction: share of the stack's 99.9th percentile that background stays below; in [0, 1).
            Default 0.05. Dark fluid inside the brain is kept by the filling of holes.

    Returns:
        bool `(n, rows, cols)`.

    Raises:
        UserError: `fraction` is out of range.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"brain area: fraction is {fraction}; expected a number in [0, 1)")
    x = _stack(x, "x")
    above = x > fraction * np.percentile(x, 99.9)
    return np.stack([ndimage.binary_fill_holes(image) for image in above])


def fluid_area(x, foreground):
    """The dark fluid of a brain: the lowest of three classes of its intensities.

    The classes are those of Otsu's method with two thresholds (Liao, Chen and Chung 2001, "A fast
    algorithm for multilevel thresholding"): on T1 and FLAIR fluid, grey and white matter.

    Args:
        x: one subject's stack, `(n, rows, cols[, 1])`.
        foreground: bool `(n, rows, cols)`, the brain.

    Returns:
        bool `(n, rows, cols)`; all False where the brain has fewer than three intensities.

    Raises:
        ValueError: the shapes differ.
    """
    x = _stack(x, "x")
    foreground = _mask(foreground, x, "foreground")
    values = x[foreground]
    try:
        low = threshold_multiotsu(values, 3)[0]
    except ValueError:  # too few different values
        return np.zeros(x.shape, bool)
    return foreground & (x <= low)


def pixel_error(x, restored, direction="both", smooth=0.0):
    """Difference of each pixel from what a model of healthy brains makes of it.

    Args:
        x: the stack, `(n, rows, cols[, 1])`.
        restored: its reconstruction or restoration, of the same shape.
        direction: "both" for |x − restored|; "bright" counts only what is brighter than restored
            (lesions on FLAIR), "dark" only what is darker (lesions in white matter on T1).
        smooth: standard deviation in pixels of a Gaussian within the slice. It is applied to the
            signed difference, so that noise cancels before the sign is taken. Default 0, none.

    Returns:
        float32 `(n, rows, cols)`, 0 or more.

    Raises:
        UserError: the direction is unknown or `smooth` negative.
        ValueError: the shapes differ.
    """
    _check_direction(direction)
    if not smooth >= 0:
        raise UserError(f"smooth: found {smooth}; expected 0 or more pixels")
    x, restored = _stack(x, "x"), _stack(restored, "restored")
    _same_shape(x, restored, "restored")
    difference = x.astype("float32") - restored.astype("float32")
    if smooth:
        difference = ndimage.gaussian_filter(difference, (0, smooth, smooth))
    if direction == "both":
        return np.abs(difference)
    return np.maximum(difference if direction == "bright" else -difference, 0)


def ssim_error(x, restored, *, window=7, data_range=1.0):
    """1 − local structural similarity (Wang et al. 2004, equation 13), 2D, slice by slice.

    Args:
        x: the stack, `(n, rows, cols[, 1])`.
        restored: its reconstruction, of the same shape.
        window: side of the uniform window, odd, in pixels. Default 7.
        data_range: span of possible intensities. Default 1.

    Returns:
        float32 `(n, rows, cols)` in [0, 2].

    Raises:
        UserError: the window is out of its limits.
        ValueError: the shapes differ.
    """
    x, restored = _stack(x, "x"), _stack(restored, "restored")
    _same_shape(x, restored, "restored")
    similar = ssim_map(x, restored, window=window, data_range=data_range)
    return np.clip(1 - similar, 0, 2).astype("float32")


def intensity_score(x, foreground, direction="bright"):
    """The percentile-threshold baseline: the rank of each pixel's intensity within its brain.

    A threshold on this histogram-equalised intensity is a percentile of the subject's intensities
    (Meissen et al. 2021, section 3).

    Args:
        x: one subject's stack, `(n, rows, cols[, 1])`.
        foreground: bool `(n, rows, cols)`, the brain.
        direction: "bright": the brightest is 1; "dark": the darkest is; "both": twice the distance
            from the median rank.

    Returns:
        float32 `(n, rows, cols)` in [0, 1]; 0 outside the brain.

    Raises:
        UserError: the direction is unknown.
        ValueError: the shapes differ.
    """
    _check_direction(direction)
    x = _stack(x, "x")
    foreground = _mask(foreground, x, "foreground")
    rank = _rank(x, foreground)
    if direction == "dark":
        rank = 1 - rank
    elif direction == "both":
        rank = np.abs(2 * rank - 1)
    return np.where(foreground, rank, 0).astype("float32")


def combine(maps, foreground):
    """Mean of the ranks of several scores within a subject's brain.

    Ranks have no unit, so bits, intensities and similarities can be averaged, and no single score
    wins by its scale.

    Args:
        maps: dict of name to score `(n, rows, cols)`, or a sequence of scores; one or more.
        foreground: bool `(n, rows, cols)`, the brain.

    Returns:
        float32 `(n, rows, cols)` in [0, 1]; 0 outside the brain.

    Raises:
        ValueError: there is no map, or the shapes differ.
    """
    maps = list(maps.values()) if isinstance(maps, dict) else list(maps)
    if not maps:
        raise ValueError("combine needs one map or more. Received: none")
    total = np.zeros(_stack(maps[0], "maps").shape, "float32")
    for score in maps:
        score = _stack(score, "maps")
        _same_shape(total, score, "maps")
        total += _rank(score, _mask(foreground, score, "foreground"))
    return total / len(maps)


def post_process(score, foreground, *, median=0, erode=0):
    """The usual cleaning of score volumes.

    As in Baur et al. 2021, "Autoencoders for unsupervised anomaly segmentation in brain MR images:
    a comparative study", section 4.

    Args:
        score: one subject's scores, `(n, rows, cols)`.
        foreground: bool `(n, rows, cols)`, the brain.
        median: side in voxels, odd, of a median filter along columns, then rows, then slices:
            single bright voxels and thin lines along edges vanish. The median of a whole cube, as
            is usual, found simulated lesions no better and took thirty times as long. 5 is the
            usual side; 0 (default) leaves it out.
        erode: pixels within this distance of the brain's border in their slice get score 0, since
            errors are large there in everyone. Default 0.

    Returns:
        float32 `(n, rows, cols)`; 0 outside the (eroded) brain.

    Raises:
        UserError: `median` or `erode` is out of range.
        ValueError: the shapes differ.
    """
    if int(median) != median or median < 0 or (median and median % 2 == 0):
        raise UserError(f"median: found {median}; expected 0 or an odd number of voxels")
    if int(erode) != erode or erode < 0:
        raise UserError(f"erode: found {erode}; expected 0 or more whole pixels")
    score = _stack(score, "score").astype("float32")
    foreground = _mask(foreground, score, "foreground")
    score = np.where(foreground, score, 0)
    if median > 1:
        # Only the box that holds the brain.
        box = ndimage.find_objects(foreground.view(np.uint8))
        if box:
            around = tuple(
                slice(max(side.start - median, 0), side.stop + median) for side in box[0]
            )
            part = score[around]
            for axis in (2, 1, 0):
                part = _median_along(part, int(median), axis)
            score[around] = part
    if erode:
        disc = ndimage.generate_binary_structure(2, 1)
        foreground = np.stack(
            [ndimage.binary_erosion(image, disc, iterations=int(erode)) for image in foreground]
        )
    return np.where(foreground, score, 0).astype("float32")


def score_maps(
    x,
    evidence,
    foreground,
    *,
    direction="both",
    smooth=1.0,
    restoration_smooth=1.0,
    median=3,
    erode=3,
    without_fluid=None,
    combined=COMBINED,
):
    """Every score of one subject, from what the model and its prior say.

    Args:
        x: one subject's stack, `(n, rows, cols[, 1])`, in [0, 1].
        evidence: dict of stacks of the same shape: `reconstruction`, and where there is a prior
            `surprise` (bits) and either `brighter` and `darker` (mean of the positive and of the
            negative part of x − restoration) or neither; see
            `brainvq.training.anomaly.AnomalyDetector.evidence`. Others are ignored.
        foreground: bool `(n, rows, cols)`, the brain.
        direction: "both", "bright" or "dark"; see `pixel_error`. SSIM and surprise have none.
        smooth: Gaussian of the pixel error, in pixels. Default 1.
        restoration_smooth: Gaussian of the restoration score, in pixels. Default 1.
        median: see `post_process`; it is applied to every score, the baseline too. Default 3.
        erode: see `post_process`, likewise. Default 3.
        without_fluid: whether every score, the baseline too, is 0 in the brain's fluid, see
            `fluid_area`. Ventricles of another size or of another scanner's contrast are the
            strongest false alarms on T1; but an anomaly as dark as fluid is lost with them. None
            (default) does so where `direction` is "dark".
        combined: names of the scores whose ranks are averaged, before `median` and `erode`; those
            that are absent are left out.

    Returns:
        dict of float32 `(n, rows, cols)`: `intensity` (the baseline), `pixel`, `ssim`, and with a
        prior `surprise`, `restoration`; and `combined`, if two or more of its parts are there.

    Raises:
        UserError: an option is out of range or a name in `combined` is unknown.
        ValueError: the shapes differ.
    """
    _check_direction(direction)
    known = {"intensity", "pixel", "ssim", "surprise", "restoration"}
    for name in combined:
        if name not in known:
            raise UserError(
                f"combined: found {name!r}; expected some of {', '.join(sorted(known))}"
            )
    x = _stack(x, "x")
    scores = {
        "intensity": intensity_score(x, foreground, direction),
        "pixel": pixel_error(x, evidence["reconstruction"], direction, smooth),
        "ssim": ssim_error(x, evidence["reconstruction"]),
    }
    if "surprise" in evidence:
        scores["surprise"] = _stack(evidence["surprise"], "surprise")
    if "brighter" in evidence:
        parts = {"bright": ["brighter"], "dark": ["darker"], "both": ["brighter", "darker"]}
        total = sum(_stack(evidence[name], name) for name in parts[direction])
        if restoration_smooth:
            sides = (0, restoration_smooth, restoration_smooth)
            total = ndimage.gaussian_filter(total.astype("float32"), sides)
        scores["restoration"] = total
    for name, score in scores.items():
        _same_shape(x, score, name)
    fluid = np.zeros(x.shape, bool)
    if direction == "dark" if without_fluid is None else without_fluid:
        fluid = fluid_area(x, foreground)
        scores = {name: np.where(fluid, 0, score) for name, score in scores.items()}
    chosen = {name: scores[name] for name in combined if name in scores}
    if len(chosen) > 1:
        scores["combined"] = np.where(fluid, 0, combine(chosen, foreground))
    return {
        name: post_process(score, foreground, median=median, erode=erode)
        for name, score in scores.items()
    }


def healthy_thresholds(scores, foreground, specificity=0.98):
    """The scores that a share of a healthy subject's voxels stays below: thresholds without labels.

    Args:
        scores: dict of method to `(n, rows, cols)`, of one healthy subject; average the results
            over subjects.
        foreground: bool `(n, rows, cols)`, the brain.
        specificity: that share, in (0, 1). Default 0.98.

    Returns:
        dict of method to float.
    """
    if not 0 < specificity < 1:
        raise UserError(f"specificity: found {specificity}; expected a number in (0, 1)")
    return {
        name: float(np.quantile(np.asarray(score)[foreground], specificity))
        for name, score in scores.items()
    }


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
            found on other data (`healthy_thresholds`). Without it, and for methods that it leaves
            out, the threshold of the best pooled Dice is used, which is optimistic; a subject's
            Dice there is read off its stored curve, exact to 2 %.
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
            scores: dict of method to score of any shape, 0 or more; the same methods each time.
            mask: bool of that shape, the lesions; all False for a healthy subject.
            foreground: bool of that shape, the brain.
            voxel_ml: volume of a voxel in mL, for the volumes of the table.

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
            row["curves"][name] = self._kept(name, value, positives, negatives)
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
            found = curve_measures(positives, negatives)
            total = positives.sum()
            rows.append(
                {
                    "method": name,
                    **found,
                    "threshold": self._best_threshold(name),
                    "prevalence": total / (total + negatives.sum()),
                    "auroc_within": _auroc_bound(positives, negatives),
                    "average_precision_within": _precision_bound(
                        positives, negatives, found["average_precision"]
                    ),
                }
            )
        return pd.DataFrame(rows)

    def summary(self, bootstrap=2000, confidence=0.95, seed=0):
        """Mean and deviation over subjects with lesions, beside the pooled measures.

        Args:
            bootstrap: resamples of the subjects for the percentile interval of the mean.
            confidence: coverage of that interval. Default 0.95.
            seed: int.

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
            baseline: name of a method.
            bootstrap: resamples of the subjects for the percentile interval of the mean.
            confidence: coverage of that interval. Default 0.95.
            seed: int.

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
            points: most points kept, evenly spread over the length of the curve's steps.

        Returns:
            dict of float64 arrays of one length, from the strictest threshold on: `threshold`,
            `false_positive_rate`, `recall`, `precision`.
        """
        negatives, positives = self._pooled[method][:, ::-1]
        kept = positives + negatives > 0
        tp, fp = np.cumsum(positives[kept]), np.cumsum(negatives[kept])
        recall, fpr = tp / max(tp[-1], 1), fp / max(fp[-1], 1)
        precision = tp / (tp + fp)
        # Points evenly along both axes: a lesion curve has its shape where few are flagged.
        length = np.cumsum(np.abs(np.diff(recall, prepend=0)) + np.abs(np.diff(fpr, prepend=0)))
        index = np.searchsorted(length, np.linspace(length[0], length[-1], points))
        index = np.unique(np.minimum(index, len(length) - 1))
        return {
            "threshold": _bin_values()[::-1][kept][index],
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

    def _kept(self, name, value, positives, negatives):
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


_BINS = 1 + _OCTAVES * 2**_PARTS


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


def _precision_bound(positives, negatives, found):
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
    return float(max(best - found, found - worst, 0.0))


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


def _rank(score, foreground):
    """Rank of each foreground value among all of them, in (0, 1], ties shared; 0 elsewhere."""
    ranks = np.zeros(score.shape, "float32")
    values = score[foreground]
    if values.size:
        # As scipy.stats.rankdata, at a quarter of its time: no stable sort is needed here.
        order = np.argsort(values)
        arranged = values[order]
        ends = np.append(np.flatnonzero(arranged[1:] != arranged[:-1]) + 1, values.size)
        sizes = np.diff(ends, prepend=0)
        shared = np.empty(values.size, "float32")
        shared[order] = np.repeat((ends - (sizes - 1) / 2) / values.size, sizes)
        ranks[foreground] = shared
    return ranks


def _median_along(score, side, axis):
    """Median of `side` neighbours along one axis, float32; the border is repeated."""
    half = side // 2
    padding = [(half, half) if a == axis else (0, 0) for a in range(score.ndim)]
    padded = np.pad(score, padding, mode="edge")
    length = score.shape[axis]
    shifts = [np.take(padded, np.arange(i, i + length), axis=axis) for i in range(side)]
    # Half a bubble sort: after the k-th round the k-th lowest is at its place.
    for low in range(half + 1):
        for i in range(side - 1, low, -1):
            lower = np.minimum(shifts[i - 1], shifts[i])
            np.maximum(shifts[i - 1], shifts[i], out=shifts[i])
            shifts[i - 1] = lower
    return shifts[half]


def _check_direction(direction):
    if direction not in DIRECTIONS:
        raise UserError(f"direction: found {direction!r}; expected one of {', '.join(DIRECTIONS)}")


def _stack(x, name):
    x = np.asarray(x)
    if x.ndim == 4 and x.shape[-1] == 1:
        x = x[..., 0]
    if x.ndim != 3:
        raise ValueError(
            f"{name} must be (n, rows, cols) or (n, rows, cols, 1). Received: shape {x.shape}"
        )
    return x


def _mask(mask, x, name):
    mask = _stack(mask, name).astype(bool)
    _same_shape(x, mask, name)
    return mask


def _same_shape(x, other, name):
    if other.shape != x.shape:
        raise ValueError(f"{name} must have shape {x.shape}. Received: {other.shape}")
