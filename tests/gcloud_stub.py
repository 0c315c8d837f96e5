"""`gcloud`, as far as `tpu/` calls it, over folders: for tests of what the controller does, where there is no gcloud.

The folder $STUB holds `cloud.json` (queued resources and nodes, as the API shows them), `calls`, and a home for each
worker. A TPU that is asked for is ACTIVE at once, with two workers. Faults: the controller is killed before the call
that $DIE_BEFORE counts, or at the call that has $DIE_WITHIN in it, when that has reached the last worker only. Where a
trainer left a file `preempt`, the TPU is gone with all that ran on it; where somebody left a file `away`, the next call
that has its text in it fails.
"""

import fcntl
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys

STUB = pathlib.Path(os.environ["STUB"])


def flags(words: list[str]) -> dict[str, str]:
    return dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))


def homes(cloud: dict, name: str) -> list[pathlib.Path]:
    return [STUB / cloud["nodes"][name]["id"] / str(index) for index in range(2)]


def preempt(cloud: dict) -> None:
    for name, node in cloud["nodes"].items():
        node["state"] = "PREEMPTED"
        for home in homes(cloud, name):
            for file in home.glob("lfr_tpu/*/runs/*/pid"):
                try:
                    os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)
                except ProcessLookupError:
                    pass
    for queued in cloud["queued"].values():
        queued["state"] = {"state": "SUSPENDED"}


def create(cloud: dict, name: str, given: dict[str, str]) -> None:
    cloud["made"] += 1
    created = f"2025-01-01T00:00:{cloud['made']:02}Z"
    labels = dict(label.split("=") for label in given["labels"].split(","))
    spec = {"node": {"acceleratorType": given["accelerator-type"], "labels": labels}}
    cloud["queued"][name] = dict(name=f"p/queuedResources/{name}", createTime=created, tpu={"nodeSpec": [spec]})
    cloud["queued"][name]["state"] = {"state": "ACTIVE"}
    count = int(given.get("node-count", 1))
    for node in [name] if count == 1 else [f"{name}-{index}" for index in range(count)]:
        cloud["nodes"][node] = dict(name=f"p/nodes/{node}", state="READY", health="HEALTHY", createTime=created)
        cloud["nodes"][node] |= dict(id=f"{node}.{cloud['made']}", queuedResource=f"p/queuedResources/{name}")
        cloud["nodes"][node]["networkEndpoints"] = [{}, {}]
        for home in homes(cloud, node):
            home.mkdir(parents=True)


def main(words: list[str]) -> int:
    given = flags(words)
    with open(STUB / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(STUB / "calls", "a") as calls:
            calls.write(shlex.join(words) + "\n")
        count = len((STUB / "calls").read_text().splitlines())
        if count == int(os.environ.get("DIE_BEFORE", 0)):
            os.kill(os.getppid(), signal.SIGKILL)
            return 1
        away = STUB / "away"
        if away.exists() and away.read_text().strip() in shlex.join(words):
            away.unlink()
            print("ERROR: (gcloud) not now", file=sys.stderr)
            return 1
        cloud = json.loads((STUB / "cloud.json").read_text())
        if (STUB / "preempt").exists():
            (STUB / "preempt").unlink()
            preempt(cloud)
        if words[:2] == ["config", "get"]:
            print(os.environ.get("STUB_PROJECT", ""))
        elif words[:2] == ["storage", "ls"]:
            print("ERROR: (gcloud.storage.ls) One or more URLs matched no objects.", file=sys.stderr)
            return 1
        elif words[2:4] == ["queued-resources", "list"]:
            print(json.dumps(list(cloud["queued"].values())))
        elif words[2:4] == ["tpu-vm", "list"]:
            print(json.dumps(list(cloud["nodes"].values())))
        elif words[2:4] == ["queued-resources", "create"]:
            create(cloud, words[4], given)
        elif words[2:4] == ["queued-resources", "delete"]:
            preempt(cloud)
            mine = f"p/queuedResources/{words[4]}"
            cloud["nodes"] = {key: node for key, node in cloud["nodes"].items() if node["queuedResource"] != mine}
            del cloud["queued"][words[4]]
        (STUB / "cloud.json").write_text(json.dumps(cloud))
    dying = "DIE_WITHIN" in os.environ and os.environ["DIE_WITHIN"] in shlex.join(words)
    code = on_workers(cloud, words, given, dying) if words[2:4] in (["tpu-vm", "ssh"], ["tpu-vm", "scp"]) else 0
    if dying:
        os.kill(os.getppid(), signal.SIGKILL)
    return code


def on_workers(cloud: dict, words: list[str], given: dict[str, str], last: bool) -> int:
    name = words[4] if words[3] == "ssh" else words[5].rstrip(":")
    if cloud["nodes"][name]["state"] != "READY":
        print('ERROR: (gcloud.compute.tpus.tpu-vm.ssh) This TPU has terminal state "PREEMPTED".', file=sys.stderr)
        return 1
    all_homes = homes(cloud, name)
    chosen = all_homes if given["worker"] == "all" else [all_homes[int(given["worker"])]]
    chosen = chosen[-1:] if last else chosen
    line = ["bash", "-c", given["command"]] if words[3] == "ssh" else ["cp", words[4], "."]
    return max(subprocess.run(line, cwd=home, env=os.environ | dict(HOME=str(home))).returncode for home in chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
