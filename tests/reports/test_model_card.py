"""The model card: every field told, nothing unknown taken."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from brainvq.reports import ModelCard, write_model_card
from brainvq.reports.model_card import markdown_table

FULL = {
    "name": "oasis2d best",
    "intended_use": "research-only",
    "data_name": "ds-name",
    "data_licence": "CC0",
    "data_attribution": "the-authors",
    "split": {"train": 14, "test": 3},
    "split_rule": "by-subject-seed-0",
    "preprocessing": ["Canonical(LPS)", "ScaleIntensity"],
    "intensity_range": (0, 1),
    "input_shape": "(128, 128, 1)",
    "shape_rule": "divisible-by-8",
    "channels": "one-channel",
    "codes": "16x16-of-512",
    "bits": 2304,
    "measures": pd.DataFrame({"measure": ["ssim"], "mean": [0.91]}),
    "ssim_parameters": {"dimensions": "2D", "window_size": 7},
    "training": "python train.py oasis2d",
    "versions": {"keras": "3.15.1"},
    "limitations": ["few-subjects"],
    "citation": "cite-me",
    "licence": "Apache-2.0",
}


def test_every_field_is_told(tmp_path):
    assert {f.name for f in dataclasses.fields(ModelCard)} == set(FULL) | {"simulated"}
    text = write_model_card(tmp_path / "MODEL_CARD.md", FULL).read_text(encoding="utf-8")
    for key in set(FULL) - {
        "split",
        "preprocessing",
        "intensity_range",
        "measures",
        "ssim_parameters",
        "versions",
        "limitations",
    }:
        assert str(FULL[key]) in text, key
    for part in (
        "17 (14 train, 3 test)",
        "1. Canonical(LPS)\n2. ScaleIntensity",
        "Intensity: 0 to 1",
        "| ssim | 0.9100 |",
        "dimensions 2D; window_size 7",
        "keras 3.15.1",
        "- few-subjects",
        "```\npython train.py oasis2d\n```",
        "real scans",
    ):
        assert part in text
    assert "simulated" not in text.lower()


def test_simulated_is_said_first(tmp_path):
    text = write_model_card(tmp_path / "a.md", ModelCard("m", simulated=True)).read_text()
    assert text.splitlines()[0] == "# m (simulated brains)"
    assert text.splitlines()[2].startswith("> Trained on simulated brains")
    assert "real scans" not in text


def test_empty_fields_are_left_out(tmp_path):
    text = write_model_card(tmp_path / "a.md", {"name": "m"}).read_text()
    assert "Not stated." in text
    assert "Citation" not in text
    assert "None" not in text


@pytest.mark.parametrize("card", [{"name": "m", "colour": "red"}, {"licence": "x"}])
def test_unknown_or_missing_fields(tmp_path, card):
    with pytest.raises(ValueError, match="Received"):
        write_model_card(tmp_path / "a.md", card)
    assert not list(tmp_path.iterdir())


def test_table_escapes_and_aligns():
    table = markdown_table(pd.DataFrame({"a|b": ["x|y"], "v": [np.nan]}))
    assert table == "| a\\|b | v |\n| --- | ---: |\n| x\\|y | – |"
