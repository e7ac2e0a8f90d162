import keras
import numpy as np
import pytest

from brainvq.layers import (
    EMAVectorQuantizer,
    FiniteScalarQuantizer,
    GroupedQuantizer,
    LookupFreeQuantizer,
    MultiHeadQuantizer,
    ProjectedQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array, nearest

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 2, 6)).astype("float32")
OPTIONS = {"output_key": "quantized", "own_dtype": "float32"}


def vq(**options):
    return VectorQuantizer(5, initializer=keras.initializers.RandomNormal(seed=1), **options)


def test_groups_keep_the_shared_contract(tmp_path):
    parts = [vq(), EMAVectorQuantizer(5, seed=0)]
    run_layer_test(GroupedQuantizer, {"quantizers": parts}, X, tmp_path=tmp_path, **OPTIONS)


@pytest.mark.thorough
def test_heads_do_what_the_shared_test_asks(tmp_path):
    config = {"quantizer": vq(), "heads": 3}
    run_layer_test(MultiHeadQuantizer, config, X, tmp_path=tmp_path, **OPTIONS)


def test_a_projection_does_what_the_shared_test_asks(tmp_path):
    config = {"quantizer": FiniteScalarQuantizer((5, 4, 3)), "inner_dim": 3}
    run_layer_test(ProjectedQuantizer, config, X, tmp_path=tmp_path, **OPTIONS)


@pytest.mark.parametrize("shared", [False, True])
def test_each_part_takes_its_nearest_code_as_numpy_does(shared):
    if shared:
        layer, books = MultiHeadQuantizer(vq(), 3), [RNG.normal(size=(5, 2))] * 3
    else:
        layer, books = GroupedQuantizer([vq() for _ in range(3)]), RNG.normal(size=(3, 5, 2))
    layer.build(X.shape)
    layer.set_codebook(books[0] if shared else books)
    outputs = keras.tree.map_structure(array, layer(X))
    parts = X.reshape(2, 3, 2, 3, 2)
    codes = np.stack([nearest(parts[..., i, :], books[i]) for i in range(3)], axis=-1)
    np.testing.assert_array_equal(outputs["codes"], codes)
    rows = np.stack([np.asarray(books[i])[codes[..., i]] for i in range(3)], axis=-2)
    np.testing.assert_allclose(outputs["quantized"], rows.reshape(X.shape), rtol=1e-5)
    errors = np.square(parts - rows).mean(axis=(0, 1, 2, 4))
    expected = errors.mean() if shared else errors.sum()  # one quantiser's mean, or three losses
    np.testing.assert_allclose(outputs["losses"]["codebook_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(sum(map(array, layer.losses)), 1.25 * expected, rtol=1e-5)
    assert (layer.depth, layer.num_codes) == (3, 5)
    # The vector of a cell is the sum of the rows of its codes, and of the first ones alone.
    codebook = array(layer.codebook)
    total = sum(codebook[i][codes[..., i]] for i in range(3))
    np.testing.assert_allclose(total, outputs["quantized"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array(layer.codes_to_vectors(codes)), total, rtol=1e-5, atol=1e-6)
    first = array(layer.codes_to_vectors(codes[..., :1]))
    np.testing.assert_allclose(first, codebook[0][codes[..., 0]], rtol=1e-5, atol=1e-6)


def test_a_projection_quantises_among_its_channels_as_numpy_does():
    layer = ProjectedQuantizer(LookupFreeQuantizer(3), 3)
    layer.build(X.shape)
    outputs = keras.tree.map_structure(array, layer(X))
    kernel, bias = (array(w) for w in layer.project_in.weights)
    (back,) = (array(w) for w in layer.project_out.weights)
    bits = X @ kernel + bias > 0
    np.testing.assert_array_equal(outputs["codes"], bits @ [1, 2, 4])
    np.testing.assert_allclose(outputs["quantized"], np.where(bits, 1, -1) @ back, atol=1e-5)
    np.testing.assert_allclose(
        array(layer.codebook)[outputs["codes"]], outputs["quantized"], atol=1e-5
    )
    looked_up = array(layer.codes_to_vectors(outputs["codes"]))
    np.testing.assert_allclose(looked_up, outputs["quantized"], atol=1e-5)


def test_wrong_arguments_are_named():
    one = vq()
    for make, message in (
        (lambda: GroupedQuantizer([one, one]), "different layers"),
        (lambda: GroupedQuantizer([]), "one or more"),
        (lambda: GroupedQuantizer([vq(), VectorQuantizer(4)]), "equal numbers of codes"),
        (lambda: GroupedQuantizer([ResidualQuantizer([vq()])]), "must have one code"),
        (lambda: GroupedQuantizer([keras.layers.ReLU()]), "a bottleneck with codes"),
        (lambda: MultiHeadQuantizer(one, 0), "`heads` must be"),
        (lambda: MultiHeadQuantizer(one, 4).build((None, 6)), "a multiple of 4 channels"),
        (lambda: ProjectedQuantizer(vq(tensor_only=True), 3), "outermost layer"),
        (lambda: ProjectedQuantizer(one, 2.5), "`inner_dim` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    layer = GroupedQuantizer([vq(), vq()])
    layer.build(X.shape)
    with pytest.raises(ValueError, match="1 to 2 parts"):
        layer.codes_to_vectors(np.zeros((1, 2, 3), "int32"))
    with pytest.raises(ValueError, match="2 groups. Received: 1"):
        layer.set_codebook(np.zeros((1, 5, 3)))
