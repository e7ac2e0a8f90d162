"""What the machine and the user's settings do to a command: one line, or nothing at all."""

import errno
import os
import signal
import time
import types

import numpy as np
import pandas as pd
import pytest

from brainvq import cli
from brainvq.app import single
from brainvq.data import Cohort
from brainvq.errors import UserError
from brainvq.tasks import task
from brainvq.tasks.base import read_subjects
from brainvq.tasks.run import _moved
from brainvq.tasks.scans import _read_description
from brainvq.training import runs
from brainvq.training.runs import RunFolder


class ResourceExhaustedError(Exception):
    __module__ = "tensorflow.python.framework.errors_impl"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ResourceExhaustedError("OOM when allocating tensor with shape[3000000,64]"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_out_of_memory_is_one_line_that_says_what_helps(error, capsys):
    def call():
        raise error

    with pytest.raises(SystemExit) as stop:
        cli.guarded(call, "a smaller --batch-size")
    assert stop.value.code == 2
    expected = "error: memory: found too little; expected a smaller --batch-size\n"
    assert capsys.readouterr().err == expected


def test_a_name_too_long_is_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        cli.guarded((tmp_path / ("a" * 300)).read_text)
    assert stop.value.code == 2
    assert "expected a shorter one" in capsys.readouterr().err


def test_sigterm_says_how_to_go_on(capsys):
    def call():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("Saved: all.") from stop

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        cli.guarded(call)
    assert stop.value.code == 143
    assert capsys.readouterr().err == "\nterminated. Saved: all.\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def default_interrupt():
    """Ctrl-C as in a terminal: a shell that runs the tests in the background turns it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_python_has_to_ignore_comes_again(sign, status, default_interrupt):
    class Holds:
        def __del__(self):
            signal.raise_signal(sign)

    def call():
        held = Holds()
        del held
        for _ in range(500):
            time.sleep(0.01)
        raise AssertionError("the signal was lost")

    with pytest.raises(SystemExit) as stop:
        cli.guarded(call)
    assert stop.value.code == status


def test_home_folders_are_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = ["~/scans", "--out=~/x", "--labels=~/p.tsv:group", "a~b", "--out"]
    expected = ["/home/me/scans", "--out=/home/me/x", "--labels=/home/me/p.tsv:group", *words[3:]]
    assert list(map(cli.with_home, words)) == expected


@pytest.mark.parametrize("text", ['{"backend": "torch"}', "{", "[]"])
def test_the_backend_of_another_project_does_not_count(tmp_path, monkeypatch, text):
    (tmp_path / "keras.json").write_text(text)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "")
    cli.choose_backend()
    assert os.environ["KERAS_BACKEND"] in ("tensorflow", "jax")
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    with pytest.raises(UserError, match="KERAS_BACKEND: found 'theano'; expected one of"):
        cli.choose_backend()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"floatx": "bfloat16"}', True),
        ('{"floatx": ["float32"]}', True),
        ('{"epsilon": 1}', True),
        ('{"image_data_format": null}', True),
        ("[1]", True),
        ('{"floatx": "float16", "epsilon": 1e-7, "image_data_format": "channels_first"}', False),
        ("no JSON", False),
    ],
)
def test_settings_that_keras_itself_refuses_are_passed_over(
    tmp_path, monkeypatch, caplog, text, told
):
    (tmp_path / "keras.json").write_text(text)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    cli.choose_backend()
    assert (os.environ["KERAS_HOME"] != str(tmp_path)) == told
    assert ("keras.json: is passed over" in caplog.text) == told


def test_a_run_is_of_one_process_at_a_time(tmp_path):
    run, other = RunFolder(tmp_path), RunFolder(tmp_path)
    refused = pytest.raises(UserError, match=f"process {os.getpid()} is training it")
    with run.lock(), refused, other.lock():
        pass
    (tmp_path / ".lock").write_text("999999\n")  # of a process that was killed
    with run.lock():
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_what_a_killed_run_left_half_written_goes_with_its_lock(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in (".model-0123abcd.keras", "checkpoints/.model-0123abcd.npz", "model.keras"):
        (tmp_path / name).touch()
    with RunFolder(tmp_path).lock():
        left = {path.name for path in tmp_path.rglob("*")}
        assert left == {"checkpoints", ".lock", "model.keras"}


def test_a_full_disk_names_file_and_stage_and_what_is_saved(tmp_path, monkeypatch):
    def stages(run, clock, strategy):
        with clock("autoencoder"):
            raise OSError(errno.ENOSPC, "No space left on device", "history.csv")

    monkeypatch.setattr(single, "_train_stages", stages)
    folder = RunFolder(tmp_path)
    run = types.SimpleNamespace(folder=folder, path=folder.path, file=folder.file)
    with pytest.raises(UserError) as caught:
        single.train_run(run, "brainvq train")
    assert str(caught.value) == (
        "history.csv: No space left on device, at the stage autoencoder; expected a disk with "
        "room. Saved: the settings and the scans that are prepared. Go on with: brainvq train "
        f"--resume {tmp_path}"
    )


def test_no_run_is_left_that_could_not_be_begun(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(runs, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        RunFolder.create(tmp_path, "s", "v", {})
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_command_says_what_is_kept(capsys):
    def call():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        cli.guarded(call, kept="Finished scans are kept")
    assert capsys.readouterr().err == "\ninterrupted. Finished scans are kept\n"


def test_what_is_saved(tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / "history.csv").write_text("epoch,loss\n1,2\n2,1\n")
    assert run.saved() == "autoencoder after 2 epochs"
    (tmp_path / "model.keras").touch()
    assert run.saved() == "the trained autoencoder"


def test_too_few_test_subjects_are_said_before_training():
    splits = ["train"] * 4 + ["validation", "test"]
    rows = [
        {"scan_id": f"s{number}", "subject": f"s{number}", "paths": ("x.nii",), "split": split}
        for number, split in enumerate(splits)
    ]
    with pytest.raises(UserError, match="found 1 subjects in the test split; expected 2 or more"):
        task("vectors").check_cohort(None, Cohort("six", rows))


@pytest.mark.parametrize("content", [b"null", b'"text"', b"{", b"\xff"])
def test_a_description_that_says_nothing_stops_nothing(tmp_path, content):
    (tmp_path / "d.json").write_bytes(content)
    assert _read_description(tmp_path / "d.json") == {}


def test_a_description_with_a_byte_order_mark(tmp_path):
    (tmp_path / "d.json").write_bytes(b'\xef\xbb\xbf{"Name": "x"}')
    assert _read_description(tmp_path / "d.json") == {"Name": "x"}


def test_paths_of_data_that_were_moved():
    places = {"data/a": "data/b", "/x/data/a": "/x/data/b"}
    paths = ["data/a/1.nii", "mask=/x/data/a/m.nii", "axcodes=LAS:data/a/1.img", "data/ab/1.nii"]
    assert [_moved(path, places) for path in paths] == [
        "data/b/1.nii",
        "mask=/x/data/b/m.nii",
        "axcodes=LAS:data/b/1.img",
        "data/ab/1.nii",
    ]


def test_subjects_keep_their_names(tmp_path):
    names = ["02", "NA", "null", "nan"]
    table = pd.DataFrame({"subject": names, "ssim": [0.5, np.nan, 1, 0.25]})
    table.to_csv(tmp_path / "subjects.csv", index=False)
    found = read_subjects(types.SimpleNamespace(file=lambda name: tmp_path / name))
    assert list(found["subject"]) == names
    np.testing.assert_array_equal(found["ssim"], table["ssim"])
