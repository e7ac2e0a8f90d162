"""Residual encoder and decoder that work on patches, in 1D, 2D and 3D.

Designed for a processor without an accelerator: no convolution but the last one runs at full
resolution, and upsampling is a rearrangement of channels. On two cores a step over 32 slices of
128×128 takes about a fifth of a second.
"""

import keras
from keras import layers

from brainvq.arguments import number, whole, wholes
from brainvq.layers.space_to_depth import DepthToSpace, SpaceToDepth
from brainvq.models.conv_networks import CONVOLUTIONS, _rank

# Each residual branch starts small, so that a deep network starts close to a shallow one.
BRANCH_SCALE = 0.2


def residual_encoder(
    input_shape: tuple,
    filters: tuple[int, ...] = (64, 128),
    blocks: tuple[int, ...] = (2, 2),
    patch: int = 4,
    embedding_dim: int = 16,
    hidden: float = 0.5,
    activation: str = "silu",
    groups: int = 0,
    name: str = "encoder",
) -> keras.Model:
    """Patches, then residual blocks at each level, down to a grid of vectors.

    Blocks of `patch` pixels become channels (`SpaceToDepth`), a 3×3 convolution makes
    `filters[0]` channels of them, and `blocks[0]` residual blocks follow. Each further level
    halves the grid with a 2×2 convolution of stride 2. A linear 1×1 convolution to
    `embedding_dim` ends it. The stride is `patch * 2**(len(filters) - 1)`; the defaults take
    128×128×1 images to 16×16 grids of 16 numbers. In 3D the kernels are 3×3×3 and so on.

    A residual block is x + W₂ · act(W₁ * act(x)): W₁ a 3×3 convolution to `hidden` times the
    channels, W₂ a 1×1 one back (He et al. 2016, pre-activation; van den Oord et al. 2017, section
    4.1, for the narrow 3×3, 1×1 form).

    Args:
        input_shape: tuple `(*spatial, channels)` with one to three spatial sizes, each a multiple
            of the stride, or None for any size.
        filters: channels of each level, from fine to coarse.
        blocks: number of residual blocks of each level, as many as `filters`.
        patch: int ≥ 1, side of the patches, in pixels.
        embedding_dim: channels of the output.
        hidden: float > 0, width of a residual branch as a share of its level's channels.
        activation: name of a Keras activation.
        groups: int, groups of the group normalisation (Wu & He 2018) before each activation at the
            head of a block; 0 for none.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, *spatial, channels)` →
        `(batch, *spatial / stride, embedding_dim)`.

    Raises:
        ValueError: if a spatial size is no multiple of the stride, their number is not 1 to 3, or
            `blocks` and `filters` differ in length.
    """
    build = _Parts(input_shape, filters, blocks, hidden, activation, groups)
    filters, blocks = build.filters, build.blocks
    patch, embedding_dim = whole("patch", patch), whole("embedding_dim", embedding_dim)
    _check_stride(input_shape, patch, len(filters) - 1)
    inputs = keras.Input(input_shape)
    x = SpaceToDepth(patch)(inputs)  # (batch, *spatial / patch, patch**n * channels)
    for level, channels in enumerate(filters):
        if level:
            x = build.convolution(channels, 2, strides=2, padding="valid")(x)
        else:
            x = build.convolution(channels, 3, padding="same")(x)
        for _ in range(blocks[level]):
            x = build.block(x)
    x = build.convolution(embedding_dim, 1)(build.head(x))  # (batch, *grid, embedding_dim)
    return keras.Model(inputs, x, name=name)


def residual_decoder(
    input_shape: tuple,
    filters: tuple[int, ...] = (64, 128),
    blocks: tuple[int, ...] = (2, 2),
    patch: int = 4,
    refine_filters: int = 8,
    channels: int = 1,
    hidden: float = 0.5,
    activation: str = "silu",
    output_activation: str | None = "relu",
    groups: int = 0,
    name: str = "decoder",
) -> keras.Model:
    """The way back of `residual_encoder`, by sub-pixel convolutions.

    A 3×3 convolution to `filters[-1]`, residual blocks, then for each finer level a 1×1 convolution
    whose channels `DepthToSpace` unfolds to twice the grid, and its blocks. At the end every vector
    is unfolded to `patch` pixels with `refine_filters` channels each, and a 3×3 convolution at full
    resolution, the only one, joins the patches to the image.

    Args:
        input_shape: tuple `(*grid, embedding_dim)` with one to three grid sizes or None.
        filters: channels, in the order of the encoder.
        blocks: number of residual blocks of each level, in the order of the encoder.
        patch: int ≥ 1, side of the patches, in pixels.
        refine_filters: int ≥ 1, channels at full resolution.
        channels: channels of the output image.
        hidden: see `residual_encoder`.
        activation: see `residual_encoder`.
        output_activation: activation of the image; None for none. The default, ReLU, gives an
            exactly black background, to which structural similarity is sensitive: at the level of
            its constants, an error of 0.01 there halves it.
        groups: see `residual_encoder`.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, *grid, embedding_dim)` → float32
        `(batch, *grid * patch * 2**(len(filters) - 1), channels)`.

    Raises:
        ValueError: if the number of grid sizes is not 1 to 3, or `blocks` and `filters` differ in
            length.
    """
    build = _Parts(input_shape, filters, blocks, hidden, activation, groups)
    filters, blocks = build.filters, build.blocks
    patch, channels = whole("patch", patch), whole("channels", channels)
    refine_filters = whole("refine_filters", refine_filters)
    inputs = keras.Input(input_shape)
    x = build.convolution(filters[-1], 3, padding="same")(inputs)
    for level in reversed(range(len(filters))):
        if level < len(filters) - 1:
            x = build.convolution(filters[level] * 2**build.rank, 1)(x)
            x = DepthToSpace(2)(x)
        for _ in range(blocks[level]):
            x = build.block(x)
    x = build.convolution(refine_filters * patch**build.rank, 1)(build.head(x))
    x = layers.Activation(activation)(DepthToSpace(patch)(x))  # (batch, *spatial, refine_filters)
    x = build.convolution(channels, 3, padding="same")(x)
    x = layers.Activation(output_activation, dtype="float32")(x)
    return keras.Model(inputs, x, name=name)


def _check_stride(input_shape, patch, halvings):
    stride = patch * 2**halvings
    if any(size is not None and size % stride for size in input_shape[:-1]):
        raise ValueError(
            f"Spatial sizes must be multiples of {stride}, the stride of patch={patch} and "
            f"{halvings} halvings. Received: input_shape={tuple(input_shape)}"
        )


class _Parts:
    """What encoder and decoder are built of."""

    def __init__(self, input_shape, filters, blocks, hidden, activation, groups):
        self.rank = _rank(input_shape)
        self.filters = wholes("filters", filters)
        self.blocks = wholes("blocks", blocks, 0)
        if len(self.filters) != len(self.blocks) or not self.filters:
            raise ValueError(
                "`filters` and `blocks` must have one entry per level. "
                f"Received: filters={self.filters}, blocks={self.blocks}"
            )
        self.convolution = CONVOLUTIONS[self.rank]
        self.hidden = number("hidden", hidden, above=True)
        self.activation = activation
        self.groups = whole("groups", groups, 0)

    def head(self, x):
        """Normalises, if asked to, and activates."""
        if self.groups:
            x = layers.GroupNormalization(self.groups)(x)
        return layers.Activation(self.activation)(x)

    def block(self, x):
        """Adds a residual branch to `x` `(batch, *grid, channels)`."""
        channels = x.shape[-1]
        y = self.convolution(max(1, round(channels * self.hidden)), 3, padding="same")(self.head(x))
        y = layers.Activation(self.activation)(y)
        small = keras.initializers.VarianceScaling(BRANCH_SCALE)
        return layers.Add()([x, self.convolution(channels, 1, kernel_initializer=small)(y)])
