"""The table of several runs on slices."""

import pandas as pd

from brainvq import evaluation
from brainvq.files import write_csv
from brainvq.reports import figures
from brainvq.tasks.base import figure_path


def compare_slices(runs, log):
    """Measures runs on slices anew; writes `similarity.csv` and `similarity.png` beside them.

    Args:
        runs: list of `LoadedRun`.
        log: a `logging.Logger`.
    """
    tables, extra = {}, {}
    for run in runs:
        tables[run.name] = run.task.similarity(run.model.reconstruct, run).table()
        extra[run.name] = {
            "bits_per_slice": run.model.bits_per_sample(run.store.sample_shape),
            **usage_of_test(run),
        }
        write_csv(run.file("subjects.csv"), tables[run.name])
        if run.has("history.csv"):
            figures.ssim_curve(
                pd.read_csv(run.file("history.csv")),
                simulated=run.simulated,
                path=figure_path(run, "ssim"),
            )
    table = evaluation.compare(tables)
    table = table.join(pd.DataFrame.from_dict(extra, orient="index"), on="run")
    place = runs[0].path.parent
    write_csv(place / "similarity.csv", table)
    labels = [
        f"{row.run}\n{row.bits_per_slice:.0f} bits a slice"
        if pd.notna(row.bits_per_slice)
        else row.run
        for row in table.itertuples()
    ]
    figures.comparison_bars(
        table.assign(run=labels),
        title="SSIM and PSNR on unseen subjects",
        simulated=all(run.simulated for run in runs),
        path=place / "similarity.png",
    )
    log.info("%s", table.round(4).to_string(index=False))
    log.info("SSIM: 2D slices, 7x7 window, data range 1; mean and sd over test subjects")
    log.info("written: %s, %s", place / "similarity.csv", place / "similarity.png")


def usage_of_test(run):
    """Codes used by test subjects, and their perplexity; empty without codes."""
    if not run.model.num_codes:
        return {}
    counter = evaluation.CodeCounter(run.model.num_codes)
    stream = run.stream("test")
    for number in range(len(stream)):
        counter.add(run.model.first_codes(run.model.codes(*stream[number])))
    usage = counter.usage()
    return {name: usage[name] for name in ("used", "num_codes", "perplexity")}
