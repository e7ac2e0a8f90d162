import keras
import numpy as np
import pytest

from brainvq.layers import EMAVectorQuantizer
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, nearest, unit

RNG = np.random.default_rng(0)


def state(layer):
    """Codebook, counts and sums as NumPy."""
    weights = (layer.embedding, layer.code_counts, layer.code_sums)
    return tuple(array(w) for w in weights)


def make(x, **options):
    options = {"initialization": "random", "revival_threshold": 0.0, "seed": 1, **options}
    layer = EMAVectorQuantizer(**{"num_codes": 5, **options})
    layer.build(x.shape)
    return layer


@pytest.mark.parametrize("initialization", ["data", "kmeans"])
def test_keeps_the_shared_contract(tmp_path, initialization):
    kwargs = {
        "num_codes": 6,
        "beta": 0.5,
        "decay": 0.9,
        "epsilon": 1e-4,
        "initialization": initialization,
        "revival_threshold": 0.1,
        "distance": "cosine" if initialization == "data" else "euclidean",
        "gradient": "rotation" if initialization == "data" else "straight_through",
        "seed": 4,
    }
    x = RNG.normal(size=(3, 3, 2, 4)).astype("float32")
    run_layer_test(
        EMAVectorQuantizer,
        kwargs,
        x,
        output_key="quantized",
        own_dtype="float32",
        tmp_path=tmp_path,
    )


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_two_steps_follow_the_formula_by_hand(distance):
    batches = RNG.normal(size=(2, 4, 3, 2)).astype("float32")
    layer = make(batches[0], decay=0.8, distance=distance)
    layer.set_codebook(RNG.normal(size=(5, 2)))
    embedding, counts, sums = (value.astype("float64") for value in state(layer))
    np.testing.assert_allclose(counts, 1)
    np.testing.assert_allclose(sums, embedding)
    for batch in batches:
        outputs = layer(batch, training=True)
        z = batch.reshape(-1, 2)
        z = unit(z) if distance == "cosine" else z
        codes = nearest(z, embedding)
        np.testing.assert_array_equal(array(outputs["codes"]).ravel(), codes)
        # The output is what the codes were before the update.
        np.testing.assert_allclose(
            array(outputs["quantized"]).reshape(-1, 2),
            embedding[codes],
            rtol=1e-4,
            atol=1e-6,
        )
        error = np.mean((z - embedding[codes]) ** 2)
        np.testing.assert_allclose(
            array(outputs["losses"]["commitment_loss"]), 0.25 * error, rtol=1e-4
        )
        one_hot = np.eye(5)[codes]
        counts = 0.8 * counts + 0.2 * one_hot.sum(axis=0)
        sums = 0.8 * sums + 0.2 * one_hot.T @ z
        embedding = (sums + 1e-5 * embedding) / (counts + 1e-5)[:, None]
        embedding = unit(embedding) if distance == "cosine" else embedding
        for actual, expected in zip(state(layer), (embedding, counts, sums), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_a_code_out_of_use_stays_where_it_is():
    x = np.zeros((2, 3, 2), "float32")
    layer = make(x, num_codes=2, decay=0.5)
    layer.set_codebook([[0.1, 0.1], [3.0, -4.0]])
    for _ in range(60):  # its count falls to 0.5**60
        layer(x, training=True)
    np.testing.assert_allclose(array(layer.embedding)[1], [3, -4], rtol=1e-4)


def test_the_gradient_reaches_the_input_and_no_weight():
    x = RNG.normal(size=(2, 3, 2)).astype("float32")
    layer = make(x)
    assert layer.trainable_variables == []
    assert layer.loss_names == ("commitment_loss",)


@pytest.mark.parametrize("initialization", ["data", "kmeans"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_first_training_batch_starts_the_codebook_consistently(initialization, distance):
    places = np.array([[4, 0, 1], [0, 4, -1], [-4, 0, 1], [0, -4, 2], [3, 3, 3]], "float32")
    x = np.repeat(places, 8, axis=0)[RNG.permutation(40)].reshape(4, 10, 3)
    x = (x + RNG.normal(size=x.shape) * 1e-3).astype("float32")
    layer = make(x, initialization=initialization, distance=distance, decay=0.9)
    old = state(layer)
    layer(x, training=False)
    for before, after in zip(old, state(layer), strict=True):
        np.testing.assert_array_equal(before, after)
    assert float(layer.initialized) == 0
    layer(x, training=True)
    assert float(layer.initialized) == 1
    embedding, counts, sums = state(layer)
    # 40 vectors, 5 codes: the average count is 8 from the first step on.
    np.testing.assert_allclose(counts.sum(), 40, rtol=1e-5)
    z = unit(places) if distance == "cosine" else places
    if initialization == "kmeans":
        assert sorted(nearest(embedding, z)) == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(embedding, z[nearest(embedding, z)], atol=5e-3)
    ratio = sums / counts[:, None]
    ratio = unit(ratio) if distance == "cosine" else ratio
    np.testing.assert_allclose(embedding, ratio, rtol=1e-3, atol=1e-4)
    # No second start: the next step moves the codes by a step of the average, not to the data.
    far = (x + 100).astype("float32")
    if distance == "euclidean":
        layer(far, training=True)
        moved = np.linalg.norm(state(layer)[0] - embedding, axis=1)
        assert np.sum(moved > 1e-3) == 1
        assert moved.max() < 150


def test_data_start_takes_vectors_without_repetition_where_there_are_enough():
    x = np.arange(12, dtype="float32").reshape(2, 6, 1)
    layer = make(x, num_codes=12, initialization="data", decay=0.0)
    layer(x, training=True)
    np.testing.assert_allclose(np.sort(state(layer)[0].ravel()), np.arange(12), rtol=1e-4)


@pytest.mark.parametrize("initialization", ["data", "kmeans"])
def test_a_batch_smaller_than_the_codebook_starts_it_all_the_same(initialization):
    x = RNG.normal(size=(1, 3, 2)).astype("float32")
    layer = make(x, num_codes=16, initialization=initialization, revival_threshold=0.05)
    outputs = layer(x, training=True)
    embedding, counts, _ = state(layer)
    assert np.all(np.isfinite(embedding))
    assert np.all(counts > 0)
    assert len(np.unique(embedding, axis=0)) == 16
    distances = np.linalg.norm(embedding[:, None] - x.reshape(1, 3, 2), axis=-1).min(axis=1)
    assert distances.max() < 0.2
    assert array(outputs["losses"]["commitment_loss"]) < 1e-3


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_revival_resets_place_count_and_sum_together(distance):
    x = (1 + RNG.normal(size=(4, 5, 3)) * 0.1).astype("float32")
    layer = make(x, num_codes=4, revival_threshold=0.2, decay=0.9, distance=distance)
    codebook = np.array([[1, 1, 1], [-90, 0, 0], [0, -90, 0], [1.1, 1, 1]], "float32")
    layer.set_codebook(codebook, [8.0, 0.1, 9.0, 3.0])
    layer(x, training=True)
    embedding, counts, sums = state(layer)
    z = unit(x) if distance == "cosine" else x
    # Code 1 alone is under the threshold; code 2 is out of use, but its count is still high.
    threshold = 0.2 * (0.9 * (8 + 0.1 + 9 + 3) + 0.1 * 20) / 4
    np.testing.assert_allclose(np.linalg.norm(z - embedding[1], axis=-1).min(), 0, atol=1e-5)
    np.testing.assert_allclose(counts[1], 2 * threshold, rtol=1e-4)
    np.testing.assert_allclose(sums[1], 2 * threshold * embedding[1], rtol=1e-4)
    expected = unit(codebook) if distance == "cosine" else codebook
    np.testing.assert_allclose(embedding[2], expected[2], rtol=1e-4, atol=1e-5)
    # At the next step the revived code lies among the vectors, not ten times too far out.
    layer(x, training=True)
    embedding = state(layer)[0]
    np.testing.assert_allclose(np.linalg.norm(z - embedding[1], axis=-1).min(), 0, atol=0.3)


def test_revival_brings_a_dead_codebook_into_use():
    x = RNG.normal(size=(8, 16, 2)).astype("float32")
    layer = make(x, num_codes=8, revival_threshold=0.05, decay=0.9)
    layer.set_codebook(np.full((8, 2), 50.0) + np.arange(8)[:, None])
    for _ in range(80):
        codes = layer(x, training=True)["codes"]
    assert len(np.unique(array(codes))) == 8


def test_inference_frozen_layers_and_decoding_change_nothing():
    x = RNG.normal(size=(2, 4, 2)).astype("float32")
    layer = make(x, initialization="data", revival_threshold=0.1)
    layer(x, training=True)
    old = [array(w) for w in layer.variables]
    layer(x, training=False)
    layer(x)
    layer.codes_to_vectors(np.zeros((2, 4), "int32"))
    layer.trainable = False
    layer(x, training=True)
    for before, variable in zip(old, layer.variables, strict=True):
        np.testing.assert_array_equal(before, array(variable))


def test_a_loaded_layer_does_not_start_again(tmp_path):
    inputs = keras.Input((4, 2))
    layer = EMAVectorQuantizer(5, initialization="data", revival_threshold=0.05, seed=2)
    outputs = keras.layers.Dense(2)(layer(inputs)["quantized"])
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), loss="mse")
    x = RNG.normal(size=(12, 4, 2)).astype("float32")
    # Two epochs of donated buffers: on JAX codebook and sums must not be the same buffer.
    model.fit(x, x, epochs=2, batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for m in (model, loaded):
        m.fit(x + 0.5, x, epochs=1, batch_size=4, shuffle=False, verbose=0)
    pairs = zip(model.variables, loaded.variables, strict=True)
    for old, new in pairs:
        np.testing.assert_allclose(array(old), array(new), rtol=1e-5, atol=1e-6)
    assert float(loaded.layers[1].initialized) == 1


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
@pytest.mark.parametrize("black", [0.7, 0.9])
def test_background_takes_no_codes_but_its_own(black):
    rng = np.random.default_rng(0)
    places = rng.normal(size=(200, 8))
    inputs = keras.Input((4096, 8))
    layer = EMAVectorQuantizer(64, seed=1)
    model = keras.Model(inputs, layer(inputs)["quantized"])
    model.compile(keras.optimizers.SGD(0.0))

    def batch():
        brain = places[rng.integers(0, 200, 4096)] + 0.2 * rng.normal(size=(4096, 8))
        background = 0.001 * rng.normal(size=(4096, 8))
        return np.where(rng.random((4096, 1)) < black, background, brain).astype("float32")[None]

    def codes_used():
        # Some codes are of few vectors: over an epoch, as `codes_used` counts.
        return len(set(np.concatenate([array(layer(batch())["codes"])[0] for _ in range(10)])))

    model.train_on_batch(batch())
    assert codes_used() == 64
    for _ in range(60):
        model.train_on_batch(batch())
    assert codes_used() == 64
    # Background has a code or two, and no more than that.
    assert np.sum(np.linalg.norm(array(layer.codebook), axis=-1) < 0.1) <= 2
