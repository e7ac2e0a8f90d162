"""Which tests share a worker, and which come first: the suite is to end soon on two cores."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent
# Files whose tests use one trained run, by what they share.
SHARED = {"scripts/test_train.py": "oasis2d", "scripts/test_predict.py": "oasis2d"}
# What takes minutes starts first: what is left for the end is short, and both workers end together.
LONGEST = (
    "scripts/test_train.py",
    "scripts/test_predict.py",
    "scripts/test_ixi2d.py",
    "test_earlier_runs.py",
    "scripts/test_introvae3d.py",
    "scripts/test_streamlines.py",
    "scripts/test_prepare.py",
    "scripts/test_som3d.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Groups tests by file, or by the run that they share, and orders the files."""
    for item in items:
        name = item.path.relative_to(ROOT).as_posix()
        item.add_marker(pytest.mark.xdist_group(SHARED.get(name, name)))

    def place(item):
        name = item.path.relative_to(ROOT).as_posix()
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)
