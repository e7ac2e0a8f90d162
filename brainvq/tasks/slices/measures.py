"""Measures of runs on slices: reconstruction, use of the codes, matrices of other scanners."""

import numpy as np

from brainvq import evaluation
from brainvq.errors import UserError
from brainvq.progress import progress
from brainvq.tasks.base import plain
from brainvq.tasks.scans import prepared
from brainvq.tasks.slices.steps import heights

# In-plane extent of the matrices that `data.transfer` names, in mm: that of many head protocols.
FIELD_OF_VIEW = 250.0
# Slices of unseen people, and of training, that drawn ones are compared with.
UNSEEN, TRAINING = 1024, 2048


def measure_slices(run):
    """The measures of a run on slices; writes `subjects.csv`.

    Args:
        run: a `LoadedRun`.

    Returns:
        Dict, the content of `metrics.json` without prior and samples.
    """
    model, task, shape = run.model, run.task, run.store.sample_shape
    codecs = {"model": model}
    metrics = task.measure_reconstruction(run) | {
        "test_slices": len(run.rows["test"]),
        "bits_per_slice": model.bits_per_sample(shape),
    }
    if model.num_codes:
        grid = model.code_shape(shape)
        codecs["patch k-means"] = task.fit_patches(run)
        table = task.similarity(codecs["patch k-means"].reconstruct, run).table()
        metrics |= {
            "grid": list(grid),
            "stride": shape[0] // grid[0],
            "patch_kmeans": plain(evaluation.summary(table)),
            "codes": {split: _usage(run, split) for split in ("validation", "test")},
        }
    if run.study.data.transfer and run.study.data.has_scans:
        metrics["transfer"] = measure_transfer(run, codecs)
    return metrics


def _usage(run, split):
    usage = evaluation.code_usage(run.codes[split], run.model.num_codes)
    return {name: value for name, value in usage.items() if name != "counts"}


def measure_anatomy(run, draws):
    """Whether drawn slices pass for brains, see `evaluation.compare_anatomy`.

    Where it is not known how high in the brain a draw lies, nothing is measured.

    Args:
        run: a `LoadedRun`.
        draws: float `(n, rows, columns, 1)` in [0, 1], spread over the brain from its lowest slice.

    Returns:
        (measures, pictures): a dict with `anatomy`, and `lineup`, which says what was drawn among
        pictures in a random order; and those, `(n, rows, columns)`. Or an empty dict and None.
    """
    if not run.study.draws_by_height:
        return {}, None
    unseen = run.some("test", UNSEEN)
    restored = np.clip(run.model.reconstruct(run.store.read(unseen)), 0, 1)
    known = {
        "heights": heights(run.store)[unseen],
        "people": run.store.table["subject"].astype(str).to_numpy()[unseen],
        "seed": run.study.seed,
    }
    train = run.store.read(run.some("train", TRAINING))
    found = evaluation.compare_anatomy(draws, restored, train=train, **known)
    pictures, drawn = evaluation.lineup(draws, restored, **known)
    numbers = (np.flatnonzero(drawn) + 1).tolist()
    return {"anatomy": found, "lineup": {"pictures": len(drawn), "drawn": numbers}}, pictures


def measure_transfer(run, models):
    """SSIM of test scans on matrices that training did not use, on the slices it would select.

    Args:
        run: a `LoadedRun`; its study, its cohort and its task are used.
        models: dict of name to an object with `reconstruct`.

    Returns:
        List of a dict for each matrix and model: matrix, model and the measures.
    """
    rows = []
    for size in run.study.data.transfer:
        matrix = {"matrix": size, "spacing": FIELD_OF_VIEW / size} if size else {"matrix": "native"}
        measured = _measure_matrix(run, models, matrix, f"transfer to {size or 'native'}")
        rows += [
            {
                "matrix": f"{size} x {size}" if size else "native",
                "model": name,
                **plain(evaluation.summary(accumulator.table())),
            }
            for name, accumulator in measured.items()
        ]
    return rows


def _measure_matrix(run, models, matrix, title):
    """The `SimilarityAccumulator` of each model over the test scans on one matrix."""
    test = run.scans.table[run.scans.table["split"] == "test"]
    measured = {name: evaluation.SimilarityAccumulator() for name in models}
    with progress(len(test), title, "scan", part=True) as bar:
        for row in test.itertuples():
            bar.update()
            try:
                slices = prepared(run.study, run.task, row, selected=True, **matrix).slices
            except UserError:
                continue  # one that could not be read was named when the arrays were prepared
            for name, model in models.items():
                for start in range(0, len(slices), run.task.batch_size):
                    batch = slices[start : start + run.task.batch_size]
                    restored = np.clip(model.reconstruct(batch), 0, 1)
                    measured[name].add(batch, restored, [row.subject] * len(batch))
    return measured
