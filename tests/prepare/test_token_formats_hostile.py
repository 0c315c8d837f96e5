"""Token files that somebody edited: their layout lies within the file, or they are refused in one line."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import token_formats as written
from hostile import edited_bytes

from lfr_jax.prepare.token_formats import layout

SETTINGS = hypothesis.settings(deadline=None, max_examples=80, database=None)


def read_or_refused(path):
    size = path.stat().st_size
    try:
        found = layout(path, "<u2")
    except (ValueError, OSError) as error:
        assert path.stem in str(error) and "\n" not in str(error)
        return
    assert found.tokens >= 2 and found.offset + found.tokens * np.dtype(found.dtype).itemsize == size
    if found.doc_starts is not None:
        assert 0 <= found.doc_starts.min() <= found.doc_starts.max() < found.tokens
        assert (np.diff(found.doc_starts) > 0).all()


@SETTINGS
@hypothesis.given(data=st.data())
def test_numpy_and_llm_c(tmp_path_factory, data):
    """Catches: whatever NumPy raises for a header; counts that are negative or beyond the file."""
    path = tmp_path_factory.getbasetemp() / "hostile.npy"
    data.draw(st.sampled_from([written.numpy_array, written.llm_c, written.llm_c_llama3]))(path, range(40))
    raw = path.read_bytes()
    size = 1024 if raw[:1] != b"\x93" else 128
    path.write_bytes(data.draw(edited_bytes(raw[:size])) + raw[size:])
    read_or_refused(path)


@SETTINGS
@hypothesis.given(data=st.data())
def test_megatron(tmp_path_factory, data):
    """Catches: counts, lengths and edges of an index that lie outside the file, or overflow."""
    path = tmp_path_factory.getbasetemp() / "hostile.bin"
    written.megatron(path, [[1, 2], [3], [4, 5, 6], [7], [8, 1]], [0, 2, 3, 5])
    index = path.with_suffix(".idx")
    index.write_bytes(data.draw(edited_bytes(index.read_bytes())))
    read_or_refused(path)
