"""Figures of runs on slices: reconstructions, codes, a scan in three planes, and new slices."""

import keras
import numpy as np

from brainvq import evaluation
from brainvq.reports import figures
from brainvq.reports.viewer import walkable_planes
from brainvq.tasks.base import figure_path
from brainvq.tasks.scans import code_figures, counts_of_codes, prepared, training_figures
from brainvq.tasks.slices.steps import heights, pixel_size, spread

# Columns of the pictures that show single slices, and slices in a grid beside samples.
COLUMNS, BESIDE = 8, 64


def slice_figures(run, metrics):
    """All figures of a run.

    Args:
        run: a `LoadedRun`.
        metrics: dict, its `metrics.json`.

    Returns:
        Dict of name to path.
    """
    options = {"simulated": run.simulated, "spacing": pixel_size(run.store)}
    drawn = training_figures(run) | code_figures(run, metrics)
    drawn["reconstructions"] = reconstruction_figure(run, options)
    if "transfer" in metrics:
        drawn["planes"] = planes_figure(run)
    if run.model.num_codes:
        drawn |= codebook_figures(run, options)
    if run.prior is not None:
        drawn |= sample_figures(run, options)
    return drawn


def reconstruction_figure(run, options):
    """Slices of test subjects, their reconstructions and the error: the path of the figure."""
    shown = run.some("test", COLUMNS)
    images = run.store.read(shown)
    restored = np.clip(run.model.reconstruct(images), 0, 1)
    return figures.reconstruction_grid(
        images,
        restored,
        titles=[str(subject) for subject in run.store.table["subject"].to_numpy()[shown]],
        ssim=evaluation.ssim(images, restored),
        title="Slices of unseen subjects, their reconstructions and the error",
        path=figure_path(run, "reconstructions"),
        **options,
    )


def planes_figure(run):
    """All of a test scan through its codes, in three planes: the path of the figure."""
    test = run.scans.table[run.scans.table["split"] == "test"]
    row = next(test[test["scan_id"].isin(run.store.scans["scan_id"])].itertuples())
    scan = prepared(run.study, run.task, row, matrix="native")
    return walkable_planes(
        scan.to_volume(scan.slices),
        scan.to_volume(np.clip(run.model.reconstruct(scan.slices), 0, 1)),
        scan.original_affine,
        figure_path(run, "planes"),
        title=f"Test subject {row.subject}, every axial slice through its codes",
        simulated=run.simulated,
    )


def codebook_figures(run, options):
    """Code maps of test slices, and the codebook: dict of name to path."""
    images = run.store.read(run.some("test", COLUMNS))
    codebook = keras.ops.convert_to_numpy(run.model.bottleneck.codebook)
    return {
        "codes": figures.code_map_grid(
            images,
            run.model.codes(images),
            run.model.num_codes,
            codebook=codebook,
            path=figure_path(run, "codes"),
            **options,
        ),
        "codebook": figures.codebook_projection(
            codebook,
            counts_of_codes(run),
            simulated=run.simulated,
            path=figure_path(run, "codebook"),
        ),
    }


def sample_figures(run, options):
    """New slices beside those of test subjects, and beside the training slices nearest to them.

    Returns:
        Dict of name to path.
    """
    samples, nearest = (
        np.load(run.file("samples", f"{name}.npy")) for name in ("samples", "nearest")
    )
    real = run.some("test", BESIDE)
    if run.study.draws_by_height:  # from the lowest slice to the highest, like the samples
        real = real[np.argsort(heights(run.store)[real], kind="stable")]
    drawn = {}
    if run.has("samples", "lineup.npy"):
        drawn["lineup"] = figures.numbered_pictures(
            np.load(run.file("samples", "lineup.npy")),
            title="Which of these brains were drawn?",
            path=figure_path(run, "lineup"),
            **options,
        )
    return drawn | {
        "samples": figures.sample_grid(
            samples[spread(len(samples), BESIDE)],
            run.store.read(real),
            title=f"Generated brains beside {'simulated' if run.simulated else 'real'} ones",
            path=figure_path(run, "samples"),
            **options,
        ),
        "nearest": figures.nearest_neighbours(
            *(part[spread(len(samples), COLUMNS)] for part in (samples, nearest)),
            path=figure_path(run, "nearest"),
            **options,
        ),
    }
