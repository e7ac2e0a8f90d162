"""Encoders and decoders of white-matter bundles: groups of streamlines of equally many points.

A sample is `(streamlines, points, 3)`, coordinates scaled to about [-1, 1]. Two pairs: the image
network of VQ-Diff (Lizarraga et al. 2023), which slides over neighbouring streamlines as over the
rows of a picture, and `streamline_encoder`/`streamline_decoder`, which give each streamline a
vector of its own and treat a bundle as the unordered set it is.
"""

import keras
import numpy as np
from keras import layers, ops

from brainvq.arguments import number, shape_of, whole, wholes
from brainvq.layers.shapes import channels_spec


def bundle_encoder(
    input_shape: tuple = (64, 64, 3),
    filters: tuple[int, ...] = (64, 128),
    blocks: int = 2,
    hidden: int = 32,
    embedding_dim: int = 64,
    name: str = "encoder",
) -> keras.Model:
    """The encoder of VQ-Diff: a bundle as an image of streamlines by points.

    For each entry of `filters` a 4×4 convolution of stride 2 with ReLU, a 3×3 convolution,
    `blocks` residual blocks x + W₂ · relu(W₁ * relu(x)) with W₁ 3×3 to `hidden` channels and W₂
    1×1 back, ReLU, and a linear 1×1 convolution (Lizarraga et al. 2023, section 2.1; the network of
    van den Oord et al. 2017, section 4.1). The defaults make 16×16×64 of 64×64×3.

    Args:
        input_shape: tuple `(streamlines, points, 3)`, both multiples of 2**len(filters).
        filters: channels of the stride-2 convolutions.
        blocks: number of residual blocks.
        hidden: channels inside a residual block.
        embedding_dim: channels of the output.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, streamlines, points, 3)` →
        `(batch, streamlines / stride, points / stride, embedding_dim)`.

    Raises:
        ValueError: if the shape has no three sizes or one is no multiple of the stride.
    """
    input_shape = shape_of("input_shape", input_shape)
    filters, blocks = wholes("filters", filters, least=1), whole("blocks", blocks, 0)
    hidden, embedding_dim = whole("hidden", hidden), whole("embedding_dim", embedding_dim)
    stride = 2 ** len(filters)
    if len(input_shape) != 3 or any(size is None or size % stride for size in input_shape[:2]):
        raise ValueError(
            f"A bundle is (streamlines, points, 3), the first two multiples of {stride}. "
            f"Received: input_shape={input_shape}"
        )
    inputs = keras.Input(input_shape)
    x = inputs
    for channels in filters:
        x = layers.Conv2D(channels, 4, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2D(filters[-1], 3, padding="same")(x)
    x = _residual_stack(x, blocks, hidden)
    x = layers.Conv2D(embedding_dim, 1)(x)  # (batch, *grid, embedding_dim)
    return keras.Model(inputs, x, name=name)


def bundle_decoder(
    input_shape: tuple = (16, 16, 64),
    filters: tuple[int, ...] = (64, 128),
    blocks: int = 2,
    hidden: int = 32,
    name: str = "decoder",
) -> keras.Model:
    """The mirror of `bundle_encoder`, by transposed convolutions.

    Args:
        input_shape: tuple `(*grid, embedding_dim)`.
        filters: channels, in the order of the encoder.
        blocks: number of residual blocks.
        hidden: channels inside a residual block.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, *grid, embedding_dim)` → float32
        `(batch, *grid * 2**len(filters), 3)`.

    Raises:
        ValueError: if an argument is out of its range.
    """
    input_shape = shape_of("input_shape", input_shape)
    filters, blocks = wholes("filters", filters, least=1), whole("blocks", blocks, 0)
    hidden = whole("hidden", hidden)
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(filters[-1], 3, padding="same")(inputs)
    x = _residual_stack(x, blocks, hidden)
    for channels in reversed(filters[:-1]):
        x = layers.Conv2DTranspose(channels, 4, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(3, 4, strides=2, padding="same", dtype="float32")(x)
    return keras.Model(inputs, x, name=name)


def pass_through(encoder: keras.Model, decoder: keras.Model, noise: float = 0.1) -> None:
    """Starts `bundle_encoder` and `bundle_decoder` near a rearrangement of their input.

    A cell of the latent grid has more channels (64) than the points that it stands for have numbers
    (4 × 4 × 3 = 48), so that the network can hand its input on unchanged: each stride-2 convolution
    moves 2×2 places into channels, in pairs (u, −u), of which ReLU keeps all (the mirrored start of
    Balduzzi et al. 2017, section 4; kernels that are zero but for single taps as in Xiao et al.
    2018). From a random start, thousands of steps are spent on finding this out. Numbers that do
    not fit into half of a layer's channels are left out.

    Args:
        encoder: model of `bundle_encoder`.
        decoder: model of `bundle_decoder` with the same filters.
        noise: float ≥ 0, what is left of the random start. Default 0.1; with 0 an autoencoder is
            the identity, wherever everything fits.

    Raises:
        ValueError: if `noise` is out of its range.
    """
    noise = number("noise", noise)
    numbers, paired = 3, False
    for layer in _main_convolutions(encoder, noise):
        numbers = _hand_on(layer, numbers, paired, noise)
        paired = True
    paired = False
    for layer in _main_convolutions(decoder, noise):
        numbers = _hand_on(layer, numbers, paired, noise)
        paired = True


def streamline_encoder(
    input_shape: tuple = (64, 64, 3),
    modes: int = 16,
    width: int = 192,
    blocks: int = 3,
    spread: float = 0.3,
    name: str = "encoder",
) -> keras.Model:
    """A vector for every streamline, in the light of the others of its group.

    The vector is the first `modes` coefficients of each coordinate's cosine transform along the
    streamline, by a dense layer that starts so and may learn another basis, plus what residual
    blocks add, from zero at the start: quantising the vectors of an untrained encoder is quantising
    streamlines, and training goes on from there. A block is a perceptron on every streamline and a
    term from the mean over the group (Zaheer et al. 2017, Deep Sets, equation 4), so that permuting
    streamlines permutes their vectors and does no more.

    Args:
        input_shape: tuple `(streamlines, points, 3)`; streamlines may be None, for any number.
        modes: coefficients of each coordinate; vectors have 3 * modes numbers.
        width: channels of the blocks.
        blocks: number of blocks.
        spread: typical size of a coordinate, which the blocks' input is divided by.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, streamlines, points, 3)` →
        `(batch, streamlines, 1, 3 * modes)`: a grid of one column.

    Raises:
        ValueError: if an argument is out of its range, or there are more modes than points.
    """
    streamlines, points, axes = _three_sizes(input_shape)
    modes, width, blocks = whole("modes", modes), whole("width", width), whole("blocks", blocks, 0)
    spread = number("spread", spread, above=True)
    if modes > points:
        raise ValueError(f"`modes` must be at most {points}, the points. Received: modes={modes}")
    rows = -1 if streamlines is None else streamlines
    inputs = keras.Input(input_shape)
    flat = layers.Reshape((rows, points * axes))(inputs)
    x = layers.Dense(width)(layers.Rescaling(1.0 / spread)(flat))
    for _ in range(blocks):
        x = SetBlock()(x)
    x = layers.LayerNormalization()(x)
    learned = layers.Dense(axes * modes, kernel_initializer="zeros", dtype="float32")(x)
    basis = CosineBasis(points, modes, axes)
    linear = layers.Dense(
        axes * modes, use_bias=False, kernel_initializer=basis, dtype="float32", name="modes"
    )(flat)
    z = layers.Reshape((rows, 1, axes * modes), dtype="float32")(linear + learned)
    return keras.Model(inputs, z, name=name)


def streamline_decoder(
    input_shape: tuple = (64, 1, 48),
    points: int = 64,
    width: int = 192,
    blocks: int = 4,
    spread: float = 0.3,
    name: str = "decoder",
) -> keras.Model:
    """The way back of `streamline_encoder`: the inverse transform plus what residual blocks add.

    What the vectors of all streamlines have in common helps to place each of them.

    Args:
        input_shape: tuple `(streamlines, 1, 3 * modes)`; streamlines may be None.
        points: points of a streamline.
        width: channels of the blocks.
        blocks: number of blocks.
        spread: typical size of a coordinate, which the blocks' output is multiplied by.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, streamlines, 1, 3 * modes)` → float32
        `(batch, streamlines, points, 3)`.

    Raises:
        ValueError: if an argument is out of its range.
    """
    streamlines, _, dim = _three_sizes(input_shape)
    if dim % 3:
        raise ValueError(
            "The vectors of `input_shape` must hold a multiple of 3 numbers. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    points, width = whole("points", points), whole("width", width)
    blocks, spread = whole("blocks", blocks, 0), number("spread", spread, above=True)
    rows = -1 if streamlines is None else streamlines
    inputs = keras.Input(input_shape)
    flat = layers.Reshape((rows, dim))(inputs)
    x = layers.Dense(width)(layers.Rescaling(1.0 / spread)(flat))
    for _ in range(blocks):
        x = SetBlock()(x)
    x = layers.LayerNormalization()(x)
    learned = layers.Dense(points * 3, kernel_initializer="zeros", dtype="float32")(x)
    basis = CosineBasis(points, dim // 3, 3, inverse=True)
    linear = layers.Dense(
        points * 3, use_bias=False, kernel_initializer=basis, dtype="float32", name="modes"
    )(flat)
    x = linear + layers.Rescaling(spread, dtype="float32")(learned)
    x = layers.Reshape((rows, points, 3), dtype="float32")(x)
    return keras.Model(inputs, x, name=name)


def _three_sizes(input_shape):
    """`input_shape` as a tuple; `ValueError` unless it is three sizes, the last two known."""
    shape = shape_of("input_shape", input_shape)
    if len(shape) != 3 or shape[1] is None:
        raise ValueError(
            "`input_shape` must be three sizes, of which the first alone may be None. "
            f"Received: input_shape={shape}"
        )
    return shape


@keras.saving.register_keras_serializable(package="brainvq")
class CosineBasis(keras.initializers.Initializer):
    """A dense kernel that is the orthonormal cosine transform (DCT-II) of curves.

    Args:
        points: points of a curve.
        modes: coefficients of each coordinate, the lowest.
        axes: coordinates of a point. Curves are flat `points * axes` numbers, axes last, and so are
            coefficients.
        inverse: the way back, from coefficients to curves.

    Raises:
        ValueError: if an argument is out of its range, or there are more modes than points.
    """

    def __init__(self, points: int, modes: int, axes: int = 3, inverse: bool = False):
        self.points, self.modes = whole("points", points), whole("modes", modes)
        self.axes, self.inverse = whole("axes", axes), bool(inverse)
        if self.modes > self.points:
            raise ValueError(
                f"`modes` must be at most {self.points}, the points. Received: modes={modes}"
            )

    def __call__(self, shape, dtype=None):
        """Returns the kernel `(points * axes, modes * axes)`, or its transpose."""
        place = (np.arange(self.points)[:, None] + 0.5) * np.arange(self.modes) / self.points
        basis = np.cos(np.pi * place) * np.sqrt(2.0 / self.points)
        basis[:, 0] /= np.sqrt(2.0)
        kernel = np.kron(basis, np.eye(self.axes))
        kernel = kernel.T if self.inverse else kernel
        if tuple(shape) != kernel.shape:
            raise ValueError(f"CosineBasis makes {kernel.shape}. Received: shape={tuple(shape)}")
        return ops.convert_to_tensor(kernel, dtype=dtype or "float32")

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "points": self.points,
            "modes": self.modes,
            "axes": self.axes,
            "inverse": self.inverse,
        }


@keras.saving.register_keras_serializable(package="brainvq")
class SetBlock(layers.Layer):
    """A residual block over a set: `(batch, members, channels)` → the same shape.

    x + W₂ act(W₁ norm(x)), then x + V₂ act(V₁ mean of x over the members). The last matrices start
    at zero, so that a deep network starts as a shallow one.

    Args:
        expansion: width of the perceptron as a multiple of the channels. Default 2.
        activation: name of a Keras activation. Default "silu".
        **kwargs: see `keras.layers.Layer`.
    """

    def __init__(self, expansion: int = 2, activation: str = "silu", **kwargs):
        super().__init__(**kwargs)
        self.expansion = whole("expansion", expansion)
        self.activation = activation

    def build(self, input_shape):
        """Makes the four dense layers."""
        self.input_spec = channels_spec(self, input_shape, ndim=3)
        channels = input_shape[-1]
        # A block that was frozen when it was saved is loaded frozen, and so must its parts be.
        shared = {"dtype": self.dtype_policy, "trainable": self.trainable}

        def dense(units, name, **options):
            return layers.Dense(units, name=name, **shared, **options)

        self.norm = layers.LayerNormalization(name="norm", **shared)
        self.widen = dense(self.expansion * channels, "widen", activation=self.activation)
        self.narrow = dense(channels, "narrow", kernel_initializer="zeros")
        self.read = dense(channels, "read", activation=self.activation)
        self.tell = dense(channels, "tell", kernel_initializer="zeros")
        for layer in (self.norm, self.widen, self.read, self.tell):
            layer.build(input_shape)
        self.narrow.build((*input_shape[:-1], self.expansion * channels))

    def call(self, x):
        """Transforms `x` `(batch, members, channels)`."""
        x = x + self.narrow(self.widen(self.norm(x)))
        return x + self.tell(self.read(ops.mean(x, axis=1, keepdims=True)))

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "expansion": self.expansion,
            "activation": self.activation,
        }


def _main_convolutions(model, noise):
    """The convolutions outside of residual branches, whose ends are made small on the way."""
    convolutions = []
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.Conv2DTranspose):
            if layer.use_bias:
                convolutions.append(layer)
            elif layer.kernel_size == (1, 1):
                layer.kernel.assign(noise * ops.convert_to_tensor(layer.kernel))
    return convolutions


def _hand_on(layer, numbers, paired, noise):
    """Makes a convolution hand `numbers` channels on; returns how many come out."""
    back = isinstance(layer, layers.Conv2DTranspose)
    kernel = noise * np.array(ops.convert_to_numpy(layer.kernel))
    kernel = np.swapaxes(kernel, 2, 3) if back else kernel  # (rows, columns, in, out)
    rows, columns, _, channels = kernel.shape
    taps = [(rows // 2, columns // 2)]
    if layer.strides == (2, 2):
        taps = [(row, column) for row in (1, 2) for column in (1, 2)]
    # A linear layer ends each network: a 1×1 one the encoder, one of three channels the decoder.
    linear = rows == 1 or channels == 3
    room = channels if linear else channels // 2
    # What goes where: (tap, number that comes in, number that goes out).
    if back:
        left = numbers // len(taps)
        routes = [(tap, i * left + to, to) for i, tap in enumerate(taps) for to in range(left)]
    else:
        left = min(room, numbers * len(taps))
        routes = [
            (tap, of, i * numbers + of) for i, tap in enumerate(taps) for of in range(numbers)
        ]
    for tap, of, to in routes:
        if to >= room:
            continue
        for channel, sign in [(2 * of, 1), (2 * of + 1, -1)] if paired else [(of, 1)]:
            if linear:
                kernel[(*tap, channel, to)] += sign
            else:
                kernel[(*tap, channel, 2 * to)] += sign
                kernel[(*tap, channel, 2 * to + 1)] -= sign
    layer.kernel.assign(np.swapaxes(kernel, 2, 3) if back else kernel)
    return left


def _residual_stack(x, blocks, hidden):
    channels = x.shape[-1]
    for _ in range(blocks):
        branch = layers.Conv2D(hidden, 3, padding="same", activation="relu", use_bias=False)(
            layers.ReLU()(x)
        )
        x = x + layers.Conv2D(channels, 1, use_bias=False)(branch)
    return layers.ReLU()(x)
