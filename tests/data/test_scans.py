import gzip
import itertools
import shutil

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
)
from PIL import Image

from brainvq.data import ScanError, load_scan, save_nifti, scan_files, to_original_grid
from brainvq.data.scans import oriented_affine
from brainvq.errors import UserError

ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(["RL", "AP", "SI"])
    for letters in itertools.product(*order)
]


def oblique(spacing=(1.0, 1.2, 1.5), angle=0.3, shift=(-12.0, 5.0, 7.5)):
    rotation = np.eye(3)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilt = np.eye(3)
    tilt[1:, 1:] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    affine = np.eye(4)
    affine[:3, :3] = rotation @ tilt @ np.diag(spacing)
    affine[:3, 3] = shift
    return affine


def test_a_plain_scan(make, tmp_path):
    image, affine = make.blob(), oblique()
    path = make.write_nifti(tmp_path / "a.nii.gz", image, affine)
    loaded, loaded_affine = load_scan(path)
    assert loaded.dtype == np.float32
    assert loaded_affine.dtype == np.float64
    np.testing.assert_array_equal(loaded, image)
    np.testing.assert_allclose(loaded_affine, affine, atol=1e-5)
    for paths in (str(path), [str(path)], (path,)):
        np.testing.assert_array_equal(load_scan(paths)[0], image)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_every_real_dtype_and_the_scaling_of_the_header(make, tmp_path, dtype):
    image = np.rint(make.blob()).astype(dtype)
    nifti = nib.Nifti1Image(image, np.eye(4))
    nib.save(nifti, tmp_path / "a.nii")
    np.testing.assert_array_equal(load_scan(tmp_path / "a.nii")[0], image)
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([2.0, -3.0], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(raw)
    np.testing.assert_allclose(load_scan(tmp_path / "a.nii")[0], 2.0 * image - 3, rtol=1e-6)


@pytest.mark.parametrize("ending", ["Nii", "nii.Gz", "Nii.gz", "Mgz", "NII.GZ"])
def test_endings_in_any_case(tmp_path, ending):
    image, small = np.arange(24, dtype="float32").reshape(2, 3, 4), f"a.{ending.lower()}"
    kind = nib.MGHImage if "mgz" in small else nib.Nifti1Image
    nib.save(kind(image, np.eye(4)), tmp_path / small)
    (tmp_path / small).rename(tmp_path / f"a.{ending}")
    loaded, affine = load_scan((str(tmp_path / f"a.{ending}"),))
    np.testing.assert_array_equal(loaded, image)
    np.testing.assert_array_equal(affine, np.eye(4))


def test_trailing_axes_of_one_are_squeezed(make, tmp_path):
    path = make.write_nifti(tmp_path / "a.nii", make.blob()[..., None, None])
    assert load_scan(path)[0].shape == make.blob().shape


def test_mgh(make, tmp_path):
    nib.save(nib.MGHImage(make.blob(), oblique()), tmp_path / "a.mgz")
    image, affine = load_scan(tmp_path / "a.mgz")
    np.testing.assert_array_equal(image, make.blob())
    np.testing.assert_allclose(affine, oblique(), atol=1e-4)


# --- headers that count in other units, or contradict themselves ---


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("micron", 1e3), ("mm", 1)])
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_the_unit_of_the_header_counts(make, tmp_path, caplog, unit, factor, form):
    affine = oblique()
    header = nib.Nifti1Header()
    header.set_xyzt_units(unit)
    nifti = nib.Nifti1Image(make.blob(), None, header)
    getattr(nifti, f"set_{form}")(np.diag([factor] * 3 + [1]) @ affine, code=1)
    nib.save(nifti, tmp_path / "a.nii.gz")
    image, loaded = load_scan(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(loaded, affine, atol=1e-3)
    assert ("counts in" in caplog.text) == (unit != "mm")
    # What is written beside it counts in mm.
    written = save_nifti(tmp_path / "b.nii", image, loaded, like=tmp_path / "a.nii.gz")
    assert nib.load(written).header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(load_scan(written)[1], affine, atol=1e-3)


def test_a_unit_that_makes_no_head_is_refused(make, tmp_path):
    nifti = nib.Nifti1Image(make.blob(), oblique())
    nifti.header.set_xyzt_units("meter")
    nib.save(nifti, tmp_path / "a.nii")
    with pytest.raises(ScanError, match="field of view of .* mm by its header, which counts in m;"):
        load_scan(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("qform", "word"),
    [
        (np.diag([-1.0, 1, 1, 1]), "disagree on left and right"),
        (np.diag([3.0, 3, 3, 1]), "disagree on the voxel size"),
        (np.diag([-1.0, -1, 1, 1]), "disagree on the orientation"),
        (np.diag([1.0, 1, 1, 1]), ""),
    ],
)
def test_forms_that_disagree_are_told(make, tmp_path, caplog, qform, word):
    nifti = nib.Nifti1Image(make.blob(), None)
    nifti.set_qform(qform, 1)
    nifti.set_sform(np.eye(4), 1)
    nib.save(nifti, tmp_path / "a.nii")
    np.testing.assert_allclose(load_scan(tmp_path / "a.nii")[1], np.eye(4))
    assert word in caplog.text
    assert bool(word) == bool(caplog.text)


def test_the_qform_serves_where_the_sform_is_all_zero(make, tmp_path, caplog):
    nifti = nib.Nifti1Image(make.blob(), None)
    nifti.set_qform(np.diag([2.0, 2, 2, 1]), 1)
    nifti.set_sform(np.eye(4), 1)
    for row in ("srow_x", "srow_y", "srow_z"):
        nifti.header[row] = 0
    nib.save(nib.Nifti1Image(make.blob(), None, nifti.header), tmp_path / "a.nii")
    np.testing.assert_allclose(load_scan(tmp_path / "a.nii")[1], np.diag([2.0, 2, 2, 1]))
    assert "the qform is used" in caplog.text


# --- NaN ---


def brain_in(background):
    place = np.stack(np.indices((24, 26, 22)), -1) - [11.5, 12.5, 10.5]
    brain = np.linalg.norm(place, axis=-1) < 9
    rng = np.random.default_rng(0)
    return np.where(brain, 100 + 10 * rng.random(brain.shape), background), brain


@pytest.mark.parametrize("corner", [False, True])
def test_nan_outside_the_brain_is_black(make, tmp_path, caplog, corner):
    image, brain = brain_in(0 if corner else np.nan)
    image[2:4, 2, 2] = np.nan
    path = make.write_nifti(tmp_path / "a.nii.gz", image.astype(np.float32))
    loaded, _ = load_scan(path)
    np.testing.assert_array_equal(loaded, np.where(brain, image, 0).astype(np.float32))
    assert f"{2 if corner else (~brain).sum()} of {image.size} voxels, outside" in caplog.text


@pytest.mark.parametrize("background", [0, np.nan])
@pytest.mark.parametrize(
    "hole",
    [
        np.s_[12, 12, 12],
        np.s_[9:14, 10:12, 9:11],
        np.s_[:, :, 10],
        np.s_[11:15, 3:23],
        np.s_[:, 12],
    ],
)
def test_nan_inside_the_brain_is_refused(make, tmp_path, background, hole):
    image, _ = brain_in(background)
    image[hole] = np.nan
    path = make.write_nifti(tmp_path / "a.nii.gz", image.astype(np.float32))
    with pytest.raises(ScanError, match="voxels are NaN or infinite"):
        load_scan(path)


# --- what is refused ---


def broken(make, folder, kind):
    """Writes a scan that must be refused, and returns its path."""
    image, path = make.blob(), folder / "bad.nii.gz"
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
        return path
    if kind == "zero bytes":
        path.touch()
    elif kind == "text":
        (folder / "bad.nii").write_text("not an image at all")
        return folder / "bad.nii"
    elif kind == "truncated gzip":
        make.write_nifti(path, image)
        path.write_bytes(path.read_bytes()[:-400])
    elif kind == "truncated header":
        make.write_nifti(path, image)
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:200]))
    elif kind == "truncated":
        make.write_nifti(folder / "bad.nii", image)
        (folder / "bad.nii").write_bytes((folder / "bad.nii").read_bytes()[:-100])
        return folder / "bad.nii"
    elif kind == "damaged gzip":
        make.write_nifti(path, np.random.default_rng(0).random((16, 16, 16)))
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
        path.write_bytes(content)
    elif kind in ("nan", "inf"):
        image[2, 2, 2] = float(kind)
        make.write_nifti(path, image)
    elif kind == "beyond float32":
        make.write_nifti(path, image.astype(np.float64) * 1e300)
    elif kind == "zeros":
        make.write_nifti(path, np.zeros((5, 5, 5), np.float32))
    elif kind == "constant":
        make.write_nifti(path, np.full((5, 5, 5), 7, np.float32))
    elif kind == "series":
        make.write_nifti(path, np.stack([image] * 3, -1))
    elif kind == "flat":
        make.write_nifti(path, image[:, :, 3])
    elif kind == "complex":
        make.write_nifti(path, image.astype(np.complex64))
    elif kind == "rgb":
        rgb = np.zeros(image.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
        nib.save(nib.Nifti1Image(rgb, np.eye(4)), path)
    elif kind in ("zero voxel", "nan voxel", "nan affine", "singular affine"):
        raw = bytearray(gzip.decompress(make.write_nifti(path, image).read_bytes()))
        value = np.float32("nan" if kind.startswith("nan") else 0).tobytes()
        places = {"voxel": [80], "affine": [280, 296, 312]}[kind.split()[1]]  # pixdim; sform rows
        for place in places:
            raw[place : place + 4] = value
        path.write_bytes(gzip.compress(bytes(raw)))
    elif kind == "surface":
        shutil.copy(make.write_nifti(folder / "x.nii", image), folder / "bad.gii")
        return folder / "bad.gii"
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("zero bytes", "empty file"),
        ("text", "cannot be read as an image"),
        ("truncated gzip", "truncated or damaged"),
        ("truncated header", "cannot be read as an image"),
        ("truncated", "truncated or damaged"),
        ("damaged gzip", "truncated or damaged|NaN or infinite"),
        ("nan", "1 of 480 voxels are NaN or infinite"),
        ("inf", "1 of 480 voxels are NaN or infinite"),
        ("beyond float32", "NaN or infinite"),
        ("zeros", "every voxel is 0"),
        ("constant", "every voxel is 7"),
        ("series", "8×10×6×3 is a series"),
        ("flat", "8×10 is not a volume"),
        ("complex", "voxels are complex64"),
        ("rgb", "voxels are RGB"),
        ("zero voxel", "voxel size 0×2×2 mm"),
        ("nan voxel", "voxel size nan×2×2 mm"),
        ("nan affine", "affine singular or not finite"),
        ("singular affine", "affine singular or not finite"),
        ("surface", "cannot be read as an image"),
    ],
)
def test_bad_scans_are_refused_by_name(make, tmp_path, kind, message):
    path = broken(make, tmp_path, kind)
    with pytest.raises(ScanError, match=message) as caught:
        load_scan(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_gzip_cut_anywhere_is_refused_or_whole(make, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    content = make.write_nifti(folder / "a.nii.gz").read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    (folder / "cut.nii.gz").write_bytes(content[:cut])
    try:
        image, _ = load_scan(folder / "cut.nii.gz")
    except ScanError:
        return
    assert cut >= len(content) - 8  # only the checksum and length at the end of the file are gone
    np.testing.assert_array_equal(image, make.blob())


def test_no_paths():
    with pytest.raises(ScanError, match="without a path"):
        load_scan(())


# --- Analyze ---


@pytest.mark.parametrize("suffix", [".hdr", ".img"])
@pytest.mark.parametrize("byteorder", [">", "<"])
def test_analyze_without_orientation_is_las(make, tmp_path, suffix, byteorder):
    image = np.rint(make.blob())
    path = make.write_analyze(tmp_path / "a", image[..., None], (1, 2, 3), byteorder)
    loaded, affine = load_scan(path.with_suffix(suffix))
    np.testing.assert_array_equal(loaded, image)
    assert aff2axcodes(affine) == ("L", "A", "S")
    np.testing.assert_allclose(np.diag(affine), [-1, 2, 3, 1])
    centre = affine @ [3.5, 4.5, 2.5, 1]
    np.testing.assert_allclose(centre, [0, 0, 0, 1], atol=1e-9)


def test_analyze_with_the_orientation_given(make, tmp_path):
    path = make.write_analyze(tmp_path / "a", np.rint(make.blob()), (1, 1, 1.25))
    by_scheme = load_scan(f"axcodes=ASL:{path}")
    by_argument = load_scan(path, axcodes="ASL")
    assert aff2axcodes(by_scheme[1]) == ("A", "S", "L")
    np.testing.assert_array_equal(by_scheme[1], by_argument[1])
    np.testing.assert_allclose(np.linalg.norm(by_scheme[1][:3, :3], axis=0), [1, 1, 1.25])
    with pytest.raises(UserError, match="axcodes: found 'LLS'"):
        load_scan(path, axcodes="LLS")


def test_a_header_with_an_orientation_wins(make, tmp_path):
    path = make.write_nifti(tmp_path / "a.nii", affine=oblique())
    np.testing.assert_allclose(load_scan(f"axcodes=LAS:{path}")[1], oblique(), atol=1e-5)


def test_nifti_without_codes_takes_the_orientation_given(make, tmp_path):
    image = nib.Nifti1Image(make.blob(), None)
    image.header["pixdim"][1:4] = 2
    nib.save(image, tmp_path / "a.nii")
    assert aff2axcodes(load_scan(f"axcodes=PIR:{tmp_path / 'a.nii'}")[1]) == ("P", "I", "R")
    assert np.isfinite(load_scan(tmp_path / "a.nii")[1]).all()


def test_half_of_a_pair_is_missing(make, tmp_path):
    path = make.write_analyze(tmp_path / "a", np.rint(make.blob()))
    path.with_suffix(".img").unlink()
    with pytest.raises(ScanError, match=r"a\.img is missing"):
        load_scan(path)


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_affine_from_an_orientation(code):
    affine = oriented_affine((5, 6, 7), (1, 2, 3), code)
    assert "".join(aff2axcodes(affine)) == code
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), (1, 2, 3))


# --- several files ---


def test_repeats_are_averaged(make, tmp_path):
    paths = [make.write_nifti(tmp_path / f"{i}.nii", make.blob(seed=i)) for i in range(3)]
    mean = np.mean([make.blob(seed=i) for i in range(3)], axis=0)
    np.testing.assert_allclose(load_scan(paths)[0], mean, rtol=1e-6)


def test_repeats_on_different_grids_are_refused(make, tmp_path):
    first = make.write_nifti(tmp_path / "a.nii")
    smaller = make.write_nifti(tmp_path / "b.nii", make.blob((8, 10, 5)))
    moved = make.write_nifti(tmp_path / "c.nii", affine=oblique())
    for other in (smaller, moved):
        with pytest.raises(ScanError, match=f"{other.name}: grid"):
            load_scan([first, other])


def test_png_slices_are_a_volume(make, tmp_path):
    pictures = [np.random.default_rng(i).integers(0, 255, (4, 6), np.uint8) for i in range(3)]
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    image, affine = load_scan([tmp_path / f"{i}.png" for i in range(3)])
    assert image.shape == (6, 4, 3)
    assert image.dtype == np.float32
    assert aff2axcodes(affine) == ("L", "P", "S")
    for i, picture in enumerate(pictures):
        np.testing.assert_array_equal(image[:, :, i].T, picture)


def test_png_stored_as_rgb_or_16_bit(tmp_path):
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "rgb.png")
    Image.fromarray(grey.astype(np.uint16) * 1000).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(load_scan(tmp_path / "rgb.png")[0][:, :, 0].T, grey)
    np.testing.assert_array_equal(load_scan(tmp_path / "deep.png")[0][:, :, 0].T, grey * 1000.0)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("text", "cannot be read as PNG"),
        ("truncated", "cannot be read as PNG"),
        ("colour", "is a RGB picture"),
        ("size", "5×5 pixels, but"),
        ("black", "every voxel is 0"),
    ],
)
def test_bad_png(tmp_path, kind, message):
    good = np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8)
    Image.fromarray(good).save(tmp_path / "a.png")
    bad, paths = tmp_path / "b.png", [tmp_path / "a.png", tmp_path / "b.png"]
    if kind == "text":
        bad.write_text("no picture")
    elif kind == "truncated":
        bad.write_bytes((tmp_path / "a.png").read_bytes()[:-700])
    elif kind == "colour":
        Image.fromarray(np.stack([good, good // 2, good], -1)).save(bad)
    elif kind == "size":
        Image.fromarray(good[:5, :5]).save(bad)
    elif kind == "black":
        Image.fromarray(np.zeros_like(good)).save(bad)
        paths = [bad]
    with pytest.raises(ScanError, match=message):
        load_scan(paths)


def test_files_behind_paths():
    files = scan_files(("axcodes=LAS:/d/a.hdr", "/d/b.nii.gz", "simulated:{}"))
    assert [str(file) for file in files] == ["/d/a.hdr", "/d/a.img", "/d/b.nii.gz"]
    assert scan_files("simulated:{}") == ()


def test_simulated_scans_come_from_their_parameters(monkeypatch):
    from brainvq.data import simulation_scan

    scan = (np.ones((2, 2, 2), np.float32), np.eye(4), None)
    asked = []
    monkeypatch.setattr(simulation_scan, "simulate", lambda params: asked.append(params) or scan)
    image, affine = load_scan(('simulated:{"seed": 3}',))
    assert asked == ['{"seed": 3}']
    assert image is scan[0]
    assert affine is scan[1]


# --- saving ---


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_save_and_load(make, tmp_path, suffix):
    path = save_nifti(tmp_path / "deep" / f"a{suffix}", make.blob().astype(np.float64), oblique())
    image, affine = load_scan(path)
    np.testing.assert_array_equal(image, make.blob())
    np.testing.assert_allclose(affine, oblique(), atol=1e-5)
    stored = nib.load(path)
    assert stored.get_data_dtype() == np.float32
    np.testing.assert_allclose(stored.get_qform(), oblique(), atol=1e-4)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_saving_masks_and_codes(tmp_path):
    mask = np.eye(4, dtype=bool)[..., None] & np.ones(3, bool)
    assert nib.load(save_nifti(tmp_path / "m.nii", mask, np.eye(4))).get_data_dtype() == np.uint8
    codes = np.arange(60).reshape(3, 4, 5)
    stored = nib.load(save_nifti(tmp_path / "c.nii", codes, np.eye(4)))
    assert stored.get_data_dtype() == np.int32
    np.testing.assert_array_equal(np.asarray(stored.dataobj), codes)


def test_saving_like_another_keeps_its_codes(make, tmp_path):
    source = nib.Nifti1Image(np.rint(make.blob()).astype(np.int16), None)
    source.set_sform(oblique(), code=4)
    source.set_qform(oblique(), code=2)
    name = b"Anna Example"
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        source.header[field] = name
    source.header.extensions.append(nib.nifti1.Nifti1Extension("comment", name))
    nib.save(source, tmp_path / "source.nii")
    path = save_nifti(tmp_path / "out.nii", make.blob(), oblique(), like=tmp_path / "source.nii")
    stored = nib.load(path)
    assert (int(stored.header["sform_code"]), int(stored.header["qform_code"])) == (4, 2)
    assert name in (tmp_path / "source.nii").read_bytes()
    assert name not in path.read_bytes()
    assert stored.get_data_dtype() == np.float32
    np.testing.assert_array_equal(load_scan(path)[0], make.blob())


def test_images_are_saved_as_nifti_only(make, tmp_path):
    with pytest.raises(UserError, match=r"a\.mgz: images are written as \.nii"):
        save_nifti(tmp_path / "a.mgz", make.blob(), np.eye(4))


# --- back to the grid of the original ---


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_all_48_orientations_return_exactly(make, tmp_path, code):
    shape = (5, 6, 7)
    image, affine = make.blob(shape), oriented_affine(shape, (1.0, 1.5, 2.0), code)
    affine[:3, 3] += [3.3, -20.1, 7.7]
    path = make.write_nifti(tmp_path / "a.nii", image, affine)
    image, affine = load_scan(path)
    orientation = io_orientation(affine)
    canonical = apply_orientation(image, orientation)
    canonical_affine = affine @ inv_ornt_aff(orientation, image.shape)
    assert aff2axcodes(canonical_affine) == ("R", "A", "S")
    back = to_original_grid(canonical, canonical_affine, image.shape, affine)
    np.testing.assert_array_equal(back, image)
    saved, saved_affine = load_scan(save_nifti(tmp_path / "b.nii", back, affine))
    np.testing.assert_array_equal(saved, image)
    np.testing.assert_allclose(saved_affine, affine, atol=1e-6)


def test_an_oblique_scan_returns_to_its_place(make, tmp_path):
    image, affine = make.blob((12, 14, 10)), oblique()
    orientation = io_orientation(affine)
    canonical = apply_orientation(image, orientation)
    canonical_affine = affine @ inv_ornt_aff(orientation, image.shape)
    back = to_original_grid(canonical, canonical_affine, image.shape, affine)
    np.testing.assert_array_equal(back, image)
    # From a straight grid, by interpolation: a smooth volume comes back where it was.
    grid = np.stack(np.meshgrid(*[np.arange(40.0)] * 3, indexing="ij"), -1) - 20
    straight = np.eye(4)
    straight[:3, 3] = -20
    values = (np.exp(-(grid**2).sum(-1) / 200)).astype(np.float32)
    back = to_original_grid(values, straight, (20, 20, 20), oblique(shift=(-10, -10, -10)))
    index = np.array([9, 12, 8])
    world = (oblique(shift=(-10, -10, -10)) @ [*index, 1])[:3]
    assert back[tuple(index)] == pytest.approx(np.exp(-(world**2).sum() / 200), abs=0.003)


def test_crops_come_back_padded_with_zeros(make):
    image, affine = make.blob((9, 8, 7)) + 1, oblique()
    cut_affine = affine.copy()
    cut_affine[:3, 3] = (affine @ [2, 1, -1, 1])[:3]
    cut = np.zeros((5, 4, 9), np.float32)
    cut[:, :, 1:8] = image[2:7, 1:5, :]
    back = to_original_grid(cut, cut_affine, image.shape, affine)
    expected = np.zeros_like(image)
    expected[2:7, 1:5] = image[2:7, 1:5]
    np.testing.assert_array_equal(back, expected)


def test_labels_stay_labels(make):
    labels = (make.blob((10, 10, 10)) > 30).astype(np.int16) * 7
    affine = np.diag([2.0, 2, 2, 1])
    finer = np.diag([1.0, 1, 1, 1])
    back = to_original_grid(labels, affine, (19, 19, 19), finer, order=0)
    assert back.dtype == np.int16
    assert set(np.unique(back)) == {0, 7}
    np.testing.assert_array_equal(back[::2, ::2, ::2], labels)
