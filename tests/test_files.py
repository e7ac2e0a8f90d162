"""Reading arrays that a user names, and writing files on a disk that is full."""

import resource

import h5py
import numpy as np
import pytest
from PIL import Image

from brainvq.errors import UserError
from brainvq.files import (
    DISK_FULL,
    atomic_path,
    growing_array,
    is_temporary,
    read_array,
    write_array,
)


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.float32(2), np.zeros((0, 4))])
def test_an_array_comes_back(tmp_path, array):
    write_array(tmp_path / "a.npy", array)
    back = read_array(tmp_path / "a.npy", expected="codes")
    np.testing.assert_array_equal(back, array)
    assert back.dtype == np.asarray(array).dtype


def damaged(path, kind):
    """Writes a file that is no array of numbers."""
    whole = path.with_name("whole.npy")
    np.save(whole, np.arange(100))
    if kind == "objects":
        np.save(path, np.array([{}, None]), allow_pickle=True)
    elif kind == "archive":
        with open(path, "wb") as file:
            np.savez(file, a=np.zeros(2))
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "text": b"1 2 3",
                "cut": whole.read_bytes()[:300],
                "cut header": whole.read_bytes()[:20],
                "zip": b"PK\x03\x04 and no more",
                "header": whole.read_bytes().replace(b"(100,)", b"(10 0,"),
            }[kind]
        )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", r"cannot be read \(.+\)"),
        ("text", r"cannot be read \(.+\)"),
        ("cut", r"cannot be read \(.+\)"),
        ("cut header", r"cannot be read \(.+\)"),
        ("zip", r"cannot be read \(.+\)"),
        ("header", r"cannot be read \(.+\)"),
        ("folder", r"cannot be read \(.+\)"),
        ("objects", r"cannot be read \(.+\)"),
        ("archive", "found several arrays"),
    ],
)
def test_what_is_no_array_is_said_in_one_line(tmp_path, kind, message):
    path = tmp_path / "a.npy"
    damaged(path, kind)
    with pytest.raises(UserError, match=rf"^.*a\.npy: {message}; expected codes \(\.npy\)$"):
        read_array(path, expected="codes")


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"^.*b\.npy: no such file; expected codes \(\.npy\)$"):
        read_array(tmp_path / "b.npy", expected="codes")


def _text(path):
    path.write_text("a" * 100_000)


def _array(path):
    np.save(path, np.ones(50_000))


def _archive(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.ones(50_000))


def _hdf5(path):
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(50_000)


def _picture(path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), "uint8")
    Image.fromarray(noise).save(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", _text),
        ("a.npy", _array),
        ("a.npz", _archive),
        ("a.h5", _hdf5),
        ("a.png", _picture),
    ],
)
def test_without_room_every_library_gives_one_error(tmp_path, name, write):
    path = tmp_path / name
    path.write_text("before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError) as caught, atomic_path(path) as temporary:
            write(temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno in DISK_FULL
    assert caught.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.read_text() == "before"


def test_temporary_files_are_known_by_their_names(tmp_path):
    with atomic_path(tmp_path / "a.nii.gz") as temporary:
        temporary.touch()
        assert is_temporary(temporary)
    assert not any(
        map(is_temporary, ["a.nii.gz", ".lock", ".brainvq-extracted.json", "a-12345678"])
    )


def test_an_array_that_grows_is_there_when_it_is_whole(tmp_path):
    whole = np.arange(24).reshape(6, 2, 2)
    with growing_array(tmp_path / "a.npy", "<i2", 6) as write:
        for start in range(0, 6, 4):
            write(whole[start : start + 4])
            assert not (tmp_path / "a.npy").exists()
    found = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert found.dtype == "<i2"
    np.testing.assert_array_equal(found, whole)

    def stopped():
        with growing_array(tmp_path / "b.npy", "<i2", 6) as write:
            write(whole[:2])
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
