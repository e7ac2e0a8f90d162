"""Files that a command line names: finding them, naming their results, reading them."""

import json
import logging
from pathlib import Path

import pytest

from brainvq.data import (
    comes_from_simulation,
    readable,
    scan_paths,
    tractogram_paths,
)
from brainvq.data.readers.bids import SIMULATED_KEY
from brainvq.errors import UserError

LOG = logging.getLogger("test")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_of_scans(tmp_path):
    touch(tmp_path, "a/T1.nii.gz", "b/T1.nii.gz", "b/other.nii", "notes.txt", "derivatives/c.nii")
    paths = [tmp_path / name for name in ("a/T1.nii.gz", "b/T1.nii.gz", "b/other.nii")]
    assert scan_paths([str(tmp_path)]) == paths
    # Files that are named outright are taken whatever they are called.
    mask = tmp_path / "derivatives" / "c.nii"
    assert scan_paths([mask]) == [mask]


def test_one_space_of_each_scan_and_the_entities_of_a_folder(tmp_path, caplog):
    names = [f"sub-{person}_{space}T1w.nii" for person in "12" for space in ("", "space-M_")]
    touch(tmp_path, *names, "sub-3_run-1_T1w.nii", "sub-3_run-2_T1w.nii")
    found = [path.name for path in scan_paths([tmp_path])]
    assert found == [names[0], names[2], "sub-3_run-1_T1w.nii", "sub-3_run-2_T1w.nii"]
    assert "2 images, of which there is one in another space, left out" in caplog.text
    for words in ({"entities": "space=M"}, {"preferred": "space=M"}):
        assert [path.name for path in scan_paths([tmp_path], **words)] == names[1::2]
    assert len(scan_paths([tmp_path], preferred="space=N")) == 4
    with pytest.raises(UserError, match="--entities: found space=N, but no file of .*sub-1_T1w"):
        scan_paths([tmp_path], entities="space=N")
    with pytest.raises(UserError, match="--entities: found 'N'; expected names and labels"):
        scan_paths([tmp_path], entities="N")


@pytest.mark.parametrize(("find", "end"), [(scan_paths, "nii"), (tractogram_paths, "trk")])
def test_what_bidsignore_names_is_left_out(find, end, tmp_path, caplog):
    touch(
        tmp_path, f"sub-1/a.{end}", f"sub-2/b.{end}", f"sub-2/c.{end}", "dataset_description.json"
    )
    (tmp_path / ".bidsignore").write_text("**/b.*\nsub-1/\n")
    assert find([tmp_path]) == find([tmp_path / "sub-2"]) == [tmp_path / f"sub-2/c.{end}"]
    assert "2 files that .bidsignore names left out" in caplog.text
    assert find([tmp_path / f"sub-2/b.{end}"]) == [tmp_path / f"sub-2/b.{end}"]


def test_a_folder_of_pictures(tmp_path):
    touch(tmp_path, "a.png", "b.JPG", "c.txt")
    assert [path.name for path in scan_paths([tmp_path])] == ["a.png", "b.JPG"]
    touch(tmp_path, "scan.nii")
    assert [path.name for path in scan_paths([tmp_path])] == ["scan.nii"]


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
    assert scan_paths(pair) == pair[1:]


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


def test_no_file_that_can_be_read():
    def read(path):
        raise UserError("broken")

    with pytest.raises(UserError, match="^a: none of 2 files could be read$"):
        list(readable({"a": "1", "b": "2"}, read, LOG))


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
