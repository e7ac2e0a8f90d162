"""Use a trained study: new brains, reconstructions, codes, maps of codes.

    {prog} [RUN] [VERB] [options]
    {prog} [RUN] VERB --help                     all options of a verb

RUN is the folder of a run, the name of a preset or hf://USER/NAME, a model on Hugging Face; without
it the newest finished run in runs/ that is no smoke run, or the preset oasis2d. VERB is sample
where none is given. SCANS are NIfTI files or folders of them. Results are BIDS derivatives.

A run of slices (oasis2d, ixi2d) or of volumes (som3d; all but classify and anomaly):

    sample [-n 64]              new brains from the prior
    reconstruct SCANS...        NIfTI on each scan's own grid, SSIM, picture
    encode SCANS...             SUBJECT.npy: codes; their vectors; a table
    decode CODES.npy            back to slices or volumes, and to NIfTI where the scan is known
    map SCANS...                the code of every voxel as NIfTI; of a self-organising map row and
                                column too
    classify --labels participants.tsv:COLUMN [SCANS...]
                                classifiers on codes, beside others
    classify --images DIR       the same on pictures, a sub-folder a class
    anomaly SCANS... [--masks MASKS...] [--healthy SCANS...]
                                maps of what is unlike a healthy brain
    export                      a small folder of weights to hand on

A run of bundles (streamlines); TRACTS are .trk, .tck or .trx files or folders of them:

    sample [--bundle MCP ...] [-n 4]
                                new bundles, each a .trk in mm
    reconstruct TRACTS...       tractograms in the format, space, order and direction of the files,
                                BUAN, picture
    encode TRACTS...            NAME.npy: codes; codebook; a table
    decode CODES.npy            back to tractograms
    perturb TRACTS... [--epsilon 0.1 0.5 1.0]
                                what noise on the latents does, BUAN
    export                      a small folder of weights to hand on

A run of vectors (introvae3d), which makes one vector of a volume, without codes; volumes that
belong to no scan are written in the space of the template, MNI, as NIfTI:

    sample [-n 8] [--temperature 1.0]
                                new volumes, their latents.npy, picture
    traverse [SCAN] [--dimensions 3 17 ...] [--values -3 0 3]
                                volumes while one number of the vector changes, of a scan or of
                                zeros: 4D NIfTI, picture
    interpolate SCAN SCAN [--steps 7] [--spherical]
                                volumes on the way from one scan to another
    decode VECTORS.npy          vectors to volumes
    encode SCANS...             NAME.npy: the vector; latents.tsv
    reconstruct SCANS...        NIfTI on each scan's own grid, SSIM, picture
    export                      a small folder of weights to hand on
"""

import dataclasses
import inspect
from pathlib import Path

from brainvq.app import settle_keras
from brainvq.data.derivatives import check_folder
from brainvq.errors import UserError
from brainvq.options import check, from_dict, parse_fields
from brainvq.options.verbs import NAMES, SUMMARIES, options_of_verb, refuse_others
from brainvq.training.runs import SMOKE, RunFolder, start_log
from brainvq.training.shipped import open_run

HELP = {"-h", "--help"}


def main(arguments, prog="brainvq predict"):
    """Does what the command line says with a run.

    Args:
        arguments: list of str, `[RUN] [VERB] [option ...]`.
        prog: name of the program, for the help.

    Raises:
        UserError: a mistake on the command line or in a file.
    """
    name, verb, words = split(arguments)
    if verb is None and HELP & set(words):
        print(__doc__.replace("{prog}", prog).strip())
        raise SystemExit(0)
    verb = verb or "sample"
    folder, chosen = newest() if name is None else (open_run(name), "")
    options = parse(folder, verb, words, prog)
    from brainvq.tasks.trained import load  # Keras comes with it, which takes seconds

    settle_keras()
    trained = load(folder.path)
    log = start_log()
    log.info("using %s (%s)%s", trained.path, trained.description, chosen)
    if folder.smoke:
        log.warning("%s: %s", trained.path, SMOKE)
    action(trained, verb)(trained, options, log)
    if verb != "export":
        trained.results(options.out).describe(verb)


def split(arguments):
    """The words of a command line as run, verb and options.

    Args:
        arguments: list of str.

    Returns:
        (name of the run or None, verb or None, list of the other words).

    Raises:
        UserError: the word behind the run is no verb.
    """
    words, name = list(arguments), None
    if words and not words[0].startswith("-") and words[0] not in NAMES:
        name = words.pop(0)
    if not words or words[0].startswith("-"):
        return name, None, words
    if words[0] not in NAMES:
        raise UserError(f"verb: found {words[0]!r}; expected one of {', '.join(NAMES)}")
    return name, words[0], words[1:]


def newest():
    """The newest finished run in `runs`, or the weights that come with brainvq, and why."""
    run = RunFolder.newest("runs")
    if run is None:
        return open_run("oasis2d"), ": the weights of brainvq, because runs has no finished run"
    return run, ": the newest finished run; name oasis2d for the weights of brainvq"


def parse(folder, verb, words, prog):
    """The options of a verb for a run, `out` as a `pathlib.Path`.

    Args:
        folder: `RunFolder`.
        verb: str, name of the verb.
        words: list of str, the options as they were given.
        prog: name of the program, for the help.

    Returns:
        A dataclass of `brainvq.options.verbs`.

    Raises:
        UserError: the run has no such verb or option, or a value is none.
    """
    study = from_dict(folder.study.get("study") or {})
    cls = options_of_verb(verb, study, folder.path)
    if not HELP & set(words):
        refuse_others(words, verb, study, folder.path)
    text = SUMMARIES.get(verb) or inspect.cleandoc(cls.__doc__)
    options = check(parse_fields(cls.of(study), words, f"{prog} [RUN] {verb}", text))
    options.check_for(study)
    out = Path(options.out or Path("predictions") / verb)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: found {out}, which is a file; expected a folder")
    if verb != "export":
        check_folder(out)
    return dataclasses.replace(options, out=out)


def action(trained, verb):
    """The function of (`Trained`, options, log) that does a verb."""
    from brainvq.app import anomaly, classify, loops

    everywhere = {
        "reconstruct": loops.reconstruct,
        "encode": loops.encode,
        "decode": loops.decode,
        "classify": classify.classify,
        "anomaly": anomaly.anomaly,
        "export": export,
    }
    return everywhere.get(verb) or trained.task.samples.verbs[verb]


def export(trained, options, log):
    """Writes the run as a small folder that `brainvq.load` takes."""
    from brainvq.tasks.trained import export as write

    write(trained, options.out)
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    log.info("%s: %.1f MB, brainvq.load(%r) reads it", options.out, size, str(options.out))
