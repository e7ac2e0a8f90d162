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

from brainvq.arguments import number, whole
from brainvq.backend import compile_function, mean_over_replicas, num_replicas
from brainvq.errors import UserError
from brainvq.layers.masked_convolution import MASKED_CONVOLUTIONS, CausalConv
from brainvq.models import pixelcnn_sampler
from brainvq.models.own_target import OwnTarget
from brainvq.models.pixelcnn_blocks import ContextProjection, GatedBlock, PlainBlock


@keras.saving.register_keras_serializable(package="brainvq")
class PixelCNN(OwnTarget, keras.Model):
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
        label_smoothing: share in [0, 1) of the target that the training loss spreads evenly over
            all codes; `bits_per_code` is always that of the true codes.

    Input: int `(batch, *grid)`, or a dict with `codes` and `labels` (int `(batch,)`). Output:
    float32 logits `(batch, *grid, num_codes)` whatever the dtype policy.

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
        self._make_layers()
        self.bits_tracker = keras.metrics.Mean(name="bits_per_code")
        self._weighted_loss = keras.metrics.Mean(name="weighted_loss")
        self._functions = _Functions()
        self.build(None)

    def _make_layers(self):
        """Makes all layers, in the order in which they draw their initial weights."""
        policy = self.dtype_policy
        context = {"position": self.position_embedding, "label": self.num_classes is not None}
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
        for convolution in self.first_convolutions:
            convolution.build((*grid, channels))
        for context in self.first_contexts:
            context.build(self.context_dim)
        for block in self.blocks:
            block.build(self.context_dim)
        for between in self.betweens:
            between.build((*grid, self.filters))
        if self.head is not None:
            self.head.build((*grid, self.filters))
        self.logits_dense.build((*grid, self.filters))
        self.built = True

    def _split(self, inputs, labels=None):
        """Return codes int32 `(batch, *grid)` and labels int32 `(batch,)` or None."""
        if isinstance(inputs, dict):
            labels = inputs.get("labels", labels)
            inputs = inputs["codes"]
        if (labels is None) != (self.num_classes is None):
            need, got = ("needs", "none") if labels is None else ("takes no", "some")
            raise ValueError(
                f"A PixelCNN with num_classes={self.num_classes} {need} labels. Received: {got}"
            )
        return ops.cast(inputs, "int32"), None if labels is None else ops.cast(labels, "int32")

    def call(self, inputs, labels=None, training: bool | None = None):
        """Return float32 logits `(batch, *grid, num_codes)` of int codes `(batch, *grid)`."""
        codes, labels = self._split(inputs, labels)
        return self.features(codes, labels, training=training)[-1]

    def features(self, codes, labels=None, training: bool | None = None) -> list:
        """Return what every layer computes, the logits last.

        Args:
            codes: int32 `(batch, *grid)`.
            labels: int32 `(batch,)` or None.
            training: whether dropout is on.

        Returns:
            A list of tensors: the features of the last stack after the first convolution and after
            each block `(batch, *grid, filters)`, then the logits `(batch, *grid, num_codes)`.
        """
        if self.code_embedding is not None:
            inputs = self.code_embedding(codes)  # (batch, *grid, embedding_dim)
        else:
            inputs = ops.one_hot(codes, self.num_codes, dtype=self.compute_dtype)
        context = {"position": None, "label": None}
        if self.positions is not None:
            context["position"] = ops.cast(self.positions, self.compute_dtype)
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

    def _gated_features(self, stacks, context, training):
        """`features` of the gated form, from the outputs of the first convolutions."""
        outputs = [stacks[-1]]
        skip = ops.zeros_like(stacks[-1])
        for block in self.blocks:
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

    def code_log_prob(
        self,
        codes: np.ndarray,
        labels: np.ndarray | int | None = None,
        batch_size: int = 64,
        context: np.ndarray | None = None,
    ) -> np.ndarray:
        """Log-probability of every code given the earlier ones.

        Args:
            codes: int `(n, *grid)`.
            labels: int `(n,)` or one integer, where the prior is conditional.
            batch_size: grids per call of the network.
            context: int `(n, *grid)`: the earlier codes are taken from here instead of from
                `codes`, such as from a grid in which some were replaced.

        Returns:
            float32 NumPy array `(n, *grid)`, in nats.

        Raises:
            UserError: if codes or labels have a wrong shape, type or range.
        """
        codes = self._check_codes(codes)
        labels = self._check_labels(labels, len(codes))
        context = codes if context is None else self._check_codes(context, "context")
        function = self._functions.get(
            "log_prob", lambda: compile_function(self._code_log_prob, owner=self)
        )
        out = np.empty(codes.shape, "float32")
        for start, stop, padded in _batches(len(codes), batch_size):
            arguments = [_padded(part[start:stop], padded) for part in (codes, context)]
            if labels is not None:
                arguments.append(_padded(labels[start:stop], padded))
            values = ops.convert_to_numpy(function(*arguments))
            out[start:stop] = values[: stop - start]
        return out

    def _code_log_prob(self, codes, context, labels=None):
        logits = self.features(context, labels, training=False)[-1]
        return _pick(ops.log_softmax(logits, axis=-1), codes)

    def log_prob(
        self, codes: np.ndarray, labels: np.ndarray | int | None = None, batch_size: int = 64
    ) -> np.ndarray:
        """Log-probability of whole grids.

        Args:
            codes: int `(n, *grid)`.
            labels: int `(n,)` or one integer, where the prior is conditional.
            batch_size: grids per call of the network.

        Returns:
            float32 NumPy array `(n,)`, in nats per grid.
        """
        by_code = self.code_log_prob(codes, labels, batch_size).astype("float64")
        return by_code.reshape(len(by_code), -1).sum(axis=1).astype("float32")

    def bits_per_code(
        self, codes: np.ndarray, labels: np.ndarray | int | None = None, batch_size: int = 64
    ) -> float:
        """Mean of -log2 p over all codes given, as a float.

        Args:
            codes: int `(n, *grid)`, with at least one grid.
            labels: int `(n,)` or one integer, where the prior is conditional.
            batch_size: grids per call of the network.
        """
        by_code = self.code_log_prob(codes, labels, batch_size)
        return float(-by_code.mean(dtype="float64") / math.log(2))

    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        labels: np.ndarray | int | None = None,
        method: str = "cached",
        batch_size: int = 16,
        known_codes: np.ndarray | None = None,
        known_mask: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw code grids.

        Each code is the argmax of (filtered logits / temperature + Gumbel noise), and the noise of
        all codes is drawn beforehand from `seed`. So the same seed gives the same codes with either
        method, any batch size and, up to rounding, either backend.

        Args:
            n: number of grids.
            temperature: divides the logits; 0 always takes the most probable code.
            top_k: keep only this many of the most probable codes, or None.
            top_p: keep only the smallest set of most probable codes whose probability (after
                temperature and `top_k`) reaches this share, in (0, 1], or None.
            seed: integer, or None for fresh noise.
            labels: one class, or `n` of them, where the prior is conditional.
            method: "cached", or "naive": a call of the network for each code, the slow reference.
            batch_size: grids drawn at once.
            known_codes: int `(n, *grid)`, codes taken as they are where `known_mask` is True: the
                rest is drawn given the known codes that come earlier in raster order.
            known_mask: bool `(n, *grid)`.

        Returns:
            int32 NumPy array `(n, *grid)`.

        Raises:
            UserError: if an argument is out of its range.
        """
        _check_sampling(n, temperature, top_k, top_p, method)
        n = int(n)
        labels = self._check_labels(labels, n)
        known = self._known(n, known_codes, known_mask)
        generator = np.random.default_rng(seed)
        options = {
            "top_k": None if top_k is None or top_k >= self.num_codes else int(top_k),
            "nucleus": top_p is not None and top_p < 1,
            "greedy": temperature == 0,
        }
        # Tensors rather than constants of the program, so that another value compiles nothing.
        scalars = [np.float32(temperature or 1.0), np.float32(1.0 if top_p is None else top_p)]
        draw = self._draw_cached if method == "cached" else self._draw_naive
        codes = np.empty((n, *self.grid_shape), "int32")
        given = [known] if labels is None else [known, labels]
        for start, stop, padded in _batches(n, batch_size):
            noise = self._noise(generator, stop - start, options["greedy"])
            batch = [noise, *(part[start:stop] for part in given)]
            batch = [_padded(part, padded) for part in batch]
            codes[start:stop] = draw(batch, scalars, options)[: stop - start]
        return codes

    def _known(self, n, codes, mask):
        """Codes that are known beforehand, int32 `(n, positions)`, -1 for those to be drawn."""
        if (codes is None) != (mask is None):
            raise UserError("known_codes, known_mask: found one of them, want both or neither")
        known = np.full((n, *self.grid_shape), -1, "int32")
        if codes is not None:
            mask = np.broadcast_to(mask, known.shape).astype(bool)
            codes = np.broadcast_to(codes, known.shape)
            known[mask] = self._check_codes(codes, "known_codes")[mask]
        return known.reshape(n, math.prod(self.grid_shape))

    def _noise(self, generator, n, greedy):
        """Draw standard Gumbel noise `(n, positions, num_codes)`, float32; one zero if greedy."""
        shape = (n, math.prod(self.grid_shape), 1 if greedy else self.num_codes)
        if greedy:
            return np.zeros(shape, "float32")
        noise = generator.standard_exponential(shape, dtype="float32")
        # Minus the logarithm of an exponential variable is a Gumbel one; zero has no logarithm.
        np.maximum(noise, np.finfo("float32").tiny, out=noise)
        np.log(noise, out=noise)
        return np.negative(noise, out=noise)

    def _draw_cached(self, batch, scalars, options):
        def make():
            def cached(noise, known, labels, temperature, top_p):
                choose = pixelcnn_sampler.Chooser(temperature, top_p, **options)
                return pixelcnn_sampler.decode(self, choose, noise, known, labels)[0]

            return compile_function(cached, owner=self)

        function = self._functions.get(("cached", batch[0].shape, *options.values()), make)
        noise, known, *labels = batch
        return ops.convert_to_numpy(function(noise, known, labels[0] if labels else None, *scalars))

    def _draw_naive(self, batch, scalars, options):
        def make():
            def naive(index, noise, known, codes, labels, temperature, top_p):
                choose = pixelcnn_sampler.Chooser(temperature, top_p, **options)
                logits = self.features(codes, labels, training=False)[-1]
                logits = ops.reshape(logits, (codes.shape[0], -1, self.num_codes))
                return choose(ops.take(logits, index, axis=1), noise, known)

            return compile_function(naive, owner=self)

        function = self._functions.get(("naive", batch[0].shape, *options.values()), make)
        noise, known, *labels = batch
        codes = np.zeros((len(known), *self.grid_shape), "int32")
        flat = codes.reshape(known.shape)
        for index in range(known.shape[1]):
            chosen = function(
                np.int32(index),
                noise[:, index],
                known[:, index],
                codes,
                labels[0] if labels else None,
                *scalars,
            )
            flat[:, index] = ops.convert_to_numpy(chosen)
        return codes

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
        )
        return config


class _Functions:
    """Compiled functions of a model by key; a plain object, so that Keras does not track them."""

    def __init__(self):
        self.functions = {}

    def get(self, key, make):
        """Return the function of `key`, made by `make()` at the first use."""
        if key not in self.functions:
            self.functions[key] = make()
        return self.functions[key]

    def __deepcopy__(self, memo):
        # Compiled functions belong to one model and cannot be copied.
        return _Functions()

    def __reduce__(self):
        return (_Functions, ())


def _pick(log_p, codes):
    """Return `log_p[..., code]`: `(batch, *grid, num_codes)` and `(batch, *grid)` to the latter."""
    return ops.squeeze(ops.take_along_axis(log_p, ops.expand_dims(codes, -1), axis=-1), -1)


def _batches(n, batch_size):
    """Yield `(start, stop, padded size)`; few different sizes, so that few programs compile."""
    for start in range(0, n, batch_size):
        stop = min(start + batch_size, n)
        size = stop - start
        padded = batch_size if n > batch_size else min(1 << (size - 1).bit_length(), batch_size)
        yield start, stop, padded


def _padded(array, size):
    """Append zeros along the first axis up to `size` rows."""
    missing = size - len(array)
    if missing == 0:
        return array
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])


def _checked_grid(grid_shape):
    sizes = tuple(whole("grid_shape", size) for size in grid_shape)
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


def _check_sampling(n, temperature, top_k, top_p, method):
    if int(n) != n or n < 0:
        raise UserError(f"n: found {n}, want an integer, 0 or more")
    if not 0 <= temperature < math.inf:
        raise UserError(f"temperature: found {temperature}, want a number, 0 or more")
    if top_k is not None and (int(top_k) != top_k or top_k < 1):
        raise UserError(f"top_k: found {top_k}, want an integer, 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p: found {top_p}, want a number in (0, 1]")
    if method not in ("cached", "naive"):
        raise UserError(f'method: found {method!r}, want "cached" or "naive"')
