"""What a train step sends: the sums of gradients over devices, read off the types in its jaxpr. Nothing is compiled."""

import collections
import math

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding

from lfr_jax import schedule
from lfr_jax.config import gpt2, llama
from lfr_jax.distributed.mesh import BATCH, make_mesh
from lfr_jax.train import steps

SIZES = dict(vocab_size=64, max_len=24, dtype="bfloat16")
CONFIGS = {
    "gpt2": gpt2(2, 32, 4, **SIZES),
    "llama": llama(2, 32, num_heads=4, num_kv_heads=2, mlp_dim=64, **SIZES),
}


def traced(config, sizes, grad_accum_steps):
    """(the jaxpr of the train step, how many numbers all matrices have, positions left out)."""
    mesh, optimizer, uniform = make_mesh(*sizes), optax.sgd(0.1), schedule.uniform(steps=10)
    with jax.set_mesh(mesh):
        state = steps.abstract_state(config, optimizer, uniform, schedule.BlockInfo(40), mesh)
        rows = {"ids": (16,), "tokens": (16, 25)}
        batch = {k: jax.ShapeDtypeStruct(v, jnp.int32, sharding=NamedSharding(mesh, BATCH)) for k, v in rows.items()}
        step = steps.make_train_step(config, optimizer, uniform, grad_accum_steps, 63)
        jaxpr = jax.make_jaxpr(step)(state, batch).jaxpr
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    small = {"scale", "bias", "positions"}
    return jaxpr, sum(leaf.size for path, leaf in leaves if path[-1].key not in small)


def sums(jaxpr, times=1):
    """(scatter or reduce, over which axes, dtype, numbers) of each sum over 'data' or 'fsdp' that types show."""
    for eqn in jaxpr.eqns:
        for inner in jaxprs_in_params(eqn.params):
            yield from sums(inner, times * eqn.params.get("length", 1))
        name = eqn.primitive.name
        if name == "reshard":
            added = set(eqn.invars[0].aval.sharding.spec.unreduced)
        elif name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            added = names(eqn.invars[0].aval.sharding.spec[axis] for axis in contracted)
        elif name == "scatter-add":
            added = names(eqn.invars[2].aval.sharding.spec.partitions)  # of the rows that are added
        else:
            continue
        out = eqn.outvars[0].aval
        spec = out.sharding.spec
        added = {axis for axis in added - spec.unreduced if out.sharding.mesh.shape[axis] > 1} - {"tensor"}
        if added:
            kind = "scatter" if added & names(spec.partitions) else "reduce"
            yield kind, "+".join(sorted(added)), str(out.dtype), times * math.prod(out.shape)


def names(partitions):
    """The mesh axes that split an array."""
    return {name for axis in partitions for name in ((axis,) if isinstance(axis, str) else axis or ())}


@pytest.mark.parametrize(
    "family, sizes, grad_accum_steps, expected",
    [
        ("gpt2", (8, 1, 1), 1, {("reduce", "data", "bfloat16"): 1}),
        ("gpt2", (4, 1, 2), 2, {("reduce", "data", "float32"): 1}),
        ("llama", (1, 8, 1), 2, {("scatter", "fsdp", "bfloat16"): 2}),
        ("llama", (2, 2, 2), 1, {("scatter", "fsdp", "bfloat16"): 1, ("reduce", "data", "bfloat16"): 1}),
        ("llama", (2, 2, 2), 2, {("scatter", "fsdp", "bfloat16"): 2, ("reduce", "data", "float32"): 1}),
    ],
)
def test_each_gradient_is_sent_once(family, sizes, grad_accum_steps, expected):
    """Catches: a gradient that each device of 'fsdp' gets whole; two gradients of a tied embedding, sent one by one; a
    gradient sent over 'data' for each micro-batch, or for each turn of the loss's loop; one sent in float32; one that
    'data' and 'fsdp' add up in one step, which XLA:TPU does not scatter where they span three axes of the network."""
    jaxpr, num_numbers = traced(CONFIGS[family], sizes, grad_accum_steps)
    found = collections.Counter()
    for *how, numbers in sums(jaxpr):
        found[tuple(how)] += numbers
    assert {how: numbers / num_numbers for how, numbers in found.items()} == expected
