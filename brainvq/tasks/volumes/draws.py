"""New volumes, drawn from the prior, and how near they are to training volumes."""

import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes

from brainvq import data, evaluation
from brainvq.files import write_array, write_csv
from brainvq.tasks.base import spread

# Volumes compared with all training volumes at a time.
COMPARED = 8
# Drawn volumes, those of unseen people and training volumes whose anatomy is compared.
DRAWN, UNSEEN, TRAINING = 16, 12, 24


def draw_volumes(run):
    """Draws new volumes into `samples/` and asks how near they are to training volumes.

    Written are `codes.npy`, a NIfTI file of each sample, in the units of the network above their
    background, and `nearest.csv` with the training scan nearest to each.

    Args:
        run: a `LoadedRun` with a prior.

    Returns:
        Dict of count, and of mean distances to training volumes, of samples and of test volumes.
    """
    options, store = run.study.sampling, run.store
    draw, chosen = run.study.prior.draw, options.arguments
    codes = draw(run.prior, run.model, options.samples, seed=run.study.seed, **chosen)
    write_array(run.file("samples", "codes.npy"), codes)
    training = data.StoredVolumes(store, run.rows["train"])
    affine = centred_affine(store)
    drawn, unseen, kept = [], [], []
    for start in range(0, len(codes), COMPARED):
        volumes = run.model.decode(codes[start : start + COMPARED], batch_size=run.task.batch_size)
        for number, volume in enumerate(volumes, start + 1):
            file = run.file("samples", f"sample-{number:02d}.nii.gz")
            data.save_nifti(file, data.above_background(volume[..., 0]), affine)
        drawn += nearest(volumes, training)
        kept += [volume[..., 0].astype("float16") for volume in volumes[: DRAWN - len(kept)]]
    chosen = run.some("test", options.samples)
    for start in range(0, len(chosen), COMPARED):
        unseen += nearest(store.read(chosen[start : start + COMPARED]), training)
    scans = store.table["scan_id"].iloc[[run.rows["train"][place] for place, _ in drawn]]
    table = pd.DataFrame({"scan_id": scans.to_numpy(), "distance": [far for _, far in drawn]})
    table.insert(0, "sample", np.arange(1, len(table) + 1))
    write_csv(run.file("samples", "nearest.csv"), table)
    return {
        "count": len(codes),
        "distance_to_training": float(table["distance"].mean()),
        "distance_of_unseen_to_training": float(np.mean([far for _, far in unseen])),
        **measure_anatomy(run, kept),
    }


def measure_anatomy(run, drawn):
    """Whether drawn volumes pass for brains, see `evaluation.compare_volume_anatomy`.

    Args:
        run: a `LoadedRun`.
        drawn: list of `(x, y, z)`.

    Returns:
        Dict with `anatomy`; empty where volumes are not in [0, 1], or where there are fewer than
        two, or fewer than two unseen people, who are those of the validation and the test split.
    """
    rows = spread(np.concatenate([run.rows["validation"], run.rows["test"]]), UNSEEN)
    if run.study.data.scale == "zscore" or len(drawn) < 2 or len(rows) < 2:
        return {}
    unseen, train = (
        (run.store.read([row]) for row in chosen) for chosen in (rows, run.some("train", TRAINING))
    )
    restored = [run.model.reconstruct(volume, batch_size=1)[0, ..., 0] for volume in unseen]
    people = run.store.table["subject"].astype(str).to_numpy()[rows]
    found = evaluation.compare_volume_anatomy(
        [volume.clip(0, 1) for volume in drawn],
        [volume.clip(0, 1).astype("float16") for volume in restored],
        people=people,
        train=[volume[0, ..., 0].astype("float16") for volume in train],
        seed=run.study.seed,
    )
    return {"anatomy": found}


def nearest(volumes, training):
    """The training volume nearest to each of some volumes.

    Args:
        volumes: float `(n, x, y, z, 1)`.
        training: `brainvq.data.StoredVolumes`.

    Returns:
        List of (place in `training`, root mean square distance), one for each volume.
    """
    places, distances = evaluation.nearest_images(volumes, training, ndim=3, chunk=4)
    return list(zip(places.tolist(), distances.tolist(), strict=True))


def centred_affine(store):
    """Voxel index to mm `(4, 4)` for volumes like those of a store, the middle of the grid at 0."""
    spacing = voxel_sizes(store.scans["affine"].iloc[0])
    return data.oriented_affine(store.sample_shape[:-1], spacing, "LPS")
