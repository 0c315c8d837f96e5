"""A reference model beside the one that is trained."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import changed, opened, tiny

from lfr_jax import schedule
from lfr_jax.config import ScheduleConfig
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.tokenizer import Ids
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.train import flops, load_run, policy, reference, score, start
from lfr_jax.train.loop import train


def test_its_losses_are_those_of_the_run(finished, corpus_dir):
    """Catches: params of the first step, or of random weights; the losses of another place in the block."""
    config, folder, _ = finished
    mesh = make_mesh(2, 2, 1)
    with jax.set_mesh(mesh):
        ref = reference.load(str(folder), open_corpus(config.data), 32, mesh)
    run = load_run.load(str(folder))
    blocks, ids = Blocks(opened(corpus_dir)[0], 32), np.arange(8)
    with jax.set_mesh(run.mesh):
        measured = score.losses(load_run.score_step(run), run.params, blocks, 8, run.mesh, ids)
        ((_, expected_B, _),) = score.on_host(measured)
    with jax.set_mesh(mesh):
        tokens = jax.device_put(blocks.tokens(ids), jax.NamedSharding(mesh, jax.P(("data", "fsdp"))))
        losses_BxT = jax.device_get(ref.token_losses(ref.params, tokens))
    np.testing.assert_allclose(losses_BxT.sum(-1), expected_B, rtol=1e-5)
    assert ref.identity.startswith("step 24, digest ") and reference.model_of(str(folder)) == config.model


def test_what_does_not_fit_is_refused(finished):
    """Catches: losses of other text than the tokens mean; blocks that are longer than the model can read."""
    config, folder, _ = finished
    corpus, mesh = open_corpus(config.data), make_mesh(1, 1, 1)
    with pytest.raises(ValueError, match="model.max_len=32, expected at least data.seq_len=64"):
        reference.load(str(folder), corpus, 64, mesh)
    with pytest.raises(ValueError, match="reads tokens of another tokenizer"):
        reference.load(str(folder), corpus._replace(tokenizer=Ids(264, 256)), 32, mesh)
    by_excess = schedule.token_selection(by="excess")
    with pytest.raises(ValueError, match="none is named: --schedule.ref-model RUN"):
        policy.check_supplied(by_excess)
    policy.check_supplied(by_excess, ref_model=str(folder))


@pytest.mark.slow
def test_a_run_by_excess_loss(tmp_path, corpus_dir, finished):
    """Catches: a cost that is not charged; a run that goes on with another reference."""
    _, folder, _ = finished
    config = dataclasses.replace(
        changed(tiny(tmp_path / "run", corpus_dir, "uniform")),
        schedule=ScheduleConfig("token_selection", dict(by="excess", keep=0.5), ref_model=str(folder)),
    )
    summary = train(config, quiet=True).summary
    blocks = Blocks(opened(corpus_dir)[0], 32)
    plain, found = (flops.expected(config, blocks, sched).step for sched in (None, policy.build(config.schedule, 0)))
    head = 8 * 32 * 2 * config.model.dim * config.model.vocab_size
    # The reference is as large as the model: a forward pass more. And the weights follow from the losses.
    assert summary["flops"] == 24 * found and found == plain * 4 / 3 + head
    with pytest.raises(ValueError, match="the reference model is step 9"):
        start.check_meta({"spent": [], "reference": "step 24"}, {"reference": "step 9"}, config)
