"""What a finished training is worth: measures, samples, figures, report and model card."""

import numpy as np

from brainvq import evaluation
from brainvq.data.remarks import summary
from brainvq.files import read_json, write_json
from brainvq.options import to_dict
from brainvq.reports.html import write_report
from brainvq.reports.model_card import write_model_card
from brainvq.studies import STUDIES
from brainvq.tasks.base import SPLITS, prior_codes, read_subjects
from brainvq.training.runs import SMOKE

# Shares of the codes whose surprise is noted.
QUANTILES = (0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


def measure_run(run):
    """Fills `metrics.json` and `subjects.csv` from test subjects; done once for each run."""
    if run.has("metrics.json"):
        return
    metrics = run.task.measure(run)
    if run.prior is not None:
        metrics["parameters"]["prior"] = run.prior.count_params()
        if not run.study.prior.is_fitted:
            metrics["prior"] = measure_prior(run)
        metrics["samples"] = run.task.draw(run)
    write_json(run.file("metrics.json"), metrics)


def measure_prior(run):
    """Held-out bits per code of the prior, beside tables that need no network."""
    study, task = run.study, run.task
    subjects = run.subjects("train")
    codes = {split: prior_codes(np.asarray(found)) for split, found in run.codes.items()}
    train, test, num_codes = codes["train"], codes["test"], run.model.num_codes
    tables = evaluation.NeighbourModel(seed=study.seed)
    tables.fit(train, num_codes, groups=np.tile(subjects, len(train) // len(subjects)))
    cells = np.prod(test.shape[1:])
    ours = run.prior.bits_per_code(test, **task.conditions(run, test, "test"))
    # What the prior is given beside the codes must be paid for: log2(levels) bits a slice.
    paid = {name: bits / cells for name, bits in task.condition_bits(run, "test").items()}
    ours += sum(paid.values())
    mix = tables.bits_per_code(test)
    unseen = codes["validation"]
    given = task.conditions(run, unseen, "validation")
    healthy = -run.prior.code_log_prob(unseen, **given) / np.log(2)
    return {
        # How surprising codes of unseen, usual brains are: what `anomaly` compares with.
        "validation_quantiles": {str(q): float(np.quantile(healthy, q)) for q in QUANTILES},
        "bits_per_code": ours,
        **{f"of_which_{name}": bits for name, bits in paid.items()},
        "neighbour_tables": mix,
        "marginal": evaluation.marginal_bits(train, test, num_codes),
        "uniform": float(np.log2(num_codes)),
        "below_neighbour_tables": 1 - ours / mix,
        f"bits_per_{task.unit}": ours * float(cells),
    }


def report_run(run):
    """Draws every figure of the study and writes `report.html` and `MODEL_CARD.md`."""
    about, metrics, task, scans = run.folder.study, run.metrics(), run.task, run.scans
    preset = STUDIES.get(run.study.name, {}).get(run.study.variant)
    if preset is not None:
        about["preset"] = to_dict(preset.smoke() if run.folder.smoke else preset)
    failures = run.store.failures.itertuples(index=False)
    report = task.report(
        about,
        metrics,
        read_subjects(run),
        task.figures(run, metrics),
        note=scans.note,
        failures=[f"{scan}: {why}" for scan, why in failures],
        timings=read_json(run.file("timings.json")),
    )
    report.warnings += summary(run.store.remarks)
    if run.folder.smoke:
        report.warnings.insert(0, SMOKE[0].upper() + SMOKE[1:] + ".")
    write_report(run.file("report.html"), report)
    write_json(run.file("report.json"), {"title": report.title, "cards": report.cards})
    first = scans.table.drop_duplicates("subject")
    counts = {
        split: int((first["split"] == split).sum()) if "split" in first else len(run.rows[split])
        for split in SPLITS
    }
    facts = task.facts(run.study, scans)
    card = task.card(about, metrics, split=counts, data_facts=facts)
    write_model_card(run.file("MODEL_CARD.md"), card)
