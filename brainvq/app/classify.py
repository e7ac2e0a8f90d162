"""Classifiers of subjects on the codes of a run, from scans, code files or pictures."""

import dataclasses
import logging
from pathlib import Path

import pandas as pd

from brainvq import data, evaluation
from brainvq.data.derivatives import label
from brainvq.data.inputs import comes_from_simulation, scan_paths
from brainvq.data.looks import RUN, contrast_words
from brainvq.data.remarks import summary
from brainvq.errors import UserError
from brainvq.files import write_csv, write_tsv
from brainvq.reports.classification import classification_report
from brainvq.reports.html import write_report
from brainvq.tasks.names import inputs, stem_of
from brainvq.tasks.samples import codebook_of
from brainvq.tasks.slices.steps import picture_steps
from brainvq.training import classify as training
from brainvq.training.augment import Augment

logger = logging.getLogger("brainvq")


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Samples with classes.

    Attributes:
        samples: as `brainvq.training.classify.cross_validate` takes them.
        failures: list of str, scans that could not be read, and why; and remarks on others.
        simulated: whether the brains are simulated.
    """

    samples: training.Samples
    failures: list
    simulated: bool


def classify(trained, options, log):
    """Cross-validates classifiers on frozen codes, and keeps one trained on everybody.

    Args:
        trained: `brainvq.tasks.trained.Trained` of a study of slices.
        options: `brainvq.options.verbs.Classify`.
        log: `logging.Logger`.
    """
    given = labelled(trained, options)
    samples = given.samples
    folds = [
        evaluation.subject_folds(
            samples.subjects, samples.labels, options.folds, options.seed + repeat
        )
        for repeat in range(options.repeats)
    ]
    if folds[0].note:
        log.info("%s", folds[0].note)
    methods = options.methods
    if samples.read is None:
        methods = [name for name in methods if name in ("codes", "linear codes")]
    settings = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(training.ClassifierSettings)
    } | {"augment": Augment(**vars(options.augment))}
    result = training.cross_validate(
        samples, [fold.fold for fold in folds], methods=methods, model=trained.model, **settings
    )
    measured = report(trained, options, given, folds[0], result)
    log.info(
        "%d subjects, classes %s; area under the ROC curve:\n%s",
        len(result.subjects),
        ", ".join(result.classes),
        areas(measured, result).round(3).to_string(),
    )
    if options.keep is not None and (samples.read is not None or options.keep == "codes"):
        file = options.out / "classifier.keras"
        training.train_final(samples, options.keep, file, model=trained.model, **settings)
    log.info("tables, figures and report.html in %s", options.out)


def report(trained, options, given, folds, result):
    """Writes `subjects.tsv`, `measures.csv`, figures and `report.html`; returns the measures.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        options: `brainvq.options.verbs.Classify`.
        given: `Labelled`.
        folds: folds of the first cross-validation, of `brainvq.evaluation.subject_folds`.
        result: what `brainvq.training.classify.cross_validate` returned.
    """
    table = result.table()
    whose = [f"sub-{label(str(name).removeprefix('sub-'))}" for name in table["subject"]]
    write_tsv(options.out / "subjects.tsv", table.assign(participant_id=whose))
    measured = evaluation.compare_methods(
        result.labels, result.probabilities, level=options.confidence, seed=options.seed
    )
    write_csv(options.out / "measures.csv", measured)
    page = classification_report(
        result.labels,
        result.probabilities,
        result.classes,
        options.out,
        subjects=result.subjects,
        target=options.labels or f"the sub-folders of {options.images}",
        source=trained.description,
        folds=folds.count,
        seconds=result.seconds,
        parameters=result.parameters,
        notes=[line for line in (folds.note, *given.failures) if line],
        simulated=given.simulated,
        level=options.confidence,
        seed=options.seed,
        footer=f"brainvq {trained.about['brainvq']}",
    )
    write_report(options.out / "report.html", page)
    return measured


def areas(measured, result):
    """Area under the ROC curve of each method, with the ends of its interval."""
    wide = measured.pivot(index="method", columns="measure", values=["value", "low", "high"])
    return wide.loc[list(result.probabilities), [(k, "auroc") for k in ("value", "low", "high")]]


def labelled(trained, options):
    """Samples with classes from scans, code files or pictures.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        options: `brainvq.options.verbs.Classify`.

    Returns:
        A `Labelled`.

    Raises:
        UserError: the options name several of those, or no classes.
    """
    given = [bool(options.scans), bool(options.codes), bool(options.images)]
    if sum(given) > 1:
        raise UserError("classify: found several of SCANS, --codes, --images; expected one")
    if bool(options.labels) == bool(options.images):
        raise UserError(
            "--labels: expected FILE:COLUMN with scans and --codes, and none with --images"
        )
    if options.codes:
        codebook = codebook_of(trained.model.bottleneck)
        samples = training.samples_from_files(options.codes, options.labels, codebook)
        return Labelled(samples, [], comes_from_simulation(Path(options.labels)))
    if options.images:
        cohort = data.open_cohort("images", options.images)
        labels = dict(zip(cohort.table["subject"], cohort.table["group"], strict=True))
        return _prepared(cohort, picture_steps(trained.study.data.size), labels, options, False)
    folder = Path(options.labels.rsplit(":", 1)[0]).parent
    wanted = options.wanted(trained.study)
    cohort = scans_as_cohort(options.scans or [folder], trained, **wanted)
    simulated = all(comes_from_simulation(Path(paths[0])) for paths in cohort.table["paths"])
    steps = [
        dataclasses.replace(step, count=options.slices)
        if isinstance(step, data.SelectSlices)
        else step
        for step in data.steps_from_config(trained.steps)
    ]
    labels = training.read_labels(options.labels, cohort.subjects)
    cohort = data.Cohort(cohort.name, cohort.table[cohort.table["subject"].isin(labels.index)])
    return _prepared(cohort, steps, labels, options, simulated, trained.usual)


def _prepared(cohort, steps, labels, options, simulated, usual=None):
    store = data.prepare(cohort, steps, options.cache, layout="slices")
    failures = [f"{scan}: {why}" for scan, why in store.failures.itertuples(index=False)]
    words = {} if simulated else contrast_words(store.looks, usual, RUN)
    for line in summary(words):
        logger.warning("%s", line)
    failures += [*summary(store.remarks), *summary(words)]
    subjects = store.table["subject"].astype(str)
    samples = training.labelled_samples(subjects, labels, read=store.read)
    return Labelled(samples, failures, simulated)


def scans_as_cohort(names, trained, **wanted):
    """Scan files as a cohort; of several contrasts in a BIDS folder that of the model."""
    paths = scan_paths(names, **wanted)
    suffix = "_" + trained.study.data.suffix
    given = inputs([path for path in paths if stem_of(path).endswith(suffix)] or paths)
    table = pd.DataFrame(
        {
            "scan_id": [one.name for one in given.values()],
            "subject": [one.subject for one in given.values()],
            "session": [one.name if one.name != one.subject else "" for one in given.values()],
            "modality": suffix[1:],
            "paths": [(str(path),) for path in given],
        }
    )
    return data.Cohort("scans", table)
