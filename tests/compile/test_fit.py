"""Settings that are tried where a program does not fit: which, in which order, and when it stops."""

import dataclasses

import jax
import pytest
from helpers import changed, tiny

from lfr_jax.compile import fit
from lfr_jax.compile.examine import Examined
from lfr_jax.compile.memory import Memory, TooLarge


@pytest.fixture
def config(tmp_path):
    return changed(tiny(tmp_path, tmp_path), train__batch_size=64, train__grad_accum_steps=1, mesh__data=-1)


def examined(gib: float) -> Examined:
    memory = Memory(gib, 0, 0, 0, 0, 0, 0, limit=16)
    return Examined("train", 8, memory, None, [], 1.0, None, 1.0, 1.0)


def searched(config, run, program="train", limit=16.0):
    return list(fit.search(program, config, jax.devices(), limit, 1000, run))


def test_the_order_and_the_end(config):
    """Catches: a costlier way out tried first; the search going on after one that fits; one that compiles and still is
    too large taken for one that fits."""
    outcomes = iter([TooLarge(30, "too large"), examined(17), TooLarge(30, "too large"), examined(12), examined(1)])
    tried = searched(config, lambda changed: next(outcomes))
    assert [attempt.options for attempt in tried] == [
        "--train.grad-accum-steps 2",
        "--train.grad-accum-steps 4",
        "--train.grad-accum-steps 8",
        "--model.remat block",
    ]
    assert [attempt.fits for attempt in tried] == [False, False, False, True]


def test_all_that_is_tried_if_nothing_fits(config):
    """Catches: the same settings compiled twice; settings that the model cannot have ending the search; a smaller batch
    before all that trains the same."""

    def run(changed):
        if changed.mesh.tensor == 4:
            raise ValueError("heads")
        return TooLarge(99, "too large")

    tried = searched(config, run)
    words = [attempt.options for attempt in tried]
    assert len(set(words)) == len(words) and "" not in words
    assert words[3:7] == [
        "--model.remat block",
        "--model.remat block --train.grad-accum-steps 2",
        "--model.remat block --train.grad-accum-steps 4",
        "--model.remat block --train.grad-accum-steps 8",
    ]
    assert words[7] == "--model.remat block --mesh.data 1 --mesh.fsdp 8 --train.grad-accum-steps 8"
    assert [word for word in words if "batch-size" in word] == words[10:]
    assert tried[9].outcome == "heads"


def test_without_room_for_the_state_only_splitting_is_tried(config):
    """Catches: minutes of compiling what cannot help."""
    words = [attempt.options for attempt in searched(config, lambda changed: TooLarge(9, ""), limit=1e-4)]
    assert all("--mesh.fsdp" in word for word in words)


def test_scoring_takes_fewer_rows(config):
    """Catches: settings of training tried for the scoring step; rows that the chips cannot share."""
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, score_batch_size=32))
    words = [attempt.options for attempt in searched(config, lambda changed: TooLarge(9, ""), program="score")]
    assert words == ["--train.score-batch-size 16", "--train.score-batch-size 8"]
