"""Where a run's time goes: the wall clock, added up by stage."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

WORK = ("training", "pipeline", "scoring", "selection", "plan", "saving")
BESIDE = ("start", "compilation", "probes", "evaluation")


class Clock:
    """Adds up seconds by stage, from its creation on. A second belongs to the innermost stage alone.

    `seconds` is the time that a run is said to take: the stages `WORK`, and not those `BESIDE` them. What is in no
    other stage belongs to "start". Two starts of a run have no stage between them.

    A device works behind the host. Whoever enters a stage first waits for what was dispatched before it, and leaves
    it when the stage's own work is done.

    >>> clock = Clock()
    >>> with clock.stage("evaluation"):
    ...     pass
    >>> clock.seconds
    0.0
    """

    def __init__(self):
        self.added = dict.fromkeys(WORK + BESIDE, 0.0)
        self.name, self.since = "start", time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time in the context under `name`, one of `WORK` or `BESIDE`."""
        outer = self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yields `items`. The time that each takes to come counts under `name`."""
        iterator, end = iter(items), object()
        while True:
            with self.stage(name):
                item = next(iterator, end)
            if item is end:
                return
            yield item

    def _enter(self, name: str) -> str:
        """Counts under `name` from now on. Returns the stage that was counted until now."""
        now, outer = time.perf_counter(), self.name
        self.added[outer] += now - self.since
        self.name, self.since = name, now
        return outer

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage, until now."""
        self._enter(self.name)
        return dict(self.added)

    @property
    def seconds(self) -> float:
        """Seconds of work, until now."""
        stages = self.stages
        return sum(stages[name] for name in WORK)

    def credit(self, stages: dict[str, float]) -> None:
        """Adds the seconds of stages that were counted before, in another process."""
        for name, seconds in stages.items():
            self.added[name] += seconds


def table(stages: dict[str, float]) -> list[str]:
    """The lines of a table: each stage with its seconds and its share of all, the longest first.

    >>> print(*table({"plan": 0.0, "scoring": 1.0, "training": 3.0}), sep="\\n")
    training         3.0 s   75.0 %
    scoring          1.0 s   25.0 %
    plan             0.0 s    0.0 %
    all              4.0 s  100.0 %
    """
    total = sum(stages.values())
    longest_first = sorted(stages.items(), key=lambda stage: -stage[1])
    rows = [*longest_first, ("all", total)]
    return [f"{name:<13}{seconds:>7.1f} s {100 * seconds / total:>6.1f} %" for name, seconds in rows]
