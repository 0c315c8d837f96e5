"""Token files as other programs write them, for tests: from the layouts that are documented, by code of our own."""

import struct

import numpy as np


def nanogpt(path, tokens):
    np.asarray(tokens).astype("<u2").tofile(path)


def olmo(path, tokens, dtype="<u4"):
    """A raw memory map, whatever its name says."""
    np.asarray(tokens).astype(dtype).tofile(path)


def numpy_array(path, tokens):
    np.save(path, np.asarray(tokens).astype("<u4"))


def llm_c(path, tokens, magic=20240520, version=1, dtype="<u2"):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens)
    path.write_bytes(header.tobytes() + np.asarray(tokens).astype(dtype).tobytes())


def llm_c_llama3(path, tokens):
    llm_c(path, tokens, 20240801, 7, "<u4")


def megatron(path, sequences, first_sequences, code=8, dtype="<u2", modes=b""):
    """`sequences`: lists of tokens; `first_sequences`: of each document, then the number of sequences."""
    lengths = [len(sequence) for sequence in sequences]
    starts = np.cumsum([0, *lengths[:-1]]) * np.dtype(dtype).itemsize
    path.write_bytes(b"".join(np.array(sequence, dtype).tobytes() for sequence in sequences))
    path.with_suffix(".idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, code, len(lengths), len(first_sequences))
        + np.array(lengths, "<i4").tobytes()
        + starts.astype("<i8").tobytes()
        + np.array(first_sequences, "<i8").tobytes()
        + modes
    )
