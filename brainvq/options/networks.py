"""Options of encoders and decoders: a class for each network, which builds it."""

import functools
from dataclasses import dataclass
from typing import ClassVar, Literal

from brainvq.errors import UserError
from brainvq.options.base import option


@dataclass(frozen=True)
class Network:
    """An encoder and the decoder that mirrors it."""

    tag: ClassVar[str] = ""
    # Kind of sample that it takes, `Study.kind`.
    kind: ClassVar[str] = ""
    has_skips: ClassVar[bool] = False
    # Whether encoder and codes are set by the training samples, before anything is trained.
    is_fitted: ClassVar[bool] = False

    @property
    def stride(self):
        """Pixels or points for each code along an axis."""
        return 2 ** len(self.filters)

    def build(self, shape):
        """Makes encoder and decoder.

        Args:
            shape: shape of a sample, such as `(128, 128, 1)`; None for an axis of any size.

        Returns:
            Two `keras.Model`.
        """
        raise NotImplementedError

    def trainer(self, is_discrete):
        """The class of the whole model.

        Args:
            is_discrete: whether its codes are decoded; without them there is nothing for `encode`
                and `decode` of codes.
        """
        from brainvq.models import Autoencoder, VQVAETrainer

        return VQVAETrainer if is_discrete else Autoencoder


@dataclass(frozen=True)
class Conv(Network):
    """The strided convolutions of the papers on slices (models/conv_networks.py)."""

    tag: ClassVar[str] = "conv"
    kind: ClassVar[str] = "slices"
    filters: tuple[int, ...] = option((64, 128), above=0)
    """Filters of each stage of the encoder; the decoder mirrors them."""
    bottleneck_filters: int = option(128, above=0)
    """Filters of the last 3x3 convolution before the codes."""
    embedding_dim: int = option(16, above=0)
    """Length of a code vector, D."""

    def build(self, shape):
        """Makes encoder and decoder; see `Network.build`."""
        from brainvq.models import conv_decoder, conv_encoder

        sizes = {"filters": self.filters, "bottleneck_filters": self.bottleneck_filters}
        encoder = conv_encoder(shape, embedding_dim=self.embedding_dim, **sizes)
        return encoder, conv_decoder(encoder.output_shape[1:], **sizes)


@dataclass(frozen=True)
class Residual(Network):
    """Patches, residual blocks and pixel shuffling (models/residual_networks.py)."""

    tag: ClassVar[str] = "residual"
    kind: ClassVar[str] = "slices"
    filters: tuple[int, ...] = option((64, 128), above=0)
    """Filters of each stage of the encoder; the decoder mirrors them."""
    blocks: tuple[int, ...] = option((2, 2), minimum=0)
    """Residual blocks of each stage."""
    patch: int = option(4, minimum=1)
    """Side of the patches that the first convolution takes, in pixels."""
    hidden: float = option(0.5, above=0)
    """Width of a residual branch as a share of its level's filters."""
    refine_filters: int = option(8, minimum=0)
    """Filters at full resolution, at the end of the decoder."""
    embedding_dim: int = option(16, above=0)
    """Length of a code vector, D."""

    @property
    def stride(self):
        """Pixels for each code along an axis."""
        return self.patch * 2 ** (len(self.filters) - 1)

    def check(self, study):
        """Refuses other numbers of blocks than of filters."""
        if len(self.blocks) != len(self.filters):
            raise UserError(
                f"--model.blocks: found {len(self.blocks)} numbers; expected as many as "
                f"--model.filters has, {len(self.filters)}"
            )

    def build(self, shape):
        """Makes encoder and decoder; see `Network.build`."""
        from brainvq.models import residual_decoder, residual_encoder

        sizes = {
            "filters": self.filters,
            "blocks": self.blocks,
            "patch": self.patch,
            "hidden": self.hidden,
        }
        encoder = residual_encoder(shape, embedding_dim=self.embedding_dim, **sizes)
        return encoder, residual_decoder(
            encoder.output_shape[1:], refine_filters=self.refine_filters, **sizes
        )


@dataclass(frozen=True)
class Strided(Network):
    """Normalised strided convolutions of volumes (Kapre; models/volume_networks.py)."""

    tag: ClassVar[str] = "strided"
    kind: ClassVar[str] = "volumes"
    filters: tuple[int, ...] = option((64, 128), above=0)
    """Filters of each stage of the encoder, the last of them the length of a code vector; the
    decoder mirrors them."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation after each convolution."""
    skips: bool = False
    """Let the decoder also read the encoder's finer levels. What is reconstructed is then not made
    from codes."""
    checkpoint: bool = False
    """Compute activations twice to keep fewer of them in memory."""

    @property
    def has_skips(self):
        """Whether the decoder reads more than the codes."""
        return self.skips

    def build(self, shape):
        """Makes encoder and decoder; see `Network.build`."""
        from brainvq.models import strided_decoder, strided_encoder

        sizes = vars(self)
        encoder = strided_encoder(shape, **sizes)
        grid = encoder.output_shape[0] if self.skips else encoder.output_shape
        return encoder, strided_decoder(grid[1:], **sizes)


@dataclass(frozen=True)
class Transform(Network):
    """Principal components of patches, and convolutions that refine what they decode to
    (models/transform_networks.py)."""

    tag: ClassVar[str] = "transform"
    kind: ClassVar[str] = "volumes"
    is_fitted: ClassVar[bool] = True
    patch: int = option(16, minimum=2)
    """Side of the patches, in voxels: one cell of codes each."""
    components: int = option(256, minimum=1)
    """Principal components of a patch, each with a code."""
    filters: tuple[int, ...] = option((16, 32), above=0)
    """Filters of the levels of the refinement, from half the resolution on."""
    windows: int = option(4, minimum=1)
    """Cubes of each batch of volumes that the refinement is trained on."""
    window: int = option(48, minimum=8)
    """Side of these cubes, in voxels."""

    @property
    def stride(self):
        """Voxels for each cell of codes along an axis."""
        return self.patch

    def check(self, study):
        """Refuses another bottleneck, and sides that cannot be halved."""
        if study.model.bottleneck.tag != "entropy":
            raise UserError(
                f"--model.bottleneck: found {study.model.bottleneck.tag}; expected entropy with "
                "--model.network transform"
            )
        step = 2 ** len(self.filters)
        for name in ("patch", "window"):
            if getattr(self, name) % step:
                raise UserError(
                    f"--model.{name}: found {getattr(self, name)}; expected a multiple of {step}, "
                    f"for {len(self.filters)} levels of --model.filters"
                )

    def build(self, shape):
        """Makes encoder and decoder; see `Network.build`."""
        from brainvq.models import transform_decoder, transform_encoder

        encoder = transform_encoder(shape, self.patch, self.components)
        return encoder, transform_decoder(encoder.output_shape[1:], self.patch, self.filters)

    def trainer(self, is_discrete):
        """The windowed one; see `Network.trainer`."""
        from brainvq.models import WindowedTrainer

        return functools.partial(WindowedTrainer, windows=self.windows, window=self.window)


@dataclass(frozen=True)
class Bundle(Network):
    """An image of streamlines by points (Lizarraga et al. 2023; models/bundle_networks.py)."""

    tag: ClassVar[str] = "bundle"
    kind: ClassVar[str] = "streamlines"
    filters: tuple[int, ...] = option((64, 128), above=0)
    """Filters of each stage of the encoder; the decoder mirrors them."""
    blocks: tuple[int] = option((2,), minimum=0)
    """Residual blocks of encoder and decoder."""
    bottleneck_filters: int = option(128, above=0)
    """Filters inside a residual block."""
    embedding_dim: int = option(16, above=0)
    """Length of a code vector, D."""
    pass_through: bool = False
    """Start near a network that hands its input on unchanged, which a latent larger than the input
    allows."""

    def check(self, study):
        """Refuses groups that cannot be halved as often as the network does."""
        data = study.data
        if data.streamlines % self.stride or data.points % self.stride:
            raise UserError(
                f"--data.streamlines, --data.points: found {data.streamlines} and {data.points}; "
                f"expected multiples of {self.stride}, the stride of the network"
            )

    def build(self, shape):
        """Makes encoder and decoder; see `Network.build`."""
        from brainvq.models import bundle_decoder, bundle_encoder, pass_through

        sizes = {
            "filters": self.filters,
            "blocks": self.blocks[0],
            "hidden": self.bottleneck_filters,
        }
        encoder = bundle_encoder(shape, embedding_dim=self.embedding_dim, **sizes)
        decoder = bundle_decoder(encoder.output_shape[1:], **sizes)
        if self.pass_through:
            pass_through(encoder, decoder)
        return encoder, decoder


@dataclass(frozen=True)
class Streamline(Network):
    """A vector for each streamline, of its cosine transform and in the light of its group
    (models/bundle_networks.py)."""

    tag: ClassVar[str] = "streamline"
    kind: ClassVar[str] = "streamlines"
    filters: tuple[int] = option((192,), above=0)
    """Width of the blocks."""
    blocks: tuple[int, int] = option((2, 2), minimum=0)
    """Blocks of the encoder and of the decoder."""
    modes: int = option(16, minimum=1)
    """Cosine coefficients of each coordinate of a streamline."""

    def check(self, study):
        """Refuses more coefficients than a streamline has points."""
        if self.modes > study.data.points:
            raise UserError(
                f"--model.modes: found {self.modes}; expected 1 to --data.points "
                f"{study.data.points}"
            )

    def build(self, shape):
        """Makes encoder and decoder; see `Network.build`."""
        from brainvq.models import streamline_decoder, streamline_encoder

        (width,), (encoding, decoding) = self.filters, self.blocks
        encoder = streamline_encoder(shape, self.modes, width, encoding)
        return encoder, streamline_decoder(encoder.output_shape[1:], shape[1], width, decoding)


@dataclass(frozen=True)
class Intro(Network):
    """Convolutions, pooling and dense layers to one vector for a whole volume (the network of study
    introvae3d; models/intro_networks.py)."""

    tag: ClassVar[str] = "intro"
    kind: ClassVar[str] = "vectors"
    latent_size: int = option(256, minimum=1)
    """Numbers in the vector of a volume."""
    filters: tuple[int, ...] = option((64, 128), above=0)
    """Filters of each stage of the encoder; the decoder mirrors them."""
    dense_units: tuple[int, ...] = option((512,), minimum=1)
    """Widths of the dense layers between the coarsest grid and the vector."""
    dropout: float = option(0.1, minimum=0, maximum=1)
    """Share of the numbers after each dense layer of the encoder that training drops."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation after each convolution."""
    norm_groups: int = option(
        4,
        minimum=1,
        used=lambda study: study.model.network.norm == "group",
        only="--model.norm group",
    )
    """Groups of group normalisation; a divisor of each of `filters`."""
    patch: int = option(4, minimum=1)
    """Side of the patches that the first convolution takes, in voxels: 1, as in the paper, or 2,
    which takes a third of the time."""
    linear: bool = False
    """Start as principal component analysis of the training volumes: a path from volumes to vectors
    and back that is a sum of components, beside the convolutions. Not in the paper."""

    def build(self, shape):
        """Makes encoder and decoder; see `Network.build`."""
        from brainvq.models import intro_decoder, intro_encoder

        sizes = dict(vars(self))
        dropout, groups = sizes.pop("dropout"), sizes.pop("norm_groups")
        encoder = intro_encoder(shape, dropout=dropout, groups=groups, **sizes)
        return encoder, intro_decoder(shape, groups=groups, **sizes)


NETWORKS = {
    network.tag: network
    for network in (Conv, Residual, Strided, Transform, Bundle, Streamline, Intro)
}
