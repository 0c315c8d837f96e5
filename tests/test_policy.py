"""From settings to a schedule."""

import inspect

import numpy as np
import pytest

from lfr_jax import policy, schedule
from lfr_jax.config import ScheduleConfig

LENGTHS = dict(learn=10, focus=5, review=5, focus2=4)


def test_every_policy_can_be_named():
    """Catches: a policy of `lfr_jax.schedule` that no configuration can name, or a name without a policy."""
    not_policies = {"chain", "floor", "stratified", "cap_noise", "fit", "scored"}  # they take schedules, or phases
    functions = {name: getattr(schedule, name) for name in schedule.__all__ if name.islower()}
    makers = {
        name
        for name, function in functions.items()
        if inspect.isfunction(function)
        and inspect.signature(function).return_annotation is schedule.Schedule
        and name not in not_policies
    }
    assert set(policy.POLICIES) == makers
    for name in policy.POLICIES:
        assert policy.build(ScheduleConfig(name), steps=100).phases[-1].stop == 100


def test_options_reach_the_policy():
    """Catches: options that are dropped, or a fit that is left out, or made where no length was asked for."""
    options = LENGTHS | dict(reps=1, drop=0.25, scores="train")
    built = policy.build(ScheduleConfig("lfr", options), steps=0)
    assert built.phases == schedule.lfr(**options).phases and built.observe_train
    assert [phase.stop for phase in policy.build(ScheduleConfig("lfr", options), 48).phases] == [20, 30, 40, 48]
    state = built.begin(built.init(schedule.BlockInfo(8)), 1)
    assert np.asarray(built.rates(state)).sum() == 6


def test_uniform_lasts_as_long_as_asked():
    """Catches: the steps of `train` not handed on, or winning where none were asked for."""
    assert policy.build(ScheduleConfig("uniform"), 24).phases == schedule.uniform(24).phases
    assert policy.build(ScheduleConfig("uniform", dict(steps=7)), 0).phases[-1].stop == 7
    assert policy.build(ScheduleConfig("uniform", dict(steps=7)), 24).phases[-1].stop == 24
    with pytest.raises(ValueError, match="steps is 0, expected at least 1"):
        policy.build(ScheduleConfig("uniform"), 0)


@pytest.mark.parametrize(
    "name, options, error",
    [
        ("unifrom", {}, "no policy is called 'unifrom'; did you mean 'uniform'.* there are uniform, lfr"),
        ("fit", {}, "no policy is called 'fit'"),  # another function of the package
        ("lfr", dict(dropp=0.5), "schedule.options has 'dropp', which lfr does not take; did you mean 'drop'"),
        ("uniform", dict(learn=5), "'learn', which uniform does not take; it takes steps"),
        ("lfr", dict(drop=1.5), "drop is 1.5, expected a share"),
        ("lfr", dict(learn="many"), "the length of phase 'learn' is 'many', expected a whole number"),
    ],
)
def test_mistakes_are_named(name, options, error):
    """Catches: any function of the package taken for a policy; a TypeError in place of words."""
    with pytest.raises(ValueError, match=error):
        policy.build(ScheduleConfig(name, options), steps=100)


def test_switching_keeps_what_the_other_policy_takes():
    """Catches: phases that differ between a policy and its control; options that the other one refuses."""
    config = ScheduleConfig("lfr", LENGTHS | dict(reps=3, scores="train"))
    control = policy.switch(config, "random_drop")
    assert control == ScheduleConfig("random_drop", LENGTHS | dict(reps=3))
    both = [[p._replace(score=False) for p in policy.build(c, 200).phases] for c in (config, control)]
    assert both[0] == both[1]
    assert policy.switch(config, "uniform") == ScheduleConfig("uniform", {})
    assert policy.switch(config, "lfr") == config
    with pytest.raises(ValueError, match="did you mean 'random_drop'"):
        policy.switch(config, "random_drp")
