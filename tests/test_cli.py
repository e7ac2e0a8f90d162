"""The edge of every program: statuses, one line for a mistake, readers that have gone."""

import subprocess
import sys

import pytest

from brainvq.cli import guarded
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
