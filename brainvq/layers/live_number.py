"""Numbers among a layer's settings that may change while a model trains."""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number


class LiveNumber:
    """An attribute of a `Bottleneck` that compiled functions read anew at each call.

    So a callback may change it from epoch to epoch, as to lower a temperature:

        >>> keras.callbacks.LambdaCallback(
        ...     on_epoch_begin=lambda epoch, logs: setattr(quantizer, "temperature", 0.9**epoch)
        ... )

    It reads as a float. `layer.live(name)` is the Keras variable behind it, which `call` computes
    with; files of weights do not hold it, the config does.

    Args:
        **limits: what `brainvq.arguments.number` holds it to.
    """

    def __init__(self, **limits):
        self.limits = limits

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, layer, owner=None):
        if layer is None:
            return self
        variable = layer.live_numbers().get(self.name)
        if variable is None:
            raise AttributeError(self.name)
        value = ops.convert_to_numpy(ops.convert_to_tensor(variable))
        return float(str(np.float32(value)))  # 0.3, and not the float64 that is nearest to it

    def __set__(self, layer, value):
        value = number(self.name, value, **self.limits)
        numbers = layer.live_numbers()
        if self.name in numbers:
            numbers[self.name].assign(value)
            return
        numbers[self.name] = keras.Variable(
            value,
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="only_first_replica",
            name=self.name,
        )
