"""Held-out loss, by domain and over all domains."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.domain_names import ALL, unreserved
from lfr_jax.train import score
from lfr_jax.train.loss import mean_nll


class Loss(NamedTuple):
    """A token-weighted mean loss (never a mean of perplexities, nor of blocks' means)."""

    loss: float  # nats per token
    tokens: int  # target tokens that it was measured on


def chosen_blocks(blocks: Blocks, per_domain: int) -> np.ndarray:
    """Ids of at most `per_domain` blocks of each domain, evenly spaced: the same ones at every call."""
    picked = []
    for domain in range(len(blocks.domains)):
        ids = np.flatnonzero(blocks.domain_N == domain)
        picked.append(ids[np.linspace(0, len(ids) - 1, min(per_domain, len(ids))).round().astype(int)])
    return np.concatenate(picked)


def num_losses(blocks: Blocks) -> int:
    """How many losses `held_out_loss` gives: one for each domain that has a block, and one over all."""
    return len(np.unique(blocks.domain_N)) + 1


def held_out_loss(
    score_step: Callable,
    params,
    blocks: Blocks,
    per_domain: int,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Loss]:
    """The loss of each domain, by its `unreserved` name, and under `ALL` the loss over all tokens of all domains."""
    ids = chosen_blocks(blocks, per_domain)
    measured = score.losses(score_step, params, blocks, batch_size, mesh, ids=ids, advance=advance)
    nll_N, count_N = np.zeros(blocks.num_blocks), np.zeros(blocks.num_blocks)
    for ids_B, nll_B, count_B in score.on_host(measured):
        nll_N[ids_B], count_N[ids_B] = nll_B, count_B

    def mean(of_N):
        tokens = count_N[of_N].sum()
        return Loss(float(mean_nll(nll_N[of_N].sum(), tokens)), int(tokens))

    by_domain = {unreserved(name): ids[blocks.domain_N[ids] == domain] for domain, name in enumerate(blocks.domains)}
    return {name: mean(of_N) for name, of_N in by_domain.items() if len(of_N)} | {ALL: mean(ids)}
