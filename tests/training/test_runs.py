import subprocess
import sys

import pytest

from brainvq.errors import UserError
from brainvq.files import read_json, write_json
from brainvq.training.programs import Clock, run_program
from brainvq.training.runs import RunFolder


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


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("file x: bad;\nexpected good"), 2, "error: file x: bad; expected good\n"),
        (OSError(28, "No space left on device", "out.npy"), 2, "error: out.npy: No space left"),
        (KeyboardInterrupt(), 130, "interrupted. Go on\n"),
    ],
)
def test_a_mistake_is_one_line(capsys, error, status, text):
    def main(arguments):
        raise error

    with pytest.raises(SystemExit) as stop:
        run_program(main, [], on_interrupt=lambda: "Go on")
    assert stop.value.code == status
    printed = capsys.readouterr().err
    assert text in printed
    assert printed.strip().count("\n") == 0


def test_a_defect_keeps_its_traceback():
    def main(arguments):
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        run_program(main, [])


def test_a_reader_that_has_gone_is_no_traceback():
    code = (
        "import logging, sys; from brainvq.training.programs import run_program\n"
        "logging.basicConfig(stream=sys.stdout, level=logging.INFO)\n"
        "def main(arguments):\n"
        "    for line in range(20000): logging.info('line %d of many', line)\n"
        "    print('done', file=sys.stderr)\n"
        "run_program(main, [])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "line 0" in process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.wait()
    process.stderr.close()
    assert "done" in errors
    assert "Traceback" not in errors
    assert "Logging error" not in errors


def test_clock_adds_up_over_sittings(tmp_path):
    for _ in range(2):
        with Clock(tmp_path / "t.json")("data"):
            pass
    assert set(read_json(tmp_path / "t.json")) == {"data"}
    assert Clock(tmp_path / "t.json").total() >= 0
