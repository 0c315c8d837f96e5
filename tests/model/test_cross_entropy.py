"""The fused loss against the plain one: `log_softmax` of whole logits, differentiated by JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax.distributed.mesh import BATCH, make_mesh
from lfr_jax.model.cross_entropy import linear_cross_entropy, token_nll

B, T, D, V = 8, 6, 16, 32
RANDOM = np.random.default_rng(0)
HIDDEN = RANDOM.normal(size=(B, T, D)).astype(np.float32)
TABLE = RANDOM.normal(size=(V, D)).astype(np.float32)  # an embedding; transposed, a head
TARGETS = RANDOM.integers(0, V, (B, T)).astype(np.int32)
TARGETS[0] = TARGETS[1, 3:] = TARGETS[2, ::2] = -1  # a block of padding, a padded end, others
WEIGHTS = RANDOM.uniform(0.1, 3, (B, T)).astype(np.float32)
FACTOR = 1.7  # the cotangent
GRADIENTS = (0, 1, 3)  # of hidden, table, weights
SPLIT, REDUCED = ("data", "fsdp"), frozenset({"data", "fsdp"})


def plain(hidden_BxTxD, table_VxD, targets_BxT, weights_BxT):
    logprobs = jax.nn.log_softmax(jnp.einsum("BTD,VD->BTV", hidden_BxTxD, table_VxD))
    picked = jnp.take_along_axis(logprobs, jnp.maximum(targets_BxT, 0)[..., None], -1)[..., 0]
    nll_BxT = jnp.where(targets_BxT >= 0, -picked, 0.0)
    return FACTOR * jnp.sum(weights_BxT * nll_BxT), nll_BxT


@functools.cache
def wanted():
    """(sum, losses), gradients."""
    args = HIDDEN, TABLE, TARGETS, WEIGHTS
    return jax.device_get(jax.jit(jax.value_and_grad(plain, GRADIENTS, has_aux=True))(*args))


def fused(hidden_BxTxD, table, targets_BxT, weights_BxT, chunk, tied=True):
    """`table` is [V, D] if tied, else [D, V]; stored over 'fsdp' and 'tensor', as the decoder's are."""
    if tied:
        head_DxV = jax.reshard(table, P("tensor", None, reduced=REDUCED)).T
    else:
        head_DxV = jax.reshard(table, P(None, "tensor", reduced=REDUCED))
    total, nll_BxT = linear_cross_entropy(hidden_BxTxD, head_DxV, targets_BxT, weights_BxT, chunk)
    return FACTOR * total, nll_BxT


differentiated = jax.jit(jax.value_and_grad(functools.partial(fused, chunk=5), GRADIENTS, has_aux=True))


def on_mesh(sizes, *args):
    """(a mesh, the args on it): hidden, table, targets, weights."""
    mesh = make_mesh(*sizes)
    specs = BATCH, P("fsdp", "tensor"), BATCH, BATCH
    return mesh, [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(args, specs, strict=True)]


def close(got, expected, tolerance):
    """Relative to the largest number."""
    got, expected = np.asarray(got, np.float32), np.asarray(expected, np.float32)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(
    "sizes, chunk, tied",
    [
        ((1, 1, 1), 1, True),
        ((1, 1, 1), 7, True),
        ((1, 1, 1), 48, False),
        ((1, 1, 1), 512, True),
        ((8, 1, 1), 4, True),
        ((1, 8, 1), 4, False),
        ((1, 1, 8), 5, True),
        ((2, 2, 2), 5, True),
        ((1, 4, 2), 5, False),
        ((4, 1, 2), 512, True),
    ],
)
def test_equals_log_softmax(sizes, chunk, tied):
    """Sum, losses, and the gradients of hidden, head and weights, to 1e-6.

    Catches: rows that are lost, counted twice or come back in another order; the rows that fill the last chunk, or
    rows without a target, counted; a weight that is left out, or is another row's; a cotangent that is left out of one
    of the gradients; a sum over a mesh axis left out or done twice.
    """
    mesh, args = on_mesh(sizes, HIDDEN, TABLE if tied else TABLE.T, TARGETS, WEIGHTS)
    (expected, expected_nll), (dhidden, dtable, dweights) = wanted()
    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(functools.partial(fused, chunk=chunk, tied=tied), GRADIENTS, has_aux=True))
        (total, nll), grads = step(*args)
        assert jax.tree.map(jax.typeof, list(grads)) == [jax.typeof(args[i]) for i in GRADIENTS]
        forward_only, _ = jax.jit(functools.partial(fused, chunk=chunk, tied=tied))(*args)
    assert float(total) == pytest.approx(float(expected), rel=1e-6)
    assert float(forward_only) == pytest.approx(float(expected), rel=1e-6)
    close(nll, expected_nll, 1e-6)
    for got, expected in zip(grads, (dhidden, dtable if tied else dtable.T, dweights), strict=True):
        close(got, expected, 1e-6)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_bfloat16_has_float32_losses(sizes):
    """Against float32 on the same numbers. Catches: logits or softmax in bfloat16 (3e-3 off in the losses); gradients
    of another dtype than that of what they belong to."""
    hidden, table = (jnp.asarray(x, jnp.bfloat16) for x in (HIDDEN, TABLE))
    exact = hidden.astype(jnp.float32), table.astype(jnp.float32), TARGETS, WEIGHTS
    (expected, expected_nll), expected_grads = jax.jit(jax.value_and_grad(plain, GRADIENTS, has_aux=True))(*exact)
    mesh, args = on_mesh(sizes, hidden, table, TARGETS, WEIGHTS)
    with jax.set_mesh(mesh):
        (total, nll), grads = differentiated(*args)
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    close(nll, expected_nll, 1e-5)
    assert [x.dtype for x in grads] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for got, expected in zip(grads, expected_grads, strict=True):
        close(got, expected, 1e-2)


def test_many_chunks_in_bfloat16_add_up():
    """1,024 equal rows, each in a chunk of its own. Catches: a head's gradient that is added up in bfloat16, which
    stands still at the 256th chunk."""
    rows = 1024
    hidden, table = jnp.ones((1, rows, 2), jnp.bfloat16), jnp.zeros((4, 2), jnp.bfloat16)
    mesh, args = on_mesh((1, 1, 1), hidden, table, np.zeros((1, rows), np.int32), np.ones((1, rows), np.float32))
    with jax.set_mesh(mesh):
        dtable = jax.jit(jax.grad(lambda *args: fused(*args, chunk=1)[0] / FACTOR, 1))(*args)
    np.testing.assert_array_equal(dtable, rows * np.array([[-0.75] * 2] + [[0.25] * 2] * 3))


def test_large_logits_do_not_overflow():
    """Catches: exp of a logit from which the largest was not subtracted."""
    mesh, args = on_mesh((1, 1, 1), 100 * HIDDEN, 100 * TABLE, TARGETS, WEIGHTS)
    with jax.set_mesh(mesh):
        (total, nll), grads = differentiated(*args)
    assert nll.max() > 1e4 and all(np.all(np.isfinite(x)) for x in (total, nll, *grads))


def test_what_has_no_target_is_not_read():
    """Catches: NaN as the weight of a block without a target, as policies give it, in the sum and all gradients."""
    weights = np.where(TARGETS >= 0, WEIGHTS, np.nan)
    mesh, args = on_mesh((1, 1, 1), HIDDEN, TABLE, TARGETS, weights)
    with jax.set_mesh(mesh):
        (total, _), grads = differentiated(*args)
    (expected, _), expected_grads = wanted()
    assert float(total) == pytest.approx(float(expected), rel=1e-6)
    jax.tree.map(lambda got, expected: close(got, expected, 1e-6), grads, expected_grads)


def test_scoring_makes_logits_once_and_no_gradient():
    """Products with the head in the program: one forward, three with all gradients.

    Catches: logits that are made again for the gradient; gradients made where nobody asked for any.
    """
    mesh, args = on_mesh((2, 2, 2), HIDDEN, TABLE, TARGETS, WEIGHTS)

    def products(function):
        return jax.jit(function).lower(*args).as_text().count("dot_general")

    with jax.set_mesh(mesh):
        assert products(functools.partial(fused, chunk=5)) == 1
        assert products(lambda hidden, table, targets, _: token_nll(hidden, table.T, targets, 5)) == 1
        assert products(jax.grad(functools.partial(fused, chunk=5), (0, 1), has_aux=True)) == 3


def test_the_heads_gradient_is_added_up_over_devices_once():
    """Catches: a sum over 'data' in each chunk, D·V numbers each time."""
    mesh, args = on_mesh((8, 1, 1), HIDDEN, TABLE, TARGETS, WEIGHTS)
    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(functools.partial(fused, chunk=2), (0, 1), has_aux=True))
        text = step.lower(*args).compile().as_text()
    after_the_loop = text[text.index("ENTRY") :]
    assert text.count(" all-reduce(") == after_the_loop.count(" all-reduce(") == 1
