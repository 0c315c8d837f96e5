"""`tpu/slurm/train.sbatch`, with an `srun` that starts the tasks here, and an `scontrol` that writes down its words."""

import os
import pathlib
import subprocess
import sys

import pytest
from cloud.clusters import JOIN
from running import PATIENCE, held_port

from lfr_jax.distributed.preemption import PREEMPTED

FILE = pathlib.Path(__file__).parents[2] / "tpu" / "slurm" / "train.sbatch"
SRUN = """#!/usr/bin/env bash
[ "$1" = --wait=300 ] || exit 9
shift
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=1 worst=0
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
wait $first; code=$?
wait $second || code=$?
exit $code
"""


def submit(tmp_path, lfr: str, *words: str, **env: str) -> tuple[int, list[str], str]:
    """Exit code of the script, what it told scontrol, and what it printed."""
    scontrol = f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n'
    for name, text in dict(srun=SRUN, scontrol=scontrol, lfr=lfr).items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = dict(os.environ) | dict(PATH=f"{tmp_path}:{os.environ['PATH']}", SLURM_JOB_ID="7") | env
    done = subprocess.run(["bash", FILE, *words], env=env, capture_output=True, text=True, timeout=PATIENCE)
    told = (tmp_path / "told").read_text().splitlines() if (tmp_path / "told").exists() else []
    return done.returncode, told, done.stdout + done.stderr


@pytest.mark.parametrize("code, told", [(0, []), (1, []), (PREEMPTED, ["requeue 7"]), (134, [])])
def test_queued_again(tmp_path, code, told):
    """Catches: a run that was saved and is not queued again, one that failed and is, an exit code that is lost."""
    lfr = f'#!/bin/sh\n[ "$SLURM_PROCID" = 0 ] || exit 0\nexit {code}\n'
    assert submit(tmp_path, lfr, "c.py")[:2] == (code, told)


def test_arguments(tmp_path):
    """Catches: words that are split or lost on the way, a setup that is not done, or whose failure is passed over."""
    lfr = '#!/bin/sh\n[ "$SLURM_PROCID" = 1 ] || printf "%s|" "$MADE" "$@"\n'
    said = submit(tmp_path, lfr, "c.py", "--run-dir", "a b", "--x", "$HOME", SETUP="export MADE=1")
    assert said == (0, [], "1|train|c.py|--run-dir|a b|--x|$HOME|")
    assert submit(tmp_path, lfr, "c.py", SETUP="false")[0] == 1
    assert submit(tmp_path, lfr)[0] == 2


@pytest.mark.slow
def test_cluster(tmp_path):
    """Catches: a task that does not see what Slurm tells it."""
    with held_port() as port:
        env = dict(JAX_PLATFORMS="cpu", JAX_COORDINATOR_PORT=str(port))
        code, _, said = submit(tmp_path, f"#!{sys.executable}\n{JOIN}", "c.py", **env)
    assert code == 0 and {"ids [0, 1] 0", "ids [0, 1] 1"} <= set(said.splitlines())


def test_time_to_save():
    """Catches: a job that gets no SIGTERM before its time is up, or whose log begins anew when it is queued again."""
    options = [line.removeprefix("#SBATCH ") for line in FILE.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=TERM@300", "--requeue", "--open-mode=append"} <= set(options)
