"""Per-block arrays that are sharded over devices: work on each part, and sums over all parts."""

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
    axes: tuple[str, ...]  # the axes of the mesh that split the blocks

    def total(self, x: Any) -> Any:
        """The sum over all parts. For integers only: a sum of floats would depend on the mesh."""
        return jax.lax.psum(x, self.axes) if self.axes else x


def on_shards(f: Callable, blocks: Any, others: Any = (), *, summed: bool = False) -> Any:
    """Calls f(shard, blocks, others) for each device's part of the blocks, on that device.

    On axes of the type Explicit, jax refuses to scatter or gather along a sharded axis. Within
    one part both are allowed. On axes of the type Auto the compiler splits the work, and `f`
    sees one part that has all blocks.

    Args:
      f: gets `blocks` cut to its part, and `others` complete.
      blocks: arrays with a leading axis of N blocks, all with the same sharding.
      others: arrays that are not sharded.
      summed: `f` returns the same on all parts (by `Shard.total`), not numbers per block.

    Returns:
      What `f` returns: arrays with a leading axis of blocks, sharded as `blocks`; or, if `summed`, not sharded.

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

    sharded, replicated = P(axes), P()
    specs = dict(in_specs=(sharded, replicated), out_specs=replicated if summed else sharded)
    return jax.shard_map(part, mesh=sharding.mesh, **specs)(blocks, others)
