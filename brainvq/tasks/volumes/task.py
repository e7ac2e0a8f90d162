"""The task of volumes: data, measures, samples, and the table of several runs."""

import numpy as np

from brainvq import data
from brainvq.evaluation import to_unit
from brainvq.models import MosaicPrior
from brainvq.reports.volumes import volumes_card, volumes_report
from brainvq.tasks.scans import ScanTask
from brainvq.tasks.volumes.comparison import compare_volumes
from brainvq.tasks.volumes.draws import draw_volumes
from brainvq.tasks.volumes.figures import volume_figures
from brainvq.tasks.volumes.measures import measure_volumes
from brainvq.tasks.volumes.registration import (
    describe_registration,
    grid_affine,
    registered_steps,
    registration_quality,
)
from brainvq.tasks.volumes.samples import VolumeSamples, known_traits
from brainvq.tasks.volumes.transform import fit_transform


class Volumes(ScanTask):
    """Whole volumes; see `Task`."""

    kind = "volumes"
    layout = "volumes"
    unit = "volume"
    batch_size = 2
    watched = 2
    watched_every = 10
    samples = VolumeSamples()
    report = staticmethod(volumes_report)
    card = staticmethod(volumes_card)

    def steps(self, study):
        """The preprocessing: a list of `brainvq.data` steps."""
        options = study.data
        return (volume_steps if options.registration == "no" else registered_steps)(options)

    def describe_preparation(self, study, scans, store):
        """How well registered scans lie on the template; "" where there is no registration."""
        if study.data.registration == "no":
            return ""
        return describe_registration(registration_quality(study, scans, store))

    def start(self, run, model):
        """A transform, where the network is one, is fitted to the training samples."""
        if run.study.model.network.is_fitted:
            fit_transform(run, model)

    def fitted_prior(self, run):
        """Mosaics of the training volumes; see `brainvq.models.MosaicPrior`."""
        rows = run.some("train", run.study.prior.people)
        vectors = [run.model.continuous(run.store.read([row]), batch_size=1) for row in rows]
        traits = known_traits(run.store.table.iloc[rows])
        prior = MosaicPrior(
            len(rows), vectors[0].shape[1:], run.study.prior.mirrored, traits=traits
        )
        prior.set_vectors(np.concatenate(vectors), traits)
        return prior

    def place_of(self, study, scan):
        """In the space of the template where scans are registered, else in the scan's own."""
        own = study.data.registration == "no"
        return super().place_of(study, scan) if own else grid_affine(study.data)

    def comparable(self, images, restored):
        """Volumes in [0, 1]: they have a scale of their own, such as that of z-scores."""
        return to_unit(images, restored)

    def measure(self, run):
        """Measures on test subjects; see `measure_volumes`."""
        return measure_volumes(run)

    def draw(self, run):
        """Draws new volumes into `samples/`; see `draw_volumes`."""
        return draw_volumes(run)

    def figures(self, run, metrics):
        """All figures of a run: dict of name to path."""
        return volume_figures(run, metrics)

    def compare(self, runs, again, log):
        """The table of a study, a row for each run, measured where that is not done yet."""
        compare_volumes(runs, [self.measured(run, again, log) for run in runs], log)


def volume_steps(options):
    """The preprocessing of volumes in their own space, of a `brainvq.options.VolumeData`."""
    scale = {
        "zscore": data.ZScore(over="all"),
        "max": data.ScaleIntensity(method="max"),
        "percentile": data.ScaleIntensity(method="minmax"),
    }[options.scale]
    clip = [data.ClipIntensity(upper=options.clip_percentile, over="foreground")]
    return [
        data.Canonical(axcodes="LPS"),
        *([] if options.scale == "max" else clip),
        data.Resample(spacing=(options.spacing,) * 3),
        # Cut before the scale: a deviation should be of what the network sees.
        data.CropOrPad(shape=options.shape, center="foreground"),
        scale,
    ]
