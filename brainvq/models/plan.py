"""The plan of a brain: a coarse picture of the whole of it, drawn before its codes.

Codes of 8 x 8 pixels are drawn one after the other from what lies near; texture decides most of
their bits, and nothing makes both halves of a brain match. So a coarse picture is drawn first,
which fixes what is large (outline, ventricles, deep grey matter), and the codes are drawn given it,
as the upper level of a hierarchy (Razavi et al. 2019, "Generating Diverse High-Fidelity Images with
VQ-VAE-2"). Here it needs no network: coarse brains are Gaussian in their principal components
(Tipping and Bishop 1999, "Probabilistic Principal Component Analysis"), which fifty people fix.
"""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number, whole, wholes


@keras.saving.register_keras_serializable(package="brainvq")
class GaussianPlan(keras.layers.Layer):
    """A Gaussian over coarse brains, each a stack of slices, in their principal components.

    A stack holds the slices of one brain at even heights, from 0, the lowest, to 1, the highest,
    averaged over cells of some pixels. `fit` takes the stacks of training people; `draw` gives
    coefficients of new ones; `context` renders what a `PixelCNN(plan=...)` takes for one slice of
    each: the coarse slice, the one `reach` below and above, and its height as a constant channel.

    Args:
        shape: `(heights, rows, columns)` of a stack.
        rank: number of principal components, at most the number of stacks less one.
        reach: float, how far the slices beside it are, as a share of the brain's height.
        noise: float in (0, 1]: coefficients are known up to normal noise of this share of their
            standard deviation. It gives a plan a finite number of bits, and lets a prior that is
            trained on noisy plans pass over what they do not say.
        spacing: steps of a stack in mm between slices, rows and columns, as a mean over people; it
            is only kept here.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self, shape, rank: int, reach: float = 0.06, noise: float = 0.1, spacing=(1, 1, 1), **kwargs
    ):
        super().__init__(**{"trainable": False, "dtype": "float32", **kwargs})
        self.shape = wholes("shape", shape)
        if len(self.shape) != 3:
            raise ValueError(f"`shape` must be three sizes. Received: shape={shape}")
        self.rank = whole("rank", rank)
        self.reach = number("reach", reach, 0, 1)
        self.noise = number("noise", noise, 0, 1, above=True)
        if not isinstance(spacing, list | tuple | np.ndarray) or len(spacing) != 3:
            raise ValueError(f"`spacing` must be three steps. Received: spacing={spacing!r}")
        self.spacing = tuple(float(number("spacing", step, 0, above=True)) for step in spacing)
        self.build()

    @property
    def context_shape(self):
        """Shape of what `context` gives of a slice: `(rows, columns, 4)`."""
        return (*self.shape[1:], 4)

    def build(self, input_shape=None):
        """Make the mean, the components and their standard deviations; `fit` sets them."""
        if self.built:
            return
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: self.rank})
        size = int(np.prod(self.shape))
        self.mean = self.add_weight(shape=(size,), initializer="zeros", name="mean")
        self.components = self.add_weight(
            shape=(self.rank, size), initializer="zeros", name="components"
        )
        self.deviations = self.add_weight(shape=(self.rank,), initializer="ones", name="deviations")
        self.built = True

    def call(self, coefficients):
        """Return stacks `(n, *shape)` of coefficients `(n, rank)`."""
        stacks = self.mean + ops.matmul(ops.cast(coefficients, "float32"), self.components)
        return ops.reshape(stacks, (-1, *self.shape))

    def compute_output_shape(self, input_shape):
        """Return `(n, *shape)`."""
        return (input_shape[0], *self.shape)

    def fit(self, stacks: np.ndarray):
        """Take the mean and the first principal components of stacks.

        Args:
            stacks: float `(n, *shape)`, one for each brain, in [0, 1].

        Raises:
            ValueError: if there are not more stacks than `rank`, or they have another shape.
        """
        stacks = np.asarray(stacks, "float64")
        if stacks.shape[1:] != self.shape or len(stacks) <= self.rank:
            raise ValueError(
                f"`stacks` must be more than rank={self.rank} of shape {self.shape}. "
                f"Received: shape={stacks.shape}"
            )
        if not np.isfinite(stacks).all():
            raise ValueError("`stacks` must be finite. Received: other values")
        flat = stacks.reshape(len(stacks), -1)
        mean = flat.mean(axis=0)
        # The small product of people with people gives the same components as the large one.
        values, vectors = np.linalg.eigh((flat - mean) @ (flat - mean).T)
        values, vectors = values[::-1][: self.rank], vectors[:, ::-1][:, : self.rank]
        lengths = np.sqrt(np.maximum(values, 1e-12))
        components = (vectors / lengths).T @ (flat - mean)
        # An eigenvector has either sign; the largest entry is made positive, on every machine.
        largest = np.abs(components).argmax(axis=1)
        components *= np.sign(components[np.arange(self.rank), largest])[:, None]
        self.mean.assign(mean)
        self.components.assign(components)
        self.deviations.assign(np.maximum(lengths / np.sqrt(len(stacks) - 1), 1e-6))

    def project(self, stacks: np.ndarray) -> np.ndarray:
        """Return the coefficients float32 `(n, rank)` of stacks `(n, *shape)`."""
        flat = np.asarray(stacks, "float32").reshape(len(stacks), -1)
        return (flat - _array(self.mean)) @ _array(self.components).T

    def blurred(self, coefficients: np.ndarray, seed) -> np.ndarray:
        """Return coefficients `(n, rank)` with the noise up to which they are known."""
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal(np.shape(coefficients)).astype("float32")
        return coefficients + self.noise * _array(self.deviations) * noise

    def draw(self, n: int, seed=None, temperature: float = 1.0) -> np.ndarray:
        """Draw coefficients of new brains.

        Args:
            n: int, how many.
            seed: int, or None for fresh ones.
            temperature: float, factor of the standard deviations; 0 gives the mean brain.

        Returns:
            float32 `(n, rank)`.

        Raises:
            ValueError: if `n` or `temperature` is out of its range.
        """
        n, temperature = whole("n", n), number("temperature", temperature)
        normal = np.random.default_rng(seed).standard_normal((n, self.rank)).astype("float32")
        return temperature * _array(self.deviations) * normal

    def bits(self, coefficients: np.ndarray) -> np.ndarray:
        """Return what plans cost: divergence of what is known of them from the prior, in bits.

        Args:
            coefficients: float `(n, rank)`, of which normal noise of share `noise` is not known.

        Returns:
            float64 `(n,)`: the bits of one whole brain each, to be shared by all its slices.
        """
        share = np.asarray(coefficients, "float64") / _array(self.deviations)
        spread = self.noise**2
        nats = 0.5 * (share**2 + spread - 1 - np.log(spread)).sum(axis=-1)
        return nats / np.log(2)

    def context(self, coefficients: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Render one slice of each plan, as a prior takes it.

        Args:
            coefficients: float `(n, rank)`.
            heights: float `(n,)` in [0, 1].

        Returns:
            float32 `(n, *context_shape)`.
        """
        heights = np.asarray(heights, "float32")
        count, (last, *size) = len(heights), (self.shape[0] - 1, *self.shape[1:])
        mean = _array(self.mean).reshape(self.shape)
        components = _array(self.components).reshape(self.rank, *self.shape)
        result = np.empty((count, *self.context_shape), "float32")
        result[..., 3] = heights[:, None, None]
        for channel, step in enumerate((-self.reach, 0, self.reach)):
            place = np.clip(heights + step, 0, 1) * last
            below = np.minimum(place.astype(int), last - 1) if last else np.zeros(count, int)
            share = (place - below)[:, None, None]
            # Slices of one height are rendered together: draws are often many of few heights.
            for index in np.unique(below):
                rows = below == index
                pair = []
                for level in (index, min(index + 1, last)):
                    flat = components[:, level].reshape(self.rank, -1)
                    pair.append(mean[level] + (coefficients[rows] @ flat).reshape(-1, *size))
                result[rows, ..., channel] = pair[0] * (1 - share[rows]) + pair[1] * share[rows]
        return result

    def get_config(self):
        """Return every constructor argument."""
        config = super().get_config()
        config.update(
            shape=self.shape,
            rank=self.rank,
            reach=self.reach,
            noise=self.noise,
            spacing=self.spacing,
        )
        return config


def stack_of(slices: np.ndarray, heights: np.ndarray, shape: tuple) -> np.ndarray:
    """Average the slices of one brain over cells, and bring them to even heights.

    Args:
        slices: float `(n, rows, columns)` or `(n, rows, columns, 1)`, lowest first.
        heights: float `(n,)` in [0, 1], ascending.
        shape: `(heights, rows, columns)` of the result; its rows and columns divide those of the
            slices.

    Returns:
        float32 array of that shape.
    """
    low = coarse(slices, shape[1:])
    wanted = np.linspace(0, 1, shape[0])
    if len(low) == 1:
        return np.repeat(low, shape[0], axis=0)
    below = np.clip(np.searchsorted(heights, wanted, side="right") - 1, 0, len(low) - 2)
    gap = np.maximum(heights[below + 1] - heights[below], 1e-6)
    share = np.clip((wanted - heights[below]) / gap, 0, 1).astype("float32")[:, None, None]
    return low[below] * (1 - share) + low[below + 1] * share


def coarse(slices: np.ndarray, size: tuple) -> np.ndarray:
    """Average slices `(n, rows, columns[, 1])` over cells; returns float32 `(n, *size)`."""
    slices = np.asarray(slices, "float32")
    rows, columns = size
    cells = slices.reshape(len(slices), rows, -1, columns, slices.shape[2] // columns)
    return cells.mean(axis=(2, 4))


def _array(variable):
    return ops.convert_to_numpy(variable)
