"""Two replicas train as one process does on the same batches, though one may have no sample."""

import os
import subprocess
import sys

import keras
import pytest

PROGRAM = """
import sys, keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from brainvq.layers import *
from brainvq.models import Autoencoder, PixelCNN

def start(seed): return keras.initializers.RandomNormal(seed=seed)
def dense(seed): return keras.layers.Dense(4, kernel_initializer=start(seed))

def autoencoder():
    # One stage of each kind: their losses and sums take turns while replicas are traced.
    stages = [TorusQuantizer((2, 2), seed=1), VectorQuantizer(4, initializer=start(2)),
              EMAVectorQuantizer(4, decay=0.5, revival_threshold=0.3, seed=3),
              SOMQuantizer((2, 2), initializer=start(4)),
              ProbabilisticSOM((2, 2), initializer=start(5), quantize=True)]
    parts = [keras.Sequential([keras.Input((3, 4)), dense(seed)]) for seed in (6, 7)]
    return Autoencoder(parts[0], ResidualQuantizer(stages), parts[1])

def users():
    x = keras.Input((3, 4))
    z = EMAVectorQuantizer(4, initialization="kmeans", seed=1)(dense(2)(x))["quantized"]
    z = VectorQuantizer(4, initializer=start(3))(dense(4)(z))["quantized"]
    return keras.Model(x, dense(5)(z))

def prior(): return PixelCNN((3, 2), 4, filters=4, num_blocks=1, label_smoothing=0.1)

def train(make, strategy, loss, *data):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = make()
        model.compile(keras.optimizers.SGD(0.1), loss=loss)
    x, *rest = data
    options = {"sample_weight": rest.pop()} if len(rest) == 2 else {}
    history = model.fit(x, *rest, batch_size=8, epochs=2, shuffle=False, verbose=0, **options)
    return model, history.history

two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
rng = np.random.default_rng(0)
x = rng.normal(size=(16, 3, 4)).astype("float32")
codes, weight = rng.integers(0, 4, (9, 3, 2)).astype("int32"), rng.random(9).astype("float32")
weight[[1, 8]] = 0, 0.3
cases = {"autoencoder": (autoencoder, None, x[:9]), "users": (users, "mse", x, x),
         "prior": (prior, None, codes, codes, weight)}
for make, *rest in [cases[name] for name in sys.argv[1:]]:
    one_model, expected = train(make, tf.distribute.get_strategy(), *rest)
    model, history = train(make, two, *rest)
    for old, new in zip(one_model.weights, model.weights, strict=True):
        np.testing.assert_allclose(new.numpy(), old.numpy(), atol=1e-5, err_msg=old.path)
        values = two.experimental_local_results(new.value)
        np.testing.assert_array_equal(*[v.numpy() for v in values], err_msg=old.path)
    assert set(history) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4, err_msg=name)
    print(make.__name__, "agrees", expected["loss"])
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute")
@pytest.mark.parametrize(
    "names", [["users"], pytest.param(["autoencoder", "prior"], marks=pytest.mark.thorough)]
)
def test_two_replicas_train_as_one_process_does(names):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Its sums refuse the empty share of a replica; only the command asks for it.
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("agrees") == len(names)
