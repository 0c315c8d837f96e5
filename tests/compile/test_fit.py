"""The search for settings under which a program fits: what it finds, and how much is compiled for that."""

import math
from typing import NamedTuple

import jax
import pytest
from helpers import changed, tiny

from lfr_jax.compile import fit
from lfr_jax.compile.examine import Examined
from lfr_jax.compile.memory import Memory, TooLarge

LIMIT = 16.0


@pytest.fixture
def config(tmp_path):
    """64 rows on the 8 devices of 'data', so up to 8 micro-batches."""
    return changed(tiny(tmp_path, tmp_path), train__batch_size=64, train__grad_accum_steps=1, mesh__data=-1)


class Compiler(NamedTuple):
    """Says that a program takes `base` GiB, and GiB for each row at once: other numbers for each remat."""

    base: float
    row: dict[str, float]
    says: bool = True  # by how much a program is too large
    program: str = "train"

    def __call__(self, config) -> Examined | TooLarge:
        rows = fit.rows_at_once(self.program, config)
        gib = self.base + self.row[config.model.remat] * rows / config.mesh.tensor
        if gib > LIMIT:
            return TooLarge(gib if self.says else math.nan, "too large")
        return Examined(self.program, 8, Memory(gib, 0, 0, 0, 0, 0, 0, LIMIT), None, [], 1.0, None, 1.0, 1.0)


def searched(config, run, program="train", limit=LIMIT):
    return list(fit.search(program, config, run(config), jax.devices(), limit, 1000, run))


def options(tried):
    return [(attempt.options, attempt.fits) for attempt in tried]


def test_the_first_rung_that_fits_is_found_at_once_where_memory_goes_with_the_rows(config):
    """Catches: what is known of the settings themselves left unused; the rung above the one that fits not compiled, so
    that nobody knows whether it would do; the search going on after that."""
    tried = searched(config, Compiler(0, {"products": 0.6}))  # 38 GiB with all rows, 19 with half of them
    assert options(tried) == [("--train.grad-accum-steps 4", True), ("--train.grad-accum-steps 2", False)]


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("base", [0, 4, 12])
@pytest.mark.parametrize("pieces", [2, 4, 8, 16, 32, 64])
def test_what_is_found_is_the_first_of_its_ladder(config, pieces, base, says):
    """Catches: a search that passes over the first rung that fits, or compiles all, or the settings themselves again;
    one that needs the numbers that the compiler does not always give."""
    config = changed(config, train__batch_size=512)
    tried = searched(config, Compiler(base, {"products": (LIMIT - base) * pieces / 512}, says))
    fitting = [int(attempt.options.rpartition(" ")[2]) for attempt in tried if attempt.fits]
    assert min(fitting) == pieces and len(tried) <= 4 and all(attempt.options for attempt in tried)


def test_a_ladder_that_is_of_no_use_takes_few_compilations(config):
    """Catches: every rung compiled of a ladder whose last one does not fit."""
    tried = searched(config, Compiler(1, {"products": 5, "block": 0.5}))
    assert options(tried) == [
        ("--train.grad-accum-steps 8", False),
        ("--model.remat block --train.grad-accum-steps 8", True),
        ("--model.remat block --train.grad-accum-steps 4", True),
        ("--model.remat block --train.grad-accum-steps 2", False),
    ]


def test_meshes_that_the_model_cannot_have_are_named_and_not_the_end(config):
    """Catches: settings that the model cannot have ending the search; the same settings compiled twice."""
    tried = searched(config, Compiler(99, {"products": 1, "block": 1}))
    words = [attempt.options for attempt in tried]
    assert len(set(words)) == len(words) and "" not in words
    refused = [attempt for attempt in tried if isinstance(attempt.outcome, str)]
    assert "num_kv_heads=2 is not divisible by mesh.tensor=4" in refused[0].outcome and len(refused) == 1
    assert words[-1] == "--model.remat block --mesh.data 1 --mesh.fsdp 8 --train.batch-size 8"


def test_without_room_for_the_state_only_splitting_is_tried(config):
    """Catches: minutes of compiling what cannot help."""
    mesh = fit.programs.mesh_of(config, jax.devices())
    state = fit.programs.abstract_state(config, mesh, 1000)
    limit = 0.9 * (fit.per_chip(state) + fit.per_chip(state.params))
    words = [attempt.options for attempt in searched(config, Compiler(99, {"products": 1, "block": 1}), limit=limit)]
    assert words and all("--mesh." in word for word in words)


def test_the_largest_batch_that_can_be_scored(config):
    """Catches: the scoring step's batch halved further than it must be."""
    config = changed(config, train__score_batch_size=48)
    tried = searched(config, Compiler(0, {"products": 0.7}, program="score"), "score")
    assert options(tried) == [("--train.score-batch-size 16", True), ("--train.score-batch-size 24", False)]
