"""Worker processes: how many there are, how they begin, and how they end."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Annotated, TypeVar

from msgspec import Meta

from lfr_jax.data.worker_process import begin_worker

Result = TypeVar("Result")
NumWorkers = Annotated[int, Meta(ge=0, le=1024)]  # all of them begin at once; 0: as many as there are cores


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """A pool of `workers` new processes. On the way out, tasks that have not begun are dropped.

    Raises:
      OSError: a worker was killed, or could not begin.
    """
    context = multiprocessing.get_context("spawn")  # a process with threads in it, such as JAX's, must not fork
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, begin_worker)
    try:
        yield pool
    except BrokenProcessPool:
        raise killed() from None
    finally:
        pool.shutdown(cancel_futures=True)


def killed(at: str = "") -> OSError:
    """The error for a worker that ended in the middle of its work. `at`: what it was reading."""
    return OSError(
        f"a worker process was killed{at and f' while it was reading {at}'}, perhaps for want of memory: take fewer "
        "with --workers"
    )


def portable(function: Callable[..., Result], *arguments: object) -> Result:
    """Calls the function, for a worker: whatever it raises is an `Exception` that pickles.

    Anything else would be lost on the way to the main process, or end the pool in its place. A panic of a library in
    Rust, for example, is no `Exception`.
    """
    try:
        return function(*arguments)
    except BaseException as error:
        if isinstance(error, Exception) and pickles(error):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from None


def pickles(error: Exception) -> bool:
    """Whether another process gets this error as it is."""
    try:
        return str(pickle.loads(pickle.dumps(error))) == str(error)
    except Exception:
        return False


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
