"""Study introvae3d end to end: vectors of volumes, new volumes, what latents and scanners tell."""

import contextlib
import dataclasses
import json

import keras
import numpy as np
import pandas as pd
import pytest

from brainvq.app import compare
from brainvq.app.stages import train_autoencoder, try_networks
from brainvq.errors import UserError
from brainvq.evaluation import PrincipalComponents, bias_audit
from brainvq.files import records, write_json
from brainvq.options import to_dict
from brainvq.studies import STUDIES, parse
from brainvq.tasks import of
from brainvq.tasks.base import optimizer_of
from brainvq.tasks.run import LoadedRun
from brainvq.tasks.vectors.figures import frame, one_of_each
from brainvq.tasks.vectors.latents import acquisition, classes
from brainvq.training.fit import TrainingState
from brainvq.training.pretrained import load_model
from brainvq.training.runs import RunFolder
from tests.scripts.conftest import call

# Both with a linear path and draws that are fitted; one with a phase as a VAE and with fakes.
SMALL = ("--variants", "best,ivae-256", "--model.linear", "--model.fitted-draws", "4", "--smoke")
SMALL += ("--data.workers", "1", "--sampling.samples", "4")
FILES = (
    "study.json",
    "cohort.csv",
    "model.keras",
    "model.weights.h5",
    "model.txt",
    "history.csv",
    "vae_history.csv",
    "subjects.csv",
    "metrics.json",
    "audit.csv",
    "report.html",
    "MODEL_CARD.md",
    "latents/train.npy",
    "latents/scans.csv",
    "latents/dimensions.csv",
    "latents/classes.csv",
    "latents/age.csv",
    "samples/samples.npy",
    "samples/sample-01.nii.gz",
    "samples/nearest.csv",
)
FIGURES = (
    "reconstructions",
    "samples",
    "nearest",
    "interpolation",
    "generation",
    "traversal",
    "lda",
    "classes",
    "age",
    "metadata",
    "losses",
    "ssim",
    "divergence",
    "subjects",
    "registration",
)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A folder in which a VAE, the study's default, and an IntroVAE were trained."""
    folder = tmp_path_factory.mktemp("introvae3d")
    call(folder, "train", "introvae3d", *SMALL)
    return folder


def made(folder, variant):
    (path,) = (folder / "runs").glob(f"introvae3d-{variant}-*")
    return path


def read(folder, variant):
    return json.loads((made(folder, variant) / "metrics.json").read_text())


def test_a_run_holds_all_of_its_parts(vae):
    folder = made(vae, "ivae-256")
    for name in (*FILES, *(f"figures/{figure}.png" for figure in FIGURES)):
        assert (folder / name).stat().st_size > 0, name
    report = (folder / "report.html").read_text()
    assert "simulated" in report
    assert report.count("data:image/png") == len(FIGURES)
    model = load_model(folder / "model.keras")
    assert np.count_nonzero(np.any(model.ex_post.rows.numpy() != 0, axis=1)) == 4
    assert "what training volumes are made of" in (folder / "MODEL_CARD.md").read_text()
    assert "vae_history.csv" not in {path.name for path in made(vae, "best").iterdir()}


def test_subjects_of_the_splits_differ_and_latents_are_theirs(vae):
    folder = made(vae, "ivae-256")
    scans = pd.read_csv(folder / "latents" / "scans.csv", dtype={"subject": str})
    assert (scans.groupby("subject")["split"].nunique() == 1).all()
    assert set(scans["split"]) == {"train", "validation", "test"}
    for split, part in scans.groupby("split"):
        assert len(np.load(folder / "latents" / f"{split}.npy")) == len(part)
    metrics = read(vae, "ivae-256")
    assert metrics["test_subjects"] == scans[scans["split"] == "test"]["subject"].nunique()
    assert metrics["generation"]["count"] == 4
    # Each table stands beside that of principal components.
    for part in ("model", "components"):
        assert set(metrics["generation"][part]) == {
            "sharpness",
            "diversity",
            "fidelity",
            "memorisation",
        }
    assert {row["class"] for row in metrics["latents"]["classes"]["table"]} == {
        "healthy",
        "MS",
        "leuko3",
    }


def test_runs_are_compared(vae, capsys):
    with contextlib.chdir(vae):
        compare.main([str(path) for path in sorted((vae / "runs").iterdir())], "similarity.py")
    printed = capsys.readouterr()
    assert "audit of" in printed.out + printed.err
    table = pd.read_csv(vae / "runs" / "similarity.csv").set_index("variant")
    assert set(table.index) == {"best", "ivae-256"}
    assert set(table["latent_size"]) == {16}
    for variant in table.index:
        reached = read(vae, variant)["reconstruction"]["ssim"]["mean"]
        assert table.loc[variant, "ssim"] == pytest.approx(reached)
    classes = pd.read_csv(vae / "runs" / "classes.csv")
    assert len(classes) == 6
    for name in ("similarity", "reconstructions", "samples", "lda"):
        assert (vae / "runs" / f"{name}.png").exists()


@pytest.mark.thorough  # training/test_health.py does it without a run
def test_a_stopped_training_goes_on_with_both_optimizers(vae, tmp_path):
    """A run that was stopped between its two epochs ends where one that was not ends."""
    folder = made(vae, "ivae-256")
    whole = load_model(folder / "model.keras")
    cut = RunFolder.create(tmp_path, "introvae3d", "ivae-256", RunFolder.open(folder).study)
    cut.file("checkpoints").mkdir()
    for name in ("cohort.json", "cohort.csv", "vae_history.csv", "checkpoints/vae.npz"):
        cut.file(name).write_bytes((folder / name).read_bytes())
    with contextlib.chdir(vae):
        loaded = LoadedRun.open(cut.path)
        study, rows = loaded.study, loaded.rows
        stop = TrainingState.save

        def once(self, *args):
            stop(self, *args)
            if self.path.name == "model.npz":
                raise KeyboardInterrupt

        TrainingState.save = once
        try:
            with pytest.raises(KeyboardInterrupt):
                train_autoencoder(loaded)
        finally:
            TrainingState.save = stop
        assert not cut.has("model.keras")
        resumed = train_autoencoder(loaded)
        images = loaded.store.read(rows["test"])
    np.testing.assert_allclose(
        whole.reconstruct(images), resumed.reconstruct(images), rtol=0, atol=5e-3
    )
    both = resumed.optimizer.encoder_optimizer, resumed.optimizer.decoder_optimizer
    steps = study.train.epochs * (len(rows["train"]) // study.train.batch_size)
    assert [int(one.iterations.value) for one in both] == [steps, steps]
    curves = [
        pd.read_csv(path / "history.csv").drop(columns="seconds") for path in (folder, cut.path)
    ]
    pd.testing.assert_frame_equal(*curves, rtol=5e-3, atol=1e-3)


def test_a_planted_confound_raises_an_alarm_and_a_clean_cohort_none():
    """On numbers in place of encodings: that latents are told is tested elsewhere."""
    options = STUDIES["introvae3d"]["ivae-256"]
    audits = {}
    for confound in ("no", "site"):
        study = dataclasses.replace(
            options, data=dataclasses.replace(options.data, subjects=200, confound=confound)
        )
        about = of(study).cohort(study).table.drop(columns="paths")
        meta = acquisition(about)
        assert list(meta) == ["tr", "te", "pixel_bandwidth", "manufacturer", "site"]
        z = np.random.default_rng(0).normal(size=(len(about), 4))
        audits[confound] = bias_audit(
            meta, classes(about), about["subject"], latents=z, permutations=200
        )
    assert not audits["no"].alarm
    assert audits["site"].alarm
    assert any("site" in finding.name for finding in audits["site"].findings)


def test_components_are_those_of_a_gaussian():
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(3, 64))
    volumes = (0.5 + 0.05 * rng.normal(size=(200, 3)) @ axes).reshape(200, 4, 4, 4, 1)
    fitted = PrincipalComponents(3).fit(volumes.astype("float32"))
    inside = (volumes > 0).all() and (volumes < 1).all()
    z = fitted.encode(volumes.astype("float32"))
    np.testing.assert_allclose(z.std(axis=0, ddof=1), 1, rtol=1e-3)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-3)
    restored = fitted.reconstruct(volumes.astype("float32"))
    if inside:
        np.testing.assert_allclose(restored, volumes, atol=1e-3)
    drawn = fitted.sample(500, seed=1)
    assert drawn.shape == (500, 4, 4, 4, 1)
    assert abs(drawn.std(axis=0).mean() / volumes.std(axis=0).mean() - 1) < 0.1


def test_pictures_show_a_scan_of_each_class():
    groups = ["healthy"] * 5 + ["MS"] * 3 + ["leuko2"]
    about = pd.DataFrame({"group": groups})
    assert list(one_of_each(about, np.arange(9))) == [0, 5, 6, 8]
    alone = pd.DataFrame({"group": [""] * 6})
    assert list(one_of_each(alone, np.arange(2, 6))) == [2, 3, 4, 5]


def test_what_is_not_known_is_none_in_json(tmp_path):
    table = pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan], "c": ["x", "y"]})
    rows = records(table)
    assert rows == [{"a": 1, "b": 0.5, "c": "x"}, {"a": 2, "b": None, "c": "y"}]
    write_json(tmp_path / "table.json", rows)
    pd.testing.assert_frame_equal(frame(rows), table)


def test_an_unlabelled_cohort_has_no_classes():
    about = pd.DataFrame(
        {"group": [None, "", "a"], "tr": [np.nan, None, None], "site": ["", "", ""]}
    )
    assert list(classes(about)) == ["", "", "a"]
    assert acquisition(about) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.block", "3"], r"--data.shape: .* multiples of 24"),
        (["--data.block", "0"], "--data.block: found 0"),
        (["--data.min-fit", "2"], "--data.min-fit: found 2.0; expected a number from 0 to 1"),
        (["--data.registration", "no"], "--data.block: found 4"),
        (["--data.spacing", "2"], "--data.spacing: found 2.0; expected 1"),
        (["--data.shares", "1", "2"], "--data.shares: found 2 numbers"),
        (["--data.visits", "1"], "--data.visits: found 1 numbers"),
        (["--data.groups", "MS", "MS", "--data.shares", "--data.visits"], "expected each once"),
        (["--data.simulated-spacing", "2"], "--data.simulated-spacing: found 2.0"),
        (["--data.shape", "128", "192", "160"], "expected 160 192 160"),
        (["--data.masks", "bids", "--data.mask-tool", "x"], "found beside --data.masks"),
        (["--data.scale", "zscore"], "--data.scale: found zscore"),
        (["--model.latent-size", "0"], "--model.latent-size"),
        (["--model.margin", "0"], "--model.margin: found 0"),
        (["--model.beta-kl", "-1"], "--model.beta-kl: found -1"),
        (["--model.patch", "4"], r"--model: .*`patch` must be 1 or 2"),
        (["--prior.epochs", "1"], "Unrecognized options: --prior.epochs"),
        (["--sampling.samples", "1"], "--sampling.samples: found 1"),
        (["--train.decoder-rate", "0"], "--train.decoder-rate: found 0"),
        (["--train.vae-epochs", "-1"], "--train.vae-epochs: found -1"),
    ],
)
def test_mistakes_are_named(words, message):
    words = ["introvae3d", "--variant", "ivae-256", *words]
    with pytest.raises(UserError, match=message):
        try_networks(parse(words, "train.py", "."))


def test_runs_of_vectors_and_of_codes_are_no_table(vae, tmp_path):
    about = RunFolder.open(made(vae, "ivae-256")).study
    other = to_dict(STUDIES["som3d"]["ae"])
    made_up = RunFolder.create(tmp_path, "som3d", "ae", about | {"study": other})
    with pytest.raises(UserError, match="expected runs of one kind"):
        compare.main([str(made(vae, "ivae-256")), str(made_up.path)], "similarity.py")


def test_a_decoder_learns_slower_than_its_critic():
    options = STUDIES["introvae3d"]["ivae-256"].train
    assert 0 < options.decoder_rate < 1
    critic = optimizer_of(options, 100)
    decoder = optimizer_of(options, 100, options.decoder_rate)
    for optimizer in (critic, decoder):
        optimizer.build([keras.Variable(np.zeros(1))])
        optimizer.iterations.assign(50)
    np.testing.assert_allclose(
        float(decoder.learning_rate), options.decoder_rate * float(critic.learning_rate), rtol=1e-6
    )
