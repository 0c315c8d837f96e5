"""Tokens that are worth a gradient: the others are read, but not learned from."""

from typing import Literal

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.estimate import one_of
from lfr_jax.schedule.arrays.select import hardest
from lfr_jax.schedule.by_phase import check_phase
from lfr_jax.schedule.checks import KEEP, positive_int, real_number
from lfr_jax.schedule.types import Phase, Schedule
from lfr_jax.schedule.unscored import drawn_rates, ignore_losses, init_drawn

By = Literal["loss", "excess"]


def token_selection(*, steps: int = 1000, keep: float = 0.7, by: By = "loss") -> Schedule:
    r"""Draws all blocks equally often, and trains on the tokens of the highest loss in each batch, or excess loss.

    Let a batch have M tokens with targets, and token j the loss $\ell_j$ and the score $s_j$. The factor on its loss is

    $$ w_j = \frac{M}{k} \left[\, j \in \text{the } k \text{ with the highest } s \,\right],
       \qquad k = \lceil \text{keep} \cdot M \rceil, \qquad
       s_j = \begin{cases} \ell_j & \text{by loss} \\ \ell_j - \ell^{\text{ref}}_j & \text{by excess} \end{cases} $$

    So the batch's loss is the mean over the k chosen tokens. By loss it is ESLM with $\alpha = 1 - \text{keep}$: its
    threshold is the value at risk of the batch's losses, and the mean over what is above is the conditional value at
    risk. By excess it is the selective language modelling of Rho-1: $\ell^{\text{ref}}_j$ is the token's loss under a
    reference model that was trained on text as the model should have it.

    All tokens are still read: only the backward pass could be cheaper, and is not. Ties are broken by place, so that k
    is exact. A trainer that accumulates gradients chooses within each micro-batch. ESLM can also go by the entropy of
    the prediction, and change its α while training; that is not offered here.

    Args:
      steps: length of the only phase, 'selection'. The default is arbitrary; `fit` changes it.
      keep: share of the tokens that are trained on. The default is ours; we could not read the papers' own.
      by: "loss", or "excess", which needs the signal "ref_token_losses".

    Returns:
      The schedule, with `token_weights`. Its state is a `DrawnState`, bool[N]. It needs no `observe`.

    Raises:
      ValueError: `steps` is not a positive whole number, `keep` is outside (0, 1], or `by` has another value.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.token_selection(keep=0.4)
      >>> state = s.init(schedule.BlockInfo(num_blocks=9))
      >>> losses = jnp.array([[2.0, 5.0, 1.0], [4.0, 3.0, jnp.nan]])  # 5 tokens with targets in 2 blocks
      >>> s.token_weights(state, jnp.array([7, 2]), losses).tolist()  # the highest 2 of 5
      [[0.0, 2.5, 0.0], [2.5, 0.0, 0.0]]

    References:
      Lin et al. 2024, "Rho-1: Not All Tokens Are What You Need", arXiv 2404.07965. Bal, Cevher, Muehlebach 2025,
      "ESLM: Risk-Averse Selective Language Modeling for Efficient Pretraining", arXiv 2505.19893. Of both we read
      abstracts and summaries.
    """
    keep = real_number("keep", keep, KEEP)
    one_of("by", by, By)
    phases = (Phase("selection", 0, positive_int("steps", steps)),)

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        return state

    def observe(state, ids_B, losses_B, step, **extra):
        return ignore_losses(state, ids_B, losses_B, step)

    def by_loss(state, ids_B, losses_BxT):
        return weights(losses_BxT, keep)

    def by_excess(state, ids_B, losses_BxT, *, ref_token_losses):
        return weights(losses_BxT - ref_token_losses, keep)

    excess = by == "excess"
    return Schedule(
        phases,
        init_drawn,
        observe,
        begin,
        drawn_rates,
        token_weights=by_excess if excess else by_loss,
        extra=("ref_token_losses",) if excess else (),
    )


@jax.jit  # the same bits, whether or not it is called inside of a jit
def weights(score_BxT: jax.Array, keep: float) -> jax.Array:
    """f32[B, T]: the factors; 0 where the score is NaN."""
    score = score_BxT.reshape(-1)
    has_score = ~jnp.isnan(score)
    count = jnp.sum(has_score, dtype=jnp.int32)
    num_kept = jnp.ceil(keep * count).astype(jnp.int32)
    chosen = hardest(jnp.where(has_score, score, -jnp.inf), num_kept) & has_score
    return jnp.where(chosen, count / jnp.maximum(num_kept, 1), 0.0).astype(jnp.float32).reshape(score_BxT.shape)
