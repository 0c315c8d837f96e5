"""Files that hold something else than their names say: refused by name, and texts that only look odd are read."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from lfr_jax.prepare import inputs, text_source

LINES = b'{"text": "one"}\n{"text": "two"}\n'


def archive(kind: str) -> bytes:
    raw = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=raw, mode="w") as file:
            member = tarfile.TarInfo("a.jsonl")
            member.size = len(LINES)
            file.addfile(member, io.BytesIO(LINES))
    elif kind == "zip":
        with zipfile.ZipFile(raw, "w") as file:
            file.writestr("a.jsonl", LINES)
    else:
        np.save(raw, np.arange(9))
    return raw.getvalue()


def read(tmp_path, name: str, content: bytes) -> list[tuple[str, str]]:
    """The text and the kind of problem of each document of a file, which lies in a folder beside a good one."""
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "in/good.jsonl").write_bytes(LINES)
    found = text_source.documents(inputs.of_paths([tmp_path / "in"]))
    return [(d.text, d.problem.kind if d.problem else "") for d in found if not d.id.startswith("good.jsonl")]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("x.tar.gz", gzip.compress(archive("tar"), mtime=0), "a tar archive"),
        ("x.tar", archive("tar"), "a tar archive"),
        ("x.jsonl.zip", archive("zip"), "a zip archive"),
        ("x.docx", archive("zip"), "a zip archive"),
        ("x.pdf", b"%PDF-1.7\n1 0 obj", "a PDF document"),
        ("x.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture"),
        ("x.db", b"SQLite format 3\0", "an SQLite database"),
        ("x.npy", archive("npy"), "a NumPy array"),
        ("x.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS"),
        ("x.pkl", pickle.dumps(list(range(99))), "bytes that are no text"),
        ("x.txt", b"some\0words", "bytes that are no text"),
        ("x.txt.br", bytes(range(256)), "bytes that are no text"),
        ("x.jsonl.lz4", b"\x04\x22\x4d\x18abc", "data packed with lz4"),
        ("x.txt", "größer".encode("utf-16"), "text in UTF-16"),
        ("x.jsonl", LINES.decode().encode("utf-16"), "text in UTF-16"),
        ("x.jsonl", gzip.compress(LINES, mtime=0), "data packed with gzip, whose name should end in .gz"),
        ("x.jsonl.gz", gzip.compress(gzip.compress(LINES, mtime=0), mtime=0), "data packed with gzip"),
        ("x.jsonl.gz", LINES, "a broken .gz stream"),
        ("x.gz", gzip.compress(LINES, mtime=0), "JSON lines .* end in .jsonl.gz"),
        ("x.txt", LINES, "JSON lines .* end in .jsonl,"),
        ("x.log", b'{"message": "one"}\n{"message": "two"}\n', "JSON lines"),
        ("x.txt", b'{"id": 1, "text": "' + b"x" * 2_000_000 + b'"}\n', "JSON lines"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,  # archives hold the time at which they were made
)
def test_something_else_than_the_name_says(tmp_path, name, content, found):
    """Catches: a shard that is one unreadable document of many, or one document of JSON syntax or of an archive."""
    with pytest.raises(ValueError, match=f"in/{name}: found {found}"):
        read(tmp_path, name, content)


@pytest.mark.parametrize("content", [b"<html>404</html>\n", b"<html>\n404\n</html>\n", b"{}\n{}\n", b'{"body": "x"}\n'])
def test_a_file_of_which_nothing_can_be_read(tmp_path, content):
    """Catches: a page that says 404, or metadata, under the name of a shard and counted as a document or two."""
    with pytest.raises(
        ValueError, match=r"in/x.json, line 1: .*; nothing in this file can be read \(\d tried\)"
    ) as got:
        read(tmp_path, "x.json", content)
    assert ("--text-field" in str(got.value)) == content.startswith(b"{")  # another field may be meant


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.map", '{"version": 3, "sources": []}'),
        ("x.js", "{{ template }}\n{}\n"),
        ("x.txt", "[1, 2]\n[3]\n"),
        ("x.txt", "form feed \f, escape \x1b[0m, end of file \x1a"),
        ("ORCHARD", "ORC and PAR1 and RIFF begin files\n"),
        ("x.html", "<html>a page</html>"),
    ],
)
def test_texts_that_look_odd_are_read(tmp_path, name, text):
    """Catches: a text refused for a first line or a character that texts have."""
    assert read(tmp_path, name, text.encode()) == [(text, "")]


def test_a_text_in_latin1_is_one_broken_document(tmp_path):
    """Catches: a file that is one document, with one bad byte, refused as if it were an archive."""
    assert read(tmp_path, "x.txt", "größer".encode("latin1")) == [("", "not UTF-8")]


def test_records_whose_text_lies_within(tmp_path):
    """Catches: the name of the field of text not followed."""
    (tmp_path / "x.gz").write_bytes(gzip.compress(json.dumps({"doc": {"text": "a"}}).encode()))
    fields = text_source.Fields("doc.text")
    with pytest.raises(ValueError, match="x.gz: found JSON lines"):
        list(text_source.documents(inputs.of_paths([tmp_path / "x.gz"], fields)))
    assert len(list(text_source.documents(inputs.of_paths([tmp_path / "x.gz"])))) == 1
