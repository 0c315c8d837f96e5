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
      measured: signals by name, [B, ...] or []. One that is named and not here was not measured, as those of a
        training step in a scoring pass: it is NaN, in its own shape.

    Returns:
      One entry for each name in `schedule.extra`, on every device.
    """
    nothing = jnp.full((), jnp.nan, jnp.float32)
    of_tokens = measured.get("token_losses", ids_B).shape  # known where `needs_tokens`
    shapes = {"learning_rate": (), "ref_token_losses": of_tokens}
    known = {"progress": progress(schedule, step)} | measured
    return {
        name: jax.reshard(known.get(name, jnp.broadcast_to(nothing, shapes.get(name, ids_B.shape))), P())
        for name in schedule.extra
    }


def needs_tokens(schedule: Schedule) -> bool:
    """Whether a scoring pass has to measure the losses of tokens: the schedule names signals of their shape."""
    return not {"token_losses", "ref_token_losses"}.isdisjoint(schedule.extra)


def before_the_gradient(schedule: Schedule, step: jax.Array, **known: jax.Array) -> dict[str, jax.Array]:
    """The signals that a schedule names, for its `token_weights`: those that do not come out of this very step."""
    known = {"progress": progress(schedule, step)} | known
    return {name: jax.reshard(x, P()) for name, x in known.items() if name in schedule.extra}
