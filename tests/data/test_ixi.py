import contextlib
import dataclasses
import functools
import hashlib
import http.server
import tarfile
import threading

import numpy as np
import pytest

from brainvq.data import download, fetch, load_scan, open_cohort
from brainvq.errors import UserError


def by_subject(cohort):
    return cohort.table.set_index("subject")


def pack(root, archive):
    """Packs the images of IXI-T1 flat, as published, and removes the folder."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted((root / "IXI-T1").iterdir()):
            tar.add(path, arcname=path.name)
            path.unlink()
        (root / "IXI-T1").rmdir()
    return archive


@pytest.mark.parametrize("table", ["xls", "xlsx", "csv"])
def test_people_and_images(make, tmp_path, table):
    cohort = open_cohort("ixi", make.ixi(tmp_path, table))
    assert cohort.name == "ixi"
    assert not cohort.simulated
    rows = by_subject(cohort)
    assert list(rows.index) == ["IXI002", "IXI012", "IXI013", "IXI035", "IXI500"]
    assert list(rows["site"]) == ["Guys", "HH", "HH", "IOP", "Guys"]
    assert list(rows["sex"]) == ["F", "M", "", "M", ""]  # IXI013 is listed as both
    np.testing.assert_allclose(rows["age"], [35.8001, 38.7817, np.nan, np.nan, np.nan], atol=1e-4)
    assert set(rows["group"]) == {"healthy"}
    assert set(rows["session"]) == {""}
    assert set(rows["modality"]) == {"T1w"}
    first = rows.loc["IXI002"]
    assert (first["scan_id"], first["ixi_id"], first["scan_number"]) == (
        "IXI002-Guys-0828-T1", 2, 828,
    )  # fmt: skip
    assert (first["height"], first["weight"], first["marital_id"]) == (164, 58, 4)
    assert rows.loc["IXI012", "weight"] == 70  # the other row leaves it blank
    assert rows.loc["IXI013", "height"] == 182  # on this the two rows agree
    assert np.isnan(rows.loc["IXI035", ["height", "weight"]].astype(float)).all()  # given as 0
    assert (rows.loc["IXI012", "field_strength"], first["tr"]) == (3.0, 0.009813)
    np.testing.assert_array_equal(load_scan(first["paths"])[0], make.blob(seed=0))
    assert cohort.note.split("; ") == [
        "sex of 1 people left blank: their rows contradict each other",
        "age of 1 people left blank: their rows contradict each other",
        f"1 people are not in IXI.{table}",
        f"1 people of IXI.{table} have no such image here",
    ]


def test_the_full_size_table(make, tmp_path):
    rows = [(n, 1 + n % 2, 170, 70, 1, 1, 1, 1, 0, 1, 0, 20 + n / 10) for n in range(1, 594)]
    make.IXI_PEOPLE = rows + rows[:26]
    make.ixi(tmp_path)
    assert len(make.IXI_PEOPLE) == 619
    cohort = open_cohort("ixi", tmp_path)
    assert list(cohort.table["age"]) == [20.2, 21.2, 21.3, 23.5, 70.0]
    assert "contradict" not in cohort.note


def test_ages_that_differ_by_rounding_are_one_age(make, tmp_path):
    make.IXI_PEOPLE = [(2, "", *[""] * 9, 35.80), (2, 1, *[""] * 9, 35.84)]
    row = by_subject(open_cohort("ixi", make.ixi(tmp_path, "csv"))).loc["IXI002"]
    assert (row["age"], row["sex"]) == (35.80, "M")


@pytest.fixture(autouse=True)
def fresh_people(make):
    people = make.IXI_PEOPLE
    yield
    make.IXI_PEOPLE = people


def test_without_a_table(make, tmp_path):
    cohort = open_cohort("ixi", make.ixi(tmp_path, None, folder="."))
    assert cohort.table["age"].isna().all()
    assert set(cohort.table["sex"]) == {""}
    assert cohort.note == "no IXI.xls beside the images: ages and sexes are not known"


def test_the_table_above_the_folder_of_the_images(make, tmp_path):
    cohort = open_cohort("ixi", make.ixi(tmp_path) / "IXI-T1")
    assert by_subject(cohort).loc["IXI002", "sex"] == "F"


def test_modalities(make, tmp_path):
    make.ixi(tmp_path, "csv", folder=".", modalities=("T1", "T2", "PD"))
    assert len(open_cohort("ixi", tmp_path)) == 5
    table = open_cohort("ixi", tmp_path, modality="T2").table
    assert all(paths[0].endswith("-T2.nii.gz") for paths in table["paths"])
    assert set(table["modality"]) == {"T2w"}
    assert table["tr"].isna().all()
    with pytest.raises(UserError, match="IXI modality: found 'MRA', expected one of T1, T2, PD"):
        open_cohort("ixi", tmp_path, modality="MRA")


def test_strays_and_truncated_names_are_counted(make, tmp_path):
    make.ixi(tmp_path, None)
    for name in ("IXI014-HH-1236-T1.nii", "IXI015-HH-1258-T1.nii.g", "IXI016-HH.nii.gz", "._x.nii"):
        (tmp_path / "IXI-T1" / name).write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes").write_text("mine")
    cohort = open_cohort("ixi", tmp_path)
    assert len(cohort) == 6  # the empty .nii is named well; loading it will say that it is empty
    assert cohort.note.startswith(
        "2 other files were left out, e.g. IXI015-HH-1258-T1.nii.g; no IXI.xls"
    )


def test_a_subject_twice(make, tmp_path):
    make.ixi(tmp_path, None)
    make.write_nifti(tmp_path / "IXI002-Guys-0828-T1.nii.gz")
    with pytest.raises(UserError, match="subject IXI002 is there 2 times"):
        open_cohort("ixi", tmp_path)


def test_other_layouts_and_tables(make, tmp_path):
    with pytest.raises(UserError, match=r"IXI002-Guys-0828-T1\.nii\.gz.*found an empty folder"):
        open_cohort("ixi", tmp_path)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        open_cohort("ixi", tmp_path / "nowhere")
    make.ixi(tmp_path, None)
    (tmp_path / "IXI.csv").write_text("name,age\na,3\n")
    with pytest.raises(UserError, match=r"IXI\.csv: no column IXI_ID, found name, age"):
        open_cohort("ixi", tmp_path)
    for content in (
        b"",
        b"<html>not found</html>",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 700,
    ):
        (tmp_path / "IXI.xls").write_bytes(content)
        with pytest.raises(UserError, match=r"IXI\.xls: cannot be read as a table"):
            open_cohort("ixi", tmp_path)


@pytest.mark.parametrize("named", ["folder", "archive"])
def test_the_archive_is_unpacked_once(make, tmp_path, named):
    root = make.ixi(tmp_path)
    archive = pack(root, root / "IXI-T1.tar")
    given = root if named == "folder" else archive
    cohort = open_cohort("ixi", given)
    assert len(cohort) == 5
    assert by_subject(cohort).loc["IXI002", "sex"] == "F"
    files = {path: path.stat().st_mtime_ns for path in (root / "IXI-T1").iterdir()}
    assert len(open_cohort("ixi", given)) == 5
    assert {path: path.stat().st_mtime_ns for path in (root / "IXI-T1").iterdir()} == files


def test_a_bad_archive_leaves_nothing(make, tmp_path):
    root = make.ixi(tmp_path, None)
    archive = pack(root, root / "IXI-T1.tar")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"IXI-T1\.tar: is truncated or damaged"):
        open_cohort("ixi", root)
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("../IXI002-Guys-0828-T1.nii.gz"))
    with pytest.raises(UserError, match="leaves the folder"):
        open_cohort("ixi", archive)
    assert [path.name for path in root.iterdir()] == ["IXI-T1.tar"]


@contextlib.contextmanager
def served(folder, monkeypatch):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_download(make, tmp_path, monkeypatch, capsys):
    published = make.ixi(tmp_path / "published")
    pack(published, published / "IXI-T1.tar")
    root, quick = tmp_path / "data", {"progress": False, "backoff": 0.0, "timeout": 5.0}
    sums = {
        name: hashlib.md5((published / name).read_bytes()).hexdigest()
        for name in ("IXI-T1.tar", "IXI.xls")
    }
    known = dataclasses.replace(download.DATASETS["ixi"], md5=sums)
    with served(published, monkeypatch) as url:
        with pytest.raises(UserError, match="--data.accept-terms"):
            fetch("ixi", root, base_url=url, **quick)
        assert not root.exists()
        with pytest.raises(UserError, match="expected 34901a0593b41dd19c1a1f746eac2d58"):
            fetch("ixi", root, base_url=url, accept_terms=True, **quick)  # not the true archive
        monkeypatch.setitem(download.DATASETS, "ixi", known)
        assert fetch("ixi", root, base_url=url, accept_terms=True, **quick) == root
    assert "CC BY-SA 3.0" in capsys.readouterr().out
    assert sorted(path.name for path in root.iterdir()) == ["IXI-T1", "IXI-T1.tar", "IXI.xls"]
    fetch("ixi", root, **quick)  # all there: no terms, no network
    cohort = open_cohort("ixi", root)
    assert len(cohort) == 5
    assert by_subject(cohort).loc["IXI002", "sex"] == "F"


def test_a_table_of_the_users_own_is_not_fetched(make, tmp_path, monkeypatch):
    published = make.ixi(tmp_path / "published", None)
    pack(published, published / "IXI-T1.tar")
    root = tmp_path / "data"
    root.mkdir()
    make.ixi_table(root, "csv")
    with served(published, monkeypatch) as url:
        fetch("ixi", root, base_url=url, accept_terms=True, checksums={}, progress=False)
    assert by_subject(open_cohort("ixi", root)).loc["IXI002", "sex"] == "F"
