"""Words on scans that are read or prepared all the same: gathered, logged, and kept for reports."""

import contextlib
import contextvars
import logging

# How the remark on a registration begins; the fit follows.
FIT = "registered to the template, fit "
_HEARD = contextvars.ContextVar("heard", default=None)


def remark(text):
    """Says something about the scan that is being prepared.

    Args:
        text: str, what was seen and what is expected, without the name of the scan.
    """
    heard = _HEARD.get()
    if heard is None:
        logging.getLogger("brainvq").warning("%s", text)
    elif text not in heard:
        heard.append(text)


@contextlib.contextmanager
def collected():
    """A list that gets the remarks of the body, which are then not logged."""
    heard = []
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)


def summary(remarks):
    """The remarks on many scans in few lines.

    Args:
        remarks: dict of scan to list of str.

    Returns:
        List of str: each remark once, with the number of scans and the first of them; of fits the
        median and the lowest, with its scan.
    """
    fits, scans_of = [], {}
    for scan, texts in remarks.items():
        for text in texts:
            if text.startswith(FIT):
                fits.append((float(text.removeprefix(FIT)), scan))
            else:
                scans_of.setdefault(text, []).append(scan)
    lines = [
        f"{len(scans)} scans, e.g. {scans[0]}: {text}" if len(scans) > 1 else f"{scans[0]}: {text}"
        for text, scans in scans_of.items()
    ]
    if fits:
        fits.sort()
        lines.append(
            f"{len(fits)} scans registered to the template: fit {fits[len(fits) // 2][0]:.3f} at "
            f"the median, {fits[0][0]:.3f} the lowest ({fits[0][1]})"
        )
    return lines
