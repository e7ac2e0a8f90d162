"""Runs by name: the weights that come with brainvq, and folders of runs; no Keras."""

from pathlib import Path

from brainvq.errors import UserError
from brainvq.training.runs import RunFolder

SHIPPED = Path(__file__).resolve().parents[1] / "weights"


def shipped():
    """Names of the weights that come with brainvq."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/study.json"))


def open_run(name):
    """The run or the shipped weights called `name`.

    Args:
        name: one of `shipped()`, or the folder of a run.

    Returns:
        A `RunFolder`.

    Raises:
        UserError: there is neither, or it was made by another version.
    """
    if str(name) in shipped():
        return RunFolder.open(SHIPPED / str(name))
    if not Path(name).is_dir():
        raise UserError(
            f"{name}: found neither such a folder nor such shipped weights; expected the folder of "
            f"a run or one of {', '.join(shipped())}"
        )
    return RunFolder.open(name)
