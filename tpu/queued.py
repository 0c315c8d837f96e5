"""Creates and deletes TPUs as queued resources. Another way to create TPUs would be another `Backend`.

Only this file knows how a TPU is created, since the Cloud TPU API gets no new generations (TPU7x exists only in
Compute Engine and GKE).
"""

from typing import Any, Protocol

from fleet import Fleet, Node, hosts
from gcloud import Gcloud
from settings import Settings

QUEUED = ("compute", "tpus", "queued-resources")
NODES = ("compute", "tpus", "tpu-vm")
OWNER = "lfr-owner"  # a label
LABELS = "--labels="
TIERS = {"spot": ["--spot"], "reserved": ["--reserved"], "on-demand": []}


class Backend(Protocol):
    """A way to create, see and delete a TPU. Each method may be called again at any time."""

    def look(self) -> Fleet:
        """The current state. Raises GcloudError."""

    def create(self) -> None:
        """Requests the TPU of the settings, and does not wait for it. Raises GcloudError."""

    def delete(self, fleet: Fleet) -> None:
        """Requests the deletion of everything in `fleet`. Raises GcloudError."""


class QueuedResources:
    """A queued resource called NAME, with nodes NAME or NAME-0, NAME-1, ..."""

    def __init__(self, gcloud: Gcloud, settings: Settings):
        self.gcloud, self.settings = gcloud, settings

    def look(self) -> Fleet:
        # `list`, not `describe`: it distinguishes a missing resource (absent) from a missing permission (an error).
        # Resources first: if one is ACTIVE, its nodes exist, and a list of nodes from before that would lack them.
        resources = self.gcloud.read(*QUEUED, "list")
        nodes = self.gcloud.read(*NODES, "list")
        return fleet_of(self.settings, resources, nodes)

    def create(self) -> None:
        settings = self.settings
        many = [f"--node-count={settings.slices}", f"--node-prefix={settings.name}"]
        which = many if settings.slices > 1 else [f"--node-id={settings.name}"]
        labels = [f"{OWNER}={settings.owner_label()}"]  # gcloud uses only the last --labels
        labels += [flag.removeprefix(LABELS) for flag in settings.create_flags if flag.startswith(LABELS)]
        others = [flag for flag in settings.create_flags if not flag.startswith(LABELS)]
        self.gcloud.text(
            *(*QUEUED, "create", settings.name),
            f"--accelerator-type={settings.accelerator_type}",
            f"--runtime-version={settings.runtime_version}",
            *(*which, *TIERS[settings.provisioning], LABELS + ",".join(labels), *others),
        )

    def delete(self, fleet: Fleet) -> None:
        if fleet.state and fleet.state != "DELETING":
            self.gcloud.text(*QUEUED, "delete", self.settings.name, "--force")
        if not fleet.state:  # otherwise they are deleted with their resource
            for name in [*(node.name for node in fleet.nodes if node.state not in ("", "DELETING")), *fleet.strays]:
                self.gcloud.text(*NODES, "delete", name)


def fleet_of(settings: Settings, resources: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> Fleet:
    """The fleet of these settings, from all queued resources and nodes of a zone.

    A node of another queued resource is not ours, whatever its name. A node of no queued resource is ours only if our
    resource exists, since that may have made it.
    """
    resource = next((found for found in resources if short(found["name"]) == settings.name), {})
    mine = {short(node["name"]): node for node in nodes if short(node.get("queuedResource", "")) == settings.name}
    unowned = {short(node["name"]): node for node in nodes if not node.get("queuedResource")}
    unowned = {name: node for name, node in unowned.items() if name in settings.node_names()}
    if resource:
        mine, unowned = unowned | mine, {}
    spec = (resource.get("tpu", {}).get("nodeSpec") or [{}])[0].get("node", {})
    owners = [made.get("labels", {}).get(OWNER, "") for made in (spec, *mine.values())]
    seen = []
    for name in settings.node_names():
        node = mine.pop(name, None)
        # Before the node exists, its type says how many hosts it will have.
        count = len(node.get("networkEndpoints", [])) if node else 0
        seen.append(
            Node(
                name,
                state=node.get("state", "STATE_UNSPECIFIED") if node else "",
                health=node.get("health", "") if node else "",
                hosts=count or hosts(settings.accelerator_type),
                created=node.get("createTime", "") if node else "",
            )
        )
    state = resource.get("state", {})
    error = state.get("failedData", {}).get("error", {})
    return Fleet(
        state=state.get("state", "STATE_UNSPECIFIED") if resource else "",
        error=error.get("message", str(error or "")),
        created=resource.get("createTime", ""),
        accelerator_type=spec.get("acceleratorType", ""),
        nodes=tuple(seen),
        strays=tuple(sorted(mine)),
        others=tuple(sorted(name for name, node in unowned.items() if node.get("state") != "DELETING")),
        owner=max(owners),
    )


def short(name: str) -> str:
    return name.rpartition("/")[2]


def check_same(settings: Settings, fleet: Fleet) -> None:
    """Raises ValueError if something with this name exists that the settings do not describe."""
    check_owner(settings, fleet)
    if fleet.others:
        raise ValueError(
            f"{settings.name}: found nodes {', '.join(fleet.others)}, which no queued resource made, "
            "expected none of this name; choose another --name"
        )
    other_type = fleet.state and fleet.accelerator_type not in ("", settings.accelerator_type)
    if other_type or fleet.strays:
        found = fleet.accelerator_type if other_type else f"further nodes {', '.join(fleet.strays)}"
        raise ValueError(
            f"{settings.name}: found {found} under this name, expected {settings.slices} x "
            f"{settings.accelerator_type}; choose another --name, or delete it: tpu/tpu.py down"
        )


def check_owner(settings: Settings, fleet: Fleet) -> None:
    """Raises ValueError if the TPU has another owner."""
    if fleet.owner not in ("", settings.owner_label()):
        raise ValueError(
            f"{settings.name}: found a TPU of this name that {fleet.owner} made, expected one of "
            f"{settings.owner_label()}; choose another --name, or, if you may, pass --owner {fleet.owner}"
        )
