"""The page on performance says what its file of results says."""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("tables", FOLDER / "tables.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tables", module)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_page_are_those_of_the_results(tables):
    text = tables.PAGE.read_text()
    assert text.count("<!-- table") == len(tables.TABLES)
    assert tables.page(text, tables.read()) == text


@pytest.mark.parametrize("name", ["bench", "gpu"])
def test_sides_take_the_sizes_that_they_are_given(tables, name):
    program, peers = importlib.import_module(name), importlib.import_module("peers")
    jobs = [*program.LIMITS.values()]
    for *_, sizes, small, sides in program.COMPARISONS.values():
        jobs += [
            (function, given | further)
            for function, further in sides.values()
            for given in (sizes, sizes | small)
        ]
    for function, sizes in jobs:
        given = {key: value for key, value in sizes.items() if key != "precision"}
        inspect.signature(getattr(peers, function)).bind(**given)


def test_ratios_are_those_of_the_rounds(tables):
    spec = importlib.util.spec_from_file_location("bench", FOLDER / "bench.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)

    def rounds(*seconds):
        return [{"wall": wall, "cpu": 2 * wall, "memory": int(1e9 * wall)} for wall in seconds]

    facts = {"work": 6.0, "flops": 12.0, "weights": None, "first": 1.0}
    given = {"ours": rounds(1, 2, 3), "peer": rounds(4, 4, 3), "matmul": rounds(1, 1, 1)}
    given["copy"] = rounds(1, 1, 1)
    found = bench.summary(["ours", "peer"], dict.fromkeys(given, facts), given)
    ours, peer = found["sides"].values()
    # Medians: 2 and 4 s; ratios of the rounds 4, 2 and 1.
    assert (ours["rate"], peer["rate"]) == (3.0, 1.5)
    assert (ours["ratio"], peer["ratio"], peer["ratios"]) == (1.0, 2.0, [1.0, 4.0])
    assert ours["share_of_matmul"] == 1.0
    assert peer["memory"] == 4e9
    row = tables.side_row("peer", peer)
    assert row == ["peer", "1.5", "2 (1 to 4)", "2", "4.00 GB", "50%"]


def test_scans_are_healed_where_marked_and_where_bright(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    healed = importlib.import_module("flair_training").healed
    rng = np.random.default_rng(0)
    at = np.stack(np.meshgrid(*[np.arange(-20, 20)] * 3, indexing="ij"))
    x = np.where(np.linalg.norm(at, axis=0) < 18, 140 + 8 * rng.normal(size=at.shape[1:]), 0)
    near = {place: np.abs(at - place).max(0) for place in (-6, 6)}
    for distance in near.values():
        x = np.where(distance < 3, 220, x)
    whole = healed(x.astype("float32"), near[6] < 2, rng)  # one is marked, in part
    for distance in near.values():
        assert whole[distance < 3].mean() == pytest.approx(140, abs=5)
    elsewhere = np.minimum(*near.values()) > 5  # but for what the noise has made bright
    assert (whole == x.astype("float32"))[elsewhere].mean() > 0.97
