"""A run: how its folder is made, what it starts from, and the stages of its training."""

import logging
import shlex

from brainvq.app import settle_keras, together
from brainvq.errors import UserError
from brainvq.options import comparable, to_dict

logger = logging.getLogger("brainvq")


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


def train_run(run, prog, strategy=None):
    """Runs every stage that the run's folder does not hold yet.

    Args:
        run: a `LoadedRun`.
        prog: str, the program without its options.
        strategy: how several devices train; see `brainvq.training.devices`.

    Raises:
        UserError: another process is at it.
    """
    with together.all_alive(strategy, run, prog):
        if together.leads(strategy):
            _train_run(run, prog, strategy)
        else:
            together.follow(run, strategy)


def _train_run(run, prog, strategy):
    from brainvq.files import DISK_FULL
    from brainvq.training.runs import Clock

    clock = Clock(run.file("timings.json"))
    try:
        with run.folder.lock():
            _train_stages(run, clock, strategy)
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


def _train_stages(run, clock, strategy):
    import keras

    from brainvq.app import measure, stages
    from brainvq.app.index import index_runs
    from brainvq.files import write_json
    from brainvq.training.devices import all_devices
    from brainvq.training.fit import duration
    from brainvq.training.runs import SMOKE
    from brainvq.training.tracking import tracker_of

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
    together.meet(strategy)
    with tracker_of(run.folder) as run.tracker:
        with clock("autoencoder"), all_devices(strategy, run.study.train.batch_size):
            run.model = stages.train_autoencoder(run)
        if run.model.num_codes:
            with clock("codes"):
                run.codes = stages.encode(run)
        together.meet(strategy)
        if run.study.has_prior:
            with clock("prior"), all_devices(strategy, *run.study.prior.batches):
                run.prior = stages.train_prior(run)
        with clock("measures"):
            measure.measure_run(run)
        run.tracker.finish(run.metrics())
    with clock("report"):
        measure.report_run(run)
    del store
    write_json(run.file("finished.json"), {"seconds": clock.total()})
    index_runs(run.path.parent)
    together.meet(strategy)
    log.info("done in %s: open %s", duration(clock.total()), run.file("report.html"))


def new_run(study, command, prog, name=None, smoke=False, track=None):
    """Makes the folder of a new run; nothing is on disk until all that can be checked is checked.

    Args:
        study: a `brainvq.options.Study`.
        command: str, what the user typed.
        prog: str, the program without its options.
        name: str, of the folder; by default made of study, variant and time.
        smoke: whether it is the seconds-long form, whose results mean nothing.
        track: str, where measures are sent to: see `brainvq.training.tracking`. None for nowhere.

    Returns:
        A `LoadedRun`.
    """
    start = start_of(study, prog)
    import keras

    from brainvq.app import precision, stages
    from brainvq.data import steps_to_config
    from brainvq.tasks import of
    from brainvq.tasks.run import LoadedRun, keep_cohort
    from brainvq.training.runs import RunFolder
    from brainvq.training.tracking import check_tracker

    settle_keras()
    if track is not None:
        check_tracker(track)
    study = precision.settled(study)
    model = stages.try_networks(study)
    start = stages.check_pretrained(study, model) if start is None else start.path
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
        content["start"] = str(start.resolve())
    if smoke:
        content["smoke"] = True
    if track is not None:
        content["track"] = track
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
