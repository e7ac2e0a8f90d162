"""Recipes of containers and workflows: what they name is there, and they can be read."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "path", [".github/workflows/test.yml", ".pre-commit-config.yaml", *ROOT.glob(".github/*/*.yml")]
)
def test_yaml_can_be_read(path):
    content = yaml.safe_load((ROOT / path).read_text())
    assert isinstance(content, dict)


def test_what_is_copied_is_there_and_not_ignored():
    text = (ROOT / "containers/Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    kept = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M))
    assert set(copied) == kept
    text = (ROOT / "containers/brainvq.def").read_text()
    files = re.search(r"%files\n(.*?)\n\n", text, re.S).group(1)
    assert {line.split()[0] for line in files.splitlines()} == kept
    for name in kept:
        assert (ROOT / name).exists(), name


def test_hooks_run_the_pinned_ruff():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    pinned = re.search(r"^ruff==(.*)$", (ROOT / "requirements.txt").read_text(), re.M).group(1)
    assert hooks["repos"][0]["rev"] == f"v{pinned}"
