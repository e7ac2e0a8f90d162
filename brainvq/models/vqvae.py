"""The autoencoder whose `encode` gives codes."""

import math

import keras
import numpy as np

from brainvq.layers.bottleneck import Bottleneck
from brainvq.models.autoencoder import Autoencoder
from brainvq.models.latent import Codes


@keras.saving.register_keras_serializable(package="brainvq")
class VQVAETrainer(Autoencoder):
    """The autoencoder whose bottleneck has codes: a brain image as a few integers.

    `encode` gives codes and `decode` takes them. Arguments and training are those of `Autoencoder`
    (van den Oord et al. 2017). With a `ResidualQuantizer`, `decode(codes[..., :i])` decodes the
    first i codes of each cell, coarser for fewer bits.

        >>> model = VQVAETrainer(
        ...     conv_encoder((128, 128, 1)), EMAVectorQuantizer(16), conv_decoder((8, 8, 16))
        ... )
        >>> codes = model.encode(images)                  # int32 (n, 8, 8)
        >>> images = model.decode(codes)                  # float32 (n, 128, 128, 1)

    Args:
        encoder: see `Autoencoder`.
        bottleneck: a quantiser, or a list whose last is one.
        decoder: see `Autoencoder`.
        reconstruction_loss: see `Autoencoder`.
        continuous_weight: see `Autoencoder`.
        **kwargs: see `Autoencoder`.

    Raises:
        ValueError: if the bottleneck has no codes, and as `Autoencoder` does.
    """

    def __init__(
        self,
        encoder: keras.layers.Layer,
        bottleneck: Bottleneck | list[Bottleneck],
        decoder: keras.layers.Layer,
        reconstruction_loss: str | dict | keras.losses.Loss = "mse",
        continuous_weight: float | None = None,
        **kwargs,
    ):
        super().__init__(
            encoder, bottleneck, decoder, reconstruction_loss, continuous_weight, **kwargs
        )
        if not self.bottleneck.has_codes:
            raise ValueError(
                "`bottleneck` must have codes, as VectorQuantizer has. "
                f"Received: bottleneck={bottleneck}"
            )

    @property
    def latent(self) -> Codes:
        """What `encode` gives and `decode` takes: `Codes`."""
        return Codes(self.num_codes, self.depth or 1)

    @property
    def decodes_codes(self) -> bool:
        """Whether images are made from codes alone: not where there are skip connections."""
        return not self.has_skips

    @property
    def bits_per_code(self) -> float:
        """log2(K): the bits of one code stored without a prior; a cell has `depth` of them."""
        return math.log2(self.num_codes)

    def bits_per_sample(self, sample_shape: tuple[int, ...]) -> float | None:
        """Bits that the codes of a sample take without a prior: all codes, `bits_per_code` each.

        Where common codes take fewer bits (`EntropyQuantizer`): the mean over training samples.

        Args:
            sample_shape: `(*spatial, channels)` of one sample.

        Returns:
            Float; None where reconstructions are not made of codes alone (`decodes_codes`).
        """
        if not self.decodes_codes:
            return None
        if self.bottleneck.sample_bits is not None:
            return self.bottleneck.sample_bits
        return float(math.prod(self.code_shape(sample_shape)) * self.bits_per_code)

    def encode(self, x: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Encodes images to codes.

        Args:
            x: float array `(n, *spatial, channels)` of any size that the encoder takes: what is no
                multiple of `stride` is padded on both sides with its edge.
            batch_size: int, images per step.

        Returns:
            Int32 NumPy array `(n, *grid)`, or `(n, *grid, depth)`, in 0 … num_codes − 1.

        Raises:
            ValueError: if the encoder was made for another size.
        """
        return super().encode(x, batch_size)

    def decode(
        self, codes: np.ndarray, batch_size: int = 32, size: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """Decodes codes to images; the codebook stays as it is.

        Args:
            codes: int array `(n, *grid)`, or `(n, *grid, 1 … depth)`, in 0 … num_codes − 1. The
                grid may have any size that the decoder takes.
            batch_size: int, samples per step.
            size: spatial sizes of the images that were encoded; the padding of `encode` is cut off
                again. By default the images keep it.

        Returns:
            Float32 NumPy array `(n, *spatial, channels)`.

        Raises:
            ValueError: if the codes are no integers, out of range, of another rank or of more
                stages than there are, images of that `size` have another grid, or the decoder needs
                more than codes.
        """
        self._refuse_skips()
        codes = np.asarray(codes)
        axes = len(self.stride) + (1 if self.depth is None else 2)
        if (
            not np.issubdtype(codes.dtype, np.integer)
            or codes.ndim != axes
            or (self.depth is not None and not 1 <= codes.shape[-1] <= self.depth)
        ):
            stages = "" if self.depth is None else f", 1 to {self.depth}"
            raise ValueError(
                f"Codes must be integers (n{', size' * len(self.stride)}{stages}). "
                f"Received: codes.shape={codes.shape}, codes.dtype={codes.dtype}"
            )
        if codes.size and (codes.min() < 0 or codes.max() >= self.num_codes):
            raise ValueError(
                f"Codes must be from 0 to {self.num_codes - 1}. "
                f"Received: codes from {codes.min()} to {codes.max()}"
            )
        # A program per number of stages: TensorFlow would compile one for any number of them.
        name = "decode" if self.depth is None else f"decode {codes.shape[-1]} stages"
        images = self._batched(name, self._decode_codes, codes.astype("int32"), batch_size)
        return self._cropped(images, size)

    def endpoints(self, inputs=None) -> dict:
        """What `export` writes: see `Autoencoder.endpoints`; codes take the place of vectors.

        Args:
            inputs: see there.

        Returns:
            See there. `decode` takes int32 `(n, *grid)`, or `(n, *grid, depth)`.
        """
        functions = super().endpoints(inputs)
        images = functions["encode"][1]
        functions["encode"] = (self._codes, images)
        if "decode" in functions:
            functions["reconstruct"] = (lambda x: self._decode_codes(self._codes(x)), images)
            grid = functions["decode"][1].shape[:-1]
            shape = grid if self.depth is None else (*grid, self.depth)
            codes = keras.InputSpec(shape=shape, dtype="int32", name="codes")
            functions["decode"] = (self._decode_codes, codes)
        return functions

    def _latents(self, x):
        return self._codes(x)

    def _decode_codes(self, codes):
        return self._decode_vectors(self.bottleneck.codes_to_vectors(codes))
