"""Functions that each device runs on its own rows and heads, as functions of one sequence that may be vmapped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P


def on_local_batch(kernel: Callable, like: Any = 0) -> Callable:
    """Turns a batched one-device `kernel` into a function of one sequence that may be vmapped.

    The compiler cannot split a kernel: each device must run its own, on the rows and heads that it holds. That needs
    shard_map over the batch axis, which inside vmap is hidden. So the vmap rule here gets the whole batch.

    Args:
      kernel: a function of arrays with a leading batch axis -> arrays with a leading batch axis.
      like: for each result, the number of the argument that is split as the result is; a tree as the results are.
    """

    @jax.custom_batching.custom_vmap
    def of_one(*arrays):
        return jax.tree.map(lambda y: y[0], manual(*(x[None] for x in arrays)))

    @of_one.def_vmap
    def of_batch(size, is_batched, *arrays):
        rows = spec(arrays[is_batched.index(True)])[0]

        def repeat(x):
            return jax.reshard(jnp.broadcast_to(x[None], (size, *x.shape)), P(rows, *spec(x)))

        results = manual(*(x if batched else repeat(x) for x, batched in zip(arrays, is_batched)))
        return results, jax.tree.map(lambda _: True, results)

    def manual(*arrays):
        specs = tuple(map(spec, arrays))
        out_specs = jax.tree.map(lambda number: specs[number], like)
        return jax.shard_map(kernel, in_specs=specs, out_specs=out_specs, check_vma=False)(*arrays)

    def spec(x):
        return jax.typeof(x).sharding.spec

    return of_one
