"""From a run's settings to its schedule. A policy is named: one of `schedule.POLICIES`, or module:function."""

import dataclasses
import importlib
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import PathFinder
from typing import Any, get_type_hints

import msgspec

from lfr_jax import schedule
from lfr_jax.config import Config, ScheduleConfig, nearest
from lfr_jax.config.values import check_value, from_word, shown
from lfr_jax.train import signals


def build(config: ScheduleConfig, steps: int) -> schedule.Schedule:
    """The schedule that the settings name, its phases stretched to last `steps` steps (0: not stretched).

    Wrappers are applied in this order: `stratify`, then `floor`, `cap_noise`, `unbiased`. So the groups keep their
    natural shares of what the policy draws, every block gets its floor, and the noisiest blocks get nothing.

    Raises:
      ValueError: there is no such policy or option, the policy refuses a value, or `check_score_fraction` does.
    """
    taken = options_of(config.policy)
    refuse_unknown(config.options, {config.policy: taken})
    for name, value in config.options.items():
        check_value(f"schedule.options.{name}", value, taken[name].kind)
    options = dict(config.options)
    if steps and "steps" in taken:
        options.setdefault("steps", steps)
    built = made(config.policy, options)
    defaults = {name: option.default for name, option in taken.items()}
    check_score_fraction(config, defaults | options, any(phase.score for phase in built.phases))
    if config.stratify:
        built = schedule.stratified(built, config.stratify)
    if config.floor:
        built = schedule.floor(built, config.floor)
    if config.cap_noise:
        built = schedule.cap_noise(built, config.cap_noise)
    if config.unbiased:
        built = schedule.unbiased(built)
    try:
        return schedule.fit(built, steps) if steps else built
    except ValueError as error:
        raise ValueError(f"policy {config.policy}: {error}") from None


def check_supplied(sched: schedule.Schedule, ref_model: str = "") -> None:
    """Raises ValueError if the schedule asks for a signal that this trainer does not supply. It does all else.

    Args:
      ref_model: the setting of this name.

    >>> check_supplied(schedule.lfr()._replace(extra=("progress", "attention")))
    Traceback (most recent call last):
    ValueError: this trainer does not do what the schedule needs: pass 'attention' to schedule.observe, a signal (then \
pass supplies=('attention', ...))
    """
    if "ref_token_losses" in sched.extra and not ref_model:
        raise ValueError(
            "the policy goes by the token losses of a reference model, and none is named: --schedule.ref-model RUN, a "
            "run on text as the model should have it"
        )
    schedule.check_trainer(
        sched,
        scores_blocks=True,
        observes_training=True,
        weighs_losses=True,
        follows_objective=True,
        weighs_tokens=True,
        supplies=signals.SUPPLIED,
    )


def check_score_fraction(config: ScheduleConfig, options: dict[str, Any], scoring: bool) -> None:
    """Rejects a score_fraction whose unscored blocks would count as hardest.

    Args:
      options: of the policy, its defaults included.
      scoring: whether any phase asks for a scoring pass.
    """
    fraction = config.score_fraction
    by_pass_alone = "pass" in (options.get("scores", "pass"), options.get("scores_before"))
    if scoring and fraction < 1 and by_pass_alone and options.get("unmeasured") == "hardest":
        raise ValueError(
            f"schedule.score_fraction is {fraction}, and the blocks without a score would count as hardest under "
            f"{config.policy}: give them the mean loss of their group, by the option "
            'unmeasured="domain" or "cluster", or use the losses of training for them, by scores="mixed"'
        )


def switch(config: ScheduleConfig, policy: str, given: Mapping[str, str] = {}) -> ScheduleConfig:
    """The settings for a policy. Another one than that of `config` has its own defaults, not the options of `config`.

    Args:
      given: options from a command line, name -> word. The policy gets those that it takes.

    Raises:
      ValueError: there is no such policy, or a word is no value of the option's type.
    """
    taken = options_of(policy)
    own = config.options if policy == config.policy else {}
    by_hand = {
        name: from_word(f"schedule.options.{name}", word, taken[name].kind)
        for name, word in given.items()
        if name in taken
    }
    return dataclasses.replace(config, policy=policy, options={**own, **by_hand})


def switched(config: Config, policy: str, given: Mapping[str, str] = {}) -> Config:
    """The settings of a run under a policy, as `switch`. Another policy's phases are stretched to the run's length.

    Raises:
      ValueError: as `switch`; or the policy does not take an option in `given`.
    """
    refuse_unknown(given, {policy: options_of(policy)})
    steps = config.train.steps if policy == config.schedule.policy else num_steps(config)
    return dataclasses.replace(
        config,
        schedule=switch(config.schedule, policy, given),
        train=dataclasses.replace(config.train, steps=steps),
    )


def num_steps(config: Config) -> int:
    """How long the run lasts: `train.steps`, or else what the policy's options say."""
    return config.train.steps or build(config.schedule, 0).phases[-1].stop


def described(config: ScheduleConfig) -> str:
    """The policy and the options that it was given, for people.

    >>> described(ScheduleConfig("lfr", {"drop": 0.25}))
    'lfr(drop=0.25), the rest its defaults'
    """
    options = ", ".join(f"{name}={value!r}" for name, value in config.options.items())
    return f"{config.policy}({options}), the rest its defaults" if options else f"{config.policy}, with its defaults"


def refuse_unknown(options: Iterable[str], policies: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError if none of the `policies`, name -> its options, takes one of `options`."""
    taken = dict.fromkeys(name for of_policy in policies.values() for name in of_policy)
    for name in options:
        if name not in taken:
            lists = "; ".join(f"{policy} takes {', '.join(of_it) or 'none'}" for policy, of_it in policies.items())
            raise ValueError(
                f"schedule.options has {name!r}, which {' and '.join(policies)} "
                f"{'does' if len(policies) == 1 else 'do'} not take; {nearest(name, taken)}{lists}"
            )


@dataclasses.dataclass(frozen=True)
class Option:
    """An argument of a policy."""

    kind: Any  # the type of its values
    default: Any


def options_of(policy: str) -> dict[str, Option]:
    """The arguments of a policy. One without an annotation may be of any type; a number, where its default is one."""
    function = find_policy(policy)
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # an annotation that cannot be evaluated
        hints = {}
    return {
        name: Option(kind_of(hints.get(name), parameter.default), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def kind_of(hint: Any, default: Any) -> Any:
    """The type of an option's values; Any, where msgspec does not know the type."""
    if hint is None:
        return int | float if type(default) in (int, float) else Any
    try:
        msgspec.convert(default, hint)
    except msgspec.ValidationError:  # such as None for an int: the type itself is known
        return hint
    except Exception:
        return Any
    return hint


def made(policy: str, options: dict[str, Any]) -> schedule.Schedule:
    """What the policy returns. What fails in one of the user's own comes out as a ValueError that names it."""
    function = find_policy(policy)
    if ":" not in policy:
        return function(**options)
    try:
        built = function(**options)
    except Exception as error:
        raise ValueError(f"policy {policy!r}: {type(error).__name__}: {error}") from error
    if not isinstance(built, schedule.Schedule):
        raise ValueError(f"policy {policy!r} returns {type(built).__name__}, expected an lfr_jax.schedule.Schedule")
    return built


class WorkingFolder:
    """Finds modules in the folder in which the command runs, if they are nowhere else: it is asked after `sys.path`.

    A place on `sys.path`, even the last one, comes before packages without an `__init__.py`, such as orbax and google.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None):
        return PathFinder.find_spec(name, [os.getcwd()]) if path is None else None


def find_policy(name: str) -> Callable[..., schedule.Schedule]:
    """The function that `name` means: one of `schedule.POLICIES`, or "module:function" of a module on the path.

    A module may also lie in the folder in which the command runs, which is looked into last.
    """
    module, colon, function = name.partition(":")
    if colon:
        if WorkingFolder not in sys.meta_path:
            sys.meta_path.append(WorkingFolder)
        try:
            found = getattr(importlib.import_module(module), function)
            inspect.signature(found)
            return found
        except (Exception, SystemExit) as error:
            raise ValueError(
                f"policy {name!r}: {type(error).__name__}: {error}; expected module:function, where Python can import "
                "the module from the folder in which the command runs"
            ) from error
    if name not in schedule.POLICIES:
        raise ValueError(
            f"no policy is called {shown(name)}; {nearest(name, schedule.POLICIES)}there are "
            f"{', '.join(schedule.POLICIES)}, and module:function for one of your own"
        )
    return schedule.POLICIES[name]
