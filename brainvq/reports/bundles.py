"""Figures of bundles of streamlines, of their latents, and of what codes of them cost and keep.

Bundles are `(n, points, 3)` with x to the patient's right, y to the front and z to the top (RAS+),
in mm or in units of a model. They are drawn as projections onto the three planes, with the nearest
streamlines on top, and follow the radiological convention of `planes`: the patient's right is at
the left of axial and coronal views, anterior at the left of sagittal ones. So the sagittal view is
from the patient's left, the coronal one from the front and the axial one from below. All panels of
a figure have one scale, and each figure a bar that tells it.

A streamline has the colour of its direction at each point, as is usual: red to the sides, green to
front and back, blue up and down.

Every function writes `path` and returns it as a `pathlib.Path`; with `None` it returns the
`matplotlib.figure.Figure` instead, for a notebook.
"""

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from brainvq.evaluation.bundles import area_under
from brainvq.reports.figures import COLOURS, _finish, _new, _style, _text, _worded
from brainvq.reports.planes import EDGES
from brainvq.reports.som import _embedded

# View → (axis to the right of the picture, sign), (axis to the top, sign), (axis that points at the
# viewer, sign).
VIEWS = {
    "sagittal": ((1, -1), (2, 1), (0, -1)),
    "coronal": ((0, -1), (2, 1), (1, 1)),
    "axial": ((0, -1), (1, 1), (2, -1)),
}
FROM = {"sagittal": "from the left", "coronal": "from the front", "axial": "from below"}
# Left and right of a pair share a hue: the left one is darker.
BUNDLE_COLOURS = {
    "MCP": "#5f6b76",
    "FPT_L": "#1f5fae",
    "FPT_R": "#7fb4ea",
    "ILF_L": "#b34700",
    "ILF_R": "#ffa45c",
    "IFOF_L": "#1c7a3e",
    "IFOF_R": "#7fd197",
    "POPT_L": "#6f3a9c",
    "POPT_R": "#c79be8",
    "PYT_L": "#b0123b",
    "PYT_R": "#f58aa5",
    "CC_Fr_1": "#d0a800",
}
_MORE_COLOURS = ("#111111", "#c2458f", "#2aa5a5", "#7d5a3c", "#9aa5af", "#e0b000")
_MARKERS = {"_L": "<", "_R": ">"}
_LETTERS = "R = patient's right, L = left, A = anterior, P = posterior, S = superior, I = inferior"
_DIRECTIONS = "colour = direction: red left-right, green front-back, blue up-down"
_MARGIN = 0.06  # of the largest side, around the bundles
_MOST_INCHES = 13.0
_LEAST_INCHES = 2.1  # a view, however narrow the bundle
_LEAST_ERROR = 1e-8
_MOST_COLUMNS = 6
MOST = 400  # streamlines drawn in a panel; more only hide each other


@_style(dark=True)
def bundle_views(
    bundles,
    path,
    *,
    extent=None,
    scale_mm=None,
    title="Bundles",
    simulated=False,
    most=MOST,
):
    """Several bundles in one picture, each in a colour of its own, in three views.

    Args:
        bundles: `{name: (n, points, 3)}`.
        path: the PNG to write; None returns the Figure.
        extent: `{name: (n, points, 3)}`, bundles whose extent is the picture's, such as the
            originals of decoded ones. Default: `bundles`.
        scale_mm: mm per unit of the coordinates (1 if they are in mm); None for units of a model.
        title: figure title.
        simulated: True when the bundles are simulated.
        most: streamlines drawn of each bundle, evenly picked.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

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
    _words(figure, title, simulated, [_LETTERS])
    return _finish(figure, path)


@_style(dark=True)
def bundle_grid(
    bundles,
    path,
    *,
    scores=None,
    scale_mm=None,
    title="Original and reconstructions",
    simulated=False,
    most=MOST,
):
    """A bundle and its reconstructions, a row each, in three views.

    Args:
        bundles: `{row title: (n, points, 3)}`, the original first: its extent is the picture's, so
            that what a model throws out of it is cut off.
        path: the PNG to write; None returns the Figure.
        scores: `{row title: BUAN}`, written below the title of the row.
        scale_mm: mm per unit of the coordinates (1 if they are in mm); None for units of a model.
        title: figure title.
        simulated: True when the bundles are simulated.
        most: streamlines drawn in each row, the same ones where rows are equally many.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

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
    _words(figure, title, simulated, [_LETTERS, _DIRECTIONS])
    return _finish(figure, path)


@_style(dark=True)
def perturbation(
    bundles,
    path,
    *,
    original=None,
    scores=None,
    view="coronal",
    scale_mm=None,
    title="Bundles decoded from disturbed latents",
    simulated=False,
    most=MOST,
):
    """Models by size of noise: what is decoded when noise is added to the latents.

    Args:
        bundles: `{model: {epsilon: (n, points, 3)}}`, the same epsilons for each model.
        path: the PNG to write; None returns the Figure.
        original: `(n, points, 3)`: its extent is the picture's. Default: the first model's bundle
            at the least epsilon.
        scores: `{model: {epsilon: BUAN}}`, written into the panels.
        view: "sagittal", "coronal" or "axial".
        scale_mm: mm per unit of the coordinates (1 if they are in mm); None for units of a model.
        title: figure title.
        simulated: True when the bundles are simulated.
        most: streamlines drawn in each panel.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

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
                _text(ax, 0.97, 0.96, f"BUAN {score:.2f}", ha="right")
        axs[0].set_ylabel(model, fontsize=10)
    for ax, epsilon in zip(axes[0], rows[0], strict=True):
        ax.set_title("no noise" if epsilon == 0 else f"ε = {epsilon:g}")
    _scale_bar(axes[0, 0], box, scale_mm)
    title = f"{title}\n{view} view, {FROM[view]}"
    _words(figure, title, simulated, [_LETTERS, _DIRECTIONS])
    return _finish(figure, path)


@_style(dark=True)
def generated(
    made,
    real,
    path,
    *,
    views=("sagittal", "axial"),
    scale_mm=None,
    title="Generated bundles above real ones",
    simulated=False,
    most=MOST,
):
    """New bundles above real ones of the same names, a column each, up to six side by side.

    Args:
        made: `{name: (n, points, 3)}`, sampled from a model.
        real: `{name: (n, points, 3)}` with the same names: the extent of all of them is the
            picture's.
        path: the PNG to write; None returns the Figure.
        views: one or more of "sagittal", "coronal" and "axial", two rows each.
        scale_mm: mm per unit of the coordinates (1 if they are in mm); None for units of a model.
        title: figure title.
        simulated: True when the bundles are simulated.
        most: streamlines drawn in each panel.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the names differ, or a bundle is not shaped as described.
    """
    made, real = _checked(made), _checked(real)
    if set(made) != set(real):
        raise ValueError(f"names must be the same. Received: {list(made)} and {list(real)}")
    box, names = _box(real.values()), list(made)
    bands = -(-len(names) // _MOST_COLUMNS)
    across = -(-len(names) // bands)
    bands = [names[start : start + across] for start in range(0, len(names), across)]
    rows = [
        (view, kind, bundles, band)
        for band in bands
        for view in views
        for kind, bundles in (("generated", made), ("real", real))
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
    _words(figure, title, simulated, [_LETTERS, f"{_DIRECTIONS}; {seen}"])
    return _finish(figure, path)


@_style()
def tsne(
    latents,
    names,
    path,
    *,
    most=1500,
    components=50,
    perplexity=30.0,
    seed=0,
    title="Latents by bundle",
    simulated=False,
):
    """Latents of samples in one plane, by t-SNE (van der Maaten and Hinton 2008): a panel a model.

    Args:
        latents: `{model: (n, ...)}`, one sample a row; flattened.
        names: the bundle of each sample, `(n,)`.
        path: the PNG to write; None returns the Figure.
        most: samples drawn, at random without repetition, the same ones in each panel.
        components: principal components that t-SNE works on.
        perplexity: about how many neighbours a point looks at; fewer where there are few points.
        seed: of the choice of samples and of t-SNE.
        title: figure title.
        simulated: True when the bundles are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: latents and names are not equally many, or not finite.
    """
    names = np.asarray(names).astype(str)
    picked = np.sort(np.random.default_rng(seed).permutation(len(names))[:most])
    found = [name for name in BUNDLE_COLOURS if name in names]
    found += sorted(set(names) - set(found))
    down = 1 if len(latents) < 4 else 2
    across = -(-len(latents) // down)
    figure = _new((max(3.9 * across, 5.4), 3.9 * down + 1.3))
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for ax, (model, values) in zip(axes, latents.items(), strict=False):
        values = np.asarray(values, "float32")
        if len(values) != len(names) or not np.isfinite(values).all():
            raise ValueError(
                "latents must be finite and as many as names. "
                f"Received: {model!r} {values.shape} for {len(names)} names"
            )
        points = _principal(values.reshape(len(values), -1)[picked], components)
        placed = _embedded(points, perplexity, seed)
        for name, colour in zip(found, bundle_colours(found), strict=True):
            own = names[picked] == name
            ax.scatter(
                *placed[own].T,
                s=22,
                marker=_MARKERS.get(name[-2:], "o"),
                color=colour,
                alpha=0.85,
                linewidths=0,
                label=name,
            )
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_aspect("equal", adjustable="datalim")
        ax.spines[["top", "right"]].set_visible(True)
        ax.set_title(model)
    for ax in axes[len(latents) :]:
        ax.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(6, max(2 * across, 4)),
        markerscale=1.4,
    )
    count = str(len(names)) if len(picked) == len(names) else f"{len(picked)} of {len(names)}"
    figure.suptitle(
        f"{_worded(title, simulated)}\nt-SNE of {count} samples: near is alike, far apart says "
        "little",
        fontsize=11,
    )
    return _finish(figure, path)


@_style()
def buan_table_figure(
    tables,
    path,
    *,
    published=None,
    measure="buan",
    title="BUAN of each bundle",
    simulated=False,
):
    """A dot per bundle and model, with the standard deviation over samples.

    Args:
        tables: `{model: table}`, tables of `evaluation.bundle_table`.
        path: the PNG to write; None returns the Figure.
        published: `{model: {bundle: value}}`, drawn as hollow dots. Default: none.
        measure: column of the tables. Default "buan", whose axis is from 0 to 1.
        title: figure title.
        simulated: True when the bundles are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure. The legend has the mean over bundles of each
        model.

    Raises:
        ValueError: there is no table, or one without the measure.
    """
    if not tables or any(measure not in table for table in tables.values()):
        raise ValueError(f"tables must be one or more with {measure!r}. Received: {list(tables)}")
    tables = {model: table.set_index("bundle") for model, table in tables.items()}
    bundles = list(dict.fromkeys(name for table in tables.values() for name in table.index))
    figure = _new((9.2, max(0.1 * len(tables) + 0.12, 0.36) * len(bundles) + 1.4))
    ax = figure.subplots()
    digits = ".4f" if measure.startswith("buan") else ".3g"
    offsets = 0.7 * ((np.arange(len(tables)) + 0.5) / len(tables) - 0.5)
    for i, (model, table) in enumerate(tables.items()):
        colour, table = _colour(i), table.reindex(bundles)
        values = table[measure].to_numpy("float64")
        spread = (
            table.get(f"{measure}_sd", pd.Series(np.nan, bundles)).fillna(0).to_numpy("float64")
        )
        reach = np.stack([spread, spread])
        if measure.startswith("buan"):  # a standard deviation may reach beyond what there can be
            reach = np.stack([np.minimum(spread, values), np.minimum(spread, 1 - values)]).clip(0)
        place = np.arange(len(bundles)) + offsets[i]
        ax.errorbar(
            values,
            place,
            xerr=reach,
            fmt="o",
            color=colour,
            markersize=5,
            elinewidth=1,
            label=f"{model}: {np.nanmean(values):{digits}}",
        )
        theirs = (published or {}).get(model, {})
        known = [k for k, name in enumerate(bundles) if name in theirs]
        if known:
            published_values = [theirs[bundles[k]] for k in known]
            ax.scatter(
                published_values,
                place[known],
                s=34,
                facecolors="none",
                edgecolors=colour,
                linewidths=1.2,
                label=f"{model}, published: {np.mean(published_values):{digits}}",
            )
    for i in range(1, len(bundles)):
        ax.axhline(i - 0.5, color="#e3e7eb", linewidth=0.8)
    ax.set_yticks(range(len(bundles)), bundles)
    ax.set_ylim(len(bundles) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    if measure.startswith("buan"):
        ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel(f"{_label(measure)}, mean ± standard deviation over samples")
    ax.grid(axis="x")
    found = sorted(zip(*ax.get_legend_handles_labels()[::-1], strict=True), key=_order(tables))
    ax.legend(
        [handle for _, handle in found],
        [label for label, _ in found],
        title="mean over bundles",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    ax.set_title(_worded(title, simulated))
    return _finish(figure, path)


@_style()
def robustness_figure(
    curves,
    path,
    *,
    xlabel="ε, noise in standard deviations of each channel of the latents",
    title="Bundles decoded from disturbed latents",
    simulated=False,
):
    """BUAN and squared error against the size of the noise, a line per model.

    Args:
        curves: `{model: table}`, tables of `evaluation.robustness`.
        path: the PNG to write; None returns the Figure.
        xlabel: what ε is.
        title: figure title.
        simulated: True when the bundles are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure. The legend has the area under each curve of BUAN,
        as a share of the panel.

    Raises:
        ValueError: there is no curve.
    """
    if not curves:
        raise ValueError("curves must be one or more. Received: none")
    figure = _new((9.6, 4.6))
    left, right = figure.subplots(1, 2)
    for i, (model, curve) in enumerate(curves.items()):
        x, colour = curve["epsilon"].to_numpy("float64"), _colour(i)
        y, sd = curve["buan"].to_numpy("float64"), curve["buan_sd"].fillna(0).to_numpy("float64")
        label = f"{model}: {area_under(curve):.3f}"
        left.plot(x, y, "o-", color=colour, markersize=4, label=label)
        left.fill_between(x, (y - sd).clip(0), (y + sd).clip(max=1), color=colour, alpha=0.10, lw=0)
        errors = np.where(curve["mse"] > 0, curve["mse"], np.nan)
        right.plot(x, errors, "o-", color=colour, markersize=4)
    left.set_ylim(-0.02, 1.02)
    left.set_ylabel("BUAN")
    left.set_title("BUAN, with standard deviation over samples", fontsize=10)
    right.set_yscale("log")
    # Rounding alone leaves 1e-14: the axis would show little else.
    bottom, top = right.get_ylim()
    middle = np.sqrt(bottom * top)
    # A decade at least, or a flat curve looks like a steep one.
    bottom, top = min(bottom, middle / 10**0.5), max(top, middle * 10**0.5)
    right.set_ylim(max(bottom, _LEAST_ERROR), max(top, 10 * _LEAST_ERROR))
    right.set_ylabel("mean squared error")
    right.set_title("Mean squared error", fontsize=10)
    for ax in (left, right):
        ax.grid(axis="y")
    figure.supxlabel(xlabel, fontsize=10)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside right center", title="area under BUAN"
    )
    figure.suptitle(_worded(title, simulated), fontweight="bold")
    return _finish(figure, path)


@_style()
def rate_distortion_figure(
    table, path, *, title="What a streamline costs and what is kept of it", simulated=False
):
    """Squared error and BUAN against bits per streamline.

    Args:
        table: `pandas.DataFrame` as `evaluation.rate_distortion` gives it: `codec`, `bits`, `mse`,
            `buan`, and optionally `family`: codecs of one family are joined by a line, in the order
            of their bits. Default: each codec is its own.
        path: the PNG to write; None returns the Figure.
        title: figure title.
        simulated: True when the bundles are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure. Codecs without error are left out of the panel of
        errors, as its axis is logarithmic; those that take more than four times the bits of all
        families with several members are told in the legend.

    Raises:
        ValueError: a column is missing, or there is no row.
    """
    missing = {"codec", "bits", "mse", "buan"} - set(table.columns)
    if missing or len(table) == 0:
        raise ValueError(f"table must have rows, and columns {sorted(missing)}. Received: neither")
    family = table["family"] if "family" in table else table["codec"]
    curves = table.loc[family.duplicated(keep=False), "bits"]
    far = table["bits"] > 4 * (curves.max() if len(curves) else np.inf)
    figure = _new((11.0, 4.6))
    left, right = figure.subplots(1, 2)
    for i, (name, rows) in enumerate(table[~far].groupby(family[~far], sort=False)):
        rows = rows.sort_values("bits")
        style = {"color": _colour(i), "marker": "os^DvP"[i % 6], "markersize": 6}
        left.plot(rows["bits"], rows["mse"].where(rows["mse"] > 0), label=name, **style)
        right.plot(rows["bits"], rows["buan"], label=name, **style)
    for _, row in table[far].iterrows():  # files, a hundred times as large
        error = f", error {row['mse']:.0e}" if row["mse"] > 0 else ", no error"
        left.plot([], [], " ", label=f"{row['codec']}:\n{row['bits']:,.0f} bits{error}")
    left.set_yscale("log")
    left.set_ylabel("mean squared error")
    right.set_ylabel("BUAN")
    right.set_ylim(min(0.0, table["buan"].min()) - 0.02, 1.02)
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(axis="both")
    figure.supxlabel("bits per streamline", fontsize=10)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center")
    figure.suptitle(_worded(title, simulated), fontweight="bold")
    return _finish(figure, path)


def bundle_colours(names):
    """A colour for each bundle: left and right of a pair share a hue, the left one is darker.

    Args:
        names: bundles; one that is not among the twelve of the study gets a colour by its place.

    Returns:
        list of colours, in the order of `names`.
    """
    return [BUNDLE_COLOURS.get(name, _colour(i)) for i, name in enumerate(names)]


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
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    left, right, top, bottom = EDGES[view]
    _text(ax, 0.01, 0.5, left, ha="left")
    _text(ax, 0.99, 0.5, right, ha="right")
    _text(ax, 0.5, 0.965, top, ha="center")
    _text(ax, 0.5, 0.035, bottom, ha="center")


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
    figure = _new((inches * sum(widths) + side + 0.6, inches * sum(heights) + 1.2))
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


def _words(figure, title, simulated, notes):
    first, _, rest = title.partition("\n")
    figure.suptitle("\n".join(filter(None, [_worded(first, simulated), rest])), fontsize=11)
    figure.supxlabel("\n".join(notes), fontsize=8.5)


def _picked(lines, most):
    """At most so many streamlines, evenly picked in their order."""
    if len(lines) <= most:
        return lines
    return lines[np.linspace(0, len(lines) - 1, most).round().astype(int)]


def _checked(bundles):
    found = {name: np.asarray(lines, "float64") for name, lines in bundles.items()}
    for name, lines in found.items():
        if lines.ndim != 3 or lines.shape[1] < 2 or lines.shape[-1] != 3:
            raise ValueError(
                "a bundle must be (n, points, 3) with two or more points. "
                f"Received: {name!r} {lines.shape}"
            )
    if not found:
        raise ValueError("bundles must be one or more. Received: none")
    return found


def _principal(values, count):
    """Scores on the first principal components, `(n, ≤ count)`."""
    centred = values - values.mean(axis=0)
    # Through the smaller of both products: latents may have ten thousand numbers.
    if len(centred) < centred.shape[1]:
        spread, left = np.linalg.eigh(centred @ centred.T)
        order = np.argsort(spread)[::-1][:count]
        return left[:, order] * np.sqrt(np.maximum(spread[order], 0))
    spread, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, np.argsort(spread)[::-1][:count]]


def _order(models):
    """Key that sorts (label, handle) pairs by model: Matplotlib puts dots before error bars."""
    places = [(model, i) for i, model in enumerate(models)]

    def key(pair):
        label = pair[0]
        place = next(i for model, i in places if label.startswith((f"{model}: ", f"{model}, pub")))
        return place, ", published: " in label

    return key


def _colour(i):
    colours = (*COLOURS, *_MORE_COLOURS)
    return colours[i % len(colours)]


def _label(measure):
    names = {
        "buan": "BUAN",
        "buan_mm": "BUAN, 6 mm",
        "mse": "mean squared error",
        "distance": "mean distance of points (units)",
        "closest": "distance to the closest point (units)",
        "distance_mm": "mean distance of points (mm)",
        "closest_mm": "distance to the closest point (mm)",
    }
    return names.get(measure, measure)
