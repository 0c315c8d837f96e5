"""Online data mixing: domains as the arms of a bandit."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.estimate import one_of
from lfr_jax.schedule.arrays.groups import Groups, groups_of
from lfr_jax.schedule.arrays.observe import Measured, init_measured, observe
from lfr_jax.schedule.by_domain import By, losses_since, natural, rates_of_shares, rounded
from lfr_jax.schedule.by_phase import check_phase
from lfr_jax.schedule.checks import SHARE_BELOW_1, STEPS, real_number, whole_number
from lfr_jax.schedule.phases import consecutive, equal_rounds
from lfr_jax.schedule.types import Schedule, num_blocks

Reward = Literal["smoothed_mean", "exp3"]

HIGHEST = 1e30  # a reward is at most this: sums of a few rewards stay finite
MOST_NATS = 60.0  # a loss that is an exponent is at most this: e^60 is far below the end of float32


class OdmState(NamedTuple):
    """State of online data mixing."""

    groups: Groups  # i32[N], i32[G]: the domain of each block, and their sizes
    measured: Measured  # f32[N], i32[N], i32[]: each block's last loss
    newest: jax.Array  # i32[]: the newest step of all measurements before this round; −1 = none
    estimate: jax.Array  # f32[G]: moving average of each domain's reward; 0 = not measured in any round
    share: jax.Array  # f32[G]: of the draws of this round


def odm(
    *,
    rounds: int = 10,
    round_steps: int = 200,
    decay: float = 0.5,
    by: By = "domain",
    reward: Reward = "smoothed_mean",
    warmup: int = 0,
) -> Schedule:
    r"""Draws more from domains whose loss is high, as a bandit algorithm.

    There are K domains that have blocks. In round t, domain d has the mean training loss $L_d$ and the share $\pi_d$
    of the draws. Round t + 1 has the shares $\pi'$. With the reward `"smoothed_mean"`, these are

    $$ \hat R_d \leftarrow \text{decay}\, \hat R_d + (1 - \text{decay})\, e^{L_d}, \qquad
       \pi'_d = (1 - K \epsilon_t)\, \frac{\hat R_d}{\sum_j \hat R_j} + \epsilon_t $$

    and with the reward `"exp3"`

    $$ \hat R_d \leftarrow \text{decay}\, \hat R_d + (1 - \text{decay})\, L_d / \pi_d, \qquad
       \pi'_d = (1 - K \epsilon_t)\, \frac{e^{\epsilon_{t-1} \hat R_d}}{\sum_j e^{\epsilon_{t-1} \hat R_j}}
       + \epsilon_t $$

    where $\hat R$ begins at 0. In both

    $$ \epsilon_t = \min\left\{ \frac1K, \sqrt{\frac{\ln K}{K\, T_t}} \right\}, \qquad
       T_t = \text{warmup} + t \cdot \text{round\_steps} $$

    and each block is drawn at the rate $\pi'_d / n_d$, where its domain has $n_d$ blocks. A domain without a
    measurement in the round keeps its $\hat R$. For each block, its last loss in the round counts.

    Round 1 has no losses yet. `"smoothed_mean"` then draws by the natural mix, all blocks equally often, as the
    authors' code does. `"exp3"` draws from all domains equally often, since $\epsilon_0 = 1/K$. The warm-up draws by
    the natural mix, and its losses are no rewards.

    Which is whose. `"smoothed_mean"` is the authors' code: the class `SmoothedMeanWeightUpdater`, which their README
    names as the implementation of the paper, in the method that their training loop calls (`group_update`). It has
    no division by $\pi$. `"exp3"` is the importance-weighted reward that others give as the paper's (the guide of
    DataFlex); we have not read the paper itself. Its shares hardly move: $\hat R$ is a mean, so as $\epsilon$ falls,
    all exponents go to 0, and the shares return to 1/K.

    A step of the authors draws from many domains: one for each micro-batch of each device. T counts steps, the
    warm-up among them. Their code may decide every so many steps (`data_sampling_update_frequency`), and by default
    at each. Our round is such an interval, but its losses are those of all its steps, not of the last one. T goes by
    the lengths as they are given here, before `fit`.

    Args:
      rounds: how often the shares are decided; ours.
      round_steps: length of a round in steps; ours.
      decay: of the moving average, 0 to 1. The authors have 0.9, and decide at each step. The default is ours, as a
        round is many steps.
      by: the array of `BlockInfo` that numbers the domains: "domain" or "cluster".
      reward: "smoothed_mean" or "exp3", as above.
      warmup: length of the warm-up in steps; 0 leaves it out. The authors' code has one
        (`data_sampling_warmup_steps`); its length in their runs is not in their repository.

    Returns:
      The schedule; its state is an `OdmState`. It needs the losses of training. Its phases are 'round.1', ..., after
      'warmup', if there is one. A checkpoint with `reward`
      in place of `estimate` is of an earlier rule, and is refused.

    Raises:
      ValueError: a number is not positive and whole, `warmup` is negative, `decay` is outside [0, 1), or `by` or
        `reward` has another value. From `init`: `BlockInfo` lacks the domains.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.odm(decay=0.0)
      >>> state = s.begin(s.init(schedule.BlockInfo(3, domain=[0, 0, 1])), 0)
      >>> s.rates(state).tolist()  # the natural mix
      [1.0, 1.0, 1.0]
      >>> state = s.observe(state, jnp.arange(3), jnp.array([2.0, 4.0, 4.0]), 0)  # e^3 and e^4
      >>> [round(share, 2) for share in s.begin(state, 1).share.tolist()]
      [0.29, 0.71]

    References:
      Albalak, Pan, Raffel, Wang 2023, "Efficient Online Data Mixing For Language Model Pre-Training",
      arXiv 2312.02406; the authors' code (github.com/alon-albalak/online-data-mixing,
      megatron/data/data_sampling_utils.py and megatron/training.py).
    """
    one_of("by", by, By)
    one_of("reward", reward, Reward)
    decay = real_number("decay", decay, SHARE_BELOW_1)
    warmup = whole_number("warmup", warmup, 0, STEPS)
    in_rounds = equal_rounds(rounds, round_steps)
    round_steps = in_rounds[0].stop
    warming_up = [("warmup", warmup)] * (warmup > 0)
    phases = consecutive(warming_up + [(phase.name, round_steps) for phase in in_rounds])

    def init(info):
        n = num_blocks(info)
        groups = groups_of(info, by, "odm")
        share_G = natural(groups)
        return OdmState(groups, init_measured(n), jnp.int32(-1), jnp.zeros_like(share_G), share_G)

    def fold(state, ids_B, losses_B, step):
        return state._replace(measured=observe(state.measured, ids_B, losses_B, step))

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        loss_G = losses_since(state.newest, state.measured, state.groups)
        finished = phase_index - len(warming_up)  # rounds; −1 in the warm-up
        steps = [warmup + number * round_steps for number in (finished, finished - 1)]
        estimate_G, share_G = decided(
            state.estimate, state.share, natural(state.groups), loss_G, finished, steps, decay, reward
        )
        return state._replace(newest=jnp.max(state.measured.step), estimate=estimate_G, share=share_G)

    def rates(state):
        return rates_of_shares(state.share, state.groups)

    return Schedule(phases, init, fold, begin, rates, observe_train=True)


@functools.partial(jax.jit, static_argnames="reward")
def decided(
    estimate_G, share_G, natural_G, loss_G, finished: int, steps: list[int], decay: float, reward: Reward
) -> tuple[jax.Array, jax.Array]:
    """f32[G], f32[G]: estimates and shares after `finished` rounds; `loss_G` is of the last of them.

    Args:
      steps: how many steps there were, and how many before the last round.
    """
    exists_G, smoothed = natural_G > 0, reward == "smoothed_mean"
    num_domains = jnp.sum(exists_G, dtype=jnp.float32)
    explored = exploration(num_domains, jnp.where(finished > 0, steps[0], 0))
    before = exploration(num_domains, jnp.where(finished > 1, steps[1], 0))
    earned_G = jnp.exp(jnp.clip(loss_G, -MOST_NATS, MOST_NATS)) if smoothed else loss_G / share_G
    averaged_G = rounded(decay * estimate_G + (1 - decay) * jnp.clip(earned_G, -HIGHEST, HIGHEST))
    estimate_G = jnp.where(jnp.isnan(loss_G) | (finished < 1), estimate_G, averaged_G)
    if smoothed:
        total = jnp.sum(estimate_G)
        exploited_G = jnp.where(total > 0, estimate_G / total, natural_G)
    else:
        exploited_G = jax.nn.softmax(before * estimate_G, where=exists_G)
    mixed_G = jnp.where(exists_G, rounded((1 - num_domains * explored) * exploited_G + explored), 0.0)
    return estimate_G, jnp.where(finished > (0 if smoothed else -1), mixed_G, natural_G)


def exploration(num_domains: jax.Array, steps: jax.Array) -> jax.Array:
    """f32[]: ε after so many steps; 1/K after none."""
    falling = jnp.sqrt(num_domains * jnp.log(num_domains) / jnp.maximum(steps, 1))
    return jnp.where(steps > 0, jnp.minimum(1.0, falling), 1.0) / num_domains
