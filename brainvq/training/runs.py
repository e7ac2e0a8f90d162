"""The folder of a run: what it holds, how it is found, and what marks a stage as done."""

import contextlib
import csv
import logging
import os
import re
import shutil
import sys
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

import brainvq
from brainvq.errors import UserError
from brainvq.files import is_temporary, read_json, write_json

FORMAT = 1
SMOKE = "a smoke run, seconds long: it shows that everything runs, and its results mean nothing"

logger = logging.getLogger("brainvq")


class RunFolder:
    """A run on disk.

    ```
    study.json        the study's settings, the preprocessing steps, versions
    cohort.csv        every scan with its split
    looks.json        what the training scans look like (brainvq.data.looks), where that is known
    model.keras       the autoencoder             model.weights.h5   its weights alone
    prior.keras       the prior over its codes    prior.weights.h5
    history.csv       a row per epoch             prior_history.csv
    metrics.json      every measure               subjects.csv       measures per test subject
    figures/*.png  samples/  report.html  report.json  MODEL_CARD.md  log.txt  tensorboard/
    checkpoints/      what a killed run goes on from
    ```

    Args:
        path: the folder.
    """

    def __init__(self, path):
        self.path = Path(path)

    @classmethod
    def create(cls, runs, study, variant, content, name=None):
        """Makes `runs/<study>-<variant>-<time>` and writes its `study.json`.

        Args:
            runs: str, the folder of all runs.
            study: str, name of the study.
            variant: str, name of the variant.
            content: dict, written to `study.json` beside the format and the version.
            name: str, name of the folder in the place of that one.

        Raises:
            UserError: the folder cannot be made, or there is one of that name already.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S")
        if name is not None and (not name or name in (".", "..") or Path(name).name != name):
            raise UserError(
                f"--name: found {name!r}; expected the name of a folder, without a path"
            )
        smoke = "-smoke" if content.get("smoke") else ""
        stem = f"{study}-{variant}{smoke}-{stamp}"
        path = Path(runs) / (name or stem)
        number = 1
        while True:
            try:
                path.mkdir(parents=True)
                break
            except FileExistsError:
                if name is not None:
                    raise UserError(
                        f"--name: {path} is there already; expected a new name, or --resume {path}"
                    ) from None
                number += 1
                path = path.with_name(f"{stem}-{number}")
            except OSError as error:
                raise UserError(
                    f"--runs {runs}: {error.strerror}; expected a writable folder"
                ) from None
        content = {"format": FORMAT, "brainvq": brainvq.__version__, **content}
        try:
            write_json(path / "study.json", content)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)  # it would be no run
            raise
        return cls(path)

    @classmethod
    def open(cls, path):
        """Opens a run.

        Raises:
            UserError: `path` is no run, or a run of another version of the format.
        """
        path = Path(path).expanduser()
        if not path.is_dir():
            raise UserError(
                f"{path}: no such folder; expected a run, such as runs/oasis2d-best-..."
            )
        if not (path / "study.json").exists():
            raise UserError(f"{path}: has no study.json; expected the folder of a run")
        run = cls(path)
        found = run.study.get("format")
        if found != FORMAT:
            raise UserError(
                f"{path}/study.json: found format {found!r}; expected {FORMAT}, the format of "
                f"brainvq {brainvq.__version__} (the run was made by brainvq "
                f"{run.study.get('brainvq', 'of unknown version')})"
            )
        return run

    @classmethod
    def newest(cls, runs="runs", having="finished.json", without=None):
        """The newest run in `runs`; smoke runs, whose results mean nothing, are left out.

        Args:
            runs: folder of runs.
            having: name of a file that it has; by default that of a run that was not stopped.
            without: name of a file that it has not, or None.

        Returns:
            A run, or None where there is none.
        """
        for run in cls.newest_first(runs):
            if run.has(having) and (not run.smoke if without is None else not run.has(without)):
                return cls.open(run.path)
        return None

    @classmethod
    def newest_first(cls, runs):
        """All runs in a folder, the newest first: list."""
        found = [cls(path.parent) for path in Path(runs).glob("*/study.json")]
        return sorted(found, key=cls._age, reverse=True)

    def _age(self):
        """When it was begun, and which one of that second: its name says so where it has a time."""
        stamp = re.search(r"(\d{8}-\d{6})(?:-(\d+))?$", self.name)
        if stamp:
            return stamp.group(1), int(stamp.group(2) or 1)
        began = time.localtime((self.path / "study.json").stat().st_mtime)
        return time.strftime("%Y%m%d-%H%M%S", began), 0

    @property
    def began(self):
        """When it was begun, such as "2026-11-27 14:12"."""
        date, clock = self._age()[0].split("-")
        return f"{date[:4]}-{date[4:6]}-{date[6:]} {clock[:2]}:{clock[2:4]}"

    @property
    def smoke(self):
        """Whether it is a run of seconds, to see that everything runs."""
        try:
            return bool(self.study.get("smoke"))
        except UserError:
            return False

    @property
    def study(self):
        """Content of `study.json` (dict)."""
        return read_json(self.path / "study.json")

    @property
    def name(self):
        """Name of the folder."""
        return self.path.name

    def file(self, *parts):
        """Path of a file of the run."""
        return self.path.joinpath(*parts)

    def has(self, *parts):
        """Whether a file of the run exists."""
        return self.file(*parts).exists()

    def require(self, name, hint):
        """Path of a file that must exist; `UserError` with `hint` otherwise."""
        if not self.has(name):
            raise UserError(f"{self.path}: has no {name}; {hint}")
        return self.file(name)

    def metrics(self):
        """Content of `metrics.json`, empty before there is one."""
        return read_json(self.file("metrics.json")) if self.has("metrics.json") else {}

    def add_metrics(self, **groups):
        """Merges groups of measures into `metrics.json`."""
        write_json(self.file("metrics.json"), {**self.metrics(), **groups})

    def saved(self):
        """What is on disk to go on from, in words."""
        stages = []
        for name, model, history in (
            ("autoencoder", "model.keras", "history.csv"),
            ("prior", "prior.keras", "prior_history.csv"),
        ):
            if self.has(model):
                stages.append(f"the trained {name}")
            elif self.has(history):
                with open(self.file(history), encoding="utf-8", newline="") as file:
                    epochs = sum(1 for _ in csv.DictReader(file))
                stages.append(f"{name} after {epochs} epoch{'s' if epochs > 1 else ''}")
        if self.has("metrics.json"):
            stages.append("the measures")
        return ", ".join(stages) or "the settings and the scans that are prepared"

    @contextlib.contextmanager
    def lock(self):
        """Keeps the run for this process while the body of a `with` works on it.

        The lock ends with the process, however that ends: a file that is left keeps nobody out. It
        says which process it was, and it stays, for another process may have opened it already.
        What a killed process has left half-written is removed.

        Raises:
            UserError: another process has it.
        """
        with open(self.file(".lock"), "a+", encoding="utf-8") as file:
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UserError(
                    f"{self.path}: process {file.read().strip() or 'unknown'} is training it; "
                    "expected a run that no other process works on"
                ) from None
            except OSError:  # a file system without locks
                pass
            for path in filter(is_temporary, [*self.path.glob(".*"), *self.path.glob("*/.*")]):
                path.unlink(missing_ok=True)
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def log_to_file(self):
        """Sends the log to the screen and to `log.txt`; returns the logger."""
        return start_log(self.file("log.txt"))


def start_log(path=None):
    """Sets up the program's log: plain lines on the screen, with times in `path` (appended).

    Returns:
        The `logging.Logger` of brainvq.
    """
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    screen = logging.StreamHandler(sys.stdout)
    screen.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(screen)
    if path is not None:
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(file)
    return logger


class Clock:
    """Adds up the seconds of each stage over all the sittings of a run.

    Args:
        path: JSON file that keeps the sums.

    Attributes:
        stage: the stage that is timed, or was last.
    """

    def __init__(self, path):
        self.path, self.stage = path, "start"

    @contextlib.contextmanager
    def __call__(self, stage):
        """Times the body of a `with` and adds it to `stage`."""
        self.stage, began = stage, time.monotonic()
        yield
        sums = self.seconds()
        sums[stage] = round(sums.get(stage, 0.0) + time.monotonic() - began, 2)
        write_json(self.path, sums)

    def seconds(self):
        """Seconds of each stage so far (dict)."""
        return read_json(self.path) if self.path.exists() else {}

    def total(self):
        """Seconds of all stages together."""
        return sum(self.seconds().values())
