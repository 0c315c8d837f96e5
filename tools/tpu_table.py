"""Compiles configs for TPUs, and writes what they would take there as a table: the one of docs/tpu.md.

    python tools/tpu_table.py --results tpu_results
    python tools/tpu_table.py --results tpu_results --configs llama_1b_slimpajama --places v6e-8 --table-only

Each pair of a config and a place is one `lfr compile`, of minutes. Its result is kept in a file, so a command that was
ended goes on where it was.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import pathlib
import runpy
import subprocess
import sys
import tomllib
from typing import Any, NamedTuple

from lfr_jax.compile import topologies
from lfr_jax.compile.report import amount, way_out
from lfr_jax.config import Config

ROOT = pathlib.Path(__file__).parent.parent
PLACES = ("v5litepod-8", "v6e-8", "v4-32", "v5p-64", "v6e-256", "v6e-256x2")  # as in tpu/topologies
HOME = "v5litepod-8"  # what the micro-batches of the configs are for
ONE_HOST = ("smoke",)  # configs that are too small for more than 8 chips
HEAD = (
    "| config | place | options | GiB a chip | step, bound | MFU, bound | collectives into a chip | exposed |\n"
    "|---|---|---|---|---|---|---|---|"
)


class Job(NamedTuple):
    """One config at one place."""

    config: str  # name of a file in configs/
    place: str
    options: tuple[str, ...]  # that the place needs

    @property
    def command(self) -> list[str]:
        """The command that compiles it, behind `lfr`; with the options of the compiler that the place's runs have."""
        accelerator, slices = parted(self.place)
        settings = tomllib.loads((ROOT / "tpu" / "topologies" / f"{self.place}.toml").read_text(encoding="utf-8"))
        flags = [word.removeprefix("--") for word in settings.get("libtpu_init_args", "").split()]
        where = ["--topology", accelerator, "--slices", str(slices), "--programs", "train", "--json"]
        compiler = ["--compiler-options", *flags] if flags else []
        return ["compile", f"configs/{self.config}.py", *where, *self.options, *compiler]

    @property
    def file(self) -> str:
        """Where its result is kept. Under other settings it is another file."""
        settings = repr(settings_of(self.config)) + json.dumps(self.command)
        return f"{self.config}.{self.place}.{hashlib.sha256(settings.encode()).hexdigest()[:8]}.json"


def parted(place: str) -> tuple[str, int]:
    """The accelerator type of a place, and the number of slices.

    >>> parted("v6e-256x2")
    ('v6e-256', 2)
    """
    accelerator, _, slices = place.partition("x")
    return accelerator, int(slices or 1)


def settings_of(name: str) -> Config:
    """What a file in configs/ holds."""
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["config"]


def job(name: str, place: str) -> Job:
    """A config, with the options that a place needs."""
    accelerator, slices = parted(place)
    return Job(name, place, tuple(options(settings_of(name), topologies.find(accelerator, slices))))


def options(config: Config, place: topologies.Topology) -> list[str]:
    """What must be set at a place, beside what the config says for `HOME`.

    A chip has as many rows at once as there, times its memory in powers of two, if the batch has so many. 'tensor' is
    1, unless there are more chips than rows in a batch; a model whose heads it cannot split gets a larger batch.
    'fsdp', where the config has it, splits as far as the model's sizes allow, and 'data' takes the rest. In a network
    of three axes, 'fsdp' has the two longest: over all three, the compiler reduces gradients whole.
    """
    train, model, words, chips = config.train, config.model, [], place.num_chips
    tensor = max(1, chips // train.batch_size)
    if model.num_kv_heads % tensor:
        tensor, train = 1, dataclasses.replace(train, batch_size=chips)
        words += ["--train.batch-size", str(chips)]
    rows = chips // tensor
    if tensor > 1:
        words += ["--mesh.tensor", str(tensor)]
    if config.mesh.fsdp == -1:
        most = min(rows, math.prod(sorted(place.shape)[-2:]) if len(place.shape) == 3 else rows)
        fsdp = max(size for size in powers(most) if not (model.dim % size or model.vocab_size % size))
        words += ["--mesh.data", str(rows // fsdp)] if fsdp < rows else []
    home = topologies.find(HOME)
    times = round(place.generation.hbm_gib / home.generation.hbm_gib)
    at_once = max(1, train.batch_size // train.grad_accum_steps // home.num_chips) * max(powers(times))
    pieces = max(1, train.batch_size // (rows * at_once))
    if pieces != train.grad_accum_steps:
        words += ["--train.grad-accum-steps", str(pieces)]
    if train.score_batch_size % rows:
        words += ["--train.score-batch-size", str(-(-train.score_batch_size // rows) * rows)]
    return words


def powers(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [2**power for power in range(most.bit_length())]


def compiled(job: Job, results: pathlib.Path) -> dict[str, Any]:
    """The result of a job, from its file or by compiling."""
    file = results / job.file
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    done = subprocess.run([sys.executable, "-m", "lfr_jax.cli", *job.command], cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout) if done.stdout else {"error": done.stderr.strip().rpartition("\n")[2]}
    found["commit"] = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def row(job: Job, found: dict[str, Any] | None) -> str:
    """A line of the table. Where the train step does not fit, it is about the settings that do."""
    words = " ".join(job.options)
    if found is None:
        return line(job, words, "not compiled", *[""] * 4)
    if "error" in found:
        return line(job, words, found["error"].rpartition(": ")[2], *[""] * 4)
    train = found["programs"]["train"]
    if not train["fits"]:
        if not (train := way_out(train.get("tried", []))):
            return line(job, words, "does not fit", *[""] * 4)
        words = f"{words} {train['options']}".strip()
    bound, memory = train["bound_seconds"], train["memory_gib"]
    sent = sum(each["bytes"] for each in train["collectives"])
    kinds = ", ".join(
        f"{each['kind']} {amount(each['bytes'])}" for each in train["collectives"] if each["bytes"] > sent / 50
    )
    return line(
        job,
        words,
        f"{memory['total']:.1f} of {memory['limit']}",
        f"{1e3 * bound['step']:.0f} ms",
        f"{100 * train['mfu_at_most']:.0f} %",
        kinds,
        f"{100 * bound['exposed'] / bound['step']:.0f} %",
    )


def line(job: Job, words: str, *cells: str) -> str:
    """Cells as a line of Markdown."""
    return f"| {job.config} | {job.place} | {f'`{words}`' if words else ''} | {' | '.join(cells)} |"


def main() -> None:
    """Compiles what has no result yet, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    configs = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    parser.add_argument("--configs", nargs="+", default=configs, choices=configs)
    parser.add_argument("--places", nargs="+", default=PLACES, choices=PLACES)
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "tpu_results")
    parser.add_argument("--table-only", action="store_true", help="compile nothing")
    asked = parser.parse_args()
    asked.results.mkdir(parents=True, exist_ok=True)
    pairs = [(name, place) for name in asked.configs for place in asked.places]
    jobs = [job(*pair) for pair in pairs if pair[0] not in ONE_HOST or pair[1].endswith("-8")]
    for number, each in enumerate(jobs if not asked.table_only else (), start=1):
        print(f"{number} of {len(jobs)}: {each.config} on {each.place}", file=sys.stderr, flush=True)
        compiled(each, asked.results)
    print(HEAD)
    for each in jobs:
        print(row(each, compiled(each, asked.results) if (asked.results / each.file).exists() else None))


if __name__ == "__main__":
    main()
