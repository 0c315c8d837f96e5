"""The cloud that the tests of `tpu/` stand on (`tests/cloud`), driven with the real gcloud."""

import json
import sys

import pytest
from cloud.clusters import JOIN
from cloud.machines import Machine, wait_for
from cloud.tpus import STOCK_OUT, Fate
from running import PATIENCE

NODE = "--accelerator-type=v4-16", "--version=tpu-ubuntu2204-base"  # two VMs
QUEUED = "--accelerator-type=v4-16", "--runtime-version=tpu-ubuntu2204-base", "--spot"
STATE = "--format=value(state.state)"


@pytest.fixture(scope="module", autouse=True)
def there(desk):
    """A node of that name."""
    desk.gcloud("tpu-vm", "create", "there", *NODE)
    desk.gcloud("tpu-vm", "ssh", "there", "--command=true")  # makes gcloud's ssh key, which two at once cannot


@pytest.fixture
def quick(desk):
    """The same, with a gcloud that starts at once."""
    desk.hurry()
    return desk


def on(desk, worker: int, command: str, **options) -> str:
    """What a command says on a worker of the node `there`, without gcloud on the way."""
    return desk.run("ssh", f"me@127.1.0.{worker + 1}", "--", command, **options)


def test_node(desk):
    """Catches: a worker that ssh or scp leaves out, a home that a stopped node loses, a deleted node still there."""
    desk.gcloud("tpu-vm", "create", "a", *NODE, "--spot", "--metadata=key=value")
    node = json.loads(desk.gcloud("tpu-vm", "describe", "a", "--format=json"))
    assert (node["state"], node["health"], node["schedulingConfig"]["spot"]) == ("READY", "HEALTHY", True)
    assert desk.gcloud("tpu-vm", "list", "--format=value(name.basename())").split() == ["there", "a"]
    (desk.home / "file").write_text("sent")
    desk.gcloud("tpu-vm", "scp", "file", "a:", "--worker=all")
    desk.gcloud("tpu-vm", "stop", "a", "--async")
    desk.gcloud("tpu-vm", "start", "a", "--async")
    said = desk.gcloud("tpu-vm", "ssh", "a", "--worker=all", '--command=echo "$(hostname) $(cat file) $((6 * 7))"')
    assert {f"t1v-a-w-{worker} sent 42" for worker in (0, 1)} <= set(said.splitlines())
    desk.gcloud("tpu-vm", "delete", "a", "--async")
    assert "NOT_FOUND" in desk.gcloud("tpu-vm", "describe", "a", code=1)


def test_no_capacity(quick):
    """Catches: a stock-out that gcloud takes for success."""
    quick.cloud.fates.append(Fate(error=STOCK_OUT))
    assert "no more capacity in the zone" in quick.gcloud("tpu-vm", "create", "b", *NODE, code=1)
    assert "b" not in quick.cloud.nodes


def test_queued_resource(quick):
    """Catches: states out of order, an ACTIVE resource that is deleted without force, a name free too early."""
    quick.cloud.fates.append(Fate(("ACCEPTED", "WAITING_FOR_RESOURCES", "ACTIVE")))
    create = "queued-resources", "create", "q", *QUEUED, "--node-id=c"
    quick.gcloud(*create)  # reads the state once itself
    describe = "queued-resources", "describe", "q", STATE
    assert [quick.gcloud(*describe).strip() for _ in range(2)] == ["WAITING_FOR_RESOURCES", "ACTIVE"]
    assert quick.cloud.nodes["c"]["queuedResource"] == "projects/a-project/locations/us-central2-b/queuedResources/q"
    assert "ALREADY_EXISTS" in quick.gcloud(*create, code=1)
    assert "FAILED_PRECONDITION" in quick.gcloud("queued-resources", "delete", "q", code=1)
    quick.gcloud("queued-resources", "delete", "q", "--force")
    assert quick.gcloud(*describe).strip() == "DELETING"
    assert "NOT_FOUND" in quick.gcloud(*describe, code=1)
    assert "c" not in quick.cloud.nodes


def test_failed(quick):
    """Catches: a reason that does not reach the reader."""
    quick.cloud.fates.append(Fate(("PROVISIONING", "FAILED"), STOCK_OUT))
    quick.gcloud("queued-resources", "create", "f", *QUEUED, "--node-id=f")
    state = json.loads(quick.gcloud("queued-resources", "describe", "f", "--format=json"))["state"]
    assert (state["state"], state["failedData"]["error"]) == ("FAILED", STOCK_OUT)


def test_preempted(quick):
    """Catches: a process that outlives its machine, a queued resource that stays ACTIVE, a slice that goes with it."""
    quick.cloud.fates.append(Fate(("ACTIVE",)))
    quick.gcloud("queued-resources", "create", "p", *QUEUED, "--node-count=2")
    machines = [machine for name in ("p-0", "p-1") for machine in quick.cloud.machines[name]]
    run = "setsid sleep 1000 > /dev/null 2>&1 < /dev/null &"
    for machine in machines:
        quick.run("ssh", f"me@{machine.address}", "--", run)
        wait_for(lambda: list(machine.processes().values()) == ["sleep 1000"])
    quick.cloud.preempt("p-1")
    assert [sorted(machine.processes().values()) for machine in machines] == [["sleep 1000"]] * 2 + [[]] * 2
    assert "terminal state" in quick.gcloud("tpu-vm", "ssh", "p-1", "--command=true", code=1)
    quick.run("ssh", f"me@{machines[3].address}", "--", "true", code=255)
    states = [quick.gcloud("queued-resources", "describe", "p", STATE).strip() for _ in range(3)]
    assert states == ["SUSPENDING", "SUSPENDED", "SUSPENDED"]


def test_machine(desk):
    """Catches: a machine that sees others' processes, writes outside its folder, reaches a network, lacks its chips."""
    assert on(desk, 0, "ls -d /dev/accel*").split() == [f"/dev/accel{chip}" for chip in range(4)]
    assert on(desk, 1, "pgrep -c .") == "1\n"  # pgrep does not count itself
    assert "Read-only" in on(desk, 0, f"touch {desk.home}/x", code=1)
    outside = "import socket; socket.create_connection(('8.8.8.8', 53))"
    assert "unreachable" in on(desk, 0, f'{sys.executable} -SEc "{outside}"', code=1)
    on(desk, 0, f"echo shared > {desk.network.shared}/x")
    assert on(desk, 1, f"cat {desk.network.shared}/x") == "shared\n"


def test_connection(desk):
    """Catches: output that is lost, an exit code that is not the command's, a detached process that holds the line."""
    assert on(desk, 0, "echo out; echo err >&2; exit 7", code=7).splitlines() in (["out", "err"], ["err", "out"])
    on(desk, 0, "setsid sleep 1000 > /dev/null 2>&1 < /dev/null &")
    machine = desk.cloud.machines["there"][0]
    wait_for(lambda: list(machine.processes().values()) == ["sleep 1000"])
    machine.terminate()
    wait_for(lambda: not machine.processes())


def test_a_machine_that_is_gone(desk):
    """Catches: a machine that is taken for a later one, whose namespace was given its number."""
    made = []
    for number in range(1, 7):
        made.append(Machine(desk.network, f"127.200.0.{number}", "h", 1, "0x0063", {}))
        made[-1].kill()
    assert len({machine.namespace for machine in made}) == len(made)


def test_damaged_copy(quick):
    """Catches: a damaged copy that tells, or one that is whole."""
    machine = quick.cloud.machines["there"][1]
    (quick.home / "data").write_text("12345")
    machine.fault("damage", "data")
    quick.gcloud("tpu-vm", "scp", "data", "there:copy", "--worker=1")
    assert (machine.home / "copy").read_text() == "1234"


def test_jax_forms_a_cluster_over_slices(desk):
    """JAX finds all out by itself, as on TPU VMs. Catches: metadata that name a wrong worker, slice or coordinator."""
    desk.cloud.fates.append(Fate(("ACTIVE",)))
    desk.gcloud("queued-resources", "create", "m", *QUEUED, "--node-count=2", "--node-prefix=slice")
    (desk.network.shared / "join.py").write_text(JOIN)
    command = f"JAX_PLATFORMS=cpu JAX_COORDINATOR_PORT=8476 {sys.executable} {desk.network.shared}/join.py"
    machines = [machine for name in ("slice-0", "slice-1") for machine in desk.cloud.machines[name]]
    joins = [desk.start("ssh", f"me@{machine.address}", "--", command) for machine in machines]
    for number, join in enumerate(joins):
        assert join.communicate(timeout=PATIENCE)[0].splitlines()[-1] == f"ids [0, 1, 2, 3] {number}"
