"""The commands of tpu.py. Each is a function of a Session that returns the exit code."""

import argparse
import concurrent.futures
import dataclasses
import pathlib
import shlex
import sys
import time

import bundle
import fleet
import gcloud
import runner
import settings
from fleet import Fleet
from gcloud import Gcloud
from queued import QueuedResources, check_owner, check_same
from runner import Runner, say
from settings import Settings
from show import cost, describe, table, whole_lines
from store import Busy, Store
from workers import WorkerError, Workers


class Session:
    """The settings, gcloud, and the state of earlier commands."""

    def __init__(self, asked: Settings, args: argparse.Namespace):
        self.settings, self.args = asked, args
        self.gcloud = Gcloud(asked.project, asked.zone, args.dry_run)
        self.backend = QueuedResources(self.gcloud, asked)
        self.store = Store(asked.state_path())

    def workers(self) -> Workers:
        """The workers of the TPU. In a dry run: those that it would have.

        Raises:
          WorkerError: the TPU is not ready.
        """
        found = self.backend.look()
        if not self.args.dry_run:
            check_same(self.settings, found)
            if not found.ready():
                raise WorkerError(f"found {describe(found)}; expected it ACTIVE and READY: tpu/tpu.py up")
        return self.workers_of(dict(enumerate(found.nodes)))

    def workers_of(self, nodes: dict[int, fleet.Node]) -> Workers:
        return Workers(self.gcloud, self.settings, nodes)


def up(session: Session) -> int:
    if session.args.dry_run:
        session.backend.look()
        session.backend.create()
        return 0
    last = Runner(session.settings, session.gcloud, session.backend, None).watch()
    return 0 if last.kind == "launch" else 1


def push(session: Session) -> int:
    warn_untracked(session.settings)
    workers = session.workers()
    tarball = session.store.tarball
    digest = "SHA256" if session.args.dry_run else bundle.make(pathlib.Path(session.settings.source), tarball)
    workers.push(tarball, digest)
    if not session.args.dry_run:
        say(f"{len(workers.places())} of {len(workers.places())} workers have {bundle.folder(digest)}")
    return 0


def warn_untracked(asked: Settings) -> None:
    if missed := bundle.untracked(pathlib.Path(asked.source)):
        print(f"not tracked by git, and so not sent: {', '.join(missed)}", file=sys.stderr)


def setup(session: Session) -> int:
    workers = session.workers()
    workers.setup()
    if not session.args.dry_run:
        say(f"installed on {len(workers.places())} workers")
    return 0


def launch(session: Session) -> int:
    settings.check_run(session.settings)
    warn_local(session.settings)
    workers = session.workers()
    if session.args.dry_run:
        workers.launch("ID")
        return 0
    seen = workers.status()
    if len({worker.digest for worker in seen}) > 1 or not seen[0].digest:
        raise WorkerError("the workers have different code, or none; expected the same: tpu/tpu.py push, then setup")
    at_work = {worker.run for worker in seen if worker.state == "running"}
    if at_work and all(worker.state == "running" for worker in seen) and len(at_work) == 1:
        say(f"{at_work.pop()} is running on all {len(seen)} workers; nothing was launched")
        return 0
    if at_work and any(worker.state in ("exited", "lost") and worker.run in at_work for worker in seen):
        raise WorkerError("a part of the last run is still running; end it first: tpu/tpu.py stop")
    run = max(at_work, default=runner.new_launch())  # a launch that did not reach every worker is completed
    try:
        workers.launch(run)
    except WorkerError:
        workers.stop(by="user")  # or some workers would wait for the others, and cost money
        raise
    say(f"launched {run} on {len(seen)} workers: tpu/tpu.py logs --follow, or run")
    return 0


def warn_local(asked: Settings) -> None:
    if not asked.run_dir.startswith("gs://"):
        print(
            f"run_dir {asked.run_dir} is not a bucket: it must be a disk that all hosts share. On the TPU's own "
            "disk it is lost with the TPU",
            file=sys.stderr,
        )


def run(session: Session) -> int:
    settings.check_run(session.settings)
    warn_local(session.settings)
    if session.args.dry_run:
        return max(step(session) for step in (up, push, setup, launch, status))
    warn_untracked(session.settings)
    watcher = Runner(session.settings, session.gcloud, session.backend, session.store)
    watcher.begin()
    if watcher.memory.outcome == "done":
        say(f"done before; to train again choose another --run-dir, or delete {session.store.file}")
        ended = "done"
    else:
        ended = watcher.watch().kind
        done = watcher.memory
        newest = done.step if done.step >= 0 else "none"
        say(f"{done.outcome}: {done.preemptions} preemptions, {done.failures} failures, newest checkpoint {newest}")
    if session.settings.delete_at_end and ended != "stopped":
        deleted(session, *watcher.delete())
    else:
        say(f"a TPU that is still there costs money: {session.args.prog} down {session.args.file}")
    return 0 if ended == "done" else 1


def status(session: Session) -> int:
    found = session.backend.look()
    if session.args.dry_run:
        session.workers_of(dict(enumerate(found.nodes))).status()
        if session.settings.run_dir.startswith("gs://"):
            runner.checkpoint_steps(session.gcloud, session.settings.run_dir)
        return 0
    owner = f"(made by {found.owner}) " if found.owner else ""
    print(f"queued resource {session.settings.name}: {found.state or 'absent'} {owner}{found.error}".rstrip())
    for stray in found.strays:
        print(f"further node {stray}: not among those of the settings")
    for other in found.others:
        print(f"node {other}: not created by a queued resource, so not by tpu.py")
    workers = session.workers_of(found.reachable()).status()
    steps = [worker.step for worker in workers]
    if session.settings.run_dir.startswith("gs://"):
        steps += runner.checkpoint_steps(session.gcloud, session.settings.run_dir)
    print(table(found, workers))
    newest = max(steps, default=-1)
    print(f"newest checkpoint: {newest if newest >= 0 else 'none'}")
    if not found.empty():
        print(cost(session.settings, found))
    return 0


def logs(session: Session) -> int:
    workers = session.workers()
    places = [(number, index) for number, index in workers.places() if chosen(session.args, number, index)]
    words = dict.fromkeys(places, f"last {session.args.lines}")
    if session.args.dry_run:
        for place in places:
            workers.log(place, words[place])
        return 0
    while True:
        with concurrent.futures.ThreadPoolExecutor(workers.parallel) as pool:
            replies = dict(zip(places, pool.map(lambda place: workers.log(place, words[place]), places)))
        for (number, index), reply in replies.items():
            if not reply:
                print(f"{number}/{index} | (no answer)", file=sys.stderr)
                continue
            text, unfinished = whole_lines(reply.rest, session.args.follow)
            for line in text:
                print(f"{number}/{index} | {line}", flush=True)
            words[number, index] = f"from {int(reply.fields['next']) - unfinished}"
        if not session.args.follow:
            return 0
        if all(worker.state in ("exited", "lost", "none") for worker in workers.status()):
            return 0
        time.sleep(session.settings.poll_s)


def chosen(args: argparse.Namespace, number: int, index: int) -> bool:
    return args.slice in (None, number) and args.worker in (None, index)


def stop(session: Session) -> int:
    if session.args.dry_run:
        session.workers().stop(by="user")
        return 0
    watched = tell_watcher(session)
    found = session.backend.look()
    if not found.ready() and watched:
        say("the watching `run` was told to end; no TPU is ready yet")
        return 0
    ended = session.workers().stop(by="user")
    for worker in ended:
        code = f" {worker.code}" if worker.code is not None else ""
        print(f"worker {worker}: {worker.state}{code}")
    if any(worker.state in ("running", "unreachable") for worker in ended):
        raise WorkerError("not every worker has ended; run it again")
    say("stopped; the TPU is still there, and costs money until: tpu/tpu.py down")
    return 0


def tell_watcher(session: Session) -> bool:
    """Makes a `run` that is watching end. If none is, records that the next one has nothing to resume."""
    try:
        with session.store.lock("stop"):
            memory = session.store.load()
            session.store.save(dataclasses.replace(memory, launch="", outcome=memory.outcome or "stopped"))
            return False
    except Busy:
        session.store.stop_file.touch()
        return True


def ssh(session: Session) -> int:
    workers = session.workers()
    node, index = session.args.slice or 0, session.args.worker or 0
    if (node, index) not in workers.places():
        raise WorkerError(f"found no worker {node}/{index}; expected one of {len(workers.places())}, see status")
    line = workers.ssh_line(node, index, shlex.join(session.args.words))
    if session.args.dry_run:
        print(shlex.join(line))
        return 0
    return gcloud.interactive(line)


def down(session: Session) -> int:
    if session.args.dry_run:
        session.backend.look()
        everything = Fleet("ACTIVE", nodes=tuple(fleet.Node(name) for name in session.settings.node_names()))
        session.backend.delete(everything)
        session.backend.look()
        return 0
    before = session.backend.look()
    check_owner(session.settings, before)
    return deleted(session, before, runner.delete_all(session.backend, before, min(session.settings.poll_s, 10)))


def deleted(session: Session, before: Fleet, left: Fleet) -> int:
    """Forgets the run, unless it is done, and reports what was deleted. Returns 1 if something is left, else 0."""
    if session.store.load().outcome != "done":
        session.store.file.unlink(missing_ok=True)
    name, zone = session.settings.name, session.settings.zone
    rest = [
        f"{other}, which no queued resource made: gcloud compute tpus tpu-vm delete {other}" for other in left.others
    ]
    if not left.empty():
        rest.append(f"created by somebody else meanwhile: {describe(left)}")
    for one in rest:
        say(f"left alone: {one}")
    if not before.empty():
        say(f"deleted {describe(before)}" + ("" if rest else f"; nothing called {name} is left in {zone}"))
        say(cost(session.settings, before))
    elif not rest:
        say(f"there was nothing called {name} in {zone}: no queued resource, no node")
    return int(bool(rest))


COMMANDS = dict(
    up=up, push=push, setup=setup, launch=launch, status=status, logs=logs, stop=stop, run=run, ssh=ssh, down=down
)
