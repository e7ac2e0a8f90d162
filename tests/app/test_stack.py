"""Slices of one brain, as the command and as Python ask for them."""

from types import SimpleNamespace

import numpy as np
import pytest

from brainvq.errors import UserError
from brainvq.models import PixelCNN
from brainvq.models.plan import GaussianPlan
from brainvq.options.verbs import SliceSample
from brainvq.studies import STUDIES
from brainvq.tasks.slices.samples import SliceSamples

STUDY = STUDIES["oasis2d"]["best"]


def trained(planned=True):
    plan = None
    if planned:
        plan = GaussianPlan((6, 8, 8), 2)
        plan.fit(np.random.default_rng(0).random((5, 6, 8, 8)))
    prior = PixelCNN((4, 4), 8, filters=4, num_blocks=1, plan=plan)
    return SimpleNamespace(
        prior=prior,
        model=None,
        study=STUDY,
        path="runs/x",
        require_prior=lambda: None,
        require_decoding=lambda: None,
    )


def test_the_command_and_python_draw_the_same_stack():
    run, samples = trained(), SliceSamples()
    typed = SliceSample(samples=5, stack=True, seed=3).drawing
    wanted = samples.draw(run, 5, stack=True, seed=3)
    np.testing.assert_array_equal(samples.draw(run, 5, **typed), wanted)
    shared = samples.draw(run, 5, stack=True, seed=3, coherence=1.0, temperature=0.95, top_p=0.95)
    np.testing.assert_array_equal(shared, wanted)
    assert (samples.draw(run, 5, stack=True, seed=3, coherence=0.0) != wanted).any()


def test_what_a_stack_cannot_be_is_one_line():
    with pytest.raises(UserError, match="knows no brain as a whole"):
        SliceSamples().draw(trained(planned=False), 5, stack=True)
    with pytest.raises(UserError, match="--level: found 0.5 beside --stack"):
        SliceSample(stack=True, level=0.5).check_for(STUDY)
    with pytest.raises(UserError, match="--coherence: found 0.5; expected it with --stack only"):
        SliceSample(coherence=0.5).check_for(STUDY)
    SliceSample(stack=True, coherence=0.5).check_for(STUDY)
