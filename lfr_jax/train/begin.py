"""What begins a phase: the schedule's `begin`, compiled."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lfr_jax.schedule import Schedule


def begin_compiled(
    schedule: Schedule, compiled: Callable[[Callable], Callable] = lambda jitted: jitted
) -> Callable[[Any, int], Any]:
    """`schedule.begin`, compiled once for all phases. It consumes (donates) the state that it gets.

    A policy whose `begin` needs the number of the phase as a Python integer is compiled for each phase instead; the
    program is then dropped, so that memory does not grow with the phases.

    Args:
      schedule: any.
      compiled: what becomes of a jitted function, such as `compiled.compiled_off_the_clock`.

    Returns:
      `begin(state, phase_index) -> state`, with a Python integer.
    """
    for_all_phases = compiled(jax.jit(schedule.begin, donate_argnums=0))
    needs_int = False

    def begin(state, phase_index: int):
        nonlocal needs_int
        if not needs_int:
            try:
                return for_all_phases(state, np.int32(phase_index))
            except TypeError:  # all that jax raises where a value is needed, and Python where an index is
                needs_int = True
        return compiled(jax.jit(lambda state: schedule.begin(state, phase_index), donate_argnums=0))(state)

    return begin
