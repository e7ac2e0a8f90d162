"""One training by several processes, on one machine or many, each with its part of every batch.

The engine is `tf.distribute.MultiWorkerMirroredStrategy`. Keras 3.15 cannot `fit` under it: it
takes the parts of a batch for one tensor, and means of scalars along an axis. So epochs and batches
are counted here; steps, losses and sums over processes are those of `tf.distribute`.

The first process is the chief: it alone writes the run's folder, which all of them can read.
"""

import concurrent.futures
import contextlib
import functools
import json
import os
import signal
import threading

import numpy as np

from brainvq.errors import UserError

STRATEGY = "multiworker"
_EXPECTED = (
    'expected {"cluster": {"worker": ["HOST1:PORT", "HOST2:PORT"]}, "task": {"type": "worker", '
    '"index": 0}}, with an index of its own for each process'
)
_PIECE = 2**24  # numbers of four bytes that are sent at a time


def place():
    """What the environment variable `TF_CONFIG` says.

    Returns:
        Number of this process, from 0, and number of all processes.

    Raises:
        UserError: it is missing, or names no cluster with a place for this process.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        raise UserError(
            f"--strategy {STRATEGY}: found no environment variable TF_CONFIG; {_EXPECTED}"
        )
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        sizes = {kind: len(cluster.get(kind, [])) for kind in ("chief", "worker")}
        names = [(kind, number) for kind, size in sizes.items() for number in range(size)]
        hosts = [host.rpartition(":") for kind in cluster.values() for host in kind]
        known = all(host and port.isdecimal() for host, _, port in hosts)
        if known and len(hosts) == len(names) and sizes["chief"] < 2:
            return names.index((task["type"], int(task["index"]))), len(names)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(f"TF_CONFIG: found {text}; {_EXPECTED}")


def is_chief():
    """Whether this process is the first of its cluster."""
    return place()[0] == 0


@functools.cache
def join():
    """The strategy of this process's cluster; waits until every process is there.

    Call it before TensorFlow computes anything.

    Raises:
        UserError: `TF_CONFIG` names no cluster, or Keras computes with another backend.
    """
    place()
    import keras

    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"--strategy {STRATEGY}: found Keras on {keras.backend.backend()}; expected tensorflow"
        )
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    if threading.current_thread() is threading.main_thread():
        # TensorFlow takes SIGTERM for a word to other processes; it shall end this one.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return strategy


def cluster():
    """The strategy in whose scope this is called, where it is one over processes; else None."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    return strategy if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) else None


def from_chief(content=b""):
    """Sends bytes from the chief to all: what it gives to this function, each process returns.

    Without bytes it is a place where all processes wait for each other.
    """
    length = int(_from_chief(np.array([len(content)], "int32"))[0])
    numbers = np.zeros(-(-length // 4), "int32")
    if is_chief():
        numbers = np.frombuffer(content.ljust(4 * len(numbers), b"\0"), "int32")
    pieces = [_from_chief(numbers[n : n + _PIECE]) for n in range(0, len(numbers), _PIECE)]
    return b"".join(piece.tobytes() for piece in pieces)[:length]


def _from_chief(numbers):
    import tensorflow as tf

    strategy = join()

    def own(context):
        return tf.constant(numbers if context.replica_id_in_sync_group == 0 else 0 * numbers)

    values = strategy.experimental_distribute_values_from_function(own)
    return strategy.reduce("SUM", values, axis=None).numpy()


def told(make):
    """What `make()`, a str, is on the chief, on all processes; its `UserError` ends them all."""
    answer, error = {}, None
    if is_chief():
        join()
        try:
            answer["made"] = make()
        except UserError as failure:
            answer["error"], error = str(failure), failure
    answer = json.loads(from_chief(json.dumps(answer).encode()))
    if "error" in answer:
        raise error or UserError(answer["error"])
    return answer["made"]


@contextlib.contextmanager
def all_alive(hint):
    """Turns what TensorFlow raises where another process has ended into a `UserError`.

    Args:
        hint: str, how to go on.
    """
    import tensorflow as tf

    lost = ("Unavailable", "Aborted", "Cancelled", "DeadlineExceeded", "Internal")
    try:
        yield
    except tuple(getattr(tf.errors, f"{name}Error") for name in lost) as error:
        raise UserError(
            f"--strategy {STRATEGY}: another process of the cluster ended, or cannot be reached "
            f"({type(error).__name__}); expected all of them to the end. {hint}"
        ) from error


def fit(model, stream, *, epochs, initial_epoch, callbacks):
    """Trains as `keras.Model.fit` does, each replica on its part of every batch.

    Args:
        model: a compiled `keras.Model`, made in the scope of the cluster.
        stream: a `BatchStream`; each process reads whole batches, so that what is drawn to change
            them is what one process draws.
        epochs: int, number of the last epoch.
        initial_epoch: int, epochs that are done.
        callbacks: list of Keras callbacks.
    """
    import keras

    calls = keras.callbacks.CallbackList(
        callbacks, model=model, epochs=epochs, steps=len(stream), verbose=0
    )
    step, logs = _program(model, model.train_step), {}
    model.stop_training = False
    calls.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        model.reset_metrics()
        calls.on_epoch_begin(epoch)
        for number, batch in enumerate(_batches(stream)):
            calls.on_train_batch_begin(number)
            logs = step(batch, np.array_split)
            calls.on_train_batch_end(number, logs)
            if model.stop_training:
                break
        logs = _totals(model, logs)
        calls.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    calls.on_train_end(logs)


def evaluate(model, stream):
    """Measures as `keras.Model.evaluate` does: dict of float.

    Where a batch would leave a replica without a sample, which sums of oneDNN refuse, each replica
    measures all.
    """
    step, logs = _program(model, model.test_step), {}
    smallest = len(stream.indices) % stream.batch_size or stream.batch_size
    whole = smallest < model.distribute_strategy.num_replicas_in_sync
    model.reset_metrics()
    for batch in _batches(stream):
        logs = step(batch, _whole if whole else np.array_split)
    return _totals(model, logs)


def _whole(array, replicas):
    return [array] * replicas


def _totals(model, logs):
    """The logs of the last step with the metrics of the whole epoch, summed over replicas."""
    totals = model.get_metrics_result()
    return {name: float(totals.get(name, value)) for name, value in logs.items()}


def _batches(stream):
    """The batches of an epoch; the next is read while one is computed on."""
    with concurrent.futures.ThreadPoolExecutor(1) as reader:
        coming = reader.submit(stream.__getitem__, 0)
        for number in range(1, len(stream) + 1):
            batch = coming.result()
            if number < len(stream):
                coming = reader.submit(stream.__getitem__, number)
            yield batch


def _program(model, step):
    """A function of a batch, and of how its arrays are parted, that returns the logs of a step."""
    import keras
    import tensorflow as tf

    strategy = model.distribute_strategy
    # Kept with the model, each compiled once.
    run, names = vars(model).setdefault("worker_programs", {}).get(step.__name__) or _compiled(
        strategy, step
    )
    vars(model)["worker_programs"][step.__name__] = run, names

    def call(batch, parted):
        def own(array):
            parts = parted(array, strategy.num_replicas_in_sync)
            return strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(parts[context.replica_id_in_sync_group])
            )

        values = strategy.experimental_local_results(run(keras.tree.map_structure(own, batch)))
        return dict(zip(names, map(float, values[0].numpy()), strict=True))

    return call


def _compiled(strategy, step):
    """A function of parted batches that gives the values of the logs, and a list of their names."""
    import tensorflow as tf

    names = []

    def replica_step(data):
        logs = dict(sorted(step(data).items()))
        names[:] = logs
        values = tf.stack([tf.cast(value, "float32") for value in logs.values()])
        return tf.distribute.get_replica_context().all_reduce("MEAN", values)

    @tf.function(reduce_retracing=True, autograph=False)
    def run(data):
        return strategy.run(replica_step, args=(data,))

    return run, names
