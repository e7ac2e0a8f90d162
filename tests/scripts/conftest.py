"""Runs commands in a folder of their own: as processes, as a user does, or in this one."""

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Small enough for a second of training: what `--smoke` gives, with fewer slices still.
SMOKE = ("--smoke", "--data.subjects", "6", "--data.slice-spacing", "12", "--sampling.samples", "8")


def start(folder, script, *words, **environment):
    """Starts `python SCRIPT WORDS...` in `folder`; returns the `subprocess.Popen`."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "default", **environment},
        stdin=subprocess.DEVNULL,
        # A shell that runs the tests in the background lets its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder, script, *words, status=0, **environment):
    """Runs a program to its end and checks its exit status; returns (output, errors)."""
    process = start(folder, script, *words, **environment)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == status, f"{script} {words}\n{output}\n{errors}"
    assert "Traceback" not in errors
    return output, errors


def call(folder, command, *words):
    """`brainvq COMMAND WORDS...` in this process: the program's own start is tested elsewhere."""
    with contextlib.chdir(folder):
        main = importlib.import_module(f"brainvq.app.{command}").main
        main([str(word) for word in words], f"brainvq {command}")


def use(folder, *words):
    """`brainvq predict` in this process."""
    call(folder, "predict", *words)


# The one of PyPI, beside this Python or elsewhere, or the one of npm.
PLACES = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
VALIDATOR = shutil.which("bids-validator-deno", path=PLACES) or shutil.which("bids-validator")


def bids_errors(folder):
    """What the BIDS validator finds wrong with a folder; skips the test where there is none."""
    if VALIDATOR is None:
        pytest.skip("no bids-validator-deno (pip) or bids-validator (npm) is installed")
    words = [VALIDATOR, str(folder), "--ignoreWarnings", "--format", "json"]
    found = subprocess.run(words, capture_output=True, text=True, timeout=120)
    issues = json.loads(found.stdout)["issues"]["issues"]
    return [f"{one['code']} {one.get('location', '')}" for one in issues]


def only_run(folder):
    """The one run in `folder`/runs."""
    (study,) = (Path(folder) / "runs").glob("*/study.json")
    return study.parent


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder in which `train.py --smoke` has run."""
    folder = tmp_path_factory.mktemp("trained")
    run(folder, "train.py", *SMOKE)
    return folder
