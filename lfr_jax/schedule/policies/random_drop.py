"""The control of LFR: the same phases, which drop as many blocks, but random ones."""

import numpy as np

from lfr_jax.schedule.arrays.select import random_blocks
from lfr_jax.schedule.by_phase import of_phase
from lfr_jax.schedule.checks import seed_number
from lfr_jax.schedule.phases import learn_focus_review, num_kept
from lfr_jax.schedule.randomness import Purpose, jax_key
from lfr_jax.schedule.types import Schedule
from lfr_jax.schedule.unscored import drawn_rates, ignore_losses, init_drawn


def random_drop(
    *,
    learn: int = 2000,
    focus: int = 1000,
    review: int = 2000,
    focus2: int = 600,
    drop: float = 0.5,
    drop2: float = 0.7,
    reps: int = 2,
    seed: int = 0,
) -> Schedule:
    r"""The phases of `lfr`, but each Focus phase draws random blocks, as many as that of `lfr`.

    $$ r_i = [\, i \in \text{a random subset of } k \,], \quad k = N - \lfloor \text{drop} \cdot N \rfloor $$

    The difference between `lfr` and this policy is what the losses are worth, without the effect of the phases.

    Args:
      learn, focus, review, focus2, drop, drop2, reps: as of `lfr`.
      seed: decides the subsets, together with the number of the phase.

    Returns:
      The schedule, with the phase names of `lfr`. It needs no losses.

    Raises:
      ValueError: as `lfr`.

    Examples:
      >>> from lfr_jax import schedule
      >>> s = schedule.random_drop(drop=0.5, seed=1)
      >>> state = s.init(schedule.BlockInfo(num_blocks=6))
      >>> int(s.rates(s.begin(state, 1)).sum())
      3
    """
    phases, drops = learn_focus_review(
        learn=learn, focus=focus, review=review, focus2=focus2, drop=drop, drop2=drop2, reps=reps, score=False
    )

    seed = seed_number("seed", seed)

    def begin(state, phase_index):
        kept = {drop: num_kept(state.drawn.shape[0], drop) for drop in set(drops)}
        k = of_phase(np.array([kept[drop] for drop in drops], np.uint32), phase_index)
        return state._replace(drawn=random_blocks(jax_key(Purpose.RANDOM_DROP, seed, phase_index), state.drawn, k))

    return Schedule(phases, init_drawn, ignore_losses, begin, drawn_rates)
