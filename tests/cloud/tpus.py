"""The TPU VMs and queued resources of a project, over machines of this machine, and what befalls them.

Tests steer a `Cloud` from the same process: `fates` says what becomes of the next resources asked for, `preempt` and
`vanish` take machines away, and `nodes` and `queued` are the resources as JSON, to be read and edited.
"""

import datetime
import threading
from collections import deque
from typing import Any, NamedTuple

from cloud.machines import Machine, Network

FAMILIES = {  # what the number in a type's name counts per chip, most chips of one VM, PCI device id
    "v2": (2, 4, "0x0027"),
    "v3": (2, 4, "0x0027"),
    "v4": (2, 4, "0x005e"),
    "v5p": (2, 4, "0x0062"),
    "v5litepod": (1, 8, "0x0063"),
    "v6e": (1, 8, "0x006f"),
}
STOCK_OUT = {
    "code": 8,  # RESOURCE_EXHAUSTED
    "message": 'There is no more capacity in the zone "us-central2-b"; you can try in another zone where Cloud TPU '
    "Nodes are offered (see https://cloud.google.com/tpu/docs/regions) [EID: 0x1e8d1b8a2f6d2a4]",
}


class Refused(Exception):
    """Answered with an error: its HTTP status, Google's name for it, a message."""


class Fate(NamedTuple):
    """What becomes of a resource that is asked for.

    A queued resource shows `states` one after another, each to one reader, and stays in the last; if that is FAILED,
    `error` is the reason. The creation of a node by itself ends with `error` if there is one.
    """

    states: tuple[str, ...] = ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    error: dict[str, Any] | None = None


class Cloud:
    """One project with TPUs in every zone."""

    def __init__(self, network: Network):
        self.network = network
        self.lock = threading.RLock()  # held by whoever reads or changes what follows
        self.fates: deque[Fate] = deque()  # of the next ones asked for; after them all goes well
        self.nodes: dict[str, dict] = {}  # by short name
        self.queued: dict[str, dict] = {}
        self.machines: dict[str, list[Machine]] = {}  # of each node that runs, in the order of workers
        self.ahead: dict[str, deque[str]] = {}  # states that a queued resource is yet to show
        self.errors: dict[str, dict | None] = {}  # of queued resources, should they fail
        self.attributes: dict[str, dict[str, str]] = {}  # metadata of machines by address
        self.made = 0  # nodes so far

    def fate(self) -> Fate:
        return self.fates.popleft() if self.fates else Fate()

    def now(self) -> str:
        return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")

    def preempt(self, name: str) -> None:
        """The node's machines are gone at once: it is PREEMPTED, its queued resource SUSPENDING, then SUSPENDED."""
        with self.lock:
            self.halt(name)
            self.nodes[name]["state"] = "PREEMPTED"
            self.suspend(name)

    def vanish(self, name: str) -> None:
        """The node is no more, and nothing says why."""
        with self.lock:
            self.halt(name)
            del self.nodes[name]

    def suspend(self, name: str) -> None:
        """What happens to the queued resource of a node, if it has one, when the node goes."""
        if queued := self.nodes[name].get("queuedResource"):
            self.ahead[short(queued)] = deque(["SUSPENDING", "SUSPENDED"])

    def halt(self, name: str) -> None:
        for machine in self.machines.pop(name, []):
            machine.kill()

    def boot(self, name: str) -> None:
        """Starts the machines of a node, which is READY then; after `halt`, with what was in their homes."""
        node = self.nodes[name]
        node["state"] = "READY"
        _, chips, device = shape(node["acceleratorType"])
        self.machines[name] = []
        for worker, endpoint in enumerate(node["networkEndpoints"]):
            address = endpoint["ipAddress"]
            # JAX takes a machine without libtpu for no TPU VM unless it is told, and asks for metadata at this address.
            env = dict(JAX_FORCE_TPU_INIT="1", GCE_METADATA_IP=f"{address}:{self.network.port}")
            machine = Machine(self.network, address, f"t1v-{name}-w-{worker}", chips, device, env)
            self.machines[name].append(machine)

    def make(self, place: str, names: list[str], asked: dict, **fields: Any) -> None:
        """Nodes as `asked`, CREATING: slices of one job if there are several."""
        vms, _, _ = shape(asked["acceleratorType"])
        slices = range(self.made + 1, self.made + 1 + len(names))
        self.made += len(names)
        for number, name in zip(slices, names):
            addresses = [f"127.{number}.0.{worker + 1}" for worker in range(vms)]
            self.nodes[name] = asked | fields
            self.nodes[name] |= dict(name=f"{place}/nodes/{name}", id=str(8_000_000_000_000_000_000 + number))
            self.nodes[name] |= dict(state="CREATING", health="HEALTHY", apiVersion="V2", createTime=self.now())
            self.nodes[name]["networkEndpoints"] = [dict(ipAddress=address, port=8470) for address in addresses]
            known = dict(ACCELERATOR_TYPE=asked["acceleratorType"], NODE_ID=name)
            if len(names) > 1:
                known["MEGASCALE_COORDINATOR_ADDRESS"] = f"127.{slices[0]}.0.1:8080"
                known["MEGASCALE_NUM_SLICES"] = str(len(names))
                known["MEGASCALE_SLICE_ID"] = str(number - slices[0])
            for worker, address in enumerate(addresses):
                self.attributes[address] = asked.get("metadata", {}) | {
                    "accelerator-type": asked["acceleratorType"],
                    "agent-worker-number": str(worker),
                    "instance-id": name,
                    "tpu-env": "".join(f"{key}: '{value}'\n" for key, value in known.items()),
                    "worker-network-endpoints": ",".join(f"unknown:unknown:{address}" for address in addresses),
                }

    def slices(self, name: str) -> list[str]:
        """Names of the nodes of a queued resource."""
        spec = self.queued[name]["tpu"]["nodeSpec"][0]
        if "nodeId" in spec:
            return [spec["nodeId"]]
        several = spec["multisliceParams"]
        return [f"{several.get('nodeIdPrefix', name)}-{number}" for number in range(several["nodeCount"])]

    def show(self, name: str) -> None:
        """A queued resource enters the next of its states, if it is to change."""
        if not self.ahead[name]:
            return
        queued, state = self.queued[name], self.ahead[name].popleft()
        queued["state"] = {"state": state}
        if state in ("PROVISIONING", "ACTIVE") and not all(node in self.nodes for node in self.slices(name)):
            place = queued["name"].rpartition("/queuedResources/")[0]
            asked = queued["tpu"]["nodeSpec"][0]["node"]
            scheduling = {"schedulingConfig": {"spot": True}} if "spot" in queued else {}
            self.make(place, self.slices(name), asked, queuedResource=queued["name"], **scheduling)
        if state == "ACTIVE":
            for node in self.slices(name):
                self.boot(node)
        if state in ("FAILED", "GONE"):
            for node in self.slices(name):
                self.nodes.pop(node, None)
        if state == "FAILED":
            queued["state"]["failedData"] = {"error": self.errors[name]}
        if state == "GONE":
            del self.queued[name]


def short(name: str) -> str:
    return name.rpartition("/")[2]


def shape(accelerator_type: str) -> tuple[int, int, str]:
    """VMs of a slice, chips of a VM, PCI device id of a chip."""
    family, _, number = accelerator_type.rpartition("-")
    if family not in FAMILIES or not number.isdigit():
        raise Refused(400, "INVALID_ARGUMENT", f'Cloud TPU accelerator type "{accelerator_type}" not found')
    counted, most, device = FAMILIES[family]
    chips = int(number) // counted
    vms = 1 if chips <= most else chips // 4
    return vms, chips // vms, device
