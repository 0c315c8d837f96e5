"""Token files of other programs: where the tokens are, and where documents start if the file says so.

| format | on disk | documents |
|---|---|---|
| nanoGPT | `.bin`: only tokens, uint16 | end at end-of-text |
| OLMo, Dolma | `.npy` without NumPy's header: only tokens, uint16 or uint32 | end at end-of-text |
| NumPy | `.npy` with the header: one dimension, integers | end at end-of-text |
| llm.c | `.bin`: 256 int32, then tokens, uint16 or (Llama 3's) uint32 | are separated by end-of-text |
| Megatron | `.bin`: only tokens; `.idx` beside it: their type, and the documents | as the `.idx` says |

References:
  nanoGPT: data/openwebtext/prepare.py of karpathy/nanoGPT.
  OLMo: olmo/data/memmap_dataset.py of allenai/OLMo, which reads from byte 0, uint16 by default.
  llm.c: dev/data/data_common.py of karpathy/llm.c: a magic number, a version, the number of tokens.
  Megatron: megatron/core/datasets/indexed_dataset.py of NVIDIA/Megatron-LM.
"""

import itertools
import pathlib
import struct
from typing import BinaryIO, NamedTuple

import numpy as np

from lfr_jax.storage.files import require_regular
from lfr_jax.terminal import printable

LLM_C = {(20240520, 1): "<u2", (20240801, 7): "<u4"}  # type of the tokens by magic number and version
# Others of llm.c: checkpoints, states for debugging, tokenizers, multiple-choice questions.
LLM_C_OTHERS = (20240326, 20240327, 20240328, 20240522)
LLM_C_HEADER = 256 * 4  # bytes
MEGATRON = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1)  # magic, version
MEGATRON_DTYPES = {1: "|u1", 2: "|i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # 6 and 7 are floats
MEGATRON_HEADER = len(MEGATRON) + struct.calcsize("<BQQ")  # bytes: a type, the numbers of sequences and documents


class Layout(NamedTuple):
    """Where a file's tokens are. They go to the end of the file."""

    dtype: str
    offset: int  # bytes before the first one
    tokens: int
    doc_starts: np.ndarray | None  # int64, rising from 0; None: the file does not say


def layout(path: pathlib.Path, dtype: str) -> Layout:
    """The layout of a token file.

    Args:
      dtype: NumPy type of the tokens, if the file has no header.

    Raises:
      ValueError: the file is broken, or has fewer than two tokens.
    """
    require_regular(path)
    index, size = path.with_suffix(".idx"), path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(12)
        magic, version, tokens = struct.unpack("<3i", head.ljust(12, b"\0"))
        if path.suffix == ".bin" and index.exists():
            found = megatron(index)
        elif head.startswith(b"\x93NUMPY"):
            found = numpy_array(path, file)
        elif magic in LLM_C_OTHERS or magic in (known for known, _ in LLM_C):
            found = llm_c(path, magic, version, tokens)
        else:
            found = Layout(dtype, 0, size // np.dtype(dtype).itemsize, None)
    expected = found.offset + found.tokens * np.dtype(found.dtype).itemsize
    if size != expected:
        other = f"it does not belong to {index}" if found.doc_starts is not None else "its tokens are of another type"
        raise ValueError(
            f"{path}: found {size} bytes, expected {expected}: {found.tokens} tokens of type {found.dtype} after "
            f"{found.offset} bytes; the file was cut off, or {other}{' (--dtype)' if not found.offset else ''}"
        )
    if found.tokens < 2:
        raise ValueError(f"{path}: found {found.tokens} tokens, expected at least two; leave the file out")
    return found


def llm_c(path: pathlib.Path, magic: int, version: int, tokens: int) -> Layout:
    """The layout of a file with a header of llm.c. Raises ValueError if it holds something else than tokens."""
    if (magic, version) not in LLM_C:
        known = " or ".join(f"{magic} of version {version}" for magic, version in LLM_C)
        raise ValueError(
            f"{path}: found an llm.c file of another kind ({magic}, version {version}), expected tokens: {known}"
        )
    return Layout(LLM_C[magic, version], LLM_C_HEADER, tokens, None)


def numpy_array(path: pathlib.Path, file: BinaryIO) -> Layout:
    """The layout of a `.npy` file with a header."""
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(file)
    except Exception as error:  # NumPy evaluates the header as Python, and what that raises has no end
        reason = printable(f"{type(error).__name__}: {error}")
        raise ValueError(f"{path}: found a broken NumPy array ({reason})") from None
    if len(shape) != 1 or dtype.kind not in "iu" or dtype.byteorder == ">":
        raise ValueError(
            f"{path}: found an array of shape {shape} and type {dtype.str}, expected one dimension of little-endian "
            "integers"
        )
    return Layout(dtype.str, file.tell(), shape[0], None)


def megatron(index: pathlib.Path) -> Layout:
    """The layout that an `.idx` gives.

    Behind its header are the lengths of the sequences i32[S], their first bytes i64[S], and the first sequence of each
    document i64[D + 1], the last of which is S. A multimodal one has S more bytes.
    """
    require_regular(index)
    raw = np.memmap(index, np.uint8, "r") if index.stat().st_size else np.zeros(0, np.uint8)
    if len(raw) < MEGATRON_HEADER or bytes(raw[: len(MEGATRON)]) != MEGATRON:
        raise ValueError(f"{index}: found no Megatron index of version 1; expected one beside the .bin")
    code, num_sequences, num_edges = struct.unpack("<BQQ", bytes(raw[len(MEGATRON) : MEGATRON_HEADER]))
    if code not in MEGATRON_DTYPES:
        raise ValueError(f"{index}: found tokens of type number {code}, expected one of {[*MEGATRON_DTYPES]}: integers")
    edges = [*itertools.accumulate((MEGATRON_HEADER, 4 * num_sequences, 8 * num_sequences, 8 * num_edges))]
    if len(raw) != edges[-1]:
        raise ValueError(
            f"{index}: found {len(raw)} bytes, expected {edges[-1]}, for {num_sequences} sequences of text and "
            f"{num_edges} document edges: it was cut off, or is multimodal"
        )
    length_S, byte_S, first_D1 = (raw[a:b].view(dtype) for a, b, dtype in zip(edges, edges[1:], ("<i4", "<i8", "<i8")))
    starts_S1 = np.concatenate([[0], np.cumsum(length_S, dtype=np.int64)])
    if (length_S < 0).any() or not np.array_equal(byte_S, starts_S1[:-1] * np.dtype(MEGATRON_DTYPES[code]).itemsize):
        raise ValueError(f"{index}: found sequences out of order or with gaps, expected them one after the other")
    if not (len(first_D1) and first_D1[0] == 0 and first_D1[-1] == num_sequences and (np.diff(first_D1) >= 0).all()):
        raise ValueError(f"{index}: found document edges that do not run from 0 to {num_sequences}, the sequences")
    doc_starts = np.unique(starts_S1[first_D1])  # a document without tokens starts where the next one starts
    return Layout(MEGATRON_DTYPES[code], 0, int(starts_S1[-1]), doc_starts[doc_starts < starts_S1[-1]])
