"""Options of the analyses of slices: maps of what is unlike a healthy brain, and classifiers."""

from dataclasses import dataclass
from typing import Literal

import tyro

from brainvq.data.selection import entities_from
from brainvq.options.base import group, option
from brainvq.options.training import Augment


class Verb:
    """What the options of all verbs can be asked for."""

    @classmethod
    def of(cls, study):
        """The options with their defaults for a run of `study`."""
        del study
        return cls()

    def check_for(self, study):
        """Refuses options that do not go with a run of `study`, or with each other.

        Args:
            study: `brainvq.options.Study` of the run.

        Raises:
            UserError: in one line.
        """


@dataclass(frozen=True)
class Folders(Verb):
    """Folders of scans or tractograms that a verb reads."""

    entities: str | None = None
    """Which files of folders to use, by the entities of their names, such as
    space=MNI152NLin2009cAsym,run=1. `None`: those of `--data.entities` of the run where there are
    any, else all, but of an image in several spaces only that in the scanner's."""

    def check_for(self, study):
        """Refuses what are no entities."""
        super().check_for(study)
        if self.entities is not None:
            entities_from(self.entities, "--entities")

    def wanted(self, study):
        """Which files of folders are taken, options of `brainvq.data.inputs.scan_paths`: dict."""
        contrast = {"contrast": study.data.suffix} if hasattr(study.data, "suffix") else {}
        return contrast | {"entities": self.entities, "preferred": study.data.entities}


@dataclass(frozen=True)
class Anomaly(Folders):
    """Maps of what is unlike a healthy brain, on each scan's own grid; with lesion masks also how
    well they find the lesions, beside the plain intensity (`predict.py RUN anomaly SCANS...`)."""

    scans: tyro.conf.Positional[tuple[str, ...]] = ()
    """Scans, or folders of them."""
    masks: tuple[str, ...] = ()
    """Lesion masks, or folders of them; matched to the scans by subject."""
    healthy: tuple[str, ...] = ()
    """Healthy scans, others than those measured, that set the thresholds."""
    out: str = "predictions/anomaly"
    """Folder for the results."""
    batch_size: int = option(32, minimum=1)
    """Slices at a time."""
    direction: Literal["auto", "both", "bright", "dark"] = "auto"
    """What counts: brighter than expected, darker, or both. `auto`: bright for a model of FLAIR,
    dark for one of T1w, both for others."""
    step: int = 2
    """Every how many slices are looked at; what lies between is interpolated."""
    threshold_bits: float | None = None
    """Codes that surprise the prior by more than so many bits are drawn anew. `None`: from healthy
    scans (`--healthy`), or else from the validation subjects of the run."""
    quantile: float = 0.95
    """Share of the codes of healthy scans that stays below that threshold."""
    draws: int = 4
    """Restorations of each slice."""
    passes: int = 2
    """Times that restoring goes over a slice."""
    temperature: float = 1.0
    """Temperature of the draws."""
    top_p: float = 0.9
    """Restore from the most probable codes that together have this probability."""
    sharpness: float = 15.0
    """How much restorations near to the slice count for more; 0 weighs all alike."""
    mirror: bool = True
    """Average the surprise with that of the mirrored slice."""
    smooth: float = 1.0
    """Gaussian on the reconstruction error, in pixels."""
    restoration_smooth: float = 1.0
    """Gaussian on the error against the restorations, in pixels."""
    median: int = 3
    """Side of a median filter on every score, in voxels; 0 is none."""
    erode: int = 3
    """Voxels at the border of the brain that do not count, for any score."""
    without_fluid: bool | None = None
    """Leave the fluid in and around the brain out, for any score. `None`: where only dark places
    count, because fluid is dark on T1w."""
    depth_smooth: float = 0.7
    """Gaussian on the intensity of the score `depth`, in mm."""
    depth_weight: float = 8.0
    """What the score `depth` loses at the rim of the brain, in standard deviations of intensity."""
    depth_reach: float = 3.0
    """Depth under the rim, in mm, at which it loses a third of that."""
    threshold: float | None = None
    """Score `depth` from which a place is marked in `desc-bright_mask`. `None`: from healthy scans
    (`--healthy`), or else a value that less than 1 % of the brain exceeds outside of lesions, in
    people of 69 to 90 years."""
    combined: tuple[str, ...] | None = None
    """Scores whose ranks are averaged into one: some of intensity, depth, pixel, ssim, surprise,
    restoration. `None`: intensity, pixel, restoration where only bright places count; else pixel,
    surprise, restoration."""
    specificity: float = 0.98
    """Share of a healthy scan's voxels that is not flagged, at the threshold that `--healthy`
    scans set for Dice."""
    seed: int = 0
    """Seed of the draws."""


@dataclass(frozen=True)
class Classify(Folders):
    """Classifiers of subjects on frozen codes, beside networks on pixels and linear baselines,
    cross-validated over subjects (`predict.py RUN classify`)."""

    scans: tyro.conf.Positional[tuple[str, ...]] = ()
    """Scans, or folders of them; by default the folder of the labels."""
    labels: str | None = None
    """FILE:COLUMN with the class of each subject, such as participants.tsv:group; a column of
    numbers is cut in two by FILE:COLUMN>NUMBER."""
    codes: str | None = None
    """In place of scans: the folder that `encode` wrote."""
    images: str | None = None
    """In place of scans: a folder of pictures, one sub-folder for each class."""
    cache: str = "cache"
    """Folder of prepared arrays."""
    out: str = "predictions/classify"
    """Folder for the results."""
    folds: int = 5
    """Folds of the cross-validation, over subjects."""
    repeats: int = 1
    """Cross-validations, each with other folds."""
    slices: int = 16
    """Slices of each scan, evenly spread over the brain."""
    methods: tuple[str, ...] = ("codes", "encoder", "pixels", "linear codes", "linear pixels")
    """What is compared: networks on codes, behind the frozen encoder and on pixels, and logistic
    regressions."""
    epochs: int = 20
    """Passes over the training slices of a fold."""
    learning_rate: float = 3e-3
    """Largest learning rate; it falls to zero along a cosine."""
    weight_decay: float = 1e-2
    """Decoupled weight decay (AdamW)."""
    filters: tuple[int, ...] = (32, 64)
    """Filters of the convolutions of each network."""
    dropout: float = 0.3
    """Share of activations dropped while training."""
    batch_size: int = option(32, minimum=1)
    """Slices in a step."""
    augment: Augment = group(Augment(shift=4, flip=0.5, gain=0.1))
    copies: int = 3
    """Changed copies of each slice for the network behind the frozen encoder."""
    components: int = 32
    """Most principal components of the logistic regressions."""
    keep: Literal["codes", "encoder", "pixels"] | None = "codes"
    """Which network is trained on all subjects in the end and kept; `None` keeps none."""
    confidence: float = 0.95
    """Coverage of the intervals, which are bootstrapped over subjects."""
    seed: int = 0
    """Seed of folds, start weights and order."""
