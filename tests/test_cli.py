"""The edge of every program: statuses, one line for a mistake, readers that have gone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import brainvq
from brainvq.cli import COMMANDS, guarded, main
from brainvq.errors import UserError


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("file x: bad;\nexpected good"), 2, "error: file x: bad; expected good\n"),
        (OSError(28, "No space left on device", "out.npy"), 2, "error: out.npy: No space left"),
        (KeyboardInterrupt("Go on"), 130, "interrupted. Go on\n"),
    ],
)
def test_a_mistake_is_one_line(capsys, error, status, text):
    def call():
        raise error

    with pytest.raises(SystemExit) as stop:
        guarded(call)
    assert stop.value.code == status
    printed = capsys.readouterr().err
    assert text in printed
    assert printed.strip().count("\n") == 0


def test_a_defect_keeps_its_traceback():
    def call():
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        guarded(call)


def test_a_reader_that_has_gone_is_no_traceback():
    code = (
        "import logging, sys; from brainvq.cli import guarded\n"
        "logging.basicConfig(stream=sys.stdout, level=logging.INFO)\n"
        "def call():\n"
        "    for line in range(20000): logging.info('line %d of many', line)\n"
        "    print('done', file=sys.stderr)\n"
        "guarded(call)"
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


ROOT = Path(__file__).resolve().parents[1]


# Runs `brainvq WORDS` where the packages BLOCKED are not installed, and says what it imported.
PROGRAM = """
import atexit, importlib.machinery, sys

class Installed:
    @staticmethod
    def find_spec(name, *args):
        if name.split(".")[0] not in BLOCKED:
            return importlib.machinery.PathFinder.find_spec(name, *args)

place = sys.meta_path.index(importlib.machinery.PathFinder)
sys.meta_path[place] = Installed
backends = ("keras", "tensorflow", "jax", "torch")
atexit.register(
    lambda: print("IMPORTED", *(m for m in backends if m in sys.modules), file=sys.stderr)
)
from brainvq.cli import main
main(WORDS)
"""


def brainvq_ends(words, blocked=(), **options):
    """Runs `brainvq WORDS`; returns status, output, errors and what of Keras was imported."""
    code = PROGRAM.replace("BLOCKED", repr(list(blocked))).replace("WORDS", repr(list(words)))
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, **options
    )
    errors, imported = process.stderr.split("IMPORTED")
    return process.returncode, process.stdout, errors, imported.split()


def test_version_and_help(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"brainvq {brainvq.__version__}\n"
    for command in COMMANDS:
        main([command, "--version"])
        assert capsys.readouterr().out == f"brainvq {brainvq.__version__}\n"
    for words in ([], ["--help"], ["-h"]):
        main(words)
        output = capsys.readouterr().out
        for command in COMMANDS:
            assert f"brainvq {command} " in output


def test_an_unknown_command_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["dance"])
    assert stop.value.code == 2
    known = ", ".join(COMMANDS)
    assert capsys.readouterr().err == f"error: command: found 'dance'; expected one of {known}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        *([command, "--help"] for command in COMMANDS),
        ["train", "som3d", "--help"],
        ["train", "nothing"],
        ["train", "--train.epochs", "0"],
        ["train", "--train.epoch", "1"],
        ["predict", "oasis2d", "sample", "--help"],
        ["predict", "oasis2d", "sample", "-n", "0"],
        ["compare", "--twice"],
        ["prepare", "--data.spacing", "wide"],
    ],
    ids=" ".join,
)
def test_options_are_read_before_keras_is_imported(words):
    status, output, errors, imported = brainvq_ends(words)
    assert imported == []
    if "--help" in words or "--version" in words:
        assert (status, errors) == (0, "")
        assert "brainvq" in output
    else:
        assert (status, output) == (2, "")
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "blocked", "message"),
    [
        (["train", "--smoke"], ["tyro"], "tyro: is not installed; .* pip install brainvq.app."),
        (["prepare", "--smoke"], ["nibabel"], "nibabel: is not installed; .* brainvq.app."),
        (
            ["predict", "oasis2d", "sample"],
            ["tensorflow", "jax", "torch"],
            "tensorflow: is not installed, .* expected a backend: pip install brainvq.tensorflow.",
        ),
    ],
)
def test_what_is_not_installed_is_named_with_what_to_install(tmp_path, words, blocked, message):
    status, _, errors, _ = brainvq_ends(words, blocked, cwd=tmp_path)
    assert status == 2, errors
    assert re.fullmatch(f"error: {message}.*\n", errors), errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "script", ["train.py", "predict.py", "similarity.py", "dataset.py", "hyperparameters.py"]
)
def test_a_door_at_the_top_shows_how_it_is_called(script):
    process = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    assert f"python {script}" in process.stdout
