"""Study ixi2d end to end: any size, three planes, codes as features, anomalies."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainvq import data
from brainvq.app import predict
from brainvq.app.anomaly import mask_on
from brainvq.errors import UserError
from brainvq.files import read_csv, read_json
from tests.scripts.conftest import call, only_run, use
from tests.scripts.test_predict import brain

SMALL = ("--smoke", "--data.slices", "6", "--sampling.samples", "4")


@pytest.fixture(scope="module")
def ixi(tmp_path_factory):
    """A folder in which `train.py ixi2d` has run."""
    folder = tmp_path_factory.mktemp("ixi2d")
    call(folder, "train", "ixi2d", *SMALL)
    return folder


def scans(folder):
    """Scans of several orientations and of sizes that no stride divides; returns their paths."""
    turn = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, -0.1, 0.15))
    made = {}
    for number, (axcodes, oblique, shape) in enumerate(
        [("RAS", False, (40, 48, 40)), ("PIR", False, (29, 35, 27)), ("ALS", True, (31, 26, 33))]
    ):
        affine = np.diag([4.0, 4.5, 5.0, 1.0])
        affine[:3, 3] = [-70.1, -90.2, -60.3]
        image = brain(number, shape)
        change = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
        )
        affine = affine @ nib.orientations.inv_ornt_aff(change, shape)
        image = nib.orientations.apply_orientation(image, change)
        path = folder / f"sub-{number}_T1w.nii.gz"
        nib.save(nib.Nifti1Image(image, turn @ affine if oblique else affine), path)
        made[f"sub-{number}"] = path
    return made


def test_the_report_has_other_matrix_sizes(ixi):
    made = only_run(ixi)
    metrics = json.loads((made / "metrics.json").read_text())
    rows = [(row["matrix"], row["model"]) for row in metrics["transfer"]]
    assert rows == [
        ("native", "model"),
        ("native", "patch k-means"),
        ("80 x 80", "model"),
        ("80 x 80", "patch k-means"),
    ]
    assert all(row["ssim"]["n"] == metrics["test_subjects"] for row in metrics["transfer"])
    text = (made / "report.html").read_text()
    assert "Other matrix sizes" in text
    assert "simulated" in text


@pytest.mark.parametrize("plane", [pytest.param("sagittal", marks=pytest.mark.thorough), "all"])
def test_reconstruct_keeps_grid_and_orientation(ixi, tmp_path, plane):
    paths = scans(tmp_path)
    use(
        *(tmp_path, only_run(ixi), "reconstruct", *paths.values()),
        *("--plane", plane, "--out", "out"),
    )
    for name, path in paths.items():
        found = nib.load(tmp_path / "out" / name / "anat" / f"{name}_desc-recon_T1w.nii.gz")
        original = nib.load(path)
        assert found.shape == original.shape
        np.testing.assert_array_equal(found.affine, original.affine)
        assert nib.aff2axcodes(found.affine) == nib.aff2axcodes(original.affine)
        assert (tmp_path / "out" / f"{name}_reconstruction.png").stat().st_size > 0
    table = read_csv(tmp_path / "out" / "similarity.tsv")
    expected = [plane] if plane != "all" else ["axial", "coronal", "sagittal", "mean of three"]
    assert list(table["plane"]) == expected * len(paths)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--plane", "coronal"], marks=pytest.mark.thorough),
        ["--matrix", "80", "--spacing", "3.3"],
        [],
    ],
)
def test_encode_then_decode_equals_reconstruct_exactly(ixi, tmp_path, options):
    made = only_run(ixi)
    paths = scans(tmp_path)
    files = list(paths.values())
    use(tmp_path, made, "encode", *files, *options, "--out", "codes")
    use(tmp_path, made, "reconstruct", *files, *options, "--out", "whole")
    codes = [f"codes/{name}.npy" for name in paths]
    use(tmp_path, made, "decode", *codes, "--out", "decoded")
    for name in paths:
        one = nib.load(tmp_path / "decoded" / name / "anat" / f"{name}_desc-decoded_T1w.nii.gz")
        other = nib.load(tmp_path / "whole" / name / "anat" / f"{name}_desc-recon_T1w.nii.gz")
        np.testing.assert_array_equal(one.get_fdata(), other.get_fdata())
        np.testing.assert_allclose(one.affine, other.affine, atol=1e-5)
    table = read_csv(tmp_path / "codes" / "scans.tsv")
    assert list(table["subject"]) == list(paths)


@pytest.mark.thorough
def test_real_scans_with_simulated_ones_in_training(tmp_path):
    folder = tmp_path / "bids"
    for number in range(6):
        place = folder / f"sub-{number}" / "anat"
        place.mkdir(parents=True)
        affine = np.diag([4.0, 4.0, 4.0, 1.0])
        nib.save(nib.Nifti1Image(brain(number), affine), place / f"sub-{number}_T1w.nii.gz")
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    call(
        *(tmp_path, "train", "ixi2d", "--smoke", "--data.slices", "6", "--train.epochs", "1"),
        *("--data.source", "bids", "--data.root", folder),
        *("--data.add-simulated", "2", "--data.transfer", "0", "--prior.epochs", "0"),
    )
    table = pd.read_csv(only_run(tmp_path) / "cohort.csv")
    added = table[table["subject"].astype(str).str.startswith("sim")]
    assert list(added["split"]) == ["train", "train"]
    assert set(table["split"]) == {"train", "validation", "test"}


def test_a_model_of_one_size_refuses_another_matrix(tmp_path):
    paths = scans(tmp_path)
    with pytest.raises(UserError, match="--matrix: found native; expected study"):
        use(tmp_path, "oasis2d", "reconstruct", paths["sub-0"], "--matrix", "native")


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Simulated scans, half of them of patients, as a BIDS folder."""
    folder = tmp_path_factory.mktemp("patients")
    call(
        *(folder, "simulate", "--out", "scans", "--subjects", "8", "--suffix", "T1w"),
        *("--groups", "healthy", "leuko3", "--spacing", "4", "--workers", "1"),
    )
    return folder / "scans"


def test_classify_scans_and_code_files(ixi, patients, tmp_path, capsys):
    made = only_run(ixi)
    small = ("--folds", "2", "--epochs", "1", "--copies", "1", "--filters", "4", "4")
    labels = f"{patients}/participants.tsv:group"
    use(
        *(tmp_path, made, "classify", "--labels", labels, "--slices", "3", *small),
        *("--out", "scans"),
    )
    assert "8 subjects, classes healthy, leuko3" in capsys.readouterr().out
    measures = pd.read_csv(tmp_path / "scans" / "measures.csv")
    methods = ["codes", "encoder", "pixels", "linear codes", "linear pixels"]
    assert list(dict.fromkeys(measures["method"])) == methods
    assert (measures["low"] <= measures["high"]).all()
    subjects = read_csv(tmp_path / "scans" / "subjects.tsv")
    assert (subjects.groupby("subject")["method"].count() == len(methods)).all()
    assert "simulated" in (tmp_path / "scans" / "report.html").read_text()
    assert (tmp_path / "scans" / "classifier.keras").exists()

    use(tmp_path, made, "encode", patients, "--matrix", "study", "--out", "codes")
    use(
        *(tmp_path, made, "classify", "--codes", "codes", "--labels", labels),
        *(*small, "--keep", "None", "--out", "files"),
    )
    measures = pd.read_csv(tmp_path / "files" / "measures.csv")
    assert list(dict.fromkeys(measures["method"])) == ["codes", "linear codes"]


def pictures(folder):
    """Two classes of pictures of many sizes: stripes one way and the other."""
    rng = np.random.default_rng(0)
    for name, axis in (("across", 0), ("down", 1)):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            shape = rng.integers(40, 90, 2)
            stripes = np.indices(shape)[axis] // 6 % 2 * 180 + rng.integers(0, 60, shape)
            colour = np.repeat(stripes[..., None].astype("uint8"), 3, axis=2)
            Image.fromarray(colour).save(folder / name / f"{number}.{'png' if number else 'jpg'}")
    return folder


def test_pictures_train_and_are_classified(tmp_path):
    folder = pictures(tmp_path / "pictures")
    call(
        *(tmp_path, "train", "ixi2d", "--smoke", "--data.source", "images"),
        *("--data.root", folder, "--prior.epochs", "0", "--train.epochs", "1"),
    )
    use(
        *(tmp_path, only_run(tmp_path), "classify", "--images", folder, "--keep", "None"),
        *("--folds", "3", "--methods", "linear codes", "linear pixels", "--out", "out"),
    )
    measures = pd.read_csv(tmp_path / "out" / "measures.csv")
    pixels = measures[(measures["method"] == "linear pixels") & (measures["measure"] == "auroc")]
    assert len(pixels) == 1
    assert len(read_csv(tmp_path / "out" / "subjects.tsv")) == 24


def test_anomaly_maps_lie_on_the_scan_and_are_measured(ixi, patients, tmp_path):
    groups = pd.read_csv(patients / "participants.tsv", sep="\t").set_index("participant_id")
    healthy = [f.name for f in patients.glob("sub-*") if groups["group"][f.name] == "healthy"]
    used = [path for path in patients.glob("sub-*") if path.name not in healthy][:2]
    use(
        *(tmp_path, only_run(ixi), "anomaly", *used, "--out", "out"),
        *("--masks", patients / "derivatives" / "lesions", "--healthy", patients / healthy[0]),
        *("--draws", "1", "--passes", "1", "--step", "3", "--direction", "both"),
        *("--median", "0", "--erode", "0"),
    )
    for path in used:
        scan = nib.load(next(path.glob("anat/*_T1w.nii.gz")))
        scores = ("intensity", "depth", "pixel", "ssim", "surprise", "restoration", "combined")
        for score in scores:
            file = f"{path.name}_desc-{score}score_T1w.nii.gz"
            found = nib.load(tmp_path / "out" / path.name / "anat" / file)
            assert found.shape == scan.shape
            np.testing.assert_array_equal(found.affine, scan.affine)
            assert np.isfinite(found.get_fdata()).all()
            # A network of two epochs may find nothing improbable, but it makes errors.
            assert found.get_fdata().max() > 0 or score in ("restoration", "combined")
    table = read_csv(tmp_path / "out" / "subjects.tsv")
    assert set(table["subject"]) == {path.name for path in used}
    assert (table["lesion_ml"] > 1).all()
    report = (tmp_path / "out" / "report.html").read_text()
    assert "simulated" in report


def test_bright_places_are_marked_from_a_threshold_on(ixi, patients, tmp_path):
    scan = next(patients.glob("sub-*/anat/*_T1w.nii.gz"))
    words = ("--direction", "bright", "--draws", "1", "--passes", "1", "--step", "8")
    use(tmp_path, only_run(ixi), "anomaly", scan, "--out", "out", *words, "--threshold", "0.75")
    start = tmp_path / "out" / scan.parents[1].name / "anat" / scan.parents[1].name
    score = nib.load(f"{start}_desc-depthscore_T1w.nii.gz").get_fdata()
    mask = nib.load(f"{start}_desc-bright_mask.nii.gz")
    np.testing.assert_array_equal(mask.get_fdata(), score >= 0.75)
    assert 0 < mask.get_fdata().mean() < 0.5
    assert "0.750" in read_json(f"{start}_desc-bright_mask.json")["Description"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["anomaly"], "anomaly: found no scans"),
        (["anomaly", "x.nii", "--direction", "up"], "invalid choice 'up'"),
        (["anomaly", "SCAN", "--masks", "SCAN", "--combined", "magic"], "combined: found 'magic'"),
        (["anomaly", "SCANS", "--masks", "SCAN"], "--masks: none of 1 files"),
        (["anomaly", "SCAN", "--threshold", "2"], "--threshold: given where dark places count"),
        (["anomaly", "SCAN", "--healthy", "SCAN"], "is also measured; expected other subjects"),
        (["classify"], "--labels: expected FILE:COLUMN"),
        (["classify", "SCAN", "--codes", "x", "--labels", "t:g"], "found several of SCANS"),
        (["classify", "--images", "nowhere"], "nowhere"),
        (["classify", "--labels", "nowhere.tsv:group", "SCAN"], "nowhere.tsv"),
        (["classify", "--labels", "t.tsv:group", "--folds", "x"], "--folds"),
        (["reconstruct", "SCAN", "--matrix", "large"], "--matrix: found 'large'"),
        (["reconstruct", "SCAN", "--spacing", "2"], "--spacing: given"),
        (["reconstruct", "SCAN", "--plan", "x"], "--plan"),
        (["sample", "--draws", "3"], "Unrecognized options: --draws"),
    ],
)
def test_a_mistake_is_named(ixi, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    places = {"SCAN": [str(scans(tmp_path / "a")["sub-0"])], "SCANS": []}
    places["SCANS"] = [str(path) for path in list(scans(tmp_path / "b").values())[1:]]
    given = [part for word in words for part in places.get(word, [word])]
    with pytest.raises(UserError) as caught:
        predict.main([str(only_run(ixi)), *given])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_in_another_orientation_comes_onto_the_scan(tmp_path):
    path = scans(tmp_path)["sub-1"]
    scan = data.PreparedScan.read(
        str(path), data.steps_to_config([data.Canonical("LPS"), data.ScaleIntensity("max")])
    )
    mask = np.zeros(scan.shape, "uint8")
    mask[3, 5, 20] = 1
    flip = nib.orientations.axcodes2ornt("LSP")
    turned = nib.Nifti1Image(mask, scan.original_affine).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(scan.original_affine), flip)
    )
    assert turned.shape != mask.shape
    nib.save(turned, tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(mask_on(scan, tmp_path / "mask.nii.gz"), mask > 0)
    far = turned.affine.copy()
    far[:3, 3] += 1000
    nib.save(nib.Nifti1Image(turned.get_fdata(), far), tmp_path / "far.nii.gz")
    with pytest.raises(UserError, match="far.nii.gz lies outside of its scan"):
        mask_on(scan, tmp_path / "far.nii.gz")
