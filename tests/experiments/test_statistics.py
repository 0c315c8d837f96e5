"""Differences and their intervals: by hand, beside bootstraps, and in experiments whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats
from simulated_runs import allowed, experiments

from lfr_jax.experiments.measure import Documents, Losses, Measure, mean_loss
from lfr_jax.experiments.statistics import contrasts, holm, moments, paired_difference

ONE = Documents(np.array([10.0, 10.0]), np.array([40.0, 40.0]), np.array(["code", "code"]))


def runs(differences, seeds=(1, 2, 3, 4)):
    """An arm and a baseline that differ in each document by the same, in nats per token."""
    baseline_Sx2 = 40 + 10.0 * np.random.default_rng(0).normal(size=(len(seeds), 1)) + np.array([0.0, 20.0])
    arm_Sx2 = baseline_Sx2 + 10 * np.array(differences)[:, None]
    return Losses(seeds, arm_Sx2), Losses(seeds, baseline_Sx2)


def test_seeds_alone_are_a_paired_t_test():
    """Catches: standard deviations of populations; S degrees of freedom; a one-sided p; the sign of the difference."""
    differences = [-0.03, 0.01, -0.04, -0.02]
    found = paired_difference(*runs(differences), ONE)
    expected = stats.ttest_1samp(differences, 0)
    np.testing.assert_allclose(found[:4], [-0.02, *expected.confidence_interval(), expected.pvalue], rtol=1e-9)
    assert found.seeds == 4 and found.notes == ()


def test_documents_alone_are_a_t_test():
    """Catches: n / (n − 1) left out for documents; degrees of freedom of the seeds; documents not in the interval."""
    by_document = np.array([0.5, -0.1, 0.4, 0.3, 0.2])
    documents = Documents(np.full(5, 10.0), np.full(5, 40.0), np.array(["code"] * 5))
    baseline = Losses((1, 2, 3), np.full((3, 5), 50.0))
    found = paired_difference(baseline._replace(nll_SxD=50 + np.tile(10 * by_document, (3, 1))), baseline, documents)
    expected = stats.ttest_1samp(by_document, 0)
    np.testing.assert_allclose(found[:4], [0.26, *expected.confidence_interval(), expected.pvalue], rtol=1e-9)


def test_runs_are_paired_by_their_seed():
    """Catches: pairs by position; variances of the arm and of the baseline added, as if they were not pairs."""
    arm, baseline = runs([-0.03, 0.01, -0.04, -0.02])
    order = [2, 0, 3, 1]
    found = paired_difference(Losses(tuple(arm.seeds[s] for s in order), arm.nll_SxD[order]), baseline, ONE)
    np.testing.assert_allclose(found[:4], paired_difference(arm, baseline, ONE)[:4])
    unpaired = paired_difference(arm._replace(seeds=tuple(arm.seeds[s] for s in order)), baseline, ONE)
    assert unpaired.value == pytest.approx(found.value)
    assert unpaired.high - unpaired.low > 10 * (found.high - found.low)


@pytest.mark.parametrize("measure", [Measure(), Measure("macro"), Measure("prose", "byte")])
def test_variances_are_those_of_bootstraps(measure):
    """Catches: S / (S − 1) left out; documents drawn across domains; seeds drawn for each run alone; the size of what
    is drawn taken as fixed; domains left out."""
    (arms, baseline, documents), draws = next(experiments(1, 4, documents=240)), 4000
    chosen, contrast = [arms[0], *baseline[1:3]], np.array([1.0, -0.5, -0.5])
    _, part_Cx1 = contrasts(moments(chosen, documents, measure), contrast[None])
    rng = np.random.default_rng(0)
    nll_RxSxD = np.array([run.nll_SxD for run in chosen])

    loss_RxS = mean_loss(nll_RxSxD, documents, measure)
    by_seed = rng.multinomial(4, np.full(4, 1 / 4), draws) / 4 @ (contrast @ loss_RxS)
    assert by_seed.var() * 4 / 3 == pytest.approx(part_Cx1[0, 0], rel=0.12)

    variance = 0.0
    for name in set(documents.domain_D.tolist()):  # one after the other: their variances add up
        drawn = np.ones((draws, 240))
        its = documents.domain_D == name
        drawn[:, its] = rng.multinomial(its.sum(), np.full(its.sum(), 1 / its.sum()), draws)
        pool_GxD, size_D = measure.pools(documents), measure.sizes(documents)
        nats_RxBxG = np.einsum("rd,bd,gd->rbg", nll_RxSxD.mean(axis=1), drawn, pool_GxD)
        sizes_BxG = np.maximum((drawn * size_D) @ pool_GxD.T, 1e-9)
        variance += (contrast @ (nats_RxBxG / sizes_BxG).mean(axis=-1)).var() * its.sum() / (its.sum() - 1)
    assert part_Cx1[1:].sum() == pytest.approx(variance, rel=0.12)
    assert len(part_Cx1) == (2 if measure.of == "prose" else 4)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_of_nothing_hold_nothing(seeds):
    """In 400 experiments without a difference. Catches: a normal distribution in place of t; seeds or documents left
    out; p-values that do not belong to the interval; S − 1 degrees of freedom where documents make the variance."""
    covered, low_p, widths, values = 0, 0, [], []
    for (arm,), baseline, documents in experiments(400, seeds, run_sd=0.01):
        found = paired_difference(arm, baseline[2], documents, Measure("macro"))
        covered += found.low <= 0 <= found.high
        low_p += found.p < 0.05
        widths.append(found.high - found.low)
        values.append(found.value)
    assert covered + low_p == 400
    assert allowed(400, 0.95)[0] <= covered <= allowed(400, 0.975)[1]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(400)
    ideal = 2 * stats.t.ppf(0.975, seeds - 1) * np.std(values)  # if seeds were all there is to it
    assert 0.5 * ideal < np.mean(widths) < 1.05 * ideal


def test_documents_are_not_seeds():
    """60 documents differ, three seeds hardly do. Catches: S − 1 degrees of freedom for both; the reverse, with many
    degrees where seeds make the variance."""
    for options, expected in ((dict(run_sd=1e-3, cell_sd=0.0), 1.96), (dict(document_sd=0.0, cell_sd=0.0), 4.30)):
        found = [paired_difference(arm, baseline[2], documents)
                 for (arm,), baseline, documents in experiments(300, 3, **options)]  # fmt: skip
        deviation = np.std([estimate.value for estimate in found])
        half = np.sqrt(np.mean([((estimate.high - estimate.low) / 2) ** 2 for estimate in found]))
        assert half / deviation == pytest.approx(expected, rel=0.12)


def test_what_is_not_known():
    """Catches: an interval from one seed; a seed left out without a word; a diverged seed left out; 0 / 0 for a run
    against itself; a domain of one document that ends the report."""
    arm, baseline = runs([-0.03, 0.01, -0.04, -0.02])
    one = paired_difference(Losses((2,), arm.nll_SxD[1:2]), baseline, ONE)
    assert one.value == pytest.approx(0.01) and all(np.isnan([one.low, one.high, one.p])) and one.seeds == 1
    assert one.notes == ("1 of 4 seeds: the others are missing in some runs", "one seed: no interval")
    some = paired_difference(Losses((4, 2, 9), arm.nll_SxD[[3, 1, 0]]), baseline, ONE)
    np.testing.assert_allclose(some[:3], paired_difference(*runs([0.01, -0.02], (2, 4)), ONE)[:3])
    assert some.seeds == 2 and some.notes == ("2 of 5 seeds: the others are missing in some runs",)
    for bad in (math.inf, math.nan):
        diverged = arm._replace(nll_SxD=np.where([[True], [False], [False], [False]], bad, arm.nll_SxD))
        found = paired_difference(diverged, baseline, ONE)
        assert np.isnan(found[:4]).all() and found.notes == ("a run has diverged: a loss is not finite",)
    assert paired_difference(arm, arm, ONE)[:4] == (0.0, 0.0, 0.0, 1.0)
    lone = ONE._replace(domain_D=np.array(["code", "prose"]))
    found = paired_difference(arm, baseline, lone, Measure("macro"))
    assert found.notes == tuple(f"{name} has one document: the interval leaves out how its documents differ"
                                for name in ("code", "prose"))  # fmt: skip
    np.testing.assert_allclose(found[:4], paired_difference(arm, baseline, ONE)[:4])


def test_what_does_not_fit():
    """Catches: losses of other documents broadcast; means over no seed."""
    arm, baseline = runs([-0.03, 0.01, -0.04, -0.02])
    with pytest.raises(ValueError, match=r"found losses of shape \(4, 1\), expected seeds × documents, \(4, 2\)"):
        paired_difference(arm._replace(nll_SxD=arm.nll_SxD[:, :1]), baseline, ONE)
    with pytest.raises(ValueError, match=r"found the seeds \(5, 6, 7, 8\), \(1, 2, 3, 4\), expected one that all have"):
        paired_difference(arm._replace(seeds=(5, 6, 7, 8)), baseline, ONE)


def test_tiny_p_values_have_an_order():
    """Catches: 1 − p rounded to 1; a search that ends in an error where nothing varies."""
    far, farther = (paired_difference(*runs(by + np.array([0.0, 1.0, 2.0, 1.0])), ONE).p for by in (1e3, 1e4))
    assert 0 < farther < far < 1e-8
    assert paired_difference(*runs([0.5, 0.5, 0.5, 0.5]), ONE).p == pytest.approx(1e-15)


def test_holm_by_hand():
    """Catches: Bonferroni's M for all; Hochberg's steps from above; an adjusted p below one before it, or above 1;
    results in sorted order; NaN first, or not counted."""
    assert holm([0.04, 0.001, 0.02, 0.02]) == pytest.approx([0.06, 0.004, 0.06, 0.06])
    assert holm([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([0.5, 0.9, 0.6]) == [1.0, 1.0, 1.0]
    np.testing.assert_allclose(holm([math.nan, 0.01, 0.02]), [math.nan, 0.03, 0.04])
    assert holm([]) == []
