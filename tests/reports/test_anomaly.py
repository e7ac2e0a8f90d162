import re

import numpy as np
import pytest
from matplotlib.text import Text

from brainvq.evaluation.anomaly import LesionScores
from brainvq.reports import anomaly
from brainvq.reports.html import write_report

PNG = b"\x89PNG"


def text_of(figure):
    return " ".join(text.get_text() for text in figure.findobj(Text))


@pytest.fixture(scope="module")
def scan():
    rng = np.random.default_rng(0)
    x = np.zeros((12, 24, 20), "float32")
    x[:, 3:21, 3:17] = 0.6 + 0.05 * rng.random((12, 18, 14))
    mask = np.zeros(x.shape, bool)
    mask[4:7, 8:12, 6:10] = True
    mask[5, 7:13, 5:11] = True
    scores = {
        name: (rng.random(x.shape) + (k + 1) * mask).astype("float32")
        for k, name in enumerate(("intensity", "pixel", "surprise", "restoration", "combined"))
    }
    return x, mask, scores, {"reconstruction": x, "restored": x}


@pytest.fixture(scope="module")
def lesion_scores(scan):
    x, mask, scores, _ = scan
    counted = LesionScores()
    for i, name in enumerate(("a", "b", "c")):
        counted.add(name, scores, np.roll(mask, i, axis=2), x > 0, voxel_ml=0.1)
    return counted.add("well", scores, mask & False, x > 0, voxel_ml=0.1)


class TestSlicesToShow:
    def test_most_lesion_first_and_apart(self, scan):
        _, mask, scores, _ = scan
        assert anomaly.slices_to_show(mask, count=1) == [5]
        shown = anomaly.slices_to_show(mask, count=3)
        assert 5 in shown
        assert min(np.diff(shown)) >= 4
        score = np.zeros((12, 5, 5))
        score[9, 2, 2] = 1
        assert 9 in anomaly.slices_to_show(None, score, count=2)
        assert anomaly.slices_to_show(mask & False, score, count=1) == [9]
        assert anomaly.slices_to_show(None, score[:2], count=4) == [0, 1]
        with pytest.raises(ValueError, match="neither"):
            anomaly.slices_to_show(mask & False)


class TestGrid:
    def test_what_is_there_is_drawn(self, scan):
        x, mask, scores, evidence = scan
        figure = anomaly.anomaly_grid(
            x[..., None], evidence, scores, None, mask=mask, show=[1, 5], simulated=True
        )
        titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
        assert titles == [
            "input",
            "reconstruction",
            "error",
            "surprise",
            "restored",
            "restoration score",
            "lesions",
        ]
        text = text_of(figure)
        for words in ("simulated", "axial", "R = patient's right", "slice 5", "bits a code"):
            assert words in text
        pictures = [ax for ax in figure.axes if ax.images]
        assert len(pictures) == 14
        outlined = [ax for ax in figure.axes if ax.collections and ax.images]
        assert len(outlined) == 1, "slice 1 has no lesion"
        error = [
            ax.images[0].get_clim() for ax in pictures if "inferno" in str(ax.images[0].cmap.name)
        ]
        assert len(set(error)) == 3, "one scale a column"

    def test_without_prior_and_mask(self, scan, tmp_path):
        x, _, scores, evidence = scan
        few = {"reconstruction": evidence["reconstruction"]}
        path = anomaly.anomaly_grid(x, few, {"pixel": scores["pixel"]}, tmp_path / "g.png")
        assert path.read_bytes().startswith(PNG)
        with pytest.raises(ValueError, match="must have shape"):
            anomaly.anomaly_grid(x, {"reconstruction": x[:2]}, scores, None)


def test_planes_go_through_the_largest_lesion(scan, tmp_path):
    x, mask, scores, _ = scan
    volume, lesions = (np.moveaxis(a.swapaxes(1, 2), 0, 2) for a in (x, mask))
    maps = {name: np.moveaxis(scores[name].swapaxes(1, 2), 0, 2) for name in ("pixel", "combined")}
    affine = np.diag([-2.0, -2, 3, 1])
    figure = anomaly.anomaly_planes(volume, maps, affine, None, mask=lesions, simulated=True)
    text = text_of(figure)
    assert "z = 15.0 mm" in text
    for words in ("pixel error", "combined", "simulated", "lesions as marked"):
        assert words in text
    peak = {"pixel": np.zeros(volume.shape, "float32")}
    peak["pixel"][10, 10, 2] = 1
    assert "z = 6.0 mm" in text_of(anomaly.anomaly_planes(volume, peak, affine, None))
    assert anomaly.anomaly_planes(volume, maps, affine, tmp_path / "p.png").exists()


def test_curves_state_areas_and_chance(lesion_scores):
    curves = {name: lesion_scores.curves(name) for name in lesion_scores.methods}
    figure = anomaly.roc_and_precision_recall(curves, lesion_scores.pooled(), None, simulated=True)
    text = text_of(figure)
    pooled = lesion_scores.pooled().set_index("method")
    assert f"{pooled.loc['combined', 'average_precision']:.4f}" in text
    assert f"{pooled.loc['pixel', 'auroc']:.3f}" in text
    assert f"chance: {pooled['prevalence'].iloc[0]:.4f}" in text
    assert "percentile threshold (baseline)" in text
    assert "simulated" in text


def test_bars_show_subjects_with_lesions(lesion_scores):
    figure = anomaly.score_bars(lesion_scores.table(), None)
    ax = figure.axes[0]
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert len(labels) == 3
    assert "mL" in labels[0]
    bars = [patch.get_height() for patch in ax.patches]
    table = lesion_scores.table().dropna(subset=["average_precision"])
    assert sorted(bars) == pytest.approx(sorted(table["average_precision"]))
    with pytest.raises(ValueError, match="empty"):
        anomaly.score_bars(lesion_scores.table().query("subject == 'well'"), None)


class TestReport:
    def page(self, tmp_path, *args, **options):
        report = anomaly.anomaly_report(*args, **options)
        text = write_report(tmp_path / "r.html", report).read_text(encoding="utf-8")
        return re.sub(r"\s+", " ", text)

    def test_what_a_reader_needs(self, tmp_path, lesion_scores):
        path = anomaly.score_bars(lesion_scores.table(), tmp_path / "b.png")
        text = self.page(
            tmp_path,
            lesion_scores,
            {"bars": path, "scans": [("one", 0.4, [(path, "scan one")])]},
            about="a model",
            settings={"median": 5},
            modality="FLAIR",
            direction="bright",
            simulated=True,
            notes=["2 scans were left out"],
        )
        for words in (
            "nothing here holds for patients",
            "Meissen et al. 2021",
            "still optimistic",
            "percentile threshold (baseline)",
            "2 scans were left out",
            "scan one",
            "Only places brighter",
            "data:image/png",
            "median",
        ):
            assert words in text
        own = lesion_scores.summary().set_index("method").loc["combined", "average_precision"]
        assert f"{own:.3f}" in text

    def test_the_highest_are_shown_and_the_others_linked(self, tmp_path, lesion_scores):
        path = anomaly.score_bars(lesion_scores.table(), tmp_path / "a b.png")
        scans = [(f"s{i}", i / 10, [(path, f"scan {i}.")]) for i in range(14)]
        text = self.page(tmp_path, None, {"scans": scans})
        shown = re.findall(r"<figcaption>(scan \d+)\.", text)
        assert shown == [f"scan {i}" for i in range(13, 1, -1)]
        assert re.findall(r'<a href="a%20b.png">(scan \d)</a>', text) == ["scan 1", "scan 0"]
        assert "12 scans of 14" in text

    def test_t1_and_calibrated(self, tmp_path, lesion_scores):
        text = self.page(tmp_path, lesion_scores, {}, modality="T1w", calibrated=True)
        assert "Meissen" not in text
        assert "found on other, healthy subjects" in text
        assert "simulated" not in text

    def test_without_masks(self, tmp_path):
        text = self.page(tmp_path, None, {}, simulated_training=True)
        assert "How well lesions are found" not in text
        assert "learned from simulated brains" in text
        assert "surprise of the codes" in text
