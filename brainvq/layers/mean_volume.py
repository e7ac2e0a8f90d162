"""A volume that is taken off the input of a network, and one that is added to its output."""

import keras


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

    def build(self, input_shape):
        """Creates the volume and the deviation for `input_shape`."""
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
        """
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

    def build(self, input_shape):
        """Creates the volume, zeros, for `input_shape`."""
        self.volume = self.add_weight(shape=input_shape[1:], initializer="zeros", name="volume")

    def call(self, x):
        """Returns the sum; see the class for shapes."""
        return x + self.volume

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return tuple(input_shape)
