"""The commands of `tpu/tpu.py`, one after another, by the real gcloud on a cloud of this machine (`tests/cloud`)."""

from cloud.tpus import STOCK_OUT, Fate


def test_dry_run(trial):
    """Catches: a command whose dry run calls the API, or shows nothing, or leaves out the zone, or gcloud's project."""
    one = trial("none", project="")
    for command in ("up", "push", "setup", "launch", "status", "logs", "stop", "run", "ssh", "down"):
        shown = [line for line in one.tpu(command, "--dry-run").splitlines() if line.startswith("gcloud compute")]
        assert shown and all("--project=a-project --zone=us-central2-b" in line for line in shown)
    assert not one.desk.calls


def test_commands(trial):
    """Catches: a second TPU, a second trainer, a step that is done on one worker alone, a worker that is not shown, a
    stop that leaves a trainer, a `down` that leaves a node."""
    one = trial("one")
    one.limit(2)
    assert "expected it ACTIVE" in one.tpu("push", code=1)
    one.tpu("up")
    one.tpu("up")
    assert (one.creations(), one.nodes, len(one.machines)) == (1, ["one"], 2)
    assert "expected the same: tpu/tpu.py push" in one.tpu("launch", code=1)
    assert "2 of 2 workers have code-" in one.tpu("push")
    assert "installed on 2 workers" in one.tpu("setup")
    assert "on 2 workers" in one.tpu("launch")
    one.reaches(2)
    assert "nothing was launched" in one.tpu("launch")
    assert one.starts() == {"one-w-0": 1, "one-w-1": 1}
    shown = one.tpu("status")
    assert shown.count("running") == 2 and "newest checkpoint: 2" in shown
    assert one.tpu("logs", "--lines", "1").splitlines() == ["0/0 | step 2", "0/1 | step 2"]
    assert "t1v-one-w-1\n" in one.tpu("ssh", "--worker", "1", "--", "hostname")
    assert one.tpu("stop").count("exited 75") == 2
    assert not one.trainers()
    assert "nothing called one is left" in one.tpu("down")
    assert (one.cloud.nodes, one.cloud.queued) == ({}, {})
    assert "there was nothing called one" in one.tpu("down")


def test_up_waits_for_capacity(trial):
    """Catches: an `up` that gives up, or asks again, while it waits in the queue."""
    two = trial("two")
    two.cloud.fates.append(Fate(("ACCEPTED", *["WAITING_FOR_RESOURCES"] * 5, "PROVISIONING", "ACTIVE")))
    assert "WAITING_FOR_RESOURCES" in two.tpu("up")
    assert (two.creations(), two.nodes) == (1, ["two"])


def test_up_after_failures(trial):
    """Catches: a reason that is swallowed, a FAILED resource that is left in the way, an `up` without end."""
    three = trial("three", max_creations=2)
    three.cloud.fates += [Fate(("FAILED",), STOCK_OUT)] * 2
    said = three.tpu("up")
    assert said.count("no more capacity in the zone") == 2 and three.nodes == ["three"]
    three.tpu("down")
    three.cloud.fates += [Fate(("FAILED",), STOCK_OUT)] * 3
    said = three.tpu("up", code=1)
    assert "give up: FAILED" in said and three.creations() == 3 + 3 and not three.nodes


def test_up_refuses_another_tpu(trial):
    """Catches: a TPU of this name and another type that is taken for ours, or deleted."""
    four = trial("four")
    four.tpu("up")
    assert "found v4-16 under this name" in four.tpu("up", "--accelerator-type", "v4-32", code=1)
    assert four.nodes == ["four"]


def test_push_counts_workers(trial):
    """Catches: gcloud's exit code taken for a worker's word; a damaged copy that stays, or is unpacked."""
    five = trial("five")
    five.tpu("up")
    first, second = five.machines
    second.fault("damage", "cp -r")
    assert "2 of 2 workers" in five.tpu("push")
    second.fault("damage", "cp -r", times=3)
    said = five.tpu("push", code=1)
    assert "push was not done everywhere; slice/worker 0/1: digest=" in said and "0/0" not in said
    codes = [(machine.home / "lfr_tpu" / "five" / "code").resolve() for machine in (first, second)]
    assert codes[0].name == codes[1].name and (codes[0] / "trainer.py").is_file()


def test_lost_connection_launches_once(trial):
    """The connection breaks when the trainer has started, and gcloud runs the command again. Catches: two trainers."""
    six = trial("six")
    for command in ("up", "push", "setup"):
        six.tpu(command)
    six.limit(1)
    six.machines[1].fault("drop", "agent.sh launch")
    six.tpu("launch")
    six.reaches(1)
    assert six.tpu("status").count("running") == 2
    assert six.starts() == {"six-w-0": 1, "six-w-1": 1} and len(six.trainers()) == 2
    launches = [use for use in six.desk.network.connections() if "agent.sh launch" in use["command"]]
    assert len([use for use in launches if use["address"] == six.machines[1].address]) == 2


def test_accelerator_in_use(trial):
    """Something that tpu.py did not start holds a chip. Catches: a launch beside it; one on the other worker alone."""
    seven = trial("seven")
    for command in ("up", "push", "setup"):
        seven.tpu(command)
    hold = "setsid sleep 1000 < /dev/accel0 > /dev/null 2>&1 &"
    seven.desk.run("ssh", f"me@{seven.machines[1].address}", "--", hold)
    said = seven.tpu("launch", code=1)
    assert "slice/worker 0/1: the accelerator is in use by" in said and "(sleep)" in said
    assert not seven.trainers()
