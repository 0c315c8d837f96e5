"""The train step and the scoring step, on one device and on meshes."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding

from lfr_jax import schedule
from lfr_jax.config import gpt2, llama
from lfr_jax.data import pipeline
from lfr_jax.distributed.mesh import BATCH, make_mesh
from lfr_jax.model import decoder
from lfr_jax.storage.checkpoint import Checkpointer
from lfr_jax.train import steps

EOS = 63
LLAMA = llama(2, 32, num_heads=4, num_kv_heads=2, mlp_dim=64, vocab_size=64, max_len=24, tied_head=True, loss_chunk=7)
GPT2 = gpt2(2, 32, 4, vocab_size=64, max_len=24, loss_chunk=7)
MESHES = [(8, 1, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2), (1, 4, 2)]
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
UNIFORM = schedule.uniform(steps=10)


def batch(rows=16, seed=0):
    tokens = np.random.default_rng(seed).integers(0, 63, (rows, 25)).astype(np.int32)
    return {"ids": np.arange(rows, dtype=np.int32), "tokens": tokens}


# Each is compiled once for all tests.
make_score_step = functools.cache(functools.partial(steps.make_score_step, eos_id=EOS))
copied = jax.jit(functools.partial(jax.tree.map, jnp.copy))


@functools.cache
def make_train_step(config, sched=UNIFORM, grad_accum_steps=1):
    return steps.make_train_step(config, TX, sched, grad_accum_steps, EOS)


@functools.cache
def initial(config, sizes, sched=UNIFORM):
    """(mesh, first state); whoever gives the state away takes a copy."""
    mesh = make_mesh(*sizes)
    with jax.set_mesh(mesh):
        return mesh, steps.init_state(config, TX, sched, schedule.BlockInfo(40), mesh, seed=0)


def run(config, sizes, num_steps=3, grad_accum_steps=1, sched=UNIFORM):
    mesh, state = initial(config, sizes, sched)
    with jax.set_mesh(mesh):
        state, step, losses = copied(state), make_train_step(config, sched, grad_accum_steps), []
        for number in range(num_steps):
            state, metrics = step(state, pipeline.shard_batch(batch(seed=number), mesh))
            losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state), jax.device_get(metrics)


@functools.cache
def on_one_device(config):
    return run(config, (1, 1, 1))


@pytest.mark.parametrize(
    "config, sizes",
    [
        *[pytest.param(LLAMA, sizes, marks=[pytest.mark.slow] * (sizes != (2, 2, 2))) for sizes in MESHES],
        pytest.param(GPT2, (1, 8, 1), marks=pytest.mark.slow),
        (GPT2, (2, 2, 2)),
    ],
    ids=lambda value: value if isinstance(value, tuple) else value.norm,
)
def test_every_mesh_trains_alike(config, sizes):
    """Losses agree to 2e-6, params after three AdamW steps to 1e-4.

    Catches: a gradient that is summed over the wrong axis, or not at all; a loss averaged per device.
    """
    losses, state, metrics = run(config, sizes)
    expected_losses, expected, expected_metrics = on_one_device(config)
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-6)
    np.testing.assert_allclose(metrics["losses"], expected_metrics["losses"], rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), state.params, expected.params)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_accumulation_changes_nothing(sizes):
    """Catches: micro-batches that are averaged instead of summed, or per-block losses out of order."""
    losses, state, metrics = run(LLAMA, sizes, grad_accum_steps=4)
    expected_losses, expected, expected_metrics = on_one_device(LLAMA)
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-6)
    np.testing.assert_allclose(metrics["losses"], expected_metrics["losses"], rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), state.params, expected.params)


@pytest.mark.parametrize("remat", ["block", *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "dots"))])
def test_remat_changes_nothing(remat):
    """Catches: remat that does not reach the layers' gradients."""
    losses, _, _ = run(dataclasses.replace(LLAMA, remat=remat), (1, 1, 1))
    np.testing.assert_allclose(losses, on_one_device(LLAMA)[0], rtol=2e-6)


def test_bfloat16_stays_close_and_params_stay_float32():
    """Catches: a cast of the params themselves, or a cross-entropy in bfloat16 (off by 1e-2 and more)."""
    losses, state, _ = run(dataclasses.replace(LLAMA, dtype="bfloat16"), (2, 2, 2))
    np.testing.assert_allclose(losses, on_one_device(LLAMA)[0], rtol=3e-3)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}
    assert losses != on_one_device(LLAMA)[0]


def test_the_state_is_donated():
    """Catches: a step that keeps two copies of params and optimizer state."""
    mesh, state = initial(LLAMA, (1, 1, 1))
    with jax.set_mesh(mesh):
        state = copied(state)
        make_train_step(LLAMA)(state, pipeline.shard_batch(batch(), mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, optax.tree.get(state.opt_state, "mu"))))


def score(config, tokens, sizes=(1, 1, 1)):
    mesh, state = initial(config, sizes)
    with jax.set_mesh(mesh):
        placed = pipeline.shard_batch({"ids": np.arange(len(tokens)), "tokens": tokens}, mesh)["tokens"]
        return jax.device_get(make_score_step(config)(state.params, placed))


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_scores_are_the_plain_cross_entropy(config):
    """Against optax on whole logits. Catches: a chunk that is lost or counted twice (7 does not divide 24)."""
    mesh, state = initial(config, (1, 1, 1))
    tokens = batch()["tokens"]
    nll_B, count_B = score(config, tokens)
    with jax.set_mesh(mesh):
        model = decoder.merge(config, state.params)
        logits = jax.vmap(lambda t: model.logits(model.hidden(t)))(jnp.asarray(tokens[:, :-1]))
    expected = optax.softmax_cross_entropy_with_integer_labels(np.asarray(logits), tokens[:, 1:])
    np.testing.assert_allclose(nll_B, expected.sum(-1), rtol=1e-5)
    assert np.all(count_B == 24)


@pytest.mark.parametrize("mask_documents", [False, True])
def test_padding_is_neither_read_nor_counted(mask_documents):
    """Catches: padding as a target, as a key, or a padded row that changes the others."""
    config = dataclasses.replace(LLAMA, mask_documents=mask_documents)
    tokens = batch()["tokens"]
    padded = tokens.copy()
    padded[0, 11:] = -1
    padded[1] = -1
    nll_B, count_B = score(config, padded)
    whole_nll, _ = score(config, tokens)
    short_nll, _ = score(config, tokens[:, :11])
    np.testing.assert_allclose(nll_B[0], short_nll[0], rtol=1e-5)
    np.testing.assert_allclose(nll_B[2:], whole_nll[2:], rtol=1e-6)
    assert count_B.tolist() == [10, 0] + [24] * 14 and nll_B[1] == 0


def test_blocks_without_a_target_are_the_easiest():
    """Catches: their loss taken for none, so that LFR keeps them as never measured; a step on them alone that ends the
    run as diverged."""
    config = dataclasses.replace(LLAMA, mask_documents=True)
    mesh, state = initial(config, (1, 1, 1))
    tokens = batch()["tokens"]
    tokens[3] = EOS
    with jax.set_mesh(mesh):
        state, metrics = make_train_step(config)(
            copied(state), pipeline.shard_batch({"ids": np.arange(16), "tokens": tokens}, mesh)
        )
        losses = jax.device_get(metrics["losses"])
        assert losses[3] == 0 and np.all(np.delete(losses, 3) > 1)
        nothing = pipeline.shard_batch({"ids": np.arange(16), "tokens": np.full_like(tokens, EOS)}, mesh)
        _, metrics = make_train_step(config)(state, nothing)
    assert all(np.isfinite(metrics[name]) for name in ("loss", "grad_norm", "update_norm")) and metrics["loss"] == 0


def test_masked_documents_score_as_if_alone():
    """A block 'A eos B' scores as A eos, plus B: rotary positions are relative. Catches: attention or loss across."""
    config = dataclasses.replace(LLAMA, mask_documents=True)
    tokens = batch()["tokens"]
    tokens[:, 9] = EOS
    nll_B, count_B = score(config, tokens)
    first, _ = score(config, tokens[:, :10])
    second, _ = score(config, tokens[:, 10:])
    np.testing.assert_allclose(nll_B, first + second, rtol=1e-5)
    assert np.all(count_B == 9 + 14)
    across, _ = score(LLAMA, tokens)
    assert np.all(np.abs(across - nll_B) > 1e-3)


# Where end-of-text stands in a row of 25 tokens: nowhere, first, as the last input, as the last target, in a row, ...
ENDS = [(), (0,), (23,), (24,), (23, 24), (8, 9), (0, 1), (0, 7, 8, 9, 24), (3, 11, 19)]


def documents_of_rows():
    """(rows, alone, starts): a row up to the end of each of its documents, each of these alone, and the number of the
    first one of each row. −1 fills up what is too short."""
    rows, alone = [], []
    for seed, ends in enumerate(ENDS):
        tokens = batch(rows=1, seed=seed)["tokens"][0]
        tokens[list(ends)] = EOS
        for start, stop in zip((0, *np.add(ends, 1)), (*np.add(ends, 1), 25)):
            rows.append(np.pad(tokens[:stop], (0, 25 - stop), constant_values=-1))
            alone.append(np.pad(tokens[start:stop], (0, 25 - stop + start), constant_values=-1))
    starts = np.cumsum([0, *(len(ends) + 1 for ends in ENDS)])
    return np.array(rows), np.array(alone), starts


@pytest.mark.parametrize("config, sizes", [(LLAMA, (1, 1, 1)), (GPT2, (2, 2, 2))], ids=["llama", "gpt2"])
def test_a_document_in_a_block_is_as_if_alone(config, sizes):
    """Every document's own NLL, wherever end-of-text stands.

    Catches: positions that go on in the next document, or begin anew one token early or late; a target in another
    document; an empty document that merges its neighbours.
    """
    rows, alone, starts = documents_of_rows()
    padding = np.full((-len(rows) % 8, 25), -1)
    rows, alone = np.concatenate([rows, padding]), np.concatenate([alone, padding])
    masked = dataclasses.replace(config, mask_documents=True)
    for reset in (False, True):
        config = dataclasses.replace(masked, reset_positions=reset)
        (nll_B, count_B), (alone_B, alone_count_B) = score(config, rows, sizes), score(config, alone, sizes)
        difference = 0.0
        for first, stop in zip(starts, starts[1:]):
            np.testing.assert_array_equal(count_B[first:stop], np.cumsum(alone_count_B[first:stop]))
            difference = max(difference, *np.abs(nll_B[first:stop] - np.cumsum(alone_B[first:stop])))
        assert difference < 2e-4 if reset or config.positions == "rope" else difference > 1e-2, (reset, difference)


def test_resetting_needs_masks():
    """Catches: two documents that see each other at the same positions."""
    with pytest.raises(ValueError, match="model.reset_positions needs model.mask_documents"):
        dataclasses.replace(LLAMA, reset_positions=True)


@pytest.mark.parametrize("sizes", MESHES)
def test_scoring_on_a_mesh_costs_no_more(sizes):
    """FLOPs that XLA counts, over all devices, against one device.

    Catches: work repeated on every device along an axis, as a vmapped model in Auto mode does.
    """

    assert scoring_flops(sizes) <= 1.05 * scoring_flops((1, 1, 1))


@functools.cache
def scoring_flops(sizes):
    mesh = make_mesh(*sizes)
    tokens = jax.ShapeDtypeStruct((16, 25), np.int32, sharding=NamedSharding(mesh, BATCH))
    with jax.set_mesh(mesh):
        compiled = make_score_step(LLAMA).lower(decoder.abstract(LLAMA, mesh), tokens).compile()
    return compiled.cost_analysis()["flops"] * mesh.size


def weighted(weights):
    return UNIFORM._replace(loss_weights=lambda state, ids, losses: jnp.asarray(weights)[ids])


def test_loss_weights_reach_the_gradient_and_not_the_reported_loss():
    """Catches: weights that are dropped, applied twice, or mixed up with other blocks' ids."""
    zero = np.zeros(40, np.float32)
    losses, _, metrics = run(LLAMA, (2, 2, 2), num_steps=1, sched=weighted(zero))
    assert metrics["grad_norm"] == 0
    np.testing.assert_allclose(losses[0], on_one_device(LLAMA)[0][0], rtol=2e-6)
    some = zero.copy()
    some[3] = 2.0
    third = weighted(some)
    _, _, one = run(LLAMA, (1, 1, 1), num_steps=1, sched=third)
    _, _, mesh = run(LLAMA, (8, 1, 1), num_steps=1, sched=third)
    assert one["grad_norm"] > 0
    np.testing.assert_allclose(mesh["grad_norm"], one["grad_norm"], rtol=1e-4)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_training_losses_are_observed_inside_the_step(sizes):
    """Catches: losses under other blocks' ids, or at another step than that of the params that gave them."""
    sched = schedule.lfr(learn=4, focus=2, review=2, focus2=2, scores="train")
    _, state, metrics = run(LLAMA, sizes, num_steps=3, sched=sched)
    known = state.schedule.measured
    np.testing.assert_array_equal(known.loss[:16], metrics["losses"])
    assert np.all(np.isnan(known.loss[16:])) and np.all(known.step[:16] == 2) and np.all(known.step[16:] == -1)


def test_the_norm_of_the_update_is_that_of_the_change():
    """Catches: the norm of the gradient, or of an update before its learning rate."""
    mesh, state = initial(LLAMA, (2, 2, 2))
    before = jax.device_get(state.params)
    with jax.set_mesh(mesh):
        state, metrics = make_train_step(LLAMA)(copied(state), pipeline.shard_batch(batch(), mesh))
    change = jax.tree.map(np.subtract, jax.device_get(state.params), before)
    assert float(metrics["update_norm"]) == pytest.approx(float(optax.tree.norm(change)), rel=1e-4)


KNOWING = schedule.BlockInfo(40, domain=np.arange(40) % 3, cluster=np.arange(40) % 7, ref_loss=np.full(40, 2.5))


@pytest.mark.parametrize(
    "sched, info",
    [
        (UNIFORM, schedule.BlockInfo(40)),
        (
            schedule.scored(UNIFORM.phases, (None,), needs=("cluster", "ref_loss"), unmeasured="domain"),
            KNOWING,
        ),
    ],
    ids=["uniform", "knowing"],
)
def test_abstract_state_is_the_real_one(sched, info, tmp_path):
    """Of a schedule that holds groups and references too, and through a checkpoint with its digests.

    Catches: a checkpoint restored into other shapes, types or shardings than training uses; a leaf that
    has no digest; references read anew in place of those that the run began with.
    """
    mesh = make_mesh(2, 2, 2)
    parts = (LLAMA, TX, sched, info, mesh)
    with jax.set_mesh(mesh):
        state, abstract = steps.init_state(*parts, seed=0), steps.abstract_state(*parts)
        assert jax.tree.structure(abstract) == jax.tree.structure(state)
        for want, have in zip(jax.tree.leaves(abstract), jax.tree.leaves(state)):
            assert (want.shape, want.dtype) == (have.shape, have.dtype)
            assert want.sharding.is_equivalent_to(have.sharding, have.ndim)
        with contextlib.closing(Checkpointer(tmp_path, keep=1)) as checkpoints:
            checkpoints.save(state, {})
            checkpoints.wait()
            restored, _ = checkpoints.restore(abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
