"""The multiplier: curves by hand, and experiments whose truth is known."""

import math

import numpy as np
import pytest
from simulated_runs import BUDGETS, FLOPS, allowed, experiments, scaling_law

from lfr_jax.experiments.measure import Documents, Losses, Measure
from lfr_jax.experiments.multiplier import Curve, fit_curve, multiplier, ratio_to_oracle

ONE = Documents(np.array([10.0, 10.0]), np.array([40.0, 40.0]), np.array(["code", "code"]))
SEEDS = (1, 2, 3)
NOISE = np.array([0.0, 0.01, -0.01])


def run(loss, budget=1.0, noise=NOISE, seeds=SEEDS):
    """Losses in nats per token: one for all seeds, plus noise."""
    return Losses(seeds, 10 * (loss + np.array(noise)[:, None] + np.array([-1.0, 1.0])), budget * FLOPS)


def curve_of(law, budgets=BUDGETS):
    return Curve(np.array(budgets) * FLOPS, law(np.array(budgets)))


def test_the_curve_is_a_parabola_and_its_tangents():
    """Catches: a parabola in FLOPs; one that goes on beyond the budgets; a tangent at the wrong end."""
    curve = curve_of(lambda b: 4 - 0.5 * np.log(b) + 0.2 * np.log(b) ** 2)
    x = np.log(np.array([0.6, 1.0, 1.9]))
    np.testing.assert_allclose(curve.loss(np.exp(x) * FLOPS), 4 - 0.5 * x + 0.2 * x**2)
    end = math.log(2)
    above = 4 - 0.5 * end + 0.2 * end**2 + (-0.5 + 0.4 * end) * math.log(1.5)
    below = 4 + 0.5 * end + 0.2 * end**2 + (-0.5 - 0.4 * end) * -math.log(1.5)
    np.testing.assert_allclose(curve.loss(np.array([3.0, 1 / 3]) * FLOPS), [above, below])
    assert curve.misfit() < 1e-12
    bent = curve._replace(loss_K=curve.loss_K + np.array([0, 0, 0.01, 0, 0]))
    assert 0.005 < bent.misfit() < 0.01


def test_the_curve_is_inverted():
    """Catches: an inverse of another curve, of single points, or too coarse."""
    for law in (scaling_law, lambda b: 5 - 0.6 * np.log2(b), lambda b: 4 + 0.3 / b):
        curve = curve_of(law)
        for budget in (0.3, 0.5, 0.83, 1.0, 1.7, 3.5):
            assert curve.reaches(curve.loss(np.array([budget * FLOPS]))[0]) == pytest.approx(budget * FLOPS, rel=1e-4)
    two = curve_of(lambda b: 5 - 0.6 * np.log2(b), (1.0, 2.0))
    assert two.reaches(4.7) == pytest.approx(math.sqrt(2) * FLOPS, rel=1e-4)


def test_scaling_laws_are_followed_and_never_flattered():
    """Catches: a parabola that does not follow scaling laws in its range; a form that promises more beyond it."""
    for floor, power in ((3.0, 0.2), (3.0, 0.5), (0.0, 0.1)):
        curve = curve_of(lambda b: floor + 1.5 * b**-power)
        for budget in (0.6, 1.0, 1.8):
            assert curve.reaches(floor + 1.5 * budget**-power) == pytest.approx(budget * FLOPS, rel=0.01)
        for budget in (0.3, 3.0, 4.0):
            assert curve.reaches(floor + 1.5 * budget**-power) < budget * FLOPS


def test_a_multiplier_by_hand():
    """Catches: the budget in place of what was spent; amortised costs not left out; the reciprocal; p against 0."""
    baseline = [run(5 - 0.6 * np.log2(b), b) for b in BUDGETS]
    found = multiplier(run(4.7, 1.0, (0.01, 0.0, -0.02)), baseline, ONE)
    mean = 4.7 - 0.01 / 3
    assert found.value == pytest.approx(2 ** ((5 - mean) / 0.6), rel=1e-4) and found.seeds == 3
    error = np.std(np.array([0.01, 0.0, -0.02]) - NOISE, ddof=1) / math.sqrt(3)  # the same seeds move the curve
    limits = [2 ** ((5 - mean + sign * 4.30265 * error) / 0.6) for sign in (-1, 1)]
    np.testing.assert_allclose(found[1:3], limits, rtol=1e-3)
    assert found.sign == "" and found.notes == ()
    cheaper = multiplier(run(4.7, 0.8, (0.01, 0.0, -0.02)), baseline, ONE)
    np.testing.assert_allclose(cheaper[:3], np.array(found[:3]) / 0.8)
    same = multiplier(run(5.0, 1.0, (0.01, 0.0, -0.01)), baseline, ONE)
    assert same.value == pytest.approx(1, rel=1e-4) and same.p == pytest.approx(1)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_known_multipliers_are_recovered(seeds):
    """In 300 experiments. Catches: a biased curve; intervals that miss too often, or hardly ever: of a curve taken
    as known, of seeds or documents alone, of unpaired seeds; p-values that say something else than the interval."""
    truth = (1.0, 1.4)
    found = [[multiplier(arm, baseline, documents) for arm in arms]
             for arms, baseline, documents in experiments(300, seeds, multipliers=truth)]  # fmt: skip
    values = np.log([[estimate.value for estimate in row] for row in found])
    for m, true in enumerate(truth):
        column = [row[m] for row in found]
        chance = 4 * np.std(values[:, m]) / math.sqrt(300)
        assert np.mean(values[:, m]) == pytest.approx(math.log(true), abs=chance + 0.002)
        covered = sum(estimate.low <= true <= estimate.high for estimate in column)
        assert allowed(300, 0.95)[0] <= covered <= allowed(300, 0.975)[1]
        assert all((estimate.p < 0.05) == (not estimate.low <= 1 <= estimate.high) for estimate in column)
    widths = np.array([np.log(row[0].high / row[0].low) for row in found])
    assert np.mean(widths) < {3: 8.6, 5: 5.5, 10: 4.6}[seeds] * np.std(values[:, 0])


def test_seeds_are_paired_with_those_of_the_curve():
    """Catches: the arm's seeds and the curve's drawn apart, where what is common to a seed does not cancel."""
    (arm,), baseline, documents = next(experiments(1, 5, document_sd=0.01))
    paired = multiplier(arm, baseline, documents)
    apart = multiplier(arm._replace(seeds=arm.seeds[2:] + arm.seeds[:2]), baseline, documents)
    assert apart.value == pytest.approx(paired.value)
    assert np.log(apart.high / apart.low) > 1.5 * np.log(paired.high / paired.low)


def test_beyond_the_budgets():
    """Catches: figures far from any measurement; an extrapolation that is not told; a bound that is told as a value;
    an upper limit for what was never reached."""
    baseline = [run(5 - 0.6 * np.log2(b), b) for b in BUDGETS]
    noise = (0.0, 0.01, -0.02)
    far = multiplier(run(4.4 - 0.3, 1.0, noise), baseline, ONE)
    assert far.value == pytest.approx(2 * math.sqrt(2), rel=0.01) and far.sign == ""
    assert far.notes == ("extrapolated beyond the baseline's budgets",)
    better = multiplier(run(3.0, 1.0, noise), baseline, ONE)
    assert better[:3] == pytest.approx((4.0, 4.0, math.inf), rel=1e-6) and better.sign == ">" and better.p < 0.001
    worse = multiplier(run(7.0, 1.0, noise), baseline, ONE)
    assert worse[:3] == pytest.approx((0.25, 0.0, 0.25), rel=1e-6) and worse.sign == "<" and worse.p < 0.001
    assert better.notes == worse.notes == ("the baseline's curve does not reach this loss",)


def test_a_baseline_that_becomes_worse_again():
    """Catches: FLOPs on the rising side; an extrapolation of what is below the minimum; an interval that ends."""
    baseline = [run(5 + 0.4 * np.log2(b / 1.2) ** 2, b) for b in BUDGETS]
    noise = np.array([0.0, 0.002, -0.001]) + NOISE
    left = multiplier(run(5 + 0.4 * np.log2(0.8 / 1.2) ** 2, 1.0, noise), baseline, ONE)
    assert left.value == pytest.approx(0.8, rel=0.01) and 0.75 < left.low and left.high < 0.85
    below = multiplier(run(4.9, 1.0, noise), baseline, ONE)
    assert below.sign == ">" and below.high == math.inf and below.low > 1 and below.p < 0.05
    bottom = multiplier(run(5.0, 1.0, noise), baseline, ONE)
    assert bottom.high == math.inf and 0.9 < bottom.low < 1.2


def test_a_flat_baseline_says_nothing():
    """Catches: a finite interval where more FLOPs do not change the loss."""
    rng = np.random.default_rng(0)
    baseline = [run(5 - 1e-4 * np.log2(b), b, rng.normal(0, 0.01, 3)) for b in BUDGETS]
    found = multiplier(run(5.0, 1.0, rng.normal(0, 0.01, 3)), baseline, ONE)
    assert found.low == 0 and found.high == math.inf and found.p > 0.05


def test_missing_seeds_and_budgets():
    """Catches: a curve of other seeds than the arm's; an interval from one seed; a line through one point."""
    baseline = [run(5 - 0.6 * np.log2(b), b) for b in BUDGETS]
    one = multiplier(run(4.7, 1.0, [0.01], (2,)), baseline, ONE)
    assert one.value == pytest.approx(math.sqrt(2), rel=1e-3) and np.isnan(one[1:4]).all()
    assert one.notes == ("1 of 3 seeds: the others are missing in some runs", "one seed: no interval")
    short = [*baseline[:4], run(4.4, 2.0, NOISE[:2], (1, 2))]
    full = [run(5 - 0.6 * np.log2(b), b, NOISE[:2], (1, 2)) for b in BUDGETS]
    arm = run(4.7, 1.0, (0.0, 0.03, 5.0))
    np.testing.assert_allclose(multiplier(arm, short, ONE)[:4], multiplier(arm, full, ONE)[:4])
    diverged = multiplier(run(math.inf), baseline, ONE)
    assert np.isnan(diverged[:4]).all() and diverged.notes == ("a run has diverged: a loss is not finite",)
    with pytest.raises(ValueError, match=r"the baseline at \[1000000000000.0\] FLOPs, expected two budgets or more"):
        multiplier(run(4.7), baseline[2:3], ONE)
    assert fit_curve(full, ONE).misfit() < 1e-9


def test_ratios_to_an_oracle():
    """In 300 experiments. Catches: a ratio upside down; an oracle or a curve taken as known; chances that the two share
    counted twice; p against 0."""
    covered, equal, values, widths = 0, 0, [], []
    for (arm, oracle, twin), baseline, documents in experiments(300, 5, multipliers=(1.3, 1.7, 1.7)):
        found = ratio_to_oracle(arm, oracle, baseline, documents, Measure("macro"))
        covered += found.low <= 1.3 / 1.7 <= found.high
        values.append(math.log(found.value))
        widths.append(math.log(found.high / found.low))
        equal += ratio_to_oracle(twin, oracle, baseline, documents).p >= 0.05
    assert np.mean(values) == pytest.approx(math.log(1.3 / 1.7), abs=0.01)
    assert allowed(300, 0.95)[0] <= covered <= allowed(300, 0.975)[1]
    assert allowed(300, 0.95)[0] <= equal <= allowed(300, 0.975)[1]
    assert np.mean(widths) < 5.5 * np.std(values)


def test_no_ratio_to_what_is_not_reached():
    """Catches: a bound divided by a bound."""
    baseline = [run(5 - 0.6 * np.log2(b), b) for b in BUDGETS]
    found = ratio_to_oracle(run(4.7), run(3.0), baseline, ONE)
    assert np.isnan(found[:4]).all() and found.notes == ("oracle: the baseline's curve does not reach this loss",)
