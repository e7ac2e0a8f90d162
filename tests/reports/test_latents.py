"""Figures of latents and metadata: every class, every count, and what the audit found."""

import inspect

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from brainvq.evaluation import bias_audit, discriminate, metadata_histograms
from brainvq.reports.latents import class_table_figure, lda_scatter, metadata_figure

CLASSES = ("MS", "leuko1", "leuko2", "healthy")


def scans(n=60, classes=CLASSES, seed=0):
    rng = np.random.default_rng(seed)
    which = np.arange(n) % len(classes)
    latents = rng.normal(size=(n, 8))
    latents[np.arange(n), which] += 2
    return latents, np.array(classes)[which]


def discrimination(classes=CLASSES):
    return discriminate(*scans(classes=classes), *scans(40, classes, seed=1), draws=50)


def metadata(n=60):
    rng = np.random.default_rng(0)
    labels = np.array(["MS", "healthy"])[np.arange(n) % 2]
    te = np.where(labels == "MS", 0.1, 0.3)
    te[:6] = np.nan
    return labels, pd.DataFrame(
        {
            "te": te,
            "age": rng.normal(50, 9, n),
            "site": rng.choice(["A", "B"], n),
            "station": [f"station number {i // 2 % 12}" for i in range(n)],
        }
    )


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


class TestScatter:
    def points(self, figure):
        return sum(len(c.get_offsets()) for ax in figure.axes for c in ax.collections)

    def test_every_scan_in_every_pair_of_axes(self):
        discriminants = discrimination()
        models = {"VAE-8": discriminants.components, "IVAE-32": -discriminants.components}
        figure = lda_scatter(
            models, discriminants.labels, discriminants.classes, None, simulated=True
        )
        assert len(figure.axes) == 6
        assert self.points(figure) == 6 * 40
        shown = words(figure)
        assert "Linear discriminants of unseen scans (simulated brains)" in shown
        for name in discriminants.classes:
            assert f"{name} (10)" in shown
        assert shown.count("VAE-8") == 3
        assert "discriminant 3" in shown

    @pytest.mark.parametrize(("count", "models", "panels"), [(2, 1, 1), (1, 1, 1), (2, 5, 5)])
    def test_fewer_classes_have_fewer_axes(self, count, models, panels):
        discriminants = discrimination(CLASSES[: count + 1])
        components = {f"m{i}": discriminants.components for i in range(models)}
        figure = lda_scatter(components, discriminants.labels, discriminants.classes, None)
        assert len(figure.axes) == panels
        assert self.points(figure) == panels * 40

    def test_colours_do_not_depend_on_who_is_there(self):
        discriminants = discrimination()
        others = discriminants.labels != 0
        figures = [
            lda_scatter(
                {"m": discriminants.components[rows]},
                discriminants.labels[rows],
                discriminants.classes,
                None,
            )
            for rows in (np.full(40, True), others)
        ]
        colours = [
            {tuple(np.round(c.get_facecolor()[0][:3], 3)) for ax in f.axes for c in ax.collections}
            for f in figures
        ]
        assert colours[1] < colours[0]
        assert len(colours[0]) == 4

    def test_bad_input(self):
        with pytest.raises(ValueError, match="components must be"):
            lda_scatter({"a": np.zeros((3, 2))}, [0, 1], CLASSES, None)
        with pytest.raises(ValueError, match="of one shape"):
            lda_scatter({"a": np.zeros((2, 2)), "b": np.zeros((2, 3))}, [0, 1], CLASSES, None)
        with pytest.raises(ValueError, match="1 to 3"):
            lda_scatter({"a": np.zeros((2, 4))}, [0, 1], CLASSES, None)
        with pytest.raises(ValueError, match="components must be"):
            lda_scatter({}, [0, 1], CLASSES, None)


class TestTable:
    def test_every_count_and_share_is_written(self):
        table = discrimination().table
        figure = class_table_figure(
            table, None, published={"MS": (0.92, 0.89), "leuko1": (0.43, 0.55)}, simulated=True
        )
        shown = words(figure)
        for row in table.itertuples():
            assert row[1] in shown
            for value in (row.TP, row.FP, row.FN, row.TN):
                assert str(value) in shown
            assert f"{row.precision:.2f}" in shown
            assert f"{row.recall:.2f}" in shown
        assert "published, on other data" in shown
        assert "Classes of unseen scans (simulated brains)" in shown
        diamonds = [
            line.get_xdata()[0]
            for ax in figure.axes
            for line in ax.lines
            if line.get_marker() == "D" and line.get_markerfacecolor() == "none"
        ]
        assert sorted(d for d in diamonds if np.isfinite(d)) == [0.43, 0.55, 0.89, 0.92]

    def test_a_class_never_given(self):
        table = pd.DataFrame(
            {
                "class": ["a", "b"],
                "subjects": [5, 0],
                "TP": [5, 0],
                "FP": [0, 0],
                "FN": [0, 0],
                "TN": [0, 5],
                "precision": [1.0, np.nan],
                "recall": [1.0, np.nan],
            }
        )
        shown = words(class_table_figure(table, None))
        assert "never given" in shown
        assert "no scans" in shown
        assert "subjects" in shown
        assert "published, on other data" not in shown

    def test_bad_tables(self):
        table = discrimination().table
        with pytest.raises(ValueError, match="0 rows"):
            class_table_figure(table[:0], None)
        with pytest.raises(ValueError, match="without \\['recall'\\]"):
            class_table_figure(table.drop(columns="recall"), None)


class TestMetadata:
    def test_shares_names_gaps_and_findings_are_shown(self):
        labels, table = metadata()
        audit = bias_audit(table, labels, permutations=100)
        figure = metadata_figure(
            metadata_histograms(table, labels),
            None,
            tests=audit.tests,
            names={"te": "echo time (s)"},
            simulated=True,
        )
        shown = words(figure)
        assert "echo time (s)\nunknown: MS 10 %, healthy 10 %" in shown
        assert "age" in shown
        assert sum(text.startswith("classes differ: Cramér's V 1.00") for text in shown) == 1
        assert sum(text.startswith("no difference shown") for text in shown) == 3
        assert "and 4 rarer values" in shown
        assert any(text.startswith("station number") for text in shown)
        assert "MS (30 scans)" in shown
        assert "Acquisition of each class (simulated brains)" in shown

    def test_heights_are_shares_of_the_class(self):
        labels, table = metadata()
        figure = metadata_figure(metadata_histograms(table[["site"]], labels), None)
        heights = [bar.get_height() for bar in figure.axes[0].patches]
        for i, name in enumerate(("MS", "healthy")):
            site = table["site"][labels == name].value_counts(normalize=True)
            order = table["site"].value_counts().index
            np.testing.assert_allclose(heights[2 * i : 2 * i + 2], site[order])

    def test_a_column_that_is_unknown_throughout(self):
        table = pd.DataFrame({"te": [np.nan] * 4, "coil": [None] * 4})
        figure = metadata_figure(metadata_histograms(table, list("aabb")), None)
        figure.canvas.draw()
        assert any("unknown: a 100 %, b 100 %" in text for text in words(figure))

    def test_nothing_to_draw(self):
        with pytest.raises(ValueError, match="one or more"):
            metadata_figure({}, None)


def test_files_are_written(tmp_path):
    discriminants = discrimination()
    labels, table = metadata()
    calls = {
        lda_scatter: ({"a": discriminants.components}, discriminants.labels, discriminants.classes),
        class_table_figure: (discriminants.table,),
        metadata_figure: (metadata_histograms(table, labels),),
    }
    for draw, args in calls.items():
        path = tmp_path / f"{draw.__name__}.png"
        assert draw(*args, path) == path
        assert imread(path).std() > 0.02
        assert "simulated" in inspect.signature(draw).parameters
    assert len(list(tmp_path.iterdir())) == 3
