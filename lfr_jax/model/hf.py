"""Reads and writes Hugging Face folders (config.json, model.safetensors, tokenizer.json) of GPT-2 and Llama models.

They are the folders of transformers' GPT2LMHeadModel and LlamaForCausalLM. transformers itself is not needed.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from lfr_jax.config import ModelConfig
from lfr_jax.data.tokenizer import Tokenizer, load_tokenizer
from lfr_jax.model.hf_config import family_of, read_config, to_settings
from lfr_jax.model.hf_tokenizer import tokenizer_files
from lfr_jax.model.hf_weights import WEIGHTS, read_params, to_tensors
from lfr_jax.storage.files import atomic_folder, explain_full_disk
from lfr_jax.storage.paths import refuse_existing

OURS = "lfr_tokenizer"  # the tokenizer as `load_tokenizer` reads it, where transformers does not look


def export(
    params: dict,
    config: ModelConfig,
    tokenizer_dir: str | os.PathLike | None,
    out_dir: str | os.PathLike,
    vocab_size: int | None = None,
) -> None:
    """Writes a folder for `AutoModelForCausalLM.from_pretrained`, and for `AutoTokenizer` where it can be exact.

    Weights are float32. With a tokenizer, the rows of the embedding that no token has are left out, and config.json and
    generation_config.json name end-of-text, which is also the token that stands before a document. `out_dir` appears
    complete or not at all.

    Args:
      tokenizer_dir: folder of the tokenizer, for example RUN/tokenizer; None: all rows, and no special tokens.
      vocab_size: rows to write, if more tokens than the tokenizer's were trained: three more with fill-in-the-middle.
        transformers generates none of these.

    Raises:
      ValueError: the model is neither a GPT-2 nor a Llama, has fewer rows than the tokenizer has tokens, or has weights
        that are NaN or infinite.
      FileExistsError: `out_dir` exists.
    """
    refuse_existing(out_dir)
    family = family_of(config)
    tokenizer = None if tokenizer_dir is None else load_tokenizer(tokenizer_dir)
    tokens = config.vocab_size if tokenizer is None else tokenizer.vocab_size
    rows = tokens if vocab_size is None else vocab_size
    if not tokens <= rows <= config.vocab_size:
        raise ValueError(
            f"found {config.vocab_size} rows in the model's embedding, {tokens} tokens and vocab_size={vocab_size}; "
            f"expected vocab_size from {tokens} to {config.vocab_size}, and no more tokens than rows"
        )
    host = first_rows(jax.tree.map(lambda leaf: np.asarray(jax.device_get(leaf), np.float32), params), rows)
    config = dataclasses.replace(config, vocab_size=rows)
    special = special_tokens(config, tokenizer)
    with explain_full_disk(out_dir), atomic_folder(out_dir) as folder:
        tensors = to_tensors(family, config, host)
        try:
            safetensors.numpy.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise OSError(
                f"{out_dir}: the weights could not be written ({error}); make room, or choose another folder"
            ) from None
        write_json(folder / "config.json", to_settings(family, config) | special)
        unspoken = {"suppress_tokens": [*range(tokens, rows)]} if rows > tokens else {}
        write_json(folder / "generation_config.json", special | unspoken)
        if tokenizer is not None:
            tokenizer.save(folder / OURS)
            for name, content in tokenizer_files(tokenizer, config).items():
                write_json(folder / name, content)


def load(model_dir: str | os.PathLike) -> tuple[ModelConfig, dict]:
    """(config, params as float32 host arrays) of a GPT-2 or Llama folder; `decoder.put_on_mesh` puts them on a mesh.

    Every tensor and every setting in the folder is used, or is known to change nothing; else the folder is refused.

    Raises:
      FileNotFoundError: config.json or a safetensors file is missing.
      ValueError: another architecture, a variant of these two that our decoder does not have, or a broken file.
    """
    folder = pathlib.Path(model_dir)
    family, config = read_config(folder / "config.json")
    return config, read_params(family, config, folder)


def first_rows(params: dict, rows: int) -> dict:
    """The params of a model with a smaller vocabulary."""
    cut = {"embedding": params["embedding"][:rows]}
    return params | cut | ({"head": params["head"][:, :rows]} if "head" in params else {})


def special_tokens(config: ModelConfig, tokenizer: Tokenizer | None) -> dict[str, int | None]:
    """Ids for transformers, whose defaults are those of other models.

    In training, documents follow an end-of-text token, so it also begins one; under `mask_documents` nothing does.
    """
    end = None if tokenizer is None else tokenizer.eos_id
    return {"bos_token_id": None if config.mask_documents else end, "eos_token_id": end, "pad_token_id": None}


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
