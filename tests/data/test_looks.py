"""What a scan looks like, and the words on heads, cut brains and other contrasts."""

import json
import logging
import time

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainvq.data import PreparedScan, save_nifti, steps_to_config
from brainvq.data.cohort import Cohort
from brainvq.data.geometry import BlockMean, Canonical, CropOrPad, SelectSlices
from brainvq.data.intensity import ScaleIntensity
from brainvq.data.looks import HEAD, Look, contrast_words, look_at, look_of, usual_looks
from brainvq.data.registration import RegisterToTemplate
from brainvq.data.remarks import collected
from brainvq.data.store import prepare

STEPS = (Canonical("LPS"), ScaleIntensity("max"), CropOrPad((16, 16, 16)))


def brain(modality="T1w", number=1):
    """An ellipsoid of 1.5 litres in voxels of 4 mm, whose white matter is bright or dark."""
    x, y, z = (4.0 * axis for axis in np.mgrid[-20:21, -24:25, -20:21])
    radius = np.sqrt((x / 64) ** 2 + (y / 86) ** 2 + (z / 65) ** 2)
    deep = np.clip((0.8 - radius) / 0.1, 0, 1)
    noise = np.random.default_rng(number).normal(0, 5, radius.shape)
    image = np.where(radius < 1, 100 + (60 if modality == "T1w" else -30) * deep + noise, 0)
    return np.float32(image), nib.affines.from_matvec(np.diag([4.0, 4, 4]), [-80, -100, -70])


def head():
    """More than 4 litres, in noise."""
    x, y, z = np.mgrid[-16:16, -16:16, -16:16]
    inside = x**2 + y**2 + z**2 < 13**2
    noise = np.random.default_rng(0).uniform(1, 9, inside.shape)
    return np.float32(np.where(inside, 100 * noise, noise)), np.diag([8.0, 8, 8, 1])


@pytest.fixture(scope="module")
def whole():
    return brain()


def words(scan, steps=STEPS, usual=None, paths=("scan.nii",)):
    with collected() as remarks:
        look_at(paths, *scan, steps, usual)
    return remarks


def cut(scan, mm):
    """A brain (x, y, z) without its upper end."""
    image, affine = scan
    top = np.flatnonzero(image.any(axis=(0, 1)))[-1]
    return image[:, :, : top + 1 - round(mm / 4)], affine


def test_a_brain_alone_is_no_head_and_whole(whole):
    look = look_of(*whole)
    assert look.litres == pytest.approx(4 / 3 * np.pi * 0.64 * 0.86 * 0.65, rel=0.02)
    assert look.cut == {}
    assert not look.head
    assert words(whole) == []


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (STEPS, True),
        ((RegisterToTemplate(brain="keep"),), True),
        ((RegisterToTemplate(), ScaleIntensity()), False),
        ((RegisterToTemplate(brain="template"),), False),
    ],
)
def test_a_head_is_told_where_nothing_takes_the_skull_off(steps, told):
    look = look_of(*head())
    assert look.head
    assert (look.cut, look.depth) == ({}, None)
    assert words(head(), steps) == [HEAD] * told


def test_a_run_of_heads_expects_heads():
    assert words(head(), usual={"heads": 1.0}) == []
    assert words(head(), usual={"heads": 0.2}) == [HEAD]


@settings(max_examples=10, deadline=None)
@given(axes=st.permutations(["LR", "PA", "IS"]), flips=st.tuples(*[st.integers(0, 1)] * 3))
def test_the_face_that_cuts_is_named_in_any_orientation(whole, axes, flips):
    turned = Canonical("".join(pair[flip] for pair, flip in zip(axes, flips, strict=True)))
    assert list(look_of(*turned(*cut(whole, 28))).cut) == ["upper"]
    assert look_of(*turned(*whole)).cut == {}
    (word,) = words(turned(*cut(whole, 28)))
    assert "the field of view cuts the brain (upper face of the image); expected a whole" in word


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_brain_in_its_bounding_box_is_whole(whole, blocks):
    image, affine = BlockMean(blocks)(*CropOrPad((48, 56, 48))(*whole))
    first, last = (f(np.argwhere(image), axis=0) for f in (np.min, np.max))
    box = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
    assert look_of(image[box], affine).cut == {}


def test_pictures_simulated_brains_and_small_things_are_not_looked_at(whole):
    for paths in (("a.png", "b.PNG"), ('simulated:{"number": 1}',)):
        assert look_at(paths, *head(), STEPS) is None
    image, affine = whole
    assert look_of(image, np.diag([1.0, 1, 1, 1])) is None  # the brain of a rat
    assert look_of(np.ones_like(image), affine) is None
    assert look_of(np.zeros((1, 1, 1), "float32"), affine) is None


def test_looking_takes_bounded_time():
    disk = np.float32(np.hypot(*np.mgrid[-300:300, -300:300]) < 250)
    image = np.broadcast_to(disk, (2000, 600, 600))  # 720 million voxels
    began = time.process_time()
    assert look_of(image, np.diag([0.08, 0.3, 0.3, 1])).litres == pytest.approx(2.83, rel=0.02)
    assert time.process_time() - began < 2


def look(depth):
    return Look(1.4, {}, depth)


def told(depths, usual):
    found = contrast_words({i: look(depth) for i, depth in enumerate(depths)}, usual, "others")
    return [i in found for i in range(len(depths))]


def test_another_contrast_lies_beyond_the_run_and_across_the_border():
    t1w, flair = {"depth": [0.17, 0.28]}, {"depth": [0.01, 0.16]}
    depths = [-0.1, 0.10, 0.139, 0.15, 0.2, 0.4]
    assert told(depths, t1w) == [True, True, True, False, False, False]
    assert told(depths, {"depth": [0.25, 0.28]}) == [True, True, True, True, False, False]
    assert told(depths, flair) == [False, False, False, False, True, True]
    assert told(depths, {"depth": [0.05, 0.25]}) == [False] * 5 + [True]
    assert told(depths, {}) == told(depths, None) == told(depths, {"heads": 1.0}) == [False] * 6
    assert told([None], t1w) == [False]


def test_what_a_run_looks_like_leaves_out_a_few_odd_scans():
    most = [look(depth) for depth in (0.2, 0.21, 0.25, 0.22)]
    assert usual_looks([]) == {}
    assert usual_looks(most) == {"scans": 4, "heads": 0.0, "depth": [0.2, 0.25]}
    assert usual_looks([*most, look(0.03)])["depth"] == [0.2, 0.25]
    assert usual_looks([*most, look(0.03), look(0.1)])["depth"] == [0.03, 0.25]
    assert usual_looks([Look(4.0, {}, None)] * 2) == {"scans": 2, "heads": 1.0}


def test_flair_for_a_run_of_t1w_is_told_and_t1w_is_not(whole):
    run = {"heads": 0.0, "depth": [0.17, 0.28]}
    (word,) = words(brain("FLAIR"), usual=run)
    assert "another contrast than the run's training scans: bright tissue lies less deep" in word
    assert words(whole, usual=run) == []


def test_every_scan_that_is_read_is_looked_at(tmp_path, whole, caplog):
    steps = steps_to_config((*STEPS, SelectSlices(count=3)))
    file = str(save_nifti(tmp_path / "a.nii.gz", *cut(brain("FLAIR"), 28)))
    with caplog.at_level(logging.WARNING, "brainvq"):
        PreparedScan.read(file, steps)
        assert [f"{file}: the field of view" in line for line in caplog.messages] == [True]
        PreparedScan.read(file, steps, usual={"depth": [0.2, 0.28]})
    assert [f"{file}: looks like another contrast" in line for line in caplog.messages[1:]] == [
        False,
        True,
    ]


@pytest.fixture
def cohort(tmp_path, whole):
    """Five T1w, one of them cut, a FLAIR and a head."""
    scans = [whole, cut(whole, 28), *(brain(number=n) for n in (2, 3, 4)), brain("FLAIR"), head()]
    names = [f"sub-{number}" for number in range(len(scans))]
    paths = [
        (str(save_nifti(tmp_path / f"{name}.nii.gz", *scan)),)
        for name, scan in zip(names, scans, strict=True)
    ]
    return Cohort("mixed", pd.DataFrame({"scan_id": names, "subject": names, "paths": paths}))


def test_a_store_keeps_looks_and_words(tmp_path, cohort, capsys):
    store = prepare(cohort, STEPS, tmp_path / "cache", layout="volumes", workers=1)
    assert {scan: one.head for scan, one in store.looks.items()} == {
        f"sub-{number}": number == 6 for number in range(7)
    }
    found = {scan: [text.split(":")[0] for text in texts] for scan, texts in store.remarks.items()}
    assert list(found) == ["sub-1", "sub-5", "sub-6"]
    assert "cuts the brain" in found["sub-1"][0]
    assert found["sub-5"] == ["looks like another contrast than most scans here"]
    assert store.remarks["sub-6"] == [HEAD]
    assert f"sub-6: {HEAD}" in capsys.readouterr().out


def test_a_store_of_an_earlier_version_stays_as_it_is(tmp_path, cohort):
    store = prepare(cohort, STEPS, tmp_path / "cache", layout="volumes", workers=1)
    for file in store.path.glob("sub-*.json"):
        content = json.loads(file.read_text())
        del content["look"]
        content["remarks"] = []
        file.write_text(json.dumps(content))
    before = {file: file.stat().st_mtime_ns for file in store.path.glob("sub-*")}
    again = prepare(cohort, STEPS, tmp_path / "cache", layout="volumes", workers=1)
    assert again.path == store.path
    assert {file: file.stat().st_mtime_ns for file in store.path.glob("sub-*")} == before
    assert (again.looks, again.remarks, usual_looks(list(again.looks.values()))) == ({}, {}, {})
