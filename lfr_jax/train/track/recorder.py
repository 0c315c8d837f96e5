"""The metrics of steps: read from the devices late and many at once, then checked.

A step's metrics stay on the device until a later step has been dispatched, so reading them
never leaves the device without work.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

# An update can overflow although loss and gradient are finite. Its params must not be saved.
CHECKED = ("loss", "grad_norm", "update_norm")


class NonFiniteLoss(ArithmeticError):
    """A step's loss, gradient or update is not finite. `before` holds the good steps that were read with it."""

    def __init__(self, message: str, before: list | None = None):
        super().__init__(message)
        self.before = before or []


class StepRecord(NamedTuple):
    """One step: facts that the host knows, and metrics that are still on the device."""

    step: int  # from 1 on: the state's `step` after it
    phase: str
    tokens: int  # trained on so far, this step included
    flops: int  # spent so far, scoring included
    ids_B: np.ndarray  # the blocks that it was trained on
    metrics: dict[str, Any]  # f32[] of each name in CHECKED


class Recorder:
    """Collects steps, and returns them once their metrics are read and found finite."""

    def __init__(self, log_every: int):
        self.log_every = log_every
        self.waiting: list[StepRecord] = []

    def add(self, record: StepRecord) -> list[tuple[StepRecord, dict[str, np.ndarray]]]:
        """Adds the step just dispatched. Returns the steps before it, once `log_every` of them wait."""
        self.waiting.append(record)
        return self.read(newest=1) if len(self.waiting) > self.log_every else []

    def read(self, newest: int = 0) -> list[tuple[StepRecord, dict[str, np.ndarray]]]:
        """Reads, checks and returns all steps that wait, except the `newest` ones.

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
