"""The time that a run spends on its work: training and scoring, not compiling, evaluating or waiting to be resumed."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Counts seconds from its creation, except where it is paused."""

    def __init__(self):
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
