"""Values from files, held to the types that a dataclass declares."""

import dataclasses
import typing

import typeguard

from brainvq.errors import UserError


def check_types(options, where):
    """Refuses a dataclass whose fields hold values of other types than they declare.

    Args:
        options: the dataclass; fields that are dataclasses are looked at on their own.
        where: what it was read from, for messages, such as "study.json".

    Raises:
        UserError: names the field and the value.
    """
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            continue
        try:
            typeguard.check_type(value, hints[field.name])
        except typeguard.TypeCheckError as error:
            found = repr(value)
            found = found if len(found) < 80 else f"{found[:77]}..."
            line = " ".join(str(error).split())
            raise UserError(
                f"{where}: {field.name}: found {found}; expected another type of value ({line})"
            ) from None
