"""Makes one cell, in its folder, which this process has locked."""

import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import lfr_jax
from lfr_jax.config.dotted import with_settings
from lfr_jax.experiments.cells import FAILED, Cell, read_record, write_record
from lfr_jax.train import load_run
from lfr_jax.train.loop import train
from lfr_jax.train.track.recorder import NonFiniteLoss


def make(cell: Cell, out: pathlib.Path, lock: int) -> float:
    """Makes a cell whose needs are finished, and writes `done.json`. Returns the seconds that it took.

    Args:
      lock: the descriptor that `cells.taken` gave.

    Raises:
      SystemExit(75): SIGTERM came.
      Exception: whatever failed.
    """
    began = time.monotonic()
    found = diverged_before(cell, out) or MAKERS[cell.kind](cell, out, lock)
    seconds = time.monotonic() - began
    write_record(cell, out, seconds=seconds, flops=float(cell.flops), **found)
    (cell.folder(out) / FAILED).unlink(missing_ok=True)
    return seconds


def diverged_before(cell: Cell, out: pathlib.Path) -> dict[str, Any]:
    """What becomes of a cell that needs a run which has diverged: it has too. Nothing, if there is no such run."""
    records = {need.name: read_record(need, out) for need in cell.needs}
    reasons = [f"{name}: {record['diverged']}" for name, record in records.items() if "diverged" in record]
    return {"diverged": reasons[0]} if reasons else {}


def make_store(cell: Cell, out: pathlib.Path, lock: int) -> dict[str, Any]:
    """Runs the commands. The folder gets its name when all of them have ended."""
    unfinished, store = cell.folder(out) / "unfinished", cell.result(out)
    for folder in (unfinished, store):
        shutil.rmtree(folder, ignore_errors=True)
    environment = os.environ | {"PYTHONPATH": search_path()}
    for command in cell.placed(cell.content["commands"], out):
        words = [word.replace("{out}", str(unfinished)) for word in command]
        # The command holds the lock too: it may outlive this process, and nobody else may write there until it ends.
        # Of the interpreter's options, -P keeps modules in the working directory out.
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "lfr_jax.cli", *words],
            env=environment, pass_fds=(lock,), stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
        if ended.returncode:
            said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            raise OSError(f"lfr {' '.join(words)}: {said[-1]}")
    if not unfinished.is_dir():
        raise FileNotFoundError(f"{cell.name}: its commands have made no folder {{out}}")
    os.rename(unfinished, store)
    return {}


def search_path() -> str:
    """The PYTHONPATH with which another process finds this package."""
    here = str(pathlib.Path(lfr_jax.__file__).parent.parent)
    return os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), here]))


def make_run(cell: Cell, out: pathlib.Path, lock: int) -> dict[str, Any]:
    """Trains, or goes on, and measures the held-out documents. A run that diverges is finished: it always will."""
    run_dir = str(cell.result(out))
    config = with_settings(cell.placed(cell.config, out), {"run_dir": run_dir})
    try:
        summary = train(config, quiet=True).summary
    except NonFiniteLoss as diverged:
        return {"diverged": str(diverged)}
    if measured := cell.placed(cell.content["measured"], out):
        load_run.write_document_losses(load_run.load(run_dir), measured, cell.held_out(out))
    return {"summary": summary}


def make_scores(cell: Cell, out: pathlib.Path, lock: int) -> dict[str, Any]:
    """Scores all blocks of a store under a finished run."""
    content = dict(cell.placed(cell.content, out))
    run, store = load_run.load(content.pop("run")), content.pop("store")
    load_run.write_scores(run, store, cell.result(out), **content)
    return {}


MAKERS: dict[str, Callable[[Cell, pathlib.Path, int], dict[str, Any]]] = {
    "store": make_store,
    "train": make_run,
    "scores": make_scores,
}
