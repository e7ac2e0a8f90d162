"""Figures of generated volumes: in three planes beside real ones, along latents, and measured.

Volumes are `(x, y, z)` on one grid, shown as in `brainvq.reports.planes`: axial, coronal and
sagittal slices through one point, the patient's right at the left of axial and coronal pictures,
anterior at the left of sagittal ones, all on one scale of intensity and one of millimetres.

Every function writes `path` and returns it as a `pathlib.Path`; with `None` it returns the
`matplotlib.figure.Figure` instead, for a notebook.
"""

import numpy as np
from matplotlib import patheffects
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator, NullFormatter

from brainvq.reports.figures import COLOURS, _finish, _mark, _new, _show, _style, _worded
from brainvq.reports.planes import (
    _LETTERS,
    _SIGNED,
    PLANES,
    Row,
    _add_bar,
    _ends,
    _numbers,
    _top,
    centre_of_mass,
    grey_scale,
    plane_slices,
    trimmed,
)

_WIDEST = 15.0  # inches
_LARGEST = 1.55  # inches, the largest side of a picture
_BAR = 0.14  # inches, the width of a colour bar
_SHARPNESS = {
    "gradient_foreground": "gradient, foreground",
    "laplacian_foreground": "Laplacian, foreground",
}
_DISTANCES = {
    ("pca", "frechet"): "Fréchet, components",
    ("wavelet", "frechet"): "Fréchet, wavelets",
}


@_style(dark=True)
def generated_planes(
    blocks,
    affine,
    path,
    *,
    reference=None,
    position=None,
    title="Generated brains beside real ones",
    simulated=False,
    intensity=None,
):
    """Volumes of several origins side by side, each in three planes, a row per volume.

    Background that is empty in all volumes is cut down to a margin of 6 mm.

    Args:
        blocks: dict of name to volumes `(n, x, y, z[, 1])`, such as samples of each model and real
            ones. A shorter block leaves its last rows empty.
        affine: `(4, 4)`, voxel index → mm in RAS+ world coordinates.
        path: the PNG to write; None returns the Figure.
        reference: name of the block whose intensities set the scale. Default: the last one.
        position: (x, y, z) in mm of the point that all slices go through. Default:
            `planes.centre_of_mass` of the first volume of the reference.
        title: figure title.
        simulated: True when the brains are simulated; the title then says so.
        intensity: (black, white). Default: 0 (or the minimum, if that is below) to the 99.9th
            percentile of the brightest foreground of the reference.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        UserError: the position lies outside the volumes.
        ValueError: there is no volume, the grids differ, or `reference` is no block.
    """
    blocks = {str(name): _volumes(x) for name, x in blocks.items()}
    grids = {x.shape[1:] for x in blocks.values()}
    if len(grids) != 1 or not all(map(len, blocks.values())):
        raise ValueError(
            "blocks must be one or more volumes each, on one grid. "
            f"Received: {[x.shape for x in blocks.values()]}"
        )
    reference = list(blocks)[-1] if reference is None else reference
    if reference not in blocks:
        raise ValueError(f"reference must be one of {list(blocks)}. Received: {reference!r}")
    if position is None:
        position = centre_of_mass(blocks[reference][0], affine)
    scale = grey_scale(list(blocks[reference])) if intensity is None else intensity
    flat, affine = _trimmed(np.concatenate(list(blocks.values())), affine, position)
    ends = np.cumsum([len(x) for x in blocks.values()])[:-1]
    parts = dict(zip(blocks, np.split(flat, ends), strict=True))
    rows = max(map(len, parts.values()))
    cut = plane_slices(flat[0], affine, position)
    sizes = _sizes(cut)
    height = max(sizes[name][0] for name in PLANES)
    gap = 0.12 * height
    across = len(parts) * (sum(sizes[name][1] for name in PLANES) + gap)
    inches = min(_LARGEST / height, (_WIDEST - 1.2) / across)  # a mm
    figure = _new((across * inches + 1.2, rows * height * inches + 1.25))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    widths = []
    for _ in parts:
        widths += [*(sizes[name][1] for name in PLANES), gap]
    grid = figure.add_gridspec(rows, len(widths) + 1, width_ratios=[*widths, _BAR / inches])
    for j, (name, volumes) in enumerate(parts.items()):
        for i in range(rows):
            slices = plane_slices(volumes[i], affine, position) if i < len(volumes) else {}
            for k, plane in enumerate(PLANES):
                ax = figure.add_subplot(grid[i, 4 * j + k])
                if not slices:
                    ax.set_axis_off()
                    continue
                _picture(ax, slices[plane], plane, scale, (height, sizes[plane][1]))
                if i == 0:
                    ax.set_title(plane, fontsize=9, fontweight="normal")
                if i == 0 and plane == "coronal":
                    ax.annotate(
                        name,
                        (0.5, 1.0),
                        xycoords="axes fraction",
                        xytext=(0, 20),
                        textcoords="offset points",
                        ha="center",
                        fontweight="bold",
                    )
                if j == k == 0:
                    ax.set_ylabel(str(i + 1), rotation=0, va="center", labelpad=8)
    _bar(figure, figure.add_subplot(grid[:, -1]), scale, flat, "intensity", "gray")
    _words(figure, title, simulated, [_where(cut)])
    return _finish(figure, path)


@_style(dark=True)
def traversal_grid(
    volumes,
    affine,
    path,
    *,
    values,
    dimensions,
    row="dimension {}",
    column="value of the dimension",
    position=None,
    title="Latents changed one at a time",
    simulated=False,
    intensity=None,
):
    """What becomes of a volume while one latent dimension changes, in three planes.

    Each dimension has three rows, a plane each; a column is a value of that dimension. The last
    column is the difference between the last and the first value, bright minus dark, on one scale
    for the whole figure.

    Args:
        volumes: `(k, s, x, y, z[, 1])`, decoded from `evaluation.traverse`: k dimensions, s values.
        affine: `(4, 4)`, voxel index → mm in RAS+ world coordinates.
        path: the PNG to write; None returns the Figure.
        values: the s values, numbers or, written as they are, words.
        dimensions: k names or numbers, written at the left.
        row: how they are written; `{}` stands for the name or number.
        column: what `values` are, written below.
        position: (x, y, z) in mm of the point that all slices go through. Default:
            `planes.centre_of_mass` of the middle volume of the first dimension.
        title: figure title.
        simulated: True when the model learned from simulated brains.
        intensity: (black, white). Default: 0 (or the minimum, if that is below) to the 99.9th
            percentile of the brightest foreground.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        UserError: the position lies outside the volumes.
        ValueError: the shapes do not agree.
    """
    volumes = np.asarray(volumes)
    if volumes.ndim == 6 and volumes.shape[-1] == 1:
        volumes = volumes[..., 0]
    count, steps = len(dimensions), len(values)
    if volumes.ndim != 5 or volumes.shape[:2] != (count, steps) or 0 in (count, steps):
        raise ValueError(
            f"volumes must be ({count}, {steps}, x, y, z), for dimensions and values. "
            f"Received: {volumes.shape}"
        )
    if position is None:
        position = centre_of_mass(volumes[0, steps // 2], affine)
    flat = volumes.reshape(-1, *volumes.shape[2:])
    scale = grey_scale(list(flat)) if intensity is None else intensity
    flat, affine = _trimmed(flat, affine, position)
    volumes = flat.reshape(count, steps, *flat.shape[1:])
    change = _numbers(volumes[:, -1]) - _numbers(volumes[:, 0])
    most = _top([np.abs(change)], 0.998)
    cut = plane_slices(volumes[0, 0], affine, position)
    sizes = _sizes(cut)
    width = max(sizes[name][1] for name in PLANES)
    gap = 0.08 * width
    heights = [*(sizes[name][0] for name in PLANES), gap] * count
    across = (steps + 1) * width + gap
    inches = min(_LARGEST / width, (_WIDEST - 2.2) / across)
    figure = _new((across * inches + 2.2, sum(heights) * inches + 1.2))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    bar = _BAR / inches
    grid = figure.add_gridspec(
        4 * count,
        steps + 4,
        width_ratios=[*[width] * steps, gap, width, bar, bar],
        height_ratios=heights,
    )
    heads = _heads(values)
    for i, name in enumerate(dimensions):
        cuts = [plane_slices(volume, affine, position) for volume in volumes[i]]
        changed = plane_slices(change[i], affine, position)
        for k, plane in enumerate(PLANES):
            for j in range(steps):
                ax = figure.add_subplot(grid[4 * i + k, j])
                _picture(ax, cuts[j][plane], plane, scale, (sizes[plane][0], width))
                if i == k == 0:
                    ax.set_title(heads[j])
                if j == 0:
                    label = row.format(name) + "\n" if k == 1 else "\n"
                    ax.set_ylabel(label + plane, fontsize=9)
            ax = figure.add_subplot(grid[4 * i + k, steps + 1])
            frame = (sizes[plane][0], width)
            _picture(ax, changed[plane], plane, (-most, most), frame, cmap=_SIGNED)
            if i == k == 0:
                ax.set_title("last − first")
    bars = [figure.add_subplot(grid[: 4 * count - 1, steps + 2 + b]) for b in range(2)]
    _bar(figure, bars[0], scale, flat, "intensity", "gray")
    _bar(figure, bars[1], (-most, most), change, "difference", _SIGNED)
    _words(figure, title, simulated, [f"columns: {column}; {_where(cut)}"])
    return _finish(figure, path)


@_style()
def divergence_curves(history, path, *, title="Divergence from the prior", simulated=False):
    """Divergence of real and of generated volumes per epoch: the health of an IntroVAE.

    While the encoder tells generated volumes from real ones, theirs lies above that of real ones;
    where the lines meet, the decoder has no critic any more.

    Args:
        history: `pandas.DataFrame`, a row per epoch, with `kl_real` (nats) and, where there are
            any, `val_kl_real` and `kl_fake`.
        path: the PNG to write; None returns the Figure.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the history has no divergence.
    """
    names = {
        "kl_fake": "generated",
        "kl_real": "real, training",
        "val_kl_real": "real, validation",
    }
    found = {name: label for name, label in names.items() if name in history}
    if "kl_real" not in found:
        raise ValueError(f"history has no kl_real. Received: columns {list(history.columns)}")
    figure = _new((6.2, 3.6))
    ax = figure.subplots()
    epochs = history["epoch"] if "epoch" in history else np.arange(1, len(history) + 1)
    for i, (name, label) in enumerate(found.items()):
        marker = "o" if len(history) < 12 else None
        ax.plot(epochs, history[name], color=COLOURS[i], label=label, marker=marker, markersize=4)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    ax.set_ylabel("KL (nats a volume)")
    # The first epochs of a new encoder are far outside of what comes after.
    values = history[list(found)].to_numpy("float64")
    later = values[len(values) // 4 :]
    if np.isfinite(later).any():
        ax.set_ylim(0, 1.15 * np.nanmax(later))
    ax.grid()
    ax.legend()
    ax.set_title(_worded(title, simulated))
    return _finish(figure, path)


@_style()
def generation_figure(
    sharpness,
    diversity,
    path,
    *,
    distances=None,
    title="Generated volumes, measured",
    simulated=False,
):
    """Sharpness and diversity of the samples of several models, and their distance from real ones.

    Args:
        sharpness: dict of model to a table of `evaluation.compare_sharpness`.
        diversity: dict of the same models to a table of `evaluation.diversity`.
        path: the PNG to write; None returns the Figure.
        distances: dict of the same models to a table of `evaluation.fidelity`, which adds panels of
            the Fréchet distances on a logarithmic scale; None leaves them out.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: there is no model, or the dicts are of different models.
    """
    models = list(sharpness)
    given = [sharpness, diversity, *([] if distances is None else [distances])]
    if not models or any(set(tables) != set(models) for tables in given):
        raise ValueError(
            f"all tables must be of the same models. Received: {[list(t) for t in given]}"
        )
    panels = [(f"Sharpness\n({_SHARPNESS[name]})", _sharpness_panel, name) for name in _SHARPNESS]
    panels.append(("Likeness of pairs\n(MS-SSIM)", _diversity_panel, None))
    if distances is not None:
        panels += [
            (f"Distance from real\n({_DISTANCES[key]})", _distance_panel, key) for key in _DISTANCES
        ]
    figure = _new((2.75 * len(panels) + 1.4, 0.42 * len(models) + 2.2))
    axes = figure.subplots(1, len(panels), sharey=True)
    place = np.arange(len(models))
    tables = {
        _sharpness_panel: sharpness,
        _diversity_panel: diversity,
        _distance_panel: distances,
    }
    for ax, (name, draw, key) in zip(axes, panels, strict=True):
        draw(ax, [tables[draw][model] for model in models], place, key)
        ax.set_title(name)
        ax.grid(axis="x")
    axes[0].set_yticks(place, models)
    axes[0].set_ylim(len(models) - 0.5, -0.9)
    figure.suptitle(_worded(title, simulated), fontweight="bold")
    note = "Lines: intervals over volumes."
    if distances is not None:
        note += (
            " Training: real training volumes in place of samples. Mean volume: nothing but the "
            "mean of the training volumes. Arrows: down to 0."
        )
    figure.supxlabel(note, fontsize=9)
    return _finish(figure, path)


def _sharpness_panel(ax, tables, place, measure):
    rows = [table.set_index("measure").loc[measure] for table in tables]
    values, low, high = (
        np.array([row[name] for row in rows], "float64") for name in ("ratio", "low", "high")
    )
    _bars(ax, place, values, low, high, "{:.2f}")
    _reference(ax, 1.0, "real")
    ax.set_xlabel("samples / real\n(above 1: noise)")


def _diversity_panel(ax, tables, place, _):
    made = [table.set_index("of").loc["samples"] for table in tables]
    real = tables[0].set_index("of").loc["real"]
    values, low, high = (
        np.array([row[name] for row in made], "float64") for name in ("ms_ssim", "low", "high")
    )
    ax.axvspan(real["low"], real["high"], color="#e3e7eb", linewidth=0)
    _bars(ax, place, values, low, high, "{:.2f}")
    _reference(ax, float(real["ms_ssim"]), "real")
    ax.set_xlim(0, 1.22)
    ax.set_xticks([0, 0.5, 1])
    ax.set_xlabel("beyond real:\nless diverse than real")


def _distance_panel(ax, tables, place, key):
    rows = [table.set_index(["space", "measure"]).loc[key] for table in tables]
    values, low, high, worst, training = (
        np.array([row[name] for row in rows], "float64")
        for name in ("corrected", "low", "high", "mean_volume", "reference")
    )
    marks = float(np.median(training)), float(np.median(worst))
    # What is not above 0 has no place on a logarithmic axis: it stands at the left end.
    known = [v for v in (*values, *low, *marks) if v > 0]
    floor = 0.5 * min(known, default=1.0)
    ax.set_xscale("log")
    ax.set_xlim(0.7 * floor, 6 * max([*high, *values, *marks, floor]))
    for i, colour in zip(place, _colours(place), strict=True):
        ends = np.maximum([low[i], high[i]], floor)
        ax.plot(ends, [i, i], color=colour, linewidth=2.2)
        if low[i] <= floor:
            ax.plot(floor, i, "<", color=colour, markersize=6)
        ax.plot(max(values[i], floor), i, "o", color=colour, markersize=7)
        _label(ax, max(ends[1], values[i], floor), i, f"{values[i]:.3g}")
    for value, label in zip(marks, ("training", "mean volume"), strict=True):
        _reference(ax, max(value, floor), label if value > 0 else f"{label}: 0")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("further left is nearer")


def _bars(ax, place, values, low, high, form):
    ax.barh(place, values, color=_colours(place), height=0.55)
    known = np.isfinite(low) & np.isfinite(high)
    for i in np.flatnonzero(known):
        ax.plot([low[i], high[i]], [place[i], place[i]], color="#1d252c", linewidth=1.6)
    reach = np.where(known, np.maximum(high, values), values)
    for i in np.flatnonzero(np.isfinite(values)):
        _label(ax, reach[i], place[i], form.format(values[i]))
    if np.isfinite(reach).any():
        ax.set_xlim(0, max(1.3 * np.nanmax(reach), 1.3))


def _label(ax, x, y, text):
    ax.annotate(
        text,
        (x, y),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
        zorder=5,
    )


def _colours(place):
    return [COLOURS[i % len(COLOURS)] for i in place]


def _reference(ax, value, label):
    ax.axvline(value, color="#59636d", linestyle="--", linewidth=1.2)
    ax.annotate(
        label,
        (value, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, -2),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color="#59636d",
    )


def _volumes(x):
    x = np.asarray(x)
    if x.ndim == 5 and x.shape[-1] == 1:
        x = x[..., 0]
    if x.ndim != 4:
        raise ValueError(f"volumes must be (n, x, y, z) or (n, x, y, z, 1). Received: {x.shape}")
    return x


def _trimmed(volumes, affine, position):
    """Volumes `(n, x, y, z)` without background that is empty in all, and the affine of it."""
    rows = [Row("", volume, "grey", None) for volume in volumes]
    rows, _, affine = trimmed(rows, None, affine, position)
    return np.stack([row.volume for row in rows]), affine


def _sizes(cut):
    """(height, width) in mm of the picture of each plane."""
    return {name: np.multiply(cut[name].picture.shape, cut[name].spacing) for name in PLANES}


def _picture(ax, plane, name, scale, size, cmap="gray"):
    """One slice in the middle of a black frame of `size` (mm), so that pictures stand in line."""
    picture = _numbers(plane.picture)
    missing = np.array(size) / plane.spacing - picture.shape
    before = np.maximum(missing // 2, 0).astype(int)
    after = np.maximum(np.rint(missing).astype(int) - before, 0)
    black = scale[0] if cmap == "gray" else 0.0
    picture = np.pad(picture, list(zip(before, after, strict=True)), constant_values=black)
    _show(ax, picture, plane.spacing, scale, cmap=cmap)
    _mark(ax, name)


def _heads(values):
    """Values as they stand over columns: with signs where there are two, strings as they are."""
    if isinstance(values[0], str):
        return list(values)
    form = "{:+.3g}" if min(values) < 0 else "{:.3g}"
    return ["0" if value == 0 else form.format(value).replace("-", "−") for value in values]


def _where(cut):
    places = (
        f"{name} at {axis} = {round(cut[name].mm) + 0:.0f} mm"
        for name, axis in zip(PLANES, "zyx", strict=True)
    )
    return ", ".join(places).replace("-", "−")


def _bar(figure, ax, scale, volumes, label, cmap):
    image = ScalarMappable(Normalize(*scale), cmap=cmap)
    _add_bar(figure, ax, image, label, _ends(list(volumes), scale))


def _words(figure, title, simulated, notes=()):
    figure.suptitle(_worded(title, simulated), fontsize=11)
    figure.supxlabel("\n".join([_LETTERS, *notes]), fontsize=8.5)
