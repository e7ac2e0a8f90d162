import pytest

from brainvq.errors import UserError
from brainvq.files import read_json, write_json
from brainvq.training.runs import Clock, RunFolder


def test_runs_made_in_the_same_second_do_not_collide(tmp_path):
    runs = [RunFolder.create(tmp_path, "s", "v", {"number": n}) for n in range(3)]
    assert len({run.path for run in runs}) == 3
    for run in runs:
        (run.path / "finished.json").touch()
    assert RunFolder.newest(tmp_path).study["number"] == 2


def test_newest_passes_over_unfinished_and_smoke_runs(tmp_path):
    assert RunFolder.newest(tmp_path) is None
    done = RunFolder.create(tmp_path, "s", "v", {}, name="mine")
    smoke = RunFolder.create(tmp_path, "s", "v", {"smoke": True})
    for run in (done, smoke):
        (run.path / "finished.json").touch()
    stopped = RunFolder.create(tmp_path, "s", "v", {})
    assert smoke.name.startswith("s-v-smoke-")
    assert smoke.smoke
    assert not done.smoke
    assert RunFolder.newest(tmp_path).path == done.path == tmp_path / "mine"
    latest = RunFolder.newest(tmp_path, having="study.json", without="finished.json")
    assert latest.path == stopped.path


@pytest.mark.parametrize("name", ["", "..", "a/b", "/tmp/x"])
def test_a_name_is_that_of_a_folder(name, tmp_path):
    with pytest.raises(UserError, match="--name: found"):
        RunFolder.create(tmp_path, "s", "v", {}, name=name)
    RunFolder.create(tmp_path, "s", "v", {}, name="mine")
    with pytest.raises(UserError, match="mine is there already"):
        RunFolder.create(tmp_path, "s", "v", {}, name="mine")


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
