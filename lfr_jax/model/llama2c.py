"""Reads checkpoints of llama2.c (github.com/karpathy/llama2.c) in its first format: float32, no magic number.

They are small Llama models with published sample texts, which the tests compare with ours.
"""

import math
import os
import pathlib
import struct
from typing import BinaryIO, NamedTuple

import numpy as np

from lfr_jax.config import ModelConfig, llama
from lfr_jax.storage.files import require_regular

LATER = struct.pack("<I", 0x616B3432)  # "ak42": begins the files of version 1 and 2
THETA = 10_000.0  # base of the rotary frequencies


class Header(NamedTuple):
    """The first bytes: seven int32."""

    dim: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int  # negative in the file: there is a head
    max_len: int


HEADER = struct.Struct("<7i")


def load(path: str | os.PathLike) -> tuple[ModelConfig, dict]:
    """(config, params as float32 host arrays); `decoder.put_on_mesh` puts them on a mesh.

    Raises:
      OSError: there is no such file, or it is no regular file.
      ValueError: another version of the format, a header that no model has, a size that does not match the header,
        numbers that are NaN or infinite, or rotary frequencies of another base.
    """
    path = pathlib.Path(path)
    require_regular(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(HEADER.size)
        if head.startswith(LATER):
            raise ValueError(f"{path}: found a llama2.c file of a later version (ak42), expected version 0")
        if len(head) < HEADER.size:
            raise ValueError(f"{path} has {size} bytes, fewer than a llama2.c checkpoint's header ({HEADER.size})")
        header = Header(*HEADER.unpack(head))
        tied, header = header.vocab_size > 0, header._replace(vocab_size=abs(header.vocab_size))
        if min(header) < 1:
            raise ValueError(f"{path}: found {header}, expected sizes of at least 1: this is no llama2.c checkpoint")
        try:
            config = model_config(header, tied)
        except ValueError as error:
            raise ValueError(f"{path}: found {header}: {error}") from None
        shapes = weight_shapes(config)
        expected = HEADER.size + 4 * sum(map(math.prod, shapes.values()))
        if size != expected:
            raise ValueError(f"{path} has {size} bytes; its header {tuple(header)} asks for {expected}")
        w = {name: read(file, shape) for name, shape in shapes.items()}
    for name, array in w.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: found numbers in {name} that are NaN or infinite, expected none")
    refuse_other_frequencies(path, w["cos"], w["sin"])
    return config, to_params(w)


def model_config(header: Header, tied: bool) -> ModelConfig:
    sizes = (header.num_layers, header.dim, header.num_heads, header.num_kv_heads, header.mlp_dim)
    return llama(*sizes, vocab_size=header.vocab_size, max_len=header.max_len, rope_theta=THETA, tied_head=tied)


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The arrays of a file, in their order."""
    D, F, Y, V, S = config.dim, config.mlp_dim, config.num_layers, config.vocab_size, config.max_len
    H, K, head_dim = config.num_heads, config.num_kv_heads, config.dim // config.num_heads
    shapes: dict[str, tuple[int, ...]] = dict(
        embedding=(V, D),
        attention_norm=(Y, D),
        query=(Y, H, head_dim, D),
        key=(Y, K, head_dim, D),
        value=(Y, K, head_dim, D),
        out=(Y, D, H, head_dim),
        mlp_norm=(Y, D),
        gate=(Y, F, D),
        down=(Y, D, F),
        up=(Y, F, D),
        norm=(D,),
        cos=(S, head_dim // 2),
        sin=(S, head_dim // 2),
    )
    return shapes if config.tied_head else shapes | {"head": (V, D)}


def read(file: BinaryIO, shape: tuple[int, ...]) -> np.ndarray:
    """The next array of a file: float32."""
    return np.frombuffer(file.read(4 * math.prod(shape)), "<f4").reshape(shape)


def refuse_other_frequencies(path: pathlib.Path, cos_SxI: np.ndarray, sin_SxI: np.ndarray) -> None:
    """Raises ValueError unless a rotary table (S positions, I frequencies) is that of `THETA`, as llama2.c has it."""
    S, half = cos_SxI.shape
    angle_SxI = np.arange(S)[:, None] * THETA ** (-np.arange(half) / half)[None]
    if not (np.allclose(cos_SxI, np.cos(angle_SxI), atol=1e-2) and np.allclose(sin_SxI, np.sin(angle_SxI), atol=1e-2)):
        raise ValueError(f"{path}: found another table of rotary frequencies than that of base {THETA:g}, expected it")


def to_params(w: dict[str, np.ndarray]) -> dict:
    """The arrays of a file as our params."""

    def inputs_first(weight_YxoutxD):
        return np.moveaxis(weight_YxoutxD, -1, 1)

    return {
        "embedding": w["embedding"],
        "layers": {
            "attention_norm": {"scale": w["attention_norm"]},
            "attention": {
                "query": {"kernel": inputs_first(halves(w["query"]))},
                "key": {"kernel": inputs_first(halves(w["key"]))},
                "value": {"kernel": inputs_first(w["value"])},
                "out": {"kernel": np.moveaxis(w["out"], 1, -1)},
            },
            "mlp_norm": {"scale": w["mlp_norm"]},
            "mlp": {name: {"kernel": inputs_first(w[name])} for name in ("gate", "up", "down")},
        },
        "norm": {"scale": w["norm"]},
        **({"head": w["head"].T} if "head" in w else {}),
    }


def halves(weight_YxHxPxD):
    """Reorders the rows of each head from rotary pairs (0, 1), (2, 3), ... to our pairs (0, P/2), (1, P/2 + 1), ..."""
    Y, H, size, D = weight_YxHxPxD.shape
    return weight_YxHxPxD.reshape(Y, H, size // 2, 2, D).swapaxes(2, 3).reshape(Y, H, size, D)
