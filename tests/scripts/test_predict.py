"""predict.py on a trained run and on generated scans."""

import json

import nibabel as nib
import numpy as np
import pytest

import brainvq
from brainvq.app import predict
from brainvq.errors import UserError
from brainvq.files import read_csv
from tests.scripts.conftest import bids_errors, only_run, run, use


def brain(seed=0, shape=(40, 48, 40)):
    """A head-like image, 4 mm, with structure inside and exact zeros outside."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = (x / 0.75) ** 2 + (y / 0.9) ** 2 + (z / 0.75) ** 2 < 1
    image = 400 + 150 * np.sin(6 * x) * np.cos(5 * y) + 80 * z + rng.normal(0, 5, shape)
    return np.where(inside, image, 0).astype("float32")


@pytest.fixture
def scan(tmp_path):
    affine = np.diag([-4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [80, -96, -80]
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(brain(), affine), path)
    return path


def test_sample_is_the_default_and_the_seed_decides(trained, tmp_path):
    made = only_run(trained)
    use(tmp_path, made, "-n", "5", "--seed", "3", "--out", "a")
    use(tmp_path, made, "sample", "-n", "5", "--seed", "3", "--out", "b")
    first, second = (np.load(tmp_path / name / "samples.npy") for name in "ab")
    np.testing.assert_array_equal(first, second)
    assert first.shape == (5, 64, 64, 1)
    assert np.load(tmp_path / "a" / "codes.npy").shape == (5, 8, 8)
    assert (tmp_path / "a" / "samples.png").stat().st_size > 0


def test_reconstruct_gives_the_grid_of_the_scan(trained, tmp_path, scan):
    use(tmp_path, only_run(trained), "reconstruct", scan, "--out", "out")
    found = nib.load(tmp_path / "out" / "sub-scan/anat/sub-scan_desc-recon_T1w.nii.gz")
    original = nib.load(scan)
    assert found.shape == original.shape
    np.testing.assert_allclose(found.affine, original.affine)
    table = read_csv(tmp_path / "out" / "similarity.tsv")
    assert list(table["file"]) == [str(scan)]
    assert (tmp_path / "out" / "scan_reconstruction.png").exists()


def test_encode_then_decode_equals_reconstruct(trained, tmp_path, scan):
    made = only_run(trained)
    # Encoded by a process of its own: what is equal is on file, not in memory.
    run(tmp_path, "predict.py", made, "encode", scan, "--out", "codes")
    use(tmp_path, made, "decode", "codes/scan.npy", "--out", "decoded")
    use(tmp_path, made, "reconstruct", scan, "--out", "whole")
    codes = np.load(tmp_path / "codes" / "scan.npy")
    assert codes.shape[1:] == (8, 8)
    assert json.loads((tmp_path / "codes" / "scan.json").read_text())["shape"] == [40, 48, 40]
    one = nib.load(tmp_path / "decoded" / "sub-scan/anat/sub-scan_desc-decoded_T1w.nii.gz")
    other = nib.load(tmp_path / "whole" / "sub-scan/anat/sub-scan_desc-recon_T1w.nii.gz")
    np.testing.assert_array_equal(one.get_fdata(), other.get_fdata())
    np.testing.assert_array_equal(one.affine, other.affine)
    # The vectors on file are those of the codes; the table names the scan.
    vectors = np.load(tmp_path / "codes" / "vectors" / "scan.npy")
    codebook = np.load(tmp_path / "codes" / "codebook" / "codebook.npy")
    np.testing.assert_array_equal(vectors, codebook.astype("float16")[codes])
    table = read_csv(tmp_path / "codes" / "scans.tsv")
    assert list(table["name"]) == ["scan"]
    assert table["bits"][0] == codes.size * 5


def test_results_are_derivatives_of_bids(trained, tmp_path):
    """All verbs into one folder; the scans are a data set, so that they are named as its files."""
    made, raw = only_run(trained), tmp_path / "raw"
    scans = [raw / f"sub-{n}/ses-1/anat/sub-{n}_ses-1_acq-x_T1w.nii.gz" for n in "ab"]
    for number, path in enumerate(scans):
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(brain(number), np.diag([-4.0, 4.0, 4.0, 1.0])), path)
    about = {"Name": "scans", "BIDSVersion": "1.10.0"}
    (raw / "dataset_description.json").write_text(json.dumps(about))
    for verb in ("reconstruct", "encode", "map"):
        use(tmp_path, made, verb, raw, "--out", "out")
    use(tmp_path, made, "decode", "out/sub-a_ses-1.npy", "--out", "out")
    use(tmp_path, made, "sample", "-n", "4", "--out", "out")
    quick = ("--step", "12", "--draws", "1", "--passes", "1")
    use(tmp_path, made, "anomaly", scans[0], *quick, "--out", "out")
    anat = tmp_path / "out" / "sub-a" / "ses-1" / "anat"
    sidecar = json.loads((anat / "sub-a_ses-1_acq-x_desc-recon_T1w.json").read_text())
    assert sidecar["Sources"] == ["bids:raw:sub-a/ses-1/anat/sub-a_ses-1_acq-x_T1w.nii.gz"]
    assert sidecar["Resolution"] == "4 x 4 x 4 mm, the grid of the scan"
    assert (sidecar["Model"], sidecar["Study"], sidecar["Variant"]) == (
        made.name,
        "oasis2d",
        "best",
    )
    assert sidecar["BrainvqVersion"] == brainvq.__version__
    described = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["DatasetLinks"] == {"raw": "../raw"}
    assert [one["Description"].split(":")[0] for one in described["GeneratedBy"]] == [
        *("reconstruct", "encode", "map", "decode", "sample", "anomaly")
    ]
    for table in ("similarity", "scans", "map"):
        text = (tmp_path / "out" / f"{table}.tsv").read_text().splitlines()
        assert [line.split("\t")[0] for line in text] == ["participant_id", "sub-a", "sub-b"], table
    labels = read_csv(tmp_path / "out" / "desc-codes_dseg.tsv")
    assert list(labels)[:2] == ["index", "name"]
    used = np.unique(nib.load(anat / "sub-a_ses-1_acq-x_desc-codes_dseg.nii.gz").dataobj)
    assert set(used) <= {0, *labels["index"]}
    for desc in ("decoded", "pixelscore", "restored"):
        assert (anat / f"sub-a_ses-1_acq-x_desc-{desc}_T1w.nii.gz").exists(), desc
    with pytest.raises(UserError, match=r"--out: found raw, which holds the data set scans; exp"):
        use(tmp_path, made, "reconstruct", scans[0], "--out", "raw")
    assert bids_errors(tmp_path / "out") == []


def test_a_bad_scan_among_good_ones_is_skipped_and_counted(trained, tmp_path, scan, capsys):
    (tmp_path / "bad.nii.gz").write_bytes(scan.read_bytes()[:2000])
    use(tmp_path, only_run(trained), "encode", scan, tmp_path / "bad.nii.gz")
    output = capsys.readouterr().out
    assert "skipped" in output
    assert "bad.nii.gz" in output
    assert "1 of 2 scans were skipped" in output
    assert (tmp_path / "predictions" / "encode" / "scan.npy").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere", "sample"], "nowhere: found neither"),
        (["RUN", "dance"], "verb: found 'dance'"),
        (["RUN", "sample", "-n", "0"], "-n: found 0"),
        (["RUN", "sample", "--top-p", "2"], "top_p"),
        (["RUN", "sample", "--temperature", "-1"], "temperature"),
        (["RUN", "encode", "absent.nii.gz"], "absent.nii.gz"),
        (["RUN", "encode", "text.nii"], "text.nii"),
        (["RUN", "decode", "text.npy"], "text.npy: cannot be read"),
        (["RUN", "decode", "floats.npy"], "floats.npy: found float64"),
        (["RUN", "decode", "large.npy"], "large.npy: found 0 to 99; expected codes from 0 to 31"),
    ],
)
def test_a_mistake_is_named(trained, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.nii").write_text("no image")
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "floats.npy", np.zeros((1, 8, 8)))
    np.save(tmp_path / "large.npy", np.arange(100).reshape(1, 10, 10))
    words = [str(only_run(trained)) if word == "RUN" else word for word in words]
    with pytest.raises(UserError) as caught:
        predict.main(words)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "predictions").exists()


def test_a_run_without_prior_cannot_be_sampled(trained, tmp_path):
    made = only_run(trained)
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("study.json", "model.keras"):
        (copy / name).write_bytes((made / name).read_bytes())
    with pytest.raises(UserError, match="has no prior.keras"):
        predict.main([str(copy), "sample"])
    (copy / "model.keras").write_bytes((made / "model.keras").read_bytes()[:3000])
    with pytest.raises(UserError, match=r"model\.keras: cannot be loaded"):
        predict.main([str(copy), "sample"])


def test_without_any_run_the_shipped_weights_give_brains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predict.main(["-n", "4", "--seed", "0"])
    brains = np.load("predictions/sample/samples.npy")
    assert brains.shape == (4, 128, 128, 1)
    # From the lowest slice to the highest; those in the middle are the largest.
    filled = (brains > 0.1).mean(axis=(1, 2, 3))
    assert filled[1:3].min() > 0.15
    predict.main(["--level", "0.6", "-n", "2", "--seed", "0", "--out", "middle"])
    assert (np.load("middle/samples.npy") > 0.1).mean() > 0.2
    with pytest.raises(UserError, match="level: found 2"):
        predict.main(["--level", "2"])


def test_export_and_use_of_what_was_exported(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predict.main([str(only_run(trained)), "export", "--out", "small"])
    predict.main(["small", "sample", "-n", "2", "--seed", "1"])
    assert np.load("predictions/sample/samples.npy").shape == (2, 64, 64, 1)
