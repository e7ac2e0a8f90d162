"""The studies: a file each, with its paper, its variants, what was published and how to run it.

    STUDIES["oasis2d"]["paper"]        a preset, a `brainvq.options.Study`

A study is added by a file with `VARIANTS` (study → one line on it) and its name in the list below.
"""

import importlib

from brainvq.errors import UserError
from brainvq.files import read_settings
from brainvq.options import (
    check,
    check_conditions,
    from_dict,
    parse_fields,
    take_option,
    unused_options,
)

NAMES = ("oasis2d", "ixi2d", "som3d", "t1w3d", "introvae3d", "streamlines")
DEFAULT_STUDY = "oasis2d"
DEFAULT_VARIANT = "best"


def _variants(name):
    return importlib.import_module(f"brainvq.studies.{name}").VARIANTS


STUDIES = {name: {study.variant: study for study in _variants(name)} for name in NAMES}
SUMMARIES = {
    (name, study.variant): text for name in NAMES for study, text in _variants(name).items()
}


def parse(arguments, prog, description, unused=None):
    """Reads `[STUDY] [--variant NAME] [--smoke] [--field value ...]`.

    Args:
        arguments: list of str, the command line without the program's name.
        prog: name of the program, for the help.
        description: first lines of the help.
        unused: dict that takes the options without an effect, path to message, in place of an
            error: where options are for several variants, one of them may have no use for some.

    Returns:
        The chosen `Study` with the options applied.

    Raises:
        UserError: for an unknown study, variant or option, or a value of the wrong kind or range.
    """
    rest = list(arguments)
    wants_help = {"-h", "--help"} & set(rest)
    named = _named(rest)
    if wants_help and named is None:
        print(overview(prog, description))
        raise SystemExit(0)
    name = named or DEFAULT_STUDY
    file, rest = take_option(rest, "--config")
    if named is not None:
        rest.remove(named)  # the first; a later one is the value of an option
    if file is not None:
        preset, rest = configured(file, named, rest)
        name = preset.name
    else:
        preset, rest = choose(name, rest)
    summary = SUMMARIES.get((name, preset.variant), "")
    text = f"{summary}\n\n{_switches(preset)}"
    study = parse_fields(preset, rest, f"{prog} {name}", text)
    if unused is None:
        check_conditions(study, preset)
    else:
        unused |= unused_options(study, preset)
    return check(study)


def configured(file, name, arguments):
    """The preset that a file of settings holds: `study.json` of a run, or the same as YAML.

    Args:
        file: path of the file.
        name: name of the study, where it is given beside the file; None where not.
        arguments: list of str, options.

    Returns:
        (preset, the options that are left).

    Raises:
        UserError: the file cannot be read, is of another study, or `--variant`, `--model.network`
            or `--model.bottleneck` stand beside it, which a file says itself.
    """
    content = read_settings(file)
    preset = from_dict(content.get("study", content))
    if preset.name not in STUDIES or (name or preset.name) != preset.name:
        expected = name or f"one of {', '.join(STUDIES)}"
        raise UserError(f"--config {file}: found study {preset.name!r}; expected {expected}")
    for option in ("--variant", "--model.network", "--model.bottleneck"):
        if take_option(arguments, option)[0] is not None:
            raise UserError(f"{option}: found beside --config; expected one of them")
    smoke = "--smoke" in arguments
    rest = [word for word in arguments if word != "--smoke"]
    return (preset.smoke() if smoke else preset), rest


def choose(name, arguments):
    """The preset that `--variant`, `--smoke`, `--model.network` and `--model.bottleneck` name.

    Args:
        name: name of a study.
        arguments: list of str, options.

    Returns:
        (preset, the options that are left).
    """
    if name not in STUDIES:
        raise UserError(f"study: found {name!r}; expected one of {', '.join(STUDIES)}")
    variant, rest = take_option(arguments, "--variant", DEFAULT_VARIANT)
    if variant not in STUDIES[name]:
        raise UserError(f"--variant: found {variant!r}; expected one of {', '.join(STUDIES[name])}")
    network, rest = take_option(rest, "--model.network")
    bottleneck, rest = take_option(rest, "--model.bottleneck")
    preset = STUDIES[name][variant]
    if network is not None:
        preset = preset.with_network(network)
    if bottleneck is not None:
        preset = preset.with_bottleneck(bottleneck)
    if "--smoke" in rest:
        preset = preset.smoke()
    return preset, [word for word in rest if word != "--smoke"]


def _named(words):
    """The study that the words begin with, or that stands behind `--help`; None where none does."""
    words = [word for word in words if word not in ("-h", "--help")]
    return words[0] if words and not words[0].startswith("-") else None


def _switches(study):
    networks = " or ".join(study.networks)
    return (
        "  --variant NAME       another preset: " + ", ".join(STUDIES[study.name]) + "\n"
        f"  --model.network      {networks} (here {study.model.network.tag})\n"
        f"  --model.bottleneck   {', '.join(study.bottlenecks)}\n"
        "  --smoke              seconds instead of minutes; checks that everything runs, the "
        "results mean nothing\n"
        "  --config FILE        the settings of a study.json, or the same as YAML\n"
        "  --name NAME          name of the run's folder"
    )


def overview(prog, description):
    """Studies and variants, and where their options are listed; the help without a study."""
    lines = [
        description.strip(),
        "",
        f"Studies and their variants (default: {DEFAULT_STUDY} {DEFAULT_VARIANT}):",
    ]
    for name in STUDIES:
        lines += ["", f"{name}    options: {prog} {name} --help"]
        lines += [
            f"  --variant {variant:22}{SUMMARIES[name, variant]}" for variant in STUDIES[name]
        ]
    return "\n".join(lines)


def variants_in_order(name):
    """The variants of a study, each after the one it starts from, else in their order."""
    if name not in STUDIES:
        raise UserError(f"study: found {name!r}; expected one of {', '.join(STUDIES)}")
    ordered = []

    def add(variant):
        if variant is not None and variant not in ordered:
            add(STUDIES[name][variant].model.start)
            ordered.append(variant)

    for variant in STUDIES[name]:
        add(variant)
    return ordered
