"""Every number that a user may tune: the studies, their variants, and what each option means.

A study is a `Study` dataclass; `STUDIES[study][variant]` is a preset. On the command line a preset
is chosen by name and any field is changed by its dotted path:

    python train.py oasis2d --variant paper --train.epochs 60 --data.source bids --data.root DIR

`--help` prints every field with its unit and default, straight from the docstrings below.
"""

import contextlib
import dataclasses
import inspect
import io
import re
import sys
from dataclasses import dataclass, field, replace
from typing import Literal

import tyro

from brainvq.data import BUNDLES
from brainvq.errors import UserError


@dataclass(frozen=True)
class Data:
    """Which scans, and how they become arrays."""

    source: Literal[
        "simulated",
        "bids",
        "oasis1",
        "oasis2",
        "ixi",
        "png",
        "images",
        "tractoinferno",
        "tracts",
        "groups",
    ] = "simulated"
    """Where the scans come from. `simulated`: the embedded cohort, brains simulated on a real
    template, or simulated bundles; `bids`: any BIDS folder; `oasis1`, `oasis2`, `ixi`: the trees of
    those downloads; `png`: folders keras_png_slices_{train,validate,test}; `images`: pictures, one
    sub-folder for each class. Of streamlines: `tractoinferno`: the tree of that data set; `tracts`:
    any folder of SUBJECT__BUNDLE.trk (.tck, .trx); `groups`: BUNDLE.npy as the study published
    them, (n, 64, 3, 64) in [-1, 1]."""
    root: str | None = None
    """Folder of the data set (all sources but `simulated` need it)."""
    suffix: str = "T1w"
    """BIDS suffix of the images to use, such as T1w or FLAIR."""
    subjects: int = 16
    """Number of simulated subjects (source `simulated` only)."""
    simulated_spacing: float = 2.0
    """Voxel size at which subjects are simulated, in mm."""
    simulated_space: Literal["scanner", "mni"] = "scanner"
    """Where simulated heads lie: as in a scanner, or as after registration to the template."""
    groups: tuple[Literal["healthy", "MS", "leuko1", "leuko2", "leuko3"], ...] = ("healthy",)
    """Groups of simulated subjects: healthy, multiple sclerosis, leukoencephalopathy by grade."""
    shares: tuple[float, ...] = ()
    """Share of the simulated subjects in each of `groups`, in any unit; by default all alike."""
    visits: tuple[float, ...] = ()
    """Scans of a simulated subject in each of `groups`, on average; by default one."""
    confound: Literal["no", "site", "echo"] = "no"
    """Plants a confound into the simulated cohort: nine in ten patients at one `site`, or nine in
    ten of those with MS scanned with a longer `echo` time; for trying the bias audit."""
    add_simulated: int = 0
    """Simulated subjects that are added to the training split of real scans."""
    download: bool = False
    """Download the data set into `root` first: oasis1 (about 1.3 GB a disc), oasis2, ixi (4.8 GB)
    or tractoinferno (`people` and `bundles` of it)."""
    accept_terms: bool = False
    """Accept the data set's terms of use, which are printed before a download starts."""
    mirror: str | None = None
    """Address to download from in place of the publisher's, such as an institute's own copy."""
    parts: tuple[int, ...] = (1,)
    """Which parts of a download to fetch: OASIS-1 discs 1 to 12, OASIS-2 parts 1 and 2."""
    people: tuple[str, ...] = ()
    """Which people of TractoInferno's test set to download, such as 1006; by default the first
    five."""
    streamlines: int | None = None
    """Streamlines in a group: a sample is a group of one bundle. `None`: images."""
    points: int = 64
    """Points of a streamline, evenly spaced along it."""
    bundles: tuple[str, ...] = BUNDLES
    """Bundles of white matter to use."""
    per_bundle: int | None = None
    """Groups kept of each person's bundle at most; `None`: all."""
    spacing: float | None = 1.5
    """In-plane pixel size after resampling, in mm: 128 pixels of 1.5 mm hold a whole brain. `None`
    leaves the pixels as the scanner made them. Volumes get voxels of this side."""
    registration: Literal["no", "affine", "rigid", "mni"] = "no"
    """Brings volumes into the space of the MNI template (ICBM152), in voxels of 1 mm, by an
    `affine` or `rigid` map; `mni`: they are there already."""
    skull: Literal["auto", "template", "keep"] = "auto"
    """What becomes of the skull after registration. `auto`: scans that are not brain-extracted are
    cut to the template's brain; `template`: all are; `keep`: none."""
    masks: str | None = None
    """Brain masks beside the scans, which take the skull off: `bids` for those of BIDS derivatives,
    or a path such as "{scan}_mask.nii.gz" with {scan}, {subject}, {session}, {root}."""
    mask_tool: str | None = None
    """Command that makes the brain mask of a scan, such as "mri_synthstrip -i {input} -m {mask}";
    run once for each scan, masks are kept in `cache`."""
    block: int = 1
    """Registered volumes are averaged over blocks of so many voxels of 1 mm along each axis."""
    size: int = 128
    """Rows and columns of a slice, in pixels."""
    shape: tuple[int, int, int] | None = None
    """Whole volumes of so many voxels (right to left, front to back, bottom to top), cut or filled
    around the brain. `None`: slices."""
    slice_spacing: float = 2.0
    """Distance between neighbouring slices, in mm (where `slices` is `None`)."""
    slices: int | None = None
    """Slices of each scan, evenly spread over the brain, in place of `slice_spacing`."""
    slice_margin: tuple[float, float] = (5.0, 5.0)
    """How far inside the lowest and the highest point of the brain slices begin and end, in mm."""
    scale: Literal["percentile", "max", "zscore"] = "percentile"
    """How a scan is scaled. `percentile`: clipped at `clip_percentile`, then to [0, 1] from its
    smallest value to its largest; `max`: divided by its largest value; `zscore` (volumes): clipped,
    then to mean 0 and standard deviation 1 over the volume."""
    clip_percentile: float = 99.9
    """Intensities above this percentile of the foreground are clipped (not with scale `max`)."""
    transfer: tuple[int, ...] = ()
    """Test scans are reconstructed on these matrices too, over a field of view of 250 mm; 0 is the
    scan's own matrix, neither cut nor filled."""
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Share of the subjects used for training, validation and testing; split by subject."""
    assignments: str | None = None
    """File that says which subject is in which split (.csv with subject and split, or .json), in
    place of drawing them."""
    cache: str = "cache"
    """Folder of prepared arrays; shared by runs that use the same scans and steps."""
    workers: int | None = None
    """Scans prepared at a time; by default one for each processor core."""


@dataclass(frozen=True)
class Model:
    """The network and its bottleneck."""

    network: Literal["conv", "residual", "strided", "bundle", "streamline", "intro"] = "residual"
    """`conv`: the strided convolutions of the source; `residual`: patches, residual blocks and
    pixel shuffling (models/residual_networks.py); `strided`: normalised strided convolutions, the
    source of som3d (models/volume_networks.py); of bundles `bundle`: the source's, an image of
    streamlines by points, and `streamline`: a vector for each streamline, of its cosine transform
    and in the light of its group (models/bundle_networks.py); `intro`: convolutions, pooling and
    dense layers to one vector for a whole volume, the source of introvae3d
    (models/intro_networks.py)."""
    filters: tuple[int, ...] = (64, 128)
    """Filters of each stage of the encoder; the decoder mirrors them."""
    blocks: tuple[int, ...] = (2, 2)
    """Residual blocks of each stage (network `residual` only)."""
    patch: int = 4
    """Side of the patches that the first convolution takes, in pixels (network `residual`; of
    `intro` 1, as in the source, or 2, which takes a third of the time)."""
    hidden: float = 0.5
    """Width of a residual branch as a share of its level's filters (network `residual` only)."""
    refine_filters: int = 8
    """Filters at full resolution, at the end of the decoder (network `residual` only)."""
    bottleneck_filters: int = 128
    """Filters of the last 3x3 convolution before the codes (network `conv` only)."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation after each convolution (networks `strided` and `intro`)."""
    skips: bool = False
    """Let the decoder also read the encoder's finer levels (network `strided` only). What is
    reconstructed is then not made from codes."""
    checkpoint: bool = False
    """Compute activations twice to keep fewer of them in memory (network `strided` only)."""
    pass_through: bool = False
    """Start near a network that hands its input on unchanged, which a latent larger than the input
    allows (network `bundle` only)."""
    modes: int = 16
    """Cosine coefficients of each coordinate of a streamline (network `streamline` only)."""
    latent_size: int = 256
    """Numbers in the vector of a volume (network `intro` only, as all options up to `gamma_r`)."""
    dense_units: tuple[int, ...] = (512,)
    """Widths of the dense layers between the coarsest grid and the vector."""
    dropout: float = 0.1
    """Share of the numbers after each dense layer of the encoder that training drops."""
    linear: bool = False
    """Start as principal component analysis of the training volumes: a path from volumes to vectors
    and back that is a sum of components, beside the convolutions. Not in the source."""
    norm_groups: int = 4
    """Groups of group normalisation; a divisor of each of `filters`."""
    form: Literal["vae", "hinge", "soft"] = "vae"
    """`vae`: a variational autoencoder; `hinge`: IntroVAE (Huang et al. 2018); `soft`:
    Soft-IntroVAE (Daniel & Tamar 2021)."""
    beta_rec: float = 1.0
    """Weight of the reconstruction, half the sum of the squared errors of a volume."""
    beta_kl: float = 1.0
    """Weight of the divergence from the prior, in nats."""
    adversarial_weight: float | None = None
    """Weight of the terms of generated volumes (`hinge` and `soft`); with `hinge` above 0.5 an
    encoder gains by raising every divergence to the margin. `None`: 0.25 for `hinge`, 1 for
    `soft`."""
    margin: float = 100.0
    """Divergence in nats above which the encoder is content with a generated volume (`hinge`)."""
    beta_neg: float = 256.0
    """Weight of the divergence of generated volumes in the encoder's exponent (`soft`)."""
    gamma_r: float = 0.0
    """Weight of their reconstruction in the decoder's step (`soft`)."""
    bottleneck: Literal["identity", "gaussian", "vq", "ema", "som", "psom", "torus", "gumbel"] = (
        "ema"
    )
    """`identity`: a plain autoencoder; `gaussian`: a VAE; `vq`: straight-through codebook trained
    by gradient; `ema`: codebook by moving averages, with a start from data and code revival;
    `som`: a self-organising map (Fortuin et al. 2019); `psom`: a probabilistic one, whose decoder
    reads the vectors and not the codes (Manduchi et al. 2021); `torus`: a map whose order is built
    in: the encoder chooses two angles; `gumbel`: a weighted sum of all codes, which can be
    differentiated and is no discrete code (Lizarraga et al. 2023)."""
    num_codes: int = 512
    """Codes in the codebook, K: log2(K) bits for each code (`vq`, `ema` and `gumbel`)."""
    depth: int = 1
    """Codes for each cell of the grid: further codebooks, by moving averages, quantise what the
    first one left (Zeghidour et al. 2021). Studies of volumes and bundles only."""
    beam: int = 1
    """Sums of codes that encoding follows from one codebook to the next (`depth` above 1); 1 takes
    the nearest code of each. More find nearer sums and take longer."""
    embedding_dim: int = 16
    """Length of a code vector, D (network `strided`: its last filters)."""
    som_shape: tuple[int, int] = (16, 16)
    """Rows and columns of the map: so many codes (`som`, `psom` and `torus`)."""
    topology: Literal["rectangular", "toroid"] = "toroid"
    """Whether opposite borders of the map meet (`som` and `psom`)."""
    alpha: float = 6.0
    """`som`: weight of the commitment of vectors and nodes to each other; `psom`: degrees of
    freedom of the assignments."""
    gamma: float = 1.0
    """Weight of the clustering loss (`psom`), or of the usage loss (`torus`)."""
    torus_size: float = 3.0
    """Radius of the circles that the angles run on, beside vectors of a spread of about 1 (`torus`
    only). Larger: more order, and details that are harder to read."""
    torus_radius: float = 1.0
    """Standard deviation of the neighbourhood that shares what a node learns, in nodes (`torus`
    only)."""
    beta: float = 0.25
    """Weight of the commitment loss (van den Oord et al. 2017, eq. 3); of the neighbours' loss
    (`som` and `psom`)."""
    temperature: float = 10.0
    """Divides the noisy distances to the codes: higher mixes more codes (`gumbel` only)."""
    codebook_scale: float = 1.4142135623730951
    """Standard deviation of the codebook at the start (`gumbel` only): the variance of 2 that the
    text of the source gives; its code takes a standard deviation of 2."""
    continuous_weight: float | None = None
    """Weight of the reconstruction from vectors that are not quantised; the other weighs the rest
    to 1. `None`: it is not made."""
    sampled_latent: bool = False
    """Draw the vectors as a VAE does before they are quantised."""
    latent_noise: float = 0.0
    """Noise on the vectors of every second sample while training, before they are quantised: of a
    size between 0 and this many standard deviations of each channel. Decoders learn to bear it."""
    start: str | None = None
    """Variant that must be trained first: its weights, or its encodings, are where this starts."""
    start_weights: bool = True
    """Take the weights of `start`; otherwise only its encodings, for `codebook_start`."""
    codebook_start: Literal["layer", "kmeans", "kohonen", "principal"] = "layer"
    """Where the codebook starts: as the layer does it (see `initialization`), or at clusters of the
    encodings of all training scans, by k-means or by Kohonen's map; a `torus` at the angles of
    their principal components."""
    codebook_passes: int = 1
    """Passes over the training samples, each augmented anew, that the clusters are of where a
    variant starts from no other one."""
    codebook_tail: float = 0.0
    """How much more the clusters of later codebooks (`depth` above 1) care for vectors of which
    much is left: they count by its length to this power. Fewer are then quantised badly."""
    codebook_fixed: bool = False
    """Leave encoder and codebook where they started; only the decoder is trained."""
    kohonen_radius: float = 1.0
    """Radius of the neighbourhood at the end of Kohonen's map, in nodes: wide maps are smooth,
    narrow ones near to the data."""
    decay: float = 0.9
    """Decay of the moving averages, per step (`ema` only). Short, because the encoder moves fast in
    a training of minutes: 0.99 leaves the codebook behind."""
    initialization: Literal["random", "data", "kmeans"] = "data"
    """Where an `ema` codebook starts: random numbers, encodings of the first batch, or the centres
    of a k-means on them."""
    revival_threshold: float = 0.03
    """A code used less often than this share of the average code restarts at a random encoding
    (`ema` only); 0 turns it off."""
    distance: Literal["euclidean", "cosine"] = "euclidean"
    """How the nearest code is found; `cosine` compares directions only (Yu et al. 2022)."""
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    """How the gradient passes the codebook: copied, or rotated (Fifty et al. 2024)."""
    kl_weight: float = 1e-4
    """Weight of the KL term (`gaussian` only)."""
    data_variance: bool = False
    """Divide the squared error by the variance of the training images (the Keras tutorial does)."""
    mse_weight: float = 25.0
    """Weight of the mean squared error in the reconstruction loss."""
    mse_knee: float | None = None
    """Squared errors of a sample above this count by their logarithm, so that samples disturbed by
    `latent_noise` do not outweigh the others. `None`: all count as they are."""
    ssim_weight: float = 1.0
    """Weight of 1 - SSIM in the reconstruction loss: what SSIM measures is then also what is
    trained, unlike in the source. 25 times the squared error is about as large."""


@dataclass(frozen=True)
class Augment:
    """Random changes of the training slices; 0 turns each off."""

    shift: int = 4
    """Largest shift along each image axis, in pixels."""
    flip: float = 0.5
    """Probability of a left-right mirror image."""
    gain: float = 0.1
    """Largest relative change of brightness: the factor is within 1 +- gain."""
    gamma: float = 0.0
    """Largest change of contrast: the exponent is within exp(+- gamma)."""


@dataclass(frozen=True)
class Train:
    """Training of the autoencoder."""

    epochs: int = 40
    """Passes over the training slices."""
    vae_epochs: int = 0
    """Passes before these, as a variational autoencoder: an encoder that knows brains is a critic
    from the start, and a step costs a third (network `intro`, `hinge` and `soft`)."""
    max_steps: int | None = None
    """Steps in all at most: with more data there are fewer epochs, at least one. `None`: as many as
    the epochs have."""
    batch_size: int = 16
    """Slices in a step."""
    window: int | None = None
    """Train on windows of this many pixels around random places of the brain instead of whole
    slices; `None` takes whole slices. Windows cost less, and black background teaches nothing."""
    learning_rate: float = 2e-3
    """Largest learning rate."""
    decoder_rate: float = 1.0
    """Learning rate of the decoder as a share of the encoder's (`hinge` and `soft`; Heusel et al.
    2017). Below 1 the critic keeps ahead: watch that `kl_gap` stays above 0."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the learning rate changes over the epochs; `cosine` falls to zero."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises linearly (`cosine` only)."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW); 0 is plain Adam."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Number type of the network; codebooks, statistics and losses stay float32."""
    start_run: str | None = None
    """Run that a variant with `model.start` starts from; by default the newest one in `runs` with
    the same data."""
    augment: Augment = field(default_factory=Augment)
    deform: float = 0.0
    """Size of random affine maps and smooth bends of bundles: at 1 lengths change by 4 %, places by
    about 3 % of the brain's half. `augment` is of images alone."""
    permute: bool = False
    """Shuffle the streamlines of a group (bundles only)."""


@dataclass(frozen=True)
class Prior:
    """The PixelCNN over the codes, and its training."""

    gated: bool = True
    """Gated PixelCNN (van den Oord et al. 2016) rather than the plain one of the source."""
    filters: int = 64
    """Filters of each layer."""
    blocks: int = 6
    """Number of blocks."""
    kernel_size: int = 3
    """Kernel of the blocks, in codes."""
    first_kernel_size: int = 5
    """Kernel of the first layer, in codes."""
    dropout: float = 0.1
    """Share of activations dropped while training."""
    position_embedding: bool = True
    """Tell the network where on the grid it is: brains sit at a known place."""
    levels: int = 16
    """Tell the prior how high in the brain a slice lies, in this many steps; 0 does not tell it.
    Brains drawn for a known height hold together better."""
    epochs: int = 8
    """Passes over the code maps; 0 trains no prior. The weights of the best of them, by the loss on
    validation subjects, are kept."""
    max_steps: int | None = None
    """Steps in all at most, as that of `Train`."""
    batch_size: int = 32
    """Code maps in a step."""
    learning_rate: float = 2e-3
    """Largest learning rate; it falls to zero along a cosine."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises linearly."""
    weight_decay: float = 1e-2
    """Decoupled weight decay (AdamW)."""
    clip_norm: float = 1.0
    """Gradients longer than this are shortened to it; 0 turns it off."""
    copies: int = 4
    """Encodings of each training slice: one as it is, the others augmented, so that few subjects
    give many code maps."""


@dataclass(frozen=True)
class Sampling:
    """New brains, drawn from the prior."""

    samples: int = 64
    """How many brains to draw."""
    temperature: float = 0.8
    """Divides the logits: below 1 the samples are more typical and less varied."""
    top_k: int | None = None
    """Draw only from the k most probable codes."""
    top_p: float | None = 0.9
    """Draw only from the most probable codes that together have this probability."""


@dataclass(frozen=True)
class Anomaly:
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
    batch_size: int = 32
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
    combined: tuple[str, ...] | None = None
    """Scores whose ranks are averaged into one: some of intensity, pixel, ssim, surprise,
    restoration. `None`: intensity, pixel, restoration where only bright places count; else pixel,
    surprise, restoration."""
    specificity: float = 0.98
    """Share of a healthy scan's voxels that is not flagged, at the threshold that `--healthy`
    scans set for Dice."""
    seed: int = 0
    """Seed of the draws."""


@dataclass(frozen=True)
class Classify:
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
    batch_size: int = 32
    """Slices in a step."""
    augment: Augment = field(default_factory=lambda: Augment(shift=4, flip=0.5, gain=0.1))
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
    seed: int = 2000
    """Seed of the subjects; other than those of training runs, so that these are new subjects."""
    workers: int | None = None
    """Subjects made at a time; by default one for each processor core."""


@dataclass(frozen=True)
class Study:
    """A study: data, model, training, prior and sampling."""

    name: tyro.conf.Suppress[str] = "oasis2d"
    """Name of the study (chosen by the first word of the command line)."""
    variant: tyro.conf.Suppress[str] = "best"
    """Name of the variant (chosen by `--variant`)."""
    seed: int = 0
    """Seed of the split, the start weights, the order of the batches and the samples."""
    runs: str = "runs"
    """Folder in which the run's folder is made."""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    prior: Prior = field(default_factory=Prior)
    sampling: Sampling = field(default_factory=Sampling)


# --- oasis2d ---------------------------------------------------------------------------------
# 2D VQ-VAE and PixelCNN on axial T1 slices, 128 x 128, values in [0, 1].
# Source: Brzoskowski, "OASISVQ" (published mean SSIM 0.704 at 256 bits a slice).
#
#   python train.py                                              the demo, on simulated brains
#   python train.py oasis2d --data.source bids --data.root DIR   `best` on your scans
#   python train.py oasis2d --variant paper                      the network and sizes of the source

_OASIS2D_BEST = Study(name="oasis2d", variant="best")

_OASIS2D_PAPER = Study(
    name="oasis2d",
    variant="paper",
    model=Model(
        network="conv",
        filters=(32, 32, 64, 64),  # four strided layers: 128 -> 8
        bottleneck_filters=128,
        bottleneck="ema",
        num_codes=16,  # 8 x 8 codes of 4 bits: 256 bits a slice
        embedding_dim=16,
        beta=0.25,
        decay=0.99,  # as published; shorter ones follow single batches when codes are only 16
        revival_threshold=0.1,
        mse_weight=1.0,
        ssim_weight=0.0,
        data_variance=True,
    ),
    train=Train(
        epochs=30,
        batch_size=16,  # the tutorial's 128 gives a cohort of 14 subjects only 7 steps an epoch
        learning_rate=1e-3,
        schedule="constant",
        augment=Augment(shift=0, flip=0.0, gain=0.0),
    ),
    prior=Prior(
        gated=False,
        filters=128,
        blocks=4,
        first_kernel_size=7,
        dropout=0.0,
        position_embedding=False,
        levels=0,
        epochs=30,
        learning_rate=1e-3,
        weight_decay=0.0,
        copies=1,
    ),
)

_OASIS2D_TUTORIAL = replace(
    _OASIS2D_PAPER,
    variant="tutorial",
    # What the source ran: the codebook trained by gradient from a random start.
    model=replace(_OASIS2D_PAPER.model, bottleneck="vq", initialization="random"),
)

_OASIS2D_BEST_256BIT = replace(
    _OASIS2D_BEST,
    variant="best-256bit",
    model=replace(
        _OASIS2D_BEST.model,
        filters=(64, 128, 128),  # one level more: 8 x 8 codes of 4 bits
        blocks=(1, 2, 2),
        num_codes=16,
        decay=0.97,
        revival_threshold=0.1,
    ),
    train=replace(_OASIS2D_BEST.train, epochs=30),  # as many as the source's network gets
)

# --- ixi2d -----------------------------------------------------------------------------------
# 2D VQ-VAE on T1 slices of 256 x 256 as the scanner made them; transfer to other scanners and
# sizes, codes as features, anomalies. Source: the slides of study 2 (IXI, 76,800 slices, three
# halvings: 32 x 32 codes; tested on 320 x 320).
#
#   python train.py ixi2d                                                    simulated brains
#   python train.py ixi2d --data.source ixi --data.root DIR                  on IXI
#   python train.py ixi2d --variant flair                                    for FLAIR anomalies

_IXI2D_BEST = Study(
    name="ixi2d",
    variant="best",
    data=Data(
        simulated_spacing=1.0,  # pixels as fine as those of the scans it shall be used on
        spacing=None,
        size=256,
        slices=128,
        scale="max",
        transfer=(0, 320),
    ),
    train=Train(
        epochs=40,
        window=128,  # a quarter of the time of whole slices, to the same SSIM and beyond
        augment=Augment(shift=0, flip=0.5, gain=0.1),  # windows are shifts already
    ),
    prior=Prior(epochs=6, copies=2),
    sampling=Sampling(samples=32),
)

_IXI2D_PAPER = replace(
    _IXI2D_BEST,
    variant="paper",
    model=replace(
        _OASIS2D_PAPER.model,
        filters=(32, 64, 128),  # three strided layers: 256 -> 32
        num_codes=512,
        embedding_dim=64,
        data_variance=False,
    ),
    train=Train(
        epochs=20,
        learning_rate=1e-3,
        schedule="constant",
        augment=Augment(shift=0, flip=0.0, gain=0.0),
    ),
)

_IXI2D_FLAIR = replace(
    _IXI2D_BEST,
    variant="flair",
    # A few bright voxels set the maximum of a FLAIR scan, and lesions are what is looked for.
    data=replace(_IXI2D_BEST.data, suffix="FLAIR", scale="percentile", transfer=(0,)),
)

# --- som3d -----------------------------------------------------------------------------------
# 3D autoencoders of T1 volumes, 144 x 176 x 144 voxels of 1 mm, to 9 x 11 x 9 codes of 8 bits that
# lie on a self-organising map. Source: Kapre, "Using Discrete VAEs on T1-Weighted MRI Data to Embed
# Local Brain Regions" (OASIS, 179 volumes; its table 1 is what the variants are).
#
#   python train.py som3d --variants all                                     the whole table
#   python train.py som3d --variant ae                                       others start from it
#   python train.py som3d --data.source oasis1 --data.root DIR               `best` on OASIS-1

_SOM3D_AE = Study(
    name="som3d",
    variant="ae",
    data=Data(
        subjects=40,
        simulated_spacing=1.0,
        spacing=1.0,
        shape=(144, 176, 144),
        scale="zscore",
    ),
    model=Model(
        network="strided",
        filters=(4, 8, 16, 32),
        bottleneck="identity",
        num_codes=256,
        decay=0.99,
        revival_threshold=0.0,
        initialization="random",
        mse_weight=1.0,
        ssim_weight=0.0,
        # The divergence as a mean over the 28,512 numbers of a latent, as common programs take it.
        kl_weight=1 / 28512,
    ),
    train=Train(
        epochs=100,
        batch_size=4,  # 32 in the source, of 128 subjects: small cohorts would get one step
        learning_rate=5e-3,
        augment=Augment(shift=0, flip=0.0, gain=0.0),
    ),
    prior=Prior(
        filters=32,
        blocks=4,
        levels=0,
        epochs=0,
        batch_size=4,
        copies=1,
        dropout=0.5,  # two dozen volumes are soon known by heart
        weight_decay=0.1,
    ),
    sampling=Sampling(samples=8),
)


def _som3d(variant, epochs=25, prior_epochs=0, **model):
    """A variant of the table: the autoencoder with another bottleneck, or another start."""
    return replace(
        _SOM3D_AE,
        variant=variant,
        model=replace(_SOM3D_AE.model, **model),
        train=replace(_SOM3D_AE.train, epochs=epochs),
        prior=replace(_SOM3D_AE.prior, epochs=prior_epochs),
    )


_VQ = {"bottleneck": "ema", "beta": 6.0}
_NEW_VQ = _VQ | {"start": "ae", "codebook_start": "kmeans"}
_SOM = {
    "bottleneck": "som",
    "alpha": 6.0,
    "beta": 1.0,
    "continuous_weight": 0.8,
    "start": "ae",
    "codebook_start": "kmeans",
}
_PSOM = {"bottleneck": "psom", "alpha": 10.0, "gamma": 1.0, "beta": 1.0, "start": "ae"}
_SAMPLED = {"start": "vae", "sampled_latent": True}

_SOM3D = (
    _som3d(
        "best",
        epochs=50,
        prior_epochs=60,
        bottleneck="torus",
        start="ae",
        codebook_start="principal",
        continuous_weight=0.7,
        decay=0.95,
        beta=0.02,
        gamma=0.2,
    ),
    _som3d(
        "best-deep",
        epochs=50,
        bottleneck="torus",
        depth=4,
        initialization="kmeans",
        revival_threshold=0.03,
        start="ae",
        codebook_start="principal",
        continuous_weight=0.3,  # most of the weight on what the codes decode to
        decay=0.95,
        beta=0.02,
        gamma=0.2,
    ),
    _SOM3D_AE,
    _som3d("vae", epochs=100, bottleneck="gaussian"),
    _som3d("vqvae", epochs=50, **_VQ),
    _som3d("vqvae-skips", epochs=50, **_VQ, skips=True),
    _som3d("vqvae-kmeans", **_NEW_VQ),
    _som3d("vqvae-kmeans-codebook", epochs=50, **_NEW_VQ, start_weights=False),
    _som3d("vqvae-new", **_NEW_VQ, continuous_weight=0.8),
    _som3d("vqvae-new-half", **_NEW_VQ, continuous_weight=0.5),
    _som3d("somvae", **_SOM, topology="rectangular"),
    _som3d("somvae-kohonen", **_SOM | {"codebook_start": "kohonen"}, topology="rectangular"),
    _som3d("somvae-toroid", **_SOM, prior_epochs=60),
    _som3d("psomvae", **_PSOM),
    _som3d("psomvae-beta03", **_PSOM | {"beta": 0.3}),
    _som3d("psomvae-gamma10", **_PSOM | {"gamma": 10.0, "codebook_start": "kmeans"}),
    _som3d("somvae-continuous", **_SOM | _SAMPLED),
    _som3d("psomvae-continuous", **_PSOM | _SAMPLED),
)

# --- streamlines -----------------------------------------------------------------------------
# Bundles of white matter in groups of 64 streamlines of 64 points. Source: Lizarraga et al. 2023,
# "Differentiable VQ-VAE's for Robust White Matter Streamline Encodings" (TractoInferno; its table
# 1 is the first five variants).
#
#   python train.py streamlines --variants all                                 simulated bundles
#   python train.py streamlines --data.source tractoinferno --data.root DIR    `best` on those
#   python train.py streamlines --data.source tracts --data.root DIR           on any .trk files

_STREAMLINES_BEST = Study(
    name="streamlines",
    variant="best",
    data=Data(
        subjects=16,
        streamlines=64,
        per_bundle=12,
    ),
    model=Model(
        network="streamline",
        filters=(192,),  # width of the blocks
        blocks=(3, 4),  # of encoder and decoder
        bottleneck="ema",
        num_codes=512,
        depth=4,  # 36 bits a streamline
        beam=16,
        beta=0.005,
        decay=0.99,
        initialization="random",
        codebook_start="kmeans",
        codebook_passes=16,
        codebook_tail=1.0,
        codebook_fixed=True,  # training moves it to what augmented streamlines are like
        revival_threshold=0.0,
        latent_noise=0.3,
        mse_weight=33.0,
        mse_knee=3e-5,
        ssim_weight=0.0,
    ),
    train=Train(
        epochs=240,
        max_steps=4000,
        batch_size=8,
        learning_rate=1e-3,
        weight_decay=1e-3,
        deform=0.8,
        permute=True,
    ),
    prior=Prior(filters=48, blocks=6, levels=0, epochs=20, max_steps=1000, batch_size=16, copies=4),
    sampling=Sampling(samples=24, temperature=0.9, top_p=0.95),
)


def _streamlines(variant, **model):
    """A model of the source's table: its network with another bottleneck."""
    return replace(
        _STREAMLINES_BEST,
        variant=variant,
        model=replace(
            _STREAMLINES_BEST.model,
            network="bundle",
            filters=(64, 128),
            blocks=(2,),
            bottleneck_filters=32,  # inside a residual block
            embedding_dim=64,
            pass_through=True,  # from a random start the figures take ten times the steps
            depth=1,
            beam=1,
            codebook_start="layer",
            codebook_passes=1,
            codebook_tail=0.0,
            codebook_fixed=False,
            latent_noise=0.0,
            mse_weight=1.0,
            mse_knee=None,
            **model,
        ),
        train=replace(
            _STREAMLINES_BEST.train,
            epochs=500,
            max_steps=6000,
            batch_size=8,  # 256 in the source, for 15,000 steps on 255 people
            learning_rate=1e-3,
            weight_decay=0.0,
            # The source has neither; without them a hundred groups are learned by heart.
            deform=0.6,
            permute=True,
        ),
        prior=replace(_STREAMLINES_BEST.prior, epochs=0),
    )


_STREAMLINES = (
    _STREAMLINES_BEST,
    _streamlines("vq-diff", bottleneck="gumbel"),
    _streamlines("ae", bottleneck="identity"),
    # The evidence bound of a Gaussian with a deviation of 0.016, 2 σ² / 12288. One of 1 leaves the
    # latents nothing to say, and one of 0.05, the threshold of BUAN, next to nothing.
    _streamlines("vae", bottleneck="gaussian", kl_weight=4e-8),
    _streamlines("vq-vae", bottleneck="vq", beta=0.25),
    _streamlines("vq-ema", bottleneck="ema", beta=0.25),
)

# --- introvae3d ------------------------------------------------------------------------------
# One vector for a whole FLAIR volume: registered to the MNI template, 160 x 192 x 160 mm around the
# brain, averaged to 40 x 48 x 40 voxels of 4 mm. Source: study 4 (5404 volumes of 3096 patients;
# healthy, multiple sclerosis, leukoencephalopathy of three grades). Its four models are the
# variants `ivae` and `vae`.
#
#   python dataset.py prepare introvae3d --data.source bids --data.root DIR    strip, register, crop
#   python train.py introvae3d --variants all                                  simulated patients
#   python train.py introvae3d --variant ivae-256

_INTROVAE3D_BEST = Study(
    name="introvae3d",
    variant="best",
    data=Data(
        suffix="FLAIR",
        subjects=3096,  # with the shares and visits below the source's 5404 scans
        simulated_spacing=4.0,
        simulated_space="mni",
        groups=("healthy", "MS", "leuko1", "leuko2", "leuko3"),
        # Of the source scans are known, 393, 41 and 205 of the grades, but patients of MS alone.
        shares=(1855.0, 616.0, 384.0, 40.0, 201.0),
        visits=(1.0, 4.724, 1.023, 1.025, 1.02),
        fractions=(0.8, 0.05, 0.15),
        registration="affine",
        shape=(160, 192, 160),
        spacing=1.0,
        block=4,
        clip_percentile=99.5,
    ),
    model=Model(
        network="intro",
        filters=(16, 32, 64),
        patch=2,
        norm="group",
        latent_size=256,
        linear=True,
        form="vae",
        beta_rec=30.0,
        bottleneck="gaussian",
    ),
    train=Train(
        epochs=8,
        batch_size=16,
        learning_rate=1e-3,
        augment=Augment(shift=0, flip=0.5, gain=0.0),
    ),
    prior=Prior(epochs=0, levels=0),
    sampling=Sampling(samples=256, temperature=1.0, top_p=None),
)


def _introvae3d(variant, **model):
    """A model of the source's, without a linear path, and with as many passes as the others."""
    options = replace(_INTROVAE3D_BEST.model, **{"linear": False, **model})
    as_vae, rate = (0, 1.0) if options.form == "vae" else (5, 0.3)
    train = replace(
        _INTROVAE3D_BEST.train, epochs=10 - as_vae, vae_epochs=as_vae, decoder_rate=rate
    )
    return replace(_INTROVAE3D_BEST, variant=variant, model=options, train=train)


# The margin lies above the divergence of the VAE, about 400 nats. For "soft" the encoder is content
# at ln(beta_neg) / (2 beta_neg) nats a voxel, here 600.
_HINGE = {"form": "hinge", "adversarial_weight": 0.4, "margin": 600.0}
_INTROVAE3D = (
    _INTROVAE3D_BEST,
    _introvae3d("ivae-256", **_HINGE),
    _introvae3d("ivae-32", latent_size=32, **_HINGE),
    _introvae3d("vae-512", latent_size=512),
    _introvae3d("vae-8", latent_size=8),
    _introvae3d("soft-256", form="soft", beta_neg=480.0),
)

STUDIES = {
    "oasis2d": {
        study.variant: study
        for study in (_OASIS2D_BEST, _OASIS2D_PAPER, _OASIS2D_TUTORIAL, _OASIS2D_BEST_256BIT)
    },
    "ixi2d": {study.variant: study for study in (_IXI2D_BEST, _IXI2D_PAPER, _IXI2D_FLAIR)},
    "som3d": {study.variant: study for study in _SOM3D},
    "introvae3d": {study.variant: study for study in _INTROVAE3D},
    "streamlines": {study.variant: study for study in _STREAMLINES},
}

SUMMARIES = {
    ("oasis2d", "best"): "residual network, 16x16 codes of 9 bits (2304 bits a slice)",
    ("oasis2d", "paper"): "the source's network, 8x8 codes of 4 bits (256 bits), codebook by EMA",
    ("oasis2d", "tutorial"): "the source as it was: straight-through, random codebook (256 bits)",
    ("oasis2d", "best-256bit"): "our network at the source's size (256 bits a slice)",
    ("ixi2d", "best"): "residual network, any size; 32x32 codes of 9 bits for 256x256",
    ("ixi2d", "paper"): "three strided layers as in the source; 32x32 codes of 9 bits",
    ("ixi2d", "flair"): "`best` on FLAIR, for anomalies",
    ("som3d", "best"): "codes are places on a torus that the encoder chooses; with a prior",
    ("som3d", "best-deep"): "the same, with three more codes a cell for what the map leaves",
    ("som3d", "ae"): "plain autoencoder; most others start from it",
    ("som3d", "vae"): "variational autoencoder",
    ("som3d", "vqvae"): "VQ-VAE from a random start (loss 1)",
    ("som3d", "vqvae-skips"): "the same with skip connections, which starve the codebook",
    ("som3d", "vqvae-kmeans"): "weights of ae, codebook by k-means (loss 1)",
    ("som3d", "vqvae-kmeans-codebook"): "codebook by k-means alone, weights from a random start",
    ("som3d", "vqvae-new"): "vqvae-kmeans with loss 2, weights .8 and .2",
    ("som3d", "vqvae-new-half"): "the same with weights .5 and .5",
    ("som3d", "somvae"): "rectangular map, k-means start (loss 3)",
    ("som3d", "somvae-kohonen"): "rectangular map, started by Kohonen's algorithm",
    ("som3d", "somvae-toroid"): "toroidal map, k-means start; with a prior",
    ("som3d", "psomvae"): "probabilistic map (loss 5), gamma 1, beta 1; decodes vectors, not codes",
    ("som3d", "psomvae-beta03"): "the same with beta .3",
    ("som3d", "psomvae-gamma10"): "the same with gamma 10 and a k-means start",
    ("som3d", "somvae-continuous"): "somvae-toroid over sampled vectors, from vae",
    ("som3d", "psomvae-continuous"): "psomvae over sampled vectors, from vae",
    ("introvae3d", "best"): "VAE that starts from principal components, 256 numbers a volume",
    ("introvae3d", "ivae-256"): "IntroVAE (hinge), 256 numbers a volume",
    ("introvae3d", "ivae-32"): "IntroVAE (hinge), 32 numbers",
    ("introvae3d", "vae-512"): "variational autoencoder, 512 numbers",
    ("introvae3d", "vae-8"): "variational autoencoder, 8 numbers",
    ("introvae3d", "soft-256"): "Soft-IntroVAE, 256 numbers; not in the source",
    ("streamlines", "best"): "four codes of 9 bits for each streamline; with a prior",
    ("streamlines", "vq-diff"): "the source's: sums of codes weighted by a Gumbel softmax, no code",
    ("streamlines", "ae"): "plain autoencoder on the source's network",
    ("streamlines", "vae"): "variational autoencoder on it",
    ("streamlines", "vq-vae"): "VQ-VAE on it, straight-through; 36 bits a streamline",
    ("streamlines", "vq-ema"): "VQ-VAE on it, codebook by moving averages; 36 bits a streamline",
}

# Sources of streamlines, and bottlenecks whose decoder reads no codes.
TRACTS = ("tractoinferno", "tracts", "groups")
WITHOUT_CODES = ("identity", "gaussian", "psom", "gumbel")

DEFAULT_STUDY = "oasis2d"
DEFAULT_VARIANT = "best"


def smoke(study):
    """The seconds-long form of a study: same parts, small numbers; its results mean nothing."""
    if kind(study) == "vectors":
        return _smoke_vectors(study)
    return replace(
        study,
        data=replace(
            study.data,
            subjects=8,
            simulated_spacing=4.0,
            spacing=study.data.spacing and (5.0 if study.data.shape else 3.0),
            size=64,
            slice_spacing=8.0,
            slices=study.data.slices and 12,
            shape=study.data.shape and (32, 48, 32),
            transfer=tuple(size and 80 for size in study.data.transfer),
            per_bundle=study.data.per_bundle and 3,
        ),
        model=replace(
            study.model,
            filters=tuple(max(4, f // 8) for f in study.model.filters),
            blocks=tuple(1 for _ in study.model.blocks),
            bottleneck_filters=16,
            modes=8,
            codebook_passes=1,
            num_codes=min(study.model.num_codes, 32),
            som_shape=(4, 5),
        ),
        train=replace(
            study.train,
            epochs=2,
            batch_size=min(study.train.batch_size, 16),
            window=study.train.window and 48,
        ),
        prior=replace(
            study.prior,
            epochs=min(2, study.prior.epochs),
            filters=8,
            blocks=1,
            copies=min(2, study.prior.copies),
        ),
    )


def _smoke_vectors(study):
    """As `smoke`, for a study whose volumes become vectors."""
    return replace(
        study,
        data=replace(
            study.data,
            subjects=15,
            groups=("healthy", "MS", "leuko3"),
            shares=(),
            visits=(1.0, 1.5, 1.0),
            fractions=(0.6, 0.15, 0.25),
            simulated_spacing=8.0,
            block=8,
        ),
        model=replace(
            study.model,
            filters=tuple(max(4, f // 8) for f in study.model.filters[:2]),
            latent_size=min(study.model.latent_size, 16),
            dense_units=(32,),
        ),
        train=replace(
            study.train, epochs=2, vae_epochs=min(1, study.train.vae_epochs), batch_size=8
        ),
        sampling=replace(study.sampling, samples=8),
    )


def sample_grid(data):
    """Voxels of a volume as the network sees it, of a `Data`."""
    return tuple(size // data.block for size in data.shape)


def layout(data):
    """What the samples of a `Data` are: "slices", "volumes" or "bundles"."""
    if data.streamlines is not None:
        return "bundles"
    return "slices" if data.shape is None else "volumes"


def kind(study):
    """What becomes of the samples: their `layout`, or "vectors" where a volume becomes a vector."""
    return "vectors" if study.model.network == "intro" else layout(study.data)


def stride(model):
    """Pixels for each code along an axis, of a `Model`."""
    halvings = len(model.filters)
    return model.patch * 2 ** (halvings - 1) if model.network == "residual" else 2**halvings


def check(study):
    """Raises `UserError` for a number outside its range; returns the study."""
    positive = {
        "data.spacing": 1 if study.data.spacing is None else study.data.spacing,
        "data.slices": 1 if study.data.slices is None else study.data.slices,
        "train.window": 1 if study.train.window is None else study.train.window,
        "train.max_steps": 1 if study.train.max_steps is None else study.train.max_steps,
        "prior.max_steps": 1 if study.prior.max_steps is None else study.prior.max_steps,
        "model.mse_knee": 1 if study.model.mse_knee is None else study.model.mse_knee,
        "data.size": study.data.size,
        "data.slice_spacing": study.data.slice_spacing,
        "data.simulated_spacing": study.data.simulated_spacing,
        "data.subjects": study.data.subjects,
        "model.embedding_dim": study.model.embedding_dim,
        "train.epochs": study.train.epochs,
        "train.batch_size": study.train.batch_size,
        "train.learning_rate": study.train.learning_rate,
        "prior.batch_size": study.prior.batch_size,
        "prior.learning_rate": study.prior.learning_rate,
        "prior.filters": study.prior.filters,
        "prior.copies": study.prior.copies,
        "sampling.samples": study.sampling.samples,
    }
    for option, value in positive.items():
        if value <= 0:
            raise UserError(f"--{option}: found {value}; expected a number above 0")
    shares = {
        "model.decay": study.model.decay,
        "prior.dropout": study.prior.dropout,
        "train.warmup": study.train.warmup,
        "prior.warmup": study.prior.warmup,
        "train.augment.flip": study.train.augment.flip,
        "model.dropout": study.model.dropout,
    }
    for option, value in shares.items():
        if not 0 <= value <= 1:
            raise UserError(f"--{option}: found {value}; expected a number from 0 to 1")
    sampling = study.sampling
    if sampling.temperature < 0:
        raise UserError(f"--sampling.temperature: found {sampling.temperature}; expected 0 or more")
    if sampling.top_k is not None and not 1 <= sampling.top_k <= codes_of(study.model):
        raise UserError(
            f"--sampling.top-k: found {sampling.top_k}; expected 1 to {codes_of(study.model)}"
        )
    if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
        raise UserError(f"--sampling.top-p: found {sampling.top_p}; expected above 0, at most 1")
    if study.data.shape is None and (study.data.registration != "no" or study.data.block != 1):
        raise UserError(
            f"--data.registration, --data.block: found {study.data.registration} and "
            f"{study.data.block}; expected no and 1, because this study is not made of volumes"
        )
    if study.model.network == "intro" and layout(study.data) != "volumes":
        raise UserError(
            "--model.network: found intro; expected another, because this study is not made of "
            "volumes"
        )
    if study.model.network == "residual" and len(study.model.blocks) != len(study.model.filters):
        raise UserError(
            f"--model.blocks: found {len(study.model.blocks)} numbers; expected as many as "
            f"--model.filters has, {len(study.model.filters)}"
        )
    if layout(study.data) == "bundles":
        check_bundles(study)
    elif study.data.source in TRACTS:
        raise UserError(
            f"--data.source: found {study.data.source}; expected scans, because this study is not "
            "made of streamlines"
        )
    elif study.data.shape is not None:
        check_volumes(study)
    elif study.data.size % stride(study.model):
        raise UserError(
            f"--data.size: found {study.data.size}; expected a multiple of {stride(study.model)}, "
            "the stride of the network"
        )
    if study.model.num_codes < 2:
        raise UserError(f"--model.num-codes: found {study.model.num_codes}; expected at least 2")
    if study.model.depth < 1:
        raise UserError(f"--model.depth: found {study.model.depth}; expected at least 1")
    if study.model.beam < 1:
        raise UserError(f"--model.beam: found {study.model.beam}; expected at least 1")
    if study.model.depth > 1 and layout(study.data) == "slices":
        raise UserError(
            f"--model.depth: found {study.model.depth}; expected 1, because slices have one code "
            "for each cell"
        )
    if study.model.depth > 1 and study.model.bottleneck in WITHOUT_CODES:
        raise UserError(
            f"--model.depth: found {study.model.depth}; expected 1, because --model.bottleneck "
            f"{study.model.bottleneck} has no codes to add to"
        )
    if study.model.depth > 1 and study.prior.epochs and layout(study.data) == "volumes":
        raise UserError(
            f"--prior.epochs: found {study.prior.epochs}; expected 0, because a prior is over "
            "one code for each cell"
        )
    if study.prior.epochs < 0:
        raise UserError(f"--prior.epochs: found {study.prior.epochs}; expected 0 or more")
    window = study.train.window
    if window is not None and (window % stride(study.model) or window > study.data.size):
        raise UserError(
            f"--train.window: found {window}; expected a multiple of {stride(study.model)}, the "
            f"stride of the network, up to --data.size {study.data.size}"
        )
    for option, value in (
        ("add-simulated", study.data.add_simulated),
        *(("transfer", size) for size in study.data.transfer),
    ):
        if value < 0:
            raise UserError(f"--data.{option}: found {value}; expected 0 or more")
    fractions = study.data.fractions
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"--data.fractions: found {fractions}; expected three shares that sum to 1")
    if study.data.source != "simulated" and study.data.root is None:
        raise UserError(
            f"--data.root: not given; --data.source {study.data.source} needs the folder of scans"
        )
    return study


def check_volumes(study):
    """As `check`, for what only studies of volumes have."""
    block = study.data.block
    if block < 1 or (block > 1 and study.data.registration == "no"):
        raise UserError(
            f"--data.block: found {block}; expected 1 or more, and 1 without --data.registration"
        )
    step = stride(study.model) * block
    if any(size <= 0 or size % step for size in study.data.shape):
        raise UserError(
            f"--data.shape: found {study.data.shape}; expected multiples of {step}, the stride of "
            "the network" + (f" times --data.block {block}" if block > 1 else "")
        )
    check_vectors(study)
    if study.data.spacing is None:
        raise UserError("--data.spacing: found None; expected a number, because volumes need one")
    if study.data.source in ("png", "images"):
        raise UserError(
            f"--data.source: found {study.data.source}; expected scans, because this study is "
            "made of volumes"
        )
    weight = study.model.continuous_weight
    if weight is not None and not 0 < weight <= 1:
        raise UserError(
            f"--model.continuous-weight: found {weight}; expected a number above 0, at most 1"
        )
    if study.prior.levels:
        raise UserError(
            f"--prior.levels: found {study.prior.levels}; expected 0, because volumes have no level"
        )


def check_vectors(study):
    """As `check`, for registered volumes, and for those that become one vector."""
    data, model = study.data, study.model
    if data.registration != "no" and data.spacing != 1:
        raise UserError(
            f"--data.spacing: found {data.spacing}; expected 1, because registered volumes have "
            "voxels of 1 mm (--data.block makes larger ones)"
        )
    if data.masks is not None and data.mask_tool is not None:
        raise UserError("--data.mask-tool: found beside --data.masks; expected one of them")
    for option, values in (("shares", data.shares), ("visits", data.visits)):
        if values and len(values) != len(data.groups):
            raise UserError(
                f"--data.{option}: found {len(values)} numbers; expected one for each of "
                f"--data.groups, {len(data.groups)}"
            )
    if not data.groups or len(set(data.groups)) < len(data.groups):
        raise UserError(
            f"--data.groups: found {', '.join(data.groups) or 'none'}; expected each once"
        )
    if data.simulated_space == "mni" and data.source == "simulated":
        if data.registration == "no" or data.simulated_spacing != data.block:
            raise UserError(
                f"--data.simulated-spacing: found {data.simulated_spacing}; expected --data.block "
                f"{data.block} with --data.simulated-space mni, and --data.registration"
            )
        if data.shape != (160, 192, 160):
            raise UserError(
                f"--data.shape: found {data.shape}; expected 160 192 160 with --data.simulated-"
                "space mni"
            )
    if model.network != "intro":
        return
    if min(model.latent_size, model.norm_groups, *model.dense_units, 1) < 1:
        raise UserError(
            f"--model.latent-size, --model.norm-groups, --model.dense-units: found "
            f"{model.latent_size}, {model.norm_groups} and {model.dense_units}; expected 1 or more"
        )
    for option in ("beta_rec", "beta_kl", "adversarial_weight", "beta_neg", "gamma_r"):
        if (getattr(model, option) or 0) < 0:
            raise UserError(
                f"--model.{option.replace('_', '-')}: found {getattr(model, option)}; expected 0 "
                "or more"
            )
    if not 0 < study.train.decoder_rate <= 1:
        found = study.train.decoder_rate
        raise UserError(f"--train.decoder-rate: found {found}; expected above 0, at most 1")
    if study.train.vae_epochs < 0:
        raise UserError(f"--train.vae-epochs: found {study.train.vae_epochs}; expected 0 or more")
    if model.margin <= 0:
        raise UserError(f"--model.margin: found {model.margin}; expected a number above 0")
    if data.scale == "zscore":
        raise UserError(
            "--data.scale: found zscore; expected percentile or max, because the network ends in "
            "values from 0 to 1"
        )
    if study.prior.epochs:
        raise UserError(
            f"--prior.epochs: found {study.prior.epochs}; expected 0, because vectors have a "
            "Gaussian prior that needs no training"
        )
    if study.sampling.samples < 2:
        raise UserError(f"--sampling.samples: found {study.sampling.samples}; expected 2 or more")


def check_bundles(study):
    """As `check`, for what only studies of streamlines have."""
    data, model = study.data, study.model
    if data.source not in ("simulated", *TRACTS):
        raise UserError(
            f"--data.source: found {data.source}; expected simulated, {', '.join(TRACTS)}, because "
            "this study is made of streamlines"
        )
    if model.network not in ("bundle", "streamline"):
        raise UserError(
            f"--model.network: found {model.network}; expected bundle or streamline, because this "
            "study is made of streamlines"
        )
    if data.streamlines < 1 or data.points < 2:
        raise UserError(
            f"--data.streamlines, --data.points: found {data.streamlines} and {data.points}; "
            "expected at least 1 and 2"
        )
    if data.per_bundle is not None and data.per_bundle < 1:
        raise UserError(f"--data.per-bundle: found {data.per_bundle}; expected at least 1")
    unknown = [name for name in data.bundles if name not in BUNDLES]
    if (unknown or not data.bundles) and data.source != "tracts":
        raise UserError(
            f"--data.bundles: found {', '.join(unknown) or 'none'}; expected some of "
            f"{', '.join(BUNDLES)}"
        )
    halvings = 2 ** len(model.filters)
    if model.network == "bundle" and (data.streamlines % halvings or data.points % halvings):
        raise UserError(
            f"--data.streamlines, --data.points: found {data.streamlines} and {data.points}; "
            f"expected multiples of {halvings}, the stride of the network"
        )
    if model.network == "streamline" and (len(model.filters) != 1 or len(model.blocks) != 2):
        raise UserError(
            f"--model.filters, --model.blocks: found {model.filters} and {model.blocks}; expected "
            "one width, and blocks of encoder and decoder"
        )
    if model.network == "streamline" and not 1 <= model.modes <= data.points:
        raise UserError(
            f"--model.modes: found {model.modes}; expected 1 to --data.points {data.points}"
        )
    if study.prior.levels:
        raise UserError(
            f"--prior.levels: found {study.prior.levels}; expected 0, because bundles have no level"
        )
    if study.train.window is not None:
        raise UserError(f"--train.window: found {study.train.window}; expected None for bundles")
    if study.train.deform < 0:
        raise UserError(f"--train.deform: found {study.train.deform}; expected 0 or more")


def codes_of(model):
    """Codes in the codebook, of a `Model`."""
    rows, columns = model.som_shape
    is_map = model.bottleneck in ("som", "psom", "torus")
    return rows * columns if is_map else model.num_codes


def parse(arguments, prog, description):
    """Reads `[STUDY] [--variant NAME] [--smoke] [--field value ...]`.

    Args:
        arguments: list of str, the command line without the program's name.
        prog: name of the program, for the help.
        description: first lines of the help.

    Returns:
        The chosen `Study` with the options applied.

    Raises:
        UserError: for an unknown study, variant or option, or a value of the wrong kind or range.
    """
    rest = list(arguments)
    name = DEFAULT_STUDY
    if rest and not rest[0].startswith("-"):
        name = rest.pop(0)
    if name not in STUDIES:
        raise UserError(f"study: found {name!r}; expected one of {', '.join(STUDIES)}")
    variant, rest = take_option(rest, "--variant", DEFAULT_VARIANT)
    if variant not in STUDIES[name]:
        raise UserError(f"--variant: found {variant!r}; expected one of {', '.join(STUDIES[name])}")
    is_smoke = "--smoke" in rest
    rest = [word for word in rest if word != "--smoke"]
    study = STUDIES[name][variant]
    if is_smoke:
        study = smoke(study)
    studies = "\n".join(
        f"  {key} --variant {kind}: {SUMMARIES[key, kind]}"
        for key in STUDIES
        for kind in STUDIES[key]
    )
    text = (
        f"{description}\n\nStudies and their variants (default: {DEFAULT_STUDY} --variant "
        f"{DEFAULT_VARIANT}):\n{studies}\n\n  --smoke: seconds instead of minutes; checks that "
        f"everything runs, the results mean nothing."
    )
    return check(parse_fields(study, rest, prog, text))


def take_option(arguments, option, default=None):
    """Takes `option VALUE` or `option=VALUE` out of a list; returns (value, the other words)."""
    rest = list(arguments)
    for place, word in enumerate(rest):
        if word == option:
            if place + 1 == len(rest) or rest[place + 1].startswith("--"):
                raise UserError(f"{option}: no value found; expected {option} VALUE")
            return rest[place + 1], rest[:place] + rest[place + 2 :]
        if word.startswith(option + "="):
            return word.split("=", 1)[1], rest[:place] + rest[place + 1 :]
    return default, rest


def variants_in_order(name):
    """The variants of a study, each after the one it starts from, else in their order."""
    if name not in STUDIES:
        raise UserError(f"study: found {name!r}; expected one of {', '.join(STUDIES)}")
    ordered = []

    def add(variant):
        if variant is not None and variant not in ordered:
            add(STUDIES[name][variant].model.start)
            ordered.append(variant)

    for variant in STUDIES[name]:
        add(variant)
    return ordered


def to_dict(study):
    """The study as a plain dict for `study.json`."""
    return dataclasses.asdict(study)


def from_dict(content):
    """The study that `to_dict` wrote; unknown or missing fields are a `UserError`."""
    return _build(Study, content, "study.json")


def _build(kind, content, where):
    known = {f.name: f for f in dataclasses.fields(kind)}
    unknown, missing = set(content) - set(known), set(known) - set(content)
    if unknown or missing:
        raise UserError(
            f"{where}: found unknown fields {sorted(unknown)}, missing fields {sorted(missing)}; "
            "expected a run of this version of brainvq"
        )
    values = {}
    for name, value in content.items():
        if dataclasses.is_dataclass(known[name].type):
            value = _build(known[name].type, value, f"{where}: {name}")
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return kind(**values)


def parse_fields(default, arguments, prog, description):
    """Reads `--field value ...` of a dataclass of this file.

    Args:
        default: the dataclass with the values that hold where no option is given.
        arguments: list of str.
        prog: name of the program, for the help.
        description: first lines of the help.

    Returns:
        The dataclass with the options applied.

    Raises:
        UserError: an unknown option or a value of the wrong kind, in one line.
    """
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(
                type(default),
                args=arguments,
                default=default,
                prog=prog,
                description=inspect.cleandoc(description),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [
            re.sub(r"[╭╮╰╯│─]+", " ", line).strip() for line in messages.getvalue().split("\n")
        ]
        told = " ".join(line for line in lines[1:] if line).split(" Argument helptext:")[0]
        told = re.sub(r"Perhaps you meant: (--[\w.-]+).*", r"perhaps you meant \1", told)
        told = told.split(" For full helptext")[0]
        raise UserError(f"{told} (see {prog} --help)") from None


if __name__ == "__main__":
    parse(sys.argv[1:] or ["--help"], "python hyperparameters.py", __doc__)
