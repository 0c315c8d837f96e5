"""Generation: reads the prompt in one pass, then draws one token at a time, with a cache of keys and values."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from lfr_jax.config import ModelConfig
from lfr_jax.model import decoder

MIN_TEMPERATURE = 1e-6  # with less, logits over the temperature would overflow
PROMPT_STEP = 64  # prompts are padded to a multiple of this, so that few lengths are compiled


class Sampling(NamedTuple):
    """Settings of `sample_token`. Hashable, since they are static in jit."""

    temperature: float
    top_k: int
    top_p: float
    vocab_size: int


def generate_ids(
    config: ModelConfig,
    params,
    prompt_ids,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    eos_id: int = -1,
    vocab_size: int = 0,
    key: jax.Array | None = None,
) -> list[int]:
    """Up to `max_new_tokens` ids that continue `prompt_ids`. Ends before `eos_id`, which is not returned.

    Call it under `jax.set_mesh`, with the mesh of the params.

    Args:
      temperature: divides the logits, 1e-6 to 1e6; 0: always the likeliest token.
      top_k: draw from the k likeliest tokens; 0: from all.
      top_p: draw from the fewest likeliest tokens whose probabilities sum to this (Holtzman et al. 2020).
      eos_id: end-of-text; -1: there is none.
      vocab_size: only ids below it are drawn; the rest of the embedding is padding. 0: draw all ids.
      key: random key of the draws; not needed at temperature 0.

    Raises:
      ValueError: the prompt is empty or too long, an id is outside the vocabulary, or a setting out of its range.
    """
    prompt = np.asarray(prompt_ids)
    length = len(prompt) if prompt.ndim == 1 else 0
    if prompt.size and (prompt.ndim != 1 or prompt.dtype.kind not in "iu"):
        raise ValueError(f"found a prompt of type {prompt.dtype} and shape {prompt.shape}; expected a list of ids")
    if not (
        (temperature == 0 or MIN_TEMPERATURE <= temperature <= 1 / MIN_TEMPERATURE)
        and top_k >= 0
        and 0 < top_p <= 1
        and max_new_tokens >= 1
        and -1 <= eos_id < config.vocab_size
        and 0 <= vocab_size <= config.vocab_size
    ):
        raise ValueError(
            f"found {temperature=}, {top_k=}, {top_p=}, {max_new_tokens=}, {eos_id=}, {vocab_size=}; expected "
            f"temperature 0, or {MIN_TEMPERATURE} to {1 / MIN_TEMPERATURE:g}, top_k >= 0, 0 < top_p <= 1, "
            f"max_new_tokens >= 1, eos_id from -1 to {config.vocab_size - 1}, vocab_size from 0 to {config.vocab_size}"
        )
    if not 0 < length <= config.max_len - max_new_tokens:
        raise ValueError(
            f"found a prompt of {length} tokens and {max_new_tokens} new ones; expected at least one token "
            f"of prompt, and at most model.max_len={config.max_len} in all"
        )
    if prompt.min() < 0 or prompt.max() >= config.vocab_size:
        raise ValueError(f"prompt ids go from {prompt.min()} to {prompt.max()}; expected 0 to {config.vocab_size - 1}")
    if key is None and temperature > 0:
        raise ValueError("drawing at temperature > 0 needs a random key; pass key=jax.random.key(seed)")
    vocab_size = vocab_size or config.vocab_size
    sampling = Sampling(temperature, min(top_k, vocab_size), top_p, vocab_size)
    padded_length = min(-(-length // PROMPT_STEP) * PROMPT_STEP, config.max_len)
    prompt_T = np.pad(prompt.astype(np.int32), (0, padded_length - length), constant_values=-1)
    key = jax.random.key(0) if key is None else key
    ids, count = write_on(params, prompt_T, length, key, eos_id, config, max_new_tokens, sampling)
    return np.asarray(ids)[: int(count)].tolist()


def sample_token(logits_V, key, temperature: float, top_k: int, top_p: float, vocab_size: int):
    """Draws one id, i32[], from replicated float32 logits. Settings as in `generate_ids`."""
    logits_V = jnp.where(jnp.arange(len(logits_V)) < vocab_size, logits_V, -jnp.inf)
    if temperature == 0:
        return jnp.argmax(logits_V).astype(jnp.int32)
    logits_V = logits_V / temperature
    if top_k:
        logits_V = jnp.where(logits_V < jax.lax.top_k(logits_V, top_k)[0][-1], -jnp.inf, logits_V)
    if top_p < 1:
        sorted_V = jnp.sort(logits_V, descending=True)
        probs_V = jax.nn.softmax(sorted_V)
        likelier_V = jnp.cumsum(probs_V) - probs_V  # probability of all tokens before each one
        lowest = jnp.min(jnp.where(likelier_V < top_p, sorted_V, jnp.inf))
        logits_V = jnp.where(logits_V < lowest, -jnp.inf, logits_V)
    return jax.random.categorical(key, logits_V).astype(jnp.int32)


def new_cache(config: ModelConfig, length: int) -> decoder.Cache:
    """An empty cache for sequences of up to `length` tokens. 'tensor' splits its heads, as it does the model's."""
    shape = (config.num_layers, length, config.num_kv_heads, config.dim // config.num_heads)
    empty = jnp.zeros(shape, config.dtype, out_sharding=P(None, None, "tensor", None))
    return decoder.Cache(empty, empty)


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def write_on(params, prompt_T, length, key, eos_id, config, max_new_tokens, sampling):
    """`generate_ids` on the devices -> (ids_N, how many of them count). The last three arguments are static."""
    model = decoder.merge(config, params)

    def next_id(hidden_D, step):
        logits_V = jax.reshard(model.logits(hidden_D[None])[0], P(None))
        return sample_token(logits_V, jax.random.fold_in(key, step), *sampling)

    # The padding of the prompt fills rows of the cache. New tokens overwrite them before any query attends to them.
    cache = new_cache(config, len(prompt_T) + max_new_tokens)
    hidden_TxD, cache = model.run(prompt_T, cache=cache)
    first = next_id(jax.lax.dynamic_index_in_dim(hidden_TxD, length - 1, keepdims=False), 0)

    def unfinished(carry):
        count, token, _, _ = carry
        return (count < max_new_tokens) & (token != eos_id)

    def write_one(carry):
        count, token, ids_N, cache = carry
        ids_N = ids_N.at[count].set(token)
        hidden_TxD, cache = model.run(token[None], cache=cache, offset=length + count)
        return count + 1, next_id(hidden_TxD[0], count + 1), ids_N, cache

    ids_N = jnp.full(max_new_tokens, -1, jnp.int32)
    count, _, ids_N, _ = jax.lax.while_loop(unfinished, write_one, (0, first, ids_N, cache))
    return ids_N, count
