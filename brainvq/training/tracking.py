"""Measures of a run sent to Weights & Biases or MLflow, where a user asks for it: `--track`."""

import contextlib
import importlib.util
import logging
import numbers
import uuid

import keras

from brainvq.errors import UserError
from brainvq.files import read_json, write_json
from brainvq.places import without_places

logger = logging.getLogger("brainvq")

PROJECT = "brainvq"


class Tracker:
    """Sends nothing; what `WandbTracker` and `MlflowTracker` have in common.

    Args:
        run: a `RunFolder`.

    Attributes:
        package: what it needs; None where nothing is sent.
    """

    package = None

    def __init__(self, run=None):
        self.run = run

    def log(self, values, epoch=None):
        """Sends measures, a dict of name to float: of an epoch, or of the finished run."""

    def close(self, failed=False):
        """Ends the run where it is tracked."""

    def callbacks(self, stage):
        """Keras callbacks for `fit`: list. Names begin with the stage, such as "prior/loss"."""
        return [] if self.package is None else [_Epochs(self, stage)]

    def finish(self, metrics):
        """Sends the measures on unseen subjects, nested dicts of numbers."""
        self.log(flat(metrics))


class WandbTracker(Tracker):
    """Weights & Biases: a run of the project "brainvq" that a resumed training goes on with."""

    package = "wandb"

    def __init__(self, run):
        super().__init__(run)
        import wandb

        self.wandb = wandb.init(
            project=PROJECT,
            name=run.name,
            id=_identity(run, lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            dir=str(run.path),
            config=_settings(run),
        )

    def log(self, values, epoch=None):
        """See `Tracker`."""
        if epoch is None:
            self.wandb.summary.update(values)
        else:
            self.wandb.log({**values, "epoch": epoch})

    def close(self, failed=False):
        """See `Tracker`."""
        self.wandb.finish(exit_code=int(failed))


class MlflowTracker(Tracker):
    """MLflow: a run of the experiment "brainvq" that a resumed training goes on with."""

    package = "mlflow"

    def __init__(self, run):
        super().__init__(run)
        import mlflow

        self.mlflow = mlflow
        mlflow.set_experiment(PROJECT)
        known = _identity(run)
        mlflow.start_run(run_id=known, run_name=None if known else run.name)
        _identity(run, lambda: mlflow.active_run().info.run_id)
        if known is None:
            mlflow.log_params(flat(_settings(run), keep=str))

    def log(self, values, epoch=None):
        """See `Tracker`."""
        self.mlflow.log_metrics(values, step=epoch)

    def close(self, failed=False):
        """See `Tracker`."""
        self.mlflow.end_run("FAILED" if failed else "FINISHED")


TRACKERS = {"wandb": WandbTracker, "mlflow": MlflowTracker}


def check_tracker(name):
    """Refuses a tracker that is not known or not installed.

    Raises:
        UserError: it is one of these.
    """
    if name not in TRACKERS:
        raise UserError(f"--track: found {name!r}; expected one of {', '.join(TRACKERS)}")
    package = TRACKERS[name].package
    if importlib.util.find_spec(package) is None:
        raise UserError(f"--track {name}: {package} is not installed; expected it: pip install it")


@contextlib.contextmanager
def tracker_of(run):
    """The tracker that a run was begun with; one that sends nothing where there is none.

    Args:
        run: a `RunFolder`.

    Raises:
        UserError: it does not answer.
    """
    name = run.study.get("track")
    if name is None:
        yield Tracker()
        return
    check_tracker(name)
    try:
        tracker = TRACKERS[name](run)
    except Exception as error:  # each has many of its own
        line = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"--track {name}: {line[0]}; expected a server that answers") from None
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        _sent(tracker, tracker.close, failed)


def flat(values, prefix="", keep=None):
    """Nested dicts as one, names joined by "/": dict of name to float.

    Args:
        values: dict of dicts and values.
        prefix: str, put before each name.
        keep: function of what is no number, such as `str`; None leaves it out.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}/", keep)
        elif keep is not None:
            found[f"{prefix}{name}"] = keep(value)
        elif isinstance(value, numbers.Real) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found


class _Epochs(keras.callbacks.Callback):
    """Sends the logs of each epoch."""

    def __init__(self, tracker, stage):
        super().__init__()
        self.tracker, self.stage = tracker, stage

    def on_epoch_end(self, epoch, logs=None):
        values = flat({name: float(value) for name, value in (logs or {}).items()})
        values = {f"{self.stage}/{name}": value for name, value in values.items()}
        _sent(self.tracker, self.tracker.log, values, epoch + 1)


def _sent(tracker, send, *arguments):
    """Calls `send`; a server that fails is no reason to stop a training."""
    try:
        send(*arguments)
    except Exception as error:
        line = str(error).strip().splitlines() or [type(error).__name__]
        logger.warning("--track %s: %s", tracker.package, line[0])


def _settings(run):
    """The settings of the study, without the paths of this machine."""
    study = run.study["study"]
    root = study.get("data", {}).get("root")
    return without_places(study, known=[root] if root else [])


def _identity(run, make=None):
    """The name by which a server knows the run, kept in its folder; None where it has none yet."""
    path = run.file("tracking.json")
    if path.exists():
        return read_json(path)["id"]
    if make is None:
        return None
    write_json(path, {"id": make()})
    return read_json(path)["id"]
