"""Which codes an epoch used."""

import keras
from keras import ops

from brainvq.arguments import whole
from brainvq.layers.quantizer import count_codes


@keras.saving.register_keras_serializable(package="brainvq")
class CodeUsage(keras.metrics.Metric):
    """Counts codes over an epoch.

    `result()` is a dict: `codes_used`, the number of codes that occurred, and `perplexity`,
    exp(entropy of the code frequencies), from 1 to `num_codes`. The perplexity of a single batch
    understates usage; therefore counts are summed until `reset_state`. With a `depth`, the stages
    are counted apart: `codes_used` is the mean over them, `perplexity` the geometric mean, so that
    depth · log2(perplexity) bits are the sum of their entropies.

    Args:
        num_codes: int, the number of codes K.
        depth: int, number of stages on the last axis of the codes; None (default) where there is no
            such axis. See `ResidualQuantizer`.
        name: str.
        **kwargs: `dtype`, ignored: counts are float32, exact to 2²⁴ per code and close above.
    """

    def __init__(
        self, num_codes: int, depth: int | None = None, name: str = "code_usage", **kwargs
    ):
        kwargs["dtype"] = "float32"
        super().__init__(name=name, **kwargs)
        self.num_codes = whole("num_codes", num_codes)
        self.depth = None if depth is None else whole("depth", depth)
        shape = (self.num_codes,) if depth is None else (self.depth, self.num_codes)
        self.counts = self.add_variable(shape, initializer="zeros", name="counts")

    def update_state(self, codes, sample_weight=None, mask=None):
        """Adds `codes`, int in 0 … num_codes − 1, of any shape `(...)`, or `(..., depth)`.

        Sample weights do not matter. `mask`, bool `(...)`, is False where codes do not count.
        """
        del sample_weight
        codes, rows = ops.cast(codes, "int32"), self.depth or 1
        if self.depth is not None:
            codes = codes + self.num_codes * ops.arange(rows, dtype="int32")  # a table per stage
        weights = None
        if mask is not None:
            weights = ops.cast(mask, "float32")
            weights = weights if self.depth is None else weights[..., None]
            weights = ops.reshape(ops.broadcast_to(weights, ops.shape(codes)), (-1,))
        counts = count_codes(ops.reshape(codes, (-1,)), rows * self.num_codes, weights)
        self.counts.assign_add(ops.reshape(counts, self.counts.shape))

    def result(self):
        """Returns `{"codes_used": float32 scalar, "perplexity": float32 scalar}`."""
        counts = ops.convert_to_tensor(self.counts)  # (num_codes,) or (depth, num_codes)
        frequencies = counts / ops.maximum(ops.sum(counts, axis=-1, keepdims=True), 1.0)
        entropy = -ops.sum(frequencies * ops.log(ops.maximum(frequencies, 1e-30)), axis=-1)
        used = ops.sum(ops.cast(counts > 0, "float32"), axis=-1)
        return {"codes_used": ops.mean(used), "perplexity": ops.exp(ops.mean(entropy))}

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "num_codes": self.num_codes, "depth": self.depth}


class MaskOf(keras.layers.Layer):
    """Returns the mask of a tensor, or None: the one public way to it on every backend."""

    def __init__(self):
        super().__init__(name="mask_of")
        self.supports_masking = True

    def call(self, x, mask=None):
        """Returns the mask that a layer gave `x`."""
        del x
        return mask

    def compute_mask(self, inputs, previous_mask):
        """A mask has none."""
