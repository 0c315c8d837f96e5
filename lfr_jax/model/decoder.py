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

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax.config import ModelConfig
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model.attention import KEEP, KERNELS
from lfr_jax.model.layers import STD, Cache, Layer, Norm, gathered

_products = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_named = jax.checkpoint_policies.save_only_these_names(KEEP)


def kept(primitive, *shapes, **params) -> bool:
    """What the forward pass keeps for the backward pass: products with weights, and the output of attention.

    Attention scores, elementwise results and gathered weights are computed again. Less memory, no slower.
    """
    keep = _products(primitive, *shapes, **params) or _named(primitive, *shapes, **params)
    return keep or primitive.name in KERNELS


class Decoder(nnx.Module):
    """Token embedding, layers, final norm, output head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        V, D = config.vocab_size, config.dim

        def table(shape, spec):
            return nnx.Param(STD * jax.random.normal(rngs.params(), shape), out_sharding=spec)

        self.embedding = table((V, D), ("fsdp", "tensor"))
        self.positions = table((config.max_len, D), (None, "fsdp")) if config.positions == "learned" else None
        self.head = None if config.tied_head else table((D, V), ("fsdp", "tensor"))
        self.layers = nnx.vmap(lambda key: Layer(config, key), transform_metadata={nnx.PARTITION_NAME: None})(
            jax.random.split(rngs.params(), config.num_layers)
        )
        self.norm = Norm(config)

    def hidden(self, tokens_T, segments_T=None, positions_T=None):
        """The residual stream after the final norm, [T, D] in config.dtype.

        A token of -1 is padding. It stands after a row's last token, where causal attention hides it;
        with `segments_T` it may stand anywhere, and is a segment of its own.
        """
        return self.run(tokens_T, segments_T, positions_T)[0]

    def run(self, tokens_T, segments_T=None, positions_T=None, cache: Cache | None = None, offset=0):
        """As `hidden`, for tokens after `offset` cached ones -> (hidden_TxD, the cache with these added)."""
        config = self.config
        (T,) = tokens_T.shape
        if T > config.max_len:
            raise ValueError(f"a sequence of {T} tokens is longer than model.max_len={config.max_len}")
        if positions_T is None:
            positions_T = offset + jnp.arange(T)
        if segments_T is not None:
            segments_T = jnp.where(tokens_T < 0, -1, segments_T)
        table_VxD = gathered(self.embedding, config.dtype, None, "tensor")
        x_TxD = table_VxD.at[jnp.maximum(tokens_T, 0)].get(out_sharding=P(None, "tensor"))
        x_TxD = jax.reshard(x_TxD, P(None, None))
        if self.positions is not None:
            table_SxD = gathered(self.positions, config.dtype, None, None)
            x_TxD += table_SxD.at[positions_T].get(out_sharding=P(None, None))

        def layer(x_TxD, layer_and_cache):
            layer, cache = layer_and_cache
            return layer(x_TxD, positions_T, segments_T, cache, offset)

        layer = jax.checkpoint(layer, prevent_cse=False, policy=None if config.remat else kept)
        x_TxD, cache = jax.lax.scan(layer, x_TxD, (self.layers, cache))
        return self.norm(x_TxD), cache

    def logits(self, hidden_TxD, head_DxV=None):
        """float32 logits [T, V], split over 'tensor' along V. In a loop, pass an earlier `output_head()`."""
        head_DxV = self._head() if head_DxV is None else head_DxV
        spec = P(None, "tensor")
        return jnp.einsum("TD,DV->TV", hidden_TxD, head_DxV, preferred_element_type=jnp.float32, out_sharding=spec)

    def output_head(self):
        """The output matrix [D, V], gathered once, for `logits` in a loop over pieces of a vmapped sequence.

        Its type says that its gradient is summed over the batch axes once, when the loop is done, and not
        once a piece. So a gradient through it needs a batch that is split over both batch axes.
        """
        return self._head(reduced={"data", "fsdp"})

    def _head(self, **reduced):
        if self.head is None:
            return gathered(self.embedding, self.config.dtype, "tensor", None, **reduced).T
        return gathered(self.head, self.config.dtype, None, "tensor", **reduced)


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
    """The hashable half of a model; `nnx.merge` joins it with params. Needs `jax.set_mesh`."""
    return nnx.graphdef(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))


def merge(config: ModelConfig, params) -> Decoder:
    """The model that uses these params, inside jit or outside. Needs `jax.set_mesh`."""
    return nnx.merge(definition(config), params)


def abstract(config: ModelConfig, mesh: Mesh):
    """The params as jax.ShapeDtypeStructs, sharded on `mesh`; nothing is allocated. Raises as `init` does."""
    _check_divisible(config, mesh)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: _params(config, jax.random.key(0)))

    def on_mesh(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, x.sharding.spec))

    return jax.tree.map(on_mesh, shapes)


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
    return jax.tree.map(lambda x, like: jax.device_put(x.astype(like.dtype), like.sharding), params, wanted)


def num_params(config: ModelConfig) -> int:
    """How many numbers are trained, embeddings and head included (a tied head counts once)."""
    shapes = abstract(config, make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _params(config, key):
    return nnx.to_pure_dict(nnx.state(Decoder(config, nnx.Rngs(key)), nnx.Param))


def _check_divisible(config, mesh):
    split = {
        "fsdp": ("dim", "vocab_size"),
        "tensor": ("num_kv_heads", "num_heads", "mlp_dim", "vocab_size", "dim"),
    }
    for axis, fields in split.items():
        for field in fields:
            size, parts = getattr(config, field), mesh.shape[axis]
            if size % parts:
                raise ValueError(
                    f"model.{field}={size} is not divisible by mesh.{axis}={parts}, which splits it; "
                    f"lower mesh.{axis}" + (" or pad model.vocab_size" if field == "vocab_size" else "")
                )
