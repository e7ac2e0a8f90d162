"""What README and docs tell people to type: every command is understood, every snippet runs."""

import re
import shlex
from pathlib import Path

import pytest

from brainvq.app.train import STRATEGIES
from brainvq.errors import UserError
from brainvq.options import parse_fields, take_option
from brainvq.options.verbs import NAMES, VERBS, Simulation
from brainvq.studies import STUDIES, parse, variants_in_order
from brainvq.training.tracking import TRACKERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))))


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.S)


def commands():
    lines = {
        line
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if line.startswith("brainvq ")
    }
    return sorted(lines)


def is_study(words):
    """Reads the words behind `train` and `prepare`."""
    if "--resume" in words:
        return
    words = ["best" if word == "VARIANT" else word for word in words]
    variants, words = take_option(words, "--variants")
    track, words = take_option(words, "--track")
    assert track in (None, *TRACKERS)
    strategy, words = take_option(words, "--strategy")
    assert strategy in (None, *STRATEGIES)
    if variants is not None:
        known = variants_in_order(words[0])
        assert variants == "all" or set(variants.split(",")) <= set(known)
    if "--help" in words:
        with pytest.raises(SystemExit, match="0"):
            parse(words, "brainvq train", "")
    else:
        assert parse(words, "brainvq train", "").name in STUDIES


def is_verb(words):
    """Reads the words behind `predict` with the options of at least one kind of sample."""
    if words == ["--help"]:
        return
    words = words[1:] if words and words[0] not in NAMES else words
    verb, *options = words or ["sample"]
    kinds = [VERBS[kind][verb] for kind in VERBS if verb in VERBS[kind]]
    assert kinds, verb
    problems = []
    for cls in kinds:
        try:
            parse_fields(cls(), options, "brainvq predict", "")
        except UserError as error:
            problems.append(str(error))
    assert len(problems) < len(kinds), problems


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command):
    verb, *words = shlex.split(command, comments=True)[1:]
    if verb in ("train", "prepare"):
        is_study(words)
    elif verb == "predict":
        is_verb(words)
    elif verb == "simulate":
        assert parse_fields(Simulation(), words, "brainvq simulate", "").out
    elif verb == "compare":
        assert all(
            word in ("--again", "RUN") or word.startswith(("RUN", "runs/")) for word in words
        )
    else:
        assert verb in ("--version", "--help")


def snippets():
    return [(page, text) for page in PAGES for text in blocks(page, "python")]


@pytest.mark.parametrize("number", range(len(snippets())))
def test_snippets_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, text = snippets()[number]
    space = {}
    exec(compile(text, f"{page}, snippet {number}", "exec"), space)
    if page == "README.md":
        assert space["brains"].shape == (4, 128, 128, 1)


def test_there_is_something_to_try():
    assert len(commands()) > 50
    assert len(snippets()) >= 6
