"""Made-up states of training, checkpoints of them, and what a test does to their files."""

import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax.storage.checkpoint import Checkpointer


class Schedule(NamedTuple):
    rates: Any
    nothing: Any
    seen: Any


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any
    schedule: Any


def mesh(*shape):
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)


def make_state(mesh, step=1, size=64):
    """A state of every kind of leaf, each of whose values depends on the step."""
    draw = np.random.default_rng(step)

    def put(x, *spec):
        return jax.device_put(x, NamedSharding(mesh, P(*spec)))

    w = draw.normal(size=(size, 16)).astype(np.float32)
    w[0, 0] = np.nan  # NaN and -0 must come back too
    w[0, 1] = -0.0
    return State(
        put(np.int32(step)),
        {"layers": {"w": put(w, "fsdp", "tensor")}, "b": put(w[1].astype(jnp.bfloat16), "tensor")},
        ((put(w * 2, "tensor", "fsdp"), ()), put(np.uint32(2**32 - step))),
        Schedule(put(draw.random(24).astype(np.float32), "fsdp"), put(np.zeros(0, np.float32)), put(w[1] > 0)),
    )


def abstract(state, mesh):
    """The shapes of `state`, to be restored on `mesh` with the first axis split where possible."""

    def leaf(x):
        spec = P("fsdp") if x.ndim and x.size else P()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(leaf, state)


def assert_equal(a, b):
    """Bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def saved_at(folder: str | os.PathLike, steps=(1, 2), size=4096) -> dict[int, State]:
    """Makes checkpoints with `meta` {"seconds": step / 3}; returns the state of each step.

    Of the default size, arrays lie outside of TensorStore's index, whose checksums notice a flip.
    """
    checkpoints = Checkpointer(folder, keep=3)
    states = {step: make_state(mesh(2, 2, 2), step, size) for step in steps}
    for step, state in states.items():
        checkpoints.save(state, {"seconds": step / 3})
    checkpoints.close()
    return states


def unfinished(folder: pathlib.Path) -> list[str]:
    """What a save that is under way, or was killed, has there."""
    return [path.name for path in folder.iterdir() if "tmp" in path.name]


def data_files(checkpoint_folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that hold arrays."""
    return sorted(path for path in (checkpoint_folder / "state").rglob("d/*"))


def size_of(path: pathlib.Path) -> int:
    return path.stat().st_size


def truncate(paths: list[pathlib.Path]) -> None:
    for path in paths:
        os.truncate(path, size_of(path) // 2)
