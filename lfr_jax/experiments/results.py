"""Reads what a run left in its folder, for tables and figures."""

import csv
import io
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from lfr_jax.config import nearest
from lfr_jax.config.values import described, shown
from lfr_jax.schedule import Phase
from lfr_jax.storage.checkpoint import latest_step, read_meta
from lfr_jax.storage.damage import try_read
from lfr_jax.storage.paths import Path
from lfr_jax.storage.remote_files import exists, read_bytes
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.terminal import printable

# The columns that are read of each table, and their types.
READ: dict[str, dict[str, type]] = {
    "metrics.csv": {"step": int, "phase": str, "loss": float, "flops": float},
    "eval.csv": {"step": int, "domain": str, "loss": float},
    "probes.csv": {"step": int, "block": int, "domain": str, "loss": float},
    "rates.csv": {"step": int, "phase": str, "stop": int, "rate": float},
}
MIN_MEASUREMENTS = 4  # of each probe; with fewer, noise and trend cannot be told apart


class Results(NamedTuple):
    """The losses and sampling rates of a run's probes: N probes, M measurements of each, P phases.

    A probe is a training block whose loss is measured again and again. Two things are left out: the
    measurement before the first step, since an untrained model says nothing about a block; and
    probes with a loss that is not finite.
    """

    name: str
    measured_on: tuple[str, int, str]  # the store's fingerprint ('' before the first checkpoint), seq_len, packing
    phases: tuple[Phase, ...]  # those that the run has entered
    block_N: np.ndarray  # i64[N]: ids
    domain_N: np.ndarray  # str[N]
    step_M: np.ndarray  # i64[M]: number of steps before the measurement
    tokens_N: np.ndarray  # f64[N]: number of tokens that the loss is a mean of
    loss_NxM: np.ndarray  # f64[N, M]: mean NLL, nats per token
    rate_NxP: np.ndarray  # f64[N, P]: 1 is the mean over all blocks of the corpus, 0 is not drawn
    flops: dict[int, float]  # FLOPs spent after each step, scoring included; step 0 has 0

    @property
    def domains(self) -> list[str]:
        return sorted(set(self.domain_N))

    @property
    def leaves_out_P(self) -> np.ndarray:
        """bool[P]: whether the phase draws some probe never."""
        return ~(self.rate_NxP > 0).all(axis=0)

    def mean_loss(self, chosen_N: np.ndarray) -> np.ndarray:
        """f64[M]: the mean loss of all tokens of the probes `chosen_N` (bool[N]), nats per token."""
        return np.average(self.loss_NxM[chosen_N], axis=0, weights=self.tokens_N[chosen_N])


def read_results(folder: Path, name: str) -> Results:
    """Reads the run in `folder`, finished or not.

    Raises:
      FileNotFoundError: there is no run.
      ValueError: the run has no probes, or fewer than `MIN_MEASUREMENTS` measurements of them.
    """
    config = RunDir(folder).load_config()
    saved = latest_step(folder / "checkpoints")
    content, _ = try_read(read_meta, folder / "checkpoints" / str(saved)) if saved is not None else (None, "")
    rates = read_complete_steps(folder / "scores" / "rates.csv")
    losses = read_complete_steps(folder / "scores" / "probes.csv")
    if not losses or not rates:
        raise ValueError(
            f"{folder} has no probes, so nothing shows how the losses of single blocks changed: found "
            f"train.probe_blocks={config.train.probe_blocks}; train in a new run_dir with train.probe_blocks=1024 or so"
        )
    trained = [rows for rows in losses if int(rows[0]["step"]) > 0]
    if len(trained) < MIN_MEASUREMENTS:
        raise ValueError(
            f"the probes of {folder} were measured {len(trained)} times since training began, expected at least "
            f"{MIN_MEASUREMENTS}: train on, or evaluate more often (found train.eval_every={config.train.eval_every})"
        )
    loss_NxM = column_array(trained, "loss").T
    finite_N = np.isfinite(loss_NxM).all(axis=1)
    if not finite_N.any():
        raise ValueError(
            f"{folder}: no probe has finite losses throughout; the run diverged, or its blocks have no targets"
        )
    return Results(
        name=printable(name),
        measured_on=(content["meta"]["fingerprint"] if content else "", config.data.seq_len, config.data.packing),
        phases=tuple(Phase(printable(r[0]["phase"]), int(r[0]["step"]), int(r[0]["stop"])) for r in rates),
        block_N=np.array([int(row["block"]) for row in trained[0]])[finite_N],
        domain_N=np.array([printable(row["domain"]) for row in trained[0]])[finite_N],
        step_M=np.array([int(rows[0]["step"]) for rows in trained]),
        # Runs of older releases have no column "tokens"; there every probe has the same weight.
        tokens_N=np.array([float(row.get("tokens", 1)) for row in trained[0]])[finite_N],
        loss_NxM=loss_NxM[finite_N],
        rate_NxP=column_array(rates, "rate").T[finite_N],
        flops=read_flops(read_csv(folder / "metrics.csv")),
    )


def check_same_probes(runs: list[Results]) -> None:
    """Raises ValueError unless all runs measured the same blocks."""
    first, *others = runs
    for other in others:
        (store, *cut), (other_store, *other_cut) = first.measured_on, other.measured_on
        stores_differ = store and other_store and store != other_store
        if stores_differ or cut != other_cut or not np.array_equal(first.block_N, other.block_N):
            raise ValueError(
                "the runs measured different blocks, so they cannot be compared: "
                f"{describe_probes(first)}; {describe_probes(other)}. "
                "Name runs on one store, with the same data.seq_len, data.packing and train.probe_blocks"
            )


def describe_probes(run: Results) -> str:
    store, seq_len, packing = run.measured_on
    blocks = f"{len(run.block_N)} blocks of {seq_len} tokens ({packing})"
    return f"{run.name} {blocks} from the store {store[:12] or '(unknown)'}"


class ProbeSplit(NamedTuple):
    """The probes that a phase draws, and those that it leaves out and a later phase draws again."""

    run: Results  # the run that the phase belongs to
    phase: Phase
    kept_N: np.ndarray  # bool[N]
    restored_N: np.ndarray  # bool[N]


def split_by_phase(runs: list[Results], phase: str = "") -> ProbeSplit | None:
    """Splits the probes by a phase: the first of this name; by default, the first that leaves a probe out.

    Returns:
      None if the phase leaves no probe out; by default, if no phase of any run does.

    Raises:
      ValueError: no run has a phase of this name.
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
                return ProbeSplit(run, found, kept_N, restored_N)
    return None


def read_complete_steps(path: Path) -> list[list[dict[str, str]]]:
    """The rows of each step that is complete. A last step with fewer rows than the first is still being written."""
    rows = read_csv(path) if exists(path) else []
    steps = [list(of_step) for _, of_step in groupby(rows, key=lambda row: row["step"])]
    return [of_step for of_step in steps if len(of_step) == len(steps[0])]


def column_array(steps: list[list[dict[str, str]]], column: str) -> np.ndarray:
    """f64[steps, rows of a step]."""
    return np.array([[float(row[column]) for row in rows] for rows in steps])


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file. A run that is still going may have written half of the last row: it is left out.

    Raises:
      ValueError: a row lacks a column that is read here, or has no number where there should be one.
    """
    text = read_bytes(path).decode(errors="replace")
    rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    for number, row in enumerate(rows, start=1):
        for name, kind in READ.get(path.name, {}).items():
            try:
                kind(row[name])
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"{path}, row {number}: {name} is {shown(row.get(name))}, expected {described(kind)}; the file was "
                    "changed: put a copy of it there"
                ) from None
    return rows


def read_flops(metrics: list[dict[str, Any]]) -> dict[int, float]:
    """FLOPs spent after each step, by the rows of `metrics.csv`."""
    return {0: 0.0} | {int(row["step"]): float(row["flops"]) for row in metrics}
