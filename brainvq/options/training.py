"""Options of training: of the autoencoder, of the prior over its codes, and of what is drawn."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from brainvq.errors import UserError
from brainvq.options.base import group, option
from brainvq.options.model import refusals
from brainvq.progress import progress


@dataclass(frozen=True)
class Augment:
    """Random changes of the training slices; 0 turns each off."""

    shift: int = option(4, minimum=0)
    """Largest shift along each image axis, in pixels."""
    flip: float = option(0.5, minimum=0, maximum=1)
    """Probability of a left-right mirror image."""
    gain: float = option(0.1, minimum=0)
    """Largest relative change of brightness: the factor is within 1 +- gain."""
    gamma: float = option(0.0, minimum=0)
    """Largest change of contrast: the exponent is within exp(+- gamma)."""


@dataclass(frozen=True)
class Train:
    """Training of the autoencoder."""

    epochs: int = option(40, above=0)
    """Passes over the training samples."""
    max_steps: int | None = option(None, above=0)
    """Steps in all at most: with more data there are fewer epochs, at least one. `None`: as many as
    the epochs have."""
    batch_size: int = option(16, above=0)
    """Samples in a step."""
    learning_rate: float = option(2e-3, above=0)
    """Largest learning rate."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the learning rate changes over the epochs; `cosine` falls to zero."""
    warmup: float = option(
        0.05,
        minimum=0,
        maximum=1,
        used=lambda study: study.train.schedule == "cosine",
        only="--train.schedule cosine",
    )
    """Share of the steps in which the learning rate rises linearly."""
    weight_decay: float = option(0.0, minimum=0)
    """Decoupled weight decay (AdamW); 0 is plain Adam."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16", "auto"] = "float32"
    """Number type of the network; codebooks, statistics and losses stay float32. `auto` tries some
    steps of training and takes the quicker of the first two."""
    start_run: str | None = option(
        None,
        used=lambda study: study.model.start is not None,
        only="a variant that starts from another one (--model.start)",
    )
    """Run that a variant with `model.start` starts from; by default the newest one in `runs` with
    the same data."""
    pretrained: str | None = option(
        None,
        used=lambda study: study.model.start is None,
        only="a variant that starts from no other one (no --model.start)",
    )
    """Trained model whose weights the training starts from, on other data too: a run, a preset or
    hf://USER/NAME, of the same network and codes. The prior starts from its prior, where it has one
    of the same form."""


@dataclass(frozen=True)
class VolumeTrain(Train):
    """Training of the autoencoder."""

    augment: Augment = group(Augment())


@dataclass(frozen=True)
class SliceTrain(VolumeTrain):
    """Training of the autoencoder."""

    window: int | None = option(None, above=0)
    """Train on windows of this many pixels around random places of the brain instead of whole
    slices; `None` takes whole slices. Windows cost less, and black background teaches nothing."""

    def check(self, study):
        """Refuses windows that do not fit the network or the slices."""
        stride, size = study.model.network.stride, study.data.size
        if self.window is not None and (self.window % stride or self.window > size):
            raise UserError(
                f"--train.window: found {self.window}; expected a multiple of {stride}, the "
                f"stride of the network, up to --data.size {size}"
            )


def _adversarial(study):
    return study.model.objective.is_adversarial


@dataclass(frozen=True)
class VectorTrain(VolumeTrain):
    """Training of encoder and decoder."""

    vae_epochs: int = option(0, minimum=0, used=_adversarial, only="--model.form hinge or soft")
    """Passes before these, as a variational autoencoder: an encoder that knows brains is a critic
    from the start, and a step costs a third."""
    decoder_rate: float = option(
        1.0, above=0, maximum=1, used=_adversarial, only="--model.form hinge or soft"
    )
    """Learning rate of the decoder as a share of the encoder's (Heusel et al. 2017). Below 1 the
    critic keeps ahead: watch that `kl_gap` stays above 0."""


@dataclass(frozen=True)
class BundleTrain(Train):
    """Training of the autoencoder."""

    deform: float = option(0.0, minimum=0)
    """Size of random affine maps and smooth bends of bundles: at 1 lengths change by 4 %, places by
    about 3 % of the brain's half."""
    permute: bool = False
    """Shuffle the streamlines of a group."""


_TRAINED = {"used": lambda study: study.has_prior, "only": "--prior.epochs above 0"}


@dataclass(frozen=True)
class Prior:
    """The PixelCNN over the codes, and its training."""

    # Whether it is made of the training samples without any training.
    is_fitted: ClassVar[bool] = False
    gated: bool = option(True, **_TRAINED)
    """Gated PixelCNN (van den Oord et al. 2016) rather than the plain one of the papers."""
    filters: int = option(64, above=0, **_TRAINED)
    """Filters of each layer."""
    blocks: int = option(6, minimum=0, **_TRAINED)
    """Number of blocks."""
    kernel_size: int = option(3, above=0, **_TRAINED)
    """Kernel of the blocks, in codes."""
    first_kernel_size: int = option(5, above=0, **_TRAINED)
    """Kernel of the first layer, in codes."""
    attention_every: int = option(
        0,
        minimum=0,
        used=lambda study: study.has_prior and study.prior.gated,
        only="a gated prior (--prior.gated, --prior.epochs above 0)",
    )
    """Blocks between two attentions over all earlier codes (Chen et al. 2018, "PixelSNAIL"); 0 for
    none. Time and memory grow with the square of the codes in a grid."""
    dropout: float = option(0.1, minimum=0, maximum=1, **_TRAINED)
    """Share of activations dropped while training."""
    position_embedding: bool = option(True, **_TRAINED)
    """Tell the network where on the grid it is: brains sit at a known place."""
    epochs: int = option(8, minimum=0)
    """Passes over the code maps; 0 trains no prior. The weights of the best of them, by the loss on
    validation subjects, are kept."""
    max_steps: int | None = option(None, above=0, **_TRAINED)
    """Steps in all at most, as that of `train`."""
    batch_size: int = option(32, above=0, **_TRAINED)
    """Code maps in a step."""
    learning_rate: float = option(2e-3, above=0, **_TRAINED)
    """Largest learning rate; it falls to zero along a cosine."""
    warmup: float = option(0.02, minimum=0, maximum=1, **_TRAINED)
    """Share of the steps in which the learning rate rises linearly."""
    weight_decay: float = option(1e-2, minimum=0, **_TRAINED)
    """Decoupled weight decay (AdamW)."""
    clip_norm: float = option(1.0, minimum=0, **_TRAINED)
    """Gradients longer than this are shortened to it; 0 turns it off."""
    copies: int = option(4, above=0, **_TRAINED)
    """Encodings of each training sample: one as it is, the others augmented, so that few subjects
    give many code maps."""

    @property
    def is_wanted(self):
        """Whether there is to be one."""
        return self.epochs > 0

    @property
    def encodings(self):
        """How often each training sample is encoded before the training."""
        return self.copies

    @property
    def batches(self):
        """Samples in a step of each of its trainings."""
        return (self.batch_size,)

    def small(self):
        """The same with small numbers, for a smoke run."""
        few = {"epochs": min(2, self.epochs), "copies": min(2, self.copies)}
        return replace(self, filters=8, blocks=1, **few)

    def draw(self, prior, model, n, **options):
        """Draws `n` code maps: int32 `(n, *grid)`.

        Args:
            prior: what `build` made.
            model: the `Autoencoder` of the codes.
            n: int.
            **options: those of `PixelCNN.sample`.
        """
        del model
        return prior.sample(n, **options)

    def build(self, grid_shape, num_codes, num_classes=None, plan=None):
        """The prior, with its weights made.

        Args:
            grid_shape: shape of a code map, such as `(16, 16)`.
            num_codes: int, size of the codebook.
            num_classes: int, classes that the prior is conditioned on; None for none.
            plan: `brainvq.models.GaussianPlan` that its grids are drawn by; None for none.

        Returns:
            A `brainvq.models.PixelCNN`.

        Raises:
            UserError: it refuses its options.
        """
        from brainvq.models import PixelCNN

        with refusals("--prior"):
            return PixelCNN(
                grid_shape=tuple(grid_shape),
                num_codes=num_codes,
                filters=self.filters,
                num_blocks=self.blocks,
                kernel_size=self.kernel_size,
                first_kernel_size=self.first_kernel_size,
                gated=self.gated,
                dropout=self.dropout,
                position_embedding=self.position_embedding,
                attention_every=self.attention_every,
                num_classes=num_classes,
                plan=plan,
            )


@dataclass(frozen=True)
class Mosaic:
    """New volumes as mosaics of patches of training volumes (models/mosaic.py); nothing is
    trained."""

    is_fitted: ClassVar[bool] = True
    encodings: ClassVar[int] = 1
    batches: ClassVar[tuple[int, ...]] = ()
    people: int = option(50, minimum=0)
    """Training volumes whose patches are used, evenly from all of them; 0 for no draws. Time and
    memory of a draw grow with them."""
    mirrored: bool = option(
        True, used=lambda study: study.has_prior, only="draws (--prior.people above 0)"
    )
    """Use their mirror images too, left and right."""

    def check(self, study):
        """Refuses one training volume, and odd sides."""
        if self.people == 1:
            raise UserError("--prior.people: found 1; expected 0, for no draws, or 2 or more")
        if study.has_prior and any(side % 2 for side in study.data.shape):
            raise UserError(
                f"--data.shape: found {' '.join(map(str, study.data.shape))}; expected even sides, "
                "or --prior.people 0"
            )

    @property
    def is_wanted(self):
        """Whether there is to be one."""
        return self.people > 0

    def small(self):
        """The same with small numbers, for a smoke run."""
        return replace(self, people=min(4, self.people))

    def draw(
        self,
        prior,
        model,
        n,
        seed=None,
        temperature=1.0,
        traits=None,
        top_k=None,
        top_p=None,
        **rest,
    ):
        """Draws codes of `n` volumes, with a bar; see `MosaicPrior.sample`.

        Raises:
            UserError: an option of priors over single codes is given.
        """
        for name, value in {"top-k": top_k, "top-p": top_p, **rest}.items():
            if value is not None:
                raise UserError(
                    f"--{name}: found {value}; expected none: mosaics have a temperature alone"
                )
        with progress(title="mosaics", unit="place", part=True) as bar:

            def watch(done, total):
                bar.total = total
                bar.update(done - bar.n)

            return prior.sample(
                n, model, seed=seed, temperature=temperature, traits=traits, progress=watch
            )


_PLANNED = {
    "used": lambda study: study.has_prior and study.data.has_scans,
    "only": "a prior (--prior.epochs above 0) over slices of scans",
}


@dataclass(frozen=True)
class SlicePrior(Prior):
    """The PixelCNN over the codes, and its training."""

    levels: int = option(16, minimum=0, **_TRAINED)
    """Tell the prior how high in the brain a slice lies, in this many steps; 0 does not tell it.
    Brains drawn for a known height hold together better."""
    plan: bool = option(False, **_PLANNED)
    """Draw a coarse picture of the whole brain first, and then the codes of a slice by it: both
    halves match, and ventricles and deep grey matter are where they belong. It knows the height of
    a slice, so that `levels` add nothing."""
    plan_rank: int = option(
        40, above=0, used=lambda study: study.plans, only="--prior.plan and a prior"
    )
    """Principal components of the coarse pictures; of few people there are fewer."""
    warp: float = option(0.0, minimum=0, maximum=2, **_TRAINED)
    """Size of the random affine and elastic warps that training slices are given anew in each pass
    before they are encoded; they narrow towards the end. 0 turns them off."""
    copies: int = option(
        4,
        above=0,
        used=lambda study: study.has_prior and not (study.prior.warp or study.plans),
        only="a prior without --prior.warp and --prior.plan",
    )
    """Encodings of each training sample: one as it is, the others augmented, so that few subjects
    give many code maps."""

    @property
    def encodings(self):
        """How often each training slice is encoded before the training."""
        return 1 if self.warp or self.plan else self.copies


_DRAWN = {"used": lambda study: study.draws, "only": "a prior (--prior.epochs above 0)"}


@dataclass(frozen=True)
class Sampling:
    """New samples, drawn from the prior."""

    samples: int = option(64, above=0, **_DRAWN)
    """How many to draw."""
    temperature: float = option(0.8, minimum=0, **_DRAWN)
    """Divides the logits: below 1 the samples are more typical and less varied."""
    top_k: int | None = option(None, minimum=1, **_DRAWN)
    """Draw only from the k most probable codes."""
    top_p: float | None = option(0.9, above=0, maximum=1, **_DRAWN)
    """Draw only from the most probable codes that together have this probability."""

    def check(self, study):
        """Refuses more codes than there are."""
        codes = study.model.bottleneck.codes
        if self.top_k is not None and codes is not None and self.top_k > codes:
            raise UserError(f"--sampling.top-k: found {self.top_k}; expected 1 to {codes}")

    @property
    def arguments(self):
        """What `PixelCNN.sample` takes: dict of temperature, top_k and top_p."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}


@dataclass(frozen=True)
class VectorSampling:
    """New volumes, decoded from draws of N(0, I), or as `--model.fitted-draws` says."""

    samples: int = option(64, minimum=2)
    """How many volumes to draw."""
    temperature: float = option(1.0, minimum=0)
    """Standard deviation of the draws: below 1 the samples are more typical and less varied."""
