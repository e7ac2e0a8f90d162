"""Numbers that a constructor is given: what is no such number is refused, by name."""

import inspect
import math

import numpy as np
import pytest

from brainvq import models
from brainvq.layers import CausalConv, Identity, MaskedConv2D, VectorQuantizer
from brainvq.layers.group_norm import GroupNorm
from brainvq.layers.mean_volume import AddVolume, RemoveVolume
from brainvq.layers.soft_clip import SoftClip
from brainvq.layers.space_to_depth import SpaceToDepth
from brainvq.models.bundle_networks import SetBlock

IMAGE, GRID, LINES = (16, 16, 1), (4, 4, 8), (16, 16, 3)
CASES = {
    (models.conv_encoder, IMAGE): "filters bottleneck_filters embedding_dim",
    (models.conv_decoder, GRID): "filters bottleneck_filters channels",
    (models.residual_encoder, IMAGE): "filters blocks patch embedding_dim hidden groups",
    (models.residual_decoder, GRID): "filters blocks patch refine_filters channels hidden groups",
    (models.strided_encoder, IMAGE): "filters",
    (models.strided_decoder, GRID): "filters",
    (models.intro_encoder, IMAGE): "filters dense_units latent_size dropout",
    (models.intro_decoder, IMAGE): "filters dense_units latent_size",
    (models.bundle_encoder, LINES): "filters blocks hidden embedding_dim",
    (models.bundle_decoder, GRID): "filters blocks hidden",
    (models.streamline_encoder, LINES): "modes width blocks spread",
    (models.streamline_decoder, (16, 1, 12)): "points width blocks spread",
    (SetBlock,): "expansion",
    (GroupNorm, 2): "groups epsilon",
    (SoftClip,): "sharpness",
    (SpaceToDepth,): "block_size",
    (MaskedConv2D, 4, 3): "filters kernel_size",
    (CausalConv, 4, 3): "filters kernel_size",
}
REAL = ("hidden", "dropout", "spread", "epsilon", "sharpness")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_numbers_of_networks_and_layers_are_checked(case):
    make, *given = case
    parameters = inspect.signature(make).parameters
    for name in CASES[case].split():
        for value in [math.nan, math.inf, -1, "8", True, *([] if name in REAL else [8.5])]:
            value = (2, value) if isinstance(parameters[name].default, tuple) else value
            rest = dict(zip(parameters, given, strict=False)) | {name: value}
            with pytest.raises(ValueError, match=rf"`{name}` must .*Received: {name}="):
                make(**rest)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0, 1.5, "a", True])
def test_the_weight_of_the_continuous_way_is_checked(value):
    parts = (models.conv_encoder((4, 4, 1), (2,), 2, 3), models.conv_decoder((2, 2, 3), (2,), 2))
    with pytest.raises(
        ValueError, match=r"`continuous_weight` must .*Received: continuous_weight="
    ):
        models.VQVAETrainer(parts[0], VectorQuantizer(4), parts[1], continuous_weight=value)
    with pytest.raises(ValueError, match="needs a bottleneck with codes"):
        models.Autoencoder(parts[0], Identity(), parts[1], continuous_weight=0.5)


def test_the_weights_of_an_intro_vae_are_checked():
    for name in ("adversarial_weight", "beta_rec", "beta_kl", "beta_neg", "margin", "gamma_r"):
        for value in (math.nan, math.inf, -1.0, "1", True):
            with pytest.raises(ValueError, match=rf"`{name}` must .*Received: {name}="):
                models.IntroVAE(None, None, **{name: value})


def test_whole_numbers_may_be_floats_of_no_fraction():
    encoder = models.conv_encoder((4, 4, 1), [np.float32(2)], np.int64(2), 3.0)
    assert encoder.output_shape == (None, 2, 2, 3)


@pytest.mark.parametrize("layer", [GroupNorm(1), SoftClip(), RemoveVolume(), AddVolume()])
def test_layers_that_keep_a_shape_say_so(layer):
    assert layer.compute_output_shape((None, 4, 4, 2)) == (None, 4, 4, 2)
