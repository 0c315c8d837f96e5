"""`tpu/tpu.py COMMAND --dry-run`: the lines, and nothing but the lines."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = ["up", "push", "setup", "launch", "status", "logs", "stop", "run", "ssh", "down"]
WHERE = "--project=p --zone=us-central2-b --quiet"
LISTS = [
    f"gcloud compute tpus queued-resources list --format=json {WHERE}",
    f"gcloud compute tpus tpu-vm list --format=json {WHERE}",
]


@pytest.fixture
def tpu(tmp_path):
    """Runs tpu.py in a home that has gcloud's key, with a gcloud that must not be called."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gcloud").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 9\n")
    (tmp_path / "bin" / "gcloud").chmod(0o755)
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    (tmp_path / "home" / ".ssh" / "google_compute_engine").touch()
    env = dict(PATH=f"{tmp_path}/bin:{os.environ['PATH']}", HOME=str(tmp_path / "home"))

    def run(
        command: str, topology: str, *words: str, code: int = 0, where: tuple[str, ...] = ("--project", "p")
    ) -> str:
        file = ROOT / "tpu" / "topologies" / f"{topology}.toml"
        line = [
            sys.executable,
            "-SE",
            ROOT / "tpu" / "tpu.py",
            command,
            file,
            "--zone",
            "us-central2-b",
            "--owner=Me.2",
            *where,
            *words,
        ]
        before = sorted((tmp_path / "home").rglob("*"))
        done = subprocess.run(line, capture_output=True, text=True, env=env)
        assert done.returncode == code, done
        assert "--dry-run" not in words or sorted((tmp_path / "home").rglob("*")) == before
        return done.stdout if code == 0 else done.stderr

    run.called = (tmp_path / "called").exists
    return run


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5litepod-8", "v6e-256x2"])
def test_changes_nothing(tpu, topology):
    """Catches: a dry run that calls gcloud, writes a file, or shows a line that a shell would not take as it is."""
    for command in COMMANDS:
        shown = tpu(command, topology, "--run-dir", "gs://b/r", "--command", "true", "--dry-run").splitlines()
        assert shown and not tpu.called()
        for line in shown:
            words = shlex.split(line)
            assert words[0] == "gcloud" and "--project=p" in words and shlex.join(words) == line
            assert "--zone=us-central2-b" in words or words[1] == "storage"
            assert not {"alpha", "beta"} & set(words)


@pytest.mark.parametrize(
    "topology, words, expected",
    [
        (
            "v5litepod-8",
            [],
            "lfr-v5e-8 --accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite --node-id=lfr-v5e-8 --spot "
            "--labels=lfr-owner=me-2",
        ),
        (
            "v5p-64",
            ["--provisioning", "reserved", "--name", "a"],
            "a --accelerator-type=v5p-64 --runtime-version=v2-alpha-tpuv5 --node-id=a --reserved "
            "--labels=lfr-owner=me-2",
        ),
        (
            "v6e-256x2",
            ["--provisioning", "on-demand", "--create-flag=--internal-ips", "--create-flag=--labels=a=b"],
            "lfr-v6e-256x2 --accelerator-type=v6e-256 --runtime-version=v2-alpha-tpuv6e --node-count=2 "
            "--node-prefix=lfr-v6e-256x2 --labels=lfr-owner=me-2,a=b --internal-ips",
        ),
    ],
)
def test_up(tpu, topology, words, expected):
    """Catches: a flag that is missing, invented or in the wrong place; a TPU asked for under another name or price."""
    shown = tpu("up", topology, *words, "--dry-run").splitlines()
    assert shown == [*LISTS, f"gcloud compute tpus queued-resources create {expected} {WHERE}"]


def test_down(tpu):
    """Catches: a deletion without --force, which refuses while nodes live; one that nobody checks."""
    deletion = f"gcloud compute tpus queued-resources delete lfr-v4-32 --force {WHERE}"
    assert tpu("down", "v4-32", "--dry-run").splitlines() == [*LISTS, deletion, *LISTS]


def test_push_and_launch_reach_every_worker(tpu):
    """Catches: a worker left out; several workers in one scp, which wants an ssh-agent; `--worker=2-3`, whose failure
    gcloud does not report; a command that ssh takes apart."""
    shown = [shlex.split(line) for line in tpu("push", "v4-32", "--dry-run").splitlines()]
    for kind in ("scp", "ssh"):
        lines = [words for words in shown if words[4] == kind]
        assert [word for words in lines for word in words if word.startswith("--worker")] == [
            f"--worker={index}" for index in range(4)
        ]
    words = "launch", "v4-32", "--run-dir", "gs://b/r", "--command", 'echo "it\'s" $RUN_DIR', "--env", "A=b c"
    launch = [shlex.split(line) for line in tpu(*words, "--dry-run").splitlines()][-1]
    assert "--worker=all" in launch
    remote = next(word for word in launch if word.startswith("--command=")).removeprefix("--command=")
    agent = shlex.split(remote)
    assert agent[:6] == ["bash", "~/lfr_tpu/lfr-v4-32/code/tpu/worker/agent.sh", "launch", "ID", "gs://b/r", "120"]
    assert agent[6] == 'echo "it\'s" $RUN_DIR' and "A=b c" in agent and "JAX_COORDINATOR_PORT=8476" in agent


def test_starts_as_the_pages_have_it():
    """Catches: a file that the shell will not run."""
    assert os.access(ROOT / "tpu" / "tpu.py", os.X_OK)


def test_mistakes_are_one_or_two_lines(tpu, tmp_path):
    """Catches: a traceback; a project that is guessed; an error that does not say what to do."""
    assert tpu("run", "v4-32", code=1).splitlines() == [
        "tpu.py: run_dir: found none; pass --run-dir gs://BUCKET/FOLDER (see the file's own comment)"
    ]
    assert "command: found none" in tpu("run", "v4-32", "--run-dir", "gs://b/r", code=1) and not tpu.called()
    assert "v4-32.toml" in tpu("up", "v4", code=1)
    assert tpu("up", "v4-32", where=(), code=1) == "tpu.py: gcloud failed and said nothing\n" and tpu.called()
    assert "which only ssh takes" in tpu("up", "v4-32", "--", "ls", code=2)
    assert "found no worker 0/4" in tpu("ssh", "v4-32", "--worker", "4", "--dry-run", code=1)
