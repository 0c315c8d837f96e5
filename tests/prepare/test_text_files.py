"""Files of text and of JSON lines, packed or not: what is read, in which chunks, and what is refused."""

import gzip
import json
import pickle

import pytest
import zstandard

from lfr_jax.prepare import compression, inputs, text_files, text_source
from lfr_jax.prepare.text_source import Document, Fields, File


def jsonl(*objects) -> bytes:
    return b"".join(json.dumps(thing).encode() + b"\n" for thing in objects)


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def place(path, **fields) -> File:
    return File(path, path.name, "d", "s", Fields(**fields))


def read(path, **fields) -> list[Document]:
    return [document for chunk in inputs.chunks_of(place(path, **fields)) for document in chunk.documents()]


@pytest.mark.parametrize("suffix", PACK)
def test_jsonl(tmp_path, suffix):
    """Catches: a field not taken over; a last line without newline dropped; numbers off by a blank line."""
    full = {"id": "one", "domain": "x", "source": "y", "text": "é\n"}
    content = jsonl(full) + b"\n" + jsonl({"id": 7, "text": "b", "domain": None}) + b'{"text": "c"}'
    path = tmp_path / f"news.part1.jsonl{suffix}"
    path.write_bytes(PACK[suffix](content))
    assert read(path) == [
        Document("one", "é\n", "x", "y"),
        Document("7", "b", "d", "s"),
        Document(f"news.part1.jsonl{suffix}:4", "c", "d", "s"),
    ]
    assert read(path, domain="text")[1].domain == "b"


@pytest.mark.parametrize(
    "name",
    ["x.JSONL", "x.jsonlines", "x.ndjson", "x.json", "c4-train.00000-of-01024.json.gz", "x.Json.ZST", "x.jsonl.GZ"],
)
def test_other_names_of_json_lines(tmp_path, name):
    """Catches: C4 as it lies on the Hub, or a name in capitals, read as one document of JSON syntax."""
    path = tmp_path / name
    pack = PACK.get(path.suffix.lower(), bytes)
    path.write_bytes(pack(jsonl({"text": "a"}, {"text": "b"})))
    assert [(d.id, d.text) for d in read(path)] == [(f"{name}:1", "a"), (f"{name}:2", "b")]
    for text in (f"text.{name}.txt", f"{path.stem}json", f"{name}.md"):
        assert not inputs.format_of(path.with_name(text)).many


ONE_VALUE = [{"text": "a", "meta": {"n": 1}}, {"text": "b"}]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (json.dumps(ONE_VALUE), "a JSON array"),
        (json.dumps(ONE_VALUE, indent=1), "a JSON array"),
        ("\n" + json.dumps(ONE_VALUE).replace("}, {", "},\n{"), "a JSON array"),
        (json.dumps({"data": ONE_VALUE}, indent=2), "a JSON object over several lines"),
        ('{"text": "a",\n "id": 1}\n', "a JSON object over several lines"),
    ],
    ids=["array", "indented array", "array of lines", "indented object", "object"],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no mark", "mark"])
def test_one_json_value_is_no_text(tmp_path, content, found, mark):
    """Catches: JSON's own signs trained on; all lines of it taken for broken documents, or, few, lost as tolerated."""
    for name in ("x.json", "x.jsonl.gz"):
        path = tmp_path / name
        path.write_bytes(PACK.get(path.suffix, bytes)((mark + content).encode()))
        with pytest.raises(ValueError, match=f"{name}: found {found}, expected JSON lines, .* jq -c"):
            read(path)


def test_broken_lines_are_not_taken_for_one_value(tmp_path):
    """Catches: a file refused because its first line was cut off, or is the only one that is good."""
    path = tmp_path / "x.json"
    for content, kinds in (
        ('{"text": "cut\n{"text": "a"}\n', ["not JSON", None]),
        ('{"text":\n{"text": "a"}\n', ["not JSON", None]),
        ('{"text": "a"}\nbad\n', [None, "not JSON"]),
        ('[1]\n{"text": "a"}', ["not JSON", None]),
        ('"one"\n{"text": "a"}\n7', ["not JSON", None, "not JSON"]),
        ('{"text": "a", "n": ' + "9" * 5000 + '}\n{"text": "a"}', ["not JSON", None]),
        ('bad\nbad\n{"text": "a"}', ["not JSON", "not JSON", None]),
    ):
        path.write_text(content)
        assert [d.problem and d.problem.kind for d in read(path)] == kinds


@pytest.mark.parametrize("read_bytes", [1, 1 << 20])
def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path, monkeypatch, read_bytes):
    """Catches: the first line of each file of some Windows programs lost, as one that is not JSON."""
    monkeypatch.setattr(compression, "READ_BYTES", read_bytes)
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 20)
    path = tmp_path / "x.jsonl"
    path.write_bytes("\ufeff".encode() + jsonl({"text": "a"}, {"text": "\ufeffb"}))
    assert [(d.id, d.text) for d in read(path)] == [("x.jsonl:1", "a"), ("x.jsonl:2", "\ufeffb")]


@pytest.mark.parametrize("suffix", PACK)
def test_text_files_are_one_document(tmp_path, suffix):
    """Catches: line ends translated, a byte-order mark kept, a file cut into lines."""
    path = tmp_path / f"book.txt{suffix}"
    path.write_bytes(PACK[suffix]("\ufeffone\r\n\ttwo\r".encode()))
    assert read(path) == [Document(path.name, "one\r\n\ttwo\r", "d", "s")]


@pytest.mark.parametrize("suffix", PACK)
def test_jsonl_in_many_chunks(tmp_path, monkeypatch, suffix):
    """Catches: lines lost, doubled or misnumbered where a chunk or a read ends; a second packed frame left out; sizes
    that do not sum to the file's, so that the progress bar ends early."""
    path = tmp_path / f"x.jsonl{suffix}"
    objects = [{"text": f"{n}" * 50} for n in range(500)] + [{"text": "long" * 1000}, {"text": "end"}]
    path.write_bytes(b"".join(map(PACK[suffix], (jsonl(*objects[:250]), jsonl(*objects[250:])))))
    for read_bytes, chunk_bytes in ((7, 1000), (4096, 100)):
        monkeypatch.setattr(compression, "READ_BYTES", read_bytes)
        monkeypatch.setattr(text_source, "CHUNK_BYTES", chunk_bytes)
        chunks = list(inputs.chunks_of(place(path)))
        found = [document for chunk in pickle.loads(pickle.dumps(chunks)) for document in chunk.documents()]
        assert [document.text for document in found] == [thing["text"] for thing in objects]
        assert [document.id for document in found] == [f"{path.name}:{n}" for n in range(1, 503)]
        assert len(chunks) >= 2 and sum(chunk.size for chunk in chunks) == path.stat().st_size


@pytest.mark.parametrize("suffix", PACK)
def test_a_long_text_in_many_chunks(tmp_path, monkeypatch, suffix):
    """Catches: a large file held in memory whole; a character cut in two where a read ends; the last piece marked as if
    more followed, which would join two documents."""
    text = "".join(f"{n} größer\n" for n in range(400))
    path = tmp_path / f"x.txt{suffix}"
    path.write_bytes(PACK[suffix](text.encode()))
    for module, name, value in (
        (compression, "READ_BYTES", 5),
        (text_source, "CHUNK_BYTES", 300),
        (text_source, "PIECE_CHARS", 60),
    ):
        monkeypatch.setattr(module, name, value)
    chunks = list(inputs.chunks_of(place(path)))
    found = [document for chunk in chunks for document in chunk.documents()]
    assert [document.text for document in found] == [piece for piece, _ in text_source.cut_text([text])]
    assert [document.more for document in found] == [True] * (len(found) - 1) + [False]
    assert {document.id for document in found} == {path.name}
    assert len(chunks) > 10 and sum(chunk.size for chunk in chunks) == path.stat().st_size


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        (b'{"text": "x"', "not JSON", "found no valid JSON"),
        (b'{"text": "\xff"}', "not UTF-8", "found no valid JSON in UTF-8"),
        (b'["text"]', "not JSON", "found a JSON list"),
        (b"[" * 100_000, "not JSON", "found no valid JSON"),
        (b'{"text": ' + b"[" * 500 + b"]" * 500 + b"}", "no text", "found text = [[[[[[[...]"),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "not JSON", "found no valid JSON"),
        (b'{"text": "a\0b"}', "not JSON", "found no valid JSON"),
        (b'{"text": NaN}', "no text", "found text = nan"),
        (b'{"body": "x"}', "no text", "found the fields ['body'], expected 'text'"),
    ],
    ids=["cut off", "latin-1", "list", "deep", "deep text", "long number", "NUL", "NaN", "other field"],
)
def test_bad_lines_are_named(tmp_path, line, kind, message):
    """Catches: a bad line that ends the file, or that is passed over in silence; its number counted from 0."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": "after"}\n')
    good, bad, after = read(path)
    assert (good.text, after.text, bad.text) == ("good", "after", "") and after.problem is None
    assert bad.problem.kind == kind and bad.problem.where.startswith(f"{path}, line 3: {message}")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: b"garbage" + packed])
def test_a_broken_stream_is_no_end(tmp_path, suffix, damage):
    """Catches: the rest of a cut-off file taken for all of it (zstandard's own reader does)."""
    for name, content in (("x.jsonl", jsonl(*({"text": str(n**5)} for n in range(3000)))), ("x.txt", b"word " * 9999)):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(damage(PACK[suffix](content)))
        with pytest.raises(ValueError, match=f"{path.name}: found a broken {suffix} stream"):
            read(path)


def test_a_line_without_end(tmp_path, monkeypatch):
    """Catches: memory filled by a small packed file that unpacks to one line."""
    monkeypatch.setattr(text_files, "LONGEST_LINE", 10_000)
    monkeypatch.setattr(compression, "READ_BYTES", 1000)
    path = tmp_path / "x.jsonl.gz"
    for length in (9000, 12_000):
        path.write_bytes(gzip.compress(jsonl({"text": "a"}, {"text": "b" * length})))
        if length < 10_000:
            assert [len(d.text) for d in read(path)] == [1, length]
        else:
            with pytest.raises(ValueError, match="x.jsonl.gz, line 1: found more than 10,000 bytes without an end"):
                read(path)


def test_a_text_file_that_is_not_utf8_is_one_broken_document(tmp_path, monkeypatch):
    """Catches: the good beginning of a bad file kept as if it were a whole document; a bad file that ends the job."""
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 50)
    monkeypatch.setattr(text_source, "PIECE_CHARS", 20)
    monkeypatch.setattr(compression, "READ_BYTES", 64)
    (tmp_path / "x.txt").write_bytes(b"good words\n" * 50 + b"bad \xff\n")
    *begun, last = read(tmp_path / "x.txt")
    assert begun and all(document.more for document in begun)
    assert last.problem.kind == "not UTF-8" and "x.txt, line 51: found the byte 0xff" in last.problem.where
    assert (last.text, last.more) == ("", False)
