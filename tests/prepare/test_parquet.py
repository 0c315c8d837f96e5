"""Parquet files as text."""

import pickle

import pyarrow as pa
import pyarrow.parquet
import pytest

from lfr_jax.prepare import inputs, parquet, text_source
from lfr_jax.prepare.text_source import Document, Fields, File


def write(path, rows: int, **columns):
    pa.parquet.write_table(pa.table(columns), path, row_group_size=rows)
    return path


@pytest.fixture
def pages(tmp_path):
    """Seven rows in three groups, with a column that nobody asks for."""
    meta = [{"set": "Books", "n": i} for i in range(7)]
    return write(tmp_path / "web.parquet", 3, text=[f"é{i}" for i in range(7)], meta=meta, vector=[[0.5] * 4] * 7)


def read(path, **fields) -> list[Document]:
    return list(text_source.documents(inputs.of_paths([path], Fields(**fields))))


def test_row_groups_are_chunks(pages, monkeypatch):
    """Catches: a row lost or misnumbered where a batch or a group ends; one group read for another; the whole file as
    one chunk; columns read that nobody asked for; a struct's field not found."""
    monkeypatch.setattr(parquet, "ROWS", 2)
    file = File(pages, "web.parquet", "d", "s", Fields(domain="meta.set"))
    chunks = list(parquet.chunks(file))
    found = [document for chunk in pickle.loads(pickle.dumps(chunks)) for document in chunk.documents()]
    assert found == [Document(f"web.parquet:{i}", f"é{i}", "Books", "s") for i in range(7)]
    assert len(chunks) == 3 and sum(chunk.size for chunk in chunks) == pages.stat().st_size
    asked, iterate = [], pa.parquet.ParquetFile.iter_batches
    watched = lambda self, *args: (asked.append(args), iterate(self, *args))[1]  # noqa: E731
    monkeypatch.setattr(pa.parquet.ParquetFile, "iter_batches", watched)
    list(chunks[1].documents())
    assert asked == [(2, [1], ["text", "meta.set"])]


def test_small_files_are_found_in_folders(pages):
    """Catches: Parquet taken for text; a column's name that is not handed on."""
    assert [d.text for d in read(pages.parent)] == [f"é{i}" for i in range(7)]
    assert {(d.domain, d.source) for d in read(pages)} == {("web", "web")}
    with pytest.raises(ValueError, match="found the columns text, meta, vector, expected 'body'; .*--text-field"):
        read(pages, text="body")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_bytes_that_are_not_text_are_one_broken_row(tmp_path, kind):
    """Arrow does not check its strings. Catches: a bad row that ends the job, or takes its whole batch with it."""
    raw = pa.array([b"good", b"\xff\xfe", None, "größer".encode()], pa.binary())
    text = raw if kind == pa.binary() else pa.Array.from_buffers(pa.string(), 4, raw.buffers()).cast(kind)
    found = read(write(tmp_path / "x.parquet", 9, text=text, id=["a", "b", "c", "d"]))
    assert [d.text for d in found] == ["good", "", "", "größer"] and [d.id for d in found][3] == "d"
    assert found[1].problem.kind == "not UTF-8" and "x.parquet, row 1" in found[1].problem.where
    assert found[2].problem is None  # blank


def test_a_cut_off_file_is_named(pages):
    """Catches: Arrow's error, which does not name the file."""
    pages.write_bytes(pages.read_bytes()[:-20])
    with pytest.raises(ValueError, match="web.parquet: found no complete Parquet file"):
        read(pages)
