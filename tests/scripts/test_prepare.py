"""`dataset.py prepare` of registered volumes: brains and a head in a BIDS folder, masks, scores."""

import sys

import numpy as np
import pandas as pd
import pytest
from nibabel.affines import from_matvec
from scipy import ndimage

from brainvq import data, studies
from brainvq.app import prepare
from brainvq.data.scans import save_nifti
from brainvq.errors import UserError
from brainvq.files import read_csv, read_json
from brainvq.tasks import of
from brainvq.tasks.volumes.registration import (
    describe_registration,
    grid_affine,
    registration_quality,
    template,
)
from tests.scripts.conftest import bids_errors

WORDS = ("introvae3d", "--variant", "ivae-256", "--data.source", "bids")
MNI = ("--data.registration", "mni")


def padded(file):
    """Puts air around the brain in a file; returns where it is and the affine."""
    image, affine = data.load_scan(file)
    image, affine = np.pad(image, 6), affine @ from_matvec(np.eye(3), [-6, -6, -6])
    save_nifti(file, image, affine)
    return image > 0, affine


def put_a_skull(file):
    """Fluid, dark bone and bright skin around the brain in a file, and noise in the air."""
    image, affine = data.load_scan(file)
    brain = image > 0
    distance = ndimage.distance_transform_edt(~ndimage.binary_closing(brain, iterations=2)) * 4
    white = np.percentile(image[brain], 75)
    image[~brain & (distance <= 5)] = 0.25 * white
    image[(distance > 10) & (distance <= 18)] = 1.3 * white
    noise = np.random.default_rng(0).standard_normal((2, *brain.shape)) * 0.02 * white
    save_nifti(file, np.where(brain, image, np.hypot(image + noise[0], noise[1])), affine)


def bids(folder, space):
    """A simulated cohort of three people as a BIDS folder; returns it and its images."""
    scans = data.open_cohort(
        "simulated", n_subjects=3, spacing=4.0, modality="FLAIR", space=space, seed=5
    )
    data.write_simulated_bids(scans, folder, workers=1, progress=False)
    return folder, sorted(folder.glob("sub-*/anat/*_FLAIR.nii.gz"))


def prepared(root, *words):
    """The volumes that the scans of a folder become."""
    words = [*WORDS, "--data.root", str(root), "--data.workers", "1", *map(str, words)]
    study = studies.parse(words, "dataset.py", "")
    return of(study).arrays(study, of(study).cohort(study)).read(slice(None))


@pytest.mark.parametrize("head", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_a_cohort_is_registered_and_scored(tmp_path, monkeypatch, capsys, head):
    root, images = bids(tmp_path / "data", "scanner")
    brain, affine = padded(images[1])
    if head:
        put_a_skull(images[1])
    words = ("--data.root", root, "--data.workers", 1)
    monkeypatch.chdir(tmp_path)
    prepare.main([*WORDS, *map(str, words), "--nifti", "nifti"], "python dataset.py prepare")
    output = capsys.readouterr().out
    assert "3 images in nifti\n" in output
    (store,) = (data.ArrayStore.open(f.parent) for f in tmp_path.glob("cache/*/index.json"))
    volumes = store.read(slice(None))
    assert volumes.shape == (3, 40, 48, 40, 1)
    assert volumes.min() == 0
    assert volumes.max() == 1
    for image, volume in zip(images, volumes, strict=True):
        name = image.name.split("_")[0]
        start = f"nifti/{name}/anat/{name}_space-MNI152NLin2009aSym_desc-prepared_FLAIR"
        written, grid = data.load_scan(f"{start}.nii.gz")
        np.testing.assert_array_equal(written, volume[..., 0])
        np.testing.assert_allclose(grid, grid_affine(studies.STUDIES["introvae3d"]["best"].data))
        sidecar = read_json(f"{start}.json")
        assert sidecar["Sources"] == [f"bids:data:{name}/anat/{image.name}"]
        assert sidecar["SkullStripped"] is True
    people = read_csv(tmp_path / "nifti" / "participants.tsv")
    assert list(people) == ["participant_id", "age", "sex", "group", "site"]
    # A skull is off, and what is left is the brain.
    place = store.scans["affine"][1]
    kept = data.to_original_grid(volumes[1, ..., 0], place, brain.shape, affine) > 0.1
    assert 2 * np.sum(kept & brain) / (kept.sum() + brain.sum()) > 0.9

    folder = store.path.with_name(store.path.name + "-registration")
    table = pd.read_csv(folder / "registration.csv")
    assert list(table["scan_id"]) == list(store.scans["scan_id"])
    assert table["fit"].min() > 0.8
    assert not table["outlier"].any()
    assert f"registration of 3 scans: median fit {table['fit'].median():.3f}" in output
    assert "outliers: none\n" in output
    assert f"scores in {folder.relative_to(tmp_path)}/registration.csv" in output

    files = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert sorted(file.suffix for file in files) == [".csv", ".json", ".png"]
    monkeypatch.setattr(data.ArrayStore, "read", None)  # nothing is read, or made, again
    prepare.main([*WORDS, *map(str, words)], "python dataset.py prepare")
    assert capsys.readouterr().out == output.replace("3 images in nifti\n", "")
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == files


def test_masks_take_the_skull_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, images = bids(tmp_path / "data", "mni")
    brains = [padded(image) for image in images]
    expected = prepared(root, *MNI)
    for image, (brain, affine) in zip(images, brains, strict=True):
        put_a_skull(image)
        folder = root / "derivatives" / "tool" / image.parent.relative_to(root)
        save_nifti(folder / image.name.replace("_FLAIR", "_desc-brain_mask"), brain, affine)
    masked = prepared(root, *MNI, "--data.masks", "bids")
    np.testing.assert_array_equal(masked, expected)

    script = tmp_path / "tool.py"
    script.write_text(
        "import shutil, sys\n"
        "from pathlib import Path\n"
        "with open('calls.txt', 'a') as calls: calls.write('x')\n"
        "scan, mask = map(Path, sys.argv[1:])\n"
        "name = scan.name.replace('_FLAIR', '_desc-brain_mask')\n"
        "shutil.copy(next(Path('data/derivatives/tool').glob('*/*/' + name)), mask)\n"
    )
    command = f"{sys.executable} {script} {{input}} {{mask}}"
    masked = prepared(root, *MNI, "--data.mask-tool", command)
    np.testing.assert_array_equal(masked, expected)
    assert (tmp_path / "calls.txt").read_text() == "xxx"
    assert len(list(tmp_path.glob("cache/masks/*.nii.gz"))) == 3
    with pytest.raises(UserError, match="no-such-tool: no such program"):
        prepared(root, *MNI, "--data.mask-tool", "no-such-tool {input} {mask}")


class Store:
    """As much of an `ArrayStore` as the scores need: some volumes."""

    def __init__(self, path, volumes):
        self.path, self.volumes, self.reads = path, volumes[..., None], 0
        self.table = pd.DataFrame({"scan_id": [f"{i:02d}" for i in range(len(volumes))]})

    def __len__(self):
        return len(self.volumes)

    def read(self, rows):
        self.reads += 1
        return self.volumes[rows]


def test_slices_are_written_as_a_volume_where_they_were(tmp_path, monkeypatch):
    root, images = bids(tmp_path / "data", "scanner")
    monkeypatch.chdir(tmp_path)
    words = ["oasis2d", "--data.source", "bids", "--data.suffix", "FLAIR", "--data.root", "data"]
    words += ["--data.workers", "1", "--data.size", "64", "--data.spacing", "4"]
    words += ["--data.slice-spacing", "4"]
    prepare.main([*words, "--nifti", "out"], "dataset.py prepare")
    for path in images:
        image, affine = data.load_scan(path)
        name = path.name.split("_")[0]
        file = tmp_path / "out" / name / "anat" / f"{name}_desc-prepared_FLAIR.nii.gz"
        found, place = data.load_scan(file)
        back = data.to_original_grid(found, place, image.shape, affine)
        inside = back > 0
        assert inside.sum() > 0.8 * (image > 0).sum()
        assert np.corrcoef(back[inside], image[inside])[0, 1] > 0.97
    with pytest.raises(UserError, match="--nifti: found data, which holds the data set"):
        prepare.main([*words, "--nifti", "data"], "dataset.py prepare")
    with pytest.raises(UserError, match="--nifti: found a study of streamlines; expected one of"):
        prepare.main(["streamlines", "--nifti", "lines"], "dataset.py prepare")
    assert data.read_bids(tmp_path / "out", "FLAIR").simulated
    assert bids_errors(tmp_path / "out") == []


def test_outliers_are_found_and_added_scans_are_scored(tmp_path):
    study = studies.parse([*WORDS, "--data.root", str(tmp_path)], "dataset.py", "")
    scans = data.open_cohort("simulated", n_subjects=1)
    rng = np.random.default_rng(0)
    volumes = template(study).t1 + 0.1 * rng.random((7, 40, 48, 40))
    volumes[2] = np.roll(volumes[2], 4, axis=1)
    volumes[4] = volumes[4, :, ::-1]
    first = Store(tmp_path / "key", volumes[:6])
    found = registration_quality(study, scans, first)
    assert found["csv"] == tmp_path / "key-registration" / "registration.csv"
    assert sorted(found["outliers"]) == ["02", "04"]
    assert found["table"]["z"][int(found["outliers"][0])] == found["table"]["z"].min()
    assert found["table"]["scan_id"].tolist() == list(first.table["scan_id"])
    assert found["table"]["outlier"].tolist() == [False, False, True, False, True, False]
    assert 0.3 < found["sharpness"] < 1
    again = Store(tmp_path / "key", volumes[:6])
    kept = registration_quality(study, scans, again)
    assert again.reads == 0
    pd.testing.assert_frame_equal(kept.pop("table"), found.pop("table"))
    assert kept == found
    # A scan that could not be read the first time.
    more = registration_quality(study, scans, Store(tmp_path / "key", volumes))
    assert len(more["table"]) == 7


def test_the_first_outliers_are_named():
    table = pd.DataFrame({"fit": [0.9, 0.85, 0.95]})
    found = {"table": table, "sharpness": 0.5, "csv": "a.csv", "picture": "a.png"}
    text = describe_registration(found | {"outliers": list("abcdefg")})
    assert "registration of 3 scans: median fit 0.900 (lowest 0.850), sharpness" in text
    assert "\noutliers: a, b, c, d, e and 2 more\n" in text
    assert "outliers: a, b\n" in describe_registration(found | {"outliers": ["a", "b"]})


def test_the_floor_of_the_fit_is_an_option():
    words = [*WORDS, "--data.root", "x", "--data.registration", "affine"]
    study = studies.parse([*words, "--data.min-fit", "0.6"], "dataset.py", "")
    step = of(study).steps(study)[0]
    assert (step.min_fit, step.min_fit_stripped) == (0.6, 0.6)
    study = studies.parse(words, "dataset.py", "")
    assert of(study).steps(study)[0] == data.RegisterToTemplate(shape=study.data.shape)
    with pytest.raises(UserError, match=r"--data\.min-fit: found 0\.6; expected it with"):
        studies.parse([*words[:-1], "mni", "--data.min-fit", "0.6"], "dataset.py", "")
