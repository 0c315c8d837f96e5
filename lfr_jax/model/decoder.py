"""One decoder for GPT-2 and Llama, written for one sequence; callers vmap it.

NNX modules only define the model. What is trained is a nested dict of arrays:

    graphdef, params = init(config, mesh, jax.random.key(0))
    with jax.set_mesh(mesh):
        decoder = merge(config, params)  # also inside jit, with params as the traced argument
        logits_BxTxV = jax.vmap(lambda tokens_T: decoder.logits(decoder.hidden(tokens_T)))(tokens_BxT)

Params are float32 and split over 'fsdp' and 'tensor'. When a layer runs, forward or backward, it casts its weights
to config.dtype and gathers them over 'fsdp', and scatters their gradients (ZeRO-3, Rajbhandari et al. 2020). 'tensor'
splits heads, MLP width and vocabulary (Shoeybi et al. 2019, "Megatron-LM"). To take gradients, vmap over a batch that
is split over 'data' and 'fsdp': see `layers.gathered`.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax.config import ModelConfig
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model.layers import STD, Cache, Layer, Norm, Spec, as_matrix, gathered
from lfr_jax.model.remat import rematerialized


class Decoder(nnx.Module):
    """Token embedding, layers, final norm, output head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        V, D = config.vocab_size, config.dim

        def table(shape: tuple[int, ...], spec: Spec) -> nnx.Param:
            return nnx.Param(STD * jax.random.normal(rngs.params(), shape), out_sharding=spec)

        self.embedding = table((V, D), ("fsdp", "tensor"))
        self.positions = table((config.max_len, D), (None, "fsdp")) if config.positions == "learned" else None
        self.head = None if config.tied_head else table((D, V), ("fsdp", "tensor"))
        # One Layer whose arrays have a leading axis Y, so that `run` scans over it: compiled once, not once a layer.
        self.layers = nnx.vmap(lambda key: Layer(config, key), transform_metadata={nnx.PARTITION_NAME: None})(
            jax.random.split(rngs.params(), config.num_layers)
        )
        self.norm = Norm(config)

    def hidden(
        self, tokens_T: jax.Array, segments_T: jax.Array | None = None, positions_T: jax.Array | None = None
    ) -> jax.Array:
        """The residual stream after the final norm, [T, D] in config.dtype.

        Args:
          tokens_T: int ids; -1 is padding. Without `segments_T`, padding may only follow the last token, where causal
            attention hides it from the others.
          segments_T: int numbers of documents; attention does not cross them. Padding is a segment of its own.
          positions_T: int positions; default 0, 1, 2, ...

        Raises:
          ValueError: T is greater than config.max_len.
        """
        return self.run(tokens_T, segments_T, positions_T)[0]

    def run(
        self,
        tokens_T: jax.Array,
        segments_T: jax.Array | None = None,
        positions_T: jax.Array | None = None,
        cache: Cache | None = None,
        offset: int | jax.Array = 0,
    ) -> tuple[jax.Array, Cache | None]:
        """Like `hidden`, for tokens after `offset` cached ones -> (hidden_TxD, the cache with these tokens added)."""
        config = self.config
        (T,) = tokens_T.shape
        if T > config.max_len:
            raise ValueError(f"a sequence of {T} tokens is longer than model.max_len={config.max_len}")
        if positions_T is None:
            positions_T = offset + jnp.arange(T)
        if segments_T is not None:
            segments_T = jnp.where(tokens_T < 0, -1, segments_T)
        x_TxD = self.embed(tokens_T, positions_T)

        def layer(x_TxD: jax.Array, layer_and_cache: tuple[Layer, Cache | None]) -> tuple[jax.Array, Cache | None]:
            layer, cache = layer_and_cache
            return layer(x_TxD, positions_T, segments_T, cache, offset)

        x_TxD, cache = jax.lax.scan(rematerialized(layer, config.remat), x_TxD, (self.layers, cache))
        return self.norm(x_TxD), cache

    def embed(self, tokens_T: jax.Array, positions_T: jax.Array) -> jax.Array:
        """The input of the first layer, [T, D]."""
        x_TxD = self._table().at[jnp.maximum(tokens_T, 0)].get(out_sharding=P(None, "tensor"))
        x_TxD = jax.reshard(x_TxD, P(None, None))
        if self.positions is not None:
            # All rows of the batch may have the same positions: this table meets no rows.
            table_SxD = gathered(self.positions[...], self.config.dtype, None, None, reduced=frozenset())
            x_TxD += table_SxD.at[positions_T].get(out_sharding=P(None, None))
        return x_TxD

    def logits(self, hidden_TxD: jax.Array) -> jax.Array:
        """float32 logits [T, V], split over 'tensor' along V. For the losses of a batch, see `cross_entropy`."""
        spec = P(None, "tensor")
        head_DxV = self.output_head()
        return jnp.einsum("TD,DV->TV", hidden_TxD, head_DxV, preferred_element_type=jnp.float32, out_sharding=spec)

    def output_head(self) -> jax.Array:
        """The output matrix [D, V], gathered once, for `cross_entropy`, which takes the rows of a batch in chunks."""
        if self.head is None:  # tied: the embedding [V, D], transposed
            head_VxD = self._table()
            spec = P("tensor", None, reduced=jax.typeof(head_VxD).sharding.spec.reduced)
            return jax.reshard(head_VxD, spec).T
        return gathered(self.head[...], self.config.dtype, None, "tensor")

    def _table(self) -> jax.Array:
        return gathered(self.embedding[...], self.config.dtype, None, "tensor")


def init(config: ModelConfig, mesh: Mesh, key: jax.Array) -> tuple[nnx.GraphDef, dict]:
    """(graphdef, params): params are a nested dict of float32 arrays, created sharded on `mesh`.

    In both families weights are normal with standard deviation 0.02, and 0.02 / sqrt(2 · layers) in the output
    projections of attention and MLP (GPT-2, Radford et al. 2019, as in nanoGPT).

    Raises:
      ValueError: a dimension of the model is not divisible by the mesh axis that splits it.
    """
    _check_divisible(config, mesh)
    with jax.set_mesh(mesh):
        return definition(config), jax.jit(lambda key: new_params(config, key))(key)


def new_params(config: ModelConfig, key: jax.Array) -> dict:
    """What `init` jits, for a larger program that makes more than the params. Call it under `jax.set_mesh`."""
    return nnx.to_pure_dict(nnx.state(Decoder(config, nnx.Rngs(key)), nnx.Param))


def definition(config: ModelConfig) -> nnx.GraphDef:
    """The model without its params; hashable. `nnx.merge` joins the two. Call it under `jax.set_mesh`."""
    return _outline(config, jax.sharding.get_abstract_mesh())[0]


@functools.cache
def _outline(config: ModelConfig, mesh: AbstractMesh) -> tuple[nnx.GraphDef, dict]:
    """What `init` gives, with `jax.ShapeDtypeStruct`s for the params. All uses of the model read of this one trace."""
    with jax.sharding.use_abstract_mesh(mesh):
        graphdef, params, _ = nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))), nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(params)


def merge(config: ModelConfig, params: dict) -> Decoder:
    """The model with these params, inside jit or outside. Call it under `jax.set_mesh`.

    The embedding is gathered here, once for all uses. So the gradients of its uses, which are two where the head is
    tied, are added up on each device before the devices add up theirs.
    """
    embedding_VxD = gathered(params["embedding"], config.dtype, None, "tensor")
    return nnx.merge(definition(config), params | {"embedding": embedding_VxD})


def with_local_gradients(params: dict) -> dict:
    """The same params as matrices, typed so that their gradients are not added up over 'data'. The way back: its vjp.

    Such a gradient is `unreduced` over 'data': each device holds the sum over its own rows. So gradients of several
    micro-batches can be added up first; the vjp of this function then adds up over 'data', once. Over 'fsdp' each is
    added up at once all the same, as no device has room for whole gradients. So are, over both, those of scales,
    biases and positions: they are small, and not every operation that uses them allows this type.
    """

    def local(path: tuple, param: jax.Array) -> jax.Array:
        if path[-1].key in ("scale", "bias", "positions"):
            return param
        if path[-1].key == "kernel":
            param = as_matrix(param)  # reduced arrays cannot be reshaped
        return jax.reshard(param, P(*jax.typeof(param).sharding.spec, reduced={"data"}))

    return jax.tree_util.tree_map_with_path(local, params)


@functools.cache
def abstract(config: ModelConfig, mesh: Mesh) -> dict:
    """The params as sharded `jax.ShapeDtypeStruct`s; allocates nothing. Raises what `init` raises."""
    _check_divisible(config, mesh)
    _, shapes = _outline(config, mesh.abstract_mesh)

    def on_mesh(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, x.sharding.spec))

    return jax.tree.map(on_mesh, shapes)


def put_on_mesh(params: dict, config: ModelConfig, mesh: Mesh) -> dict:
    """Copies params from the host (for example from `hf.load`) to the devices of `mesh`, as float32.

    Raises:
      ValueError: names or shapes of the params are not those of this config.
    """
    wanted = abstract(config, mesh)
    found_shapes, wanted_shapes = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, wanted)
    )
    if found_shapes != wanted_shapes:
        difference = sorted(found_shapes.items() ^ wanted_shapes.items())
        raise ValueError(f"params do not fit the model config; found and expected shapes differ in {difference}")
    return jax.tree.map(lambda x, like: jax.device_put(x.astype(like.dtype), like.sharding), params, wanted)


def num_params(config: ModelConfig) -> int:
    """How many numbers are trained, with embeddings and head. A tied head counts once.

    >>> num_params(ModelConfig())  # GPT-2, 124 M; the vocabulary is padded to 50304
    124475904
    """
    shapes = abstract(config, make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _check_divisible(config: ModelConfig, mesh: Mesh) -> None:
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
