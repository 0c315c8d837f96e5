"""Folding losses: against a loop over the batch, in any order, in place, under a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lfr_jax.schedule import observe, unmeasured

N, B = 6, 9
observe_jit = jax.jit(observe)
losses = st.one_of(st.floats(0, 20, width=32), st.sampled_from([np.nan, np.inf, -np.inf]))
pairs = st.tuples(st.integers(-2, N + 1), losses)
batches = st.lists(pairs, min_size=B, max_size=B)


def arrays(batch):
    ids, values = zip(*batch)
    return np.array(ids, np.int32), np.array(values, np.float32)


@settings(deadline=None, max_examples=200)
@given(st.lists(batches, min_size=1, max_size=3))
def test_equals_a_loop(calls):
    """Catches: negative ids wrapping round; ids >= N clamped; the last duplicate winning; a sum for a
    mean; NaN written; padding or foreign ids counted as invalid; a step written to all."""
    known = unmeasured(N)
    loss, step, num_invalid = [np.nan] * N, [-1] * N, 0
    for now, batch in enumerate(calls):
        known = observe_jit(known, *arrays(batch), now)
        for i in range(N):
            mine = [x for j, x in batch if j == i]
            finite = [x for x in mine if np.isfinite(x)]
            num_invalid += len(mine) - len(finite)
            if finite:
                loss[i], step[i] = np.mean(finite), now
    np.testing.assert_allclose(known.loss, loss, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(known.step, step)
    assert known.num_invalid == num_invalid


def test_order_within_a_call_changes_no_bit():
    """Catches: sorting by id alone, so that duplicates are added up in the caller's order."""
    rng = np.random.default_rng(0)
    ids, values = rng.integers(0, N, 64).astype(np.int32), rng.gamma(2, 1, 64).astype(np.float32)
    want = observe_jit(unmeasured(N), ids, values, 0)
    for _ in range(5):
        order = rng.permutation(64)
        jax.tree.map(np.testing.assert_array_equal, observe_jit(unmeasured(N), ids[order], values[order], 0), want)


def test_large_duplicates_do_not_overflow():
    """Catches: adding up before dividing."""
    known = observe(unmeasured(2), jnp.array([1, 1, 1]), jnp.array([3e38, 3e38, 3e38]), 0)
    assert known.loss[1] == np.float32(3e38)


def test_bfloat16_losses_and_an_empty_batch():
    """Catches: the state taking on the losses' dtype; a scan over nothing."""
    known = observe(unmeasured(2), jnp.array([0]), jnp.array([1.5], jnp.bfloat16), 3)
    assert known.loss.dtype == jnp.float32 and known.loss[0] == 1.5
    again = observe(known, jnp.zeros(0, jnp.int32), jnp.zeros(0), 4)
    jax.tree.map(np.testing.assert_array_equal, again, known)


def test_no_memory_of_the_size_of_the_corpus():
    """Catches: a scratch array of N entries (segment_sum, a mask); a state that cannot be donated."""
    n = 1_000_000
    step = jax.jit(observe, donate_argnums=0)
    compiled = step.lower(unmeasured(n), jnp.zeros(64, jnp.int32), jnp.zeros(64), 0).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < n / 8
    assert memory.alias_size_in_bytes >= 8 * n


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_inside_a_mesh(axis_type):
    """Catches: operations that explicit axes refuse; losses that a sharded batch would leave sharded."""
    rng = np.random.default_rng(0)
    ids, values = rng.integers(-1, 20, 16).astype(np.int32), rng.gamma(2, 1, 16).astype(np.float32)
    want = observe(unmeasured(20), ids, values, 5)
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(axis_type,) * 2)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(known, ids_B, losses_B):
        if axis_type == AxisType.Explicit:
            ids_B, losses_B = jax.reshard(ids_B, P()), jax.reshard(losses_B, P())
        return observe(known, ids_B, losses_B, 5)

    with jax.set_mesh(mesh):
        rows = jax.NamedSharding(mesh, P("data"))
        known = jax.jit(lambda: unmeasured(20))()
        got = step(known, jax.device_put(ids, rows), jax.device_put(values, rows))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_errors():
    """Catches: dropping a check, after which losses would be broadcast or ids rounded."""
    with pytest.raises(TypeError, match="float32, expected integers"):
        observe(unmeasured(2), jnp.zeros(2), jnp.zeros(2), 0)
    with pytest.raises(ValueError, match=r"ids have shape \(2,\), losses \(1,\)"):
        observe(unmeasured(2), jnp.zeros(2, jnp.int32), jnp.zeros(1), 0)
