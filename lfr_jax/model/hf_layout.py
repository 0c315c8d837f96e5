"""Names and shapes of the tensors of Hugging Face's GPT-2 and Llama, and where each lies in our params."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from lfr_jax.config import ModelConfig

PREFIX = {"gpt2": "transformer.", "llama": "model."}  # the headless models, and what OpenAI published, have none

# Buffers that older files hold: causal masks and rotary frequencies. transformers ignores them too.
BUFFERS = {
    "gpt2": r"h\.\d+\.attn\.(masked_)?bias",
    "llama": r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
}


class HfTensor(NamedTuple):
    """One tensor of theirs: one array of ours, or several side by side, of the whole model or of one layer."""

    name: str
    paths: tuple[str, ...]  # in our params: "layers.mlp.up.kernel"
    shape: tuple[int, ...]  # of each of ours, without the axis of layers
    inputs: int = 0  # so many leading axes of ours are the rows of a matrix [in, out]; 0: theirs has one axis
    transposed: bool = False  # theirs is [out, in]
    layer: int | None = None

    @property
    def stored_shape(self) -> tuple[int, ...]:
        rows, columns = math.prod(self.shape[: self.inputs]), math.prod(self.shape[self.inputs :]) * len(self.paths)
        if not self.inputs:
            return (columns,)
        return (columns, rows) if self.transposed else (rows, columns)


def hf_tensors(family: str, config: ModelConfig) -> Iterator[HfTensor]:
    """All tensors of a model, one by one."""
    if not config.tied_head:
        yield HfTensor("lm_head.weight", ("head",), (config.dim, config.vocab_size), 1, True)
    yield from {"gpt2": gpt2_tensors, "llama": llama_tensors}[family](config)


def gpt2_tensors(config: ModelConfig) -> Iterator[HfTensor]:
    """Weights are [in, out]; query, key and value are one matrix."""
    D, H, F = config.dim, config.num_heads, config.mlp_dim
    head_dim, at = D // H, PREFIX["gpt2"]
    yield HfTensor(at + "wte.weight", ("embedding",), (config.vocab_size, D), 1)
    yield HfTensor(at + "wpe.weight", ("positions",), (config.max_len, D), 1)
    yield HfTensor(at + "ln_f.weight", ("norm.scale",), (D,))
    yield HfTensor(at + "ln_f.bias", ("norm.bias",), (D,))
    qkv = ("query", "key", "value")
    for layer in range(config.num_layers):
        for theirs, names, shape, inputs in (
            ("attn.c_attn", [f"attention.{name}" for name in qkv], (D, H, head_dim), 1),
            ("attn.c_proj", ["attention.out"], (H, head_dim, D), 2),
            ("mlp.c_fc", ["mlp.up"], (D, F), 1),
            ("mlp.c_proj", ["mlp.down"], (F, D), 1),
        ):
            kernels, biases = (tuple(f"layers.{name}.{part}" for name in names) for part in ("kernel", "bias"))
            yield HfTensor(f"{at}h.{layer}.{theirs}.weight", kernels, shape, inputs, layer=layer)
            yield HfTensor(f"{at}h.{layer}.{theirs}.bias", biases, shape[inputs:], layer=layer)
        for theirs, ours in (("ln_1", "attention_norm"), ("ln_2", "mlp_norm")):
            for part, name in (("weight", "scale"), ("bias", "bias")):
                yield HfTensor(f"{at}h.{layer}.{theirs}.{part}", (f"layers.{ours}.{name}",), (D,), layer=layer)


def llama_tensors(config: ModelConfig) -> Iterator[HfTensor]:
    """Weights are [out, in]; there are no biases."""
    D, H, K, F = config.dim, config.num_heads, config.num_kv_heads, config.mlp_dim
    head_dim, at = D // H, PREFIX["llama"]
    yield HfTensor(at + "embed_tokens.weight", ("embedding",), (config.vocab_size, D), 1)
    yield HfTensor(at + "norm.weight", ("norm.scale",), (D,))
    for layer in range(config.num_layers):
        for theirs, ours, shape, inputs in (
            ("self_attn.q_proj", "attention.query", (D, H, head_dim), 1),
            ("self_attn.k_proj", "attention.key", (D, K, head_dim), 1),
            ("self_attn.v_proj", "attention.value", (D, K, head_dim), 1),
            ("self_attn.o_proj", "attention.out", (H, head_dim, D), 2),
            ("mlp.gate_proj", "mlp.gate", (D, F), 1),
            ("mlp.up_proj", "mlp.up", (D, F), 1),
            ("mlp.down_proj", "mlp.down", (F, D), 1),
        ):
            paths = (f"layers.{ours}.kernel",)
            yield HfTensor(f"{at}layers.{layer}.{theirs}.weight", paths, shape, inputs, True, layer)
        for theirs, ours in (("input_layernorm", "attention_norm"), ("post_attention_layernorm", "mlp_norm")):
            yield HfTensor(f"{at}layers.{layer}.{theirs}.weight", (f"layers.{ours}.scale",), (D,), layer=layer)
