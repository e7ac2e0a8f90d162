"""A training by two processes is that by one, and goes on after one of them was killed."""

import json
import os
import re
import socket
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from brainvq.app.train import main
from brainvq.errors import UserError
from brainvq.training import workers

PROGRAM = """
import os, signal, sys
from pathlib import Path
from brainvq.training import workers
strategy = "multiworker" if os.environ.get("TF_CONFIG") else None
if strategy:
    assert workers.told(lambda: "x" * 9) == "x" * 9
import keras, numpy as np
from brainvq.errors import UserError
from brainvq.layers import EMAVectorQuantizer
from brainvq.models import Autoencoder
from brainvq.training.devices import all_devices
from brainvq.training.fit import UnseenLoss, fit
from brainvq.training.stream import BatchStream

folder, epochs, killed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
x = np.random.default_rng(0).normal(size=(24, 3, 4)).astype("float32")
# Other weights on each process: those of the first count.
keras.utils.set_random_seed(workers.place()[0] if strategy else 0)

class Killed(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == killed:
            os.kill(os.getpid(), signal.SIGKILL)

def train():
    with all_devices(strategy, 8):
        def dense():
            return keras.Sequential([keras.Input((3, 4)), keras.layers.Dense(4)])
        model = Autoencoder(dense(), EMAVectorQuantizer(4, decay=0.5, seed=3), dense())
        model.build(x.shape)
        model.compile(keras.optimizers.Adam(0.01))
        stream = BatchStream(x, range(20), 8, shuffle=True)
        unseen = UnseenLoss(BatchStream(x, range(15, 24), 8))  # 8 and 1
        fit(model, stream, epochs=epochs, state=folder / "state.npz",
            history_csv=folder / "history.csv", callbacks=[Killed(), unseen], title="test")
    np.savez(folder / "out.npz", codebook=np.asarray(model.quantizer.codebook),
             images=np.asarray(model.reconstruct(x)))

if not strategy:
    train()
else:
    try:
        with workers.all_alive("Go on."):
            train()
            workers.from_chief()
    except UserError as error:
        sys.exit(str(error))
"""


def begin(folder, epochs, cluster=None, index=0, killed=-1):
    config = {"cluster": {"worker": cluster}, "task": {"type": "worker", "index": index}}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_CONFIG": json.dumps(config) if cluster else "",
    }
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(epochs), str(killed)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(process, status):
    """Waits for a process that ends with a status; what it said."""
    _, said = process.communicate(timeout=120)
    assert process.returncode == status, said[-3000:]
    return said


def places():
    """Two free ports of this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    names = [f"127.0.0.1:{place.getsockname()[1]}" for place in sockets]
    for place in sockets:
        place.close()
    return names


@pytest.mark.thorough
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute")
def test_two_processes_train_as_one_does_and_go_on_after_a_kill(tmp_path):
    ends(begin(tmp_path / "one", 3), 0)

    folders = [tmp_path / name for name in ("first", "second")]
    cluster = places()
    # The second is killed as its third epoch begins: the first says so, and keeps two.
    processes = [
        begin(folder, 3, cluster, index, killed=2 if index else -1)
        for index, folder in enumerate(folders)
    ]
    said = ends(processes[0], 1)
    assert "--strategy multiworker: another process of the cluster ended" in said
    ends(processes[1], -9)
    assert len(pd.read_csv(folders[0] / "history.csv")) == 2

    # Both are started again; the second reads what the first wrote.
    (folders[1] / "state.npz").write_bytes((folders[0] / "state.npz").read_bytes())
    cluster = places()
    processes = [begin(folder, 3, cluster, index) for index, folder in enumerate(folders)]
    for process in processes:
        ends(process, 0)
    for folder in folders:
        history, expected = (pd.read_csv(f / "history.csv") for f in (folder, tmp_path / "one"))
        columns = [name for name in expected if name != "seconds"]
        np.testing.assert_allclose(history[columns], expected[columns], rtol=1e-4)
        with np.load(folder / "out.npz") as found, np.load(tmp_path / "one" / "out.npz") as wanted:
            np.testing.assert_allclose(found["codebook"], wanted["codebook"], atol=1e-5)
            np.testing.assert_allclose(found["images"], wanted["images"], atol=1e-5)


@pytest.mark.parametrize(
    ("cluster", "task", "expected"),
    [
        ({"worker": ["a:1", "b:2"]}, ("worker", 1), (1, 2)),
        ({"worker": ["a:1", "[::1]:2"], "chief": ["c:3"]}, ("chief", 0), (0, 3)),
        ({"worker": ["a:1", "b:2"], "chief": ["c:3"]}, ("worker", "1"), (2, 3)),
        ({"worker": ["a:1"]}, ("worker", 1), None),
        ({"worker": ["a:1"]}, ("worker", -1), None),
        ({"worker": ["a:1"]}, ("chief", 0), None),
        ({"worker": ["a:1"], "ps": ["b:2"]}, ("worker", 0), None),
        ({"worker": ["a"]}, ("worker", 0), None),
        ({"worker": "a:1"}, ("worker", 0), None),
        ({"worker": [1]}, ("worker", 0), None),
        ({}, ("worker", 0), None),
        ([], ("worker", 0), None),
    ],
)
def test_the_place_in_the_cluster_is_read_or_refused(monkeypatch, cluster, task, expected):
    config = {"cluster": cluster, "task": dict(zip(("type", "index"), task, strict=True))}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    if expected is not None:
        assert workers.place() == expected
        assert workers.is_chief() == (expected[0] == 0)
        return
    with pytest.raises(UserError, match=f"^TF_CONFIG: found {re.escape(json.dumps(config))}; exp"):
        workers.place()


@pytest.mark.parametrize("text", ["{", "3", "null", '{"task": {}}'])
def test_other_text_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="^TF_CONFIG: found .*; expected {"):
        workers.place()


def test_without_a_cluster_the_command_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    message = "^--strategy multiworker: found no environment variable TF_CONFIG; expected {"
    for arguments in (["oasis2d"], ["oasis2d", "--seeds", "0", "1"], ["--resume", "runs/none"]):
        with pytest.raises(UserError, match=message):
            main([*arguments, "--strategy", "multiworker"], "train.py")
