import keras
import numpy as np
import pytest

from brainvq import (
    Autoencoder,
    EMAVectorQuantizer,
    FiniteScalarQuantizer,
    GaussianSampling,
    GroupedQuantizer,
    Identity,
    MultiHeadQuantizer,
    ProbabilisticSOM,
    ProjectedQuantizer,
    ResidualQuantizer,
    SimVQ,
    SOMQuantizer,
    TorusQuantizer,
    VectorQuantizer,
    VQVAETrainer,
)
from brainvq.training.codebook_init import (
    _keep,
    kmeans_initialize,
    kohonen_initialize,
    principal_initialize,
)
from brainvq.training.som_init import kohonen_map

PLACES = np.array([[5, 0], [0, 5], [-5, 0], [0, -5]], "float32")
RNG = np.random.default_rng(0)
WHICH = RNG.permutation(np.repeat([0, 1, 2, 3], [10, 20, 30, 60]))
X = (PLACES[WHICH] + RNG.normal(size=(120, 2)) * 0.01).reshape(12, 10, 2).astype("float32")


def dense():
    """A layer that is the identity map, so that encoded vectors are known."""
    layer = keras.Sequential([keras.Input((10, 2)), keras.layers.Dense(2, use_bias=False)])
    layer.set_weights([np.eye(2)])
    return layer


def make(bottleneck, cls=VQVAETrainer):
    model = cls(dense(), bottleneck, dense())
    model.build((None, 10, 2))
    return model


def value(variable):
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))


def nearest_place(vectors):
    return np.argmin(np.linalg.norm(vectors[:, None] - PLACES, axis=-1), axis=1)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_codebook_becomes_the_centroids(distance):
    model = make(VectorQuantizer(4, distance=distance))
    centroids = kmeans_initialize(model, [X[:6], X[6:]])
    scale = 5 if distance == "cosine" else 1
    order = nearest_place(scale * centroids)
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(scale * centroids, PLACES[order], atol=0.02)
    np.testing.assert_allclose(value(model.bottleneck.codebook), centroids, rtol=1e-5)


def test_ema_counts_and_sums_fit_and_training_does_not_start_again():
    model = make(EMAVectorQuantizer(4, initialization="data", decay=0.99))
    centroids = kmeans_initialize(model, [(X[:6],), (X[6:],)])
    layer = model.bottleneck
    counts, sums = value(layer.code_counts), value(layer.code_sums)
    # 60 vectors a batch, shared as the data is: 10, 20, 30 and 60 of 120.
    expected = np.array([5, 10, 15, 30])[nearest_place(centroids)]
    np.testing.assert_allclose(counts, expected, rtol=1e-4)
    np.testing.assert_allclose(sums, centroids * counts[:, None], rtol=1e-5)
    layer(X, training=True)
    np.testing.assert_allclose(value(layer.codebook), centroids, atol=0.01)


def test_a_chain_is_clustered_where_its_quantiser_reads():
    model = make([GaussianSampling(), VectorQuantizer(4)])
    sampling = model.bottleneck.bottlenecks[0]
    sampling.statistics.set_weights([np.eye(2, 4) * 2, np.zeros(4)])  # the mean is 2 z
    centroids = kmeans_initialize(model, [X])
    assert sorted(nearest_place(centroids / 2)) == [0, 1, 2, 3]
    np.testing.assert_allclose(centroids, 2 * PLACES[nearest_place(centroids / 2)], atol=0.04)


@pytest.mark.parametrize("quantizer", [VectorQuantizer, SOMQuantizer, ProbabilisticSOM])
@pytest.mark.parametrize("chained", [False, True])
def test_every_quantiser_of_any_autoencoder_starts_at_the_clusters(quantizer, chained):
    layer = quantizer(4) if quantizer is VectorQuantizer else quantizer((2, 2))
    model = make([Identity(), layer] if chained else layer, Autoencoder)
    centroids = kmeans_initialize(model, [X])
    np.testing.assert_allclose(value(layer.codebook), centroids, rtol=1e-5)
    order = nearest_place(centroids)
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(centroids, PLACES[order], atol=0.02)


@pytest.mark.parametrize("chained", [False, True])
def test_stages_start_at_the_clusters_of_what_those_before_leave(chained):
    # Four places, and around each the same four smaller steps.
    steps = RNG.permutation(np.repeat([0, 1, 2, 3], 30))
    x = (PLACES[WHICH] + PLACES[steps] / 10).reshape(12, 10, 2)
    layer = ResidualQuantizer([EMAVectorQuantizer(4), SOMQuantizer((2, 2))])
    model = make([Identity(), layer] if chained else layer)
    centroids = kmeans_initialize(model, [x[:6], x[6:]])
    assert centroids.shape == (2, 4, 2)
    np.testing.assert_allclose(value(layer.codebook), centroids, rtol=1e-5)
    order = nearest_place(centroids[0])
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(centroids[0], PLACES[order], atol=0.3)  # means of unequal steps
    assert sorted(nearest_place(10 * centroids[1])) == [0, 1, 2, 3]
    first = layer.quantizers[0]
    np.testing.assert_allclose(value(first.code_counts).sum(), 60, rtol=1e-4)
    assert float(value(first.initialized)) == 1
    errors = [np.mean((model.decode(model.encode(x)[..., :i]) - x) ** 2) for i in (1, 2)]
    assert errors[0] == pytest.approx(0.125, rel=0.2)  # steps of 0.5 in one of two directions
    assert errors[1] < 0.1 * errors[0]


def test_with_a_tail_fewer_vectors_are_quantised_badly():
    x = np.random.default_rng(5).standard_t(3, (400, 10, 2)).astype("float32")
    worst = {}
    for tail in (0.0, 1.0):
        model = make(ResidualQuantizer([EMAVectorQuantizer(32), EMAVectorQuantizer(32)]))
        kmeans_initialize(model, [x], tail=tail)
        error = np.square(model.reconstruct(x) - x).sum(-1)
        worst[tail] = np.quantile(error, 0.99)
    assert worst[1.0] < 0.8 * worst[0.0]


def test_of_several_stages_the_first_gets_the_map():
    stages = [SOMQuantizer((2, 2)), VectorQuantizer(4)]
    model, plain = make(ResidualQuantizer(stages)), make(SOMQuantizer((2, 2)))
    rest = value(stages[1].codebook)
    codebook = kohonen_initialize(model, [X])
    np.testing.assert_array_equal(codebook, kohonen_initialize(plain, [X]))
    np.testing.assert_array_equal(value(stages[0].codebook), codebook)
    np.testing.assert_array_equal(value(stages[1].codebook), rest)


@pytest.mark.parametrize("staged", [False, True])
def test_the_coordinates_of_a_torus_start_from_the_encodings(staged):
    x = keras.Input((10, 2))
    encoder = keras.Model(x, keras.layers.Concatenate()([x, x**2, x**3]))
    z = keras.Input((10, 6))
    first = TorusQuantizer((2, 3))
    bottleneck = ResidualQuantizer([first, EMAVectorQuantizer(6)]) if staged else first
    model = VQVAETrainer(encoder, bottleneck, keras.Model(z, keras.layers.Dense(2)(z)))
    model.build((None, 10, 2))
    principal_initialize(model, [X])
    scores = value(first.coordinates(np.concatenate([X, X**2, X**3], axis=-1))).reshape(-1, 4)
    np.testing.assert_allclose(np.cov(scores[:, :2].T), np.eye(2), atol=0.01)


@pytest.mark.parametrize("topology", ["rectangular", "toroid"])
def test_centroids_lie_in_order_on_a_grid(topology):
    model = make(SOMQuantizer((2, 2), topology=topology))
    for seed in range(5):
        a, b, c, d = kmeans_initialize(model, [X], seed=seed)  # a b / c d
        # The places are the corners of a square: opposite corners of the map are opposite.
        assert np.allclose(a, -d, atol=0.05)
        assert np.allclose(b, -c, atol=0.05)


@pytest.mark.parametrize("initialize", [kmeans_initialize, kohonen_initialize])
def test_of_an_encoder_with_skips_the_first_output_is_read(initialize):
    x = keras.Input((10, 2))
    encoder = keras.Model(x, [keras.layers.Rescaling(1.0)(x), keras.layers.Rescaling(9.0)(x)])
    z, skip = keras.Input((10, 2)), keras.Input((10, 2))
    decoder = keras.Model([z, skip], keras.layers.Add()([z, skip]))
    model = Autoencoder(encoder, SOMQuantizer((2, 2)), decoder)
    model.build((None, 10, 2))
    plain = make(SOMQuantizer((2, 2)))
    np.testing.assert_array_equal(initialize(model, [X]), initialize(plain, [X]))


@pytest.mark.parametrize("quantizer", [SOMQuantizer, ProbabilisticSOM])
def test_the_codebook_becomes_kohonens_map_of_the_encodings(quantizer):
    model = make([Identity(), quantizer((3, 5), topology="toroid")], Autoencoder)
    layer = model.bottleneck.bottlenecks[-1]
    options = {"iterations": 12, "first_radius": 2.0, "final_radius": 0.6, "starts": 2}
    codebook = kohonen_initialize(model, [(X[:5],), (X[5:],)], seed=3, **options)
    np.testing.assert_array_equal(value(layer.codebook), codebook)
    expected = kohonen_map(X.reshape(-1, 2), layer.som_grid, seed=3, **options)
    np.testing.assert_allclose(codebook, expected, atol=1e-5)
    # A sample of them gives a map of the same places.
    few = kohonen_initialize(model, [X], max_vectors=60, final_radius=0.3)
    assert sorted(set(nearest_place(few))) == [0, 1, 2, 3]


class Batches(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return 3

    def __getitem__(self, index):
        return (X[4 * index : 4 * index + 4],)


def test_data_sets_and_few_vectors():
    model = make(VectorQuantizer(4))
    assert sorted(nearest_place(kmeans_initialize(model, Batches(), max_vectors=50))) == [
        0,
        1,
        2,
        3,
    ]
    model = make(EMAVectorQuantizer(30))
    centroids = kmeans_initialize(model, [X[:1]])
    assert np.all(np.isfinite(centroids))
    assert np.all(value(model.bottleneck.code_counts) > 0)


def test_what_cannot_be_clustered_is_named():
    with pytest.raises(ValueError, match="must be a quantiser with a codebook"):
        kmeans_initialize(make(Identity(), Autoencoder), [X])
    mixed = ResidualQuantizer([FiniteScalarQuantizer((3, 4)), VectorQuantizer(12)])
    with pytest.raises(ValueError, match="must be a quantiser with a codebook"):
        kmeans_initialize(make(mixed), [X])
    with pytest.raises(ValueError, match="must be a TorusQuantizer"):
        principal_initialize(make(mixed), [X])
    with pytest.raises(ValueError, match="must be a quantiser with a grid"):
        kohonen_initialize(make(VectorQuantizer(4)), [X])
    for initialize in (kmeans_initialize, kohonen_initialize):
        with pytest.raises(ValueError, match="nothing to cluster"):
            initialize(make(SOMQuantizer((2, 2))), [])
    with pytest.raises(ValueError, match="`final_radius` must be above 0"):
        kohonen_initialize(make(SOMQuantizer((2, 2))), [X], final_radius=0)


def test_the_reservoir_keeps_each_vector_equally_often():
    counts = np.zeros(30)
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        sample = np.zeros((0, 1))
        for start in range(0, 30, 7):
            vectors = np.arange(start, min(start + 7, 30))[:, None]
            sample = _keep(sample, vectors, start, 10, rng)
        assert len(np.unique(sample)) == 10
        counts[sample.astype(int).ravel()] += 1
    # A third each; 2000 draws have a standard error of 0.0105.
    np.testing.assert_allclose(counts / 2000, 1 / 3, atol=0.05)


def functional(bottleneck, **options):
    """A plain model with a quantiser in it, and one beside it."""
    inputs = keras.Input((10, 2))
    z = bottleneck(keras.layers.Dense(2, use_bias=False, kernel_initializer="identity")(inputs))
    quantized = z["quantized"] if isinstance(z, dict) else z
    outputs = [quantized, *(other(inputs)["quantized"] for other in options.values())]
    return keras.Model(inputs, outputs)


def test_a_quantiser_in_any_model_is_found_and_started():
    plain = EMAVectorQuantizer(4)
    centroids = kmeans_initialize(functional(plain), [X[:6], X[6:]])
    np.testing.assert_allclose(centroids, PLACES[nearest_place(centroids)], atol=0.02)
    assert sorted(nearest_place(value(plain.codebook))) == [0, 1, 2, 3]
    assert float(value(plain.initialized)) == 1
    np.testing.assert_allclose(value(plain.code_counts).sum(), 60, rtol=1e-4)
    both = VectorQuantizer(4, name="one", tensor_only=True), SimVQ(4, name="other")
    model = functional(both[0], other=both[1])
    with pytest.raises(ValueError, match=r"not just one.*\['one', 'other'\]"):
        kmeans_initialize(model, [X])
    for layer in ("other", both[0]):
        kmeans_initialize(model, [X], layer=layer)
    for quantizer in both:
        assert sorted(nearest_place(value(quantizer.codebook))) == [0, 1, 2, 3]


def test_padding_is_not_clustered():
    layer = VectorQuantizer(4, tensor_only=True)
    model = keras.Sequential([keras.Input((20, 2)), keras.layers.Masking(99.0), layer])
    kmeans_initialize(model, [np.concatenate([X, np.full_like(X, 99.0)], axis=1)])
    assert sorted(nearest_place(value(layer.codebook))) == [0, 1, 2, 3]


def test_layers_around_quantisers_give_each_what_it_reads():
    groups = GroupedQuantizer([VectorQuantizer(3), VectorQuantizer(3)])
    heads = MultiHeadQuantizer(EMAVectorQuantizer(3), 2)
    projected = ProjectedQuantizer(VectorQuantizer(4), 2)
    for layer in (groups, heads, projected):
        kmeans_initialize(functional(layer), [X])
        apart = value(layer(X)["quantized"]) - value(layer(X)["continuous"])
        assert np.abs(apart).max() < 0.1, layer
    # Of each channel, and of both together: −5, 0 and 5.
    for quantizer in (*groups.quantizers, heads.quantizer):
        places = np.sort(value(quantizer.codebook)[:, 0])
        np.testing.assert_allclose(places, [-5, 0, 5], atol=0.05)
    np.testing.assert_allclose(value(heads.quantizer.code_counts).sum(), 240, rtol=1e-4)


def test_a_shared_codebook_is_fitted_to_what_every_stage_reads():
    layer = ResidualQuantizer([VectorQuantizer(8)], repeats=2)
    model = make(layer)
    kmeans_initialize(model, [X])
    z = value(layer(X)["quantized"]) - X
    assert np.square(z).mean() < 0.01 * np.square(X).mean()
