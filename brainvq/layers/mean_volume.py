"""A volume that is taken off the input of a network, and one that is added to its output."""

import keras
import numpy as np

from brainvq.arguments import number


@keras.saving.register_keras_serializable(package="brainvq")
class RemoveVolume(keras.layers.Layer):
    """Takes a fixed volume off its input and divides by a fixed number: (x − volume) / deviation.

    Zeros and 1 until `set` is called; neither is trained. Unlike `keras.layers.Normalization` there
    is one deviation for all places: where all brains are black, a deviation of its own would make
    noise of nothing.

    `call(x)` takes float `(batch, *spatial, channels)` of known sizes and returns the same shape.

    Args:
        **kwargs: `name`, `dtype`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        """Creates the volume and the deviation for `input_shape`."""
        self.input_spec = _whole_volume(self, input_shape)
        self.volume = self.add_weight(
            shape=input_shape[1:], initializer="zeros", trainable=False, name="volume"
        )
        self.deviation = self.add_weight(
            shape=(), initializer="ones", trainable=False, name="deviation"
        )

    def set(self, volume, deviation: float) -> None:
        """Sets both.

        Args:
            volume: float `(*spatial, channels)`.
            deviation: float > 0.

        Raises:
            ValueError: if the volume has another shape or values that are not finite, or the
                deviation is not above 0.
        """
        deviation = number("deviation", deviation, above=True)
        volume = np.asarray(volume, "float32")
        if volume.shape != tuple(self.volume.shape) or not np.isfinite(volume).all():
            raise ValueError(
                f"`volume` must be of shape {tuple(self.volume.shape)} and finite. "
                f"Received: a volume of shape {volume.shape}"
            )
        self.volume.assign(volume)
        self.deviation.assign(deviation)

    def call(self, x):
        """Returns the difference; see the class for shapes."""
        return (x - self.volume) / self.deviation

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return tuple(input_shape)


@keras.saving.register_keras_serializable(package="brainvq")
class AddVolume(keras.layers.Layer):
    """Adds a volume to its input, which is trained: a bias with a value for every voxel.

    `call(x)` takes float `(batch, *spatial, channels)` of known sizes and returns the same shape.

    Args:
        **kwargs: `name`, `dtype`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        """Creates the volume, zeros, for `input_shape`."""
        self.input_spec = _whole_volume(self, input_shape)
        self.volume = self.add_weight(shape=input_shape[1:], initializer="zeros", name="volume")

    def call(self, x):
        """Returns the sum; see the class for shapes."""
        return x + self.volume

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return tuple(input_shape)


def _whole_volume(layer, input_shape):
    """The `InputSpec` of volumes of one shape; `ValueError` where a size is not known."""
    if None in input_shape[1:]:
        raise ValueError(
            f"All sizes of the input of {layer.name} must be known. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    return keras.layers.InputSpec(shape=(None, *input_shape[1:]))
