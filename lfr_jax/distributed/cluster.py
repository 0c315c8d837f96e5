"""One run in several processes: how they find each other, and what they must agree on before they begin."""

import atexit
import contextlib
import hashlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import clusters, xla_bridge  # in public, JAX detects a cluster only as it joins it, and may abort

import lfr_jax
from lfr_jax.config import DistributedConfig
from lfr_jax.distributed.peers import Peers, meet

HOW = "--distributed.coordinator HOST:PORT --distributed.num-processes N --distributed.process-id I"


class Cluster(NamedTuple):
    """The processes of a run, and which of them this one is."""

    coordinator_address: str  # HOST:PORT of process 0
    num_processes: int
    process_id: int
    local_device_ids: list[int] | None  # of the devices that are this process's; None: all of its host


@contextlib.contextmanager
def joined(config: DistributedConfig) -> Iterator[Peers]:
    """Joins the other processes of the run, if there are any; within another `joined` that one's peers are given.

    When it ends by an error, the other processes end too, and print what it was.

    Raises:
      ValueError, OSError: of `found` and `meet`; or JAX's backend runs already, or numbers the processes otherwise.
    """
    cluster = None if Peers.current else found(config)
    if cluster is None:
        yield Peers.current or Peers()
        return
    if xla_bridge.backends_are_initialized():
        raise ValueError(
            "a process joins others before it first uses JAX: call `train` before any computation, and for several "
            "runs in one process put `with distributed.joined(...)` around them"
        )
    peers = meet(
        cluster.coordinator_address,
        cluster.num_processes,
        cluster.process_id,
        config.start_timeout,
        config.heartbeat_timeout,
    )
    try:
        jax.distributed.initialize(
            **cluster._asdict(),
            cluster_detection_method="deactivate",
            initialization_timeout=max(10, round(config.start_timeout)),
            heartbeat_timeout_seconds=round(2 * config.heartbeat_timeout) + 10,  # ours speaks first
        )
        check_numbers(peers)
        yield peers
    except SystemExit:  # no error: all of them exit after the same step
        part(peers)
        raise
    except BaseException as error:
        peers.stop(f"{type(error).__name__}: {error}".rstrip(": "))
        atexit.register(end_at_once)
        raise
    part(peers)


def part(peers: Peers) -> None:
    """Leaves, once all have come to their end."""
    peers.gather()  # for as long as it takes: process 0 may have a report to write
    jax.distributed.shutdown()
    peers.leave()


def check_numbers(peers: Peers) -> None:
    """On TPUs it is the runtime that numbers the processes."""
    if (jax.process_index(), jax.process_count()) != (peers.process, peers.count):
        raise ValueError(
            f"JAX calls this one process {jax.process_index()} of {jax.process_count()}, and it came as "
            f"{peers.name()}; number the processes as the hosts are"
        )


def end_at_once() -> None:
    """Ends before JAX's own exit handler, which would wait for the others. They have ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def found(config: DistributedConfig) -> Cluster | None:
    """What the settings say; if they say nothing, what JAX detects of a TPU pod, Slurm, GKE or Open MPI. None: alone.

    Raises:
      ValueError: the settings are given in part, or make no sense; or a cluster that was detected cannot be read.
    """
    for name in ("start_timeout", "heartbeat_timeout"):
        if not getattr(config, name) > 0:
            raise ValueError(f"distributed.{name} is {getattr(config, name)}, expected seconds, more than 0")
    given = {
        "--distributed.coordinator": config.coordinator or None,
        "--distributed.num-processes": config.num_processes or None,
        "--distributed.process-id": config.process_id if config.process_id >= 0 else None,
    }
    missing = [name for name, value in given.items() if value is None]
    if config.num_processes == 1:
        return None
    if len(missing) == len(given):
        cluster = detected(round(config.start_timeout))
        return cluster if cluster and cluster.num_processes > 1 else None
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing: give all of {HOW}, or none where JAX detects the cluster")
    if not 0 <= config.process_id < config.num_processes:
        raise ValueError(
            f"found --distributed.process-id {config.process_id} of {config.num_processes}, expected 0 to "
            f"{config.num_processes - 1}"
        )
    return Cluster(config.coordinator, config.num_processes, config.process_id, None)


def detected(timeout: int) -> Cluster | None:
    """The cluster that JAX finds around this process."""
    try:
        cluster = Cluster(
            *clusters.ClusterEnv.auto_detect_unset_distributed_params(
                os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, timeout
            )
        )
    except RuntimeError as error:
        raise ValueError(
            f"JAX found a cluster and could not read it ({error}). Say what it is: {HOW}; or train on this machine "
            "alone: --distributed.num-processes 1"
        ) from None
    return None if cluster.num_processes is None else cluster


def refuse_many(command: str) -> None:
    """Raises ValueError in a cluster of several processes: `command` is work for one."""
    cluster = found(DistributedConfig())
    if cluster and cluster.num_processes > 1:
        raise ValueError(
            f"`{command}` is for one process, and this is process {cluster.process_id} of {cluster.num_processes}: "
            "start it once, on a machine of its own"
        )


def agree(peers: Peers, facts: dict[str, Any]) -> None:
    """Raises ValueError, on every process, if `facts` by name differ between them."""
    first, *others = peers.gather(facts)
    differing = [
        f"{peers.name(process)} has {name} = {held.get(name)!r}, process 0 has {first.get(name)!r}"
        for process, held in enumerate(others, start=1)
        for name in first | held
        if held.get(name) != first.get(name)
    ]
    if differing:
        more = f" (and {len(differing) - 5} more)" if len(differing) > 5 else ""
        raise ValueError(
            f"the processes of a run must be started alike: {'; '.join(differing[:5])}{more}. Give all of them the "
            "same code, packages, settings and data, on machines of one kind"
        )


def versions() -> dict[str, str]:
    """What the arithmetic depends on besides settings and data: packages, and this one's source as a digest."""
    source = hashlib.sha256()
    for path in sorted(pathlib.Path(lfr_jax.__file__).parent.rglob("*.py")):
        source.update(path.read_bytes())
    return {"jax": jax.__version__, "numpy": np.__version__, "the source of lfr_jax": source.hexdigest()[:12]}
