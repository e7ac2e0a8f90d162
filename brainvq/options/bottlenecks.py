"""Options of what lies between encoder and decoder: a class for each bottleneck."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from brainvq.errors import UserError
from brainvq.options.base import option

_DEEP = {"used": lambda study: study.model.bottleneck.depth > 1, "only": "--model.depth above 1"}


@dataclass(frozen=True)
class Bottleneck:
    """What becomes of the encoder's vectors before they are decoded."""

    tag: ClassVar[str] = ""
    # Codes in the codebook, None where there is none, and the option that says how many.
    codes: ClassVar[int | None] = None
    codes_option: ClassVar[str] = "num-codes"
    # Whether the decoder reads codes, so that they can be drawn and decoded.
    is_discrete: ClassVar[bool] = False
    # Whether it is a variational autoencoder's, whose vectors are drawn already.
    is_sampled: ClassVar[bool] = False
    # Codes of a cell, and the option that says how many.
    depth: ClassVar[int] = 1
    depth_option: ClassVar[str] = "depth"
    # Whether it has a codebook that can start at clusters of encodings.
    is_placed: ClassVar[bool] = False

    def build(self):
        """The layer, as `brainvq.layers` has it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Identity(Bottleneck):
    """A plain autoencoder."""

    tag: ClassVar[str] = "identity"

    def build(self):
        """The layer."""
        from brainvq.layers import Identity

        return Identity()


@dataclass(frozen=True)
class Gaussian(Bottleneck):
    """A variational autoencoder; its weight is `kl_weight`."""

    tag: ClassVar[str] = "gaussian"
    is_sampled: ClassVar[bool] = True


@dataclass(frozen=True)
class Discrete(Bottleneck):
    """Codes that the decoder reads, one or several in each cell of the grid."""

    is_discrete: ClassVar[bool] = True
    is_placed: ClassVar[bool] = True
    beta: float = option(0.25, minimum=0)
    """Weight of the commitment loss (van den Oord et al. 2017, eq. 3); of the neighbours' loss
    (`som`)."""
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    """How the gradient passes the codebook: copied, or rotated (Fifty et al. 2024)."""
    depth: int = option(1, minimum=1)
    """Codes for each cell of the grid: further codebooks, by moving averages, quantise what the
    first one left (Zeghidour et al. 2021). Studies of volumes and bundles only."""
    beam: int = option(1, minimum=1, **_DEEP)
    """Sums of codes that encoding follows from one codebook to the next (`depth` above 1); 1 takes
    the nearest code of each. More find nearer sums and take longer."""
    distance: Literal["euclidean", "cosine"] = option("euclidean", **_DEEP)
    """How the nearest code is found; `cosine` compares directions only (Yu et al. 2022)."""
    decay: float = option(0.9, minimum=0, maximum=1, **_DEEP)
    """Decay of the moving averages, per step. Short, because the encoder moves fast in a training
    of minutes: 0.99 leaves the codebook behind."""
    initialization: Literal["random", "data", "kmeans"] = option("data", **_DEEP)
    """Where a codebook by moving averages starts: random numbers, encodings of the first batch, or
    the centres of a k-means on them."""
    revival_threshold: float = option(0.03, minimum=0, **_DEEP)
    """A code used less often than this share of the average code restarts at a random encoding; 0
    turns it off."""
    shared: bool = option(False, **_DEEP)
    """Whether the further codebooks are one, used again and again."""

    def first(self):
        """The layer of the first code of each cell."""
        raise NotImplementedError

    def build(self):
        """The layer; of several codes for a cell a `ResidualQuantizer` around it."""
        if self.depth == 1:
            return self.first()
        from brainvq.layers import ResidualQuantizer

        # In this order: layers draw their seeds as they are made.
        further = self.depth - 1
        stages = [self.first(), *(self.averaged() for _ in range(1 if self.shared else further))]
        return ResidualQuantizer(stages, beam=self.beam, repeats=further if self.shared else 1)

    def averaged(self):
        """A codebook by moving averages of as many codes."""
        from brainvq.layers import EMAVectorQuantizer

        return EMAVectorQuantizer(
            num_codes=self.codes,
            beta=self.beta,
            distance=self.distance,
            gradient=self.gradient,
            decay=self.decay,
            initialization=self.initialization,
            revival_threshold=self.revival_threshold,
        )


@dataclass(frozen=True)
class Listed(Discrete):
    """A codebook without an order of its codes."""

    num_codes: int = option(512, minimum=2)
    """Codes in the codebook, K: log2(K) bits for each code."""

    @property
    def codes(self):
        """Codes in the codebook."""
        return self.num_codes


_DRAWS = {
    "used": lambda study: study.model.bottleneck.draws,
    "only": "--model.stochastic or --model.entropy-weight",
}


@dataclass(frozen=True)
class Trained(Listed):
    """A codebook that is trained by gradient."""

    distance: Literal["euclidean", "cosine"] = "euclidean"
    """How the nearest code is found; `cosine` compares directions only (Yu et al. 2022)."""
    entropy_weight: float = option(0.0, minimum=0)
    """Weight of a loss that keeps all codes in use, and each vector sure of its code (Yu et al.
    2023)."""
    stochastic: bool = False
    """Draw codes in training, near ones with more probability, instead of the nearest (Lee et al.
    2022)."""
    temperature: float = option(1.0, above=0, **_DRAWS)
    """Divides the squared distances behind draws and entropy: higher spreads over more codes."""

    @property
    def draws(self):
        """Whether the temperature has an effect."""
        return self.stochastic or self.entropy_weight > 0

    @property
    def arguments(self):
        """What the layers of these codebooks share."""
        names = ("num_codes", "beta", "distance", "gradient")
        names += ("entropy_weight", "stochastic", "temperature")
        return {name: getattr(self, name) for name in names}


_STARTS = {
    "used": lambda study: study.model.bottleneck.restarts or study.model.bottleneck.depth > 1,
    "only": "--model.restarts, or --model.depth above 1",
}


@dataclass(frozen=True)
class VQ(Trained):
    """A straight-through codebook that is trained by gradient (van den Oord et al. 2017)."""

    tag: ClassVar[str] = "vq"
    orthogonality_weight: float = option(0.0, minimum=0)
    """Weight of a loss that draws codes apart (Shin et al. 2021)."""
    restarts: bool = False
    """Start the codebook from encodings, and again those codes that are out of use."""
    initialization: Literal["random", "data", "kmeans"] = option("data", **_STARTS)
    """Where a codebook starts: random numbers, encodings of the first batch, or the centres of a
    k-means on them."""
    revival_threshold: float = option(0.03, minimum=0, **_STARTS)
    """A code used less often than this share of the average code restarts at a random encoding; 0
    turns it off."""

    def first(self):
        """The layer of the first code of each cell."""
        from brainvq.layers import VectorQuantizer

        names = ("initialization", "revival_threshold") if self.restarts else ()
        return VectorQuantizer(
            **self.arguments,
            orthogonality_weight=self.orthogonality_weight,
            **{name: getattr(self, name) for name in names},
        )


@dataclass(frozen=True)
class Sim(Trained):
    """A fixed random codebook times a matrix that is trained: all codes move together (Zhu et al.
    2024)."""

    tag: ClassVar[str] = "simvq"

    def first(self):
        """The layer of the first code of each cell."""
        from brainvq.layers import SimVQ

        return SimVQ(**self.arguments)


@dataclass(frozen=True)
class EMA(Listed):
    """A codebook by moving averages, with a start from data and code revival."""

    tag: ClassVar[str] = "ema"
    distance: Literal["euclidean", "cosine"] = "euclidean"
    """How the nearest code is found; `cosine` compares directions only (Yu et al. 2022)."""
    decay: float = option(0.9, minimum=0, maximum=1)
    """Decay of the moving averages, per step. Short, because the encoder moves fast in a training
    of minutes: 0.99 leaves the codebook behind."""
    initialization: Literal["random", "data", "kmeans"] = "data"
    """Where the codebook starts: random numbers, encodings of the first batch, or the centres of a
    k-means on them."""
    revival_threshold: float = option(0.03, minimum=0)
    """A code used less often than this share of the average code restarts at a random encoding; 0
    turns it off."""

    def first(self):
        """The layer of the first code of each cell."""
        return self.averaged()


@dataclass(frozen=True)
class LookupFree(Bottleneck):
    """The signs of a few channels: codes without a codebook (Yu et al. 2023; Zhao et al. 2024)."""

    tag: ClassVar[str] = "lfq"
    codes_option: ClassVar[str] = "bits"
    is_discrete: ClassVar[bool] = True
    bits: int = option(9, minimum=1, maximum=16)
    """Channels that the encoder's vectors are projected to, and bits of each code."""
    spherical: bool = False
    """Scale the projected vectors to unit length first: binary spherical quantisation (`True`)."""
    beta: float = option(0.25, minimum=0)
    """Weight of the commitment loss."""
    entropy_weight: float = option(0.1, minimum=0)
    """Weight of a loss that keeps all codes in use, and each vector sure of its code."""
    temperature: float = option(1.0, above=0)
    """Divides the squared distances behind that loss: higher spreads over more codes."""

    @property
    def codes(self):
        """Codes that the bits make."""
        return 2**self.bits

    def build(self):
        """The layer, between two projections."""
        from brainvq.layers import LookupFreeQuantizer, ProjectedQuantizer

        return ProjectedQuantizer(LookupFreeQuantizer(**vars(self)), self.bits)


@dataclass(frozen=True)
class FiniteScalar(Bottleneck):
    """A few channels, each rounded to a few levels: codes without a codebook (Mentzer et al.
    2023)."""

    tag: ClassVar[str] = "fsq"
    codes_option: ClassVar[str] = "levels"
    is_discrete: ClassVar[bool] = True
    levels: tuple[int, ...] = option((8, 8, 8), minimum=3)
    """Levels of each channel that the encoder's vectors are projected to; all combinations are the
    codes."""

    @property
    def codes(self):
        """Combinations of levels."""
        return math.prod(self.levels)

    def build(self):
        """The layer, between two projections."""
        from brainvq.layers import FiniteScalarQuantizer, ProjectedQuantizer

        return ProjectedQuantizer(FiniteScalarQuantizer(self.levels), len(self.levels))


@dataclass(frozen=True)
class Grouped(Bottleneck):
    """Several codes for each cell, each of a part of the channels (Jégou et al. 2011)."""

    tag: ClassVar[str] = "grouped"
    is_discrete: ClassVar[bool] = True
    is_placed: ClassVar[bool] = True
    depth_option: ClassVar[str] = "groups"
    num_codes: int = option(512, minimum=2)
    """Codes in each codebook, K."""
    groups: int = option(2, minimum=2)
    """Parts of the channels, and codes for each cell."""
    one_codebook: bool = False
    """Whether the parts share one codebook, as heads, instead of each having its own."""
    beta: float = option(0.25, minimum=0)
    """Weight of the commitment loss (van den Oord et al. 2017, eq. 3)."""
    decay: float = option(0.9, minimum=0, maximum=1)
    """Decay of the moving averages, per step."""

    @property
    def codes(self):
        """Codes in each codebook."""
        return self.num_codes

    @property
    def depth(self):
        """Codes of a cell."""
        return self.groups

    def build(self):
        """The layer."""
        from brainvq.layers import EMAVectorQuantizer, GroupedQuantizer, MultiHeadQuantizer

        count = 1 if self.one_codebook else self.groups
        parts = [
            EMAVectorQuantizer(self.num_codes, beta=self.beta, decay=self.decay)
            for _ in range(count)
        ]
        if self.one_codebook:
            return MultiHeadQuantizer(parts[0], self.groups)
        return GroupedQuantizer(parts)


@dataclass(frozen=True)
class Entropy(Bottleneck):
    """A rounded number for each channel, in as few bits as it is frequent: codes without a
    codebook, set by the training samples (Goyal 2001)."""

    tag: ClassVar[str] = "entropy"
    codes_option: ClassVar[str] = "levels"
    depth_option: ClassVar[str] = "channels"
    is_discrete: ClassVar[bool] = True
    volume_bits: int = option(28000, above=0)
    """Bits of a volume, as a mean over the training samples; others take a few more."""
    channels: int = option(256, minimum=1)
    """Channels of the encoder's vectors, and codes of a cell."""
    levels: int = option(255, minimum=3)
    """Values of a code, an odd number."""
    rounding: float = option(0.4, above=0, maximum=0.5)
    """0.5 takes the nearest level, less makes 0 more frequent."""

    @property
    def codes(self):
        """Values of a code."""
        return self.levels

    @property
    def depth(self):
        """Codes of a cell."""
        return self.channels

    def check(self, study):
        """Refuses another network, or another number of channels than it has."""
        network = study.model.network
        if not network.is_fitted:
            raise UserError(
                f"--model.network: found {network.tag}; expected transform with --model.bottleneck "
                "entropy"
            )
        if network.components != self.channels:
            raise UserError(
                f"--model.channels: found {self.channels}; expected --model.components, "
                f"{network.components}"
            )

    def build(self):
        """The layer."""
        from brainvq.layers import EntropyQuantizer

        return EntropyQuantizer(self.channels, self.levels, self.rounding)


@dataclass(frozen=True)
class Map(Discrete):
    """Codes that are the nodes of a grid."""

    codes_option: ClassVar[str] = "som-shape"
    som_shape: tuple[int, int] = option((16, 16), minimum=1)
    """Rows and columns of the map: so many codes."""

    @property
    def codes(self):
        """Nodes of the map."""
        return self.som_shape[0] * self.som_shape[1]


@dataclass(frozen=True)
class SOM(Map):
    """A self-organising map (Fortuin et al. 2019)."""

    tag: ClassVar[str] = "som"
    topology: Literal["rectangular", "toroid"] = "toroid"
    """Whether opposite borders of the map meet."""
    alpha: float = option(6.0, minimum=0)
    """Weight of the commitment of vectors and nodes to each other."""

    def first(self):
        """The layer of the first code of each cell."""
        from brainvq.layers import SOMQuantizer

        return SOMQuantizer(
            som_shape=self.som_shape,
            topology=self.topology,
            alpha=self.alpha,
            beta=self.beta,
            gradient=self.gradient,
        )


@dataclass(frozen=True)
class Torus(Map):
    """A map whose order is built in: the encoder chooses two angles."""

    tag: ClassVar[str] = "torus"
    gamma: float = option(1.0, minimum=0)
    """Weight of the usage loss."""
    torus_size: float = option(3.0, above=0)
    """Radius of the circles that the angles run on, beside vectors of a spread of about 1. Larger:
    more order, and details that are harder to read."""
    torus_radius: float = option(1.0, minimum=0)
    """Standard deviation of the neighbourhood that shares what a node learns, in nodes."""
    decay: float = option(0.9, minimum=0, maximum=1)
    """Decay of the moving averages, per step."""

    def first(self):
        """The layer of the first code of each cell."""
        from brainvq.layers import TorusQuantizer

        return TorusQuantizer(
            som_shape=self.som_shape,
            size=self.torus_size,
            radius=self.torus_radius,
            decay=self.decay,
            beta=self.beta,
            gamma=self.gamma,
            gradient=self.gradient,
        )


@dataclass(frozen=True)
class PSOM(Bottleneck):
    """A probabilistic map, whose decoder reads the vectors and not the codes (Manduchi et al.
    2021)."""

    tag: ClassVar[str] = "psom"
    codes_option: ClassVar[str] = "som-shape"
    is_placed: ClassVar[bool] = True
    som_shape: tuple[int, int] = option((16, 16), minimum=1)
    """Rows and columns of the map: so many codes."""
    topology: Literal["rectangular", "toroid"] = "toroid"
    """Whether opposite borders of the map meet."""
    alpha: float = option(6.0, minimum=0)
    """Degrees of freedom of the assignments."""
    beta: float = option(0.25, minimum=0)
    """Weight of the neighbours' loss."""
    gamma: float = option(1.0, minimum=0)
    """Weight of the clustering loss."""
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    """How the gradient passes the codebook: copied, or rotated (Fifty et al. 2024)."""

    @property
    def codes(self):
        """Nodes of the map."""
        return self.som_shape[0] * self.som_shape[1]

    def build(self):
        """The layer."""
        from brainvq.layers import ProbabilisticSOM

        return ProbabilisticSOM(**vars(self))


@dataclass(frozen=True)
class Gumbel(Bottleneck):
    """A weighted sum of all codes, which can be differentiated and is no discrete code (Lizarraga
    et al. 2023)."""

    tag: ClassVar[str] = "gumbel"
    num_codes: int = option(512, minimum=2)
    """Codes in the codebook, K."""
    temperature: float = option(10.0, above=0)
    """Divides the noisy distances to the codes: higher mixes more codes."""
    codebook_scale: float = option(1.4142135623730951, above=0)
    """Standard deviation of the codebook at the start: the variance of 2 that the text of the paper
    gives; its code takes a standard deviation of 2."""

    @property
    def codes(self):
        """Vectors of the codebook."""
        return self.num_codes

    def build(self):
        """The layer."""
        from brainvq.layers import GumbelQuantizer

        return GumbelQuantizer(
            codebook_size=self.num_codes,
            temperature=self.temperature,
            codebook_scale=self.codebook_scale,
        )


BOTTLENECKS = {
    bottleneck.tag: bottleneck
    for bottleneck in (
        Identity,
        Gaussian,
        VQ,
        EMA,
        Sim,
        LookupFree,
        FiniteScalar,
        Grouped,
        Entropy,
        SOM,
        PSOM,
        Torus,
        Gumbel,
    )
}
