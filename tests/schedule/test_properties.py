"""What every policy and every wrapper must do, whatever the data and whatever was measured."""

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import FIELDS, SCHEDULES, N, block_info, gamma, parts, run, same

from lfr_jax import schedule

pytestmark = pytest.mark.apart
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def examples(count: int):
    """The same few examples every time: a suite that fails, fails again."""
    return hypothesis.settings(max_examples=count, deadline=None, derandomize=True, database=None)


@st.composite
def histories(draw, calls: int = 6):
    """Calls of `observe`: ids of which some lie outside, losses of which some are no loss, and steps.

    Losses come from a short list, so that ties and extremes meet; or are ordinary.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = draw(st.lists(st.floats(width=32) | st.floats(0, 12, width=32), min_size=0, max_size=4))
    observed = []
    for call in range(calls):
        ids = rng.permutation(np.arange(-2, N + 4))[:N]
        ids[rng.random(N) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = -1
        losses = rng.choice(values, N) if values and rng.random() < 0.8 else rng.gamma(4, 1, N)
        observed.append((jnp.asarray(ids, jnp.int32), jnp.asarray(losses, jnp.float32)))
    return observed


def check_rates(rates_N, n: int) -> None:
    assert rates_N.shape == (n,) and rates_N.dtype == jnp.float32
    rates_N = np.asarray(rates_N)
    assert np.isfinite(rates_N).all() and (rates_N >= 0).all() and rates_N.any(), rates_N


def check_draws(rates_N, num_draws: int, phase: int) -> None:
    """The counts of a plan sum exactly, and each is the expected one rounded down or up."""
    counts_N = np.bincount(schedule.plan(rates_N, num_draws, seed=0, phase=phase)[:], minlength=len(rates_N))
    rates_N = np.asarray(rates_N, np.float64)
    assert counts_N.sum() == num_draws
    assert (np.abs(counts_N - num_draws * rates_N / rates_N.sum()) < 1 + 1e-6).all()
    assert not counts_N[rates_N == 0].any()


@every_schedule
@examples(5)
@given(observed=histories())
def test_every_phase_can_be_drawn_whatever_was_observed(name, observed):
    """Catches: NaN out of 0/0 or inf − inf; a negative rate; a phase that keeps nothing; rates set by `observe`."""
    s = SCHEDULES[name]
    state = s.init(block_info())
    check_rates(s.rates(state), N)
    for index, phase in enumerate(s.phases):
        ids, losses = observed[2 * index % len(observed)]
        state = s.begin(s.observe(state, ids, losses, phase.start), index)
        rates_N = s.rates(state)
        check_rates(rates_N, N)
        check_draws(rates_N, 2 * N + 1, index)
        ids, losses = observed[(2 * index + 1) % len(observed)]
        state = s.observe(state, ids, losses, phase.stop - 1)
        same(s.rates(state), rates_N)


@every_schedule
@pytest.mark.parametrize("loss", [0.0, np.nan, np.finfo(np.float32).max])
def test_losses_all_alike(name, loss):
    """Catches: a division by a spread of 0; a mean of nothing; a sum that overflows."""
    s = SCHEDULES[name]
    _, rates_PxN = run(s, s.init(block_info()), jnp.full((len(s.phases), N), loss))
    for rates_N in rates_PxN:
        check_rates(rates_N, N)


@every_schedule
def test_one_block(name):
    """Catches: a share rounded down to nothing; a median, a slope or a deviation of one number."""
    s = SCHEDULES[name]
    for loss in (3.0, np.nan):
        _, rates_Px1 = run(s, s.init(block_info(1)), jnp.full((len(s.phases), 1), loss))
        for rates_1 in rates_Px1:
            check_rates(rates_1, 1)


@every_schedule
def test_no_blocks(name):
    """Catches: dropping the check of the block information from `init`."""
    with pytest.raises(ValueError, match="BlockInfo.num_blocks is 0, expected 1 to"):
        SCHEDULES[name].init(schedule.BlockInfo(0))


@every_schedule
@examples(3)
@given(observed=histories(calls=2), order=st.permutations(range(N)), cut=st.integers(1, N - 1))
def test_the_order_of_observations_does_not_matter(name, observed, order, cut):
    """Catches: a sum over blocks in the order of the call; a count of calls; the last one winning."""
    s = SCHEDULES[name]
    state = s.begin(s.init(block_info()), 0)
    state = s.observe(state, *observed[0], 0)
    ids, losses = observed[1]
    order = np.array(order)
    at_once = s.observe(state, ids, losses, 5)
    same(s.observe(state, ids[order], losses[order], 5), at_once)
    first, second = (jnp.where(part, ids[order], -1) for part in (np.arange(N) < cut, np.arange(N) >= cut))
    same(s.observe(s.observe(state, first, losses[order], 5), second, losses[order], 5), at_once)


@every_schedule
def test_observing_the_same_again_changes_no_rate(name):
    """Catches: losses that add up where the last one counts: a pass that is repeated after a restart counts double."""
    s = SCHEDULES[name]
    state, ids = s.init(block_info()), jnp.arange(N, dtype=jnp.int32)
    for index, phase in enumerate(s.phases):
        losses = gamma(N, seed=index)
        state = s.observe(state, ids, losses, phase.start)
        once, twice = s.begin(state, index), s.begin(s.observe(state, ids, losses, phase.start), index)
        same(s.rates(twice), s.rates(once))
        state = once


@every_schedule
def test_padding_is_ignored_and_invalid_losses_are_counted(name):
    """Catches: id −1 taken for the last block; id N clipped to N − 1; NaN stored; inf not counted."""
    s = SCHEDULES[name]
    state = s.observe(s.init(block_info()), jnp.arange(N, dtype=jnp.int32), gamma(N), 3)
    outside = jnp.asarray(np.resize([-1, N, N + 1, -N, 2**31 - 1, -(2**31)], N), jnp.int32)
    same(s.observe(state, outside, gamma(N, 1), 4), state)
    same(s.observe(state, outside, jnp.full(N, jnp.nan), 4), state)
    no_losses = jnp.resize(jnp.array([jnp.nan, jnp.inf, -jnp.inf]), N)
    before = parts(state, schedule.Measured)
    after = parts(s.observe(state, jnp.arange(N, dtype=jnp.int32), no_losses, 4), schedule.Measured)
    same(after, [m._replace(num_invalid=jnp.int32(m.loss.size)) for m in before])  # each counts its own blocks


@every_schedule
def test_what_is_not_needed_is_not_used(name):
    """Catches: an error that names another field or policy; a field that is used if it is given, but not asked for."""
    s, full = SCHEDULES[name], block_info()
    for field in FIELDS:
        try:
            state = s.init(full._replace(**{field: None}))
        except ValueError as error:
            assert f" needs BlockInfo.{field}, one number for each block; found None" in str(error)
            if name in schedule.POLICIES:
                assert str(error).startswith(name)
        else:
            same(state, s.init(full), f"without {field}: ")


@every_schedule
def test_block_information_must_fit(name):
    """Catches: checking only what the policy uses; checking the length alone."""
    info = block_info()
    for field in FIELDS:
        array = getattr(info, field)
        for wrong in (array[:-1], array[:, None], array[0]):
            with pytest.raises(ValueError, match=rf"BlockInfo.{field} has shape .*, expected \({N},\)"):
                SCHEDULES[name].init(info._replace(**{field: wrong}))
    wrong = info._replace(columns={"quality": info.ref_loss[:-1]})
    with pytest.raises(ValueError, match=r"BlockInfo.columns\['quality'\] has shape .*, expected"):
        SCHEDULES[name].init(wrong)


@every_schedule
def test_ids_and_losses_must_fit(name):
    """Catches: an `observe` of one's own, without the checks of `schedule.observe`."""
    s = SCHEDULES[name]
    state = s.init(block_info())
    if parts(state, schedule.Measured):
        with pytest.raises(ValueError, match=r"ids have shape \(2,\), losses \(3,\)"):
            s.observe(state, jnp.arange(2), jnp.ones(3), 0)
        with pytest.raises(TypeError, match="block ids are float32, expected integers"):
            s.observe(state, jnp.ones(2), jnp.ones(2), 0)


@every_schedule
def test_only_the_phases_there_are_can_be_entered(name):
    """Catches: an index past the end that is clipped; −1 for the last phase; phases with gaps, or from another step."""
    s = SCHEDULES[name]
    state = s.init(block_info())
    for index in (-1, len(s.phases)):
        with pytest.raises(IndexError, match=f"phase_index is {index}, expected 0 to {len(s.phases) - 1}"):
            s.begin(state, index)
    edges = [(phase.start, phase.stop) for phase in s.phases]
    assert edges[0][0] == 0 and all(start < stop for start, stop in edges)
    assert [stop for _, stop in edges[:-1]] == [start for start, _ in edges[1:]]
    assert len({phase.name for phase in s.phases}) == len(s.phases)


@every_schedule
def test_a_policy_goes_by_the_number_of_the_phase(name):
    """Catches: a step number that is built into a policy: `fit` would not stretch it."""
    s = SCHEDULES[name]
    longer = schedule.fit(s, 3 * s.phases[-1].stop)
    losses_PxN = gamma((len(s.phases), N))
    _, expected = run(s, s.init(block_info()), losses_PxN)
    _, rates_PxN = run(longer, longer.init(block_info()), losses_PxN)
    same(rates_PxN, expected)
