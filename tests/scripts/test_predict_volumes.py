"""predict.py on runs of volumes: small untrained networks whose numbers can be worked out."""

import json
from pathlib import Path

import keras
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import brainvq
from brainvq.app import predict
from brainvq.data import (
    Canonical,
    CropOrPad,
    PreparedVolume,
    Resample,
    ScaleIntensity,
    ZScore,
    foreground_mask,
    steps_to_config,
)
from brainvq.data.derivatives import sidecar_of
from brainvq.errors import UserError
from brainvq.files import read_csv, write_json
from brainvq.layers import EntropyQuantizer, Identity, ProbabilisticSOM, SOMQuantizer
from brainvq.training.runs import RunFolder
from tests.scripts.test_predict import brain

SHAPE, SPACING, GRID = (16, 24, 20), 8.0, (4, 6, 5)


def steps(shape=SHAPE, spacing=SPACING, scale=None):
    return steps_to_config(
        [Canonical("LPS"), Resample(spacing), CropOrPad(shape), scale or ZScore("all")]
    )


def new_run(folder, name, model, prior=None, shape=SHAPE, config=None, study="som3d"):
    """A run of a study of volumes, as train.py leaves it; returns its path."""
    study = {
        "name": study,
        "variant": name,
        "data": {"source": "bids", "spacing": SPACING, "shape": list(shape)},
        "model": {"network": "strided" if study == "som3d" else "transform"},
        "sampling": {"samples": 2} | ({} if study == "som3d" else {"top_p": None}),
    }
    made = RunFolder.create(
        folder, study["name"], name, {"study": study, "steps": config or steps()}
    )
    model(np.zeros((1, *shape, 1), "float32"))
    model.save(made.file("model.keras"))
    if prior is not None:
        prior(np.zeros((1, *GRID), "int32"))
        prior.save(made.file("prior.keras"))
    return made.path


def networks(skips=False):
    sizes = {"filters": (4, 6), "norm": "none", "skips": skips}
    return (
        brainvq.models.strided_encoder((*SHAPE, 1), **sizes),
        brainvq.models.strided_decoder((*GRID, 6), **sizes),
    )


def coded(kind, bottleneck, skips=False):
    """A network whose codebook is some of the encodings of two brains."""
    keras.utils.set_random_seed(0)
    encoder, decoder = networks(skips)
    model = kind(encoder, bottleneck, decoder)
    volumes = np.stack([brain(seed, SHAPE)[..., None] for seed in (7, 8)])
    volumes = (volumes - volumes.mean()) / volumes.std()
    model(volumes)
    vectors = model.continuous(volumes).reshape(-1, 6)
    places = np.linspace(0, len(vectors) - 1, model.num_codes).astype(int)
    model.quantizer.set_codebook(vectors[places])
    return model


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of several kinds: dict of name to path."""
    folder = tmp_path_factory.mktemp("volumes")
    som = coded(brainvq.VQVAETrainer, SOMQuantizer((3, 4), "toroid"))
    prior = brainvq.PixelCNN(GRID, 12, filters=4, num_blocks=1, first_kernel_size=3)
    vq = coded(brainvq.VQVAETrainer, brainvq.EMAVectorQuantizer(num_codes=10))
    psom = coded(brainvq.Autoencoder, ProbabilisticSOM((3, 4)))
    skips = coded(brainvq.VQVAETrainer, brainvq.EMAVectorQuantizer(num_codes=10), skips=True)
    encoder, decoder = networks()
    return {
        "som": new_run(folder, "som", som, prior),
        "vq": new_run(folder, "vq", vq),
        "psom": new_run(folder, "psom", psom, prior),
        "skips": new_run(folder, "skips", skips),
        "ae": new_run(folder, "ae", brainvq.Autoencoder(encoder, Identity(), decoder)),
        "packed": packed_run(folder),
    }


def packed_run(folder):
    """A run whose codes are packed, of brains in [0, 1]; see `EntropyQuantizer`."""
    encoder = brainvq.models.transform_encoder((*SHAPE, 1), 4, 6)
    decoder = brainvq.models.transform_decoder((*GRID, 6), 4, ())
    model = brainvq.models.WindowedTrainer(encoder, EntropyQuantizer(6), decoder)
    volumes = np.stack([brain(seed, SHAPE)[..., None] for seed in range(4)])
    volumes = volumes / volumes.max()
    model(volumes)
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 6)))[0].T
    mean = volumes.mean(axis=0)
    brainvq.models.set_transform(encoder, decoder, mean, np.ones_like(mean), axes)
    model.bottleneck.fit(keras.ops.convert_to_numpy(encoder(volumes)), 500)
    prior = brainvq.models.MosaicPrior(4, (*GRID, 6), traits=("age", "sex"))
    prior.set_vectors(
        model.continuous(volumes), {"age": [20, 30, 40, 50], "sex": [1, np.nan, 1, 1]}
    )
    scaled = steps(scale=ScaleIntensity("max"))
    return new_run(folder, "packed", model, prior, config=scaled, study="t1w3d")


def scans(folder):
    """Scans of three orientations, sizes and voxels, one of them oblique; returns their paths."""
    turn = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, -0.1, 0.15))
    made = {}
    for number, (axcodes, oblique, shape) in enumerate(
        [("RAS", False, (40, 48, 40)), ("PIR", False, (29, 35, 27)), ("ALS", True, (31, 26, 33))]
    ):
        affine = np.diag([4.0, 4.5, 5.0, 1.0])
        affine[:3, 3] = [-70.1, -90.2, -60.3]
        change = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
        )
        image = nib.orientations.apply_orientation(brain(number, shape), change)
        affine = affine @ nib.orientations.inv_ornt_aff(change, shape)
        path = folder / f"sub-{number}_T1w.nii.gz"
        nib.save(nib.Nifti1Image(image, turn @ affine if oblique else affine), path)
        made[f"sub-{number}"] = path
    return made


def use(folder, monkeypatch, *words):
    """`predict.py` in this process: the programs' own start is tested elsewhere."""
    monkeypatch.chdir(folder)
    predict.main([str(word) for word in words])


def same_grid(path, scan):
    """The image at `path`, which must lie on the grid of `scan`."""
    found, original = nib.load(path), nib.load(scan)
    assert found.shape == original.shape
    np.testing.assert_array_equal(found.affine, original.affine)
    return np.asarray(found.dataobj)


def test_packed_codes_are_a_file_of_their_bits_and_come_back(runs, tmp_path, monkeypatch):
    (name, path), *_ = scans(tmp_path).items()
    use(tmp_path, monkeypatch, runs["packed"], "encode", path, "--out", "out")
    file = tmp_path / "out" / f"{name}_T1w.bvq"
    file = file if file.exists() else tmp_path / "out" / f"{name}.bvq"
    (row,) = read_csv(tmp_path / "out" / "scans.tsv").to_dict("records")
    assert 8 * file.stat().st_size == pytest.approx(row["bits"], abs=8 * 8 + 16)
    model = brainvq.load(runs["packed"]).model
    zero = np.load(tmp_path / "out" / "tables" / "zero.npy")
    np.testing.assert_array_equal(zero, model.bottleneck.tables()[0])
    use(tmp_path, monkeypatch, runs["packed"], "decode", file, "--out", "out")
    volume = PreparedVolume.read(str(path), brainvq.load(runs["packed"]).steps).volume
    expected = np.clip(model.reconstruct(volume[None]), 0, 1)
    found = np.load(tmp_path / "out" / f"{file.stem}_decoded.npy")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    (image,) = (tmp_path / "out").rglob("*_desc-decoded_*.nii.gz")
    same_grid(image, path)
    with pytest.raises(UserError, match=r"found packed codes; expected \.npy"):
        use(tmp_path, monkeypatch, runs["vq"], "decode", file, "--out", "other")
    with pytest.raises(UserError, match="has no codebook"):
        use(tmp_path, monkeypatch, runs["packed"], "map", path, "--out", "other")


@pytest.mark.parametrize("kind", ["som", "psom"])
def test_map_gives_every_voxel_the_place_of_its_code(runs, tmp_path, monkeypatch, kind):
    paths = scans(tmp_path)
    use(tmp_path, monkeypatch, runs[kind], "map", *paths.values(), "--out", "out")
    model = brainvq.load(runs[kind]).model
    table = read_csv(tmp_path / "out" / "map.tsv").set_index("name")
    labels_of = pd.read_csv(tmp_path / "out" / "desc-codes_dseg.tsv", sep="\t")
    assert list(labels_of["index"]) == list(range(1, 13))
    assert list(labels_of["row"]) == [0] * 4 + [1] * 4 + [2] * 4
    assert labels_of["color"].is_unique
    for name, path in paths.items():
        stem = tmp_path / "out" / name / "anat" / f"{name}_desc-"
        labels = same_grid(f"{stem}codes_dseg.nii.gz", path)
        assert labels.dtype == np.int16
        # By hand: the cell of 4 x 4 x 4 voxels of 8 mm that the centre of each voxel lies in.
        scan = PreparedVolume.read(str(path), steps())
        codes = model.codes(scan.volume[None])[0]
        assert codes.shape == GRID
        index = np.stack(np.meshgrid(*map(np.arange, labels.shape), indexing="ij"), -1)
        to_prepared = np.linalg.inv(scan.affine) @ nib.load(path).affine
        places = nib.affines.apply_affine(to_prepared, index)
        reached = ((places >= 0) & (places <= np.array(SHAPE) - 1)).all(-1)
        cells = np.floor(places + 0.5).clip(0, np.array(SHAPE) - 1).astype(int) // 4
        expected = np.where(reached, codes[tuple(np.moveaxis(cells, -1, 0))] + 1, 0)
        expected = np.where(foreground_mask(scan.image), expected, 0)
        # Where a centre lies between two cells, rounding decides.
        assert np.mean(labels != expected) < 1e-3
        assert (labels[foreground_mask(scan.image)] > 0).mean() > 0.5
        assert len(np.unique(labels)) > 3
        rows, columns = (
            same_grid(f"{stem}som{axis}_dseg.nii.gz", path) for axis in ("row", "column")
        )
        inside = labels > 0
        np.testing.assert_array_equal(rows[inside] - 1, (labels[inside] - 1) // 4)
        np.testing.assert_array_equal(columns[inside] - 1, (labels[inside] - 1) % 4)
        assert not rows[~inside].any()
        assert not columns[~inside].any()
        about = json.loads(Path(f"{stem}somrow_dseg.json").read_text())
        assert about["MapShape"] == [3, 4]
        assert about["VoxelsPerCode"] == [4, 4, 4]
        assert about["Sources"] == [path.name]
        assert "0: outside" in about["Description"]
        row = table.loc[name]
        found, counts = np.unique(labels[inside], return_counts=True)
        assert row["codes_used"] == len(found)
        assert row["commonest_code"] == found[counts.argmax()] - 1
        assert row["commonest_share"] == pytest.approx(counts.max() / counts.sum())
        assert (tmp_path / "out" / f"{name}_map.png").stat().st_size > 0


def test_map_of_a_codebook_without_a_map(runs, tmp_path, monkeypatch):
    path = scans(tmp_path)["sub-1"]
    use(tmp_path, monkeypatch, runs["vq"], "map", path, "--out", "out")
    labels = same_grid(tmp_path / "out" / "sub-1/anat/sub-1_desc-codes_dseg.nii.gz", path)
    assert set(np.unique(labels)) <= set(range(11))
    names = {file.name for file in (tmp_path / "out").rglob("*.*")}
    assert names == {
        "sub-1_desc-codes_dseg.nii.gz",
        "sub-1_desc-codes_dseg.json",
        "sub-1_map.png",
        "inputs.json",
        "map.tsv",
        "dataset_description.json",
        ".bidsignore",
        "desc-codes_dseg.tsv",
    }


def test_map_of_slices(tmp_path, monkeypatch):
    path = scans(tmp_path)["sub-2"]
    use(tmp_path, monkeypatch, "oasis2d", "map", path, "--out", "out")
    labels = same_grid(tmp_path / "out" / "sub-2/anat/sub-2_desc-codes_dseg.nii.gz", path)
    mask = foreground_mask(np.asarray(nib.load(path).dataobj))
    assert not labels[~mask].any()
    assert (labels[mask] > 0).mean() > 0.95
    assert len(np.unique(labels)) > 30
    assert (tmp_path / "out" / "sub-2_map.png").stat().st_size > 0


def of_scan(start, desc):
    """Where an image of a scan is written."""
    return f"{start}/anat/{start}_desc-{desc}_T1w.nii.gz"


def drawn(number):
    """Where `sample` writes a volume."""
    return of_scan(f"sub-sample{number:03d}", "drawn")


def test_sample_writes_brains_around_the_origin(runs, tmp_path, monkeypatch):
    use(tmp_path, monkeypatch, runs["som"], "sample", "--seed", "3", "--out", "a")
    volumes = np.load(tmp_path / "a" / "samples.npy")
    codes = np.load(tmp_path / "a" / "codes.npy")
    assert volumes.shape == (2, *SHAPE, 1)
    assert codes.shape == (2, *GRID)
    # z-scores, not cut to [0, 1].
    np.testing.assert_array_equal(volumes, brainvq.load(runs["som"]).model.decode(codes))
    assert volumes.min() < 0
    for number, volume in enumerate(volumes, 1):
        found = nib.load(tmp_path / "a" / drawn(number))
        image = np.asarray(found.dataobj)
        assert image.min() == 0
        assert nib.aff2axcodes(found.affine) == ("L", "P", "S")
        assert found.header.get_zooms() == (8.0, 8.0, 8.0)
        middle = nib.affines.apply_affine(found.affine, (np.array(SHAPE) - 1) / 2)
        np.testing.assert_allclose(middle, 0, atol=1e-5)
        # Differences among what is brighter than the background are those of the z-scores.
        bright = image > 0
        shift = volume[..., 0][bright] - image[bright]
        np.testing.assert_allclose(shift, shift.mean(), atol=1e-4)
        about = json.loads(sidecar_of(tmp_path / "a" / drawn(number)).read_text())
        assert "standard deviations" in about["Units"]
    assert (tmp_path / "a" / "samples.png").stat().st_size > 0
    # The codes on file decode to the same brains.
    use(tmp_path, monkeypatch, runs["som"], "decode", "a/codes.npy", "--out", "b")
    np.testing.assert_array_equal(np.load(tmp_path / "b" / "codes_decoded.npy"), volumes)
    one = nib.load(tmp_path / "b" / "sub-codes/anat/sub-codes_desc-decoded002_T1w.nii.gz")
    other = nib.load(tmp_path / "a" / drawn(2))
    np.testing.assert_array_equal(one.get_fdata(), other.get_fdata())
    np.testing.assert_array_equal(one.affine, other.affine)


def test_sample_draws_brains_of_an_age_where_the_prior_knows_ages(
    runs, tmp_path, monkeypatch, capsys
):
    for age in ("20", "900", "70"):
        words = ["sample", "-n", "1", "--seed", "0", "--age", age, "--out", age]
        if age == "900":
            with pytest.raises(UserError, match="age: found 900.0; expected years from 0 to 150"):
                use(tmp_path, monkeypatch, runs["packed"], *words)
            continue
        assert "outside that of the training people" not in capsys.readouterr().out
        use(tmp_path, monkeypatch, runs["packed"], *words)
        about = json.loads(sidecar_of(tmp_path / age / drawn(1)).read_text())
        assert about["Age"] == float(age)
        assert "Sex" not in about
    assert (
        "age 70 is outside that of the training people, 20 to 50 years" in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="age: found nan; expected years from 0 to 150"):
        brainvq.load(runs["packed"]).sample(1, age=float("nan"))
    with pytest.raises(UserError, match="sex: found F; expected none, because the prior of"):
        use(tmp_path, monkeypatch, runs["packed"], "sample", "--sex", "F")
    with pytest.raises(UserError, match="age: found 30.0; expected none, because the prior of"):
        use(tmp_path, monkeypatch, runs["som"], "sample", "--age", "30")


def test_encode_then_decode_equals_reconstruct(runs, tmp_path, monkeypatch):
    paths = scans(tmp_path)
    files = list(paths.values())
    use(tmp_path, monkeypatch, runs["som"], "encode", *files, "--out", "codes")
    use(tmp_path, monkeypatch, runs["som"], "reconstruct", *files, "--out", "whole")
    codes = [f"codes/{name}.npy" for name in paths]
    use(tmp_path, monkeypatch, runs["som"], "decode", *codes, "--out", "decoded")
    model = brainvq.load(runs["som"]).model
    for name, path in paths.items():
        one = same_grid(tmp_path / "decoded" / of_scan(name, "decoded"), path)
        other = same_grid(tmp_path / "whole" / of_scan(name, "recon"), path)
        np.testing.assert_array_equal(one, other)
        scan = PreparedVolume.read(str(path), steps())
        found = np.load(tmp_path / "codes" / f"{name}.npy")
        np.testing.assert_array_equal(found, model.encode(scan.volume[None])[0])
        vectors = np.load(tmp_path / "codes" / "vectors" / f"{name}.npy")
        assert vectors.shape == (*GRID, 6)
        for file in (f"decoded/{name}_decoded.png", f"whole/{name}_reconstruction.png"):
            assert (tmp_path / file).stat().st_size > 0
    table = read_csv(tmp_path / "codes" / "scans.tsv")
    assert list(table["grid"]) == ["4x6x5"] * 3
    np.testing.assert_allclose(table["bits"], 120 * np.log2(12))
    measured = read_csv(tmp_path / "whole" / "similarity.tsv")
    assert list(measured["voxels"]) == ["16x24x20"] * 3
    assert measured[["ssim", "ssim_foreground", "psnr", "psnr_foreground"]].notna().all(axis=None)


@pytest.mark.parametrize("scale", [ZScore("all"), ScaleIntensity("minmax")])
def test_a_perfect_network_gives_the_scan_back(tmp_path, monkeypatch, scale):
    x = keras.Input((None, None, None, 1))
    same = keras.Model(x, keras.layers.Activation("linear")(x))
    model = brainvq.Autoencoder(same, Identity(), keras.models.clone_model(same))
    config = steps((48, 48, 48), 4.0, scale)
    made = new_run(tmp_path / "runs", "same", model, shape=(48, 48, 48), config=config)
    affine = np.diag([-4.0, 4.0, 4.0, 1.0])
    nib.save(nib.Nifti1Image(brain(), affine), tmp_path / "scan.nii.gz")
    use(tmp_path, monkeypatch, made, "reconstruct", "scan.nii.gz", "--out", "out")
    found = same_grid(tmp_path / "out" / of_scan("sub-scan", "recon"), "scan.nii.gz")
    np.testing.assert_allclose(found, brain(), atol=1e-3)
    table = read_csv(tmp_path / "out" / "similarity.tsv")
    np.testing.assert_allclose(table[["ssim", "ssim_foreground"]], 1)


@pytest.mark.parametrize("kind", ["ae", "psom", "skips"])
def test_models_that_do_not_decode_codes(runs, tmp_path, monkeypatch, kind):
    path = scans(tmp_path)["sub-2"]
    use(tmp_path, monkeypatch, runs[kind], "reconstruct", path, "--out", "whole")
    same_grid(tmp_path / "whole" / of_scan("sub-2", "recon"), path)
    np.save(tmp_path / "codes.npy", np.zeros(GRID, int))
    reads = "the encoder's finer levels" if kind == "skips" else "vectors, not codes"
    with pytest.raises(UserError, match=f"its decoder reads {reads}"):
        use(tmp_path, monkeypatch, runs[kind], "decode", "codes.npy")
    if kind == "ae":
        for verb in ("encode", "map"):
            with pytest.raises(UserError, match=f"{verb}: the model of .* has no codes"):
                use(tmp_path, monkeypatch, runs[kind], verb, path)
        return
    use(tmp_path, monkeypatch, runs[kind], "encode", path, "--out", "codes")
    table = read_csv(tmp_path / "codes" / "scans.tsv")
    assert table["bits"].isna().all()  # these codes do not hold the image
    assert table["codes_used"][0] == len(np.unique(np.load(tmp_path / "codes" / "sub-2.npy")))
    if kind == "psom":
        with pytest.raises(UserError, match="its decoder reads vectors"):
            use(tmp_path, monkeypatch, runs[kind], "sample")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["reconstruct", "SCAN", "--plane", "axial"], "--plane: found axial; expected it with a"),
        (["encode", "SCAN", "--plane", "coronal"], "--plane: found coronal"),
        (["map", "SCAN", "--matrix", "native"], "--matrix: found native"),
        (["map", "SCAN", "--spacing", "2"], "--spacing: found 2;"),
        (["sample", "--level", "0.5"], "--level: found 0.5"),
        (["sample", "-n", "0"], "-n: found 0"),
        (["sample", "--batch-size", "0"], "--batch-size: found 0"),
        (["classify", "--labels", "participants.tsv:group"], "classify: "),
        (["anomaly", "SCAN"], "anomaly: "),
        (["encode", "absent.nii.gz"], "absent.nii.gz"),
        (["map", "empty.nii.gz"], "empty.nii.gz"),
        (["decode", "flat.npy"], "flat.npy: found int64 of shape (4, 4); expected whole numbers"),
        (["decode", "large.npy"], "large.npy: found 99 to 99; expected codes from 0 to 11"),
        (["decode", "several.npy"], "several.npy: found 2 volumes; expected one"),
        (["decode", "slices.npy"], "codes .json: has no 'affine'"),
        (["decode", "other.npy"], "other.npy: "),
    ],
)
def test_a_mistake_is_named(runs, tmp_path, monkeypatch, words, told):
    path = scans(tmp_path)["sub-0"]
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), "float32"), np.eye(4)), tmp_path / "empty.nii.gz")
    place = PreparedVolume.read(str(path), steps()).place()
    for name, codes, known in [
        ("flat", np.zeros((4, 4), int), None),
        ("large", np.full(GRID, 99), None),
        ("several", np.zeros((2, *GRID), int), place),
        ("slices", np.zeros(GRID, int), {}),
        ("other", np.zeros((2, 2, 2), int), place),
    ]:
        np.save(tmp_path / f"{name}.npy", codes)
        if known is not None:
            write_json(tmp_path / f"{name}.json", known)
    words = [str(path) if word == "SCAN" else word for word in words]
    with pytest.raises(UserError) as caught:
        use(tmp_path, monkeypatch, runs["som"], *words)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "predictions").exists()


def test_a_bad_scan_among_good_ones_is_skipped_and_counted(runs, tmp_path, monkeypatch, capsys):
    path = scans(tmp_path)["sub-0"]
    (tmp_path / "bad.nii.gz").write_bytes(path.read_bytes()[:2000])
    use(tmp_path, monkeypatch, runs["vq"], "map", path, tmp_path / "bad.nii.gz")
    assert "1 of 2 scans were skipped" in capsys.readouterr().out
    table = read_csv(tmp_path / "predictions" / "map" / "map.tsv")
    assert list(table["name"]) == ["sub-0"]


def test_help_names_map(capsys):
    with pytest.raises(SystemExit):
        predict.main(["--help"])
    assert "map SCANS..." in capsys.readouterr().out
