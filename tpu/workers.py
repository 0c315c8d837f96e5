"""Runs commands on the workers. Only a line from the worker itself counts as its answer, never gcloud's exit code.

gcloud exits with 0 also if a node was not reached, mixes the output of several workers, and repeats a command whose
connection broke. So the agent on each worker (worker/agent.sh) may be called any number of times, and answers with
one line that begins with `@lfr SLICE/WORKER`.
"""

import concurrent.futures
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from fleet import Node, Worker
from gcloud import Answer, Gcloud, checked, execute, explained
from settings import Settings

KEY = pathlib.Path("~/.ssh/google_compute_engine").expanduser()
LINE = re.compile(r"^@lfr (\d+)/(\d+) (\w+) (.*)$", re.MULTILINE)
# A lost host is noticed after 20 s, not after TCP's minutes. The messages keep routers from dropping the connection.
SSH_FLAGS = ("-oConnectTimeout=20", "-oServerAliveInterval=20", "-oServerAliveCountMax=6")

Place = tuple[int, int]  # slice, worker


class Reply(NamedTuple):
    """The answer of a worker."""

    fields: dict[str, str]
    line: str  # free text at the end of its line
    rest: str  # the output below its line


class WorkerError(OSError):
    """A command failed on some workers. The message names each with its reason."""


class Workers:
    """The workers of some nodes. `nodes` are by slice number."""

    def __init__(self, gcloud: Gcloud, settings: Settings, nodes: Mapping[int, Node]):
        self.gcloud, self.settings, self.nodes = gcloud, settings, nodes
        self.home = f"~/lfr_tpu/{settings.name}"
        self.agent = f"bash {self.home}/code/tpu/worker/agent.sh"
        self.parallel = 1 if gcloud.dry_run else max(1, settings.parallel)

    def places(self) -> list[Place]:
        return [(number, index) for number, node in self.nodes.items() for index in range(node.hosts)]

    def ssh_line(self, number: int, worker: int | str, command: str = "") -> list[str]:
        flags = [f"--worker={worker}", *(f"--ssh-flag={flag}" for flag in SSH_FLAGS)]
        if command:
            flags.append(f"--command={command}")
        return self.gcloud.line("compute", "tpus", "tpu-vm", "ssh", self.nodes[number].name, *flags)

    def push(self, tarball: pathlib.Path, digest: str) -> None:
        """Copies the code to every worker, with one scp per worker: gcloud's scp to several needs an ssh-agent.

        Raises:
          WorkerError: some workers do not have exactly these bytes; the message names them.
        """

        def bring(place: Place) -> list[Answer]:
            number, index = place
            node, timeout = self.nodes[number].name, self.settings.setup_timeout_s
            flags = [f"--worker={index}", *(f"--scp-flag={flag}" for flag in SSH_FLAGS)]
            sent = self.gcloud.call(
                "compute", "tpus", "tpu-vm", "scp", str(tarball), f"{node}:", *flags, timeout=timeout
            )
            if sent.code != 0:
                return [sent]
            unpack = ["bash", "-s", "--", number, index, self.settings.name, digest, tarball.name]
            words = shlex.join(["tar", "-xzOf", tarball.name, "tpu/worker/receive.sh"])
            command = f"{words} | {shlex.join(map(str, unpack))}"
            return [self.gcloud.execute(self.ssh_line(number, index, command), timeout)]

        make_key(self.gcloud.dry_run)
        # The first call to each node must be alone, since it adds the ssh key to the node.
        first = [place for place in self.places() if place[1] == 0]
        others = [place for place in self.places() if place[1] > 0]

        def has_it(reply: Reply) -> bool:
            return reply.fields.get("digest") == digest

        self.insist("push", bring, has_it, groups=(first, others))

    def setup(self) -> None:
        """Installs the pushed code. Raises WorkerError."""
        words = f"setup {shlex.quote(self.settings.setup)}"
        self.tell("setup", words, lambda reply: reply.fields.get("done") == "1", self.settings.setup_timeout_s)

    def launch(self, run: str) -> None:
        """Starts the command on every worker, at most once per `run` id. Raises WorkerError."""
        settings = self.settings
        variables = [f"{name}={value}" for name, value in settings.run_env().items()]
        words = shlex.join(["launch", run, settings.run_dir, f"{settings.grace_s:.0f}", settings.command, *variables])
        timeout = settings.ssh_timeout_s + settings.grace_s  # an earlier run may have to end first
        self.tell("launch", words, lambda reply: reply.fields.get("started") == "1", timeout)

    def status(self) -> list[Worker]:
        """The state of each worker."""
        return self.seen("status", "status", self.settings.ssh_timeout_s)

    def stop(self, by: str) -> list[Worker]:
        """Ends the run on every worker: SIGTERM, and SIGKILL after `grace_s`. Returns the states after that."""
        words = f"stop {self.settings.grace_s:.0f} {by}"
        return self.seen("status", words, self.settings.ssh_timeout_s + self.settings.grace_s)

    def log(self, place: Place, words: str) -> Reply | None:
        """A part of one worker's log; None if the worker does not answer."""
        line = self.ssh_line(*place, f"{self.agent} log {words}")
        answer = self.gcloud.execute(line, self.settings.ssh_timeout_s)
        return replies([answer], "log").get(place)

    def on_nodes(self, words: str, timeout: float) -> list[Answer]:
        """Runs a command of the agent on all workers, with one call per node."""
        command = f"{self.agent} {words} || echo @lfr none"
        lines = [self.ssh_line(number, "all", command) for number in self.nodes]
        with concurrent.futures.ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(lambda line: self.gcloud.execute(line, timeout), lines))

    def seen(self, verb: str, words: str, timeout: float) -> list[Worker]:
        make_key(self.gcloud.dry_run)
        answers = self.on_nodes(words, timeout)
        found = replies(answers, verb)
        workers = []
        for number, answer in zip(self.nodes, answers):
            places = [place for place in self.places() if place[0] == number]
            silent = [place for place in places if place not in found]
            # A worker without an agent cannot give its number. But if all silent ones have none, all are "none".
            absent = "none" if answer.out.count("@lfr none") >= len(silent) else "unreachable"
            workers += [
                as_worker(place, found[place]) if place in found else Worker(*place, absent) for place in places
            ]
        return workers

    def tell(self, verb: str, words: str, done: Callable[[Reply], bool], timeout: float) -> None:
        """Runs a command of the agent on all workers of a node at once, then again on each worker that was silent."""
        make_key(self.gcloud.dry_run)
        answers = self.on_nodes(words, timeout)
        found = replies(answers, verb)
        silent = [place for place in self.places() if place not in found]
        refused = {place: reply.line for place, reply in found.items() if not done(reply)}
        if self.gcloud.dry_run:
            return
        if refused:
            raise WorkerError(complaint(verb, refused))

        def again(place: Place) -> list[Answer]:
            return [self.gcloud.execute(self.ssh_line(*place, f"{self.agent} {words}"), timeout)]

        self.insist(verb, again, done, groups=(silent,))

    def insist(
        self,
        verb: str,
        act: Callable[[Place], list[Answer]],
        done: Callable[[Reply], bool],
        groups: Sequence[Sequence[Place]],
        attempts: int = 3,
    ) -> None:
        """Repeats `act` for each worker until its answer is `done`, one group after the other.

        Raises:
          WorkerError: some workers did not succeed in all attempts; the message names them.
        """
        for group in groups:
            left = list(group)
            for _ in range(attempts):
                with concurrent.futures.ThreadPoolExecutor(self.parallel) as pool:
                    answers = dict(zip(left, pool.map(act, left)))
                if self.gcloud.dry_run:
                    break
                said = {place: replies(answer, verb).get(place) for place, answer in answers.items()}
                left = [place for place in left if not (said[place] and done(said[place]))]
                if not left:
                    break
            else:
                raise WorkerError(complaint(verb, {place: reason(said[place], answers[place]) for place in left}))


def replies(answers: Sequence[Answer], verb: str) -> dict[Place, Reply]:
    """Parses lines `@lfr SLICE/WORKER VERB name=value ... line=free text`; the last one of each worker counts.

    >>> replies([Answer(0, "noise\\n@lfr 0/1 launch id=a started=1 line=x = y\\n", "")], "launch")
    {(0, 1): Reply(fields={'id': 'a', 'started': '1'}, line='x = y', rest='')}
    """
    found = {}
    for answer in answers:
        for match in LINE.finditer(answer.out):
            if match[3] == verb:
                head, _, line = f" {match[4]}".partition(" line=")
                fields = dict(word.split("=", 1) for word in head.split() if "=" in word)
                rest = answer.out[match.end() + 1 :]
                found[int(match[1]), int(match[2])] = Reply(fields, line.strip(), rest)
    return found


def as_worker(place: Place, reply: Reply) -> Worker:
    fields = reply.fields
    return Worker(
        *place,
        state=fields["state"],
        run=fields.get("run", ""),
        code=int(fields["code"]) if fields.get("code") else None,
        stopped=fields.get("stopped") == "1",
        pid=fields.get("pid", ""),
        step=int(fields.get("step") or -1),
        digest=fields.get("digest", ""),
        line=reply.line,
        silence=float(fields["silence"]) if fields.get("silence") else None,
    )


def reason(reply: Reply | None, answers: Sequence[Answer]) -> str:
    if reply:
        return reply.line or " ".join(f"{name}={value}" for name, value in reply.fields.items())
    if answers[-1].code is None:
        return "no answer in time"
    return explained(answers[-1].err).splitlines()[-1]


def complaint(verb: str, reasons: dict[Place, str]) -> str:
    """The reason of each worker; workers with the same reason are listed together."""
    by_reason: dict[str, list[str]] = {}
    for (number, index), why in sorted(reasons.items()):
        by_reason.setdefault(why, []).append(f"{number}/{index}")
    parts = [f"slice/worker {', '.join(places)}: {why}" for why, places in by_reason.items()]
    return f"{verb} was not done everywhere; " + "; ".join(parts)


def make_key(dry_run: bool) -> None:
    """Creates gcloud's ssh key if there is none. Two gcloud calls at once would create two, and lose one."""
    if KEY.exists():
        return
    line = ["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-C", os.environ.get("USER", "user"), "-f", str(KEY)]
    if dry_run:
        print(shlex.join(line))
        return
    print(f"making the ssh key that gcloud uses, without a passphrase: {KEY}", file=sys.stderr)
    KEY.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    checked(execute(line))
