"""The state of a TPU: its queued resource, its nodes (slices), and their workers (hosts).

Also the chips and hosts of a type, which follow from its name, such as "v5p-64".
"""

import datetime
import math
import re
from typing import Literal, NamedTuple

# Per generation: what one chip adds to the number in the name (2: cores are counted), and chips per host.
GENERATIONS = {"v2": (2, 4), "v3": (2, 4), "v4": (2, 4), "v5p": (2, 4), "v5litepod": (1, 4), "v6e": (1, 4)}
ONE_HOST = {"v5litepod": 8, "v6e": 8}  # a slice of up to so many chips has one host


class Node(NamedTuple):
    """One slice."""

    name: str
    state: str = ""  # from the API: READY, PREEMPTED, ...; "": the node does not exist
    health: str = ""  # HEALTHY, TIMEOUT, ...; "": unknown
    hosts: int = 1
    created: str = ""  # RFC 3339


class Fleet(NamedTuple):
    """A queued resource and the nodes that it should have, in slice order."""

    state: str = ""  # ACCEPTED ... ACTIVE ... FAILED; "": it does not exist
    error: str = ""  # why it FAILED
    created: str = ""  # RFC 3339; an earlier resource of the same name has another time
    accelerator_type: str = ""
    nodes: tuple[Node, ...] = ()
    strays: tuple[str, ...] = ()  # more nodes of this resource than the settings describe
    others: tuple[str, ...] = ()  # nodes with our names that no queued resource made, so not ours
    owner: str = ""  # who created it, if with tpu.py

    def ready(self) -> bool:
        return self.state == "ACTIVE" and all(node.state == "READY" for node in self.nodes)

    def reachable(self) -> dict[int, Node]:
        """The READY nodes, by slice number."""
        return {number: node for number, node in enumerate(self.nodes) if node.state == "READY"}

    def empty(self) -> bool:
        """Whether neither the resource nor a node of it is left."""
        return not self.state and not self.strays and not any(node.state for node in self.nodes)


class Worker(NamedTuple):
    """One host, and the trainer on it."""

    slice: int
    index: int
    state: Literal["unreachable", "none", "running", "exited", "lost"]  # lost: ended without an exit code
    run: str = ""  # launch id
    code: int | None = None  # exit code
    stopped: bool = False  # `stop` was called for this run
    pid: str = ""
    step: int = -1  # newest checkpoint below a local run_dir
    digest: str = ""  # of the code that was pushed
    line: str = ""  # last line of its log
    silence: float | None = None  # seconds since it was written, by the worker's clock; None: unknown

    def __str__(self) -> str:
        return f"{self.slice}/{self.index}"


def chips(accelerator_type: str) -> int:
    """Chips of one slice.

    >>> chips("v5litepod-8"), chips("v4-32"), chips("v6e-256")
    (8, 16, 256)

    Raises:
      ValueError: the generation is unknown.
    """
    match = re.fullmatch(r"(\w+)-(\d+)", accelerator_type)
    if not match or match[1] not in GENERATIONS:
        known = ", ".join(f"{name}-N" for name in GENERATIONS)
        raise ValueError(f"accelerator_type: found {accelerator_type!r}, expected one of {known}; v5e is v5litepod")
    return max(1, int(match[2]) // GENERATIONS[match[1]][0])


def hosts(accelerator_type: str) -> int:
    """Hosts of one slice.

    >>> hosts("v5litepod-8"), hosts("v6e-16"), hosts("v5p-64")
    (1, 4, 8)
    """
    generation, count = accelerator_type.partition("-")[0], chips(accelerator_type)
    return 1 if count <= ONE_HOST.get(generation, 0) else math.ceil(count / GENERATIONS[generation][1])


def age_hours(created: str, now: float) -> float:
    """Hours from an RFC 3339 time to `now` (Unix seconds)."""
    return max(0.0, now - datetime.datetime.fromisoformat(created).timestamp()) / 3600


def chip_hours(fleet: Fleet, accelerator_type: str, now: float) -> float:
    """Chip-hours since the nodes were created, by the clock of this machine."""
    return sum(chips(accelerator_type) * age_hours(node.created, now) for node in fleet.nodes if node.created)
