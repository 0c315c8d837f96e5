"""Every policy under jit, vmap and scan: as a part of other people's compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from policies import SCHEDULES, N, block_info, gamma, run, same

pytestmark = pytest.mark.apart
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
weighing_schedules = pytest.mark.parametrize("name", [name for name, s in SCHEDULES.items() if s.loss_weights])


@every_schedule
def test_a_sweep_under_jit_and_vmap(name):
    """Catches: Python control flow on values; an axis counted from the front; state kept outside of the state."""
    s, state = SCHEDULES[name], SCHEDULES[name].init(block_info())
    observe = jax.jit(jax.vmap(s.observe, in_axes=(0, None, 0, None)))
    begin = jax.jit(jax.vmap(s.begin, in_axes=(0, None)))
    ids_N, losses_Px3xN = jnp.arange(N, dtype=jnp.int32), gamma((len(s.phases), 3, N))
    together, alone = jax.tree.map(lambda x: jnp.stack([x] * 3), state), [state] * 3
    for index in range(len(s.phases)):
        start, losses_3xN = s.phases[index].start, losses_Px3xN[index]
        together = begin(observe(together, ids_N, losses_3xN, start), index)
        alone = [s.begin(s.observe(state, ids_N, losses_N, start), index) for state, losses_N in zip(alone, losses_3xN)]
        after = jax.device_get((together, jax.vmap(s.rates)(together)))
        for i, state in enumerate(alone):
            same(jax.tree.map(lambda x: x[i], after), (state, s.rates(state)))


@every_schedule
def test_a_state_keeps_its_types(name):
    """Catches: a shape, dtype or weak type that changes: a train step that carries the state is compiled again."""
    s, state = SCHEDULES[name], SCHEDULES[name].init(block_info())
    ids_B, losses_B = jnp.zeros(8, jnp.int32), jnp.ones(8)
    expected = types_of(state)
    assert types_of(jax.eval_shape(lambda: s.init(block_info()))) == expected
    assert types_of(jax.eval_shape(s.observe, state, ids_B, losses_B, jnp.int32(0))) == expected
    for index in range(len(s.phases)):
        assert types_of(jax.eval_shape(lambda state: s.begin(state, index), state)) == expected
    assert types_of(jax.eval_shape(s.begin, state, jnp.int32(0))) == expected


@every_schedule
def test_a_state_keeps_its_types_where_numbers_have_64_bits(name):
    """Catches: a random number, a mean or an array of the default type, where JAX_ENABLE_X64 is set."""
    with jax.enable_x64(True):
        s, state = SCHEDULES[name], SCHEDULES[name].init(block_info())
        expected = types_of(state)
        assert not {"float64", "int64"} & {x.dtype.name for x in jax.tree.leaves(state)}
        observed = jax.eval_shape(s.observe, state, jnp.zeros(8, jnp.int32), jnp.ones(8), np.int32(0))
        assert types_of(observed) == types_of(jax.eval_shape(s.begin, state, np.int32(1))) == expected
        assert jax.eval_shape(s.rates, state).dtype == jnp.float32


def types_of(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype), x.weak_type), tree)


@every_schedule
def test_a_state_can_be_donated(name):
    """Catches: one array in two fields of a state, which `init` or `begin` put there."""
    s, traced = SCHEDULES[name], []

    def observe(state, ids, losses, step):
        traced.append(1)
        return s.observe(state, ids, losses, step)

    observe, begin = jax.jit(observe, donate_argnums=0), jax.jit(s.begin, donate_argnums=0)
    state = s.init(block_info())
    for index, phase in enumerate(s.phases):
        state = observe(state, jnp.arange(N, dtype=jnp.int32), gamma(N, index), phase.start)
        state = begin(state, index)
    observe(state, jnp.arange(N, dtype=jnp.int32), gamma(N), 0)
    assert len(traced) == 1


@every_schedule
def test_a_whole_run_under_scan(name):
    """Catches: a number of the phase that must be known; other bits with a traced one; a table off by a phase."""
    s, ids_N = SCHEDULES[name], jnp.arange(N, dtype=jnp.int32)
    losses_PxN = gamma((len(s.phases), N)).at[:, 3].set(jnp.nan)
    starts_P = jnp.array([phase.start for phase in s.phases], jnp.int32)

    def enter(state, x):
        losses_N, start, index = x
        state = s.begin(s.observe(state, ids_N, losses_N, start), index)
        return state, s.rates(state)

    of_phases = (losses_PxN, starts_P, jnp.arange(len(s.phases)))
    scanned = jax.jit(lambda state: jax.lax.scan(enter, state, of_phases))(s.init(block_info()))
    same(scanned, run(s, s.init(block_info()), losses_PxN))


@every_schedule
def test_training_steps_under_scan(name):
    """Catches: a state whose dtypes or structure change from step to step; a step that must be a Python number."""
    s = SCHEDULES[name]
    state = s.begin(s.init(block_info()), 0)
    rng = np.random.default_rng(0)
    ids_TxB = jnp.asarray(rng.integers(-1, N, (5, 8)), jnp.int32)
    losses_TxB = gamma((5, 8)).at[2, 3].set(jnp.nan)

    def step(state, x):
        return s.observe(state, *x), jnp.sum(s.rates(state))

    scanned, _ = jax.jit(lambda state: jax.lax.scan(step, state, (ids_TxB, losses_TxB, jnp.arange(5))))(state)
    for t in range(5):
        state = s.observe(state, ids_TxB[t], losses_TxB[t], t)
    same(scanned, state)


@weighing_schedules
def test_loss_weights_under_jit_and_vmap(name):
    """Catches: a weight for each block of the corpus in place of the batch; Python control flow on losses."""
    s, state = SCHEDULES[name], SCHEDULES[name].init(block_info())
    ids_3xB = jnp.asarray(np.random.default_rng(0).integers(0, N, (3, 8)), jnp.int32)
    losses_3xB = gamma((3, 8))
    weigh = jax.jit(jax.vmap(s.loss_weights, in_axes=(None, 0, 0)))
    for index, phase in enumerate(s.phases):
        state = s.begin(s.observe(state, jnp.arange(N, dtype=jnp.int32), gamma(N, index), phase.start), index)
        weights_3xB = weigh(state, ids_3xB, losses_3xB)
        assert weights_3xB.shape == (3, 8) and weights_3xB.dtype == jnp.float32
        for weights_B, ids_B, losses_B in zip(weights_3xB, ids_3xB, losses_3xB):
            same(weights_B, s.loss_weights(state, ids_B, losses_B))


@weighing_schedules
@pytest.mark.parametrize("loss", [0.0, np.nan, np.finfo(np.float32).max])
def test_loss_weights_whatever_the_losses(name, loss):
    """Catches: a division by a spread or by a sum of 0; an exponential that overflows; one loss that spoils all."""
    s = SCHEDULES[name]
    state = s.init(block_info())
    for index in range(len(s.phases)):
        state = s.begin(state, index)
        for losses_B in (gamma(8).at[3].set(loss), jnp.full(8, loss)):
            weights_B = s.loss_weights(state, jnp.arange(8, dtype=jnp.int32), losses_B)
            weights_B = np.asarray(weights_B)[np.isfinite(losses_B)]
            assert np.isfinite(weights_B).all() and (weights_B >= 0).all() and (weights_B.any() or not weights_B.size)


@weighing_schedules
def test_padding_weighs_nothing(name):
    """Catches: a mean or an extreme over the batch that a row of padding, whose loss is 0/0, takes part in."""
    s = SCHEDULES[name]
    state = s.begin(s.init(block_info()), len(s.phases) - 1)
    ids_B, losses_B = jnp.arange(6, dtype=jnp.int32), gamma(6)
    padded_ids_B = jnp.append(ids_B, jnp.array([-1, -1], jnp.int32))
    padded_B = jnp.append(losses_B, jnp.full(2, jnp.nan))
    weights_B = s.loss_weights(state, padded_ids_B, padded_B)
    same(weights_B[:6], s.loss_weights(state, ids_B, losses_B))
