"""Somebody's Flax Linen trainer: the schedule's state is one more field of their `TrainState`."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax.training import train_state
from outsiders import BATCH, BLOCKS, LENGTHS, VOCAB, check

from lfr_jax import schedule

sched = schedule.lfr(**LENGTHS, scores="train")
schedule.check_trainer(sched, observes_training=True)


class Bigram(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(VOCAB)(nn.Embed(VOCAB, 8)(tokens))


model, optimizer = Bigram(), optax.adam(0.1)


class TrainState(train_state.TrainState):
    chosen: Any  # the schedule's


def fresh():
    return TrainState.create(
        apply_fn=model.apply,
        params=model.init(jax.random.key(0), BLOCKS[:1, :-1]),
        tx=optimizer,
        chosen=sched.init(schedule.BlockInfo(num_blocks=len(BLOCKS))),
    )


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state, tokens, ids):
    def loss(params):
        logits = state.apply_fn(params, tokens[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean(axis=1)
        return losses.mean(), losses

    grads, losses = jax.grad(loss, has_aux=True)(state.params)
    chosen = sched.observe(state.chosen, ids, losses, state.step)
    return state.apply_gradients(grads=grads, chosen=chosen)


def train(folder, stop=None):
    state, drawn = fresh(), []
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(create=True)) as manager:
        if manager.latest_step() is not None:
            state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(state))
        for index, phase in enumerate(sched.phases):
            if state.step >= phase.stop:
                continue
            if state.step == phase.start:
                state = state.replace(chosen=sched.begin(state.chosen, index))
            draws = schedule.plan(sched.rates(state.chosen), (phase.stop - phase.start) * BATCH, seed=0, phase=index)
            for step in range(int(state.step), phase.stop):
                ids = draws[np.arange(BATCH) + (step - phase.start) * BATCH]
                state = train_step(state, BLOCKS[ids], jnp.asarray(ids))
                drawn.append((phase.name, ids))
                if state.step == stop:
                    manager.save(stop, args=ocp.args.StandardSave(state))
                    return state, drawn
    return state, drawn


def test_a_linen_trainer_chooses_and_resumes(tmp_path):
    """Catches: rates that `observe` changes, so that a restored plan is another; a state that Orbax does not hold;
    a plan that depends on more than rates, seed and phase."""
    check(train, tmp_path, 20, 24)
