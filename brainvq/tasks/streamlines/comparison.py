"""Tables and figures of several runs on bundles: a row per model, and one per bundle."""

import numpy as np
import pandas as pd

from brainvq.files import write_csv
from brainvq.reports import bundles as pictures
from brainvq.studies import STUDIES
from brainvq.studies.streamlines import PUBLISHED
from brainvq.tasks.streamlines.codecs import classical_rates
from brainvq.tasks.streamlines.figures import published, title_of

LEGEND = (
    "BUAN: threshold 0.05 in units of [-1, 1], every streamline its own cluster; means over "
    "bundles. bits: per streamline, where codes alone are decoded. area: below BUAN against "
    "noise on the latents"
)


def compare_streamlines(runs, log):
    """Writes `similarity.csv`, `bundles.csv`, `rate_distortion.csv` and figures beside the runs.

    Args:
        runs: list of `LoadedRun`, all finished.
        log: where the tables are printed.

    Raises:
        UserError: a run has no measures.
    """
    for run in runs:
        run.folder.require("metrics.json", "it has not finished training")
    models = titled(runs)
    metrics = {title: run.metrics() for title, run in models.items()}
    place = runs[0].path.parent
    table = pd.DataFrame(
        [model_row(title, run.study, metrics[title]) for title, run in models.items()]
        + [codec_row(*item) for item in _codecs(metrics).items()]
    )
    write_csv(place / "similarity.csv", table)
    tables = {title: pd.DataFrame(measures["bundles"]) for title, measures in metrics.items()}
    per_bundle = pd.concat([part.assign(model=title) for title, part in tables.items()])
    write_csv(place / "bundles.csv", per_bundle)
    drawn = _figures(models, metrics, tables, place, log)
    log.info("%s", printed(table).to_string(index=False))
    wide = _wide(per_bundle)[list(tables)]
    log.info("\nBUAN per bundle, mean ± sd over groups\n%s", wide.to_string())
    log.info(LEGEND)
    written = ", ".join(str(path) for path in (place / "similarity.csv", *drawn))
    log.info("written: %s", written)


def titled(runs):
    """The runs by their title in tables: the variant, and what else tells it from the others."""
    models = {}
    for run in runs:
        title = title_of(run.study.variant)
        preset = STUDIES[run.study.name][run.study.variant]
        if run.study.model.bottleneck.depth != preset.model.bottleneck.depth:
            title += f", {run.metrics()['bits_per_streamline']:g} bits"
        if title in models:
            title += f" ({run.name.rsplit('-', 1)[-1]})"
        models[title] = run
    return models


def _figures(models, metrics, tables, place, log):
    """Draws what shows the models side by side; list of paths."""
    simulated = all(measures["simulated"] for measures in metrics.values())
    curves = {
        title: pd.DataFrame(measures["robustness"]["curve"]) for title, measures in metrics.items()
    }
    drawn = [
        pictures.buan_table_figure(
            tables,
            place / "similarity.png",
            published=published({run.study.variant: title for title, run in models.items()}),
            simulated=simulated,
        ),
        pictures.robustness_figure(curves, place / "robustness.png", simulated=simulated),
    ]
    own = own_rates(models, metrics)
    if len(own):
        first = models[own["codec"].iloc[0]]
        rates = pd.concat([own, classical_rates(first, log)])
        path = place / "rate_distortion.png"
        write_csv(path.with_suffix(".csv"), rates)
        drawn.append(pictures.rate_distortion_figure(rates, path, simulated=simulated))
    return drawn


def own_rates(models, metrics):
    """Bits and errors of the models that have codes; those of one variant are a family.

    Args:
        models: dict of title to `LoadedRun`.
        metrics: dict of title to the run's measures.

    Returns:
        `pandas.DataFrame` with the columns codec, family, bits, mse, buan and distance.
    """
    return pd.DataFrame(
        {
            "codec": title,
            "family": title_of(run.study.variant),
            "bits": metrics[title]["bits_per_streamline"],
            **{key: metrics[title]["reconstruction"][key] for key in ("mse", "buan", "distance")},
        }
        for title, run in models.items()
        if metrics[title]["bits_per_streamline"]
    )


def model_row(title, study, metrics):
    """A row of the table for a model, as a dict."""
    errors, codes = metrics["reconstruction"], metrics.get("codes")
    return {
        "model": title,
        "bits": metrics["bits_per_streamline"],
        "numbers": metrics["numbers_per_streamline"],
        "buan": errors["buan"],
        "mse": errors["mse"],
        "distance": errors["distance"],
        "distance_mm": errors.get("distance_mm"),
        "buan_mm": errors.get("buan_mm"),
        "codes_used": None if not codes else float(np.mean([row["used"] for row in codes])),
        "robustness": metrics["robustness"]["area"],
        "published_buan": np.mean(PUBLISHED[study.variant]) if study.variant in PUBLISHED else None,
        "test_subjects": metrics["test_subjects"],
        "test_samples": metrics["test_samples"],
        "simulated": metrics["simulated"],
    }


def codec_row(name, errors):
    """A row of the table for a codec that needs no network, as a dict."""
    bits = int(name.rsplit(", ", 1)[1].split()[0])
    keys = ("buan", "mse", "distance", "distance_mm", "buan_mm")
    return {"model": name, "bits": bits, **{key: errors.get(key) for key in keys}}


def _codecs(metrics):
    """The codecs that the runs were compared with, by name."""
    together = {}
    for measures in metrics.values():
        together |= measures["codecs"]
    return together


def _wide(per_bundle):
    """BUAN as text, a row per bundle and a column per model."""
    scores = [
        f"{mean:.3f}" + ("" if pd.isna(sd) else f" ± {sd:.3f}")
        for mean, sd in zip(per_bundle["buan"], per_bundle["buan_sd"], strict=True)
    ]
    return per_bundle.assign(score=scores).pivot(index="bundle", columns="model", values="score")


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
