"""Runs what is missing of an experiment, in a folder that any number of such commands may share."""

import contextlib
import datetime
import json
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Iterator

from lfr_jax.distributed.preemption import PREEMPTED
from lfr_jax.experiments.cells import FAILED, Cell, read_record
from lfr_jax.experiments.layout import Layout, laid_out
from lfr_jax.experiments.plan import Plan
from lfr_jax.experiments.tuning import HALF, loss_of_run, words, write_tuned
from lfr_jax.experiments.workers import Crew, Event, default_workers
from lfr_jax.storage.files import write_atomically
from lfr_jax.terminal import printable, show

PLANS = "plans.csv"


def run_experiment(plan: Plan, out: pathlib.Path, workers: int = 0) -> int:
    """Makes all cells of a plan that are not finished in the folder `out`, and shows each as it ends.

    Args:
      workers: processes side by side; 0: as `default_workers` says.

    Returns:
      How many cells have failed.

    Raises:
      ValueError: the plan cannot be carried out.
      SystemExit(75): SIGTERM came; what was trained is saved, and the same command goes on.
    """
    layout = laid_out(plan, out)
    record_plan(plan, out)
    progress = Progress(plan, out, layout)
    if layout.unknown or any(not cell.finished(out) for cell in layout.cells):
        with sigterm_exits(), Crew(workers or default_workers(), plan, out) as crew:
            for event in crew.events():
                progress.follow(event)
    progress.finish()
    return progress.failed


def record_plan(plan: Plan, out: pathlib.Path) -> None:
    """Writes down, before the first cell is made, that this plan was started, and the whole of it."""
    whole, table = out / "plans" / f"{plan.digest}.json", out / PLANS
    if whole.exists():
        return
    whole.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), open(table, "x", encoding="utf-8") as file:
        file.write("plan,started\n")
    with open(table, "a", encoding="utf-8") as file:
        file.write(f"{plan.digest},{datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')}\n")
    write_atomically(whole, json.dumps(plan.as_json, indent=1) + "\n")


class Progress:
    """A line for each cell as it ends."""

    def __init__(self, plan: Plan, out: pathlib.Path, layout: Layout):
        self.plan, self.out, self.layout, self.failed = plan, out, layout, 0
        self.began, self.flops_done = time.monotonic(), 0.0
        self.told_tuning = False
        self.tell_tuning()

    def follow(self, event: Event) -> None:
        if event.kind == "began":
            return
        if event.kind == "finished":
            self.flops_done += event.cell.flops
            if self.layout.unknown:
                self.layout = laid_out(self.plan, self.out)
        self.failed += event.kind == "failed"
        what = outcome(event.cell, self.plan, self.out) if event.kind == "finished" else f"{event.kind}: {event.text}"
        seconds = f"  {event.seconds:.0f} s" if event.kind == "finished" else ""
        show(f"{self.count()} {event.cell.name}  {printable(what)}{seconds}{self.remaining()}", sys.stdout)
        self.tell_tuning()

    def count(self) -> str:
        done = sum(cell.finished(self.out) for cell in self.layout.cells)
        return f"[{done}/{len(self.layout.cells)}{'+' if self.layout.unknown else ''}]"

    def remaining(self) -> str:
        """How long the rest takes, if it goes on at this speed; nothing, while that is not known."""
        left = sum(cell.flops for cell in self.layout.cells if not cell.finished(self.out))
        if not (left and self.flops_done):
            return ""
        seconds = (time.monotonic() - self.began) * left / self.flops_done
        return f"  about {duration(seconds)} {'or more ' if self.layout.unknown else ''}left"

    def tell_tuning(self) -> None:
        """Shows what the grid has decided, once."""
        tuning = self.layout.tuning
        if tuning is None or self.told_tuning:
            return
        self.told_tuning = True
        write_tuned(self.plan, tuning, self.out)
        show(f"tuned: {words(tuning.settings)}; all losses are in {self.out / 'tuned.json'}", sys.stdout)
        if tuning.at_edge:
            edge = f"warning: {words(tuning.at_edge)} is at the edge of the grid: try values beyond it in `tuned`"
            show(edge, sys.stdout)

    def finish(self) -> None:
        layout = laid_out(self.plan, self.out)
        left = [cell for cell in layout.cells if not cell.finished(self.out)]
        for text in layout.unknown:
            show(f"not known yet: {text}", sys.stdout)
        show(f"{len(layout.cells) - len(left)} of {len(layout.cells)} cells are finished in {self.out}", sys.stdout)


def outcome(cell: Cell, plan: Plan, out: pathlib.Path) -> str:
    """What a finished cell has come to, in words."""
    record = read_record(cell, out)
    if "diverged" in record:
        return f"diverged: {record['diverged']}"
    if not cell.held_out(out).exists():
        return "made"
    half = HALF if cell.name.startswith("tuning/") else plan.half
    return f"loss {loss_of_run(cell, out, plan.measure, half):.4f}"


def dry_run(plan: Plan, out: pathlib.Path) -> str:
    """What the plan consists of, as a table: each cell, its FLOPs, and whether it is finished."""
    layout = laid_out(plan, out)
    width = max(len(cell.name) for cell in layout.cells)
    lines = [f"{'cell':<{width}}  {'FLOPs':>8}  state"]
    for cell in layout.cells:
        failed = read_record(cell, out, FAILED).get("error", "")
        state = "finished" if cell.finished(out) else f"failed: {printable(failed)}" if failed else "to do"
        lines.append(f"{cell.name:<{width}}  {f'{cell.flops:.2e}' if cell.flops else '':>8}  {state}")
    left = sum(cell.flops for cell in layout.cells if not cell.finished(out))
    number = sum(not cell.finished(out) for cell in layout.cells)
    lines.append(f"{number} of {len(layout.cells)} cells are to do, {left:.2e} FLOPs; plan {plan.digest[:16]}")
    return "\n".join([*lines, *(f"not known yet: {text}" for text in layout.unknown)])


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(40), duration(600), duration(9000)
    ('40 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def sigterm_exits() -> Iterator[None]:
    """Within it, SIGTERM raises SystemExit(75), so that the workers are ended first."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(PREEMPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
