"""What this trainer tells a policy besides the losses of blocks: the signals that `Schedule.extra` names."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from lfr_jax.schedule import Schedule

# A run that is asked for another one is refused before it begins.
SUPPLIED = ("progress", "learning_rate", "token_losses", "ref_token_losses", "grad_dot")


def progress(schedule: Schedule, step: jax.Array) -> jax.Array:
    """f32[]: which share of the steps is done."""
    return jnp.asarray(step, jnp.float32) / schedule.phases[-1].stop


def asked(schedule: Schedule, step: jax.Array, ids_B: jax.Array, **measured: jax.Array) -> dict[str, jax.Array]:
    """The signals that a schedule names, for its `observe`.

    Args:
      step: at which they were measured.
      ids_B: of the blocks; its length alone counts.
      measured: signals by name, [B, ...]. One that is named and not here was not measured: f32[B] of NaN, as are those
        of gradients in a scoring pass.

    Returns:
      One entry for each name in `schedule.extra`, on every device.
    """
    known = {"progress": progress(schedule, step)} | measured
    nothing_B = jnp.full(ids_B.shape, jnp.nan, jnp.float32)
    return {name: jax.reshard(known.get(name, nothing_B), P()) for name in schedule.extra}


def before_the_gradient(schedule: Schedule, step: jax.Array, **known: jax.Array) -> dict[str, jax.Array]:
    """The signals that a schedule names, for its `token_weights`: those that do not come out of this very step."""
    known = {"progress": progress(schedule, step)} | known
    return {name: jax.reshard(x, P()) for name, x in known.items() if name in schedule.extra}
