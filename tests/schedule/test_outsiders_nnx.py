"""Somebody's NNX trainer: `nnx.Optimizer`, `nnx.jit`, and the schedule's state beside the model in a checkpoint."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from outsiders import BATCH, BLOCKS, LENGTHS, VOCAB, check

from lfr_jax import schedule

sched = schedule.lfr(**LENGTHS, scores="train")
schedule.check_trainer(sched, observes_training=True)


class Bigram(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCAB, 8, rngs=rngs)
        self.head = nnx.Linear(8, VOCAB, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.embed(tokens))


@nnx.jit
def train_step(model, optimizer, chosen, tokens, ids, step):
    def loss(model):
        logits = model(tokens[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean(axis=1)
        return losses.mean(), losses

    grads, losses = nnx.grad(loss, has_aux=True)(model)
    optimizer.update(model, grads)
    return sched.observe(chosen, ids, losses, step)


def train(folder, stop=None):
    model = Bigram(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
    chosen = sched.init(schedule.BlockInfo(num_blocks=len(BLOCKS)))
    first, drawn = 0, []

    def everything():
        return {"model": nnx.state(model), "optimizer": nnx.state(optimizer), "chosen": chosen}

    with ocp.StandardCheckpointer() as checkpointer:
        for saved in sorted(folder.glob("*"))[-1:]:
            restored = checkpointer.restore(saved, everything())
            nnx.update(model, restored["model"])
            nnx.update(optimizer, restored["optimizer"])
            chosen, first = restored["chosen"], int(saved.name)
        for index, phase in enumerate(sched.phases):
            if first <= phase.start:
                chosen = sched.begin(chosen, index)
            draws = schedule.plan(sched.rates(chosen), (phase.stop - phase.start) * BATCH, seed=0, phase=index)
            for step in range(max(first, phase.start), phase.stop):
                ids = draws[np.arange(BATCH) + (step - phase.start) * BATCH]
                chosen = train_step(model, optimizer, chosen, BLOCKS[ids], jnp.asarray(ids), step)
                drawn.append((phase.name, ids))
                if step + 1 == stop:
                    checkpointer.save(folder / str(stop), everything())
                    return None, drawn
    return jax.tree.map(np.asarray, everything()), drawn


def test_an_nnx_trainer_chooses_and_resumes(tmp_path):
    """Catches: a state that NNX cannot carry through a jit, or take from a checkpoint; a `begin` done twice."""
    check(train, tmp_path, 16, 27)
