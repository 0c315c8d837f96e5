"""One decoder that expresses GPT-2 and Llama, written for one sequence and vmapped by its callers.

NNX modules serve as definitions only; what is trained is a nested dict of arrays:

    graphdef, params = init(config, mesh, jax.random.key(0))
    with jax.set_mesh(mesh):
        decoder = merge(config, params)  # also inside jit, with params as the traced argument
        logits_BxTxV = jax.vmap(lambda tokens_T: decoder.logits(decoder.hidden(tokens_T)))(tokens_BxT)

Params are float32 and split over 'fsdp' and 'tensor'. Each layer casts its weights to the dtype of the
computation and gathers them over 'fsdp' when it runs, forward and backward (ZeRO-3, Rajbhandari et al.
2020); 'tensor' splits heads, MLP width and vocabulary (Shoeybi et al. 2019, "Megatron-LM").
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from lfr_jax.attention import attend
from lfr_jax.config import ModelConfig
from lfr_jax.sharding import make_mesh

# What the forward pass keeps for the backward pass: products with weights, and the output of attention.
# Attention scores, elementwise results and gathered weights are computed again. Half the memory, no slower.
KEPT = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names("attention"),
)


class Cache(NamedTuple):
    """Keys and values of the positions before those being computed; S is the longest sequence."""

    k_YxSxKxP: jax.Array
    v_YxSxKxP: jax.Array


def _gathered(param, dtype, *spec, **reduced):
    return jax.reshard(param[...].astype(dtype), P(*spec, **reduced))  # cast first: half the bytes to move


class Linear(nnx.Module):
    """einsum(equation, x, kernel) + bias, e.g. 'TD,DHP->THP'. `spec` shards the kernel, and D lies on 'fsdp'."""

    def __init__(self, key, equation, shape, spec, *, std, bias, dtype):
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
        kernel = _gathered(self.kernel, self.dtype, *self.kernel_spec)
        y = jnp.einsum(self.equation, x, kernel, out_sharding=P(None, *self.bias_spec))
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)[None]


class Norm(nnx.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019), computed in float32."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.scale = nnx.Param(jnp.ones(config.dim), out_sharding=(None,))
        centred = config.norm == "layernorm"
        self.bias = nnx.Param(jnp.zeros(config.dim), out_sharding=(None,)) if centred and config.bias else None

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
    def __init__(self, config: ModelConfig, key):
        self.config = config
        D, H, K, P_ = config.dim, config.num_heads, config.num_kv_heads, config.dim // config.num_heads
        keys = jax.random.split(key, 4)
        options = dict(bias=config.bias, dtype=config.dtype)
        heads = ("fsdp", "tensor", None)
        self.query = Linear(keys[0], "TD,DHP->THP", (D, H, P_), heads, std=0.02, **options)
        self.key = Linear(keys[1], "TD,DKP->TKP", (D, K, P_), heads, std=0.02, **options)
        self.value = Linear(keys[2], "TD,DKP->TKP", (D, K, P_), heads, std=0.02, **options)
        self.out = Linear(
            keys[3], "THP,HPD->TD", (H, P_, D), ("tensor", None, "fsdp"), std=_residual_std(config), **options
        )

    def __call__(self, x_TxD, positions_T, segments_T, cache, offset):
        q, k, v = self.query(x_TxD), self.key(x_TxD), self.value(x_TxD)
        if self.config.positions == "rope":
            q = rotate(q, positions_T, self.config.rope_theta)
            k = rotate(k, positions_T, self.config.rope_theta)
        if cache is None:
            attended = attend(q, k, v, segments_T=segments_T, impl=self.config.attention)
        else:
            cache = Cache(*(jax.lax.dynamic_update_slice_in_dim(*pair, offset, 0) for pair in zip(cache, (k, v))))
            attended = attend(q, *cache, offset=offset, impl="xla")
        return self.out(checkpoint_name(attended, "attention")), cache


class MLP(nnx.Module):
    """GELU (tanh form, as GPT-2) or SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, key):
        D, F = config.dim, config.mlp_dim
        keys = jax.random.split(key, 3)
        options = dict(bias=config.bias, dtype=config.dtype)
        self.up = Linear(keys[0], "TD,DF->TF", (D, F), ("fsdp", "tensor"), std=0.02, **options)
        gated = config.mlp == "swiglu"
        self.gate = Linear(keys[1], "TD,DF->TF", (D, F), ("fsdp", "tensor"), std=0.02, **options) if gated else None
        self.down = Linear(keys[2], "TF,FD->TD", (F, D), ("tensor", "fsdp"), std=_residual_std(config), **options)

    def __call__(self, x_TxD):
        if self.gate is None:
            return self.down(jax.nn.gelu(self.up(x_TxD), approximate=True))
        return self.down(jax.nn.silu(self.gate(x_TxD)) * self.up(x_TxD))


class Layer(nnx.Module):
    def __init__(self, config: ModelConfig, key):
        attention_key, mlp_key = jax.random.split(key)
        self.attention_norm, self.attention = Norm(config), Attention(config, attention_key)
        self.mlp_norm, self.mlp = Norm(config), MLP(config, mlp_key)

    def __call__(self, x_TxD, positions_T, segments_T, cache, offset):
        attended, cache = self.attention(self.attention_norm(x_TxD), positions_T, segments_T, cache, offset)
        x_TxD = x_TxD + attended
        return x_TxD + self.mlp(self.mlp_norm(x_TxD)), cache


class Decoder(nnx.Module):
    """Token embedding, layers, final norm, output head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        V, D = config.vocab_size, config.dim
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (V, D)), out_sharding=("fsdp", "tensor"))
        if config.positions == "learned":
            table = 0.02 * jax.random.normal(rngs.params(), (config.max_len, D))
            self.positions = nnx.Param(table, out_sharding=(None, "fsdp"))
        else:
            self.positions = None
        self.layers = nnx.vmap(lambda key: Layer(config, key), transform_metadata={nnx.PARTITION_NAME: None})(
            jax.random.split(rngs.params(), config.num_layers)
        )
        self.norm = Norm(config)
        if config.tied_head:
            self.head = None
        else:
            head = 0.02 * jax.random.normal(rngs.params(), (D, V))
            self.head = nnx.Param(head, out_sharding=("fsdp", "tensor"))

    def hidden(self, tokens_T, segments_T=None, positions_T=None):
        """The residual stream after the final norm, [T, D] in config.dtype.

        A token of -1 is padding. It stands after a row's last token, where causal attention hides it;
        with `segments_T` it may stand anywhere, and is a segment of its own.
        """
        return self.run(tokens_T, segments_T, positions_T)[0]

    def run(self, tokens_T, segments_T=None, positions_T=None, cache: Cache | None = None, offset=0):
        """As `hidden`, for tokens that follow `offset` cached ones -> (hidden_TxD, cache with these added)."""
        config = self.config
        (T,) = tokens_T.shape
        if T > config.max_len:
            raise ValueError(f"a sequence of {T} tokens is longer than model.max_len={config.max_len}")
        if positions_T is None:
            positions_T = offset + jnp.arange(T)
        if segments_T is not None:
            segments_T = jnp.where(tokens_T < 0, -1, segments_T)
        table_VxD = _gathered(self.embedding, config.dtype, None, "tensor")
        x_TxD = table_VxD.at[jnp.maximum(tokens_T, 0)].get(out_sharding=P(None, "tensor"))
        x_TxD = jax.reshard(x_TxD, P(None, None))
        if self.positions is not None:
            table_SxD = _gathered(self.positions, config.dtype, None, None)
            x_TxD += table_SxD.at[positions_T].get(out_sharding=P(None, None))

        def layer(x_TxD, layer_and_cache):
            layer, cache = layer_and_cache
            return layer(x_TxD, positions_T, segments_T, cache, offset)

        layer = jax.checkpoint(layer, prevent_cse=False, policy=None if config.remat else KEPT)
        x_TxD, cache = jax.lax.scan(layer, x_TxD, (self.layers, cache))
        return self.norm(x_TxD), cache

    def logits(self, hidden_TxD, head_DxV=None):
        """float32 logits [T, V], split over 'tensor' along V. In a loop, pass the `output_head()` of before it."""
        head_DxV = self._head() if head_DxV is None else head_DxV
        return jnp.einsum(
            "TD,DV->TV", hidden_TxD, head_DxV, preferred_element_type=jnp.float32, out_sharding=P(None, "tensor")
        )

    def output_head(self):
        """The output matrix [D, V], gathered once, for `logits` in a loop over pieces of a vmapped sequence.

        Its type says that its gradient is summed over the batch axes once, when the loop is done, and not
        once a piece. So a gradient through it needs a batch that is split over both batch axes.
        """
        return self._head(reduced={"data", "fsdp"})

    def _head(self, **reduced):
        if self.head is None:
            return _gathered(self.embedding, self.config.dtype, "tensor", None, **reduced).T
        return _gathered(self.head, self.config.dtype, None, "tensor", **reduced)


def _residual_std(config):
    """Output projections start smaller, so that the residual stream does not grow with depth (GPT-2, sec. 2.3)."""
    return 0.02 / math.sqrt(2 * config.num_layers)


def init(config: ModelConfig, mesh: Mesh, key):
    """(graphdef, params): a nested dict of float32 arrays, born with their shardings on `mesh`.

    Weights are normal with deviation 0.02, output projections of attention and MLP 0.02 / sqrt(2 layers)
    (GPT-2, Radford et al. 2019, as nanoGPT reads it); both families.

    Raises:
      ValueError: a dimension of the model is not divisible by the mesh axis that splits it.
    """
    _check_divisible(config, mesh)
    with jax.set_mesh(mesh):
        return definition(config), jax.jit(lambda key: _params(config, key))(key)


def definition(config: ModelConfig) -> nnx.GraphDef:
    """The hashable half of a model: `nnx.merge(definition(config), params)` is the model. Needs `jax.set_mesh`."""
    return nnx.graphdef(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))


def merge(config: ModelConfig, params) -> Decoder:
    """The model that uses these params, inside jit or outside. Needs `jax.set_mesh`."""
    return nnx.merge(definition(config), params)


def abstract(config: ModelConfig, mesh: Mesh):
    """The params as jax.ShapeDtypeStructs with shardings on `mesh`; nothing is allocated. Raises as `init` does."""
    _check_divisible(config, mesh)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: _params(config, jax.random.key(0)))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, x.sharding.spec)), shapes
    )


def place(params, config: ModelConfig, mesh: Mesh):
    """Host arrays (of an import, say) as params on `mesh`.

    Raises:
      ValueError: names or shapes are not those of a model of this config.
    """
    wanted = abstract(config, mesh)
    found_shapes, wanted_shapes = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, wanted)
    )
    if found_shapes != wanted_shapes:
        difference = sorted(found_shapes.items() ^ wanted_shapes.items())
        raise ValueError(f"params do not fit the model config; found and wanted differ in {difference}")
    return jax.tree.map(lambda leaf, like: jax.device_put(leaf.astype(like.dtype), like.sharding), params, wanted)


def num_params(config: ModelConfig) -> int:
    """How many numbers are trained, embeddings and head included (a tied head counts once)."""
    shapes = abstract(config, make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def forward_flops_per_token(config: ModelConfig, seq_len: int) -> int:
    """Matrix-product FLOPs of a forward pass, a token, with 2 for a multiply-add; training costs 3 times this.

    The output head counts and the embedding lookup does not. Attention counts in full, seq_len keys for every
    query, as in PaLM (Chowdhery et al. 2022, appendix B), although the causal mask needs half of it.
    """
    D, head_dim = config.dim, config.dim // config.num_heads
    projections = 2 * D * head_dim * (config.num_heads + config.num_kv_heads)
    mlp = (3 if config.mlp == "swiglu" else 2) * D * config.mlp_dim
    attention = 2 * seq_len * D
    return 2 * (config.num_layers * (projections + mlp + attention) + D * config.vocab_size)


def _params(config, key):
    return nnx.to_pure_dict(nnx.state(Decoder(config, nnx.Rngs(key)), nnx.Param))


def _check_divisible(config, mesh):
    split = {"fsdp": ("dim", "vocab_size"), "tensor": ("num_kv_heads", "num_heads", "mlp_dim", "vocab_size", "dim")}
    for axis, fields in split.items():
        for field in fields:
            size, parts = getattr(config, field), mesh.shape[axis]
            if size % parts:
                raise ValueError(
                    f"model.{field}={size} is not divisible by mesh.{axis}={parts}, which splits it; "
                    f"lower mesh.{axis}" + (" or pad model.vocab_size" if field == "vocab_size" else "")
                )
