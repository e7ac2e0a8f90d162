"""Measures, figures and tables of a study whose volumes become vectors: reconstruction, generation,
what latents tell of the class, age and scanner, and whether a scanner could pass for a disease.

    python similarity.py runs/introvae3d-*          all of it, a row and a picture for each run
"""

import shutil

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

import dataset
import hyperparameters
from brainvq import data, evaluation
from brainvq.errors import UserError
from brainvq.evaluation.latents import TRAVERSAL_VALUES
from brainvq.files import atomic_path, records, write_array, write_csv
from brainvq.reports import figures, generation, latents

# Volumes that a network takes at a time.
BATCH = 16
# Test volumes that generated ones are compared with at most, and training volumes that spaces are
# fitted on; copies are looked for among all.
COMPARED, FITTED = 256, 1024
# Training volumes that principal components are fitted on, those of the baseline and those that a
# network starts from: what fits into 2 GB.
BASIS = 2048
# Draws of the bootstrap for distances of generated volumes.
DRAWS = 200
# Rows of the pictures, most class-dependent dimensions that are traversed, and steps of a walk.
SHOWN, TRAVERSED, STEPS = 4, 3, 5
# What the acquisition of a scan was, where the cohort knows it. Age and sex differ between diseases
# and are told apart from it.
ACQUISITION = ("tr", "te", "pixel_bandwidth", "manufacturer", "site", "field_strength")
UNITS = {
    "tr": "repetition time (s)",
    "te": "echo time (s)",
    "pixel_bandwidth": "pixel bandwidth (Hz)",
    "age": "age (years)",
}
# Table 2 of the source: precision and recall of IVAE-256, on its own test scans.
PUBLISHED = {
    "MS": (0.92, 0.89),
    "healthy": (0.75, 0.74),
    "leuko1": (0.43, 0.55),
    "leuko2": (0.25, 0.25),
    "leuko3": (0.48, 0.55),
}
CLASSES = tuple(PUBLISHED)
# The source puts the grades of leukoencephalopathy into one for its figure.
GRADES = ("leuko1", "leuko2", "leuko3")


class Components:
    """Principal components in the place of a network: the same calls, as many numbers.

    Args:
        count: int, numbers of a vector; fewer where there are fewer training volumes.
        seed: int.
    """

    def __init__(self, count, seed=0):
        self.count, self.seed = count, seed

    def fit(self, volumes):
        """Fits them on float `(n, x, y, z, 1)`; returns itself."""
        flat = np.asarray(volumes, "float32").reshape(len(volumes), -1)
        count = min(self.count, len(flat) - 1)
        self.shape = volumes.shape[1:]
        self.pca = PCA(count, svd_solver="randomized", random_state=self.seed).fit(flat)
        # Brains are no cloud of a Gaussian, but this is how one draws from components.
        self.spread = np.sqrt(self.pca.explained_variance_)
        return self

    @property
    def volumes(self):
        """What a deviation of 1 of each number changes, float32 `(count, x, y, z, 1)`."""
        return (self.pca.components_ * self.spread[:, None]).reshape(-1, *self.shape)

    def encode(self, volumes):
        """Float `(n, x, y, z, 1)` → `(n, count)`, each of mean 0 and deviation about 1."""
        return self.pca.transform(volumes.reshape(len(volumes), -1)) / self.spread

    def decode(self, z):
        """The way back, in [0, 1]."""
        flat = self.pca.inverse_transform(z * self.spread)
        return np.clip(flat, 0, 1).astype("float32").reshape(-1, *self.shape)

    def reconstruct(self, volumes):
        """There and back."""
        return self.decode(self.encode(volumes))

    def sample(self, n, seed=0):
        """Volumes of draws from N(0, I)."""
        z = np.random.default_rng(seed).standard_normal((n, len(self.spread)))
        return self.decode(z)


def principal_components(study, store, rows):
    """Those of training volumes, as many as a study's latent has numbers."""
    volumes = store.read(dataset.spread(rows, BASIS))
    return Components(study.model.latent_size, study.seed).fit(volumes)


def measure(run, study, scans, training, store, rows, model, similarity_of):
    """The measures of a run beside those of reconstruction; writes latents, samples and tables.

    Args:
        run: a `RunFolder`.
        study: a `hyperparameters.Study`.
        scans: the cohort with its split.
        training: the training volumes as an array that is read where it is asked for.
        store: an `ArrayStore` of volumes.
        rows: dict of split to sample numbers.
        model: an `IntroVAE`.
        similarity_of: function of a reconstruction → dict of measures on the test scans.

    Returns:
        Dict, a part of `metrics.json`.
    """
    reference = store.read(dataset.spread(rows["train"], FITTED))
    baseline = principal_components(study, store, rows["train"])
    about = scan_table(scans, store)
    picked = dataset.spread(rows["test"], COMPARED)
    unseen = store.read(picked), store.table["subject"].to_numpy()[picked]
    z = encodings(run, model, store, rows)
    found = {
        "latent_size": model.latent_size,
        "components": {
            "count": len(baseline.spread),
            "reconstruction": similarity_of(baseline.reconstruct),
        },
        "reconstruction_sharpness": records(sharpness_kept(model, *unseen)),
        "generation": generated(
            run, study, training, reference, unseen, store, rows, model, baseline
        ),
        "latents": latent_measures(run, study, about, z, store, rows, baseline),
    }
    audit = audited(run, about, z, rows, study)
    if audit:
        found["audit"] = audit
    if study.data.registration != "no":
        quality = dataset.registration_quality(study, scans, store)
        found["registration"] = {
            "scans": len(quality["table"]),
            "fit": float(quality["table"]["fit"].median()),
            "smallest": float(quality["table"]["fit"].min()),
            "outliers": list(quality["outliers"]),
            "sharpness": float(quality["sharpness"]),
        }
    return found


def scan_table(scans, store):
    """What the cohort knows of each scan of a store, in the order of the store."""
    table = scans.table.drop(columns="paths").set_index("scan_id")
    return table.loc[store.table["scan_id"]].reset_index()


def sharpness_kept(model, real, subjects):
    """Sharpness of reconstructions as a share of that of the test volumes themselves."""
    return evaluation.compare_sharpness(model.reconstruct(real), real, subjects=subjects)


def generated(run, study, training, reference, unseen, store, rows, model, baseline):
    """Draws volumes into `samples/` and compares them with unseen ones.

    Written are `samples.npy` (float16), NIfTI files of the first, `nearest.csv` and tables of every
    measure, of the model and of what the principal components draw.
    """
    options = study.sampling
    samples = model.sample(options.samples, seed=study.seed, temperature=options.temperature)
    write_array(run.file("samples", "samples.npy"), samples.astype("float16"))
    affine = grid_affine(study)
    for number, sample in enumerate(samples[:SHOWN], 1):
        file = run.file("samples", f"sample-{number:02d}.nii.gz")
        data.save_nifti(file, sample[..., 0], affine, mni=study.data.registration != "no")
    real, subjects = unseen
    near_real = evaluation.nearest_training(real, training)
    found = {"count": len(samples), "real": len(real)}
    for name, drawn in (
        ("model", samples),
        ("components", baseline.sample(len(samples), study.seed)),
    ):
        near = evaluation.nearest_training(drawn, training)
        tables = {
            "sharpness": evaluation.compare_sharpness(drawn, real, subjects=subjects),
            "diversity": evaluation.diversity(drawn, real, subjects=subjects, seed=study.seed),
            "fidelity": evaluation.fidelity(
                drawn, real, reference, subjects=subjects, draws=DRAWS, seed=study.seed
            ),
            "memorisation": evaluation.memorisation(near, near_real),
        }
        found[name] = {key: records(table) for key, table in tables.items()}
        if name == "model":
            scans = store.table["scan_id"].to_numpy()[rows["train"]][near["nearest"]]
            near.insert(0, "scan_id", scans)
            near.insert(0, "sample", np.arange(1, len(near) + 1))
            write_csv(run.file("samples", "nearest.csv"), near)
    return found


def encodings(run, model, store, rows):
    """Latents of every split, in `latents/<split>.npy`: dict of split to float32 `(n, dim)`."""
    found = {}
    for split, chosen in rows.items():
        parts = [
            model.encode(store.read(chosen[start : start + BATCH]), batch_size=BATCH)
            for start in range(0, len(chosen), BATCH)
        ]
        found[split] = np.concatenate(parts)
        write_array(run.file("latents", f"{split}.npy"), found[split])
    return found


def latent_measures(run, study, about, z, store, rows, baseline):
    """What latents tell: class and age of unseen scans; with the audit's removal of metadata."""
    write_csv(
        run.file("latents", "scans.csv"),
        pd.concat([about.iloc[rows[split]].assign(split=split) for split in rows]),
    )
    found = {"active": int(np.sum(z["train"].std(axis=0) > 0.1))}
    parts = {split: about.iloc[rows[split]] for split in rows}
    both = classes(parts["train"]), classes(parts["test"])
    if len(set(both[0]) - {""}) >= 2:
        dimensions = evaluation.class_dimensions(
            *known(z["train"], both[0], parts["train"]["subject"])
        )
        write_csv(run.file("latents", "dimensions.csv"), dimensions)
        found["dimensions"] = records(dimensions.head(TRAVERSED))
        flat = {split: components_of(baseline, store, rows[split]) for split in ("train", "test")}
        for name, (train, test) in {
            "classes": (z["train"], z["test"]),
            "classes_of_components": (flat["train"], flat["test"]),
        }.items():
            found[name] = discriminated(run, name, train, test, parts, both)
        meta = [acquisition(parts[split]) for split in ("train", "test")]
        if meta[0] is not None:
            *left, explained = evaluation.remove_metadata(z["train"], meta[0], z["test"], meta[1])
            found["classes_without_metadata"] = discriminated(
                run, "classes_without_metadata", *left, parts, both
            )
            found["explained_by_metadata"] = explained
    try:
        unseen = pd.concat([parts["validation"], parts["test"]])
        regression = evaluation.predict_age(
            np.concatenate([z["validation"], z["test"]]),
            unseen["age"],
            unseen["subject"],
            seed=study.seed,
        )
    except UserError:
        return found  # ages that are not known, or too few
    found["age"] = records(regression.table)
    write_csv(
        run.file("latents", "age.csv"),
        pd.DataFrame({"age": regression.ages, "predicted": regression.predicted}),
    )
    return found


def components_of(baseline, store, rows):
    """Principal components of the volumes in `rows`, read in batches."""
    return np.concatenate(
        [
            baseline.encode(store.read(rows[start : start + BATCH]))
            for start in range(0, len(rows), BATCH)
        ]
    )


def classes(table):
    """The class of each scan; "" where it is not known."""
    return table["group"].fillna("").astype(str).to_numpy()


def known(z, labels, subjects):
    """Latents, classes and subjects of the scans whose class is known."""
    kept = labels != ""
    return z[kept], labels[kept], np.asarray(subjects)[kept]


def discriminated(run, name, train, test, parts, labels):
    """Linear discriminants fitted on training scans, applied to test scans; keeps their places."""
    train, train_labels, _ = known(train, labels[0], parts["train"]["subject"])
    test, test_labels, subjects = known(test, labels[1], parts["test"]["subject"])
    kept = np.isin(test_labels, train_labels)
    order = sorted(set(train_labels), key=lambda c: (CLASSES.index(c) if c in CLASSES else 99, c))
    found = evaluation.discriminate(
        train,
        train_labels,
        test[kept],
        test_labels[kept],
        classes=order,
        subjects=subjects[kept],
    )
    write_array(run.file("latents", f"{name}.npy"), found.components)
    write_csv(
        run.file("latents", f"{name}.csv"),
        pd.DataFrame(
            {
                "subject": subjects[kept],
                "class": test_labels[kept],
                "given": np.asarray(found.classes)[found.probabilities.argmax(axis=1)],
            }
        ),
    )
    return {
        "table": records(found.table),
        "summary": records(found.summary),
        "explained": found.explained.tolist(),
    }


def acquisition(table):
    """The columns on how a scan was made that the cohort knows; None where it knows none."""
    kept = [name for name in ACQUISITION if name in table and table[name].notna().any()]
    kept = [name for name in kept if (table[name].astype(str) != "").any()]
    return table[kept].reset_index(drop=True) if kept else None


def audited(run, about, z, rows, study):
    """Whether the acquisition could pass for the disease, over all scans; None where not known.

    Written is `audit.csv`, a row per test.
    """
    meta, labels = acquisition(about), classes(about)
    kept = labels != ""
    if meta is None or len(set(labels[kept])) < 2:
        return None
    latent = np.zeros((len(about), z["test"].shape[1]))
    used = np.zeros(len(about), bool)
    for split in rows:
        latent[rows[split]], used[rows[split]] = z[split], True
    kept &= used
    found = evaluation.bias_audit(
        meta[kept], labels[kept], about["subject"][kept], latents=latent[kept], seed=study.seed
    )
    write_csv(run.file("audit.csv"), found.tests)
    return {
        "alarm": bool(found.alarm),
        "findings": [finding._asdict() for finding in found.findings],
        "tests": records(found.tests),
        "predictions": records(found.predictions),
        "subjects": found.subjects,
        "notes": list(found.notes),
        "people": records(people(about[kept], labels[kept])),
    }


def people(about, labels):
    """Age and share of women of each class, counted by subject."""
    first = about.assign(group=labels).drop_duplicates("subject")
    rows = []
    for name, part in first.groupby("group"):
        age = part["age"].dropna()
        known_sex = part["sex"][part["sex"].isin(["F", "M"])]
        rows.append(
            {
                "class": name,
                "subjects": len(part),
                "age": age.mean(),
                "sd": age.std(ddof=1),
                "women": (known_sex == "F").mean() if len(known_sex) else np.nan,
            }
        )
    return pd.DataFrame(rows)


def grid_affine(study):
    """Voxel index to mm of volumes that belong to no scan."""
    return dataset.grid_affine(hyperparameters.to_dict(study)["data"])


def frame(rows):
    """The table that `records` wrote."""
    return pd.DataFrame(rows).infer_objects().fillna(np.nan)


def draw(run, study, scans, store, rows, model, prior, codes, metrics):
    """All figures of a run, as a dict of name to path; `prior` and `codes` are None."""
    del prior, codes
    simulated = scans.simulated

    def at(name):
        return run.file("figures", f"{name}.png")

    history = pd.read_csv(run.file("history.csv"))
    terms = history.drop(columns=["encoder_loss", "decoder_loss"], errors="ignore")
    drawn = {
        "losses": figures.loss_curves(terms, simulated=simulated, path=at("losses")),
        "ssim": figures.ssim_curve(history, simulated=simulated, path=at("ssim")),
        "divergence": generation.divergence_curves(
            history, simulated=simulated, path=at("divergence")
        ),
        "subjects": figures.subject_scores(
            pd.read_csv(run.file("subjects.csv"), dtype={"subject": str}),
            simulated=simulated,
            path=at("subjects"),
        ),
    }
    affine = grid_affine(study)
    about = scan_table(scans, store)
    shown = one_of_each(about, rows["test"])
    real = store.read(shown)
    subjects, groups = about["subject"].to_numpy(), classes(about)
    names = [f"{subjects[row]}, {groups[row] or 'test'}" for row in shown]
    drawn["reconstructions"] = generation.generated_planes(
        {"unseen scans": real, "reconstructions": model.reconstruct(real)},
        affine,
        at("reconstructions"),
        reference="unseen scans",
        title="Unseen scans and their reconstructions: " + "; ".join(names),
        simulated=simulated,
    )
    samples = np.load(run.file("samples", "samples.npy"), mmap_mode="r")[:SHOWN]
    samples = samples.astype("float32")
    drawn["samples"] = generation.generated_planes(
        {"generated": samples, "unseen scans": real},
        affine,
        at("samples"),
        title=f"Generated brains beside {'simulated' if simulated else 'real'} ones",
        simulated=simulated,
    )
    near = pd.read_csv(run.file("samples", "nearest.csv"), dtype={"scan_id": str}).head(SHOWN)
    places = pd.Index(store.table["scan_id"].astype(str)).get_indexer(near["scan_id"])
    drawn["nearest"] = generation.generated_planes(
        {"generated": samples, "nearest training scan": store.read(places)},
        affine,
        at("nearest"),
        title="Generated brains, each beside the training scan nearest to it",
        simulated=simulated,
    )
    pair = shown[[0, -1]]
    ends = model.encode(store.read(pair))
    way = model.decode(evaluation.interpolate(*ends, STEPS).astype("float32"))
    first, last = (f"{subjects[row]} ({groups[row] or 'test'})" for row in pair)
    drawn["interpolation"] = generation.traversal_grid(
        way[None],
        affine,
        at("interpolation"),
        values=np.linspace(0, 1, STEPS),
        dimensions=[f"{first}\nto {last}"],
        row="{}",
        column="share of the way",
        title="On the way from one unseen scan to another",
        simulated=simulated,
    )
    if "registration" in metrics:
        quality = dataset.registration_quality(study, scans, store)
        with atomic_path(at("registration")) as temporary:
            shutil.copyfile(quality["picture"], temporary)
        drawn["registration"] = at("registration")
    drawn["generation"] = generation_figure({"this model": metrics}, at("generation"), simulated)
    return drawn | latent_figures(run, study, about, store, rows, model, metrics, at, simulated)


def one_of_each(about, rows):
    """A test scan of each class, at most `SHOWN`; of fewer classes, more of each."""
    found, labels = [], classes(about.iloc[rows])
    order = [name for name in CLASSES if name in labels]
    order += sorted(set(labels) - set(order))
    queues = [list(rows[labels == name]) for name in order]
    while len(found) < SHOWN and any(queues):
        found += [queue.pop(0) for queue in queues if queue]
    return np.array(sorted(found[:SHOWN], key=list(rows).index))


def generation_figure(metrics, path, simulated):
    """Sharpness, diversity and distances of the samples of runs, and of principal components."""
    made = {name: found["generation"] for name, found in metrics.items()}
    first = next(iter(metrics.values()))
    counts = f"principal components ({first['components']['count']})"
    tables = {name: found["model"] for name, found in made.items()}
    tables[counts] = next(iter(made.values()))["components"]
    return generation.generation_figure(
        *(
            {name: frame(found[key]) for name, found in tables.items()}
            for key in ("sharpness", "diversity")
        ),
        path,
        distances={name: frame(found["fidelity"]) for name, found in tables.items()},
        simulated=simulated,
    )


def latent_figures(run, study, about, store, rows, model, metrics, at, simulated):
    """What latents tell, as figures."""
    drawn, found = {}, metrics["latents"]
    if "dimensions" in found:
        dimensions = [row["dimension"] for row in found["dimensions"]]
        walked = evaluation.traverse(np.zeros(model.latent_size), dimensions)
        decoded = model.decode(walked.reshape(-1, model.latent_size).astype("float32"))
        drawn["traversal"] = generation.traversal_grid(
            decoded.reshape(*walked.shape[:2], *decoded.shape[1:]),
            grid_affine(study),
            at("traversal"),
            values=TRAVERSAL_VALUES,
            dimensions=dimensions,
            title="Latents that differ most between classes, changed one at a time",
            simulated=simulated,
        )
        table = pd.read_csv(run.file("latents", "classes.csv"), dtype=str, keep_default_na=False)
        drawn["lda"] = scatter(
            {study.variant: np.load(run.file("latents", "classes.npy"))},
            table["class"],
            at("lda"),
            simulated,
        )
        drawn["classes"] = latents.class_table_figure(
            frame(found["classes"]["table"]),
            at("classes"),
            published=PUBLISHED,
            simulated=simulated,
        )
    if "age" in found:
        drawn["age"] = latents.age_scatter(
            pd.read_csv(run.file("latents", "age.csv")), at("age"), simulated=simulated
        )
    if "audit" in metrics:
        meta, labels = acquisition(about), classes(about)
        kept = labels != ""
        drawn["metadata"] = latents.metadata_figure(
            evaluation.metadata_histograms(meta[kept], labels[kept]),
            at("metadata"),
            tests=frame(metrics["audit"]["tests"]),
            names=UNITS,
            simulated=simulated,
        )
    return drawn


def scatter(components, labels, path, simulated):
    """Test scans on the first discriminants of each model; grades are one, as in the source."""
    merged = ["leuko" if label in GRADES else label for label in labels]
    names = sorted(set(merged))
    return latents.lda_scatter(
        components,
        np.array([names.index(label) for label in merged]),
        names,
        path,
        simulated=simulated,
    )


def compare(runs, studies, opened, log):
    """Tables and figures of several runs on one cohort: reconstruction, generation, classes, audit.

    Args:
        runs: list of `RunFolder`, measured.
        studies: their studies.
        opened: function `(run, study)` → cohort, store, rows of each split, model.
        log: a logger.
    """
    place = runs[0].path.parent
    metrics = {run.name: run.metrics() for run in runs}
    rows = [row_of(run, study, metrics[run.name]) for run, study in zip(runs, studies, strict=True)]
    table = pd.DataFrame(rows)
    write_csv(place / "similarity.csv", table)
    log.info("%s", printed(table).to_string(index=False))
    log.info(
        "SSIM: 3D, 7x7x7 window; fg: foreground; mean and sd over test subjects. Lap: Laplacian "
        "energy in the foreground as a share of that of unseen scans. KD: kernel distance of "
        "generated from unseen volumes, in components and wavelets (training volumes: see the "
        "report). Pairs: mean MS-SSIM of pairs of generated (unseen) volumes. Copies: share of "
        "generated volumes nearer to training than 95 % of unseen ones. PCA: as many principal "
        "components"
    )
    told = [class_rows(study, metrics[run.name]) for run, study in zip(runs, studies, strict=True)]
    told = [part for part in told if len(part)]
    told = pd.concat(told) if told else pd.DataFrame()
    if len(told):
        write_csv(place / "classes.csv", told)
        log.info("%s", told.round(3).to_string(index=False))
        log.info("Classes of unseen scans by linear discriminants of the latents of training scans")
    for run in runs:
        audit = metrics[run.name].get("audit")
        if audit:
            words = "; ".join(f["words"] for f in audit["findings"]) or "nothing found"
            log.info("%s: audit of %d subjects: %s", run.name, audit["subjects"], words)
    compare_figures(runs, studies, metrics, opened, place)
    names = ["similarity.csv", *(["classes.csv"] if len(told) else []), "similarity.png"]
    log.info("written: %s, and figures beside it", ", ".join(str(place / name) for name in names))


def compare_figures(runs, studies, metrics, opened, place):
    """The pictures that show runs side by side: the same scans, samples, discriminants."""
    simulated = all(found["simulated"] for found in metrics.values())
    named = dict(zip((f"{study.variant}" for study in studies), runs, strict=True))
    if len(named) < len(runs):
        named = {run.name: run for run in runs}
    labelled = {name: metrics[run.name] for name, run in named.items()}
    generation_figure(labelled, place / "similarity.png", simulated)
    blocks, drawn, shown, grid = {}, {}, None, None
    for (name, run), study in zip(named.items(), studies, strict=True):
        scans, store, rows, model = opened(run, study)
        if shown is None:
            first = study
            shown = one_of_each(scan_table(scans, store), rows["test"])
            blocks["unseen scans"] = drawn["unseen scans"] = store.read(shown)
            grid = grid_affine(study)
        if study.data == first.data and study.seed == first.seed:
            blocks[name] = model.reconstruct(blocks["unseen scans"])
        found = np.load(run.file("samples", "samples.npy"), mmap_mode="r")[:SHOWN]
        drawn[name] = found.astype("float32")
    for kind, parts in (("reconstructions", blocks), ("samples", drawn)):
        generation.generated_planes(
            parts,
            grid,
            place / f"{kind}.png",
            reference="unseen scans",
            title=f"{kind.capitalize()} of each model beside unseen scans",
            simulated=simulated,
        )
    places = {
        name: np.load(run.file("latents", "classes.npy"))
        for name, run in named.items()
        if "classes" in metrics[run.name]["latents"]
    }
    if places and len({x.shape for x in places.values()}) == 1:
        run = named[next(iter(places))]
        table = pd.read_csv(run.file("latents", "classes.csv"), dtype=str, keep_default_na=False)
        scatter(places, table["class"], place / "lda.png", simulated)


def row_of(run, study, metrics):
    """A row of the table of runs, as a dict."""
    found, made = metrics["reconstruction"], metrics["generation"]
    baseline = metrics["components"]["reconstruction"]

    def of(table, **where):
        part = frame(table)
        for column, value in where.items():
            part = part[part[column] == value]
        return part.iloc[0]

    row = {"run": run.name, "variant": study.variant, "latent_size": metrics["latent_size"]}
    for name in ("ssim", "ssim_foreground", "psnr"):
        row[name], row[f"{name}_sd"] = found[name]["mean"], found[name]["sd"]
        row[f"{name}_components"] = baseline[name]["mean"]
    laplacian = {"measure": "laplacian_foreground"}
    row["laplacian"] = of(metrics["reconstruction_sharpness"], **laplacian)["ratio"]
    for name, part in (("", made["model"]), ("_components", made["components"])):
        row[f"laplacian_samples{name}"] = of(part["sharpness"], **laplacian)["ratio"]
        for space in ("pca", "wavelet"):
            for measure in ("kernel", "frechet"):
                value = of(part["fidelity"], space=space, measure=measure)
                row[f"{measure}_{space}{name}"] = value["corrected"]
        row[f"pairs{name}"] = of(part["diversity"], of="samples")["ms_ssim"]
        row[f"copies{name}"] = of(part["memorisation"], measure="relative")["share_nearer"]
    row["pairs_real"] = of(made["model"]["diversity"], of="real")["ms_ssim"]
    for name in ("classes", "classes_of_components", "classes_without_metadata"):
        part = metrics["latents"].get(name)
        if part:
            row[f"{name}_balanced_accuracy"] = of(part["summary"], measure="balanced_accuracy")[
                "value"
            ]
    if "age" in metrics["latents"]:
        row["age_mae"] = of(metrics["latents"]["age"], measure="mae")["value"]
        row["age_mae_of_mean"] = of(metrics["latents"]["age"], measure="mae")["mean_age"]
    row["alarm"] = metrics.get("audit", {}).get("alarm")
    return row | {"test_subjects": metrics["test_subjects"], "simulated": metrics["simulated"]}


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


def class_rows(study, metrics):
    """Precision and recall of each class, beside those of components and the source's."""
    found = metrics["latents"].get("classes")
    if not found:
        return pd.DataFrame()
    table = frame(found["table"])[["class", "scans", "TP", "FP", "FN", "TN", "precision", "recall"]]
    others = frame(metrics["latents"]["classes_of_components"]["table"])
    for name in ("precision", "recall"):
        table[f"{name}_components"] = others[name]
    published = [PUBLISHED.get(name, (np.nan, np.nan)) for name in table["class"]]
    table["precision_source"], table["recall_source"] = zip(*published, strict=True)
    table.insert(0, "variant", study.variant)
    return table
