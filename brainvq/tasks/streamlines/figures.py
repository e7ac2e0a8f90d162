"""All figures of a run on bundles."""

import numpy as np
import pandas as pd

from brainvq import evaluation
from brainvq.names import BUNDLES
from brainvq.reports import bundles as pictures
from brainvq.reports import figures
from brainvq.studies.streamlines import PUBLISHED
from brainvq.tasks.base import figure_path, prior_figure, spread
from brainvq.tasks.streamlines.groups import (
    BATCH,
    cut,
    encodings,
    group_score,
    through_bottleneck,
    whole_bundles,
)

# Sizes of the noise in pictures of disturbed latents, in standard deviations of the latents.
DISTURBED = (0.0, 0.2, 0.5, 1.0)
# Test samples of the t-SNE at most.
POINTS = 1500
TITLES = {"vq-diff": "VQ-Diff", "ae": "AE", "vae": "VAE", "vq-vae": "VQ-VAE", "vq-ema": "VQ-EMA"}


def title_of(variant):
    """A variant as it is called in figures."""
    return TITLES.get(variant, variant)


def published(titles):
    """The paper's BUAN for variants that it has.

    Args:
        titles: dict of variant to title.

    Returns:
        Dict of title to {bundle: BUAN}.
    """
    return {
        title: dict(zip(BUNDLES, PUBLISHED[variant], strict=True))
        for variant, title in titles.items()
        if variant in PUBLISHED
    }


def streamline_figures(run, metrics):
    """All figures of a run.

    Args:
        run: a `LoadedRun`.
        metrics: dict, its `metrics.json`.

    Returns:
        Dict of name to path.
    """
    whole = whole_bundles(run.store, run.rows["test"])
    originals = {name: cut(*pair) for name, pair in whole.items()}
    drawn = _measures(run, metrics) | _bundles(run, metrics, whole, originals)
    drawn |= {"perturbation": _perturbation(run, metrics, whole)}
    drawn |= _latents(run)
    return drawn if run.prior is None else drawn | _prior(run, metrics, originals)


def _measures(run, metrics):
    """Curves of the training, and BUAN by bundle and by noise."""
    title, simulated = title_of(run.study.variant), run.simulated
    history = pd.read_csv(run.file("history.csv"))
    return {
        "losses": figures.loss_curves(
            history, path=figure_path(run, "losses"), simulated=simulated
        ),
        "buan": figures.buan_curve(history, path=figure_path(run, "buan"), simulated=simulated),
        "scores": pictures.buan_table_figure(
            {title: pd.DataFrame(metrics["bundles"])},
            figure_path(run, "scores"),
            published=published({run.study.variant: title}),
            simulated=simulated,
        ),
        "robustness": pictures.robustness_figure(
            {title: pd.DataFrame(metrics["robustness"]["curve"])},
            figure_path(run, "robustness"),
            simulated=simulated,
        ),
    }


def _bundles(run, metrics, whole, originals):
    """The bundles of a test subject, their reconstructions, and the hardest one of them."""
    title = title_of(run.study.variant)
    options = {"scale_mm": metrics["scale_mm"], "simulated": run.simulated}
    groups = {name: run.model.reconstruct(pair[0]) for name, pair in whole.items()}
    restored = {name: cut(groups[name], counts) for name, (_, counts) in whole.items()}
    whose = "Test groups of one person" if metrics["one_person"] else "Bundles of an unseen subject"
    # Other test subjects may have bundles that this one has not.
    rows = [row for row in metrics["bundles"] if row["bundle"] in whole]
    hardest = min(rows, key=lambda row: row["buan"])["bundle"]
    return {
        "originals": pictures.bundle_views(
            originals, figure_path(run, "originals"), title=whose, **options
        ),
        "restored": pictures.bundle_views(
            restored,
            figure_path(run, "restored"),
            title=f"The same through {title}",
            extent=originals,
            **options,
        ),
        "bundle": pictures.bundle_grid(
            {"original": originals[hardest], title: restored[hardest]},
            figure_path(run, "bundle"),
            scores={title: group_score(whole[hardest][0], groups[hardest], whole[hardest][1])},
            title=f"{hardest}, the bundle with the lowest BUAN",
            **options,
        ),
    }


def _perturbation(run, metrics, whole):
    """What a model decodes from latents with noise, of the bundle of the paper's figure."""
    title, model = title_of(run.study.variant), run.model
    name = "MCP" if "MCP" in whole else next(iter(whole))
    groups, counts = whole[name]
    rng = np.random.default_rng(0)
    train = run.store.read(spread(np.unique(run.rows["train"]), BATCH))
    width, z = evaluation.channel_spread(encodings(model, train)), encodings(model, groups)
    noise = rng.normal(size=z.shape) * width
    decoded = {size: through_bottleneck(model, z + size * noise) for size in DISTURBED}
    scores = {size: group_score(groups, bundle, counts) for size, bundle in decoded.items()}
    return pictures.perturbation(
        {title: {size: cut(bundle, counts) for size, bundle in decoded.items()}},
        figure_path(run, "perturbation"),
        original=cut(groups, counts),
        scores={title: scores},
        title=f"{name} from latents with noise",
        scale_mm=metrics["scale_mm"],
        simulated=run.simulated,
    )


def _latents(run):
    """Where latents of bundles lie, and how often each code is used."""
    drawn, model = {}, run.model
    shown = run.some("test", POINTS)
    if len(shown) >= 8:
        drawn["tsne"] = pictures.tsne(
            {title_of(run.study.variant): encodings(model, run.store.read(shown))},
            run.store.table["group"].to_numpy()[shown],
            figure_path(run, "tsne"),
            simulated=run.simulated,
        )
    if model.num_codes:
        codes = model.first_codes(np.asarray(run.codes["test"]))
        counts = evaluation.code_usage(codes, model.num_codes)["counts"]
        drawn["usage"] = figures.code_usage_bars(
            counts, path=figure_path(run, "usage"), simulated=run.simulated
        )
    return drawn


def _prior(run, metrics, originals):
    """The prior's curve, and new bundles above real ones."""
    samples = np.load(run.file("samples", "samples.npy"))
    bundles = np.load(run.file("samples", "bundles.npy"))
    names = [name for name in originals if name in bundles][:6]
    new = {name: samples[bundles == name][:4].reshape(-1, *samples.shape[2:]) for name in names}
    return {
        "prior": prior_figure(run, metrics),
        "generated": pictures.generated(
            new,
            {name: originals[name] for name in names},
            figure_path(run, "generated"),
            scale_mm=metrics["scale_mm"],
            simulated=run.simulated,
        ),
    }
