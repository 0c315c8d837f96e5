"""Token files that somebody edited: their layout lies within the file, or they are refused in one line."""

import numpy as np
import pytest
import token_formats as written
from hostile import each_edit, edited_bytes

from lfr_jax.prepare.token_formats import layout


def read(path):
    found = layout(path, "<u2")
    assert found.tokens >= 2
    assert found.offset + found.tokens * np.dtype(found.dtype).itemsize == path.stat().st_size
    if found.doc_starts is not None:
        assert 0 <= found.doc_starts.min() <= found.doc_starts.max() < found.tokens
        assert (np.diff(found.doc_starts) > 0).all()


@pytest.mark.parametrize(
    "write, header", [(written.numpy_array, 128), (written.llm_c, 1024), (written.llm_c_llama3, 1024)]
)
def test_numpy_and_llm_c(tmp_path, write, header):
    """Catches: whatever NumPy raises for a header; counts that are negative or beyond the file."""
    path = tmp_path / "hostile.npy"
    write(path, range(40))
    each_edit(path, lambda raw: edited_bytes(raw[:header]).map(lambda head: head + raw[header:]), lambda: read(path))


def test_megatron(tmp_path):
    """Catches: counts, lengths and edges of an index that lie outside the file, or overflow."""
    path = tmp_path / "hostile.bin"
    written.megatron(path, [[1, 2], [3], [4, 5, 6], [7], [8, 1]], [0, 2, 3, 5])
    each_edit(path.with_suffix(".idx"), edited_bytes, lambda: read(path), named=path.with_suffix(""))
