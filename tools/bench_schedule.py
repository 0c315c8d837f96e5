#!/usr/bin/env python
"""Times a whole phase change and the drawing of batches, and measures peak memory, for N blocks.

    JAX_PLATFORMS=cpu python tools/bench_schedule.py                       # N = 10^6, 10^7, 10^8; needs 4 GB
    JAX_PLATFORMS=cpu python tools/bench_schedule.py --blocks 1e6 --rounds 9

A phase change is `observe` of all blocks, in batches as in a scoring pass, then `begin`, `rates`, and `plan` of
as many draws as there are blocks. `lfr` has rates of 0 and 1; `by loss` draws in proportion to the loss, so all
rates differ. Every N and policy runs in its own process. Times are medians over rounds; each round goes through
all stages. Compilation does not count. Memory is the peak of the resident set, minus what it was after a phase
change of 4,096 blocks.
"""

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import time

SCORED = 1 << 16  # blocks of a scoring pass that are folded in at once
BATCH = 1024  # ids drawn at once
PHASE = 1  # lfr's first Focus phase


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Stages:
    """Stages of a phase change of N blocks under one policy, and the seconds that each took, round by round."""

    def __init__(self, policy: str, num_blocks: int):
        import jax
        import jax.numpy as jnp

        from lfr_jax import schedule

        self.jax, self.plan, self.num_blocks = jax, schedule.plan, num_blocks
        lfr = schedule.lfr(learn=1, focus=1, review=1, focus2=1, reps=1)
        by_loss = schedule.scored(lfr.phases, (lambda loss_N, info: loss_N,) * 4, dtype=jnp.float32)
        self.schedule = dict(lfr=lfr, by_loss=by_loss)[policy]
        self.observe = jax.jit(self.schedule.observe, donate_argnums=0)
        self.begin = jax.jit(self.schedule.begin, donate_argnums=0)
        self.hardest = jax.jit(schedule.hardest, static_argnums=1)
        self.batch = jax.jit(lambda start, step: self.scored(jnp, start, step))
        self.state = self.schedule.init(schedule.BlockInfo(num_blocks))
        self.seconds = {}

    def scored(self, jnp, start, step):
        """ids and losses of a batch of a scoring pass; those past the last block are padding."""
        ids_B = start + jnp.arange(SCORED, dtype=jnp.int32)
        losses_B = self.jax.random.exponential(self.jax.random.fold_in(self.jax.random.key(step), start), SCORED)
        return jnp.where(ids_B < self.num_blocks, ids_B, -1), losses_B

    def timed(self, stage: str, f, *arguments):
        start = time.perf_counter()
        result = self.jax.block_until_ready(f(*arguments))
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        return result

    def round(self, step: int) -> dict[str, float]:
        """Seconds of each stage; of `draw` and `observe_batch`, for one batch."""
        self.seconds = {}
        for start in range(0, self.num_blocks, SCORED):
            batch = self.jax.block_until_ready(self.batch(start, step))
            self.state = self.timed("observe", self.observe, self.state, *batch, step)
        self.state = self.timed("begin", self.begin, self.state, PHASE)
        rates_N = self.timed("rates", lambda: self.jax.device_get(self.schedule.rates(self.state)))
        draws = self.timed("plan", self.plan, rates_N, self.num_blocks, step, PHASE)
        del rates_N
        self.draw(draws)
        del draws
        self.timed("hardest", self.hardest, self.state.measured.loss, self.num_blocks // 2)
        return self.seconds

    def draw(self, draws) -> None:
        seconds = []
        for start in range(0, min(len(draws) - BATCH, 300 * BATCH), BATCH):
            begun = time.perf_counter()
            draws[start : start + BATCH]
            seconds.append(time.perf_counter() - begun)
        self.seconds["draw"] = statistics.median(seconds)


def measure(policy: str, num_blocks: int, rounds: int) -> dict[str, float]:
    """Medians of the stages' seconds, and bytes a block at the peak."""
    Stages(policy, 4096).round(0)
    baseline = peak_bytes()
    stages = Stages(policy, num_blocks)
    stages.round(0)  # compiles
    seconds = [stages.round(step) for step in range(1, rounds + 1)]
    medians = {stage: statistics.median(s[stage] for s in seconds) for stage in seconds[0]}
    return medians | dict(bytes_per_block=(peak_bytes() - baseline) / num_blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=float, nargs="+", default=[1e6, 1e7, 1e8], help="N, how many blocks")
    parser.add_argument("--policies", nargs="+", choices=["lfr", "by_loss"], default=["lfr", "by_loss"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # this process measures, and prints JSON
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.policies[0], int(options.blocks[0]), options.rounds)))
        return

    stages = ["observe", "begin", "rates", "plan"]
    load = f"{os.getloadavg()[0]:.1f}"
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, load {load}; ms, medians of {options.rounds} rounds")
    columns = [*stages, "whole", "ns/block", "hardest", "draws/s", "bytes/block"]
    print(f"| N | policy | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    for num_blocks in options.blocks:
        for policy in options.policies:
            command = [sys.executable, __file__, "--one", "--blocks", str(num_blocks), "--policies", policy]
            result = subprocess.run([*command, "--rounds", str(options.rounds)], check=True, stdout=subprocess.PIPE)
            found = json.loads(result.stdout)
            whole = sum(found[stage] for stage in stages)
            cells = [f"{found[stage] * 1e3:,.0f}" for stage in stages]
            cells += [f"{whole * 1e3:,.0f}", f"{whole / num_blocks * 1e9:.1f}", f"{found['hardest'] * 1e3:,.0f}"]
            cells += [f"{BATCH / found['draw'] / 1e6:.1f} M", f"{found['bytes_per_block']:.1f}"]
            print(f"| {num_blocks:.0e} | {policy} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
