"""Study som3d end to end: volumes, maps of codes, a prior over them, and the study's table."""

import contextlib
import dataclasses
import json
import re

import keras
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainvq import data, evaluation, studies
from brainvq.app import compare as comparing
from brainvq.app import measure, single, stages, train
from brainvq.errors import UserError
from brainvq.files import write_json
from brainvq.options import to_dict
from brainvq.studies import STUDIES
from brainvq.tasks import of
from brainvq.tasks.base import SPLITS
from brainvq.tasks.run import LoadedRun
from brainvq.tasks.volumes.measures import measure_tissue
from brainvq.training.pretrained import load_model
from brainvq.training.runs import RunFolder
from tests.scripts.conftest import call

PLAIN = ("--smoke", "--data.subjects", "6", "--data.workers", "1")
# Of variants one of which at least has a prior to draw from.
SMALL = (*PLAIN, "--sampling.samples", "2")
FILES = (
    "study.json",
    "cohort.csv",
    "model.keras",
    "model.weights.h5",
    "prior.keras",
    "history.csv",
    "prior_history.csv",
    "subjects.csv",
    "metrics.json",
    "report.html",
    "MODEL_CARD.md",
    "codes/locations.npy",
    "samples/codes.npy",
    "samples/sample-01.nii.gz",
    "samples/sample-02.nii.gz",
    "samples/nearest.csv",
)
FIGURES = (
    "reconstructions",
    "continuous",
    "losses",
    "ssim",
    "subjects",
    "usage",
    "tsne",
    "locations",
    "som_grid",
    "brain_on_grid",
    "prior",
    "samples",
    "nearest",
    "anatomy",
)


@pytest.fixture(scope="module")
def som(tmp_path_factory):
    """A folder in which the autoencoder and a map that starts from it were trained."""
    folder = tmp_path_factory.mktemp("som3d")
    call(folder, "train", "som3d", "--variants", "ae,somvae-toroid", *SMALL)
    return folder


def made(folder, variant):
    (found,) = (folder / "runs").glob(f"som3d-{variant}-*")
    return found


def read(folder, variant):
    return json.loads((made(folder, variant) / "metrics.json").read_text())


def compare(folder, *words):
    """`similarity.py` in this process; returns its table."""
    with contextlib.chdir(folder):
        comparing.main([str(word) for word in words], "python similarity.py")
    return pd.read_csv(folder / "runs" / "similarity.csv").set_index("variant")


def test_a_run_holds_everything_the_study_names(som):
    folder = made(som, "somvae-toroid")
    for name in (*FILES, *(f"figures/{name}.png" for name in FIGURES)):
        assert (folder / name).stat().st_size > 0, name
    hidden = {path.name for path in folder.rglob(".*") if path.is_file()}
    assert hidden <= {".lock"}, "temporary files are left"
    text = (folder / "report.html").read_text()
    assert "simulated" in text
    assert text.count("data:image/png;base64,") == len(FIGURES)


def test_measures_are_those_of_unseen_subjects(som):
    folder, metrics = made(som, "somvae-toroid"), read(som, "somvae-toroid")
    cohort = pd.read_csv(folder / "cohort.csv")
    subjects = pd.read_csv(folder / "subjects.csv")
    assert set(subjects["subject"]) == set(cohort.loc[cohort["split"] == "test", "subject"])
    assert metrics["reconstruction"]["ssim"]["mean"] == pytest.approx(subjects["ssim"].mean())
    assert metrics["ssim_settings"]["dimensions"] == "3D"
    assert metrics["grid"] == [2, 3, 2]
    assert metrics["stride"] == 16
    assert metrics["bits_per_volume"] == pytest.approx(12 * np.log2(20))
    codes = {split: np.load(folder / "codes" / f"{split}.npy") for split in SPLITS}
    whole = np.concatenate(list(codes.values()))
    assert metrics["codes"]["all"]["used"] == len(np.unique(whole))
    assert metrics["codes"]["test"]["used"] == len(np.unique(codes["test"]))
    locations = np.load(folder / "codes" / "locations.npy")
    np.testing.assert_array_equal(locations.sum(axis=0), np.full((2, 3, 2), len(cohort)))
    assert metrics["som"]["vectors"] == codes["test"].size
    assert metrics["som"]["nodes_used"] == metrics["codes"]["test"]["used"]
    assert metrics["som"]["neighbour_correlation"]["pairs"] == 2 * 20
    assert 0 < metrics["tissue"]["nmi"] <= 1
    # Few of 12 places say all that the 12 places say of one brain.
    assert 0 < metrics["tissue"]["explained"] <= metrics["tissue"]["position"]["explained"] + 1e-9
    assert metrics["prior"]["neighbour_tables"] > 0


def test_without_codes_there_is_only_the_reconstruction(som):
    metrics = read(som, "ae")
    assert metrics["bits_per_volume"] is None
    assert not {"codes", "som", "patch_kmeans", "prior", "samples", "tissue"} & set(metrics)
    assert (made(som, "ae") / "report.html").exists()


def test_samples_are_volumes_in_millimetres(som):
    folder = made(som, "somvae-toroid")
    for number in (1, 2):
        image = nib.load(folder / "samples" / f"sample-{number:02d}.nii.gz")
        assert image.shape == (32, 48, 32)
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        np.testing.assert_allclose(nib.affines.voxel_sizes(image.affine), 5.0, rtol=1e-5)
        middle = image.affine @ [15.5, 23.5, 15.5, 1]
        np.testing.assert_allclose(middle[:3], 0, atol=1e-3)
        assert image.get_fdata().min() >= 0
    cohort = pd.read_csv(folder / "cohort.csv").set_index("scan_id")
    nearest = pd.read_csv(folder / "samples" / "nearest.csv")
    assert set(cohort.loc[nearest["scan_id"], "split"]) == {"train"}
    assert read(som, "somvae-toroid")["samples"]["distance_to_training"] == pytest.approx(
        nearest["distance"].mean()
    )


def test_variants_that_are_done_are_left_alone(som, monkeypatch):
    monkeypatch.chdir(som)
    monkeypatch.setattr(single, "train_run", lambda *_: pytest.fail("trained again"))
    before = sorted((som / "runs").iterdir())
    train.main(["som3d", "--variants", "ae,somvae-toroid", *SMALL], "python train.py")
    assert sorted((som / "runs").iterdir()) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--variants", "ae,magic"], "--variants: found 'magic'; expected all, or some of ae,"),
        (["--variants", "all", "--variant", "ae"], "--variant: found beside --variants"),
        (["--variant", "somvae", *PLAIN, "--runs", "none"], "found no trained run of ae on these"),
        # Another split would show the test subjects to what is measured on them.
        (["--variant", "somvae", *PLAIN, "--seed", "1"], "found no trained run of ae on these"),
        (
            ["--variant", "somvae", *PLAIN, "--seed", "1", "--train.start-run", "AE"],
            "of other data, split or filters",
        ),
        (["--variant", "somvae", *PLAIN, "--train.start-run", "none"], "none: no such folder"),
    ],
)
def test_a_start_that_cannot_be_is_named(som, monkeypatch, words, told):
    monkeypatch.chdir(som)
    before = sorted((som / "runs").iterdir())
    words = [str(made(som, "ae")) if word == "AE" else word for word in words]
    with pytest.raises(UserError, match=re.escape(told)):
        train.main(["som3d", *words], "python train.py")
    assert sorted((som / "runs").iterdir()) == before


def test_a_variant_starts_from_the_weights_and_encodings_of_another(som, tmp_path, monkeypatch):
    monkeypatch.chdir(som)
    source = load_model(made(som, "ae") / "model.keras")
    words = ("som3d", *PLAIN, "--variant")
    for variant, same in (("best", True), ("vqvae-kmeans", True), ("vqvae-kmeans-codebook", False)):
        study = studies.parse([*words, variant], "train.py", "")
        start = single.start_of(study, "python train.py")
        folder = RunFolder(tmp_path / variant)
        write_json(folder.file("study.json"), {"format": 1, "start": str(start.path)})
        copy = LoadedRun(folder, study)
        copy.store = of(study).arrays(study, of(study).cohort(study))
        copy.rows = {"train": np.arange(3)}
        store, model = copy.store, build(study)
        stages.start_from(copy, model)
        z = source.continuous(store.read(range(3)), 2).reshape(-1, 4)
        for ours, theirs in ((model.encoder, source.encoder), (model.decoder, source.decoder)):
            pairs = zip(ours.get_weights(), theirs.get_weights(), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs) == same, variant
        if variant == "best":
            kernel, bias = model.quantizer.coordinates.get_weights()
            np.testing.assert_allclose((z @ kernel + bias).mean(0), 0, atol=1e-2)
        else:  # every code lies among the encodings of the source, whatever the weights are
            codebook = np.asarray(keras.ops.convert_to_numpy(model.quantizer.codebook))
            apart = np.linalg.norm(codebook[:, None] - z, axis=-1).min(axis=1)
            assert np.median(apart) < 0.5 * z.std(axis=0).max()


def test_the_table_has_a_row_for_each_variant_in_the_order_of_the_paper(som, monkeypatch):
    runs = [made(som, "somvae-toroid"), made(som, "ae")]
    with monkeypatch.context() as patch:  # what is on file is not measured again
        patch.setattr(LoadedRun, "model", property(lambda _: pytest.fail("measured")))
        table = compare(som, *runs)
    assert list(table.index) == ["ae", "somvae-toroid"]
    for variant in table.index:
        metrics, row = read(som, variant), table.loc[variant]
        assert row["ssim"] == pytest.approx(metrics["reconstruction"]["ssim"]["mean"])
        assert (row["published_ssim"], row["published_psnr"]) == {
            "ae": (0.87, 25.5),
            "somvae-toroid": (0.82, 24.2),
        }[variant]
        assert row["epochs"] == 2
    assert table["codes_used_all"].isna().tolist() == [True, False]
    assert (som / "runs" / "similarity.png").stat().st_size > 0

    (made(som, "ae") / "subjects.csv").unlink()
    again = compare(som, "--again", *runs)
    assert (made(som, "ae") / "subjects.csv").exists()
    pd.testing.assert_frame_equal(again, table, rtol=1e-3, atol=1e-5)
    assert "prior" in read(som, "somvae-toroid"), "measuring again forgets the prior"


def test_slices_and_volumes_are_not_put_into_one_table(som):
    study = STUDIES["oasis2d"]["best"]
    other = som / "other" / "oasis2d-best-1"
    write_json(other / "study.json", {"format": 1, "study": to_dict(study)})
    with pytest.raises(
        UserError, match="is on volumes, .* is on slices; expected runs of one kind"
    ):
        compare(som, made(som, "ae"), other)
    with pytest.raises(UserError, match="--twice: no such option"):
        compare(som, "--twice", other)


def build(study):
    return study.model.build(study.data.input_shape, seed=study.seed)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A function of a variant: a run on tiny volumes, with a model that is not trained."""
    cache = str(tmp_path_factory.mktemp("cache"))

    def make(variant, folder):
        study = STUDIES["som3d"][variant].smoke()
        network = dataclasses.replace(study.model.network, filters=(4, 8))
        study = dataclasses.replace(
            study,
            data=dataclasses.replace(
                study.data,
                subjects=5,
                simulated_spacing=8.0,
                spacing=8.0,
                shape=(16, 24, 16),
                cache=cache,
                workers=1,
            ),
            model=dataclasses.replace(study.model, network=network),
        )
        run = LoadedRun(RunFolder(folder), study)
        run.model = build(study)
        return run

    return make


def test_the_torus_of_best_is_measured_as_a_map(small, tmp_path):
    run = small("best", tmp_path)
    measure.measure_run(run)
    metrics = run.metrics()
    assert metrics["bits_per_volume"] == pytest.approx(4 * 6 * 4 * np.log2(20))
    assert metrics["som"]["neighbour_correlation"]["pairs"] == 40
    assert set(metrics["continuous_reconstruction"]) == set(metrics["reconstruction"])


@pytest.mark.parametrize("variant", ["vae", "vqvae-skips", "psomvae"])
def test_what_is_not_made_of_codes_has_no_bits(small, tmp_path, variant):
    run = small(variant, tmp_path)
    measure.measure_run(run)
    metrics = run.metrics()
    assert metrics["bits_per_volume"] is None
    assert "patch_kmeans" not in metrics
    assert metrics["grid"] == [4, 6, 4]
    assert ("codes" in metrics) == (variant != "vae")
    assert ("neighbour_correlation" in metrics.get("som", {})) == (variant == "psomvae")
    assert ("topographic_error" in metrics.get("som", {})) == (variant == "psomvae")


def test_watched_volumes_are_measured_as_in_the_end(small, tmp_path):
    run = small("ae", tmp_path)
    volumes = run.store.read(run.rows["validation"])
    assert volumes.min() < 0, "z-scored"
    restored = run.model.reconstruct(volumes)
    run.rows["test"] = run.rows["validation"]
    table = run.task.similarity(run.model.reconstruct, run).table()
    watched = run.task.watch(volumes, restored)
    assert watched["val_ssim"] == pytest.approx(table["ssim"].mean())
    assert watched["val_ssim_foreground"] == pytest.approx(table["ssim_foreground"].mean())
    assert run.task.watch(volumes, volumes)["val_ssim"] == pytest.approx(1)


def test_tissues_lie_where_the_brain_is(small, tmp_path):
    run = small("ae", tmp_path)
    # One code for what is bright and one for the rest, voxel by voxel: codes that know the brain.
    volumes = run.store.read(run.rows["test"])[..., 0]
    inside = evaluation.foreground(volumes, ndim=3)
    bright = (volumes > np.median(volumes[inside])) & inside
    overlap = measure_tissue(run, bright.astype("int64"), 2)
    assert overlap["explained"] > 0.2
    labels, affine = data.tissue_labels(run.scans.table["paths"].iloc[0])
    assert overlap["voxels"] <= len(run.rows["test"]) * 1.3 * np.count_nonzero(labels)
