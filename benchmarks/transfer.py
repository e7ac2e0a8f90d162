"""What limits slices of other scanners: foreground SSIM against the fine detail of their pixels.

    python benchmarks/transfer.py ixi2d runs/RUN --scans "ds002748=BIDS/sub-5*/anat/*_T1w.nii.gz" \
        --scans "NiChart=..." --out transfer.png

Every scan is reconstructed by every model at its own pixels; coarser than 1.5 mm, also brought to
1 mm and with the contrast (the quantiles of the foreground) of the first set; finer, also brought
to 2 mm, by averages and by leaving out pixels, which keeps detail that averages lose. Detail is the
energy of the Laplacian in the slice as a multiple of the variance, both in the foreground. Every
fourth slice is taken. The figure is written to `--out`, and the numbers beside it as JSON.
"""

import argparse
import glob
import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

import brainvq
from brainvq.data.prepared import PreparedScan
from brainvq.evaluation.similarity import per_subject
from brainvq.reports.drawing import COLOURS, STYLE

FOREGROUND, EVERY = 0.05, 4
ONE, TWO = {"matrix": 256, "spacing": 1}, {"matrix": 128, "spacing": 2}
SHARES = np.linspace(0, 1, 101)
MARKS = {"own pixels": "o", "2 mm": "s", "2 mm, single pixels": "^", "1 mm": "D"}
CONTRAST = "contrast of the first"


def detail(slices):
    """Energy of the Laplacian in the slice over the variance, in the foreground."""
    x, inner = slices[..., 0], slices[:, 1:-1, 1:-1, 0]
    sides = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return float(np.mean((4 * inner - sides)[inner > FOREGROUND] ** 2) / x[x > FOREGROUND].var())


def views(path, steps, quantiles):
    """Yields the name of a view of a scan and its slices `(n, rows, columns, 1)`."""

    def read(**grid):
        return PreparedScan.read(path, steps, **grid).slices[::EVERY]

    own = read()
    yield "own pixels", own
    if min(nibabel.load(path).header.get_zooms()) < 1.5:
        yield "2 mm", read(**TWO)
        yield "2 mm, single pixels", np.ascontiguousarray(read(**ONE)[:, ::2, ::2])
        return
    yield "1 mm", read(**ONE)
    inside, alike = own > FOREGROUND, own.copy()
    alike[inside] = np.interp(own[inside], np.quantile(own[inside], SHARES), quantiles)
    yield CONTRAST, alike


def similarity(model, slices):
    """SSIM in the foreground; sides are filled up to what the network takes."""
    rows, columns = slices.shape[1:3]
    stride = model.stride[0]
    filled = np.pad(slices, [(0, 0), (0, -rows % stride), (0, -columns % stride), (0, 0)])
    restored = np.clip(model.reconstruct(filled)[:, :rows, :columns], 0, 1)
    return float(per_subject(slices, restored, ["one"] * len(slices))["ssim_foreground"].iloc[0])


def table(names, sets):
    """A row for each scan, view and model."""
    models = {name: brainvq.load(name) for name in names}
    steps = models[names[0]].steps
    quantiles, rows = [], []
    for path in next(iter(sets.values())):
        x = PreparedScan.read(path, steps, **TWO).slices[::EVERY]
        quantiles.append(np.quantile(x[x > FOREGROUND], SHARES))
    for name, paths in sets.items():
        for path in paths:
            for view, slices in views(path, steps, np.mean(quantiles, axis=0)):
                row = {"set": name, "scan": Path(path).name, "view": view, "detail": detail(slices)}
                rows += [
                    {**row, "model": key, "ssim": similarity(trained.model, slices)}
                    for key, trained in models.items()
                ]
    return pd.DataFrame(rows)


def figure(rows, names, path):
    """Every scan and view; filled for the first model, open for the second."""
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        page, ax = plt.subplots(figsize=(7.5, 5), layout="constrained")
        for number, (of, part) in enumerate(rows.groupby("set", sort=False)):
            colour = COLOURS[number]
            for view, mark in MARKS.items():
                for model, fill in zip(names, (colour, "none"), strict=False):
                    seen = part[(part["view"] == view) & (part["model"] == model)]
                    ax.plot(seen["detail"], seen["ssim"], mark, mec=colour, mfc=fill, ms=7)
            ax.plot([], [], "o", color=colour, label=of)
        for view, mark in MARKS.items():
            ax.plot([], [], mark, color="#4a545e", label=view)
        for model, fill in zip(names, ("#4a545e", "none"), strict=False):
            ax.plot([], [], "o", mec="#4a545e", mfc=fill, label=f"model {Path(model).name}")
        ax.set_xscale("log")
        ax.set_xlabel("fine detail: Laplacian energy / variance, foreground")
        ax.set_ylabel("SSIM, foreground")
        ax.set_title("A code has 8 x 8 pixels: what they hold is what limits it")
        ax.legend(ncols=2)
        page.savefig(path, dpi=110)


def main():
    """Measures and draws as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="one or two: presets or runs")
    parser.add_argument("--scans", action="append", required=True, metavar="NAME=GLOB")
    parser.add_argument("--out", type=Path, default=Path("transfer.png"))
    options = parser.parse_args()
    sets = dict(one.split("=", 1) for one in options.scans)
    rows = table(options.models, {name: sorted(glob.glob(one)) for name, one in sets.items()})
    options.out.with_suffix(".json").write_text(json.dumps(rows.to_dict("records"), indent=1))
    order = ["set", "view", "model"]
    print(rows.groupby(order, sort=False)[["detail", "ssim"]].agg(["mean", "std"]).round(3))
    figure(rows, options.models, options.out)


if __name__ == "__main__":
    main()
