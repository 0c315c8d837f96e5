"""Exact-k selection: against a sort, in ties, at the edges of float32, and sharded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax.schedule import hardest
from lfr_jax.schedule.arrays.select import index_hash

SIZE = 24
hardest_jit = jax.jit(hardest)  # k traced: one compilation for all
floats = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


def as_sortable(scores):
    """A key for each score that sorts as documented: NaN above inf, −0 equal to 0."""
    return [(2, 0.0) if np.isnan(s) else (1, 0.0) if s == np.inf else (0, float(s)) for s in scores]


@settings(deadline=None, max_examples=200)
@given(st.lists(floats, min_size=SIZE, max_size=SIZE), st.integers(0, SIZE))
def test_marks_k_of_the_largest(scores, k):
    """Catches: > for >= in the search; 31 bits; an unflipped sign; NaN or subnormals misplaced."""
    scores = np.array(scores, np.float32)
    marked = np.asarray(hardest_jit(scores, k))
    keys = as_sortable(scores)
    assert marked.sum() == k
    assert sorted(key for key, m in zip(keys, marked) if m) == sorted(keys)[SIZE - k :]


@pytest.mark.parametrize("value", [0.0, -1.5, np.inf, -np.inf, np.nan, np.float32(1e-45)])
@pytest.mark.parametrize("k", [0, 1, 11, SIZE])
def test_all_equal(value, k):
    """Catches: keeping all ties, or none; k = 0 keeping the block of the highest hash."""
    marked = np.asarray(hardest(jnp.full(SIZE, value, jnp.float32), k))
    assert marked.sum() == k
    np.testing.assert_array_equal(marked, hardest(jnp.zeros(SIZE), k))  # ties depend on the index alone


def test_order_at_the_edges():
    """Catches: float comparisons (subnormals flushed to 0); −0 below +0; NaN or −NaN lowest."""
    tiny = np.float32(1e-45)
    ascending = np.array([-np.inf, -3e38, -1, -tiny, 0, tiny, 1, 3e38, np.inf, np.nan], np.float32)
    for k in range(len(ascending) + 1):
        assert hardest(ascending, k).tolist() == [False] * (len(ascending) - k) + [True] * k
    negative_nan = np.array([np.inf, np.copysign(np.nan, -1)], np.float32)
    assert np.signbit(negative_nan[1]) and hardest(negative_nan, 1).tolist() == [False, True]
    mixed = np.where(np.arange(SIZE) % 3, 0.0, -0.0).astype(np.float32)
    np.testing.assert_array_equal(hardest(mixed, 9), hardest(np.zeros(SIZE, np.float32), 9))


def test_empty():
    """Catches: reductions over nothing."""
    assert hardest(jnp.zeros(0), 0).shape == (0,)


def test_ties_favour_no_region():
    """Catches: ties by index (a prefix is kept); a hash that keeps the stride of the index."""
    n = 1 << 14
    marked = np.asarray(hardest(jnp.zeros(n), n // 2))
    strided = [marked[i::stride] for stride in (2, 3, 64) for i in (0, 1)]
    for part in [marked[: n // 2], marked[: n // 16], *strided]:
        assert abs(part.mean() - 0.5) < 4 * 0.5 / len(part) ** 0.5


def test_hash_is_a_bijection():
    """Catches: a shift that is not XORed in; index 0 hashed to 0, so that it always loses."""
    hashes = np.asarray(index_hash(1 << 16))
    assert len(np.unique(hashes)) == 1 << 16
    assert hashes[0] != 0


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_equals_unsharded(axis_type):
    """Catches: a sort, top_k or prefix sum (they raise on a sharded axis); an index counted per shard;
    hashes of all N indices on every device."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    rng = np.random.default_rng(0)
    for scores in (rng.integers(0, 5, 4096), rng.normal(size=4096), np.full(4096, np.nan)):
        scores = scores.astype(np.float32)
        with jax.set_mesh(mesh):
            sharding = NamedSharding(mesh, P("data"))
            marked = jax.jit(hardest, static_argnums=1)(jax.device_put(scores, sharding), 1234)
            if axis_type == AxisType.Explicit:
                assert marked.sharding.spec == P("data")
        np.testing.assert_array_equal(marked, hardest(scores, 1234))
        assert marked.sum() == 1234


def test_ties_across_digits_and_a_traced_k():
    """Catches: a digit searched from the wrong place; ties searched when none has to go, or not searched."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 64, dtype=np.uint32) & rng.integers(0, 2**32, 64, dtype=np.uint32)
    scores = np.repeat(np.abs(np.nan_to_num(bits.view(np.float32))), 3)
    for k in range(0, 193, 7):
        marked = np.asarray(hardest_jit(scores, k))
        assert marked.sum() == k
        assert sorted(scores[marked]) == sorted(scores)[192 - k :]


def test_memory():
    """Catches: a sort; an array of N entries for each of the values that are counted at once."""
    n = 1 << 20
    compiled = jax.jit(hardest, static_argnums=1).lower(jax.ShapeDtypeStruct((n,), jnp.float32), n // 2).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 16 * n


def test_errors():
    """Catches: dropping a check."""
    with pytest.raises(ValueError, match="k is 4, expected 0 to 3"):
        hardest(jnp.zeros(3), 4)
    with pytest.raises(ValueError, match="k is -1"):
        hardest(jnp.zeros(3), -1)
    with pytest.raises(ValueError, match=r"int32\[3\], expected float32\[N\]"):
        hardest(jnp.zeros(3, jnp.int32), 1)
