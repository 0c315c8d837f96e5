"""Files with bytes changed, cut out or added anywhere: documents, or an error of ours that names the file."""

import gzip
import io
import json

import hypothesis
import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from lfr_jax.data.tokenizer import Bytes
from lfr_jax.prepare import inputs, text_source
from lfr_jax.prepare.prepare import prepare_documents
from lfr_jax.prepare.prepared_folder import open_prepared
from lfr_jax.prepare.text_source import Document

ROWS = [
    {"text": f"Text {n}, é.", "id": str(n), "domain": "dy"[n % 2], "meta": [{"a": None, "b": 1e9}]} for n in range(9)
]


def parquet(**options) -> bytes:
    raw = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), raw, **options)
    return raw.getvalue()


LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
FILES = {
    "x.jsonl": LINES,
    "x.jsonl.gz": gzip.compress(LINES),
    "x.jsonl.zst": zstandard.compress(LINES),
    "x.txt": "Some words of é book.\n".encode() * 9,
    "x.parquet": parquet(),
    "y.parquet": parquet(compression="none", write_page_checksum=True, row_group_size=4),
}
PIECES = [b"", b"\0", b"\xff", b'"', b"{", b"[" * 3000, b"9" * 5000, b"\\ud800", b"NaN", b"\xef\xbb\xbf", b"\n"]
changes = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 40), st.sampled_from(PIECES)), min_size=1, max_size=4
)


def changed(content: bytes, by: list[tuple[int, int, bytes]]) -> bytes:
    """The content with, for each change, some bytes replaced. Where none is, the lowest bit of the next differs."""
    for at, length, piece in by:
        at %= len(content) + 1
        if not length:
            length, piece = 1, bytes(byte ^ 1 for byte in content[at : at + 1])
        content = content[:at] + piece + content[at + length :]
    return content


def ours(path, action) -> None:
    """Does something with the file; what it may raise is an error that names the file in a line."""
    try:
        action()
    except (ValueError, OSError) as error:
        assert not isinstance(error, UnicodeError | json.JSONDecodeError)
        assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize("name", FILES)
def test_text_in_every_format(tmp_path_factory, name):
    """Catches: an error of a library; one that names no file; a document that cannot be stored."""
    path = tmp_path_factory.mktemp("in") / name

    def read():
        for document in text_source.documents(inputs.of_paths([path])):
            assert all(part.encode().decode() == part for part in document[:4])
            assert document.problem is None or str(path) in document.problem.where

    @hypothesis.settings(max_examples=60)
    @hypothesis.given(changes)
    def run(by):
        path.write_bytes(changed(FILES[name], by))
        ours(path, read)

    run()


def test_a_flipped_digest_of_a_text_is_found(tmp_path):
    """Catches: a text that is appended twice, or never. The folders of older releases do not say what is right."""
    prepare_documents(tmp_path / "v1", [Document(str(n), f"text {n}", "d", "s") for n in range(9)], Bytes(), 0.3)
    seen, card = tmp_path / "v1/seen.npy", tmp_path / "v1/prepared.json"
    right = seen.read_bytes()
    seen.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(
        ValueError, match="seen.npy: found an array with the sha256 .*, expected '.* as .*prepared.json"
    ):
        open_prepared(tmp_path / "v1")
    card.write_text(json.dumps({"valid_fraction": 0.3}))
    assert len(open_prepared(tmp_path / "v1").seen_Kx2) == 9


@pytest.mark.parametrize("name", ["prepared.json", "seen.npy"])
def test_a_prepared_folder(tmp_path_factory, name):
    """Catches: a bare KeyError; memory asked for as a header says; half of a surrogate pair in a name."""
    folder = tmp_path_factory.mktemp("prepared") / "v1"
    prepare_documents(folder, [Document(str(n), f"text {n}", "d", "s") for n in range(20)], Bytes(), 0.3)
    content = (folder / name).read_bytes()

    @hypothesis.settings(max_examples=60)
    @hypothesis.given(changes)
    def run(by):
        (folder / name).write_bytes(changed(content, by))
        ours(folder / name, lambda: open_prepared(folder))

    run()
