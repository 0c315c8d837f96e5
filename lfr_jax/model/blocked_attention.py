"""Causal attention in blocks of queries, with its own backward pass: FlashAttention-2 (Dao 2023, arXiv 2307.08691).

Of one head, with queries q, keys k, values v and the gradient do of the output, the equations of section 2 are

    s_ts = q_t · k_s / sqrt(P)              scores, where s <= t is of t's own segment; else -inf
    lse_t = log Σ_s exp(s_ts)
    p_ts = exp(s_ts - lse_t)                softmax
    o_t  = Σ_s p_ts v_s                     output

    dv_s  = Σ_t p_ts do_t
    dp_ts = do_t · v_s
    ds_ts = p_ts (dp_ts - Σ_s p_ts dp_ts)
    dq_t  = Σ_s ds_ts k_s / sqrt(P)
    dk_s  = Σ_t ds_ts q_t / sqrt(P)

As in section 3, the forward pass keeps lse, T numbers a head, and the backward pass computes the scores again. Both
take a block of queries at a time, with the keys up to the block's end. Later keys are not seen, so nearly half of each
product is not made. A block has all keys that its queries see, so each sum over s is made at once, by plain array
operations. They are meant for CPUs, where the scores of a block stay in the cache.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lfr_jax.model.local_batch import on_local_batch

KEEP = "attention"  # the name of what `remat` keeps of attention for the backward pass

BLOCK = 64  # queries, at least; smaller products run at less of the machine's speed
MAX_BLOCKS = 8  # each is compiled
SCORES_AT_ONCE = 2**22  # 16 MiB of float32, which the cores' common cache holds; fewer would leave cores idle


@jax.custom_vjp
def blocked(
    q_TxHxP: jax.Array, k_TxKxP: jax.Array, v_TxKxP: jax.Array, segments_T: jax.Array | None = None
) -> jax.Array:
    """Causal softmax attention of one sequence -> [T, H, P], scaled by 1/sqrt(P); arguments as in `attention.attend`.

    Scores and softmax are float32. Inside vmap, each device computes its own rows and heads.

    >>> from lfr_jax.distributed.mesh import make_mesh
    >>> one = jnp.ones((2, 1, 4))  # two positions, one head
    >>> with jax.set_mesh(make_mesh(1, 1, 1)):
    ...     y = blocked(one, one, jnp.stack([one[0], 3 * one[1]]))  # equal scores: the mean of the values so far
    >>> y[:, 0, 0].tolist()
    [1.0, 2.0]
    """
    return _forward(q_TxHxP, k_TxKxP, v_TxKxP, segments_T)[0]


def _forward(*arrays):
    present = [x for x in arrays if x is not None]
    return on_local_batch(_of_batch(_forward_one), like=(0, 0))(*present)


def _forward_and_kept(q_TxHxP, k_TxKxP, v_TxKxP, segments_T):
    out_TxHxP, lse_TxHx1 = _forward(q_TxHxP, k_TxKxP, v_TxKxP, segments_T)
    out_TxHxP, lse_TxHx1 = checkpoint_name((out_TxHxP, lse_TxHx1), KEEP)
    return out_TxHxP, (q_TxHxP, k_TxKxP, v_TxKxP, lse_TxHx1, segments_T)


def _backward(kept, dout_TxHxP):
    *arrays, segments_T = kept
    present = [*arrays, dout_TxHxP] + ([] if segments_T is None else [segments_T])
    return *on_local_batch(_of_batch(_backward_one), like=(0, 1, 2))(*present), None


blocked.defvjp(_forward_and_kept, _backward)


def _of_batch(one):
    """`one`, of a sequence, for the rows of a batch: as many at a time as SCORES_AT_ONCE allows."""

    def of_batch(q_BxTxHxP, *arrays):
        B, T, H, _ = q_BxTxHxP.shape
        allowed = max(1, SCORES_AT_ONCE // (H * T * min(T, _block_size(T))))
        at_once = max(rows for rows in range(1, min(B, allowed) + 1) if B % rows == 0)  # lax.map compiles a rest apart
        return jax.lax.map(lambda row: one(*row), (q_BxTxHxP, *arrays), batch_size=at_once)

    return of_batch


@jax.jit  # traced once, for all transformations of it
def _forward_one(q_TxHxP, k_TxKxP, v_TxKxP, segments_T=None):
    """-> output [T, H, P], log-sum-exp of the scores f32[T, H, 1]."""
    q_KxGxTxP, k_KxTxP, v_KxTxP = _grouped(q_TxHxP, k_TxKxP), k_TxKxP.swapaxes(0, 1), v_TxKxP.swapaxes(0, 1)
    outs, lses = [], []
    for block in _blocks(len(q_TxHxP)):
        scores_KxGxTxS = _scores(q_KxGxTxP, k_KxTxP, segments_T, block)
        highest_KxGxTx1 = scores_KxGxTxS.max(axis=-1, keepdims=True)
        weights_KxGxTxS = jnp.exp(scores_KxGxTxS - highest_KxGxTx1)
        sum_KxGxTx1 = weights_KxGxTxS.sum(axis=-1, keepdims=True)
        out_KxGxTxP = _product("KGTS,KSP->KGTP", weights_KxGxTxS.astype(v_TxKxP.dtype), v_KxTxP[:, : block.stop])
        outs.append((out_KxGxTxP / sum_KxGxTx1).astype(v_TxKxP.dtype))
        lses.append(highest_KxGxTx1 + jnp.log(sum_KxGxTx1))
    return _ungrouped(jnp.concatenate(outs, axis=2)), _ungrouped(jnp.concatenate(lses, axis=2))


@jax.jit
def _backward_one(q_TxHxP, k_TxKxP, v_TxKxP, lse_TxHx1, dout_TxHxP, segments_T=None):
    """-> gradients of q, k and v."""
    dtype, scale = q_TxHxP.dtype, q_TxHxP.shape[-1] ** -0.5
    q_KxGxTxP, lse_KxGxTx1, dout_KxGxTxP = (_grouped(x, k_TxKxP) for x in (q_TxHxP, lse_TxHx1, dout_TxHxP))
    k_KxTxP, v_KxTxP = k_TxKxP.swapaxes(0, 1), v_TxKxP.swapaxes(0, 1)
    dqs, dk_KxTxP, dv_KxTxP = [], jnp.zeros(k_KxTxP.shape), jnp.zeros(v_KxTxP.shape)
    for block in _blocks(len(q_TxHxP)):
        seen = slice(block.stop)
        probs_KxGxTxS = jnp.exp(_scores(q_KxGxTxP, k_KxTxP, segments_T, block) - lse_KxGxTx1[:, :, block])
        dprobs_KxGxTxS = _product("KGTP,KSP->KGTS", dout_KxGxTxP[:, :, block], v_KxTxP[:, seen])
        delta_KxGxTx1 = jnp.sum(probs_KxGxTxS * dprobs_KxGxTxS, axis=-1, keepdims=True)
        dscores_KxGxTxS = (probs_KxGxTxS * (dprobs_KxGxTxS - delta_KxGxTx1) * scale).astype(dtype)
        dqs.append(_product("KGTS,KSP->KGTP", dscores_KxGxTxS, k_KxTxP[:, seen]).astype(dtype))
        dk_KxSxP = _product("KGTS,KGTP->KSP", dscores_KxGxTxS, q_KxGxTxP[:, :, block])
        dv_KxSxP = _product("KGTS,KGTP->KSP", probs_KxGxTxS.astype(dtype), dout_KxGxTxP[:, :, block])
        dk_KxTxP, dv_KxTxP = dk_KxTxP.at[:, seen].add(dk_KxSxP), dv_KxTxP.at[:, seen].add(dv_KxSxP)
    dk_TxKxP, dv_TxKxP = (x.swapaxes(0, 1).astype(dtype) for x in (dk_KxTxP, dv_KxTxP))
    return _ungrouped(jnp.concatenate(dqs, axis=2)), dk_TxKxP, dv_TxKxP


def _block_size(T: int) -> int:
    return max(BLOCK, -(-T // MAX_BLOCKS))


def _blocks(T: int) -> list[slice]:
    size = _block_size(T)
    return [slice(start, min(start + size, T)) for start in range(0, T, size)]


def _scores(q_KxGxTxP, k_KxTxP, segments_T, block):
    """float32 scores of a block of queries and the keys up to its end; -inf where a query does not see a key."""
    scores_KxGxTxS = _product("KGTP,KSP->KGTS", q_KxGxTxP[:, :, block], k_KxTxP[:, : block.stop])
    keys_S = jnp.arange(block.stop)
    seen_TxS = keys_S[block, None] >= keys_S[None, :]
    if segments_T is not None:
        seen_TxS &= segments_T[block, None] == segments_T[None, : block.stop]
    return jnp.where(seen_TxS[None, None], scores_KxGxTxS * q_KxGxTxP.shape[-1] ** -0.5, -jnp.inf)


def _product(equation, x, y):
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _grouped(x_TxHxP, k_TxKxP):
    """[T, H, P] -> [K, G, T, P]: the query heads that share a key head become one batch of queries."""
    T, _, last = x_TxHxP.shape
    return x_TxHxP.reshape(T, k_TxKxP.shape[1], -1, last).transpose(1, 2, 0, 3)


def _ungrouped(x_KxGxTxP):
    _, _, T, last = x_KxGxTxP.shape
    return x_KxGxTxP.transpose(2, 0, 1, 3).reshape(T, -1, last)
