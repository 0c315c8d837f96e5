"""From documents to stores: nothing lost, nothing on both sides, the same bytes each time."""

import hashlib
import random

import numpy as np
import pytest
from helpers import files, opened

from lfr_jax.data import tokenizer
from lfr_jax.data.store import Store
from lfr_jax.prepare import prepare, segments, text_source
from lfr_jax.prepare.assemble import Count
from lfr_jax.prepare.text_source import Document

WORDS = ["alpha", "beta", "gamma", "delta\n", "é"]


def documents(number=200, seed=0):
    """Documents of three domains, five sources, interleaved; texts all different."""
    rng = random.Random(seed)
    places = [("x", "x1"), ("x", "x2"), ("y", "y1"), ("z", "z1"), ("z", "x1")]
    return [
        Document(f"doc{i}", f"{i} " + " ".join(rng.choices(WORDS, k=rng.randrange(20))), *places[i % 5])
        for i in range(number)
    ]


def contents(store: Store) -> dict[tuple[str, str], list[str]]:
    """The texts of each (domain, source), read from the tokens between two document starts."""
    made = tokenizer.Bytes()
    found = {(source.domain, source.name): [] for source in store.sources}
    starts = store.doc_starts
    for start, stop in zip(starts, [*starts[1:], len(store.tokens)]):
        (source,) = [s for s in store.sources if s.first <= start < s.first + s.count]
        found[source.domain, source.name].append(made.decode(store.tokens[start:stop].tolist()))
        assert np.flatnonzero(store.tokens[start:stop] == made.eos_id).tolist() == [stop - start - 1]
    return found


def hash_of(document: Document) -> int:
    return int.from_bytes(hashlib.blake2b(document.id.encode(), digest_size=8).digest())


def test_every_document_lands_once_in_its_source(tmp_path):
    """Catches: a document lost, doubled, on both sides, in another source, or without its end-of-text."""
    made = documents()
    summary = prepare.prepare_documents(tmp_path / "out", made, tokenizer.Bytes(), valid_fraction=0.2)
    train, valid = map(contents, opened(tmp_path / "out"))
    for place in {(d.domain, d.source) for d in made}:
        texts = [d.text for d in made if (d.domain, d.source) == place]
        held = set(valid.get(place, []))
        assert train[place] == [text for text in texts if text not in held]  # in the order given
        assert valid.get(place, []) == [text for text in texts if text in held]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "prepared.json",
        "seen.npy",
        "tokenizer",
        "train",
        "valid",
    ]
    for side, store in zip(summary[:2], opened(tmp_path / "out")):
        store.verify()
        assert list(side) == list(store.domains) == ["x", "y", "z"]
        assert sum(count.tokens for count in side.values()) == len(store.tokens)
        assert sum(count.documents for count in side.values()) == len(store.doc_starts)
        assert store.tokenizer_digest == tokenizer.load_tokenizer(tmp_path / "out/tokenizer").digest
    assert "all" in str(summary) and f"{summary.train['y'].tokens:,}" in str(summary)


def test_the_split_follows_the_hash_of_the_id(tmp_path):
    """Catches: a split by position, by Python's seeded hash, or by another fraction."""
    made = documents()
    prepare.prepare_documents(tmp_path / "a", made, tokenizer.Bytes(), valid_fraction=0.2)
    prepare.prepare_documents(tmp_path / "b", made[::-1], tokenizer.Bytes(), valid_fraction=0.2)
    held = [{t for texts in contents(opened(tmp_path / n)[1]).values() for t in texts} for n in "ab"]
    assert held[0] == held[1] == {d.text for d in made if hash_of(d) / 2**64 < 0.2}
    assert 20 < len(held[0]) < 60


def test_equal_input_gives_equal_bytes_whatever_the_batches(tmp_path, monkeypatch):
    """Catches: an order from a set or from threads; a document lost where a batch, a piece or a copy ends."""
    made = documents() + [Document("long", "a long line\n" * 30 + "x" * 99, "y", "y1")]
    prepare.prepare_documents(tmp_path / "a", made, tokenizer.Bytes())
    prepare.prepare_documents(tmp_path / "b", made, tokenizer.Bytes())
    for module, name, size in ((segments, "BATCH_CHARS", 50), (text_source, "CHUNK_BYTES", 70)):
        monkeypatch.setattr(module, name, size)
    done = []
    prepare.prepare_documents(tmp_path / "c", iter(made), tokenizer.Bytes(), advance=done.append)
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")
    assert sum(done) == sum(len(d.text) for d in made) and len(done) > 50


def test_each_domain_is_on_both_sides(tmp_path):
    """Catches: a domain that is never evaluated, or never trained on, for want of luck."""
    made = documents(20)
    for fraction, name in ((1e-9, "few"), (1 - 1e-9, "many")):
        summary = prepare.prepare_documents(tmp_path / name, made, tokenizer.Bytes(), fraction)
        one, rest = (summary.valid, summary.train) if name == "few" else (summary.train, summary.valid)
        assert [one[domain].documents for domain in "xyz"] == [1, 1, 1]
        assert [rest[domain].documents for domain in "xyz"] == [7, 3, 7]
    held = contents(opened(tmp_path / "few")[1])
    lowest = min((d for d in made if d.domain == "x"), key=hash_of)
    assert held[lowest.domain, lowest.source] == [lowest.text]


def test_the_end_of_an_only_document_is_held_out(tmp_path):
    """Catches: a one-file corpus without validation, or validated on what it was trained on."""
    only = Document("d", "0123456789" * 10, "x", "s")
    summary = prepare.prepare_documents(tmp_path / "out", [only], tokenizer.Bytes(), 0.1)
    train, valid = opened(tmp_path / "out")
    assert bytes(train.tokens.tolist()) == b"0123456789" * 9 + b"0"
    assert valid.tokens.tolist() == [*b"123456789", 256]
    assert (summary.train["x"], summary.valid["x"]) == (Count(1, 91), Count(1, 10))


def test_duplicate_texts_are_left_out(tmp_path):
    """Catches: a text in training that is also held out, under another id."""
    made = documents(50)
    twice = made + [d._replace(id=f"again {d.id}", source="x2") for d in made]
    assert prepare.prepare_documents(tmp_path / "b", twice, tokenizer.Bytes()).duplicates == 50
    assert prepare.prepare_documents(tmp_path / "a", made, tokenizer.Bytes()).duplicates == 0
    stores = [{name: raw for name, raw in files(tmp_path / n).items() if "prepared" not in name} for n in "ab"]
    assert stores[0] == stores[1]


class TooSmall(tokenizer.Bytes):
    """Says that it knows 100 tokens, and gives ids that two bytes would wrap into that range."""

    vocab_size, eos_id = 100, 99

    def _encode_batch(self, texts, threads):
        return [[65_536 + i % 50 for i in text.encode()] for text in texts]


def test_bad_input_leaves_nothing(tmp_path):
    """Catches: ids wrapped by a narrow type; an unfinished folder left behind; a domain with which no store opens."""

    def broken():
        yield from documents(30)
        raise ValueError("x.jsonl, line 31")

    for given, made, fraction, message in [
        (broken(), tokenizer.Bytes(), 0.1, "line 31"),
        ([], tokenizer.Bytes(), 0.1, "no documents"),
        (documents(), TooSmall(), 0.1, "expected 0 to 99: vocab_size=100"),
        ([Document("half\ud800", "a", "x", "s")], tokenizer.Bytes(), 0.1, "document 'half.*not Unicode"),
        ([Document("h", "a", "x\ud800", "s")], tokenizer.Bytes(), 0.1, "document 'h': found domain that"),
        (documents(), tokenizer.Bytes(), 0.0, "valid_fraction is 0.0"),
        (documents(), tokenizer.Bytes(), 1.0, "valid_fraction is 1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare.prepare_documents(tmp_path / "out", given, made, fraction)
    assert list(tmp_path.iterdir()) == []


def test_what_gives_no_token_is_blank(tmp_path):
    """Catches: an only document of no token but its end, cut into one of a token and one of none; a source of none."""
    pieces = tokenizer.train_sentencepiece(["some words " * 50], 270)
    pieces.encode_batch = lambda texts, threads=None: [list(map(ord, text.replace("\u200b", ""))) for text in texts]
    made = [Document("empty", "\u200b", "x", "s"), Document("d", "words", "y", "s"), Document("e", "\u200b", "y", "t")]
    summary = prepare.prepare_documents(tmp_path / "out", made, pieces)
    assert summary.blank == 2 and list(summary.train) == ["y"]
    for store in opened(tmp_path / "out"):
        assert [source.name for source in store.sources] == ["s"] and all(source.count for source in store.sources)
        assert np.all(np.diff([*store.doc_starts, len(store.tokens)]) > 0)
