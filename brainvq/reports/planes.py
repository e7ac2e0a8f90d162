"""Volumes in three planes: axial, coronal and sagittal slices through one point.

Pictures follow the radiological convention: the patient's right is at the left of axial and coronal
pictures, anterior at the left of sagittal ones; anterior or superior is at the top. A volume comes
with the affine of its file, in any of the 48 orientations: axes are put in order, never resampled.
On an oblique grid the planes are those of the grid, each named after the anatomical plane nearest
to it, and the figure says by how many degrees it is turned.
"""

from typing import NamedTuple

import nibabel as nib
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from nibabel.affines import obliquity, voxel_sizes

from brainvq.errors import UserError
from brainvq.evaluation.similarity import foreground
from brainvq.reports.drawing import new_figure, png_figure, show_picture, write_on_picture

PLANES = ("axial", "coronal", "sagittal")
# What stands at the left, right, top and bottom of a picture.
EDGES = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}
# The world axis that a plane is perpendicular to.
_NORMAL = {"axial": "z", "coronal": "y", "sagittal": "x"}
LETTERS = "R = patient's right, L = left, A = anterior, P = posterior, S = superior, I = inferior"
_OBLIQUE_DEGREES = 1.0  # less is the rounding of a header
_MARGIN_MM = 6.0  # of background kept around the foreground
_BAR = 0.16  # inches, the width of a colour bar
_CONTOUR = "#4fe3d2"
# Black in the middle: where nothing differs, a picture is as dark as its ground.
SIGNED = LinearSegmentedColormap.from_list(
    "signed", ["#9fe0ff", "#2b86c5", "black", "#c5671f", "#ffd39a"]
)
# Kinds of rows, each on one scale of its own: colour map and name of the scale.
_KINDS = {
    "grey": ("gray", "intensity"),
    "signed": (SIGNED, "difference"),
    "error": ("inferno", "|error|"),
}
# Red to yellow, the more opaque the higher: low scores leave the anatomy to be seen.
OVERLAY = ListedColormap(
    np.column_stack(
        [colormaps["autumn"](np.linspace(0, 1, 256))[:, :3], np.linspace(0, 1.5, 256).clip(0, 0.9)]
    ),
    "overlay",
).with_extremes(bad=(0, 0, 0, 0))


class Plane(NamedTuple):
    """One slice, ready to show.

    Attributes:
        picture: `(rows, cols)`, dtype of the volume; see the module for its sides.
        spacing: (mm per row, mm per column).
        mm: the world coordinate along the plane's normal of the point that the planes share.
    """

    picture: np.ndarray
    spacing: tuple
    mm: float


class Row(NamedTuple):
    """A volume and what is laid over it.

    Attributes:
        title: what is written at its left.
        volume: `(x, y, z)`.
        kind: "grey", "signed" or "error".
        overlay: `(x, y, z)`, or None.
    """

    title: str
    volume: np.ndarray
    kind: str
    overlay: np.ndarray | None


def plane_slices(volume, affine, position=None):
    """The three slices of a volume through one point.

    Args:
        volume: `(x, y, z)` array of any dtype.
        affine: `(4, 4)`, voxel index → mm in RAS+ world coordinates; any orientation, anisotropic
            or oblique.
        position: (x, y, z) in mm, rounded to the nearest voxel. Default: `centre_of_mass`.

    Returns:
        Dict of "axial", "coronal", "sagittal" → `Plane`.

    Raises:
        UserError: the position lies outside the volume.
        ValueError: the volume is not three-dimensional, or the affine not `(4, 4)` and invertible.
    """
    volume, affine = _checked(volume, affine)
    if position is None:
        position = centre_of_mass(volume, affine)
    order = nib.io_orientation(affine)
    affine = affine @ nib.orientations.inv_ornt_aff(order, volume.shape)
    volume = nib.apply_orientation(volume, order)  # a view, grown to the right, front and top
    i, j, k = _voxel(position, affine, volume.shape)
    x, y, z = voxel_sizes(affine)
    mm = affine @ [i, j, k, 1]
    return {
        "axial": Plane(volume[::-1, ::-1, k].T, (y, x), mm[2]),
        "coronal": Plane(volume[::-1, j, ::-1].T, (z, x), mm[1]),
        "sagittal": Plane(volume[i, ::-1, ::-1].T, (z, y), mm[0]),
    }


def centre_of_mass(volume, affine):
    """Where the foreground of a volume has its centre, each foreground voxel counting alike.

    Args:
        volume: `(x, y, z)` array; voxels that are not finite count as background.
        affine: `(4, 4)`, voxel index → mm.

    Returns:
        float64 `(3,)` mm; the middle of the grid for a volume without contrast.

    Raises:
        ValueError: the volume is not three-dimensional, or the affine not `(4, 4)` and invertible.
    """
    volume, affine = _checked(volume, affine)
    index = (np.array(volume.shape) - 1) / 2
    mask = foreground_of(volume)
    if mask.any():
        index = np.array([np.mean(places) for places in np.nonzero(mask)])
    return (affine @ np.append(index, 1.0))[:3]


@png_figure(dark=True)
def three_planes(
    volumes,
    affine,
    *,
    overlay=None,
    overlay_label="",
    position=None,
    contour=None,
    contour_label="outline: mask",
    titles=None,
    title="",
    intensity=None,
    symmetric=False,
):
    """Volumes in three planes through one point: a row per volume, a column per plane.

    Background that is empty in every row is cut down to a margin of 6 mm.

    Args:
        volumes: dict of title → `(x, y, z)` array, or one such array; all on one grid.
        affine: `(4, 4)`, voxel index → mm in RAS+ world coordinates, see `plane_slices`.
        overlay: non-negative scores `(x, y, z)`, such as an anomaly map, laid in colour over every
            row, transparent at 0 (and where not finite); or a dict of row title → scores, for maps
            of several methods, each on its own scale. A scale ends at the 99.8th percentile of its
            positive scores.
        overlay_label: name of the scores, written at their colour bar; a dict where `overlay` is
            one.
        position: (x, y, z) in mm. Default: `centre_of_mass` of the first volume.
        contour: mask `(x, y, z)` outlined in every row, such as the lesions marked by an expert.
        contour_label: what the outline is, written below.
        titles: n row titles in place of the dict's.
        title: figure title.
        intensity: (black, white) for all rows. Default: 0 (or the minimum, if that is below) to
            the 99.9th percentile of the brightest volume's foreground.
        symmetric: True for signed volumes, such as differences: a colour scale with black at 0.

    Raises:
        UserError: the position lies outside the volume.
        ValueError: shapes do not agree, the affine is no affine, or the overlay has negative
            scores.
    """
    volumes = _named(volumes)
    titles = list(volumes) if titles is None else [str(name) for name in titles]
    if len(titles) != len(volumes):
        raise ValueError(
            f"one title per volume is needed. Received: {len(titles)} for {len(volumes)} volumes"
        )
    overlays, bars = _overlays(overlay, overlay_label, list(volumes))
    kind = "signed" if symmetric else "grey"
    named = zip(titles, volumes.items(), strict=True)
    rows = [Row(shown, volume, kind, overlays.get(name)) for shown, (name, volume) in named]
    scales = {} if intensity is None else {kind: intensity}
    return _draw(rows, affine, position, scales, bars, (contour, contour_label), title)


@png_figure(dark=True)
def reconstruction_planes(
    original,
    reconstruction,
    affine,
    *,
    position=None,
    contour=None,
    contour_label="outline: mask",
    titles=("original", "reconstruction", "|error|"),
    title="Original and reconstruction",
    intensity=None,
    signed=False,
):
    """A volume, its reconstruction and the error between them, in three planes through one point.

    Background that is empty in the first two is cut down to a margin of 6 mm.

    Args:
        original: `(x, y, z)`.
        reconstruction: `(x, y, z)`, on the same grid and in the same units.
        affine: `(4, 4)`, voxel index → mm in RAS+ world coordinates, see `plane_slices`.
        position: (x, y, z) in mm. Default: `centre_of_mass` of the original.
        contour: mask `(x, y, z)` outlined in every row.
        contour_label: what the outline is, written below.
        titles: three row titles.
        title: figure title.
        intensity: (black, white) of the first two rows. Default: from the original, as in
            `three_planes`.
        signed: True shows reconstruction − original instead of its absolute value.

    Returns:
        `pathlib.Path` of the PNG, or the Figure. The errors have a scale of their own, which ends
        at the 99.8th percentile of those in the three slices.

    Raises:
        UserError: the position lies outside the volume.
        ValueError: shapes do not agree or the affine is no affine.
    """
    original, reconstruction = np.asarray(original), np.asarray(reconstruction)
    if original.shape != reconstruction.shape:
        raise ValueError(
            "original and reconstruction must be of one shape. "
            f"Received: {original.shape} and {reconstruction.shape}"
        )
    error = reconstruction.astype("float32") - original.astype("float32")
    if signed and titles[2] == "|error|":
        titles = (*titles[:2], "reconstruction − original")
    rows = [
        Row(titles[0], original, "grey", None),
        Row(titles[1], reconstruction, "grey", None),
        Row(titles[2], error if signed else np.abs(error), "signed" if signed else "error", None),
    ]
    scales = {"grey": grey_scale([original]) if intensity is None else intensity}
    return _draw(rows, affine, position, scales, [], (contour, contour_label), title)


def _overlays(overlay, overlay_label, names):
    """The scores over each row, and the colour bars: (label, numbers of the rows that share it)."""
    if not isinstance(overlay, dict):
        if overlay is None:
            return {}, []
        scores = np.asarray(overlay)
        return dict.fromkeys(names, scores), [(overlay_label, list(range(len(names))))]
    overlays = {name: np.asarray(scores) for name, scores in overlay.items() if scores is not None}
    unknown = [name for name in overlays if name not in names]
    if unknown:
        raise ValueError(f"overlays must be for rows {names}. Received: {unknown[0]!r}")
    labels = overlay_label if isinstance(overlay_label, dict) else {}
    return overlays, [(labels.get(n, ""), [i]) for i, n in enumerate(names) if n in overlays]


def _draw(rows, affine, position, scales, bars, contour, title):
    """The figure of both functions.

    Args:
        rows: list of `Row`.
        affine: `(4, 4)`.
        position: mm, or None.
        scales: dict of kind of row → (low, high); of a kind that is absent, it is that of the data.
        bars: list of (label, numbers of rows): overlays that share a scale and a colour bar.
        contour: (mask or None, what the outline is).
        title: figure title.
    """
    contour, contour_label = contour
    _check_shapes(rows, contour)
    if position is None:
        position = centre_of_mass(_solid(rows[0]), affine)
    rows, contour, affine = trimmed(rows, contour, affine, position)
    cuts = [plane_slices(row.volume, affine, position) for row in rows]
    figure, axes, side = plane_axes(cuts[0], len(rows), [_BAR] * (2 if bars else 1))
    for kind in dict.fromkeys(row.kind for row in rows):
        members = [i for i, row in enumerate(rows) if row.kind == kind]
        volumes, pictures = [rows[i].volume for i in members], [cuts[i] for i in members]
        scale = scales.get(kind) or _scale(kind, volumes, pictures)
        colours, label = _KINDS[kind]
        for i in members:
            for ax, name in zip(axes[i], PLANES, strict=True):
                plane = cuts[i][name]
                image = show_picture(
                    ax, as_float32(plane.picture), plane.spacing, scale, cmap=colours
                )
        add_bar(figure, side(0, members), image, label, open_ends(volumes, scale))
    for label, members in bars:
        scores = [rows[i].overlay for i in members]
        top = highest(scores, 0.998)
        for i in members:
            planes = plane_slices(rows[i].overlay, affine, position).values()
            for ax, plane in zip(axes[i], planes, strict=True):
                values = np.ma.masked_invalid(as_float32(plane.picture))
                image = show_picture(ax, values, plane.spacing, (0, top), cmap=OVERLAY)
        add_bar(figure, side(1, members), image, label, open_ends(scores, (0, top)))
    notes = []
    if contour is not None:
        outline = plane_slices(np.asarray(contour, bool), affine, position)
        for ax, name in zip(axes.flat, PLANES * len(rows), strict=True):
            if 0 < outline[name].picture.mean() < 1:
                ax.contour(outline[name].picture, [0.5], colors=_CONTOUR, linewidths=1.0)
        notes.append(contour_label)
    label_planes(figure, axes, cuts[0], [row.title for row in rows], affine, title, notes)
    return figure


def label_planes(figure, axes, cut, titles, affine, title, notes):
    """Writes what every figure of three planes says: sides, planes, rows, title and notes.

    Args:
        figure: the Figure.
        axes: `(rows, 3)` axes, as `plane_axes` gives them.
        cut: dict of plane → `Plane`, such as the first row's.
        titles: a title for each row.
        affine: `(4, 4)`, voxel index → mm.
        title: figure title.
        notes: lines to write below, after the meaning of the letters.
    """
    notes = [LETTERS, *notes]
    turned = np.degrees(np.max(obliquity(np.asarray(affine, "float64"))))
    if turned > _OBLIQUE_DEGREES:
        notes.append(f"planes of the scan's own grid, turned {turned:.0f}° from the anatomical")
    for ax, name in zip(axes.flat, PLANES * len(titles), strict=True):
        mark_edges(ax, name)
    for ax, (name, plane) in zip(axes[0], cut.items(), strict=True):
        # Adding 0 turns −0.0, as the rounding of −0.04 gives, into 0.0.
        ax.set_title(f"{name}, {_NORMAL[name]} = {round(plane.mm, 1) + 0:.1f} mm".replace("-", "−"))
    for ax, name in zip(axes[:, 0], titles, strict=True):
        ax.set_ylabel(name, fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11)
    figure.supxlabel("\n".join(notes), fontsize=8.5)


def trimmed(rows, contour, affine, position):
    """Cuts background that is empty in every row, so that brains fill their pictures.

    Args:
        rows: list of `Row`.
        contour: mask `(x, y, z)` that stays whole, or None.
        affine: `(4, 4)`, voxel index → mm.
        position: (x, y, z) in mm, a point that stays.

    Returns:
        The rows, the contour and the affine of the box that is left.
    """
    masks = [foreground_of(_solid(row)) for row in rows if row.kind != "error"]
    mask = np.logical_or.reduce(masks if contour is None else [*masks, np.asarray(contour, bool)])
    if not mask.any():
        return rows, contour, affine
    margin = np.ceil(_MARGIN_MM / voxel_sizes(affine)).astype(int)
    here = _voxel(position, affine, mask.shape)
    box = []
    for axis in range(3):
        solid = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        first = max(min(solid[0], here[axis]) - margin[axis], 0)
        box.append(slice(first, max(solid[-1], here[axis]) + margin[axis] + 1))
    box = tuple(box)
    affine = np.array(affine, "float64")
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    rows = [
        row._replace(
            volume=row.volume[box], overlay=None if row.overlay is None else row.overlay[box]
        )
        for row in rows
    ]
    return rows, None if contour is None else np.asarray(contour)[box], affine


def plane_axes(cut, rows, sides):
    """A figure with three panels per row, all on one scale of millimetres, and room beside them.

    Args:
        cut: dict of plane → `Plane`: the size of the panels.
        rows: how many.
        sides: width in inches of each column on the right, for colour bars or a key.

    Returns:
        The figure; its axes `(rows, 3)`; a function (column, numbers of rows) that gives the axes
        of a column on the right beside these rows.
    """
    sizes = [np.array(cut[name].picture.shape) * cut[name].spacing for name in PLANES]  # mm
    height, width = max(size[0] for size in sizes), sum(size[1] for size in sizes)
    inches = min(9.6, 15.0 / rows * width / height)  # long figures are made narrower
    size = (inches + 0.5 + sum(side + 0.74 for side in sides), rows * inches * height / width + 1.1)
    figure = new_figure(size)
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0.005, hspace=0.005)
    widths = [*(size[1] for size in sizes), *(side * width / inches for side in sides)]
    grid = figure.add_gridspec(rows, len(widths), width_ratios=widths)
    axes = np.array([[figure.add_subplot(grid[i, j]) for j in range(3)] for i in range(rows)])

    def side(column, members):
        return figure.add_subplot(grid[members[0] : members[-1] + 1, 3 + column])

    return figure, axes, side


def add_bar(figure, ax, image, label, extend):
    """A colour bar in axes of its own, as beside all volumes.

    Args:
        figure: the Figure.
        ax: the axes that become the bar.
        image: `matplotlib.cm.ScalarMappable`, whose colours it explains.
        label: str, what they stand for.
        extend: which ends are open, see `open_ends`.
    """
    colorbar = figure.colorbar(image, cax=ax, extend=extend)
    colorbar.ax.tick_params(labelsize=8)
    colorbar.set_label(label, fontsize=9)


def mark_edges(ax, plane):
    """Writes what is at the four edges of a picture.

    Args:
        ax: the panel.
        plane: "axial", "coronal" or "sagittal".
    """
    left, right, top, bottom = EDGES[plane]
    write_on_picture(ax, 0.01, 0.5, left, ha="left")
    write_on_picture(ax, 0.99, 0.5, right, ha="right")
    write_on_picture(ax, 0.5, 0.965, top, ha="center")
    write_on_picture(ax, 0.5, 0.035, bottom, ha="center")


def _scale(kind, volumes, cuts):
    if kind == "grey":
        return grey_scale(volumes)
    pictures = [as_float32(plane.picture).ravel() for cut in cuts for plane in cut.values()]
    top = highest([np.abs(np.concatenate(pictures))], 0.998)
    return (-top if kind == "signed" else 0.0), top


def grey_scale(volumes):
    """From 0, or the minimum if below, to the 99.9th percentile of the brightest foreground.

    A few bright vessels would darken the brain of a scan shown up to its maximum.

    Args:
        volumes: list of `(x, y, z)`.

    Returns:
        (black, white).
    """
    lows, highs = [0.0], []
    for volume in volumes:
        inside = foreground_of(volume)
        if inside.any():
            values = as_float32(volume)
            lows.append(float(values[np.isfinite(values)].min()))
            highs.append(float(np.quantile(values[inside], 0.999)))
    low = min(lows)
    return low, max(highs) if highs else low + 1.0


def highest(volumes, quantile):
    """A quantile of the positive finite values, the largest over the volumes.

    Args:
        volumes: list of arrays of any shape.
        quantile: from 0 to 1.

    Returns:
        float; 1.0 where nothing is positive.
    """
    tops = []
    for volume in volumes:
        values = as_float32(volume)
        values = values[np.isfinite(values) & (values > 0)]
        if values.size:
            tops.append(float(np.quantile(values, quantile)))
    return max(tops) if tops else 1.0


def open_ends(volumes, scale):
    """Which ends of a colour bar are open, because values lie beyond.

    Args:
        volumes: list of arrays of any shape.
        scale: (low, high) of the bar.

    Returns:
        "neither", "min", "max" or "both".
    """
    below = any(np.any(volume < scale[0]) for volume in volumes)  # NaN is neither
    above = any(np.any(volume > scale[1]) for volume in volumes)
    return {(True, True): "both", (True, False): "min", (False, True): "max"}.get(
        (below, above), "neither"
    )


def _solid(row):
    """A row's volume with its background as the lowest value, as `evaluation.foreground` takes."""
    return np.abs(as_float32(row.volume)) if row.kind == "signed" else row.volume


def foreground_of(volume):
    """`evaluation.foreground` of one volume in any units; voxels that are not finite are out.

    Args:
        volume: `(x, y, z)`.

    Returns:
        bool, of that shape.
    """
    values = np.array(volume, "float32")
    finite = np.isfinite(values)
    values[~finite] = values[finite].min() if finite.any() else 0.0
    span = float(np.ptp(values))
    if span == 0:
        return np.zeros(values.shape, bool)
    return foreground(values[None], ndim=3, data_range=span)[0]


def as_float32(array):
    """An array as float32, not copied where it is so already.

    Args:
        array: of any shape and dtype.

    Returns:
        float32, of that shape.
    """
    return np.asarray(array).astype("float32", copy=False)


def _named(volumes):
    if not isinstance(volumes, dict):
        volumes = {"": volumes}
    if not volumes:
        raise ValueError("volumes must hold one or more. Received: none")
    return {str(name): np.asarray(volume) for name, volume in volumes.items()}


def _check_shapes(rows, contour):
    shape = rows[0].volume.shape
    arrays = [(row.title, row.volume) for row in rows]
    arrays += [("overlay", row.overlay) for row in rows if row.overlay is not None]
    arrays += [] if contour is None else [("contour", contour)]
    for name, array in arrays:
        if np.shape(array) != shape:
            raise ValueError(
                f"all arrays must be of one shape, {shape}. Received: {name!r} {np.shape(array)}"
            )
    for row in rows:
        if row.overlay is not None and np.any(row.overlay < 0):
            raise ValueError(
                f"overlay scores must not be negative. Received: {np.nanmin(row.overlay)}"
            )


def _checked(volume, affine):
    volume, affine = np.asarray(volume), np.asarray(affine, "float64")
    if volume.ndim != 3 or 0 in volume.shape:
        raise ValueError(f"a volume must be (x, y, z). Received: shape {volume.shape}")
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.det(affine) == 0:
        raise ValueError(
            f"affine must be (4, 4), finite and invertible. Received: {affine.tolist()}"
        )
    return volume, affine


def _voxel(position, affine, shape):
    """The voxel nearest to a position in mm."""
    position = np.asarray(position, "float64")
    if position.shape != (3,) or not np.isfinite(position).all():
        raise UserError(
            f"position: found {position.tolist()}, expected three numbers x, y, z in mm"
        )
    index = np.rint((np.linalg.inv(affine) @ np.append(position, 1.0))[:3]).astype(int)
    if (index < 0).any() or (index >= shape).any():
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
        corners = nib.affines.apply_affine(affine, corners)
        spans = ", ".join(f"{low:.0f} to {high:.0f}" for low, high in _spans(corners))
        raise UserError(
            f"position: found {', '.join(f'{p:g}' for p in position)} mm, which lies outside the "
            f"volume; expected x, y, z within {spans} mm"
        )
    return index


def _spans(corners):
    return zip(corners.min(axis=0), corners.max(axis=0), strict=True)
