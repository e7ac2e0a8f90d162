"""train.py and similarity.py end to end, and what becomes of a run that is killed."""

import json
import os
import random
import shutil
import signal
import time

import keras
import numpy as np
import pandas as pd
import pytest

import brainvq
from brainvq.app import train
from brainvq.errors import UserError
from brainvq.studies import STUDIES
from brainvq.tasks.run import LoadedRun
from tests.scripts.conftest import ROOT, SMOKE, call, only_run, run, start

FILES = (
    "study.json",
    "cohort.csv",
    "model.keras",
    "model.weights.h5",
    "model.txt",
    "prior.keras",
    "prior.weights.h5",
    "history.csv",
    "prior_history.csv",
    "subjects.csv",
    "metrics.json",
    "timings.json",
    "report.html",
    "MODEL_CARD.md",
    "log.txt",
    "samples/samples.npy",
    "samples/codes.npy",
)
FIGURES = (
    "reconstructions",
    "codes",
    "samples",
    "lineup",
    "nearest",
    "losses",
    "ssim",
    "prior",
    "usage",
    "codebook",
    "subjects",
)


def test_a_run_holds_everything_the_study_names(trained):
    made = only_run(trained)
    for name in (*FILES, *(f"figures/{name}.png" for name in FIGURES)):
        assert (made / name).stat().st_size > 0, name
    hidden = {path.name for path in made.rglob(".*") if path.is_file()}
    assert hidden <= {".lock"}, "temporary files are left"


def test_measures_are_those_of_unseen_subjects(trained):
    made = only_run(trained)
    cohort = pd.read_csv(made / "cohort.csv")
    subjects = pd.read_csv(made / "subjects.csv")
    unseen = set(cohort.loc[cohort["split"] == "test", "subject"])
    assert set(subjects["subject"]) == unseen
    assert not unseen & set(cohort.loc[cohort["split"] != "test", "subject"])
    metrics = json.loads((made / "metrics.json").read_text())
    assert metrics["reconstruction"]["ssim"]["mean"] == pytest.approx(subjects["ssim"].mean())
    assert metrics["simulated"] is True
    assert metrics["bits_per_slice"] == np.prod(metrics["grid"]) * 5
    assert 0 < metrics["prior"]["neighbour_tables"] <= metrics["prior"]["marginal"] * 1.05


def test_simulated_brains_are_called_so_everywhere(trained):
    made = only_run(trained)
    for name in ("report.html", "MODEL_CARD.md", "log.txt"):
        assert "simulated" in (made / name).read_text().lower(), name


def test_report_needs_no_other_file(trained):
    text = (only_run(trained) / "report.html").read_text()
    assert text.count("data:image/png;base64,") == len(FIGURES)
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert 'src="figures' not in text


def test_model_loads_in_another_program(trained):
    made = only_run(trained)
    model = keras.saving.load_model(made / "model.keras", compile=False)
    images = np.load(made / "samples" / "samples.npy")
    codes = np.load(made / "samples" / "codes.npy")
    np.testing.assert_allclose(np.clip(model.decode(codes), 0, 1), images, atol=1e-5)
    loaded = brainvq.load(made)
    again, _ = loaded.sample(3, seed=1)
    assert again.shape == (3, *images.shape[1:])
    assert 0 <= again.min() <= again.max() <= 1
    whole = model.reconstruct(images)
    model.bottleneck.set_codebook(np.zeros(model.bottleneck.codebook.shape, "float32"))
    assert not np.allclose(model.reconstruct(images), whole)
    model.load_weights(made / "model.weights.h5")
    np.testing.assert_allclose(model.reconstruct(images), whole, atol=1e-5)


def test_resuming_a_finished_run_changes_nothing(trained):
    made = only_run(trained)
    before = {p: p.read_bytes() for p in made.glob("*.keras")} | {
        made / "metrics.json": (made / "metrics.json").read_bytes()
    }
    call(trained, "train", "--resume", made)
    assert {path: path.read_bytes() for path in before} == before


def test_similarity_alone(trained, capsys):
    with pytest.raises(UserError, match="no finished run"):
        call(trained, "compare")  # a smoke run is never taken for the newest
    call(trained, "compare", only_run_folder(trained))
    output = capsys.readouterr().out
    made = only_run_folder(trained)
    table = pd.read_csv(trained / "runs" / "similarity.csv")
    metrics = json.loads((made / "metrics.json").read_text())
    assert table["ssim"][0] == pytest.approx(metrics["reconstruction"]["ssim"]["mean"], abs=1e-5)
    assert made.name in output
    (trained / "runs" / "similarity.csv").unlink()
    (trained / "runs" / "similarity.png").unlink()


def only_run_folder(folder):
    (found,) = (path for path in (folder / "runs").iterdir() if path.is_dir())
    return found


# Others see a stop and what follows it: Ctrl-C below, test_earlier_runs.py and test_faults.py.
@pytest.mark.thorough
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_numbers(trained, tmp_path):
    chance = random.Random(7)
    words = SMOKE
    kills = 0
    for _ in range(2):
        process = start(tmp_path, "train.py", *words)
        time.sleep(chance.uniform(5, 12))
        finished = process.poll() is not None
        os.kill(process.pid, signal.SIGKILL) if not finished else None
        process.communicate()
        made = list((tmp_path / "runs").glob("*/study.json"))
        if made:
            words = ("--resume", made[0].parent)
        if finished:
            break
        kills += 1
    assert kills
    if not finished:
        run(tmp_path, "train.py", *words)
    for name in ("history.csv", "prior_history.csv"):
        found = pd.read_csv(only_run(tmp_path) / name).drop(columns="seconds")
        expected = pd.read_csv(only_run(trained) / name).drop(columns="seconds")
        pd.testing.assert_frame_equal(found, expected, rtol=2e-3, atol=2e-4)
    found, expected = (
        json.loads((only_run(folder) / "metrics.json").read_text())["prior"]
        for folder in (tmp_path, trained)
    )
    assert found["bits_per_code"] == pytest.approx(expected["bits_per_code"], rel=1e-3)


def test_a_run_killed_before_its_cohort_was_written_draws_the_same_one(trained, tmp_path):
    made = only_run_folder(trained)
    (tmp_path / "study.json").write_bytes((made / "study.json").read_bytes())
    drawn = LoadedRun.open(tmp_path).scans.table
    expected = pd.read_csv(made / "cohort.csv")
    assert list(drawn["split"]) == list(expected["split"])
    assert (tmp_path / "cohort.csv").read_bytes() == (made / "cohort.csv").read_bytes()


@pytest.mark.thorough
def test_ctrl_c_says_how_to_go_on(tmp_path):
    process = start(tmp_path, "train.py", *SMOKE, "--train.epochs", "500")
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/checkpoints/model.npz")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert f"python train.py --resume {only_run(tmp_path).relative_to(tmp_path)}" in errors
    assert "Traceback" not in errors


@pytest.mark.thorough
def test_every_variant(tmp_path):
    variants = ("paper", "tutorial", "best-256bit")
    call(tmp_path, "train", "oasis2d", "--variants", ",".join(variants), *SMOKE)
    for variant in variants:
        (made,) = (tmp_path / "runs").glob(f"oasis2d-{variant}-2*")
        assert (made / "report.html").exists()


@pytest.mark.thorough
def test_without_codes_there_is_no_prior(tmp_path):
    # Nor are there samples, or a number of them.
    words = SMOKE[: SMOKE.index("--sampling.samples")]
    call(tmp_path, "train", *words, "--model.bottleneck", "gaussian")
    made = only_run(tmp_path)
    assert (made / "report.html").exists()
    assert not (made / "prior.keras").exists()


def test_a_training_starts_from_trained_weights_on_other_people(trained, tmp_path):
    source = only_run(trained)
    still = ("--train.learning-rate", "1e-9", "--prior.learning-rate", "1e-9", "--seed", "1")
    steps = ("--train.max-steps", "1", "--prior.max-steps", "1")
    call(tmp_path, "train", *SMOKE, *still, *steps, "--train.pretrained", source)
    ours, theirs = brainvq.load(only_run(tmp_path)), brainvq.load(source)
    parts = [(each.model.encoder, each.model.decoder) for each in (ours, theirs)]
    weights = [[weight for part in pair for weight in part.get_weights()] for pair in parts]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    for one, other in zip(
        ours.prior.trainable_weights, theirs.prior.trainable_weights, strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
    plans = [np.array(each.prior.plan.mean) for each in (ours, theirs)]
    assert not np.allclose(*plans), "the plan is that of the new people"


def test_trained_weights_of_another_form_are_refused(trained, tmp_path, monkeypatch):
    source = only_run(trained)
    monkeypatch.chdir(tmp_path)
    for words, found in (
        ((source, "--model.embedding-dim", "3"), "not of the shapes"),
        (("nobody",), "neither such a folder nor such a preset"),
    ):
        with pytest.raises(UserError, match=found):
            train.main([*SMOKE, "--train.pretrained", *map(str, words)], "python train.py")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], "study: found 'nothing'; expected one of oasis2d"),
        (["--variant", "x"], "--variant: found 'x'"),
        (["--train.epochs", "0"], "--train.epochs: found 0"),
        (["--data.source", "bids"], "--data.root: not given"),
        (["--data.source", "bids", "--data.root", "nowhere"], "nowhere"),
        (["--resume", "nowhere"], "nowhere: no such folder"),
        (["--resume", "x", "--seed", "1"], "--resume: found other options"),
        (["--smoke", "--data.subjects", "2"], "2 subject(s) cannot fill 3 splits"),
        (["--data.spacing", "wide"], "--data.spacing"),
        (["--data.size", "100"], "--data.size: found 100; expected a multiple of 8"),
        (["--model.blocks", "1"], "--model.blocks: found 1 numbers"),
        (["--model.beta", "-1"], "--model.beta: found -1"),
        (["--prior.kernel-size", "4"], "--prior: "),
        (["--sampling.top-p", "2"], "--sampling.top-p: found 2"),
    ],
)
def test_a_mistake_is_named(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        train.main(words, "python train.py")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir()), "the disk is not as it was"


def test_a_mistake_ends_with_one_line_and_status_2(tmp_path):
    output, errors = run(tmp_path, "train.py", "nothing", status=2)
    known = ", ".join(STUDIES)
    assert errors == f"error: study: found 'nothing'; expected one of {known}\n"
    assert output == ""


def test_help_names_every_study_variant_and_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        train.main(["--help"], "python train.py")
    output = capsys.readouterr().out
    for study, variants in STUDIES.items():
        assert f"python train.py {study} --help" in output
        for variant in variants:
            assert f"--variant {variant}" in output
    with pytest.raises(SystemExit, match="0"):
        train.main(["oasis2d", "--help"], "python train.py")
    output = capsys.readouterr().out
    for option in ("--data.slice-spacing", "--model.num-codes", "--prior.dropout", "--seed"):
        assert option in output


@pytest.mark.thorough
def test_jax_runs_the_whole_program_without_tensorflow(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "tensorflow.py").write_text("raise ImportError('TensorFlow is not installed here')")
    path = os.pathsep.join([str(blocked), str(ROOT)])
    # Compiling takes most of the time of so short a run.
    flags = "--xla_backend_optimization_level=0"
    jax = {"KERAS_BACKEND": "jax", "PYTHONPATH": path, "XLA_FLAGS": flags}
    run(tmp_path, "train.py", "oasis2d", "--variant", "paper", *SMOKE, **jax)
    assert (only_run(tmp_path) / "report.html").exists()
    run(tmp_path, "predict.py", "-n", "2", **jax)
    shutil.rmtree(tmp_path / "runs")
