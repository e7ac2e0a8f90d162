"""The trained prior as a distribution of TensorFlow Probability (TensorFlow backend only).

Everything of TensorFlow and TensorFlow Probability is imported on use: `import brainvq.training`
works where neither is installed.
"""

import math
import warnings

import keras
import numpy as np

from brainvq.errors import UserError


def as_distribution(prior, labels=None, temperature=1.0, name="PixelCNN"):
    """Wrap a `PixelCNN` as a `tfp.distributions.Distribution` over code grids.

    The distribution has `sample`, `log_prob`, `prob`, `event_shape` and `batch_shape`, eagerly and
    inside `tf.function`. It reads the weights of `prior` as they are at each call. Samples come
    from the cached sampler and are not reparameterised; `log_prob` has gradients with respect to
    the weights. As everywhere in TFP, a pair of integers as `seed` repeats the same samples; a
    single integer also depends on what was drawn before.

    Args:
        prior: a `brainvq.models.PixelCNN`.
        labels: for a conditional prior, one class (the batch shape is then `()`) or a sequence of
            classes (the batch shape is then its length).
        temperature: positive number that divides the logits, for samples and `log_prob` alike, so
            that the two agree.
        name: name of the distribution.

    Returns:
        The distribution: dtype int32, event shape `prior.grid_shape`.

    Raises:
        UserError: if Keras does not run on TensorFlow, TensorFlow Probability is missing, or an
            argument is out of its range.
    """
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"KERAS_BACKEND: found {keras.backend.backend()}, want tensorflow, where tfp runs"
        )
    if not 0 < temperature < math.inf:
        raise UserError(f"temperature: found {temperature}, want a number above 0")
    if prior.plan_shape is not None:
        raise UserError(f"plan_shape: found {prior.plan_shape}, want a prior that takes no plan")
    if prior.num_classes is None:
        batch_shape = ()
        prior._check_labels(labels, 1)
    else:
        batch_shape = np.shape(labels)
        if len(batch_shape) > 1:
            raise UserError(f"labels: found shape {batch_shape}, want one integer or a sequence")
        labels = prior._check_labels(labels, batch_shape[0] if batch_shape else 1)
    return _import_distribution()(prior, labels, batch_shape, float(temperature), name)


def _import_distribution():
    try:
        with warnings.catch_warnings():
            # Its own imports are deprecated in parts; warnings of the user's code stay.
            warnings.simplefilter("ignore")
            from brainvq.training.tfp_distribution import PixelCNNDistribution
    except ImportError as error:
        raise UserError(
            "tensorflow_probability: cannot be imported "
            f"({str(error).splitlines()[0]}), want tensorflow-probability and tf_keras installed"
        ) from error
    return PixelCNNDistribution
