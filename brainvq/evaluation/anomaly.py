"""Scores of how unusual each pixel is; `lesion_scores` measures how well they find lesions.

Scans come as stacks of slices, `(n, rows, cols)` or `(n, rows, cols, 1)`, one stack for one
subject; scores have the shape `(n, rows, cols)` and are higher where something is unusual.

Every score stands beside a baseline that knows nothing of healthy brains: the intensity itself.
On FLAIR, where lesions shine, it beat most published networks (Meissen, Kaissis and Rueckert 2021,
"Challenging current semi-supervised anomaly segmentation methods for brain MRI").
"""

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from brainvq.errors import UserError
from brainvq.evaluation.lesion_scores import MEASURES as MEASURES
from brainvq.evaluation.lesion_scores import LesionScores as LesionScores
from brainvq.evaluation.similarity import ssim_map

DIRECTIONS = ("both", "bright", "dark")
SCORES = ("intensity", "depth", "pixel", "restoration", "ssim", "surprise")
# What `score_maps` combines by default, where present: evidence of the network, not intensity.
COMBINED = ("pixel", "surprise", "restoration")


def brain_area(x, fraction=0.05):
    """The area in which scores count: what is not background, holes filled slice by slice.

    Args:
        x: one subject's stack, `(n, rows, cols[, 1])`.
        fraction: share of the stack's 99.9th percentile that background stays below; in [0, 1).
            Default 0.05. Dark fluid inside the brain is a hole, and so is filled.

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
            (lesions on FLAIR), "dark" only what is darker (lesions in white matter on T1). Default
            "both".
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
            from the median rank. Default "bright".

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


def depth_score(
    x,
    foreground,
    spacing,
    direction="bright",
    *,
    depth_smooth=0.7,
    depth_weight=8.0,
    depth_reach=3.0,
):
    """Intensity that counts less towards the rim of the brain.

    Cortex, vessels and partial volume at the rim are as bright on FLAIR as lesions, in everyone;
    deep in the brain hardly anything else is. The score is z − weight · exp(−depth / reach): z is
    the intensity in units of the brain's own spread around its most frequent value, depth the
    distance to the nearest voxel outside of the brain. What is below 0 is no lesion, and 0. There
    is no network in it: what a model of healthy brains says has to be better than this.

    Args:
        x: one subject's stack, `(n, rows, cols[, 1])`.
        foreground: bool `(n, rows, cols)`, the brain.
        spacing: mm from slice to slice, row to row and column to column.
        direction: "bright" (default), "dark" or "both": which intensities are high, see
            `intensity_score`.
        depth_smooth: standard deviation in mm of a Gaussian over the brain. Default 0.7.
        depth_weight: what is taken off at the very rim, in z. Default 8.
        depth_reach: depth in mm at which a third of that is left. Default 3.

    Returns:
        float32 `(n, rows, cols)`, 0 or more: how far, in spreads, the intensity exceeds what is
        usual at that depth; 0 outside of the brain.

    Raises:
        UserError: the direction is unknown, or a number is out of range.
        ValueError: the shapes differ.
    """
    _check_direction(direction)
    given = {"smooth": depth_smooth, "weight": depth_weight, "reach": depth_reach}
    for name, value in given.items():
        if not (0 < value < np.inf or (value == 0 and name != "reach")):
            raise UserError(
                f"depth {name}: found {value}; expected a number from 0, above for reach"
            )
    x = _stack(x, "x")
    foreground = _mask(foreground, x, "foreground")
    if not foreground.any():
        return np.zeros(x.shape, "float32")
    spacing = np.asarray(spacing, float)
    z = np.where(foreground, standardised(x, foreground), 0)
    if depth_smooth:
        # Of the brain alone: what lies outside is unknown, not dark.
        share = ndimage.gaussian_filter(foreground.astype("float32"), depth_smooth / spacing)
        z = ndimage.gaussian_filter(z, depth_smooth / spacing) / np.maximum(share, 1e-6)
    z = {"bright": z, "dark": -z, "both": np.abs(z)}[direction]
    # Where the field of view cuts a brain off there is no rim.
    depth = ndimage.distance_transform_edt(foreground, sampling=spacing)
    score = z - depth_weight * np.exp(-depth / depth_reach)
    return np.where(foreground, np.maximum(score, 0), 0).astype("float32")


def standardised(x, foreground):
    """Intensities around the most frequent one, in units of 1.48 median absolute deviations.

    On FLAIR the most frequent intensity is white matter's.

    Args:
        x: one subject's stack, `(n, rows, cols)`.
        foreground: bool `(n, rows, cols)`, the brain; not empty.

    Returns:
        float32 `(n, rows, cols)`, outside of the brain too; without a spread, differences from the
        median.
    """
    x = x.astype("float32")
    values = x[foreground]
    low, high = np.percentile(values, [5, 95])
    spread = 1.4826 * np.median(np.abs(values - np.median(values)))
    if not (high > low and spread > 0):
        return x - np.median(values)
    counts, edges = np.histogram(values, 64, (low, high))
    top = np.argmax(ndimage.gaussian_filter1d(counts.astype(float), 3))
    return (x - (edges[top] + edges[top + 1]) / 2) / spread


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
    spacing=None,
    depth=None,
):
    """Every score of one subject, from what the model and its prior say.

    Args:
        x: one subject's stack, `(n, rows, cols[, 1])`, in [0, 1].
        evidence: dict of stacks of the same shape: `reconstruction`, and where there is a prior
            `surprise` (bits), `brighter` and `darker` (mean of the positive and of the negative
            part of x − restoration); see `brainvq.training.anomaly.AnomalyDetector.evidence`.
        foreground: bool `(n, rows, cols)`, the brain.
        direction: "both" (default), "bright" or "dark"; SSIM and surprise have none.
        smooth: Gaussian of the pixel error, in pixels. Default 1.
        restoration_smooth: Gaussian of the restoration score, in pixels. Default 1.
        median: see `post_process`; it is applied to every score, the baseline too. Default 3.
        erode: see `post_process`, likewise. Default 3.
        without_fluid: whether every score, the baseline too, is 0 in the brain's fluid, see
            `fluid_area`. Ventricles of another size or contrast are the strongest false alarms on
            T1; but an anomaly as dark is lost too. None (default): where `direction` is "dark".
        combined: scores, where present, whose ranks are averaged, before `median` and `erode`.
        spacing: mm between slices, rows and columns. None (default): there is no score `depth`.
        depth: dict of further arguments of `depth_score`; `median` and `erode` leave it alone.

    Returns:
        dict of float32 `(n, rows, cols)`: `intensity` (the baseline), `depth`, `pixel`, `ssim`,
        and with a prior `surprise`, `restoration`; and `combined`, if two or more of its parts are
        there.

    Raises:
        UserError: an option is out of range or a name in `combined` is unknown.
        ValueError: the shapes differ.
    """
    _check_direction(direction)
    _check_combined(combined)
    x = _stack(x, "x")
    scores = _raw_scores(x, evidence, foreground, direction, smooth, restoration_smooth)
    if spacing is not None:
        scores["depth"] = depth_score(x, foreground, spacing, direction, **depth or {})
    fluid = np.zeros(x.shape, bool)
    if direction == "dark" if without_fluid is None else without_fluid:
        fluid = fluid_area(x, foreground)
        scores = {name: np.where(fluid, 0, score) for name, score in scores.items()}
    chosen = {name: scores[name] for name in combined if name in scores}
    if len(chosen) > 1:
        scores["combined"] = np.where(fluid, 0, combine(chosen, foreground))
    for name in set(scores) - {"depth"}:
        scores[name] = post_process(scores[name], foreground, median=median, erode=erode)
    return scores


def _raw_scores(x, evidence, foreground, direction, smooth, restoration_smooth):
    """The scores of `score_maps` before fluid and border are taken out."""
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
    return scores


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


def _check_combined(names):
    unknown = [name for name in names if name not in SCORES]
    if unknown:
        raise UserError(f"combined: found {unknown[0]!r}; expected some of {', '.join(SCORES)}")


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
