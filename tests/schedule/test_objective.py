"""What a schedule promises to train for: at whatever rates a wrapper makes it draw."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from policies import SCHEDULES, N, block_info, gamma, same

from lfr_jax import schedule

pytestmark = pytest.mark.apart
INFOBATCH = schedule.infobatch(rounds=3)


def known(loss_N, info):
    return jnp.nan_to_num(loss_N, nan=1.0)


SKEWED = schedule.scored(INFOBATCH.phases, (None, known, known), scores="train", dtype=jnp.float32)
SQUARES = SKEWED._replace(objective=lambda state: jnp.square(state.rate))
WRAPPERS = {
    "alone": lambda s: s,
    "chain": lambda s: schedule.chain(s, schedule.uniform()),
    "floor": lambda s: schedule.floor(s, 0.1),
    "floor of half": lambda s: schedule.floor(s, 0.5),
    "stratified": schedule.stratified,
    "cap_noise": lambda s: schedule.cap_noise(s, 0.2),
    "all": lambda s: schedule.cap_noise(
        schedule.floor(schedule.stratified(schedule.chain(s, schedule.uniform())), 0.3)
    ),
}


def half_measured(s, info=None, seed=0):
    """The states of all phases; before each, half of the blocks are measured."""
    state, rng = s.init(info or block_info()), np.random.default_rng(seed)
    for index, phase in enumerate(s.phases):
        ids = jnp.asarray(np.where(rng.random(N) < 0.5, np.arange(N), -1), jnp.int32)
        state = s.begin(s.observe(state, ids, gamma(N, seed + index), phase.start), index)
        yield state


def shares(s, state):
    """f64[N]: each block's share of the expected loss, by the rates that a trainer draws by and all weights that it
    multiplies by. Losses in the batch are all alike, so that rules within a batch have nothing to tell blocks apart."""
    rate_N = np.asarray(s.rates(state), np.float64)
    weight_N = np.asarray(schedule.objective_weights(s, state, jnp.arange(N)), np.float64)
    if s.loss_weights:
        weight_N = weight_N * np.asarray(s.loss_weights(state, jnp.arange(N), jnp.ones(N)))
    return rate_N / rate_N.sum() * weight_N


def normalised(x_N):
    x_N = np.asarray(x_N, np.float64)
    return x_N / x_N.sum()


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_trains_for_what_it_says(name):
    """The expected share of each block is that of the objective among blocks that are drawn; or its rate's.

    Catches: weights of an inner policy's rates where a wrapper has changed them; a policy without an objective that a
    wrapper gives weights; weights whose mean is not 1.
    """
    s = SCHEDULES[name]
    for state in half_measured(s):
        rate_N = np.asarray(s.rates(state))
        objective_N = np.zeros(N) if s.objective is None else np.asarray(s.objective(state))
        objective_N = np.where(rate_N > 0, objective_N, 0)
        expected_N = normalised(objective_N if objective_N.any() else rate_N)
        np.testing.assert_allclose(shares(s, state), expected_N, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_weights_that_ignore_the_losses_are_no_loss_weights(name):
    """Catches: a policy that undoes its own rates by `loss_weights`, as `infobatch` once did: under `floor` of 0.1 easy
    blocks then counted 7.7 % more than hard ones."""
    s = SCHEDULES[name]
    for state in half_measured(s) if s.loss_weights else ():
        weights = [s.loss_weights(state, jnp.arange(N), gamma(N, seed)) for seed in (7, 8)]
        assert np.ptp(weights[0]) == 0 or (weights[0] != weights[1]).any()


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("policy", ["infobatch", "unbiased", "squares"])
def test_wrappers_keep_the_objective(policy, wrapper):
    """Every policy with an objective keeps it where a wrapper changes its rates.

    Catches: 1/r of the policy's own rates under `floor` (+7.7 % for easy blocks at 0.1, +43 % at 0.5) and under
    `stratified` (domains at 1.2 and 0.8); an objective lost in `chain`; groups with the shares of their own scales.
    """
    alone = {"infobatch": INFOBATCH, "unbiased": schedule.unbiased(SKEWED), "squares": SQUARES}[policy]
    s, info = WRAPPERS[wrapper](alone), block_info()
    if "chain" in wrapper or wrapper == "all":
        s = s._replace(phases=s.phases[: len(alone.phases)])
    for state, of_alone in zip(half_measured(s, info), half_measured(alone, info)):
        drawn_N = np.asarray(s.rates(state)) > 0
        objective_N = np.asarray(alone.objective(of_alone))
        if wrapper in ("stratified", "all"):  # each domain keeps its share
            means_G = np.bincount(info.domain, objective_N) / np.bincount(info.domain)
            objective_N = objective_N / np.where(means_G > 0, means_G, 1)[info.domain]
        objective_N = np.where(drawn_N, objective_N, 0)
        if objective_N.any():
            np.testing.assert_allclose(shares(s, state), normalised(objective_N), rtol=1e-5, atol=1e-7)


# `replay` brings domains one after another, so a group of one domain would have stages without blocks: it is refused.
PAIRS = itertools.product(SCHEDULES, ["floor", "cap_noise", "stratified", "all"])
PAIRS = [pair for pair in PAIRS if pair not in (("replay", "stratified"), ("replay", "all"))]


@pytest.mark.slow
@pytest.mark.parametrize("name, wrapper", PAIRS)
def test_every_policy_can_be_unbiased(name, wrapper):
    """Whatever wraps it, in its first phases. Catches: a policy or wrapper that loses the objective of another one."""
    s = WRAPPERS[wrapper](schedule.unbiased(SCHEDULES[name])._replace(loss_weights=None))
    for state in itertools.islice(half_measured(s), 3):
        drawn_N = np.asarray(s.rates(state)) > 0
        if np.any(s.objective(state)):  # else it is a phase of `chain` behind the policy's own
            np.testing.assert_allclose(shares(s, state), drawn_N / drawn_N.sum(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_draws", [17, 60])
@pytest.mark.parametrize("wrapper", ["alone", "floor of half", "stratified", "all"])
def test_draws_of_a_plan_have_that_mean(wrapper, num_draws):
    """Over many seeds, in parts of a pass and in several.

    Catches: a plan whose expected counts are not the rates'; weights for other draws than those of the plan.
    """
    s, seeds = WRAPPERS[wrapper](INFOBATCH), 300
    *_, state = list(half_measured(s))[:2]
    rate_N, weight_N = np.asarray(s.rates(state)), np.asarray(schedule.objective_weights(s, state))
    plans = (schedule.plan(rate_N, num_draws, seed, phase=1)[:] for seed in range(seeds))
    counted = np.array([np.bincount(draws, minlength=N) for draws in plans]) * weight_N
    expected_N = num_draws * (rate_N > 0) / (rate_N > 0).sum()
    assert (np.abs(counted.mean(0) - expected_N) < 5 * weight_N * 0.5 / seeds**0.5 + 1e-6).all()
    assert counted.sum(1).mean() == pytest.approx(num_draws, rel=0.02)


def test_a_stage_without_an_objective_stays_without():
    """Catches: weights in the phases of a stage that has none, which would undo the `floor` around the chain."""
    plain = schedule.scored(
        schedule.uniform(4).phases, (lambda loss_N, info: 1 + jnp.arange(loss_N.size),), dtype=jnp.float32
    )
    s = schedule.floor(schedule.chain(schedule.unbiased(plain), plain), 0.5)
    state, info = s.init(block_info()), jnp.arange(N)
    undone = schedule.objective_weights(s, s.begin(state, 0))
    assert np.ptp(undone) > 0.5
    assert schedule.objective_weights(s, s.begin(state, 1), info).tolist() == [1.0] * N


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_no_mesh_changes_a_bit(kind):
    """Catches: a sum of floats; an array that has to be gathered."""
    rate_N, objective_N = gamma(4096, 1) * (gamma(4096, 2) > 2), gamma(4096, 3)
    s = schedule.uniform()._replace(rates=lambda state: state[0], objective=lambda state: state[1])
    ids = jnp.arange(0, 4096, 5)

    def all_of(state):
        return (
            schedule.objective_weights(s, state),
            schedule.objective_weights(s, state, ids),
            schedule.weight_variance(s, state),
        )

    alone = all_of((rate_N, objective_N))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        spread = jax.device_put((rate_N, objective_N), NamedSharding(mesh, P("data")))
        spread = jax.jit(all_of)(spread)
        assert spread[0].sharding.is_equivalent_to(NamedSharding(mesh, P("data")), 1)
    same(jax.device_get(spread), jax.device_get(alone))


def test_the_variance_is_that_of_the_weights_drawn():
    """Catches: a variance over blocks in place of draws; a weight that is never drawn counted."""
    rate_N, objective_N = gamma(500, 1) * (gamma(500, 2) > 2), gamma(500, 3)
    s = schedule.uniform()._replace(rates=lambda state: rate_N, objective=lambda state: objective_N)
    weight_N = np.asarray(schedule.objective_weights(s, None), np.float64)
    p_N = normalised(rate_N)
    assert p_N @ weight_N == pytest.approx(1)
    assert float(schedule.weight_variance(s, None)) == pytest.approx(p_N @ weight_N**2 - 1, rel=1e-4)
    assert schedule.weight_variance(schedule.uniform(), schedule.uniform().init(block_info())) == 0


@pytest.mark.parametrize(
    "rates, objective, expected",
    [
        ([1, 3, 0], [0, 0, 9], [1, 1, 1]),  # none of it is drawn: as if there were none
        ([1, 3, 0], [1, 1, 1], [2, 2 / 3, 0]),
        ([1e-37, 1, 0], [3e38, 3e38, 0], [None, 0.5, 0]),
        ([3e38, 3e38, 3e38], [2e-38, 2e-38, 4e-38], [0.75, 0.75, 1.5]),
    ],
)
def test_extremes(rates, objective, expected):
    """Catches: 0/0; a sum that overflows; NaN or infinity for a block that is drawn once in 10**38 draws."""
    s = schedule.uniform()._replace(
        rates=lambda state: jnp.array(rates, jnp.float32), objective=lambda state: jnp.array(objective, jnp.float32)
    )
    weight_N = np.asarray(schedule.objective_weights(s, None))
    assert np.isfinite(weight_N).all() and (weight_N >= 0).all()
    for got, wanted in zip(weight_N, expected):
        assert wanted is None or got == pytest.approx(wanted, rel=1e-6)
