"""A layer of the decoder, and what it is made of: products, norms, rotary positions, attention, MLP.

'fsdp' splits the side of a weight that faces the residual stream (D), 'tensor' its heads or MLP width, so
that a column-split product feeds a row-split one and one sum ends both (Shoeybi et al. 2019).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from lfr_jax.config import ModelConfig
from lfr_jax.model.attention import attend

STD = 0.02  # of the initial weights


class Cache(NamedTuple):
    """Keys and values of the positions before those being computed; S is the longest sequence."""

    k: jax.Array  # [Y, S, K, P]; one layer's is [S, K, P]
    v: jax.Array


def gathered(param, dtype, *spec, **reduced):
    """A param as the computation uses it: cast first, half the bytes to move, then whole along 'fsdp'."""
    return jax.reshard(param[...].astype(dtype), P(*spec, **reduced))


class Linear(nnx.Module):
    """einsum(equation, x, kernel) + bias, e.g. 'TD,DHP->THP'; `spec` shards the kernel."""

    def __init__(self, key, equation, shape, *, spec, std, bias, dtype):
        kernel_axes, out_axes = equation.split(",")[1].split("->")
        self.equation, self.dtype = equation, dtype
        self.kernel_spec = tuple(None if axis == "fsdp" else axis for axis in spec)
        self.bias_spec = tuple(self.kernel_spec[kernel_axes.index(axis)] for axis in out_axes[1:])
        self.kernel = nnx.Param(std * jax.random.normal(key, shape), out_sharding=spec)
        if bias:
            bias_shape = tuple(shape[kernel_axes.index(axis)] for axis in out_axes[1:])
            self.bias = nnx.Param(jnp.zeros(bias_shape), out_sharding=self.bias_spec)
        else:
            self.bias = None

    def __call__(self, x):
        kernel = gathered(self.kernel, self.dtype, *self.kernel_spec)
        y = jnp.einsum(self.equation, x, kernel, out_sharding=P(None, *self.bias_spec))
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)[None]


class Norm(nnx.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019), computed in float32."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.scale = nnx.Param(jnp.ones(config.dim), out_sharding=(None,))
        has_bias = config.norm == "layernorm" and config.bias
        self.bias = nnx.Param(jnp.zeros(config.dim), out_sharding=(None,)) if has_bias else None

    def __call__(self, x_TxD):
        y = x_TxD.astype(jnp.float32)
        if self.config.norm == "layernorm":
            y = y - y.mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + self.config.norm_eps)
        y = y * self.scale[...][None]
        return (y if self.bias is None else y + self.bias[...][None]).astype(x_TxD.dtype)


def rotate(x_TxHxP, positions_T, theta):
    """Rotary positions (Su et al. 2021): dimension i turns with dimension i + P/2, as in transformers."""
    half = x_TxHxP.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_Tx1xI = (positions_T.astype(jnp.float32)[:, None] * frequencies[None])[:, None]
    cos, sin = jnp.cos(angles_Tx1xI), jnp.sin(angles_Tx1xI)
    first, second = jnp.split(x_TxHxP.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_TxHxP.dtype)


class Attention(nnx.Module):
    """Causal self-attention, with a cache or without."""

    def __init__(self, config: ModelConfig, key):
        self.config = config
        D, H, K, head_dim = config.dim, config.num_heads, config.num_kv_heads, config.dim // config.num_heads
        keys = jax.random.split(key, 4)
        into = dict(spec=("fsdp", "tensor", None), std=STD, bias=config.bias, dtype=config.dtype)
        back = into | dict(spec=("tensor", None, "fsdp"), std=_residual_std(config))
        self.query = Linear(keys[0], "TD,DHP->THP", (D, H, head_dim), **into)
        self.key = Linear(keys[1], "TD,DKP->TKP", (D, K, head_dim), **into)
        self.value = Linear(keys[2], "TD,DKP->TKP", (D, K, head_dim), **into)
        self.out = Linear(keys[3], "THP,HPD->TD", (H, head_dim, D), **back)

    def __call__(self, x_TxD, positions_T, segments_T, cache, offset):
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
    """GELU (tanh form, as GPT-2) or SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, key):
        D, F = config.dim, config.mlp_dim
        keys = jax.random.split(key, 3)
        into = dict(spec=("fsdp", "tensor"), std=STD, bias=config.bias, dtype=config.dtype)
        back = into | dict(spec=("tensor", "fsdp"), std=_residual_std(config))
        self.up = Linear(keys[0], "TD,DF->TF", (D, F), **into)
        self.gate = Linear(keys[1], "TD,DF->TF", (D, F), **into) if config.mlp == "swiglu" else None
        self.down = Linear(keys[2], "TF,FD->TD", (F, D), **back)

    def __call__(self, x_TxD):
        if self.gate is None:
            return self.down(jax.nn.gelu(self.up(x_TxD), approximate=True))
        return self.down(jax.nn.silu(self.gate(x_TxD)) * self.up(x_TxD))


class Layer(nnx.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, key):
        attention_key, mlp_key = jax.random.split(key)
        self.attention_norm, self.attention = Norm(config), Attention(config, attention_key)
        self.mlp_norm, self.mlp = Norm(config), MLP(config, mlp_key)

    def __call__(self, x_TxD, positions_T, segments_T, cache, offset):
        attended, cache = self.attention(self.attention_norm(x_TxD), positions_T, segments_T, cache, offset)
        x_TxD = x_TxD + attended
        return x_TxD + self.mlp(self.mlp_norm(x_TxD)), cache


def _residual_std(config):
    """What returns to the residual stream starts smaller, so that it does not grow with depth (GPT-2)."""
    return STD / math.sqrt(2 * config.num_layers)
