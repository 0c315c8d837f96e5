"""The batches of a phase. If blocks have several lengths: each batch from one length, in the order of a curriculum.

They are a pure function of the rates, the number of steps, the seed and the phase, as a `schedule.Plan` is.
"""

import numpy as np

from lfr_jax import schedule
from lfr_jax.config import Curriculum, DataConfig
from lfr_jax.data import pipeline
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.lengths import LengthBlocks
from lfr_jax.schedule import Purpose

NUMBERS, PLACES, TURNS = 0, -1, -2  # numbers of keys for `Purpose.LENGTHS`; the draws of a length have the length
# The odds of a batch of bucket 0 (the longest), 1, 2, ...
ODDS = {
    "grow_linear": lambda bucket_S: bucket_S + 1.0,
    "grow_p2": lambda bucket_S: 2.0**bucket_S,
    "grow_p100": lambda bucket_S: 100.0**bucket_S,
}


def plan_batches(
    blocks: Blocks, rates_N: np.ndarray, num_steps: int, batch_size: int, data: DataConfig, seed: int, phase: int
) -> pipeline.Batches:
    r"""The batches of a phase, all of `batch_size` · `blocks.seq_len` tokens.

    Blocks of one length are drawn by one `schedule.plan`. `LengthBlocks` have a bucket of blocks for each length. With
    $r_i$ the rate and $T_i$ the length of block i, bucket g gets the share

    $$ \sum_{i \in g} r_i T_i \Big/ \sum_i r_i T_i $$

    of the steps, rounded up or down. Each bucket has a `schedule.plan` of its own, and a step always has the same
    number of tokens: the shorter its blocks, the more of them. So the expected draws of a block follow its rate,
    whatever its length. If all rates are equal, all tokens are drawn equally often.

    Args:
      rates_N: float[N], relative draw rate of each block; 0 = not drawn.
      batch_size: blocks of `blocks.seq_len` tokens in a step.
      data: `data.curriculum` and `data.cycles` set the order of the lengths, see `order`.
      seed: of the run.
      phase: number of the phase.

    Raises:
      ValueError: as of `schedule.plan`.
    """
    if not isinstance(blocks, LengthBlocks):
        return pipeline.Batched(schedule.plan(rates_N, num_steps * batch_size, seed, phase), batch_size)
    rates_N = schedule.checked_rates(rates_N)

    def of(bucket: int) -> np.ndarray:
        return np.where(blocks.bucket_N == bucket, rates_N, 0)

    tokens_G = [length * np.sum(of(bucket), dtype=np.float64) for bucket, length in enumerate(blocks.lengths)]
    bucket_S = order(np.array(tokens_G), num_steps, data.curriculum, data.cycles, seed, phase)
    kinds = []
    for bucket, length in enumerate(blocks.lengths):
        steps, size = np.count_nonzero(bucket_S == bucket), batch_size * (blocks.seq_len // length)
        draws = schedule.plan(of(bucket), steps * size, own_seed(length, seed, phase), phase) if steps else []
        kinds.append(pipeline.Batched(draws, size))
    return pipeline.Interleaved(kinds, bucket_S)


def is_prefix_of_longer(rates_N: np.ndarray, data: DataConfig) -> bool:
    """Whether the batches of a phase are the first ones of the same phase with more steps: shuffled epochs are."""
    return data.packing != "by_length" and schedule.rates_are_equal(rates_N)


def order(
    share_G: np.ndarray, num_steps: int, curriculum: Curriculum, cycles: int, seed: int, phase: int
) -> np.ndarray:
    """The bucket of each step: int64[num_steps].

    Each bucket gets its share of the steps, rounded up or down at random, so that the mean over seeds is exact.

    - "uniform": the steps of a bucket are spread over the phase evenly, at random positions.
    - "grow_linear", "grow_p2", "grow_p100": the phase has `cycles` parts with equal shares. In a cycle, short blocks
      tend to come first: each next batch is drawn from those left, with odds of 1, 2, 3, ... (linear),
      1, 2, 4, ... (p2) or 1, 100, 10,000, ... (p100) for bucket 0 (the longest), 1, 2, ...

    Args:
      share_G: float[G], proportional to the shares of the steps; not negative, not all 0.

    References:
      Pouransari et al. 2024, arXiv 2405.13226, section 3.4 and algorithm 1. There the odds are those of a bucket, and
      constant until it is empty. Here each batch has odds, so those of a bucket fall as it empties.
    """
    copies, _ = schedule.systematic_sample(share_G, num_steps, own_seed(NUMBERS, seed, phase), phase)
    counts_G = np.bincount(copies, minlength=len(share_G))
    bucket_S = np.repeat(np.arange(len(share_G)), counts_G)
    number_S = np.arange(num_steps) - np.repeat(np.cumsum(counts_G) - counts_G, counts_G)
    position_S = (number_S + chances(num_steps, PLACES, seed, phase)) / counts_G[bucket_S]
    if curriculum == "uniform":
        return bucket_S[np.argsort(position_S)]
    # Each batch waits for an exponential time, with its odds as the rate: so the shortest time is drawn by these odds.
    turn_S = -np.log(chances(num_steps, TURNS, seed, phase)) / ODDS[curriculum](bucket_S)
    return bucket_S[np.lexsort((turn_S, np.floor(cycles * position_S)))]


def chances(count: int, purpose: int, seed: int, phase: int) -> np.ndarray:
    """float64[count]: random numbers between 0 and 1, without 0 and 1."""
    return schedule.random_numbers(schedule.numpy_key(Purpose.LENGTHS, seed, phase, purpose), count)


def own_seed(length: int, seed: int, phase: int) -> int:
    """A seed for each length. With one seed for all, buckets of equally many blocks would have the same order."""
    return schedule.random_seed(Purpose.LENGTHS, seed, phase, length)
