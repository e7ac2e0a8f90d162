"""Plots of bundles of streamlines: their latents, and what codes of them cost and what they keep.

Every function writes `path` and returns it as a `pathlib.Path`; with `None` it returns the
`matplotlib.figure.Figure` instead, for a notebook: see `drawing.png_figure`.
"""

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, NullFormatter
from sklearn.decomposition import PCA

from brainvq.evaluation.bundles import area_under
from brainvq.reports.drawing import COLOURS, new_figure, png_figure
from brainvq.reports.embedding import tsne_axes, tsne_places

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
_LEAST_ERROR = 1e-8
_BESIDE = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}  # a legend's place by the panel
_MEASURES = {
    "buan": "BUAN",
    "buan_mm": "BUAN, 6 mm",
    "mse": "mean squared error",
    "distance": "mean distance of points (units)",
    "closest": "distance to the closest point (units)",
    "distance_mm": "mean distance of points (mm)",
    "closest_mm": "distance to the closest point (mm)",
}


@png_figure()
def tsne(
    latents,
    names,
    *,
    most=1500,
    components=50,
    perplexity=30.0,
    seed=0,
    title="Latents by bundle",
):
    """Latents of samples in one plane, by t-SNE (van der Maaten and Hinton 2008): a panel a model.

    Args:
        latents: `{model: (n, ...)}`, one sample a row; flattened.
        names: the bundle of each sample, `(n,)`.
        most: samples drawn, at random without repetition, the same ones in each panel.
        components: principal components that t-SNE works on.
        perplexity: about how many neighbours a point looks at; fewer where there are few points.
        seed: of the choice of samples and of t-SNE.
        title: figure title.

    Raises:
        ValueError: latents and names are not equally many, or not finite.
    """
    names = np.asarray(names).astype(str)
    picked = np.sort(np.random.default_rng(seed).permutation(len(names))[:most])
    bundles = [name for name in BUNDLE_COLOURS if name in names]
    bundles += sorted(set(names) - set(bundles))
    down = 1 if len(latents) < 4 else 2
    across = -(-len(latents) // down)
    figure = new_figure((max(3.9 * across, 5.4), 3.9 * down + 1.3))
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for ax, (model, values) in zip(axes, latents.items(), strict=False):
        values = np.asarray(values, "float32")
        if len(values) != len(names) or not np.isfinite(values).all():
            raise ValueError(
                "latents must be finite and as many as names. "
                f"Received: {model!r} {values.shape} for {len(names)} names"
            )
        rows = values.reshape(len(values), -1)[picked]
        points = PCA(min(components, *rows.shape), random_state=0).fit_transform(rows)
        _bundle_dots(ax, tsne_places(points, perplexity, seed), names[picked], bundles)
        ax.set_title(model)
    for ax in axes[len(latents) :]:
        ax.set_visible(False)
    ncols = min(6, max(2 * across, 4))
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=ncols, markerscale=1.4)
    count = str(len(names)) if len(picked) == len(names) else f"{len(picked)} of {len(names)}"
    note = f"t-SNE of {count} samples: near is alike, far apart says little"
    figure.suptitle(f"{title}\n{note}", fontsize=11)
    return figure


def _bundle_dots(ax, places, names, bundles):
    for bundle, colour in zip(bundles, bundle_colours(bundles), strict=True):
        ax.scatter(
            *places[names == bundle].T,
            s=22,
            marker=_MARKERS.get(bundle[-2:], "o"),
            color=colour,
            alpha=0.85,
            linewidths=0,
            label=bundle,
        )
    tsne_axes(ax)


@png_figure()
def buan_table_figure(
    tables,
    *,
    published=None,
    measure="buan",
    title="BUAN of each bundle",
):
    """A dot per bundle and model, with the standard deviation over samples.

    Args:
        tables: `{model: table}`, tables of `evaluation.bundle_table`.
        published: `{model: {bundle: value}}`, drawn as hollow dots. Default: none.
        measure: column of the tables. Default "buan", whose axis is from 0 to 1.
        title: figure title.

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
    figure = new_figure((9.2, max(0.1 * len(tables) + 0.12, 0.36) * len(bundles) + 1.4))
    ax = figure.subplots()
    digits = ".4f" if measure.startswith("buan") else ".3g"
    offsets = 0.7 * ((np.arange(len(tables)) + 0.5) / len(tables) - 0.5)
    for i, (model, table) in enumerate(tables.items()):
        place = np.arange(len(bundles)) + offsets[i]
        values, reach = _with_reach(table.reindex(bundles), measure)
        ax.errorbar(
            values,
            place,
            xerr=reach,
            fmt="o",
            color=model_colour(i),
            markersize=5,
            elinewidth=1,
            label=f"{model}: {np.nanmean(values):{digits}}",
        )
        theirs = (published or {}).get(model, {})
        known = [k for k, name in enumerate(bundles) if name in theirs]
        if known:
            values = [theirs[bundles[k]] for k in known]
            label = f"{model}, published: {np.mean(values):{digits}}"
            hollow = {"facecolors": "none", "edgecolors": model_colour(i), "linewidths": 1.2}
            ax.scatter(values, place[known], s=34, label=label, **hollow)
    _bundle_rows(ax, bundles)
    if measure.startswith("buan"):
        ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel(f"{_MEASURES.get(measure, measure)}, mean ± standard deviation over samples")
    pairs = sorted(zip(*ax.get_legend_handles_labels()[::-1], strict=True), key=_order(tables))
    labels, handles = zip(*pairs, strict=True)
    ax.legend(handles, labels, title="mean over bundles", **_BESIDE)
    ax.set_title(title)
    return figure


def _with_reach(table, measure):
    """A measure of each bundle, and how far its error bar reaches down and up `(2, n)`."""
    values = table[measure].to_numpy("float64")
    sd = table.get(f"{measure}_sd", pd.Series(np.nan, table.index)).fillna(0).to_numpy("float64")
    if not measure.startswith("buan"):
        return values, np.stack([sd, sd])
    # BUAN ends at 0 and 1; a standard deviation may reach beyond.
    return values, np.stack([np.minimum(sd, values), np.minimum(sd, 1 - values)]).clip(0)


def _bundle_rows(ax, bundles):
    for i in range(1, len(bundles)):
        ax.axhline(i - 0.5, color="#e3e7eb", linewidth=0.8)
    ax.set_yticks(range(len(bundles)), bundles)
    ax.set_ylim(len(bundles) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")


@png_figure()
def robustness_figure(
    curves,
    *,
    xlabel="ε, noise in standard deviations of each channel of the latents",
    title="Bundles decoded from disturbed latents",
):
    """BUAN and squared error against the size of the noise, a line per model.

    Args:
        curves: `{model: table}`, tables of `evaluation.robustness`.
        xlabel: what ε is.
        title: figure title.

    Returns:
        `pathlib.Path` of the PNG, or the Figure. The legend has the area under each curve of BUAN,
        as a share of the panel.

    Raises:
        ValueError: there is no curve.
    """
    if not curves:
        raise ValueError("curves must be one or more. Received: none")
    figure = new_figure((9.6, 4.6))
    left, right = figure.subplots(1, 2)
    for i, (model, curve) in enumerate(curves.items()):
        x, colour = curve["epsilon"].to_numpy("float64"), model_colour(i)
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
    figure.suptitle(title, fontweight="bold")
    return figure


@png_figure()
def rate_distortion_figure(table, *, title="What a streamline costs and what is kept of it"):
    """Squared error and BUAN against bits per streamline.

    Args:
        table: `pandas.DataFrame` as `evaluation.rate_distortion` gives it: `codec`, `bits`, `mse`,
            `buan`, and optionally `family`: codecs of one family are joined by a line, in the order
            of their bits. Default: each codec is its own.
        title: figure title.

    Returns:
        `pathlib.Path` of the PNG, or the Figure. Codecs without error are left out of the panel of
        errors, as its axis is logarithmic; those that take more than four times the bits of all
        families with several members are named in the legend.

    Raises:
        ValueError: a column is missing, or there is no row.
    """
    missing = {"codec", "bits", "mse", "buan"} - set(table.columns)
    if missing or len(table) == 0:
        raise ValueError(f"table must have rows, and columns {sorted(missing)}. Received: neither")
    family = table["family"] if "family" in table else table["codec"]
    curves = table.loc[family.duplicated(keep=False), "bits"]
    far = table["bits"] > 4 * (curves.max() if len(curves) else np.inf)
    figure = new_figure((11.0, 4.6))
    left, right = figure.subplots(1, 2)
    for i, (name, rows) in enumerate(table[~far].groupby(family[~far], sort=False)):
        rows = rows.sort_values("bits")
        style = {"color": model_colour(i), "marker": "os^DvP"[i % 6], "markersize": 6}
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
    figure.suptitle(title, fontweight="bold")
    return figure


def bundle_colours(names):
    """A colour for each bundle: left and right of a pair share a hue, the left one is darker.

    Args:
        names: bundles; one that is not among the twelve of the study gets a colour by its place.

    Returns:
        list of colours, in the order of `names`.
    """
    return [BUNDLE_COLOURS.get(name, model_colour(i)) for i, name in enumerate(names)]


def model_colour(i):
    """The colour of the i-th of several models or codecs.

    Args:
        i: int ≥ 0.

    Returns:
        str, a colour of Matplotlib.
    """
    colours = (*COLOURS, *_MORE_COLOURS)
    return colours[i % len(colours)]


def _order(models):
    """Key that sorts (label, handle) pairs by model: Matplotlib puts dots before error bars."""
    places = [(model, i) for i, model in enumerate(models)]

    def key(pair):
        label = pair[0]
        place = next(i for model, i in places if label.startswith((f"{model}: ", f"{model}, pub")))
        return place, ", published: " in label

    return key
