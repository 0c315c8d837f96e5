"""Which cells a plan consists of. No run is trained: the stores are there, and steps are computed."""

import dataclasses
from fractions import Fraction

import plans
import pytest
from conftest import once

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
from lfr_jax.experiments.cells import Cell
from lfr_jax.experiments.layout import laid_out
from lfr_jax.experiments.plan import Arm, Reference, Store
from lfr_jax.train.flops import Spent, forward_flops_per_token


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return once(tmp_path_factory, "experiment_stores", lambda folder: folder.mkdir() or plans.make_stores(folder))


def steps_of(layout, seed=0) -> dict[tuple[str, float], int]:
    return {(arm, budget): run.run.config.train.steps for (arm, budget, of), run in layout.runs.items() if of == seed}


def test_references_and_scoring_are_charged(stores, tmp_path):
    """Catches: a reference, its scoring pass or the arm's own that costs nothing, or is charged twice; a pass over
    another store than the arm's; a budget that is not that of the baseline."""
    plan = plans.plan(stores)
    layout = laid_out(plan, tmp_path)
    junk, model = Blocks(open_store(stores / "junk" / "train"), 32), plan.config.model
    step = Spent().train(model, 8, 32).flops
    small = laid_out(plan, tmp_path).runs["reducible", 1.0, 0].references[0].config.model
    needed = 3 * 3 * 8 * 32 * forward_flops_per_token(small, 32)  # of the reference
    needed += junk.num_tokens * forward_flops_per_token(small, 32) + junk.num_tokens * forward_flops_per_token(
        model, 32
    )
    left = (16 * step - needed) // step
    expected = {("baseline", 1.0): 16, ("baseline", 0.5): 8, ("oracle", 1.0): 16, ("reducible", 1.0): left}
    assert 0 < left < 14 and steps_of(layout) == expected
    run, references = layout.runs["reducible", 1.0, 0]
    assert sum(cell.flops for cell in references) + run.flops == needed + left * step


def test_a_reference_for_two_columns_is_charged_once(stores, tmp_path):
    """Catches: the same model paid twice; a column of scores that is not told to the policy."""
    both = Arm({"schedule.policy": "uniform"}, references={"ref_loss": "small", "again": "small"})
    one = Arm({"schedule.policy": "uniform"}, references={"ref_loss": "small"})
    layout = laid_out(plans.plan(stores, arms={"both": both, "one": one}), tmp_path)
    steps = steps_of(layout)
    assert steps["both", 1.0] == steps["one", 1.0] < 16
    scores = layout.runs["both", 1.0, 0].references[1]
    chosen = layout.runs["both", 1.0, 0].run.config.schedule
    assert (chosen.ref_scores, chosen.columns) == (scores.mark, (f"again={scores.mark}",))


def test_a_reference_that_reads_batches_is_charged_by_the_step(stores, tmp_path):
    """Catches: an arm that cannot be planned before its reference is trained; its passes over batches uncharged, or
    the second product of its head, which weights by losses need."""
    arm = Arm(
        {"schedule.policy": "token_selection", "schedule.options": {"by": "excess"}}, references={"ref_model": "small"}
    )
    layout = laid_out(plans.plan(stores, arms={"tokens": arm}), tmp_path)
    run, (reference,) = layout.runs["tokens", 1.0, 0]
    assert run.config.schedule.ref_model == reference.mark
    batch = 8 * 32 * forward_flops_per_token(reference.config.model, 32)
    of_baseline, own = (Spent().train(run.config.model, 8, 32, weighs).flops for weighs in (False, True))
    assert run.flops == run.config.train.steps * (own + batch)
    assert 16 * of_baseline - (own + batch) < run.flops + reference.flops <= 16 * of_baseline


def test_runs_of_a_seed_are_a_pair(stores, tmp_path):
    """Catches: an arm with another seed than the baseline; a reference that all seeds share, though nobody asked."""
    layout = laid_out(plans.plan(stores), tmp_path)
    for (_, _, seed), planned in layout.runs.items():
        runs = [planned.run, *(cell for cell in planned.references if cell.config)]
        assert {cell.config.train.seed for cell in runs} == {seed}
    shared = plans.plan(stores, references={"small": Reference("clean", plans.SMALL, shared=True)})
    first, second = (laid_out(shared, tmp_path).runs["reducible", 1.0, seed].references for seed in (0, 1))
    assert first == second


def test_equal_content_is_one_cell(stores, tmp_path):
    """Catches: two arms of equal settings trained twice; names or places in the key."""
    arms = {"a": Arm(), "b": Arm({"train.log_every": 5}), "c": Arm({"optimizer.beta1": 0.8})}
    layout = laid_out(plans.plan(stores, arms=arms), tmp_path)
    a, b, c = (layout.runs[name, 1.0, 0].run for name in "abc")
    assert a == b == layout.runs["baseline", 1.0, 0].run != c
    assert len([cell for cell in layout.cells if cell.kind == "train"]) == 2 * 3
    moved = tmp_path / "elsewhere"
    moved.symlink_to(stores)
    assert laid_out(plans.plan(moved, arms=arms), tmp_path).cells == layout.cells


def test_other_content_is_another_cell(stores, tmp_path):
    """Catches: a key without the store, the held-out text, the reference or what a file of scores holds."""
    before = laid_out(plans.plan(stores), tmp_path).runs
    other_reference = {"small": Reference("clean", plans.SMALL | {"train.steps": 4})}
    changed = laid_out(plans.plan(stores, references=other_reference), tmp_path).runs
    assert changed["oracle", 1.0, 0].run == before["oracle", 1.0, 0].run
    assert changed["reducible", 1.0, 0].run != before["reducible", 1.0, 0].run
    on_clean = laid_out(plans.plan(stores, store="clean"), tmp_path).runs
    assert not {planned.run for planned in on_clean.values()} & {planned.run for planned in before.values()}

    def with_file(text):
        (tmp_path / "q.csv").write_text(text)
        arms = {"a": Arm({"schedule.columns": (f"q={tmp_path / 'q.csv'}",)})}
        return laid_out(plans.plan(stores, arms=arms), tmp_path).runs["a", 1.0, 0].run

    assert with_file("block,q\n0,1\n") != with_file("block,q\n0,2\n")


def test_what_is_not_known_yet_is_said(stores, tmp_path):
    """Catches: a plan whose stores are to be made refused, or laid out with steps that nobody knows."""
    made = Store(("data noise {clean} --out {out} --share 0.3",))
    plan = plans.plan(stores, stores={"junk": made, "clean": Store(path=str(stores / "clean"))})
    layout = laid_out(plan, tmp_path)
    assert [cell.name for cell in layout.cells] == ["store/junk"] and not layout.runs
    assert layout.unknown[0] == "baseline/1x for 2 seeds: store/junk has to be made first"
    made = dataclasses.replace(made, commands=(made.commands[0].replace("0.3", "0.4"),))
    other = laid_out(plans.plan(stores, stores=plan.stores | {"junk": made}), tmp_path)
    assert other.cells != layout.cells and other.cells[0].needs == layout.cells[0].needs != ()


def test_a_text_of_a_setting_names_a_store(stores, tmp_path):
    """Catches: a file beside a store that a run does not find; its cell without the store among its needs."""
    arm = Arm({"schedule.columns": ("q={clean}/q.csv",)})
    run = laid_out(plans.plan(stores, arms={"a": arm}), tmp_path).runs["a", 1.0, 0].run
    clean = next(cell for cell in run.needs if cell.name == "store/clean")
    assert run.config.schedule.columns == (f"q={clean.mark}/q.csv",)
    placed = run.placed(run.config, tmp_path)
    assert placed.schedule.columns == (f"q={stores / 'clean'}/q.csv",) and placed.data.store == str(stores / "junk")


@pytest.mark.parametrize(
    "arm, error",
    [
        (
            Arm({"schedule.policy": "reducible", "schedule.options": {"rounds": 2}}, references={"ref_loss": "small"}),
            "arm a, budget 1: found .* FLOPs for the run itself",
        ),
        (Arm({"schedule.policy": "ranked"}), "arm a, budget 1: .*--schedule.columns quality=FILE"),
        (Arm({"schedule.policy": "unifrom"}), "arm a, budget 1: no policy is called 'unifrom'"),
        (
            Arm({"optimizer.warmup_steps": 9}),
            "arm a, budget 1: optimizer.warmup_steps=9 steps .* do not fit into a run",
        ),
    ],
)
def test_an_arm_that_cannot_be_run_is_refused_before_any_run(stores, tmp_path, arm, error):
    """Also while the grid of the baseline is not decided. Catches: hours of training first."""
    config = plans.config(**{"train.steps": 4})
    grid = dict(tuned={"optimizer.peak_lr": (1e-3, 2e-3)}, tuning_seeds=(9,))
    for more in ({}, grid):
        with pytest.raises(ValueError, match=error):
            laid_out(plans.plan(stores, config=config, curve=(1.0,), arms={"a": arm}, **more), tmp_path)


def test_a_run_measures_at_its_end_alone_unless_it_is_asked_to(stores, tmp_path):
    """Catches: experiments that are slowed by evaluations that nobody reads; a plan's own values overridden."""
    found = laid_out(plans.plan(stores), tmp_path).runs["baseline", 1.0, 0].run.config.train
    assert (found.eval_every, found.probe_blocks, found.checkpoint_every) == (0, 0, 0)
    asked = plans.plan(stores, config=plans.config(**{"train.checkpoint_every": 5}))
    assert laid_out(asked, tmp_path).runs["baseline", 1.0, 0].run.config.train.checkpoint_every == 5


def test_budgets_are_exact_fractions(stores, tmp_path):
    """Catches: a step lost to the rounding of 0.7 × the budget."""
    layout = laid_out(
        plans.plan(stores, config=plans.config(**{"train.steps": 10}), arms={}, curve=(0.7, 1.0)), tmp_path
    )
    assert steps_of(layout)["baseline", 0.7] == 7
    assert Fraction(0.7) * 10 < 7  # so it is when the number is taken for what its bits say


def test_cells_of_a_kind_differ_by_content():
    """Catches: a key that forgets the kind, or depends on the order of names."""
    first = Cell("x", "store", {"a": 1, "b": 2})
    assert first == Cell("y", "store", {"b": 2, "a": 1}) != Cell("x", "scores", {"a": 1, "b": 2})


def on_a_trunk(stores, **changes):
    config = plans.config(
        **{"train.steps": 20, "optimizer.lr_schedule": "wsd", "optimizer.decay_fraction": 0.3} | changes
    )
    return plans.plan(stores, config=config, arms={"same": Arm(budgets=(0.5,))}, seeds=(0,), curve=(0.5, 1.0, 2.0))


def test_the_baseline_branches_from_a_trunk(stores, tmp_path):
    """Catches: a decay that begins at another step than the branch; a trunk that decays; a part of it trained twice,
    or measured; an arm that is a branch too."""
    layout = laid_out(on_a_trunk(stores), tmp_path)
    runs = {cell.name: cell for cell in layout.cells if cell.config}
    steps = {name: cell.config.train.steps for name, cell in runs.items()}
    assert steps == {
        "baseline/trunk7/seed0": 7, "baseline/trunk14/seed0": 14, "baseline/1x/seed0": 20, "baseline/0.5x/seed0": 10,
        "baseline/trunk28/seed0": 28, "baseline/2x/seed0": 40, "same/0.5x/seed0": 10,
    }  # fmt: skip
    begun = {name: cell.config.init.run for name, cell in runs.items()}
    first, second, third = (runs[f"baseline/trunk{step}/seed0"] for step in (7, 14, 28))
    assert begun == {
        "baseline/trunk7/seed0": "", "baseline/trunk14/seed0": f"{first.mark}@7",
        "baseline/trunk28/seed0": f"{second.mark}@14", "baseline/0.5x/seed0": f"{first.mark}@7",
        "baseline/1x/seed0": f"{second.mark}@14", "baseline/2x/seed0": f"{third.mark}@28", "same/0.5x/seed0": "",
    }  # fmt: skip
    shapes = {cell.config.optimizer.lr_schedule for cell in (first, second, third)}
    assert shapes == {"constant"} and runs["baseline/2x/seed0"].config.optimizer.lr_schedule == "wsd"
    assert [bool(cell.content["measured"]) for cell in runs.values()].count(False) == 3
    of_step = Spent().train(runs["baseline/1x/seed0"].config.model, 8, 32).flops
    assert sum(cell.flops for cell in runs.values()) == of_step * (28 + 3 + 6 + 12 + 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.lr_schedule": "cosine"},
        {"schedule.policy": "random_drop"},
        {"data.packing": "by_length", "data.shortest": 32},
    ],
)
def test_no_trunk_where_runs_of_other_length_begin_otherwise(stores, tmp_path, changes):
    """Catches: a branch that is not the run of its own."""
    layout = laid_out(on_a_trunk(stores, **changes), tmp_path)
    assert not [cell for cell in layout.cells if cell.config and cell.config.init.run]
