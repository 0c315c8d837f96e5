"""What a run costs, in FLOPs: counted as it goes on, and expected before it starts.

A training token costs three forward passes (one forward, two backward), a scored token one. In a longer block each
token costs more, as attention does. So where blocks have several lengths, a run's cost follows from which of them it
draws: it is counted exactly, and what is known before is an expectation.
Where a policy asks for dot products of gradients ("grad_dot"), each product with a weight is made once more for every
training token (see `gradient_scores`), and a step's held-out tokens cost as much as if it trained on them. A reference
model that reads each batch costs one forward pass of its own.
Where a policy weighs losses by what they are (`loss_weights`, `token_weights`), the output head's product is made once
more for every training token, as weights must be known before the gradient (see `model/cross_entropy.py`). Where all
rows of a device fit into one chunk (`model.loss_chunk`), the compiler finds that both products are one. It is charged
there too, as a cost must not depend on the mesh. Weights that are known before the step, those of an objective, cost
nothing.
Padding counts as tokens here: it is computed, though nothing is learned from it.
Held-out evaluation and probes are measurement, not training, and are not charged.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from lfr_jax.config import Config, ModelConfig
from lfr_jax.data.blocks import Blocks
from lfr_jax.schedule import Schedule, num_chosen
from lfr_jax.train.reference import model_of
from lfr_jax.train.track.progress import short

# Larger shares of all FLOPs are worth a word.
DEAR_SCORING = 0.25  # phases of an epoch each have 0.2 or less
DEAR_PROBES = 0.05


def forward_flops_per_token(config: ModelConfig, seq_len: int) -> int:
    """FLOPs of a forward pass a token, in matrix products, 2 for a multiply-add; training costs 3 times this.

    The output head counts and the embedding lookup does not. Attention counts in full, seq_len keys for every
    query, as in PaLM (Chowdhery et al. 2022, appendix B), although the causal mask needs half of it.
    """
    D, head_dim = config.dim, config.dim // config.num_heads
    projections = 2 * D * head_dim * (config.num_heads + config.num_kv_heads)
    mlp = (3 if config.mlp == "swiglu" else 2) * D * config.mlp_dim
    layers = 2 * config.num_layers * (projections + mlp)
    return layers + head_flops_per_token(config) + attention_flops_per_token(config, seq_len)


def head_flops_per_token(config: ModelConfig) -> int:
    """The part of it that is the output head."""
    return 2 * config.dim * config.vocab_size


def attention_flops_per_token(config: ModelConfig, seq_len: int) -> int:
    """The part of it that is attention itself: scores, and the sum of values."""
    return 4 * config.num_layers * seq_len * config.dim


def dot_flops(config: ModelConfig, tokens: int, length: int, held_out: tuple[int, int]) -> int:
    """FLOPs that a step costs more, if it makes the dot products of its blocks' gradients with a held-out batch's.

    Args:
      tokens: of the step, in blocks of `length`.
      held_out: rows of the held-out batch, and tokens in a row.
    """
    products = forward_flops_per_token(config, length) - attention_flops_per_token(config, length)
    held_out_rows, held_out_length = held_out
    held_out_tokens = held_out_rows * held_out_length
    return tokens * products + 3 * held_out_tokens * forward_flops_per_token(config, held_out_length)


def weighs_by_losses(schedule: Schedule) -> bool:
    """Whether a step needs losses before its gradient, as the schedule's weights depend on them."""
    return schedule.loss_weights is not None or schedule.token_weights is not None


class Spent(NamedTuple):
    """What a run has cost so far."""

    trained_tokens: int = 0
    scored_tokens: int = 0
    flops: int = 0

    def train(self, config: ModelConfig, rows: int, length: int, weighs: bool = False) -> "Spent":
        """With a step more, on `rows` blocks of `length` tokens. `weighs`: whether it is one of `weighs_by_losses`."""
        tokens = rows * length
        flops = 3 * forward_flops_per_token(config, length) + weighs * head_flops_per_token(config)
        return Spent(self.trained_tokens + tokens, self.scored_tokens, self.flops + tokens * flops)

    def dot_gradients(self, config: ModelConfig, rows: int, length: int, held_out: tuple[int, int]) -> "Spent":
        """With the dot products of a step more. `held_out`: rows and tokens in a row of the held-out batch."""
        flops = dot_flops(config, rows * length, length, held_out)
        return Spent(self.trained_tokens, self.scored_tokens, self.flops + flops)

    def refer(self, reference: ModelConfig, rows: int, length: int) -> "Spent":
        """With the forward pass of a reference model more, over the blocks of a step."""
        flops = rows * length * forward_flops_per_token(reference, length)
        return Spent(self.trained_tokens, self.scored_tokens, self.flops + flops)

    def score(self, config: ModelConfig, blocks: Blocks, ids: np.ndarray) -> "Spent":
        """With a scoring pass more, over the blocks `ids`."""
        tokens = {length: length * len(ids[some]) for length, some in blocks.by_length(ids)}
        flops = sum(number * forward_flops_per_token(config, length) for length, number in tokens.items())
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


def expected(
    config: Config, blocks: Blocks, schedule: Schedule | None = None, ref_model: ModelConfig | None = None
) -> Expected:
    """What a run of `config` on these training blocks is expected to cost.

    Args:
      schedule: its schedule; None: one whose steps need nothing beside training.
      ref_model: of the run `schedule.ref_model`, where that is still to be trained.
    """
    once = sum(
        count * length * forward_flops_per_token(config.model, length)
        for length, count in blocks.count_by_length.items()
    )  # a forward pass of all blocks
    tokens, held_out = config.train.batch_size * config.data.seq_len, (config.schedule.held_out_blocks, blocks.seq_len)
    step = Fraction(3 * tokens * once, blocks.num_tokens)
    extra = () if schedule is None else schedule.extra
    if schedule is not None and weighs_by_losses(schedule):
        step += tokens * head_flops_per_token(config.model)
    if "grad_dot" in extra:
        dots = sum(
            dot_flops(config.model, count * length, length, (0, 0)) for length, count in blocks.count_by_length.items()
        )
        step += Fraction(tokens * dots, blocks.num_tokens) + dot_flops(config.model, 0, blocks.seq_len, held_out)
    if "ref_token_losses" in extra:
        model = ref_model or model_of(config.schedule.ref_model)
        read = sum(n * length * forward_flops_per_token(model, length) for length, n in blocks.count_by_length.items())
        step += Fraction(tokens * read, blocks.num_tokens)
    return Expected(
        step=step,
        scoring_pass=Fraction(num_scored(config, blocks.num_blocks) * once, blocks.num_blocks),
    )


def num_scored(config: Config, num_blocks: int) -> int:
    """How many of N blocks a scoring pass reads: ⌈schedule.score_fraction · N⌉, the product being exact."""
    return num_chosen(num_blocks, config.schedule.score_fraction)


def forecast(config: Config, schedule: Schedule, blocks: Blocks, num_probed: int = 0) -> str:
    """What a run is expected to train on and to score, in a line; and what to change if it scores or probes much.

    Args:
      num_probed: blocks that are computed for the probes alone.
    """
    cost, steps = expected(config, blocks, schedule), schedule.phases[-1].stop
    passes = sum(phase.score for phase in schedule.phases)
    trained = steps * config.train.batch_size * config.data.seq_len
    spent = steps * cost.step + passes * cost.scoring_pass
    line = f"{steps} steps train {short(trained)} tokens ({trained / blocks.num_tokens:.2f} epochs)"
    if passes:
        scored = passes * blocks.num_tokens * num_scored(config, blocks.num_blocks) / blocks.num_blocks
        share = float(passes * cost.scoring_pass / spent)
        line += f"; {passes} scoring passes read {short(scored)}, {100 * share:.0f} % of all FLOPs"
        if share > DEAR_SCORING:
            line += (
                f". Scoring is {'most' if share > 0.5 else 'much'} of the run: train for more steps, or score a sample "
                "(--schedule.score-fraction 0.1; lfr then needs --schedule.options.scores mixed)"
            )
    if (factor := float(cost.step / expected(config, blocks).step)) > 1:
        line += f"; what the policy needs makes a step cost {factor:.2f} times as much"
    probes = float(cost.scoring_pass * num_probed / num_scored(config, blocks.num_blocks) / spent)
    if probes > DEAR_PROBES:
        line += f". Probes add {100 * probes:.0f} %: set fewer (--train.probe-blocks), or evaluate less often"
    return line


# Peak dense (not sparse) bfloat16 FLOP/s of one device, by jax.Device.device_kind: the vendors' nominal
# figures. Names and figures were not checked on these devices; a missing name gives no MFU, not a wrong one.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,  # SXM
    "NVIDIA H200": 989e12,
}


def mfu(flops: float, seconds: float, device_kind: str, num_devices: int) -> float | None:
    """Model FLOPs utilisation (Chowdhery et al. 2022, "PaLM", appendix B); None where the peak is not known.

    Args:
      flops: model FLOPs done in `seconds`: what the mathematics needs, without recomputation.

    >>> mfu(flops=989e12, seconds=2.0, device_kind="NVIDIA H200", num_devices=1)
    0.5
    """
    peak = PEAK_FLOPS.get(device_kind)
    return flops / seconds / (num_devices * peak) if peak else None
