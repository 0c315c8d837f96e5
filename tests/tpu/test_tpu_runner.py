"""`tpu/tpu.py run` from end to end, with workers in folders of this machine: see `gcloud_stub.py`."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from running import PATIENCE

ROOT = pathlib.Path(__file__).parents[2]
sys.path.append(str(ROOT / "tpu"))

from fleet import Fleet  # noqa: E402
from runner import delete_all  # noqa: E402

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers are Linux machines"),
    pytest.mark.apart,
]
# Every start of it is noted. The first one of worker 0 has the TPU preempted after its first checkpoint.
TRAINER = """
echo "$(cat ../identity) $MESSAGE" >> "$STUB/starts"
mkdir -p "$RUN_DIR/checkpoints"
steps=$(ls "$RUN_DIR/checkpoints" | wc -l)
mkdir -p "$RUN_DIR/checkpoints/$((steps + 1))"
if [ "$steps" = 0 ] && [ "$(cat ../identity)" = 0/0 ]; then touch "$STUB/preempt"; sleep 100; fi
"""


class Desk:
    """A checkout to push, a cloud with nothing in it, and the controller."""

    def __init__(self, folder: pathlib.Path):
        self.stub, self.source, self.home = folder / "stub", folder / "source", folder / "home"
        shutil.copytree(ROOT / "tpu" / "worker", self.source / "tpu" / "worker")
        (self.source / "trainer.sh").write_text(TRAINER)
        for words in (["init", "-q"], ["add", "."]):
            subprocess.run(["git", "-C", self.source, *words], check=True)
        (self.home / ".ssh").mkdir(parents=True)
        (self.home / ".ssh" / "google_compute_engine").touch()
        self.stub.mkdir()
        (self.stub / "cloud.json").write_text(json.dumps(dict(made=0, queued={}, nodes={})))
        programs = folder / "bin"
        programs.mkdir()
        script = f'#!/bin/sh\nexec {sys.executable} -SE {ROOT}/tests/gcloud_stub.py "$@"\n'
        (programs / "gcloud").write_text(script)
        (programs / "gcloud").chmod(0o755)
        self.env = dict(PATH=f"{programs}:{os.environ['PATH']}", HOME=str(self.home), STUB=str(self.stub))

    def start(self, command: str, *words: str, **env: str) -> subprocess.Popen:
        """`tpu.py COMMAND`, whose output is one stream."""
        given = dict(project="p", zone="us-central2-b", name="t", source=self.source, setup="true", poll_s=0.05)
        given |= dict(run_dir=self.home / "out", command="MESSAGE=first bash trainer.sh", settle_s=0.3, backoff_s=0.05)
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        flags += ["--grace-s=10", "--env=LFR_DEVICES=/nowhere/*", f"--env=STUB={self.stub}"]
        line = [sys.executable, "-SE", ROOT / "tpu" / "tpu.py", command, ROOT / "tpu" / "topologies" / "v4-32.toml"]
        out = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return subprocess.Popen([*line, *flags, *words], env=self.env | env, cwd=self.home, **out)

    def tpu(self, command: str, *words: str, code: int = 0, **env: str) -> str:
        """What `tpu.py COMMAND` printed; it must end with `code`."""
        process = self.start(command, *words, **env)
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, said
        return said

    def cloud(self) -> dict:
        return json.loads((self.stub / "cloud.json").read_text())

    def calls(self, part: str) -> int:
        return sum(part in line for line in (self.stub / "calls").read_text().splitlines())

    def starts(self) -> list[str]:
        return sorted((self.stub / "starts").read_text().splitlines())

    def memory(self) -> dict:
        return json.loads((self.home / ".lfr_tpu" / "p.us-central2-b.t.json").read_text())


def wait_for(condition, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing after {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    yield made
    for file in made.stub.glob("*/*/lfr_tpu/*/runs/*/pid"):
        try:
            os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_resumes_with_the_code_it_began_with(desk):
    """Catches: a preemption that ends the run, or is counted as a failure; another code in the middle of a run,
    because somebody edits it; a finished run that asks for a TPU again."""
    edit = f"sed -i s/first/second/ {desk.source}/message; "
    (desk.source / "message").write_text("first")
    subprocess.run(["git", "-C", desk.source, "add", "."], check=True)
    said = desk.tpu("run", "--command", edit + "MESSAGE=$(cat message) bash trainer.sh")
    assert "SUSPENDED: the TPU was preempted" in said and "done: every worker exited with 0" in said
    assert desk.starts() == ["0/0 first", "0/0 first", "0/1 first", "0/1 first"]
    assert (desk.memory()["preemptions"], desk.memory()["failures"], desk.cloud()["made"]) == (1, 0, 2)
    calls = desk.calls("")
    assert "done before" in desk.tpu("run", "--command", edit + "MESSAGE=$(cat message) bash trainer.sh")
    assert desk.calls("") == calls


def test_broken_code_is_not_started_forever(desk):
    """Catches: a program that fails at its first step, restarted until the budget is spent; its reason not shown."""
    command = 'echo x >> "$STUB/starts"; echo "no such config"; exit 2'
    said = desk.tpu("run", "--command", command, code=1)
    assert "no such config; no new checkpoint since the failure before" in said and "costs money" in said
    assert len(desk.starts()) == 4 and desk.cloud()["nodes"]  # two attempts of two workers
    assert desk.memory()["failures"] == 2
    desk.tpu("run", "--command", command, "--delete-at-end", code=1)  # asked again: counts from 0
    assert len(desk.starts()) == 8 and desk.cloud() == dict(made=1, queued={}, nodes={})


def test_progress_earns_another_attempt(desk):
    """Catches: checkpoints of a folder that is not looked at; a budget that is not kept."""
    command = 'd="$RUN_DIR/checkpoints"; mkdir -p "$d/$(ls "$d" 2>/dev/null | wc -l)"; sleep 0.2; exit 1'
    said = desk.tpu("run", "--command", command, "--max-failures", "2", code=1)
    assert "this is failure 3, and max_failures is 2" in said and desk.memory()["failures"] == 3


def test_killed_at_any_moment(desk):
    """Catches: a controller that after a kill launches a second trainer, counts twice or not, or deletes the TPU that
    it has just made: it is killed at its first call of gcloud, then at the second after that, and so on."""
    for number in range(1, 40):
        before = desk.calls("") if (desk.stub / "calls").exists() else 0
        try:
            desk.tpu("run", DIE_BEFORE=str(before + number), code=-9)
        except AssertionError as error:  # it was done before that call
            assert "done: every worker exited with 0" in str(error), error
            break
    assert number > 10 and desk.starts() == ["0/0 first", "0/0 first", "0/1 first", "0/1 first"]
    assert (desk.memory()["preemptions"], desk.memory()["failures"], desk.memory()["outcome"]) == (1, 0, "done")
    assert desk.cloud()["made"] == 2


def test_killed_within_a_launch(desk):
    """Catches: a trainer that is started again because others were not reached; one that waits for them for ever."""
    desk.tpu("run", DIE_WITHIN="agent.sh launch", code=-9)
    wait_for(lambda: (desk.stub / "starts").exists() and desk.starts())
    assert desk.starts() == ["0/1 first"]
    assert "done: 0 preemptions, 0 failures" in desk.tpu("run")
    assert desk.starts() == ["0/0 first", "0/1 first"]


def test_a_tpu_that_came_later_is_not_deleted(desk):
    """Catches: a deletion that a killed controller began, done by the next one to a TPU that somebody made since."""
    desk.tpu("run", "--command", "true")
    file = desk.home / ".lfr_tpu" / "p.us-central2-b.t.json"
    file.write_text(json.dumps(desk.memory() | dict(outcome="", launch="", deleting="2024-12-31T00:00:00Z")))
    desk.tpu("run", "--command", "true")
    assert desk.cloud()["made"] == 1 and desk.calls("delete") == 0
    file.write_text(json.dumps(desk.memory() | dict(outcome="", launch="", deleting="2025-01-01T00:00:01Z")))
    desk.tpu("run", "--command", "true")
    assert desk.cloud()["made"] == 2 and desk.calls("delete") == 1


def test_stop_ends_the_run_and_run_begins_again(desk):
    """Catches: a stopped run that `run` resumes by itself; one that cannot be begun again."""
    desk.tpu("up")
    assert "2 of 2 workers have code-" in desk.tpu("push") and "installed on 2 workers" in desk.tpu("setup")
    desk.tpu("launch", "--command", "trap 'exit 75' TERM; sleep 100 & wait")
    assert desk.tpu("stop").count("exited 75") == 2
    said = desk.tpu("run", "--command", "true")
    assert "done: every worker exited with 0" in said and desk.cloud()["made"] == 1


def test_stop_reaches_a_run_that_waits(desk):
    """Catches: `stop` before there is anything to stop, after which `run` launches all the same."""
    desk.tpu("up")
    told = desk.home / ".lfr_tpu" / "p.us-central2-b.t.stop"
    setup = f'touch "$STUB/setup"; while [ ! -e {told} ]; do sleep 0.05; done'
    watcher = desk.start("run", "--command", "sleep 100", "--setup", setup)
    wait_for((desk.stub / "setup").exists)
    desk.tpu("stop")
    said = watcher.communicate(timeout=PATIENCE)[0]
    assert watcher.returncode == 1 and "stopped: somebody stopped the run" in said
    assert not any("sleep 100" in line for line in (desk.stub / "calls").read_text().splitlines())


def test_another_run_is_not_overwritten(desk):
    """Catches: a run that is at work and forgotten because somebody starts another one on its TPU; two at once."""
    desk.tpu("run", "--command", "true")
    file = desk.home / ".lfr_tpu" / "p.us-central2-b.t.json"
    file.write_text(json.dumps(desk.memory() | dict(outcome="", launch="x")))
    assert "found another run at work, 'true'" in desk.tpu("run", "--command", "false", code=1)
    lock = ["flock", file.with_suffix(".lock"), "sleep", "100"]
    with subprocess.Popen(lock, start_new_session=True) as holder:
        subprocess.run(["bash", "-c", f"while flock -n {lock[1]} true; do sleep 0.05; done"], timeout=PATIENCE)
        assert "is at work on this TPU" in desk.tpu("down", code=1)
        assert "READY" in desk.tpu("status")
        os.killpg(holder.pid, signal.SIGKILL)
    file.write_text("{")
    assert "is damaged" in desk.tpu("run", code=1)


def test_a_launch_is_of_all_workers_or_none(desk):
    """Catches: a part of the workers that waits for the others and costs money; a launch of different code."""
    desk.tpu("up")
    desk.tpu("push")
    first, second = (home / "lfr_tpu" / "t" for home in sorted(desk.stub.glob("t.1/*")))
    (second / "code").rename(second / "kept")
    assert "have different code, or none" in desk.tpu("launch", code=1)
    (second / "kept").rename(second / "code")
    (second / "runs").touch()  # where a folder should be made
    said = desk.tpu("launch", "--command", "sleep 100", code=1)
    assert "launch was not done everywhere; slice/worker 0/1: " in said
    assert [file.read_text() for file in first.glob("runs/*/exit_code")] == ["143\n"]


def test_gcloud_fails_once_at_the_worst_moment(desk):
    """Catches: a controller that leaves when a look fails after a worker refused; a TPU that outlives `delete_at_end`
    because one call failed; an error, or a run that was done before, after which nobody hears of costs."""
    (desk.stub / "away").write_text("resources create")
    said = desk.tpu("up", code=1)
    assert "not now" in said and "a TPU that was made may be there, and costs money" in said
    once = '[ -e "$STUB/once" ] || { touch "$STUB/once"; echo "queued-resources list" > "$STUB/away"; exit 4; }'
    (desk.source / "new.py").touch()
    words = "--setup", once, "--command", 'echo "resources delete" > "$STUB/away"'
    said = desk.tpu("run", *words, "--delete-at-end")
    assert "not tracked by git, and so not sent: new.py" in said and "done: 0 preemptions, 0 failures" in said
    assert "not deleted yet: ERROR: (gcloud) not now" in said and desk.cloud() == dict(made=1, queued={}, nodes={})
    desk.tpu("up")
    said = desk.tpu("run", *words)
    assert "done before" in said and "costs money" in said
    desk.tpu("run", *words, "--delete-at-end")
    assert desk.cloud() == dict(made=2, queued={}, nodes={})


def test_a_bucket_that_cannot_be_read_costs_nothing(desk):
    """Catches: a typing error in the bucket's name that shows when the TPU is there, and then at each look for ever."""
    (desk.stub / "away").write_text("storage ls gs://b/r")
    assert "not now" in desk.tpu("run", "--run-dir", "gs://b/r", code=1)
    assert desk.cloud()["made"] == 0


def test_code_that_was_pushed_between(desk):
    """Catches: a run that cannot go on, as what is to be pushed is no longer what its digest says."""
    command = 'echo "$(cat message)" >> "$STUB/starts"'
    (desk.source / "message").write_text("first")
    subprocess.run(["git", "-C", desk.source, "add", "."], check=True)
    desk.tpu("run", "--command", command)
    (desk.source / "message").write_text("second")
    desk.tpu("push")
    file = desk.home / ".lfr_tpu" / "p.us-central2-b.t.json"
    file.write_text(json.dumps(desk.memory() | dict(outcome="", launch="")))
    shutil.rmtree(next(desk.stub.glob("t.1/0/lfr_tpu")))  # as on a new machine
    assert "done: 0 preemptions, 0 failures" in desk.tpu("run", "--command", command)
    assert desk.starts() == ["first"] * 2 + ["second"] * 2


def test_what_somebody_else_made_is_left_alone(desk):
    """Catches: a colleague's TPU from the same shipped file that is launched on, stopped or deleted; a node of this
    name, made by hand, that `down` deletes or does not tell of."""
    desk.tpu("up")
    for command in ("up", "run", "push", "stop", "down"):
        assert "choose another --name" in desk.tpu(command, "--owner", "somebody else", code=1)
    assert list(desk.cloud()["nodes"]) == ["t"] and "nothing called t is left" in desk.tpu("down")
    node = dict(name="p/nodes/t", state="READY", health="HEALTHY", networkEndpoints=[{}], createTime="")
    (desk.stub / "cloud.json").write_text(json.dumps(desk.cloud() | dict(nodes=dict(t=node))))
    assert "found nodes t, which no queued resource made" in desk.tpu("run", code=1)
    assert "node t: not created by a queued resource" in desk.tpu("status")
    assert "gcloud compute tpus tpu-vm delete t" in desk.tpu("down", code=1)
    assert list(desk.cloud()["nodes"]) == ["t"] and desk.cloud()["made"] == 1


class Shows:
    """A backend that shows one fleet after another, and notes what it is to delete."""

    def __init__(self, *fleets: Fleet):
        self.fleets, self.deleted = list(fleets), []

    def look(self) -> Fleet:
        return self.fleets.pop(0)

    def delete(self, fleet: Fleet) -> None:
        self.deleted.append(fleet.created)


def test_a_tpu_that_came_while_we_deleted_is_not_deleted():
    """Catches: somebody's new TPU, on another machine, that a loop takes for the rest of the old one; an end before all
    is gone."""
    old, new = Fleet("ACTIVE", created="one"), Fleet("ACCEPTED", created="two")
    for shown in ([old, Fleet()], [old._replace(state="DELETING"), new]):
        backend = Shows(*shown)
        assert delete_all(backend, old, 0) == shown[-1] and backend.deleted == ["one", "one"]
