import json
import shutil

import numpy as np
import pytest
from nibabel.orientations import aff2axcodes

from brainvq.data import Cohort, load_scan, open_cohort, readers, with_masks
from brainvq.errors import UserError


def by_scan(cohort):
    return cohort.table.set_index("scan_id")


# --- the door ---


def test_unknown_source_option_and_root(make, tmp_path):
    with pytest.raises(UserError, match="'oasis' is unknown .did you mean 'oasis"):
        open_cohort("oasis", tmp_path)
    with pytest.raises(UserError, match="has no option sufix; options are suffix"):
        open_cohort("bids", tmp_path, sufix="T1w")
    with pytest.raises(UserError, match="needs the folder"):
        open_cohort("bids")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        open_cohort("bids", tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: is a file"):
        open_cohort("oasis1", tmp_path / "file")
    with pytest.raises(UserError, match="'simulated' needs the option n_subjects"):
        open_cohort("simulated")


def test_a_source_without_files(monkeypatch):
    monkeypatch.setitem(readers.SOURCES, "simulated", "brainvq.data.cohort:Cohort")
    rows = [{"scan_id": "a", "subject": "a", "paths": ("simulated:{}",)}]
    cohort = open_cohort("simulated", name="toy", table=rows, simulated=True)
    assert cohort.simulated
    assert len(cohort) == 1


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("bids", r"sub-01/\[ses-1/\]anat/"),
        ("oasis1", "OAS1_0001_MR1/PROCESSED"),
        ("oasis2", "OAS2_0001_MR1/RAW/mpr-1"),
        ("png", "keras_png_slices_train/case_441"),
    ],
)
def test_another_layout_is_refused_with_what_was_found(tmp_path, source, expected):
    with pytest.raises(UserError, match=f"expected.*{expected}.*found an empty folder"):
        open_cohort(source, tmp_path)
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="found a/, b/, c/, d/, e/, f/ and 2 more"):
        open_cohort(source, tmp_path)


# --- BIDS ---


def test_bids(make, tmp_path):
    cohort = open_cohort("bids", make.bids(tmp_path / "study"))
    assert cohort.name == "study"
    assert cohort.note == ""
    assert cohort.subjects == [f"{i:02d}" for i in range(1, 7)]
    row = by_scan(cohort).loc["sub-01_T1w"]
    assert (row["age"], row["sex"], row["group"], row["site"]) == (31.0, "F", "patient", "A")
    assert (row["tr"], row["te"], row["manufacturer"]) == (2.3, 0.003, "Maker")
    assert np.isnan(row["pixel_bandwidth"])
    assert np.isnan(by_scan(cohort).loc["sub-06_T1w", "age"])
    np.testing.assert_array_equal(load_scan(row["paths"])[0], make.blob(seed=1))
    assert not any("derivatives" in path for paths in cohort.table["paths"] for path in paths)


def test_bids_suffix_group_and_sessions(make, tmp_path):
    root = make.bids(tmp_path, subjects=2, suffix="FLAIR", sessions=("1", "2"))
    (root / "sub-01" / "sub-01_sessions.tsv").write_text(
        "session_id\tage\nses-1\t31\nses-2\t33.5\n"
    )
    cohort = open_cohort("bids", root, suffix="FLAIR", group_column="Site")
    table = by_scan(cohort)
    assert list(table.index) == [f"sub-{a}_ses-{b}_FLAIR" for a in ("01", "02") for b in "12"]
    np.testing.assert_array_equal(table["age"], [31, 33.5, np.nan, np.nan])
    assert set(table["group"]) == {"A"}
    assert list(table["session"]) == ["1", "2", "1", "2"]
    with pytest.raises(UserError, match="no .*_T1w.nii"):
        open_cohort("bids", root)


def test_bids_sidecars_are_inherited(make, tmp_path):
    root = make.bids(tmp_path, subjects=3)
    folder = root / "sub-01" / "anat"
    (root / "sub-01" / "sub-01_T1w.json").write_text(json.dumps({"EchoTime": 0.004}))
    (folder / "sub-01_T1w.json").write_text(
        json.dumps({"PixelBandwidth": 180, "RepetitionTime": "?"})
    )
    (root / "acq-fast_T1w.json").write_text(json.dumps({"EchoTime": 9}))
    (root / "task-rest_bold.json").write_text(json.dumps({"EchoTime": 8}))
    fast = root / "sub-02" / "anat"
    shutil.move(fast / "sub-02_T1w.nii.gz", fast / "sub-02_acq-fast_T1w.nii.gz")
    table = by_scan(open_cohort("bids", root))
    first = table.loc["sub-01_T1w"]
    assert (first["te"], first["pixel_bandwidth"], first["manufacturer"]) == (0.004, 180, "Maker")
    assert np.isnan(first["tr"])  # the nearest file says something that is no number
    assert table.loc["sub-02_acq-fast_T1w", "te"] == 9
    assert table.loc["sub-02_acq-fast_T1w", "tr"] == 2.3
    assert table.loc["sub-03_T1w", "te"] == 0.003


def test_bids_runs_and_entities(make, tmp_path):
    root = make.bids(tmp_path, subjects=1)
    folder = root / "sub-01" / "anat"
    for name in ("sub-01_run-01_T1w", "sub-01_run-02_T1w", "sub-01_acq-x_run-01_T1w"):
        make.write_nifti(folder / f"{name}.nii")
    (folder / "sub-01_T1w.nii.gz").unlink()
    table = open_cohort("bids", root).table
    assert sorted(zip(table["variant"], table["run"], strict=True)) == [
        ("", "01"),
        ("", "02"),
        ("acq-x", "01"),
    ]
    assert len(open_cohort("bids", root, entities={"run": 1})) == 2
    assert list(open_cohort("bids", root, entities={"acq": "x"}).table["run"]) == ["01"]
    with pytest.raises(UserError, match="with run=7 found.*run: 01, 02"):
        open_cohort("bids", root, entities={"run": "7"})
    assert list(open_cohort("bids", root, entities="acq-x_run-1").table["variant"]) == ["acq-x"]
    with pytest.raises(UserError, match="entities: found 'first'"):
        open_cohort("bids", root, entities="first")
    assert list(open_cohort("bids", root, entities="run=2, acq=").table["run"]) == ["02"]


MNI = "MNI152NLin2009cAsym"


def derivatives(make, root):
    """A folder as fMRIPrep writes it: native and registered images, one person without native."""
    root = make.bids(root, subjects=4, sessions=("1", "2"))
    for path in sorted(root.glob("sub-*/ses-*/anat/*_T1w.nii.gz")):
        for space in (f"space-{MNI}_", f"space-{MNI}_res-2_", "space-MNI152NLin6Asym_"):
            make.write_nifti(path.with_name(path.name.replace("T1w", f"{space}desc-preproc_T1w")))
        mask = path.with_name(path.name.replace("T1w", f"space-{MNI}_desc-brain_mask"))
        make.write_nifti(mask)
        make.write_nifti(path.with_name(path.name.replace("T1w", "desc-brain_mask")))
        native = path.with_name(path.name.replace("T1w", "desc-preproc_T1w"))
        path.rename(native)
        if "sub-04" in path.name:
            native.unlink()
    return root


def test_bids_one_space_of_derivatives(make, tmp_path):
    root = derivatives(make, tmp_path / "fmriprep")
    cohort = open_cohort("bids", root)
    variants = dict.fromkeys(["01", "02", "03"], "desc-preproc")
    variants["04"] = f"space-{MNI}_desc-preproc"
    for subject, part in cohort.table.groupby("subject"):
        assert list(part["variant"]) == [variants[subject]] * 2
    assert "22 images left out, of which there is one in another space" in cohort.note
    registered = open_cohort("bids", root, entities=f"space={MNI},res=2,session=2").table
    assert list(registered["subject"]) == list(variants)
    assert set(registered["variant"]) == {f"space-{MNI}_res-2_desc-preproc"}
    assert set(registered["session"]) == {"2"}
    with pytest.raises(UserError, match=f"space=T1w found.*space: {MNI}, MNI152NLin6Asym, none"):
        open_cohort("bids", root, entities="space=T1w")


def test_bids_masks_of_derivatives_lie_beside_the_scans_and_in_their_space(make, tmp_path):
    root = derivatives(make, tmp_path / "fmriprep")
    for entities, space in (("", ""), (f"space={MNI},res=", f"_space-{MNI}")):
        cohort = open_cohort("bids", root, entities=entities or None).select(subject=["01", "02"])
        for row in with_masks(cohort, "bids").table.itertuples():
            name = f"sub-{row.subject}_ses-{row.session}{space}_desc-brain_mask.nii.gz"
            assert row.paths[-1].endswith(f"sub-{row.subject}/ses-{row.session}/anat/{name}")


def test_bids_ignored_files(make, tmp_path):
    root = make.bids(tmp_path, subjects=4)
    (root / ".bidsignore").write_text("# bad scans\n*_run-*_T1w*\nsub-02/\n/sub-03\n")
    make.write_nifti(root / "sub-01" / "anat" / "sub-01_run-2_T1w.nii")
    cohort = open_cohort("bids", root)
    assert cohort.subjects == ["01", "04"]
    assert "3 images left out by .bidsignore" in cohort.note


def test_bids_a_column_of_groups(make, tmp_path):
    root = make.bids(tmp_path, subjects=2)
    assert set(open_cohort("bids", root, group_column="SITE").table["group"]) == {"A"}
    with pytest.raises(
        UserError, match="no column 'dx'; expected one of participant_id, age, gender"
    ):
        open_cohort("bids", root, group_column="dx")
    (root / "participants.tsv").unlink()
    assert set(open_cohort("bids", root).table["group"]) == {""}
    with pytest.raises(UserError, match="no column 'site'.*no participants"):
        open_cohort("bids", root, group_column="site")


def test_bids_two_files_of_one_visit(make, tmp_path):
    root = make.bids(tmp_path, subjects=2)
    make.write_nifti(root / "sub-02" / "anat" / "sub-02_T1w.nii")
    with pytest.raises(UserError, match=r"subject 02 is there 2 times .*sub-02_T1w\.nii"):
        open_cohort("bids", root)
    (root / "sub-02" / "anat" / "sub-02_T1w.nii").unlink()
    make.write_nifti(root / "sub-02" / "extra" / "sub-02_run-_T1w.nii")
    with pytest.raises(UserError, match="subject 02 is there 2 times"):
        open_cohort("bids", root)


def test_bids_people_and_scans_that_do_not_match(make, tmp_path):
    root = make.bids(tmp_path, subjects=3)
    lines = (root / "participants.tsv").read_text().splitlines()
    (root / "participants.tsv").write_text("\n".join([*lines[:3], "sub-77\t50\tF\tpatient\tB", ""]))
    cohort = open_cohort("bids", root)
    assert cohort.note == (
        "1 subjects are not in participants.tsv; 1 participants have no T1w image here"
    )
    assert np.isnan(by_scan(cohort).loc["sub-03_T1w", "age"])
    (root / "participants.tsv").unlink()
    assert open_cohort("bids", root).table["age"].isna().all()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("participants.tsv", "name,age\nsub-01,3\n", "no column 'participant_id', found name,age"),
        ("participants.tsv", "x\n", "no column 'participant_id', found x"),
    ],
)
def test_bids_tables_with_mistakes(make, tmp_path, file, content, message):
    root = make.bids(tmp_path, subjects=2)
    (root / file).write_text(content)
    with pytest.raises(UserError, match=message):
        open_cohort("bids", root)


@pytest.mark.parametrize("content", ["", "\ufeff", " \r\n\r\n"])
def test_bids_an_empty_table_stops_nothing(make, tmp_path, caplog, content):
    root = make.bids(tmp_path, subjects=3)
    (root / "participants.tsv").write_text(content, encoding="utf-8")
    table = open_cohort("bids", root).table
    assert len(table) == 3
    assert table["age"].isna().all()
    assert "participants.tsv: is empty; taken as a table without rows" in caplog.text


@pytest.mark.parametrize("content", ["{", "[]", "null", "9" * 5000, None])
def test_bids_a_sidecar_that_says_nothing_stops_nothing(make, tmp_path, caplog, content):
    root = make.bids(tmp_path, subjects=3)
    (root / "T1w.json").unlink()
    if content is None:  # a link whose target was not fetched
        (root / "T1w.json").symlink_to("../annex/objects/none.json")
    else:
        (root / "T1w.json").write_text(content)
    cohort = open_cohort("bids", root)
    assert len(cohort) == 3
    assert cohort.table["te"].isna().all()
    assert "T1w.json: is left out" in caplog.text


@pytest.mark.parametrize(
    ("encoding", "site"), [("latin-1", "Köln"), ("utf-8-sig", "Łódź"), ("utf-16", "Łódź")]
)
def test_bids_tables_and_sidecars_in_any_encoding(make, tmp_path, encoding, site):
    root = make.bids(tmp_path, subjects=2)
    table = f"participant_id\tsite\r\nsub-01\t{site}\r\n"
    (root / "participants.tsv").write_bytes(table.encode(encoding))
    (root / "T1w.json").write_bytes(f'{{"InstitutionName": "{site} Süd"}}'.encode(encoding))
    table = by_scan(open_cohort("bids", root))
    assert list(table["site"]) == [site, f"{site} Süd"]


def test_bids_names_that_mean_missing_elsewhere_are_names(make, tmp_path):
    root = make.bids(tmp_path, subjects=3)
    names = {"01": "NA", "02": "null", "03": "nan"}
    for number, name in names.items():
        for path in sorted(root.glob(f"sub-{number}/anat/*")):
            path.rename(path.with_name(path.name.replace(number, name)))
        (root / f"sub-{number}").rename(root / f"sub-{name}")
    (root / "participants.tsv").write_text(
        "participant_id\tgroup\tage\nsub-NA\tNone\tNA\nsub-null\tNA\t31\nsub-nan\tn/a\t32\n"
    )
    cohort = open_cohort("bids", root)
    assert cohort.subjects == ["NA", "nan", "null"]
    cohort.to_csv(tmp_path / "cohort.csv")
    for table in (cohort.table, Cohort.from_csv(tmp_path / "cohort.csv").table):
        table = table.set_index("subject")
        assert dict(table["group"]) == {"NA": "None", "null": "NA", "nan": ""}
        np.testing.assert_array_equal(table.loc[["NA", "null", "nan"], "age"], [np.nan, 31, 32])
    split = dict(zip(cohort.subjects, ("train", "validation", "test"), strict=True))
    (tmp_path / "split.csv").write_text(
        "\ufeffsubject,split\n" + "".join(f"{name},{part}\n" for name, part in split.items())
    )
    (tmp_path / "split.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(split).encode())
    for file in ("split.csv", "split.json"):
        table = cohort.split(assignments=tmp_path / file).table
        assert dict(zip(table["subject"], table["split"], strict=True)) == split


def test_bids_quotation_marks_of_a_table_are_text(make, tmp_path):
    root = make.bids(tmp_path, subjects=4)
    (root / "participants.tsv").write_text(
        'participant_id\t"group"\tsite\n'
        'sub-01\t"HC\t3" nearer\nsub-02\tHC\tsaid "stop\nsub-03\tMS\t"A B"\nsub-04\tMS\t"\n'
    )
    table = by_scan(open_cohort("bids", root))
    assert list(table["group"]) == ['"HC', "HC", "MS", "MS"]
    assert list(table["site"]) == ['3" nearer', 'said "stop', "A B", '"']


def test_bids_a_row_for_each_session_and_rows_that_repeat(make, tmp_path):
    root = make.bids(tmp_path, subjects=2, sessions=("01", "02"))
    rows = ["participant_id\tsession\tgroup\tage", "sub-01\t1\tHC\t30", "sub-01\tses-2\tHC\t32"]
    rows += ["sub-02\t1\tHC\t40", "sub-02\t1\tMS\t40", "sub-02\t2\tHC\t42"]
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    cohort = open_cohort("bids", root)
    assert list(cohort.table["age"]) == [30, 32, 40, 42]
    assert list(cohort.table["group"]) == ["HC", "HC", "", "HC"]
    assert cohort.note == (
        "group of 1 participants left blank: rows of participants.tsv contradict each other, "
        "e.g. sub-02"
    )


def test_bids_behind_links_and_in_capital_letters(make, tmp_path):
    make.bids(tmp_path / "real", subjects=3)
    (tmp_path / "virtual").mkdir()
    for number in (1, 2, 3):
        (tmp_path / f"virtual/sub-0{number}").symlink_to(tmp_path / f"real/sub-0{number}")
    path = tmp_path / "real/sub-02/anat/sub-02_T1w.nii.gz"
    path.rename(path.with_name("sub-02_T1w.NII.GZ"))
    table = open_cohort("bids", tmp_path / "virtual").table
    assert list(table["scan_id"]) == ["sub-01_T1w", "sub-02_T1w", "sub-03_T1w"]
    assert all(load_scan(paths)[0].size for paths in table["paths"])


# --- OASIS-1 ---

OASIS1_GROUPS = {
    "OAS1_0001_MR1": "healthy",
    "OAS1_0002_MR1": "healthy",
    "OAS1_0003_MR1": "dementia",
    "OAS1_0061_MR1": "healthy",
    "OAS1_0061_MR2": "healthy",
    "OAS1_0062_MR1": "unknown",
}


@pytest.mark.parametrize("people", ["csv", "xlsx", "text"])
def test_oasis1(make, tmp_path, people):
    if people == "xlsx":
        pytest.importorskip("openpyxl")
    root = make.oasis1(tmp_path, table=people, text=people == "text")
    cohort = open_cohort("oasis1", root)
    table = by_scan(cohort)
    assert dict(table["group"]) == OASIS1_GROUPS
    assert list(table["age"]) == [74, 55, 73, 20, 20, 80]
    assert list(table["sex"]) == ["F", "F", "M", "M", "M", "F"]
    assert table.loc["OAS1_0003_MR1", "cdr"] == 0.5
    assert table.loc["OAS1_0061_MR2", ["subject", "session"]].tolist() == ["OAS1_0061", "MR2"]
    assert (table["tr"] == 0.0097).all()
    split = cohort.split((0.6, 0.2, 0.2)).table
    assert split.groupby("subject")["split"].nunique().max() == 1
    for number, paths in enumerate(table["paths"]):
        image, affine = load_scan(paths)
        np.testing.assert_array_equal(image, np.rint(make.blob((6, 8, 5), number)))
        assert aff2axcodes(affine) == ("L", "A", "S")


def test_oasis1_images(make, tmp_path):
    root = make.oasis1(tmp_path)
    whole = open_cohort("oasis1", root, image="unmasked").table["paths"][0]
    np.testing.assert_array_equal(load_scan(whole)[0], np.rint(make.blob((6, 8, 5))) + 1)
    labels = open_cohort("oasis1", root, image="segmentation").table["paths"][0]
    assert set(np.unique(load_scan(labels)[0])) == {0, 1, 2, 3}
    row = open_cohort("oasis1", root).table.iloc[0]
    assert row["segmentation"].endswith("_n4_anon_111_t88_masked_gfc_fseg.hdr")
    with pytest.raises(UserError, match="image: found 'raw', expected one of masked"):
        open_cohort("oasis1", root, image="raw")


def test_oasis1_roots(make, tmp_path):
    root = make.oasis1(tmp_path / "a")
    assert len(open_cohort("oasis1", root / "disc1")) == 3
    shutil.move(root, tmp_path / "b" / "unpacked")
    assert len(open_cohort("oasis1", tmp_path / "b")) == 6


def test_oasis1_without_people_and_with_holes(make, tmp_path):
    root = make.oasis1(tmp_path, table=None)
    shutil.rmtree(root / "disc1" / "OAS1_0001_MR1" / "PROCESSED")
    shutil.rmtree(root / "disc1" / "OAS1_0002_MR1" / "FSL_SEG")
    cohort = open_cohort("oasis1", root)
    assert set(cohort.table["group"]) == {"unknown"}
    assert cohort.note == ("1 session folders without the image were left out, e.g. OAS1_0001_MR1")
    assert by_scan(cohort).loc["OAS1_0002_MR1", "segmentation"] == ""


def test_oasis1_a_visit_on_two_discs(make, tmp_path):
    root = make.oasis1(tmp_path)
    shutil.copytree(root / "disc1" / "OAS1_0001_MR1", root / "disc2" / "OAS1_0001_MR1")
    with pytest.raises(UserError, match="OAS1_0001, session MR1 is there 2 times .*disc2"):
        open_cohort("oasis1", root)


def test_oasis1_table_of_another_kind(make, tmp_path):
    root = make.oasis1(tmp_path)
    (root / "oasis_cross-sectional.csv").write_text("name,age\nx,3\n")
    with pytest.raises(UserError, match="no column ID, found name, age"):
        open_cohort("oasis1", root)


# --- OASIS-2 ---


def test_oasis2(make, tmp_path):
    cohort = open_cohort("oasis2", make.oasis2(tmp_path))
    table = by_scan(cohort)
    assert cohort.subjects == ["OAS2_0001", "OAS2_0002"]
    assert list(table["group"]) == ["healthy", "healthy", "healthy", "dementia"]
    assert list(table["course"]) == ["Nondemented"] * 2 + ["Converted"] * 2
    assert list(table["session"]) == ["MR1", "MR2"] * 2
    assert all(len(paths) == 1 for paths in table["paths"])
    image, affine = load_scan(table.loc["OAS2_0001_MR1", "paths"])
    np.testing.assert_array_equal(image, np.rint(make.blob((6, 7, 4), 1)))
    assert aff2axcodes(affine) == ("A", "S", "L")


def test_oasis2_average_and_orientation(make, tmp_path):
    root = make.oasis2(tmp_path, acquisitions=3)
    table = by_scan(open_cohort("oasis2", root, repeats="average", axcodes="PIR"))
    image, affine = load_scan(table.loc["OAS2_0002_MR1", "paths"])
    mean = np.mean([np.rint(make.blob((6, 7, 4), 20 + i)) for i in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(image, mean, rtol=1e-6)
    assert aff2axcodes(affine) == ("P", "I", "R")
    with pytest.raises(UserError, match="repeats: found 'all'"):
        open_cohort("oasis2", root, repeats="all")


def test_oasis2_stray_file_is_no_scan(make, tmp_path):
    root = make.oasis2(tmp_path)
    raw = root / "OAS2_RAW_PART1" / "OAS2_0001_MR1" / "RAW"
    assert (raw / "3906-3.nift.img").exists()
    for path in raw.glob("mpr-*"):
        path.unlink()
    cohort = open_cohort("oasis2", root)
    assert "OAS2_0001_MR1" not in set(cohort.table["scan_id"])
    assert "OAS2_0001_MR1" in cohort.note


# --- PNG ---


def test_png(make, tmp_path):
    cohort = open_cohort("png", make.png_slices(tmp_path, slices=12))
    table = by_scan(cohort)
    assert list(table.index) == [f"case_{i:03d}" for i in (1, 2, 3, 441, 450, 451)]
    assert list(table["split"]) == ["train"] * 3 + ["validation"] + ["test"] * 2
    assert set(table["slices"]) == {12}
    image, _ = load_scan(table.loc["case_441", "paths"])
    expected = (2 * make.blob((12, 10, 12), 441)).astype(np.uint8)
    np.testing.assert_array_equal(image, expected.transpose(1, 0, 2))


def test_png_that_leaks(make, tmp_path):
    root = make.png_slices(tmp_path, train=(1, 2, 3), test=(3, 4))
    cohort = open_cohort("png", root)
    assert "split" not in cohort.table
    assert "1 subjects lie in more than one folder, e.g. case_003" in cohort.note
    assert len(cohort) == 6
    assert len(cohort.subjects) == 5
    both = cohort.select(subject="case_003").table
    assert list(both["session"]) == ["train", "test"]
    split = cohort.split((0.6, 0.2, 0.2)).table
    assert split.groupby("subject")["split"].nunique().max() == 1
    with pytest.raises(UserError, match="case_003; this split leaks"):
        open_cohort("png", root, split="folders")


def test_png_options_and_strangers(make, tmp_path):
    root = make.png_slices(tmp_path)
    (root / "keras_png_slices_train" / "notes.txt").touch()
    cohort = open_cohort("png", root, split="none")
    assert "split" not in cohort.table
    assert cohort.note == "1 other files were left out"
    assert "split" in open_cohort("png", root, split="folders").table
    with pytest.raises(UserError, match="split: found 'mine'"):
        open_cohort("png", root, split="mine")
    folder = root / "keras_png_slices_test"
    shutil.copy(folder / "case_450_slice_1.nii.png", folder / "case_450_slice_01.nii.png")
    with pytest.raises(UserError, match="slice 1 of case 450 is also in"):
        open_cohort("png", root)


def test_png_train_folder_alone(make, tmp_path):
    root = make.png_slices(tmp_path)
    shutil.rmtree(root / "keras_png_slices_test")
    shutil.rmtree(root / "keras_png_slices_validate")
    assert open_cohort("png", root).subjects == ["case_001", "case_002", "case_003"]
