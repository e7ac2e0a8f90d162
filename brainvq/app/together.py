"""A training by several processes: the first leads and writes the run's folder, others follow."""

import contextlib
import shlex
import shutil
import tempfile
from pathlib import Path

from brainvq.app import settle_keras
from brainvq.training import workers

# What a process that follows needs of the run's folder.
NEEDED = ("study.json", "cohort.csv", "cohort.json", "looks.json", "store.json")
TRAINED = ("model.keras", "prior.keras")


def is_shared(strategy):
    """Whether a way to train on several devices is one over several processes."""
    return strategy == workers.STRATEGY


def leads(strategy):
    """Whether this process writes what a training leaves behind."""
    return not is_shared(strategy) or workers.is_chief()


def meet(strategy):
    """Waits until all processes are here."""
    if is_shared(strategy):
        workers.from_chief()


def agreed(strategy, make):
    """The run that all processes train: what `make()`, a `LoadedRun`, is on the first of them."""
    if not is_shared(strategy):
        return make()
    path = workers.told(lambda: str(make().path))
    from brainvq.tasks.run import LoadedRun

    return LoadedRun.open(path)


@contextlib.contextmanager
def all_alive(strategy, run, prog):
    """Says in a line where another process ended, and how to go on."""
    if not is_shared(strategy):
        yield
        return
    path = shlex.quote(str(run.path))
    with workers.all_alive(f"Go on with, on each: {prog} --strategy {strategy} --resume {path}"):
        yield


def follow(run, strategy):
    """Takes part in the training of a run, of which this process keeps nothing.

    What it writes, as the first process does, goes into a folder that is removed at the end.
    """
    from brainvq.app import stages
    from brainvq.tasks.run import LoadedRun
    from brainvq.training.devices import all_devices
    from brainvq.training.runs import start_log

    settle_keras()
    start_log()
    meet(strategy)  # the samples are prepared
    with tempfile.TemporaryDirectory(prefix="brainvq-") as folder:
        for name in filter(run.has, (*NEEDED, *TRAINED)):
            shutil.copy(run.file(name), folder)
        if run.has("checkpoints"):
            shutil.copytree(run.file("checkpoints"), Path(folder, "checkpoints"))
        own = LoadedRun.open(folder)
        with all_devices(strategy, own.study.train.batch_size):
            own.model = stages.train_autoencoder(own)
        meet(strategy)  # the codes are written
        if own.model.num_codes:
            own.file("codes").symlink_to(run.file("codes").resolve())
            own.codes = stages.encode(own)
        if own.study.has_prior:
            with all_devices(strategy, *own.study.prior.batches):
                stages.train_prior(own)
    meet(strategy)
