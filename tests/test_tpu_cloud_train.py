"""The real trainer on two hosts of a TPU that is preempted, from queued resource to the last step (`tests/cloud`)."""

import csv
import shutil
import subprocess
import sys

from cloud.machines import wait_for
from cloud.trial import TPU, ended, source

CONFIG = """
from lfr_jax.config import Config, DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig, llama

config = Config(
    data=DataConfig(store={store!r}, seq_len=32),
    model=llama(1, 16, 2, 2, 32, vocab_size=264, max_len=32, tied_head=True),
    schedule=ScheduleConfig("lfr", dict(learn=100, focus=50, review=30, focus2=20, reps=1)),
    optimizer=OptimizerConfig(peak_lr=3e-3, end_lr=0.0, warmup=4),
    train=TrainConfig(batch_size=8, log_every=3, eval_every=100, checkpoint_every=40, eval_blocks=8, probe_blocks=9),
)
"""


def rows(run_dir) -> list[dict[str, str]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def exit_codes(machines) -> list[str]:
    return [
        file.read_text().strip() for machine in machines for file in machine.home.glob("lfr_tpu/a/runs/*/exit_code")
    ]


def test_preempted_run_ends_as_an_uninterrupted_one(desk, trial, corpus_dir):
    """SIGTERM comes to one host of two, then both are gone. Catches: hosts that train each for itself, a SIGTERM that
    one host alone follows, a step that only one host has saved, data that is repeated or skipped."""
    code, shared = source(desk.home / "source"), desk.network.shared
    shutil.copytree(TPU.parent / "lfr_jax", code / "lfr_jax", ignore=shutil.ignore_patterns("__pycache__"))
    (code / "config.py").write_text(CONFIG.format(store=str(corpus_dir)))
    subprocess.run(["git", "add", "--all"], cwd=code, check=True)
    train = f"{sys.executable} -m lfr_jax.cli train config.py --run-dir"
    env = dict(JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_backend_optimization_level=0")
    env |= dict(JAX_COMPILATION_CACHE_DIR=f"{shared}/cache", JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")

    one = trial("a", command=f'{train} "$RUN_DIR"', env=env, grace_s=60.0)
    run = one.start("run")
    wait_for(lambda: one.step() >= 40, 200)
    first = one.machines
    first[1].terminate()
    wait_for(lambda: len(exit_codes(first)) == 2, 100)
    one.cloud.preempt("a")
    assert exit_codes(first) == ["75", "75"] and 40 <= one.step() < 200
    assert "1 preemptions, 0 failures, newest checkpoint 200" in ended(run)

    others = []
    for process, machine in enumerate(one.machines):
        peers = f"--distributed.coordinator {one.machines[0].address}:8476 --distributed.num-processes 2"
        words = [f"{name}={value}" for name, value in env.items()]
        line = f"cd lfr_tpu/a/code && {' '.join(words)} {train} {shared}/b {peers} --distributed.process-id {process}"
        others.append(desk.start("ssh", f"me@{machine.address}", "--", line))
    for other in others:
        ended(other)
    assert rows(one.run_dir) == rows(shared / "b")
