"""From a run's settings to its schedule, by the name of a function in `lfr_jax.schedule`."""

import inspect
from typing import Any

from lfr_jax import schedule
from lfr_jax.config import ScheduleConfig
from lfr_jax.text import nearest

POLICIES = ("uniform", "lfr", "random_drop")


def build(config: ScheduleConfig, steps: int) -> schedule.Schedule:
    """The schedule that `config` names, its phases stretched to fill `steps` (0: left as they are).

    Raises:
      ValueError: no such policy or option, or a value that the policy refuses.
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
    built = getattr(schedule, config.policy)(**options)
    return schedule.fit(built, steps) if steps else built


def switch(config: ScheduleConfig, policy: str) -> ScheduleConfig:
    """The same settings under another policy: it gets those options that it takes."""
    kept: dict[str, Any] = {name: v for name, v in config.options.items() if name in options_of(policy)}
    return ScheduleConfig(policy, kept)


def options_of(policy: str) -> list[str]:
    """The keyword arguments of a policy."""
    if policy not in POLICIES:
        raise ValueError(f"no policy is called {policy!r}; {nearest(policy, POLICIES)}there are {', '.join(POLICIES)}")
    return list(inspect.signature(getattr(schedule, policy)).parameters)
