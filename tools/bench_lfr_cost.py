#!/usr/bin/env python
"""What a schedule costs beside its training steps.

    tools/smoke    # once: it prepares the text
    JAX_PLATFORMS=cpu .venv/bin/python tools/bench_lfr_cost.py configs/smoke.py --rounds 5

- *Whole runs* at equal steps, in turn, in another order each round: as the configuration says, with free scores
  ("detrended", where the policy has them), and with `uniform`. Medians of the stages of `summary.json`, in seconds and
  as shares of the run; and the ratio of the work, evaluations and compilation left out, to `uniform` in the same round.
- *The train step* with each schedule, against that of `uniform`: groups of steps in turn, on the same batch.
- *Scoring passes*, against a bare loop of the jitted scoring step over the same batches, which are on the device.

A first round of all compiles the programs, and does not count. Where other programs run on the machine, only ratios
are worth keeping.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from lfr_jax.config import Config, read_config
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.pipeline import shard_batch
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.schedule import BlockInfo
from lfr_jax.train import optimizer, policy, score, steps
from lfr_jax.train.loop import train
from lfr_jax.train.track.clock import BESIDE, WORK

STEPS = 20  # train steps in a group
Times = dict[str, list[dict[str, float]]]  # of each variant, its seconds in each round, by stage


def variants(config: Config) -> dict[str, Config]:
    """The configuration, the same with free scores, and the same with `uniform`."""
    chosen, train_config = config.schedule, dataclasses.replace(config.train, steps=policy.num_steps(config))
    found = {chosen.policy: chosen}
    if "scores" in policy.options_of(chosen.policy):
        options = chosen.options | {"scores": "detrended"}
        found["detrended"] = dataclasses.replace(chosen, options=options, score_fraction=1.0)
    found["uniform"] = dataclasses.replace(chosen, policy="uniform", options={}, score_fraction=1.0)
    return {name: dataclasses.replace(config, schedule=of, train=train_config) for name, of in found.items()}


def run_stages(config: Config) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="bench_lfr_cost-") as folder:
        return train(dataclasses.replace(config, run_dir=f"{folder}/run"), quiet=True).summary["stages"]


def show_runs(times: Times) -> None:
    """Prints the stages of whole runs in seconds and as shares, and their ratios to `uniform`."""
    medians = {name: {stage: median(times[name], stage) for stage in WORK + BESIDE} for name in times}
    print_head("whole runs, s (share)", times)
    for stage in WORK + BESIDE:
        print_row(stage, [f"{of[stage]:.3f} ({100 * of[stage] / sum(of.values()):.2f} %)" for of in medians.values()])
    work = {name: [sum(one[stage] for stage in WORK) for one in rounds] for name, rounds in times.items()}
    print_row("work / uniform", [described(ratios(of, work["uniform"])) for of in work.values()])


def median(rounds: list[dict[str, float]], stage: str) -> float:
    return statistics.median(one[stage] for one in rounds)


def ratios(of: list[float], to: list[float]) -> list[float]:
    return [one / other for one, other in zip(of, to, strict=True)]


def described(found: list[float]) -> str:
    return f"{statistics.median(found):.3f} ({min(found):.3f}–{max(found):.3f})"


def print_head(name: str, columns) -> None:
    print_row(name, columns)
    print("|---" * (len(columns) + 1) + "|")


def print_row(name: str, cells) -> None:
    print("| " + " | ".join([f"{name:<24}", *(f"{cell:>20}" for cell in cells)]) + " |", flush=True)


def seconds_of(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def begun(config: Config, mesh):
    """The corpus, the schedule, the optimizer, and the state before the first step."""
    corpus, sched = open_corpus(config.data), policy.build(config.schedule, config.train.steps)
    tx = optimizer.make_optimizer(config.optimizer, config.train.steps)
    info = BlockInfo(corpus.train.num_blocks, domain=corpus.train.domain_N)
    return corpus, sched, tx, steps.init_state(config.model, tx, sched, info, mesh, config.train.seed)


def step_group(config: Config, mesh) -> Callable[[], object]:
    """A function that takes some train steps on one batch."""
    corpus, sched, tx, state = begun(config, mesh)
    eos_id = corpus.tokenizer.eos_id
    train_step = steps.make_train_step(config.model, tx, sched, config.train.grad_accum_steps, eos_id)
    ids_B = np.arange(config.train.batch_size, dtype=np.int32) % corpus.train.num_blocks
    batch = shard_batch({"ids": ids_B, "tokens": corpus.train.tokens(ids_B)}, mesh)

    def group():
        nonlocal state
        for _ in range(STEPS):
            state, metrics = train_step(state, batch)
        return metrics

    return group


def scoring(config: Config, mesh) -> tuple[Callable[[], object], Callable[[], object]]:
    """Two functions: the scoring step alone over all batches, and a whole scoring pass."""
    corpus, sched, _, state = begun(config, mesh)
    score_step = steps.make_score_step(config.model, corpus.tokenizer.eos_id)
    observe = score.make_observe_step(sched)
    size = config.train.score_batch_size or config.train.batch_size // config.train.grad_accum_steps
    schedule_state = state.schedule

    def losses():
        return score.losses(score_step, state.params, corpus.train, size, mesh, workers=config.data.workers)

    on_device = [batch["tokens"] for batch, _ in losses()]

    def bare():
        return [score_step(state.params, tokens_BxT1) for tokens_BxT1 in on_device]

    def whole():
        nonlocal schedule_state
        schedule_state = score.observe_all(observe, schedule_state, 0, losses())
        return schedule_state

    return bare, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a configuration file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="of each run; 0: as the configuration says")
    args = parser.parse_args()
    config = read_config(args.config)
    if args.steps:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=args.steps))
    found = variants(config)

    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    with jax.set_mesh(mesh):
        bare, whole = scoring(config, mesh)
        passes = [(seconds_of(bare), seconds_of(whole)) for _ in range(args.rounds + 1)][1:]
        groups = {name: step_group(of, mesh) for name, of in found.items()}
        taken = [{name: seconds_of(group) for name, group in groups.items()} for _ in range(5 * args.rounds + 1)][1:]
    print_head("", found)
    to_uniform = {name: [one[name] / one["uniform"] for one in taken] for name in found}
    print_row("train step / uniform", map(described, to_uniform.values()))
    print(f"rate of scoring passes / of the scoring step: {described([bare / whole for bare, whole in passes])}")

    times: Times = {name: [] for name in found}
    for number in range(args.rounds + 1):
        names = list(found)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            stages = run_stages(found[name])
            times[name] += [stages] if number else []
    show_runs(times)


if __name__ == "__main__":
    main()
