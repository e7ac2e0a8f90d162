"""Options: what is given is used or refused; ranges, types, help, and the form in study.json."""

import ast
import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

import brainvq.options
from brainvq.errors import UserError
from brainvq.options import (
    BOTTLENECKS,
    Codebook,
    Sampling,
    SlicePrior,
    check,
    check_conditions,
    effective,
    from_dict,
    options_of,
    to_dict,
)
from brainvq.options.base import groups_of
from brainvq.studies import STUDIES, parse

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ROOT / "brainvq" / "options"
PRESETS = [(study, variant) for study in STUDIES for variant in STUDIES[study]]
# Where a model starts is for training; it is not built of that.
STARTS = (
    "start",
    "codebook",
    "volume_bits",
    *(field.name for field in dataclasses.fields(Codebook)),
)
# What says which study it is, and is not given as an option of its own.
NAMES = ("name", "variant")


def parsed(*words):
    return parse(list(words), "train.py", "")


def flags(preset):
    return [(path, field, value) for path, field, value in options_of(preset) if path not in NAMES]


def changed(options, field, value):
    """A group of options in which one field has another value, deep inside where it must be."""
    values = {}
    for entry in dataclasses.fields(options):
        inner = getattr(options, entry.name)
        if entry is field:
            values[entry.name] = value
        elif dataclasses.is_dataclass(inner):
            values[entry.name] = changed(inner, field, value)
    return dataclasses.replace(options, **values)


@pytest.mark.parametrize("tag", BOTTLENECKS)
def test_every_bottleneck_is_built_from_its_options(tag):
    import numpy as np

    options = BOTTLENECKS[tag](**({"channels": 16} if tag == "entropy" else {}))
    if tag == "gaussian":  # whose weight is an option beside it
        return
    layer = options.build()
    outputs = layer(np.random.default_rng(0).normal(size=(2, 3, 4, 16)).astype("float32"))
    assert tuple(outputs["quantized"].shape) == (2, 3, 4, 16)
    assert ("codes" in outputs) == (layer.num_codes is not None)
    if options.is_discrete:
        assert (layer.num_codes, layer.depth or 1) == (options.codes, options.depth)
        assert options.is_placed == (tag not in ("lfq", "fsq", "entropy"))


def test_new_bottlenecks_are_options_of_the_studies():
    study = parsed("oasis2d", "--model.bottleneck", "lfq", "--model.bits", "4", "--model.spherical")
    layer = study.model.build_bottleneck().quantizer
    assert (layer.num_codes, layer.spherical, layer.beta) == (16, True, 0.25)
    study = parsed("oasis2d", "--model.bottleneck", "fsq", "--model.levels", "3", "5")
    assert study.model.bottleneck.codes == 15
    study = parsed("oasis2d", "--model.bottleneck", "simvq", "--model.num-codes", "64")
    assert study.model.build_bottleneck().num_codes == 64
    words = ("oasis2d", "--model.bottleneck", "vq", "--model.restarts", "--model.stochastic")
    layer = parsed(*words, "--model.temperature", "0.5").model.build_bottleneck()
    assert (layer.initialization, layer.revival_threshold) == ("data", 0.03)
    assert (layer.stochastic, layer.temperature) == (True, 0.5)
    assert from_dict(to_dict(parsed(*words))).model.bottleneck.restarts
    words = ("streamlines", "--model.bottleneck", "grouped", "--model.groups", "4")
    layer = parsed(*words, "--prior.epochs", "0", "--model.one-codebook").model.build_bottleneck()
    assert (layer.depth, len(layer.stages())) == (4, 1)
    words = ("streamlines", "--model.bottleneck", "ema", "--model.depth", "4", "--model.shared")
    (*_, layer) = parsed(*words, "--prior.epochs", "0").model.build_bottleneck().members()
    assert (layer.depth, len(layer.quantizers), layer.repeats) == (4, 2, 3)


@pytest.mark.parametrize(("study", "variant"), PRESETS)
def test_an_option_without_an_effect_is_refused(study, variant):
    preset = STUDIES[study][variant]
    unused = [
        (path, field)
        for path, field, _ in flags(preset)
        if field.metadata.get("used") and not field.metadata["used"](preset)
    ]
    assert unused
    for path, field in unused:
        with pytest.raises(UserError, match=re.escape(f"--{path}: found else; expected it with")):
            check_conditions(changed(preset, field, "else"), preset)


@pytest.mark.parametrize("study", STUDIES)
def test_options_of_other_kinds_do_not_exist(study):
    preset = STUDIES[study]["best"]
    mine = {path for path, *_ in flags(preset)}
    others = {path for name in STUDIES for path, *_ in flags(STUDIES[name]["best"])} - mine
    assert len(others) > 10
    with pytest.raises(UserError, match="Unrecognized") as error:
        parsed(study, *(f"--{path}=1" for path in sorted(others)))
    assert all(f"--{path}=1" in str(error.value) for path in others)


def test_options_of_training_and_data_are_read_by_the_program():
    sources = [
        *(ROOT / "brainvq" / "app").glob("*.py"),
        *(ROOT / "brainvq" / "tasks").rglob("*.py"),
    ]
    sources += [OPTIONS / name for name in ("study.py", "data.py", "training.py", "model.py")]
    read = {
        node.attr
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    for study, variant in PRESETS:
        for path, field, _ in options_of(STUDIES[study][variant]):
            # Augmentations travel as `**vars(augment)`, and models are looked at below.
            if path.startswith("model.") and field.name not in STARTS:
                continue
            assert path.startswith("train.augment.") or field.name in read, path


@pytest.fixture
def reads(monkeypatch):
    """Names of the options that are read while a model is built, as (class, name)."""
    seen = set()
    classes = {
        kind
        for kind in vars(brainvq.options).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
    classes |= {base for kind in classes for base in kind.__mro__ if dataclasses.is_dataclass(base)}

    def noted(self, name):
        if Path(sys._getframe(1).f_code.co_filename).name not in ("base.py", "dataclasses.py"):
            if name == "__dict__":
                seen.update((type(self), field.name) for field in dataclasses.fields(self))
            seen.add((type(self), name))
        return object.__getattribute__(self, name)

    for kind in classes:
        monkeypatch.setattr(kind, "__getattribute__", noted, raising=False)
    return seen


@pytest.mark.parametrize(("study", "variant"), PRESETS)
def test_every_option_of_a_model_is_used_to_build_it(study, variant, reads):
    preset = STUDIES[study][variant].smoke()
    reads.clear()
    preset.model.build(preset.data.sample_shape, seed=0)
    for options in groups_of(preset.model):
        if isinstance(options, Codebook):
            continue  # where the codebook starts is for training
        for field in dataclasses.fields(options):
            used = field.metadata.get("used")
            if field.name not in STARTS and (used is None or used(preset)):
                assert (type(options), field.name) in reads, field.name


@pytest.mark.parametrize("path", sorted(OPTIONS.glob("*.py")), ids=lambda path: path.name)
def test_every_field_is_explained(path):
    groups = {"data", "model", "train", "prior", "sampling", "augment"}
    groups |= {"network", "bottleneck", "latent", "codebook", "loss", "objective"}
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ClassDef) or path.name == "base.py":
            continue
        for place, statement in enumerate(node.body):
            if not isinstance(statement, ast.AnnAssign) or "ClassVar" in ast.dump(statement):
                continue
            name = statement.target.id
            if name in groups or (node.name, name) == ("Data", "source"):
                continue
            text = node.body[place + 1]
            assert isinstance(text, ast.Expr), (node.name, name)
            assert len(text.value.value) > 15, (node.name, name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variant"], "--variant: no value found"),
        (["--model.decay", "2"], "--model.decay: found 2"),
        (["--model.num-codes", "1"], "--model.num-codes: found 1"),
        (["--data.fractions", "0.5", "0.1", "0.1"], "--data.fractions: found"),
        (["--data.sourc", "bids"], "perhaps you meant --data.source"),
        (["--model.bottleneck", "magic"], "invalid choice 'magic'"),
        (["--model.bottleneck", "grouped"], "invalid choice 'grouped'"),
        (["--model.bottleneck", "vq", "--model.temperature", "2"], "--model.stochastic"),
        (["--model.bottleneck", "vq", "--model.initialization", "kmeans"], "--model.restarts"),
        (
            ["--model.bottleneck", "lfq", "--model.codebook-start", "kmeans"],
            "--model.codebook-start: found kmeans; expected layer",
        ),
        (["--data.size", "130"], "--data.size: found 130"),
        (["--model.blocks", "1"], "--model.blocks: found 1 numbers"),
        (["--train.window", "12"], "--train.window: found 12"),
        (["--data.download"], "--data.download: found --data.source simulated"),
        (["--sampling.top-k", "1000"], "--sampling.top-k: found 1000"),
        (["--model.codebook-start", "kohonen"], "--model.codebook-start: found kohonen"),
        (["--data.source", "bids"], "--data.root: not given"),
        (["som3d", "--data.shape", "144", "170", "144"], "--data.shape: found (144, 170, 144)"),
        (["t1w3d", "--model.channels", "64"], "--model.channels: found 64; expected --model.comp"),
        (["t1w3d", "--model.bottleneck", "ema"], "--model.bottleneck: found ema; expected entropy"),
        (["t1w3d", "--model.window", "42"], "--model.window: found 42; expected a multiple of 4"),
        (["t1w3d", "--prior.people", "1"], "--prior.people: found 1; expected 0"),
        (
            ["som3d", "--variant", "ae", "--model.bottleneck", "entropy"],
            "--model.network: found strided; expected transform",
        ),
        (["oasis2d", "--model.bottleneck", "entropy"], "invalid choice 'entropy'"),
        (["som3d", "--data.spacing", "None"], "invalid choice 'None'|--data.spacing"),
        (["som3d", "--data.source", "png", "--data.root", "x"], "invalid choice 'png'"),
        (["som3d", "--model.continuous-weight", "1.5"], "--model.continuous-weight: found 1.5"),
        (["som3d", "--prior.levels", "4"], "Unrecognized options: --prior.levels"),
        (["som3d", "--prior.epochs", "2", "--model.depth", "2"], "--prior.epochs: found 2"),
        (
            ["som3d", "--variant", "vae", "--model.depth", "2"],
            "Unrecognized options: --model.depth",
        ),
        (["som3d", "--data.source", "tracts", "--data.root", "x"], "invalid choice 'tracts'"),
        (["oasis2d", "--model.depth", "2"], "--model.depth: found 2"),
        (["oasis2d", "--model.beam", "0"], "--model.beam: found 0"),
        (["oasis2d", "--model.network", "bundle"], "--model.network: found bundle"),
        (["introvae3d", "--model.bottleneck", "ema"], "--model.bottleneck: found ema"),
        (["introvae3d", "--model.margin", "5"], "--model.margin: found 5.0"),
        (["introvae3d", "--data.scale", "zscore"], "--data.scale: found zscore"),
        (["introvae3d", "--sampling.samples", "1"], "--sampling.samples: found 1"),
        (["introvae3d", "--data.groups", "MS", "MS"], "--data.shares: found 5 numbers"),
        (["streamlines", "--data.source", "bids", "--data.root", "x"], "invalid choice 'bids'"),
        (["streamlines", "--data.source", "groups"], "--data.root: not given"),
        (["streamlines", "--data.bundles", "AF_L"], "--data.bundles: found AF_L"),
        (["streamlines", "--model.network", "conv"], "--model.network: found conv"),
        (["streamlines", "--model.modes", "65"], "--model.modes: found 65"),
        (["streamlines", "--model.blocks", "2"], "--model.blocks"),
        (["streamlines", "--data.points", "1"], "--data.points: found 1"),
        (["streamlines", "--variant", "ae", "--data.points", "63"], "found 64 and 63"),
        (["streamlines", "--data.per-bundle", "0"], "--data.per-bundle: found 0"),
        (["streamlines", "--train.deform", "-1"], "--train.deform: found -1"),
        (["streamlines", "--prior.levels", "4"], "Unrecognized options: --prior.levels"),
        (["streamlines", "--train.window", "8"], "Unrecognized options: --train.window"),
        (["brain"], "study: found 'brain'"),
        (["oasis2d", "--variant", "worst"], "--variant: found 'worst'"),
    ],
)
def test_bad_options(words, message):
    with pytest.raises(UserError) as error:
        parsed(*words)
    assert any(part in str(error.value) for part in message.split("|")), str(error.value)
    assert "\n" not in str(error.value)


def test_options_reach_their_fields():
    study = parsed(
        "oasis2d", "--variant=paper", "--train.epochs", "7", "--data.slice-margin", "1", "2"
    )
    assert study.train.epochs == 7
    assert study.data.slice_margin == (1.0, 2.0)
    assert study.model == STUDIES["oasis2d"]["paper"].model


def test_another_network_or_bottleneck_brings_its_own_options():
    study = parsed("oasis2d", "--model.network", "conv", "--model.bottleneck-filters", "32")
    assert type(study.model.network).__name__ == "Conv"
    assert study.model.network.bottleneck_filters == 32
    assert study.model.network.filters == (64, 128)  # kept from what was there before
    study = parsed("oasis2d", "--model.bottleneck=gaussian", "--model.kl-weight", "0.5")
    assert study.model.bottleneck.tag == "gaussian"
    assert study.model.latent.kl_weight == 0.5
    assert study.prior is None  # a normal distribution needs none over codes
    with pytest.raises(UserError, match="Unrecognized options: --model.num-codes"):
        parsed("oasis2d", "--model.bottleneck", "gaussian", "--model.num-codes", "8")


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["oasis2d", "--help"], ["--help", "som3d"]])
def test_help(words, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(*words)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    if len(words) == 1:
        assert all(variant in text for _, variant in PRESETS)
        assert "--train.epochs" not in text
    else:
        paths = {
            path for path, *_ in flags(STUDIES["som3d" if "som3d" in words else words[0]]["best"])
        }
        assert all(f"--{path}" in text for path in paths)
        assert "--model.latent-size" not in text


@pytest.mark.parametrize(("study", "variant"), PRESETS)
def test_a_study_survives_json_and_its_condition_checks(study, variant):
    for preset in (STUDIES[study][variant], STUDIES[study][variant].smoke()):
        content = json.loads(json.dumps(to_dict(preset)))
        assert from_dict(content) == preset
        assert check_conditions(check(preset), preset) == preset
        assert effective(effective(preset)) == effective(preset)


def test_a_missing_option_takes_its_default_and_an_unknown_one_is_named():
    preset = STUDIES["oasis2d"]["best"]
    content = json.loads(json.dumps(to_dict(preset)))
    del content["data"]["spacing"], content["model"]["beta"], content["train"]["augment"]["gamma"]
    assert from_dict(content) == preset
    # Defaults are those of the options, not of the study: runs without a plan stay without one.
    alone = dataclasses.replace(preset, prior=SlicePrior(), sampling=Sampling())
    assert from_dict({"name": "oasis2d", "variant": "best"}) == alone
    assert not alone.prior.plan
    for part, names in (
        ("data", "data.spacin"),
        ("model", "model.spacin"),
        ("train", "train.spacin"),
    ):
        wrong = {**content, part: {**content[part], "spacin": 1}}
        with pytest.raises(UserError, match=f"not known: {names}"):
            from_dict(wrong)
    with pytest.raises(UserError, match="not known: old"):
        from_dict({**content, "old": 1})
    with pytest.raises(UserError, match="network: found 'transformer'"):
        from_dict({**content, "model": {"network": "transformer"}})


def test_options_that_a_run_of_earlier_versions_did_not_use_are_left_out():
    preset = STUDIES["streamlines"]["vq-ema"]
    content = json.loads(json.dumps(to_dict(preset)))
    # Earlier versions wrote the options of all networks, bottlenecks and kinds of sample.
    content["model"] |= {"latent_size": 256, "som_shape": [16, 16], "dropout": 0.1, "margin": 100.0}
    content["data"] |= {"shape": None, "size": 128, "slices": None}
    content["train"] |= {"window": None, "augment": {"shift": 4, "flip": 0.5}, "vae_epochs": 0}
    content["prior"] |= {"levels": 0}
    assert from_dict(content) == preset


@pytest.mark.parametrize("window", [None, 64])
def test_windows_are_taken_by_a_network_of_any_size(window):
    study = STUDIES["oasis2d"]["best"]
    train = dataclasses.replace(study.train, window=window)
    study = dataclasses.replace(study, train=train)
    assert study.input_shape == ((128, 128, 1) if window is None else (None, None, 1))
