"""How well a codebook keeps the order of a map, and how its nodes depend on tissue.

A map has K nodes, each with a vector in the space of the encoded ones (the codebook, `(K, dim)`),
and a table of neighbours, integers `(K, n)` with −1 for "none" (`SOMQuantizer.som_grid.neighbours`
in `brainvq.layers`; any table of this form will do).

No single figure is proof of a good map. Where all nodes are alike, neighbours are correlated and
the error of the topology may be small, while nothing of the data is kept: look at the correlation
of all pairs and at the quantisation error beside them.
"""

import numpy as np

from brainvq.evaluation.codes import whole_numbers

SHARE_ABOVE = 0.95  # the correlation that the paper (Kapre) reports
_BLOCK = 8192  # vectors compared with all nodes at a time


def neighbour_correlation(codebook, neighbours):
    """Pearson's r between the vectors of neighbouring nodes.

    Args:
        codebook: float `(K, dim)`, dim at least 2.
        neighbours: integers `(K, n)`, −1 for none.

    Returns:
        A dict of floats: `mean`, `median` and `min` of r over all pairs of neighbours;
        `share_above`, the share of pairs with r > 0.95; `all_pairs`, the mean r over all pairs of
        different nodes, for comparison; and `pairs`, the number of pairs of neighbours.
        Nodes without variance have no correlation, and their pairs are left out; NaN without pairs.

    Raises:
        ValueError: the arrays are not shaped as described.
    """
    codebook, neighbours = _map(codebook, neighbours)
    if codebook.shape[1] < 2:
        raise ValueError(f"a correlation needs dim of 2 or more. Received: {codebook.shape}")
    centred = codebook - codebook.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    # Rounding leaves a little of a constant row; such a remainder must not count as a pattern.
    varied = norms > 1e-12 * np.maximum(np.abs(codebook).max(axis=1, keepdims=True), 1e-300)
    unit = np.where(varied, centred / np.where(varied, norms, 1.0), np.nan)
    r = np.clip(unit @ unit.T, -1.0, 1.0)
    beside = _adjacency(neighbours) & np.triu(np.ones(r.shape, bool), 1)
    near = r[beside]
    near = near[np.isfinite(near)]
    others = r[np.triu_indices(len(r), 1)]
    others = others[np.isfinite(others)]
    empty = len(near) == 0
    return {
        "mean": np.nan if empty else float(near.mean()),
        "median": np.nan if empty else float(np.median(near)),
        "min": np.nan if empty else float(near.min()),
        "share_above": np.nan if empty else float(np.mean(near > SHARE_ABOVE)),
        "all_pairs": float(others.mean()) if len(others) else np.nan,
        "pairs": len(near),
    }


class TopologyCounter:
    """Quantisation and topographic error over a stream of vectors; memory does not grow.

    The quantisation error is the mean Euclidean distance of a vector to its nearest node (Kohonen
    2001, section 3.13). The topographic error is the share of vectors whose nearest and second
    nearest nodes are no neighbours on the grid (Kiviluoto 1996): 0 for a map without folds. With
    the table of 4 neighbours, nodes that touch at a corner count as an error.

    Args:
        codebook: float `(K, dim)`, K at least 2.
        neighbours: integers `(K, n)`, −1 for none.

    Attributes:
        counts: int64 `(K,)`: vectors per node.
    """

    def __init__(self, codebook, neighbours):
        self.codebook, neighbours = _map(codebook, neighbours)
        if len(self.codebook) < 2:
            raise ValueError(f"a map has 2 or more nodes. Received: {self.codebook.shape}")
        self.counts = np.zeros(len(self.codebook), "int64")
        self._beside = _adjacency(neighbours)
        self._distance = 0.0
        self._squares = 0.0
        self._errors = 0

    def add(self, vectors):
        """Counts vectors.

        Args:
            vectors: float `(..., dim)`.

        Returns:
            This counter.

        Raises:
            ValueError: the vectors have another dim, or are not finite.
        """
        vectors = np.asarray(vectors)
        dim = self.codebook.shape[1]
        if vectors.ndim < 1 or vectors.shape[-1] != dim:
            raise ValueError(f"vectors must be (..., {dim}). Received: shape {vectors.shape}")
        vectors = vectors.reshape(-1, dim)
        half_squares = 0.5 * np.sum(self.codebook**2, axis=1)
        for start in range(0, len(vectors), _BLOCK):
            block = vectors[start : start + _BLOCK].astype("float64")
            if not np.isfinite(block).all():
                raise ValueError("vectors must be finite. Received: NaN or infinity")
            nearness = block @ self.codebook.T - half_squares  # (block, K)
            two = np.argpartition(-nearness, 1, axis=1)[:, :2]
            values = np.take_along_axis(nearness, two, axis=1)
            # Among equals, the first node is the nearest, as for the quantisers.
            swap = (values[:, 1] > values[:, 0]) | (
                (values[:, 1] == values[:, 0]) & (two[:, 1] < two[:, 0])
            )
            first, second = np.where(swap[:, None], two[:, ::-1], two).T
            squares = np.sum((block - self.codebook[first]) ** 2, axis=1)
            self._squares += float(squares.sum())
            self._distance += float(np.sqrt(squares).sum())
            self._errors += int(np.sum(~self._beside[first, second]))
            self.counts += np.bincount(first, minlength=len(self.codebook))
        return self

    def measures(self):
        """The errors so far.

        Returns:
            A dict: `quantization_error` (mean distance, in units of the vectors),
            `quantization_mse` (mean squared distance per dimension), `topographic_error` (a share,
            0 to 1), `vectors` (how many) and `nodes_used`. NaN where nothing was counted.
        """
        n = int(self.counts.sum())
        used = int(np.sum(self.counts > 0))
        dim = self.codebook.shape[1]
        return {
            "quantization_error": self._distance / n if n else np.nan,
            "quantization_mse": self._squares / (n * dim) if n else np.nan,
            "topographic_error": self._errors / n if n else np.nan,
            "vectors": n,
            "nodes_used": used,
        }


def topology_measures(vectors, codebook, neighbours):
    """Quantisation and topographic error of an array that fits into memory.

    Args:
        vectors: float `(..., dim)`.
        codebook: float `(K, dim)`.
        neighbours: integers `(K, n)`, −1 for none.

    Returns:
        The dict of `TopologyCounter.measures`.

    Raises:
        ValueError: the arrays are not shaped as described.
    """
    return TopologyCounter(codebook, neighbours).add(vectors).measures()


class TissueOverlap:
    """Mutual information of codes with the tissue that they cover, over a stream of code maps.

    Args:
        num_codes: size of the codebook, K.
        num_labels: number of labels, background (0) included.

    Attributes:
        table: int64 `(num_codes, num_labels)`: voxels per code and label.
    """

    def __init__(self, num_codes, num_labels):
        self.table = np.zeros((int(num_codes), int(num_labels)), "int64")

    def add(self, codes, labels):
        """Counts code maps against maps of labels.

        Args:
            codes: integers `(n, *grid)` in `[0, num_codes)`.
            labels: integers `(n, *spatial)` in `[0, num_labels)`, each spatial size a multiple of
                the grid's: every code covers a block of voxels.

        Returns:
            This counter.

        Raises:
            ValueError: a value is out of range or no integer, or the shapes do not fit.
        """
        codes = whole_numbers(codes, "codes", self.table.shape[0])
        labels = whole_numbers(labels, "labels", self.table.shape[1])
        fits = codes.ndim == labels.ndim >= 2 and codes.shape[0] == labels.shape[0]
        if not fits or any(a % b for a, b in zip(labels.shape[1:], codes.shape[1:], strict=True)):
            raise ValueError(
                "labels must be (n, *spatial) with sizes that are multiples of the codes' (n, "
                f"*grid). Received: {labels.shape} and {codes.shape}"
            )
        for code_map, label_map in zip(codes, labels, strict=True):
            for axis in range(code_map.ndim):
                code_map = code_map.repeat(label_map.shape[axis] // code_map.shape[axis], axis)
            pairs = code_map.ravel() * self.table.shape[1] + label_map.ravel()
            self.table += np.bincount(pairs, minlength=self.table.size).reshape(self.table.shape)
        return self

    def measures(self, background=True):
        """Mutual information of code and label, over the voxels so far.

        Chance alone gives a little above 0 where many codes meet few voxels.

        Args:
            background: False leaves the voxels of label 0 out, whose share would flatter. Default
                True.

        Returns:
            A dict of floats: `nmi`, normalised mutual information 2 I / (H(code) + H(label)), from
            0 (independent) to 1 (one determines the other), NaN where both are constant; `bits`, I
            in bits per voxel; `explained`, I / H(label), the share of the label's entropy that the
            code explains; and `voxels`, how many.
        """
        table = self.table if background else self.table[:, 1:]
        total = int(table.sum())
        if total == 0:
            return {"nmi": np.nan, "bits": np.nan, "explained": np.nan, "voxels": 0}
        code, label = _entropy(table.sum(axis=1)), _entropy(table.sum(axis=0))
        bits = max(code + label - _entropy(table.ravel()), 0.0)
        return {
            "nmi": 2 * bits / (code + label) if code + label > 0 else np.nan,
            "bits": bits,
            "explained": bits / label if label > 0 else np.nan,
            "voxels": total,
        }


def _entropy(counts):
    """Entropy in bits of a distribution given by counts."""
    p = counts[counts > 0] / counts.sum()
    return float(-np.sum(p * np.log2(p)))


def _map(codebook, neighbours):
    codebook, neighbours = np.asarray(codebook, "float64"), np.asarray(neighbours)
    if codebook.ndim != 2 or neighbours.ndim != 2 or len(codebook) != len(neighbours):
        raise ValueError(
            "codebook must be (K, dim) and neighbours (K, n). "
            f"Received: {codebook.shape} and {neighbours.shape}"
        )
    if not np.issubdtype(neighbours.dtype, np.integer) or (
        neighbours.size and (neighbours.min() < -1 or neighbours.max() >= len(codebook))
    ):
        raise ValueError(
            f"neighbours must be integers from -1 to {len(codebook) - 1}. "
            f"Received: dtype {neighbours.dtype}, {neighbours.min()} to {neighbours.max()}"
        )
    return codebook, neighbours


def _adjacency(neighbours):
    """Bool `(K, K)` from a table of neighbours, symmetric."""
    beside = np.zeros((len(neighbours), len(neighbours)), bool)
    nodes, columns = np.nonzero(neighbours >= 0)
    beside[nodes, neighbours[nodes, columns]] = True
    return beside | beside.T
