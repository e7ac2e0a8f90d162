"""From a study to its model: the door to the layers and models of brainvq.

    from modules import *

gives every layer and model, `build_autoencoder`, `build_prior`, and `vqvae_trainer`: the default
study's model, ready for `vqvae_trainer.load_weights("runs/.../model.weights.h5")`. For the weights
of another study or variant: `build_autoencoder(STUDIES["oasis2d"]["paper"])`.
"""

import brainvq  # first: it keeps the start-up lines of TensorFlow off the screen

# isort: split
import contextlib

import keras
import numpy as np

from brainvq.errors import UserError
from brainvq.layers import *
from brainvq.models import *
from hyperparameters import (
    DEFAULT_STUDY,
    DEFAULT_VARIANT,
    STUDIES,
    WITHOUT_CODES,
    codes_of,
    layout,
    sample_grid,
    stride,
)

__all__ = [
    *brainvq.layers.__all__,
    *brainvq.models.__all__,
    "STUDIES",
    "build_autoencoder",
    "build_bottleneck",
    "build_prior",
    "classes_of",
    "first_codes",
    "first_quantizer",
    "prior_codes",
    "prior_grid",
    "vqvae_trainer",
]


def build_autoencoder(study, input_shape=None, variance=1.0):
    """The autoencoder of a study, with its weights made.

    Args:
        study: a `hyperparameters.Study`.
        input_shape: shape of a sample, None in it for any size; by default volumes or slices of the
            study's size, or slices of any size where the study leaves pixels as they are.
        variance: variance of the training images, which divides the squared error where the study
            says so (`model.data_variance`).

    Returns:
        A `VQVAETrainer`, an `Autoencoder` where the bottleneck has no codes, or an `IntroVAE` where
        volumes become vectors.
    """
    with _options("--model"):
        return _autoencoder(study, input_shape, variance)


def _autoencoder(study, input_shape, variance):
    options = study.model
    if layout(study.data) == "bundles":
        shape = tuple(input_shape or (study.data.streamlines, study.data.points, 3))
        encoder, decoder = _bundle_networks(options, shape)
        return _joined(study, encoder, decoder, shape, variance)
    side = None if study.data.spacing is None else study.data.size
    grid = sample_grid(study.data) if study.data.shape else (side, side)
    shape = tuple(input_shape or (*grid, 1))
    if options.network == "intro":
        return _intro_vae(study, shape)
    if options.network == "strided":
        sizes = {
            "filters": options.filters,
            "norm": options.norm,
            "skips": options.skips,
            "checkpoint": options.checkpoint,
        }
        encoder = strided_encoder(shape, **sizes)
        grid = encoder.output_shape[0] if options.skips else encoder.output_shape
        decoder = strided_decoder(grid[1:], **sizes)
    elif options.network == "conv":
        sizes = {
            "filters": options.filters,
            "bottleneck_filters": options.bottleneck_filters,
        }
        encoder = conv_encoder(shape, embedding_dim=options.embedding_dim, **sizes)
        decoder = conv_decoder(encoder.output_shape[1:], **sizes)
    else:
        sizes = {
            "filters": options.filters,
            "blocks": options.blocks,
            "patch": options.patch,
            "hidden": options.hidden,
        }
        encoder = residual_encoder(shape, embedding_dim=options.embedding_dim, **sizes)
        decoder = residual_decoder(
            encoder.output_shape[1:], refine_filters=options.refine_filters, **sizes
        )
    return _joined(study, encoder, decoder, shape, variance)


def _intro_vae(study, shape):
    options = study.model
    sizes = {
        "latent_size": options.latent_size,
        "filters": options.filters,
        "dense_units": options.dense_units,
        "norm": options.norm,
        "groups": options.norm_groups,
        "patch": options.patch,
        "linear": options.linear,
    }
    return IntroVAE(
        intro_encoder(shape, dropout=options.dropout, **sizes),
        intro_decoder(shape, **sizes),
        form=None if options.form == "vae" else options.form,
        adversarial_weight=options.adversarial_weight,
        beta_rec=options.beta_rec,
        beta_kl=options.beta_kl,
        beta_neg=options.beta_neg,
        margin=options.margin,
        gamma_r=options.gamma_r,
        seed=study.seed,
    )


def _bundle_networks(options, shape):
    if options.network == "streamline":
        (width,), (encoding, decoding) = options.filters, options.blocks
        encoder = streamline_encoder(shape, options.modes, width, encoding)
        return encoder, streamline_decoder(encoder.output_shape[1:], shape[1], width, decoding)
    sizes = {
        "filters": options.filters,
        "blocks": options.blocks[0],
        "hidden": options.bottleneck_filters,
    }
    encoder = bundle_encoder(shape, embedding_dim=options.embedding_dim, **sizes)
    decoder = bundle_decoder(encoder.output_shape[1:], **sizes)
    if options.pass_through:
        pass_through(encoder, decoder)
    return encoder, decoder


def _joined(study, encoder, decoder, shape, variance):
    options = study.model
    bottleneck = build_bottleneck(options)
    # A probabilistic map's decoder reads the vectors: its codes cannot be decoded.
    kind = Autoencoder if options.bottleneck in WITHOUT_CODES else VQVAETrainer
    weight = 1.0 / variance if options.data_variance else 1.0
    loss = ReconstructionLoss(
        mse_weight=options.mse_weight * weight,
        ssim_weight=options.ssim_weight,
        mse_knee=options.mse_knee,
    )
    model = kind(
        encoder,
        bottleneck,
        decoder,
        reconstruction_loss=loss,
        continuous_weight=options.continuous_weight,
    )
    # One call makes the weights, so that they can be loaded.
    model(np.zeros([1, *(size or stride(options) for size in shape)], "float32"))
    return model


def build_bottleneck(options):
    """The bottleneck that `hyperparameters.Model` options describe."""
    sampling = GaussianSampling(kl_weight=options.kl_weight)
    if options.bottleneck == "gaussian":
        return sampling
    bottleneck = _bottleneck(options)
    if options.depth > 1:
        stages = [_ema(options, codes_of(options)) for _ in range(options.depth - 1)]
        bottleneck = ResidualQuantizer([bottleneck, *stages], beam=options.beam)
    before = [sampling] if options.sampled_latent else []
    if options.latent_noise:
        before.append(LatentNoise(options.latent_noise))
    return BottleneckChain([*before, bottleneck]) if before else bottleneck


def _bottleneck(options):
    if options.bottleneck == "identity":
        return Identity()
    if options.bottleneck in ("som", "psom"):
        som = {
            "som_shape": options.som_shape,
            "topology": options.topology,
            "alpha": options.alpha,
            "beta": options.beta,
            "gradient": options.gradient,
        }
        if options.bottleneck == "som":
            return SOMQuantizer(**som)
        return ProbabilisticSOM(**som, gamma=options.gamma)
    if options.bottleneck == "gumbel":
        return GumbelQuantizer(
            codebook_size=options.num_codes,
            temperature=options.temperature,
            codebook_scale=options.codebook_scale,
        )
    if options.bottleneck == "torus":
        return TorusQuantizer(
            som_shape=options.som_shape,
            size=options.torus_size,
            radius=options.torus_radius,
            decay=options.decay,
            beta=options.beta,
            gamma=options.gamma,
            gradient=options.gradient,
        )
    if options.bottleneck == "vq":
        return VectorQuantizer(
            num_codes=options.num_codes,
            beta=options.beta,
            distance=options.distance,
            gradient=options.gradient,
        )
    return _ema(options, options.num_codes)


def _ema(options, num_codes):
    return EMAVectorQuantizer(
        num_codes=num_codes,
        beta=options.beta,
        distance=options.distance,
        gradient=options.gradient,
        decay=options.decay,
        initialization=options.initialization,
        revival_threshold=options.revival_threshold,
    )


def first_codes(model, codes):
    """The first code of each cell, that of the map, where a cell has several."""
    return codes if model.depth is None else codes[..., 0]


def first_quantizer(model):
    """The quantiser of the first code of each cell."""
    quantizer = model.quantizer
    return quantizer if model.depth is None else quantizer.quantizers[0]


def prior_grid(shape):
    """The grid that a prior sees of codes of this shape.

    A streamline has one cell and its codes in a row, so a bundle's codes are a picture of a row per
    streamline.
    """
    return tuple(size for size in shape if size > 1) if 1 in shape else tuple(shape)


def prior_codes(codes):
    """Code maps `(n, *grid)` as a prior takes them; see `prior_grid`."""
    return codes.reshape(len(codes), *prior_grid(codes.shape[1:]))


def build_prior(study, grid_shape, num_codes):
    """The prior of a study over code maps.

    Args:
        study: a `hyperparameters.Study`.
        grid_shape: shape of a code map, such as `(16, 16)`.
        num_codes: size of the codebook.

    Returns:
        A `PixelCNN` with its weights made.
    """
    options = study.prior
    with _options("--prior"):
        return PixelCNN(
            grid_shape=tuple(grid_shape),
            num_codes=num_codes,
            filters=options.filters,
            num_blocks=options.blocks,
            kernel_size=options.kernel_size,
            first_kernel_size=options.first_kernel_size,
            gated=options.gated,
            dropout=options.dropout,
            position_embedding=options.position_embedding,
            num_classes=classes_of(study),
        )


def classes_of(study):
    """Classes that a prior is told: levels of slices, or bundles; None for none."""
    if layout(study.data) == "bundles":
        return len(study.data.bundles)
    return study.prior.levels or None


@contextlib.contextmanager
def _options(group):
    """A layer that refuses an argument is here an option that the user got wrong."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{group}: {' '.join(str(error).split())}") from error


def __getattr__(name):
    # Made when asked for: `import modules` itself should cost nothing.
    if name == "vqvae_trainer":
        globals()[name] = build_autoencoder(STUDIES[DEFAULT_STUDY][DEFAULT_VARIANT])
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
