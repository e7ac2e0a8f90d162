"""Convolutions that see only the past of a raster scan, in one, two and three dimensions.

The raster order of a grid is that of its memory: the last axis runs fastest, so in 2D a position
comes after every row above it and after what is left of it in its own row. A kernel masked that
way is the building block of PixelCNN (van den Oord et al., "Pixel Recurrent Neural Networks",
2016, section 3.4): mask "A" leaves out the centre too, mask "B" keeps it.

A stack of masked square kernels has a blind spot: it never sees some positions up and to the
right. `CausalConv` is the remedy of the gated form (van den Oord et al., "Conditional Image
Generation with PixelCNN Decoders", 2016, section 2.2), written for any number of axes: one stack of
convolutions for each axis, each looking back along its own axis alone.
"""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import whole, wholes
from brainvq.layers.shapes import channels_spec


def _odd_tuple(kernel_size, rank):
    """Return `kernel_size` as a tuple of `rank` odd integers.

    Args:
        kernel_size: an odd integer or a sequence of `rank` of them.
        rank: number of axes of the grid.

    Raises:
        ValueError: if a size is even, below 1 or there are not `rank` of them.
    """
    several = kernel_size if hasattr(kernel_size, "__iter__") else (kernel_size,) * rank
    sizes = wholes("kernel_size", several)
    if len(sizes) != rank or any(size % 2 == 0 for size in sizes):
        raise ValueError(
            f"`kernel_size` must be an odd integer or {rank} of them. "
            f"Received: kernel_size={kernel_size}"
        )
    return sizes


def raster_mask(kernel_size: tuple[int, ...], mask_type: str) -> np.ndarray:
    """Make the mask of a kernel that sees only earlier positions in raster order.

    Args:
        kernel_size: tuple of odd integers, one for each axis.
        mask_type: "A" (strictly earlier positions) or "B" (earlier ones and the centre).

    Returns:
        float32 array of shape `kernel_size`: 1 where the kernel may look, 0 elsewhere.

    Raises:
        ValueError: if `mask_type` is neither "A" nor "B".
    """
    if mask_type not in ("A", "B"):
        raise ValueError(f'`mask_type` must be "A" or "B". Received: mask_type={mask_type}')
    size = int(np.prod(kernel_size))
    seen = size // 2 + (mask_type == "B")
    return (np.arange(size) < seen).astype("float32").reshape(kernel_size)


class _MaskedConv(keras.layers.Layer):
    """What the masked convolutions of one, two and three dimensions share; see those."""

    rank = None

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        mask_type: str = "B",
        activation=None,
        use_bias: bool = True,
        padding_channel: bool = False,
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = whole("filters", filters)
        self.kernel_size = _odd_tuple(kernel_size, self.rank)
        self.mask_type = mask_type
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.padding_channel = padding_channel
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.mask = raster_mask(self.kernel_size, mask_type)

    def build(self, input_shape):
        """Make the kernel `(*kernel_size, channels, filters)` and the bias `(filters,)`."""
        self.input_spec = channels_spec(self, input_shape, ndim=self.rank + 2)
        channels = input_shape[-1] + int(self.padding_channel)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, channels, self.filters),
            initializer=self.kernel_initializer,
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        else:
            self.bias = None

    def masked_kernel(self):
        """Return the kernel `(*kernel_size, channels, filters)`, zero where the mask hides it."""
        kernel = ops.convert_to_tensor(self.kernel)
        # A product, not an assignment: the gradient of the hidden part is then exactly zero, and
        # the layer stays a pure function of its weights.
        return kernel * ops.cast(self.mask[..., None, None], kernel.dtype)

    def call(self, inputs):
        """Convolve `(batch, *grid, channels)` to `(batch, *grid, filters)`."""
        if self.padding_channel:
            inputs = ops.concatenate([inputs, ops.ones_like(inputs[..., :1])], axis=-1)
        outputs = ops.conv(
            inputs, self.masked_kernel(), padding="same", data_format="channels_last"
        )
        if self.bias is not None:
            outputs = outputs + ops.cast(self.bias, outputs.dtype)
        return self.activation(outputs)

    def compute_output_shape(self, input_shape):
        """Return `(batch, *grid, filters)`."""
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        """Return every constructor argument."""
        config = super().get_config()
        config.update(
            filters=self.filters,
            kernel_size=self.kernel_size,
            mask_type=self.mask_type,
            activation=keras.activations.serialize(self.activation),
            use_bias=self.use_bias,
            padding_channel=self.padding_channel,
            kernel_initializer=keras.initializers.serialize(self.kernel_initializer),
        )
        return config


@keras.saving.register_keras_serializable(package="brainvq")
class MaskedConv1D(_MaskedConv):
    """Convolution of a sequence `(batch, length, channels)` that sees the raster past.

    Args:
        filters: number of output channels.
        kernel_size: odd integer, or a tuple of one.
        mask_type: "A" hides the centre (for a first layer), "B", the default, shows it.
        activation: name or function applied to the output, or None.
        use_bias: whether a bias is added, True by default.
        padding_channel: whether a channel of ones is appended to the input before it is padded
            with zeros, so that the layer can tell the outside of the grid from data.
        kernel_initializer: initializer of the kernel, "glorot_uniform" by default.

    Raises:
        ValueError: if `filters`, `kernel_size` or `mask_type` is out of its range.
    """

    rank = 1


@keras.saving.register_keras_serializable(package="brainvq")
class MaskedConv2D(_MaskedConv):
    """Convolution of a plane `(batch, height, width, channels)` that sees the raster past.

    Args:
        filters: number of output channels.
        kernel_size: odd integer, or one for each axis of the grid.
        mask_type: "A" hides the centre (for a first layer), "B", the default, shows it.
        activation: name or function applied to the output, or None.
        use_bias: whether a bias is added, True by default.
        padding_channel: whether a channel of ones is appended to the input before it is padded
            with zeros, so that the layer can tell the outside of the grid from data.
        kernel_initializer: initializer of the kernel, "glorot_uniform" by default.

    Raises:
        ValueError: if `filters`, `kernel_size` or `mask_type` is out of its range.
    """

    rank = 2


@keras.saving.register_keras_serializable(package="brainvq")
class MaskedConv3D(_MaskedConv):
    """Convolution of a volume `(batch, depth, height, width, channels)` that sees the raster past.

    Args:
        filters: number of output channels.
        kernel_size: odd integer, or one for each axis of the grid.
        mask_type: "A" hides the centre (for a first layer), "B", the default, shows it.
        activation: name or function applied to the output, or None.
        use_bias: whether a bias is added, True by default.
        padding_channel: whether a channel of ones is appended to the input before it is padded
            with zeros, so that the layer can tell the outside of the grid from data.
        kernel_initializer: initializer of the kernel, "glorot_uniform" by default.

    Raises:
        ValueError: if `filters`, `kernel_size` or `mask_type` is out of its range.
    """

    rank = 3


MASKED_CONVOLUTIONS = {1: MaskedConv1D, 2: MaskedConv2D, 3: MaskedConv3D}


@keras.saving.register_keras_serializable(package="brainvq")
class CausalConv(keras.layers.Layer):
    """Convolution that looks back along one axis of the grid and both ways along later axes.

    The output at a position sees inputs whose index is equal on every axis before `axis`, not
    larger on `axis` itself (smaller, with `include_current=False`), and within the kernel on the
    axes after it. In 2D, `axis=0` is the vertical stack of the gated PixelCNN and `axis=1` the
    horizontal one. The kernel holds the visible entries only, so nothing is spent on masked ones.

    Args:
        filters: number of output channels.
        kernel_size: odd integer k; the layer reaches k // 2 back along `axis` and k // 2 to either
            side along later axes.
        axis: axis of the grid along which it looks back, counted from 0.
        include_current: whether it sees the current index along `axis`.
        use_bias: whether a bias is added.
        padding_channel: whether a channel of ones is appended to the input before it is padded
            with zeros, so that the layer can tell the outside of the grid from data.
        kernel_initializer: initializer of the kernel.

    Input shape: float `(batch, *grid, channels)` with one to three grid axes, more than `axis`.
    Output shape: `(batch, *grid, filters)`.

    Raises:
        ValueError: if an argument is out of its range, or k is 1 without the current index (the
            layer would see nothing).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        axis: int = 0,
        include_current: bool = True,
        use_bias: bool = True,
        padding_channel: bool = False,
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if whole("axis", axis, 0) > 2:
            raise ValueError(f"`axis` must be an integer, 0, 1 or 2. Received: axis={axis}")
        if not include_current and kernel_size == 1:
            raise ValueError(
                "`kernel_size` must be at least 3 where the current index is left out. "
                f"Received: kernel_size={kernel_size}"
            )
        self.filters = whole("filters", filters)
        (self.kernel_size,) = _odd_tuple((kernel_size,), 1)
        self.axis = int(axis)
        self.include_current = include_current
        self.use_bias = use_bias
        self.padding_channel = padding_channel
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        """Make the kernel, of extent 1 on the axes before `axis`, and the bias."""
        rank = len(input_shape) - 2
        if self.axis >= rank:
            raise ValueError(
                f"`axis` must be below the number of grid axes, {rank}. Received: axis={self.axis}"
            )
        self.input_spec = channels_spec(self, input_shape, ndim=rank + 2)
        back = self.kernel_size // 2 + int(self.include_current)
        extent = (1,) * self.axis + (back,) + (self.kernel_size,) * (rank - 1 - self.axis)
        channels = input_shape[-1] + int(self.padding_channel)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*extent, channels, self.filters),
            initializer=self.kernel_initializer,
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        else:
            self.bias = None

    def call(self, inputs):
        """Convolve `(batch, *grid, channels)` to `(batch, *grid, filters)`."""
        rank = len(inputs.shape) - 2
        half = self.kernel_size // 2
        if self.padding_channel:
            inputs = ops.concatenate([inputs, ops.ones_like(inputs[..., :1])], axis=-1)
        if not self.include_current:
            # The last slice along the axis is nobody's past: without it, the same padding shifts
            # the shorter kernel back by one.
            inputs = ops.take(inputs, np.arange(inputs.shape[self.axis + 1] - 1), self.axis + 1)
        pads = [(0, 0)] * (self.axis + 1) + [(half, 0)]
        pads += [(half, half)] * (rank - 1 - self.axis) + [(0, 0)]
        outputs = ops.conv(
            ops.pad(inputs, pads),
            ops.convert_to_tensor(self.kernel),
            padding="valid",
            data_format="channels_last",
        )
        if self.bias is not None:
            outputs = outputs + ops.cast(self.bias, outputs.dtype)
        return outputs

    def compute_output_shape(self, input_shape):
        """Return `(batch, *grid, filters)`."""
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        """Return every constructor argument."""
        config = super().get_config()
        config.update(
            filters=self.filters,
            kernel_size=self.kernel_size,
            axis=self.axis,
            include_current=self.include_current,
            use_bias=self.use_bias,
            padding_channel=self.padding_channel,
            kernel_initializer=keras.initializers.serialize(self.kernel_initializer),
        )
        return config
