"""What can be asked of every model, whichever it is."""

import math

import numpy as np
import pytest

from brainvq import (
    Autoencoder,
    BottleneckChain,
    EMAVectorQuantizer,
    GaussianSampling,
    Identity,
    IntroVAE,
    ProbabilisticSOM,
    ResidualQuantizer,
    VectorQuantizer,
    VQVAETrainer,
    conv_decoder,
    conv_encoder,
    intro_decoder,
    intro_encoder,
    strided_decoder,
    strided_encoder,
)
from brainvq.models.latent import Codes, Vector

X = np.random.default_rng(0).random((2, 8, 8, 1), dtype="float32")


def joined(bottleneck, cls=VQVAETrainer):
    return cls(
        conv_encoder((8, 8, 1), (3, 4), 4, 3), bottleneck, conv_decoder((2, 2, 3), (3, 4), 4)
    )


def residual():
    return ResidualQuantizer([VectorQuantizer(4) for _ in range(3)])


@pytest.mark.parametrize(
    ("bottleneck", "latent"),
    [
        (EMAVectorQuantizer(5), Codes(5)),
        (residual(), Codes(4, 3)),
        (BottleneckChain([GaussianSampling(), residual()]), Codes(4, 3)),
    ],
)
def test_models_with_codes(bottleneck, latent):
    model = joined(bottleneck)
    assert model.latent == latent
    codes = model.encode(X)
    bits = codes[0].size * math.log2(latent.num_codes)
    assert model.bits_per_sample((8, 8, 1)) == pytest.approx(bits)
    first = model.first_codes(codes)
    assert first.shape == (2, 2, 2)
    np.testing.assert_array_equal(first, codes.reshape(2, 2, 2, -1)[..., 0])
    assert model.first_quantizer is model.bottleneck.stages()[0]
    assert model.first_quantizer.num_codes == latent.num_codes
    assert model.first_quantizer.depth is None


@pytest.mark.parametrize("bottleneck", [Identity(), GaussianSampling(), ProbabilisticSOM((2, 2))])
def test_models_that_decode_vectors(bottleneck):
    model = joined(bottleneck, Autoencoder)
    assert model.latent == Vector(3)
    assert model.encode(X).shape[-1] == 3
    assert model.bits_per_sample((8, 8, 1)) is None
    assert not model.decodes_codes
    assert not model.is_adversarial


def test_codes_beside_skip_connections_have_no_bits():
    encoder = strided_encoder((8, 8, 1), (3, 4), skips=True)
    model = VQVAETrainer(
        encoder, VectorQuantizer(4), strided_decoder((2, 2, 4), (3, 4), skips=True)
    )
    assert model.has_skips
    assert model.latent == Codes(4)
    assert model.bits_per_sample((8, 8, 1)) is None


@pytest.mark.parametrize("form", [None, "hinge"])
def test_intro_vae_says_what_an_autoencoder_says(form):
    sizes = {"latent_size": 2, "filters": (2,), "dense_units": ()}
    model = IntroVAE(
        intro_encoder((4, 4, 1), groups=2, **sizes),
        intro_decoder((4, 4, 1), groups=2, **sizes),
        form=form,
    )
    assert model.latent == Vector(2)
    assert model.bits_per_sample((4, 4, 1)) is None
    assert model.is_adversarial == (form is not None)
    for name in ("bottleneck", "num_codes", "depth", "continuous_weight"):
        assert getattr(model, name) is None
    assert not model.has_skips
    assert not model.decodes_codes
