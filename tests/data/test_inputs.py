"""Files that a command line names: finding them, naming their results, reading them."""

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainvq.data import (
    comes_from_simulation,
    named,
    readable,
    readable_scans,
    scan_paths,
    subject_of,
    tractogram_paths,
)
from brainvq.data.readers.bids import SIMULATED_KEY
from brainvq.errors import UserError

LOG = logging.getLogger("test")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_of_scans_and_files_of_one_name(tmp_path):
    touch(tmp_path, "a/T1.nii.gz", "b/T1.nii.gz", "b/other.nii", "notes.txt")
    paths = scan_paths([tmp_path])
    assert sorted(paths.values()) == ["a_T1", "b_T1", "other"]
    assert all(path.name.startswith(("T1.nii", "other.nii")) for path in paths)


def test_scans_are_called_by_their_subjects(tmp_path):
    touch(tmp_path, "sub-01_T1w.nii.gz", "sub-02_run-1_T1w.nii", "sub-02_run-2_T1w.nii")
    touch(tmp_path, "IXI002-Guys.nii", "derivatives/sub-01_mask.nii.gz")
    paths = scan_paths([str(tmp_path)])
    assert sorted(paths.values()) == ["IXI002", "sub-01", "sub-02_run-1_T1w", "sub-02_run-2_T1w"]
    # Files that are named outright are taken whatever they are called.
    mask = tmp_path / "derivatives" / "sub-01_mask.nii.gz"
    assert scan_paths([mask, mask]) == {mask: "sub-01"}


def test_scans_that_only_a_folder_further_up_tells_apart(tmp_path):
    touch(tmp_path, "one/anat/T1.nii", "two/anat/T1.nii.gz", "three/anat/T1.nii")
    names = list(scan_paths([tmp_path]).values())
    assert len(set(names)) == len(names) == 3


def test_tractograms_at_any_depth(tmp_path):
    files = ["one/sub-1/PYT_L.trk", "two/MCP.TCK", "two/FPT_L.trx"]
    touch(tmp_path, *files, "two/.FPT_R.trk", "two/notes.txt")
    assert sorted(tractogram_paths([tmp_path])) == sorted(tmp_path / name for name in files)
    assert tractogram_paths(["absent.trk", tmp_path / "one"])[0] == Path("absent.trk")


@pytest.mark.parametrize("find", [scan_paths, tractogram_paths])
def test_a_folder_without_such_files(find, tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path.name}: holds no \.(nii or|trk, )"):
        find([tmp_path])


def test_what_a_folder_of_scans_holds_besides(tmp_path, caplog):
    scans = ["sub-01/anat/sub-01_T1w.NII.GZ", "sub-02/anat/sub-02_T1w.nii", "free name.mgz"]
    scans += ["pair.img"]
    other = ["sub-01/anat/sub-01_FLAIR.nii.gz", "sub-01/func/sub-01_task-rest_bold.nii.gz"]
    other += ["sub-01/anat/sub-01_desc-brain_mask.nii.gz", "sourcedata/sub-01_T1w.nii.gz"]
    other += [".git/annex/sub-01_T1w.nii.gz", "sub-01/anat/._sub-01_T1w.nii.gz", "pair.hdr"]
    touch(tmp_path, *scans, *other, "derivatives/x/sub-01_T1w.nii.gz", "a.nii.png")
    (tmp_path / "sub-03_T1w.nii.gz").symlink_to(".git/annex/not-here")
    assert set(scan_paths([tmp_path], "T1w")) == {tmp_path / name for name in scans}
    assert [message.split(": ", 1)[1] for message in caplog.messages] == [
        "1 links that lead nowhere left out, e.g. sub-03_T1w.nii.gz",
        "2 masks, segmentations, series or maps left out, e.g. sub-01_desc-brain_mask.nii.gz",
        "1 images of another contrast than T1w left out, e.g. sub-01_FLAIR.nii.gz",
    ]
    assert set(scan_paths([tmp_path], "FLAIR")) == {
        tmp_path / name for name in (*scans[2:], "sub-01/anat/sub-01_FLAIR.nii.gz")
    }
    # Where nothing else is there, a folder is what it holds.
    touch(tmp_path, "masks/sub-01_mask.nii.gz", "masks/sub-02_mask.nii.gz")
    assert len(scan_paths([tmp_path / "masks"])) == 2
    pair = [tmp_path / "pair.hdr", tmp_path / "pair.img"]
    assert list(scan_paths(pair).values()) == ["pair"]


@pytest.mark.parametrize(("find", "end"), [(scan_paths, "nii"), (tractogram_paths, "trk")])
def test_links_are_followed_and_loops_end(find, end, tmp_path):
    touch(tmp_path, f"real/sub-01/a.{end}", f"data/sub-02/b.{end}", f"data/sub-03/c.{end}")
    data = tmp_path / "data"
    (data / "sub-01").symlink_to(tmp_path / "real/sub-01")
    (data / "a-loop").symlink_to(data)
    (data / "sub-02/up").symlink_to("..")
    (tmp_path / "real/sub-01/back").symlink_to(data)
    assert sorted(str(path.relative_to(data)) for path in find([data])) == [
        f"sub-01/a.{end}",
        f"sub-02/b.{end}",
        f"sub-03/c.{end}",
    ]
    (tmp_path / "link").symlink_to(data)
    assert len(find([tmp_path / "link"])) == 3


def test_names_tell_files_apart_by_as_little_as_they_need():
    paths = ["one/sub-1/PYT_L.trk", "one/sub-2/PYT_L.trk", "two/sub-2/PYT_L.trk"]
    paths += ["two/sub-2/MCP.trk", "two/sub-2/MCP.tck", "two/FPT_L.trx", "one/sub-1/PYT_L.trk"]
    assert list(named(map(Path, paths)).values()) == [
        "sub-1_PYT_L",
        "PYT_L_2",
        "PYT_L_3",
        "sub-2_MCP_trk",
        "sub-2_MCP_tck",
        "FPT_L",
    ]


PARTS = st.sampled_from(["a", "b", "a_b", "a_2", "b_nii", "sub-1", "sub-1_b"])


@given(
    parts=st.lists(st.tuples(PARTS, PARTS, PARTS, st.sampled_from([".nii", ".nii.gz", ".trk"]))),
    subjects=st.booleans(),
)
def test_no_two_names_are_the_same(parts, subjects):
    paths = [Path(first, second, third + suffix) for first, second, third, suffix in parts]
    names = named(paths, subjects)
    assert list(names) == list(dict.fromkeys(paths))
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("sub-01_ses-2_T1w.nii.gz", "sub-01"),
        ("IXI002-Guys-0828-T1.nii.gz", "IXI002"),
        ("OAS1_0001_MR1_mpr.hdr", "OAS1_0001"),
        ("head.one.nii", "head"),
    ],
)
def test_the_subject_of_a_file(name, subject):
    assert subject_of(Path("sub-9") / name) == subject


def test_bad_files_are_skipped_and_counted(caplog):
    def read(path):
        if path == "bad":
            raise UserError("bad: broken")
        return path.upper()

    with caplog.at_level(logging.WARNING):
        results = list(readable({"a": "1", "bad": "2", "b": "3"}, read, LOG))
    assert results == [("a", "1", "A"), ("b", "3", "B")]
    assert caplog.messages == ["skipped: bad: broken", "1 of 3 files were skipped"]
    with pytest.raises(UserError, match="^bad: broken"):
        list(readable({"bad": "1"}, read, LOG))


def test_no_file_that_can_be_read(tmp_path):
    def read(path):
        raise UserError("broken")

    with pytest.raises(UserError, match="^a: none of 2 files could be read$"):
        list(readable({"a": "1", "b": "2"}, read, LOG))
    touch(tmp_path, "a.nii", "b.nii")
    with pytest.raises(UserError, match="none of 2 scans could be read; expected NIfTI scans"):
        list(readable_scans([tmp_path], read, LOG))


def test_what_lies_in_a_simulated_folder_is_simulated(tmp_path):
    described = {
        "simulated": True,
        "simulated/derivatives/of-another-program": None,
        "real": None,
    }
    for folder, key in described.items():
        (tmp_path / folder).mkdir(parents=True)
        content = {"Name": "x"} | ({SIMULATED_KEY: True} if key else {})
        (tmp_path / folder / "dataset_description.json").write_text(json.dumps(content))
    scan = Path("sub-1", "anat", "sub-1_T1w.nii.gz")
    assert comes_from_simulation(tmp_path / "simulated" / scan)
    assert comes_from_simulation(tmp_path / "simulated/derivatives/of-another-program" / scan)
    assert not comes_from_simulation(tmp_path / "real" / scan)
    assert not comes_from_simulation(tmp_path / scan)


def test_a_path_below_the_present_folder(tmp_path, monkeypatch):
    (tmp_path / "dataset_description.json").write_text(json.dumps({SIMULATED_KEY: True}))
    monkeypatch.chdir(tmp_path)
    assert comes_from_simulation("sub-1_T1w.nii.gz")
