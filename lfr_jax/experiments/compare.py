"""Trains several policies on one configuration, each with the same total FLOPs, scoring included."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from lfr_jax.config import Config
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.distributed import cluster
from lfr_jax.experiments import page, report
from lfr_jax.storage.paths import Path, as_path
from lfr_jax.terminal import show
from lfr_jax.train import block_info, flops, initial, policy
from lfr_jax.train.loop import train


def compare_policies(config: Config, policies: list[str], given: Mapping[str, str] = {}) -> Path | None:
    """Trains `config` under each policy, prints a table, writes a report, prints and returns its path.

    The configuration's own policy has the options of the configuration, and any other one its own defaults, its phases
    stretched to the run. An option in `given` (name -> word of a command line) goes to each policy that takes it.

    The first policy trains for the configuration's own number of steps. What this costs, scoring
    included, is the budget of every other policy: one without scoring passes gets more steps. Each
    run has the folder `run_dir/POLICY`. Call it again after an interruption, and it goes on. If there are
    several processes, only the first prints and writes, and the others return None. Where the report would overwrite
    files of other origin, FileExistsError is raised before any training; and ValueError, where a policy needs what the
    settings do not give.

    Where blocks have several lengths, the cost of the other runs is an expected value (see
    `flops.Expected`); the table shows what they did cost.
    """
    with cluster.initialize(config.distributed) as peers:
        initial.refuse_branches(config)
        page.require_replaceable(as_path(config.run_dir) / "report")  # before any training
        blocks = open_corpus(config.data).train
        steps, passes = count_steps_and_passes(config, policies, given)
        check_needs(config, blocks, policies, given)
        runs: dict[str, Config] = {}
        summaries: dict[str, dict[str, Any]] = {}
        for name in passes:
            if summaries:
                extra = policy.build(policy.switch(config.schedule, name, given), steps=0).extra
                cost = flops.expected(config, blocks, extra)
                steps = cost.steps_within(summaries[policies[0]]["flops"], passes[name])
            runs[name] = run = config_for_policy(config, name, steps, given)
            if peers.first:
                show(f"\n{name}: {steps} steps in {run.run_dir}", sys.stdout)
            summaries[name] = train(run).summary
        if peers.first:
            return print_and_write_report(as_path(config.run_dir) / "report", runs, summaries)


def print_and_write_report(folder: Path, runs: dict[str, Config], summaries: dict[str, dict[str, Any]]) -> Path:
    """Prints the table, writes the report to `folder`, prints and returns its path."""
    table = report.comparison_table(summaries)
    show("\n" + table, sys.stdout)
    run_dirs = {name: as_path(run.run_dir) for name, run in runs.items()}
    path = report.write_html(folder, run_dirs, table, report.analyse_probes_or_reason(run_dirs))
    show(f"\nreport: {path}", sys.stdout)
    return path


def count_steps_and_passes(
    config: Config, policies: list[str], given: Mapping[str, str] = {}
) -> tuple[int, dict[str, int]]:
    """The steps of the first policy, and the number of scoring passes of each.

    Raises:
      ValueError: a name is no policy, is given twice, or there is none; or no policy takes one of the options `given`.
    """
    if not policies or len(set(policies)) < len(policies):
        raise ValueError(f"policies are {', '.join(policies) or 'none'}, expected one or more, each once")
    policy.refuse_unknown(given, {name: policy.options_of(name) for name in policies})

    def phases_of(name: str, steps: int):
        return policy.build(policy.switch(config.schedule, name, given), steps).phases

    of_file = policy.switch(config.schedule, config.schedule.policy, given)
    steps = policy.num_steps(dataclasses.replace(config, schedule=of_file))
    return steps, {name: sum(phase.score for phase in phases_of(name, steps)) for name in policies}


def check_needs(config: Config, blocks: Blocks, policies: list[str], given: Mapping[str, str] = {}) -> None:
    """Raises ValueError if a policy needs a signal or an array of `BlockInfo` that the settings do not give."""
    told = block_info.stand_in(config, blocks)
    for name in policies:
        sched = policy.build(policy.switch(config.schedule, name, given), steps=0)
        policy.check_supplied(sched, config.schedule.ref_model)
        block_info.check(sched, told)


def config_for_policy(config: Config, name: str, steps: int, given: Mapping[str, str] = {}) -> Config:
    """The configuration with this policy, this number of steps, and a run folder of its own."""
    return dataclasses.replace(
        config,
        run_dir=str(as_path(config.run_dir) / name),
        schedule=policy.switch(config.schedule, name, given),
        train=dataclasses.replace(config.train, steps=steps),
    )
