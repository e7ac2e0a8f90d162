"""Quantisers of parts of a vector: groups with codebooks of their own, heads that share one."""

import keras
from keras import ops

from brainvq.arguments import whole
from brainvq.layers.bottleneck import Bottleneck, given, number_given
from brainvq.layers.projected_quantizer import one_quantizer


class PartsQuantizer(Bottleneck):
    """Base class: cuts the channels into equal parts, each of which has a code of its own.

    Product quantisation (Jégou, Douze & Schmid 2011): D parts of codebooks of K rows distinguish
    K^D vectors. A `codebook` `(depth, num_codes, dim)` holds the rows of part i among the channels
    of part i and zeros elsewhere: the vector of a cell is the sum of the rows of its codes.
    """

    @property
    def depth(self) -> int:
        """Number of parts, and of codes per cell."""
        raise NotImplementedError

    @property
    def num_codes(self) -> int:
        """Number of codes K of each part."""
        return self.stages()[0].num_codes

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the quantisers' loss terms, each once, in order."""
        return tuple(dict.fromkeys(name for q in self.stages() for name in q.loss_names))

    @property
    def codebook(self):
        """Float32 `(depth, num_codes, dim)`."""
        parts = [quantizer.codebook for quantizer in self._of_parts()]
        return ops.concatenate([self._among_all(part, i)[None] for i, part in enumerate(parts)])

    def build(self, input_shape):
        """Builds the quantisers for `input_shape` `(batch, *grid, dim)`."""
        super().build(input_shape)
        if input_shape[-1] % self.depth:
            raise ValueError(
                f"z must have a multiple of {self.depth} channels, as many for each code. "
                f"Received: input_shape={input_shape}"
            )
        self._width = input_shape[-1] // self.depth
        for quantizer in self.stages():
            if not quantizer.built:  # `load_model` has built them already
                quantizer.build(self._part_shape(input_shape))

    def codes_to_vectors(self, codes):
        """Looks codes up; the parts after the last code are zeros.

        Args:
            codes: int `(batch, *grid, parts)` in 0 … num_codes − 1, of the first 1 … depth parts.

        Returns:
            Float32 `(batch, *grid, dim)`.

        Raises:
            ValueError: if there are codes of more parts than the layer has, or of none.
        """
        parts = number_given(codes, self.depth, "parts")
        vectors = [
            quantizer.codes_to_vectors(codes[..., i])
            for i, quantizer in enumerate(self._of_parts()[:parts])
        ]
        vectors += [ops.zeros_like(vectors[0])] * (self.depth - parts)
        return ops.concatenate(vectors, axis=-1)

    def _of_parts(self):
        """The quantiser of each part."""
        raise NotImplementedError

    def _part_shape(self, input_shape):
        return (*input_shape[:-1], self._width)

    def _among_all(self, part, i):
        before, after = i * self._width, (self.depth - 1 - i) * self._width
        return ops.pad(part, [(0, 0), (before, after)])


@keras.saving.register_keras_serializable(package="brainvq")
class GroupedQuantizer(PartsQuantizer):
    """Cuts the channels into groups, each quantised by a codebook of its own.

    z = [z_1 … z_D] with dim/D channels each; quantized = [Q_1(z_1) … Q_D(z_D)]. Losses of one name
    are summed over the groups.

    Returns `{"quantized": float32 (batch, *grid, dim), "codes": int32 (batch, *grid, depth),
    "continuous": (batch, *grid, dim), "losses": {...}}`.

    Example:
        >>> GroupedQuantizer([EMAVectorQuantizer(32), EMAVectorQuantizer(32)])  # 10 bits a cell

    Args:
        quantizers: list of one or more different quantisers with one code per vector, of equal
            `num_codes`; their number divides the channels of z.
        **kwargs: see `Bottleneck`.

    Attributes:
        depth: int, D.

    Raises:
        ValueError: if an argument is out of its range, or, in `build`, z cannot be cut so.
    """

    def __init__(self, quantizers: list, **kwargs):
        super().__init__(**kwargs)
        quantizers = [_of_one_code(quantizer) for quantizer in quantizers]
        if not quantizers or len({id(q) for q in quantizers}) < len(quantizers):
            raise ValueError(
                "`quantizers` must be one or more different layers; a MultiHeadQuantizer shares "
                f"one. Received: quantizers={quantizers}"
            )
        if len({quantizer.num_codes for quantizer in quantizers}) > 1:
            raise ValueError(
                "`quantizers` must have equal numbers of codes. "
                f"Received: {[quantizer.num_codes for quantizer in quantizers]}"
            )
        self.quantizers = quantizers

    @property
    def depth(self) -> int:
        """Number of groups, and of codes per cell, D."""
        return len(self.quantizers)

    def stages(self) -> list:
        """The quantisers of the groups."""
        return self.quantizers

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, dim)`; the quantisers add their losses themselves."""
        z, mask = self._masked(z, mask)
        parts = ops.split(z, self.depth, axis=-1)
        outputs = [
            quantizer(part, training=training, **given(mask))
            for quantizer, part in zip(self.quantizers, parts, strict=True)
        ]
        losses = {}
        for output in outputs:
            for name, value in output["losses"].items():
                losses[name] = losses[name] + value if name in losses else value
        quantized = ops.concatenate([output["quantized"] for output in outputs], axis=-1)
        read = [output.get("continuous", part) for output, part in zip(outputs, parts, strict=True)]
        codes = ops.stack([output["codes"] for output in outputs], axis=-1)
        continuous = ops.concatenate(read, axis=-1)
        return self._outputs(quantized, losses, codes, continuous, add=False)

    def set_codebook(self, vectors, counts=None):
        """Replaces the codebooks.

        Args:
            vectors: float `(depth, num_codes, dim / depth)`.
            counts: float `(depth, num_codes)`, vectors per training batch, or None.

        Raises:
            ValueError: if the layer is not built yet, a shape is another, or a group has no
                codebook that can be set.
        """
        if len(vectors) != self.depth:
            raise ValueError(
                f"{self.name} has {self.depth} groups. Received: {len(vectors)} codebooks"
            )
        counts = [None] * self.depth if counts is None else counts
        for quantizer, own, count in zip(self.quantizers, vectors, counts, strict=True):
            quantizer.set_codebook(own, count)

    def start_codebooks(self, vectors, fit):
        """Starts the codebook of each group from its channels; returns what the groups read."""
        parts = zip(self.quantizers, ops.split(vectors, self.depth, axis=-1), strict=True)
        read = [q.start_codebooks(ops.convert_to_numpy(part), fit) for q, part in parts]
        return ops.convert_to_numpy(ops.concatenate(read, axis=-1))

    def get_config(self):
        """Returns the constructor's arguments."""
        quantizers = [keras.saving.serialize_keras_object(q) for q in self.quantizers]
        return {**super().get_config(), "quantizers": quantizers}

    def _of_parts(self):
        return self.quantizers


@keras.saving.register_keras_serializable(package="brainvq")
class MultiHeadQuantizer(PartsQuantizer):
    """Cuts the channels into heads that share one codebook.

    z = [z_1 … z_D] with dim/D channels each; quantized = [Q(z_1) … Q(z_D)] with one Q for all: its
    losses and moving averages are over the vectors of all heads (multi-headed VQ; Mama et al. 2021,
    "NWT: towards natural audio-to-video generation with representation learning").

    Returns `{"quantized": float32 (batch, *grid, dim), "codes": int32 (batch, *grid, depth),
    "continuous": (batch, *grid, dim), "losses": {...}}`.

    Args:
        quantizer: a quantiser with one code per vector.
        heads: int ≥ 1, D; it divides the channels of z.
        **kwargs: see `Bottleneck`.

    Attributes:
        depth: int, D.

    Raises:
        ValueError: if an argument is out of its range, or, in `build`, z cannot be cut so.
    """

    def __init__(self, quantizer: Bottleneck, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.quantizer = _of_one_code(quantizer)
        self.heads = whole("heads", heads)

    @property
    def depth(self) -> int:
        """Number of heads, and of codes per cell, D."""
        return self.heads

    def stages(self) -> list:
        """The one quantiser."""
        return [self.quantizer]

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, dim)`; the quantiser adds its losses itself."""
        z, mask = self._masked(z, mask)
        shape = ops.shape(z)
        heads = ops.reshape(z, (*shape[:-1], self.heads, self._width))
        if mask is not None:
            mask = ops.broadcast_to(mask[..., None], ops.shape(heads)[:-1])
        outputs = self.quantizer(heads, training=training, **given(mask))
        quantized = ops.reshape(outputs["quantized"], shape)
        continuous = ops.reshape(outputs.get("continuous", heads), shape)
        return self._outputs(quantized, outputs["losses"], outputs["codes"], continuous, add=False)

    def set_codebook(self, vectors, counts=None):
        """Replaces the codebook of the quantiser; see there, with dim / depth for `dim`."""
        self.quantizer.set_codebook(vectors, counts)

    def start_codebooks(self, vectors, fit):
        """Starts the codebook from the vectors of all heads; returns what the heads read."""
        read = self.quantizer.start_codebooks(vectors.reshape(-1, self._width), fit)
        return read.reshape(vectors.shape)

    def get_config(self):
        """Returns the constructor's arguments."""
        quantizer = keras.saving.serialize_keras_object(self.quantizer)
        return {**super().get_config(), "quantizer": quantizer, "heads": self.heads}

    def _of_parts(self):
        return [self.quantizer] * self.heads

    def _part_shape(self, input_shape):
        return (*input_shape[:-1], self.heads, self._width)


def _of_one_code(quantizer):
    quantizer = one_quantizer(quantizer)
    if quantizer.depth is not None:
        raise ValueError(
            "A part of a vector must have one code. "
            f"Received: quantizer={quantizer}, with {quantizer.depth}"
        )
    return quantizer
