"""SIGTERM, noticed in place of dying of it: by a process alone, or by all that train together, after the same step."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from jax.experimental import multihost_utils

from lfr_jax.distributed.peers import Peers

PREEMPTED = 75  # exit code after SIGTERM: all is saved, start me again (EX_TEMPFAIL of sysexits.h)


@contextlib.contextmanager
def sigterm_noticed(peers: Peers) -> Iterator[Callable[[int], bool]]:
    """A function that tells, asked after every step, whether to save and exit: SIGTERM has come, to any process.

    It is noticed in place of dying of it: among several processes JAX does that.
    """
    came = []
    if peers.count > 1:
        yield preempted
        return
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    try:
        yield lambda step: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


def preempted(step: int) -> bool:
    """Whether all processes are to save after `step` and exit: one of them got SIGTERM.

    JAX's coordination service settles on a step that none of them has passed. To be asked at every step.
    """
    return multihost_utils.reached_preemption_sync_point(step)
