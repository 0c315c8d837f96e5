"""What `tpu/tpu.py run` does next, decision by decision: pure functions, no cloud."""

import dataclasses
import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2] / "tpu"))

import watch  # noqa: E402
from fleet import Fleet, Node, Worker  # noqa: E402
from settings import Settings  # noqa: E402
from store import Store  # noqa: E402
from watch import Memory, Seen  # noqa: E402

LIMITS = Settings(
    name="t",
    zone="us-central2-b",
    accelerator_type="v4-16",
    runtime_version="tpu-ubuntu2204-base",
    settle_s=60,
    grace_s=100,
    unready_s=900,
    unreachable_s=600,
    backoff_s=10,
    backoff_cap_s=35,
    max_failures=3,
    max_preemptions=4,
    max_creations=2,
    stall_s=3000,
)
READY = Fleet("ACTIVE", created="then", nodes=(Node("t", "READY", "HEALTHY", hosts=2),))
LAUNCHED = Memory(launch="a")
NOW = 1e9  # Unix seconds


def fleet(state: str = "ACTIVE", node: str = "READY", health: str = "HEALTHY", error: str = "") -> Fleet:
    return Fleet(state, error, "then", nodes=(Node("t-0", "READY", "HEALTHY"), Node("t-1", node, health)))


def workers(*ends: str, run: str = "a", stopped: bool = False) -> tuple[Worker, ...]:
    """Two workers by how they are: "running", "lost", "unreachable", "none" or an exit code."""
    return tuple(
        Worker(0, index, "exited", run, int(end), stopped)
        if end.isdigit()
        else Worker(0, index, end, run if end in ("running", "lost") else "", None, stopped)
        for index, end in enumerate(ends)
    )


def decided(memory: Memory, seen: Seen, late: float = 0) -> watch.Action:
    """The decision when all has been as it is for `late` seconds."""
    memory = watch.note(dataclasses.replace(memory, trouble="", since=0.0), seen, NOW)
    return watch.decide(memory, seen, LIMITS, NOW + late)


@pytest.mark.parametrize("state", ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "CREATING", "SUSPENDING"])
def test_waits_while_the_resource_is_on_its_way(state):
    """Catches: a resource that is deleted, or launched on, before it is there."""
    assert decided(Memory(), Seen(Fleet(state)), late=1e6)[:2] == ("wait", state)


@pytest.mark.parametrize(
    "memory, seen, kind, cause",
    [
        (Memory(), Fleet(), "create", ""),
        (LAUNCHED, Fleet(), "recreate", "preemption"),
        (Memory(), fleet("SUSPENDED"), "recreate", "preemption"),
        (Memory(), fleet("FAILED", error="no capacity"), "recreate", "creation"),
        (LAUNCHED, fleet(node="PREEMPTED"), "recreate", "preemption"),
        (LAUNCHED, fleet(node="TERMINATED"), "recreate", "preemption"),
        (LAUNCHED, fleet(node=""), "recreate", "preemption"),
        (Memory(), fleet(node="CREATING"), "wait", ""),
        (LAUNCHED, fleet(node="REPAIRING"), "wait", ""),
        (Memory(), fleet(health="UNHEALTHY_MAINTENANCE"), "wait", ""),
        (Memory(), READY, "launch", ""),
    ],
)
def test_fleet(memory, seen, kind, cause):
    """Catches: a vanished TPU that is not asked for again; a state that counts as the wrong thing, or as nothing;
    a launch on a node that is not READY, or not healthy."""
    action = decided(memory, Seen(seen))
    assert (action.kind, action.cause) == (kind, cause)
    assert "no capacity" in action.reason or seen.state != "FAILED"


def test_patience_with_a_node_ends():
    """Catches: an eternal wait for a node in repair; a recreation before its time."""
    seen = Seen(fleet(node="REPAIRING"))
    assert decided(LAUNCHED, seen, late=899).kind == "wait"
    assert decided(LAUNCHED, seen, late=900)[::2] == ("recreate", "preemption")


def test_an_unhealthy_node_that_trains_is_left_in_peace():
    """Catches: a run that is deleted because its node's health is bad, though all workers are at work."""
    seen = Seen(fleet(health="UNHEALTHY_TENSORFLOW"), workers("running", "running"))
    assert decided(LAUNCHED, seen, late=1e6).kind == "wait"


@pytest.mark.parametrize(
    "ends, late, kind, cause",
    [
        (("running", "running"), 1e6, "wait", ""),
        (("0", "0"), 0, "done", ""),
        (("0", "running"), 99, "wait", ""),  # not every worker
        (("0", "running"), 100, "restart", "failure"),  # one that waits for those that are done
        (("75", "75"), 0, "recreate", "preemption"),
        (("75", "0"), 0, "recreate", "preemption"),
        (("75", "1"), 0, "recreate", "preemption"),  # it lost its peer
        (("75", "running"), 99, "wait", ""),
        (("75", "running"), 100, "recreate", "preemption"),
        (("1", "running"), 59, "wait", ""),  # perhaps a preemption that the API does not tell yet
        (("1", "running"), 60, "restart", "failure"),
        (("134", "0"), 60, "restart", "failure"),
        (("lost", "running"), 59, "wait", ""),
        (("lost", "1"), 60, "recreate", "preemption"),
        (("unreachable", "1"), 599, "wait", ""),
        (("unreachable", "running"), 600, "recreate", "failure"),
        (("none", "running"), 0, "launch", ""),  # a launch that did not reach everybody
    ],
)
def test_workers(ends, late, kind, cause):
    """Catches: done before every worker exited with 0; an eternal wait for the rest; 75 that counts as a failure; a
    verdict before its time; a process without an exit code that counts as the program's fault."""
    action = decided(LAUNCHED, Seen(READY, workers(*ends)), late)
    assert (action.kind, action.cause) == (kind, cause)


def speaking(*silences: float | None, step: int = -1) -> Seen:
    """Workers at work, by the seconds since each wrote a line."""
    lines = [Worker(0, index, "running", "a", silence=silence, line="x") for index, silence in enumerate(silences)]
    return Seen(READY, tuple(lines), step)


def test_a_run_that_shows_no_life_is_a_failure():
    """Catches: an eternal wait; a verdict while one worker writes, or before its time; a worker that cannot tell taken
    for a silent one; a message that does not say who was heard last; `inf` that ends."""
    assert decided(LAUNCHED, speaking(2999, 1e6)).kind == "wait"
    assert decided(LAUNCHED, speaking(1e6, 0)).kind == "wait"
    assert decided(LAUNCHED, speaking(None, 1e6)).kind == "wait"
    dead = decided(LAUNCHED, speaking(1e6, 3000))
    assert (dead.kind, dead.cause) == (
        "restart",
        "failure",
    ) and "for 3000 s; last heard: worker 0/1, with 'x'" in dead.reason
    assert decided(dataclasses.replace(LAUNCHED, failed_step=-1), speaking(1e6, 3000)).kind == "give up"
    patient = dataclasses.replace(LIMITS, stall_s=float("inf"))
    assert watch.decide(watch.note(LAUNCHED, speaking(1e6), NOW), speaking(1e6), patient, 2 * NOW).kind == "wait"


def test_checkpoints_are_signs_of_life_too():
    """Catches: a run whose log goes elsewhere, ended while it writes checkpoints; an old checkpoint that counts anew; a
    sign of life of the attempt before."""
    memory = watch.note(LAUNCHED, speaking(9000, step=3), 10_000)
    assert (memory.heard, memory.heard_from) == (10_000, "checkpoint 3")
    memory = watch.note(memory, speaking(11_999, step=3), 12_999)
    assert memory.heard == 10_000 and watch.decide(memory, speaking(11_999), LIMITS, 12_999).kind == "wait"
    dead = watch.decide(memory, speaking(11_999), LIMITS, 13_000)
    assert dead.kind == "restart" and "last heard: checkpoint 3" in dead.reason
    before = Seen(READY, (Worker(0, 0, "running", "0", silence=0),))
    assert watch.note(memory, before, 14_000).heard == 10_000
    assert after(memory, "restart", "failure", step=3).heard == 0


def test_a_later_launch_is_the_one_to_watch():
    """Catches: a run that `launch` started after ours, which is launched over and over without effect; a leftover of
    before, or one that a part of the workers is at, taken for it."""
    for runs, expected in [("bb", "b"), ("00", "a"), ("ab", "a"), ("b", "b"), ("", "a")]:
        found = tuple(Worker(0, index, "running", run) for index, run in enumerate(runs))
        assert watch.note(LAUNCHED, Seen(READY, found), 0).launch == expected
        assert watch.note(Memory(), Seen(READY, found), 0).launch == ""


def test_a_run_that_somebody_stopped_is_not_resumed():
    """Catches: `stop` from another terminal, answered by a new TPU; an end before all are stopped."""
    assert decided(LAUNCHED, Seen(READY, workers("75", "running", stopped=True))).kind == "wait"
    assert decided(LAUNCHED, Seen(READY, workers("75", "137", stopped=True))).kind == "stopped"


def test_another_run_on_the_workers_is_not_ours():
    """Catches: an earlier run's exit codes that are taken for this one's."""
    assert decided(LAUNCHED, Seen(READY, workers("0", "0", run="0"))).kind == "launch"
    assert decided(Memory(), Seen(READY, workers("1", "1", run="before"))).kind == "launch"


@pytest.mark.parametrize("cause, budget", [("preemption", 4), ("failure", 3), ("creation", 2)])
def test_each_cause_has_its_own_budget(cause, budget):
    """Catches: one count for all; a budget that is one too large or too small."""
    field = f"{cause}s"
    others = {name: 100 for name in ("preemptions", "failures", "creations") if name != field}
    fine = Memory(step=5, failed_step=4, **others, **{field: budget - 1})
    spent = Memory(step=5, failed_step=4, **others, **{field: budget})
    assert watch.again(fine, LIMITS, "recreate", "why", cause).kind == "recreate"
    refused = watch.again(spent, LIMITS, "recreate", "why", cause)
    assert refused.kind == "give up" and "why" in refused.reason and f"max_{field}" in refused.reason


@pytest.mark.parametrize(
    "failed_step, step, kind",
    [(None, -1, "restart"), (-1, -1, "give up"), (20, 20, "give up"), (20, 21, "restart"), (20, 10, "give up")],
)
def test_refuses_to_fail_at_the_same_place_again(failed_step, step, kind):
    """Catches: broken code that is started forever; a first failure that is not forgiven; progress not counted."""
    memory = Memory(step=step, failed_step=failed_step)
    assert watch.failure(memory, LIMITS, "exit code 1").kind == kind


def test_preemptions_do_not_need_progress():
    """Catches: a spot TPU that is given up because it was preempted twice before the first checkpoint."""
    memory = Memory(preemptions=1, failed_step=-1)
    assert watch.again(memory, LIMITS, "recreate", "why", "preemption").kind == "recreate"


def after(memory: Memory, kind: str, cause: str, step: int, now: float = 1000.0) -> Memory:
    seen = Seen(READY, step=step)
    return watch.remember(watch.note(memory, seen, now), watch.Action(kind, "", cause), seen, LIMITS, now)


def test_what_is_written_down():
    """Catches: an attempt that is counted twice or not; a launch that is still thought to be on the workers; a
    deletion that another controller would not finish."""
    memory = after(LAUNCHED, "recreate", "preemption", step=7)
    assert (memory.preemptions, memory.failures, memory.failed_step) == (1, 0, None)
    assert (memory.launch, memory.deleting, memory.step) == ("", "then", 7)
    memory = after(dataclasses.replace(memory, launch="b"), "restart", "failure", step=6)
    assert (memory.preemptions, memory.failures, memory.failed_step, memory.deleting) == (1, 1, 7, None)
    assert watch.remember(LAUNCHED, watch.Action("wait", ""), Seen(READY), LIMITS, 0) == LAUNCHED
    for kind, outcome in [("done", "done"), ("stopped", "stopped"), ("give up", "gave up")]:
        assert watch.remember(LAUNCHED, watch.Action(kind, ""), Seen(READY), LIMITS, 0).outcome == outcome
    assert watch.remember(LAUNCHED, watch.Action("give up", "", "failure"), Seen(READY), LIMITS, 0).failures == 1


def test_waits_longer_each_time_until_a_checkpoint_is_written():
    """Catches: no backoff, one without a cap, one that a new checkpoint does not reset, one that is not waited for."""
    memory, delays = Memory(), []
    for step in (5, 5, 5, 5, 6, 6):
        memory = after(memory, "restart", "failure", step)
        delays.append(memory.not_before - 1000)
    assert delays == [10, 20, 35, 35, 10, 20]
    seen = Seen(READY, workers("1", "1", run="before"))
    assert watch.decide(memory, seen, LIMITS, 1019).kind == "wait"
    assert watch.decide(memory, seen, LIMITS, 1020).kind == "launch"
    assert watch.decide(memory, Seen(Fleet()), LIMITS, 1019).kind == "wait"


def test_trouble_has_a_clock_of_its_own():
    """Catches: patience that begins anew at each look, or goes on from trouble that has passed."""
    broken, fine = Seen(READY, workers("1", "running")), Seen(READY, workers("running", "running"))
    memory = watch.note(LAUNCHED, broken, 10)
    assert watch.note(memory, broken, 50).since == 10
    passed = watch.note(memory, fine, 60)
    assert passed.trouble == "" and watch.note(passed, broken, 70).since == 70
    assert watch.note(memory, Seen(fleet(node="REPAIRING")), 80).since == 80


def test_what_an_older_version_wrote_down_is_read(tmp_path):
    """Catches: a run that an upgrade of this program begins anew, or takes for dead as it never heard of it."""
    store = Store(tmp_path / "t")
    store.file.write_text(
        '{"launch": "a", "step": 3, "failures": 1, "trouble": "ended", "since": 5.0, "deleting": null}'
    )
    memory = store.load()
    assert memory == Memory(launch="a", step=3, failures=1, trouble="ended", since=5.0)
    seen = speaking(30, 1e6, step=3)
    assert watch.decide(watch.note(memory, seen, NOW), seen, LIMITS, NOW).kind == "wait"
