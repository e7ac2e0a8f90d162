"""Cohorts of a few people: refused before training in one line, or measured as far as they go."""

import contextlib
import dataclasses
import logging
from types import SimpleNamespace

import pytest

from brainvq import studies
from brainvq.app.stages import _refuse_idle_codes
from brainvq.errors import UserError
from brainvq.models import VQVAETrainer, conv_decoder, conv_encoder
from brainvq.options import SOM, VQ
from brainvq.options.bottlenecks import FiniteScalar
from brainvq.tasks import of
from brainvq.tasks.vectors.latents import _measured

# The smallest cohorts that finish; one person's bundles are split by streamlines.
LEAST = {"oasis2d": 3, "ixi2d": 3, "som3d": 3, "t1w3d": 3, "introvae3d": 7, "streamlines": 3}


@pytest.mark.parametrize("people", range(1, 9))
@pytest.mark.parametrize("name", LEAST)
def test_too_few_people_are_refused_before_training(name, people):
    study = next(iter(studies.STUDIES[name].values())).smoke()
    study = dataclasses.replace(study, data=dataclasses.replace(study.data, subjects=people))
    task, refused = of(study), "each split needs one subject or more|expected 2 or more"
    if people >= LEAST[name] or (name, people) == ("streamlines", 1):
        task.check_cohort(study, task.cohort(study))
        return
    with pytest.raises(UserError, match=refused):
        task.check_cohort(study, task.cohort(study))


@pytest.mark.parametrize(
    ("bottleneck", "found"),
    [
        (VQ(num_codes=48), None),
        (VQ(num_codes=49), "--model.num-codes: found 49 codes for the 48 vectors of 3 training"),
        (SOM(som_shape=(7, 7)), "--model.som-shape: found 49 codes for the 48 vectors"),
        (VQ(num_codes=49, depth=2), "found 49 codes for the 48"),
        (FiniteScalar(levels=(7, 7)), None),
    ],
)
def test_more_codes_than_there_are_vectors_are_refused_before_training(bottleneck, found):
    encoder, decoder = conv_encoder((8, 8, 1), (2,), 2, 2), conv_decoder((4, 4, 2))
    model = VQVAETrainer(encoder, bottleneck.build(), decoder)
    study = SimpleNamespace(
        data=SimpleNamespace(sample_shape=(8, 8, 1)), model=SimpleNamespace(bottleneck=bottleneck)
    )
    run = SimpleNamespace(study=study, rows={"train": range(3)})
    with pytest.raises(UserError, match=found) if found else contextlib.nullcontext():
        _refuse_idle_codes(run, model)


def test_what_is_left_out_is_said(caplog, monkeypatch):
    # A logger of its own: that of the program has the handlers that tests before this one set up.
    logger = logging.getLogger("few people")
    monkeypatch.setattr("brainvq.tasks.vectors.latents.logger", logger)

    def few():
        raise UserError("found 3 scans; expected 4")

    assert _measured("classes", few) is None
    assert caplog.messages == ["classes left out of the report: found 3 scans; expected 4"]
    assert _measured("classes", dict, [("a", 1)]) == {"a": 1}
