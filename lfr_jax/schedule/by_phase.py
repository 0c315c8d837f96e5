"""What differs from phase to phase, looked up by the number of the phase: a Python integer, or traced.

With a traced number, `begin` is one compiled program for all phases, and works in `jax.lax.scan` over them.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MOST_FUNCTIONS = 64  # that one program chooses from: each is compiled into it


def check_phase(per_phase: Sequence, phase_index: int | jax.Array) -> None:
    """Raises unless there is such a phase. A traced number is not checked, as its value is not known.

    Args:
      per_phase: one entry for each phase, such as `Schedule.phases`.
      phase_index: number of the phase, from 0.

    Returns:
      None.

    Raises:
      IndexError: there is no such phase.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.check_phase(schedule.lfr(reps=1).phases, 4)
      Traceback (most recent call last):
      IndexError: phase_index is 4, expected 0 to 3, the last phase
    """
    if is_traced(phase_index):
        return
    phase_index = operator.index(phase_index)
    if not 0 <= phase_index < len(per_phase):
        raise IndexError(f"phase_index is {phase_index}, expected 0 to {len(per_phase) - 1}, the last phase")


def of_phase(per_phase: Sequence, phase_index: int | jax.Array) -> Any:
    """The entry of a phase, in a sequence that has one for each phase. Unlike indexing, it refuses negative numbers.

    Args:
      per_phase: one entry for each phase; numbers, or arrays of one shape, if the number of the phase may be traced.
      phase_index: number of the phase, from 0.

    Returns:
      `per_phase[phase_index]`; an array of jax, if `phase_index` is traced.

    Raises:
      IndexError: there is no such phase.
      TypeError: `phase_index` is traced, and the entries are not numbers.

    Examples:
      >>> import jax
      >>> from lfr_jax import schedule
      >>> schedule.of_phase((0.0, 0.5, 0.0, 0.75), 1)
      0.5
      >>> float(jax.jit(lambda phase_index: schedule.of_phase((0.0, 0.5, 0.0, 0.75), phase_index))(3))
      0.75
    """
    check_phase(per_phase, phase_index)
    if not is_traced(phase_index):
        return per_phase[operator.index(phase_index)]
    try:
        table = np.asarray(per_phase)
    except ValueError:  # of different lengths
        table = np.array(None)
    if not (np.issubdtype(table.dtype, np.number) or table.dtype == bool):
        raise TypeError(
            f"the entries of the phases are {type(per_phase[0]).__name__}, expected numbers, as phase_index is traced"
        )
    return jnp.asarray(table)[phase_index]


def phase_switch(functions: Sequence[Callable], phase_index: int | jax.Array, *operands) -> Any:
    """Calls the function of a phase, as `jax.lax.switch` does. Each different function is compiled once.

    Args:
      functions: one for each phase. Let phases share a function object where they do the same.
      phase_index: number of the phase, from 0.
      *operands: trees of arrays, which the function gets.

    Returns:
      What the function returns. If `phase_index` is traced, all functions must return the same shapes and types.

    Raises:
      IndexError: there is no such phase.
      TypeError: `phase_index` is traced, and there are more than 64 different functions, or their results differ in
        shape or type.

    Examples:
      >>> import jax
      >>> from lfr_jax import schedule
      >>> double, half = lambda x: 2 * x, lambda x: x / 2
      >>> begin = jax.jit(lambda phase_index: schedule.phase_switch((double, half, double), phase_index, 3.0))
      >>> [float(begin(index)) for index in range(3)]
      [6.0, 1.5, 6.0]
    """
    check_phase(functions, phase_index)
    if not is_traced(phase_index):
        return functions[operator.index(phase_index)](*operands)
    different = {id(function): function for function in functions}
    if len(different) > MOST_FUNCTIONS:
        raise TypeError(
            f"phases have {len(different)} different functions, expected at most {MOST_FUNCTIONS}, as phase_index is "
            "traced: let phases share a function that looks up numbers by of_phase"
        )
    place = {key: number for number, key in enumerate(different)}
    places = np.array([place[id(function)] for function in functions], np.int32)
    return jax.lax.switch(of_phase(places, phase_index), list(different.values()), *operands)


def is_traced(phase_index: int | jax.Array) -> bool:
    """Whether the number of a phase is not known while the program is traced."""
    return isinstance(phase_index, jax.core.Tracer)
