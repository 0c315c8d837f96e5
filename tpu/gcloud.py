"""Runs gcloud, or prints the line in a dry run. Every error says what to do. No other file runs gcloud."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

INSTALL = "gcloud was not found on PATH; install it: https://cloud.google.com/sdk/docs/install"
HINTS = {  # a part of gcloud's message -> the command that solves it
    "gcloud auth login": "gcloud auth login",
    "Reauthentication": "gcloud auth login",
    "invalid_grant": "gcloud auth login",
    "has not been used in project": "gcloud services enable tpu.googleapis.com",
    "SERVICE_DISABLED": "gcloud services enable tpu.googleapis.com",
}
CALL_S = 900.0  # timeout of one call; gcloud waits for a deletion, which takes minutes
TRANSIENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Connection reset", "Connection aborted", "timed out", "502", "503")


class GcloudError(OSError):
    """gcloud failed. The message is gcloud's, plus the command that solves it, if we know one."""


class Answer(NamedTuple):
    """What a call printed, and its exit code. Code None: it was killed after its timeout."""

    code: int | None
    out: str
    err: str


class Gcloud:
    """Runs gcloud in one project and zone. With `dry_run` it prints the lines, and every answer is empty.

    The zone is always passed. Otherwise, with `--reserved` and a zone from gcloud's configuration, gcloud looks for a
    reservation in the zone "None".
    """

    def __init__(self, project: str, zone: str, dry_run: bool = False):
        self.project, self.zone, self.dry_run = project, zone, dry_run

    def line(self, *args: str) -> list[str]:
        return ["gcloud", *args, f"--project={self.project}", f"--zone={self.zone}", "--quiet"]

    def call(self, *args: str, timeout: float | None = None) -> Answer:
        """Runs gcloud in this zone, whatever its exit code."""
        return self.execute(self.line(*args), timeout)

    def execute(self, line: list[str], timeout: float | None = None) -> Answer:
        if self.dry_run:
            print(shlex.join(line), flush=True)
            return Answer(0, "", "")
        return execute(line, timeout)

    def text(self, *args: str) -> str:
        """What gcloud printed.

        Raises:
          GcloudError: it failed.
        """
        return checked(self.call(*args, timeout=CALL_S)).out

    def read(self, *args: str, attempts: int = 3) -> list[dict[str, Any]]:
        """A list that gcloud prints as JSON. Tries again after errors that may pass (`TRANSIENT`).

        Raises:
          GcloudError: it failed.
        """
        for attempt in range(attempts):
            answer = self.call(*args, "--format=json", timeout=CALL_S)
            if answer.code == 0 or not any(word in answer.err for word in TRANSIENT):
                break
            time.sleep(2**attempt)
        try:
            return json.loads(checked(answer).out or "[]")
        except json.JSONDecodeError:
            raise GcloudError(f"gcloud {shlex.join(args)}: found {answer.out[:200]!r}, expected JSON") from None

    def storage_list(self, folder: str) -> list[str]:
        """Names in a folder of a bucket; [] if the folder does not exist.

        Raises:
          GcloudError: no permission, no bucket, no network.
        """
        line = ["gcloud", "storage", "ls", f"{folder}/", f"--project={self.project}", "--quiet"]
        answer = self.execute(line, CALL_S)
        if answer.code and "matched no objects" in answer.err:
            return []
        return [line.rstrip("/").rpartition("/")[2] for line in checked(answer).out.splitlines()]


def execute(line: list[str], timeout: float | None = None) -> Answer:
    """Runs a command without input. The command has ended when this returns, also after a timeout or Ctrl-C.

    Raises:
      GcloudError: gcloud is not installed.
    """
    try:
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except FileNotFoundError:
        raise GcloudError(INSTALL) from None
    code: int | None = None
    try:
        out, err = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        kill(process)
        out, err = process.communicate()
    except BaseException:
        kill(process)
        process.communicate()
        raise
    return Answer(code, out.decode(errors="replace"), err.decode(errors="replace"))


def kill(process: subprocess.Popen) -> None:
    """Kills gcloud and its ssh processes. A command on a worker goes on."""
    os.killpg(process.pid, signal.SIGKILL)


def checked(answer: Answer) -> Answer:
    if answer.code is None:
        raise GcloudError("gcloud was killed, because it took too long")
    if answer.code != 0:
        raise GcloudError(explained(answer.err))
    return answer


def explained(err: str) -> str:
    """gcloud's own error message, plus the command that solves it.

    >>> explained("WARNING: old\\nERROR: (gcloud.x) quota exceeded\\n")
    'ERROR: (gcloud.x) quota exceeded'
    """
    lines = [line for line in err.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith("ERROR:")]
    message = "\n".join(lines[starts[0] :] if starts else lines[-5:]) or "gcloud failed and said nothing"
    mend = next((command for part, command in HINTS.items() if part in err), "")
    return f"gcloud is not ready for this; run: {mend}\n{message}" if mend else message


def own_project() -> str:
    """The project of gcloud's configuration.

    Raises:
      GcloudError: it has none.
    """
    project = checked(execute(["gcloud", "config", "get", "project", "--quiet"])).out.strip()
    if not project or project == "(unset)":
        raise GcloudError("no project: pass --project, or run: gcloud config set project PROJECT")
    return project


def interactive(line: list[str]) -> int:
    """Runs a command in this terminal; its exit code."""
    try:
        return subprocess.run(line).returncode
    except FileNotFoundError:
        raise GcloudError(INSTALL) from None
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
