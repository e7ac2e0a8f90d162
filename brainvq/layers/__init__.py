"""Bottlenecks and masked convolutions: Keras layers for any `keras.Model`."""

from brainvq.layers.bottleneck import Bottleneck, BottleneckChain
from brainvq.layers.ema_vector_quantizer import EMAVectorQuantizer
from brainvq.layers.gaussian_sampling import GaussianSampling
from brainvq.layers.identity import Identity
from brainvq.layers.space_to_depth import DepthToSpace, SpaceToDepth
from brainvq.layers.vector_quantizer import VectorQuantizer

__all__ = [
    "Bottleneck",
    "BottleneckChain",
    "DepthToSpace",
    "EMAVectorQuantizer",
    "GaussianSampling",
    "Identity",
    "SpaceToDepth",
    "VectorQuantizer",
]
