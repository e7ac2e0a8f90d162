import itertools
import sys

import keras
import numpy as np
import pytest

from brainvq.errors import UserError
from brainvq.models.pixelcnn import PixelCNN
from brainvq.training.tfp_prior import as_distribution

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tfp distributions need TensorFlow"
)


def make(**options):
    prior = PixelCNN((2, 2), 3, filters=4, num_blocks=1, first_kernel_size=3, **options)
    rng = np.random.default_rng(0)
    for variable in prior.trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    return prior


@pytest.fixture(scope="module")
def every_grid():
    return np.array(list(itertools.product(range(3), repeat=4)), "int32").reshape(-1, 2, 2)


@on_tensorflow
def test_log_prob_eagerly_and_in_a_function(every_grid):
    import tensorflow as tf

    prior = make()
    distribution = as_distribution(prior)
    assert distribution.event_shape == (2, 2)
    assert distribution.batch_shape == ()
    assert distribution.dtype == tf.int32
    wanted = prior.log_prob(every_grid)
    np.testing.assert_allclose(distribution.log_prob(every_grid), wanted, atol=1e-5)
    compiled = tf.function(distribution.log_prob)
    np.testing.assert_allclose(compiled(every_grid), wanted, atol=1e-5)
    assert distribution.log_prob(every_grid[0]).shape == ()
    assert distribution.log_prob(every_grid.reshape(9, 9, 2, 2)).shape == (9, 9)
    assert float(tf.reduce_sum(distribution.prob(every_grid))) == pytest.approx(1, abs=1e-5)
    assert float(distribution.log_prob(np.full((2, 2), 3))) == -np.inf


@on_tensorflow
def test_samples_follow_log_prob_at_any_temperature(every_grid):
    n = 4096
    for temperature in (1.0, 0.5):
        distribution = as_distribution(make(), temperature=temperature)
        p = np.exp(distribution.log_prob(every_grid).numpy().astype("float64"))
        assert p.sum() == pytest.approx(1, abs=1e-5)
        samples = distribution.sample(n, seed=(0, 1)).numpy()
        assert samples.dtype == np.int32
        assert samples.shape == (n, 2, 2)
        counts = np.bincount(samples.reshape(n, 4) @ [27, 9, 3, 1], minlength=81)
        deviation = np.abs(counts - n * p) / np.sqrt(n * p * (1 - p) + 1)
        assert deviation.max() < 5
    np.testing.assert_array_equal(samples, distribution.sample(n, seed=(0, 1)))
    assert distribution.sample(seed=(0, 1)).shape == (2, 2)
    assert distribution.sample((2, 3), seed=(0, 1)).shape == (2, 3, 2, 2)


@on_tensorflow
def test_sample_inside_a_function_and_gradients(every_grid):
    import tensorflow as tf

    prior = make()
    distribution = as_distribution(prior)
    compiled = tf.function(lambda: distribution.sample(3, seed=(0, 1)))
    np.testing.assert_array_equal(compiled(), distribution.sample(3, seed=(0, 1)))
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(distribution.log_prob(every_grid))
    gradient = tape.gradient(loss, prior.logits_dense.kernel.value)
    assert float(tf.reduce_max(tf.abs(gradient))) > 0


@on_tensorflow
def test_classes_make_a_batch(every_grid):
    prior = make(num_classes=3)
    one = as_distribution(prior, labels=2)
    assert one.batch_shape == ()
    np.testing.assert_allclose(one.log_prob(every_grid), prior.log_prob(every_grid, 2), atol=1e-5)
    several = as_distribution(prior, labels=[2, 0])
    assert several.batch_shape == (2,)
    assert several.sample(5, seed=(0, 0)).shape == (5, 2, 2, 2)
    log_p = several.log_prob(every_grid[:, None]).numpy()
    assert log_p.shape == (81, 2)
    np.testing.assert_allclose(log_p[:, 1], prior.log_prob(every_grid, 0), atol=1e-5)
    assert several.log_prob(every_grid[0]).shape == (2,)


@on_tensorflow
@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (None, {"labels": 1}, "labels: given"),
        (2, {}, "labels: none given"),
        (2, {"labels": [0, 2]}, "labels: found values"),
        (None, {"temperature": 0}, "temperature: found 0"),
    ],
)
def test_bad_arguments(classes, options, message):
    with pytest.raises(UserError, match=message):
        as_distribution(make(num_classes=classes), **options)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="the other backends")
def test_other_backends_are_refused():
    with pytest.raises(UserError, match="KERAS_BACKEND: found"):
        as_distribution(make())


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow is imported there")
def test_importing_needs_no_tensorflow():
    assert "tensorflow_probability" not in sys.modules
