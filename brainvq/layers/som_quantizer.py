"""The quantiser whose codes are the nodes of a self-organising map."""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number
from brainvq.backend import mean_over_replicas
from brainvq.layers.quantizer import count_codes, nearest_codes, sum_by_code
from brainvq.layers.som_grid import GridQuantizer


@keras.saving.register_keras_serializable(package="brainvq")
class SOMQuantizer(GridQuantizer):
    """Replaces each vector by its nearest node of a map; the node's neighbours move along.

    SOM-VAE (Fortuin, Hüser, Locatello, Strathmann & Rätsch 2019, equation 2; Kapre, equation
    3). With e the node nearest to z, N(e) the node itself and its neighbours on the grid (fewer at
    the border of a rectangle), and sg the stopped gradient, the losses are

    - `commitment_loss`: α · mean ‖z − e‖², which moves z and e towards each other,
    - `neighbourhood_loss`: β · mean Σ_{ẽ ∈ N(e)} ‖ẽ − sg(z)‖², which moves the node and its
      neighbours to z,

    where the mean is over all elements of z, and a node that does not exist adds nothing.

    Returns `{"quantized": (batch, *grid, dim), "codes": int32 (batch, *grid), "continuous":
    (batch, *grid, dim), "losses": {...}}`. `quantized` passes its gradient to z, not to the
    codebook. `continuous` is z itself: equation 3 of Kapre also decodes it, with the same decoder,
    and weighs both reconstructions (γ), which is up to the model.

    Node k lies in row k // width and column k % width of the map.

    Args:
        som_shape: (height, width) of the map. Default (16, 16): 256 codes.
        topology: `"rectangular"` (default), or `"toroid"`, where opposite borders meet.
        alpha: float ≥ 0, α. Default 6, as in Kapre.
        beta: float ≥ 0, β. Default 1, as in Kapre.
        initializer: Keras initialiser of the codebook `(height · width, dim)`. Default
            `"random_uniform"`, the range [−0.05, 0.05].
        gradient: `"straight_through"` (default) or `"rotation"`; see `Quantizer`.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    loss_names = ("commitment_loss", "neighbourhood_loss")

    def __init__(
        self,
        som_shape: tuple[int, int] = (16, 16),
        topology: str = "rectangular",
        alpha: float = 6.0,
        beta: float = 1.0,
        initializer: str | keras.initializers.Initializer = "random_uniform",
        gradient: str = "straight_through",
        **kwargs,
    ):
        super().__init__(som_shape, topology, beta, initializer, gradient, **kwargs)
        self.alpha = number("alpha", alpha)
        self._members = self.som_grid.adjacency + np.eye(self.num_codes, dtype="float32")

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, dim)`; see the class for what is returned."""
        z, vectors, mask, weights = self._flatten(z, mask)
        codebook = self._learning_codebook(vectors)
        flat_codes = nearest_codes(vectors, ops.stop_gradient(codebook))
        quantized, codes = self._look_up(z, flat_codes, codebook)
        spread = self._neighbourhood(vectors, flat_codes, codebook, weights)
        losses = {
            "commitment_loss": self.alpha * self._mean(ops.square(z - quantized), mask),
            "neighbourhood_loss": self.live("beta") * spread,
        }
        passed = self._pass_gradient(z, ops.stop_gradient(quantized))
        return self._outputs(passed, losses, codes, continuous=z)

    def _neighbourhood(self, vectors, flat_codes, codebook, weights):
        """Squared distances of nodes and their neighbours to `vectors`, per element of these.

        Σ ‖ẽ − z‖² over the z at a node is n ‖ẽ‖² − 2 ẽ·Σz + Σ‖z‖². Sums over the vectors of each
        node are taken once and then shared with its neighbours: a third of the time of fetching
        five nodes for each vector.
        """
        # Distances do not change when all is moved; around 0 their expansion cancels least.
        centre = ops.stop_gradient(ops.mean(codebook, axis=0))
        vectors, nodes = vectors - centre, codebook - centre
        sums = sum_by_code(vectors, flat_codes, self.num_codes, weights)
        counts = count_codes(flat_codes, self.num_codes, weights)  # (nodes,)
        squares = ops.sum(ops.square(vectors), axis=-1)  # (n,)
        sizes = ops.take(np.sum(self._members, axis=0), flat_codes)
        sizes = sizes if weights is None else sizes * weights
        # Neighbours are mutual: what nodes around node k hold is row k of these.
        counts, sums = ops.matmul(self._members, counts[:, None]), ops.matmul(self._members, sums)
        total = ops.sum(counts * ops.square(nodes)) - 2.0 * ops.sum(nodes * sums)
        elements = ops.cast(ops.size(vectors), "float32")
        if weights is not None:
            elements = ops.sum(weights) * vectors.shape[-1]
        return mean_over_replicas(total + ops.sum(sizes * squares), elements)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "alpha": self.alpha}
