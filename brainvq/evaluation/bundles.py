"""How alike two bundles of streamlines are, and what their shapes, latents and codes tell.

A bundle is `(n, points, 3)`, streamlines of equally many points; a stack of samples is
`(samples, streamlines, points, 3)`, with `counts` saying how many rows of each are real: the rest
repeats them and never counts. Coordinates are in units of the model, [-1, 1] for the whole brain,
or in mm; every measure that is a length says in which. `scale_mm` is how many mm a unit is.

The paper's measure is the bundle shape similarity of BUAN (Chandio et al., 2020), as dipy computes
it: 0 for bundles with nothing in common, 1 for bundles in which every streamline has one of the
other bundle nearby. Near is a mean distance below a threshold, after resampling to 20 points, in
the better of both directions (MDF: Garyfallidis et al., 2012). With a clustering threshold of 0, as
in the paper, no two different streamlines are merged, and the measure is a plain count.
"""

import warnings

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.stats import ks_2samp
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainvq.errors import UserError
from brainvq.evaluation.codes import code_usage, whole_numbers

THRESHOLD = 0.05  # units of [-1, 1]; the paper's
THRESHOLD_MM = 6.0  # dipy's default
CLUSTERS_MM = (5.0, 3.0, 1.5)  # mm; dipy's default, from coarse to fine
BUAN_POINTS = 20  # dipy resamples to these before it compares
CHUNK = 2**20  # pairs of streamlines compared at once: three float64 arrays of 8 MB
EPSILONS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)  # see `robustness`
SHAPES = {"length": "mm", "curvature": "1/mm", "straightness": "", "spread": "mm"}


def buan(a, b, threshold=THRESHOLD, clust_thr=(0,), seed=0):
    """Bundle shape similarity of two bundles, the value of dipy's `bundle_shape_similarity`.

    Args:
        a: `(n, points, 3)`.
        b: `(m, points, 3)`, in the same units; other counts of streamlines and points will do.
        threshold: length, in those units: streamlines nearer than this are alike. Default 0.05.
        clust_thr: lengths, from coarse to fine: streamlines are first merged into clusters of this
            size. Default (0,): streamlines that are equal number for number count once, which is
            computed here directly (dipy sometimes counts the third copy again, by its rounding);
            else dipy does the work.
        seed: of the order in which dipy clusters; without clusters there is no chance in it.

    Returns:
        float in [0, 1]: the mean of the shares of both bundles' streamlines (or clusters) that
        have one of the other bundle nearer than the threshold; 0 where a bundle is empty. A
        streamline that holds NaN is near to none.

    Raises:
        ValueError: the arrays are not shaped as described.
    """
    a, b = _bundle(a, "a"), _bundle(b, "b")
    if len(a) == 0 or len(b) == 0:
        return 0.0
    if tuple(clust_thr) != (0,):
        return _buan_of_clusters(a, b, threshold, clust_thr, seed)
    near_a, near_b = _nearest_mdf(_for_buan(a), _for_buan(b))
    return float(0.5 * ((near_a < threshold).mean() + (near_b < threshold).mean()))


def buan_mm(a, b, seed=0):
    """Bundle shape similarity with dipy's defaults: a threshold of 6 mm after clustering in mm.

    Args:
        a: `(n, points, 3)` in mm.
        b: `(m, points, 3)` in mm.
        seed: of the order in which streamlines are clustered.

    Returns:
        float in [0, 1].

    Raises:
        ValueError: the arrays are not shaped as described.
    """
    return buan(a, b, THRESHOLD_MM, CLUSTERS_MM, seed)


def resample(streamlines, points):
    """Streamlines of other counts of points, evenly spaced along their length.

    Args:
        streamlines: `(n, any, 3)`, two or more points each.
        points: int ≥ 2.

    Returns:
        float64 `(n, points, 3)`, as dipy's `set_number_of_points` gives; ends stay where they are.
    """
    streamlines = np.asarray(streamlines, "float64")
    steps = np.linalg.norm(np.diff(streamlines, axis=1), axis=-1)  # (n, any - 1)
    along = np.concatenate([np.zeros((len(steps), 1)), np.cumsum(steps, axis=1)], axis=1)
    wanted = np.linspace(0.0, 1.0, points) * along[:, -1:]
    rows = np.arange(len(steps))[:, None]
    start = np.zeros(wanted.shape, int)
    for i in range(1, steps.shape[1]):
        start += wanted >= along[:, i : i + 1]
    step = steps[rows, start]
    part = np.divide(wanted - along[rows, start], step, out=np.zeros_like(wanted), where=step > 0)
    first, last = streamlines[rows, start], streamlines[rows, start + 1]
    return first + part[..., None] * (last - first)


def mdf(a, b):
    """Minimum average direct-flip distance of every pair of streamlines.

    Args:
        a: `(n, points, 3)`.
        b: `(m, points, 3)`, equally many points.

    Returns:
        float64 `(n, m)`: the mean distance from point i to point i, or to point points − i where
        that is less: the direction of a streamline means nothing.
    """
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    points = a.shape[1]
    direct, flipped = np.zeros((2, len(a), len(b)))
    for i in range(points):
        direct += _distances(a[:, i], b[:, i])
        flipped += _distances(a[:, i], b[:, points - 1 - i])
    return np.minimum(direct, flipped) / points


def mse(a, b):
    """Mean squared error of each streamline over its points and coordinates.

    Args:
        a: `(..., points, 3)`.
        b: of that shape; streamline i is compared with streamline i, in the direction it has.

    Returns:
        float64 `(...)`, squared units.
    """
    a, b = _pair(a, b)
    return np.mean((a - b) ** 2, axis=(-2, -1))


def mean_point_distance(a, b):
    """Mean distance from each point of a streamline to the same point of its counterpart.

    Args:
        a: `(..., points, 3)`.
        b: of that shape; streamline i is compared with streamline i, in the direction it has.

    Returns:
        float64 `(...)`, the unit of the coordinates.
    """
    a, b = _pair(a, b)
    return np.linalg.norm(a - b, axis=-1).mean(axis=-1)


def closest_point_distance(a, b):
    """Mean distance from each point of a streamline to the closest point of its counterpart.

    The mean of both ways, a to b and b to a. A shift of the points along the line costs little
    here, and the direction nothing: it is the distance of the curves, at the fineness of points.

    Args:
        a: `(..., points, 3)`.
        b: of that shape; streamline i is compared with streamline i.

    Returns:
        float64 `(...)`, the unit of the coordinates.
    """
    return _closest(a, b)[0]


def hausdorff(a, b):
    """The farthest that a point of one streamline is from the closest of its counterpart.

    Args:
        a: `(..., points, 3)`.
        b: of that shape; streamline i is compared with streamline i.

    Returns:
        float64 `(...)`, the unit of the coordinates.
    """
    return _closest(a, b)[1]


def bundle_distance(a, b):
    """Mean distance from each point of a bundle to the closest point of another, both ways.

    Args:
        a: `(n, points, 3)`.
        b: `(m, points, 3)`.

    Returns:
        float, the unit of the coordinates; 0 for the same streamlines in any order.

    Raises:
        ValueError: a bundle is empty or not shaped as described.
    """
    a, b = (_bundle(x, name).reshape(-1, 3) for x, name in ((a, "a"), (b, "b")))
    if min(len(a), len(b)) == 0:
        raise ValueError(f"bundles must not be empty. Received: {len(a)} and {len(b)} points")
    there, back = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    return float(0.5 * (there.mean() + back.mean()))


MEASURES = ("buan", "mse", "distance", "closest")
MEASURES_MM = ("buan_mm", "distance_mm", "closest_mm")


def sample_table(
    originals, reconstructions, names, counts=None, *, threshold=THRESHOLD, scale_mm=None, seed=0
):
    """Measures of every sample.

    Args:
        originals: `(samples, streamlines, points, 3)`, in units.
        reconstructions: of that shape, or a sequence of its samples.
        names: the bundle of each sample, `(samples,)`.
        counts: real streamlines of each sample, `(samples,)` ints ≥ 1. Default: all.
        threshold: that of `buan`, in units. Default 0.05.
        scale_mm: mm per unit; None leaves out what is in mm.
        seed: of `buan_mm`.

    Returns:
        `pandas.DataFrame`, a row per sample: `bundle`, `streamlines` (real ones), `buan`, `mse`,
        `distance` (`mean_point_distance`) and `closest` (`closest_point_distance`), means over the
        streamlines, in units; with `scale_mm` also `buan_mm`, `distance_mm` and `closest_mm`.

    Raises:
        ValueError: the arrays do not agree.
    """
    counts = _counts(originals, counts)
    if not len(originals) == len(reconstructions) == len(names):
        raise ValueError(
            "originals, reconstructions and names must be equally many. "
            f"Received: {len(originals)}, {len(reconstructions)} and {len(names)}"
        )
    rows = []
    for name, real, made, count in zip(names, originals, reconstructions, counts, strict=True):
        real, made = _pair(real[:count], made[:count])
        row = {
            "bundle": str(name),
            "streamlines": int(count),
            "buan": buan(real, made, threshold),
            "mse": mse(real, made).mean(),
            "distance": mean_point_distance(real, made).mean(),
            "closest": closest_point_distance(real, made).mean(),
        }
        if scale_mm is not None:
            row["buan_mm"] = buan_mm(real * scale_mm, made * scale_mm, seed)
            row["distance_mm"] = row["distance"] * scale_mm
            row["closest_mm"] = row["closest"] * scale_mm
        rows.append(row)
    columns = ["bundle", "streamlines", *MEASURES, *(MEASURES_MM if scale_mm is not None else ())]
    return pd.DataFrame(rows, columns=columns)


def bundle_table(
    originals, reconstructions, names, counts=None, *, threshold=THRESHOLD, scale_mm=None, seed=0
):
    """Measures of every bundle, mean and standard deviation over its samples.

    Args:
        originals: as all arguments, see `sample_table`.
        reconstructions: see `sample_table`.
        names: see `sample_table`.
        counts: see `sample_table`.
        threshold: see `sample_table`.
        scale_mm: see `sample_table`.
        seed: see `sample_table`.

    Returns:
        `pandas.DataFrame`, a row per bundle in order of appearance: `bundle`, `samples`,
        `streamlines`, and for each measure of `sample_table` its mean and `<measure>_sd` (sample
        standard deviation, NaN for a single sample).
    """
    return per_bundle(
        sample_table(
            originals,
            reconstructions,
            names,
            counts,
            threshold=threshold,
            scale_mm=scale_mm,
            seed=seed,
        )
    )


def per_bundle(table):
    """A table of `sample_table` as one of `bundle_table`: a row per bundle."""
    groups = table.groupby("bundle", sort=False)
    found = pd.DataFrame({"samples": groups.size(), "streamlines": groups["streamlines"].sum()})
    for name in (*MEASURES, *MEASURES_MM):
        if name in table:
            found[name], found[f"{name}_sd"] = groups[name].mean(), groups[name].std(ddof=1)
    return found.reset_index()


def mean_over_bundles(table):
    """Means over the bundles of a `bundle_table`, each bundle counting alike: dict of floats."""
    return {name: float(table[name].mean()) for name in (*MEASURES, *MEASURES_MM) if name in table}


def channel_spread(latents):
    """Standard deviation of each channel over samples and places: float64 `(channels,)`."""
    flat = np.asarray(latents, "float64").reshape(-1, np.shape(latents)[-1])
    return flat.std(axis=0)


def robustness(
    decode,
    latents,
    originals,
    counts=None,
    *,
    epsilons=EPSILONS,
    spread=None,
    repeats=1,
    threshold=THRESHOLD,
    seed=0,
):
    """What is left of bundles when their latents are disturbed: BUAN against the size of the noise.

    The paper adds noise of one size ε to the latents of all models, though one model's latents are
    ten times as wide as another's. Here the noise of a channel is Gaussian with ε times the
    standard deviation of that channel, so that ε means the same for every model: at 1 the noise is
    as strong as what the latents say. With `spread=1.0` it is the paper's.

    Args:
        decode: function of latents `(samples, ..., channels)` that returns bundles
            `(samples, streamlines, points, 3)`. It must do what the model does behind the place
            where the noise comes in, such as quantise.
        latents: float `(samples, ..., channels)`, encoded from `originals`.
        originals: `(samples, streamlines, points, 3)`, in units.
        counts: real streamlines of each sample. Default: all.
        epsilons: sizes of the noise, not negative and rising.
        spread: `(channels,)` or float, what ε is a multiple of; best from training latents.
            Default: `channel_spread` of `latents`.
        repeats: int ≥ 1, draws of the noise for each ε; their measures are averaged.
        threshold: that of `buan`, in units. Default 0.05.
        seed: of the noise. The same draws serve every ε, only larger.

    Returns:
        `pandas.DataFrame`, a row per ε: `epsilon`, `buan`, `buan_sd`, `mse` and `mse_sd`, mean and
        standard deviation over samples (NaN for a single one).

    Raises:
        ValueError: the epsilons do not rise from 0 or more, or the arrays do not agree.
    """
    epsilons = np.asarray(epsilons, "float64")
    if (
        epsilons.ndim != 1
        or len(epsilons) == 0
        or epsilons[0] < 0
        or (np.diff(epsilons) <= 0).any()
    ):
        raise ValueError(f"epsilons must rise from 0 or more. Received: {epsilons.tolist()}")
    latents, counts = np.asarray(latents, "float32"), _counts(originals, counts)
    spread = channel_spread(latents) if spread is None else spread
    scores = np.zeros((len(epsilons), len(latents), 2))
    for repeat in range(repeats):
        noise = np.random.default_rng([seed, repeat]).standard_normal(latents.shape, "float32")
        noise *= np.asarray(spread, "float32")
        for i, epsilon in enumerate(epsilons):
            if repeat and epsilon == 0:
                scores[i] *= (repeat + 1) / repeat  # without noise there is nothing to repeat
                continue
            decoded = np.asarray(decode(latents + np.float32(epsilon) * noise))
            for j, (real, made, count) in enumerate(zip(originals, decoded, counts, strict=True)):
                real, made = _pair(real[:count], made[:count])
                scores[i, j] += buan(real, made, threshold), mse(real, made).mean()
    scores /= repeats
    sd = scores.std(axis=1, ddof=1) if len(latents) > 1 else np.full((len(epsilons), 2), np.nan)
    means = scores.mean(axis=1)
    return pd.DataFrame(
        {
            "epsilon": epsilons,
            "buan": means[:, 0],
            "buan_sd": sd[:, 0],
            "mse": means[:, 1],
            "mse_sd": sd[:, 1],
        }
    )


def area_under(curve, measure="buan"):
    """Mean height of a curve of `robustness` over its range of ε, by trapezoids.

    Args:
        curve: `pandas.DataFrame` with `epsilon`, rising, and `measure`.
        measure: the column. Default "buan", for which the area is in [0, 1].

    Returns:
        float; the value itself where there is one ε only.
    """
    x, y = curve["epsilon"].to_numpy("float64"), curve[measure].to_numpy("float64")
    if len(x) == 1:
        return float(y[0])
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def shape_statistics(streamlines, scale_mm=1.0):
    """Length, curvature, straightness and spread of the streamlines of a bundle.

    Args:
        streamlines: `(n, points, 3)`, three or more points.
        scale_mm: mm per unit of the coordinates. Default 1: they are in mm.

    Returns:
        `pandas.DataFrame`, a row per streamline: `length` (mm); `curvature` (1/mm: the mean over
        inner points of the turn there in radians over the mean length of the steps before and
        after; 1/r on a circle of radius r); `straightness` (distance of the ends / length, 1 for a
        line); `spread` (mm: mean MDF distance to the other streamlines, after resampling to 20
        points; NaN for a single one).

    Raises:
        ValueError: the streamlines are not shaped as described.
    """
    streamlines = _bundle(streamlines, "streamlines") * float(scale_mm)
    steps = np.diff(streamlines, axis=1)
    sizes = np.linalg.norm(steps, axis=-1)
    length = sizes.sum(axis=1)
    before, after = steps[:, :-1], steps[:, 1:]
    turn = np.arctan2(
        np.linalg.norm(np.cross(before, after), axis=-1), np.sum(before * after, axis=-1)
    )
    way = 0.5 * (sizes[:, :-1] + sizes[:, 1:])
    bend = np.divide(turn, way, out=np.full_like(turn, np.nan), where=way > 0)
    ends = np.linalg.norm(streamlines[:, -1] - streamlines[:, 0], axis=-1)
    spread = np.full(len(streamlines), np.nan)
    if len(streamlines) > 1:
        coarse = resample(streamlines, BUAN_POINTS)
        spread = mdf(coarse, coarse).sum(axis=1) / (len(coarse) - 1)
    return pd.DataFrame(
        {
            "length": length,
            "curvature": _nan_mean(bend),
            "straightness": np.divide(
                ends, length, out=np.full_like(ends, np.nan), where=length > 0
            ),
            "spread": spread,
        }
    )


def shape_table(real, generated, real_counts=None, generated_counts=None, *, scale_mm=None):
    """Shapes of generated streamlines beside those of real ones.

    Args:
        real: `(samples, streamlines, points, 3)`.
        generated: of that shape, any number of samples.
        real_counts: real streamlines of each sample. Default: all.
        generated_counts: the same of `generated`.
        scale_mm: mm per unit of the coordinates. Default: not known, and all is in units.

    Returns:
        `pandas.DataFrame`, a row per measure of `shape_statistics`: `measure`, `unit`, `real` and
        `generated` (means over streamlines), `real_sd` and `generated_sd`, `difference` (generated
        − real, in pooled standard deviations: Cohen's d; 0.2 is small, 0.8 large), and `ks`
        (largest distance of the cumulative distributions, 0 alike to 1 apart: Kolmogorov-Smirnov).
        Spread is within a sample.
    """
    tables = [
        pd.concat(
            [
                shape_statistics(sample[:count], scale_mm or 1.0)
                for sample, count in zip(samples, _counts(samples, counts), strict=True)
            ],
            ignore_index=True,
        )
        for samples, counts in ((real, real_counts), (generated, generated_counts))
    ]
    rows = []
    for name, unit in SHAPES.items():
        a, b = (table[name].dropna().to_numpy() for table in tables)
        row = {"measure": name, "unit": unit if scale_mm else unit.replace("mm", "unit")}
        for kind, values in (("real", a), ("generated", b)):
            row[kind] = values.mean() if len(values) else np.nan
            row[f"{kind}_sd"] = values.std(ddof=1) if len(values) > 1 else np.nan
        pooled = np.sqrt(0.5 * (row["real_sd"] ** 2 + row["generated_sd"] ** 2))
        apart = row["generated"] - row["real"]
        row["difference"] = apart / pooled if pooled > 0 else (0.0 if apart == 0 else np.nan)
        row["ks"] = ks_2samp(a, b).statistic if len(a) and len(b) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def code_histograms(codes, num_codes, *, depth=False):
    """How often each code stands in each map, as features of a classifier.

    Args:
        codes: integers `(n, *grid)`, or `(n, *grid, depth)` of a residual quantiser.
        num_codes: size of a codebook.
        depth: True where the last axis is the depth: each depth has a codebook, and a histogram,
            of its own. Default False.

    Returns:
        float64 `(n, num_codes)` or `(n, depth · num_codes)`: shares; of each depth they sum to 1.

    Raises:
        ValueError: a code is out of range or not an integer.
    """
    codes = whole_numbers(codes, "codes", num_codes)
    if not depth:
        codes = codes[..., None]
    layers = codes.reshape(len(codes), -1, codes.shape[-1])
    found = np.zeros((len(codes), codes.shape[-1], num_codes))
    rows, _, depths = np.indices(layers.shape)
    np.add.at(found, (rows, depths, layers), 1.0 / max(layers.shape[1], 1))
    return found.reshape(len(codes), -1)


def depth_usage(codes, num_codes):
    """Use of the codebook of each depth of a residual quantiser.

    Args:
        codes: integers `(..., depth)`.
        num_codes: size of each codebook.

    Returns:
        `pandas.DataFrame`, a row per depth: `depth` (from 1), `used`, `fraction`, `entropy_bits`
        and `perplexity`, see `code_usage`. The entropies add up to the bits of a place when every
        code is coded alone.
    """
    codes = np.asarray(codes)
    rows = []
    for i in range(codes.shape[-1]):
        found = code_usage(codes[..., i], num_codes)
        keys = ("used", "fraction", "entropy_bits", "perplexity")
        rows.append({"depth": i + 1, **{key: found[key] for key in keys}})
    return pd.DataFrame(rows)


def classify_bundles(features, labels, groups=None, *, components=50, folds=5, seed=0):
    """Can the name of a bundle be told from its features? Cross-validated logistic regression.

    Features are standardised, turned to principal components, and given to a logistic regression
    with scikit-learn's default penalty; all of this is fitted on training folds alone.

    Args:
        features: `{name: (n, ...)}`, such as codes as histograms, latents, and raw coordinates to
            compare with; flattened.
        labels: the bundle of each sample, `(n,)`.
        groups: the subject of each sample: one never trains and tests. Default: each sample is its
            own, which flatters where samples of one subject are on both sides.
        components: principal components kept at most.
        folds: int ≥ 2; fewer where a bundle has fewer groups.
        seed: of the folds.

    Returns:
        `pandas.DataFrame`, a row per set of features and a last one, "chance", that always names
        the most frequent bundle: `features`, `numbers` (how many each sample has), `accuracy` and
        `balanced_accuracy` (mean over bundles of the share found) over all tested samples,
        `samples`, `groups` and `folds`.

    Raises:
        UserError: there is one bundle only, or a bundle is found in one group only.
        ValueError: features and labels are not equally many.
    """
    names, labels = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    features = {name: np.asarray(x, "float64") for name, x in features.items()}
    sizes = {len(labels), len(groups), *(len(x) for x in features.values())}
    if len(sizes) > 1:
        raise ValueError(f"features, labels and groups must be equally many. Received: {sizes}")
    if len(names) < 2:
        raise UserError(f"labels: found {', '.join(names)} only; expected two or more bundles")
    spans = [len(np.unique(groups[labels == i])) for i in range(len(names))]
    if min(spans) < 2:
        raise UserError(
            f"labels: bundle {names[int(np.argmin(spans))]} is found in one group only; expected "
            "two or more, to train on one and test on another"
        )
    used = min(folds, *spans)
    split = StratifiedGroupKFold(used, shuffle=True, random_state=seed)
    splits = list(split.split(np.zeros((len(labels), 1)), labels, groups))
    common = {"samples": len(labels), "groups": len(np.unique(groups)), "folds": used}
    rows = []
    for name, x in features.items():
        x = x.reshape(len(x), -1)
        found = np.empty_like(labels)
        for train, test in splits:
            kept = min(components, len(train), x.shape[1])
            model = make_pipeline(
                StandardScaler(),
                PCA(
                    kept,
                    svd_solver="full" if kept > 0.8 * min(x[train].shape) else "randomized",
                    random_state=seed,
                ),
                LogisticRegression(max_iter=500),
            )
            # Features that never change have no components: they are at chance, no fault.
            with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
                # An optimiser that stops early is as good for this as one that converges.
                warnings.simplefilter("ignore", ConvergenceWarning)
                found[test] = model.fit(x[train], labels[train]).predict(x[test])
        rows.append({"features": name, "numbers": x.shape[1], **_accuracy(labels, found), **common})
    most = np.full_like(labels, np.bincount(labels).argmax())
    rows.append({"features": "chance", "numbers": 0, **_accuracy(labels, most), **common})
    return pd.DataFrame(rows)


def _accuracy(labels, found):
    return {
        "accuracy": float(accuracy_score(labels, found)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, found)),
    }


def _buan_of_clusters(a, b, threshold, clust_thr, seed):
    # dipy takes a second to import: only who clusters waits for it.
    from dipy.segment.bundles import bundle_shape_similarity

    a, b = (list(x[np.isfinite(x).all(axis=(1, 2))].astype("float32")) for x in (a, b))
    if not a or not b:
        return 0.0
    rng = np.random.default_rng(seed)
    return float(bundle_shape_similarity(a, b, rng, clust_thr=list(clust_thr), threshold=threshold))


def _for_buan(streamlines):
    """The different streamlines, resampled as dipy does: once to cluster, once to compare."""
    rows = np.unique(streamlines.reshape(len(streamlines), -1), axis=0)
    distinct = rows.reshape(-1, *streamlines.shape[1:])
    return resample(resample(distinct, BUAN_POINTS), BUAN_POINTS)


def _nearest_mdf(a, b):
    """MDF from each streamline to the nearest of the other bundle: `(n,)` and `(m,)`."""
    size = max(CHUNK // len(b), 1)
    near_a, near_b = np.empty(len(a)), np.full(len(b), np.inf)
    for start in range(0, len(a), size):
        part = slice(start, start + size)
        found = mdf(a[part], b)
        found[np.isnan(found)] = np.inf
        near_a[part] = found.min(axis=1)
        near_b = np.minimum(near_b, found.min(axis=0))
    return near_a, near_b


def _distances(a, b):
    """Euclidean distances of `(n, 3)` and `(m, 3)`: `(n, m)`."""
    return np.sqrt(sum((a[:, None, i] - b[None, :, i]) ** 2 for i in range(3)))


def _closest(a, b):
    """Mean and largest distance to the closest point, both ways: `(...)` each."""
    a, b = _pair(a, b)
    shape, points = a.shape[:-2], a.shape[-2]
    a, b = a.reshape(-1, points, 3), b.reshape(-1, points, 3)
    mean, largest = np.empty((2, len(a)))
    size = max(CHUNK // points**2, 1)
    for start in range(0, len(a), size):
        part = slice(start, start + size)
        apart = sum((a[part, :, None, i] - b[part, None, :, i]) ** 2 for i in range(3))
        there, back = np.sqrt(apart.min(axis=2)), np.sqrt(apart.min(axis=1))
        mean[part] = 0.5 * (there.mean(axis=1) + back.mean(axis=1))
        largest[part] = np.maximum(there.max(axis=1), back.max(axis=1))
    return mean.reshape(shape), largest.reshape(shape)


def _nan_mean(values):
    """Mean of each row over what is not NaN; NaN for a row without any."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _bundle(streamlines, name):
    streamlines = np.asarray(streamlines, "float64")
    if streamlines.ndim != 3 or streamlines.shape[1] < 2 or streamlines.shape[-1] != 3:
        raise ValueError(
            f"{name} must be (n, points, 3) with two or more points. "
            f"Received: shape {streamlines.shape}"
        )
    return streamlines


def _pair(a, b):
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    if a.shape != b.shape or a.ndim < 2 or a.shape[-1] != 3:
        raise ValueError(
            f"streamlines must be (..., points, 3) and alike. Received: {a.shape} and {b.shape}"
        )
    return a, b


def _counts(samples, counts):
    """Real streamlines of each sample, checked: int `(samples,)`."""
    rows = [len(sample) for sample in samples]
    if counts is None:
        return np.array(rows, int)
    counts = np.asarray(counts)
    if counts.shape != (len(rows),) or (counts < 1).any() or (counts > rows).any():
        raise ValueError(
            f"counts must be one for each of {len(rows)} samples, from 1 to its streamlines. "
            f"Received: {counts.tolist()}"
        )
    return counts.astype(int)
