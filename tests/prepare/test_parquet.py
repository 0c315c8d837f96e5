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


@pytest.mark.parametrize("kind", ["nested", "list", "dictionary", "view", "domain"])
def test_bytes_that_are_not_text_in_any_column(tmp_path, kind):
    """Catches: a bad string that ends the job because of how its column is stored (Arrow checks a dictionary whole)."""
    raw = pa.array([b"good", b"caf\xe9", b"also good"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    good, fields = pa.array(["a", "b", "c"]), {}
    if kind == "nested":
        columns, fields = {"doc": pa.StructArray.from_arrays([bad], ["text"])}, {"text": "doc.text"}
    elif kind == "list":
        columns = {"text": good, "domain": pa.ListArray.from_arrays([0, 1, 2, 3], bad)}
    elif kind == "dictionary":
        columns = {"text": pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), bad)}
    elif kind == "view":
        columns = {"text": raw.cast(pa.binary_view()).view(pa.string_view())}
    else:
        columns = {"text": good, "domain": bad}
    pa.parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    if kind == "list":
        with pytest.raises(ValueError, match=r"x.parquet, row 0: found domain = \['good'\].*; nothing in this file"):
            read(tmp_path / "x.parquet")
        return
    first, broken, last = read(tmp_path / "x.parquet", **fields)
    assert (first.text, last.text) == (("a", "c") if kind == "domain" else ("good", "also good"))
    assert broken.problem.kind == "not UTF-8" and "x.parquet, row 1: " in broken.problem.where


def test_a_value_that_python_cannot_hold(tmp_path):
    """Catches: a date after the year 9999 that ends the job."""
    dates = pa.array([None, 2**31 - 1, None], pa.date32())
    first, broken, last = read(write(tmp_path / "x.parquet", 9, text=["a", "b", "c"], domain=dates))
    assert (first.text, last.text, broken.problem.kind) == ("a", "c", "bad value")
    assert "x.parquet, row 1: " in broken.problem.where


def test_a_damaged_page_is_named(tmp_path):
    """Catches: Arrow's error, which names neither the file nor where in it."""
    path, table = tmp_path / "x.parquet", pa.table({"text": [f"row {i} " * 50 for i in range(300)]})
    pa.parquet.write_table(table, path, row_group_size=100, use_dictionary=False)
    content = bytearray(path.read_bytes())
    at = pa.parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset + 40
    content[at : at + 400] = b"\xff" * 400
    path.write_bytes(content)
    with pytest.raises(ValueError, match="x.parquet, row group 1: found a damaged page"):
        read(path)
    pa.parquet.write_table(pa.table({"text": ["a" * 50]}), path, compression="none", write_page_checksum=True)
    path.write_bytes(path.read_bytes().replace(b"aaaa", b"aaba", 1))
    with pytest.raises(ValueError, match="x.parquet, row group 0: found a damaged page"):
        read(path)


def test_a_cut_off_file_is_named(pages):
    """Catches: Arrow's error, which does not name the file."""
    pages.write_bytes(pages.read_bytes()[:-20])
    with pytest.raises(ValueError, match="web.parquet: found no complete Parquet file"):
        read(pages)
