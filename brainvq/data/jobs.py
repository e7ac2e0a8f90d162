"""Work on many scans at once, in processes, threads or on several machines, with a progress bar."""

import contextlib
import os
import signal
import socket
import threading
import time

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from brainvq.errors import UserError
from brainvq.files import DISK_FULL
from brainvq.progress import progress as progress_of


def run_jobs(function, jobs, *, workers=None, title, progress=True, threads=False, scheduler=None):
    """Calls a function for each job, in processes if that pays, and yields what it returns.

    Close the generator (`contextlib.closing`) where the loop over it may end early.

    Args:
        function: picklable function; what it raises ends everything.
        jobs: list of tuples, the arguments of each call.
        workers: processes; 1 works in this process. Default: one per processor core, fewer where
            that leaves less than eight jobs for each.
        title: what the progress bar says.
        progress: whether to draw it.
        threads: whether to work in threads, for functions that wait for another program; the
            default of `workers` is then one per processor core.
        scheduler: address of a Dask scheduler whose workers do the work in the place of processes,
            as much at a time as they have threads, such as "tcp://host:8786". They need the disk
            and the packages of this process.

    Yields:
        Results, as they come: in any order.

    Raises:
        UserError: a worker process was killed, or the scheduler does not serve.
    """
    if workers is None and threads:
        workers = joblib.cpu_count()
    elif workers is None:
        # Starting a process costs a second or two: worth it for eight scans or more.
        workers = max(1, min(joblib.cpu_count(), len(jobs) // 8))
    workers = min(workers, len(jobs))
    bar = progress_of(len(jobs), title, "scan", shown=progress)
    with bar, contextlib.ExitStack() as stack:
        if scheduler is not None and jobs:
            results = stack.enter_context(
                contextlib.closing(_on_machines(scheduler, function, jobs))
            )
        elif workers > 1 and threads:
            results = joblib.Parallel(workers, "threading", return_as="generator_unordered")(
                joblib.delayed(function)(*job) for job in jobs
            )
            stack.callback(results.close)
        elif workers > 1:
            # Processes rather than threads, which would share one interpreter's lock; each gets one
            # thread, or they would fight over the cores.
            stack.enter_context(
                joblib.parallel_config(
                    "loky", inner_max_num_threads=1, initializer=_watch, initargs=(os.getpid(),)
                )
            )
            with _interrupts_ignored():
                results = joblib.Parallel(workers, return_as="generator_unordered")(
                    joblib.delayed(function)(*job) for job in jobs
                )
            stack.callback(results.close)
        else:
            results = (function(*job) for job in jobs)
        try:
            for result in results:
                bar.update()
                yield result
        except TerminatedWorkerError:
            raise UserError(
                f"{title}: one of {workers} worker processes was killed, most likely for lack of "
                "memory; expected room for that many scans at once (set fewer workers)"
            ) from None


def _on_machines(scheduler, function, jobs):
    """Results of the workers of a Dask scheduler, as they come.

    Without joblib's backend for Dask, which waits for ever for a worker that was killed.
    """
    option = f"--data.scheduler {scheduler}"
    try:
        import distributed
    except ImportError:
        raise UserError(
            f"{option}: the package distributed is not installed; expected it here and on the "
            "workers: pip install distributed"
        ) from None
    try:
        client = distributed.Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{option}: cannot be reached ({error}); expected the address of a Dask scheduler, "
            "such as tcp://HOST:8786"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=10)
        except TimeoutError:
            raise UserError(f"{option}: found no workers; expected one or more") from None
        calls = [(os.getcwd(), function, job) for job in jobs]
        for future in distributed.as_completed(client.map(_in_folder, calls, pure=False)):
            try:
                yield future.result()
            except distributed.KilledWorker as error:
                raise UserError(
                    f"{option}: a worker was killed, most likely for lack of memory; expected room "
                    "for as many scans as it has threads"
                ) from error
            except RuntimeError as error:
                if "deserialization" not in str(error):
                    raise
                raise UserError(
                    f"{option}: a worker cannot read what it is sent; expected workers with the "
                    "packages of this environment, brainvq among them"
                ) from error


def _in_folder(call):
    """Calls a function in the folder of the command, from which paths may count."""
    folder, function, job = call
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror}, on {socket.gethostname()}; expected a disk that all "
            "workers of --data.scheduler share"
        ) from None
    return function(*job)


@contextlib.contextmanager
def disk_errors(folder, what):
    """Turns a full disk, and a folder that cannot be written, into a `UserError`.

    Args:
        folder: where the body writes.
        what: what is written there, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(
                f"{folder}: the disk is full; expected room for {what} (free some space and run "
                "again: finished scans are kept)"
            ) from None
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
            raise UserError(
                f"{folder}: cannot write there ({error.strerror}); expected a folder to write to"
            ) from None
        raise


def remove_stale(folder):
    """Removes temporary files of processes killed long ago; younger ones may be in use."""
    for file in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > 3600:
                file.unlink()


@contextlib.contextmanager
def _interrupts_ignored():
    """Processes that begin in the body leave Ctrl-C to this one, which ends them in silence."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _watch(parent):
    """Ends this worker process soon after the one that started it was killed."""
    if os.getppid() != parent and _lives(parent):  # started through a launcher: nothing to watch
        return

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True
