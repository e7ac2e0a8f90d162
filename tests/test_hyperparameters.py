"""Presets, help and README against each other: what can drift apart is compared."""

import ast
import dataclasses
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import dataset
import hyperparameters
import modules
import predict
from brainvq.data import GroupStreamlines, steps_from_config, steps_to_config
from brainvq.errors import UserError
from hyperparameters import STUDIES, SUMMARIES, Study

ROOT = Path(__file__).resolve().parents[1]
PRESETS = [(study, variant) for study in STUDIES for variant in STUDIES[study]]


def parse(*words):
    return hyperparameters.parse(list(words), "train.py", "")


def fields(kind=Study, path=""):
    for entry in dataclasses.fields(kind):
        name = f"{path}.{entry.name}" if path else entry.name
        if dataclasses.is_dataclass(entry.type):
            yield from fields(entry.type, name)
        else:
            yield name


@pytest.mark.parametrize(("study", "variant"), PRESETS)
def test_every_preset_is_named_checked_and_survives_json(study, variant):
    preset = parse(study, "--variant", variant)
    assert (preset.name, preset.variant) == (study, variant)
    assert (study, variant) in SUMMARIES
    content = json.loads(json.dumps(hyperparameters.to_dict(preset)))
    assert hyperparameters.from_dict(content) == preset
    small = parse(study, "--variant", variant, "--smoke")
    assert small.train.epochs < preset.train.epochs


@pytest.mark.parametrize(("study", "variant"), PRESETS)
def test_every_preset_builds_a_model_of_the_bits_it_promises(study, variant):
    preset = STUDIES[study][variant]
    model = modules.build_autoencoder(preset)
    if isinstance(model, modules.IntroVAE):
        assert model.latent_size == preset.model.latent_size
        assert str(model.latent_size) in SUMMARIES[study, variant]
        assert model.is_adversarial == (preset.model.form != "vae")
        return
    grid = model.code_shape(dataset.sample_shape(preset))
    if isinstance(model, modules.VQVAETrainer):
        bits = np.prod(grid) * model.bits_per_code
        (promised,) = re.findall(r"\((\d+) bits", SUMMARIES[study, variant]) or [bits]
        assert bits == float(promised)
        if preset.prior.epochs:
            prior = modules.build_prior(preset, modules.prior_grid(grid), model.num_codes)
            assert prior.count_params() > 0
    assert model.num_codes == (
        None
        if preset.model.bottleneck in ("identity", "gaussian", "gumbel")
        else hyperparameters.codes_of(preset.model)
    )


def test_the_table_of_som3d_is_that_of_the_source():
    presets = STUDIES["som3d"]
    assert len(presets) == 18
    model = modules.build_autoencoder(presets["somvae"])
    assert model.code_shape((144, 176, 144, 1)) == (9, 11, 9)
    assert model.quantizer.codebook.shape == (256, 32)
    assert (model.quantizer.topology, model.quantizer.alpha) == ("rectangular", 6.0)
    assert (model.quantizer.beta, model.continuous_weight) == (1.0, 0.8)
    psom = modules.build_autoencoder(presets["psomvae-continuous"])
    assert not isinstance(psom, modules.VQVAETrainer)
    assert [type(part).__name__ for part in psom.bottleneck.bottlenecks] == [
        "GaussianSampling",
        "ProbabilisticSOM",
    ]
    assert (psom.quantizer.gamma, psom.quantizer.beta, psom.quantizer.alpha) == (1, 1, 10)
    assert {v: p.model.start for v, p in presets.items() if p.model.start != "ae"} == {
        **dict.fromkeys(("ae", "vae", "vqvae", "vqvae-skips")),
        **dict.fromkeys(("somvae-continuous", "psomvae-continuous"), "vae"),
    }


def test_the_table_of_streamlines_is_that_of_the_source():
    presets = STUDIES["streamlines"]
    kinds = {v: p.model.bottleneck for v, p in presets.items() if v != "best"}
    assert kinds == {
        "vq-diff": "gumbel",
        "ae": "identity",
        "vae": "gaussian",
        "vq-vae": "vq",
        "vq-ema": "ema",
    }
    model = modules.build_autoencoder(presets["vq-diff"])
    assert model.encoder.output_shape == (None, 16, 16, 64)
    assert not isinstance(model, modules.VQVAETrainer)
    assert (model.bottleneck.codebook_size, model.bottleneck.temperature) == (512, 10)
    assert np.isclose(model.bottleneck.codebook_scale**2, 2)
    for variant in ("vq-vae", "vq-ema", "best"):  # 36 bits for each of 64 streamlines
        model = modules.build_autoencoder(presets[variant])
        grid = model.code_shape((64, 64, 3))
        assert np.prod(grid) * model.bits_per_code / 64 == 36
    assert grid == (64, 1, 4)
    assert modules.prior_grid(grid) == (64, 4)


def test_the_models_of_introvae3d_are_those_of_the_source():
    presets = STUDIES["introvae3d"]
    sizes = {"vae-8": 8, "vae-512": 512, "ivae-32": 32, "ivae-256": 256}
    assert {name: presets[name].model.latent_size for name in sizes} == sizes
    for name in sizes:
        preset = presets[name]
        assert (preset.model.form == "vae") == name.startswith("vae")
        # They share the network and differ in the latent size.
        same = dataclasses.replace(
            preset.model,
            latent_size=256,
            form="hinge",
            margin=presets["ivae-256"].model.margin,
            adversarial_weight=presets["ivae-256"].model.adversarial_weight,
        )
        assert same == presets["ivae-256"].model
        assert dataset.sample_shape(preset) == (40, 48, 40, 1)
        assert not preset.model.linear
        assert preset.train.epochs + preset.train.vae_epochs == 10
    layers = modules.build_autoencoder(presets["ivae-256"]).encoder.layers
    grid = next(layer.input.shape for layer in layers if layer.name.startswith("flatten"))
    assert grid == (None, 5, 6, 5, 64)
    data = presets["ivae-256"].data
    scans = np.array(data.shares) * data.visits / sum(data.shares) * data.subjects
    np.testing.assert_allclose(scans, (1855, 2910, 393, 41, 205), atol=1)


def test_variants_come_after_what_they_start_from():
    for study in STUDIES:
        ordered = hyperparameters.variants_in_order(study)
        assert sorted(ordered) == sorted(STUDIES[study])
        for variant in ordered:
            start = STUDIES[study][variant].model.start
            assert start is None or ordered.index(start) < ordered.index(variant)


def test_paper_preset_is_the_network_of_the_source():
    model = modules.build_autoencoder(STUDIES["oasis2d"]["paper"])
    assert model.code_shape((128, 128, 1)) == (8, 8)
    assert model.num_codes == 16
    assert model.bottleneck.codebook.shape == (16, 16)
    kernels = [w.shape for w in model.encoder.weights if len(w.shape) == 4]
    assert [shape[-1] for shape in kernels] == [32, 32, 64, 64, 128, 16]
    assert STUDIES["oasis2d"]["paper"].train.epochs == 30
    assert STUDIES["oasis2d"]["paper"].model.beta == 0.25


def test_every_field_is_explained():
    tree = ast.parse((ROOT / "hyperparameters.py").read_text())
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        body = node.body
        for place, statement in enumerate(body):
            if isinstance(statement, ast.AnnAssign) and statement.target.id not in (
                ["data", "model", "train", "prior", "sampling", "augment"]
            ):
                told = body[place + 1]
                assert isinstance(told, ast.Expr), statement.target.id
                assert len(told.value.value) > 15, statement.target.id


def test_defaults_of_the_library_are_those_of_the_options():
    import inspect

    from brainvq.evaluation.anomaly import healthy_thresholds, score_maps
    from brainvq.training.anomaly import AnomalyDetector
    from brainvq.training.classify import METHODS, ClassifierSettings

    classify, anomaly = hyperparameters.Classify(), hyperparameters.Anomaly()
    for entry in dataclasses.fields(ClassifierSettings):
        ours = getattr(classify, entry.name)
        if entry.name == "augment":
            assert vars(ours).items() <= vars(entry.default).items()
        else:
            assert ours == entry.default, entry.name
    assert classify.methods == METHODS
    compared = 0
    for function in (AnomalyDetector, AnomalyDetector.calibrate, score_maps, healthy_thresholds):
        for name, parameter in inspect.signature(function).parameters.items():
            known = parameter.default is not inspect.Parameter.empty
            if (
                known
                and hasattr(anomaly, name)
                and name not in (*("direction", "mirror", "combined"),)
            ):
                assert getattr(anomaly, name) == parameter.default, name
                compared += 1
    assert compared >= 10


def test_unknown_or_missing_fields_of_an_old_run():
    content = hyperparameters.to_dict(Study())
    with pytest.raises(UserError, match="unknown fields .*old"):
        hyperparameters.from_dict({**content, "old": 1})
    del content["data"]["spacing"]
    with pytest.raises(UserError, match="data: found .*missing fields .*spacing"):
        hyperparameters.from_dict(content)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--variant"], "--variant: no value found"),
        (["--model.decay", "2"], "--model.decay: found 2"),
        (["--model.num-codes", "1"], "--model.num-codes: found 1"),
        (["--data.fractions", "0.5", "0.1", "0.1"], "--data.fractions: found"),
        (["--data.sourc", "bids"], "perhaps you meant --data.source"),
        (["--model.bottleneck", "magic"], "invalid choice 'magic'"),
        (["som3d", "--data.shape", "144", "170", "144"], "--data.shape: found (144, 170, 144)"),
        (["som3d", "--data.spacing", "None"], "--data.spacing: found None"),
        (["som3d", "--data.source", "png", "--data.root", "x"], "--data.source: found png"),
        (["som3d", "--model.continuous-weight", "1.5"], "--model.continuous-weight: found 1.5"),
        (["som3d", "--prior.levels", "4"], "--prior.levels: found 4"),
        (["som3d", "--prior.epochs", "2", "--model.depth", "2"], "--prior.epochs: found 2"),
        (["som3d", "--variant", "vae", "--model.depth", "2"], "has no codes to add to"),
        (["som3d", "--data.source", "tracts", "--data.root", "x"], "--data.source: found tracts"),
        (["oasis2d", "--model.depth", "2"], "--model.depth: found 2"),
        (["oasis2d", "--model.beam", "0"], "--model.beam: found 0"),
        (["streamlines", "--data.source", "bids", "--data.root", "x"], "--data.source: found bids"),
        (["streamlines", "--data.source", "groups"], "--data.root: not given"),
        (["streamlines", "--data.bundles", "AF_L"], "--data.bundles: found AF_L"),
        (["streamlines", "--model.network", "conv"], "--model.network: found conv"),
        (["streamlines", "--model.modes", "65"], "--model.modes: found 65"),
        (["streamlines", "--model.blocks", "2"], "--model.filters, --model.blocks: found"),
        (["streamlines", "--data.points", "1"], "--data.points: found 64 and 1"),
        (["streamlines", "--variant", "ae", "--data.points", "63"], "found 64 and 63"),
        (["streamlines", "--data.per-bundle", "0"], "--data.per-bundle: found 0"),
        (["streamlines", "--train.deform", "-1"], "--train.deform: found -1"),
        (["streamlines", "--prior.levels", "4"], "--prior.levels: found 4"),
        (["streamlines", "--train.window", "8"], "--train.window: found 8"),
    ],
)
def test_bad_options(words, told):
    with pytest.raises(UserError, match=re.escape(told)):
        parse(*words)


def test_options_reach_their_fields():
    study = parse(
        "oasis2d", "--variant=paper", "--train.epochs", "7", "--data.slice-margin", "1", "2"
    )
    assert study.train.epochs == 7
    assert study.data.slice_margin == (1.0, 2.0)
    assert study.model == STUDIES["oasis2d"]["paper"].model


def test_steps_survive_json():
    png, bids = (["--data.source", kind, "--data.root", "x"] for kind in ("png", "bids"))
    for words in (png, [], ["som3d"], ["streamlines"], ["introvae3d"], ["introvae3d", *bids]):
        study = parse(*words)
        steps = dataset.steps(study)
        config = json.loads(json.dumps(steps_to_config(steps)))
        known = {"GroupStreamlines": GroupStreamlines} if words == ["streamlines"] else None
        assert list(steps_from_config(config, known)) == list(steps)


def commands():
    text = (ROOT / "README.md").read_text()
    return sorted(
        set(re.findall(r"^\| `python ((?:train|predict|similarity|dataset)\.py.*?)`", text, re.M))
    )


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_readme_are_understood(command):
    script, *words = shlex.split(command)
    if script == "train.py" and "--help" not in words and "--resume" not in words:
        variants, words = hyperparameters.take_option(words, "--variants")
        known = hyperparameters.variants_in_order(words[0]) if variants else []
        assert variants in (None, "all") or set(variants.split(",")) <= set(known)
        parse(*words)
    elif script == "predict.py":
        predict.parse(words)
    elif script == "dataset.py" and words[0] == "prepare":
        parse(*words[1:])
    elif script == "dataset.py" and words[0] == "simulate":
        hyperparameters.parse_fields(hyperparameters.Simulation(), words[1:], "dataset.py", "")
    else:
        assert words[0] in ("--help", "--resume", "RUN")


def snippets():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.mark.parametrize("number", range(len(snippets())))
def test_snippets_of_the_readme_run(number):
    space = {}
    exec(compile(snippets()[number], f"README snippet {number}", "exec"), space)
    if "brains" in space:
        assert space["brains"].shape == (4, 128, 128, 1)


def test_modules_gives_a_model_that_loads_weights(tmp_path):
    space = {}
    exec("from modules import *", space)
    trainer = space["vqvae_trainer"]
    trainer.save_weights(tmp_path / "model.weights.h5")
    trainer.load_weights(tmp_path / "model.weights.h5")
    assert {"EMAVectorQuantizer", "PixelCNN", "build_autoencoder"} <= set(space)
