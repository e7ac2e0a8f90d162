"""The quantiser of van den Oord et al. 2017, trained by gradients."""

import keras
from keras import ops

from brainvq.arguments import number
from brainvq.backend import sum_over_replicas
from brainvq.layers.code_losses import entropy_loss, orthogonality_loss
from brainvq.layers.code_starts import CodeStarts
from brainvq.layers.live_number import LiveNumber
from brainvq.layers.quantizer import Quantizer, are_finite, code_logits, count_codes

# Of the counts by which codes out of use are told.
COUNT_DECAY = 0.99


@keras.saving.register_keras_serializable(package="brainvq")
class VectorQuantizer(CodeStarts, Quantizer):
    """Replaces each vector by its nearest code; the optimiser moves the codes.

    van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning",
    equation 3: with sg the stopped gradient, the losses are

    - `codebook_loss`: mean ‖sg(z) − e‖², which moves the codes to the vectors,
    - `commitment_loss`: β · mean ‖z − sg(e)‖², which holds the vectors to their codes,

    means over all elements, and, where their weights are above 0,

    - `entropy_loss`: w (mean H(p) − H(mean p)) with p ∝ exp(−‖z − e_k‖² / τ) over the codes, which
      keeps all codes in use and each vector sure of its own (Yu et al. 2023, "Language model beats
      diffusion"),
    - `orthogonality_loss`: w ‖Ê Êᵀ − I‖² / K², with Ê the codes at unit length, which draws codes
      apart (Shin et al. 2021, "Translation-equivariant image quantizer").

    Returns `{"quantized": (batch, *grid, dim), "codes": int32 (batch, *grid), "losses": {...}}`.

    A random start often leaves most codes unused. With `initialization="data"` the first training
    batch sets the codebook, and with `revival_threshold` codes out of use start again at vectors of
    the batch, as those of an `EMAVectorQuantizer` do; `brainvq.training.codebook_init` starts from
    clusters of encoded data. Codes are then `embedding` + `offset`: the optimiser moves the former,
    a start the latter, which training may set on every backend. An optimiser with momentum moves a
    revived code by that of the old one for some steps.

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
        initialization: `"random"` (default: what `initializer` gives), `"data"` or `"kmeans"`; see
            `EMAVectorQuantizer`.
        revival_threshold: float in [0, 0.5]. Default 0: none is revived; 0.03 is usual. See
            `EMAVectorQuantizer`.
        entropy_weight: float ≥ 0, w of the entropy loss. Default 0; 0.1 is usual.
        orthogonality_weight: float ≥ 0, w of the orthogonality loss. Default 0; 10 is usual.
        stochastic: bool, whether training draws codes; see `Quantizer`. Default False.
        temperature: float > 0, τ of the entropy and of the draws; it can be set again at any time.
            Default 1.
        seed: int or None, for start, revival and draws.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    temperature = LiveNumber(above=True)

    def __init__(
        self,
        num_codes: int,
        beta: float = 0.25,
        initializer: str | keras.initializers.Initializer = "random_uniform",
        distance: str = "euclidean",
        gradient: str = "straight_through",
        initialization: str = "random",
        revival_threshold: float = 0.0,
        entropy_weight: float = 0.0,
        orthogonality_weight: float = 0.0,
        stochastic: bool = False,
        temperature: float = 1.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(num_codes, beta, distance, gradient, **kwargs)
        self._set_starts(initialization, revival_threshold, seed)
        self.initializer = keras.initializers.get(initializer)
        self.entropy_weight = number("entropy_weight", entropy_weight)
        self.orthogonality_weight = number("orthogonality_weight", orthogonality_weight)
        self.stochastic = bool(stochastic)
        self.temperature = temperature
        # Without these there is no state beside the codebook, as in files of earlier versions.
        self._has_starts = self.initialization != "random" or self.revival_threshold > 0
        if self._has_starts or self.stochastic:
            self.seed_generator = keras.random.SeedGenerator(self.seed)

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the loss terms: those whose weight is above 0."""
        names = ["codebook_loss", "commitment_loss"]
        names += ["entropy_loss"] if self.entropy_weight else []
        return tuple(names + (["orthogonality_loss"] if self.orthogonality_weight else []))

    def build(self, input_shape):
        """Creates the codebook for `input_shape` `(batch, *grid, dim)`."""
        super().build(input_shape)
        shape = (self.num_codes, input_shape[-1])
        self.embedding = self.add_weight(
            shape=shape, initializer=self.initializer, name="embedding"
        )
        if self._has_starts:
            self.offset = self._add_state("offset", shape, "zeros")
            self._add_counts()

    @property
    def codebook(self):
        """Float32 `(num_codes, dim)`, of unit length with the cosine distance."""
        if not self._has_starts:
            return super().codebook
        places = ops.convert_to_tensor(self.embedding) + ops.convert_to_tensor(self.offset)
        return self._unit(places)

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, dim)`; see the class for what is returned."""
        z, vectors, mask, weights = self._flatten(z, mask)
        codebook = self._learning_codebook(vectors)
        update = self._has_starts and training and self.trainable and 0 not in vectors.shape
        if update:
            draw = self._draw(vectors, weights)
            if self.initialization != "random":
                places = ops.stop_gradient(codebook)
                codebook = codebook + ops.stop_gradient(self._start(places, draw) - places)
        fixed = ops.stop_gradient(codebook)
        flat_codes = self._choose(vectors, fixed, training)
        quantized, codes = self._look_up(z, flat_codes, codebook)
        if update:
            self._restart(vectors, flat_codes, weights, fixed, draw)
        losses = {
            "codebook_loss": self._mean(ops.square(ops.stop_gradient(z) - quantized), mask),
            "commitment_loss": self._commitment(z, quantized, mask),
            **self._code_losses(z, codebook, weights),
        }
        return self._outputs(self._pass_gradient(z, quantized), losses, codes, continuous=z)

    def set_codebook(self, vectors, counts=None):
        """Replaces the codebook, and marks the layer as initialised.

        Args:
            vectors: float `(num_codes, dim)`, such as centroids.
            counts: float `(num_codes,)` > 0, vectors per training batch at each code; ones if None.

        Raises:
            ValueError: if the layer is not built yet or the shape is another.
        """
        vectors = self._checked(vectors)
        self.embedding.assign(vectors)
        if self._has_starts:
            self.offset.assign(ops.zeros(self.offset.shape))
            counts = ops.ones((self.num_codes,)) if counts is None else counts
            self.code_counts.assign(ops.convert_to_tensor(counts, dtype="float32"))
            self.initialized.assign(1.0)

    def _code_losses(self, z, codebook, weights):
        """Loss terms of the codebook as a whole, by name."""
        losses = {}
        if self.entropy_weight:
            logits = code_logits(ops.reshape(z, (-1, z.shape[-1])), codebook)
            spread = entropy_loss(
                logits / self.live("temperature"),
                lambda values, axis=None: self._mean(values, weights, axis),
            )
            losses["entropy_loss"] = self.entropy_weight * spread
        if self.orthogonality_weight:
            losses["orthogonality_loss"] = self.orthogonality_weight * orthogonality_loss(codebook)
        return losses

    def _restart(self, vectors, flat_codes, weights, codebook, draw):
        """Moves the counts by one step; keeps a start in `offset`, and revives codes."""
        batch_counts = sum_over_replicas(count_codes(flat_codes, self.num_codes, weights))
        counts = COUNT_DECAY * self._old_counts(batch_counts) + (1.0 - COUNT_DECAY) * batch_counts
        moved = ops.broadcast_to(self.initialized < 0.5, (self.num_codes,))
        if self.revival_threshold > 0:
            dead, samples, threshold = self._dead(vectors, flat_codes, codebook, counts, draw)
            codebook = ops.where(dead[:, None], samples, codebook)
            counts = ops.where(dead, 2.0 * threshold, counts)
            moved = ops.logical_or(moved, dead)
        offset = codebook - ops.convert_to_tensor(self.embedding)
        offset = ops.where(moved[:, None], offset, ops.convert_to_tensor(self.offset))
        # A batch of padding alone is no step either.
        finite = are_finite(self.name, offset, counts, vectors)
        counts_as_step = finite & (ops.sum(batch_counts) > 0)
        for weight, value in (
            (self.offset, offset),
            (self.code_counts, counts),
            (self.initialized, ops.ones(())),
        ):
            weight.assign(ops.where(counts_as_step, value, ops.convert_to_tensor(weight)))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "initializer": keras.initializers.serialize(self.initializer),
            "initialization": self.initialization,
            "revival_threshold": self.revival_threshold,
            "entropy_weight": self.entropy_weight,
            "orthogonality_weight": self.orthogonality_weight,
            "stochastic": self.stochastic,
            "temperature": self.temperature,
            "seed": self.seed,
        }
