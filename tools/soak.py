#!/usr/bin/env python
"""Whether a long run stays as small and as fast as it was: a tiny model under LFR, through very many phases.

    python tools/soak.py                              # 2,000 phases, about an hour
    python tools/soak.py --phases 200 --minutes 4

Every few seconds it writes down memory, open descriptors, threads and steps done, as soak.csv in --out. At the end it
compares the first tenth of the time with the last. The phases of one cycle come before, as they compile. Other work on
the machine changes how many steps a second there are. It changes less how many steps the process does in the processor
time of a fixed piece of work, which is timed with each sample: look there for a trend.

A run that lasts longer than --minutes is stopped as SIGTERM stops it, and goes on where it was if the same --out is
given again. The run scores, probes, evaluates and saves, as real ones do.
"""

import argparse
import csv
import hashlib
import itertools
import os
import pathlib
import signal
import statistics
import tempfile
import threading
import time
from typing import NamedTuple

import numpy as np

from lfr_jax.config import Config, DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig, llama
from lfr_jax.data.tokenizer import Bytes
from lfr_jax.distributed import malloc
from lfr_jax.prepare.prepare import prepare_documents
from lfr_jax.prepare.text_source import Document
from lfr_jax.schedule import fit, lfr
from lfr_jax.train.loop import train

BYTES = bytes(2**22)


class Sample(NamedTuple):
    """This process at one moment."""

    seconds: float
    cpu: float  # seconds of processor time that the process has used, on all cores
    work: float  # seconds of processor time that a fixed piece of work took
    step: int
    memory: int  # resident, bytes
    allocated: int  # of that, bytes in use by the program; the rest are pages of freed memory
    descriptors: int
    threads: int


def take_sample(began: float, metrics: pathlib.Path) -> Sample:
    status = dict(
        line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    )
    return Sample(
        time.monotonic() - began,
        time.process_time(),
        timed_work(),
        last_step(metrics),
        1024 * int(status["VmRSS"].split()[0]),
        malloc.allocated(),
        len(os.listdir("/proc/self/fd")),
        int(status["Threads"]),
    )


def timed_work() -> float:
    """Seconds of processor time for a fixed piece of work: some in Python, some in a library, some in memory."""
    before = time.thread_time()
    sum(n * n for n in range(100_000))
    hashlib.sha256(BYTES)
    BYTES[:-1] + b"0"
    return time.thread_time() - before


def last_step(metrics: pathlib.Path) -> int:
    """The step in the last row of a run's metrics.csv, 0 if there is none."""
    with open(metrics, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        rows = file.read().split(b"\n")[:-1]
    step = rows[-1].partition(b",")[0] if rows else b""
    return int(step) if step.isdigit() else 0


def watch(began: float, run_dir: pathlib.Path, every: float, seconds: float, samples: list[Sample], done) -> None:
    """Takes samples until the run is done, and stops it when its time is over."""
    with open(run_dir.parent / "soak.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(Sample._fields)
        while not done.wait(every):
            if (run_dir / "metrics.csv").exists():
                samples.append(take_sample(began, run_dir / "metrics.csv"))
                table.writerow(samples[-1])
                file.flush()
            if time.monotonic() - began > seconds:
                os.kill(os.getpid(), signal.SIGTERM)
                return


def configuration(folder: pathlib.Path, phases: int, phase_steps: int) -> Config:
    """A run of at least `phases` phases, of `phase_steps` steps on average; makes its text."""
    reps = -(-(phases - 1) // 3)
    if not (folder / "data").exists():
        random = np.random.default_rng(0)
        texts = ("".join(random.choice(list("abcdefgh "), 3000)) for _ in itertools.count())
        documents = [Document(f"{name}{n}", next(texts), name, "made-up") for name in ("a", "b") for n in range(20)]
        prepare_documents(folder / "data", documents, Bytes(), valid_fraction=0.2)
    steps = phase_steps * (1 + 3 * reps)
    return Config(
        run_dir=str(folder / "run"),
        data=DataConfig(store=str(folder / "data"), seq_len=64),
        model=llama(1, 32, num_heads=2, num_kv_heads=1, mlp_dim=64, vocab_size=257, max_len=64, tied_head=True),
        schedule=ScheduleConfig("lfr", dict(reps=reps)),
        optimizer=OptimizerConfig(warmup_steps=phase_steps),
        train=TrainConfig(
            steps=steps,
            batch_size=8,
            score_batch_size=64,
            eval_every=7 * phase_steps,
            eval_blocks=8,
            probe_blocks=32,
            checkpoint_every=10 * phase_steps,
        ),
    )


def describe(samples: list[Sample], stops: list[int]) -> str:
    """The first tenth of the time beside the last one, after the phases that end at the first of `stops`."""
    samples = [sample for sample in samples if sample.step > stops[min(4, len(stops) - 1)]]
    tenth = len(samples) // 10
    parts = samples[: tenth + 1], samples[-tenth - 1 :]
    if tenth < 2 or any(part[-1].step == part[0].step for part in parts):
        return f"{len(samples)} samples since all was compiled: too few to compare; give it more --minutes"

    def speed(part: list[Sample]) -> float:
        return (part[-1].step - part[0].step) / (part[-1].seconds - part[0].seconds)

    def median(name: str) -> list[float]:
        return [statistics.median(getattr(sample, name) for sample in part) for part in parts]

    phases = [sum(stop <= sample.step for stop in stops) for sample in (samples[0], samples[-1])]

    def per_work(part: list[Sample]) -> float:
        steps_per_cpu_second = (part[-1].step - part[0].step) / (part[-1].cpu - part[0].cpu)
        return steps_per_cpu_second * statistics.median(sample.work for sample in part)

    return "\n".join(
        [
            f"phases done       {phases[0]} when all was compiled, {phases[1]} at the end; steps {samples[-1].step}",
            f"                  {'first tenth':>14}{'last tenth':>14}",
            *(
                f"{name + ', MB':<18}{first / 1e6:14.1f}{last / 1e6:14.1f}   {100 * (last / first - 1):+.1f} %, "
                f"{(last - first) / 1e3 / max(1, phases[1] - phases[0]):+.1f} kB a phase"
                for name in ("memory", "allocated")
                for first, last in [median(name)]
            ),
            *("{:<18}{:14.0f}{:14.0f}".format(name, *median(name)) for name in ("descriptors", "threads")),
            *(
                f"{name:<18}{first:14.2f}{last:14.2f}   {100 * (last / first - 1):+.1f} %"
                for name, measure in (("steps a second", speed), ("steps for the work", per_work))
                for first, last in [map(measure, parts)]
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", type=int, default=2000, help="at least so many")
    parser.add_argument("--phase-steps", type=int, default=100, help="steps of a phase, on average")
    parser.add_argument("--minutes", type=float, default=90.0, help="at most; then it is stopped")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two samples")
    parser.add_argument("--out", help="folder for text and run; by default a temporary one")
    asked = parser.parse_args()
    malloc.keep_freed_memory()  # as the command does
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(asked.out or temporary)
        config = configuration(folder, asked.phases, asked.phase_steps)
        run_dir = pathlib.Path(config.run_dir)
        samples, done = [], threading.Event()
        arguments = (time.monotonic(), run_dir, asked.every, 60 * asked.minutes, samples, done)
        watcher = threading.Thread(target=watch, args=arguments)
        watcher.start()
        try:
            train(config, quiet=True)
        except SystemExit:
            print(f"stopped after {(time.monotonic() - arguments[0]) / 60:.1f} minutes")
        finally:
            done.set()
            watcher.join()
        phases = fit(lfr(**config.schedule.options), config.train.steps).phases
        print(describe(samples, [phase.stop for phase in phases]))


if __name__ == "__main__":
    main()
