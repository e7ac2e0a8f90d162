"""What a run measured after each epoch: losses, bits of the prior, similarity, BUAN."""

import re

import numpy as np
from matplotlib.ticker import MaxNLocator

from brainvq.reports.drawing import COLOURS, new_figure, png_figure


@png_figure()
def loss_curves(history, *, title="Loss per epoch"):
    """Reconstruction, quantisation and total loss per epoch, training and validation.

    Args:
        history: `pandas.DataFrame`, a row per epoch, as Keras logs it: `loss`,
            `reconstruction_loss`, `continuous_reconstruction_loss` (from the vectors before they
            are quantised), a `*_loss` column for each term of the bottleneck, the same with
            `val_`, and `epoch` where there is one. Terms of the neighbours on a map, terms of the
            divergence from a prior, and all others (the VQ loss) are summed in a panel each.
            Absent columns leave their panel out.
        title: figure title.

    Raises:
        ValueError: the history has no loss.
    """
    panels = _loss_panels(history.columns)
    if not panels:
        raise ValueError(f"history has no loss. Received: columns {list(history.columns)}")
    epochs = _epochs(history)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure((4.1 * columns + 0.4, 3.3 * rows + 0.3))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax, (label, names) in zip(axes, panels.items(), strict=False):
        _line(ax, epochs, history[names].sum(axis=1, min_count=len(names)), "training", 0)
        held = [f"val_{name}" for name in names if f"val_{name}" in history]
        if held:
            _line(ax, epochs, history[held].sum(axis=1, min_count=len(held)), "validation", 1)
        summed = label == "Map" or (label == "VQ" and len(names) > 1)
        ax.set_title(f"{label} ({_sum(names)})" if summed else label)
        _epoch_axis(ax, epochs, history[names].sum(axis=1).to_numpy())
        ax.legend()
    for ax in axes[: len(panels) : columns]:
        ax.set_ylabel("loss")
    figure.suptitle(title, fontweight="bold")
    return figure


@png_figure()
def prior_curve(history, *, baselines=None, title="Prior: bits per code"):
    """Bits per code of the prior per epoch, beside baselines.

    Args:
        history: `pandas.DataFrame`, a row per epoch, with `bits_per_code` and
            `val_bits_per_code`, or `loss` and `val_loss` in nats per code.
        baselines: dict of name → bits per code, drawn as horizontal lines.
        title: figure title.

    Raises:
        ValueError: the history has neither bits nor a loss.
    """
    name, scale = ("bits_per_code", 1.0) if "bits_per_code" in history else ("loss", np.log(2.0))
    if name not in history:
        raise ValueError(f"history has no loss. Received: columns {list(history.columns)}")
    epochs = _epochs(history)
    figure = new_figure((7.6, 4.2))
    ax = figure.subplots()
    _line(ax, epochs, history[name] / scale, "training", 0)
    if f"val_{name}" in history:
        held = history[f"val_{name}"] / scale
        _line(ax, epochs, held, f"validation (last {held.iloc[-1]:.2f})", 1)
    _baselines(ax, baselines, ".2f")
    ax.set_ylim(bottom=0)
    return _single_curve(figure, ax, epochs, "bits per code", title)


@png_figure()
def ssim_curve(history, *, references=None, title="SSIM on unseen subjects"):
    """SSIM per epoch on unseen subjects, whole image and foreground.

    Args:
        history: `pandas.DataFrame`, a row per epoch, with `val_ssim` or `ssim`, and
            `val_ssim_foreground` or `ssim_foreground` where measured; NaN rows are skipped.
        references: dict of name → SSIM, drawn as horizontal lines.
        title: figure title; say window and data range here or in the caption.

    Raises:
        ValueError: the history has no SSIM.
    """
    measures = {"ssim": "whole image", "ssim_foreground": "foreground"}
    figure, ax, epochs = _measure_curves(history, measures, "SSIM")
    _baselines(ax, references, ".3f")
    ax.set_ylim(top=1.0)
    return _single_curve(figure, ax, epochs, "SSIM, mean over subjects", title)


@png_figure()
def buan_curve(history, *, title="BUAN on validation bundles"):
    """BUAN per epoch on validation bundles.

    Args:
        history: `pandas.DataFrame`, a row per epoch, with `val_buan`; NaN rows are skipped.
        title: figure title.

    Raises:
        ValueError: the history has no BUAN.
    """
    figure, ax, epochs = _measure_curves(history, {"buan": "BUAN"}, "BUAN")
    ax.set_ylim(top=1.0)
    return _single_curve(figure, ax, epochs, "BUAN, mean over bundles", title)


def _baselines(ax, values, form):
    for i, (label, value) in enumerate((values or {}).items()):
        colour = COLOURS[2 + i % 4]
        text = f"{label} ({value:{form}})"
        ax.axhline(value, color=colour, linestyle="--", linewidth=1.3, label=text)


def _single_curve(figure, ax, epochs, ylabel, title):
    _epoch_axis(ax, epochs)
    ax.set_ylabel(ylabel)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_title(title)
    return figure


def _measure_curves(history, measures, what):
    """A figure with a line for each measure that the history has; the axes, and its epochs."""
    figure = new_figure((7.6, 4.2))
    ax = figure.subplots()
    epochs = _epochs(history)
    for i, (name, label) in enumerate(measures.items()):
        column = f"val_{name}" if f"val_{name}" in history else name
        if column in history and history[column].notna().any():
            known = history[column].notna().to_numpy()
            last = history[column][known].iloc[-1]
            _line(ax, epochs[known], history[column][known], f"{label} (last {last:.3f})", i)
    if not ax.lines:
        raise ValueError(f"history has no {what}. Received: columns {list(history.columns)}")
    return figure, ax, epochs


def _epochs(history):
    if "epoch" not in history:
        return np.arange(1, len(history) + 1)
    epochs = history["epoch"].to_numpy()
    # Keras counts epochs from 0 in its logs, people from 1.
    return epochs + 1 if len(epochs) and epochs[0] == 0 else epochs


def _line(ax, epochs, values, label, colour):
    marker = "o" if len(epochs) < 12 else None
    ax.plot(epochs, values, label=label, color=COLOURS[colour], marker=marker, markersize=4)


def _epoch_axis(ax, epochs, values=None):
    if values is not None:
        known = values[np.isfinite(values)]
        if len(known) and known.min() > 0 and known.max() > 10 * known.min():
            ax.set_yscale("log")
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(axis="y")
    if len(epochs) > 1:
        ax.set_xlim(epochs[0], epochs[-1])


def _loss_panels(columns):
    """Panel → names of the columns that it sums, in the order of the panels."""
    panels = {
        "Reconstruction": ["reconstruction_loss"],
        "Reconstruction, not quantised": ["continuous_reconstruction_loss"],
        "VQ": [],
        "Map": [],
        "KL": [],
        "Total": ["loss"],
    }
    singles = sum(panels.values(), [])
    for name in columns:
        # A second term of one name is numbered, as in kl_loss_2.
        if name in singles or name.startswith("val_") or not re.search(r"_loss(_\d+)?$", name):
            continue
        words = {"neighbourhood": "Map", "clustering": "Map", "kl": "KL"}
        panels[words.get(name.split("_")[0], "VQ")].append(name)
    logged = {label: [name for name in names if name in columns] for label, names in panels.items()}
    return {label: names for label, names in logged.items() if names}


def _sum(names):
    return " + ".join(re.sub(r"_loss(?=$|_)", "", name).replace("_", " ") for name in names)
