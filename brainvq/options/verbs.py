"""Options of the verbs of `predict`, a class for each verb and kind of sample where they differ.

    VERBS["slices"]["sample"]           the options of `sample` for a run of slices

An option that the samples of a run have no use for, such as the plane of a volume, does not exist.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from brainvq.errors import UserError
from brainvq.options.analyses import Anomaly, Classify, Folders, Verb
from brainvq.options.base import option

Count = Annotated[int, tyro.conf.arg(aliases=["-n"])]
Files = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES")]


@dataclass(frozen=True)
class Export(Verb):
    """A small folder of weights in half precision, to hand on."""

    out: str = "predictions/export"
    """Folder to write; it must be new or empty."""


@dataclass(frozen=True)
class Results(Verb):
    """What verbs that write files have in common."""

    out: str | None = None
    """Folder for the results; by default predictions/VERB."""
    batch_size: int = option(32, minimum=1)
    """Samples that the network takes at a time."""


@dataclass(frozen=True)
class FromFiles(Results):
    """Files that a verb reads."""

    files: Files = ()
    """Files, or folders of them where a verb takes scans or tractograms."""

    def check_for(self, study):
        """Refuses no files."""
        super().check_for(study)
        if not self.files:
            raise UserError("FILES: found none; expected files or folders")


@dataclass(frozen=True)
class FromFolders(FromFiles, Folders):
    """Scans or tractograms that a verb reads."""


# --- slices -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample(Results):
    """New samples from the prior over codes."""

    samples: Count = 64
    """How many to draw."""
    temperature: float | None = option(None, minimum=0)
    """Divides the logits: below 1 samples are more typical and less varied; `None`: as the run's
    study says."""
    top_k: int | None = None
    """Draw from the k most probable codes only; `None`: as the run's study says."""
    top_p: float | None = None
    """Draw from the most probable codes of this total probability only, 1 from all; `None`: as the
    run's study says."""
    seed: int | None = None
    """The same seed gives the same samples; `None`: others each time."""

    def check_for(self, study):
        """Refuses no samples."""
        _check_count(self.samples)

    @property
    def drawing(self):
        """What a draw depends on beside the number of samples: dict, without what is not given."""
        names = ("temperature", "top_k", "top_p", "seed")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class SliceSample(Sample):
    """New slices from the prior over codes."""

    level: float | None = option(None, minimum=0, maximum=1)
    """How high in the brain: 0 lowest, 1 highest; `None`: spread over the brain."""
    stack: bool = False
    """All slices are of one new brain, from its lowest to its highest, which is written as NIfTI
    too; needs a prior that draws by a plan."""
    coherence: float | None = option(None, minimum=0, maximum=1)
    """With `--stack`: how much of its chance a slice takes over from the one below it; `None`: all
    of it."""

    def check_for(self, study):
        """Refuses a stack at one height, or of a prior without a plan."""
        super().check_for(study)
        if self.coherence is not None and not self.stack:
            raise UserError(f"--coherence: found {self.coherence}; expected it with --stack only")
        if self.stack and self.level is not None:
            raise UserError(
                f"--level: found {self.level} beside --stack; expected one of them: a stack has "
                "all heights"
            )

    @property
    def drawing(self):
        """What a draw depends on beside the number of samples: dict."""
        if not self.stack:
            return {**super().drawing, "level": self.level}
        given = {} if self.coherence is None else {"coherence": self.coherence}
        return {**super().drawing, "stack": True, **given}


@dataclass(frozen=True)
class SliceFiles(FromFolders):
    """Scans as slices."""

    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    """Plane of the slices."""
    matrix: str | None = None
    """Pixels of a slice. `native`: every voxel as it is; `study`: as for training; or a number of
    rows and columns. `None`: native where the study leaves pixels as they are, else study."""
    spacing: float | None = option(None, above=0)
    """Pixel size in mm for a number as `matrix`; `None` keeps the pixels."""

    def check_for(self, study):
        """Refuses a matrix that the network does not take, and a spacing without one."""
        super().check_for(study)
        matrix = self.matrix_for(study)
        if matrix != "study" and study.data.spacing is not None:
            raise UserError(
                f"--matrix: found {matrix}; expected study, because the network of a run of study "
                f"{study.name}, variant {study.variant}, takes one size only"
            )
        if self.spacing is not None and not isinstance(matrix, int):
            raise UserError("--spacing: given; expected it with a number as --matrix only")

    def matrix_for(self, study):
        """The matrix as `brainvq.data.PreparedScan.read` takes it."""
        if self.matrix is None:
            return "native" if study.data.spacing is None else "study"
        if self.matrix.isdigit() and int(self.matrix) > 0:
            return int(self.matrix)
        if self.matrix not in ("native", "study"):
            raise UserError(f"--matrix: found {self.matrix!r}; expected native, study or a number")
        return self.matrix

    @property
    def planes(self):
        """The planes that are read."""
        return (self.plane,)


@dataclass(frozen=True)
class SliceReconstruct(SliceFiles):
    """Scans through the model and back."""

    plane: Literal["axial", "coronal", "sagittal", "all"] = "axial"
    """Plane of the slices; `all`: the mean of the three."""

    @property
    def planes(self):
        """The planes that are read."""
        return ("axial", "coronal", "sagittal") if self.plane == "all" else (self.plane,)


# --- volumes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VolumeSample(Sample):
    """New volumes from the prior over codes."""

    batch_size: int = option(2, minimum=1)
    """Volumes that the network takes at a time."""
    age: float | None = option(None, minimum=0)
    """Age of the new brains in years, where the prior knows ages; `None`: as they come."""
    sex: Literal["F", "M"] | None = None
    """Sex of the new brains, where the prior knows it; `None`: as it comes."""

    @property
    def drawing(self):
        """What a draw depends on beside the number of samples: dict."""
        return {**super().drawing, "age": self.age, "sex": self.sex}

    @classmethod
    def of(cls, study):
        """The options with their defaults for a run: as many volumes as the study draws."""
        return cls(samples=study.sampling.samples)


@dataclass(frozen=True)
class VolumeCodes(FromFiles):
    """Codes of volumes."""

    batch_size: int = option(2, minimum=1)
    """Volumes that the network takes at a time."""


@dataclass(frozen=True)
class VolumeFiles(VolumeCodes, FromFolders):
    """Scans as volumes."""


# --- vectors ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VectorSample(Results):
    """New volumes, decoded from draws of N(0, temperature^2 I), or fitted ones."""

    batch_size: int = option(16, minimum=1)
    """Volumes that the network takes at a time."""
    samples: Count = 8
    """How many to draw."""
    temperature: float = option(1.0, minimum=0)
    """Standard deviation of the draws: below 1 samples are more typical and less varied."""
    seed: int | None = option(None, minimum=0)
    """The same seed gives the same volumes; `None`: others each time."""

    def check_for(self, study):
        """Refuses no samples, and an infinite temperature."""
        _check_count(self.samples)
        if not math.isfinite(self.temperature):
            raise UserError(f"--temperature: found {self.temperature}; expected 0 or more")

    @property
    def drawing(self):
        """What a draw depends on beside the number of samples: dict."""
        return {"temperature": self.temperature, "seed": self.seed}


@dataclass(frozen=True)
class VectorCodes(FromFiles):
    """Vectors of volumes."""

    batch_size: int = option(16, minimum=1)
    """Volumes that the network takes at a time."""


@dataclass(frozen=True)
class VectorFiles(VectorCodes, FromFolders):
    """Scans as volumes that become vectors."""


@dataclass(frozen=True)
class Traverse(Results):
    """Volumes while one number of a vector changes."""

    batch_size: int = option(16, minimum=1)
    """Volumes that the network takes at a time."""
    scan: tyro.conf.Positional[str | None] = None
    """Scan whose vector is changed; `None`: a vector of zeros."""
    dimensions: tuple[int, ...] | None = None
    """Numbers of the vector, from 0. `None`: the three that differ most between classes or, where
    those are not known, most among training scans."""
    values: tuple[float, ...] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
    """Values that each takes."""

    def check_for(self, study):
        """Refuses values that are no way, and dimensions that the vectors do not have."""
        if len(self.values) < 2 or not all(map(math.isfinite, self.values)):
            values = " ".join(f"{value:g}" for value in self.values)
            raise UserError(f"--values: found {values}; expected two or more numbers")
        dimensions, size = self.dimensions or (), study.model.network.latent_size
        for number in dimensions:
            if not 0 <= number < size:
                raise UserError(
                    f"--dimensions: found {number}; expected numbers from 0 to {size - 1}, because "
                    f"the vectors of the run have {size}"
                )
        if len(set(dimensions)) < len(dimensions):
            raise UserError(
                f"--dimensions: found {' '.join(map(str, dimensions))}; expected each number once"
            )


@dataclass(frozen=True)
class Interpolate(VectorCodes):
    """Volumes on the way from one scan to another."""

    steps: int = option(7, minimum=2)
    """Volumes, both ends included."""
    spherical: bool = False
    """Along a great circle rather than a straight line, whose middle is nearer to zeros."""

    def check_for(self, study):
        """Refuses other than two scans."""
        if len(self.files) != 2:
            raise UserError(f"interpolate: found {len(self.files)} scans; expected two")


# --- streamlines --------------------------------------------------------------------------------


@dataclass(frozen=True)
class BundleSample(Sample):
    """New bundles from the prior over codes, each a .trk in mm."""

    samples: Count = 1
    """How many of each bundle."""
    batch_size: int = option(64, minimum=1)
    """Groups of streamlines that the network takes at a time."""
    bundle: tuple[str, ...] = ()
    """Which bundles, such as MCP; by default all."""

    def check_for(self, study):
        """Refuses bundles that the run does not know or that are named twice."""
        super().check_for(study)
        if len(set(self.bundle)) < len(self.bundle):
            raise UserError(f"--bundle: found {' '.join(self.bundle)}; expected each name once")
        for name in self.bundle:
            if name not in study.data.bundles:
                raise UserError(
                    f"--bundle: found {name}; expected one of {', '.join(study.data.bundles)}, the "
                    "bundles of the run"
                )


@dataclass(frozen=True)
class BundleCodes(FromFiles):
    """Codes of tractograms."""

    batch_size: int = option(64, minimum=1)
    """Groups of streamlines that the network takes at a time."""


@dataclass(frozen=True)
class BundleFiles(BundleCodes, FromFolders):
    """Tractograms."""

    points: Literal["model", "own"] | None = None
    """Points of a streamline in results: the model's, or its own in the file. `None`: own where the
    file has data per point, else model."""


@dataclass(frozen=True)
class Perturb(BundleFiles):
    """What noise on the latents does to tractograms."""

    epsilon: tuple[float, ...] = (0.1, 0.5, 1.0)
    """Sizes of the noise, in standard deviations of the latents."""
    seed: int = 0
    """Seed of the noise."""

    def check_for(self, study):
        """Refuses sizes below 0."""
        super().check_for(study)
        if not all(math.isfinite(size) and size >= 0 for size in self.epsilon):
            sizes = " ".join(map(str, self.epsilon))
            raise UserError(f"--epsilon: found {sizes}; expected numbers from 0")


@dataclass(frozen=True)
class Simulation:
    """The embedded cohort, written as a BIDS folder (`dataset.py simulate`)."""

    out: str = "simulated"
    """Folder to write."""
    subjects: int = 8
    """Number of simulated subjects."""
    suffix: Literal["T1w", "FLAIR"] = "FLAIR"
    """Contrast of the scans."""
    spacing: float = 1.0
    """Voxel size in mm, 1 to 8."""
    groups: tuple[Literal["healthy", "MS", "leuko1", "leuko2", "leuko3"], ...] = ("healthy", "MS")
    """Groups of the subjects, each as large as the others."""
    confound: bool = False
    """Scan nine in ten patients at one site, so that the scanner can pass for the disease."""
    lesion_shapes: str | None = None
    """Folder of lesion masks, NIfTI: their connected pieces, as large as they are, turned and
    mirrored at random, are the lesions of MS. `None`: ellipsoids."""
    seed: int = 2000
    """Seed of the subjects; other than those of training runs, so that these are new subjects."""
    workers: int | None = None
    """Subjects made at a time; by default one for each processor core."""


def _check_count(count):
    if count < 1:
        raise UserError(f"-n: found {count}; expected 1 or more")


VERBS = {
    "slices": {
        "sample": SliceSample,
        "reconstruct": SliceReconstruct,
        "encode": SliceFiles,
        "decode": FromFiles,
        "map": SliceFiles,
        "classify": Classify,
        "anomaly": Anomaly,
        "export": Export,
    },
    "volumes": {
        "sample": VolumeSample,
        "reconstruct": VolumeFiles,
        "encode": VolumeFiles,
        "decode": VolumeCodes,
        "map": VolumeFiles,
        "export": Export,
    },
    "vectors": {
        "sample": VectorSample,
        "reconstruct": VectorFiles,
        "encode": VectorFiles,
        "decode": VectorCodes,
        "traverse": Traverse,
        "interpolate": Interpolate,
        "export": Export,
    },
    "streamlines": {
        "sample": BundleSample,
        "reconstruct": BundleFiles,
        "encode": BundleFiles,
        "decode": BundleCodes,
        "perturb": Perturb,
        "export": Export,
    },
}
NAMES = tuple(dict.fromkeys(name for verbs in VERBS.values() for name in verbs))
SUMMARIES = {
    "reconstruct": "Files through the model and back, with measures and a picture of each.",
    "encode": "Files to codes or vectors, with a table.",
    "decode": "Codes or vectors (.npy) back to what they stand for.",
    "map": "The code of every voxel of scans, as NIfTI.",
}


def options_of_verb(verb, study, path):
    """The class of a verb's options for a run.

    Args:
        verb: one of `NAMES`.
        study: `brainvq.options.Study` of the run.
        path: the run's folder, for messages.

    Returns:
        A subclass of `Verb`.

    Raises:
        UserError: the samples of the run have no such verb.
    """
    if verb not in VERBS[study.kind]:
        kinds = " or ".join(kind for kind, verbs in VERBS.items() if verb in verbs)
        raise UserError(
            f"{verb}: {path} is of study {study.name}, whose samples are {study.kind}; expected a "
            f"run of a study of {kinds}"
        )
    return VERBS[study.kind][verb]


def refuse_others(words, verb, study, path):
    """Refuses an option that the verb has for other kinds of samples only.

    Args:
        words: list of str, the options given.
        verb: one of `NAMES`.
        study: `brainvq.options.Study` of the run.
        path: the run's folder, for messages.

    Raises:
        UserError: names the option, and the kinds that have it.
    """
    for place, word in enumerate(words):
        flag = word.split("=")[0].replace("_", "-")
        kinds = [kind for kind, verbs in VERBS.items() if flag in _flags(verbs.get(verb))]
        if not flag.startswith("--") or not kinds or study.kind in kinds:
            continue
        values = [word.split("=", 1)[1]] if "=" in word else []
        for value in () if values else words[place + 1 :]:
            if value.startswith("--"):
                break
            values.append(value)
        raise UserError(
            f"{flag}: found {' '.join(values)}; expected it with a study of {' or '.join(kinds)} "
            f"only, and the samples of {path} are {study.kind}"
        )


def _flags(options):
    fields = dataclasses.fields(options) if options else ()
    return {"--" + field.name.replace("_", "-") for field in fields}
