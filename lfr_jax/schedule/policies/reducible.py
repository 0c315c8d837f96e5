"""Blocks that the model can still learn from, by the loss of a reference model."""

import functools

import jax

from lfr_jax.schedule.arrays.estimate import Scores, Unmeasured
from lfr_jax.schedule.arrays.select import hardest
from lfr_jax.schedule.by_loss import scored
from lfr_jax.schedule.checks import KEEP, real_number
from lfr_jax.schedule.phases import in_rounds, num_chosen
from lfr_jax.schedule.types import Schedule


def reducible(
    *,
    first: int = 2000,
    later: int = 1000,
    rounds: int = 5,
    keep: float = 0.5,
    scores: Scores = "pass",
    unmeasured: Unmeasured = "hardest",
) -> Schedule:
    r"""A round over all blocks, then rounds over those whose loss is furthest above a reference model's.

    $$ r_i = [\, i \in \text{the } k \text{ with the highest } \ell_i - \ell^{\text{ref}}_i \,],
       \quad k = \lceil \text{keep} \cdot N \rceil $$

    Here $\ell^{\text{ref}}_i$ is the loss under a model that was trained on other, held-out text. Noise is
    hard for both models, and what is learned is easy for both. A large difference is left for blocks that can be
    learned and are not yet.

    The paper does this within each batch: out of 320 examples it trains on the 32 with the highest
    difference (so the authors' code). This policy is its counterpart for blocks, and chooses anew in
    each round. As it chooses for a whole round at once, it takes a larger share.

    Args:
      first, later: length of the first round and of each later one, in steps. By default each round
        is one pass over its blocks. Ours.
      rounds: how many there are, the first one included. Ours.
      keep: share of the blocks that a later round draws. Ours; the paper takes a tenth of each batch.
      scores: as of `lfr`, but for the differences. Under "pass" the parameters are the same for all blocks.
      unmeasured: as of `lfr`, but "domain" and "cluster" give a block the mean difference of its
        group. A block whose reference loss is NaN counts as unmeasured.

    Returns:
      The schedule, with phases 'round.1', 'round.2', ... Its state is a `ScoredState`:
      `measured` (f32[N], i32[N], i32[]), `info` with the reference losses f32[N], and `rate` bool[N].

    Raises:
      ValueError: a length or `rounds` is not a positive whole number, `keep` is outside (0, 1],
        or `scores` or `unmeasured` has another value. From `init`: there is no `BlockInfo.ref_loss`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.reducible(keep=0.25)
      >>> state = s.init(schedule.BlockInfo(4, ref_loss=jnp.array([1.0, 7.5, 2.0, 3.0])))
      >>> state = s.observe(state, jnp.arange(4), jnp.array([2.0, 8.0, 5.0, 4.5]), 9)
      >>> s.rates(s.begin(state, 1)).tolist()  # the differences are 1, 0.5, 3 and 1.5
      [0.0, 0.0, 1.0, 0.0]

    References:
      Mindermann et al., "Prioritized Training on Points that are Learnable, Worth Learning, and
      Not Yet Learnt" (RHO-LOSS), arXiv 2206.07137.
    """
    keep = real_number("keep", keep, KEEP)
    phases = in_rounds(rounds=rounds, first=first, later=later, score=scores in ("pass", "mixed"))
    choices = (None,) + (functools.partial(keep_highest, keep=keep),) * (len(phases) - 1)
    return scored(phases, choices, scores=scores, unmeasured=unmeasured, minus="ref_loss", policy="reducible")


def keep_highest(difference_N: jax.Array, info, keep: float) -> jax.Array:
    """bool[N]: the share `keep` of the blocks, those with the highest differences."""
    return hardest(difference_N, num_chosen(difference_N.shape[0], keep))
