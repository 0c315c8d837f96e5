"""GiB a chip, by shardings and by what the compiler says."""

import math
import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax.compile.memory import measure, per_chip, too_large
from lfr_jax.compile.topologies import GIB
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.train.steps import TrainState


def array(*shape, spec=P(), dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(make_mesh(2, 4, 1), spec))


def test_a_chip_has_its_shard():
    """Catches: whole arrays counted for each chip; element sizes."""
    tree = {"split": array(2**20, 256, spec=P("fsdp")), "copied": array(2**28, dtype=jnp.int8)}
    assert per_chip(tree) == 0.25 + 0.25


class Compiled:
    """What the compiler says of a program: sizes in GiB."""

    def __init__(self, **sizes: float):
        self.sizes = sizes

    def memory_analysis(self):
        names = ("argument", "output", "alias", "temp", "generated_code")
        return types.SimpleNamespace(**{f"{n}_size_in_bytes": int(self.sizes.get(n, 0) * GIB) for n in names})


STATE = TrainState(array(), array(2**29), (array(2**29), array(2**29)), array(2**26))  # 2, 4 and 0.25 GiB
BATCH = array(2**26, spec=P(("data", "fsdp")))  # 0.25 / 8 GiB


def test_parts_add_up_to_what_is_there():
    """Catches: results that are written over the state counted again; padding of the arguments lost."""
    compiled = Compiled(argument=6.5, output=6.0, alias=5.75, temp=3, generated_code=0.5)
    memory = measure(compiled, 10.5, STATE, BATCH, others=False)
    assert (memory.parameters, memory.optimizer, memory.schedule, memory.batch) == (2, 4, 0.25, 0.03125)
    assert memory.total == pytest.approx(6.5 + 0.25 + 3 + 0.5)
    assert memory.fits and memory.margin == pytest.approx(0.25)


def test_scoring_has_the_optimizer_s_state_beside_it():
    """Catches: a scoring pass that would fit only without the run that it belongs to."""
    compiled = Compiled(argument=2.03125, temp=4)
    assert measure(compiled, 10, STATE, BATCH, others=True).total == pytest.approx(2 + 0.03125 + 4 + 4.25)
    assert not measure(compiled, 10, STATE, BATCH, others=True).fits


@pytest.mark.parametrize(
    "text, needed",
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (62.53G) "
            "exceeds available HBM (31.25G).\nmore",
            62.53,
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.00M of 256.00M hbm.", 0.5),
        ("RESOURCE_EXHAUSTED: something else", math.nan),
    ],
)
def test_what_the_compiler_says_when_it_is_too_much(text, needed):
    """Catches: M for G; a new wording that ends the command; more than the first line of a page of text."""
    found = too_large(RuntimeError(text))
    assert found.needed == needed or math.isnan(needed) and math.isnan(found.needed)
    assert "\n" not in str(found) and not str(found).startswith("RESOURCE")
    assert too_large(RuntimeError("INTERNAL: a bug")) is None
