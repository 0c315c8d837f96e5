"""Every policy, under every wrapper, where all is as small as can be: lengths of one step, and few blocks."""

import inspect

import numpy as np
import pytest
from test_options import assert_draws

from lfr_jax import schedule

LENGTHS = (
    *("steps", "round_steps", "trial_steps", "learn", "focus", "review", "focus2", "first", "later", "last"),
    *("warmup", "watch", "weighted"),
)
WRAPPERS = {
    "alone": lambda s: s,
    "chain": lambda s: schedule.chain(schedule.uniform(1), s),
    "floor": schedule.floor,
    "stratified": schedule.stratified,
    "cap_noise": schedule.cap_noise,
    "all": lambda s: schedule.cap_noise(schedule.floor(schedule.stratified(schedule.chain(s, schedule.uniform(1))))),
}


def of_single_steps(name: str) -> schedule.Schedule:
    """The policy with phases of one step each, and settings that ask for more blocks than there are."""
    if name == "domain_upsampling":
        return schedule.domain_upsampling(steps=2, last=0.5)
    if name == "mixture":
        return schedule.mixture([(1, "equal"), (1, "natural")])
    if name == "replay":
        return schedule.replay([(1, None), (1, [])])
    options = inspect.signature(schedule.POLICIES[name]).parameters
    few = {option: 1 for option in LENGTHS if option in options}
    few |= {option: value for option, value in dict(rounds=20, groups=50, window=2).items() if option in options}
    few |= {option: 0.99 for option in ("drop", "drop2") if option in options}
    few |= {option: 0.01 for option in ("keep",) if option in options}
    return schedule.POLICIES[name](**few)


def few_blocks(n: int, num_groups: int) -> schedule.BlockInfo:
    group_N, loss_N = np.arange(n, dtype=np.int32) % num_groups, np.linspace(1, 2, n, dtype=np.float32)
    losses = dict(ref_loss=loss_N, weak_loss=loss_N + 1, strong_loss=loss_N)
    return schedule.BlockInfo(n, group_N, group_N, group_N, **losses, columns={"quality": loss_N})


@pytest.mark.parametrize(
    "wrapper", [pytest.param(name, marks=pytest.mark.slow if name != "alone" else ()) for name in WRAPPERS]
)
@pytest.mark.parametrize("name", schedule.POLICIES)
def test_few_blocks_in_phases_of_one_step(name, wrapper):
    """Catches: a share of few blocks rounded down to none; a group, part or window without blocks; a batch of one."""
    s = WRAPPERS[wrapper](of_single_steps(name))
    assert {phase.stop - phase.start for phase in s.phases} == {1}
    for n, num_groups in ((1, 1), (3, 1), (3, 3)):
        assert_draws(s, few_blocks(n, num_groups), num_draws=1)
