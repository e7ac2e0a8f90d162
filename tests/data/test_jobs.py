"""Worker processes: what they do where a command is stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from brainvq.data.jobs import run_jobs
from brainvq.errors import UserError

SLOW = """
import time
from brainvq.data.jobs import run_jobs
list(run_jobs(time.sleep, [(600,)] * 2, workers=2, title="waiting", progress=False))
"""


def leaves_interrupts(number):
    return number, os.getpid(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_workers_leave_ctrl_c_to_the_command():
    before = signal.getsignal(signal.SIGINT)
    found = list(
        run_jobs(
            leaves_interrupts, [(n,) for n in range(4)], workers=2, title="asking", progress=False
        )
    )
    assert sorted(number for number, *_ in found) == [0, 1, 2, 3]
    assert all(ignored and process != os.getpid() for _, process, ignored in found)
    assert signal.getsignal(signal.SIGINT) == before


def test_workers_of_a_killed_command_end_soon():
    process = subprocess.Popen([sys.executable, "-c", SLOW], start_new_session=True)
    until = time.monotonic() + 60
    while len(group(process.pid)) < 3 and time.monotonic() < until:
        time.sleep(0.1)
    process.kill()
    process.wait()
    while group(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    left = group(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert not left


def test_without_the_package_a_scheduler_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="^--data.scheduler tcp://a:1: the package distributed is"):
        list(run_jobs(abs, [(-1,)], title="asking", progress=False, scheduler="tcp://a:1"))


def group(leader):
    """The living processes of a group."""
    found = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True)
    rows = [line.split() for line in found.stdout.splitlines()]
    return [pid for pid, of, state in rows if int(of) == leader and not state.startswith("Z")]
