"""What a run costs, worked out by hand."""

import pytest

from lfr_jax import budget, schedule
from lfr_jax.config import Config, DataConfig, ScheduleConfig, TrainConfig, llama
from lfr_jax.schedule import Phase

PHASES = (
    Phase("learn", 0, 10, False),
    Phase("focus", 10, 15, True),
    Phase("review", 15, 20, False),
    Phase("focus2", 20, 24, True),
)
COST = budget.Budget(tokens_per_step=256, tokens_per_scoring=3000, forward_flops=70)


def test_sizes_come_from_the_settings():
    """Catches: scoring charged for the held-out blocks, a padded batch, or another length; a forgotten layer.

    By hand, for each token and layer: q and o 2·16·16, k and v 2·16·8, three MLP matrices 3·16·32 weights,
    attention 2·32 products of width 16; then the head 16·264. Each counts 2 FLOPs.
    """
    config = Config(
        data=DataConfig(seq_len=32),
        model=llama(3, 16, 2, 1, 32, vocab_size=264, max_len=64),
        train=TrainConfig(batch_size=8, accumulate=2, score_batch=64),
    )
    by_hand = 2 * (3 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32 + 2 * 32 * 16) + 16 * 264)
    assert budget.budget(config, num_blocks=100, num_tokens=3200) == budget.Budget(8 * 32, 100 * 32, by_hand)


@pytest.mark.parametrize("fraction, scored", [(1.0, 100), (0.07, 7), (0.071, 8), (1e-6, 1), (0.999, 100)])
def test_a_pass_costs_what_it_reads(fraction, scored):
    """Catches: all blocks charged; rounding down; 0.07 · 100 made 8, as the product of the floats exceeds 7."""
    config = Config(data=DataConfig(seq_len=32), schedule=ScheduleConfig("lfr", score_fraction=fraction))
    assert budget.num_scored(config, 100) == scored
    assert budget.budget(config, 100, 3200).tokens_per_scoring == scored * 32


@pytest.mark.parametrize("fraction, tokens", [(1.0, 1000), (0.5, 1000), (0.25, 800)])
def test_short_blocks_cost_at_most_what_they_hold(fraction, tokens):
    """Catches: a pass over blocks of several lengths charged more tokens than there are, or a sample too few."""
    config = Config(data=DataConfig(seq_len=32), schedule=ScheduleConfig("lfr", score_fraction=fraction))
    assert budget.budget(config, num_blocks=100, num_tokens=1000).tokens_per_scoring == tokens


@pytest.mark.parametrize("step, passes", [(0, 0), (10, 0), (11, 1), (20, 1), (21, 2), (24, 2), (99, 2)])
def test_a_pass_is_charged_to_its_phases_first_step(step, passes):
    """Catches: a pass charged one step early or late, or in phases that ask for none; 2 or 4 passes a train step."""
    assert COST.scored_tokens(PHASES, step) == passes * 3000
    assert COST.train_tokens(step) == step * 256
    assert COST.flops(PHASES, step) == 70 * (3 * step * 256 + passes * 3000)


@pytest.mark.parametrize("steps", [1, 24, 999, 10**6, 10**12])
@pytest.mark.parametrize("passes", [0, 2, 7])
@pytest.mark.parametrize("cost", [COST, budget.Budget(524_289, 9_035_582_198, 247_463_937)])
def test_steps_within_is_the_inverse_of_flops(cost, steps, passes):
    """Catches: rounding up; floats, which lose a step of some millions; passes that are not subtracted."""
    phases = [Phase("learn", 0, 1, False)] + [Phase("focus", 0, 1, True)] * passes
    flops = cost.flops(tuple(phases), steps)
    assert cost.steps_within(flops, passes) == steps
    a_step = 3 * cost.forward_flops * cost.tokens_per_step
    assert cost.steps_within(flops - 1, passes) == steps - 1
    assert cost.steps_within(flops + a_step - 1, passes) == steps


def test_a_policy_without_scores_pays_for_steps_alone():
    """Catches: a scoring pass read off the phase's name."""
    phases = schedule.random_drop(learn=10, focus=5, review=5, focus2=4, reps=1).phases
    assert [phase.name for phase in phases] == [phase.name for phase in PHASES]
    assert COST.scored_tokens(phases, 24) == 0
