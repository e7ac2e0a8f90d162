"""Progress of long work: a bar on a terminal, a plain line now and then in a file."""

import sys
import time

from tqdm.auto import tqdm

# From one line to the next, where there is no terminal.
SECONDS = 30.0


class _Lines(tqdm):
    """Whole lines at steady times, without a carriage return; the last one where work was done."""

    def __init__(self, *args, **kwargs):
        self.shown = time.monotonic()
        super().__init__(*args, **kwargs)

    def display(self, msg=None, pos=None):
        """Writes a line where the last one is long ago; whether a bar is on the screen: never."""
        if msg is None and time.monotonic() - self.shown >= SECONDS:
            self._write_line()
        return False

    def clear(self, nolock=False):
        """There is nothing to clear."""

    def close(self):
        """Writes the last line, except of small parts of a work."""
        if not self.disable and self.leave and self.n:
            self._write_line()
        self.leave = False
        super().close()

    def _write_line(self):
        self.shown = time.monotonic()
        print(tqdm.format_meter(**self.format_dict | {"ncols": 0}), file=self.fp, flush=True)


def progress(total=None, title=None, unit="step", *, shown=True, part=False, initial=0):
    """Progress that is seen: a bar with an estimate, or lines where standard error is no terminal.

    Args:
        total: units of work, None where it is not known.
        title: str, what is done.
        unit: str, what one unit is called; "B" counts kilobytes and megabytes.
        shown: whether anything is written.
        part: whether this is a small part of a longer work, which leaves no line when it is done.
        initial: units that were done before.

    Returns:
        A `tqdm.tqdm`: a context manager with `update(units)`.
    """
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return (tqdm if seen else _Lines)(
        total=total,
        desc=title,
        unit=unit,
        unit_scale=unit == "B",
        disable=not shown or total == 0,
        leave=not part,
        initial=initial,
    )


def say(text):
    """Prints a line to standard output, above the bar if there is one."""
    tqdm.write(text)
