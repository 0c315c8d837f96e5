"""Runs `lfr train` until a given moment, then kills itself with SIGKILL: no handler, no cleanup, as a lost machine.

    python killed_run.py CONFIG.json MOMENT COUNT

MOMENT: `step` (before the COUNT-th step of this process), `done` (after the last step of the COUNT-th phase, before
the next is entered), `begun` (before the first step in the COUNT-th phase), `score` (after COUNT batches of scoring),
`probe` (after COUNT batches of probes), `save` (COUNT milliseconds after the first checkpoint of this process began),
`time` (COUNT milliseconds after the start), `never`.
"""

import json
import os
import signal
import sys
import threading

from lfr_jax.config import Config, from_dict
from lfr_jax.storage.checkpoint import Checkpointer
from lfr_jax.train import loop, score
from lfr_jax.train.probes import Probes


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def countdown(count):
    """A function that kills at its `count`-th call."""
    calls = []

    def call():
        calls.append(1)
        if len(calls) == count:
            die()

    return call


def before(cls, name, action):
    real = getattr(cls, name)

    def wrapped(*args, **kwargs):
        action()
        return real(*args, **kwargs)

    setattr(cls, name, wrapped)


def arm(moment: str, count: int) -> None:
    call = countdown(count)
    real_batches, real_observe, real_measure = loop.batches, score.observe_all, Probes.measure

    def counted(measured):
        for item in measured:
            call()
            yield item

    def batches(*args):
        """The batches of a phase, as the loop takes them."""
        if moment == "begun":
            call()
        for batch in real_batches(*args):
            if moment == "step":
                call()
            yield batch
        if moment == "done":
            call()

    if moment in ("begun", "step", "done"):
        loop.batches = batches
    elif moment == "score":
        score.observe_all = lambda *args: real_observe(*args[:-1], counted(args[-1]))
    elif moment == "probe":
        Probes.measure = lambda self, step, measured: real_measure(self, step, counted(measured))
    elif moment == "save":
        before(Checkpointer, "save", threading.Timer(count / 1000, die).start)
    elif moment == "time":
        threading.Timer(count / 1000, die).start()
    elif moment != "never":
        raise ValueError(moment)


if __name__ == "__main__":
    path, moment, count = sys.argv[1:]
    arm(moment, int(count))
    with open(path) as file:
        loop.train(from_dict(Config, json.load(file), path), quiet=True)
