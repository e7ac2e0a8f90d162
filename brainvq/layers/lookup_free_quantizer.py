"""The quantiser whose codes are the signs of the channels."""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number, whole
from brainvq.layers.bottleneck import Bottleneck
from brainvq.layers.code_losses import entropy
from brainvq.layers.live_number import LiveNumber
from brainvq.layers.quantizer import straight_through, unit_length

MOST_BITS = 30  # what an int32 counts
MOST_JOINT_BITS = 12  # 4096 numbers for each vector


@keras.saving.register_keras_serializable(package="brainvq")
class LookupFreeQuantizer(Bottleneck):
    """Takes the sign of each channel: as many bits as channels, and no codebook to look up.

    LFQ of MAGVIT-v2 (Yu et al. 2023, "Language model beats diffusion: tokenizer is key to visual
    generation", section 3): of z with L channels

        quantized_i = s · sign(z_i),   code = Σ_i 2^(i−1) [z_i > 0],

    with s = 1. With `spherical` z is scaled to unit length first and s = 1/√L: binary spherical
    quantisation (BSQ; Zhao, Xiong & Krähenbühl 2024). Every code is in reach from the start, and a
    straight-through gradient passes the sign. The losses are

    - `commitment_loss`: β · mean (z − sg(quantized))² over all elements,
    - `entropy_loss`: w (mean H(p) − H(mean p)), where p is the softmax of −‖z − c‖² / τ over the
      2^L codes c: each vector sure of its code, and all codes in use.

    p is a product over the channels, of bits that are set with probability σ(4 s z_i / τ); so H(p)
    is a sum. H(mean p) is none: it is computed for `joint_bits` channels at a time and added up,
    exact where these are all, and an upper bound elsewhere.

    Returns `{"quantized": float32 (batch, *grid, bits), "codes": int32 (batch, *grid),
    "continuous": (batch, *grid, bits), "losses": {...}}`; `continuous` is z, of unit length with
    `spherical`. For z of another number of channels put it into a `ProjectedQuantizer`.

    Args:
        bits: int, 1 to 30, L: z must have so many channels, and there are 2^L codes.
        spherical: bool, whether z is scaled to unit length (BSQ). Default False (LFQ).
        beta: float ≥ 0, β. Default 0.25. It can be set again at any time, as by a callback.
        entropy_weight: float ≥ 0, w. Default 0.1.
        temperature: float > 0, τ; lower is sharper. It can be set again at any time. Default 1.
        joint_bits: int, 1 to 12, channels whose bits are counted together. Memory grows with 2 to
            this power. Default 8.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range, or, in `build`, z has another number of
            channels.
    """

    loss_names = ("commitment_loss", "entropy_loss")
    num_codes = None  # an attribute of each instance
    beta = LiveNumber()
    temperature = LiveNumber(above=True)

    def __init__(
        self,
        bits: int,
        spherical: bool = False,
        beta: float = 0.25,
        entropy_weight: float = 0.1,
        temperature: float = 1.0,
        joint_bits: int = 8,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.bits = _at_most("bits", bits, MOST_BITS)
        self.joint_bits = _at_most("joint_bits", joint_bits, MOST_JOINT_BITS)
        self.spherical = bool(spherical)
        self.beta = beta
        self.entropy_weight = number("entropy_weight", entropy_weight)
        self.temperature = temperature
        self.num_codes = 2**self.bits
        self._size = self.bits**-0.5 if self.spherical else 1.0
        self._steps = 2 ** np.arange(self.bits, dtype="int32")

    def build(self, input_shape):
        """Checks `input_shape` `(batch, *grid, bits)`; there is nothing to create."""
        super().build(input_shape)
        if input_shape[-1] != self.bits:
            raise ValueError(
                f"z must have {self.bits} channels, one per bit; a ProjectedQuantizer makes them. "
                f"Received: input_shape={input_shape}"
            )

    @property
    def codebook(self):
        """Float32 `(num_codes, bits)`: every combination of signs, made at each call."""
        return self.codes_to_vectors(ops.arange(self.num_codes, dtype="int32"))

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, bits)`; see the class for what is returned."""
        z, mask = self._masked(z, mask)
        z = unit_length(z) if self.spherical else z
        is_set = ops.stop_gradient(z) > 0
        signs = ops.where(is_set, self._size, -self._size)
        digits = ops.cast(is_set, "int32") * ops.convert_to_tensor(self._steps)
        codes = ops.sum(digits, axis=-1)
        far = self._mean(ops.square(z - signs), mask)
        losses = {
            "commitment_loss": self.live("beta") * far,
            "entropy_loss": self.entropy_weight * self._spread(z, mask),
        }
        quantized = straight_through(z, signs)
        return self._outputs(quantized, losses, ops.cast(codes, "int32"), continuous=z)

    def codes_to_vectors(self, codes):
        """Computes vectors: int `(batch, *grid)` in 0 … num_codes − 1 → `(batch, *grid, bits)`."""
        codes = ops.expand_dims(ops.cast(codes, "int32"), axis=-1)
        digits = ops.cast(ops.mod(ops.floor_divide(codes, self._steps), 2), "float32")
        return self._size * (2.0 * digits - 1.0)

    def _spread(self, z, mask):
        """Mean H(p) − H(mean p), in nats."""
        logits = ops.reshape(z, (-1, self.bits)) * (4.0 * self._size) / self.live("temperature")
        mask = None if mask is None else ops.reshape(mask, (-1,))
        p = ops.sigmoid(logits)
        own = ops.sum(ops.softplus(logits) - logits * p, axis=-1)  # of a bit: log(1 + eˡ) − l p
        total = self._mean(own, mask)
        for start in range(0, self.bits, self.joint_bits):
            joint = None
            for i in range(start, min(start + self.joint_bits, self.bits)):
                bit = p[:, i : i + 1]
                if joint is None:
                    joint = ops.concatenate([1.0 - bit, bit], axis=-1)
                else:
                    joint = ops.concatenate([joint * (1.0 - bit), joint * bit], axis=-1)
            total = total - entropy(self._mean(joint, mask, axis=0))  # of (n, 2 ** bits so far)
        return total

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "bits": self.bits,
            "spherical": self.spherical,
            "beta": self.beta,
            "entropy_weight": self.entropy_weight,
            "temperature": self.temperature,
            "joint_bits": self.joint_bits,
        }


def _at_most(name, value, most):
    value = whole(name, value)
    if value > most:
        raise ValueError(f"`{name}` must be at most {most}. Received: {name}={value}")
    return value
