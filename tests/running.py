"""Runs that stop: in this process by SIGTERM, in another by SIGKILL, and in several processes at a moment of one."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import jax
import pytest

from lfr_jax.train import loop

TESTS = pathlib.Path(__file__).parent
MOMENTS = ("step", "done", "begun", "score", "probe", "save", "time", "never")  # see killed_run.py
PATIENCE = 600  # seconds that no process needs, however busy the machine is: longer is a hang


def environment(devices: int) -> dict[str, str]:
    """What a process of so many CPU devices that trains is started with."""
    return os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
    }


def stop_after(monkeypatch, config, moment):
    """Begins a run, to which SIGTERM comes before the step number `moment`."""
    real, taken = loop.batches, []

    def batches(*args):
        for batch in real(*args):
            taken.append(batch)
            if len(taken) == moment:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
        patched.setattr(loop, "batches", batches)
        loop.train(config, quiet=True)
    assert stopped.value.code == 75


def killed(config, moment, count, folder) -> int:
    """Trains in another process until a moment of `killed_run.py`; its exit code, 0 or -9."""
    path = folder / "config.json"
    path.write_text(json.dumps(dataclasses.asdict(config)))
    command = [sys.executable, str(TESTS / "killed_run.py"), str(path), moment, str(count)]
    ended = subprocess.run(command, env=environment(devices=2), capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port for a process that is to listen on it, and that the kernel gives to nobody else while this is open."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as holder:  # bound, and so taken; not listening, and so others may who ask for it
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]


def slurm(process: int, count: int, port: int) -> dict[str, str]:
    """What `srun --ntasks=COUNT` tells each task."""
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
        "JAX_COORDINATOR_PORT": str(port),
    }


def ended(commands, environments, folders=None) -> list[tuple[int, str, str]]:
    """(exit code, standard output, standard error) of each process; whatever happens, none is left."""
    with contextlib.ExitStack() as ends:
        started = []
        for process, (command, more) in enumerate(zip(commands, environments)):
            pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            where = folders[process] if folders else None
            known = environment(devices=1) | more
            started.append(
                ends.enter_context(subprocess.Popen([sys.executable, *command], env=known, cwd=where, **pipes))
            )
            ends.callback(started[-1].kill)
        said = [process.communicate(timeout=PATIENCE) for process in started]
        return [(process.returncode, *texts) for process, texts in zip(started, said)]


def train_in_processes(
    config, count, folder, victim=None, moment=(), order="as-they-are", devices=1, folders=None
) -> list[tuple[int, str, str]]:
    """Trains in `count` processes, which Slurm would have started; the `victim` gets a signal at its moment.

    Returns (exit code, standard output, standard error) of each.
    """
    path = folder / "config.json"
    path.write_text(json.dumps(dataclasses.asdict(config)))
    moments = [moment if process == victim else ("never", 0, "-") for process in range(count)]
    commands = [[str(TESTS / "cluster_process.py"), str(path), *map(str, moment), order] for moment in moments]
    with held_port() as port:
        told = [slurm(process, count, port) | {"JAX_NUM_CPU_DEVICES": str(devices)} for process in range(count)]
        return ended(commands, told, folders)
