"""The task of slices: data, measures, samples, and the table of several runs."""

import numpy as np

from brainvq import evaluation
from brainvq.files import write_array
from brainvq.reports.slices import slices_card, slices_report
from brainvq.tasks.base import prior_codes
from brainvq.tasks.scans import ScanTask
from brainvq.tasks.slices.comparison import compare_slices
from brainvq.tasks.slices.figures import slice_figures
from brainvq.tasks.slices.measures import measure_anatomy, measure_slices
from brainvq.tasks.slices.plans import drawn_conditions, fit_plan, padded, plan_bits, plans
from brainvq.tasks.slices.samples import SliceSamples
from brainvq.tasks.slices.steps import levels, slice_steps
from brainvq.training.warp import Warp, WarpedCodes

# Training slices among which the nearest to a sample is looked for.
COMPARED = 2048


class Slices(ScanTask):
    """Slices of scans; see `Task`."""

    kind = "slices"
    layout = "slices"
    unit = "slice"
    flip_axis = 1
    baseline = 1024
    samples = SliceSamples()
    report = staticmethod(slices_report)
    card = staticmethod(slices_card)

    def steps(self, study):
        """The preprocessing: a list of `brainvq.data` steps."""
        return slice_steps(study.data)

    def volume_of(self, samples):
        """The slices of a scan as an image `(x, y, z)`."""
        return samples[..., 0].T.copy()

    def comparable(self, images, restored):
        """Slices as they are, which is from 0 to 1, and their reconstructions clipped to that."""
        return images, np.clip(restored, 0, 1)

    def conditions(self, run, codes, split):
        """How high in its brain the slice of each code map lies, and the plan of that brain."""
        given, study = {}, run.study
        copies = len(codes) // len(run.rows[split])
        if study.classes:
            known = levels(run.store, study.classes)[run.rows[split]]
            given["labels"] = np.tile(known, copies).astype("int32")
        if study.plans:
            given["plan"] = plans(run, split)
        return given

    def condition_bits(self, run, split):
        """Bits of level and plan for each slice; one plan is that of all slices of a brain."""
        bits = super().condition_bits(run, split)
        return bits | ({"plan": plan_bits(run, split)} if run.study.plans else {})

    def plan(self, run):
        """The plan of the training scans; None where the prior is given none."""
        return fit_plan(run)

    def prior_stream(self, run, codes):
        """Code maps in batches; with `prior.warp` those of slices that are warped anew."""
        options = run.study.prior
        if not options.warp:
            return super().prior_stream(run, codes)
        return WarpedCodes(
            lambda rows: padded(run.store.read(rows), run.model.stride),
            run.rows["train"],
            options.batch_size,
            encode=lambda slices: prior_codes(run.model.codes(slices, batch_size=len(slices))),
            warp=Warp(options.warp, run.study.train.augment.flip),
            shuffle=True,
            seed=run.study.seed + 1,
            conditions=self.conditions(run, codes, "train"),
        )

    def measure(self, run):
        """Measures on test subjects; see `measure_slices`."""
        return measure_slices(run)

    def draw(self, run):
        """Draws new slices into `samples/` and asks how near they are to training slices.

        With a prior that knows their height they are spread over the brain, from the lowest on.
        Written are `codes.npy`, `samples.npy`, `nearest.npy`, the nearest training slices, and
        `lineup.npy`, draws among slices of test subjects in a random order.

        Returns:
            Dict of count, of mean distances to training slices, of samples and of test slices, and
            of what `measure_anatomy` says.
        """
        options, seed = run.study.sampling, run.study.seed
        count = options.samples
        given = drawn_conditions(run.prior, count, seed=seed)
        codes = run.prior.sample(count, seed=seed, **given, **options.arguments)
        images = np.clip(run.model.decode(codes), 0, 1)
        for name, array in (("codes", codes), ("samples", images)):
            write_array(run.file("samples", f"{name}.npy"), array)
        references = run.store.read(run.some("train", COMPARED))
        number, distance = evaluation.nearest_images(images, references)
        unseen = run.store.read(run.some("test", count))
        _, usual = evaluation.nearest_images(unseen, references)
        write_array(run.file("samples", "nearest.npy"), references[number])
        anatomy, lineup = measure_anatomy(run, images)
        if lineup is not None:
            write_array(run.file("samples", "lineup.npy"), lineup)
        return {
            "count": len(images),
            "distance_to_training": float(np.mean(distance)),
            "distance_of_unseen_to_training": float(np.mean(usual)),
            **anatomy,
        }

    def figures(self, run, metrics):
        """All figures of a run: dict of name to path."""
        return slice_figures(run, metrics)

    def compare(self, runs, again, log):
        """The table of several runs, measured anew always: it takes seconds."""
        compare_slices(runs, log)
