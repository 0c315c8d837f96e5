"""Probes: the same blocks throughout a run, their losses and rates, written once whatever happens."""

import csv

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import rows

from lfr_jax import schedule
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
from lfr_jax.train import load_run
from lfr_jax.train.probes import Probes

PHASES = schedule.lfr(learn=10, focus=5, review=5, focus2=4, reps=1).phases


@pytest.fixture(scope="module")
def blocks(corpus_dir):
    return Blocks(open_store(corpus_dir / "train"), 32)


@pytest.fixture
def nine(tmp_path, blocks):
    found = Probes(tmp_path / "scores", blocks, 9, PHASES)
    found.rewind(0)
    return found


def measured(ids, loss, size=4):
    """What `score.losses` yields for `ids` if each block's loss is `loss` + its id; the last batch is padded."""
    for start in range(0, len(ids), size):
        ids_B = np.full(size, -1)
        ids_B[: len(ids[start : start + size])] = ids[start : start + size]
        count_B = np.where(ids_B >= 0, 32 >> ids_B % 2, 0).astype(np.float32)
        nll_B = count_B * (loss + ids_B).astype(np.float32)
        yield {"ids": ids_B}, (jnp.asarray(nll_B), jnp.asarray(count_B))


def never():
    raise AssertionError("this should not have been computed")
    yield


def texts(of):
    return [(of.folder / name).read_text() for name in ("probes.csv", "rates.csv")]


def test_probes_are_spread_over_the_domains(nine, blocks, tmp_path):
    """Catches: the first blocks of the corpus; a domain left out; probes that depend on the run."""
    assert np.bincount(blocks.domain_N[nine.ids]).tolist() == [3, 3, 3]
    for domain in range(3):
        of_domain = np.flatnonzero(blocks.domain_N == domain)
        assert of_domain[[0, -1]].tolist() == nine.ids[3 * domain : 3 * domain + 3 : 2].tolist()
    other = Probes(tmp_path, blocks, 9, schedule.uniform(3).phases)
    assert other.ids.tolist() == nine.ids.tolist()
    assert len(Probes(tmp_path, blocks, 10**6, PHASES).ids) == blocks.num_blocks


def test_losses_are_means_with_the_phase_of_the_last_step(nine, blocks):
    """Catches: summed losses; rows of padding; on an edge, the phase to come; the tokens of another block."""
    for step in (0, 10, 12):
        nine.measure(step, measured(nine.ids, step))
    found = rows(nine.folder, "probes.csv")
    assert [int(row["step"]) for row in found] == [0] * 9 + [10] * 9 + [12] * 9
    assert [row["phase"] for row in found] == ["learn"] * 18 + ["focus"] * 9
    assert [int(row["block"]) for row in found] == nine.ids.tolist() * 3
    assert [row["domain"] for row in found] == [blocks.domains[i] for i in blocks.domain_N[nine.ids]] * 3
    assert [row["tokens"] for row in found] == ["16" if i % 2 else "32" for i in nine.ids] * 3
    assert [float(row["loss"]) for row in found] == [step + i for step in (0, 10, 12) for i in nine.ids]


def test_rates_are_relative_to_the_mean_over_all_blocks(nine, blocks):
    """Catches: the mean over the probes, or over the blocks drawn; the rate of another block."""
    rates_N = np.zeros(blocks.num_blocks, np.float32)
    rates_N[nine.ids[:4]], rates_N[1:3] = 3.0, 6.0
    nine.enter(PHASES[1], rates_N)
    found = rows(nine.folder, "rates.csv")
    assert {(row["step"], row["phase"], row["stop"]) for row in found} == {("10", "focus", "15")}
    assert [int(row["block"]) for row in found] == nine.ids.tolist()
    expected = rates_N[nine.ids] / rates_N.mean()
    np.testing.assert_allclose([float(row["rate"]) for row in found], expected, rtol=1e-6)


def test_nothing_is_measured_or_written_twice(nine):
    """On an edge probes are due with an evaluation and on entry. Catches: both, and after a resume a third time."""
    for phase in PHASES[:2]:
        nine.measure(phase.start, measured(nine.ids, 2.0))
        nine.enter(phase, np.ones(nine.blocks.num_blocks))
    before = texts(nine)
    again = Probes(nine.folder, nine.blocks, 9, PHASES)
    again.rewind(10)
    for found in (nine, again):
        found.measure(10, never())
        found.enter(PHASES[1], np.zeros(nine.blocks.num_blocks))
    assert texts(nine) == before


@pytest.mark.parametrize("lost", [1, 30, 100])
def test_what_a_kill_tore_is_written_again_whole(nine, lost):
    """Catches: a measurement of which only some probes are left, taken for complete."""
    nine.measure(0, measured(nine.ids, 3.0))
    nine.enter(PHASES[0], np.ones(nine.blocks.num_blocks))
    nine.measure(6, measured(nine.ids, 1.0))
    nine.measure(10, measured(nine.ids, 2.0))
    before = texts(nine)
    (nine.folder / "probes.csv").write_text(before[0][:-lost])
    again = Probes(nine.folder, nine.blocks, 9, PHASES)
    again.rewind(10)
    assert {row["step"] for row in rows(nine.folder, "probes.csv")} == {"0", "6"}
    again.measure(10, measured(nine.ids, 2.0))
    assert texts(nine) == before


def test_later_steps_are_dropped(nine):
    """Catches: rows of steps that the run will do again; rows of the checkpoint's own step lost."""
    nine.enter(PHASES[0], np.ones(nine.blocks.num_blocks))
    for step in (0, 6, 12):
        nine.measure(step, measured(nine.ids, 1.0))
    nine.rewind(6)
    assert [int(row["step"]) for row in rows(nine.folder, "probes.csv")] == [0] * 9 + [6] * 9
    nine.rewind(0)  # a run that begins again
    assert rows(nine.folder, "probes.csv") == []


def test_a_table_that_is_gone_is_missed(nine):
    """Catches: silence; a warning of phases that the run has still to enter."""
    for phase in PHASES[:2]:
        nine.enter(phase, np.ones(nine.blocks.num_blocks))
    with pytest.warns(
        UserWarning, match=r"probes.csv lacks rows of 1 of the steps up to 12, the first of them 10: it was"
    ):
        nine.rewind(12)


def test_an_evaluation_that_is_gone_is_missed(nine):
    """Catches: losses within a phase that nobody misses; rates missed that are written on entry of a phase alone."""
    nine.enter(PHASES[0], np.ones(nine.blocks.num_blocks))
    nine.measure(0, measured(nine.ids, 1.0))
    with pytest.warns(
        UserWarning, match=r"probes.csv lacks rows of 1 of the steps up to 6, the first of them 4: it was"
    ):
        nine.rewind(6, evaluated=[4])


def test_what_a_scoring_pass_has_measured_is_not_computed_again(nine, tmp_path):
    """Of all blocks, and of a sample. Catches: a second pass; losses of a block of the pass that is no probe; those of
    an earlier pass kept."""
    apart = Probes(tmp_path / "apart", nine.blocks, 9, PHASES)
    apart.rewind(0)
    passes = {10: np.arange(nine.blocks.num_blocks), 20: nine.ids[[1, 4, 8]], 22: nine.ids[:0]}
    for step, ids in passes.items():
        assert nine.missing(step).tolist() == nine.ids.tolist()
        for _ in nine.watch(measured(ids, step)):
            pass
        left = [i for i in nine.ids if i not in ids]
        assert nine.missing(step).tolist() == left
        nine.measure(step, measured(np.array(left, int), step))
        apart.measure(step, measured(apart.ids, step))
    assert texts(nine)[0] == texts(apart)[0]
    assert len(nine.missing(22)) == 0  # written already


@pytest.mark.parametrize("every, times", [(0, 2), (5, 3), (24, 2), (8, 4)])
def test_what_is_computed_beside_scoring_passes_is_known_before(nine, every, times):
    """Of 24 steps; passes at 10 and 20, an edge without one at 15. Catches: an evaluation at an edge counted twice; the
    end left out, or the beginning counted."""
    assert nine.num_computed(every) == 9 * times


def test_an_evaluation_leaves_the_probes_to_the_scoring_pass_that_follows(nine, recwarn):
    """A run may stop between the two. Catches: a warning then; silence if they are missing after the pass."""
    nine.enter(PHASES[0], np.ones(nine.blocks.num_blocks))
    assert nine.in_passes == {10, 20}
    nine.rewind(10, evaluated=[10])
    assert not recwarn.list
    nine.enter(PHASES[1], np.ones(nine.blocks.num_blocks))
    with pytest.warns(UserWarning, match=r"probes.csv lacks rows of 1 of the steps .* the first of them 10: it was"):
        nine.rewind(11, evaluated=[10])


@pytest.mark.slow
def test_a_run_looks_at_its_probes(finished, blocks, tmp_path):
    """Catches: an evaluation, an edge or the beginning left out; other parameters or rates than the run's."""
    _, path, result = finished
    losses, rates = rows(path / "scores", "probes.csv"), rows(path / "scores", "rates.csv")
    assert sorted({int(row["step"]) for row in losses}) == [6, 10, 12, 15, 18, 20, 24]
    assert len(losses) == 7 * 9 and len(rates) == 4 * 9
    load_run.write_scores(load_run.load(str(path)), "", tmp_path / "all.csv")
    with open(tmp_path / "all.csv", newline="") as file:
        next(file)
        loss_of = {row["block"]: float(row["loss"]) for row in csv.DictReader(file)}
    last = [row for row in losses if row["step"] == "24"]
    for row in last:
        assert float(row["loss"]) == pytest.approx(loss_of[row["block"]], rel=1e-5)
    kept_N = np.asarray(result.state.schedule.rate)
    focus2 = {int(row["block"]): float(row["rate"]) for row in rates if row["step"] == "20"}
    assert focus2 == {i: pytest.approx(kept_N[i] / kept_N.mean()) for i in focus2}
    assert all(float(row["rate"]) == 1 for row in rates if row["phase"] in ("learn", "review"))
