"""From words of a command line to dataclasses of options; a mistake is one line."""

import contextlib
import inspect
import io
import re

import tyro

from brainvq.errors import UserError


def take_option(arguments, option, default=None):
    """Takes `option VALUE` or `option=VALUE` out of a list; returns (value, the other words)."""
    rest = list(arguments)
    for place, word in enumerate(rest):
        if word == option:
            if place + 1 == len(rest) or rest[place + 1].startswith("--"):
                raise UserError(f"{option}: no value found; expected {option} VALUE")
            return rest[place + 1], rest[:place] + rest[place + 2 :]
        if word.startswith(option + "="):
            return word.split("=", 1)[1], rest[:place] + rest[place + 1 :]
    return default, rest


def take_options(arguments, option):
    """Takes `option VALUE VALUE ...` out of a list; returns (values or None, the other words)."""
    if option not in arguments:
        value, rest = take_option(arguments, option)
        return (None if value is None else value.split()), rest
    place = arguments.index(option)
    end = place + 1
    while end < len(arguments) and not arguments[end].startswith("-"):
        end += 1
    if end == place + 1:
        raise UserError(f"{option}: no value found; expected {option} VALUE ...")
    return list(arguments[place + 1 : end]), [*arguments[:place], *arguments[end:]]


def parse_fields(default, arguments, prog, description):
    """Reads `--field value ...` of a dataclass of options.

    Args:
        default: the dataclass with the values that hold where no option is given; what its fields
            may be is taken from their values.
        arguments: list of str.
        prog: name of the program, for the help.
        description: first lines of the help.

    Returns:
        The dataclass with the options applied.

    Raises:
        UserError: an unknown option or a value of the wrong kind, in one line.
    """
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(
                type(default),
                args=arguments,
                default=default,
                prog=prog,
                description=inspect.cleandoc(description),
                # A group of options has the type of its default: the others do not exist.
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_one_line(messages.getvalue())} (see {prog} --help)") from None


def _one_line(message):
    """What tyro says of a mistake, without its frames and hints."""
    lines = [re.sub(r"[╭╮╰╯│─]+", " ", line).strip() for line in message.split("\n")]
    text = " ".join(line for line in lines[1:] if line).split(" Argument helptext:")[0]
    text = re.sub(r"Perhaps you meant: (--[\w.-]+).*", r"perhaps you meant \1", text)
    return text.split(" For full helptext")[0]
