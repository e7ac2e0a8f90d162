"""The plain convolutional encoder and decoder of OASISVQ (Brzoskowski), in 1D, 2D and 3D."""

import keras
from keras import layers

from brainvq.arguments import shape_of, whole, wholes

CONVOLUTIONS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}
TRANSPOSED = {1: layers.Conv1DTranspose, 2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}


def conv_encoder(
    input_shape: tuple,
    filters: tuple[int, ...] = (32, 32, 64, 64),
    bottleneck_filters: int = 128,
    embedding_dim: int = 16,
    name: str = "encoder",
) -> keras.Model:
    """Strided convolutions down to a grid of vectors.

    For each entry of `filters` a 3×3 convolution of stride 2 with ReLU, then a 3×3 one with ReLU,
    then a linear 1×1 one to `embedding_dim`. The defaults are those of OASISVQ (Brzoskowski):
    128×128×1 images become 8×8 grids of 16 numbers. In 3D the kernels are 3×3×3.

    Args:
        input_shape: tuple `(*spatial, channels)` with one to three spatial sizes, each a multiple
            of 2**len(filters), or None for any size.
        filters: channels of the stride-2 convolutions.
        bottleneck_filters: channels of the last 3×3 convolution.
        embedding_dim: channels of the output.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, *spatial, channels)` →
        `(batch, *spatial / 2**len(filters), embedding_dim)`.

    Raises:
        ValueError: if a spatial size is no multiple of the stride, or their number is not 1 to 3.
    """
    convolution = CONVOLUTIONS[_rank(input_shape)]
    filters = wholes("filters", filters)
    bottleneck_filters = whole("bottleneck_filters", bottleneck_filters)
    embedding_dim = whole("embedding_dim", embedding_dim)
    stride = 2 ** len(filters)
    if any(size is not None and size % stride for size in input_shape[:-1]):
        raise ValueError(
            f"Spatial sizes must be multiples of {stride}, the stride of {len(filters)} "
            f"halvings. Received: input_shape={tuple(input_shape)}"
        )
    inputs = keras.Input(input_shape)
    x = inputs
    for channels in filters:
        x = convolution(channels, 3, strides=2, padding="same", activation="relu")(x)
    x = convolution(bottleneck_filters, 3, padding="same", activation="relu")(x)
    x = convolution(embedding_dim, 1)(x)  # (batch, *grid, embedding_dim)
    return keras.Model(inputs, x, name=name)


def conv_decoder(
    input_shape: tuple,
    filters: tuple[int, ...] = (32, 32, 64, 64),
    bottleneck_filters: int = 128,
    channels: int = 1,
    name: str = "decoder",
) -> keras.Model:
    """The mirror of `conv_encoder`, by transposed convolutions.

    A 3×3 transposed convolution to `bottleneck_filters`, one of stride 2 for each entry of
    `filters` from the last to the first, all with ReLU, and a linear 3×3 one to `channels`, in
    float32 whatever the dtype policy.

    Args:
        input_shape: tuple `(*grid, embedding_dim)` with one to three grid sizes or None.
        filters: channels, in the order of the encoder.
        bottleneck_filters: channels of the first convolution.
        channels: channels of the output image.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, *grid, embedding_dim)` → float32
        `(batch, *grid * 2**len(filters), channels)`.

    Raises:
        ValueError: if the number of grid sizes is not 1 to 3.
    """
    transposed = TRANSPOSED[_rank(input_shape)]
    filters = wholes("filters", filters)
    bottleneck_filters = whole("bottleneck_filters", bottleneck_filters)
    channels = whole("channels", channels)
    inputs = keras.Input(input_shape)
    x = transposed(bottleneck_filters, 3, padding="same", activation="relu")(inputs)
    for filters_of_stage in reversed(filters):
        x = transposed(filters_of_stage, 3, strides=2, padding="same", activation="relu")(x)
    x = transposed(channels, 3, padding="same", dtype="float32")(x)  # (batch, *spatial, channels)
    return keras.Model(inputs, x, name=name)


def _rank(shape, name="input_shape"):
    rank = len(shape_of(name, shape)) - 1
    if rank not in CONVOLUTIONS:
        raise ValueError(
            "The shape must hold one to three spatial sizes and the channels. "
            f"Received: {name}={tuple(shape)}"
        )
    return rank


def _fixed_product(units, name):
    """A matrix that is set, not trained; float32, for it may sum over a whole volume."""
    return layers.Dense(
        units,
        use_bias=False,
        kernel_initializer="zeros",
        trainable=False,
        dtype="float32",
        name=name,
    )
