"""The figures of a study, drawn from plain arrays and tables to PNG files.

Pictures of brains follow the radiological convention: they come ready to show, `(n, rows, cols)`
or `(n, rows, cols, 1)`, with row 0 anterior (axial plane) or superior (coronal, sagittal) and
column 0 at the patient's right (axial, coronal) or front (sagittal). Every figure states the plane
and marks the sides, keeps the pixel aspect, and shows all pictures that are to be compared on one
intensity scale. With `simulated=True` the title says that the brains are simulated.

Every function writes `path` and returns it as a `pathlib.Path`; with `None` it returns the
`matplotlib.figure.Figure` instead, for a notebook. No global state of Matplotlib is touched.
"""

import re
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brainvq.files import atomic_path

DPI = 130
# What stands at the left and right edge of a picture, by plane.
SIDES = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}
COLOURS = ("#2a6fbb", "#d1602b", "#3d8b54", "#8a5aa8", "#b8952e", "#5f6b76")
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a949e",
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "grid.color": "#e3e7eb",
    "xtick.color": "#4a545e",
    "ytick.color": "#4a545e",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "auto",
}
DARK = {  # pictures of brains: black ground, so that the edge of the head is not outlined
    "figure.facecolor": "black",
    "axes.facecolor": "black",
    "text.color": "#e8ecef",
    "axes.labelcolor": "#e8ecef",
    "axes.titlecolor": "#e8ecef",
    "axes.edgecolor": "#59636d",
    "xtick.color": "#b9c2ca",
    "ytick.color": "#b9c2ca",
}


def _style(dark=False):
    """The common style, as a decorator; rcParams are as before when the function returns."""
    return matplotlib.rc_context({**STYLE, **(DARK if dark else {})})


def _finish(figure, path):
    if path is None:
        return figure
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")
    return Path(path)


@_style(dark=True)
def reconstruction_grid(
    originals,
    reconstructions,
    path,
    *,
    titles=None,
    ssim=None,
    code_maps=None,
    num_codes=None,
    codebook=None,
    title="Originals and reconstructions",
    plane="axial",
    spacing=(1.0, 1.0),
    intensity=None,
    simulated=False,
):
    """Originals, reconstructions and their absolute error, a column per picture.

    Args:
        originals: `(n, rows, cols[, 1])`, ready to show; 4 to 10 read well.
        reconstructions: of the shape of `originals`.
        path: the PNG to write; None returns the Figure.
        titles: n column titles, such as subject names.
        ssim: n figures of SSIM written below the reconstructions.
        code_maps: integers `(n, h, w)`: adds a row of coloured codes.
        num_codes: size of the codebook; needed with `code_maps`.
        codebook: `(num_codes, dim)`: similar codes then look alike, see `code_colours`.
        title: figure title.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).
        intensity: (black, white) for all pictures. Default: 0 (or the minimum, if that is below)
            to the maximum of the originals.
        simulated: True when the brains are simulated; the title then says so.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the shapes do not agree.
    """
    originals, reconstructions = _pictures(originals), _pictures(reconstructions)
    if originals.shape != reconstructions.shape or len(originals) == 0:
        raise ValueError(
            "originals and reconstructions must be of one shape and not empty. "
            f"Received: {originals.shape} and {reconstructions.shape}"
        )
    n, low_high = len(originals), _intensity(intensity, originals)
    errors = np.abs(reconstructions - originals)
    # One scale for all errors; the few largest may clip, or a single pixel would darken the row.
    worst = max(float(np.nanquantile(errors, 0.998)), 1e-6)
    rows = ["original", "reconstruction", "|error|"]
    if code_maps is not None:
        rows.insert(1, "codes")
    figure, axes = _picture_axes(originals.shape, spacing, len(rows), n, bar=True)
    for j in range(n):
        for i, row in enumerate(rows):
            ax = axes[i, j]
            if row == "original":
                shown = _show(ax, originals[j], spacing, low_high)
                ax.set_title(str(titles[j]) if titles is not None else "", fontsize=10)
            elif row == "reconstruction":
                _show(ax, reconstructions[j], spacing, low_high)
                if ssim is not None:
                    _caption(ax, f"SSIM {ssim[j]:.3f}")
            elif row == "codes":
                _show_codes(ax, code_maps[j], num_codes, codebook, originals.shape[1:], spacing)
            else:
                error = _show(ax, errors[j], spacing, (0, worst), cmap="inferno")
            _mark(ax, plane)
            if j == 0:
                ax.set_ylabel(row, fontsize=10)
    _bar(figure, axes[0, -1], shown, "intensity")
    _bar(figure, axes[-1, -1], error, "|error|", extend="max")
    _title(figure, title, plane, simulated)
    return _finish(figure, path)


@_style(dark=True)
def code_map_grid(
    images,
    code_maps,
    num_codes,
    path,
    *,
    codebook=None,
    titles=None,
    title="Code maps",
    plane="axial",
    spacing=(1.0, 1.0),
    intensity=None,
    simulated=False,
):
    """Pictures above their maps of codes, each code in its own colour.

    Args:
        images: `(n, rows, cols[, 1])`, ready to show.
        code_maps: integers `(n, h, w)`.
        num_codes: size of the codebook.
        path: the PNG to write; None returns the Figure.
        codebook: `(num_codes, dim)`: similar codes then look alike, see `code_colours`.
        titles: n column titles.
        title: figure title.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).
        intensity: (black, white). Default as in `reconstruction_grid`.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.
    """
    images = _pictures(images)
    low_high = _intensity(intensity, images)
    figure, axes = _picture_axes(images.shape, spacing, 2, len(images), bar=True)
    for j in range(len(images)):
        shown = _show(axes[0, j], images[j], spacing, low_high)
        axes[0, j].set_title(str(titles[j]) if titles is not None else "", fontsize=10)
        _show_codes(axes[1, j], code_maps[j], num_codes, codebook, images.shape[1:], spacing)
        for ax in axes[:, j]:
            _mark(ax, plane)
    axes[0, 0].set_ylabel("picture")
    height, width = np.shape(code_maps)[1:3]
    axes[1, 0].set_ylabel(f"codes, {height}×{width} of {num_codes}")
    _bar(figure, axes[0, -1], shown, "intensity")
    _title(figure, title, plane, simulated)
    if codebook is not None:
        figure.supxlabel(
            "colour: rank of the code's embedding on the first principal component",
            fontsize=9,
        )
    return _finish(figure, path)


@_style(dark=True)
def sample_grid(
    samples,
    real,
    path,
    *,
    side=8,
    title="Generated brains beside real ones",
    plane="axial",
    spacing=(1.0, 1.0),
    intensity=None,
    simulated=False,
):
    """A labelled grid of samples beside a grid of real pictures, on one intensity scale.

    Args:
        samples: `(n, rows, cols[, 1])`; the first `side`² are shown.
        real: `(m, rows, cols[, 1])`; the first `side`² are shown.
        path: the PNG to write; None returns the Figure.
        side: pictures along each side of a grid. Default 8.
        title: figure title.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).
        intensity: (black, white). Default: 0 or the minimum, to the maximum of `real`.
        simulated: True when the model learned from simulated brains.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.
    """
    samples, real = _pictures(samples)[: side**2], _pictures(real)[: side**2]
    low_high = _intensity(intensity, real)
    word = "simulated" if simulated else "real"
    blocks = [(samples, f"{len(samples)} generated"), (real, f"{len(real)} {word}")]
    ratio = real.shape[1] * spacing[0] / (real.shape[2] * spacing[1])
    figure = _new((14.0, 6.85 * ratio + 1.0))
    axes = figure.subplots(1, 2)
    for ax, (pictures, label) in zip(axes, blocks, strict=True):
        _mosaic(ax, pictures, side, spacing, low_high, plane)
        ax.set_title(label)
    _title(figure, title, plane, simulated, note="in every picture")
    return _finish(figure, path)


@_style(dark=True)
def image_grid(
    images,
    path,
    *,
    side=8,
    title="Brains",
    plane="axial",
    spacing=(1.0, 1.0),
    intensity=None,
    simulated=False,
):
    """A labelled grid of pictures on one intensity scale.

    Args:
        images: `(n, rows, cols[, 1])`; the first `side`² are shown.
        path: the PNG to write; None returns the Figure.
        side: most pictures along each side of the grid. Default 8.
        title: figure title.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).
        intensity: (black, white). Default: 0 or the minimum, to the maximum of `images`.
        simulated: True when the brains are simulated or the model learned from such.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.
    """
    images = _pictures(images)[: side**2]
    side = min(side, int(np.ceil(np.sqrt(len(images)))))
    ratio = images.shape[1] * spacing[0] / (images.shape[2] * spacing[1])
    figure = _new((8.0, 7.7 * ratio + 0.8))
    _mosaic(figure.subplots(), images, side, spacing, _intensity(intensity, images), plane)
    _title(figure, title, plane, simulated, note="in every picture")
    return _finish(figure, path)


@_style(dark=True)
def nearest_neighbours(
    samples,
    nearest_train,
    path,
    *,
    distances=None,
    reference=None,
    title="Each sample and the training picture nearest to it",
    plane="axial",
    spacing=(1.0, 1.0),
    intensity=None,
    simulated=False,
):
    """Samples above their nearest training pictures: has the generator only memorised?

    Args:
        samples: `(n, rows, cols[, 1])`; 6 to 12 read well.
        nearest_train: of the shape of `samples`; see `evaluation.nearest_images`.
        path: the PNG to write; None returns the Figure.
        distances: n root mean squared differences, written between the two rows.
        reference: the same distance for real unseen pictures (their mean), stated below. Samples
            much nearer than that are copies.
        title: figure title.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).
        intensity: (black, white). Default as in `sample_grid`.
        simulated: True when the model learned from simulated brains.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.
    """
    samples, nearest = _pictures(samples), _pictures(nearest_train)
    low_high = _intensity(intensity, nearest)
    figure, axes = _picture_axes(samples.shape, spacing, 2, len(samples), bar=True)
    for j in range(len(samples)):
        shown = _show(axes[0, j], samples[j], spacing, low_high)
        _show(axes[1, j], nearest[j], spacing, low_high)
        if distances is not None:
            _caption(axes[0, j], f"rmse {distances[j]:.3f}")
        for ax in axes[:, j]:
            _mark(ax, plane)
    axes[0, 0].set_ylabel("generated")
    axes[1, 0].set_ylabel("nearest in training")
    _bar(figure, axes[0, -1], shown, "intensity")
    _title(figure, title, plane, simulated)
    if reference is not None:
        figure.supxlabel(
            f"unseen pictures lie {reference:.3f} (rmse, mean) from their nearest training picture",
            fontsize=9,
        )
    return _finish(figure, path)


@_style()
def loss_curves(history, path, *, title="Loss per epoch", simulated=False):
    """Reconstruction, quantisation and total loss per epoch, training and validation.

    Args:
        history: `pandas.DataFrame`, a row per epoch, as Keras logs it: `loss`,
            `reconstruction_loss`, `continuous_reconstruction_loss` (from the vectors before they
            are quantised), a `*_loss` column for each term of the bottleneck, the same with
            `val_`, and `epoch` where there is one. Terms of the neighbours on a map, terms of the
            divergence from a prior, and all others (the VQ loss) are summed in a panel each.
            Absent columns leave their panel out.
        path: the PNG to write; None returns the Figure.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the history has no loss.
    """
    panels = _loss_panels(history.columns)
    if not panels:
        raise ValueError(f"history has no loss. Received: columns {list(history.columns)}")
    epochs = _epochs(history)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = _new((4.1 * columns + 0.4, 3.3 * rows + 0.3))
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
    figure.suptitle(_worded(title, simulated), fontweight="bold")
    return _finish(figure, path)


@_style()
def prior_curve(history, path, *, baselines=None, title="Prior: bits per code", simulated=False):
    """Bits per code of the prior per epoch, beside baselines.

    Args:
        history: `pandas.DataFrame`, a row per epoch, with `bits_per_code` and
            `val_bits_per_code`, or `loss` and `val_loss` in nats per code.
        path: the PNG to write; None returns the Figure.
        baselines: dict of name → bits per code, drawn as horizontal lines.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the history has neither bits nor a loss.
    """
    name, scale = ("bits_per_code", 1.0) if "bits_per_code" in history else ("loss", np.log(2.0))
    if name not in history:
        raise ValueError(f"history has no loss. Received: columns {list(history.columns)}")
    epochs = _epochs(history)
    figure = _new((7.6, 4.2))
    ax = figure.subplots()
    _line(ax, epochs, history[name] / scale, "training", 0)
    if f"val_{name}" in history:
        held = history[f"val_{name}"] / scale
        _line(ax, epochs, held, f"validation (last {held.iloc[-1]:.2f})", 1)
    for i, (label, bits) in enumerate((baselines or {}).items()):
        colour = COLOURS[2 + i % 4]
        ax.axhline(bits, color=colour, linestyle="--", linewidth=1.3, label=f"{label} ({bits:.2f})")
    _epoch_axis(ax, epochs)
    ax.set_ylabel("bits per code")
    ax.set_ylim(bottom=0)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_title(_worded(title, simulated))
    return _finish(figure, path)


@_style()
def ssim_curve(history, path, *, references=None, title="SSIM on unseen subjects", simulated=False):
    """SSIM per epoch on unseen subjects, whole image and foreground.

    Args:
        history: `pandas.DataFrame`, a row per epoch, with `val_ssim` or `ssim`, and
            `val_ssim_foreground` or `ssim_foreground` where measured; NaN rows are skipped.
        path: the PNG to write; None returns the Figure.
        references: dict of name → SSIM, drawn as horizontal lines.
        title: figure title; say window and data range here or in the caption.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the history has no SSIM.
    """
    measures = {"ssim": "whole image", "ssim_foreground": "foreground"}
    figure, ax, epochs = _measure_curves(history, measures, "SSIM")
    for i, (label, value) in enumerate((references or {}).items()):
        colour = COLOURS[2 + i % 4]
        ax.axhline(
            value, color=colour, linestyle="--", linewidth=1.3, label=f"{label} ({value:.3f})"
        )
    _epoch_axis(ax, epochs)
    ax.set_ylabel("SSIM, mean over subjects")
    ax.set_ylim(top=1.0)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_title(_worded(title, simulated))
    return _finish(figure, path)


@_style()
def buan_curve(history, path, *, title="BUAN on validation bundles", simulated=False):
    """BUAN per epoch on validation bundles.

    Args:
        history: `pandas.DataFrame`, a row per epoch, with `val_buan`; NaN rows are skipped.
        path: the PNG to write; None returns the Figure.
        title: figure title.
        simulated: True when the bundles are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the history has no BUAN.
    """
    figure, ax, epochs = _measure_curves(history, {"buan": "BUAN"}, "BUAN")
    _epoch_axis(ax, epochs)
    ax.set_ylabel("BUAN, mean over bundles")
    ax.set_ylim(top=1.0)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_title(_worded(title, simulated))
    return _finish(figure, path)


def _measure_curves(history, measures, what):
    """A figure with a line for each measure that the history has; the axes, and its epochs."""
    figure = _new((7.6, 4.2))
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


@_style()
def code_usage_bars(counts, path, *, title="Use of the codebook", simulated=False):
    """Share of each code, from the most to the least used.

    Args:
        counts: `(num_codes,)`, how often each code was seen.
        path: the PNG to write; None returns the Figure.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: nothing was counted.
    """
    counts = np.asarray(counts, "float64")
    if counts.ndim != 1 or counts.sum() <= 0:
        raise ValueError(f"counts must be (num_codes,) and not all zero. Received: {counts.shape}")
    share = np.sort(counts)[::-1] / counts.sum()
    used = int((share > 0).sum())
    entropy = abs(np.sum(share[:used] * np.log2(share[:used])))
    figure = _new((7.6, 3.8))
    ax = figure.subplots()
    few = len(share) <= 64
    ranks = np.arange(1, len(share) + 1)
    ax.bar(ranks, 100 * share, width=0.8 if few else 1.0, color=COLOURS[0])
    ax.axhline(
        100 / len(share),
        color=COLOURS[1],
        linestyle="--",
        linewidth=1.3,
        label="all codes used alike",
    )
    if used < len(share):
        ax.axvspan(
            used + 0.5, len(share) + 0.5, color="#f3d9cc", label=f"{len(share) - used} never used"
        )
    ax.set_xlim(0.5 - 0.01 * len(share), len(share) + 0.5)
    ax.set_xlabel("code, by rank")
    # One code for all background hides the rest on a linear scale.
    skewed = share[0] > 20 / len(share)
    if skewed:
        ax.set_yscale("log")
    ax.set_ylabel("share of all codes (%" + (", log scale)" if skewed else ")"))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    ax.set_title(
        f"{_worded(title, simulated)}\n{used} of {len(share)} used, "
        f"perplexity {2**entropy:.1f}, {entropy:.2f} bits"
    )
    return _finish(figure, path)


@_style()
def subject_scores(table, path, *, title="SSIM of each subject", simulated=False):
    """SSIM of each subject, whole image and foreground, from the best to the worst.

    Args:
        table: `pandas.DataFrame` with `subject`, `ssim` and `ssim_foreground`, as
            `evaluation.per_subject` gives it.
        path: the PNG to write; None returns the Figure.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.
    """
    table = table.sort_values("ssim", ascending=False)
    many = len(table) > 30
    figure = _new((min(4.5 + 0.28 * len(table), 12.0), 4.2))
    ax = figure.subplots()
    place = np.arange(len(table))
    for i, (name, label) in enumerate((("ssim", "whole image"), ("ssim_foreground", "foreground"))):
        values = table[name].to_numpy()
        known = values[~np.isnan(values)]
        mean = known.mean() if len(known) else np.nan
        sd = known.std(ddof=1) if len(known) > 1 else np.nan
        ax.plot(
            place,
            values,
            linestyle="none",
            marker="os"[i],
            markersize=3 if many else 7,
            color=COLOURS[i],
            label=f"{label}: {mean:.3f} ± {sd:.3f}",
        )
        ax.axhline(mean, color=COLOURS[i], linewidth=1, linestyle=":")
    if many:
        ax.set_xlabel(f"{len(table)} subjects, by rank")
    else:
        ax.set_xticks(place, table["subject"].astype(str), rotation=60, ha="right", fontsize=8)
    ax.margins(x=0.5 / max(len(table), 1))
    ax.grid(axis="y")
    ax.set_ylabel("SSIM")
    ax.set_ylim(top=1.0)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2)
    ax.set_title(_worded(title, simulated))
    return _finish(figure, path)


@_style()
def comparison_bars(
    table,
    path,
    *,
    measures=("ssim", "ssim_foreground", "psnr"),
    title="Runs side by side",
    simulated=False,
):
    """Bars of several runs for each measure, with the standard deviation over subjects.

    Args:
        table: `pandas.DataFrame` as `evaluation.compare` gives it: `run`, and for each measure
            `<measure>` and, where known, `<measure>_sd`.
        path: the PNG to write; None returns the Figure.
        measures: columns to draw, a panel each; absent ones are left out.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the table has none of the measures.
    """
    names = {
        "ssim": "SSIM",
        "ssim_foreground": "SSIM, foreground",
        "psnr": "PSNR (dB)",
        "psnr_foreground": "PSNR, foreground (dB)",
        "mse": "mean squared error",
    }
    measures = [name for name in measures if name in table]
    if not measures:
        raise ValueError(f"table has none of the measures. Received: {list(table.columns)}")
    figure = _new((3.4 * len(measures) + 2.2, 0.5 * len(table) + 1.7))
    axes = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    place = np.arange(len(table))
    colours = [COLOURS[i % len(COLOURS)] for i in place]
    for ax, name in zip(axes, measures, strict=True):
        values = table[name].to_numpy("float64")
        spread = table.get(f"{name}_sd")
        spread = np.zeros(len(table)) if spread is None else np.nan_to_num(spread.to_numpy(float))
        ax.barh(place, values, color=colours, height=0.62)
        ax.errorbar(values, place, xerr=spread, fmt="none", ecolor="#333b42", capsize=3)
        reach = np.nanmax(np.where(np.isfinite(values), values + spread, np.nan))
        for i, value in enumerate(values):
            digits = 2 if name.startswith("psnr") else 3
            text = f"{value:.{digits}f}" if name != "mse" else f"{value:.2e}"
            ax.text(value + spread[i] + 0.02 * reach, i, text, va="center", fontsize=9)
        ax.set_xlim(0, reach * 1.22)
        ax.set_title(names.get(name, name))
        ax.grid(axis="x")
    axes[0].set_yticks(place, table["run"].astype(str))
    axes[0].invert_yaxis()
    figure.suptitle(_worded(title, simulated), fontweight="bold")
    return _finish(figure, path)


@_style()
def codebook_projection(codebook, counts, path, *, title="Codebook", simulated=False):
    """Code vectors on their first two principal components, sized by use.

    Args:
        path: the PNG to write; None returns the Figure.
        codebook: `(num_codes, dim)`.
        counts: `(num_codes,)`, how often each code was seen; unused codes are crosses.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the two arrays do not agree.
    """
    codebook, counts = np.asarray(codebook, "float64"), np.asarray(counts, "float64")
    if codebook.ndim != 2 or counts.shape != codebook.shape[:1]:
        raise ValueError(
            "codebook must be (num_codes, dim) and counts (num_codes,). "
            f"Received: {codebook.shape} and {counts.shape}"
        )
    points, explained = _principal(codebook, 2)
    used = counts > 0
    figure = _new((6.2, 5.2))
    ax = figure.subplots()
    area = 12 + 240 * counts / max(counts.max(), 1)
    colours = code_colours(len(codebook), codebook)
    ax.scatter(
        *points[used].T,
        s=area[used],
        c=colours[used],
        alpha=0.8,
        edgecolors="#333b42",
        linewidths=0.4,
        label=f"{int(used.sum())} used (area: share)",
    )
    if not used.all():
        ax.scatter(
            *points[~used].T, marker="x", s=28, c="#c0392b", label=f"{int((~used).sum())} unused"
        )
    for axis, part, name in zip((ax.xaxis, ax.yaxis), explained, ("first", "second"), strict=True):
        axis.set_label_text(f"{name} principal component ({100 * part:.0f} % of variance)")
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid()
    ax.legend(loc="best", markerscale=0.6)
    ax.set_title(_worded(title, simulated))
    return _finish(figure, path)


def code_colours(num_codes, codebook=None):
    """A colour for each code.

    Args:
        num_codes: size of the codebook.
        codebook: `(num_codes, dim)`. With it the hue follows the rank of the code on the first
            principal component, so that similar codes look alike; without, the code's number.

    Returns:
        float64 `(num_codes, 3)`, red, green and blue in [0, 1].
    """
    rank = np.arange(num_codes)
    if codebook is not None:
        codebook = np.asarray(codebook, "float64")
        rank = np.argsort(np.argsort(_principal(codebook, 1)[0][:, 0], kind="stable"))
    # The ends of the map are too dark to tell from the black ground.
    return colormaps["turbo"](0.06 + 0.88 * rank / max(num_codes - 1, 1))[:, :3]


def _principal(vectors, count):
    """Scores on the first principal components and the variance each explains."""
    centred = vectors - vectors.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    # The sign of a component is arbitrary: the largest weight is made positive, so that two
    # figures of one codebook agree.
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    scores = np.zeros((len(vectors), count))
    explained = np.zeros(count)
    kept = min(count, len(axes))
    scores[:, :kept] = centred @ axes[:kept].T
    explained[:kept] = spread[:kept] ** 2 / max((spread**2).sum(), 1e-30)
    return scores, explained


def _new(size):
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _picture_axes(shape, spacing, rows, cols, *, bar):
    """A figure whose panels have the aspect of the pictures."""
    ratio = shape[1] * spacing[0] / (shape[2] * spacing[1])
    width = min(2.0, 12.4 / cols)
    figure = _new((cols * width + 0.5 + 0.7 * bar, rows * width * ratio + 0.75))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.03, hspace=0.01)
    return figure, figure.subplots(rows, cols, squeeze=False)


def _mosaic(ax, pictures, side, spacing, low_high, plane):
    """Pictures as one image, columns lettered and rows numbered."""
    gap, (rows, cols) = 2, pictures.shape[1:]
    down = -(-len(pictures) // side)
    mosaic = np.full((down * (rows + gap) - gap, side * (cols + gap) - gap), np.nan, "float32")
    for i, picture in enumerate(pictures):
        top, left = (i // side) * (rows + gap), (i % side) * (cols + gap)
        mosaic[top : top + rows, left : left + cols] = picture
    _show(ax, mosaic, spacing, low_high, cmap=colormaps["gray"].with_extremes(bad="#2b3238"))
    ax.set_xticks([j * (cols + gap) + cols / 2 for j in range(side)], _letters(side))
    ax.set_yticks([i * (rows + gap) + rows / 2 for i in range(down)], range(1, down + 1))
    ax.tick_params(length=0, labelsize=9)
    # Marks on all 64 would hide them: the first picture has them, the title says the rest.
    left, right = SIDES[plane]
    for x, text, align in ((2, left, "left"), (cols - 2, right, "right")):
        _text(ax, x, rows / 2, text, ha=align, data=True)


def _show(ax, picture, spacing, low_high, cmap="gray"):
    shown = ax.imshow(
        picture,
        cmap=cmap,
        vmin=low_high[0],
        vmax=low_high[1],
        aspect=spacing[0] / spacing[1],
        interpolation="auto",  # smooth when made smaller, or fine lines alias
    )
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    return shown


def _show_codes(ax, codes, num_codes, codebook, size, spacing):
    if num_codes is None:
        raise ValueError("num_codes is needed to colour code maps. Received: num_codes=None")
    # Stretched over the picture's own rows and columns, so that a code lies above what it codes.
    ax.imshow(
        np.asarray(codes),
        cmap=ListedColormap(code_colours(num_codes, codebook)),
        vmin=-0.5,
        vmax=num_codes - 0.5,
        extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5),
        aspect=spacing[0] / spacing[1],
        interpolation="nearest",
    )
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def _mark(ax, plane):
    left, right = SIDES[plane]
    _text(ax, 0.02, 0.5, left, ha="left")
    _text(ax, 0.98, 0.5, right, ha="right")


def _text(ax, x, y, text, *, ha, data=False):
    ax.text(
        x,
        y,
        text,
        transform=ax.transData if data else ax.transAxes,
        ha=ha,
        va="center",
        fontsize=9,
        color="#ffd479",
        path_effects=[patheffects.withStroke(linewidth=2, foreground="black")],
    )


def _caption(ax, text):
    ax.text(
        0.5,
        0.01,
        text,
        transform=ax.transAxes,
        ha="center",
        va="bottom",
        fontsize=9,
        path_effects=[patheffects.withStroke(linewidth=2, foreground="black")],
    )


def _bar(figure, ax, shown, label, extend="neither"):
    bar = figure.colorbar(shown, ax=ax, fraction=0.08, pad=0.04, extend=extend)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(label, fontsize=9)


def _title(figure, title, plane, simulated, note=""):
    left, right = SIDES[plane]
    names = {"R": "patient's right", "L": "patient's left", "A": "anterior", "P": "posterior"}
    sides = f"{left} = {names[left]}, {right} = {names[right]}"
    figure.suptitle(
        f"{_worded(title, simulated)}\n{plane} plane, {sides}{' ' if note else ''}{note}",
        fontsize=11,
    )


def _worded(title, simulated):
    return f"{title} (simulated brains)" if simulated else title


def _pictures(x):
    x = np.asarray(x)
    if x.ndim == 4 and x.shape[-1] == 1:
        x = x[..., 0]
    if x.ndim != 3:
        raise ValueError(
            f"pictures must be (n, rows, cols) or (n, rows, cols, 1). Received: shape {x.shape}"
        )
    return x.astype("float32", copy=False)


def _intensity(intensity, reference):
    if intensity is not None:
        return intensity
    low, high = min(0.0, float(np.nanmin(reference))), float(np.nanmax(reference))
    return low, high if high > low else low + 1.0


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
    found = {label: [name for name in names if name in columns] for label, names in panels.items()}
    return {label: names for label, names in found.items() if names}


def _sum(names):
    return " + ".join(re.sub(r"_loss(?=$|_)", "", name).replace("_", " ") for name in names)


def _letters(count):
    return [chr(ord("A") + i) for i in range(count)]
