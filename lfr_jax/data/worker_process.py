"""How a worker process begins: it leaves Ctrl-C to the main process, and ends when that has ended."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading


def begin_worker(*_) -> None:
    """Runs first in a worker process. It takes and ignores what a pool tells its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process().sentinel

    def watch() -> None:
        multiprocessing.connection.wait([parent])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
