import pytest

from brainvq.errors import UserError
from brainvq.files import read_json, write_json
from brainvq.training.runs import Clock, RunFolder


def test_runs_made_in_the_same_second_do_not_collide(tmp_path):
    runs = [RunFolder.create(tmp_path, "s", "v", {"number": n}) for n in range(3)]
    assert len({run.path for run in runs}) == 3
    for run in runs:
        (run.path / "model.keras").touch()
    assert RunFolder.newest(tmp_path).study["number"] == 2


def test_newest_passes_over_unfinished_runs(tmp_path):
    assert RunFolder.newest(tmp_path) is None
    done = RunFolder.create(tmp_path, "s", "v", {})
    (done.path / "model.keras").touch()
    RunFolder.create(tmp_path, "s", "v", {})
    assert RunFolder.newest(tmp_path).path == done.path


def test_no_such_run(tmp_path):
    with pytest.raises(UserError, match="nothing: no such folder"):
        RunFolder.open(tmp_path / "nothing")
    with pytest.raises(UserError, match="has no study.json"):
        RunFolder.open(tmp_path)


def test_a_run_of_another_version_is_refused(tmp_path):
    run = RunFolder.create(tmp_path, "s", "v", {})
    write_json(run.file("study.json"), {**run.study, "format": 99, "brainvq": "9.0"})
    with pytest.raises(UserError, match="found format 99; expected 1.*brainvq 9.0"):
        RunFolder.open(run.path)


def test_a_run_whose_study_is_no_json(tmp_path):
    run = RunFolder.create(tmp_path, "s", "v", {})
    run.file("study.json").write_text("{")
    with pytest.raises(UserError, match="study.json: not JSON"):
        RunFolder.open(run.path)


def test_clock_adds_up_over_sittings(tmp_path):
    for _ in range(2):
        with Clock(tmp_path / "t.json")("data"):
            pass
    assert set(read_json(tmp_path / "t.json")) == {"data"}
    assert Clock(tmp_path / "t.json").total() >= 0
