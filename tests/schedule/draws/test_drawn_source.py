"""The blocks of a phase, as a data loader sees them."""

import concurrent.futures
import pickle
import subprocess
import sys

import grain
import numpy as np
import pytest

from lfr_jax import schedule
from lfr_jax.schedule.draws.drawn_source import CHUNK

N = 50
BLOCKS = [f"block {i}" for i in range(N)]
RATES = {
    "all": np.ones(N),
    "some": np.arange(N) % 3 // 2,
    "unequal": np.arange(N) + 1.0,
}


def draws_of(rates: str, num_draws: int = 3 * CHUNK + 7, seed: int = 0, phase: int = 1) -> schedule.Plan:
    return schedule.plan(RATES[rates], num_draws, seed, phase)


@pytest.mark.parametrize("rates", RATES)
def test_elements_are_the_draws_in_their_order(rates):
    """Catches: a position that is counted from the wrong chunk; a last chunk that is shorter."""
    draws = draws_of(rates)
    drawn = schedule.DrawnSource(BLOCKS, draws)
    assert isinstance(drawn, grain.sources.RandomAccessDataSource) and len(drawn) == len(draws)
    assert [drawn[i] for i in range(len(drawn))] == [(i, BLOCKS[i]) for i in draws[:].tolist()]
    for position in (len(draws) - 1, 0, CHUNK, CHUNK - 1, np.int32(5)):
        assert drawn[position][0] == draws[position]


def test_threads_share_a_source():
    """Catches: a number of a chunk that is set before its ids are."""
    draws = draws_of("unequal")
    drawn = schedule.DrawnSource(BLOCKS, draws)
    positions = np.random.default_rng(0).permutation(len(draws))[:400].tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert [i for i, _ in pool.map(drawn.__getitem__, positions)] == draws[np.array(positions)].tolist()


def test_a_pickled_source_is_the_same():
    """Catches: a cache that cannot be pickled, so that worker processes fail."""
    drawn = schedule.DrawnSource(BLOCKS, draws_of("some"))
    assert drawn[CHUNK + 1] == pickle.loads(pickle.dumps(drawn))[CHUNK + 1]


@pytest.mark.parametrize("position", [-1, 7, 2**40])
def test_there_is_nothing_outside_of_the_phase(position):
    """Catches: a negative position that is taken from the end; a loader that goes on into a next round."""
    drawn = schedule.DrawnSource(BLOCKS, draws_of("all", num_draws=7))
    with pytest.raises(IndexError, match=rf"position {position}, expected 0 to 6"):
        drawn[position]


def test_a_source_with_too_few_blocks_is_refused():
    """Catches: a `MapDataset` split among processes before the draws, which would begin again at its first element."""
    part = grain.MapDataset.source(BLOCKS)[::2]
    drawn = schedule.DrawnSource(part, draws_of("all"))
    with pytest.raises(IndexError, match=r"draws block \d+, and the source has 25: .* split after the draws"):
        [drawn[i] for i in range(N)]


def test_its_name_tells_phases_seeds_and_rates_apart():
    """Catches: an iterator of another phase, seed or rates that Grain would restore; a name with an address in it."""
    plans = [draws_of(rates, seed=seed, phase=phase) for rates in RATES for seed in (0, 1) for phase in (0, 1)]
    names = [repr(schedule.DrawnSource(BLOCKS, draws)) for draws in plans]
    assert len(set(names)) == len(names)
    assert names == [repr(schedule.DrawnSource(list(BLOCKS), draws)) for draws in plans]


@pytest.mark.slow
def test_its_name_is_the_same_in_another_process():
    """Catches: a name by `hash` or `id`, with which no iterator would be restored after a restart."""
    code = """
import numpy as np
from lfr_jax import schedule
print(schedule.DrawnSource(list(range(50)), schedule.plan(np.ones(50), 99, 0, 1)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == repr(schedule.DrawnSource(BLOCKS, schedule.plan(np.ones(N), 99, 0, 1)))
