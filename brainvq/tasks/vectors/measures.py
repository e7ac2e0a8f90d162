"""Measures of a run whose volumes become vectors: reconstruction, new volumes, latents."""

import functools

import numpy as np

from brainvq import data, evaluation
from brainvq.files import records, write_array, write_csv
from brainvq.tasks.base import plain
from brainvq.tasks.vectors.latents import audited, encodings, latent_measures, scan_table
from brainvq.tasks.volumes.registration import grid_affine, registration_quality

# Test volumes that generated ones are compared with at most, and training volumes that spaces are
# fitted on; copies are looked for among all.
COMPARED, FITTED = 256, 1024
# Training volumes that principal components are fitted on, those of the baseline and those that a
# network starts from: what fits into 2 GB.
BASIS = 2048
# Draws of the bootstrap for distances of generated volumes.
DRAWS = 200
# Generated volumes that are written as NIfTI files and shown in figures.
SHOWN = 4


def principal_components(run):
    """`PrincipalComponents` of training volumes, as many as the latent has numbers."""
    size = run.study.model.network.latent_size
    components = evaluation.PrincipalComponents(size, run.study.seed)
    return components.fit(run.store.read(run.some("train", BASIS)))


def measure_vectors(run):
    """The measures of a run; writes `subjects.csv`, `samples/`, `latents/` and `audit.csv`.

    Args:
        run: a `LoadedRun`.

    Returns:
        Dict, the content of `metrics.json`.
    """
    model, about = run.model, scan_table(run)
    metrics = run.task.measure_reconstruction(run)
    baseline = principal_components(run)
    restored = run.task.similarity(baseline.reconstruct, run)
    picked = run.some("test", COMPARED)
    real, subjects = run.store.read(picked), run.store.table["subject"].to_numpy()[picked]
    sharpness = evaluation.compare_sharpness(model.reconstruct(real), real, subjects=subjects)
    size = run.task.batch_size
    z = encodings(run, functools.partial(model.encode, batch_size=size))
    metrics |= {
        "test_scans": len(run.rows["test"]),
        "latent_size": model.latent_size,
        "components": {
            "count": len(baseline.deviations),
            "reconstruction": plain(evaluation.summary(restored.table())),
        },
        "reconstruction_sharpness": records(sharpness),
        "generation": generated(run, baseline, real, subjects),
        "latents": latent_measures(run, about, z, baseline),
    }
    audit = audited(run, about, z)
    if audit:
        metrics["audit"] = audit
    registration = registered(run)
    return metrics if registration is None else metrics | {"registration": registration}


def generated(run, baseline, real, subjects):
    """Draws volumes into `samples/` and compares them with unseen ones.

    Written are `samples.npy` (float16), NIfTI files of the first, and `nearest.csv`.

    Args:
        run: a `LoadedRun`.
        baseline: `PrincipalComponents` of the training volumes.
        real: test volumes, float32 `(n, x, y, z, 1)`.
        subjects: the subject of each of them.

    Returns:
        Dict of count, real, and the tables of the model and of the principal components.
    """
    options, seed = run.study.sampling, run.study.seed
    samples = run.model.sample(options.samples, seed=seed, temperature=options.temperature)
    _write_samples(run, samples)
    training = data.StoredVolumes(run.store, run.rows["train"])
    reference = run.store.read(run.some("train", FITTED))
    near_real = evaluation.nearest_training(real, training)
    measures = {"count": len(samples), "real": len(real)}
    for name, drawn in (
        ("model", samples),
        ("components", baseline.sample(len(samples), seed)),
    ):
        near = evaluation.nearest_training(drawn, training)
        tables = {
            "sharpness": evaluation.compare_sharpness(drawn, real, subjects=subjects),
            "diversity": evaluation.diversity(drawn, real, subjects=subjects, seed=seed),
            "fidelity": evaluation.fidelity(
                drawn, real, reference, subjects=subjects, draws=DRAWS, seed=seed
            ),
            "memorisation": evaluation.memorisation(near, near_real),
        }
        measures[name] = {key: records(table) for key, table in tables.items()}
        if name == "model":
            _write_nearest(run, near)
    return measures


def _write_samples(run, samples):
    write_array(run.file("samples", "samples.npy"), samples.astype("float16"))
    options = run.study.data
    for number, sample in enumerate(samples[:SHOWN], 1):
        file = run.file("samples", f"sample-{number:02d}.nii.gz")
        mni = options.registration != "no"
        data.save_nifti(file, sample[..., 0], grid_affine(options), mni=mni)


def _write_nearest(run, near):
    """Writes which training scan is nearest to each sample."""
    scans = run.store.table["scan_id"].to_numpy()[run.rows["train"]][near["nearest"]]
    near.insert(0, "scan_id", scans)
    near.insert(0, "sample", np.arange(1, len(near) + 1))
    write_csv(run.file("samples", "nearest.csv"), near)


def registered(run):
    """How well the scans lie on the template, in short; None where they are not registered."""
    if run.study.data.registration == "no":
        return None
    quality = registration_quality(run.study, run.scans, run.store)
    return {
        "scans": len(quality["table"]),
        "fit": float(quality["table"]["fit"].median()),
        "smallest": float(quality["table"]["fit"].min()),
        "outliers": list(quality["outliers"]),
        "sharpness": float(quality["sharpness"]),
    }
