"""What is estimated from which runs. How, `test_statistics` and `test_multiplier` say."""

import math

import numpy as np
import pytest
from made_evidence import FLOPS, baseline_loss, make_baseline, make_documents, make_runs

from lfr_jax.experiments.evidence import Key, gather
from lfr_jax.experiments.measure import Documents, Losses, Measure
from lfr_jax.experiments.multiplier import fit_curve, multiplier, ratio_to_oracle
from lfr_jax.experiments.plan import BASELINE
from lfr_jax.experiments.statistics import holm, paired_difference

DOCUMENTS = make_documents()
ARMS = [("lfr", 1.0), ("reducible", 1.0), ("oracle", 1.0)]


def losses(runs, flops=math.nan):
    return Losses(tuple(run.seed for run in runs), np.array([run.nll_D for run in runs]), flops)


@pytest.fixture(scope="module")
def runs():
    """Three arms, in an order that is nobody's."""
    made = make_baseline(DOCUMENTS) + make_runs(DOCUMENTS, "oracle", 4.0) + make_runs(DOCUMENTS, "lfr", 4.6)
    return [made[number] for number in np.random.default_rng(0).permutation(len(made))] + make_runs(
        DOCUMENTS, "reducible", 4.2, references=0.25
    )


@pytest.fixture(scope="module")
def found(runs):
    return gather(runs, DOCUMENTS, "micro", ARMS)


def of(runs, arm, budget=1.0):
    return sorted((run for run in runs if (run.arm, run.budget) == (arm, budget)), key=lambda run: run.seed)


def test_estimates_are_those_of_the_statistics(runs, found):
    """Catches: another arm's or budget's runs; seeds that are paired wrongly; a measure or a unit exchanged; a
    reference charged twice or never; the oracle as its own ceiling; a curve without some budgets."""
    assert [point.name for point in found.arms] == ["lfr", "reducible", "oracle"]
    curve = [losses(of(runs, BASELINE, b), b * FLOPS) for b in (0.5, 0.7, 1.0, 1.4, 2.0)]
    oracle = losses(of(runs, "oracle"), FLOPS)
    for point in found.arms:
        mine, spent = of(runs, point.arm), {"charged": FLOPS, "amortised": FLOPS}
        spent["amortised"] = 0.75 * FLOPS if point.arm == "reducible" else FLOPS
        for measure in ("micro", "macro", "code", "prose", "tables"):
            for per in ("token", "byte"):
                expected = paired_difference(losses(mine), curve[2], DOCUMENTS, Measure(measure, per))
                assert point.difference(measure, per) == expected
            for cost, flops in spent.items():
                arm = losses(mine, flops)
                assert point.multiplier(cost, measure) == multiplier(arm, curve, DOCUMENTS, Measure(measure))
        for cost, flops in spent.items():
            expected = ratio_to_oracle(losses(mine, flops), oracle, curve, DOCUMENTS)
            assert point.share_of_oracle(cost) == (None if point.arm == "oracle" else expected)
    assert [p.p_holm for p in found.arms] == holm([point.multiplier().p for point in found.arms])
    np.testing.assert_array_equal(found.curve.loss_K, fit_curve(curve, DOCUMENTS).loss_K)
    assert [point.loss().value for point in found.baseline] == pytest.approx(found.curve.loss_K, abs=1e-12)


def test_losses_are_means_over_documents_by_hand():
    """Catches: a mean over documents in place of tokens; bits per token; a macro mean weighted by tokens."""
    documents = Documents(np.array([10, 30, 20]), np.array([40, 80, 60]), np.array(["code", "code", "prose"]))
    (run, *_) = make_runs(documents, BASELINE, 4.0)
    (point,) = gather([run._replace(nll_D=np.array([30.0, 50.0, 100.0]))], documents, "macro", []).baseline
    value = {key[1:3]: estimate.value for key, estimate in point.estimates.items()}
    assert value["micro", "token"] == 3.0 and value["macro", "token"] == point.loss().value == 3.5
    assert value["code", "token"] == 2.0 and value["prose", "token"] == 5.0
    bits = {"micro": 180 / 180, "code": 80 / 120, "prose": 100 / 60}
    assert {name: value[name, "byte"] * math.log(2) for name in bits} == pytest.approx(bits, abs=1e-12)


def test_an_unfinished_experiment_has_what_is_known():
    """Catches: an arm without a pair that is compared with other seeds; a curve of one budget; a budget of which too
    few seeds are finished, which would take the interval from all others; an arm that fails for want of the others."""
    whole = make_baseline(DOCUMENTS, (0.5, 1.0, 2.0)) + make_runs(
        DOCUMENTS, BASELINE, baseline_loss(1.4), 1.4, seeds=[0]
    )
    arms = make_runs(DOCUMENTS, "lfr", 4.4, seeds=[0, 1, 2]) + make_runs(DOCUMENTS, "reducible", 4.4, seeds=[7])
    found = gather(whole + arms, DOCUMENTS, "micro", ARMS)
    lfr, reducible = found.arms
    assert lfr.difference().seeds == lfr.multiplier().seeds == 3 and math.isfinite(lfr.multiplier().low)
    assert lfr.share_of_oracle() is None and found.oracle is None
    assert set(key.quantity for key in reducible.estimates) == {"loss"} and math.isnan(reducible.p_holm)
    alone = gather(make_baseline(DOCUMENTS, (1.0,)) + arms, DOCUMENTS, "micro", ARMS)
    assert alone.curve is None and alone.arms[0].multiplier() is None and alone.arms[0].difference() is not None
    nothing = gather(arms, DOCUMENTS, "micro", ARMS)
    assert nothing.baseline == () and nothing.arms[0].difference() is None


def test_one_seed_has_no_interval():
    """Catches: an interval, or a p-value, from one pair."""
    runs = make_baseline(DOCUMENTS, seeds=[3]) + make_runs(DOCUMENTS, "lfr", 4.4, seeds=[3])
    (point,) = gather(runs, DOCUMENTS, "micro", ARMS).arms
    for estimate in (point.difference(), point.multiplier()):
        assert math.isfinite(estimate.value) and np.isnan([estimate.low, estimate.high, estimate.p]).all()


def test_a_diverged_seed_is_not_left_out():
    """Catches: an arm that is judged by the seeds that it survived; another arm that suffers from it."""
    runs = make_baseline(DOCUMENTS) + make_runs(DOCUMENTS, "lfr", 4.4) + make_runs(DOCUMENTS, "reducible", 4.3)
    runs = [r._replace(nll_D=r.nll_D * np.nan) if (r.arm, r.seed) == ("lfr", 2) else r for r in runs]
    lfr, reducible = gather(runs, DOCUMENTS, "micro", ARMS).arms
    assert math.isnan(lfr.difference().value) and math.isnan(lfr.multiplier().value)
    assert math.isfinite(reducible.multiplier().value) and math.isfinite(reducible.p_holm)


def test_bits_need_bytes():
    """Catches: a division by 0 where the text of documents is not known."""
    unknown = DOCUMENTS._replace(bytes_D=0 * DOCUMENTS.bytes_D)
    (point,) = gather(make_runs(DOCUMENTS, BASELINE, 4.0), unknown, "micro", []).baseline
    assert {key.per for key in point.estimates} == {"token"}


def test_an_arm_at_two_budgets_is_compared_at_its_own():
    """Catches: an arm at twice the budget that is compared with the baseline at once; a name without it."""
    runs = make_baseline(DOCUMENTS) + make_runs(DOCUMENTS, "lfr", 3.9, 2.0)
    (point,) = gather(runs, DOCUMENTS, "micro", [("lfr", 1.0), ("lfr", 2.0)]).arms
    assert point.name == "lfr, ×2" and abs(point.difference().value) < 0.02
    assert point.multiplier().value == pytest.approx(1.0, abs=0.05)
    assert point.estimates[Key("loss", "micro", "token")] == point.loss()
