"""Bundles of white matter: measures, figures and tables of study `streamlines`.

What `similarity.py` is to images; it and `train.py` call this for runs on streamlines. Samples are
groups `(streamlines, points, 3)`, scaled to [-1, 1] by the extremes of the training bundles.
"""

import functools

import brainvq  # noqa: F401 (first: it keeps TensorFlow's start-up lines off the screen)

# isort: split
import keras
import numpy as np
import pandas as pd

import dataset
import hyperparameters
import modules
from brainvq import evaluation
from brainvq.data import BUNDLES
from brainvq.errors import UserError
from brainvq.files import finite, read_json, records, write_array, write_csv
from brainvq.reports import bundles as pictures
from brainvq.reports import figures

# Groups of streamlines at a time.
BATCH = 64
# Bits per streamline of the source's discrete models, and of codecs beside models without bits.
BITS = 36
# Groups for figures and curves that need not see all of them.
SHOWN = 240
# Bits per streamline at which classical codecs are drawn.
RATES = (9, 18, 36, 72)
# What `codecs_at` has found in this process.
CODECS = {}
# Sizes of the noise in pictures of disturbed latents, in standard deviations of the latents.
DISTURBED = (0.0, 0.2, 0.5, 1.0)
# The source's table 1: mean BUAN of each bundle over its validation set (Lizarraga et al. 2023).
PUBLISHED = {
    "vq-diff": (0.9986, 0.9971, 0.9976, 0.9910, 0.9910, 0.9855, 0.9888, 0.9989, 0.9990, 0.9988)
    + (0.9988, 0.9974),
    "ae": (0.9999, 0.9999, 0.9999, 0.9999, 0.9999, 0.9975, 0.9988, 0.9999, 0.9999, 0.9999)
    + (0.9999, 0.9999),
    "vae": (0.3593, 0.2689, 0.2832, 0.2399, 0.2726, 0.2340, 0.2808, 0.4815, 0.4649, 0.4764)
    + (0.4989, 0.3750),
    "vq-vae": (0.4989, 0.4983, 0.5063, 0.3228, 0.3409, 0.3143, 0.3437, 0.6869, 0.6867, 0.7045)
    + (0.7154, 0.3380),
    "vq-ema": (0.3740, 0.4335, 0.4357, 0.2408, 0.2836, 0.2296, 0.2793, 0.6508, 0.6562, 0.6778)
    + (0.6849, 0.2458),
}


def watch(originals, reconstructions):
    """What is looked at while training: squared error and BUAN of unseen groups."""
    scores = [evaluation.buan(*pair) for pair in zip(originals, reconstructions, strict=True)]
    error = np.mean(np.square(originals - reconstructions))
    return {"val_mse": float(error), "val_buan": float(np.mean(scores))}


def labels(study, store, rows):
    """The bundle of each sample as a number, in the order of `study.data.bundles`."""
    number = {name: place for place, name in enumerate(study.data.bundles)}
    return store.table["group"].map(number).to_numpy()[rows]


def bits_per_streamline(model, store):
    """Codes of a group times bits of a code, by its streamlines; None where nothing is discrete."""
    if not model.decodes_codes:
        return None
    codes = np.prod(model.code_shape(store.sample_shape))
    return float(codes * model.bits_per_code / store.sample_shape[0])


def vectors(model, samples):
    """What the encoder makes of samples, before the bottleneck: float32 `(n, *grid, dim)`."""
    parts = [
        keras.ops.convert_to_numpy(model.encoder(samples[start : start + BATCH], training=False))
        for start in range(0, len(samples), BATCH)
    ]
    return np.concatenate(parts)


def through_bottleneck(model, z):
    """Decodes vectors as the model does: through the bottleneck, without noise."""
    parts = []
    for start in range(0, len(z), BATCH):
        outputs = model.bottleneck(z[start : start + BATCH].astype("float32"), training=False)
        decoded = model.decoder(outputs["quantized"], training=False)
        parts.append(keras.ops.convert_to_numpy(decoded))
    return np.concatenate(parts)


def measure(run, study, scans, store, rows, model, codes):
    """The measures of a run on bundles; writes `samples.csv` and `subjects.csv`.

    Args:
        run: a `RunFolder`.
        study: a `hyperparameters.Study`.
        scans: the cohort, with its split where it has several people.
        store: a `dataset.UnitStore`.
        rows: dict of split to sample numbers.
        model: an `Autoencoder`.
        codes: dict of split to codes, or None where the model has none.

    Returns:
        Dict, the content of `metrics.json` without prior and samples.
    """
    table = table_of(model.reconstruct, store, rows["test"])
    write_csv(run.file("samples.csv"), table)
    people = store.table["subject"].to_numpy()[rows["test"]]
    numbers = [name for name in table if name not in ("bundle", "subject")]
    write_csv(run.file("subjects.csv"), table.groupby("subject", as_index=False)[numbers].mean())
    picked = dataset.spread(rows["test"], SHOWN)
    originals, counts = store.read(picked), store.table["count"].to_numpy()[picked]
    z = vectors(model, originals)
    spread_of_training = evaluation.channel_spread(
        vectors(model, store.read(dataset.spread(rows["train"], SHOWN)))
    )
    curve = evaluation.robustness(
        functools.partial(through_bottleneck, model),
        z,
        originals,
        counts,
        spread=spread_of_training,
        seed=study.seed,
    )
    per_bundle = evaluation.per_bundle(table.drop(columns="subject"))
    bits = bits_per_streamline(model, store)
    metrics = {
        "test_subjects": len(np.unique(people)),
        "one_person": "split" not in scans.table,
        "test_samples": len(rows["test"]),
        "test_streamlines": int(table["streamlines"].sum()),
        "simulated": scans.simulated,
        "scale_mm": scale_mm(store),
        "streamlines": study.data.streamlines,
        "points": study.data.points,
        "reconstruction": plain(evaluation.mean_over_bundles(per_bundle)),
        "bundles": records(per_bundle),
        "bits_per_streamline": bits,
        "numbers_per_streamline": float(np.prod(z.shape[1:]) / store.sample_shape[0]),
        "robustness": {
            "area": float(evaluation.area_under(curve)),
            "curve": records(curve),
            # What noise is a multiple of, for `predict.py RUN perturb`.
            "spread": spread_of_training.tolist(),
        },
        "classification": records(classification(study, store, rows, model, codes)),
        "codecs": codecs_at(bits or BITS, store, rows),
        "parameters": {"autoencoder": model.count_params()},
    }
    if model.num_codes:
        found = np.asarray(codes["test"])
        deep = found if model.depth is not None else found[..., None]
        metrics["codes"] = records(evaluation.depth_usage(deep, model.num_codes))
        metrics["num_codes"] = model.num_codes
        metrics["grid"] = list(found.shape[1:])
    return metrics


def table_of(reconstruct, store, rows):
    """Measures of every sample in `rows`, read and reconstructed in batches."""
    tables = []
    about = store.table[["group", "subject", "count"]]
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        found, originals = about.iloc[batch], store.read(batch)
        table = evaluation.sample_table(
            originals,
            reconstruct(originals),
            found["group"].to_numpy(),
            found["count"].to_numpy(),
            scale_mm=scale_mm(store),
        )
        table.insert(0, "subject", found["subject"].to_numpy())
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def scale_mm(store):
    """Millimetres of one unit; None where the files are in units already."""
    scaled = "units" in store.scans and (store.scans["units"] == "scaled").all()
    return None if scaled else float(store.scale.half)


def classification(study, store, rows, model, codes):
    """How well bundles are told by codes, latents and coordinates, over the test samples."""
    picked = dataset.spread(rows["test"], SHOWN)
    originals = store.read(picked)
    features = {
        "coordinates": originals.reshape(len(originals), -1),
        "latents": vectors(model, originals).reshape(len(originals), -1),
    }
    if model.num_codes:
        places = np.searchsorted(rows["test"], picked)
        found = np.asarray(codes["test"])[places]
        features["codes"] = evaluation.code_histograms(
            found, model.num_codes, depth=model.depth is not None
        )
    people = store.table["subject"].to_numpy()[picked]
    names = store.table["group"].to_numpy()[picked]
    groups = people if len(np.unique(people)) > 1 else None
    try:
        return evaluation.classify_bundles(features, names, groups, seed=study.seed)
    except UserError:
        return pd.DataFrame()  # too few samples of a bundle to cross-validate


def codecs_at(bits, store, rows):
    """Measures of classical codecs at so many bits, fitted on training streamlines, by name.

    They are the same for all variants of so many bits, and kept for a process.
    """
    bits = max(9, 9 * round(bits / 9))
    key = (str(store.path), bits, *map(tuple, rows.values()))
    if key not in CODECS:
        train = store.read(dataset.spread(np.unique(rows["train"]), 2000))
        CODECS[key] = {}
        for name, codec in (
            (f"residual k-means, {bits} bits", evaluation.ResidualKMeans(bits // 9)),
            (f"local PCA and scalar, {bits} bits", evaluation.TransformCodec(bits, clusters=32)),
        ):
            codec.fit(train.reshape(-1, *train.shape[2:]))
            table = table_of(by_groups(codec), store, rows["test"]).drop(columns="subject")
            CODECS[key][name] = plain(evaluation.mean_over_bundles(evaluation.per_bundle(table)))
    return CODECS[key]


def by_groups(codec):
    """A codec of streamlines as a function of groups of them."""

    def reconstruct(groups):
        curves = codec.reconstruct(groups.reshape(-1, *groups.shape[2:]))
        return np.asarray(curves).reshape(groups.shape)

    return reconstruct


def draw_samples(run, study, store, rows, model, prior):
    """Draws new bundles into `samples/`, of each kind alike, and compares their shapes."""
    options = study.sampling
    names = study.data.bundles
    wanted = np.arange(options.samples) % len(names)
    drawn = prior.sample(
        options.samples,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=study.seed,
        labels=wanted,
    )
    codes = np.asarray(drawn).reshape(len(drawn), *model.code_shape(store.sample_shape))
    made = model.decode(codes, batch_size=BATCH)
    kinds = [names[number] for number in wanted]
    for name, array in (("codes", codes), ("samples", made), ("bundles", np.array(kinds))):
        write_array(run.file("samples", f"{name}.npy"), array)
    real = dataset.spread(rows["test"], SHOWN)
    shapes = evaluation.shape_table(
        store.read(real),
        made,
        store.table["count"].to_numpy()[real],
        scale_mm=scale_mm(store),
    )
    write_csv(run.file("samples", "shapes.csv"), shapes)
    train = store.read(dataset.spread(np.unique(rows["train"]), SHOWN))
    return {
        "count": len(made),
        "shapes": records(shapes),
        "distance_to_training": nearest_distance(made, train),
        "distance_of_unseen_to_training": nearest_distance(store.read(real), train),
    }


def nearest_distance(bundles, training):
    """Mean distance (MDF, in units) of streamlines to the nearest one of training bundles."""
    curves = training.reshape(-1, *training.shape[2:])[::8]
    found = [evaluation.mdf(bundle[::4], curves).min(axis=1).mean() for bundle in bundles[:24]]
    return float(np.mean(found))


def draw(run, study, scans, store, rows, model, prior, codes, metrics):
    """All figures of a run on bundles, as a dict of name to path."""
    options = {"simulated": scans.simulated}
    scale = {"scale_mm": metrics["scale_mm"]}

    def at(name):
        return run.file("figures", f"{name}.png")

    history = pd.read_csv(run.file("history.csv"))
    whole = whole_bundles(store, rows["test"])
    restored = {
        name: cut(model.reconstruct(groups), counts) for name, (groups, counts) in whole.items()
    }
    originals = {name: cut(*pair) for name, pair in whole.items()}
    title = title_of(study.variant)
    whose = "Test groups of one person" if metrics["one_person"] else "Bundles of an unseen subject"
    drawn = {
        "losses": figures.loss_curves(history, path=at("losses"), **options),
        "buan": figures.buan_curve(history, path=at("buan"), **options),
        "originals": pictures.bundle_views(
            originals, at("originals"), title=whose, **scale, **options
        ),
        "restored": pictures.bundle_views(
            restored,
            at("restored"),
            title=f"The same through {title}",
            extent=originals,
            **scale,
            **options,
        ),
        "scores": pictures.buan_table_figure(
            {title: pd.DataFrame(metrics["bundles"])},
            at("scores"),
            published=published({study.variant: title}),
            **options,
        ),
        "robustness": pictures.robustness_figure(
            {title: pd.DataFrame(metrics["robustness"]["curve"])}, at("robustness"), **options
        ),
    }
    # Of those that the person shown has.
    there = [row for row in metrics["bundles"] if row["bundle"] in whole]
    hardest = min(there, key=lambda row: row["buan"])["bundle"]
    groups, counts = whole[hardest]
    again = model.reconstruct(groups)
    drawn["bundle"] = pictures.bundle_grid(
        {"original": originals[hardest], title: restored[hardest]},
        at("bundle"),
        scores={title: group_score(groups, again, counts)},
        title=f"{hardest}, the bundle with the lowest BUAN",
        **scale,
        **options,
    )
    drawn["perturbation"] = disturbed({title: model}, store, rows, whole, at, scale, options)
    shown = dataset.spread(rows["test"], 1500)
    names = store.table["group"].to_numpy()[shown]
    if len(shown) >= 8:
        drawn["tsne"] = pictures.tsne(
            {title: vectors(model, store.read(shown))}, names, at("tsne"), **options
        )
    if model.num_codes:
        first = modules.first_codes(model, np.asarray(codes["test"]))
        counts = evaluation.code_usage(first, model.num_codes)["counts"]
        drawn["usage"] = figures.code_usage_bars(counts, path=at("usage"), **options)
    if prior is not None:
        drawn |= prior_figures(run, metrics, originals, at, scale, options)
    return drawn


def prior_figures(run, metrics, originals, at, scale, options):
    """The prior's curve, and new bundles above real ones."""
    bits = metrics["prior"]
    made = np.load(run.file("samples", "samples.npy"))
    kinds = np.load(run.file("samples", "bundles.npy"))
    names = [name for name in originals if name in kinds][:6]
    new = {name: made[kinds == name][:4].reshape(-1, *made.shape[2:]) for name in names}
    real = {name: originals[name] for name in names}
    return {
        "prior": figures.prior_curve(
            pd.read_csv(run.file("prior_history.csv")),
            baselines={
                "marginal": bits["marginal"],
                "neighbour and position tables": bits["neighbour_tables"],
            },
            path=at("prior"),
            **options,
        ),
        "generated": pictures.generated(new, real, at("generated"), **scale, **options),
    }


def disturbed(models, store, rows, whole, at, scale, options):
    """What models decode from latents with noise, of the bundle of the source's figure."""
    name = "MCP" if "MCP" in whole else next(iter(whole))
    groups, counts = whole[name]
    rng = np.random.default_rng(0)
    found, scores = {}, {}
    for title, model in models.items():
        train = vectors(model, store.read(dataset.spread(np.unique(rows["train"]), BATCH)))
        width, z = evaluation.channel_spread(train), vectors(model, groups)
        noise = rng.normal(size=z.shape) * width
        decoded = {size: through_bottleneck(model, z + size * noise) for size in DISTURBED}
        found[title] = {size: cut(bundle, counts) for size, bundle in decoded.items()}
        scores[title] = {
            size: group_score(groups, bundle, counts) for size, bundle in decoded.items()
        }
    return pictures.perturbation(
        found,
        at("perturbation"),
        original=cut(groups, counts),
        scores=scores,
        title=f"{name} from latents with noise",
        **scale,
        **options,
    )


def whole_bundles(store, rows):
    """Groups and counts of every bundle of one subject of `rows`, by name."""
    table = store.table.iloc[rows]
    subject = table.groupby("subject")["group"].nunique().idxmax()
    found = {}
    for name in table["group"].drop_duplicates():
        members = rows[((table["group"] == name) & (table["subject"] == subject)).to_numpy()]
        if len(members):
            found[name] = store.read(members), store.table["count"].to_numpy()[members]
    return found


def cut(groups, counts):
    """The real streamlines of groups, as `(n, points, 3)`."""
    pairs = zip(groups, counts, strict=True)
    return np.concatenate([group[:count] for group, count in pairs])


def group_score(originals, restored, counts):
    """BUAN, mean over groups."""
    found = [
        evaluation.buan(a[:count], b[:count])
        for a, b, count in zip(originals, restored, counts, strict=True)
    ]
    return float(np.mean(found))


def title_of(variant):
    """A variant as it is called in figures."""
    names = {"vq-diff": "VQ-Diff", "ae": "AE", "vae": "VAE", "vq-vae": "VQ-VAE", "vq-ema": "VQ-EMA"}
    return names.get(variant, variant)


def published(titles):
    """The source's figures for variants that it has: `{title: {bundle: BUAN}}`."""
    return {
        title: dict(zip(BUNDLES, PUBLISHED[variant], strict=True))
        for variant, title in titles.items()
        if variant in PUBLISHED
    }


def compare(runs, studies, data_of, log):
    """The study's tables and figures over several runs: a row per model, and one per bundle.

    Args:
        runs: list of `RunFolder`, all finished.
        studies: their `hyperparameters.Study`.
        data_of: function of a run and its study that returns `(store, rows)`.
        log: where the tables are printed.
    """
    found = {}
    for run, study in zip(runs, studies, strict=True):
        metrics = run.metrics()
        title = title_of(study.variant)
        preset = hyperparameters.STUDIES[study.name][study.variant]
        if study.model.depth != preset.model.depth:
            title += f", {metrics['bits_per_streamline']:g} bits"
        if title in found:
            title += f" ({run.name.rsplit('-', 1)[-1]})"
        found[title] = (run, study, metrics)
    place, simulated = runs[0].path.parent, all(found[t][2]["simulated"] for t in found)
    table = pd.DataFrame(
        [model_row(title, study, metrics) for title, (_, study, metrics) in found.items()]
        + [codec_row(*item) for item in all_codecs(found).items()]
    )
    write_csv(place / "similarity.csv", table)
    tables = {title: pd.DataFrame(metrics["bundles"]) for title, (*_, metrics) in found.items()}
    per_bundle = pd.concat([t.assign(model=title) for title, t in tables.items()])
    write_csv(place / "bundles.csv", per_bundle)
    drawn = [
        pictures.buan_table_figure(
            tables,
            place / "similarity.png",
            published=published({study.variant: t for t, (_, study, _) in found.items()}),
            simulated=simulated,
        ),
        pictures.robustness_figure(
            {t: pd.DataFrame(metrics["robustness"]["curve"]) for t, (*_, metrics) in found.items()},
            place / "robustness.png",
            simulated=simulated,
        ),
    ]
    with_codes = [
        (run, study) for run, study, metrics in found.values() if metrics["bits_per_streamline"]
    ]
    if with_codes:
        rates = pd.concat([own_rates(found), classical_rates(*with_codes[0], data_of, log)])
        write_csv(place / "rate_distortion.csv", rates)
        drawn.append(
            pictures.rate_distortion_figure(
                rates, place / "rate_distortion.png", simulated=simulated
            )
        )
    log.info("%s", printed(table).to_string(index=False))
    wide = per_bundle.assign(
        score=[
            f"{mean:.3f}" + ("" if pd.isna(sd) else f" ± {sd:.3f}")
            for mean, sd in zip(per_bundle["buan"], per_bundle["buan_sd"], strict=True)
        ]
    ).pivot(index="bundle", columns="model", values="score")
    log.info("\nBUAN per bundle, mean ± sd over groups\n%s", wide[list(tables)].to_string())
    log.info(
        "BUAN: threshold 0.05 in units of [-1, 1], every streamline its own cluster; means over "
        "bundles. bits: per streamline, where codes alone are decoded. area: below BUAN against "
        "noise on the latents"
    )
    written = ", ".join(str(path) for path in (place / "similarity.csv", *drawn))
    log.info("written: %s", written)


def own_rates(found):
    """Bits and errors of the models that have codes; those of one variant are a family."""
    rows = []
    for title, (_, study, metrics) in found.items():
        if metrics["bits_per_streamline"]:
            rows.append(
                {
                    "codec": title,
                    "family": title_of(study.variant),
                    "bits": metrics["bits_per_streamline"],
                    **{key: metrics["reconstruction"][key] for key in ("mse", "buan", "distance")},
                }
            )
    return pd.DataFrame(rows)


def classical_rates(run, study, data_of, log):
    """Bits and errors of codecs without a network, and of files, on a run's test streamlines.

    They are fitted on the training streamlines of that run and kept in its folder.
    """
    if run.has("rate_distortion.csv"):
        return pd.read_csv(run.file("rate_distortion.csv"))
    log.info("fitting classical codecs at %s bits", ", ".join(map(str, RATES)))
    store, rows = data_of(run, study)
    train = store.read(dataset.spread(np.unique(rows["train"]), 2000))
    train = train.reshape(-1, *train.shape[2:])
    codecs, families = {}, {}
    for bits in RATES:
        for family, codec in (
            ("residual k-means", evaluation.ResidualKMeans(bits // 9)),
            ("PCA and k-means", evaluation.PCAKMeans(bits // 9)),
            ("local PCA and scalar", evaluation.TransformCodec(bits, clusters=32)),
        ):
            name = f"{family}, {bits} bits"
            codecs[name], families[name] = codec.fit(train), family
    codecs["float16"] = evaluation.HalfPrecision().fit(train)
    picked = dataset.spread(rows["test"], SHOWN)
    about = store.table.iloc[picked]
    table = evaluation.rate_distortion(
        codecs, store.read(picked), about["group"].to_numpy(), about["count"].to_numpy()
    )
    # What a file of one group takes; a .trk file keeps every digit.
    half, files = table.index[-1], evaluation.stored_bits(study.data.streamlines, study.data.points)
    files = files.set_index("format")["bits"]
    table.loc[half, ["codec", "bits"]] = [".trx file, float16", files[".trx, float16"]]
    whole = {"codec": ".trk file", "bits": files[".trk, float32"], "mse": 0.0, "buan": 1.0}
    table = pd.concat([table, pd.DataFrame([whole | {"distance": 0.0}])], ignore_index=True)
    table.insert(1, "family", [families.get(name, name) for name in table["codec"]])
    table = table[["codec", "family", "bits", "mse", "buan", "distance"]]
    write_csv(run.file("rate_distortion.csv"), table)
    return table


def model_row(title, study, metrics):
    """A row of the table of models."""
    found, codes = metrics["reconstruction"], metrics.get("codes")
    return {
        "model": title,
        "bits": metrics["bits_per_streamline"],
        "numbers": metrics["numbers_per_streamline"],
        "buan": found["buan"],
        "mse": found["mse"],
        "distance": found["distance"],
        "distance_mm": found.get("distance_mm"),
        "buan_mm": found.get("buan_mm"),
        "codes_used": None if not codes else float(np.mean([row["used"] for row in codes])),
        "robustness": metrics["robustness"]["area"],
        "published_buan": np.mean(PUBLISHED[study.variant]) if study.variant in PUBLISHED else None,
        "test_subjects": metrics["test_subjects"],
        "test_samples": metrics["test_samples"],
        "simulated": metrics["simulated"],
    }


def codec_row(name, found):
    """A row of the table for a codec that needs no network."""
    bits = int(name.rsplit(", ", 1)[1].split()[0])
    keys = ("buan", "mse", "distance", "distance_mm", "buan_mm")
    return {"model": name, "bits": bits, **{key: found.get(key) for key in keys}}


def all_codecs(found):
    """The codecs that the runs were compared with, by name."""
    together = {}
    for *_, metrics in found.values():
        together |= metrics["codecs"]
    return together


def printed(table):
    """The table of models, short enough for a screen."""

    def text(value, form):
        return "–" if value is None or pd.isna(value) else form.format(value)

    forms = {
        "bits": "{:.0f}",
        "buan": "{:.4f}",
        "mse": "{:.2e}",
        "distance": "{:.4f}",
        "distance_mm": "{:.2f}",
        "buan_mm": "{:.3f}",
        "codes_used": "{:.0f}",
        "robustness": "{:.3f}",
        "published_buan": "{:.3f}",
    }
    columns = {
        name: [text(value, form) for value in table[name]]
        for name, form in forms.items()
        if table[name].notna().any()
    }
    return pd.DataFrame({"model": table["model"], **columns}).rename(
        columns={"robustness": "area", "published_buan": "published", "codes_used": "codes"}
    )


def scale_of(run):
    """The scale of a run: what takes mm to the units of its model and back."""
    return dataset.data.BundleScale.from_config(read_json(run.file("scale.json")))


def plain(row):
    """Numbers of NumPy as Python's; what is not a number as None."""
    return {key: finite(value) for key, value in row.items()}
