"""The command `brainvq`, and what the scripts at the top call.

    brainvq train [STUDY] ...       from files on disk to codes, new brains, tables and a report
    brainvq predict [RUN] ...       use a trained study: samples, reconstructions, codes, maps
    brainvq compare [RUN ...]       measure trained runs on subjects that they never saw
    brainvq prepare [STUDY] ...     prepare the arrays of a study, and no more
    brainvq simulate ...            simulated scans with their lesion masks, as a BIDS folder
    brainvq --version

`brainvq COMMAND --help` says more. Options are read before Keras is imported, which takes seconds.
"""

import atexit
import contextlib
import errno
import importlib
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading

from brainvq import BACKENDS, __version__
from brainvq.allocator import keep_freed_memory
from brainvq.errors import UserError

COMMANDS = ("train", "predict", "compare", "prepare", "simulate")

# What would help where memory ran out.
LESS_MEMORY = {
    "train": "a smaller --train.batch-size, --prior.batch-size or network, or --data.workers 1",
    "predict": "a smaller --batch-size, or fewer files at a time",
    "prepare": "--data.workers 1",
    "simulate": "--workers 1",
    "compare": "fewer other programs beside it",
}
# What is left of a command that was stopped and did not say so itself, as a training does.
KEPT = {
    "train": "Nothing was trained yet; the same command begins it",
    "predict": "The files that are written are whole; the same command makes them all",
    "prepare": "Finished scans are kept; the same command goes on with the others",
    "simulate": "Finished scans are kept; the same command goes on with the others",
    "compare": "Measures that are taken are kept; the same command goes on with the others",
}
# What Keras, as it is imported, takes of the user's `keras.json`.
KERAS_ACCEPTS = {
    "floatx": ("float16", "float32", "float64").__contains__,
    "image_data_format": ("channels_last", "channels_first").__contains__,
    "epsilon": lambda value: isinstance(value, float),
}
_NO_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|ResourceExhausted|out of memory|OOM when allocating|bad_alloc"
    r"|cannot allocate memory|(failed|unable) to allocate",
    re.IGNORECASE,
)

logger = logging.getLogger("brainvq")


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM), as batch systems do when time is up."""


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
    arguments = list(map(with_home, arguments))

    def call():
        keep_freed_memory()
        ask_for_onednn()
        choose_backend()
        importlib.import_module(f"brainvq.app.{command}").main(arguments, prog)

    guarded(call, LESS_MEMORY.get(command, "more memory"), KEPT.get(command, ""))


def with_home(word):
    """A word of the command line with `~` as the home folder, which shells leave after `=`."""
    option, equals, value = word.partition("=")
    if option.startswith("--") and equals:
        return f"{option}={os.path.expanduser(value)}"
    return os.path.expanduser(word)


def ask_for_onednn():
    """Has TensorFlow compute with oneDNN, unless the environment says otherwise.

    On x86 CPUs without instructions for neural networks TensorFlow leaves it off. There, too, a
    step of training takes less than half of the time with it.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def choose_backend():
    """Has Keras compute with a backend that serves, whatever `keras.json` of the user says.

    Raises:
        UserError: `KERAS_BACKEND` names none of ours.
    """
    chosen = os.environ.get("KERAS_BACKEND")
    if chosen and chosen not in BACKENDS:
        raise UserError(f"KERAS_BACKEND: found {chosen!r}; expected one of {', '.join(BACKENDS)}")
    serving = [name for name in BACKENDS if importlib.util.find_spec(name) is not None]
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    file = os.path.join(home, "keras.json")
    config = _keras_config(file)
    if not chosen and serving and config.get("backend") not in serving:
        os.environ["KERAS_BACKEND"] = serving[0]
    if any(not accepts(config[name]) for name, accepts in KERAS_ACCEPTS.items() if name in config):
        # Keras would end with a traceback, for numbers that count for nothing here.
        logger.warning("%s: is passed over; expected settings that Keras takes", file)
        os.environ["KERAS_HOME"] = folder = tempfile.mkdtemp(prefix="brainvq-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _keras_config(file):
    """What the user's `keras.json` holds: dict, empty where there is none."""
    if not os.path.exists(file):
        return {}
    try:
        with open(file, encoding="utf-8") as content:
            config = json.load(content)
    except ValueError:  # which Keras passes over too
        return {}
    except OSError:
        config = None
    return config if isinstance(config, dict) else {"floatx": None}


def guarded(call, less_memory="more memory", kept=""):
    """Calls a function and ends the process with the status that its outcome deserves.

    The status is 0 for success, 2 for a mistake of the user or too little memory (one line on
    standard error), 130 for Ctrl-C and 143 for SIGTERM, with the text of the `KeyboardInterrupt`.
    Anything else is a defect of ours and keeps its traceback.

    Args:
        call: function without arguments.
        less_memory: what to expect of the user where memory ran out, in words.
        kept: what is left where the call was stopped and does not say so itself.
    """
    # Each model compiles its own functions; TensorFlow warns that a program with many models does.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # Lines that nobody reads any more, after `| head`, must not stop a training, nor be told of.
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        with _terminable(), _missing_packages():
            call()
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt as stop:
        ended = isinstance(stop.__cause__ or stop, Terminated)
        word = "terminated" if ended else "interrupted"
        print(f"\n{word}. {str(stop) or kept}".rstrip(), file=sys.stderr)
        sys.exit(143 if ended else 130)
    except Exception as error:
        message = _known(error, less_memory)
        if message is None:
            raise
        _fail(message)
    finally:
        logging.raiseExceptions = before


def _known(error, less_memory):
    """What a full disk, a name too long or too little memory is in one line; None for others."""
    from brainvq.files import DISK_FULL

    if isinstance(error, OSError):
        place = error.filename or "output"
        if error.errno in (*DISK_FULL, errno.EACCES, errno.EROFS):
            return (
                f"{place}: {os.strerror(error.errno)}; expected a disk with room and write access"
            )
        if error.errno == errno.ENAMETOOLONG:
            return f"{place}: found a name of {len(str(place))} characters; expected a shorter one"
    if is_out_of_memory(error):
        return f"memory: found too little; expected {less_memory}"
    return None


def is_out_of_memory(error):
    """Whether an exception, or what it came from, says that memory ran out, on any backend."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        # Those of backends, told by their names: none of them is imported here.
        module = type(error).__module__.split(".")[0]
        theirs = module in ("tensorflow", "jax", "jaxlib", "torch") or isinstance(
            error, RuntimeError
        )
        if theirs and _NO_MEMORY.search(f"{type(error).__name__} {error}"):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _terminable():
    """SIGTERM as an exception, so that a training can say what it saved.

    Where Python can only ignore an exception, as in `__del__`, the signal is sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise Terminated

    def again(ignored):
        if isinstance(ignored.exc_value, KeyboardInterrupt):
            ended = isinstance(ignored.exc_value, Terminated)
            sign = signal.SIGTERM if ended else signal.SIGINT
            threading.Timer(0.1, signal.raise_signal, [sign]).start()  # once this hook is left
        else:
            hook(ignored)

    before, hook = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


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
