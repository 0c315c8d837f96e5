"""Made-up runs: the files that training writes, with numbers that tests know."""

import csv
import json
import pathlib

import numpy as np

from lfr_jax.config import Config, DataConfig, ScheduleConfig, TrainConfig
from lfr_jax.storage import digests
from lfr_jax.storage.run_dir import RunDir

DOMAINS = ("code", "prose", "tables")
PHASES = {
    "lfr": (("learn", 0, 8), ("focus", 8, 12), ("review", 12, 16), ("focus2", 16, 20)),
    "uniform": (("uniform", 0, 20),),
}
STEPS = range(0, 21, 2)  # of the measurements
EACH = 4  # probes of a domain
COST = {"lfr": 100, "uniform": 200}  # FLOPs of a step


def domain_of(block: int) -> str:
    return DOMAINS[block // 10]


def blocks() -> list[int]:
    return [10 * domain + number for domain in range(len(DOMAINS)) for number in range(EACH)]


def kept(policy: str, phase: str, block: int) -> bool:
    """In Focus, `lfr` leaves out the tables and the first block of prose; in Focus 2 the tables."""
    return not (domain_of(block) == "tables" and phase.startswith("focus") or (phase, block) == ("focus", 10))


def probe_loss(policy: str, block: int, step: int) -> float:
    """Falls; under `lfr` the tables rise by 0.25 a step in Focus, and have lost it all again by the end of Review."""
    forgot = {10: 0.5, 12: 1.0, 14: 0.5}.get(step, 0.0) if policy == "lfr" and domain_of(block) == "tables" else 0.0
    return 7.0 - 0.125 * step - block / 64 + forgot + (0.25 if policy == "uniform" else 0.0)


def tokens_of(block: int) -> int:
    return 8 << block % 3


def train_loss(policy: str, step: int, domain: str = "train") -> float:
    return (
        {"lfr": 5.0, "uniform": 6.0}[policy]
        - step / 10
        + {"train": 0, "code": 1, "prose": 2, "tables": 0, "all": 1.5}[domain]
    )


def write_csv(path: pathlib.Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def make_run(
    folder: pathlib.Path, policy: str = "lfr", store: str = "", stop: int = 20, probes: bool = True
) -> pathlib.Path:
    """A run of 20 steps, or of the first `stop`. With a `store`, a fingerprint, it has a checkpoint."""
    phases = [phase for phase in PHASES[policy] if phase[1] < stop]
    config = Config(
        str(folder), DataConfig(seq_len=32), schedule=ScheduleConfig(policy),
        train=TrainConfig(eval_every=2, probe_blocks=12 * probes),
    )  # fmt: skip
    folder.mkdir(parents=True)
    RunDir(folder).save_config(config)
    write_csv(
        folder / "metrics.csv",
        [
            dict(step=step, phase=name, loss=train_loss(policy, step), flops=COST[policy] * step)
            for name, first, last in phases
            for step in range(first + 1, min(last, stop) + 1)
        ],
    )
    write_csv(
        folder / "eval.csv",
        [
            dict(step=step, split="valid", domain=domain, loss=train_loss(policy, step, domain), tokens=9)
            for step in (4, 10)
            for domain in (*DOMAINS, "all")
        ],
    )
    write_csv(
        folder / "scores" / "probes.csv",
        [
            dict(
                step=step,
                phase="",
                block=block,
                domain=domain_of(block),
                loss=probe_loss(policy, block, step),
                tokens=tokens_of(block),
            )  # fmt: skip
            for step in STEPS
            if step <= stop
            for block in blocks()
        ],
    )
    write_csv(
        folder / "scores" / "rates.csv",
        [
            dict(step=first, phase=name, stop=last, block=block, rate=2.0 * kept(policy, name, block))
            for name, first, last in phases
            for block in blocks()
        ],
    )
    if not probes:
        for name in ("probes.csv", "rates.csv"):
            path = folder / "scores" / name
            path.write_text(path.read_text().splitlines()[0] + "\n")
    if store:
        content = {"meta": {"fingerprint": store}, "digests": digests.leaf_digests({"step": np.int32(stop)})}
        meta = folder / "checkpoints" / str(stop) / "meta"
        meta.mkdir(parents=True)
        (meta / "metadata").write_text(json.dumps(digests.with_checksum(content)))
    return folder


def probes_of(policy: str, chosen) -> np.ndarray:
    """The mean loss of the tokens of the probes for which `chosen(block)` holds, at each measurement after step 0."""
    of_it = [block for block in blocks() if chosen(block)]
    tokens = [tokens_of(block) for block in of_it]
    return np.array([np.dot(tokens, [probe_loss(policy, b, s) for b in of_it]) / sum(tokens) for s in STEPS if s])
