"""Checkpoints of llama2.c: their sizes, and what is refused. Their results are judged in test_generate.py."""

import os
import struct

import numpy as np
import pytest

from lfr_jax.model import llama2c
from lfr_jax.model.llama2c import Header

HEADER = Header(dim=8, mlp_dim=16, num_layers=1, num_heads=2, num_kv_heads=1, vocab_size=32, max_len=16)


def content(header=HEADER, rotary_base=10_000.0) -> bytes:
    """A checkpoint of random numbers."""
    config = llama2c.model_config(header._replace(vocab_size=abs(header.vocab_size)), header.vocab_size > 0)
    random = np.random.default_rng(0)
    arrays = {name: random.normal(0, 1, shape) for name, shape in llama2c.weight_shapes(config).items()}
    angle = np.arange(header.max_len)[:, None] * rotary_base ** (-np.arange(2) / 2)[None]
    arrays |= {"cos": np.cos(angle), "sin": np.sin(angle)}
    return struct.pack("<7i", *header) + b"".join(array.astype("<f4").tobytes() for array in arrays.values())


def header_with(**changes) -> bytes:
    return struct.pack("<7i", *HEADER._replace(**changes)) + content()[28:]


@pytest.mark.parametrize("vocab_size", [32, -32])
def test_reads(vocab_size, tmp_path):
    """Catches: a negative vocabulary taken for a size; the head read where there is none."""
    (tmp_path / "m.bin").write_bytes(content(HEADER._replace(vocab_size=vocab_size)))
    config, params = llama2c.load(tmp_path / "m.bin")
    assert (config.vocab_size, config.tied_head) == (32, vocab_size > 0)
    assert ("head" in params) == (vocab_size < 0)


def not_finite() -> bytes:
    raw = bytearray(content())
    raw[28:32] = struct.pack("<f", np.nan)
    return bytes(raw)


BAD = {
    "short": (b"\0" * 8, "has 8 bytes, fewer than a llama2.c checkpoint's header .28."),
    "zeros": (b"\0" * 100, "expected sizes of at least 1: this is no llama2.c checkpoint"),
    "later version": (struct.pack("<Ii", 0x616B3432, 1) + content(), "of a later version .ak42., expected version 0"),
    "cut off": (content()[:-4], "bytes; its header .* asks for"),
    "too long": (content() + b"\0\0\0\0", "bytes; its header .* asks for"),
    "no head": (header_with(vocab_size=-32), "bytes; its header .* asks for"),
    "huge": (header_with(max_len=2**31 - 1, dim=2**30, mlp_dim=2**31 - 1), "bytes; its header .* asks for"),
    "heads": (header_with(num_heads=3), "found Header.*not divisible"),
    "negative": (header_with(num_kv_heads=-1), "expected sizes of at least 1"),
    "odd heads": (header_with(num_heads=8), "found Header.*expected an even width"),
    "NaN": (not_finite(), "found numbers in embedding that are NaN or infinite"),
    "rotary": (content(rotary_base=1e6), "another table of rotary frequencies than that of base 10000"),
}


@pytest.mark.parametrize("raw, message", BAD.values(), ids=BAD)
def test_refuses(raw, message, tmp_path):
    """Catches: a short file or something else read as weights; memory for what a header only says."""
    (tmp_path / "m.bin").write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        llama2c.load(tmp_path / "m.bin")


def test_refuses_a_pipe(tmp_path):
    """Catches: a reader that waits for ever."""
    os.mkfifo(tmp_path / "m.bin")
    with pytest.raises(OSError, match="found a named pipe"):
        llama2c.load(tmp_path / "m.bin")
