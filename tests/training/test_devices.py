"""A training on two devices is that on one, and goes on from its state on either."""

import os
import subprocess
import sys

import keras
import pytest

from brainvq.app.train import main
from brainvq.errors import UserError

PROGRAM = """
import sys, keras, numpy as np
from pathlib import Path
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from brainvq.layers import EMAVectorQuantizer
from brainvq.models import Autoencoder
from brainvq.errors import UserError
from brainvq.training.devices import all_devices
from brainvq.training.fit import UnseenLoss, fit
from brainvq.training.stream import BatchStream

x = np.random.default_rng(0).normal(size=(24, 3, 4)).astype("float32")
folder = Path(sys.argv[1])

def train(strategy, epochs, name):
    keras.utils.set_random_seed(0)
    with all_devices(strategy, 8):
        def dense(seed):
            start = keras.initializers.RandomNormal(seed=seed)
            layer = keras.layers.Dense(4, kernel_initializer=start)
            return keras.Sequential([keras.Input((3, 4)), layer])
        model = Autoencoder(dense(1), EMAVectorQuantizer(4, decay=0.5, seed=3), dense(2))
        model.build(x.shape)
        model.compile(keras.optimizers.Adam(0.01))
        stream = BatchStream(x, range(20), 8, shuffle=True)
        unseen = UnseenLoss(BatchStream(x, range(15, 24), 8))  # 8 and 1
        table = fit(model, stream, epochs=epochs, state=folder / f"{name}.npz",
                    history_csv=folder / f"{name}.csv", callbacks=[unseen], title="test")
    return table, np.asarray(model.reconstruct(x)), np.asarray(model.quantizer.codebook)

def engine():
    with all_devices("mirrored", 8):
        return tf.distribute.get_strategy()

# Another engine would number its sums from the start, and the next model be refused.
assert keras.backend.backend() != "tensorflow" or engine() is engine()
one = train(None, 3, "one")
train("mirrored", 2, "two")
two = train("mirrored", 3, "two")  # goes on after two epochs
three = train(None, 4, "two")[0]  # and on one device
for name in ("loss", "val_loss", "codes_used"):
    np.testing.assert_allclose(two[0][name], one[0][name], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(three[name][:3], one[0][name], rtol=1e-4, err_msg=name)
np.testing.assert_allclose(two[1], one[1], atol=1e-5)
np.testing.assert_allclose(two[2], one[2], atol=1e-5)
try:
    all_devices("mirrored", 1).__enter__()
except UserError as error:
    assert "batch of 1 samples for 2 devices" in str(error), error
    print("agrees")
"""


@pytest.mark.thorough
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="no such engine")
def test_two_devices_train_as_one_does(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",  # its sums refuse the empty share of a replica
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "agrees" in done.stdout


def test_another_strategy_is_refused_before_anything_else():
    message = "^--strategy: found 'horovod'; expected mirrored or multiworker$"
    with pytest.raises(UserError, match=message):
        main(["--strategy", "horovod", "--no-such-option"], "train.py")
