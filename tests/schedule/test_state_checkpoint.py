"""The state of every policy comes back from a checkpoint, ours or plain Orbax's, and goes on as if nothing had been."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from policies import SCHEDULES, N, block_info, gamma, same

from lfr_jax.storage.checkpoint import Checkpointer


class Carried(NamedTuple):
    """Something with a step, as `Checkpointer` asks for."""

    step: jax.Array
    schedules: dict[str, Any]


@pytest.fixture(scope="module")
def states():
    """Every schedule, some losses measured, in its second phase if it has one, some more losses measured."""
    made = {}
    for name, s in SCHEDULES.items():
        ids = jnp.arange(N, dtype=jnp.int32)
        state = s.begin(s.observe(s.init(block_info()), ids, gamma(N, 0), 0), 0)
        state = s.begin(s.observe(state, ids, gamma(N, 1).at[3].set(jnp.nan), 1), min(1, len(s.phases) - 1))
        made[name] = s.observe(state, jnp.where(ids % 2, ids, -1), gamma(N, 2), 2)
    return made


def abstract(tree):
    """Shapes, types and places: what a checkpoint is restored into."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def ours(folder, states):
    """Saved and restored by the project's own checkpoints."""
    state = Carried(jnp.int32(2), states)
    writer = Checkpointer(folder, keep=1)
    writer.save(state, {})
    writer.close()
    reader = Checkpointer(folder, keep=1)
    restored, _ = reader.restore(abstract(state))
    reader.close()
    return restored.schedules


def plain_orbax(folder, states):
    """Saved and restored as Orbax's own documentation does it."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", states)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state", abstract(states))


@pytest.mark.parametrize("round_trip", [pytest.param(ours, marks=pytest.mark.slow), plain_orbax])
def test_a_state_survives_a_checkpoint(round_trip, states, tmp_path):
    """Catches: a Python number, a None or a function in a state; a field whose type no checkpoint holds;
    a policy that remembers something outside of its state."""
    restored = round_trip(tmp_path, states)
    for name, s in SCHEDULES.items():
        same(restored[name], states[name], f"{name}: ")
        last, after = len(s.phases) - 1, []
        for state in (states[name], restored[name]):
            state = s.observe(state, jnp.arange(N, dtype=jnp.int32), gamma(N, 3), 3)
            state = s.begin(state, last)
            after.append((state, s.rates(state)))
        same(*after, f"{name}: ")


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_state_is_arrays_and_nothing_else(name):
    """Catches: a Python number or None in the state, which a checkpoint would lose or change."""
    state = SCHEDULES[name].init(block_info())
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state, is_leaf=lambda x: x is None))
