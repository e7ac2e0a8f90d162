"""SSIM, PSNR and mean squared error of reconstructions, per image and per subject.

Images come as `(n, H, W)` or `(n, H, W, 1)` with `ndim=2`, volumes as `(n, X, Y, Z)` or
`(n, X, Y, Z, 1)` with `ndim=3`. `x` is the reference, `y` the reconstruction.

SSIM is that of Wang, Bovik, Sheikh and Simoncelli (2004), equation 13, with the choices of
`skimage.metrics.structural_similarity`: a uniform window of 7, K1 = 0.01, K2 = 0.03, sample
covariance, and the mean over those positions whose window lies inside the image. A figure of SSIM
means nothing without its dimensions, window and data range, so `ssim_parameters` gives them for
the report. Most of a head scan is background, which any model gets right; therefore every SSIM
and PSNR here comes for the whole image and for the foreground alone.
"""

import numpy as np
import pandas as pd

from brainvq.errors import UserError
from brainvq.evaluation.bootstrap import ratio
from brainvq.evaluation.images import as_images, check_data_range
from brainvq.evaluation.ssim_window import (
    GAUSSIAN_RADIUS,
    GAUSSIAN_SIGMA,
    K1,
    K2,
    SSIMWindow,
    mean_ssim,
)

FOREGROUND_FRACTION = 0.05  # of an image's own range; above noise, below cerebrospinal fluid
# Weights of the scales, from the finest: Wang, Simoncelli and Bovik (2003), section 3.2.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ssim_parameters(*, ndim=2, window=7, gaussian=False, data_range=1.0):
    """The choices behind a figure of SSIM, ready for a report or `metrics.json`.

    Args:
        ndim: 2 for images, 3 for volumes. Default 2.
        window: side of the uniform window, in pixels. Default 7.
        gaussian: True for the Gaussian window (sigma 1.5, side 11) in place of the uniform one.
            Default False.
        data_range: the distance between the lowest and highest possible intensity. Default 1.

    Returns:
        A dict of plain values: `dimensions`, `window`, `window_size`, `data_range`, `k1`, `k2`,
        `covariance`.
    """
    return {
        "dimensions": f"{ndim}D",
        "window": f"Gaussian, sigma {GAUSSIAN_SIGMA}" if gaussian else "uniform",
        "window_size": 2 * GAUSSIAN_RADIUS + 1 if gaussian else int(window),
        "data_range": float(data_range),
        "k1": K1,
        "k2": K2,
        "covariance": "sample",
    }


def ssim(x, y, *, ndim=2, window=7, gaussian=False, data_range=1.0, mask=None):
    """Mean structural similarity of each image.

    Args:
        x: reference images, `(n, *grid)` or `(n, *grid, 1)`, `ndim` axes in the grid.
        y: reconstructions, of the shape of `x`.
        ndim: 2 or 3: the axes that a window covers. Default 2.
        window: side of the uniform window: odd, at least 3, at most the shortest axis. Default 7.
        gaussian: Gaussian window of sigma 1.5 and side 11, without `window`. Default False.
        data_range: the distance between the lowest and highest possible intensity. Default 1.
        mask: bool, of the shape of `x`: average the map over the mask only. Positions whose
            window leaves the image do not count, with a mask as without. Default: whole image.

    Returns:
        float64 `(n,)`, at most 1. NaN where the mask of an image is empty.

    Raises:
        UserError: the window or data range is out of its limits.
        ValueError: the arrays do not have the shapes described.
    """
    x, y = _pair(x, y, ndim)
    settings = SSIMWindow(x.shape[1:], window, gaussian, data_range)
    if mask is not None:
        mask = _mask(mask, x, ndim)
    whole, masked = mean_ssim(x, y, mask, settings)
    return whole if mask is None else masked


def ssim_map(x, y, *, ndim=2, window=7, gaussian=False, data_range=1.0):
    """Structural similarity at each pixel; images are mirrored at their border.

    Args:
        x: reference images, `(n, *grid)` or `(n, *grid, 1)`.
        y: reconstructions, of the shape of `x`.
        ndim: 2 or 3. Default 2.
        window: side of the uniform window, in pixels. Default 7.
        gaussian: Gaussian window of sigma 1.5 and side 11. Default False.
        data_range: the distance between the lowest and highest possible intensity. Default 1.

    Returns:
        float64 `(n, *grid)`.

    Raises:
        UserError: the window or data range is out of its limits.
        ValueError: the arrays do not have the shapes described.
    """
    x, y = _pair(x, y, ndim)
    settings = SSIMWindow(x.shape[1:], window, gaussian, data_range)
    result = np.empty(x.shape, "float64")
    padding = [(settings.radius, settings.radius)] * ndim
    for i in range(len(x)):
        padded = [
            np.pad(image[i].astype("float64"), padding, "symmetric")[None] for image in (x, y)
        ]
        result[i] = settings.map(*padded)[0]
    return result


def ms_ssim(x, y, *, ndim=2, window=7, gaussian=False, data_range=1.0, scales=None):
    """Multi-scale structural similarity of each image.

    Wang, Simoncelli and Bovik (2003), "Multiscale structural similarity for image quality
    assessment", equation 7, computed as their program does: means over the image of the contrast
    and structure terms at every scale but the last, and of the whole SSIM at the last. A scale is
    the mean over blocks of 2 pixels a side of the one before; an odd last row is left out. The
    weights are theirs, those of the scales in use scaled to sum to 1. A negative mean counts as 0,
    since it has no power to a fraction.

    Args:
        x: images, `(n, *grid)` or `(n, *grid, 1)`.
        y: images, of the shape of `x`.
        ndim: 2 or 3. Default 2.
        window: side of the uniform window at every scale: odd, at least 3. Default 7. The paper
            (Wang et al. 2003) has the Gaussian one; on a volume of 40 voxels a side that leaves 2
            scales, 7 leaves 3.
        gaussian: Gaussian window of sigma 1.5 and side 11, without `window`. Default False.
        data_range: the distance between the lowest and highest possible intensity. Default 1.
        scales: 1 to 5. Default: as many as fit, see `ms_ssim_scales`.

    Returns:
        float64 `(n,)` in [0, 1], 1 for equal images. A figure means nothing without the number of
        scales.

    Raises:
        UserError: the window, data range or number of scales is out of its limits.
        ValueError: the arrays do not have the shapes described.
    """
    x, y = _pair(x, y, ndim)
    fitting = ms_ssim_scales(x.shape[1:], window=window, gaussian=gaussian)
    scales = fitting if scales is None else scales
    if not 1 <= scales <= fitting:
        raise UserError(
            f"MS-SSIM: found {scales} scales on images of {'x'.join(map(str, x.shape[1:]))}, "
            f"expected 1 to {fitting}"
        )
    weights = np.array(SCALE_WEIGHTS[:scales]) / sum(SCALE_WEIGHTS[:scales])
    result = np.ones(len(x))
    for scale, weight in enumerate(weights):
        last = scale == scales - 1
        settings = SSIMWindow(x.shape[1:], window, gaussian, data_range)
        scores = mean_ssim(x, y, None, settings, structure=not last)[0]
        # maximum keeps NaN: an image that holds NaN has no similarity.
        result *= np.maximum(scores, 0.0) ** weight
        if not last:
            x, y = halved(x), halved(y)
    return result


def ms_ssim_scales(grid, *, window=7, gaussian=False):
    """How many scales `ms_ssim` uses by default: the window fits into the smallest image.

    Args:
        grid: sizes of the image, 2 or 3 ints.
        window: side of the uniform window. Default 7.
        gaussian: Gaussian window of side 11. Default False.

    Returns:
        int from 1 to 5.

    Raises:
        UserError: the window does not fit, or is even or below 3.
    """
    size = SSIMWindow(grid, window, gaussian, 1.0).size
    fits = [min(grid) // 2**scale >= size for scale in range(len(SCALE_WEIGHTS))]
    return sum(fits)


def mse(x, y, *, ndim=2, mask=None):
    """Mean squared error of each image.

    Args:
        x: reference images, `(n, *grid)` or `(n, *grid, 1)`.
        y: reconstructions, of the shape of `x`.
        ndim: 2 or 3. Default 2.
        mask: bool, of the shape of `x`: count only pixels inside it. Default: all.

    Returns:
        float64 `(n,)` in squared intensity units; NaN where the mask of an image is empty.

    Raises:
        ValueError: the arrays do not have the shapes described.
    """
    x, y = _pair(x, y, ndim)
    if mask is None:
        return _squared_errors(x, y)[0] / np.prod(x.shape[1:])
    mask = _mask(mask, x, ndim)
    count = mask.sum(axis=tuple(range(1, ndim + 1)))
    return ratio(_squared_errors(x, y, mask)[1], count)


def psnr(x, y, *, ndim=2, data_range=1.0, mask=None):
    """Peak signal-to-noise ratio of each image: 10 log10(data_range² / mse).

    Args:
        x: reference images, `(n, *grid)` or `(n, *grid, 1)`.
        y: reconstructions, of the shape of `x`.
        ndim: 2 or 3. Default 2.
        data_range: the peak: the distance between the lowest and highest possible intensity.
            Default 1.
        mask: bool, of the shape of `x`: count only pixels inside it. Default: all.

    Returns:
        float64 `(n,)` in dB; infinite where the images are equal, NaN where a mask is empty.

    Raises:
        UserError: the data range is not positive.
        ValueError: the arrays do not have the shapes described.
    """
    check_data_range(data_range)
    return _decibel(mse(x, y, ndim=ndim, mask=mask), data_range)


def foreground(x, *, ndim=2, fraction=FOREGROUND_FRACTION, data_range=1.0):
    """Mask of the pixels that are not background, from the reference alone.

    A pixel is foreground when it exceeds the image's own minimum by more than `fraction` of the
    image's own range; the minimum is used in place of zero so that z-scored images work too. An
    image whose range is below 1 % of `data_range` is empty: nothing but noise would be marked.

    Args:
        x: reference images, `(n, *grid)` or `(n, *grid, 1)`.
        ndim: 2 or 3. Default 2.
        fraction: part of the image's range, in (0, 1). Default 0.05.
        data_range: the distance between the lowest and highest possible intensity. Default 1.

    Returns:
        bool, `(n, *grid)`.

    Raises:
        UserError: `fraction` or `data_range` is out of its limits.
        ValueError: `x` does not have the shape described.
    """
    if not 0 < fraction < 1:
        raise UserError(f"foreground fraction: found {fraction}, expected a number in (0, 1)")
    check_data_range(data_range)
    x = as_images(x, ndim, "x")
    axes = tuple(range(1, ndim + 1))
    low = x.min(axis=axes, keepdims=True).astype("float64")
    span = x.max(axis=axes, keepdims=True) - low
    return (x > low + fraction * span) & (span >= 0.01 * data_range)


class SimilarityAccumulator:
    """Per-subject similarity of a stream of batches; memory grows with the subjects alone.

    A subject's SSIM is the mean over its images. Its PSNR is that of its pooled squared error,
    as if its slices were one volume: a mean of decibels would be infinite as soon as one black
    slice is reproduced exactly. Images with no foreground count for the whole-image measures, are
    left out of the foreground ones, and are counted in `n_empty`. A reconstruction that holds NaN
    makes its subject NaN: it is not left out.

    Args:
        ndim: 2 for images, 3 for volumes. Default 2.
        window: side of the uniform SSIM window, in pixels. Default 7.
        gaussian: Gaussian SSIM window of sigma 1.5 and side 11. Default False.
        data_range: the distance between the lowest and highest possible intensity. Default 1.
        fraction: foreground threshold, see `foreground`. Default 0.05.

    Attributes:
        parameters: dict of the choices above, for the report.
    """

    _SUMS = ("n", "n_foreground", "ssim", "ssim_fg", "error", "pixels", "error_fg", "pixels_fg")

    def __init__(
        self, *, ndim=2, window=7, gaussian=False, data_range=1.0, fraction=FOREGROUND_FRACTION
    ):
        self.ndim = ndim
        self.window = window
        self.gaussian = gaussian
        self.data_range = data_range
        self.fraction = fraction
        self._subjects = {}

    @property
    def parameters(self):
        """The SSIM parameters and the foreground rule, as plain values."""
        window = ssim_parameters(
            ndim=self.ndim,
            window=self.window,
            gaussian=self.gaussian,
            data_range=self.data_range,
        )
        return {**window, "foreground": f"above {self.fraction:g} of the image's own range"}

    def add(self, x, y, subjects):
        """Adds a batch.

        Args:
            x: reference images, `(n, *grid)` or `(n, *grid, 1)`.
            y: reconstructions, of the shape of `x`.
            subjects: n subject names; one subject may come in many batches.

        Returns:
            This accumulator.

        Raises:
            UserError: the window, data range or fraction is out of its limits.
            ValueError: the arrays do not have the shapes described.
        """
        x, y = _pair(x, y, self.ndim)
        subjects = np.asarray(subjects).ravel()
        if len(subjects) != len(x):
            raise ValueError(
                f"one subject per image is needed. Received: {len(subjects)} subjects for "
                f"{len(x)} images"
            )
        settings = SSIMWindow(x.shape[1:], self.window, self.gaussian, self.data_range)
        mask = foreground(x, ndim=self.ndim, fraction=self.fraction, data_range=self.data_range)
        whole, masked = mean_ssim(x, y, mask, settings)
        error, error_fg = _squared_errors(x, y, mask)
        pixels_fg = mask.sum(axis=tuple(range(1, self.ndim + 1)))
        # A mask that lives only in the outermost pixels has no SSIM of its own: empty as well.
        filled = mask[(slice(None), *settings.inner)].any(axis=tuple(range(1, self.ndim + 1)))
        rows = np.stack(
            [
                np.ones(len(x)),
                filled,
                whole,
                np.where(filled, masked, 0.0),
                error,
                np.full(len(x), np.prod(x.shape[1:])),
                np.where(filled, error_fg, 0.0),
                np.where(filled, pixels_fg, 0),
            ],
            axis=1,
        )
        for subject, row in zip(subjects.tolist(), rows, strict=True):
            self._subjects[subject] = self._subjects.get(subject, 0.0) + row
        return self

    def table(self):
        """The measures so far.

        Returns:
            `pandas.DataFrame`, a row per subject in order of appearance, with columns `subject`,
            `n_images`, `n_empty` (images without foreground), `ssim`, `ssim_foreground`, `psnr`
            and `psnr_foreground` (dB), `mse`.
        """
        sums = np.array(list(self._subjects.values())).reshape(-1, len(self._SUMS))
        column = dict(zip(self._SUMS, sums.T, strict=True))
        error = ratio(column["error"], column["pixels"])
        error_fg = ratio(column["error_fg"], column["pixels_fg"])
        return pd.DataFrame(
            {
                "subject": list(self._subjects),
                "n_images": column["n"].astype(int),
                "n_empty": (column["n"] - column["n_foreground"]).astype(int),
                "ssim": ratio(column["ssim"], column["n"]),
                "ssim_foreground": ratio(column["ssim_fg"], column["n_foreground"]),
                "psnr": _decibel(error, self.data_range),
                "psnr_foreground": _decibel(error_fg, self.data_range),
                "mse": error,
            }
        )


def per_subject(x, y, subjects, **options):
    """Similarity per subject of arrays that are in memory; see `SimilarityAccumulator`.

    Args:
        x: reference images, `(n, *grid)` or `(n, *grid, 1)`.
        y: reconstructions, of the shape of `x`.
        subjects: n subject names.
        **options: those of `SimilarityAccumulator`.

    Returns:
        `pandas.DataFrame`, see `SimilarityAccumulator.table`.
    """
    return SimilarityAccumulator(**options).add(x, y, subjects).table()


MEASURES = ("ssim", "ssim_foreground", "psnr", "psnr_foreground", "mse")


def summary(table, *, bootstrap=0, confidence=0.95, seed=0):
    """Mean and standard deviation over subjects of each measure.

    Args:
        table: a table of `SimilarityAccumulator.table`.
        bootstrap: number of resamples of the subjects for a percentile confidence interval of
            the mean; 0, the default, gives none.
        confidence: coverage of that interval. Default 0.95.
        seed: seed of the resampling. Default 0.

    Returns:
        `pandas.DataFrame`, a row per measure: `measure`, `mean`, `sd` (sample, NaN for fewer than
        two subjects), `n` (subjects with a value) and, with `bootstrap`, `ci_low`, `ci_high`.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for measure in [name for name in MEASURES if name in table]:
        values = table[measure].to_numpy("float64")
        values = values[~np.isnan(values)]
        finite = np.isfinite(values).all()
        row = {
            "measure": measure,
            "mean": values.mean() if len(values) else np.nan,
            "sd": values.std(ddof=1) if len(values) > 1 and finite else np.nan,
            "n": len(values),
        }
        if bootstrap:
            row["ci_low"] = row["ci_high"] = np.nan
            if len(values) > 1 and finite:
                means = rng.choice(values, (bootstrap, len(values))).mean(axis=1)
                tail = (1 - confidence) / 2
                row["ci_low"], row["ci_high"] = np.quantile(means, [tail, 1 - tail])
        rows.append(row)
    columns = ["measure", "mean", "sd", "n"] + ["ci_low", "ci_high"] * bool(bootstrap)
    return pd.DataFrame(rows, columns=columns)


def compare(tables):
    """One row per run, for a table or bar chart of several runs.

    Args:
        tables: dict of run name → table of `SimilarityAccumulator.table`.

    Returns:
        `pandas.DataFrame`: `run`, `n_subjects`, and for each measure `<measure>` (mean over
        subjects) and `<measure>_sd`.
    """
    rows = []
    for run, table in tables.items():
        row = {"run": run, "n_subjects": len(table)}
        for measured in summary(table).itertuples():
            row[measured.measure] = measured.mean
            row[f"{measured.measure}_sd"] = measured.sd
        rows.append(row)
    return pd.DataFrame(rows)


def to_unit(images, restored):
    """Scales images of any range, such as z-scored volumes, and their reconstructions to [0, 1].

    Each image goes from its own minimum to its own maximum, its reconstruction by the same two
    numbers, and what then leaves [0, 1] is clipped. Images from 0 to 1 stay as they are.

    Args:
        images: float `(n, *grid, channels)`.
        restored: float, of the shape of `images`.

    Returns:
        Two float32 arrays of that shape. An image of one value is all 0.

    Raises:
        ValueError: the shapes differ.
    """
    images, restored = np.asarray(images, "float32"), np.asarray(restored, "float32")
    if images.shape != restored.shape:
        raise ValueError(
            "images and restored must have the same shape. "
            f"Received: {images.shape} and {restored.shape}"
        )
    axes = tuple(range(1, images.ndim))
    low = images.min(axis=axes, keepdims=True)
    span = images.max(axis=axes, keepdims=True) - low
    span = np.where(span > 0, span, np.float32(1.0))
    return (images - low) / span, np.clip((restored - low) / span, 0.0, 1.0)


def nearest_images(queries, references, *, ndim=2, chunk=1024):
    """The reference nearest to each query in root mean squared difference.

    For the question whether a generative model repeats its training images.

    Args:
        queries: `(n, *grid)` or `(n, *grid, 1)`.
        references: `(m, *grid)` or `(m, *grid, 1)`; read in slices, so a memory map serves.
        ndim: 2 or 3. Default 2.
        chunk: references compared at once. Default 1024.

    Returns:
        Indices into `references`, int64 `(n,)`, and root mean squared differences, float64
        `(n,)`, in intensity units.

    Raises:
        ValueError: the grids differ or there is no reference.
    """
    queries = as_images(queries, ndim, "queries")
    if len(references) == 0 or tuple(references.shape[1 : ndim + 1]) != queries.shape[1:]:
        raise ValueError(
            "references must be images of the size of the queries. Received: queries "
            f"{queries.shape}, references {references.shape}"
        )
    flat = queries.reshape(len(queries), -1).astype("float32")
    best = np.full(len(flat), np.inf)
    index = np.zeros(len(flat), "int64")
    for start in range(0, len(references), chunk):
        part = as_images(references[start : start + chunk], ndim, "references")
        part = part.reshape(len(part), -1).astype("float32")
        distance = (part**2).sum(1)[None] - 2 * flat @ part.T  # (n, chunk), without |query|²
        nearest = distance.argmin(1)
        value = distance[np.arange(len(flat)), nearest]
        index = np.where(value < best, start + nearest, index)
        best = np.minimum(best, value)
    # The expansion above loses digits where two images are almost equal; the winner is measured
    # again, pixel by pixel.
    rmse = [
        np.sqrt(np.mean((flat[i] - np.asarray(references[j], "float32").ravel()) ** 2))
        for i, j in enumerate(index)
    ]
    return index, np.array(rmse, "float64")


def halved(x):
    """Means over blocks of 2 pixels a side, `(n, *grid)` → `(n, *(grid // 2))`."""
    for axis in range(1, x.ndim):
        even = x.shape[axis] // 2 * 2
        first, second = [slice(None)] * x.ndim, [slice(None)] * x.ndim
        first[axis], second[axis] = slice(0, even, 2), slice(1, even, 2)
        # In floats, or whole numbers would overflow.
        x = 0.5 * x[tuple(first)].astype("float32") + 0.5 * x[tuple(second)].astype("float32")
    return x


def _squared_errors(x, y, mask=None):
    """Sums of squared errors per image, whole and (with a mask) inside the mask."""
    whole = np.empty(len(x))
    inside = None if mask is None else np.empty(len(x))
    for i in range(len(x)):
        difference = x[i].astype("float64") - y[i]
        difference *= difference
        whole[i] = difference.sum()
        if mask is not None:
            inside[i] = difference[mask[i]].sum()
    return whole, inside


def _decibel(error, data_range):
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(np.divide(float(data_range) ** 2, error))


def _pair(x, y, ndim):
    x, y = as_images(x, ndim, "x"), as_images(y, ndim, "y")
    if x.shape != y.shape:
        raise ValueError(f"x and y must have the same shape. Received: {x.shape} and {y.shape}")
    return x, y


def _mask(mask, x, ndim):
    mask = as_images(mask, ndim, "mask").astype(bool)
    if mask.shape != x.shape:
        raise ValueError(f"mask must have the shape of x. Received: {mask.shape} for {x.shape}")
    return mask
