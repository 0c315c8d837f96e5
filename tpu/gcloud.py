"""The one place where gcloud is run: every line can be shown in place of being run, and every error says what to do."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

INSTALL = "gcloud was not found on PATH; install it: https://cloud.google.com/sdk/docs/install"
HINTS = {  # what gcloud's message has in it -> the command that mends it
    "gcloud auth login": "gcloud auth login",
    "Reauthentication": "gcloud auth login",
    "invalid_grant": "gcloud auth login",
    "has not been used in project": "gcloud services enable tpu.googleapis.com",
    "SERVICE_DISABLED": "gcloud services enable tpu.googleapis.com",
}
CALL_S = 900.0  # seconds for one call of the API; a deletion is waited for, and takes minutes
TRANSIENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Connection reset", "Connection aborted", "timed out", "502", "503")


class GcloudError(OSError):
    """gcloud ended with an error; the message is its own, with the command that mends it where there is one."""


class Answer(NamedTuple):
    """What a call printed, and its exit code; None: it was ended because it took too long."""

    code: int | None
    out: str
    err: str


class Gcloud:
    """Runs gcloud in one project and zone. With `dry_run`, lines are printed, and every answer is empty.

    The zone is always passed: with `--reserved` and a zone from gcloud's configuration, gcloud would ask for a
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
        """A list that gcloud gives as JSON. Tries again where the trouble is known to pass.

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
        """Names below a folder of a bucket; none if there is no such folder.

        Raises:
          GcloudError: no permission, no bucket, no network.
        """
        line = ["gcloud", "storage", "ls", f"{folder}/", f"--project={self.project}", "--quiet"]
        answer = self.execute(line, CALL_S)
        if answer.code and "matched no objects" in answer.err:
            return []
        return [line.rstrip("/").rpartition("/")[2] for line in checked(answer).out.splitlines()]


def execute(line: list[str], timeout: float | None = None) -> Answer:
    """Runs a command without input. It has ended when this returns, also after a timeout or Ctrl-C.

    Raises:
      GcloudError: there is no such program.
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
    """Ends gcloud with the ssh processes that it started. What runs on a worker goes on."""
    os.killpg(process.pid, signal.SIGKILL)


def checked(answer: Answer) -> Answer:
    if answer.code is None:
        raise GcloudError("gcloud was ended, because it took too long")
    if answer.code != 0:
        raise GcloudError(explained(answer.err))
    return answer


def explained(err: str) -> str:
    """gcloud's error in its own words, with the command that mends it.

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
    """Gives the terminal to a command; its exit code."""
    try:
        return subprocess.run(line).returncode
    except FileNotFoundError:
        raise GcloudError(INSTALL) from None
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
