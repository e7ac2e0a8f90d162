"""The quantiser whose codes are moving averages of the vectors that choose them."""

import keras
from keras import ops

from brainvq.arguments import number
from brainvq.backend import sum_over_replicas
from brainvq.layers.code_starts import CodeStarts
from brainvq.layers.live_number import LiveNumber
from brainvq.layers.quantizer import Quantizer, are_finite, count_codes, sum_by_code, unit_length


@keras.saving.register_keras_serializable(package="brainvq")
class EMAVectorQuantizer(CodeStarts, Quantizer):
    """Replaces each vector by its nearest code; codes follow their vectors by moving averages.

    van den Oord, Vinyals & Kavukcuoglu 2017, appendix A.1. With n_i vectors of the batch at code i
    and decay γ, each training step computes

    - N_i ← γ N_i + (1 − γ) n_i,
    - m_i ← γ m_i + (1 − γ) Σ z, the sum over these vectors,
    - e_i ← (m_i + ε e_i) / (N_i + ε).

    ε smooths as Laplace's rule does, with the code's present place as the prior: a code that no
    vector chooses for a long time stays where it is, instead of shrinking to zero with m_i. Counts
    and sums start consistently (m_i = N_i e_i), and so they are after a start from data and after a
    revival.

    The first training batch sets the codebook (`initialization`); a weight `initialized`, saved
    with the others, keeps a resumed run from doing so again. Then codes whose average count falls
    under `revival_threshold` times the mean of all counts are reset to vectors of the batch: place,
    count and sum together. A vector is drawn in proportion to its squared distance from its code,
    so not from what is frequent and has a code already, as black background. The new count is twice
    the threshold, so that a revived code moves to its vectors within a few steps, and is revived
    again if it gets none.

    Loss: `commitment_loss` = β · mean (z − sg(e))² over all elements. Returns `{"quantized":
    (batch, *grid, dim), "codes": int32 (batch, *grid), "losses": {...}}`. State changes only when
    `training=True` and the layer is `trainable`, and not in a step with vectors that are not
    finite. Under `tf.distribute` the sums are taken over all replicas, and a start or a revival
    draws from the vectors of all.

    Args:
        num_codes: int ≥ 2, the number of codes K.
        beta: float ≥ 0, factor of the commitment loss. Default 0.25.
        decay: float in [0, 1), γ. Default 0.99, the paper's.
        epsilon: float > 0, ε, in vectors per batch. Default 1e-5.
        initialization: `"data"` (vectors of the first training batch, drawn as k-means++ does, so
            that they are distinct), `"kmeans"` (the same, and ten Lloyd iterations on that batch)
            or `"random"` (uniform in [−0.05, 0.05]). Where the batch has fewer distinct vectors
            than codes, vectors repeat with a little noise.
        revival_threshold: float in [0, 0.5], as a share of the mean count. Default 0.03; 0 turns
            revival off.
        distance: `"euclidean"` or `"cosine"`; see `Quantizer`.
        gradient: `"straight_through"` or `"rotation"`; see `Quantizer`.
        seed: int or None, for the start, for revival and for draws.
        stochastic: bool, whether training draws codes; see `Quantizer`. Default False.
        temperature: float > 0, τ of these draws; it can be set again at any time. Default 1.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    loss_names = ("commitment_loss",)
    temperature = LiveNumber(above=True)

    def __init__(
        self,
        num_codes: int,
        beta: float = 0.25,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        initialization: str = "data",
        revival_threshold: float = 0.03,
        distance: str = "euclidean",
        gradient: str = "straight_through",
        seed: int | None = None,
        stochastic: bool = False,
        temperature: float = 1.0,
        **kwargs,
    ):
        super().__init__(num_codes, beta, distance, gradient, **kwargs)
        self._set_starts(initialization, revival_threshold, seed)
        self.decay = number("decay", decay, most=1.0, below=True)
        self.epsilon = number("epsilon", epsilon, above=True)
        self.stochastic = bool(stochastic)
        self.temperature = temperature
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, input_shape):
        """Creates codebook, counts and sums for `input_shape` `(batch, *grid, dim)`."""
        super().build(input_shape)
        # One initialiser object gives the same values twice: the sums start as 1 · codebook. A
        # copy by `assign` would share the buffer on JAX, which cannot donate it twice.
        start = keras.initializers.RandomUniform(-0.05, 0.05, seed=self.seed)
        shape = (self.num_codes, input_shape[-1])
        self.embedding = self._add_state("embedding", shape, start)
        self.code_sums = self._add_state("code_sums", shape, start)
        self._add_counts()

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, dim)`; see the class for what is returned."""
        z, vectors, mask, weights = self._flatten(z, mask)
        update = training and self.trainable and 0 not in vectors.shape
        codebook = self.codebook
        draw = None
        if update and (self.initialization != "random" or self.revival_threshold > 0):
            draw = self._draw(vectors, weights)
        if update and self.initialization != "random":
            codebook = self._start(codebook, draw)
        flat_codes = self._choose(vectors, codebook, training)
        quantized, codes = self._look_up(z, flat_codes, codebook)
        if update:
            self._update(vectors, flat_codes, weights, codebook, draw)
        losses = {"commitment_loss": self._commitment(z, quantized, mask)}
        return self._outputs(self._pass_gradient(z, quantized), losses, codes, continuous=z)

    def set_codebook(self, vectors, counts=None):
        """Replaces codebook, counts and sums, and marks the layer as initialised.

        Args:
            vectors: float `(num_codes, dim)`, such as centroids.
            counts: float `(num_codes,)` > 0, vectors per training batch at each code; ones if None.

        Raises:
            ValueError: if the layer is not built yet or a shape is another.
        """
        vectors = self._checked(vectors)
        vectors = unit_length(vectors) if self.distance == "cosine" else vectors
        counts = ops.ones((self.num_codes,)) if counts is None else counts
        counts = ops.convert_to_tensor(counts, dtype="float32")
        self.embedding.assign(vectors)
        self.code_counts.assign(counts)
        self.code_sums.assign(vectors * counts[:, None])
        self.initialized.assign(1.0)

    def _update(self, vectors, flat_codes, weights, codebook, draw):
        """Moves counts, sums and codebook by one step, and revives codes out of use."""
        batch_counts = count_codes(flat_codes, self.num_codes, weights)
        batch_sums = sum_by_code(vectors, flat_codes, self.num_codes, weights)
        batch_counts, batch_sums = sum_over_replicas([batch_counts, batch_sums])
        old_counts, old_sums = self._old_counts(batch_counts), ops.convert_to_tensor(self.code_sums)
        if self.initialization != "random":
            old_sums = ops.where(self.initialized > 0.5, old_sums, codebook * old_counts[:, None])
        counts = self.decay * old_counts + (1.0 - self.decay) * batch_counts
        sums = self.decay * old_sums + (1.0 - self.decay) * batch_sums
        embedding = (sums + self.epsilon * codebook) / (counts + self.epsilon)[:, None]
        if self.distance == "cosine":
            embedding = unit_length(embedding)
        if self.revival_threshold > 0:
            dead, samples, threshold = self._dead(vectors, flat_codes, codebook, counts, draw)
            embedding = ops.where(dead[:, None], samples, embedding)
            sums = ops.where(dead[:, None], 2.0 * threshold * samples, sums)
            counts = ops.where(dead, 2.0 * threshold, counts)
        # A batch of padding alone is no step either.
        finite = are_finite(self.name, embedding, counts, sums, batch_sums)
        counts_as_step = finite & (ops.sum(batch_counts) > 0)
        for weight, value in (
            (self.embedding, embedding),
            (self.code_counts, counts),
            (self.code_sums, sums),
            (self.initialized, ops.ones(())),
        ):
            weight.assign(ops.where(counts_as_step, value, ops.convert_to_tensor(weight)))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "decay": self.decay,
            "epsilon": self.epsilon,
            "initialization": self.initialization,
            "revival_threshold": self.revival_threshold,
            "seed": self.seed,
            "stochastic": self.stochastic,
            "temperature": self.temperature,
        }
