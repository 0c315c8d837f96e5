"""Held-out batches that take part in training."""

import dataclasses

import numpy as np
import pytest
from helpers import changed, opened, tiny

from lfr_jax import schedule
from lfr_jax.config import ScheduleConfig
from lfr_jax.data.blocks import Blocks
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.train import evaluate, flops
from lfr_jax.train.held_out import HeldOutBatches
from lfr_jax.train.loop import train


def made(corpus_dir, mesh=(2, 1, 1), steps=50, **changes):
    config = changed(tiny("unused", corpus_dir, "data_shapley"), **({"train__eval_blocks": 4} | changes))
    blocks = Blocks(opened(corpus_dir)[1], 32)
    return HeldOutBatches(config, blocks, steps, make_mesh(*mesh)), blocks


def test_they_are_not_what_evaluation_measures(corpus_dir):
    """Catches: blocks that are measured too; one that never comes; an order that is the same in each epoch."""
    batches, blocks = made(corpus_dir)
    measured = set(evaluate.chosen_blocks(blocks, 4).tolist())
    ids = [id for step in range(50) for id in batches.ids_of(step).tolist()]
    np.testing.assert_array_equal(batches[3], blocks.tokens(batches.ids_of(3)))
    assert batches.shape == (8, 32)
    assert not measured & set(ids) and measured | set(ids) == set(range(blocks.num_blocks))
    count = len(batches.ids)
    assert sorted(ids[:count]) == sorted(ids[count : 2 * count]) and ids[:count] != ids[count : 2 * count]


def test_a_run_that_goes_on_has_the_same(corpus_dir):
    """Catches: batches that depend on those before, or on the mesh; the same ones under every seed."""
    one, other = made(corpus_dir)[0], made(corpus_dir, mesh=(1, 1, 1))[0]
    np.testing.assert_array_equal(one[17], other[17])
    assert not np.array_equal(one[17], made(corpus_dir, train__seed=5)[0][17])


def test_what_cannot_be_is_refused(corpus_dir):
    """Catches: an error of a shape in place of words; evaluation of what training has seen."""
    with pytest.raises(ValueError, match="schedule.held_out_blocks=3 is not divisible by 2: .*data_shapley"):
        made(corpus_dir, schedule__held_out_blocks=3)
    with pytest.raises(ValueError, match="evaluation measures all .* lower train.eval_blocks"):
        made(corpus_dir, train__eval_blocks=10**6)


@pytest.mark.slow
def test_a_run_by_gradients(tmp_path, corpus_dir):
    """From its settings to its summary. Catches: a batch of another step; a cost that is not charged, or charged twice;
    values that never reach the policy."""
    options = dict(first=12, later=12, rounds=2)
    config = dataclasses.replace(
        changed(tiny(tmp_path / "run", corpus_dir, "uniform"), train__eval_blocks=4),
        schedule=ScheduleConfig("data_shapley", options, held_out_blocks=4),
    )
    state, summary = train(config, quiet=True)
    blocks = Blocks(opened(corpus_dir)[0], 32)
    cost = flops.expected(config, blocks, schedule.data_shapley())
    assert summary["flops"] == 24 * cost.step > 24 * flops.expected(config, blocks).step
    assert state.schedule.newest.step.max() == 23
    drawn_N = np.asarray(state.schedule.drawn)
    value_N = np.asarray(state.schedule.newest.loss)
    assert np.isfinite(value_N[np.asarray(state.schedule.newest.step) >= 0]).all() and (value_N != 0).any()
    assert drawn_N.sum() >= len(drawn_N) / 2


@pytest.mark.slow
def test_a_run_by_tokens(tmp_path, corpus_dir):
    """Catches: a policy of tokens that this trainer does not weigh by; the second pass through the head not charged."""
    config = dataclasses.replace(
        changed(tiny(tmp_path / "run", corpus_dir, "uniform"), mesh__data=4),
        schedule=ScheduleConfig("token_selection", dict(keep=0.5)),
    )
    summary = train(config, quiet=True).summary
    assert summary["policy"] == "token_selection" and np.isfinite(summary["held_out_loss"]["all"])
    cost = flops.expected(config, Blocks(opened(corpus_dir)[0], 32), schedule.token_selection())
    assert summary["flops"] == 24 * cost.step
