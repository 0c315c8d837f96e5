"""From a run's settings to its schedule. A policy is named: one of `schedule.POLICIES`, or module:function."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from lfr_jax import schedule
from lfr_jax.config import ScheduleConfig, nearest


def build(config: ScheduleConfig, steps: int) -> schedule.Schedule:
    """The schedule that the settings name, its phases stretched to last `steps` steps (0: not stretched).

    Wrappers are applied in this order: `stratify`, then `floor`, then `cap_noise`. So the groups keep their
    natural shares of what the policy draws, every block gets its floor, and the noisiest blocks get nothing.

    Raises:
      ValueError: there is no such policy or option, the policy refuses a value, or `check_score_fraction` does.
    """
    accepted = options_of(config.policy)
    for name in config.options:
        if name not in accepted:
            raise ValueError(
                f"schedule.options has {name!r}, which {config.policy} does not take; "
                f"{nearest(name, accepted)}it takes {', '.join(accepted)}"
            )
    options = dict(config.options)
    if "steps" in accepted:
        options.setdefault("steps", steps)
    built = find_policy(config.policy)(**options)
    check_score_fraction(config, accepted | options, any(phase.score for phase in built.phases))
    if config.stratify:
        built = schedule.stratified(built, config.stratify)
    if config.floor:
        built = schedule.floor(built, config.floor)
    if config.cap_noise:
        built = schedule.cap_noise(built, config.cap_noise)
    return schedule.fit(built, steps) if steps else built


def check_score_fraction(config: ScheduleConfig, options: dict[str, Any], scoring: bool) -> None:
    """Rejects a score_fraction outside (0, 1], or one whose unscored blocks would count as hardest.

    Args:
      options: of the policy, its defaults included.
      scoring: whether any phase asks for a scoring pass.
    """
    fraction = config.score_fraction
    if not 0 < fraction <= 1:
        raise ValueError(f"schedule.score_fraction is {fraction}, expected a share of the blocks: over 0, at most 1")
    by_pass_alone = options.get("scores", "pass") == "pass" and options.get("unmeasured") == "hardest"
    if scoring and fraction < 1 and by_pass_alone:
        raise ValueError(
            f"schedule.score_fraction is {fraction}, and the blocks without a score would count as hardest under "
            f"{config.policy}: give them the mean loss of their group, by the option "
            'unmeasured="domain" or "cluster", or use the losses of training for them, by scores="mixed"'
        )


def switch(config: ScheduleConfig, policy: str) -> ScheduleConfig:
    """The same settings for another policy, with those options that it takes."""
    options: dict[str, Any] = {name: value for name, value in config.options.items() if name in options_of(policy)}
    return dataclasses.replace(config, policy=policy, options=options)


def options_of(policy: str) -> dict[str, Any]:
    """The arguments of a policy, and their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(find_policy(policy)).parameters.items()}


def find_policy(name: str) -> Callable[..., schedule.Schedule]:
    """The function that `name` means: one of `schedule.POLICIES`, or "module:function" of a module on the path."""
    module, colon, function = name.partition(":")
    if colon:
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"policy {name!r}: {error}; expected module:function, where Python can import the module from the "
                "folder in which the command runs"
            ) from None
    if name not in schedule.POLICIES:
        raise ValueError(
            f"no policy is called {name!r}; {nearest(name, schedule.POLICIES)}there are "
            f"{', '.join(schedule.POLICIES)}, and module:function for one of your own"
        )
    return schedule.POLICIES[name]
