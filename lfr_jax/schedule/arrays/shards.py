"""Per-block arrays that are spread over devices: work on each part, and sums over all."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P


class Shard(NamedTuple):
    """One device's part of the blocks."""

    first: jax.Array | np.uint32  # u32[]: the number of its first block
    axes: tuple[str, ...]  # of the mesh, over which the blocks are split

    def total(self, x: Any) -> Any:
        """The sum over all parts, of integers: of floats it would depend on the mesh."""
        return jax.lax.psum(x, self.axes) if self.axes else x


def on_shards(f: Callable, blocks: Any, others: Any = (), *, summed: bool = False) -> Any:
    """f(shard, blocks, others), on every part of the blocks where they lie.

    Scatter and gather raise on an axis that is sharded explicitly, as there is no telling which
    device they touch. Part by part they are local. Where axes are Auto the compiler splits
    the whole, and `f` sees one part that has all blocks.

    Args:
      f: what to do with a part: arrays as given, cut to the blocks of the part.
      blocks: arrays with a leading axis of N blocks, all sharded alike.
      others: arrays that every part needs whole; not sharded.
      summed: the result is the same for all parts (by `Shard.total`), not per block.

    Returns:
      What `f` returns: arrays with a leading axis of blocks, sharded as `blocks` are, or whole.

    Raises:
      ValueError: a part has 2**31 blocks or more, which jax cannot index.
    """
    like_N = jax.tree.leaves(blocks)[0]
    sharding = jax.typeof(like_N).sharding
    axes = sharding.spec[0] if sharding.spec else None
    axes = () if axes is None else axes if isinstance(axes, tuple) else (axes,)
    num_parts = math.prod(sharding.mesh.shape[axis] for axis in axes)
    size = like_N.shape[0] // num_parts
    if size >= 2**31:
        raise ValueError(
            f"{like_N.shape[0]} blocks in {num_parts} parts, expected less than 2**31 in each: "
            "shard the state over more devices, on explicit axes of the mesh"
        )
    if not axes:
        return f(Shard(np.uint32(0), ()), blocks, others)

    def part(blocks, others):
        return f(Shard(jax.lax.axis_index(axes).astype(jnp.uint32) * np.uint32(size), axes), blocks, others)

    split, whole = P(axes), P()
    out_specs = whole if summed else split
    return jax.shard_map(part, mesh=sharding.mesh, in_specs=(split, whole), out_specs=out_specs)(blocks, others)
