"""How a codebook is used, and how many bits its codes cost without a neural network.

Code maps are `(n, *grid)`, integers in `[0, num_codes)`. Bits are per code, to base 2.

Two yardsticks stand beside a learned prior. The marginal entropy is the cost when every code is
coded alone. `NeighbourModel` also looks at the codes just before each code and at its position; a
prior that does not beat it clearly has learned little of the image.
"""

import numpy as np
import pandas as pd

MARGINAL_SMOOTHING = 1.0  # Laplace's rule: no code is impossible
# Strengths tried for the tables: pseudo-counts shared out as the marginal says.
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
SEARCH_CODES = 100_000  # held-out codes used to choose the strengths; the weights use all


class CodeCounter:
    """Counts codes over a stream of batches.

    The perplexity of a batch understates usage, for a batch need not hold every code; counts over
    a whole epoch or test set do not.

    Args:
        num_codes: size of the codebook.

    Attributes:
        counts: int64 `(num_codes,)`.
    """

    def __init__(self, num_codes):
        self.num_codes = int(num_codes)
        self.counts = np.zeros(self.num_codes, "int64")

    def add(self, codes):
        """Counts `codes`, integers of any shape.

        Returns:
            This counter.

        Raises:
            ValueError: a code is out of range or not an integer.
        """
        codes = whole_numbers(codes, "codes", self.num_codes)
        self.counts += np.bincount(codes.ravel(), minlength=self.num_codes)
        return self

    def usage(self):
        """Usage so far.

        Returns:
            A dict: `num_codes`, `total` (codes counted), `used` (codes seen at least once),
            `fraction` (used / num_codes), `entropy_bits` (entropy of the marginal, bits per
            code), `perplexity` (2 to the entropy) and `counts`, int64 `(num_codes,)`. With
            nothing counted, entropy and perplexity are NaN.
        """
        total = int(self.counts.sum())
        used = int((self.counts > 0).sum())
        entropy = np.nan
        if total:
            p = self.counts[self.counts > 0] / total
            entropy = float(abs(np.sum(p * np.log2(p))))
        return {
            "num_codes": self.num_codes,
            "total": total,
            "used": used,
            "fraction": used / self.num_codes,
            "entropy_bits": entropy,
            "perplexity": float(2.0**entropy),
            "counts": self.counts.copy(),
        }


def code_usage(codes, num_codes):
    """Usage of a codebook by `codes`; see `CodeCounter.usage`.

    Args:
        codes: integers in `[0, num_codes)`, any shape.
        num_codes: size of the codebook.

    Returns:
        The dict of `CodeCounter.usage`.

    Raises:
        ValueError: a code is out of range or not an integer.
    """
    return CodeCounter(num_codes).add(codes).usage()


def code_locations(codes, num_codes):
    """How many maps have each code at each position of the grid.

    Args:
        codes: integers `(n, *grid)` in `[0, num_codes)`; a memory map serves.
        num_codes: size of the codebook, K.

    Returns:
        int32 `(num_codes, *grid)`; over the codes it sums to n everywhere.

    Raises:
        ValueError: a code is out of range or not an integer.
    """
    codes = np.asarray(codes)
    places = int(np.prod(codes.shape[1:]))
    counts = np.zeros((num_codes, places), "int32")
    for code_map in codes:
        flat = whole_numbers(code_map, "codes", num_codes).ravel()
        counts[flat, np.arange(places)] += 1
    return counts.reshape(num_codes, *codes.shape[1:])


def codes_per_map(codes):
    """How many different codes each map holds: int64 `(n,)`, of integers `(n, *grid)`."""
    return np.array([len(np.unique(code_map)) for code_map in codes], "int64")


def code_histograms(codes, num_codes, *, depth=False):
    """How often each code occurs in each map, as features of a classifier.

    Args:
        codes: integers `(n, *grid)`, or `(n, *grid, depth)` of a residual quantiser.
        num_codes: size of a codebook.
        depth: True where the last axis is the depth: each depth has a codebook, and a histogram,
            of its own. Default False.

    Returns:
        float64 `(n, num_codes)` or `(n, depth · num_codes)`: shares; of each depth they sum to 1.

    Raises:
        ValueError: a code is out of range or not an integer.
    """
    codes = whole_numbers(codes, "codes", num_codes)
    if not depth:
        codes = codes[..., None]
    layers = codes.reshape(len(codes), -1, codes.shape[-1])
    shares = np.zeros((len(codes), codes.shape[-1], num_codes))
    rows, _, depths = np.indices(layers.shape)
    np.add.at(shares, (rows, depths, layers), 1.0 / max(layers.shape[1], 1))
    return shares.reshape(len(codes), -1)


def depth_usage(codes, num_codes):
    """Use of the codebook of each depth of a residual quantiser.

    Args:
        codes: integers `(..., depth)`.
        num_codes: size of each codebook.

    Returns:
        `pandas.DataFrame`, a row per depth: `depth` (from 1), `used`, `fraction`, `entropy_bits`
        and `perplexity`, see `code_usage`. The entropies add up to the bits of a position when
        every code is coded alone.
    """
    codes, keys = np.asarray(codes), ("used", "fraction", "entropy_bits", "perplexity")
    rows = []
    for i in range(codes.shape[-1]):
        usage = code_usage(codes[..., i], num_codes)
        rows.append({"depth": i + 1, **{key: usage[key] for key in keys}})
    return pd.DataFrame(rows)


def marginal_bits(train_codes, test_codes, num_codes, *, smoothing=MARGINAL_SMOOTHING):
    """Bits per test code when each is coded alone by the frequencies of the training codes.

    Args:
        train_codes: integers in `[0, num_codes)`, any shape.
        test_codes: integers in `[0, num_codes)`, any shape.
        num_codes: size of the codebook.
        smoothing: added to every count. Default 1.

    Returns:
        float, bits per code; above the entropy of the test codes unless the frequencies agree.

    Raises:
        ValueError: a code is out of range or not an integer.
    """
    counts = CodeCounter(num_codes).add(train_codes).counts + smoothing
    test = CodeCounter(num_codes).add(test_codes).counts
    return float(-np.sum(test * np.log2(counts / counts.sum())) / test.sum())


class NeighbourModel:
    """A smoothed mixture of neighbour and position tables: the baseline of a code prior.

    With c the code, s_j the code before it along axis j (or "none" at the border) and r its
    position, p(c) = Σ_j w_j p_j(c | s_j) + w_r p_r(c | r) + w_m m(c). Each table is
    p_j(c | s) = (N(s, c) + α_j m(c)) / (N(s) + α_j): counts with additive smoothing that backs
    off to the marginal m (MacKay and Peto, 1995, equation 13); m itself is smoothed by Laplace's
    rule. The strengths α and the weights w are fitted on maps held out of the counts, the weights
    by expectation maximisation (interpolated estimation: Jelinek and Mercer, 1980); then the
    tables are counted again over all maps. As each code is conditioned only on codes that precede
    it in raster order, the product over a map is a proper distribution, comparable with a PixelCNN.

    Args:
        held_out: share of the groups that strengths and weights are fitted on. Default 0.25.
        seed: seed of that choice. Default 0.

    Attributes:
        weights: dict of table name → mixture weight; names are `left`, `upper`, `before` (3D
            only), `position` and `marginal`. Set by `fit`.
        strengths: dict of table name → α, in pseudo-counts. Set by `fit`.
    """

    _NEIGHBOURS = ("left", "upper", "before")  # along the last axis, the one before it, …

    def __init__(self, *, held_out=0.25, seed=0):
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must be in (0, 1). Received: held_out={held_out}")
        self.held_out = held_out
        self.seed = seed
        self.weights = self.strengths = None

    def fit(self, codes, num_codes, groups=None):
        """Counts the tables and fits the mixture.

        Args:
            codes: integers `(n, *grid)` with a grid of 1 to 3 axes, n at least 2.
            num_codes: size of the codebook.
            groups: n names, the subject of each map: a subject is held out whole, so that the
                fit is for unseen subjects. Default, and with a single group: each map is its own.

        Returns:
            This model.

        Raises:
            ValueError: the codes are out of range or not shaped as described.
        """
        codes = whole_numbers(codes, "codes", num_codes)
        if not 2 <= codes.ndim <= 4 or len(codes) < 2:
            raise ValueError(
                "codes must be (n, *grid) with a grid of 1 to 3 axes and n at least 2. "
                f"Received: shape {codes.shape}"
            )
        self.num_codes, self.grid_shape = int(num_codes), codes.shape[1:]
        held = self._choose(len(codes), groups)
        marginal, tables = self._count(codes[~held])
        self._fit_mixture(codes[held], marginal, tables)
        self._marginal, self._tables = self._count(codes)
        return self

    def bits(self, codes):
        """−log2 p of every code.

        Args:
            codes: integers `(n, *grid)`, the grid of `fit`.

        Returns:
            float64 `(n, *grid)`, bits.

        Raises:
            ValueError: the codes are out of range or on another grid.
        """
        codes = self._check(codes)
        flat = codes.reshape(len(codes), -1)
        p = self.weights["marginal"] * self._marginal[flat]
        for name, context in self._contexts(codes).items():
            counts, totals = self._tables[name]
            p += self.weights[name] * _smoothed(
                counts[context, flat], totals[context], self.strengths[name], self._marginal[flat]
            )
        return -np.log2(p).reshape(codes.shape)

    def bits_per_code(self, codes):
        """Mean of `bits`: the held-out cost to set beside a prior's, float."""
        return float(self.bits(codes).mean())

    def distributions(self, codes):
        """The whole predicted distribution at every position, given the codes before it.

        Needs n × positions × num_codes numbers of memory: for a few maps.

        Args:
            codes: integers `(n, *grid)`, the grid of `fit`.

        Returns:
            float64 `(n, *grid, num_codes)`; each sums to 1.

        Raises:
            ValueError: the codes are out of range or on another grid.
        """
        codes = self._check(codes)
        p = np.empty((len(codes), int(np.prod(self.grid_shape)), self.num_codes))
        p[:] = self.weights["marginal"] * self._marginal
        for name, context in self._contexts(codes).items():
            counts, totals = self._tables[name]
            p += self.weights[name] * _smoothed(
                counts[context], totals[context][..., None], self.strengths[name], self._marginal
            )
        return p.reshape(*codes.shape, self.num_codes)

    def _choose(self, n, groups):
        """Bool `(n,)`: the maps held out."""
        groups = np.arange(n) if groups is None else np.asarray(groups).ravel()
        if len(groups) != n:
            raise ValueError(f"one group per map is needed. Received: {len(groups)} for {n} maps")
        names = np.unique(groups)
        if len(names) < 2:
            groups = names = np.arange(n)
        count = min(max(1, round(self.held_out * len(names))), len(names) - 1)
        chosen = np.random.default_rng(self.seed).permutation(len(names))[:count]
        return np.isin(groups, names[chosen])

    def _contexts(self, codes):
        """Name → the row of its table for each code, integers `(n, positions)`."""
        contexts = {}
        for name, axis in zip(self._NEIGHBOURS, range(codes.ndim - 1, 0, -1), strict=False):
            before = np.full_like(codes, self.num_codes)  # the extra row means "no neighbour"
            index = [slice(None)] * codes.ndim
            index[axis] = slice(1, None)
            shifted = list(index)
            shifted[axis] = slice(None, -1)
            before[tuple(index)] = codes[tuple(shifted)]
            contexts[name] = before.reshape(len(codes), -1)
        positions = int(np.prod(self.grid_shape))
        contexts["position"] = np.broadcast_to(np.arange(positions), (len(codes), positions))
        return contexts

    def _count(self, codes):
        """The marginal `(K,)` and name → (counts `(rows, K)`, their row totals)."""
        k = self.num_codes
        marginal = np.bincount(codes.ravel(), minlength=k) + MARGINAL_SMOOTHING
        flat = codes.reshape(len(codes), -1)
        tables = {}
        for name, context in self._contexts(codes).items():
            rows = context.shape[1] if name == "position" else k + 1
            pairs = (context * k + flat).ravel()
            counts = np.bincount(pairs, minlength=rows * k).reshape(rows, k)
            tables[name] = counts.astype("float32"), counts.sum(1).astype("float64")
        return marginal / marginal.sum(), tables

    def _fit_mixture(self, codes, marginal, tables):
        flat = codes.reshape(len(codes), -1)
        backoff = marginal[flat].ravel()
        contexts = self._contexts(codes)
        seen = {
            name: (counts[contexts[name], flat].ravel(), totals[contexts[name]].ravel())
            for name, (counts, totals) in tables.items()
        }
        names = list(seen)
        step = -(-len(backoff) // SEARCH_CODES)

        def column(name, strength, step):
            count, total = seen[name]
            return _smoothed(count[::step], total[::step], strength, backoff[::step])

        # Each strength is first the best for its table alone, then, twice, the best for the
        # mixture with the others as they stand.
        choices = {name: [column(name, s, step) for s in STRENGTHS] for name in names}
        chosen = {name: int(np.argmax([np.log(p).mean() for p in choices[name]])) for name in names}
        rest = backoff[::step]
        weights = np.full(len(names) + 1, 1.0 / (len(names) + 1))
        for _ in range(2):
            for name in names:
                trials = []
                for i in range(len(STRENGTHS)):
                    trial = {**chosen, name: i}
                    p = np.stack([*(choices[key][trial[key]] for key in names), rest])
                    trials.append((*_mixture_weights(p, weights, iterations=20), i))
                _, weights, chosen[name] = max(trials, key=lambda trial: trial[0])
        self.strengths = {name: STRENGTHS[chosen[name]] for name in names}
        p = np.stack([*(column(name, self.strengths[name], 1) for name in names), backoff])
        _, weights = _mixture_weights(p, weights, iterations=200)
        self.weights = dict(zip([*names, "marginal"], weights.tolist(), strict=True))

    def _check(self, codes):
        if self.weights is None:
            raise ValueError("the model has no tables yet: call fit first")
        codes = whole_numbers(codes, "codes", self.num_codes)
        if codes.shape[1:] != self.grid_shape or len(codes) == 0:
            raise ValueError(
                f"codes must be (n, {', '.join(map(str, self.grid_shape))}), as in fit. "
                f"Received: shape {codes.shape}"
            )
        return codes


def _smoothed(count, total, strength, backoff):
    return (count + strength * backoff) / (total + strength)


def _mixture_weights(p, weights, *, iterations):
    """Maximum-likelihood weights of fixed distributions by expectation maximisation.

    Args:
        p: `(components, samples)`, the probability of each sample under each component.
        weights: `(components,)`, the start; all positive.
        iterations: at most; stops when the likelihood rises by less than 1e-7 per sample.

    Returns:
        Mean log-likelihood in nats before the last update, and the weights.
    """
    last = -np.inf
    for _ in range(iterations):
        mixed = weights @ p
        likelihood = np.log(mixed).mean()
        weights = weights * (p @ (1.0 / mixed)) / p.shape[1]
        if likelihood - last < 1e-7:
            break
        last = likelihood
    return likelihood, weights / weights.sum()


def whole_numbers(values, name, end):
    """`values` as int64, after a look that they are integers in [0, `end`); else `ValueError`."""
    values = np.asarray(values)
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} must be integers. Received: dtype {values.dtype}")
    if values.size and (values.min() < 0 or values.max() >= end):
        raise ValueError(
            f"{name} must be in [0, {end}). Received: {values.min()} to {values.max()}"
        )
    return values.astype("int64", copy=False)
