"""Train a study from files on disk to new brains, tables, figures and a report.

    {prog}                                              the demo, on simulated brains
    {prog} oasis2d --data.source bids --data.root DIR   on your own scans
    {prog} oasis2d --variant paper                      the network of the paper
    {prog} som3d --variants all                         one variant after the other, each
                                                            after what it starts from; done
                                                            ones are skipped, stopped ones
                                                            go on
    {prog} som3d --seeds 0 1 2                          a run for each seed, and a table of
                                                            means, sd and intervals; with
                                                            --variants of each of them
    {prog} --config study.json                          the settings of another run
    {prog} --resume RUN                                 go on with a run that was stopped;
                                                            --resume latest: the newest

The run's folder, runs/STUDY-VARIANT-TIME or runs/NAME with `--name NAME`, holds model, prior, every
measure and report.html. Press Ctrl-C, or pull the plug: `--resume` goes on from the last whole
epoch.
"""

import logging
import shlex

from brainvq import studies
from brainvq.app import settle_keras
from brainvq.app.several import train_several
from brainvq.errors import UserError
from brainvq.options import comparable, take_option, take_options, to_dict

logger = logging.getLogger("brainvq")


def main(arguments, prog):
    """Trains what the command line asks for: one run, or several variants and seeds."""
    variants, rest = take_option(arguments, "--variants")
    seeds, rest = take_options(rest, "--seeds")
    if variants is not None or seeds is not None:
        return train_several(variants, seeds, rest, prog)
    return train_run(open_run(arguments, prog), prog)


def runs_of(study, variant):
    """The runs of a variant beside where a study's own go, the newest first; others are skipped."""
    from brainvq.tasks.run import LoadedRun
    from brainvq.training.runs import RunFolder

    for folder in RunFolder.newest_first(study.runs):
        try:
            run = LoadedRun.open(folder.path)
        except UserError:
            continue  # of another version
        if (run.study.name, run.study.variant) == (study.name, variant):
            yield run


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
    from brainvq.training.runs import SMOKE

    settle_keras()
    log = run.folder.log_to_file()
    log.info("run %s (Keras %s on %s)", run.path, keras.__version__, keras.backend.backend())
    with clock("data"):
        store = run.store
    if run.folder.smoke:
        log.info("%s", SMOKE)
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

        run = LoadedRun.open(_latest() if resume == "latest" else resume)
        return run if root is None else run.with_root(root)
    name, rest = take_option(arguments, "--name")
    study = studies.parse(rest, prog, help_text(prog))
    command = shlex.join([*prog.split(), *arguments])
    return new_run(study, command, prog, name=name, smoke="--smoke" in rest)


def _latest(runs="runs"):
    """The newest run in `runs` that was stopped."""
    from brainvq.training.runs import RunFolder

    run = RunFolder.newest(runs, having="study.json", without="finished.json")
    if run is None:
        raise UserError(
            f"--resume latest: found no stopped run in {runs}; expected one, or the folder of a run"
        )
    return run.path


def new_run(study, command, prog, name=None, smoke=False):
    """Makes the folder of a new run; nothing is on disk until all that can be checked is checked.

    Args:
        study: a `brainvq.options.Study`.
        command: str, what the user typed.
        prog: str, the program without its options.
        name: str, of the folder; by default made of study, variant and time.
        smoke: whether it is the seconds-long form, whose results mean nothing.

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
    if smoke:
        content["smoke"] = True
    folder = RunFolder.create(study.runs, study.name, study.variant, content, name=name)
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


def help_text(prog):
    """What `--help` begins with."""
    return __doc__.replace("{prog}", prog)
