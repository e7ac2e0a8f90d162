"""The quantiser of VQ-Diff: a weighted mean of all codes, differentiable throughout."""

import keras
from keras import ops

from brainvq.arguments import number, seed_of, whole
from brainvq.layers.bottleneck import Bottleneck
from brainvq.layers.live_number import LiveNumber
from brainvq.layers.quantizer import (
    SeedTaken,
    code_logits,
    gumbel_noise,
    in_parts,
    keep_where_finite,
    nearest_codes,
    number_of_parts,
)

SQRT_2 = 1.4142135623730951


@keras.saving.register_keras_serializable(package="brainvq")
class GumbelQuantizer(Bottleneck):
    """Replaces each vector by a mean of all codes, weighed by a softmax with Gumbel noise.

    VQ-Diff (Lizarraga et al. 2023, section 2). For a vector z and the codes e_k, with
    independent noise g_k ~ Gumbel(0, 1) and the temperature τ,

        w_k ∝ exp((−‖z − e_k‖² + g_k) / τ),   Σ_k w_k = 1,   s = Σ_k w_k e_k,

    and s goes on to the decoder. Gradients pass through w to z, and through w and e to the
    codebook, which the optimiser moves by the reconstruction loss alone: there are no loss terms.
    Noise is drawn in training. At inference it is off by default, so that an image is encoded in
    one way; the authors left it on (`noise_at_inference=True`; under `jax.jit`, as in
    `Autoencoder`, the same noise comes back at each call).

    Returns `{"quantized": float32 (batch, *grid, dim), "losses": {}}`. There are no codes, and
    `num_codes` is None: s needs all weights, so that a stored s takes the bits of its dim float
    numbers, and not the log2(codebook_size) bits of an index. Any point of the convex hull of the
    codes can come out. `nearest` and `weights_of` serve figures of how the codebook is used; no
    image is decoded from them.

    On the divergence in the paper: between a zero-mean Gaussian and a Gumbel distribution of scale
    β it is constant, as claimed. In nats, with Euler's γ,

    - KL(N(0, σ²) ‖ Gumbel(0, β)) = exp(σ²/2β²) + log β − ½ log(2πeσ²),
    - KL(Gumbel(0, β) ‖ N(0, σ²)) = β²(γ² + π²/6)/2σ² + ½ log(2πσ²) − log β − γ − 1,

    which is 1.55 and 46.8 for the paper's σ² = 2 and β = 10. It is constant because both are fixed
    distributions, without a parameter of the encoder; the same holds of any two. So it says nothing
    of the model's posterior over codes, which is the softmax: q(k|z) = w_k, and its divergence from
    the uniform prior, log K + Σ_k w_k log w_k, is between 0 and log K and depends on z. That term
    of an evidence lower bound is not constant here, as it is (log K) where an argmin picks one
    code: VQ-Diff leaves it out rather than being free of it, and s is no draw from q(k|z) either.

    Memory: about six arrays of n × codebook_size float32 in training; 134 MB each for 256 grids of
    16 × 16 and 512 codes. Of more than 1024 codes the vectors are treated in parts, computed again
    in the backward pass: as much as 128 codes would take.

    Args:
        codebook_size: int ≥ 2, the number K of vectors in the codebook. Default 512, the paper's.
            (Not `num_codes`, which is None as in every layer without codes.)
        temperature: float > 0, τ. Default 10, the paper's. It can be set again at any time, as by a
            callback that lowers it from epoch to epoch.
        noise_at_inference: bool, whether noise is drawn with `training=False` too. Default False.
        codebook_scale: float > 0, standard deviation of the Gaussian that the codebook starts from.
            Default √2: the text has variance 2. The authors' program has standard deviation 2.
        seed: int or None, for the start and the noise; as in `GaussianSampling`.
        **kwargs: see `Bottleneck`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    temperature = LiveNumber(above=True)

    def __init__(
        self,
        codebook_size: int = 512,
        temperature: float = 10.0,
        noise_at_inference: bool = False,
        codebook_scale: float = SQRT_2,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.codebook_size = whole("codebook_size", codebook_size, 2)
        self.temperature = temperature
        self.noise_at_inference = bool(noise_at_inference)
        self.codebook_scale = number("codebook_scale", codebook_scale, above=True)
        self.seed = seed_of(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, input_shape):
        """Creates the codebook for `input_shape` `(batch, *grid, dim)`."""
        super().build(input_shape)
        start = keras.initializers.RandomNormal(stddev=self.codebook_scale, seed=self.seed)
        self.embedding = self.add_weight(
            shape=(self.codebook_size, input_shape[-1]), initializer=start, name="embedding"
        )

    @property
    def codebook(self):
        """Float32 `(codebook_size, dim)`."""
        return ops.convert_to_tensor(self.embedding)

    def call(self, z, training: bool | None = None, mask=None):
        """Mixes codes for `z` `(batch, *grid, dim)`; see the class for what is returned."""
        z, _ = self._masked(z, mask)
        # No gradient from vectors that are not finite: one of them would spoil the codebook.
        codebook = keep_where_finite(self.name, self.codebook, z)
        vectors = ops.reshape(z, (-1, z.shape[-1]))
        noisy = training or self.noise_at_inference
        # Taken beforehand: a part that is computed again in the backward pass has the same noise.
        parts = number_of_parts(self.codebook_size)
        seeds = [SeedTaken(self.seed_generator) for _ in range(parts if noisy else 0)]

        def mix(vectors, codebook, temperature, number):
            logits = code_logits(vectors, codebook)  # (n, codebook_size)
            if noisy:
                logits = logits + gumbel_noise(ops.shape(logits), seeds[number])
            return ops.matmul(ops.softmax(logits / temperature, axis=-1), codebook)

        temperature = ops.convert_to_tensor(self.live("temperature"))
        mixed = in_parts(mix, vectors, self.codebook_size, codebook, temperature)
        return self._outputs(ops.reshape(mixed, ops.shape(z)), {})

    def weights_of(self, z):
        """The weights w without noise.

        Args:
            z: float `(batch, *grid, dim)`.

        Returns:
            Float32 `(batch, *grid, codebook_size)`; the last axis sums to 1.
        """
        z = ops.convert_to_tensor(z, dtype="float32")
        logits = code_logits(ops.reshape(z, (-1, z.shape[-1])), self.codebook)
        weights = ops.softmax(logits / self.live("temperature"), axis=-1)
        return ops.reshape(weights, (*ops.shape(z)[:-1], self.codebook_size))

    def nearest(self, z):
        """The code nearest to each vector, which is that of the largest weight without noise.

        Args:
            z: float `(batch, *grid, dim)`.

        Returns:
            Int32 `(batch, *grid)` in 0 … codebook_size − 1.
        """
        z = ops.convert_to_tensor(z, dtype="float32")
        vectors = ops.reshape(z, (-1, z.shape[-1]))
        return ops.reshape(nearest_codes(vectors, self.codebook), ops.shape(z)[:-1])

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "codebook_size": self.codebook_size,
            "temperature": self.temperature,
            "noise_at_inference": self.noise_at_inference,
            "codebook_scale": self.codebook_scale,
            "seed": self.seed,
        }
