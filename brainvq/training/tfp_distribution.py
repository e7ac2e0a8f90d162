"""The class of `tfp_prior.as_distribution`: the file that imports TensorFlow Probability."""

import functools
import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import samplers

from brainvq.models import pixelcnn_sampler


class PixelCNNDistribution(tfp.distributions.Distribution):
    """Distribution over code grids that a `PixelCNN` stands for; see `as_distribution`."""

    def __init__(self, prior, labels, batch_shape, temperature, name):
        parameters = {
            "prior": prior,
            "labels": labels,
            "batch_shape": batch_shape,
            "temperature": temperature,
            "name": name,
        }
        self._prior = _Untracked(prior)
        self._labels = labels
        self._static_batch_shape = tuple(batch_shape)
        self._temperature = temperature
        super().__init__(
            dtype=tf.int32,
            reparameterization_type=tfp.distributions.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=False,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}

    def _batch_shape(self):
        return tf.TensorShape(self._static_batch_shape)

    def _batch_shape_tensor(self):
        return tf.constant(self._static_batch_shape, tf.int32)

    def _event_shape(self):
        return tf.TensorShape(self._prior.value.grid_shape)

    def _event_shape_tensor(self):
        return tf.constant(self._prior.value.grid_shape, tf.int32)

    def _labels_of(self, count):
        """Return the labels of `count` grids `(count,)`: the batch runs fastest."""
        if self._labels is None:
            return None
        return tf.tile(tf.constant(self._labels), [count // len(self._labels)])

    def _log_prob(self, value):
        prior = self._prior.value
        rank = len(prior.grid_shape)
        value = tf.cast(tf.convert_to_tensor(value), tf.int32)
        if self._static_batch_shape:
            shape = tf.broadcast_dynamic_shape(
                tf.shape(value), tf.concat([self._static_batch_shape, prior.grid_shape], 0)
            )
            value = tf.broadcast_to(value, shape)
        leading = tf.shape(value)[: tf.rank(value) - rank]
        codes = tf.reshape(value, (-1, *prior.grid_shape))
        # Codes that do not exist have probability zero, as values outside the support of TFP's
        # own distributions have.
        inside = (codes >= 0) & (codes < prior.num_codes)
        codes = tf.where(inside, codes, 0)
        logits = prior.features(codes, self._labels_of(tf.shape(codes)[0]), training=False)[-1]
        log_p = tf.nn.log_softmax(logits / self._temperature)
        picked = tf.gather(log_p, codes, batch_dims=rank + 1)
        picked = tf.where(inside, picked, -math.inf)
        return tf.reshape(tf.reduce_sum(picked, axis=list(range(1, rank + 1))), leading)

    def _sample_n(self, n, seed=None):
        count = tf.get_static_value(n)
        if count is None:
            raise ValueError("The sample shape must be known when the function is traced.")
        prior = self._prior.value
        each = math.prod(self._static_batch_shape)
        positions = math.prod(prior.grid_shape)
        uniform = samplers.uniform(
            (count * each, positions, prior.num_codes),
            minval=np.finfo("float32").tiny,
            maxval=1.0,
            seed=seed,
        )
        known = tf.fill((count * each, positions), -1)
        labels = self._labels_of(count * each)
        codes = _draw(prior, uniform, known, labels, tf.constant(self._temperature))
        return tf.reshape(codes, (count, *self._static_batch_shape, *prior.grid_shape))


def _run(prior, uniform, known, labels, temperature):
    choose = pixelcnn_sampler.Chooser(temperature, 1.0)
    noise = -tf.math.log(-tf.math.log(uniform))
    return pixelcnn_sampler.decode(prior, choose, noise, known, labels)[0]


def _draw(prior, *arguments):
    if not tf.executing_eagerly():
        return _run(prior, *arguments)
    function = prior._functions.get(
        ("tfp", arguments[1].shape),
        lambda: tf.function(functools.partial(_run, prior), autograph=False),
    )
    return function(*arguments)


class _Untracked:
    """Holds the prior without making its variables part of the distribution's module."""

    def __init__(self, value):
        self.value = value
