"""Blocks by what they have done for a held-out loss, added up while training goes on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.lookup import take_blocks
from lfr_jax.schedule.arrays.observe import Measured, init_measured, observe
from lfr_jax.schedule.arrays.select import hardest
from lfr_jax.schedule.by_phase import check_phase
from lfr_jax.schedule.checks import KEEP, real_number
from lfr_jax.schedule.phases import in_rounds, num_chosen
from lfr_jax.schedule.types import BlockInfo, Schedule, num_blocks
from lfr_jax.schedule.unscored import drawn_rates


class ShapleyState(NamedTuple):
    """State of `data_shapley`."""

    newest: Measured  # f32[N], i32[N], i32[]: what each block did in the newest step that drew it
    before: Measured  # f32[N], i32[N], i32[]: the sum of what it did in earlier steps
    drawn: jax.Array  # bool[N]: the blocks that this phase draws


def data_shapley(*, first: int = 2000, later: int = 1000, rounds: int = 5, keep: float = 0.5) -> Schedule:
    r"""A round over all blocks, then rounds over those that have lowered a held-out loss so far.

    Let $\ell_i$ be the loss of block i, $\ell^{\text{val}}$ that of a held-out batch, and $\eta_t$ the learning rate. A
    step of gradient descent changes the held-out loss, to first order, by a sum over the blocks of its batch. Each
    block's part of the decrease is its Shapley value in that step, and the values of all steps add up:

    $$ \phi_i = \sum_{t:\, i \in B_t} \eta_t \left\langle \nabla \ell_i(\theta_t), \nabla \ell^{\text{val}}(\theta_t)
       \right\rangle $$

    $$ r_i = [\, \phi_i \ge 0 \,] \vee [\, i \in \text{the } k \text{ with the highest } \phi \,],
       \quad k = \lceil \text{keep} \cdot N \rceil $$

    The first round draws all blocks. Later ones also draw those that were not drawn yet. Values go on adding up.

    A positive value is one of a block that helped: the held-out loss fell. Factors that are the same for all blocks,
    such as the 1/B of a batch's mean, are left out. The paper removes what does harm and trains once more; here the
    same run leaves it out from its next round on. The bound `keep` is ours: values of one or two draws are noisy.

    The formula is that of gradient descent. Steps of AdamW are scaled by parameter, so there it is an approximation:
    arXiv 2602.00329 finds it poor, and scales gradients as Adam does. Gradients count as they are trained on, with the
    weights of their blocks, and before clipping.

    The held-out batch is a sample of text that training should do well on. A run that chooses blocks by it has seen
    it, so its loss is no measurement any more: evaluate on other text. In the authors' code it is one batch for the
    whole run, of one sequence by default; its gradient is taken at the params of each step.

    Args:
      first, later: length of the first round and of each later one, in steps. Ours.
      rounds: how many there are, the first one included. Ours.
      keep: the least share of the blocks that a later round draws, 0 to 1. Ours.

    Returns:
      The schedule, with phases 'round.1', 'round.2', ... Its state is a `ShapleyState`: twice
      (f32[N], i32[N], i32[]), and bool[N]. It needs the signals "grad_dot" and "learning_rate" of each training step.

    Raises:
      ValueError: a length or `rounds` is not a positive whole number, or `keep` is outside (0, 1].

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.data_shapley(keep=0.25)
      >>> state, ids, losses = s.init(schedule.BlockInfo(4)), jnp.array([0, 1, 2]), jnp.ones(3)
      >>> state = s.observe(state, ids, losses, 0, grad_dot=jnp.array([0.2, -0.5, 0.1]), learning_rate=1.0)
      >>> state = s.observe(state, ids, losses, 1, grad_dot=jnp.array([0.2, 0.8, -0.8]), learning_rate=0.5)
      >>> state = s.begin(state, 1)
      >>> s.rates(state).tolist()  # the values are 0.3, −0.1 and −0.3; block 3 was not drawn yet
      [1.0, 0.0, 0.0, 1.0]

    References:
      Wang, Mittal, Song, Jia 2024, "Data Shapley in One Training Run", arXiv 2406.11011, and the authors' code
      (github.com/Jiachen-T-Wang/GhostSuite).
    """
    keep = real_number("keep", keep, KEEP)
    phases = in_rounds(rounds=rounds, first=first, later=later)

    def init(info: BlockInfo) -> ShapleyState:
        n = num_blocks(info)
        return ShapleyState(init_measured(n), init_measured(n), jnp.ones(n, bool))

    def fold(state, ids_B, losses_B, step, *, grad_dot, learning_rate):
        return add(state, ids_B, learning_rate * grad_dot, step)

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        chosen_N = useful(values(state), keep) | (jnp.asarray(phase_index) == 0)
        return state._replace(drawn=chosen_N)

    return Schedule(phases, init, fold, begin, drawn_rates, observe_train=True, extra=("grad_dot", "learning_rate"))


def add(state: ShapleyState, ids_B: jax.Array, did_B: jax.Array, step: jax.Array) -> ShapleyState:
    """Adds what blocks did in a step. Said twice of one step, it counts once; if it is NaN, not at all."""
    newest = observe(state.newest, ids_B, did_B, step)
    of_B, at_B = take_blocks(state.newest.loss, ids_B), take_blocks(state.newest.step, ids_B)
    sum_B = take_blocks(state.before.loss, ids_B)
    sum_B = jnp.where(jnp.isnan(sum_B), 0.0, sum_B) + jnp.where((at_B >= 0) & (at_B < step), of_B, 0.0)
    before = observe(state.before, ids_B, jnp.where(jnp.isfinite(did_B), sum_B, jnp.nan), step)
    return state._replace(newest=newest, before=before)


def values(state: ShapleyState) -> jax.Array:
    """f32[N]: φ; NaN for blocks that were never drawn."""
    return state.newest.loss + jnp.where(jnp.isnan(state.before.loss), 0.0, state.before.loss)


def useful(value_N: jax.Array, keep: float) -> jax.Array:
    """bool[N]: blocks of a value that is not negative, or unknown; and at least the share `keep`, the highest."""
    return ~(value_N < 0) | hardest(value_N, num_chosen(value_N.shape[0], keep))
