"""Optax for data: schedules that choose which blocks to train on next.

A *policy* is a function that returns a `Schedule`; its arguments are the policy's settings. A `Schedule`
is a NamedTuple of pure functions over a carried pytree. Training proceeds in phases. Before a phase, the
model's losses on the blocks are recorded in the state, the state gives each block a draw rate, and
`plan` turns the rates into the draws of the phase::

    sched = schedule.lfr(learn=2000, focus=1000, review=2000, focus2=600)
    schedule.check_trainer(sched, scores_blocks=True)  # what the loop below does: see there
    state = sched.init(schedule.BlockInfo(num_blocks))
    for i, phase in enumerate(sched.phases):
        if phase.score:
            state = sched.observe(state, ids, losses, step)  # of every block, batch by batch
        state = sched.begin(state, i)  # may be jitted: one program for all phases
        draws = schedule.plan(sched.rates(state), (phase.stop - phase.start) * batch_size, seed, i)
        for step in range(phase.start, phase.stop):
            first = (step - phase.start) * batch_size
            train_on(draws[first : first + batch_size])

Some schedules need more of the loop: that it calls `observe` with the losses of every training step
(`observe_train`) and with other signals (`extra`), or that it multiplies losses by `objective_weights`, `loss_weights`
or `token_weights`. `check_trainer` raises if the loop does less than the schedule needs.

- `POLICIES` has all policies by name: `uniform` (the baseline), `lfr`, ... Their settings all have defaults.
- `WRAPPERS` has the functions from schedules to a schedule: `chain`, `floor`, `stratified`, `cap_noise`, `unbiased`.
- Phases: `fit` stretches them, `in_epochs` counts in epochs; `consecutive` and `in_rounds` build them.
- For policies of your own: `scored`, or `Schedule` with `init_measured`, `observe`, `estimate`, `hardest`,
  `detrend`, `groups_of`, `group_means`, `per_block`, `num_blocks`, `required`, `num_kept`, `num_chosen`; `SIGNALS`;
  `documents_of`, `document_means`, `block_means` where documents are the unit;
  `check_phase`, `of_phase` and `phase_switch` for what differs by phase; `jax_key` and `random_blocks`
  for random choices; `init_drawn`, `ignore_losses` and `drawn_rates`, if no loss matters.
- What blocks count in the loss: `objective_weights`, `weight_variance`, `take_blocks`.
- `DrawnSource`: the draws of a phase as a data source of Grain, or a data set of torch.
- Draws and random numbers: `plan`, `checked_rates`, `rates_are_equal`, `systematic_sample`, `Purpose`, `numpy_key`, ...

To add a policy here: write it in a file of its own name in `policies/`, and add its import below.

This package needs jax and numpy alone, and works in any trainer.
"""
# ruff: noqa: F401  (what is imported here is what the package exports)

import inspect as _inspect
from types import ModuleType as _ModuleType

from lfr_jax.schedule.arrays.documents import Documents, block_means, document_means, documents_of
from lfr_jax.schedule.arrays.estimate import estimate
from lfr_jax.schedule.arrays.groups import Groups, group_means, groups_of, per_block
from lfr_jax.schedule.arrays.lookup import take_blocks
from lfr_jax.schedule.arrays.observe import Measured, init_measured, observe
from lfr_jax.schedule.arrays.select import hardest, random_blocks
from lfr_jax.schedule.arrays.trend import detrend
from lfr_jax.schedule.by_domain import DomainState
from lfr_jax.schedule.by_loss import ScoredState, scored
from lfr_jax.schedule.by_phase import check_phase, of_phase, phase_switch
from lfr_jax.schedule.draws.drawn_source import DrawnSource
from lfr_jax.schedule.draws.plan import Plan, checked_rates, plan, rates_are_equal
from lfr_jax.schedule.draws.systematic import systematic_sample
from lfr_jax.schedule.epochs import in_epochs
from lfr_jax.schedule.hashing import mix32, mix64
from lfr_jax.schedule.needs import SIGNALS, check_trainer
from lfr_jax.schedule.objective import objective_weights, weight_variance
from lfr_jax.schedule.phases import consecutive, fit, in_rounds, num_chosen, num_kept
from lfr_jax.schedule.policies.ado import AdoState, ado
from lfr_jax.schedule.policies.aioli import AioliState, aioli
from lfr_jax.schedule.policies.data_shapley import ShapleyState, data_shapley
from lfr_jax.schedule.policies.domain_upsampling import domain_upsampling
from lfr_jax.schedule.policies.doremi import DoremiState, doremi
from lfr_jax.schedule.policies.frame import FrameState, frame
from lfr_jax.schedule.policies.infobatch import infobatch
from lfr_jax.schedule.policies.lfr import lfr
from lfr_jax.schedule.policies.lfr_clusters import lfr_clusters
from lfr_jax.schedule.policies.linupper import LinUpperState, linupper
from lfr_jax.schedule.policies.mixture import mixture
from lfr_jax.schedule.policies.odm import OdmState, odm
from lfr_jax.schedule.policies.progress import ProgressState, progress
from lfr_jax.schedule.policies.random_drop import random_drop
from lfr_jax.schedule.policies.ranked import RankedState, ranked
from lfr_jax.schedule.policies.reducible import reducible
from lfr_jax.schedule.policies.repetition import RepetitionState, repetition
from lfr_jax.schedule.policies.replay import replay
from lfr_jax.schedule.policies.seta import seta
from lfr_jax.schedule.policies.softmax_rounds import softmax_rounds
from lfr_jax.schedule.policies.spaced_repetition import SpacedState, spaced_repetition
from lfr_jax.schedule.policies.token_selection import token_selection
from lfr_jax.schedule.policies.uniform import uniform
from lfr_jax.schedule.randomness import (
    Purpose,
    jax_key,
    numpy_key,
    random_numbers,
    random_numbers_at,
    random_seed,
    sample_phase,
)
from lfr_jax.schedule.types import (
    BlockInfo,
    MissingInfo,
    Phase,
    Schedule,
    ScheduleState,
    num_blocks,
    required,
)
from lfr_jax.schedule.unscored import DrawnState, drawn_rates, ignore_losses, init_drawn
from lfr_jax.schedule.wrappers.cap_noise import CapNoiseState, cap_noise
from lfr_jax.schedule.wrappers.chain import ChainState, chain
from lfr_jax.schedule.wrappers.floor import floor
from lfr_jax.schedule.wrappers.stratified import StratifiedState, stratified
from lfr_jax.schedule.wrappers.unbiased import unbiased


def _from_folder(folder: str) -> dict:
    """The functions that are imported above from files of their own name in `folder`, by name."""
    functions = {name: x for name, x in globals().items() if _inspect.isfunction(x)}
    return {name: f for name, f in functions.items() if f.__module__ == f"{__name__}.{folder}.{name}"}


POLICIES = _from_folder("policies")  # name -> function that returns a Schedule; every argument has a default
WRAPPERS = _from_folder("wrappers")  # name -> function that takes one or more Schedules and returns one

__all__ = sorted(name for name, x in globals().items() if name[0] != "_" and not isinstance(x, _ModuleType))
