"""The task of slices: data, measures, samples, and the table of several runs."""

import numpy as np

from brainvq import evaluation
from brainvq.files import write_array
from brainvq.reports.slices import slices_card, slices_report
from brainvq.tasks.scans import ScanTask
from brainvq.tasks.slices.comparison import compare_slices
from brainvq.tasks.slices.figures import slice_figures
from brainvq.tasks.slices.measures import measure_anatomy, measure_slices
from brainvq.tasks.slices.samples import SliceSamples
from brainvq.tasks.slices.steps import levels, slice_steps

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

    def comparable(self, images, restored):
        """Slices as they are, which is from 0 to 1, and their reconstructions clipped to that."""
        return images, np.clip(restored, 0, 1)

    def labels(self, run, codes, split):
        """How high in its brain the slice of each code map lies; None without levels."""
        if not run.study.classes:
            return None
        levels_of_split = levels(run.store, run.study.classes)[run.rows[split]]
        return np.tile(levels_of_split, len(codes) // len(levels_of_split))

    def measure(self, run):
        """Measures on test subjects; see `measure_slices`."""
        return measure_slices(run)

    def draw(self, run):
        """Draws new slices into `samples/` and asks how near they are to training slices.

        With a prior conditioned on levels they are spread over the brain, from the lowest on.
        Written are `codes.npy`, `samples.npy`, `nearest.npy`, the nearest training slices, and
        `lineup.npy`, draws among slices of test subjects in a random order.

        Returns:
            Dict of count, of mean distances to training slices, of samples and of test slices, and
            of what `measure_anatomy` says.
        """
        options, classes = run.study.sampling, run.study.classes
        count = options.samples
        codes = run.prior.sample(
            count,
            labels=np.arange(count) * classes // count if classes else None,
            seed=run.study.seed,
            **options.arguments,
        )
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
