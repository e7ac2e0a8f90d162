"""Reconstruction losses: structural similarity, and its sum with the squared error.

A model that is trained on structural similarity and judged by it has seen its own judge: say so
beside its figures, and give PSNR or the squared error too, which it was not tuned for as hard.
"""

import keras
from keras import ops

from brainvq.arguments import number, whole

K1, K2 = 0.01, 0.03  # Wang, Bovik, Sheikh & Simoncelli 2004, after equation 13


def local_means(x, window: int):
    """Averages over every window that lies inside the image, by a band matrix along each axis.

    On a CPU the products take less than half the time of `average_pool` and its gradient.

    Args:
        x: float `(batch, *spatial, channels)`.
        window: int, side of the window in pixels.

    Returns:
        Float `(batch, *(spatial - window + 1), channels)`.
    """
    shape = ops.shape(x)
    for axis in range(1, len(x.shape) - 1):
        first = ops.arange(shape[axis] - window + 1)[:, None]
        offset = ops.arange(shape[axis])[None, :] - first
        inside = ops.logical_and(offset >= 0, offset < window)
        band = ops.cast(inside, x.dtype) / window  # (size - window + 1, size)
        x = ops.moveaxis(ops.matmul(band, ops.moveaxis(x, axis, -2)), -2, axis)
    return x


def structural_similarity(y_true, y_pred, window: int = 7, data_range: float = 1.0):
    """Mean structural similarity of each image, differentiable.

    Equation 13 of Wang et al. (2004) over uniform windows that lie inside the image, with sample
    (co)variance: the number that `skimage.metrics.structural_similarity` gives by default. It is
    2D or 3D as the images are.

    Args:
        y_true: float `(batch, *spatial, channels)`, at least `window` pixels along each axis.
        y_pred: the same shape.
        window: int, odd, at least 3: side of the window in pixels.
        data_range: distance between the lowest and highest possible intensity.

    Returns:
        Float32 `(batch,)`, at most 1: the mean over positions and channels.

    Raises:
        ValueError: if an argument is out of its range, or an image is smaller than the window.
    """
    window, data_range = _odd_window(window), number("data_range", data_range, above=True)
    if any(size is not None and size < window for size in y_pred.shape[1:-1]):
        raise ValueError(
            f"Images must have at least {window} pixels along each axis, the side of "
            f"the SSIM window. Received: y_pred.shape={tuple(y_pred.shape)}"
        )
    x, y = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
    channels, rank = x.shape[-1], len(x.shape) - 2
    moments = ops.concatenate([x, y, x * x, y * y, x * y], axis=-1)
    moments = local_means(moments, window)  # (batch, *positions, 5 * channels)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
        moments[..., i * channels : (i + 1) * channels] for i in range(5)
    )
    sample = window**rank / (window**rank - 1)  # sample covariance, as skimage
    # The difference of two means of squares can fall a rounding error under zero.
    variance_x = sample * ops.maximum(mean_xx - mean_x * mean_x, 0.0)
    variance_y = sample * ops.maximum(mean_yy - mean_y * mean_y, 0.0)
    covariance = sample * (mean_xy - mean_x * mean_y)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / (mean_x * mean_x + mean_y * mean_y + c1)
    similarity = similarity / (variance_x + variance_y + c2)
    return ops.mean(similarity, axis=tuple(range(1, rank + 2)))


def _odd_window(window):
    if whole("window", window, 3) % 2 != 1:
        raise ValueError(f"`window` must be odd and at least 3. Received: window={window}")
    return int(window)


@keras.saving.register_keras_serializable(package="brainvq")
class ReconstructionLoss(keras.losses.Loss):
    """Weighted sum of squared error, absolute error and 1 − structural similarity.

    loss = `mse_weight` · mean (x − y)² + `mae_weight` · mean |x − y| + `ssim_weight` · (1 − SSIM).
    Zhao, Gallo, Frosio & Kautz (2017, equation 9) mix SSIM with a pixel error in this way, because
    SSIM alone leaves the brightness of flat regions loose. Computed in float32. SSIM is 2D for
    `(batch, height, width, channels)` and 3D for volumes.

    Args:
        mse_weight: float ≥ 0. Default 1.
        ssim_weight: float ≥ 0. Default 0.
        mae_weight: float ≥ 0. Default 0.
        mse_knee: float > 0, or None (default). The mean squared error m of a sample then counts as
            k · log(1 + m / k): as it is below the knee k, and by its logarithm above it (the form
            of the Cauchy loss; Barron 2019, equation 1 with α = 0), so that a few samples that
            cannot be predicted well do not outweigh all others.
        window: odd int ≥ 3, side of the uniform SSIM window in pixels. Default 7.
        data_range: float > 0, distance between the lowest and highest possible intensity: 1 for
            images in [0, 1]. Used by SSIM alone. Default 1.
        **kwargs: `name`, `reduction`, `dtype` of `keras.losses.Loss`.

    Raises:
        ValueError: if an argument is out of its range, or an image is smaller than the window.
    """

    def __init__(
        self,
        mse_weight: float = 1.0,
        ssim_weight: float = 0.0,
        mae_weight: float = 0.0,
        window: int = 7,
        data_range: float = 1.0,
        mse_knee: float | None = None,
        name: str = "reconstruction_loss",
        **kwargs,
    ):
        super().__init__(name=name, **{"dtype": "float32", **kwargs})
        weights = {"mse_weight": mse_weight, "ssim_weight": ssim_weight, "mae_weight": mae_weight}
        weights = {key: number(key, weight) for key, weight in weights.items()}
        if not any(weights.values()):
            raise ValueError(f"One of the weights must be above 0. Received: {weights}")
        if mse_knee is not None:
            mse_knee = number("mse_knee", mse_knee, above=True)
        self.mse_knee = mse_knee
        self.mse_weight = weights["mse_weight"]
        self.ssim_weight = weights["ssim_weight"]
        self.mae_weight = weights["mae_weight"]
        self.window = _odd_window(window)
        self.data_range = number("data_range", data_range, above=True)

    def call(self, y_true, y_pred):
        """Returns the loss of each sample, float32 `(batch, 1, …)`.

        As with the losses of Keras, the channel axis is gone; the spatial axes have the size 1.
        """
        axes = tuple(range(1, len(y_pred.shape)))
        error = y_true - y_pred
        loss = 0.0
        if self.mse_weight:
            squared = ops.mean(ops.square(error), axis=axes)
            if self.mse_knee is not None:
                squared = self.mse_knee * ops.log1p(squared / self.mse_knee)
            loss = loss + self.mse_weight * squared
        if self.mae_weight:
            loss = loss + self.mae_weight * ops.mean(ops.abs(error), axis=axes)
        if self.ssim_weight:
            similarity = structural_similarity(y_true, y_pred, self.window, self.data_range)
            loss = loss + self.ssim_weight * (1.0 - similarity)
        return ops.reshape(loss, (-1, *(1 for _ in axes[1:])))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "mse_weight": self.mse_weight,
            "ssim_weight": self.ssim_weight,
            "mae_weight": self.mae_weight,
            "window": self.window,
            "data_range": self.data_range,
            "mse_knee": self.mse_knee,
        }


@keras.saving.register_keras_serializable(package="brainvq")
class SSIMLoss(keras.losses.Loss):
    """1 − structural similarity; see `structural_similarity` for its definition.

    Args:
        window: odd int ≥ 3, side of the uniform window in pixels. Default 7.
        data_range: float > 0, distance between the lowest and highest possible intensity.
        **kwargs: `name`, `reduction`, `dtype` of `keras.losses.Loss`.

    Raises:
        ValueError: if an argument is out of its range, or an image is smaller than the window.
    """

    def __init__(self, window: int = 7, data_range: float = 1.0, name: str = "ssim_loss", **kwargs):
        super().__init__(name=name, **{"dtype": "float32", **kwargs})
        self._loss = ReconstructionLoss(0.0, 1.0, 0.0, window, data_range)
        self.window = self._loss.window
        self.data_range = self._loss.data_range

    def call(self, y_true, y_pred):
        """Returns the loss of each sample, float32 `(batch, 1, …)` in [0, 2]."""
        return self._loss.call(y_true, y_pred)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "window": self.window, "data_range": self.data_range}
