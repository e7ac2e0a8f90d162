"""Figures and report page of a comparison of classifiers, from its probabilities alone.

Figures follow `brainvq.reports.figures`: each writes `path` and returns it, or returns the Figure
for None. Everything is per subject, and every probability is of a classifier that never saw the
subject.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import patheffects

from brainvq.evaluation.classification import (
    LOWER_IS_BETTER,
    MEASURES,
    chance_level,
    class_table,
    classification_measures,
    compare_methods,
    confusion_matrix,
    paired_differences,
    roc_curve,
)
from brainvq.reports.figures import COLOURS, _finish, _new, _style, _worded
from brainvq.reports.html import Report, Section

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


@_style()
def measures_figure(table, path, *, title="Classifiers of unseen subjects", simulated=False):
    """Every measure of every method with its interval, beside chance.

    Args:
        table: `pandas.DataFrame` as `evaluation.compare_methods` gives it.
        path: the PNG to write; None returns the Figure.
        title: figure title.
        simulated: True when the brains are simulated; the title then says so.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the table is empty.
    """
    if len(table) == 0:
        raise ValueError("table must have rows. Received: an empty table")
    methods = list(dict.fromkeys(table["method"]))
    figure = _new((12.4, 0.46 * len(methods) + 2.0))
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
        ax.axvline(chance, color="#59636d", linestyle="--", linewidth=1.2)
        ax.annotate(
            "chance",
            (chance, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color="#59636d",
        )
        reach = float(np.nanmax([rows["high"].max(), chance]))
        ax.set_xlim((0, 1.08 * reach) if measure in LOWER_IS_BETTER else (0, 1.04))
        ax.set_xlabel("lower is better" if measure in LOWER_IS_BETTER else "higher is better")
        ax.set_title(NAMES[measure])
        ax.grid(axis="x")
    axes[0].set_yticks(place, methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.85)
    figure.suptitle(_worded(title, simulated), fontweight="bold")
    return _finish(figure, path)


@_style()
def roc_figure(labels, probabilities, classes, path, *, title="ROC curves", simulated=False):
    """ROC curves of two classes, and the score that each subject got while it was unseen.

    Args:
        labels: class numbers `(n_subjects,)`, 0 or 1.
        probabilities: dict of method to `([n_repeats,] n_subjects, 2)`; the curves are of the mean
            over repeats.
        classes: the two names; the second is the positive class.
        path: the PNG to write; None returns the Figure.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: there are not two classes.
    """
    if len(classes) != 2:
        raise ValueError(f"ROC curves are of two classes. Received: classes={tuple(classes)}")
    labels = np.asarray(labels)
    figure = _new((12.0, 5.0))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
    left.plot([0, 1], [0, 1], color="#59636d", linestyle="--", linewidth=1.2, label="chance")
    # Points of one column are spread by rank, so that equal scores do not hide one another.
    spread = np.empty(len(labels))
    for value in (0, 1):
        count = int(np.sum(labels == value))
        spread[labels == value] = np.linspace(-0.12, 0.12, count) if count > 1 else 0.0
    for i, (method, given) in enumerate(probabilities.items()):
        p = _mean(given)
        area = classification_measures(labels, p)["auroc"]
        false, true = roc_curve(labels == 1, p[:, 1])
        colour = COLOURS[i % len(COLOURS)]
        left.plot(false, true, color=colour, label=f"{method}: {area:.2f}")
        for value, marker, side in ((0, "o", -0.17), (1, "^", 0.17)):
            of_class = labels == value
            right.plot(
                i + side + spread[of_class],
                p[of_class, 1],
                marker,
                color=colour,
                markersize=4 if len(labels) > 60 else 6,
                markerfacecolor="white" if value == 0 else colour,
                label=str(classes[value]) if i == 0 else None,
            )
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
    figure.suptitle(_worded(title, simulated), fontweight="bold")
    return _finish(figure, path)


@_style()
def confusion_figure(
    labels, probabilities, classes, path, *, title="Confusion matrices", simulated=False
):
    """How many subjects of each class each method gave to each class.

    Args:
        labels: class numbers `(n_subjects,)`.
        probabilities: dict of method to `([n_repeats,] n_subjects, n_classes)`.
        classes: names of the classes.
        path: the PNG to write; None returns the Figure.
        title: figure title.
        simulated: True when the brains are simulated.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.
    """
    count, many = len(probabilities), len(classes)
    across = min(count, MOST_METHODS_A_ROW)
    down = -(-count // across)
    side = max(2.3, 0.62 * many + 1.0)
    figure = _new((across * side + 1.2, down * side + 1.0))
    axes = figure.subplots(down, across, squeeze=False)
    for ax in axes.ravel()[count:]:
        ax.set_axis_off()
    for i, (ax, (method, given)) in enumerate(
        zip(axes.ravel(), probabilities.items(), strict=False)
    ):
        matrix = confusion_matrix(labels, given)
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
    figure.suptitle(_worded(title, simulated), fontweight="bold")
    return _finish(figure, path)


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
        folder: where `classifiers.png`, `classifiers_confusion.png` and, for two classes,
            `classifiers_roc.png` go.
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
    labels, folder = np.asarray(labels), Path(folder)
    table = compare_methods(labels, probabilities, level=level, draws=draws, seed=seed)
    counts = np.bincount(labels, minlength=len(classes))
    repeats = max(1 if np.ndim(p) == 2 else len(p) for p in probabilities.values())
    figures = [
        (
            measures_figure(table, folder / "classifiers.png", simulated=simulated),
            f"Points: all unseen subjects. Lines: {100 * level:g} % intervals over subjects.",
        )
    ]
    if len(classes) == 2:
        figures.append(
            (
                roc_figure(
                    labels,
                    probabilities,
                    classes,
                    folder / "classifiers_roc.png",
                    simulated=simulated,
                ),
                "Left: ROC curves of the mean over repeats. Right: each subject's own score.",
            )
        )
    confusion = confusion_figure(
        labels,
        probabilities,
        classes,
        folder / "classifiers_confusion.png",
        simulated=simulated,
    )
    warnings = list(notes)
    if simulated:
        warnings.insert(
            0, "These brains are simulated on a template: nothing here holds for scans of people."
        )
    known = ", ".join(f"{count} {name}" for name, count in zip(classes, counts, strict=True))
    sections = [
        Section(
            "Classifiers of unseen subjects",
            _explained(labels, classes, folds, repeats, level),
            tables=[
                ("Measures", _wide(table, level)),
                ("Methods", _methods(probabilities, seconds, parameters)),
            ],
            figures=figures,
        )
    ]
    if len(probabilities) > 1:
        reference = "codes" if "codes" in probabilities else next(iter(probabilities))
        differences = paired_differences(
            labels, probabilities, reference, level=level, draws=draws, seed=seed
        )
        sections.append(
            Section(
                "Differences on the same subjects",
                f"Each method minus {reference}, the same subjects drawn for both. Where the "
                "interval holds 0, these subjects do not show a difference.",
                tables=[("Differences", _named(differences))],
            )
        )
    per_class = [
        (method, class_table(labels, given, classes)) for method, given in probabilities.items()
    ]
    sections += [
        Section(
            "Which subjects are found",
            "By the mean probability over slices and repeats. Precision: the share right of those "
            "given the class. Recall: the share found of those in it.",
            tables=[(method, rows) for method, rows in per_class],
            figures=[(confusion, "Number of subjects; the colour is the share of the true class.")],
        ),
        Section("What these figures do not say", _caveats(labels, classes)),
    ]
    if subjects is not None:
        rows = {"subject": list(subjects), "class": np.asarray(classes)[labels]}
        for method, given in probabilities.items():
            p = _mean(given)
            if len(classes) == 2:
                rows[f"{method}: p({classes[1]})"] = p[:, 1]
            else:
                rows[method] = np.asarray(classes)[p.argmax(axis=1)]
        sections.append(Section("Each subject", "", tables=[("Subjects", pd.DataFrame(rows))]))
    best = table[table["measure"] == "auroc"].set_index("method")
    return Report(
        title=f"Codes as features{': ' + target if target else ''}",
        subtitle=f"{source} {len(labels)} subjects: {known}.".strip(),
        cards=[
            (
                f"AUROC, {method}",
                f"{row['value']:.2f}",
                f"{row['low']:.2f} to {row['high']:.2f}; chance 0.50",
            )
            for method, row in best.iterrows()
        ],
        warnings=warnings,
        sections=sections,
        footer=footer,
    )


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
            found = table[(table["method"] == method) & (table["measure"] == measure)].iloc[0]
            row[NAMES[measure]] = f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
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
