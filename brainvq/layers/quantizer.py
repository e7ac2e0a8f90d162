"""What the quantisers share: nearest codes, the gradient past them, k-means, the base class.

Vectors are float32 `(n, dim)` here, a codebook is `(num_codes, dim)`, codes are int32 `(n,)`.
"""

import functools
import logging

import keras
import numpy as np
from keras import ops

from brainvq.arguments import whole
from brainvq.backend import is_symbolic
from brainvq.layers.bottleneck import Bottleneck
from brainvq.layers.live_number import LiveNumber

logger = logging.getLogger("brainvq")

# The smallest positive float32 number of full precision: zero has no logarithm.
TINY = 1.1754944e-38
# The scores of all codes are in memory at once up to so many codes; of more, so many at a time of
# so many vectors, which stay in a processor's cache.
MOST_CODES, CHUNK, ROWS = 1024, 512, 2048
MOST_CHUNKS = 64  # each is operations of its own in a compiled program
PART = 128  # numbers for each vector at once, where all codes have a part in a result
# Each of the draws of k-means++ takes as long as there are codes: millions would take years.
MOST_DRAWN = 1 << 14
DISTANCES = ("euclidean", "cosine")
GRADIENTS = ("straight_through", "rotation")


def unit_length(x):
    """Scales float `x` `(..., dim)` to Euclidean length 1 along the last axis; zero stays zero."""
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-12))


def largest(scores):
    """Returns the largest number and its index, the first among equals.

    Of `(n, k)`, k ≥ 1, it gives float `(n,)` and int32 `(n,)`.
    """
    if keras.backend.backend() == "tensorflow":
        # Its `top_k` of one reads the scores once. Its argmax takes three times as long, and that
        # of Keras, which tells −0 from 0 by their bits, five times.
        values, found = ops.top_k(scores, 1)
        return values[..., 0], ops.cast(found[..., 0], "int32")
    values = ops.max(scores, axis=-1)
    # Of integers: among floats −0 and 0 would not be equals.
    found = ops.argmax(ops.cast(scores >= values[..., None], "int32"), axis=-1)
    return values, ops.cast(found, "int32")


def first_largest(scores):
    """Returns the index of the largest number, the first among equals: `(n, k)` → int32 `(n,)`."""
    if 0 in scores.shape:  # Keras refuses the maximum of nothing
        return ops.zeros(scores.shape[:-1], dtype="int32")
    return largest(scores)[1]


def nearest_codes(vectors, codebook):
    """Returns the index of the nearest codebook row by Euclidean distance, the first among equals.

    Of float32 vectors `(n, dim)` and a codebook `(num_codes, dim)` it gives int32 `(n,)`.
    argmin ‖z − e‖² = argmax (z·e − ‖e‖²/2), since ‖z‖² is the same for every code: one product
    of matrices, without the cancellation that ‖z‖² would bring. Both are moved by the codebook's
    mean first, which changes no distance: far from 0, rounding would choose among close codes.
    """
    if vectors.shape[0] == 0:  # PyTorch refuses the argmax of nothing
        return ops.zeros((0,), dtype="int32")
    # No gradient passes an index, and nothing below need be kept for one.
    vectors, codebook = ops.stop_gradient(vectors), ops.stop_gradient(codebook)
    centre = ops.mean(codebook, axis=0)
    vectors, codebook = vectors - centre, codebook - centre
    offsets = 0.5 * ops.sum(ops.square(codebook), axis=-1)
    codebook, num_codes = ops.transpose(codebook), codebook.shape[0]
    if num_codes <= MOST_CODES:
        return first_largest(ops.matmul(vectors, codebook) - offsets)  # of (n, num_codes)
    size = max(CHUNK, -(-num_codes // MOST_CHUNKS))
    parts = [slice(start, start + size) for start in range(0, num_codes, size)]

    def nearest(rows):
        best, codes = None, None
        for part in parts:
            highest, found = largest(ops.matmul(rows, codebook[:, part]) - offsets[part])
            if best is None:
                best, codes = highest, found
            else:
                codes = ops.where(highest > best, part.start + found, codes)
                best = ops.maximum(best, highest)
        return codes

    count, dim = ops.shape(vectors)[0], vectors.shape[-1]
    blocks = count // ROWS + 1
    rows = -(-count // blocks)
    # Each block as long as the others.
    more = ops.zeros((blocks * rows - count, dim), dtype=vectors.dtype)
    filled = ops.concatenate([vectors, more], axis=0)
    codes = ops.map(nearest, ops.reshape(filled, (blocks, rows, dim)))
    return ops.reshape(codes, (-1,))[:count]


def in_parts(function, rows, num_codes: int, *shared):
    """Applies a function of vectors to some of them at a time, where there are very many codes.

    What it computes on the way, as a number for every vector and code, is then in memory for a part
    of the vectors alone, and is computed again in the backward pass. Of up to `MOST_CODES` codes
    all vectors are one part, and nothing is computed twice.

    Args:
        function: of a part of `rows`, `shared` and `number`, that of the part, which returns a
            tensor or a list of them with a row for each vector. What needs a gradient is an
            argument.
        rows: float32 `(n, dim)`.
        num_codes: int.
        *shared: float32 tensors.

    Returns:
        What `function` returns, of all rows.
    """
    if num_codes <= MOST_CODES:
        return function(rows, *shared, number=0)
    found = []
    for number, part in enumerate(parts_of(rows, num_codes)):
        again = keras.remat(functools.partial(function, number=number))
        found.append(again(rows[part], *shared))
    if isinstance(found[0], list | tuple):
        return [ops.concatenate(outputs, axis=0) for outputs in zip(*found, strict=True)]
    return ops.concatenate(found, axis=0)


def number_of_parts(num_codes: int):
    """How many parts `in_parts` makes of the vectors."""
    return 1 if num_codes <= MOST_CODES else min(MOST_CHUNKS, -(-num_codes // PART))


def parts_of(rows, num_codes: int):
    """The parts of rows `(n, dim)`, a list of slices, none of them empty where n is known."""
    parts, count = number_of_parts(num_codes), ops.shape(rows)[0]
    if isinstance(count, int):
        parts = max(1, min(parts, count))
    return [slice(i * count // parts, (i + 1) * count // parts) for i in range(parts)]


def code_logits(vectors, codebook):
    """−‖z − e_k‖², up to a number for each vector that a softmax does not see.

    Of float32 vectors `(n, dim)` and a codebook `(num_codes, dim)` it gives `(n, num_codes)`.
    """
    # Distances do not change when all is moved; around 0 their expansion cancels least.
    centre = ops.stop_gradient(ops.mean(codebook, axis=0))
    vectors, codebook = vectors - centre, codebook - centre
    products = ops.matmul(vectors, ops.transpose(codebook))
    return 2.0 * products - ops.sum(ops.square(codebook), axis=-1)


def gumbel_noise(shape, seed):
    """Draws of the Gumbel distribution: the largest of logits with it is a draw of their softmax.

    Returns:
        Float32 of `shape`.
    """
    return -ops.log(-ops.log(keras.random.uniform(shape, minval=TINY, dtype="float32", seed=seed)))


class SeedTaken(keras.random.SeedGenerator):
    """The next seed of a generator, taken at once and used later.

    Within a conditional nothing may step a generator: JAX needs that, and a step that draws nothing
    must leave the same state as one that does.
    """

    def __init__(self, generator):
        self.taken = generator.next()

    def next(self, ordered=True):
        """The seed."""
        return self.taken


def straight_through(z, quantized):
    """Returns `quantized`, with the gradient of the identity to `z` (van den Oord et al. 2017).

    Both are float32 of one shape `(..., dim)`.
    """
    return z + ops.stop_gradient(quantized - z)


def rotate(z, quantized):
    """Returns `quantized`, with the gradient of the rotation and scaling that takes `z` there.

    The rotation trick (Fifty et al. 2024, equation 4): q̃ = λ (z − 2 r rᵀz + 2 q̂ ẑᵀz) with
    λ = ‖q‖/‖z‖ and r = (ẑ + q̂)/‖ẑ + q̂‖, where λ, r, q̂ and ẑ are constants of the gradient. Where
    no such rotation is defined (a zero vector, or opposite directions) the gradient is that of
    `straight_through`.

    Args:
        z: float32 `(..., dim)`.
        quantized: the same shape.

    Returns:
        The same shape.
    """
    fixed_z, fixed_q = ops.stop_gradient(z), ops.stop_gradient(quantized)
    norm_z = ops.sqrt(ops.sum(ops.square(fixed_z), axis=-1, keepdims=True))
    norm_q = ops.sqrt(ops.sum(ops.square(fixed_q), axis=-1, keepdims=True))
    unit_z = fixed_z / ops.maximum(norm_z, 1e-6)
    unit_q = fixed_q / ops.maximum(norm_q, 1e-6)
    middle = unit_z + unit_q
    norm_middle = ops.sqrt(ops.sum(ops.square(middle), axis=-1, keepdims=True))
    middle = middle / ops.maximum(norm_middle, 1e-6)
    rotated = (
        z
        - 2.0 * ops.sum(z * middle, axis=-1, keepdims=True) * middle
        + 2.0 * ops.sum(z * unit_z, axis=-1, keepdims=True) * unit_q
    ) * (norm_q / ops.maximum(norm_z, 1e-6))
    defined = ops.minimum(ops.minimum(norm_z, norm_q), norm_middle) > 1e-6
    moved = ops.where(defined, rotated, z)
    # The value is `quantized` to the last bit; only the gradient is that of the rotation.
    return moved + ops.stop_gradient(quantized - moved)


def spread_rows(vectors, order, uniforms, num_rows: int, weights=None):
    """Draws `num_rows` vectors as starting centres, distinct as far as the vectors are: k-means++.

    Each next centre is drawn with probability proportional to its squared distance from the
    centres so far (Arthur & Vassilvitskii 2007).

    Args:
        vectors: float32 `(n, dim)`.
        order: int `(n,)`, a random permutation, whose first entry is the first centre.
        uniforms: float32 `(num_rows,)`, random numbers in [0, 1).
        num_rows: int.
        weights: float32 `(n,)`, 0 for vectors that are not drawn, else 1; None for all.

    Returns:
        Centres, float32 `(num_rows, dim)`, and which of them repeat earlier ones, since every
        distinct vector is taken or there are `MOST_DRAWN`, bool `(num_rows,)`.
    """
    if num_rows > MOST_DRAWN:
        drawn, repeats = spread_rows(vectors, order, uniforms, MOST_DRAWN, weights)
        places = np.arange(num_rows)
        while (beyond := places >= MOST_DRAWN).any():
            places[beyond] //= 2
        more = ops.convert_to_tensor(np.arange(num_rows) >= MOST_DRAWN)
        repeats = ops.logical_or(ops.take(repeats, places, axis=0), more)
        return ops.take(drawn, places, axis=0), repeats
    if weights is None:
        first = ops.take(vectors, order[0], axis=0)
        weights = 1.0
    else:
        # The first in order of those that count.
        first = ops.take(order, ops.argmax(ops.take(weights, order, axis=0)), axis=0)
        first = ops.take(vectors, first, axis=0)
    rows = ops.arange(num_rows)

    def add_row(i, state):
        centres, distances, repeats = state
        cumulated = ops.cumsum(distances)
        threshold = ops.take(uniforms, i, axis=0) * cumulated[-1]
        # Strictly above: a vector at distance 0 is never drawn while another one is left.
        drawn = ops.argmax(ops.cast(cumulated > threshold, "int32"))
        taken = ops.take(vectors, drawn, axis=0)
        # Where none is left, an earlier centre again, and each about as often.
        repeat = cumulated[-1] <= 0
        centre = ops.where(repeat, ops.take(centres, i // 2, axis=0), taken)
        here = ops.equal(rows, i)
        centres = ops.where(here[:, None], centre, centres)
        apart = weights * ops.sum(ops.square(vectors - centre), axis=-1)
        return centres, ops.minimum(distances, apart), repeats | (here & repeat)

    state = (
        ops.where(ops.equal(rows, 0)[:, None], first, ops.zeros((num_rows, vectors.shape[-1]))),
        weights * ops.sum(ops.square(vectors - first), axis=-1),
        rows < 0,
    )
    centres, _, repeats = ops.fori_loop(1, num_rows, add_row, state)
    return centres, repeats


def far_rows(distances, wanted, uniforms):
    """Draws vectors with probability proportional to their squared distances, spread over them.

    Like the draws of k-means++, all at once: the sum of the distances is cut into as many equal
    parts as rows are wanted, and each row is drawn from a part of its own.

    Args:
        distances: float32 `(n,)`, squared, from each vector to its code; 0 is never drawn.
        wanted: bool `(num_rows,)`, the rows that will be used.
        uniforms: float32 `(num_rows,)` in [0, 1).

    Returns:
        Int `(num_rows,)`, indices in 0 … n − 1.
    """
    cumulated = ops.cumsum(distances)
    wanted = ops.cast(wanted, "float32")
    places = (ops.cumsum(wanted) - 1.0 + uniforms) / ops.maximum(ops.sum(wanted), 1.0)
    places = ops.clip(places, 0.0, 1.0 - 1e-6) * cumulated[-1]
    drawn = ops.searchsorted(cumulated, places, side="right")
    return ops.minimum(ops.cast(drawn, "int32"), ops.shape(distances)[0] - 1)


def lloyd(vectors, centres, iterations: int, weights=None):
    """Improves `centres` of `vectors` `(n, dim)` by Lloyd's iterations; an empty one stays.

    Centres are float32 `(num_codes, dim)`, before and after. Vectors count by `weights` `(n,)`.
    """
    num_codes = centres.shape[0]

    def step(_, centres):
        codes = nearest_codes(vectors, centres)
        sums = sum_by_code(vectors, codes, num_codes, weights)
        counts = count_codes(codes, num_codes, weights)[:, None]
        return ops.where(counts > 0, sums / ops.maximum(counts, 1.0), centres)

    return ops.fori_loop(0, iterations, step, centres)


def count_codes(codes, num_codes: int, weights=None):
    """Counts codes int `(n,)`, each by its weight `(n,)`; returns float32 `(num_codes,)`."""
    weights = ops.ones_like(codes, dtype="float32") if weights is None else weights
    return ops.segment_sum(weights, codes, num_segments=num_codes)


def sum_by_code(vectors, codes, num_codes: int, weights=None):
    """Sums vectors `(n, dim)` of each code int `(n,)`; returns float32 `(num_codes, dim)`."""
    vectors = vectors if weights is None else vectors * weights[:, None]
    return ops.segment_sum(vectors, codes, num_segments=num_codes)


def are_finite(name, *tensors):
    """Whether all numbers of float `tensors` are finite, a bool scalar; says so if not.

    Within a compiled step nothing can be said here; there it is the loss, which is not finite.
    """
    finite = ops.all(ops.stack([ops.all(ops.isfinite(tensor)) for tensor in tensors]))
    if not is_symbolic(finite) and not bool(finite):
        logger.warning("%s: values that are not finite; its codes stay as they are", name)
    return finite


def keep_where_finite(name, codebook, vectors):
    """The codebook, with a gradient unless `vectors` hold numbers that are not finite."""
    return ops.where(are_finite(name, vectors), codebook, ops.stop_gradient(codebook))


class Quantizer(Bottleneck):
    """Base class of bottlenecks with one codebook: `VectorQuantizer` and `EMAVectorQuantizer`.

    Some can be `stochastic`: in training the code of a vector z is then drawn instead of the
    nearest, with the probabilities of a softmax of −‖z − e_k‖² / τ over the codes (Lee et al. 2022,
    "Autoregressive image generation using residual quantization", equation 10). Codes beside the
    nearest get their share, the more so the higher the temperature τ; inference takes the nearest.

    Args:
        num_codes: int ≥ 2, the number of codes K.
        beta: float ≥ 0, factor of the commitment loss. It can be set again at any time, as by a
            callback (`LiveNumber`).
        distance: `"euclidean"`, or `"cosine"`: input and codes are scaled to unit length first
            (Yu et al. 2022, section 3.2), and so is the output.
        gradient: `"straight_through"` (van den Oord et al. 2017) or `"rotation"` (Fifty et al.
            2024), how the gradient passes from `quantized` to `z`.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    # An attribute of each instance instead of the base class's property.
    num_codes = None
    beta = LiveNumber()
    stochastic = False

    def __init__(
        self,
        num_codes: int,
        beta: float = 0.25,
        distance: str = "euclidean",
        gradient: str = "straight_through",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if distance not in DISTANCES:
            raise ValueError(
                f"`distance` must be one of {DISTANCES}. Received: distance={distance}"
            )
        if gradient not in GRADIENTS:
            raise ValueError(
                f"`gradient` must be one of {GRADIENTS}. Received: gradient={gradient}"
            )
        self.num_codes = whole("num_codes", num_codes, 2)
        self.beta = beta
        self.distance = distance
        self.gradient = gradient

    @property
    def codebook(self):
        """Float32 `(num_codes, dim)`, of unit length with the cosine distance."""
        return self._unit(ops.convert_to_tensor(self.embedding))

    def codes_to_vectors(self, codes):
        """Looks codes up: int `(batch, *grid)` in 0 … num_codes − 1 → `(batch, *grid, dim)`."""
        return ops.take(self.codebook, ops.cast(codes, "int32"), axis=0)

    def set_codebook(self, vectors, counts=None):
        """Replaces the codebook, as by the centroids of a clustering.

        Args:
            vectors: float `(num_codes, dim)`.
            counts: ignored here; see `EMAVectorQuantizer.set_codebook`.

        Raises:
            ValueError: if the layer is not built yet or the shape is another.
        """
        del counts
        vectors = self._checked(vectors)
        self.embedding.assign(vectors)

    def _checked(self, vectors):
        if not self.built:
            raise ValueError(f"{self.name} is not built yet: call the model once before.")
        vectors = ops.convert_to_tensor(vectors, dtype="float32")
        if tuple(vectors.shape) != tuple(self.embedding.shape):
            raise ValueError(
                f"A codebook of {self.name} has the shape {tuple(self.embedding.shape)}. "
                f"Received: vectors.shape={tuple(vectors.shape)}"
            )
        if not np.isfinite(ops.convert_to_numpy(vectors)).all():
            raise ValueError(f"A codebook of {self.name} must be finite. Received: other values")
        return vectors

    def _flatten(self, z, mask=None):
        """Prepares the input.

        Returns:
            `z`, of unit length with the cosine distance, zero where there is padding; its vectors
            `(n, dim)`, without a gradient; the mask `(batch, *grid)`, and the vectors' weights
            float32 `(n,)`, 1 for data and 0 for padding. The last two are None without a mask.
        """
        z, mask = self._masked(z, mask)
        z = self._unit(z)
        weights = None if mask is None else ops.reshape(ops.cast(mask, "float32"), (-1,))
        return z, ops.stop_gradient(ops.reshape(z, (-1, z.shape[-1]))), mask, weights

    def _learning_codebook(self, vectors):
        """The codebook, with a gradient unless `vectors` hold numbers that are not finite."""
        return keep_where_finite(self.name, self.codebook, vectors)

    def _unit(self, vectors):
        """`vectors` `(..., dim)` as they are compared: of unit length with the cosine distance."""
        return unit_length(vectors) if self.distance == "cosine" else vectors

    def _choose(self, vectors, codebook, training):
        """Codes int32 `(n,)`: the nearest, or drawn ones in training where `stochastic` is set."""
        if not (training and self.stochastic):
            return nearest_codes(vectors, codebook)
        logits = code_logits(vectors, codebook) / self.live("temperature")
        return first_largest(logits + gumbel_noise(ops.shape(logits), self.seed_generator))

    def _look_up(self, z, flat_codes, codebook):
        """Returns `quantized` without a gradient to `z`, and the codes in the grid's shape."""
        codes = ops.reshape(flat_codes, ops.shape(z)[:-1])  # (batch, *grid)
        return ops.take(codebook, codes, axis=0), codes

    def _pass_gradient(self, z, quantized):
        return (rotate if self.gradient == "rotation" else straight_through)(z, quantized)

    def _commitment(self, z, quantized, mask):
        return self.live("beta") * self._mean(ops.square(z - ops.stop_gradient(quantized)), mask)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_codes": self.num_codes,
            "beta": self.beta,
            "distance": self.distance,
            "gradient": self.gradient,
        }
