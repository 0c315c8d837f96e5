"""`tpu/k8s/jobset.yaml`: what it asks Kubernetes for, and that its pods' command runs, ends and forms a cluster."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from cloud.clusters import JOIN
from running import PATIENCE, held_port

from lfr_jax.distributed.preemption import PREEMPTED

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'lfr_jax[checks]'")
FILE = pathlib.Path(__file__).parents[2] / "tpu" / "k8s" / "jobset.yaml"
GIVEN = dict(
    NAME="lfr",
    IMAGE="registry/lfr:1",
    SERVICE_ACCOUNT="writer",
    ACCELERATOR="tpu-v6e-slice",
    TOPOLOGY="4x4",
    SLICES="2",
    HOSTS="4",
    CHIPS="4",
    MAX_FAILURES="5",
    RUN_DIR="gs://bucket/runs/lfr",
    COMMAND='lfr train c.py --run-dir "$RUN_DIR"',
)


def jobset(**given):
    """The file after `envsubst`, which replaces what has a value and nothing twice."""
    given = GIVEN | given
    return yaml.safe_load(re.sub(r"\$\{?(\w+)\}?", lambda match: given[match[1]], without_comments()))


def without_comments() -> str:
    return "\n".join(line for line in FILE.read_text().splitlines() if not line.startswith("#"))


def pod(found):
    return found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_variables():
    """Catches: a variable that the comment on top does not tell of, and one that it tells of in vain."""
    told = set(re.findall(r"\b([A-Z_]+)=", "\n".join(re.findall(r"^# +export .*", FILE.read_text(), re.MULTILINE))))
    assert told == set(re.findall(r"\$\{(\w+)\}", without_comments())) == set(GIVEN)


def test_restarts():
    """Only what says so with its exit code, or with its node, starts again for nothing. Catches: another exit code than
    the trainer's, a broken program that restarts for ever, a pod that restarts alone."""
    spec = jobset()["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    exits, disrupted = job["podFailurePolicy"]["rules"]
    assert exits["onExitCodes"] == {"containerName": "trainer", "operator": "In", "values": [PREEMPTED]}
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert {exits["action"], disrupted["action"]} == {"FailJob"}
    assert (job["backoffLimit"], pod(jobset())["restartPolicy"]) == (0, "Never")  # the policy asks for Never
    preempted, failed = spec["failurePolicy"]["rules"]
    assert preempted["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert preempted["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert (failed["action"], spec["failurePolicy"]["maxRestarts"]) == ("RestartJobSet", 5)


def test_shape():
    """Catches: hosts of several slices in one job, a job that is done when a part of its hosts is, chips left over."""
    slices = jobset()["spec"]["replicatedJobs"][0]
    job = slices["template"]["spec"]
    assert (slices["replicas"], job["parallelism"], job["completions"]) == (2, 4, 4)
    container = pod(jobset())["containers"][0]
    assert (container["name"], container["resources"]["limits"]) == ("trainer", {"google.com/tpu": 4})


def run(tmp_path, program: str, **env):
    """The container of a pod, whose `lfr` is `program`."""
    (tmp_path / "lfr").write_text(program)
    (tmp_path / "lfr").chmod(0o755)
    container = pod(jobset())["containers"][0]
    known = {variable["name"]: variable["value"] for variable in container["env"]}
    known |= dict(PATH=f"{tmp_path}:{os.environ['PATH']}", JAX_PLATFORMS="cpu", JAX_COMPILATION_CACHE_DIR="")
    env = dict(os.environ) | known | env
    return subprocess.Popen([*container["command"], *container["args"]], env=env, stdout=subprocess.PIPE, text=True)


def test_command(tmp_path):
    """Catches: a shell that keeps SIGTERM from the trainer, a variable that is lost on the way."""
    told = """#!/usr/bin/env bash
trap 'exit 75' TERM
echo "$@"
while :; do sleep 0.05; done
"""
    with run(tmp_path, told) as process:
        assert process.stdout.readline() == "train c.py --run-dir gs://bucket/runs/lfr\n"
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 75


@pytest.mark.slow
def test_cluster(tmp_path):
    """What GKE tells the pods of two slices of one host. Catches: settings that keep JAX from finding the others."""
    known = dict(JAX_FORCE_TPU_INIT="1", TPU_WORKER_ID="0", TPU_WORKER_HOSTNAMES="localhost")
    known |= dict(MEGASCALE_COORDINATOR_ADDRESS="localhost", MEGASCALE_NUM_SLICES="2")
    with held_port() as port:
        known["JAX_COORDINATOR_PORT"] = str(port)
        pods = [
            run(tmp_path, f"#!{sys.executable}\n{JOIN}", **known, MEGASCALE_SLICE_ID=str(slice)) for slice in range(2)
        ]
        said = [each.communicate(timeout=PATIENCE)[0].splitlines() for each in pods]
    assert "ids [0, 1] 0" in said[0] and "ids [0, 1] 1" in said[1]
