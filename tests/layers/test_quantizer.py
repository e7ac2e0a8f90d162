import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from brainvq.backend import compile_function
from brainvq.layers import (
    EMAVectorQuantizer,
    GumbelQuantizer,
    ProbabilisticSOM,
    SOMQuantizer,
    TorusQuantizer,
    VectorQuantizer,
)
from brainvq.layers.quantizer import lloyd, nearest_codes, rotate, spread_rows, straight_through
from tests.layers.oracles import array, gradient, nearest, tensors, unit


# Few shapes: JAX compiles each one.
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(1, 2, 1), (9, 5, 3)]))
def test_nearest_codes_agree_with_explicit_distances(seed, sizes):
    n, num_codes, dim = sizes
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, dim)).astype("float32")
    codebook = rng.normal(size=(num_codes, dim)).astype("float32")
    codes = array(nearest_codes(*tensors(vectors, codebook)))
    # Rounding may swap codes at equal distance; the distance reached must be the smallest.
    reached = np.linalg.norm(vectors - codebook[codes], axis=-1)
    least = np.linalg.norm(vectors - codebook[nearest(vectors, codebook)], axis=-1)
    np.testing.assert_allclose(reached, least, rtol=1e-4, atol=1e-4)
    assert codes.dtype == np.int32


@pytest.mark.parametrize("rows", [1, 7, 50, 64])
def test_nearest_of_many_codes_is_the_first_of_all(monkeypatch, rows):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(50, 4)).astype("float32")
    codebook = rng.normal(size=(23, 4)).astype("float32")
    codebook[19] = codebook[2]  # in another chunk, at the same distance
    vectors[:5] = codebook[2]
    whole = array(nearest_codes(*tensors(vectors, codebook)))
    monkeypatch.setattr("brainvq.layers.quantizer.MOST_CODES", 8)
    monkeypatch.setattr("brainvq.layers.quantizer.CHUNK", 6)
    monkeypatch.setattr("brainvq.layers.quantizer.ROWS", rows)
    codes = array(nearest_codes(*tensors(vectors, codebook)))
    np.testing.assert_array_equal(codebook[codes], codebook[whole])
    assert (codes[:5] == 2).all()
    # As within a model, which knows no number of vectors beforehand, and of none at all.
    for count in (50, 31, 0):
        codes = compile_function(nearest_codes)(vectors[:count], codebook)
        np.testing.assert_array_equal(codebook[array(codes)], codebook[whole[:count]])


@pytest.mark.parametrize("offset", [0.0, 100.0, -3000.0])
def test_nearest_codes_are_right_far_from_zero(offset):
    rng = np.random.default_rng(5)
    vectors = (rng.normal(size=(2000, 8)) + offset).astype("float32")
    codebook = (rng.normal(size=(64, 8)) + offset).astype("float32")
    # The float32 numbers as they are, compared in float64.
    apart = np.linalg.norm(vectors[:, None].astype("float64") - codebook, axis=-1)
    wrong = array(nearest_codes(*tensors(vectors, codebook))) != np.argmin(apart, axis=1)
    two = np.sort(apart, axis=1)[:, :2]
    # None at all but where two codes are equally far to the last digits.
    assert not np.any(wrong & (two[:, 1] - two[:, 0] > 1e-5))
    assert np.mean(wrong) < 1e-3


def test_straight_through_passes_the_gradient_unchanged():
    rng = np.random.default_rng(1)
    z, q, g = rng.normal(size=(3, 5, 4)).astype("float32")
    np.testing.assert_allclose(array(straight_through(*tensors(z, q))), q, atol=1e-6)
    result = gradient(lambda t: ops.sum(ops.multiply(straight_through(t, *tensors(q)), g)), z)
    np.testing.assert_allclose(result, g, rtol=1e-6)


def rotation_matrix(z, q):
    """λR of the rotation trick, built by hand in float64: λR z = q."""
    z_hat, q_hat = unit(z.astype("float64")), unit(q.astype("float64"))
    r = unit(z_hat + q_hat)
    rotation = np.eye(len(z)) - 2 * np.outer(r, r) + 2 * np.outer(q_hat, z_hat)
    return np.linalg.norm(q) / np.linalg.norm(z) * rotation


def test_rotation_turns_the_gradient_as_it_turns_the_vector():
    rng = np.random.default_rng(2)
    z, q, g = rng.normal(size=(3, 6, 4)).astype("float32")
    np.testing.assert_array_equal(array(rotate(*tensors(z, q))), q)
    result = gradient(lambda t: ops.sum(ops.multiply(rotate(t, *tensors(q)), g)), z)
    for i in range(len(z)):
        matrix = rotation_matrix(z[i], q[i])
        np.testing.assert_allclose(matrix @ z[i], q[i], rtol=1e-5, atol=1e-6)
        scale = np.linalg.norm(q[i]) / np.linalg.norm(z[i])
        np.testing.assert_allclose(matrix @ matrix.T, scale**2 * np.eye(4), atol=1e-5 * scale**2)
        np.testing.assert_allclose(result[i], matrix.T @ g[i], rtol=1e-3, atol=1e-4)


def test_rotation_keeps_the_angle_between_gradient_and_vector():
    rng = np.random.default_rng(3)
    z, q = rng.normal(size=(2, 8, 5)).astype("float32")
    # A gradient along q at the output lies along z at the input.
    result = gradient(lambda t: ops.sum(ops.multiply(rotate(t, *tensors(q)), q)), z)
    np.testing.assert_allclose(np.sum(unit(result) * unit(z), axis=-1), 1.0, atol=1e-5)


@pytest.mark.parametrize("case", ["zero_input", "zero_code", "opposite"])
def test_rotation_falls_back_where_it_is_not_defined(case):
    z = np.array([[1.0, 2.0, -1.0]], "float32")
    q = {"zero_input": z, "zero_code": 0 * z, "opposite": -2 * z}[case]
    z = 0 * z if case == "zero_input" else z
    g = np.array([[0.3, -0.2, 0.7]], "float32")
    np.testing.assert_array_equal(array(rotate(*tensors(z, q))), q)
    np.testing.assert_allclose(
        gradient(lambda t: ops.sum(ops.multiply(rotate(t, *tensors(q)), g)), z), g, rtol=1e-6
    )


def test_spread_rows_take_a_vector_from_every_far_cluster():
    rng = np.random.default_rng(4)
    places = np.array([[0, 0], [100, 0], [0, 100], [100, 100], [50, 300]], "float32")
    # The first cluster holds nine in ten of the vectors, as background does in images.
    which = np.concatenate([np.zeros(180, int), np.repeat([1, 2, 3, 4], 5)])
    vectors = (places[which] + rng.normal(size=(200, 2)) * 0.1).astype("float32")
    for seed in range(5):
        rng = np.random.default_rng(seed)
        order = rng.permutation(200).astype("int32")
        rows = array(spread_rows(*tensors(vectors, order, rng.random(5, "float32")), 5)[0])
        assert sorted(nearest(rows, places)) == [0, 1, 2, 3, 4]


def test_of_very_many_rows_the_last_repeat_the_first(monkeypatch):
    vectors = np.arange(9, dtype="float32")[:, None]
    given = tensors(vectors, np.arange(9, dtype="int32"), np.full(11, 0.5, "float32"))
    monkeypatch.setattr("brainvq.layers.quantizer.MOST_DRAWN", 4)
    first, repeat = map(array, spread_rows(*given, 4))
    assert not repeat.any()
    rows, repeat = map(array, spread_rows(*given, 11))
    np.testing.assert_array_equal(rows, first[[0, 1, 2, 3, 2, 2, 3, 3, 2, 2, 2]])
    np.testing.assert_array_equal(repeat, np.arange(11) >= 4)


def test_lloyd_reaches_the_means_and_leaves_empty_centres_in_place():
    vectors = np.array([[0, 0], [0, 2], [10, 0], [10, 2]], "float32")
    start = np.array([[1, 1], [8, 1], [500, 500]], "float32")
    centres = array(lloyd(*tensors(vectors, start), 3))
    np.testing.assert_allclose(centres, [[0, 1], [10, 1], [500, 500]], atol=1e-5)


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: EMAVectorQuantizer(8, seed=1),
        lambda: EMAVectorQuantizer(8, distance="cosine", initialization="random", seed=1),
        lambda: VectorQuantizer(8),
        lambda: SOMQuantizer((2, 4)),
        lambda: ProbabilisticSOM((2, 4)),
        lambda: ProbabilisticSOM((2, 4), quantize=True),
        lambda: TorusQuantizer((2, 4)),
        lambda: GumbelQuantizer(8, seed=1),
    ],
    ids=["ema", "cosine", "vq", "som", "psom", "hard", "torus", "gumbel"],
)
def test_a_step_that_is_not_finite_leaves_the_codebook_as_it_is(make, compiled, bad, caplog):
    layer = make()
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, layer(inputs)["quantized"])
    model.compile(keras.optimizers.SGD(0.1), loss="mse", run_eagerly=False)
    x = np.random.default_rng(0).normal(size=(4, 6, 4)).astype("float32")
    spoiled = x.copy()
    spoiled[1, 2, 3] = bad
    start = array(layer.embedding) + 0
    for data, changes in ((spoiled, False), (x, True), (spoiled, False), (x, True)):
        before = [array(weight) + 0 for weight in layer._non_trainable_variables]
        start = array(layer.embedding) + 0
        if compiled:
            loss = model.fit(data, x, verbose=0).history["loss"][0]
            assert np.isfinite(loss) == changes
        elif layer.trainable_weights and not isinstance(layer, TorusQuantizer):
            return  # the optimiser moves it
        else:
            layer(data, training=True)
            assert bool(caplog.records) != changes
            caplog.clear()
        assert np.isfinite(array(layer.embedding)).all()
        assert np.any(array(layer.embedding) != start) == changes
        if not changes:
            for old, weight in zip(before, layer._non_trainable_variables, strict=True):
                np.testing.assert_array_equal(old, array(weight))
        if isinstance(layer, TorusQuantizer):  # the encoder's part is not the codebook
            layer.coordinates.set_weights([np.eye(4, dtype="float32"), np.zeros(4, "float32")])
