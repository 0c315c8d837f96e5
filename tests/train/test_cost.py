"""What a schedule costs a run beside its training steps."""

import jax
import numpy as np
import pytest
from helpers import changed, rows, tiny

from lfr_jax.storage.checkpoint import read_meta
from lfr_jax.train import score
from lfr_jax.train.loop import train
from lfr_jax.train.track.clock import BESIDE, WORK
from lfr_jax.train.track.tracker import Tracker

pytestmark = pytest.mark.slow
COMPILED = "/jax/core/compile/backend_compile_duration"


class Noted:
    """How many programs a run had compiled after each of its steps, and how many blocks it computed in each pass."""

    def __init__(self, monkeypatch):
        self.programs, self.programs_at, self.passes = 0, {}, []
        real_step, real_losses = Tracker.step, score.losses

        def step(tracker, record):
            real_step(tracker, record)
            self.programs_at[record.step] = self.programs

        def losses(*args, **options):
            self.passes.append(len(options.get("ids", args[5] if len(args) > 5 else ())))
            return real_losses(*args, **options)

        monkeypatch.setattr(Tracker, "step", step)
        monkeypatch.setattr(score, "losses", losses)

    def __call__(self, name, duration, **_):
        self.programs += name == COMPILED


@pytest.fixture
def noted(monkeypatch):
    noted = Noted(monkeypatch)
    jax.monitoring.register_event_duration_secs_listener(noted)
    yield noted
    jax.monitoring.unregister_event_duration_listener(noted)


@pytest.mark.parametrize("scores", ["pass", "detrended"])
def test_a_cycle_of_phases_compiles_nothing_that_the_first_has_compiled(corpus_dir, tmp_path, noted, scores):
    """Catches: a program per phase; an operation outside of the jitted functions whose shapes differ by phase."""
    config = changed(tiny(tmp_path / "run", corpus_dir, reps=3, scores=scores), train__steps=52)
    train(config, quiet=True)
    first_cycle = 10 + 5 + 5 + 4
    assert 0 < noted.programs_at[1] <= noted.programs_at[first_cycle] == noted.programs_at[52] == noted.programs


def test_probes_cost_no_pass_where_blocks_are_scored(corpus_dir, tmp_path, noted):
    """Edges at 10, 15 and 20, evaluations at 10 and 20 too. Catches: probes computed twice at one step, or before the
    first step."""
    config = changed(tiny(tmp_path / "run", corpus_dir), train__eval_every=10)
    state = train(config, quiet=True).state.schedule
    n, probes, held_out = len(np.asarray(state.rate)), 9, 24
    # Step 10: evaluation, scoring, what is left for the probes. Step 15: the probes. Step 20 as 10. The end.
    assert noted.passes == [held_out, n, 0, probes, held_out, n, 0, probes, held_out]
    measured = [row["step"] for row in rows(tmp_path / "run", "scores/probes.csv")]
    assert measured == [step for step in ("10", "15", "20", "24") for _ in range(probes)]


def test_a_run_says_where_its_time_went(finished, capsys, corpus_dir, tmp_path):
    """Catches: a stage that nothing counts; a checkpoint without them, after which a run would begin to count anew."""
    _, path, result = finished
    assert list(result.summary["stages"]) == [*WORK, *BESIDE] and min(result.summary["stages"].values()) > 0
    saved = read_meta(path / "checkpoints" / "24")["meta"]["stages"]
    assert all(saved[name] >= seconds for name, seconds in result.summary["stages"].items())
    train(changed(tiny(tmp_path / "run", corpus_dir, "uniform"), train__steps=1, optimizer__warmup_steps=0))
    shown = capsys.readouterr().err
    assert "where the time went" in shown and all(f"\n{name} " in shown for name in (*WORK, *BESIDE, "all"))
