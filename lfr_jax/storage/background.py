"""Orbax in the background: its threads end with the process, and it says nothing itself.

Orbax has threads that wait for each other, for up to 20 minutes, also after one of them has failed. At its end, Python
waits for every thread that is not a daemon, so the process would go on without doing anything. And Orbax logs the
traceback of an error once in each thread that sees it, hundreds of lines in all; we raise the error, on one line.
"""

import concurrent.futures
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_daemon_thread(work: Callable[[], T]) -> T:
    """The result of `work()`, or its error. All threads that it starts are daemons, as the one that it runs in is."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return done.result()


def silence() -> None:
    """Drops what Orbax, TensorStore and asyncio print beside the error that they raise."""
    logging.getLogger("absl").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    print_others = sys.unraisablehook

    def print_unless_late(unraisable: "sys.UnraisableHookArgs") -> None:
        # What Orbax's other reads and writes meet, and TensorStore's, after the first has ended their event loop.
        frames = (frame for frame, _ in traceback.walk_tb(unraisable.exc_traceback))
        if not any(frame.f_globals.get("__name__", "").startswith(("orbax.", "asyncio.")) for frame in frames):
            print_others(unraisable)

    sys.unraisablehook = print_unless_late


if not os.environ.get("LFR_TRACEBACK"):
    silence()
