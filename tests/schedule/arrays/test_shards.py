"""Schedules whose per-block arrays are spread over eight devices: the bits of one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax import schedule
from lfr_jax.schedule.arrays.groups import per_block
from lfr_jax.schedule.arrays.observe import Measured
from lfr_jax.schedule.arrays.shards import on_shards

N = 512
LENGTHS = dict(learn=4, focus=4, review=4, focus2=4, reps=1)
POLICIES = {
    "pass": schedule.lfr(**LENGTHS),
    "detrended": schedule.lfr(**LENGTHS, scores="detrended"),
    "domain": schedule.lfr(**LENGTHS, unmeasured="domain"),
}
LAYOUTS = [(name, axis_type, ("a", "b")) for name in POLICIES for axis_type in (AxisType.Auto, AxisType.Explicit)]
LAYOUTS.append(("pass", AxisType.Explicit, "b"))  # each part of the blocks is on two devices


def mesh_of(axis_type):
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(axis_type,) * 2)


def life(s, put, whole):
    """Through all phases: a state that `put` places, and the rates of each phase."""
    rng = np.random.default_rng(0)
    domain = rng.integers(0, 3, N)
    state = put(s.init(schedule.BlockInfo(N, domain=domain)))
    observe, begin = jax.jit(s.observe, donate_argnums=0), jax.jit(s.begin, donate_argnums=0)
    rates = []
    for i, phase in enumerate(s.phases):
        for step in range(phase.start, phase.stop):
            if s.observe_train:  # at random, some of them twice
                ids = rng.integers(-1, N, 128)
            else:  # a scoring pass that leaves blocks out, and ends in padding
                ids = np.where(rng.random(128) < 0.7, np.arange(128) + 128 * (step % 4), N)
                ids = np.where(np.sort(ids) < N, np.sort(ids), -1)
            losses = rng.gamma(2, 1, 128) + np.where(rng.random(128) < 0.1, np.nan, 3 / (1 + step))
            state = observe(
                state, *whole((np.int32(ids), np.float32(losses))), step if s.observe_train else phase.start
            )
        state = begin(state, i)
        rates.append(np.asarray(s.rates(state)))
    return state, rates


@functools.cache
def on_one_device(name):
    return life(POLICIES[name], lambda x: x, lambda x: x)


@pytest.mark.parametrize("name, axis_type, axes", LAYOUTS)
def test_life_of_a_sharded_state(name, axis_type, axes):
    """Catches: ids counted per shard; a scatter that hits every shard; sums of floats over devices; ties by
    the place within a shard; a state that ends up whole on every device."""
    mesh = mesh_of(axis_type)

    def place(x):
        return jax.device_put(x, NamedSharding(mesh, P(axes) if np.shape(x) == (N,) else P()))

    with jax.set_mesh(mesh):
        state, rates = life(POLICIES[name], lambda x: jax.tree.map(place, x), lambda x: jax.tree.map(place, x))
    for part in (state.measured.loss, state.measured.step, state.rate):
        assert part.sharding.is_equivalent_to(NamedSharding(mesh, P(axes)), 1)
    jax.tree.map(np.testing.assert_array_equal, (state, rates), on_one_device(name))
    assert 0 < rates[1].sum() < N and (np.asarray(state.measured.step) < 0).any()


def test_works_outside_of_jit_and_of_the_mesh():
    """Catches: relying on the mesh of the context; work that only a jitted caller can do."""
    mesh = mesh_of(AxisType.Explicit)
    rows, whole = NamedSharding(mesh, P("b")), NamedSharding(mesh, P())
    ids, losses = np.array([3, 0, 500, 3], np.int32), np.array([2.0, 1.0, 4.0, 3.0], np.float32)
    want = schedule.observe(schedule.init_measured(N), ids, losses, 3)
    measured = jax.device_put(schedule.init_measured(N), Measured(rows, rows, whole))
    got = schedule.observe(measured, jax.device_put(ids, whole), jax.device_put(losses, whole), 3)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    np.testing.assert_array_equal(schedule.hardest(got.loss, 100), schedule.hardest(want.loss, 100))


def test_a_sweep_of_sharded_states():
    """Catches: a batch axis taken for that of the blocks."""
    mesh = mesh_of(AxisType.Explicit)
    scores = np.random.default_rng(0).integers(0, 9, (3, N)).astype(np.float32)
    sharded = jax.device_put(scores, NamedSharding(mesh, P(None, "b")))
    with jax.set_mesh(mesh):
        got = jax.jit(jax.vmap(lambda x: schedule.hardest(x, 100)))(sharded)
    np.testing.assert_array_equal(got, np.stack([schedule.hardest(x, 100) for x in scores]))


def test_values_of_groups_are_looked_up_where_the_blocks_lie():
    """Catches: a gather by sharded numbers, which explicit axes refuse."""
    mesh = mesh_of(AxisType.Explicit)
    of = jax.device_put(np.arange(N, dtype=np.int32) % 3, NamedSharding(mesh, P("b")))
    whole = jax.device_put(np.float32([5, 6, 7]), NamedSharding(mesh, P()))
    got = per_block(whole, schedule.Groups(of, jnp.zeros(3, jnp.int32)))
    assert got.sharding.spec == P("b") and np.asarray(got)[:4].tolist() == [5, 6, 7, 5]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_each_device_works_on_its_own_blocks(axis_type):
    """Catches: arrays of all N blocks on a device (a gather, an index hash of all, a copied state)."""
    n, mesh = 1 << 20, mesh_of(axis_type)
    rows, whole = NamedSharding(mesh, P(("a", "b"))), NamedSharding(mesh, P())

    def like(shape, dtype, sharding=whole):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    known = Measured(like((n,), jnp.float32, rows), like((n,), jnp.int32, rows), like((), jnp.int32))
    batch = like((64,), jnp.int32), like((64,), jnp.float32), like((), jnp.int32)
    groups = schedule.Groups(like((n,), jnp.int32, rows), like((3,), jnp.int32))
    for f, arguments, bytes_a_block in (
        (jax.jit(schedule.observe, donate_argnums=0), (known, *batch), 1),
        (jax.jit(schedule.hardest, static_argnums=1), (known.loss, n // 2), 16),
        (jax.jit(schedule.group_means), (known.loss, groups), 20),
        (jax.jit(schedule.detrend, static_argnums=1), (known, 8), 60),
    ):
        memory = f.lower(*arguments).compile().memory_analysis()
        assert memory.temp_size_in_bytes < bytes_a_block * n // 8


def test_more_blocks_than_31_bits_number():
    """Catches: ids, counts or the first block of a shard as int32; too many blocks on one device."""
    n, mesh = 3 << 30, mesh_of(AxisType.Explicit)
    rows, whole = NamedSharding(mesh, P(("a", "b"))), NamedSharding(mesh, P())
    blocks, batch = jax.ShapeDtypeStruct((n,), jnp.float32, sharding=rows), jnp.zeros(4, jnp.uint32, device=whole)
    first = jax.jit(lambda x_N: on_shards(lambda shard, x_N, _: shard.first[None], x_N))
    assert [first.eval_shape(blocks).dtype, first.eval_shape(blocks).shape] == [jnp.uint32, (8,)]
    known = Measured(blocks, jax.ShapeDtypeStruct((n,), jnp.int32, sharding=rows), jnp.int32(0))
    observed = jax.eval_shape(schedule.observe, known, batch, batch.astype(jnp.float32), 0)
    marked = jax.eval_shape(functools.partial(schedule.hardest, k=n - 1), blocks)
    assert observed.loss.sharding.spec == marked.sharding.spec == P(("a", "b"))
    schedule.types.num_blocks(schedule.BlockInfo(n))
    with pytest.raises(ValueError, match="3221225472 blocks in 1 parts, expected less than 2\\*\\*31 in each"):
        jax.eval_shape(functools.partial(schedule.hardest, k=1), jax.ShapeDtypeStruct((n,), jnp.float32))
    with pytest.raises(ValueError, match="num_blocks is 4294967296"):
        schedule.types.num_blocks(schedule.BlockInfo(2**32))
