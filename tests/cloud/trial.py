"""One TPU under `tpu/tpu.py`, with settings that hurry and a trainer of a few lines."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

from running import PATIENCE

from cloud.desk import Desk
from cloud.machines import Machine, wait_for

TPU = pathlib.Path(__file__).parent.parent.parent / "tpu"
HURRY = dict(poll_s=0.1, settle_s=0.5, backoff_s=0.1, grace_s=5.0, setup="true")
ZONE = "us-central2-b"


class Trial:
    """A TPU called `name` of two hosts a slice, by default one slice, and the run on it."""

    def __init__(self, desk: Desk, name: str, command: str = f"{sys.executable} -SE trainer.py 20", **settings):
        self.desk, self.cloud, self.name = desk, desk.cloud, name
        self.started: list[subprocess.Popen] = []
        self.hosts = 2 * settings.get("slices", 1)
        self.run_dir = desk.network.shared / name
        (self.run_dir / "orders").mkdir(parents=True)
        self.file = desk.home / f"{name}.toml"
        env = settings.pop("env", {})
        known = dict(name=name, zone=ZONE, accelerator_type="v4-16", runtime_version="tpu-ubuntu2204-base")
        known["project"] = "a-project"  # gcloud knows it too, but would be asked anew by every command
        known |= dict(run_dir=str(self.run_dir), command=command, source=str(source(desk.home / "source")))
        lines = [f"{key} = {json.dumps(value)}" for key, value in (known | HURRY | settings).items()]
        lines += ["[env]", *(f"{key} = {json.dumps(value)}" for key, value in env.items())]
        self.file.write_text("\n".join(lines) + "\n")

    def tpu(self, command: str, *flags: str, **options) -> str:
        """What `tpu.py COMMAND` says."""
        return self.desk.run(*self.line(command, *flags), **options)

    def start(self, command: str, *flags: str) -> subprocess.Popen:
        """`tpu.py COMMAND`, to be waited for with `ended`, or killed with `kill`."""
        self.started.append(self.desk.start(*self.line(command, *flags), start_new_session=True))
        return self.started[-1]

    def line(self, command: str, *flags: str) -> list[str]:
        return [sys.executable, "-SE", str(TPU / "tpu.py"), command, str(self.file), *flags]

    @property
    def nodes(self) -> list[str]:
        """Those that run."""
        return sorted(name for name in self.cloud.machines if self.name in (name, name.rpartition("-")[0]))

    @property
    def machines(self) -> list[Machine]:
        with self.cloud.lock:
            return [machine for name in self.nodes for machine in self.cloud.machines[name]]

    def creations(self) -> int:
        """How many queued resources were asked for."""
        return self.desk.calls.count("POST queuedResources")

    def step(self) -> int:
        """The newest checkpoint."""
        names = [folder.name for folder in (self.run_dir / "checkpoints").glob("*")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def limit(self, step: int) -> None:
        """The trainer goes so far and waits."""
        (self.run_dir / "limit").write_text(str(step))

    def order(self, host: str, what: int | str) -> None:
        order = self.run_dir / "orders" / f"t1v-{host}"
        order.with_suffix(".new").write_text(str(what))
        order.with_suffix(".new").rename(order)  # the trainer reads no half of it

    def starts(self) -> dict[str, int]:
        """How often the trainer was started on each host."""
        file = self.run_dir / "starts"
        hosts = file.read_text().split() if file.exists() else []
        return {host.removeprefix("t1v-"): hosts.count(host) for host in sorted(set(hosts))}

    def memory(self) -> dict:
        """What the controller remembers."""
        return json.loads((self.desk.home / ".lfr_tpu" / f"a-project.{ZONE}.{self.name}.json").read_text())

    def trainers(self) -> list[str]:
        """Command lines of those at work, without those of the shells that wait for them."""
        lines = [line for machine in self.machines for line in machine.processes().values()]
        return [line for line in lines if "trainer.py" in line and not line.startswith("bash ")]

    def reaches(self, step: int) -> None:
        """Waits until the trainer is at work on all hosts, and has written this checkpoint."""
        wait_for(lambda: len(self.starts()) == self.hosts)
        wait_for(lambda: self.step() >= step)

    def remove(self) -> None:
        """Nothing of it goes on, in the cloud or here."""
        for process in self.started:
            kill(process)
        with self.cloud.lock:
            for node in self.nodes:
                self.cloud.vanish(node)
            self.cloud.queued.pop(self.name, None)
            self.cloud.fates.clear()
            self.desk.calls.clear()


def ended(process: subprocess.Popen, code: int = 0) -> str:
    """All that a command said until it ended, with this exit code."""
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == code, f"ended with {process.returncode}, not {code}:\n{said}"
    return said


def kill(process: subprocess.Popen) -> None:
    """SIGKILL, as of a laptop whose battery is empty."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    if not process.stdout.closed:
        process.communicate()


def source(folder: pathlib.Path) -> pathlib.Path:
    """A git checkout with the trainer of a few lines, and what `tpu/` needs on workers."""
    if not folder.exists():
        shutil.copytree(TPU / "worker", folder / "tpu" / "worker")
        shutil.copy(pathlib.Path(__file__).with_name("trainer.py"), folder)
        for words in (["init", "--quiet"], ["add", "--all"]):
            subprocess.run(["git", *words], cwd=folder, check=True)
    return folder
