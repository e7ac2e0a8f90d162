"""How a PixelCNN draws code grids, and what it compiles for that."""

import math

import numpy as np
from keras import ops

from brainvq.backend import compile_function
from brainvq.errors import UserError
from brainvq.models import pixelcnn_sampler


class DrawsCodes:
    """The part of `PixelCNN` that draws; see there."""

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
        plan: np.ndarray | None = None,
        coherence: float = 0.0,
    ) -> np.ndarray:
        """Draw code grids.

        Each code is the argmax of (filtered logits / temperature + Gumbel noise of `seed`), the
        same with either method, any batch size and, up to rounding, any backend.

        Args:
            n: number of grids.
            temperature: divides the logits; 0 always takes the most probable code.
            top_k: keep only this many of the most probable codes, or None.
            top_p: keep only the fewest most probable codes that together (after temperature and
                `top_k`) reach this share, in (0, 1], or None.
            seed: integer, or None for fresh noise.
            labels: one class, or `n` of them, where the prior is conditional.
            method: "cached", or "naive", the slow reference: a call of the network for each code.
            batch_size: grids drawn at once.
            known_codes: int `(n, *grid)`, kept where `known_mask` is True: the rest is drawn given
                those that come earlier in raster order.
            known_mask: bool `(n, *grid)`.
            plan: float `(n, *plan_shape)`, where the prior draws by a plan.
            coherence: in [0, 1], the correlation of a grid's noise with that of the grid before it.
                Each is a draw from the prior all the same, and resembles the last in detail.

        Returns:
            int32 NumPy array `(n, *grid)`.

        Raises:
            UserError: if an argument is out of its range.
        """
        n = _checked_count(n, temperature, top_k, top_p, method, coherence)
        labels, plan = self._check_labels(labels, n), self._check_plan(plan, n)
        known = self._known(n, known_codes, known_mask)
        generator = np.random.default_rng(seed)
        scalars, options = self._filters(temperature, top_k, top_p)
        codes, deviates = np.empty((n, *self.grid_shape), "int32"), None
        draw = self._draw_cached if method == "cached" else self._draw_naive
        for start, stop, padded in batches_of(n, batch_size):
            if coherence and temperature:
                noise, deviates = self._coherent(generator, stop - start, coherence, deviates)
            else:
                noise = self._noise(generator, stop - start, options["greedy"])
            given = [part if part is None else part[start:stop] for part in (known, labels)]
            given.append(self._part_of_plan(plan, start, stop))
            batch = [None if part is None else padded_to(part, padded) for part in (noise, *given)]
            codes[start:stop] = draw(batch, scalars, options)[: stop - start]
        return codes

    def _filters(self, temperature, top_k, top_p):
        """What a `Chooser` takes: numbers that may change, and options that a program is for."""
        options = {
            "top_k": None if top_k is None or top_k >= self.num_codes else int(top_k),
            "nucleus": top_p is not None and top_p < 1,
            "greedy": temperature == 0,
        }
        # Tensors rather than constants of the program, so that another value compiles nothing.
        return [np.float32(temperature or 1.0), np.float32(top_p or 1.0)], options

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

    def _coherent(self, generator, n, coherence, last):
        """Gumbel noise as `_noise`, of normal deviates that follow each other by a chain.

        Args:
            generator: `numpy.random.Generator`.
            n: number of grids.
            coherence: correlation of the deviates of a grid with those of the one before.
            last: deviates `(2, positions, num_codes)` of the grid before the first; None for none.

        Returns:
            Noise `(n, positions, num_codes)`, and the deviates of the last grid.
        """
        noise = np.empty((n, math.prod(self.grid_shape), self.num_codes), "float32")
        for index in range(n):
            fresh = generator.standard_normal((2, *noise.shape[1:]), dtype="float32")
            if last is not None:
                fresh = coherence * last + math.sqrt(1 - coherence**2) * fresh
            last = fresh
            # Half the sum of two squares is an exponential variable, whose logarithm a Gumbel one.
            exponential = np.square(last).sum(axis=0) / 2
            noise[index] = -np.log(np.maximum(exponential, np.finfo("float32").tiny))
        return noise, last

    def _draw_cached(self, batch, scalars, options):
        def make():
            def cached(noise, known, labels, plan, temperature, top_p):
                choose = pixelcnn_sampler.Chooser(temperature, top_p, **options)
                return pixelcnn_sampler.decode(self, choose, noise, known, labels, plan)[0]

            return compile_function(cached, owner=self)

        function = self._functions.get(("cached", batch[0].shape, *options.values()), make)
        return ops.convert_to_numpy(function(*batch, *scalars))

    def _draw_naive(self, batch, scalars, options):
        def make():
            def naive(index, noise, known, codes, labels, plan, temperature, top_p):
                choose = pixelcnn_sampler.Chooser(temperature, top_p, **options)
                logits = self.features(codes, labels, plan, training=False)[-1]
                logits = ops.reshape(logits, (codes.shape[0], -1, self.num_codes))
                return choose(ops.take(logits, index, axis=1), noise, known)

            return compile_function(naive, owner=self)

        function = self._functions.get(("naive", batch[0].shape, *options.values()), make)
        noise, known, labels, plan = batch
        codes = np.zeros((len(known), *self.grid_shape), "int32")
        flat = codes.reshape(known.shape)
        for index in range(known.shape[1]):
            chosen = function(
                np.int32(index),
                noise[:, index],
                known[:, index],
                codes,
                labels,
                plan,
                *scalars,
            )
            flat[:, index] = ops.convert_to_numpy(chosen)
        return codes


class Functions:
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
        return Functions()

    def __reduce__(self):
        return (Functions, ())


def batches_of(n, batch_size):
    """Yield `(start, stop, padded size)`; few different sizes, so that few programs compile."""
    for start in range(0, n, batch_size):
        stop = min(start + batch_size, n)
        size = stop - start
        padded = batch_size if n > batch_size else min(1 << (size - 1).bit_length(), batch_size)
        yield start, stop, padded


def padded_to(array, size):
    """Append zeros along the first axis up to `size` rows."""
    missing = size - len(array)
    if missing == 0:
        return array
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])


def _checked_count(n, temperature, top_k, top_p, method, coherence):
    """`n` as an int, or a UserError for it or another argument of `sample`."""
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
    if not 0 <= coherence <= 1:
        raise UserError(f"coherence: found {coherence}, want a number in [0, 1]")
    return int(n)
