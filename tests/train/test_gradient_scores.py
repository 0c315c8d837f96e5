"""Dot products of blocks' gradients, against gradients that are made block by block."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lfr_jax import schedule
from lfr_jax.config import gpt2, llama
from lfr_jax.data import pipeline
from lfr_jax.distributed.mesh import BATCH, make_mesh
from lfr_jax.model import decoder
from lfr_jax.train import loss, steps
from lfr_jax.train.gradient_scores import Along

EOS, ROWS = 63, 8
LLAMA = llama(2, 16, num_heads=4, num_kv_heads=2, mlp_dim=32, vocab_size=64, max_len=12, tied_head=True, loss_chunk=7)
GPT2 = gpt2(2, 16, 4, vocab_size=64, max_len=12, loss_chunk=7, tied_head=False)
DOCUMENTS = dataclasses.replace(GPT2, mask_documents=True, reset_positions=True, tied_head=True)
ALONE = (1, 1, 1)


def rows(seed=0) -> np.ndarray:
    """Blocks of 12 tokens and a target, some with two documents, one padded and one of padding alone."""
    tokens = np.random.default_rng(seed).integers(0, 63, (ROWS, 13)).astype(np.int32)
    tokens[::2, 5] = EOS
    tokens[1, 9:] = -1
    tokens[3] = -1
    return tokens


@functools.cache
def on_mesh(config, sizes, seed):
    """(mesh, params), with norms and biases that are not all alike."""
    mesh = make_mesh(*sizes)
    _, params = decoder.init(config, mesh, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    noisy = jax.tree.map(lambda x: 2 * jax.device_get(x) + rng.normal(0, 0.1, x.shape).astype(np.float32), params)
    return mesh, decoder.put_on_mesh(noisy, config, mesh)


def placed(mesh, tokens):
    return pipeline.shard_batch({"ids": np.arange(len(tokens), dtype=np.int32), "tokens": tokens}, mesh)["tokens"]


@functools.cache
def gradient(config):
    return jax.jit(jax.grad(lambda params, tokens: loss.mean_loss(config, params, tokens, EOS, 1.0)[0]))


def dots(config, mesh, params, tokens, direction) -> np.ndarray:
    """f64[B]: the gradient of each block's summed loss, times the direction, all params in full."""
    with jax.set_mesh(mesh):
        gradients = [jax.device_get(gradient(config)(params, placed(mesh, row[None]))) for row in tokens]
    by_param = [jax.tree.map(lambda x, v: np.sum(x * np.asarray(v), dtype=np.float64), g, direction) for g in gradients]
    return np.array([sum(jax.tree.leaves(products)) for products in by_param])


@functools.cache
def one_by_one(config) -> np.ndarray:
    (mesh, params), (_, direction) = (on_mesh(config, ALONE, seed) for seed in (0, 1))
    return dots(config, mesh, params, rows(), direction)


def at_once(config, sizes, weights=None, along=True):
    """(dot products f32[B], gradients) of the blocks' weighted losses, from one backward pass."""
    (mesh, params), (_, direction) = (on_mesh(config, sizes, seed) for seed in (0, 1))

    def batch_loss(params, shift_B, direction, tokens):
        moved = Along(decoder.merge(config, direction), shift_B) if along else None
        weigh = None if weights is None else lambda losses_B: jax.reshard(jnp.asarray(weights), BATCH)
        return loss.mean_loss(config, params, tokens, EOS, 1.0, weigh, along=moved)[0]

    with jax.set_mesh(mesh):
        shift_B = jnp.zeros(ROWS, out_sharding=BATCH)
        gradient = jax.jit(jax.grad(batch_loss, argnums=(1, 0)))
        return jax.device_get(gradient(params, shift_B, direction, placed(mesh, rows())))


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "config, sizes",
    [
        (LLAMA, ALONE),
        (GPT2, (2, 2, 2)),
        pytest.param(DOCUMENTS, ALONE, marks=slow),
        *(pytest.param(LLAMA, sizes, marks=slow) for sizes in [(8, 1, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2)]),
    ],
)
def test_they_are_those_of_gradients_made_one_by_one(config, sizes):
    """Catches: a param that is left out (the head, a bias, a scale, the embedding, the other use of a tied one); a dot
    product that is summed over blocks or over one device's part; a direction that is not gathered."""
    dots_B, _ = at_once(config, sizes)
    expected_B = one_by_one(config)
    np.testing.assert_allclose(dots_B, expected_B, rtol=1e-4, atol=1e-4 * np.abs(expected_B).max())
    assert dots_B[3] == 0 and np.abs(dots_B).max() > 0.1


def test_the_gradient_of_the_params_stays_as_it_is():
    """Catches: a cotangent that is lost on its way through a module that is watched."""
    (_, expected), (_, gradients) = at_once(LLAMA, ALONE, along=False), at_once(LLAMA, ALONE)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), gradients, expected)


def test_a_block_counts_as_it_is_weighted():
    """Catches: weights that reach the layers and not the head, or the other way round; NaN where a weight is 0."""
    weights = np.array([0, 1, 2, 3, 4, 0.5, 1, 1], np.float32)
    dots_B, _ = at_once(LLAMA, ALONE, weights)
    expected_B = weights * one_by_one(LLAMA)
    np.testing.assert_allclose(dots_B, expected_B, rtol=1e-4, atol=1e-4 * np.abs(expected_B).max())


@slow
@pytest.mark.parametrize("changes", [dict(remat="none"), dict(remat="block"), dict(attention="xla")], ids=str)
def test_how_it_is_computed_does_not_matter(changes):
    """Catches: what the forward pass keeps, mixed up with what it makes again."""
    dots_B, _ = at_once(dataclasses.replace(LLAMA, **changes), ALONE)
    np.testing.assert_allclose(dots_B, one_by_one(LLAMA), rtol=1e-4, atol=1e-4)


@slow
def test_bfloat16_stays_close():
    """Catches: a sum over tokens in bfloat16, off by much more."""
    dots_B, _ = at_once(dataclasses.replace(LLAMA, dtype="bfloat16"), (2, 2, 2))
    expected_B = one_by_one(LLAMA)
    np.testing.assert_allclose(dots_B, expected_B, rtol=0.03, atol=0.02 * np.abs(expected_B).max())


@functools.cache
def first_step(sizes, grad_accum_steps=1):
    """(params before, state after) of a step of a policy that asks for dot products."""
    mesh, tx, policy = make_mesh(*sizes), optax.sgd(0.1), schedule.data_shapley()
    with jax.set_mesh(mesh):
        state = steps.init_state(LLAMA, tx, policy, schedule.BlockInfo(ROWS), mesh, seed=0)
        params = jax.device_get(state.params)
        step = steps.make_train_step(LLAMA, tx, policy, grad_accum_steps, EOS, lambda count: count + 0.5)
        batch = {"ids": np.arange(ROWS, dtype=np.int32), "tokens": rows()}
        batch = pipeline.shard_batch(batch, mesh) | {"held_out": placed(mesh, rows(1))}
        return params, jax.device_get(step(state, batch)[0])


def test_a_step_tells_the_policy():
    """Catches: sums in place of means over tokens; a share of the batch's loss in place of the block's own; the rate of
    the next step; the held-out gradient of other params; a signal under other blocks' ids."""
    params, state = first_step(ALONE)
    mesh, _ = on_mesh(LLAMA, ALONE, 0)
    params = decoder.put_on_mesh(params, LLAMA, mesh)
    count_B, held_out_B = (((t[:, :-1] >= 0) & (t[:, 1:] >= 0)).sum(-1) for t in (rows(), rows(1)))
    with jax.set_mesh(mesh):
        held_out = jax.device_get(gradient(LLAMA)(params, placed(mesh, rows(1))))
    expected_B = dots(LLAMA, mesh, params, rows(), held_out) / np.maximum(count_B, 1) / held_out_B.sum()
    np.testing.assert_allclose(state.schedule.newest.loss, 0.5 * expected_B, rtol=1e-3, atol=1e-6)
    assert np.all(state.schedule.newest.step == 0) and np.abs(expected_B).max() > 1e-3


@pytest.mark.parametrize("sizes", [ALONE, pytest.param((2, 2, 2), marks=slow)])
def test_micro_batches_tell_the_same(sizes):
    """Catches: blocks out of order; the targets of a micro-batch taken for all; a direction of another type than its
    params."""
    (_, state), (_, cut) = first_step(ALONE), first_step(sizes, grad_accum_steps=2)
    np.testing.assert_allclose(cut.schedule.newest.loss, state.schedule.newest.loss, rtol=1e-3, atol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), cut.params, state.params)


@slow
def test_values_rank_blocks_as_leaving_each_out_does():
    """In-Run Data Shapley in 12 small steps of gradient descent, against 16 runs that each leave one block out.

    In larger steps the two differ: values are first-order, and other blocks make up for the one that is left out.

    Catches: values of another sign or another block; the held-out gradient of other params than the step's.
    """
    config, rate, num_blocks, num_steps = LLAMA, 0.003, 16, 12
    rng = np.random.default_rng(0)
    counting = (np.arange(13) + rng.integers(0, 50, (num_blocks, 1))).astype(np.int32)
    noise = rng.integers(0, 63, (num_blocks, 13)).astype(np.int32)
    tokens = np.where(rng.random((num_blocks, 13)) < np.linspace(0, 1, num_blocks)[:, None], noise, counting)
    held_out = (np.arange(13) + rng.integers(0, 50, (ROWS, 1))).astype(np.int32)
    ids = np.concatenate([rng.permutation(num_blocks) for _ in range(num_steps // 2)]).reshape(num_steps, ROWS)
    mesh, params = on_mesh(config, ALONE, 0)

    def mean_loss(params, shift_B, tokens, direction=None, taken_B=None):
        along = None if direction is None else Along(decoder.merge(config, direction), shift_B)
        weigh = None if taken_B is None else lambda losses_B: taken_B
        return loss.mean_loss(config, params, tokens, EOS, ROWS * 12.0, weigh, along=along)[0]

    @jax.jit
    def trained(params, batches, taken_SxB, held_out, shift_B):
        def step(params, batch):
            direction = jax.grad(mean_loss)(params, None, held_out)
            gradients, dots_B = jax.grad(mean_loss, argnums=(0, 1))(params, shift_B, batch[0], direction, batch[1])
            return jax.tree.map(lambda p, g: p - rate * g, params, gradients), rate * dots_B

        params, values_SxB = jax.lax.scan(step, params, (batches, taken_SxB))
        return mean_loss(params, None, held_out), values_SxB

    with jax.set_mesh(mesh):
        stacked = jax.NamedSharding(mesh, jax.P(None, *BATCH))
        batches, shift_B = jax.device_put(tokens[ids], stacked), jnp.zeros(ROWS, out_sharding=BATCH)

        def run(taken_N):
            taken_SxB = jax.device_put(taken_N[ids], stacked)
            return jax.device_get(trained(params, batches, taken_SxB, placed(mesh, held_out), shift_B))

        with_all, values_SxB = run(np.ones(num_blocks, np.float32))
        without_N = [run(1 - np.eye(num_blocks, dtype=np.float32)[i])[0] for i in range(num_blocks)]
    values_N = np.bincount(ids.ravel(), values_SxB.ravel())
    ranks = [np.argsort(np.argsort(x)) for x in (values_N, np.array(without_N) - with_all)]
    assert np.corrcoef(*ranks)[0, 1] > 0.9, (values_N, np.array(without_N) - with_all)
