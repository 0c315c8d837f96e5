"""One layer of the decoder, and its parts: linear maps, norms, rotary positions, attention, MLP.

Of each weight, 'fsdp' splits the axis that faces the residual stream (D), and 'tensor' the heads or the MLP width.
So a column-split product feeds a row-split one, and each pair needs one sum over 'tensor' (Shoeybi et al. 2019).
"""

import math
from collections.abc import Set
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from lfr_jax.config import ModelConfig
from lfr_jax.model.attention import attend
from lfr_jax.model.dense import dense

STD = 0.02  # of the initial weights
BATCH_AXES = frozenset({"data", "fsdp"})  # of the mesh, that split the rows of a batch

Spec = tuple[str | None, ...]  # for each axis of a weight, the mesh axis that splits it


class Cache(NamedTuple):
    """Keys and values of earlier positions, for decoding. S: the longest sequence."""

    k: jax.Array  # [Y, S, K, P] of all layers; a single layer gets its [S, K, P]
    v: jax.Array


def gathered(weight: jax.Array, dtype: str, *spec: str | None, reduced: Set[str] = BATCH_AXES) -> jax.Array:
    """A weight as the computation uses it: cast to `dtype`, then resharded to `spec`, which has no 'fsdp'.

    The cast comes first, since bfloat16 is half the bytes to send. The result is `reduced` over the axes that split the
    batch: its gradient stays on each device the sum over that device's rows, and these are added up on the way back
    through here. JAX then sends each gradient once, whatever loops use the weight, and of those that 'fsdp' splits only
    the part that a device keeps: a reduce-scatter (ZeRO-3). So each use must be one with an array that has the batch's
    rows. For a weight that is used without them, `reduced` is empty.
    """
    weight = weight.astype(dtype)
    stored = jax.typeof(weight).sharding.spec
    # First over 'data' alone: so, on the way back, 'fsdp' scatters, and 'data' adds up what is left. In one step,
    # XLA:TPU would add up whole gradients over both, where the two span three axes of the network.
    weight = jax.reshard(weight, P(*stored.partitions, reduced=stored.reduced | (reduced & {"data"})))
    return jax.reshard(weight, P(*spec, reduced=reduced))


class Linear(nnx.Module):
    """y = einsum(equation, x, kernel) + bias. Letters of the equation name axes; `spec` shards the kernel.

    Two worked examples. Queries: "TD,DHP->THP" with the spec ("fsdp", "tensor", None),

        x       [T, D]     one sequence
        kernel  [D, H, P]  stored with D over 'fsdp' and H over 'tensor'; for the product, D is gathered
        y       [T, H, P]  y[t,h,p] = Σ_d x[t,d] · kernel[d,h,p]: H is over 'tensor', and nothing is sent
        bias    [H, P]     the axes of y after T, sharded as y is

    and the way back, "THP,HPD->TD" with the spec ("tensor", None, "fsdp"): the sum runs over H, which 'tensor' splits.
    So each device has a part of the sum, and the parts are added over 'tensor'.

    >>> from lfr_jax.distributed.mesh import make_mesh
    >>> with jax.set_mesh(make_mesh(1, 1, 1)):
    ...     query = Linear(jax.random.key(0), "TD,DHP->THP", (8, 2, 4), spec=("fsdp", "tensor", None),
    ...                    std=STD, bias=True, dtype="float32")
    ...     query(jnp.ones((3, 8))).shape, query.bias.shape
    ((3, 2, 4), (2, 4))
    """

    def __init__(
        self,
        key: jax.Array,
        equation: str,
        shape: tuple[int, ...],  # of the kernel
        *,
        spec: Spec,
        std: float,
        bias: bool,
        dtype: str,
    ):
        kernel_axes, out_axes = equation.split(",")[1].split("->")
        self.dtype = dtype
        self.kernel_spec = tuple(None if axis == "fsdp" else axis for axis in spec)  # as `__call__` uses it
        # The output axes after T come from the kernel, with its sizes and its sharding.
        self.out_spec = tuple(self.kernel_spec[kernel_axes.index(axis)] for axis in out_axes[1:])
        self.out_shape = tuple(shape[kernel_axes.index(axis)] for axis in out_axes[1:])
        self.kernel = nnx.Param(std * jax.random.normal(key, shape), out_sharding=spec)
        if bias:
            self.bias = nnx.Param(jnp.zeros(self.out_shape), out_sharding=self.out_spec)
        else:
            self.bias = None

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_DxF = gathered(as_matrix(self.kernel[...]), self.dtype, self.kernel_spec[0], self.out_spec[0])
        x_TxD = jnp.reshape(x, (len(x), -1), out_sharding=P(None, self.kernel_spec[0]))
        y_TxF = dense(x_TxD, kernel_DxF, self.out_spec[0])
        y = jnp.reshape(y_TxF, (len(x), *self.out_shape), out_sharding=P(None, *self.out_spec))
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)[None]


def as_matrix(kernel: jax.Array) -> jax.Array:
    """A kernel, or a stack of them, with the axes H and P as one: where an axis that nothing splits follows 'tensor'.

    XLA:TPU scatters the gradient of a matrix. With three axes, it may choose a layout in which it sums it whole.
    """
    spec = jax.typeof(kernel).sharding.spec.partitions
    heads = spec.index("tensor")
    if spec[heads + 1 : heads + 2] != (None,):
        return kernel
    shape = (*kernel.shape[:heads], -1, *kernel.shape[heads + 2 :])
    return jnp.reshape(kernel, shape, out_sharding=P(*spec[: heads + 1], *spec[heads + 2 :]))


class Norm(nnx.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019) over D, computed in float32."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.scale = nnx.Param(jnp.ones(config.dim), out_sharding=(None,))
        has_bias = config.norm == "layernorm" and config.bias
        self.bias = nnx.Param(jnp.zeros(config.dim), out_sharding=(None,)) if has_bias else None

    def __call__(self, x_TxD: jax.Array) -> jax.Array:
        y = x_TxD.astype(jnp.float32)  # squares of bfloat16 lose too many digits
        if self.config.norm == "layernorm":
            y = y - y.mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + self.config.norm_eps)
        y = y * self.scale[...][None]
        return (y if self.bias is None else y + self.bias[...][None]).astype(x_TxD.dtype)


def rotate(x_TxHxP: jax.Array, positions_T: jax.Array, theta: float) -> jax.Array:
    """Rotary positions (Su et al. 2021). Dimension i is rotated with dimension i + P/2, as in transformers."""
    half = x_TxHxP.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_Tx1xI = (positions_T.astype(jnp.float32)[:, None] * frequencies[None])[:, None]
    cos, sin = jnp.cos(angles_Tx1xI), jnp.sin(angles_Tx1xI)
    first, second = jnp.split(x_TxHxP.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_TxHxP.dtype)


class Attention(nnx.Module):
    """Causal self-attention, with a cache (decoding) or without (training)."""

    def __init__(self, config: ModelConfig, key: jax.Array):
        self.config = config
        D, H, K, head_dim = config.dim, config.num_heads, config.num_kv_heads, config.dim // config.num_heads
        keys = jax.random.split(key, 4)
        into = dict(spec=("fsdp", "tensor", None), std=STD, bias=config.bias, dtype=config.dtype)
        back = into | dict(spec=("tensor", None, "fsdp"), std=_residual_std(config))
        self.query = Linear(keys[0], "TD,DHP->THP", (D, H, head_dim), **into)
        self.key = Linear(keys[1], "TD,DKP->TKP", (D, K, head_dim), **into)
        self.value = Linear(keys[2], "TD,DKP->TKP", (D, K, head_dim), **into)
        self.out = Linear(keys[3], "THP,HPD->TD", (H, head_dim, D), **back)

    def __call__(
        self,
        x_TxD: jax.Array,
        positions_T: jax.Array,
        segments_T: jax.Array | None,
        cache: Cache | None,
        offset: int | jax.Array,  # cached positions before x
    ) -> tuple[jax.Array, Cache | None]:
        q, k, v = self.query(x_TxD), self.key(x_TxD), self.value(x_TxD)
        if self.config.positions == "rope":
            q = rotate(q, positions_T, self.config.rope_theta)
            k = rotate(k, positions_T, self.config.rope_theta)
        if cache is None:
            attended = attend(q, k, v, segments_T=segments_T, impl=self.config.attention)
        else:
            k = jax.lax.dynamic_update_slice_in_dim(cache.k, k, offset, axis=0)
            v = jax.lax.dynamic_update_slice_in_dim(cache.v, v, offset, axis=0)
            attended, cache = attend(q, k, v, offset=offset, impl="xla"), Cache(k, v)
        return self.out(attended), cache


class MLP(nnx.Module):
    """GELU (tanh approximation, as in GPT-2) or SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, key: jax.Array):
        D, F = config.dim, config.mlp_dim
        keys = jax.random.split(key, 3)
        into = dict(spec=("fsdp", "tensor"), std=STD, bias=config.bias, dtype=config.dtype)
        back = into | dict(spec=("tensor", "fsdp"), std=_residual_std(config))
        self.up = Linear(keys[0], "TD,DF->TF", (D, F), **into)
        self.gate = Linear(keys[1], "TD,DF->TF", (D, F), **into) if config.mlp == "swiglu" else None
        self.down = Linear(keys[2], "TF,FD->TD", (F, D), **back)

    def __call__(self, x_TxD: jax.Array) -> jax.Array:
        if self.gate is None:
            return self.down(jax.nn.gelu(self.up(x_TxD), approximate=True))
        return self.down(jax.nn.silu(self.gate(x_TxD)) * self.up(x_TxD))


class Layer(nnx.Module):
    """Attention and MLP. Each has a norm before it, and its result is added to the residual stream."""

    def __init__(self, config: ModelConfig, key: jax.Array):
        attention_key, mlp_key = jax.random.split(key)
        self.attention_norm, self.attention = Norm(config), Attention(config, attention_key)
        self.mlp_norm, self.mlp = Norm(config), MLP(config, mlp_key)

    def __call__(
        self,
        x_TxD: jax.Array,
        positions_T: jax.Array,
        segments_T: jax.Array | None,
        cache: Cache | None,
        offset: int | jax.Array,
    ) -> tuple[jax.Array, Cache | None]:
        attended, cache = self.attention(self.attention_norm(x_TxD), positions_T, segments_T, cache, offset)
        x_TxD = x_TxD + attended
        return x_TxD + self.mlp(self.mlp_norm(x_TxD)), cache


def _residual_std(config: ModelConfig) -> float:
    """Of the weights that write to the residual stream: each layer adds to it twice, and the sum must not grow."""
    return STD / math.sqrt(2 * config.num_layers)  # GPT-2, Radford et al. 2019, section 2.3
