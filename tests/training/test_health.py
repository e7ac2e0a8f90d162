import logging

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

from brainvq.errors import UserError
from brainvq.models import IntroVAE
from brainvq.training.fit import first_not_finite, fit
from brainvq.training.health import AdversarialHealth
from brainvq.training.stream import BatchStream


def volumes(count=12):
    return np.random.default_rng(0).random((count, 2, 2, 2, 1), dtype="float32")


def make_model(form="soft", rate=0.01):
    keras.utils.set_random_seed(0)
    x = keras.Input((2, 2, 2, 1))
    hidden = layers.Dropout(0.2, seed=3)(layers.Dense(4)(layers.Flatten()(x)))
    encoder = keras.Model(x, [layers.Dense(2)(hidden), layers.Dense(2)(hidden)])
    z = keras.Input((2,))
    decoder = keras.Model(z, layers.Reshape((2, 2, 2, 1))(layers.Dense(8)(z)))
    model = IntroVAE(encoder, decoder, form, seed=1)
    model.compile(
        encoder_optimizer=keras.optimizers.Adam(rate),
        decoder_optimizer=keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(2 * rate, 18), weight_decay=0.01
        ),
    )
    return model


def train(folder, epochs, callbacks=(), **options):
    model = make_model(**options)
    stream = BatchStream(volumes(), np.arange(12), 4, shuffle=True, seed=3)
    history = fit(
        model,
        stream,
        epochs=epochs,
        state=folder / "state.npz",
        history_csv=folder / "history.csv",
        callbacks=[AdversarialHealth(), *callbacks],
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


def values_of(variables):
    return [keras.ops.convert_to_numpy(variable.value) for variable in variables]


@pytest.mark.parametrize("form", [pytest.param(None, marks=pytest.mark.thorough), "soft"])
def test_a_stopped_training_goes_on_with_both_optimizers(tmp_path, form):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, expected = train(tmp_path / "a", 6, form=form)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", 6, [Stop(3)], form=form)
    resumed, history = train(tmp_path / "b", 6, form=form)
    pd.testing.assert_frame_equal(
        history.drop(columns="seconds"), expected.drop(columns="seconds"), rtol=1e-5
    )
    for of in (lambda model: model.weights, lambda model: model.optimizer.variables):
        for one, other in zip(values_of(of(whole)), values_of(of(resumed)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    pair = resumed.optimizer.encoder_optimizer, resumed.optimizer.decoder_optimizer
    assert [int(one.iterations) for one in pair] == [18, 18]


class Poison(keras.callbacks.Callback):
    """Makes the weights that the next step starts from NaN."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.good = self.model.get_weights() if epoch == self.epoch else None
        if self.good:
            self.model.decoder.set_weights([w * np.nan for w in self.model.decoder.get_weights()])


def test_training_stops_on_nan_with_the_last_good_weights(caplog):
    model, poison = make_model(), Poison(2)
    with caplog.at_level(logging.WARNING, logger="brainvq"):
        history = model.fit(
            volumes(), batch_size=4, epochs=9, verbose=0, callbacks=[poison, AdversarialHealth()]
        )
    assert len(history.epoch) == 3
    assert "epoch 3: the loss became nan; training stops" in caplog.text
    for good, weight in zip(poison.good, model.get_weights(), strict=True):
        np.testing.assert_array_equal(good, weight)
    assert np.isfinite(model.sample(2, seed=0)).all()


class Spoil(keras.callbacks.Callback):
    """Makes one weight infinite after the last step of an epoch, when no loss shows it."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            self.model.decoder.weights[0].assign(self.model.decoder.weights[0] * np.inf)


def test_weights_that_no_loss_has_seen_are_not_kept(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    good, _ = train(tmp_path / "a", 1)
    health = AdversarialHealth()
    with pytest.raises(UserError, match="the weight .*kernel became nan or infinite in epoch 2"):
        train(tmp_path / "b", 4, [Spoil(), health])
    for expected, weight in zip(good.get_weights(), health.model.get_weights(), strict=True):
        np.testing.assert_allclose(expected, weight, rtol=1e-6)
    _, history = train(tmp_path / "b", 1)
    assert len(history) == 1


def test_any_term_of_the_logs_can_stop_a_training():
    assert first_not_finite({"loss": 1.0, "kl_fake": 3}) is None
    assert first_not_finite({"loss": 1.0, "kl_fake": float("inf")}) == "kl_fake became inf"
    assert first_not_finite(None) is None


def test_a_lost_critic_is_told_once(caplog):
    health = AdversarialHealth(least_gap=0.5, patience=3)
    health.set_model(make_model())
    health.on_train_begin()
    with caplog.at_level(logging.WARNING, logger="brainvq"):
        for epoch, gap in enumerate([3.0, 0.5, 0.1, 2.0, 0.2, 0.1, -1.0, -2.0, 4.0]):
            health.on_epoch_end(epoch, {"kl_gap": gap})
        assert len(caplog.records) == 1
        assert "epoch 7: kl_fake - kl_real is -1, at most 0.5 for 3 epochs" in caplog.text
        caplog.clear()
        for epoch in range(5):  # a VAE has no critic
            health.on_epoch_end(epoch, {"loss": 1.0})
    assert not caplog.records
