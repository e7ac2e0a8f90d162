"""What every public class and network is given: what does not fit is refused, by name."""

import inspect
import math

import keras
import numpy as np
import pytest

from brainvq import layers, models
from brainvq.models import bundle_networks, pixelcnn_blocks

IMAGE, GRID, LINES = (16, 16, 1), (4, 4, 8), (16, 16, 3)
SMALL = {"filters": (2,), "dense_units": (3,), "latent_size": 4, "groups": 1}


def parts(bottleneck):
    return {
        "encoder": models.conv_encoder((8, 8, 1), (2,), 2, 4),
        "bottleneck": bottleneck,
        "decoder": models.conv_decoder((4, 4, 4), (2,), 2),
    }


def image_classifier():
    stem = models.PixelStem(2, 3, 2)
    return {"front": stem, "head": models.CodeClassifier(2, filters=(2,))}


def transformed():
    return {
        "encoder": models.transform_encoder((8, 8, 1), 4, 5),
        "bottleneck": layers.EntropyQuantizer(5),
        "decoder": models.transform_decoder((2, 2, 5), 4, (2,)),
    }


# All that is public, and the layers that its models are made of: arguments that fit, or a function
# of none that returns them. Then the shape of an input, where there is one.
FITTING = {
    layers.AddVolume: ({}, GRID),
    layers.BlockFold: ({"block": 2}, None),
    layers.BottleneckChain: (lambda: {"bottlenecks": [layers.VectorQuantizer(4)]}, GRID),
    layers.CausalConv: ({"filters": 4, "kernel_size": 3}, GRID),
    layers.DepthToSpace: ({}, None),
    layers.EMAVectorQuantizer: ({"num_codes": 4}, GRID),
    layers.EntropyQuantizer: ({"channels": 8}, GRID),
    layers.FiniteScalarQuantizer: ({"levels": (3,) * 8}, GRID),
    layers.GaussianSampling: ({}, GRID),
    layers.GroupNorm: ({"groups": 2}, GRID),
    layers.GroupedQuantizer: (
        lambda: {"quantizers": [layers.VectorQuantizer(4) for _ in range(2)]},
        GRID,
    ),
    layers.GumbelQuantizer: ({"codebook_size": 4}, GRID),
    layers.Identity: ({}, None),
    layers.LatentNoise: ({"size": 0.1}, None),
    layers.LookupFreeQuantizer: ({"bits": 8}, GRID),
    layers.MaskedConv1D: ({"filters": 4, "kernel_size": 3}, (4, 8)),
    layers.MaskedConv2D: ({"filters": 4, "kernel_size": 3}, GRID),
    layers.MaskedConv3D: ({"filters": 4, "kernel_size": 3}, (2, 2, 2, 8)),
    layers.MultiHeadQuantizer: (
        lambda: {"quantizer": layers.VectorQuantizer(4), "heads": 2},
        GRID,
    ),
    layers.ProbabilisticSOM: ({"som_shape": (2, 2)}, GRID),
    layers.ProjectedQuantizer: (
        lambda: {"quantizer": layers.VectorQuantizer(4), "inner_dim": 3},
        GRID,
    ),
    layers.RemoveVolume: ({}, GRID),
    layers.ResidualQuantizer: (lambda: {"quantizers": [layers.VectorQuantizer(4)]}, GRID),
    layers.SOMGrid: ({"height": 2, "width": 2}, None),
    layers.SOMQuantizer: ({"som_shape": (2, 2)}, GRID),
    layers.SimVQ: ({"num_codes": 4}, GRID),
    layers.SoftClip: ({}, None),
    layers.SpaceToDepth: ({}, None),
    layers.TemplateVolume: ({}, GRID),
    layers.TorusQuantizer: ({"som_shape": (2, 2)}, GRID),
    layers.VectorQuantizer: ({"num_codes": 4}, GRID),
    models.Autoencoder: (lambda: parts(layers.Identity()), (8, 8, 1)),
    models.CodeClassifier: ({"num_classes": 2, "filters": (2,)}, GRID),
    models.CodeUsage: ({"num_codes": 4}, None),
    models.FrozenEncoder: (
        lambda: {k: v for k, v in parts(layers.Identity()).items() if k != "decoder"},
        (8, 8, 1),
    ),
    models.GaussianPlan: ({"shape": (2, 4, 4), "rank": 3}, (3,)),
    models.ImageClassifier: (image_classifier, (8, 8, 1)),
    models.IntroVAE: (
        lambda: {
            "encoder": models.intro_encoder((8, 8, 1), **SMALL),
            "decoder": models.intro_decoder((8, 8, 1), **SMALL),
        },
        (8, 8, 1),
    ),
    models.MosaicPrior: ({"people": 2, "vector_shape": (2, 2, 2, 4)}, None),
    models.PixelCNN: ({"grid_shape": (4, 4), "num_codes": 5, "filters": 4, "num_blocks": 1}, None),
    models.PixelStem: ({"stride": 2, "dim": 3}, (8, 8, 1)),
    models.ReconstructionLoss: ({}, None),
    models.SSIMLoss: ({}, None),
    models.VQVAETrainer: (lambda: parts(layers.VectorQuantizer(4)), (8, 8, 1)),
    models.WindowedTrainer: (transformed, (8, 8, 1)),
    models.bundle_decoder: ({"input_shape": GRID}, None),
    models.bundle_encoder: ({"input_shape": LINES}, None),
    models.conv_decoder: ({"input_shape": GRID}, None),
    models.conv_encoder: ({"input_shape": IMAGE}, None),
    models.intro_decoder: ({"output_shape": IMAGE}, None),
    models.intro_encoder: ({"input_shape": IMAGE}, None),
    models.pixel_classifier: ({"num_classes": 2, "stride": 2, "dim": 3}, None),
    models.residual_decoder: ({"input_shape": GRID}, None),
    models.residual_encoder: ({"input_shape": IMAGE}, None),
    models.streamline_decoder: ({"input_shape": (16, 1, 12)}, None),
    models.streamline_encoder: ({"input_shape": LINES}, None),
    models.strided_decoder: ({"input_shape": GRID, "norm": "group"}, None),
    models.strided_encoder: ({"input_shape": IMAGE, "norm": "group"}, None),
    models.transform_decoder: ({"input_shape": GRID, "filters": (2,)}, None),
    models.transform_encoder: ({"input_shape": IMAGE, "patch": 4}, None),
    bundle_networks.CosineBasis: ({"points": 4, "modes": 2}, None),
    bundle_networks.SetBlock: ({}, (4, 8)),
    pixelcnn_blocks.ContextProjection: ({"filters": 8}, GRID),
    pixelcnn_blocks.GatedBlock: ({"rank": 2, "filters": 4}, None),
    pixelcnn_blocks.PlainBlock: ({"rank": 2, "filters": 4}, None),
    pixelcnn_blocks.PlanNetwork: (
        {"grid_shape": (2, 2), "plan_shape": (4, 4, 3), "dim": 4, "filters": 4},
        (4, 4, 3),
    ),
}
# Base classes, and functions of models and of images.
OTHERS = {
    "Bottleneck",
    "pass_through",
    "set_components",
    "set_mean",
    "set_transform",
    "structural_similarity",
}
WRONG = (math.nan, math.inf, -1, "8", True, [1])


def given(make):
    arguments, _ = FITTING[make]
    return arguments() if callable(arguments) else dict(arguments)


def numbers_of(make):
    """Names of the arguments that are numbers, and values that do not fit."""
    for name, parameter in inspect.signature(make).parameters.items():
        kind = str(parameter.annotation)
        kind = kind.replace("<class '", "").replace("'>", "")
        wrong = WRONG if "float" in kind else (*WRONG, 8.5)
        wrong = wrong if "None" in kind else (*wrong, None)
        if kind == "tuple" or kind.startswith("tuple[int"):
            several = [(value, 2, 2) for value in wrong if value is not None]
            yield name, [*several, 8, "88", *wrong[6:]]
        elif kind == "int | tuple[int, ...]":
            yield name, [value for value in wrong if value != [1]]
        elif kind in ("int", "float", "int | None", "float | None"):
            yield name, wrong


def test_all_that_is_public_is_tried():
    public = {*layers.__all__, *models.__all__}
    assert public - {make.__name__ for make in FITTING} == OTHERS


@pytest.mark.parametrize("make", FITTING, ids=lambda make: make.__name__)
def test_numbers_are_checked(make):
    fitting = given(make)
    make(**fitting)
    for name, wrong in numbers_of(make):
        for value in wrong:
            with pytest.raises(ValueError, match=rf"`{name}` must .*Received: ") as caught:
                make(**{**fitting, name: value})
            assert "\n" not in str(caught.value), caught.value


@pytest.mark.parametrize(
    "make",
    [make for make, (_, shape) in FITTING.items() if shape],
    ids=lambda make: make.__name__,
)
def test_another_number_of_channels_is_refused_and_shapes_are_told(make):
    shape = FITTING[make][1]
    layer = make(**given(make))
    x = np.zeros((2, *shape), "float32")
    if make is pixelcnn_blocks.ContextProjection:
        layer.build(3)
        place = np.zeros((1, 4, 4, 3), "float32")
        assert layer(x, place).shape == x.shape
    else:
        told = layer.compute_output_shape(x.shape)
        outputs = layer(x)
        found = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), outputs)
        assert told == found
    with pytest.raises(ValueError, match=r"(?s)(expected |must ).*[(, ]\d+\)"):
        layer(np.zeros((2, *shape[:-1], shape[-1] + 1), "float32"))


@pytest.mark.parametrize("make", [layers.GroupNorm, layers.MaskedConv2D, layers.CausalConv])
def test_channels_must_be_known(make):
    with pytest.raises(ValueError, match="last axis of the input of .* must be known"):
        make(**given(make)).build((None, 4, 4, None))


@pytest.mark.parametrize("layer", [layers.SoftClip(), layers.AddVolume(), layers.RemoveVolume()])
def test_layers_that_change_each_value_alone_carry_masks_on(layer):
    x = np.array([[[1.0], [0.0]]], "float32")
    masked = keras.layers.Masking()(x)
    mask = models.code_usage.MaskOf()(layer(masked))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(mask), [[True, False]])


@pytest.mark.parametrize("cls", [models.Autoencoder, models.VQVAETrainer])
def test_shapes_of_an_autoencoder_that_is_not_built_leave_it_so(cls):
    encoder, decoder = keras.layers.Dense(4), keras.layers.Dense(1)
    weight = {"continuous_weight": 0.5} if cls is models.VQVAETrainer else {}
    model = cls(encoder, layers.VectorQuantizer(4), decoder, **weight)
    told = model.compute_output_shape((None, 6, 6, 1))
    assert told["reconstruction"] == (None, 6, 6, 1)
    assert told["codes"] == (None, 6, 6)
    assert told.get("continuous_reconstruction", (None, 6, 6, 1)) == (None, 6, 6, 1)
    assert not model.built
    symbolic = model(keras.Input((6, 6, 1)))
    assert symbolic["codes"].dtype == "int32"


def test_what_is_no_layer_is_refused_by_name():
    for make, names in (
        (models.Autoencoder, ("encoder", "bottleneck", "decoder")),
        (models.FrozenEncoder, ("encoder", "bottleneck")),
        (models.ImageClassifier, ("front", "head")),
        (models.IntroVAE, ("encoder", "decoder")),
    ):
        for name in names:
            with pytest.raises(ValueError, match=f"`{name}` .*Received: "):
                make(**{**given(make), name: None})


def test_codebooks_and_volumes_that_are_not_finite_are_refused():
    codebook = np.full((4, 8), np.nan, "float32")
    for make in (layers.VectorQuantizer, layers.EMAVectorQuantizer):
        layer = make(4)
        layer.build((None, 8))
        with pytest.raises(ValueError, match="must be finite"):
            layer.set_codebook(codebook)
    with pytest.raises(ValueError, match="`codebook` must be finite"):
        models.CodeClassifier(2, codebook=codebook)
    with pytest.raises(ValueError, match="`stacks` must be finite"):
        models.GaussianPlan((1, 2, 2), 1).fit(np.full((3, 1, 2, 2), np.inf))
    remove = layers.RemoveVolume()
    remove.build((None, 2, 1))
    for wrong in ((np.full((2, 1), np.nan), 1.0), (np.zeros((1, 2)), 1.0)):
        with pytest.raises(ValueError, match="`volume` must be .*finite"):
            remove.set(*wrong)
    with pytest.raises(ValueError, match="`deviation` must be above 0"):
        remove.set(np.zeros((2, 1)), math.nan)


def test_whole_numbers_may_be_floats_of_no_fraction():
    encoder = models.conv_encoder((4, 4, 1), [np.float32(2)], np.int64(2), 3.0)
    assert encoder.output_shape == (None, 2, 2, 3)
    assert layers.EMAVectorQuantizer(4, seed=np.int64(3)).seed == 3
