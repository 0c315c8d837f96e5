"""Numbers by block or document, from files."""

import pathlib
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from helpers import write_side

from lfr_jax.data import score_files
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.column_files import read_column
from lfr_jax.data.tokenizer import Bytes


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Three blocks of 4 tokens; documents of 6 and 7."""
    store = write_side(tmp_path_factory.mktemp("store") / "train", [("one", "a", [range(6), range(7)])])
    return Blocks(store, 4)


def read(tmp_path, text, blocks, name="quality"):
    (tmp_path / "file.csv").write_text(text)
    return read_column(tmp_path / "file.csv", name, blocks)


def test_numbers_of_blocks_in_any_order(tmp_path, blocks):
    """Catches: rows taken in the order of the file; a column of another name where ours is there; NaN that stops it."""
    found = read(tmp_path, "block,quality,other\n2,0.5,9\n0,,9\n1,nan,8\n", blocks)
    np.testing.assert_array_equal(found, np.float32([np.nan, np.nan, 0.5]))
    assert found.dtype == np.float32
    assert read(tmp_path, "toxicity,block\n1,1\n2,2\n0.25,0\n", blocks).tolist() == [0.25, 1, 2]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, blocks):
    """As spreadsheets write it. Catches: the column '\\ufeffblock'."""
    assert read(tmp_path, "\ufeffblock,quality\n0,0.5\n1,1\n2,2\n", blocks).tolist() == [0.5, 1, 2]


def test_whole_numbers_stay_whole(tmp_path, blocks):
    """Catches: groups that come as floats; numbers cut to int32."""
    found = read(tmp_path, "block,topic\n0,7\n1,-1\n2,16777217\n", blocks)
    assert found.dtype == np.int32 and found.tolist() == [7, -1, 16777217]
    assert read(tmp_path, "block,topic\n0,7\n1,1\n2,2147483648\n", blocks).dtype == np.float32


def test_numbers_of_documents_are_averaged_by_tokens(tmp_path, blocks):
    """Catches: document ids taken for blocks; a mean that counts each document once."""
    found = read(tmp_path, "document,quality\n1,8\n0,4\n", blocks)
    assert found.dtype == np.float32 and found.tolist() == [4, 6, 8]
    np.testing.assert_array_equal(read(tmp_path, "document,quality\n1,8\n0,\n", blocks), np.float32([np.nan, 8, 8]))


def test_the_recipe_of_the_page_numbers_documents_as_the_store_does(tmp_path, monkeypatch):
    """Catches: a name on the page that does not exist; end-of-text in the text; the last document left out."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    texts = [b"first", b"the second", b"3rd"]
    store = write_side(tmp_path / "data/v1/train", [("one", "a", [[*text, 256] for text in texts])])
    Bytes().save(tmp_path / "data/v1/tokenizer")
    exec(code, {})
    first, second, third = 1.0, 0.9, 2 / 3  # letters
    expected = [first] * 3 + [second] * 5 + [(second + third) / 2, third]
    np.testing.assert_allclose(read_column("quality.csv", "quality", Blocks(store, 2)), expected, rtol=1e-6)


def test_parquet_and_scores(tmp_path, blocks):
    """Catches: a kind of file that goes by its name; the scores of other blocks."""
    table = pyarrow.table({"id": ["a", "b", "c"], "block": pyarrow.array([1, 0, 2], "int32"), "quality": [0.5, 1, 2.5]})
    pyarrow.parquet.write_table(table, tmp_path / "file")
    assert read_column(tmp_path / "file", "quality", blocks).tolist() == [1, 0.5, 2.5]
    scores = score_files.origin(blocks, 1) + "block,domain,loss\n0,a,3.5\n1,a,2\n2,a,1\n"
    assert read(tmp_path, scores, blocks).tolist() == [3.5, 2, 1]
    with pytest.raises(ValueError, match="losses of the store"):
        read(tmp_path, scores.replace("seq_len 4", "seq_len 5"), blocks)


@pytest.mark.parametrize(
    "text, error",
    [
        ("block,quality\n0,1\n2,1\n", r"block 1 is missing \(1 are\), expected each of 3 once"),
        ("block,quality\n0,1\n1,1\n2,1\n1,1\n", "block 1 is there more than once"),
        ("block,quality\n0,1\n1,1\n2,1\n3,1\n", "block 3 does not exist, expected 0 to 2: is the file of other data"),
        ("document,quality\n0,1\n1,1\n-1,1\n", "document -1 does not exist, expected 0 to 1"),
        ("block,quality\n0,1\n1,inf\n2,1\n", "block 1 has a number that is infinite"),
        ("block,quality\n0,1\n1,-1e39\n2,1\n", "block 1 has a number that is infinite, or too large for float32"),
        ("block\r1,quality\n", "found the columns"),
        ("block,quality\n0,\n1,nan\n2,NaN\n", "found no number in the column 'quality'"),
        ("block,quality\n0,1\n1,high\n2,1\n", "found no sound table of numbers"),
        ("block,quality\n0,1\n1.5,1\n2,1\n", "found no sound table of numbers"),
        ("block,quality\n0,1\n,1\n2,1\n", "found 1 empty cells and the type int64 in the column 'block'"),
        ("block,quality\n0,1\n1\n2,1\n", "found no sound table of numbers"),
        ("block,a,b\n0,1,1\n", "found the columns .*expected 'block' or 'document', which holds ids, and 'quality'"),
        ("block,document,quality\n0,1,1\n", "found the columns"),
        ("quality\n1\n2\n3\n", "found the columns"),
        ("", "found the columns"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, blocks, text, error):
    """Catches: a number that is made up for a block; a message that does not say which one; a number that becomes
    infinite in float32; an error of the reader of CSV where the bytes are no text."""
    with pytest.raises(ValueError, match=error) as raised:
        read(tmp_path, text, blocks)
    assert "file.csv" in str(raised.value) and "\n" not in str(raised.value)


def test_no_file(tmp_path, blocks):
    """Catches: an error of another program's library."""
    with pytest.raises(FileNotFoundError, match="found no file of the column 'quality'"):
        read_column(tmp_path / "none.csv", "quality", blocks)
