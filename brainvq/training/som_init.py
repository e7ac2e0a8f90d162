"""Codebooks that are maps from the start: Kohonen's map without gradients, and order on a grid.

Arrays only: `brainvq.training.codebook_init` joins these with models.

The final radius of a map trades order for closeness. Near 0 the map is k-means. On held-out vectors
of a 3D autoencoder of simulated brains (32 dimensions, 16 × 16 nodes, rectangle and toroid) the
topographic error with 4 neighbours, and the mean distance to the nearest node as a multiple of
k-means', were

    radius 0.4: 0.37 and 0.40, 1.00 and 1.00
    radius 0.5: 0.26 and 0.30, 1.03 and 1.04
    radius 0.7: 0.15 and 0.18, 1.09 and 1.11
    radius 1.0: 0.10 and 0.18, 1.17 and 1.20
    radius 1.5: 0.09 and 0.18, 1.28 and 1.36

A `SOMQuantizer` in training holds its nodes about where r = 1 / √(2 ln((α + β) / β)) would: 0.5
with its default losses, whatever the radius that it starts from.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group

_BLOCK = 8192  # vectors compared with all nodes at a time
_PER_NODE = 20  # vectors for each node that decide between the starts


def kohonen_map(
    vectors, grid, *, iterations=40, first_radius=None, final_radius=1.0, starts=12, seed=0
):
    """Fits a self-organising map by batch iterations, without gradients.

    The batch map of Kohonen (2001, section 3.6). With h(j, k) = exp(−d(j, k)²/2r²), d the distance
    on the grid and r the radius, each iteration finds the node c(x) nearest to every vector and
    moves all nodes at once:

        w_k ← Σ_x h(c(x), k) x / Σ_x h(c(x), k)

    The radius shrinks by a constant factor from `first_radius` to `final_radius`. A map may freeze
    in folds or twists, so several starts are tried on a random sample of 20 vectors per node: the
    grid laid into the plane of the first two principal components (a toroid: as a torus into the
    space of the first four), and the same turned at random. The one with the least distortion Σ_x
    Σ_k h(c(x), k) ‖x − w_k‖² (ibid., section 3.12) then takes its last `iterations // 4` steps on
    all vectors, at the final radius.

    Args:
        vectors: float `(n, dim)`, n ≥ 1, finite.
        grid: `brainvq.layers.SOMGrid`.
        iterations: int ≥ 1, iterations from the first to the final radius. Default 40.
        first_radius: float > 0, in steps of the grid; None (default) for half its longer side.
        final_radius: float > 0, in steps of the grid. Default 1; see the module for others.
        starts: int ≥ 1, starts to choose from. Default 12.
        seed: int, for the sample and the turns; the same seed gives the same map.

    Returns:
        Float32 NumPy array `(grid.num_nodes, dim)`.

    Raises:
        ValueError: if an argument is out of its range.
    """
    vectors = _checked_vectors(vectors)
    if iterations < 1 or starts < 1:
        raise ValueError(
            "`iterations` and `starts` must be at least 1. "
            f"Received: iterations={iterations}, starts={starts}"
        )
    longer = max(grid.height, grid.width) / 2
    first_radius = max(longer, final_radius) if first_radius is None else first_radius
    if not 0 < final_radius <= first_radius:
        raise ValueError(
            "`final_radius` must be above 0 and at most `first_radius`. "
            f"Received: final_radius={final_radius}, first_radius={first_radius}"
        )
    # Distances do not change when all is moved; around 0 their expansion cancels least.
    centre = vectors.mean(axis=0, dtype="float64")
    vectors = (vectors - centre).astype("float32")
    radii = np.geomspace(first_radius, final_radius, iterations)
    rng = np.random.default_rng(seed)
    sample = vectors[rng.permutation(len(vectors))[: _PER_NODE * grid.num_nodes]]
    maps = [_fit(sample, start, grid, radii) for start in _starts(sample, grid, starts, rng)]
    nodes = min(maps, key=lambda nodes: _distortion(sample, nodes, grid, final_radius))
    if len(sample) < len(vectors):
        nodes = _fit(vectors, nodes, grid, [final_radius] * max(iterations // 4, 1))
    return (nodes + centre).astype("float32")


def order_on_grid(centres, grid, *, starts=12, seed=0):
    """Places centres on the nodes of a grid, so that neighbours on it are near in space.

    The sum over neighbouring nodes of the squared distance between their centres is lowered: a
    quadratic assignment problem. Several maps are fitted to the centres (`kohonen_map`), centres
    assigned to their nodes one to one, at the least sum of squared distances, and pairs swapped as
    long as that helps. The best result is returned: a local optimum, and never worse than the order
    given.

    Args:
        centres: float `(grid.num_nodes, dim)`, such as the centroids of k-means, in any order.
        grid: `brainvq.layers.SOMGrid`.
        starts: int ≥ 1, maps to start from. Default 12.
        seed: int; the same seed gives the same order.

    Returns:
        Int64 NumPy array `(grid.num_nodes,)`, a permutation: `centres[order]` is the codebook, and
        node k gets centre `order[k]`.

    Raises:
        ValueError: if there is not one centre for each node.
    """
    centres = np.asarray(centres, "float64")
    if centres.ndim != 2 or len(centres) != grid.num_nodes:
        raise ValueError(
            f"`centres` must be ({grid.num_nodes}, dim). Received: shape {centres.shape}"
        )
    centres = centres - centres.mean(axis=0)
    apart = cdist(centres, centres, "sqeuclidean")
    rng = np.random.default_rng(seed)
    radii = np.geomspace(max(grid.height / 2, grid.width / 2, 1.0), 1.0, 30)
    vectors = centres.astype("float32")
    orders = [np.arange(grid.num_nodes)]
    for start in _starts(vectors, grid, starts, rng):
        nodes = _fit(vectors, start, grid, radii)
        _, order = linear_sum_assignment(cdist(nodes, centres, "sqeuclidean"))
        orders.append(_swap(order, apart, grid.adjacency))
    return min(orders, key=lambda order: np.sum(grid.adjacency * apart[np.ix_(order, order)]))


def _checked_vectors(vectors):
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(f"`vectors` must be (n, dim), n > 0. Received: shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("`vectors` must be finite. Received: NaN or infinity")
    return vectors


def _starts(vectors, grid, count, rng):
    """Yields `count` codebooks: the grid laid into the principal space, as it is and turned."""
    values, axes = np.linalg.eigh(vectors.T.astype("float64") @ vectors / len(vectors))
    # The longer side goes along the first component.
    sides = [0, 1] if grid.height >= grid.width else [1, 0]
    places = (grid.coordinates + 0.5) / (grid.height, grid.width)
    places = places[:, sides]  # (nodes, 2) in (0, 1)
    if grid.topology == "toroid":
        angles = 2 * np.pi * places
        places = np.sqrt(2) * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        # The longer way round spans components 1 and 2, then 1 and 3, then 1 and 4.
        layouts = [[0, 2, 1, 3], [0, 1, 2, 3], [0, 1, 3, 2]]
    else:
        places, layouts = np.sqrt(12) * (places - 0.5), [[0, 1]]
    rank = min(places.shape[1], len(values))
    deviations = np.sqrt(np.maximum(values[::-1][:rank], 0.0))
    components = axes[:, ::-1][:, :rank].T * deviations[:, None]  # (rank, dim)
    for start in range(count):
        if start < len(layouts):
            laid = places[:, layouts[start]]  # each column has variance 1
        else:
            laid = places @ ortho_group.rvs(places.shape[1], random_state=rng)
        yield laid[:, :rank] @ components


def _fit(vectors, nodes, grid, radii):
    """Takes one batch iteration at each of `radii`; returns the nodes."""
    squares = np.square(grid.distances("euclidean").astype("float64"))
    for radius in radii:
        sums, counts = _sums(vectors, _nearest(vectors, nodes), len(nodes))
        kernel = np.exp(-squares / (2 * radius**2))  # (nodes, nodes)
        weights = (kernel @ counts)[:, None]
        # A node so far from all winners that its weights vanish stays where it is.
        nodes = np.where(weights > 1e-200, kernel @ sums / np.maximum(weights, 1e-200), nodes)
    return nodes


def _nearest(vectors, nodes):
    """Index of the node nearest to each vector: argmax x·w − ‖w‖²/2, block by block."""
    across = nodes.T.astype("float32")
    half_squares = (0.5 * np.sum(nodes**2, axis=1)).astype("float32")
    codes = np.empty(len(vectors), "int32")
    for start in range(0, len(vectors), _BLOCK):
        block = slice(start, start + _BLOCK)
        codes[block] = np.argmax(vectors[block] @ across - half_squares, axis=1)
    return codes


def _sums(vectors, codes, num_nodes):
    """Sum and number of the vectors at each node."""
    ones = np.ones(len(codes))  # float64: a sum may run over most of the data
    members = csr_array((ones, codes, np.arange(len(codes) + 1)), shape=(len(codes), num_nodes))
    return members.T @ vectors, np.bincount(codes, minlength=num_nodes)


def _distortion(vectors, nodes, grid, radius):
    """Mean over vectors of Σ_k h(c(x), k) ‖x − w_k‖², with Σ_k h = 1."""
    kernel = np.exp(-np.square(grid.distances("euclidean") / radius) / 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    codes = _nearest(vectors, nodes)
    means, squares = kernel @ nodes, kernel @ np.sum(nodes**2, axis=1)
    cross = np.sum(vectors * means[codes], axis=1)
    return np.mean(np.sum(vectors**2, axis=1) - 2 * cross + squares[codes])


def _swap(order, apart, adjacency):
    """Swaps pairs of `order` as long as the sum of `apart` over neighbours falls, steepest first.

    With D the squared distances between the centres in their present order and M = A D, the sum
    changes by M_ij + M_ji + 2 A_ij D_ij − M_ii − M_jj where i and j are swapped, and M by a matrix
    of rank 1.
    """
    order = order.copy()
    adjacency = adjacency.astype("float64")
    distances = apart[np.ix_(order, order)]
    around = adjacency @ distances
    least = 1e-9 * max(apart.max(), 1e-300)
    while True:
        own = np.diag(around)
        change = around + around.T + 2 * adjacency * distances - own[:, None] - own
        i, j = np.unravel_index(np.argmin(change), change.shape)
        if change[i, j] > -least:
            return order
        around += np.outer(adjacency[:, i] - adjacency[:, j], distances[j] - distances[i])
        pair, swapped = [i, j], [j, i]
        around[:, pair] = around[:, swapped]
        distances[pair] = distances[swapped]
        distances[:, pair] = distances[:, swapped]
        order[pair] = order[swapped]
