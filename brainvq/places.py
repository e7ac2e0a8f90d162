"""What is handed on does not tell where files of the machine lay, nor whose folders those are."""

import re

# Options that are files, folders or commands; in commands their values are replaced.
OPTIONS = (
    "runs",
    "start_run",
    "pretrained",
    "root",
    "cache",
    "scheduler",
    "assignments",
    "mirror",
    "masks",
    "mask_tool",
)
_FLAG = re.compile(
    rf"(--(?:[a-z]+\.)?(?:{'|'.join(OPTIONS).replace('_', '[-_]')})(?:=|\s+))"
    r"""('(?:[^']|'"'"')*'|"[^"]*"|[^\s'"]+)"""
)
# An absolute path, or one that begins at somebody's home; no part of an address or a fraction.
_PATH = re.compile(r"""(?<![\w:/.<}\])~])(?:~\w*|[A-Za-z]:)?[/\\](?!\s)[^\s"'`|<>,;()\[\]]+""")


def without_places(value, known=()):
    """A text, or the texts in lists and dicts, in which paths are "DIR".

    Args:
        value: str, list, dict or anything else, which stays.
        known: paths that are replaced wherever they are, relative ones too.

    Returns:
        The same without paths: values of options such as `--data.root`, absolute paths and those
        of a home folder.
    """
    if isinstance(value, dict):
        return {key: without_places(inner, known) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner, known) for inner in value]
    if not isinstance(value, str):
        return value
    value = _FLAG.sub(r"\1DIR", value)
    for place in sorted({place for place in known if place}, key=len, reverse=True):
        if "/" in place or "\\" in place:
            value = value.replace(place, "DIR")
    return _PATH.sub("DIR", value)
