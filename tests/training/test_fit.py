import json

import keras
import numpy as np
import pandas as pd
import pytest

import brainvq
from brainvq.errors import UserError
from brainvq.training import fit as fit_module
from brainvq.training.fit import (
    BestWeights,
    TrainingState,
    UnseenLoss,
    UnseenSimilarity,
    fit,
    optimizer,
)
from brainvq.training.stream import BatchStream


def images(count=24):
    rows = np.arange(8)
    rng = np.random.default_rng(0)
    waves = np.sin(rows[None, :, None] * rng.uniform(0.3, 2, (count, 1, 1)))
    return (0.5 + 0.5 * waves * np.ones((1, 1, 8)))[..., None].astype("float32")


def make_model():
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 1))
    encoder = keras.Model(x, keras.layers.Conv2D(4, 4, strides=4)(x))
    z = keras.Input((2, 2, 4))
    decoder = keras.Model(z, keras.layers.Conv2DTranspose(1, 4, strides=4)(z))
    quantizer = brainvq.EMAVectorQuantizer(num_codes=8, initialization="kmeans", seed=1)
    model = brainvq.VQVAETrainer(encoder, quantizer, decoder)
    model(np.zeros((1, 8, 8, 1), "float32"))
    model.compile(optimizer(1e-2, 18, schedule="cosine", warmup=0.1, weight_decay=1e-3))
    return model


@pytest.mark.parametrize(
    "make_layer",
    [
        lambda: brainvq.VectorQuantizer(8),
        lambda: brainvq.SOMQuantizer((2, 4)),
        lambda: brainvq.ProbabilisticSOM((2, 4)),
        lambda: brainvq.GumbelQuantizer(8),
        lambda: brainvq.ResidualQuantizer([brainvq.VectorQuantizer(8) for _ in range(2)]),
    ],
)
@pytest.mark.parametrize("reloaded", [False, True])
def test_codebooks_do_not_decay_and_kernels_do(make_layer, reloaded):
    chosen = optimizer(1e-2, 50, schedule="constant", weight_decay=0.1)
    if reloaded:
        whole = keras.saving.serialize_keras_object(chosen)
        chosen = keras.saving.deserialize_keras_object(whole)
    dense = keras.layers.Dense(4)
    model = keras.Sequential([keras.Input((2, 4)), dense, Only(make_layer())])
    variables = model.trainable_variables
    before = [keras.ops.convert_to_numpy(v.value) + 0 for v in variables]
    chosen.build(variables)
    for _ in range(50):
        chosen.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    for variable, old in zip(variables, before, strict=True):
        new = keras.ops.convert_to_numpy(variable.value)
        factor = (1 - 1e-3) ** 50 if variable is dense.kernel else 1.0
        np.testing.assert_allclose(new, factor * old, rtol=1e-4, err_msg=variable.path)


class Only(keras.layers.Layer):
    """A bottleneck of which the vectors alone go on."""

    def __init__(self, bottleneck):
        super().__init__()
        self.bottleneck = bottleneck

    def build(self, input_shape):
        self.bottleneck.build(input_shape)

    def call(self, z):
        return self.bottleneck(z)["quantized"]


def train(folder, epochs, callbacks=()):
    stream = BatchStream(
        images(),
        np.arange(24),
        8,
        shuffle=True,
        seed=3,
        augment=lambda x, rng: x + rng.normal(0, 0.01, x.shape).astype("float32"),
    )
    model = make_model()
    history = fit(
        model,
        stream,
        epochs=epochs,
        state=folder / "state.npz",
        history_csv=folder / "history.csv",
        callbacks=list(callbacks),
        tensorboard=folder / "tensorboard",
    )
    return model, history


class Stop(keras.callbacks.Callback):
    """Stands for a kill: raises in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch and batch == 1:
            raise KeyboardInterrupt


def test_a_stopped_training_goes_on_to_the_same_numbers(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, expected = train(tmp_path / "a", 6)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", 6, [Stop(2)])
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", 6, [Stop(4)])
    resumed, history = train(tmp_path / "b", 6)
    pd.testing.assert_frame_equal(
        history.drop(columns="seconds"), expected.drop(columns="seconds"), rtol=1e-4
    )
    for one, other in zip(whole.weights, resumed.weights, strict=True):
        if "seed" not in one.path:
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5, err_msg=one.path)
    assert list(pd.read_csv(tmp_path / "b" / "history.csv")["epoch"]) == [1, 2, 3, 4, 5, 6]
    assert list((tmp_path / "a" / "tensorboard").iterdir())


def test_a_finished_training_is_not_repeated(tmp_path):
    train(tmp_path, 2)
    before = (tmp_path / "state.npz").read_bytes()
    _, history = train(tmp_path, 2)
    assert len(history) == 2
    assert (tmp_path / "state.npz").read_bytes() == before


def test_unseen_measures_reach_the_history(tmp_path):
    measure = lambda x, y: {"val_error": np.abs(x - y).mean()}  # noqa: E731
    unseen = UnseenLoss(BatchStream(images()[:8], np.arange(8), 4))
    _, history = train(tmp_path, 2, [UnseenSimilarity(images()[:4], measure), unseen])
    assert history["val_error"].between(0, 2).all()
    assert np.isfinite(history["val_loss"]).all()


def test_a_damaged_state_is_named(tmp_path):
    train(tmp_path, 1)
    state = tmp_path / "state.npz"
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(UserError, match="state.npz: unreadable checkpoint"):
        train(tmp_path, 2)


def test_a_state_of_another_network_is_refused(tmp_path):
    np.savez(tmp_path / "state.npz", history=np.array(json.dumps([])), x=np.zeros(3))
    with pytest.raises(UserError, match="do not fit"):
        TrainingState(tmp_path / "state.npz").restore(make_model())


def test_training_stops_when_the_loss_is_no_number(tmp_path):
    stream = BatchStream(np.full((16, 8, 8, 1), np.nan, "float32"), np.arange(16), 8, shuffle=True)
    with pytest.raises(UserError, match="loss became nan in epoch 1"):
        fit(
            make_model(),
            stream,
            epochs=2,
            state=tmp_path / "state.npz",
            history_csv=tmp_path / "history.csv",
        )
    assert not (tmp_path / "state.npz").exists()


def test_learning_rate_rises_then_falls_to_zero():
    rate = optimizer(0.1, 100, warmup=0.1)._learning_rate
    rates = [float(rate(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(rates, [0.0, 0.05, 0.1, 0.05, 0.0], atol=1e-6)
    assert float(optimizer(0.1, 100, schedule="constant").learning_rate) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(41.6, "42 s"), (200, "3 min"), (4900, "82 min"), (7300, "2 h 2 min")]
)
def test_duration(seconds, text):
    assert fit_module.duration(seconds) == text


class Rising(keras.callbacks.Callback):
    """Stands for unseen samples that training serves until epoch 2 and not beyond."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = abs(epoch - 1) + 0.5
        if epoch == 1:
            self.weights = self.model.get_weights()


def test_the_best_epoch_is_kept_and_survives_a_kill(tmp_path):
    best = BestWeights(tmp_path / "best.npz")
    rising = Rising()
    model, _ = train(tmp_path, 3, [rising, best])
    assert any((a != b).any() for a, b in zip(rising.weights, model.get_weights(), strict=True))
    # Another process goes on: what is no better than the file does not replace it.
    again = BestWeights(tmp_path / "best.npz")
    model, history = train(tmp_path, 4, [Rising(), again])
    assert len(history) == 4
    assert again.restore(model) == 2
    for expected, weight in zip(rising.weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, weight)


def test_without_a_finite_loss_nothing_is_kept(tmp_path):
    best = BestWeights(tmp_path / "best.npz")
    best.on_epoch_end(0, {"val_loss": float("nan")})
    assert not best.path.exists()
    assert best.restore(make_model()) is None
