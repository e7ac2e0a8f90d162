"""Measures on plain arrays: how alike two images are, how a codebook is used. No Keras here."""

from brainvq.evaluation.codes import CodeCounter, NeighbourModel, code_usage, marginal_bits
from brainvq.evaluation.similarity import (
    SimilarityAccumulator,
    compare,
    foreground,
    mse,
    nearest_images,
    per_subject,
    psnr,
    ssim,
    ssim_map,
    ssim_parameters,
    summary,
)

__all__ = [
    "CodeCounter",
    "NeighbourModel",
    "SimilarityAccumulator",
    "code_usage",
    "compare",
    "foreground",
    "marginal_bits",
    "mse",
    "nearest_images",
    "per_subject",
    "psnr",
    "ssim",
    "ssim_map",
    "ssim_parameters",
    "summary",
]
