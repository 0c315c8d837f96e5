"""Beginning phases: one program for all of them, or one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax import schedule
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.train.begin import begin_compiled

LFR = schedule.lfr(learn=1, focus=1, review=1, focus2=1, reps=3)


def counted(s: schedule.Schedule) -> tuple[schedule.Schedule, list]:
    """The same schedule, and the list of the numbers with which its `begin` is called."""
    numbers = []

    def begin(state, phase_index):
        numbers.append(phase_index)
        return s.begin(state, phase_index)

    return s._replace(begin=begin), numbers


def compared(state, index):
    return 2 if index == 1 else 1


def indexed(state, index):
    return [1, 2, 3][index % 3]


def named(state, index):
    return {0: 1, 1: 2}.get(index, 3)


def of_objects(state, index):
    return schedule.of_phase(("a", "bb", "ccc") * 20, index).__len__()


def begun(s, put=lambda x: x):
    """The states at the beginnings of all phases, on the host."""
    begin, state, states = begin_compiled(s), put(s.init(schedule.BlockInfo(8))), []
    ids, losses_PxN = np.arange(8, dtype=np.int32), np.random.default_rng(0).gamma(4, 1, (len(s.phases), 8))
    for index, phase in enumerate(s.phases):
        losses_N = put(jnp.asarray(losses_PxN[index], jnp.float32))
        state = begin(jax.jit(s.observe)(state, put(ids), losses_N, np.int32(phase.start)), index)
        states.append(jax.device_get(state))
    return states


def test_one_program_serves_all_phases():
    """Catches: a compilation at each edge; two to begin with; the state copied, not donated."""
    s, numbers = counted(LFR)
    states = begun(s)
    assert len(numbers) == 1 and isinstance(numbers[0], jax.core.Tracer)
    state = LFR.init(schedule.BlockInfo(8))
    begin_compiled(LFR)(state, 0)
    assert state.measured.loss.is_deleted()
    assert {int(state.rate.sum()) for state in states} == {8, 4, 3}


@pytest.mark.parametrize("needs", [compared, indexed, named, of_objects])
def test_a_policy_that_needs_a_python_integer(needs):
    """Catches: a policy of somebody else that no longer trains; programs of past phases that are kept."""

    def begin(state, phase_index):
        return state._replace(rate=state.rate * 0 + needs(state, phase_index))

    s = schedule.scored(LFR.phases, (None,) * len(LFR.phases), dtype=jnp.float32)._replace(begin=begin)
    alive = jax.devices()[0].client.live_executables
    begun(s)
    before = len(alive())
    s, numbers = counted(s)
    states = begun(s)
    assert [state.rate[0] for state in states] == [needs(None, index) for index in range(len(LFR.phases))]
    assert numbers[1:] == list(range(len(LFR.phases)))
    assert len(alive()) < before + 5  # for ten phases


def test_an_error_of_the_policy_itself_is_raised():
    """Catches: a mistake in `begin` taken for the need of a Python integer, and lost."""

    def begin(state, phase_index):
        raise TypeError("a mistake")

    with pytest.raises(TypeError, match="a mistake"):
        begun(LFR._replace(begin=begin))


@pytest.mark.parametrize("policy", ["lfr", "softmax_rounds", "seta", "ado", "odm", "chain"])
def test_the_same_on_a_mesh(policy):
    """Catches: a number or a table that explicit axes refuse; other bits than on one device."""
    few = dict(seta=dict(rounds=4), ado=dict(rounds=6), odm=dict(rounds=3), lfr=dict(reps=1)).get(policy, {})
    chain = schedule.chain(schedule.uniform(2), LFR)
    s = chain if policy == "chain" else schedule.POLICIES[policy](**few)
    if policy in ("ado", "odm"):
        init = s.init
        s = s._replace(init=lambda info: init(info._replace(domain=np.arange(8) % 2)))
    mesh = make_mesh(2, 2, 2)

    def put(tree):
        return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, P())), tree)

    expected = begun(s)
    with jax.set_mesh(mesh):
        found = begun(s, put)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
