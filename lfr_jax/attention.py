"""Causal attention of one sequence: one call, several implementations."""

import jax
import jax.numpy as jnp


def attend(q_TxHxP, k_SxKxP, v_SxKxP, *, segments_T=None, offset=0, impl="auto"):
    """Causal softmax attention -> [T, H, P], scaled by 1/sqrt(P); query t stands at key position `offset` + t.

    With fewer key heads than query heads (K < H), each serves H/K neighbouring query heads
    (grouped-query attention, Ainslie et al. 2023). With `segments_T` (int32, T = S), a query sees
    only keys of its own segment: documents packed into one block stay apart.

    Raises:
      ValueError: `impl` is not available here.
    """
    return _xla(q_TxHxP, k_SxKxP, v_SxKxP, segments_T, offset)


def _xla(q_TxHxP, k_SxKxP, v_SxKxP, segments_T, offset):
    T, H, head_dim = q_TxHxP.shape
    S, K, _ = k_SxKxP.shape
    q_TxKxGxP = q_TxHxP.reshape(T, K, H // K, head_dim)
    scores_KxGxTxS = jnp.einsum("TKGP,SKP->KGTS", q_TxKxGxP, k_SxKxP, preferred_element_type=jnp.float32)
    seen_TxS = offset + jnp.arange(T)[:, None] >= jnp.arange(S)[None, :]
    if segments_T is not None:
        seen_TxS &= segments_T[:, None] == segments_T[None, :]
    scores_KxGxTxS = jnp.where(seen_TxS[None, None], scores_KxGxTxS * head_dim**-0.5, -jnp.inf)
    probs_KxGxTxS = jax.nn.softmax(scores_KxGxTxS).astype(v_SxKxP.dtype)
    return jnp.einsum("KGTS,SKP->TKGP", probs_KxGxTxS, v_SxKxP).reshape(T, H, head_dim)
