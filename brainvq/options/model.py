"""Options of models: network, bottleneck, where they start, and what they are trained to do."""

import contextlib
import functools
import operator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from brainvq.errors import UserError
from brainvq.options.base import Flat, group, option
from brainvq.options.bottlenecks import BOTTLENECKS, EMA
from brainvq.options.networks import NETWORKS, Intro, Residual


def _has_codebook(study):
    return study.model.bottleneck.codes is not None


def _clusters(study):
    return study.model.codebook.codebook_start == "kmeans" and study.model.start is None


_PLAIN = {
    "used": lambda study: not study.model.bottleneck.is_sampled,
    "only": "--model.bottleneck other than gaussian",
}


@dataclass(frozen=True)
class Latent:
    """What happens to the encoder's vectors beside the bottleneck."""

    continuous_weight: float | None = option(
        None, above=0, maximum=1, used=_has_codebook, only="a bottleneck with codes"
    )
    """Weight of the reconstruction from vectors that are not quantised; the other weighs the rest
    to 1. `None`: it is not made."""
    sampled_latent: bool = option(False, **_PLAIN)
    """Draw the vectors as a variational autoencoder does before they are quantised."""
    kl_weight: float = option(
        1e-4,
        minimum=0,
        used=lambda study: study.model.bottleneck.is_sampled or study.model.latent.sampled_latent,
        only="--model.bottleneck gaussian or --model.sampled-latent",
    )
    """Weight of the divergence from the normal distribution."""
    latent_noise: float = option(0.0, minimum=0, **_PLAIN)
    """Noise on the vectors of every second sample while training, before they are quantised: of a
    size between 0 and this many standard deviations of each channel. Decoders learn to bear it."""


@dataclass(frozen=True)
class Codebook:
    """Where the codebook starts."""

    start_weights: bool = option(
        True, used=lambda study: study.model.start is not None, only="--model.start"
    )
    """Take the weights of `start`; otherwise only its encodings, for `codebook_start`."""
    codebook_start: Literal["layer", "kmeans", "kohonen", "principal"] = option(
        "layer", used=_has_codebook, only="a bottleneck with codes"
    )
    """Where the codebook starts: as the layer does it (see `initialization`), or at clusters of the
    encodings of all training scans, by k-means or by Kohonen's map; a `torus` at the angles of
    their principal components."""
    codebook_passes: int = option(
        1, minimum=1, used=_clusters, only="--model.codebook-start kmeans and no --model.start"
    )
    """Passes over the training samples, each augmented anew, that the clusters are of where a
    variant starts from no other one."""
    codebook_tail: float = option(
        0.0, minimum=0, used=_clusters, only="--model.codebook-start kmeans and no --model.start"
    )
    """How much more the clusters of later codebooks (`depth` above 1) care for vectors of which
    much is left: they count by its length to this power. Fewer are then quantised badly."""
    codebook_fixed: bool = option(False, used=_has_codebook, only="a bottleneck with codes")
    """Leave encoder and codebook where they started; only the decoder is trained."""
    kohonen_radius: float = option(
        1.0,
        above=0,
        used=lambda study: study.model.codebook.codebook_start == "kohonen",
        only="--model.codebook-start kohonen",
    )
    """Radius of the neighbourhood at the end of Kohonen's map, in nodes: wide maps are smooth,
    narrow ones near to the data."""


@dataclass(frozen=True)
class Loss:
    """What a reconstruction is measured by in training."""

    data_variance: bool = False
    """Divide the squared error by the variance of the training images (the Keras tutorial does)."""
    mse_weight: float = option(25.0, minimum=0)
    """Weight of the mean squared error in the reconstruction loss."""
    mse_knee: float | None = option(None, above=0)
    """Squared errors of a sample above this count by their logarithm, so that samples disturbed by
    `latent_noise` do not outweigh the others. `None`: all count as they are."""
    ssim_weight: float = option(1.0, minimum=0)
    """Weight of 1 - SSIM in the reconstruction loss: what SSIM measures is then also what is
    trained, unlike in the papers. 25 times the squared error is about as large."""


# What is listed there; the option's own class is that of the preset.
Bottlenecks = functools.reduce(operator.or_, BOTTLENECKS.values())
Networks = functools.reduce(operator.or_, NETWORKS.values())


@dataclass(frozen=True)
class Model:
    """The network and its bottleneck."""

    network: Annotated[Networks, Flat] = group(Residual(), flat=True)
    bottleneck: Annotated[Bottlenecks, Flat] = group(EMA(), flat=True)
    latent: Annotated[Latent, Flat] = group(Latent(), flat=True)
    start: str | None = None
    """Variant that must be trained first: its weights, or its encodings, are where this starts."""
    codebook: Annotated[Codebook, Flat] = group(Codebook(), flat=True)
    loss: Annotated[Loss, Flat] = group(Loss(), flat=True)

    @property
    def decodes_codes(self):
        """Whether what is reconstructed is made from codes alone."""
        return self.bottleneck.is_discrete and not self.network.has_skips

    def check(self, study):
        """Refuses a start of the codebook that the variant has no encodings for."""
        chosen = self.codebook.codebook_start
        if chosen in ("kohonen", "principal") and self.start is None:
            raise UserError(
                f"--model.codebook-start: found {chosen}; expected layer or kmeans, because "
                f"{chosen} needs a variant to start from (--model.start)"
            )
        if chosen != "layer" and _has_codebook(study) and not self.bottleneck.is_placed:
            raise UserError(
                f"--model.codebook-start: found {chosen}; expected layer, because the codes of "
                f"--model.bottleneck {self.bottleneck.tag} are no places that can be set"
            )
        if (chosen == "principal") != (self.bottleneck.tag == "torus" and chosen != "layer"):
            raise UserError(
                f"--model.codebook-start: found {chosen}; expected principal or layer for "
                "--model.bottleneck torus, and for that alone"
            )

    def build(self, shape, *, variance=1.0, seed=0):
        """The model, with its weights made.

        Args:
            shape: shape of a sample, such as `(128, 128, 1)`; None for an axis of any size.
            variance: variance of the training images, for `data_variance`.
            seed: not used; an `IntroModel` draws.

        Returns:
            A `brainvq.models.VQVAETrainer`, or an `Autoencoder` where codes cannot be decoded.

        Raises:
            UserError: a layer refuses its options.
        """
        import numpy as np

        from brainvq.models import ReconstructionLoss

        with refusals("--model"):
            encoder, decoder = self.network.build(shape)
            kind = self.network.trainer(self.bottleneck.is_discrete)
            weight = 1.0 / variance if self.loss.data_variance else 1.0
            model = kind(
                encoder,
                self.build_bottleneck(),
                decoder,
                reconstruction_loss=ReconstructionLoss(
                    mse_weight=self.loss.mse_weight * weight,
                    ssim_weight=self.loss.ssim_weight,
                    mse_knee=self.loss.mse_knee,
                ),
                continuous_weight=self.latent.continuous_weight,
            )
            # One call makes the weights, so that they can be loaded.
            sizes = (size or self.network.stride for size in shape)
            model(np.zeros([1, *sizes], "float32"))
        return model

    def build_bottleneck(self):
        """The bottleneck as a layer, with what comes before it."""
        from brainvq.layers import BottleneckChain, GaussianSampling, LatentNoise

        sampling = GaussianSampling(kl_weight=self.latent.kl_weight)
        if self.bottleneck.is_sampled:
            return sampling
        # Layers draw their seeds in the order in which they are made.
        bottleneck = self.bottleneck.build()
        before = [sampling] if self.latent.sampled_latent else []
        if self.latent.latent_noise:
            before.append(LatentNoise(self.latent.latent_noise))
        return BottleneckChain([*before, bottleneck]) if before else bottleneck


def _fakes(study):
    return study.model.objective.is_adversarial


def _form(name):
    return {
        "used": lambda study: study.model.objective.form == name,
        "only": f"--model.form {name}",
    }


@dataclass(frozen=True)
class Objective:
    """What a model of vectors is trained to do."""

    tag: ClassVar[str] = "gaussian"
    form: Literal["vae", "hinge", "soft"] = "vae"
    """`vae`: a variational autoencoder; `hinge`: IntroVAE (Huang et al. 2018); `soft`:
    Soft-IntroVAE (Daniel & Tamar 2021)."""
    beta_rec: float = option(1.0, minimum=0)
    """Weight of the reconstruction, half the sum of the squared errors of a volume."""
    beta_kl: float = option(1.0, minimum=0)
    """Weight of the divergence from the prior, in nats."""
    adversarial_weight: float | None = option(
        None, minimum=0, used=_fakes, only="--model.form hinge or soft"
    )
    """Weight of the terms of generated volumes; with `hinge` above 0.5 an encoder gains by raising
    every divergence to the margin. `None`: 0.25 for `hinge`, 1 for `soft`."""
    margin: float = option(100.0, above=0, **_form("hinge"))
    """Divergence in nats above which the encoder is content with a generated volume."""
    beta_neg: float = option(256.0, minimum=0, **_form("soft"))
    """Weight of the divergence of generated volumes in the encoder's exponent."""
    gamma_r: float = option(0.0, minimum=0, **_form("soft"))
    """Weight of their reconstruction in the decoder's step."""
    fitted_draws: int = option(0, minimum=0)
    """Draw as so many training volumes are spread (or all, where there are fewer), and with the
    detail that their reconstructions lack, both as Gaussians fitted after the training: volumes as
    sharp and as varied as scans, of any form. The model then holds what these volumes are made of.
    0: vectors of N(0, I), and no more than is decoded from them."""

    @property
    def is_adversarial(self):
        """Whether encoder and decoder are trained against each other."""
        return self.form != "vae"


@dataclass(frozen=True)
class IntroModel:
    """The network of one vector for a volume, and what it is trained to do."""

    network: Annotated[Intro, Flat] = group(Intro(), flat=True)
    objective: Annotated[Objective, Flat] = group(Objective(), flat=True)
    # Vectors have a Gaussian prior of their own, and start from no other variant.
    decodes_codes: ClassVar[bool] = False
    start: ClassVar[None] = None

    def build(self, shape, *, variance=1.0, seed=0):
        """An `IntroVAE` with its weights made; see `Model.build`.

        Args:
            shape: shape of a volume, `(x, y, z, 1)`.
            variance: not used.
            seed: int, of the draws.
        """
        from brainvq.models import IntroVAE

        objective = dict(vars(self.objective))
        form = objective.pop("form")
        with refusals("--model"):
            encoder, decoder = self.network.build(shape)
            return IntroVAE(
                encoder, decoder, form=None if form == "vae" else form, seed=seed, **objective
            )


@contextlib.contextmanager
def refusals(options):
    """A layer that refuses an argument is here an option that the user got wrong."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{options}: {' '.join(str(error).split())}") from error
