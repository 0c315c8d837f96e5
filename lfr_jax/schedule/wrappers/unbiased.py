"""Every block counts alike, however often it is drawn."""

import jax.numpy as jnp

from lfr_jax.schedule.types import Schedule


def unbiased(schedule: Schedule) -> Schedule:
    r"""Draws as the policy says, and weighs the losses so that all blocks count alike in the training loss.

    $$ o_i = 1, \qquad w_i = \frac{\bar r}{r_i}, \qquad \bar r = \text{mean rate of the blocks that are drawn} $$

    The policy then decides which blocks the model sees often, and not what it is trained for. Weights of a policy
    for rules within a batch (`loss_weights`) stay, and so do its token weights; an objective of its own is replaced.

    A block that is never drawn counts nothing. For a policy that leaves blocks out, such as `lfr`, give each of them a
    share of the draws: `unbiased(floor(lfr()))`. With unequal weights the gradient has more noise:
    `weight_variance` says how much.

    Args:
      schedule: any.

    Returns:
      The schedule with an `objective`. Its state does not change.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.unbiased(schedule.floor(schedule.lfr(reps=1, drop=0.5), share=0.25))
      >>> state = s.observe(s.init(schedule.BlockInfo(4)), jnp.arange(4), jnp.array([2.0, 5.0, 3.0, 4.0]), 2000)
      >>> state = s.begin(state, 1)
      >>> s.rates(state).tolist()
      [0.25, 1.75, 0.25, 1.75]
      >>> [round(w, 3) for w in schedule.objective_weights(s, state).tolist()]
      [4.0, 0.571, 4.0, 0.571]
      >>> round(float(schedule.weight_variance(s, state)), 3)
      1.286
    """
    return schedule._replace(objective=lambda state: jnp.ones_like(schedule.rates(state)))
