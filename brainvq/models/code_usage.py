"""Which codes an epoch used."""

import keras
from keras import ops

from brainvq.layers.quantizer import count_codes


@keras.saving.register_keras_serializable(package="brainvq")
class CodeUsage(keras.metrics.Metric):
    """Counts codes over an epoch.

    `result()` is a dict: `codes_used`, the number of codes that occurred, and `perplexity`,
    exp(entropy of the code frequencies), from 1 to `num_codes`. The perplexity of a single batch
    understates usage; therefore counts are summed until `reset_state`.

    Args:
        num_codes: int, the number of codes K.
        name: str.
        **kwargs: `dtype`, ignored: counts are float32, exact to 2²⁴ per code and close above.
    """

    def __init__(self, num_codes, name="code_usage", **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(name=name, **kwargs)
        self.num_codes = num_codes
        self.counts = self.add_variable((num_codes,), initializer="zeros", name="counts")

    def update_state(self, codes, sample_weight=None):
        """Adds `codes`, int of any shape in 0 … num_codes − 1. Sample weights do not matter."""
        del sample_weight
        flat = ops.reshape(ops.cast(codes, "int32"), (-1,))
        self.counts.assign_add(count_codes(flat, self.num_codes))

    def result(self):
        """Returns `{"codes_used": float32 scalar, "perplexity": float32 scalar}`."""
        counts = ops.convert_to_tensor(self.counts)
        frequencies = counts / ops.maximum(ops.sum(counts), 1.0)
        entropy = -ops.sum(frequencies * ops.log(ops.maximum(frequencies, 1e-30)))
        used = ops.sum(ops.cast(counts > 0, "float32"))
        return {"codes_used": used, "perplexity": ops.exp(entropy)}

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "num_codes": self.num_codes}
