"""Products with weights against einsum, on every kind of mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lfr_jax.distributed.mesh import BATCH, make_mesh
from lfr_jax.model.dense import dense
from lfr_jax.model.layers import gathered
from lfr_jax.model.remat import POLICIES

# shapes of x and of the kernel, spec of the kernel
INTO = ((8, 3, 16), (16, 8), ("fsdp", "tensor"))
BACK = ((8, 3, 8), (8, 16), ("tensor", "fsdp"))


def loss_and_gradients(product, case, sizes, dtype, policy):
    """Of two products in a scan, as in layers: (loss, of x, of the kernels, of a bias)."""
    x_shape, kernel_shape, spec = case
    random = np.random.default_rng(0)
    x, kernels, bias = (random.normal(size=shape).astype(np.float32) for shape in (x_shape, (2, *kernel_shape), (2,)))
    D, F = (None if axis == "fsdp" else axis for axis in spec)

    def loss(x, kernels, bias):
        def of_sequence(x):
            def layer(total, weights):
                kernel, bias = weights
                y = product(x, gathered(kernel, dtype, D, F), F)
                return total + jnp.sum(jnp.sin(y.astype(jnp.float32) + bias)), None

            body = jax.checkpoint(layer, prevent_cse=False, policy=policy)
            return jax.lax.scan(body, jnp.sum(x[:0], dtype=jnp.float32), (kernels, bias))[0]

        return jnp.sum(jax.vmap(of_sequence)(x.astype(dtype)))

    mesh = make_mesh(*sizes)
    with jax.set_mesh(mesh):
        arguments = jax.device_put(
            (x, kernels, bias), tuple(map(jax.NamedSharding, 3 * [mesh], (P(*BATCH, None, D), P(None, *spec), P())))
        )
        return jax.device_get(jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arguments))


def plain(x, kernel, split):
    return jnp.einsum("TD,DF->TF", x, kernel, out_sharding=P(None, split))


@pytest.mark.parametrize("case", [INTO, BACK], ids=["into", "back"])
@pytest.mark.parametrize(
    "sizes, dtype",
    [((1, 1, 1), "bfloat16"), ((8, 1, 1), "float32"), ((1, 4, 2), "float32"), ((2, 2, 2), "bfloat16")],
)
def test_equals_einsum(sizes, dtype, case):
    """Catches: rows of one sequence in another's place; a sum over 'tensor' or over the batch left out, or done
    twice."""
    expected = loss_and_gradients(plain, case, (1, 1, 1), dtype, POLICIES["block"])
    found = loss_and_gradients(dense, case, sizes, dtype, POLICIES["products"])
    share = 1e-5 if dtype == "float32" else 2e-2
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=share * np.abs(other).max())


def test_is_one_product_of_two_matrices():
    """Catches: a batch that is not stacked, so that XLA sees three axes, or in the gradient of the kernel."""
    with jax.set_mesh(make_mesh(2, 2, 2)):
        x = jax.device_put(jnp.ones((8, 3, 16)), P(*BATCH))
        kernel = gathered(jnp.ones((16, 4)), "float32", None, "tensor")

        def loss(kernel, x):
            return jnp.sum(jax.vmap(lambda x: dense(x, kernel, "tensor"))(x) ** 2)

        jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(kernel, x)
    products = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert [sorted(v.aval.ndim for v in eqn.invars) for eqn in products] == [[2, 2]] * 3


@pytest.mark.parametrize("axes", [(0, 0), (None, 0)])
def test_kernels_may_be_batched(axes):
    """Catches: the kernel of the first taken for all."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4, 3, 5)).astype(np.float32)
    x, kernels = x if axes[0] == 0 else x[0], random.normal(size=(4, 5, 2)).astype(np.float32)
    with jax.set_mesh(make_mesh(1, 1, 1)):
        found = jax.vmap(lambda x, kernel: dense(x, kernel, None), axes)(x, kernels)
    np.testing.assert_allclose(found, x @ kernels, rtol=1e-5, atol=1e-5)
