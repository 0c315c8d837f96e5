"""Linear cross-entropy: from hidden states and the output matrix to losses and gradients, without whole logits.

Let a row (a token) have the hidden state h [D], the target y and the weight w, and let W [D, V] be the head. Then

    z = h W            logits
    p = softmax(z)
    ℓ = log Σ_v exp(z_v) − z_y                  negative log-likelihood, nats
    L = Σ w ℓ                                   over all rows

    ∂L/∂z = w (p − onehot(y))                   = g, [V]: since ∂ log Σ exp(z) / ∂z = p
    ∂L/∂h = g Wᵀ                                [D]
    ∂L/∂W = Σ hᵀ g                              [D, V], over all rows

Whole logits are V numbers a row: at V = 50304 as many bytes as GPT-2 keeps of all its layers. So the rows come in
chunks of C, and only the logits of one chunk exist. A plain loop over chunks has to make them twice, once forward and
once backward: four products of C·D·V multiplications (z, z again, g Wᵀ, hᵀ g). But all of g is known as soon as z is,
if w is. Then one loop makes ℓ, g, ∂L/∂h and ∂L/∂W of a chunk while its logits exist: three products. The backward pass
multiplies what is there by the cotangent of L, which is one number.

So the weights must be given, and not be applied to the losses afterwards: ∂L/∂W is a sum over rows, and nobody could
weigh its terms later. Where weights depend on the losses, call `token_nll` first; that is the fourth product again.

The derivative of the terms along a direction V [D, V] of the head, with another head W + ε V for each block, is there
for a product more, as g is:

    ∂L/∂ε = Σ g · h V                           over the rows of the block

Liger Kernel makes gradients in the forward pass in the same way (Hsu et al. 2024, arXiv 2410.10989, section 3.2), with
one cotangent for all rows. Cut Cross-Entropy (Wijmans et al. 2024, arXiv 2411.09009, section 4) keeps logits out of
memory altogether, in a kernel of its own, and makes them again in the backward pass.

Meshes: each device takes chunks of its own rows. 'tensor' splits V: each device has its part of z, and max, Σ exp, z_y
and g Wᵀ are added up over 'tensor'. For what is added up over 'data' and 'fsdp', see `layers.gathered`.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from lfr_jax.distributed.mesh import BATCH

ROWS = BATCH[0]  # the mesh axes that split the rows of a chunk


def linear_cross_entropy(
    hidden_BxTxD: jax.Array,
    head_DxV: jax.Array,
    targets_BxT: jax.Array,
    weights_BxT: jax.Array,
    chunk: int,
    along: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The weighted sum of the tokens' losses, to be differentiated; and these losses, as a measurement.

    Call it under `jax.set_mesh`. Gradients are made in the forward pass, if it is differentiated, else not at all.

    Args:
      hidden_BxTxD: float32 or bfloat16; B split over 'data' and 'fsdp'.
      head_DxV: the same dtype; V split over 'tensor'. `Decoder.output_head` gives it.
      targets_BxT: int; −1 where there is no target.
      weights_BxT: float; what a target's loss counts. Not read where there is no target.
      chunk: rows (tokens) whose logits exist at once on a device, at most.
      along: a direction of the head [D, V], as `head_DxV` is, and how far each block's head is moved along it: zeros
        f32[B], for the sake of their gradient.

    Returns:
      The sum over targets of weight · loss, f32[]; the losses f32[B, T] in nats, 0 without a target. The gradient of
      the sum is that with respect to `hidden`, `head`, `weights` and the zeros of `along`. The losses have none: it
      would be lost unseen.

    Examples:
      >>> from lfr_jax.distributed.mesh import make_mesh
      >>> with jax.set_mesh(make_mesh(1, 1, 1)):  # all logits are 0, and so all 4 tokens are equally likely
      ...     total, nll = linear_cross_entropy(
      ...         jnp.ones((1, 3, 2)), jnp.zeros((2, 4)), jnp.array([[3, 0, -1]]), jnp.full((1, 3), 0.5), chunk=2)
      >>> print(total, nll)  # log 4 is 1.386
      1.3862944 [[1.3862944 1.3862944 0.       ]]
    """
    weights_BxT = jnp.where(targets_BxT >= 0, weights_BxT, 0.0)
    # Gradients have the types of the arguments.
    hidden_BxTxD, weights_BxT = jax.reshard((hidden_BxTxD, weights_BxT), BATCH)
    if along is not None:
        along_DxV, shift_B = along
        along = along_DxV, jnp.broadcast_to(shift_B[:, None], targets_BxT.shape)
    total, nll_BxT = _linear_cross_entropy(hidden_BxTxD, head_DxV, targets_BxT, weights_BxT, along, chunk)
    return total, jax.lax.stop_gradient(nll_BxT)


def token_nll(hidden_BxTxD: jax.Array, head_DxV: jax.Array, targets_BxT: jax.Array, chunk: int) -> jax.Array:
    """The tokens' losses alone, f32[B, T], for scoring. Arguments and losses are those of `linear_cross_entropy`."""

    def nll_of_chunk(_, piece):
        hidden_CxD, targets_C = piece
        nll_C, _, _ = _softmax(hidden_CxD, head_DxV, targets_C)
        return None, nll_C

    pieces = _in_chunks(hidden_BxTxD, chunk), _in_chunks(targets_BxT, chunk)
    _, nll_NxC = jax.lax.scan(nll_of_chunk, None, pieces)
    return _from_chunks(nll_NxC, targets_BxT.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _linear_cross_entropy(hidden_BxTxD, head_DxV, targets_BxT, weights_BxT, along, chunk):
    nll_BxT = token_nll(hidden_BxTxD, head_DxV, targets_BxT, chunk)
    return jnp.sum(weights_BxT * nll_BxT), nll_BxT


def _forward(hidden_BxTxD, head_DxV, targets_BxT, weights_BxT, along, chunk):
    """What `_linear_cross_entropy` returns, and the gradients of its sum."""
    head_spec = jax.typeof(head_DxV).sharding.spec
    # Where the head is `reduced`, each device has its own part of the sum.
    dhead_spec = P(*head_spec.partitions, unreduced=head_spec.reduced)

    def gradients_of_chunk(dhead_DxV, piece):
        hidden_CxD, targets_C, weights_C = piece
        nll_C, softmax_CxV, is_target_CxV = _softmax(hidden_CxD, head_DxV, targets_C)
        dlogits_CxV = weights_C[:, None] * (softmax_CxV - is_target_CxV)
        slope_C = None if along is None else jnp.sum(dlogits_CxV * _logits(hidden_CxD, along[0]), axis=-1)
        dlogits_CxV = dlogits_CxV.astype(hidden_CxD.dtype)
        dhidden_CxD = jnp.einsum("CV,DV->CD", dlogits_CxV, head_DxV, out_sharding=P(ROWS, None))
        # float32: of many chunks, bfloat16 would lose the later ones.
        dhead_DxV += jnp.einsum(
            "CD,CV->DV", hidden_CxD, dlogits_CxV, preferred_element_type=jnp.float32, out_sharding=dhead_spec
        )
        return dhead_DxV, (nll_C, dhidden_CxD, slope_C)

    pieces = _in_chunks(hidden_BxTxD, chunk), _in_chunks(targets_BxT, chunk), _in_chunks(weights_BxT, chunk)
    zeros_DxV = jnp.zeros(head_DxV.shape, jnp.float32, out_sharding=dhead_spec)
    dhead_DxV, (nll_NxC, dhidden_NxCxD, slope_NxC) = jax.lax.scan(gradients_of_chunk, zeros_DxV, pieces)
    nll_BxT = _from_chunks(nll_NxC, targets_BxT.shape)
    dhidden_BxTxD = _from_chunks(dhidden_NxCxD, hidden_BxTxD.shape)
    slope_BxT = None if along is None else _from_chunks(slope_NxC, targets_BxT.shape)
    gradients = dhidden_BxTxD, dhead_DxV.astype(head_DxV.dtype), nll_BxT, slope_BxT
    return (jnp.sum(weights_BxT * nll_BxT), nll_BxT), gradients


def _backward(chunk, gradients, cotangents):
    """The gradients times the cotangent of the sum."""
    dhidden_BxTxD, dhead_DxV, nll_BxT, slope_BxT = gradients
    factor, _ = cotangents
    # `dhead` is added up over devices later, so each of them needs the factor.
    of_head = jax.reshard(factor, P(reduced=jax.typeof(dhead_DxV).sharding.spec.unreduced))
    return (
        factor.astype(dhidden_BxTxD.dtype) * dhidden_BxTxD,
        of_head.astype(dhead_DxV.dtype) * dhead_DxV,
        None,
        factor * nll_BxT,
        None if slope_BxT is None else (None, factor * slope_BxT),
    )


_linear_cross_entropy.defvjp(_forward, _backward)


def _softmax(hidden_CxD, head_DxV, targets_C):
    """(losses f32[C], softmax f32[C, V], whether it is the target bool[C, V]) of a chunk of rows."""
    logits_CxV = _logits(hidden_CxD, head_DxV)
    logits_CxV -= jnp.max(logits_CxV, axis=-1, keepdims=True)
    exp_CxV = jnp.exp(logits_CxV)
    sum_C = jnp.sum(exp_CxV, axis=-1)
    # A masked sum picks the target's logit also where the vocabulary is sharded.
    is_target_CxV = targets_C[:, None] == jnp.arange(head_DxV.shape[1])[None]
    nll_C = jnp.log(sum_C) - jnp.sum(jnp.where(is_target_CxV, logits_CxV, 0.0), axis=-1)
    return jnp.where(targets_C >= 0, nll_C, 0.0), exp_CxV * (1 / sum_C)[:, None], is_target_CxV


def _logits(hidden_CxD, head_DxV):
    return jnp.einsum(
        "CD,DV->CV", hidden_CxD, head_DxV, preferred_element_type=jnp.float32, out_sharding=P(ROWS, "tensor")
    )


def _in_chunks(x_BxT: jax.Array, chunk: int) -> jax.Array:
    """[B, T, ...] as N chunks of C rows, [N, C, ...]; a chunk has at most `chunk` rows of each device.

    Each device cuts its own rows of the batch, and nothing is sent. Zeros fill up the last chunk: rows of weight 0.
    """
    batch, length, *rest = x_BxT.shape
    shards, unsplit = _num_shards(), (None,) * len(rest)
    rows = batch * length // shards
    num_chunks = -(-rows // chunk)
    size = -(-rows // num_chunks)
    x = jnp.reshape(x_BxT, (shards, rows, *rest), out_sharding=P(ROWS, None, *unsplit))
    x = jnp.pad(x, [(0, 0), (0, num_chunks * size - rows)] + [(0, 0)] * len(rest))
    x = jnp.reshape(x, (shards, num_chunks, size, *rest), out_sharding=P(ROWS, None, None, *unsplit))
    x = jnp.moveaxis(x, 1, 0)
    return jnp.reshape(x, (num_chunks, shards * size, *rest), out_sharding=P(None, ROWS, *unsplit))


def _from_chunks(x_NxC: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `_in_chunks`: [N, C, ...] -> `shape`, [B, T, ...]."""
    shards = _num_shards()
    (batch, length, *rest), num_chunks = shape, len(x_NxC)
    rows, unsplit = batch * length // shards, (None,) * len(rest)
    x = jnp.reshape(x_NxC, (num_chunks, shards, -1, *rest), out_sharding=P(None, ROWS, None, *unsplit))
    x = jnp.moveaxis(x, 1, 0)
    x = jnp.reshape(x, (shards, -1, *rest), out_sharding=P(ROWS, None, *unsplit))[:, :rows]
    return jnp.reshape(x, shape, out_sharding=P(ROWS, None, *unsplit))


def _num_shards() -> int:
    """Into how many parts the mesh splits the rows of a batch."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in ROWS)
