"""The strided encoder and decoder of study `som3d`, in 1D, 2D and 3D.

Every convolution halves or doubles the grid, so that only the image itself is held at full
resolution: with 4 channels at half the resolution, an activation takes half the memory of the
volume.
"""

import keras
from keras import layers, ops

from brainvq.arguments import whole, wholes
from brainvq.models.conv_networks import CONVOLUTIONS, TRANSPOSED, _rank

# Of the moving statistics. A hundred volumes make a dozen steps an epoch: with Keras' 0.99 the
# validation of the first ten epochs would still see the statistics of the start.
MOMENTUM = 0.9


def strided_encoder(
    input_shape: tuple,
    filters: tuple[int, ...] = (4, 8, 16, 32),
    norm: str = "batch",
    skips: bool = False,
    checkpoint: bool = False,
    groups: int = 4,
    activation: str = "relu",
    name: str = "encoder",
) -> keras.Model:
    """Convolutions of stride 2 down to a grid of vectors.

    For each entry of `filters` a stage: a 3×3×3 convolution of stride 2, normalisation, activation,
    the last stage included. The defaults are the network of study `som3d`: 144×176×144×1 volumes
    become 9×11×9 grids of 32 numbers, none of them negative.

    Args:
        input_shape: tuple `(*spatial, channels)` with one to three spatial sizes, each a multiple
            of 2**len(filters), or None for any size.
        filters: channels of the stages, from fine to coarse; the last is the size of the vectors.
        norm: "batch" (Ioffe & Szegedy 2015), "group" (Wu & He 2018) or "none". Statistics are
            float32 whatever the dtype policy. A convolution has a bias only with "none".
        skips: whether the activations of the stages before the last are returned too.
        checkpoint: whether training recomputes the stages in the backward pass; see
            `CheckpointedNetwork`. Weights and outputs are the same.
        groups: groups of norm "group", a divisor of each entry of `filters`.
        activation: name of a Keras activation.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, *spatial, channels)` → `(batch, *grid, filters[-1])`, `grid`
        being `spatial / 2**len(filters)`; with `skips` a list of it and of the activations of the
        earlier stages, from fine `(batch, *spatial / 2, filters[0])` to coarse.

    Raises:
        ValueError: if a spatial size is no multiple of the stride, their number is not 1 to 3,
            `filters` is empty, `norm` is none of the three or `groups` does not divide `filters`.
    """
    convolution = CONVOLUTIONS[_rank(input_shape)]
    filters = wholes("filters", filters)
    normalise = _normaliser(norm, groups, filters)
    stride = 2 ** len(filters)
    if any(size is not None and size % stride for size in input_shape[:-1]):
        raise ValueError(
            f"Spatial sizes must be multiples of {stride}, the stride of {len(filters)} "
            f"halvings. Received: input_shape={tuple(input_shape)}"
        )
    inputs = keras.Input(input_shape)
    x = inputs
    stages = []
    for channels in filters:
        x = convolution(channels, 3, strides=2, padding="same", use_bias=norm == "none")(x)
        x = layers.Activation(activation)(normalise(x))  # (batch, *half the grid, channels)
        stages.append(x)
    network = CheckpointedNetwork if checkpoint else keras.Model
    return network(inputs, [x, *stages[:-1]] if skips else x, name=name)


def strided_decoder(
    input_shape: tuple,
    filters: tuple[int, ...] = (4, 8, 16, 32),
    norm: str = "batch",
    skips: bool = False,
    checkpoint: bool = False,
    groups: int = 4,
    activation: str = "relu",
    channels: int = 1,
    name: str = "decoder",
) -> keras.Model:
    """The mirror of `strided_encoder`, by transposed convolutions of stride 2.

    For each entry of `filters` but the last, in reverse, a stage: a 3×3×3 transposed convolution of
    stride 2, normalisation, activation. A linear transposed convolution to `channels` ends it, in
    float32 whatever the dtype policy. With `skips`, each stage's output is joined with the
    encoder's activations of the same size (Ronneberger et al. 2015); the codes then need to tell
    little, and a codebook between the two hardly gets used.

    Args:
        input_shape: tuple `(*grid, dim)` with one to three grid sizes or None.
        filters: channels, in the order of the encoder.
        norm: see `strided_encoder`.
        skips: whether the model takes the list that an encoder with `skips` returns.
        checkpoint: see `strided_encoder`.
        groups: groups of norm "group", a divisor of each entry of `filters`.
        activation: see `strided_encoder`; not of the image.
        channels: channels of the output image.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, *grid, dim)` or the list with `skips` → float32
        `(batch, *grid * 2**len(filters), channels)`.

    Raises:
        ValueError: if the number of grid sizes is not 1 to 3, `filters` is empty, `norm` is none of
            the three or `groups` does not divide `filters`.
    """
    transposed = TRANSPOSED[_rank(input_shape)]
    filters, channels = wholes("filters", filters), whole("channels", channels)
    normalise = _normaliser(norm, groups, filters)
    z = keras.Input(input_shape)
    x, grid = z, tuple(input_shape[:-1])
    inputs = []  # the encoder's activations, from coarse to fine
    for width in reversed(filters[:-1]):
        x = transposed(width, 3, strides=2, padding="same", use_bias=norm == "none")(x)
        x = layers.Activation(activation)(normalise(x))  # (batch, *twice the grid, width)
        grid = tuple(size and 2 * size for size in grid)
        if skips:
            inputs.append(keras.Input((*grid, width)))
            x = layers.Concatenate()([x, inputs[-1]])  # (batch, *grid, 2 * width)
    x = transposed(channels, 3, strides=2, padding="same", dtype="float32")(x)
    network = CheckpointedNetwork if checkpoint else keras.Model
    return network([z, *reversed(inputs)] if skips else z, x, name=name)


@keras.saving.register_keras_serializable(package="brainvq")
class CheckpointedNetwork(keras.Model):
    """A network of this module that trades time for memory in training (Chen et al. 2016).

    Of each stage only the inputs are stored for the backward pass, which computes the rest again:
    a forward pass more per step. Results, weights and their file are those of the same network
    without it. On a processor it saves about a tenth of a step's memory, at four or at sixteen
    channels, for a third more time: most of it is the volumes at full resolution themselves, of
    which a smaller batch holds fewer (`benchmarks/volume_step.py`).

    Built from `inputs` and `outputs` as any functional model, by `strided_encoder` and
    `strided_decoder`: a chain of layers whose stages end in an `Activation`, one input more for
    every `Concatenate`, and as further outputs those of the stages before the last.
    """

    def call(self, inputs, training: bool | None = None, mask=None):
        """Applies the network; in training stage by stage, each recomputed."""
        if not training:
            return super().call(inputs, training=training, mask=mask)
        x, *skips = keras.tree.flatten(inputs)  # the skips from fine to coarse
        outputs = []
        for stage in self._stages():
            joined = isinstance(stage[0], layers.Concatenate)
            # The end of a decoder is not recomputed: nothing of it but its output is stored.
            apply = _recomputed if isinstance(stage[-1], layers.Activation) else _applied
            x = apply(stage, [x, skips.pop()] if joined else x)
            outputs.append(x)
        return [x, *outputs[:-1]] if len(self.outputs) > 1 else x

    def _stages(self):
        stages = [[]]
        for layer in self.layers:
            if not isinstance(layer, layers.InputLayer):
                stages[-1].append(layer)
            if isinstance(layer, layers.Activation):
                stages.append([])
        return [stage for stage in stages if stage]


def _applied(stage, x):
    for layer in stage:
        x = layer(x, training=True)
    return x


def _recomputed(stage, x):
    """Applies a list of layers in training, to be applied again in the backward pass.

    `keras.RematScope` fails on batch normalisation, and `keras.remat` around it would update the
    moving statistics in both passes on TensorFlow and leak tracers on JAX. Hence a function without
    side effects: weights in, output and moving statistics out, assigned once.
    """
    weights = [weight for layer in stage for weight in layer.weights]
    moving = [
        statistic
        for layer in stage
        if isinstance(layer, layers.BatchNormalization)
        for statistic in (layer.moving_mean, layer.moving_variance)
    ]

    def stateless(values, x):
        with keras.StatelessScope(list(zip(weights, values, strict=True))) as scope:
            x = _applied(stage, x)
        return x, [scope.get_current_value(statistic) for statistic in moving]

    values = [ops.convert_to_tensor(weight) for weight in weights]
    x, updated = keras.remat(stateless)(values, x)
    for statistic, value in zip(moving, updated, strict=True):
        statistic.assign(value)
    return x


def _normaliser(norm, groups, filters):
    """Returns a function that applies a new normalisation layer."""
    if not filters:
        raise ValueError(
            f"`filters` must have one entry per stage. Received: filters={tuple(filters)}"
        )
    if norm == "batch":
        return lambda x: layers.BatchNormalization(momentum=MOMENTUM)(x)
    if norm == "group":
        groups = whole("groups", groups)
        if any(channels % groups for channels in filters):
            raise ValueError(
                "`groups` must divide each entry of `filters`. "
                f"Received: groups={groups}, filters={tuple(filters)}"
            )
        return lambda x: layers.GroupNormalization(groups)(x)
    if norm == "none":
        return lambda x: x
    raise ValueError(f'`norm` must be "batch", "group" or "none". Received: norm={norm}')
