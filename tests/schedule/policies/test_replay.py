"""New domains in stages, and a share of the old."""

import numpy as np
import pytest

from lfr_jax import schedule

DOMAIN = np.array([0, 0, 0, 0, 1, 1, 2, 3, 3, 3])  # 4, 2, 1 and 3 blocks


def counts(s, index, num_draws):
    state = s.init(schedule.BlockInfo(len(DOMAIN), domain=DOMAIN))
    draws = schedule.plan(s.rates(s.begin(state, index)), num_draws, seed=0, phase=index)
    return np.bincount(draws[:], minlength=len(DOMAIN)).tolist()


def test_stages_by_hand():
    """Catches: old and new exchanged; replay of the stage before alone; shares by domain, not by block."""
    s = schedule.replay([(10, [1, 2]), (10, [3]), (20, None)], share=0.25)
    assert [(p.name, p.start, p.stop) for p in s.phases] == [
        ("stage.1", 0, 10),
        ("stage.2", 10, 20),
        ("stage.3", 20, 40),
    ]
    assert counts(s, 0, 30) == [0] * 4 + [10] * 3 + [0] * 3
    assert counts(s, 1, 120) == [0] * 4 + [10] * 3 + [30] * 3
    assert counts(s, 2, 480) == [90] * 4 + [20] * 6


def test_stages_without_anything_new():
    """Catches: rates that are all 0; domains that no stage names drawn all the same."""
    s = schedule.replay([(10, [0]), (10, []), (10, [1])], share=0.1)
    assert counts(s, 1, 40) == [10] * 4 + [0] * 6
    assert counts(s, 2, 400) == [10] * 4 + [180] * 2 + [0] * 4
    none = schedule.replay([(10, [0]), (10, [1]), (10, [])], share=0)
    assert counts(none, 1, 10) == [0] * 4 + [5] * 2 + [0] * 4
    assert counts(none, 2, 12) == [2] * 6 + [0] * 4


@pytest.mark.parametrize(
    "stages, error",
    [
        ([], "replay has no stages, expected at least one"),
        (
            [(5, [0]), (5, [1, 0])],
            r"the stages bring the domains .* expected each in one stage, and None in one at most",
        ),
        ([(5, None), (5, None)], "None in one at most"),
        ([(5, [0]), (5, [4])], "stage.2 brings domain 4, expected 0 to 3"),
        ([(5, []), (5, [1])], "stage.1 brings no blocks, and there are none to replay"),
    ],
)
def test_mistakes_are_named(stages, error):
    """Catches: any of the checks left out: a domain both old and new, one that does not exist, an empty phase."""
    with pytest.raises(ValueError, match=error):
        counts(schedule.replay(stages), 0, 1)
    with pytest.raises(ValueError, match="share is 1, expected a share: at least 0, less than 1"):
        schedule.replay(share=1)
