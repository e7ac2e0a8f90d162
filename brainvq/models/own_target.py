"""Models that learn to give back, or to predict, what they are called on."""


def build_optimizer(model):
    """Makes the variables of a built model's optimiser, so that they need no trace of their own.

    TensorFlow traces a training step twice where the first trace makes variables: for a deep
    network that is half of the time until training starts.

    Args:
        model: a compiled `keras.Model`.
    """
    optimizer = getattr(model, "optimizer", None)
    # Variables of several replicas are made in their own scope, by Keras.
    replicas = getattr(getattr(model, "distribute_strategy", None), "num_replicas_in_sync", 1)
    if optimizer is not None and model.built and not optimizer.built and replicas == 1:
        optimizer.build(model.trainable_variables)


class OwnTarget:
    """Gives the input as target where a `sample_weight` comes without one.

    Keras drops the weights of `fit(x, sample_weight=w)` without a word. Stands before
    `keras.Model` among the bases of a class.
    """

    def fit(self, x=None, y=None, *args, **kwargs):
        """Trains as `keras.Model.fit` does, by sample weights also where `y` is None."""
        validation = kwargs.get("validation_data")
        if isinstance(validation, list | tuple) and len(validation) == 3:
            inputs, target, weight = validation
            kwargs["validation_data"] = (inputs, self._target(inputs, target, weight), weight)
        y = self._target(x, y, kwargs.get("sample_weight"))
        build_optimizer(self)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Evaluates as `keras.Model.evaluate` does, by sample weights also where `y` is None."""
        return super().evaluate(x, self._target(x, y, kwargs.get("sample_weight")), *args, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """Trains on a batch as `keras.Model.train_on_batch` does; see `fit`."""
        y = self._target(x, y, sample_weight)
        return super().train_on_batch(x, y, sample_weight=sample_weight, **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """Evaluates a batch as `keras.Model.test_on_batch` does; see `evaluate`."""
        y = self._target(x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight=sample_weight, **kwargs)

    def _target(self, x, y, sample_weight):
        if y is not None or sample_weight is None:
            return y
        return x["codes"] if isinstance(x, dict) else x
