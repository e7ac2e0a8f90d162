"""How good generated volumes are: sharp, diverse, faithful to the data, and new.

Samples are compared with real volumes that training never saw, all on one intensity scale, as
`(n, *grid)` or `(n, *grid, 1)`. No single figure is enough. A blurred mean brain is near to
everything, noise is sharp, and a copy of the training volumes is faithful and diverse; so each
measure comes with what real volumes score on it.

Arrays may be memory maps: they are read a chunk at a time. Intervals are from a bootstrap over
volumes, or over subjects where these are given, since scans of one subject are alike. They say how
much a figure depends on which volumes were compared, not on which the model was trained on.
"""

import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion, binary_fill_holes, generate_binary_structure

from brainvq.errors import UserError
from brainvq.evaluation.bootstrap import group_numbers, interval, ratio, resample_weights
from brainvq.evaluation.distances import (
    corrected_frechet,
    kernel_distance,
    resampled_kernel_distance,
)
from brainvq.evaluation.feature_spaces import PCASpace, WaveletSpace
from brainvq.evaluation.images import CHUNK, chunks, grid_of, take
from brainvq.evaluation.similarity import foreground, ms_ssim, ms_ssim_scales

SHARPNESS = ("gradient", "laplacian", "gradient_foreground", "laplacian_foreground")
INNER_SHARE = 0.95
ROWS_A_DIMENSION = 3  # fewer volumes than that: the Fréchet distance is bias above all
NEAR_QUANTILE = 0.05  # of the unseen volumes' distances


def sharpness(x, *, ndim=3, inside=None, data_range=1.0):
    """How steeply and unevenly intensity changes from voxel to voxel.

    `gradient` is the mean magnitude of the gradient by central differences, in intensity per
    voxel; `laplacian` the mean squared Laplacian (the sum of second differences along each axis).
    Noise raises both, the Laplacian most: sharp is as sharp as real, not more.

    Args:
        x: `(n, *grid)` or `(n, *grid, 1)`, at least 3 voxels along each axis.
        ndim: 2 or 3. Default 3.
        inside: bool `(*grid)`, where the foreground is in all volumes, see `inner_foreground`.
            Default: the foreground of each volume. Voxels count whose neighbours along the axes
            are all inside: the outline of the head is the steepest edge, and every model has it.
        data_range: the distance between the lowest and highest possible intensity. Default 1.

    Returns:
        `pandas.DataFrame`, a row per volume: `gradient`, `laplacian`, `gradient_foreground` and
        `laplacian_foreground`; the last two NaN where the foreground is empty.

    Raises:
        ValueError: the arrays are not shaped as described.
    """
    grid = grid_of(x, ndim, 3)
    if inside is not None and np.shape(inside) != grid:
        raise ValueError(f"inside must be of shape {grid}. Received: {np.shape(inside)}")
    inner = (slice(1, -1),) * ndim
    rows = []
    for part in chunks(x, ndim, 1):
        volume = part[0].astype("float64")
        squares, laplacian = 0.0, -2.0 * ndim * volume[inner]
        for axis in range(ndim):
            before, after = (
                volume[tuple(move if a == axis else slice(1, -1) for a in range(ndim))]
                for move in (slice(None, -2), slice(2, None))
            )
            squares = squares + (0.5 * (after - before)) ** 2
            laplacian += before + after
        gradient, energy = np.sqrt(squares), laplacian**2
        mask = inside
        if inside is None:
            mask = foreground(part, ndim=ndim, data_range=data_range)[0]
        mask = binary_erosion(mask, generate_binary_structure(ndim, 1))[inner]
        empty = not mask.any()
        rows.append(
            (
                gradient.mean(),
                energy.mean(),
                np.nan if empty else gradient[mask].mean(),
                np.nan if empty else energy[mask].mean(),
            )
        )
    return pd.DataFrame(rows, columns=list(SHARPNESS), dtype="float64")


def inner_foreground(x, *, ndim=3, share=INNER_SHARE, data_range=1.0):
    """Where nearly all volumes have foreground: one region to compare samples and real volumes in.

    A blurred volume fades out at its border, and its own foreground then takes in the fading, which
    is steep; so samples must not be measured in their own.

    Args:
        x: real volumes, `(n, *grid)` or `(n, *grid, 1)`, roughly in one place.
        ndim: 2 or 3. Default 3.
        share: of the volumes, in (0, 1]. Default 0.95.
        data_range: the distance between the lowest and highest possible intensity. Default 1.

    Returns:
        bool `(*grid)`; holes, such as dark ventricles, are filled.
    """
    count = np.zeros(grid_of(x, ndim, 1))
    for part in chunks(x, ndim):
        count += foreground(part, ndim=ndim, data_range=data_range).sum(axis=0)
    return binary_fill_holes(count >= share * len(x))


def compare_sharpness(
    samples, real, *, ndim=3, subjects=None, data_range=1.0, draws=2000, level=0.95, seed=0
):
    """Mean sharpness of samples, divided by that of real volumes.

    The foreground is the `inner_foreground` of the real volumes for both.

    Args:
        samples: `(n, *grid)` or `(n, *grid, 1)`.
        real: `(m, *grid)` or `(m, *grid, 1)`, unseen volumes.
        ndim: 2 or 3. Default 3.
        subjects: the subject of each real volume. Default: each is its own.
        data_range: the distance between the lowest and highest possible intensity. Default 1.
        draws: resamples of the bootstrap. Default 2000.
        level: share of the resamples inside the interval, in (0, 1). Default 0.95.
        seed: int. Default 0.

    Returns:
        `pandas.DataFrame`, a row per measure of `sharpness`: `measure`, `samples` and `real`
        (means), `ratio` (1 is as sharp as real), `low`, `high`, `n_samples` and `n_real`, volumes
        that have the measure. NaN where none has.

    Raises:
        ValueError: arrays are not shaped as described.
    """
    options = {"ndim": ndim, "data_range": data_range}
    options["inside"] = inner_foreground(real, **options)
    tables = {"samples": sharpness(samples, **options), "real": sharpness(real, **options)}
    weights = _weights_of(len(samples), len(real), subjects, draws, np.random.default_rng(seed))
    rows = []
    for measure in SHARPNESS:
        row, resampled = {"measure": measure}, []
        for (name, table), weight in zip(tables.items(), weights, strict=True):
            values = table[measure].to_numpy()
            known = ~np.isnan(values)
            row[name] = values[known].mean() if known.any() else np.nan
            resampled.append(_weighted_mean(values[known], weight[:, known]))
            row[f"n_{name}"] = int(known.sum())
        row["ratio"] = ratio(row["samples"], row["real"])
        row["low"], row["high"] = interval(ratio(*resampled), level)
        rows.append(row)
    columns = ["measure", "samples", "real", "ratio", "low", "high", "n_samples", "n_real"]
    return pd.DataFrame(rows, columns=columns)


def diversity(
    samples,
    real,
    *,
    ndim=3,
    subjects=None,
    pairs=500,
    window=7,
    gaussian=False,
    data_range=1.0,
    draws=2000,
    level=0.95,
    seed=0,
):
    """How alike samples are to one another, beside how alike real volumes are.

    The mean `ms_ssim` over pairs, as Odena, Olah and Shlens (2017) took it; lower is more diverse.
    Samples more alike than real volumes show that the model makes the same few volumes. Less alike
    is no merit by itself: noise is. Two scans of one subject are no pair.

    Args:
        samples: `(n, *grid)` or `(n, *grid, 1)`, n at least 2.
        real: `(m, *grid)` or `(m, *grid, 1)` of at least 2 subjects, unseen volumes.
        ndim: 2 or 3. Default 3.
        subjects: the subject of each real volume. Default: each is its own.
        pairs: most pairs of each, drawn at random without repetition. Default 500.
        window: of `ms_ssim`. Default 7.
        gaussian: of `ms_ssim`. Default False.
        data_range: the distance between the lowest and highest possible intensity. Default 1.
        draws: resamples of the bootstrap. Pairs share volumes, so volumes are drawn, and a pair
            counts as often as both of its volumes together. Default 2000.
        level: share of the resamples inside the interval, in (0, 1). Default 0.95.
        seed: int. Default 0.

    Returns:
        `pandas.DataFrame`, a row for `samples`, `real` and `samples minus real`: `of`, `ms_ssim`,
        `low`, `high`, `pairs`, `volumes` (how many the pairs are of) and `scales`.

    Raises:
        UserError: there are fewer than two samples, or real volumes of fewer than two subjects.
        ValueError: arrays are not shaped as described.
    """
    options = {"ndim": ndim, "window": window, "gaussian": gaussian, "data_range": data_range}
    scales = ms_ssim_scales(grid_of(samples, ndim, 1), window=window, gaussian=gaussian)
    rng = np.random.default_rng(seed)
    rows, resampled = [], []
    for name, x, groups in (("samples", samples, None), ("real", real, subjects)):
        grid_of(x, ndim, 1)
        groups = group_numbers(groups, len(x), "volume")
        first, second = _pairs(groups, pairs, name, rng)
        alike = _similarity_of_pairs(x, first, second, options)
        weights = resample_weights(groups, draws, rng)
        resampled.append(_weighted_mean(alike, weights[:, first] * weights[:, second]))
        counts = len(alike), len(np.unique([first, second]))
        rows.append((name, alike.mean(), *interval(resampled[-1], level), *counts, scales))
    ends = interval(resampled[0] - resampled[1], level)
    counts = (min(row[i] for row in rows) for i in (4, 5))
    rows.append(("samples minus real", rows[0][1] - rows[1][1], *ends, *counts, scales))
    columns = ["of", "ms_ssim", "low", "high", "pairs", "volumes", "scales"]
    return pd.DataFrame(rows, columns=columns)


def fidelity(
    samples,
    real,
    train,
    *,
    ndim=3,
    components=32,
    data_range=1.0,
    subjects=None,
    draws=300,
    level=0.95,
    seed=0,
):
    """Distance of the distribution of samples from that of real volumes, in two spaces.

    `frechet` (`frechet_distance`) and `kernel` (`kernel_distance`), in the space of the principal
    components of training volumes (`PCASpace`), which is about shape and brightness, and in one of
    fixed features (`WaveletSpace`), which is about texture. Two figures say what a distance is
    worth: `reference`, that of as many training volumes as there are samples (or of all), which no
    generator can be expected to beat; and `mean_volume`, that of the mean training volume alone.

    Args:
        samples: `(n, *grid)` or `(n, *grid, 1)`, n at least 2.
        real: `(m, *grid)` or `(m, *grid, 1)`, m at least 2, unseen volumes.
        train: `(k, *grid)` or `(k, *grid, 1)`, k at least 2, what the model was trained on.
        ndim: 2 or 3. Default 3.
        components: int ≥ 1, most components of `PCASpace`. Default 32.
        data_range: the distance between the lowest and highest possible intensity. Default 1.
        subjects: the subject of each real volume. Default: each is its own.
        draws: resamples of the bootstrap. Default 300.
        level: share of the resamples inside the interval, in (0, 1). Default 0.95.
        seed: int. Default 0.

    Returns:
        `pandas.DataFrame`, a row per space and measure: `space` ("pca" or "wavelet"), `measure`,
        `value`, `corrected`, `low`, `high`, `reference`, `mean_volume`, `dim`, `note`, `n_samples`,
        `n_real` and `n_reference`. The Fréchet distance is taken in the first dimensions, a third
        as many as volumes; `note` says where these are not all. `value` is the plain distance; its
        other figures are at least 0, corrected for the bias of few volumes by the bootstrap
        (Davison and Hinkley 1997, sections 2.1 and 5.2).

    Raises:
        UserError: there are too few volumes.
        ValueError: arrays are not shaped as described.
    """
    rng = np.random.default_rng(seed)
    volumes = _with_references(samples, real, train, ndim, rng)
    pca = PCASpace(components, ndim=ndim, seed=seed)
    wavelet = WaveletSpace(ndim=ndim, data_range=data_range)
    weights = _weights_of(len(samples), len(real), subjects, draws, rng)
    rows = []
    for name, space in (("pca", pca), ("wavelet", wavelet)):
        space.fit(train)
        features = {key: space.transform(x) for key, x in volumes.items()}
        features["mean_volume"] = np.repeat(features["mean_volume"], len(samples), axis=0)
        rows.append({"space": name, **_frechet_row(features, weights, level, rng)})
        rows.append({"space": name, **_kernel_row(features, weights, level)})
    counts = {f"n_{name}": len(volumes[name]) for name in ("samples", "real", "reference")}
    return pd.DataFrame(rows).assign(**counts)


def _with_references(samples, real, train, ndim, rng):
    """What `fidelity` compares, checked: dict of name to volumes `(n, *grid)`."""
    for name, x in (("samples", samples), ("real volumes", real), ("training volumes", train)):
        grid_of(x, ndim, 2)
        if len(x) < 2:
            raise UserError(f"fidelity: found {len(x)} {name}; expected two or more")
    picked = np.sort(rng.choice(len(train), min(len(train), len(samples)), replace=False))
    mean = sum(part.sum(axis=0, dtype="float64") for part in chunks(train, ndim)) / len(train)
    return {
        "samples": samples,
        "real": real,
        "reference": take(train, picked, ndim),
        "mean_volume": mean[None],
    }


def _frechet_row(features, weights, level, rng):
    """A row of `fidelity`; `features` is a dict of name to `(volumes, dim)`."""
    few = min(len(features["samples"]), len(features["real"])) // ROWS_A_DIMENSION
    dim = features["real"].shape[1]
    used = max(1, min(dim, few))
    first = {name: x[:, :used] for name, x in features.items()}
    value, corrected, resampled = corrected_frechet(first["samples"], first["real"], weights)
    low, high = interval(resampled, level)
    row = {
        "measure": "frechet",
        "value": value,
        "corrected": corrected,
        "low": max(2 * value - high, 0.0),
        "high": max(2 * value - low, 0.0),
    }
    for name in ("reference", "mean_volume"):
        own = resample_weights(np.arange(len(first[name])), len(weights[0]), rng)
        row[name] = corrected_frechet(first[name], first["real"], [own, weights[1]])[1]
    row["dim"] = used
    row["note"] = "" if used == dim else f"first {used} of {dim} dimensions: few volumes"
    return row


def _kernel_row(features, weights, level):
    """A row of `fidelity`; the kernel distance has no bias to correct."""
    value = kernel_distance(features["samples"], features["real"])
    resampled = resampled_kernel_distance(features["samples"], features["real"], weights)
    low, high = interval(resampled, level)
    row = {"measure": "kernel", "value": value, "corrected": value, "low": low, "high": high}
    for name in ("reference", "mean_volume"):
        row[name] = kernel_distance(features[name], features["real"])
    return row | {"dim": features["real"].shape[1], "note": ""}


def nearest_training(queries, train, *, ndim=3, neighbours=10, chunk=64):
    """How far each volume is from the training volumes.

    Blurred volumes are near to all others, so a small distance alone does not make a copy.
    Therefore also `relative`: the distance to the nearest, divided by the mean distance to the
    nearest `neighbours` (after Carlini et al. 2023, "Extracting training data from diffusion
    models", section 5.1). A copy is far nearer to one volume than to the next ones.

    Args:
        queries: `(n, *grid)` or `(n, *grid, 1)`.
        train: `(m, *grid)` or `(m, *grid, 1)`.
        ndim: 2 or 3. Default 3.
        neighbours: int ≥ 2; fewer where there are fewer training volumes. Default 10.
        chunk: volumes of each that are in memory at once. Default 64.

    Returns:
        `pandas.DataFrame`, a row per query: `nearest` (index into `train`), `distance` (root mean
        squared difference, in intensity) and `relative` (in [0, 1]; 1 where all are as near).

    Raises:
        UserError: there are fewer than two training volumes.
        ValueError: the grids differ.
    """
    grid = grid_of(queries, ndim, 1)
    if grid_of(train, ndim, 1) != grid:
        raise ValueError(
            f"queries and train must be of one grid. Received: {grid} and {np.shape(train)}"
        )
    if len(train) < 2:
        raise UserError(f"training volumes: found {len(train)}; expected two or more")
    neighbours = min(neighbours, len(train))
    index, distance = [], []
    for part in chunks(queries, ndim, chunk):
        part = part.reshape(len(part), -1).astype("float64")
        best = np.full((len(part), neighbours), np.inf)
        where = np.zeros((len(part), neighbours), "int64")
        for number, seen in enumerate(chunks(train, ndim, chunk)):
            seen = seen.reshape(len(seen), -1).astype("float64")
            squares = (part**2).sum(1)[:, None] + (seen**2).sum(1) - 2 * part @ seen.T
            best = np.concatenate([best, np.maximum(squares, 0.0)], axis=1)
            places = number * chunk + np.arange(len(seen))
            where = np.concatenate([where, np.tile(places, (len(part), 1))], axis=1)
            order = np.argsort(best, axis=1, kind="stable")[:, :neighbours]
            best, where = (np.take_along_axis(a, order, axis=1) for a in (best, where))
        index.append(where[:, 0])
        distance.append(np.sqrt(best / part.shape[1]))
    distance = np.concatenate(distance) if distance else np.zeros((0, neighbours))
    around = distance.mean(axis=1)
    relative = np.divide(distance[:, 0], around, out=np.ones(len(distance)), where=around > 0)
    return pd.DataFrame(
        {
            "nearest": np.concatenate(index) if index else np.zeros(0, "int64"),
            "distance": distance[:, 0],
            "relative": relative,
        }
    )


def memorisation(samples, unseen):
    """Whether samples lie nearer to the training volumes than unseen real volumes do.

    By chance about 5 % of the samples lie below the 5th percentile of the unseen volumes. Judge
    copies by `relative`; a blurred generator has a large share by `distance` without copying.

    Args:
        samples: table of `nearest_training` for samples.
        unseen: the same for real volumes that training never saw, at least one.

    Returns:
        `pandas.DataFrame`, a row for `distance` and `relative`: `measure`, `samples` and `unseen`
        (medians), `threshold` (5th percentile of the unseen), `share_nearer` (of the samples below
        it), `n_samples` and `n_unseen`.

    Raises:
        UserError: one of the tables is empty.
    """
    if len(samples) == 0 or len(unseen) == 0:
        raise UserError(
            f"memorisation: found {len(samples)} samples and {len(unseen)} unseen volumes; "
            "expected one or more of each"
        )
    rows = []
    for measure in ("distance", "relative"):
        generated, real = samples[measure].to_numpy(), unseen[measure].to_numpy()
        threshold = float(np.quantile(real, NEAR_QUANTILE))
        rows.append(
            {
                "measure": measure,
                "samples": float(np.median(generated)),
                "unseen": float(np.median(real)),
                "threshold": threshold,
                "share_nearer": float(np.mean(generated < threshold)),
                "n_samples": len(generated),
                "n_unseen": len(real),
            }
        )
    return pd.DataFrame(rows)


def _pairs(groups, most, name, rng):
    """Two index arrays of different pairs whose groups differ, at most `most`."""
    # Of more volumes than this, a draw of the volumes does: no pair has to share one.
    members = rng.permutation(len(groups))[: max(2 * most, 1000)]
    first, second = np.triu_indices(len(members), 1)
    first, second = members[first], members[second]
    apart = groups[first] != groups[second]
    first, second = first[apart], second[apart]
    if len(first) == 0:
        raise UserError(
            f"diversity: found {len(groups)} {'samples' if name == 'samples' else 'real volumes'} "
            f"of {len(np.unique(groups))} subjects; expected two or more"
        )
    picked = rng.permutation(len(first))[:most]
    return first[picked], second[picked]


def _similarity_of_pairs(x, first, second, options):
    """`ms_ssim` of the volumes at two lists of places: float64 `(pairs,)`."""
    alike = np.empty(len(first))
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        a, b = (take(x, index[part], options["ndim"]) for index in (first, second))
        alike[part] = ms_ssim(a, b, **options)
    return alike


def _weights_of(samples, real, subjects, draws, rng):
    """`resample_weights` of so many samples and so many real volumes of subjects."""
    groups = np.arange(samples), group_numbers(subjects, real, "volume")
    return [resample_weights(numbers, draws, rng) for numbers in groups]


def _weighted_mean(values, weights):
    return ratio(weights @ values, weights.sum(axis=1))
