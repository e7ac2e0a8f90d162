"""Starting a codebook from clusters of encoded data."""

import keras
import numpy as np
from sklearn.cluster import MiniBatchKMeans

from brainvq.backend import compile_function
from brainvq.layers.bottleneck import BottleneckChain
from brainvq.layers.quantizer import Quantizer


def kmeans_initialize(model, batches, max_vectors=100_000, seed=0):
    """Sets a model's codebook to the k-means centroids of what its encoder makes of data.

    The data is read once, batch by batch; memory holds one batch and a uniform random sample of
    `max_vectors` encoded vectors (reservoir sampling, Vitter 1985). An `EMAVectorQuantizer` also
    gets matching counts and sums (sum = centroid × count) and is marked as initialised, so that
    the first training step does not start it anew.

    Args:
        model: built `brainvq.Autoencoder` whose bottleneck is a quantiser, or a chain that ends in
            one.
        batches: iterable of arrays `(batch, *spatial, channels)`, or of tuples that begin with one
            (a `tf.data.Dataset` or `keras.utils.PyDataset` too). It must end.
        max_vectors: int, the most vectors kept for clustering.
        seed: int, for the sample and the clustering.

    Returns:
        Float32 NumPy array `(num_codes, dim)`: the centroids.

    Raises:
        ValueError: if the bottleneck has no codebook or there is no data.
    """
    members = (
        model.bottleneck.bottlenecks
        if isinstance(model.bottleneck, BottleneckChain)
        else [model.bottleneck]
    )
    quantizer = members[-1]
    if not isinstance(quantizer, Quantizer):
        raise ValueError(
            "The bottleneck must be VectorQuantizer or EMAVectorQuantizer. "
            f"Received: model.bottleneck={model.bottleneck}"
        )

    def encode(x):
        z = model.encoder(x)
        for member in members[:-1]:
            z = member(z, training=False)["quantized"]
        return keras.ops.cast(z, "float32")  # (batch, *grid, dim)

    encode = compile_function(encode, owner=model)
    rng = np.random.default_rng(seed)
    sample, seen, per_batch = None, 0, 0
    for x in _images(batches):
        vectors = keras.ops.convert_to_numpy(encode(x))
        vectors = vectors.reshape(-1, vectors.shape[-1])
        if quantizer.distance == "cosine":
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
        sample = vectors[:0] if sample is None else sample
        sample = _keep(sample, vectors, seen, max_vectors, rng)
        seen += len(vectors)
        per_batch = max(per_batch, len(vectors))
    if seen == 0:
        raise ValueError("There is nothing to cluster. Received: batches without data")

    num_codes = quantizer.num_codes
    if len(sample) < num_codes:
        # Repeat with a little noise, so that every code has a place of its own.
        repeats = sample[np.arange(num_codes) % len(sample)]
        noise = rng.normal(size=repeats.shape) * 0.01 * (sample.std(axis=0) + 1e-3)
        noise[: len(sample)] = 0
        sample = (repeats + noise).astype("float32")
    clusters = MiniBatchKMeans(num_codes, batch_size=4096, n_init=3, random_state=seed).fit(sample)
    centroids = clusters.cluster_centers_.astype("float32")
    counts = np.bincount(clusters.labels_, minlength=num_codes).astype("float32")
    # Counts in vectors per training batch. An empty cluster gets a hundredth of the mean: zero
    # would divide by zero, and one so small is soon revived.
    counts = np.maximum(counts, 0.01 * counts.mean())
    quantizer.set_codebook(centroids, counts * (per_batch / counts.sum()))
    return keras.ops.convert_to_numpy(quantizer.codebook)


def _images(batches):
    """Yields the first part of every batch."""
    if isinstance(batches, keras.utils.PyDataset):
        count, dataset = batches.num_batches, batches
        batches = (dataset[index] for index in range(count))
    for batch in batches:
        yield np.asarray(batch[0] if isinstance(batch, list | tuple) else batch)


def _keep(sample, vectors, seen, size, rng):
    """Reservoir sampling: each of the `seen + len(vectors)` vectors is kept equally likely."""
    room = size - len(sample)
    sample = np.concatenate([sample, vectors[: max(room, 0)]])
    late = vectors[max(room, 0) :]
    positions = np.arange(seen + len(vectors) - len(late), seen + len(vectors))
    slots = rng.integers(0, positions + 1)
    kept = slots < size
    sample[slots[kept]] = late[kept]
    return sample
