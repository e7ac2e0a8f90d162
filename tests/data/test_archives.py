import errno
import io
import os
import shutil
import stat
import tarfile
import warnings
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainvq.data import archives, extract
from brainvq.data.archives import MARKER, extracted
from brainvq.errors import UserError


def write_tar(path, members, mode="w:gz"):
    """Members: name → bytes, None (folder), ("link"|"hard", target) or a type of tarfile."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, tuple):
                info.type = tarfile.SYMTYPE if content[0] == "link" else tarfile.LNKTYPE
                info.linkname = content[1]
            elif content in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
                info.type = content
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
                continue
            archive.addfile(info)
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name  # as given: the constructor would mend it
            mode = stat.S_IFREG | 0o644
            if content is None:
                info.filename, mode, content = f"{name}/", stat.S_IFDIR | 0o755, b""
            elif isinstance(content, tuple):
                mode, content = stat.S_IFLNK | 0o777, content[1].encode()
            elif content == tarfile.FIFOTYPE:
                mode, content = stat.S_IFIFO, b""
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


WRITERS = {
    "tar": lambda path, members: write_tar(path, members, "w"),
    "tar.gz": write_tar,
    "tar.xz": lambda path, members: write_tar(path, members, "w:xz"),
    "tar.bz2": lambda path, members: write_tar(path, members, "w:bz2"),
    "zip": write_zip,
}
KINDS = pytest.mark.parametrize("kind", WRITERS)
TREE = [
    ("disc1", None),
    ("disc1/a.img", b"A" * 5000),
    ("disc1/deep/b.txt", b"text"),
    ("disc1/empty", b""),
]


def contents(folder):
    """Relative name → bytes of every file below a folder, the marker apart."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name != MARKER
    }


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


@KINDS
def test_extracts_everything(tmp_path, kind):
    archive = WRITERS[kind](tmp_path / f"a.{kind}", TREE)
    folder = extract(archive, tmp_path / "deep" / "out", progress=False)
    assert folder == tmp_path / "deep" / "out"
    assert contents(folder) == {name: data for name, data in TREE if data is not None}
    assert listing(tmp_path / "deep") == sorted(
        ["out", f"out/{MARKER}", "out/disc1/deep", *(f"out/{name}" for name, _ in TREE)]
    )


@KINDS
def test_extracts_what_is_wanted(tmp_path, kind):
    archive = WRITERS[kind](tmp_path / f"a.{kind}", TREE)
    keep = lambda name: name.endswith(".txt")  # noqa: E731
    folder = extract(archive, tmp_path / "out", keep=keep, keep_name="texts", progress=False)
    assert contents(folder) == {"disc1/deep/b.txt": b"text"}
    assert extracted(folder)["keep"] == "texts"


def test_nothing_wanted_is_an_error(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", TREE)
    with pytest.raises(UserError, match="none of its 4 members is wanted .nifti."):
        extract(archive, tmp_path / "out", keep=lambda name: False, keep_name="nifti")
    assert listing(tmp_path) == ["a.tar.gz"]


def test_a_finished_extraction_is_not_repeated(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "a.tar.gz", TREE)
    folder = extract(archive, tmp_path / "out", progress=False)
    monkeypatch.setattr(archives.tarfile, "open", lambda *a, **k: pytest.fail("opened again"))
    assert extract(archive, tmp_path / "out", progress=False) == folder


def test_other_folders_are_left_alone(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", TREE)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="mine: exists and is a folder of yours"):
        extract(archive, mine, progress=False)
    assert listing(mine) == ["thesis.txt"]
    extract(archive, tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="out: exists and is another extraction"):
        extract(archive, tmp_path / "out", keep=lambda n: True, keep_name="some", progress=False)
    (tmp_path / "empty").mkdir()
    assert contents(extract(archive, tmp_path / "empty", progress=False))


def test_what_a_killed_run_left_is_cleared(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", TREE)
    left = tmp_path / ".out.extracting"
    (left / "disc1").mkdir(parents=True)
    (left / "disc1" / "a.img").write_bytes(b"half")
    (left / "stray").touch()
    folder = extract(archive, tmp_path / "out", progress=False)
    assert contents(folder)["disc1/a.img"] == b"A" * 5000
    assert not (folder / "stray").exists()
    assert not left.exists()


OUTSIDE = [
    ("/etc/evil", b"x"),
    ("../evil", b"x"),
    ("disc1/../../evil", b"x"),
    ("disc1/..", None),
    ("..\\evil", b"x"),
    ("C:evil", b"x"),
    ("C:\\evil", b"x"),
    ("link", ("link", "/etc/passwd")),
    ("link", ("link", "../secret")),
    ("disc1/link", ("link", "../../secret")),
    ("disc1/link", ("link", "deep/../../../secret")),
    ("pipe", tarfile.FIFOTYPE),
]
OUTSIDE_TAR = [
    ("hard", ("hard", "/etc/passwd")),
    ("disc1/hard", ("hard", "../secret")),
    ("device", tarfile.CHRTYPE),
    ("device", tarfile.BLKTYPE),
]


@pytest.mark.parametrize(
    ("kind", "evil"),
    [(kind, evil) for kind in ("tar", "tar.gz", "zip") for evil in OUTSIDE]
    + [("tar.gz", evil) for evil in OUTSIDE_TAR],
)
@pytest.mark.parametrize("wanted", [True, False])
def test_members_that_leave_the_folder_are_refused(tmp_path, kind, evil, wanted, monkeypatch):
    monkeypatch.setattr(archives, "_write", lambda *a: pytest.fail("a file was written"))
    (tmp_path / "in").mkdir()
    archive = WRITERS[kind](tmp_path / "in" / f"a.{kind}", [*TREE, evil])
    keep = None if wanted else (lambda name: name == "disc1/a.img")
    with pytest.raises(UserError, match="nothing was unpacked") as caught:
        extract(archive, tmp_path / "in" / "out", keep=keep, progress=False)
    assert repr(evil[0])[:-1] in str(caught.value)  # a zip writes folders with a slash at the end
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == ["in", f"in/a.{kind}"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a", b"1"), ("a", b"2")], "'a' is there twice"),
        ([("a", b"1"), ("./a", b"2")], "'a' is there twice"),
        ([("a", b"1"), ("a/b", b"2")], "'a/b' lies in 'a', which is not a folder"),
        ([("a/b/c", b"2"), ("a", b"1")], "'a/b/c' lies in 'a'"),
        ([("a", ("link", "b")), ("b", None), ("a/c", b"1")], "'a/c' lies in 'a'"),
        ([("a", None), ("a", b"1")], "'a' is there twice"),
        ([("a", ("link", "nothing")), ("b", b"1")], "'nothing', which is no file"),
        ([("a", ("link", "b")), ("b", ("link", "a"))], "which is no file"),
        ([("a", ("link", "d")), ("d", None), ("b", b"1")], "'d', which is no file"),
        ([(".", b"1")], "has no name"),
    ],
)
@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_members_in_conflict_are_refused(tmp_path, kind, members, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile, about names that repeat
        archive = WRITERS[kind](tmp_path / f"a.{kind}", members)
    with pytest.raises(UserError, match=message):
        extract(archive, tmp_path / "out", progress=False)
    assert listing(tmp_path) == [f"a.{kind}"]


def test_a_member_of_a_zip_without_a_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr(zipfile.ZipInfo(""), b"2")
    with pytest.raises(UserError, match="a member has no name"):
        extract(tmp_path / "a.zip", tmp_path / "out", progress=False)
    assert listing(tmp_path) == ["a.zip"]


def test_links_inside_become_copies(tmp_path):
    members = [
        ("d/file", b"content"),
        ("d/link", ("link", "file")),
        ("up", ("link", "d/../d/link")),
        ("d/hard", ("hard", "d/file")),
    ]
    archive = write_tar(tmp_path / "a.tar.gz", members)
    folder = extract(archive, tmp_path / "out", keep=lambda n: n != "d/file", progress=False)
    assert contents(folder) == {name: b"content" for name in ("d/link", "up", "d/hard")}
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_missing_and_foreign_archives(tmp_path):
    with pytest.raises(UserError, match="none.tar.gz: no such file"):
        extract(tmp_path / "none.tar.gz", tmp_path / "out")
    (tmp_path / "page.tar.gz").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="truncated or damaged"):
        extract(tmp_path / "page.tar.gz", tmp_path / "out")
    (tmp_path / "empty.tar.gz").touch()
    with pytest.raises(UserError, match="truncated or damaged"):
        extract(tmp_path / "empty.tar.gz", tmp_path / "out")
    assert listing(tmp_path) == ["empty.tar.gz", "page.tar.gz"]


def test_an_archive_that_promises_other_sizes(tmp_path):
    archive = write_zip(tmp_path / "a.zip", [("a", b"x" * 1000), ("b", b"y")])
    content = archive.read_bytes()
    # In the central directory the size is written once more; there it says 5 bytes less.
    place = content.rindex((1000).to_bytes(4, "little"))
    archive.write_bytes(content[:place] + (995).to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises(UserError, match="truncated or damaged"):
        extract(archive, tmp_path / "out", progress=False)
    assert listing(tmp_path) == ["a.zip"]


def test_disk_too_small(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "a.tar.gz", TREE)
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 4000, 4000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="unpacking needs 0.00 GB"):
        extract(archive, tmp_path / "out", progress=False)
    assert listing(tmp_path) == ["a.tar.gz"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), None])
def test_disk_full_or_interrupted_while_unpacking(tmp_path, monkeypatch, error):
    archive = write_tar(tmp_path / "a.tar.gz", TREE)
    write = archives._write

    def fail_late(read, member, path, bar):
        if path.name == "b.txt":
            raise error or KeyboardInterrupt
        write(read, member, path, bar)

    monkeypatch.setattr(archives, "_write", fail_late)
    with pytest.raises(UserError if error else KeyboardInterrupt):
        extract(archive, tmp_path / "out", progress=False)
    assert listing(tmp_path) == ["a.tar.gz"]


names = st.text("abAB._- é", min_size=1, max_size=6).filter(lambda n: n not in (".", ".."))
# The writers take the one-byte types of tarfile for devices and pipes, not for content.
contents_of_files = st.binary(max_size=300).filter(
    lambda content: content not in (b"3", b"4", b"6")
)
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), contents_of_files, min_size=1,
    max_size=6,
).filter(lambda t: not any(a != b and b.startswith(a + "/") for a in t for b in t))  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(tree=trees, kind=st.sampled_from(sorted(WRITERS)))
def test_any_tree_comes_out_as_it_went_in(tmp_path_factory, tree, kind):
    folder = tmp_path_factory.mktemp("tree")
    archive = WRITERS[kind](folder / f"a.{kind}", list(tree.items()))
    assert contents(extract(archive, folder / "out", progress=False)) == tree


@settings(max_examples=80, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(WRITERS)))
def test_an_archive_cut_anywhere_leaves_nothing(tmp_path_factory, data, kind):
    folder = tmp_path_factory.mktemp("cut")
    whole = WRITERS[kind](folder / "whole", TREE).read_bytes()
    (folder / "whole").unlink()
    cut = folder / f"cut.{kind}"
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        out = extract(cut, folder / "out", progress=False)
    except UserError as error:
        message = str(error)
    else:
        # A plain tar ends with zeros to a round size; only those may be gone.
        assert kind == "tar"
        assert contents(out) == {name: content for name, content in TREE if content is not None}
        return
    assert "truncated or damaged" in message
    assert listing(folder) == [cut.name]


hostile = st.lists(
    st.sampled_from(["..", ".", "a", "b", "", "/", "C:", "\\"]), min_size=1, max_size=5
).map("/".join)


@settings(max_examples=80, deadline=None)
@given(
    members=st.lists(
        st.tuples(
            hostile,
            st.one_of(
                st.binary(max_size=4),
                st.none(),
                st.tuples(st.sampled_from(["link", "hard"]), hostile),
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_no_archive_touches_anything_else(tmp_path_factory, members):
    folder = tmp_path_factory.mktemp("hostile")
    archive = write_tar(folder / "a.tar", members, "w")
    (folder / "in").mkdir()
    (folder / "in" / "precious").write_text("kept")
    try:
        extract(archive, folder / "in" / "out", progress=False)
    except UserError:
        assert listing(folder / "in") == ["precious"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.tar", "in"]
    assert {path.name for path in (folder / "in").iterdir()} <= {"precious", "out"}
    assert (folder / "in" / "precious").read_text() == "kept"
    assert not any(path.is_symlink() for path in folder.rglob("*"))
