"""Study `streamlines` end to end, in small: training, measures, tables and what they rest on."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from brainvq import options, studies, tasks
from brainvq.app import compare, train
from brainvq.app.stages import epochs_of
from brainvq.data import BUNDLES, resample, simulate_bundle, simulated_bundles
from brainvq.errors import UserError
from brainvq.evaluation import buan
from brainvq.studies.streamlines import PUBLISHED
from brainvq.tasks.base import prior_codes
from brainvq.tasks.run import LoadedRun
from brainvq.tasks.streamlines.figures import published
from brainvq.tasks.streamlines.groups import scale_of
from brainvq.training.runs import RunFolder
from tests.scripts.conftest import call

NAMES = ("MCP", "PYT_L", "ILF_R")
SMALL = ("streamlines", "--smoke", "--data.bundles", *NAMES, "--sampling.samples", "6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which two variants were trained, each as a person does it."""
    folder = tmp_path_factory.mktemp("streamlines")
    call(folder, "train", *SMALL, "--variants", "best,vq-diff", "--data.subjects", "6")
    return folder


def runs_in(folder):
    return {
        path.name.split("-2")[0].removesuffix("-smoke")[12:]: RunFolder.open(path)
        for path in folder.glob("runs/s*-*")
    }


def test_a_run_holds_everything_the_study_names(folder):
    trained = runs_in(folder)["best"]
    for name in (
        *("scale.json", "samples.csv", "subjects.csv", "metrics.json", "report.html"),
        *("MODEL_CARD.md", "model.keras", "prior.keras", "codes/test.npy", "samples/samples.npy"),
        *("samples/codes.npy", "samples/shapes.csv", "figures/restored.png", "figures/prior.png"),
    ):
        assert trained.file(*name.split("/")).exists(), name
    metrics = trained.metrics()
    assert metrics["bits_per_streamline"] == 4 * 5  # four codes of 32
    assert metrics["grid"] == [64, 1, 4]
    assert metrics["simulated"]
    assert not metrics["one_person"]
    assert [row["bundle"] for row in metrics["bundles"]] == sorted(NAMES)
    assert 0 <= metrics["reconstruction"]["buan"] <= 1
    assert {name.split(",")[0] for name in metrics["codecs"]} == {
        "residual k-means",
        "local PCA and scalar",
    }
    assert metrics["prior"]["bits_per_code"] > 0
    report = trained.file("report.html").read_text()
    assert "simulated" in report


def test_measures_are_those_of_unseen_people(folder):
    trained = runs_in(folder)["best"]
    cohort = pd.read_csv(trained.file("cohort.csv"), dtype={"subject": str})
    tested = set(cohort.loc[cohort["split"] == "test", "subject"])
    samples = pd.read_csv(trained.file("samples.csv"), dtype={"subject": str})
    assert set(samples["subject"]) == tested
    assert set(samples["bundle"]) == set(NAMES)
    people = pd.read_csv(trained.file("subjects.csv"), dtype={"subject": str})
    for _, row in people.iterrows():
        own = samples[samples["subject"] == row["subject"]]
        assert row["buan"] == pytest.approx(own["buan"].mean())


def test_a_model_without_codes_claims_no_bits(folder):
    metrics = runs_in(folder)["vq-diff"].metrics()
    assert metrics["bits_per_streamline"] is None
    assert "codes" not in metrics
    assert "prior" not in metrics
    assert metrics["numbers_per_streamline"] == 16 * 16 * 64 / 64


def test_what_is_done_is_left_alone(folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime for path in folder.glob("runs/*/*")}
    train.main([*SMALL, "--variants", "best,vq-diff", "--data.subjects", "6"], "python train.py")
    assert {path: path.stat().st_mtime for path in folder.glob("runs/s*-*/*")} == {
        path: time for path, time in before.items() if path.parent.name.startswith("streamlines")
    }


@pytest.mark.thorough
def test_the_table_has_models_codecs_and_what_was_published(folder, monkeypatch):
    monkeypatch.chdir(folder)
    paths = [str(trained.path) for trained in runs_in(folder).values()]
    compare.main(paths, "python similarity.py")
    table = pd.read_csv(folder / "runs" / "similarity.csv").set_index("model")
    assert table.loc["VQ-Diff", "published_buan"] == pytest.approx(0.9952, abs=1e-4)
    assert np.isnan(table.loc["VQ-Diff", "bits"])
    assert table.loc["best", "bits"] == 20
    assert (table["buan"].between(0, 1)).all()
    assert table["robustness"].notna().sum() == 2
    per_bundle = pd.read_csv(folder / "runs" / "bundles.csv")
    assert len(per_bundle) == 2 * len(NAMES)
    for name in ("similarity.png", "robustness.png", "rate_distortion.png"):
        assert (folder / "runs" / name).stat().st_size > 2_000
    rates = pd.read_csv(folder / "runs" / "rate_distortion.csv").set_index("codec")
    assert rates.loc["best", "bits"] == 20
    assert rates.loc["best", "mse"] == pytest.approx(table.loc["best", "mse"])
    assert "VQ-Diff" not in rates.index  # it has no bits to be placed at
    for family in ("residual k-means", "PCA and k-means", "local PCA and scalar"):
        curve = rates[rates["family"] == family].sort_values("bits")
        assert list(curve["bits"]) == [9, 18, 36, 72]
        assert curve["mse"].iloc[-1] < curve["mse"].iloc[0]
    assert rates.loc[".trx file, float16", "mse"] < 1e-6
    assert rates.loc[".trk file", "bits"] > 2 * rates.loc[".trx file, float16", "bits"] * 0.95
    # Kept with the run: the second time nothing is fitted.
    assert runs_in(folder)["best"].has("rate_distortion.csv")


def test_epochs_are_as_many_as_the_steps_allow():
    stream = range(40)
    training = options.Train(epochs=30)
    assert epochs_of(training, stream) == 30
    assert epochs_of(replace(training, max_steps=400), stream) == 10
    assert epochs_of(replace(training, max_steps=4000), stream) == 30
    assert epochs_of(replace(training, max_steps=7), stream) == 1


def test_published_figures_stand_beside_their_bundles():
    by_title = published({"vq-vae": "VQ-VAE", "best": "best"})
    assert set(by_title) == {"VQ-VAE"}
    assert by_title["VQ-VAE"]["PYT_R"] == 0.7154
    assert by_title["VQ-VAE"]["CC_Fr_1"] == 0.3380
    means = {variant: np.mean(row) for variant, row in PUBLISHED.items()}
    rounded = {variant: round(float(mean), 3) for variant, mean in means.items()}
    assert rounded == {"vq-diff": 0.995, "ae": 1.0, "vae": 0.353, "vq-vae": 0.496, "vq-ema": 0.433}


def groups_folder(folder, names=("MCP", "PYT_L"), count=5):
    """The published form: groups of 64 streamlines by 3 by 64 points in [-1, 1], of one person."""
    params = [json.loads(p[0].split(":", 1)[1]) for p in simulated_bundles(1).table["paths"]]
    params = {entry["bundle"]: entry for entry in params}
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        lines = simulate_bundle(params[name] | {"low": 64 * count, "high": 64 * count})
        array = resample(lines, 64).reshape(count, 64, 64, 3) / 100.0
        np.save(folder / f"{name}.npy", array.transpose(0, 1, 3, 2).astype("float32"))
    return folder


@pytest.mark.thorough
def test_groups_of_one_person_are_split_by_groups(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = groups_folder(tmp_path / "groups")
    train.main(
        [
            *("streamlines", "--smoke", "--variant", "vq-ema"),
            *("--data.source", "groups", "--data.root", str(root), "--prior.epochs", "0"),
        ],
        "python train.py",
    )
    (trained,) = map(RunFolder.open, tmp_path.glob("runs/streamlines-*"))
    metrics = trained.metrics()
    assert metrics["one_person"]
    assert metrics["scale_mm"] is None
    assert "distance_mm" not in metrics["reconstruction"]
    assert metrics["test_samples"] == 2  # of three groups kept of each bundle
    assert metrics["bits_per_streamline"] == 4 * 5  # 256 codes of 32 for 64 streamlines


def test_too_few_groups_of_one_person_are_named(tmp_path):
    root = groups_folder(tmp_path / "groups", names=("MCP",), count=2)
    words = ["--data.source", "groups", "--data.root", str(root), "--data.cache", str(tmp_path)]
    study = studies.parse(["streamlines", *words], "", "")
    task = tasks.of(study)
    scans = task.cohort(study)
    with pytest.raises(UserError, match="no group of streamlines is left for the validation"):
        task.split_rows(study, scans, task.arrays(study, scans))
    words += ["--data.assignments", "split.csv"]
    with pytest.raises(UserError, match="assignments: found split.csv; expected none"):
        task.cohort(studies.parse(["streamlines", *words], "", ""))


def test_what_cannot_be_used_is_named(tmp_path):
    words = ("streamlines", "--data.source", "tracts", "--data.root", "nowhere")
    with pytest.raises(UserError, match="^nowhere:") as caught:
        call(tmp_path, "train", *words)
    assert "\n" not in str(caught.value)
    words = ["streamlines", "--data.source", "tracts", "--data.root", "x", "--data.download"]
    with pytest.raises(UserError, match="expected one of"):
        studies.parse(words, "", "")


def test_bundles_are_numbered_for_the_prior_in_the_order_of_the_study():
    study = studies.STUDIES["streamlines"]["best"]
    assert study.classes == len(BUNDLES) == 12
    table = pd.DataFrame({"group": ["CC_Fr_1", "MCP", "FPT_L"]})
    loaded = SimpleNamespace(
        study=study, store=SimpleNamespace(table=table), rows={"test": np.arange(3)}
    )
    given = tasks.of(study).conditions(loaded, np.zeros((3, 64, 4)), "test")
    assert given["labels"].tolist() == [11, 0, 1]
    codes = np.arange(2 * 64 * 4).reshape(2, 64, 1, 4)
    assert prior_codes(codes).shape == (2, 64, 4)
    np.testing.assert_array_equal(prior_codes(codes)[1, 5], codes[1, 5, 0])


def test_watched_groups_are_measured_as_in_the_end():
    rng = np.random.default_rng(0)
    originals = rng.uniform(-1, 1, (2, 8, 16, 3)).astype("float32")
    restored = originals + rng.normal(0, 0.02, originals.shape).astype("float32")
    watched = tasks.base.task("streamlines").watch(originals, restored)
    assert watched["val_mse"] == pytest.approx(np.square(restored - originals).mean())
    scores = [buan(a, b) for a, b in zip(originals, restored, strict=True)]
    assert watched["val_buan"] == pytest.approx(np.mean(scores))


def test_samples_are_read_in_the_units_of_the_run(tmp_path):
    words = [*SMALL, "--data.subjects", "5", "--data.cache", str(tmp_path)]
    study = studies.parse(words, "train.py", "")
    loaded = LoadedRun(RunFolder.create(tmp_path, "streamlines", "best", {"study": {}}), study)
    train_rows = np.unique(loaded.rows["train"])
    units = loaded.store
    assert np.abs(units.read(train_rows)).max() == pytest.approx(1.0, abs=1e-5)
    back = scale_of(loaded).to_mm(units.read(train_rows[:2]))
    np.testing.assert_allclose(back, loaded.arrays.read(train_rows[:2]), atol=1e-3)
    counted = loaded.arrays.table["group"].iloc[loaded.rows["train"]].value_counts()
    assert counted.nunique() == 1  # equally many of each
