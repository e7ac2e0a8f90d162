"""A quantiser that looks codes up among fewer channels."""

import keras

from brainvq.arguments import whole
from brainvq.layers.bottleneck import Bottleneck, BottleneckChain, given, refuse_tensors


@keras.saving.register_keras_serializable(package="brainvq")
class ProjectedQuantizer(Bottleneck):
    """Quantises a linear projection of z to few channels, and projects the result back.

    Factorised codes (Yu et al. 2022, "Vector-quantized image modeling with improved VQGAN", section
    3.2): with the quantiser Q and the matrices A `(dim, inner_dim)` and B `(inner_dim, dim)`, both
    trained,

        quantized = Q(z A + a) B.

    Codes found among 8 or 16 channels are used more evenly than among 256; and a quantiser that
    takes a certain number of channels, as `FiniteScalarQuantizer` and `LookupFreeQuantizer` do,
    fits every network. Losses are those of Q. Outputs are those of Q, projected by B.

    Example:
        >>> ProjectedQuantizer(LookupFreeQuantizer(bits=9), inner_dim=9)

    Args:
        quantizer: a `Bottleneck` with codes.
        inner_dim: int ≥ 1, channels that it reads.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, quantizer: Bottleneck, inner_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.quantizer = one_quantizer(quantizer)
        self.inner_dim = whole("inner_dim", inner_dim)
        # B has no constant: of several codes for a cell, each would add it.
        self.project_in = keras.layers.Dense(self.inner_dim, dtype="float32", name="project_in")
        self.project_out = None

    def build(self, input_shape):
        """Creates both matrices for `input_shape` `(batch, *grid, dim)`."""
        super().build(input_shape)
        inner_shape = (*input_shape[:-1], self.inner_dim)
        self.project_in.build(input_shape)
        if not self.quantizer.built:  # `load_model` has built it already
            self.quantizer.build(inner_shape)
        self.project_out = keras.layers.Dense(
            input_shape[-1], use_bias=False, dtype="float32", name="project_out"
        )
        self.project_out.build(inner_shape)

    @property
    def num_codes(self) -> int:
        """Number of codes K of the quantiser."""
        return self.quantizer.num_codes

    @property
    def depth(self) -> int | None:
        """Codes per grid cell of the quantiser, or None."""
        return self.quantizer.depth

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the quantiser's loss terms."""
        return self.quantizer.loss_names

    @property
    def has_continuous(self) -> bool:
        """Whether the quantiser returns `continuous`."""
        return self.quantizer.has_continuous

    @property
    def codebook(self):
        """Float32 `(num_codes, dim)`, after a `depth` if there is one: projected by B."""
        return self.project_out(self.quantizer.codebook)

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, dim)`; the quantiser adds its losses itself."""
        z, mask = self._masked(z, mask)
        outputs = self.quantizer(self.project_in(z), training=training, **given(mask))
        quantized = self.project_out(outputs["quantized"])
        continuous = outputs.get("continuous")
        continuous = None if continuous is None else self.project_out(continuous)
        return self._outputs(quantized, outputs["losses"], outputs["codes"], continuous, add=False)

    def codes_to_vectors(self, codes):
        """Looks int codes up and projects them by B; see `Bottleneck` for shapes."""
        return self.project_out(self.quantizer.codes_to_vectors(codes))

    def stages(self) -> list:
        """The stages of the quantiser."""
        return self.quantizer.stages()

    def start_codebooks(self, vectors, fit):
        """Starts the codebook from projected vectors; returns what is left to stages after it."""
        projected = keras.ops.convert_to_numpy(self.project_in(vectors))
        read = self.quantizer.start_codebooks(projected, fit)
        return keras.ops.convert_to_numpy(self.project_out(read))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "quantizer": keras.saving.serialize_keras_object(self.quantizer),
            "inner_dim": self.inner_dim,
        }


def one_quantizer(quantizer):
    """A quantiser given as a layer or as its config; refuses what cannot stand within another."""
    if isinstance(quantizer, dict):
        quantizer = keras.saving.deserialize_keras_object(quantizer)
    fits = isinstance(quantizer, Bottleneck) and not isinstance(quantizer, BottleneckChain)
    if not fits or not quantizer.has_codes:
        raise ValueError(
            f"`quantizer` must be a bottleneck with codes. Received: quantizer={quantizer}"
        )
    refuse_tensors("quantizer", [quantizer])
    return quantizer
