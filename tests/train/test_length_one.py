"""Whole runs in which something has the length one: the corpus, a batch, a mesh axis, a phase, the run itself."""

import numpy as np
import pytest
from helpers import changed, rows, tiny, write_tokens

from lfr_jax.config import MeshConfig
from lfr_jax.train.loop import train

pytestmark = pytest.mark.slow
PHASES = dict(learn=1, focus=1, review=1, focus2=1, reps=1)


@pytest.fixture(scope="module")
def one_block(tmp_path_factory):
    """A corpus of one block of 16 tokens to train on; the same one is held out."""
    side = {("domain", "source"): [[*range(16), 29]]}
    return write_tokens(tmp_path_factory.mktemp("one") / "corpus", side, side, vocab_size=30)


@pytest.mark.parametrize(
    "policy, mesh, changes",
    [
        ("uniform", (1, 1, 1), dict(train__steps=1, train__batch_size=1, train__log_every=100)),
        ("uniform", (1, 1, 2), dict(train__steps=1, train__batch_size=1, optimizer__lr_schedule="wsd")),
        ("uniform", (1, 2, 1), dict(train__steps=2, train__batch_size=2, data__packing="best_fit")),
        ("lfr", (1, 1, 1), dict(train__grad_accum_steps=8, model__loss_chunk=1)),
        ("lfr", (8, 1, 1), dict(train__score_batch_size=64)),
        ("lfr", (2, 2, 2), dict(train__grad_accum_steps=2, model__loss_chunk=16, train__probe_blocks=1)),
        ("lfr", (1, 8, 1), dict(schedule__score_fraction=0.1, schedule__options=PHASES | dict(scores="mixed"))),
    ],
)
def test_one_block_is_seen_by_training_scoring_and_evaluation_alike(one_block, tmp_path, policy, mesh, changes):
    """Every batch is this block again and again, so a step's loss is what was measured just before it.

    Catches: padding rows that count; a block left out, or an empty shard; a division by zero.
    """
    config = changed(tiny(tmp_path / "run", one_block, policy, **PHASES if policy == "lfr" else {}), data__seq_len=16)
    config = changed(config, mesh=MeshConfig(*mesh), train__steps=4, train__eval_every=1, train__score_batch_size=0)
    config = changed(config, optimizer__warmup_steps=0, optimizer__peak_lr=1e-2, **changes)
    result = train(config, quiet=True)
    losses = [float(row["loss"]) for row in rows(tmp_path / "run")]
    probed = [float(row["loss"]) for row in rows(tmp_path / "run", "scores/probes.csv")]
    held_out = [float(row["loss"]) for row in rows(tmp_path / "run", "eval.csv") if row["domain"] == "all"]
    assert len(losses) == config.train.steps == len(held_out) == len(probed)
    np.testing.assert_allclose(probed[:-1], losses[1:], rtol=1e-5)
    np.testing.assert_allclose(held_out, probed, rtol=1e-5)
    assert np.ptp(losses) > 1e-4 or config.train.steps == 1
    assert result.summary["trained_tokens"] == config.train.steps * config.train.batch_size * 16
    assert train(config, quiet=True).summary == result.summary
