"""Presets: they build what they promise, and their tables are those of the papers."""

import dataclasses
import inspect
import json
import re

import numpy as np
import pytest

from brainvq.data import GroupStreamlines, steps_from_config, steps_to_config
from brainvq.models import IntroVAE, VQVAETrainer
from brainvq.options import check_conditions
from brainvq.options.verbs import Anomaly, Classify
from brainvq.studies import STUDIES, SUMMARIES, parse, variants_in_order
from brainvq.tasks import of
from brainvq.tasks.base import prior_grid

PRESETS = [(study, variant) for study in STUDIES for variant in STUDIES[study]]


def parsed(*words):
    return parse(list(words), "train.py", "")


def build(study):
    return study.model.build(study.data.input_shape, seed=study.seed)


@pytest.mark.parametrize(("study", "variant"), PRESETS)
def test_every_preset_is_named_and_has_a_small_form(study, variant):
    preset = parsed(study, "--variant", variant)
    assert (preset.name, preset.variant) == (study, variant)
    assert preset == STUDIES[study][variant]
    assert len(SUMMARIES[study, variant]) > 10
    small = parsed(study, "--variant", variant, "--smoke")
    assert small.train.epochs < preset.train.epochs
    assert check_conditions(small, small.smoke()) == small


@pytest.mark.parametrize(("study", "variant"), PRESETS)
def test_every_preset_builds_a_model_of_the_bits_it_promises(study, variant):
    preset = STUDIES[study][variant]
    model = build(preset)
    if isinstance(model, IntroVAE):
        assert model.latent_size == preset.model.network.latent_size
        assert str(model.latent_size) in SUMMARIES[study, variant]
        assert model.is_adversarial == (preset.model.objective.form != "vae")
        return
    grid = model.code_shape(preset.data.sample_shape)
    if isinstance(model, VQVAETrainer):
        bits = np.prod(grid) * model.bits_per_code
        (promised,) = re.findall(r"\((\d+) bits", SUMMARIES[study, variant]) or [bits]
        assert bits == float(promised)
        if preset.has_prior and not preset.prior.is_fitted:
            prior = preset.prior.build(prior_grid(grid), model.num_codes, preset.classes)
            assert prior.count_params() > 0
    without = preset.model.bottleneck.tag in ("identity", "gaussian", "gumbel")
    assert model.num_codes == (None if without else preset.model.bottleneck.codes)
    assert model.decodes_codes == preset.model.decodes_codes


def test_the_table_of_som3d_is_that_of_the_paper():
    presets = STUDIES["som3d"]
    assert len(presets) == 18
    model = build(presets["somvae"])
    assert model.code_shape((144, 176, 144, 1)) == (9, 11, 9)
    assert model.quantizer.codebook.shape == (256, 32)
    assert (model.quantizer.topology, model.quantizer.alpha) == ("rectangular", 6.0)
    assert (model.quantizer.beta, model.continuous_weight) == (1.0, 0.8)
    psom = build(presets["psomvae-continuous"])
    assert not isinstance(psom, VQVAETrainer)
    assert [type(part).__name__ for part in psom.bottleneck.bottlenecks] == [
        "GaussianSampling",
        "ProbabilisticSOM",
    ]
    assert (psom.quantizer.gamma, psom.quantizer.beta, psom.quantizer.alpha) == (1, 1, 10)
    assert {v: p.model.start for v, p in presets.items() if p.model.start != "ae"} == {
        **dict.fromkeys(("ae", "vae", "vqvae", "vqvae-skips")),
        **dict.fromkeys(("somvae-continuous", "psomvae-continuous"), "vae"),
    }


def test_the_table_of_streamlines_is_that_of_the_paper():
    presets = STUDIES["streamlines"]
    kinds = {v: p.model.bottleneck.tag for v, p in presets.items() if v != "best"}
    assert kinds == {
        "vq-diff": "gumbel",
        "ae": "identity",
        "vae": "gaussian",
        "vq-vae": "vq",
        "vq-ema": "ema",
    }
    model = build(presets["vq-diff"])
    assert model.encoder.output_shape == (None, 16, 16, 64)
    assert not isinstance(model, VQVAETrainer)
    assert (model.bottleneck.codebook_size, float(model.bottleneck.temperature)) == (512, 10)
    assert np.isclose(model.bottleneck.codebook_scale**2, 2)
    for variant in ("vq-vae", "vq-ema", "best"):  # 36 bits for each of 64 streamlines
        model = build(presets[variant])
        grid = model.code_shape((64, 64, 3))
        assert np.prod(grid) * model.bits_per_code / 64 == 36
    assert grid == (64, 1, 4)
    assert prior_grid(grid) == (64, 4)


def test_the_models_of_introvae3d_are_those_of_the_paper():
    presets = STUDIES["introvae3d"]
    sizes = {"vae-8": 8, "vae-512": 512, "ivae-32": 32, "ivae-256": 256}
    assert {name: presets[name].model.network.latent_size for name in sizes} == sizes
    same = presets["ivae-256"].model
    for name in sizes:
        preset = presets[name]
        assert (preset.model.objective.form == "vae") == name.startswith("vae")
        # They share the network and differ in the latent size.
        assert dataclasses.replace(preset.model.network, latent_size=256) == same.network
        if preset.model.objective.is_adversarial:
            assert preset.model.objective == same.objective
        assert preset.data.sample_shape == (40, 48, 40, 1)
        assert not preset.model.network.linear
        assert preset.train.epochs + preset.train.vae_epochs == 10
    layers = build(presets["ivae-256"]).encoder.layers
    grid = next(layer.input.shape for layer in layers if layer.name.startswith("flatten"))
    assert grid == (None, 5, 6, 5, 64)
    data = presets["ivae-256"].data
    scans = np.array(data.shares) * data.visits / sum(data.shares) * data.subjects
    np.testing.assert_allclose(scans, (1855, 2910, 393, 41, 205), atol=1)


def test_the_paper_variant_of_oasis2d_is_the_network_of_the_paper():
    preset = STUDIES["oasis2d"]["paper"]
    model = build(preset)
    assert model.code_shape((128, 128, 1)) == (8, 8)
    assert model.num_codes == 16
    assert model.bottleneck.codebook.shape == (16, 16)
    kernels = [w.shape for w in model.encoder.weights if len(w.shape) == 4]
    assert [shape[-1] for shape in kernels] == [32, 32, 64, 64, 128, 16]
    assert preset.train.epochs == 30
    assert preset.model.bottleneck.beta == 0.25


def test_variants_come_after_what_they_start_from():
    for study in STUDIES:
        ordered = variants_in_order(study)
        assert sorted(ordered) == sorted(STUDIES[study])
        for variant in ordered:
            start = STUDIES[study][variant].model.start
            assert start is None or ordered.index(start) < ordered.index(variant)


def test_defaults_of_the_library_are_those_of_the_options():
    from brainvq.evaluation.anomaly import depth_score, healthy_thresholds, score_maps
    from brainvq.training.anomaly import AnomalyDetector
    from brainvq.training.classify import METHODS, ClassifierSettings

    classify, anomaly = Classify(), Anomaly()
    for entry in dataclasses.fields(ClassifierSettings):
        ours = getattr(classify, entry.name)
        if entry.name == "augment":
            assert vars(ours).items() <= vars(entry.default).items()
        else:
            assert ours == entry.default, entry.name
    assert classify.methods == METHODS
    compared = 0
    functions = (score_maps, depth_score, healthy_thresholds)
    for function in (AnomalyDetector, AnomalyDetector.calibrate, *functions):
        for name, parameter in inspect.signature(function).parameters.items():
            known = parameter.default is not inspect.Parameter.empty
            if known and hasattr(anomaly, name) and name not in ("direction", "mirror", "combined"):
                assert getattr(anomaly, name) == parameter.default, name
                compared += 1
    assert compared >= 10


def test_steps_survive_json():
    png, bids = (["--data.source", kind, "--data.root", "x"] for kind in ("png", "bids"))
    for words in (png, [], ["som3d"], ["streamlines"], ["introvae3d"], ["introvae3d", *bids]):
        study = parsed(*words)
        steps = of(study).steps(study)
        config = json.loads(json.dumps(steps_to_config(steps)))
        known = {"GroupStreamlines": GroupStreamlines} if words == ["streamlines"] else None
        assert list(steps_from_config(config, known)) == list(steps)


def test_modules_gives_a_model_that_loads_weights(tmp_path):
    space = {}
    exec("from modules import *", space)
    trainer = space["vqvae_trainer"]
    trainer.save_weights(tmp_path / "model.weights.h5")
    trainer.load_weights(tmp_path / "model.weights.h5")
    assert {"EMAVectorQuantizer", "PixelCNN", "build_autoencoder"} <= set(space)
    assert space["build_autoencoder"](STUDIES["oasis2d"]["paper"]).num_codes == 16
