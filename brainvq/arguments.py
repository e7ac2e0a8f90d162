"""Checks of numbers that a constructor is given; they refuse what would fail or mislead later."""

import math
import numbers


def whole(name: str, value, smallest: int = 1) -> int:
    """Returns an integer argument.

    Args:
        name: str, the argument's name.
        value: what was given; 8.0 is taken for 8, a bool for no number.
        smallest: int, the least value.

    Returns:
        Int.

    Raises:
        ValueError: if `value` is no whole number, or below `smallest`.
    """
    if not _is_finite(value) or value != int(value) or value < smallest:
        raise ValueError(
            f"`{name}` must be an integer, at least {smallest}. Received: {name}={value!r}"
        )
    return int(value)


def wholes(name: str, values, smallest: int = 1, *, least: int = 0) -> tuple[int, ...]:
    """Returns an argument of several integers, such as the channels of each level.

    Args:
        name: str, the argument's name.
        values: sequence of what `whole` takes.
        smallest: int, the least of each.
        least: int, how many there must be.

    Returns:
        Tuple of ints.

    Raises:
        ValueError: if `values` is no sequence, is too short, or one of them is no such integer.
    """
    return tuple(whole(name, value, smallest) for value in _several(name, values, least))


def shape_of(name: str, values) -> tuple[int | None, ...]:
    """Returns a shape without the batch: sizes, of which some may be unknown, and channels.

    Args:
        name: str, the argument's name.
        values: sequence of what `whole` takes, or None for a size of any number.

    Returns:
        Tuple of ints and None; the channels, the last, are an int.

    Raises:
        ValueError: if `values` is no such sequence.
    """
    *spatial, channels = _several(name, values, 1)
    spatial = [None if size is None else whole(name, size) for size in spatial]
    return (*spatial, whole(name, channels))


def seed_of(seed) -> int | None:
    """Returns the argument `seed`: an integer from 0 on, or None for another one each time.

    Raises:
        ValueError: if it is neither.
    """
    return None if seed is None else whole("seed", seed, 0)


def number(
    name: str, value, least: float = 0.0, most: float = math.inf, *, above=False, below=False
):
    """Returns a real argument, which is finite.

    Args:
        name: str, the argument's name.
        value: what was given; a bool is no number.
        least: float, the least value.
        most: float, the greatest value.
        above: bool, whether `value` must lie above `least` rather than be at least that.
        below: bool, whether `value` must lie below `most` rather than be at most that.

    Returns:
        Int or float.

    Raises:
        ValueError: if `value` is no number, not finite or out of the range.
    """
    fits = _is_finite(value) and least <= value <= most
    if not fits or (above and value == least) or (below and value == most):
        limits = f"{'above' if above else 'at least'} {least:g}"
        if most < math.inf:
            limits += f" and {'below' if below else 'at most'} {most:g}"
        raise ValueError(f"`{name}` must be {limits}. Received: {name}={value!r}")
    return value.item() if hasattr(value, "item") else value


def _several(name, values, least):
    if isinstance(values, str | dict | set) or not hasattr(values, "__iter__"):
        raise ValueError(f"`{name}` must be a tuple of integers. Received: {name}={values!r}")
    values = tuple(values)
    if len(values) < least:
        raise ValueError(f"`{name}` must hold at least {least}. Received: {name}={values!r}")
    return values


def _is_finite(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
