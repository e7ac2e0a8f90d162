"""Headers that lie: a result or one line, within little memory, whatever their fields say."""

import gzip
import io
import re
import struct
import tracemalloc
import zipfile
import zlib

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brainvq import data
from brainvq.data.readers.folders import read_people
from brainvq.errors import UserError
from brainvq.files import read_array

MILLION = 10**6


@pytest.fixture
def little_memory():
    """No test may take 200 MB."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def refused(call, path, message):
    with pytest.raises(UserError, match=message) as caught:
        call(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def nifti(shape=(5, 6, 7), version=nib.Nifti1Image):
    image = version(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), np.eye(4))
    return image.to_bytes()


def huge_nifti(kind):
    content = bytearray(nifti(version=nib.Nifti2Image))
    sides = {"sides": (MILLION,) * 3, "line": (2**40, 1, 1), "some": (900, 900, 900)}[kind]
    struct.pack_into("<4q", content, 16, 3, *sides)
    return bytes(content)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("kind", ["sides", "line", "some"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_an_image_of_more_voxels_than_any_head(tmp_path, kind, ending):
    content = huge_nifti(kind)
    path = tmp_path / f"scan{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    refused(lambda file: data.load_scan(str(file)), path, "by its header")


@pytest.mark.usefixtures("little_memory")
def test_a_compressed_image_that_is_cut_takes_no_memory(tmp_path):
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.int16), np.eye(4)).header
    header.set_data_shape((500, 500, 500))
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    refused(lambda file: data.load_scan(str(file)), path, "truncated or damaged: 500×500×500")


NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 255, 4096, 32767, -32768]) | st.integers(-32768, 32767)
FLOATS = st.sampled_from([0.0, 1e38, -1e38, 1e-38, 352.0]) | st.floats(width=32)
FIELDS = {
    **dict.fromkeys(("dim", "datatype", "bitpix", "sform_code", "qform_code"), NUMBERS),
    **dict.fromkeys(("pixdim", "srow_x", "srow_z", "quatern_b", "qoffset_x"), FLOATS),
    **dict.fromkeys(("scl_slope", "scl_inter", "vox_offset"), FLOATS),
    "xyzt_units": st.integers(0, 255),
}


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    fields=st.dictionaries(
        st.sampled_from(sorted(FIELDS)), st.lists(st.data(), max_size=0), min_size=1, max_size=3
    ),
    draw=st.data(),
    packed=st.booleans(),
)
def test_any_field_of_a_nifti_header(tmp_path, fields, draw, packed):
    content = nifti()
    header = nib.Nifti1Header(content[:348], check=False)
    for name in fields:
        values = np.atleast_1d(header[name]).copy()
        place = draw.draw(st.integers(0, len(values) - 1))
        values[place] = draw.draw(FIELDS[name])
        header[name] = values if header[name].ndim else values[0]
    content = header.binaryblock + content[348:]
    path = tmp_path / ("scan.nii.gz" if packed else "scan.nii")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    try:
        image, affine = data.load_scan(str(path))
    except UserError as error:
        refused(lambda file: data.load_scan(str(file)), path, re.escape(str(error)))
        return
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert abs(np.linalg.det(affine)) > 0
    out = data.save_nifti(tmp_path / "out.nii", image, affine, like=path)
    again, place = data.load_scan(out)
    np.testing.assert_array_equal(again, image)
    np.testing.assert_allclose(place, affine, rtol=1e-4, atol=1e-4 * np.abs(affine).max())


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("field", [(36, 32767), (238, 32767), (1000, 2**31 - 1), (1000, -5)])
def test_a_trk_that_claims_more_than_it_holds(tmp_path, field):
    lines = [np.cumsum(np.ones((5, 3), "f4"), 0) * k for k in (1, 2)]
    path = data.save_tractogram(data.new_tractogram(lines), lines, tmp_path / "a.trk")
    content = bytearray(path.read_bytes())
    struct.pack_into("<i" if field[0] == 1000 else "<h", content, *field)
    path.write_bytes(content)
    refused(data.load_tractogram, path, "cannot be read as .trk|truncated")


@pytest.mark.usefixtures("little_memory")
def test_a_count_of_streamlines_takes_no_memory(tmp_path):
    lines = [np.cumsum(np.ones((5, 3), "f4"), 0)]
    path = data.save_tractogram(data.new_tractogram(lines), lines, tmp_path / "a.trk")
    content = bytearray(path.read_bytes())
    struct.pack_into("<i", content, 988, 2**31 - 1)
    path.write_bytes(content)
    refused(data.load_tractogram, path, "found 1 streamlines; expected the 2147483647")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("descr", ["<f4", "|O", "<U400"])
def test_arrays_that_claim_any_shape_or_hold_objects(tmp_path, descr):
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({MILLION}, {MILLION}, 9), }}"
    head = head.encode().ljust(117) + b"\n"
    path = tmp_path / "codes.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(64))
    refused(lambda file: read_array(file, expected="codes"), path, "cannot be read")


@pytest.mark.usefixtures("little_memory")
def test_archives_that_would_fill_disk_or_memory(tmp_path):
    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("xl/workbook.xml", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    for name, read in (
        ("a.zip", lambda file: data.extract(file, tmp_path / "out", progress=False)),
        ("a.trx", data.load_tractogram),
        ("a.xlsx", read_people),
    ):
        (tmp_path / name).write_bytes(bomb.getvalue())
        refused(read, tmp_path / name, "314,572,800 bytes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.trx", "a.xlsx", "a.zip"]


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("sides", [(MILLION, MILLION), (20000, 20000), (40000, 1)])
def test_a_picture_that_claims_more_pixels_than_any(tmp_path, sides):
    head = struct.pack(">IIBBBBB", *sides, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    content = io.BytesIO(b"")
    content.write(b"\x89PNG\r\n\x1a\n")
    for kind, inner in chunks:
        check = struct.pack(">I", zlib.crc32(kind + inner))
        content.write(struct.pack(">I", len(inner)) + kind + inner + check)
    path = tmp_path / "a.png"
    path.write_bytes(content.getvalue())
    refused(lambda file: data.load_scan(str(file)), path, "by its header|cannot be read as PNG")


@pytest.mark.usefixtures("little_memory")
def test_resampling_to_more_voxels_than_memory_has():
    image = np.random.default_rng(0).random((20, 20, 20), "f4")
    with pytest.raises(UserError, match="Resample: .* voxels of 150×150×150 mm would"):
        data.Resample(0.1)(image, np.diag([150.0, 150, 150, 1]))


def test_a_scan_smaller_than_a_cell_and_one_without_contrast(tmp_path):
    image = np.random.default_rng(0).random((6, 6, 6), "f4")
    for name, values, size, message in (
        ("small.nii", image, 1e-9, "a field of view of 6e-09×6e-09×6e-09 mm"),
        ("large.nii", image, 1e5, "a field of view of 6e\\+05×6e\\+05×6e\\+05 mm"),
        ("flat.nii", image + np.float32(1e5), 1, "differ by less than their precision"),
        ("faint.nii", image * np.float32(1e-42), 1, "differ by less than their precision"),
    ):
        affine = np.diag([size, size, size, 1.0])
        nib.save(nib.Nifti1Image(values, affine), tmp_path / name)
        refused(lambda file: data.load_scan(str(file)), tmp_path / name, message)
