"""All figures of a run whose volumes become vectors."""

import shutil

import numpy as np
import pandas as pd

from brainvq import evaluation
from brainvq.evaluation.latents import TRAVERSAL_VALUES
from brainvq.files import atomic_path, read_csv
from brainvq.reports import generation
from brainvq.reports import latents as pictures
from brainvq.studies.introvae3d import GRADES, PUBLISHED
from brainvq.tasks.base import figure_path
from brainvq.tasks.scans import training_figures
from brainvq.tasks.vectors.latents import CLASSES, acquisition, classes, scan_table
from brainvq.tasks.vectors.measures import SHOWN
from brainvq.tasks.volumes.registration import grid_affine, registration_quality

# Steps of the way from one scan to another.
STEPS = 5
UNITS = {
    "tr": "repetition time (s)",
    "te": "echo time (s)",
    "pixel_bandwidth": "pixel bandwidth (Hz)",
    "age": "age (years)",
}


def vector_figures(run, metrics):
    """All figures of a run.

    Args:
        run: a `LoadedRun`.
        metrics: dict, its `metrics.json`.

    Returns:
        Dict of name to path.
    """
    about = scan_table(run)
    shown = one_of_each(about, run.rows["test"])
    drawn = training_figures(run, without=("encoder_loss", "decoder_loss"))
    drawn["divergence"] = generation.divergence_curves(
        pd.read_csv(run.file("history.csv")),
        figure_path(run, "divergence"),
        simulated=run.simulated,
    )
    drawn |= _brains(run, about, shown)
    drawn["interpolation"] = _interpolation(run, about, shown[[0, -1]])
    if "registration" in metrics:
        quality = registration_quality(run.study, run.scans, run.store)
        drawn["registration"] = figure_path(run, "registration")
        with atomic_path(drawn["registration"]) as temporary:
            shutil.copyfile(quality["picture"], temporary)
    drawn["generation"] = generation_figure(
        {"this model": metrics}, figure_path(run, "generation"), run.simulated
    )
    if "dimensions" in metrics["latents"]:
        drawn |= _class_figures(run, metrics["latents"])
    if "age" in metrics["latents"]:
        table = read_csv(run.file("latents", "age.csv"))
        path = figure_path(run, "age")
        drawn["age"] = pictures.age_scatter(table, path, simulated=run.simulated)
    if "audit" in metrics:
        drawn["metadata"] = _metadata(run, about, metrics["audit"])
    return drawn


def one_of_each(about, rows):
    """Test scans for figures: one of each class, of few classes more of each; `SHOWN` at most.

    Args:
        about: table of all scans, as of `scan_table`.
        rows: int array, the test scans.

    Returns:
        Int array, some of `rows` in their order.
    """
    chosen, labels = [], classes(about.iloc[rows])
    order = [name for name in CLASSES if name in labels]
    order += sorted(set(labels) - set(order))
    queues = [list(rows[labels == name]) for name in order]
    while len(chosen) < SHOWN and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return np.array(sorted(chosen[:SHOWN], key=list(rows).index))


def stored_samples(run):
    """The first generated volumes of a run, float32 `(SHOWN, x, y, z, 1)`."""
    samples = np.load(run.file("samples", "samples.npy"), mmap_mode="r")[:SHOWN]
    return samples.astype("float32")


def _brains(run, about, shown):
    """Unseen scans beside their reconstructions, and samples beside unseen and training scans."""
    affine, simulated = grid_affine(run.study.data), run.simulated
    subjects, groups = about["subject"], classes(about)
    names = [f"{subjects[row]}, {groups[row] or 'test'}" for row in shown]
    real, samples = run.store.read(shown), stored_samples(run)
    near = read_csv(run.file("samples", "nearest.csv"), "scan_id").head(SHOWN)
    scans = pd.Index(run.store.table["scan_id"].astype(str))
    nearest = run.store.read(scans.get_indexer(near["scan_id"]))
    return {
        "reconstructions": generation.generated_planes(
            {"unseen scans": real, "reconstructions": run.model.reconstruct(real)},
            affine,
            figure_path(run, "reconstructions"),
            reference="unseen scans",
            title="Unseen scans and their reconstructions: " + "; ".join(names),
            simulated=simulated,
        ),
        "samples": generation.generated_planes(
            {"generated": samples, "unseen scans": real},
            affine,
            figure_path(run, "samples"),
            title=f"Generated brains beside {'simulated' if simulated else 'real'} ones",
            simulated=simulated,
        ),
        "nearest": generation.generated_planes(
            {"generated": samples, "nearest training scan": nearest},
            affine,
            figure_path(run, "nearest"),
            title="Generated brains, each beside the training scan nearest to it",
            simulated=simulated,
        ),
    }


def _interpolation(run, about, pair):
    """Volumes on the straight line between the latents of two scans."""
    ends = run.model.encode(run.store.read(pair))
    way = run.model.decode(evaluation.interpolate(*ends, STEPS).astype("float32"))
    groups = classes(about)
    first, last = (f"{about['subject'][row]} ({groups[row] or 'test'})" for row in pair)
    return generation.traversal_grid(
        way[None],
        grid_affine(run.study.data),
        figure_path(run, "interpolation"),
        values=np.linspace(0, 1, STEPS),
        dimensions=[f"{first}\nto {last}"],
        row="{}",
        column="share of the way",
        title="On the way from one unseen scan to another",
        simulated=run.simulated,
    )


def generation_figure(metrics, path, simulated):
    """Sharpness, diversity and distances of the samples of runs, and of principal components.

    Args:
        metrics: dict of a run's name to its measures.
        path: where the figure is written.
        simulated: whether all scans are simulated.
    """
    first = next(iter(metrics.values()))
    tables = {name: measures["generation"]["model"] for name, measures in metrics.items()}
    tables[f"principal components ({first['components']['count']})"] = first["generation"][
        "components"
    ]
    sharpness, diversity, fidelity = (
        {name: frame(parts[key]) for name, parts in tables.items()}
        for key in ("sharpness", "diversity", "fidelity")
    )
    return generation.generation_figure(
        sharpness, diversity, path, distances=fidelity, simulated=simulated
    )


def _class_figures(run, measures):
    """The latents that differ most between classes, and how well classes are told."""
    model, simulated = run.model, run.simulated
    dimensions = [row["dimension"] for row in measures["dimensions"]]
    z = evaluation.traverse(np.zeros(model.latent_size), dimensions)
    decoded = model.decode(z.reshape(-1, model.latent_size).astype("float32"))
    return {
        "traversal": generation.traversal_grid(
            decoded.reshape(*z.shape[:2], *decoded.shape[1:]),
            grid_affine(run.study.data),
            figure_path(run, "traversal"),
            values=TRAVERSAL_VALUES,
            dimensions=dimensions,
            title="Latents that differ most between classes, changed one at a time",
            simulated=simulated,
        ),
        "lda": scatter({run.study.variant: run}, figure_path(run, "lda"), simulated),
        "classes": pictures.class_table_figure(
            frame(measures["classes"]["table"]),
            figure_path(run, "classes"),
            published=PUBLISHED,
            simulated=simulated,
        ),
    }


def scatter(runs, path, simulated):
    """Test scans on the first discriminants of each model; grades are one, as in the paper.

    Args:
        runs: dict of name to `LoadedRun`, of the same test scans.
        path: where the figure is written.
        simulated: whether all scans are simulated.
    """
    first = next(iter(runs.values()))
    table = pd.read_csv(first.file("latents", "classes.csv"), dtype=str, keep_default_na=False)
    merged = ["leuko" if label in GRADES else label for label in table["class"]]
    names = sorted(set(merged))
    return pictures.lda_scatter(
        {name: np.load(run.file("latents", "classes.npy")) for name, run in runs.items()},
        np.array([names.index(label) for label in merged]),
        names,
        path,
        simulated=simulated,
    )


def _metadata(run, about, audit):
    """How the acquisition differs between classes."""
    metadata, labels = acquisition(about), classes(about)
    known = labels != ""
    return pictures.metadata_figure(
        evaluation.metadata_histograms(metadata[known], labels[known]),
        figure_path(run, "metadata"),
        tests=frame(audit["tests"]),
        names=UNITS,
        simulated=run.simulated,
    )


def frame(rows):
    """The table that `brainvq.files.records` made rows of."""
    return pd.DataFrame(rows).infer_objects().fillna(np.nan)
