"""Attention against a loop in float64, and the kernels' way through vmap, shard_map, scan and remat."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax.distributed.mesh import AXES, BATCH, make_mesh
from lfr_jax.model.attention import attend, platform, splash
from lfr_jax.model.local_batch import on_local_batch
from lfr_jax.model.remat import POLICIES

SEGMENTS = np.array([0, 0, 0, 1, 1, -1], np.int32)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def expected(q, k, v, segments=None, offset=0):
    """The definition, one query head and one query at a time."""
    out = np.zeros(q.shape)
    group = q.shape[1] // k.shape[1]
    for t in range(q.shape[0]):
        for h in range(q.shape[1]):
            seen = [s for s in range(offset + t + 1) if segments is None or segments[s] == segments[t]]
            scores = k[seen, h // group].astype(np.float64) @ q[t, h] / np.sqrt(q.shape[2])
            weights = np.exp(scores - scores.max())
            out[t, h] = weights @ v[seen, h // group] / weights.sum()
    return out


CASES = {
    "causal": (6, 6, None, 0, "xla"),
    "segments": (6, 6, SEGMENTS, 0, "xla"),
    "offset": (2, 6, None, 3, "xla"),
    "blocked": (6, 6, SEGMENTS, 0, "blocked"),
}


@pytest.mark.parametrize("T, S, segments, offset, impl", CASES.values(), ids=CASES)
def test_is_the_definition(T, S, segments, offset, impl):
    """Catches: `>` for `>=` in the causal mask; no scaling; query heads grouped in another order; segments or
    offset not used."""
    q, k, v = random(T, 4, 8), random(S, 2, 8, seed=1), random(S, 2, 8, seed=2)
    with jax.set_mesh(make_mesh(1)):
        out = attend(q, k, v, segments_T=segments, offset=offset, impl=impl)
    np.testing.assert_allclose(out, expected(q, k, v, segments, offset), atol=1e-5)


@pytest.mark.parametrize("shape, segmented", [((1, 1, 1), False), ((2, 2, 2), True)])
def test_splash_equals_xla_forward_and_backward(shape, segmented):
    """Catches: no 1/sqrt(P); segments not handed on; heads parted from their keys; rows of another device; a document
    of one token, or padding, that a kernel skips."""
    mesh = make_mesh(*shape)
    B, T = 4, 128
    q, k, v = random(B, T, 4, 8), random(B, T, 2, 8, seed=1), random(B, T, 2, 8, seed=2)
    starts = np.random.default_rng(3).random((B, T)) < 0.03
    starts[1, 40:44] = True  # documents of one token
    documents = np.cumsum(starts, axis=1).astype(np.int32)
    documents[2, 100:] = -1  # padding
    segments = (documents,) if segmented else ()
    kernel = on_local_batch(functools.partial(splash, interpret=True))

    def xla(q, k, v, *segments):
        return attend(q, k, v, segments_T=segments[0] if segments else None, impl="xla")

    with jax.set_mesh(mesh):
        heads = NamedSharding(mesh, P(*BATCH, None, "tensor", None))
        arrays = jax.device_put((q, k, v), heads) + jax.device_put(segments, NamedSharding(mesh, BATCH))

        def out_and_grads(one):
            def loss(qkv):
                out = jax.vmap(jax.checkpoint(one))(*qkv, *arrays[3:])
                return jnp.sum(jnp.sin(out)), out

            return jax.jit(jax.grad(loss, has_aux=True))(arrays[:3])

        got, wanted = out_and_grads(kernel), out_and_grads(xla)
        assert jax.typeof(got[1]).sharding.spec == heads.spec
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_layer_does_not_run_a_kernel_forward_twice():
    """Catches: a kernel's results not kept for the backward pass."""
    kernel = on_local_batch(functools.partial(splash, interpret=True))
    with jax.set_mesh(make_mesh(2, 2, 2)):
        q = jax.device_put(random(4, 128, 2, 8), jax.P(*BATCH, None, "tensor", None))

        def runs(name):
            layer = jax.vmap(jax.checkpoint(lambda q: kernel(q, q, q), policy=POLICIES[name]))
            traced = jax.make_jaxpr(jax.grad(lambda q: jnp.sum(jnp.sin(layer(q)))))(q).jaxpr
            needed, _ = partial_eval.dce_jaxpr(traced, [True])  # as the compiler does
            return kernels_in(needed)

        assert runs("products") == 3  # forward, and two backward: of the queries, and of keys and values
        assert runs("block") == 4


def kernels_in(jaxpr) -> int:
    """How often a kernel is run. The text of a jaxpr writes what occurs twice once."""
    inner = (getattr(value, "jaxpr", value) for each in jaxpr.eqns for value in each.params.values())
    here = sum(each.primitive.name == "pallas_call" for each in jaxpr.eqns)
    return here + sum(kernels_in(value) for value in inner if hasattr(value, "eqns"))


def test_a_kernel_keeps_one_number_of_each_query():
    """Beside the output, as the kernel itself gives each query's log-sum-exp 128 times. Catches: these kept."""
    kernel = on_local_batch(functools.partial(splash, interpret=True))
    B, T, H, head_dim = 4, 128, 2, 8
    with jax.set_mesh(make_mesh(1, 1, 1)):
        layer = jax.vmap(jax.checkpoint(lambda q: kernel(q, q, q), policy=POLICIES["products"]))
        backward = jax.eval_shape(lambda q: jax.vjp(layer, q)[1], random(B, T, H, head_dim))
    kept = sorted(x.shape for x in jax.tree.leaves(backward))
    of_queries = [shape for shape in kept if math.prod(shape) > T]  # the rest says what the mask hides
    assert of_queries == [(B, H, T), (B, H, T, head_dim), (B, T, H, head_dim)]  # log-sum-exp, output, q


def test_a_kernel_takes_what_is_not_batched():
    """Catches: an argument that all rows share handed to the kernel without its batch axis."""
    mesh = make_mesh(2, 2, 2)
    kernel = on_local_batch(lambda x, y, z: x * y + z[:, :, None, None])
    with jax.set_mesh(mesh):
        x = jax.device_put(random(4, 6, 2, 8), NamedSharding(mesh, P(*BATCH, None, "tensor", None)))
        y = jax.device_put(random(6, 2, 8, seed=1), NamedSharding(mesh, P(None, "tensor", None)))
        out = jax.jit(jax.vmap(kernel, in_axes=(0, None, None)))(x, y, SEGMENTS.astype(np.float32))
    wanted = np.asarray(x) * np.asarray(y)[None] + SEGMENTS[None, :, None, None]
    np.testing.assert_allclose(out, wanted, atol=1e-6)


@pytest.mark.parametrize(
    "impl, offset, message",
    [
        ("cudnn", 0, "needs a gpu, and jax runs on cpu"),
        ("splash", 0, "needs a tpu, and jax runs on cpu"),
        ("splash", 2, "as many queries as keys, from position 0"),
        ("blocked", 2, "as many queries as keys, from position 0"),
        ("flash", 0, "expected 'auto', 'xla', 'blocked', 'cudnn' or 'splash'"),
    ],
)
def test_says_what_is_not_available(impl, offset, message):
    """Catches: a silent fall back to xla; a kernel asked to use a cache."""
    q = random(6, 2, 8)
    with pytest.raises(ValueError, match=message):
        attend(q, q, q, offset=offset, impl=impl)


def test_the_platform_is_the_mesh_s():
    """Catches: attention chosen for this machine, when a step is compiled for the devices of another."""
    tpu = AbstractDevice(device_kind="TPU v6 lite", num_cores=1, platform="tpu")
    mesh = AbstractMesh((1, 1, 1), AXES, axis_types=(AxisType.Explicit,) * 3, abstract_device=tpu)
    q = jax.ShapeDtypeStruct((128, 2, 8), jnp.bfloat16)
    assert platform() == "cpu"
    with jax.sharding.use_abstract_mesh(mesh):
        assert platform() == "tpu"
        chosen = jax.make_jaxpr(lambda q: attend(q, q, q))(q)
        with pytest.raises(ValueError, match="needs a gpu, and jax runs on tpu"):
            attend(q, q, q, impl="cudnn")
    assert "pallas_call" in str(chosen)
    with jax.set_mesh(make_mesh(1)):
        assert platform() == "cpu"


def test_splash_refuses_other_lengths():
    """Catches: lengths that the kernel's blocks do not fill."""
    with pytest.raises(ValueError, match="multiple of 128 tokens, found 6"):
        splash(random(1, 6, 2, 8), random(1, 6, 2, 8), random(1, 6, 2, 8), interpret=True)
