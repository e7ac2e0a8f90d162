"""How alike two bundles of streamlines are, sample by sample, and when latents are disturbed.

A bundle is `(n, points, 3)`, streamlines of equally many points; a stack of samples is
`(samples, streamlines, points, 3)`, with `counts` saying how many rows of each are real: the rest
repeats them and never counts. Coordinates are in units of the model, [-1, 1] for the whole brain,
or in mm; every measure that is a length says in which. `scale_mm` is how many mm a unit is.

The paper (Lizarraga et al. 2023) measures by the bundle shape similarity of BUAN (Chandio et al.,
2020), as dipy computes it: 0 for bundles with nothing in common, 1 for bundles in which every
streamline has one of the other bundle nearby. Near is a mean distance below a threshold, after
resampling to 20 points, in the better of both directions (MDF: Garyfallidis et al., 2012). With a
clustering threshold of 0, as in the paper, no two different streamlines are merged, and the measure
is a plain count.
"""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

THRESHOLD = 0.05  # units of [-1, 1]; Lizarraga et al. 2023
THRESHOLD_MM = 6.0  # dipy's default
CLUSTERS_MM = (5.0, 3.0, 1.5)  # mm; dipy's default, from coarse to fine
BUAN_POINTS = 20  # dipy resamples to these before it compares
CHUNK = 2**20  # pairs of streamlines compared at once: three float64 arrays of 8 MB
EPSILONS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)  # see `robustness`


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
        seed: int, of the order in which dipy clusters; without clusters nothing is random. Default
            0.

    Returns:
        float in [0, 1]: the mean of the shares of both bundles' streamlines (or clusters) that
        have one of the other bundle nearer than the threshold; 0 where a bundle is empty. A
        streamline that holds NaN is near to none.

    Raises:
        ValueError: the arrays are not shaped as described.
    """
    a, b = check_bundle(a, "a"), check_bundle(b, "b")
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
        seed: int, of the order in which streamlines are clustered. Default 0.

    Returns:
        float in [0, 1].

    Raises:
        ValueError: the arrays are not shaped as described.
    """
    return buan(a, b, THRESHOLD_MM, CLUSTERS_MM, seed)


def resample(streamlines, points):
    """Streamlines of other counts of points, evenly spaced along their length.

    Args:
        streamlines: `(n, k, 3)`, k ≥ 2 points each.
        points: int ≥ 2.

    Returns:
        float64 `(n, points, 3)`, as dipy's `set_number_of_points` gives; ends stay where they are.
        Those without length stay as they are, and those with a coordinate that is not finite are
        all NaN, where dipy's function gives what memory held.
    """
    from dipy.tracking.streamline import set_number_of_points  # a second to import

    streamlines = np.asarray(streamlines, "float64")
    if not len(streamlines):
        return np.zeros((0, points, 3))
    found = np.stack(set_number_of_points(list(streamlines), nb_points=points))
    still = (streamlines == streamlines[:, :1]).all(axis=(1, 2))
    found[still] = streamlines[still, :1]
    found[~np.isfinite(streamlines).all(axis=(1, 2))] = np.nan
    return found


def mdf(a, b):
    """Minimum average direct-flip distance of every pair of streamlines.

    Args:
        a: `(n, points, 3)`.
        b: `(m, points, 3)`, equally many points.

    Returns:
        float64 `(n, m)`: the mean distance from point i to point i, or to point points − i where
        that is less: the direction of a streamline means nothing. Computed in float32.
    """
    from dipy.tracking.distances import bundles_distances_mdf  # a second to import

    return bundles_distances_mdf(np.asarray(a, "float32"), np.asarray(b, "float32"))


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
    a, b = (check_bundle(x, name).reshape(-1, 3) for x, name in ((a, "a"), (b, "b")))
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
        names: `(samples,)`, the bundle of each sample.
        counts: int `(samples,)`, real streamlines of each sample, 1 or more. Default: all.
        threshold: that of `buan`, in units. Default 0.05.
        scale_mm: mm per unit. Default: not known, and measures in mm are left out.
        seed: int, of `buan_mm`. Default 0.

    Returns:
        `pandas.DataFrame`, a row per sample: `bundle`, `streamlines` (real ones), `buan`, `mse`,
        `distance` (`mean_point_distance`) and `closest` (`closest_point_distance`), means over the
        streamlines, in units; with `scale_mm` also `buan_mm`, `distance_mm` and `closest_mm`.

    Raises:
        ValueError: the arrays do not agree.
    """
    counts = check_counts(originals, counts)
    if not len(originals) == len(reconstructions) == len(names):
        raise ValueError(
            "originals, reconstructions and names must be equally many. "
            f"Received: {len(originals)}, {len(reconstructions)} and {len(names)}"
        )
    rows = []
    for name, real, restored, count in zip(names, originals, reconstructions, counts, strict=True):
        real, restored = _pair(real[:count], restored[:count])
        row = {
            "bundle": str(name),
            "streamlines": int(count),
            "buan": buan(real, restored, threshold),
            "mse": mse(real, restored).mean(),
            "distance": mean_point_distance(real, restored).mean(),
            "closest": closest_point_distance(real, restored).mean(),
        }
        if scale_mm is not None:
            row["buan_mm"] = buan_mm(real * scale_mm, restored * scale_mm, seed)
            row["distance_mm"] = row["distance"] * scale_mm
            row["closest_mm"] = row["closest"] * scale_mm
        rows.append(row)
    columns = ["bundle", "streamlines", *MEASURES, *(MEASURES_MM if scale_mm is not None else ())]
    return pd.DataFrame(rows, columns=columns)


def bundle_table(originals, reconstructions, names, counts=None, **options):
    """Measures of every bundle, mean and standard deviation over its samples.

    Args:
        originals: `(samples, streamlines, points, 3)`, in units.
        reconstructions: of that shape, or a sequence of its samples.
        names: `(samples,)`, the bundle of each sample.
        counts: int `(samples,)`, real streamlines of each sample, 1 or more. Default: all.
        **options: `threshold`, `scale_mm` and `seed` of `sample_table`.

    Returns:
        `pandas.DataFrame`, a row per bundle in order of appearance: `bundle`, `samples`,
        `streamlines`, and for each measure of `sample_table` its mean and `<measure>_sd` (sample
        standard deviation, NaN for a single sample).
    """
    return per_bundle(sample_table(originals, reconstructions, names, counts, **options))


def per_bundle(table):
    """A table of `sample_table` as one of `bundle_table`: a row per bundle."""
    groups = table.groupby("bundle", sort=False)
    means = pd.DataFrame({"samples": groups.size(), "streamlines": groups["streamlines"].sum()})
    for name in (*MEASURES, *MEASURES_MM):
        if name in table:
            means[name], means[f"{name}_sd"] = groups[name].mean(), groups[name].std(ddof=1)
    return means.reset_index()


def mean_over_bundles(table):
    """Means over the bundles of a `bundle_table`, each bundle counting alike: dict of floats."""
    return {name: float(table[name].mean()) for name in (*MEASURES, *MEASURES_MM) if name in table}


def channel_spread(latents):
    """Standard deviation of each channel of latents `(..., channels)`: float64 `(channels,)`."""
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

    The noise of a channel is Gaussian with ε times the standard deviation of that channel, so that
    ε means the same for every model: at 1 the noise has the variance of the latents. Lizarraga et
    al. 2023 add noise of standard deviation ε to the latents of all models: `spread=1.0`.

    Args:
        decode: function of latents `(samples, ..., channels)` to `(samples, streamlines, points,
            3)`, which does all that the model does after the noise, such as quantise.
        latents: float `(samples, ..., channels)`, encoded from `originals`.
        originals: `(samples, streamlines, points, 3)`, in units.
        counts: int `(samples,)`, real streamlines of each sample. Default: all.
        epsilons: `(e,)`, sizes of the noise, not negative and rising. Default: ten from 0 to 1.
        spread: `(channels,)` or float, what ε is a multiple of; best from training latents.
            Default: `channel_spread` of `latents`.
        repeats: int ≥ 1, draws of the noise for each ε, whose measures are averaged. Default 1.
        threshold: that of `buan`, in units. Default 0.05.
        seed: int, of the noise. Every ε scales the same draws. Default 0.

    Returns:
        `pandas.DataFrame`, a row per ε: `epsilon`, `buan`, `buan_sd`, `mse` and `mse_sd`, mean and
        standard deviation over samples (NaN for a single one).

    Raises:
        ValueError: the epsilons do not rise from 0 or more, or the arrays do not agree.
    """
    epsilons = np.asarray(epsilons, "float64")
    rising = epsilons.ndim == 1 and len(epsilons) and (np.diff(epsilons) > 0).all()
    if not rising or epsilons[0] < 0:
        raise ValueError(f"epsilons must rise from 0 or more. Received: {epsilons.tolist()}")
    latents, counts = np.asarray(latents, "float32"), check_counts(originals, counts)
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
            scores[i] += _buan_and_mse(originals, decoded, counts, threshold)
    scores /= repeats
    sd = scores.std(axis=1, ddof=1) if len(latents) > 1 else np.full((len(epsilons), 2), np.nan)
    columns = {"epsilon": epsilons}
    for name, mean, deviation in zip(("buan", "mse"), scores.mean(axis=1).T, sd.T, strict=True):
        columns |= {name: mean, f"{name}_sd": deviation}
    return pd.DataFrame(columns)


def _buan_and_mse(originals, decoded, counts, threshold):
    """float64 `(samples, 2)`."""
    scores = np.empty((len(counts), 2))
    for row, real, restored, count in zip(scores, originals, decoded, counts, strict=True):
        real, restored = _pair(real[:count], restored[:count])
        row[:] = buan(real, restored, threshold), mse(real, restored).mean()
    return scores


def area_under(curve, measure="buan"):
    """Mean height of a curve of `robustness` over its range of ε, by trapezoids.

    Args:
        curve: `pandas.DataFrame` with the columns `epsilon`, rising, and `measure`.
        measure: the column. Default "buan", for which the area is in [0, 1].

    Returns:
        float; the value itself where there is one ε only.
    """
    x, y = curve["epsilon"].to_numpy("float64"), curve[measure].to_numpy("float64")
    if len(x) == 1:
        return float(y[0])
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


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
        apart = mdf(a[part], b)
        apart[np.isnan(apart)] = np.inf
        near_a[part] = apart.min(axis=1)
        near_b = np.minimum(near_b, apart.min(axis=0))
    return near_a, near_b


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


def check_bundle(streamlines, name):
    """A bundle as float64 `(n, points, 3)`; `ValueError` where it is not shaped so."""
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


def check_counts(samples, counts):
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
