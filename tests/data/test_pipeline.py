"""The ids and tokens that reach the step are exactly the plan's, however they are read."""

import jax
import numpy as np
import pytest

from lfr_jax import schedule
from lfr_jax.data import pipeline
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
from lfr_jax.distributed.mesh import make_mesh

ONE = make_mesh(1, 1, 1)


@pytest.fixture(scope="module")
def blocks(corpus_dir):
    return Blocks(open_store(corpus_dir / "train"), 32)


def plan(blocks, num_draws):
    rates = np.ones(blocks.num_blocks)
    rates[::3] = 0
    return schedule.plan(rates, num_draws, seed=1, phase=2)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("start", [0, 5, 19])
def test_batches_are_the_plan_from_any_position(blocks, workers, start):
    """Catches: reordering by threads or workers; an offset that restarts at 0; a dropped or repeated batch."""
    draws = plan(blocks, 20 * 8)
    found = list(pipeline.batches(pipeline.Batched(draws, 8), blocks, ONE, start, workers))
    assert len(found) == 20 - start
    ids = np.concatenate([batch["ids"] for batch in found])
    np.testing.assert_array_equal(ids, draws[start * 8 :])
    np.testing.assert_array_equal(np.concatenate([batch["tokens"] for batch in found]), blocks.tokens(ids))


def test_nothing_is_left_at_the_end(blocks):
    """Catches: slicing a data set to nothing, which would raise or start again."""
    assert list(pipeline.batches(pipeline.Batched(plan(blocks, 16), 8), blocks, ONE, start=2)) == []


def test_in_order_reads_each_block_once_and_pads(blocks):
    """Catches: a last batch that is dropped, wraps around, or holds an id other than −1 as padding."""
    found = list(pipeline.batches(pipeline.Batched(np.arange(blocks.num_blocks), 7), blocks, ONE))
    ids = np.concatenate([batch["ids"] for batch in found])
    padding = -blocks.num_blocks % 7
    assert padding > 0
    np.testing.assert_array_equal(ids, [*range(blocks.num_blocks), *[-1] * padding])
    assert np.all(found[-1]["tokens"][-padding:] == -1)


def test_chosen_ids_keep_their_order(blocks):
    """Catches: reading positions in place of ids."""
    chosen = np.array([9, 3, 40])
    (batch,) = pipeline.batches(pipeline.Batched(chosen, 3), blocks, ONE)
    np.testing.assert_array_equal(batch["ids"], chosen)


def test_place_splits_rows_over_the_batch_axes():
    """Catches: a batch that is copied to every device, or split over 'tensor'."""
    mesh = make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        tokens_BxT1 = np.arange(24, dtype=np.int32).reshape(8, 3)
        placed = pipeline.shard_batch({"ids": np.arange(8), "tokens": tokens_BxT1}, mesh)
    assert {shard.data.shape for shard in placed["tokens"].addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(placed["tokens"], tokens_BxT1)
    np.testing.assert_array_equal(placed["ids"], np.arange(8))


class Broken:
    """Blocks of which none can be read."""

    def tokens(self, ids):
        raise ValueError("tokens.bin: its bytes have changed")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_arrives_as_it_was_raised(workers):
    """Catches: an error in a thread or worker that is lost, or comes with notes of the library that reads ahead."""
    with pytest.raises(ValueError) as raised:
        list(pipeline.batches(pipeline.Batched(np.arange(3), 3), Broken(), ONE, workers=workers))
    assert str(raised.value) == "tokens.bin: its bytes have changed" and not getattr(raised.value, "__notes__", [])
