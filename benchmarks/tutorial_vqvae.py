"""The VQ-VAE as the well-known tutorials write it, and its training rate beside ours.

A peer for comparison, not part of the library: one `keras.Model` with a `train_step` of its own on
TensorFlow, a random-uniform codebook that the optimiser trains, distances by one matrix product and
look-up by a one-hot product, the straight-through gradient, and a reconstruction loss divided by
the variance of the data. The convolutions are those of `conv_encoder` and `conv_decoder`.

    python benchmarks/tutorial_vqvae.py                 # about 2 minutes on two cores

Both models train on the same arrays with a compiled `fit`; rounds alternate between them, so that
whatever else the machine does falls on both. The ratio printed is ours / tutorial in steps per
second: above 1, ours is faster. The ratio by CPU seconds of the process is for a machine that other
programs use as well. On a CPU the convolutions, which are the same, bound both.
"""

import argparse
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from brainvq import EMAVectorQuantizer, VectorQuantizer, VQVAETrainer, conv_decoder, conv_encoder


class TutorialQuantizer(keras.layers.Layer):
    """Nearest codes by one-hot products; losses by `add_loss`."""

    def __init__(self, num_codes, dim, beta=0.25, **kwargs):
        super().__init__(**kwargs)
        self.num_codes = num_codes
        self.dim = dim
        self.beta = beta
        start = tf.random_uniform_initializer()
        self.embeddings = self.add_weight(
            shape=(dim, num_codes),
            initializer=lambda *a, **k: start((dim, num_codes)),
            name="codes",
        )

    def get_codes(self, flat):
        """Float `(n, dim)` → int `(n,)`."""
        similarity = tf.matmul(flat, self.embeddings)
        distances = (
            tf.reduce_sum(flat**2, axis=1, keepdims=True)
            + tf.reduce_sum(self.embeddings**2, axis=0)
            - 2 * similarity
        )
        return tf.argmin(distances, axis=1)

    def call(self, x):
        """Float `(batch, h, w, dim)` → the same shape."""
        shape = tf.shape(x)
        codes = self.get_codes(tf.reshape(x, [-1, self.dim]))
        one_hot = tf.one_hot(codes, self.num_codes)
        quantized = tf.matmul(one_hot, self.embeddings, transpose_b=True)
        quantized = tf.reshape(quantized, shape)
        commitment = tf.reduce_mean((tf.stop_gradient(quantized) - x) ** 2)
        codebook = tf.reduce_mean((quantized - tf.stop_gradient(x)) ** 2)
        self.add_loss(self.beta * commitment + codebook)
        return x + tf.stop_gradient(quantized - x)


class TutorialVQVAE(keras.Model):
    """Encoder, quantiser and decoder with a training step written out.

    Args:
        train_variance: float, variance of the training images, the divisor of the squared error.
        num_codes: int, number of codes.
        dim: int, channels of the encoder's output.
        size: int, height and width of the images.
        filters: channels of the layers of stride 2.
    """

    def __init__(self, train_variance, num_codes=16, dim=16, size=128, filters=(32, 32, 64, 64)):
        super().__init__()
        self.train_variance = train_variance
        self.quantizer = TutorialQuantizer(num_codes, dim)
        inputs = keras.Input((size, size, 1))
        encoder = conv_encoder((size, size, 1), filters, embedding_dim=dim)
        decoder = conv_decoder(encoder.output_shape[1:], filters)
        self.encoder, self.decoder = encoder, decoder
        self.vqvae = keras.Model(inputs, decoder(self.quantizer(encoder(inputs))))
        self.trackers = [
            keras.metrics.Mean(name=name) for name in ("loss", "reconstruction_loss", "vqvae_loss")
        ]

    @property
    def metrics(self):
        """Trackers that `fit` resets at each epoch."""
        return self.trackers

    def call(self, x):
        """Reconstructs images `(batch, size, size, 1)`."""
        return self.vqvae(x)

    def train_step(self, x):
        """One step of gradient descent on a batch of images."""
        with tf.GradientTape() as tape:
            reconstructions = self.vqvae(x)
            reconstruction_loss = tf.reduce_mean((x - reconstructions) ** 2) / self.train_variance
            loss = reconstruction_loss + sum(self.vqvae.losses)
        gradients = tape.gradient(loss, self.vqvae.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.vqvae.trainable_variables, strict=True))
        values = (loss, reconstruction_loss, sum(self.vqvae.losses))
        for tracker, value in zip(self.trackers, values, strict=True):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}

    def encode(self, x, batch_size=64):
        """Float array `(n, size, size, 1)` → int array `(n, h, w)`."""
        z = self.encoder.predict(x, batch_size=batch_size, verbose=0)
        return self.quantizer.get_codes(z.reshape(-1, z.shape[-1])).numpy().reshape(z.shape[:-1])

    def reconstruct(self, x, batch_size=64):
        """Float array `(n, size, size, 1)` → the same shape."""
        return self.vqvae.predict(x, batch_size=batch_size, verbose=0)


def steps_per_second(model, x, batch_size, steps):
    """Times one `fit` of `steps` steps on arrays; returns the rates by wall and by CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(x[: batch_size * steps], batch_size=batch_size, epochs=1, verbose=0)
    return steps / (time.perf_counter() - wall), steps / (time.process_time() - cpu)


def main():
    """Prints the rates of every round and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="pairs of timings (default 5)")
    parser.add_argument("--steps", type=int, default=10, help="steps per timing (default 10)")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step (default 64)")
    parser.add_argument("--size", type=int, default=128, help="pixels per side (default 128)")
    parser.add_argument("--codes", type=int, default=16, help="codes K (default 16)")
    parser.add_argument(
        "--ours", choices=("ema", "gradient"), default="ema", help="our quantiser (default ema)"
    )
    options = parser.parse_args()
    shape = (options.batch_size * options.steps, options.size, options.size, 1)
    x = np.random.default_rng(0).random(shape, dtype="float32")
    quantizer = EMAVectorQuantizer if options.ours == "ema" else VectorQuantizer
    grid = options.size // 16
    ours = VQVAETrainer(
        conv_encoder(shape[1:]), quantizer(options.codes), conv_decoder((grid, grid, 16))
    )
    tutorial = TutorialVQVAE(float(x.var()), options.codes, size=options.size)
    for model in (ours, tutorial):
        model.compile(optimizer=keras.optimizers.Adam())
        steps_per_second(model, x, options.batch_size, 2)  # traces
    ratios = []
    for i in range(options.rounds):
        # The order changes, so that neither always runs on the warmer machine.
        pair = [("ours", ours), ("tutorial", tutorial)]
        rates = {
            name: steps_per_second(model, x, options.batch_size, options.steps)
            for name, model in (pair if i % 2 == 0 else pair[::-1])
        }
        pair_of_ratios = [a / b for a, b in zip(rates["ours"], rates["tutorial"], strict=True)]
        ratios.append(pair_of_ratios)
        print(
            f"round {i + 1}: ours {rates['ours'][0]:.3f}, tutorial {rates['tutorial'][0]:.3f} "
            f"steps/s, ratio {pair_of_ratios[0]:.3f}; by CPU seconds {pair_of_ratios[1]:.3f}",
            flush=True,
        )
    by_wall, by_cpu = (statistics.median(values) for values in zip(*ratios, strict=True))
    print(f"median ratio ours / tutorial: {by_wall:.3f} in steps/s, {by_cpu:.3f} by CPU seconds")


if __name__ == "__main__":
    main()
