import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from brainvq.layers import (
    BottleneckChain,
    EMAVectorQuantizer,
    FiniteScalarQuantizer,
    GaussianSampling,
    GumbelQuantizer,
    Identity,
    ProbabilisticSOM,
    ResidualQuantizer,
    SOMQuantizer,
    TorusQuantizer,
    VectorQuantizer,
)
from brainvq.models import Autoencoder
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, gradient, nearest, unit

RNG = np.random.default_rng(0)
GRIDS = {"1d": (3,), "2d": (3, 2), "3d": (2, 1, 3)}
# Twelve codes each, of vectors of four numbers or, for FSQ, two.
STAGES = {
    "vector": lambda: VectorQuantizer(12, initializer="glorot_uniform"),
    "rotation": lambda: VectorQuantizer(12, gradient="rotation"),
    "ema": lambda: EMAVectorQuantizer(12, seed=1),
    "som": lambda: SOMQuantizer((3, 4)),
    "psom": lambda: ProbabilisticSOM((3, 4), quantize=True),
}
FIRST = {
    "cosine": lambda: VectorQuantizer(12, distance="cosine"),
    "torus": lambda: TorusQuantizer((3, 4)),
    "fsq": lambda: FiniteScalarQuantizer((4, 3)),
}


def images(dim=4, grid=(3, 2), n=3):
    return RNG.normal(size=(n, *grid, dim)).astype("float32")


def make(x, depth=3, **options):
    """Stages of known codebooks, each finer than the one before."""
    layer = ResidualQuantizer([VectorQuantizer(6, beta=0.5) for _ in range(depth)], **options)
    layer.build(x.shape)
    codebooks = RNG.normal(size=(depth, 6, x.shape[-1])) * 0.5 ** np.arange(depth)[:, None, None]
    layer.set_codebook(codebooks.astype("float32"))
    return layer, codebooks.astype("float32")


def stages_by_hand(x, codebooks):
    """Codes `(..., depth)`, and the partial sums of what they stand for."""
    remainder, total, codes, sums = x, np.zeros_like(x), [], []
    for codebook in codebooks:
        codes.append(nearest(remainder, codebook))
        total = total + codebook[codes[-1]]
        remainder = x - total
        sums.append(total)
    return np.stack(codes, axis=-1), sums


@pytest.mark.parametrize("gradient_of", ["straight_through", "rotation"])
def test_keeps_the_shared_contract(tmp_path, gradient_of):
    quantizers = [EMAVectorQuantizer(6, seed=1), VectorQuantizer(6), SOMQuantizer((2, 3))]
    kwargs = {"quantizers": quantizers, "dropout": 0.5, "gradient": gradient_of, "seed": 3}
    options = {"output_key": "quantized", "own_dtype": "float32", "tmp_path": tmp_path}
    layer = run_layer_test(ResidualQuantizer, kwargs, images(), **options)
    assert layer.depth == 3
    assert layer.num_codes == 6
    assert layer.loss_names == ("commitment_loss", "codebook_loss", "neighbourhood_loss")
    assert tuple(layer.codebook.shape) == (3, 6, 4)
    assert keras.saving.get_registered_name(ResidualQuantizer) == "brainvq>ResidualQuantizer"


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("depth", [1, 3])
def test_codes_values_and_losses_equal_numpy(grid, depth):
    x = images(grid=grid)
    layer, codebooks = make(x, depth)
    outputs = keras.tree.map_structure(array, layer(x))
    codes, sums = stages_by_hand(x, codebooks)
    assert outputs["codes"].shape == (3, *grid, depth)
    assert outputs["codes"].dtype == np.int32
    np.testing.assert_array_equal(outputs["codes"], codes)
    np.testing.assert_allclose(outputs["quantized"], sums[-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outputs["continuous"], x)
    errors = [np.mean((x - total) ** 2) for total in sums]
    np.testing.assert_allclose(outputs["losses"]["codebook_loss"], sum(errors), rtol=1e-4)
    np.testing.assert_allclose(outputs["losses"]["commitment_loss"], 0.5 * sum(errors), rtol=1e-4)
    # Each stage adds its own losses once; nothing adds them again.
    np.testing.assert_allclose(sum(map(array, layer.losses)), 1.5 * sum(errors), rtol=1e-4)
    for stages in range(1, depth + 1):
        looked_up = array(layer.codes_to_vectors(codes[..., :stages]))
        np.testing.assert_allclose(looked_up, sums[stages - 1], rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_each_remainder_is_what_its_stage_quantises_best(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 5, 3)).astype("float32")
    layer = ResidualQuantizer([VectorQuantizer(4) for _ in range(3)])
    layer.build(x.shape)
    codebooks = rng.normal(size=(3, 4, 3)).astype("float32")
    codebooks[:, 0] = 0  # with a zero in each codebook no stage can make things worse
    layer.set_codebook(codebooks)
    codes = array(layer(x)["codes"])
    errors = [
        np.square(x - array(layer.codes_to_vectors(codes[..., :i]))).sum(-1) for i in (1, 2, 3)
    ]
    assert (errors[1] <= errors[0] + 1e-4).all()
    assert (errors[2] <= errors[1] + 1e-4).all()


def test_gradients_reach_the_input_once_and_through_every_commitment():
    x = images()
    layer, codebooks = make(x)
    pull = RNG.normal(size=x.shape).astype("float32")
    result = gradient(lambda z: ops.sum(ops.multiply(layer(z)["quantized"], pull)), x)
    np.testing.assert_allclose(result, pull, rtol=1e-5)
    _, sums = stages_by_hand(x, codebooks)
    result = gradient(lambda z: layer(z)["losses"]["commitment_loss"], x)
    expected = sum(0.5 * 2 * (x - total) / x.size for total in sums)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-6)
    # And the codebook of a stage moves by the remainders of its own alone.
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs)["quantized"])
    model.compile(keras.optimizers.SGD(1.0), loss=None)
    model.fit(x, batch_size=len(x), verbose=0)
    codes, sums = stages_by_hand(x, codebooks)
    for stage, codebook in enumerate(codebooks):
        expected = codebook.copy()
        np.add.at(expected, codes[..., stage], 2 * (x - sums[stage]) / x.size)
        np.testing.assert_allclose(array(layer.codebook)[stage], expected, rtol=1e-3, atol=1e-5)


def test_the_rotation_trick_turns_the_gradient_of_the_sum():
    x = images()
    layer, codebooks = make(x, gradient="rotation")
    _, sums = stages_by_hand(x, codebooks)
    pull = RNG.normal(size=x.shape).astype("float32")
    result = gradient(lambda z: ops.sum(ops.multiply(layer(z)["quantized"], pull)), x)
    # A rotation keeps lengths but for the scale |q|/|z|.
    scale = np.linalg.norm(sums[-1], axis=-1) / np.linalg.norm(x, axis=-1)
    lengths = np.linalg.norm(result, axis=-1)
    np.testing.assert_allclose(lengths, scale * np.linalg.norm(pull, axis=-1), rtol=1e-3)


@pytest.mark.parametrize("name", [*STAGES, *FIRST])
def test_every_quantiser_works_as_a_stage(name, tmp_path):
    kinds = {**STAGES, **FIRST}
    then = STAGES["ema"] if name in FIRST else kinds[name]
    x = images(dim=2 if name == "fsq" else 4)
    inputs = keras.Input(x.shape[1:])
    layer = ResidualQuantizer([kinds[name](), then()])
    outputs = layer(keras.layers.Dense(x.shape[-1])(inputs))
    model = keras.Model(inputs, [outputs["quantized"], outputs["codes"]])
    model.compile("adam", loss=["mse", None])
    losses = model.fit(x, x, epochs=2, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    quantized, codes = model.predict(x, verbose=0)
    assert codes.shape == (3, 3, 2, 2)
    assert codes.min() >= 0
    assert codes.max() < 12
    np.testing.assert_allclose(array(layer.codes_to_vectors(codes)), quantized, atol=1e-4)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").predict(x, verbose=0)
    np.testing.assert_array_equal(again[1], codes)
    np.testing.assert_allclose(again[0], quantized, atol=1e-5)


@pytest.mark.parametrize("name", FIRST)
def test_after_a_first_stage_that_moves_its_input_the_sum_approaches_what_it_made(name):
    x = images(dim=2 if name == "fsq" else 4)
    first, second = FIRST[name](), STAGES["vector"]()
    layer = ResidualQuantizer([first, second])
    layer.build(x.shape)
    v = array(first(x)["continuous"])
    remainder = v - array(first(x)["quantized"])
    # As many codes as remainders: the second stage has each of them.
    second.set_codebook(np.resize(remainder.reshape(-1, x.shape[-1])[:12], (12, x.shape[-1])))
    outputs = keras.tree.map_structure(array, layer(x))
    np.testing.assert_allclose(outputs["continuous"], v, atol=1e-6)
    known = outputs["quantized"].reshape(-1, x.shape[-1])[:12]
    np.testing.assert_allclose(known, v.reshape(-1, x.shape[-1])[:12], atol=1e-5)
    if name == "cosine":
        np.testing.assert_allclose(v, unit(x), rtol=1e-4)


def test_the_error_falls_with_depth_after_a_few_steps():
    x = RNG.normal(size=(4, 50, 4)).astype("float32")
    layer = ResidualQuantizer([EMAVectorQuantizer(8, decay=0.8, seed=i) for i in range(4)])
    for _ in range(20):
        layer(x, training=True)
    codes = layer(x)["codes"]
    errors = [
        np.mean((x - array(layer.codes_to_vectors(codes[..., :i]))) ** 2) for i in (1, 2, 3, 4)
    ]
    assert (np.diff(errors) < 0).all()
    # The vectors have variance 1. Three bits per stage for four numbers leave at best a share of
    # 2^(−2 · 3/4) = 0.35 of the error before it.
    assert errors[0] < 0.7
    assert errors[3] < 0.25 * errors[0]


def test_dropout_decodes_some_images_from_their_first_stages():
    x = images(n=600, grid=(2,))
    layer, codebooks = make(x, dropout=0.75, seed=2)
    _, sums = stages_by_hand(x, codebooks)
    outputs = layer(x, training=True)
    quantized = array(outputs["quantized"])
    fits = [np.abs(quantized - total).max(axis=(1, 2)) < 1e-4 for total in sums]
    np.testing.assert_array_equal(np.sum(fits, axis=0), 1)  # an image as a whole, not by cells
    # n is uniform in 1 … 3 three times of four; the standard errors are 0.02.
    np.testing.assert_allclose(np.mean(fits, axis=1), [0.25, 0.25, 0.5], atol=0.07)
    assert tuple(outputs["codes"].shape) == (600, 2, 3)
    again = array(layer(x, training=True)["quantized"])
    assert np.abs(again - quantized).max() > 0.01
    still = array(layer(x, training=False)["quantized"])
    np.testing.assert_allclose(still, sums[-1], atol=1e-4)


def test_a_chain_passes_depth_and_codes_on():
    x = images()
    chain = BottleneckChain([GaussianSampling(seed=0), make(x)[0]])
    outputs = chain(x)
    assert chain.depth == 3
    assert tuple(outputs["codes"].shape) == (3, 3, 2, 3)
    assert tuple(chain.codes_to_vectors(outputs["codes"]).shape) == x.shape
    assert Identity().depth is None
    assert VectorQuantizer(4).depth is None


def two(first, second=None):
    return ResidualQuantizer([first, second or VectorQuantizer(12)])


@pytest.mark.parametrize(
    ("make_layer", "message"),
    [
        (lambda: ResidualQuantizer([]), "one or more quantisers"),
        (lambda: two(Identity()), "one or more quantisers"),
        (lambda: two(GumbelQuantizer(12)), "one or more quantisers"),
        (lambda: two(two(VectorQuantizer(12))), "one or more quantisers"),
        (lambda: two(BottleneckChain([VectorQuantizer(12)])), "one or more quantisers"),
        (lambda: ResidualQuantizer([VectorQuantizer(4)] * 2), "must be different layers"),
        (lambda: two(VectorQuantizer(5)), r"Received: \[5, 12\]"),
        (lambda: two(ProbabilisticSOM((3, 4))), "unless `quantize=True`"),
        (lambda: two(VectorQuantizer(12), TorusQuantizer((3, 4))), "After the first"),
        (lambda: two(VectorQuantizer(12), FiniteScalarQuantizer((4, 3))), "After the first"),
        (lambda: two(VectorQuantizer(12), FIRST["cosine"]()), "After the first"),
        (lambda: ResidualQuantizer([VectorQuantizer(4)], dropout=2), "Received: dropout=2"),
        (lambda: ResidualQuantizer([VectorQuantizer(4)], gradient="no"), "Received: gradient=no"),
    ],
)
def test_wrong_arguments_are_named(make_layer, message):
    with pytest.raises(ValueError, match=message):
        make_layer()


def test_wrong_codes_and_codebooks_are_named():
    x = images()
    layer, codebooks = make(x)
    for stages in (0, 4):
        with pytest.raises(ValueError, match="codes of 1 to 3 stages. Received: "):
            layer.codes_to_vectors(np.zeros((1, 2, stages), "int32"))
    with pytest.raises(ValueError, match="has 3 stages. Received: 2 codebooks"):
        layer.set_codebook(codebooks[:2])
    with pytest.raises(ValueError, match=r"\(6, 4\).*Received: vectors.shape=\(6, 3\)"):
        layer.set_codebook(codebooks[..., :3])
    fixed = two(FiniteScalarQuantizer((4, 3)))
    fixed.build((None, 2))
    with pytest.raises(ValueError, match="follow from its arguments"):
        fixed.set_codebook(np.zeros((2, 12, 2), "float32"))


def beam_layer(beam, stages=3, codes=5, dim=4):
    layer = ResidualQuantizer([VectorQuantizer(codes) for _ in range(stages)], beam=beam)
    layer.build((None, 2, dim))
    rng = np.random.default_rng(7)
    books = rng.normal(size=(stages, codes, dim)) * np.array([1.0, 0.7, 0.4])[:, None, None]
    layer.set_codebook(books.astype("float32"))
    return layer, books


def test_a_full_beam_finds_the_nearest_of_all_sums():
    layer, books = beam_layer(beam=125)
    z = np.random.default_rng(8).normal(size=(6, 2, 4)).astype("float32")
    outputs = layer(z, training=False)
    sums = books[0][:, None, None] + books[1][None, :, None] + books[2][None, None]
    apart = np.square(z[..., None, None, None, :] - sums).sum(-1).reshape(6, 2, -1)
    expected = np.stack(np.unravel_index(apart.argmin(-1), (5, 5, 5)), axis=-1)
    np.testing.assert_array_equal(array(outputs["codes"]), expected)
    np.testing.assert_allclose(
        array(outputs["quantized"]),
        array(layer.codes_to_vectors(outputs["codes"])),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_wider_beam_is_never_farther_and_training_takes_nearest_codes():
    z = np.random.default_rng(9).normal(size=(40, 2, 4)).astype("float32")
    far = []
    for beam in (1, 2, 8, 125):
        layer, _ = beam_layer(beam)
        quantized = array(layer(z, training=False)["quantized"])
        far.append(np.square(quantized - z).mean())
        trained = array(layer(z, training=True)["codes"])
        np.testing.assert_array_equal(trained, array(beam_layer(1)[0](z)["codes"]))
    assert far[0] > far[1] > far[3]
    assert far[2] >= far[3]


def test_a_beam_needs_stages_that_do_not_move_their_input():
    with pytest.raises(ValueError, match="moves its input"):
        ResidualQuantizer([TorusQuantizer((2, 2)), EMAVectorQuantizer(4)], beam=2)
    with pytest.raises(ValueError, match="at least 1"):
        ResidualQuantizer([EMAVectorQuantizer(4)], beam=0)


def test_a_beam_that_is_set_later_counts_in_all_compiled_inference():
    layer, _ = beam_layer(1)
    model = Autoencoder(keras.layers.Dense(4), layer, keras.layers.Dense(4))
    model.compile("sgd")
    x = RNG.normal(size=(32, 6, 4)).astype("float32")

    def results():
        measured = model.evaluate(x, verbose=0, return_dict=True)["perplexity"]
        return model.codes(x), model.predict(x, verbose=0)["codes"], measured

    nearest_codes = results()
    layer.beam = 125
    z = model.encode(x)
    expected = array(layer(z)["codes"])
    codes, predicted, measured = results()
    assert np.any(codes != nearest_codes[0])
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(predicted, expected)
    assert measured != nearest_codes[2]
    layer.beam = 1
    np.testing.assert_array_equal(results()[1], nearest_codes[1])
    with pytest.raises(ValueError, match="Received: beam=0"):
        layer.beam = 0


def test_a_shared_codebook_serves_every_stage():
    layer = ResidualQuantizer([VectorQuantizer(6)], repeats=3, beam=1)
    layer.build((None, 4))
    places = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    layer.set_codebook(places[None])
    assert (layer.depth, len(layer.weights), len(layer.stages())) == (3, 1, 3)
    np.testing.assert_allclose(array(layer.codebook), np.stack([places] * 3))
    left = z = np.random.default_rng(1).normal(size=(7, 4)).astype("float32")
    outputs, codes = layer(z), []
    for _ in range(3):
        codes.append(nearest(left, places))
        left = left - places[codes[-1]]
    np.testing.assert_array_equal(array(outputs["codes"]), np.stack(codes, axis=-1))
    np.testing.assert_allclose(array(outputs["quantized"]), z - left, atol=1e-5)
    for quantizers in ([VectorQuantizer(6, distance="cosine")], [VectorQuantizer(4)] * 2):
        with pytest.raises(ValueError, match="what they get as it is|`repeats` shares"):
            ResidualQuantizer(quantizers, repeats=2)
