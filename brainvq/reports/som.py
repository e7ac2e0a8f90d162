"""The figures of codebooks that lie on a map, and of where their codes live in the brain.

A map has height · width nodes; code k is the node in row k // width and column k % width, row 0 at
the top. On a toroid opposite borders meet; on a rectangle they do not. Every figure colours a node
by its place on the map (`grid_colours`), so that one colour means one place throughout.

Every function writes `path` and returns it as a `pathlib.Path`; with `None` it returns the
`matplotlib.figure.Figure` instead, for a notebook: see `drawing.png_figure`.
"""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import binary_fill_holes

from brainvq.reports.drawing import COLOURS, PUBLISHED, new_figure, png_figure, show_picture
from brainvq.reports.embedding import tsne_axes, tsne_places
from brainvq.reports.locations import code_locations, code_places  # noqa: F401  # of one family
from brainvq.reports.map_colours import grid_colours
from brainvq.reports.planes import (
    PLANES,
    Row,
    centre_of_mass,
    foreground_of,
    grey_scale,
    label_planes,
    plane_axes,
    plane_slices,
    trimmed,
)

_TSNE_NOTE = (
    "t-SNE of {} of {} encodings and all {} codes together: near is alike, far apart says little.\n"
    "Between an encoding and its nearest code lies {:.0f} % of the encodings' variance (0 %: the "
    "code says all)."
)
# Marks of the figure of variants.
_CODES_USED = {"marker": "o", "markersize": 6, "label": "codes used"}
_CODES_THERE_ARE = {
    "marker": "|",
    "markersize": 12,
    "color": "#5f6b76",
    "label": "codes there are",
}
_PUBLISHED = {**PUBLISHED, "markersize": 7, "label": "published, on other data"}
_SHADE = 0.45  # brightness of a colour where the scan is black: ventricles have codes too


@png_figure()
def som_grid(
    codebook,
    height,
    width,
    topology,
    *,
    counts=None,
    title="Self-organising map",
):
    """The map as pictures: its nodes' sums, how far neighbours are apart, use, and its colours.

    The second is the U-matrix of Ultsch and Siemon (1990): ridges part clusters of alike nodes.

    Args:
        codebook: float `(height · width, dim)`.
        height: rows of the map.
        width: columns of the map.
        topology: "rectangular" or "toroid".
        counts: `(height · width,)`, how often each node was the nearest; None leaves this out.
        title: figure title.

    Raises:
        ValueError: arrays and sizes do not agree.
    """
    codebook, colours = np.asarray(codebook, "float64"), grid_colours(height, width, topology)
    if codebook.ndim != 2 or len(codebook) != height * width:
        raise ValueError(
            f"codebook must be ({height * width}, dim) for a map of {height} × {width}. "
            f"Received: {codebook.shape}"
        )
    panels = [
        ("Sum over channels", codebook.sum(axis=1), "sum of the vector", {"cmap": "viridis"}),
        (
            "Distance to neighbours",
            _neighbour_distance(codebook, height, width, topology),
            "mean Euclidean distance",
            {"cmap": "magma"},
        ),
    ]
    if counts is not None:
        panels.append(_usage_panel(counts, height * width))
    side = 2 if counts is not None else 3
    rows = -(-(len(panels) + 1) // side)
    figure = new_figure((4.1 * side, 3.4 * rows * min(max(height / width, 0.6), 1.5) + 0.7))
    axes = figure.subplots(rows, side, squeeze=False).ravel()
    for ax, (name, values, label, options) in zip(axes, panels, strict=False):
        image = _grid_picture(ax, values.reshape(height, width), **options)
        bar = figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)
        ax.set_title(name)
    _grid_picture(axes[-1], colours.reshape(height, width, 3))
    axes[-1].set_title("Colour of each node")
    borders = "opposite borders meet" if topology == "toroid" else "borders do not meet"
    figure.suptitle(
        f"{title}: {height} × {width} nodes of {codebook.shape[1]} channels\n{topology}, {borders}",
        fontsize=11,
    )
    return figure


@png_figure(dark=True)
def brain_on_grid(
    volume,
    codes,
    affine,
    height,
    width,
    topology,
    *,
    position=None,
    intensity=None,
    title="Place on the map of every voxel's code",
):
    """A brain in three planes, as a scan and in the colours of its codes' places on the map.

    Args:
        volume: float `(x, y, z)`, the scan.
        codes: integers of that shape: the node of the code that each voxel belongs to, −1 for none.
            There and in the background around the head, the scan stays grey.
        affine: `(4, 4)`, voxel index → mm in RAS+ world coordinates, see `planes.plane_slices`.
        height: rows of the map.
        width: columns of the map.
        topology: "rectangular" or "toroid".
        position: (x, y, z) in mm. Default: `planes.centre_of_mass` of the scan.
        intensity: (black, white). Default: as in `planes.three_planes`, but black is the usual
            background where values go below 0, as in z-scored volumes.
        title: figure title.

    Returns:
        `pathlib.Path` of the PNG, or the Figure. The key shows nodes that this brain does not use
        darkened.

    Raises:
        UserError: the position lies outside the volume.
        ValueError: shapes do not agree, the codes are no nodes, or the affine is no affine.
    """
    volume, codes = np.asarray(volume), np.asarray(codes)
    colours = grid_colours(height, width, topology)
    _check_nodes(codes, volume, len(colours))
    if position is None:
        position = centre_of_mass(volume, affine)
    low, high = _black_and_white(volume) if intensity is None else intensity
    codes = np.where(binary_fill_holes(foreground_of(volume)), codes, -1)
    used = np.isin(np.arange(len(colours)), codes)
    titles = ["scan", "place on the map,\nbrightness by the scan"]
    rows = [Row(name, volume, "grey", codes) for name in titles]
    rows, _, affine = trimmed(rows, None, affine, position)
    grey, coded = (plane_slices(a, affine, position) for a in (rows[0].volume, rows[0].overlay))
    figure, axes, side = plane_axes(grey, len(rows), [2.0])
    for column, name in enumerate(PLANES):
        plane = grey[name]
        show_picture(axes[0, column], plane.picture, plane.spacing, (low, high))
        picture = _shaded(plane.picture, coded[name].picture, colours, low, high)
        show_picture(axes[1, column], picture, plane.spacing, (0, 1))
    key = side(0, [0, 1])
    shown = np.where(used[:, None], colours, 0.2 * colours).reshape(height, width, 3)
    _grid_picture(key, shown)
    key.set_title(f"{height} × {width} {topology}\n{used.sum()} nodes in this brain", fontsize=10)
    label_planes(figure, axes, grey, titles, affine, title, [])
    return figure


@png_figure()
def encodings_tsne(
    vectors,
    codebook,
    counts,
    *,
    height=None,
    width=None,
    topology=None,
    most=2000,
    perplexity=30.0,
    seed=0,
    title="Encodings and codebook",
):
    """Encodings and code vectors in one plane, by t-SNE (van der Maaten and Hinton 2008).

    Args:
        vectors: float `(..., dim)`, what the encoder puts out.
        codebook: float `(K, dim)`.
        counts: `(K,)`, how often each code was used: the area of its mark; unused codes are
            crosses. None draws all alike.
        height: rows of the map, or None for a codebook without one; encodings are then grey, else
            they have the colour of the node nearest to them.
        width: columns of the map.
        topology: "rectangular" or "toroid".
        most: encodings drawn, at random without repetition. Default 2000.
        perplexity: about how many neighbours a point looks at. Default 30; fewer where there are
            few points.
        seed: of the choice of encodings and of t-SNE.
        title: figure title.

    Returns:
        `pathlib.Path` of the PNG, or the Figure. Below stands how much of the encodings' variance
        is left between them and their nearest code.

    Raises:
        ValueError: arrays do not agree, or are not finite.
    """
    vectors, codebook, counts = _checked_encodings(vectors, codebook, counts)
    total = len(vectors)
    picked = np.random.default_rng(seed).permutation(total)[:most]
    vectors = vectors[np.sort(picked)]
    points = np.concatenate([vectors, codebook])
    if not np.isfinite(points).all() or total == 0:
        raise ValueError(f"vectors must be finite and one or more. Received: {total}, some not")
    nearest, left = _nearest(vectors, codebook)
    colours = grid_colours(height, width, topology) if height else None
    places = tsne_places(points, perplexity, seed)
    figure = new_figure((7.4, 6.6))
    ax = figure.subplots()
    _encoding_dots(ax, places[: len(vectors)], nearest, colours)
    _code_marks(ax, places[len(vectors) :], counts, colours)
    tsne_axes(ax)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, markerscale=1.2)
    ax.set_title(title)
    note = _TSNE_NOTE.format(len(vectors), total, len(codebook), 100 * left)
    figure.supxlabel(note, fontsize=9)
    return figure


def _checked_encodings(vectors, codebook, counts):
    """Encodings `(n, dim)`, codebook `(K, dim)` and counts `(K,)`, alike where there are none."""
    vectors, codebook = np.asarray(vectors, "float32"), np.asarray(codebook, "float32")
    counts = np.ones(len(codebook)) if counts is None else np.asarray(counts, "float64")
    if (
        codebook.ndim != 2
        or vectors.shape[-1:] != codebook.shape[1:]
        or counts.shape != codebook.shape[:1]
    ):
        raise ValueError(
            "vectors must be (..., dim), codebook (K, dim) and counts (K,). "
            f"Received: {vectors.shape}, {codebook.shape} and {counts.shape}"
        )
    return vectors.reshape(-1, codebook.shape[1]), codebook, counts


def _encoding_dots(ax, places, nearest, colours):
    by_node = "" if colours is None else ", coloured by the place of the nearest node"
    ax.scatter(
        *places.T,
        s=7,
        c="#9aa5af" if colours is None else colours[nearest],
        alpha=0.75,
        linewidths=0,
        label=f"{len(places)} encodings{by_node}",
        rasterized=True,
    )


def _code_marks(ax, places, counts, colours):
    """Codes in use as dots, the wider the more often; the others as crosses."""
    used = counts > 0
    ax.scatter(
        *places[used].T,
        s=10 + 14 * np.sqrt(counts[used] * used.sum() / max(counts.sum(), 1e-30)),
        c=COLOURS[0] if colours is None else colours[used],
        edgecolors="black",
        linewidths=0.9,
        label=f"{used.sum()} codes in use (wider: more often)",
    )
    if not used.all():
        ax.scatter(
            *places[~used].T,
            marker="x",
            s=26,
            c="#c0392b",
            linewidths=1.3,
            label=f"{(~used).sum()} codes not in use",
        )


@png_figure()
def variants_table_figure(table, *, title="Variants side by side"):
    """Variants in a row each: similarity and codes used, beside what was published.

    Args:
        table: `pandas.DataFrame` with `variant`; `ssim`, `ssim_foreground` and `psnr`, each with
            `_sd`; `codes_used` and `num_codes`; `published_ssim` and `published_codes`. Missing
            columns and NaN are left out.
        title: figure title.

    Raises:
        ValueError: the table is empty or has no variant.
    """
    if "variant" not in table or table.empty:
        raise ValueError(f"table needs rows and `variant`. Received: columns {list(table.columns)}")
    place = np.arange(len(table))

    def column(name):
        values = table.get(name, pd.Series(np.nan, table.index))
        return pd.to_numeric(values).to_numpy(float)

    figure = new_figure((12.0, 0.36 * len(table) + 1.9))
    axes = figure.subplots(1, 3, sharey=True, width_ratios=[1.5, 1, 1])
    for ax, name, label, colour, marker, shift in (
        (axes[0], "ssim", "whole volume", 0, "o", -0.1),
        (axes[0], "ssim_foreground", "foreground", 1, "s", 0.1),
        (axes[1], "psnr", "whole volume", 0, "o", 0.0),
    ):
        ax.errorbar(
            column(name),
            place + shift,
            xerr=np.nan_to_num(column(f"{name}_sd")),
            linestyle="none",
            marker=marker,
            markersize=5.5,
            color=COLOURS[colour],
            elinewidth=1.2,
            capsize=2.5,
            label=f"{label}, mean and sd over subjects",
        )
    for ax, name, look in (
        (axes[2], "codes_used", _CODES_USED),
        (axes[2], "num_codes", _CODES_THERE_ARE),
        (axes[0], "published_ssim", _PUBLISHED),
        (axes[2], "published_codes", _PUBLISHED),
    ):
        if look is not _PUBLISHED or np.isfinite(column(name)).any():
            ax.plot(column(name), place, linestyle="none", **look)
    for ax, name in zip(axes, ("SSIM (3D)", "PSNR (dB)", "Codes used"), strict=True):
        ax.set_title(name)
        ax.grid(axis="both")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.4 / max(len(table), 3) - 0.06))
    axes[2].set_xlim(left=0)
    axes[0].set_yticks(place, table["variant"].astype(str))
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    figure.suptitle(title, fontweight="bold")
    return figure


def _check_nodes(codes, volume, nodes):
    if codes.shape != volume.shape or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            "codes must be integers of the volume's shape. "
            f"Received: {codes.dtype} {codes.shape} and {volume.shape}"
        )
    if codes.size and (codes.min() < -1 or codes.max() >= nodes):
        raise ValueError(
            f"codes must be from -1 to {nodes - 1}. Received: {codes.min()} to {codes.max()}"
        )


def _shaded(picture, codes, colours, low, high):
    """Codes in colours as bright as the scan, `(rows, cols, 3)`; grey where there is no code."""
    bright = ((np.nan_to_num(picture, nan=low) - low) / max(high - low, 1e-30)).clip(0, 1)
    shaded = colours[codes] * (_SHADE + (1 - _SHADE) * bright[..., None])
    return np.where(codes[..., None] < 0, bright[..., None], shaded)


def _black_and_white(volume):
    low, high = grey_scale([volume])
    outside = volume[~foreground_of(volume)]
    # A few voxels of noise below the background would turn it grey.
    return (float(np.nanmedian(outside)), high) if low < 0 and outside.size else (low, high)


def _neighbour_distance(codebook, height, width, topology):
    """Mean Euclidean distance of each node to its neighbours, `(height · width,)`; NaN without."""
    nodes = codebook.reshape(height, width, -1)
    apart = []
    for axis, size in enumerate((height, width)):
        if topology == "toroid":
            # Where a toroid is two wide, both ways lead to one neighbour.
            steps = {1 % size, -1 % size} - {0}
            apart += [np.linalg.norm(nodes - np.roll(nodes, s, axis), axis=-1) for s in steps]
            continue
        along = np.linalg.norm(np.diff(nodes, axis=axis), axis=-1)
        for missing in ((0, 1), (1, 0)):  # the last has none after it, the first none before it
            edges = [missing if i == axis else (0, 0) for i in (0, 1)]
            apart.append(np.pad(along, edges, constant_values=np.nan))
    if not apart:
        return np.full(height * width, np.nan)
    known = np.isfinite(apart).sum(axis=0)
    return (np.nansum(apart, axis=0) / np.where(known, known, np.nan)).ravel()


def _usage_panel(counts, nodes):
    counts = np.asarray(counts, "float64")
    if counts.shape != (nodes,) or counts.sum() <= 0:
        raise ValueError(f"counts must be ({nodes},) and not all zero. Received: {counts.shape}")
    share = 100 * counts / counts.sum()
    low, high = share[share > 0].min(), share.max()
    # Never used is not little used: another colour, and no colour of the scale.
    options = {
        "cmap": colormaps["plasma"].with_extremes(bad="#dde2e7"),
        "norm": LogNorm(low, high if high > low else 2 * low),
    }
    used = int((counts > 0).sum())
    name = f"Use: {used} of {nodes}" + (", the others grey" if used < nodes else "")
    return (name, np.where(share > 0, share, np.nan), "share of vectors (%, log scale)", options)


def _grid_picture(ax, picture, **options):
    image = ax.imshow(picture, interpolation="nearest", **options)
    ax.set_xlabel("column")
    ax.set_ylabel("row")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True))
    ax.tick_params(labelsize=8)
    return image


def _nearest(vectors, codebook):
    """The nearest code of each vector, and the share of the vectors' variance that is left."""
    vectors, codebook = vectors.astype("float64"), codebook.astype("float64")
    nearest = np.argmax(vectors @ codebook.T - 0.5 * (codebook**2).sum(axis=1), axis=1)
    variance = np.mean((vectors - vectors.mean(axis=0)) ** 2)
    left = np.mean((vectors - codebook[nearest]) ** 2)
    return nearest, left / variance if variance > 0 else np.nan
