"""Causal attention of one sequence: one call, four implementations.

- xla: plain array operations that hold all scores; everywhere, and the only one with a cache.
- blocked: array operations on a block of queries at a time, with their own backward pass; for CPUs.
- cudnn: cuDNN's flash attention, through jax.nn; on GPUs, for 16-bit types.
- splash: JAX's flash attention kernel for TPUs. It skips blocks of keys that the mask hides.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from lfr_jax.model.blocked_attention import KEEP, blocked
from lfr_jax.model.local_batch import on_local_batch

# `remat` keeps the results of these kernels for the backward pass, and what has the name KEEP. Not those of splash as
# they are: it gives the log-sum-exp of each query 128 times, and names it when it has taken one of these.
KERNELS = ("dot_product_attention_fwd", "dot_product_attention_fwd_wrapper")


def attend(
    q_TxHxP: jax.Array,
    k_SxKxP: jax.Array,
    v_SxKxP: jax.Array,
    *,
    segments_T: jax.Array | None = None,
    offset: int | jax.Array = 0,
    impl: str = "auto",
) -> jax.Array:
    """Causal softmax attention -> [T, H, P], scaled by 1/sqrt(P).

    With fewer key heads than query heads (K < H), each key head serves H/K neighbouring query heads (grouped-query
    attention, Ainslie et al. 2023).

    Args:
      segments_T: int32; needs S = T. A query sees only keys of its own segment, so that documents in one block do
        not see each other.
      offset: key position of the first query.
      impl: 'xla', 'blocked', 'cudnn', 'splash', or 'auto': where the shapes allow it, splash on TPUs and blocked on
        CPUs; else xla.

    Raises:
      ValueError: `impl` does not run on this platform, or not on these arrays.

    >>> from lfr_jax.distributed.mesh import make_mesh
    >>> one = jnp.ones((2, 1, 4))  # two positions, one head
    >>> with jax.set_mesh(make_mesh(1, 1, 1)):
    ...     y = attend(one, one, jnp.stack([one[0], 3 * one[1]]))  # equal scores: the mean of the values so far
    >>> y[:, 0, 0].tolist()
    [1.0, 2.0]
    """
    T, S = len(q_TxHxP), len(k_SxKxP)
    from_start = T == S and isinstance(offset, int) and offset == 0
    if impl == "auto":
        fast = {"tpu": "splash" if T % 128 == 0 else "xla", "cpu": "blocked"}.get(platform(), "xla")
        impl = fast if from_start else "xla"
    if impl == "xla":
        return _xla(q_TxHxP, k_SxKxP, v_SxKxP, segments_T, offset)
    if impl not in ("blocked", "cudnn", "splash"):
        raise ValueError(f"model.attention={impl!r}; expected 'auto', 'xla', 'blocked', 'cudnn' or 'splash'")
    if not from_start:
        raise ValueError(
            f"model.attention={impl!r} needs as many queries as keys, from position 0; found {T} queries and {S} keys"
        )
    if impl == "blocked":
        return blocked(q_TxHxP, k_SxKxP, v_SxKxP, segments_T)
    check_kernel(impl, T, q_TxHxP.dtype)
    kernel = _cudnn if impl == "cudnn" else splash
    segments = () if segments_T is None else (segments_T,)
    return on_local_batch(kernel)(q_TxHxP, k_SxKxP, v_SxKxP, *segments)


def platform() -> str:
    """What the devices of the mesh in use are: 'cpu', 'gpu' or 'tpu'. They need not be those of this machine."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def check_kernel(impl: str, length: int, dtype) -> None:
    """Raises ValueError unless `impl` runs on this platform, on sequences of this length and element type."""
    needed = {"cudnn": "gpu", "splash": "tpu"}.get(impl)
    if needed and platform() != needed:
        raise ValueError(f"model.attention={impl!r} needs a {needed}, and jax runs on {platform()}; use 'auto'")
    if impl == "cudnn" and dtype == jnp.float32:
        raise ValueError("model.attention='cudnn' needs model.dtype='bfloat16', found float32")
    if impl == "splash":
        check_splash_length(length)


def check_splash_length(length: int) -> None:
    """Raises ValueError unless the splash kernel takes sequences of this length."""
    if length % 128:
        raise ValueError(f"model.attention='splash' needs a multiple of 128 tokens, found {length}; use 'xla'")


def _xla(q_TxHxP, k_SxKxP, v_SxKxP, segments_T, offset):
    T, H, head_dim = q_TxHxP.shape
    S, K, _ = k_SxKxP.shape
    heads = jax.typeof(k_SxKxP).sharding.spec[1]  # explicit, since with K = 1 JAX could put the split on either axis
    q_TxKxGxP = jnp.reshape(q_TxHxP, (T, K, H // K, head_dim), out_sharding=P(None, heads, None, None))
    scores_KxGxTxS = jnp.einsum("TKGP,SKP->KGTS", q_TxKxGxP, k_SxKxP, preferred_element_type=jnp.float32)
    seen_TxS = offset + jnp.arange(T)[:, None] >= jnp.arange(S)[None, :]
    if segments_T is not None:
        seen_TxS &= segments_T[:, None] == segments_T[None, :]
    scores_KxGxTxS = jnp.where(seen_TxS[None, None], scores_KxGxTxS * head_dim**-0.5, -jnp.inf)
    probs_KxGxTxS = jax.nn.softmax(scores_KxGxTxS).astype(v_SxKxP.dtype)
    out_TxHxP = jnp.einsum("KGTS,SKP->TKGP", probs_KxGxTxS, v_SxKxP).reshape(T, H, head_dim)
    return checkpoint_name(out_TxHxP, KEEP)


def _cudnn(q_BxTxHxP, k_BxTxKxP, v_BxTxKxP, segments_BxT=None):
    mask_Bx1xTxT = None
    if segments_BxT is not None:
        mask_Bx1xTxT = (segments_BxT[:, :, None] == segments_BxT[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        q_BxTxHxP, k_BxTxKxP, v_BxTxKxP, mask=mask_Bx1xTxT, is_causal=True, implementation="cudnn"
    )


def splash(q_BxTxHxP, k_BxTxKxP, v_BxTxKxP, segments_BxT=None, *, interpret: bool = False):
    """JAX's splash attention kernel on one device. `interpret=True` runs it without a TPU, slowly.

    Raises:
      ValueError: T is not a multiple of 128.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels  # slow to import

    _, T, H, head_dim = q_BxTxHxP.shape
    check_splash_length(T)
    mask = kernels.MultiHeadMask([kernels.CausalMask((T, T))] * H)
    kernel = kernels.make_splash_mha(
        mask, head_shards=1, q_seq_shards=1, residual_checkpoint_name=KEEP, interpret=interpret
    )

    def one(q_TxHxP, k_TxKxP, v_TxKxP, segments_T=None):
        heads_first = (x.swapaxes(0, 1) for x in (q_TxHxP * head_dim**-0.5, k_TxKxP, v_TxKxP))
        segments = None if segments_T is None else kernels.SegmentIds(segments_T, segments_T)
        return kernel(*heads_first, segment_ids=segments).swapaxes(0, 1)

    return jax.vmap(one)(q_BxTxHxP, k_BxTxKxP, v_BxTxKxP, *(() if segments_BxT is None else (segments_BxT,)))
