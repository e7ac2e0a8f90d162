"""The figures of codebooks that lie on a map, and of where their codes live in the brain.

A map has height · width nodes; code k is the node in row k // width and column k % width, row 0 at
the top. On a toroid opposite borders meet; on a rectangle they do not. Every figure colours a node
by its place on the map (`grid_colours`), so that one colour means one place throughout.

Every function writes `path` and returns it as a `pathlib.Path`; with `None` it returns the
`matplotlib.figure.Figure` instead, for a notebook.
"""

import textwrap

import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator
from nibabel.affines import voxel_sizes
from scipy.ndimage import binary_fill_holes
from skimage.color import lab2rgb
from sklearn.manifold import TSNE

from brainvq.reports.figures import COLOURS, _finish, _mark, _new, _show, _style, _worded
from brainvq.reports.planes import (
    OVERLAY,
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

TOPOLOGIES = ("rectangular", "toroid")
# A ring in CIELAB, as far apart as sRGB allows without grey: of a toroidal 16 × 16 map no two
# nodes are nearer than ΔE 4.9, and no colour is clipped. (Lightness, a, b) of its middle, its radii
# in a and b, the radius of its tube; and how much its green side is lighter.
_RING = {"middle": (68.8, 0.3, 4.8), "radii": (29.1, 31.6), "tube": 12.7, "tilt": 13.7}
_LIGHT_ANGLE = 2.78
# Green, orange, cyan and magenta at the corners of a rectangle, grey in its middle.
_CORNERS = np.array(
    [[[79.7, -75.5, 74.3], [66.1, 39.9, 68.5]], [[78.2, -27.4, -31.4], [55.8, 86.5, -37.9]]]
)
_SHADE = 0.45  # brightness of a colour where the scan is black: ventricles have codes too
_PROJECTED = {"axial": 2, "coronal": 1}  # plane → axis that is projected away, R, A and S counted


def grid_colours(height, width, topology):
    """A colour for each node of a map: near nodes look alike, far ones different.

    A toroid becomes a ring-shaped surface in the space of colours (CIELAB), the longer side of the
    map running round the ring, so that no seam shows where opposite borders meet: an angle of hue
    alone would be lost where the other angle runs through grey. A rectangle blends four corners.

    Args:
        height: int ≥ 1, rows.
        width: int ≥ 1, columns.
        topology: "rectangular" or "toroid".

    Returns:
        float64 `(height · width, 3)`, red, green and blue in [0, 1]; row by row.

    Raises:
        ValueError: a size is below 1 or the topology is another.
    """
    if min(height, width) < 1 or topology not in TOPOLOGIES:
        raise ValueError(
            f"a map has 1 or more rows and columns and a topology out of {TOPOLOGIES}. "
            f"Received: {height}, {width}, {topology!r}"
        )
    rows, columns = np.divmod(np.arange(height * width), width)
    if topology == "rectangular":
        y, x = rows / max(height - 1, 1), columns / max(width - 1, 1)
        down, right = np.stack([1 - y, y]), np.stack([1 - x, x])
        lab = np.einsum("in,jn,ijc->nc", down, right, _CORNERS)
    else:
        row, column = 2 * np.pi * rows / height, 2 * np.pi * columns / width
        along, across = (column, row) if width >= height else (row, column)
        (light, a, b), (radius_a, radius_b) = _RING["middle"], _RING["radii"]
        out, up = _RING["tube"] * np.cos(across), _RING["tube"] * np.sin(across)
        lab = np.stack(
            [
                light + up + _RING["tilt"] * np.cos(along - _LIGHT_ANGLE),
                a + (radius_a + out) * np.cos(along),
                b + (radius_b + out) * np.sin(along),
            ],
            axis=1,
        )
    return lab2rgb(lab)


@_style()
def som_grid(
    codebook,
    height,
    width,
    topology,
    path,
    *,
    counts=None,
    title="Self-organising map",
    simulated=False,
):
    """The map as pictures: its nodes' sums, how far neighbours are apart, use, and its colours.

    The second is the U-matrix of Ultsch and Siemon (1990): ridges part clusters of alike nodes.

    Args:
        codebook: float `(height · width, dim)`.
        height: rows of the map.
        width: columns of the map.
        topology: "rectangular" or "toroid".
        path: the PNG to write; None returns the Figure.
        counts: `(height · width,)`, how often each node was the nearest; None leaves this out.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

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
    figure = _new((4.1 * side, 3.4 * rows * min(max(height / width, 0.6), 1.5) + 0.7))
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
        f"{_worded(title, simulated)}: {height} × {width} nodes of {codebook.shape[1]} channels\n"
        f"{topology}, {borders}",
        fontsize=11,
    )
    return _finish(figure, path)


@_style(dark=True)
def brain_on_grid(
    volume,
    codes,
    affine,
    height,
    width,
    topology,
    path,
    *,
    position=None,
    intensity=None,
    title="Place on the map of every voxel's code",
    simulated=False,
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
        path: the PNG to write; None returns the Figure.
        position: (x, y, z) in mm. Default: `planes.centre_of_mass` of the scan.
        intensity: (black, white). Default: as in `planes.three_planes`, but black is the usual
            background where values go below 0, as in z-scored volumes.
        title: figure title.
        simulated: True when the brain is simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure. The key shows nodes that this brain does not use
        darkened.

    Raises:
        UserError: the position lies outside the volume.
        ValueError: shapes do not agree, the codes are no nodes, or the affine is no affine.
    """
    volume, codes = np.asarray(volume), np.asarray(codes)
    colours = grid_colours(height, width, topology)
    if codes.shape != volume.shape or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            "codes must be integers of the volume's shape. "
            f"Received: {codes.dtype} {codes.shape} and {volume.shape}"
        )
    if codes.size and (codes.min() < -1 or codes.max() >= len(colours)):
        raise ValueError(
            f"codes must be from -1 to {len(colours) - 1}. Received: {codes.min()} to {codes.max()}"
        )
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
        _show(axes[0, column], plane.picture, plane.spacing, (low, high))
        bright = ((np.nan_to_num(plane.picture, nan=low) - low) / max(high - low, 1e-30)).clip(0, 1)
        code = coded[name].picture[..., None]
        shaded = colours[code[..., 0]] * (_SHADE + (1 - _SHADE) * bright[..., None])
        picture = np.where(code < 0, bright[..., None], shaded)  # (rows, cols, 3)
        _show(axes[1, column], picture, plane.spacing, (0, 1))
    key = side(0, [0, 1])
    shown = np.where(used[:, None], colours, 0.2 * colours).reshape(height, width, 3)
    _grid_picture(key, shown)
    key.set_title(f"{height} × {width} {topology}\n{used.sum()} nodes in this brain", fontsize=10)
    label_planes(figure, axes, grey, titles, affine, _worded(title, simulated), [])
    return _finish(figure, path)


@_style()
def encodings_tsne(
    vectors,
    codebook,
    counts,
    path,
    *,
    height=None,
    width=None,
    topology=None,
    most=2000,
    perplexity=30.0,
    seed=0,
    title="Encodings and codebook",
    simulated=False,
):
    """Encodings and code vectors in one plane, by t-SNE (van der Maaten and Hinton 2008).

    Args:
        vectors: float `(..., dim)`, what the encoder puts out.
        codebook: float `(K, dim)`.
        counts: `(K,)`, how often each code was used: the area of its mark; unused codes are
            crosses. None draws all alike.
        path: the PNG to write; None returns the Figure.
        height: rows of the map, or None for a codebook without one; encodings are then grey, else
            they have the colour of the node nearest to them.
        width: columns of the map.
        topology: "rectangular" or "toroid".
        most: encodings drawn, at random without repetition. Default 2000.
        perplexity: about how many neighbours a point looks at. Default 30; fewer where there are
            few points.
        seed: of the choice of encodings and of t-SNE.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure. Below stands how much of the encodings' variance
        is left between them and their nearest code.

    Raises:
        ValueError: arrays do not agree, or are not finite.
    """
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
    vectors = vectors.reshape(-1, codebook.shape[1])
    total = len(vectors)
    picked = np.random.default_rng(seed).permutation(total)[:most]
    vectors = vectors[np.sort(picked)]
    points = np.concatenate([vectors, codebook])
    if not np.isfinite(points).all() or total == 0:
        raise ValueError(f"vectors must be finite and one or more. Received: {total}, some not")
    nearest, left = _nearest(vectors, codebook)
    colours = grid_colours(height, width, topology) if height else None
    placed = _embedded(points, perplexity, seed)
    figure = _new((7.4, 6.6))
    ax = figure.subplots()
    ax.scatter(
        *placed[: len(vectors)].T,
        s=7,
        c="#9aa5af" if colours is None else colours[nearest],
        alpha=0.75,
        linewidths=0,
        label=f"{len(vectors)} encodings"
        + (", coloured by the place of the nearest node" if height else ""),
        rasterized=True,
    )
    used = counts > 0
    nodes = placed[len(vectors) :]
    ax.scatter(
        *nodes[used].T,
        s=10 + 14 * np.sqrt(counts[used] * used.sum() / max(counts.sum(), 1e-30)),
        c=COLOURS[0] if colours is None else colours[used],
        edgecolors="black",
        linewidths=0.9,
        label=f"{used.sum()} codes in use (wider: more often)",
    )
    if not used.all():
        ax.scatter(
            *nodes[~used].T,
            marker="x",
            s=26,
            c="#c0392b",
            linewidths=1.3,
            label=f"{(~used).sum()} codes not in use",
        )
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[["top", "right"]].set_visible(True)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, markerscale=1.2)
    ax.set_title(_worded(title, simulated))
    figure.supxlabel(
        f"t-SNE of {len(vectors)} of {total} encodings and all {len(codebook)} codes together: "
        "near is alike, far apart says little.\n"
        f"Between an encoding and its nearest code lies {100 * left:.0f} % of the encodings' "
        "variance (0 %: the code says all).",
        fontsize=9,
    )
    return _finish(figure, path)


def code_places(counts, brain, affine, *, midline=None):
    """Where in the brain each code is found: its share, its sides, its middle and its spread.

    Every position counts by the part of it that is foreground of the average brain, so that codes
    of the air around it do not.

    Args:
        counts: `(K, *grid)`: in how many volumes each code stands at each position.
        brain: `(x, y, z)`, an average brain; each size a multiple of the grid's.
        affine: `(4, 4)`, voxel index of the brain → mm in RAS+ world coordinates.
        midline: x in mm that parts left from right. Default: the middle of the foreground.

    Returns:
        `pandas.DataFrame`, a row per code: `code`; `share` of all that is counted; `left` and
        `right`, the parts of the code's mass on the patient's sides, 1 together; `x`, `y`, `z`, its
        mean position in mm, and `spread`, the root mean square distance from it in mm. NaN where a
        code is not found.

    Raises:
        ValueError: the shapes do not agree.
    """
    counts, brain = np.asarray(counts, "float64"), np.asarray(brain)
    affine = np.asarray(affine, "float64")
    blocks = _blocks(counts, brain)
    if midline is None:
        midline = centre_of_mass(brain, affine)[0]
    inside = _inside(brain)
    x = affine[0, 3] + sum(
        affine[0, i] * np.arange(n).reshape([-1 if i == j else 1 for j in range(3)])
        for i, n in enumerate(brain.shape)
    )
    on_left = inside * np.where(np.abs(x - midline) < 1e-3, 0.5, x < midline)  # +x: to the right
    grid = counts.shape[1:]
    whole, left = _block_means(inside, blocks), _block_means(on_left, blocks)
    mass = (counts * whole).reshape(len(counts), -1)  # (K, positions)
    sums = np.where(mass.sum(axis=1) > 0, mass.sum(axis=1), np.nan)
    centres = (np.stack(np.indices(grid), axis=-1).reshape(-1, 3) + 0.5) * blocks - 0.5
    centres = nib.affines.apply_affine(affine, centres)  # (positions, 3) mm
    middle = mass @ centres / sums[:, None]
    squares = mass @ (centres**2).sum(axis=1) / sums - (middle**2).sum(axis=1)
    left = (counts * left).reshape(len(counts), -1).sum(axis=1) / sums
    return pd.DataFrame(
        {
            "code": np.arange(len(counts)),
            "share": np.nan_to_num(sums) / max(np.nansum(sums), 1e-30),
            "left": left,
            "right": 1 - left,
            **{name: middle[:, i] for i, name in enumerate("xyz")},
            "spread": np.sqrt(squares.clip(0)),
        }
    )


@_style(dark=True)
def code_locations(
    counts,
    brain,
    affine,
    path,
    *,
    height=None,
    width=None,
    topology=None,
    most=24,
    columns=6,
    midline=None,
    title="Where codes are found in the brain",
    simulated=False,
):
    """Maps of where the codes that the brain uses most are found, seen from below and in front.

    Args:
        counts: `(K, *grid)`: in how many volumes each code stands at each position.
        brain: `(x, y, z)`, an average brain; each size a multiple of the grid's.
        affine: `(4, 4)`, voxel index of the brain → mm in RAS+ world coordinates.
        path: the PNG to write; None returns the Figure.
        height: rows of the map, or None for a codebook without one; with it, codes are named by
            their place and written in its colour.
        width: columns of the map.
        topology: "rectangular" or "toroid".
        most: codes drawn, those that most of the brain is made of. Default 24.
        columns: codes side by side. Default 6.
        midline: see `code_places`, whose sides are written below each code's share.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure. Each picture shows the highest share of volumes
        along the line of sight, over the mean of the average brain along it.

    Raises:
        ValueError: the shapes do not agree, or no code is found in the brain.
    """
    counts, brain = np.asarray(counts, "float64"), np.asarray(brain)
    places = code_places(counts, brain, affine, midline=midline)
    shown = places.sort_values("share", ascending=False, kind="stable").head(most)
    shown = shown[shown["share"] > 0]
    if shown.empty:
        raise ValueError("no code is found in the brain. Received: counts of 0 there")
    colours = grid_colours(height, width, topology) if height else None
    blocks = _blocks(counts, brain)
    shares = counts / max(counts.sum(axis=0).max(), 1e-30)  # of the volumes
    shares = shares * (_block_means(_inside(brain), blocks) > 0)  # nothing of the air around
    top = float(shares[shown["code"]].max())
    views = _views(brain, affine, blocks)
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    wide = 1.45
    heights = [ground.shape[0] / ground.shape[1] * ratio for ground, ratio, _ in views.values()]
    figure = _new((columns * wide + 1.3, rows * (wide * sum(heights) + 0.42) + 1.1))
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02, wspace=0.01, hspace=0.0)
    axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[*heights] * rows)
    for ax in axes.ravel():
        ax.set_axis_off()
    for i, place in enumerate(shown.itertuples()):
        row, column = divmod(i, columns)
        pair = axes[2 * row : 2 * row + 2, column]
        for ax, (plane, (ground, ratio, project)) in zip(pair, views.items(), strict=True):
            ax.set_axis_on()
            _show(ax, ground, (ratio, 1.0), (0, 2 * ground.max() or 1.0))  # dim: the codes count
            _show(ax, project(shares[place.code]), (ratio, 1.0), (0, top), cmap=OVERLAY)
            _mark(ax, plane)
            if column == 0:
                ax.set_ylabel(plane, fontsize=9)
        name = f"code {place.code}"
        if colours is not None:
            name = "row {}, column {}".format(*divmod(place.code, width))
        pair[0].set_title(
            f"{name}\n{100 * place.share:.1f} %: L {100 * place.left:.0f}, "
            f"R {100 * place.right:.0f}",
            fontsize=8.5,
            fontweight="normal",
            # Some are dark: a little of white keeps them legible.
            color="#e8ecef" if colours is None else 0.65 * colours[place.code] + 0.35,
        )
    scale = ScalarMappable(cmap=OVERLAY)
    scale.set_clim(0, top)
    bar = figure.colorbar(scale, ax=axes[:, -1].tolist(), fraction=0.09, pad=0.06, aspect=40)
    bar.set_label("highest share of volumes along the line of sight", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(_worded(title, simulated), fontsize=11)
    share = 100 * shown["share"].sum()
    note = (
        f"The {len(shown)} codes that most of the brain is made of, {share:.0f} % of it together. "
        "Percent: the code's share of the brain, and of that on the patient's left (L) and right "
        "(R). Axial seen from below, coronal from the front; ground: the average brain along the "
        "line of sight."
    )
    figure.supxlabel(textwrap.fill(note, int(14 * figure.get_figwidth())), fontsize=8.5)
    return _finish(figure, path)


@_style()
def variants_table_figure(table, path, *, title="Variants side by side", simulated=False):
    """Variants in a row each: similarity and codes used, beside what was published.

    Args:
        table: `pandas.DataFrame` with `variant`; `ssim`, `ssim_foreground` and `psnr`, each with
            `_sd`; `codes_used` and `num_codes`; `published_ssim` and `published_codes`. Missing
            columns and NaN are left out.
        path: the PNG to write; None returns the Figure.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the table is empty or has no variant.
    """
    if "variant" not in table or table.empty:
        raise ValueError(f"table needs rows and `variant`. Received: columns {list(table.columns)}")
    place = np.arange(len(table))

    def column(name):
        found = table.get(name)
        return (
            np.full(len(table), np.nan) if found is None else pd.to_numeric(found).to_numpy(float)
        )

    figure = _new((12.0, 0.36 * len(table) + 1.9))
    axes = figure.subplots(1, 3, sharey=True, width_ratios=[1.5, 1, 1])
    lines = (
        (axes[0], "ssim", "whole volume", 0, "o", -0.1),
        (axes[0], "ssim_foreground", "foreground", 1, "s", 0.1),
        (axes[1], "psnr", "whole volume", 0, "o", 0.0),
    )
    for ax, name, label, colour, marker, shift in lines:
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
    axes[2].plot(
        column("codes_used"), place, linestyle="none", marker="o", markersize=6, label="codes used"
    )
    size = column("num_codes")
    axes[2].plot(
        size,
        place,
        linestyle="none",
        marker="|",
        markersize=12,
        color="#5f6b76",
        label="codes there are",
    )
    for ax, name in ((axes[0], "published_ssim"), (axes[2], "published_codes")):
        if np.isfinite(column(name)).any():
            ax.plot(
                column(name),
                place,
                linestyle="none",
                marker="D",
                markersize=7,
                markerfacecolor="none",
                markeredgecolor="#1d252c",
                label="published, on other data",
            )
    for ax, name in zip(axes, ("SSIM (3D)", "PSNR (dB)", "Codes used"), strict=True):
        ax.set_title(name)
        ax.grid(axis="both")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.4 / max(len(table), 3) - 0.06))
    axes[2].set_xlim(left=0)
    axes[0].set_yticks(place, table["variant"].astype(str))
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    figure.suptitle(_worded(title, simulated), fontweight="bold")
    return _finish(figure, path)


def _black_and_white(volume):
    low, high = grey_scale([volume])
    outside = volume[~foreground_of(volume)]
    # A few voxels of noise below the background would turn it grey.
    return (float(np.nanmedian(outside)), high) if low < 0 and outside.size else (low, high)


def _neighbour_distance(codebook, height, width, topology):
    """Mean Euclidean distance of each node to its neighbours, `(height · width,)`; NaN without."""
    nodes = codebook.reshape(height, width, -1)
    found = []
    for axis, size in enumerate((height, width)):
        if topology == "toroid":
            # Where a toroid is two wide, both ways lead to one neighbour.
            steps = {1 % size, -1 % size} - {0}
            found += [np.linalg.norm(nodes - np.roll(nodes, s, axis), axis=-1) for s in steps]
            continue
        apart = np.linalg.norm(np.diff(nodes, axis=axis), axis=-1)
        for missing in ((0, 1), (1, 0)):  # the last has none after it, the first none before it
            edges = [missing if i == axis else (0, 0) for i in (0, 1)]
            found.append(np.pad(apart, edges, constant_values=np.nan))
    if not found:
        return np.full(height * width, np.nan)
    known = np.isfinite(found).sum(axis=0)
    return (np.nansum(found, axis=0) / np.where(known, known, np.nan)).ravel()


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


def _embedded(points, perplexity, seed):
    """`(n, 2)` by t-SNE from principal components, the same for the same seed."""
    if len(points) < 3 or not np.ptp(points, axis=0).any():
        return np.zeros((len(points), 2))
    perplexity = min(perplexity, (len(points) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)


def _blocks(counts, brain):
    """Voxels of a position along each axis, int `(3,)`."""
    if (
        counts.ndim != 4
        or brain.ndim != 3
        or 0 in counts.shape
        or any(a % b for a, b in zip(brain.shape, counts.shape[1:], strict=True))
    ):
        raise ValueError(
            "counts must be (K, *grid) and the brain (x, y, z) with sizes that are multiples of "
            f"the grid's. Received: {counts.shape} and {brain.shape}"
        )
    return np.array(brain.shape) // counts.shape[1:]


def _inside(brain):
    """Foreground as float32, 0 or 1; all of an average without contrast."""
    inside = foreground_of(brain).astype("float32")
    return inside if inside.any() else np.ones_like(inside)


def _block_means(volume, blocks):
    grid = np.array(volume.shape) // blocks
    return volume.reshape(np.stack([grid, blocks], axis=1).ravel()).mean(axis=(1, 3, 5))


def _views(brain, affine, blocks):
    """How axial and coronal projections look.

    Returns:
        Dict of plane → (projected brain `(rows, cols)`, mm per row over mm per column, function of
        an array on the grid of positions → its maximum projected likewise).
    """
    order = nib.io_orientation(affine)
    solid = np.nan_to_num(brain.astype("float32"), nan=np.nanmin(brain))
    solid = nib.apply_orientation(np.where(foreground_of(solid), solid - solid.min(), 0), order)
    sizes, turned = np.zeros(3), np.zeros(3, int)
    for axis, (target, _) in enumerate(order.astype(int)):
        sizes[target], turned[target] = voxel_sizes(affine)[axis], blocks[axis]
    inside = solid > 0  # axes: R, A, S
    box = [slice(None)] * 3
    for axis in range(3):
        found = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        if len(found):
            margin = int(np.ceil(6.0 / sizes[axis]))
            box[axis] = slice(max(found[0] - margin, 0), found[-1] + margin + 1)
    views = {}
    for plane, axis in _PROJECTED.items():
        kept = [i for i in range(3) if i != axis]

        def project(positions, axis=axis, kept=kept):
            picture = nib.apply_orientation(positions, order).max(axis=axis)
            for i, size in enumerate(turned[kept]):
                picture = picture.repeat(size, axis=i)
            return picture[tuple(box[i] for i in kept)][::-1, ::-1].T

        ground = solid.mean(axis=axis)[tuple(box[i] for i in kept)][::-1, ::-1].T
        views[plane] = (ground, sizes[kept[1]] / sizes[kept[0]], project)
    return views
