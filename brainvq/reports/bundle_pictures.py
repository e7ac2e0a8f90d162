"""Pictures of bundles of streamlines, seen from three sides.

Bundles are `(n, points, 3)` with x to the patient's right, y to the front and z to the top (RAS+),
in mm or in units of a model. They are drawn as projections onto the three planes, with the nearest
streamlines on top, and follow the radiological convention of `planes`: the patient's right is at
the left of axial and coronal views, anterior at the left of sagittal ones. So the sagittal view is
from the patient's left, the coronal one from the front and the axial one from below. All panels of
a figure have one scale, and each figure has a bar of that scale.

A streamline has the colour of its direction at each point, as is usual: red to the sides, green to
front and back, blue up and down.

Every function writes `path` and returns it as a `pathlib.Path`; with `None` it returns the
`matplotlib.figure.Figure` instead, for a notebook: see `drawing.png_figure`.
"""

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from brainvq.reports.bundle_plots import bundle_colours
from brainvq.reports.drawing import new_figure, png_figure, without_axes, write_on_picture
from brainvq.reports.planes import LETTERS, mark_edges

# View → (axis to the right of the picture, sign), (axis to the top, sign), (axis that points at the
# viewer, sign).
VIEWS = {
    "sagittal": ((1, -1), (2, 1), (0, -1)),
    "coronal": ((0, -1), (2, 1), (1, 1)),
    "axial": ((0, -1), (1, 1), (2, -1)),
}
FROM = {"sagittal": "from the left", "coronal": "from the front", "axial": "from below"}
_DIRECTIONS = "colour = direction: red left-right, green front-back, blue up-down"
_MARGIN = 0.06  # of the largest side, around the bundles
_MOST_INCHES = 13.0
_LEAST_INCHES = 2.1  # a view, however narrow the bundle
_MOST_COLUMNS = 6
MOST = 400  # streamlines drawn in a panel; more only hide each other


@png_figure(dark=True)
def bundle_views(
    bundles,
    *,
    extent=None,
    scale_mm=None,
    title="Bundles",
    most=MOST,
):
    """Several bundles in one picture, each in a colour of its own, in three views.

    Args:
        bundles: `{name: (n, points, 3)}`.
        extent: `{name: (n, points, 3)}`, bundles whose extent is the picture's, such as the
            originals of decoded ones. Default: `bundles`.
        scale_mm: mm per unit of the coordinates (1 if they are in mm); None for units of a model.
        title: figure title.
        most: streamlines drawn of each bundle, evenly picked.

    Raises:
        ValueError: a bundle is not shaped as described, or none has a streamline.
    """
    bundles = _checked(bundles)
    box = _box((bundles if extent is None else _checked(extent)).values())
    figure, axes, side = _view_axes(box, 1, list(VIEWS), side=1.25)
    lines = np.concatenate([_picked(lines, most) for lines in bundles.values()])
    counts = [len(_picked(lines, most)) for lines in bundles.values()]
    colours = np.repeat([to_rgb(colour) for colour in bundle_colours(bundles)], counts, axis=0)
    for ax, view in zip(axes[0], VIEWS, strict=True):
        _draw(ax, lines, view, box, colours)
        ax.set_title(f"{view}, {FROM[view]}")
    handles = [
        Line2D([], [], color=colour, linewidth=3, label=f"{name} ({len(bundles[name])})")
        for name, colour in zip(bundles, bundle_colours(bundles), strict=True)
    ]
    side.legend(handles=handles, loc="center left", labelcolor="#e8ecef", handlelength=1.2)
    _scale_bar(axes[0, 0], box, scale_mm)
    _words(figure, title, [LETTERS])
    return figure


@png_figure(dark=True)
def bundle_grid(
    bundles,
    *,
    scores=None,
    scale_mm=None,
    title="Original and reconstructions",
    most=MOST,
):
    """A bundle and its reconstructions, a row each, in three views.

    Args:
        bundles: `{row title: (n, points, 3)}`, the original first: its extent is the picture's, so
            that what a model throws out of it is cut off.
        scores: `{row title: BUAN}`, written below the title of the row.
        scale_mm: mm per unit of the coordinates (1 if they are in mm); None for units of a model.
        title: figure title.
        most: streamlines drawn in each row, the same ones where rows are equally many.

    Raises:
        ValueError: a bundle is not shaped as described, or the original has no streamline.
    """
    bundles = _checked(bundles)
    box = _box([next(iter(bundles.values()))])
    figure, axes, _ = _view_axes(box, len(bundles), list(VIEWS))
    for row, (name, lines) in zip(axes, bundles.items(), strict=True):
        for ax, view in zip(row, VIEWS, strict=True):
            _draw(ax, _picked(lines, most), view, box)
        score = (scores or {}).get(name)
        row[0].set_ylabel(name if score is None else f"{name}\nBUAN {score:.3f}", fontsize=10)
    for ax, view in zip(axes[0], VIEWS, strict=True):
        ax.set_title(f"{view}, {FROM[view]}")
    _scale_bar(axes[0, 0], box, scale_mm)
    _words(figure, title, [LETTERS, _DIRECTIONS])
    return figure


@png_figure(dark=True)
def perturbation(
    bundles,
    *,
    original=None,
    scores=None,
    view="coronal",
    scale_mm=None,
    title="Bundles decoded from disturbed latents",
    most=MOST,
):
    """Models by size of noise: what is decoded when noise is added to the latents.

    Args:
        bundles: `{model: {epsilon: (n, points, 3)}}`, the same epsilons for each model.
        original: `(n, points, 3)`: its extent is the picture's. Default: the first model's bundle
            at the least epsilon.
        scores: `{model: {epsilon: BUAN}}`, written into the panels.
        view: "sagittal", "coronal" or "axial".
        scale_mm: mm per unit of the coordinates (1 if they are in mm); None for units of a model.
        title: figure title.
        most: streamlines drawn in each panel.

    Raises:
        ValueError: the models have not the same epsilons, or a bundle is not shaped as described.
    """
    bundles = {model: _checked(row) for model, row in bundles.items()}
    rows = list(bundles.values())
    if not rows or any(list(row) != list(rows[0]) for row in rows):
        raise ValueError(
            "each model needs bundles of the same epsilons. "
            f"Received: { {model: list(row) for model, row in bundles.items()} }"
        )
    first = rows[0][min(rows[0])] if original is None else np.asarray(original)
    box = _box([first])
    figure, axes, _ = _view_axes(box, len(rows), [view] * len(rows[0]))
    for axs, (model, row) in zip(axes, bundles.items(), strict=True):
        for ax, (epsilon, lines) in zip(axs, row.items(), strict=True):
            _draw(ax, _picked(lines, most), view, box)
            score = (scores or {}).get(model, {}).get(epsilon)
            if score is not None:
                write_on_picture(ax, 0.97, 0.96, f"BUAN {score:.2f}", ha="right")
        axs[0].set_ylabel(model, fontsize=10)
    for ax, epsilon in zip(axes[0], rows[0], strict=True):
        ax.set_title("no noise" if epsilon == 0 else f"ε = {epsilon:g}")
    _scale_bar(axes[0, 0], box, scale_mm)
    title = f"{title}\n{view} view, {FROM[view]}"
    _words(figure, title, [LETTERS, _DIRECTIONS])
    return figure


@png_figure(dark=True)
def generated(
    samples,
    real,
    *,
    views=("sagittal", "axial"),
    scale_mm=None,
    title="Generated bundles above real ones",
    most=MOST,
):
    """New bundles above real ones of the same names, a column each, up to six side by side.

    Args:
        samples: `{name: (n, points, 3)}`, sampled from a model.
        real: `{name: (n, points, 3)}` with the same names: the extent of all of them is the
            picture's.
        views: one or more of "sagittal", "coronal" and "axial", two rows each.
        scale_mm: mm per unit of the coordinates (1 if they are in mm); None for units of a model.
        title: figure title.
        most: streamlines drawn in each panel.

    Raises:
        ValueError: the names differ, or a bundle is not shaped as described.
    """
    samples, real = _checked(samples), _checked(real)
    if set(samples) != set(real):
        raise ValueError(f"names must be the same. Received: {list(samples)} and {list(real)}")
    box, names = _box(real.values()), list(samples)
    bands = -(-len(names) // _MOST_COLUMNS)
    across = -(-len(names) // bands)
    bands = [names[start : start + across] for start in range(0, len(names), across)]
    rows = [
        (view, kind, bundles, band)
        for band in bands
        for view in views
        for kind, bundles in (("generated", samples), ("real", real))
    ]
    figure, axes, _ = _view_axes(box, rows, across)
    for i, (view, kind, bundles, band) in enumerate(rows):
        for ax in axes[i, len(band) :]:
            ax.set_visible(False)
        for ax, name in zip(axes[i], band, strict=False):
            _draw(ax, _picked(bundles[name], most), view, box)
            if i % (2 * len(views)) == 0:
                ax.set_title(name)
        axes[i, 0].set_ylabel(f"{kind}\n{view}", fontsize=10)
    _scale_bar(axes[0, 0], box, scale_mm)
    seen = ", ".join(f"{view} {FROM[view]}" for view in views)
    _words(figure, title, [LETTERS, f"{_DIRECTIONS}; {seen}"])
    return figure


def direction_colours(streamlines):
    """The colour of each step of streamlines: |x|, |y| and |z| of its direction, red, green, blue.

    Args:
        streamlines: `(n, points, 3)`.

    Returns:
        float64 `(n, points − 1, 3)` in [0, 1]; a step of no length is black.
    """
    steps = np.abs(np.diff(np.asarray(streamlines, "float64"), axis=1))
    return steps / np.maximum(np.linalg.norm(steps, axis=-1, keepdims=True), 1e-30)


def project(points, view):
    """Points as they are seen in a view.

    Args:
        points: `(..., 3)`, RAS+.
        view: "sagittal", "coronal" or "axial".

    Returns:
        float64 `(..., 3)`: to the right, to the top, and towards the viewer.

    Raises:
        ValueError: the view is another.
    """
    if view not in VIEWS:
        raise ValueError(f"view must be one of {', '.join(VIEWS)}. Received: {view!r}")
    points = np.asarray(points, "float64")
    return np.stack([sign * points[..., axis] for axis, sign in VIEWS[view]], axis=-1)


def _draw(ax, lines, view, box, colours=None):
    """Streamlines in a view, the nearest on top: in one colour each, or by direction."""
    seen = project(lines, view)  # (n, points, 3)
    if colours is None:
        colours = direction_colours(lines)  # (n, points - 1, 3)
        segments = np.stack([seen[:, :-1], seen[:, 1:]], axis=2).reshape(-1, 2, 3)
        colours = colours.reshape(-1, 3)
    else:
        segments = seen
    whole = np.isfinite(segments).all(axis=(1, 2))
    segments, colours = segments[whole], colours[whole]
    order = np.argsort(segments[..., 2].mean(axis=1), kind="stable")
    ax.add_collection(
        LineCollection(
            segments[order, :, :2],
            colors=np.column_stack([colours[order], np.full(len(order), 0.8)]),
            linewidths=0.8,
            capstyle="round",
            rasterized=True,
        )
    )
    low, high = _frame(box, view)
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    ax.set_aspect("equal")
    without_axes(ax)
    mark_edges(ax, view)


def _box(bundles):
    """Lowest and highest corner of the streamlines with a margin, float64 `(2, 3)`."""
    points = np.concatenate([np.asarray(lines, "float64").reshape(-1, 3) for lines in bundles])
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) == 0:
        raise ValueError("there must be a streamline to draw. Received: none")
    box = np.stack([points.min(axis=0), points.max(axis=0)])
    margin = _MARGIN * max(float((box[1] - box[0]).max()), 1e-6)
    return box + [[-margin], [margin]]


def _frame(box, view):
    """Lower left and upper right corner of a view of a box."""
    corners = project(box, view)[:, :2]
    return corners.min(axis=0), corners.max(axis=0)


def _view_axes(box, rows, columns, side=0.0):
    """A figure of panels of one scale.

    Args:
        box: see `_box`.
        rows: how many, with a list of views as columns; or a list of tuples that start with the
            view of their row, with a number of columns.
        columns: see `rows`.
        side: inches of a column on the right, for a legend.

    Returns:
        The figure, its axes `(rows, columns)`, and the axes of the column on the right or None.
    """

    def size(view):
        low, high = _frame(box, view)
        return high - low

    if isinstance(columns, int):
        heights, widths = [size(row[0])[1] for row in rows], [max(size(row[0])[0] for row in rows)]
        widths *= columns
    else:
        widths = [size(view)[0] for view in columns]
        heights = [max(size(view)[1] for view in columns)] * rows
    inches = min(3.6 / max(max(widths), max(heights)), (_MOST_INCHES - side) / sum(widths))
    inches = min(inches, 2 * _MOST_INCHES / sum(heights))
    if not isinstance(columns, int):
        widths = [max(width, _LEAST_INCHES / inches) for width in widths]  # room for the title
    figure = new_figure((inches * sum(widths) + side + 0.6, inches * sum(heights) + 1.2))
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
    ratios = [*widths, side / inches] if side else widths
    grid = figure.add_gridspec(
        len(heights), len(ratios), width_ratios=ratios, height_ratios=heights
    )
    axes = np.array(
        [[figure.add_subplot(grid[i, j]) for j in range(len(widths))] for i in range(len(heights))]
    )
    if not side:
        return figure, axes, None
    beside = figure.add_subplot(grid[:, -1])
    beside.set_axis_off()
    return figure, axes, beside


def _scale_bar(ax, box, scale_mm):
    """A bar of a round length at the lower left of a panel."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    scale = 1.0 if scale_mm is None else float(scale_mm)
    most = 0.3 * (right - left) * scale
    power = 10.0 ** np.floor(np.log10(most))
    length = max(k * power for k in (1, 2, 5) if k * power <= most)
    x, y = left + 0.04 * (right - left), bottom + 0.05 * (top - bottom)
    ax.plot([x, x + length / scale], [y, y], color="white", linewidth=2.5, solid_capstyle="butt")
    unit = "units" if scale_mm is None else "mm"
    ax.text(
        x, y + 0.02 * (top - bottom), f"{length:g} {unit}", color="white", fontsize=9, va="bottom"
    )


def _words(figure, title, notes):
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("\n".join(notes), fontsize=8.5)


def _picked(lines, most):
    """At most so many streamlines, evenly picked in their order."""
    if len(lines) <= most:
        return lines
    return lines[np.linspace(0, len(lines) - 1, most).round().astype(int)]


def _checked(bundles):
    bundles = {name: np.asarray(lines, "float64") for name, lines in bundles.items()}
    for name, lines in bundles.items():
        if lines.ndim != 3 or lines.shape[1] < 2 or lines.shape[-1] != 3:
            raise ValueError(
                "a bundle must be (n, points, 3) with two or more points. "
                f"Received: {name!r} {lines.shape}"
            )
    if not bundles:
        raise ValueError("bundles must be one or more. Received: none")
    return bundles
