"""Progress on a terminal and in the log of a batch job."""

import itertools
import sys

import pytest

from brainvq import progress as module
from brainvq.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by ten seconds with every look at it."""
    ticks = itertools.count(0, 10)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(ticks))


def work(count=40, **options):
    with progress(count, "preparing scans", "scan", **options) as bar:
        bar.mininterval = bar.delay = 0  # tqdm looks at its own clock
        for _ in range(count):
            bar.update()
            bar.refresh()


def test_without_a_terminal_there_are_whole_lines(capsys):
    work()
    shown = capsys.readouterr().err
    assert shown.startswith("preparing scans: 100% 40/40 [")
    assert shown.count("\n") == 1
    assert "\r" not in shown


def test_lines_come_at_steady_times(capsys, clock):
    work(part=True)
    lines = capsys.readouterr().err.splitlines()
    assert 20 <= len(lines) <= 30  # some 90 looks at the clock, at least thirty seconds apart
    assert all(line.startswith("preparing scans: ") and "scan" in line for line in lines)


@pytest.mark.parametrize("options", [{"shown": False}, {"part": True}, {"count": 0}])
def test_small_parts_and_hidden_work_leave_nothing(capsys, options):
    work(**options)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    work()
    shown = capsys.readouterr().err
    assert "\r" in shown
    assert "100%|" in shown


def test_a_line_between(capsys):
    with progress(3, "work") as bar:
        bar.update()
        module.say("left out a: damaged")
        bar.update()
    captured = capsys.readouterr()
    assert captured.out == "left out a: damaged\n"
    assert captured.err.startswith("work:  67% 2/3 [")
    assert captured.err.count("\n") == 1


def test_bars_are_made_in_one_place():
    package = module.__file__.removesuffix("progress.py")
    from pathlib import Path

    using = [path.name for path in Path(package).rglob("*.py") if "import tqdm" in path.read_text()]
    assert using == ["progress.py"]
