"""`classify` tells scans of another contrast than those that its run was trained on."""

from types import SimpleNamespace

import pytest

from brainvq.app.classify import labelled
from brainvq.data import save_nifti, steps_to_config
from brainvq.data.geometry import Canonical, CropOrPad, SelectSlices
from brainvq.data.intensity import ScaleIntensity
from brainvq.options.analyses import Classify
from tests.data.test_looks import brain

STEPS = (Canonical("LPS"), ScaleIntensity("max"), SelectSlices(), CropOrPad((16, 16), axes=(0, 1)))
T1W = {"scans": 9, "heads": 0.0, "depth": [0.17, 0.28]}


@pytest.mark.parametrize(
    ("modality", "usual", "told"),
    [("FLAIR", T1W, True), ("T1w", T1W, False), ("FLAIR", {}, False)],
)
def test_another_contrast_than_the_runs_is_told(tmp_path, caplog, modality, usual, told):
    for number in (1, 2):
        save_nifti(tmp_path / "scans" / f"sub-{number}_T1w.nii.gz", *brain(modality, number))
    labels = tmp_path / "scans" / "participants.tsv"
    labels.write_text("participant_id\tgroup\nsub-1\ta\nsub-2\tb\n")
    study = SimpleNamespace(data=SimpleNamespace(suffix="T1w", entities=None))
    trained = SimpleNamespace(study=study, steps=steps_to_config(STEPS), usual=usual)
    options = Classify(labels=f"{labels}:group", cache=str(tmp_path / "cache"), slices=2)
    given = labelled(trained, options)
    words = [line for line in given.failures if "another contrast than the run's training" in line]
    assert given.failures == words
    assert [line.split(":")[0] for line in words] == ["2 scans, e.g. sub-1"] * told
    assert all(line in caplog.text for line in words)
    assert len(given.samples.subjects) == 4
