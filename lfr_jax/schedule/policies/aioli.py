"""Domains by what training on each of them does for the loss of all, measured during training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.estimate import estimate, one_of
from lfr_jax.schedule.arrays.groups import Groups, group_means, groups_of, per_block
from lfr_jax.schedule.arrays.observe import Measured, init_measured, observe
from lfr_jax.schedule.by_domain import By, rounded
from lfr_jax.schedule.by_phase import check_phase, of_phase
from lfr_jax.schedule.checks import NOT_NEGATIVE, PHASES, SHARE_BELOW_1, Range, positive_int, real_number
from lfr_jax.schedule.phases import consecutive
from lfr_jax.schedule.types import Schedule, num_blocks

HIGHEST = 1e20  # losses are clipped to it, so that sums over all pairs of domains stay finite
ONE_HOT = Range("a share: more than 0.5, at most 1", 0.5, 1, open_least=True)


class Law(NamedTuple):
    """What trials have shown, for G domains."""

    loss: jax.Array  # f32[G]: mean losses when this phase began; NaN = not known
    fall: jax.Array  # f32[G, G]: fall of the row's loss in trials of the column, mean over a round; NaN = not known
    trials: jax.Array  # i32[G, G]: how many trials that mean is of
    helps: jax.Array  # f32[G, G]: the law A of the newest round, averaged with those before; NaN = not known
    mixture: jax.Array  # f32[G]: shares of the newest round


class AioliState(NamedTuple):
    """State of a policy that measures how domains help one another."""

    groups: Groups  # i32[N], i32[G]: the domain of each block, and their sizes
    measured: Measured  # f32[N], i32[N], i32[]: each block's last loss
    law: Law  # f32[G] and f32[G, G] arrays: what trials have shown, and the mixture that follows
    share: jax.Array  # f32[G]: of the draws of this phase: of the mixture, or of a trial


def aioli(
    *,
    rounds: int = 4,
    trials: int = 6,
    trial_steps: int = 10,
    round_steps: int = 100,
    one_hot: float = 0.75,
    eta: float = 0.5,
    decay: float = 0.0,
    by: By = "domain",
) -> Schedule:
    r"""Tries each domain for a few steps, and draws more from those that lower the loss of all domains most.

    Each round begins with trials. The trial of domain j draws the share `one_hot` from j, and as much of the rest from
    each other domain: the mixture $w^{(j)}$. Let $\Delta_{ij}$ be the fall of the mean loss of domain i in the trials
    of j. A law that is linear in the mixture p, $L_i \leftarrow L_i - \sum_j A_{ij} p_j$, gives A from

    $$ \sum_k A_{ik}\, w^{(j)}_k = \Delta_{ij} $$

    A is normalised: if its smallest number is negative, that is subtracted from all; then it is divided by their sum.
    The rest of the round is drawn by

    $$ p_j \leftarrow p_j\, e^{\eta \sum_i A_{ij}} / Z $$

    with equal shares at first, until each domain has been tried. With a `decay`, each update begins with equal shares,
    and A is a moving average, $\bar A \leftarrow (1 - \text{decay})\, A + \text{decay}\, \bar A$.

    In the authors' code, trials go through all domains several times, in random orders, and losses are those of
    held-out text. Ours take the domains in turn and go on where the round before has ended, so they need not know how
    many domains there are. Losses are those of a scoring pass before each phase, which is costly: let it read a sample,
    by `--schedule.score-fraction 0.02`. If `trials` is less than the number of domains, the first A is known only after
    several rounds.

    The paper found no method before it, online or not, that was consistently better than equal shares.

    Args:
      rounds: how often the mixture is decided.
      trials: how many there are in a round; best a multiple of the number of domains. The authors recommend 4 to 6
        times that number.
      trial_steps: length of a trial in steps. The authors recommend 4; they used 10 for seven domains.
      round_steps: length of the rest of a round. The authors' rounds with seven domains have 140 steps of trials, and
        60 others.
      one_hot: share of the domain that is tried, more than 0.5; 0.75 for the authors' seven domains.
      eta: step size. The authors recommend 0.1 to 0.5.
      decay: of the moving average; 0: none. The authors recommend to begin without; some of their scripts have 0.1.
      by: the array of `BlockInfo` that numbers the domains: "domain" or "cluster".

    Returns:
      The schedule; its state is an `AioliState`. Its phases are 'trial.1.1', 'trial.1.2', ..., 'round.1', 'trial.2.1',
      ..., with a scoring pass before each.

    Raises:
      ValueError: a number is not positive and whole, or out of its range, or `by` has another value. From `init`:
        `BlockInfo` lacks the domains.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.aioli(trials=2, one_hot=1.0, eta=1.0, decay=0.0)
      >>> state = s.init(schedule.BlockInfo(2, domain=[0, 1]))
      >>> for i, losses in enumerate([[5.0, 5.0], [4.0, 5.0], [4.0, 2.0]]):  # domain 1 falls by 3 in its trial
      ...     state = s.begin(s.observe(state, jnp.arange(2), jnp.array(losses), i), i)
      >>> [round(share, 2) for share in state.share.tolist()]  # exp(1 / 4) : exp(3 / 4)
      [0.38, 0.62]

    References:
      Chen, Hu, Lourie, Cho, Ré 2024, "Aioli: A Unified Optimization Framework for Language Model Data Mixing", arXiv
      2411.05735, and the authors' code (github.com/HazyResearch/aioli, trainer/aioli_trainer.py and README.md).
    """
    one_of("by", by, By)
    one_hot, eta = real_number("one_hot", one_hot, ONE_HOT), real_number("eta", eta, NOT_NEGATIVE)
    decay = real_number("decay", decay, SHARE_BELOW_1)
    rounds = positive_int("rounds", rounds, most=PHASES // 2)
    trials = positive_int("trials", trials, most=PHASES // rounds - 1)
    trial_steps, round_steps = positive_int("trial_steps", trial_steps), positive_int("round_steps", round_steps)
    parts = []
    for number in range(1, rounds + 1):
        parts += [(f"trial.{number}.{trial}", trial_steps, True) for trial in range(1, trials + 1)]
        parts.append((f"round.{number}", round_steps, True))
    phases = consecutive(parts)
    place = np.arange(len(phases)) % (trials + 1)  # in the round: that of a trial, or `trials` for the rest
    before = (np.arange(len(phases)) // (trials + 1)) * trials + place  # trials before the phase

    def init(info):
        n = num_blocks(info)
        groups = groups_of(info, by, "aioli")
        mixture_G, share_G = (equal_shares(groups.size) for _ in range(2))
        loss_G = jnp.full_like(share_G, jnp.nan)
        fall_GxG, helps_GxG = (jnp.full(share_G.shape * 2, jnp.nan, jnp.float32) for _ in range(2))
        law = Law(loss_G, fall_GxG, jnp.zeros(fall_GxG.shape, jnp.int32), helps_GxG, mixture_G)
        return AioliState(groups, init_measured(n), law, share_G)

    def fold(state, ids_B, losses_B, step):
        return state._replace(measured=observe(state.measured, ids_B, losses_B, step))

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        loss_G = group_means(jnp.clip(estimate(state.measured, "pass"), -HIGHEST, HIGHEST), state.groups)[0]
        in_round, in_all = of_phase(place, phase_index), of_phase(before, phase_index)
        size_G = state.groups.size
        law = updated(state.law, loss_G, size_G, in_round, in_all, trials, one_hot, eta, decay)
        share_G = jnp.where(in_round < trials, trial_shares(size_G, in_all, one_hot), law.mixture)
        return state._replace(law=law, share=share_G)

    def rates(state):
        return per_block(state.share / jnp.maximum(state.groups.size, 1), state.groups)

    return Schedule(phases, init, fold, begin, rates)


@jax.jit
def updated(
    law: Law, loss_G, size_G, in_round: int, in_all: int, trials: int, one_hot: float, eta: float, decay: float
) -> Law:
    """What is known after `in_round` trials of this round and `in_all` of all rounds, with the losses `loss_G`.

    After the last trial of a round, the mixture follows.
    """
    tried_G = jnp.arange(size_G.size) == nth_domain(size_G, in_all - 1)
    fall_G = jnp.where(in_round > 0, law.loss - loss_G, jnp.nan)
    trials_GxG = jnp.where(in_round == 1, 0, law.trials)  # the first trial of the round is over
    fall_GxG, trials_GxG = averaged(law.fall, trials_GxG, fall_G, tried_G)
    new_GxG = normalised(solved(fall_GxG, size_G, one_hot), size_G)
    new_GxG = jnp.where(jnp.isnan(law.helps), new_GxG, (1 - decay) * new_GxG + decay * law.helps)
    ready = (in_round == trials) & ~jnp.any(jnp.isnan(new_GxG))
    start_G = jnp.where(decay > 0, equal_shares(size_G), law.mixture)
    mixture_G = jax.nn.softmax(jnp.log(start_G) + eta * jnp.sum(new_GxG, axis=0), where=size_G > 0)
    return Law(
        loss_G,
        fall_GxG,
        trials_GxG,
        jnp.where(ready, rounded(new_GxG), law.helps),
        jnp.where(ready, jnp.where(size_G > 0, rounded(mixture_G), 0.0), law.mixture),
    )


def equal_shares(size_G: jax.Array) -> jax.Array:
    """f32[G]: the same share for each domain that has blocks."""
    return (size_G > 0) / jnp.sum(size_G > 0, dtype=jnp.float32)


def nth_domain(size_G: jax.Array, n: jax.Array) -> jax.Array:
    """i32[]: number of the n-th domain from 0, among those that have blocks; after the last comes the first."""
    place_G = jnp.cumsum(size_G > 0, dtype=jnp.int32)
    return jnp.searchsorted(place_G, n % place_G[-1] + 1)


@jax.jit
def trial_shares(size_G: jax.Array, n: jax.Array, one_hot: float) -> jax.Array:
    """f32[G]: `one_hot` for the n-th domain, and the same share of the rest for each other one."""
    others = jnp.maximum(jnp.sum(size_G > 0, dtype=jnp.float32) - 1, 1)
    share_G = jnp.where(jnp.arange(size_G.size) == nth_domain(size_G, n), one_hot, (1 - one_hot) / others)
    share_G = jnp.where(size_G > 0, share_G, 0.0)
    return share_G / jnp.sum(share_G)  # which is 1, but for a single domain


def averaged(fall_GxG, trials_GxG, fall_G, tried_G) -> tuple[jax.Array, jax.Array]:
    """f32[G, G], i32[G, G]: the mean falls and the numbers of trials with one more, of the domain in `tried_G`."""
    new_GxG = tried_G[None, :] & ~jnp.isnan(fall_G)[:, None]
    trials_GxG += new_GxG
    mean_GxG = jnp.where(trials_GxG > 1, fall_GxG, 0.0)  # a mean of an earlier round does not count
    mean_GxG += (jnp.nan_to_num(fall_G)[:, None] - mean_GxG) / jnp.maximum(trials_GxG, 1)
    return jnp.where(new_GxG, mean_GxG, fall_GxG), trials_GxG


def solved(fall_GxG: jax.Array, size_G: jax.Array, one_hot: float) -> jax.Array:
    """f32[G, G]: the A of the law. Its rows have the sums of those of the falls, which solves the equations."""
    count = jnp.sum(size_G > 0, dtype=jnp.float32)
    rest = (1 - one_hot) / jnp.maximum(count - 1, 1)
    sums_Gx1 = jnp.sum(fall_GxG, axis=1, keepdims=True, where=(size_G > 0)[None, :])
    return (fall_GxG - rest * sums_Gx1) / jnp.where(count > 1, one_hot - rest, 1.0)


def normalised(law_GxG: jax.Array, size_G: jax.Array) -> jax.Array:
    """f32[G, G]: not negative, with the sum 1; 0 where a domain has no blocks; NaN where one is not known."""
    exists_GxG = (size_G > 0)[:, None] & (size_G > 0)[None, :]
    law_GxG = jnp.where(exists_GxG, law_GxG - jnp.minimum(jnp.min(law_GxG, where=exists_GxG, initial=0.0), 0), 0.0)
    total = jnp.sum(law_GxG)
    return jnp.where(exists_GxG & (total != 0), law_GxG / total, 0.0)
