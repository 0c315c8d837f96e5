"""Domains by how far the model is behind a reference model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.estimate import one_of
from lfr_jax.schedule.arrays.groups import Groups, groups_of
from lfr_jax.schedule.arrays.observe import Measured, init_measured, observe
from lfr_jax.schedule.by_domain import By, losses_since, natural, rates_of_shares, rounded
from lfr_jax.schedule.by_phase import check_phase
from lfr_jax.schedule.checks import NOT_NEGATIVE, SHARE, real_number
from lfr_jax.schedule.phases import equal_rounds
from lfr_jax.schedule.types import Schedule, num_blocks, required

HIGHEST = 1e30  # an excess loss is at most this: sums of a few of them stay finite


class DoremiState(NamedTuple):
    """State of domain reweighting with minimax optimization."""

    groups: Groups  # i32[N], i32[G]: the domain of each block, and their sizes
    ref_loss: jax.Array  # f32[N]: under the reference model
    measured: Measured  # f32[N], i32[N], i32[]: each block's last loss
    newest: jax.Array  # i32[]: the newest step of all measurements before this round; −1 = none
    excess: jax.Array  # f32[G]: each domain's last excess loss; NaN = not measured
    average: jax.Array  # f32[G]: mean of the shares so far: the mixture that the paper then trains with
    share: jax.Array  # f32[G]: of the draws of this round


def doremi(
    *,
    rounds: int = 20,
    round_steps: int = 100,
    eta: float = 1.0,
    smoothing: float = 1e-3,
    weigh: bool = False,
    by: By = "domain",
) -> Schedule:
    r"""Draws more from domains on which the model is furthest behind a reference model.

    With losses $\ell_i$ of the blocks that a round has drawn from domain d, the excess loss, the shares of the next
    round and their mean are

    $$ \lambda_d = \operatorname{mean}_{i \in d} \max\{ \ell_i - \ell^{\text{ref}}_i,\, 0 \},
       \qquad \alpha'_d \propto \alpha_d\, e^{\eta \lambda_d} $$
    $$ \alpha_d \leftarrow (1 - \text{smoothing})\, \alpha'_d + \text{smoothing} / K,
       \qquad \bar\alpha = \text{mean of all } \alpha \text{ so far} $$

    over the K domains that have blocks. They start from $\alpha_d = n_d / N$, and each block is drawn at the rate
    $\alpha_d / n_d$. A domain that a round does not meet keeps its λ; until it is met for the first time, it has the
    largest λ of the others. (In the authors' code it has the logarithm of the vocabulary.)

    The paper does this with a small model, and trains a large one by $\bar\alpha$: `average` in the state, which
    `mixture` takes. There the small model draws as the reference model did, and α weighs its losses: so does `weigh`.
    By default α decides the draws, which has the same gradient in expectation. There each step makes an update, and
    losses are clipped token by token; rounds are ours, and we clip losses of blocks. So λ is smaller here, as good
    tokens make up for bad ones.

    Args:
      rounds, round_steps: how often the shares are decided, and the length of a round in steps; ours.
      eta: η; the paper's is 1, for each step.
      smoothing: the paper's; the default of the authors' code is 1e-4, their script for The Pile has 1e-3.
      weigh: all blocks are drawn equally often, and shares are what the domains count in the loss (`objective`).
      by: the array of `BlockInfo` that numbers the domains: "domain" or "cluster".

    Returns:
      The schedule; its state is a `DoremiState`. It needs the losses of training. Its phases are 'round.1', ...

    Raises:
      ValueError: a number is not positive and whole, or out of its range, `weigh` is no truth value, or `by` has
        another value. From `init`: `BlockInfo` lacks the domains or `ref_loss`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.doremi(smoothing=0.0)
      >>> state = s.init(schedule.BlockInfo(4, domain=[0, 0, 1, 1], ref_loss=[2.0, 2.0, 5.0, 5.0]))
      >>> state = s.observe(s.begin(state, 0), jnp.arange(4), jnp.array([3.0, 3.0, 5.0, 5.0]), 0)
      >>> [round(share, 3) for share in s.begin(state, 1).share.tolist()]  # e : 1
      [0.731, 0.269]
      >>> large = schedule.mixture([(1000, s.begin(state, 1).average.tolist())])  # what the paper goes on with

    References:
      Xie, Pham, Dong, Du, Liu, Lu, Liang, Le, Ma, Yu 2023, "DoReMi: Optimizing Data Mixtures Speeds Up Language Model
      Pretraining", arXiv 2305.10429, and the authors' code (github.com/sangmichaelxie/doremi, doremi/trainer.py,
      `update_domain_weights`).
    """
    one_of("by", by, By)
    eta, smoothing = real_number("eta", eta, NOT_NEGATIVE), real_number("smoothing", smoothing, SHARE)
    if not isinstance(weigh, bool):
        raise ValueError(f"weigh is {weigh!r}, expected True or False")
    phases = equal_rounds(rounds, round_steps)

    def init(info):
        n = num_blocks(info)
        groups, ref_N = groups_of(info, by, "doremi"), jnp.asarray(required(info, "ref_loss", "doremi"), jnp.float32)
        average_G, share_G = (natural(groups) for _ in range(2))
        excess_G = jnp.full_like(share_G, jnp.nan)
        return DoremiState(groups, ref_N, init_measured(n), jnp.int32(-1), excess_G, average_G, share_G)

    def fold(state, ids_B, losses_B, step):
        return state._replace(measured=observe(state.measured, ids_B, losses_B, step))

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        behind_N = jnp.clip(state.measured.loss - state.ref_loss, 0, HIGHEST)
        excess_G = losses_since(state.newest, state.measured._replace(loss=behind_N), state.groups)
        excess_G = jnp.where(jnp.isnan(excess_G), state.excess, excess_G)
        share_G = reweighted(state.share, excess_G, state.groups.size, eta, smoothing)
        average_G = rounded(state.average + (share_G - state.average) / (phase_index + 1))
        return state._replace(newest=jnp.max(state.measured.step), excess=excess_G, average=average_G, share=share_G)

    def of_shares(state):
        return rates_of_shares(state.share, state.groups)

    def alike(state):
        return jnp.ones_like(state.ref_loss)

    rates, objective = (alike, of_shares) if weigh else (of_shares, None)
    return Schedule(phases, init, fold, begin, rates, observe_train=True, objective=objective)


@jax.jit
def reweighted(share_G, excess_G, size_G, eta: float, smoothing: float) -> jax.Array:
    """f32[G]: the next shares; as they are, if no excess loss is known."""
    exists_G, known_G = size_G > 0, ~jnp.isnan(excess_G)
    excess_G = jnp.where(known_G, excess_G, jnp.max(excess_G, where=known_G, initial=0.0))
    logits_G = jnp.log(share_G) + jnp.clip(eta * excess_G, 0, HIGHEST)
    next_G = (1 - smoothing) * jax.nn.softmax(logits_G, where=exists_G) + smoothing / jnp.sum(exists_G)
    return jnp.where(jnp.any(known_G), jnp.where(exists_G, rounded(next_G), 0.0), share_G)
