"""The bottleneck of a variational autoencoder (Kingma & Welling 2014)."""

import keras
from keras import ops

from brainvq.arguments import number, seed_of
from brainvq.layers.bottleneck import Bottleneck

# exp(20) still squares within float32; a wider log-variance is a training gone wrong already.
LOG_VARIANCE_LIMIT = 20.0


@keras.saving.register_keras_serializable(package="brainvq")
class GaussianSampling(Bottleneck):
    """Draws latent vectors from a Gaussian that the encoder's output describes.

    One dense layer maps each vector `z` of the grid to a mean and a log-variance. In training the
    output is `mean + std · ε` with ε ~ N(0, I); otherwise it is the mean. The loss is
    `kl_weight` times the divergence KL(N(mean, std²) ‖ N(0, I)) in nats: the sum over grid and
    channels, the mean over the batch (Kingma & Welling 2014, appendix B). Beside a reconstruction
    loss that is a mean over the D numbers of an image, `kl_weight=1/D` gives the likelihood bound
    of a unit-variance Gaussian, up to a factor 2.

    Returns `{"quantized": (batch, *grid, dim), "losses": {"kl_loss"}}`; there are no codes.

    Args:
        kl_weight: float ≥ 0, factor of the divergence. Default 1.
        seed: int or None. Noise differs between calls; the generator's state is saved with the
            weights, so that a resumed run goes on drawing where it stood.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if `kl_weight` is negative.
    """

    loss_names = ("kl_loss",)

    def __init__(self, kl_weight: float = 1.0, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.kl_weight = number("kl_weight", kl_weight)
        self.seed = seed_of(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, input_shape):
        """Creates the dense layer for `input_shape` `(batch, *grid, dim)`."""
        super().build(input_shape)
        dim = input_shape[-1]
        self.statistics = keras.layers.Dense(2 * dim, dtype="float32", name="statistics")
        self.statistics.build(input_shape)

    def call(self, z, training: bool | None = None, mask=None):
        """Maps `z` `(batch, *grid, dim)` to a sample (training) or to the mean."""
        z, mask = self._masked(z, mask)
        mean, log_variance = ops.split(self.statistics(z), 2, axis=-1)  # (batch, *grid, dim) each
        log_variance = ops.clip(log_variance, -LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
        divergence = 0.5 * (ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance)
        divergence = divergence if mask is None else ops.where(mask[..., None], divergence, 0.0)
        divergence = self._mean(ops.sum(divergence, axis=tuple(range(1, len(z.shape)))))
        sample = mean
        if training:
            noise = keras.random.normal(ops.shape(mean), dtype="float32", seed=self.seed_generator)
            sample = mean + ops.exp(0.5 * log_variance) * noise
        return self._outputs(sample, {"kl_loss": self.kl_weight * divergence})

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "kl_weight": self.kl_weight, "seed": self.seed}
