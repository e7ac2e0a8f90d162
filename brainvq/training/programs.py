"""What every command-line program does at its outer edge: a mistake is one line and status 2."""

import contextlib
import errno
import logging
import os
import sys
import time

from brainvq.errors import UserError
from brainvq.files import read_json, write_json

logger = logging.getLogger("brainvq")


def run_program(main, arguments, on_interrupt=None):
    """Calls `main(arguments)` and ends the process with the status that its outcome deserves.

    Args:
        main: function of a list of str.
        arguments: list of str, the command line.
        on_interrupt: function that returns a str to print after Ctrl-C, or None.

    The status is 0 for success, 2 for a mistake of the user (one line on standard error), 130 for
    Ctrl-C. Anything else is a defect of ours and keeps its traceback.
    """
    # Each model compiles its own functions; TensorFlow warns that a program with many models does.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # Lines that nobody reads any more, after `| head`, must not stop a training, nor be told of.
    told, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        main(arguments)
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        place = error.filename or "output"
        _fail(f"{place}: {os.strerror(error.errno)}; expected a disk with room and write access")
    except KeyboardInterrupt:
        hint = on_interrupt() if on_interrupt else ""
        print(f"\ninterrupted. {hint}".rstrip(), file=sys.stderr)
        sys.exit(130)
    finally:
        logging.raiseExceptions = told


def _fail(message):
    message = " ".join(message.split())
    for handler in logger.handlers:  # the run's log.txt remembers it; the screen shows it once
        if isinstance(handler, logging.FileHandler):
            record = logger.makeRecord(logger.name, logging.ERROR, "", 0, message, (), None)
            handler.emit(record)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


class Clock:
    """Adds up the seconds of each stage over all the sittings of a run.

    Args:
        path: JSON file that keeps the sums.
    """

    def __init__(self, path):
        self.path = path

    @contextlib.contextmanager
    def __call__(self, stage):
        """Times the body of a `with` and adds it to `stage`."""
        began = time.monotonic()
        yield
        sums = self.seconds()
        sums[stage] = round(sums.get(stage, 0.0) + time.monotonic() - began, 2)
        write_json(self.path, sums)

    def seconds(self):
        """Seconds of each stage so far (dict)."""
        return read_json(self.path) if self.path.exists() else {}

    def total(self):
        """Seconds of all stages together."""
        return sum(self.seconds().values())
