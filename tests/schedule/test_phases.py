"""Phases: their edges, stretched or not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfr_jax import schedule
from lfr_jax.schedule.phases import in_rounds, num_chosen, num_kept

LENGTHS = dict(learn=7, focus=3, review=5, focus2=2)


def test_edges_of_every_phase():
    """Catches: Learn within the cycle; a cycle too many; Focus 2 before Review; scoring in Review."""
    one = schedule.lfr(**LENGTHS, reps=1).phases
    assert [tuple(p) for p in one] == [
        ("learn", 0, 7, False),
        ("focus", 7, 10, True),
        ("review", 10, 15, False),
        ("focus2", 15, 17, True),
    ]
    two = schedule.lfr(**LENGTHS, reps=2).phases
    assert [tuple(p) for p in two] == [
        ("learn", 0, 7, False),
        ("focus.1", 7, 10, True),
        ("review.1", 10, 15, False),
        ("focus2.1", 15, 17, True),
        ("focus.2", 17, 20, True),
        ("review.2", 20, 25, False),
        ("focus2.2", 25, 27, True),
    ]


@pytest.mark.parametrize("scores", ["train", "detrended"])
def test_recorded_losses_need_no_pass(scores):
    """Catches: paying for a scoring pass whose losses were recorded anyway."""
    s = schedule.lfr(**LENGTHS, scores=scores)
    assert s.observe_train and not any(p.score for p in s.phases)
    assert not schedule.lfr(**LENGTHS, scores="pass").observe_train


def test_control_has_the_phases_of_lfr():
    """Catches: the control drifting away from what it controls."""
    unscored = tuple(p._replace(score=False) for p in schedule.lfr(**LENGTHS).phases)
    assert schedule.random_drop(**LENGTHS).phases == unscored


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=4, max_size=4), st.integers(1, 3), st.integers(1, 2000))
def test_fit(lengths, reps, steps):
    """Catches: boundaries rounded each for itself (gaps); floor for nearest; an empty phase let through."""
    s = schedule.lfr(**dict(zip(LENGTHS, lengths)), reps=reps)
    total = s.phases[-1].stop
    try:
        fitted = schedule.fit(s, steps)
    except ValueError:
        shortest = min(p.stop - p.start for p in s.phases)
        assert shortest * steps < total  # a phase of one step or more always fits
        return
    assert fitted.phases[0].start == 0 and fitted.phases[-1].stop == steps
    for old, new in zip(s.phases, fitted.phases):
        assert (new.name, new.score) == (old.name, old.score)
        assert new.start < new.stop
        assert abs(new.start - old.start * steps / total) <= 0.5
    assert [p.start for p in fitted.phases[1:]] == [p.stop for p in fitted.phases[:-1]]
    assert schedule.fit(s, total).phases == s.phases
    assert fitted._replace(phases=s.phases) == s


def test_fit_names_the_phase_that_vanishes():
    """Catches: naming the phase after it; comparing the old lengths."""
    s = schedule.lfr(learn=98, focus=1, review=100, focus2=1, reps=1)
    with pytest.raises(ValueError, match=r"phase 'focus' is 1 of 200 steps, and would last none of 20"):
        schedule.fit(s, 20)
    with pytest.raises(ValueError, match="steps is 0"):
        schedule.fit(s, 0)


def test_num_kept():
    """Catches: the float product (0.29 · 100 = 28.999…); rounding; keeping the floor, not dropping it."""
    assert num_kept(100, 0.29) == 71
    assert num_kept(10, 0.7) == 3
    assert num_kept(7, 0.5) == 4
    assert num_kept(7, 0.0) == 7
    assert num_kept(1, 0.999) == 1
    assert num_kept(100, np.float32(0.25)) == 75


@pytest.mark.parametrize("policy", [schedule.lfr, schedule.random_drop])
def test_errors(policy):
    """Catches: dropping a check; a phase of no steps, but for Focus 2, which may be left out; allowing drop = 1."""
    for name in LENGTHS:
        for bad, said in {
            -1 if name == "focus2" else 0: f"is .+, expected at least {0 if name == 'focus2' else 1}",
            -3: "is -3",
            2.0: "is 2.0, expected a whole number",
        }.items():
            with pytest.raises(ValueError, match=f"length of phase '{name}(.1)?' {said}"):
                policy(**(LENGTHS | {name: bad}))
    for name in ("drop", "drop2"):
        for bad in (1.0, -0.1, float("nan")):
            with pytest.raises(ValueError, match=f"{name} is {bad}"):
                policy(**LENGTHS, **{name: bad})
    with pytest.raises(ValueError, match="reps is 0"):
        policy(**LENGTHS, reps=0)


def test_other_errors():
    """Catches: an unknown mode taken for the default; a phase counted from the end."""
    with pytest.raises(ValueError, match="scores is 'passs', expected one of 'pass', 'train', 'detrended', 'mixed'"):
        schedule.lfr(scores="passs")
    with pytest.raises(ValueError, match="steps is 0"):
        schedule.uniform(0)
    s = schedule.lfr(reps=1)
    state = s.init(schedule.BlockInfo(4))
    for index in (-1, 4):
        with pytest.raises(IndexError, match=f"phase_index is {index}, expected 0 to 3"):
            s.begin(state, index)


def test_rounds():
    """Catches: the first round scored; annealing not counted as rounds; numbers that start again."""
    got = in_rounds(rounds=5, first=8, later=4, anneal=2, last=3, score=True)
    assert [tuple(p) for p in got] == [
        ("round.1", 0, 8, False),
        ("round.2", 8, 12, True),
        ("round.3", 12, 16, True),
        ("anneal.1", 16, 19, False),
        ("anneal.2", 19, 22, False),
    ]
    assert [p.name for p in in_rounds(rounds=2, first=1, later=1, anneal=1)] == ["round.1", "anneal"]
    assert [p.name for p in in_rounds(rounds=1, first=1, later=1)] == ["round.1"]
    with pytest.raises(ValueError, match="anneal is 2, expected at most 1, as there are 2 rounds"):
        in_rounds(rounds=2, first=1, later=1, anneal=2)
    with pytest.raises(ValueError, match="rounds is 0"):
        in_rounds(rounds=0, first=1, later=1)
    with pytest.raises(ValueError, match="later is 0"):
        in_rounds(rounds=2, first=1, later=0)


def test_num_chosen():
    """Catches: the float product (0.07 · 100 = 7.000000000000001); rounding down to nothing."""
    assert num_chosen(100, 0.07) == 7
    assert num_chosen(10, 0.31) == 4
    assert num_chosen(10, 1.0) == 10
    assert num_chosen(1, 0.001) == 1
