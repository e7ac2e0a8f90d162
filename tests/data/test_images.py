import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes
from PIL import Image

from brainvq.data import ScanError, load_scan, open_cohort
from brainvq.errors import UserError


def grey(pixels):
    """Luma of ITU-R BT.601, which Pillow's documentation gives for its conversion."""
    return pixels.astype(float) @ [0.299, 0.587, 0.114]


def test_a_folder_per_class(make, tmp_path):
    root = make.images(tmp_path)
    cohort = open_cohort("images", root)
    table = cohort.table
    assert (cohort.name, cohort.note, cohort.simulated) == ("images", "", False)
    assert list(table["group"]) == 3 * ["cats"] + 3 * ["dogs"]
    assert list(table["scan_id"]) == [f"{g}_{g}{i}" for g in ("cats", "dogs") for i in range(3)]
    assert list(table["subject"]) == list(table["scan_id"])
    assert set(table["modality"]) == {"image"}
    assert set(cohort.split((0.5, 0.0, 0.5)).table["split"]) == {"train", "test"}
    image, affine = load_scan(table["paths"][0])
    pixels = np.asarray(Image.open(root / "cats" / "cats0.png"))
    assert image.shape == (10, 12, 1)  # columns, rows
    assert image.dtype == np.float32
    assert aff2axcodes(affine) == ("L", "P", "S")
    np.testing.assert_allclose(image[:, :, 0].T, grey(pixels), atol=1)


def test_subjects_in_the_file_names(make, tmp_path):
    root = make.images(tmp_path, count=1)
    for group, name in (("cats", "p1_a"), ("cats", "p1_b"), ("dogs", "p2_a"), ("dogs", "p1_c")):
        (root / group / f"{group}0.png").with_stem(name).write_bytes(
            (root / group / f"{group}0.png").read_bytes()
        )
    for group in ("cats", "dogs"):
        (root / group / f"{group}0.png").unlink()
    cohort = open_cohort("images", root, subject_pattern=r"^(p\d)_")
    assert list(cohort.table["subject"]) == ["p1", "p1", "p1", "p2"]
    assert cohort.table["scan_id"].is_unique
    (root / "dogs" / "rex.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"rex\.png: subject_pattern .* finds no subject"):
        open_cohort("images", root, subject_pattern=r"^(p\d)_")
    for pattern, problem in ((r"^(p\d", "is no regular expression"), (r"p\d", "has 0 groups")):
        with pytest.raises(UserError, match=f"subject_pattern: .*{problem}"):
            open_cohort("images", root, subject_pattern=pattern)


def test_names_that_files_cannot_have(tmp_path):
    for group, name in (("a b", "x.png"), ("a-b", "x.png"), ("a-b", "x.jpg"), ("é", "ü 1.BMP")):
        (tmp_path / group).mkdir(exist_ok=True)
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / group / name)
    cohort = open_cohort("images", tmp_path)
    assert list(cohort.table["group"]) == ["a b", "a-b", "a-b", "é"]
    assert cohort.table["scan_id"].is_unique
    for paths in cohort.table["paths"]:
        assert load_scan(paths)[0].shape == (4, 3, 1)


def test_other_layouts(make, tmp_path):
    with pytest.raises(UserError, match="one sub-folder per class.*found an empty folder"):
        open_cohort("images", tmp_path)
    flat = make.images(tmp_path / "a") / "cats"
    with pytest.raises(UserError, match=r"one sub-folder per class.*found cats0\.png"):
        open_cohort("images", flat)
    deep = tmp_path / "b"
    make.images(deep / "train")
    with pytest.raises(UserError, match="no pictures in sub-folders.*found train/"):
        open_cohort("images", deep)


def test_what_is_left_out_is_counted(make, tmp_path):
    root = make.images(tmp_path, count=1)
    for name in ("top.jpg", "cats/thumbs.db", "cats/.hidden.png", "readme.txt"):
        (root / name).write_bytes(b"x")
    (root / "dogs" / "more").mkdir()
    cohort = open_cohort("images", root)
    assert len(cohort) == 2
    assert cohort.note == (
        "1 pictures outside the sub-folders left out; 1 other files left out; "
        "1 folders inside the sub-folders left out"
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "tif", "tiff", "bmp", "PNG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_formats(tmp_path, suffix, mode):
    rows, columns = np.mgrid[0:16, 0:24]
    pixels = (5 * rows + 4 * columns + 20).astype(np.uint8)
    if mode == "RGB":
        pixels = np.stack([pixels, pixels // 2, 255 - pixels], axis=-1)
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(file, **({"quality": 98} if "jp" in suffix else {}))
    expected = pixels if mode == "L" else grey(pixels)
    image, _ = load_scan(file)
    np.testing.assert_allclose(image[:, :, 0].T, expected, atol=4 if "jp" in suffix else 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["RGB", "RGBA", "LA", "P", "CMYK", "1", "HSV"]))
def test_every_kind_of_pixel_becomes_grey(tmp_path_factory, seed, mode):
    pixels = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    file = tmp_path_factory.getbasetemp() / (
        "kinds.tif" if mode in ("CMYK", "HSV") else "kinds.png"
    )
    (picture.convert("RGB") if mode == "HSV" else picture).save(file)
    image, _ = load_scan(file)
    assert image.shape == (7, 5, 1)
    if mode in ("RGB", "RGBA"):
        np.testing.assert_allclose(image[:, :, 0].T, grey(pixels), atol=1)
    if mode == "1":
        np.testing.assert_array_equal(image[:, :, 0].T, np.asarray(picture))


def test_transparent_is_black(tmp_path):
    pixels = np.full((4, 6, 4), 200, np.uint8)
    pixels[:2, :, 3], pixels[2:, :, 3] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        load_scan(tmp_path / "a.png")[0][:, :, 0].T[:, 0], [0, 0, 200, 200]
    )


def test_numbers_of_more_than_8_bits(tmp_path):
    deep = np.arange(24, dtype=np.uint16).reshape(4, 6) * 2000
    Image.fromarray(deep).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(load_scan(tmp_path / "a.tif")[0][:, :, 0].T, deep)
    broken = np.where(deep > 9000, np.nan, deep).astype(np.float32)
    Image.fromarray(broken).save(tmp_path / "b.tif")
    with pytest.raises(ScanError, match="voxels are NaN or infinite"):
        load_scan(tmp_path / "b.tif")


def test_pictures_of_a_camera_held_upright(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_scan(tmp_path / "a.png")[0][:, :, 0].T, np.rot90(pixels, -1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_bad_files_are_named_in_one_line(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8)
    Image.fromarray(pixels).save(file)
    whole = file.read_bytes()
    for content in (b"", b"no picture", whole[: len(whole) // 2], whole[:20]):
        file.write_bytes(content)
        with pytest.raises(ScanError, match=rf"a\.{suffix}: cannot be read as") as caught:
            load_scan(file)
        assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(ScanError, match=rf"a\.{suffix}: no such file"):
        load_scan(file)
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(file)
    with pytest.raises(ScanError, match="every voxel is"):
        load_scan(file)


def test_files_of_several_pictures(tmp_path):
    pages = [Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) + i) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ScanError, match="holds 3 pictures; one is expected"):
        load_scan(tmp_path / "a.tif")
