"""The task of bundles: cohorts of tractograms, groups in the units of a run, and their training."""

import numpy as np

from brainvq import data
from brainvq.errors import UserError
from brainvq.files import write_json
from brainvq.reports.bundle_pages import bundles_card, bundles_report
from brainvq.tasks.base import Task
from brainvq.tasks.streamlines.comparison import compare_streamlines
from brainvq.tasks.streamlines.figures import streamline_figures
from brainvq.tasks.streamlines.groups import BATCH, scale_of
from brainvq.tasks.streamlines.measures import (
    draw_streamlines,
    measure_streamlines,
    watch_streamlines,
)
from brainvq.tasks.streamlines.samples import BundleSamples
from brainvq.training.augment import BundleAugment

SOURCE_NAMES = {
    "tractoinferno": "TractoInferno (Poulin et al. 2022, OpenNeuro ds003900, CC0)",
    "tracts": "a folder of tractograms",
    "groups": "groups of streamlines",
}
# People of TractoInferno that are downloaded where none are named.
FIRST_PEOPLE = 5


class Streamlines(Task):
    """Groups of streamlines, each of one bundle; see `Task`."""

    kind = "streamlines"
    layout = "bundles"
    unit = "bundle"
    dtype = "float32"  # halves would round coordinates of 100 mm to 0.06 mm
    batch_size = BATCH
    watched_every = 10
    samples = BundleSamples()
    report = staticmethod(bundles_report)
    card = staticmethod(bundles_card)

    # --- data -----------------------------------------------------------------------------------

    def cohort(self, study):
        """The bundles, a row each; split by person where there is more than one.

        Args:
            study: a `brainvq.options.BundleStudy`.

        Returns:
            A `brainvq.data.Cohort`; its table has no column `split` where there is one person,
            whose groups are split once they are made (see `split_rows`).

        Raises:
            UserError: people are assigned to splits where there is one alone.
        """
        options = study.data
        if options.download:
            people = list(options.people) or FIRST_PEOPLE
            data.download_tractoinferno(
                options.root,
                people,
                options.bundles,
                accept_terms=options.accept_terms,
                base_url=options.mirror,
            )
        if options.source == "simulated":
            scans = data.open_cohort(
                "simulated-bundles",
                n_subjects=options.subjects,
                seed=study.seed,
                bundles=options.bundles,
            )
        else:
            chosen = {"entities": options.entities} if options.source == "tracts" else {}
            chosen["bundles"] = options.bundles
            scans = data.open_cohort(options.source, options.root, **chosen)
        if len(scans.subjects) > 1:
            return scans.split(
                options.fractions, seed=study.seed, assignments=options.assignments, stratify=None
            )
        if options.assignments is not None:
            raise UserError(
                f"--data.assignments: found {options.assignments}; expected none, because the "
                "streamlines of a single person are split by groups"
            )
        return scans

    def steps(self, study):
        """The preprocessing: streamlines are resampled, aligned and grouped."""
        options = study.data
        return [
            data.GroupStreamlines(
                options.points, options.streamlines, True, options.per_bundle, study.seed
            )
        ]

    def facts(self, study, scans):
        """Name of the data, for the model card: dict."""
        if scans.simulated:
            return {"data_name": f"bundles of {len(scans.subjects)} people, simulated as curves"}
        return {"data_name": SOURCE_NAMES[study.data.source]}

    def split_rows(self, study, scans, store):
        """Sample numbers of each split, as a dict of int arrays.

        Those of training hold equally many of each bundle, the rarer ones more than once; the
        paper (Lizarraga et al. 2023) leaves out what the rarest bundle does not have. The others
        are all there are.

        Raises:
            UserError: a split has no readable scan, or no group of streamlines.
        """
        if "split" in scans.table:
            rows = super().split_rows(study, scans, store)
        else:
            rows = self._split_groups(study, scans, store)
        train = data.balanced_rows(store.table, rows["train"], study.seed, repeat=True)
        return rows | {"train": train}

    def _split_groups(self, study, scans, store):
        rows = data.split_groups(store.table, study.data.fractions, study.seed)
        for split, members in rows.items():
            if len(members) == 0:
                raise UserError(
                    f"cohort {scans.name}: no group of streamlines is left for the {split} split; "
                    "expected three groups or more of a bundle"
                )
        return rows

    def in_units(self, run, store):
        """The store in the scale of a run, that of its training samples, kept in `scale.json`."""
        if not run.has("scale.json"):
            scale = data.scale_of(store, run.rows["train"])
            write_json(run.file("scale.json"), scale.to_config())
        return data.UnitStore(store, scale_of(run))

    # --- training -------------------------------------------------------------------------------

    def augmentation(self, study):
        """The random changes of training groups."""
        return BundleAugment(study.train.deform, study.train.permute)

    def watch(self, samples, restored):
        """Squared error and BUAN of validation groups while training."""
        return watch_streamlines(samples, restored)

    def conditions(self, run, codes, split):
        """The bundle of each code map of a split, as a number in the order of the study."""
        number = {name: place for place, name in enumerate(run.study.data.bundles)}
        bundles = run.store.table["group"].map(number).to_numpy()[run.rows[split]]
        return {"labels": np.tile(bundles, len(codes) // len(bundles)).astype("int32")}

    # --- after training -------------------------------------------------------------------------

    def measure(self, run):
        """Measures of test samples; see `measure_streamlines`."""
        return measure_streamlines(run)

    def draw(self, run):
        """Draws new bundles into `samples/`; see `draw_streamlines`."""
        return draw_streamlines(run)

    def figures(self, run, metrics):
        """All figures of a run: dict of name to path."""
        return streamline_figures(run, metrics)

    def compare(self, runs, again, log):
        """Tables and figures of runs, which must be measured already."""
        del again
        compare_streamlines(runs, log)
