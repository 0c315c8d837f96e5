"""Online data mixing: domains as the arms of a bandit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.estimate import one_of
from lfr_jax.schedule.arrays.groups import Groups, groups_of, per_block
from lfr_jax.schedule.arrays.observe import Measured, init_measured, observe
from lfr_jax.schedule.by_domain import By, losses_since, rounded
from lfr_jax.schedule.by_phase import check_phase
from lfr_jax.schedule.checks import SHARE_BELOW_1, real_number
from lfr_jax.schedule.phases import equal_rounds
from lfr_jax.schedule.types import Schedule, num_blocks

HIGHEST = 1e30  # a reward is at most this: sums of a few rewards stay finite


class OdmState(NamedTuple):
    """State of online data mixing."""

    groups: Groups  # i32[N], i32[G]: the domain of each block, and their sizes
    measured: Measured  # f32[N], i32[N], i32[]: each block's last loss
    newest: jax.Array  # i32[]: the newest step of all measurements before this round; −1 = none
    reward: jax.Array  # f32[G]: moving average of each domain's reward
    share: jax.Array  # f32[G]: of the draws of this round


def odm(*, rounds: int = 10, round_steps: int = 200, decay: float = 0.5, by: By = "domain") -> Schedule:
    r"""Draws more from domains whose loss is high, by the bandit algorithm EXP3.

    With K domains that have blocks, mean training losses $L_d$ in round t, and shares $\pi$ of its draws,
    the shares of round t + 1 are $\pi'$:

    $$ \hat R_d \leftarrow \text{decay}\, \hat R_d + (1 - \text{decay})\, L_d / \pi_d $$
    $$ \pi'_d = (1 - K \epsilon_t)\, \frac{e^{\epsilon_{t-1} \hat R_d}}{\sum_j e^{\epsilon_{t-1} \hat R_j}}
       + \epsilon_t,
       \qquad \epsilon_t = \min\left\{ \frac1K, \sqrt{\frac{\ln K}{K\, T_t}} \right\} $$

    Each block is drawn at the rate $\pi'_d / n_d$, where its domain has $n_d$ blocks. Round 1 draws from all domains
    equally often, as $\epsilon = 1/K$. A domain without a measurement in the round keeps its $\hat R$.

    In the paper each step draws from one domain, and $T$ counts steps. Rounds are ours: a round rewards
    all K domains at once, so it counts as K steps, $T_t = K t$. For each block, its last loss in the round counts.

    Args:
      rounds: how often the shares are decided; ours.
      round_steps: length of a round in steps; ours.
      decay: of the moving average, 0 to 1. The authors' code has 0.9 for each step. The default is
        ours, as a round is many steps.
      by: the array of `BlockInfo` that numbers the domains: "domain" or "cluster".

    Returns:
      The schedule; its state is an `OdmState`. It needs the losses of training. Its phases are 'round.1', ...

    Raises:
      ValueError: a number is not positive and whole, `decay` is outside [0, 1), or `by` has another value. From
        `init`: `BlockInfo` lacks the domains.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.odm(decay=0.0)
      >>> state = s.begin(s.init(schedule.BlockInfo(3, domain=[0, 0, 1])), 0)
      >>> s.rates(state).tolist()  # both domains equally often
      [0.25, 0.25, 0.5]
      >>> state = s.observe(state, jnp.arange(3), jnp.array([1.0, 3.0, 4.0]), 0)
      >>> [round(share, 3) for share in s.begin(state, 1).share.tolist()]
      [0.436, 0.564]

    References:
      Albalak, Pan, Raffel, Wang 2023, "Efficient Online Data Mixing For Language Model Pre-Training",
      arXiv 2312.02406; the authors' code for the exploration rate.
    """
    one_of("by", by, By)
    decay = real_number("decay", decay, SHARE_BELOW_1)
    phases = equal_rounds(rounds, round_steps)

    def init(info):
        n = num_blocks(info)
        groups = groups_of(info, by, "odm")
        exists_G = groups.size > 0
        share_G = exists_G / jnp.sum(exists_G, dtype=jnp.float32)
        return OdmState(groups, init_measured(n), jnp.int32(-1), jnp.zeros_like(share_G), share_G)

    def fold(state, ids_B, losses_B, step):
        return state._replace(measured=observe(state.measured, ids_B, losses_B, step))

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        loss_G = losses_since(state.newest, state.measured, state.groups)
        reward_G, share_G = exp3(state.reward, state.share, loss_G, state.groups.size, phase_index, decay)
        return state._replace(newest=jnp.max(state.measured.step), reward=reward_G, share=share_G)

    def rates(state):
        return per_block(state.share / jnp.maximum(state.groups.size, 1), state.groups)

    return Schedule(phases, init, fold, begin, rates, observe_train=True)


@jax.jit
def exp3(reward_G, share_G, loss_G, size_G, finished: int, decay: float) -> tuple[jax.Array, jax.Array]:
    """f32[G], f32[G]: rewards and shares of the draws after `finished` rounds; `loss_G` is of the last of them."""
    exists_G = size_G > 0
    num_domains = jnp.sum(exists_G, dtype=jnp.float32)

    def exploration(t):
        return jnp.where(t > 0, jnp.minimum(1.0, jnp.sqrt(jnp.log(num_domains) / jnp.maximum(t, 1))), 1.0) / num_domains

    earned_G = jnp.clip(loss_G / share_G, -HIGHEST, HIGHEST)
    reward_G = jnp.where(jnp.isnan(loss_G), reward_G, rounded(decay * reward_G + (1 - decay) * earned_G))
    gibbs_G = jax.nn.softmax(exploration(finished - 1) * reward_G, where=exists_G)
    explored = exploration(finished)
    return reward_G, jnp.where(exists_G, rounded((1 - num_domains * explored) * gibbs_G + explored), 0.0)
