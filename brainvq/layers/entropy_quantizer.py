"""Scalar quantisation of coefficients whose spread is known: common codes cost few bits."""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number, whole
from brainvq.layers.bottleneck import Bottleneck
from brainvq.layers.quantizer import straight_through

# Ratios of step to scale that are told apart, an eighth of an octave each; class 0 is never coded.
CLASSES = 96
_SHARE = 65536  # probabilities are whole numbers of this
# How many people the variance of a channel over all cells counts for beside that of its own cell.
_SHRINKAGE = 30


@keras.saving.register_keras_serializable(package="brainvq")
class EntropyQuantizer(Bottleneck):
    """Rounds each channel of each cell to multiples of one step, with a model of the codes' bits.

    Transform coding with entropy-coded scalar quantisation (Goyal 2001, "Theoretical foundations of
    transform coding"; Sullivan 1996 for the dead zone): a channel c of a cell becomes

        n = sign(c) ⌊|c| / step + rounding⌋,   code = n + (levels − 1) / 2,

    and decodes to the mean of a Laplace distribution over the interval that was rounded. The scale
    of that distribution is known for every cell and channel (`fit`), and so are the bits of each
    code: where little varies, a code is nearly always that of 0 and costs next to nothing. An
    arithmetic coder turns `tables` and codes into so many bits (`brainvq.data.pack_codes`).

    Nothing is trained: `fit` sets everything. The gradient passes straight through.

    Returns `{"quantized": float32 (batch, *grid, dim), "codes": int32 (batch, *grid, dim),
    "continuous": (batch, *grid, dim), "losses": {}}`; `continuous` is z.

    Args:
        channels: int ≥ 1, channels of z, and codes of a cell.
        levels: odd int ≥ 3, values of a code; what is beyond the last is cut to it. Default 255.
        rounding: float in (0, 0.5]: 0.5 takes the nearest multiple, less makes 0 more frequent.
            Default 0.4.
        **kwargs: see `Bottleneck`.

    Attributes:
        step: float32 weight.
        kilobits: float32 weight, mean bits of the samples of `fit`, in thousands.
        classes: float32 weight `(*grid, channels)` of whole numbers: the scale of a channel is
            step / 2**((class − 64) / 8); 0 stands for channels that are always 0.

    Raises:
        ValueError: if an argument is out of its range, or, in `build`, a size of the grid is not
            known or z has other channels.
    """

    def __init__(self, channels: int, levels: int = 255, rounding: float = 0.4, **kwargs):
        super().__init__(**kwargs)
        self.channels = whole("channels", channels)
        self.levels = whole("levels", levels, 3)
        if self.levels % 2 == 0:
            raise ValueError(f"`levels` must be odd. Received: levels={levels}")
        self.rounding = number("rounding", rounding, most=0.5, above=True)

    @property
    def num_codes(self) -> int:
        """Values of a code."""
        return self.levels

    @property
    def depth(self) -> int:
        """Codes of a cell: its channels."""
        return self.channels

    @property
    def sample_bits(self) -> float:
        """Mean bits of the samples of `fit`."""
        return 1000 * float(ops.convert_to_numpy(self.kilobits))

    def build(self, input_shape):
        """Creates step and classes for `input_shape` `(batch, *grid, channels)`."""
        super().build(input_shape)
        if None in input_shape[1:] or input_shape[-1] != self.channels:
            raise ValueError(
                f"z must have a known grid and {self.channels} channels. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.step = self.add_weight(shape=(), initializer="ones", trainable=False, name="step")
        # In thousands: halves of floats, in which a model may be handed on, end at 65,504.
        self.kilobits = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="kilobits"
        )
        self.classes = self.add_weight(
            shape=input_shape[1:],
            initializer=keras.initializers.Constant(64),  # scales of one step
            trainable=False,
            name="classes",
        )

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, channels)`; see the class for what is returned."""
        z, _ = self._masked(ops.cast(z, "float32"), mask)
        size = ops.floor(ops.abs(z) / self.step + self.rounding)
        size = ops.where(self.classes > 0, ops.minimum(size, self.levels // 2), 0.0)
        codes = ops.cast(ops.sign(z) * size, "int32") + self.levels // 2
        codes = ops.stop_gradient(codes)
        quantized = straight_through(z, self.codes_to_vectors(codes))
        return self._outputs(quantized, {}, codes, z)

    def codes_to_vectors(self, codes):
        """Values of codes: int `(batch, *grid, channels)` → float32 of that shape.

        Fewer channels than there are stand for the first of them; the others are 0.
        """
        channels = codes.shape[-1]
        values = ops.cast(codes, "float32") - self.levels // 2
        ratio = self._ratio(self.classes[..., :channels])
        # Mean of an exponential distribution over an interval of one step, from its lower end.
        beyond = 1.0 / ratio - 1.0 / (ops.exp(ratio) - 1.0)
        size = ops.abs(values) - self.rounding + beyond
        vectors = self.step * ops.where(values == 0, 0.0, ops.sign(values) * size)
        padding = [[0, 0]] * (len(vectors.shape) - 1) + [[0, self.channels - channels]]
        return ops.pad(vectors, padding)

    def fit(self, vectors: np.ndarray, bits: float, coded: np.ndarray | None = None) -> float:
        """Sets the scales by vectors, and the step such that they take `bits` each.

        The variance of a channel in a cell is drawn towards that of the channel times how much
        more varies in the cell than elsewhere: there are few people for each.

        Args:
            vectors: float `(n, *grid, channels)`, of a mean of about 0.
            bits: float > 0, mean bits of a sample.
            coded: bool `(*grid)`, cells that are coded; the others are always 0. Default: all.

        Returns:
            Mean bits of the codes of `vectors`.

        Raises:
            ValueError: if the vectors have another shape or are not finite.
        """
        vectors, bits = np.asarray(vectors, "float32"), number("bits", bits, above=True)
        if vectors.shape[1:] != tuple(self.classes.shape) or not np.isfinite(vectors).all():
            raise ValueError(
                f"`vectors` must be finite, of shape (n, {', '.join(map(str, self.classes.shape))})"
                f". Received: shape={vectors.shape}"
            )
        coded = np.ones(vectors.shape[1:-1], bool) if coded is None else np.asarray(coded, bool)
        scale = _scales(vectors, coded)
        low, high = (share * max(scale.max(), 1e-6) for share in (1e-4, 1e2))
        for _ in range(18):  # down to a ten-thousandth of the step
            step = float(np.sqrt(low * high))
            self.step.assign(step)
            self.classes.assign(_classes(step, scale))
            found = float(self.code_bits(self._numpy_codes(vectors)).mean())
            low, high = (step, high) if found > bits else (low, step)
        self.kilobits.assign(found / 1000)
        return found

    def _numpy_codes(self, vectors):
        step, classes = (ops.convert_to_numpy(w) for w in (self.step, self.classes))
        size = np.minimum(np.floor(np.abs(vectors) / step + self.rounding), self.levels // 2)
        values = np.sign(vectors) * np.where(classes > 0, size, 0)
        return values.astype("int32") + self.levels // 2

    def tables(self):
        """How probable codes are, in whole numbers of 1/65,536, for an arithmetic coder.

        Returns:
            Two int64 NumPy arrays `(*grid, channels)`: the probability that a value is 0, and that
            one that is at least n ≥ 1 in size is larger still. Where the first is 65,536 nothing is
            coded.
        """
        classes = ops.convert_to_numpy(self.classes).astype("int64")
        ratio = 2.0 ** ((np.arange(CLASSES) - 64) / 8)
        zero = np.round(_SHARE * -np.expm1(-(1 - self.rounding) * ratio)).astype("int64")
        more = np.round(_SHARE * np.exp(-ratio)).astype("int64")
        zero, more = (np.clip(table, 16, _SHARE - 16) for table in (zero, more))
        zero[0] = _SHARE
        return zero[classes], more[classes]

    def code_bits(self, codes: np.ndarray) -> np.ndarray:
        """Bits of the codes of samples by `tables`: those of an ideal arithmetic coder.

        Args:
            codes: int `(n, *grid, channels)`.

        Returns:
            Float64 `(n,)`.
        """
        zero, more = (table / _SHARE for table in self.tables())
        size = np.abs(np.asarray(codes, "int64") - self.levels // 2)
        with np.errstate(divide="ignore"):
            larger = 1 - np.log2(1 - zero) - np.log2(1 - more)  # with the bit of the sign
        bits = np.where(size == 0, -np.log2(zero), larger - (size - 1) * np.log2(more))
        return bits.sum(axis=tuple(range(1, bits.ndim)))

    def _ratio(self, classes):
        return ops.power(2.0, (classes - 64.0) / 8.0)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "channels": self.channels,
            "levels": self.levels,
            "rounding": self.rounding,
        }


def _scales(vectors, coded):
    """Laplace scales `(*grid, channels)` of vectors `(n, *grid, channels)`, 0 where not coded."""
    own = np.where(coded[..., None], np.mean(np.square(vectors, dtype="float64"), axis=0), 0.0)
    share = own.reshape(-1, own.shape[-1])[coded.ravel()].mean(axis=0)  # (channels,)
    share = np.where(share > 0, share, np.inf)
    cell = (own / share).mean(axis=-1, keepdims=True)
    usual = np.where(np.isfinite(share), share, 0) * cell
    count = len(vectors)
    variance = (count * own + _SHRINKAGE * usual) / (count + _SHRINKAGE)
    return np.where(coded[..., None], np.sqrt(variance / 2), 0.0)


def _classes(step, scale):
    """The class of each scale; 0 where a value other than 0 would be rarer than 1 in 65,536."""
    with np.errstate(divide="ignore"):
        exact = 64 + 8 * np.log2(step / scale)
    return np.where(exact < CLASSES - 1, np.clip(np.round(exact), 1, None), 0).astype("float32")
