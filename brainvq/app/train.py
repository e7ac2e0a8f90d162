"""Train a study from files on disk to new brains, tables, figures and a report.

    {prog}                                              the demo, on simulated brains
    {prog} oasis2d --data.source bids --data.root DIR   on your own scans
    {prog} oasis2d --variant paper                      the network of the paper
    {prog} som3d --variants all                         one variant after the other, each
                                                            after what it starts from; done
                                                            ones are skipped, stopped ones
                                                            go on
    {prog} --resume RUN                                 go on with a run that was stopped

The run's folder, runs/STUDY-VARIANT-TIME, holds model, prior, every measure and report.html. Press
Ctrl-C, or pull the plug: `--resume` goes on from the last whole epoch.
"""

import logging
import shlex
from pathlib import Path

from brainvq import studies
from brainvq.app import settle_keras, typed
from brainvq.errors import UserError
from brainvq.options import comparable, effective, take_option, to_dict

logger = logging.getLogger("brainvq")


def main(arguments, prog):
    """Trains what the command line asks for: one run, or several variants."""
    variants, rest = take_option(arguments, "--variants")
    if variants is not None:
        return train_variants(variants, rest, prog)
    return train_run(open_run(arguments, prog), prog)


def train_variants(names, arguments, prog):
    """Trains variants of a study in the order of their dependencies; what is done is skipped."""
    _, rest = take_option(arguments, "--variant")
    if len(rest) < len(arguments):
        raise UserError("--variant: found beside --variants; expected one of them")
    name = rest[0] if rest and not rest[0].startswith("-") else studies.DEFAULT_STUDY
    known = studies.variants_in_order(name)
    chosen = known if names == "all" else names.split(",")
    for variant in chosen:
        if variant not in known:
            raise UserError(
                f"--variants: found {variant!r}; expected all, or some of {','.join(known)}"
            )
    # Before the first is trained: a mistake in the options is none of the last variant alone.
    chosen = [variant for variant in known if variant in chosen]
    wanted = _parse_variants(chosen, rest, prog)
    from brainvq.training.runs import start_log

    log, finished = start_log(), []
    for variant, study in wanted.items():
        command = shlex.join([*prog.split(), *rest, "--variant", variant])
        run = run_of(study) or new_run(study, command, prog)
        if run.has("finished.json"):
            log.info("%s %s: done, in %s", study.name, variant, run.path)
        else:
            train_run(run, prog)
            _forget_models()
        finished.append(str(run.path))
    log.info("compare them: %s %s", typed("compare", prog), shlex.join(finished))


def _parse_variants(chosen, words, prog):
    """The study of each variant; an option that none of them has a use for is refused."""
    wanted, unused = {}, {}
    for variant in chosen:
        unused[variant] = {}
        words_of_one = [*words, "--variant", variant]
        wanted[variant] = studies.parse(words_of_one, prog, _help(prog), unused[variant])
    for path, message in unused[chosen[0]].items():
        if all(path in others for others in unused.values()):
            raise UserError(message)
    return wanted


def _forget_models():
    """What one variant leaves in memory should not add up over the table."""
    import keras

    keras.utils.clear_session(free_memory=True)


def runs_of(study, variant):
    """The runs of a variant beside where a study's own go, the newest first; others are skipped."""
    from brainvq.tasks.run import LoadedRun

    for path in sorted(Path(study.runs).glob(f"{study.name}-{variant}-*"), reverse=True):
        try:
            yield LoadedRun.open(path)
        except UserError:
            continue  # a folder of another version, or no run at all


def run_of(study):
    """The newest run with just these settings, finished or not; None where there is none."""
    same = (
        run for run in runs_of(study, study.variant) if effective(run.study) == effective(study)
    )
    return next(same, None)


def train_run(run, prog):
    """Runs every stage that the run's folder does not hold yet.

    Raises:
        UserError: another process is at it.
    """
    from brainvq.files import DISK_FULL
    from brainvq.training.runs import Clock

    clock = Clock(run.file("timings.json"))
    try:
        with run.folder.lock():
            _train_stages(run, prog, clock)
    except (KeyboardInterrupt, OSError) as stop:
        saved = f"Saved: {run.folder.saved()}."
        hint = f"Go on with: {prog} --resume {shlex.quote(str(run.path))}"
        if isinstance(stop, KeyboardInterrupt):
            logger.info("stopped. %s", saved)
            raise KeyboardInterrupt(f"{saved} {hint}") from stop
        if stop.errno not in DISK_FULL:
            raise
        raise UserError(
            f"{stop.filename or run.path}: {stop.strerror}, at the stage {clock.stage}; expected "
            f"a disk with room. {saved} {hint}"
        ) from stop


def _train_stages(run, prog, clock):
    import keras

    from brainvq.app import measure, stages
    from brainvq.files import write_json
    from brainvq.training.fit import duration

    settle_keras()
    log = run.folder.log_to_file()
    log.info("run %s (Keras %s on %s)", run.path, keras.__version__, keras.backend.backend())
    with clock("data"):
        store = run.store
    log.info("%s", run.scans.describe())
    if run.simulated:
        log.info("these data are simulated; use --data.source for real scans")
    with clock("autoencoder"):
        run.model = stages.train_autoencoder(run)
    if run.model.num_codes:
        with clock("codes"):
            run.codes = stages.encode(run)
    if run.study.has_prior:
        with clock("prior"):
            run.prior = stages.train_prior(run)
    with clock("measures"):
        measure.measure_run(run)
    with clock("report"):
        measure.report_run(run)
    del store
    write_json(run.file("finished.json"), {"seconds": clock.total()})
    log.info("done in %s: open %s", duration(clock.total()), run.file("report.html"))


def open_run(arguments, prog):
    """The run to go on with, or a new one: a `LoadedRun`."""
    resume, rest = take_option(arguments, "--resume")
    if resume is not None:
        root, rest = take_option(rest, "--data.root")
        if rest:
            raise UserError(
                f"--resume: found other options ({' '.join(rest)}); expected --resume RUN alone, "
                "or with --data.root where the data were moved, because a run goes on with the "
                "settings it began with"
            )
        from brainvq.tasks.run import LoadedRun

        run = LoadedRun.open(resume)
        return run if root is None else run.with_root(root)
    study = studies.parse(arguments, prog, _help(prog))
    return new_run(study, shlex.join([*prog.split(), *arguments]), prog)


def new_run(study, command, prog):
    """Makes the folder of a new run; nothing is on disk until all that can be checked is checked.

    Args:
        study: a `brainvq.options.Study`.
        command: str, what the user typed.
        prog: str, the program without its options.

    Returns:
        A `LoadedRun`.
    """
    start = start_of(study, prog)
    import keras

    from brainvq.app import stages
    from brainvq.data import steps_to_config
    from brainvq.tasks import of
    from brainvq.tasks.run import LoadedRun, keep_cohort
    from brainvq.training.runs import RunFolder

    settle_keras()
    stages.try_networks(study)
    task = of(study)
    scans = task.cohort(study)
    task.check_cohort(study, scans)
    content = {
        "study": to_dict(study),
        "steps": steps_to_config(task.steps(study)),
        "command": command,
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
    }
    if start is not None:
        content["start"] = str(start.path.resolve())
    folder = RunFolder.create(study.runs, study.name, study.variant, content)
    keep_cohort(scans, folder)
    return LoadedRun(folder, study)


def start_of(study, prog):
    """The trained run that a variant starts from, or None where it starts from nothing."""
    wanted, chosen = study.model.start, study.train.start_run
    if wanted is None:
        return None
    from brainvq.tasks.run import LoadedRun

    candidates = runs_of(study, wanted) if chosen is None else [LoadedRun.open(chosen)]
    for run in candidates:
        other = run.study
        # Another split would have shown it the subjects that this run is tested on.
        same = (
            comparable(other.data) == comparable(study.data)
            and other.seed == study.seed
            and other.model.network.filters == study.model.network.filters
        )
        if same and other.variant == wanted and run.has("model.keras"):
            return run
    if chosen is not None:
        raise UserError(
            f"--train.start-run: found {chosen}, of other data, split or filters, or not trained; "
            "expected a trained run on the same data"
        )
    raise UserError(
        f"--variant {study.variant}: found no trained run of {wanted} on these data in "
        f"{study.runs}; expected one: {prog} {study.name} --variant {wanted}, or "
        f"--variants {wanted},{study.variant}"
    )


def _help(prog):
    return __doc__.replace("{prog}", prog)
