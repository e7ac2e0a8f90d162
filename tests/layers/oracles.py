"""NumPy answers to compare the quantisers with."""

import keras
import numpy as np


def array(x):
    """A tensor or Keras variable as NumPy.

    By way of a tensor: of a variable itself, Keras on TensorFlow lets NumPy 2 warn.
    """
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(x))


def tensors(*arrays):
    """Arrays as tensors: PyTorch takes no NumPy among the operands of its own."""
    return [keras.ops.convert_to_tensor(array) for array in arrays]


def nearest(vectors, codebook):
    """Index of the nearest code by explicit differences, in float64."""
    differences = vectors[..., None, :].astype("float64") - codebook.astype("float64")
    return np.argmin(np.sum(differences**2, axis=-1), axis=-1)


def unit(x):
    """`x` with its last axis scaled to length 1."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def gradient(function, x):
    """Gradient of a scalar function of one tensor, on any backend, as NumPy."""
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(function)(keras.ops.convert_to_tensor(x)))
    if keras.backend.backend() == "torch":
        x = keras.ops.convert_to_tensor(x).detach().clone().requires_grad_(True)
        function(x).backward()
        return np.zeros(x.shape, "float32") if x.grad is None else array(x.grad)
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x).numpy()
