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

from brainvq.reports.drawing import (
    COLOURS,
    mark_sides,
    new_figure,
    png_figure,
    reference_line,
    show_picture,
)
from brainvq.reports.planes import (
    LETTERS,
    PLANES,
    SIGNED,
    Row,
    add_bar,
    as_float32,
    centre_of_mass,
    grey_scale,
    highest,
    open_ends,
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


@png_figure(dark=True)
def generated_planes(
    blocks,
    affine,
    *,
    reference=None,
    position=None,
    title="Generated brains beside real ones",
    intensity=None,
):
    """Volumes of several origins side by side, each in three planes, a row per volume.

    Background that is empty in all volumes is cut down to a margin of 6 mm.

    Args:
        blocks: dict of name to volumes `(n, x, y, z[, 1])`, such as samples of each model and real
            ones. A shorter block leaves its last rows empty.
        affine: `(4, 4)`, voxel index → mm in RAS+ world coordinates.
        reference: name of the block whose intensities set the scale. Default: the last one.
        position: (x, y, z) in mm of the point that all slices go through. Default:
            `planes.centre_of_mass` of the first volume of the reference.
        title: figure title.
        intensity: (black, white). Default: 0 (or the minimum, if that is below) to the 99.9th
            percentile of the brightest foreground of the reference.

    Raises:
        UserError: the position lies outside the volumes.
        ValueError: there is no volume, the grids differ, or `reference` is no block.
    """
    blocks = _on_one_grid(blocks)
    reference = list(blocks)[-1] if reference is None else reference
    if reference not in blocks:
        raise ValueError(f"reference must be one of {list(blocks)}. Received: {reference!r}")
    if position is None:
        position = centre_of_mass(blocks[reference][0], affine)
    scale = grey_scale(list(blocks[reference])) if intensity is None else intensity
    flat, affine = _trimmed(np.concatenate(list(blocks.values())), affine, position)
    ends = np.cumsum([len(x) for x in blocks.values()])[:-1]
    blocks = dict(zip(blocks, np.split(flat, ends), strict=True))
    rows = max(map(len, blocks.values()))
    cut = plane_slices(flat[0], affine, position)
    sizes = _sizes(cut)
    height = max(sizes[name][0] for name in PLANES)
    figure, panels, bar = _block_axes(sizes, height, rows, len(blocks))
    for name, axes, volumes in zip(blocks, panels, blocks.values(), strict=True):
        for row, volume in zip(axes, volumes, strict=False):
            slices = plane_slices(volume, affine, position)
            for ax, plane in zip(row, PLANES, strict=True):
                ax.set_axis_on()
                _picture(ax, slices[plane], plane, scale, (height, sizes[plane][1]))
        for ax, plane in zip(axes[0], PLANES, strict=True):
            _head_of_block(ax, plane, name)
    for i, ax in enumerate(panels[0, : len(next(iter(blocks.values()))), 0]):
        ax.set_ylabel(str(i + 1), rotation=0, va="center", labelpad=8)
    _bar(figure, bar, scale, flat, "intensity", "gray")
    _words(figure, title, [_where(cut)])
    return figure


def _on_one_grid(blocks):
    blocks = {str(name): _volumes(x) for name, x in blocks.items()}
    grids = {x.shape[1:] for x in blocks.values()}
    if len(grids) != 1 or not all(map(len, blocks.values())):
        raise ValueError(
            "blocks must be one or more volumes each, on one grid. "
            f"Received: {[x.shape for x in blocks.values()]}"
        )
    return blocks


def _block_axes(sizes, height, rows, blocks):
    """A figure with three panels for each row of each block.

    Returns:
        The Figure; its panels `(blocks, rows, 3)`, as yet without axes; the axes of a colour bar.
    """
    widths = [*(sizes[name][1] for name in PLANES), 0.12 * height]  # of three planes and a gap
    across = blocks * sum(widths)
    inches = min(_LARGEST / height, (_WIDEST - 1.2) / across)  # a mm
    figure = new_figure((across * inches + 1.2, rows * height * inches + 1.25))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    ratios = [*widths * blocks, _BAR / inches]
    grid = figure.add_gridspec(rows, len(ratios), width_ratios=ratios)
    panels = [
        [[figure.add_subplot(grid[i, 4 * j + k]) for k in range(3)] for i in range(rows)]
        for j in range(blocks)
    ]
    panels = np.array(panels)
    for ax in panels.flat:
        ax.set_axis_off()
    return figure, panels, figure.add_subplot(grid[:, -1])


def _head_of_block(ax, plane, name):
    """The plane above its column, and above the middle one the name of the block."""
    ax.set_title(plane, fontsize=9, fontweight="normal")
    if plane == "coronal":
        ax.annotate(
            name,
            (0.5, 1.0),
            xycoords="axes fraction",
            xytext=(0, 20),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
        )


@png_figure(dark=True)
def traversal_grid(
    volumes,
    affine,
    *,
    values,
    dimensions,
    row="dimension {}",
    column="value of the dimension",
    position=None,
    title="Latents changed one at a time",
    intensity=None,
):
    """What becomes of a volume while one latent dimension changes: a latent traversal.

    Each dimension has three rows, a plane each; a column is a value of that dimension. The last
    column is the difference, last value minus first, on one scale for the whole figure.

    Args:
        volumes: `(k, s, x, y, z[, 1])`, decoded from `evaluation.traverse`: k dimensions, s values.
        affine: `(4, 4)`, voxel index → mm in RAS+ world coordinates.
        values: the s values, numbers or, written as they are, words.
        dimensions: k names or numbers, written at the left.
        row: how they are written; `{}` stands for the name or number.
        column: what `values` are, written below.
        position: (x, y, z) in mm of the point that all slices go through. Default:
            `planes.centre_of_mass` of the middle volume of the first dimension.
        title: figure title.
        intensity: (black, white). Default: that of `planes.grey_scale` for all volumes.

    Raises:
        UserError: the position lies outside the volumes.
        ValueError: the shapes do not agree.
    """
    volumes = _by_dimension(volumes, len(dimensions), len(values))
    count, steps = volumes.shape[:2]
    if position is None:
        position = centre_of_mass(volumes[0, steps // 2], affine)
    flat = volumes.reshape(-1, *volumes.shape[2:])
    scale = grey_scale(list(flat)) if intensity is None else intensity
    flat, affine = _trimmed(flat, affine, position)
    volumes = flat.reshape(count, steps, *flat.shape[1:])
    change = as_float32(volumes[:, -1]) - as_float32(volumes[:, 0])
    most = highest([np.abs(change)], 0.998)
    looks = [*[(scale, "gray")] * steps, ((-most, most), SIGNED)]
    cut = plane_slices(volumes[0, 0], affine, position)
    figure, panels, bars, frames = _traversal_axes(_sizes(cut), count, steps)
    for i, name in enumerate(dimensions):
        slices = [plane_slices(volume, affine, position) for volume in [*volumes[i], change[i]]]
        for plane, axes in zip(PLANES, panels[i], strict=True):
            for ax, planes, (ends, cmap) in zip(axes, slices, looks, strict=True):
                _picture(ax, planes[plane], plane, ends, frames[plane], cmap=cmap)
            label = row.format(name) if plane == "coronal" else ""  # the middle one
            axes[0].set_ylabel(f"{label}\n{plane}", fontsize=9)
    for ax, head in zip(panels[0, 0], [*_heads(values), "last − first"], strict=True):
        ax.set_title(head)
    _bar(figure, bars[0], scale, flat, "intensity", "gray")
    _bar(figure, bars[1], (-most, most), change, "difference", SIGNED)
    _words(figure, title, [f"columns: {column}; {_where(cut)}"])
    return figure


def _by_dimension(volumes, count, steps):
    volumes = np.asarray(volumes)
    if volumes.ndim == 6 and volumes.shape[-1] == 1:
        volumes = volumes[..., 0]
    if volumes.ndim != 5 or volumes.shape[:2] != (count, steps) or 0 in (count, steps):
        raise ValueError(
            f"volumes must be ({count}, {steps}, x, y, z), for dimensions and values. "
            f"Received: {volumes.shape}"
        )
    return volumes


def _traversal_axes(sizes, count, steps):
    """A figure with room for each plane of each value of each dimension.

    Returns:
        The Figure; its panels `(count, 3, steps + 1)`; the axes of two colour bars; (height, width)
        in mm of the panels, by plane.
    """
    width = max(sizes[name][1] for name in PLANES)
    gap = 0.08 * width
    heights = [*(sizes[name][0] for name in PLANES), gap] * count
    across = (steps + 1) * width + gap
    inches = min(_LARGEST / width, (_WIDEST - 2.2) / across)  # a mm
    figure = new_figure((across * inches + 2.2, sum(heights) * inches + 1.2))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    bar = _BAR / inches
    grid = figure.add_gridspec(
        4 * count,
        steps + 4,
        width_ratios=[*[width] * steps, gap, width, bar, bar],
        height_ratios=heights,
    )
    columns = [*range(steps), steps + 1]
    panels = [
        [[figure.add_subplot(grid[4 * i + k, j]) for j in columns] for k in range(3)]
        for i in range(count)
    ]
    bars = [figure.add_subplot(grid[: 4 * count - 1, steps + 2 + b]) for b in range(2)]
    return figure, np.array(panels), bars, {name: (sizes[name][0], width) for name in PLANES}


@png_figure()
def divergence_curves(history, *, title="Divergence from the prior"):
    """Divergence of real and of generated volumes per epoch: the health of an IntroVAE.

    While the encoder tells generated volumes from real ones, theirs lies above that of real ones;
    where the lines meet, the decoder has no critic any more.

    Args:
        history: `pandas.DataFrame`, a row per epoch, with `kl_real` (nats) and, where there are
            any, `val_kl_real` and `kl_fake`.
        title: figure title.

    Raises:
        ValueError: the history has no divergence.
    """
    names = {
        "kl_fake": "generated",
        "kl_real": "real, training",
        "val_kl_real": "real, validation",
    }
    names = {name: label for name, label in names.items() if name in history}
    if "kl_real" not in names:
        raise ValueError(f"history has no kl_real. Received: columns {list(history.columns)}")
    figure = new_figure((6.2, 3.6))
    ax = figure.subplots()
    epochs = history["epoch"] if "epoch" in history else np.arange(1, len(history) + 1)
    for i, (name, label) in enumerate(names.items()):
        marker = "o" if len(history) < 12 else None
        ax.plot(epochs, history[name], color=COLOURS[i], label=label, marker=marker, markersize=4)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    ax.set_ylabel("KL (nats a volume)")
    # The first epochs of a new encoder are far outside of what comes after.
    values = history[list(names)].to_numpy("float64")
    later = values[len(values) // 4 :]
    if np.isfinite(later).any():
        ax.set_ylim(0, 1.15 * np.nanmax(later))
    ax.grid()
    ax.legend()
    ax.set_title(title)
    return figure


@png_figure()
def generation_figure(
    sharpness,
    diversity,
    *,
    distances=None,
    title="Generated volumes, measured",
):
    """Sharpness and diversity of the samples of several models, and their distance from real ones.

    Args:
        sharpness: dict of model to a table of `evaluation.compare_sharpness`.
        diversity: dict of the same models to a table of `evaluation.diversity`.
        distances: dict of the same models to a table of `evaluation.fidelity`, which adds panels of
            the Fréchet distances on a logarithmic scale; None leaves them out.
        title: figure title.

    Raises:
        ValueError: there is no model, or the dicts are of different models.
    """
    models = list(sharpness)
    given = [sharpness, diversity, *([] if distances is None else [distances])]
    if not models or any(set(tables) != set(models) for tables in given):
        raise ValueError(
            f"all tables must be of the same models. Received: {[list(t) for t in given]}"
        )
    panels = [
        (f"Sharpness\n({label})", _sharpness_panel, sharpness, name)
        for name, label in _SHARPNESS.items()
    ]
    panels.append(("Likeness of pairs\n(MS-SSIM)", _diversity_panel, diversity, None))
    if distances is not None:
        panels += [
            (f"Distance from real\n({label})", _distance_panel, distances, key)
            for key, label in _DISTANCES.items()
        ]
    figure = new_figure((2.75 * len(panels) + 1.4, 0.42 * len(models) + 2.2))
    axes = figure.subplots(1, len(panels), sharey=True)
    place = np.arange(len(models))
    for ax, (name, draw, tables, key) in zip(axes, panels, strict=True):
        draw(ax, [tables[model] for model in models], place, key)
        ax.set_title(name)
        ax.grid(axis="x")
    axes[0].set_yticks(place, models)
    axes[0].set_ylim(len(models) - 0.5, -0.9)
    figure.suptitle(title, fontweight="bold")
    note = "Lines: intervals over volumes."
    if distances is not None:
        note += (
            " Training: real training volumes in place of samples. Mean volume: nothing but the "
            "mean of the training volumes. Arrows: down to 0."
        )
    figure.supxlabel(note, fontsize=9)
    return figure


def _sharpness_panel(ax, tables, place, measure):
    rows = [table.set_index("measure").loc[measure] for table in tables]
    values, low, high = (
        np.array([row[name] for row in rows], "float64") for name in ("ratio", "low", "high")
    )
    _bars(ax, place, values, low, high, "{:.2f}")
    reference_line(ax, 1.0, "real")
    ax.set_xlabel("samples / real\n(above 1: noise)")


def _diversity_panel(ax, tables, place, _):
    samples = [table.set_index("of").loc["samples"] for table in tables]
    real = tables[0].set_index("of").loc["real"]
    values, low, high = (
        np.array([row[name] for row in samples], "float64") for name in ("ms_ssim", "low", "high")
    )
    ax.axvspan(real["low"], real["high"], color="#e3e7eb", linewidth=0)
    _bars(ax, place, values, low, high, "{:.2f}")
    reference_line(ax, float(real["ms_ssim"]), "real")
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
        reference_line(ax, max(value, floor), label if value > 0 else f"{label}: 0")
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
    picture = as_float32(plane.picture)
    missing = np.array(size) / plane.spacing - picture.shape
    before = np.maximum(missing // 2, 0).astype(int)
    after = np.maximum(np.rint(missing).astype(int) - before, 0)
    black = scale[0] if cmap == "gray" else 0.0
    picture = np.pad(picture, list(zip(before, after, strict=True)), constant_values=black)
    show_picture(ax, picture, plane.spacing, scale, cmap=cmap)
    mark_sides(ax, name)


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
    add_bar(figure, ax, image, label, open_ends(list(volumes), scale))


def _words(figure, title, notes=()):
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("\n".join([LETTERS, *notes]), fontsize=8.5)
