"""The quantiser of van den Oord et al. 2017, trained by gradients."""

import keras
from keras import ops

from brainvq.layers.quantizer import Quantizer, nearest_codes


@keras.saving.register_keras_serializable(package="brainvq")
class VectorQuantizer(Quantizer):
    """Replaces each vector by its nearest code; the optimiser moves the codes.

    van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning",
    equation 3: with sg the stopped gradient, the losses are

    - `codebook_loss`: mean ‖sg(z) − e‖², which moves the codes to the vectors,
    - `commitment_loss`: β · mean ‖z − sg(e)‖², which holds the vectors to their codes,

    means over all elements. Returns `{"quantized": (batch, *grid, dim), "codes": int32 (batch,
    *grid), "losses": {...}}`.

    A random start often leaves most codes unused; `brainvq.training.codebook_init` starts from
    clusters of encoded data, and `EMAVectorQuantizer` from its first batch.

    Example:
        >>> inputs = keras.Input((128, 128, 1))
        >>> z = keras.layers.Conv2D(16, 4, strides=4)(inputs)
        >>> z = VectorQuantizer(num_codes=64)(z)["quantized"]
        >>> model = keras.Model(inputs, keras.layers.Conv2DTranspose(1, 4, strides=4)(z))

    Args:
        num_codes: int ≥ 2, the number of codes K.
        beta: float ≥ 0, factor of the commitment loss. Default 0.25, the paper's.
        initializer: Keras initialiser of the codebook `(num_codes, dim)`. Default
            `"random_uniform"`, the range [−0.05, 0.05] of the well-known tutorial.
        distance: `"euclidean"` or `"cosine"`; see `Quantizer`.
        gradient: `"straight_through"` or `"rotation"`; see `Quantizer`.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    loss_names = ("codebook_loss", "commitment_loss")

    def __init__(
        self,
        num_codes: int,
        beta: float = 0.25,
        initializer: str | keras.initializers.Initializer = "random_uniform",
        distance: str = "euclidean",
        gradient: str = "straight_through",
        **kwargs,
    ):
        super().__init__(num_codes, beta, distance, gradient, **kwargs)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        """Creates the codebook for `input_shape` `(batch, *grid, dim)`."""
        super().build(input_shape)
        self.embedding = self.add_weight(
            shape=(self.num_codes, input_shape[-1]), initializer=self.initializer, name="embedding"
        )

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, dim)`; see the class for what is returned."""
        z, vectors, mask, _ = self._flatten(z, mask)
        codebook = self._learning_codebook(vectors)
        flat_codes = nearest_codes(vectors, ops.stop_gradient(codebook))
        quantized, codes = self._look_up(z, flat_codes, codebook)
        losses = {
            "codebook_loss": self._mean(ops.square(ops.stop_gradient(z) - quantized), mask),
            "commitment_loss": self._commitment(z, quantized, mask),
        }
        return self._outputs(self._pass_gradient(z, quantized), losses, codes, continuous=z)

    def get_config(self):
        """Returns the constructor's arguments."""
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "initializer": initializer}
