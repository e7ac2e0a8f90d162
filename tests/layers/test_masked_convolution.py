import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from brainvq.layers.masked_convolution import (
    CausalConv,
    MaskedConv1D,
    MaskedConv2D,
    MaskedConv3D,
    raster_mask,
)
from tests.layers.layer_test import run_layer_test

# Keras hands its variables to NumPy 2 in a way that NumPy deprecates; it is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = {1: MaskedConv1D, 2: MaskedConv2D, 3: MaskedConv3D}
GRIDS = {1: (6,), 2: (4, 5), 3: (3, 4, 3)}


def influence(layer, grid):
    """Return a bool matrix: does output i (row) change with input j (column)?"""
    size = int(np.prod(grid))
    impulses = np.eye(size, dtype="float32").reshape(size, *grid, 1)
    # Kernels without a zero, so that what is visible is never silent by chance.
    layer.build(impulses.shape)
    layer.kernel.assign(np.random.default_rng(0).uniform(0.5, 1.5, layer.kernel.shape))
    outputs = ops.convert_to_numpy(layer(impulses)) - ops.convert_to_numpy(
        layer(np.zeros_like(impulses))
    )
    return (np.abs(outputs).max(-1) > 1e-4).reshape(size, size).T


def expected(grid, visible):
    positions = list(itertools.product(*map(range, grid)))
    return np.array([[visible(np.subtract(j, i)) for j in positions] for i in positions])


@pytest.mark.parametrize("mask_type", ["A", "B"])
@pytest.mark.parametrize(
    ("rank", "kernel_size"), [(1, 1), (1, 5), (2, 1), (2, 3), (2, 7), (2, (3, 5)), (3, 3), (3, 5)]
)
def test_masked_conv_sees_exactly_the_past(rank, kernel_size, mask_type):
    grid = GRIDS[rank]
    layer = CLASSES[rank](2, kernel_size, mask_type=mask_type)
    reach = np.broadcast_to(kernel_size, rank) // 2

    def visible(offset):
        earlier = tuple(offset) < (0,) * rank
        return (earlier or (mask_type == "B" and not offset.any())) and (abs(offset) <= reach).all()

    np.testing.assert_array_equal(influence(layer, grid), expected(grid, visible))


@pytest.mark.parametrize("current", [True, False])
@pytest.mark.parametrize(
    ("rank", "axis", "kernel_size"),
    [(1, 0, 3), (2, 0, 3), (2, 0, 7), (2, 1, 5), (3, 0, 3), (3, 1, 3), (3, 2, 5)],
)
def test_causal_conv_sees_exactly_its_part_of_the_past(rank, axis, kernel_size, current):
    grid = GRIDS[rank]
    layer = CausalConv(2, kernel_size, axis=axis, include_current=current)
    half = kernel_size // 2

    def visible(offset):
        return (
            not offset[:axis].any()
            and -half <= offset[axis] <= (0 if current else -1)
            and (abs(offset[axis + 1 :]) <= half).all()
        )

    np.testing.assert_array_equal(influence(layer, grid), expected(grid, visible))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3), st.sampled_from("AB"))
def test_raster_mask_counts(kernel_size, mask_type):
    mask = raster_mask(tuple(kernel_size), mask_type)
    assert mask.shape == tuple(kernel_size)
    assert mask.sum() == np.prod(kernel_size) // 2 + (mask_type == "B")
    assert mask[tuple(size // 2 for size in kernel_size)] == (mask_type == "B")
    # Together with its mirror image, mask A covers everything but the centre.
    if mask_type == "A":
        assert (mask + np.flip(mask)).sum() == np.prod(kernel_size) - 1


def test_mask_is_a_product_and_the_kernel_is_left_alone():
    layer = MaskedConv2D(1, 3, mask_type="A")
    layer.build((None, 4, 4, 1))
    layer.kernel.assign(np.ones(layer.kernel.shape))
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 1)).astype("float32")
    # By hand: the sum of the three above and the one on the left.
    padded = np.pad(x[0, :, :, 0], 1)
    sums = [[padded[i, j : j + 3].sum() + padded[i + 1, j] for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x))[0, :, :, 0], sums, rtol=1e-5)
    assert (ops.convert_to_numpy(layer.kernel) == 1).all()


@pytest.mark.parametrize(
    "layer",
    [MaskedConv2D(1, 3, padding_channel=True), CausalConv(1, 3, axis=1, padding_channel=True)],
)
def test_padding_channel_tells_the_border_from_zeros(layer):
    layer.build((None, 4, 4, 1))
    layer.kernel.assign(np.ones(layer.kernel.shape))
    outputs = ops.convert_to_numpy(layer(np.zeros((1, 4, 4, 1), "float32")))[0, :, :, 0]
    assert outputs[1, 0] < outputs[1, 1]  # the left column has padding on its left
    assert outputs[1, 1] == outputs[2, 2]


@pytest.mark.parametrize(
    ("cls", "kwargs", "rank"),
    [
        (MaskedConv1D, {"filters": 3, "kernel_size": (5,), "mask_type": "A"}, 1),
        (MaskedConv2D, {"filters": 3, "kernel_size": (3, 5), "activation": "relu"}, 2),
        (MaskedConv3D, {"filters": 2, "kernel_size": (3, 3, 3), "padding_channel": True}, 3),
        (CausalConv, {"filters": 2, "kernel_size": 3, "axis": 1, "use_bias": False}, 2),
    ],
)
def test_layer(cls, kwargs, rank, tmp_path):
    x = np.random.default_rng(0).normal(size=(2, *GRIDS[rank], 2)).astype("float32")
    run_layer_test(cls, kwargs, x, tmp_path=tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskedConv2D(2, 4), "kernel_size=4"),
        (lambda: MaskedConv3D(2, (3, 3)), r"kernel_size=\(3, 3\)"),
        (lambda: MaskedConv2D(2, 3, mask_type="C"), "mask_type=C"),
        (lambda: MaskedConv2D(0, 3), "filters=0"),
        (lambda: CausalConv(2, 1, include_current=False), "kernel_size=1"),
        (lambda: CausalConv(2, 3, axis=3), "axis=3"),
        (lambda: CausalConv(2, 3, axis=2).build((None, 4, 4, 1)), "axis=2"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=f"Received: {message}"):
        make()


def test_classes_are_registered():
    for cls in (*CLASSES.values(), CausalConv):
        name = f"brainvq>{cls.__name__}"
        assert keras.saving.get_registered_object(name) is cls
