"""Options on which scans or tractograms there are, and how they become arrays."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from brainvq.data.selection import entities_from
from brainvq.errors import UserError
from brainvq.names import BUNDLES
from brainvq.options.base import option

DOWNLOADS = ("oasis1", "oasis2", "ixi", "tractoinferno")
_FROM_FILES = {
    "used": lambda study: study.data.source != "simulated",
    "only": "--data.source other than simulated",
}
_SIMULATED = {
    "used": lambda study: study.data.simulates,
    "only": "--data.source simulated or --data.add-simulated",
}
_BIDS = {"used": lambda study: study.data.source == "bids", "only": "--data.source bids"}
_NAMED = {
    "used": lambda study: study.data.source in ("bids", "tracts"),
    "only": "--data.source bids or tracts",
}
_DOWNLOAD = {"used": lambda study: study.data.download, "only": "--data.download"}
_SCANS = {"used": lambda study: study.data.has_scans, "only": "a --data.source of scans"}
_REGISTERED = {
    "used": lambda study: study.data.registration != "no",
    "only": "--data.registration affine, rigid or mni",
}


@dataclass(frozen=True)
class Data:
    """Which scans, and how they become arrays."""

    source: str = "simulated"
    root: str | None = option(None, **_FROM_FILES)
    """Folder of the data set (all sources but `simulated` need it)."""
    subjects: int = option(
        16,
        above=0,
        used=lambda study: study.data.source == "simulated",
        only="--data.source simulated",
    )
    """Number of simulated subjects."""
    download: bool = False
    """Download the data set into `root` first: oasis1 (about 1.3 GB a disc), oasis2, ixi (4.8 GB)
    or tractoinferno (`people` and `bundles` of it)."""
    accept_terms: bool = option(False, **_DOWNLOAD)
    """Accept the data set's terms of use, which are printed before a download starts."""
    mirror: str | None = option(None, **_DOWNLOAD)
    """Address to download from in place of the publisher's, such as an institute's own copy."""
    entities: str | None = option(None, **_NAMED)
    """Which files of a BIDS folder to use, by the entities of their names, such as
    space=MNI152NLin2009cAsym,run=1; an empty label, as in space=, means without that entity. By
    default all, but of an image in several spaces only that in the scanner's."""
    fractions: tuple[float, float, float] = option(
        (0.7, 0.1, 0.2),
        used=lambda study: study.data.assignments is None,
        only="splits that are drawn, without --data.assignments",
    )
    """Share of the subjects used for training, validation and testing; split by subject."""
    assignments: str | None = None
    """File that says which subject is in which split (.csv with subject and split, or .json), in
    place of drawing them."""
    cache: str = "cache"
    """Folder of prepared arrays; shared by runs that use the same scans and steps."""
    workers: int | None = option(
        None, used=lambda study: study.data.scheduler is None, only="no --data.scheduler"
    )
    """Scans prepared at a time; by default one for each processor core."""
    scheduler: str | None = None
    """Address of a Dask scheduler, such as tcp://HOST:8786, whose workers prepare the scans, on
    several machines with a disk that all share; needs the package distributed."""

    @property
    def simulates(self):
        """Whether subjects are simulated."""
        return self.source == "simulated"

    def check(self, study):
        """Refuses fractions that are no shares, a missing folder, wrong entities, and no download
        of a source.
        """
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UserError(
                f"--data.fractions: found {self.fractions}; expected three shares that sum to 1"
            )
        if self.source != "simulated" and self.root is None:
            raise UserError(
                f"--data.root: not given; --data.source {self.source} needs the folder of scans"
            )
        if self.entities is not None:
            entities_from(self.entities, "--data.entities")
        if self.download and self.source not in DOWNLOADS:
            raise UserError(
                f"--data.download: found --data.source {self.source}; expected one of "
                f"{', '.join(DOWNLOADS)}"
            )


@dataclass(frozen=True)
class ScanData(Data):
    """Which scans, and how they become arrays."""

    suffix: str = "T1w"
    """Contrast: BIDS suffix of the images to use, such as T1w or FLAIR."""
    group_column: str = option("group", **_BIDS)
    """Column of participants.tsv (or of sub-*_sessions.tsv) that holds the class."""
    simulated_spacing: float = option(2.0, above=0, **_SIMULATED)
    """Voxel size at which subjects are simulated, in mm."""
    simulated_space: Literal["scanner", "mni"] = option("scanner", **_SIMULATED)
    """Where simulated heads lie: as in a scanner, or as after registration to the template."""
    groups: tuple[Literal["healthy", "MS", "leuko1", "leuko2", "leuko3"], ...] = option(
        ("healthy",), **_SIMULATED
    )
    """Groups of simulated subjects: healthy, multiple sclerosis, leukoencephalopathy by grade."""
    shares: tuple[float, ...] = option((), **_SIMULATED)
    """Share of the simulated subjects in each of `groups`, in any unit; by default all alike."""
    visits: tuple[float, ...] = option((), **_SIMULATED)
    """Scans of a simulated subject in each of `groups`, on average; by default one."""
    confound: Literal["no", "site", "echo"] = option("no", **_SIMULATED)
    """Plants a confound into the simulated cohort: nine in ten patients at one `site`, or nine in
    ten of those with MS scanned with a longer `echo` time; for trying the bias audit."""
    add_simulated: int = option(0, minimum=0, **_FROM_FILES)
    """Simulated subjects that are added to the training split of real scans."""
    parts: tuple[int, ...] = option(
        (1,),
        used=lambda study: study.data.download and study.data.source in ("oasis1", "oasis2"),
        only="--data.download and --data.source oasis1 or oasis2",
    )
    """Which parts of a download to fetch: OASIS-1 discs 1 to 12, OASIS-2 parts 1 and 2."""
    masks: str | None = None
    """Brain masks beside the scans, which take the skull off: `bids` for those of BIDS derivatives,
    or a path such as "{scan}_mask.nii.gz" with {scan}, {subject}, {session}, {root}."""
    mask_tool: str | None = None
    """Command that makes the brain mask of a scan, such as "mri_synthstrip -i {input} -m {mask}";
    run once for each scan, masks are kept in `cache`."""
    clip_percentile: float = option(
        99.9,
        minimum=0,
        maximum=100,
        used=lambda study: study.data.has_scans and study.data.scale != "max",
        only="--data.scale other than max",
    )
    """Intensities above this percentile of the foreground are clipped."""

    has_scans: ClassVar[bool] = True

    @property
    def simulates(self):
        """Whether subjects are simulated, all or some that are added to real ones."""
        return self.source == "simulated" or self.add_simulated > 0

    def check(self, study):
        """Refuses two ways to masks, and groups that are not described alike."""
        super().check(study)
        if self.masks is not None and self.mask_tool is not None:
            raise UserError("--data.mask-tool: found beside --data.masks; expected one of them")
        for name in ("shares", "visits"):
            numbers = getattr(self, name)
            if numbers and len(numbers) != len(self.groups):
                raise UserError(
                    f"--data.{name}: found {len(numbers)} numbers; expected one for each of "
                    f"--data.groups, {len(self.groups)}"
                )
        if not self.groups or len(set(self.groups)) < len(self.groups):
            raise UserError(
                f"--data.groups: found {', '.join(self.groups) or 'none'}; expected each once"
            )


@dataclass(frozen=True)
class SliceData(ScanData):
    """Which scans, and how they become slices."""

    source: Literal["simulated", "bids", "oasis1", "oasis2", "ixi", "png", "images"] = "simulated"
    """Where the scans come from. `simulated`: the embedded cohort, brains simulated on a real
    template; `bids`: any BIDS folder; `oasis1`, `oasis2`, `ixi`: the trees of those downloads;
    `png`: folders keras_png_slices_{train,validate,test}; `images`: pictures, one sub-folder for
    each class."""
    spacing: float | None = option(1.5, above=0)
    """In-plane pixel size after resampling, in mm: 128 pixels of 1.5 mm hold a whole brain. `None`
    leaves the pixels as the scanner made them."""
    size: int = option(128, above=0)
    """Rows and columns of a slice, in pixels."""
    slice_spacing: float = option(
        2.0,
        above=0,
        used=lambda study: study.data.has_scans and study.data.slices is None,
        only="--data.slices None and a --data.source of scans",
    )
    """Distance between neighbouring slices, in mm (where `slices` is `None`)."""
    slices: int | None = option(None, above=0, **_SCANS)
    """Slices of each scan, evenly spread over the brain, in place of `slice_spacing`."""
    slice_margin: tuple[float, float] = option((5.0, 5.0), **_SCANS)
    """How far inside the lowest and the highest point of the brain slices begin and end, in mm."""
    scale: Literal["percentile", "max"] = option("percentile", **_SCANS)
    """How a scan is scaled. `percentile`: clipped at `clip_percentile`, then to [0, 1] from its
    smallest value to its largest; `max`: divided by its largest value."""
    transfer: tuple[int, ...] = option((), minimum=0, **_SCANS)
    """Test scans are reconstructed on these matrices too, over a field of view of 250 mm; 0 is the
    scan's own matrix, neither cut nor filled."""

    @property
    def has_scans(self):
        """Whether the source is of scans, not of slices or pictures that are already cut."""
        return self.source not in ("png", "images")

    @property
    def sample_shape(self):
        """Shape of a slice: (rows, columns, 1)."""
        return (self.size, self.size, 1)

    @property
    def input_shape(self):
        """What a network takes: any size where pixels stay as the scanner made them."""
        return (None, None, 1) if self.spacing is None else self.sample_shape

    def check(self, study):
        """Refuses a size that the network cannot halve as often as it does."""
        super().check(study)
        stride = study.model.network.stride
        if self.size % stride:
            raise UserError(
                f"--data.size: found {self.size}; expected a multiple of {stride}, the stride of "
                "the network"
            )


@dataclass(frozen=True)
class VolumeData(ScanData):
    """Which scans, and how they become volumes."""

    source: Literal["simulated", "bids", "oasis1", "oasis2", "ixi"] = "simulated"
    """Where the scans come from. `simulated`: the embedded cohort, brains simulated on a real
    template; `bids`: any BIDS folder; `oasis1`, `oasis2`, `ixi`: the trees of those downloads."""
    spacing: float = option(1.5, above=0)
    """Side of a voxel after resampling, in mm."""
    registration: Literal["no", "affine", "rigid", "mni"] = "no"
    """Brings volumes into the space of the MNI template (ICBM152), in voxels of 1 mm, by an
    `affine` or `rigid` map; `mni`: they are there already."""
    skull: Literal["auto", "template", "keep"] = option("auto", **_REGISTERED)
    """What becomes of the skull after registration. `auto`: scans that are not brain-extracted are
    cut to their brain, by a skull stripper on PATH or else by tissue near the template's brain;
    `template`: all are cut to the template's brain; `keep`: none."""
    min_fit: float | None = option(
        None,
        minimum=0,
        maximum=1,
        used=lambda study: study.data.registration in ("affine", "rigid"),
        only="--data.registration affine or rigid",
    )
    """Scans that fit the template worse after registration are left out; by default 0.79 of heads
    and 0.7 of brain-extracted scans."""
    block: int = option(1, minimum=1, **_REGISTERED)
    """Registered volumes are averaged over blocks of so many voxels of 1 mm along each axis."""
    shape: tuple[int, int, int] = option((144, 176, 144), above=0)
    """Voxels of a volume (right to left, front to back, bottom to top), cut or filled around the
    brain."""
    scale: Literal["percentile", "max", "zscore"] = "percentile"
    """How a scan is scaled. `percentile`: clipped at `clip_percentile`, then to [0, 1] from its
    smallest value to its largest; `max`: divided by its largest value; `zscore`: clipped, then to
    mean 0 and standard deviation 1 over the volume (volumes that are not registered)."""

    @property
    def sample_shape(self):
        """Shape of a volume as the network sees it: (x, y, z, 1)."""
        return (*(size // self.block for size in self.shape), 1)

    @property
    def input_shape(self):
        """What a network takes."""
        return self.sample_shape

    def check(self, study):
        """Refuses shapes that the network cannot halve, and what a registration leaves no room."""
        super().check(study)
        if self.block > 1 and self.registration == "no":
            raise UserError(
                f"--data.block: found {self.block}; expected 1 without --data.registration"
            )
        step = study.model.network.stride * self.block
        if any(size % step for size in self.shape):
            times = f" times --data.block {self.block}" if self.block > 1 else ""
            raise UserError(
                f"--data.shape: found {self.shape}; expected multiples of {step}, the stride of "
                f"the network{times}"
            )
        if self.registration != "no" and self.spacing != 1:
            raise UserError(
                f"--data.spacing: found {self.spacing}; expected 1, because registered volumes "
                "have voxels of 1 mm (--data.block makes larger ones)"
            )
        if self.registration != "no" and self.scale == "zscore":
            raise UserError(
                "--data.scale: found zscore; expected percentile or max with --data.registration"
            )
        if self.simulated_space == "mni" and self.source == "simulated":
            self._check_template_space()

    def _check_template_space(self):
        if self.registration == "no" or self.simulated_spacing != self.block:
            raise UserError(
                f"--data.simulated-spacing: found {self.simulated_spacing}; expected --data.block "
                f"{self.block} with --data.simulated-space mni, and --data.registration"
            )
        if self.shape != (160, 192, 160):
            raise UserError(
                f"--data.shape: found {self.shape}; expected 160 192 160 with --data.simulated-"
                "space mni"
            )


@dataclass(frozen=True)
class BundleData(Data):
    """Which tractograms, and how they become groups of streamlines."""

    source: Literal["simulated", "tractoinferno", "tracts", "groups"] = "simulated"
    """Where the streamlines come from. `simulated`: simulated bundles; `tractoinferno`: the tree of
    that data set; `tracts`: any folder of tractograms (.trk, .tck, .trx) whose names tell subject
    and bundle, such as SUBJECT__BUNDLE.trk or BIDS names; `groups`: BUNDLE.npy as Lizarraga et al.
    (2023) published them, (n, 64, 3, 64) in [-1, 1]."""
    people: tuple[str, ...] = option(
        (),
        used=lambda study: study.data.download and study.data.source == "tractoinferno",
        only="--data.download and --data.source tractoinferno",
    )
    """Which people of TractoInferno's test set to download, such as 1006; by default the first
    five."""
    streamlines: int = option(64, minimum=1)
    """Streamlines in a group: a sample is a group of one bundle."""
    points: int = option(64, minimum=2)
    """Points of a streamline, evenly spaced along it."""
    bundles: tuple[str, ...] = BUNDLES
    """Bundles of white matter to use."""
    per_bundle: int | None = option(None, minimum=1)
    """Groups kept of each person's bundle at most; `None`: all."""

    @property
    def sample_shape(self):
        """Shape of a group: (streamlines, points, 3)."""
        return (self.streamlines, self.points, 3)

    @property
    def input_shape(self):
        """What a network takes."""
        return self.sample_shape

    def check(self, study):
        """Refuses bundles that the sources do not have."""
        super().check(study)
        unknown = [name for name in self.bundles if name not in BUNDLES]
        if (unknown or not self.bundles) and self.source != "tracts":
            raise UserError(
                f"--data.bundles: found {', '.join(unknown) or 'none'}; expected some of "
                f"{', '.join(BUNDLES)}"
            )


def comparable(data):
    """What must be equal for two runs to have the same arrays and the same split."""
    changes = {"cache": "", "workers": None, "scheduler": None}
    if isinstance(data, SliceData):
        changes["transfer"] = ()
    return dataclasses.replace(data, **changes)
