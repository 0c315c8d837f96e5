"""config.json of Hugging Face's GPT-2 and Llama to our ModelConfig, and back.

A setting of theirs is read, or has the one value that our decoder computes, or is known to change nothing about what
the model computes. Any other is refused by its name and value.
"""

import dataclasses
import os
import pathlib
from typing import Any

from lfr_jax.config import ModelConfig, gpt2, llama
from lfr_jax.config.json_files import from_json, typed
from lfr_jax.config.values import AtLeast1, Positive, shown
from lfr_jax.storage.remote_files import read_bytes
from lfr_jax.terminal import printable


@dataclasses.dataclass
class Gpt2Settings:
    """What is read of a GPT-2. Defaults here and below are those of transformers."""

    vocab_size: AtLeast1
    n_positions: AtLeast1
    n_embd: AtLeast1
    n_layer: AtLeast1
    n_head: AtLeast1
    n_inner: AtLeast1 | None = None
    layer_norm_epsilon: Positive = 1e-5
    tie_word_embeddings: bool = True


@dataclasses.dataclass
class LlamaSettings:
    """What is read of a Llama."""

    vocab_size: AtLeast1
    max_position_embeddings: AtLeast1
    hidden_size: AtLeast1
    num_hidden_layers: AtLeast1
    num_attention_heads: AtLeast1
    intermediate_size: AtLeast1
    num_key_value_heads: AtLeast1 | None = None
    head_dim: AtLeast1 | None = None
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive | None = None
    rope_parameters: dict[str, Any] | None = None  # of transformers 5, which keeps rope_theta in it
    rope_scaling: dict[str, Any] | None = None  # of transformers 4
    tie_word_embeddings: bool = False


READ = {"gpt2": Gpt2Settings, "llama": LlamaSettings}

# The values that our decoder computes.
ALLOWED: dict[str, dict[str, tuple]] = {
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "llama": {
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "partial_rotary_factor": (1.0, None),
        "sliding_window": (None,),
    },
}
PLAIN_ROPE = {"rope_type": ("default", None), "type": ("default", None), "partial_rotary_factor": (1.0, None)}

# They change nothing about the logits of a sequence: training, generation, the tokenizer, the form of the output,
# rounding, other tasks than language modelling, notes.
HARMLESS = frozenset(
    """
    model_type architectures _name_or_path name_or_path _commit_hash transformers_version
    dtype torch_dtype use_cache return_dict output_attentions output_hidden_states torchscript use_bfloat16
    _attn_implementation attn_implementation _attn_implementation_autoset chunk_size_feed_forward gradient_checkpointing
    attn_pdrop embd_pdrop resid_pdrop attention_dropout hidden_dropout initializer_range pretraining_tp
    reorder_and_upcast_attn tokenizer_class prefix max_length min_length do_sample early_stopping num_beams
    num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores
    return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens
    begin_suppress_tokens exponential_decay_length_penalty task_specific_params bos_token_id eos_token_id pad_token_id
    sep_token_id decoder_start_token_id problem_type finetuning_task id2label label2id num_labels summary_type
    summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout is_decoder n_ctx
    _num_labels predict_special_tokens output_past xla_device is_llama_config transformers.js_config unsloth_fixed
    unsloth_version max_sequence_length
    """.split()
)


def family_of(config: ModelConfig) -> str:
    """'gpt2' or 'llama'. Raises ValueError if the model is neither."""
    parts = config.positions, config.norm, config.mlp, config.bias
    if parts == ("learned", "layernorm", "gelu", True) and config.num_heads == config.num_kv_heads:
        return "gpt2"
    if parts == ("rope", "rmsnorm", "swiglu", False):
        return "llama"
    raise ValueError(
        f"(positions, norm, mlp, bias) = {parts} with {config.num_kv_heads} key heads for {config.num_heads} "
        "is neither GPT-2 (learned, layernorm, gelu, True, as many) nor Llama (rope, rmsnorm, swiglu, False)"
    )


def to_settings(family: str, config: ModelConfig) -> dict[str, Any]:
    """The content of config.json: also what transformers has another default for."""
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
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
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
        head_dim=config.dim // config.num_heads,
        intermediate_size=config.mlp_dim,
        hidden_act="silu",
        rms_norm_eps=config.norm_eps,
        rope_theta=config.rope_theta,
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=config.tied_head,
        torch_dtype="float32",
    )


def read_config(path: str | os.PathLike) -> tuple[str, ModelConfig]:
    """The family, 'gpt2' or 'llama', and the config in a config.json.

    Raises:
      OSError: there is no such file, or it is no regular file.
      ValueError: another architecture, or a setting that our decoder does not have, or does not know.
    """
    path = pathlib.Path(path)
    settings = from_json(read_bytes(path), dict[str, Any], path)
    family = settings.get("model_type")
    if family not in ("gpt2", "llama"):
        raise ValueError(f"{path}: found model_type={shown(family)}, expected 'gpt2' or 'llama'")
    found = typed(settings, READ[family], path)
    try:
        refuse_unknown(settings, ALLOWED[family], {*vars(found), *HARMLESS})
        return family, gpt2_config(found) if family == "gpt2" else llama_config(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def gpt2_config(found: Gpt2Settings) -> ModelConfig:
    return gpt2(
        found.n_layer,
        found.n_embd,
        found.n_head,
        mlp_dim=found.n_inner or 4 * found.n_embd,
        vocab_size=found.vocab_size,
        max_len=found.n_positions,
        norm_eps=found.layer_norm_epsilon,
        tied_head=found.tie_word_embeddings,
    )


def llama_config(found: LlamaSettings) -> ModelConfig:
    head_dim = found.hidden_size // found.num_attention_heads
    if found.head_dim not in (None, head_dim):
        raise ValueError(f"found head_dim={found.head_dim}, expected {head_dim}: hidden_size over num_attention_heads")
    return llama(
        found.num_hidden_layers,
        found.hidden_size,
        found.num_attention_heads,
        found.num_key_value_heads or found.num_attention_heads,
        found.intermediate_size,
        vocab_size=found.vocab_size,
        max_len=found.max_position_embeddings,
        norm_eps=found.rms_norm_eps,
        rope_theta=rope_theta(found),
        tied_head=found.tie_word_embeddings,
    )


def rope_theta(found: LlamaSettings) -> float:
    """The base of the rotary frequencies. Raises ValueError if two places differ, or if positions are scaled."""
    given = {} if found.rope_theta is None else {"rope_theta": found.rope_theta}
    for place, rope in (("rope_parameters", found.rope_parameters), ("rope_scaling", found.rope_scaling)):
        rope = dict(rope or {})
        theta = typed({"rope_theta": rope.pop("rope_theta", None)}, dict[str, Positive | None], place)["rope_theta"]
        if theta is not None:
            given[f"{place}.rope_theta"] = theta
        plain = {f"{place}.{name}": values for name, values in PLAIN_ROPE.items()}
        refuse_unknown({f"{place}.{name}": value for name, value in rope.items()}, plain, set())
    if len(set(given.values())) > 1:
        raise ValueError(f"found {' and '.join(f'{k}={v}' for k, v in given.items())}, expected them to agree")
    return next(iter(given.values()), 10_000.0)


def refuse_unknown(settings: dict[str, Any], allowed: dict[str, tuple], harmless: set[str]) -> None:
    """Refuses the first setting that may change what the model computes, and that our decoder does not have."""
    for name, value in settings.items():
        values = allowed.get(name)
        if values is not None and value not in values:
            expected = " or ".join(map(repr, values))
            raise ValueError(
                f"found {printable(name)}={shown(value)}, expected {expected}: our decoder has nothing else"
            )
        if values is None and value and name not in harmless:
            raise ValueError(
                f"found {printable(name)}={shown(value)}, a setting that is not known here and may change what the "
                "model computes; expected none; remove it if it changes nothing"
            )
