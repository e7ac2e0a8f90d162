"""Lesion masks go with the scans of their person and session; a mask may be empty."""

import logging
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from brainvq.app.lesion_masks import mask_on, masks_by_scan
from brainvq.errors import UserError

LOG = logging.getLogger("brainvq")


def pairs(scans, masks):
    """Which mask goes with which scan, by their names."""
    options = SimpleNamespace(scans=tuple(scans), masks=tuple(masks))
    return {scan.name: mask.name for scan, mask in masks_by_scan(options, LOG).items()}


def test_a_mask_is_of_its_session_alone():
    scans = [f"sub-01_ses-{session}_FLAIR.nii.gz" for session in "123"]
    masks = ["sub-01_ses-3_mask.nii.gz", "sub-01_ses-1_mask.nii.gz"]
    assert pairs(scans, masks) == {scans[0]: masks[1], scans[2]: masks[0]}


def test_sessions_of_folders_count():
    scans = [f"sub-01/ses-{session}/anat/FLAIR.nii" for session in "12"]
    options = SimpleNamespace(scans=tuple(scans), masks=("m/sub-01/ses-2/mask.nii", "m/x.nii"))
    ((scan, mask),) = masks_by_scan(options, LOG).items()
    assert (str(scan), str(mask)) == (scans[1], "m/sub-01/ses-2/mask.nii")


def test_a_mask_without_session_is_of_the_only_one():
    scans = ["sub-01_ses-1_FLAIR.nii", "sub-02_ses-1_FLAIR.nii", "sub-02_ses-2_FLAIR.nii"]
    masks = ["sub-01_mask.nii", "sub-02_mask.nii"]
    assert pairs(scans, masks) == {scans[0]: masks[0]}


def test_runs_go_together():
    scans = [f"sub-01_run-{run}_FLAIR.nii" for run in "12"]
    masks = [f"sub-01_run-{run}_mask.nii" for run in "21"]
    assert pairs(scans, masks) == dict(zip(scans, masks[::-1], strict=True))


def test_one_mask_of_another_session_is_refused():
    with pytest.raises(UserError, match="is of ses-1; expected a mask of ses-2"):
        pairs(["sub-01_ses-2_FLAIR.nii"], ["sub-01_ses-1_mask.nii"])
    assert pairs(["patient.nii"], ["sub-01_ses-1_mask.nii"])


def test_two_masks_of_a_session_are_refused():
    with pytest.raises(UserError, match="expected one mask for sub-01 ses-2"):
        pairs(
            ["sub-01_ses-2_FLAIR.nii", "sub-02_FLAIR.nii"],
            ["sub-01_ses-2_rater-a.nii", "sub-01_ses-2_rater-b.nii"],
        )


@pytest.mark.parametrize("value", [0, 1])
def test_an_empty_mask_is_a_brain_without_lesions(tmp_path, value):
    mask = np.zeros((6, 7, 8), "uint8")
    mask[2, 3, 4] = value
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "mask.nii")
    scan = SimpleNamespace(shape=mask.shape, original_affine=np.eye(4))
    np.testing.assert_array_equal(mask_on(scan, tmp_path / "mask.nii"), mask > 0)


def test_a_damaged_mask_is_named(tmp_path):
    (tmp_path / "mask.nii").write_bytes(b"x" * 400)
    with pytest.raises(UserError, match=r"mask\.nii"):
        mask_on(SimpleNamespace(shape=(2, 2, 2)), tmp_path / "mask.nii")
