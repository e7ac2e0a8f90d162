"""Measures of a run on bundles: reconstruction, robust latents, classification, new bundles."""

import functools

import numpy as np
import pandas as pd

from brainvq import evaluation
from brainvq.errors import UserError
from brainvq.files import records, write_array, write_csv
from brainvq.tasks.base import spread
from brainvq.tasks.streamlines.codecs import codecs_at, means, table_of
from brainvq.tasks.streamlines.groups import BATCH, encodings, scale_mm, through_bottleneck

# Bits per streamline of the paper's discrete models, and of codecs beside models without bits.
BITS = 36
# Groups for figures and curves that need not see all of them.
SHOWN = 240


def watch_streamlines(originals, reconstructions):
    """Squared error and BUAN of validation groups, while training."""
    scores = [evaluation.buan(*pair) for pair in zip(originals, reconstructions, strict=True)]
    error = np.mean(np.square(originals - reconstructions))
    return {"val_mse": float(error), "val_buan": float(np.mean(scores))}


def measure_streamlines(run):
    """The measures of a run on test samples; writes `samples.csv` and `subjects.csv`.

    Args:
        run: a `LoadedRun`.

    Returns:
        Dict, the content of `metrics.json` without prior and samples.
    """
    study, store, model, rows = run.study, run.store, run.model, run.rows["test"]
    table = table_of(model.reconstruct, store, rows)
    write_csv(run.file("samples.csv"), table)
    numbers = [name for name in table if name not in ("bundle", "subject")]
    write_csv(run.file("subjects.csv"), table.groupby("subject", as_index=False)[numbers].mean())
    per_bundle = evaluation.per_bundle(table.drop(columns="subject"))
    bits = model.bits_per_sample(store.sample_shape)
    bits = None if bits is None else bits / study.data.streamlines
    latents = np.prod(model.encoder.compute_output_shape((1, *store.sample_shape))[1:])
    metrics = {
        "test_subjects": len(np.unique(run.subjects("test"))),
        "one_person": "split" not in run.scans.table,
        "test_samples": len(rows),
        "test_streamlines": int(table["streamlines"].sum()),
        "simulated": run.simulated,
        "scale_mm": scale_mm(store),
        "streamlines": study.data.streamlines,
        "points": study.data.points,
        "reconstruction": means(per_bundle),
        "bundles": records(per_bundle),
        "bits_per_streamline": bits,
        "numbers_per_streamline": float(latents / study.data.streamlines),
        "robustness": robustness(run),
        "classification": records(classification(run)),
        "codecs": codecs_at(bits or BITS, store, run.rows),
        "parameters": {"autoencoder": model.count_params()},
    }
    if model.num_codes:
        codes = np.asarray(run.codes["test"])
        stages = codes if model.depth is not None else codes[..., None]
        metrics["codes"] = records(evaluation.depth_usage(stages, model.num_codes))
        metrics["num_codes"] = model.num_codes
        metrics["grid"] = list(codes.shape[1:])
    return metrics


def robustness(run):
    """BUAN and error of test samples whose latents are disturbed by noise of growing size."""
    store, model = run.store, run.model
    picked = run.some("test", SHOWN)
    originals = store.read(picked)
    z = encodings(model, originals)
    training = encodings(model, store.read(run.some("train", SHOWN)))
    deviations = evaluation.channel_spread(training)
    curve = evaluation.robustness(
        functools.partial(through_bottleneck, model),
        z,
        originals,
        store.table["count"].to_numpy()[picked],
        spread=deviations,
        seed=run.study.seed,
    )
    return {
        "area": float(evaluation.area_under(curve)),
        "curve": records(curve),
        # What noise is a multiple of, for `predict.py RUN perturb`.
        "spread": deviations.tolist(),
    }


def classification(run):
    """How well bundles are told by codes, latents and coordinates, over the test samples."""
    store, model = run.store, run.model
    picked = run.some("test", SHOWN)
    originals = store.read(picked)
    features = {
        "coordinates": originals.reshape(len(originals), -1),
        "latents": encodings(model, originals).reshape(len(originals), -1),
    }
    if model.num_codes:
        codes = np.asarray(run.codes["test"])[np.searchsorted(run.rows["test"], picked)]
        features["codes"] = evaluation.code_histograms(
            codes, model.num_codes, depth=model.depth is not None
        )
    subjects = store.table["subject"].to_numpy()[picked]
    names = store.table["group"].to_numpy()[picked]
    subjects = subjects if len(np.unique(subjects)) > 1 else None
    try:
        return evaluation.classify_bundles(features, names, subjects, seed=run.study.seed)
    except UserError:
        return pd.DataFrame()  # too few samples of a bundle to cross-validate


def draw_streamlines(run):
    """Draws new bundles into `samples/`, equally many of each, and compares their shapes.

    Args:
        run: a `LoadedRun` with a prior.

    Returns:
        Dict, `samples` of `metrics.json`.
    """
    study, store, model = run.study, run.store, run.model
    names = study.data.bundles
    wanted = np.arange(study.sampling.samples) % len(names)
    drawn = run.prior.sample(
        len(wanted), **study.sampling.arguments, seed=study.seed, labels=wanted
    )
    codes = np.asarray(drawn).reshape(len(drawn), *model.code_shape(store.sample_shape))
    samples = model.decode(codes, batch_size=BATCH)
    bundles = np.array([names[number] for number in wanted])
    for name, array in (("codes", codes), ("samples", samples), ("bundles", bundles)):
        write_array(run.file("samples", f"{name}.npy"), array)
    picked = run.some("test", SHOWN)
    real = store.read(picked)
    shapes = evaluation.shape_table(
        real, samples, store.table["count"].to_numpy()[picked], scale_mm=scale_mm(store)
    )
    write_csv(run.file("samples", "shapes.csv"), shapes)
    train = store.read(spread(np.unique(run.rows["train"]), SHOWN))
    return {
        "count": len(samples),
        "shapes": records(shapes),
        "distance_to_training": nearest_distance(samples, train),
        "distance_of_unseen_to_training": nearest_distance(real, train),
    }


def nearest_distance(bundles, training):
    """Mean distance (MDF, in units) of streamlines to the nearest one of training bundles.

    Args:
        bundles: float array `(n, streamlines, points, 3)`.
        training: float array `(m, streamlines, points, 3)`.
    """
    curves = training.reshape(-1, *training.shape[2:])[::8]
    nearest = [evaluation.mdf(bundle[::4], curves).min(axis=1).mean() for bundle in bundles[:24]]
    return float(np.mean(nearest))
