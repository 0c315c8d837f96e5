"""The loop of docs/your_trainer.md, continued from each of its steps."""

import re

import jax
import numpy as np
import pytest
from outsiders import BATCH, BLOCKS, ROOT, recipe

from lfr_jax import schedule

LOOP = re.search(r"^```python\n(.*?)^```", (ROOT / "docs" / "your_trainer.md").read_text(), re.DOTALL | re.MULTILINE)[1]
STEPS = 11
LENGTHS = dict(learn=4, focus=3, review=2, focus2=2, reps=1)


def train(sched, first: int, chosen) -> tuple[list, list]:
    """What the loop calls from step `first` on, and the schedule's state after each step."""
    calls, states = [], []
    batches_of = recipe("Grain, as in MaxText and torchtitan")["phase_batches"]

    def phase_batches(*args):
        for batch in batches_of(*args):
            yield batch
            states.append(names["chosen"])

    def train_step(step, blocks, ids, chosen):
        assert (blocks == BLOCKS[ids]).all()
        calls.append((step, ids.tolist()))
        return step + 1, ids.astype(np.float32)

    def score_all(step):
        calls.append((step, "scored"))
        return np.arange(len(BLOCKS), dtype=np.float32)

    ours = dict(schedule=schedule, np=np, sched=sched, observe=sched.observe, records=BLOCKS, batch_size=BATCH)
    mine = dict(phase_batches=phase_batches, train_step=train_step, score_all=score_all)
    names = ours | mine | dict(first=first, state=first, chosen=chosen)
    exec(LOOP, names)
    assert names["state"] == STEPS
    return calls, states


@pytest.mark.parametrize("scores", ["pass", "train"])
def test_it_goes_on_from_every_step(scores):
    """Catches: a phase that begins twice, or not at all; a position that is off by a batch; an edge that is scored
    twice, or not at all."""
    sched = schedule.lfr(**LENGTHS, scores=scores)
    expected, states = train(sched, 0, sched.init(schedule.BlockInfo(len(BLOCKS))))
    scored = [4, 9] if scores == "pass" else []
    assert [step for step, what in expected if what == "scored"] == scored and len(states) == STEPS
    for first in range(1, STEPS):
        calls, later = train(sched, first, states[first - 1])
        assert calls == [(step, what) for step, what in expected if step >= first]
        jax.tree.map(np.testing.assert_array_equal, later[-1], states[-1])
