"""Paths of the machine in what is handed on."""

import pytest

from brainvq.places import without_places
from brainvq.training.shipped import SHIPPED, shipped


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.py --data.root /home/anna/ds --seed 1", "train.py --data.root DIR --seed 1"),
        ("x --data.root=anna-study --runs here", "x --data.root=DIR --runs DIR"),
        ("x --data.root '/home/my files/a' -n 3", "x --data.root DIR -n 3"),
        ("x --data.mask-tool '/opt/x -i {input}' -n", "x --data.mask-tool DIR -n"),
        ("read ~/data/a.nii and C:\\Users\\anna\\b.nii", "read DIR and DIR"),
        ("weights (/tmp/anna/w.h5), then", "weights (DIR), then"),
        ("10.18112/openneuro.ds002748 at https://x.org/a/b, 1/2 of 16 / 3", None),
        ("SSIM 7x7; mean/sd; bits per input", None),
    ],
)
def test_texts(text, expected):
    assert without_places(text) == (text if expected is None else expected)


def test_known_places_and_nested_values():
    value = {"a": ["in data/anna here", 3, None], "b": {"c": "/home/anna"}}
    assert without_places(value, ["data/anna", None]) == {
        "a": ["in DIR here", 3, None],
        "b": {"c": "DIR"},
    }


def test_shipped_weights_state_their_terms():
    for name in shipped():
        card = (SHIPPED / name / "MODEL_CARD.md").read_text(encoding="utf-8")
        licence = card.partition("## Licence\n")[2]
        assert "Apache License 2.0" in licence
        assert "- Licence: " in card
        assert without_places(card) == card
