"""Every number that a policy or wrapper takes, out of range and at its ends."""

import inspect
import math

import jax
import numpy as np
import pytest
from policies import block_info, supplied

from lfr_jax import schedule
from lfr_jax.schedule import checks

SILLY = [0, -1, math.nan, math.inf, -math.inf, 1e30, 0.5, True, np.True_, "1", b"1", None, 10**30, -(10**30), 10**5000]
BUILDERS = schedule.POLICIES | {name: getattr(schedule, name) for name in schedule.WRAPPERS if name != "chain"}
NUMBERS = [
    (name, option, type(parameter.default))
    for name, function in BUILDERS.items()
    for option, parameter in inspect.signature(function).parameters.items()
    if type(parameter.default) in (int, float)
]


def build(name: str, **options) -> schedule.Schedule:
    inner = [schedule.lfr(reps=1)] * (name in schedule.WRAPPERS)
    return BUILDERS[name](*inner, **options)


def assert_draws(s: schedule.Schedule, info: schedule.BlockInfo, num_draws: int = 7) -> None:
    """The first phases and the last one can be drawn from, and as often as is asked for."""
    s = supplied(s)
    state, ids_N = s.init(info), np.arange(info.num_blocks, dtype=np.int32)
    for index in {0, 1, 2, len(s.phases) - 1} & set(range(len(s.phases))):
        state = s.observe(state, ids_N, np.float32(1 + ids_N % 3), s.phases[index].start)
        state = s.begin(state, index)
        rates_N = np.asarray(s.rates(state))
        assert np.isfinite(rates_N).all() and (rates_N >= 0).all() and rates_N.any()
        draws = schedule.plan(rates_N, num_draws, seed=0, phase=index)[:]
        assert draws.shape == (num_draws,) and rates_N[draws].all()
        if s.loss_weights:
            weights_N = s.loss_weights(state, ids_N, np.float32(1 + ids_N % 3))
            assert np.isfinite(weights_N).all() and np.asarray(weights_N).any()


@pytest.mark.parametrize("name, option, kind", NUMBERS, ids=lambda x: x if isinstance(x, str) else "")
def test_a_silly_number_is_refused_by_name_or_works(name, option, kind):
    """Catches: a comparison that NaN passes; `operator.index`, which takes True; a number that float32 rounds to 0."""
    refused = 0
    for value in [*SILLY, checks.STEPS + 1]:
        try:
            s = build(name, **{option: value})
        except ValueError as error:
            assert option in str(error) and "expected" in str(error) and checks.shown(value) in str(error)
            refused += 1
        else:
            assert_draws(s, block_info(5))
    assert refused >= 10


@pytest.mark.parametrize("name, option, kind", NUMBERS, ids=lambda x: x if isinstance(x, str) else "")
def test_numbers_of_numpy_and_jax_are_numbers(name, option, kind):
    """Catches: `isinstance(value, int)`; a check that a traced or 0-dimensional array passes as something else."""
    default = inspect.signature(BUILDERS[name]).parameters[option].default
    similar = [np.int64(default), np.uint16(default)] if kind is int else [np.float64(default), np.array(default)]
    for value in similar:
        assert build(name, **{option: value}).phases == build(name).phases
    if kind is float:
        build(name, **{option: jax.numpy.float32(default)})


@pytest.mark.parametrize("value", [1e-30, 1e30])
def test_the_ends_of_what_is_accepted(value):
    """Catches: a range whose ends are 0 or infinite in float32, in which losses are divided by it."""
    assert_draws(schedule.linupper(temperature=value), block_info(5))
    assert_draws(schedule.softmax_rounds(temperature=value), block_info(5))
    assert_draws(schedule.frame(width=value), block_info(5))
    assert_draws(schedule.spaced_repetition(tolerance=value, growth=max(1, value)), block_info(5))


def test_no_seed_is_cut_to_another():
    """Catches: seeds that differ above their 32nd bit and choose the same blocks."""
    for policy in (schedule.random_drop, schedule.seta, schedule.softmax_rounds, schedule.frame):
        policy(seed=2**32 - 1)
        with pytest.raises(ValueError, match="seed is 4294967296, expected at most 4294967295"):
            policy(seed=2**32)


def test_more_phases_than_memory_holds():
    """Catches: a list of a billion phases, built before anything is checked."""
    with pytest.raises(ValueError, match="rounds is 1000000000, expected at most 1000000"):
        schedule.seta(rounds=10**9)
    with pytest.raises(ValueError, match="reps is 1000000000, expected at most 1000000"):
        schedule.lfr(reps=10**9)
    with pytest.raises(ValueError, match="the length of all phases is 4294967294, expected at most 2147483647"):
        schedule.linupper(warmup=2**31 - 1, weighted=2**31 - 1)


@pytest.mark.parametrize("policy", [schedule.mixture, schedule.replay])
@pytest.mark.parametrize("stages", [5, [5], [(5,)], [(5, "a", 1)], ["ab"], "ab", None, [(True, None)], [(0.5, None)]])
def test_stages_that_are_none(policy, stages):
    """Catches: the error of an unpacking, which names no option."""
    with pytest.raises(ValueError, match=r"stage.*expected"):
        policy(stages)


@pytest.mark.parametrize("weights", [3, [math.nan], ["a"], [[1, 2]], [-1], None, [None], "largest"])
def test_weights_that_are_none(weights):
    """Catches: numpy's own error, which names no option."""
    with pytest.raises(ValueError, match=r"the weights of stage.1 are .*, expected"):
        schedule.mixture([(5, weights)])


@pytest.mark.parametrize("domains", [0, [0.5], ["a"], [-1], [True], [10**30]])
def test_domains_that_are_none(domains):
    """Catches: a domain counted from the end; an index error that names no option."""
    with pytest.raises(ValueError, match=r"stage.1 brings .*, expected"):
        schedule.replay([(5, domains), (5, None)]).init(block_info(5))
