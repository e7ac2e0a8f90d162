"""Classical codecs of streamlines, which need no network, at the same bits.

Every codec here takes streamlines one by one, `(n, points, 3)`, as 3 · points numbers; of
64 points that are 192. A codec is fitted on training streamlines alone and spends a fixed number of
bits, `bits`, on each streamline; its tables (centres, components) are the decoder's and are not
counted, as the weights of a network are not.

- `ResidualKMeans`: k-means, then k-means of what is left, and so on (Juang and Gray, 1982).
- `PCAKMeans`: principal components, cut into parts of alike variance, k-means in each part: product
  quantisation (Jégou, Douze and Schmid, 2011).
- `TransformCodec`: principal components, each rounded to levels of its own; the bits go where they
  lower the error most (Huang and Schultheiss, 1963); in one space or in each of a few clusters.
- `HalfPrecision`: float16 coordinates, as in a .trx file.
"""

import warnings

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from brainvq.evaluation.bundles import THRESHOLD, bundle_table, mean_over_bundles

LLOYD_LIMIT = 20_000  # streamlines; more are clustered in random batches, to stay within seconds
ITERATIONS = 50  # of Lloyd's algorithm; the error then falls by less than 1 % in ten more
MOST_BITS = 10  # for one component, 1024 levels: more would need more streamlines than there are
TRK_HEADER = 1000  # bytes; https://trackvis.org/docs/?subsect=fileformat
TCK_HEADER = 67  # bytes, of the few lines that nibabel writes


class _Codec:
    """What the codecs share: streamlines as rows of numbers, and `reconstruct`."""

    def reconstruct(self, streamlines):
        """`decode(encode(streamlines))` of `(n, points, 3)`: float32, of that shape."""
        return self.decode(self.encode(streamlines))

    def _fit_rows(self, streamlines):
        """Rows of training streamlines, `(n, points · 3)`; keeps the number of points."""
        streamlines = np.asarray(streamlines, "float32")
        if streamlines.ndim != 3 or streamlines.shape[-1] != 3 or len(streamlines) < 2:
            raise ValueError(
                "streamlines must be (n, points, 3) with n at least 2. "
                f"Received: shape {streamlines.shape}"
            )
        self.points_ = streamlines.shape[1]
        return streamlines.reshape(len(streamlines), 3 * self.points_)

    def _rows(self, streamlines):
        streamlines = np.asarray(streamlines, "float32")
        if streamlines.shape[1:] != (self.points_, 3):
            raise ValueError(
                f"streamlines must be (n, {self.points_}, 3), as in fit. "
                f"Received: shape {streamlines.shape}"
            )
        return streamlines.reshape(len(streamlines), 3 * self.points_)

    def _streamlines(self, rows):
        return rows.reshape(len(rows), self.points_, 3).astype("float32")


class ResidualKMeans(_Codec):
    """Residual vector quantisation of whole streamlines: each stage codes what the last one left.

    Args:
        stages: int ≥ 1, how many codes a streamline gets. Default 4.
        num_codes: centres of a stage. Default 512, 9 bits a code.
        seed: int. Default 0.

    Attributes:
        bits: float, stages · log2(num_codes): bits per streamline.
        centres_: list of float32 `(≤ num_codes, 3 · points)`, one for each stage. Set by `fit`.
    """

    def __init__(self, stages=4, num_codes=512, *, seed=0):
        self.stages = stages
        self.num_codes = num_codes
        self.seed = seed

    @property
    def bits(self):
        """Bits per streamline."""
        return float(self.stages * np.log2(self.num_codes))

    def fit(self, streamlines):
        """Fits the stages one after another on float `(n, points, 3)`; returns this object.

        Raises:
            ValueError: the streamlines are not shaped as described.
        """
        rest = self._fit_rows(streamlines).copy()
        self.centres_ = []
        for stage in range(self.stages):
            self.centres_.append(_centres(rest, self.num_codes, self.seed + stage))
            rest -= self.centres_[-1][_nearest(rest, self.centres_[-1])]
        return self

    def encode(self, streamlines):
        """Codes of streamlines `(n, points, 3)`: int32 `(n, stages)`."""
        rest = self._rows(streamlines).copy()
        codes = np.empty((len(rest), self.stages), "int32")
        for stage, centres in enumerate(self.centres_):
            codes[:, stage] = _nearest(rest, centres)
            rest -= centres[codes[:, stage]]
        return codes

    def decode(self, codes):
        """Streamlines of codes: float32 `(n, points, 3)`.

        Args:
            codes: integers `(n, 1..stages)`: the first codes alone give a coarser streamline.
        """
        codes = np.asarray(codes)
        parts = zip(self.centres_, codes.T, strict=False)
        return self._streamlines(sum(centres[code] for centres, code in parts))


class PCAKMeans(_Codec):
    """Product quantisation of principal components: k-means in each of several parts.

    The first `components` principal components are dealt to `parts` groups, the next one always to
    the group that has the least variance so far for its size (Ge et al., 2013, eigenvalue
    allocation: the products of the variances come out alike). A streamline is the sum of one centre
    of each part; the components after the last are dropped.

    Args:
        parts: int ≥ 1, how many codes a streamline gets. Default 4.
        num_codes: centres of a part. Default 512, 9 bits a code.
        components: int, principal components used; a multiple of `parts`. Default 24.
        seed: int. Default 0.

    Attributes:
        bits: float, parts · log2(num_codes): bits per streamline.
        groups_: int `(parts, components / parts)`, the components of each part. Set by `fit`.
    """

    def __init__(self, parts=4, num_codes=512, *, components=24, seed=0):
        if components % parts:
            raise ValueError(
                f"components must be a multiple of parts. Received: {components} and {parts}"
            )
        self.parts = parts
        self.num_codes = num_codes
        self.components = components
        self.seed = seed

    @property
    def bits(self):
        """Bits per streamline."""
        return float(self.parts * np.log2(self.num_codes))

    def fit(self, streamlines):
        """Fits components and centres on float `(n, points, 3)`; returns this object.

        Raises:
            ValueError: the streamlines are not shaped as described.
        """
        rows = self._fit_rows(streamlines)
        self.mean_, self.axes_, variances = _principal(rows, self.components)
        self.groups_ = _balanced(variances, self.parts)
        scores = (rows - self.mean_) @ self.axes_.T
        self.centres_ = [
            _centres(scores[:, group], self.num_codes, self.seed + i)
            for i, group in enumerate(self.groups_)
        ]
        return self

    def encode(self, streamlines):
        """Codes of streamlines `(n, points, 3)`: int32 `(n, parts)`."""
        scores = (self._rows(streamlines) - self.mean_) @ self.axes_.T
        parts = zip(self.groups_, self.centres_, strict=True)
        codes = [_nearest(scores[:, group], centres) for group, centres in parts]
        return np.stack(codes, axis=1).astype("int32")

    def decode(self, codes):
        """Streamlines of codes, integers `(n, parts)`: float32 `(n, points, 3)`."""
        scores = np.zeros((len(codes), len(self.axes_)), "float32")
        for i, (group, centres) in enumerate(zip(self.groups_, self.centres_, strict=True)):
            scores[:, group] = centres[np.asarray(codes)[:, i]]
        return self._streamlines(scores @ self.axes_ + self.mean_)


class TransformCodec(_Codec):
    """Principal components, each rounded to 2^b levels of its own: classical transform coding.

    The levels of a component are those with the least mean squared error over the training
    streamlines (Lloyd, 1982; Max, 1960). The bits are given out one by one, always to the
    component whose error falls most by it, which is reverse water-filling in whole bits; so a
    streamline costs `bits` exactly, without an entropy coder. With `clusters`, k-means first deals
    the streamlines out, each cluster has components and levels of its own, and a streamline goes
    where its error comes out least (Kambhatla and Leen, 1997): bundles bend space, and a few flat
    pieces fit it better than one.

    Args:
        bits: int, bits per streamline, those for the cluster among them. Default 36.
        clusters: int ≥ 1, a power of 2. Default 1.
        seed: int, of k-means. Default 0.

    Attributes:
        pieces_: list of `_Piece`, one for each cluster; `allocation` is int `(components,)`, the
            bits of each component. Set by `fit`.
    """

    def __init__(self, bits=36, clusters=1, *, seed=0):
        spent = int(clusters).bit_length() - 1
        if clusters != 2**spent or bits < spent:
            raise ValueError(
                "clusters must be a power of 2 that bits can tell apart. "
                f"Received: {clusters} and {bits}"
            )
        self.bits = bits
        self.clusters = clusters
        self.seed = seed
        self._left = bits - spent

    def fit(self, streamlines):
        """Fits clusters, components, levels and bits on float `(n, points, 3)`; returns this.

        Raises:
            ValueError: the streamlines are not shaped as described.
        """
        rows = self._fit_rows(streamlines)
        cluster = np.zeros(len(rows), int)
        if self.clusters > 1:
            cluster = _nearest(rows, _centres(rows, self.clusters, self.seed))
        pieces = [rows[cluster == i] for i in range(self.clusters)]
        self.pieces_ = [_Piece(piece, self._left) for piece in pieces if len(piece)]
        return self

    def encode(self, streamlines):
        """Codes of streamlines `(n, points, 3)`: int32 `(n, 1 + components)`.

        Column 0 is the cluster, column i + 1 the level of its component i; a cluster with fewer
        components has zeros after them.
        """
        rows = self._rows(streamlines)
        width = max(len(piece.allocation) for piece in self.pieces_)
        codes = np.zeros((len(rows), 1 + width), "int32")
        least = np.full(len(rows), np.inf)
        for i, piece in enumerate(self.pieces_):
            levels = piece.encode(rows)
            error = np.sum((piece.decode(levels) - rows) ** 2, axis=1)
            better = error < least
            codes[better] = 0
            codes[better, 0] = i
            codes[better, 1 : 1 + levels.shape[1]] = levels[better]
            least[better] = error[better]
        return codes

    def decode(self, codes):
        """Streamlines of codes, integers `(n, 1 + components)`: float32 `(n, points, 3)`."""
        codes = np.asarray(codes)
        rows = np.empty((len(codes), 3 * self.points_), "float32")
        for i, piece in enumerate(self.pieces_):
            own = codes[:, 0] == i
            rows[own] = piece.decode(codes[own, 1 : 1 + len(piece.allocation)])
        return self._streamlines(rows)


class _Piece:
    """Mean, components, bits and levels of one cluster of a `TransformCodec`."""

    def __init__(self, rows, bits):
        self.mean, axes, _ = _principal(rows, min(bits, *rows.shape))
        scores = (rows - self.mean) @ axes.T
        levels = [[np.zeros(1)] for _ in axes]
        errors = [[np.mean(column.astype("float64") ** 2)] for column in scores.T]
        allocation, gains = np.zeros(len(axes), int), np.full(len(axes), np.nan)
        for _ in range(bits):
            for i in np.flatnonzero(np.isnan(gains)):
                table, error = _lloyd_max(scores[:, i], 2 ** (allocation[i] + 1))
                levels[i].append(table)
                errors[i].append(error)
                gains[i] = errors[i][-2] - error
            best = int(np.argmax(np.where(allocation < MOST_BITS, gains, -1.0)))
            if allocation[best] == MOST_BITS:
                break  # every component is as fine as it may be
            allocation[best] += 1
            gains[best] = np.nan
        used = np.flatnonzero(allocation)
        self.allocation, self.axes = allocation[used], axes[used]
        self.levels = [levels[i][allocation[i]] for i in used]

    def encode(self, rows):
        """Levels of rows `(n, dim)`: int `(n, components)`."""
        scores = (rows - self.mean) @ self.axes.T
        codes = np.zeros(scores.shape, "int32")
        for i, table in enumerate(self.levels):
            codes[:, i] = np.searchsorted((table[1:] + table[:-1]) / 2, scores[:, i])
        return codes

    def decode(self, codes):
        """Rows of levels: float32 `(n, dim)`."""
        scores = np.zeros(codes.shape, "float32")
        for i, table in enumerate(self.levels):
            scores[:, i] = table[codes[:, i]]
        return scores @ self.axes + self.mean


class HalfPrecision(_Codec):
    """float16 coordinates, as a .trx file keeps them: no codec, the rate of a plain file.

    Args:
        points: points of a streamline. Default 64.

    Attributes:
        bits: float, bits of the coordinates of a streamline.
    """

    def __init__(self, points=64):
        self.points_ = points
        self.bits = float(points * 3 * 16)

    def fit(self, streamlines):
        """Nothing to fit but the number of points; returns this object."""
        self._fit_rows(streamlines)
        self.bits = float(self.points_ * 3 * 16)
        return self

    def encode(self, streamlines):
        """Coordinates of streamlines `(n, points, 3)`: float16 `(n, 3 · points)`."""
        return self._rows(streamlines).astype("float16")

    def decode(self, codes):
        """Streamlines of coordinates `(n, 3 · points)`: float32 `(n, points, 3)`."""
        return self._streamlines(codes)


def stored_bits(streamlines, points=64):
    """What streamlines take on disk, without scalars, groups or compression.

    - .trk (TrackVis): a header of 1000 bytes; 4 bytes for the number of points and 12 bytes for
      each point.
    - .tck (MRtrix): a header of text, about 70 bytes here; 12 bytes for each point and for the
      mark that ends each streamline and the file.
    - .trx: a zip of two arrays, float16 coordinates and one uint32 offset for each streamline and
      one more; its headers, some 800 bytes, are left out.

    Args:
        streamlines: int ≥ 1, how many share a file.
        points: of a streamline. Default 64.

    Returns:
        `pandas.DataFrame` with `format`, `bits` (per streamline) and `file_bytes`.
    """
    floats = 12 * points * streamlines  # bytes of float32 coordinates
    sizes = {
        ".trk, float32": TRK_HEADER + 4 * streamlines + floats,
        ".tck, float32": TCK_HEADER + 12 * (streamlines + 1) + floats,
        ".trx, float16": floats // 2 + 4 * (streamlines + 1),
    }
    rows = [
        {"format": name, "bits": 8 * size / streamlines, "file_bytes": size}
        for name, size in sizes.items()
    ]
    return pd.DataFrame(rows)


def rate_distortion(codecs, originals, names, counts=None, *, threshold=THRESHOLD):
    """Bits and errors of codecs on the same samples.

    Args:
        codecs: `{name: codec}`: anything with `bits` and `reconstruct`, fitted on other samples.
        originals: `(samples, streamlines, points, 3)`, in units.
        names: `(samples,)`, the bundle of each sample.
        counts: int `(samples,)`, real streamlines of each sample. Default: all.
        threshold: that of `buan`, in units. Default 0.05.

    Returns:
        `pandas.DataFrame`, a row per codec: `codec`, `bits` per streamline, `mse`, `buan`,
        `distance` and `closest`, means over bundles, each bundle counting alike.
    """
    rows = []
    for name, codec in codecs.items():
        restored = [codec.reconstruct(sample) for sample in originals]
        table = bundle_table(originals, restored, names, counts, threshold=threshold)
        rows.append({"codec": name, "bits": float(codec.bits), **mean_over_bundles(table)})
    return pd.DataFrame(rows)


def _centres(rows, num_codes, seed):
    """Centres of k-means, float32 `(k, dim)`; fewer than asked for where rows are fewer."""
    # Adding 0 makes one zero of the two that floats have.
    distinct = len({row.tobytes() for row in rows + 0.0})
    clusters = min(num_codes, distinct)
    if len(rows) > LLOYD_LIMIT:
        kmeans = MiniBatchKMeans(clusters, batch_size=4096, n_init=1, random_state=seed)
    else:
        kmeans = KMeans(clusters, n_init=1, max_iter=ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        # Of few streamlines little but rounding errors is left for later stages; that centres then
        # coincide does no harm.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans.fit(rows).cluster_centers_.astype("float32")


def _nearest(rows, centres):
    """Index of the nearest centre of each row: ‖x‖² is the same for all centres and left out."""
    nearest = np.empty(len(rows), "int64")
    half = 0.5 * np.einsum("kd,kd->k", centres, centres)
    for start in range(0, len(rows), 8192):
        part = slice(start, start + 8192)
        nearest[part] = np.argmax(rows[part] @ centres.T - half, axis=1)
    return nearest


def _principal(rows, count):
    """Mean `(dim,)`, `count` orthonormal axes `(count, dim)` and their variances, largest first."""
    mean = rows.mean(axis=0, dtype="float64")
    centred = rows - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
    order = np.argsort(values)[::-1][:count]
    axes = vectors[:, order].T.astype("float32")
    return mean.astype("float32"), axes, np.maximum(values[order], 0.0)


def _balanced(variances, parts):
    """Components dealt to parts of equal size: int `(parts, components / parts)`."""
    size = len(variances) // parts
    logs = np.log(np.maximum(variances, 1e-30) / max(variances.min(), 1e-30)) + 1e-9
    groups, sums = [[] for _ in range(parts)], np.zeros(parts)
    for i in range(size * parts):
        open_sums = [s if len(g) < size else np.inf for s, g in zip(sums, groups, strict=True)]
        best = int(np.argmin(open_sums))
        groups[best].append(i)
        sums[best] += logs[i]
    return np.array(groups)


def _lloyd_max(values, count):
    """The levels of least mean squared error, float64 `(≤ count,)` rising, and that error."""
    values = np.sort(np.asarray(values, "float64"))
    sums, squares = np.cumsum(np.r_[0.0, values]), np.cumsum(np.r_[0.0, values**2])
    table = np.unique(np.quantile(values, (np.arange(count) + 0.5) / count))
    # Quantiles crowd where values do; the cube root of the density is the best (Panter and Dite,
    # 1951), and Lloyd's steps alone move the outer levels too slowly. Start half-way to even ones.
    table = np.unique(0.5 * table + 0.5 * np.linspace(values[0], values[-1], len(table)))
    error = np.inf
    for _ in range(200):
        ends = np.r_[0, np.searchsorted(values, (table[1:] + table[:-1]) / 2), len(values)]
        counts, total = np.diff(ends), np.diff(sums[ends])
        table = np.where(counts > 0, total / np.maximum(counts, 1), table)
        within = np.diff(squares[ends]) - np.where(counts, total**2 / np.maximum(counts, 1), 0.0)
        last, error = error, max(within.sum() / len(values), 0.0)
        if last - error < 1e-5 * error:
            break
    return table, error
