"""Where one sits: a home with gcloud set up for a fake cloud, from which only the fake cloud can be reached."""

import contextlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

from running import PATIENCE

from cloud import machines, server
from cloud.machines import Network
from cloud.tpus import Cloud


def missing() -> str:
    """Why there can be no desk here, or nothing."""
    return machines.missing() if shutil.which("gcloud") else "gcloud is not installed"


class Desk:
    """A cloud, the calls made on it, and commands run as by a user of it."""

    def __init__(self, folder: pathlib.Path, network: Network, cloud: Cloud, calls: list[str]):
        self.network, self.cloud, self.calls = network, cloud, calls
        self.gclouds: subprocess.Popen | None = None
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "token").write_text("a-token")
        url = f"http://127.0.0.1:{network.port}/"
        self.env = dict(
            HOME=str(self.home),
            USER="me",
            LANG="C.UTF-8",
            PATH=f"{network.programs}:{os.environ['PATH']}",
            TMPDIR=str(folder),
            CLOUDSDK_CONFIG=str(self.home / "gcloud"),
            CLOUDSDK_CORE_PROJECT="a-project",
            CLOUDSDK_CORE_DISABLE_PROMPTS="1",
            CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=str(self.home / "token"),
            CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU=url,
            CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE=f"{url}compute/v1/",
            CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK="1",
        )

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *_) -> None:
        if self.gclouds:
            self.gclouds.stdin.close()
            self.gclouds.wait()

    def hurry(self) -> None:
        """From now on `gcloud` takes less time; see gcloud.py."""
        if self.gclouds:
            return
        asked = "gcloud", "info", "--format=value(basic.python_location,installation.sdk_root)"
        python, root = self.run(*asked).split()
        script, path = pathlib.Path(__file__).with_name("gcloud.py"), self.home.parent / "gcloud"
        serve = self.network.inside(python, "-S", str(script), "serve", str(path), f"{root}/lib")
        silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.gclouds = subprocess.Popen(serve, env=self.env, cwd=self.home, stdin=subprocess.PIPE, **silent)
        machines.wait_for(path.exists)
        self.network.program("gcloud", shlex.join([sys.executable, "-SE", str(script), "call", str(path)]) + ' "$@"')
        self.calls.clear()

    def start(self, *command, **options) -> subprocess.Popen:
        return subprocess.Popen(
            self.network.inside(*map(str, command)),
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def run(self, *command, code: int = 0, seconds: float = PATIENCE) -> str:
        """All that the command wrote; an AssertionError with it unless the exit code is `code`."""
        with self.start(*command, start_new_session=True) as process:
            try:
                said, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                said = process.communicate()[0] + f"\n(killed after {seconds} s)"
        assert process.returncode == code, f"{command} ended with {process.returncode}, not {code}:\n{said}"
        return said

    def gcloud(self, *arguments, **options) -> str:
        """`gcloud compute tpus ARGUMENTS`."""
        return self.run("gcloud", "compute", "tpus", *arguments, "--zone=us-central2-b", **options)


@contextlib.contextmanager
def desk(folder: pathlib.Path):
    """A `Desk` for as long as one is in here; its network, machines and cloud go with it."""
    network = Network(folder / "net")
    cloud = Cloud(network)
    try:
        with server.serving(cloud) as calls, Desk(folder, network, cloud, calls) as opened:
            yield opened
    finally:
        network.close()
