"""The grid of a self-organising map: its nodes and neighbours, and what its quantisers share."""

import keras
import numpy as np

from brainvq.arguments import whole
from brainvq.layers.quantizer import Quantizer

TOPOLOGIES = ("rectangular", "toroid")


class SOMGrid:
    """Nodes on a grid of `height` × `width`, each with up to four neighbours.

    Node k lies in row k // width and column k % width. On a toroid the last row is next to the
    first and the last column to the first; on a rectangle nodes at the border have fewer
    neighbours. Neighbours are a set: where a toroid is 2 wide, left and right are one node, which
    counts once, and where it is 1 wide a node is not its own neighbour.

    Args:
        height: int ≥ 1, rows.
        width: int ≥ 1, columns.
        topology: `"rectangular"` or `"toroid"`.

    Attributes:
        height: int.
        width: int.
        topology: str.
        neighbours: NumPy int32 `(nodes, 4)`: the nodes above, below, left and right; −1 where there
            is none.
        coordinates: NumPy int32 `(nodes, 2)`: row and column.
        adjacency: NumPy float32 `(nodes, nodes)`: 1 for neighbours, else 0; symmetric.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, height: int, width: int, topology: str = "rectangular"):
        if topology not in TOPOLOGIES:
            raise ValueError(
                f"`topology` must be one of {TOPOLOGIES}. Received: topology={topology}"
            )
        self.height, self.width = whole("height", height), whole("width", width)
        self.topology = topology
        rows, columns = np.divmod(np.arange(self.height * self.width), self.width)
        self.coordinates = np.stack([rows, columns], axis=-1).astype("int32")
        self.neighbours = np.stack(
            [self._step(*step) for step in ((-1, 0), (1, 0), (0, -1), (0, 1))], axis=-1
        ).astype("int32")
        # A later column that repeats an earlier one, or the node itself, names no new neighbour.
        self.neighbours[self.neighbours == np.arange(self.num_nodes)[:, None]] = -1
        for column in range(1, 4):
            repeated = self.neighbours[:, :column] == self.neighbours[:, column, None]
            self.neighbours[repeated.any(axis=1), column] = -1
        self.adjacency = np.zeros((self.num_nodes, self.num_nodes), "float32")
        nodes, columns = np.nonzero(self.neighbours >= 0)
        self.adjacency[nodes, self.neighbours[nodes, columns]] = 1.0

    @property
    def num_nodes(self) -> int:
        """Number of nodes, height · width."""
        return self.height * self.width

    def distances(self, metric: str = "steps") -> np.ndarray:
        """Distances on the grid between all nodes.

        Args:
            metric: `"steps"`, the fewest steps from neighbour to neighbour; or `"euclidean"`, the
                length of the straight line, with neighbours 1 apart. On a toroid each takes the
                shorter way round.

        Returns:
            NumPy float32 `(nodes, nodes)`.

        Raises:
            ValueError: if `metric` is another.
        """
        if metric not in ("steps", "euclidean"):
            raise ValueError(f"`metric` must be 'steps' or 'euclidean'. Received: metric={metric}")
        apart = np.abs(self.coordinates[:, None] - self.coordinates[None])  # (nodes, nodes, 2)
        if self.topology == "toroid":
            apart = np.minimum(apart, np.array([self.height, self.width]) - apart)
        if metric == "steps":
            return apart.sum(axis=-1).astype("float32")
        return np.sqrt(np.square(apart).sum(axis=-1)).astype("float32")

    def _step(self, down, right):
        """The node one step from each node, or −1 beyond the border of a rectangle."""
        rows, columns = self.coordinates[:, 0] + down, self.coordinates[:, 1] + right
        inside = (rows >= 0) & (rows < self.height) & (columns >= 0) & (columns < self.width)
        nodes = rows % self.height * self.width + columns % self.width
        return nodes if self.topology == "toroid" else np.where(inside, nodes, -1)


class GridQuantizer(Quantizer):
    """Base class of quantisers whose codes are the nodes of a `SOMGrid`.

    Args:
        som_shape: (height, width) of the map; it has height · width ≥ 2 codes.
        topology: `"rectangular"` or `"toroid"`.
        beta: float ≥ 0, factor of the loss that draws neighbours together.
        initializer: Keras initialiser of the codebook `(height · width, dim)`.
        gradient: see `Quantizer`.
        **kwargs: see `Bottleneck`.

    Attributes:
        som_grid: the `SOMGrid`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        som_shape: tuple[int, int],
        topology: str,
        beta: float,
        initializer: str | keras.initializers.Initializer,
        gradient: str = "straight_through",
        **kwargs,
    ):
        if not isinstance(som_shape, list | tuple) or len(som_shape) != 2:
            raise ValueError(
                f"`som_shape` must be (height, width). Received: som_shape={som_shape}"
            )
        som_grid = SOMGrid(*som_shape, topology)
        super().__init__(som_grid.num_nodes, beta, gradient=gradient, **kwargs)
        self.som_grid = som_grid
        self.som_shape = (som_grid.height, som_grid.width)
        self.topology = topology
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        """Creates the codebook for `input_shape` `(batch, *grid, dim)`."""
        super().build(input_shape)
        self.embedding = self.add_weight(
            shape=(self.num_codes, input_shape[-1]), initializer=self.initializer, name="embedding"
        )

    def get_config(self):
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["num_codes"], config["distance"]  # they follow from the class and `som_shape`
        return {
            **config,
            "som_shape": list(self.som_shape),
            "topology": self.topology,
            "initializer": keras.initializers.serialize(self.initializer),
        }
