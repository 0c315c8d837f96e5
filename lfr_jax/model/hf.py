"""Reads and writes Hugging Face folders (config.json, model.safetensors) of GPT-2 and Llama models.

They are the folders of transformers' GPT2LMHeadModel and LlamaForCausalLM. transformers itself is not needed.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping

import jax
import numpy as np
import safetensors
import safetensors.numpy

from lfr_jax.config import ModelConfig, gpt2, llama

WEIGHTS = "model.safetensors"


def export(params, config: ModelConfig, tokenizer_dir: str | os.PathLike | None, out_dir: str | os.PathLike) -> None:
    """Writes a folder for `GPT2LMHeadModel.from_pretrained` or `LlamaForCausalLM.from_pretrained`.

    Weights are float32. The files of `tokenizer_dir` are copied into the folder.

    Raises:
      ValueError: the model is neither a GPT-2 nor a Llama.
      FileExistsError: `out_dir` exists.
    """
    family = _family(config)
    out = pathlib.Path(out_dir)
    out.mkdir(parents=True)
    if tokenizer_dir is not None:
        shutil.copytree(tokenizer_dir, out, dirs_exist_ok=True)
    host = jax.tree.map(lambda leaf: np.asarray(jax.device_get(leaf), np.float32), params)
    tensors = {"gpt2": _gpt2_tensors, "llama": _llama_tensors}[family](host, config)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(_to_json(family, config), indent=2) + "\n")


def load(model_dir: str | os.PathLike) -> tuple[ModelConfig, dict]:
    """(config, params as float32 host arrays) of a GPT-2 or Llama folder; `decoder.put_on_mesh` puts them on a mesh.

    Raises:
      FileNotFoundError: config.json or a safetensors file is missing.
      ValueError: another architecture, or a variant of these two that our decoder does not have.
    """
    folder = pathlib.Path(model_dir)
    settings = json.loads((folder / "config.json").read_text())
    config = _from_json(settings, folder)
    tensors = _read_tensors(folder)
    read = {"gpt2": _gpt2_params, "llama": _llama_params}[settings["model_type"]]
    return config, read(tensors, config)


def _family(config: ModelConfig) -> str:
    parts = config.positions, config.norm, config.mlp, config.bias
    if parts == ("learned", "layernorm", "gelu", True) and config.num_heads == config.num_kv_heads:
        return "gpt2"
    if parts == ("rope", "rmsnorm", "swiglu", False):
        return "llama"
    raise ValueError(
        f"(positions, norm, mlp, bias) = {parts} with {config.num_kv_heads} key heads for {config.num_heads} "
        "is neither GPT-2 (learned, layernorm, gelu, True, as many) nor Llama (rope, rmsnorm, swiglu, False)"
    )


def _to_json(family: str, config: ModelConfig) -> dict:
    if family == "gpt2":
        return dict(
            model_type="gpt2",
            architectures=["GPT2LMHeadModel"],
            vocab_size=config.vocab_size,
            n_positions=config.max_len,
            n_embd=config.dim,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            n_inner=config.mlp_dim,
            activation_function="gelu_new",
            layer_norm_epsilon=config.norm_eps,
            tie_word_embeddings=config.tied_head,
            torch_dtype="float32",
        )
    return dict(
        model_type="llama",
        architectures=["LlamaForCausalLM"],
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_len,
        hidden_size=config.dim,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        intermediate_size=config.mlp_dim,
        hidden_act="silu",
        rms_norm_eps=config.norm_eps,
        rope_theta=config.rope_theta,
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=config.tied_head,
        torch_dtype="float32",
    )


def _from_json(s: Mapping, folder: pathlib.Path) -> ModelConfig:
    """Our config from config.json. Missing keys have the defaults of transformers' GPT2Config or LlamaConfig."""

    def expect(key: str, *values) -> None:
        if s.get(key, values[0]) not in values:
            expected = " or ".join(map(repr, values))
            raise ValueError(f"{folder}/config.json has {key}={s[key]!r}; expected {expected}")

    expect("model_type", "gpt2", "llama")
    if s["model_type"] == "gpt2":
        expect("activation_function", "gelu_new", "gelu_pytorch_tanh")
        expect("scale_attn_weights", True)
        expect("scale_attn_by_inverse_layer_idx", False)
        return gpt2(
            s["n_layer"],
            s["n_embd"],
            s["n_head"],
            mlp_dim=s.get("n_inner") or 4 * s["n_embd"],
            vocab_size=s["vocab_size"],
            max_len=s["n_positions"],
            norm_eps=s.get("layer_norm_epsilon", 1e-5),
            tied_head=s.get("tie_word_embeddings", True),
        )
    expect("hidden_act", "silu")
    expect("attention_bias", False)
    expect("mlp_bias", False)
    expect("head_dim", None, s["hidden_size"] // s["num_attention_heads"])
    rope = s.get("rope_parameters") or s.get("rope_scaling") or {}  # transformers 5 keeps theta in the former
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"{folder}/config.json scales rotary positions ({kind!r}); expected 'default'")
    return llama(
        s["num_hidden_layers"],
        s["hidden_size"],
        s["num_attention_heads"],
        s.get("num_key_value_heads") or s["num_attention_heads"],
        s["intermediate_size"],
        vocab_size=s["vocab_size"],
        max_len=s["max_position_embeddings"],
        norm_eps=s.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope.get("rope_theta", s.get("rope_theta", 10_000.0))),
        tied_head=s.get("tie_word_embeddings", False),
    )


def _read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors as float32, from one file or from those that an index names."""
    index = folder / (WEIGHTS + ".index.json")
    files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else [WEIGHTS]
    tensors = {}
    for file in files:
        if not (folder / file).exists():
            raise FileNotFoundError(f"{folder / file} is not there; expected safetensors weights")
        with safetensors.safe_open(folder / file, framework="numpy") as opened:
            tensors |= {name: opened.get_tensor(name).astype(np.float32) for name in opened.keys()}
    return tensors


# GPT-2: weights are [in, out]; query, key and value are one matrix.


def _gpt2_tensors(p: dict, config: ModelConfig) -> dict:
    D, layers, attention = config.dim, p["layers"], p["layers"]["attention"]
    qkv = [attention[name] for name in ("query", "key", "value")]
    tensors = {
        "transformer.wte.weight": p["embedding"],
        "transformer.wpe.weight": p["positions"],
        "transformer.ln_f.weight": p["norm"]["scale"],
        "transformer.ln_f.bias": p["norm"]["bias"],
    }
    if not config.tied_head:
        tensors["lm_head.weight"] = p["head"].T
    for i in range(config.num_layers):
        at = f"transformer.h.{i}."
        tensors[at + "attn.c_attn.weight"] = np.concatenate([w["kernel"][i].reshape(D, D) for w in qkv], 1)
        tensors[at + "attn.c_attn.bias"] = np.concatenate([w["bias"][i].reshape(D) for w in qkv])
        tensors[at + "attn.c_proj.weight"] = attention["out"]["kernel"][i].reshape(D, D)
        tensors[at + "attn.c_proj.bias"] = attention["out"]["bias"][i]
        for theirs, ours in (("ln_1", "attention_norm"), ("ln_2", "mlp_norm")):
            tensors[at + theirs + ".weight"] = layers[ours]["scale"][i]
            tensors[at + theirs + ".bias"] = layers[ours]["bias"][i]
        for theirs, ours in (("mlp.c_fc", "up"), ("mlp.c_proj", "down")):
            tensors[at + theirs + ".weight"] = layers["mlp"][ours]["kernel"][i]
            tensors[at + theirs + ".bias"] = layers["mlp"][ours]["bias"][i]
    return tensors


def _gpt2_params(tensors: Mapping, config: ModelConfig) -> dict:
    # The weights that OpenAI published have no prefix.
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    Y, D, H, head_dim = config.num_layers, config.dim, config.num_heads, config.dim // config.num_heads

    def stack(name: str) -> np.ndarray:
        return np.stack([tensors[f"h.{i}.{name}"] for i in range(Y)])

    def norm(name: str) -> dict:
        return {"scale": stack(name + ".weight"), "bias": stack(name + ".bias")}

    def linear(name: str) -> dict:
        return {"kernel": stack(name + ".weight"), "bias": stack(name + ".bias")}

    kernels = np.split(stack("attn.c_attn.weight"), 3, axis=2)
    biases = np.split(stack("attn.c_attn.bias"), 3, axis=1)
    attention = {
        name: {"kernel": kernel.reshape(Y, D, H, head_dim), "bias": bias.reshape(Y, H, head_dim)}
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases)
    }
    out = linear("attn.c_proj")
    attention["out"] = {"kernel": out["kernel"].reshape(Y, H, head_dim, D), "bias": out["bias"]}
    params = {
        "embedding": tensors["wte.weight"],
        "positions": tensors["wpe.weight"],
        "layers": {
            "attention_norm": norm("ln_1"),
            "attention": attention,
            "mlp_norm": norm("ln_2"),
            "mlp": {"up": linear("mlp.c_fc"), "down": linear("mlp.c_proj")},
        },
        "norm": {"scale": tensors["ln_f.weight"], "bias": tensors["ln_f.bias"]},
    }
    return params if config.tied_head else params | {"head": tensors["lm_head.weight"].T}


# Llama: weights are [out, in].

LLAMA_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
LLAMA_HEADS = {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj"}
LLAMA_MLP = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}


def _llama_tensors(p: dict, config: ModelConfig) -> dict:
    D, layers = config.dim, p["layers"]
    tensors = {"model.embed_tokens.weight": p["embedding"], "model.norm.weight": p["norm"]["scale"]}
    if not config.tied_head:
        tensors["lm_head.weight"] = p["head"].T
    for i in range(config.num_layers):
        at = f"model.layers.{i}."
        for ours, theirs in LLAMA_NORMS.items():
            tensors[f"{at}{theirs}.weight"] = layers[ours]["scale"][i]
        for ours, theirs in LLAMA_HEADS.items():
            tensors[f"{at}{theirs}.weight"] = layers["attention"][ours]["kernel"][i].reshape(D, -1).T
        tensors[f"{at}self_attn.o_proj.weight"] = layers["attention"]["out"]["kernel"][i].reshape(-1, D).T
        for ours, theirs in LLAMA_MLP.items():
            tensors[f"{at}{theirs}.weight"] = layers["mlp"][ours]["kernel"][i].T
    return tensors


def _llama_params(tensors: Mapping, config: ModelConfig) -> dict:
    Y, D, head_dim = config.num_layers, config.dim, config.dim // config.num_heads

    def stack(name: str) -> np.ndarray:
        return np.stack([tensors[f"model.layers.{i}.{name}.weight"].T for i in range(Y)])

    attention = {ours: {"kernel": stack(theirs).reshape(Y, D, -1, head_dim)} for ours, theirs in LLAMA_HEADS.items()}
    attention["out"] = {"kernel": stack("self_attn.o_proj").reshape(Y, -1, head_dim, D)}
    params = {
        "embedding": tensors["model.embed_tokens.weight"],
        "layers": {
            **{ours: {"scale": stack(theirs)} for ours, theirs in LLAMA_NORMS.items()},
            "attention": attention,
            "mlp": {ours: {"kernel": stack(theirs)} for ours, theirs in LLAMA_MLP.items()},
        },
        "norm": {"scale": tensors["model.norm.weight"]},
    }
    return params if config.tied_head else params | {"head": tensors["lm_head.weight"].T}
