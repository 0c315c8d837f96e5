"""Several policies on one configuration, at equal total FLOPs, scoring charged."""

import dataclasses
from typing import Any

from lfr_jax.config import Config
from lfr_jax.data.corpus import open_corpus
from lfr_jax.distributed import cluster
from lfr_jax.experiments import report
from lfr_jax.storage.paths import Path, as_path
from lfr_jax.train import flops, policy
from lfr_jax.train.loop import train


def compare(config: Config, policies: list[str]) -> Path | None:
    """Trains `config` under each policy, prints the table, writes the report, prints and returns its path.

    The first policy runs for the configuration's own number of steps, and what that has cost is
    everybody's budget: a policy without scoring passes gets more steps. Each run lies in
    `run_dir/POLICY`; a comparison that was interrupted continues. Of several processes, the first one
    prints and writes, and the others return None.

    Where blocks have several lengths, what the others will cost is an expectation, see `budget.Expected`;
    the table has what they did cost.
    """
    with cluster.initialize(config.distributed) as peers:
        cost = flops.expected(config, open_corpus(config.data).train)
        steps, passes = asked(config, policies)
        runs: dict[str, Config] = {}
        summaries: dict[str, dict[str, Any]] = {}
        for name in passes:
            if summaries:
                steps = cost.steps_within(summaries[policies[0]]["flops"], passes[name])
            runs[name] = run = under(config, name, steps)
            if peers.first:
                print(f"\n{name}: {steps} steps in {run.run_dir}", flush=True)
            summaries[name] = train(run).summary
        if peers.first:
            return written(as_path(config.run_dir) / "report", runs, summaries)


def written(folder: Path, runs: dict[str, Config], summaries: dict[str, dict[str, Any]]) -> Path:
    """The path of the report in `folder`, once the table is printed and it is written."""
    table = report.table(summaries)
    print("\n" + table)
    run_dirs = {name: as_path(run.run_dir) for name, run in runs.items()}
    path = report.write(folder, run_dirs, table, report.became_or_why(run_dirs))
    print(f"\nreport: {path}")
    return path


def asked(config: Config, policies: list[str]) -> tuple[int, dict[str, int]]:
    """The steps of the first policy, and how many scoring passes each one makes. Refuses what is no policy."""

    def phases_of(name: str, steps: int):
        return policy.build(policy.switch(config.schedule, name), steps).phases

    steps = phases_of(policies[0], config.train.steps)[-1].stop
    return steps, {name: sum(phase.score for phase in phases_of(name, steps)) for name in policies}


def under(config: Config, name: str, steps: int) -> Config:
    """The configuration under a policy, for so many steps."""
    return dataclasses.replace(
        config,
        run_dir=str(as_path(config.run_dir) / name),
        schedule=policy.switch(config.schedule, name),
        train=dataclasses.replace(config.train, steps=steps),
    )
