"""The baseline: every block equally often."""

from lfr_jax.schedule.by_phase import check_phase
from lfr_jax.schedule.checks import positive_int
from lfr_jax.schedule.types import Phase, Schedule
from lfr_jax.schedule.unscored import drawn_rates, ignore_losses, init_drawn


def uniform(steps: int = 1000) -> Schedule:
    r"""Draws every block equally often, in shuffled epochs, from the first step to the last.

    $$ r_i = 1 $$

    This is the baseline to beat. `plan` turns equal rates into one pass after another, each in
    a fresh order, without replacement.

    Args:
      steps: length of the only phase, 'uniform'. The default is arbitrary; `fit` changes it.

    Returns:
      The schedule. It needs no losses.

    Raises:
      ValueError: `steps` is not a positive whole number.

    Examples:
      >>> from lfr_jax import schedule
      >>> s = schedule.uniform(100)
      >>> s.rates(s.init(schedule.BlockInfo(num_blocks=3))).tolist()
      [1.0, 1.0, 1.0]
    """
    phases = (Phase("uniform", 0, positive_int("steps", steps)),)

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        return state

    return Schedule(phases, init_drawn, ignore_losses, begin, drawn_rates)
