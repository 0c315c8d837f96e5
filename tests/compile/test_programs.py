"""The programs of a run, traced without its data."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import changed, tiny

from lfr_jax.compile import programs
from lfr_jax.config import ScheduleConfig
from lfr_jax.distributed.mesh import make_mesh


@pytest.mark.parametrize(
    "policy, options, name, rows",
    [
        ("data_shapley", {}, "held_out", (8, 33)),
        ("token_selection", {"by": "excess"}, "ref_token_losses", (8, 32)),
    ],
)
def test_a_step_has_what_the_policy_asks_for(policy, options, name, rows):
    """Catches: a batch without what the trainer adds to it, or with other rows or tokens."""
    config = changed(tiny("unused", "unused", "uniform"), train__grad_accum_steps=2)
    config = dataclasses.replace(config, schedule=ScheduleConfig(policy, options))
    lowered = programs.train(config, make_mesh(2, 1, 1), 24)
    (_, batch, *_), _ = lowered.args_info
    assert batch[name].shape == rows
    found = jax.tree.leaves(lowered.out_info[1]["losses"])
    assert [x.shape for x in found] == [(8,)] and found[0].dtype == np.float32
