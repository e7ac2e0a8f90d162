"""The encoder and decoder of study `introvae3d`: volumes to Gaussian vectors and back.

Convolutions keep the grid and pooling halves it, as in the paper (Vogelsanger & Federau); a dense
part then leaves the grid altogether, so that one vector stands for a whole brain. Three things are
not the paper's. With `patch` above 1 the finest grid is folded into channels, which saves most of
the time. The networks know a mean volume, `set_mean`: aligned brains differ by little from one
another, and a network that has to find their mean first, with normalisation layers that see what
all have in common, may never come to what they differ in. And with `linear` they begin as principal
component analysis, `set_components`: the best linear code of aligned brains, to which convolutions
on a few thousand volumes come no nearer by themselves.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from brainvq.arguments import number, whole, wholes
from brainvq.layers.group_norm import GroupNorm
from brainvq.layers.mean_volume import AddVolume, RemoveVolume
from brainvq.layers.soft_clip import SoftClip
from brainvq.layers.space_to_depth import DepthToSpace, SpaceToDepth
from brainvq.models.conv_networks import CONVOLUTIONS, _fixed_product, _rank
from brainvq.models.volume_networks import MOMENTUM, _normaliser

# The mean, as in Huang et al. (2018): a critic of a decoder passes gradients to every voxel. The
# activation's default, with a slope below zero, is theirs for the same reason.
POOLING = {1: layers.AveragePooling1D, 2: layers.AveragePooling2D, 3: layers.AveragePooling3D}
# Of the encoder's log-variance at the start: a deviation of 0.05, so that the decoder learns what
# latent vectors mean before it learns to bear their noise.
START_LOG_VARIANCE = -6.0
# Least distance of a mean volume from 0 and 1, where a soft clip has no inverse.
_EDGE = 3e-3
UPSAMPLING = {1: layers.UpSampling1D, 2: layers.UpSampling2D, 3: layers.UpSampling3D}


def intro_encoder(
    input_shape: tuple,
    latent_size: int = 256,
    filters: tuple[int, ...] = (16, 32, 64),
    dense_units: tuple[int, ...] = (512,),
    dropout: float = 0.1,
    norm: str = "group",
    groups: int = 4,
    activation: str = "leaky_relu",
    patch: int = 1,
    linear: bool = False,
    name: str = "encoder",
) -> keras.Model:
    """Convolutions and pooling, then dense layers, to the mean and log-variance of a Gaussian.

    The mean volume (`set_mean`; at first zeros) is taken off. For each entry of `filters` a stage
    follows: 3×3×3 convolution, normalisation, activation, mean of 2×2×2 cells (Huang et al. 2018);
    for each of `dense_units` dense layer, normalisation, activation, dropout. Two linear layers end
    it, in float32.

    Args:
        input_shape: tuple `(*spatial, channels)`, one to three sizes, multiples of 2**len(filters).
        latent_size: int ≥ 1, numbers in the latent vector.
        filters: channels of the stages, from fine to coarse.
        dense_units: widths of the dense layers, from grid to vector; may be empty.
        dropout: float in [0, 1), share of the numbers after each dense layer that training drops.
        norm: "group" (Wu & He 2018; layer normalisation between dense layers), "batch" (Ioffe &
            Szegedy 2015, the paper's) or "none", with which convolutions have a bias.
        groups: groups of norm "group", a divisor of all `filters`.
        activation: name of a Keras activation.
        patch: 1 (the paper's) or 2: 2×2×2 voxels become channels, the last stage pools nothing.
        linear: whether scores on fixed components (`set_components`), turned by a matrix that is
            trained, are added to the mean. Default False, as in the paper.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, *spatial, channels)` → a list of mean and log-variance,
        float32 `(batch, latent_size)` each.

    Raises:
        ValueError: if an argument is out of its range, or a spatial size is unknown.
    """
    rank = _rank(input_shape)
    filters, dense_units, latent_size = _sizes(filters, dense_units, latent_size)
    dropout = number("dropout", dropout, most=1.0, below=True)
    _grid(input_shape, filters, patch)  # refuses what does not divide
    normalise = _grid_normaliser(norm, groups, filters)
    inputs = keras.Input(input_shape)
    x = differences = RemoveVolume(name="remove_mean")(inputs)
    x = SpaceToDepth(patch)(x) if patch > 1 else x
    for stage, channels in enumerate(filters, 1):
        x = CONVOLUTIONS[rank](channels, 3, padding="same", use_bias=norm == "none")(x)
        x = layers.Activation(activation)(normalise(x))
        if patch == 1 or stage < len(filters):
            x = POOLING[rank](2)(x)  # (batch, *half the grid, channels)
    x = layers.Flatten()(x)
    for units in dense_units:
        x = _dense(x, units, norm, activation, dropout)
    outputs = _gaussian(x, differences if linear else None, latent_size)
    return keras.Model(inputs, outputs, name=name)


def _sizes(filters, dense_units, latent_size):
    """The three as whole numbers, or a ValueError."""
    filters, dense_units = wholes("filters", filters), wholes("dense_units", dense_units)
    return filters, dense_units, whole("latent_size", latent_size)


def _gaussian(x, differences, latent_size):
    """Mean and log-variance, `(batch, latent_size)` each, of features `(batch, n)`.

    With the differences from the mean volume, `(batch, *spatial, channels)`, the linear path too:
    at first it adds nothing (its components are zeros), and later the log-variance sees it as well.
    """
    linear = differences is not None
    mean = layers.Dense(
        latent_size,
        # Small beside the scores, with which the mean then starts.
        kernel_initializer=keras.initializers.VarianceScaling(0.01 if linear else 1.0),
        dtype="float32",
        name="mean",
    )(x)
    if linear:
        scores = _fixed_product(latent_size, "components")(layers.Flatten()(differences))
        mean = layers.Add(dtype="float32")([mean, _turn(latent_size)(scores)])
        x = layers.Concatenate(dtype="float32")([x, scores])
    log_variance = layers.Dense(
        latent_size,
        kernel_initializer=keras.initializers.VarianceScaling(0.01),
        bias_initializer=keras.initializers.Constant(START_LOG_VARIANCE),
        dtype="float32",
        name="log_variance",
    )(x)
    return [mean, log_variance]


def intro_decoder(
    output_shape: tuple,
    latent_size: int = 256,
    filters: tuple[int, ...] = (16, 32, 64),
    dense_units: tuple[int, ...] = (512,),
    norm: str = "group",
    groups: int = 4,
    activation: str = "leaky_relu",
    patch: int = 1,
    linear: bool = False,
    name: str = "decoder",
) -> keras.Model:
    """The mirror of `intro_encoder`, by upsampling; give it the same arguments but `dropout`.

    Dense layers lead back to the coarsest grid. For each entry of `filters`, in reverse, the grid
    doubles by repetition and a 3×3×3 convolution follows, with normalisation and activation but
    after the last. The mean volume (`set_mean`) is then added, and trained on; with `linear`, the
    sum of the components (`set_components`) too. A soft clip to [0, 1] ends it, in float32 whatever
    the dtype policy. There is no dropout, whose noise would end in what is decoded.

    Args:
        output_shape: tuple `(*spatial, channels)`: the `input_shape` of the encoder.
        latent_size: see `intro_encoder`.
        filters: channels, in the order of the encoder.
        dense_units: widths, in the order of the encoder.
        norm: see `intro_encoder`.
        groups: see `intro_encoder`.
        activation: see `intro_encoder`; not of the image.
        patch: see `intro_encoder`; with 2 the last convolution makes the channels of a block, which
            are then unfolded (sub-pixel convolution).
        linear: True adds the components, weighted by the latent vector, which is turned by a matrix
            that starts as the identity and is trained. Default False.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, latent_size)` → float32 `(batch, *spatial, channels)` in
        [0, 1].

    Raises:
        ValueError: see `intro_encoder`.
    """
    rank = _rank(output_shape, "output_shape")
    filters, dense_units, latent_size = _sizes(filters, dense_units, latent_size)
    grid = _grid(output_shape, filters, patch)
    normalise = _grid_normaliser(norm, groups, filters)
    z = keras.Input((latent_size,))
    x = _dense_way_back(z, grid, filters[-1], dense_units, norm, activation)
    x = layers.Activation(activation)(x if norm == "group" else normalise(x))
    for channels in reversed(filters[:-1]):
        x = UPSAMPLING[rank](2)(x)
        x = CONVOLUTIONS[rank](channels, 3, padding="same", use_bias=norm == "none")(x)
        x = layers.Activation(activation)(normalise(x))  # (batch, *twice the grid, channels)
    x = _last_convolution(x, output_shape[-1], rank, patch)
    if linear:
        line = _fixed_product(math.prod(output_shape), "components")(_turn(latent_size)(z))
        x = layers.Add(dtype="float32")([x, layers.Reshape(output_shape, dtype="float32")(line)])
    x = AddVolume(name="add_mean", dtype="float32")(x)
    # A generated volume that left the range of the real ones would be known by that alone, which
    # teaches the decoder nothing about brains.
    return keras.Model(z, SoftClip(name="clip", dtype="float32")(x), name=name)


def _dense_way_back(z, grid, channels, dense_units, norm, activation):
    """Dense layers from the latent vector to the coarsest grid, `(batch, *grid, channels)`."""
    # No layer normalisation: it would take from a vector its length, which says how far a brain is
    # from the mean one.
    x, norm = z, "none" if norm == "group" else norm
    for units in reversed(dense_units):
        x = _dense(x, units, norm, activation, dropout=0)
    x = layers.Dense(math.prod(grid) * channels, use_bias=norm != "batch")(x)
    return layers.Reshape((*grid, channels))(x)


def _last_convolution(x, channels, rank, patch):
    """The linear convolution to the image, at its full size `(batch, *spatial, channels)`."""
    if patch == 1:
        x = UPSAMPLING[rank](2)(x)
    x = CONVOLUTIONS[rank](
        channels * patch**rank,
        3,
        padding="same",
        # Small, so that what is decoded starts at the mean.
        kernel_initializer=keras.initializers.VarianceScaling(1e-3),
        dtype="float32",
    )(x)
    return DepthToSpace(patch, dtype="float32")(x) if patch > 1 else x


def set_mean(
    encoder: keras.Model, decoder: keras.Model, mean: np.ndarray, deviation: float
) -> None:
    """Sets what the volumes of training have in common; call it before the first step.

    Args:
        encoder: model of `intro_encoder`.
        decoder: model of `intro_decoder`.
        mean: float `(*spatial, channels)` in [0, 1], the mean training volume.
        deviation: float > 0, root mean square distance of a voxel from it.

    Raises:
        ValueError: the shape is another, or the deviation is not above 0.
    """
    mean = np.asarray(mean, "float32")
    encoder.get_layer("remove_mean").set(mean, deviation)
    inside = np.clip(mean, _EDGE, 1 - _EDGE)
    decoder.get_layer("add_mean").volume.assign(decoder.get_layer("clip").inverse(inside))


def set_components(encoder: keras.Model, decoder: keras.Model, components: np.ndarray) -> None:
    """Sets the directions in which the volumes of training differ, of networks with `linear`.

    The networks then begin as principal component analysis: the latent vector is the scores, each
    with a deviation of 1, and what is decoded is the sum of the components. Call `set_mean` first.

    Args:
        encoder: model of `intro_encoder` with `linear`.
        decoder: model of `intro_decoder` with `linear`.
        components: float `(count, *spatial, channels)`, count ≤ `latent_size`: principal axes of
            the training volumes, which are orthogonal, each as long as the deviation of the scores
            on it. Latent numbers beyond `count` start without a path.

    Raises:
        ValueError: the networks have no linear path, or the shape is another.
    """
    shape = tuple(encoder.input_shape[1:])
    components = np.asarray(components, "float32")
    latent_size = decoder.input_shape[-1]
    if components.shape[1:] != shape or len(components) > latent_size:
        raise ValueError(
            f"`components` must be (at most {latent_size}, {', '.join(map(str, shape))}). "
            f"Received: components of shape {components.shape}"
        )
    if "components" not in (layer.name for layer in encoder.layers):
        raise ValueError("The networks must have been made with linear=True. Received: others")
    rows = np.zeros((latent_size, math.prod(shape)), "float32")
    rows[: len(components)] = components.reshape(len(components), -1)
    squares = np.sum(np.square(rows), axis=1, keepdims=True)
    deviation = ops.convert_to_numpy(encoder.get_layer("remove_mean").deviation)
    scores = np.divide(deviation * rows, squares, out=np.zeros_like(rows), where=squares > 0)
    encoder.get_layer("components").set_weights([scores.T])
    decoder.get_layer("components").set_weights([rows])


def _turn(size):
    """Its trained end, at first the identity."""
    return layers.Dense(
        size, use_bias=False, kernel_initializer="identity", dtype="float32", name="turn"
    )


def _grid(shape, filters, patch):
    """The coarsest grid of volumes of `shape`, where all is as it must be."""
    if whole("patch", patch) not in (1, 2):
        raise ValueError(f"`patch` must be 1 or 2. Received: patch={patch}")
    stride = 2 ** len(filters)
    if any(size is None or size % stride for size in shape[:-1]):
        raise ValueError(
            f"Spatial sizes must be known multiples of {stride}, the stride of {len(filters)} "
            f"halvings. Received: shape={tuple(shape)}"
        )
    return tuple(size // stride for size in shape[:-1])


def _grid_normaliser(norm, groups, filters):
    """Returns a function that applies a new normalisation layer to a grid.

    Batch normalisation sees real and generated volumes in training, and knows the statistics of
    neither at inference; group normalisation is the same in both.
    """
    normalise = _normaliser(norm, groups, filters)
    return normalise if norm != "group" else lambda x: GroupNorm(groups)(x)


def _dense(x, units, norm, activation, dropout):
    """A dense layer with what follows it, (batch, n) → (batch, units)."""
    x = layers.Dense(units, use_bias=norm == "none")(x)
    if norm == "batch":
        x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    elif norm == "group":
        x = layers.LayerNormalization()(x)
    x = layers.Activation(activation)(x)
    return layers.Dropout(dropout)(x) if dropout else x
