"""What the volumes of a cohort have in common at every voxel: their mean, and how much varies."""

import keras
import numpy as np

from brainvq.layers.mean_volume import _whole_volume


@keras.saving.register_keras_serializable(package="brainvq")
class TemplateVolume(keras.layers.Layer):
    """Takes a mean volume off and divides by a deviation for every voxel, or the way back.

    Zeros and ones until `set` is called; neither is trained. With deviations that follow the
    contrast of a place, a squared error behind this layer is near to structural similarity, which
    divides by it (Wang et al. 2004).

    `call(x)` takes float `(batch, *spatial, channels)` of known sizes and returns the same shape.

    Args:
        inverse: bool, whether `call` multiplies by the deviation and adds the mean. Default False.
        **kwargs: `name`, `dtype`.
    """

    def __init__(self, inverse: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.inverse = bool(inverse)

    def build(self, input_shape):
        """Creates mean and deviation for `input_shape`."""
        self.input_spec = _whole_volume(self, input_shape)
        self.mean, self.deviation = (
            self.add_weight(shape=input_shape[1:], initializer=start, trainable=False, name=name)
            for name, start in (("mean", "zeros"), ("deviation", "ones"))
        )

    def set(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        """Sets both, float `(*spatial, channels)`; deviations are above 0.

        Raises:
            ValueError: if one has another shape, is not finite, or a deviation is not above 0.
        """
        mean, deviation = np.asarray(mean, "float32"), np.asarray(deviation, "float32")
        shape = tuple(self.mean.shape)
        if {mean.shape, deviation.shape} != {shape} or not (
            np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()
        ):
            raise ValueError(
                f"`mean` and `deviation` must be finite, of shape {shape}, and the latter above 0. "
                f"Received: shapes {mean.shape} and {deviation.shape}"
            )
        self.mean.assign(mean)
        self.deviation.assign(deviation)

    def call(self, x):
        """Returns the volume in the other form; see the class for shapes."""
        return x * self.deviation + self.mean if self.inverse else (x - self.mean) / self.deviation

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "inverse": self.inverse}
