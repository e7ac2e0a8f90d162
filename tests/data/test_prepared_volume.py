"""Scans as whole volumes, and the way back to their own grid."""

import json

import nibabel as nib
import numpy as np
import pytest

from brainvq.data import (
    PreparedVolume,
    above_background,
    apply_steps,
    foreground_mask,
    load_scan,
    save_nifti,
    steps_from_config,
    steps_to_config,
    to_original_grid,
)
from brainvq.data.steps import (
    Canonical,
    ClipIntensity,
    CropOrPad,
    Resample,
    ScaleIntensity,
    SelectSlices,
    ZScore,
)
from brainvq.errors import UserError
from brainvq.files import write_json
from tests.data.test_prepared import ORIENTATIONS


def steps(scale=None, shape=(16, 18, 14), spacing=1.0):
    return steps_to_config(
        [
            Canonical("LPS"),
            Resample(spacing),
            scale or ZScore(),
            CropOrPad(shape, center="foreground"),
        ]
    )


def write(path, axcodes="RAS", shape=(12, 13, 9), spacing=(1.0, 1.0, 1.0), oblique=False):
    """A head of random values between air of 0 and more; returns image and affine as written."""
    rng = np.random.default_rng(5)
    image = np.zeros(shape, "float32")
    head = image[2:-2, 3:-2, 1:-2]
    head[:] = rng.uniform(40, 90, head.shape)
    affine = np.diag([*spacing, 1.0])
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
def test_voxels_of_a_millimetre_go_back_exactly(tmp_path, axcodes, oblique):
    image, _ = write(tmp_path / "a.nii", axcodes, oblique=oblique)
    scan = PreparedVolume.read(str(tmp_path / "a.nii"), steps())
    assert scan.volume.shape == (16, 18, 14, 1)
    assert (scan.size, scan.shape) == ((16, 18, 14), image.shape)
    # Seen as the training saw it: axes to the left, to the back, to the top.
    prepared, affine = apply_steps(steps_from_config(steps()), *load_scan(str(tmp_path / "a.nii")))
    np.testing.assert_array_equal(scan.volume[..., 0], prepared)
    np.testing.assert_array_equal(scan.affine, affine)
    assert nib.aff2axcodes(scan.affine) == ("L", "P", "S")
    inside = image[foreground_mask(image)].astype("float64")
    mean, deviation = np.float32(inside.mean()), np.float32(inside.std())
    back = scan.to_scan(scan.volume)
    np.testing.assert_array_equal(back, (image - mean) / deviation)
    np.testing.assert_allclose(scan.to_intensities(back), image, atol=1e-4)
    save_nifti(tmp_path / "b.nii.gz", back, scan.original_affine, like=tmp_path / "a.nii")
    written, original = nib.load(tmp_path / "b.nii.gz"), nib.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(written.affine, original.affine)
    assert written.shape == original.shape
    # Every voxel of another array comes along: its numbers, put back, are where they were.
    numbers = np.arange(1, image.size + 1, dtype="int32").reshape(image.shape)
    grids = (scan.original_affine, scan.size, scan.affine)
    moved = to_original_grid(numbers, *grids, order=0)
    assert moved.dtype == np.int32
    np.testing.assert_array_equal(scan.to_scan(moved, order=0), numbers)


def test_the_scale_of_zscore_is_its_mean_and_deviation():
    image = np.random.default_rng(0).normal(50, 7, (9, 9, 9)).astype("float32")
    low, high = ZScore("all").limits(image)
    np.testing.assert_allclose([low, high - low], [image.mean(), image.std()], rtol=1e-5)
    scaled, _ = ZScore("all")(np.array([[[low, high]]]), np.eye(4))
    assert scaled.shape == (1, 1, 2)


def test_beyond_the_volume_there_is_background(tmp_path):
    image, _ = write(tmp_path / "a.nii")
    scan = PreparedVolume.read(str(tmp_path / "a.nii"), steps(shape=(4, 4, 4)))
    back = scan.to_scan(np.full(scan.size, 5.0, "float32"))
    assert np.count_nonzero(back == 5) == 64
    assert scan.lowest < 0
    assert set(np.unique(back)) == {np.float32(scan.lowest), np.float32(5)}
    assert set(np.unique(scan.to_scan(np.ones(scan.size), fill=-9))) == {-9, 1}
    assert set(np.unique(scan.to_scan(np.ones(scan.size, "int16"), order=0))) == {0, 1}


@pytest.mark.parametrize("oblique", [False, True])
def test_other_voxels_are_interpolated(tmp_path, oblique):
    image, affine = write(tmp_path / "a.nii", "PIR", (20, 24, 22), (0.8, 1.3, 1.1), oblique=oblique)
    scan = PreparedVolume.read(str(tmp_path / "a.nii"), steps(shape=(32, 32, 32)))
    np.testing.assert_allclose(np.linalg.norm(scan.affine[:3, :3], axis=0), 1)
    # A ramp along the patient's axes is linear: interpolation gives its exact value anywhere.
    index = np.stack(np.meshgrid(*map(np.arange, scan.size), indexing="ij"), -1)
    ramp = nib.affines.apply_affine(scan.affine, index) @ [1.0, -2.0, 0.5]
    own = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), -1)
    expected = nib.affines.apply_affine(affine, own) @ [1.0, -2.0, 0.5]
    np.testing.assert_allclose(scan.to_scan(ramp.astype("float32")), expected, atol=1e-3)


def test_intensities_of_every_scale(tmp_path):
    image, _ = write(tmp_path / "a.nii")
    for scale in (ScaleIntensity("max"), ScaleIntensity("minmax"), ZScore("all")):
        scan = PreparedVolume.read(str(tmp_path / "a.nii"), steps(scale))
        back = scan.to_intensities(scan.to_scan(scan.volume))
        np.testing.assert_allclose(back, image, atol=1e-4)
    # Two in a row, and a clip before: the scan's own units all the same.
    config = steps_to_config(
        [ClipIntensity(upper=50.0), ScaleIntensity("max"), ZScore(), CropOrPad((14, 14, 14))]
    )
    scan = PreparedVolume.read(str(tmp_path / "a.nii"), config)
    back = scan.to_intensities(scan.to_scan(scan.volume))
    np.testing.assert_allclose(back, np.minimum(image, back.max()), atol=1e-4)
    assert 40 < back.max() < 90


def test_place_holds_the_way_back(tmp_path):
    write(tmp_path / "a.nii", "PIR", spacing=(0.9, 1.2, 1.0), oblique=True)
    scan = PreparedVolume.read(str(tmp_path / "a.nii"), steps())
    write_json(tmp_path / "place.json", scan.place())
    again = PreparedVolume.from_place(json.loads((tmp_path / "place.json").read_text()))
    assert again.volume is None
    for volume in (scan.volume, scan.clip(scan.volume * 3)):
        np.testing.assert_array_equal(again.to_scan(volume), scan.to_scan(volume))
    np.testing.assert_array_equal(
        again.to_intensities(again.clip(scan.volume * 3)),
        scan.to_intensities(scan.clip(scan.volume * 3)),
    )
    assert again.clip(np.array([-100.0, 100.0])).tolist() == [scan.lowest, scan.highest]
    with pytest.raises(UserError, match="has no 'lowest'"):
        PreparedVolume.from_place({k: v for k, v in scan.place().items() if k != "lowest"})


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SAL"])
def test_code_map_gives_each_voxel_the_code_of_its_cell(tmp_path, axcodes):
    image, affine = write(tmp_path / "a.nii", axcodes)
    scan = PreparedVolume.read(str(tmp_path / "a.nii"), steps(shape=(16, 20, 12)))
    codes = np.arange(4 * 5 * 3).reshape(4, 5, 3)
    labels = scan.code_map(codes, (4, 4, 4))
    assert labels.dtype == np.int16
    np.testing.assert_array_equal(labels > 0, image > 0)
    for voxel in zip(*np.nonzero(labels), strict=True):
        prepared = np.linalg.inv(scan.affine) @ affine @ [*voxel, 1]
        cell = tuple(np.rint(prepared[:3]).astype(int) // 4)
        assert labels[voxel] == codes[cell] + 1


def test_code_map_of_padded_images_and_many_codes(tmp_path):
    write(tmp_path / "a.nii")
    scan = PreparedVolume.read(str(tmp_path / "a.nii"), steps(shape=(17, 18, 14)))
    # 17 becomes 20 for a stride of 4: one voxel is added before, two after.
    codes = np.broadcast_to(np.arange(40_000, 40_005)[:, None, None], (5, 5, 4))
    grids = (scan.original_affine, scan.size, scan.affine)
    labels = to_original_grid(scan.code_map(codes, (4, 4, 4)), *grids, order=0)
    assert labels.dtype == np.int32
    values_of_planes = [np.unique(plane[plane > 0]) for plane in labels]
    expected = (np.arange(17) + 1) // 4 + 40_001
    inside = [i for i, values in enumerate(values_of_planes) if len(values)]
    assert len(inside) > 6
    for i in inside:
        assert values_of_planes[i].tolist() == [expected[i]]


def test_above_background_shifts_and_never_goes_below_zero():
    volume = np.full((6, 7, 8), -1.5, "float32")
    volume[0, 0, 0] = 9  # a spot at the border is no background
    volume[2:4, 2:4, 2:4] = 0.5
    volume[4, 4, 4] = -3
    shown = above_background(volume)
    assert shown.dtype == np.float32
    assert set(np.unique(shown)) == {0, 2, 10.5}
    assert shown[4, 4, 4] == 0


def test_mistakes_are_named(tmp_path):
    write(tmp_path / "a.nii")
    path = str(tmp_path / "a.nii")
    scan = PreparedVolume.read(path, steps())
    with pytest.raises(ValueError, match="must have the size"):
        scan.to_scan(np.zeros((2, 2, 2)))
    with pytest.raises(UserError, match="found SelectSlices"):
        PreparedVolume.read(path, [*steps(), *steps_to_config([SelectSlices()])])
    with pytest.raises(UserError, match="no such file"):
        PreparedVolume.read("absent.nii", steps())
    flat = np.zeros((8, 8, 8), "float32")
    flat[3:5, 3:5, 3:5] = 7  # a foreground without contrast
    nib.save(nib.Nifti1Image(flat, np.eye(4)), tmp_path / "flat.nii")
    with pytest.raises(UserError, match=r"flat\.nii: all intensities are 7"):
        PreparedVolume.read(str(tmp_path / "flat.nii"), steps())
