"""Figures and page of a comparison of classifiers."""

import re

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from brainvq.evaluation import compare_methods
from brainvq.reports import write_report
from brainvq.reports.classification import (
    classification_report,
    confusion_figure,
    measures_figure,
    roc_figure,
)


def cohort(classes=2, n=18):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    methods = {}
    for number, name in enumerate(("codes", "pixels", "linear codes", "linear pixels")):
        logits = rng.normal(size=(2, n, classes)) + number * np.eye(classes)[labels]
        methods[name] = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    return labels, methods, ("HC", "MS", "AD")[:classes]


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_measures_show_values_intervals_and_chance():
    labels, methods, _ = cohort()
    table = compare_methods(labels, methods, draws=100)
    figure = measures_figure(table, None, simulated=True)
    shown = words(figure)
    assert shown.count("chance") == 4
    assert "Classifiers of unseen subjects (simulated brains)" in shown
    for value in table["value"]:
        assert f"{value:.2f}" in shown
    auroc = next(ax for ax in figure.axes if ax.get_title() == "AUROC")
    rows = table[table["measure"] == "auroc"]
    lines = [line.get_xdata() for line in auroc.lines if len(line.get_xdata()) == 2]
    for low, high in zip(rows["low"], rows["high"], strict=True):
        assert any(np.allclose(line, (low, high)) for line in lines)
    with pytest.raises(ValueError, match="empty"):
        measures_figure(table[:0], None)


def test_roc_has_a_curve_and_every_subject_for_each_method():
    labels, methods, classes = cohort()
    figure = roc_figure(labels, methods, classes, None)
    left, right = figure.axes
    assert len(left.lines) == 1 + len(methods)
    for line in left.lines:
        x, y = line.get_data()
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    points = sum(len(line.get_xdata()) for line in right.lines if line.get_linestyle() == "None")
    assert points == len(methods) * len(labels)
    with pytest.raises(ValueError, match="two classes"):
        roc_figure(labels, methods, ("a", "b", "c"), None)


@pytest.mark.parametrize("classes", [2, 3])
def test_confusion_counts_every_subject(classes):
    labels, methods, names = cohort(classes)
    figure = confusion_figure(labels, methods, names, None)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == list(methods)
    for ax in panels:
        assert sum(int(text.get_text()) for text in ax.texts) == len(labels)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_page_says_it_all(classes, tmp_path):
    labels, methods, names = cohort(classes)
    report = classification_report(
        labels,
        methods,
        names,
        tmp_path,
        subjects=[f"s{number}" for number in range(len(labels))],
        target="participants.tsv:group",
        source="T1 slices.",
        folds=5,
        seconds=dict.fromkeys(methods, 1.5),
        parameters={"codes": 23522, "pixels": 25680},
        notes=["3 folds in place of 5"],
        simulated=True,
        draws=100,
    )
    page = write_report(tmp_path / "report.html", report).read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", " ", page)
    for expected in (
        "Codes as features: participants.tsv:group",
        "18 subjects",
        "5-fold cross-validation, repeated 2 times",
        "nothing here holds for scans of people",
        "3 folds in place of 5",
        "25680",
        "Each method minus codes",
        "scanner",
        "s17",
    ):
        assert expected in text
    assert page.count("data:image/png") == (3 if classes == 2 else 2)
    assert ("nineteen of twenty" in text) == (classes == 2)
    for path in tmp_path.glob("*.png"):
        assert imread(path).std() > 0.02


def test_one_method_alone_has_no_differences(tmp_path):
    labels, methods, names = cohort()
    report = classification_report(
        labels, {"codes": methods["codes"][0]}, names, tmp_path, draws=50
    )
    titles = [section.title for section in report.sections]
    assert "Differences on the same subjects" not in titles
    assert "Each subject" not in titles
    assert report.cards[0][0] == "AUROC, codes"
