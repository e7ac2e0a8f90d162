"""Figures of runs on volumes: reconstructions, the map of the codes, and new volumes."""

import keras
import nibabel as nib
import numpy as np

from brainvq import data, evaluation
from brainvq.evaluation import to_unit
from brainvq.files import read_csv
from brainvq.reports import som
from brainvq.reports.planes import three_planes
from brainvq.reports.viewer import walkable_planes
from brainvq.tasks.base import figure_path, read_subjects
from brainvq.tasks.scans import code_figures, counts_of_codes, training_figures
from brainvq.tasks.volumes.draws import centred_affine
from brainvq.tasks.volumes.measures import directions, grid_of

# Volumes whose encodings the t-SNE shows, of whose average the codes' places are shown, and that
# are shown in a picture of samples.
SHOWN, AVERAGED, PLANES = 8, 8, 2


def volume_figures(run, metrics):
    """All figures of a run.

    Args:
        run: a `LoadedRun`.
        metrics: dict, its `metrics.json`.

    Returns:
        Dict of name to path.
    """
    drawn = training_figures(run) | code_figures(run, metrics)
    row, subject = median_row(run)
    drawn |= reconstruction_figures(run, row, subject)
    if run.model.first_quantizer.codebook is not None:
        drawn |= map_figures(run) | place_figures(run)
        if grid_of(run.model.first_quantizer) is not None:
            drawn["brain_on_grid"] = brain_figure(run, row)
    if run.prior is not None:
        drawn |= sample_figures(run)
    return drawn


def median_row(run):
    """Sample number and name of the test subject whose SSIM is the (lower) median."""
    subjects = read_subjects(run).sort_values("ssim")["subject"]
    subject = subjects.iloc[(len(subjects) - 1) // 2]
    is_theirs = run.subjects("test").astype(str) == subject
    return run.rows["test"][np.flatnonzero(is_theirs)[0]], subject


def reconstruction_figures(run, row, subject):
    """A test volume beside what its codes, and the vectors before they are quantised, decode to.

    Args:
        run: a `LoadedRun`.
        row: sample number.
        subject: name of its subject.

    Returns:
        Dict of name to path.
    """
    model, options = run.model, {"simulated": run.simulated}
    affine = affine_of(run, row)
    images = run.store.read([row])
    image, restored = (x[0, ..., 0] for x in to_unit(images, model.reconstruct(images)))
    drawn = {
        "reconstructions": walkable_planes(
            image,
            restored,
            affine,
            figure_path(run, "reconstructions"),
            title=f"Test subject {subject}, whose SSIM is the median",
            **options,
        )
    }
    if model.continuous_weight:
        _, continuous = to_unit(images, model.reconstruct(images, continuous=True))
        drawn["continuous"] = three_planes(
            {"original": image, "from codes": restored, "from vectors": continuous[0, ..., 0]},
            affine,
            figure_path(run, "continuous"),
            title=f"Test subject {subject}, from its codes and from what is quantised to them",
            **options,
        )
    return drawn


def affine_of(run, row):
    """Voxel index to mm of a sample: `(4, 4)`."""
    return run.store.affine(run.store.table["scan_id"].iloc[row])


def map_figures(run):
    """The codebook among the encodings of test volumes, and as a map where it is one.

    Returns:
        Dict of name to path.
    """
    quantizer, options = run.model.first_quantizer, figure_options(run)
    codebook = keras.ops.convert_to_numpy(quantizer.codebook)
    counts = counts_of_codes(run)
    vectors = [run.model.continuous(run.store.read([row])) for row in run.some("test", SHOWN)]
    drawn = {
        "tsne": som.encodings_tsne(
            directions(quantizer, np.concatenate(vectors)),
            codebook,
            counts,
            figure_path(run, "tsne"),
            **options,
        )
    }
    if grid_of(quantizer) is not None:
        drawn["som_grid"] = som.som_grid(
            codebook, path=figure_path(run, "som_grid"), counts=counts, **options
        )
    return drawn


def figure_options(run):
    """What figures of a map take: height, width and topology, each None without one; simulated."""
    grid = grid_of(run.model.first_quantizer)
    names = ("height", "width", "topology")
    shape = {name: None if grid is None else getattr(grid, name) for name in names}
    return {**shape, "simulated": run.simulated}


def place_figures(run):
    """Where in an average brain each code lies: dict of name to path."""
    # An average of the same brains as they are seen by the network, each from 0 to 1.
    average = np.mean(
        [to_unit(*[run.store.read([row])] * 2)[0] for row in run.some("train", AVERAGED)],
        axis=0,
    )
    locations = som.code_locations(
        np.load(run.file("codes", "locations.npy")),
        average[0, ..., 0],
        centred_affine(run.store),
        figure_path(run, "locations"),
        **figure_options(run),
    )
    return {"locations": locations}


def brain_figure(run, row):
    """A test volume in the colours that its codes have on the map; the path of the figure.

    Args:
        run: a `LoadedRun` whose codes lie on a map.
        row: sample number.
    """
    images = run.store.read([row])
    image = to_unit(images, images)[0][0, ..., 0]
    codes = run.model.first_codes(run.model.codes(images))[0]
    for axis, blocks in enumerate(run.model.stride):
        codes = codes.repeat(blocks, axis)
    inside = evaluation.foreground(image[None], ndim=3)[0]
    return som.brain_on_grid(
        image,
        np.where(inside, codes, -1),
        affine_of(run, row),
        path=figure_path(run, "brain_on_grid"),
        **figure_options(run),
    )


def sample_figures(run):
    """New volumes beside those of test subjects, and beside the training volumes nearest to them.

    All are shown as they lie in the grid of the network.

    Returns:
        Dict of name to path.
    """
    table = read_csv(run.file("samples", "nearest.csv"), "scan_id")
    table = table.head(PLANES)
    samples = {
        f"generated {number}": nib.load(
            run.file("samples", f"sample-{number:02d}.nii.gz")
        ).get_fdata(dtype="float32")
        for number in table["sample"]
    }
    names = run.store.table["scan_id"].astype(str).to_numpy()

    def stored(row):
        return data.above_background(run.store.read([row])[0, ..., 0])

    real = {f"{names[row]}, unseen": stored(row) for row in run.some("test", PLANES)}
    beside = {}
    for (name, sample), near in zip(samples.items(), table.itertuples(), strict=True):
        beside[name] = sample
        row = np.flatnonzero(names == near.scan_id)[0]
        beside[f"{near.scan_id}, nearest to {near.sample}"] = stored(row)
    row = run.some("test", 1)[0]
    restored = run.model.reconstruct(run.store.read([row]), batch_size=1)[0, ..., 0]
    three = {
        "drawn": samples["generated 1"],
        f"{names[row]}, unseen, from its codes": data.above_background(restored),
        f"{names[row]}, as scanned": stored(row),
    }
    where = "simulated" if run.simulated else "real"
    rows = {
        "anatomy": (three, f"A drawn brain, and a {where} one from its codes and as scanned"),
        "samples": (samples | real, f"Generated brains above {where} ones"),
        "nearest": (beside, "Generated brains, each above the training volume nearest to it"),
    }
    return {
        name: three_planes(
            volumes,
            centred_affine(run.store),
            figure_path(run, name),
            position=(0, 0, 0),
            title=title,
            simulated=run.simulated,
        )
        for name, (volumes, title) in rows.items()
    }
