"""Distances of two distributions of feature vectors, of which samples are at hand."""

import numpy as np
from sklearn.covariance import ledoit_wolf

from brainvq.evaluation.bootstrap import ratio


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
    once = np.ones((1, len(x))), np.ones((1, len(y)))
    return float(resampled_kernel_distance(x, y, once)[0])


def _moments(x, shrink):
    # Rows that are all alike have nothing to shrink.
    shrink = shrink and np.ptp(x, axis=0).any()
    covariance = ledoit_wolf(x)[0] if shrink else np.cov(x, rowvar=False, ddof=1)
    return x.mean(axis=0), np.atleast_2d(covariance)


def corrected_frechet(x, y, weights):
    """The Fréchet distance without the bias of few samples, by the bootstrap.

    Args:
        x: features `(n, dim)`, n at least 2.
        y: features `(m, dim)`, m at least 2.
        weights: float `(draws, n)` and `(draws, m)`, see `bootstrap.resample_weights`.

    Returns:
        The distance, the distance without its bias (0 or more), and the distances of the
        resamples, float64 `(≤ draws,)`.
    """
    value = frechet_distance(x, y, shrink=False)
    resampled = _resampled_frechet(x, y, weights)
    # Resamples are biased against the sample as the sample is against the truth.
    return value, max(2 * value - resampled.mean(), 0.0), resampled


def _resampled_frechet(x, y, weights):
    """The Fréchet distance of each resample that has two or more different rows of both."""
    distances = []
    for wx, wy in zip(*weights, strict=True):
        moments = [
            (np.average(z, axis=0, weights=w), np.cov(z, rowvar=False, fweights=w.astype(int)))
            for z, w in ((x, wx), (y, wy))
            if np.count_nonzero(w) > 1
        ]
        if len(moments) == 2:
            flat = [m for mean, covariance in moments for m in (mean, np.atleast_2d(covariance))]
            distances.append(frechet_from_moments(*flat))
    return np.array(distances)


def resampled_kernel_distance(x, y, weights):
    """`kernel_distance` of resamples.

    Args:
        x: features `(n, dim)`.
        y: features `(m, dim)`.
        weights: float `(draws, n)` and `(draws, m)`, see `bootstrap.resample_weights`.

    Returns:
        float64 `(draws,)`; NaN where a resample holds one row alone.
    """
    return _mmd(*_kernels(x, y), *weights)


def _kernels(x, y):
    return tuple((a @ b.T / x.shape[1] + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))


def _mmd(kxx, kyy, kxy, wx, wy):
    """The U-statistic where row i of `wx` says how often each x counts: `(resamples,)`.

    A volume drawn twice makes no pair with itself, or the statistic would no longer be unbiased.
    """

    def within(kernel, weight):
        off = kernel - np.diag(np.diag(kernel))
        count = weight.sum(axis=1) ** 2 - (weight**2).sum(axis=1)
        return ratio(np.einsum("bi,ij,bj->b", weight, off, weight, optimize=True), count)

    between = np.einsum("bi,ij,bj->b", wx, kxy, wy, optimize=True)
    return within(kxx, wx) + within(kyy, wy) - 2 * between / (wx.sum(axis=1) * wy.sum(axis=1))


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
