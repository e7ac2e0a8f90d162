"""The encoder and decoder of study `t1w3d`: principal components of patches, and a refinement.

Encoder and linear decoder are no trained networks but a transform, set by `set_transform`: the
volume less its mean, divided by how much varies at each voxel, folded into cubes that overlap, each
as its first principal components. Convolutions then add what they know of brains to what was
decoded. They start at zero, so that what is trained begins as good as the transform.
"""

import keras
import numpy as np
from keras import layers, ops

from brainvq.arguments import seed_of, whole, wholes
from brainvq.layers.block_fold import BlockFold
from brainvq.layers.space_to_depth import DepthToSpace, SpaceToDepth
from brainvq.layers.template_volume import TemplateVolume
from brainvq.models.conv_networks import CONVOLUTIONS, _fixed_product, _rank
from brainvq.models.vqvae import VQVAETrainer


def transform_encoder(
    input_shape: tuple, patch: int = 16, components: int = 256, name: str = "encoder"
) -> keras.Model:
    """A volume as the principal components of its patches; nothing of it is trained.

    Args:
        input_shape: tuple `(*spatial, channels)` of known sizes, multiples of `patch`.
        patch: int ≥ 2, side of a patch in voxels.
        components: int ≥ 1, numbers for each patch.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, *spatial, channels)` → float32 `(batch, *spatial / patch,
        components)`.

    Raises:
        ValueError: if an argument is out of its range.
    """
    _rank(input_shape)
    inputs = keras.Input(input_shape)
    x = TemplateVolume(dtype="float32", name="template")(inputs)
    x = BlockFold(whole("patch", patch, 2), dtype="float32", name="fold")(x)
    x = SpaceToDepth(patch, dtype="float32", name="patches")(x)
    return keras.Model(
        inputs, _fixed_product(whole("components", components), "analysis")(x), name=name
    )


def transform_decoder(
    input_shape: tuple,
    patch: int = 16,
    filters: tuple[int, ...] = (16, 32),
    channels: int = 1,
    name: str = "decoder",
) -> keras.Model:
    """The way back of `transform_encoder`, then the refinement.

    The refinement reads the decoded volume and the mean one. It is a U-Net (Ronneberger et al.
    2015) whose finest level has half the resolution, where convolutions are cheap: for each entry
    of `filters` a level of half the one before, with a residual block on the way down and on the
    way up. Its last convolution starts at zero, and its output is added.

    Args:
        input_shape: tuple `(*grid, components)` of known sizes.
        patch: see `transform_encoder`; with refinement a multiple of 2**len(filters).
        filters: channels of the levels, from fine to coarse; none for no refinement.
        channels: channels of the volume.
        name: name of the model.

    Returns:
        `keras.Model`, float `(batch, *grid, components)` → float32 `(batch, *grid * patch,
        channels)`. Its layers "linear" and, with `filters`, "refine" are models, see
        `WindowedTrainer`.

    Raises:
        ValueError: if an argument is out of its range.
    """
    rank, channels = _rank(input_shape), whole("channels", channels)
    filters, patch = wholes("filters", filters), whole("patch", patch, 2)
    if patch % 2 ** len(filters):
        raise ValueError(
            f"`patch` must be a multiple of {2 ** len(filters)}, for as many levels. "
            f"Received: patch={patch}, filters={filters}"
        )
    z = keras.Input(input_shape)
    x = _fixed_product(patch**rank * channels, "synthesis")(z)
    x = DepthToSpace(patch, dtype="float32")(x)
    x = BlockFold(patch, inverse=True, dtype="float32", name="unfold")(x)
    restore = TemplateVolume(inverse=True, dtype="float32", name="template")
    # The mean volume itself is what zeros decode to.
    mean = restore(layers.Rescaling(0.0, dtype="float32")(x))
    pair = layers.Concatenate(dtype="float32")([restore(x), mean])
    linear = keras.Model(z, pair, name="linear")
    return keras.Model(z, refinement(rank, filters, channels)(linear(z)), name=name)


def refinement(rank: int, filters: tuple[int, ...], channels: int = 1) -> keras.Model:
    """Makes the U-Net of `transform_decoder`, for any size that its levels halve.

    Args:
        rank: int, number of spatial axes, 1 to 3.
        filters: channels of the levels, from fine to coarse; none for the sum of nothing.
        channels: channels of a volume.

    Returns:
        `keras.Model` "refine", float `(batch, *spatial, 2 * channels)`, a decoded volume and the
        mean one → float32 `(batch, *spatial, channels)`, at first the decoded one.
    """
    convolution = CONVOLUTIONS[rank]
    inputs = keras.Input((*[None] * rank, 2 * channels))
    decoded = _First(channels, dtype="float32")(inputs)
    x, levels = inputs, []
    for width in filters:
        x = convolution(width, 3, padding="same")(SpaceToDepth(2)(x))
        x = _residual_block(x, width, convolution)  # (batch, *half the grid, width)
        levels.append(x)
    for width, level in zip(reversed(filters[:-1]), reversed(levels[:-1]), strict=True):
        x = DepthToSpace(2)(layers.Dense(2**rank * width)(x))
        x = _residual_block(layers.Add()([x, level]), width, convolution)
    if filters:
        x = layers.Activation("swish")(x)
        x = convolution(2**rank * channels, 3, padding="same", kernel_initializer="zeros")(x)
        decoded = layers.Add(dtype="float32")([decoded, DepthToSpace(2, dtype="float32")(x)])
    return keras.Model(inputs, decoded, name="refine")


def _residual_block(x, width, convolution):
    inner = convolution(width, 3, padding="same")(layers.Activation("swish")(x))
    start = keras.initializers.VarianceScaling(0.1)
    inner = layers.Activation("swish")(inner)
    return layers.Add()([x, convolution(width, 3, padding="same", kernel_initializer=start)(inner)])


@keras.saving.register_keras_serializable(package="brainvq")
class _First(layers.Layer):
    """The first channels of its input."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def call(self, x):
        return x[..., : self.channels]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.channels)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


def set_transform(
    encoder: keras.Model,
    decoder: keras.Model,
    mean: np.ndarray,
    deviation: np.ndarray,
    components: np.ndarray,
) -> None:
    """Sets the transform of both.

    Args:
        encoder: model of `transform_encoder`.
        decoder: model of `transform_decoder`.
        mean: float `(*spatial, channels)`, the mean volume.
        deviation: float > 0 of that shape, what differences from it are divided by.
        components: float `(count, voxels of a patch * channels)`, orthonormal, in the order of
            `SpaceToDepth`; count is at most that of the networks, and further numbers are 0.
    """
    linear = decoder.get_layer("linear")
    for template in (encoder.get_layer("template"), linear.get_layer("template")):
        template.set(mean, deviation)
    analysis, synthesis = encoder.get_layer("analysis"), linear.get_layer("synthesis")
    kernel = np.zeros(analysis.kernel.shape, "float32")
    kernel[:, : len(components)] = np.transpose(components)
    analysis.set_weights([kernel])
    synthesis.set_weights([kernel.T])


@keras.saving.register_keras_serializable(package="brainvq")
class WindowedTrainer(VQVAETrainer):
    """A `VQVAETrainer` whose decoder ends in a refinement, which is trained on windows.

    Volumes are encoded, quantised and decoded by the transform as a whole, which costs little; of
    each, `windows` cubes at random places are refined and compared with the same cubes of the
    input. Everything else, `evaluate` too, is of whole volumes.

    Args:
        encoder: model of `transform_encoder`.
        bottleneck: see `VQVAETrainer`.
        decoder: model of `transform_decoder`.
        reconstruction_loss: see `Autoencoder`.
        continuous_weight: must be None: nothing before the quantiser is trained.
        windows: int ≥ 1, cubes of each batch. Default 4.
        window: int ≥ 1, side of a cube in voxels, a multiple of what the refinement halves to.
        seed: int or None, of the places.
        **kwargs: see `Autoencoder`.
    """

    def __init__(
        self,
        encoder,
        bottleneck,
        decoder,
        reconstruction_loss="mse",
        continuous_weight=None,
        windows: int = 4,
        window: int = 48,
        seed: int | None = None,
        **kwargs,
    ):
        if continuous_weight is not None:
            raise ValueError(
                "`continuous_weight` must be None: a transform is not trained. "
                f"Received: continuous_weight={continuous_weight}"
            )
        super().__init__(encoder, bottleneck, decoder, reconstruction_loss, **kwargs)
        self.windows, self.window = whole("windows", windows), whole("window", window)
        self.seed = seed_of(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def call(self, x, training: bool | None = None):
        """Reconstructs `x`; in training windows of it, with `target` beside them."""
        if not training:
            return super().call(x, training=training)
        outputs = self.bottleneck(self.encoder(x, training=False), training=True)
        pair = self.decoder.get_layer("linear")(outputs["quantized"], training=False)
        both = ops.stop_gradient(ops.concatenate([pair, ops.cast(x, "float32")], axis=-1))
        cubes = ops.concatenate([self._cube(both) for _ in range(self.windows)], axis=0)
        split = 2 * x.shape[-1]
        refined = self.decoder.get_layer("refine")(cubes[..., :split], training=True)
        return {
            "losses": outputs["losses"],
            "codes": outputs["codes"],
            "reconstruction": ops.cast(refined, "float32"),
            "target": cubes[..., split:],
        }

    def _cube(self, x):
        """The same cube, at a random place, of every volume of a batch."""
        size = [min(self.window, length) for length in x.shape[1:-1]]
        starts = [
            keras.random.randint((), 0, length - side + 1, seed=self.seed_generator)
            for length, side in zip(x.shape[1:-1], size, strict=True)
        ]
        zero = ops.zeros((), "int32")
        starts = ops.stack([zero, *(ops.cast(start, "int32") for start in starts), zero])
        return ops.slice(x, starts, (ops.shape(x)[0], *size, x.shape[-1]))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """As that of `Autoencoder`, of the windows where there are some."""
        return super().compute_loss(x, y_pred.get("target", y), y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As those of `Autoencoder`, of the windows where there are some."""
        return super().compute_metrics(x, y_pred.get("target", y), y_pred, sample_weight)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "windows": self.windows,
            "window": self.window,
            "seed": self.seed,
        }
