"""What a run left in its folder, read back for tables and figures."""

import csv
import io
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from lfr_jax.config import nearest
from lfr_jax.schedule import Phase
from lfr_jax.storage.checkpoint import latest_step, read_meta
from lfr_jax.storage.damage import try_read
from lfr_jax.storage.paths import Path
from lfr_jax.storage.remote_files import exists, read_bytes
from lfr_jax.storage.run_dir import RunDir

MEASUREMENTS = 4  # of each probe at least, or there is no telling noise from a trend


class Results(NamedTuple):
    """What became of a run's probes: N blocks, M measurements of each, P phases.

    The measurement before the first step is left out: what an untrained model loses on a block
    says nothing of the block. So are probes whose loss was not finite throughout.
    """

    name: str
    of: tuple[str, int, str]  # measured: the store's fingerprint ('' before a first checkpoint), seq_len, packing
    phases: tuple[Phase, ...]  # that were entered
    block_N: np.ndarray  # i64[N]: ids
    domain_N: np.ndarray  # str[N]
    step_M: np.ndarray  # i64[M]: number of steps before the measurement
    tokens_N: np.ndarray  # f64[N]: whose mean a loss is
    loss_NxM: np.ndarray  # f64[N, M]: mean NLL, nats per token
    rate_NxP: np.ndarray  # f64[N, P]: 1 is the mean over all blocks of the corpus, 0 is not drawn
    flops: dict[int, float]  # spent up to each step, scoring included

    @property
    def domains(self) -> list[str]:
        return sorted(set(self.domain_N))

    def loss_of(self, chosen_N: np.ndarray) -> np.ndarray:
        """f64[M]: the loss of the probes `chosen_N`, taken together: the mean over their tokens, nats per token."""
        return np.average(self.loss_NxM[chosen_N], axis=0, weights=self.tokens_N[chosen_N])


def read_results(folder: Path, name: str) -> Results:
    """Reads the run in `folder`, finished or not.

    Raises:
      FileNotFoundError: no run is there.
      ValueError: it wrote down no probes, or too few measurements of them.
    """
    config = RunDir(folder).load_config()
    saved = latest_step(folder / "checkpoints")
    content, _ = try_read(read_meta, folder / "checkpoints" / str(saved)) if saved is not None else (None, "")
    rates = whole_steps(folder / "scores" / "rates.csv")
    losses = whole_steps(folder / "scores" / "probes.csv")
    if not losses or not rates:
        raise ValueError(
            f"{folder} has no probes, whose losses would show what became of them: found train.probe_blocks="
            f"{config.train.probe_blocks}; train with 1024 or so, in a new run_dir"
        )
    trained = [rows for rows in losses if int(rows[0]["step"]) > 0]
    if len(trained) < MEASUREMENTS:
        raise ValueError(
            f"the probes of {folder} were measured {len(trained)} times since training began, expected at least "
            f"{MEASUREMENTS}: train on, or evaluate more often (found train.eval_every={config.train.eval_every})"
        )
    loss_NxM = numbers(trained, "loss").T
    finite_N = np.isfinite(loss_NxM).all(axis=1)
    if not finite_N.any():
        raise ValueError(
            f"{folder}: no probe has finite losses throughout; the run diverged, or its blocks have no targets"
        )
    return Results(
        name=printable(name),
        of=(content["meta"]["fingerprint"] if content else "", config.data.seq_len, config.data.packing),
        phases=tuple(Phase(printable(r[0]["phase"]), int(r[0]["step"]), int(r[0]["stop"])) for r in rates),
        block_N=np.array([int(row["block"]) for row in trained[0]])[finite_N],
        domain_N=np.array([printable(row["domain"]) for row in trained[0]])[finite_N],
        step_M=np.array([int(rows[0]["step"]) for rows in trained]),
        # Older releases wrote none: their probes count alike.
        tokens_N=np.array([float(row.get("tokens", 1)) for row in trained[0]])[finite_N],
        loss_NxM=loss_NxM[finite_N],
        rate_NxP=numbers(rates, "rate").T[finite_N],
        flops={0: 0.0} | {int(row["step"]): float(row["flops"]) for row in read(folder / "metrics.csv")},
    )


def same_probes(runs: list[Results]) -> None:
    """Raises ValueError unless all runs measured the same blocks."""
    first, *others = runs
    for other in others:
        stores_differ = first.of[0] and other.of[0] and first.of[0] != other.of[0]
        if stores_differ or first.of[1:] != other.of[1:] or not np.array_equal(first.block_N, other.block_N):
            raise ValueError(
                f"the runs measured other blocks, and cannot be compared: {described(first)}; {described(other)}. "
                "Name runs on one store, with the same data.seq_len, data.packing and train.probe_blocks"
            )


def described(run: Results) -> str:
    store, seq_len, packing = run.of
    blocks = f"{len(run.block_N)} blocks of {seq_len} tokens ({packing})"
    return f"{run.name} {blocks} from the store {store[:12] or '(unknown)'}"


class Split(NamedTuple):
    """The probes that a phase drew, and those that it left out and a later phase drew again."""

    run: Results  # whose phase it is
    phase: Phase
    kept_N: np.ndarray  # bool[N]
    restored_N: np.ndarray  # bool[N]


def split(runs: list[Results], phase: str = "") -> Split | None:
    """By the phase of that name in the first run that has it; by default, by the first that leaves a probe out.

    Returns:
      None where the phase leaves none out; by default, where no phase of any run does.

    Raises:
      ValueError: no run has a phase of that name.
    """
    names = [p.name for run in runs for p in run.phases]
    if phase and phase not in names:
        raise ValueError(
            f"no phase is called {phase!r}; {nearest(phase, names)}there are {', '.join(dict.fromkeys(names))}"
        )
    for run in runs:
        for index, found in enumerate(run.phases):
            kept_N = run.rate_NxP[:, index] > 0
            if (not phase or found.name == phase) and not kept_N.all():
                restored_N = ~kept_N & (run.rate_NxP[:, index + 1 :] > 0).any(axis=1)
                return Split(run, found, kept_N, restored_N)
    return None


def whole_steps(path: Path) -> list[list[dict[str, str]]]:
    """The rows of each step, as many as the first has; a last step with fewer is still being written."""
    rows = read(path) if exists(path) else []
    steps = [list(of_step) for _, of_step in groupby(rows, key=lambda row: row["step"])]
    return [of_step for of_step in steps if len(of_step) == len(steps[0])]


def numbers(steps: list[list[dict[str, str]]], column: str) -> np.ndarray:
    return np.array([[float(row[column]) for row in rows] for rows in steps])


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file. A run that is still going may have written half of the last; that is left out."""
    text = read_bytes(path).decode()
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))


def printable(name: str) -> str:
    """Names come from the data; one with control characters could steer a terminal.

    >>> printable("a\\x1b[31mb")
    'a\\ufffd[31mb'
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
