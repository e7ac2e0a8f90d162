"""The layers that `PixelCNN` stacks: the context of a code, and one block of either form."""

import math

import keras
from keras import ops

from brainvq.arguments import number, whole, wholes
from brainvq.layers.masked_convolution import MASKED_CONVOLUTIONS, CausalConv
from brainvq.models import pixelcnn_sampler


def _over_grid(vector, rank):
    """Reshape `(batch, channels)` to `(batch, 1, ..., channels)` with `rank` grid axes."""
    return ops.reshape(vector, (-1,) + (1,) * rank + (vector.shape[-1],))


@keras.saving.register_keras_serializable(package="brainvq")
class ContextProjection(keras.layers.Layer):
    """Adds what is known beside the codes (place in the grid, class) to a feature map.

    This is the term V h of the conditional PixelCNN (van den Oord et al., 2016, equations 3 and
    4), with one matrix for each kind of context.

    Args:
        filters: number of channels of the feature map.
        position: whether a position embedding is given.
        label: whether a class embedding is given.

    Call with `features` `(batch, *grid, filters)`, `position` `(1, *grid, dim)` or None and `label`
    `(batch, dim)` or None; it returns the shape of `features`.

    Raises:
        ValueError: if `filters` is no positive integer.
    """

    def __init__(self, filters: int, position: bool = True, label: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters = whole("filters", filters)
        self.position = position
        self.label = label
        self.position_dense = None
        self.label_dense = None
        if position:
            self.position_dense = keras.layers.Dense(
                filters, use_bias=False, dtype=self.dtype_policy, name="position_dense"
            )
        if label:
            self.label_dense = keras.layers.Dense(
                filters, use_bias=False, dtype=self.dtype_policy, name="label_dense"
            )

    def build(self, dim):
        """Make the matrices `(dim, filters)`."""
        for dense in (self.position_dense, self.label_dense):
            if dense is not None:
                dense.build((None, dim))
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: self.filters})
        self.built = True

    def call(self, features, position=None, label=None):
        """Return `features` plus the projected context; see the class for shapes."""
        if self.position_dense is not None:
            features = features + self.position_dense(position)
        if self.label_dense is not None:
            features = features + _over_grid(self.label_dense(label), len(features.shape) - 2)
        return features

    def get_config(self):
        """Return every constructor argument."""
        config = super().get_config()
        config.update(filters=self.filters, position=self.position, label=self.label)
        return config


@keras.saving.register_keras_serializable(package="brainvq")
class PlanNetwork(keras.layers.Layer):
    """What a plan says of each code: three convolutions that see all directions.

    The values of the plan that lie in a code's cell become channels first.

    Args:
        grid_shape: sizes of the code grid, one to three axes.
        plan_shape: `(*sizes, channels)` of the plan, whose sizes are multiples of the grid's.
        dim: number of channels of the result.
        filters: channels between the convolutions.

    Call with float `(batch, *plan_shape)`; it returns `(batch, *grid, dim)`.

    Raises:
        ValueError: if an argument is out of its range, or the plan does not fit the grid.
    """

    def __init__(self, grid_shape, plan_shape, dim: int, filters: int = 128, **kwargs):
        super().__init__(**kwargs)
        self.grid_shape = wholes("grid_shape", grid_shape, least=1)
        self.plan_shape = wholes("plan_shape", plan_shape, least=2)
        *sizes, channels = self.plan_shape
        if not 1 <= len(sizes) == len(self.grid_shape) <= 3 or any(
            size % cells for size, cells in zip(sizes, self.grid_shape, strict=True)
        ):
            raise ValueError(
                f"`plan_shape` must be multiples of the grid {self.grid_shape}, of one to three "
                "sizes, and channels. "
                f"Received: plan_shape={self.plan_shape}"
            )
        self.dim, self.filters = dim, filters = whole("dim", dim), whole("filters", filters)
        self.factors = [size // cells for size, cells in zip(sizes, self.grid_shape, strict=True)]
        self.channels = math.prod(self.factors) * channels
        rank = len(sizes)
        convolution = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)[rank - 1]
        options = {"padding": "same", "dtype": self.dtype_policy}
        self.convolutions = [
            convolution(filters, 3, activation="gelu", name="convolution_0", **options),
            convolution(filters, 3, activation="gelu", name="convolution_1", **options),
            convolution(dim, 3, name="convolution_2", **options),
        ]

    def build(self, input_shape):
        """Make all weights."""
        self.input_spec = keras.layers.InputSpec(shape=(None, *self.plan_shape))
        shape = (None, *self.grid_shape, self.channels)
        for convolution in self.convolutions:
            convolution.build(shape)
            shape = (*shape[:-1], convolution.filters)
        self.built = True

    def call(self, plan):
        """Return `(batch, *grid, dim)` of `(batch, *plan_shape)`."""
        rank = len(self.grid_shape)
        cells = [size for pair in zip(self.grid_shape, self.factors, strict=True) for size in pair]
        plan = ops.reshape(ops.cast(plan, self.compute_dtype), (-1, *cells, self.plan_shape[-1]))
        order = (0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
        features = ops.reshape(ops.transpose(plan, order), (-1, *self.grid_shape, self.channels))
        for convolution in self.convolutions:
            features = convolution(features)
        return features

    def compute_output_shape(self, input_shape):
        """Return `(batch, *grid, dim)`."""
        return (input_shape[0], *self.grid_shape, self.dim)

    def get_config(self):
        """Return every constructor argument."""
        config = super().get_config()
        config.update(
            grid_shape=self.grid_shape,
            plan_shape=self.plan_shape,
            dim=self.dim,
            filters=self.filters,
        )
        return config


@keras.saving.register_keras_serializable(package="brainvq")
class CausalAttention(keras.layers.Layer):
    """Attention of each code over itself and all earlier ones, in raster order, added to features.

    Masked convolutions reach a few codes; with this the whole of what is drawn is seen (Chen et
    al. 2018, "PixelSNAIL: An Improved Autoregressive Generative Model"). Features at a place know
    earlier codes alone, so that a place may attend to itself. Time and memory of training grow with
    the square of the number of codes in a grid.

    Args:
        filters: channels of input and output.
        heads: number of attentions side by side.
        width: channels of all queries together, and of keys and values: a multiple of `heads`.
        position: whether what is known of each place enters queries, keys and values.
        label: whether a class embedding does.
        dropout: rate on the output.

    Call with features `(batch, *grid, filters)` and the two embeddings; it returns the same shape.

    Raises:
        ValueError: if an argument is out of its range, or `heads` does not divide `width`.
    """

    def __init__(
        self,
        filters: int,
        heads: int = 4,
        width: int = 64,
        position: bool = False,
        label: bool = False,
        dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        filters, heads = whole("filters", filters), whole("heads", heads)
        width = whole("width", width)
        dropout = float(number("dropout", dropout, most=1.0, below=True))
        if width % heads:
            raise ValueError(
                f"`width` must be a multiple of heads={heads}. Received: width={width}"
            )
        self.filters, self.heads, self.width = filters, heads, width
        self.position, self.label, self.dropout = position, label, dropout
        policy = self.dtype_policy
        # Queries, keys and values in one product.
        self.input_dense = keras.layers.Dense(3 * width, dtype=policy, name="input_dense")
        self.context = ContextProjection(3 * width, position, label, dtype=policy, name="context")
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=policy, name="dropout")
        self.output_dense = keras.layers.Dense(filters, dtype=policy, name="output_dense")

    def build(self, dim):
        """Make all weights; `dim` is the number of channels of the embeddings."""
        self.input_dense.build((None, self.filters))
        self.context.build(dim)
        self.output_dense.build((None, self.width))
        self.built = True

    def call(self, features, position=None, label=None, training: bool | None = None):
        """Return the features plus what is attended to; see the class for shapes."""
        projected = self.context(self.input_dense(features), position, label)
        count = math.prod(features.shape[1:-1])
        flat = ops.reshape(projected, (-1, count, 3 * self.width))
        places = ops.arange(count)
        earlier = places[None] <= places[:, None]
        attended = self.attend(*ops.split(flat, 3, axis=-1), earlier)
        attended = ops.reshape(attended, (-1, *features.shape[1:-1], self.width))
        return features + self.output_dense(self.dropout_layer(attended, training=training))

    def attend(self, query, keys, values, seen):
        """Return means of values, weighted by how well the keys match each query.

        Args:
            query: `(batch, m, width)`.
            keys: `(batch, n, width)`.
            values: `(batch, n, width)`.
            seen: bool `(m, n)`, which of them each query may see.

        Returns:
            `(batch, m, width)` in the type of `query`.
        """
        query, keys, values = (
            ops.reshape(part, (-1, part.shape[1], self.heads, self.width // self.heads))
            for part in (query, keys, values)
        )
        scores = ops.cast(ops.einsum("bmhd,bnhd->bhmn", query, keys), "float32")
        scores = scores / math.sqrt(self.width // self.heads)
        weights = ops.softmax(ops.where(seen, scores, -1e9), axis=-1)
        means = ops.einsum("bhmn,bnhd->bmhd", ops.cast(weights, values.dtype), values)
        return ops.reshape(means, (-1, query.shape[1], self.width))

    def compute_output_shape(self, input_shape):
        """Return the shape of the features."""
        return input_shape

    def get_config(self):
        """Return every constructor argument."""
        config = super().get_config()
        config.update(
            filters=self.filters,
            heads=self.heads,
            width=self.width,
            position=self.position,
            label=self.label,
            dropout=self.dropout,
        )
        return config


class _Block(keras.layers.Layer):
    """What the two blocks share: their arguments, and a context of the same kinds."""

    def __init__(self, rank, filters, kernel_size, position, label, dropout, **kwargs):
        super().__init__(**kwargs)
        self.rank = whole("rank", rank)
        self.filters = whole("filters", filters)
        self.kernel_size = whole("kernel_size", kernel_size)
        self.position = position
        self.label = label
        self.dropout = number("dropout", dropout, most=1.0, below=True)

    def get_config(self):
        """Return every constructor argument."""
        config = super().get_config()
        config.update(
            rank=self.rank,
            filters=self.filters,
            kernel_size=self.kernel_size,
            position=self.position,
            label=self.label,
            dropout=self.dropout,
        )
        return config


@keras.saving.register_keras_serializable(package="brainvq")
class GatedBlock(_Block):
    """One layer of the gated PixelCNN over all stacks: tanh(a) * sigmoid(b), residual and skip.

    Stack s looks back along axis s. Each stack feeds the next one with a 1×1 convolution of its
    gated output; the last stack, which sees every earlier position, writes to the skip sum.

    Args:
        rank: number of axes of the grid, which is the number of stacks.
        filters: channels of each stack.
        kernel_size: odd integer.
        position: whether a position embedding conditions the gates.
        label: whether a class embedding conditions the gates.
        dropout: rate on the gated output of the last stack.

    Call with `stacks`, a list of `rank` tensors `(batch, *grid, filters)`, `skip` `(batch, *grid,
    filters)`, and the two embeddings; it returns the new list and the new skip sum.
    """

    def __init__(
        self,
        rank: int,
        filters: int,
        kernel_size: int = 3,
        position: bool = True,
        label: bool = False,
        dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(rank, filters, kernel_size, position, label, dropout, **kwargs)
        policy = self.dtype_policy
        self.convolutions = [
            CausalConv(2 * filters, kernel_size, axis=axis, dtype=policy, name=f"conv_{axis}")
            for axis in range(rank)
        ]
        self.contexts = [
            ContextProjection(2 * filters, position, label, dtype=policy, name=f"context_{axis}")
            for axis in range(rank)
        ]
        self.carries = [
            keras.layers.Dense(2 * filters, use_bias=False, dtype=policy, name=f"carry_{axis}")
            for axis in range(rank - 1)
        ]
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=policy, name="dropout")
        # Residual and skip in one product: half the number of small matrix products per code.
        self.output_dense = keras.layers.Dense(2 * filters, dtype=policy, name="output_dense")

    def build(self, dim):
        """Make all weights; `dim` is the number of channels of the embeddings."""
        shape = (None,) * (self.rank + 1) + (self.filters,)
        for convolution in self.convolutions:
            convolution.build(shape)
        for context in self.contexts:
            context.build(dim)
        for carry in self.carries:
            carry.build(shape)
        self.output_dense.build(shape)
        self.built = True

    def call(self, stacks, skip, position=None, label=None, training: bool | None = None):
        """Return the new stacks and the new skip sum; see the class for shapes."""
        new_stacks = []
        carried = None
        for axis, features in enumerate(stacks):
            hidden = self.contexts[axis](self.convolutions[axis](features), position, label)
            if carried is not None:
                hidden = hidden + self.carries[axis - 1](carried)
            carried = pixelcnn_sampler.gate(hidden)
            if axis < self.rank - 1:
                new_stacks.append(features + carried)
        outputs = self.output_dense(self.dropout_layer(carried, training=training))
        new_stacks.append(stacks[-1] + outputs[..., : self.filters])
        return new_stacks, skip + outputs[..., self.filters :]


@keras.saving.register_keras_serializable(package="brainvq")
class PlainBlock(_Block):
    """Residual block of the plain PixelCNN: 1×1, masked B k×k with half the filters, 1×1, all ReLU.

    Args:
        rank: number of axes of the grid.
        filters: channels of input and output.
        kernel_size: odd integer.
        position: whether a position embedding is added to the masked convolution.
        label: whether a class embedding is added to it.
        dropout: rate on the output of the masked convolution.

    Call with features `(batch, *grid, filters)` and the two embeddings; it returns the same shape.
    """

    def __init__(
        self,
        rank: int,
        filters: int,
        kernel_size: int = 3,
        position: bool = False,
        label: bool = False,
        dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(rank, filters, kernel_size, position, label, dropout, **kwargs)
        policy = self.dtype_policy
        half = max(1, filters // 2)
        self.input_dense = keras.layers.Dense(
            filters, activation="relu", dtype=policy, name="input_dense"
        )
        self.convolution = MASKED_CONVOLUTIONS[rank](
            half, kernel_size, mask_type="B", dtype=policy, name="convolution"
        )
        self.context = ContextProjection(half, position, label, dtype=policy, name="context")
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=policy, name="dropout")
        self.output_dense = keras.layers.Dense(
            filters, activation="relu", dtype=policy, name="output_dense"
        )

    def build(self, dim):
        """Make all weights; `dim` is the number of channels of the embeddings."""
        shape = (None,) * (self.rank + 1) + (self.filters,)
        self.input_dense.build(shape)
        self.convolution.build(shape)
        self.context.build(dim)
        self.output_dense.build(shape[:-1] + (self.convolution.filters,))
        self.built = True

    def call(self, features, position=None, label=None, training: bool | None = None):
        """Return the features plus the block's output, `(batch, *grid, filters)`."""
        hidden = self.convolution(self.input_dense(features))
        hidden = ops.relu(self.context(hidden, position, label))
        return features + self.output_dense(self.dropout_layer(hidden, training=training))
