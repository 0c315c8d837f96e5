"""`lfr prepare`: what its arguments mean, what it goes on from, what it tells."""

import errno
import gzip
import json
import tracemalloc

import numpy as np
import pytest
import tyro
from helpers import documents, files, opened

from lfr_jax.data import tokenizer
from lfr_jax.data.blocks import Blocks
from lfr_jax.prepare import compression, prepare, segments, spool, text_source


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "in").mkdir()
    lines = [{"text": f"Item {n} of many.\n" * (n % 7 + 1), "domain": "talk"} for n in range(300)]
    (tmp_path / "in/talks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "in/book.txt").write_text("Some words in a book.\n" * 50)
    return tmp_path


def command(*args: str):
    return tyro.cli(prepare.prepare_paths, args=args)


def test_an_existing_folder_is_kept(tmp_path):
    """Catches: a prepared folder overwritten, or refused only after all the work."""
    (tmp_path / "out").mkdir()
    reached = []
    with pytest.raises(FileExistsError, match="out: exists"):
        prepare.prepare_documents(tmp_path / "out", (reached.append(d) for d in documents(9)), tokenizer.Bytes())
    with pytest.raises(FileExistsError, match="out: exists"):
        command("no such file", "--out", str(tmp_path / "out"), "--train-tokenizer")
    assert not reached and list((tmp_path / "out").iterdir()) == []


def test_from_the_command_line_with_a_trained_tokenizer(texts, capsys):
    """Catches: an argument that the command line cannot give; a model of another size; a model not saved."""
    inputs = [str(texts / "in/talks.jsonl"), str(texts / "in/book.txt")]
    summary = command(*inputs, "--out", str(texts / "a"), "--train-tokenizer", "--vocab-size", "290")
    assert summary.vocab_size == 290
    assert {domain: pair.documents for domain, pair in summary.train.items()}.keys() == {"book", "talk"}
    made = tokenizer.load_tokenizer(texts / "a/tokenizer")
    book = np.concatenate([store.tokens[: store.sources[0].count] for store in opened(texts / "a")])
    assert made.decode(book.tolist()) == "Some words in a book.\n" * 50
    model = str(texts / "a/tokenizer/tokenizer.model")
    again = command(*inputs, "--out", str(texts / "b"), "--sentencepiece", model)
    assert again == summary and files(texts / "a") == files(texts / "b")


def test_held_out_text_that_is_given(texts):
    """Catches: held-out text that is trained on, also by the tokenizer; a share of the other text held out beside it; a
    held-out text that is in train too; a domain that must be on both sides; text that is appended and held out by
    chance; the sides exchanged."""
    talks, book, own = (str(texts / "in" / name) for name in ("talks.jsonl", "book.txt", "own.jsonl"))
    lines = [{"text": f"Item {n} of many.\n" * (n % 7 + 1), "domain": "talk"} for n in range(5)]
    lines.append({"text": "Ωmega ωill be held out. " * 20, "domain": "greek"})
    (texts / "in/own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    train_tokenizer = ("--train-tokenizer", "--vocab-size", "290")
    summary = command(talks, book, "--valid", own, "--out", str(texts / "a"), *train_tokenizer)
    held_out = {domain: count.documents for domain, count in summary.valid.items()}
    assert held_out == {"book": 0, "greek": 1, "talk": 5} and summary.duplicates == 5
    assert {domain: count.documents for domain, count in summary.train.items()} == {"book": 1, "greek": 0, "talk": 295}
    made = tokenizer.load_tokenizer(texts / "a/tokenizer")
    held = np.split(opened(texts / "a")[1].tokens, opened(texts / "a")[1].doc_starts[1:])
    assert sorted(made.decode(ids.tolist()) for ids in held) == sorted(line["text"] for line in lines)
    alone = command(talks, book, "--out", str(texts / "b"), *train_tokenizer)
    assert made.digest == tokenizer.load_tokenizer(texts / "b/tokenizer").digest and alone.valid["book"].documents
    (texts / "more.txt").write_text("More text.")
    more = command(str(texts / "more.txt"), "--append", str(texts / "a"), "--out", str(texts / "c"))
    assert (more.train["more"].documents, more.valid["more"].documents) == (1, 0)
    again = command(own, book, "--valid", talks, "--out", str(texts / "d"), "--byte-tokenizer")
    assert (again.train["greek"].documents, again.valid["talk"].documents) == (1, 300)


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
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(compression, "READ_BYTES", 500)
    used, pool = [], spool.in_processes
    monkeypatch.setattr(spool, "in_processes", lambda *args: (used.append(args[-1]), pool(*args))[1])
    for workers in (1, 2):
        command(str(texts / "in"), "--out", str(texts / f"out{workers}"), "--byte-tokenizer", "--workers", str(workers))
    assert used == [2] and files(texts / "out1") == files(texts / "out2")


def test_what_was_encoded_is_used_after_a_full_disk(texts, monkeypatch, capsys):
    """Catches: a full disk that costs all that was done; leftovers; an error that does not say what to do."""
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(compression, "READ_BYTES", 500)
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
        ids = np.arange(Blocks(was, 5).num_blocks)
        rows = [Blocks(store, 5).tokens(ids) for store in (was, now)]
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


def test_files_without_text_are_named(tmp_path):
    """Catches: a file of no document that is counted nowhere; a source that is lost without a word; one that has some
    text named as one without."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/empty.jsonl").write_bytes(b"")
    (tmp_path / "in/skipped.jsonl.zst").write_bytes(b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc")
    (tmp_path / "in/null.jsonl").write_text('{"text": null}\n' * 3)
    (tmp_path / "in/some.jsonl").write_text('{"text": null}\n{"text": "some"}\n{"text": "more"}\n')
    summary = command(str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--byte-tokenizer")
    assert summary.blank == 6 and summary.without_text == [("in", name) for name in ("empty", "null", "skipped")]
    last = "no text came from 3 sources: 'empty' of the domain 'in', 'null' of the domain 'in', 'skipped' of the domain"
    assert str(summary).splitlines()[-1].startswith(last)
    assert json.loads((tmp_path / "out/prepared.json").read_text())["without_text"][0] == ["in", "empty"]


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("valid-fraction", value) for value in ("0", "1", "nan")),
        *(("sample", value) for value in ("0", "1.5")),
        *(("tolerate", value) for value in ("-1", "2", "nan")),
        *(("workers", value) for value in ("-3", "2000")),
        *(("vocab-size", value) for value in ("0", "9999999999")),
    ],
)
def test_settings_are_looked_at_before_any_work(texts, monkeypatch, name, value):
    """Catches: a number that ends in a traceback, is taken for another, or is refused after an hour of training."""
    monkeypatch.setattr(prepare, "train_sentencepiece", None)
    with pytest.raises(ValueError, match=f"^{name.replace('-', '_')} is {value}.*, expected .*[a-zA-Z0-9]$"):
        command(str(texts / "in"), "--out", str(texts / "out"), "--train-tokenizer", f"--{name}", value)
    assert not list(texts.glob(".out*"))


def test_errors_say_what_goes_on(texts, monkeypatch):
    """Catches: a promise that the same command goes on where it can only fail again; a hidden folder of nothing but
    empty chunks; work that is lost to one bad file."""
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 2000)
    out, bytes_ = ("--workers", "1", "--out", str(texts / "out")), "--byte-tokenizer"

    def notes(*args):
        with pytest.raises((ValueError, OSError)) as raised:
            command(*args, *out)
        return "".join(getattr(raised.value, "__notes__", []))

    talks, broken = str(texts / "in/talks.jsonl"), texts / "broken.txt.gz"
    broken.write_bytes(b"no stream")
    left = texts / ".out.preparing"
    assert notes(str(broken), bytes_) == notes(talks, bytes_, "--text-field", "body") == "" and not left.exists()
    assert notes(talks, str(broken), bytes_) == (
        f"What is done is kept in {left}: once this is mended, the same command goes on from there."
    )
    kept = set(left.glob("*.index"))
    assert kept and notes(str(texts / "nowhere.txt"), bytes_) == notes(talks, "--gpt2", "nowhere") == ""
    assert set(left.glob("*.index")) == kept
    broken.write_bytes(gzip.compress(b"mended"))
    command(talks, str(broken), bytes_, *out)
    assert not left.exists()


@pytest.mark.slow
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
    with pytest.raises(ValueError, match="sample is 0.0, expected a number, over 0"):
        prepare.prepare_paths((), out=str(tmp_path / "none"), byte_tokenizer=True, embedded=True, sample=0.0)
