"""Gives the program's readers spoilt files: each must end in a result or in one line.

    python -m tests.fuzz [--inputs 12000] [--kinds nii trk ...] [--seed 0] [--workers 2]
    python -m tests.fuzz --repeat nii 1234          one input again, with its traceback

An input must be read within 10 s of a processor and 3 GiB more memory than the program itself has,
without a warning or a file outside of its folder. Others are kept in `fuzz-failures/`.
"""

import argparse
import collections
import contextlib
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from brainvq.errors import UserError
from tests.fuzz import inputs, readers

HANGS = 120  # seconds by the clock
SECONDS, MORE_MEMORY, MOST_RESIDENT = 10, 3 << 30, 1 << 30
FAILURES = Path("fuzz-failures")


def main(arguments=None):
    """Runs the campaign; returns the exit status: 1 where an input was not handled."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=12000)
    parser.add_argument("--kinds", nargs="+", default=list(inputs.KINDS), choices=inputs.KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", nargs=2, metavar=("KIND", "NUMBER"))
    options = parser.parse_args(arguments)
    logging.getLogger("brainvq").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder)
        inputs.write_sound(sound)
        if options.repeat:
            kind, number = options.repeat
            outcome, told = attempt(kind, int(number), options.seed, sound)
            print(f"{outcome}: {told}")
            return int(outcome not in ("read", "refused"))
        return campaign(options, sound)


def campaign(options, sound):
    """All inputs of all kinds, by workers that are replaced when they hang."""
    jobs = [(kind, number) for number in range(-(-options.inputs // len(options.kinds)))
            for kind in options.kinds][::-1]  # fmt: skip
    counts, failures = collections.Counter(), []
    workers, started = {}, time.monotonic()
    while jobs or workers:
        while jobs and len(workers) < options.workers:
            add_worker(workers, sound, options.seed)
        for connection in list(workers):
            if workers[connection][1] is None and jobs:
                give(workers, connection, jobs.pop())
        ready = wait(list(workers), timeout=1)
        for connection in list(workers):
            process, job, since = workers[connection]
            late = job is not None and time.monotonic() - since > HANGS
            if connection not in ready and not late:
                continue
            try:
                outcome, told = ("hang", f"more than {HANGS} s") if late else connection.recv()
            except EOFError:
                outcome, told = "died", f"status {process.exitcode}"
            if job is not None:
                counts[job[0], outcome] += 1
                if outcome not in ("read", "refused"):
                    failures.append((*job, outcome, told))
                    keep(*job, options.seed, sound, outcome, told)
            workers[connection] = (process, None, 0)
            if outcome in ("hang", "died") or not jobs:
                process.kill()
                process.join()
                del workers[connection]
    show(counts, failures, options.kinds, time.monotonic() - started)
    return int(bool(failures))


def add_worker(workers, sound, seed):
    """Starts a worker; `workers` is dict of connection to (process, job, since when)."""
    context = multiprocessing.get_context("fork")
    connection, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, sound, seed), daemon=True)
    process.start()
    theirs.close()
    workers[connection] = (process, None, 0)


def give(workers, connection, job):
    """Gives a worker its next input."""
    with contextlib.suppress(BrokenPipeError):
        connection.send(job)
    workers[connection] = (workers[connection][0], job, time.monotonic())


def work(connection, sound, seed):
    """What a worker does until it is ended."""
    limit_memory()
    while True:
        kind, number = connection.recv()
        connection.send(attempt(kind, number, seed, sound))


def limit_memory():
    """Lets this process have so much more memory than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 29, 1 << 29))


def content_of(kind, number, seed, sound):
    """The input of a number: always the same bytes."""
    rng = np.random.default_rng([seed, list(inputs.KINDS).index(kind), number])
    return inputs.spoilt(kind, rng, sound)


def attempt(kind, number, seed, sound):
    """Reads one input: ("read", "refused" or what went wrong; the message or traceback)."""
    content = content_of(kind, number, seed, sound)
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder, "inside")
        inside.mkdir()
        path = inputs.place(kind, content, sound, inside)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = _attempt(kind, path)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        if outcome[0] in ("read", "refused") and grown > MOST_RESIDENT:
            return "memory", f"{grown / 2**20:.0f} MiB; {outcome[1]}"
        if sorted(os.listdir(folder)) != ["inside"]:
            return "escape", f"wrote {sorted(os.listdir(folder))}; {outcome[1]}"
        return outcome


def _attempt(kind, path):
    def stop(*_):
        raise TimeoutError

    # Time of the processor, so that a busy machine changes nothing.
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            readers.read(kind, path)
        outcome = "read", ""
    except UserError as error:
        hidden = ("MemoryError" in str(error), "\n" in str(error), "Unable to alloc" in str(error))
        outcome = ("traceback" if any(hidden) else "refused"), str(error)
    except TimeoutError:
        outcome = "slow", traceback.format_exc()
    except BaseException:
        outcome = "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    loud = [str(warning.message) for warning in told if warning.category is not ResourceWarning]
    if outcome[0] in ("read", "refused") and loud:
        return "warning", f"{loud[0]}; {outcome[1]}"
    return outcome


def keep(kind, number, seed, sound, outcome, told):
    """Keeps an input that was not handled, and what happened."""
    FAILURES.mkdir(exist_ok=True)
    stem = FAILURES / f"{kind}-{seed}-{number}"
    content = content_of(kind, number, seed, sound)
    stem.with_name(stem.name + inputs.KINDS[kind][1]).write_bytes(content)
    stem.with_name(stem.name + ".txt").write_text(f"{outcome}\n{told}\n")


def show(counts, failures, kinds, seconds):
    """Prints what became of the inputs of each kind."""
    print(f"{'kind':10}{'inputs':>8}{'read':>8}{'refused':>9}{'failed':>8}")
    for kind in kinds:
        own = {outcome: count for (name, outcome), count in counts.items() if name == kind}
        read, refused, every = own.get("read", 0), own.get("refused", 0), sum(own.values())
        print(f"{kind:10}{every:8}{read:8}{refused:9}{every - read - refused:8}")
    print(f"{sum(counts.values())} inputs, {len(failures)} failed, {seconds:.0f} s")
    for kind, number, outcome, told in failures[:20]:
        print(f"{kind} {number}: {outcome}: {told.strip().splitlines()[-1][:150] if told else ''}")
    if failures:
        print(f"kept in {FAILURES}/; python -m tests.fuzz --repeat KIND NUMBER shows one")


if __name__ == "__main__":
    shutil.rmtree(FAILURES, ignore_errors=True)
    sys.exit(main())
