"""The bottleneck of a plain autoencoder."""

import keras

from brainvq.layers.bottleneck import Bottleneck


@keras.saving.register_keras_serializable(package="brainvq")
class Identity(Bottleneck):
    """Passes `z` on as it is: an `Autoencoder` with it is a plain autoencoder.

    Returns `{"quantized": z, "losses": {}}`, with `z` as float32 `(batch, *grid, dim)`.

    Args:
        **kwargs: see `Bottleneck`.
    """

    def build(self, input_shape):
        """There is nothing to build."""

    def call(self, z, training: bool | None = None, mask=None):
        """Returns `z` `(batch, *grid, dim)` as `quantized`."""
        return self._outputs(z, {})
