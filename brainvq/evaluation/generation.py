"""How good generated volumes are: sharp, diverse, faithful to the data, and new.

Samples are compared with real volumes that training never saw, all on one intensity scale, as
`(n, *grid)` or `(n, *grid, 1)`. No single figure is enough. A blurred mean brain is near to
everything, noise is sharp, and a memory of the training volumes is faithful and diverse; so each
measure comes with what real volumes score on it.

Arrays may be memory maps: they are read a chunk at a time. Intervals are from a bootstrap over
volumes, or over subjects where these are given, since scans of one subject are alike. They say how
much a figure depends on which volumes were compared, not on which the model was trained on.
"""

import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion, binary_fill_holes, generate_binary_structure
from sklearn.covariance import ledoit_wolf

from brainvq.errors import UserError
from brainvq.evaluation.similarity import (
    _images,
    foreground,
    ms_ssim,
    ms_ssim_scales,
)

SHARPNESS = ("gradient", "laplacian", "gradient_foreground", "laplacian_foreground")
INNER_SHARE = 0.95
ROWS_A_DIMENSION = 3  # fewer volumes than that: the Fréchet distance is bias above all
NEAR_QUANTILE = 0.05  # of the unseen volumes' distances
_CHUNK = 16  # volumes in memory at once
_WAVELET_SCALES = 3
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LOG_FLOOR = 1e-4  # of the data range: a constant image keeps finite features


def sharpness(x, *, ndim=3, inside=None, data_range=1.0):
    """How steeply and unevenly intensity changes from voxel to voxel.

    `gradient` is the mean magnitude of the gradient by central differences, in intensity per
    voxel; `laplacian` the mean squared Laplacian (the sum of second differences along each axis).
    Noise raises both, the Laplacian most: sharp is as sharp as real, not more.

    Args:
        x: `(n, *grid)` or `(n, *grid, 1)`, at least 3 voxels along each axis.
        ndim: 2 or 3.
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
    grid = _check_grid(x, ndim, 3)
    if inside is not None and np.shape(inside) != grid:
        raise ValueError(f"inside must be of shape {grid}. Received: {np.shape(inside)}")
    inner = (slice(1, -1),) * ndim
    rows = []
    for part in _chunks(x, ndim, 1):
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
        ndim: 2 or 3.
        share: of the volumes, in (0, 1]. Default 0.95.
        data_range: the distance between the lowest and highest possible intensity. Default 1.

    Returns:
        bool `(*grid)`; holes, such as dark ventricles, are filled.
    """
    count = np.zeros(_check_grid(x, ndim, 1))
    for part in _chunks(x, ndim):
        count += foreground(part, ndim=ndim, data_range=data_range).sum(axis=0)
    return binary_fill_holes(count >= share * len(x))


def compare_sharpness(
    samples,
    real,
    *,
    ndim=3,
    subjects=None,
    data_range=1.0,
    draws=2000,
    level=0.95,
    seed=0,
):
    """Mean sharpness of samples, divided by that of real volumes.

    The foreground is the `inner_foreground` of the real volumes for both.

    Args:
        samples: `(n, *grid)` or `(n, *grid, 1)`.
        real: `(m, *grid)` or `(m, *grid, 1)`, unseen volumes.
        ndim: 2 or 3.
        subjects: the subject of each real volume. Default: each is its own.
        data_range: the distance between the lowest and highest possible intensity. Default 1.
        draws: resamples of the bootstrap.
        level: share of the resamples inside the interval.
        seed: int.

    Returns:
        `pandas.DataFrame`, a row per measure of `sharpness`: `measure`, `samples` and `real`
        (means), `ratio` (1 is as sharp as real), `low`, `high`, `n_samples` and `n_real`, volumes
        that have the measure. NaN where none has.

    Raises:
        ValueError: arrays are not shaped as described.
    """
    options = {"ndim": ndim, "data_range": data_range}
    options["inside"] = inner_foreground(real, **options)
    made, true = sharpness(samples, **options), sharpness(real, **options)
    rng = np.random.default_rng(seed)
    weights = [_resamples(len(made), None, draws, rng), _resamples(len(true), subjects, draws, rng)]
    rows = []
    for measure in SHARPNESS:
        row, drawn = {"measure": measure}, []
        for name, table, weight in zip(("samples", "real"), (made, true), weights, strict=True):
            values = table[measure].to_numpy()
            known = ~np.isnan(values)
            row[name] = values[known].mean() if known.any() else np.nan
            drawn.append(_weighted_mean(values[known], weight[:, known]))
            row[f"n_{name}"] = int(known.sum())
        row["ratio"] = _ratio(row["samples"], row["real"])
        row["low"], row["high"] = _interval(_ratio(*drawn), level)
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
        ndim: 2 or 3.
        subjects: the subject of each real volume. Default: each is its own.
        pairs: most pairs of each, drawn at random without repetition. Default 500.
        window: of `ms_ssim`. Default 7.
        gaussian: of `ms_ssim`. Default False.
        data_range: the distance between the lowest and highest possible intensity. Default 1.
        draws: resamples of the bootstrap. Pairs share volumes, so volumes are drawn, and a pair
            counts as often as both of its volumes together.
        level: share of the resamples inside the interval.
        seed: int.

    Returns:
        `pandas.DataFrame`, a row for `samples`, `real` and `samples minus real`: `of`, `ms_ssim`,
        `low`, `high`, `pairs`, `volumes` (how many the pairs are of) and `scales`.

    Raises:
        UserError: there are fewer than two samples, or real volumes of fewer than two subjects.
        ValueError: arrays are not shaped as described.
    """
    options = {"window": window, "gaussian": gaussian}
    scales = ms_ssim_scales(_check_grid(samples, ndim, 1), **options)
    rng = np.random.default_rng(seed)
    rows, drawn = [], []
    for name, x, groups in (("samples", samples, None), ("real", real, subjects)):
        _check_grid(x, ndim, 1)
        groups = _groups(len(x), groups)
        first, second = _pairs(groups, pairs, name, rng)
        alike = np.empty(len(first))
        for start in range(0, len(first), _CHUNK):
            part = slice(start, start + _CHUNK)
            a, b = (_taken(x, index[part], ndim) for index in (first, second))
            alike[part] = ms_ssim(a, b, ndim=ndim, data_range=data_range, **options)
        weights = _resamples(len(x), groups, draws, rng)
        drawn.append(_weighted_mean(alike, weights[:, first] * weights[:, second]))
        low, high = _interval(drawn[-1], level)
        volumes = len(np.unique([first, second]))
        rows.append((name, alike.mean(), low, high, len(alike), volumes, scales))
    low, high = _interval(drawn[0] - drawn[1], level)
    rows.append(
        (
            "samples minus real",
            rows[0][1] - rows[1][1],
            low,
            high,
            *(min(row[i] for row in rows) for i in (4, 5)),
            scales,
        )
    )
    columns = ["of", "ms_ssim", "low", "high", "pairs", "volumes", "scales"]
    return pd.DataFrame(rows, columns=columns)


def frechet_distance(x, y, *, shrink=None):
    """Squared Fréchet distance of the Gaussians with the means and covariances of two samples.

    |m₁ − m₂|² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½) (Dowson and Landau 1982, equation 4; the "FID" of Heusel
    et al. 2017, equation 6, is this in the space of one network). It is biased upward, the more the
    fewer samples there are (Chong and Forsyth 2020): compare figures of equally many only.

    Args:
        x: features `(n, dim)`, n at least 2.
        y: features `(m, dim)`, m at least 2.
        shrink: True shrinks both covariances towards a multiple of the identity by the amount of
            Ledoit and Wolf (2004). Default: where a sample has no more rows than dim, since its
            covariance has no inverse then.

    Returns:
        float, 0 or more, in squared units of the features.

    Raises:
        ValueError: the arrays are not shaped as described, or not finite.
    """
    x, y = _features(x, y)
    if shrink is None:
        shrink = min(len(x), len(y)) <= x.shape[1]
    return frechet_from_moments(*_moments(x, shrink), *_moments(y, shrink))


def frechet_from_moments(mean_x, covariance_x, mean_y, covariance_y):
    """Squared Fréchet distance of two Gaussians, see `frechet_distance`.

    Args:
        mean_x: `(dim,)`.
        covariance_x: `(dim, dim)`, symmetric, without negative eigenvalues.
        mean_y: `(dim,)`.
        covariance_y: `(dim, dim)`, likewise.

    Returns:
        float, 0 or more.
    """
    mean = np.asarray(mean_x, "float64") - np.asarray(mean_y, "float64")
    c1, c2 = np.asarray(covariance_x, "float64"), np.asarray(covariance_y, "float64")
    # C₁ C₂ has the eigenvalues of C₁^½ C₂ C₁^½, which is symmetric: no complex square roots.
    values, vectors = np.linalg.eigh(c1)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    inner = np.linalg.eigvalsh(root @ c2 @ root)
    trace = np.sqrt(np.maximum(inner, 0.0)).sum()
    return float(max(mean @ mean + np.trace(c1) + np.trace(c2) - 2 * trace, 0.0))


def kernel_distance(x, y):
    """Unbiased squared maximum mean discrepancy with a cubic kernel.

    The U-statistic of Gretton et al. (2012), equation 3, with k(a, b) = (a·b / dim + 1)³, the
    "KID" of Bińkowski et al. (2018), section 4, in any space. Its mean is 0 where both samples are
    of one distribution, however few there are; it may then be negative.

    Args:
        x: features `(n, dim)`, n at least 2.
        y: features `(m, dim)`, m at least 2.

    Returns:
        float.

    Raises:
        ValueError: the arrays are not shaped as described, or not finite.
    """
    x, y = _features(x, y)
    ones = np.ones((1, len(x))), np.ones((1, len(y)))
    return float(_mmd(*_kernels(x, y), *ones)[0])


class PCASpace:
    """Scores of volumes on the principal components of training volumes.

    All components are divided by one number, so that training volumes have a variance of 1 for
    each component on average, and sizes of components keep their proportion. A generator that
    always gives the mean training volume is then about `components` away from training volumes by
    `frechet_distance`.

    Args:
        components: most components; fewer where there are fewer training volumes. Default 32.
        most: training volumes used at most, drawn at random, since they are in memory at once.
            Default 512.
        ndim: 2 or 3.
        seed: int, of that draw.

    Attributes:
        explained: share of the training variance that the components hold; after `fit`.
    """

    def __init__(self, components=32, *, most=512, ndim=3, seed=0):
        self.components = components
        self.most = most
        self.ndim = ndim
        self.seed = seed

    def fit(self, train):
        """Finds the components of `train`, `(n, *grid)` or `(n, *grid, 1)`.

        Returns:
            This object.

        Raises:
            UserError: there are fewer than two volumes, or all are equal.
        """
        _check_grid(train, self.ndim, 1)
        count = min(len(train), self.most)
        picked = np.random.default_rng(self.seed).choice(len(train), count, replace=False)
        x = _taken(train, np.sort(picked), self.ndim).reshape(count, -1).astype("float32")
        self._mean = x.mean(axis=0, dtype="float64").astype("float32")
        x = x - self._mean
        # Of few volumes with many voxels: the small matrix of their products has the same values.
        values, vectors = np.linalg.eigh((x @ x.T).astype("float64"))
        values, vectors = values[::-1], vectors[:, ::-1]
        kept = min(self.components, int(np.sum(values > 1e-6 * max(values[0], 0.0))))
        if count < 2 or kept == 0:
            raise UserError(
                f"principal components: found {count} training volumes"
                f"{', all equal' if count > 1 else ''}; expected two or more that differ"
            )
        self.explained = float(values[:kept].sum() / np.maximum(values, 0.0).sum())
        variance = values[:kept].sum() / (count - 1) / kept
        scale = np.sqrt(values[:kept] * variance)
        self._axes = (x.T @ (vectors[:, :kept] / scale).astype("float32")).T  # (kept, voxels)
        return self

    def transform(self, x):
        """Scores of volumes `(n, *grid)` or `(n, *grid, 1)`: float64 `(n, components)`."""
        scores = [
            (part.reshape(len(part), -1).astype("float32") - self._mean) @ self._axes.T
            for part in _chunks(x, self.ndim)
        ]
        return np.concatenate(scores).astype("float64")


class WaveletSpace:
    """Fixed features of volumes: how bright, how contrasted, how rough at which scale and where.

    The distances known from photographs use a network that was trained on photographs, of which
    there is none for volumes that everyone has; one with random weights would depend on the random
    numbers of a library. These features are fixed by a formula and need no download: the mean
    modulus of Haar wavelet coefficients, the first order of a scattering transform (Bruna and
    Mallat 2013, "Invariant scattering convolution networks"), which describes texture and is stable
    when a brain is bent a little. They see what principal components of few volumes do not: blur,
    noise, and patches that do not fit together.

    Of each volume: log of the mean modulus at 3 scales in each direction (high or low pass along
    each axis, 7 in 3D), and over all directions in each half along each axis (8 octants in 3D); the
    mean intensity in each octant; and the 5th, 25th, 50th, 75th and 95th percentile of the
    foreground's intensities. That is 58 numbers in 3D and 30 in 2D. They are standardised by
    training volumes and turned to the principal components of these, all of which are kept.

    Args:
        ndim: 2 or 3.
        data_range: the distance between the lowest and highest possible intensity. Default 1.
    """

    def __init__(self, *, ndim=3, data_range=1.0):
        self.ndim = ndim
        self.data_range = data_range

    def fit(self, train):
        """Takes mean and standard deviation from `train`, `(n, *grid)` or `(n, *grid, 1)`.

        Returns:
            This object.
        """
        raw = self._raw(train)
        self._mean, spread = raw.mean(axis=0), raw.std(axis=0)
        # A feature that never changed in training has no scale of its own.
        scale = np.where(spread > 1e-6, spread, 1.0)
        standard = (raw - self._mean) / scale
        axes = np.linalg.eigh(standard.T @ standard)[1][:, ::-1]
        self._axes = axes / scale[:, None]
        return self

    def transform(self, x):
        """Features of volumes `(n, *grid)` or `(n, *grid, 1)`: float64 `(n, 58)`; 30 in 2D."""
        return (self._raw(x) - self._mean) @ self._axes

    def _raw(self, x):
        _check_grid(x, self.ndim, 2)
        return np.concatenate([self._of(part) for part in _chunks(x, self.ndim)])

    def _of(self, part):
        x = part.astype("float64") / self.data_range  # (n, *grid)
        axes = tuple(range(1, self.ndim + 1))
        mask = foreground(x, ndim=self.ndim)
        quantiles = [
            np.quantile(image[inside] if inside.any() else image, _QUANTILES)
            for image, inside in zip(x, mask, strict=True)
        ]
        bright = np.stack([x[half].mean(axis=axes) for half in _halves(x.shape)], axis=1)
        found = []
        for _ in range(_WAVELET_SCALES):
            x, details = _haar(x)
            moduli = [np.abs(detail) for detail in details]
            found += [modulus.mean(axis=axes) for modulus in moduli]
            total = sum(moduli)
            found += [total[half].mean(axis=axes) for half in _halves(total.shape)]
        rough = np.log(np.stack(found, axis=1) + _LOG_FLOOR)
        return np.concatenate([rough, bright, np.stack(quantiles)], axis=1)


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
    fixed features (`WaveletSpace`), which is about texture. Two figures tell what a distance is
    worth: `reference` is that of training volumes, as many as samples (or all, if they are fewer),
    from `real`: no generator can be expected to do better. `mean_volume` is that of a generator
    that gives nothing but the mean training volume.

    Args:
        samples: `(n, *grid)` or `(n, *grid, 1)`, n at least 2.
        real: `(m, *grid)` or `(m, *grid, 1)`, m at least 2, unseen volumes.
        train: `(k, *grid)` or `(k, *grid, 1)`, k at least 2, what the model was trained on.
        ndim: 2 or 3.
        components: of `PCASpace`.
        data_range: the distance between the lowest and highest possible intensity. Default 1.
        subjects: the subject of each real volume. Default: each is its own.
        draws: resamples of the bootstrap.
        level: share of the resamples inside the interval.
        seed: int.

    Returns:
        `pandas.DataFrame`, a row per space and measure: `space` ("pca" or "wavelet"), `measure`,
        `value`, `corrected`, `low`, `high`, `reference`, `mean_volume`, `dim`, `note`, `n_samples`,
        `n_real` and `n_reference`. The Fréchet distance is taken in as many dimensions as there are
        three volumes for, the first ones, and `note` says where these are not all. `value` is the
        plain distance; all other figures of it have the bias that few volumes give taken off by the
        bootstrap (Davison and Hinkley 1997, sections 2.1 and 5.2), and are at least 0.

    Raises:
        UserError: there are too few volumes.
        ValueError: arrays are not shaped as described.
    """
    for name, x in (("samples", samples), ("real volumes", real), ("training volumes", train)):
        _check_grid(x, ndim, 2)
        if len(x) < 2:
            raise UserError(f"fidelity: found {len(x)} {name}; expected two or more")
    rng = np.random.default_rng(seed)
    picked = np.sort(rng.choice(len(train), min(len(train), len(samples)), replace=False))
    reference = _taken(train, picked, ndim)
    mean = sum(part.sum(axis=0, dtype="float64") for part in _chunks(train, ndim)) / len(train)
    spaces = {
        "pca": PCASpace(components, ndim=ndim, seed=seed),
        "wavelet": WaveletSpace(ndim=ndim, data_range=data_range),
    }
    weights = [
        _resamples(len(samples), None, draws, rng),
        _resamples(len(real), subjects, draws, rng),
    ]
    rows = []
    for name, space in spaces.items():
        space.fit(train)
        made, true, known, constant = map(space.transform, (samples, real, reference, mean[None]))
        constant = np.repeat(constant, len(made), axis=0)
        dim = true.shape[1]
        kept = max(1, min(dim, min(len(made), len(true)) // ROWS_A_DIMENSION))
        first = [z[:, :kept] for z in (made, true, known, constant)]
        value, corrected, drawn = _corrected(first[0], first[1], weights)
        low, high = _interval(drawn, level)
        others = [
            _corrected(z, first[1], [_resamples(len(z), None, draws, rng), weights[1]])[1]
            for z in first[2:]
        ]
        rows.append(
            {
                "space": name,
                "measure": "frechet",
                "value": value,
                "corrected": corrected,
                "low": max(2 * value - high, 0.0),
                "high": max(2 * value - low, 0.0),
                "reference": others[0],
                "mean_volume": others[1],
                "dim": kept,
                "note": "" if kept == dim else f"first {kept} of {dim} dimensions: few volumes",
            }
        )
        value = kernel_distance(made, true)
        low, high = _interval(_mmd(*_kernels(made, true), *weights), level)
        rows.append(
            {
                "space": name,
                "measure": "kernel",
                "value": value,
                "corrected": value,
                "low": low,
                "high": high,
                "reference": kernel_distance(known, true),
                "mean_volume": kernel_distance(constant, true),
                "dim": dim,
                "note": "",
            }
        )
    counts = {"n_samples": len(samples), "n_real": len(real), "n_reference": len(reference)}
    return pd.DataFrame(rows).assign(**counts)


def nearest_training(queries, train, *, ndim=3, neighbours=10, chunk=64):
    """How far each volume is from the training volumes.

    Blurred volumes are near to all others, so a small distance alone does not make a copy.
    Therefore also `relative`: the distance to the nearest, divided by the mean distance to the
    nearest `neighbours` (after Carlini et al. 2023, "Extracting training data from diffusion
    models", section 5.1). A copy is far nearer to one volume than to the next ones.

    Args:
        queries: `(n, *grid)` or `(n, *grid, 1)`.
        train: `(m, *grid)` or `(m, *grid, 1)`.
        ndim: 2 or 3.
        neighbours: int ≥ 2; fewer where there are fewer training volumes. Default 10.
        chunk: volumes of each that are in memory at once. Default 64.

    Returns:
        `pandas.DataFrame`, a row per query: `nearest` (index into `train`), `distance` (root mean
        squared difference, in intensity) and `relative` (in [0, 1]; 1 where all are as near).

    Raises:
        UserError: there are fewer than two training volumes.
        ValueError: the grids differ.
    """
    grid = _check_grid(queries, ndim, 1)
    if _check_grid(train, ndim, 1) != grid:
        raise ValueError(
            f"queries and train must be of one grid. Received: {grid} and {np.shape(train)}"
        )
    if len(train) < 2:
        raise UserError(f"training volumes: found {len(train)}; expected two or more")
    kept = min(neighbours, len(train))
    index, distance = [], []
    for part in _chunks(queries, ndim, chunk):
        part = part.reshape(len(part), -1).astype("float64")
        best = np.full((len(part), kept), np.inf)
        where = np.zeros((len(part), kept), "int64")
        for number, known in enumerate(_chunks(train, ndim, chunk)):
            known = known.reshape(len(known), -1).astype("float64")
            squares = (part**2).sum(1)[:, None] + (known**2).sum(1) - 2 * part @ known.T
            best = np.concatenate([best, np.maximum(squares, 0.0)], axis=1)
            places = number * chunk + np.arange(len(known))
            where = np.concatenate([where, np.tile(places, (len(part), 1))], axis=1)
            order = np.argsort(best, axis=1, kind="stable")[:, :kept]
            best, where = (np.take_along_axis(a, order, axis=1) for a in (best, where))
        index.append(where[:, 0])
        distance.append(np.sqrt(best / part.shape[1]))
    distance = np.concatenate(distance) if distance else np.zeros((0, kept))
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
        made, true = samples[measure].to_numpy(), unseen[measure].to_numpy()
        threshold = float(np.quantile(true, NEAR_QUANTILE))
        rows.append(
            {
                "measure": measure,
                "samples": float(np.median(made)),
                "unseen": float(np.median(true)),
                "threshold": threshold,
                "share_nearer": float(np.mean(made < threshold)),
                "n_samples": len(made),
                "n_unseen": len(true),
            }
        )
    return pd.DataFrame(rows)


def _halves(shape):
    """Slices of both halves along each axis after the first: 4 quadrants or 8 octants."""
    cuts = [(slice(None, size // 2), slice(size // 2, None)) for size in shape[1:]]
    for corner in np.ndindex(*(2,) * len(cuts)):
        yield (slice(None), *(cut[side] for cut, side in zip(cuts, corner, strict=True)))


def _haar(x):
    """One level of the orthonormal Haar transform: the low pass, and the details of each kind."""
    parts = [x]
    for axis in range(1, x.ndim):
        if x.shape[axis] % 2:
            # The last voxel once more: it has no details of its own.
            parts = [np.concatenate([p, p.take([-1], axis=axis)], axis=axis) for p in parts]
        split = []
        for part in parts:
            even, odd = (
                part.take(np.arange(start, part.shape[axis], 2), axis=axis) for start in (0, 1)
            )
            split += [(even + odd) * np.sqrt(0.5), (even - odd) * np.sqrt(0.5)]
        parts = split
    return parts[0], parts[1:]


def _moments(x, shrink):
    # Rows that are all alike have nothing to shrink.
    shrink = shrink and np.ptp(x, axis=0).any()
    covariance = ledoit_wolf(x)[0] if shrink else np.cov(x, rowvar=False, ddof=1)
    return x.mean(axis=0), np.atleast_2d(covariance)


def _corrected(x, y, weights):
    """The Fréchet distance, the same without its bias, and those of resamples."""
    value = frechet_distance(x, y, shrink=False)
    drawn = _frechet_draws(x, y, weights)
    # Resamples are biased against the sample as the sample is against the truth.
    return value, max(2 * value - drawn.mean(), 0.0), drawn


def _frechet_draws(x, y, weights):
    """The Fréchet distance of each resample, see `_resamples`."""
    drawn = []
    for wx, wy in zip(*weights, strict=True):
        moments = [
            (np.average(z, axis=0, weights=w), np.cov(z, rowvar=False, fweights=w.astype(int)))
            for z, w in ((x, wx), (y, wy))
            if np.count_nonzero(w) > 1
        ]
        if len(moments) == 2:
            flat = [m for mean, covariance in moments for m in (mean, np.atleast_2d(covariance))]
            drawn.append(frechet_from_moments(*flat))
    return np.array(drawn)


def _kernels(x, y):
    return tuple((a @ b.T / x.shape[1] + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))


def _mmd(kxx, kyy, kxy, wx, wy):
    """The U-statistic where row i of `wx` says how often each x counts: `(resamples,)`.

    A volume drawn twice makes no pair with itself, or the statistic would no longer be unbiased.
    """

    def within(kernel, weight):
        off = kernel - np.diag(np.diag(kernel))
        count = weight.sum(axis=1) ** 2 - (weight**2).sum(axis=1)
        return _ratio(np.einsum("bi,ij,bj->b", weight, off, weight, optimize=True), count)

    between = np.einsum("bi,ij,bj->b", wx, kxy, wy, optimize=True)
    return within(kxx, wx) + within(kyy, wy) - 2 * between / (wx.sum(axis=1) * wy.sum(axis=1))


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


def _groups(count, subjects):
    """Group numbers `(count,)` from 0."""
    if subjects is None:
        return np.arange(count)
    subjects = np.asarray(subjects).ravel()
    if len(subjects) != count:
        raise ValueError(
            f"one subject per volume is needed. Received: {len(subjects)} for {count} volumes"
        )
    return np.unique(subjects, return_inverse=True)[1]


def _resamples(count, subjects, draws, rng):
    """How often each volume counts in each resample of the subjects: float64 `(draws, count)`."""
    groups = _groups(count, subjects)
    number = groups.max() + 1
    return rng.multinomial(number, np.full(number, 1 / number), draws)[:, groups].astype("float64")


def _weighted_mean(values, weights):
    return _ratio(weights @ values, weights.sum(axis=1))


def _ratio(top, bottom):
    """top / bottom, NaN where the bottom is 0."""
    top, bottom = np.asarray(top, "float64"), np.asarray(bottom, "float64")
    out = np.full(np.broadcast(top, bottom).shape, np.nan)
    return np.divide(top, bottom, out=out, where=bottom != 0)[()]


def _interval(drawn, level):
    """Percentile interval of the resamples that have a value, NaN where none has."""
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1). Received: level={level}")
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) == 0:
        return np.nan, np.nan
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _features(x, y):
    x, y = np.asarray(x, "float64"), np.asarray(y, "float64")
    if (
        x.ndim != 2
        or y.ndim != 2
        or x.shape[1] != y.shape[1]
        or min(len(x), len(y)) < 2
        or not (np.isfinite(x).all() and np.isfinite(y).all())
    ):
        raise ValueError(
            "features must be (n, dim) and (m, dim), finite, of two or more rows. "
            f"Received: {x.shape} and {y.shape}"
        )
    return x, y


def _check_grid(x, ndim, least):
    """The grid of volumes, read from their shape alone."""
    shape = np.shape(x)
    if len(shape) == ndim + 2 and shape[-1] == 1:
        shape = shape[:-1]
    if ndim not in (2, 3) or len(shape) != ndim + 1 or min(shape[1:]) < least:
        raise ValueError(
            f"volumes must be (n, *grid) or (n, *grid, 1) with {ndim} axes of {least} or more. "
            f"Received: shape {np.shape(x)}"
        )
    return tuple(shape[1:])


def _taken(x, index, ndim):
    return _images(np.asarray(x[index]), ndim, "volumes")


def _chunks(x, ndim, size=_CHUNK):
    for start in range(0, len(x), size):
        yield _images(np.asarray(x[start : start + size]), ndim, "volumes")
