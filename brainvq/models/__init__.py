"""Encoders and decoders, the autoencoders that join them, and the prior over codes."""

from brainvq.models.autoencoder import Autoencoder
from brainvq.models.bundle_networks import (
    bundle_decoder,
    bundle_encoder,
    pass_through,
    streamline_decoder,
    streamline_encoder,
)
from brainvq.models.classifier import (
    CodeClassifier,
    FrozenEncoder,
    ImageClassifier,
    PixelStem,
    pixel_classifier,
)
from brainvq.models.code_usage import CodeUsage
from brainvq.models.conv_networks import conv_decoder, conv_encoder
from brainvq.models.intro_networks import intro_decoder, intro_encoder, set_components, set_mean
from brainvq.models.intro_vae import IntroVAE
from brainvq.models.losses import ReconstructionLoss, SSIMLoss, structural_similarity
from brainvq.models.mosaic import MosaicPrior
from brainvq.models.pixelcnn import PixelCNN
from brainvq.models.plan import GaussianPlan
from brainvq.models.residual_networks import residual_decoder, residual_encoder
from brainvq.models.transform_networks import (
    WindowedTrainer,
    set_transform,
    transform_decoder,
    transform_encoder,
)
from brainvq.models.volume_networks import strided_decoder, strided_encoder
from brainvq.models.vqvae import VQVAETrainer

__all__ = [
    "Autoencoder",
    "CodeClassifier",
    "CodeUsage",
    "FrozenEncoder",
    "GaussianPlan",
    "ImageClassifier",
    "IntroVAE",
    "MosaicPrior",
    "PixelCNN",
    "PixelStem",
    "ReconstructionLoss",
    "SSIMLoss",
    "VQVAETrainer",
    "WindowedTrainer",
    "bundle_decoder",
    "bundle_encoder",
    "conv_decoder",
    "conv_encoder",
    "intro_decoder",
    "intro_encoder",
    "pass_through",
    "pixel_classifier",
    "residual_decoder",
    "residual_encoder",
    "set_components",
    "set_mean",
    "set_transform",
    "streamline_decoder",
    "streamline_encoder",
    "strided_decoder",
    "strided_encoder",
    "structural_similarity",
    "transform_decoder",
    "transform_encoder",
]
