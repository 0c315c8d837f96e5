"""A finished run, opened: it measures, scores and writes as its parameters say."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from helpers import changed

from lfr_jax.data import score_files
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import Bytes, train_sentencepiece
from lfr_jax.model import decoder
from lfr_jax.prepare.prepare import prepare_documents
from lfr_jax.prepare.text_source import Document
from lfr_jax.train import load_run, score
from lfr_jax.train.document_losses import by_domain
from lfr_jax.train.loss import block_nll


@pytest.fixture(scope="module")
def run(finished):  # noqa: F811
    _, path, _ = finished
    return load_run.load(str(path))


@pytest.fixture(scope="module")
def directly(run):
    """Blocks -> (nll_N, count_N) of all of them, from the scoring step on the run's own parameters alone."""
    step = jax.jit(lambda params, rows: block_nll(run.config.model, params, rows, Bytes.eos_id))

    def measure(blocks):
        rows = blocks.tokens(np.pad(np.arange(blocks.num_blocks), (0, -blocks.num_blocks % 512), constant_values=-1))
        with jax.set_mesh(run.mesh):
            rows = jax.device_put(rows, jax.sharding.NamedSharding(run.mesh, jax.P("data")))
            return [np.asarray(x, np.float64)[: blocks.num_blocks] for x in step(run.params, rows)]

    return measure


def evaluate(run, store="", blocks=0):
    """What `lfr evaluate` prints."""
    return by_domain(load_run.measure_documents(run, store, blocks))


def blocks_of(corpus_dir, side):
    return Blocks(open_store(corpus_dir / side), 32)


def test_the_newest_parameters_are_loaded(finished, run):  # noqa: F811
    """Catches: an older checkpoint; the initial parameters; one device where there are eight."""
    config, _, result = finished
    assert (run.config, run.step, run.tokenizer.kind) == (config, 24, "bytes")
    jax.tree.map(np.testing.assert_array_equal, run.params, result.state.params)
    assert run.mesh.size == 8 and jax.tree.leaves(run.params)[0].sharding.mesh == run.mesh


def test_loading_changes_nothing(finished):  # noqa: F811
    """Catches: a reader that locks, tidies up or rewrites a run that may be training."""
    _, path, _ = finished
    files = lambda: {p: p.stat().st_mtime_ns for p in path.rglob("*")}  # noqa: E731
    before = files()
    load_run.load(str(path))
    assert files() == before


def test_what_is_missing_is_said(finished, tmp_path):  # noqa: F811
    """Catches: a traceback about a file deep in the folder; a folder made by a reader."""
    _, path, _ = finished
    with pytest.raises(FileNotFoundError, match="no run in .*nowhere: .* name the folder of a run"):
        load_run.load(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    shutil.copytree(path, tmp_path / "early", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*early/checkpoints; train first"):
        load_run.load(str(tmp_path / "early"))
    assert not (tmp_path / "early" / "checkpoints").exists()


def test_evaluation_repeats_the_trainers_last_one(finished, run):  # noqa: F811
    """On 8 devices, of which training used 2. Catches: other blocks, parameters, or tokenizer than the trainer's."""
    config, path, result = finished
    measured = evaluate(run, blocks=config.train.eval_blocks)
    assert list(measured) == list(result.summary["held_out_loss"])
    for domain, loss in result.summary["held_out_loss"].items():
        assert measured[domain].loss == pytest.approx(loss, rel=1e-5)
    with open(path / "eval.csv", newline="") as file:
        last = {row["domain"]: int(row["tokens"]) for row in csv.DictReader(file)}
    assert {domain: loss.tokens for domain, loss in measured.items()} == last


def test_evaluation_of_all_blocks(run, directly, corpus_dir):
    """Catches: the training blocks measured; a default number of blocks; a batch that does not fit 8 devices."""
    blocks = blocks_of(corpus_dir, "valid")
    nll_N, count_N = directly(blocks)
    measured = evaluate(run)
    assert measured["all"].tokens == blocks.num_blocks * 32
    assert measured["all"].loss == pytest.approx(nll_N.sum() / count_N.sum(), rel=1e-6)
    odd = run._replace(config=changed(run.config, train__score_batch_size=0, train__batch_size=10))
    assert load_run.score_batch_size(odd) == 16
    assert evaluate(odd)["all"].loss == pytest.approx(measured["all"].loss, rel=1e-6)


def test_scores_are_those_of_the_scoring_step(run, directly, corpus_dir, tmp_path):
    """Catches: held-out blocks; summed losses; rows of padding; domains out of step; rounding; another fingerprint."""
    blocks = blocks_of(corpus_dir, "train")
    message = load_run.write_scores(run, "", tmp_path / "scores.csv")
    assert message == f"{blocks.num_blocks} blocks scored at step 24: {tmp_path / 'scores.csv'}"
    first, *table = (tmp_path / "scores.csv").read_text().splitlines()
    assert first == f"# store {blocks.store.fingerprint} seq_len 32 step 24"
    found = list(csv.DictReader(table))
    assert list(found[0]) == ["block", "domain", "loss"]
    assert [int(row["block"]) for row in found] == list(range(blocks.num_blocks))
    assert [row["domain"] for row in found] == [blocks.domains[i] for i in blocks.domain_N]
    nll_N, count_N = directly(blocks)
    np.testing.assert_allclose([float(row["loss"]) for row in found], nll_N / count_N, rtol=1e-5)
    assert max(len(row["loss"]) for row in found) >= 9  # all digits of a float32


def test_scores_are_what_a_schedule_reads(run, corpus_dir, tmp_path):
    """In blocks of another run's length. Catches: a file that its reader refuses; blocks of the run's own length."""
    blocks = Blocks(open_store(corpus_dir / "train"), 16)
    load_run.write_scores(run, "", tmp_path / "scores.csv", seq_len=16)
    loss_N = score_files.read_scores(tmp_path / "scores.csv", blocks)
    measured = score.losses(load_run.score_step(run), run.params, blocks, 64, run.mesh)
    with jax.set_mesh(run.mesh):
        for ids_B, nll_B, count_B in score.on_host(measured):
            np.testing.assert_array_equal(loss_N[ids_B], nll_B / count_B)
    with pytest.raises(ValueError, match="found blocks of 33 tokens, expected at most 32: model.max_len"):
        load_run.write_scores(run, "", tmp_path / "long.csv", seq_len=33)


def test_another_corpus_of_the_same_tokenizer(run, directly, tmp_path):
    """Catches: `store` ignored; a domain's name that breaks the table in two."""
    name = 'odd, "name"'
    texts = [Document(f"{i}", f"{i} words that are new here " * 9, name, "s") for i in range(9)]
    prepare_documents(tmp_path / "other", texts, Bytes(), valid_fraction=0.3)
    other = str(tmp_path / "other")
    assert list(evaluate(run, other)) == [name, "all"]
    nll_N, count_N = directly(blocks_of(tmp_path / "other", "valid"))
    assert evaluate(run, other)["all"].loss == pytest.approx(nll_N.sum() / count_N.sum(), rel=1e-6)
    load_run.write_scores(run, other, tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", newline="") as file:
        assert open_store(tmp_path / "other" / "train").fingerprint in file.readline()
        found = list(csv.DictReader(file))
    assert {row["domain"] for row in found} == {name}
    nll_N, count_N = directly(blocks_of(tmp_path / "other", "train"))
    np.testing.assert_allclose([float(row["loss"]) for row in found], nll_N / count_N, rtol=1e-5)


def test_a_corpus_of_another_tokenizer_is_refused(run, tmp_path):
    """Catches: numbers for ids that mean other text; a score file that is touched before the check."""
    texts = [Document(f"{i}", f"{i} words that are new here " * 9, "d", "s") for i in range(9)]
    pieces = train_sentencepiece((text.text for text in texts), vocab_size=280)
    prepare_documents(tmp_path / "other", texts, pieces, valid_fraction=0.3)
    old = "# store 0a seq_len 32 step 9\n"
    (tmp_path / "scores.csv").write_text(old)
    for ask in (
        lambda: evaluate(run, str(tmp_path / "other")),
        lambda: load_run.write_scores(run, str(tmp_path / "other"), tmp_path / "scores.csv"),
    ):
        with pytest.raises(ValueError, match="other were made by another tokenizer .* prepare the text again with"):
            ask()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "scores.csv"]
    assert (tmp_path / "scores.csv").read_text() == old


@pytest.mark.parametrize("masked", [False, True])
def test_without_temperature_the_likeliest_token_follows(run, masked):
    """Catches: a prompt without end-of-text before it, or with it where documents never saw it; other parameters; a
    cache out of step; a token too many."""
    run = run._replace(config=changed(run.config, model__mask_documents=masked))
    whole = jax.jit(
        lambda params, ids_T: (d := decoder.merge(run.config.model, params)).logits(d.hidden(ids_T)).argmax(-1)
    )
    before = [] if masked else [Bytes.eos_id]
    ids = [*before, *b"the cat"]
    with jax.set_mesh(run.mesh):
        for _ in range(8):
            best_T = whole(run.params, np.pad(np.array(ids), (0, 32 - len(ids)), constant_values=-1))
            ids.append(int(best_T[len(ids) - 1]))
    ids = ids[len(before) :]
    assert Bytes.eos_id not in ids  # or the text would end there
    text = load_run.generate(run, "the cat", tokens=8, temperature=0.0)
    assert text == Bytes().decode(ids) and len(text) == 7 + 8
    assert load_run.generate(run, "the cat", tokens=8, temperature=0.0, seed=5) == text


def test_a_text_needs_something_to_begin_with(run):
    """Catches: text from end-of-text by a model that never learned what follows it; no text where it was learned."""
    assert load_run.generate(run, "", tokens=4, temperature=0.0)
    masked = run._replace(config=changed(run.config, model__mask_documents=True))
    with pytest.raises(ValueError, match="found an empty prompt and model.mask_documents"):
        load_run.generate(masked, "", tokens=4, temperature=0.0)


def test_draws_follow_the_seed_and_the_settings(run):
    """Catches: a seed, temperature, top_k or top_p that does not reach the sampler; a forgotten prompt."""
    draw = lambda **options: load_run.generate(run, "the ", 12, **{"temperature": 1.0} | options)  # noqa: E731
    texts = [draw(seed=seed) for seed in range(3)]
    assert len(set(texts)) == 3 and draw(seed=1) == texts[1] and all(t.startswith("the ") for t in texts)
    likeliest = draw(temperature=0.0)
    assert draw(top_k=1) == draw(top_p=1e-6) == draw(temperature=1e-3) == likeliest not in texts


def test_text_ends_where_the_models_length_does(run):
    """Catches: a cache that overflows; a short answer for a prompt that leaves no room at all."""
    limit = run.config.model.max_len - 1  # end-of-text stands first
    assert 4 < len(load_run.generate(run, "the ", 10**6, temperature=0.0).encode()) <= limit
    assert len(load_run.generate(run, "a" * (limit - 1), 5, temperature=0.0)) == limit
    for prompt in ("a" * limit, "a" * 1000):
        with pytest.raises(ValueError, match=rf"found a prompt of {len(prompt) + 1} tokens .* model.max_len=32"):
            load_run.generate(run, prompt, 5, temperature=0.0)


def test_a_run_whose_settings_were_edited_is_refused(finished, tmp_path):  # noqa: F811
    """Catches: parameters poured into another shape; an unknown setting that is ignored."""
    _, path, _ = finished
    for name, change, error in [
        ("shape", {"dim": 32}, "is of another model.*params"),
        ("name", {"dimm": 32}, "unknown setting 'dimm'; did you mean 'dim'"),
    ]:
        shutil.copytree(path, tmp_path / name)
        settings = json.loads((tmp_path / name / "config.json").read_text())
        settings["model"] |= change
        (tmp_path / name / "config.json").write_text(json.dumps(settings))
        with pytest.raises(ValueError, match=error):
            load_run.load(str(tmp_path / name))
