"""Two processes that share one schedule state: each sees the rates of all blocks, and plans the same draws."""

import json

import numpy as np
import pytest
from running import ended, held_port

from lfr_jax import schedule

pytestmark = pytest.mark.slow
N, DRAWS = 64, 40

# What a process does. Its own part of the state is 32 blocks on each of two devices.
PROCESS = f"""
import json, sys
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

port, rank = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{{port}}", num_processes=2, process_id=int(rank))
from lfr_jax import schedule

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
jax.set_mesh(mesh)

def place(x):
    x = np.asarray(x)
    sharding = NamedSharding(mesh, P("data") if x.shape == ({N},) else P())
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

s = schedule.lfr(learn=4, focus=4, review=4, focus2=4, reps=1, unmeasured="domain")
state = jax.tree.map(place, s.init(schedule.BlockInfo({N}, domain=np.arange({N}) % 3)))
ids = np.arange(0, {N}, 2, dtype=np.int32)
state = jax.jit(s.observe)(state, place(ids), place(np.float32(ids * 37 % 64)), 4)
state = jax.jit(s.begin)(state, 1)
rates_N = multihost_utils.process_allgather(s.rates(state), tiled=True)
draws = schedule.plan(rates_N, {DRAWS}, seed=0, phase=1)

# Or each process plans the draws of its own blocks, and no more is in its memory.
parts = sorted((part.index[0].start, np.asarray(part.data)) for part in s.rates(state).addressable_shards)
own = schedule.plan(np.concatenate([rates for _, rates in parts]), {DRAWS} // 2, seed=int(rank), phase=1)
own_ids = own[:] + parts[0][0]
print(json.dumps([rates_N.tolist(), draws[:].tolist(), own_ids.tolist()]))
"""


@pytest.fixture(scope="module")
def processes():
    """What each of two processes printed."""
    with held_port() as port:
        ran = ended([["-c", PROCESS, str(port), str(rank)] for rank in (0, 1)], [{}, {}])
    assert [code for code, _, _ in ran] == [0, 0], ran
    return [json.loads(out.splitlines()[-1]) for _, out, _ in ran]


def alone():
    """Rates and draws of one process."""
    s = schedule.lfr(learn=4, focus=4, review=4, focus2=4, reps=1, unmeasured="domain")
    state = s.init(schedule.BlockInfo(N, domain=np.arange(N) % 3))
    ids = np.arange(0, N, 2, dtype=np.int32)
    rates_N = np.asarray(s.rates(s.begin(s.observe(state, ids, np.float32(ids * 37 % 64), 4), 1)))
    return rates_N, schedule.plan(rates_N, DRAWS, seed=0, phase=1)


def test_every_process_draws_as_one_alone(processes):
    """Catches: a process that sees its own shard's rates only; selection that counts within a process."""
    rates_N, draws = alone()
    for rates, drawn, _ in processes:
        assert rates == rates_N.tolist() and drawn == draws[:].tolist()


def test_processes_may_plan_their_own_blocks(processes):
    """Catches: a block that neither or both of them draw from; one that was not selected."""
    rates_N, _ = alone()
    for rank, (_, _, own) in enumerate(processes):
        first, stop = rank * N // 2, (rank + 1) * N // 2
        kept = set(first + np.flatnonzero(rates_N[first:stop]))
        one_pass = own[: len(kept)]
        assert len(own) == DRAWS // 2 and set(own) <= kept and len(set(one_pass)) == len(one_pass)
