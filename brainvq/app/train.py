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
    {prog} --track wandb                                send measures to Weights & Biases,
                                                            or mlflow, too
    {prog} --strategy mirrored                          train on all GPUs of the machine; batch
                                                            sizes are those of all together
    {prog} --strategy multiworker                       the same over several machines: typed on
                                                            each, in the same folder of a shared
                                                            disk, with its TF_CONFIG

The run's folder, runs/STUDY-VARIANT-TIME or runs/NAME with `--name NAME`, holds model, prior, every
measure and report.html. Press Ctrl-C, or pull the plug: `--resume` goes on from the last whole
epoch.
"""

import shlex

from brainvq import studies
from brainvq.app.several import train_several
from brainvq.app.single import new_run, train_run
from brainvq.app.together import agreed
from brainvq.errors import UserError
from brainvq.options import take_option, take_options

STRATEGIES = ("mirrored", "multiworker")


def main(arguments, prog):
    """Trains what the command line asks for: one run, or several variants and seeds."""
    strategy, arguments = take_option(arguments, "--strategy")
    if strategy not in (None, *STRATEGIES):
        raise UserError(f"--strategy: found {strategy!r}; expected {' or '.join(STRATEGIES)}")
    variants, rest = take_option(arguments, "--variants")
    seeds, rest = take_options(rest, "--seeds")
    if variants is not None or seeds is not None:
        return train_several(variants, seeds, rest, prog, _help(prog), strategy)
    return train_run(agreed(strategy, lambda: open_run(arguments, prog)), prog, strategy)


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
    track, rest = take_option(rest, "--track")
    study = studies.parse(rest, prog, _help(prog))
    command = shlex.join([*prog.split(), *arguments])
    return new_run(study, command, prog, name=name, smoke="--smoke" in rest, track=track)


def _latest(runs="runs"):
    """The newest run in `runs` that was stopped."""
    from brainvq.training.runs import RunFolder

    run = RunFolder.newest(runs, having="study.json", without="finished.json")
    if run is None:
        raise UserError(
            f"--resume latest: found no stopped run in {runs}; expected one, or the folder of a run"
        )
    return run.path


def _help(prog):
    return __doc__.replace("{prog}", prog)
