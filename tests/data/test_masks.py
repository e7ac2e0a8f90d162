"""Brain masks: found by pattern or made by a tool, applied to scans, in a store's key."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from brainvq.data import (
    Cohort,
    load_scan,
    prepare,
    read_bids,
    scan_files,
    with_mask_tool,
    with_masks,
)
from brainvq.data.scans import ScanError
from brainvq.data.simulation import simulated_cohort
from brainvq.data.steps import ScaleIntensity
from brainvq.errors import UserError


@pytest.fixture
def root(make, tmp_path):
    return make.bids(tmp_path / "bids [1]", subjects=3)


def image_of(make, cohort, place=0):
    return load_scan(cohort.table["paths"][place][:1])


def put_masks(make, cohort, pattern, count=None):
    """A mask of the left half of every scan."""
    for row in cohort.table.itertuples():
        image, affine = load_scan(row.paths)
        mask = np.zeros(image.shape, np.uint8)
        mask[: image.shape[0] // 2] = 1
        folder = row.paths[0].rpartition("/")[0]
        make.write_nifti(pattern.format(folder=folder, **row._asdict()), mask, affine)
        count = None if count is None else count - 1
        if count == 0:
            break


def test_a_masked_scan_is_read_without_the_rest(make, root):
    cohort = read_bids(root)
    put_masks(make, cohort, "{folder}/{scan_id}_mask.nii.gz")
    masked = with_masks(cohort, "{scan}_mask.nii.gz")
    assert "brain masks {scan}_mask.nii.gz" in masked.note
    for before, after in zip(cohort.table["paths"], masked.table["paths"], strict=True):
        whole, affine = load_scan(before)
        image, same = load_scan(after)
        half = whole.shape[0] // 2
        np.testing.assert_array_equal(image[:half], whole[:half])
        assert (image[half:] == 0).all()
        np.testing.assert_array_equal(same, affine)
        assert [file.name for file in scan_files(after)][1].endswith("_mask.nii.gz")


def test_a_mask_on_another_grid(make, tmp_path):
    image = make.blob((8, 10, 6)) + 1
    scan = make.write_nifti(tmp_path / "a.nii.gz", image, np.diag([2.0, 2, 2, 1]))
    mask = np.zeros((16, 20, 12), np.uint8)
    mask[8:] = 1
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[:3, 3] = [14.5, -0.5, -0.5]  # voxels 8 and up are x of 6.5 mm and less
    file = make.write_nifti(tmp_path / "m.nii.gz", mask, flipped)
    masked, _ = load_scan((str(scan), f"mask={file}"))
    np.testing.assert_array_equal(masked[:4], image[:4])
    assert (masked[4:] == 0).all()


def test_masks_of_bids_derivatives(make, root):
    cohort = read_bids(root)
    derived = f"{root}/derivatives/tool/sub-{{subject}}/anat/sub-{{subject}}"
    put_masks(make, cohort, derived + "_desc-brain_mask.nii.gz")
    put_masks(make, cohort, derived + "_space-MNI_desc-brain_mask.nii.gz")
    masked = with_masks(cohort, "bids")
    assert all(
        paths[1].endswith(f"sub-{subject}_desc-brain_mask.nii.gz")
        for subject, paths in zip(masked.table["subject"], masked.table["paths"], strict=True)
    )
    by_hand = with_masks(
        cohort, "{root}/derivatives/*/sub-{subject}/anat/sub-{subject}_desc-brain_mask.nii.gz"
    )
    assert by_hand.table["paths"].tolist() == masked.table["paths"].tolist()


def test_the_mask_of_the_run_and_of_one_of_several_programs(make, tmp_path, caplog):
    root = make.bids(tmp_path / "data", subjects=1)
    first = root / "sub-01/anat/sub-01_T1w.nii.gz"
    for number in (1, 2):
        shutil.copy(first, first.with_name(f"sub-01_run-{number}_T1w.nii.gz"))
    first.unlink()
    cohort = read_bids(root)
    folder = f"{root}/derivatives/{{tool}}/sub-{{subject}}/anat/sub-{{subject}}"
    for tool in ("b", "a"):
        put_masks(make, cohort, folder.replace("{tool}", tool) + "_run-0{run}_desc-brain_mask.nii")
    table = with_masks(cohort, "bids").table
    assert [paths[1].removeprefix(f"mask={root}/derivatives/") for paths in table["paths"]] == [
        f"a/sub-01/anat/sub-01_run-0{run}_desc-brain_mask.nii" for run in (1, 2)
    ]
    assert "2 of 2 scans have several that fit" in caplog.text


def test_masks_of_sessions(make, tmp_path):
    root = make.bids(tmp_path / "data", subjects=1, sessions=("a", "b"))
    cohort = read_bids(root)
    pattern = f"{root}/derivatives/tool/sub-{{subject}}/ses-{{session}}/anat/"
    put_masks(make, cohort, pattern + "sub-{subject}_ses-{session}_desc-brain_mask.nii.gz")
    table = with_masks(cohort, "bids").table
    for session, paths in zip(table["session"], table["paths"], strict=True):
        assert f"/ses-{session}/" in paths[1]


def test_a_missing_mask_leaves_its_scan_out(make, root, tmp_path, capsys):
    cohort = read_bids(root)
    put_masks(make, cohort, "{folder}/{scan_id}_mask.nii.gz", count=2)
    masked = with_masks(cohort, "{scan}_mask.nii.gz")
    assert "missing for 1 scans" in masked.note
    store = prepare(
        masked, [ScaleIntensity()], tmp_path / "cache", layout="volumes", workers=1, progress=False
    )
    assert len(store) == 2
    message = store.failures["message"][0]
    assert "sub-03_T1w_mask.nii.gz: no such file" in message
    assert (store.read([0])[0, 4:, ..., 0] == 0).all()
    unmasked = prepare(
        cohort, [ScaleIntensity()], tmp_path / "cache", layout="volumes", workers=1, progress=False
    )
    assert unmasked.key != store.key
    assert "1 of 3 scans left out" in capsys.readouterr().out


def test_masks_survive_a_table(make, root, tmp_path):
    cohort = read_bids(root)
    put_masks(make, cohort, "{folder}/{scan_id}_mask.nii.gz")
    masked = with_masks(cohort, "{scan}_mask.nii.gz")
    masked.to_csv(tmp_path / "cohort.csv")
    again = Cohort.from_csv(tmp_path / "cohort.csv")
    assert again.table["paths"].tolist() == masked.table["paths"].tolist()
    paths = json.dumps(["a.nii.gz", "mask=masks/a.nii.gz"])
    table = f'scan_id,subject,paths\na,a,"{paths.replace(chr(34), chr(34) * 2)}"\n'
    (tmp_path / "hand.csv").write_text(table)
    (own,) = Cohort.from_csv(tmp_path / "hand.csv").table["paths"]
    assert own == (f"{tmp_path}/a.nii.gz", f"mask={tmp_path}/masks/a.nii.gz")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{brain}.nii.gz", "field 'brain' is not known; expected a path with {scan}"),
        ("{}.nii.gz", "field '' is not known"),
        ("", "field '' is not known"),
        ("{scan", "expected a path with fields"),
        ("{scan}_brain.nii.gz", "none for any of 3 scans, e.g. no .*sub-01_T1w_brain.nii.gz"),
        ("*_mask.nii.gz", "matches 2 files"),
    ],
)
def test_wrong_patterns(make, root, pattern, message):
    cohort = read_bids(root)
    put_masks(make, cohort, "{folder}/{scan_id}_mask.nii.gz")
    put_masks(make, cohort, "{folder}/other_mask.nii.gz")
    with pytest.raises(UserError, match=message) as caught:
        with_masks(cohort, pattern)
    assert "\n" not in str(caught.value)


def test_simulated_scans_need_no_masks():
    with pytest.raises(UserError, match="is simulated and needs none"):
        with_masks(simulated_cohort(1), "{scan}_mask.nii.gz")


def test_masks_that_are_none(make, tmp_path):
    scan = make.write_nifti(tmp_path / "a.nii.gz")
    empty = make.write_nifti(tmp_path / "empty.nii.gz", np.zeros((8, 10, 6), np.uint8))
    with pytest.raises(ScanError, match="empty.nii.gz: every voxel is 0"):
        load_scan((str(scan), f"mask={empty}"))
    mask = np.zeros((8, 10, 6), np.uint8)
    mask[2:4] = 1
    far = np.diag([2.0, 2, 2, 1])
    far[:3, 3] = 500
    far = make.write_nifti(tmp_path / "far.nii.gz", mask, far)
    with pytest.raises(ScanError, match="far.nii.gz: the mask has no voxel in common"):
        load_scan((str(scan), f"mask={far}"))
    with pytest.raises(ScanError, match="scan without a path"):
        load_scan((f"mask={far}",))


# Counts its calls, writes the left half of the scan as its mask; some files it does not like.
TOOL = """
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

image, mask = sys.argv[1:]
with open(Path(__file__).with_name("calls.txt"), "a") as calls:
    calls.write(Path(image).name + "\\n")
if "sub-02" in image:
    print("loading", file=sys.stderr)
    sys.exit("no brain in this one")
if "sub-04" in image:
    sys.exit(0)
loaded = nib.load(image)
half = np.zeros(loaded.shape, np.uint8)
half[: len(half) // 2] = "sub-05" not in image
nib.save(nib.Nifti1Image(half, loaded.affine), mask)
"""


class Tool:
    def __init__(self, folder):
        folder.mkdir()
        self.script, self.calls_file = folder / "tool.py", folder / "calls.txt"
        self.script.write_text(TOOL)
        self.command = f"{sys.executable} '{self.script}' {{input}} {{mask}}"

    def calls(self):
        calls = sorted(self.calls_file.read_text().split()) if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return calls


@pytest.fixture
def tool(tmp_path):
    return Tool(tmp_path / "a tool")


def masked_by(cohort, tool, tmp_path, **options):
    return with_mask_tool(cohort, tool.command, tmp_path / "masks", progress=False, **options)


def only(cohort, *subjects):
    table = cohort.table[cohort.table["subject"].isin(subjects)].reset_index(drop=True)
    return dataclasses.replace(cohort, table=table)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_tool_makes_masks_once(make, tool, tmp_path, workers):
    cohort = only(read_bids(make.bids(tmp_path / "bids [1]", subjects=3)), "01", "03")
    masked = masked_by(cohort, tool, tmp_path, workers=workers)
    assert masked.note.endswith("brain masks by " + Path(sys.executable).name)
    for before, after in zip(cohort.table["paths"], masked.table["paths"], strict=True):
        whole, _ = load_scan(before)
        image, _ = load_scan(after)
        half = whole.shape[0] // 2
        np.testing.assert_array_equal(image[:half], whole[:half])
        assert (image[half:] == 0).all()
    assert tool.calls() == ["sub-01_T1w.nii.gz", "sub-03_T1w.nii.gz"]
    again = masked_by(cohort, tool, tmp_path)
    assert again.table["paths"].tolist() == masked.table["paths"].tolist()
    assert tool.calls() == []
    assert sorted(file.name for file in (tmp_path / "masks").iterdir()) == sorted(
        Path(paths[1]).name for paths in masked.table["paths"]
    )


def test_a_tool_runs_for_what_is_new(make, tool, tmp_path):
    cohort = only(read_bids(make.bids(tmp_path / "bids", subjects=3)), "01", "03")
    masked = masked_by(cohort, tool, tmp_path)
    tool.calls()
    # As after a kill: one mask is missing.
    Path(masked.table["paths"][0][1].removeprefix("mask=")).unlink()
    masked_by(cohort, tool, tmp_path)
    assert tool.calls() == ["sub-01_T1w.nii.gz"]
    os.utime(cohort.table["paths"][1][0], (1, 1))
    changed = masked_by(cohort, tool, tmp_path)
    assert tool.calls() == ["sub-03_T1w.nii.gz"]
    assert changed.table["paths"][1] != masked.table["paths"][1]
    tool.command += " "  # the same words
    masked_by(cohort, tool, tmp_path)
    assert tool.calls() == []
    tool.command = tool.command.replace(" '", " -B '")
    masked_by(cohort, tool, tmp_path)
    assert len(tool.calls()) == 2


def test_scans_without_a_mask_of_the_tool_are_left_out(make, tool, tmp_path, capsys):
    cohort = read_bids(make.bids(tmp_path / "bids", subjects=5))
    masked = masked_by(cohort, tool, tmp_path)
    assert "missing for 3 scans" in masked.note
    output = capsys.readouterr().out
    name = sys.executable
    assert (
        f"no brain mask of sub-02_T1w: {name} ended with status 1 (no brain in this one)" in output
    )
    assert f"no brain mask of sub-04_T1w: {name} wrote no file\n" in output
    assert f"no brain mask of sub-05_T1w: what {name} wrote: every voxel is 0" in output
    store = prepare(
        masked, [ScaleIntensity()], tmp_path / "cache", layout="volumes", workers=1, progress=False
    )
    assert list(store.failures["scan_id"]) == ["sub-02_T1w", "sub-04_T1w", "sub-05_T1w"]
    assert store.failures["message"].str.contains("nii.gz: no such file").all()
    tool.calls()
    masked_by(cohort, tool, tmp_path)  # tried again
    assert len(tool.calls()) == 3
    with pytest.raises(
        UserError, match=r"made no mask for any of 1 scans, e.g. .*no brain in this"
    ):
        masked_by(only(cohort, "02"), tool, tmp_path)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("strip-no-such -i {input} -m {mask}", "strip-no-such: no such program; expected one on"),
        ("strip {input}", r"found \{input\}; expected \{input\}, the scan, and \{mask\}"),
        ("strip {input} {mask} {scan}", r"found \{input\}, \{mask\}, \{scan\}; expected"),
        ("strip {} {mask}", r"found \{\}, \{mask\}; expected"),
        ("", "found no field; expected"),
        ("strip '{input} {mask}", "No closing quotation; expected a command"),
        ("strip {input {mask}", "expected a command with {input} and {mask}"),
    ],
)
def test_wrong_commands(root, tmp_path, command, message):
    with pytest.raises(UserError, match=message) as caught:
        with_mask_tool(read_bids(root), command, tmp_path / "masks")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "masks").exists()


def test_scans_that_a_tool_cannot_take(root, tool, tmp_path):
    with pytest.raises(UserError, match="is simulated and needs no mask"):
        masked_by(simulated_cohort(1), tool, tmp_path)
    cohort = read_bids(root)
    cohort.table["paths"] = [(*paths, *paths) for paths in cohort.table["paths"]]
    with pytest.raises(UserError, match=r"sub-01_T1w has 2 files \(sub-01_T1w.nii.gz, .*expected"):
        masked_by(cohort, tool, tmp_path)
    (tmp_path / "masks").write_text("a file")
    with pytest.raises(UserError, match="masks: cannot write there"):
        masked_by(read_bids(root), tool, tmp_path)
