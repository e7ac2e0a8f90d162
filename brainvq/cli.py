"""The command `brainvq`, and what the scripts at the top call.

    brainvq train [STUDY] ...       from files on disk to codes, new brains, tables and a report
    brainvq predict [RUN] ...       use a trained study: samples, reconstructions, codes, maps
    brainvq compare [RUN ...]       measure trained runs on subjects that they never saw
    brainvq prepare [STUDY] ...     prepare the arrays of a study, and no more
    brainvq simulate ...            simulated scans with their lesion masks, as a BIDS folder
    brainvq --version

`brainvq COMMAND --help` says more. Options are read before Keras is imported, which takes seconds.
"""

import contextlib
import errno
import importlib
import logging
import os
import sys

from brainvq import BACKENDS, __version__
from brainvq.errors import UserError

COMMANDS = ("train", "predict", "compare", "prepare", "simulate")

logger = logging.getLogger("brainvq")


def main(arguments=None):
    """The command `brainvq`: calls one of `COMMANDS` with the words behind it.

    Args:
        arguments: list of str; by default those of the process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["--version"]:
        print(f"brainvq {__version__}")
        return
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        return
    if words[0] not in COMMANDS:
        _fail(f"command: found {words[0]!r}; expected one of {', '.join(COMMANDS)}")
    run(words[0], words[1:], f"brainvq {words[0]}")


def run(command, arguments, prog):
    """Runs one command; see `guarded` for how the process ends.

    Args:
        command: one of `COMMANDS`.
        arguments: list of str, the words behind it.
        prog: what the user typed to get here, for help and hints: "python train.py".
    """
    if arguments[:1] == ["--version"]:
        print(f"brainvq {__version__}")
        return
    guarded(lambda: importlib.import_module(f"brainvq.app.{command}").main(arguments, prog))


def guarded(call):
    """Calls a function and ends the process with the status that its outcome deserves.

    The status is 0 for success, 2 for a mistake of the user (one line on standard error), 130 for
    Ctrl-C, with the text of the `KeyboardInterrupt`. Anything else is a defect of ours and keeps
    its traceback.
    """
    # Each model compiles its own functions; TensorFlow warns that a program with many models does.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # Lines that nobody reads any more, after `| head`, must not stop a training, nor be told of.
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        with _missing_packages():
            call()
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
    except KeyboardInterrupt as stop:
        print(f"\ninterrupted. {stop}".rstrip(), file=sys.stderr)
        sys.exit(130)
    finally:
        logging.raiseExceptions = before


@contextlib.contextmanager
def _missing_packages():
    """A package that is not installed as one line that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "brainvq"):
            raise
        if package in BACKENDS:
            raise UserError(str(error)) from None
        raise UserError(
            f"{package}: is not installed; expected the packages of the application: pip install "
            "brainvq[app]"
        ) from None


def _fail(message):
    message = " ".join(message.split())
    for handler in logger.handlers:  # the run's log.txt remembers it; the screen shows it once
        if isinstance(handler, logging.FileHandler):
            record = logger.makeRecord(logger.name, logging.ERROR, "", 0, message, (), None)
            handler.emit(record)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
