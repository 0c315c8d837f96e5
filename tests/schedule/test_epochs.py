"""Lengths in epochs."""

import jax.numpy as jnp
import numpy as np
import pytest
from policies import block_info

from lfr_jax import schedule
from lfr_jax.schedule.epochs import PASSES


def test_the_numbers_of_lfr():
    """Catches: an epoch of Focus over all blocks; rounding down; the share dropped taken for the one kept; floats."""
    # 1000 blocks, 30 a step. Learn: 1000/30 = 33.3 -> 34. Focus keeps 750: 2·750/30 = 50.
    # Review: 500/30 = 16.7 -> 17. Focus 2 keeps 290: 290/30 = 9.7 -> 10.
    got = schedule.in_epochs(1000, 30, focus=2.0, review=0.5, drop=0.25, drop2=0.71)
    assert got == dict(learn=34, focus=50, review=17, focus2=10, drop=0.25, drop2=0.71)
    for policy in ("lfr_clusters", "random_drop"):
        assert schedule.in_epochs(1000, 30, policy, focus=2.0, review=0.5, drop=0.25, drop2=0.71) == got
    assert schedule.in_epochs(1000, 30, focus2=0)["focus2"] == 0  # a phase that may be left out
    # 1.1 · 100 / 10 is 11, where floats give 11.000000000000002.
    assert schedule.in_epochs(100, 10, learn=1.1)["learn"] == 11


def test_the_numbers_of_others():
    """Catches: a length that is left out; a share of another policy; an option that is lost."""
    assert schedule.in_epochs(100, 7, "uniform", steps=3) == dict(steps=43)
    # 26 of 101 blocks are chosen.
    assert schedule.in_epochs(101, 4, "softmax_rounds", keep=0.25, seed=1) == dict(first=26, later=7, keep=0.25, seed=1)
    assert schedule.in_epochs(101, 4, "reducible", keep=0.25, later=2) == dict(first=26, later=13, keep=0.25)
    # 100 blocks, half of them easy, 3 of 4 of these dropped: 62.5.
    assert schedule.in_epochs(100, 1, "infobatch", drop=0.75, last=0.5) == dict(first=100, later=63, last=50, drop=0.75)
    # 90 of 100 are left, 4 of 5 groups of 18 are 72.
    of_window = dict(drop=0.1, groups=5, window=4)
    assert schedule.in_epochs(100, 10, "seta", **of_window) == dict(first=9, later=8, last=9) | of_window
    assert schedule.in_epochs(101, 4, "progress", keep=0.25) == dict(warmup=26, watch=26, focus=7, keep=0.25)
    assert schedule.in_epochs(101, 4, "ranked", keep=0.25, skip=0.5) == dict(round_steps=7, keep=0.25, skip=0.5)
    # The best 90 of 101 are left out, so 11 are left.
    assert schedule.in_epochs(101, 4, "ranked", keep=0.25, skip=0.9) == dict(round_steps=3, keep=0.25, skip=0.9)
    assert schedule.in_epochs(100, 5, "frame", rounds=8) == dict(round_steps=3, rounds=8)


@pytest.mark.parametrize("policy", PASSES)
def test_one_epoch_is_one_pass(policy):
    """Catches: a phase whose pass is another's; a length that leaves out part of a pass, or adds a step."""
    n, batch = 101, 8
    s = schedule.POLICIES[policy](**schedule.in_epochs(n, batch, policy))
    info = block_info(n)
    state = s.init(info)
    losses_N = jnp.asarray(np.random.default_rng(0).permutation(n), jnp.float32)  # half of them below the mean
    for index, phase in enumerate(s.phases):
        state = s.begin(s.observe(state, jnp.arange(n), losses_N, phase.start), index)
        draws = float(jnp.sum(s.rates(state)))
        assert abs((phase.stop - phase.start) * batch - draws) <= batch + 1, phase


def test_a_name_means_the_policy_of_that_name():
    """Catches: the passes of one policy under the name of another."""
    assert {name: passes.policy for name, passes in PASSES.items()}.items() <= schedule.POLICIES.items()


@pytest.mark.parametrize(
    "arguments, error",
    [
        (dict(focus=float("inf")), "the number of epochs of focus is inf, expected a number from 0"),
        (dict(focus=-1), "the number of epochs of focus is -1, expected a number from 0"),
        (dict(focus=0), "the length of phase 'focus.1' is 0, expected at least 1"),
        (dict(drop2=1), "drop2 is 1, expected a share of the blocks"),
        (dict(policy="odm"), "policy is 'odm', expected one whose lengths mean epochs: frame, infobatch, lfr, "),
        (dict(policy="seta", window=11), "window is 11 groups, expected at most 10"),
        (dict(batch_size=0), "batch_size is 0, expected at least 1"),
    ],
)
def test_mistakes_are_named(arguments, error):
    """Catches: endless epochs; a phase without steps, returned as if the policy took it; a share that the policy would
    refuse; a policy whose lengths are steps."""
    with pytest.raises(ValueError, match=error):
        schedule.in_epochs(**dict(num_blocks=10, batch_size=1) | arguments)


def test_an_option_that_the_policy_does_not_take():
    """Catches: a word misspelt that is passed over."""
    with pytest.raises(TypeError, match="focus3"):
        schedule.in_epochs(10, 1, focus3=2)
