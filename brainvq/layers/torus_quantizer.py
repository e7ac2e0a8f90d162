"""The quantiser whose codes are places on a torus that the encoder chooses."""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import number, whole
from brainvq.backend import sum_over_replicas
from brainvq.layers.quantizer import Quantizer, are_finite, count_codes, nearest_codes, sum_by_code
from brainvq.layers.som_grid import GridQuantizer

# Sharpness of the soft assignments behind the usage loss: a node and its neighbours, on 16 nodes.
SHARPNESS = 16.0
# Guards a division where no vector is near a node; small beside the count of one vector.
EPSILON = 1e-3


@keras.saving.register_keras_serializable(package="brainvq")
class TorusQuantizer(GridQuantizer):
    """Gives each vector a place on a torus; the codes are the nodes of a regular grid there.

    A self-organising map must find its order while it learns, and its two dimensions cannot follow
    vectors that vary in many: it folds. Here the order is built in, and the encoder learns to use
    it. A dense layer reads two angles off each vector z, as points on two unit circles,

        c(z) = (cos θ, sin θ, cos φ, sin φ),

    and the vector that goes on is v = z + r c(z) P, with r the `size` of the torus and P four fixed
    orthonormal directions. Node k, of the angles θ_k and φ_k of its row and column, lies at

        e_k = r c_k P + m_k,

    where m_k is the mean of the z at the node and, weighed by a Gaussian of `radius` nodes, at the
    nodes around it, by moving averages over the training steps: a batch map (Kohonen 2001, section
    3.6) of what varies beside the two angles. The code of z is the node nearest to v.

    What a decoder of v can read is not less than z holds, while codes tell the angles and what
    usually goes with them. Train the decoder on both (`continuous_weight` of `Autoencoder`).

    Losses, weighed:

    - `commitment_loss`: β · mean ‖v − sg(e)‖² over all elements,
    - `usage_loss`: γ · KL(share of each node ‖ all alike), in nats, over soft assignments of the
      batch: every node shall be somebody's place.

    Returns `{"quantized": (batch, *grid, dim), "codes": int32 (batch, *grid), "continuous":
    (batch, *grid, dim), "losses": {...}}`; `continuous` is v, and `quantized` passes its gradient
    to v. The codebook is no trainable weight; it moves when `training=True` and the layer is
    `trainable`. Under `tf.distribute` the sums are taken over all replicas.

    Neighbouring nodes are alike and neighbours on the grid are next to each other in space by
    construction, the more so the larger `size` is: measures of the topology say that the order is
    there, and not that the data have it. Judge the codes by what they decode to, and by how well
    they predict the tissue.

    Args:
        som_shape: (height, width) of the grid. Default (16, 16): 256 codes.
        size: float > 0, r, the radius of both circles, in units of z. Default 3.
        radius: float > 0, standard deviation of the neighbourhood, in nodes. Default 1.
        decay: float in [0, 1), of the moving averages, per step. Default 0.95.
        beta: float ≥ 0, β. Default 0.02: more draws the details out of v.
        gamma: float ≥ 0, γ. Default 0.2.
        gradient: `"straight_through"` (default) or `"rotation"`; see `Quantizer`.
        seed: int, for the directions P.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range, or, in `build`, z has fewer than 4 channels.
    """

    loss_names = ("commitment_loss", "usage_loss")

    def __init__(
        self,
        som_shape: tuple[int, int] = (16, 16),
        size: float = 3.0,
        radius: float = 1.0,
        decay: float = 0.95,
        beta: float = 0.02,
        gamma: float = 0.2,
        gradient: str = "straight_through",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(som_shape, "toroid", beta, "zeros", gradient, **kwargs)
        self.size = number("size", size, above=True)
        self.radius = number("radius", radius, above=True)
        self.decay = number("decay", decay, most=1.0, below=True)
        self.gamma = number("gamma", gamma)
        self.seed = whole("seed", seed, 0)
        angles = 2.0 * np.pi * self.som_grid.coordinates / np.array(self.som_shape)
        circles = np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # (nodes, 2, 2)
        self._places = circles.reshape(-1, 4).astype("float32")
        apart = self.som_grid.distances("euclidean")
        self._near = np.exp(-0.5 * np.square(apart / self.radius)).astype("float32")

    def build(self, input_shape):
        """Creates the dense layer, codebook, counts and sums for `(batch, *grid, dim)`."""
        Quantizer.build(self, input_shape)  # not that of a grid, whose codebook is trained
        dim = input_shape[-1]
        if dim < 4:
            raise ValueError(
                f"A torus needs vectors of at least 4 numbers. Received: input_shape={input_shape}"
            )
        draws = np.random.default_rng(self.seed).normal(size=(dim, 4))
        self._directions = self.size * np.linalg.qr(draws)[0].T.astype("float32")  # (4, dim)
        self.coordinates = keras.layers.Dense(4, dtype="float32", name="coordinates")
        self.coordinates.build(input_shape)
        start = self._places @ self._directions
        state = {"trainable": False, "autocast": False, "aggregation": "only_first_replica"}
        self.embedding = self.add_weight(
            shape=(self.num_codes, dim), initializer=_Constant(start), name="embedding", **state
        )
        self.code_sums = self.add_weight(
            shape=(self.num_codes, dim), initializer="zeros", name="code_sums", **state
        )
        self.code_counts = self.add_weight(
            shape=(self.num_codes,), initializer="zeros", name="code_counts", **state
        )

    def call(self, z, training: bool | None = None, mask=None):
        """Quantises `z` `(batch, *grid, dim)`; see the class for what is returned."""
        z, z_vectors, mask, weights = self._flatten(z, mask)
        places = self.places(z)  # (n, 4)
        codebook = ops.convert_to_tensor(self.embedding)
        v = z + ops.reshape(ops.matmul(places, self._directions), ops.shape(z))
        flat_codes = nearest_codes(self._flatten(v)[1], codebook)
        nodes, codes = self._look_up(v, flat_codes, codebook)
        if training and self.trainable:
            self._update(z_vectors, flat_codes, weights)
        losses = {
            "commitment_loss": self._commitment(v, nodes, mask),
            "usage_loss": self.gamma * self._unevenness(places, weights),
        }
        return self._outputs(self._pass_gradient(v, nodes), losses, codes, continuous=v)

    def places(self, z):
        """c(z): `z` `(batch, *grid, dim)` → float32 `(n, 4)`, two points on unit circles."""
        pairs = ops.reshape(self.coordinates(z), (-1, 2, 2))
        lengths = ops.sum(ops.square(pairs), axis=-1, keepdims=True)
        return ops.reshape(pairs * ops.rsqrt(lengths + 1e-12), (-1, 4))

    def set_coordinates(self, vectors: np.ndarray) -> None:
        """Starts the angles at the principal components of encoded data.

        θ is the angle in the plane of the first two, φ in that of the next two, each scaled to
        variance 1: so the vectors spread over the torus from the first step on.

        Args:
            vectors: float `(n, dim)`, n ≥ 5, such as a sample of what the encoder makes.

        Raises:
            ValueError: if the layer is not built yet or the shape is another.
        """
        vectors = np.asarray(vectors, "float64")
        if not self.built or vectors.ndim != 2 or vectors.shape[1] != self.embedding.shape[1]:
            raise ValueError(
                f"{self.name} must be built, and vectors (n, dim). Received: {vectors.shape}"
            )
        mean = vectors.mean(axis=0)
        variances, axes = np.linalg.eigh(np.cov(vectors.T))
        kernel = axes[:, :-5:-1] / np.sqrt(np.maximum(variances[:-5:-1], 1e-12))
        self.coordinates.set_weights([kernel.astype("float32"), (-mean @ kernel).astype("float32")])

    def set_codebook(self, vectors, counts=None):
        """Refuses: the nodes of a torus follow from its angles; see `set_coordinates`.

        Args:
            vectors: ignored, of any shape.
            counts: ignored, of any shape.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"The codebook of {self.name} follows from its angles: use `set_coordinates`. "
            f"Received: vectors of shape {np.shape(vectors)}"
        )

    def _update(self, vectors, flat_codes, weights):
        """Moves the counts, the sums and the nodes by one step."""
        counts = count_codes(flat_codes, self.num_codes, weights)
        sums = sum_by_code(vectors, flat_codes, self.num_codes, weights)
        counts, sums = sum_over_replicas([counts, sums])
        counts = self.decay * ops.convert_to_tensor(self.code_counts) + (1 - self.decay) * counts
        sums = self.decay * ops.convert_to_tensor(self.code_sums) + (1 - self.decay) * sums
        around = ops.matmul(self._near, counts[:, None]) + EPSILON
        means = ops.matmul(self._near, sums) / around
        nodes = ops.matmul(self._places, self._directions) + means
        finite = are_finite(self.name, nodes, counts, sums)
        for weight, value in (
            (self.embedding, nodes),
            (self.code_counts, counts),
            (self.code_sums, sums),
        ):
            weight.assign(ops.where(finite, value, ops.convert_to_tensor(weight)))

    def _unevenness(self, places, weights):
        """KL(mean soft assignment ‖ all alike), in nats."""
        logits = SHARPNESS * ops.matmul(places, self._places.T)  # (n, nodes)
        share = self._mean(ops.softmax(logits, axis=-1), weights, axis=0)
        return ops.sum(share * ops.log(share * self.num_codes + 1e-9))

    def get_config(self):
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["topology"], config["initializer"]
        return {
            **config,
            "size": self.size,
            "radius": self.radius,
            "decay": self.decay,
            "gamma": self.gamma,
            "seed": self.seed,
        }


class _Constant(keras.initializers.Initializer):
    """Starts a weight at an array; the config need not know, for weights are loaded over it."""

    def __init__(self, value):
        self.value = value

    def __call__(self, shape, dtype=None):
        return ops.convert_to_tensor(self.value, dtype=dtype)
