"""Worker processes: how many there are, how they begin, and how they end."""

import concurrent.futures
import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

from lfr_jax.data.worker_process import begin_worker


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """A pool of `workers` new processes. On the way out, tasks that have not begun are dropped.

    Raises:
      OSError: a worker was killed.
    """
    context = multiprocessing.get_context("spawn")  # a process with threads in it, such as JAX's, must not fork
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, begin_worker)
    try:
        yield pool
    except BrokenProcessPool:
        raise OSError("a worker process was killed, perhaps for want of memory: take fewer with --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
