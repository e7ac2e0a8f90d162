"""Rate of training steps of study `introvae3d`, beside a VAE in plain Keras.

    python benchmarks/intro_vae.py                          # 40x48x40, batch 16: some minutes
    python benchmarks/intro_vae.py --patch 1                # the finest grid as in the source
    python benchmarks/intro_vae.py --shape 16 16 16 --batch 4
    python benchmarks/intro_vae.py --only hinge soft        # beside the VAE

The plain VAE is written below as tutorials write it: the same network, a `train_step` of its own on
TensorFlow, one Adam. All models train on the same array with a compiled `fit`, in rounds that go
through them in turn, so that whatever else the machine does falls on all: compare the ratios of one
run, not seconds of different runs. The ratio by CPU seconds of the process is for a machine that
other programs use as well.

"rate" is ours / plain in steps per second: above 1, the VAE of the library is faster. "multiple" is
the time of a step in steps of our VAE. In passes through the networks, of which a VAE's step takes
three (there, and twice back) of each, "hinge" takes 13 of the encoder and 7 of the decoder, "soft"
13 and 11, and 17 of the decoder with the term that `gamma_r` weighs.
"""

import argparse
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from brainvq.layers import DepthToSpace, SoftClip, SpaceToDepth
from brainvq.models import IntroVAE, intro_decoder, intro_encoder

FILTERS, UNITS, DROPOUT, GROUPS = (16, 32, 64), 512, 0.1, 4


class PlainVAE(keras.Model):
    """A VAE as tutorials write it.

    Args:
        shape: spatial sizes.
        latent: int, numbers of the latent vector.
        patch: int, 1 or 2, see `intro_encoder`.
    """

    def __init__(self, shape, latent, patch):
        super().__init__()
        self.encoder = plain_encoder(shape, latent, patch)
        self.decoder = plain_decoder(shape, latent, patch)
        self.seeds = keras.random.SeedGenerator(0)
        self.trackers = [
            keras.metrics.Mean(name=name) for name in ("loss", "reconstruction_loss", "kl_loss")
        ]

    @property
    def metrics(self):
        """Trackers that `fit` resets at each epoch."""
        return self.trackers

    def train_step(self, x):
        """One step of gradient descent on a batch of volumes."""
        with tf.GradientTape() as tape:
            mean, log_variance = self.encoder(x, training=True)
            noise = keras.random.normal(tf.shape(mean), seed=self.seeds)
            y = self.decoder(mean + tf.exp(0.5 * log_variance) * noise, training=True)
            reconstruction = tf.reduce_mean(tf.reduce_sum((x - y) ** 2, axis=(1, 2, 3, 4))) / 2
            kl = 1 + log_variance - tf.square(mean) - tf.exp(log_variance)
            kl = -0.5 * tf.reduce_mean(tf.reduce_sum(kl, axis=1))
            loss = reconstruction + kl
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        for tracker, value in zip(self.trackers, (loss, reconstruction, kl), strict=True):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


def plain_encoder(shape, latent, patch):
    """The encoder by Keras' own layers; Keras has none for patches."""
    inputs = x = keras.Input((*shape, 1))
    if patch > 1:
        x = SpaceToDepth(patch)(x)
    for number, width in enumerate(FILTERS, 1):
        x = layers.Conv3D(width, 3, padding="same", use_bias=False)(x)
        x = layers.LeakyReLU(0.2)(layers.GroupNormalization(GROUPS)(x))
        if patch == 1 or number < len(FILTERS):
            x = layers.AveragePooling3D(2)(x)
    x = layers.Dense(UNITS, use_bias=False)(layers.Flatten()(x))
    x = layers.Dropout(DROPOUT)(layers.LeakyReLU(0.2)(layers.LayerNormalization()(x)))
    return keras.Model(inputs, [layers.Dense(latent)(x), layers.Dense(latent)(x)])


def plain_decoder(shape, latent, patch):
    """The decoder by Keras' own layers."""
    grid = [size // 2 ** len(FILTERS) for size in shape]
    inputs = x = keras.Input((latent,))
    x = layers.LeakyReLU(0.2)(layers.Dense(UNITS)(x))
    x = layers.Dense(int(np.prod(grid)) * FILTERS[-1])(x)
    x = layers.LeakyReLU(0.2)(layers.Reshape((*grid, FILTERS[-1]))(x))
    for width in FILTERS[-2::-1]:
        x = layers.Conv3D(width, 3, padding="same", use_bias=False)(layers.UpSampling3D(2)(x))
        x = layers.LeakyReLU(0.2)(layers.GroupNormalization(GROUPS)(x))
    if patch == 1:
        x = layers.UpSampling3D(2)(x)
    x = layers.Conv3D(patch**3, 3, padding="same")(x)
    x = DepthToSpace(patch)(x) if patch > 1 else x
    return keras.Model(inputs, SoftClip()(x))


def ours(form, linear=False, **options):
    """Returns a function that makes a model of the library."""

    def make(shape, latent, patch):
        sizes = {"groups": GROUPS, "patch": patch, "linear": linear}
        size = ((*shape, 1), latent, FILTERS, (UNITS,))
        encoder = intro_encoder(*size, dropout=DROPOUT, **sizes)
        return IntroVAE(encoder, intro_decoder(*size, **sizes), form=form, **options)

    return make


CONFIGURATIONS = {
    "plain": PlainVAE,
    "vae": ours(None),
    "vae linear": ours(None, linear=True),
    "hinge": ours("hinge"),
    "soft": ours("soft"),
    "soft gamma_r": ours("soft", gamma_r=1e-8),
}


def main():
    """Times the configurations in turn and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", type=int, nargs=3, default=[40, 48, 40], help="voxels")
    parser.add_argument("--batch", type=int, default=16, help="volumes per step")
    parser.add_argument("--latent", type=int, default=256, help="numbers of the latent vector")
    parser.add_argument("--patch", type=int, default=2, choices=(1, 2), help="see intro_encoder")
    parser.add_argument("--rounds", type=int, default=5, help="measurements; the median counts")
    parser.add_argument("--steps", type=int, default=2, help="steps of a measurement")
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    options = parser.parse_args()
    names = ["vae", *(name for name in options.only if name != "vae")]
    count = options.steps * options.batch
    x = np.random.default_rng(0).random((count, *options.shape, 1), dtype="float32")
    models = {}
    for name in names:
        keras.utils.set_random_seed(0)
        models[name] = CONFIGURATIONS[name](tuple(options.shape), options.latent, options.patch)
        models[name].compile(keras.optimizers.Adam(1e-4))
        models[name].fit(x[: options.batch], batch_size=options.batch, verbose=0)  # traces
    seconds = {name: [] for name in names}
    for turn in range(options.rounds):
        # The order changes, so that none always runs on the warmer machine.
        for name in names if turn % 2 == 0 else names[::-1]:
            wall, cpu = time.perf_counter(), time.process_time()
            models[name].fit(x, batch_size=options.batch, verbose=0)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            seconds[name].append([s / options.steps for s in spent])
    print(f"{options}\nconfiguration    s/step  multiple  by CPU")
    for name in names:
        wall = statistics.median(step[0] for step in seconds[name])
        multiple, by_cpu = (ratio(seconds, name, kind) for kind in (0, 1))
        print(f"{name:15s} {wall:7.3f}  {multiple:8.2f}  {by_cpu:6.2f}")
    if "plain" in names:
        rates = [ratio(seconds, "plain", kind) for kind in (0, 1)]
        print(f"rate of our VAE, plain = 1: {rates[0]:.3f}; by CPU seconds {rates[1]:.3f}")


def ratio(seconds, name, kind):
    """Median of the rounds' ratios of a configuration's seconds to those of our VAE."""
    pairs = zip(seconds[name], seconds["vae"], strict=True)
    return statistics.median(own[kind] / vae[kind] for own, vae in pairs)


if __name__ == "__main__":
    main()
