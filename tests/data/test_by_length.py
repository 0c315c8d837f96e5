"""Whole runs on blocks of several lengths: preempted and resumed, scored, stratified, charged."""

import re

import jax
import numpy as np
import pytest
from helpers import changed, rows, tiny
from running import stop_after, train_in_processes

from lfr_jax import cli
from lfr_jax.data import clusters, pipeline, score_files
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.lengths import LengthBlocks
from lfr_jax.data.packing import PackedBlocks
from lfr_jax.data.tokenizer import Bytes
from lfr_jax.distributed.mesh import Shards
from lfr_jax.train import load_run
from lfr_jax.train.loop import train
from lfr_jax.train.loss import block_nll
from lfr_jax.train.track.recorder import Recorder

pytestmark = pytest.mark.filterwarnings("ignore:.*sources have no")  # as some domains of `short_documents`

FILES = ("metrics.csv", "eval.csv", "scores/probes.csv", "scores/rates.csv")


def by_length(run_dir, corpus_dir, **changes):
    """Blocks of 32 and 16 tokens, under LFR within each length."""
    data = dict(data__packing="by_length", data__shortest=16, data__curriculum="grow_p2", data__cycles=2)
    return changed(tiny(run_dir, corpus_dir), schedule__stratify="length", train__probe_blocks=80, **data | changes)


@pytest.fixture(scope="module")
def drawn():
    """The ids of each batch that `ran` was trained on."""
    return []


@pytest.fixture(scope="module")
def ran(tmp_path_factory, short_documents, drawn):
    """An uninterrupted run: (its config, its folder, its result)."""
    folder = tmp_path_factory.mktemp("by_length") / "run"
    config, add = by_length(folder, short_documents), Recorder.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "add", lambda self, step: drawn.append(step.ids_B) or add(self, step))
        return config, folder, train(config, quiet=True)


@pytest.fixture(scope="module")
def blocks(short_documents):
    return open_corpus(by_length("", short_documents).data).train


@pytest.mark.slow
def test_every_step_has_as_many_tokens(ran, blocks):
    """Catches: tokens counted by rows; a pass over short blocks charged as many tokens as one over long ones."""
    _, folder, result = ran
    found = rows(folder)
    assert [int(row["tokens"]) for row in found] == [256 * step for step in range(1, 25)]
    assert blocks.lengths == (32, 16) and set(blocks.bucket_N) == {0, 1}
    assert result.summary["scored_tokens"] == 2 * blocks.num_tokens < 2 * 32 * blocks.num_blocks
    assert float(found[-1]["loss"]) < float(found[0]["loss"]) - 0.3  # it learns


@pytest.mark.slow
def test_every_block_is_charged_at_its_length(ran, drawn, blocks):
    """Counted block by block. Catches: short blocks charged as long ones; a pass charged to a phase that makes none, or
    to a step before or after; in what is known of a finished run, an expectation."""
    _, folder, result = ran
    # By hand: four projections, three MLP matrices, scores and their products with values; the head.
    length_N = np.array(blocks.lengths)[blocks.bucket_N].tolist()
    cost_N = [T * 2 * (4 * 16 * 16 + 3 * 16 * 32 + 2 * T * 16 + 16 * 264) for T in length_N]
    spent = 0
    for row, ids in zip(rows(folder), drawn, strict=True):
        spent += sum(cost_N) if int(row["step"]) in (11, 21) else 0  # the first of Focus and of Focus 2
        spent += 3 * sum(cost_N[block] for block in ids)
        assert int(row["flops"]) == spent
    assert result.summary["flops"] == spent
    assert len({len(ids) for ids in drawn}) == 2


@pytest.mark.slow
def test_held_out_text_is_measured_as_in_any_run(ran, short_documents, tmp_path):
    """Catches: a loss on decomposed documents, which would not compare with that of other packings."""
    config, folder, _ = ran
    concatenated = open_corpus(tiny("", short_documents).data).valid
    corpus = open_corpus(config.data)
    assert isinstance(corpus.train, LengthBlocks) and type(corpus.valid) is Blocks
    tokens = {row["domain"]: int(row["tokens"]) for row in rows(folder, "eval.csv")}
    assert tokens["a"] == 32 * min(8, np.sum(concatenated.domain_N == concatenated.domains.index("a")))


@pytest.mark.slow
@pytest.mark.parametrize("moment", [7, 10])
def test_sigterm_saves_and_the_next_start_goes_on_exactly(ran, tmp_path, monkeypatch, moment):
    """Stopped within a phase, and on an edge. Catches: an order of lengths, or draws of one, that begin anew."""
    config, folder, expected = ran
    stopped = changed(config, run_dir=str(tmp_path / "run"))
    stop_after(monkeypatch, stopped, moment)
    result = train(stopped, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, result.state, expected.state)
    for name in FILES:
        assert rows(tmp_path / "run", name) == rows(folder, name)


@pytest.mark.slow
def test_two_processes_train_as_one_does(ran, tmp_path):
    """In all tables, to the last digit. Catches: rows of another length than those of the other process; batches in
    another order; losses of the rows of one process alone, or what they cost."""
    config, folder, _ = ran
    results = train_in_processes(changed(config, run_dir=str(tmp_path / "run")), 2, tmp_path)
    assert [code for code, _, _ in results] == [0, 0], "\n".join(error for _, _, error in results)
    for name in FILES:
        assert rows(tmp_path / "run", name) == rows(folder, name)


@pytest.mark.slow
@pytest.mark.parametrize("name, value", [("shortest", 8), ("curriculum", "uniform"), ("cycles", 1)])
def test_how_blocks_are_cut_and_ordered_may_not_change(ran, name, value):
    """Catches: a run that goes on with other blocks under the same ids, or in another order."""
    config, _, _ = ran
    with pytest.raises(ValueError, match=f"data.{name}: .* when it began, now {value!r}"):
        train(changed(config, **{f"data__{name}": value}), quiet=True)


@pytest.mark.slow
def test_each_length_keeps_its_share_of_what_is_hard(ran, blocks):
    """Catches: short blocks kept because all of them look hard; lengths that the schedule is not told of."""
    _, _, result = ran
    assert len(result.state.schedule.inner) == 2
    for bucket, inner in enumerate(result.state.schedule.inner):
        size = np.sum(blocks.bucket_N == bucket)
        assert np.asarray(inner.rate).sum() == size - int(0.7 * size)


def test_stratifying_needs_lengths(short_documents, tmp_path):
    """Catches: blocks of one length taken for strata in silence."""
    config = changed(by_length(tmp_path, short_documents), data__packing="concatenate", data__curriculum="uniform")
    with pytest.raises(ValueError, match="needs BlockInfo.length, .*: --data.packing by_length"):
        train(config, quiet=True)


def directly(run, blocks):
    """f64[N]: the mean NLL of each block, all of a length in one batch."""
    loss_N = np.empty(blocks.num_blocks)
    for _, some in blocks.by_length(np.arange(blocks.num_blocks)):
        tokens = blocks.tokens(np.pad(some, (0, -len(some) % 8), constant_values=-1))
        with jax.set_mesh(run.mesh):
            tokens = jax.device_put(tokens, jax.sharding.NamedSharding(run.mesh, jax.P("data")))
            nll, count = block_nll(run.config.model, run.params, tokens, Bytes.eos_id)
            loss_N[some] = (np.asarray(nll) / np.maximum(count, 1))[: len(some)]
    return loss_N


@pytest.mark.slow
def test_scores_are_those_of_each_block_alone(ran, blocks, tmp_path, short_documents):
    """Written, and read back. Catches: losses in the order in which they are measured; blocks of a length left out;
    rows of padding; scores of concatenated blocks, or of other lengths, taken for these."""
    run, file = load_run.load(str(ran[1])), tmp_path / "scores.csv"
    load_run.write_scores(run, "", file)
    expected_N = directly(run, blocks)
    assert np.std(expected_N) > 0.01
    np.testing.assert_allclose(score_files.read_scores(file, blocks), expected_N, rtol=1e-4)
    assert file.read_text().splitlines()[0].endswith(" seq_len 32 packing by_length shortest 16 step 24")
    for other in (Blocks(blocks.store, 32), LengthBlocks(blocks.store, 16, 16)):
        with pytest.raises(ValueError, match="found losses of the store .* in blocks of seq_len 32 packing by_length"):
            score_files.read_scores(file, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cut",
    [lambda store: Blocks(store, 32), lambda store: PackedBlocks(store, 32), lambda store: LengthBlocks(store, 16, 8)],
    ids=["concatenate", "best_fit", "by_length"],
)
def test_the_command_for_scores_of_another_cut_makes_them(ran, blocks, cut, tmp_path, monkeypatch, capsys):
    """By a run with a packing of its own. Catches: a command that leaves the packing, or a length, to the run; options
    of `lfr score` that are dropped."""
    cut, file = cut(blocks.store), tmp_path / "scores.csv"
    with pytest.raises(FileNotFoundError) as refused:
        score_files.read_scores(file, cut)
    command = re.search("write it with `(.*)`", str(refused.value))[1]
    monkeypatch.setattr("sys.argv", command.replace("RUN", str(ran[1])).split())
    cli.main()
    assert f"{cut.num_blocks} blocks scored" in capsys.readouterr().out
    assert np.isfinite(score_files.read_scores(file, cut)).all()


@pytest.mark.slow
def test_probes_stand_in_the_order_of_their_rates(ran, blocks):
    """Catches: losses by length beside rates by id, which a report would take for one another's."""
    config, folder, _ = ran
    losses, rates = rows(folder, "scores/probes.csv"), rows(folder, "scores/rates.csv")
    count = len({row["block"] for row in rates})
    assert len(set(blocks.bucket_N[[int(row["block"]) for row in rates]])) > 1
    for start in range(0, len(losses), count):
        assert [row["block"] for row in losses[start : start + count]] == [row["block"] for row in rates[:count]]


def test_scoring_batches_have_about_as_many_tokens(blocks, scorer):
    """Catches: batches of as many rows, whatever the length; a block left out or read twice."""
    blocks = LengthBlocks(blocks.store, 32, 8)
    chosen = np.random.default_rng(0).permutation(blocks.num_blocks)[:70]
    found = scorer.losses(blocks, 4, ids=chosen)
    assert {batch["tokens"].shape for batch, _ in found} == {(4, 33), (8, 17), (16, 9)}
    ids = np.concatenate([batch["ids"] for batch, _ in found])
    assert sorted(ids[ids >= 0]) == sorted(chosen)
    assert all(np.all((count > 0) == (batch["ids"] >= 0)) for batch, (_, count) in found)
    assert scorer.losses(blocks, 4, ids=np.zeros(0, int)) == []


@pytest.mark.parametrize("packing", ["by_length", "best_fit"])
@pytest.mark.parametrize("of", [1, 2, 4])
def test_processes_read_their_rows_of_each_batch(short_documents, packing, of):
    """Also where all of them are padding. Catches: padding of another length than the rest of the batch."""
    blocks = open_corpus(changed(by_length("", short_documents), data__packing=packing).data).train
    _, some = blocks.by_length(np.arange(blocks.num_blocks))[-1]
    wanted = pipeline.Batched(np.arange(blocks.num_blocks)[some][:9], 8)  # the last batch has one block
    for index in range(2):
        whole = blocks.tokens(wanted[index])
        parts = [pipeline.BatchSource(wanted, blocks, Shards((number,), of))[index] for number in range(of)]
        np.testing.assert_array_equal(np.concatenate([part["tokens"] for part in parts]), whole)
        assert all(np.array_equal(part["ids"], wanted[index]) for part in parts)


def test_clusters_are_made_of_blocks_of_all_lengths(blocks):
    """Catches: rows of several lengths read together; counts divided by the longest length."""
    cluster_N = clusters.cluster_blocks(blocks, 3, seed=0)
    assert len(cluster_N) == blocks.num_blocks and len(set(cluster_N)) == 3
    ids = np.arange(blocks.num_blocks)
    projection = np.eye(clusters.BUCKETS, clusters.WIDTH, dtype=np.float32)
    points = clusters.points(blocks, ids, projection)
    for length, some in blocks.by_length(ids):
        tokens = blocks.tokens(some[:1])[0, :-1]
        counts = np.bincount(tokens % clusters.BUCKETS, minlength=clusters.BUCKETS)[: clusters.WIDTH]
        np.testing.assert_allclose(points[some[0]], np.sqrt(counts / length), rtol=1e-6)
