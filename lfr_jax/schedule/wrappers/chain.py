"""One schedule after another."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.by_phase import of_phase, phase_switch
from lfr_jax.schedule.types import Phase, Schedule


class ChainState(NamedTuple):
    """State of a chain."""

    stage: jax.Array  # i32[]: number of the stage of the current phase
    stages: tuple[Any, ...]  # the states of all stages


def chain(*stages: Schedule) -> Schedule:
    """Runs one schedule after another.

    The phases of each stage begin where the stage before stops. If two stages have a phase of the same
    name, every name gets the number of its stage in front: '1.learn', '2.learn'.

    Every stage observes every loss from the start, so that a later stage knows what was learned
    before it began. If one stage needs the losses of training, all stages observe them, also those
    that go by scoring passes. Each stage gets the signals that it names in `extra`; "progress" is that of the whole
    run.

    Args:
      *stages: at least one schedule, each with phases from step 0.

    Returns:
      The schedule; its state is a `ChainState`. A stage without loss weights or token weights has weights 1, if another
      stage has some; and one without an objective has none in its own phases.

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
    phases, numbers, indices = consecutive_stages(stages)

    def init(info):
        return ChainState(jnp.int32(0), tuple(stage.init(info) for stage in stages))

    def observe(state, ids_B, losses_B, step, **extra):
        pairs = zip(stages, state.stages)
        return state._replace(stages=tuple(s.observe(x, ids_B, losses_B, step, **asked(s, extra)) for s, x in pairs))

    begin_of_stages = [functools.partial(begin_stage, stage, number) for number, stage in enumerate(stages)]
    begin_of_phases = [begin_of_stages[number] for number in numbers]

    def begin(state, phase_index):
        return phase_switch(begin_of_phases, phase_index, state.stages, of_phase(indices, phase_index))

    def of_some(name, otherwise):
        """One function for those that some stages have under this name; None if no stage has one."""
        functions = [getattr(stage, name) or functools.partial(otherwise, stage) for stage in stages]
        return of_stage(stages, functions) if any(getattr(stage, name) for stage in stages) else None

    return Schedule(
        phases,
        init,
        observe,
        begin,
        of_stage(stages, [stage.rates for stage in stages]),
        loss_weights=of_some("loss_weights", ones),
        observe_train=any(stage.observe_train for stage in stages),
        objective=of_some("objective", no_objective),
        token_weights=of_some("token_weights", ones),
        extra=tuple(dict.fromkeys(name for stage in stages for name in stage.extra)),
    )


def begin_stage(stage: Schedule, number: int, states: tuple[Any, ...], index: int | jax.Array) -> ChainState:
    """The state of a chain that begins phase `index` of the stage `number`."""
    begun = stage.begin(states[number], index)
    return ChainState(jnp.int32(number), states[:number] + (begun,) + states[number + 1 :])


def of_stage(stages, functions):
    """One function of a chain's state for a function of each stage's. Only the state tells the stage."""

    def call(number, function, states, args, extra):
        return function(states[number], *args, **asked(stages[number], extra))

    branches = [functools.partial(call, number, function) for number, function in enumerate(functions)]
    # Jitted, or each call outside of a jit would compile the switch again.
    return jax.jit(lambda state, *args, **extra: jax.lax.switch(state.stage, branches, state.stages, args, extra))


def asked(stage: Schedule, extra: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The signals that this stage names."""
    return {name: signal for name, signal in extra.items() if name in stage.extra}


def consecutive_stages(stages: tuple[Schedule, ...]) -> tuple[tuple[Phase, ...], tuple[int, ...], tuple[int, ...]]:
    """All phases one after another; and for each its stage's number, and its own within the stage."""
    phases, numbers, indices, start = [], [], [], 0
    for number, stage in enumerate(stages):
        phases += [phase._replace(start=start + phase.start, stop=start + phase.stop) for phase in stage.phases]
        numbers += [number] * len(stage.phases)
        indices += range(len(stage.phases))
        start = phases[-1].stop
    if len({phase.name for phase in phases}) < len(phases):
        phases = [p._replace(name=f"{number + 1}.{p.name}") for p, number in zip(phases, numbers)]
    return tuple(phases), tuple(numbers), tuple(indices)


def ones(stage: Schedule, state, ids_B: jax.Array, losses: jax.Array, **extra) -> jax.Array:
    """f32[B] or f32[B, T]: loss weights or token weights of a stage that has none."""
    return jnp.ones(losses.shape, jnp.float32)


def no_objective(stage: Schedule, state) -> jax.Array:
    """f32[N]: the objective of a stage that has none."""
    return jnp.zeros_like(stage.rates(state))
