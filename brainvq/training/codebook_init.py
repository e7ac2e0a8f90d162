"""Starting a codebook from encoded data: k-means, or a self-organising map."""

import keras
import numpy as np
from sklearn.cluster import MiniBatchKMeans

from brainvq.backend import compile_function
from brainvq.layers.bottleneck import Bottleneck
from brainvq.layers.quantizer import Quantizer
from brainvq.layers.som_grid import GridQuantizer
from brainvq.layers.torus_quantizer import TorusQuantizer
from brainvq.models import Autoencoder
from brainvq.training.som_init import kohonen_map, order_on_grid

# Least and greatest weight of a vector in the clustering of a stage.
WEIGHTS = (0.1, 20.0)


def kmeans_initialize(model, batches, max_vectors=100_000, seed=0, tail=0.0, layer=None):
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
        model: built `keras.Model` with a quantiser that has a codebook, a layer around such
            (`ResidualQuantizer`, `GroupedQuantizer`, `ProjectedQuantizer`, ...) or a chain that
            ends in one. Of a `brainvq.Autoencoder` the encoder alone is run, and of an encoder that
            returns a list the first is clustered; another model is called on the batches.
        batches: iterable of arrays `(batch, *spatial, channels)`, or of tuples that begin with one
            (a `tf.data.Dataset` or `keras.utils.PyDataset` too). It must end.
        max_vectors: int, the most vectors that are clustered.
        seed: int, for the sample, the clustering and the order.
        tail: float ≥ 0, for the stages after the first. Default 0: all vectors count alike.
        layer: the quantiser, or its name, where a model has several. Default None: the only one.

    Returns:
        Float32 NumPy array `(num_codes, dim)`, or `(depth, num_codes, dim)`: the centroids.

    Raises:
        ValueError: if the bottleneck has no codebook, it is not clear which one is meant, or there
            is no data.
    """
    quantizer = _quantizer_of(model, layer)
    if not all(isinstance(stage, Quantizer) for stage in quantizer.stages()):
        raise ValueError(
            "The bottleneck must be a quantiser with a codebook, such as VectorQuantizer, or end "
            f"in one. Received: {quantizer}"
        )
    rng = np.random.default_rng(seed)
    sample, per_batch = _encoded_sample(model, quantizer, batches, max_vectors, rng)

    def fit(stage, vectors, later=False):
        vectors, weights = _as_compared(stage, vectors), None
        if tail and later:
            left = np.sum(np.square(vectors), axis=-1)
            # Bounded, so that no single vector has a cluster to itself.
            weights = np.clip((left / left.mean()) ** (tail / 2), *WEIGHTS)
        centroids, counts = _clusters(vectors, stage, rng, seed, weights)
        # Of every vector that was encoded there may be several, as of heads.
        each = per_batch * len(vectors) / len(sample)
        stage.set_codebook(centroids, counts * (each / counts.sum()))
        return vectors

    quantizer.start_codebooks(sample, fit)
    return keras.ops.convert_to_numpy(quantizer.codebook)


def _clusters(sample, quantizer, rng, seed, weights=None):
    """The k-means centroids of a sample, in the order of the quantiser's codes, and their sizes."""
    num_codes = quantizer.num_codes
    if len(sample) < num_codes:
        # Repeat with a little noise, so that every code has a place of its own.
        repeats = sample[np.arange(num_codes) % len(sample)]
        noise = rng.normal(size=repeats.shape) * 0.01 * (sample.std(axis=0) + 1e-3)
        noise[: len(sample)] = 0
        # There is nothing to cluster, which would take days for millions of codes.
        centroids, counts = (repeats + noise).astype("float32"), np.ones(num_codes, "float32")
    else:
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
    quantizer = _first_stage(model, GridQuantizer, "a quantiser with a grid, such as SOMQuantizer")
    rng = np.random.default_rng(seed)
    sample, _ = _encoded_sample(model, model.quantizer, batches, max_vectors, rng)
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
    quantizer = _first_stage(model, TorusQuantizer, "a TorusQuantizer")
    rng = np.random.default_rng(seed)
    sample, _ = _encoded_sample(model, model.quantizer, batches, max_vectors, rng)
    quantizer.set_coordinates(sample)


def _first_stage(model, kind, expected):
    """The quantiser of the first code of each cell, which must be of a kind."""
    stage = model.bottleneck.stages()[0]
    if not isinstance(stage, kind):
        raise ValueError(
            f"The bottleneck must be {expected}, or end in one. "
            f"Received: model.bottleneck={model.bottleneck}"
        )
    return stage


def _quantizer_of(model, layer):
    """The layer of a model whose codebook is started: the named one, or the only one."""
    if layer is None and isinstance(model, Autoencoder):
        return model.quantizer
    layers = [each for each in model._flatten_layers() if isinstance(each, Bottleneck)]
    inner = {id(part) for each in layers for part in each._flatten_layers(include_self=False)}
    outer = [each for each in layers if id(each) not in inner and each.has_codes]
    chosen = [each for each in outer if layer is None or layer in (each, each.name)]
    if len(chosen) != 1:
        raise ValueError(
            "`layer` must be a quantiser of the model, or its name, where there is not just one. "
            f"Received: layer={layer}, and a model with {[each.name for each in outer]}"
        )
    return chosen[0].members()[-1]


def _as_compared(quantizer, vectors):
    """Vectors as a quantiser compares them: of unit length with the cosine distance."""
    if quantizer.distance != "cosine":
        return vectors
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def _encoded_sample(model, quantizer, batches, max_vectors, rng):
    """Encodes batches to what the quantiser reads.

    Returns:
        A uniform random sample, float32 `(at most max_vectors, dim)`, and the most vectors in a
        batch.
    """

    def encode(x):
        if not isinstance(model, Autoencoder) or quantizer is not model.quantizer:
            return _read_by(quantizer, model, x)
        z = model.encoder(x)
        z = z[0] if isinstance(z, list | tuple) else z  # the others go past the bottleneck
        for member in model.bottleneck.members()[:-1]:
            z = member(z, training=False)["quantized"]
        return [keras.ops.cast(z, "float32")]  # (batch, *grid, dim)

    encode = compile_function(encode, owner=model)
    sample, seen, per_batch = None, 0, 0
    for x in _images(batches):
        z, *mask = (keras.ops.convert_to_numpy(tensor) for tensor in encode(x))
        vectors = z[mask[0]] if mask else z.reshape(-1, z.shape[-1])
        sample = vectors[:0] if sample is None else sample
        sample = _keep(sample, vectors, seen, max_vectors, rng)
        seen += len(vectors)
        per_batch = max(per_batch, len(vectors))
    if seen == 0:
        raise ValueError("There is nothing to cluster. Received: batches without data")
    return sample, per_batch


def _read_by(layer, model, x):
    """What a layer reads while its model is called: `[z]`, or `[z, mask]` where there is a mask."""
    read, call = [], layer.call

    def watched(z, *args, mask=None, **kwargs):
        read.append([keras.ops.cast(z, "float32"), *([] if mask is None else [mask])])
        return call(z, *args, mask=mask, **kwargs)

    # In its own dict, which Keras does not follow, before the method of its class.
    vars(layer)["call"] = watched
    try:
        model(x, training=False)
    finally:
        del vars(layer)["call"]
    if len(read) != 1:
        raise ValueError(
            f"{layer.name} must be called once in the model. Received: {len(read)} calls"
        )
    return read[0]


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
