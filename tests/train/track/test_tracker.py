"""The tables of a run are a function of the run, and what is shown of it steers no terminal."""

import io
import types

import jax
import numpy as np
import pytest
from helpers import rows

from lfr_jax.config import OptimizerConfig, TrainConfig
from lfr_jax.schedule import Phase
from lfr_jax.terminal import Unfailing
from lfr_jax.train import optimizer
from lfr_jax.train.evaluate import Loss
from lfr_jax.train.track.clock import Clock
from lfr_jax.train.track.metrics import TRAIN
from lfr_jax.train.track.recorder import StepRecord
from lfr_jax.train.track.tracker import Tracker

STEPS = 50


def tracker(folder, log_every=1, lr_schedule="cosine", warmup_steps=7, quiet=True):
    config = OptimizerConfig(lr_schedule=lr_schedule, warmup_steps=warmup_steps)
    rate = optimizer.learning_rate(config, STEPS)
    made = Tracker(folder, STEPS, TrainConfig(log_every=log_every), 100, rate, Clock(), writes=True, quiet=quiet)
    made.rewind(0)
    return made


@pytest.mark.parametrize("log_every", [1, 7, 100])
def test_a_learning_rate_does_not_depend_on_how_many_rows_are_written_together(tmp_path, log_every):
    """Catches: XLA's digits, which differ with the length of what is computed at once; a rate of another step."""
    rate = jax.jit(optimizer.learning_rate(OptimizerConfig(warmup_steps=7), STEPS))
    expected = np.asarray(rate(np.arange(STEPS)))
    with tracker(tmp_path, log_every) as made:
        numbers = dict.fromkeys(["loss", "grad_norm", "update_norm"], np.float32(1))
        for step in range(1, STEPS + 1):
            made.step(StepRecord(step, "learn", step, step, np.arange(2), numbers))
        made.flush()
    assert [row["learning_rate"] for row in rows(tmp_path)] == [str(rate) for rate in expected]


def test_a_constant_rate_without_warmup_has_a_row_a_step(tmp_path):
    """It does not depend on the step at all. Catches: an array without an axis."""
    with tracker(tmp_path, 1, "constant", 0) as made:
        assert made.learning_rates.shape == (STEPS,)


def test_names_from_the_data_steer_no_terminal(tmp_path):
    """Catches: control characters of a domain or a phase, in notes and in the line of progress."""
    name, shown = "a\x1b[2J\rb\n", io.StringIO()
    blocks = types.SimpleNamespace(domains=(name, "all"), domain_N=np.array([0, 1]))
    with tracker(tmp_path, quiet=False) as made:
        made.progress.stream, made.progress.interval = Unfailing(shown), 0
        made.phase(Phase(name, 0, STEPS), np.array([True, False]), blocks)
        made.evaluation(3, {name: Loss(1.0, 2)})
        made.progress.update(1, 4.0, 100)
    lines = shown.getvalue().splitlines()
    assert len(lines) == 3 and all(line.isprintable() and r"a\x1b[2J\rb\n" in line for line in lines)
    assert "all (domain) 0 %" in lines[0]


def test_a_run_that_begins_anew_says_so(tmp_path, capsys):
    """Its checkpoints are gone, or it was killed before the first. Catches: silence; a line at the very first start."""
    with tracker(tmp_path, quiet=False) as made:
        made.metrics.train_table.append([dict.fromkeys(TRAIN, 1)])
    assert capsys.readouterr().err == ""
    with tracker(tmp_path, quiet=False):
        assert "there is no checkpoint: the run begins anew" in capsys.readouterr().err
