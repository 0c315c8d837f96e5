"""Held-out losses by document: each token counts for the document that it is in."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SCORED, documents, write_side

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.document_loss_files import DocumentLosses
from lfr_jax.data.halves import halves
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import Bytes, Ids, train_sentencepiece
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.prepare.prepare import prepare_documents
from lfr_jax.train import evaluate
from lfr_jax.train.document_losses import by_domain, make_target_step, measure

END = 256
SOURCES = [
    ("s", "a", [[1, 2, 3, END], [4, END], [5, 6, 7, 8, 9, END]]),
    ("short", "b", [[10, END]]),
    ("t", "a", [[11, 12, END], [13, 14, 15]]),
]


@jax.jit
def ids_as_losses(params, tokens_BxT1):
    """A step that finds each target as hard as its id says; after end-of-text there is no target if `params`."""
    inputs, targets = tokens_BxT1[:, :-1], tokens_BxT1[:, 1:]
    targets = jnp.where(params & (inputs == END), -1, targets)
    return jnp.where(targets >= 0, targets.astype(jnp.float32), 0.0), targets


def measured(store, seq_len, batch_size=8, masked=False, tokenizer=None, mesh=None, **options) -> DocumentLosses:
    mesh = mesh or make_mesh(2, 1, 1)
    blocks = Blocks(store, seq_len)
    with jax.set_mesh(mesh):
        return measure(ids_as_losses, masked, blocks, tokenizer or Bytes(), batch_size, mesh, **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_side(tmp_path_factory.mktemp("store") / "valid", SOURCES)


def test_losses_by_hand(store):
    """The targets of blocks of 4: 2 3 END 4 and END 5 6 7 of the first source, none of the second, 12 END 13 14 of the
    third. Catches: a loss that is counted for the document of the input; end-of-text counted for the next document, or
    as a byte; a short source that shifts what follows."""
    found = measured(store, 4)
    assert found.tokens.tolist() == [3, 2, 3, 0, 2, 2]
    assert found.nll.tolist() == [2 + 3 + END, 4 + END, 5 + 6 + 7, 0, 12 + END, 13 + 14]
    assert found.bytes.tolist() == [2, 1, 3, 0, 1, 2]
    assert found.domain.tolist() == ["a", "a", "a", "b", "a", "a"]
    assert found.half.tolist() == halves(store).tolist()
    assert found.left_out == store.card.tokens - 12 == 8


def test_what_is_no_target_is_no_token(store):
    """With document masks. Catches: bytes or tokens of what was not measured; every position counted as a target."""
    found = measured(store, 1, masked=True)
    assert found.tokens.tolist() == [3, 1, 5, 1, 2, 2]
    assert found.bytes.tolist() == [2, 0, 4, 0, 1, 2]
    assert found.nll.tolist() == [2 + 3 + END, END, 6 + 7 + 8 + 9 + END, END, 12 + END, 14 + 15]


@pytest.mark.parametrize("seq_len, batch_size", [(1, 2), (1, 16), (2, 4), (5, 2)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 1), (8, 1, 1)])
def test_every_batch_and_mesh_gives_the_same_sums(store, seq_len, batch_size, shape):
    """Catches: rows of padding counted; the losses of one device alone."""
    mesh = make_mesh(*shape)
    batch_size *= 8
    found, expected = measured(store, seq_len, batch_size, mesh=mesh), measured(store, seq_len)
    for name in ("tokens", "bytes", "nll"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.tokens.sum() + found.left_out == store.card.tokens


def test_some_blocks(store):
    """Catches: `ids` ignored; the number of all blocks in what is left out."""
    done = []
    found = measured(store, 4, ids=np.array([0, 2]), advance=done.append)
    assert found.tokens.tolist() == [3, 1, 0, 0, 2, 2] and found.left_out == 20 - 8 and sum(done) == 2


def test_a_loss_that_is_nan_is_a_loss(store):
    """Catches: documents of a model that has diverged left out, as if nothing had been measured of them."""
    mesh = make_mesh(1, 1, 1)
    with jax.set_mesh(mesh):
        step = jax.jit(lambda params, tokens: (jnp.full(tokens[:, 1:].shape, jnp.nan), tokens[:, 1:]))
        found = measure(step, None, Blocks(store, 4), Bytes(), 8, mesh)
    assert found.tokens.tolist() == [3, 2, 3, 0, 2, 2]
    assert np.isnan(found.nll).tolist() == [True, True, True, False, True, True]


def texts():
    """Documents in several scripts, with characters of one to four bytes."""
    for number, document in enumerate(documents(6)):
        yield document._replace(text=f"{document.text[: 20 + 5 * number]}é 日本 {'😀' * (number % 3)}\n")


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "ids"])
def test_bytes_are_those_of_the_text(tmp_path, kind):
    """Every token but the first of a source is measured. Catches: characters, or tokens, counted for bytes; bytes of
    ids that stand for no known text."""
    written = list(texts())
    tokenizer = train_sentencepiece((d.text for d in written), 400) if kind == "sentencepiece" else Bytes()
    prepare_documents(tmp_path / "data", written, tokenizer, valid_fraction=0.5)
    store = open_store(tmp_path / "data" / "valid")
    known = Ids(tokenizer.vocab_size, tokenizer.eos_id) if kind == "ids" else tokenizer
    found = measured(store, 1, 64, tokenizer=known)
    if kind == "ids":
        assert found.bytes is None and by_domain(found)["all"].bits_per_byte is None
        return
    edges = [*store.doc_starts.tolist(), store.card.tokens]
    decoded = [tokenizer.decode(store.tokens[a : b - 1]) for a, b in zip(edges, edges[1:])]
    assert set(decoded) < {document.text for document in written}
    lengths = np.array([len(text.encode()) for text in decoded])
    firsts = np.isin(store.doc_starts, [source.first for source in store.sources])
    assert not firsts.all()
    np.testing.assert_array_equal(found.bytes[~firsts], lengths[~firsts])
    assert np.all(found.bytes[firsts] < lengths[firsts])
    bits = by_domain(found)["all"].bits_per_byte
    assert bits == pytest.approx(found.nll.sum() / found.bytes.sum() / math.log(2))


@pytest.mark.parametrize("batch_size", [16, 64])
def test_sums_over_documents_are_the_losses_of_domains(scorer, batch_size):
    """Under document masks. Catches: targets, or a loss, other than those of evaluation in training; a token counted
    twice or not at all; a document in another document's domain."""
    with jax.set_mesh(scorer.mesh):
        step = make_target_step(SCORED, Bytes.eos_id)
        found = measure(step, scorer.params, scorer.valid, Bytes(), batch_size, scorer.mesh)
        expected = evaluate.held_out_loss(scorer.step, scorer.params, scorer.valid, 10**6, batch_size, scorer.mesh)
    losses = by_domain(found)
    assert list(losses) == list(expected)
    for name, loss in expected.items():
        assert losses[name].tokens == loss.tokens
        assert losses[name].loss == pytest.approx(loss.loss, rel=1e-6)
    assert "d" in found.domain and "d" not in losses  # none of its documents is measured
    parts = [by_domain(found, half)["all"] for half in ("choose", "report")]
    assert sum(part.tokens for part in parts) == losses["all"].tokens
    total = sum(part.loss * part.tokens for part in parts)
    assert total == pytest.approx(losses["all"].loss * losses["all"].tokens)
    assert abs(parts[0].loss - parts[1].loss) > 1e-3  # the halves differ: neither is the whole


def test_domains_and_their_total(store):
    """Catches: a domain called "all" that replaces the total; means of documents' means; a half without documents,
    for which there is no loss, reported as 0."""
    made = DocumentLosses(
        np.array(["all", "x", "all"]), np.array(["report"] * 3), np.array([1, 3, 4]), np.array([2, 0, 8]),
        np.array([1.0, 6.0, 2.0]), 0,
    )  # fmt: skip
    losses = by_domain(made, "report")
    assert losses == by_domain(made)
    assert {name: (loss.loss, loss.tokens) for name, loss in losses.items()} == {
        "all (domain)": (3 / 5, 5), "x": (2.0, 3), "all": (9 / 8, 8)
    }  # fmt: skip
    assert losses["x"].bits_per_byte is None and losses["all"].bits_per_byte == pytest.approx(0.9 / math.log(2))
    with pytest.raises(ValueError, match="found no held-out document that was measured .half: choose."):
        by_domain(made, "choose")
