"""A small share of `make faults`: one command is killed, and its disk is full."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "faults.py"


def test_a_command_that_is_killed_and_has_no_room_goes_on_to_the_same_files(tmp_path):
    words = [
        "--only",
        "simulate-alone",
        "--kills",
        "3",
        "--disks",
        "0.5",
        "--folder",
        tmp_path / "f",
    ]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "3 kills, 1 full disks, 0 problems"
