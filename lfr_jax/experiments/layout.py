"""From a plan to its cells: the runs of each arm, budget and seed, with steps so that all that they need is charged.

How many steps a budget pays for is known when the stores are made, and the settings of the arms when the grid of the
baseline is decided. Until then `Layout.unknown` says what is missing.
"""

import dataclasses
import functools
import itertools
import pathlib
import shlex
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from lfr_jax.config import Config, DataConfig, TrainConfig
from lfr_jax.config.dotted import with_settings, with_texts
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.store import open_store
from lfr_jax.experiments import trunk, tuning
from lfr_jax.experiments.cells import Cell, run_content
from lfr_jax.experiments.plan import BASELINE, REF_MODEL, SETTING_OF_COLUMN, Arm, Plan, names_in
from lfr_jax.schedule import Schedule
from lfr_jax.train import block_info, flops, optimizer, policy

# Runs of an experiment neither evaluate nor save on the way, unless the plan's config has other values than these.
ON_THE_WAY = ("eval_every", "probe_blocks", "checkpoint_every")


class Planned(NamedTuple):
    """A run of an arm, and what it is charged for beside itself."""

    run: Cell
    references: tuple[Cell, ...] = ()  # runs of references, and their scores, each once


class Layout(NamedTuple):
    """What a plan consists of, as far as it is known."""

    cells: tuple[Cell, ...]  # each once, after those that it needs
    runs: dict[tuple[str, float, int], Planned]  # by arm, budget and seed
    tuning: tuning.Tuning | None  # None: the plan has no grid, or its runs are not known yet
    unknown: tuple[str, ...]  # what else there will be, and what it waits for


class Unknown(Exception):
    """It is not known yet; the text says what has to be made first."""


def laid_out(plan: Plan, out: pathlib.Path) -> Layout:
    """All cells of a plan that are known, given what is finished in the folder `out`.

    Raises:
      ValueError: an arm cannot be paid by its budget, or asks for what the plan does not give it.
    """
    maker = Maker(plan, out)
    runs, unknown = {}, {}
    for seed in plan.seeds:
        arms = [(BASELINE, plan.baseline, sorted(plan.curve, key=lambda budget: budget != 1))]
        arms += [(name, arm, arm.budgets) for name, arm in plan.arms.items()]
        for name, arm, budgets in arms:
            for budget in budgets:
                try:
                    runs[name, float(budget), seed] = maker.planned(name, arm, budget, seed)
                except Unknown as reason:
                    unknown[name, budget] = f"{name}/{budget:g}x for {len(plan.seeds)} seeds: {reason}"
                except ValueError as error:
                    raise ValueError(f"arm {name}, budget {budget:g}: {error}") from None
    roots = [*maker.stores.values(), *maker.tuning_runs.values()]
    roots += itertools.chain.from_iterable((*planned.references, planned.run) for planned in runs.values())
    return Layout(tuple(unique(roots)), runs, maker.tuning, tuple(unknown.values()))


class Maker:
    """Makes the cells of one plan."""

    def __init__(self, plan: Plan, out: pathlib.Path):
        self.plan, self.out = plan, out
        self.config = quiet_on_the_way(plan.config)
        self.stores: dict[str, Cell] = {}
        while len(self.stores) < len(plan.stores):
            for name, store in plan.stores.items():
                if name not in self.stores and set(names_in(store.commands)) - {"out"} <= set(self.stores):
                    self.stores[name] = self.store(name)
        self.of_seed: dict[int, dict[float, Cell]] = {}
        self.tuning_runs: dict[tuple[int, int], Cell] = {}
        self.tuning = self.tuned_settings = None
        if not plan.tuned:
            self.tuned_settings: Mapping[str, Any] | None = {}
        elif self.stores[plan.store].finished(out):
            grid = tuning.grid(plan)
            self.tuning_runs = {
                (number, seed): self.run(
                    f"tuning/{tuning.words(settings)}/seed{seed}",
                    Arm({**plan.baseline.settings, **settings}),
                    1.0,
                    seed,
                ).run
                for seed in plan.tuning_seeds
                for number, settings in enumerate(grid)
            }
            self.tuning = tuning.decided(plan, grid, self.tuning_runs, out)
            self.tuned_settings = self.tuning and self.tuning.settings

    def store(self, name: str) -> Cell:
        """The cell of a store; of one that is there, with the fingerprints of both sides."""
        store = self.plan.stores[name]
        if store.path:
            path = pathlib.Path(store.path)
            content = {side: open_store(path / side).fingerprint for side in ("train", "valid")}
            return Cell(f"store/{name}", "folder", content, path=store.path)
        needs = tuple(self.stores[used] for used in dict.fromkeys(names_in(store.commands)) if used != "out")
        words = [[self.marked(word) for word in shlex.split(command)] for command in store.commands]
        return Cell(f"store/{name}", "store", {"commands": words}, needs)

    def marked(self, text: str) -> str:
        """The text with the keys of stores in place of their names."""
        for name, cell in self.stores.items():
            text = text.replace(f"{{{name}}}", cell.mark)
        return text

    def blocks(self, config: Config, store: Cell) -> Blocks:
        """The training blocks of a store, cut as a run cuts them."""
        if not store.finished(self.out):
            raise Unknown(f"{store.name} has to be made first")
        return training_blocks(dataclasses.replace(config.data, store=str(store.result(self.out))))

    def budget(self) -> Fraction:
        """What one budget is, in FLOPs: a run of the baseline, before anything is tuned."""
        config = with_settings(self.config, self.plan.baseline.settings)
        sched = policy.build(config.schedule, config.train.steps)
        return whole_cost(config, sched, self.blocks(config, self.stores[self.plan.store]))

    def planned(self, name: str, arm: Arm, budget: float, seed: int) -> Planned:
        """The run of an arm, with the tuned settings; of the baseline, as a branch where that is possible."""
        tuned = dataclasses.replace(arm, settings={**(self.tuned_settings or {}), **arm.settings})
        planned = self.run(f"{name}/{budget:g}x/seed{seed}", tuned, budget, seed)  # refused before the grid is decided
        if self.tuned_settings is None:
            raise Unknown("the grid of the baseline has to be decided first")
        if name == BASELINE and trunk.is_possible(planned.run.config):
            return Planned(self.branches(seed, tuned)[budget])
        return planned

    def branches(self, seed: int, tuned: Arm) -> dict[float, Cell]:
        """The baseline's runs of a seed, by budget."""
        if seed not in self.of_seed:
            runs = {b: self.run(f"{BASELINE}/{b:g}x/seed{seed}", tuned, b, seed).run for b in self.plan.curve}
            self.of_seed[seed] = trunk.branched(runs, self.run_cell)
        return self.of_seed[seed]

    def run(self, name: str, arm: Arm, budget: float, seed: int) -> Planned:
        """The run of an arm, with as many steps as its budget pays for."""
        store = self.stores[arm.store or self.plan.store]
        config = self.config_of(arm.settings, {"train.seed": seed, "data.store": store.mark})
        blocks = self.blocks(config, store)
        told: dict[str, Cell] = {}  # what the policy is told -> the cell that says it
        charged: list[Cell] = []
        for column, reference in arm.references.items():
            model = self.reference(reference, seed)
            told[column] = model if column == REF_MODEL else self.scores(model, config, store, blocks)
            charged += [model, told[column]]
        charged = list(dict.fromkeys(charged))
        config = with_settings(config, settings_for(config, told))
        ref_model = told[REF_MODEL].config.model if REF_MODEL in told else None
        left = Fraction(str(budget)) * self.budget() - sum(Fraction(cell.flops) for cell in charged)
        config, spent = with_steps(config, blocks, left, ref_model)
        return Planned(self.run_cell(name, config, spent, told.values()), tuple(charged))

    def config_of(self, settings: Mapping[str, Any], decided: Mapping[str, Any]) -> Config:
        """The plan's config with these settings, and with cells in place of the names of stores."""
        return with_texts(with_settings(self.config, {**settings, **decided}), self.marked)

    def run_cell(
        self, name: str, config: Config, spent: float, told: Iterable[Cell] = (), measured: bool = True
    ) -> Cell:
        """The cell of a run. `measured`: whether its losses by held-out document count."""
        optimizer.learning_rate(config.optimizer, config.train.steps)  # refused now, if it does not fit
        content = run_content(config, self.stores[self.plan.store] if measured else None)
        needs = (cell for cell in dict.fromkeys([*self.stores.values(), *told]) if cell.mark in str(content))
        return Cell(name, "train", content, tuple(needs), config, spent)

    def reference(self, name: str, seed: int) -> Cell:
        """The run of a reference."""
        reference = self.plan.references[name]
        store = self.stores[reference.store]
        of_seed = {} if reference.shared else {"train.seed": seed}
        config = self.config_of(reference.settings, {"data.store": store.mark, **of_seed})
        sched = policy.build(config.schedule, config.train.steps)
        spent = whole_cost(config, sched, self.blocks(config, store))
        name = f"reference/{name}" + (f"/seed{seed}" if of_seed else "")
        return self.run_cell(name, config, int(spent), measured=False)

    def scores(self, model: Cell, config: Config, store: Cell, blocks: Blocks) -> Cell:
        """The losses of all blocks of an arm's store under a reference."""
        cut = {name: getattr(config.data, name) for name in ("seq_len", "packing", "shortest")}
        content = {"run": model.mark, "store": store.mark, **cut}
        scoring = dataclasses.replace(
            model.config, data=config.data, schedule=dataclasses.replace(model.config.schedule, score_fraction=1.0)
        )
        spent = flops.expected(scoring, blocks).scoring_pass
        name = f"scores/{'/'.join(each.name.partition('/')[2] for each in (model, store))}"
        return Cell(name, "scores", content, (model, store), flops=int(spent))


def whole_cost(config: Config, sched: Schedule, blocks: Blocks) -> Fraction:
    """What a run of a config is expected to spend, in FLOPs."""
    cost = flops.expected(config, blocks, sched)
    return config.train.steps * cost.step + sum(phase.score for phase in sched.phases) * cost.scoring_pass


def settings_for(config: Config, told: Mapping[str, Cell]) -> dict[str, Any]:
    """The settings that name what a policy is told."""
    settings: dict[str, Any] = {
        SETTING_OF_COLUMN[column]: cell.mark for column, cell in told.items() if column in SETTING_OF_COLUMN
    }
    others = [f"{column}={cell.mark}" for column, cell in told.items() if column not in SETTING_OF_COLUMN]
    return settings | ({"schedule.columns": (*config.schedule.columns, *others)} if others else {})


def with_steps(config: Config, blocks: Blocks, left: Fraction, ref_model: Any) -> tuple[Config, int]:
    """The settings with the most steps that `left` FLOPs pay for beside the scoring passes, and what they spend.

    Raises:
      ValueError: there are none; or the policy needs what the settings do not give.
    """
    steps = config.train.steps
    for _ in range(5):  # a policy may have another number of passes in another number of steps
        sched = policy.build(config.schedule, steps)
        passes = sum(phase.score for phase in sched.phases)
        cost = flops.expected(config, blocks, sched, ref_model)
        before, steps = steps, int(cost.steps_within(left, passes))
        if steps < 1:
            raise ValueError(
                f"found {float(left):.3g} FLOPs for the run itself, when its references are paid, expected at least "
                f"{float(cost.step + passes * cost.scoring_pass):.3g}, for a step and its scoring passes; raise "
                "config.train.steps, or take a smaller reference"
            )
        if steps == before:
            break
    policy.check_supplied(sched, config.schedule.ref_model)
    block_info.check(sched, block_info.stand_in(config, blocks))
    config = with_settings(config, {"train.steps": steps})
    return config, int(steps * cost.step + passes * cost.scoring_pass)


@functools.lru_cache(maxsize=None)
def training_blocks(data: DataConfig) -> Blocks:
    return open_corpus(data).train


def quiet_on_the_way(config: Config) -> Config:
    """A run that measures at its end alone, unless its settings say otherwise; one checkpoint is kept."""
    defaults = TrainConfig()
    unset = [name for name in ON_THE_WAY if getattr(config.train, name) == getattr(defaults, name)]
    return with_settings(config, {f"train.{name}": 0 for name in unset} | {"train.keep_checkpoints": 1})


def unique(roots: list[Cell]) -> list[Cell]:
    """Cells and all that they need, each once, after what it needs; but no folders that are there."""
    found: dict[str, Cell] = {}

    def add(cell: Cell) -> None:
        for need in cell.needs:
            add(need)
        if not cell.path:
            found.setdefault(cell.key, cell)

    for root in roots:
        add(root)
    return list(found.values())
