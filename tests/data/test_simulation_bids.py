import errno
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainvq.data import (
    load_scan,
    open_cohort,
    simulate,
    simulated_cohort,
    tissue_labels,
    write_simulated_bids,
)
from brainvq.data import simulation_bids as module
from brainvq.errors import UserError
from tests.scripts.conftest import bids_errors

COLUMNS = ["age", "sex", "group", "site", "modality", "tr", "te", "pixel_bandwidth", "manufacturer"]
QUICK = {"workers": 1, "progress": False}


def small_cohort(count=4, modality="T1w", seed=3):
    groups = {"healthy": 0.5, "MS": 0.25, "leuko2": 0.25}
    return simulated_cohort(count, modality, spacing=8.0, groups=groups, seed=seed)


@pytest.fixture(scope="module")
def cohort():
    return small_cohort()


@pytest.fixture(scope="module")
def root(cohort, tmp_path_factory):
    return write_simulated_bids(cohort, tmp_path_factory.mktemp("bids") / "sim", **QUICK)


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes() if path.suffix != ".gz" else None
        for path in root.rglob("*")
        if path.is_file()
    }


def test_the_bids_validator_finds_no_error(root):
    for folder in (root, *(root / "derivatives").iterdir()):
        assert bids_errors(folder) == [], folder


def test_round_trip(cohort, root):
    written = open_cohort("bids", root)
    assert written.simulated
    assert "simulated" in written.note
    assert written.subjects == cohort.subjects
    by_subject = [c.table.set_index("subject").sort_index() for c in (cohort, written)]
    pd.testing.assert_frame_equal(by_subject[0][COLUMNS], by_subject[1][COLUMNS])
    for before, after in zip(*(table["paths"] for table in by_subject), strict=True):
        image, affine = load_scan(before)
        stored, stored_affine = load_scan(after)
        np.testing.assert_array_equal(stored, image)
        np.testing.assert_allclose(stored_affine, affine, atol=1e-5)


def test_masks_and_labels(cohort, root):
    for row in cohort.table.itertuples():
        scan = simulate(row.paths[0].removeprefix("simulated:"))
        name = f"sub-{row.subject}"
        for kind, file, expected in (
            ("lesions", "label-lesion_mask", scan.lesion_mask),
            ("tissues", "desc-tissue_dseg", scan.labels),
        ):
            stored = nib.load(root / "derivatives" / kind / name / "anat" / f"{name}_{file}.nii.gz")
            assert stored.get_data_dtype() == np.uint8
            np.testing.assert_array_equal(np.asarray(stored.dataobj), expected)
            np.testing.assert_allclose(stored.affine, scan.affine, atol=1e-5)
        assert scan.lesion_mask.any() == (row.group != "healthy")


def test_labels_are_found_from_parameters_and_from_files(cohort, root, tmp_path):
    read = open_cohort("bids", root).table.set_index("subject")["paths"]
    for row in cohort.table.itertuples():
        scan = simulate(json.loads(row.paths[0].removeprefix("simulated:")))
        for paths in (row.paths, read[row.subject]):
            labels, affine = tissue_labels(paths)
            np.testing.assert_array_equal(labels, scan.labels)
            np.testing.assert_allclose(affine, scan.affine)
    with pytest.raises(UserError, match="no simulated scan with labels"):
        tissue_labels([tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz"])


def test_descriptions(cohort, root):
    for folder in (root, root / "derivatives" / "lesions", root / "derivatives" / "tissues"):
        described = json.loads((folder / "dataset_description.json").read_text())
        assert "simulated" in described["Name"].lower()
        assert described["BIDSVersion"]
        assert described["DatasetType"] == ("raw" if folder == root else "derivative")
    people = pd.read_csv(root / "participants.tsv", sep="\t")
    assert list(people.columns) == ["participant_id", "age", "sex", "group", "site"]
    assert list(people["participant_id"]) == [f"sub-{subject}" for subject in cohort.subjects]
    labels = pd.read_csv(root / "derivatives" / "tissues" / "dseg.tsv", sep="\t")
    assert dict(zip(labels["name"], labels["index"], strict=True))["wm"] == 3
    sidecar = json.loads((root / "sub-sim0001" / "anat" / "sub-sim0001_T1w.json").read_text())
    assert {"RepetitionTime", "EchoTime", "PixelBandwidth", "Manufacturer"} <= set(sidecar)
    assert (sidecar["SimulationParameters"]["number"], sidecar["Modality"]) == (0, "MR")


def test_what_is_there_is_not_made_again(cohort, tmp_path, monkeypatch):
    simulated = []

    def counted(params):
        simulated.append(params["number"])
        if len(simulated) == 3:
            raise KeyboardInterrupt
        return simulate(params)

    monkeypatch.setattr(module, "simulate", counted)
    with pytest.raises(KeyboardInterrupt):
        write_simulated_bids(cohort, tmp_path / "a", **QUICK)
    assert simulated == [0, 1, 2]
    assert open_cohort("bids", tmp_path / "a").simulated  # even an unfinished one says so
    (tmp_path / "a" / "sub-sim0001" / "anat" / "sub-sim0001_T1w.json").unlink()  # a kill before it
    write_simulated_bids(cohort, tmp_path / "a", **QUICK)
    assert simulated[3:] == [0, 2, 3]
    write_simulated_bids(cohort, tmp_path / "a", **QUICK)
    assert len(simulated) == 6
    assert len(open_cohort("bids", tmp_path / "a")) == 4
    assert not [path for path in (tmp_path / "a").rglob(".*")]


def test_processes_write_the_same(cohort, root, tmp_path):
    half = cohort.select(subject=["sim0001", "sim0002"])
    other = write_simulated_bids(half, tmp_path / "b", workers=2, progress=False)
    for path in other.rglob("sub-*_*"):
        same = root / path.relative_to(other)
        if path.suffix == ".json":
            assert path.read_text() == same.read_text()
        else:
            np.testing.assert_array_equal(nib.load(path).dataobj, nib.load(same).dataobj)
    assert len(open_cohort("bids", other)) == 2


def test_a_second_modality_and_more_subjects(cohort, tmp_path):
    write_simulated_bids(cohort.select(subject=["sim0001"]), tmp_path, **QUICK)
    write_simulated_bids(cohort.select(subject=["sim0003"]), tmp_path, **QUICK)
    write_simulated_bids(
        small_cohort(modality="FLAIR").select(subject=["sim0001"]), tmp_path, **QUICK
    )
    people = pd.read_csv(tmp_path / "participants.tsv", sep="\t")
    assert list(people["participant_id"]) == ["sub-sim0001", "sub-sim0003"]
    assert open_cohort("bids", tmp_path).subjects == ["sim0001", "sim0003"]
    flair = open_cohort("bids", tmp_path, suffix="FLAIR")
    assert flair.subjects == ["sim0001"]
    assert flair.table["te"][0] > 0.08


def test_other_cohorts_and_folders_are_refused(cohort, root, tmp_path, make):
    before = files(root)
    with pytest.raises(UserError, match="sub-sim0001 was simulated with other parameters"):
        write_simulated_bids(small_cohort(seed=4), root, **QUICK)
    assert files(root) == before
    real = make.bids(tmp_path / "real")
    before = files(real)
    with pytest.raises(UserError, match="real: holds other data .*participants.tsv"):
        write_simulated_bids(cohort, real, **QUICK)
    with pytest.raises(UserError, match=r"sub-01_T1w\.nii\.gz is no simulated scan"):
        write_simulated_bids(open_cohort("bids", real), tmp_path / "new", **QUICK)
    assert files(real) == before
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: is a file"):
        write_simulated_bids(cohort, tmp_path / "file", **QUICK)
    assert not open_cohort("bids", real).simulated


def test_a_full_disk(cohort, tmp_path, monkeypatch):
    def full(path, *args):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(module, "save_nifti", full)
    with pytest.raises(UserError, match="sim: the disk is full; .* finished scans are kept"):
        write_simulated_bids(cohort, tmp_path / "sim", **QUICK)
    assert not list(Path(tmp_path).rglob("*.nii.gz"))


def test_visits_become_sessions(tmp_path):
    cohort = simulated_cohort(
        2, "FLAIR", 8.0, {"healthy": 1, "MS": 1}, scans={"MS": 2}, space="mni", seed=5
    )
    root = write_simulated_bids(cohort, tmp_path / "sim", **QUICK)
    written = open_cohort("bids", root, suffix="FLAIR")
    by_scan = [c.table.set_index("scan_id").sort_index() for c in (cohort, written)]
    assert by_scan[1].index.tolist() == [f"sub-{scan}" for scan in by_scan[0].index]
    columns = ["subject", "session", *COLUMNS]
    pd.testing.assert_frame_equal(
        by_scan[0][columns].reset_index(drop=True), by_scan[1][columns].reset_index(drop=True)
    )
    for before, after in zip(*(table["paths"] for table in by_scan), strict=True):
        np.testing.assert_array_equal(load_scan(after)[0], load_scan(before)[0])
        np.testing.assert_array_equal(tissue_labels(after)[0], tissue_labels(before)[0])
    people = pd.read_csv(root / "participants.tsv", sep="\t")
    assert len(people) == 2
    first = cohort.table.drop_duplicates("subject").set_index("subject")["age"]
    ages = people.set_index("participant_id")["age"]
    assert ages.to_dict() == {f"sub-{subject}": age for subject, age in first.items()}
    before = files(root)
    write_simulated_bids(cohort, root, **QUICK)
    assert files(root) == before
