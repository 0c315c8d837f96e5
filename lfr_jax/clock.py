"""The time that a run spends on its work: training and scoring, not compiling, evaluating or waiting to be resumed."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


class Clock:
    """Counts seconds from its creation, except where it is paused.

    Args:
      together: returns once all processes of a run have called it.
    """

    def __init__(self, together: Callable[[], Any] = lambda: None):
        self.together = together
        self.worked, self.since = 0.0, time.perf_counter()  # since None: paused

    @property
    def seconds(self) -> float:
        return self.worked + (0.0 if self.since is None else time.perf_counter() - self.since)

    def credit(self, seconds: float) -> None:
        """Adds what was worked before, in another process."""
        self.worked += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops counting; within another pause it changes nothing."""
        self.worked, outer = self.seconds, self.since
        self.since = None
        try:
            yield
        finally:
            self.since = None if outer is None else time.perf_counter()

    def compiled(self, jitted: Callable) -> Callable:
        """The same function, compiled while the clock is paused: once for each shape of its last argument.

        The shapes of the others must not change.
        """
        executables: dict[Any, Callable] = {}

        def call(*args):
            shapes = tuple(map(np.shape, jax.tree.leaves(args[-1])))
            if shapes not in executables:
                jax.block_until_ready(args)  # steps under way are work
                with self.paused():
                    executables[shapes] = jitted.lower(*args).compile()
                    self.together()  # on CPUs the first operation among devices fails if another is 30 s late
            return executables[shapes](*args)

        return call
