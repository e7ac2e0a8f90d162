"""Anatomy of drawn slices at the end of a run, and beside what `predict` draws."""

import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from brainvq.errors import UserError
from brainvq.tasks.slices import samples
from brainvq.tasks.slices.measures import measure_anatomy

PEOPLE, SLICES = 4, 30


def blobs(count, seed):
    """Discs with two dark places, a little different each: `(n, 32, 32, 1)`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    images = np.zeros((count, 32, 32), "float32")
    for image in images:
        row, column = rng.normal(16, 0.5, 2)
        image[(y - row) ** 2 + (x - column) ** 2 < 121] = 0.8
        for side in (-4, 4):
            image[(y - row) ** 2 + (x - column - side) ** 2 < rng.uniform(3, 8)] = 0.1
    return np.clip(images + rng.normal(0, 0.01, images.shape), 0, 1)[..., None].astype("float32")


class Run:
    """What is asked of a `LoadedRun`."""

    def __init__(self, classes=16):
        count = PEOPLE * SLICES
        scans = np.repeat([f"s{i}" for i in range(PEOPLE)], SLICES)
        table = {"index": np.tile(np.arange(SLICES), PEOPLE), "scan_id": scans, "subject": scans}
        images = blobs(count, 0)
        self.store = SimpleNamespace(table=pd.DataFrame(table), read=lambda rows: images[rows])
        self.model = SimpleNamespace(reconstruct=lambda x: x * 1.5)
        self.study = SimpleNamespace(draws_by_height=classes is not None, seed=2)

    def some(self, split, count):
        return np.arange(PEOPLE * SLICES)[:count]


def test_draws_are_measured_where_their_height_is_known():
    measured, pictures = measure_anatomy(Run(), blobs(64, 1))
    assert measured["anatomy"]["people"] == PEOPLE
    assert measured["anatomy"]["draws"]["mirror"] > 0.5
    drawn = measured["lineup"]["drawn"]
    assert measured["lineup"]["pictures"] == len(pictures) == 2 * len(drawn) == 40
    assert 1 <= min(drawn) < max(drawn) <= 40
    assert pictures.max() <= 1
    assert measure_anatomy(Run(classes=None), blobs(64, 1)) == ({}, None)


@pytest.mark.parametrize("level", [None, 0.5])
def test_predict_writes_a_table_where_unseen_slices_are_at_hand(
    level, tmp_path, monkeypatch, caplog
):
    options = SimpleNamespace(level=level, stack=False, out=tmp_path / "out")
    trained = SimpleNamespace(path=tmp_path, model=Run().model)
    log, draw = logging.getLogger("brainvq"), samples.SliceSamples().measure_drawn
    draw(trained, blobs(64, 1), options, log)
    assert not options.out.exists()
    (tmp_path / "store.json").write_text('{"path": "gone"}')
    monkeypatch.setattr(samples.LoadedRun, "open", lambda path: Run())
    opened = {"gone": UserError("gone: found nothing")}

    def open_store(path):
        if path in opened:
            raise opened[path]
        return Run().store

    monkeypatch.setattr(samples.ArrayStore, "open", open_store)
    with caplog.at_level("INFO", "brainvq"):
        draw(trained, blobs(64, 1), options, log)
    assert ("gone: found nothing" in caplog.text) == (level is None)
    opened.clear()
    draw(trained, blobs(64, 1), options, log)
    assert (options.out / "anatomy.csv").exists() == (level is None)
    if level is None:
        table = pd.read_csv(options.out / "anatomy.csv")
        assert list(table) == ["measure", "draws", "real against real", "shuffled halves"]
