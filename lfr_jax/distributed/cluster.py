"""One run in several processes: how they find each other, and what must be equal on all of them."""

import atexit
import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import clusters, xla_bridge  # JAX has no public function that detects a cluster without connecting to it

import lfr_jax
from lfr_jax.config import DistributedConfig
from lfr_jax.distributed.peers import Peers, connect
from lfr_jax.terminal import flush_standard_streams

FLAGS = "--distributed.coordinator HOST:PORT --distributed.num-processes N --distributed.process-id I"


class Cluster(NamedTuple):
    """The processes of a run, and which of them this one is."""

    coordinator_address: str  # HOST:PORT of process 0
    num_processes: int
    process_id: int
    local_device_ids: list[int] | None  # the devices of this process; None: all devices of its host


@contextlib.contextmanager
def initialize(config: DistributedConfig) -> Iterator[Peers]:
    """Connects to the other processes of the run, if there are any, for as long as the block lasts.

    An inner `initialize` yields the peers of the outer one. If the block ends with an error, the other processes
    print it and end too.

    Raises:
      ValueError, OSError: as `detect_cluster` and `peers.connect` raise; or JAX was used before; or JAX gives this
        process another number.

    >>> with initialize(DistributedConfig(num_processes=1)) as peers:
    ...     peers.gather("one value")
    ['one value']
    """
    cluster = None if Peers.current else detect_cluster(config)
    if cluster is None:
        yield Peers.current or Peers()
        return
    if xla_bridge.backends_are_initialized():
        raise ValueError(
            "processes must connect before JAX is first used: call `train` before any computation; for several runs "
            "in one process, put `with cluster.initialize(...)` around them"
        )
    # Our own connection comes first: JAX aborts a process whose peers do not come, without a useful message.
    peers = connect(
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
            heartbeat_timeout_seconds=round(2 * config.heartbeat_timeout) + 10,  # so that our message comes first
        )
        check_process_index(peers)
        yield peers
    except SystemExit:  # not an error: after SIGTERM, all processes exit after the same step
        shutdown(peers)
        raise
    except BaseException as error:
        peers.abort(f"{type(error).__name__}: {error}".rstrip(": "))
        atexit.register(exit_at_once)
        raise
    shutdown(peers)


def shutdown(peers: Peers) -> None:
    """Waits until all processes have finished, and disconnects from them."""
    peers.gather()  # without a timeout: process 0 may still have a report to write
    jax.distributed.shutdown()
    peers.disconnect()


def check_process_index(peers: Peers) -> None:
    """Raises ValueError if JAX numbers this process differently. On TPUs the runtime sets JAX's number."""
    if (jax.process_index(), jax.process_count()) != (peers.process, peers.count):
        raise ValueError(
            f"JAX says that this is process {jax.process_index()} of {jax.process_count()}, the settings say "
            f"{peers.name()}: set --distributed.process-id by JAX's order of the hosts"
        )


def exit_at_once() -> None:
    """Exits before JAX's own exit handler, which would wait for the other processes. They have ended."""
    flush_standard_streams()
    os._exit(1)


def detect_cluster(config: DistributedConfig) -> Cluster | None:
    """The cluster in the settings, or else the one that JAX detects (TPU pod, Slurm, GKE, Open MPI). None: one process.

    Raises:
      ValueError: some settings are missing or invalid, or JAX detects a cluster and cannot read it.
    """
    given = {
        "--distributed.coordinator": config.coordinator or None,
        "--distributed.num-processes": config.num_processes or None,
        "--distributed.process-id": config.process_id if config.process_id >= 0 else None,
    }
    missing = [name for name, value in given.items() if value is None]
    if config.num_processes == 1:
        return None
    if len(missing) == len(given):
        cluster = detect_with_jax(round(config.start_timeout))
        return cluster if cluster and cluster.num_processes > 1 else None
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing: give all of {FLAGS}, or none where JAX detects the cluster")
    if not 0 <= config.process_id < config.num_processes:
        raise ValueError(
            f"found --distributed.process-id {config.process_id} of {config.num_processes}, expected 0 to "
            f"{config.num_processes - 1}"
        )
    return Cluster(config.coordinator, config.num_processes, config.process_id, None)


def detect_with_jax(timeout: int) -> Cluster | None:
    """The cluster that JAX detects from the environment; None if there is none."""
    try:
        cluster = Cluster(
            *clusters.ClusterEnv.auto_detect_unset_distributed_params(
                os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, timeout
            )
        )
    except RuntimeError as error:
        raise ValueError(
            f"JAX found a cluster and could not read it ({error}). Describe it: {FLAGS}; or train in this process "
            "alone: --distributed.num-processes 1"
        ) from None
    return None if cluster.num_processes is None else cluster


def require_one_process(command: str) -> None:
    """Raises ValueError in a cluster of several processes, for a `command` that one process does."""
    cluster = detect_cluster(DistributedConfig())
    if cluster and cluster.num_processes > 1:
        raise ValueError(
            f"`{command}` is for one process, and this is process {cluster.process_id} of {cluster.num_processes}: "
            "start it once, outside the cluster"
        )


def assert_equal_across_processes(peers: Peers, values: dict[str, Any]) -> None:
    """Raises ValueError on every process unless all of them pass the same `values` (by name; must be JSON)."""
    first, *others = peers.gather(values)
    differing = [
        f"{peers.name(process)} has {name} = {theirs.get(name)!r}, process 0 has {first.get(name)!r}"
        for process, theirs in enumerate(others, start=1)
        for name in first | theirs
        if theirs.get(name) != first.get(name)
    ]
    if differing:
        more = f" (and {len(differing) - 5} more)" if len(differing) > 5 else ""
        raise ValueError(
            f"the processes of a run must be started alike: {'; '.join(differing[:5])}{more}. Give all of them the "
            "same code, packages, settings and data, on machines of one kind"
        )


def versions() -> dict[str, str]:
    """What the results depend on beside settings and data: packages, and a digest of this package's source."""
    source = hashlib.sha256()
    for path in sorted(pathlib.Path(lfr_jax.__file__).parent.rglob("*.py")):
        source.update(path.read_bytes())
    return {"jax": jax.__version__, "numpy": np.__version__, "the source of lfr_jax": source.hexdigest()[:12]}
