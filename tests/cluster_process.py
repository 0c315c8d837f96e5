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

from lfr_jax.config import Config, from_dict
from lfr_jax.distributed import mesh
from lfr_jax.train import loop

# JAX lets process 0 alone write to its cache of compilations, in which, on CPUs, no other process finds its own.
compiler.distributed = types.SimpleNamespace(global_state=types.SimpleNamespace(process_id=0, client=None))


def send(name: str) -> None:
    time.sleep(2)  # in which a save that has begun is finished
    os.kill(os.getpid(), signal.Signals[name])
    time.sleep(3)  # in which the notice reaches all; this run would be over before


if __name__ == "__main__":
    path, moment, count, name, order = sys.argv[1:]
    killed_run.die = lambda: send(name)
    killed_run.arm(moment, int(count))
    if order != "as-they-are":
        loop.make_mesh = lambda *sizes: mesh.make_mesh(
            *sizes, devices=[jax.devices()[int(number)] for number in order.split(",")]
        )
    with open(path) as file:
        loop.train(from_dict(Config, json.load(file), path))
