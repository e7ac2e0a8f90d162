"""One training on all devices of a machine, or of several, by the engines of TensorFlow and JAX."""

import contextlib
import functools
import logging

import keras

from brainvq.errors import UserError
from brainvq.training import workers

logger = logging.getLogger("brainvq")


@contextlib.contextmanager
def all_devices(strategy, *batch_sizes):
    """Models that are made and trained within it compute on all GPUs, or else on all CPU devices.

    Each device takes its share of every batch, and gradients, losses and statistics of codes are
    sums over all: up to rounding a training is that of one device with the same batch size. On
    TensorFlow it is `tf.distribute.MirroredStrategy`, on JAX `keras.distribution.DataParallel`.

    Args:
        strategy: "mirrored", or None for one device.
        *batch_sizes: int, samples in a step, of each training.

    Raises:
        UserError: the backend has no such engine, or a batch has no sample for a device.
    """
    if strategy is None:
        yield
        return
    engines = {
        "mirrored": {"tensorflow": _mirrored, "jax": _data_parallel},
        workers.STRATEGY: {"tensorflow": _multiworker},
    }[strategy]
    backend = keras.backend.backend()
    if backend not in engines:
        raise UserError(
            f"--strategy {strategy}: found Keras on {backend}; expected {' or '.join(engines)}"
        )
    engine, devices = engines[backend]()
    for size in batch_sizes:
        if size < devices or (backend == "jax" and size % devices):
            raise UserError(
                f"--strategy {strategy}: found a batch of {size} samples for {devices} devices; "
                f"expected {'a multiple of that' if backend == 'jax' else 'as many or more'}"
            )
    logger.info("training on %d devices", devices)
    with engine.scope():
        yield


def evaluate(model, stream):
    """The measures of `model.evaluate` on a `BatchStream`, under any strategy: dict of float."""
    if workers.cluster() is not None:
        return workers.evaluate(model, stream)
    with _undivided():
        return model.evaluate(stream, verbose=0, return_dict=True)


@contextlib.contextmanager
def _undivided():
    """Within it JAX does not share batches out: the last one of a pass may have any size."""
    shared = keras.distribution.distribution() if keras.backend.backend() == "jax" else None
    if shared is None:
        yield
        return
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(shared)


@functools.cache
def _mirrored():
    # One for all trainings of a process: another would number its sums over devices from the start.
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices]), len(devices)


def _data_parallel():
    devices = keras.distribution.list_devices()
    return keras.distribution.DataParallel(devices=devices), len(devices)


def _multiworker():
    engine = workers.join()
    return engine, engine.num_replicas_in_sync
