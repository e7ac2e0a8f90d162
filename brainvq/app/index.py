"""The page over a folder of runs, `runs.html` beside `runs`: what each reached, side by side."""

import logging

from brainvq.files import read_json
from brainvq.reports.html import write_index
from brainvq.training.runs import RunFolder

logger = logging.getLogger("brainvq")
# Figures of which the first that a run has is shown beside it.
PICTURES = ("reconstructions", "samples", "bundles", "losses")


def index_runs(folder):
    """Writes a page beside a folder of runs: a table per study, a row per run, newest first.

    Beside it, as `runs.html`, and not in it: all that `runs/*` names in a shell are runs.

    Args:
        folder: `pathlib.Path` of the runs.

    Returns:
        Path of the page, or None where it cannot be written: no run fails for it.
    """
    studies = {}
    for run in RunFolder.newest_first(folder):
        try:
            row = row_of(run)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a run of another version, or one that is being written
        studies.setdefault(row.pop("study"), []).append(row)
    folder = folder.resolve()
    page = folder.with_name(f"{folder.name}.html")
    try:
        return write_index(page, f"Runs in {folder.name}", studies, folder.name)
    except OSError as error:
        logger.warning("%s: %s", page, error.strerror)
        return None


def row_of(run):
    """What the page says of a run: dict of study, run, report, picture, notes and measures."""
    about = run.study
    study = about["study"]
    report = read_json(run.file("report.json")) if run.has("report.json") else {}
    state = "" if run.has("finished.json") else "not finished"
    names = (f"figures/{name}.png" for name in PICTURES)
    return {
        "study": study["name"],
        "run": run.path.name,
        "variant": study["variant"],
        "began": run.began,
        "data": study["data"].get("source", "–"),
        "seed": study.get("seed"),
        "report": "report.html" if run.has("report.html") else None,
        "picture": next((name for name in names if run.has(name)), None),
        "state": "smoke run: means nothing" if run.smoke else state,
        "measures": {label: value for label, value, *_ in report.get("cards", [])},
    }
