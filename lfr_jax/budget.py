"""What a run costs, in FLOPs: counted as it goes on, and expected before it starts.

A training token costs three forward passes (one forward, two backward), a scored token one. In a longer block each
token costs more, as attention does. So where blocks have several lengths, a run's cost follows from which of them it
draws: it is counted exactly, and what is known before is an expectation.
Padding counts as tokens here: it is computed, though nothing is learned from it.
Held-out evaluation and probes are measurement, not training, and are not charged.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from lfr_jax import model
from lfr_jax.blocks import Blocks
from lfr_jax.config import Config, ModelConfig
from lfr_jax.schedule.phases import as_written


class Spent(NamedTuple):
    """What a run has cost so far."""

    trained_tokens: int = 0
    scored_tokens: int = 0
    flops: int = 0

    def train(self, config: ModelConfig, rows: int, length: int) -> "Spent":
        """With a step more, on `rows` blocks of `length` tokens."""
        tokens = rows * length
        flops = 3 * tokens * model.forward_flops_per_token(config, length)
        return Spent(self.trained_tokens + tokens, self.scored_tokens, self.flops + flops)

    def score(self, config: ModelConfig, blocks: Blocks, ids: np.ndarray) -> "Spent":
        """With a scoring pass more, over the blocks `ids`."""
        tokens = {length: length * len(ids[some]) for length, some in blocks.by_length(ids)}
        flops = sum(number * model.forward_flops_per_token(config, length) for length, number in tokens.items())
        return Spent(self.trained_tokens, self.scored_tokens + sum(tokens.values()), self.flops + flops)


class Expected(NamedTuple):
    """What a step and a scoring pass cost in FLOPs: exactly for blocks of one length, else on average.

    The average is over seeds, for steps that draw all blocks alike. A policy that prefers some lengths to others
    spends more or less than this.
    """

    step: Fraction
    scoring_pass: Fraction

    def steps_within(self, flops: int, scoring_passes: int) -> int:
        """The most steps that `flops` pay for beside that many scoring passes, to the last FLOP."""
        return (flops - scoring_passes * self.scoring_pass) // self.step


def expected(config: Config, blocks: Blocks) -> Expected:
    """What a run of `config` on these training blocks is expected to cost."""
    once = sum(
        count * length * model.forward_flops_per_token(config.model, length)
        for length, count in blocks.count_by_length.items()
    )  # a forward pass of all blocks
    return Expected(
        step=Fraction(3 * config.train.batch_size * config.data.seq_len * once, blocks.num_tokens),
        scoring_pass=Fraction(num_scored(config, blocks.num_blocks) * once, blocks.num_blocks),
    )


def num_scored(config: Config, num_blocks: int) -> int:
    """How many of N blocks a scoring pass reads: ⌈schedule.score_fraction · N⌉, the product being exact."""
    return math.ceil(as_written(config.schedule.score_fraction) * num_blocks)
