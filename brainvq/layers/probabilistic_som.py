"""A self-organising map with soft assignments, beside a latent space that stays continuous."""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number
from brainvq.backend import join_replicas
from brainvq.layers.quantizer import first_largest, in_parts, number_of_parts, parts_of
from brainvq.layers.som_grid import GridQuantizer


@keras.saving.register_keras_serializable(package="brainvq")
class ProbabilisticSOM(GridQuantizer):
    """Assigns each vector to every node of a map with a probability; the decoder reads the vector.

    PSOM (Manduchi, Hüser, Faltys, Vogt, Rätsch & Fortuin 2021, "T-DPSOM", section 3.1; equations
    4 and 5 of Kapre). For vector i of the batch and node j, with μ_j the node's place,

    - s_ij ∝ (1 + ‖z_i − μ_j‖²/α)^(−(α+1)/2), Student's t with α degrees of freedom, Σ_j s_ij = 1,
    - t_ij ∝ s_ij² / Σ_i s_ij, Σ_j t_ij = 1: the target, a constant of the gradient, which sharpens
      the assignment and evens out the nodes' shares.

    With n vectors in the batch and N(j) the neighbours of j on the grid, the losses are

    - `clustering_loss`: γ/n · Σ_ij t_ij log(t_ij / s_ij), the divergence of the targets,
    - `neighbourhood_loss`: −β/n · Σ_ij sg(s_ij) Σ_{e ∈ N(j)} log s_ie, which is low where
      neighbours of likely nodes are likely too.

    The first is a mean over vectors, where Kapre writes a sum: so it is in the authors' program,
    and so it does not depend on the sizes of image and batch, as a reconstruction loss that is a
    mean does not.

    Returns `{"quantized": (batch, *grid, dim), "codes": int32 (batch, *grid), "losses": {...}}`.
    `codes` are the most probable nodes. By default `quantized` is z itself, so that codes do not
    determine the reconstruction, and bits per code say nothing of it: put the layer into an
    `Autoencoder`, and use codes to map a brain onto the grid. With `quantize=True` it is the most
    probable node, and z comes as `"continuous"`, as in `SOMQuantizer`.

    Only differences of distances enter these losses: nothing draws the map as a whole to its
    vectors, and nodes that lie in one place stay there. Start from clusters of encoded data
    (`brainvq.training.codebook_init`), and watch the quantisation error.

    Memory: some ten arrays of n × nodes float32 in training; 7.3 MB each for 8 volumes of 891
    positions and 256 nodes. Of more than 1024 nodes the vectors are treated in parts, computed
    again in the backward pass: as much as 128 nodes would take.

    Args:
        som_shape: (height, width) of the map. Default (16, 16): 256 nodes.
        topology: `"toroid"` (default, as in Kapre), where opposite borders meet, or
            `"rectangular"`.
        alpha: float > 0, degrees of freedom. Default 10, as in Kapre.
        gamma: float ≥ 0, γ. Default 1, as in Kapre.
        beta: float ≥ 0, β. Default 1, as in Kapre.
        include_node: bool, whether N(j) holds node j itself beside its neighbours. Default False,
            as in the authors' program; True reads N as in equation 3.
        initializer: Keras initialiser of the codebook `(height · width, dim)`. Default
            `"random_uniform"`, the range [−0.05, 0.05].
        quantize: bool, whether the decoder reads the most probable node instead of z. Default
            False, equation 5.
        gradient: `"straight_through"` (default) or `"rotation"`, with `quantize`; see `Quantizer`.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    loss_names = ("clustering_loss", "neighbourhood_loss")

    def __init__(
        self,
        som_shape: tuple[int, int] = (16, 16),
        topology: str = "toroid",
        alpha: float = 10.0,
        gamma: float = 1.0,
        beta: float = 1.0,
        include_node: bool = False,
        initializer: str | keras.initializers.Initializer = "random_uniform",
        quantize: bool = False,
        gradient: str = "straight_through",
        **kwargs,
    ):
        super().__init__(som_shape, topology, beta, initializer, gradient, **kwargs)
        self.alpha = number("alpha", alpha, above=True)
        self.gamma = number("gamma", gamma)
        self.include_node = bool(include_node)
        self.quantize = bool(quantize)
        own = np.eye(self.num_codes, dtype="float32") if include_node else 0.0
        self._adjacency = self.som_grid.adjacency + own
        self._columns = list(self.som_grid.neighbours.T)

    @property
    def has_continuous(self) -> bool:
        """Whether `call` returns `continuous`: not where the decoder reads z itself."""
        return self.quantize

    def call(self, z, training: bool | None = None, mask=None):
        """Assigns `z` `(batch, *grid, dim)`; see the class for what is returned."""
        z, mask = self._masked(z, mask)
        weights = None if mask is None else ops.reshape(mask, (-1,))
        vectors = ops.reshape(z, (-1, z.shape[-1]))  # (n, dim)
        codebook = self._learning_codebook(vectors)
        # Of very many nodes a part of the vectors at a time; it must know the nodes' shares of all.
        in_one = number_of_parts(self.num_codes) == 1 or 0 in vectors.shape
        shares = [] if in_one else [self._log_shares(vectors, codebook, weights)]

        def assign(vectors, codebook, *shares, number):
            squares = squared_distances(vectors, codebook)
            log_s = self._log_assignments(squares)
            log_t = sharpened(log_s, *shares) if shares else log_targets(log_s, weights)
            log_t = ops.stop_gradient(log_t)
            divergence = ops.sum(ops.exp(log_t) * (log_t - log_s), axis=-1)
            # Σ_j s_ij Σ_{e ∈ N(j)} log s_ie, with the sum over j first: neighbours are mutual.
            near = self._sums_of_neighbours(ops.stop_gradient(ops.exp(log_s)))  # (n, nodes)
            return [divergence, ops.sum(near * log_s, axis=-1), first_largest(-squares)]

        divergence, nearness, most_probable = in_parts(
            assign, vectors, self.num_codes, codebook, *shares
        )
        losses = {
            "clustering_loss": self.gamma * self._mean(divergence, weights),
            "neighbourhood_loss": -self.live("beta") * self._mean(nearness, weights),
        }
        nodes, codes = self._look_up(z, most_probable, ops.stop_gradient(self.codebook))
        if not self.quantize:
            return self._outputs(z, losses, codes)
        return self._outputs(self._pass_gradient(z, nodes), losses, codes, continuous=z)

    def log_assignments(self, vectors):
        """log s_ij of equation 4.

        Args:
            vectors: float32 `(n, dim)`.

        Returns:
            Float32 `(n, nodes)`, nats; the exponentials of a row sum to 1.
        """
        squares = squared_distances(vectors, self._learning_codebook(vectors))
        return self._log_assignments(squares)

    def _log_shares(self, vectors, codebook, mask):
        """log Σ_i s_ij over the vectors of all replicas that `mask`, bool `(n,)`, says to count.

        Float32 `(nodes,)`, a constant of the gradient.
        """
        vectors, codebook = ops.stop_gradient(vectors), ops.stop_gradient(codebook)
        sums = []
        for part in parts_of(vectors, self.num_codes):
            log_s = self._log_assignments(squared_distances(vectors[part], codebook))
            sums.append(log_sums(log_s, None if mask is None else mask[part]))
        return over_replicas(ops.logsumexp(ops.stack(sums), axis=0))

    def _sums_of_neighbours(self, shares):
        """Of shares `(n, nodes)` the sum over the neighbours of each node, the same shape."""
        if number_of_parts(self.num_codes) == 1:
            return ops.matmul(shares, self._adjacency)
        # Of very many nodes a matrix of nodes × nodes is larger than all else. Behind the last node
        # stands a nought, for those that have fewer than four.
        padded = ops.pad(shares, [[0, 0], [0, 1]])
        found = [
            ops.take(padded, np.where(c < 0, self.num_codes, c), axis=1) for c in self._columns
        ]
        return sum(found, shares if self.include_node else 0.0)

    def _log_assignments(self, squares):
        return ops.log_softmax(-0.5 * (self.alpha + 1.0) * ops.log1p(squares / self.alpha), axis=-1)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "gamma": self.gamma,
            "include_node": self.include_node,
            "quantize": self.quantize,
        }


def squared_distances(vectors, codebook):
    """‖z_i − μ_j‖², float32 `(n, nodes)`."""
    # Distances do not change when all is moved; around 0 their expansion cancels least.
    centre = ops.stop_gradient(ops.mean(codebook, axis=0))
    vectors, nodes = vectors - centre, codebook - centre
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    squares = squares + ops.sum(ops.square(nodes), axis=-1)
    return ops.maximum(squares - 2.0 * ops.matmul(vectors, ops.transpose(nodes)), 0.0)


def log_targets(log_s, mask=None):
    """log t_ij of equation 4, from log s_ij `(n, nodes)`: sharper, and even over the nodes.

    The sum over i is one over the vectors of all replicas that `mask`, bool `(n,)`, says to count.
    """
    if 0 in log_s.shape:  # where nothing is counted nothing is targeted
        return ops.log_softmax(log_s, axis=-1)
    return sharpened(log_s, over_replicas(log_sums(log_s, mask)))


def sharpened(log_s, log_shares):
    """log t_ij from log s_ij `(n, nodes)` and log Σ_i s_ij `(nodes,)`."""
    return ops.log_softmax(2.0 * log_s - log_shares, axis=-1)


def log_sums(log_s, mask=None):
    """log Σ_i s_ij of log s_ij `(n, nodes)` over the vectors of a mask `(n,)`: `(nodes,)`."""
    counted = log_s if mask is None else ops.where(mask[:, None], log_s, -1e9)
    return ops.logsumexp(counted, axis=0)


def over_replicas(log_sums):
    """The logarithm of the sum over all replicas of what these are logarithms of."""
    return ops.logsumexp(join_replicas(log_sums[None]), axis=0)
