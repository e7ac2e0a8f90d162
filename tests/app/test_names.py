"""Names of results: no two alike in a call, nor in a folder that several calls write to."""

import logging
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainvq.app import predict
from brainvq.data.derivatives import Derivatives, label
from brainvq.files import read_csv
from brainvq.tasks.names import bids_name, inputs, readable_inputs, stem_of, write_rows

LOG = logging.getLogger("brainvq")


def names(paths, **options):
    return [one.name for one in inputs(map(Path, paths), **options).values()]


def test_people_in_folders_of_one_name_are_told_apart_by_the_folder_that_differs():
    given = inputs(Path(f"{person}/T1w/T1w_brain.nii.gz") for person in ("100301", "100302"))
    assert [one.name for one in given.values()] == ["100301_T1w_brain", "100302_T1w_brain"]
    assert [one.subject for one in given.values()] == ["100301", "100302"]


def test_dots_are_parts_of_names():
    assert names(["a/1.3.12.2.0.nii.gz", "a/1.3.12.2.1.NII.GZ"]) == ["1.3.12.2.0", "1.3.12.2.1"]
    assert stem_of("brain.v1.mgz") == "brain.v1"
    assert stem_of("case_4_slice_0.nii.png") == stem_of("case_4_slice_0.JPG") == "case_4_slice_0"


def test_subjects_and_sessions_are_names_where_they_suffice():
    paths = ["sub-01_T1w.nii", "sub-02_ses-1_T1w.nii", "sub-02_ses-2_T1w.nii", "IXI002-Guys.nii"]
    assert names(paths) == ["sub-01", "sub-02_ses-1", "sub-02_ses-2", "IXI002"]
    assert names(["ds/sub-03/ses-4/anat/T1w.nii"]) == ["sub-03_ses-4"]
    assert names(["OAS2_0001_MR1.hdr", "OAS2_0001_MR2.hdr"]) == ["OAS2_0001_MR1", "OAS2_0001_MR2"]
    runs = ["sub-05_run-1_T1w.nii", "sub-05_run-2_T1w.nii"]
    assert names(runs) == ["sub-05_run-1_T1w", "sub-05_run-2_T1w"]


def test_one_file_named_twice_is_one():
    assert names(["a/b.nii", "a/../a/b.nii"]) == ["b"]


def test_endings_and_case_tell_apart_on_any_file_system():
    given = names(["a/x.nii", "a/x.nii.gz", "b/X.nii"])
    assert len({name.casefold() for name in given}) == 3


PARTS = st.sampled_from(["a", "A", "b", "a_b", "a_2", "b_nii", "sub-1", "sub-1_b", "1.2", "1.3"])
ENDINGS = st.sampled_from([".nii", ".nii.gz", ".trk", ".npy"])


@given(parts=st.lists(st.tuples(PARTS, PARTS, PARTS, ENDINGS)), people=st.booleans())
def test_no_two_names_are_the_same(parts, people):
    paths = dict.fromkeys(Path(one, two, three + ending) for one, two, three, ending in parts)
    given = inputs(paths, people=people)
    assert list(given) == list(paths)
    assert len({one.name.casefold() for one in given.values()}) == len(paths)


@given(parts=st.lists(st.tuples(PARTS, PARTS, PARTS, ENDINGS)))
def test_no_two_images_are_the_same(parts):
    results = Derivatives("out", "a run")
    paths = dict.fromkeys(Path(one, two, three + ending) for one, two, three, ending in parts)
    files = []
    for path, one in inputs(paths).items():
        start, contrast = bids_name(one.name, path)
        files.append(str(results.file(start, "recon", contrast)).casefold())
        labels = r"sub-[a-z0-9]+(_(ses|acq|desc)-[a-z0-9]+)*_desc-[a-z0-9]+_t1w\.nii\.gz"
        assert re.fullmatch(labels, Path(files[-1]).name)
    assert len(set(files)) == len(paths)


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("sub-01_T1w.nii.gz", "sub-01/anat/sub-01_desc-recon_T1w"),
        ("sub-01_ses-2_FLAIR.nii", "sub-01/ses-2/anat/sub-01_ses-2_desc-recon_FLAIR"),
        ("sub-01_acq-x_run-1_T1w.nii", "sub-01/anat/sub-01_acq-x_run-1_desc-recon_T1w"),
        (
            "sub-01_space-MNI152NLin6Asym_res-2_desc-preproc_T1w.nii",
            "sub-01/anat/sub-01_space-MNI152NLin6Asym_res-2_desc-preprocrecon_T1w",
        ),
        ("sub-01_inv-1_MP2RAGE.nii", "sub-01/anat/sub-01_desc-recon_T2w"),
        ("sub-01/anat/brain.nii", "sub-01/anat/sub-01_desc-recon_T2w"),
        ("IXI012-HH-1211-T1.nii.gz", "sub-IXI012/anat/sub-IXI012_desc-recon_T2w"),
        ("OAS2_0001_MR1.hdr", "sub-OAS20001/ses-MR1/anat/sub-OAS20001_ses-MR1_desc-recon_T2w"),
        ("a b.é.nii", "sub-abe/anat/sub-abe_desc-recon_T2w"),
        ("-.nii", "sub-x/anat/sub-x_desc-recon_T2w"),
    ],
)
def test_where_images_of_a_scan_go(file, image):
    (given,) = inputs([Path(file)]).values()
    start, contrast = bids_name(given.name, given.path)
    found = Derivatives("out", "a run", contrast="T2w").file(start, "recon", contrast)
    assert found == Path("out", f"{image}.nii.gz")


def test_what_tells_scans_of_a_person_apart_stays_in_the_names_of_images():
    names = ["sub-1_run-1_T1w", "sub-1_run-2_T1w", "sub-1_run-2_FLAIR", "sub-1_desc-x_T1w"]
    names += ["sub-1_T1w", "sub-1_task-y_T1w"]
    results, found = Derivatives("out", "a run"), []
    for path, one in inputs(Path(f"{name}.nii") for name in names).items():
        start, contrast = bids_name(one.name, path)
        found.append(results.file(start, "recon", contrast).name.removesuffix(".nii.gz"))
    assert found == [
        *("sub-1_run-1_desc-recon_T1w", "sub-1_run-2_desc-recon_T1w"),
        *("sub-1_run-2_desc-recon_FLAIR", "sub-1_desc-xrecon_T1w"),
        *("sub-1_desc-recon_T1w", "sub-1_acq-sub1tasky" + "T1w_desc-recon_T1w"),
    ]


@given(st.text())
def test_a_label_is_letters_and_digits(text):
    assert re.fullmatch(r"[A-Za-z0-9]{1,100}", label(text))


def test_long_names_leave_room_for_endings():
    given = names([f"a/{'ä' * 120}{number}.nii" for number in range(3)])
    assert len(set(given)) == 3
    assert max(len(name.encode()) for name in given) < 200


def read(paths, **options):
    """Names of files that are read one after another."""
    where = {name: options[name] for name in ("out", "run")}
    given = inputs(paths, **options)
    return [one.name for _, one, _ in readable_inputs(given, str, LOG, **where)]


def test_a_folder_remembers_which_file_a_name_stands_for(tmp_path):
    first, second = (Path(person, "codes.npy") for person in ("monday", "tuesday"))
    options = {"people": False, "out": tmp_path, "run": "a"}
    assert read([first], **options) == ["codes"]
    assert read([second], **options) == ["tuesday_codes"]
    assert read([second, first], **options) == ["tuesday_codes", "codes"]
    # Of another run nothing is left to keep.
    assert read([second], **{**options, "run": "b"}) == ["codes"]


def test_a_table_keeps_the_rows_of_earlier_calls(tmp_path):
    table = tmp_path / "scans.tsv"
    for session, bits in (("1", 10), ("2", 20), ("2", 30)):
        options = {"out": tmp_path, "run": "a"}
        (name,) = read([Path(f"sub-01_ses-{session}_T1w.nii")], **options)
        write_rows(table, [{"name": name, "subject": "sub-01", "bits": bits}])
    expected = "name,subject,bits\nsub-01_ses-1,sub-01,10\nsub-01_ses-2,sub-01,30\n"
    assert table.read_text() == expected.replace(",", "\t")


@pytest.fixture
def heads(tmp_path):
    """Two people whose scans have one name."""
    paths = []
    for number, person in enumerate(("p1", "p2")):
        ball = np.linalg.norm(np.indices((40, 40, 30)) - 18.0, axis=0) < 12
        noise = np.random.default_rng(number).uniform(300, 500, ball.shape)
        paths.append(tmp_path / person / "brain.nii.gz")
        paths[-1].parent.mkdir()
        nib.save(
            nib.Nifti1Image((ball * noise).astype("float32"), np.diag([4, 4, 4, 1])), paths[-1]
        )
    return paths


def test_encode_of_two_people_one_after_the_other(heads, tmp_path):
    for path in heads:
        predict.main(["oasis2d", "encode", str(path), "--out", str(tmp_path / "out")])
    table = read_csv(tmp_path / "out" / "scans.tsv")
    assert list(table["name"]) == ["brain", "p2_brain"]
    assert table["subject"].nunique() == 2
    assert list(table["file"]) == list(map(str, heads))
    codes = [np.load(tmp_path / "out" / f"{name}.npy") for name in table["name"]]
    assert (codes[0] != codes[1]).any()
