"""`tpu/tpu.py run` through what happens to TPUs, by the real gcloud on a cloud of this machine (`tests/cloud`)."""

from cloud.machines import wait_for
from cloud.tpus import STOCK_OUT, Fate
from cloud.trial import ended, kill


def test_from_nothing_to_done(trial):
    """Catches: a step that is left out; a second run of what is done."""
    one = trial("a")
    assert "0 preemptions, 0 failures, newest checkpoint 20" in one.tpu("run")
    assert one.starts() == {"a-w-0": 1, "a-w-1": 1}
    assert "done before" in one.tpu("run")
    assert one.starts() == {"a-w-0": 1, "a-w-1": 1} and one.creations() == 1


def test_preempted(trial):
    """Catches: a SUSPENDED resource that is waited for, or that blocks the name; steps that are done again."""
    one = trial("b")
    one.limit(5)
    run = one.start("run")
    one.reaches(5)
    one.limit(20)
    one.cloud.preempt("b")
    assert "1 preemptions, 0 failures, newest checkpoint 20" in ended(run)
    assert one.starts() == {"b-w-0": 2, "b-w-1": 2} and one.creations() == 2


def test_slice_preempted(trial):
    """One slice of two goes, the other one's hosts wait for it. Catches: a half TPU that is kept, or joined."""
    two = trial("c", slices=2, delete_at_end=True)
    two.limit(3)
    run = two.start("run")
    two.reaches(3)
    assert two.nodes == ["c-0", "c-1"]
    survivors = two.cloud.machines["c-0"]
    two.limit(20)
    two.cloud.preempt("c-1")
    said = ended(run)
    assert "1 preemptions, 0 failures" in said and "nothing called c is left" in said
    assert two.starts() == dict.fromkeys(["c-0-w-0", "c-0-w-1", "c-1-w-0", "c-1-w-1"], 2)
    assert not any(machine.processes() for machine in survivors) and not two.cloud.nodes


def test_node_vanishes(trial):
    """The queued resource stays ACTIVE. Catches: a state that is taken for the machine's health."""
    one = trial("d")
    one.limit(1)
    run = one.start("run")
    one.reaches(1)
    one.limit(20)
    one.cloud.vanish("d")
    assert "recreate: d is not there" in ended(run)
    assert one.starts() == {"d-w-0": 2, "d-w-1": 2}


def test_unhealthy_node(trial):
    """READY is not healthy. Catches: a launch on it; a TPU that is thrown away at once."""
    one = trial("e")
    one.tpu("up")
    one.cloud.nodes["e"]["health"] = "UNHEALTHY_MAINTENANCE"
    run = one.start("run")
    for line in run.stdout:
        if "UNHEALTHY_MAINTENANCE" in line:
            break
    assert not one.starts()
    one.cloud.nodes["e"]["health"] = "HEALTHY"
    assert "0 preemptions" in ended(run)
    assert one.creations() == 1


def test_worker_fails(trial):
    """One host of two fails. Catches: the other left at work, a restart of one alone, a new TPU, no count of it."""
    one = trial("f")
    one.limit(4)
    run = one.start("run")
    one.reaches(4)
    one.order("f-w-1", 1)
    wait_for(lambda: one.starts() == {"f-w-0": 2, "f-w-1": 2})
    one.limit(20)
    assert "0 preemptions, 1 failures" in ended(run)
    assert one.starts() == {"f-w-0": 2, "f-w-1": 2} and one.creations() == 1


def test_worker_fails_without_progress(trial):
    """Catches: a broken program that is started for ever, or whose other hosts stay at work."""
    one = trial("g")
    one.limit(2)
    run = one.start("run")
    one.reaches(2)
    for attempt in (1, 2):
        wait_for(lambda: one.starts() == {"g-w-0": attempt, "g-w-1": attempt})
        one.order("g-w-1", 3)
    said = ended(run, code=1)
    assert "worker 0/1 exited with 3" in said and "no new checkpoint since the failure before" in said
    wait_for(lambda: not one.trainers())
    assert one.starts() == {"g-w-0": 2, "g-w-1": 2}


def test_stalls(trial):
    """A host is done and the other waits for it; then both wait for ever. Catches: a run that costs money and comes to
    no end; hosts that are left at work; the silence of all not told from that of one."""
    one = trial("l", stall_s=15.0)
    one.limit(2)
    run = one.start("run")
    one.reaches(2)
    one.order("l-w-1", 0)
    wait_for(lambda: one.starts() == {"l-w-0": 2, "l-w-1": 2})
    one.limit(4)
    one.reaches(4)
    one.order("l-w-1", "hang")
    one.order("l-w-0", "hang")
    wait_for(lambda: one.starts() == {"l-w-0": 3, "l-w-1": 3})
    one.limit(20)
    said = ended(run)
    assert "worker 0/1 exited with 0, worker 0/0 still runs" in said
    assert "no line in any log and no checkpoint for" in said and "; last heard: " in said
    assert "0 preemptions, 2 failures" in said and one.creations() == 1


def test_creation_fails_for_good(trial):
    """Catches: TPUs that are asked for without end; a run that ends well without one."""
    one = trial("h", max_creations=1)
    one.cloud.fates += [Fate(("ACCEPTED", "FAILED"), STOCK_OUT)] * 5
    said = one.tpu("run", code=1)
    assert "no more capacity in the zone" in said and "give up" in said
    assert one.creations() == 2 and not one.starts()


def test_silent_worker(trial):
    """A host answers no more. Catches: a run without end; the silence of one host taken for that of all, or of none."""
    one = trial("i", unreachable_s=6.0, ssh_timeout_s=20.0)
    one.limit(2)
    run = one.start("run")
    one.reaches(2)
    one.cloud.machines["i"][1].kill()
    one.limit(20)
    said = ended(run)
    assert "no answer from worker 0/1" in said and one.creations() == 2
    assert one.starts() == {"i-w-0": 2, "i-w-1": 2}


def test_controller_killed(trial):
    """kill -9 of the controller, at four moments. Catches: a second TPU, a second trainer, a count that is lost."""
    one = trial("j")
    one.limit(3)
    for moment in (
        lambda: "j" in one.cloud.queued,
        lambda: len(one.machines) == 2 and (one.machines[0].home / "lfr_tpu" / "j" / "code").exists(),
        lambda: one.starts(),
        lambda: one.step() == 3,
    ):
        run = one.start("run")
        wait_for(moment)
        kill(run)
    one.limit(6)
    run = one.start("run")
    one.reaches(6)
    one.cloud.preempt("j")
    wait_for(lambda: one.memory()["preemptions"] == 1)
    kill(run)
    one.limit(20)
    assert "1 preemptions, 0 failures, newest checkpoint 20" in one.tpu("run")
    assert one.creations() == 2 and one.starts() == {"j-w-0": 2, "j-w-1": 2}


def test_two_controllers(trial):
    """Catches: two that work on one TPU."""
    one = trial("k")
    one.limit(1)
    run = one.start("run")
    one.reaches(1)
    assert "`tpu.py run` (pid" in one.tpu("run", code=1)
    assert "at work on this TPU" in one.tpu("down", code=1)
    one.tpu("stop")
    assert "stopped" in ended(run, code=1)
    assert not one.trainers()
