"""Space moved into channels and back, in any number of dimensions."""

import keras
from keras import ops

from brainvq.arguments import whole


class _Rearrange(keras.layers.Layer):
    """Base class: checks `block_size` and keeps it in the config."""

    def __init__(self, block_size: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.block_size = whole("block_size", block_size)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "block_size": self.block_size}


@keras.saving.register_keras_serializable(package="brainvq")
class SpaceToDepth(_Rearrange):
    """Folds each block of pixels into the channels of one pixel, without loss.

    With b the block size and n spatial axes, `(batch, *spatial, channels)` becomes
    `(batch, *spatial / b, b**n * channels)`. The new channels are ordered by the position in the
    block (row first), then by the old channel: in 2D what TensorFlow calls `space_to_depth`. A
    network that begins with it works at a fraction of the pixels, where convolutions are cheap.

    Args:
        block_size: int ≥ 1, b; every spatial size must be a multiple of it. Default 2.
        **kwargs: `name`, `dtype`.

    Raises:
        ValueError: if `block_size` is no positive integer, or a spatial size is no multiple of it.
    """

    def call(self, inputs):
        """Folds `(batch, *spatial, channels)`."""
        b, rank = self.block_size, len(inputs.shape) - 2
        shape = ops.shape(inputs)
        self.compute_output_shape(inputs.shape)
        split = [size for axis in range(rank) for size in (shape[1 + axis] // b, b)]
        x = ops.reshape(inputs, (shape[0], *split, shape[-1]))
        grid, offsets = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
        x = ops.transpose(x, (0, *grid, *offsets, 2 * rank + 1))
        cells = [shape[1 + axis] // b for axis in range(rank)]
        return ops.reshape(x, (shape[0], *cells, b**rank * inputs.shape[-1]))

    def compute_output_shape(self, input_shape):
        """Returns `(batch, *spatial / b, b**n * channels)`."""
        b, spatial = self.block_size, tuple(input_shape[1:-1])
        if any(size is not None and size % b for size in spatial):
            raise ValueError(
                f"Spatial sizes must be multiples of block_size={b}. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        cells = [None if size is None else size // b for size in spatial]
        return (input_shape[0], *cells, b ** len(spatial) * input_shape[-1])


@keras.saving.register_keras_serializable(package="brainvq")
class DepthToSpace(_Rearrange):
    """Unfolds channels into blocks of pixels: the inverse of `SpaceToDepth`.

    With b the block size and n spatial axes, `(batch, *spatial, b**n * channels)` becomes
    `(batch, *spatial * b, channels)`. Behind a convolution this is the sub-pixel convolution of
    Shi et al. (2016, section 2.2): cheaper than a transposed one and without its checkerboard.

    Args:
        block_size: int ≥ 1, b. Default 2.
        **kwargs: `name`, `dtype`.

    Raises:
        ValueError: if `block_size` is no positive integer, or the channels are no multiple of b**n.
    """

    def call(self, inputs):
        """Unfolds `(batch, *spatial, b**n * channels)`."""
        b, rank = self.block_size, len(inputs.shape) - 2
        shape = ops.shape(inputs)
        channels = self.compute_output_shape(inputs.shape)[-1]
        cells = [shape[1 + axis] for axis in range(rank)]
        x = ops.reshape(inputs, (shape[0], *cells, *[b] * rank, channels))
        pairs = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
        x = ops.transpose(x, (0, *pairs, 2 * rank + 1))
        return ops.reshape(x, (shape[0], *[size * b for size in cells], channels))

    def compute_output_shape(self, input_shape):
        """Returns `(batch, *spatial * b, channels)`."""
        b, spatial = self.block_size, tuple(input_shape[1:-1])
        block = b ** len(spatial)
        if input_shape[-1] % block:
            raise ValueError(
                f"Channels must be a multiple of {block}, block_size**{len(spatial)}. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        cells = [None if size is None else size * b for size in spatial]
        return (input_shape[0], *cells, input_shape[-1] // block)
