"""Bottlenecks, masked convolutions and normalisation: Keras layers for any `keras.Model`."""

from brainvq.layers.block_fold import BlockFold
from brainvq.layers.bottleneck import Bottleneck, BottleneckChain
from brainvq.layers.ema_vector_quantizer import EMAVectorQuantizer
from brainvq.layers.entropy_quantizer import EntropyQuantizer
from brainvq.layers.finite_scalar_quantizer import FiniteScalarQuantizer
from brainvq.layers.gaussian_sampling import GaussianSampling
from brainvq.layers.group_norm import GroupNorm
from brainvq.layers.grouped_quantizer import GroupedQuantizer, MultiHeadQuantizer
from brainvq.layers.gumbel_quantizer import GumbelQuantizer
from brainvq.layers.identity import Identity
from brainvq.layers.latent_noise import LatentNoise
from brainvq.layers.lookup_free_quantizer import LookupFreeQuantizer
from brainvq.layers.masked_convolution import (
    CausalConv,
    MaskedConv1D,
    MaskedConv2D,
    MaskedConv3D,
)
from brainvq.layers.mean_volume import AddVolume, RemoveVolume
from brainvq.layers.probabilistic_som import ProbabilisticSOM
from brainvq.layers.projected_quantizer import ProjectedQuantizer
from brainvq.layers.residual_quantizer import ResidualQuantizer
from brainvq.layers.sim_vq import SimVQ
from brainvq.layers.soft_clip import SoftClip
from brainvq.layers.som_grid import SOMGrid
from brainvq.layers.som_quantizer import SOMQuantizer
from brainvq.layers.space_to_depth import DepthToSpace, SpaceToDepth
from brainvq.layers.template_volume import TemplateVolume
from brainvq.layers.torus_quantizer import TorusQuantizer
from brainvq.layers.vector_quantizer import VectorQuantizer

__all__ = [
    "AddVolume",
    "BlockFold",
    "Bottleneck",
    "BottleneckChain",
    "CausalConv",
    "DepthToSpace",
    "EMAVectorQuantizer",
    "EntropyQuantizer",
    "FiniteScalarQuantizer",
    "GaussianSampling",
    "GroupNorm",
    "GroupedQuantizer",
    "GumbelQuantizer",
    "Identity",
    "LatentNoise",
    "LookupFreeQuantizer",
    "MaskedConv1D",
    "MaskedConv2D",
    "MaskedConv3D",
    "MultiHeadQuantizer",
    "ProbabilisticSOM",
    "ProjectedQuantizer",
    "RemoveVolume",
    "ResidualQuantizer",
    "SOMGrid",
    "SOMQuantizer",
    "SimVQ",
    "SoftClip",
    "SpaceToDepth",
    "TemplateVolume",
    "TorusQuantizer",
    "VectorQuantizer",
]
