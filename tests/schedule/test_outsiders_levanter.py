"""Somebody's trainer on Levanter's data sets, which are read through an asynchronous `get_batch` of indices.

The classes at the top stand in for Levanter: the interface of `levanter/data/dataset.py`, and of `loader.py` that it
fetches several batches at once, ahead of the training, as far as `async_len` says.
"""

import asyncio
import pickle
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from outsiders import BATCH, BLOCKS, LENGTHS, VOCAB, check, recipe

from lfr_jax import schedule

sched = schedule.lfr(**LENGTHS, scores="train")
schedule.check_trainer(sched, observes_training=True)
optimizer = optax.adam(0.1)


class AsyncDataset:
    """The part of Levanter's class that its loader calls."""

    async def async_len(self) -> int:
        raise NotImplementedError

    def is_finite(self) -> bool:
        raise NotImplementedError

    async def get_batch(self, indices):
        raise NotImplementedError


class Corpus(AsyncDataset):
    """Blocks in some store; answers come later, and not in the order of the questions."""

    async def async_len(self):
        return len(BLOCKS)

    def is_finite(self):
        return True

    async def get_batch(self, indices):
        for _ in range(indices[0] % 3):
            await asyncio.sleep(0)
        return [BLOCKS[index] for index in indices]


class DataLoader:
    """Fetches three batches at once."""

    def __init__(self, data, batch_size):
        self.data, self.batch_size = data, batch_size

    def iter_from_step(self, step):
        async def fetched(numbers):
            starts = [number * self.batch_size for number in numbers]
            wanted = [self.data.get_batch([*range(start, start + self.batch_size)]) for start in starts]
            return await asyncio.gather(*wanted)

        assert self.data.is_finite()
        number_of_batches = asyncio.run(self.data.async_len()) // self.batch_size
        for first in range(step, number_of_batches, 3):
            for batch in asyncio.run(fetched(range(first, min(first + 3, number_of_batches)))):
                ids, blocks = zip(*batch)
                yield np.array(ids), np.stack(blocks)


@pytest.fixture
def drawn_dataset(monkeypatch):
    """The class of the recipe."""
    levanter = types.ModuleType("levanter"), types.ModuleType("levanter.data")
    levanter[1].AsyncDataset = AsyncDataset
    for module in levanter:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return recipe("Levanter")["DrawnDataset"]


def block_losses(table, tokens):
    return optax.softmax_cross_entropy_with_integer_labels(table[tokens[:, :-1]], tokens[:, 1:]).mean(axis=1)


@jax.jit
def train_step(state, tokens, ids, step):
    table, opt_state, chosen = state

    def loss(table):
        losses = block_losses(table, tokens)
        return losses.mean(), losses

    grads, losses = jax.grad(loss, has_aux=True)(table)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(table, updates), opt_state, sched.observe(chosen, ids, losses, step)


def test_a_levanter_like_data_set_chooses_and_resumes(drawn_dataset, tmp_path):
    """Catches: draws that cannot be asked for in any order; a data set that knows no end, so that a loader reads beyond
    the phase."""

    def train(folder, stop=None):
        table, first, drawn = jnp.zeros((VOCAB, VOCAB)), 0, []
        state = (table, optimizer.init(table), sched.init(schedule.BlockInfo(num_blocks=len(BLOCKS))))
        folder.mkdir(exist_ok=True)
        if (folder / "saved").exists():
            first, state = pickle.loads((folder / "saved").read_bytes())
        for index, phase in enumerate(sched.phases):
            if first >= phase.stop:
                continue
            if first <= phase.start:
                state = (*state[:2], sched.begin(state[2], index))
            draws = schedule.plan(sched.rates(state[2]), (phase.stop - phase.start) * BATCH, seed=0, phase=index)
            begun = max(first - phase.start, 0)
            batches = DataLoader(drawn_dataset(Corpus(), draws), BATCH).iter_from_step(begun)
            for step, (ids, tokens) in enumerate(batches, start=phase.start + begun):
                state = train_step(state, tokens, ids, step)
                drawn.append((phase.name, ids))
                if step + 1 == stop:
                    (folder / "saved").write_bytes(pickle.dumps((stop, jax.tree.map(np.asarray, state))))
                    return None, drawn
        return state, drawn

    check(train, tmp_path, 20, 32)
