"""Where in the brain the codes of a codebook are found."""

import textwrap

import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from nibabel.affines import voxel_sizes

from brainvq.reports.drawing import mark_sides, new_figure, png_figure, show_picture
from brainvq.reports.map_colours import grid_colours
from brainvq.reports.planes import OVERLAY, centre_of_mass, foreground_of

_WIDTH = 1.45  # inches of a picture
_NOTE = (
    "The {count} codes that most of the brain is made of, {share:.0f} % of it together. Percent: "
    "the code's share of the brain, and of that on the patient's left (L) and right (R). Axial "
    "seen from below, coronal from the front; ground: the average brain along the line of sight."
)
_PROJECTED = {"axial": 2, "coronal": 1}  # plane → axis that is projected away, R, A and S counted


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


@png_figure(dark=True)
def code_locations(
    counts,
    brain,
    affine,
    *,
    height=None,
    width=None,
    topology=None,
    most=24,
    columns=6,
    midline=None,
    title="Where codes are found in the brain",
):
    """Maps of where the codes that the brain uses most are found, seen from below and in front.

    Args:
        counts: `(K, *grid)`: in how many volumes each code stands at each position.
        brain: `(x, y, z)`, an average brain; each size a multiple of the grid's.
        affine: `(4, 4)`, voxel index of the brain → mm in RAS+ world coordinates.
        height: rows of the map, or None for a codebook without one; with it, codes are named by
            their place and written in its colour.
        width: columns of the map.
        topology: "rectangular" or "toroid".
        most: codes drawn, those that most of the brain is made of. Default 24.
        columns: codes side by side. Default 6.
        midline: see `code_places`, whose sides are written below each code's share.
        title: figure title.

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
    shares = _shares(counts, brain)
    top = float(shares[shown["code"]].max())
    views = _views(brain, affine, _blocks(counts, brain))
    figure, axes = _location_axes(views, len(shown), min(columns, len(shown)))
    for i, place in enumerate(shown.itertuples()):
        row, column = divmod(i, axes.shape[1])
        pair = axes[2 * row : 2 * row + 2, column]
        _draw_location(pair, views, shares[place.code], top)
        _name_location(pair[0], place, width, colours)
        if column == 0:
            for ax, plane in zip(pair, views, strict=True):
                ax.set_ylabel(plane, fontsize=9)
    _share_bar(figure, axes, top)
    figure.suptitle(title, fontsize=11)
    note = _NOTE.format(count=len(shown), share=100 * shown["share"].sum())
    figure.supxlabel(textwrap.fill(note, int(14 * figure.get_figwidth())), fontsize=8.5)
    return figure


def _shares(counts, brain):
    """The share of volumes with each code at each position, 0 in the air, `(K, *grid)`."""
    shares = counts / max(counts.sum(axis=0).max(), 1e-30)
    return shares * (_block_means(_inside(brain), _blocks(counts, brain)) > 0)


def _location_axes(views, count, columns):
    """A figure with two panels for each code, one above the other: axes `(2 · rows, columns)`."""
    rows = -(-count // columns)
    heights = [ground.shape[0] / ground.shape[1] * ratio for ground, ratio, _ in views.values()]
    figure = new_figure((columns * _WIDTH + 1.3, rows * (_WIDTH * sum(heights) + 0.42) + 1.1))
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02, wspace=0.01, hspace=0.0)
    axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[*heights] * rows)
    for ax in axes.ravel():
        ax.set_axis_off()
    return figure, axes


def _draw_location(pair, views, share, top):
    for ax, (plane, (ground, ratio, project)) in zip(pair, views.items(), strict=True):
        ax.set_axis_on()
        show_picture(ax, ground, (ratio, 1.0), (0, 2 * ground.max() or 1.0))  # dim: the codes count
        show_picture(ax, project(share), (ratio, 1.0), (0, top), cmap=OVERLAY)
        mark_sides(ax, plane)


def _share_bar(figure, axes, top):
    scale = ScalarMappable(cmap=OVERLAY)
    scale.set_clim(0, top)
    bar = figure.colorbar(scale, ax=axes[:, -1].tolist(), fraction=0.09, pad=0.06, aspect=40)
    bar.set_label("highest share of volumes along the line of sight", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _name_location(ax, place, width, colours):
    name = f"code {place.code}"
    if colours is not None:
        name = "row {}, column {}".format(*divmod(place.code, width))
    ax.set_title(
        f"{name}\n{100 * place.share:.1f} %: L {100 * place.left:.0f}, R {100 * place.right:.0f}",
        fontsize=8.5,
        fontweight="normal",
        # Some are dark: a little of white keeps them legible.
        color="#e8ecef" if colours is None else 0.65 * colours[place.code] + 0.35,
    )


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
        filled = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        if len(filled):
            margin = int(np.ceil(6.0 / sizes[axis]))
            box[axis] = slice(max(filled[0] - margin, 0), filled[-1] + margin + 1)
    views = {}
    for plane, axis in _PROJECTED.items():
        shown = [i for i in range(3) if i != axis]

        def project(positions, axis=axis, shown=shown):
            picture = nib.apply_orientation(positions, order).max(axis=axis)
            for i, size in enumerate(turned[shown]):
                picture = picture.repeat(size, axis=i)
            return picture[tuple(box[i] for i in shown)][::-1, ::-1].T

        ground = solid.mean(axis=axis)[tuple(box[i] for i in shown)][::-1, ::-1].T
        views[plane] = (ground, sizes[shown[1]] / sizes[shown[0]], project)
    return views
