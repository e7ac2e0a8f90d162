"""The notebooks in examples/ run from top to bottom."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# Enough to go through every cell, in seconds.
SMALL = {"COUNT": 64, "EPOCHS": 1, "PRIOR_EPOCHS": 1, "PEOPLE": 8, "STREAMLINES": 64}


def cells(notebook):
    """Source of each cell of code; the first ones are the parameters."""
    content = json.loads(notebook.read_text("utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert code[0]["metadata"]["tags"] == ["parameters"]
    assert not any(cell["outputs"] for cell in code), f"{notebook.name}: clear its outputs"
    return ["".join(cell["source"]) for cell in code]


def test_the_start_page_names_every_notebook():
    named = re.findall(r"`(\w+\.ipynb)`", (ROOT / "docs" / "start.md").read_text("utf-8"))
    assert sorted(named) == [notebook.name for notebook in NOTEBOOKS]


# The quickest of them runs always, the others with `make thorough`.
LITTLE = [
    pytest.param(path, marks=() if path.stem == "prior" else pytest.mark.thorough)
    for path in NOTEBOOKS
]


@pytest.mark.parametrize("notebook", LITTLE, ids=lambda path: path.stem)
def test_a_notebook_runs_on_little_data(notebook, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    parameters, *rest = cells(notebook)
    space = {}
    exec(parameters, space)
    space |= {name: SMALL[name] for name in SMALL if name in space}
    for number, source in enumerate(rest):
        exec(compile(source, f"{notebook.name}, cell {number}", "exec"), space)


@pytest.mark.thorough
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_is(notebook, tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text("\n".join(cells(notebook)), "utf-8")
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, script], check=True, cwd=tmp_path, env=environment)
