"""Held-out losses by document: each token's loss is counted for the document that the token is in."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from lfr_jax.config import ModelConfig
from lfr_jax.data.blocks import Blocks, starts
from lfr_jax.data.document_loss_files import DocumentLosses
from lfr_jax.data.domain_names import ALL, unreserved
from lfr_jax.data.halves import halves
from lfr_jax.data.store import Store
from lfr_jax.data.tokenizer import Tokenizer
from lfr_jax.train import loss, score


class DomainLoss(NamedTuple):
    """A mean loss over tokens, and over the bytes of their text."""

    loss: float  # nats per token
    tokens: int  # that were measured
    bits_per_byte: float | None  # of UTF-8; None: the tokens stand for no text that is known


def make_target_step(config: ModelConfig, eos_id: int) -> Callable:
    """Builds `step(params, tokens_BxT1) -> (nll_BxT, targets_BxT)`, jitted: losses in nats, and targets, -1 for none.

    The losses alone would not do: those of a model that has diverged are NaN, as if there were no targets.
    """
    return jax.jit(lambda params, tokens_BxT1: loss.forward_nll(config, params, tokens_BxT1, eos_id))


def measure(
    target_step: Callable,
    params,
    blocks: Blocks,
    tokenizer: Tokenizer,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    ids: np.ndarray | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> DocumentLosses:
    """The losses of all documents of the store of `blocks`, which are concatenated.

    A token belongs to the document that it is in, end-of-text to the document that it ends. Which tokens come before
    it, so that it is predicted from them, does not matter. Sums are of float64.

    Args:
      target_step: of `make_target_step`.
      ids: of the blocks to measure; None: all.
      advance: as for `score.losses`.
    """
    store, size = blocks.store, tokenizer.token_bytes()
    tokens_D, bytes_D = np.zeros((2, len(store.doc_starts)), np.int64)
    nll_D = np.zeros(len(store.doc_starts))
    for batch, on_devices in score.losses(target_step, params, blocks, batch_size, mesh, ids=ids, advance=advance):
        nll_BxT, targets_BxT = jax.device_get([score.whole(x) for x in on_devices])
        row_M, column_M = np.nonzero(targets_BxT >= 0)
        target_M = targets_BxT[row_M, column_M]
        position_M = starts(blocks, batch["ids"][row_M]) + column_M + 1
        document_M = np.searchsorted(store.doc_starts, position_M, side="right") - 1
        np.add.at(tokens_D, document_M, 1)
        np.add.at(nll_D, document_M, nll_BxT[row_M, column_M])
        if size is not None:
            first_M = position_M == store.doc_starts[document_M]
            np.add.at(bytes_D, document_M, np.where(first_M, size.first_V[target_M], size.later_V[target_M]))
    left_out = store.card.tokens - (blocks.num_blocks if ids is None else len(ids)) * blocks.seq_len
    return DocumentLosses(domains(store), halves(store), tokens_D, None if size is None else bytes_D, nll_D, left_out)


def domains(store: Store) -> np.ndarray:
    """The domain of each document: str[D]."""
    first_S = np.array([source.first for source in store.sources])
    source_D = np.searchsorted(first_S, store.doc_starts, side="right") - 1
    return np.array([source.domain for source in store.sources])[source_D]


def by_domain(losses: DocumentLosses, half: str = "") -> dict[str, DomainLoss]:
    """The loss of each domain, by its `unreserved` name, and under `ALL` that of all of them.

    Args:
      half: the documents that count, see `halves`; "": all.

    Raises:
      ValueError: nothing was measured of these documents.
    """
    counts_D = (losses.tokens > 0) & (losses.half == half if half else True)
    if not counts_D.any():
        raise ValueError(
            f"found no held-out document that was measured (half: {half or 'all'}), expected at least one; measure "
            "more blocks, or hold out more text"
        )

    def mean(of_D):
        nll, tokens = losses.nll[of_D].sum(), int(losses.tokens[of_D].sum())
        size = 0 if losses.bytes is None else int(losses.bytes[of_D].sum())
        return DomainLoss(float(nll / tokens), tokens, float(nll / size / math.log(2)) if size else None)

    names = dict.fromkeys(losses.domain[counts_D].tolist())
    return {unreserved(name): mean(counts_D & (losses.domain == name)) for name in names} | {ALL: mean(counts_D)}
