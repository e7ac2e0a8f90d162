import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from brainvq.errors import UserError
from brainvq.training.runs import RunFolder
from brainvq.training.tracking import check_tracker, flat, tracker_of


class Service:
    """Stands for the packages wandb and mlflow: it keeps what it is sent."""

    def __init__(self, fails=False):
        self.epochs, self.summary, self.params, self.ids, self.ended = [], {}, {}, [], []
        self.fails = fails
        self.wandb = SimpleNamespace(log=self.log, finish=self.finish, summary=self.summary)

    # wandb
    def init(self, id, config, **others):
        if self.fails:
            raise RuntimeError("no route to host\nmore")
        assert others["project"] == "brainvq"
        self.ids.append(id)
        self.params = config
        return self.wandb

    def log(self, values):
        self.epochs.append(values)

    def finish(self, exit_code):
        self.ended.append(exit_code)

    # mlflow
    def set_experiment(self, name):
        assert name == "brainvq"

    def start_run(self, run_id, run_name):
        self.ids.append(run_id or "abc")

    def active_run(self):
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def log_params(self, params):
        assert not self.params
        self.params = params

    def log_metrics(self, values, step):
        if step is None:
            self.summary.update(values)
        else:
            self.epochs.append({**values, "epoch": step})

    def end_run(self, status):
        self.ended.append(int(status == "FAILED"))


def folder(tmp_path, name):
    study = {"name": "oasis2d", "train": {"epochs": 2}, "data": {"root": "/home/me/scans"}}
    return RunFolder.create(tmp_path, "oasis2d", "best", {"study": study, "track": name}, "run")


def trained(tracker, epochs=2):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((4, 1), "float32")
    model.fit(x, x, epochs=epochs, verbose=0, callbacks=tracker.callbacks("model"))


def interrupted(tracker):
    trained(tracker)
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_measures_are_sent_and_a_resumed_run_goes_on(tmp_path, monkeypatch, name):
    service = Service()
    monkeypatch.setitem(sys.modules, name, service)
    service.__spec__ = SimpleNamespace(name=name)
    run = folder(tmp_path, name)
    with pytest.raises(KeyboardInterrupt), tracker_of(run) as tracker:
        interrupted(tracker)
    with tracker_of(run) as tracker:
        trained(tracker, epochs=1)
        tracker.finish({"similarity": {"ssim": np.float32(0.5), "note": "text"}, "good": True})
    assert [row["epoch"] for row in service.epochs] == [1, 2, 1]
    assert all(np.isfinite(row["model/loss"]) for row in service.epochs)
    assert service.summary == {"similarity/ssim": 0.5}
    assert service.ids[0] == service.ids[1]
    assert service.ended == [1, 0]
    assert "epochs" in str(service.params)
    assert "/home/me" not in str(service.params)


def test_a_server_that_fails_stops_a_run_before_but_not_within(tmp_path, monkeypatch, caplog):
    service = Service(fails=True)
    monkeypatch.setitem(sys.modules, "wandb", service)
    service.__spec__ = SimpleNamespace(name="wandb")
    run = folder(tmp_path, "wandb")
    refused = pytest.raises(UserError, match="--track wandb: no route to host; expected")
    with refused, tracker_of(run):
        pass
    service.fails = False
    service.wandb.log = lambda values: 1 / 0
    with tracker_of(run) as tracker:
        trained(tracker, epochs=1)
    assert "--track wandb: division by zero" in caplog.text


def test_a_run_without_a_tracker_sends_nothing(tmp_path):
    with tracker_of(folder(tmp_path, None)) as tracker:
        assert tracker.callbacks("model") == []
        tracker.finish({"a": 1})


def test_what_cannot_be_used_is_said():
    with pytest.raises(UserError, match="--track: found 'x'; expected one of wandb, mlflow"):
        check_tracker("x")


def test_flat():
    assert flat({"a": {"b": 1, "c": {"d": 2.5}}, "e": [1]}) == {"a/b": 1.0, "a/c/d": 2.5}
    assert flat({"a": {"b": [1]}}, keep=str) == {"a/b": "[1]"}
