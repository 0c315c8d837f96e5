"""Folding losses: against a loop over the batch, in any order, in place, under a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfr_jax.schedule import init_measured, observe

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
    known = init_measured(N)
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
    want = observe_jit(init_measured(N), ids, values, 0)
    for _ in range(5):
        order = rng.permutation(64)
        jax.tree.map(np.testing.assert_array_equal, observe_jit(init_measured(N), ids[order], values[order], 0), want)


def test_large_duplicates_do_not_overflow():
    """Catches: adding up before dividing."""
    known = observe(init_measured(2), jnp.array([1, 1, 1]), jnp.array([3e38, 3e38, 3e38]), 0)
    assert known.loss[1] == np.float32(3e38)


def test_bfloat16_losses_and_an_empty_batch():
    """Catches: the state taking on the losses' dtype; a scan over nothing."""
    known = observe(init_measured(2), jnp.array([0]), jnp.array([1.5], jnp.bfloat16), 3)
    assert known.loss.dtype == jnp.float32 and known.loss[0] == 1.5
    again = observe(known, jnp.zeros(0, jnp.int32), jnp.zeros(0), 4)
    jax.tree.map(np.testing.assert_array_equal, again, known)


def test_no_memory_of_the_size_of_the_corpus():
    """Catches: a scratch array of N entries (segment_sum, a mask); a state that cannot be donated."""
    n = 1_000_000
    step = jax.jit(observe, donate_argnums=0)
    compiled = step.lower(init_measured(n), jnp.zeros(64, jnp.int32), jnp.zeros(64), 0).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < n / 8
    assert memory.alias_size_in_bytes >= 8 * n


def test_a_scoring_pass_is_folded_in_without_sorting():
    """Catches: rising ids taken for unsorted (whose bits would be the same, but at forty times the cost);
    equal, falling or foreign ids taken for rising; padding in the middle; losses lost with a NaN before them."""
    lowered = jax.jit(observe).lower(init_measured(N), jnp.zeros(4, jnp.int32), jnp.zeros(4), 0)
    text = lowered.as_text()
    assert text.index("stablehlo.case") < text.index("stablehlo.sort")  # in a branch
    values = jnp.array([1.0, jnp.nan, 3.0, 4.0])
    for ids, want in (
        ([0, 2, 3, 5], [1, None, None, 3, None, 4]),
        ([1, 2, -1, -1], [None, 1, None, None, None, None]),
        ([1, 2, 5, 5], [None, 1, None, None, None, 3.5]),
        ([5, 4, 3, 5], [None, None, None, 3, None, 2.5]),
        ([5, 2, -1, 5], [None, None, None, None, None, 2.5]),
        ([0, 2, N + 9, 0], [2.5, None, None, None, None, None]),
    ):
        got = observe_jit(init_measured(N), jnp.array(ids, jnp.int32), values, 0).loss
        np.testing.assert_array_equal(got, np.array(want, np.float32), err_msg=str(ids))


def test_ids_of_either_kind():
    """Catches: unsigned padding taken for a block; negative ids that wrap round to one."""
    for dtype in (jnp.uint8, jnp.int8, jnp.int16, jnp.uint32, jnp.int32):
        ids = jnp.array([1, -1 % 256 if dtype == jnp.uint8 else -1, 4]).astype(dtype)
        known = observe(init_measured(N), ids, jnp.array([1.0, 2.0, 3.0]), 7)
        assert known.step.tolist() == [-1, 7, -1, -1, 7, -1]


def test_errors():
    """Catches: dropping a check, after which losses would be broadcast or ids rounded."""
    with pytest.raises(TypeError, match="float32, expected integers"):
        observe(init_measured(2), jnp.zeros(2), jnp.zeros(2), 0)
    with pytest.raises(ValueError, match=r"ids have shape \(2,\), losses \(1,\)"):
        observe(init_measured(2), jnp.zeros(2, jnp.int32), jnp.zeros(1), 0)
