"""Figures and report page of a comparison of classifiers, from its probabilities alone.

Figures follow `brainvq.reports.figures`: each writes `path` and returns it, or returns the Figure
for None. Everything is per subject, and every probability is of a classifier that never saw the
subject.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import patheffects
from sklearn.metrics import roc_curve

from brainvq.evaluation.classification import (
    LOWER_IS_BETTER,
    MEASURES,
    chance_level,
    class_table,
    classification_measures,
    compare_methods,
    confusion_matrix,
    paired_differences,
)
from brainvq.reports.drawing import COLOURS, new_figure, png_figure, reference_line
from brainvq.reports.html import Report, Section
from brainvq.reports.run_pages import SIMULATED

NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "log_loss": "log loss (nats)",
}
ABOUT_METHODS = {
    "codes": "a small convolutional network on the code embeddings of each slice",
    "encoder": "the same behind the frozen encoder, images changed at random while training",
    "pixels": "a network of the same size on pixels",
    "linear codes": "logistic regression on code frequencies and the mean vector of each cell",
    "linear pixels": "logistic regression on intensity frequencies and the mean picture",
}
MOST_METHODS_A_ROW = 3


@png_figure()
def measures_figure(table, *, title="Classifiers of unseen subjects"):
    """Every measure of every method with its interval, beside chance.

    Args:
        table: `pandas.DataFrame` as `evaluation.compare_methods` gives it.
        title: figure title.

    Raises:
        ValueError: the table is empty.
    """
    if len(table) == 0:
        raise ValueError("table must have rows. Received: an empty table")
    methods = list(dict.fromkeys(table["method"]))
    figure = new_figure((12.4, 0.46 * len(methods) + 2.0))
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    place = np.arange(len(methods))
    for ax, measure in zip(axes, MEASURES, strict=True):
        rows = table[table["measure"] == measure].set_index("method").loc[methods]
        values = rows["value"].to_numpy()
        for i in place:
            low, high = rows["low"].iloc[i], rows["high"].iloc[i]
            ax.plot([low, high], [i, i], color=COLOURS[i % len(COLOURS)], linewidth=2.4)
            ax.plot(values[i], i, "o", color=COLOURS[i % len(COLOURS)], markersize=7)
            ax.annotate(
                f"{values[i]:.2f}",
                (values[i], i),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
                zorder=5,
            )
        chance = rows["chance"].iloc[0]
        reference_line(ax, chance, "chance")
        reach = float(np.nanmax([rows["high"].max(), chance]))
        ax.set_xlim((0, 1.08 * reach) if measure in LOWER_IS_BETTER else (0, 1.04))
        ax.set_xlabel("lower is better" if measure in LOWER_IS_BETTER else "higher is better")
        ax.set_title(NAMES[measure])
        ax.grid(axis="x")
    axes[0].set_yticks(place, methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.85)
    figure.suptitle(title, fontweight="bold")
    return figure


@png_figure()
def roc_figure(labels, probabilities, classes, *, title="ROC curves"):
    """ROC curves of two classes, and the score that each subject got while it was unseen.

    Args:
        labels: class numbers `(n_subjects,)`, 0 or 1.
        probabilities: dict of method to `([n_repeats,] n_subjects, 2)`; the curves are of the mean
            over repeats.
        classes: the two names; the second is the positive class.
        title: figure title.

    Raises:
        ValueError: there are not two classes.
    """
    if len(classes) != 2:
        raise ValueError(f"ROC curves are of two classes. Received: classes={tuple(classes)}")
    labels = np.asarray(labels)
    figure = new_figure((12.0, 5.0))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
    left.plot([0, 1], [0, 1], color="#59636d", linestyle="--", linewidth=1.2, label="chance")
    for i, (method, repeats) in enumerate(probabilities.items()):
        p = _mean(repeats)
        area = classification_measures(labels, p)["auroc"]
        false, true, _ = roc_curve(labels == 1, p[:, 1], drop_intermediate=False)
        left.plot(false, true, color=COLOURS[i % len(COLOURS)], label=f"{method}: {area:.2f}")
        _subject_scores(right, i, p[:, 1], labels, classes)
    left.set_aspect("equal")
    left.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    left.set_xlabel(f"share of {classes[0]} taken for {classes[1]}")
    left.set_ylabel(f"share of {classes[1]} found")
    left.set_title("area under the curve")
    left.legend(loc="lower right")
    left.grid()
    right.axhline(0.5, color="#59636d", linestyle="--", linewidth=1.2)
    right.set_xticks(range(len(probabilities)), list(probabilities))
    right.set_xlim(-0.6, len(probabilities) - 0.4)
    right.set_ylim(-0.03, 1.03)
    right.set_ylabel(f"probability of {classes[1]}")
    right.set_title("each subject, while unseen")
    right.grid(axis="y")
    legend = right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    for handle in legend.legend_handles:
        handle.set_color("#4a545e")
        handle.set_markerfacecolor("#4a545e")
    legend.legend_handles[0].set_markerfacecolor("white")
    figure.suptitle(title, fontweight="bold")
    return figure


def _subject_scores(ax, i, scores, labels, classes):
    """The scores of one method: a column per class, the class named for the first method."""
    colour = COLOURS[i % len(COLOURS)]
    for value, marker, side in ((0, "o", -0.17), (1, "^", 0.17)):
        of_class = labels == value
        count = int(np.sum(of_class))
        # Spread by rank, so that equal scores do not hide one another.
        spread = np.linspace(-0.12, 0.12, count) if count > 1 else np.zeros(count)
        ax.plot(
            i + side + spread,
            scores[of_class],
            marker,
            color=colour,
            markersize=4 if len(labels) > 60 else 6,
            markerfacecolor="white" if value == 0 else colour,
            label=str(classes[value]) if i == 0 else None,
        )


@png_figure()
def confusion_figure(labels, probabilities, classes, *, title="Confusion matrices"):
    """How many subjects of each class each method gave to each class.

    Args:
        labels: class numbers `(n_subjects,)`.
        probabilities: dict of method to `([n_repeats,] n_subjects, n_classes)`.
        classes: names of the classes.
        title: figure title.
    """
    count, many = len(probabilities), len(classes)
    across = min(count, MOST_METHODS_A_ROW)
    down = -(-count // across)
    side = max(2.3, 0.62 * many + 1.0)
    figure = new_figure((across * side + 1.2, down * side + 1.0))
    axes = figure.subplots(down, across, squeeze=False)
    for ax in axes.ravel()[count:]:
        ax.set_axis_off()
    panels = zip(axes.ravel(), probabilities.items(), strict=False)
    for i, (ax, (method, repeats)) in enumerate(panels):
        matrix = confusion_matrix(labels, repeats)
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        shown = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(matrix.shape):
            ax.text(
                column,
                row,
                str(matrix[row, column]),
                ha="center",
                va="center",
                color="white" if shares[row, column] > 0.55 else "#1d252c",
            )
        names = [str(name) for name in classes]
        ax.set_xticks(range(many), names, rotation=0 if many < 4 else 40)
        ax.set_yticks(range(many), names)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ax.set_title(method)
        if i % across == 0:
            ax.set_ylabel("true class")
        if i + across >= count:
            ax.set_xlabel("class given")
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("share of the true class")
    figure.suptitle(title, fontweight="bold")
    return figure


def classification_report(
    labels,
    probabilities,
    classes,
    folder,
    *,
    subjects=None,
    target="",
    source="",
    folds=None,
    seconds=None,
    parameters=None,
    notes=(),
    simulated=False,
    level=0.95,
    draws=2000,
    seed=0,
    footer="",
):
    """The report of a cross-validated comparison; its figures are written to `folder`.

    Args:
        labels: class numbers `(n_subjects,)`.
        probabilities: dict of method to `([n_repeats,] n_subjects, n_classes)`, of classifiers
            that never saw the subject.
        classes: names of the classes, in order.
        folder: where `classifiers.png`, `classifiers_confusion.png` and `classifiers_roc.png` go.
        subjects: n_subjects names, for the table of subjects; None leaves it out.
        target: what the classes are, such as `participants.tsv:group`.
        source: one line on the images and on the model that made the codes.
        folds: int, number of folds.
        seconds: dict of method to the seconds it took.
        parameters: dict of method to its number of trainable parameters.
        notes: lines shown as warnings, such as subjects left out or fewer folds.
        simulated: True when the brains are simulated.
        level: of the intervals.
        draws: resamples of the bootstrap.
        seed: of the bootstrap.
        footer: one line: program and versions.

    Returns:
        A `Report`, for `write_report`.
    """
    bootstrap = {"level": level, "draws": draws, "seed": seed}
    table = compare_methods(labels, probabilities, **bootstrap)
    compared = (labels, probabilities, classes)
    return Report(
        title=f"Codes as features{': ' + target if target else ''}",
        subtitle=f"{source} {len(labels)} subjects: {_class_sizes(labels, classes)}.".strip(),
        cards=_cards(table),
        warnings=[SIMULATED, *notes] if simulated else list(notes),
        sections=[
            _measures(table, *compared, folder, folds, seconds, parameters, level, simulated),
            _differences(labels, probabilities, bootstrap),
            _per_class(*compared, folder, simulated),
            Section("What these figures do not say", _caveats(labels, classes)),
            _each_subject(*compared, subjects),
        ],
        footer=footer,
    )


def _class_sizes(labels, classes):
    counts = np.bincount(labels, minlength=len(classes))
    return ", ".join(f"{count} {name}" for name, count in zip(classes, counts, strict=True))


def _cards(table):
    rows = table[table["measure"] == "auroc"].set_index("method")
    return [
        (
            f"AUROC, {method}",
            f"{row['value']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}; chance 0.50",
        )
        for method, row in rows.iterrows()
    ]


def _measures(
    table, labels, probabilities, classes, folder, folds, seconds, parameters, level, simulated
):
    folder, options = Path(folder), {"simulated": simulated}
    figures = [
        (
            measures_figure(table, folder / "classifiers.png", **options),
            f"Points: all unseen subjects. Lines: {100 * level:g} % intervals over subjects.",
        )
    ]
    if len(classes) == 2:
        path = folder / "classifiers_roc.png"
        figures.append(
            (
                roc_figure(labels, probabilities, classes, path, **options),
                "Left: ROC curves of the mean over repeats. Right: each subject's own score.",
            )
        )
    repeats = max(1 if np.ndim(p) == 2 else len(p) for p in probabilities.values())
    return Section(
        "Classifiers of unseen subjects",
        _explained(labels, classes, folds, repeats, level),
        tables=[
            ("Measures", _wide(table, level)),
            ("Methods", _methods(probabilities, seconds, parameters)),
        ],
        figures=figures,
    )


def _differences(labels, probabilities, bootstrap):
    if len(probabilities) < 2:
        return None
    reference = "codes" if "codes" in probabilities else next(iter(probabilities))
    differences = paired_differences(labels, probabilities, reference, **bootstrap)
    return Section(
        "Differences on the same subjects",
        f"Each method minus {reference}, the same subjects drawn for both. Where the "
        "interval holds 0, these subjects do not show a difference.",
        tables=[("Differences", _named(differences))],
    )


def _per_class(labels, probabilities, classes, folder, simulated):
    path = Path(folder) / "classifiers_confusion.png"
    confusion = confusion_figure(labels, probabilities, classes, path, simulated=simulated)
    return Section(
        "Which subjects are found",
        "By the mean probability over slices and repeats. Precision: the share right of those "
        "given the class. Recall: the share found of those in it.",
        tables=[(method, class_table(labels, p, classes)) for method, p in probabilities.items()],
        figures=[(confusion, "Number of subjects; the colour is the share of the true class.")],
    )


def _each_subject(labels, probabilities, classes, subjects):
    if subjects is None:
        return None
    rows = {"subject": list(subjects), "class": np.asarray(classes)[labels]}
    for method, repeats in probabilities.items():
        p = _mean(repeats)
        if len(classes) == 2:
            rows[f"{method}: p({classes[1]})"] = p[:, 1]
        else:
            rows[method] = np.asarray(classes)[p.argmax(axis=1)]
    return Section("Each subject", "", tables=[("Subjects", pd.DataFrame(rows))])


def _explained(labels, classes, folds, repeats, level):
    chance = chance_level(labels)
    largest = classes[int(np.bincount(labels, minlength=len(classes)).argmax())]
    validated = f"{folds}-fold cross-validation" if folds else "Cross-validation"
    if repeats > 1:
        validated += f", repeated {repeats} times with other folds,"
    area = (
        f"AUROC is that of {classes[1]} against {classes[0]}."
        if len(classes) == 2
        else "AUROC is the mean over classes, each against the rest."
    )
    return (
        f"{validated} by subject: all slices of a subject are tested together, by classifiers "
        "that were trained on other subjects alone. A subject's probability is the mean over its "
        f"slices. {area}\n\nBrackets: {100 * level:g} % percentile intervals of a bootstrap over "
        f"subjects. Chance: always saying {largest} is right for {chance['accuracy']:.2f} of the "
        f"subjects; balanced accuracy {chance['balanced_accuracy']:.2f}, AUROC 0.50, log loss "
        f"{chance['log_loss']:.2f}. Classes count alike in training, so accuracy may lie below "
        "that of the largest class."
    )


def _caveats(labels, classes):
    counts = np.bincount(labels, minlength=len(classes))
    # Standard error of an AUROC without signal (Hanley and McNeil 1982, eq. 1, with area 0.5).
    noise = np.sqrt((counts.sum() + 1) / (12 * counts[:2].prod())) if len(classes) == 2 else None
    text = (
        "The intervals cover which subjects were tested. They do not cover which subjects were "
        "trained on, nor other scanners: figures of another site may differ.\n\n"
        "Classes that differ in scanner, age, sex or head size can be told apart by those. Look at "
        "how they are shared between the classes before reading more into a figure.\n\n"
        "If the autoencoder was trained on some of these scans, codes know these images, though "
        "never their labels; subjects that it never saw are the stricter test.\n\n"
        "Slices see a lesion only if they cut it, and codes hold it only if the codebook can: a "
        "classifier of codes at chance says nothing about what scans could show."
    )
    if noise is not None:
        text += (
            f"\n\nWith {counts[0]} and {counts[1]} subjects, scores without any signal give an "
            f"AUROC between {max(0, 0.5 - 1.96 * noise):.2f} and {min(1, 0.5 + 1.96 * noise):.2f} "
            "in nineteen of twenty tries."
        )
    return text


def _wide(table, level):
    """A row per method, a column per measure with its interval."""
    rows = []
    for method in dict.fromkeys(table["method"]):
        row = {"method": method}
        for measure in MEASURES:
            cell = table[(table["method"] == method) & (table["measure"] == measure)].iloc[0]
            row[NAMES[measure]] = f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"
        rows.append(row)
    chance = table.drop_duplicates("measure").set_index("measure")["chance"]
    rows.append({"method": "chance"} | {NAMES[m]: f"{chance[m]:.2f}" for m in MEASURES})
    return pd.DataFrame(rows)


def _methods(probabilities, seconds, parameters):
    rows = pd.DataFrame(
        {
            "method": list(probabilities),
            "what it is": [ABOUT_METHODS.get(method, "") for method in probabilities],
        }
    )
    if parameters:
        counts = [parameters.get(method) for method in probabilities]
        rows["trainable parameters"] = pd.array(counts, dtype="Int64")
    if seconds:
        rows["seconds"] = [seconds.get(method) for method in probabilities]
    return rows


def _named(differences):
    return differences.assign(measure=differences["measure"].map(NAMES))


def _mean(probabilities):
    p = np.asarray(probabilities, "float64")
    return p.mean(axis=0) if p.ndim == 3 else p
