"""Several runs by one command: variants of a study, seeds, and a table of what differs."""

import functools
import shlex

from brainvq import studies
from brainvq.app import precision, single, together, typed
from brainvq.errors import UserError
from brainvq.options import effective, take_option


def train_several(names, seeds, arguments, prog, description, strategy=None):
    """Trains variants of a study in the order of their dependencies, with each seed.

    What is done is skipped, and what was stopped goes on.

    Args:
        names: "all", or names of variants with commas between; None for that of `arguments`.
        seeds: list of str, numbers; None for that of `arguments`.
        arguments: list of str, the other words of the command line.
        prog: str, the program without its options.
        description: str, what `--help` begins with.
        strategy: how several devices train; see `brainvq.training.devices`.

    Raises:
        UserError: a mistake in the options.
    """
    track, arguments = take_option(arguments, "--track")
    chosen, rest = _chosen(names, arguments)
    # Before the first is trained: a mistake in the options is none of the last run alone.
    wanted = _parsed(chosen, _seeds(seeds, rest), rest, prog, description)
    from brainvq.training.runs import start_log

    log, finished = start_log(), []
    for words, study in wanted:
        run = together.agreed(strategy, functools.partial(_run, study, words, prog, track))
        if run.has("finished.json"):
            log.info("%s %s: done, in %s", study.name, study.variant, run.path)
        else:
            single.train_run(run, prog, strategy)
            _forget_models()
        finished.append(run)
    paths = shlex.join(str(run.path) for run in finished)
    log.info("compare them: %s %s", typed("compare", prog), paths)
    if seeds is not None and together.leads(strategy):
        write_seeds(finished, log)


def _run(study, words, prog, track):
    """The run of these settings that there is, or a new one."""
    study = precision.settled(study)  # what is done is found by what was chosen
    command, smoke = shlex.join([*prog.split(), *words]), "--smoke" in words
    return run_of(study) or single.new_run(study, command, prog, smoke=smoke, track=track)


def _chosen(names, arguments):
    """The variants in order, and the words without them."""
    for word in ("--name", "--resume"):
        if take_option(arguments, word)[0] is not None:
            raise UserError(f"{word}: found beside --variants or --seeds; expected one run alone")
    variant, rest = take_option(arguments, "--variant")
    if variant is not None and names is not None:
        raise UserError("--variant: found beside --variants; expected one of them")
    name = rest[0] if rest and not rest[0].startswith("-") else studies.DEFAULT_STUDY
    known = studies.variants_in_order(name)
    if names is None:
        names = variant or studies.DEFAULT_VARIANT
    chosen = known if names == "all" else names.split(",")
    for variant in chosen:
        if variant not in known:
            raise UserError(
                f"--variants: found {variant!r}; expected all, or some of {','.join(known)}"
            )
    return [variant for variant in known if variant in chosen], rest


def _seeds(seeds, words):
    """Seeds as they are typed, each once; [None] where there is none."""
    if seeds is None:
        return [None]
    if take_option(words, "--seed")[0] is not None:
        raise UserError("--seed: found beside --seeds; expected one of them")
    for seed in seeds:
        if not seed.isdecimal():
            raise UserError(f"--seeds: found {seed!r}; expected whole numbers from 0")
    if len(set(seeds)) < max(len(seeds), 2):
        raise UserError(f"--seeds: found {' '.join(seeds)}; expected two or more different ones")
    return seeds


def _parsed(variants, seeds, words, prog, description):
    """(words, study) of each run; an option that none of them has a use for is refused."""
    wanted, unused = [], []
    for seed in seeds:
        for variant in variants:
            told = [*words, "--variant", variant]
            told += [] if seed is None else ["--seed", seed]
            unused.append({})
            wanted.append((told, studies.parse(told, prog, description, unused[-1])))
    for path, message in unused[0].items():
        if all(path in others for others in unused):
            raise UserError(message)
    return wanted


def _forget_models():
    """What one run leaves in memory should not add up over the table."""
    import keras

    keras.utils.clear_session(free_memory=True)


def run_of(study):
    """The newest run with just these settings, finished or not; None where there is none."""
    same = (
        run
        for run in single.runs_of(study, study.variant)
        if effective(run.study) == effective(study)
    )
    return next(same, None)


def write_seeds(trained, log):
    """Writes `seeds.csv` beside the runs: each measure's mean and sd over seeds.

    With several variants also the difference of each from the first on the same seeds, with a 95 %
    interval of Student's t: seeds draw splits as well as weights, so only pairs can be compared.

    Args:
        trained: list of `LoadedRun`, all variants with each seed.
        log: a `logging.Logger`.
    """
    from brainvq.evaluation.seeds import seed_table
    from brainvq.files import write_csv

    rows = [(run.study.variant, run.study.seed, run.metrics()) for run in trained]
    table = seed_table(rows)
    path = trained[0].path.parent / f"seeds-{trained[0].study.name}.csv"
    write_csv(path, table)
    shown = table[table["measure"].isin(("reconstruction ssim", "prior bits_per_code"))]
    log.info("%s", (shown if len(shown) else table.head(12)).round(4).to_string(index=False))
    log.info("mean and sd over seeds of every measure: %s", path)
