"""Noise on latent vectors, for decoders that should bear it."""

import keras
from keras import ops

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
        if size < 0:
            raise ValueError(f"`size` must be at least 0. Received: size={size}")
        self.size = size
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        """There is nothing to build."""

    def call(self, z, training: bool | None = None):
        """Adds noise to `z` `(batch, *grid, dim)` in training."""
        z = ops.cast(z, "float32")
        if training and self.size > 0:
            deviation = ops.std(z, axis=tuple(range(len(z.shape) - 1)))
            ones = (1,) * (len(z.shape) - 1)
            shape = (ops.shape(z)[0], *ones)
            sizes = keras.random.uniform(shape, minval=-1.0, maxval=1.0, seed=self.seed_generator)
            sizes = ops.maximum(sizes, 0.0)
            noise = keras.random.normal(ops.shape(z), dtype="float32", seed=self.seed_generator)
            z = z + self.size * sizes * ops.stop_gradient(deviation) * noise
        return self._outputs(z, {})

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "size": self.size, "seed": self.seed}
