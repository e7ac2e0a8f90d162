import importlib.util
from pathlib import Path

import pytest


def _load(name):
    # By its path: the tests are no package, and pytest's importlib mode leaves sys.path alone.
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"brainvq_tests_data_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make():
    """The module `generators.py`: small data sets in the layouts of the published ones."""
    return _load("generators")
