"""The quantiser without a codebook to learn: every channel is rounded to a few levels."""

import math

import keras
import numpy as np
from keras import ops

from brainvq.arguments import wholes
from brainvq.layers.bottleneck import Bottleneck
from brainvq.layers.quantizer import straight_through


@keras.saving.register_keras_serializable(package="brainvq")
class FiniteScalarQuantizer(Bottleneck):
    """Bounds each channel and rounds it to one of its levels; all combinations are the codes.

    FSQ (Mentzer, Minnen, Agustsson & Tschannen 2023, "Finite scalar quantization: VQ-VAE made
    simple", section 3.1 and the program in their appendix A.1). Channel i of z, with L_i levels, is
    bounded by

        f(z) = (L − 1)/2 · tanh(z + s) − o,   o = 0 for odd L and ½ for even L,

    with s such that f(0) = 0, and rounded; so an odd L gives −(L − 1)/2 … (L − 1)/2 and an even
    one −L/2 … L/2 − 1. The result is divided by ⌊L/2⌋, into [−1, 1]. The gradient passes the
    rounding unchanged (straight through) and feels the tanh. There are no losses and no weights;
    every code is in reach from the start. (s is artanh(2o/(L − 1)); the authors' program takes a
    tangent there, by which f(0) is not quite 0.)

    Code = Σ_i d_i · L_1 ⋯ L_(i−1) with the digits d_i = rounded value + ⌊L_i/2⌋ in 0 … L_i − 1: the
    first channel counts fastest.

    Returns `{"quantized": float32 (batch, *grid, dim), "codes": int32 (batch, *grid), "continuous":
    (batch, *grid, dim), "losses": {}}`; `continuous` is f(z)/⌊L/2⌋, before it is rounded.

    Args:
        levels: ints ≥ 3, L_i, one per channel of z. Default (8, 5, 5, 5): 1000 codes, the paper's
            for about 2¹⁰; it advises 5 or more. (Of two, 0 is the upper end, and s infinite.)
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if a level is below 3 or the codes are more than an int32 counts, or, in
            `build`, z has another number of channels than there are levels.
    """

    def __init__(self, levels: tuple[int, ...] = (8, 5, 5, 5), **kwargs):
        super().__init__(**kwargs)
        self.levels = wholes("levels", levels, 3, least=1)
        self.num_codes = math.prod(self.levels)
        if self.num_codes > np.iinfo("int32").max:
            raise ValueError(
                f"`levels` must make at most {np.iinfo('int32').max} codes. "
                f"Received: levels={self.levels}, which make {self.num_codes}"
            )
        sizes = np.array(self.levels)
        half_range = ((sizes - 1) / 2).astype("float32")
        offset = np.where(sizes % 2, 0.0, 0.5).astype("float32")
        shift = np.arctanh(offset / half_range).astype("float32")
        self._bounds = half_range, offset, shift
        self._half_width = (sizes // 2).astype("float32")
        self._steps = np.cumprod([1, *self.levels[:-1]]).astype("int32")

    def build(self, input_shape):
        """Checks `input_shape` `(batch, *grid, dim)`; there is nothing to create."""
        super().build(input_shape)
        if input_shape[-1] != len(self.levels):
            raise ValueError(
                f"z must have {len(self.levels)} channels, one per level of {self.levels}. "
                f"Received: input_shape={input_shape}"
            )

    @property
    def codebook(self):
        """Float32 `(num_codes, dim)`: every combination of levels, made at each call."""
        return self.codes_to_vectors(ops.arange(self.num_codes, dtype="int32"))

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, dim)`; see the class for what is returned."""
        z, _ = self._masked(z, mask)
        half_range, offset, shift = map(ops.convert_to_tensor, self._bounds)
        half_width = ops.convert_to_tensor(self._half_width)
        bounded = half_range * ops.tanh(z + shift) - offset
        rounded = ops.round(bounded)
        digits = ops.cast(ops.stop_gradient(rounded) + half_width, "int32")
        codes = ops.sum(digits * ops.convert_to_tensor(self._steps), axis=-1)
        quantized = straight_through(bounded, rounded) / half_width
        continuous = bounded / half_width
        return self._outputs(quantized, {}, ops.cast(codes, "int32"), continuous=continuous)

    def codes_to_vectors(self, codes):
        """Computes vectors: int `(batch, *grid)` in 0 … num_codes − 1 → `(batch, *grid, dim)`."""
        codes = ops.expand_dims(ops.cast(codes, "int32"), axis=-1)
        sizes = np.array(self.levels, "int32")
        digits = ops.mod(ops.floor_divide(codes, self._steps), sizes)  # (batch, *grid, dim)
        half_width = ops.convert_to_tensor(self._half_width)
        return (ops.cast(digits, "float32") - half_width) / half_width

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "levels": list(self.levels)}
