"""Every source of scans, from generated trees through dataset.py, in this process."""

import functools
import http.server
import importlib.util
import tarfile
import threading
from pathlib import Path

import pytest

from brainvq import studies
from brainvq.errors import UserError
from brainvq.tasks import of
from brainvq.tasks.base import SPLITS

SMALL = ("--data.size", "16", "--data.workers", "1")
# Slices that are cut already have no margin.
WHOLE = ("--data.slice-margin", "0", "0")


@pytest.fixture(scope="module")
def make():
    """The generators of the data tests: small trees in the layouts of the published data sets."""
    path = Path(__file__).parents[1] / "data" / "generators.py"
    spec = importlib.util.spec_from_file_location("generators_for_scripts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arrays(source, root, *words):
    small = SMALL if source == "png" else (*SMALL, *WHOLE)
    words = ("oasis2d", "--data.source", source, "--data.root", str(root), *small, *words)
    study = studies.parse(list(words), "train.py", "")
    scans = of(study).cohort(study)
    store = of(study).arrays(study, scans)
    return scans, store, of(study).split_rows(study, scans, store)


@pytest.mark.parametrize("source", ["bids", "oasis1", "oasis2", "png"])
def test_a_tree_becomes_slices_of_disjoint_subjects(folder, make, source):
    if source == "oasis2":  # two people are too few for three splits: a third one
        make.OASIS2_PEOPLE = [*make.OASIS2_PEOPLE, ("OAS2_0003_MR1", "Demented", "F", "80", "1", 2)]
    root = {"bids": make.bids, "oasis1": make.oasis1, "oasis2": make.oasis2}.get(
        source, make.png_slices
    )(folder / "data")
    scans, store, rows = arrays(source, root)
    assert store.sample_shape == (16, 16, 1)
    assert len(store.failures) == 0
    subjects = [set(store.table["subject"].iloc[rows[split]]) for split in SPLITS]
    assert set.union(*subjects) == set(scans.subjects)
    assert sum(map(len, subjects)) == len(scans.subjects)
    images = store.read(slice(None))
    assert images.min() >= 0
    assert 0.3 < images.max() <= 1


def test_an_oasis_tree_becomes_volumes(folder, make):
    words = ["som3d", "--data.source", "oasis1", "--data.root", str(make.oasis1(folder / "data"))]
    words += ["--data.shape", "16", "32", "16", "--data.workers", "1"]
    study = studies.parse(words, "train.py", "")
    scans = of(study).cohort(study)
    store = of(study).arrays(study, scans)
    assert store.layout == "volumes"
    assert store.sample_shape == study.data.sample_shape == (16, 32, 16, 1)
    volumes = store.read(slice(None))
    assert len(volumes) == len(scans.table)
    for volume in volumes:  # z-scores of the volume that the network sees
        assert abs(volume.mean()) < 1e-2
        assert volume.std() == pytest.approx(1, abs=1e-2)


def test_the_folders_of_png_slices_are_the_split(folder, make):
    scans, _, _ = arrays("png", make.png_slices(folder / "data"))
    table = scans.table.set_index("subject")["split"]
    assert table["case_441"] == "validation"
    assert table["case_450"] == "test"


def test_a_split_of_the_users_own(folder, make):
    root = make.bids(folder / "data")
    (folder / "split.csv").write_text(
        "subject,split\n"
        + "".join(f"{n:02d},{s}\n" for n, s in zip(range(1, 7), 3 * ["train", "test"], strict=True))
    )
    with pytest.raises(UserError, match="no readable scan is left for the validation split"):
        arrays("bids", root, "--data.assignments", "split.csv")


def test_bad_scans_are_left_out_and_counted(folder, make, capsys):
    root = make.bids(folder / "data", subjects=8)
    bad = root / "sub-03" / "anat" / "sub-03_T1w.nii.gz"
    bad.write_bytes(bad.read_bytes()[:50])
    _, store, _ = arrays("bids", root)
    assert list(store.failures["scan_id"]) == ["sub-03_T1w"]
    assert "1 of 8 scans left out, 7 used" in capsys.readouterr().out
    assert "03" not in set(store.table["subject"])


def test_empty_and_wrong_folders(folder, make):
    (folder / "empty").mkdir()
    for source in ("bids", "oasis1", "oasis2", "png"):
        with pytest.raises(UserError, match="empty"):
            arrays(source, folder / "empty")
        with pytest.raises(UserError, match="nowhere"):
            arrays(source, folder / "nowhere")


def test_a_download_becomes_slices(folder, make, monkeypatch, capsys):
    published = folder / "published"
    make.OASIS1_PEOPLE = [(*person[:-1], 2) for person in make.OASIS1_PEOPLE]
    make.oasis1(folder / "tree", table=None, text=True)
    published.mkdir()
    with tarfile.open(published / "oasis_cross-sectional_disc2.tar.gz", "w:gz") as archive:
        archive.add(folder / "tree" / "disc2", arcname="disc2")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=published)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = (
            "--data.download",
            "--data.parts",
            "2",
            "--data.mirror",
            f"http://127.0.0.1:{server.server_port}",
        )
        with pytest.raises(UserError, match="--data.accept-terms"):
            arrays("oasis1", folder / "data", *words)
        assert not (folder / "data").exists()
        scans, store, _ = arrays("oasis1", folder / "data", *words, "--data.accept-terms")
        server.shutdown()
    assert "data use agreement" in capsys.readouterr().out
    assert len(scans.subjects) == 5
    assert len(store) > 0
