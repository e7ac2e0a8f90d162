import copy

import numpy as np
import pandas as pd
import pytest

from brainvq.reports.generation import divergence_curves
from brainvq.reports.html import write_report
from brainvq.reports.latents import age_scatter
from brainvq.reports.model_card import write_model_card
from brainvq.reports.vector_pages import vectors_card, vectors_report

MEASURE = {"mean": 0.9, "sd": 0.01, "n": 4}
SIMILARITY = {
    name: MEASURE for name in ("ssim", "ssim_foreground", "psnr", "psnr_foreground", "mse")
}
SHARPNESS = [
    {"measure": name, "samples": 0.1, "real": 0.4, "ratio": 0.25, "low": 0.2, "high": 0.3}
    for name in ("laplacian", "laplacian_foreground")
]
DRAWN = {
    "sharpness": SHARPNESS,
    "diversity": [
        {"of": of, "ms_ssim": 0.8, "low": 0.7, "high": 0.9, "pairs": 10}
        for of in ("samples", "real")
    ],
    "fidelity": [
        {
            "space": "pca",
            "measure": "kernel",
            "corrected": 0.11,
            "low": 0.1,
            "high": 0.2,
            "reference": 0.01,
            "mean_volume": 3.5,
            "dim": 32,
        }
    ],
    "memorisation": [
        {"measure": "relative", "samples": 0.95, "unseen": 0.96, "share_nearer": 0.04}
    ],
}
COUNTS = {"scans": 9, "TP": 7, "FP": 1, "FN": 2, "TN": 20, "precision": 0.875, "recall": 0.778}
CLASSES = {
    "table": [{"class": "MS", **COUNTS}],
    "summary": [
        {"measure": "balanced_accuracy", "value": 0.61, "low": 0.5, "high": 0.7, "chance": 0.2}
    ],
}
METRICS = {
    "test_subjects": 4,
    "test_scans": 9,
    "simulated": False,
    "ssim_settings": {"window": "uniform"},
    "reconstruction": SIMILARITY,
    "parameters": {"autoencoder": 1234567},
    "latent_size": 256,
    "components": {"count": 250, "reconstruction": SIMILARITY},
    "reconstruction_sharpness": SHARPNESS,
    "generation": {"count": 128, "real": 9, "model": DRAWN, "components": DRAWN},
    "latents": {
        "active": 250,
        "dimensions": [{"dimension": 17, "f": 9.1, "p": 0.001, "q": 0.01, "eta2": 0.3}],
        "classes": CLASSES,
        "classes_of_components": CLASSES,
        "classes_without_metadata": CLASSES,
        "explained_by_metadata": 0.123,
        "age": [
            {
                "measure": "mae",
                "value": 5.4,
                "low": 5.0,
                "high": 6.0,
                "mean_age": 11.0,
                "scans": 9,
                "subjects": 4,
            }
        ],
    },
    "audit": {
        "alarm": True,
        "findings": [
            {"name": "te differs", "words": "te differs: 0.1 in MS", "alarm": True},
            {"name": "latents tell te", "words": "latents tell te", "alarm": False},
        ],
        "tests": [
            {
                "test": "te differs",
                "effect": 0.5,
                "measure": "V",
                "p": 0.001,
                "p_corrected": 0.004,
                "found": True,
            }
        ],
        "predictions": [{"features": "metadata", "target": "class", "auroc": 0.8}],
        "subjects": 40,
        "notes": ["site: the same for all subjects"],
        "people": [{"class": "MS", "subjects": 4, "age": 42.0, "sd": 9.0, "women": 0.7}],
    },
    "registration": {
        "scans": 13,
        "fit": 0.86,
        "smallest": 0.71,
        "outliers": ["sub-02"],
        "sharpness": 0.75,
    },
}
ABOUT = {
    "brainvq": "0.1",
    "keras": "3",
    "backend": "tensorflow",
    "command": "python train.py introvae3d",
    "steps": [{"name": "BlockMean", "size": 4}],
    "study": {
        "name": "introvae3d",
        "variant": "ivae-256",
        "seed": 3,
        "data": {"source": "bids", "shape": [160, 192, 160], "block": 4},
        "model": {"form": "hinge"},
    },
}
SUBJECTS = pd.DataFrame({"subject": ["01"], "ssim": [0.9]})


def page(tmp_path, metrics):
    report = vectors_report(ABOUT, metrics, SUBJECTS, {}, note="a note", failures=["x: broken"])
    return write_report(tmp_path / "report.html", report).read_text()


def test_the_page_tells_every_measure(tmp_path):
    text = page(tmp_path, METRICS)
    for words in (
        "Whole volumes to 256 numbers",
        "4 test subjects (9 scans) that training never saw",
        "1\u202f234\u202f567 weights",
        "25 % as sharp",
        "250 principal components",
        "kernel distance, principal components",
        "250 of 256 numbers vary",
        "balanced accuracy; chance 0.20",
        "latents without what metadata explain",
        "mean absolute error (years)",
        "A scanner may pass for a disease here: te differs: 0.1 in MS.",
        "ALARM: te differs",
        "12.30 % of the variance",
        "site: the same for all subjects",
        "Outliers: sub-02",
        "x: broken",
    ):
        assert words in text, words
    assert "ALARM: latents" not in text


def test_what_was_not_measured_is_left_out(tmp_path):
    metrics = copy.deepcopy(METRICS)
    for name in ("audit", "registration"):
        del metrics[name]
    metrics["latents"] = {"active": 3}
    text = page(tmp_path, metrics)
    for words in ("Bias audit", "<h2>Classes", "<h2>Age", "Registration", "Walks"):
        assert words not in text, words
    assert "A scanner may pass" not in text


def test_of_many_subjects_the_worst_are_listed(tmp_path):
    many = pd.DataFrame({"subject": [f"s{n:03d}" for n in range(50)], "ssim": np.arange(50) / 100})
    report = vectors_report(ABOUT, METRICS, many, {})
    text = write_report(tmp_path / "report.html", report).read_text()
    assert "The 20 test subjects with the lowest SSIM (all: subjects.csv)" in text
    assert "s019" in text
    assert "s020" not in text


def test_the_card_says_what_a_sample_is(tmp_path):
    card = vectors_card(ABOUT, METRICS, split={"train": 30, "test": 4}, data_facts={})
    write_model_card(tmp_path / "card.md", card)
    text = (tmp_path / "card.md").read_text()
    assert "(40, 48, 40, 1), voxels of 4 mm in the space of the ICBM152 template" in text
    assert "a vector of 256 numbers for a volume" in text
    assert "no real person" in text


def test_divergence_shows_real_and_generated_volumes(tmp_path):
    history = pd.DataFrame(
        {"epoch": [1, 2, 3, 4], "kl_real": [900.0, 30, 20, 21], "kl_fake": [5.0, 40, 45, 50]}
    )
    assert divergence_curves(history, tmp_path / "kl.png").exists()
    figure = divergence_curves(history, None, simulated=True)
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["generated", "real, training"]
    # The first epoch does not flatten the others.
    assert axes.get_ylim()[1] == pytest.approx(1.15 * 50)
    assert "simulated" in axes.get_title()
    with pytest.raises(ValueError, match="history has no kl_real"):
        divergence_curves(history[["epoch"]], None)


def test_ages_lie_along_the_diagonal(tmp_path):
    table = pd.DataFrame({"age": [20.0, 40.0, 60.0], "predicted": [30.0, 40.0, 55.0]})
    assert age_scatter(table, tmp_path / "age.png").exists()
    (axes,) = age_scatter(table, None).axes
    np.testing.assert_allclose(axes.collections[0].get_offsets(), table)
    assert "off by 5.0" in axes.get_ylabel()
    with pytest.raises(ValueError, match="Received: none"):
        age_scatter(table[:0], None)
