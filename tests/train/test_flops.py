"""What a run costs, worked out by hand."""

import dataclasses
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import optax
import pytest
from helpers import write_side as write

from lfr_jax import schedule
from lfr_jax.compile import costs, hlo
from lfr_jax.config import Config, DataConfig, ScheduleConfig, TrainConfig, llama
from lfr_jax.data import phase_batches
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.lengths import LengthBlocks
from lfr_jax.data.packing import PackedBlocks
from lfr_jax.data.store import open_store
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.train import flops, steps
from lfr_jax.train.flops import Expected, Spent
from lfr_jax.train.track.progress import short

MODEL = llama(3, 16, 2, 1, 32, vocab_size=264, max_len=64)


def by_hand(length: int) -> int:
    """FLOPs of a forward pass of one token, in a block of this length.

    For each layer: q and o 2·16·16, k and v 2·16·8, three MLP matrices 3·16·32 weights, attention 2·length products
    of width 16; then the head 16·264. Each counts 2 FLOPs.
    """
    return 2 * (3 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32 + 2 * length * 16) + 16 * 264)


def config(**schedule):
    return Config(
        data=DataConfig(seq_len=32),
        model=MODEL,
        train=TrainConfig(batch_size=8, grad_accum_steps=2, score_batch_size=64),
        schedule=ScheduleConfig("lfr", **schedule),
    )


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """200 documents of 1 to 90 tokens in blocks of 32, 16, 8 and 4 tokens."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 250, rng.integers(1, 91)).tolist() for _ in range(200)]
    return LengthBlocks(write(tmp_path_factory.mktemp("stores") / "s", [("a", "x", texts)]), 32, 4)


def test_a_step_and_a_pass_are_charged_each_block_at_its_length(blocks):
    """Catches: short blocks charged as long ones; 2 or 4 passes a train step; a scored token charged as a trained one;
    the blocks of a sample charged as those before them; one cost that overwrites the other."""
    assert Spent().train(MODEL, 8, 32) == Spent(256, 0, 3 * 256 * by_hand(32))
    assert Spent(1, 2, 3).train(MODEL, 16, 16) == Spent(257, 2, 3 + 3 * 256 * by_hand(16))
    ids = np.random.default_rng(1).permutation(blocks.num_blocks)[:70]
    length_N = np.array([blocks.lengths[bucket] for bucket in blocks.bucket_N])
    tokens = int(sum(length_N[ids]))
    flops = sum(int(length) * by_hand(int(length)) for length in length_N[ids])
    assert Spent(1, 2, 3).score(MODEL, blocks, ids) == Spent(1, 2 + tokens, 3 + flops)
    assert len(set(length_N[ids])) == 4
    assert Spent().score(MODEL, blocks, ids[:0]) == Spent()


def test_dot_products_of_gradients_are_charged(blocks):
    """Every product with a weight once more, and 3 passes of the held-out tokens. Catches: attention charged as well;
    the head left out; the cost of one length for all; an estimate that forgets what the run is charged for."""
    attention = 2 * 3 * 2 * 32 * 16  # of a token, as in `by_hand`
    more = 256 * (by_hand(32) - attention) + 3 * 2 * 64 * by_hand(64)
    assert Spent(1, 2, 3).dot_gradients(MODEL, 8, 32, (2, 64)) == Spent(1, 2, 3 + more)
    plain = Blocks(blocks.store, 32)
    without, found = (
        flops.expected(config(held_out_blocks=2), plain, sched) for sched in (None, schedule.data_shapley())
    )
    assert found.step == without.step + 256 * (by_hand(32) - attention) + 3 * 2 * 32 * by_hand(32)
    assert found.scoring_pass == without.scoring_pass
    line = flops.forecast(config(held_out_blocks=2), schedule.data_shapley(), plain)
    factor = float(found.step / without.step)
    assert line.endswith(f"what the policy needs makes a step cost {factor:.2f} times as much")


HEAD = 2 * 16 * 264  # of a token, as in `by_hand`


@pytest.mark.parametrize(
    "sched, more",
    [
        (schedule.linupper(), HEAD),
        (schedule.token_selection(), HEAD),
        (schedule.stratified(schedule.token_selection(), "length"), HEAD),
        (schedule.chain(schedule.uniform(5), schedule.linupper()), HEAD),
        (schedule.unbiased(schedule.softmax_rounds()), 0),
        (schedule.uniform(5), 0),
    ],
)
def test_weights_by_losses_cost_a_second_pass_through_the_head(blocks, sched, more):
    """Catches: weights of blocks or of tokens that are not charged; known ones that are; three passes through the head;
    the second one charged by length, although it costs a token the same in all blocks."""
    weighs = flops.weighs_by_losses(sched)
    assert Spent(1, 2, 3).train(MODEL, 8, 16, weighs) == Spent(129, 2, 3 + 128 * (3 * by_hand(16) + more))
    assert flops.expected(config(), blocks, sched).step == flops.expected(config(), blocks).step + 8 * 32 * more


@pytest.mark.slow
def test_what_is_charged_for_weights_is_what_is_computed():
    """The products of compiled train steps, counted. Catches: a head passed twice under an objective, whose weights are
    known; a third pass; a policy of tokens or blocks whose step costs something else."""
    model, mesh, tx = dataclasses.replace(MODEL, num_layers=1, loss_chunk=64), make_mesh(1, 1, 1), optax.sgd(1.0)

    def products(sched: schedule.Schedule) -> int:
        of = dataclasses.replace(config(), model=model, data=DataConfig(seq_len=16))
        state = steps.abstract_state(model, tx, sched, schedule.BlockInfo(40), mesh)
        with jax.set_mesh(mesh):
            step = steps.make_train_step(model, tx, sched, grad_accum_steps=1, eos_id=0)
            compiled = step.lower(*steps.abstract_arguments(of, sched, state, mesh)).compile()
        return costs.totals(hlo.parse(compiled.as_text())).flops

    plain = products(schedule.uniform())
    assert products(schedule.unbiased(schedule.uniform())) == plain
    assert products(schedule.linupper()) == products(schedule.token_selection()) == plain + 8 * 16 * HEAD


@pytest.mark.parametrize("packed", [Blocks, PackedBlocks])
def test_blocks_of_one_length_cost_what_is_expected(corpus_dir, packed):
    """Catches: scoring charged for the held-out blocks, a padded batch, or another length; a forgotten layer; padding
    that is not charged."""
    blocks = packed(open_store(corpus_dir / "train"), 32)
    N, cost = blocks.num_blocks, flops.expected(config(), blocks)
    assert cost == Expected(3 * 8 * 32 * by_hand(32), N * 32 * by_hand(32))
    spent = Spent().train(MODEL, 8, 32).score(MODEL, blocks, np.arange(N))
    assert spent == Spent(8 * 32, N * 32, cost.step + cost.scoring_pass)


@pytest.mark.parametrize("fraction, scored", [(1.0, 100), (0.07, 7), (0.071, 8), (1e-6, 1), (0.999, 100)])
def test_a_pass_costs_what_it_reads(fraction, scored):
    """Catches: rounding down; 0.07 · 100 made 8, as the product of the floats exceeds 7."""
    assert flops.num_scored(config(score_fraction=fraction), 100) == scored


@pytest.mark.parametrize("fraction", [1.0, 0.25, 1e-6])
def test_a_sample_costs_its_share_of_a_pass(blocks, fraction):
    """Catches: all blocks charged; a sample of blocks charged as one of tokens, or as blocks of the longest length."""
    found = flops.expected(config(score_fraction=fraction), blocks)
    length_N = np.array(blocks.lengths)[blocks.bucket_N].tolist()
    scored = flops.num_scored(config(score_fraction=fraction), blocks.num_blocks)
    assert found.scoring_pass == Fraction(scored, blocks.num_blocks) * sum(T * by_hand(T) for T in length_N)


def test_what_steps_cost_is_what_is_expected_on_average(blocks):
    """All blocks drawn alike, over 400 seeds. Catches: the mean cost over blocks, or over lengths, in place of that
    over tokens; all tokens charged as in the longest blocks."""
    cost, total, steps = flops.expected(config(), blocks), Spent(), 5
    data = DataConfig(packing="by_length", seq_len=32, shortest=4)
    for seed in range(400):
        batches = phase_batches.plan_batches(blocks, np.ones(blocks.num_blocks), steps, 8, data, seed, 0)
        for ids in batches:
            (length,) = {blocks.lengths[bucket] for bucket in blocks.bucket_N[ids]}
            total = total.train(MODEL, len(ids), length)
    assert total.trained_tokens == 400 * steps * 8 * 32
    spread = (by_hand(32) - by_hand(4)) / by_hand(32)  # at most, of a step
    assert 0.1 < spread < 0.4
    assert total.flops / (400 * steps) == pytest.approx(float(cost.step), rel=0.01 * spread)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
    steps=st.sampled_from([1, 24, 999, 10**6, 10**12]),
    passes=st.integers(0, 7),
    step=st.fractions(1, 10**18),
    scoring_pass=st.fractions(0, 10**18),
)
def test_steps_within_pays_for_as_many_steps_as_it_can(steps, passes, step, scoring_pass):
    """Catches: rounding up; floats, which lose a step of some millions; passes that are not subtracted."""
    cost = Expected(step, scoring_pass)
    flops = steps * step + passes * scoring_pass
    assert cost.steps_within(flops, passes) == steps
    assert cost.steps_within(flops - Fraction(1, 10**9), passes) == steps - 1
    assert cost.steps_within(flops + step - Fraction(1, 10**9), passes) == steps
    assert isinstance(cost.steps_within(flops, passes), int)


def test_a_forecast_says_what_the_run_will_train_on_and_score(blocks):
    """Catches: the share of scoring in tokens in place of FLOPs; passes of a sample counted as whole ones; a hint to
    a run that hardly scores; scoring passes of a policy that has none."""
    plain = Blocks(blocks.store, 32)

    def forecast(steps, **options):
        return flops.forecast(config(**options), schedule.fit(schedule.lfr(reps=1), steps), plain)

    trained, scored = 150 * 8 * 32, 2 * plain.num_blocks * 32
    share = 100 * scored / (3 * trained + scored)
    expected = f"150 steps train 38.4k tokens ({trained / plain.num_tokens:.2f} epochs); 2 scoring passes read "
    assert forecast(150) == f"{expected}{short(scored)}, {share:.0f} % of all FLOPs"
    assert "Scoring is much of the run: " in forecast(50) and "Scoring is most of the run: " in forecast(9)
    assert forecast(9).endswith("; lfr then needs --schedule.options.scores mixed)")
    sampled = forecast(9, score_fraction=0.1)
    assert f"2 scoring passes read {short(2 * -(-plain.num_blocks // 10) * 32)}, " in sampled
    assert "scoring" not in flops.forecast(config(), schedule.uniform(5), plain)


@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_a_forecast_says_when_probes_cost_much(blocks, fraction):
    """60 steps of 8 blocks cost as much as 1,440 forward passes. Catches: probes that take a tenth of a run, unsaid; a
    word about a usual run; the cost of a pass over a sample taken for that of all blocks."""
    plain, uniform = Blocks(blocks.store, 32), schedule.uniform(60)
    of = config(score_fraction=fraction)
    assert flops.forecast(of, uniform, plain, num_probed=144).endswith(
        ". Probes add 10 %: set fewer (--train.probe-blocks), or evaluate less often"
    )
    assert "Probes" not in flops.forecast(of, uniform, plain, num_probed=28)
