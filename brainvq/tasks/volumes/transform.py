"""Fitting the transform of study `t1w3d`: means, deviations, principal components, bits."""

import logging

import keras
import numpy as np
from scipy.linalg import eigh
from scipy.ndimage import gaussian_filter, uniform_filter

from brainvq.evaluation.similarity import FOREGROUND_FRACTION
from brainvq.models import set_transform

logger = logging.getLogger("brainvq")

# Side of the window of SSIM, and its constant C2, which keeps the deviation of flat places off 0.
WINDOW, FLAT = 7, 0.03**2
# How far differences are scaled to the contrast of their place: 0 not at all, 1 as SSIM does.
# Between the two PSNR does not suffer (people 51-56 of ds002748, 28 kbit: SSIM 0.736 and 0.748).
POWER = 0.7
# A cell is coded if so much of it is brain of so many of the training people.
CELL_SHARE, PEOPLE_SHARE = 0.02, 0.3
# Training volumes whose local contrast is looked at.
CONTRASTS = 16
# Means and deviations are multiples of these: no code is told from another by less, and packed
# weights take a third of the disk.
MEAN_STEP, DEVIATION_STEP = 1 / 256, 1 / 64


def fit_transform(run, model):
    """Sets encoder, linear decoder and codes of a new model from the training samples.

    Memory holds one volume at a time, and the square of a patch's voxels.

    Args:
        run: a `LoadedRun` whose network is a `brainvq.options.Transform`.
        model: its `WindowedTrainer`.

    Returns:
        (vectors of the training samples, float32 `(n, *grid, channels)`; bool `(*grid)`, the cells
        that are coded): what `EntropyQuantizer.fit` takes, for other rates.
    """
    rows, patch = run.rows["train"], run.study.model.network.patch
    mean, brain = _means(run.store, rows)
    mean = np.rint(mean / MEAN_STEP) * np.float32(MEAN_STEP)
    deviation = _deviation(run.store, rows)
    deviation = np.maximum(np.rint(deviation / DEVIATION_STEP), 1) * np.float32(DEVIATION_STEP)
    coded = _cells(brain > PEOPLE_SHARE, patch).mean(axis=-1) > CELL_SHARE  # (*grid)

    template = mean[..., None], deviation[..., None]
    set_transform(model.encoder, model.decoder, *template, np.zeros((0, patch**3)))
    cut = keras.Model(model.encoder.inputs[0], model.encoder.get_layer("patches").output)

    def patches():
        for row in rows:
            yield keras.ops.convert_to_numpy(cut(run.store.read([row])))[0][coded]

    components = principal_patches(patches(), min(run.study.model.network.components, patch**3))
    set_transform(model.encoder, model.decoder, *template, components)
    vectors = np.zeros((len(rows), *coded.shape, model.bottleneck.channels), "float32")
    for place, cells in enumerate(patches()):
        vectors[place][coded, : len(components)] = cells @ components.T
    bits = model.bottleneck.fit(vectors, run.study.model.bottleneck.volume_bits, coded)
    logger.info(
        "%d of %d cells are coded; %.0f bits a training volume", coded.sum(), coded.size, bits
    )
    return vectors, coded


def principal_patches(batches, count):
    """The first principal components of patches, about zero.

    Args:
        batches: iterable of float `(n, voxels)`.
        count: int, at most `voxels`.

    Returns:
        Float32 `(count, voxels)`, orthonormal.
    """
    total = 0.0
    for patches in batches:
        total = total + (patches.T @ patches).astype("float64")
    last = len(total) - 1
    axes = eigh(total, subset_by_index=(last + 1 - count, last))[1]
    return axes[:, ::-1].T.astype("float32")


def _cells(volume, patch):
    """Volume `(x, y, z)` → `(*grid, patch³)`."""
    grid = [size // patch for size in volume.shape]
    split = volume.reshape(grid[0], patch, grid[1], patch, grid[2], patch)
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(*grid, patch**3)


def _means(store, rows):
    """Mean volume, and the share of people who have brain there: float32 `(x, y, z)` each."""
    mean, brain = (np.zeros(store.sample_shape[:-1], "float32") for _ in range(2))
    for row in rows:
        volume = store.read([row])[0, ..., 0]
        mean += volume / len(rows)
        brain += (volume > FOREGROUND_FRACTION * volume.max()) / np.float32(len(rows))
    return mean, brain


def _deviation(store, rows):
    """What differences are divided by, of a root mean square of 1: float32 `(x, y, z)`."""
    chosen = rows[:: -(-len(rows) // CONTRASTS)]
    variance = 0.0
    for row in chosen:
        volume = store.read([row])[0, ..., 0].astype("float32")
        mean = uniform_filter(volume, WINDOW)
        variance = variance + np.maximum(uniform_filter(volume**2, WINDOW) - mean**2, 0)
    smooth = gaussian_filter(variance / len(chosen), 3.0) + FLAT
    deviation = smooth ** (POWER / 2)
    return (deviation / np.sqrt(np.mean(deviation**2))).astype("float32")
