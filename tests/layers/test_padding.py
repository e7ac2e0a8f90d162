"""Padding, wrong channels, and quantisers in a `Sequential`."""

import keras
import numpy as np
import pytest

from brainvq.layers import (
    BottleneckChain,
    EMAVectorQuantizer,
    FiniteScalarQuantizer,
    GaussianSampling,
    GroupedQuantizer,
    GumbelQuantizer,
    LatentNoise,
    LookupFreeQuantizer,
    MultiHeadQuantizer,
    ProbabilisticSOM,
    ProjectedQuantizer,
    ResidualQuantizer,
    SimVQ,
    SOMQuantizer,
    TorusQuantizer,
    VectorQuantizer,
)
from brainvq.layers.quantizer import far_rows
from brainvq.models import Autoencoder
from tests.layers.oracles import array, tensors

DIM = 4
KINDS = {
    "vq": lambda **o: VectorQuantizer(6, initializer="random_normal", **o),
    "ema": lambda **o: EMAVectorQuantizer(6, initialization="random", seed=1, **o),
    "cosine": lambda **o: EMAVectorQuantizer(
        6, initialization="random", distance="cosine", revival_threshold=0, seed=1, **o
    ),
    "som": lambda **o: SOMQuantizer((2, 3), initializer="random_normal", **o),
    "psom": lambda **o: ProbabilisticSOM((2, 3), initializer="random_normal", **o),
    "torus": lambda **o: TorusQuantizer((2, 3), **o),
    "fsq": lambda **o: FiniteScalarQuantizer((3, 3, 4, 5), **o),
    "losses": lambda **o: VectorQuantizer(
        6, entropy_weight=1.0, orthogonality_weight=1.0, revival_threshold=0.03, seed=1, **o
    ),
    "simvq": lambda **o: SimVQ(6, seed=1, **o),
    "lfq": lambda **o: LookupFreeQuantizer(DIM, **o),
    "bsq": lambda **o: LookupFreeQuantizer(DIM, True, **o),
    "groups": lambda **o: GroupedQuantizer([VectorQuantizer(6), SimVQ(6)], **o),
    "heads": lambda **o: MultiHeadQuantizer(
        EMAVectorQuantizer(3, initialization="random", seed=1), 2, **o
    ),
    "projected": lambda **o: ProjectedQuantizer(LookupFreeQuantizer(3), 3, **o),
    "shared": lambda **o: ResidualQuantizer(
        [EMAVectorQuantizer(6, initialization="random", seed=2)], repeats=3, **o
    ),
    "gumbel": lambda **o: GumbelQuantizer(6, seed=1, **o),
    "chain": lambda **o: BottleneckChain([LatentNoise(0.0), VectorQuantizer(6)], **o),
    "residual": lambda **o: ResidualQuantizer(
        [SOMQuantizer((2, 3)), EMAVectorQuantizer(6, initialization="random", seed=2)], **o
    ),
}
# Layers whose parts other kinds test too.
ALIKE = ("simvq", "bsq", "groups", "projected")
every_kind = pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=pytest.mark.thorough if name in ALIKE else ())
        for name, make in KINDS.items()
    ],
)


def vectors(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def twins(make):
    """Two layers with the same weights."""
    layers = [make(), make()]
    for layer in layers:
        layer.build((None, None, DIM))
    layers[1].set_weights(layers[0].get_weights())
    return layers


@every_kind
def test_padding_counts_for_nothing(make):
    alone, padded = twins(make)
    x = vectors(1, 5, DIM)
    longer = np.full((1, 8, DIM), np.nan, "float32")
    longer[:, [0, 1, 3, 4, 6]] = x
    mask = ~np.isnan(longer[..., 0])
    training = make is not KINDS["gumbel"]  # whose noise goes by place
    expected, found = alone(x, training=training), padded(longer, training=training, mask=mask)
    for name, value in expected["losses"].items():
        np.testing.assert_allclose(array(found["losses"][name]), array(value), rtol=1e-4, atol=1e-6)
    for key in set(expected) - {"losses"}:
        values = array(found[key])[mask]
        np.testing.assert_allclose(values, array(expected[key])[0], rtol=1e-4, atol=1e-5)
    for old, new in zip(alone.get_weights(), padded.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)


def test_padding_has_no_share_in_the_divergence():
    alone, padded = twins(GaussianSampling)
    x = vectors(2, 3, DIM)
    longer, mask = np.concatenate([x, np.nan * x], axis=1), np.arange(6) < 3
    loss = padded(longer, mask=np.tile(mask, (2, 1)))["losses"]["kl_loss"]
    np.testing.assert_allclose(array(loss), array(alone(x)["losses"]["kl_loss"]), rtol=1e-5)


@pytest.mark.parametrize("start", ["data", "kmeans"])
def test_a_start_draws_no_padding_and_none_but_distinct_rows(start):
    layer = EMAVectorQuantizer(12, initialization=start, seed=1)
    places = vectors(12, DIM)
    x = np.concatenate([np.repeat(places[:1], 500, axis=0), places, np.full((40, DIM), 99.0)])
    layer(x.astype("float32"), training=True, mask=np.arange(len(x)) < 512)
    codebook = array(layer.codebook)
    apart = np.linalg.norm(places[:, None] - codebook, axis=-1)
    assert set(apart.argmin(axis=1)) == set(range(12))
    before = layer.get_weights()
    for nothing in ({"mask": np.zeros(len(x), bool)}, {}):
        layer(x[: 0 if not nothing else None].astype("float32"), training=True, **nothing)
        for old, new in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_far_rows_come_in_proportion_to_their_distances_and_never_from_codes():
    distances = np.array([0, 0, 3, 0, 1, 0], "float32")
    wanted = np.ones(4, bool)
    rows = array(far_rows(*tensors(distances, wanted, np.full(4, 0.5, "float32"))))
    np.testing.assert_array_equal(rows, [2, 2, 2, 4])


@every_kind
def test_empty_batches_are_no_step(make):
    layer, _ = twins(make)
    before = layer.get_weights()
    outputs = layer(vectors(0, 5, DIM), training=True)
    without_data = ("usage_loss", "orthogonality_loss")
    for name, value in outputs["losses"].items():
        assert array(value) == 0 or name in without_data
    if make is not KINDS["torus"]:
        for old, new in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


@every_kind
def test_fits_in_a_sequential_model(make, tmp_path):
    layer = make(tensor_only=True)
    assert layer.compute_output_shape((None, 5, DIM)) == (None, 5, DIM)
    assert not layer.built
    model = keras.Sequential([keras.layers.Masking(), layer, keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(vectors(2, 5, DIM), vectors(2, 5, 2), verbose=0)
    model(vectors(2, 5, DIM))
    assert bool(model.losses) == bool(layer.loss_names)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[1].tensor_only
    with pytest.raises(ValueError, match="`tensor_only` is for the outermost layer"):
        BottleneckChain([layer])


@every_kind
def test_shapes_are_told_and_wrong_channels_named(make):
    layer = make()
    shapes = layer.compute_output_shape((2, 5, DIM))
    outputs = layer(vectors(2, 5, DIM))
    found = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), outputs)
    assert shapes == found == layer.compute_output_shape((2, 5, DIM))
    masks = layer.compute_mask(vectors(2, 5, DIM), np.ones((2, 5), bool))
    keras.tree.assert_same_structure(masks, outputs)
    with pytest.raises(ValueError) as caught:
        layer(vectors(2, 5, DIM + 1))
    assert "axis -1 of input shape to have value 4" in str(caught.value).splitlines()[0]
    with pytest.raises(ValueError, match="last axis of the input of .* must be known"):
        make().build((None, 5, None))


def test_an_autoencoder_counts_no_codes_of_padding():
    encoder = keras.Sequential([keras.Input((6, DIM)), keras.layers.Masking()])
    decoder = keras.layers.Dense(DIM)  # one that hands masks on
    quantizer = VectorQuantizer(2)
    model = Autoencoder(encoder, quantizer, decoder)
    model.compile("sgd")
    x = np.ones((2, 6, DIM), "float32")
    x[:, 4:] = 0  # padding, and nearer to the other code
    model.build((None, 6, DIM))
    quantizer.set_codebook(np.stack([np.zeros(DIM), np.ones(DIM)]))
    logs = model.evaluate(x, return_dict=True, verbose=0)
    assert logs["codes_used"] == 1
    assert logs["perplexity"] == pytest.approx(1)
    assert logs["codebook_loss"] == 0
    with pytest.raises(ValueError, match="`tensor_only` is for the outermost layer"):
        Autoencoder(encoder, VectorQuantizer(2, tensor_only=True), decoder)
