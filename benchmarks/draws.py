"""Volumes drawn by runs of introvae3d: how sharp, how varied and how near to unseen scans.

    python benchmarks/draws.py RUN... --out draws.png

Runs of the same data, the first of which gives the scans. Of each run there are draws of N(0, I)
and, of a run with `--model.fitted-draws`, those with fitted vectors, with fitted detail and with
both; beside them draws of as many principal components, and training scans in the place of draws.
The table has the measures of `introvae3d` (see docs/results.md); the figure shows what is given up
for what. It is written to `--out`, and the numbers beside it as JSON.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from brainvq import evaluation
from brainvq.reports.drawing import COLOURS, STYLE
from brainvq.tasks.run import LoadedRun
from brainvq.tasks.vectors.measures import principal_components

KINDS = {"N(0, I)": "o", "vectors fitted": "v", "detail fitted": "^", "both fitted": "s"}


def draws_of(model, count, seed=0):
    """Draws of each kind that a model has: dict of kind to volumes."""
    z = np.random.default_rng(seed).standard_normal((count, model.latent_size), dtype="float32")
    draws = {"N(0, I)": model.decode(z)}
    if model.ex_post is None:
        return draws
    vectors = model.draw(count, seed)
    detail = model.ex_post.details(count, np.random.default_rng([seed, 1]))
    draws["vectors fitted"] = model.decode(vectors)
    draws["detail fitted"] = np.clip(draws["N(0, I)"] + detail, 0, 1)
    return draws | {"both fitted": model.decode_drawn(vectors, seed=seed)}


def measures(drawn, real, train, near):
    """A row of the table."""
    sharp = evaluation.compare_sharpness(drawn, real, draws=100).set_index("measure")
    pairs = evaluation.diversity(drawn, real, pairs=200, draws=100).set_index("of")["ms_ssim"]
    distances = evaluation.fidelity(drawn, real, train, draws=20)
    kernel = distances[distances["measure"] == "kernel"].set_index("space")["value"]
    copies = evaluation.memorisation(evaluation.nearest_training(drawn, train), near)
    return {
        "Laplacian": sharp.loc["laplacian_foreground", "ratio"],
        "pairs": pairs["samples"],
        "pairs of unseen": pairs["real"],
        "wavelets": kernel["wavelet"],
        "components": kernel["pca"],
        "copies": copies.set_index("measure").loc["relative", "share_nearer"],
    }


def table(paths, count):
    """All rows: `pandas.DataFrame` of `of`, `kind` and `measures`."""
    runs = [LoadedRun.open(path) for path in paths]
    first = runs[0]
    real, train = (first.store.read(first.rows[split]) for split in ("test", "train"))
    near = evaluation.nearest_training(real, train)
    parts = {(run.name, kind): x for run in runs for kind, x in draws_of(run.model, count).items()}
    parts["principal components", ""] = principal_components(first).sample(count)
    parts["training scans", ""] = train
    rows = []
    for (of, kind), drawn in parts.items():
        rows.append({"of": of, "kind": kind, **measures(drawn, real, train, near)})
        print(pd.DataFrame(rows[-1:]).round(3).to_string(index=False, header=len(rows) == 1))
    return pd.DataFrame(rows)


def figure(rows, path):
    """Sharpness against likeness of pairs, and against distance."""
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        page, axes = plt.subplots(1, 2, figsize=(12.5, 4.8), layout="constrained")
        # Runs in colours, what they are compared with in greys.
        names = list(dict.fromkeys(rows["of"]))
        colours = dict(zip(names, [*COLOURS[: len(names) - 2], "#8a949e", "#1d252c"], strict=True))
        for ax, column in zip(axes, ("pairs", "wavelets"), strict=True):
            for _, row in rows.iterrows():
                mark, colour = KINDS.get(row["kind"], "D"), colours[row["of"]]
                ax.plot(row["Laplacian"], row[column], mark, ms=8, alpha=0.8, color=colour)
            ax.axvline(1, color="#8a949e", lw=0.8)
            ax.set_xlabel("sharpness: Laplacian energy, share of unseen scans'")
        for name, colour in colours.items():
            axes[0].plot([], [], "D", label=name, color=colour)
        unseen = rows["pairs of unseen"].iloc[0]
        axes[0].axhspan(unseen - 0.03, unseen + 0.03, color="#e3e7eb", zorder=0)
        axes[0].plot(1, unseen, "k*", ms=14, label="unseen scans (band: ± 0.03)")
        axes[0].set_ylabel("likeness: MS-SSIM of pairs")
        axes[0].set_title("Sharp and varied")
        axes[1].set_yscale("log")
        axes[1].set_ylabel("kernel distance from unseen scans, wavelets")
        axes[1].set_title("Sharp and near")
        page.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
        for kind, mark in KINDS.items():
            axes[1].plot([], [], mark, color="#4a545e", ls="", label=kind)
        axes[1].legend(title="what is drawn", loc="lower left")
        page.savefig(path, dpi=110)


def main():
    """Measures runs as the command line says; writes the figure and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path("draws.png"))
    options = parser.parse_args()
    rows = table(options.runs, options.samples)
    options.out.with_suffix(".json").write_text(json.dumps(rows.to_dict("records"), indent=1))
    figure(rows, options.out)


if __name__ == "__main__":
    main()
