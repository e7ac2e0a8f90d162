"""Starting a codebook from encoded data: k-means, or a self-organising map."""

import keras
import numpy as np
from sklearn.cluster import MiniBatchKMeans

from brainvq.backend import compile_function
from brainvq.layers.quantizer import Quantizer, nearest_codes
from brainvq.layers.som_grid import GridQuantizer
from brainvq.layers.torus_quantizer import TorusQuantizer
from brainvq.training.som_init import kohonen_map, order_on_grid

# Least and greatest weight of a vector in the clustering of a stage.
WEIGHTS = (0.1, 20.0)


def kmeans_initialize(model, batches, max_vectors=100_000, seed=0, tail=0.0):
    """Sets a model's codebook to the k-means centroids of what its encoder makes of data.

    The data is read once, batch by batch; memory holds one batch and a uniform random sample of
    `max_vectors` encoded vectors (reservoir sampling, Vitter 1985). An `EMAVectorQuantizer` also
    gets matching counts and sums (sum = centroid × count) and is marked as initialised, so that
    the first training step does not start it anew. On the grid of a map the centroids, which come
    in no order, are placed so that neighbours are near in space (`som_init.order_on_grid`): a map
    would begin folded otherwise. The stages of a `ResidualQuantizer` are clustered in turn, each on
    what those before it leave of the sample. With `tail` above 0 a vector counts there by the
    length of what is left of it to this power: codes go to the rare vectors, at the cost of a
    slightly larger mean error, and few are then quantised badly.

    Args:
        model: built `brainvq.Autoencoder` whose bottleneck is a quantiser with a codebook, a
            `ResidualQuantizer` of such, or a chain that ends in one. Of an encoder that returns a
            list, the first is clustered.
        batches: iterable of arrays `(batch, *spatial, channels)`, or of tuples that begin with one
            (a `tf.data.Dataset` or `keras.utils.PyDataset` too). It must end.
        max_vectors: int, the most vectors that are clustered.
        seed: int, for the sample, the clustering and the order.
        tail: float ≥ 0, for the stages after the first. Default 0: all vectors count alike.

    Returns:
        Float32 NumPy array `(num_codes, dim)`, or `(depth, num_codes, dim)`: the centroids.

    Raises:
        ValueError: if the bottleneck has no codebook or there is no data.
    """
    members = _members(
        model,
        lambda stages: all(isinstance(stage, Quantizer) for stage in stages),
        "a quantiser with a codebook, such as VectorQuantizer",
    )
    rng = np.random.default_rng(seed)
    sample, per_batch = _encoded_sample(model, members, batches, max_vectors, rng)
    stages = model.bottleneck.stages()
    for stage in stages:
        weights = None
        if tail and stage is not stages[0]:
            left = np.sum(np.square(sample), axis=-1)
            # Bounded, so that no single vector has a cluster to itself.
            weights = np.clip((left / left.mean()) ** (tail / 2), *WEIGHTS)
        centroids, counts = _clusters(sample, stage, rng, seed, weights)
        stage.set_codebook(centroids, counts * (per_batch / counts.sum()))
        if stage is not stages[-1]:
            codes = nearest_codes(keras.ops.convert_to_tensor(sample), stage.codebook)
            sample = sample - keras.ops.convert_to_numpy(stage.codes_to_vectors(codes))
    return keras.ops.convert_to_numpy(members[-1].codebook)


def _clusters(sample, quantizer, rng, seed, weights=None):
    """The k-means centroids of a sample, in the order of the quantiser's codes, and their sizes."""
    num_codes = quantizer.num_codes
    if len(sample) < num_codes:
        # Repeat with a little noise, so that every code has a place of its own.
        repeats = sample[np.arange(num_codes) % len(sample)]
        noise = rng.normal(size=repeats.shape) * 0.01 * (sample.std(axis=0) + 1e-3)
        noise[: len(sample)] = 0
        sample, weights = (repeats + noise).astype("float32"), None
    clusters = MiniBatchKMeans(num_codes, batch_size=4096, n_init=3, random_state=seed)
    clusters.fit(sample, sample_weight=weights)
    centroids = clusters.cluster_centers_.astype("float32")
    counts = np.bincount(clusters.labels_, minlength=num_codes).astype("float32")
    # Counts in vectors per training batch. An empty cluster gets a hundredth of the mean: zero
    # would divide by zero, and one so small is soon revived.
    counts = np.maximum(counts, 0.01 * counts.mean())
    if isinstance(quantizer, GridQuantizer):
        order = order_on_grid(centroids, quantizer.som_grid, seed=seed)
        centroids, counts = centroids[order], counts[order]
    return centroids, counts


def kohonen_initialize(
    model,
    batches,
    max_vectors=100_000,
    seed=0,
    *,
    iterations=40,
    first_radius=None,
    final_radius=1.0,
    starts=12,
):
    """Sets the codebook of a map to Kohonen's map of what the model's encoder makes of data.

    The data is read as by `kmeans_initialize`; `som_init.kohonen_map` fits the map, without
    gradients.

    Args:
        model: built `brainvq.Autoencoder` whose bottleneck is a quantiser with a grid
            (`SOMQuantizer`, `ProbabilisticSOM`), a `ResidualQuantizer` whose first stage is one
            (the others stay as they are), or a chain that ends in such.
        batches: see `kmeans_initialize`.
        max_vectors: int, the most vectors that are fitted.
        seed: int, for the sample and the starts.
        iterations: see `kohonen_map`, as for the arguments below.
        first_radius: float > 0, or None for half the grid's longer side.
        final_radius: float > 0; trades the order of the map for its closeness to the vectors.
        starts: int ≥ 1.

    Returns:
        Float32 NumPy array `(num_codes, dim)`: the codebook, node by node.

    Raises:
        ValueError: if the bottleneck has no grid, there is no data, or an argument is out of its
            range.
    """
    members = _members(
        model,
        lambda stages: isinstance(stages[0], GridQuantizer),
        "a quantiser with a grid, such as SOMQuantizer",
    )
    quantizer = model.bottleneck.stages()[0]
    rng = np.random.default_rng(seed)
    sample, _ = _encoded_sample(model, members, batches, max_vectors, rng)
    codebook = kohonen_map(
        sample,
        quantizer.som_grid,
        iterations=iterations,
        first_radius=first_radius,
        final_radius=final_radius,
        starts=starts,
        seed=seed,
    )
    quantizer.set_codebook(codebook)
    return codebook


def principal_initialize(model, batches, max_vectors=100_000, seed=0):
    """Starts the angles of a `TorusQuantizer` at the principal components of encoded data.

    The data is read as by `kmeans_initialize`; see `TorusQuantizer.set_coordinates`.

    Args:
        model: built `brainvq.Autoencoder` whose bottleneck is a `TorusQuantizer`, a
            `ResidualQuantizer` whose first stage is one, or a chain that ends in such.
        batches: iterable of arrays `(batch, *spatial, channels)`; see `kmeans_initialize`.
        max_vectors: int, the most vectors in the sample.
        seed: int, for the sample.

    Raises:
        ValueError: if the bottleneck is another, or there is no data.
    """
    members = _members(
        model, lambda stages: isinstance(stages[0], TorusQuantizer), "a TorusQuantizer"
    )
    sample, _ = _encoded_sample(model, members, batches, max_vectors, np.random.default_rng(seed))
    model.bottleneck.stages()[0].set_coordinates(sample)


def _members(model, fits, expected):
    """The parts of a model's bottleneck, in turn; the stages of the last must fit."""
    if not fits(model.bottleneck.stages()):
        raise ValueError(
            f"The bottleneck must be {expected}, or end in one. "
            f"Received: model.bottleneck={model.bottleneck}"
        )
    return model.bottleneck.members()


def _encoded_sample(model, members, batches, max_vectors, rng):
    """Encodes batches to what the quantiser reads.

    Returns:
        A uniform random sample, float32 `(at most max_vectors, dim)`, of unit length with the
        cosine distance; and the most vectors in a batch.
    """

    def encode(x):
        z = model.encoder(x)
        z = z[0] if isinstance(z, list | tuple) else z  # the others go past the bottleneck
        for member in members[:-1]:
            z = member(z, training=False)["quantized"]
        return keras.ops.cast(z, "float32")  # (batch, *grid, dim)

    encode = compile_function(encode, owner=model)
    cosine = model.bottleneck.stages()[0].distance == "cosine"
    sample, seen, per_batch = None, 0, 0
    for x in _images(batches):
        vectors = keras.ops.convert_to_numpy(encode(x))
        vectors = vectors.reshape(-1, vectors.shape[-1])
        if cosine:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
        sample = vectors[:0] if sample is None else sample
        sample = _keep(sample, vectors, seen, max_vectors, rng)
        seen += len(vectors)
        per_batch = max(per_batch, len(vectors))
    if seen == 0:
        raise ValueError("There is nothing to cluster. Received: batches without data")
    return sample, per_batch


def _images(batches):
    """Yields the first part of every batch."""
    if isinstance(batches, keras.utils.PyDataset):
        count, dataset = batches.num_batches, batches
        batches = (dataset[index] for index in range(count))
    for batch in batches:
        yield np.asarray(batch[0] if isinstance(batch, list | tuple) else batch)


def _keep(sample, vectors, seen, size, rng):
    """Reservoir sampling: each of the `seen + len(vectors)` vectors stays equally likely."""
    room = size - len(sample)
    sample = np.concatenate([sample, vectors[: max(room, 0)]])
    late = vectors[max(room, 0) :]
    positions = np.arange(seen + len(vectors) - len(late), seen + len(vectors))
    slots = rng.integers(0, positions + 1)
    drawn = slots < size
    sample[slots[drawn]] = late[drawn]
    return sample
