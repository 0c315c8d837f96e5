"""Settings under which a program may fit that does not fit as it is: which, in which order."""

import jax
import pytest
from helpers import changed, tiny

from lfr_jax.compile.ladders import ladders, options


@pytest.fixture
def config(tmp_path):
    """64 rows on the 8 devices of 'data'."""
    return changed(tiny(tmp_path, tmp_path), train__batch_size=64, train__grad_accum_steps=1, mesh__data=-1)


def found(config, program="train"):
    """(remat, mesh, numbers of micro-batches, rows of the batch) for each ladder."""
    made = list(ladders(program, config, jax.devices()))
    assert made[0][0] == config
    mesh = [(rungs[0].mesh.data, rungs[0].mesh.fsdp, rungs[0].mesh.tensor) for rungs in made]
    pieces = [[rung.train.grad_accum_steps for rung in rungs] for rungs in made]
    rows = [rungs[-1].train.batch_size for rungs in made]
    return list(zip([rungs[0].model.remat for rungs in made], mesh, pieces, rows))


def test_the_order(config):
    """Catches: recomputation, or another mesh, before what costs less; a smaller batch before all that trains the same;
    a step from few micro-batches to one row on a chip."""
    assert found(config) == [
        ("products", (-1, 1, 1), [1, 2, 4, 8], 64),
        ("block", (-1, 1, 1), [1, 2, 4, 8], 64),
        ("products", (1, 8, 1), [1, 2, 4, 8], 64),
        ("block", (1, 8, 1), [1, 2, 4, 8], 64),
        ("block", (1, 4, 2), [1, 2, 4, 8, 16], 64),
        ("block", (1, 2, 4), [1, 2, 4, 8, 16, 32], 64),
        ("block", (1, 8, 1), [1], 8),
    ]


def test_what_is_there_already_is_not_tried_again(config):
    """Catches: the mesh of the settings, written otherwise, compiled twice; remats that keep more than that of the
    settings; fewer micro-batches; a smaller batch than one row on a chip."""
    here = changed(config, mesh__data=1, mesh__fsdp=-1, model__remat="block", train__grad_accum_steps=4)
    assert [each[:3] for each in found(here)] == [
        ("block", (1, -1, 1), [4, 8]),
        ("block", (1, 4, 2), [4, 8, 16]),
        ("block", (1, 2, 4), [4, 8, 16, 32]),
        ("block", (1, 8, 1), [1]),
    ]
    least = changed(here, train__batch_size=8, train__grad_accum_steps=1)
    assert [mesh for _, mesh, *_ in found(least)] == [(1, -1, 1), (1, 4, 2), (1, 2, 4)]


def test_remats_by_what_they_compute_again(config):
    """Catches: from keeping everything to keeping nothing, past the default."""
    assert [each[0] for each in found(changed(config, model__remat="none"))[:3]] == ["none", "products", "block"]


def test_micro_batches_divide_the_batch(config):
    """Catches: powers of two alone, of which none may divide; micro-batches of less than a row on a chip; as many as
    before on a mesh with more chips for the rows, which the trainer refuses."""
    assert found(changed(config, train__batch_size=96, train__grad_accum_steps=2))[0][2] == [2, 3, 4, 6, 12]
    tensor = changed(config, mesh__data=4, mesh__tensor=2, train__grad_accum_steps=16)
    assert [pieces for _, mesh, pieces, _ in found(tensor) if mesh == (1, 8, 1)] == [[8], [8], [1]]


def test_scoring_takes_fewer_rows(config):
    """Catches: settings of training tried for the scoring step; rows that the chips cannot share."""
    (rungs,) = ladders("score", changed(config, train__score_batch_size=48), jax.devices())
    assert [options(config, rung) for rung in rungs] == [f"--train.score-batch-size {rows}" for rows in (48, 24, 16, 8)]
