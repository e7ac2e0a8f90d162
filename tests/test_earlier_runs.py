"""Runs that brainvq 0.1.0 wrote before its options had a type each are read, used and finished.

`fixtures/earlier_runs` holds small ones of every kind of sample, without figures, samples and
report; `oasis2d-best-stopped` is `oasis2d-best`, killed after the first epoch of its autoencoder.
"""

import contextlib
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import brainvq
from brainvq import data
from brainvq.app import compare, predict, train
from brainvq.options import from_dict, to_dict
from brainvq.options.verbs import VERBS
from brainvq.tasks.run import LoadedRun
from brainvq.training.shipped import SHIPPED

RUNS = Path(__file__).parent / "fixtures" / "earlier_runs"
KINDS = {
    "oasis2d-best": "slices",
    "som3d-ae": "volumes",
    "som3d-best": "volumes",
    "introvae3d-best": "vectors",
    "introvae3d-ivae-32": "vectors",
    "streamlines-best": "streamlines",
}
# One of each kind.
USED = ("oasis2d-best", "som3d-best", "introvae3d-best", "streamlines-best")
# Verbs that need a cohort; they have tests of their own.
NEED_MORE = {"classify", "anomaly"}


def read(path):
    return json.loads(path.read_text())


def copy(name, folder):
    """A copy of a run in `folder`/runs, as a user's own folder would be; returns its path."""
    return shutil.copytree(RUNS / name, folder / "runs" / f"{name}-20260101-000000")


def chosen(options):
    """The options of a study by path, as JSON has them."""
    plain = json.loads(json.dumps(options))
    for key, value in plain.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{path}", entry) for path, entry in chosen(value))
        else:
            yield key, value


@pytest.mark.parametrize(
    "path", [*sorted(RUNS.iterdir()), SHIPPED / "oasis2d"], ids=lambda p: p.name
)
def test_every_option_that_the_study_has_is_read(path):
    written = read(path / "study.json")["study"]
    study = from_dict(written)
    assert (study.name, study.variant) == (written["name"], written["variant"])
    assert study.has_prior == (path.name.startswith("oasis2d") or (path / "prior.keras").exists())
    before, after = (dict(chosen(options)) for options in (written, to_dict(study)))
    shared = set(before) & set(after)
    assert {key: before[key] for key in shared} == {key: after[key] for key in shared}
    assert len(shared) > 40
    assert from_dict(to_dict(study)) == study


@pytest.mark.parametrize("name", KINDS)
def test_load(name):
    trained = brainvq.load(RUNS / name)
    assert trained.study.kind == KINDS[name]
    assert trained.simulated
    assert trained.steps == read(RUNS / name / "study.json")["steps"]
    assert (trained.prior is not None) == (RUNS / name / "prior.keras").exists()
    metrics = read(RUNS / name / "metrics.json")
    assert trained.model.count_params() == metrics["parameters"]["autoencoder"]
    codes = RUNS / name / "codes" / "test.npy"
    if codes.exists():
        decoded = trained.model.decode(np.load(codes))
        assert decoded.shape[1:] == trained.study.data.sample_shape


def inputs(folder, study):
    """Two files that a run can read."""
    files = []
    for number in (0, 1):
        if study.kind == "streamlines":
            about = {"seed": number, "bundle": "PYT_L", "low": 12, "high": 12}
            lines = data.simulate_bundle(about)
            whole = data.new_tractogram(lines, np.diag([2.0, 2.0, 2.0, 1.0]), (91, 109, 91))
            files.append(data.save_tractogram(whole, lines, folder / f"lines{number}.trk"))
            continue
        about = {"seed": 3, "number": number, "modality": study.data.suffix, "spacing": 8.0}
        about |= {"group": "healthy", "age": 50.0, "sex": "F", "space": "mni"}
        image, affine = data.load_scan((f"simulated:{json.dumps(about)}",))
        files.append(data.save_nifti(folder / f"sub-{number}.nii.gz", image, affine))
    return files


WORDS = {
    "sample": ["-n", "2", "--seed", "0"],
    "reconstruct": ["FILE"],
    "encode": ["FILE"],
    "decode": ["CODES"],
    "map": ["FILE"],
    "traverse": ["FILE", "--dimensions", "0", "--values", "-1", "1"],
    "interpolate": ["FILE", "OTHER", "--steps", "3"],
    "perturb": ["FILE", "--epsilon", "0.5"],
    "export": [],
}


@pytest.mark.parametrize(
    "name",
    [
        "oasis2d-best",
        pytest.param("som3d-best", marks=pytest.mark.thorough),
        pytest.param("introvae3d-best", marks=pytest.mark.thorough),
        "streamlines-best",
    ],
)
def test_verbs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = copy(name, tmp_path)
    study = from_dict(read(run / "study.json")["study"])
    file, other = inputs(tmp_path, study)
    codes = Path("predictions/encode") / f"{file.name.split('.')[0]}.npy"
    places = {"FILE": file, "OTHER": other, "CODES": codes}
    for verb in [verb for verb in VERBS[study.kind] if verb not in NEED_MORE]:
        words = [str(places.get(word, word)) for word in WORDS[verb]]
        predict.main([str(run), verb, *words], "python predict.py")
        assert any(Path("predictions", verb).iterdir()), verb
    if "export" in VERBS[study.kind]:
        assert brainvq.load("predictions/export").study.kind == study.kind


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A function of a run's name: its copy, measured, drawn and reported anew by `--resume`."""

    @functools.cache
    def make(name):
        folder = tmp_path_factory.mktemp("earlier")
        run = copy(name, folder)
        for file in ("metrics.json", "subjects.csv", "finished.json"):
            (run / file).unlink()
        with contextlib.chdir(folder):
            train.main(["--resume", str(run)], "python train.py")
        return run

    return make


def close(one, other):
    """Whether two contents of JSON files are alike: their numbers to a part in a thousand."""
    if isinstance(other, dict):
        assert set(one) == set(other)
        return all(close(one[key], other[key]) for key in other)
    if isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(other, float):
        return one == pytest.approx(other, rel=1e-3, abs=1e-5, nan_ok=True)
    return one == other


# `make test` measures and reports the run that was stopped.
@pytest.mark.thorough
@pytest.mark.parametrize("name", USED)
def test_a_run_without_its_measures_gets_the_same_ones_and_a_report(measured, name):
    run = measured(name)
    metrics, before = read(run / "metrics.json"), read(RUNS / name / "metrics.json")
    assert set(metrics) == set(before)
    if name.startswith("oasis2d"):  # measures of draws that this version has besides
        assert metrics["samples"].pop("anatomy")["drawn"] == before["samples"]["count"]
        assert metrics["samples"].pop("lineup")["pictures"] > 0
    for key, value in before.items():
        assert close(metrics[key], value), key
    for file in ("report.html", "MODEL_CARD.md", "finished.json"):
        assert (run / file).stat().st_size > 0
    for file in ("model.keras", "study.json", "cohort.csv"):
        assert (run / file).read_bytes() == (RUNS / name / file).read_bytes()


@pytest.mark.thorough
def test_a_stopped_training_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = copy("oasis2d-best-stopped", tmp_path)
    train.main(["--resume", str(run)], "python train.py")
    assert (run / "report.html").exists()
    for name in ("history.csv", "prior_history.csv"):
        ours, theirs = (
            pd.read_csv(path / name).drop(columns="seconds")
            for path in (run, RUNS / "oasis2d-best")
        )
        pd.testing.assert_frame_equal(ours, theirs, rtol=2e-3, atol=2e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("name", USED)
def test_compare(measured, monkeypatch, name):
    run = measured(name)
    monkeypatch.chdir(run.parents[1])
    compare.main([str(run)], "python similarity.py")
    table = pd.read_csv("runs/similarity.csv")
    assert table["ssim" if "ssim" in table else "buan"].notna().all()


def test_a_table_of_runs_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [copy(name, tmp_path) for name in ("som3d-ae", "som3d-best")]
    monkeypatch.setattr(LoadedRun, "model", property(lambda _: pytest.fail("measured again")))
    compare.main(list(map(str, runs)), "python similarity.py")
    table = pd.read_csv("runs/similarity.csv").set_index("variant")
    assert list(table.index) == ["ae", "best"]
    for variant in table.index:
        metrics = read(RUNS / f"som3d-{variant}" / "metrics.json")
        assert table.loc[variant, "ssim"] == pytest.approx(
            metrics["reconstruction"]["ssim"]["mean"]
        )
