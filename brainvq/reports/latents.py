"""Figures of latents and of what stands behind the classes: discriminants, tables, metadata.

Each class has one colour and one mark throughout. Figures follow `brainvq.reports.figures`: every
function writes `path` and returns it, or returns the Figure for None.
"""

import itertools

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from brainvq.reports.drawing import COLOURS, PUBLISHED, new_figure, png_figure

MARKERS = ("o", "^", "s", "D", "v", "P")
COUNTS = ("TP", "FP", "FN", "TN")
_PANELS_A_ROW = 3
_TURNS = 8
_MOST_BARS = 8  # categories shown; the rest are named below
_LONGEST = 16  # letters of a category


@png_figure()
def lda_scatter(
    components,
    labels,
    classes,
    *,
    title="Linear discriminants of unseen scans",
):
    """Test scans on the first discriminant axes of each model, by class.

    With three axes, a row of three panels shows each pair of them; with two, one panel; with one,
    as two classes have, the scans of each class along it.

    Args:
        components: dict of model to `(n, c)`, such as `Discrimination.components`; c is 1 to 3 and
            the same for all. Each model has axes of its own: only within a row can places be
            compared.
        labels: class numbers `(n,)`.
        classes: names of the classes, in order.
        title: figure title.

    Raises:
        ValueError: arrays do not agree, or there is nothing to draw.
    """
    components, labels = _checked_components(components, labels)
    count = next(iter(components.values())).shape[1]
    pairs = list(itertools.combinations(range(count), 2)) or [(0, None)]
    models = len(components)
    across = len(pairs) if count == 3 else min(models, 2 if models == 4 else _PANELS_A_ROW)
    down = models if count == 3 else -(-models // across)
    height = 3.5 if count > 1 else 0.32 * len(classes) + 1.3
    figure = new_figure((max(3.9 * across + 0.4, 6.0), height * down + 0.95))
    axes = figure.subplots(down, across, squeeze=False)
    panels = [(name, pair) for name in components for pair in pairs]
    for ax in axes.ravel()[len(panels) :]:
        ax.remove()
    size = 34 if len(labels) <= 150 else 16
    for ax, (name, (first, second)) in zip(axes.ravel(), panels, strict=False):
        x = components[name][:, first]
        if second is None:
            _strips(ax, x, labels, classes, size)
        else:
            y = components[name][:, second]
            _points(ax, x, y, labels, size)
            ax.set_ylabel(f"discriminant {second + 1}")
            ax.set_aspect("equal", adjustable="datalim")
        ax.set_xlabel(f"discriminant {first + 1}")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.grid()
        ax.set_title(name)
    handles = [
        Line2D([], [], linestyle="none", **_look(i, 7), label=f"{name} ({np.sum(labels == i)})")
        for i, name in enumerate(classes)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(classes), 6))
    figure.suptitle(title, fontweight="bold")
    return figure


@png_figure()
def class_table_figure(table, *, published=None, title="Classes of unseen scans"):
    """Counts, precision and recall of each class, with intervals, beside published figures.

    Args:
        table: `pandas.DataFrame` as `Discrimination.table`: `class`, `TP`, `FP`, `FN`, `TN`,
            `precision`, `recall` and, where known, their `_low` and `_high`.
        published: dict of class to (precision, recall), drawn as hollow diamonds. Default: none.
        title: figure title.

    Raises:
        ValueError: the table is empty or lacks a column.
    """
    missing = {"class", *COUNTS, "precision", "recall"} - set(table.columns)
    if missing or table.empty:
        raise ValueError(
            f"table needs rows and class, counts, precision and recall. Received: {len(table)} "
            f"rows without {sorted(missing)}"
        )
    names = table["class"].astype(str).tolist()
    figure = new_figure((11.6, 0.46 * len(table) + 2.0))
    axes = figure.subplots(1, 3, sharey=True, width_ratios=[1.0, 1.25, 1.25])
    _counts_panel(axes[0], table)
    theirs = {name: (published or {}).get(name, (np.nan, np.nan)) for name in names}
    for j, (ax, measure) in enumerate(zip(axes[1:], ("precision", "recall"), strict=True)):
        _shares_panel(ax, table, measure, [theirs[name][j] for name in names])
    axes[0].set_yticks(np.arange(len(table)), names)
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    handles = [Line2D([], [], color="#4a545e", marker="o", label="here, with interval")]
    if any(np.isfinite(value).any() for value in theirs.values()):
        label = "published, on other data"
        handles.append(Line2D([], [], linestyle="none", **PUBLISHED, label=label))
    figure.legend(handles=handles, loc="outside lower right", ncols=2)
    figure.suptitle(title, fontweight="bold")
    return figure


def _counts_panel(ax, table):
    for j, count in enumerate(COUNTS):
        for i, value in enumerate(table[count]):
            right = count in ("TP", "TN")
            ax.text(j, i, str(int(value)), ha="center", va="center", alpha=1 if right else 0.75)
    ax.set_xlim(-0.6, len(COUNTS) - 0.4)
    ax.set_xticks(range(len(COUNTS)), COUNTS)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("scans" if "subjects" not in table else "subjects")
    for i in range(1, len(table)):
        ax.axhline(i - 0.5, color="#e3e7eb", linewidth=0.8)


def _shares_panel(ax, table, measure, published):
    """Precision or recall of each class, with its interval and what was published."""
    unknown = "never given" if measure == "precision" else "no scans"
    for i, value in enumerate(table[measure].to_numpy("float64")):
        look = _look(i, 8)
        if f"{measure}_low" in table:
            ends = [table[f"{measure}_{end}"].iloc[i] for end in ("low", "high")]
            ax.plot(ends, [i, i], color=look["color"], linewidth=2.2)
        ax.plot(value, i, linestyle="none", **look)
        ax.plot(published[i], i, linestyle="none", **PUBLISHED, markersize=10, zorder=4)
        # Beside the panel, where neither interval nor diamond can cover it.
        text = f"{value:.2f}" if np.isfinite(value) else unknown
        ax.text(1.06, i, text, va="center", fontsize=9)
    ax.set_xlim(-0.03, 1.03)
    ax.set_title(measure)
    ax.set_xlabel(
        "right, of those given the class" if measure == "precision" else "found, of the class"
    )
    ax.grid(axis="x")


@png_figure()
def metadata_figure(
    histograms,
    *,
    tests=None,
    names=None,
    title="Acquisition of each class",
):
    """Histograms of acquisition metadata by class: could the scanner pass for the disease?

    Each class sums to 100 %, however many scans it has, so that shapes can be compared.

    Args:
        histograms: dict of column to `Histogram`, as `evaluation.metadata_histograms` gives it.
        tests: `Audit.tests`: effect and corrected p of each column are then written in its title.
        names: dict of column to a name with its unit, such as `{"te": "echo time (s)"}`.
        title: figure title.

    Raises:
        ValueError: there are no histograms.
    """
    if not histograms:
        raise ValueError("histograms must hold one or more. Received: none")
    across = min(len(histograms), _PANELS_A_ROW)
    down = -(-len(histograms) // across)
    figure = new_figure((max(4.0 * across + 0.3, 6.0), 3.1 * down + 1.1))
    axes = figure.subplots(down, across, squeeze=False)
    for ax in axes.ravel()[len(histograms) :]:
        ax.remove()
    for ax, (column, histogram) in zip(axes.ravel(), histograms.items(), strict=False):
        _histogram_panel(ax, histogram, (names or {}).get(column, column))
        ax.set_title(_tested(column, tests), fontsize=9.5, fontweight="normal")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        ax.grid(axis="y")
    for ax in axes[:, 0]:
        ax.set_ylabel("share of the class")
    first = next(iter(histograms.values()))
    handles = []
    for i, (name, counts) in enumerate(first.counts.items()):
        label = f"{name} ({int(counts.sum() + first.unknown[name])} scans)"
        handles.append(Line2D([], [], linewidth=5, color=_look(i, 7)["color"], label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
    figure.suptitle(title, fontweight="bold")
    return figure


@png_figure()
def age_scatter(table, *, title="Age read from the latents of unseen scans"):
    """Predicted against true age, a mark for each scan.

    Args:
        table: `pandas.DataFrame` of `age` and `predicted`, years, each predicted by a regression
            that never saw the subject.
        title: figure title.

    Raises:
        ValueError: the table is empty.
    """
    if len(table) == 0:
        raise ValueError("table must hold one scan or more. Received: none")
    figure = new_figure((5.6, 5.2))
    ax = figure.subplots()
    size = 34 if len(table) <= 150 else 16
    ends = [table.to_numpy().min() - 3, table.to_numpy().max() + 3]
    ax.plot(ends, ends, color="#8a949e", linewidth=1.2, linestyle="--", label="right")
    ax.scatter(
        table["age"],
        table["predicted"],
        s=size,
        color=COLOURS[0],
        alpha=0.6,
        edgecolors="white",
        linewidths=0.4,
    )
    error = float(np.abs(table["age"] - table["predicted"]).mean())
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("age (years)")
    ax.set_ylabel(f"predicted (years), off by {error:.1f} on average")
    ax.set_xlim(ends)
    ax.set_ylim(ends)
    ax.set_aspect("equal")
    ax.grid()
    ax.legend()
    return figure


def _checked_components(components, labels):
    components = {str(name): np.asarray(x, "float64") for name, x in components.items()}
    labels = np.asarray(labels)
    shapes = {x.shape for x in components.values()}
    if len(shapes) != 1 or len(labels) == 0 or next(iter(shapes))[0] != len(labels):
        raise ValueError(
            "components must be (n, c) for n labels, of one shape for all models. "
            f"Received: {[x.shape for x in components.values()]} for {len(labels)} labels"
        )
    count = next(iter(shapes))[1]
    if not 1 <= count <= 3:
        raise ValueError(f"components must be 1 to 3. Received: {count}")
    return components, labels


def _look(i, size):
    """The colour and mark of class i."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": size,
    }


def _points(ax, x, y, labels, size):
    """Marks by class; the classes take turns, so that the last one does not cover the others."""
    order = np.random.default_rng(0).permutation(len(labels))
    for part in np.array_split(order, min(len(order), _TURNS)):
        for i in np.unique(labels[part]):
            own = part[labels[part] == i]
            ax.scatter(
                x[own],
                y[own],
                s=size,
                color=_look(i, 0)["color"],
                marker=_look(i, 0)["marker"],
                alpha=0.75,
                edgecolors="white",
                linewidths=0.4,
            )


def _strips(ax, x, labels, classes, size):
    """Scans of each class along one axis, a line per class, spread so that none hides another."""
    spread = np.random.default_rng(0).uniform(-0.28, 0.28, len(x))
    _points(ax, x, labels + spread, labels, size)
    for i in np.unique(labels):
        ax.plot([np.median(x[labels == i])] * 2, [i - 0.4, i + 0.4], color="#1d252c", linewidth=1.6)
    ax.set_yticks(range(len(classes)), [str(name) for name in classes])
    ax.set_ylim(len(classes) - 0.5, -0.5)


def _histogram_panel(ax, histogram, label):
    """The shares of each class, and below how many of its scans are unknown."""
    known = {name: counts.sum() for name, counts in histogram.counts.items()}
    shares = {
        name: counts / max(known[name] + histogram.unknown[name], 1)
        for name, counts in histogram.counts.items()
    }
    if histogram.edges is not None:
        _numbers_panel(ax, histogram.edges, shares)
    else:
        _categories_panel(ax, histogram.values, shares)
    notes = [
        f"{name} {100 * n / max(n + known[name], 1):.0f} %"
        for name, n in histogram.unknown.items()
        if n
    ]
    ax.set_xlabel(f"{label}\nunknown: {', '.join(notes)}" if notes else label)


def _numbers_panel(ax, edges, shares):
    for i, share in enumerate(shares.values()):
        colour = _look(i, 0)["color"]
        ax.stairs(share, edges, fill=True, color=colour, alpha=0.18)
        ax.stairs(share, edges, color=colour, linewidth=1.6)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(6))


def _categories_panel(ax, values, shares):
    shown = list(values[:_MOST_BARS])
    width = 0.8 / len(shares)
    place = np.arange(len(shown))
    for i, share in enumerate(shares.values()):
        at = place + (i - (len(shares) - 1) / 2) * width
        ax.bar(at, share[: len(shown)], width=0.92 * width, color=_look(i, 0)["color"])
    labels = [v if len(v) <= _LONGEST else v[: _LONGEST - 1] + "…" for v in map(str, shown)]
    crowded = max(map(len, labels), default=0) * len(labels) > 36
    ax.set_xticks(
        place,
        labels,
        rotation=35 if crowded else 0,
        ha="right" if crowded else "center",
        fontsize=9,
    )
    ax.tick_params(axis="x", length=0)
    if len(values) > len(shown):
        ax.text(
            0.99,
            0.97,
            f"and {len(values) - len(shown)} rarer values",
            transform=ax.transAxes,
            ha="right",
            va="top",
            fontsize=8.5,
        )


def _tested(column, tests):
    """Effect and p of a column, in words."""
    if tests is None:
        return ""
    row = tests[tests["test"] == f"{column} differs"]
    if row.empty:
        return "not tested"
    row = row.iloc[0]
    p = f"p = {row['p_corrected']:.3f}" if row["p_corrected"] >= 0.001 else "p < 0.001"
    verdict = "classes differ" if row["found"] else "no difference shown"
    return f"{verdict}: Cramér's V {row['effect']:.2f}, {p}"
