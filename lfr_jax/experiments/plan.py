"""An experiment as it is declared: arms × seeds × budgets on data stores. docs/experiments.md says how to write one."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lfr_jax.config import Config, nearest
from lfr_jax.config.dotted import with_settings
from lfr_jax.config.files import require_file, set_in
from lfr_jax.config.values import Positive, Seed, check_value, plain, shown

BASELINE = "baseline"  # the name of that arm
HALVES = ("choose", "report", "all")
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
REF_MODEL = "ref_model"  # in place of a column: the policy reads the reference itself, batch by batch
# The setting of each column that has one of its own; others become `schedule.columns`.
SETTING_OF_COLUMN = {
    "ref_loss": "schedule.ref_scores",
    "weak_loss": "schedule.weak_scores",
    "strong_loss": "schedule.strong_scores",
    REF_MODEL: "schedule.ref_model",
}
# What the experiment itself decides of each run.
DECIDED = ("run_dir", "data.store", "init.run", "init.params", "train.seed", *SETTING_OF_COLUMN.values())
OF_ARMS = ("train.steps",)  # and of an arm's, by its budget


@dataclasses.dataclass(frozen=True)
class Store:
    """A prepared folder: one that commands of `lfr` make, or one that is there.

    Args:
      commands: words after `lfr`, such as "data noise {clean} --out {out} --share 0.5". {out} is the folder to make,
        {NAME} that of another store of the plan. Other paths are relative to the folder in which the command runs.
      path: of a folder that is there, in place of commands.
    """

    commands: tuple[str, ...] = ()
    path: str = ""

    def __post_init__(self):
        require_kind("commands", self.commands, (tuple, list))
        if bool(self.commands) == bool(self.path):
            raise ValueError(f"found commands={shown(self.commands)} and path={self.path!r}, expected one of the two")
        if self.commands and not any("{out}" in command for command in self.commands):
            raise ValueError(f"commands are {shown(self.commands)}, expected one that makes the folder {{out}}")


@dataclasses.dataclass(frozen=True)
class Reference:
    """A small model whose losses of all blocks of an arm's store are told to the arm's policy.

    Args:
      store: the name of the store that it trains on.
      settings: of its run, by dotted name, over the plan's config: {"model.dim": 64, "train.steps": 300}.
      shared: one model for all seeds, of the seed that the config has; else each run has one of its own seed.
    """

    store: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shared: bool = False


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to choose the data, or anything else that is compared with the baseline at equal FLOPs.

    Args:
      settings: of its runs, by dotted name, over the plan's config. A text may name a store: "quality={junk}/q.csv".
      store: the name of another store than the plan's.
      references: what the policy is told -> the name of a reference: {"ref_loss": "tiny"}. "ref_loss", "weak_loss",
        "strong_loss" and other columns of `BlockInfo`; "ref_model", for a policy that asks for its losses of tokens.
      budgets: in units of what the baseline spends in `train.steps` of the plan's config.
      about: one sentence for the report.
    """

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    store: str = ""
    references: Mapping[str, str] = dataclasses.field(default_factory=dict)
    budgets: tuple[float, ...] = (1.0,)
    about: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """One experiment.

    Args:
      config: the baseline, whose `train.steps` are one budget.
      stores: by name.
      store: the name of the one that arms train on, and whose held-out text is measured.
      arms: by name.
      seeds: each arm has a run for each seed. Runs of one seed begin with the same params and the same data.
      baseline: what the baseline differs in from `config`; by default in nothing.
      curve: budgets of the baseline; those of every arm are among them.
      references: by name.
      tuned: settings -> values: a grid on which the baseline alone is tried at budget 1. What gives the lowest loss of
        the half "choose" goes to all arms.
      tuning_seeds: seeds of these runs, none of `seeds`.
      measure: "micro": all held-out tokens; "macro": the mean over domains; or the name of a domain.
      half: of the held-out documents that figures are of: "choose", "report" or "all".
      primary: the arm whose multiplier is the primary figure.
      question, expected: what is asked, and what theory or the field expects, for the report.

    Raises:
      ValueError: a name is unknown, or a value is none that it may have.
    """

    config: Config
    stores: Mapping[str, Store]
    store: str
    arms: Mapping[str, Arm]
    seeds: tuple[int, ...]
    baseline: Arm = Arm()
    curve: tuple[float, ...] = (0.5, 0.7, 1.0, 1.4, 2.0)
    references: Mapping[str, Reference] = dataclasses.field(default_factory=dict)
    tuned: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    tuning_seeds: tuple[int, ...] = ()
    measure: str = "micro"
    half: str = "choose"
    primary: str = ""
    question: str = ""
    expected: str = ""

    def __post_init__(self):
        for name, kind in {"stores": Store, "arms": Arm, "references": Reference}.items():
            require_kind(name, getattr(self, name), Mapping)
            for key, value in getattr(self, name).items():
                require_kind(f"{name}[{key!r}]", value, kind)
                if not NAME.fullmatch(key) or key in (BASELINE, "out"):
                    raise ValueError(f"{name} has {key!r}, expected a name of letters, digits, '_', '.', '+' and '-'")
        require_kind("config", self.config, Config)
        if not self.config.train.steps:
            raise ValueError("config.train.steps is 0, expected the steps of the baseline: they are one budget")
        require_known("store", self.store, self.stores)
        require_known("half", self.half, HALVES)
        if self.primary:
            require_known("primary", self.primary, self.arms)
        self.check_numbers()
        self.check_stores()
        self.check_arms()

    def check_numbers(self) -> None:
        check_list("seeds", self.seeds, Seed)
        check_list("curve", self.curve, Positive)
        if 1.0 not in self.curve:
            raise ValueError(f"curve is {shown(self.curve)}, expected 1.0 among the budgets of the baseline")
        if bool(self.tuned) != bool(self.tuning_seeds):
            raise ValueError(
                f"found tuned={shown(dict(self.tuned))} and tuning_seeds={self.tuning_seeds}, expected both"
            )
        for name, values in self.tuned.items():
            require_kind(f"tuned[{name!r}]", values, (tuple, list))
            if name in DECIDED or name in self.baseline.settings or not values:
                raise ValueError(
                    f"tuned has {name!r}: {shown(values)}, expected values, and a setting that neither the experiment "
                    "decides nor baseline.settings has"
                )
            for value in values:
                with_settings(self.config, {name: value})
        if self.tuned:
            check_list("tuning_seeds", self.tuning_seeds, Seed)
        if both := sorted(set(self.seeds) & set(self.tuning_seeds)):
            raise ValueError(f"tuning_seeds has {both[0]}, as seeds has: choose on other seeds than are reported")

    def check_stores(self) -> None:
        for name, store in self.stores.items():
            for used in names_in(store.commands):
                if used != "out":
                    require_known(f"stores[{name!r}]: {{{used}}}", used, self.stores)
        left = {name: set(names_in(store.commands)) - {"out"} for name, store in self.stores.items()}
        while free := [name for name, used in left.items() if not used & set(left)]:
            for name in free:
                del left[name]
        if left:
            raise ValueError(f"stores {', '.join(left)} are made from each other in a circle; make one of them first")

    def check_arms(self) -> None:
        settings = {f"arms[{name!r}]": arm.settings for name, arm in self.arms.items()}
        settings |= {"baseline": self.baseline.settings}
        settings |= {f"references[{name!r}]": reference.settings for name, reference in self.references.items()}
        for where, changes in settings.items():
            for name in changes:
                if name in DECIDED or (name in OF_ARMS and not where.startswith("references")):
                    raise ValueError(f"{where}.settings has {name!r}, which the experiment decides; leave it out")
            for name in names_in(changes.values()):
                require_known(f"{where}.settings: {{{name}}}", name, self.stores)
            try:
                with_settings(self.config, changes)
            except ValueError as error:
                raise ValueError(f"{where}.settings: {error}") from None
        if self.baseline != dataclasses.replace(Arm(), settings=self.baseline.settings, about=self.baseline.about):
            raise ValueError("baseline has more than settings: its store is the plan's, its budgets are the curve")
        for name, reference in self.references.items():
            require_known(f"references[{name!r}].store", reference.store, self.stores)
        for name, arm in self.arms.items():
            if arm.store:
                require_known(f"arms[{name!r}].store", arm.store, self.stores)
            for reference in arm.references.values():
                require_known(f"arms[{name!r}].references", reference, self.references)
            check_list(f"arms[{name!r}].budgets", arm.budgets, Positive)
            if missing := set(arm.budgets) - set(self.curve):
                raise ValueError(
                    f"arms[{name!r}].budgets has {min(missing)}, expected budgets of the baseline too: add it to curve"
                )

    @property
    def as_json(self) -> dict[str, Any]:
        """The whole plan, as JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=plain))

    @property
    def digest(self) -> str:
        """sha256 of the whole plan: what was declared before the first run."""
        return hashlib.sha256(json.dumps(self.as_json, sort_keys=True).encode()).hexdigest()


def load_plan(path: str) -> Plan:
    """The plan that a Python file sets `plan` to. The file is run.

    Raises:
      FileNotFoundError, OSError: there is no such file, or it is none.
      ValueError: it sets no plan, or one that `Plan` refuses, then with the line.
    """
    require_file(path, "plan", "a Python file that sets `plan`")
    return set_in(path, "plan", Plan)


def names_in(texts: Iterable[Any]) -> list[str]:
    """The names in braces, such as "clean" in "data noise {clean}", in texts and in lists of texts."""
    found = []
    for text in texts:
        if isinstance(text, str):
            found += PLACEHOLDER.findall(text)
        elif isinstance(text, (list, tuple)):
            found += names_in(text)
    return found


def require_kind(name: str, value: Any, kind: Any) -> None:
    if not isinstance(value, kind):
        expected = kind.__name__ if isinstance(kind, type) else "a tuple"
        raise ValueError(f"{name} is {shown(value)}, expected {expected}")


def require_known(name: str, value: Any, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(
            f"{name} is {shown(value)}; {nearest(str(value), known)}there are {', '.join(known) or 'none'}"
        )


def check_list(name: str, values: Any, kind: Any) -> None:
    """Raises ValueError unless `values` are one or more of this kind, each once."""
    require_kind(name, values, (tuple, list))
    for value in values:
        check_value(name, value, kind)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} is {shown(values)}, expected one or more values, each once")
