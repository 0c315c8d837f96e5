"""Whole runs of a tiny model: what they write and how they go on."""

import json
import zlib

import jax
import numpy as np
import pytest
from helpers import changed, rows, tiny
from running import stop_after

from lfr_jax import schedule
from lfr_jax.config import ScheduleConfig
from lfr_jax.data import score_files
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.packing import PackedBlocks
from lfr_jax.data.store import open_store
from lfr_jax.storage.checkpoint import Checkpointer
from lfr_jax.train import load_run, loop, score, start
from lfr_jax.train.loop import train

pytestmark = pytest.mark.apart


def test_a_run_writes_every_step_and_its_cost(finished, corpus_dir):
    """Catches: a lost or repeated row, a wrong phase at an edge, scoring that is not charged or charged twice."""
    config, path, result = finished
    found = rows(path)
    assert [int(row["step"]) for row in found] == list(range(1, 25))
    assert [row["phase"] for row in found] == ["learn"] * 10 + ["focus"] * 5 + ["review"] * 5 + ["focus2"] * 4
    num_blocks = Blocks(open_store(corpus_dir / "train"), 32).num_blocks
    forward = int(found[0]["flops"].split(".")[0]) / 3 / (8 * 32)
    scored = [0] * 10 + [1] * 10 + [2] * 4  # passes, before Focus and before Focus 2
    for row, passes in zip(found, scored):
        tokens = int(row["step"]) * 8 * 32
        assert int(row["tokens"]) == tokens
        assert float(row["flops"]) == pytest.approx(forward * (3 * tokens + passes * num_blocks * 32), rel=1e-9)
    summary = json.loads((path / "summary.json").read_text())
    assert summary == result.summary and summary["scored_tokens"] == 2 * num_blocks * 32
    assert float(found[-1]["loss"]) < float(found[0]["loss"]) - 0.5  # it learns
    evaluated = rows(path, "eval.csv")
    assert sorted({int(row["step"]) for row in evaluated}) == [6, 12, 18, 24]
    assert {row["domain"] for row in evaluated} == {"easy", "words", "hard", "all"}


def test_the_blocks_trained_on_are_the_plans(finished, corpus_dir):
    """Catches: a phase drawn with another phase's number, other rates, or shifted by a batch."""
    config, path, result = finished
    num_blocks = Blocks(open_store(corpus_dir / "train"), 32).num_blocks
    found = rows(path)
    for index, (first, last) in {0: (0, 10), 2: (15, 20)}.items():  # Learn and Review draw from all blocks
        ids = schedule.plan(np.ones(num_blocks), (last - first) * 8, config.train.seed, index)[:]
        expected = [f"{zlib.crc32(b.astype(np.int32).tobytes()):08x}" for b in ids.reshape(-1, 8)]
        assert [row["blocks"] for row in found[first:last]] == expected


def test_focus_drops_the_easy_blocks(finished, corpus_dir):
    """Catches: dropping the hardest, or another share. The text of domain `easy` repeats itself."""
    _, _, result = finished
    blocks = Blocks(open_store(corpus_dir / "train"), 32)
    kept = np.asarray(result.state.schedule.rate)
    assert kept.sum() == blocks.num_blocks - int(0.7 * blocks.num_blocks)
    share = {name: kept[blocks.domain_N == i].mean() for i, name in enumerate(blocks.domains)}
    assert share["hard"] > 0.5 > share["words"] and share["hard"] > share["easy"]


def test_a_finished_run_is_left_as_it_is(finished):
    """Catches: training on, or evaluating anew with other numbers, when nothing is left to do."""
    config, path, result = finished
    before = rows(path), rows(path, "eval.csv")
    again = train(config, quiet=True)
    assert (rows(path), rows(path, "eval.csv")) == before
    jax.tree.map(np.testing.assert_array_equal, again.state, result.state)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 7, 10, 15, 23])
def test_sigterm_saves_and_the_next_start_goes_on_exactly(finished, corpus_dir, tmp_path, monkeypatch, moment):
    """After steps 10 and 15 the run stops on an edge. Catches: a phase entered twice or never, a plan begun anew."""
    _, path, expected = finished
    config = tiny(tmp_path / "run", corpus_dir)
    stop_after(monkeypatch, config, moment)
    result = train(config, quiet=True)
    assert len(rows(tmp_path / "run")) == 24
    jax.tree.map(np.testing.assert_array_equal, result.state, expected.state)
    for name in ("metrics.csv", "eval.csv", "scores/probes.csv", "scores/rates.csv"):
        assert rows(tmp_path / "run", name) == rows(path, name)


@pytest.mark.slow
@pytest.mark.parametrize("scores", ["train", "detrended"])
def test_free_scores_need_no_pass(corpus_dir, tmp_path, scores):
    """Catches: a scoring pass that is run or charged although the training losses serve."""
    result = train(tiny(tmp_path / "run", corpus_dir, scores=scores), quiet=True)
    assert result.summary["scored_tokens"] == 0
    assert np.isfinite(np.asarray(result.state.schedule.measured.loss)).mean() > 0.2
    assert np.asarray(result.state.schedule.rate).mean() == pytest.approx(0.3, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["uniform", "random_drop"])
def test_other_policies_train(corpus_dir, tmp_path, policy):
    """Without probes. Catches: a policy that the trainer treats specially; a division by the number of probes."""
    config = changed(tiny(tmp_path / "run", corpus_dir, policy), train__probe_blocks=0)
    result = train(config, quiet=True)
    assert result.summary["scored_tokens"] == 0 and len(rows(tmp_path / "run")) == 24
    assert rows(tmp_path / "run" / "scores", "probes.csv") == rows(tmp_path / "run" / "scores", "rates.csv") == []


@pytest.mark.slow
def test_a_sample_is_scored_and_charged_and_the_run_goes_on_with_it(corpus_dir, tmp_path, monkeypatch):
    """With clusters, and losses of training mixed in. Catches: all blocks scored or charged; after a stop another
    sample, or other clusters; groups that a checkpoint loses."""
    config = tiny(tmp_path / "whole", corpus_dir, scores="mixed", unmeasured="cluster")
    config = changed(config, schedule__score_fraction=0.25, schedule__clusters=5)
    counts, real = [], score.observe_all
    monkeypatch.setattr(
        score, "observe_all", lambda *a: real(*a[:-1], (counts.append(batch) or batch for batch in a[-1]))
    )
    expected = train(config, quiet=True)
    quarter = -(-Blocks(open_store(corpus_dir / "train"), 32).num_blocks // 4)
    assert sum(int(np.sum(np.asarray(batch["ids"]) >= 0)) for batch, _ in counts) == 2 * quarter
    assert expected.summary["scored_tokens"] == 2 * quarter * 32
    stopped = changed(config, run_dir=str(tmp_path / "stopped"))
    stop_after(monkeypatch, stopped, 10)  # on the edge before the first pass
    result = train(stopped, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, result.state, expected.state)
    for name in ("metrics.csv", "scores/probes.csv", "scores/rates.csv"):
        assert rows(tmp_path / "stopped", name) == rows(tmp_path / "whole", name)


def whole_documents(config):
    """The config with packed documents that do not see one another, half of them rearranged."""
    config = changed(config, model__mask_documents=True, model__reset_positions=True)
    return changed(config, data__packing="best_fit", data__fim_rate=0.5)


@pytest.mark.slow
def test_packed_and_rearranged_documents_train_and_go_on(short_documents, tmp_path, monkeypatch):
    """Stopped within a phase. Catches: another packing, or other rows rearranged, after a stop; a loss that padding
    makes NaN; steps charged for text without padding."""
    config = whole_documents(tiny(tmp_path / "whole", short_documents))
    with pytest.warns(UserWarning, match="valid: 1 of 4 sources"):  # held-out text is concatenated
        expected = train(config, quiet=True)
        stopped = changed(config, run_dir=str(tmp_path / "stopped"))
        stop_after(monkeypatch, stopped, 12)
        result = train(stopped, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, result.state, expected.state)
    for name in ("metrics.csv", "scores/probes.csv", "scores/rates.csv"):
        assert rows(tmp_path / "stopped", name) == rows(tmp_path / "whole", name)
    losses = [float(row["loss"]) for row in rows(tmp_path / "whole")]
    assert np.isfinite(losses).all() and losses[-1] < losses[0] - 0.3
    blocks = PackedBlocks(open_store(short_documents / "train"), 32)
    assert expected.summary["scored_tokens"] == 2 * blocks.num_blocks * 32
    assert expected.summary["trained_tokens"] == 24 * 8 * 32


@pytest.mark.slow
def test_what_is_measured_is_plain_text(corpus_dir, tmp_path):
    """The learning rate is too small for any change. Catches: probes, scores or held-out text rearranged, or training
    text that is not."""
    found = {}
    for rate in (0.0, 1.0):
        config = tiny(tmp_path / str(rate), corpus_dir, learn=1, focus=1, review=1, focus2=1)
        config = changed(config, train__steps=4, optimizer__peak_lr=1e-30, optimizer__warmup_steps=1)
        state = train(changed(config, data__fim_rate=rate), quiet=True).state.schedule
        tables = ("scores/probes.csv", "eval.csv", "metrics.csv")
        found[rate] = [rows(tmp_path / str(rate), name) for name in tables], np.asarray(state.measured.loss)
    (probed, held_out, trained), losses_N = found[0.0]
    (probed_rearranged, held_out_rearranged, trained_rearranged), losses_rearranged_N = found[1.0]
    assert probed == probed_rearranged and held_out == held_out_rearranged
    np.testing.assert_array_equal(losses_N, losses_rearranged_N)
    assert trained[0]["blocks"] == trained_rearranged[0]["blocks"]
    assert trained[0]["loss"] != trained_rearranged[0]["loss"]


@pytest.mark.slow
def test_reference_losses_come_from_another_run(finished, corpus_dir, tmp_path, monkeypatch):
    """The file is gone by the time the run goes on. Catches: losses that do not reach the policy, or are read again."""
    file = tmp_path / "scores.csv"
    load_run.write_scores(load_run.load(str(finished[1])), "", file)
    ref_loss_N = score_files.read_scores(file, Blocks(open_store(corpus_dir / "train"), 32))
    rounds = ScheduleConfig("reducible", dict(first=8, later=8, rounds=2, keep=0.25), ref_scores=str(file))
    config = changed(tiny(tmp_path / "run", corpus_dir), schedule=rounds)
    stop_after(monkeypatch, config, 10)
    file.unlink()
    state = train(config, quiet=True).state.schedule
    np.testing.assert_array_equal(state.info["ref_loss"], ref_loss_N)
    kept_N = schedule.hardest(state.measured.loss - ref_loss_N, int(np.sum(state.rate)))
    np.testing.assert_array_equal(state.rate, kept_N)


class Watched:
    """What a step left on the devices: notes each look at it, and hands on what was asked for."""

    def __init__(self, value, look):
        self.value, self.look = value, look

    def __getattr__(self, name):
        self.look()
        return getattr(self.value, name)

    def __getitem__(self, key):
        self.look()
        return self.value[key]


@pytest.mark.slow
def test_between_two_readings_no_host_looks_at_a_device(corpus_dir, tmp_path, monkeypatch):
    """With the losses of training observed. Catches: a metric, or the schedule's state, that is read at every step."""
    compiled, now, looks = loop.compiled_off_the_clock, [0], {"state": set(), "metrics": set()}

    def watched(jitted, **options):
        step = compiled(jitted, **options)

        def watched_step(state, *rest):
            new, metrics = step(state.value if isinstance(state, Watched) else state, *rest)
            now[0] += 1
            return Watched(new, lambda: looks["state"].add(now[0])), Watched(
                metrics, lambda: looks["metrics"].add(now[0])
            )

        return watched_step if jitted.__name__ == "train_step" else step

    monkeypatch.setattr(loop, "compiled_off_the_clock", watched)
    monkeypatch.setattr(Checkpointer, "save", lambda self, state, meta: None)
    config = tiny(tmp_path / "run", corpus_dir, scores="train")
    train(changed(config, train__log_every=4, train__eval_every=0, train__checkpoint_every=0), quiet=True)
    assert looks["state"] == {10, 15, 20, 24}  # the edges, and the end
    assert looks["metrics"] == {5, 9, 10, 15, 20, 24}  # and whenever four wait besides the newest


@pytest.mark.slow
def test_worker_processes_change_nothing(finished, corpus_dir, tmp_path):
    """Catches: batches out of order across workers, or a phase served from the one before."""
    _, path, expected = finished
    result = train(changed(tiny(tmp_path / "run", corpus_dir), data__workers=1), quiet=True)
    assert rows(tmp_path / "run") == rows(path)
    jax.tree.map(np.testing.assert_array_equal, result.state, expected.state)


def test_a_checkpoint_that_does_not_say_what_was_spent_is_refused(finished):
    """As older releases left it. Catches: a KeyError; a run whose FLOPs begin anew in its middle."""
    with pytest.raises(ValueError, match="does not say what the run has cost so far: an older release wrote it"):
        start.check_meta({"fingerprint": "abc", "seconds": 1.0}, {"fingerprint": "abc"}, finished[0])
