"""One schedule after another."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.phases import of_phase
from lfr_jax.schedule.types import Phase, Schedule


class ChainState(NamedTuple):
    """State of a chain."""

    stage: jax.Array  # i32[]: number of the stage that the current phase belongs to
    stages: tuple[Any, ...]  # the states of all stages


def chain(*stages: Schedule) -> Schedule:
    """Goes through the phases of one schedule, then of the next.

    The phases of each stage are moved to begin where the stage before stops; within it they
    keep their numbers. Where two stages have a phase of the same name, all names get the
    number of their stage in front: '1.learn', '2.learn'.

    Every stage observes every loss from the start, so that a later one knows what was learned
    before it began. If one stage asks for the losses of training, all get them, also those
    that go by scoring passes.

    Args:
      *stages: at least one schedule, each with phases from step 0.

    Returns:
      The schedule; its state is a `ChainState`. A stage without loss weights counts as one
      whose weights are 1.

    Raises:
      ValueError: there is no stage.

    Examples:
      >>> from lfr_jax import schedule
      >>> s = schedule.chain(schedule.uniform(10), schedule.random_drop(learn=4, focus=2, review=3, focus2=1, reps=1))
      >>> [(p.name, p.start, p.stop) for p in s.phases[:3]]
      [('uniform', 0, 10), ('learn', 10, 14), ('focus', 14, 16)]
      >>> state = s.init(schedule.BlockInfo(6))
      >>> [int(s.rates(s.begin(state, i)).sum()) for i in range(3)]
      [6, 6, 3]
    """
    if not stages:
        raise ValueError("chain() has no stage, expected at least one schedule")
    phases, places = follow(stages)

    def init(info):
        return ChainState(jnp.int32(0), tuple(stage.init(info) for stage in stages))

    def observe(state, ids_B, losses_B, step):
        observed = tuple(s.observe(x, ids_B, losses_B, step) for s, x in zip(stages, state.stages))
        return state._replace(stages=observed)

    def begin(state, phase_index):
        number, index = of_phase(places, phase_index)
        entered = stages[number].begin(state.stages[number], index)
        return ChainState(jnp.int32(number), state.stages[:number] + (entered,) + state.stages[number + 1 :])

    def of_stage(functions, state, *args):
        # Which stage it is stands in the state alone, as `rates` is told nothing else.
        branches = [lambda states, *args, i=i, f=f: f(states[i], *args) for i, f in enumerate(functions)]
        return jax.lax.switch(state.stage, branches, state.stages, *args)

    def rates(state):
        return of_stage([stage.rates for stage in stages], state)

    def loss_weights(state, ids_B, losses_B):
        return of_stage([stage.loss_weights or ones for stage in stages], state, ids_B, losses_B)

    weighs = any(stage.loss_weights for stage in stages)
    observe_train = any(stage.observe_train for stage in stages)
    return Schedule(phases, init, observe, begin, rates, loss_weights if weighs else None, observe_train)


def follow(stages: tuple[Schedule, ...]) -> tuple[tuple[Phase, ...], tuple[tuple[int, int], ...]]:
    """All phases one after another, and which phase of which stage each is."""
    phases, places, start = [], [], 0
    for number, stage in enumerate(stages):
        phases += [phase._replace(start=start + phase.start, stop=start + phase.stop) for phase in stage.phases]
        places += [(number, index) for index in range(len(stage.phases))]
        start = phases[-1].stop
    if len({phase.name for phase in phases}) < len(phases):
        phases = [p._replace(name=f"{number + 1}.{p.name}") for p, (number, _) in zip(phases, places)]
    return tuple(phases), tuple(places)


def ones(state, ids_B: jax.Array, losses_B: jax.Array) -> jax.Array:
    """f32[B]: loss weights of a policy that has none."""
    return jnp.ones(ids_B.shape, jnp.float32)
