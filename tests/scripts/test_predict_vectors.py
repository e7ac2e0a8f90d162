"""predict.py on runs whose volumes become vectors: a small untrained network, simulated scans."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine

import brainvq
from brainvq import data, evaluation, studies, tasks
from brainvq.app import predict
from brainvq.data import registration
from brainvq.data.derivatives import sidecar_of
from brainvq.errors import UserError
from brainvq.files import read_csv
from brainvq.models import set_mean
from brainvq.options import from_dict, to_dict
from brainvq.options.verbs import VERBS
from brainvq.tasks import trained as runs_by_name
from brainvq.tasks.vectors import samples
from brainvq.tasks.volumes.registration import grid_affine, template
from brainvq.training.runs import RunFolder

SMALL = ("introvae3d", "--variant", "ivae-256", "--smoke", "--model.filters", "4")
SMALL += ("--model.latent-size", "6")
SHAPE, SIZE = (20, 24, 20), 6
# A bright place in the mean volume, in mm of MNI space: at the right, in front and above.
MARK = (43.5, 26.5, 27.5)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    runs = tmp_path_factory.mktemp("vectors") / "runs"
    return studies.parse([*SMALL, "--runs", str(runs)], "", "")


@pytest.fixture(scope="module")
def path(study):
    """A run as train.py leaves it, but for its training."""
    space = template(study)
    mean = 0.6 * space.t1
    mark = np.rint(apply_affine(np.linalg.inv(space.affine), MARK)).astype(int)
    mean[tuple(mark)] = 0.95
    model = study.model.build(study.data.input_shape, seed=study.seed)
    set_mean(model.encoder, model.decoder, mean[..., None], 0.1)
    content = {
        "study": to_dict(study),
        "steps": data.steps_to_config(tasks.of(study).steps(study)),
        "command": "python train.py introvae3d",
    }
    made = RunFolder.create(study.runs, study.name, study.variant, content)
    model.save(made.file("model.keras"))
    return made.path


@pytest.fixture(scope="module")
def trained(path):
    return brainvq.load(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two simulated scans on the grid of the study: dict of name to path."""
    folder, made = tmp_path_factory.mktemp("scans"), {}
    for number in (0, 1):
        about = {"seed": 3, "number": number, "modality": "FLAIR", "spacing": 8.0, "space": "mni"}
        about |= {"group": "MS", "age": 50.0, "sex": "F"}
        image, affine = data.load_scan((f"simulated:{json.dumps(about)}",))
        made[f"sub-{number}"] = data.save_nifti(
            folder / f"sub-{number}_FLAIR.nii.gz", image, affine
        )
    return made


def use(folder, monkeypatch, trained, *words):
    """`predict.py` in this process on a run that is loaded already."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(runs_by_name, "load", lambda name: trained)
    predict.main([str(trained.path), *map(str, words)])


def volume(path, trained):
    """A NIfTI file that must lie where the volumes of the run do in MNI space."""
    found = nib.load(path)
    assert nib.aff2axcodes(found.affine) == ("L", "P", "S")
    np.testing.assert_allclose(found.affine, grid_affine(trained.study.data), atol=1e-4)
    assert (found.header["sform_code"], found.header["qform_code"]) == (4, 4)
    return np.asarray(found.dataobj)


def in_template(start, desc, suffix="FLAIR"):
    """Where a volume that belongs to no scan is written."""
    return f"{start}/anat/{start}_space-MNI152NLin2009aSym_desc-{desc}_{suffix}.nii.gz"


def around(start, number):
    """Where `traverse` writes a dimension."""
    return in_template(start, f"dimension{number:03d}", "series")


def test_grid_is_that_of_the_template(study, trained):
    found = grid_affine(trained.study.data)
    np.testing.assert_array_equal(found, template(study).affine)
    assert trained.in_template_space
    assert trained.study.data.sample_shape == (*SHAPE, 1)


def test_sample(path, trained, tmp_path, monkeypatch):
    words = ("sample", "-n", 3, "--seed", 4, "--temperature", 0.7)
    monkeypatch.chdir(tmp_path)
    predict.main([str(path), *map(str, words)])
    folder = tmp_path / "predictions" / "sample"
    vectors = np.load(folder / "latents.npy")
    expected = np.random.default_rng(4).standard_normal((3, SIZE), dtype="float32")
    np.testing.assert_allclose(vectors, 0.7 * expected, rtol=1e-6)
    images, again = trained.sample(3, temperature=0.7, seed=4)
    np.testing.assert_array_equal(vectors, again)
    for number, image in enumerate(images, 1):
        found = volume(folder / in_template(f"sub-sample{number:03d}", "drawn"), trained)
        np.testing.assert_allclose(found, image[..., 0], atol=1e-5)
        about = json.loads(
            sidecar_of(folder / in_template(f"sub-sample{number:03d}", "drawn")).read_text()
        )
        assert about["Simulated"] is True
        assert about["Model"] == path.name
    assert (folder / "samples.png").stat().st_size > 0
    use(tmp_path, monkeypatch, trained, "decode", folder / "latents.npy", "--out", "b")
    for number, image in enumerate(images, 1):
        found = volume(tmp_path / "b" / in_template("sub-latents", f"decoded{number:03d}"), trained)
        np.testing.assert_allclose(found, image[..., 0], atol=1e-5)
    assert (tmp_path / "b" / "latents_decoded.png").stat().st_size > 0


def test_drawn_volumes_lie_in_mni_space(trained, tmp_path, monkeypatch):
    # At temperature 0 the network gives its mean volume: the template with a mark.
    use(tmp_path, monkeypatch, trained, "sample", "-n", 1, "--temperature", 0, "--out", ".")
    found = nib.load(tmp_path / in_template("sub-sample001", "drawn"))
    image = np.asarray(found.dataobj)
    brightest = np.unravel_index(image.argmax(), image.shape)
    np.testing.assert_allclose(apply_affine(found.affine, brightest), MARK, atol=1e-4)
    # Each voxel against the 1 mm template at its place, as any other program would look it up.
    own = registration.load_template()
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), -1)
    places = apply_affine(np.linalg.inv(own.affine) @ found.affine, grid)
    places = np.rint(places).astype(int).clip(0, np.array(own.t1.shape) - 1)
    there = own.t1[tuple(np.moveaxis(places, -1, 0))]
    assert np.corrcoef(there.ravel(), image.ravel())[0, 1] > 0.9
    assert np.corrcoef(there[::-1, ::-1].ravel(), image.ravel())[0, 1] < 0.9


def test_sample_in_python(trained):
    volumes, vectors = trained.sample(2, seed=0)
    np.testing.assert_array_equal(volumes, trained.model.sample(2, seed=0))
    assert volumes.shape == (2, *SHAPE, 1)
    assert vectors.shape == (2, SIZE)
    for options in ({"top_k": 3}, {"level": 0.5}, {"bundle": "MCP"}):
        with pytest.raises(UserError, match=f"{next(iter(options))}: found .*temperature and seed"):
            trained.sample(1, **options)


def test_traverse(path, trained, files, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--dimensions: found none, and .* numbers from 0 to 5"):
        use(tmp_path, monkeypatch, trained, "traverse")
    (path / "latents").mkdir()
    spread = np.array([0.1, 2, 0.2, 1, 3, 0.3])
    np.save(path / "latents" / "train.npy", np.outer([-1, 1], spread))
    use(tmp_path, monkeypatch, trained, "traverse", "--values", -1, 2.5, "--out", "a")
    names = {str(file.relative_to(tmp_path / "a")) for file in (tmp_path / "a").rglob("*.nii.gz")}
    assert names == {around("sub-zeros", number) for number in (4, 1, 3)}
    table = pd.DataFrame({"dimension": [5, 0, 2, 1], "f": [9.0, 8.0, 7.0, 6.0]})
    table.to_csv(path / "latents" / "dimensions.csv", index=False)
    use(tmp_path, monkeypatch, trained, "traverse", "--out", "b")
    latents = np.load(tmp_path / "b" / "latents.npy")
    expected = np.zeros((3, 7, SIZE))
    for row, number in enumerate((5, 0, 2)):
        expected[row, :, number] = range(-3, 4)
    np.testing.assert_array_equal(latents, expected)
    for row, number in enumerate((5, 0, 2)):
        found = volume(tmp_path / "b" / around("sub-zeros", number), trained)
        assert found.shape == (*SHAPE, 7)
        decoded = trained.model.decode(latents[row])[..., 0]
        np.testing.assert_allclose(np.moveaxis(found, -1, 0), decoded, atol=1e-5)
        about = json.loads(sidecar_of(tmp_path / "b" / around("sub-zeros", number)).read_text())
        assert about["Dimension"] == number
        assert about["Values"] == list(range(-3, 4))
    assert (tmp_path / "b" / "traversal.png").stat().st_size > 0
    words = ("traverse", files["sub-1"], "--dimensions", 3, "--values", 0, 1, "--out", "c")
    use(tmp_path, monkeypatch, trained, *words)
    latents = np.load(tmp_path / "c" / "sub-1_latents.npy")[0]
    vector = encoded(trained, files["sub-1"])
    np.testing.assert_array_equal(latents[:, 3], [0, 1])
    kept = np.arange(SIZE) != 3
    np.testing.assert_allclose(latents[:, kept], [vector[kept]] * 2, rtol=1e-5)
    assert (tmp_path / "c" / around("sub-1", 3)).exists()


def encoded(trained, path):
    """The vector of a scan on the grid of the study, by the steps of the run."""
    scan = data.PreparedVolume.read(str(path), trained.steps)
    return trained.model.encode(scan.volume[None])[0]


def test_interpolate(trained, files, tmp_path, monkeypatch):
    ends = [encoded(trained, file) for file in files.values()]
    for words, spherical in ((("--steps", 3), False), (("--spherical",), True)):
        out = tmp_path / str(spherical)
        use(tmp_path, monkeypatch, trained, "interpolate", *files.values(), *words, "--out", out)
        steps = 7 if spherical else 3
        latents = np.load(out / "latents.npy")
        expected = evaluation.interpolate(*ends, steps, spherical=spherical)
        np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-6)
        decoded = trained.model.decode(latents)[..., 0]
        for number in range(steps):
            found = volume(out / in_template("sub-0to1", f"step{number + 1:03d}"), trained)
            np.testing.assert_allclose(found, decoded[number], atol=1e-5)
        assert (out / "interpolation.png").stat().st_size > 0


def test_reconstruct_and_encode(trained, files, tmp_path, monkeypatch):
    use(tmp_path, monkeypatch, trained, "reconstruct", *files.values(), "--out", "r")
    use(tmp_path, monkeypatch, trained, "encode", *files.values(), "--out", "e")
    table = read_csv(tmp_path / "r" / "similarity.tsv")
    assert list(table["voxels"]) == ["20x24x20"] * 2
    latents = read_csv(tmp_path / "e" / "latents.tsv").set_index("scan")
    assert list(latents.pop("participant_id")) == list(files)
    assert list(latents.columns) == [f"z{number:03d}" for number in range(SIZE)]
    for row, (name, file) in enumerate(files.items()):
        vector = np.load(tmp_path / "e" / f"{name}.npy")
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, encoded(trained, file), rtol=1e-5)
        np.testing.assert_allclose(latents.loc[name], vector, rtol=1e-5)
        scan = data.PreparedVolume.read(str(file), trained.steps)
        restored = trained.model.reconstruct(scan.volume[None])
        score = evaluation.ssim(scan.volume[None], restored, ndim=3)
        np.testing.assert_allclose(table["ssim"][row], np.mean(score), atol=1e-5)
        error = np.mean((scan.volume - restored[0]) ** 2, dtype="float64")
        np.testing.assert_allclose(table["psnr"][row], -10 * np.log10(error), rtol=1e-4)
        found, original = (
            nib.load(tmp_path / "r" / name / "anat" / f"{name}_desc-recon_FLAIR.nii.gz"),
            nib.load(file),
        )
        np.testing.assert_array_equal(found.affine, original.affine)
        # By hand: the scan is RAS and has the study's voxels, which are LPS.
        image = restored[0, ::-1, ::-1, :, 0] * (scan.high - scan.low) + scan.low
        np.testing.assert_allclose(np.asarray(found.dataobj), image, rtol=1e-4, atol=1e-3)
        assert (tmp_path / "r" / f"{name}_reconstruction.png").stat().st_size > 0
    use(tmp_path, monkeypatch, trained, "decode", "e/sub-0.npy", "--out", "d")
    found = volume(tmp_path / "d" / in_template("sub-0", "decoded"), trained)
    np.testing.assert_allclose(found, trained.model.decode(np.load("e/sub-0.npy")[None])[0, ..., 0])


def test_a_scan_that_lies_elsewhere_is_registered_and_put_back(
    trained, files, tmp_path, monkeypatch
):
    """The map that registration finds is known here; the network gives back what it gets."""
    turn = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, -0.2, 0.1), (20, -30, 10))
    own = nib.load(files["sub-0"])
    image = np.asarray(own.dataobj)[::-1].transpose(1, 0, 2)  # P and R are swapped, and R is L
    change = nib.orientations.inv_ornt_aff([[1, -1], [0, 1], [2, 1]], own.shape)
    moved = data.save_nifti(tmp_path / "sub-7_FLAIR.nii.gz", image, turn @ own.affine @ change)
    asked = []

    def register(image, affine, **options):
        asked.append(options)
        return turn

    monkeypatch.setattr(registration, "register", register)
    kept = []
    monkeypatch.setattr(
        samples,
        "vectors_of",
        lambda trained, scans: kept.append(scans[0].volume) or np.zeros((1, 6)),
    )
    monkeypatch.setattr(samples, "decoded", lambda *_: kept[-1][None])
    use(tmp_path, monkeypatch, trained, "reconstruct", moved, "--out", "out")
    assert asked[0]["transform"] == "affine"
    # On the grid it is the scan that was not moved, but for the interpolation.
    there = data.PreparedVolume.read(str(files["sub-0"]), trained.steps).volume
    assert np.corrcoef(kept[0].ravel(), there.ravel())[0, 1] > 0.97
    found = nib.load(tmp_path / "out" / "sub-7/anat/sub-7_desc-recon_FLAIR.nii.gz")
    np.testing.assert_array_equal(found.affine, nib.load(moved).affine)
    back = np.asarray(found.dataobj)
    assert back.shape == image.shape
    assert np.corrcoef(back.ravel(), image.ravel())[0, 1] > 0.95
    assert read_csv(tmp_path / "out" / "similarity.tsv")["ssim"][0] == pytest.approx(1)


def test_export(trained, tmp_path, monkeypatch):
    use(tmp_path, monkeypatch, trained, "export", "--out", "small")
    found = brainvq.load(tmp_path / "small")
    assert found.prior is None
    one, other = (run.sample(2, seed=1) for run in (found, trained))
    np.testing.assert_array_equal(one[1], other[1])
    np.testing.assert_allclose(one[0], other[0], atol=5e-3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["map", "SCAN"], "map: "),
        (["classify", "--labels", "a.tsv:group"], "classify: "),
        (["anomaly", "SCAN"], "anomaly: "),
        (["perturb", "SCAN"], "perturb: "),
        (["sample", "--level", "0.5"], "--level: found 0.5"),
        (["sample", "--top-k", "5"], "--top-k: found 5; expected it with a study of slices or "),
        (["sample", "--top-p", "0.5"], "--top-p: found 0.5"),
        (["sample", "--bundle", "MCP"], "--bundle: found MCP"),
        (["reconstruct", "SCAN", "--plane", "axial"], "--plane: found axial"),
        (["encode", "SCAN", "--matrix", "native"], "--matrix: found native"),
        (["sample", "-n", "0"], "-n: found 0; expected 1 or more"),
        (["sample", "--temperature", "-1"], "--temperature: found -1.0; expected 0 or more"),
        (["sample", "--seed", "-1"], "--seed: found -1"),
        (["traverse", "--dimensions", "6"], "--dimensions: found 6; expected numbers from 0 to 5"),
        (["traverse", "--dimensions", "1", "1"], "--dimensions: found 1 1; expected each"),
        (["traverse", "--dimensions", "1", "--values", "2"], "--values: found 2; expected two"),
        (["traverse", "absent.nii.gz", "--dimensions", "1"], "absent.nii.gz"),
        (["interpolate", "SCAN", "SCAN"], "twice; expected two scans"),
        (["interpolate", "SCAN", "OTHER", "--steps", "1"], "--steps: found 1; expected 2 or more"),
        (["interpolate", "SCAN", "FOLDER"], "found 2 scans; expected one"),
        (["encode", "absent.nii.gz"], "absent.nii.gz"),
        (["decode", "absent.npy"], "absent.npy: no such file"),
        (["decode", "wide.npy"], "wide.npy: found float64 of shape (2, 7); expected numbers of"),
        (["decode", "words.npy"], "words.npy: found <U1"),
        (["decode", "nan.npy"], "nan.npy: found numbers that are not finite"),
        (["decode", "text.npy"], "text.npy: cannot be read"),
    ],
)
def test_a_mistake_is_named(trained, files, tmp_path, monkeypatch, words, told):
    np.save(tmp_path / "wide.npy", np.zeros((2, 7)))
    np.save(tmp_path / "words.npy", np.array(["a"] * SIZE))
    np.save(tmp_path / "nan.npy", np.full(SIZE, np.nan))
    (tmp_path / "text.npy").write_text("no array")
    known = {"SCAN": files["sub-0"], "OTHER": files["sub-1"], "FOLDER": files["sub-0"].parent}
    with pytest.raises(UserError) as caught:
        use(tmp_path, monkeypatch, trained, *(known.get(word, word) for word in words))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "predictions").exists()


@pytest.fixture
def volumes(tmp_path):
    """A run of volumes with codes, of which nothing but its options is read."""
    content = {"study": to_dict(studies.STUDIES["som3d"]["best"]), "steps": []}
    return RunFolder.create(tmp_path, "som3d", "best", content)


def test_other_runs_have_no_vectors(volumes):
    for verb, *more in (["traverse"], ["interpolate", "a.nii", "b.nii"]):
        told = f"{verb}: .* is of study som3d, whose samples are volumes; expected .* of vectors"
        with pytest.raises(UserError, match=told):
            predict.parse(volumes, verb, more, "")


def test_default_temperature_depends_on_the_run(path, volumes):
    for run, expected in ((RunFolder.open(path), 1.0), (volumes, None)):
        assert predict.parse(run, "sample", [], "").temperature == expected


def test_every_verb_has_a_function(path, volumes):
    for run in (RunFolder.open(path), volumes):
        study = from_dict(run.study["study"])
        own = set(tasks.of(study).samples.verbs)
        assert own | {"reconstruct", "encode", "decode", "export"} == set(VERBS[study.kind])
