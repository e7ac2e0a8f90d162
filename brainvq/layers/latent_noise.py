"""Noise on latent vectors, for decoders that should bear it."""

import keras
from keras import ops

from brainvq.arguments import number, seed_of
from brainvq.layers.bottleneck import Bottleneck


@keras.saving.register_keras_serializable(package="brainvq")
class LatentNoise(Bottleneck):
    """Adds Gaussian noise to latent vectors while training; passes them on as they are otherwise.

    The noise of a channel is ε times the standard deviation that this channel has over the batch
    and its grid, so that an encoder cannot escape it by larger vectors (no gradient passes the
    deviation). Half of the samples, drawn anew each time, stay as they are, and each of the others
    has an ε of its own, uniform in [0, `size`]. Before a quantiser it disturbs what is quantised,
    as in the perturbation analysis of Lizarraga et al. 2023, section 3.3. Put it first in a
    `BottleneckChain`.

    Returns `{"quantized": (batch, *grid, dim), "losses": {}}`; there are no codes.

    Args:
        size: float ≥ 0, the largest ε, in standard deviations.
        seed: int or None. Noise differs between calls; the generator's state is saved with the
            weights.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if `size` is negative.
    """

    def __init__(self, size: float, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.size = number("size", size)
        self.seed = seed_of(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, input_shape):
        """There is nothing to build."""

    def call(self, z, training: bool | None = None, mask=None):
        """Adds noise to `z` `(batch, *grid, dim)` in training."""
        z, mask = self._masked(ops.cast(z, "float32"), mask)
        if training and self.size > 0:
            deviation = self._deviation(z, mask)
            ones = (1,) * (len(z.shape) - 1)
            shape = (ops.shape(z)[0], *ones)
            sizes = keras.random.uniform(shape, minval=-1.0, maxval=1.0, seed=self.seed_generator)
            sizes = ops.maximum(sizes, 0.0)
            noise = keras.random.normal(ops.shape(z), dtype="float32", seed=self.seed_generator)
            z = z + self.size * sizes * ops.stop_gradient(deviation) * noise
        return self._outputs(z, {})

    def _deviation(self, z, mask):
        """Standard deviation of each channel, `(dim,)`, over the cells that hold data."""
        if mask is None:
            return ops.std(z, axis=tuple(range(len(z.shape) - 1)))
        vectors, mask = ops.reshape(z, (-1, z.shape[-1])), ops.reshape(mask, (-1,))
        mean = self._mean(vectors, mask, axis=0)
        return ops.sqrt(self._mean(ops.square(vectors - mean), mask, axis=0))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "size": self.size, "seed": self.seed}
