"""Scans as slices of the three planes, and the way back to their own grid."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from brainvq.data import PreparedScan, save_nifti, steps_to_config
from brainvq.data.steps import (
    Canonical,
    ClipIntensity,
    CropOrPad,
    Resample,
    ScaleIntensity,
    SelectSlices,
)
from brainvq.errors import UserError

ORIENTATIONS = ["".join(code) for code in itertools.product("LR", "PA", "IS")]
ORIENTATIONS = ["".join(p) for code in ORIENTATIONS for p in itertools.permutations(code)]
STUDY = steps_to_config(
    [
        Canonical("LPS"),
        ScaleIntensity("max"),
        SelectSlices(count=5),
        CropOrPad((16, 16, None)),
    ]
)


def write(path, axcodes="RAS", shape=(9, 11, 7), oblique=False):
    """A scan of random values whose brightest voxel lies right, anterior and superior."""
    rng = np.random.default_rng(3)
    image = rng.uniform(10, 90, shape).astype("float32")
    image[-1, -1, -1] = 100
    affine = np.diag([1.5, 1.0, 2.0, 1.0])
    affine[:3, 3] = [-4, 7, 9]
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
    )
    affine = affine @ nib.orientations.inv_ornt_aff(change, shape)
    if oblique:
        turn = nib.eulerangles.euler2mat(0.2, -0.15, 0.1)
        affine = nib.affines.from_matvec(turn) @ affine
    moved = nib.orientations.apply_orientation(image, change)
    nib.save(nib.Nifti1Image(moved, affine), path)
    return moved, affine


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_native_slices_go_back_exactly_in_every_plane(tmp_path, axcodes, oblique):
    image, affine = write(tmp_path / "a.nii", axcodes, oblique=oblique)
    for plane, size in (("axial", (11, 9)), ("coronal", (7, 9)), ("sagittal", (7, 11))):
        scan = PreparedScan.read(str(tmp_path / "a.nii"), STUDY, plane=plane, matrix="native")
        assert scan.size == size
        assert scan.slices.shape == (image.size // np.prod(size), *size, 1)
        back = scan.to_volume(scan.slices)
        np.testing.assert_array_equal(back, image / np.float32(100))
        np.testing.assert_allclose(scan.to_intensities(back), image, rtol=1e-6)
        save_nifti(tmp_path / "b.nii.gz", back, scan.original_affine, like=tmp_path / "a.nii")
        written = nib.load(tmp_path / "b.nii.gz")
        np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "a.nii").affine)
        assert written.shape == image.shape
        assert nib.aff2axcodes(written.affine) == tuple(axcodes)


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_pictures_are_radiological(tmp_path, axcodes):
    write(tmp_path / "a.nii", axcodes)
    # Where the right, anterior, superior corner of the head is: (slice, row, column).
    corners = {"axial": (-1, 0, 0), "coronal": (0, 0, 0), "sagittal": (0, 0, 0)}
    for plane, corner in corners.items():
        scan = PreparedScan.read(str(tmp_path / "a.nii"), STUDY, plane=plane, matrix="native")
        assert scan.slices[..., 0][corner] == 1.0


def test_the_matrix_of_the_study_another_number_and_the_selected_slices(tmp_path):
    image, _ = write(tmp_path / "a.nii")
    path = str(tmp_path / "a.nii")
    study = PreparedScan.read(path, STUDY)
    assert study.slices.shape == (7, 16, 16, 1)
    np.testing.assert_array_equal(study.to_volume(study.slices), image / np.float32(100))
    assert PreparedScan.read(path, STUDY, selected=True).slices.shape == (5, 16, 16, 1)
    finer = PreparedScan.read(path, STUDY, matrix=24, spacing=0.75, selected=True)
    assert finer.slices.shape == (5, 24, 24, 1)
    assert np.isclose(np.linalg.norm(finer.affine[:3, 0]), 0.75)
    with pytest.raises(UserError, match="plane: found 'oblique'"):
        PreparedScan.read(path, STUDY, plane="oblique")


def test_a_study_with_its_own_pixels_and_spacing(tmp_path):
    write(tmp_path / "a.nii", shape=(20, 24, 20))
    steps = [
        Canonical("LPS"),
        ClipIntensity(upper=50.0),
        ScaleIntensity("minmax"),
        SelectSlices(spacing=4.0, margin=(2.0, 2.0)),
        Resample((2.0, 2.0, None)),
        CropOrPad((16, 16, None)),
    ]
    scan = PreparedScan.read(str(tmp_path / "a.nii"), steps_to_config(steps))
    assert scan.slices.shape == (10, 16, 16, 1)
    assert 50 < scan.high < 70  # the median of the foreground, where ClipIntensity cut
    assert scan.to_volume(scan.slices).shape == (20, 24, 20)


def test_masks_come_along(tmp_path):
    image, affine = write(tmp_path / "a.nii", "LSA")
    mask = np.zeros(image.shape, "uint8")
    mask[2, 3, 4] = 1
    scan = PreparedScan.read(str(tmp_path / "a.nii"), STUDY, plane="coronal")
    slices = scan.from_volume(mask)
    assert slices.shape == scan.slices.shape[:3]
    assert slices.sum() == 1
    np.testing.assert_allclose(scan.slices[..., 0][slices > 0] * 100, image[2, 3, 4], rtol=1e-5)
    with pytest.raises(UserError, match="volume: found shape"):
        scan.from_volume(np.zeros((2, 2, 2)))


def test_place_holds_the_way_back(tmp_path):
    write(tmp_path / "a.nii", "PIR", oblique=True)
    scan = PreparedScan.read(str(tmp_path / "a.nii"), STUDY, plane="sagittal", matrix="native")
    again = PreparedScan.from_place(scan.place())
    np.testing.assert_array_equal(again.to_volume(scan.slices), scan.to_volume(scan.slices))
    assert (again.size, again.plane, again.high) == (scan.size, "sagittal", scan.high)
    with pytest.raises(UserError, match="has no 'affine'"):
        PreparedScan.from_place({})
