"""What every group of options has in common: ranges, conditions, and the names on the command line.

A group is a frozen dataclass. `option` gives a field its default, its range and, where it counts
under a condition only, that condition; `check` holds a study to the ranges, `check_conditions`
refuses what was given and would not be used.
"""

import dataclasses
from typing import Any

import tyro

from brainvq.errors import UserError

# A group whose options stand among those of the group around it: `--model.filters`.
Flat = tyro.conf.arg(name="")


def option(
    default: Any,
    *,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    used=None,
    only: str = "",
):
    """A field of a group of options.

    Args:
        default: value where none is given.
        above: what a number (or each of several) must exceed.
        minimum: the smallest value that it may have.
        maximum: the largest.
        used: function of a `Study` → whether the option has an effect; by default it always has.
        only: what the option is used with, in words, such as "--data.source simulated".

    Returns:
        A `dataclasses.field`.
    """
    metadata = {
        "above": above,
        "minimum": minimum,
        "maximum": maximum,
        "used": used,
        "only": only,
    }
    return dataclasses.field(default=default, metadata=metadata)


def group(default, flat=False):
    """A field that is a group of options itself.

    Args:
        default: the group.
        flat: whether its options stand among those of the group around it.
    """
    return dataclasses.field(default_factory=lambda: default, metadata={"flat": flat})


def options_of(options, prefix=""):
    """Every single option of a group and of the groups in it.

    Args:
        options: a dataclass of options.
        prefix: path of the group, such as "model.".

    Yields:
        (path, `dataclasses.Field`, value), the path as on the command line: "data.slice-spacing".
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        path = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from options_of(value, prefix if field.metadata.get("flat") else f"{path}.")
        else:
            yield path, field, value


def groups_of(options):
    """A group of options and all groups in it, the outermost first."""
    yield options
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from groups_of(value)


def check(study):
    """Holds a study to the ranges of its options, and each group to what its options must share.

    Args:
        study: a `Study`.

    Returns:
        The study.

    Raises:
        UserError: an option is out of its range, or does not go with another.
    """
    for path, field, value in options_of(study):
        _check_range(path, field.metadata, value)
    for options in groups_of(study):
        if hasattr(options, "check"):
            options.check(study)
    return study


def _check_range(path, limits, value):
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int | float):
            continue
        above, low, high = (limits.get(key) for key in ("above", "minimum", "maximum"))
        if (
            (above is None or number > above)
            and (low is None or number >= low)
            and (high is None or number <= high)
        ):
            continue
        if high is None:
            expected = f"a number above {above}" if low is None else f"{low} or more"
        elif low is None:
            expected = f"a number above {above}, at most {high}"
        else:
            expected = f"a number from {low} to {high}"
        raise UserError(f"--{path}: found {number}; expected {expected}")


def check_conditions(study, preset):
    """Refuses options that were given and that would have no effect.

    Args:
        study: a `Study` with what the command line asks for.
        preset: the `Study` without it.

    Returns:
        The study.

    Raises:
        UserError: an option that is not used differs from the preset.
    """
    for message in unused_options(study, preset).values():
        raise UserError(message)
    return study


def unused_options(study, preset):
    """Options that differ from the preset and have no effect: dict of path to what to say of it."""
    before = {path: value for path, _, value in options_of(preset)}
    unused = {}
    for path, field, value in options_of(study):
        used = field.metadata.get("used")
        if used is not None and path in before and value != before[path] and not used(study):
            unused[path] = (
                f"--{path}: found {words(value)}; expected it with {field.metadata['only']} only"
            )
    return unused


def effective(study):
    """The study with the defaults of all options that it does not use; for comparing studies."""
    return _effective(study, study)


def _effective(options, study):
    values = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        used = field.metadata.get("used")
        if dataclasses.is_dataclass(value):
            values[field.name] = _effective(value, study)
        elif used is not None and not used(study):
            values[field.name] = field.default
    return dataclasses.replace(options, **values)


def words(value):
    """A value as it is written on the command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def with_values(cls, values):
    """A group of options that takes from a dict what it knows; the rest has its defaults."""
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in values.items() if name in names})


def switched(options, cls):
    """Another class in the place of a group; it takes over the options that both have."""
    return with_values(cls, vars(options))
