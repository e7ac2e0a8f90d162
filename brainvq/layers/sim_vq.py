"""The quantiser whose codes move all together, by one linear layer."""

import keras
from keras import ops

from brainvq.layers.quantizer import Quantizer
from brainvq.layers.vector_quantizer import VectorQuantizer


@keras.saving.register_keras_serializable(package="brainvq")
class SimVQ(VectorQuantizer):
    """A codebook C that stays as it was drawn, times a matrix W that is trained.

    Zhu et al. 2024, "Addressing representation collapse in vector quantized models with one linear
    layer": the codes are the rows of C W, with C drawn from N(0, 1/dim) and fixed. Where a
    `VectorQuantizer` moves only the codes that vectors choose, each step of W moves all of them, so
    that none stays behind. Losses and outputs are those of `VectorQuantizer`, with e = (C W)_k:

    - `codebook_loss`: mean ‖sg(z) − e‖²,
    - `commitment_loss`: β · mean ‖z − sg(e)‖²,
    - `entropy_loss`, where its weight is above 0.

    W starts as a rotation, so that codes start at the lengths they were drawn with.

    Args:
        num_codes: int ≥ 2, the number of codes K.
        beta: float ≥ 0, factor of the commitment loss. Default 0.25.
        distance: `"euclidean"` or `"cosine"`; see `Quantizer`.
        gradient: `"straight_through"` or `"rotation"`; see `Quantizer`.
        entropy_weight: float ≥ 0; see `VectorQuantizer`.
        stochastic: bool; see `Quantizer`.
        temperature: float > 0; see `VectorQuantizer`.
        seed: int or None, for C, the start of W, and draws.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        num_codes: int,
        beta: float = 0.25,
        distance: str = "euclidean",
        gradient: str = "straight_through",
        entropy_weight: float = 0.0,
        stochastic: bool = False,
        temperature: float = 1.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(
            num_codes,
            beta,
            distance=distance,
            gradient=gradient,
            entropy_weight=entropy_weight,
            stochastic=stochastic,
            temperature=temperature,
            seed=seed,
            **kwargs,
        )

    def build(self, input_shape):
        """Draws C and creates W for `input_shape` `(batch, *grid, dim)`."""
        Quantizer.build(self, input_shape)  # not that of a codebook that is trained
        dim = input_shape[-1]
        self.embedding = self.add_weight(
            shape=(self.num_codes, dim),
            initializer=keras.initializers.RandomNormal(stddev=dim**-0.5, seed=self.seed),
            trainable=False,
            name="embedding",
        )
        rotation = keras.initializers.Orthogonal(seed=self.seed)
        self.kernel = self.add_weight(shape=(dim, dim), initializer=rotation, name="kernel")

    @property
    def codebook(self):
        """Float32 `(num_codes, dim)`, C W; of unit length with the cosine distance."""
        return self._unit(ops.matmul(self.embedding, self.kernel))

    def set_codebook(self, vectors, counts=None):
        """Replaces C by codes, and W by the matrix that leaves them as they are.

        Args:
            vectors: float `(num_codes, dim)`, such as centroids.
            counts: ignored here.

        Raises:
            ValueError: if the layer is not built yet or the shape is another.
        """
        super().set_codebook(vectors, counts)
        self.kernel.assign(ops.eye(self.kernel.shape[0]))

    def get_config(self):
        """Returns the constructor's arguments."""
        config = super().get_config()
        for name in ("initializer", "initialization", "revival_threshold", "orthogonality_weight"):
            del config[name]
        return config
