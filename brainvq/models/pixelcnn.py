"""PixelCNN: an autoregressive prior over grids of discrete codes, in one, two or three dimensions.

Two forms. The plain one is a chain of masked convolutions (van den Oord et al., "Pixel Recurrent
Neural Networks", 2016), laid out as in OASISVQ (Brzoskowski). The gated one (van den Oord et al.,
"Conditional Image Generation with PixelCNN Decoders", 2016, equation 2 and figure 2) has one stack
of causal convolutions for each axis, so that it has no blind spot, and knows where in the grid it
is: the same code means another thing at another place of a brain.
"""

import math

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number, whole, wholes
from brainvq.backend import compile_function, mean_over_replicas, num_replicas
from brainvq.errors import UserError
from brainvq.layers.masked_convolution import MASKED_CONVOLUTIONS, CausalConv
from brainvq.models.exports import Exports
from brainvq.models.own_target import OwnTarget
from brainvq.models.pixelcnn_blocks import (
    CausalAttention,
    ContextProjection,
    GatedBlock,
    PlainBlock,
    PlanNetwork,
)
from brainvq.models.pixelcnn_draws import DrawsCodes, Functions, batches_of, padded_to


@keras.saving.register_keras_serializable(package="brainvq")
class PixelCNN(OwnTarget, DrawsCodes, Exports, keras.Model):
    """Autoregressive distribution over code grids: p(codes) = Π p(code_i | earlier codes).

    "Earlier" is raster order: the last axis of the grid runs fastest. Train it with plain `fit`
    on int codes `(n, *grid)`, or on `{"codes": ..., "labels": ...}` where it is conditional; the
    loss is the cross-entropy in nats per code (compile without one), and `bits_per_code` is logged
    beside it. A
    `sample_weight` may have the shape `(n,)` or `(n, *grid)`; the loss is then the weighted mean.

    Arrays of codes and labels are checked by `fit` before the first step. What comes in batches, as
    of a `tf.data.Dataset`, is not: out of range it is an error on one backend and nonsense on
    another.

    The form of OASISVQ (Brzoskowski) is `PixelCNN((8, 8), 16, filters=128, num_blocks=4,
    first_kernel_size=7, gated=False)`.

    Args:
        grid_shape: sizes of the code grid, one to three axes.
        num_codes: number K of codes; codes are integers in [0, K).
        filters: channels of each stack (gated) or of the chain (plain).
        num_blocks: number of gated layers, or of residual blocks (plain).
        kernel_size: odd size of the blocks' convolutions.
        first_kernel_size: odd size, 3 or more, of the first convolution, which hides the centre.
        gated: the gated form; False for the plain one.
        num_classes: number of classes of a conditional prior, or None.
        embedding_dim: channels of the learned embedding of a code; 0 for a one-hot input. None
            stands for 64 in the gated form and 0 in the plain one.
        position_embedding: whether a learned embedding of the absolute position conditions every
            layer. None stands for True in the gated form and False in the plain one.
        dropout: rate in [0, 1) within every block.
        plan_shape: shape `(*sizes, channels)` of a plan that every grid is drawn by, or None: an
            array with a place, or a whole number of them along each axis, for each code. All of it
            is seen at every code (a spatial context in the sense of van den Oord et al. 2016,
            section 2.3).
        plan: a `GaussianPlan` to draw plans from, saved along with the weights; None where plans
            come from elsewhere. It says `plan_shape`.
        attention_every: number of blocks between two attentions over all earlier codes (Chen et al.
            2018, "PixelSNAIL"); 0 for none. For the gated form.
        label_smoothing: share in [0, 1) of the target that the training loss spreads evenly over
            all codes; `bits_per_code` is always that of the true codes.

    Input: int `(batch, *grid)`, or a dict with `codes`, `labels` (int `(batch,)`) and `plan` (float
    `(batch, *plan_shape)`), those that the prior takes. Output: float32 logits
    `(batch, *grid, num_codes)` whatever the dtype policy.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        grid_shape: tuple[int, ...],
        num_codes: int,
        filters: int = 96,
        num_blocks: int = 8,
        kernel_size: int = 3,
        first_kernel_size: int = 7,
        gated: bool = True,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        position_embedding: bool | None = None,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        plan_shape: tuple[int, ...] | None = None,
        plan: keras.Layer | None = None,
        attention_every: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.grid_shape = _checked_grid(grid_shape)
        self.rank = len(self.grid_shape)
        if embedding_dim is None:
            embedding_dim = 64 if gated else 0
        self.num_codes = whole("num_codes", num_codes)
        self.filters = whole("filters", filters)
        self.num_blocks = whole("num_blocks", num_blocks)
        self.kernel_size = _odd("kernel_size", kernel_size, 1)
        self.first_kernel_size = _odd("first_kernel_size", first_kernel_size, 3)
        self.gated = bool(gated)
        self.num_classes = None if num_classes is None else whole("num_classes", num_classes)
        self.embedding_dim = whole("embedding_dim", embedding_dim, 0)
        self.position_embedding = self.gated if position_embedding is None else position_embedding
        self.dropout = float(number("dropout", dropout, most=1.0, below=True))
        smoothing = number("label_smoothing", label_smoothing, most=1.0, below=True)
        self.label_smoothing = float(smoothing)
        self.attention_every = whole("attention_every", attention_every, 0)
        if self.attention_every and not self.gated:
            raise ValueError(
                "`attention_every` needs gated=True. "
                f"Received: attention_every={attention_every}, gated={gated}"
            )
        self.plan = plan
        self.plan_shape = plan_shape if plan is None else plan.context_shape
        self._make_layers()
        self.bits_tracker = keras.metrics.Mean(name="bits_per_code")
        self._weighted_loss = keras.metrics.Mean(name="weighted_loss")
        self._functions = Functions()
        self.build(self._input_shapes())

    def _make_layers(self):
        """Makes all layers, in the order in which they draw their initial weights."""
        policy = self.dtype_policy
        placed = self.position_embedding or self.plan_shape is not None
        context = {"position": placed, "label": self.num_classes is not None}
        self.context_dim = self.embedding_dim or max(1, self.filters // 2)
        self.code_embedding = self.label_embedding = None
        if self.embedding_dim:
            self.code_embedding = keras.layers.Embedding(
                self.num_codes, self.embedding_dim, dtype=policy, name="code_embedding"
            )
        if context["label"]:
            self.label_embedding = keras.layers.Embedding(
                self.num_classes, self.context_dim, dtype=policy, name="label_embedding"
            )
        self.plan_network = None
        if self.plan_shape is not None:
            self.plan_network = PlanNetwork(
                self.grid_shape,
                self.plan_shape,
                self.context_dim,
                dtype=policy,
                name="plan_network",
            )
        self.first_convolutions = self._make_first_convolutions()
        self.first_contexts = [
            ContextProjection(self.filters, **context, dtype=policy, name=f"first_context_{axis}")
            for axis in range(len(self.first_convolutions))
        ]
        block = GatedBlock if self.gated else PlainBlock
        self.blocks = [
            block(
                self.rank,
                self.filters,
                self.kernel_size,
                **context,
                dropout=self.dropout,
                dtype=policy,
                name=f"block_{index}",
            )
            for index in range(self.num_blocks)
        ]
        self.attentions = self._make_attentions(context)
        # A masked B convolution of size 1×1 is a dense layer over the channels.
        self.betweens = [
            keras.layers.Dense(
                self.filters, activation="relu", dtype=policy, name=f"between_{index}"
            )
            for index in range(0 if self.gated else self.num_blocks - 1)
        ]
        self.head = None
        if self.gated:
            self.head = keras.layers.Dense(
                self.filters, activation="relu", dtype=policy, name="head"
            )
        self.logits_dense = keras.layers.Dense(self.num_codes, dtype="float32", name="logits")

    def _make_attentions(self, context):
        """For each block the attention before it, or None."""
        every = self.attention_every
        return [
            CausalAttention(
                self.filters,
                **context,
                dropout=self.dropout,
                dtype=self.dtype_policy,
                name=f"attention_{index}",
            )
            if every and index and index % every == 0
            else None
            for index in range(self.num_blocks)
        ]

    def _make_first_convolutions(self):
        """The convolutions that hide the code at their centre: one for each stack."""
        options = {"padding_channel": True, "dtype": self.dtype_policy}
        if not self.gated:
            masked = MASKED_CONVOLUTIONS[self.rank]
            return [
                masked(self.filters, self.first_kernel_size, mask_type="A", name="first", **options)
            ]
        return [
            CausalConv(
                self.filters,
                self.first_kernel_size,
                axis=axis,
                include_current=False,
                name=f"first_{axis}",
                **options,
            )
            for axis in range(self.rank)
        ]

    def build(self, input_shape=None):
        """Make all weights; the constructor calls it, since `grid_shape` says all."""
        if self.built:
            return
        channels = self.embedding_dim or self.num_codes
        grid = (None, *self.grid_shape)
        if self.code_embedding is not None:
            self.code_embedding.build(grid)
        if self.label_embedding is not None:
            self.label_embedding.build((None,))
        if self.position_embedding:
            self.positions = self.add_weight(
                name="positions",
                shape=(1, *self.grid_shape, self.context_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.1),
            )
        else:
            self.positions = None
        if self.plan_network is not None:
            self.plan_network.build((None, *self.plan_shape))
        for convolution in self.first_convolutions:
            convolution.build((*grid, channels))
        for context in self.first_contexts:
            context.build(self.context_dim)
        for block in self.blocks:
            block.build(self.context_dim)
        for attention in filter(None, self.attentions):
            attention.build(self.context_dim)
        for between in self.betweens:
            between.build((*grid, self.filters))
        if self.head is not None:
            self.head.build((*grid, self.filters))
        self.logits_dense.build((*grid, self.filters))
        self.built = True

    def _input_shapes(self):
        """The shape of codes, or a dict of the shapes of what the prior is called on."""
        shapes = {"codes": (None, *self.grid_shape)}
        if self.num_classes is not None:
            shapes["labels"] = (None,)
        if self.plan_shape is not None:
            shapes["plan"] = (None, *self.plan_shape)
        return shapes if len(shapes) > 1 else shapes["codes"]

    def _split(self, inputs, labels=None, plan=None):
        """Return codes int32 `(batch, *grid)`, labels int32 `(batch,)` and the plan, or None."""
        if isinstance(inputs, dict):
            labels = inputs.get("labels", labels)
            plan = inputs.get("plan", plan)
            inputs = inputs["codes"]
        for what, given, option in (
            ("labels", labels, "num_classes"),
            ("a plan", plan, "plan_shape"),
        ):
            wanted = getattr(self, option)
            if (given is None) != (wanted is None):
                need, got = ("needs", "none") if given is None else ("takes no", "some")
                raise ValueError(
                    f"A PixelCNN with {option}={wanted} {need} {what}. Received: {got}"
                )
        labels = None if labels is None else ops.cast(labels, "int32")
        return ops.cast(inputs, "int32"), labels, plan

    def call(self, inputs, labels=None, plan=None, training: bool | None = None):
        """Return float32 logits `(batch, *grid, num_codes)` of int codes `(batch, *grid)`."""
        codes, labels, plan = self._split(inputs, labels, plan)
        return self.features(codes, labels, plan, training=training)[-1]

    def features(self, codes, labels=None, plan=None, training: bool | None = None) -> list:
        """Return what every layer computes, the logits last.

        Args:
            codes: int32 `(batch, *grid)`.
            labels: int32 `(batch,)` or None.
            plan: float `(batch, *plan_shape)` or None.
            training: whether dropout is on.

        Returns:
            A list of tensors: the features of the last stack after the first convolution and after
            each block `(batch, *grid, filters)`, then the logits `(batch, *grid, num_codes)`.
        """
        if self.code_embedding is not None:
            inputs = self.code_embedding(codes)  # (batch, *grid, embedding_dim)
        else:
            inputs = ops.one_hot(codes, self.num_codes, dtype=self.compute_dtype)
        context = {"position": self.places(plan), "label": None}
        if labels is not None:
            context["label"] = self.label_embedding(labels)  # (batch, context_dim)
        stacks = [
            projection(convolution(inputs), **context)
            for convolution, projection in zip(
                self.first_convolutions, self.first_contexts, strict=True
            )
        ]
        if self.gated:
            return self._gated_features(stacks, context, training)
        features = ops.relu(stacks[0])
        outputs = [features]
        for index, block in enumerate(self.blocks):
            features = block(features, **context, training=training)
            if index < len(self.betweens):
                features = self.betweens[index](features)
            outputs.append(features)
        return [*outputs, self.logits_dense(features)]

    def places(self, plan=None):
        """What is known of each place: its embedding, and what the plan says of it.

        Args:
            plan: float `(batch, *plan_shape)` or None.

        Returns:
            `(1 or batch, *grid, context_dim)`, or None where nothing is known.
        """
        known = None
        if self.positions is not None:
            known = ops.cast(self.positions, self.compute_dtype)
        if plan is not None:
            planned = self.plan_network(plan)
            known = planned if known is None else known + planned
        return known

    def _gated_features(self, stacks, context, training):
        """`features` of the gated form, from the outputs of the first convolutions."""
        outputs = [stacks[-1]]
        skip = ops.zeros_like(stacks[-1])
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            if attention is not None:
                stacks = [*stacks[:-1], attention(stacks[-1], **context, training=training)]
            stacks, skip = block(stacks, skip, **context, training=training)
            outputs.append(stacks[-1])
        hidden = self.head(ops.relu(skip))
        return [*outputs, self.logits_dense(hidden)]

    def compute_output_shape(self, input_shape):
        """Return `(batch, *grid, num_codes)`."""
        shape = input_shape["codes"] if isinstance(input_shape, dict) else input_shape
        return (*shape, self.num_codes)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True, **kwargs
    ):
        """Return the cross-entropy in nats per code, and log it in bits.

        Args:
            x: what the model was called on: codes, or a dict with codes and labels.
            y: not used; the codes are their own target.
            y_pred: logits `(batch, *grid, num_codes)`.
            sample_weight: None, `(batch,)` or `(batch, *grid)`.
            training: whether label smoothing applies.
            **kwargs: not used.

        Raises:
            ValueError: if the model was compiled with a loss.
        """
        if self.loss is not None:
            raise ValueError(
                "PixelCNN trains on its own cross-entropy: compile it without a loss. "
                f"Received: loss={self.loss}"
            )
        codes = ops.cast(x["codes"] if isinstance(x, dict) else x, "int32")
        log_p = ops.log_softmax(ops.cast(y_pred, "float32"), axis=-1)
        # A row per grid, and one for a replica without any: what is empty has no size to infer.
        rows = ops.shape(codes)[0]
        rows = max(rows, 1) if isinstance(rows, int) else ops.maximum(rows, 1)
        nats = ops.reshape(-_pick(log_p, codes), (rows, -1))
        weight = ops.ones_like(nats)
        if sample_weight is not None:
            # A weight per grid or per code; after both, TensorFlow no longer tells the rank.
            given = ops.reshape(ops.cast(sample_weight, "float32"), (rows, -1))
            weight = given * weight
        total = ops.sum(weight)
        mean = mean_over_replicas(ops.sum(weight * nats), total)
        self.bits_tracker.update_state(mean / math.log(2), sample_weight=total)
        if training and self.label_smoothing:
            spread = ops.reshape(-ops.mean(log_p, axis=-1), (rows, -1))
            even = mean_over_replicas(ops.sum(weight * spread), total)
            mean = (1 - self.label_smoothing) * mean + self.label_smoothing * even
        self._weighted_loss.update_state(mean, sample_weight=total)
        return mean / num_replicas()  # Keras sums the gradients of replicas

    def get_metrics_result(self):
        """Returns the metrics, `loss` as the mean by weights over all batches.

        That of Keras is one by the numbers of samples.
        """
        results = super().get_metrics_result()
        weighted = results.pop("weighted_loss")
        return {**results, "loss": weighted}

    def _target(self, x, y, sample_weight):
        """Checks arrays that the model is to be called on, before Keras makes batches of them."""
        given = x if isinstance(x, dict) else {"codes": x}
        limits = {"codes": self.num_codes, "labels": self.num_classes}
        for name, limit in limits.items():
            values = given.get(name)
            if limit is None or not isinstance(values, np.ndarray) or not values.size:
                continue
            if not (values.min() >= 0 and values.max() < limit):  # NaN is not either
                raise UserError(
                    f"{name}: found values in [{values.min()}, {values.max()}], "
                    f"want integers in [0, {limit})"
                )
        return super()._target(x, y, sample_weight)

    def _check_codes(self, codes, name="codes"):
        """Return `codes` as int32 `(n, *grid)` or raise a UserError."""
        codes = np.asarray(codes)
        expected = f"integers (n, {', '.join(map(str, self.grid_shape))}) in [0, {self.num_codes})"
        if codes.shape[1:] != self.grid_shape or codes.dtype.kind not in "iu":
            raise UserError(f"{name}: found {codes.dtype} of shape {codes.shape}, want {expected}")
        if codes.size and (codes.min() < 0 or codes.max() >= self.num_codes):
            raise UserError(
                f"{name}: found values in [{codes.min()}, {codes.max()}], want {expected}"
            )
        return codes.astype("int32")

    def _check_labels(self, labels, n):
        """Return `labels` as int32 `(n,)`, or None for an unconditional prior."""
        if self.num_classes is None:
            if labels is not None:
                raise UserError("labels: given, but this prior was made with num_classes=None")
            return None
        if labels is None:
            raise UserError(f"labels: none given, want integers in [0, {self.num_classes})")
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu" or labels.shape not in ((), (n,)):
            raise UserError(
                f"labels: found {labels.dtype} of shape {labels.shape}, want one integer or ({n},)"
            )
        if labels.size and (labels.min() < 0 or labels.max() >= self.num_classes):
            raise UserError(
                f"labels: found values in [{labels.min()}, {labels.max()}], "
                f"want [0, {self.num_classes})"
            )
        return np.broadcast_to(labels, (n,)).astype("int32")

    def _check_plan(self, plan, n):
        """Return `plan` as an array `(n, *plan_shape)`, or None for a prior without one."""
        if (plan is None) != (self.plan_shape is None):
            raise UserError(
                f"plan: found {'none' if plan is None else 'some'}, but this prior was made with "
                f"plan_shape={self.plan_shape}"
            )
        if plan is None:
            return None
        plan = np.asarray(plan)
        if plan.shape != (n, *self.plan_shape):
            raise UserError(f"plan: found shape {plan.shape}, want {(n, *self.plan_shape)}")
        return plan

    @staticmethod
    def _part_of_plan(plan, start, stop):
        """Return some rows of `plan` as float32; all at once might not fit into memory."""
        if plan is None:
            return None
        part = np.asarray(plan[start:stop], "float32")
        if not np.isfinite(part).all():
            raise UserError("plan: found values that are not finite, want numbers")
        return part

    def code_log_prob(
        self,
        codes: np.ndarray,
        labels: np.ndarray | int | None = None,
        batch_size: int = 64,
        context: np.ndarray | None = None,
        plan: np.ndarray | None = None,
    ) -> np.ndarray:
        """Log-probability of every code given the earlier ones.

        Args:
            codes: int `(n, *grid)`.
            labels: int `(n,)` or one integer, where the prior is conditional.
            batch_size: grids per call of the network.
            context: int `(n, *grid)`: the earlier codes are taken from here instead of from
                `codes`, such as from a grid in which some were replaced.
            plan: float `(n, *plan_shape)`, where the prior draws by a plan.

        Returns:
            float32 NumPy array `(n, *grid)`, in nats.

        Raises:
            UserError: if codes or labels have a wrong shape, type or range.
        """
        codes = self._check_codes(codes)
        labels = self._check_labels(labels, len(codes))
        plan = self._check_plan(plan, len(codes))
        context = codes if context is None else self._check_codes(context, "context")
        function = self._functions.get(
            "log_prob", lambda: compile_function(self._code_log_prob, owner=self)
        )
        out = np.empty(codes.shape, "float32")
        for start, stop, padded in batches_of(len(codes), batch_size):
            arguments = [
                None if part is None else padded_to(part[start:stop], padded)
                for part in (codes, context, labels)
            ]
            planned = self._part_of_plan(plan, start, stop)
            arguments.append(None if planned is None else padded_to(planned, padded))
            values = ops.convert_to_numpy(function(*arguments))
            out[start:stop] = values[: stop - start]
        return out

    def _code_log_prob(self, codes, context, labels, plan):
        logits = self.features(context, labels, plan, training=False)[-1]
        return _pick(ops.log_softmax(logits, axis=-1), codes)

    def log_prob(
        self,
        codes: np.ndarray,
        labels: np.ndarray | int | None = None,
        batch_size: int = 64,
        plan: np.ndarray | None = None,
    ) -> np.ndarray:
        """Log-probability of whole grids.

        Args:
            codes: int `(n, *grid)`.
            labels: int `(n,)` or one integer, where the prior is conditional.
            batch_size: grids per call of the network.
            plan: float `(n, *plan_shape)`, where the prior draws by a plan.

        Returns:
            float32 NumPy array `(n,)`, in nats per grid, given the plan.
        """
        by_code = self.code_log_prob(codes, labels, batch_size, plan=plan).astype("float64")
        return by_code.reshape(len(by_code), -1).sum(axis=1).astype("float32")

    def bits_per_code(
        self,
        codes: np.ndarray,
        labels: np.ndarray | int | None = None,
        batch_size: int = 64,
        plan: np.ndarray | None = None,
    ) -> float:
        """Mean of -log2 p over all codes given, as a float.

        Args:
            codes: int `(n, *grid)`, with at least one grid.
            labels: int `(n,)` or one integer, where the prior is conditional.
            batch_size: grids per call of the network.
            plan: float `(n, *plan_shape)`, where the prior draws by a plan; its own bits
                (`GaussianPlan.bits`) are not counted here.
        """
        by_code = self.code_log_prob(codes, labels, batch_size, plan=plan)
        return float(-by_code.mean(dtype="float64") / math.log(2))

    def endpoints(self, inputs=None) -> dict:
        """What `export` writes: `serve` gives the logits, `log_prob` nats per code.

        Both take int32 codes `(n, *grid)`, or a dict of what the prior is called on.

        Args:
            inputs: `keras.InputSpec` of codes, or a dict of them. Default: any number of grids.

        Returns:
            See `Exports.endpoints`.
        """
        if inputs is None:
            shapes = self._input_shapes()
            named = shapes if isinstance(shapes, dict) else {"codes": shapes}
            inputs = {
                name: keras.InputSpec(
                    shape=shape, dtype="float32" if name == "plan" else "int32", name=name
                )
                for name, shape in named.items()
            }
            inputs = inputs if len(inputs) > 1 else inputs["codes"]

        def log_prob(x):
            codes, labels, plan = self._split(x)
            return self._code_log_prob(codes, codes, labels, plan)

        return {
            "serve": (lambda x: self(x, training=False), inputs),
            "log_prob": (log_prob, inputs),
        }

    def get_config(self):
        """Return every constructor argument."""
        config = super().get_config()
        config.update(
            grid_shape=self.grid_shape,
            num_codes=self.num_codes,
            filters=self.filters,
            num_blocks=self.num_blocks,
            kernel_size=self.kernel_size,
            first_kernel_size=self.first_kernel_size,
            gated=self.gated,
            num_classes=self.num_classes,
            embedding_dim=self.embedding_dim,
            position_embedding=self.position_embedding,
            dropout=self.dropout,
            label_smoothing=self.label_smoothing,
            plan_shape=None if self.plan_shape is None else tuple(self.plan_shape),
            plan=None if self.plan is None else keras.saving.serialize_keras_object(self.plan),
            attention_every=self.attention_every,
        )
        return config

    @classmethod
    def from_config(cls, config):
        """Return a prior of the arguments that `get_config` gave."""
        plan = config.get("plan")
        if isinstance(plan, dict):
            config = {**config, "plan": keras.saving.deserialize_keras_object(plan)}
        return cls(**config)


def _pick(log_p, codes):
    """Return `log_p[..., code]`: `(batch, *grid, num_codes)` and `(batch, *grid)` to the latter."""
    return ops.squeeze(ops.take_along_axis(log_p, ops.expand_dims(codes, -1), axis=-1), -1)


def _checked_grid(grid_shape):
    sizes = wholes("grid_shape", grid_shape)
    if len(sizes) not in (1, 2, 3):
        raise ValueError(
            "`grid_shape` must be one to three positive integers. "
            f"Received: grid_shape={grid_shape}"
        )
    return sizes


def _odd(name, value, smallest):
    if whole(name, value, smallest) % 2 == 0:
        raise ValueError(
            f"`{name}` must be an odd integer, {smallest} or more. Received: {name}={value}"
        )
    return int(value)
