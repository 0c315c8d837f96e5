"""Fewer of the easy blocks, each with a larger weight."""

import functools

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.estimate import Scores, Unmeasured
from lfr_jax.schedule.arrays.groups import Groups, group_means
from lfr_jax.schedule.by_loss import scored
from lfr_jax.schedule.checks import DROP, real_number
from lfr_jax.schedule.phases import in_rounds
from lfr_jax.schedule.types import Schedule


def infobatch(
    *,
    first: int = 1000,
    later: int = 750,
    last: int = 1000,
    rounds: int = 8,
    anneal: int = 1,
    drop: float = 0.5,
    scores: Scores = "train",
    unmeasured: Unmeasured = "hardest",
) -> Schedule:
    r"""Drops some of the easy blocks in each round, and gives the remaining easy blocks a larger weight.

    Let $\bar\ell$ be the mean of the known losses, and ρ = `drop`. A round has

    $$ r_i = \begin{cases} 1 - \rho & \ell_i < \bar\ell \\ 1 & \text{otherwise} \end{cases},
       \qquad o_i = 1, \qquad w_i = \frac{1}{r_i} \cdot \frac{1}{N} \sum_j r_j $$

    where $r_i$ is the draw rate, $o_i$ the objective and $w_i$ the factor on the block's loss, which follows from
    both (`objective_weights`). So all blocks count alike in the expected loss, and the weighted gradient is an
    unbiased estimate of the gradient over all blocks. It stays so under wrappers that change the rates, such as
    `floor`: the weights are then those of the new rates. The first round, when nothing is known, and the last
    ones (annealing) draw all blocks.

    The weights are normalised: their mean over the draws is 1. The authors' code multiplies by $1 / r_i$ alone, so
    that its mean weight is $N / \sum_j r_j$: 1.33 with half of the blocks easy and ρ = 1/2, and 1 while annealing.
    Up to this factor on the gradient, the two are the same.

    The authors' code also keeps a tenth of the easy samples at least, whatever ρ is. And a sample that it has not seen
    counts as one of 3 nats, in the mean too (1 nat in their code for research). Ours has no such limit, and leaves
    blocks without a loss out of the mean.

    In each epoch the paper chooses at random which of the easy samples are dropped. Here `plan` does
    that, and the policy needs no seed: in a round of $\sum_j r_j$ draws, a block with $r_i = 1$ is drawn once,
    and a block with $r_i = 1 - \rho$ is drawn once with that probability, or not at all. In a round of another
    length, the expected counts have the same proportions.

    The trainer must multiply losses by `objective_weights`, or easy blocks count for less than others.

    Args:
      first, later, last: lengths in steps of the first round, of the rounds that drop, and of the last
        ones. The defaults fit a corpus with half of the blocks below the mean. Ours.
      rounds: how many there are in all. Ours.
      anneal: how many of them are last ones. 1 of 8, as the authors' code drops in 0.875 of the epochs.
      drop: ρ, the probability to drop; the default of the authors' code.
      scores: as of `lfr`; the paper uses those of training.
      unmeasured: as of `lfr`; under "hardest", blocks without a loss count as above the mean.

    Returns:
      The schedule, with phases 'round.1', 'round.2', ..., 'anneal', and with an `objective`. Its
      state is a `ScoredState`: `measured` (f32[N], i32[N], i32[]) and `rate` f32[N].

    Raises:
      ValueError: a length or `rounds` is not a positive whole number, `anneal` leaves no round
        before it, `drop` is outside [0, 1), or `scores` or `unmeasured` has another value.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.infobatch(drop=0.75)
      >>> state = s.init(schedule.BlockInfo(num_blocks=4))
      >>> state = s.observe(state, jnp.arange(4), jnp.array([2.0, 6.0, 3.0, 5.0]), 9)
      >>> state = s.begin(state, 1)  # the mean is 4
      >>> s.rates(state).tolist(), schedule.objective_weights(s, state, jnp.array([0, 1])).tolist()
      ([0.25, 1.0, 0.25, 1.0], [2.5, 0.625])

    References:
      Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", arXiv
      2303.04947, and the authors' code (github.com/NUS-HPC-AI-Lab/InfoBatch, infobatch/infobatch.py).
    """
    drop = real_number("drop", drop, DROP)
    phases = in_rounds(
        rounds=rounds, first=first, later=later, anneal=anneal, last=last, score=scores in ("pass", "mixed")
    )
    dropping = functools.partial(fewer_easy, drop=drop)
    choices = tuple(dropping if 0 < index < len(phases) - anneal else None for index in range(len(phases)))
    schedule = scored(phases, choices, scores=scores, unmeasured=unmeasured, policy="infobatch", dtype=jnp.float32)
    return schedule._replace(objective=lambda state: jnp.ones_like(state.rate))


def fewer_easy(loss_N: jax.Array, info, drop: float) -> jax.Array:
    """f32[N]: 1 − drop for the blocks below the mean, 1 for the others."""
    everything = Groups(jnp.zeros_like(loss_N, jnp.int32), jnp.array([loss_N.shape[0]]))
    mean, _ = group_means(loss_N, everything)
    return jnp.where(loss_N < mean, 1.0 - drop, 1.0)  # also 1 where the loss is NaN
