"""The loop of `run`: look at the TPU, let watch.py decide, act; until the run is over.

Every action may be repeated, and is recorded before it is done. So this process may be killed at any moment, and the
next `run` continues.
"""

import dataclasses
import math
import pathlib
import secrets
import time

import bundle
import watch
from fleet import Fleet, Worker
from gcloud import Gcloud, GcloudError
from queued import Backend, check_owner, check_same
from settings import Settings
from show import describe
from store import Store
from watch import Action, Memory, Seen
from workers import WorkerError, Workers

STOPPED = Action("stopped", "somebody stopped the run")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def new_launch() -> str:
    """A new, unique launch id."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def delete_all(backend: Backend, before: Fleet, poll_s: float) -> Fleet:
    """Deletes everything in `before`, and waits until it is gone. Returns the fleet after that.

    If somebody creates a resource of the same name meanwhile, that one is not deleted.

    Raises:
      GcloudError: the first deletion failed.
    """
    if before.empty():
        return before
    backend.delete(before)
    while not (fleet := backend.look()).empty() and fleet.created in ("", before.created):
        say(f"deleting: {describe(fleet)}")
        time.sleep(poll_s)
        try:
            backend.delete(fleet)  # nodes may outlive their resource
        except GcloudError as error:
            say(f"deleting, again: {error}")
    return fleet


def checkpoint_steps(gcloud: Gcloud, run_dir: str) -> list[int]:
    """Steps of the checkpoints in a bucket. Raises GcloudError."""
    return [int(name) for name in gcloud.storage_list(f"{run_dir}/checkpoints") if name.isdigit()]


class Runner:
    """One run on one TPU. With `store=None` (for `up`) it keeps no state, and ends when the TPU is ready."""

    def __init__(self, settings: Settings, gcloud: Gcloud, backend: Backend, store: Store | None):
        if not store:  # `up` never deletes an unhealthy node: a run may be going on there
            settings = dataclasses.replace(settings, unready_s=math.inf)
        self.settings, self.gcloud, self.backend, self.store = settings, gcloud, backend, store
        self.memory = store.load() if store else Memory()
        self.said = ""

    def remember(self, memory: Memory) -> None:
        if self.store and memory != self.memory:
            self.store.save(memory)
        self.memory = memory

    def begin(self) -> None:
        """Continues the run in the state file, or begins a new one.

        Raises:
          ValueError: the run in the state file is not over, and has other settings.
        """
        memory, settings = self.memory, self.settings
        self.store.stop_file.unlink(missing_ok=True)
        asked = settings.run_dir, settings.command
        if (memory.run_dir, memory.command) == asked and memory.outcome in ("", "done"):
            return
        if memory.launch and not memory.outcome:
            raise ValueError(
                f"{settings.name}: found another run at work, {memory.command!r} in {memory.run_dir}; "
                "stop it first, or go back to its settings"
            )
        self.remember(Memory(run_dir=settings.run_dir, command=settings.command))

    def watch(self) -> Action:
        """Looks and acts until there is nothing more to do. Returns the last action.

        Raises:
          GcloudError: the first look failed, or the first creation, or the bucket cannot be read.
        """
        first = True
        if self.store:
            self.newest()  # fails now if the bucket cannot be read, before a TPU costs money
        while True:
            try:
                if self.memory.deleting is not None:
                    self.finish_deletion()
                seen = self.look(first)
            except GcloudError as error:
                if first:
                    raise
                self.tell(f"cannot look at the TPU; the run on it goes on: {error}")
                time.sleep(self.settings.poll_s)
                continue
            first = False
            self.remember(watch.note(self.memory, seen, time.time()))
            action = watch.decide(self.memory, seen, self.settings, time.time())
            while action:
                if self.stop_asked() and action.kind != "done":
                    self.stop(seen.fleet)
                    action = STOPPED
                if action.kind == "give up" and self.store:
                    self.stop(seen.fleet)  # or the other hosts would wait for the failed one, and cost money
                self.tell(f"{action.kind}: {action.reason}")
                self.remember(watch.remember(self.memory, action, seen, self.settings, time.time()))
                if action.kind in ("done", "stopped", "give up") or not self.store and action.kind == "launch":
                    return action
                action = self.act(action, seen)

    def stop_asked(self) -> bool:
        return bool(self.store) and self.store.stop_file.exists()

    def look(self, first: bool) -> Seen:
        """The current state of the TPU, the workers and the checkpoints.

        Raises:
          GcloudError: gcloud failed.
          ValueError: the name is used for something else.
        """
        fleet = self.backend.look()
        check_same(self.settings, fleet)
        if not self.store or not fleet.ready():
            return Seen(fleet)
        workers = tuple(Workers(self.gcloud, self.settings, fleet.reachable()).status())
        if first:
            self.adopt(workers)
        return Seen(fleet, workers, max(self.newest(), *(worker.step for worker in workers)))

    def newest(self) -> int:
        """Step of the newest checkpoint, if run_dir is a bucket; else, or without one, -1. Raises GcloudError."""
        run_dir = self.settings.run_dir
        return max(checkpoint_steps(self.gcloud, run_dir), default=-1) if run_dir.startswith("gs://") else -1

    def adopt(self, workers: tuple[Worker, ...]) -> None:
        """Watches a run that `launch` started: all workers run it, and this state file knows no other."""
        runs = {worker.run for worker in workers if worker.state == "running"}
        blank = Memory(run_dir=self.memory.run_dir, command=self.memory.command)
        if self.memory == blank and len(runs) == 1 and all(worker.state == "running" for worker in workers):
            run = runs.pop()
            say(f"launch {run} is running; watching it")
            self.remember(dataclasses.replace(self.memory, launch=run, digest=self.pushed()))

    def pushed(self) -> str:
        """The digest of the code that this machine pushed last."""
        tarball = self.store.tarball
        return bundle.digest(tarball) if tarball.exists() else bundle.make(pathlib.Path(self.settings.source), tarball)

    def act(self, action: Action, seen: Seen) -> Action | None:
        """Does one action, already recorded. Returns the next action if it fails."""
        if action.kind == "wait":
            time.sleep(self.settings.poll_s)
        elif action.kind == "create":
            return self.create()
        elif action.kind == "launch":
            return self.launch(seen)
        else:  # recreate or restart: the next look shows what to delete or launch
            self.stop(seen.fleet)
        return None

    def create(self) -> Action | None:
        try:
            self.backend.create()
        except GcloudError as error:
            if not self.memory.digest:  # nothing has run yet: report it to the user, who is waiting
                raise
            return watch.again(self.memory, self.settings, "recreate", str(error), "creation")
        return None

    def launch(self, seen: Seen) -> Action | None:
        """Push, setup, launch. If a worker fails, look whether its node still exists."""
        workers = Workers(self.gcloud, self.settings, seen.fleet.reachable())
        source, tarball = pathlib.Path(self.settings.source), self.store.tarball
        digest = self.pushed() if self.memory.digest else bundle.make(source, tarball)
        run = self.memory.launch or new_launch()
        self.remember(dataclasses.replace(self.memory, launch=run, digest=digest, creations=0))
        try:
            if any(worker.digest != bundle.folder(digest) for worker in seen.workers):
                workers.push(self.store.tarball, digest)
                say("the code is on every worker")
            workers.setup()
            if self.stop_asked():
                return STOPPED
            workers.launch(run)
            say(f"launched {run} on {len(workers.places())} workers")
        except WorkerError as error:
            self.tell(str(error))
            time.sleep(self.settings.settle_s)
            if self.still_ready():
                return watch.failure(self.memory, self.settings, str(error))
        return None

    def still_ready(self) -> bool:
        try:
            return self.backend.look().ready()
        except GcloudError:  # the next look decides
            return False

    def stop(self, fleet: Fleet) -> None:
        """Ends the run on all nodes that can still be reached."""
        if fleet.state == "ACTIVE" and fleet.reachable():
            Workers(self.gcloud, self.settings, fleet.reachable()).stop(by="run")

    def finish_deletion(self) -> None:
        """Finishes the deletion in the state file. A later resource of the same name is not deleted."""
        fleet = self.backend.look()
        if fleet.created == self.memory.deleting:
            delete_all(self.backend, fleet, self.settings.poll_s)
        self.remember(dataclasses.replace(self.memory, deleting=None))

    def delete(self) -> tuple[Fleet, Fleet]:
        """Deletes the TPU at the end; repeats until gcloud succeeds. Returns (fleet before, fleet after)."""
        while True:
            try:
                check_owner(self.settings, before := self.backend.look())
                return before, delete_all(self.backend, before, self.settings.poll_s)
            except GcloudError as error:
                self.tell(f"not deleted yet: {error}")
                time.sleep(self.settings.poll_s)

    def tell(self, text: str) -> None:
        """Prints `text`, unless it was the last text printed."""
        if text != self.said:
            say(text)
        self.said = text
