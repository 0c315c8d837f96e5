"""Optax for data: schedules that choose which blocks to train on next.

A `Schedule` is a NamedTuple of pure functions over a carried pytree. Training proceeds in
phases. Between phases the model's losses on the blocks are folded into the state, the state
gives each block a draw rate, and `plan` turns the rates into the draws of the next phase::

    sched = schedule.lfr(learn=2000, focus=1000, review=2000, focus2=600)
    state = sched.init(schedule.BlockInfo(num_blocks))
    for i, phase in enumerate(sched.phases):
        if phase.score:
            state = sched.observe(state, ids, losses, step)  # of every block, batch by batch
        state = sched.begin(state, i)
        draws = schedule.plan(sched.rates(state), (phase.stop - phase.start) * batch_size, seed, i)
        for step in range(phase.start, phase.stop):
            first = (step - phase.start) * batch_size
            train_on(draws[first : first + batch_size])

Policies: `uniform` (the baseline), `lfr`, `random_drop` (the control of `lfr`).
Lengths of phases: `fit`, `in_epochs`.
To build policies from: `hardest`, `observe`, `unmeasured`, `detrend`.

This package needs jax and numpy alone, and works in any trainer.
"""

from lfr_jax.schedule.groups import Groups, group_means
from lfr_jax.schedule.lfr import lfr
from lfr_jax.schedule.observe import Measured, observe, unmeasured
from lfr_jax.schedule.phases import fit, in_epochs
from lfr_jax.schedule.plan import Plan, plan
from lfr_jax.schedule.random_drop import random_drop
from lfr_jax.schedule.scored import ScoredState, scored
from lfr_jax.schedule.select import hardest
from lfr_jax.schedule.trend import detrend
from lfr_jax.schedule.types import BlockInfo, Phase, Schedule, ScheduleState
from lfr_jax.schedule.uniform import DrawnState, uniform

__all__ = [
    "BlockInfo",
    "DrawnState",
    "Groups",
    "Measured",
    "Phase",
    "Plan",
    "Schedule",
    "ScheduleState",
    "ScoredState",
    "detrend",
    "fit",
    "group_means",
    "hardest",
    "in_epochs",
    "lfr",
    "observe",
    "plan",
    "random_drop",
    "scored",
    "uniform",
    "unmeasured",
]
