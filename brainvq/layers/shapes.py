"""Shapes: what a layer takes, and what one with several outputs returns."""

import keras


def channels_spec(layer: keras.layers.Layer, input_shape, **kwargs) -> keras.layers.InputSpec:
    """What a layer with weights for each channel takes, for `input_spec` in `build`.

    Args:
        layer: the layer.
        input_shape: `(batch, ..., channels)`.
        **kwargs: `ndim` or `min_ndim` of `keras.layers.InputSpec`.

    Returns:
        The `InputSpec`, by which Keras refuses another number of channels.

    Raises:
        ValueError: if the channels are not known.
    """
    channels = input_shape[-1]
    if channels is None:
        raise ValueError(
            f"The last axis of the input of {layer.name} must be known. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    return keras.layers.InputSpec(**kwargs, axes={-1: channels})


class TracedShapes:
    """Shapes and dtypes of outputs by tracing `call`; stands before Keras's class among the bases.

    Keras takes all outputs of a layer with a `compute_output_shape` for tensors of one dtype, which
    codes beside vectors are not.
    """

    def compute_output_shape(self, input_shape):
        """Returns the shapes of what `call` returns for `input_shape`, in the same structure."""
        layer = self
        if not self.built:  # a copy, for this one may yet be built for another shape
            layer = type(self).from_config(self.get_config())
            layer.build(input_shape)
        outputs = layer.compute_output_spec(keras.KerasTensor(input_shape, dtype="float32"))
        return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), outputs)

    def compute_output_spec(self, *args, **kwargs):
        """Returns shapes and dtypes of what `call` returns, as `KerasTensor`s."""
        return keras.Operation.compute_output_spec(self, *args, **kwargs)
