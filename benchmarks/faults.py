"""Kills every long command at random moments, fills its disk, runs it twice at once, and goes on.

    python benchmarks/faults.py [--kills 200] [--seed 0] [--only train-oasis2d,prepare]
    python benchmarks/faults.py --case train-oasis2d --chain 3        one chain of kills again

A chain begins a command in a new folder, kills it several times, each time at a random moment of
what is left of it, goes on with it, and compares what it wrote in the end with what an
uninterrupted run wrote: every number, table and array, as `digests.py` does. After each kill every
file under its final name must be whole, and no process of the command may be left.

Then each command runs on a disk that is too small, at several sizes, which ends in one line and
status 2, and goes on once there is room: a small tmpfs where mounting is allowed (as root), else
a limit on the size of a file. Last, two processes share a cache, and two resume one run.

Commands run in processes forked from this one, which has imported Keras but not used it: 200 kills
would spend most of their time on imports. About 40 minutes on two cores.
"""

import argparse
import atexit
import contextlib
import csv
import faulthandler
import itertools
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import digests  # noqa: E402

from brainvq import cli  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Seconds after which a command that was asked to end, or the last of its workers, must be gone.
PATIENCE = 120
# Room on a full disk, in parts of what a command needs.
DISKS = (0.05, 0.3, 0.6, 0.9)
TINY = ("--smoke", "--data.workers", "2")
SLICES = ("--data.subjects", "6", "--data.slice-spacing", "16", "--sampling.samples", "8")


@dataclass(frozen=True)
class Case:
    """A command that is killed.

    Attributes:
        name: what it is called here.
        command: of `brainvq.cli.COMMANDS`.
        words: its options; {scans} and {run} stand for what is made once for all cases.
        share: kills of it, in proportion to those of others.
        kills: kills in a chain.
    """

    name: str
    command: str
    words: tuple
    share: int = 1
    kills: int = 6


FEW = ("--data.subjects", "6")
SCANS = ("--out", "scans", "--subjects", "6", "--spacing", "4", "--suffix", "T1w")
BIDS = ("--data.source", "bids", "--data.root", "{scans}")
CASES = (
    Case("train-oasis2d", "train", ("oasis2d", *TINY, *SLICES), 3),
    Case("train-ixi2d", "train", ("ixi2d", *TINY, *FEW), 3),
    Case("train-som3d", "train", ("som3d", "--variant", "vqvae", *TINY, *FEW), 3),
    Case("train-variants", "train", ("som3d", "--variants", "ae,best", *TINY, *FEW), 3),
    Case("train-introvae3d", "train", ("introvae3d", *TINY), 3),
    Case("train-t1w3d", "train", ("t1w3d", *TINY, *FEW), 3),
    Case("train-streamlines", "train", ("streamlines", *TINY, "--data.subjects", "4"), 3),
    Case("prepare", "prepare", ("oasis2d", *TINY, "--data.subjects", "12"), 8),
    Case("prepare-bids", "prepare", ("ixi2d", *TINY, *BIDS), 4),
    Case(
        "simulate",
        "simulate",
        ("--out", "scans", "--subjects", "8", "--spacing", "4", "--workers", "2"),
        8,
    ),
    Case(
        "simulate-alone",
        "simulate",
        ("--out", "scans", "--subjects", "4", "--spacing", "8", "--workers", "1"),
    ),
    Case("encode", "predict", ("{run}", "encode", "{scans}", "--out", "codes"), 4),
    Case("reconstruct", "predict", ("{run}", "reconstruct", "{scans}", "--out", "made"), 2),
    Case("anomaly", "predict", ("{run}", "anomaly", "{scans}", "--step", "8", "--out", "a"), 4),
    Case("sample", "predict", ("{run}", "sample", "-n", "16", "--seed", "1", "--out", "drawn")),
    Case("compare", "compare", ("{copy}",), 2),
)


def main():
    """Runs what the command line asks for; the exit status says whether all went well."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="cases, with commas between; all by default")
    parser.add_argument("--case", help="one case, of which --chain is run again")
    parser.add_argument("--chain", type=int, default=0)
    parser.add_argument(
        "--disks", help="room on disks, in parts of what is needed; none: kills alone"
    )
    parser.add_argument("--folder", type=Path, help="where to work; kept (default: a temporary)")
    options = parser.parse_args()
    wanted = options.case or options.only
    cases = [case for case in CASES if wanted is None or case.name in wanted.split(",")]
    prepare_fork({case.command for case in cases} <= {"simulate"})
    with contextlib.ExitStack() as stack:
        folder = options.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="faults"))
        faults = Faults(Path(folder).resolve(), options.seed)
        for case, kills in shared(cases, options.kills):
            faults.kill(case, kills, options.chain if options.case else None)
        if options.disks != "none":
            parts = tuple(map(float, options.disks.split(","))) if options.disks else DISKS
            for case in cases:
                faults.fill(case, parts)
            faults.together(cases)
        sys.exit(faults.summary())


def shared(cases, kills):
    """Each case with its part of the kills."""
    total = sum(case.share for case in cases)
    ends = np.cumsum([case.share for case in cases]) * kills // total
    return zip(cases, np.diff(ends, prepend=0).tolist(), strict=True)


def prepare_fork(without_keras):
    """Imports what commands import. Nothing is computed: threads would not survive a fork."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["OMP_NUM_THREADS"] = "1"
    import nilearn.datasets  # noqa: F401

    import brainvq.app.simulate

    if without_keras:
        return
    import brainvq.app.anomaly
    import brainvq.app.classify
    import brainvq.app.measure
    import brainvq.app.stages
    import brainvq.tasks.run
    import brainvq.tasks.trained  # noqa: F401
    from brainvq.tasks.base import TASKS, task

    for kind in TASKS:
        task(kind)


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        seconds: of the uninterrupted run.
        kills: signal or "finished before" to how often.
        checks: what was compared with the uninterrupted run.
        problems: one line each.
    """

    seconds: float = 0.0
    kills: Counter = field(default_factory=Counter)
    checks: int = 0
    disks: int = 0
    problems: list = field(default_factory=list)


class Faults:
    """Runs the cases in sub-folders of a folder, and keeps what became of them."""

    def __init__(self, folder, seed):
        self.folder, self.seed = folder, seed
        self.outcomes, self.references = {}, {}
        folder.mkdir(parents=True, exist_ok=True)

    # --- what all need --------------------------------------------------------------------------

    def words(self, case, place):
        """The words of a command, placeholders replaced by what is made when first asked for."""
        made = {}
        if "{scans}" in case.words:
            made["{scans}"] = self.made("scans", "simulate", *SCANS)
        if {"{run}", "{copy}"} & set(case.words):
            made["{run}"] = self.made("run", "train", "oasis2d", *TINY, *SLICES, glob="runs/*")
        if "{copy}" in case.words:
            made["{copy}"] = str(Path("runs", Path(made["{run}"]).name))
            if not (place / made["{copy}"]).exists():
                shutil.copytree(made["{run}"], place / made["{copy}"])
        return [made.get(word, word) for word in case.words]

    def made(self, name, *words, glob=None):
        """Path of what a command makes once for all cases."""
        place = self.folder / name
        if not place.exists():
            place.mkdir()
            process = Command(place, *words)
            if process.end() != 0:
                raise RuntimeError(f"{' '.join(words)}: {process.log()}")
        return str(next(place.glob(glob)) if glob else place / name)

    def start(self, case, place, limit=None):
        """Begins a case in a folder, or goes on with it."""
        runs = sorted(place.glob("runs/*/study.json")) if case.command == "train" else []
        words = self.words(case, place)
        if runs and "--variants" not in words:
            words = ["--resume", str(runs[-1].parent.relative_to(place))]
        return Command(place, case.command, *words, limit=limit)

    def reference(self, case):
        """Of an uninterrupted run the digests, and the bytes on disk before and after it."""
        if case.name not in self.references:
            place = self.new(case, "whole")
            self.words(case, place)
            before, began = used(place), time.monotonic()
            process = self.start(case, place)
            if process.end() != 0:
                raise RuntimeError(f"{case.name}: {process.log()}")
            seconds = time.monotonic() - began
            size = used(place)
            self.references[case.name] = found(place), before, size
            self.outcomes[case.name] = Outcome(seconds)
            print(f"{case.name}: {seconds:.0f} s, {size / 1e6:.1f} MB", flush=True)
            shutil.rmtree(place)
        return self.references[case.name]

    def new(self, case, name):
        """A new folder."""
        place = self.folder / case.name / str(name)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place

    def problem(self, case, what, chain=None):
        """Keeps what went wrong, and says how to see it again."""
        again = f" --case {case.name} --chain {chain}" if chain is not None else ""
        line = f"{what}\n    again: benchmarks/faults.py --seed {self.seed}{again}"
        self.outcomes[case.name].problems.append(line)
        print(f"FAILED {case.name}: {line}", flush=True)

    def finish(self, case, place, chain):
        """Goes on to the end, and compares; True where all is as in an uninterrupted run."""
        process = self.start(case, place)
        status = process.end()
        if status != 0:
            return self.problem(case, f"going on: status {status}: {process.log()}", chain)
        self.outcomes[case.name].checks += 1
        different = differing(self.reference(case)[0], found(place))
        if different:
            return self.problem(case, f"{len(different)} differ: {different[:3]}", chain)
        shutil.rmtree(place, ignore_errors=True)  # a disk of its own stays, empty
        return True

    # --- kills ----------------------------------------------------------------------------------

    def kill(self, case, kills, only=None):
        """Kills a case so many times, in chains, or one chain alone."""
        self.reference(case)
        chains = math.ceil(kills / case.kills)
        for chain in range(chains) if only is None else (only,):
            count = min(case.kills, kills - chain * case.kills) if only is None else case.kills
            try:
                self.kill_chain(case, chain, count)
            except Exception:
                self.problem(case, traceback.format_exc(), chain)

    def kill_chain(self, case, chain, count):
        """Kills one chain `count` times, then goes on to the end."""
        chance = random.Random(f"{self.seed} {case.name} {chain}")
        place, outcome = self.new(case, chain), self.outcomes[case.name]
        seconds, done = outcome.seconds, 0
        while done < count:
            sign, delay = chance.choice(SIGNALS), chance.uniform(0, seconds)
            process = self.start(case, place)
            if not process.wait(delay):
                status, problem = process.kill(sign)
                outcome.kills[sign.name] += 1
                done += 1
                problem = problem or saying(process, sign, status) or broken(place)
                if problem:
                    self.problem(case, f"{sign.name} after {delay:.2f} s: {problem}", chain)
            elif process.end() != 0:
                self.problem(case, f"going on: {process.log()}", chain)
                return
            elif done < count:  # it ended before: begin again, what is left to do is too short
                seconds *= 0.8
                place = self.new(case, chain)
        if self.finish(case, place, chain):
            print(f"{case.name} {chain}: {count} kills, equal in the end", flush=True)

    # --- full disks -----------------------------------------------------------------------------

    def fill(self, case, parts):
        """Runs a case on disks with less room than it needs, then with more."""
        _, before, after = self.reference(case)
        for part in parts:
            place = self.new(case, f"disk-{part}")
            with small_disk(place, before + int(part * (after - before))) as (limit, more):
                process = self.start(case, place, limit)
                status, log = process.end(), process.log()
                errors = [line for line in log.splitlines() if line.startswith("error: ")]
                self.outcomes[case.name].disks += 1
                if status != 2 or len(errors) != 1 or "Traceback" in log:
                    self.problem(case, f"disk of {part}: status {status}: {log}")
                elif not re.search(r"full|No space|too large|needs|room", errors[0]):
                    self.problem(case, f"disk of {part}: {errors[0]}")
                else:
                    print(f"{case.name}: disk of {part}: {errors[0]}", flush=True)
                if problem := broken(place):
                    self.problem(case, f"disk of {part}: {problem}")
                more()
                self.finish(case, place, None)

    # --- two at once ----------------------------------------------------------------------------

    def together(self, cases):
        """Two processes that fill one cache, and two that resume one run."""
        for case in cases:
            if case.name not in ("prepare", "train-oasis2d"):
                continue
            self.reference(case)
            place, other = self.new(case, "one"), self.new(case, "other")
            (place / "cache").mkdir()
            (other / "cache").symlink_to(place / "cache")
            both = [self.start(case, here) for here in (place, other)]
            for process in both:
                if process.end() != 0:
                    self.problem(case, f"two on one cache: {process.log()}")
            for here in (other, place):
                self.finish(case, here, None)
            if case.command == "train":
                self.resume_twice(case)

    def resume_twice(self, case):
        """Of two resumes one goes on, the other says that the run is another process's."""
        place = self.new(case, "twice")
        process = self.start(case, place)
        while not list(place.glob("runs/*/history.csv")) and not process.wait(0.1):
            pass
        process.kill(signal.SIGKILL)
        both = [self.start(case, place) for _ in range(2)]
        ended = sorted((process.end(), process.log()) for process in both)
        if [status for status, _ in ended] != [0, 2] or "is training it" not in ended[1][1]:
            self.problem(case, f"two resumes of one run: {ended}")
        self.finish(case, place, None)

    def summary(self):
        """Prints a table; returns how many problems there were."""
        names = [*(sign.name for sign in SIGNALS)]
        print("\n| command | seconds | " + " | ".join(names) + " | disks | equal | problems |")
        print("|---" * (len(names) + 5) + "|")
        for name, outcome in self.outcomes.items():
            counts = " | ".join(str(outcome.kills[sign]) for sign in names)
            print(
                f"| {name} | {outcome.seconds:.0f} | {counts} | {outcome.disks} | "
                f"{outcome.checks} | {len(outcome.problems)} |"
            )
        problems = sum(len(outcome.problems) for outcome in self.outcomes.values())
        kills = sum(sum(outcome.kills.values()) for outcome in self.outcomes.values())
        disks = sum(outcome.disks for outcome in self.outcomes.values())
        print(f"{kills} kills, {disks} full disks, {problems} problems")
        return min(problems, 1)


class Command:
    """A command in a process group of its own, forked from this process.

    Args:
        place: folder to run it in; what it prints goes to a file beside it.
        command: of `brainvq.cli.COMMANDS`.
        *words: its options.
        limit: largest size of a file in bytes, or None.
    """

    numbers = itertools.count()

    def __init__(self, place, command, *words, limit=None):
        # Two commands may run in one folder.
        self.output = place.with_name(f"{place.name}-{next(self.numbers)}.log")
        self.status = None
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or both processes would print what is in their buffers
        self.pid = os.fork()
        if self.pid == 0:
            _run(place, self.output, command, list(words), limit)
        with contextlib.suppress(OSError):  # whoever comes first, this process or the new one
            os.setpgid(self.pid, self.pid)

    def wait(self, seconds):
        """Whether the command ends within so many seconds; sets `status`."""
        until = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                return False
            else:
                time.sleep(0.02)
        return True

    def end(self):
        """Waits for the end, 20 minutes at most; returns the exit status."""
        if not self.wait(1200):
            self.kill(signal.SIGKILL)
        return self.status

    def kill(self, sign):
        """Sends a signal; returns the exit status, and what is wrong with the end, or None.

        A terminal sends Ctrl-C to workers too.
        """
        group = self.pid
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if sign == signal.SIGINT else os.kill)(group, sign)
        problem = None
        if not self.wait(PATIENCE):
            os.kill(self.pid, signal.SIGUSR1)  # says in its log where it is
            self.wait(1)
            problem = f"goes on {PATIENCE} s after the signal: {self.log()}"
        if problem is None:
            until = time.monotonic() + PATIENCE
            while (left := members(group)) and time.monotonic() < until:
                time.sleep(0.1)
            problem = f"left processes {left}" if left else None
        for member in members(group):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        self.wait(PATIENCE)
        return self.status, problem

    def log(self):
        """The end of what it printed."""
        return self.output.read_text(errors="replace")[-3000:]


def _run(place, output, command, words, limit):
    """What a forked process does: the command, and what an interpreter does at its end."""
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.register(signal.SIGUSR1)
        os.chdir(place)
        with open(output, "wb") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        cli.run(command, words, f"brainvq {command}")
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
        finally:
            os._exit(status)


def members(group):
    """The living processes of a group, where the system tells (Linux)."""
    living = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                living.append(int(stat.parent.name))
    return living


def saying(process, sign, status):
    """What is wrong with how a command says that it was ended, or None."""
    log = process.log()
    if sign == signal.SIGKILL or status == -sign:  # before or after the command itself
        return None
    if status == 0:  # it was about to end
        return None
    expected = (143, "terminated. ") if sign == signal.SIGTERM else (130, "interrupted. ")
    if status != expected[0] or "Traceback" in log or expected[1] not in log:
        return f"status {status}: {log}"
    return None


def found(place):
    """Digests of what a command wrote, runs by their variants."""
    made = digests.digests(place, "made")
    for path in place.glob("cache/*"):
        made |= digests.digests(path, f"cache/{path.name}")
    return {key: value for key, value in made.items() if "/." not in key and "mtime" not in key}


def used(place):
    """Bytes of the disk that a folder takes."""
    return sum(path.stat().st_blocks * 512 for path in place.rglob("*") if path.is_file())


def differing(expected, actual):
    """Keys of digests that are not the same."""
    return [
        key
        for key in sorted(set(expected) | set(actual))
        if not digests.same(expected.get(key), actual.get(key), 1e-9)
    ]


def broken(place):
    """The first file under its final name that is not whole, or None."""
    for path in sorted(place.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
        if not path.is_file() or hidden or "tensorboard" in path.parts:
            continue
        try:
            whole(path)
        except Exception as error:
            return f"{path.relative_to(place)} is not whole: {type(error).__name__}: {error}"
    return None


def whole(path):
    """Reads a file to its end; raises where that is not possible."""
    if path.name == "log.txt":
        return
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix in (".keras", ".npz"):
        with zipfile.ZipFile(path) as archive:
            if name := archive.testzip():
                raise ValueError(name)
    elif path.suffix == ".h5":
        import h5py

        h5py.File(path).close()
    elif path.suffix in (".csv", ".tsv"):
        with path.open(newline="") as lines:
            if not list(csv.reader(lines)):
                raise ValueError("empty")
    elif path.stat().st_size == 0:
        raise ValueError("empty")
    else:
        digests.digest(path, "x")


@contextlib.contextmanager
def small_disk(place, size):
    """A folder with little room; yields a limit for files, or None, and what makes more room."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={max(size, 1 << 16)}", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        # The largest file is what does not fit then.
        yield max(size // 8, 1 << 12), lambda: None
        return
    try:
        remount = ["mount", "-o", f"remount,size={1 << 32}", str(place)]
        yield None, lambda: subprocess.run(remount, check=True)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


if __name__ == "__main__":
    main()
