"""Where a chip's memory goes while a program runs, and whether it is enough."""

import math
import re
from typing import Any, NamedTuple

import jax

from lfr_jax.compile.topologies import GIB


class Memory(NamedTuple):
    """GiB of one chip."""

    parameters: float
    optimizer: float
    schedule: float
    batch: float
    temporaries: float  # activations, gradients, gathered weights: what the compiler allots beside the arguments
    code: float  # the program itself
    padding: float  # of the arguments, which lie in tiles; and results that are not written over an argument
    limit: float  # what a program may have

    @property
    def total(self) -> float:
        """All that is in memory at once."""
        return sum(self) - self.limit

    @property
    def fits(self) -> bool:
        """Whether that is no more than there is."""
        return self.total <= self.limit

    @property
    def margin(self) -> float:
        """GiB that are left; below 0, what is missing."""
        return self.limit - self.total


class TooLarge(Exception):
    """The compiler says that a program does not fit."""

    def __init__(self, needed: float, reason: str):
        super().__init__(reason)
        self.needed = needed  # GiB for the program alone, where the compiler says it, else NaN


def per_chip(tree: Any) -> float:
    """GiB that abstract arrays take on each chip, by their shardings.

    >>> from jax.sharding import SingleDeviceSharding
    >>> per_chip(jax.ShapeDtypeStruct((2**28,), "float32", sharding=SingleDeviceSharding(jax.devices()[0])))
    1.0
    """

    def size(x: jax.ShapeDtypeStruct) -> int:
        shape = x.sharding.shard_shape(x.shape) if x.sharding else x.shape
        return math.prod(shape) * x.dtype.itemsize

    return sum(map(size, jax.tree.leaves(tree))) / GIB


def measure(compiled: jax.stages.Compiled, limit: float, state: Any, batch: Any, others: bool) -> Memory:
    """The memory of a compiled step.

    Args:
      limit: GiB that there are.
      state: the abstract `TrainState`.
      batch: the abstract batch.
      others: whether the optimizer's and the schedule's state are no arguments of the program, but lie there too.
    """
    found = compiled.memory_analysis()
    parameters, optimizer, schedule = map(per_chip, (state.params, state.opt_state, state.schedule))
    arguments = parameters + per_chip(batch) + (0 if others else optimizer + schedule)
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    return Memory(
        parameters,
        optimizer,
        schedule,
        per_chip(batch),
        found.temp_size_in_bytes / GIB,
        found.generated_code_size_in_bytes / GIB,
        max(0.0, (found.argument_size_in_bytes + results) / GIB - arguments),
        limit,
    )


def too_large(error: Exception) -> TooLarge | None:
    """What the compiler's error says, if it is about memory.

    >>> too_large(RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory ... Used 40.50G of 31.25G hbm.")).needed
    40.5
    """
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return None
    found = re.search(r"Used ([\d.]+)([GM]) of|required for HLO temporaries \(([\d.]+)([GM])\)", text)
    number, unit = [part for part in found.groups() if part] if found else ("nan", "G")
    reason = text.partition("\n")[0].removeprefix("RESOURCE_EXHAUSTED: ")
    return TooLarge(float(number) / (1 if unit == "G" else 1024), reason)
