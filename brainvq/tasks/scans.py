"""What tasks on scans share: cohorts of images, and how alike scans and reconstructions are."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from brainvq import data, evaluation
from brainvq.data.derivatives import (
    Derivatives,
    contrast_of,
    name_parts,
    write_people,
)
from brainvq.data.remarks import collected
from brainvq.evaluation.baselines import PatchKMeans
from brainvq.files import write_csv
from brainvq.reports import figures
from brainvq.tasks.base import Task, figure_path, plain, prior_figure, read_subjects
from brainvq.training.augment import Augment
from brainvq.training.stream import BatchStream

logger = logging.getLogger("brainvq")

SOURCE_NAMES = {
    "bids": "a BIDS data set",
    "oasis1": "OASIS-1 (Marcus et al. 2007)",
    "oasis2": "OASIS-2 (Marcus et al. 2010)",
    "ixi": "IXI (brain-development.org, CC BY-SA 3.0)",
    "png": "OASIS slices as PNG",
    "images": "a folder of pictures",
}


class ScanTask(Task):
    """A task on scans.

    Attributes:
        flip_axis: axis of a sample along which left and right lie.
        baseline: training samples that the patch codec is fitted on.
    """

    flip_axis = 0
    baseline = 16

    def cohort(self, study):
        """The scans, split by subject; downloaded first where the study asks for it.

        Args:
            study: a `brainvq.options.Study`.

        Returns:
            A `brainvq.data.Cohort` whose table has a column `split`.
        """
        options = study.data
        if options.download:
            parts = None if options.source == "ixi" else options.parts
            terms = {"accept_terms": options.accept_terms, "base_url": options.mirror}
            data.fetch(options.source, options.root, parts=parts, **terms)
        scans = self._with_masks(options, self._opened(study))
        if options.source != "png" or options.assignments or "split" not in scans.table:
            scans = scans.split(options.fractions, seed=study.seed, assignments=options.assignments)
        # else: the folders are a split already, and no subject is in two of them.
        if options.add_simulated and options.source != "simulated":
            # Other subjects than those of the embedded cohort, which a run may be tried on later.
            added = simulated(study, options.add_simulated, study.seed + 1000)
            added.table["split"] = "train"
            scans = scans.joined(added, scans.name)
        return scans

    def _opened(self, study):
        options = study.data
        if options.source == "simulated":
            return simulated(study, options.subjects, study.seed)
        chosen = {}
        if options.source == "bids":
            chosen = {"group_column": options.group_column, "entities": options.entities}
            chosen["suffix"] = options.suffix
        return data.open_cohort(options.source, options.root, **chosen)

    def _with_masks(self, options, scans):
        if options.masks is not None:
            return data.with_masks(scans, options.masks)
        if options.mask_tool is None:
            return scans
        folder = Path(options.cache) / "masks"
        return data.with_mask_tool(scans, options.mask_tool, folder, workers=options.workers)

    def facts(self, study, scans):
        """Name, licence and attribution of the data, for the model card: dict."""
        if scans.simulated:
            count = len(scans.subjects)
            return {
                "data_name": f"{count} brains simulated on the ICBM152 sym 09a template",
                "data_attribution": "template: Fonov et al. 2011, as shipped with nilearn",
            }
        description = Path(study.data.root) / "dataset_description.json"
        if study.data.source != "bids" or not description.exists():
            return {"data_name": SOURCE_NAMES[study.data.source]}
        about = _read_description(description)
        names = [str(about[key]) for key in ("Name", "DatasetDOI") if about.get(key)]
        authors = about.get("Authors") or []
        authors = authors if isinstance(authors, list) else [authors]
        return {
            "data_name": " ".join(names) or SOURCE_NAMES["bids"],
            "data_licence": str(about.get("License") or ""),
            "data_attribution": ", ".join(map(str, authors)),
        }

    def check_nifti(self):
        """Samples are images."""

    def save_nifti(self, study, scans, store, folder):
        """Writes what a network reads of each scan as BIDS derivatives, with `participants.tsv`.

        Args:
            study: a `brainvq.options.Study`.
            scans: its `brainvq.data.Cohort`.
            store: `brainvq.data.ArrayStore` of them.
            folder: `pathlib.Path`.

        Returns:
            Number of images.
        """
        title = f"scans as study {study.name}, variant {study.variant}, reads them"
        results = Derivatives(folder, title, contrast=study.data.suffix, simulated=store.simulated)
        mni = self.samples.in_template_space(study)
        paths = dict(zip(scans.table["scan_id"], scans.table["paths"], strict=True))
        steps = [step["name"] for step in data.steps_to_config(store.steps)]
        about = {"Description": title, "Steps": steps, "Simulated": store.simulated}
        people = []
        for scan in store.scans.to_dict("records"):
            rows = np.flatnonzero(store.table["scan_id"] == scan["scan_id"])
            image, affine = self.volume_of(store.read(rows)), self.place_of(study, scan)
            start, contrast = name_parts(scan["scan_id"], scan["subject"], scan["session"])
            people.append({"participant_id": start.partition("_")[0], **scan})
            contrast = contrast or contrast_of(scan["modality"])
            file = results.file(start, "prepared", contrast, mni)
            look = store.looks.get(scan["scan_id"])  # registration takes the skull off
            note = about | {"SkullStripped": mni or look is None or not look.head}
            sources = data.scan_files(paths[scan["scan_id"]])
            results.save(file, image, affine, note, sources=sources, grid="study", mni=mni)
        write_people(folder, people)
        results.describe("prepare")
        return len(people)

    def place_of(self, study, scan):
        """Voxel index of a prepared scan, a row of `ArrayStore.scans`, to mm: `(4, 4)`."""
        del study
        return scan["affine"]

    def volume_of(self, samples):
        """The samples of a scan as an image `(x, y, z)`."""
        (volume,) = samples[..., 0]
        return volume

    def augmentation(self, study):
        """The random changes of training samples."""
        return Augment(**vars(study.train.augment), flip_axis=self.flip_axis)

    def comparable(self, images, restored):
        """Images and reconstructions in [0, 1], as measures take them."""
        raise NotImplementedError

    def watch(self, samples, restored):
        """SSIM of validation samples while training, whole and in the foreground."""
        images, restored = self.comparable(samples, restored)
        ndim = images.ndim - 2
        mask = evaluation.foreground(images, ndim=ndim)
        masked = evaluation.ssim(images, restored, ndim=ndim, mask=mask)
        return {
            "val_ssim": float(evaluation.ssim(images, restored, ndim=ndim).mean()),
            "val_ssim_foreground": float(np.nanmean(masked)),
        }

    def similarity(self, reconstruct, run):
        """Streams the test samples through `reconstruct`; returns a `SimilarityAccumulator`."""
        store, rows = run.store, run.rows["test"]
        measured = evaluation.SimilarityAccumulator(ndim=len(store.sample_shape) - 1)
        subjects = store.table["subject"].to_numpy()
        stream = BatchStream(store.read, rows, self.batch_size)
        for number in range(len(stream)):
            (images,) = stream[number]
            pair = self.comparable(images, reconstruct(images))
            measured.add(*pair, subjects[rows[stream.rows(number)]])
        return measured

    def measure_reconstruction(self, run):
        """How alike test samples and their reconstructions are: the first part of `metrics.json`.

        Writes `subjects.csv`.
        """
        measured = self.similarity(run.model.reconstruct, run)
        table = measured.table()
        write_csv(run.file("subjects.csv"), table)
        return {
            "test_subjects": len(table),
            "simulated": run.simulated,
            "ssim_settings": measured.parameters,
            "reconstruction": plain(evaluation.summary(table)),
            "parameters": {"autoencoder": run.model.count_params()},
        }

    def fit_patches(self, run):
        """K-means on patches of training samples: as many codes of as many bits as the model has.

        Where codes are of several bits, so many stages of 256 codes as come nearest to its bits.

        Returns:
            A fitted `brainvq.evaluation.baselines.PatchKMeans`.
        """
        grid = run.codes["test"].shape[1 : len(run.store.sample_shape)]
        codes, stages = run.model.num_codes, run.model.depth or 1
        bits = run.model.bottleneck.sample_bits
        if bits is not None:
            codes, stages = 256, max(1, round(bits / (8 * np.prod(grid))))
        codec = PatchKMeans(run.store.sample_shape[0] // grid[0], codes, stages=stages)
        return codec.fit(run.store.read(run.some("train", self.baseline)))

    def measured(self, run, again, log):
        """The measures of a run: those on file, or taken now; prior and samples stay as they are.

        Args:
            run: a `LoadedRun`.
            again: whether to measure anew what is measured already.
            log: a `logging.Logger`.

        Returns:
            Dict, as `measure` gives it or as `metrics.json` holds it.
        """
        metrics = run.metrics()
        if metrics and not again:
            return metrics
        log.info("%s: measuring", run.path)
        metrics = self.measure(run)
        if run.has("metrics.json"):
            run.folder.add_metrics(**metrics)
        return metrics


def _read_description(path):
    """What a dataset_description.json says: dict; empty, with a word, where it says nothing."""
    try:
        about = json.loads(path.read_bytes().decode("utf-8-sig", errors="replace"))
        problem = type(about).__name__
    except (OSError, ValueError) as error:
        about, problem = None, str(error)
    if isinstance(about, dict):
        return about
    logger.warning(
        "%s: found %s; expected names and values of JSON (the model card goes without)",
        *(path, problem),
    )
    return {}


def unit_scale(options):
    """The steps that bring a scan into [0, 1], of a `brainvq.options.ScanData`."""
    if options.scale == "max":
        return [data.ScaleIntensity(method="max")]
    return [
        data.ClipIntensity(upper=options.clip_percentile, over="foreground"),
        data.ScaleIntensity(method="minmax"),
    ]


def simulated(study, subjects, seed):
    """The embedded cohort in the contrast and at the voxel size of a study."""
    options = study.data
    shares = options.shares or (1.0,) * len(options.groups)
    visits = dict(zip(options.groups, options.visits, strict=False))
    return data.open_cohort(
        "simulated",
        n_subjects=subjects,
        spacing=options.simulated_spacing,
        modality=options.suffix,
        groups=dict(zip(options.groups, shares, strict=True)),
        scans=visits or None,
        confound=options.confound if options.confound != "no" else False,
        space=options.simulated_space,
        seed=seed,
    )


def prepared(study, task, row, **options):
    """A scan of the cohort as slices of another plane or matrix.

    Args:
        study: a `brainvq.options.Study`.
        task: its `Task`.
        row: a row of the cohort's table.
        **options: those of `brainvq.data.PreparedScan.read`.

    Returns:
        A `brainvq.data.PreparedScan`.
    """
    with collected():  # what there is to say was said when the arrays were prepared
        return data.PreparedScan.read(row.paths, data.steps_to_config(task.steps(study)), **options)


def training_figures(run, without=()):
    """Curves of losses and of SSIM over the epochs, and the SSIM of each test subject.

    Args:
        run: a `LoadedRun`.
        without: columns of `history.csv` that are not drawn as losses.

    Returns:
        Dict of name to path.
    """
    history = pd.read_csv(run.file("history.csv"))
    losses = history.drop(columns=list(without), errors="ignore")
    options = {"simulated": run.simulated}
    return {
        "losses": figures.loss_curves(losses, path=figure_path(run, "losses"), **options),
        "ssim": figures.ssim_curve(history, path=figure_path(run, "ssim"), **options),
        "subjects": figures.subject_scores(
            read_subjects(run), path=figure_path(run, "subjects"), **options
        ),
    }


def code_figures(run, metrics):
    """Use of the codes and the curve of the prior over them, each where there is one.

    Args:
        run: a `LoadedRun`.
        metrics: dict, its `metrics.json`.

    Returns:
        Dict of name to path.
    """
    drawn = {}
    if run.codes is not None:
        drawn["usage"] = figures.code_usage_bars(
            counts_of_codes(run), path=figure_path(run, "usage"), simulated=run.simulated
        )
    if "prior" in metrics:
        drawn["prior"] = prior_figure(run, metrics)
    return drawn


def counts_of_codes(run):
    """How often test samples use each code, of several in a cell the first: int `(num_codes,)`."""
    codes = run.model.first_codes(run.codes["test"])
    return evaluation.code_usage(codes, run.model.num_codes)["counts"]
