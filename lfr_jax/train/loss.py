"""The loss of a batch of blocks: what counts as a target, each block's losses, and the mean that is trained on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lfr_jax.config import ModelConfig
from lfr_jax.model import decoder
from lfr_jax.model.cross_entropy import linear_cross_entropy, token_nll
from lfr_jax.train import gradient_scores


def block_nll(config: ModelConfig, params, tokens_BxT1, eos_id: int):
    """Summed negative log-likelihood f32[B] of each block, and the number of its targets f32[B]. Forward only."""
    nll_BxT, targets_BxT = forward_nll(config, params, tokens_BxT1, eos_id)
    return jnp.sum(nll_BxT, axis=-1), num_targets(targets_BxT)


def block_and_token_nll(config: ModelConfig, params, tokens_BxT1, eos_id: int):
    """What `block_nll` returns, and the losses of the tokens, f32[B, T] in nats, NaN without a target."""
    nll_BxT, targets_BxT = forward_nll(config, params, tokens_BxT1, eos_id)
    return jnp.sum(nll_BxT, axis=-1), num_targets(targets_BxT), of_targets(nll_BxT, targets_BxT)


def forward_nll(config: ModelConfig, params, tokens_BxT1, eos_id: int):
    """The losses of the tokens, 0 without a target, and the targets: f32[B, T], i32[B, T]."""
    network = decoder.merge(config, params)
    hidden_BxTxD = hidden(network, tokens_BxT1, eos_id)
    targets_BxT = targets(config, tokens_BxT1, eos_id)
    return token_nll(hidden_BxTxD, network.output_head(), targets_BxT, config.loss_chunk), targets_BxT


def mean_loss(
    config: ModelConfig,
    params,
    tokens_BxT1,
    eos_id: int,
    total_targets,
    weigh: Callable[[jax.Array], jax.Array] | None = None,
    weigh_tokens: Callable[[jax.Array], jax.Array] | None = None,
    along: gradient_scores.Along | None = None,
):
    """What training minimizes: the tokens' losses, each times its weight and its block's, divided by `total_targets`.

    Args:
      total_targets: those of the whole batch, of which `tokens_BxT1` may be a micro-batch.
      weigh: losses f32[B] (nats per token; NaN without a target) -> weights f32[B]; None: all are 1. No gradient
        goes through it.
      weigh_tokens: the same for the losses of tokens, f32[B, T].
      along: a direction. The gradient with respect to its `shift_B` is that of each block's term along it.

    Returns:
      f32[], and what `block_and_token_nll` returns, from the same forward pass: not weighted, without a gradient.
    """
    network = decoder.merge(config, params)
    targets_BxT = targets(config, tokens_BxT1, eos_id)
    count_B = num_targets(targets_BxT)
    hidden_BxTxD, head_DxV = hidden(network, tokens_BxT1, eos_id, along), network.output_head()
    if weigh is not None or weigh_tokens is not None:
        # A pass through the head of its own. If the weights do not depend on it, the compiler leaves it out.
        known = jax.lax.stop_gradient((hidden_BxTxD, head_DxV))
        known_BxT = token_nll(*known, targets_BxT, config.loss_chunk)
    weights_B = jnp.ones_like(count_B)
    if weigh is not None:
        # NaN without a target, so that no policy compares it with others. The weight may then be NaN too.
        weights_B = jnp.where(count_B > 0, weigh(jnp.sum(known_BxT, axis=-1) / count_B), 0.0)
    weights_BxT = jnp.broadcast_to((weights_B / total_targets)[:, None], targets_BxT.shape)
    if weigh_tokens is not None:
        weights_BxT *= weigh_tokens(of_targets(known_BxT, targets_BxT))
    of_head = along and (along.direction.output_head(), along.shift_B)
    loss, nll_BxT = linear_cross_entropy(hidden_BxTxD, head_DxV, targets_BxT, weights_BxT, config.loss_chunk, of_head)
    return loss, (jnp.sum(nll_BxT, axis=-1), count_B, of_targets(nll_BxT, targets_BxT))


def of_targets(nll_BxT, targets_BxT):
    """f32[B, T]: the tokens' losses; NaN where there is no target, so that no policy takes it for an easy token."""
    return jnp.where(targets_BxT >= 0, nll_BxT, jnp.nan)


def mean_nll(nll, count):
    """Nats per token, f32[...]; 0 where there is no target, as there is nothing to learn.

    With document masks, a block of nothing but end-of-text has no target. Its loss must not be NaN: that means "never
    measured", and `lfr` takes blocks that were never measured first.
    """
    return nll / (count + (count == 0))


def hidden(network: decoder.Decoder, tokens_BxT1, eos_id: int, along: gradient_scores.Along | None = None):
    """The final hidden states [B, T, D] at all inputs, with documents apart if the config says so."""
    config = network.config

    def of_block(inputs_T, shift):
        moved = network if along is None else gradient_scores.Shifted(network, along.direction, shift)
        segments_T = document_of(inputs_T, eos_id) if config.mask_documents else None
        positions_T = positions_within(segments_T) if config.reset_positions else None
        return moved.hidden(inputs_T, segments_T, positions_T)

    return jax.vmap(of_block)(tokens_BxT1[:, :-1], along and along.shift_B)


def targets(config: ModelConfig, tokens_BxT1, eos_id: int):
    """i32[B, T]: the token to predict at each position; −1 for padding, and for the first token of a masked-off
    document."""
    inputs_BxT, targets_BxT = tokens_BxT1[:, :-1], tokens_BxT1[:, 1:]
    counts_BxT = (inputs_BxT >= 0) & (targets_BxT >= 0)
    if config.mask_documents:
        counts_BxT &= inputs_BxT != eos_id
    return jnp.where(counts_BxT, targets_BxT, -1)


def num_targets(targets_BxT):
    """f32[B]: how many there are in each block."""
    return jnp.sum(targets_BxT >= 0, axis=-1, dtype=jnp.float32)


def document_of(inputs_T, eos_id: int):
    """i32[T]: the number of each token's document within the block; end-of-text belongs to the one it ends."""
    ends_T = inputs_T == eos_id
    return jnp.cumsum(ends_T) - ends_T


def positions_within(segments_T):
    """i32[T]: how many tokens of its own document stand before each token in the block."""
    first_T = jnp.diff(segments_T, prepend=-1) > 0
    at_T = jnp.arange(len(segments_T), dtype=jnp.int32)
    return at_T - jax.lax.cummax(jnp.where(first_T, at_T, 0))
