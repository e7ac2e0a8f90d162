"""The quantiser whose codes are moving averages of the vectors that choose them."""

import keras
from keras import ops

from brainvq.backend import sum_over_replicas, take_from_first_replica
from brainvq.layers.quantizer import (
    Quantizer,
    count_codes,
    lloyd,
    nearest_codes,
    spread_rows,
    unit_length,
)

INITIALIZATIONS = ("data", "kmeans", "random")
LLOYD_ITERATIONS = 10


@keras.saving.register_keras_serializable(package="brainvq")
class EMAVectorQuantizer(Quantizer):
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
    under `revival_threshold` times the mean of all counts are reset to random vectors of the batch:
    place, count and sum together. The new count is twice the threshold, so that a revived code
    moves to its vectors within a few steps, and is revived again if it gets none.

    Loss: `commitment_loss` = β · mean (z − sg(e))² over all elements. Returns `{"quantized":
    (batch, *grid, dim), "codes": int32 (batch, *grid), "losses": {...}}`. State changes only when
    `training=True` and the layer is `trainable`, and not in a step with vectors that are not
    finite. Under `tf.distribute` the sums are taken over all replicas, and data for a start or a
    revival come from the first one.

    Args:
        num_codes: int ≥ 2, the number of codes K.
        beta: float ≥ 0, factor of the commitment loss. Default 0.25.
        decay: float in [0, 1), γ. Default 0.99, the paper's.
        epsilon: float > 0, ε, in vectors per batch. Default 1e-5.
        initialization: `"data"` (random vectors of the first training batch), `"kmeans"` (k-means++
            and ten Lloyd iterations on that batch) or `"random"` (uniform in [−0.05, 0.05]). Where
            the batch has fewer vectors than codes, vectors repeat with a little noise.
        revival_threshold: float in [0, 0.5], as a share of the mean count. Default 0.03; 0 turns
            revival off.
        distance: `"euclidean"` or `"cosine"`; see `Quantizer`.
        gradient: `"straight_through"` or `"rotation"`; see `Quantizer`.
        seed: int or None, for the start and for revival.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    loss_names = ("commitment_loss",)

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
        **kwargs,
    ):
        super().__init__(num_codes, beta, distance, gradient, **kwargs)
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be at least 0 and below 1. Received: decay={decay}")
        if epsilon <= 0:
            raise ValueError(f"`epsilon` must be above 0. Received: epsilon={epsilon}")
        if initialization not in INITIALIZATIONS:
            raise ValueError(
                f"`initialization` must be one of {INITIALIZATIONS}. "
                f"Received: initialization={initialization}"
            )
        if not 0 <= revival_threshold <= 0.5:
            raise ValueError(
                "`revival_threshold` is a share of the mean count, from 0 to 0.5. "
                f"Received: revival_threshold={revival_threshold}"
            )
        self.decay = decay
        self.epsilon = epsilon
        self.initialization = initialization
        self.revival_threshold = revival_threshold
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        """Creates codebook, counts and sums for `input_shape` `(batch, *grid, dim)`."""
        # One initialiser object gives the same values twice: the sums start as 1 · codebook. A
        # copy by `assign` would share the buffer on JAX, which cannot donate it twice.
        start = keras.initializers.RandomUniform(-0.05, 0.05, seed=self.seed)
        shape = (self.num_codes, input_shape[-1])
        self.embedding = self._add_state("embedding", shape, start)
        self.code_sums = self._add_state("code_sums", shape, start)
        self.code_counts = self._add_state("code_counts", (self.num_codes,), "ones")
        is_set = "ones" if self.initialization == "random" else "zeros"
        self.initialized = self._add_state("initialized", (), is_set)

    def call(self, z, training: bool | None = None):
        """Quantises `z` `(batch, *grid, dim)`; see the class for what is returned."""
        z, vectors = self._flatten(z)
        update = training and self.trainable
        codebook = self.codebook
        draw = None
        if update and (self.initialization != "random" or self.revival_threshold > 0):
            draw = self._draw(vectors)
        if update and self.initialization != "random":
            codebook = self._start(vectors, codebook, draw)
        flat_codes = nearest_codes(vectors, codebook)
        quantized, codes = self._look_up(z, flat_codes, codebook)
        if update:
            self._update(vectors, flat_codes, codebook, draw)
        losses = {"commitment_loss": self._commitment(z, quantized)}
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

    def _add_state(self, name, shape, initializer):
        # Each replica computes the same values, so there is nothing to aggregate.
        return self.add_weight(
            shape=shape,
            initializer=initializer,
            name=name,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )

    def _draw(self, vectors):
        """Draws all randomness of a step, outside of conditionals as JAX needs it.

        Returns:
            A random permutation of the vectors' indices; uniform numbers, one per code; random
            rows, one per code, which repeat where the batch has too few; and the noise that tells
            repeated rows apart, a hundredth of the batch's standard deviation (zero elsewhere).
        """
        n = ops.shape(vectors)[0]
        order = keras.random.shuffle(ops.arange(n), seed=self.seed_generator)
        rows = ops.arange(self.num_codes)
        uniforms = keras.random.uniform((self.num_codes,), seed=self.seed_generator)
        noise = keras.random.normal(self.embedding.shape, seed=self.seed_generator)
        noise = 0.01 * (ops.std(vectors, axis=0) + 1e-3) * noise
        noise = ops.where((rows >= n)[:, None], noise, 0.0)
        samples = ops.take(vectors, ops.take(order, rows % n, axis=0), axis=0) + noise
        samples = unit_length(samples) if self.distance == "cosine" else samples
        return order, uniforms, samples, noise

    def _start(self, vectors, codebook, draw):
        """Returns the codebook: as it is, or at the first training step from the data."""
        order, uniforms, samples, noise = draw

        def start():
            if self.initialization == "data":
                return samples
            centres = spread_rows(vectors, order, uniforms, self.num_codes)
            return lloyd(vectors, centres, LLOYD_ITERATIONS) + noise

        started = ops.cond(self.initialized > 0.5, lambda: codebook, start)
        started = take_from_first_replica(started)
        return unit_length(started) if self.distance == "cosine" else started

    def _update(self, vectors, flat_codes, codebook, draw):
        """Moves counts, sums and codebook by one step, and revives codes out of use."""
        batch_counts = count_codes(flat_codes, self.num_codes)
        batch_sums = ops.segment_sum(vectors, flat_codes, num_segments=self.num_codes)
        batch_counts, batch_sums = sum_over_replicas([batch_counts, batch_sums])
        old_counts = ops.convert_to_tensor(self.code_counts)
        old_sums = ops.convert_to_tensor(self.code_sums)
        if self.initialization != "random":
            # At the first step every code counts as used by an equal share of the batch.
            share = ops.sum(batch_counts) / self.num_codes
            was_set = self.initialized > 0.5
            old_counts = ops.where(was_set, old_counts, share)
            old_sums = ops.where(was_set, old_sums, codebook * share)
        counts = self.decay * old_counts + (1.0 - self.decay) * batch_counts
        sums = self.decay * old_sums + (1.0 - self.decay) * batch_sums
        embedding = (sums + self.epsilon * codebook) / (counts + self.epsilon)[:, None]
        if self.distance == "cosine":
            embedding = unit_length(embedding)
        if self.revival_threshold > 0:
            threshold = self.revival_threshold * ops.mean(counts)
            dead = counts < threshold
            samples = take_from_first_replica(draw[2])
            embedding = ops.where(dead[:, None], samples, embedding)
            sums = ops.where(dead[:, None], 2.0 * threshold * samples, sums)
            counts = ops.where(dead, 2.0 * threshold, counts)
        finite = self._are_finite(embedding, counts, sums, batch_sums)
        for weight, value in (
            (self.embedding, embedding),
            (self.code_counts, counts),
            (self.code_sums, sums),
            (self.initialized, ops.ones(())),
        ):
            weight.assign(ops.where(finite, value, ops.convert_to_tensor(weight)))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "decay": self.decay,
            "epsilon": self.epsilon,
            "initialization": self.initialization,
            "revival_threshold": self.revival_threshold,
            "seed": self.seed,
        }
