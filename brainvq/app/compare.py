"""Measure trained runs on the subjects they never saw: SSIM, PSNR, code usage, bits, maps.

    {prog} [RUN ...]              without a RUN, the newest finished one
    {prog} runs/som3d-*           the table of a study of volumes
    {prog} runs/introvae3d-*      of one of vectors: reconstruction, generation,
                                                classes told by latents, bias audit
    {prog} --again runs/som3d-*   the same, measured anew

Prints a table, a row for each run, and writes similarity.csv and similarity.png beside the runs.
Runs on slices are always measured anew; those on volumes, which takes minutes each, where they have
not been measured yet. The same measures and figures make the report at the end of a training.
"""

from brainvq.app import settle_keras, typed
from brainvq.errors import UserError


def main(arguments, prog):
    """Compares runs."""
    if any(word in ("-h", "--help") for word in arguments):
        print(__doc__.replace("{prog}", prog))
        return
    again = "--again" in arguments
    paths = [word for word in arguments if word != "--again"]
    for word in paths:
        if word.startswith("-"):
            raise UserError(f"{word}: no such option; expected folders of runs")
    from brainvq.training.runs import RunFolder, start_log

    log = start_log()
    if not paths:
        newest = RunFolder.newest("runs")
        if newest is None:
            made = f"{typed('train', prog)} makes it"
            raise UserError(
                f"runs: found no finished run (smoke runs do not count); expected one ({made})"
            )
        paths = [newest.path]
    compare([RunFolder.open(path) for path in paths], again, log)


def compare(folders, again, log):
    """Tables and figures of several runs, written beside the first of them.

    Args:
        folders: list of `RunFolder`, of one kind of samples.
        again: whether to measure anew what is measured already.
        log: a `logging.Logger`.
    """
    from brainvq.tasks.run import LoadedRun

    settle_keras()
    runs = [LoadedRun.open(folder.path) for folder in folders]
    first, *others = runs
    for run in others:
        if run.task is not first.task:
            parts = [f"{one.path} is on {one.task.kind}" for one in (first, run)]
            raise UserError(f"{', '.join(parts)}; expected runs of one kind in a table")
    first.task.compare(runs, again, log)
