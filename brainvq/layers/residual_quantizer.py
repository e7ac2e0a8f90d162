"""Quantisers in stages: each quantises what those before it left over."""

import functools

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number, seed_of, whole
from brainvq.layers.bottleneck import (
    Bottleneck,
    BottleneckChain,
    given,
    number_given,
    refuse_tensors,
)
from brainvq.layers.probabilistic_som import ProbabilisticSOM
from brainvq.layers.quantizer import (
    GRADIENTS,
    Quantizer,
    nearest_codes,
    rotate,
    straight_through,
)
from brainvq.layers.torus_quantizer import TorusQuantizer


@keras.saving.register_keras_serializable(package="brainvq")
class ResidualQuantizer(Bottleneck):
    """Sums the codes of several stages: a vector as D codes, log2(K) bits each.

    Residual vector quantisation (Zeghidour, Luebs, Omran, Skoglund & Tagliasacchi 2021,
    "SoundStream", section III-C, algorithm 1). With the stages Q_1 … Q_D, r_1 = z and sg the
    stopped gradient,

        q_i = Q_i(r_i),   r_(i+1) = r_i − sg(q_i),   quantized = q_1 + … + q_D.

    K^D vectors are distinguished by D codebooks of K rows. The codes `(..., i)` of a cell are
    ordered from coarse to fine, and any first number of them decodes (`codes_to_vectors`).

    Gradients: `quantized` as a whole passes its gradient to z once (`gradient`; the stages' own
    settings of it do not matter). q_i is a constant to later stages, so that no loss of theirs
    moves the codebook of an earlier one; r_i is none, so that the commitment losses of all stages
    reach z. Losses of one name are summed over the stages.

    The first stage may be of any kind. Some move their input before they quantise it: a
    `TorusQuantizer` adds a place on its torus, the cosine distance scales to unit length, a
    `FiniteScalarQuantizer` bounds. Its `continuous` v takes the place of r_1 in r_2 = v − sg(q_1),
    so that the stages together approach v. After the first, a stage must quantise its input as it
    is, by a codebook and Euclidean distances: the length of a remainder is what there is to
    quantise.

    The nearest code of each stage is not always on the way to the nearest sum. With `beam` above 1
    inference follows so many best sums from stage to stage, as in beam search, and takes the
    nearest in the end: other codes of the same codebooks, nearer to z. Training goes by nearest
    codes.

    Returns `{"quantized": float32 (batch, *grid, dim), "codes": int32 (batch, *grid, depth),
    "continuous": (batch, *grid, dim), "losses": {...}}`; `continuous` is z, or v of a first stage
    that moves it.

    Example:
        >>> ResidualQuantizer([EMAVectorQuantizer(512) for _ in range(4)])  # 36 bits per cell

    Args:
        quantizers: list of one or more different quantisers with codes, of equal `num_codes`.
        dropout: float in [0, 1], quantiser dropout of the paper: in training, with this
            probability, an image is decoded from its first n stages only, n uniform in 1 … D. The
            model then also decodes images from fewer codes. All stages go on learning from their
            remainders. Default 0; the paper's is 1.
        gradient: `"straight_through"` (default) or `"rotation"`; see `Quantizer`.
        beam: int ≥ 1, sums that are followed at inference. Default 1: nearest codes. Needs stages
            that all quantise what they get as it is. It can be set again at any time; a model that
            is no `Autoencoder` must be compiled again then.
        seed: int or None, for the dropout.
        repeats: int ≥ 1, stages that the last of `quantizers` serves: `ResidualQuantizer([one],
            repeats=4)` shares one codebook among four stages. A quantiser that learns by moving
            averages then takes one step for each stage. Default 1.
        **kwargs: see `Bottleneck`.

    Attributes:
        depth: int, D; `codes` have this axis also where it is 1.

    Raises:
        ValueError: if an argument is out of its range, or a stage cannot stand in its place.
    """

    traced_settings = ("beam",)

    def __init__(
        self,
        quantizers: list,
        dropout: float = 0.0,
        gradient: str = "straight_through",
        beam: int = 1,
        seed: int | None = None,
        repeats: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        quantizers = [
            keras.saving.deserialize_keras_object(q) if isinstance(q, dict) else q
            for q in quantizers
        ]
        self.repeats = whole("repeats", repeats)
        _check_stages(quantizers, self.repeats)
        if gradient not in GRADIENTS:
            raise ValueError(
                f"`gradient` must be one of {GRADIENTS}. Received: gradient={gradient}"
            )
        self.quantizers = quantizers
        self.beam = beam
        self.dropout = number("dropout", dropout, most=1.0)
        self.gradient = gradient
        self.seed = seed_of(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    @property
    def beam(self) -> int:
        """Sums that are followed at inference; an `Autoencoder` heeds what is set later."""
        return self._beam

    @beam.setter
    def beam(self, beam: int):
        beam = whole("beam", beam)
        if beam > 1 and not _is_plain(self.quantizers[0]):
            raise ValueError(
                "`beam` must be an integer, at least 1, and 1 where the first stage moves its "
                f"input. Received: beam={beam}, quantizers={self.quantizers}"
            )
        self._beam = beam

    def stages(self) -> list:
        """The quantiser of each stage, from coarse to fine."""
        return [*self.quantizers, *self.quantizers[-1:] * (self.repeats - 1)]

    @property
    def depth(self) -> int:
        """Number of stages, and of codes per cell, D."""
        return len(self.quantizers) + self.repeats - 1

    @property
    def num_codes(self) -> int:
        """Number of codes K of each stage."""
        return self.quantizers[0].num_codes

    @property
    def codebook(self):
        """Float32 `(depth, num_codes, dim)`."""
        # By an index: `ops.stack` on TensorFlow takes tensors, and Keras variables not.
        return ops.concatenate([quantizer.codebook[None] for quantizer in self.stages()])

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the stages' loss terms, each once, in order."""
        names = [name for quantizer in self.quantizers for name in quantizer.loss_names]
        return tuple(dict.fromkeys(names))

    def build(self, input_shape):
        """Builds every stage for `input_shape` `(batch, *grid, dim)`."""
        super().build(input_shape)
        for quantizer in self.quantizers:
            # `load_model` has built the stages already.
            if not quantizer.built:
                quantizer.build(input_shape)

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, dim)`; see the class for what is returned.

        The stages add their losses themselves, so this layer adds none.
        """
        z, mask = self._masked(z, mask)
        masks = self._stage_masks(z) if training and self.dropout > 0 else None
        remainder = continuous = z
        total = ops.zeros_like(z)
        codes, losses = [], {}
        for stage, quantizer in enumerate(self.stages()):
            outputs = quantizer(remainder, training=training, **given(mask))
            quantized = ops.stop_gradient(outputs["quantized"])
            read = outputs.get("continuous", remainder)
            if stage == 0:
                continuous = read
            remainder = read - quantized
            codes.append(outputs["codes"])
            for name, value in outputs["losses"].items():
                losses[name] = losses[name] + value if name in losses else value
            total = total + (quantized if masks is None else masks[stage] * quantized)
        codes = ops.stack(codes, axis=-1)
        if self.beam > 1 and not training:
            codes = self._search(z)
            total = self.codes_to_vectors(codes)
        passed = (rotate if self.gradient == "rotation" else straight_through)(continuous, total)
        return self._outputs(passed, losses, codes, continuous, add=False)

    def codes_to_vectors(self, codes):
        """Looks codes up and sums them; never changes the codebooks.

        Args:
            codes: int `(batch, *grid, stages)` in 0 … num_codes − 1, with the codes of the first
                1 … depth stages.

        Returns:
            Float32 `(batch, *grid, dim)`.

        Raises:
            ValueError: if there are codes of more stages than the layer has, or of none.
        """
        stages = number_given(codes, self.depth, "stages")
        vectors = [q.codes_to_vectors(codes[..., i]) for i, q in enumerate(self.stages()[:stages])]
        return sum(vectors[1:], vectors[0])

    def set_codebook(self, vectors, counts=None):
        """Replaces the codebooks of all stages, as by the centroids of remainders.

        Args:
            vectors: float `(quantisers, num_codes, dim)`: of each stage, of shared ones once.
            counts: float `(quantisers, num_codes)`, vectors per training batch, or None; see
                `EMAVectorQuantizer.set_codebook`.

        Raises:
            ValueError: if the layer is not built yet, a shape is another, or a stage has no
                codebook that can be set.
        """
        stages = len(self.quantizers)
        if len(vectors) != stages:
            raise ValueError(f"{self.name} has {stages} stages. Received: {len(vectors)} codebooks")
        counts = [None] * stages if counts is None else counts
        for quantizer, own, count in zip(self.quantizers, vectors, counts, strict=True):
            quantizer.set_codebook(own, count)

    def start_codebooks(self, vectors, fit):
        """Starts the codebooks in turn, each from what those before it left.

        A shared one is fitted to what its first stage reads, and anew to that and what each next
        stage reads then.
        """
        for place, quantizer in enumerate(self.quantizers):
            fits = functools.partial(fit, later=True) if place else fit
            read = quantizer.start_codebooks(vectors, fits)
            if quantizer is self.quantizers[-1]:
                parts = [read]
                for _ in range(self.repeats - 1):
                    parts.append(_left(quantizer, parts[-1]))
                    quantizer.start_codebooks(np.concatenate(parts), fits)
            vectors = _left(quantizer, read)
        return vectors

    def _search(self, z):
        """Codes `(batch, *grid, depth)` of the nearest sum that a beam search finds."""
        vectors = ops.stop_gradient(ops.reshape(z, (-1, z.shape[-1])))
        remainders = vectors[:, None]  # (n, beam, dim), of the sums that are followed
        codes = None
        for quantizer in self.stages():
            codebook = quantizer.codebook
            # ‖r − e‖² for every sum and code: (n, beam, num_codes).
            apart = ops.sum(ops.square(remainders), axis=-1, keepdims=True)
            apart = apart - 2.0 * ops.matmul(remainders, ops.transpose(codebook))
            apart = apart + ops.sum(ops.square(codebook), axis=-1)
            followed, count = apart.shape[1], self.num_codes
            flat = ops.reshape(apart, (-1, followed * count))
            places = ops.top_k(-flat, min(self.beam, followed * count))[1]  # nearest first
            parents, added = ops.cast(places // count, "int32"), ops.cast(places % count, "int32")
            remainders = ops.take_along_axis(remainders, parents[..., None], axis=1)
            remainders = remainders - ops.take(codebook, added, axis=0)
            if codes is not None:
                codes = ops.take_along_axis(codes, parents[..., None], axis=1)
                codes = ops.concatenate([codes, added[..., None]], axis=-1)
            else:
                codes = added[..., None]
        return ops.reshape(codes[:, 0], (*ops.shape(z)[:-1], self.depth))

    def _stage_masks(self, z):
        """Which stages each image is decoded from: float32 `(depth, batch, 1, …)` of 0 and 1."""
        batch = ops.shape(z)[0]
        drops = keras.random.uniform((batch,), seed=self.seed_generator) < self.dropout
        first = keras.random.uniform((batch,), 1.0, self.depth + 1.0, seed=self.seed_generator)
        first = ops.where(drops, ops.floor(first), float(self.depth))
        masks = ops.arange(self.depth, dtype="float32")[:, None] < first  # (depth, batch)
        return ops.reshape(ops.cast(masks, "float32"), (self.depth, -1, *(1,) * (len(z.shape) - 1)))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "quantizers": [keras.saving.serialize_keras_object(q) for q in self.quantizers],
            "dropout": self.dropout,
            "gradient": self.gradient,
            "beam": self.beam,
            "seed": self.seed,
            "repeats": self.repeats,
        }


def _left(quantizer, vectors):
    """What a quantiser leaves of NumPy `vectors` `(n, dim)`."""
    tensor = ops.convert_to_tensor(vectors)
    quantized = quantizer.codes_to_vectors(nearest_codes(tensor, quantizer.codebook))
    return vectors - ops.convert_to_numpy(quantized)


def _is_plain(quantizer):
    """Whether a stage quantises its input as it is: by a codebook and Euclidean distances."""
    return (
        isinstance(quantizer, Quantizer)
        and not isinstance(quantizer, TorusQuantizer)
        and quantizer.distance == "euclidean"
    )


def _check_stages(quantizers, repeats):
    """Raises `ValueError` where a list of stages does not work."""
    single = [isinstance(q, Bottleneck) and q.has_codes and q.depth is None for q in quantizers]
    if not quantizers or not all(single) or any(isinstance(q, BottleneckChain) for q in quantizers):
        raise ValueError(
            "`quantizers` must be a list of one or more quantisers with one code per vector. "
            f"Received: quantizers={quantizers}"
        )
    refuse_tensors("quantizers", quantizers)
    if len({id(q) for q in quantizers}) < len(quantizers):
        raise ValueError(
            "`quantizers` must be different layers; `repeats` shares the last one. "
            f"Received: quantizers={quantizers}"
        )
    if len({q.num_codes for q in quantizers}) > 1:
        raise ValueError(
            "`quantizers` must have equal numbers of codes. "
            f"Received: {[q.num_codes for q in quantizers]}"
        )
    for quantizer in quantizers:
        if isinstance(quantizer, ProbabilisticSOM) and not quantizer.quantize:
            raise ValueError(
                "A ProbabilisticSOM leaves nothing to later stages unless `quantize=True`. "
                f"Received: quantizers={quantizers}"
            )
    for quantizer in quantizers if repeats > 1 and len(quantizers) == 1 else quantizers[1:]:
        if not _is_plain(quantizer):
            raise ValueError(
                "After the first, `quantizers` must quantise what they get as it is, by Euclidean "
                f"distances to a codebook. Received: quantizers={quantizers}"
            )
