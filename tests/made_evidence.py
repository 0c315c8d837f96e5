"""Made-up results of an experiment: losses by seed and document, without any training."""

import numpy as np

from lfr_jax.config import Config, ModelConfig, TrainConfig
from lfr_jax.experiments.evidence import Run
from lfr_jax.experiments.measure import Documents
from lfr_jax.experiments.plan import BASELINE, Arm, Plan, Store

FLOPS = 8 * 10**12  # of one budget


def make_documents(domains=("code", "prose", "tables"), each=12, seed=0) -> Documents:
    random = np.random.default_rng(seed)
    tokens_D = random.integers(50, 400, each * len(domains))
    return Documents(tokens_D, 4 * tokens_D, np.repeat(domains, each))


def make_runs(documents, arm, loss, budget=1.0, seeds=range(5), references=0.0, noise=0.005) -> list[Run]:
    """Runs of an arm whose losses are about `loss`, in nats per token; `references`: their share of the budget."""
    spread_D = np.random.default_rng(1).normal(0, 0.5, len(documents.tokens_D))  # of documents, the same for all arms
    runs = []
    for seed in seeds:
        random = np.random.default_rng([seed, *arm.encode(), int(100 * budget)])
        shared = np.random.default_rng(seed).normal(0, 0.02)  # what the seed does to all arms
        loss_D = loss + spread_D + shared + random.normal(0, noise) + random.normal(0, 0.02, len(spread_D))
        all_flops = int(FLOPS * budget)
        of_references = int(references * all_flops)
        runs.append(
            Run(
                arm, budget, seed, f"{arm}-{seed}-{budget}", int(744 * budget * (1 - references)), int(1.5e6 * budget),
                0 if arm == BASELINE else 400_000, all_flops - of_references, of_references, 41.5 * budget,
                loss_D * documents.tokens_D,
            )
        )  # fmt: skip
    return runs


def baseline_loss(budget: float) -> float:
    return 4.5 - 0.6 * float(np.log2(budget))


def make_baseline(documents, budgets=(0.5, 0.7, 1.0, 1.4, 2.0), **options) -> list[Run]:
    return [run for b in budgets for run in make_runs(documents, BASELINE, baseline_loss(b), b, **options)]


def make_plan(arms=("lfr", "reducible", "oracle"), seeds=(0, 1, 2, 3, 4), **options) -> Plan:
    small = Config(model=ModelConfig(), train=TrainConfig(steps=744))
    return Plan(
        config=small,
        stores={"junk": Store(path="data/junk"), "clean": Store(path="data/clean")},
        store="junk",
        arms={name: Arm(store="clean" if name == "oracle" else "", about=f"what {name} does") for name in arms},
        seeds=seeds,
        **{"half": "report", "primary": arms[0], "question": "Does it help?", "expected": "Theory says no."} | options,
    )
