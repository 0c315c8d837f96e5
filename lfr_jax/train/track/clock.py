"""The time that a run spends on training and scoring. Compiling, evaluating and waiting to be resumed do not count."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Counts seconds from its creation, except while it is paused."""

    def __init__(self):
        self.worked, self.since = 0.0, time.perf_counter()  # `since` is None while paused

    @property
    def seconds(self) -> float:
        return self.worked + (0.0 if self.since is None else time.perf_counter() - self.since)

    def credit(self, seconds: float) -> None:
        """Adds seconds that were counted before, in another process."""
        self.worked += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops counting until the end of the context. Pauses may be nested."""
        self.worked, outer = self.seconds, self.since
        self.since = None
        try:
            yield
        finally:
            self.since = None if outer is None else time.perf_counter()
