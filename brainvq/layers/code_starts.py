"""Codebooks that start from the first batch, and codes out of use that start again."""

from dataclasses import dataclass

import keras
from keras import ops

from brainvq.arguments import number, seed_of
from brainvq.backend import join_replicas, num_replicas, take_from_first_replica
from brainvq.layers.quantizer import SeedTaken, far_rows, lloyd, spread_rows, unit_length

INITIALIZATIONS = ("data", "kmeans", "random")
LLOYD_ITERATIONS = 10
# Random vectors of the first batch that a start from `"data"` draws from.
ROWS_PER_CODE, LEAST_ROWS = 64, 4096


@dataclass
class Draw:
    """What the starts and revivals of a step draw from: only where a code needs it, for it is slow.

    Attributes:
        vectors: float32 `(n, dim)`, those of all replicas.
        weights: float32 `(n,)`, or None.
        shape: `(num_codes, dim)`.
        order_seed: `SeedTaken`, of the permutation.
        uniforms_seed: of the uniform numbers.
        noise_seed: of the noise.
    """

    vectors: object
    weights: object
    shape: tuple
    order_seed: SeedTaken
    uniforms_seed: SeedTaken
    noise_seed: SeedTaken

    def order(self):
        """A random permutation of the vectors' indices."""
        return keras.random.shuffle(ops.arange(ops.shape(self.vectors)[0]), seed=self.order_seed)

    def uniforms(self):
        """Uniform numbers in [0, 1), one per code."""
        return keras.random.uniform(self.shape[:1], seed=self.uniforms_seed)

    def noise(self):
        """Noise that tells repeated rows apart, a hundredth of the batch's standard deviation."""
        noise = keras.random.normal(self.shape, seed=self.noise_seed)
        return 0.01 * (ops.std(self.vectors, axis=0) + 1e-3) * noise


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
        """What a start or a revival draws from; the `Draw` of a step."""
        vectors = join_replicas(vectors)
        weights = None if weights is None else join_replicas(weights)
        seeds = [SeedTaken(self.seed_generator) for _ in range(3)]
        return Draw(vectors, weights, self.embedding.shape, *seeds)

    def _start(self, codebook, draw):
        """Returns the codebook: as it is, or at the first training step from the data."""
        weights = draw.weights

        def start():
            rows, counted, ranks = draw.vectors, weights, draw.order()
            if self.initialization == "data":
                # Enough of them to draw from; k-means reads them all.
                most = max(ROWS_PER_CODE * self.num_codes, LEAST_ROWS)
                rows = ops.take(draw.vectors, ranks[:most], axis=0)
                counted = None if weights is None else ops.take(weights, ranks[:most], axis=0)
                ranks = ops.arange(ops.shape(rows)[0])
            centres, repeats = spread_rows(rows, ranks, draw.uniforms(), self.num_codes, counted)
            if self.initialization == "kmeans":
                centres = lloyd(rows, centres, LLOYD_ITERATIONS, counted)
            return centres + ops.where(repeats[:, None], draw.noise(), 0.0)

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

        def distances():
            own = ops.take(codebook, flat_codes, axis=0)
            return join_replicas(ops.sum(ops.square(vectors - own), axis=-1))

        # Every replica must reach what joins them, whichever way it goes.
        joined = distances() if num_replicas() > 1 else None
        samples = ops.cond(
            ops.any(dead),
            lambda: self._far_vectors(
                codebook, distances() if joined is None else joined, dead, draw
            ),
            lambda: ops.zeros_like(codebook),
        )
        return dead, take_from_first_replica(samples), threshold

    def _far_vectors(self, codebook, distances, dead, draw):
        """A vector of the batch for each code, far from the code that it has, where one is dead.

        Dead codes would otherwise be drawn anew from what is frequent, such as black background,
        which has its code already.
        """
        distances = distances if draw.weights is None else distances * draw.weights
        samples = ops.take(draw.vectors, far_rows(distances, dead, draw.uniforms()), axis=0)
        # Where all vectors lie on codes, there is nothing to draw: a place beside a code in use.
        used = ops.take(codebook, ops.argmax(ops.cast(~dead, "int32")), axis=0)
        used = used + draw.noise()
        samples = ops.where(ops.sum(distances) > 0, samples, used)
        return unit_length(samples) if self.distance == "cosine" else samples
