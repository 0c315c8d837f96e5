"""A chunk, encoded: what a segment holds, and when it counts as whole."""

import hashlib

import numpy as np
import pytest

from lfr_jax.data.tokenizer import Bytes
from lfr_jax.prepare import segments, text_source
from lfr_jax.prepare.text_source import Document, MemoryChunk, Problem

DOCUMENTS = (
    Document("1", "ab", "x", "s"),
    Document("2", " \n", "y", "s"),
    Document("3", "one ", "x", "s", more=True),
    Document("3", "two", "x", "s"),
    Document("4", "", "y", "s", problem=Problem("not JSON", "line 4")),
)


@pytest.fixture
def segment(tmp_path):
    return segments.encode_chunk(MemoryChunk(DOCUMENTS, 9), tmp_path / "a", Bytes(), 1.0)


def contents(segment):
    """{(domain, source): [(number, flags, tokens)]}, read back from disk."""
    found, row = {}, 0
    for run, start in segments.runs_with_offsets(segment):
        rows = segment.rows[row : row + run.rows]
        tokens = np.split(segments.read_run(segment, run, start), np.cumsum(rows["tokens"])[:-1])
        texts = [
            (int(n), int(f), bytes(t[t < 256].tolist()), 256 in t)
            for n, f, t in zip(rows["number"], rows["flags"], tokens)
        ]
        found.setdefault((run.domain, run.source), []).extend(texts)
        row += run.rows
    return found


def test_a_segment_holds_what_was_read(segment, tmp_path):
    """Catches: tokens of one source under another's name; end-of-text inside a long document, or none at its end; a
    blank or broken document that is not marked; another order of reading."""
    assert contents(segment) == {
        ("x", "s"): [(0, 0, b"ab", True), (2, segments.MORE, b"one ", False), (3, 0, b"two", True)],
        ("y", "s"): [(1, segments.BLANK, b" \n", True), (4, segments.BLANK | segments.BROKEN, b"", False)],
    }
    assert (segment.size, segment.problems, segment.described) == (9, {"not JSON": 1}, ["line 4"])
    found = segments.load_segment(tmp_path / "a")
    np.testing.assert_array_equal(found.rows, segment.rows)
    assert found._replace(rows=None) == segment._replace(rows=None)
    one = segment.rows[0]
    assert one["hash"] == int.from_bytes(hashlib.blake2b(b"1", digest_size=8).digest())
    assert one["text"].tobytes() == hashlib.blake2b(b"ab", digest_size=16).digest()


def test_long_texts_and_many_batches(tmp_path, monkeypatch):
    """Catches: a piece or a document lost where a batch ends; numbers that begin anew in each batch."""
    monkeypatch.setattr(text_source, "PIECE_CHARS", 10)
    monkeypatch.setattr(segments, "BATCH_CHARS", 25)
    made = [Document(str(i), f"{i} " + "word " * i, "xy"[i % 2], "s") for i in range(20)]
    segment = segments.encode_chunk(MemoryChunk(tuple(made), 0), tmp_path / "a", Bytes(), 1.0)
    rows = sorted(row for of_source in contents(segment).values() for row in of_source)
    assert [row[0] for row in rows] == list(range(len(rows))) and len(segment.runs) > 10
    assert b"".join(row[2] + b"|" * (not row[1]) for row in rows).decode() == "".join(f"{d.text}|" for d in made)


def test_a_sample_follows_the_ids(tmp_path):
    """Catches: a piece of a document without the others; a sample that is not that of the tokenizer's training."""
    made = [Document(str(i), "text", "x", "s", more=False) for i in range(200)]
    segment = segments.encode_chunk(MemoryChunk(tuple(made), 0), tmp_path / "a", Bytes(), 0.3)
    expected = [segments.id_hash(d.id) for d in made if segments.uniform_hash(d.id, b"sample") < 0.3]
    assert segment.rows["hash"].tolist() == expected and 30 < len(expected) < 90


def test_what_is_not_whole_is_not_there(segment, tmp_path):
    """Where the machine lost its power. Catches: a segment taken that lacks tokens or rows; changed bytes read as
    text."""
    tokens, index = tmp_path / "a.tokens", tmp_path / "a.index"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.index", "a.tokens"]
    whole = {path: path.read_bytes() for path in (tokens, index)}
    for path in whole:
        raw = whole[path]
        flipped = [raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :] for i in range(len(raw))]
        for content in (raw[:-1], b"", b"\0" * len(raw), *flipped):
            path.write_bytes(content)
            if path is index or len(content) < len(raw):
                assert segments.load_segment(tmp_path / "a") is None
        path.write_bytes(raw)
    tokens.write_bytes(b"\0" * len(whole[tokens]))
    run, start = next(segments.runs_with_offsets(segment))
    with pytest.raises(ValueError, match="its bytes have changed on disk; run the command again"):
        segments.read_run(segment, run, start)
    assert segments.load_segment(tmp_path / "a") is None


class Fragile(Bytes):
    """Fails on some texts, as libraries do on a million spaces in a row."""

    def _encode_batch(self, texts, threads):
        if any("two" in text for text in texts):
            raise RecursionError("too deep")
        return super()._encode_batch(texts, threads)


def test_a_text_on_which_the_tokenizer_fails(tmp_path, monkeypatch):
    """Catches: one text that ends the job, or takes its batch with it; a long one counted by its pieces."""
    monkeypatch.setattr(text_source, "PIECE_CHARS", 10)
    made = [Document("long", "two and two and two and one", "x", "s"), *DOCUMENTS[:2], Document("5", "two", "x", "s")]
    segment = segments.encode_chunk(MemoryChunk(tuple(made), 9), tmp_path / "a", Fragile(), 1.0)
    assert segment.problems == {"cannot be encoded": 2} and segment.described[1].startswith(
        "document '5': cannot encode"
    )
    assert contents(segment)["x", "s"][-2][2:] == (b"ab", True)


def test_an_error_in_reading_says_where(tmp_path):
    """Catches: an error of a disk or of a library, which names no file."""

    class Broken:
        name, size = "x.jsonl, from line 7 on", 0

        def documents(self):
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError) as raised:
        segments.encode_chunk(Broken(), tmp_path / "a", Bytes(), 1.0)
    assert raised.value.__notes__ == ["It was reading x.jsonl, from line 7 on."]


def test_nothing_stays_of_a_chunk_that_fails(tmp_path, monkeypatch):
    """Catches: a full disk that stays full of what was half written."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments, "write_index", full)
    with pytest.raises(OSError, match="No space"):
        segments.encode_chunk(MemoryChunk(DOCUMENTS, 9), tmp_path / "a", Bytes(), 1.0)
    assert segments.load_segment(tmp_path / "a") is None and not list(tmp_path.glob("*.tmp"))
