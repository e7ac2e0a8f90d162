"""What a trained run on bundles says of its units: scale, preprocessing, bits."""

from brainvq import data
from brainvq.errors import UserError
from brainvq.tasks.streamlines.groups import scale_of
from brainvq.training.runs import RunFolder


def run_scale(trained):
    """The `BundleScale` of a run; None where the mm of its training data are not known."""
    if trained.study.data.source == "groups":
        return None
    return scale_of(RunFolder(trained.path))


def known_scale(trained):
    """The `BundleScale` of a run that files in mm need."""
    scale = run_scale(trained)
    if scale is None:
        raise UserError(f"{why_units(trained)}; expected a run trained on tractograms")
    return scale


def why_units(trained):
    """Why there are no mm."""
    return (
        f"{trained.path}: was trained on groups of streamlines scaled to [-1, 1], whose scale in "
        "mm is not known, so that results are .npy in those units"
    )


def step_of(trained):
    """The `GroupStreamlines` of a run."""
    try:
        (config,) = trained.steps
        return data.GroupStreamlines(**{k: v for k, v in config.items() if k != "name"})
    except (TypeError, ValueError):
        raise UserError(
            f"{trained.path}/study.json: found steps {trained.steps}; expected GroupStreamlines"
        ) from None


def bits_per_streamline(trained):
    """Bits of a group's codes by its streamlines; None where nothing is discrete."""
    bits = trained.model.bits_per_sample(trained.study.data.sample_shape)
    return None if bits is None else bits / trained.study.data.streamlines
