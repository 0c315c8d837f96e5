"""Several policies on one configuration, at equal total FLOPs, scoring charged."""

import dataclasses
import pathlib
from typing import Any

from lfr_jax import budget, policy, report
from lfr_jax.config import Config
from lfr_jax.corpora import open_corpus
from lfr_jax.train import train


def compare(config: Config, policies: list[str]) -> pathlib.Path:
    """Trains `config` under each policy, prints the table, writes the report, and returns its path.

    The first policy runs for the configuration's own number of steps, and what that costs is
    everybody's budget: a policy without scoring passes gets more steps. Each run lies in
    `run_dir/POLICY`; a comparison that was interrupted continues.
    """
    runs = equal_flops(config, policies, open_corpus(config.data).train.num_blocks)
    summaries: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        print(f"\n{name}: {run.train.steps} steps in {run.run_dir}", flush=True)
        summaries[name] = train(run).summary
    table = report.table(summaries)
    print("\n" + table)
    run_dirs = {name: pathlib.Path(run.run_dir) for name, run in runs.items()}
    return report.write(pathlib.Path(config.run_dir) / "report", run_dirs, table, report.became_or_why(run_dirs))


def equal_flops(config: Config, policies: list[str], num_blocks: int) -> dict[str, Config]:
    """The configuration of each policy, its steps set so that all cost the same to within one step."""
    cost = budget.budget(config, num_blocks)

    def phases_of(name: str, steps: int):
        return policy.build(policy.switch(config.schedule, name), steps).phases

    reference = phases_of(policies[0], config.train.steps)
    reference_steps = reference[-1].stop
    flops = cost.flops(reference, reference_steps)
    runs = {}
    for name in policies:
        scoring_passes = sum(phase.score for phase in phases_of(name, reference_steps))
        steps = cost.steps_within(flops, scoring_passes)
        runs[name] = dataclasses.replace(
            config,
            run_dir=str(pathlib.Path(config.run_dir) / name),
            schedule=policy.switch(config.schedule, name),
            train=dataclasses.replace(config.train, steps=steps),
        )
    return runs
