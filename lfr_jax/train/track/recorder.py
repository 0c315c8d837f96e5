"""What the steps measured, read from the devices late and in bulk, and checked.

A step's metrics stay on the device until a later step has been dispatched, so reading them
never leaves the device without work.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

# An update can overflow although loss and gradient are finite; the params that it made must not be saved.
CHECKED = ("loss", "grad_norm", "update_norm")


class NonFiniteLoss(ArithmeticError):
    """Training diverged: a step's loss, gradient or update is not finite. `before` are the good steps read with it."""

    def __init__(self, message: str, before: list | None = None):
        super().__init__(message)
        self.before = before or []


class StepRecord(NamedTuple):
    """One step: facts that the host knows, and metrics that are still on the device."""

    step: int  # number of the step, from 1: the state's step after it
    phase: str
    tokens: int  # trained on so far
    flops: int  # spent so far, scoring included
    ids_B: np.ndarray  # the blocks that it was trained on
    metrics: dict[str, Any]  # f32[] of each name in CHECKED


class Recorder:
    """Collects steps, and hands them on once their metrics are read and found finite."""

    def __init__(self, log_every: int):
        self.log_every = log_every
        self.waiting: list[StepRecord] = []

    def add(self, record: StepRecord) -> list[tuple[StepRecord, dict[str, np.ndarray]]]:
        """Takes in the step just dispatched; returns the ones before it once `log_every` of them wait."""
        self.waiting.append(record)
        return self.read(newest=1) if len(self.waiting) > self.log_every else []

    def read(self, newest: int = 0) -> list[tuple[StepRecord, dict[str, np.ndarray]]]:
        """Waits for, checks and returns all that wait, except the `newest` ones.

        Raises:
          NonFiniteLoss: naming the first step whose loss, gradient or update is not finite, and its blocks.
        """
        cut = len(self.waiting) - newest
        ready, self.waiting = self.waiting[:cut], self.waiting[cut:]
        values = jax.device_get([{name: record.metrics[name] for name in CHECKED} for record in ready])
        for index, (record, numbers) in enumerate(zip(ready, values)):
            if not all(np.isfinite(number) for number in numbers.values()):
                found = ", ".join(f"{name} = {number}" for name, number in numbers.items())
                raise NonFiniteLoss(
                    f"step {record.step}: {found}; trained on blocks {record.ids_B.tolist()}",
                    before=list(zip(ready, values))[:index],
                )
        return list(zip(ready, values))
