import inspect
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from brainvq.models import IntroVAE, intro_decoder, intro_encoder
from tests.layers.oracles import array

TERMS = ["loss", "reconstruction_loss", "kl_real"]
FAKES = ["kl_fake", "kl_gap", "encoder_loss", "decoder_loss"]
SHAPE, VOXELS, LATENT = (2, 2, 2, 1), 8, 2
RATE = 0.02
# Far from the defaults, so that each is seen to have its place.
WEIGHTS = {
    "adversarial_weight": 0.7,
    "beta_rec": 1.5,
    "beta_kl": 0.8,
    "beta_neg": 3.0,
    "margin": 2.0,
    "gamma_r": 0.6,
}


def volumes(count=3, shape=SHAPE):
    return np.random.default_rng(0).random((count, *shape), dtype="float32")


def linear_parts(seed=0):
    """An encoder and a decoder that NumPy can follow."""
    keras.utils.set_random_seed(seed)
    x = keras.Input(SHAPE)
    flat = layers.Flatten()(x)
    log_variance = layers.Dense(LATENT, bias_initializer=keras.initializers.Constant(-0.5))
    encoder = keras.Model(x, [layers.Dense(LATENT)(flat), log_variance(flat)])
    z = keras.Input((LATENT,))
    decoder = keras.Model(z, layers.Reshape(SHAPE)(layers.Dense(VOXELS)(z)))
    return encoder, decoder


def linear(form, seed=1, **options):
    return IntroVAE(*linear_parts(), form=form, seed=seed, **options)


def small(form="hinge", norm="group", seed=1, **options):
    """Convolutions on 8×8×8 volumes."""
    keras.utils.set_random_seed(0)
    parts = [
        network((8, 8, 8, 1), 4, (2, 4), (6,), norm=norm, groups=2)
        for network in (intro_encoder, intro_decoder)
    ]
    return IntroVAE(*parts, form=form, seed=seed, **options)


def _parts(model):
    return model.encoder, model.decoder


def own_config(model):
    return {k: v for k, v in model.get_config().items() if k not in ("encoder", "decoder")}


class Oracle:
    """One training step from the formulas, in float64, with the noise that the model will draw."""

    def __init__(self, model, x, weights, form):
        self.x, self.form, self.w = x.reshape(len(x), -1).astype("float64"), form, weights
        self.scale = 1 / VOXELS if form == "soft" else 1.0
        generator = keras.random.SeedGenerator(0)
        generator.state.assign(model.seed_generator.state)

        def draw(rows):
            noise = keras.random.normal((rows, LATENT), dtype="float32", seed=generator)
            return ops.convert_to_numpy(noise).astype("float64")

        n = len(x)
        if form is not None:
            self.prior = draw(n)
        self.noise = draw(n)
        if form == "soft":
            self.fake_noise, self.late_noise = draw(2 * n), draw(2 * n)

    def encode(self, e, x):
        return x @ e[0] + e[1], x @ e[2] + e[3]

    def decode(self, d, z):
        return z @ d[0] + d[1]

    def error(self, x, y):
        return 0.5 * np.sum((x - y) ** 2, axis=1)

    def kl(self, mean, log_variance):
        return 0.5 * np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance, axis=1)

    def draw(self, e, x, noise):
        mean, log_variance = self.encode(e, x)
        return mean + np.exp(log_variance / 2) * noise

    def real(self, e, d):
        """L_AE and KL(x), each (n,)."""
        y = self.decode(d, self.draw(e, self.x, self.noise))
        return self.error(self.x, y), self.kl(*self.encode(e, self.x))

    def bound(self, e, d):
        error, kl = self.real(e, d)
        return np.mean(self.w["beta_rec"] * error + self.w["beta_kl"] * kl)

    def fakes(self, e, d):
        """Reconstructions, then samples."""
        z = self.draw(e, self.x, self.noise)
        return self.decode(d, np.concatenate([z, self.prior]))

    def encoder_loss(self, e, d, fakes):
        """Fakes are given: no gradient passes through them."""
        w, kl = self.w, self.kl(*self.encode(e, fakes))
        total = self.scale * self.bound(e, d)
        if self.form == "hinge":
            reconstructed, sampled = np.split(np.maximum(w["margin"] - kl, 0), 2)
            return total + w["adversarial_weight"] * np.mean(reconstructed + sampled)
        again = self.decode(d, self.draw(e, fakes, self.fake_noise))
        elbo = w["beta_rec"] * self.error(fakes, again) + w["beta_neg"] * kl
        reconstructed, sampled = np.split(np.exp(-2 * self.scale * elbo), 2)
        return total + 0.25 * w["adversarial_weight"] * (reconstructed.mean() + sampled.mean())

    def decoder_loss(self, e, d, z, frozen):
        """The codes z of the encoder's step, and the fakes that are a target, are given."""
        w, n = self.w, len(self.x)
        fakes = self.decode(d, np.concatenate([z, self.prior]))
        error = np.mean(self.error(self.x, fakes[:n]))
        reconstructed, sampled = np.split(self.kl(*self.encode(e, fakes)), 2)
        kl = np.mean(reconstructed) + np.mean(sampled)
        if self.form == "hinge":
            return w["beta_rec"] * error + w["adversarial_weight"] * kl
        again = self.decode(d, self.draw(e, frozen, self.late_noise))
        late = np.sum([part.mean() for part in np.split(self.error(frozen, again), 2)])
        fake = w["beta_kl"] / 2 * kl + w["gamma_r"] * w["beta_rec"] / 2 * late
        return self.scale * (w["beta_rec"] * error + w["adversarial_weight"] * fake)


def descend(loss, parameters):
    """Parameters after one step of plain descent, by central differences."""
    moved = []
    for parameter in parameters:
        gradient = np.zeros_like(parameter)
        for place in np.ndindex(parameter.shape):
            value, sides = parameter[place], []
            for side in (1e-5, -1e-5):
                parameter[place] = value + side
                sides.append(loss())
            parameter[place] = value
            gradient[place] = (sides[0] - sides[1]) / 2e-5
        moved.append(parameter - RATE * gradient)
    return moved


@pytest.mark.parametrize("form", [None, "hinge", "soft"])
def test_a_step_is_that_of_the_formulas(form):
    model, x = linear(form, **WEIGHTS), volumes()
    e, d = ([array(w).astype("float64") for w in part.weights] for part in _parts(model))
    oracle = Oracle(model, x, WEIGHTS, form)
    model.compile(keras.optimizers.SGD(RATE))
    logs = model.train_on_batch(x, return_dict=True)
    error, kl = oracle.real(e, d)
    expected = {
        "loss": oracle.bound(e, d),
        "reconstruction_loss": error.mean(),
        "kl_real": kl.mean(),
    }
    if form is None:
        new_e = descend(lambda: oracle.bound(e, d), e)
        new_d = descend(lambda: oracle.bound(e, d), d)
    else:
        fakes = oracle.fakes(e, d)
        z = oracle.draw(e, oracle.x, oracle.noise)
        kl_fake = oracle.kl(*oracle.encode(e, fakes))[len(x) :].mean()
        expected |= {
            "kl_fake": kl_fake,
            "kl_gap": kl_fake - kl.mean(),
            "encoder_loss": oracle.encoder_loss(e, d, fakes),
        }
        new_e = descend(lambda: oracle.encoder_loss(e, d, fakes), e)
        # The decoder is judged by the encoder that has taken its step.
        expected["decoder_loss"] = oracle.decoder_loss(new_e, d, z, fakes)
        new_d = descend(lambda: oracle.decoder_loss(new_e, d, z, fakes), d)
        if form == "hinge":  # the margin cuts some of the fakes off, not all
            beyond = oracle.kl(*oracle.encode(e, fakes)) > WEIGHTS["margin"]
            assert 0 < beyond.sum() < len(beyond)
    assert set(logs) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-4, err_msg=name)
    for part, new in zip(_parts(model), (new_e, new_d), strict=True):
        for weight, value in zip(part.weights, new, strict=True):
            np.testing.assert_allclose(array(weight), value, atol=2e-5, err_msg=weight.path)


@pytest.mark.parametrize("form", ["hinge", "soft"])
def test_neither_step_touches_the_other_part(form):
    still = keras.optimizers.SGD(0.0)
    for moving in (0, 1):
        model = linear(form)
        optimizers = [still.from_config(still.get_config()) for _ in range(2)]
        optimizers[moving] = keras.optimizers.SGD(0.1)
        before = [part.get_weights() for part in _parts(model)]
        model.compile(encoder_optimizer=optimizers[0], decoder_optimizer=optimizers[1])
        model.train_on_batch(volumes())
        for number, (old, part) in enumerate(zip(before, _parts(model), strict=True)):
            same = [np.array_equal(*pair) for pair in zip(old, part.get_weights(), strict=True)]
            assert all(same) if number != moving else not any(same)


class PlainVAE(keras.Model):
    """A VAE under the trainer of Keras, with one optimiser."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        mean, log_variance = self.encoder(x)
        noise = keras.random.normal(ops.shape(mean), dtype="float32", seed=self.seeds)
        kl = ops.square(mean) + ops.exp(log_variance) - 1 - log_variance
        self.add_loss(ops.mean(ops.sum(kl, axis=-1)) / 2)
        return self.decoder(mean + ops.exp(log_variance / 2) * noise)


def sum_of_squares(x, y):
    return ops.sum(ops.square(x - y), axis=(1, 2, 3, 4)) / 2


def test_a_weight_of_zero_makes_a_vae():
    x = volumes(6)
    plain = PlainVAE(*linear_parts())
    plain.compile(keras.optimizers.Adam(0.01), loss=sum_of_squares)
    fit = {"batch_size": 3, "epochs": 3, "shuffle": False, "verbose": 0}
    expected = plain.fit(x, x, **fit).history["loss"]
    weights = plain.get_weights()
    for form in (None, "hinge"):
        model = linear(form, adversarial_weight=0.0)
        assert not model.is_adversarial
        model.compile(keras.optimizers.Adam(0.01))
        history = model.fit(x, **fit).history
        assert set(history) == set(TERMS)
        np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)
        for one, other in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def trained():
    model, x = small("soft"), volumes(8, (8, 8, 8, 1))
    model.compile(
        encoder_optimizer=keras.optimizers.Adam(0.003), decoder_optimizer=keras.optimizers.Adam()
    )
    untrained = model.reconstruct(x)
    history = model.fit(x, batch_size=4, epochs=4, validation_data=(x[:4],), verbose=0).history
    return model, x, history, untrained


def test_convolutions_train_and_the_history_names_each_term(trained):
    model, x, history, untrained = trained
    assert set(history) == {*TERMS, *FAKES, *(f"val_{name}" for name in TERMS)}
    assert all(np.isfinite(values).all() for values in history.values())
    assert history["val_reconstruction_loss"][-1] < history["val_reconstruction_loss"][0]
    np.testing.assert_allclose(
        history["kl_gap"], np.subtract(history["kl_fake"], history["kl_real"]), rtol=1e-3, atol=1e-4
    )
    # What was compiled before the training sees the weights after it.
    assert np.abs(model.reconstruct(x) - untrained).max() > 1e-3
    measured = model.evaluate(x[:4], verbose=0, return_dict=True)
    error = 0.5 * np.sum((x[:4] - model.reconstruct(x[:4])) ** 2, axis=(1, 2, 3, 4)).mean()
    assert measured["reconstruction_loss"] == pytest.approx(error, rel=1e-4)
    mean, deviation = model.encode_distribution(x[:4])
    kl = 0.5 * np.sum(mean**2 + deviation**2 - 1 - 2 * np.log(deviation), axis=1).mean()
    assert measured["kl_real"] == pytest.approx(kl, rel=1e-4)
    assert measured["loss"] == pytest.approx(error + kl, rel=1e-4)


def test_volumes_become_vectors_and_vectors_volumes(trained):
    model, x, _, _ = trained
    mean, deviation = model.encode_distribution(x)
    assert mean.shape == deviation.shape == (8, model.latent_size) == (8, 4)
    assert mean.dtype == deviation.dtype == "float32"
    assert deviation.min() > 0
    np.testing.assert_array_equal(model.encode(x), mean)
    np.testing.assert_allclose(model.encode(x, batch_size=3), mean, rtol=1e-4, atol=1e-5)
    y = model.decode(mean)
    assert y.shape == x.shape
    assert y.dtype == "float32"
    np.testing.assert_array_equal(model.reconstruct(x), y)
    predicted = model.predict(x, verbose=0)
    np.testing.assert_allclose(predicted["reconstruction"], y, atol=1e-5)
    np.testing.assert_allclose(predicted["mean"], mean, rtol=1e-4, atol=1e-5)


def test_samples_are_decoded_draws_of_the_prior(trained):
    model = trained[0]
    z = np.random.default_rng(7).standard_normal((5, 4), dtype="float32")
    np.testing.assert_array_equal(model.sample(5, seed=7), model.decode(z))
    np.testing.assert_allclose(model.sample(5, seed=7, batch_size=2), model.decode(z), atol=1e-5)
    cooler = model.sample(5, seed=7, temperature=0.5)
    np.testing.assert_array_equal(cooler, model.decode(z / 2))
    middle = model.decode(np.zeros((1, 4)))
    middle = np.repeat(middle, 2, axis=0)
    np.testing.assert_allclose(model.sample(2, temperature=0.0), middle, atol=1e-6)
    assert np.abs(model.sample(1) - model.sample(1)).max() > 0


def test_fitted_draws_have_the_covariance_of_training_volumes(tmp_path):
    x = volumes(6)
    model = linear(None, fitted_draws=7)
    model.fit_draws(x)
    means, deviations = model.encode_distribution(x)
    residuals = (x - model.decode(means)).reshape(6, -1)
    z = model.draw(40_000, seed=0)
    spread = np.cov(means.T) + np.diag(np.mean(deviations**2, axis=0))
    np.testing.assert_allclose(z.mean(axis=0), means.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(np.cov(z.T), spread, atol=0.03)
    details = model.ex_post.details(40_000, np.random.default_rng(0)).reshape(-1, VOXELS)
    np.testing.assert_allclose(details.mean(axis=0), residuals.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(np.cov(details.T), np.cov(residuals.T), atol=0.01)
    # A seed draws the same again; what a vector stands for stays the mean; 0 is the middle.
    drawn = model.sample(3, seed=2)
    assert 0 <= drawn.min() < drawn.max() <= 1
    np.testing.assert_array_equal(drawn, model.decode_drawn(model.draw(3, 2), seed=2))
    np.testing.assert_array_equal(model.reconstruct(x), model.decode(means))
    middle = np.repeat(means.mean(axis=0)[None], 2, axis=0)
    np.testing.assert_allclose(model.draw(2, temperature=0.0), middle, atol=1e-6)
    assert np.abs(model.sample(1) - model.sample(1)).max() > 0
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.sample(3, seed=2), drawn)


def test_fitted_draws_of_one_volume_are_like_it():
    model = linear(None, fitted_draws=2)
    model.fit_draws(volumes(1))
    details = model.ex_post.details(2, np.random.default_rng(0))
    expected = np.repeat(volumes(1) - model.reconstruct(volumes(1)), 2, axis=0)
    np.testing.assert_allclose(details, expected, atol=1e-6)


def test_a_loaded_model_is_the_same_and_trains_on_alike(trained, tmp_path):
    model, x, _, _ = trained
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.reconstruct(x), model.reconstruct(x))
    np.testing.assert_array_equal(loaded.sample(2, seed=0), model.sample(2, seed=0))
    assert own_config(loaded) == own_config(model)
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for one, other in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(array(one), array(other), err_msg=one.path)
    assert float(loaded.optimizer.encoder_optimizer.learning_rate) == pytest.approx(0.003)
    assert float(loaded.optimizer.decoder_optimizer.learning_rate) == pytest.approx(0.001)
    np.testing.assert_array_equal(
        array(loaded.seed_generator.state), array(model.seed_generator.state)
    )


def test_a_loaded_model_takes_the_same_next_step(tmp_path):
    model, x = linear("soft"), volumes()
    model.compile("adam")
    model.train_on_batch(x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    logs = [one.train_on_batch(x, return_dict=True) for one in (model, loaded)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)
    for one, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(array(one), array(other), rtol=1e-6)


def test_the_config_has_every_argument():
    options = {"form": "soft", "seed": 3, "fitted_draws": 2, **WEIGHTS}
    model = linear(**options)
    config = model.get_config()
    parameters = set(inspect.signature(IntroVAE.__init__).parameters) - {"self", "kwargs"}
    assert parameters <= set(config)
    assert all(config[name] == getattr(model, name) == options[name] for name in options)
    restored = IntroVAE.from_config(json.loads(json.dumps(config)))
    assert own_config(restored) == own_config(model)
    for one, other in zip(_parts(restored), _parts(model), strict=True):
        assert one.to_json() == other.to_json()


def test_batch_normalisation_trains_too():
    model = small("hinge", norm="batch")
    model.compile("adam")
    before = model.get_weights()
    logs = model.train_on_batch(volumes(4, (8, 8, 8, 1)), return_dict=True)
    assert np.isfinite(list(logs.values())).all()
    names = [weight.path for weight in model.weights]
    for name, old, new in zip(names, before, model.get_weights(), strict=True):
        assert np.array_equal(old, new) == ("remove_mean" in name), name


def test_one_optimizer_is_for_both_and_one_rate_moves_both():
    model = linear("hinge")
    model.compile(keras.optimizers.Adam(0.02, beta_1=0.5))
    pair = model.optimizer.encoder_optimizer, model.optimizer.decoder_optimizer
    assert pair[0] is not pair[1]
    assert [one.beta_1 for one in pair] == [0.5, 0.5]
    model.compile(encoder_optimizer=keras.optimizers.SGD(0.1), decoder_optimizer="adam")
    model.optimizer.learning_rate = 0.05
    rates = [
        float(one.learning_rate)
        for one in (model.optimizer.encoder_optimizer, model.optimizer.decoder_optimizer)
    ]
    assert rates == pytest.approx([0.05, 0.0005])
    model.train_on_batch(volumes())
    assert int(model.optimizer.iterations) == 1


def test_a_frozen_encoder_stays():
    model = linear("hinge")
    model.encoder.trainable = False
    model.compile("adam")
    before = [part.get_weights() for part in _parts(model)]
    model.train_on_batch(volumes())
    np.testing.assert_array_equal(before[0][0], model.encoder.get_weights()[0])
    assert not np.array_equal(before[1][0], model.decoder.get_weights()[0])


def test_mistakes_are_named():
    encoder, decoder = linear_parts()
    with pytest.raises(ValueError, match="`form` must be .* Received: form=gan"):
        IntroVAE(encoder, decoder, "gan")
    with pytest.raises(ValueError, match="Received: beta_neg=-1"):
        IntroVAE(encoder, decoder, beta_neg=-1)
    with pytest.raises(ValueError, match="Received: margin=0"):
        IntroVAE(encoder, decoder, margin=0)
    with pytest.raises(ValueError, match="must be built keras.Models"):
        IntroVAE(encoder, layers.Dense(3))
    with pytest.raises(ValueError, match="must return mean and log-variance"):
        IntroVAE(decoder, encoder)
    with pytest.raises(ValueError, match="way back of `encoder`"):
        IntroVAE(encoder, intro_decoder((8, 8, 8, 1), LATENT, (2,), groups=1))
    model = IntroVAE(encoder, decoder)
    with pytest.raises(ValueError, match="either `optimizer` or both"):
        model.compile()
    with pytest.raises(ValueError, match="either `optimizer` or both"):
        model.compile(encoder_optimizer="adam")
    with pytest.raises(ValueError, match="either `optimizer` or both"):
        model.compile("adam", decoder_optimizer="adam")
    model.compile("adam", run_eagerly=True)
    with pytest.raises(ValueError, match="on volumes alone"):
        model.train_on_batch(volumes(), volumes())
    with pytest.raises(ValueError, match=r"Expected an array \(n, 2, 2, 2, 1\)"):
        model.encode(volumes(shape=(2, 2, 3, 1)))
    with pytest.raises(ValueError, match=r"Expected an array \(n, 2\)"):
        model.decode(np.zeros((3, 5)))
    with pytest.raises(ValueError, match="Nothing to decode"):
        model.decode(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="Received: n=0"):
        model.sample(0)
    with pytest.raises(ValueError, match="Received: fitted_draws=0"):
        model.fit_draws(volumes())
    with pytest.raises(ValueError, match="Received: fitted_draws=-1"):
        IntroVAE(encoder, decoder, fitted_draws=-1)
    with pytest.raises(ValueError, match="Expected 1 to 2 training volumes. Received: 3"):
        linear(None, fitted_draws=2).fit_draws(volumes())


REPLICAS = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from brainvq.models import IntroVAE

def train(form, strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        x = keras.Input((3,))
        # No noise to speak of: replicas draw their own.
        quiet = keras.layers.Dense(
            2, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(-30.0))
        quiet.trainable = False
        encoder = keras.Model(x, [keras.layers.Dense(2)(x), quiet(x)])
        z = keras.Input((2,))
        model = IntroVAE(encoder, keras.Model(z, keras.layers.Dense(3)(z)), form, seed=1)
        model.compile(keras.optimizers.SGD(0.05))
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    history = model.fit(x, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    return model, history

two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
expected, _ = train(None, tf.distribute.get_strategy())
model, _ = train(None, two)
for old, new in zip(expected.weights, model.weights):
    np.testing.assert_allclose(np.array(old), np.array(new), rtol=1e-3, atol=1e-4, err_msg=old.path)
model, history = train("soft", two)
for weight in model.weights:
    first, second = (v.numpy() for v in two.experimental_local_results(weight.value))
    np.testing.assert_array_equal(first, second, err_msg=weight.path)
assert all(np.isfinite(values).all() for values in history.values())
print("replicas agree")
"""


@pytest.mark.thorough
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute")
def test_replicas_take_one_step_together():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "replicas agree" in done.stdout
