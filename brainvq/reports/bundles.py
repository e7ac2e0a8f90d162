"""All figures of bundles of streamlines: their pictures, and plots of what was measured."""

from brainvq.reports.bundle_pictures import (
    bundle_grid,
    bundle_views,
    direction_colours,
    generated,
    perturbation,
    project,
)
from brainvq.reports.bundle_plots import (
    buan_table_figure,
    bundle_colours,
    rate_distortion_figure,
    robustness_figure,
    tsne,
)

__all__ = [
    "buan_table_figure",
    "bundle_colours",
    "bundle_grid",
    "bundle_views",
    "direction_colours",
    "generated",
    "perturbation",
    "project",
    "rate_distortion_figure",
    "robustness_figure",
    "tsne",
]
