"""Training that shows where it is, survives a kill and goes on to the same numbers."""

import io
import json
import logging
import math
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from brainvq.errors import UserError
from brainvq.files import atomic_path, write_csv
from brainvq.layers.bottleneck import Bottleneck
from brainvq.progress import progress
from brainvq.training import workers
from brainvq.training.devices import evaluate

logger = logging.getLogger("brainvq")

# What an epoch's line on the screen says; history.csv has everything.
SHOWN = ("loss", "val_loss", "codes_used", "val_ssim", "val_ssim_foreground", "val_bits_per_code")


class TrainingState:
    """Everything that a training run must remember between epochs, in one file.

    Weights, codebook statistics, random seeds and optimiser moments travel together with the
    history, so the file is the state after one whole epoch, never a mixture of two. The moments
    are those of `model.optimizer`: a model with several optimisers presents them there as one, as
    `IntroVAE` does.

    Args:
        path: the `.npz` file.
    """

    def __init__(self, path):
        self.path = Path(path)

    def save(self, model, history):
        """Writes the state of a compiled `model` and its history (list of dict), atomically."""
        arrays = {
            f"{number:04d}": to_numpy(variable) for number, variable in enumerate(_variables(model))
        }
        with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, history=np.array(json.dumps(history)), **arrays)

    def restore(self, model):
        """Puts the state back into a built and compiled `model`.

        Returns:
            The history as a list of dict; empty where there is no file yet.

        Raises:
            UserError: the file is damaged or belongs to another network.
        """
        if not self.path.exists():
            return []
        try:
            with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                history = json.loads(str(archive["history"]))
                arrays = [archive[name] for name in sorted(archive.files) if name != "history"]
        except Exception as error:
            raise UserError(
                f"{self.path}: unreadable checkpoint ({error}); expected the file that training "
                "wrote: delete it to start this stage again"
            ) from None
        variables = _variables(model)
        expected = [tuple(variable.shape) for variable in variables]
        if [array.shape for array in arrays] != expected:
            raise UserError(
                f"{self.path}: holds {len(arrays)} arrays that do not fit the {len(expected)} of "
                "this network; expected a checkpoint of the same settings"
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return history


def to_numpy(variable):
    """The value of a Keras variable as a NumPy array of its shape, on any backend."""
    value = variable.value
    copies = getattr(value, "values", None)  # under `tf.distribute` one on each device, all alike
    value = copies[0] if isinstance(copies, tuple) else value
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(value))


def _variables(model):
    """Weights and seeds of the model, then the optimiser's variables.

    Metrics are left out, and settings of layers that may change (`LiveNumber`): the study says
    them, or the callback that changes them.
    """
    left_out = {id(variable) for variable in model.metrics_variables}
    for layer in model._flatten_layers():
        if isinstance(layer, Bottleneck):
            left_out |= {id(variable) for variable in layer.live_numbers().values()}
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    state = [variable for variable in model.variables if id(variable) not in left_out]
    return state + list(model.optimizer.variables)


def _take_from_chief(variables):
    """Gives variables the values that those of the first of several processes have."""
    file = io.BytesIO()
    if workers.is_chief():
        np.savez(file, *map(to_numpy, variables))
    with np.load(io.BytesIO(workers.from_chief(file.getvalue()))) as arrays:
        for number, variable in enumerate(variables):
            variable.assign(arrays[f"arr_{number}"])


def fit(model, stream, *, epochs, state, history_csv, callbacks=(), tensorboard=None, title=""):
    """Trains a built, compiled model up to `epochs` epochs, from wherever `state` left off.

    Args:
        model: a compiled `keras.Model` whose weights exist.
        stream: a `BatchStream`.
        epochs: int, epochs in all.
        state: path of the `.npz` file that holds the training state.
        history_csv: path of the table with a row per epoch.
        callbacks: Keras callbacks; what they add to the logs goes into the history.
        tensorboard: folder of the TensorBoard log, or None.
        title: str, shown before the progress.

    Returns:
        The history, `pandas.DataFrame` with a row per epoch.

    Raises:
        UserError: the loss, another value of the logs or a weight became NaN or infinite; the state
            of the last good epoch stays on disk.
    """
    state = TrainingState(state)
    history = state.restore(model)
    if history:
        logger.info("%s: going on after epoch %d of %d", title, len(history), epochs)
    if len(history) < epochs:
        keeper = _Keeper(state, history, stream, history_csv, tensorboard, epochs, title)
        how = {
            "epochs": epochs,
            "initial_epoch": len(history),
            "callbacks": [keeper.start, *callbacks, keeper],
        }
        if workers.cluster() is None:
            model.fit(stream, verbose=0, shuffle=False, **how)
        else:
            _take_from_chief(_variables(model))
            workers.fit(model, stream, **how)
        if keeper.diverged:
            raise UserError(
                f"{title}: the {keeper.diverged} in epoch {len(history) + 1}; expected a finite "
                "number: lower the learning rate (the last good epoch is kept)"
            )
    table = pd.DataFrame(history)
    write_csv(history_csv, table)
    return table


def first_not_finite(logs):
    """The first log of a step that is not finite, as `loss became nan`; None where all are."""
    # The loss first: what else is wrong with it follows from it.
    for name, value in sorted((logs or {}).items(), key=lambda item: item[0] != "loss"):
        if not math.isfinite(float(value)):
            return f"{name} became {float(value)}"
    return None


def first_not_finite_weight(model):
    """The first weight of a model that is not finite, as text; None where all are."""
    for variable in model.trainable_variables:
        if not np.isfinite(to_numpy(variable)).all():
            return f"weight {variable.path} became nan or infinite"
    return None


class _Keeper(keras.callbacks.Callback):
    """Sets the epoch of the stream, shows progress, and keeps history and state."""

    def __init__(self, state, history, stream, history_csv, tensorboard, epochs, title):
        super().__init__()
        self.state, self.history, self.stream = state, history, stream
        self.history_csv, self.tensorboard = history_csv, tensorboard
        self.epochs, self.title = epochs, title
        self.first, self.diverged, self.bar = len(history), None, None
        # The epoch must be set before Keras starts to read, progress and state after every other
        # callback has added to the logs: two ends of the list, one object.
        self.start = keras.callbacks.LambdaCallback(on_epoch_begin=self._begin)

    def _begin(self, epoch, logs=None):
        self.stream.epoch = epoch
        self.began = time.monotonic()

    def on_train_begin(self, logs=None):
        self.bar = progress(
            self.epochs * len(self.stream),
            self.title,
            part=True,
            initial=self.first * len(self.stream),
        )
        self.training_began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        self.diverged = first_not_finite(logs)
        if self.diverged is not None:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.diverged is None:
            # The last step of an epoch can spoil weights that no loss has been computed with yet.
            self.diverged = first_not_finite_weight(self.model)
        if self.diverged is not None:
            self.model.stop_training = True
            return
        row = {"epoch": epoch + 1, **{key: float(value) for key, value in (logs or {}).items()}}
        row["seconds"] = round(time.monotonic() - self.began, 3)
        self.history.append(row)
        self.state.save(self.model, self.history)
        write_csv(self.history_csv, pd.DataFrame(self.history))
        if self.tensorboard is not None:
            _log_scalars(self.tensorboard, row)
        done = epoch + 1 - self.first
        left = (time.monotonic() - self.training_began) / done * (self.epochs - epoch - 1)
        shown = "  ".join(f"{key} {row[key]:.4g}" for key in SHOWN if key in row)
        self.bar.clear()
        logger.info(
            "%s: epoch %d/%d  %s  (%.1f s, about %s left)",
            self.title,
            epoch + 1,
            self.epochs,
            shown,
            row["seconds"],
            duration(left),
        )

    def on_train_end(self, logs=None):
        self.bar.close()


class UnseenSimilarity(keras.callbacks.Callback):
    """Adds measures of reconstructions of unseen images to the logs of each epoch.

    Args:
        images: float32 array `(n, *image_shape)` of subjects that training never sees.
        measure: function `(images, reconstructions) -> dict of float`.
        batch_size: int.
        every: int, epochs from one measurement to the next; the last epoch is always measured.
    """

    def __init__(self, images, measure, batch_size=32, every=1):
        super().__init__()
        self.images, self.measure, self.batch_size = images, measure, batch_size
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        """Adds the measures to `logs`."""
        if (epoch + 1) % self.every and epoch + 1 < self.params["epochs"]:
            return
        reconstructions = self.model.reconstruct(self.images, batch_size=self.batch_size)
        logs.update(self.measure(self.images, reconstructions))


class UnseenLoss(keras.callbacks.Callback):
    """Adds the measures of `model.evaluate` on a stream of unseen samples, as `val_*`.

    Args:
        stream: a `BatchStream` of samples that training never sees.
    """

    def __init__(self, stream):
        super().__init__()
        self.stream = stream

    def on_epoch_end(self, epoch, logs=None):
        """Adds the measures to `logs`."""
        results = evaluate(self.model, self.stream)
        logs.update({f"val_{key}": value for key, value in results.items()})


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the smallest loss on unseen samples, in a file.

    Small cohorts are learned by heart long before a training ends; what is left then is worse than
    what was there halfway. Give it after `UnseenLoss`, and call `restore` after the training. The
    file survives a kill, as the training state does.

    Args:
        path: the `.npz` file.
        monitor: str, the entry of the logs that shall be small.
    """

    def __init__(self, path, monitor="val_loss"):
        super().__init__()
        self.path, self.monitor = Path(path), monitor

    def on_epoch_end(self, epoch, logs=None):
        """Writes the weights where this epoch is the best so far."""
        value = float(logs[self.monitor])
        if not math.isfinite(value) or value >= self._read()[0]:
            return
        weights = {
            f"{number:04d}": to_numpy(variable)
            for number, variable in enumerate(self.model.weights)
        }
        with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, value=value, epoch=epoch + 1, **weights)

    def restore(self, model):
        """Puts the best weights back; returns their epoch, or None where there is no file."""
        value, epoch, weights = self._read()
        if math.isfinite(value):
            model.set_weights(weights)
            logger.info("weights of epoch %d, with the smallest %s", epoch, self.monitor)
        return epoch

    def _read(self):
        if not self.path.exists():
            return math.inf, None, []
        with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            names = sorted(set(archive.files) - {"value", "epoch"})
            weights = [archive[name] for name in names]
            return float(archive["value"]), int(archive["epoch"]), weights


@keras.saving.register_keras_serializable(package="brainvq")
class SelectiveAdamW(keras.optimizers.AdamW):
    """AdamW that spares codebooks, biases, scales and tables of embeddings, after loading too.

    A codebook is known by its layer: what a `brainvq.layers.Bottleneck` adds does not decay.

    Args:
        *args: see `keras.optimizers.AdamW`.
        **kwargs: see there.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "embeddings"])

    def _apply_weight_decay(self, variables):
        # Here, for the copies that a strategy makes of a variable know nothing of their layer.
        super()._apply_weight_decay([v for v in variables if getattr(v, "decays", True)])


def optimizer(
    learning_rate, steps, *, schedule="cosine", warmup=0.0, weight_decay=0.0, clip_norm=0.0
):
    """Adam or AdamW with a constant or cosine learning rate.

    Args:
        learning_rate: float, the largest one.
        steps: int, steps of the whole training.
        schedule: "constant" or "cosine" (falls to zero at the last step).
        warmup: float in [0, 1], share of the steps with a linear rise (`cosine` only).
        weight_decay: float; above 0 the optimiser is AdamW, and codebooks and biases do not decay.
        clip_norm: float; above 0 the whole gradient is shortened to this length at most.

    Returns:
        A `keras.optimizers.Optimizer`.
    """
    if schedule == "cosine":
        rising = round(warmup * steps)
        learning_rate = keras.optimizers.schedules.CosineDecay(
            0.0 if rising else learning_rate,
            max(1, steps - rising),
            warmup_target=learning_rate if rising else None,
            warmup_steps=rising,
        )
    clip = {"global_clipnorm": clip_norm} if clip_norm else {}
    if not weight_decay:
        return keras.optimizers.Adam(learning_rate, **clip)
    return SelectiveAdamW(learning_rate, weight_decay=weight_decay, **clip)


def duration(seconds):
    """Seconds as a person says them: `42 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _log_scalars(folder, row):
    """One row of the history as TensorBoard scalars; needs the tensorboard package alone."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    values = [
        Summary.Value(tag=key, simple_value=value) for key, value in row.items() if key != "epoch"
    ]
    writer = EventFileWriter(str(folder), filename_suffix=f".{row['epoch']}")
    writer.add_event(Event(step=row["epoch"], wall_time=time.time(), summary=Summary(value=values)))
    writer.close()
