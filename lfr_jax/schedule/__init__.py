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
By the losses of blocks: `lfr_clusters`, `softmax_rounds`, `infobatch`, `seta`, `reducible`, `linupper`.
By the domain: `mixture`, `domain_upsampling`, `replay`, `odm`, `ado`.
By reference losses, each block once: `frame`. By due dates: `spaced_repetition`.
From schedules to schedules: `chain`, `floor`, `stratified`, `cap_noise`.
Lengths of phases: `fit`, `in_epochs`.
To build policies from: `hardest`, `observe`, `unmeasured`, `detrend`.

This package needs jax and numpy alone, and works in any trainer.
"""

from lfr_jax.schedule.arrays.groups import Groups, group_means
from lfr_jax.schedule.arrays.observe import Measured, observe, unmeasured
from lfr_jax.schedule.arrays.select import hardest
from lfr_jax.schedule.arrays.trend import detrend
from lfr_jax.schedule.domains import DomainState
from lfr_jax.schedule.draws.plan import Plan, plan
from lfr_jax.schedule.phases import fit, in_epochs
from lfr_jax.schedule.policies.ado import AdoState, ado
from lfr_jax.schedule.policies.domain_upsampling import domain_upsampling
from lfr_jax.schedule.policies.frame import FrameState, frame
from lfr_jax.schedule.policies.infobatch import infobatch
from lfr_jax.schedule.policies.lfr import lfr
from lfr_jax.schedule.policies.lfr_clusters import lfr_clusters
from lfr_jax.schedule.policies.linupper import LinUpperState, linupper
from lfr_jax.schedule.policies.mixture import mixture
from lfr_jax.schedule.policies.odm import OdmState, odm
from lfr_jax.schedule.policies.random_drop import random_drop
from lfr_jax.schedule.policies.reducible import reducible
from lfr_jax.schedule.policies.replay import replay
from lfr_jax.schedule.policies.seta import seta
from lfr_jax.schedule.policies.softmax_rounds import softmax_rounds
from lfr_jax.schedule.policies.spaced_repetition import SpacedState, spaced_repetition
from lfr_jax.schedule.policies.uniform import uniform
from lfr_jax.schedule.scored import ScoredState, scored
from lfr_jax.schedule.types import BlockInfo, Phase, Schedule, ScheduleState
from lfr_jax.schedule.unscored import DrawnState
from lfr_jax.schedule.wrappers.cap_noise import CapNoiseState, cap_noise
from lfr_jax.schedule.wrappers.chain import ChainState, chain
from lfr_jax.schedule.wrappers.floor import floor
from lfr_jax.schedule.wrappers.stratified import StratifiedState, stratified

__all__ = [
    "AdoState",
    "BlockInfo",
    "CapNoiseState",
    "ChainState",
    "DomainState",
    "DrawnState",
    "FrameState",
    "Groups",
    "LinUpperState",
    "Measured",
    "OdmState",
    "Phase",
    "Plan",
    "Schedule",
    "ScheduleState",
    "ScoredState",
    "SpacedState",
    "StratifiedState",
    "ado",
    "cap_noise",
    "chain",
    "detrend",
    "domain_upsampling",
    "fit",
    "floor",
    "frame",
    "group_means",
    "hardest",
    "in_epochs",
    "infobatch",
    "lfr",
    "lfr_clusters",
    "linupper",
    "mixture",
    "observe",
    "odm",
    "plan",
    "random_drop",
    "reducible",
    "replay",
    "scored",
    "seta",
    "softmax_rounds",
    "spaced_repetition",
    "stratified",
    "uniform",
    "unmeasured",
]
