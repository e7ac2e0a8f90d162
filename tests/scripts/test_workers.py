"""The program trains by two processes on one machine as it does by one."""

import json
import socket

import keras
import numpy as np
import pandas as pd
import pytest

from tests.scripts.conftest import SMOKE, run, start


def together(folder, *words):
    """The command in two processes of a cluster: list of (status, output, errors)."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    hosts = [f"127.0.0.1:{place.getsockname()[1]}" for place in sockets]
    for place in sockets:
        place.close()
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": hosts}, "task": task})
        words_of = ("train.py", *words, "--strategy", "multiworker")
        processes.append(start(folder, *words_of, TF_CONFIG=config, TF_CPP_MIN_LOG_LEVEL="3"))
    said = [process.communicate(timeout=300) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]


@pytest.mark.thorough
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute")
def test_two_processes_make_the_run_of_one(tmp_path):
    run(tmp_path, "train.py", *SMOKE, "--name", "one")
    for status, output, errors in together(tmp_path, *SMOKE, "--name", "two"):
        assert status == 0, errors[-3000:]
        assert "training on 2 devices" in output
    one, two = (tmp_path / "runs" / name for name in ("one", "two"))
    found, expected = (pd.read_csv(folder / "history.csv") for folder in (two, one))
    columns = [name for name in expected if name != "seconds"]
    np.testing.assert_allclose(found[columns], expected[columns], rtol=1e-4)
    # Dropout of the prior draws anew on each device.
    found, expected = (pd.read_csv(folder / "prior_history.csv") for folder in (two, one))
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-2)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}

    # What the first process refuses ends both.
    for status, _, errors in together(tmp_path, *SMOKE, "--name", "two"):
        assert status == 2
        assert "error: --name: runs/two is there already; expected a new name" in errors
