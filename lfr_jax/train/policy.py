"""From a run's settings to its schedule, by the name of a function: one of `lfr_jax.schedule`, or one's own."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from lfr_jax import schedule
from lfr_jax.config import ScheduleConfig, nearest

POLICIES = (
    "uniform",
    "lfr",
    "random_drop",
    "lfr_clusters",
    "softmax_rounds",
    "infobatch",
    "seta",
    "reducible",
    "linupper",
    "frame",
    "spaced_repetition",
    "mixture",
    "domain_upsampling",
    "replay",
    "odm",
    "ado",
)


def build(config: ScheduleConfig, steps: int) -> schedule.Schedule:
    """The schedule that `config` names, its phases stretched to fill `steps` (0: left as they are).

    The groups of `config.stratify` keep their shares of what the policy draws, then every block
    gets its `config.floor`, and last the noisiest are left out.

    Raises:
      ValueError: no such policy or option, or a value that the policy refuses; or scores of a
        sample, under a policy that takes whatever was not measured for hard.
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
    built = maker(config.policy)(**options)
    check_sample(config, accepted | options, any(phase.score for phase in built.phases))
    for name, value in dict(stratified=config.stratify, floor=config.floor, cap_noise=config.cap_noise).items():
        if value:
            built = getattr(schedule, name)(built, value)
    return schedule.fit(built, steps) if steps else built


def check_sample(config: ScheduleConfig, options: dict[str, Any], scoring: bool) -> None:
    """Refuses a share of blocks that no pass can score, or that would leave the rest counting as the hardest."""
    fraction = config.score_fraction
    if not 0 < fraction <= 1:
        raise ValueError(f"schedule.score_fraction is {fraction}, expected a share of the blocks: over 0, at most 1")
    by_pass_alone = options.get("scores", "pass") == "pass" and options.get("unmeasured") == "hardest"
    if scoring and fraction < 1 and by_pass_alone:
        raise ValueError(
            f"schedule.score_fraction is {fraction}, and what it leaves out would count as hardest under "
            f"{config.policy}: give blocks without a loss the mean of their group, with the option "
            'unmeasured="domain" or "cluster", or mix in the losses of training, with scores="mixed"'
        )


def switch(config: ScheduleConfig, policy: str) -> ScheduleConfig:
    """The same settings under another policy: it gets those options that it takes."""
    kept: dict[str, Any] = {name: v for name, v in config.options.items() if name in options_of(policy)}
    return dataclasses.replace(config, policy=policy, options=kept)


def options_of(policy: str) -> dict[str, Any]:
    """The keyword arguments of a policy, and their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(maker(policy)).parameters.items()}


def maker(policy: str) -> Callable[..., schedule.Schedule]:
    """The function that `policy` names: one of `POLICIES`, or 'module:function' of any module that can be imported."""
    module, colon, name = policy.partition(":")
    if colon:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"policy {policy!r}: {error}; expected module:function, the module being importable from where the "
                "command runs"
            ) from None
    if policy not in POLICIES:
        raise ValueError(
            f"no policy is called {policy!r}; {nearest(policy, POLICIES)}there are {', '.join(POLICIES)}, "
            "and module:function for one of your own"
        )
    return getattr(schedule, policy)
