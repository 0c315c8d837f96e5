"""Where tokens and documents lie in other programs' files; and files that are broken, or are something else."""

import os
import pathlib

import numpy as np
import pytest
import token_formats as written

from lfr_jax.prepare.token_formats import layout

SHARED = pathlib.Path(__file__).parents[3] / "shared/data/megatron/meg-gpt2-openwebtext_text_document.bin"
TOKENS = [5, 3, 9, 1, 9, 7]


@pytest.mark.parametrize(
    ("write", "name", "dtype", "offset"),
    [
        (written.nanogpt, "train.bin", "<u2", 0),
        (written.olmo, "part-0.npy", "<u4", 0),
        (written.numpy_array, "real.npy", "<u4", 128),
        (written.llm_c, "fineweb.bin", "<u2", 1024),
        (written.llm_c_llama3, "fineweb.bin", "<u4", 1024),
    ],
)
def test_each_format_is_recognised(tmp_path, write, name, dtype, offset):
    """Catches: a header read as tokens; a name believed before the first bytes; a type other than the file's."""
    write(tmp_path / name, TOKENS)
    found = layout(tmp_path / name, "<u4" if write is written.olmo else "<u2")
    assert found == (dtype, offset, len(TOKENS), None)
    assert np.fromfile(tmp_path / name, dtype, offset=offset).tolist() == TOKENS


@pytest.mark.parametrize(("code", "dtype"), [(8, "<u2"), (4, "<i4"), (1, "|u1"), (5, "<i8")])
def test_megatron(tmp_path, code, dtype):
    """Catches: sequences taken for documents; documents without a token kept; a wrong type for a code."""
    sequences = [[5, 3], [9], [1, 9, 7], [8], [2, 2]]
    written.megatron(tmp_path / "m.bin", sequences, [0, 2, 2, 3, 5, 5], code, dtype)
    found = layout(tmp_path / "m.bin", "<u2")
    assert (found.dtype, found.offset, found.tokens) == (dtype, 0, 9)
    assert found.doc_starts.tolist() == [0, 3, 6] and found.doc_starts.dtype == np.int64


@pytest.mark.skipif(not SHARED.exists(), reason="the Megatron file of ../shared is not here")
def test_a_real_megatron_file():
    """Catches: a layout that only our own writer knows. Each document ends with end-of-text there."""
    found = layout(SHARED, "<u2")
    tokens = np.fromfile(SHARED, found.dtype)
    assert found.tokens == len(tokens) == 1361845 and len(found.doc_starts) == 1000
    np.testing.assert_array_equal(found.doc_starts, [0, *np.flatnonzero(tokens == 4999)[:-1] + 1])


def broken_index(tmp_path, change):
    written.megatron(tmp_path / "m.bin", [[5, 3], [9]], [0, 1, 2])
    index = tmp_path / "m.idx"
    index.write_bytes(change(index.read_bytes()))
    return tmp_path / "m.bin"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: b"MMIDIDY" + raw[7:], "found no Megatron index of version 1"),
        (lambda raw: raw[:9] + b"\x02" + raw[10:], "found no Megatron index of version 1"),
        (lambda raw: raw[:20], "found no Megatron index of version 1"),
        (lambda raw: raw[:17] + b"\x07" + raw[18:], "found tokens of type number 7, expected one of"),
        (lambda raw: b"", "found no Megatron index of version 1"),
        (lambda raw: raw[:-1], "found 81 bytes, expected 82.*cut off, or is multimodal"),
        (lambda raw: raw[:18] + b"\xff" * 8 + raw[26:], "found 82 bytes, expected 2213609"),
        (lambda raw: raw[:34] + np.array([3, -1], "<i4").tobytes() + raw[42:50] + b"\x06" + raw[51:], "out of order"),
        (lambda raw: raw + b"\x00\x01", "found 84 bytes, expected 82"),
        (lambda raw: raw[:50] + b"\x05" + raw[51:], "found sequences out of order or with gaps"),
        (lambda raw: raw[:-8] + b"\x01" + raw[-7:], "document edges that do not run from 0 to 2"),
    ],
)
def test_a_broken_index_is_refused(tmp_path, change, message):
    """Catches: each check of the index, left out: documents or tokens would be taken from wrong places."""
    with pytest.raises(ValueError, match=message):
        layout(broken_index(tmp_path, change), "<u2")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("odd.bin", b"\x01\x00\x02", "found 3 bytes, expected 2: 1 tokens of type <u2"),
        ("one.bin", b"\x01\x00", "found 1 tokens, expected at least two"),
        ("empty.bin", b"", "found 0 tokens"),
        ("cut.bin", np.array([20240520, 1, 7] + [0] * 253, "<i4").tobytes() + b"\x01\x00", "expected 1038: 7 tokens"),
        ("cut.npy", b"\x93NUMPY\x01\x00", "found a broken NumPy array"),
    ],
    ids=["half a token", "one token", "empty", "llm.c", "NumPy"],
)
def test_a_file_that_was_cut_off_is_refused(tmp_path, name, content, message):
    """Catches: half a token dropped; a header's count not compared with the size."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        layout(tmp_path / name, "<u2")


@pytest.mark.parametrize(("magic", "version"), [(20240520, 2), (20240801, 1), (20240522, 1), (20240326, 3)])
def test_an_llm_c_file_of_another_kind_is_refused(tmp_path, magic, version):
    """Catches: a header that is not known linked as tokens, where the vocabulary has room for its numbers."""
    written.llm_c(tmp_path / "a.bin", TOKENS * 100, magic, version)
    with pytest.raises(ValueError, match=f"llm.c file of another kind .{magic}, version {version}., expected tokens"):
        layout(tmp_path / "a.bin", "<u4")


def test_the_index_of_another_file_is_refused(tmp_path):
    """Catches: an index believed whose tokens are not those of the file; advice that does not apply."""
    written.megatron(tmp_path / "m.bin", [[5, 3], [9]], [0, 1, 2])
    (tmp_path / "m.bin").write_bytes(b"\1\0" * 4)
    with pytest.raises(ValueError, match="m.bin: found 8 bytes, expected 6: .* does not belong to .*m.idx"):
        layout(tmp_path / "m.bin", "<u2")


def test_only_regular_files_are_opened(tmp_path):
    """Catches: a pipe that is opened and never ends."""
    os.mkfifo(tmp_path / "a.bin")
    with pytest.raises(OSError, match="a.bin: found a named pipe"):
        layout(tmp_path / "a.bin", "<u2")
    written.nanogpt(tmp_path / "b.bin", TOKENS)
    os.mkfifo(tmp_path / "b.idx")
    with pytest.raises(OSError, match="b.idx: found a named pipe"):
        layout(tmp_path / "b.bin", "<u2")


@pytest.mark.parametrize("array", [np.zeros((2, 3), "<u2"), np.zeros(6, "<f4"), np.zeros(6, ">u2")])
def test_an_array_of_something_else_is_refused(tmp_path, array):
    """Catches: rows run together, floats or swapped bytes read as ids."""
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match="expected one dimension of little-endian integers"):
        layout(tmp_path / "a.npy", "<u2")
