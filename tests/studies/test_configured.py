"""Settings from a file, several seeds, and names of runs, as they are typed."""

import dataclasses
import json

import pytest
import yaml

from brainvq.app.several import _chosen, _parsed, _seeds
from brainvq.errors import UserError
from brainvq.options import take_options, to_dict
from brainvq.studies import STUDIES, parse


def parsed(*words):
    return parse(list(words), "brainvq train", "")


@pytest.fixture
def changed():
    study = STUDIES["som3d"]["best"]
    return dataclasses.replace(study, seed=7)


@pytest.mark.parametrize("ending", ["json", "yaml", "yml"])
def test_settings_of_a_file_and_options_beside_them(ending, changed, tmp_path):
    content = json.loads(json.dumps({"study": to_dict(changed), "brainvq": "0.1.0"}))
    text = json.dumps(content) if ending == "json" else yaml.safe_dump(content)
    file = tmp_path / f"settings.{ending}"
    file.write_text(text)
    assert parsed("--config", str(file)) == changed
    assert parsed("som3d", f"--config={file}", "--seed", "8").seed == 8
    assert parsed("--config", str(file), "--smoke") == changed.smoke()
    alone = tmp_path / f"alone.{ending}"
    alone.write_text(yaml.safe_dump(json.loads(json.dumps(to_dict(changed)))))
    if ending != "json":
        assert parsed("--config", str(alone)) == changed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["oasis2d", "--config", "FILE"], "found study 'som3d'; expected oasis2d"),
        (["--config", "FILE", "--variant", "paper"], "--variant: found beside --config"),
        (["--config", "gone.json"], "gone.json: no such file"),
        (["--config", "BAD"], "unreadable"),
        (["--config", "LIST"], "found list; expected names and values"),
    ],
)
def test_mistakes_are_one_line(words, message, changed, tmp_path):
    files = {
        "FILE": json.dumps({"study": to_dict(changed)}),
        "BAD": "a: [1, {",
        "LIST": "[1, 2]",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    words = [str(tmp_path / f"{word}.yaml") if word in files else word for word in words]
    with pytest.raises(UserError, match=message) as caught:
        parsed(*words)
    assert "\n" not in str(caught.value)


def test_words_behind_an_option():
    assert take_options(["a", "--seeds", "0", "1", "--b", "2"], "--seeds") == (
        ["0", "1"],
        ["a", "--b", "2"],
    )
    assert take_options(["--seeds=0 1"], "--seeds") == (["0", "1"], [])
    assert take_options(["a"], "--seeds") == (None, ["a"])
    with pytest.raises(UserError, match="--seeds: no value"):
        take_options(["--seeds", "--b"], "--seeds")


def test_every_variant_is_trained_with_every_seed():
    chosen, rest = _chosen("best,paper", ["oasis2d", "--smoke"])
    wanted = _parsed(chosen, _seeds(["3", "5"], rest), rest, "brainvq train", "")
    assert [(study.variant, study.seed) for _, study in wanted] == [
        ("best", 3),
        ("paper", 3),
        ("best", 5),
        ("paper", 5),
    ]
    assert _chosen(None, ["--variant", "paper"]) == (["paper"], [])
    assert _seeds(None, []) == [None]


@pytest.mark.parametrize(
    ("seeds", "words", "message"),
    [
        (["1"], [], "two or more different"),
        (["1", "1"], [], "two or more different"),
        (["1", "x"], [], "found 'x'; expected whole numbers"),
        (["1", "2"], ["--seed", "3"], "--seed: found beside --seeds"),
    ],
)
def test_seeds_that_are_none(seeds, words, message):
    with pytest.raises(UserError, match=message):
        _seeds(seeds, words)


def test_a_name_or_a_run_to_resume_is_for_one_run():
    for word in ("--name", "--resume"):
        with pytest.raises(UserError, match=f"{word}: found beside"):
            _chosen("all", [word, "x"])
    with pytest.raises(UserError, match="--variant: found beside --variants"):
        _chosen("all", ["--variant", "x"])
