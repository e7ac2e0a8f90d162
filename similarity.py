"""Measure trained runs on the subjects they never saw: SSIM, PSNR, code usage, bits.

    python similarity.py [RUN ...]      without a RUN, the newest one

Prints a table, a row for each run, and writes similarity.csv and similarity.png beside the runs.
The same measures and figures make the report at the end of `train.py`.
"""

import sys

import brainvq  # noqa: F401 (first: it keeps TensorFlow's start-up lines off the screen)

# isort: split
import keras
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

import dataset
import hyperparameters
from brainvq import evaluation
from brainvq.errors import UserError
from brainvq.evaluation.baselines import PatchKMeans
from brainvq.files import atomic_path, read_json, write_csv, write_json
from brainvq.reports import figures
from brainvq.reports.html import write_report
from brainvq.reports.model_card import write_model_card
from brainvq.reports.planes import reconstruction_planes
from brainvq.reports.slices import slices_card, slices_report
from brainvq.training.pretrained import Trained, load_model
from brainvq.training.programs import run_program
from brainvq.training.runs import RunFolder, start_log
from brainvq.training.stream import BatchStream

BATCH = 64
# Training slices that the patch codec is fitted on: more than its 200,000 patches need.
BASELINE_SLICES = 1024
# Shares of the codes whose surprise is noted.
QUANTILES = (0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
# Columns of the pictures that show single slices.
COLUMNS = 8


def main(arguments):
    """Measures runs anew and compares them."""
    if any(word in ("-h", "--help") for word in arguments):
        print(__doc__)
        return
    if any(word.startswith("-") for word in arguments):
        raise UserError(f"{arguments[0]}: no such option; expected folders of runs")
    log = start_log()
    if arguments:
        runs = [RunFolder.open(path) for path in arguments]
    else:
        newest = RunFolder.newest("runs")
        if newest is None:
            raise UserError("runs: holds no trained run; expected one (python train.py makes it)")
        runs = [newest]
    tables, extra, simulated = {}, {}, []
    for run in runs:
        study = hyperparameters.from_dict(run.study["study"])
        scans = dataset.cohort_of_run(study, run)
        store = dataset.arrays(study, scans)
        rows = dataset.split_rows(scans, store)
        model = load_model(run.require("model.keras", "it has not finished training"))
        tables[run.name] = similarity_of(model.reconstruct, store, rows["test"]).table()
        simulated.append(scans.simulated)
        extra[run.name] = {
            "bits_per_slice": bits_per_slice(model, store),
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


def watch(images, reconstructions):
    """SSIM on the slices that are looked at after every epoch."""
    reconstructions = np.clip(reconstructions, 0, 1)
    mask = evaluation.foreground(images)
    return {
        "val_ssim": float(evaluation.ssim(images, reconstructions).mean()),
        "val_ssim_foreground": float(
            np.nanmean(evaluation.ssim(images, reconstructions, mask=mask))
        ),
    }


def bits_per_slice(model, store):
    """Codes of a slice times bits of a code; None without codes."""
    if not model.bottleneck.num_codes:
        return None
    return float(np.prod(model.code_shape(store.sample_shape)) * model.bits_per_code)


def used(model, store, rows):
    """Codes used by test subjects, and their perplexity; empty without codes."""
    if not model.bottleneck.num_codes:
        return {}
    counter = evaluation.CodeCounter(model.num_codes)
    stream = BatchStream(store.read, rows["test"], BATCH)
    for number in range(len(stream)):
        counter.add(model.encode(*stream[number]))
    usage = counter.usage()
    return {name: usage[name] for name in ("used", "num_codes", "perplexity")}


def similarity_of(reconstruct, store, rows):
    """Streams `rows` through `reconstruct`; returns the filled `SimilarityAccumulator`."""
    measured = evaluation.SimilarityAccumulator()
    subjects = store.table["subject"].to_numpy()
    stream = BatchStream(store.read, rows, BATCH)
    for number in range(len(stream)):
        (images,) = stream[number]
        restored = np.clip(reconstruct(images), 0, 1)
        measured.add(images, restored, subjects[rows[stream.rows(number)]])
    return measured


def measure_run(run, study, scans, store, rows, model, prior, codes):
    """Fills `metrics.json` and `subjects.csv` from test subjects; done once for each run."""
    if run.has("metrics.json"):
        return
    measured = similarity_of(model.reconstruct, store, rows["test"])
    write_csv(run.file("subjects.csv"), measured.table())
    metrics = {
        "test_subjects": len(measured.table()),
        "test_slices": len(rows["test"]),
        "simulated": scans.simulated,
        "ssim_settings": measured.parameters,
        "reconstruction": plain(evaluation.summary(measured.table())),
        "bits_per_slice": bits_per_slice(model, store),
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
    if prior is not None:
        metrics["parameters"]["prior"] = prior.count_params()
        metrics["prior"] = measure_prior(study, store, rows, model, prior, codes)
        metrics["samples"] = draw_samples(run, study, store, rows, model, prior)
    write_json(run.file("metrics.json"), metrics)


def fit_baseline(store, rows, model, codes):
    """K-means on patches of training slices: as many codes of as many bits as the model has."""
    grid = codes["test"].shape[1:]
    patch = store.sample_shape[0] // grid[0]
    baseline = PatchKMeans(patch, model.num_codes)
    picked = np.unique(np.linspace(0, len(rows["train"]) - 1, BASELINE_SLICES).astype(int))
    return baseline.fit(store.read(rows["train"][picked]))


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
                for start in range(0, len(slices), BATCH):
                    batch = slices[start : start + BATCH]
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
    train, test = np.asarray(codes["train"]), np.asarray(codes["test"])
    tables = evaluation.NeighbourModel(seed=study.seed)
    tables.fit(train, model.num_codes, groups=np.tile(subjects, len(train) // len(subjects)))
    labels = labels_of(study, store, rows, codes, "test")
    # What the prior is told beside the codes must be paid for: log2(levels) bits a slice.
    told = np.log2(study.prior.levels or 1) / np.prod(test.shape[1:])
    ours, mix = prior.bits_per_code(test, labels) + told, tables.bits_per_code(test)
    healthy = -prior.code_log_prob(
        np.asarray(codes["validation"]), labels_of(study, store, rows, codes, "validation")
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
        "bits_per_slice": ours * float(np.prod(test.shape[1:])),
    }


def labels_of(study, store, rows, codes, split):
    """The level of each code map of a split, or None where the prior is not told levels."""
    if not study.prior.levels:
        return None
    found = dataset.levels(store, study.prior.levels)[rows[split]]
    return np.tile(found, len(codes[split]) // len(found))


def draw_samples(run, study, store, rows, model, prior):
    """Draws new brains into `samples/` and asks how near they are to training slices."""
    options = study.sampling
    images, codes = Trained(model, prior, [], {}, run.path).sample(
        options.samples,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=study.seed,
    )
    for name, array in (("codes", codes), ("samples", images)):
        with atomic_path(run.file("samples", f"{name}.npy")) as temporary:
            np.save(temporary, array)
    train, test = spread(rows["train"], 2048), spread(rows["test"], options.samples)
    references = store.read(train)
    number, distance = evaluation.nearest_images(images, references)
    _, usual = evaluation.nearest_images(store.read(test), references)
    with atomic_path(run.file("samples", "nearest.npy")) as temporary:
        np.save(temporary, references[number])
    return {
        "count": len(images),
        "distance_to_training": float(np.mean(distance)),
        "distance_of_unseen_to_training": float(np.mean(usual)),
    }


def report_run(run, study, scans, store, rows, model, prior, codes):
    """Draws every figure of the study and writes `report.html` and `MODEL_CARD.md`."""
    about, metrics = run.study, run.metrics()
    report = slices_report(
        about,
        metrics,
        read_subjects(run),
        draw_figures(run, study, scans, store, rows, model, prior, codes, metrics),
        note=scans.note,
        failures=[f"{scan}: {why}" for scan, why in store.failures.itertuples(index=False)],
        timings=read_json(run.file("timings.json")),
    )
    write_report(run.file("report.html"), report)
    first = scans.table.drop_duplicates("subject")
    card = slices_card(
        about,
        metrics,
        split={split: int((first["split"] == split).sum()) for split in dataset.SPLITS},
        data_facts=dataset.facts(study, scans),
    )
    write_model_card(run.file("MODEL_CARD.md"), card)


def read_subjects(run):
    """Measures per test subject; a subject called 02 stays 02."""
    return pd.read_csv(run.file("subjects.csv"), dtype={"subject": str})


def draw_figures(run, study, scans, store, rows, model, prior, codes, metrics):
    """All figures of the study, as a dict of name to path."""
    simulated = scans.simulated
    spacing = dataset.pixel_size(store)

    def at(name):
        return run.file("figures", f"{name}.png")

    history = pd.read_csv(run.file("history.csv"))
    shown = spread(rows["test"], COLUMNS)
    images = store.read(shown)
    restored = np.clip(model.reconstruct(images), 0, 1)
    subjects = store.table["subject"].to_numpy()[shown]
    options = {"simulated": simulated, "spacing": spacing}
    drawn = {
        "reconstructions": figures.reconstruction_grid(
            images,
            restored,
            titles=[str(subject) for subject in subjects],
            ssim=evaluation.ssim(images, restored),
            title="Slices of unseen subjects, their reconstructions and the error",
            path=at("reconstructions"),
            **options,
        ),
        "losses": figures.loss_curves(history, simulated=simulated, path=at("losses")),
        "ssim": figures.ssim_curve(history, simulated=simulated, path=at("ssim")),
        "subjects": figures.subject_scores(
            read_subjects(run), simulated=simulated, path=at("subjects")
        ),
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
    if model.bottleneck.num_codes:
        counts = evaluation.code_usage(codes["test"], model.num_codes)["counts"]
        codebook = keras.ops.convert_to_numpy(model.bottleneck.codebook)
        drawn["codes"] = figures.code_map_grid(
            images,
            model.encode(images),
            model.num_codes,
            codebook=codebook,
            path=at("codes"),
            **options,
        )
        drawn["usage"] = figures.code_usage_bars(counts, simulated=simulated, path=at("usage"))
        drawn["codebook"] = figures.codebook_projection(
            codebook, counts, simulated=simulated, path=at("codebook")
        )
    if prior is not None:
        samples = np.load(run.file("samples", "samples.npy"))
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
        real = spread(rows["test"], 64)
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


def spread(rows, count):
    """At most `count` of `rows`, evenly spread."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]


def plain(table):
    """A summary table as {measure: {mean, sd, n}}."""
    return {row["measure"]: {k: row[k] for k in ("mean", "sd", "n")} for _, row in table.iterrows()}


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
