"""Label maps of codes, and the list of their labels."""

from types import SimpleNamespace

import numpy as np
import pytest

from brainvq.data.code_maps import label_maps, label_table

MAP = SimpleNamespace(
    height=2,
    width=3,
    topology="toroid",
    coordinates=np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]),
)
LABELS = np.array([[[0, 1], [6, 4]]], "int16")


def test_rows_and_columns_count_from_one_and_background_stays_zero():
    maps = label_maps(LABELS, 6, MAP)
    assert list(maps) == ["codes", "somrow", "somcolumn"]
    np.testing.assert_array_equal(maps["codes"][0], LABELS)
    np.testing.assert_array_equal(maps["somrow"][0], [[[0, 1], [2, 2]]])
    np.testing.assert_array_equal(maps["somcolumn"][0], [[[0, 1], [3, 1]]])
    for name, last in (("codes", 6), ("somrow", 2), ("somcolumn", 3)):
        values, about = maps[name]
        assert values.dtype == np.int16
        assert about["MapShape"] == [2, 3]
        assert f"1 to {last}" in about["Description"]
        assert "0: outside" in about["Description"]


def test_a_codebook_without_a_map_has_codes_alone():
    maps = label_maps(LABELS, 512)
    assert list(maps) == ["codes"]
    assert maps["codes"][1]["Codes"] == 512
    assert "MapShape" not in maps["codes"][1]


@pytest.mark.parametrize("som", [None, MAP])
def test_every_label_has_a_name_and_a_colour(som):
    colours = np.linspace([0, 0, 0], [1, 1, 0], 6)
    table = label_table(colours, som)
    assert list(table["index"]) == [1, 2, 3, 4, 5, 6]
    assert table["color"].iloc[[0, -1]].tolist() == ["#000000", "#ffff00"]
    assert table["name"].iloc[4] == ("code 4" if som is None else "row 1, column 1")
    if som is not None:
        assert list(table["column"]) == [0, 1, 2, 0, 1, 2]
