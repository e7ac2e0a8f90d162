"""What draws of a variational autoencoder lack, learned from training volumes after the training.

Volumes decoded from N(0, I) are more alike than brains, and blurred, for two reasons. Vectors of
training volumes are not spread as N(0, I): Ghosh et al. (2020, "From Variational to Deterministic
Autoencoders", section 4) fit a density to them after the training. And what is decoded is the mean
of p(x | z), while a volume has detail that no vector holds: Dorta et al. (2018, "Structured
Uncertainty Prediction Networks") draw it from a Gaussian with the covariance of residuals.
"""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import whole, wholes


class ExPostGaussian(keras.layers.Layer):
    """A Gaussian of vectors, and one of residuals, that have the covariance of training volumes.

    Both are kept as m differences from a mean, divided by √(m − 1): sums of them, each times a
    number from N(0, 1), have the sample covariance. It holds what training volumes are made of:
    where scans may not be handed on, it may not either.

    Args:
        people: int ≥ 1, training volumes at most; of one alone all draws are like it.
        vector_size: int ≥ 1, numbers of a vector.
        volume_shape: `(*spatial, channels)`.
        **kwargs: `name`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, people: int, vector_size: int, volume_shape, **kwargs):
        super().__init__(**{"trainable": False, **kwargs})
        self.people = whole("people", people)
        size, shape = whole("vector_size", vector_size), wholes("volume_shape", volume_shape)

        def weight(name, shape, dtype="float32"):
            return self.add_weight(
                shape=shape, initializer="zeros", dtype=dtype, trainable=False, name=name
            )

        self.mean = weight("mean", (size,))
        self.deviation = weight("deviation", (size,))
        self.rows = weight("rows", (self.people, size))
        self.mean_residual = weight("mean_residual", shape)
        self.residuals = weight("residuals", (self.people, *shape), "float16")
        self.built = True

    def set(self, means: np.ndarray, deviations: np.ndarray, residuals: np.ndarray) -> None:
        """Takes what is known of training volumes.

        Args:
            means: float `(m, vector_size)`, 1 ≤ m ≤ `people`, means of their Gaussians.
            deviations: the same shape, standard deviations.
            residuals: float `(m, *volume_shape)`, the volumes less what is decoded from the means.

        Raises:
            ValueError: if there is no volume, or more than `people`.
        """
        if not 1 <= len(means) <= self.people:
            raise ValueError(
                f"Expected 1 to {self.people} training volumes. Received: {len(means)} of them"
            )
        self.deviation.assign(np.sqrt(np.mean(np.square(deviations), axis=0)))
        pairs = (self.mean, self.rows, means), (self.mean_residual, self.residuals, residuals)
        for mean, rows, values in pairs:
            middle = values.mean(axis=0)
            scaled = np.zeros(tuple(rows.shape), "float32")
            scaled[: len(values)] = (values - middle) / np.sqrt(max(len(values) - 1, 1))
            mean.assign(middle)
            rows.assign(scaled)

    def vectors(self, n: int, rng: np.random.Generator, temperature: float = 1.0) -> np.ndarray:
        """Draws `n` vectors, float32 `(n, vector_size)`, `temperature` times as far from the mean.

        Their covariance is that of the means plus the mean variance of the single Gaussians.
        """
        away = _sums(ops.convert_to_numpy(self.rows), n, rng)
        deviation = ops.convert_to_numpy(self.deviation)
        away += deviation * rng.standard_normal(away.shape, dtype="float32")
        return ops.convert_to_numpy(self.mean) + np.float32(temperature) * away

    def details(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draws `n` residuals, float32 `(n, *volume_shape)`."""
        residuals = ops.convert_to_numpy(self.residuals).astype("float32")
        flat = _sums(residuals.reshape(self.people, -1), n, rng)
        mean = ops.convert_to_numpy(self.mean_residual)
        return mean + flat.reshape(n, *mean.shape)


def _sums(rows, n, rng):
    """`n` sums of rows, each times a number from N(0, 1)."""
    return rng.standard_normal((n, len(rows)), dtype="float32") @ rows
