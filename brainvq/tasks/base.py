"""The protocol of a kind of sample: what the verbs of the application ask of it.

A task is the only place that knows its kind. The application asks `of(study)` for it and calls it;
nothing else depends on whether samples are slices, volumes, vectors or streamlines.
"""

import functools
import importlib

import numpy as np
import pandas as pd

from brainvq.data import prepare
from brainvq.errors import UserError
from brainvq.files import read_csv
from brainvq.reports import figures
from brainvq.training.fit import optimizer
from brainvq.training.stream import BatchStream

SPLITS = ("train", "validation", "test")
# Kinds of sample, `Study.kind`, and the class of each; a new one is listed here.
TASKS = {
    "slices": "Slices",
    "volumes": "Volumes",
    "vectors": "Vectors",
    "streamlines": "Streamlines",
}


class Task:
    """A kind of sample; the attributes below are what one usually differs in.

    Attributes:
        kind: its name, `Study.kind`.
        layout: how its samples lie in an `ArrayStore`: "slices", "volumes" or "bundles".
        unit: what one sample is called.
        dtype: number type of the store.
        batch_size: samples that a network takes at a time outside of training.
        watched: validation samples that are looked at while training: enough for measures to three
            digits, but what takes seconds each is few.
        watched_every: after so many epochs each.
        least_test: test subjects that its measures need.
        samples: `brainvq.tasks.samples.Samples`, what `predict` does with samples of the kind.
        report, card: functions that make report and model card from measures, see
            `brainvq.reports.slices`.
    """

    kind = ""
    layout = ""
    unit = ""
    dtype = "float16"
    batch_size = 64
    watched = 256
    watched_every = 1
    samples = None
    least_test = 1
    report = None
    card = None

    # --- data -----------------------------------------------------------------------------------

    def cohort(self, study):
        """The samples' scans or tractograms, split by subject: a `brainvq.data.Cohort`."""
        raise NotImplementedError

    def steps(self, study):
        """The preprocessing: a list of `brainvq.data` steps."""
        raise NotImplementedError

    def facts(self, study, scans):
        """Name, licence and attribution of the data, for the model card: dict."""
        raise NotImplementedError

    def arrays(self, study, scans):
        """The prepared samples: a `brainvq.data.ArrayStore` (built once, then reused)."""
        return prepare(
            scans,
            self.steps(study),
            study.data.cache,
            layout=self.layout,
            dtype=self.dtype,
            workers=study.data.workers,
            scheduler=study.data.scheduler,
        )

    def split_rows(self, study, scans, store):
        """Sample numbers of each split, as a dict of int arrays.

        Raises:
            UserError: a split has no readable scan.
        """
        rows = {}
        for split in SPLITS:
            subjects = scans.table.loc[scans.table["split"] == split, "subject"].unique()
            rows[split] = np.flatnonzero(store.table["subject"].isin(subjects))
            if len(rows[split]) == 0:
                raise UserError(
                    f"cohort {scans.name}: no readable scan is left for the {split} split; "
                    "expected at least one"
                )
            if split == "test" and store.table["subject"][rows[split]].nunique() < self.least_test:
                raise UserError(
                    f"cohort {scans.name}: readable scans are left of fewer than "
                    f"{self.least_test} subjects in the test split; expected so many or more"
                )
        return rows

    def check_cohort(self, study, scans):
        """Refuses before training what would stop a run after it.

        Args:
            study: a `brainvq.options.Study`.
            scans: its split `brainvq.data.Cohort`.

        Raises:
            UserError: a split has too few subjects.
        """
        for split in SPLITS if "split" in scans.table else ():
            rows = scans.table[scans.table["split"] == split]
            count, least = rows["subject"].nunique(), self.least_test if split == "test" else 1
            if count < least:
                raise UserError(
                    f"cohort {scans.name}: found {count} subjects in the {split} split; expected "
                    f"{least} or more (--data.fractions, or more subjects)"
                )
        self.facts(study, scans)

    def in_units(self, run, store):
        """The store as a network reads it."""
        return store

    def check_nifti(self):
        """Refuses `--nifti` where samples are no images."""
        raise UserError(
            f"--nifti: found a study of {self.kind}; expected one of scans, as slices or volumes"
        )

    def describe_preparation(self, study, scans, store):
        """Lines on how well the scans could be prepared; "" where there is nothing to say."""
        return ""

    # --- training -------------------------------------------------------------------------------

    def augmentation(self, study):
        """The random changes of training samples: a function of a batch and a generator."""
        raise NotImplementedError

    def watch(self, samples, restored):
        """What is measured on validation samples while training: dict of name to number."""
        raise NotImplementedError

    def start(self, run, model):
        """Gives a new model what it knows of the training samples before it is trained."""

    def pretrain(self, run, model, stream, callbacks):
        """Trains in another way first, where a study does."""

    def compile(self, model, options, steps):
        """Compiles a model for so many steps of a `brainvq.options.Train`."""
        model.compile(optimizer_of(options, steps))

    def callbacks(self):
        """Callbacks of the kind's own."""
        return []

    def finish(self, run, model):
        """Gives a trained model what it needs beside its training, before it is saved."""

    def conditions(self, run, codes, split):
        """What the prior is given of each code map of a split beside the codes.

        Args:
            run: a `LoadedRun`.
            codes: code maps `(n, *grid)`, one or more for each sample of the split.
            split: "train", "validation" or "test".

        Returns:
            Dict of arrays with a row for each code map, of `labels` and `plan`, those that it is
            given, as `PixelCNN` takes them.
        """
        return {}

    def condition_bits(self, run, split):
        """Bits of the conditions of a sample, as a mean over a split: dict of name to float."""
        return {"level": float(np.log2(run.study.classes or 1))}

    def plan(self, run):
        """The `GaussianPlan` that samples are drawn by; None without one."""
        return None

    def fitted_prior(self, run):
        """The prior of a study whose prior is made of its training samples."""
        raise NotImplementedError

    def prior_stream(self, run, codes):
        """The code maps of the training split in batches: a `BatchStream`."""
        return BatchStream(
            codes,
            np.arange(len(codes)),
            run.study.prior.batch_size,
            shuffle=True,
            seed=run.study.seed + 1,
            conditions=self.conditions(run, codes, "train"),
        )

    # --- after training -------------------------------------------------------------------------

    def measure(self, run):
        """Measures of a `LoadedRun` on test subjects: dict, `metrics.json` without the prior."""
        raise NotImplementedError

    def draw(self, run):
        """Draws samples from the prior into `samples/` and measures them: dict."""
        raise NotImplementedError

    def figures(self, run, metrics):
        """Draws all figures of a run: dict of name to path."""
        raise NotImplementedError

    def compare(self, runs, again, log):
        """Tables and figures of several runs, written beside them.

        Args:
            runs: list of `LoadedRun`.
            again: whether to measure anew what is measured already.
            log: a `logging.Logger`.
        """
        raise NotImplementedError


def optimizer_of(options, steps, share=1.0):
    """The optimiser of a `brainvq.options.Train` for so many steps, with a share of its rate."""
    return optimizer(
        share * options.learning_rate,
        steps,
        schedule=options.schedule,
        warmup=options.warmup,
        weight_decay=options.weight_decay,
    )


def spread(rows, count):
    """At most `count` of `rows`, evenly spread."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]


def prior_grid(shape):
    """The grid that a prior sees of codes of this shape.

    A streamline has one cell and its codes in a row, so a bundle's codes are a picture of a row per
    streamline.
    """
    return tuple(size for size in shape if size > 1) if 1 in shape else tuple(shape)


def prior_codes(codes):
    """Code maps `(n, *grid)` as a prior takes them; see `prior_grid`."""
    return codes.reshape(len(codes), *prior_grid(codes.shape[1:]))


def plain(table):
    """A summary table as {measure: {mean, sd, n}}."""
    return {row["measure"]: {k: row[k] for k in ("mean", "sd", "n")} for _, row in table.iterrows()}


def read_subjects(run):
    """Measures per test subject of a `LoadedRun`; subjects called 02 or NA stay so."""
    return read_csv(run.file("subjects.csv"), "subject")


def figure_path(run, name):
    """Where a figure of a run is written."""
    return run.file("figures", f"{name}.png")


def prior_figure(run, metrics):
    """The curve of the prior's bits per code beside models without a network."""
    bits = metrics["prior"]
    return figures.prior_curve(
        pd.read_csv(run.file("prior_history.csv")),
        baselines={
            "marginal": bits["marginal"],
            "neighbour and position tables": bits["neighbour_tables"],
        },
        simulated=run.scans.simulated,
        path=figure_path(run, "prior"),
    )


@functools.cache
def task(kind):
    """The `Task` of a kind of sample: that of the package `brainvq.tasks.KIND`."""
    return getattr(importlib.import_module(f"brainvq.tasks.{kind}"), TASKS[kind])()


def of(study):
    """The `Task` of a study."""
    return task(study.kind)
