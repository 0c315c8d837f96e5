"""Attention in blocks, and its own backward pass, against the plain form and its gradients by JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax.distributed.mesh import BATCH, make_mesh
from lfr_jax.model import blocked_attention
from lfr_jax.model.attention import attend
from lfr_jax.model.remat import POLICIES

B, H, K, HEAD_DIM = 8, 4, 2, 8


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_qkv(T, dtype=jnp.float32):
    arrays = (random(B, T, H, HEAD_DIM), random(B, T, K, HEAD_DIM, seed=1), random(B, T, K, HEAD_DIM, seed=2))
    return tuple(jnp.asarray(x, dtype) for x in arrays)


def documents_and_padding(T):
    starts = np.random.default_rng(3).random((B, T)) < 0.3
    documents = np.cumsum(starts, axis=1).astype(np.int32)
    documents[1, T // 2 :] = -1
    documents[2, : T // 3] = -1
    documents[3] = -1
    return documents


def values_and_gradients(impl, mesh, qkv, segments_BxT):
    """Of two layers of nothing but attention, as the decoder runs them: vmap of scan of checkpoint."""

    def of_one(qkv, segments_T):
        q_TxHxP, *kv = qkv

        def layer(x_TxHxP, _):
            return x_TxHxP + attend(q_TxHxP + x_TxHxP, *kv, segments_T=segments_T, impl=impl), None

        return jax.lax.scan(jax.checkpoint(layer, policy=POLICIES["products"], prevent_cse=False), q_TxHxP, length=2)[0]

    def loss(qkv, segments_BxT):
        out = jax.vmap(of_one, in_axes=(0, None if segments_BxT is None else 0))(qkv, segments_BxT)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    with jax.set_mesh(mesh):
        qkv = jax.device_put(qkv, NamedSharding(mesh, P(*BATCH, None, "tensor", None)))
        if segments_BxT is not None:
            segments_BxT = jax.device_put(segments_BxT, NamedSharding(mesh, BATCH))
        return jax.jit(jax.grad(loss, has_aux=True))(qkv, segments_BxT)


@pytest.mark.parametrize(
    "sizes, T, segmented, scores_at_once",
    [
        ((1, 1, 1), 10, False, 2**22),
        ((1, 1, 1), 10, True, 1),
        ((1, 1, 1), 1, True, 1),
        ((2, 2, 2), 12, True, 48),  # two rows of a device at once
    ],
)
def test_equals_the_plain_form(monkeypatch, sizes, T, segmented, scores_at_once):
    """In blocks of 4 queries. Catches: a last block that is not full; a block that sees the keys of the next one;
    the mask of another block's queries, or none; segments not used, in one of the passes; query heads parted from
    their keys; no sum of a key's gradients over blocks, or over the query heads that share it; a gradient without
    1/sqrt(P); rows of another device, or in another order."""
    monkeypatch.setattr(blocked_attention, "BLOCK", 4)
    monkeypatch.setattr(blocked_attention, "SCORES_AT_ONCE", scores_at_once)
    segments = documents_and_padding(T) if segmented else None
    found, wanted = (
        values_and_gradients(impl, make_mesh(*sizes), random_qkv(T), segments) for impl in ("blocked", "xla")
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        assert jax.typeof(a) == jax.typeof(b)
        np.testing.assert_allclose(a, b, atol=5e-6)


def test_scores_are_float32_where_the_arrays_are_bfloat16(monkeypatch):
    """The results are about as near to those in float32 as the plain form's. Catches: scores, softmax or the sums over
    blocks in bfloat16."""
    monkeypatch.setattr(blocked_attention, "BLOCK", 4)
    q, k, v = (3 * x[0] for x in random_qkv(64, jnp.bfloat16))  # large scores: bfloat16 would keep too few digits
    arrays = (q, k, v, jnp.asarray(random(64, H, HEAD_DIM, seed=3), jnp.bfloat16))

    def results(impl, dtype):
        attention = functools.partial(attend, impl=impl)
        *qkv, dout = (x.astype(dtype) for x in arrays)
        out, gradients = jax.jit(lambda *qkv: (attention(*qkv), jax.vjp(attention, *qkv)[1](dout)))(*qkv)
        found = (out, *gradients)
        assert {x.dtype for x in found} == {jnp.dtype(dtype)}
        return [np.asarray(x, np.float32) for x in found]

    with jax.set_mesh(make_mesh(1, 1, 1)):
        exact, *both = results("xla", "float32"), results("blocked", "bfloat16"), results("xla", "bfloat16")
    blocked, plain = (np.array([np.std(x - y) for x, y in zip(found, exact)]) for found in both)
    assert np.all(blocked < 1.5 * plain), (blocked, plain)


def test_keeps_no_scores(monkeypatch):
    """Catches: scores or probabilities of a block kept for the backward pass."""
    monkeypatch.setattr(blocked_attention, "BLOCK", 4)
    T = 10
    with jax.set_mesh(make_mesh(1, 1, 1)):
        q, k, v = (x[0] for x in random_qkv(T))
        backward = jax.eval_shape(lambda *qkv: jax.vjp(blocked_attention.blocked, *qkv)[1], q, k, v)
    kept = sorted(x.shape for x in jax.tree.leaves(backward))
    assert kept == sorted([(T, H, HEAD_DIM), (T, K, HEAD_DIM), (T, K, HEAD_DIM), (T, H, 1)])  # q, k, v, log-sum-exp


def test_a_layer_does_not_run_it_forward_twice():
    """Catches: output or log-sum-exp not kept for the backward pass."""
    with jax.set_mesh(make_mesh(2, 2, 2)):
        q, k, v = (jax.device_put(x, P(*BATCH, None, "tensor", None)) for x in random_qkv(8))

        def loss(q, policy):
            layer = jax.checkpoint(lambda *qkv: jnp.sin(blocked_attention.blocked(*qkv)), policy=policy)
            return jnp.sum(jax.vmap(layer)(q, k, v))

        jaxpr = jax.make_jaxpr(jax.grad(loss), static_argnums=1)
        runs = [str(jaxpr(q, policy)).count("= shard_map") for policy in (POLICIES["products"], None)]
    assert runs == [2, 3]  # forward and backward


def test_auto_takes_it_where_there_is_no_cache():
    """Catches: the plain form in training on CPUs; blocks from position 0 for queries that stand further on."""
    q, k, v = (x[0] for x in random_qkv(8))
    with jax.set_mesh(make_mesh(1, 1, 1)):

        def takes(queries, offset):
            found = jax.make_jaxpr(functools.partial(attend, impl="auto"))(queries, k, v, offset=offset)
            return "custom_vjp" in str(found)

        assert "custom_vjp" in str(jax.make_jaxpr(attend)(q, k, v))
        assert not takes(q[:1], 3) and not takes(q, jnp.int32(0))


@pytest.mark.parametrize("T, number, largest", [(1, 1, 1), (64, 1, 64), (65, 2, 64), (512, 8, 64), (4097, 8, 513)])
def test_blocks_are_few_and_cover_all_queries(T, number, largest):
    """Catches: a program that grows with the sequence; queries that no block has, or two."""
    blocks = blocked_attention._blocks(T)
    assert len(blocks) == number
    assert [t for block in blocks for t in range(block.start, block.stop)] == list(range(T))
    assert max(block.stop - block.start for block in blocks) == largest
