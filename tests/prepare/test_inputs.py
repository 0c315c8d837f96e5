"""From paths to inputs: which files, in which order, under which names, in which groups."""

import gzip
import json
import os
import pathlib
import re
import types

import pyarrow.parquet
import pytest

from lfr_jax.prepare import compression, inputs, text_source
from lfr_jax.prepare.text_source import Document


def read(*paths) -> list[Document]:
    return list(text_source.documents(inputs.of_paths(paths)))


def test_folders_are_laid_out_as_domain_and_source(tmp_path):
    """Catches: the disk's order; hidden files; a folder left out because it is a link; absolute paths in ids; a domain
    or source from the wrong folder; each short text a source by itself, which would be too short for a block."""
    top = tmp_path / "top"
    names = ("b/2.txt", "b/10.txt", "a/deep/x.md", "a/deep/er/y.md", ".git/config", "b/.DS_Store", "loose.txt")
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    for name in ("b/lines.v1.json", "a/deep/lines.jsonl", "loose.jsonl"):
        (top / name).write_text(json.dumps({"text": "t"}))
    (tmp_path / "far").mkdir()
    (tmp_path / "far/text.txt").write_text("far")
    (top / "c").symlink_to(tmp_path / "far")
    assert [(d.id, d.domain, d.source) for d in read(top)] == [
        ("a/deep/er/y.md", "a", "deep"),
        ("a/deep/lines.jsonl:1", "a", "deep"),
        ("a/deep/x.md", "a", "deep"),
        ("b/10.txt", "b", "b"),
        ("b/2.txt", "b", "b"),
        ("b/lines.v1.json:1", "b", "lines"),
        ("c/text.txt", "c", "c"),
        ("loose.jsonl:1", "top", "loose"),
        ("loose.txt", "top", "top"),
    ]
    assert [(d.id, d.domain) for d in read(top / "b/2.txt", top / "a/deep")][:2] == [("2.txt", "2"), ("er/y.md", "er")]


def test_nothing_there(tmp_path):
    """Catches: a misspelt path or an empty folder read as no documents; an empty name, as of a variable that is not
    set, read as the folder one is in."""
    (tmp_path / ".hidden").write_text("x")
    with pytest.raises(FileNotFoundError, match="found an empty path"):
        inputs.of_paths([""])
    for path in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(path)):
            inputs.of_paths([path])


def test_names_that_are_not_utf8(tmp_path):
    r"""As in an old archive. Catches: an id or domain that cannot be written, which ends the job far from the file."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/r\xe9sum\xe9.txt", "wb") as file:
        file.write(b"text")
    (document,) = read(tmp_path)
    assert document == Document(r"caf\xe9/r\xe9sum\xe9.txt", "text", r"caf\xe9", r"caf\xe9")
    (document,) = read(os.fsdecode(folder + b"/r\xe9sum\xe9.txt"))
    assert (document.id, document.domain) == (r"r\xe9sum\xe9.txt", r"r\xe9sum\xe9")
    table = os.fsdecode(folder + b"/\xe9.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["row"]}), tmp_path / "x.parquet")
    os.rename(tmp_path / "x.parquet", table)
    assert read(table) == [Document(r"\xe9.parquet:0", "row", r"\xe9", r"\xe9")]


def test_only_regular_files_are_read(tmp_path):
    """Catches: a pipe waited for; a device that never ends."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path, found in ((tmp_path / "pipe.jsonl", "a named pipe"), ("/dev/zero", "a device")):
        with pytest.raises(OSError, match=f"{path}: found {found}, expected a regular file"):
            inputs.of_paths([path])


def test_what_is_read_as_what_is_said(tmp_path):
    """Catches: files of another kind, or shards whose download failed, that nobody hears of."""
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet", "README\x1b.md", "d.txt", "e.txt", "f.txt"):
        (tmp_path / name).write_text("x" * (name != "a.jsonl"))
    assert inputs.in_words(list(inputs.files([tmp_path]))).split(", 4 ") == [
        "7 files: 2 .jsonl, 1 .parquet",
        r"read as one text each (README\x1b.md, d.txt, e.txt, ...), 1 of no byte (a.jsonl)",
    ]


def test_marks_beside_the_files_of_a_data_set(tmp_path):
    """Catches: what Spark or Arrow leave read as text; a text of a similar name left out."""
    for name in ("_SUCCESS", "_committed_12", "_temporary/0/x.txt", "_metadata", ".x.txt.crc", "__init__.py", "_x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [document.id for document in read(tmp_path)] == ["__init__.py", "_x.txt"]


def test_small_files_are_read_together_and_large_ones_in_chunks(tmp_path, monkeypatch):
    """Catches: a million small files, a segment for each; a large file handed to one worker whole; a file lost where
    one group ends; sizes that do not sum to the total of the progress bar."""
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 100)
    monkeypatch.setattr(compression, "READ_BYTES", 64)
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text(str(number) * 30)
    (tmp_path / "4.jsonl").write_text("".join(json.dumps({"text": f"{n}"}) + "\n" for n in range(40)))
    found = inputs.of_paths([tmp_path])
    chunks = [list(place.chunks()) for place in found]
    assert len(chunks) == 5 and len(chunks.pop(2)) > 3 and all(len(of_it) == 1 for of_it in chunks)
    large = found.pop(2)
    assert large.size == sum(chunk.size for chunk in large.chunks())
    texts = [document.text for document in read(tmp_path)]
    numbers = [str(n) * 30 for n in range(9)]
    assert texts == numbers[:4] + [str(n) for n in range(40)] + numbers[4:]
    for place, of_it in zip(found, chunks):
        assert place.size == sum(chunk.size for chunk in of_it)


def test_the_stamp_tells_other_text(tmp_path, monkeypatch):
    """Catches: a changed file, or another file of the same name, taken for one that was encoded before; a stamp that
    changes by itself, so that nothing is ever found again."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text('{"text": "1"}')
        os.utime(tmp_path / name / "x.jsonl", ns=(5, 5))

    def stamp(*arguments):
        return inputs.of_paths(*arguments)[0].stamp

    one = stamp([tmp_path / "a/x.jsonl"])
    assert one == stamp([tmp_path / "a/x.jsonl"])
    seen = {one, stamp([tmp_path / "b/x.jsonl"]), stamp([tmp_path / "a"])}
    seen.add(stamp([tmp_path / "a/x.jsonl"], text_source.Fields("body")))
    os.utime(tmp_path / "a/x.jsonl", ns=(6, 6))
    seen.add(stamp([tmp_path / "a/x.jsonl"]))
    assert len(seen) == 5


def test_a_format_of_ones_own(tmp_path, monkeypatch):
    """Catches: a format in the table that another part of the code does not ask: for the chunks, for the source of a
    file of many documents, or for compressed files."""

    def chunks(file):
        read = b"".join(part for part, _ in compression.decompressed(file.path))
        found = [file.document._replace(id=word, text=word) for word in read.decode().split()]
        yield text_source.MemoryChunk(tuple(found), file.path.stat().st_size)

    mine = text_source.FileFormat((".words",), chunks, many=True, compressed=True)
    monkeypatch.setattr(inputs, "FORMATS", (*inputs.FORMATS, mine))
    (tmp_path / "top/d").mkdir(parents=True)
    (tmp_path / "top/d/a.words").write_text("one two")
    (tmp_path / "top/d/b.words.gz").write_bytes(gzip.compress(b"three"))
    assert [(d.id, d.domain, d.source) for d in read(tmp_path / "top")] == [
        ("one", "d", "a"),
        ("two", "d", "a"),
        ("three", "d", "b"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected text, \.jsonl, \.parquet, \.words files"):
        inputs.of_paths([tmp_path / "empty"])


def test_the_format_of_the_page(tmp_path, monkeypatch):
    """Catches: docs/add_a_text_source.md, whose example no longer runs, or reads a CSV file wrongly."""
    page = (pathlib.Path(__file__).parents[2] / "docs/add_a_text_source.md").read_text()
    (code,) = re.findall("```python\n(.*?)```", page, re.DOTALL)
    made = types.ModuleType("csv_files")
    exec(code, made.__dict__)
    monkeypatch.setattr(inputs, "FORMATS", (*inputs.FORMATS, made.FORMAT))
    (tmp_path / "a.csv").write_bytes(b'text,domain\n"one\nline",x\nbad\xff,x\n' + b"more,\n" * 1500)
    found = read(tmp_path / "a.csv")
    assert found[0] == Document("a.csv:1", "one\nline", "x", "a") and found[1].problem.kind == "not UTF-8"
    assert found[2:] == [Document(f"a.csv:{number}", "more", "a", "a") for number in range(3, 1503)]
