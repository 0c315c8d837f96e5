"""`kill -9` at any moment, then the same command again: ids, losses and final parameters are bit-identical.

Three kills by default. More, spread over the whole run:  LFR_KILLS=25 tools/test tests/train/test_resume.py
"""

import dataclasses
import itertools
import os
import pathlib
import random

import jax
import numpy as np
import pytest
from helpers import changed, rows, tiny
from running import MOMENTS, killed

from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model import decoder
from lfr_jax.storage.checkpoint import restore_params
from lfr_jax.storage.run_dir import RunDir

pytestmark = pytest.mark.slow
# In the order in which a run meets them: edges, scoring, saving, plain steps. Each stands for one kill.
FIXED = [
    ("score", 1),  # in the first scoring pass
    ("save", 0),  # as the first checkpoint begins
    ("begun", 1),  # at an edge, after the phase was entered
    ("step", 3),
    ("done", 1),  # at an edge, before the phase is entered
    ("save", 15),
    ("score", 3),
    ("probe", 2),  # at an edge, or in an evaluation
    ("save", 60),
]


def moments():
    """The fixed ones, then random ones for ever, the same each time."""
    yield from FIXED
    rng = random.Random(0)
    while True:
        kind = rng.choice(["step", "save", "time", "score", "probe", "done", "begun"])
        longest = {"step": 5, "save": 150, "time": 9000, "score": 3, "probe": 4}.get(kind, 1)
        yield kind, rng.randint(2500 if kind == "time" else 1, longest)


def test_moments_are_those_of_killed_run():
    """Catches: a moment that `killed_run.py` does not know, after the three that run by default."""
    assert {moment for moment, _ in itertools.islice(moments(), 100)} <= set(MOMENTS)


def final_params(config):
    run = RunDir(config.run_dir)
    mesh = make_mesh(2, 1, 1, devices=jax.devices()[:2])
    return restore_params(run.path / "checkpoints", decoder.abstract(config.model, mesh))


def test_killed_and_resumed_equals_uninterrupted(corpus_dir, tmp_path):
    """Catches: anything that a run needs and a checkpoint lacks, at edges, in scoring, in saving, in a phase."""
    wanted = int(os.environ.get("LFR_KILLS", "3"))
    plain = changed(tiny(tmp_path / "plain", corpus_dir), train__score_batch_size=32, train__checkpoint_every=3)
    assert killed(plain, "never", 0, tmp_path) == 0
    expected, _ = final_params(plain)

    def check(config):
        found, step = final_params(config)
        assert step == 24
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        for name in ("metrics.csv", "eval.csv", "scores/probes.csv", "scores/rates.csv"):
            assert rows(pathlib.Path(config.run_dir), name) == rows(tmp_path / "plain", name)

    kills, runs = 0, 0
    moment = moments()
    while kills < wanted:
        runs += 1
        config = dataclasses.replace(plain, run_dir=str(tmp_path / f"killed-{runs}"))
        finished = False
        # One that dies before each checkpoint would never end: after six kills a run may finish.
        for kind, count in itertools.islice(moment, min(6, wanted - kills)):
            if finished := killed(config, kind, count, tmp_path) == 0:
                break
            kills += 1
            print(f"killed: run {runs}, {kind} {count}")
        assert finished or killed(config, "never", 0, tmp_path) == 0
        check(config)
    print(f"{kills} kills in {runs} runs: ids, losses and parameters bit-identical")
