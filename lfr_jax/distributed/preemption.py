"""SIGTERM: instead of dying, all processes of a run save after the same step and exit with 75."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from jax.experimental import multihost_utils

from lfr_jax.distributed.peers import Peers

PREEMPTED = 75  # exit code after SIGTERM: everything is saved, start the command again (EX_TEMPFAIL of sysexits.h)


@contextlib.contextmanager
def sigterm_noticed(peers: Peers) -> Iterator[Callable[[int], bool]]:
    """Yields `terminated(step)`: whether any process has received SIGTERM. Must be called after every step.

    One process sets its own handler. In several processes JAX has one, and this only asks it.
    """
    received = []
    if peers.count > 1:
        yield preempted
        return
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        yield lambda step: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)


def preempted(step: int) -> bool:
    """Whether all processes must save and exit after `step`. Must be called on every process after every step.

    JAX's coordination service chooses a step that no process has passed yet.
    """
    return multihost_utils.reached_preemption_sync_point(step)
