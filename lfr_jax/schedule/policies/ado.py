"""Adaptive data optimization: domains by how fast their loss falls."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.estimate import one_of
from lfr_jax.schedule.arrays.groups import Groups, groups_of
from lfr_jax.schedule.arrays.observe import Measured, init_measured, observe
from lfr_jax.schedule.by_domain import By, losses_since, natural, rates_of_shares, rounded
from lfr_jax.schedule.by_phase import of_phase, phase_switch
from lfr_jax.schedule.checks import SHARE, real_number
from lfr_jax.schedule.phases import equal_rounds
from lfr_jax.schedule.types import Schedule, num_blocks

EXPONENTS = (0.05, 0.8)  # the smallest and the largest exponent of a power law; the authors' code
FLOORS = 1 - np.geomspace(1, 0.01, 24, dtype=np.float32)  # the values of ε that are tried, divided by the lowest loss
LOSSES = (1e-6, 1e30)  # nats per token: losses are clipped to this range, so that their logarithms are finite


class AdoState(NamedTuple):
    """State of adaptive data optimization, in R rounds."""

    groups: Groups  # i32[N], i32[G]: the domain of each block, and their sizes
    measured: Measured  # f32[N], i32[N], i32[]: each block's last loss
    newest: jax.Array  # i32[]: the newest step of all measurements before this round; −1 = none
    loss: jax.Array  # f32[R, G]: mean loss of each domain in each round; NaN = not measured
    credit: jax.Array  # f32[G]: moving average of the shares
    average: jax.Array  # f32[G]: mean of the preferences so far
    share: jax.Array  # f32[G]: of the draws of this round


def ado(
    *,
    rounds: int = 10,
    round_steps: int = 200,
    credit: float = 1.0,
    power: float = 0.5,
    smoothing: float = 0.1,
    least: float = 0.01,
    by: By = "domain",
) -> Schedule:
    r"""Draws more from domains whose loss falls fast, by power laws that are fitted during training.

    After t rounds, the mean training losses of each domain d in rounds 2 to t are fitted by

    $$ \hat L_d(t) = \varepsilon_d + \beta_d\, t^{-\alpha_d}, \qquad
       -\frac{d \hat L_d}{dt} = \frac{\alpha_d}{t} (\hat L_d(t) - \varepsilon_d) $$

    Let $\mu_d = n_d / N$ be the domain's share of the blocks, $\pi$ the shares of the draws, and h the credit. The
    preference $\rho$, the next shares and the next credit are

    $$ \rho_d \propto \max\Big\{ \text{least},\
       \frac{g_d}{\sum_j g_j} \Big\}, \qquad g_d = \mu_d\, h_d^{\text{power}}\, (-d \hat L_d / dt),
       \qquad \bar\pi^t = \bar\pi^{t-1} + \frac{\rho^t - \bar\pi^{t-1}}{t + 1} $$
    $$ \pi^{t+1} = \text{smoothing}\, \rho^t + (1 - \text{smoothing})\, \bar\pi^{t-1},
       \qquad h \leftarrow \text{credit}\, \pi^{t+1} + (1 - \text{credit})\, h $$

    They start from $\pi = h = \bar\pi = \mu$. Each block is drawn at the rate $\pi_d / n_d$. Until every domain has
    been measured in three rounds besides round 1, all blocks are drawn equally often.

    The equations are those of the authors' code, and so are the defaults of `power`, `smoothing` and `least`. These
    are ours:

    - Rounds. The authors decide at every step and fit every 1,000 steps. Time counts in rounds here, which changes no
      preference: only quotients of slopes matter.
    - The mean of a round stands for its middle: that of round t for t − 1/2. Round 1 is left out, as its mean hides
      how steeply a loss falls at first. So the means of exact power laws give preferences that are right to 3 %, in the
      median of the largest error of 5 domains. The authors leave out 1,000 of 60,000 steps (`ignore_steps`).
    - The fit. It tries 24 values of ε: 0 to 99 % of the domain's lowest loss, so that the distance to that loss shrinks
      from 100 % to 1 % of it in geometric steps. For each it takes the least squares of ln(L − ε) over ln t, with α
      clipped to 0.05 to 0.8. It keeps the one whose ln L is nearest to the measurements. The authors smooth
      the losses, and minimize a Huber loss of ln L by L-BFGS from a grid of starts. They penalize ε < e^0.5 = 1.65
      nats, β > e^6.5 and α > 0.8. We leave ε free: with another tokenizer, whole losses lie below 1.65.
    - The credit. The authors average the counts that were realised, with 0.1 at each step, so the last 20 steps decide.
      Ours are the shares of the round, which a plan's counts follow up to rounding. So the default is 1: the credit is
      the share of the last round.
    - The weight of the prior. With the first decision after s rounds, μ has the weight s / t in $\bar\pi$ after round
      t − 1, as with the authors. But they begin after 1,000 of 60,000 steps, where s is 4 rounds of `rounds`. Averaged
      over the run, preferences have the weight 0.24 in the shares with 10 rounds, 0.76 with 60, 0.92 with 240 and
      with the authors.

    For each block, its last loss in a round counts. A domain that a round did not meet has no loss in it; the authors
    take its loss of the step before.

    Args:
      rounds: how often the shares are decided; ours.
      round_steps: length of a round in steps; ours.
      credit, power, smoothing, least: as above.
      by: the array of `BlockInfo` that numbers the domains: "domain" or "cluster".

    Returns:
      The schedule; its state is an `AdoState`. It needs the losses of training. Its phases are 'round.1', ...

    Raises:
      ValueError: a number is not positive and whole, a share is outside [0, 1], or `by` has another value. From
        `init`: `BlockInfo` lacks the domains.

    Examples:
      The loss of domain 1 falls as 4 / √t, that of domain 0 not at all:

      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.ado(rounds=6)
      >>> state = s.init(schedule.BlockInfo(4, domain=[0, 0, 1, 1]))
      >>> for i in range(4):
      ...     state = s.begin(state, i)
      ...     losses = jnp.array([4.0, 4.0, 4 / (i + 0.5) ** 0.5, 4 / (i + 0.5) ** 0.5])
      ...     state = s.observe(state, jnp.arange(4), losses, i)
      >>> [round(share, 3) for share in s.begin(state, 4).share.tolist()]
      [0.451, 0.549]

    References:
      Jiang, Zhou, Feng, Malladi, Kolter 2024, "Adaptive Data Optimization: Dynamic Sample Selection with Scaling
      Laws", arXiv 2410.11820; the authors' code (github.com/yidingjiang/ado, src/data_selectors/ado.py and configs/).
    """
    one_of("by", by, By)
    shares = dict(credit=credit, power=power, smoothing=smoothing, least=least)
    credit, power, smoothing, least = (real_number(*share, SHARE) for share in shares.items())
    phases = equal_rounds(rounds, round_steps)
    log_times = np.array([math.log(max(finished, 1)) for finished in range(len(phases))], np.float32)

    def init(info):
        n = num_blocks(info)
        groups = groups_of(info, by, "ado")
        loss_RxG = jnp.full((len(phases), groups.size.shape[0]), jnp.nan, jnp.float32)
        copies = [natural(groups) for _ in range(3)]
        return AdoState(groups, init_measured(n), jnp.int32(-1), loss_RxG, *copies)

    def fold(state, ids_B, losses_B, step):
        return state._replace(measured=observe(state.measured, ids_B, losses_B, step))

    def decide(state, phase_index):
        loss_G = jnp.clip(losses_since(state.newest, state.measured, state.groups), *LOSSES)
        loss_RxG = jnp.asarray(state.loss).at[phase_index - 1].set(loss_G)
        prior_G = natural(state.groups)
        preferred_G = preference(loss_RxG, prior_G, state.credit, of_phase(log_times, phase_index), power, least)
        ready = jnp.all((jnp.sum(fitted(loss_RxG), axis=0) >= 3) | (prior_G == 0))
        new = updated(preferred_G, state.credit, state.average, phase_index, credit, smoothing)
        old = (state.credit, state.average, state.share)
        decided = (jnp.where(ready, new_G, old_G) for new_G, old_G in zip(new, old))
        return state._replace(loss=loss_RxG, **dict(zip(("credit", "average", "share"), decided)))

    functions = (lambda state, phase_index: state, *[decide] * (len(phases) - 1))  # before round 1 nothing is known

    def begin(state, phase_index):
        decided = phase_switch(functions, phase_index, state, phase_index)
        return decided._replace(newest=jnp.max(state.measured.step))

    def rates(state):
        return rates_of_shares(state.share, state.groups)

    return Schedule(phases, init, fold, begin, rates, observe_train=True)


@jax.jit
def preference(loss_RxG, prior_G, credit_G, log_time: float, power: float, least: float) -> jax.Array:
    """f32[G]: the preference ρ, from how fast each domain's loss falls, its credit and its share of the blocks."""
    falling_G = prior_G * credit_G**power * slope(loss_RxG, log_time)
    falling_G = jnp.where(prior_G > 0, falling_G, 0.0)
    least = jnp.minimum(least, 1 / jnp.sum(prior_G > 0, dtype=jnp.float32))
    preferred_G = jnp.where(prior_G > 0, jnp.maximum(falling_G / jnp.sum(falling_G), least), 0.0)
    return preferred_G / jnp.sum(preferred_G)


def fitted(loss_RxG: jax.Array) -> jax.Array:
    """bool[R, G]: which losses are fitted: those there are, without round 1."""
    return ~jnp.isnan(loss_RxG) & (np.arange(len(loss_RxG)) > 0)[:, None]


def slope(loss_RxG: jax.Array, log_time: float) -> jax.Array:
    """f32[G]: t times the slope of the fitted power laws at time t, where `log_time` is ln t."""
    known_RxG = fitted(loss_RxG)
    loss_RxG = jnp.where(known_RxG, loss_RxG, 1.0)
    x_Rx1 = np.log(np.arange(len(loss_RxG), dtype=np.float32) + 0.5)[:, None]  # the middle of each round
    lowest_1xG = jnp.min(loss_RxG, axis=0, where=known_RxG, initial=LOSSES[1], keepdims=True)
    count_1xG = jnp.maximum(jnp.sum(known_RxG, axis=0, keepdims=True), 1)

    def mean(y_RxG):
        return jnp.sum(jnp.where(known_RxG, y_RxG, 0.0), axis=0, keepdims=True) / count_1xG

    def law(floor):
        floor_1xG = floor * lowest_1xG
        y_RxG = jnp.log(loss_RxG - floor_1xG)
        x_1xG, y_1xG = mean(x_Rx1), mean(y_RxG)
        spread_1xG = jnp.maximum(mean((x_Rx1 - x_1xG) ** 2), 1e-12)
        alpha_1xG = jnp.clip(-mean((x_Rx1 - x_1xG) * (y_RxG - y_1xG)) / spread_1xG, *EXPONENTS)
        log_beta_1xG = y_1xG + alpha_1xG * x_1xG
        errors_RxG = jnp.log(loss_RxG) - jnp.log(floor_1xG + jnp.exp(log_beta_1xG - alpha_1xG * x_Rx1))
        return mean(errors_RxG**2)[0], (alpha_1xG * jnp.exp(log_beta_1xG - alpha_1xG * log_time))[0]

    error_FxG, slope_FxG = jax.vmap(law)(FLOORS)
    return jnp.take_along_axis(slope_FxG, jnp.argmin(error_FxG, axis=0, keepdims=True), axis=0)[0]


@jax.jit
def updated(preferred_G, credit_G, average_G, finished: int, credit: float, smoothing: float):
    """Credit, mean preference and shares after `finished` rounds; f32[G] each."""
    preferred_G = rounded(preferred_G)
    share_G = rounded(smoothing * preferred_G + (1 - smoothing) * average_G)
    average_G = rounded(average_G + (preferred_G - average_G) / (finished + 1))
    return rounded(credit * share_G + (1 - credit) * credit_G), average_G, share_G
