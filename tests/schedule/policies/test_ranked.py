"""Blocks by a column, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

QUALITY = np.array([0.5, 3.0, 1.0, 2.5, 2.0, 1.5], np.float32)  # ranks 5, 0, 4, 1, 2, 3


def rates(s, index=0, **columns):
    columns = columns or dict(quality=QUALITY)
    state = s.init(schedule.BlockInfo(len(next(iter(columns.values()))), columns=columns))
    return np.asarray(s.rates(s.begin(state, index)))


def drawn(s, index=0, **columns):
    return np.flatnonzero(rates(s, index, **columns)).tolist()


def test_keep_and_window_by_hand():
    """Catches: ranks from the lowest; a share rounded down; a window of scores; a window past the end that is empty."""
    assert drawn(schedule.ranked(keep=0.34)) == [1, 3, 4]  # ceil(0.34 · 6) = 3
    assert drawn(schedule.ranked(keep=0.34, prefer="low")) == [0, 2, 5]
    assert drawn(schedule.ranked(keep=0.34, skip=0.4)) == [2, 4, 5]  # ranks 2 to 4
    assert drawn(schedule.ranked(keep=0.5, skip=0.7)) == [0, 2]  # ranks 4 and 5


def test_color_filter_as_its_authors_code_selects():
    """Catches: conditional minus prior; a share 1/τ of another number than all blocks."""
    prior, conditional = np.array([4.0, 3.0, 5.0, 2.0]), np.array([3.5, 3.2, 3.0, 1.2])  # 0.5, −0.2, 2, 0.8
    tau = 2
    k = int(len(prior) / tau)  # scripts/select_index_np.py: argsort(prior − conditional)[-k:]
    expected = sorted(np.argsort(prior - conditional)[-k:].tolist())
    assert expected == [2, 3]
    s = schedule.ranked(column="prior", minus="conditional", keep=1 / tau)
    assert drawn(s, prior=prior, conditional=conditional) == expected


def test_tilt_by_hand():
    """Catches: a tilt by ranks; scores that are not in standard deviations; a rate of 0 for a block that is drawn."""
    x = np.array([1.0, 3.0])  # the standard deviation is 1
    np.testing.assert_allclose(rates(schedule.ranked(keep=1.0, tilt=0.5), quality=x), [np.exp(-1), 1], rtol=1e-3)
    np.testing.assert_allclose(
        rates(schedule.ranked(keep=1.0, tilt=0.5, prefer="low"), quality=1000 * x), [1, np.exp(-1)], rtol=1e-3
    )
    assert (rates(schedule.ranked(keep=1.0, tilt=1e30), quality=x) > 0).all()


def test_chances_are_those_of_the_temperature():
    """Catches: a temperature that multiplies; noise that is the same in each round; chances of a share of blocks."""
    s = schedule.ranked(rounds=400, keep=0.5, temperature=2.0)
    state = s.init(schedule.BlockInfo(2, columns=dict(quality=[1.0, 3.0])))  # −1 and 1
    first = np.mean([float(s.rates(s.begin(state, index))[0]) for index in range(400)])
    assert abs(first - 1 / (1 + np.exp(2 / 2.0))) < 4 * np.sqrt(0.2 / 400)


def test_numbers_that_are_none():
    """Catches: NaN that is the best block; an infinite number that makes all scores NaN; alike numbers divided by 0."""
    assert drawn(schedule.ranked(keep=0.5), quality=[np.nan, 2.0, 1.0, 3.0]) == [1, 3]
    assert drawn(schedule.ranked(keep=0.5, prefer="low"), quality=[np.nan, 2.0, 1.0, 3.0]) == [1, 2]
    assert drawn(schedule.ranked(keep=0.5), quality=[-np.inf, 2.0, np.inf, 1.0]) == [1, 2]
    for alike in ([np.nan] * 4, [np.inf] * 4, [2.0] * 4, [-3e38, 3e38, 3e38, 3e38]):
        rate_N = rates(schedule.ranked(keep=0.5, tilt=1.0), quality=alike)
        assert np.isfinite(rate_N).all() and (rate_N > 0).sum() == 2


def test_mistakes_are_named():
    """Catches: a column that is looked for in another place; a share of 0; a name that means nothing."""
    with pytest.raises(ValueError, match="ranked needs BlockInfo.*quality.*, one number for each block; found None"):
        schedule.ranked().init(schedule.BlockInfo(4))
    with pytest.raises(ValueError, match="keep is 0, expected a share"):
        schedule.ranked(keep=0)
    with pytest.raises(ValueError, match="prefer is 'best', expected one of 'high', 'low'"):
        schedule.ranked(prefer="best")
    assert jnp.isfinite(schedule.ranked().init(schedule.BlockInfo(2, columns=dict(quality=[1, 2]))).score).all()
