"""The figures and the report of anomaly detection."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter

from brainvq.reports.drawing import (
    COLOURS,
    as_pictures,
    mark_sides,
    new_figure,
    picture_axes,
    png_figure,
    show_picture,
    title_with_plane,
)
from brainvq.reports.html import Report, Section
from brainvq.reports.planes import three_planes

WORST = 12  # scans whose pictures the report shows
LESION = "#4fe3d2"  # outline of what an expert or the simulation marked
NAMES = {
    "intensity": "percentile threshold (baseline)",
    "depth": "intensity by depth (no network)",
    "pixel": "pixel error",
    "ssim": "SSIM error",
    "surprise": "surprise of the codes",
    "restoration": "restoration",
    "combined": "combined",
}
MEANING = {
    "intensity": "Rank of the intensity within the brain: no model of healthy brains at all.",
    "depth": "Intensity, less what is usual towards the rim of the brain: no network either.",
    "pixel": "Difference between the slice and its reconstruction from codes.",
    "ssim": "One minus the local structural similarity of slice and reconstruction.",
    "surprise": "Bits of each code, −log2 p, under the prior over healthy codes.",
    "restoration": "Difference between the slice and versions of it in which improbable codes were "
    "drawn anew from the prior.",
    "combined": "Mean of the ranks of several of these within the brain.",
}
_SCORES = {
    "by depth": ("depth", "spreads"),
    "error": ("pixel", "error"),
    "surprise": ("surprise", "bits a code"),
    "restoration": ("restoration", "score"),
}


def slices_to_show(mask=None, score=None, count=4, gap=4):
    """Which slices of a stack to draw: those with most lesion, else with the highest scores.

    Args:
        mask: bool `(n, rows, cols)`, the lesions, or None.
        score: `(n, rows, cols)`, taken where there is no mask or no lesion in it.
        count: how many at most.
        gap: least distance between two of them, in slices, where the stack is deep enough for it.

    Returns:
        list of int, ascending.

    Raises:
        ValueError: there is neither a mask with lesions nor a score.
    """
    weight = np.zeros(0)
    if mask is not None and np.any(mask):
        weight = np.asarray(mask).sum(axis=(1, 2)).astype("float64")
    elif score is not None:
        # A slice counts for its highest hundredth, not for its mean: an anomaly is small.
        flat = np.asarray(score, "float64").reshape(len(score), -1)
        weight = np.sort(flat, axis=1)[:, -max(1, flat.shape[1] // 100) :].mean(axis=1)
    if len(weight) == 0:
        raise ValueError("slices_to_show needs a mask with lesions or a score. Received: neither")
    count = min(count, len(weight))
    gap = max(1, min(gap, len(weight) // count))
    weight = weight.copy()
    chosen = []
    while len(chosen) < count and np.isfinite(weight).any():
        best = int(np.argmax(weight))
        chosen.append(best)
        weight[max(0, best - gap + 1) : best + gap] = -np.inf
    return sorted(chosen)


@png_figure(dark=True)
def anomaly_grid(
    slices,
    evidence,
    scores,
    *,
    mask=None,
    show=None,
    titles=None,
    title="Anomalies",
    plane="axial",
    spacing=(1.0, 1.0),
):
    """A row per slice: input, reconstruction, error, surprise, restored, its score, lesions.

    Columns whose arrays are absent (no prior, no mask) are left out. All pictures of a kind share
    one scale.

    Args:
        slices: `(n, rows, cols[, 1])`, ready to show.
        evidence: dict with `reconstruction` and perhaps `restored`, each `(n, rows, cols)`.
        scores: dict of score maps, see `evaluation.anomaly.score_maps`: of these `pixel`,
            `surprise` and `restoration` are drawn.
        mask: bool `(n, rows, cols)`, the lesions: outlined on the input in a last column.
        show: numbers of the slices. Default: `slices_to_show`.
        titles: a label for each of the shown slices. Default: "slice k".
        title: figure title, such as the scan's name.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).

    Raises:
        ValueError: the shapes do not agree.
    """
    slices = as_pictures(slices)
    columns = _grid_columns(slices, evidence, scores, mask)
    if show is None:
        show = slices_to_show(mask, scores.get("combined", scores["pixel"]))
    white = max(float(np.percentile(slices[show], 99.9)), 1e-6)
    figure, axes = picture_axes(slices.shape, spacing, len(show), len(columns), bar=False)
    # Room for the colour bars, which lie below the last row.
    figure.set_size_inches(figure.get_size_inches() + [0, 0.75])
    for column, (name, values, kind) in zip(axes.T, columns, strict=True):
        scale, cmap, label = (0, white), "gray", "intensity"
        if kind != "grey":
            scale, cmap = (0, max(float(np.percentile(values[show], 99.8)), 1e-6)), "inferno"
            label = _SCORES[kind][1]
        for ax, k in zip(column, show, strict=True):
            image = show_picture(ax, values[k], spacing, scale, cmap=cmap)
            mark_sides(ax, plane)
            if name == "lesions" and mask[k].any():
                ax.contour(mask[k], [0.5], colors=LESION, linewidths=0.9)
        column[0].set_title(name if name != "restoration" else "restoration score", fontsize=10)
        _bar_below(figure, column, image, label)
    for i, k in enumerate(show):
        axes[i, 0].set_ylabel(f"slice {k}" if titles is None else str(titles[i]), fontsize=9)
    title_with_plane(figure, title, plane)
    return figure


def _grid_columns(slices, evidence, scores, mask):
    """The columns of a grid: (name, `(n, rows, cols)`, "grey" or the name of a score)."""
    columns = [("input", slices, "grey"), ("reconstruction", evidence["reconstruction"], "grey")]
    columns += [(n, scores[s], n) for n, (s, _) in _SCORES.items() if s in scores]
    if "restored" in evidence:
        columns.insert(-1, ("restored", evidence["restored"], "grey"))
    if mask is not None:
        columns.append(("lesions", slices, "grey"))
    columns = [(name, as_pictures(values), kind) for name, values, kind in columns]
    for name, values, _ in columns:
        if values.shape != slices.shape:
            raise ValueError(f"{name} must have shape {slices.shape}. Received: {values.shape}")
    return columns


def _bar_below(figure, column, image, label):
    place = {"location": "bottom", "fraction": 0.03, "pad": 0.01, "aspect": 12}
    bar = figure.colorbar(image, ax=column.tolist(), extend="max", **place)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=8)


def anomaly_planes(
    volume,
    scores,
    affine,
    path,
    *,
    mask=None,
    position=None,
    title="Anomaly scores",
    simulated=False,
):
    """A scan in three planes with its scores laid over it, a row per score.

    Every voxel has some score; what is drawn is how far it lies above the 75th percentile of the
    positive scores, so that the highest stand out.

    Args:
        volume: `(x, y, z)`, the scan on its grid.
        scores: dict of method to `(x, y, z)` on that grid, 0 or more; each on its own scale.
        affine: `(4, 4)`, voxel index to mm.
        path: the PNG to write; None returns the Figure.
        mask: bool `(x, y, z)`, the lesions, outlined.
        position: (x, y, z) in mm that the planes go through. Default: the middle of the largest
            lesion, or without a mask the voxel with the highest score of the last method.
        title: figure title.
        simulated: True when the brains are simulated; the title then says so.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the shapes do not agree.
    """
    volume, affine = np.asarray(volume), np.asarray(affine)
    if position is None:
        last = np.asarray(list(scores.values())[-1])
        index = _deepest(mask) if mask is not None and np.any(mask) else last.argmax()
        position = affine[:3, :3] @ np.unravel_index(index, last.shape) + affine[:3, 3]
    rows = {NAMES.get(name, name): _standing_out(score) for name, score in scores.items()}
    return three_planes(
        {"input": volume, **dict.fromkeys(rows, volume)},
        affine,
        path,
        overlay=rows,
        overlay_label=dict.fromkeys(rows, "above percentile 75"),
        position=position,
        contour=None if mask is None else np.asarray(mask, bool),
        contour_label="outline: lesions as marked",
        title=title,
        simulated=simulated,
    )


@png_figure()
def roc_and_precision_recall(curves, pooled, *, title="All voxels of all subjects"):
    """ROC and precision-recall curves of each method over the pooled voxels.

    Args:
        curves: dict of method to the curves of `LesionScores.curves`.
        pooled: `LesionScores.pooled()`: areas for the legends, prevalence for the line of chance.
        title: figure title.
    """
    table = pooled.set_index("method")
    figure = new_figure((11.6, 4.9))
    left, right = figure.subplots(1, 2)
    for i, (name, curve) in enumerate(curves.items()):
        line = _line(name, i)
        label = NAMES.get(name, name)
        left.plot(
            np.append(0, curve["false_positive_rate"]),
            np.append(0, curve["recall"]),
            label=f"{label}: {table.loc[name, 'auroc']:.3f}",
            **line,
        )
        # Before the first lesion voxel is found there is no precision to speak of.
        some = curve["recall"] > 1e-3
        right.plot(
            curve["recall"][some],
            curve["precision"][some],
            label=f"{label}: {table.loc[name, 'average_precision']:.4f}",
            **line,
        )
    chance = float(table["prevalence"].iloc[0])
    left.plot([0, 1], [0, 1], color="#9aa6b1", linestyle=":", linewidth=1, label="chance: 0.5")
    right.axhline(
        chance, color="#9aa6b1", linestyle=":", linewidth=1, label=f"chance: {chance:.4f}"
    )
    left.set(xlabel="false alarms among healthy voxels", ylabel="lesion voxels found")
    right.set(xlabel="lesion voxels found", ylabel="precision: lesion among flagged voxels")
    left.set_title("ROC, area under the curve")
    right.set_title("Precision and recall, average precision")
    left.set_aspect("equal")
    # Lesions are rare, so precision spans powers of ten.
    right.set_yscale("log")
    right.set_ylim(max(chance / 3, 1e-5), 1.05)
    for ax in (left, right):
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.grid()
        ax.legend(fontsize=8)
    left.set_ylim(0, 1.01)
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.suptitle(title, fontweight="bold")
    return figure


@png_figure()
def score_bars(
    table,
    *,
    measure="average_precision",
    title="Average precision of each subject",
):
    """A group of bars per subject, one bar per method; subjects ordered by lesion volume.

    Args:
        table: `LesionScores.table()`; subjects without lesions are left out.
        measure: a column of the table.
        title: figure title.

    Raises:
        ValueError: no subject has lesions.
    """
    table = table.dropna(subset=[measure])
    if table.empty:
        raise ValueError(f"table has no subject with {measure}. Received: an empty table")
    wide = table.pivot(index="subject", columns="method", values=measure)
    facts = table.drop_duplicates("subject").set_index("subject").loc[wide.index]
    facts = facts.sort_values("lesion_ml")
    wide = wide.loc[facts.index, list(dict.fromkeys(table["method"]))]
    figure = new_figure((min(14.0, 2.6 + 1.15 * len(wide)), 4.4))
    ax = figure.subplots()
    place, width = np.arange(len(wide)), 0.84 / wide.shape[1]
    for i, name in enumerate(wide):
        ax.bar(
            place + (i - (wide.shape[1] - 1) / 2) * width,
            wide[name],
            width * 0.94,
            color=_line(name, i)["color"],
            label=NAMES.get(name, name),
        )
    if measure == "average_precision":
        chance = facts["prevalence"].to_numpy()
        look = {"color": "#1d252c", "linewidth": 1.2, "linestyle": "--"}
        label = "chance: share of lesion voxels"
        ax.hlines(chance, place - 0.44, place + 0.44, label=label, **look)
    names = [
        f"{subject}\n{ml:.1f} mL" if np.isfinite(ml) else str(subject)
        for subject, ml in facts["lesion_ml"].items()
    ]
    ax.set_xticks(place, names, fontsize=8, rotation=0 if len(wide) <= 12 else 90)
    ax.set_xlabel("subject and its lesion volume")
    ax.set_ylabel(measure.replace("_", " "))
    ax.grid(axis="y")
    ax.legend(fontsize=8, ncols=2, loc="upper left")
    ax.set_ylim(0, 1.35 * float(wide.max().max()) or 1)
    ax.set_title(title)
    return figure


def anomaly_report(
    scores,
    figures,
    *,
    about="",
    settings=None,
    modality="",
    direction="both",
    calibrated=False,
    simulated=False,
    simulated_training=False,
    notes=(),
    footer="",
):
    """The page on anomaly detection.

    Args:
        scores: `evaluation.anomaly.LesionScores` with every subject added, or None where no lesion
            mask is known: the page then shows pictures only.
        figures: dict with any of `curves` and `bars`, paths of the figures of
            `roc_and_precision_recall` and `score_bars`, and `scans`, a list of `(scan, how high
            its score rises, [(path, caption), ...])`: the `WORST` are shown, the others linked.
        about: one line: model and data.
        settings: dict of option to value, shown as a table.
        modality: "T1w", "FLAIR" or "".
        direction: what was looked for: "both", "bright" or "dark".
        calibrated: whether the common thresholds were found on other, healthy subjects.
        simulated: True when the scans are simulated.
        simulated_training: True when the model learned from simulated brains.
        notes: further lines shown at the top, such as scans that were left out.
        footer: program and versions.

    Returns:
        A `Report` for `write_report`.
    """
    warnings = ["A research tool: no score here is a finding about a person."]
    if simulated:
        warnings.append(
            "These brains and their lesions are simulated: nothing here holds for patients."
        )
    if simulated_training and not simulated:
        warnings.append("The model learned from simulated brains.")
    sections, cards = [], []
    if scores is not None:
        pooled, summary = scores.pooled(), scores.summary()
        cards = _cards(summary, pooled)
        sections += [_detection(scores, summary, pooled, figures, modality, direction, calibrated)]
    sections.append(_scans(figures))
    sections.append(_meaning(scores, direction))
    if settings:
        rows = [{"option": str(key), "value": str(value)} for key, value in settings.items()]
        sections.append(Section("Settings", tables=[("Options", pd.DataFrame(rows))]))
    return Report(
        title="Anomaly detection",
        subtitle=about,
        cards=cards,
        warnings=[*warnings, *notes],
        sections=sections,
        footer=footer,
    )


def _cards(summary, pooled):
    cards = []
    if not pooled.empty:
        cards.append(("Lesion voxels", f"{100 * pooled['prevalence'].iloc[0]:.2f} %", "of all"))
    own = summary.dropna(subset=["average_precision"])
    if own.empty:
        return cards
    networks = own[own["method"] != "intensity"]
    shown = [(row, "") for row in own[own["method"] == "intensity"].itertuples()]
    if not networks.empty:
        best = networks.loc[networks["average_precision"].idxmax()]
        shown.append((best, "the best of the others"))
    for row, note in shown:
        spread = f"±{row.average_precision_sd:.3f} " if row.n > 1 else ""
        label = f"Average precision, {NAMES.get(row.method, row.method)}"
        text = f"{spread}over {row.n} subject{'' if row.n == 1 else 's'}"
        cards.append((label, f"{row.average_precision:.3f}", f"{text}; {note}".rstrip("; ")))
    return cards


def _detection(scores, summary, pooled, figures, modality, direction, calibrated):
    text = (
        "Average precision is the mean of precision over all lesion voxels; blind guessing reaches "
        "the share of lesion voxels, its chance. It ranks methods better than the area under the "
        "ROC curve, which healthy voxels dominate.\n\n"
        "Best Dice takes the threshold that suits the masks best, of each subject or of all, and "
        "so is more than a user could reach, who has no masks. Dice takes one threshold for all "
        "subjects, "
    )
    text += (
        "found on other, healthy subjects."
        if calibrated
        else "but that with the best pooled Dice, which is still optimistic."
    )
    if direction == "bright":
        text += " That of the intensity by depth is the one in Settings, by which maps are marked."
    text += (
        "\n\nPooled measures count the voxels of all subjects together, those of subjects without "
        "lesions too, so that one method must have scores of one meaning in everyone. The columns "
        "“within” say how far they can be from the exact values, since scores are counted in bins."
    )
    if modality.upper().startswith("FLAIR"):
        text += (
            "\n\nOn FLAIR lesions are bright. The percentile threshold needs nothing but that, and "
            "beat most published networks (Meissen et al. 2021); a network earns its place only "
            "where it is above that line. On real FLAIR of 16 people of 69 to 90 years none of "
            "ours was: average precision 0.79 for the intensity by depth, 0.74 for the percentile "
            "threshold, 0.47 for what combines intensity and model (four people). So the intensity "
            "by depth leads: scans are ordered and marked by it, and the model's maps stand beside."
        )
    tables = [("Mean over subjects with lesions; in brackets the 95 % interval", _wide(summary))]
    if summary["n"].max() > 0 and "intensity" in scores.methods and len(scores.methods) > 1:
        against = scores.against("intensity")
        tables.append(
            (
                "Above the percentile threshold: mean difference, in brackets its 95 % interval; "
                "better: subjects whose average precision is higher",
                _wide(against, keep=("better",)),
            )
        )
    tables.append(("Pooled over the voxels of all subjects", _named(pooled)))
    tables.append(("Each subject", _named(scores.table())))
    captions = {
        "curves": "Pooled over all voxels. Precision on a logarithmic scale.",
        "bars": "Average precision of each subject, ordered by lesion volume.",
    }
    shown = [(figures[name], text) for name, text in captions.items() if name in figures]
    return Section("How well lesions are found", text, tables=tables, figures=shown)


def _scans(figures):
    if not figures.get("scans"):
        return None
    text = (
        "Each picture has one scale for each kind of map. Scores are high at borders of tissues in "
        "healthy brains too: the model's detail is finite."
    )
    ranked = sorted(figures["scans"], key=lambda scan: -scan[1])
    if len(ranked) > WORST:
        text += (
            f"\n\nHere are the {WORST} scans of {len(ranked)} whose highest scores (the 99th "
            "percentile over the brain) are highest; links lead to the pictures of the others, in "
            "the same order."
        )
    shown = [picture for _, _, pictures in ranked[:WORST] for picture in pictures]
    others = [
        (Path(path).name, caption.rstrip("."))
        for _, _, pictures in ranked[WORST:]
        for path, caption in pictures
    ]
    return Section("Scans", text, figures=shown, links=others)


def _meaning(scores, direction):
    names = list(MEANING) if scores is None else [n for n in scores.methods if n in MEANING]
    words = {
        "both": "Both brighter and darker places than expected count.",
        "bright": "Only places brighter than expected count, for intensity and differences.",
        "dark": "Only places darker than expected count, for intensity and differences.",
    }
    table = pd.DataFrame(
        [{"score": NAMES[name], "what it is": MEANING[name]} for name in names],
        columns=["score", "what it is"],
    )
    text = (
        f"{words[direction]} An anomaly is what the training brains did not show: another scanner, "
        "an artefact or an unusual but healthy brain scores high as well."
    )
    return Section("What the scores mean", text, tables=[("Scores", table)])


def _wide(table, keep=()):
    """Mean and interval of each measure in one cell, a row per method."""
    rows = []
    for row in table.to_dict("records"):
        cells = {"method": NAMES.get(row["method"], row["method"]), "subjects": row["n"]}
        for measure in ("auroc", "average_precision", "best_dice", "dice"):
            text = f"{row[measure]:.3f}" if np.isfinite(row[measure]) else "–"
            if np.isfinite(row[f"{measure}_low"]):
                text += f" ({row[f'{measure}_low']:.3f} to {row[f'{measure}_high']:.3f})"
            cells[measure.replace("_", " ")] = text.replace("-", "−")
        rows.append(cells | {name: row[name] for name in keep})
    return pd.DataFrame(rows)


def _named(table):
    table = table.assign(method=[NAMES.get(name, name) for name in table["method"]])
    return table.rename(columns=lambda name: name.replace("_", " "))


def _line(name, i):
    """Colour of a method, the same in every figure; the baseline is grey and dashed."""
    if name == "intensity":
        return {"color": "#5f6b76", "linestyle": "--"}
    known = [method for method in NAMES if method != "intensity"]
    index = known.index(name) if name in known else i + len(known)
    return {"color": COLOURS[index % len(COLOURS)]}


def _standing_out(score):
    """Score above the 75th percentile of its positive values, 0 below."""
    score = np.asarray(score, "float32")
    positive = score[score > 0]
    return np.maximum(score - np.percentile(positive, 75), 0) if positive.size else score


def _deepest(mask):
    """Flat index of a voxel in the middle of the largest lesion."""
    from scipy import ndimage  # slow to import, and only this needs it

    mask = np.asarray(mask, bool)
    parts, count = ndimage.label(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    return ndimage.distance_transform_edt(parts == sizes.argmax()).argmax()
