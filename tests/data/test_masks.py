"""Brain masks beside scans: found by pattern, applied when a scan is read, in a store's key."""

import json

import numpy as np
import pytest

from brainvq.data import Cohort, load_scan, prepare, read_bids, scan_files, with_masks
from brainvq.data.scans import ScanError
from brainvq.data.simulation import simulated_cohort
from brainvq.data.steps import ScaleIntensity
from brainvq.errors import UserError


@pytest.fixture
def root(make, tmp_path):
    return make.bids(tmp_path / "bids [1]", subjects=3)


def image_of(make, cohort, place=0):
    return load_scan(cohort.table["paths"][place][:1])


def put_masks(make, cohort, pattern, count=None):
    """A mask of the left half of every scan."""
    for row in cohort.table.itertuples():
        image, affine = load_scan(row.paths)
        mask = np.zeros(image.shape, np.uint8)
        mask[: image.shape[0] // 2] = 1
        folder = row.paths[0].rpartition("/")[0]
        make.write_nifti(pattern.format(folder=folder, **row._asdict()), mask, affine)
        count = None if count is None else count - 1
        if count == 0:
            break


def test_a_masked_scan_is_read_without_the_rest(make, root):
    cohort = read_bids(root)
    put_masks(make, cohort, "{folder}/{scan_id}_mask.nii.gz")
    masked = with_masks(cohort, "{scan}_mask.nii.gz")
    assert "brain masks {scan}_mask.nii.gz" in masked.note
    for before, after in zip(cohort.table["paths"], masked.table["paths"], strict=True):
        whole, affine = load_scan(before)
        image, same = load_scan(after)
        half = whole.shape[0] // 2
        np.testing.assert_array_equal(image[:half], whole[:half])
        assert (image[half:] == 0).all()
        np.testing.assert_array_equal(same, affine)
        assert [file.name for file in scan_files(after)][1].endswith("_mask.nii.gz")


def test_a_mask_on_another_grid(make, tmp_path):
    image = make.blob((8, 10, 6)) + 1
    scan = make.write_nifti(tmp_path / "a.nii.gz", image, np.diag([2.0, 2, 2, 1]))
    mask = np.zeros((16, 20, 12), np.uint8)
    mask[8:] = 1
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[:3, 3] = [14.5, -0.5, -0.5]  # voxels 8 and up are x of 6.5 mm and less
    file = make.write_nifti(tmp_path / "m.nii.gz", mask, flipped)
    found, _ = load_scan((str(scan), f"mask={file}"))
    np.testing.assert_array_equal(found[:4], image[:4])
    assert (found[4:] == 0).all()


def test_masks_of_bids_derivatives(make, root):
    cohort = read_bids(root)
    derived = f"{root}/derivatives/tool/sub-{{subject}}/anat/sub-{{subject}}"
    put_masks(make, cohort, derived + "_desc-brain_mask.nii.gz")
    put_masks(make, cohort, derived + "_space-MNI_desc-brain_mask.nii.gz")
    masked = with_masks(cohort, "bids")
    assert all(
        paths[1].endswith(f"sub-{subject}_desc-brain_mask.nii.gz")
        for subject, paths in zip(masked.table["subject"], masked.table["paths"], strict=True)
    )
    by_hand = with_masks(
        cohort, "{root}/derivatives/*/sub-{subject}/anat/sub-{subject}_desc-brain_mask.nii.gz"
    )
    assert by_hand.table["paths"].tolist() == masked.table["paths"].tolist()


def test_masks_of_sessions(make, tmp_path):
    root = make.bids(tmp_path / "data", subjects=1, sessions=("a", "b"))
    cohort = read_bids(root)
    pattern = f"{root}/derivatives/tool/sub-{{subject}}/ses-{{session}}/anat/"
    put_masks(make, cohort, pattern + "sub-{subject}_ses-{session}_desc-brain_mask.nii.gz")
    found = with_masks(cohort, "bids").table
    for session, paths in zip(found["session"], found["paths"], strict=True):
        assert f"/ses-{session}/" in paths[1]


def test_a_missing_mask_leaves_its_scan_out(make, root, tmp_path, capsys):
    cohort = read_bids(root)
    put_masks(make, cohort, "{folder}/{scan_id}_mask.nii.gz", count=2)
    masked = with_masks(cohort, "{scan}_mask.nii.gz")
    assert "missing for 1 scans" in masked.note
    store = prepare(
        masked, [ScaleIntensity()], tmp_path / "cache", layout="volumes", workers=1, progress=False
    )
    assert len(store) == 2
    message = store.failures["message"][0]
    assert "sub-03_T1w_mask.nii.gz: no such file" in message
    assert (store.read([0])[0, 4:, ..., 0] == 0).all()
    unmasked = prepare(
        cohort, [ScaleIntensity()], tmp_path / "cache", layout="volumes", workers=1, progress=False
    )
    assert unmasked.key != store.key
    assert "1 of 3 scans left out" in capsys.readouterr().out


def test_masks_survive_a_table(make, root, tmp_path):
    cohort = read_bids(root)
    put_masks(make, cohort, "{folder}/{scan_id}_mask.nii.gz")
    masked = with_masks(cohort, "{scan}_mask.nii.gz")
    masked.to_csv(tmp_path / "cohort.csv")
    again = Cohort.from_csv(tmp_path / "cohort.csv")
    assert again.table["paths"].tolist() == masked.table["paths"].tolist()
    paths = json.dumps(["a.nii.gz", "mask=masks/a.nii.gz"])
    table = f'scan_id,subject,paths\na,a,"{paths.replace(chr(34), chr(34) * 2)}"\n'
    (tmp_path / "hand.csv").write_text(table)
    (found,) = Cohort.from_csv(tmp_path / "hand.csv").table["paths"]
    assert found == (f"{tmp_path}/a.nii.gz", f"mask={tmp_path}/masks/a.nii.gz")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{brain}.nii.gz", "field 'brain' is not known; expected a path with {scan}"),
        ("{}.nii.gz", "field '' is not known"),
        ("", "field '' is not known"),
        ("{scan", "expected a path with fields"),
        ("{scan}_brain.nii.gz", "none for any of 3 scans, e.g. no .*sub-01_T1w_brain.nii.gz"),
        ("*_mask.nii.gz", "matches 2 files"),
    ],
)
def test_wrong_patterns(make, root, pattern, message):
    cohort = read_bids(root)
    put_masks(make, cohort, "{folder}/{scan_id}_mask.nii.gz")
    put_masks(make, cohort, "{folder}/other_mask.nii.gz")
    with pytest.raises(UserError, match=message) as caught:
        with_masks(cohort, pattern)
    assert "\n" not in str(caught.value)


def test_simulated_scans_need_no_masks():
    with pytest.raises(UserError, match="is simulated and needs none"):
        with_masks(simulated_cohort(1), "{scan}_mask.nii.gz")


def test_masks_that_are_none(make, tmp_path):
    scan = make.write_nifti(tmp_path / "a.nii.gz")
    empty = make.write_nifti(tmp_path / "empty.nii.gz", np.zeros((8, 10, 6), np.uint8))
    with pytest.raises(ScanError, match="empty.nii.gz: every voxel is 0"):
        load_scan((str(scan), f"mask={empty}"))
    mask = np.zeros((8, 10, 6), np.uint8)
    mask[2:4] = 1
    far = np.diag([2.0, 2, 2, 1])
    far[:3, 3] = 500
    far = make.write_nifti(tmp_path / "far.nii.gz", mask, far)
    with pytest.raises(ScanError, match="far.nii.gz: the mask has no voxel in common"):
        load_scan((str(scan), f"mask={far}"))
    with pytest.raises(ScanError, match="scan without a path"):
        load_scan((f"mask={far}",))
