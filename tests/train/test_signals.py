"""What the trainer tells a policy in each step, and what it lets a policy weigh: objective, tokens, signals."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import changed, rows, tiny
from running import stop_after

from lfr_jax import schedule
from lfr_jax.config import ScheduleConfig, llama
from lfr_jax.data import pipeline
from lfr_jax.distributed.mesh import BATCH as ROWS
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model import decoder
from lfr_jax.train import loss, policy, score, signals, steps
from lfr_jax.train.loop import train as train_run

EOS, N = 63, 40
CONFIG = llama(1, 16, 2, 2, 32, vocab_size=64, max_len=24, tied_head=True, loss_chunk=7, mask_documents=True)
TX = optax.sgd(1.0)
UNIFORM = schedule.uniform(steps=10)
TOKENS = np.random.default_rng(0).integers(0, 63, (16, 17)).astype(np.int32)
TOKENS[3, 5], TOKENS[7] = EOS, -1
BATCH = {"ids": np.arange(16, dtype=np.int32) * 2, "tokens": TOKENS}


def train(sched, sizes=(1, 1, 1), grad_accum_steps=1, weights_N=None):
    """(state, metrics) after a step; the change of the params is minus the gradient."""
    mesh = make_mesh(*sizes)
    with jax.set_mesh(mesh):
        state = steps.init_state(CONFIG, TX, sched, schedule.BlockInfo(N), mesh, seed=0)
        before = jax.device_get(state.params)
        if weights_N is not None:
            weights_N = steps.on_every_device(mesh, weights_N)
        step = steps.make_train_step(CONFIG, TX, sched, grad_accum_steps, EOS)
        state, metrics = step(state, pipeline.shard_batch(BATCH, mesh), weights_N)
    state, metrics = jax.device_get((state, metrics))
    return before, jax.tree.map(np.subtract, before, state.params), state, metrics


def expected(params, weights_BxT):
    """The gradient of the weighted mean of the token losses, on whole logits."""
    mesh = make_mesh(1, 1, 1)
    with jax.set_mesh(mesh):

        def total(params):
            tokens = jax.reshard(TOKENS, ROWS)
            _, _, losses_BxT = loss.block_and_token_nll(CONFIG, params, tokens, EOS)
            counts_BxT = ~jnp.isnan(losses_BxT)
            return jnp.sum(jnp.where(counts_BxT, losses_BxT * weights_BxT, 0.0)) / jnp.sum(counts_BxT)

        return jax.device_get(jax.jit(jax.grad(total))(decoder.put_on_mesh(params, CONFIG, mesh)))


def close(got, wanted):
    largest = max(np.abs(x).max() for x in jax.tree.leaves(wanted))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * largest)


@functools.cache
def token_losses():
    """f32[16, 16]: those of the first step, NaN without a target."""
    mesh = make_mesh(1, 1, 1)
    with jax.set_mesh(mesh):
        params = steps.init_state(CONFIG, TX, UNIFORM, schedule.BlockInfo(N), mesh, seed=0).params
        return np.array(steps.make_score_step(CONFIG, EOS, token_losses=True)(params, TOKENS)[2])


HALF_LOW = UNIFORM._replace(
    rates=lambda state: jnp.where(jnp.arange(N) % 4 == 0, 0.5, 1.0), objective=lambda state: jnp.ones(N)
)


@pytest.mark.parametrize("sizes, grad_accum_steps", [((1, 1, 1), 1), ((2, 2, 2), 2)])
def test_blocks_are_weighed_by_the_objective(sizes, grad_accum_steps):
    """Outermost: times the weights of a rule within the batch.

    Catches: weights of other blocks; one rule in place of both; the reported loss weighted; a weight mixed up by
    micro-batches.
    """
    sched = HALF_LOW._replace(loss_weights=lambda state, ids, losses: jnp.where(losses > 4.16, 3.0, 1.0))
    weights_N = np.asarray(schedule.objective_weights(sched, UNIFORM.init(schedule.BlockInfo(N))))
    np.testing.assert_allclose(weights_N[:2], [1.75, 0.875])
    before, gradient, _, metrics = train(sched, sizes, grad_accum_steps, weights_N)
    losses_B = np.nansum(token_losses(), 1) / np.maximum(np.sum(~np.isnan(token_losses()), 1), 1)
    weights_B = np.where(losses_B > 4.16, 3.0, 1.0) * weights_N[BATCH["ids"]]
    assert len(np.unique(weights_B[np.arange(16) != 7])) == 4
    close(gradient, expected(before, weights_B[:, None]))
    assert metrics["loss"] == pytest.approx(np.nanmean(token_losses()), rel=1e-5)


def test_no_step_looks_at_all_blocks():
    """The operations of a step on arrays of all blocks. Catches: the sums of `objective_weights` in every step, which
    take longer than the step at 10**8 blocks."""
    n, mesh = 1237, make_mesh(2, 2, 2)  # a number that stands for nothing else
    sched = UNIFORM._replace(objective=lambda state: jnp.ones(n))
    with jax.set_mesh(mesh):
        state = steps.abstract_state(CONFIG, TX, sched, schedule.BlockInfo(n), mesh)
        step, weights_N = steps.make_train_step(CONFIG, TX, sched, 1, EOS), steps.abstract_weights(sched, state)
        lines = step.lower(state, pipeline.shard_batch(BATCH, mesh), weights_N).as_text().splitlines()
    words = [line for line in lines if f"tensor<{n}x" in line]
    assert sum("stablehlo.gather" in line for line in words) == 1
    assert not [line for line in words if not any(word in line for word in ("func.func", "return", "stablehlo.gather"))]


@pytest.mark.slow
def test_a_run_goes_on_with_the_weights_of_its_phase(corpus_dir, tmp_path, monkeypatch):
    """Stopped within a phase that weighs. Catches: weights of a phase that are lost with the process; none for the rest
    of a phase."""
    settings = ScheduleConfig("infobatch", dict(first=8, later=8, last=8, rounds=3), floor=0.3)
    whole, parts = (changed(tiny(tmp_path / name, corpus_dir), schedule=settings) for name in ("whole", "parts"))
    state = train_run(whole, quiet=True).state
    stop_after(monkeypatch, parts, 11)
    again = train_run(parts, quiet=True).state
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
    sched = policy.build(settings, 24)
    assert np.ptp(schedule.objective_weights(sched, sched.begin(state.schedule, 1))) > 0.3


def test_the_weights_of_the_phase_are_given_where_they_are_needed():
    """Catches: a policy with an objective that trains without it, and reports no error."""
    for sched, weights_N in ((HALF_LOW, None), (UNIFORM, np.ones(N, np.float32))):
        with pytest.raises(ValueError, match="weights_N must be given if and only if the schedule has an objective"):
            train(sched, weights_N=weights_N)


@pytest.mark.parametrize("sizes, grad_accum_steps", [((1, 1, 1), 1), ((2, 2, 2), 2)])
def test_tokens_are_weighed_by_their_losses(sizes, grad_accum_steps):
    """Catches: losses of other tokens; a gradient through the weights; NaN where there is no target; a block's weight
    or the progress lost."""

    def token_weights(state, ids, losses_BxT, *, progress):
        return jnp.where(losses_BxT > 4.16, losses_BxT + progress + ids[:, None], jnp.nan_to_num(losses_BxT * 0))

    sched = UNIFORM._replace(token_weights=token_weights, extra=("progress",))
    before, gradient, _, _ = train(sched, sizes, grad_accum_steps)
    losses = token_losses()
    close(gradient, expected(before, np.where(losses > 4.16, losses + BATCH["ids"][:, None], 0)))


class Told(NamedTuple):
    drawn: jax.Array  # bool[N]
    rate: jax.Array  # f32[]
    ref: jax.Array  # f32[16, 16]
    progress: jax.Array  # f32[]
    norm: jax.Array  # f32[16]
    tokens: jax.Array  # f32[16, 16]


def told(extra):
    def observe(state, ids, losses, step, **extra):
        return state._replace(**{short: extra[name] for name, short in NAMES.items() if name in extra})

    zeros = jnp.zeros((16, 16))
    empty = Told(jnp.ones(N, bool), jnp.float32(0), zeros, jnp.float32(0), jnp.zeros(16), zeros)
    return UNIFORM._replace(init=lambda info: empty, observe=observe, extra=extra, observe_train=True)


NAMES = {
    "progress": "progress",
    "grad_norm": "norm",
    "token_losses": "tokens",
    "learning_rate": "rate",
    "ref_token_losses": "ref",
}


@pytest.mark.parametrize("sizes, grad_accum_steps", [((1, 1, 1), 1), ((2, 2, 2), 2)])
def test_a_policy_is_told_what_it_names(sizes, grad_accum_steps):
    """Catches: rows in the order of micro-batches; a loss of 0 without a target; the next step's progress; a signal
    that nobody asked for."""
    _, _, state, _ = train(told(("token_losses",)), sizes, grad_accum_steps)
    np.testing.assert_allclose(state.schedule.tokens, token_losses(), rtol=1e-5)
    assert np.isnan(state.schedule.tokens[7]).all() and np.isnan(state.schedule.tokens[3, 5])


def test_a_scoring_pass_tells_what_it_measures():
    """Catches: a policy without its signals in a pass; gradients of 0 where none was measured; progress from 0 on; NaN
    for each block where a training step has one number, or one for each token."""
    mesh, sched = make_mesh(2, 2, 2), told(tuple(NAMES))
    assert signals.needs_tokens(told(("ref_token_losses",))) and not signals.needs_tokens(told(("progress",)))
    with jax.set_mesh(mesh):
        state = steps.init_state(CONFIG, TX, sched, schedule.BlockInfo(N), mesh, seed=0)
        score_step = steps.make_score_step(CONFIG, EOS, token_losses=True)
        sums = score_step(state.params, pipeline.shard_batch(BATCH, mesh)["tokens"])
        seen = jax.device_get(score.make_observe_step(sched)(state.schedule, np.int32(5), (BATCH["ids"], *sums)))
    assert seen.progress == 0.5 and np.isnan(seen.norm).all()
    assert seen.rate.shape == () and np.isnan(seen.rate) and seen.ref.shape == (16, 16) and np.isnan(seen.ref).all()
    np.testing.assert_allclose(seen.tokens, token_losses(), rtol=1e-5)


def test_a_signal_that_nobody_supplies_is_refused():
    """Catches: a policy that waits for a signal for ever."""
    policy.check_supplied(told(("progress", "token_losses")))
    with pytest.raises(ValueError, match="pass 'attention' to schedule.observe"):
        policy.check_supplied(schedule.floor(told(("progress", "attention"))))
