"""Decides what `run` does next. All functions are pure: they take what was seen and the memory, and call nothing.

README.md has the rules as a table. A preemption is caused by the cloud, and is expected. A failure is caused by the
program: if it fails twice without a new checkpoint in between, it is not started a third time.
"""

import dataclasses
from typing import Literal, NamedTuple

from fleet import Fleet, Node, Worker
from settings import Settings

GONE = {"", "PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING", "HIDING", "HIDDEN", "UNKNOWN"}
HEALTHY = {"", "HEALTH_UNSPECIFIED", "HEALTHY"}
RESUME = 75  # the trainer's exit code after SIGTERM: everything is saved

Kind = Literal["wait", "create", "recreate", "launch", "restart", "done", "stopped", "give up"]
Cause = Literal["", "preemption", "failure", "creation"]
Trouble = Literal["", "unready", "unreachable", "ended", "parted"]  # parted: some workers are done, others are not


class Seen(NamedTuple):
    """One look. `workers`: all of them if the fleet is ready, otherwise none."""

    fleet: Fleet
    workers: tuple[Worker, ...] = ()
    step: int = -1  # newest checkpoint; -1: none


@dataclasses.dataclass(frozen=True)
class Memory:
    """State between two looks. It is written to disk, so that another controller can continue."""

    run_dir: str = ""
    command: str = ""
    digest: str = ""  # of the code; after a preemption the same code is pushed again, not what was edited since
    launch: str = ""  # id of the launch on the workers; "": none
    step: int = -1  # newest checkpoint seen so far
    preemptions: int = 0
    failures: int = 0
    creations: int = 0  # resources that FAILED
    failed_step: int | None = None  # newest checkpoint at the last failure
    event_step: int = -1  # ... at the last preemption, failure or failed creation
    streak: int = 0  # number of these since the newest checkpoint
    not_before: float = 0.0  # earliest next attempt; Unix seconds
    trouble: Trouble = ""  # what is wrong now ...
    since: float = 0.0  # ... since when
    heard: float = 0.0  # last sign of life of the run; Unix seconds; 0: none yet
    heard_from: str = ""  # where it came from
    deleting: str | None = None  # creation time of the resource that is being deleted
    outcome: Literal["", "done", "stopped", "gave up"] = ""


class Action(NamedTuple):
    kind: Kind
    reason: str
    cause: Cause = ""  # the budget that it counts against


def note(memory: Memory, seen: Seen, now: float) -> Memory:
    """Updates the memory: newest checkpoint, last sign of life, what is wrong and since when.

    If all workers have a later launch than ours, that one is watched from now on.
    """
    memory = dataclasses.replace(memory, launch=latest(memory, seen.workers))
    trouble = trouble_of(memory, seen)
    since = memory.since if trouble == memory.trouble else now
    heard, heard_from = last_heard(memory, seen, now)
    step = max(memory.step, seen.step)
    return dataclasses.replace(memory, step=step, trouble=trouble, since=since, heard=heard, heard_from=heard_from)


def latest(memory: Memory, workers: tuple[Worker, ...]) -> str:
    """The launch to watch. Ids begin with their time, so a later launch has a greater id."""
    runs = {worker.run for worker in workers}
    return max(memory.launch, *runs) if memory.launch and len(runs) == 1 else memory.launch


def last_heard(memory: Memory, seen: Seen, now: float) -> tuple[float, str]:
    """Time and source of the last sign of life: a line in a worker's log, or a new checkpoint."""
    signs = [(memory.heard, memory.heard_from)]
    for worker in launched(memory, seen.workers):
        if worker.silence is not None:
            signs.append((now - worker.silence, f"worker {worker}, with {worker.line!r}"))
    if seen.step > memory.step:
        signs.append((now, f"checkpoint {seen.step}"))
    return max(signs, key=lambda sign: sign[0])


def launched(memory: Memory, workers: tuple[Worker, ...]) -> list[Worker]:
    """Workers whose newest run is our launch."""
    return [worker for worker in workers if memory.launch and worker.run == memory.launch]


def trouble_of(memory: Memory, seen: Seen) -> Trouble:
    if seen.fleet.state != "ACTIVE":
        return ""
    if any(unready(node, memory.launch) for node in seen.fleet.nodes):
        return "unready"
    if any(worker.state == "unreachable" for worker in seen.workers):
        return "unreachable"
    ours = launched(memory, seen.workers)
    if any(worker.state in ("exited", "lost") and worker.code != 0 for worker in ours):
        return "ended"
    return "parted" if any(worker.code == 0 for worker in ours) else ""


def unready(node: Node, launch: str) -> bool:
    """Whether a node cannot be used. An unhealthy node may finish a run that is already on it."""
    return node.state != "READY" or (not launch and node.health not in HEALTHY)


def decide(memory: Memory, seen: Seen, limits: Settings, now: float) -> Action:
    """The next action. `memory` must come from `note`."""
    action = decide_fleet(memory, seen.fleet, limits, now)
    if action.kind != "launch" or not seen.workers:
        return action
    return decide_workers(memory, seen.workers, limits, now)


def decide_fleet(memory: Memory, fleet: Fleet, limits: Settings, now: float) -> Action:
    """The next action, by the state of the TPU alone. "launch": the TPU is ready."""
    late = now - memory.since
    if fleet.state == "":
        if memory.launch:
            return again(memory, limits, "recreate", "the queued resource is gone", "preemption")
        return timely(memory, Action("create", "there is no queued resource of this name"), now)
    if fleet.state == "FAILED":
        return again(memory, limits, "recreate", f"FAILED: {fleet.error}", "creation")
    if fleet.state == "SUSPENDED":
        return again(memory, limits, "recreate", "SUSPENDED: the TPU was preempted", "preemption")
    if fleet.state != "ACTIVE":
        return Action("wait", fleet.state)
    gone = [f"{node.name} is {node.state or 'not there'}" for node in fleet.nodes if node.state in GONE]
    if gone:
        return again(memory, limits, "recreate", ", ".join(gone), "preemption")
    slow = [f"{node.name} is {node.state} {node.health}" for node in fleet.nodes if unready(node, memory.launch)]
    if slow and late < limits.unready_s:
        return Action("wait", ", ".join(slow))
    if slow:
        return again(memory, limits, "recreate", f"{', '.join(slow)} for {late:.0f} s", "preemption")
    return Action("launch", "the TPU is ready")


def decide_workers(memory: Memory, workers: tuple[Worker, ...], limits: Settings, now: float) -> Action:
    """The next action on a ready TPU, by the state of its workers."""
    late = now - memory.since
    silent = [worker for worker in workers if worker.state == "unreachable"]
    if silent and late < limits.unreachable_s:
        return Action("wait", f"no answer from {named(silent)}")
    if silent:
        reason = f"no answer from {named(silent)} for {late:.0f} s"
        return again(memory, limits, "recreate", reason, "failure")
    if not memory.launch or any(worker.run != memory.launch for worker in workers):
        return timely(memory, Action("launch", "the TPU is ready"), now)

    running = [worker for worker in workers if worker.state == "running"]
    if any(worker.stopped for worker in workers):
        return Action("wait", "being stopped") if running else Action("stopped", "somebody stopped the run")
    if all(worker.code == 0 for worker in workers):
        return Action("done", "every worker exited with 0")
    saved = [worker for worker in workers if worker.code == RESUME]
    lost = [worker for worker in workers if worker.state == "lost"]
    failed = [worker for worker in workers if worker.code not in (None, 0, RESUME)]
    if saved:
        if running and late < limits.grace_s:
            return Action("wait", f"{named(saved)} saved and exited with {RESUME}; {named(running)} still runs")
        return again(memory, limits, "recreate", f"{named(saved)} saved and exited with {RESUME}", "preemption")
    if (failed or lost) and late < limits.settle_s:
        return Action("wait", f"{ends(failed + lost)}; is this a preemption?")
    if lost:
        return again(memory, limits, "recreate", ends(lost), "preemption")
    if failed:
        return failure(memory, limits, ends(failed))
    done = [worker for worker in workers if worker.code == 0]
    if done:
        reason = f"{named(done)} exited with 0, {named(running)} still runs"
        return failure(memory, limits, reason) if late >= limits.grace_s else Action("wait", reason)
    quiet = now - memory.heard
    if quiet >= limits.stall_s and all(worker.silence is not None for worker in running):
        reason = f"no line in any log and no checkpoint for {quiet:.0f} s; last heard: {memory.heard_from}"
        return failure(memory, limits, reason)
    return Action("wait", f"{named(running)} running, newest checkpoint {memory.step if memory.step >= 0 else 'none'}")


def failure(memory: Memory, limits: Settings, reason: str) -> Action:
    """The action after a failure of the program."""
    return again(memory, limits, "restart", reason, "failure")


def again(memory: Memory, limits: Settings, kind: Kind, reason: str, cause: Cause) -> Action:
    """The action `kind` for another attempt, or "give up" if the budget of `cause` is used up."""
    counts = {
        "preemption": (memory.preemptions, limits.max_preemptions),
        "failure": (memory.failures, limits.max_failures),
        "creation": (memory.creations, limits.max_creations),
    }
    count, budget = counts[cause]
    if count >= budget:
        return Action("give up", f"{reason}; this is {cause} {count + 1}, and max_{cause}s is {budget}", cause)
    if cause == "failure" and memory.failed_step is not None and memory.step <= memory.failed_step:
        return Action("give up", f"{reason}; no new checkpoint since the failure before, so it would fail again", cause)
    return Action(kind, reason, cause)


def timely(memory: Memory, action: Action, now: float) -> Action:
    if now < memory.not_before:
        return Action("wait", f"{action.reason}; next attempt in {memory.not_before - now:.0f} s")
    return action


def remember(memory: Memory, action: Action, seen: Seen, limits: Settings, now: float) -> Memory:
    """The memory to write before the action is done. Counts change only here, so a kill never counts one twice."""
    outcomes = {"done": "done", "stopped": "stopped", "give up": "gave up"}
    memory = dataclasses.replace(
        memory,
        preemptions=memory.preemptions + (action.cause == "preemption"),
        failures=memory.failures + (action.cause == "failure"),
        creations=memory.creations + (action.cause == "creation"),
        outcome=outcomes.get(action.kind, ""),
    )
    if action.kind not in ("recreate", "restart"):
        return memory
    streak = 1 if memory.step > memory.event_step else memory.streak + 1
    delay = min(limits.backoff_cap_s, limits.backoff_s * 2.0 ** min(streak - 1, 30))
    return dataclasses.replace(
        memory,
        launch="",
        heard=0.0,
        heard_from="",
        failed_step=memory.step if action.cause == "failure" else memory.failed_step,
        event_step=memory.step,
        streak=streak,
        not_before=now + delay,
        deleting=seen.fleet.created if action.kind == "recreate" else None,
    )


def named(workers: list[Worker]) -> str:
    """Names of the workers; of many, the first four."""
    names = ", ".join(map(str, workers[:4]))
    return f"worker {names}" + (f" and {len(workers) - 4} more" if len(workers) > 4 else "")


def ends(workers: list[Worker]) -> str:
    """How the workers ended; of many, the first four."""
    return "; ".join(
        f"worker {worker} {'exited with ' + str(worker.code) if worker.code is not None else 'left no exit code'}"
        + (f": {worker.line}" if worker.line else "")
        for worker in workers[:4]
    )
