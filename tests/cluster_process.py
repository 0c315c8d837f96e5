"""One process of a run on several: `lfr train`, which at a given moment sends itself a signal.

    python cluster_process.py CONFIG.json MOMENT COUNT SIGNAL DEVICES

MOMENT and COUNT are those of `killed_run.py`. DEVICES: the order in which the mesh takes all devices, as
2,0,3,1, or `as-they-are`.
"""

import json
import os
import signal
import sys
import time
import types

import jax
import killed_run
from jax._src import compiler
from jax._src.distributed import global_state

from lfr_jax.config import Config, from_dict
from lfr_jax.distributed import mesh
from lfr_jax.storage.checkpoint import latest_step
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.train import loop

# JAX lets process 0 alone write to its cache of compilations, in which, on CPUs, no other process finds its own.
compiler.distributed = types.SimpleNamespace(global_state=types.SimpleNamespace(process_id=0, client=None))


def send(name: str, config: Config) -> None:
    while config.train.checkpoint_every and not latest_step(RunDir(config.run_dir).path / "checkpoints"):
        time.sleep(0.05)  # until the save that has begun is finished
    os.kill(os.getpid(), signal.Signals[name])
    notice = "RECEIVED_PREEMPTION_NOTICE"  # what JAX's coordination service is told; without it a run is over too soon
    global_state.client.blocking_key_value_get(notice, 600_000)
    time.sleep(5)  # in which all settle on a step


if __name__ == "__main__":
    path, moment, count, name, order = sys.argv[1:]
    with open(path) as file:
        config = from_dict(Config, json.load(file), path)
    killed_run.die = lambda: send(name, config)
    killed_run.arm(moment, int(count))
    if order != "as-they-are":
        loop.make_mesh = lambda *sizes: mesh.make_mesh(
            *sizes, devices=[jax.devices()[int(number)] for number in order.split(",")]
        )
    loop.train(config)
