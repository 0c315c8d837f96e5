"""Orbax in the background: its threads end with the process, its failures are known at once, and it prints nothing.

Orbax has threads that wait for each other, and for those of other processes, for up to 20 minutes, also after one of
them has failed. Python waits at its end for each thread that is not a daemon. So a process whose save had failed would
go on, and do nothing. As daemons they may still be at work in TensorStore when Python ends, and one that comes back
from there then aborts the process: `cli.entry_point` exits without Python's own end if `threads_left` is set. And Orbax
logs the traceback of an error once in each thread that sees it.
"""

import concurrent.futures
import functools
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_EVERY = 0.2  # seconds

failures: list[BaseException] = []  # of saves in the background, of the whole process, as Orbax's log is
threads_left = threading.Event()  # set once a save has failed, or nobody waits for it: its threads may be at work


def raise_failure() -> None:
    """Raises the error of a save that failed in the background, if there is one."""
    if failures:
        raise failures[0]


def in_daemon_thread(work: Callable[[], T]) -> T:
    """The result of `work()`, or at once the error of a save in the background, for which `work` would wait.

    All threads that `work` starts are daemons, as the one that it runs in is.
    """
    done: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    try:
        raise_failure()
        threading.Thread(target=run, name="checkpoint", daemon=True).start()
        while not concurrent.futures.wait([done], timeout=LOOK_EVERY).done:
            raise_failure()
        return done.result()
    except BaseException:  # KeyboardInterrupt too
        threads_left.set()
        raise


def note_failure(record: logging.LogRecord) -> bool:
    """A filter of the log that Orbax writes to: notes the error of a thread that saves, and drops what Orbax says."""
    if f"{os.sep}orbax{os.sep}" not in record.pathname:
        return True
    if record.module == "async_checkpointer" and record.exc_info:
        failures.append(record.exc_info[1])
    return "LFR_TRACEBACK" in os.environ


@functools.cache
def watch_orbax() -> None:
    """Has failures of saves noted, and what Orbax prints beside an error dropped, to the end of this process.

    With the environment variable LFR_TRACEBACK nothing is dropped.
    """
    logging.getLogger("absl").addFilter(note_failure)
    if "LFR_TRACEBACK" not in os.environ:
        silence()


def silence() -> None:
    """Drops what asyncio and TensorStore print beside the error that they raise."""
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    print_others = sys.unraisablehook

    def print_unless_late(unraisable: "sys.UnraisableHookArgs") -> None:
        # What Orbax's other reads and writes meet, and TensorStore's, after the first has ended their event loop.
        frames = (frame for frame, _ in traceback.walk_tb(unraisable.exc_traceback))
        if not any(frame.f_globals.get("__name__", "").startswith(("orbax.", "asyncio.")) for frame in frames):
            print_others(unraisable)

    sys.unraisablehook = print_unless_late
