"""Freed memory is kept for the next request, where the C library can do that."""

import platform
import subprocess
import sys

import pytest

from brainvq.allocator import keep_freed_memory

# Faults of pages where 80 MB are freed and asked for again, ten times, in a process of its own.
PROGRAM = """
import resource, sys
from brainvq.allocator import keep_freed_memory
import numpy as np
kept = "keep" in sys.argv and keep_freed_memory()
np.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(10_000_000)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*words):
    command = [sys.executable, "-c", PROGRAM, *words]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return list(map(int, out.split()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_is_asked_of_the_system_once():
    (kept, few), (_, many) = faults("keep"), faults()
    assert kept == 1
    assert few < 500 < many


def test_what_the_environment_says_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert keep_freed_memory() is False


def test_another_c_library_changes_nothing(monkeypatch):
    for name in ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr("brainvq.allocator.ctypes.CDLL", missing)
    assert keep_freed_memory() is False
