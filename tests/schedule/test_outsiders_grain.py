"""Somebody's loop of optax alone, with a Grain pipeline and a scoring pass of their own."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from outsiders import BATCH, BLOCKS, LENGTHS, VOCAB, check

from lfr_jax import schedule

sched = schedule.lfr(**LENGTHS, scores="pass")
schedule.check_trainer(sched, scores_blocks=True)
optimizer = optax.adam(0.1)
observe = jax.jit(sched.observe, donate_argnums=0)


class Drawn(grain.sources.RandomAccessDataSource):
    """The blocks of a phase, in the order in which they are to be trained on."""

    def __init__(self, draws):
        self.draws = draws

    def __len__(self):
        return len(self.draws)

    def __getitem__(self, position):
        block = self.draws[position]
        return {"ids": block, "tokens": BLOCKS[block]}


def block_losses(table, tokens):
    """The table of logits of each token after each other one is the whole model."""
    return optax.softmax_cross_entropy_with_integer_labels(table[tokens[:, :-1]], tokens[:, 1:]).mean(axis=1)


@jax.jit
def train_step(table, opt_state, tokens):
    grads = jax.grad(lambda table: block_losses(table, tokens).mean())(table)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(table, updates), opt_state


score_step = jax.jit(block_losses)


def train(folder, stop=None):
    table, first, drawn = jnp.zeros((VOCAB, VOCAB)), 0, []
    opt_state, chosen = optimizer.init(table), sched.init(schedule.BlockInfo(num_blocks=len(BLOCKS)))
    with ocp.StandardCheckpointer() as checkpointer:
        for saved in folder.glob("*"):
            table, opt_state, chosen = checkpointer.restore(saved, (table, opt_state, chosen))
            first = int(saved.name)
        for index, phase in enumerate(sched.phases):
            if first <= phase.start:
                if phase.score:
                    for ids in np.split(np.arange(len(BLOCKS)), 4):
                        chosen = observe(chosen, ids, score_step(table, BLOCKS[ids]), phase.start)
                chosen = sched.begin(chosen, index)
            draws = schedule.plan(sched.rates(chosen), (phase.stop - phase.start) * BATCH, seed=0, phase=index)
            begun = max(first - phase.start, 0)
            batches = grain.MapDataset.source(Drawn(draws))[begun * BATCH :].batch(BATCH)
            batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=16))
            for step, batch in enumerate(batches, start=phase.start + begun):
                table, opt_state = train_step(table, opt_state, batch["tokens"])
                drawn.append((phase.name, batch["ids"]))
                if step + 1 == stop:
                    checkpointer.save(folder / str(stop), (table, opt_state, chosen))
                    return None, drawn
    return (table, opt_state, chosen), drawn


def test_a_grain_pipeline_chooses_and_resumes(tmp_path):
    """Catches: a plan that threads cannot share, or that Grain cannot slice; scores of an earlier pass that count."""
    check(train, tmp_path, stop=19)
