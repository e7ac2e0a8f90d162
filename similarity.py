"""Measure trained runs on the subjects they never saw: SSIM, PSNR, code usage, bits, maps.

    python similarity.py [RUN ...]              without a RUN, the newest one
    python similarity.py runs/som3d-*           the table of a study of volumes
    python similarity.py runs/introvae3d-*      of one of vectors: reconstruction, generation,
                                                classes told by latents, bias audit
    python similarity.py --again runs/som3d-*   the same, measured anew

Prints a table, a row for each run, and writes similarity.csv and similarity.png beside the runs.
Runs on slices are always measured anew; those on volumes, which takes minutes each, where they have
not been measured yet. The same measures and figures make the report at the end of `train.py`.
"""

import functools
import sys

import brainvq  # noqa: F401 (first: it keeps TensorFlow's start-up lines off the screen)

# isort: split
import keras
import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes
from tqdm.auto import tqdm

import bundles
import dataset
import hyperparameters
import modules
import vectors
from brainvq import data, evaluation
from brainvq.data.simulation import LABELS
from brainvq.errors import UserError
from brainvq.evaluation import to_unit
from brainvq.evaluation.baselines import PatchKMeans
from brainvq.evaluation.som import TissueOverlap, TopologyCounter, neighbour_correlation
from brainvq.files import read_json, write_array, write_csv, write_json
from brainvq.reports import figures, som
from brainvq.reports.bundle_pages import bundles_card, bundles_report
from brainvq.reports.html import write_report
from brainvq.reports.model_card import write_model_card
from brainvq.reports.planes import reconstruction_planes, three_planes
from brainvq.reports.slices import slices_card, slices_report
from brainvq.reports.vector_pages import vectors_card, vectors_report
from brainvq.reports.volumes import volumes_card, volumes_report
from brainvq.training.pretrained import Trained, load_model
from brainvq.training.programs import run_program
from brainvq.training.runs import RunFolder, start_log
from brainvq.training.stream import BatchStream

# Samples at a time, and training samples that the patch codec is fitted on: more slices than its
# 200,000 patches need, but volumes as memory allows.
BATCH = {"slices": 64, "volumes": 2, "bundles": bundles.BATCH, "vectors": vectors.BATCH}
BASELINE = {"slices": 1024, "volumes": 16}
# Volumes compared with all training volumes at a time.
COMPARED = 8
# Shares of the codes whose surprise is noted.
QUANTILES = (0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
# Columns of the pictures that show single slices.
COLUMNS = 8
# Volumes: whose encodings the t-SNE shows, of whose average the codes' places are shown, and that
# are shown in a picture of samples.
SHOWN, AVERAGED, PLANES = 8, 8, 2
# What `measure_baseline` has found in this process.
BASELINES = {}
# Table 1 of the source of study som3d (Kapre, "Using Discrete VAEs on T1-Weighted MRI Data to Embed
# Local Brain Regions"), in its order: SSIM and PSNR (dB) of 23 validation subjects, and codes used
# "on a selected image in the training set".
PUBLISHED = {
    "vqvae-skips": (0.97, 33.7, 3),
    "vqvae": (0.61, 20.3, 3),
    "ae": (0.87, 25.5, None),
    "vae": (0.58, 20.1, None),
    "vqvae-kmeans": (0.63, 20.6, 46),
    "vqvae-kmeans-codebook": (0.52, 19.0, 2),
    "vqvae-new-half": (0.72, 22.4, 58),
    "vqvae-new": (0.73, 22.3, 56),
    "somvae": (0.82, 24.1, 113),
    "somvae-kohonen": (0.81, 24.0, 51),
    "somvae-toroid": (0.82, 24.2, 90),
    "somvae-continuous": (0.63, 20.6, 6),
    "psomvae": (0.91, 27.0, None),
    "psomvae-beta03": (0.91, 27.0, None),
    "psomvae-gamma10": (0.90, 26.5, None),
    "psomvae-continuous": (0.62, 20.6, None),
}


def main(arguments):
    """Compares runs."""
    if any(word in ("-h", "--help") for word in arguments):
        print(__doc__)
        return
    again = "--again" in arguments
    paths = [word for word in arguments if word != "--again"]
    for word in paths:
        if word.startswith("-"):
            raise UserError(f"{word}: no such option; expected folders of runs")
    log = start_log()
    if paths:
        runs = [RunFolder.open(path) for path in paths]
    else:
        newest = RunFolder.newest("runs")
        if newest is None:
            raise UserError("runs: holds no trained run; expected one (python train.py makes it)")
        runs = [newest]
    studies = [hyperparameters.from_dict(run.study["study"]) for run in runs]
    first, *others = zip(runs, studies, strict=True)
    for run, study in others:
        if hyperparameters.kind(study) != hyperparameters.kind(first[1]):
            kinds = [
                f"{run.path} is on {hyperparameters.kind(study)}"
                for run, study in (first, (run, study))
            ]
            raise UserError(f"{', '.join(kinds)}; expected runs of one kind in a table")
    kind = hyperparameters.kind(first[1])
    if kind == "slices":
        compare_slices(runs, studies, log)
    elif kind == "volumes":
        compare_volumes(runs, studies, again, log)
    elif kind == "vectors":
        for run, study in zip(runs, studies, strict=True):
            if again or not run.metrics():
                log.info("%s: measuring", run.path)
                write_json(run.file("metrics.json"), measure_again(run, study))
        vectors.compare(runs, studies, opened, log)
    else:
        for run in runs:
            run.require("metrics.json", "it has not finished training")
        bundles.compare(runs, studies, lambda *pair: opened(*pair)[1:3], log)


def compare_slices(runs, studies, log):
    """Measures runs on slices anew, and writes their table and figure."""
    tables, extra, simulated = {}, {}, []
    for run, study in zip(runs, studies, strict=True):
        scans, store, rows, model = opened(run, study)
        tables[run.name] = similarity_of(model.reconstruct, store, rows["test"]).table()
        simulated.append(scans.simulated)
        extra[run.name] = {
            "bits_per_slice": bits_per_sample(model, store),
            **used(model, store, rows),
        }
        write_csv(run.file("subjects.csv"), tables[run.name])
        if run.has("history.csv"):
            figures.ssim_curve(
                pd.read_csv(run.file("history.csv")),
                simulated=scans.simulated,
                path=run.file("figures", "ssim.png"),
            )
    table = evaluation.compare(tables)
    table = table.join(pd.DataFrame.from_dict(extra, orient="index"), on="run")
    place = runs[0].path.parent
    write_csv(place / "similarity.csv", table)
    labels = [
        f"{row.run}\n{row.bits_per_slice:.0f} bits a slice"
        if pd.notna(row.bits_per_slice)
        else row.run
        for row in table.itertuples()
    ]
    figures.comparison_bars(
        table.assign(run=labels),
        title="SSIM and PSNR on unseen subjects",
        simulated=all(simulated),
        path=place / "similarity.png",
    )
    log.info("%s", table.round(4).to_string(index=False))
    log.info("SSIM: 2D slices, 7x7 window, data range 1; mean and sd over test subjects")
    log.info("written: %s, %s", place / "similarity.csv", place / "similarity.png")


def compare_volumes(runs, studies, again, log):
    """The table of a study of volumes: a row for each run, beside what its source has published."""
    rows = []
    for run, study in zip(runs, studies, strict=True):
        metrics = run.metrics()
        if again or not metrics:
            log.info("%s: measuring", run.path)
            metrics = measure_again(run, study)
        rows.append(volumes_row(run, study, metrics))
    order = list(PUBLISHED)
    # Variants that the source does not have come last.
    rows.sort(
        key=lambda row: (
            order.index(row["variant"]) if row["variant"] in order else len(order),
            row["run"],
        )
    )
    table = pd.DataFrame(rows)
    place = runs[0].path.parent
    whole = [name for name in table if "codes_used" in name or name.endswith("_codes")]
    write_csv(place / "similarity.csv", table.astype(dict.fromkeys(whole, "Int64")))
    som.variants_table_figure(
        table, place / "similarity.png", simulated=bool(table["simulated"].all())
    )
    log.info("%s", printed(table).to_string(index=False))
    log.info(
        "SSIM: 3D, 7x7x7 window, data range 1; mean and sd over test subjects; fg: foreground. "
        "Continuous: SSIM of what the vectors decode to before they become codes, whole and fg. "
        "Codes: used by test subjects, by all, and how many there are. Published: validation "
        "subjects, and codes of one training image"
    )
    log.info("written: %s, %s", place / "similarity.csv", place / "similarity.png")


def printed(table):
    """The table of a study of volumes, short enough for a screen; all values are text."""

    def text(value, form="{}"):
        return "–" if pd.isna(value) else form.format(value)

    def with_sd(row, name, form):
        sd = row[f"{name}_sd"]
        return form.format(row[name]) + ("" if pd.isna(sd) else " ± " + form.format(sd))

    return pd.DataFrame(
        {
            "variant": row["variant"],
            "SSIM": with_sd(row, "ssim", "{:.3f}"),
            "SSIM fg": with_sd(row, "ssim_foreground", "{:.3f}"),
            "PSNR": with_sd(row, "psnr", "{:.1f}"),
            "continuous": " ".join(
                text(row[name], "{:.3f}") for name in ("ssim_continuous", "ssim_fg_continuous")
            ),
            "codes": " ".join(
                text(row[name], "{:.0f}") for name in ("codes_used", "codes_used_all", "num_codes")
            ),
            "r": text(row["neighbour_r"], "{:.3f}"),
            "topo.": text(row["topographic_error"], "{:.3f}"),
            "quant.": text(row["quantization_error"], "{:.3g}"),
            "bits": text(row["bits_per_volume"], "{:.0f}"),
            "epochs": text(row["epochs"]),
            "n": row["test_subjects"],
            "published": " ".join(
                text(row[name], form)
                for name, form in (
                    ("published_ssim", "{:.2f}"),
                    ("published_psnr", "{:.1f}"),
                    ("published_codes", "{:.0f}"),
                )
            ),
        }
        for row in table.to_dict("records")
    )


def volumes_row(run, study, metrics):
    """A row of the table of a study of volumes, as a dict."""
    found, codes = metrics["reconstruction"], metrics.get("codes", {})
    vectors, maps = metrics.get("continuous_reconstruction", {}), metrics.get("som", {})
    epochs = len(pd.read_csv(run.file("history.csv"))) if run.has("history.csv") else None
    ssim, psnr, published_codes = PUBLISHED.get(study.variant, (None, None, None))
    return {
        "run": run.name,
        "variant": study.variant,
        **{
            f"{name}{'_sd' if part == 'sd' else ''}": found[name][part]
            for name in ("ssim", "ssim_foreground", "psnr")
            for part in ("mean", "sd")
        },
        "ssim_continuous": vectors.get("ssim", {}).get("mean"),
        "ssim_fg_continuous": vectors.get("ssim_foreground", {}).get("mean"),
        "codes_used": codes.get("test", {}).get("used"),
        "codes_used_all": codes.get("all", {}).get("used"),
        "num_codes": codes.get("test", {}).get("num_codes"),
        "codes_per_volume": codes.get("test", {}).get("used_per_volume"),
        "neighbour_r": maps.get("neighbour_correlation", {}).get("mean"),
        "topographic_error": maps.get("topographic_error"),
        "quantization_error": maps.get("quantization_error"),
        "bits_per_volume": metrics["bits_per_volume"],
        "epochs": epochs,
        "test_subjects": metrics["test_subjects"],
        "published_ssim": ssim,
        "published_psnr": psnr,
        "published_codes": published_codes,
        "simulated": metrics["simulated"],
    }


def measure_again(run, study):
    """The measures of a run on volumes, taken anew; prior and samples stay as they are."""
    scans, store, rows, model = opened(run, study)
    codes = codes_of(run, model, store, rows) if model.num_codes else None
    measures = MEASURES[hyperparameters.kind(study)]
    metrics = measures(run, study, scans, store, rows, model, codes)
    if run.has("metrics.json"):
        run.add_metrics(**metrics)
    return metrics


def codes_of(run, model, store, rows):
    """Codes of each split: those on file, or encoded now."""
    found = {}
    for split in rows:
        file = run.file("codes", f"{split}.npy")
        if file.exists():
            found[split] = np.load(file, mmap_mode="r")
        else:
            stream = BatchStream(store.read, rows[split], BATCH[store.layout])
            parts = [model.codes(*stream[number]) for number in range(len(stream))]
            found[split] = np.concatenate(parts)
    return found


def opened(run, study):
    """Cohort, arrays, rows of each split, and model of a run."""
    scans = dataset.cohort_of_run(study, run)
    store = dataset.arrays(study, scans)
    rows = dataset.split_rows(scans, store, study)
    if store.layout == "bundles":
        store = dataset.in_units(store, rows, run)
    model = load_model(run.require("model.keras", "it has not finished training"))
    return scans, store, rows, model


def watch(images, reconstructions):
    """SSIM on the slices or volumes that are looked at while training."""
    images, reconstructions = comparable(images, reconstructions)
    ndim = images.ndim - 2
    mask = evaluation.foreground(images, ndim=ndim)
    masked = evaluation.ssim(images, reconstructions, ndim=ndim, mask=mask)
    return {
        "val_ssim": float(evaluation.ssim(images, reconstructions, ndim=ndim).mean()),
        "val_ssim_foreground": float(np.nanmean(masked)),
    }


def comparable(images, restored):
    """Images and reconstructions in [0, 1], as measures take them."""
    if images.ndim == 5:  # volumes have a scale of their own, such as that of z-scores
        return to_unit(images, restored)
    return images, np.clip(restored, 0, 1)


def bits_per_sample(model, store):
    """Codes of a slice or volume times bits of a code; None where images are not made of codes."""
    if not model.decodes_codes:
        return None
    return float(np.prod(model.code_shape(store.sample_shape)) * model.bits_per_code)


def used(model, store, rows):
    """Codes used by test subjects, and their perplexity; empty without codes."""
    if not model.bottleneck.num_codes:
        return {}
    counter = evaluation.CodeCounter(model.num_codes)
    stream = BatchStream(store.read, rows["test"], BATCH[store.layout])
    for number in range(len(stream)):
        counter.add(modules.first_codes(model, model.codes(*stream[number])))
    usage = counter.usage()
    return {name: usage[name] for name in ("used", "num_codes", "perplexity")}


def similarity_of(reconstruct, store, rows, batch_size=None):
    """Streams `rows` through `reconstruct`; returns the filled `SimilarityAccumulator`."""
    measured = evaluation.SimilarityAccumulator(ndim=len(store.sample_shape) - 1)
    subjects = store.table["subject"].to_numpy()
    stream = BatchStream(store.read, rows, batch_size or BATCH[store.layout])
    for number in range(len(stream)):
        (images,) = stream[number]
        pair = comparable(images, reconstruct(images))
        measured.add(*pair, subjects[rows[stream.rows(number)]])
    return measured


def measure_run(run, study, scans, store, rows, model, prior, codes):
    """Fills `metrics.json` and `subjects.csv` from test subjects; done once for each run."""
    if run.has("metrics.json"):
        return
    kind = hyperparameters.kind(study)
    metrics = MEASURES[kind](run, study, scans, store, rows, model, codes)
    if prior is not None:
        metrics["parameters"]["prior"] = prior.count_params()
        metrics["prior"] = measure_prior(study, store, rows, model, prior, codes)
        draw = {"slices": draw_samples, "volumes": draw_volumes, "bundles": bundles.draw_samples}[
            kind
        ]
        metrics["samples"] = draw(run, study, store, rows, model, prior)
    write_json(run.file("metrics.json"), metrics)


def measure_slices(run, study, scans, store, rows, model, codes):
    """The measures of a run on slices, as a dict; writes `subjects.csv`."""
    measured = similarity_of(model.reconstruct, store, rows["test"])
    write_csv(run.file("subjects.csv"), measured.table())
    metrics = {
        "test_subjects": len(measured.table()),
        "test_slices": len(rows["test"]),
        "simulated": scans.simulated,
        "ssim_settings": measured.parameters,
        "reconstruction": plain(evaluation.summary(measured.table())),
        "bits_per_slice": bits_per_sample(model, store),
        "parameters": {"autoencoder": model.count_params()},
    }
    if model.bottleneck.num_codes:
        metrics["grid"] = list(model.code_shape(store.sample_shape))
        metrics["stride"] = store.sample_shape[0] // metrics["grid"][0]
        baseline = fit_baseline(store, rows, model, codes)
        metrics["patch_kmeans"] = plain(
            evaluation.summary(similarity_of(baseline.reconstruct, store, rows["test"]).table())
        )
        metrics["codes"] = {
            split: {
                name: value
                for name, value in evaluation.code_usage(codes[split], model.num_codes).items()
                if name != "counts"
            }
            for split in ("validation", "test")
        }
    if study.data.transfer and study.data.source not in ("png", "images"):
        metrics["transfer"] = measure_transfer(
            study,
            scans,
            {"model": model} | ({"patch k-means": baseline} if "patch_kmeans" in metrics else {}),
        )
    return metrics


def measure_volumes(run, study, scans, store, rows, model, codes):
    """The measures of a run on volumes; writes `subjects.csv` and `codes/locations.npy`.

    Args:
        run: a `RunFolder`.
        study: a `hyperparameters.Study`.
        scans: the cohort with its split.
        store: an `ArrayStore` of volumes.
        rows: dict of split to sample numbers.
        model: an `Autoencoder`.
        codes: dict of split to codes `(n, *grid)`, or None where the model has none.

    Returns:
        Dict, the content of `metrics.json` without prior and samples.
    """
    measured = similarity_of(model.reconstruct, store, rows["test"])
    write_csv(run.file("subjects.csv"), measured.table())
    grid = model.code_shape(store.sample_shape)[:3]
    metrics = {
        "test_subjects": len(measured.table()),
        "simulated": scans.simulated,
        "ssim_settings": measured.parameters,
        "reconstruction": plain(evaluation.summary(measured.table())),
        "bits_per_volume": bits_per_sample(model, store),
        "grid": list(grid),
        "codes_per_cell": model.depth or 1,
        "stride": store.sample_shape[0] // grid[0],
        "parameters": {"autoencoder": model.count_params()},
    }
    if model.decodes_codes:
        metrics["patch_kmeans"] = measure_baseline(store, rows, model, codes)
    if model.continuous_weight:
        reconstruct = functools.partial(model.reconstruct, continuous=True)
        table = similarity_of(reconstruct, store, rows["test"]).table()
        metrics["continuous_reconstruction"] = plain(evaluation.summary(table))
    if not model.num_codes:
        return metrics
    # Each volume once, in the order of the splits: training has augmented copies behind it.
    every = {split: np.asarray(codes[split][: len(rows[split])]) for split in rows}
    every = {split: modules.first_codes(model, found) for split, found in every.items()}
    whole = np.concatenate(list(every.values()))
    metrics["codes"] = {
        name: usage_of(found, model.num_codes)
        for name, found in (
            ("validation", every["validation"]),
            ("test", every["test"]),
            ("all", whole),
        )
    }
    write_array(
        run.file("codes", "locations.npy"), evaluation.code_locations(whole, model.num_codes)
    )
    metrics["som"] = measure_map(store, rows, model)
    tissue = measure_tissue(scans, store, rows, every["test"], model.num_codes)
    return metrics if tissue is None else metrics | {"tissue": tissue}


def measure_vectors(run, study, scans, store, rows, model, codes):
    """The measures of a run whose volumes become vectors and no codes; see `vectors.measure`."""
    del codes

    def reconstruction(reconstruct):
        return similarity_of(reconstruct, store, rows["test"], vectors.BATCH)

    measured = reconstruction(model.reconstruct)
    write_csv(run.file("subjects.csv"), measured.table())
    return {
        "test_subjects": len(measured.table()),
        "test_scans": len(rows["test"]),
        "simulated": scans.simulated,
        "ssim_settings": measured.parameters,
        "reconstruction": plain(evaluation.summary(measured.table())),
        "parameters": {"autoencoder": model.count_params()},
        **vectors.measure(
            run,
            study,
            scans,
            StoredVolumes(store, rows["train"]),
            store,
            rows,
            model,
            lambda reconstruct: plain(evaluation.summary(reconstruction(reconstruct).table())),
        ),
    }


MEASURES = {
    "slices": measure_slices,
    "volumes": measure_volumes,
    "bundles": bundles.measure,
    "vectors": measure_vectors,
}


def usage_of(codes, num_codes):
    """Use of the codebook by code maps, and the mean number of codes in a map."""
    usage = evaluation.code_usage(codes, num_codes)
    del usage["counts"]
    return usage | {"used_per_volume": float(evaluation.codes_per_map(codes).mean())}


def measure_map(store, rows, model):
    """How near the nodes are to the encodings of test subjects, and how ordered they are."""
    quantizer = modules.first_quantizer(model)
    codebook = keras.ops.convert_to_numpy(quantizer.codebook)
    is_map = hasattr(quantizer, "som_grid")
    neighbours = quantizer.som_grid.neighbours if is_map else np.full((len(codebook), 1), -1)
    counter = TopologyCounter(codebook, neighbours)
    stream = BatchStream(store.read, rows["test"], BATCH[store.layout])
    for number in range(len(stream)):
        counter.add(directions(quantizer, model.continuous(*stream[number])))
    found = counter.measures()
    if is_map:
        return {"neighbour_correlation": neighbour_correlation(codebook, neighbours), **found}
    del found["topographic_error"]
    return found


def directions(quantizer, vectors):
    """`vectors` as the quantiser compares them: of length 1 where only directions count."""
    if quantizer.distance != "cosine":
        return vectors
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def measure_tissue(scans, store, rows, codes, num_codes):
    """How much codes of test subjects tell of the tissue in the brain that they cover.

    Args:
        scans: the cohort.
        store: an `ArrayStore` of volumes.
        rows: dict of split to sample numbers.
        codes: int `(n, *grid)`, those of the test subjects.
        num_codes: size of the codebook.

    Returns:
        Dict of the measures, with those of the place on the grid alone as `position`: what a code
        tells beyond them is more than where it lies. None where tissues are not known.
    """
    if not scans.simulated:
        return None
    paths = dict(zip(scans.table["scan_id"], scans.table["paths"], strict=True))
    grid = codes.shape[1:]
    places = np.arange(np.prod(grid)).reshape(1, *grid)
    by_code = TissueOverlap(num_codes, len(LABELS))
    by_place = TissueOverlap(places.size, len(LABELS))
    for row, code_map in zip(rows["test"], codes, strict=True):
        scan = store.table["scan_id"].iloc[row]
        try:
            labels = prepared_labels(store, scan, paths[scan])
        except UserError:
            return None  # a simulated data set that came without its labels
        by_code.add(code_map[None], labels[None])
        by_place.add(places, labels[None])
    # Background would flatter: half of a volume, and easily told.
    return by_code.measures(background=False) | {"position": by_place.measures(background=False)}


def prepared_labels(store, scan, paths):
    """Tissue labels of a simulated scan on the grid of its volume; kept beside the store.

    Every variant of a study asks for them, and it takes seconds to make them.
    """
    kept = store.path.with_name(f"{store.path.name}-tissue") / f"{scan}.npy"
    if not kept.exists():
        labels, affine = data.tissue_labels(paths)
        labels = data.to_original_grid(
            labels, affine, store.sample_shape[:-1], store.affine(scan), order=0
        )
        write_array(kept, labels.astype("uint8"))
    return np.load(kept)


def measure_baseline(store, rows, model, codes):
    """The measures of `fit_baseline`, which are the same for all variants of so many codes."""
    key = (str(store.path), model.num_codes, codes["test"].shape, *map(tuple, rows.values()))
    if key not in BASELINES:
        baseline = fit_baseline(store, rows, model, codes)
        table = similarity_of(baseline.reconstruct, store, rows["test"]).table()
        BASELINES[key] = plain(evaluation.summary(table))
    return BASELINES[key]


def fit_baseline(store, rows, model, codes):
    """K-means on patches of training samples: as many codes of as many bits as the model has."""
    patch = store.sample_shape[0] // codes["test"].shape[1]
    baseline = PatchKMeans(patch, model.num_codes, stages=model.depth or 1)
    picked = np.linspace(0, len(rows["train"]) - 1, BASELINE[store.layout])
    return baseline.fit(store.read(rows["train"][np.unique(picked.astype(int))]))


def measure_transfer(study, scans, models):
    """SSIM of test scans on matrices that training did not use, on the slices it would select.

    Args:
        study: a `hyperparameters.Study`.
        scans: the cohort with its split.
        models: dict of name to an object with `reconstruct`.

    Returns:
        List of a dict for each matrix and model: matrix, model and the measures.
    """
    test = scans.table[scans.table["split"] == "test"]
    found = []
    for size in study.data.transfer:
        matrix = (
            {"matrix": size, "spacing": dataset.FIELD_OF_VIEW / size}
            if size
            else {"matrix": "native"}
        )
        measured = {name: evaluation.SimilarityAccumulator() for name in models}
        for row in tqdm(
            test.itertuples(),
            desc=f"transfer to {size or 'native'}",
            total=len(test),
            disable=not sys.stderr.isatty(),
            leave=False,
        ):
            try:
                slices = dataset.prepared(study, row, selected=True, **matrix).slices
            except UserError:
                continue  # one that could not be read was named when the arrays were prepared
            for name, model in models.items():
                for start in range(0, len(slices), BATCH["slices"]):
                    batch = slices[start : start + BATCH["slices"]]
                    restored = np.clip(model.reconstruct(batch), 0, 1)
                    measured[name].add(batch, restored, [row.subject] * len(batch))
        found += [
            {
                "matrix": f"{size} x {size}" if size else "native",
                "model": name,
                **plain(evaluation.summary(accumulator.table())),
            }
            for name, accumulator in measured.items()
        ]
    return found


def measure_prior(study, store, rows, model, prior, codes):
    """Held-out bits per code of the prior, beside tables that need no network."""
    subjects = store.table["subject"].to_numpy()[rows["train"]]
    codes = {split: modules.prior_codes(np.asarray(found)) for split, found in codes.items()}
    train, test = codes["train"], codes["test"]
    tables = evaluation.NeighbourModel(seed=study.seed)
    tables.fit(train, model.num_codes, groups=np.tile(subjects, len(train) // len(subjects)))
    labels = labels_of(study, store, rows, codes, "test")
    unit = hyperparameters.layout(study.data).removesuffix("s")
    # What the prior is told beside the codes must be paid for: log2(levels) bits a slice.
    told = np.log2(modules.classes_of(study) or 1) / np.prod(test.shape[1:])
    ours, mix = prior.bits_per_code(test, labels) + told, tables.bits_per_code(test)
    healthy = -prior.code_log_prob(
        codes["validation"], labels_of(study, store, rows, codes, "validation")
    ) / np.log(2)
    return {
        # How surprising codes of unseen, usual brains are: what `anomaly` compares with.
        "validation_quantiles": {str(q): float(np.quantile(healthy, q)) for q in QUANTILES},
        "bits_per_code": ours,
        "of_which_level": told,
        "neighbour_tables": mix,
        "marginal": evaluation.marginal_bits(train, test, model.num_codes),
        "uniform": float(np.log2(model.num_codes)),
        "below_neighbour_tables": 1 - ours / mix,
        f"bits_per_{unit}": ours * float(np.prod(test.shape[1:])),
    }


def labels_of(study, store, rows, codes, split):
    """The class of each code map of a split, level or bundle; None where the prior is not told."""
    if not modules.classes_of(study):
        return None
    if store.layout == "bundles":
        found = bundles.labels(study, store, rows[split])
    else:
        found = dataset.levels(store, study.prior.levels)[rows[split]]
    return np.tile(found, len(codes[split]) // len(found))


def draw_samples(run, study, store, rows, model, prior):
    """Draws new slices into `samples/` and asks how near they are to training slices."""
    options = study.sampling
    images, codes = Trained(model, prior, [], {}, run.path).sample(
        options.samples,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=study.seed,
    )
    for name, array in (("codes", codes), ("samples", images)):
        write_array(run.file("samples", f"{name}.npy"), array)
    train, test = dataset.spread(rows["train"], 2048), dataset.spread(rows["test"], options.samples)
    references = store.read(train)
    number, distance = evaluation.nearest_images(images, references)
    _, usual = evaluation.nearest_images(store.read(test), references)
    write_array(run.file("samples", "nearest.npy"), references[number])
    return {
        "count": len(images),
        "distance_to_training": float(np.mean(distance)),
        "distance_of_unseen_to_training": float(np.mean(usual)),
    }


def draw_volumes(run, study, store, rows, model, prior):
    """Draws new volumes into `samples/` and asks how near they are to training volumes.

    Written are `codes.npy`, a NIfTI file of each sample, in the units of the network above their
    background, and `nearest.csv` with the training scan nearest to each.
    """
    options = study.sampling
    codes = prior.sample(
        options.samples,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=study.seed,
    )
    write_array(run.file("samples", "codes.npy"), codes)
    training = StoredVolumes(store, rows["train"])
    found, usual = [], []
    for start in range(0, len(codes), COMPARED):
        volumes = model.decode(codes[start : start + COMPARED], batch_size=BATCH["volumes"])
        for number, volume in enumerate(volumes, start + 1):
            file = run.file("samples", f"sample-{number:02d}.nii.gz")
            image = data.above_background(volume[..., 0])
            data.save_nifti(file, image, centred_affine(store))
        found += nearest(volumes, training)
    unseen = dataset.spread(rows["test"], options.samples)
    for start in range(0, len(unseen), COMPARED):
        usual += nearest(store.read(unseen[start : start + COMPARED]), training)
    scans = store.table["scan_id"].iloc[[rows["train"][place] for place, _ in found]]
    table = pd.DataFrame({"scan_id": scans.to_numpy(), "distance": [far for _, far in found]})
    table.insert(0, "sample", np.arange(1, len(table) + 1))
    write_csv(run.file("samples", "nearest.csv"), table)
    return {
        "count": len(codes),
        "distance_to_training": float(table["distance"].mean()),
        "distance_of_unseen_to_training": float(np.mean([far for _, far in usual])),
    }


class StoredVolumes:
    """Samples of a store as an array that reads what is asked for, when it is asked for."""

    def __init__(self, store, rows):
        self.store, self.rows = store, rows
        self.shape = (len(rows), *store.sample_shape)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, places):
        chosen = self.rows[places]
        found = self.store.read(np.atleast_1d(chosen))
        return found if np.ndim(chosen) else found[0]


def nearest(volumes, training):
    """Place of the nearest of `training`, and root mean square distance, for each of `volumes`."""
    places, distances = evaluation.nearest_images(volumes, training, ndim=3, chunk=4)
    return list(zip(places.tolist(), distances.tolist(), strict=True))


def centred_affine(store):
    """Voxel index to mm for volumes like those of a store, the middle of the grid at 0."""
    spacing = voxel_sizes(store.scans["affine"].iloc[0])
    return data.oriented_affine(store.sample_shape[:-1], spacing, "LPS")


def report_run(run, study, scans, store, rows, model, prior, codes):
    """Draws every figure of the study and writes `report.html` and `MODEL_CARD.md`."""
    about, metrics = run.study, run.metrics()
    write, describe, draw = {
        "slices": (slices_report, slices_card, draw_figures),
        "volumes": (volumes_report, volumes_card, draw_figures),
        "bundles": (bundles_report, bundles_card, bundles.draw),
        "vectors": (vectors_report, vectors_card, vectors.draw),
    }[hyperparameters.kind(study)]
    report = write(
        about,
        metrics,
        read_subjects(run),
        draw(run, study, scans, store, rows, model, prior, codes, metrics),
        note=scans.note,
        failures=[f"{scan}: {why}" for scan, why in store.failures.itertuples(index=False)],
        timings=read_json(run.file("timings.json")),
    )
    write_report(run.file("report.html"), report)
    first = scans.table.drop_duplicates("subject")
    counts = {
        split: int((first["split"] == split).sum()) if "split" in first else len(rows[split])
        for split in dataset.SPLITS
    }
    card = describe(
        about,
        metrics,
        split=counts,
        data_facts=dataset.facts(study, scans),
    )
    write_model_card(run.file("MODEL_CARD.md"), card)


def read_subjects(run):
    """Measures per test subject; a subject called 02 stays 02."""
    return pd.read_csv(run.file("subjects.csv"), dtype={"subject": str})


def draw_figures(run, study, scans, store, rows, model, prior, codes, metrics):
    """All figures of the study, as a dict of name to path."""
    simulated = scans.simulated

    def at(name):
        return run.file("figures", f"{name}.png")

    history = pd.read_csv(run.file("history.csv"))
    drawn = {
        "losses": figures.loss_curves(history, simulated=simulated, path=at("losses")),
        "ssim": figures.ssim_curve(history, simulated=simulated, path=at("ssim")),
        "subjects": figures.subject_scores(
            read_subjects(run), simulated=simulated, path=at("subjects")
        ),
    }
    if model.num_codes:
        found = modules.first_codes(model, codes["test"])
        counts = evaluation.code_usage(found, model.num_codes)["counts"]
        drawn["usage"] = figures.code_usage_bars(counts, simulated=simulated, path=at("usage"))
    if prior is not None:
        bits = metrics["prior"]
        drawn["prior"] = figures.prior_curve(
            pd.read_csv(run.file("prior_history.csv")),
            baselines={
                "marginal": bits["marginal"],
                "neighbour and position tables": bits["neighbour_tables"],
            },
            simulated=simulated,
            path=at("prior"),
        )
    draw = slice_figures if study.data.shape is None else volume_figures
    return drawn | draw(run, study, scans, store, rows, model, prior, codes, metrics, at)


def slice_figures(run, study, scans, store, rows, model, prior, codes, metrics, at):
    """What `draw_figures` draws of slices; `at` gives the path of a figure by its name."""
    simulated = scans.simulated
    options = {"simulated": simulated, "spacing": dataset.pixel_size(store)}
    shown = dataset.spread(rows["test"], COLUMNS)
    images = store.read(shown)
    restored = np.clip(model.reconstruct(images), 0, 1)
    subjects = store.table["subject"].to_numpy()[shown]
    drawn = {
        "reconstructions": figures.reconstruction_grid(
            images,
            restored,
            titles=[str(subject) for subject in subjects],
            ssim=evaluation.ssim(images, restored),
            title="Slices of unseen subjects, their reconstructions and the error",
            path=at("reconstructions"),
            **options,
        )
    }
    if "transfer" in metrics:
        test = scans.table[scans.table["split"] == "test"]
        row = next(test[test["scan_id"].isin(store.scans["scan_id"])].itertuples())
        scan = dataset.prepared(study, row, matrix="native")
        volume = scan.to_volume(np.clip(model.reconstruct(scan.slices), 0, 1))
        drawn["planes"] = reconstruction_planes(
            scan.to_volume(scan.slices),
            volume,
            scan.original_affine,
            at("planes"),
            title=f"Test subject {row.subject}, every axial slice through its codes",
            simulated=simulated,
        )
    if model.num_codes:
        counts = evaluation.code_usage(codes["test"], model.num_codes)["counts"]
        codebook = keras.ops.convert_to_numpy(model.bottleneck.codebook)
        drawn["codes"] = figures.code_map_grid(
            images,
            model.codes(images),
            model.num_codes,
            codebook=codebook,
            path=at("codes"),
            **options,
        )
        drawn["codebook"] = figures.codebook_projection(
            codebook, counts, simulated=simulated, path=at("codebook")
        )
    if prior is not None:
        samples = np.load(run.file("samples", "samples.npy"))
        real = dataset.spread(rows["test"], 64)
        if study.prior.levels:  # from the lowest slice to the highest, like the samples
            real = real[np.argsort(dataset.levels(store, 64)[real], kind="stable")]
        drawn["samples"] = figures.sample_grid(
            samples,
            store.read(real),
            title=f"Generated brains beside {'simulated' if simulated else 'real'} ones",
            path=at("samples"),
            **options,
        )
        drawn["nearest"] = figures.nearest_neighbours(
            samples[:COLUMNS],
            np.load(run.file("samples", "nearest.npy"))[:COLUMNS],
            path=at("nearest"),
            **options,
        )
    return drawn


def volume_figures(run, study, scans, store, rows, model, prior, codes, metrics, at):
    """What `draw_figures` draws of volumes; `at` gives the path of a figure by its name."""
    options = {"simulated": scans.simulated}
    row, subject = usual_row(run, store, rows)
    affine = store.affine(store.table["scan_id"].iloc[row])
    images = store.read([row])
    image, restored = (x[0, ..., 0] for x in to_unit(images, model.reconstruct(images)))
    drawn = {
        "reconstructions": reconstruction_planes(
            image,
            restored,
            affine,
            at("reconstructions"),
            title=f"Test subject {subject}, whose SSIM is the median",
            **options,
        )
    }
    if model.continuous_weight:
        _, continuous = to_unit(images, model.reconstruct(images, continuous=True))
        drawn["continuous"] = three_planes(
            {"original": image, "from codes": restored, "from vectors": continuous[0, ..., 0]},
            affine,
            at("continuous"),
            title=f"Test subject {subject}, from its codes and from what is quantised to them",
            **options,
        )
    if model.num_codes:
        drawn |= map_figures(run, store, rows, model, codes, row, image, affine, at, options)
    if prior is not None:
        drawn |= sample_figures(run, store, rows, at, options)
    return drawn


def usual_row(run, store, rows):
    """Sample number and name of the test subject whose SSIM is the (lower) median."""
    subjects = read_subjects(run).sort_values("ssim")["subject"]
    subject = subjects.iloc[(len(subjects) - 1) // 2]
    found = store.table["subject"].astype(str).to_numpy()[rows["test"]] == subject
    return rows["test"][np.flatnonzero(found)[0]], subject


def map_figures(run, store, rows, model, codes, row, image, affine, at, options):
    """Codebook, encodings and places of the codes, of a model of volumes."""
    quantizer = modules.first_quantizer(model)
    codebook = keras.ops.convert_to_numpy(quantizer.codebook)
    first = modules.first_codes(model, codes["test"])
    counts = evaluation.code_usage(first, model.num_codes)["counts"]
    grid = getattr(quantizer, "som_grid", None)
    shape = {name: getattr(grid, name, None) for name in ("height", "width", "topology")}
    vectors = [
        model.continuous(store.read([shown])) for shown in dataset.spread(rows["test"], SHOWN)
    ]
    # An average of the same brains as they are seen by the network, each from 0 to 1.
    average = np.mean(
        [
            to_unit(*[store.read([shown])] * 2)[0]
            for shown in dataset.spread(rows["train"], AVERAGED)
        ],
        axis=0,
    )
    drawn = {
        "tsne": som.encodings_tsne(
            directions(quantizer, np.concatenate(vectors)),
            codebook,
            counts,
            at("tsne"),
            **shape,
            **options,
        ),
        "locations": som.code_locations(
            np.load(run.file("codes", "locations.npy")),
            average[0, ..., 0],
            centred_affine(store),
            at("locations"),
            **shape,
            **options,
        ),
    }
    if grid is None:
        return drawn
    drawn["som_grid"] = som.som_grid(
        codebook, path=at("som_grid"), counts=counts, **shape, **options
    )
    shown = modules.first_codes(model, model.codes(store.read([row])))[0]
    for axis, blocks in enumerate(model.stride):
        shown = shown.repeat(blocks, axis)
    inside = evaluation.foreground(image[None], ndim=3)[0]
    drawn["brain_on_grid"] = som.brain_on_grid(
        image, np.where(inside, shown, -1), affine, path=at("brain_on_grid"), **shape, **options
    )
    return drawn


def sample_figures(run, store, rows, at, options):
    """New volumes beside those of test subjects, and beside the training volumes nearest to them.

    All are shown as they lie in the grid of the network.
    """
    table = pd.read_csv(run.file("samples", "nearest.csv"), dtype={"scan_id": str}).head(PLANES)
    samples = {
        f"generated {number}": nib.load(
            run.file("samples", f"sample-{number:02d}.nii.gz")
        ).get_fdata(dtype="float32")
        for number in table["sample"]
    }
    names = store.table["scan_id"].astype(str).to_numpy()

    def stored(row):
        return data.above_background(store.read([row])[0, ..., 0])

    real = {f"{names[row]}, unseen": stored(row) for row in dataset.spread(rows["test"], PLANES)}
    beside = {}
    for (name, sample), found in zip(samples.items(), table.itertuples(), strict=True):
        nearest_row = np.flatnonzero(names == found.scan_id)[0]
        beside[name] = sample
        beside[f"{found.scan_id}, nearest to {found.sample}"] = stored(nearest_row)
    affine = centred_affine(store)
    kind = "simulated" if options["simulated"] else "real"
    return {
        "samples": three_planes(
            samples | real,
            affine,
            at("samples"),
            position=(0, 0, 0),
            title=f"Generated brains above {kind} ones",
            **options,
        ),
        "nearest": three_planes(
            beside,
            affine,
            at("nearest"),
            position=(0, 0, 0),
            title="Generated brains, each above the training volume nearest to it",
            **options,
        ),
    }


def plain(table):
    """A summary table as {measure: {mean, sd, n}}."""
    return {row["measure"]: {k: row[k] for k in ("mean", "sd", "n")} for _, row in table.iterrows()}


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
