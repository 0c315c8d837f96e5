"""When the jitted functions of a run are compiled: off the clock, and the train step while other things are made ready.

Compiling is no work of a run, so that runs can be compared.
"""

import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np


def compiled_off_the_clock(
    jitted: Callable, paused: Callable[[], AbstractContextManager], together: Callable[[], Any] = lambda: None
) -> Callable:
    """Compiles a jitted function at its first call, and again for each new shape of its arguments behind the first.

    The time that it takes counts apart. The shapes of the first argument must not change.

    Args:
      paused: makes the context in which it compiles, such as `Clock.stage` with the name of a stage.
      together: returns once all processes of a run have called it.
    """
    executables: dict[Any, Callable] = {}

    def call(*args):
        shapes = shapes_of(args)
        if shapes not in executables:
            jax.block_until_ready(args)  # steps still running are work, and must be counted
            with paused():
                executables[shapes] = jitted.lower(*args).compile()
                together()  # on CPUs, a collective fails if one process comes 30 s later than another
        return executables[shapes](*args)

    return call


class CompiledAhead:
    """A jitted function that is being compiled for arguments of these shapes, in a thread.

    `lower` and `compile` are as those of a jitted function. For arguments of the same shapes `compile` waits for the
    thread, and raises what was raised in it. A context manager, at whose end the thread has ended.

    Args:
      args: `jax.ShapeDtypeStruct`s with shardings.
    """

    def __init__(self, jitted: Callable, *args):
        self.jitted, self.__name__, self.shapes = jitted, jitted.__name__, shapes_of(args)
        lowered = jitted.lower(*args)  # not in the thread: JAX's settings, such as the mesh, are those of a thread
        self.pool = ThreadPoolExecutor(1)
        self.executable = self.pool.submit(lowered.compile)

    def lower(self, *args):
        if shapes_of(args) == self.shapes:
            return types.SimpleNamespace(compile=self.executable.result)
        return self.jitted.lower(*args)

    def __enter__(self) -> "CompiledAhead":
        return self

    def __exit__(self, *_) -> None:
        self.pool.shutdown()


def shapes_of(args: tuple) -> tuple[tuple[int, ...], ...]:
    """Of all arrays behind the first argument."""
    return tuple(map(np.shape, jax.tree.leaves(args[1:])))
