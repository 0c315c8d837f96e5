"""Phases and scoring passes on axes of FLOPs and of steps."""

import pytest

from lfr_jax.experiments.time_axis import Curve, Span, at_equal_cost, flops_spans, level_in_scoring, step_spans
from lfr_jax.schedule import Phase

PHASES = (Phase("learn", 0, 4), Phase("focus", 4, 6), Phase("review", 6, 9))
# A step costs 10, or 12 where its blocks are longer; scoring before Focus costs 50.
FLOPS = {0: 0.0, 1: 10.0, 2: 20.0, 3: 32.0, 4: 42.0, 5: 102.0, 6: 112.0, 7: 124.0}


def test_phases_and_scoring_on_an_axis_of_flops():
    """Catches: a scoring pass that is taken for training; a dearer step taken for a scoring pass; a phase that begins
    after its first step, or ends beyond what was trained."""
    assert flops_spans(PHASES, [False, True, False], FLOPS) == [
        Span("learn", 0, 0, 42, False),
        Span("focus", 42, 92, 112, True),
        Span("review", 112, 112, 124, False),
    ]


def test_a_run_that_scores_before_its_first_step():
    """Catches: scoring that is looked for between two phases alone."""
    flops = {0: 0.0} | {step: spent + 50 for step, spent in FLOPS.items() if step}
    assert flops_spans(PHASES, [True] * 3, flops)[0] == Span("learn", 0, 50, 92, True)


@pytest.mark.parametrize("flops, expected", [({0: 0.0}, 1), ({0: 0.0, 1: 10.0}, 1), ({4: 42.0, 5: 52.0}, 1)])
def test_runs_that_have_hardly_begun(flops, expected):
    """Catches: a step that is asked for before it was taken; phases that no row of the metrics tells of."""
    assert len(flops_spans(PHASES, [False] * 3, flops)) == expected


def test_phases_on_an_axis_of_steps():
    """Catches: phases exchanged; a scoring pass with a width in steps."""
    assert step_spans(PHASES[:2], [False, True]) == [Span("learn", 0, 0, 4, False), Span("focus", 4, 4, 6, True)]


def test_bands_of_another_run_at_equal_cost():
    """Catches: the other run's steps in place of its FLOPs; FLOPs that lie between two steps."""
    spans = [Span("focus", 40.0, 40.0, 90.0, True)]
    assert at_equal_cost(spans, {0: 0.0, 1: 20.0, 2: 40.0, 3: 60.0, 4: 80.0, 5: 100.0}) == [
        Span("focus", 2.0, 2.0, 4.5, True)
    ]


def test_curves_are_level_in_scoring():
    """Catches: a slope across a scoring pass, for losses measured at its begin or before it; a level of the other side;
    points added that count as measured; curves that begin or end there."""
    spans = flops_spans(PHASES, [False, True, False], FLOPS)
    assert level_in_scoring([2, 4, 6], [3.0, 2.0, 1.0], FLOPS, spans) == Curve(
        [20, 42, 92, 112], [3, 2, 2, 1], [0, 1, 3]
    )
    assert level_in_scoring([2, 6], [3.0, 1.0], FLOPS, spans) == Curve([20, 92, 112], [3, 3, 1], [0, 2])
    assert level_in_scoring([5, 6], [3.0, 1.0], FLOPS, spans) == Curve([102, 112], [3, 1], [0, 1])
    assert level_in_scoring([2, 4], [3.0, 1.0], FLOPS, spans) == Curve([20, 42], [3, 1], [0, 1])
    assert level_in_scoring([], [], FLOPS, spans) == Curve([], [], [])


def test_a_measurement_whose_step_has_no_row_is_left_out():
    """Catches: KeyError, in the report of a run whose metrics.csv was damaged."""
    spans = flops_spans(PHASES, [False, True, False], FLOPS)
    flops = {step: spent for step, spent in FLOPS.items() if step != 2}
    assert level_in_scoring([2, 4, 6], [3.0, 2.0, 1.0], flops, spans) == Curve([42, 92, 112], [2, 2, 1], [0, 2])
    assert level_in_scoring([2], [3.0], flops, spans) == Curve([], [], [])
