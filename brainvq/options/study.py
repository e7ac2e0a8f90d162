"""A study: its options of data, model, training, prior and sampling, and its form in study.json.

There is a class for each kind of sample. It says what the study may be made of; an option of
another kind does not exist in it.
"""

import dataclasses
from dataclasses import dataclass, replace
from typing import ClassVar

import tyro

from brainvq.errors import UserError
from brainvq.options.base import group, option, switched, with_values
from brainvq.options.bottlenecks import BOTTLENECKS
from brainvq.options.data import BundleData, SliceData, VolumeData
from brainvq.options.model import Codebook, IntroModel, Latent, Loss, Model, Objective
from brainvq.options.networks import NETWORKS, Residual, Streamline, Strided
from brainvq.options.training import (
    Augment,
    BundleTrain,
    Mosaic,
    Prior,
    Sampling,
    SlicePrior,
    SliceTrain,
    VectorSampling,
    VectorTrain,
    VolumeTrain,
)
from brainvq.typed import check_types


@dataclass(frozen=True)
class Study:
    """A study: data, model, training, prior and sampling."""

    name: tyro.conf.Suppress[str] = "oasis2d"
    """Name of the study (chosen by the first word of the command line)."""
    variant: tyro.conf.Suppress[str] = "best"
    """Name of the variant (chosen by `--variant`)."""
    seed: int = option(0, minimum=0)
    """Seed of the split, the start weights, the order of the batches and the samples."""
    runs: str = "runs"
    """Folder in which the run's folder is made."""
    data: SliceData | VolumeData | BundleData = group(SliceData())
    model: Model | IntroModel = group(Model())
    train: SliceTrain | VolumeTrain | VectorTrain | BundleTrain = group(SliceTrain())
    prior: SlicePrior | Prior | Mosaic | None = group(SlicePrior())
    sampling: Sampling | VectorSampling = group(Sampling())

    # Name of the kind of sample, which `brainvq.tasks` knows.
    kind: ClassVar[str] = ""
    # Bottlenecks that it may have, by tag.
    bottlenecks: ClassVar[tuple[str, ...]] = tuple(tag for tag in BOTTLENECKS if tag != "entropy")

    @property
    def networks(self):
        """Networks that take its kind of sample: dict of tag to class."""
        return {tag: cls for tag, cls in NETWORKS.items() if cls.kind == self.kind}

    @property
    def has_prior(self):
        """Whether a prior over codes is trained."""
        return self.prior is not None and self.prior.is_wanted

    @property
    def draws(self):
        """Whether new samples are drawn."""
        return self.has_prior

    @property
    def classes(self):
        """Classes that a prior is conditioned on; None for none."""
        return None

    @property
    def window(self):
        """Side of the windows that are trained on, in pixels; None for whole samples."""
        return None

    @property
    def input_shape(self):
        """What a network takes: of any size where it is trained on windows of samples."""
        return self.data.input_shape if self.window is None else (None, None, 1)

    @property
    def divides_by_variance(self):
        """Whether the squared error is divided by the variance of the training samples."""
        return False

    @property
    def starts_from_clusters(self):
        """Whether the codebook starts at clusters of encodings."""
        return False

    @property
    def fixes_codebook(self):
        """Whether encoder and codebook stay where they started."""
        return False

    def check(self, study):
        """Refuses a network or a bottleneck of another kind of sample."""
        network = self.model.network
        if network.kind != self.kind:
            raise self._wrong_network(network.tag)

    def with_network(self, tag):
        """The study with another network; options that both have are kept."""
        if tag not in self.networks:
            raise self._wrong_network(tag)
        network = switched(self.model.network, self.networks[tag])
        model = replace(self.model, network=network)
        return replace(self, model=model, prior=self.prior_of(model))

    def _wrong_network(self, tag):
        return UserError(
            f"--model.network: found {tag}; expected {' or '.join(self.networks)}, because study "
            f"{self.name} is made of {self.kind}"
        )

    def with_bottleneck(self, tag):
        """The study with another bottleneck; options that both have are kept.

        Where its codes cannot be decoded there is no prior.
        """
        if tag not in self.bottlenecks:
            raise UserError(
                f"--model.bottleneck: invalid choice {tag!r}; expected one of "
                f"{', '.join(self.bottlenecks)}"
            )
        bottleneck = switched(self.model.bottleneck, BOTTLENECKS[tag])
        codebook = self.model.codebook
        starts_at_angles = codebook.codebook_start == "principal"
        if not bottleneck.is_placed or starts_at_angles != (tag == "torus"):
            codebook = replace(codebook, codebook_start="layer")
        model = replace(self.model, bottleneck=bottleneck, codebook=codebook)
        return replace(self, model=model, prior=self.prior_of(model))

    @classmethod
    def prior_class(cls, model):
        """Class of the options of a prior over the codes of a model; None where there is none."""
        usual = cls().prior
        if usual is None or not model.decodes_codes:
            return None
        return Mosaic if model.network.is_fitted else type(usual)

    def prior_of(self, model):
        """The prior's options with another model: its own, or the defaults of another class."""
        wanted = self.prior_class(model)
        if wanted is None or isinstance(self.prior, wanted):
            return self.prior if wanted else None
        return wanted() if self.prior is not None else None

    def smoke(self):
        """The seconds-long form: same parts, small numbers; its results mean nothing."""
        raise NotImplementedError


def _small_filters(filters):
    return tuple(max(4, count // 8) for count in filters)


def _small_bottleneck(bottleneck):
    small = {"num_codes": min(bottleneck.codes or 0, 32), "som_shape": (4, 5)}
    small |= {"channels": 32, "volume_bits": 1000}
    known = {field.name for field in dataclasses.fields(bottleneck)}
    return replace(bottleneck, **{name: small[name] for name in small if name in known})


@dataclass(frozen=True)
class AutoencoderStudy(Study):
    """A study whose samples become a grid of vectors or codes."""

    @property
    def divides_by_variance(self):
        """Whether the squared error is divided by the variance of the training samples."""
        return self.model.loss.data_variance

    @property
    def starts_from_clusters(self):
        """Whether the codebook starts at clusters of encodings."""
        return self.model.codebook.codebook_start == "kmeans"

    @property
    def fixes_codebook(self):
        """Whether encoder and codebook stay where they started."""
        return self.model.codebook.codebook_fixed

    def smoke(self):
        """The seconds-long form: same parts, small numbers; its results mean nothing."""
        network = replace(self.model.network, filters=_small_filters(self.model.network.filters))
        train = replace(self.train, epochs=2, batch_size=min(self.train.batch_size, 16))
        return replace(
            self,
            data=replace(self.data, subjects=8),
            model=replace(
                self.model,
                network=network,
                bottleneck=_small_bottleneck(self.model.bottleneck),
                codebook=replace(self.model.codebook, codebook_passes=1),
            ),
            train=train,
            prior=self.prior and self.prior.small(),
        )

    def _with_network(self, **small):
        known = {field.name for field in dataclasses.fields(self.model.network)}
        small = {name: value for name, value in small.items() if name in known}
        network = replace(self.model.network, **small)
        return replace(self, model=replace(self.model, network=network))


@dataclass(frozen=True)
class SliceStudy(AutoencoderStudy):
    """A study of slices."""

    kind: ClassVar[str] = "slices"
    bottlenecks: ClassVar[tuple[str, ...]] = tuple(
        tag for tag in AutoencoderStudy.bottlenecks if tag != "grouped"
    )

    @property
    def window(self):
        """Side of the windows that are trained on, in pixels; None for whole slices."""
        return self.train.window

    def check(self, study):
        """Refuses several codes in a cell."""
        super().check(study)
        bottleneck = self.model.bottleneck
        if bottleneck.depth > 1:
            raise UserError(
                f"--model.{bottleneck.depth_option}: found {bottleneck.depth}; expected 1, because "
                "slices have one code for each cell"
            )

    @property
    def classes(self):
        """Levels of height that the prior is told; None for none."""
        return (self.prior.levels or None) if self.prior is not None else None

    @property
    def plans(self):
        """Whether slices are drawn by the plan of a brain, see `SlicePrior.plan`."""
        return self.has_prior and self.prior.plan and self.data.has_scans

    @property
    def draws_by_height(self):
        """Whether it is known how high in the brain a drawn slice lies."""
        return self.plans or self.classes is not None

    def smoke(self):
        """The seconds-long form: same parts, small numbers; its results mean nothing."""
        study, data = super().smoke(), self.data
        blocks = tuple(1 for _ in getattr(self.model.network, "blocks", ()))
        study = study._with_network(blocks=blocks, bottleneck_filters=16)
        return replace(
            study,
            data=replace(
                study.data,
                simulated_spacing=4.0,
                spacing=data.spacing and 3.0,
                size=64,
                slice_spacing=8.0,
                slices=data.slices and 12,
                transfer=tuple(size and 80 for size in data.transfer),
            ),
            train=replace(study.train, window=self.train.window and 48),
        )


@dataclass(frozen=True)
class VolumeStudy(AutoencoderStudy):
    """A study of whole volumes."""

    kind: ClassVar[str] = "volumes"
    bottlenecks: ClassVar[tuple[str, ...]] = tuple(BOTTLENECKS)
    data: VolumeData = group(VolumeData())
    model: Model = group(Model(network=Strided()))
    train: VolumeTrain = group(VolumeTrain())
    prior: Prior | Mosaic | None = group(Prior())

    def check(self, study):
        """Refuses a prior over several codes in a cell."""
        super().check(study)
        if self.model.bottleneck.depth > 1 and self.has_prior and not self.prior.is_fitted:
            raise UserError(
                f"--prior.epochs: found {self.prior.epochs}; expected 0, because a prior is over "
                "one code for each cell"
            )

    def smoke(self):
        """The seconds-long form: same parts, small numbers; its results mean nothing."""
        study = super().smoke()._with_network(components=32, window=16)
        small = {"simulated_spacing": 4.0, "spacing": 5.0, "shape": (32, 48, 32)}
        return replace(study, data=replace(study.data, registration="no", **small))


@dataclass(frozen=True)
class VectorStudy(Study):
    """A study of volumes each of which becomes one vector."""

    kind: ClassVar[str] = "vectors"
    bottlenecks: ClassVar[tuple[str, ...]] = ("gaussian",)
    data: VolumeData = group(VolumeData())
    model: IntroModel = group(IntroModel())
    train: VectorTrain = group(VectorTrain())
    prior: None = None
    sampling: VectorSampling = group(VectorSampling())

    @property
    def draws(self):
        """Whether new samples are drawn."""
        return True

    def check(self, study):
        """Refuses a scale that leaves [0, 1]."""
        super().check(study)
        if self.data.scale == "zscore":
            raise UserError(
                "--data.scale: found zscore; expected percentile or max, because the network ends "
                "in values from 0 to 1"
            )

    def with_bottleneck(self, tag):
        """The study as it is: vectors have one bottleneck."""
        if tag not in self.bottlenecks:
            raise UserError(
                f"--model.bottleneck: found {tag}; expected gaussian, because study {self.name} "
                "makes one vector of a volume"
            )
        return self

    def smoke(self):
        """The seconds-long form: same parts, small numbers; its results mean nothing."""
        network = self.model.network
        return replace(
            self,
            data=replace(
                self.data,
                subjects=15,
                groups=("healthy", "MS", "leuko3"),
                shares=(),
                visits=(1.0, 1.5, 1.0),
                fractions=(0.6, 0.15, 0.25),
                simulated_spacing=8.0,
                block=8,
            ),
            model=replace(
                self.model,
                network=replace(
                    network,
                    filters=_small_filters(network.filters[:2]),
                    latent_size=min(network.latent_size, 16),
                    dense_units=(32,),
                ),
            ),
            train=replace(
                self.train, epochs=2, vae_epochs=min(1, self.train.vae_epochs), batch_size=8
            ),
            sampling=replace(self.sampling, samples=8),
        )


@dataclass(frozen=True)
class BundleStudy(AutoencoderStudy):
    """A study of bundles of streamlines."""

    kind: ClassVar[str] = "streamlines"
    data: BundleData = group(BundleData())
    model: Model = group(Model(network=Streamline()))
    train: BundleTrain = group(BundleTrain())
    prior: Prior | None = group(Prior())

    @property
    def classes(self):
        """Bundles, which the prior is told."""
        return len(self.data.bundles)

    def smoke(self):
        """The seconds-long form: same parts, small numbers; its results mean nothing."""
        study = super().smoke()
        blocks = tuple(1 for _ in self.model.network.blocks)
        study = study._with_network(blocks=blocks, bottleneck_filters=16, modes=8)
        data = replace(study.data, per_bundle=self.data.per_bundle and 3)
        return replace(study, data=data)


KINDS = {study.kind: study for study in (SliceStudy, VolumeStudy, VectorStudy, BundleStudy)}
_GROUPS = (Latent, Codebook, Loss, Objective)


def to_dict(study):
    """The study as a plain dict for `study.json`.

    The options of a model stand in one dict, with the names of network and bottleneck as tags.
    """
    content = {}
    for field in dataclasses.fields(study):
        value = getattr(study, field.name)
        content[field.name] = _plain(value) if dataclasses.is_dataclass(value) else value
    tags = {"network": study.model.network.tag}
    part = study.model.objective if study.kind == "vectors" else study.model.bottleneck
    content["model"] = {**tags, "bottleneck": part.tag, **content["model"]}
    return content


def _plain(options):
    found = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if not dataclasses.is_dataclass(value):
            found[field.name] = value
        elif field.metadata.get("flat"):
            found |= _plain(value)
        else:
            found[field.name] = _plain(value)
    return found


def from_dict(content):
    """The study that `to_dict` wrote, in this version or an earlier one.

    A missing option takes its default. Earlier versions wrote the options of all networks and
    bottlenecks; those of others than the run's own are left out, as they had no effect.

    Args:
        content: dict, `study` of a `study.json`.

    Returns:
        A `Study` of the class that its network belongs to.

    Raises:
        UserError: an option is not known.
    """
    if not isinstance(content, dict):
        raise UserError(f"study.json: found {content!r}; expected names and values of options")
    for name in ("data", "model", "train", "prior", "sampling"):
        if not isinstance(content.get(name) or {}, dict):
            raise UserError(f"study.json: {name}: found {content[name]!r}; expected options of it")
    model = content.get("model") or {}
    tag = model.get("network", Residual.tag)
    if not isinstance(tag, str) or tag not in NETWORKS:
        raise UserError(f"study.json: model: network: found {tag!r}; expected {_or(NETWORKS)}")
    cls = KINDS[NETWORKS[tag].kind]
    _refuse_unknown(content)
    base = cls()
    values = {
        name: _tuples(content[name])
        for name in ("name", "variant", "seed", "runs")
        if name in content
    }
    for name in ("data", "train", "sampling"):
        values[name] = _read(type(getattr(base, name)), content.get(name) or {})
    values["model"] = _read_model(cls, NETWORKS[tag], model)
    study = replace(base, **values)
    check_types(study, "study.json")
    kind = cls.prior_class(study.model)
    prior = content.get("prior", {})
    if kind is None or prior is None:
        return replace(study, prior=None)
    return replace(study, prior=_read(kind, prior))


def _read_model(cls, network, content):
    parts = {"network": _read(network, content)}
    if cls is VectorStudy:
        return IntroModel(objective=_read(Objective, content), **parts)
    tag = content.get("bottleneck", "ema")
    if not isinstance(tag, str) or tag not in BOTTLENECKS:
        raise UserError(
            f"study.json: model: bottleneck: found {tag!r}; expected {_or(BOTTLENECKS)}"
        )
    parts["bottleneck"] = _read(BOTTLENECKS[tag], content)
    for name, part in (("latent", Latent), ("codebook", Codebook), ("loss", Loss)):
        parts[name] = _read(part, content)
    return Model(start=content.get("start"), **parts)


def _read(cls, content):
    if not isinstance(content, dict):
        raise UserError(f"study.json: found {content!r}; expected names and values of options")
    values = {name: _tuples(value) for name, value in content.items()}
    if isinstance(content.get("augment"), dict):
        values["augment"] = _read(Augment, content["augment"])
    options = with_values(cls, values)
    check_types(options, "study.json")
    return options


def _tuples(value):
    return tuple(value) if isinstance(value, list) else value


def _or(names):
    return " or ".join(names)


def _refuse_unknown(content):
    """Refuses what no version has ever written."""
    known = {
        "data": _names(SliceData, VolumeData, BundleData),
        "model": _names(*NETWORKS.values(), *BOTTLENECKS.values(), *_GROUPS)
        | {"network", "bottleneck", "start"},
        "train": _names(SliceTrain, VectorTrain, BundleTrain),
        "prior": _names(SlicePrior, Mosaic),
        "sampling": _names(Sampling, VectorSampling),
    }
    unknown = sorted(set(content) - _names(Study))
    for part, names in known.items():
        unknown += sorted(f"{part}.{name}" for name in set(content.get(part) or {}) - names)
    if unknown:
        raise UserError(
            f"study.json: found options that are not known: {', '.join(unknown)}; expected a run "
            "of this version of brainvq or of an earlier one"
        )


def _names(*classes):
    return {field.name for cls in classes for field in dataclasses.fields(cls)}
