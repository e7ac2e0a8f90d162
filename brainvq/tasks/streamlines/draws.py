"""New bundles from the prior, and bundles whose latents are disturbed by noise."""

import numpy as np
import pandas as pd

from brainvq import evaluation
from brainvq.files import write_array, write_csv, write_tsv
from brainvq.reports import bundles as pictures
from brainvq.tasks.names import participant_of
from brainvq.tasks.streamlines.groups import encodings, through_bottleneck
from brainvq.tasks.streamlines.place import save_new
from brainvq.tasks.streamlines.units import run_scale, why_units
from brainvq.training.runs import RunFolder

# New bundles of one kind that a picture has room for.
SHOWN = 6


def sample(trained, options, log):
    """Draws bundles of one kind or several: `.trk`, `samples.npy`, `codes.npy`, table, picture.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        options: `brainvq.options.verbs.BundleSample`; `out` is a `pathlib.Path`.
        log: `logging.Logger`.
    """
    names, each, folder = options.bundle or trained.study.data.bundles, options.samples, options.out
    scale = run_scale(trained)
    kinds = [name for name in names for _ in range(each)]
    groups, codes = trained.sample(
        len(kinds), bundle=kinds, batch_size=options.batch_size, **options.drawing
    )
    write_array(folder / "samples.npy", groups)
    write_array(folder / "codes.npy", codes)
    titles = [f"{name}_sample-{number:03d}" for name in names for number in range(1, each + 1)]
    table = {"name": titles, "bundle": kinds, "streamlines": groups.shape[1]}
    write_csv(folder / "samples.csv", pd.DataFrame(table))
    if scale is None:
        log.info("%s", why_units(trained))
    else:
        groups = scale.to_mm(groups)
        for title, lines in zip(titles, groups, strict=True):
            save_new(lines, folder / f"{title}.trk")
    look = {"scale_mm": None if scale is None else 1.0, "simulated": trained.simulated}
    look["path"] = folder / "samples.png"
    if len(names) == 1:
        shown = dict(zip(titles[:SHOWN], groups, strict=False))
        pictures.bundle_grid(shown, title=f"{names[0]}, drawn from the prior", **look)
    else:
        shown = {name: np.concatenate(groups[np.array(kinds) == name]) for name in names}
        pictures.bundle_views(shown, title="Bundles drawn from the prior", **look)
    log.info(
        "%d new bundles of %d streamlines in %s (space of the training data%s)",
        *(len(groups), groups.shape[1], folder),
        "" if scale is None else "; the headers are those of the ICBM152 template",
    )


def perturb(trained, options, log):
    """Writes what tractograms become when noise is added to their latents, and how alike it is.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        options: `brainvq.options.verbs.Perturb`; `out` is a `pathlib.Path`.
        log: `logging.Logger`.
    """
    epsilons = sorted({0.0, *options.epsilon})
    deviations = RunFolder(trained.path).metrics().get("robustness", {}).get("spread")
    rows = []
    for bundle in trained.task.samples.read(trained, options, log):
        lines, measured = disturbed(bundle, epsilons, deviations, options)
        rows += measured
        scores = {row["epsilon"]: row["buan"] for row in measured}
        pictures.perturbation(
            {bundle.title: lines},
            path=options.out / f"{bundle.name}_perturbation.png",
            original=bundle.in_mm(bundle.groups),
            scores={bundle.title: scores},
            scale_mm=1.0,
            title=f"{bundle.name} from latents with noise",
            simulated=bundle.simulated,
        )
        words = ", ".join(f"{score:.3f} at {epsilon:g}" for epsilon, score in scores.items())
        log.info("%s: BUAN %s", bundle.path, words)
    write_tsv(options.out / "perturbation.tsv", pd.DataFrame(rows))
    log.info(
        "tractograms, pictures and perturbation.tsv in %s (noise: Gaussian, epsilon times the "
        "standard deviation of each channel of the %s latents, before the bottleneck)",
        *(options.out, "file's" if deviations is None else "training"),
    )


def disturbed(bundle, epsilons, deviations, options):
    """What a tractogram becomes at each size of the noise; written but for size 0.

    Args:
        bundle: `BundleSample`.
        epsilons: sizes of the noise, in standard deviations.
        deviations: standard deviation of each channel; None: those of the tractogram itself.
        options: `brainvq.options.verbs.Perturb`.

    Returns:
        (dict of size to streamlines in mm, list of rows of `perturbation.tsv`).
    """
    z = encodings(bundle.model, bundle.groups)
    deviations = evaluation.channel_spread(z) if deviations is None else np.asarray(deviations)
    # The same draws for every size.
    noise = np.random.default_rng(options.seed).standard_normal(z.shape) * deviations
    lines, rows, whose = {}, [], participant_of(bundle.name, bundle.path)
    for epsilon in epsilons:
        groups = through_bottleneck(bundle.model, z + epsilon * noise)
        lines[epsilon] = bundle.in_mm(groups)
        about = {"participant_id": whose, "file": str(bundle.path), "epsilon": epsilon}
        rows.append(about | bundle.likeness(groups))
        if epsilon:  # without noise it is the reconstruction
            label = f"{epsilon:g}".replace(".", "p")
            bundle.save(bundle.restore(groups), options.out, f"noise{label}")
    return lines, rows
