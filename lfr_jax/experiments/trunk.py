"""The baseline's budgets as branches of one run: a trunk at a constant learning rate, and a decay for each budget.

A branch is, bit for bit, the run of its own that has the same settings (docs/runs.md). With a decay of 0.3 the curve of
0.5, 0.7, 1, 1.4 and 2 costs 3.1 budgets in place of 5.6.

References:
  Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", arXiv 2405.18392.
"""

from collections.abc import Callable, Mapping

from lfr_jax.config import Config, ScheduleConfig
from lfr_jax.config.dotted import with_settings
from lfr_jax.experiments.cells import Cell


def is_possible(config: Config) -> bool:
    """Whether runs of this config that differ in length alone begin with the same steps, and then decay.

    So it is for shuffled epochs, whose order does not depend on their number, before a decay at the end.
    """
    plain = config.schedule == ScheduleConfig("uniform")
    return plain and config.data.packing != "by_length" and config.optimizer.lr_schedule == "wsd"


def fork(config: Config) -> int:
    """The step at which the decay of a run begins; it is that of `optimizer.learning_rate`."""
    steps = config.train.steps
    return steps - max(1, round(config.optimizer.decay_fraction * steps))


def branched(runs: Mapping[float, Cell], make: Callable[..., Cell]) -> dict[float, Cell]:
    """The same runs, by budget, as branches of a trunk.

    Args:
      make: (name, config, flops, told) -> the cell of a run that needs the cells `told`; `measured`: whether its
        held-out losses count.
    """
    branches, needed, came_from, last = {}, [], "", 0
    for budget, run in sorted(runs.items(), key=lambda item: fork(item[1].config)):
        step, steps, of_step = fork(run.config), run.config.train.steps, run.flops / run.config.train.steps
        if step > last:
            constant = {"optimizer.lr_schedule": "constant", "train.steps": step, "init.run": came_from}
            name = f"{run.name.partition('/')[0]}/trunk{step}/{run.name.rpartition('/')[2]}"
            flops = of_step * (step - last)
            needed = [make(name, with_settings(run.config, constant), flops, needed, measured=False)]
            came_from, last = f"{needed[0].mark}@{step}", step
        config = with_settings(run.config, {"init.run": came_from})
        branches[budget] = make(run.name, config, of_step * (steps - step), needed)
    return branches
