"""Codebooks that start from the first batch, and codes out of use that start again."""

import keras
from keras import ops

from brainvq.arguments import number, seed_of
from brainvq.backend import join_replicas, take_from_first_replica
from brainvq.layers.quantizer import far_rows, lloyd, spread_rows, unit_length

INITIALIZATIONS = ("data", "kmeans", "random")
LLOYD_ITERATIONS = 10
# Random vectors of the first batch that a start from `"data"` draws from.
ROWS_PER_CODE, LEAST_ROWS = 64, 4096


class CodeStarts:
    """What a `Quantizer` needs to start from data and to revive codes; stands before it as a base.

    The layer has `embedding`, and as states `code_counts` `(num_codes,)` and `initialized`, 1 once
    the codebook has started.
    """

    def _set_starts(self, initialization, revival_threshold, seed):
        """Checks and keeps the arguments of a start."""
        if initialization not in INITIALIZATIONS:
            raise ValueError(
                f"`initialization` must be one of {INITIALIZATIONS}. "
                f"Received: initialization={initialization}"
            )
        self.initialization = initialization
        self.revival_threshold = number("revival_threshold", revival_threshold, most=0.5)
        self.seed = seed_of(seed)

    def _add_counts(self):
        """Creates the states beside the codebook."""
        self.code_counts = self._add_state("code_counts", (self.num_codes,), "ones")
        is_set = "ones" if self.initialization == "random" else "zeros"
        self.initialized = self._add_state("initialized", (), is_set)

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

    def _draw(self, vectors, weights):
        """Draws all randomness of a step, outside of conditionals as JAX needs it.

        Returns:
            The vectors of all replicas; their weights, or None; a random permutation of their
            indices; uniform numbers, one per code; and noise that tells repeated rows apart, a
            hundredth of the batch's standard deviation.
        """
        vectors = join_replicas(vectors)
        weights = None if weights is None else join_replicas(weights)
        order = keras.random.shuffle(ops.arange(ops.shape(vectors)[0]), seed=self.seed_generator)
        uniforms = keras.random.uniform((self.num_codes,), seed=self.seed_generator)
        noise = keras.random.normal(self.embedding.shape, seed=self.seed_generator)
        noise = 0.01 * (ops.std(vectors, axis=0) + 1e-3) * noise
        return vectors, weights, order, uniforms, noise

    def _start(self, codebook, draw):
        """Returns the codebook: as it is, or at the first training step from the data."""
        vectors, weights, order, uniforms, noise = draw

        def start():
            rows, counted, ranks = vectors, weights, order
            if self.initialization == "data":
                # Enough of them to draw from; k-means reads them all.
                most = max(ROWS_PER_CODE * self.num_codes, LEAST_ROWS)
                rows = ops.take(vectors, order[:most], axis=0)
                counted = None if weights is None else ops.take(weights, order[:most], axis=0)
                ranks = ops.arange(ops.shape(rows)[0])
            centres, repeats = spread_rows(rows, ranks, uniforms, self.num_codes, counted)
            if self.initialization == "kmeans":
                centres = lloyd(rows, centres, LLOYD_ITERATIONS, counted)
            return centres + ops.where(repeats[:, None], noise, 0.0)

        started = ops.cond(self.initialized > 0.5, lambda: codebook, start)
        started = take_from_first_replica(started)
        return unit_length(started) if self.distance == "cosine" else started

    def _old_counts(self, batch_counts):
        """The counts before this step."""
        old_counts = ops.convert_to_tensor(self.code_counts)
        if self.initialization == "random":
            return old_counts
        # At the first step every code counts as used by an equal share of the batch.
        share = ops.sum(batch_counts) / self.num_codes
        return ops.where(self.initialized > 0.5, old_counts, share)

    def _dead(self, vectors, flat_codes, codebook, counts, draw):
        """Which codes are out of use, bool `(num_codes,)`; a vector for each; the least count."""
        threshold = self.revival_threshold * ops.mean(counts)
        dead = counts < threshold
        own = ops.take(codebook, flat_codes, axis=0)
        distances = join_replicas(ops.sum(ops.square(vectors - own), axis=-1))
        samples = take_from_first_replica(self._far_vectors(codebook, distances, dead, draw))
        return dead, samples, threshold

    def _far_vectors(self, codebook, distances, dead, draw):
        """A vector of the batch for each code, far from the code that it has, where one is dead.

        Dead codes would otherwise be drawn anew from what is frequent, such as black background,
        which has its code already.
        """
        vectors, weights, _, uniforms, noise = draw
        distances = distances if weights is None else distances * weights
        samples = ops.take(vectors, far_rows(distances, dead, uniforms), axis=0)
        # Where all vectors lie on codes, there is nothing to draw: a place beside a code in use.
        used = ops.take(codebook, ops.argmax(ops.cast(~dead, "int32")), axis=0) + noise
        samples = ops.where(ops.sum(distances) > 0, samples, used)
        return unit_length(samples) if self.distance == "cosine" else samples
