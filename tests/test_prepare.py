"""From documents to stores: nothing lost, nothing on both sides, the same bytes each time."""

import errno
import hashlib
import json
import pathlib
import random
import tracemalloc

import numpy as np
import pytest
import tyro

from lfr_jax import blocks, corpus, prepare, segments, spool, text_files, tokenizer
from lfr_jax.assemble import Count
from lfr_jax.corpus import Document

WORDS = ["alpha", "beta", "gamma", "delta\n", "é"]


def documents(number=200, seed=0):
    """Documents of three domains, five sources, interleaved; texts all different."""
    rng = random.Random(seed)
    places = [("x", "x1"), ("x", "x2"), ("y", "y1"), ("z", "z1"), ("z", "x1")]
    return [
        Document(f"doc{i}", f"{i} " + " ".join(rng.choices(WORDS, k=rng.randrange(20))), *places[i % 5])
        for i in range(number)
    ]


def contents(store: blocks.Store) -> dict[tuple[str, str], list[str]]:
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


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def opened(folder):
    return blocks.open_store(folder / "train"), blocks.open_store(folder / "valid")


def test_every_document_lands_once_in_its_source(tmp_path):
    """Catches: a document lost, doubled, on both sides, in another source, or without its end-of-text."""
    made = documents()
    summary = prepare.prepare(tmp_path / "out", made, tokenizer.Bytes(), valid_fraction=0.2)
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
        assert store.tokenizer_digest == tokenizer.load(tmp_path / "out/tokenizer").digest
    assert "all" in str(summary) and f"{summary.train['y'].tokens:,}" in str(summary)


def test_the_split_follows_the_hash_of_the_id(tmp_path):
    """Catches: a split by position, by Python's seeded hash, or by another fraction."""
    made = documents()
    prepare.prepare(tmp_path / "a", made, tokenizer.Bytes(), valid_fraction=0.2)
    prepare.prepare(tmp_path / "b", made[::-1], tokenizer.Bytes(), valid_fraction=0.2)
    held = [{t for texts in contents(opened(tmp_path / n)[1]).values() for t in texts} for n in "ab"]
    assert held[0] == held[1] == {d.text for d in made if hash_of(d) / 2**64 < 0.2}
    assert 20 < len(held[0]) < 60


def test_equal_input_gives_equal_bytes_whatever_the_batches(tmp_path, monkeypatch):
    """Catches: an order from a set or from threads; a document lost where a batch, a piece or a copy ends."""
    made = documents() + [Document("long", "a long line\n" * 30 + "x" * 99, "y", "y1")]
    prepare.prepare(tmp_path / "a", made, tokenizer.Bytes())
    prepare.prepare(tmp_path / "b", made, tokenizer.Bytes())
    for module, name, size in ((segments, "BATCH_CHARS", 50), (corpus, "CHUNK_BYTES", 70)):
        monkeypatch.setattr(module, name, size)
    done = []
    prepare.prepare(tmp_path / "c", iter(made), tokenizer.Bytes(), advance=done.append)
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")
    assert sum(done) == sum(len(d.text) for d in made) and len(done) > 50


def test_each_domain_is_on_both_sides(tmp_path):
    """Catches: a domain that is never evaluated, or never trained on, for want of luck."""
    made = documents(20)
    for fraction, name in ((1e-9, "few"), (1 - 1e-9, "many")):
        summary = prepare.prepare(tmp_path / name, made, tokenizer.Bytes(), fraction)
        one, rest = (summary.valid, summary.train) if name == "few" else (summary.train, summary.valid)
        assert [one[domain].documents for domain in "xyz"] == [1, 1, 1]
        assert [rest[domain].documents for domain in "xyz"] == [7, 3, 7]
    held = contents(opened(tmp_path / "few")[1])
    lowest = min((d for d in made if d.domain == "x"), key=hash_of)
    assert held[lowest.domain, lowest.source] == [lowest.text]


def test_the_end_of_an_only_document_is_held_out(tmp_path):
    """Catches: a one-file corpus without validation, or validated on what it was trained on."""
    only = Document("d", "0123456789" * 10, "x", "s")
    summary = prepare.prepare(tmp_path / "out", [only], tokenizer.Bytes(), 0.1)
    train, valid = opened(tmp_path / "out")
    assert bytes(train.tokens.tolist()) == b"0123456789" * 9 + b"0"
    assert valid.tokens.tolist() == [*b"123456789", 256]
    assert (summary.train["x"], summary.valid["x"]) == (Count(1, 91), Count(1, 10))


def test_duplicate_texts_are_left_out(tmp_path):
    """Catches: a text in training that is also held out, under another id."""
    made = documents(50)
    twice = made + [d._replace(id=f"again {d.id}", source="x2") for d in made]
    assert prepare.prepare(tmp_path / "b", twice, tokenizer.Bytes()).duplicates == 50
    assert prepare.prepare(tmp_path / "a", made, tokenizer.Bytes()).duplicates == 0
    stores = [{name: raw for name, raw in files(tmp_path / n).items() if "prepared" not in name} for n in "ab"]
    assert stores[0] == stores[1]


class TooSmall(tokenizer.Bytes):
    """Says that it knows 100 tokens, and gives ids that two bytes would wrap into that range."""

    vocab_size, eos_id = 100, 99

    def encode_batch(self, texts, threads=None):
        return [[65_536 + i % 50 for i in self.encode(text)] for text in texts]


def test_bad_input_leaves_nothing(tmp_path):
    """Catches: ids wrapped by a narrow type; an unfinished folder left behind."""

    def broken():
        yield from documents(30)
        raise ValueError("x.jsonl, line 31")

    for given, made, fraction, message in [
        (broken(), tokenizer.Bytes(), 0.1, "line 31"),
        ([], tokenizer.Bytes(), 0.1, "no documents"),
        (documents(), TooSmall(), 0.1, "expected 0 to 99: vocab_size=100"),
        (documents(), tokenizer.Bytes(), 0.0, "valid_fraction=0.0"),
        (documents(), tokenizer.Bytes(), 1.0, "valid_fraction=1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare.prepare(tmp_path / "out", given, made, fraction)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(tmp_path):
    """Catches: a prepared folder overwritten, or refused only after all the work."""
    (tmp_path / "out").mkdir()
    reached = []
    with pytest.raises(FileExistsError, match="out: exists"):
        prepare.prepare(tmp_path / "out", (reached.append(d) for d in documents()), tokenizer.Bytes())
    with pytest.raises(FileExistsError, match="out: exists"):
        command("no such file", "--out", str(tmp_path / "out"), "--train-tokenizer")
    assert not reached and list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "in").mkdir()
    lines = [{"text": f"Item {n} of many.\n" * (n % 7 + 1), "domain": "talk"} for n in range(300)]
    (tmp_path / "in/talks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "in/book.txt").write_text("Some words in a book.\n" * 50)
    return tmp_path


def command(*args: str):
    return tyro.cli(prepare.prepare_paths, args=args)


def test_from_the_command_line_with_a_trained_tokenizer(texts, capsys):
    """Catches: an argument that the command line cannot give; a model of another size; a model not saved."""
    inputs = [str(texts / "in/talks.jsonl"), str(texts / "in/book.txt")]
    summary = command(*inputs, "--out", str(texts / "a"), "--train-tokenizer", "--vocab-size", "290")
    assert summary.vocab_size == 290
    assert {domain: pair.documents for domain, pair in summary.train.items()}.keys() == {"book", "talk"}
    made = tokenizer.load(texts / "a/tokenizer")
    book = np.concatenate([store.tokens[: store.sources[0].count] for store in opened(texts / "a")])
    assert made.decode(book.tolist()) == "Some words in a book.\n" * 50
    model = str(texts / "a/tokenizer/tokenizer.model")
    again = command(*inputs, "--out", str(texts / "b"), "--sentencepiece", model)
    assert again == summary and files(texts / "a") == files(texts / "b")


def test_from_the_command_line_with_bytes(texts):
    """Catches: a folder's files not found; a fraction not handed on."""
    half = ("--valid-fraction", "0.5", "--domain-field", "text", "--source-field", "domain")
    summary = command(str(texts / "in/talks.jsonl"), "--out", str(texts / "by text"), "--byte-tokenizer", *half)
    assert len(summary.train) == 300 and {source.name for source in opened(texts / "by text")[0].sources} == {"talk"}
    half = half[:2]
    summary = command(str(texts / "in"), "--out", str(texts / "out"), "--byte-tokenizer", *half)
    assert summary.vocab_size == 257 and summary.valid["talk"].documents > 100


def test_from_the_command_line_with_gpt2(texts):
    """Catches: the folder's two files mixed up."""
    alphabet = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    ids = {piece: i for i, piece in enumerate([*alphabet, "wo", "<|endoftext|>"])}
    (texts / "encoder.json").write_text(json.dumps(ids))
    (texts / "vocab.bpe").write_text("#version: 0.2\nw o\n")
    summary = command(str(texts / "in"), "--out", str(texts / "out"), "--gpt2", str(texts))
    assert summary.vocab_size == 258 and 256 in opened(texts / "out")[0].tokens


def test_processes_and_one_process_give_equal_bytes(texts, monkeypatch):
    """Catches: `--workers` that is not followed; a file of the result that depends on who encoded what, and when."""
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(text_files, "READ_BYTES", 500)
    used, pool = [], spool.in_processes
    monkeypatch.setattr(spool, "in_processes", lambda *args: (used.append(args[-1]), pool(*args))[1])
    for workers in (1, 2):
        command(str(texts / "in"), "--out", str(texts / f"out{workers}"), "--byte-tokenizer", "--workers", str(workers))
    assert used == [2] and files(texts / "out1") == files(texts / "out2")


def test_what_was_encoded_is_used_after_a_full_disk(texts, monkeypatch, capsys):
    """Catches: a full disk that costs all that was done; leftovers; an error that does not say what to do."""
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(text_files, "READ_BYTES", 500)
    made, write_index = [], segments.write_index

    def full_after_five(segment):
        if len(made) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(segment)
        write_index(segment)

    asked = (str(texts / "in"), "--train-tokenizer", "--vocab-size", "290", "--workers", "1", "--out")
    monkeypatch.setattr(segments, "write_index", full_after_five)
    with pytest.raises(
        OSError, match="out: the disk is full .*; make room on it, and run the same command again"
    ) as raised:
        command(*asked, str(texts / "out"))
    assert "the same command goes on from there" in raised.value.__notes__[0]
    monkeypatch.setattr(segments, "write_index", lambda segment: (made.append(segment), write_index(segment)))
    monkeypatch.setattr(prepare, "train_sentencepiece", None)  # it was trained
    capsys.readouterr()
    command(*asked, str(texts / "out"))
    assert "An earlier run left 5 encoded chunks" in capsys.readouterr().err
    assert len({segment.path for segment in made}) == len(made) > 8  # none was encoded twice
    monkeypatch.undo()
    command(*asked, str(texts / "fresh"))
    assert files(texts / "out") == files(texts / "fresh")
    assert sorted(path.name for path in texts.iterdir()) == ["fresh", "in", "out"]


def test_append(texts):
    """Catches: another tokenizer or split for what is new; an old block with another id; a text let in a second time;
    an old folder that is changed; a second appending that forgets the first."""
    before = command(str(texts / "in"), "--out", str(texts / "v1"), "--byte-tokenizer", "--valid-fraction", "0.3")
    old = files(texts / "v1")
    more = [{"text": f"More {n}.", "domain": "talk"} for n in range(100)]
    (texts / "more.jsonl").write_text("".join(json.dumps(line) + "\n" for line in more))
    args = (str(texts / "more.jsonl"), str(texts / "in/book.txt"))
    after = command(*args, "--append", str(texts / "v1"), "--out", str(texts / "v2"))
    assert files(texts / "v1") == old and after.duplicates == 1
    assert list(after.train) == ["talk"] and 15 < after.valid["talk"].documents < 45
    for side, (was, now) in zip(("train", "valid"), zip(opened(texts / "v1"), opened(texts / "v2"))):
        assert now.sources[: len(was.sources)] == was.sources and len(now.sources) == len(was.sources) + 1
        assert len(now.tokens) == len(was.tokens) + getattr(after, side)["talk"].tokens
        ids = np.arange(blocks.Blocks(was, 5).num_blocks)
        rows = [blocks.Blocks(store, 5).rows(ids) for store in (was, now)]
        np.testing.assert_array_equal(*rows)
    assert sum(c.documents for c in before.train.values()) + after.train["talk"].documents == len(
        now_starts(texts / "v2")
    )
    (texts / "one.jsonl").write_text('{"text": "One more.", "domain": "talk"}')
    one = command(str(texts / "one.jsonl"), "--append", str(texts / "v2"), "--out", str(texts / "v2.1"))
    assert one.train["talk"].documents + one.valid["talk"].documents == 1  # a new domain's would be cut in two
    with pytest.raises(ValueError, match="v3: found no documents to prepare; 101 duplicates"):
        command(*args, "--append", str(texts / "v2"), "--out", str(texts / "v3"))
    for args, message in (
        (("--append", str(texts / "v2"), "--byte-tokenizer"), "found --byte-tokenizer and --append"),
        (("--append", str(texts / "in")), "found no store.json"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            command(str(texts / "more.jsonl"), "--out", str(texts / "v4"), *args)
    (texts / "v2/seen.npy").unlink()
    with pytest.raises(FileNotFoundError, match="without which nothing can be appended"):
        command(str(texts / "more.jsonl"), "--out", str(texts / "v4"), "--append", str(texts / "v2"))


def now_starts(folder):
    return opened(folder)[0].doc_starts


def test_what_is_left_out_is_counted_and_described(tmp_path):
    """Catches: a loss that nobody is told of; blank documents that end the job, or count as broken."""
    lines = [json.dumps({"text": f"text {n}"}) for n in range(50)] + ["", '{"text": " "}', "{", '{"text": null}', "[]"]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    (tmp_path / "x.txt").write_bytes(b"\xff")
    asked = (str(tmp_path / "x.jsonl"), str(tmp_path / "x.txt"), "--out", str(tmp_path / "out"), "--byte-tokenizer")
    with pytest.raises(ValueError, match="x.jsonl, line 53: .*; 3 of 55 documents cannot be read"):
        command(*asked)
    summary = command(*asked, "--tolerate", "0.1")
    assert (summary.blank, summary.broken) == (2, {"not JSON": 2, "not UTF-8": 1})
    told = "2 blank ones, 2 that cannot be read (not JSON), 1 that cannot be read (not UTF-8)"
    assert str(summary).endswith(f"0 duplicate documents left out, {told}")
    card = json.loads((tmp_path / "out/prepared.json").read_text())
    assert card["broken"] == summary.broken and card["blank"] == 2
    assert [where.split(":")[0].split("/")[-1] for where in card["described"]] == [
        "x.jsonl, line 53",
        "x.jsonl, line 55",
        "x.txt, line 1",
    ]


def test_a_document_of_ten_million_tokens(tmp_path):
    """Catches: a long text held as Python numbers, or not cut where its pieces end."""
    line = b"a long line of a long text that goes on and on\n"
    (tmp_path / "long.txt").write_bytes(line * (10**7 // len(line) + 1))
    (tmp_path / "one.txt").write_text("x")
    tracemalloc.start()
    summary = command(str(tmp_path), "--out", str(tmp_path / "out"), "--byte-tokenizer", "--workers", "1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (train,) = summary.train.values()
    (valid,) = summary.valid.values()
    assert train.tokens + valid.tokens == len(line) * (10**7 // len(line) + 1) + 1 + 2
    assert peak < 3e8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["x.txt"], "found no tokenizer; expected exactly one of --train-tokenizer, --sentencepiece"),
        (["x.txt", "--byte-tokenizer", "--gpt2", "g"], "found --gpt2 and --byte-tokenizer"),
        (["x.txt", "--byte-tokenizer", "--vocab-size", "9"], "found --vocab-size 9 with --byte-tokenizer"),
        (["--byte-tokenizer"], "found no text"),
    ],
)
def test_contradictory_arguments(tmp_path, args, message):
    """Catches: an argument silently ignored."""
    with pytest.raises(ValueError, match=message):
        command(*args, "--out", str(tmp_path / "out"))


def test_the_embedded_corpus(tmp_path):
    """Catches: `--embedded` that reads nothing; a domain of it without validation text."""
    summary = command("--embedded", "--out", str(tmp_path / "out"), "--byte-tokenizer")
    assert list(summary.train) == ["code", "prose", "tables"]
    assert min(count.tokens for count in summary.valid.values()) > 5000
    assert sum(count.tokens for count in summary.train.values()) > 8e6


def test_a_sample_takes_its_share_of_documents_whatever_their_order(tmp_path):
    """Catches: a sample by position, or one that follows the held-out split (it would empty one side)."""
    for order in (1, -1):
        folder = tmp_path / f"text{order}"
        folder.mkdir()
        lines = [json.dumps({"id": f"doc{i}", "text": f"text number {i} " * 5}) for i in range(400)][::order]
        (folder / "a.jsonl").write_text("\n".join(lines))
    summaries = [
        prepare.prepare_paths(
            (str(tmp_path / f"text{order}"),), out=str(tmp_path / f"out{order}"), byte_tokenizer=True, sample=0.5
        )
        for order in (1, -1)
    ]
    counts = [sum(count.documents for side in (s.train, s.valid) for count in side.values()) for s in summaries]
    assert counts[0] == counts[1] and 160 < counts[0] < 240
    held = sum(count.documents for count in summaries[0].valid.values())
    assert 1 <= held < 15
    with pytest.raises(ValueError, match="--sample 0"):
        prepare.prepare_paths((), out=str(tmp_path / "none"), byte_tokenizer=True, embedded=True, sample=0.0)
