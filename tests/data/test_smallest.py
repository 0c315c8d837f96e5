"""The smallest shapes: one block, one step, one length, a batch larger than the corpus, more processes than blocks."""

import dataclasses
import itertools

import numpy as np
import pytest
from helpers import write_side

from lfr_jax.config import DataConfig
from lfr_jax.data import pipeline
from lfr_jax.data.corpus import training_blocks
from lfr_jax.data.phase_batches import plan_batches
from lfr_jax.data.pipeline import Batched, BatchSource
from lfr_jax.distributed.mesh import Shards, make_mesh

T = 4
CORPORA = {
    "one block": [("a", "x", [[1, 2, 3, 4, 256]])],
    "one block and a domain of none": [("a", "x", [[1, 256]]), ("b", "y", [[1, 2, 3, 4, 256]]), ("c", "z", [[256]])],
    "a block for each source": [(name, name, [[1, 2, 3, 4, number]]) for number, name in enumerate("abc")],
    "a token more than two blocks": [("a", "x", [[1, 2, 3, 4, 5, 6, 7, 8, 256]])],
}


@pytest.fixture(scope="module", params=CORPORA)
def store(request, tmp_path_factory):
    return write_side(tmp_path_factory.mktemp("small") / "s", CORPORA[request.param])


LENGTHS = DataConfig(seq_len=T, packing="by_length", shortest=1)
CUTS = [
    DataConfig(seq_len=T),
    DataConfig(seq_len=T, packing="best_fit"),
    dataclasses.replace(LENGTHS, shortest=T),
    *(dataclasses.replace(LENGTHS, curriculum=curriculum) for curriculum in ("uniform", "grow_linear", "grow_p100")),
    dataclasses.replace(LENGTHS, curriculum="grow_p2", cycles=1),
]


@pytest.mark.parametrize("data", CUTS, ids=lambda data: f"{data.packing} {data.shortest} {data.curriculum}")
@pytest.mark.parametrize("steps, batch", [*itertools.product((1, 3), (1, 8))])
def test_every_draw_is_exact(store, data, steps, batch):
    """Catches: a step too many or too few, a block drawn twice before another is drawn once, a row that no process
    reads or two do."""
    blocks = training_blocks(store, data)
    wanted = plan_batches(blocks, np.ones(blocks.num_blocks), steps, batch, data, seed=0, phase=0)
    assert len(wanted) == steps
    count_N = np.zeros(blocks.num_blocks, int)
    for step in range(steps):
        ids_B = wanted[step]
        ((length, _),) = blocks.by_length(ids_B)
        assert len(ids_B) * length == batch * T and (0 <= ids_B).all()
        np.add.at(count_N, ids_B, 1)
        parts = [BatchSource(wanted, blocks, Shards((i,), batch))[step] for i in range(batch)]
        np.testing.assert_array_equal(np.concatenate([part["tokens"] for part in parts]), blocks.tokens(ids_B))
        assert all((part["ids"] == ids_B).all() for part in parts)
    for _, of_length in blocks.by_length(np.arange(blocks.num_blocks)):
        assert np.ptp(count_N[of_length]) <= 1


@pytest.mark.parametrize("data", CUTS[:3], ids=lambda data: data.packing)
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_all_blocks_are_scored_once(store, data, batch):
    """Catches: a last batch of padding alone that has no length; a process whose rows are all padding."""
    blocks = training_blocks(store, data)
    found = list(pipeline.batches(Batched(np.arange(blocks.num_blocks), batch), blocks, make_mesh(1, 1, 1)))
    ids = np.concatenate([part["ids"] for part in found])
    assert ids[ids >= 0].tolist() == list(range(blocks.num_blocks)) and len(ids) % batch == 0
    source = BatchSource(Batched(np.arange(blocks.num_blocks), batch), blocks, Shards((batch - 1,), batch))
    last = source[len(source) - 1]
    expected = blocks.tokens(np.arange(blocks.num_blocks))[-1] if last["ids"][-1] >= 0 else -1
    assert last["tokens"].shape == (1, T + 1) and (last["tokens"] == expected).all()
