"""IntroVAE: an autoencoder whose encoder is the critic of its decoder, and the VAE under it."""

import math

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number, seed_of, whole
from brainvq.backend import mean_over_replicas, num_replicas, record, run_step
from brainvq.layers.gaussian_sampling import LOG_VARIANCE_LIMIT
from brainvq.models.ex_post import ExPostGaussian
from brainvq.models.latent import LatentModel, Vector
from brainvq.models.paired_optimizer import PairedOptimizer

FORMS = (None, "hinge", "soft")


@keras.saving.register_keras_serializable(package="brainvq")
class IntroVAE(LatentModel):
    """A variational autoencoder that samples sharply, trained without a network beside its two.

    The encoder tells real volumes from generated ones by KL, the divergence from N(0, I) of the
    Gaussian that it makes of a volume: small for real ones, large for what the decoder made of
    noise or of a real volume's own code ("fakes"). The decoder is trained to have its fakes
    encoded as if they were real. For a volume x and its reconstruction x_r, both summed and
    averaged over the batch,

        L_AE = ½ Σ_voxels (x − x_r)²,    KL = ½ Σ_latent (μ² + σ² − 1 − log σ²)    in nats.

    A step updates the encoder, then the decoder against the updated encoder; neither step touches
    the other part's weights. x_r = Dec(z) and x_p = Dec(z_p) are the fakes, of z ~ Enc(x) and of
    z_p ~ N(0, I); α is `adversarial_weight`, and sg stops gradients. The forms:

    - `"hinge"` (Huang et al. 2018, equations 11 and 12), as Vogelsanger & Federau have it, which
      leaves out x_r:
      L_E = β_rec L_AE + β_kl KL(x) + α Σ_{r,p} [m − KL(sg x_s)]₊ with the margin m;
      L_G = β_rec L_AE + α Σ_{r,p} KL(x_s).
    - `"soft"` (Daniel & Tamar 2021, equation 10 and algorithm 1), with the scale s = 1 / voxels:
      L_E = s (β_rec L_AE + β_kl KL(x)) + α/4 Σ_{r,p} exp(−2s (β_rec L_AE(sg x_s) + β_neg
      KL(sg x_s))), where L_AE(sg x_s) reconstructs the fake;
      L_G = s (β_rec L_AE + α β_kl/2 Σ_{r,p} KL(x_s) + α γ_r β_rec/2 Σ_{r,p} L_AE(sg x_s)).
      It has no margin to find and, thanks to s, the same weights at any resolution.
    - None, or a weight of zero: the VAE (Kingma & Welling 2014), L = β_rec L_AE + β_kl KL(x), with
      "soft" s times that, in one step for both parts.

    The published code of the soft form has no ½ in L_AE: its β_rec of 1 is `beta_rec=2` here.

    `fit(x)` trains on volumes alone:

        >>> encoder = intro_encoder((40, 48, 40, 1), latent_size=256)
        >>> model = IntroVAE(encoder, intro_decoder((40, 48, 40, 1), latent_size=256))
        >>> model.compile(encoder_optimizer="adam", decoder_optimizer="adam")
        >>> model.fit(volumes, epochs=100)
        >>> new = model.sample(4, seed=0)                     # float32 (4, 40, 48, 40, 1)

    The history has `loss` (β_rec L_AE + β_kl KL(x), which bounds the evidence; the whole loss of
    the VAE, unscaled), `reconstruction_loss` (L_AE), `kl_real` (KL(x)) and, where there are fakes,
    `kl_fake` (KL of x_p in the encoder's step), `kl_gap` (`kl_fake` − `kl_real`, above zero while
    the encoder tells the two apart), `encoder_loss` (L_E) and `decoder_loss` (L_G). `evaluate`
    gives the first three, of the reconstruction from the mean. Losses that layers add by
    `add_loss` are no part of any of them.

    `call(x, training=None)` returns a dict: `reconstruction`, float32, the shape of `x`, from the
    mean, in training from a draw; `mean` and `log_variance`, float32 `(batch, latent_size)`.

    Args:
        encoder: built `keras.Model`, `(batch, *spatial, channels)` → list of mean and
            log-variance, `(batch, latent_size)` each, such as `intro_encoder`.
        decoder: built `keras.Model`, the way back, such as `intro_decoder`.
        form: "hinge" (default), "soft" or None.
        adversarial_weight: float ≥ 0, α. Zero, like no form, makes a VAE. Default 0.25 for "hinge",
            as in Huang et al., and 1 for "soft". There are two fakes to a real volume: with "hinge"
            and more than 0.5 an encoder gains by raising all divergences up to the margin, real
            ones too, and tells nothing apart.
        beta_rec: float ≥ 0, weight of the reconstruction. Default 1.
        beta_kl: float ≥ 0, weight of KL(x). Default 1.
        beta_neg: float ≥ 0, weight of the fakes' KL in the exponent; "soft" only. Default 256, the
            published one for images of up to 128² pixels and 128 latent numbers.
        margin: float > 0, m, in nats; "hinge" only. It should lie above the KL(x) of the same
            network trained as a VAE. Default 100.
        gamma_r: float ≥ 0, weight of the fakes' reconstruction in the decoder's step; "soft" only.
            Default 0. The published 1e-8 is less than what float32 resolves beside the other
            terms, and makes a step a quarter longer.
        seed: int or None. Noise differs between steps; the generator's state is saved with the
            weights, so that a resumed run goes on drawing where it stood.
        fitted_draws: 0 (default), or int ≥ 1: training volumes at most that `fit_draws` learns from
            after the training; draws then come from it, see `ExPostGaussian`, and not from N(0, I).
        **kwargs: `name` and others of `keras.Model`.

    Raises:
        ValueError: if an argument is out of its range, or the parts do not fit.
    """

    bottleneck = None
    """None, here as in `Autoencoder` the layer between encoder and decoder: the encoder makes the
    vector itself."""

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        form: str | None = "hinge",
        adversarial_weight: float | None = None,
        beta_rec: float = 1.0,
        beta_kl: float = 1.0,
        beta_neg: float = 256.0,
        margin: float = 100.0,
        gamma_r: float = 0.0,
        seed: int | None = None,
        fitted_draws: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if form not in FORMS:
            raise ValueError(f'`form` must be "hinge", "soft" or None. Received: form={form}')
        if adversarial_weight is None:
            adversarial_weight = 0.25 if form == "hinge" else 1.0
        weights = {
            "adversarial_weight": adversarial_weight,
            "beta_rec": beta_rec,
            "beta_kl": beta_kl,
            "beta_neg": beta_neg,
            "gamma_r": gamma_r,
        }
        weights = {key: number(key, weight) for key, weight in weights.items()}
        margin = number("margin", margin, above=True)
        _check_parts(encoder, decoder)
        self.encoder = encoder
        self.decoder = decoder
        self.form = form
        self.adversarial_weight = weights["adversarial_weight"]
        self.beta_rec = weights["beta_rec"]
        self.beta_kl = weights["beta_kl"]
        self.beta_neg = weights["beta_neg"]
        self.margin = margin
        self.gamma_r = weights["gamma_r"]
        self.fitted_draws = whole("fitted_draws", fitted_draws, 0)
        self.ex_post = None
        if self.fitted_draws:
            shape = encoder.input_shape[1:]
            self.ex_post = ExPostGaussian(fitted_draws, self.latent_size, shape, name="ex_post")
        self.seed = seed_of(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        names = ["loss", "reconstruction_loss", "kl_real"]
        if self.is_adversarial:
            names += ["kl_fake", "kl_gap", "encoder_loss", "decoder_loss"]
        self._trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.build(encoder.input_shape)

    def build(self, input_shape):
        """Does nothing: the parts are built already."""

    @property
    def latent_size(self) -> int:
        """Numbers in a latent vector."""
        return self.encoder.output_shape[0][-1]

    @property
    def latent(self) -> Vector:
        """What `encode` gives and `decode` takes: one `Vector` for a volume."""
        return Vector(self.latent_size)

    @property
    def is_adversarial(self) -> bool:
        """Whether the encoder is trained as a critic; otherwise the model is a VAE."""
        return self.form is not None and self.adversarial_weight > 0

    @property
    def metrics(self) -> list:
        """The terms of the history."""
        return list(self._trackers.values())

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str | dict | None = None,
        encoder_optimizer: keras.optimizers.Optimizer | str | dict | None = None,
        decoder_optimizer: keras.optimizers.Optimizer | str | dict | None = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
    ):
        """Configures the training; the losses are arguments of the model.

        Args:
            optimizer: for both parts: a Keras optimiser, of which the decoder gets a copy, its name
                or its config.
            encoder_optimizer: the encoder's, in place of `optimizer`.
            decoder_optimizer: the decoder's.
            run_eagerly: see `keras.Model.compile`.
            steps_per_execution: see `keras.Model.compile`.
            jit_compile: see `keras.Model.compile`.

        Raises:
            ValueError: unless there are either one optimiser or two.
        """
        two = (encoder_optimizer, decoder_optimizer)
        if any(one is None for one in two) if optimizer is None else two != (None, None):
            raise ValueError(
                "Give either `optimizer` or both `encoder_optimizer` and `decoder_optimizer`. "
                f"Received: optimizer={optimizer}, encoder_optimizer={encoder_optimizer}, "
                f"decoder_optimizer={decoder_optimizer}"
            )
        if optimizer is not None:
            first = keras.optimizers.get(optimizer)
            two = (first, first.from_config(first.get_config()))
        if not isinstance(optimizer, PairedOptimizer):
            optimizer = PairedOptimizer(*map(keras.optimizers.get, two))
        super().compile(
            optimizer=optimizer,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=False,
        )
        # Now, not at the first step: what restores a training looks for its variables.
        if not optimizer.built:
            optimizer.build([self.encoder.trainable_variables, self.decoder.trainable_variables])

    def compile_from_config(self, config):
        """Compiles the model as a loaded one was, its optimisers' variables included."""
        config = keras.saving.deserialize_keras_object(config)
        names = ("optimizer", "run_eagerly", "steps_per_execution", "jit_compile")
        self.compile(**{name: config[name] for name in names})

    def call(self, x, training: bool | None = None):
        """Reconstructs `x`; see the class for shapes."""
        mean, log_variance = self._encode(x, training)
        z = self._draw(mean, log_variance) if training else mean
        return {
            "reconstruction": self._decode(z, training),
            "mean": mean,
            "log_variance": log_variance,
        }

    def train_step(self, *args):
        """Updates the encoder, then the decoder; as a VAE both at once."""
        return run_step(self, self._train, *args)

    def test_step(self, *args):
        """Measures the terms that every form has."""
        return run_step(self, self._test, *args)

    def _train(self, data):
        x = _images(data)
        return self._logs(self._adversarial_step(x) if self.is_adversarial else self._joint_step(x))

    def _test(self, data):
        x = _images(data)
        outputs = self(x, training=False)
        error = squared_error(x, outputs["reconstruction"])
        return self._logs(self._terms(error, divergence(outputs["mean"], outputs["log_variance"])))

    def _joint_step(self, x):
        """A step of the VAE; returns its terms, each `(batch,)`."""

        def forward():
            outputs = self(x, training=True)
            error = squared_error(x, outputs["reconstruction"])
            terms = self._terms(error, divergence(outputs["mean"], outputs["log_variance"]))
            return {**terms, "objective": self._objective(self._scale() * terms["loss"])}

        variables = [*self.encoder.trainable_variables, *self.decoder.trainable_variables]
        outputs, (pull,) = record(forward, self, [("objective", variables)])
        self.optimizer.apply(pull()[0])
        return outputs

    def _adversarial_step(self, x):
        """A step of the encoder and one of the decoder; returns the terms, each `(batch,)`."""
        shape = (ops.shape(x)[0], self.latent_size)
        prior = keras.random.normal(shape, dtype="float32", seed=self.seed_generator)

        def encoder_side():
            mean, log_variance = self._encode(x, training=True)
            z = self._draw(mean, log_variance)
            # Apart, for the encoder's gradient passes through the reconstruction alone.
            reconstructed = self._decode(z, training=True)
            decoded = ops.concatenate([reconstructed, self._decode(prior, training=True)])
            terms = self._terms(squared_error(x, reconstructed), divergence(mean, log_variance))
            penalty, kl_fakes = self._penalty(ops.stop_gradient(decoded))
            terms["encoder_loss"] = self._scale() * terms["loss"] + _sum_of_halves(penalty)
            terms["kl_fake"] = kl_fakes[shape[0] :]
            terms["kl_gap"] = terms["kl_fake"] - terms["kl_real"]
            objective = self._objective(terms["encoder_loss"])
            return {**terms, "objective": objective, "decoded": decoded}

        def decoder_side(decoded):
            error = squared_error(x, decoded[: shape[0]])
            loss = self._scale() * self.beta_rec * error + _sum_of_halves(self._effort(decoded))
            return {"decoder_loss": loss, "objective": self._objective(loss)}

        pair = self.encoder.trainable_variables, self.decoder.trainable_variables
        targets = [("objective", pair[0]), ("decoded", pair[1])]
        outputs, (pull_encoder, pull_decoder) = record(encoder_side, self, targets)
        self.optimizer.encoder_optimizer.apply(pull_encoder()[0], pair[0])
        # What was decoded stays as it is; the encoder that judges it has changed.
        targets = [("objective", pair[1] if self._decodes_fakes else [])]
        judged, (pull,) = record(decoder_side, self, targets, outputs["decoded"])
        direct, (through,) = pull()
        gradients, _ = pull_decoder(through)
        if direct:
            gradients = [ops.add(*two) for two in zip(gradients, direct, strict=True)]
        self.optimizer.decoder_optimizer.apply(gradients, pair[1])
        return {**outputs, **judged}

    def _penalty(self, fakes):
        """What each fake adds to the encoder's loss, and its divergence; both `(2 batch,)`."""
        mean, log_variance = self._encode(fakes, training=True)
        kl = divergence(mean, log_variance)
        if self.form == "hinge":
            return self.adversarial_weight * ops.relu(self.margin - kl), kl
        again = self._decode(self._draw(mean, log_variance), training=True)
        bound = self.beta_rec * squared_error(fakes, again) + self.beta_neg * kl
        return self.adversarial_weight / 4 * ops.exp(-2.0 * self._scale() * bound), kl

    def _effort(self, decoded):
        """What each fake adds to the decoder's loss, `(2 batch,)`."""
        mean, log_variance = self._encode(decoded, training=True)
        kl = divergence(mean, log_variance)
        if self.form == "hinge":
            return self.adversarial_weight * kl
        effort = self.beta_kl * kl
        if self._decodes_fakes:
            z = ops.stop_gradient(self._draw(mean, log_variance))
            error = squared_error(ops.stop_gradient(decoded), self._decode(z, training=True))
            effort = effort + self.gamma_r * self.beta_rec * error
        return self.adversarial_weight * self._scale() / 2 * effort

    def _terms(self, error, kl):
        return {
            "loss": self.beta_rec * error + self.beta_kl * kl,
            "reconstruction_loss": error,
            "kl_real": kl,
        }

    @property
    def _decodes_fakes(self):
        """Whether the decoder is trained to reconstruct its own volumes."""
        return self.form == "soft" and self.gamma_r > 0

    def _objective(self, losses):
        """The scalar to descend on; what optimisers sum over replicas is each one's share."""
        replicas = num_replicas()
        if replicas == 1:
            return ops.mean(losses)
        count = ops.cast(ops.shape(losses)[0], "float32")
        return mean_over_replicas(ops.sum(losses), count) / replicas

    def _scale(self):
        return 1 / math.prod(self.encoder.input_shape[1:]) if self.form == "soft" else 1.0

    def _logs(self, outputs):
        trackers = [tracker for name, tracker in self._trackers.items() if name in outputs]
        for tracker in trackers:
            tracker.update_state(outputs[tracker.name])
        return {tracker.name: tracker.result() for tracker in trackers}

    def _encode(self, x, training=False):
        """Mean and log-variance, float32 `(batch, latent_size)` each."""
        mean, log_variance = self.encoder(x, training=training)
        limit = LOG_VARIANCE_LIMIT
        log_variance = ops.clip(ops.cast(log_variance, "float32"), -limit, limit)
        return ops.cast(mean, "float32"), log_variance

    def _draw(self, mean, log_variance):
        noise = keras.random.normal(ops.shape(mean), dtype="float32", seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise

    def _decode(self, z, training=False):
        return ops.cast(self.decoder(z, training=training), "float32")

    def encode(self, x: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Encodes volumes to the means of their Gaussians.

        Args:
            x: float array `(n, *spatial, channels)`.
            batch_size: int, volumes per step.

        Returns:
            Float32 NumPy array `(n, latent_size)`.

        Raises:
            ValueError: if the encoder was made for another size.
        """
        return self.encode_distribution(x, batch_size)[0]

    def encode_distribution(
        self, x: np.ndarray, batch_size: int = 32
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes volumes to Gaussians.

        Args:
            x: float array `(n, *spatial, channels)`.
            batch_size: int, volumes per step.

        Returns:
            Tuple of means and standard deviations, float32 NumPy arrays `(n, latent_size)`.

        Raises:
            ValueError: if the encoder was made for another size.
        """
        x = _checked(x, self.encoder.input_shape)
        both = self._batched("encode", self._encode_statistics, x, batch_size)
        return both[:, : self.latent_size], both[:, self.latent_size :]

    def decode(self, z: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Decodes latent vectors.

        Args:
            z: float array `(n, latent_size)`.
            batch_size: int, vectors per step.

        Returns:
            Float32 NumPy array `(n, *spatial, channels)`.

        Raises:
            ValueError: if the vectors have another size.
        """
        z = _checked(z, self.decoder.input_shape)
        return self._batched("decode", self._decode, z, batch_size)

    def reconstruct(self, x: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """`decode(encode(x))`, to the last bit.

        Args:
            x: float array `(n, *spatial, channels)`.
            batch_size: int, volumes per step.

        Returns:
            Float32 NumPy array, the shape of `x`.

        Raises:
            ValueError: if the encoder was made for another size.
        """
        return self.decode(self.encode(x, batch_size), batch_size)

    def sample(
        self, n: int, seed: int | None = None, temperature: float = 1.0, batch_size: int = 32
    ) -> np.ndarray:
        """Decodes draws from N(0, `temperature`² I), or from the Gaussian of `fitted_draws`.

        The same seed draws the same vectors on every backend, whatever the batch size.

        Args:
            n: int ≥ 1, number of volumes.
            seed: int, or None for another draw at each call.
            temperature: float ≥ 0, standard deviation of the draws; below 1 the volumes are more
                alike and closer to those of training.
            batch_size: int, volumes per step.

        Returns:
            Float32 NumPy array `(n, *spatial, channels)`.

        Raises:
            ValueError: if `n` or `temperature` is out of its range.
        """
        return self.decode_drawn(self.draw(n, seed, temperature), batch_size, seed)

    def draw(self, n: int, seed: int | None = None, temperature: float = 1.0) -> np.ndarray:
        """Draws the vectors that `sample` decodes.

        Args:
            n: int ≥ 1, number of vectors.
            seed: int, or None for another draw at each call.
            temperature: float ≥ 0, standard deviation of the draws, or a factor of the fitted one.

        Returns:
            Float32 NumPy array `(n, latent_size)`.

        Raises:
            ValueError: if `n` or `temperature` is out of its range.
        """
        n, temperature = whole("n", n), number("temperature", temperature)
        rng = np.random.default_rng(seed)
        if self.ex_post is not None:
            return self.ex_post.vectors(n, rng, temperature)
        z = rng.standard_normal((n, self.latent_size), dtype="float32")
        return np.float32(temperature) * z

    def decode_drawn(
        self, z: np.ndarray, batch_size: int = 32, seed: int | None = None
    ) -> np.ndarray:
        """Decodes vectors of `draw`; with `fitted_draws` detail is added that no vector holds."""
        volumes = self.decode(z, batch_size)
        if self.ex_post is None:
            return volumes
        rng = np.random.default_rng(None if seed is None else [seed, 1])  # not that of the vectors
        return np.clip(volumes + self.ex_post.details(len(volumes), rng), 0.0, 1.0)

    def fit_draws(self, x: np.ndarray, batch_size: int = 32) -> None:
        """Fits what `sample` draws from, of a model with `fitted_draws`; call it once trained.

        Args:
            x: float `(n, *spatial, channels)` in [0, 1], n from 1 to `fitted_draws`: training
                volumes.
            batch_size: int, volumes per step.

        Raises:
            ValueError: if there is no volume or there are too many, or `fitted_draws` is 0.
        """
        if self.ex_post is None:
            raise ValueError("Expected a model with `fitted_draws`. Received: fitted_draws=0")
        means, deviations = self.encode_distribution(x, batch_size)
        self.ex_post.set(means, deviations, x - self.decode(means, batch_size))

    def endpoints(self, inputs=None) -> dict:
        """What `export` writes: `serve`, `encode`, `decode` and `reconstruct` of tensors.

        `serve` is what `predict` returns, the others are the methods of those names.

        Args:
            inputs: `keras.InputSpec` of volumes. Default: those that the encoder was made for.

        Returns:
            See `Exports.endpoints`.
        """
        shape = tuple((inputs or keras.InputSpec(shape=self.encoder.input_shape)).shape)
        volumes = keras.InputSpec(shape=shape, dtype="float32", name="volumes")
        vectors = keras.InputSpec(
            shape=(shape[0], self.latent_size), dtype="float32", name="vectors"
        )
        return {
            "serve": (lambda x: self(x, training=False), volumes),
            "encode": (lambda x: self._encode(x)[0], volumes),
            "decode": (self._decode, vectors),
            "reconstruct": (lambda x: self._decode(self._encode(x)[0]), volumes),
        }

    def save_own_variables(self, store):
        """Saves what Keras leaves out, the state of the random generator."""
        super().save_own_variables(store)
        store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state.value)

    def load_own_variables(self, store):
        """Loads what `save_own_variables` saved."""
        self.seed_generator.state.assign(store["seed_state"])

    def get_config(self):
        """Returns the constructor's arguments, the parts in serialised form."""
        return {
            **super().get_config(),
            **self._serialized_parts(),
            "form": self.form,
            "adversarial_weight": self.adversarial_weight,
            "beta_rec": self.beta_rec,
            "beta_kl": self.beta_kl,
            "beta_neg": self.beta_neg,
            "margin": self.margin,
            "gamma_r": self.gamma_r,
            "fitted_draws": self.fitted_draws,
            "seed": self.seed,
        }

    def _encode_statistics(self, x):
        mean, log_variance = self._encode(x)
        return ops.concatenate([mean, ops.exp(0.5 * log_variance)], axis=-1)


def squared_error(x, y):
    """½ Σ (x − y)² of each volume, float32 `(batch,)`; minus the log-likelihood of x under
    N(y, I), up to a constant.
    """
    error = ops.square(ops.cast(x, "float32") - y)
    return 0.5 * ops.sum(error, axis=tuple(range(1, len(error.shape))))


def divergence(mean, log_variance):
    """KL(N(mean, exp(log_variance)) ‖ N(0, I)) in nats, float32 `(batch,)`.

    Kingma & Welling 2014, appendix B.
    """
    return 0.5 * ops.sum(ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance, axis=-1)


def _sum_of_halves(values):
    """The terms of each volume's two fakes in one: (2 batch,) → (batch,)."""
    return ops.sum(ops.reshape(values, (2, -1)), axis=0)


def _images(data):
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if y is not None or sample_weight is not None or keras.tree.is_nested(x):
        raise ValueError(
            "IntroVAE trains on volumes alone, as fit(x). Received: targets, sample weights or "
            "several inputs"
        )
    return ops.cast(x, "float32")


def _check_parts(encoder, decoder):
    for part in (encoder, decoder):
        if not isinstance(part, keras.Model) or not part.built:
            raise ValueError(
                "`encoder` and `decoder` must be built keras.Models, as of intro_encoder and "
                f"intro_decoder. Received: {part}"
            )
    latent = encoder.output_shape
    if not isinstance(latent, list) or len(latent) != 2 or latent[0] != latent[1]:
        raise ValueError(
            "`encoder` must return mean and log-variance, (batch, latent_size) each. "
            f"Received: encoder.output_shape={latent}"
        )
    way, back = (encoder.input_shape, latent[0]), (decoder.output_shape, decoder.input_shape)
    if way != back:
        raise ValueError(
            "`decoder` must be the way back of `encoder`. Received: "
            f"encoder {way[0]} to {way[1]}, decoder {back[1]} to {back[0]}"
        )


def _checked(array, shape):
    array = np.asarray(array, dtype="float32")
    if array.shape[1:] != tuple(shape[1:]):
        raise ValueError(
            f"Expected an array (n, {', '.join(map(str, shape[1:]))}). "
            f"Received: an array of shape {array.shape}"
        )
    return array
