"""What a run costs: FLOPs of training and of scoring, known before it starts.

Where blocks have several lengths, the bill is what the run costs at most: each token is charged the attention of a
block of `data.seq_len`, and a pass over a sample of blocks is charged as if they were that long, up to all tokens.
A training token costs three forward passes (one forward, two backward), a scored token one.
Padding counts as tokens here: it is computed, though nothing is learned from it.
Held-out evaluation and probes are measurement, not training, and are not charged.
"""

import math
from typing import NamedTuple

from lfr_jax import model
from lfr_jax.config import Config
from lfr_jax.schedule import Phase
from lfr_jax.schedule.phases import as_written


class Budget(NamedTuple):
    """Costs of a run on a corpus of a given size."""

    tokens_per_step: int
    tokens_per_scoring: int  # tokens in one scoring pass
    forward_flops: int  # FLOPs of a forward pass, per token

    def train_tokens(self, step: int) -> int:
        return step * self.tokens_per_step

    def scored_tokens(self, phases: tuple[Phase, ...], step: int) -> int:
        """Tokens scored before step number `step` is taken (a pass stands before its phase's first step)."""
        return self.tokens_per_scoring * sum(phase.score and phase.start < step for phase in phases)

    def flops(self, phases: tuple[Phase, ...], step: int) -> int:
        """FLOPs of the first `step` steps and of the scoring passes among them."""
        return self.forward_flops * (3 * self.train_tokens(step) + self.scored_tokens(phases, step))

    def steps_within(self, flops: int, scoring_passes: int) -> int:
        """The most steps that `flops` pay for beside that many scoring passes, to the last FLOP."""
        tokens = flops // self.forward_flops - scoring_passes * self.tokens_per_scoring
        return tokens // (3 * self.tokens_per_step)


def budget(config: Config, num_blocks: int, num_tokens: int) -> Budget:
    """The budget of a run of `config` on `num_blocks` training blocks that hold `num_tokens`."""
    length = config.data.seq_len
    return Budget(
        tokens_per_step=config.train.batch_size * length,
        tokens_per_scoring=min(num_scored(config, num_blocks) * length, num_tokens),
        forward_flops=model.forward_flops_per_token(config.model, length),
    )


def num_scored(config: Config, num_blocks: int) -> int:
    """How many of N blocks a scoring pass reads: ⌈schedule.score_fraction · N⌉, the product being exact."""
    return math.ceil(as_written(config.schedule.score_fraction) * num_blocks)
