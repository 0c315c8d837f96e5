"""A policy of its own for each group of blocks."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.estimate import one_of
from lfr_jax.schedule.arrays.groups import groups_of, relative
from lfr_jax.schedule.types import BlockInfo, Schedule, arrays_of, num_blocks

By = Literal["domain", "cluster", "length"]


class StratifiedState(NamedTuple):
    """State of a schedule that runs within each group."""

    place: jax.Array  # i32[N]: position of each block when the blocks are sorted by group
    first: jax.Array  # i32[G + 1]: position of the first block of each group that has blocks; and N
    inner: tuple[Any, ...]  # the states of the wrapped schedule, one for each of these groups


def stratified(schedule: Schedule, by: By = "domain") -> Schedule:
    r"""Runs a policy within each group, so that each group keeps its natural share of the draws.

    Each group has a state of its own, for its own blocks: a block is compared only with those of its group.
    With $r_i$ the rate of block i in its group g, it is drawn at

    $$ r'_i = r_i / \bar r_g, \qquad \bar r_g = \text{mean of } r_j \text{ over the group} $$

    so that a group of n_g blocks gets n_g / N of the draws (proportional allocation). There is a
    special case: each group draws some of its blocks, all at one rate, and their number differs by less than one from
    the same share of each group. Then $r'_i = 1$ for all blocks that are drawn, and equal rates make the phase shuffled
    epochs. The groups then get their natural share only up to this rounding, which is much for a group of few blocks:
    half of a group of 1,000 and half of ten groups of one block, rounded up, are 500 blocks and ten, so the ten get 2 %
    of the draws in place of 1 %.

    The cost grows with the number of groups, since each is compiled on its own. Tens are fine. A
    policy that chooses at random makes the same choice in groups of the same size. The state must not be sharded.

    Args:
      schedule: any.
      by: the array of `BlockInfo` that numbers the groups: "domain", "cluster" or "length".

    Returns:
      The schedule; its state is a `StratifiedState`. Loss weights and token weights are computed by group too: for each
      group, rows of other groups look like padding (id −1, loss NaN). An objective is scaled to mean 1 in each group,
      so that groups keep their natural share of it.

    Raises:
      ValueError: `by` has another value. From `init`: `BlockInfo` lacks the groups.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.stratified(schedule.lfr(reps=1, drop=0.5))
      >>> state = s.init(schedule.BlockInfo(4, domain=jnp.array([0, 1, 1, 0])))
      >>> state = s.observe(state, jnp.arange(4), jnp.array([1.0, 7.0, 8.0, 2.0]), 2000)
      >>> s.rates(s.begin(state, 1)).tolist()
      [0.0, 0.0, 1.0, 1.0]

    References:
      Cochran 1977, "Sampling Techniques", chapter 5 (proportional allocation).
    """
    one_of("by", by, By)

    def init(info):
        num_blocks(info)
        groups_of(info, by, "stratified")
        of_N = np.asarray(getattr(info, by))
        order_N = np.argsort(of_N, kind="stable")
        place_N = np.empty_like(order_N)
        place_N[order_N] = np.arange(len(order_N))
        starts = np.flatnonzero(np.diff(of_N[order_N])) + 1
        inner = tuple(schedule.init(only(info, blocks)) for blocks in np.split(order_N, starts))
        return StratifiedState(jnp.asarray(place_N, jnp.int32), jnp.array([0, *starts, len(of_N)], jnp.int32), inner)

    def observe(state, ids_B, losses_B, step, **extra):
        pairs = zip(state.inner, numbers(state, ids_B))
        return state._replace(inner=tuple(schedule.observe(x, own_B, losses_B, step, **extra) for x, own_B in pairs))

    def begin(state, phase_index):
        return state._replace(inner=tuple(schedule.begin(inner, phase_index) for inner in state.inner))

    def rates(state):
        return joined([schedule.rates(inner) for inner in state.inner])[state.place]

    def objective(state):
        return jnp.concatenate([shares(schedule.objective(inner)) for inner in state.inner])[state.place]

    def by_group(weights):
        def joint(state, ids_B, losses, **extra):
            total = jnp.zeros(losses.shape, jnp.float32)
            for inner, own_B in zip(state.inner, numbers(state, ids_B)):
                own = own_B >= 0 if losses.ndim == 1 else (own_B >= 0)[:, None]
                total = jnp.where(own, weights(inner, own_B, jnp.where(own, losses, jnp.nan), **extra), total)
            return total

        return weights and joint

    return schedule._replace(
        init=init,
        observe=observe,
        begin=begin,
        rates=rates,
        loss_weights=by_group(schedule.loss_weights),
        objective=schedule.objective and objective,
        token_weights=by_group(schedule.token_weights),
    )


def only(info: BlockInfo, blocks: np.ndarray) -> BlockInfo:
    """The `BlockInfo` of these blocks alone."""
    cut = {name: np.asarray(array)[blocks] for name, array in arrays_of(info).items()}
    domain, cluster, length = (cut.pop(name, None) for name in ("domain", "cluster", "length"))
    return BlockInfo(len(blocks), domain, cluster, length, cut, info.documents and parts_in(info, blocks))


def parts_in(info: BlockInfo, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parts of documents that these blocks have, of all documents."""
    number_N = np.full(info.num_blocks, -1)
    number_N[blocks] = np.arange(len(blocks))
    block_M, document_M, tokens_M = map(np.asarray, info.documents)
    own_M = number_N[block_M] >= 0
    return number_N[block_M[own_M]], document_M[own_M], tokens_M[own_M]


def numbers(state: StratifiedState, ids_B: jax.Array) -> list[jax.Array]:
    """For each group i32[B]: the blocks' numbers within it; −1 for blocks of other groups and for padding."""
    n, ids_B = state.place.shape[0], jnp.asarray(ids_B)
    known_B = (ids_B >= 0) & (ids_B < n)
    place_B = jnp.where(known_B, state.place[jnp.where(known_B, ids_B, 0).astype(jnp.int32)], -1)
    # Ids that are not integers stay floats, so that the policy refuses them.
    place_B = place_B.astype(jnp.promote_types(ids_B.dtype, jnp.int32))
    edges = zip(state.first[:-1], state.first[1:])
    return [jnp.where((place_B >= start) & (place_B < stop), place_B - start, -1) for start, stop in edges]


@jax.jit
def joined(rates: list[jax.Array]) -> jax.Array:
    """f32[N]: the rates r' of all groups, one group after another."""
    drawn = [rate > 0 for rate in rates]
    counts_G = jnp.stack([jnp.sum(mask, dtype=jnp.int32) for mask in drawn])
    sizes_G = np.array([rate.size for rate in rates], np.float32)
    one_rate = jnp.stack([jnp.all((rate == 0) | (rate == jnp.max(rate))) for rate in rates])
    # Is there one share that gives each group's count, rounded up or down? With a tolerance for the divisions.
    least, most = jnp.max((counts_G - 1) / sizes_G), jnp.min((counts_G + 1) / sizes_G)
    alike = jnp.all(one_rate) & (least <= most * np.float32(1 + 2**-22))
    return jnp.where(alike, jnp.concatenate(drawn), jnp.concatenate([relative(rate) for rate in rates]))


@jax.jit
def shares(objective: jax.Array) -> jax.Array:
    """f32[n]: the objective of a group divided by its mean; 0 if all of it is 0."""
    return jnp.where(jnp.any(objective > 0), relative(objective), 0.0)
