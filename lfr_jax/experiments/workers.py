"""Processes that make the cells of an experiment, side by side. They agree by locks alone, so there may be more
of them elsewhere: started by another terminal, or on another machine that sees the folder."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from lfr_jax.data.worker_process import begin_worker
from lfr_jax.distributed import compilation_cache, malloc
from lfr_jax.distributed.preemption import PREEMPTED
from lfr_jax.experiments.cells import Cell, has_failed, record_failure, taken
from lfr_jax.experiments.layout import laid_out
from lfr_jax.experiments.make_cell import make
from lfr_jax.experiments.plan import Plan
from lfr_jax.prepare.workers import cores
from lfr_jax.terminal.faults import explained, one_line

PAUSE = 0.3  # seconds until a worker looks again for a cell that is free
CRASHES = 2  # of a cell, after which it counts as failed


class Event(NamedTuple):
    """What a worker did."""

    kind: Literal["began", "finished", "failed", "crashed"]
    cell: Cell
    text: str = ""  # what failed
    seconds: float = 0.0


class Crew:
    """The workers of this command.

    Args:
      count: of workers.
      plan, out: as for `run_experiment`.
    """

    def __init__(self, count: int, plan: Plan, out: pathlib.Path):
        self.plan, self.out = plan, out
        self.command = uuid.uuid4().hex  # a cell that failed is not tried again by the same command
        self.spawn = multiprocessing.get_context("spawn")  # a process with threads in it, such as JAX's, must not fork
        self.cores = cores_of(count)
        self.at_work: dict[multiprocessing.connection.Connection, tuple[int, multiprocessing.process.BaseProcess]] = {}
        self.crashes: dict[Cell, int] = {}
        self.idle_deaths = 0

    def __enter__(self) -> "Crew":
        for number in range(len(self.cores)):
            self.start(number)
        return self

    def __exit__(self, *_) -> None:
        """Ends all workers: what they train is saved."""
        for _, process in self.at_work.values():
            process.terminate()
        for _, process in self.at_work.values():
            process.join()

    def start(self, number: int) -> None:
        events, of_worker = self.spawn.Pipe(duplex=False)
        arguments = (self.plan, self.out, self.command, of_worker)
        process = self.spawn.Process(target=work, args=arguments, name=f"worker {number}")
        with on_cores(self.cores[number]):
            process.start()
        of_worker.close()  # so that the end of the worker is the end of the pipe
        self.at_work[events] = number, process

    def events(self) -> Iterator[Event]:
        """What the workers do, until all have ended. A worker that dies is replaced, and its cell is free again.

        Raises:
          OSError: of `died_idle`.
        """
        began: dict[multiprocessing.connection.Connection, Cell] = {}
        while self.at_work:
            for pipe in multiprocessing.connection.wait(list(self.at_work)):
                try:
                    event = pipe.recv()
                except EOFError:
                    number, process = self.at_work.pop(pipe)
                    process.join()
                    cell = began.pop(pipe, None)
                    if process.exitcode and cell:
                        yield self.crashed(cell, process.exitcode)
                    elif process.exitcode:
                        self.died_idle(process)
                    if process.exitcode:
                        self.start(number)
                    continue
                began |= {pipe: event.cell}
                if event.kind != "began":
                    del began[pipe]
                yield event

    def crashed(self, cell: Cell, code: int) -> Event:
        """After `CRASHES` of a cell it counts as failed, as it may need more memory than there is."""
        how = f"its process ended with {ending(code)}"
        self.crashes[cell] = self.crashes.get(cell, 0) + 1
        if self.crashes[cell] < CRASHES:
            return Event("crashed", cell, f"{how}; it is tried once more")
        text = f"{how}, {CRASHES} times; perhaps for want of memory: take fewer with --workers"
        record_failure(cell, self.out, text, self.command)
        return Event("failed", cell, text)

    def died_idle(self, process: multiprocessing.process.BaseProcess) -> None:
        """Raises OSError if workers die again and again before they begin with a cell."""
        self.idle_deaths += 1
        if self.idle_deaths > CRASHES:
            how = ending(process.exitcode)
            raise OSError(f"{process.name} ended with {how} and made nothing; {self.out / 'logs'} has what it wrote")


def ending(code: int) -> str:
    return f"the signal {signal.Signals(-code).name}" if code < 0 else f"the exit code {code}"


def work(plan: Plan, out: pathlib.Path, command: str, events: multiprocessing.connection.Connection) -> None:
    """A worker process, from its begin to its end."""
    begin_worker()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(PREEMPTED))
    write_to(out / "logs" / f"{socket.gethostname()}-{os.getpid()}.log")
    malloc.keep_freed_memory()
    compilation_cache.keep_compiled_programs()
    make_cells(plan, out, command, events.send)


def make_cells(plan: Plan, out: pathlib.Path, command: str, tell: Callable[[Event], None]) -> None:
    """Makes cells that are free, until none is left that could be made."""
    layout, known_with = laid_out(plan, out), None
    while True:
        done = {cell for cell in layout.cells if cell.finished(out)}
        if layout.unknown and done != known_with:  # what has been finished since may make more known
            layout, known_with = laid_out(plan, out), done
            continue
        free = [
            cell
            for cell in layout.cells
            if cell not in done
            and all(need.finished(out) for need in cell.needs)
            and not has_failed(cell, out, command)
        ]
        if not free:
            return
        if not any(attempt(cell, out, command, tell) for cell in free):
            time.sleep(PAUSE)  # others make them; should one of them die, its cell is free again


def attempt(cell: Cell, out: pathlib.Path, command: str, tell: Callable[[Event], None]) -> bool:
    """Makes a cell, if no other process does. False: another does, or did."""
    with taken(cell, out) as lock:
        if lock is None or has_failed(cell, out, command):
            return False
        tell(Event("began", cell))
        try:
            tell(Event("finished", cell, seconds=make(cell, out, lock)))
        except Exception as error:
            text = one_line(explained(error))
            record_failure(cell, out, text, command)
            tell(Event("failed", cell, text))
        return True


def write_to(path: pathlib.Path) -> None:
    """What this process and its libraries write goes into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8", errors="replace") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)


def cores_of(count: int) -> list[set[int]]:
    """The cores of each of `count` workers: equal shares of those that this process may use; none, if unknown."""
    if not hasattr(os, "sched_getaffinity"):
        return [set()] * count
    own = sorted(os.sched_getaffinity(0))
    if count >= len(own):
        return [{own[number % len(own)]} for number in range(count)]
    return [set(own[number * len(own) // count : (number + 1) * len(own) // count]) for number in range(count)]


@contextlib.contextmanager
def on_cores(chosen: set[int]) -> Iterator[None]:
    """Within it, a process that begins has these cores, and leaves Ctrl-C to this one: it inherits both."""
    main = threading.current_thread() is threading.main_thread()
    before = os.sched_getaffinity(0) if chosen else set()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        if chosen:
            os.sched_setaffinity(0, chosen)
        yield
    finally:
        if chosen:
            os.sched_setaffinity(0, before)
        if main:
            signal.signal(signal.SIGINT, handler)


def default_workers() -> int:
    """As many as there are cores, where JAX computes on them; one, where it has an accelerator.

    Another process asks JAX, as one that has asked holds the accelerator's memory.
    """
    platform = os.environ.get("JAX_PLATFORMS")
    if platform != "cpu":
        asked = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
        platform = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    return cores() if platform == "cpu" else 1
