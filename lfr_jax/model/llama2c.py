"""Reads checkpoints of llama2.c (github.com/karpathy/llama2.c) in its first format: float32, no magic number.

They are small Llama models with published sample texts, which the tests compare with ours.
"""

import os
import pathlib
import struct

import numpy as np

from lfr_jax.config import ModelConfig, llama

HEADER = "<7i"  # dim, mlp_dim, layers, heads, kv heads, vocabulary (negative: own head), longest sequence


def load(path: str | os.PathLike) -> tuple[ModelConfig, dict]:
    """(config, params as float32 host arrays); `decoder.put_on_mesh` puts them on a mesh.

    Raises:
      ValueError: the file's size does not match its header.
    """
    raw = pathlib.Path(path).read_bytes()
    start = struct.calcsize(HEADER)
    if len(raw) < start:
        raise ValueError(f"{path} has {len(raw)} bytes, fewer than a llama2.c checkpoint's header ({start})")
    D, F, Y, H, K, V, S = struct.unpack(HEADER, raw[:start])
    tied, V = V > 0, abs(V)
    size = D // H if H else 0  # of a head
    shapes = dict(
        embedding=(V, D),
        attention_norm=(Y, D),
        query=(Y, H, size, D),
        key=(Y, K, size, D),
        value=(Y, K, size, D),
        out=(Y, D, H, size),
        mlp_norm=(Y, D),
        gate=(Y, F, D),
        down=(Y, D, F),
        up=(Y, F, D),
        norm=(D,),
        cos=(S, size // 2),
        sin=(S, size // 2),
        **({} if tied else dict(head=(V, D))),
    )
    expected = start + 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    if len(raw) != expected:
        raise ValueError(f"{path} has {len(raw)} bytes; its header {D, F, Y, H, K, V, S} asks for {expected}")
    w, offset = {}, start
    for name, shape in shapes.items():
        w[name] = np.frombuffer(raw, "<f4", int(np.prod(shape)), offset).reshape(shape)
        offset += w[name].nbytes

    def inputs_first(weight_YxoutxD):
        return np.moveaxis(weight_YxoutxD, -1, 1)

    params = {
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
        **({} if tied else {"head": w["head"].T}),
    }
    return llama(Y, D, H, K, F, vocab_size=V, max_len=S, tied_head=tied), params


def halves(weight_YxHxPxD):
    """Reorders the rows of each head from rotary pairs (0, 1), (2, 3), ... to our pairs (0, P/2), (1, P/2 + 1), ..."""
    Y, H, size, D = weight_YxHxPxD.shape
    return weight_YxHxPxD.reshape(Y, H, size // 2, 2, D).swapaxes(2, 3).reshape(Y, H, size, D)
