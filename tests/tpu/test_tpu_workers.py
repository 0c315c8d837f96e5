"""Answers of workers and resources of the API, as the controller reads them; no cloud."""

import dataclasses
import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2] / "tpu"))

import queued  # noqa: E402
import show  # noqa: E402
from fleet import Fleet, Node, Worker  # noqa: E402
from gcloud import Answer  # noqa: E402
from settings import Settings  # noqa: E402
from workers import WorkerError, Workers, replies  # noqa: E402

ASKED = Settings(name="t", project="p", zone="z", accelerator_type="v4-16", runtime_version="r", slices=2)


class Says:
    """In place of gcloud: gives the answers that it was told, one call after another."""

    dry_run = False

    def __init__(self, *answers: Answer):
        self.answers, self.lines = list(answers), []

    def line(self, *args: str) -> list[str]:
        return list(args)

    def execute(self, line: list[str], timeout: float | None = None) -> Answer:
        self.lines.append(line)
        return self.answers.pop(0)


@pytest.fixture(autouse=True)
def key(monkeypatch, tmp_path):
    monkeypatch.setattr("workers.KEY", tmp_path)


def answer(*lines: str, code: int | None = 0, err: str = "") -> Answer:
    return Answer(code, "".join(f"{line}\n" for line in lines), err)


def workers(*answers: Answer, slices: int = 1) -> Workers:
    nodes = {number: Node(f"t-{number}", "READY", "HEALTHY", hosts=2) for number in range(slices)}
    return Workers(Says(*answers), dataclasses.replace(ASKED, parallel=1), nodes)


RUNNING = "state=running run=a pid=7 code= stopped=0 step=30 silence=4 digest=code-1"


def test_status_of_every_worker():
    """Catches: a worker whose answer is taken for another's; one that is silent and counts as running, though gcloud
    ended with 0; a node without code that is called unreachable."""
    fine = answer(
        "Using ssh batch size of 1.", f"@lfr 0/1 status {RUNNING} line=a = b", f"@lfr 0/0 status {RUNNING} line="
    )
    first, second = workers(fine).status()
    assert first == Worker(0, 0, "running", "a", None, False, "7", 30, "code-1", "", 4.0)
    assert second == first._replace(index=1, line="a = b")
    assert [worker.state for worker in workers(answer(f"@lfr 0/1 status {RUNNING} line=")).status()] == [
        "unreachable",
        "running",
    ]
    nothing = answer("@lfr none", "@lfr none", code=1), answer("@lfr none", f"@lfr 1/1 status {RUNNING} line=")
    states = [worker.state for worker in workers(*nothing, slices=2).status()]
    assert states == ["none", "none", "none", "running"]


def test_what_is_silent_is_asked_again_alone():
    """Catches: gcloud's exit code 0 that stands for a worker; a worker that is given up at once; an endless try."""
    told = workers(answer("@lfr 0/0 launch id=a started=1 pid=1"), answer("@lfr 0/1 launch id=a started=1 pid=2"))
    told.launch("a")
    assert [word for line in told.gcloud.lines for word in line if "--worker" in word] == ["--worker=all", "--worker=1"]
    gone = answer(code=255, err="ssh: connect to host 10.0.0.2: timed out")
    with pytest.raises(WorkerError, match="slice/worker 0/1: ssh: connect to host 10.0.0.2: timed out"):
        workers(answer("@lfr 0/0 launch id=a started=1 pid=1"), gone, gone, gone).launch("a")
    with pytest.raises(WorkerError, match="slice/worker 0/0, 0/1: in use"):
        refused = [f"@lfr 0/{index} launch id=a started=0 line=in use" for index in (0, 1)]
        workers(answer(*refused, code=1)).launch("a")


def test_a_command_that_ran_twice_counts_once():
    """Catches: the first of two answers, when gcloud ran a command again."""
    twice = answer("@lfr 0/0 log run=a next=5", "old", "@lfr 0/0 log run=a next=9", "new")
    assert replies([twice], "log")[0, 0].rest == "new\n"
    assert replies([answer("said @lfr 0/0 log run=b", "@lfr 0/0 status run=c")], "log") == {}


def node(name: str, owner: str = "", **fields) -> dict:
    return (
        dict(name=f"projects/p/locations/z/nodes/{name}", queuedResource=f"x/queuedResources/{owner}" if owner else "")
        | fields
    )


def test_fleet():
    """Catches: somebody else's node that `down` would delete; one of ours that is not seen; an error not shown."""
    resource = dict(name="x/queuedResources/t", createTime="then", state=dict(state="FAILED"))
    resource["state"]["failedData"] = dict(error=dict(code=8, message="no capacity"))
    resource["tpu"] = dict(nodeSpec=[dict(node=dict(acceleratorType="v4-16"))])
    nodes = [
        node("t-0", "t", state="READY", health="HEALTHY", networkEndpoints=[{}, {}, {}], createTime="later"),
        node("t-1", "other"),
        node("t-2", "t"),
        node("t-3"),
        node("u", "t"),
    ]
    found = queued.fleet_of(ASKED, [dict(name="x/queuedResources/t2"), resource], nodes)
    assert found[:4] == ("FAILED", "no capacity", "then", "v4-16")
    assert found.nodes == (Node("t-0", "READY", "HEALTHY", 3, "later"), Node("t-1", "", "", 2, ""))
    assert found.strays == ("t-2", "u") and not found.others
    assert queued.fleet_of(ASKED, [resource], [node("t-1", state="READY")]).nodes[1].state == "READY"
    assert (
        queued.fleet_of(ASKED, [], [node("t-1", "t", state="READY")]).nodes[1].state == "READY"
    )  # it outlived its resource
    assert queued.fleet_of(ASKED, [], [node("t-3")]).empty()


def test_what_somebody_else_made():
    """Catches: a colleague's node of our name, made by hand, that `down` would delete, or pass over in silence; another
    one's TPU, from the same shipped file, that is taken for ours."""
    foreign = queued.fleet_of(ASKED, [], [node("t-1", state="READY"), node("t-0", state="DELETING")])
    assert foreign.empty() and foreign.others == ("t-1",)
    with pytest.raises(ValueError, match="found nodes t-1, which no queued resource made"):
        queued.check_same(ASKED, foreign)
    labels = {queued.OWNER: "ann-b"}
    for label in (dict(tpu=dict(nodeSpec=[dict(node=dict(labels=labels))])), {}):
        resource = dict(name="x/queuedResources/t", **label)
        made = queued.fleet_of(ASKED, [resource], [node("t-0", "t", labels=labels)])
        queued.check_same(dataclasses.replace(ASKED, owner="Ann.B"), made)
        with pytest.raises(ValueError, match="that ann-b made, expected one of me;"):
            queued.check_same(dataclasses.replace(ASKED, owner="me"), made)
    queued.check_same(ASKED, Fleet("ACTIVE"))  # made by hand: nobody's


def test_what_is_not_what_was_asked_for_is_left_alone():
    """Catches: a TPU of another type or number of slices that `up` or `run` would take or delete."""
    queued.check_same(ASKED, Fleet("ACTIVE", accelerator_type="v4-16"))
    for other in (Fleet("ACTIVE", accelerator_type="v4-32"), Fleet("ACTIVE", accelerator_type="v4-16", strays=("t",))):
        with pytest.raises(ValueError, match="expected 2 x v4-16"):
            queued.check_same(ASKED, other)


def test_costs(monkeypatch):
    """Catches: cores counted as chips; a price that was invented; slices that cost nothing; waiting that costs."""
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)  # 2023-11-14T22:13:20Z
    ago = "2023-11-14T20:43:20.123Z"
    found = Fleet("ACTIVE", created="2023-11-01T00:00:00Z", nodes=(Node("t-0", "READY", created=ago), Node("t-1")))
    assert show.cost(ASKED, found) == "used 12.00 chip-hours since its nodes were created; forgotten, it uses 384 a day"
    priced = show.cost(dataclasses.replace(ASKED, dollars_per_chip_hour=2.5), found)
    assert priced.endswith("a day ($30.00; $960.00 at $2.5 per chip-hour)")


def test_lines_of_a_log():
    """Catches: every step of a progress bar; a line cut in two by following; bytes asked for twice."""
    assert show.whole_lines("1 %\r2 %\nstep 1\n…", follow=True) == (["2 %", "step 1"], 3)
    assert show.whole_lines("a\n\nb", follow=False) == (["a", "", "b"], 0)
    assert show.whole_lines("", follow=True) == ([], 0)
