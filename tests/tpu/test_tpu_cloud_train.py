"""The real trainer on the hosts of TPUs, from queued resource to the last step (`tests/cloud`)."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
from cloud.machines import wait_for
from cloud.trial import TPU, ended, source
from helpers import changed, rows, tiny

from lfr_jax.train.loop import train

pytestmark = pytest.mark.apart
CONFIG = """
import json
from lfr_jax.config import Config
from lfr_jax.config import from_dict
config = from_dict(Config, json.loads({!r}), "")
"""


def training(desk, trial, name, config, **settings):
    """A trial of `lfr train` with this configuration; each host is one process of one CPU device."""
    code, shared = source(desk.home / "source"), desk.network.shared
    if not (code / "lfr_jax").exists():
        shutil.copytree(TPU.parent / "lfr_jax", code / "lfr_jax", ignore=shutil.ignore_patterns("__pycache__"))
    (code / "config.py").write_text(CONFIG.format(json.dumps(dataclasses.asdict(config))))
    subprocess.run(["git", "add", "--all"], cwd=code, check=True)
    env = dict(JAX_PLATFORMS="cpu", XLA_FLAGS=os.environ["XLA_FLAGS"])  # as here, or other bits come out
    env |= dict(JAX_COMPILATION_CACHE_DIR=f"{shared}/cache", JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    command = f'{sys.executable} -m lfr_jax.cli train config.py --run-dir "$RUN_DIR"'
    return trial(name, command=command, env=env, grace_s=60.0, **settings)


def exit_codes(machines) -> list[str]:
    return [
        file.read_text().strip() for machine in machines for file in machine.home.glob("lfr_tpu/*/runs/*/exit_code")
    ]


def test_preempted_run_ends_as_an_uninterrupted_one(desk, trial, corpus_dir, tmp_path):
    """SIGTERM comes to one host of two, then both are gone; two processes compute what one does, bit for bit. Catches:
    hosts that train each for itself, a SIGTERM that one host alone follows, a step that only one host has saved, data
    that is repeated or skipped."""
    long = dict(learn=100, focus=50, review=30, focus2=20, reps=1)
    config = changed(tiny(tmp_path / "whole", corpus_dir, **long), train__steps=200, train__checkpoint_every=40)
    config = changed(config, train__eval_every=100)
    one = training(desk, trial, "a", config)
    run = one.start("run")
    wait_for(lambda: one.step() >= 40)
    first = one.machines
    first[1].terminate()
    wait_for(lambda: len(exit_codes(first)) == 2)
    one.cloud.preempt("a")
    assert exit_codes(first) == ["75", "75"] and 40 <= one.step() < 200
    train(config, quiet=True)
    assert "1 preemptions, 0 failures, newest checkpoint 200" in ended(run)
    assert rows(one.run_dir) == rows(tmp_path / "whole")


def test_slices_train_as_one_cluster(desk, trial, finished):
    """Two slices of one host each, which find each other as on TPU VMs, to the bits of one process. Catches: slices
    that train each for itself, or a part of the rows; two that write; a run of several slices that does not end."""
    config, whole, _ = finished
    two = training(desk, trial, "b", config, slices=2, accelerator_type="v4-8")
    assert "0 preemptions, 0 failures, newest checkpoint 24" in two.tpu("run")
    assert two.nodes == ["b-0", "b-1"] and exit_codes(two.machines) == ["0", "0"]
    for table in ("metrics.csv", "eval.csv", "scores/rates.csv"):
        assert rows(two.run_dir, table) == rows(whole, table)
