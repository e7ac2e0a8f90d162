"""Tables and figures of several runs: reconstruction, generation, classes, audit."""

import numpy as np
import pandas as pd

from brainvq.files import write_csv
from brainvq.reports import generation
from brainvq.studies.introvae3d import PUBLISHED
from brainvq.tasks.vectors.figures import (
    frame,
    generation_figure,
    one_of_each,
    scatter,
    stored_samples,
)
from brainvq.tasks.vectors.latents import scan_table
from brainvq.tasks.volumes.registration import grid_affine

LEGEND = (
    "SSIM: 3D, 7x7x7 window; fg: foreground; mean and sd over test subjects. Lap: Laplacian "
    "energy in the foreground as a share of that of unseen scans. KD: kernel distance of "
    "generated from unseen volumes, in components and wavelets (training volumes: see the "
    "report). Pairs: mean MS-SSIM of pairs of generated (unseen) volumes. Copies: share of "
    "generated volumes nearer to training than 95 % of unseen ones. PCA: as many principal "
    "components"
)


def compare_vectors(runs, log):
    """Writes `similarity.csv`, `classes.csv` and figures beside the runs.

    Args:
        runs: list of `LoadedRun`, measured.
        log: a `logging.Logger`.
    """
    place = runs[0].path.parent
    metrics = {run.name: run.metrics() for run in runs}
    table = pd.DataFrame([row_of(run, metrics[run.name]) for run in runs])
    write_csv(place / "similarity.csv", table)
    log.info("%s", printed(table).to_string(index=False))
    log.info(LEGEND)
    tables = [class_rows(run.study.variant, metrics[run.name]) for run in runs]
    tables = [part for part in tables if len(part)]
    if tables:
        per_class = pd.concat(tables)
        write_csv(place / "classes.csv", per_class)
        log.info("%s", per_class.round(3).to_string(index=False))
        log.info("Classes of unseen scans by linear discriminants of the latents of training scans")
    for run in runs:
        audit = metrics[run.name].get("audit")
        if audit:
            words = "; ".join(finding["words"] for finding in audit["findings"]) or "nothing found"
            log.info("%s: audit of %d subjects: %s", run.name, audit["subjects"], words)
    _figures(runs, metrics, place)
    names = ["similarity.csv", *(["classes.csv"] if tables else []), "similarity.png"]
    log.info("written: %s, and figures beside it", ", ".join(str(place / name) for name in names))


def _figures(runs, metrics, place):
    """The pictures that show runs side by side: the same scans, samples, discriminants."""
    simulated = all(measures["simulated"] for measures in metrics.values())
    named = {run.study.variant: run for run in runs}
    if len(named) < len(runs):
        named = {run.name: run for run in runs}
    labelled = {name: metrics[run.name] for name, run in named.items()}
    generation_figure(labelled, place / "similarity.png", simulated)
    first = runs[0]
    real = first.store.read(one_of_each(scan_table(first), first.rows["test"]))
    restored, drawn = {"unseen scans": real}, {"unseen scans": real}
    for name, run in named.items():
        if run.study.data == first.study.data and run.study.seed == first.study.seed:
            restored[name] = run.model.reconstruct(real)
        drawn[name] = stored_samples(run)
    for kind, parts in (("reconstructions", restored), ("samples", drawn)):
        generation.generated_planes(
            parts,
            grid_affine(first.study.data),
            place / f"{kind}.png",
            reference="unseen scans",
            title=f"{kind.capitalize()} of each model beside unseen scans",
            simulated=simulated,
        )
    with_classes = {
        name: run for name, run in named.items() if "classes" in labelled[name]["latents"]
    }
    shapes = {
        np.load(run.file("latents", "classes.npy"), mmap_mode="r").shape
        for run in with_classes.values()
    }
    if len(shapes) == 1:
        scatter(with_classes, place / "lda.png", simulated)


def row_of(run, metrics):
    """A row of the table of runs, as a dict."""
    restored, drawn = metrics["reconstruction"], metrics["generation"]
    baseline = metrics["components"]["reconstruction"]
    row = {"run": run.name, "variant": run.study.variant, "latent_size": metrics["latent_size"]}
    for name in ("ssim", "ssim_foreground", "psnr"):
        row[name], row[f"{name}_sd"] = restored[name]["mean"], restored[name]["sd"]
        row[f"{name}_components"] = baseline[name]["mean"]
    laplacian = {"measure": "laplacian_foreground"}
    row["laplacian"] = _only(metrics["reconstruction_sharpness"], **laplacian)["ratio"]
    for name, part in (("", drawn["model"]), ("_components", drawn["components"])):
        row[f"laplacian_samples{name}"] = _only(part["sharpness"], **laplacian)["ratio"]
        for space in ("pca", "wavelet"):
            for measure in ("kernel", "frechet"):
                value = _only(part["fidelity"], space=space, measure=measure)
                row[f"{measure}_{space}{name}"] = value["corrected"]
        row[f"pairs{name}"] = _only(part["diversity"], of="samples")["ms_ssim"]
        row[f"copies{name}"] = _only(part["memorisation"], measure="relative")["share_nearer"]
    row["pairs_real"] = _only(drawn["model"]["diversity"], of="real")["ms_ssim"]
    row |= _latents_row(metrics["latents"])
    row["alarm"] = metrics.get("audit", {}).get("alarm")
    return row | {"test_subjects": metrics["test_subjects"], "simulated": metrics["simulated"]}


def _latents_row(measures):
    """What latents tell of class and age, as a part of a row."""
    row = {}
    for name in ("classes", "classes_of_components", "classes_without_metadata"):
        if name in measures:
            summary = _only(measures[name]["summary"], measure="balanced_accuracy")
            row[f"{name}_balanced_accuracy"] = summary["value"]
    if "age" in measures:
        error = _only(measures["age"], measure="mae")
        row["age_mae"], row["age_mae_of_mean"] = error["value"], error["mean_age"]
    return row


def _only(rows, **where):
    """The first row of a table in which columns have these values."""
    part = frame(rows)
    for column, value in where.items():
        part = part[part[column] == value]
    return part.iloc[0]


def printed(table):
    """The table of runs, short enough for a screen; all values are text."""

    def text(value, form):
        return "–" if value is None or pd.isna(value) else form.format(value)

    return pd.DataFrame(
        {
            "variant": row["variant"],
            "SSIM": f"{row['ssim']:.3f} ± {text(row['ssim_sd'], '{:.3f}')}",
            "fg": text(row["ssim_foreground"], "{:.3f}"),
            "PSNR": text(row["psnr"], "{:.1f}"),
            "Lap": text(row["laplacian"], "{:.2f}"),
            "PCA: SSIM": text(row["ssim_components"], "{:.3f}"),
            "drawn: Lap": text(row["laplacian_samples"], "{:.2f}"),
            "KD": f"{row['kernel_pca']:.2f} {row['kernel_wavelet']:.0f}",
            "pairs": f"{row['pairs']:.2f} ({row['pairs_real']:.2f})",
            "copies": text(row["copies"], "{:.2f}"),
            "PCA: Lap": text(row["laplacian_samples_components"], "{:.2f}"),
            "PCA: KD": f"{row['kernel_pca_components']:.2f} {row['kernel_wavelet_components']:.0f}",
            "classes": text(row.get("classes_balanced_accuracy"), "{:.2f}"),
            "of PCA": text(row.get("classes_of_components_balanced_accuracy"), "{:.2f}"),
            "age": text(row.get("age_mae"), "{:.1f} y"),
            "n": row["test_subjects"],
        }
        for row in table.to_dict("records")
    )


def class_rows(variant, metrics):
    """Precision and recall of each class, beside those of components and the paper's.

    Args:
        variant: name of the run's variant.
        metrics: dict, its `metrics.json`.

    Returns:
        `pandas.DataFrame`, empty where classes are not known.
    """
    if "classes" not in metrics["latents"]:
        return pd.DataFrame()
    table = frame(metrics["latents"]["classes"]["table"])
    table = table[["class", "scans", "TP", "FP", "FN", "TN", "precision", "recall"]]
    others = frame(metrics["latents"]["classes_of_components"]["table"])
    for name in ("precision", "recall"):
        table[f"{name}_components"] = others[name]
    published = [PUBLISHED.get(name, (np.nan, np.nan)) for name in table["class"]]
    table["precision_source"], table["recall_source"] = zip(*published, strict=True)
    table.insert(0, "variant", variant)
    return table
