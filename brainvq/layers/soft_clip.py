"""A range that what a network makes cannot leave, and inside which it is left alone."""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number


@keras.saving.register_keras_serializable(package="brainvq")
class SoftClip(keras.layers.Layer):
    """Bounds its input to [0, 1], smoothly: y = (softplus(k x) − softplus(k (x − 1))) / k.

    Away from 0 and 1 by more than a few 1 / k it is the identity, so that sums of volumes stay sums
    (those of principal components, say), which a logistic function does not let them. Beyond, it is
    flat: an even background costs a network nothing to keep. Unlike a clipped value, one that lies
    outside still has a gradient: exp(−k d) at a distance d from the range, above and below alike,
    until that is less than float32 holds (d = 87 / k).

    `call(x)` takes a float tensor of any shape and returns the same shape; it computes in float32
    whatever the dtype policy.

    Args:
        sharpness: float > 0, k. Default 40: a corner as wide as 0.05.
        **kwargs: `name`, `dtype`.

    Raises:
        ValueError: if `sharpness` is not above 0.
    """

    def __init__(self, sharpness: float = 40.0, **kwargs):
        super().__init__(**kwargs)
        self.sharpness = number("sharpness", sharpness, above=True)
        self.supports_masking = True

    def call(self, x):
        """Bounds `x`; see the class."""
        x = ops.cast(x, "float32")
        # y(x) = 1 − y(1 − x): the lower half takes no difference of large, nearly equal numbers,
        # in which both the value and its small gradient would be lost.
        upper = x > 0.5
        scaled = self.sharpness * ops.where(upper, 1.0 - x, x)
        y = (ops.softplus(scaled) - ops.softplus(scaled - self.sharpness)) / self.sharpness
        return ops.cast(ops.where(upper, 1.0 - y, y), self.compute_dtype)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """The input for which `call` returns `y`.

        Args:
            y: float NumPy array of any shape, values strictly between 0 and 1.

        Returns:
            Float64 NumPy array, the shape of `y`.
        """
        k, y = self.sharpness, np.asarray(y, "float64")
        return np.log(np.expm1(k * y) / -np.expm1(k * (y - 1))) / k

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "sharpness": self.sharpness}
