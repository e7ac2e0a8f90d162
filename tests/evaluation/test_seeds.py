"""Tables over seeds, against numbers worked out by hand."""

import numpy as np
import pytest

from brainvq.evaluation.seeds import seed_table


def measures(ssim, bits):
    return {
        "reconstruction": {"ssim": {"mean": ssim, "sd": 0.1, "n": 4}},
        "prior": {"bits_per_code": bits},
        "simulated": True,
        "grid": [16, 16],
    }


def test_means_and_paired_differences():
    runs = [
        ("a", 0, measures(0.80, 3.0)),
        ("b", 0, measures(0.82, 3.0)),
        ("a", 1, measures(0.90, 3.2)),
        ("b", 1, measures(0.94, 3.2)),
    ]
    table = seed_table(runs).set_index(["measure", "variant"])
    assert set(table.index.get_level_values(0)) == {"reconstruction ssim", "prior bits_per_code"}
    row = table.loc[("reconstruction ssim", "b")]
    assert row["seeds"] == 2
    assert row["mean"] == pytest.approx(0.88)
    assert row["sd"] == pytest.approx(np.sqrt(0.0072))
    # Student's t with one degree of freedom: 12.706 standard errors.
    assert row["difference"] == pytest.approx(0.03)
    assert row["difference_high"] == pytest.approx(0.03 + 12.706 * 0.01, abs=1e-4)
    assert np.isnan(table.loc[("reconstruction ssim", "a"), "difference"])


def test_one_seed_has_no_interval_and_a_missing_measure_no_row():
    table = seed_table([("a", 0, measures(0.8, 3.0)), ("b", 0, {"other": 1})])
    assert table["sd"].isna().all()
    assert sorted(table["measure"]) == ["other", "prior bits_per_code", "reconstruction ssim"]
