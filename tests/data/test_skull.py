"""Heads: skull strippers on PATH, the floor of the fit, and words on both."""

import logging
import stat
import sys

import nibabel as nib
import numpy as np
import pytest

from brainvq.data import registration
from brainvq.data.prepared import read_and_prepare
from brainvq.data.registration import RegisterToTemplate, registration_fit
from brainvq.data.remarks import FIT, collected, summary
from brainvq.data.scans import ScanError, save_nifti
from brainvq.data.simulation import simulate
from brainvq.data.skull import TOOLS, brain_of_head

WRITES_MASK = """
import sys, nibabel as nib, numpy as np
words = sys.argv[1:]
source = nib.load(next(word for word in words if word.endswith("head.nii.gz")))
folder = next(w for w in words if w.endswith(("mask.nii.gz", "out.nii.gz", "/out")))
folder = folder.rsplit("/", 1)[0]
mask = (source.get_fdata() > 100).astype("uint8")
nib.Nifti1Image(mask, source.affine).to_filename(folder + "/" + NAME)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program onto an otherwise empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name, text):
        file = tmp_path / name
        file.write_text(f"#!{sys.executable}\n{text}")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    return put


@pytest.fixture(scope="module")
def head():
    """A brain of 100 and more in noise that never is 0: image, affine, the brain."""
    scan = simulate({"spacing": 4.0, "number": 3, "space": "mni"})
    brain = scan.image > 0
    image = np.where(brain, 200 + 400 * scan.image / scan.image.max(), 0)
    noise = np.random.default_rng(0).uniform(1, 9, image.shape)
    return np.float32(np.where(brain, image, noise)), scan.affine, brain


@pytest.mark.parametrize("name", list(TOOLS))
def test_a_skull_stripper_on_path_is_used_and_named(program, head, name):
    image, affine, brain = head
    program(name, f"NAME = {TOOLS[name][1]!r}{WRITES_MASK}")
    with collected() as remarks:
        np.testing.assert_array_equal(brain_of_head(image, affine), brain)
    assert len(remarks) == 1
    assert f"taken off by {name} (" in remarks[0]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("print('no licence'); raise SystemExit(3)", "failed: status 3, no licence"),
        ("", "failed: no mask.nii.gz was written"),
        (f"NAME = 'mask.nii.gz'{WRITES_MASK.replace('> 100', '> 1e9')}", "0 ml, which is no brain"),
    ],
)
def test_one_that_fails_says_so(program, head, text, word):
    program("mri_synthstrip", text)
    with collected() as remarks:
        assert brain_of_head(*head[:2]) is None
    assert word in remarks[0]


def test_without_a_program_there_is_no_mask(program, head):
    with collected() as remarks:
        assert brain_of_head(*head[:2]) is None
    assert remarks == []


def test_the_mask_of_the_program_cuts_the_head(program, head, tmp_path, caplog):
    image, affine, brain = head
    program("bet", f"NAME = 'out_mask.nii.gz'{WRITES_MASK}")
    file = save_nifti(tmp_path / "scan.nii.gz", image, affine)
    step = RegisterToTemplate(shape=(160, 192, 160), transform="none")
    with caplog.at_level(logging.INFO, "brainvq"):
        result, _ = read_and_prepare(str(file), [step])
    kept = np.count_nonzero(result) / np.count_nonzero(brain) / 64
    assert 0.95 < kept < 1.5  # interpolated borders; all of the grid were 2.6
    assert f"{file}: a head: its skull was taken off by bet" in caplog.text


def test_the_fit_tells_a_shifted_map(head):
    image, affine, brain = head
    alone = np.where(brain, image, 0)
    assert registration_fit(alone, affine, np.eye(4), stripped=True) > 0.85
    away = nib.affines.from_matvec(registration._turn(np.radians([45, 0, 0])), [0, 20, 0])
    assert registration_fit(alone, affine, away, stripped=True) < 0.7


@pytest.mark.parametrize(("skull", "least"), [(True, 0.79), (False, 0.7)])
def test_a_poor_fit_is_searched_again_and_then_refused(program, head, monkeypatch, skull, least):
    image, affine, brain = head
    image = image if skull else np.where(brain, image, 0)
    calls = []

    def wrong(*args, more, **options):
        calls.append(more)
        return nib.affines.from_matvec(registration._turn(np.radians([45, 0, 0])), [0, 20, 0])

    monkeypatch.setattr(registration, "register", wrong)
    with pytest.raises(ScanError, match=rf"fit of 0\.\d\d from any start; expected {least} or"):
        RegisterToTemplate()(image, affine)
    assert calls == [False, True]
    monkeypatch.setattr(
        registration, "register", lambda *a, more, **o: np.eye(4) if more else wrong(more=more)
    )
    with collected() as remarks:
        RegisterToTemplate()(image, affine)
    assert float(remarks[0].removeprefix(FIT)) > 0.85


def test_larger_turns_are_found(head):
    image, affine, brain = head
    turn = nib.affines.from_matvec(registration._turn(np.radians([50, 10, -10])), [30, 5, 9])
    alone = np.where(brain, image, 0)
    options = {"stripped": True, "finest": 4.0}
    place = registration.register(alone, turn @ affine, more=True, **options)
    assert registration_fit(alone, turn @ affine, place, stripped=True) > 0.85


def test_remarks_on_many_scans_become_few_lines():
    remarks = {"a": [FIT + "0.812", "odd"], "b": [FIT + "0.9", "odd"], "c": [FIT + "0.88"]}
    assert summary(remarks) == [
        "2 scans, e.g. a: odd",
        "3 scans registered to the template: fit 0.880 at the median, 0.812 the lowest (a)",
    ]
